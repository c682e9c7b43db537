//! A result as a whole: its files and its notes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use arrow_array::RecordBatch;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{ImageRecords, Photos};
use crate::decode::DecodeParams;
use crate::error::{Error, Result};
use crate::orb::OrbParams;
use crate::pca::PcaModel;
use crate::rows::FailedImage;
#[cfg(feature = "s3")]
use crate::s3::{S3, S3Location};
use crate::sink::{ERRORS, IMAGES, NOTE_PREFIX, SUCCESS};
#[cfg(feature = "s3")]
use crate::sink::{MANIFEST, files_of_manifest};
#[cfg(feature = "s3")]
use crate::source::{ImageRef, ImageSource as _, S3Source};
use crate::table::TableSource;

/// A result in a folder or in S3, opened for reading.
///
/// In S3, `_manifest.json` says which files belong to it; without one, and in folders, all Parquet or CSV files do that are
/// not hidden. Columns that this crate does not know are ignored.
#[derive(Clone, Debug)]
pub struct ResultReader {
    uri: String,
    rows: TableSource,
    images: Option<TableSource>,
    errors: Option<TableSource>,
    is_complete: bool,
    notes: BTreeMap<String, String>,
}

/// The parameters that a note on an extractor or a decoder holds.
pub(crate) fn params_of_note<T: DeserializeOwned>(note: &str) -> serde_json::Result<T> {
    #[derive(Deserialize)]
    struct Note<T> {
        params: T,
    }
    serde_json::from_str(note).map(|note: Note<T>| note.params)
}

/// The rows of a result, as they are in its files.
pub struct ResultBatches(Box<dyn Iterator<Item = Result<RecordBatch>> + Send>);

impl std::fmt::Debug for ResultBatches {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ResultBatches").finish_non_exhaustive()
    }
}

impl Iterator for ResultBatches {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next()
    }
}

