//! Making an index, and adding to it.

use std::collections::HashMap;
use std::fmt;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Seek as _, SeekFrom, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};

use super::centroids;
use super::file::{self, Commit, Draft, MOST, Notes, PAGE};
use super::params::LISTS_FROM;
use super::{Index, IndexParams};
use crate::error::{Error, Result};
use crate::features::Descriptor;
use crate::matching::HammingNorm;
use crate::pca::Origin;
use crate::results::{Photo, ResultReader};
use crate::sample::Sample;

/// Descriptors of a segment, which is in memory while it is made: some 250 MB.
const SEGMENT: usize = 4 << 20;

/// Bytes of paths and labels of a segment.
const SEGMENT_TEXT: usize = 64 << 20;

/// Descriptors sampled for each list, to compute the centres from.
const SAMPLE: usize = 64;

/// What was put into an index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct IndexReport {
    /// Photos that were added.
    pub photos: u64,
    /// Their descriptors.
    pub descriptors: u64,
    /// Photos that were in the index already, by their paths.
    pub known: u64,
    /// Those of them that have other features now, and keep the old ones.
    pub changed: u64,
    /// Lists of the index; 1 is exact search.
    pub lists: usize,
    /// Length of the file in bytes.
    pub bytes: u64,
}

impl fmt::Display for IndexReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "photos       {} added, {} known", self.photos, self.known)?;
        if self.changed > 0 {
            write!(f, ", of which {} have other features now: make the index anew", self.changed)?;
        }
        writeln!(f)?;
        writeln!(f, "descriptors  {} added", self.descriptors)?;
        let exact = if self.lists == 1 { ": exact search" } else { "" };
        writeln!(f, "lists        {}{exact}", self.lists)?;
        write!(f, "file         {} bytes", self.bytes)
    }
}

impl Index {
    /// Makes an index of a result's photos, which appears when it is complete. A path that is listed twice is taken once.
    ///
    /// Memory: some 250 MB at most, 64 descriptors for each list, and the photos' paths.
    ///
    /// # Errors
    /// [`Error::Index`] if there is a file of this name that is not to be replaced, or is no index; [`Error::Table`] for a
    /// result without ORB's descriptors; [`Error::NoInput`] for one without a photo; [`Error::Write`];
    /// [`Error::Interrupted`].
    pub fn create(
        path: impl AsRef<Path>,
        result: &ResultReader,
        params: &IndexParams,
    ) -> Result<IndexReport> {
        let path = path.as_ref();
        params.check()?;
        // Locks the old index until it is replaced, so that no process adds to it.
        let mut old = None;
        if path.exists() {
            if !params.overwrite() {
                let why = "it exists: choose another name, overwrite, or add";
                return Err(Error::index(path, why));
            }
            // A damaged index, and one of another version, may go.
            if !file::is_index(path).map_err(|e| Error::index(path, e))? {
                return Err(Error::index(path, "it is no index of photos, and stays"));
            }
            old = Some(locked(path)?);
        }
        let notes = notes_of(result)?;
        let centroids = centroids_of(result, params, notes.norm)?;
        let folder =
            path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let failed = |e: io::Error| Error::write(path, e);
        if !folder.is_dir() {
            return Err(failed(io::ErrorKind::NotFound.into()));
        }
        let mut out = temporary(folder).map_err(failed)?;
        let report = Writer::new(path, &centroids, &notes, &params.stop).whole(
            result.photos()?,
            result.uri(),
            out.as_file_mut(),
        )?;
        if report.photos == 0 {
            let reason = "none of its photos has features".into();
            return Err(Error::NoInput { uri: result.uri().into(), reason });
        }
        out.as_file().sync_all().map_err(failed)?;
        if params.overwrite() {
            out.persist(path).map_err(|e| failed(e.error))?;
        } else {
            // Another process may have created the file meanwhile.
            out.persist_noclobber(path).map_err(|e| failed(e.error))?;
        }
        drop(old);
        Ok(report)
    }

