//! Making an index, and adding to it.

use std::collections::HashSet;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek as _, SeekFrom, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::centroids::{self, Reservoir};
use super::file::{self, Commit, Draft, Notes, PAGE};
use super::params::LISTS_FROM;
use super::{Index, IndexParams};
use crate::error::{Error, Result};
use crate::features::Descriptor;
use crate::matching::HammingNorm;
use crate::pca::Origin;
use crate::results::{Photo, ResultReader};

/// Descriptors of a segment, which is in memory while it is made: some 250 MB.
const SEGMENT: usize = 4 << 20;

/// Descriptors, for each list, of which the centres are made.
const SAMPLE: usize = 64;

/// What was put into an index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct IndexReport {
    /// Photos that were added.
    pub photos: u64,
    /// Their descriptors.
    pub descriptors: u64,
    /// Photos that were in the index already.
    pub known: u64,
    /// Lists of the index; 1 is exact search.
    pub lists: usize,
    /// Length of the file in bytes.
    pub bytes: u64,
}

impl fmt::Display for IndexReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "photos       {} added, {} known", self.photos, self.known)?;
        writeln!(f, "descriptors  {} added", self.descriptors)?;
        let exact = if self.lists == 1 { ": exact search" } else { "" };
        writeln!(f, "lists        {}{exact}", self.lists)?;
        write!(f, "file         {} bytes", self.bytes)
    }
}

impl Index {
    /// Makes an index of a result's photos, which appears when it is complete.
    ///
    /// Memory: some 250 MB at most, and 64 descriptors for each list.
    ///
    /// # Errors
    /// [`Error::Index`] if there is a file of this name that is not to be replaced, or is no index; [`Error::Table`] for a result without ORB's descriptors; [`Error::NoInput`] for one without a photo; [`Error::Write`].
    pub fn create(
        path: impl AsRef<Path>,
        result: &ResultReader,
        params: &IndexParams,
    ) -> Result<IndexReport> {
        let path = path.as_ref();
        params.check()?;
        if path.exists() {
            if !params.overwrite() {
                return Err(Error::index(
                    path,
                    "it exists: choose another name, overwrite, or add",
                ));
            }
            // A damaged index, and one of another version, may go.
            if !file::is_index(path).map_err(|e| Error::index(path, e))? {
                return Err(Error::index(path, "it is no index of photos, and stays"));
            }
        }
        let notes = notes_of(result)?;
        let centroids = centroids_of(result, params, notes.norm)?;
        let folder =
            path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let failed = |e: io::Error| Error::write(path, e);
        let mut out = temporary(folder).map_err(failed)?;
        out.write_all(&Commit { generation: 0, length: PAGE as u64 }.page()).map_err(failed)?;
        let mut writer = Writer {
            path,
            centroids: &centroids,
            notes: &notes,
            is_first: true,
            known: HashSet::new(),
        };
        let mut report = writer.write(result.photos()?, result.uri(), out.as_file_mut())?;
        if report.photos == 0 {
            let reason = "no photo with features".into();
            return Err(Error::NoInput { uri: result.uri().into(), reason });
        }
        report.bytes += PAGE as u64;
        let (at, commit) = Commit { generation: 1, length: report.bytes }.encoded();
        let file = out.as_file_mut();
        let done = file
            .seek(SeekFrom::Start(at))
            .and_then(|_| file.write_all(&commit))
            .and_then(|()| file.sync_all());
        done.map_err(failed)?;
        if params.overwrite() {
            out.persist(path).map_err(|e| failed(e.error))?;
        } else {
            // Another may have come meanwhile.
            out.persist_noclobber(path).map_err(|e| failed(e.error))?;
        }
        Ok(report)
    }

