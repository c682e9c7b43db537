//! Where a sink's files go, and how they become visible.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_schema::{Schema, SchemaRef};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::metadata::KeyValue;

use super::columns::{self, column_types};
use super::folder::fsync;
use super::format::{FileFormat, is_csv, is_parquet};
use super::layout::IMAGES;
use super::notes::PREFIX;
#[cfg(feature = "s3")]
use super::s3::{Content, S3Target, Upload};
use super::staging::Staging;
use crate::error::{BoxError, Error, Result};

/// A place in which files are gathered until all of them become visible together.
///
/// Dropping it without a commit leaves nothing.
#[derive(Debug)]
pub(super) enum Target {
    Folder(Staging),
    #[cfg(feature = "s3")]
    S3(Box<S3Target>),
}

/// A file in a target.
pub(super) enum TargetFile {
    Local(BufWriter<File>),
    #[cfg(feature = "s3")]
    S3(Box<Upload>),
}

impl Target {
    /// Path or URI for messages: of a file (in a folder, where it is written; in S3, its final key), or of the target
    /// for an empty name.
    pub fn uri(&self, name: &str) -> String {
        match self {
            Self::Folder(staging) if name.is_empty() => staging.given().display().to_string(),
            Self::Folder(staging) => staging.folder().join(name).display().to_string(),
            #[cfg(feature = "s3")]
            Self::S3(target) => target.uri(name),
        }
    }

    /// Begins a file; `name` may include one folder.
    pub fn file(&self, name: &str) -> Result<TargetFile> {
        match self {
            Self::Folder(staging) => {
                let file = staging.file(name)?;
                Ok(TargetFile::Local(BufWriter::with_capacity(1 << 17, file)))
            }
            #[cfg(feature = "s3")]
            Self::S3(target) => Ok(TargetFile::S3(Box::new(target.file(name)?))),
        }
    }

    /// The first file of the existing result.
    fn first_file(&self) -> Result<Option<First>> {
        match self {
            Self::Folder(staging) => first_in_folder(staging.target()),
            #[cfg(feature = "s3")]
            Self::S3(target) => first_in_s3(target),
        }
    }

    /// Refuses to append to a result that was made with other parameters, judging by the notes of both.
    pub fn check_notes(&self, notes: &[KeyValue]) -> Result<()> {
        // The manifest decides here, as at the commit: the first file by name may be one that was appended by force.
        #[cfg(feature = "s3")]
        if let Self::S3(target) = self
            && !target.notes().is_empty()
        {
            let there = target.notes().iter().map(|(key, value)| (key.as_str(), value.as_str()));
            return same_notes(&self.uri(""), "the result", there, notes);
        }
        notes_of_first(&self.uri(""), self.first_file()?, notes)
    }

    /// Refuses to append to a result that has other columns, or another format.
    pub fn check_columns(&self, schema: &SchemaRef, format: FileFormat) -> Result<()> {
        same_columns(&self.uri(""), self.first_file()?.as_ref(), schema, format)
    }

    /// Makes all files visible, and returns the total number of repeated requests. `schema`, `format` and `notes` are
    /// those of the files; with `force`, they may be added to a result with other notes.
    pub fn commit(
        self,
        schema: &Schema,
        format: FileFormat,
        notes: &[KeyValue],
        force: bool,
    ) -> Result<u64> {
        match self {
            Self::Folder(staging) => {
                let given = staging.given().display().to_string();
                // Another run may have added files since the first check.
                let fits = |folder: &Path| {
                    let found = first_in_folder(folder)?;
                    same_columns(&given, found.as_ref(), schema, format)?;
                    if force { Ok(()) } else { notes_of_first(&given, found, notes) }
                };
                staging.commit(fits).map(|()| 0)
            }
            #[cfg(feature = "s3")]
            Self::S3(target) => {
                let pair = |note: &KeyValue| Some((note.key.clone(), note.value.clone()?));
                let notes = notes.iter().filter_map(pair).collect();
                target.commit(Content { columns: column_types(schema, format), notes, force })
            }
        }
    }
}

/// The first file of an existing result: in a folder the oldest, in S3 by name.
struct First {
    uri: String,
    /// Its schema, whose metadata are the footer's notes. A file of CSV has none: this is the schema of the list of
    /// images beside it, if there is one.
    schema: Option<SchemaRef>,
    has_footer: bool,
}

impl First {
    /// The value of a note.
    fn note(&self, key: &str) -> Option<&String> {
        self.schema.as_ref()?.metadata().get(&format!("{PREFIX}{key}"))
    }
}

fn same_columns(
    uri: &str,
    found: Option<&First>,
    schema: &Schema,
    format: FileFormat,
) -> Result<()> {
    let Some(found) = found else { return Ok(()) };
    let other = &found.uri;
    let is_same = match &found.schema {
        _ if found.has_footer != format.has_footer() => {
            return Err(Error::write_to(
                uri,
                format!("{other} is in another format than {format}"),
            ));
        }
        Some(columns) if found.has_footer => columns.fields() == schema.fields(),
        _ => {
            let Some(columns) = found.note(columns::NOTE) else {
                let why = format!("nothing tells the types of the columns of {other}");
                return Err(Error::write_to(uri, why));
            };
            serde_json::from_str::<Vec<String>>(columns).ok() == Some(column_types(schema, format))
        }
    };
    if is_same {
        return Ok(());
    }
    Err(Error::write_to(uri, format!("its columns differ from those of {other}")))
}

