//! A folder of images.

use std::cmp::Ordering;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use walkdir::{DirEntry, WalkDir};

use super::selection::{Matcher, Selection};
use super::{ImageObject, ImageRef, ImageSource, ListedImage};
use crate::error::{DecodeCause, Error, Result};

/// Default of [`FsSource::with_max_file_bytes`]: 1 GiB.
pub const DEFAULT_MAX_FILE_BYTES: u64 = 1 << 30;

/// The images of a folder, or a single image file.
///
/// Files come in the byte order of their paths below the folder, as an object store lists keys.
/// Links are followed. A [`Selection`] decides which files are taken.
///
/// # Examples
/// ```no_run
/// use orb_features::prelude::*;
///
/// for image in FsSource::new("fruits/Test").open()? {
///     let image = image?.read()?;
///     println!("{} {:?} {} bytes", image.uri, image.label, image.bytes.len());
/// }
/// # Ok::<(), orb_features::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct FsSource {
    root: PathBuf,
    selection: Selection,
    listed: Option<Vec<ImageRef>>,
    max_file_bytes: u64,
}

impl FsSource {
    /// Takes a folder with all its subfolders, or a single file.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            selection: Selection::default(),
            listed: None,
            max_file_bytes: DEFAULT_MAX_FILE_BYTES,
        }
    }

    /// Sets which files are taken, and how they are labelled (default: all images, by their folders).
    pub fn with_selection(mut self, selection: Selection) -> Self {
        self.selection = selection;
        self
    }

    /// Takes the files of a [`list`](Self::list), or a part of them, instead of walking the folder: for a job that several
    /// processes or machines share. Root and selection must be those of the list.
    pub fn with_listed(mut self, listed: Vec<ImageRef>) -> Self {
        self.listed = Some(listed);
        self
    }

    /// Lists the files that would be read.
    ///
    /// # Errors
    /// As of [`open`](ImageSource::open). A file that cannot be examined is in the list, and fails when it is read; a
    /// folder that cannot be listed is an item.
    pub fn list(self) -> Result<impl Iterator<Item = Result<ImageRef>> + Send + 'static> {
        let mut images = self.open()?;
        Ok(std::iter::from_fn(move || {
            Some(match images.next_file()? {
                Ok(path) => {
                    let size = path.metadata().ok().map(|metadata| metadata.len());
                    name_of(&path).map(|uri| ImageRef { uri: uri.to_owned(), size, etag: None })
                }
                Err(error @ Error::Read { .. }) => {
                    let uri = error.uri().unwrap_or_default().to_owned();
                    Ok(ImageRef { uri, size: None, etag: None })
                }
                Err(error) => Err(error),
            })
        }))
    }

    /// Sets the largest file to read (default [`DEFAULT_MAX_FILE_BYTES`]); a larger one is an error.
    pub fn with_max_file_bytes(mut self, max_file_bytes: u64) -> Self {
        self.max_file_bytes = max_file_bytes;
        self
    }
}

impl ImageSource for FsSource {
    type Image = ListedImage;
    type Images = FsImages;

    /// Opens the folder.
    ///
    /// If there is no file to take, the only item is an [`Error::NoInput`].
    ///
    /// # Errors
    /// [`Error::List`] if the folder is missing or cannot be read, [`Error::InvalidParam`] for a bad selection, or one
    /// of a single file that sets more than a label rule, [`Error::NotUtf8`] for a path that no column can hold.
    fn open(mut self) -> Result<FsImages> {
        let root = name_of(&self.root)?.to_owned();
        let matcher = self.selection.compile()?;
        let is_folder =
            std::fs::metadata(&self.root).map_err(|e| Error::list(root.as_str(), e))?.is_dir();
        if is_folder {
            // Checked now rather than at the first image: an unreadable folder is the caller's error.
            std::fs::read_dir(&self.root).map_err(|e| Error::list(root.as_str(), e))?;
        } else {
            self.selection.check_single(&root, "a file")?;
        }
        let walk = WalkDir::new(&self.root)
            .follow_links(true)
            .max_depth(if self.selection.recursive { usize::MAX } else { 1 })
            .sort_by(in_key_order)
            .into_iter();
        let folder = folder_name(&self.root, is_folder);
        let listed = self.listed.take().map(Vec::into_iter);
        let reader = Arc::new(FileReader { options: self, folder });
        Ok(FsImages {
            reader,
            root,
            is_folder,
            matcher,
            listed,
            walk,
            seen: 0,
            taken: 0,
            done: false,
        })
    }
}