    /// Adds the photos of a result that are not in the index yet. Searches see all of them or none; nothing that is there is
    /// written anew. If it fails, the index stays as it was.
    ///
    /// # Errors
    /// [`Error::Index`] for a file that is no index, that another process adds to, or whose descriptors were made with
    /// other parameters; [`Error::Table`] for a result without ORB's descriptors; [`Error::Write`].
    pub fn add(path: impl AsRef<Path>, result: &ResultReader) -> Result<IndexReport> {
        let path = path.as_ref();
        let wrong = |why: String| Error::index(path, why);
        let file = OpenOptions::new().read(true).write(true).open(path);
        let mut file = file.map_err(|e| Error::index(path, e))?;
        if file.try_lock().is_err() {
            return Err(wrong("another process adds to it".to_owned()));
        }
        let index = Self::open(path)?;
        let (notes, there) = (notes_of(result)?, index.notes());
        if let Some(why) = difference(&there, &notes) {
            return Err(wrong(format!(
                "its descriptors were made otherwise than those of {}: {why}",
                result.uri()
            )));
        }
        let known = index.photos().map(|photo| photo.path.to_owned()).collect();
        let before = index.commit();
        let centroids = index.centroids().to_vec();
        let failed = |e: io::Error| Error::write(path, e);
        file.seek(SeekFrom::Start(before.length)).map_err(failed)?;
        let mut writer =
            Writer { path, centroids: &centroids, notes: &there, is_first: false, known };
        let written = result
            .photos()
            .and_then(|photos| writer.write(photos, result.uri(), &mut file))
            .and_then(|report| {
                let length = before.length + report.bytes;
                let (at, commit) = Commit { generation: before.generation + 1, length }.encoded();
                let done = file.sync_all().and_then(|()| file.seek(SeekFrom::Start(at)));
                done.and_then(|_| file.write_all(&commit))
                    .and_then(|()| file.sync_all())
                    .map_err(failed)?;
                Ok(IndexReport { bytes: length, ..report })
            });
        if written.is_err() {
            // What is behind the committed length is overwritten by the next addition anyway.
            let _ = file.set_len(before.length);
        }
        written
    }
}

/// An index for exact search in some photos of a result, in a temporary file.
#[cfg(feature = "report")]
pub(crate) fn index_of(photos: &[Photo], result: &ResultReader) -> Result<Index> {
    let folder = std::env::temp_dir();
    let failed = |e: io::Error| Error::write(&folder, e);
    let mut out = temporary(&folder).map_err(failed)?;
    let path = out.path().to_owned();
    out.write_all(&Commit { generation: 0, length: PAGE as u64 }.page()).map_err(failed)?;
    let notes = notes_of(result)?;
    let mut writer = Writer {
        path: &path,
        centroids: &[],
        notes: &notes,
        is_first: true,
        known: HashSet::new(),
    };
    let photos = photos.iter().cloned().map(Ok);
    let report = writer.write(photos, result.uri(), out.as_file_mut())?;
    let (at, commit) = Commit { generation: 1, length: PAGE as u64 + report.bytes }.encoded();
    out.seek(SeekFrom::Start(at)).and_then(|_| out.write_all(&commit)).map_err(failed)?;
    // It stays open, and mapped, after its name is gone.
    Index::open(&path)
}

/// A temporary file with the rights of any new file.
fn temporary(folder: &Path) -> io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    let builder = {
        use std::os::unix::fs::PermissionsExt as _;
        builder.permissions(std::fs::Permissions::from_mode(0o666))
    };
    builder.prefix(".index").tempfile_in(folder)
}

/// Writes segments.
struct Writer<'a> {
    path: &'a Path,
    centroids: &'a [Descriptor],
    notes: &'a Notes,
    /// Whether the next segment is the first, which has the centres.
    is_first: bool,
    known: HashSet<String>,
}