/// The path of the oldest file with such a name in a folder. The age decides, because files added by force may have
/// other notes, and names do not tell the order of the runs.
fn first_path(folder: &Path, is_taken: fn(&str) -> bool) -> Option<PathBuf> {
    let is_file = |e: &std::fs::DirEntry| e.file_type().is_ok_and(|t| t.is_file());
    let entries = std::fs::read_dir(folder).ok()?;
    let files = entries.filter_map(|e| e.ok().filter(is_file)).filter_map(|e| {
        let written = e.metadata().and_then(|metadata| metadata.modified()).ok();
        let path = e.path();
        path.file_name().and_then(|n| n.to_str()).is_some_and(is_taken).then_some((written, path))
    });
    files.min().map(|(_, path)| path)
}

fn first_in_folder(folder: &Path) -> Result<Option<First>> {
    let schema_of = |path: &Path| {
        let failed = |e: BoxError| {
            let why =
                format!("rows cannot be added to {}, which cannot be read: {e}", path.display());
            Error::write_to(folder.display().to_string(), why)
        };
        let file = File::open(path).map_err(|e| failed(e.into()))?;
        let other = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|e| failed(e.into()))?;
        Ok::<_, Error>(Arc::clone(other.schema()))
    };
    if let Some(path) = first_path(folder, is_parquet) {
        let schema = Some(schema_of(&path)?);
        return Ok(Some(First { uri: path.display().to_string(), schema, has_footer: true }));
    }
    let Some(path) = first_path(folder, is_csv) else { return Ok(None) };
    let images = first_path(&folder.join(IMAGES), is_parquet);
    let schema = images.map(|path| schema_of(&path)).transpose()?;
    Ok(Some(First { uri: path.display().to_string(), schema, has_footer: false }))
}

#[cfg(feature = "s3")]
fn first_in_s3(target: &S3Target) -> Result<Option<First>> {
    if let Some((uri, schema)) = schema_in_s3(target, "part-")? {
        return Ok(Some(First { uri, schema: Some(schema), has_footer: true }));
    }
    let Some(uri) = target.first_file("part-", is_csv)? else { return Ok(None) };
    let schema = schema_in_s3(target, &format!("{IMAGES}/part-"))?.map(|(_, schema)| schema);
    Ok(Some(First { uri, schema, has_footer: false }))
}

/// The URI of the first Parquet file in S3 whose name begins so, and its schema; reads only the footer.
#[cfg(feature = "s3")]
fn schema_in_s3(target: &S3Target, prefix: &str) -> Result<Option<(String, SchemaRef)>> {
    use parquet::arrow::parquet_to_arrow_schema;
    use parquet::errors::ParquetError;
    use parquet::file::metadata::ParquetMetaDataReader;
    let mut len = 64 << 10;
    loop {
        let found = target.end_of_first_file(prefix, is_parquet, len)?;
        let Some((uri, size, end)) = found else { return Ok(None) };
        let mut reader = ParquetMetaDataReader::new();
        let columns = match reader.try_parse_sized(&end, size) {
            Err(ParquetError::NeedMoreData(more)) if more as u64 > len => {
                len = more as u64;
                continue;
            }
            outcome => outcome.and_then(|()| reader.finish()).and_then(|footer| {
                let file = footer.file_metadata();
                parquet_to_arrow_schema(file.schema_descr(), file.key_value_metadata())
            }),
        };
        let columns = columns.map_err(|e| Error::write_to(uri.as_str(), e))?;
        return Ok(Some((uri, columns.into())));
    }
}

/// Refuses notes that differ from those of the first file.
fn notes_of_first(uri: &str, found: Option<First>, notes: &[KeyValue]) -> Result<()> {
    let Some(First { uri: other, schema: Some(schema), .. }) = found else { return Ok(()) };
    let there = schema.metadata().iter().map(|(key, value)| (key.as_str(), value.as_str()));
    same_notes(uri, &other, there, notes)
}

/// Refuses notes that differ from those of `other`.
fn same_notes<'a>(
    uri: &str,
    other: &str,
    there: impl Iterator<Item = (&'a str, &'a str)>,
    notes: &'a [KeyValue],
) -> Result<()> {
    let added = notes.iter().filter_map(|note| Some((note.key.as_str(), note.value.as_deref()?)));
    super::notes::compare(there, added).map_err(|why| {
        Error::write_to(uri, format!("{other} was made otherwise ({why}); only force adds to it"))
    })
}

impl TargetFile {
    /// Completes the file, which has `rows` rows, and returns its length.
    #[cfg_attr(not(feature = "s3"), allow(unused_variables))] // Only the S3 manifest records rows.
    pub fn close(self, rows: u64) -> io::Result<u64> {
        match self {
            Self::Local(file) => {
                let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
                // The data must be on disk before the commit.
                fsync(&file)?;
                file.metadata().map(|m| m.len())
            }
            #[cfg(feature = "s3")]
            Self::S3(upload) => upload.close(rows),
        }
    }
}

impl Write for TargetFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Local(file) => file.write(bytes),
            #[cfg(feature = "s3")]
            Self::S3(upload) => upload.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Local(file) => file.flush(),
            #[cfg(feature = "s3")]
            Self::S3(upload) => upload.flush(),
        }
    }
}