/// Orders entries like object keys: a folder compares as `name/`.
fn in_key_order(a: &DirEntry, b: &DirEntry) -> Ordering {
    // Compares whole paths: siblings differ only in the name, but finding where it starts takes a search.
    let [x, y] = [a, b].map(|entry| entry.path().as_os_str().as_encoded_bytes());
    let common = x.len().min(y.len());
    // The kinds of the entries matter only if one path is a prefix of the other.
    let next =
        |path: &[u8], entry| path.get(common).copied().or_else(|| is_folder(entry).then_some(b'/'));
    x[..common].cmp(&y[..common]).then_with(|| next(x, a).cmp(&next(y, b)))
}

fn is_folder(entry: &DirEntry) -> bool {
    // Sorting happens before links are followed.
    entry.file_type().is_dir() || (entry.path_is_symlink() && entry.path().is_dir())
}

/// Whether the error is about a dead link, which cannot be a folder.
fn is_dead_link(error: &walkdir::Error) -> bool {
    // For a link that leads to itself; its `io::ErrorKind` is not stable.
    const ELOOP: i32 = if cfg!(any(target_os = "linux", target_os = "android")) { 40 } else { 62 };
    // With any other error, such as a missing permission, the link may lead to a folder.
    let leads_nowhere = |e: &io::Error| {
        matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
            || e.raw_os_error() == Some(ELOOP)
    };
    let is_link = error.path().is_some_and(|path| path.is_symlink() && !path.is_dir());
    is_link && error.io_error().is_some_and(leads_nowhere)
}

/// The name of the folder whose direct files have no other folder to be labelled by.
fn folder_name(root: &Path, is_folder: bool) -> String {
    // Canonicalized, as the root may be `.` or `..`.
    let path = root.canonicalize().unwrap_or_else(|_| root.to_owned());
    let folder = if is_folder { Some(path.as_path()) } else { path.parent() };
    let name = if is_folder { root.file_name() } else { None };
    name.or_else(|| folder.and_then(Path::file_name))
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

fn is_hidden(name: &std::ffi::OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

fn name_of(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| Error::NotUtf8 { uri: format!("{path:?}").into() })
}

/// The stream of an [`FsSource`].
///
/// A file that cannot be read is an [`Error::Read`] item. A folder below the root that cannot be listed is an
/// [`Error::List`], which ends a job, as its contents are unknown.
pub struct FsImages {
    reader: Arc<FileReader>,
    root: String,
    is_folder: bool,
    matcher: Matcher,
    /// Taken instead of the walk's.
    listed: Option<std::vec::IntoIter<ImageRef>>,
    walk: walkdir::IntoIter,
    seen: u64,
    taken: u64,
    done: bool,
}

impl std::fmt::Debug for FsImages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FsImages").field("options", &self.reader.options).finish_non_exhaustive()
    }
}

impl FsImages {
    /// Whether a file is to be read; its path below the root decides.
    fn takes(&self, relative: &Path) -> bool {
        !self.is_folder || self.matcher.takes(relative)
    }

    /// Whether an entry that cannot be examined would have been skipped anyway: a hidden name, or a dead link
    /// that the selection does not take.
    fn passes_over(&self, error: &walkdir::Error) -> bool {
        let Some(path) = error.path() else { return false };
        let relative = self.reader.relative(path);
        is_hidden(relative.file_name().unwrap_or_default())
            || (is_dead_link(error) && !self.takes(relative))
    }