impl Writer<'_> {
    /// Writes photos of the result at `uri`; `bytes` of the report are those that were written.
    fn write(
        &mut self,
        photos: impl Iterator<Item = Result<Photo>>,
        uri: &str,
        out: &mut File,
    ) -> Result<IndexReport> {
        let lists = self.centroids.len().max(1);
        let mut report = IndexReport { photos: 0, descriptors: 0, known: 0, lists, bytes: 0 };
        let mut draft = Draft::default();
        for photo in photos {
            let photo = photo?;
            let descriptors = descriptors_of(&photo, uri)?;
            if descriptors.is_empty() {
                continue;
            }
            if self.known.contains(&photo.path) {
                report.known += 1;
                continue;
            }
            let points = photo.keypoints.iter().map(|k| [k.x, k.y]);
            draft.push(
                &photo.path,
                photo.label.as_deref(),
                [photo.width, photo.height],
                points,
                descriptors,
            );
            report.photos += 1;
            report.descriptors += descriptors.len() as u64;
            if draft.descriptors.len() >= SEGMENT {
                report.bytes += self.segment(&std::mem::take(&mut draft), out)?;
            }
        }
        if draft.n_photos() > 0 {
            report.bytes += self.segment(&draft, out)?;
        }
        Ok(report)
    }

    fn segment(&mut self, draft: &Draft, out: &mut File) -> Result<u64> {
        let lists = (!self.centroids.is_empty())
            .then(|| centroids::assign(&draft.descriptors, self.centroids, self.notes.norm));
        let lists = lists.as_deref().map(|lists| (lists, self.centroids.len()));
        let centroids = if self.is_first { self.centroids } else { &[] };
        self.is_first = false;
        let failed = |e: io::Error| Error::write(self.path, e);
        let bytes = draft.encoded(centroids, lists, self.notes).map_err(|e| failed(e.into()))?;
        out.write_all(&bytes).map_err(failed)?;
        Ok(bytes.len() as u64)
    }
}

/// The centres of an index's lists; none for exact search.
fn centroids_of(
    result: &ResultReader,
    params: &IndexParams,
    norm: HammingNorm,
) -> Result<Vec<Descriptor>> {
    let mut descriptors = 0_u64;
    // Only a hint: the list of all images may be missing.
    for image in result.images()? {
        descriptors += u64::from(image?.n_vectors.unwrap_or(0));
    }
    if descriptors == 0 {
        for photo in result.photos()? {
            descriptors += photo?.vectors.rows() as u64;
            if descriptors >= LISTS_FROM && params.lists_for(descriptors) == 1 {
                break;
            }
        }
    }
    let lists = params.lists_for(descriptors);
    if lists == 1 {
        return Ok(Vec::new());
    }
    let mut reservoir = Reservoir::new(lists * SAMPLE, params.seed());
    for photo in result.photos()? {
        descriptors_of(&photo?, result.uri())?
            .iter()
            .for_each(|descriptor| reservoir.push(descriptor));
    }
    let centroids = centroids::fit(&reservoir.sample, lists, norm, params.seed());
    // One list is no list.
    Ok(if centroids.len() > 1 { centroids } else { Vec::new() })
}

fn descriptors_of<'a>(photo: &'a Photo, uri: &str) -> Result<&'a [Descriptor]> {
    if photo.vectors.rows() == 0 {
        return Ok(&[]);
    }
    photo.descriptors().map_err(|e| Error::table(uri, format!("{}: {e}", photo.path)))
}

fn notes_of(result: &ResultReader) -> Result<Notes> {
    let note = |name: &str| result.notes().get(name).cloned();
    let norm = result.orb()?.map_or(HammingNorm::Hamming, |orb| HammingNorm::of_wta_k(orb.wta_k()));
    Ok(Notes { norm, orb: note("orb"), decode: note("decode") })
}

/// How the descriptors of two results differ in their making, as far as both tell.
fn difference(there: &Notes, added: &Notes) -> Option<String> {
    let (Some(orb), Some(other)) = (&there.orb, &added.orb) else { return None };
    let decode = |notes: &Notes| notes.decode.clone().unwrap_or_else(|| "null".to_owned());
    let both = there.decode.is_some() && added.decode.is_some();
    let (one, two) =
        if both { (decode(there), decode(added)) } else { ("null".into(), "null".into()) };
    let differences = Origin::of_notes(orb, &one).differences(&Origin::of_notes(other, &two));
    let first = differences.first()?;
    Some(format!("{}: there {}, here {}", first.name, first.first, first.second))
}