impl ResultReader {
    /// Opens the result in a folder, or one file of it.
    ///
    /// # Errors
    /// [`Error::List`] if there is no such folder, [`Error::Table`] if it has no file of rows, or one that cannot be read.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let side = |name: &str| {
            let side = path.join(name);
            side.is_dir().then(|| TableSource::in_folder(side))
        };
        Self {
            uri: path.display().to_string(),
            rows: TableSource::in_folder(PathBuf::from(path)),
            images: side(IMAGES),
            errors: side(ERRORS),
            is_complete: path.is_file() || path.join(SUCCESS).is_file(),
            notes: BTreeMap::new(),
        }
        .noted()
    }

    /// Opens the result in S3, such as `s3://bucket/features`.
    ///
    /// # Errors
    /// As of [`open`](Self::open), and those of the listing.
    #[cfg(feature = "s3")]
    pub fn open_in_s3<L>(s3: &S3, location: L) -> Result<Self>
    where
        L: TryInto<S3Location>,
        Error: From<L::Error>,
    {
        Self::open_at(s3, &location.try_into()?)
    }

    #[cfg(feature = "s3")]
    fn open_at(s3: &S3, root: &S3Location) -> Result<Self> {
        let below = |name: &str| S3Location::new(root.bucket(), root.folder() + name);
        let source = |at: S3Location| S3Source::new(s3, at);
        let table = |source| TableSource::in_s3(source);
        let read = |name: &str| -> Result<Option<bytes::Bytes>> {
            match source(below(name)?)?.open()?.next() {
                Some(Ok(object)) => Ok(Some(object.bytes)),
                Some(Err(Error::NoInput { .. })) | None => Ok(None),
                Some(Err(error)) => Err(error),
            }
        };
        let uri = root.to_string();
        let reader = if let Some(bytes) = read(MANIFEST)? {
            let files = files_of_manifest(&bytes).map_err(|why| {
                Error::table(below(MANIFEST).map_or_else(|_| uri.clone(), |at| at.to_string()), why)
            })?;
            let part = |folder: &str| -> Result<Option<TableSource>> {
                let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
                let is_of_part = |name: &&(String, u64)| {
                    name.0.strip_prefix(&prefix).is_some_and(|rest| !rest.contains('/'))
                        && !(folder.is_empty() && name.0.starts_with(['_', '.']))
                };
                let listed: Vec<_> = files.iter().filter(is_of_part).collect();
                if listed.is_empty() && !folder.is_empty() {
                    return Ok(None);
                }
                let refs = listed.into_iter().map(|(name, size)| {
                    let uri = below(name)?.to_string();
                    Ok(ImageRef { uri, size: Some(*size), etag: None })
                });
                let at = if folder.is_empty() { root.clone() } else { below(&prefix)? };
                Ok(Some(table(source(at)?.with_listed(refs.collect::<Result<_>>()?))))
            };
            let rows =
                part("")?.ok_or_else(|| Error::table(&*uri, "its manifest names no file"))?;
            let (images, errors) = (part(IMAGES)?, part(ERRORS)?);
            Self { uri, rows, images, errors, is_complete: true, notes: BTreeMap::new() }
        } else {
            let side = |name: &str| -> Result<Option<TableSource>> {
                let side = source(below(&format!("{name}/"))?)?;
                let side = side
                    .clone()
                    .list()?
                    .next()
                    .is_some_and(|first| first.is_ok())
                    .then(|| table(side));
                Ok(side)
            };
            let (images, errors) = (side(IMAGES)?, side(ERRORS)?);
            let is_complete = read(SUCCESS).is_ok_and(|mark| mark.is_some());
            let rows = table(source(root.clone())?);
            Self { uri, rows, images, errors, is_complete, notes: BTreeMap::new() }
        };
        reader.noted()
    }

    /// Reads the notes from the footer of the first file; for CSV, from the list of images or of failures.
    fn noted(mut self) -> Result<Self> {
        let uri = self.uri.clone();
        let no_result = |error| match error {
            Error::NoInput { reason, .. } => {
                Error::table(&*uri, format!("it is no result of a job: {reason}"))
            }
            error => error,
        };
        for table in
            [Some(&self.rows), self.images.as_ref(), self.errors.as_ref()].into_iter().flatten()
        {
            let Some(file) = table.files().map_err(no_result)?.next() else { continue };
            let _ = file.map_err(no_result)?.rows(|schema| {
                let notes = schema.metadata().iter();
                let ours =
                    notes.filter_map(|(key, value)| Some((key.strip_prefix(NOTE_PREFIX)?, value)));
                self.notes = ours.map(|(key, value)| (key.to_owned(), value.clone())).collect();
                Ok(Vec::new())
            })?;
            if !self.notes.is_empty() {
                break;
            }
        }
        Ok(self)
    }

    /// The folder or URI.
    #[must_use]
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// Whether the writer has finished it: there is a `_SUCCESS`, or a manifest that names its files.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// The notes that the writer has left: version, parameters of extractor and decoder, model; by their names without the
    /// prefix `orb_features.`.
    #[must_use]
    pub fn notes(&self) -> &BTreeMap<String, String> {
        &self.notes
    }

    /// The parameters of ORB, if the result notes them.
    ///
    /// # Errors
    /// [`Error::Table`] for a note that cannot be read.
    pub fn orb(&self) -> Result<Option<OrbParams>> {
        self.note("orb", params_of_note)
    }

    /// The parameters of the decoder, if the result notes them.
    ///
    /// # Errors
    /// [`Error::Table`] for a note that cannot be read.
    pub fn decode(&self) -> Result<Option<DecodeParams>> {
        self.note("decode", params_of_note)
    }

    /// The PCA, if the result has one.
    ///
    /// # Errors
    /// [`Error::Table`] for a note that cannot be read.
    pub fn model(&self) -> Result<Option<PcaModel>> {
        self.note("pca", |note| serde_json::from_str(note))
    }

    fn note<T>(
        &self,
        name: &str,
        read: impl FnOnce(&str) -> serde_json::Result<T>,
    ) -> Result<Option<T>> {
        let Some(note) = self.notes.get(name) else { return Ok(None) };
        let failed = |e| Error::table(&*self.uri, format!("its note {NOTE_PREFIX}{name}: {e}"));
        read(note).map(Some).map_err(failed)
    }

    /// The rows as they are in the files, all columns, a batch at a time.
    ///
    /// # Errors
    /// [`Error::List`]; as an item, [`Error::Table`] for a file that cannot be read.
    pub fn batches(&self) -> Result<ResultBatches> {
        batches(&self.rows)
    }

    /// The photos with their keypoints, vectors and scores, in order. One row for each descriptor or for each image, in
    /// Parquet or CSV, in Arrow's or Spark's types. Photos without a row are only in [`images`](Self::images).
    ///
    /// # Errors
    /// [`Error::List`]; as an item, [`Error::Table`] for a file that cannot be read or has no vectors.
    pub fn photos(&self) -> Result<Photos> {
        Photos::new(&self.rows)
    }

    /// All images of the run, also those that failed; nothing if the result does not list them.
    ///
    /// # Errors
    /// [`Error::List`]; as an item, [`Error::Table`] for a file that cannot be read.
    pub fn images(&self) -> Result<ImageRecords> {
        Ok(ImageRecords::new(self.images.as_ref().map(batches).transpose()?, &self.uri))
    }

    /// The images that failed, if the run has recorded them.
    ///
    /// # Errors
    /// [`Error::List`]; as an item, [`Error::Table`] for a file that cannot be read.
    pub fn failed(&self) -> Result<impl Iterator<Item = Result<FailedImage>> + Send + use<>> {
        let batches = self.errors.as_ref().map(batches).transpose()?;
        let uri = self.uri.clone();
        Ok(batches.into_iter().flatten().flat_map(move |batch| {
            let failed = batch.and_then(|batch| {
                super::images::failures(&batch).map_err(|why| Error::table(&*uri, why))
            });
            match failed {
                Ok(failed) => failed.into_iter().map(Ok).collect::<Vec<_>>(),
                Err(error) => vec![Err(error)],
            }
        }))
    }
}

/// The batches of a table, with all columns.
fn batches(table: &TableSource) -> Result<ResultBatches> {
    let batches = table.batches(|_, schema| Ok((0..schema.fields().len()).collect()))?;
    Ok(ResultBatches(Box::new(batches.map(|batch| Ok(batch?.rows)))))
}