    /// Adds the photos of a result whose paths are not in the index yet. Searches see all of them or none; existing
    /// segments are not rewritten. If it fails, the index stays as it was.
    ///
    /// # Errors
    /// [`Error::Index`] for a file that is no index, that another process adds to or replaces, or whose descriptors were
    /// made with other parameters; [`Error::Table`] for a result without ORB's descriptors; [`Error::Write`];
    /// [`Error::Interrupted`] after `stop` is set.
    pub fn add(
        path: impl AsRef<Path>,
        result: &ResultReader,
        stop: &AtomicBool,
    ) -> Result<IndexReport> {
        let path = path.as_ref();
        let wrong = |why: String| Error::index(path, why);
        let mut file = locked(path)?;
        let index = Self::of_file(&file, path)?;
        let (notes, there) = (notes_of(result)?, index.notes());
        if let Some(why) = difference(there, &notes) {
            let uri = result.uri();
            return Err(wrong(format!(
                "its descriptors were made otherwise than those of {uri}: {why}"
            )));
        }
        let before = index.commit();
        let failed = |e: io::Error| Error::write(path, e);
        let mut writer = Writer::new(path, index.centroids(), there, stop).behind(&index);
        let written = file.seek(SeekFrom::Start(before.length)).map_err(failed).and_then(|_| {
            let report = writer.write(result.photos()?, result.uri(), &mut file)?;
            file.sync_all().map_err(failed)?;
            if is_file_at(&file, path) {
                Ok(report)
            } else {
                Err(wrong("another process has replaced it meanwhile".to_owned()))
            }
        });
        let report = written.inspect_err(|_| {
            // What is behind the committed length is overwritten by the next addition anyway.
            let _ = file.set_len(before.length);
        })?;
        if report.photos == 0 {
            return Ok(IndexReport { bytes: before.length, ..report });
        }
        // From here on the addition may be seen.
        let length = before.length + report.bytes;
        let (at, commit) = Commit { generation: before.generation + 1, length }.encoded();
        file.seek(SeekFrom::Start(at))
            .and_then(|_| file.write_all(&commit))
            .and_then(|()| file.sync_all())
            .map_err(failed)?;
        Ok(IndexReport { bytes: length, ..report })
    }
}

/// Opens an index to change it; nobody else does at the same time.
fn locked(path: &Path) -> Result<File> {
    let wrong = |e: io::Error| Error::index(path, e);
    let file = OpenOptions::new().read(true).write(true).open(path).map_err(wrong)?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => {
            Err(Error::index(path, "another process adds to it, or replaces it"))
        }
        // Not every file system has locks.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(file),
    }
}

/// Whether a path still leads to an open file.
fn is_file_at(file: &File, path: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        let id =
            |metadata: io::Result<std::fs::Metadata>| metadata.ok().map(|m| (m.dev(), m.ino()));
        id(file.metadata()) == id(std::fs::metadata(path))
    }
    #[cfg(not(unix))]
    {
        let _ = file;
        path.exists()
    }
}

/// An index for exact search in some photos of a result, in a file without a name; `None` if none has features.
pub(crate) fn index_of(
    photos: impl Iterator<Item = Result<Photo>>,
    result: &ResultReader,
) -> Result<Option<Index>> {
    let folder = std::env::temp_dir();
    let mut out = tempfile::tempfile_in(&folder).map_err(|e| Error::write(&folder, e))?;
    let (notes, stop) = (notes_of(result)?, AtomicBool::new(false));
    let report = Writer::new(&folder, &[], &notes, &stop).whole(photos, result.uri(), &mut out)?;
    (report.photos > 0).then(|| Index::of_file(&out, &folder)).transpose()
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
    stop: &'a AtomicBool,
    /// Whether the next segment is the first, which has the centres.
    is_first: bool,
    /// The index that is added to.
    index: Option<&'a Index>,
    /// Numbers of the photos of `index` and of those written so far, by path.
    known: HashMap<String, u32>,
    /// The number of descriptors, of both.
    descriptors: u64,
}

