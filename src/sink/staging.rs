//! All-or-nothing output: files are written where no reader looks, then moved into place.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// What to do when the output folder exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WriteMode {
    /// Refuse, unless it is empty.
    #[default]
    Error,
    /// Replace an older result once the new one is complete. A folder that holds anything but a
    /// result is refused.
    Overwrite,
    /// Add files to it.
    Append,
}

/// The empty file that says that a result is complete.
pub(super) const SUCCESS: &str = "_SUCCESS";
/// The folder of recorded failures, which readers of the result pass over.
pub(super) const ERRORS: &str = "_errors";

/// A folder of files that are not visible yet.
#[derive(Debug)]
pub(super) struct Staging {
    target: PathBuf,
    folder: PathBuf,
    mode: WriteMode,
    committed: bool,
}

impl Staging {
    /// Makes the folder, after looking whether the mode allows the target.
    pub fn create(target: &Path, mode: WriteMode, run_id: &str) -> Result<Self> {
        let failed = |e: io::Error| Error::write(target, e);
        // The folder itself and not a link to it is what gets replaced.
        let target = match fs::canonicalize(target) {
            Ok(path) => path,
            Err(e) if e.kind() == io::ErrorKind::NotFound => target.to_owned(),
            Err(e) => return Err(failed(e)),
        };
        let exists = match fs::metadata(&target) {
            Ok(metadata) if metadata.is_dir() => true,
            Ok(_) => return Err(failed(io::Error::from(io::ErrorKind::NotADirectory))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => false,
            Err(e) => return Err(failed(e)),
        };
        if exists {
            check_content(&target, mode)?;
        }
        let folder = if mode == WriteMode::Append {
            fs::create_dir_all(&target).map_err(failed)?;
            target.join(format!("_temporary-{run_id}"))
        } else {
            let name = target.file_name().ok_or_else(|| {
                failed(io::Error::new(io::ErrorKind::InvalidInput, "the path names no folder"))
            })?;
            let mut hidden = std::ffi::OsString::from(".");
            hidden.push(name);
            hidden.push(format!(".{run_id}.tmp"));
            let parent = parent_of(&target);
            fs::create_dir_all(parent).map_err(failed)?;
            parent.join(hidden)
        };
        fs::create_dir(&folder).map_err(|e| Error::write(&folder, e))?;
        let staging = Self { target, folder, mode, committed: false };
        if exists && mode != WriteMode::Append && is_other_device(&staging.target, &staging.folder)
        {
            let why =
                "it is a mount point, which cannot be replaced as a whole: name a folder in it";
            return Err(failed_at(&staging.target, io::Error::other(why)));
        }
        Ok(staging)
    }

    /// Where files are written.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where they are to be found in the end.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Makes the files visible.
    pub fn commit(mut self) -> Result<()> {
        fs::write(self.folder.join(SUCCESS), b"").map_err(|e| Error::write(&self.folder, e))?;
        match self.mode {
            WriteMode::Append => self.move_files()?,
            WriteMode::Error => match fs::rename(&self.folder, &self.target) {
                Ok(()) => {}
                Err(e) if is_not_empty(&e) => {
                    // Another run was faster.
                    return Err(Error::OutputExists {
                        path: self.target.display().to_string().into(),
                    });
                }
                Err(e) => return Err(failed_at(&self.target, e)),
            },
            WriteMode::Overwrite => self.replace()?,
        }
        self.committed = true;
        Ok(())
    }

    /// Puts the new folder in the place of the old one, and removes that.
    fn replace(&self) -> Result<()> {
        let failed = |e| failed_at(&self.target, e);
        match fs::rename(&self.folder, &self.target) {
            Ok(()) => return Ok(()),
            Err(e) if is_not_empty(&e) => {}
            Err(e) => return Err(failed(e)),
        }
        // What was not there at the start may have come since.
        check_content(&self.target, WriteMode::Overwrite)?;
        let old = if exchange(&self.folder, &self.target).map_err(failed)? {
            self.folder.clone()
        } else {
            // No such call here: for a moment there is neither.
            let mut old = self.folder.clone().into_os_string();
            old.push(".old");
            let old = PathBuf::from(old);
            fs::rename(&self.target, &old).map_err(failed)?;
            if let Err(e) = fs::rename(&self.folder, &self.target) {
                fs::rename(&old, &self.target).map_err(failed)?;
                return Err(failed(e));
            }
            old
        };
        // The result stands; what cannot be removed of the old one is litter, not a failure.
        let _ = fs::remove_dir_all(old);
        Ok(())
    }

    /// Moves each file into the target, the mark of success last; undoes it if one fails.
    fn move_files(&self) -> Result<()> {
        let mut moved = Vec::new();
        let done = self.try_move_files(&mut moved);
        if done.is_err() {
            for path in moved {
                let _ = fs::remove_file(path);
            }
        }
        done
    }

    fn try_move_files(&self, moved: &mut Vec<PathBuf>) -> Result<()> {
        let mut names = Vec::new();
        for folder in ["", ERRORS] {
            let Ok(entries) = fs::read_dir(self.folder.join(folder)) else { continue };
            for entry in entries {
                let entry = entry.map_err(|e| Error::write(&self.folder, e))?;
                if entry.path().is_file() && entry.file_name() != SUCCESS {
                    names.push(Path::new(folder).join(entry.file_name()));
                }
            }
        }
        names.sort();
        names.push(SUCCESS.into());
        for name in names {
            let to = self.target.join(&name);
            let step = || -> io::Result<()> {
                fs::create_dir_all(parent_of(&to))?;
                fs::rename(self.folder.join(&name), &to)
            };
            step().map_err(|e| Error::write(&to, e))?;
            if name != Path::new(SUCCESS) {
                moved.push(to);
            }
        }
        let _ = fs::remove_dir_all(&self.folder);
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.committed {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

fn failed_at(path: &Path, error: io::Error) -> Error {
    Error::write(path, error)
}

fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Refuses a folder that the mode must not touch.
fn check_content(target: &Path, mode: WriteMode) -> Result<()> {
    if mode == WriteMode::Append {
        return Ok(());
    }
    for entry in fs::read_dir(target).map_err(|e| Error::write(target, e))? {
        let name = entry.map_err(|e| Error::write(target, e))?.file_name();
        if mode == WriteMode::Error {
            return Err(Error::OutputExists { path: target.display().to_string().into() });
        }
        let text = name.to_string_lossy();
        // Also what Spark and Hadoop leave in a result.
        let is_ours = text.ends_with(".parquet") || text.starts_with(['_', '.']);
        if !is_ours {
            let why =
                format!("it holds {name:?}, which is not part of a result: it is not overwritten");
            return Err(failed_at(target, io::Error::other(why)));
        }
    }
    Ok(())
}

fn is_not_empty(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists)
}

/// Whether the two lie on different devices, so that neither can take the other's place.
fn is_other_device(a: &Path, b: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        matches!((fs::metadata(a), fs::metadata(b)), (Ok(a), Ok(b)) if a.dev() != b.dev())
    }
    #[cfg(not(unix))]
    {
        let _ = (a, b);
        false
    }
}

/// Exchanges two folders in one step; false where the system cannot.
fn exchange(a: &Path, b: &Path) -> io::Result<bool> {
    #[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        use rustix::io::Errno;
        match renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE) {
            Ok(()) => Ok(true),
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }
    #[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
    {
        let _ = (a, b);
        Ok(false)
    }
}