    /// The error for an entry that cannot be examined: one file, or a folder with an unknown number of files.
    fn lost(&self, error: walkdir::Error) -> Error {
        let is_of_one = error.loop_ancestor().is_some() || is_dead_link(&error);
        let uri = error.path().map_or_else(|| self.root.clone(), |p| p.display().to_string());
        let source = error
            .into_io_error()
            .unwrap_or_else(|| io::Error::other("a link leads back to a folder that holds it"));
        if is_of_one { Error::read(uri, source) } else { Error::list(uri, source) }
    }

    /// The path of the next file to read.
    fn next_file(&mut self) -> Option<Result<PathBuf>> {
        if let Some(listed) = &mut self.listed {
            return listed.next().map(|image| Ok(image.uri.into()));
        }
        while !self.done {
            let Some(entry) = self.walk.next() else {
                self.done = true;
                if self.taken > 0 {
                    return None;
                }
                let reason = self.reader.options.selection.describe(self.seen, "files");
                return Some(Err(Error::NoInput {
                    uri: self.root.as_str().into(),
                    reason: reason.into(),
                }));
            };
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) if self.passes_over(&error) => continue,
                Err(error) => {
                    self.taken += 1;
                    return Some(Err(self.lost(error)));
                }
            };
            let hidden = entry.depth() > 0 && is_hidden(entry.file_name());
            if entry.file_type().is_dir() {
                if hidden {
                    self.walk.skip_current_dir();
                }
                continue;
            }
            if hidden || !entry.file_type().is_file() {
                continue;
            }
            self.seen += 1;
            let relative = self.reader.relative(entry.path());
            // A file without metadata is taken, and fails when it is read.
            let size = || entry.metadata().ok().map(|m| m.len());
            if self.takes(relative) && (!self.is_folder || self.matcher.takes_size(size)) {
                self.taken += 1;
                return Some(Ok(entry.into_path()));
            }
        }
        None
    }
}

impl Iterator for FsImages {
    type Item = Result<ListedImage>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.next_file()?.and_then(|path| {
            let uri = name_of(&path)?.to_owned();
            let label = self.reader.label(&path)?;
            let reader = Arc::clone(&self.reader);
            Ok(ListedImage::new(uri, move || reader.read(&path)).with_label(label))
        }))
    }
}

/// Reads files and labels them.
struct FileReader {
    options: FsSource,
    /// The name of the folder that files directly in the root are labelled by.
    folder: String,
}

impl FileReader {
    /// The path below the root.
    fn relative<'a>(&self, path: &'a Path) -> &'a Path {
        path.strip_prefix(&self.options.root).unwrap_or(path)
    }

    fn label(&self, path: &Path) -> Result<Option<String>> {
        // Never fails: the whole path is valid UTF-8.
        Ok(self.options.selection.label.label(&self.folder, name_of(self.relative(path))?))
    }

    /// Reads a file. The label is left out, as the listing has it already.
    fn read(&self, path: &Path) -> Result<ImageObject> {
        let uri = name_of(path)?;
        let read = |error| Error::read(uri, error);
        let mut file = File::open(path).map_err(read)?;
        let metadata = file.metadata().map_err(read)?;
        let limit = self.options.max_file_bytes;
        let too_long = || {
            let what = format!("the file is longer than the limit of {limit} bytes");
            Error::decode(uri, DecodeCause::TooLarge, what)
        };
        if metadata.len() > limit {
            return Err(too_long());
        }
        let mut bytes = Vec::new();
        bytes
            .try_reserve_exact(
                usize::try_from(metadata.len()).unwrap_or(usize::MAX).saturating_add(1),
            )
            .map_err(|e| read(io::Error::new(io::ErrorKind::OutOfMemory, e)))?;
        // One byte beyond the limit reveals a file that grew.
        let len =
            (&mut file).take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(read)?;
        if len as u64 > limit {
            return Err(too_long());
        }
        Ok(ImageObject {
            uri: uri.to_owned(),
            label: None,
            modified: metadata.modified().ok(),
            retries: 0,
            bytes: bytes.into(),
        })
    }
}
impl std::iter::FusedIterator for FsImages {}