impl<'a> Writer<'a> {
    fn new(
        path: &'a Path,
        centroids: &'a [Descriptor],
        notes: &'a Notes,
        stop: &'a AtomicBool,
    ) -> Self {
        let (index, known) = (None, HashMap::new());
        Self { path, centroids, notes, stop, is_first: true, index, known, descriptors: 0 }
    }

    /// To write behind what is in an index.
    fn behind(mut self, index: &'a Index) -> Self {
        self.known = index.photos().map(|photo| (photo.path.to_owned(), photo.number)).collect();
        self.descriptors = index.n_descriptors() as u64;
        self.is_first = false;
        self.index = Some(index);
        self
    }

    /// Writes a whole index.
    fn whole(
        &mut self,
        photos: impl Iterator<Item = Result<Photo>>,
        uri: &str,
        out: &mut File,
    ) -> Result<IndexReport> {
        let failed = |e: io::Error| Error::write(self.path, e);
        out.write_all(&Commit { generation: 0, length: PAGE as u64 }.page()).map_err(failed)?;
        let mut report = self.write(photos, uri, out)?;
        report.bytes += PAGE as u64;
        let failed = |e: io::Error| Error::write(self.path, e);
        let (at, commit) = Commit { generation: 1, length: report.bytes }.encoded();
        out.seek(SeekFrom::Start(at)).and_then(|_| out.write_all(&commit)).map_err(failed)?;
        Ok(report)
    }

    /// Writes photos of the result at `uri`; `bytes` of the report are those that were written.
    fn write(
        &mut self,
        photos: impl Iterator<Item = Result<Photo>>,
        uri: &str,
        out: &mut File,
    ) -> Result<IndexReport> {
        let lists = self.centroids.len().max(1);
        let mut report =
            IndexReport { photos: 0, descriptors: 0, known: 0, changed: 0, lists, bytes: 0 };
        let mut draft = Draft::default();
        for photo in photos {
            if self.stop.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            let photo = photo?;
            let descriptors = descriptors_of(&photo, uri)?;
            if descriptors.is_empty() {
                continue;
            }
            if let Some(&number) = self.known.get(&photo.path) {
                report.known += 1;
                let there = self.index.filter(|index| (number as usize) < index.len());
                let there = there.map(|index| index.content(number).0);
                report.changed += u64::from(there.is_some_and(|there| there != descriptors));
                continue;
            }
            self.descriptors += descriptors.len() as u64;
            if self.descriptors >= MOST.into() {
                let why = format!("more than {MOST} descriptors: make several indexes");
                return Err(Error::write(self.path, why));
            }
            let number = self.known.len() as u32;
            self.known.insert(photo.path.clone(), number);
            let points = photo.keypoints.iter().map(|k| [k.x, k.y]);
            let (label, size) = (photo.label.as_deref(), [photo.width, photo.height]);
            draft.push(&photo.path, label, size, points, descriptors);
            report.photos += 1;
            report.descriptors += descriptors.len() as u64;
            if draft.descriptors.len() >= SEGMENT || draft.text_len() >= SEGMENT_TEXT {
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
    let mut sample = Sample::new(lists * SAMPLE, params.seed());
    for photo in result.photos()? {
        if params.stop.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        let photo = photo?;
        let all = descriptors_of(&photo, result.uri())?;
        for descriptor in all {
            sample.push(|| *descriptor);
        }
    }
    // The list of images may be wrong.
    let lists = params.lists_for(sample.seen());
    let centroids = centroids::fit(&sample.into_items(), lists, norm, params.seed());
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

/// The first parameter in which two sets of descriptors differ, if both note it.
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
