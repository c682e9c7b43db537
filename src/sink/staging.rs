//! A folder as the target of a sink: files are written where no reader looks, then moved into place.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::layout::{ERRORS, Place, SUCCESS, WriteMode};
use crate::error::{Error, Result};

/// A folder of files that are not visible yet.
#[derive(Debug)]
pub(super) struct Staging {
    /// As the caller spells it.
    given: PathBuf,
    target: PathBuf,
    folder: PathBuf,
    mode: WriteMode,
    /// The folders that were made on the way to the hidden one, from the outermost on.
    made: Vec<PathBuf>,
    committed: bool,
}

impl Staging {
    /// Makes the folder, after looking whether the mode allows the target.
    pub fn create(target: &Path, mode: WriteMode, run_id: &str) -> Result<Self> {
        let failed = |e: io::Error| Error::write(target, e);
        let given = target.to_owned();
        // The folder itself and not a link to it is what gets replaced.
        let target = match fs::canonicalize(target) {
            Ok(path) => path,
            // A link to nothing is not replaced, either.
            Err(e) if e.kind() == io::ErrorKind::NotFound && !target.is_symlink() => {
                target.to_owned()
            }
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
        let (parent, name) = if mode == WriteMode::Append {
            (target.as_path(), format!("_temporary-{run_id}").into())
        } else {
            let name = target.file_name().ok_or_else(|| {
                failed(io::Error::new(io::ErrorKind::InvalidInput, "the path names no folder"))
            })?;
            let mut hidden = std::ffi::OsString::from(".");
            hidden.push(name);
            hidden.push(format!(".{run_id}.tmp"));
            (parent_of(&target), hidden)
        };
        let mut missing: Vec<_> = parent.ancestors().take_while(|p| !is_there(p)).collect();
        missing.reverse();
        let made = missing.into_iter().map(Path::to_owned).collect();
        let folder = parent.join(name);
        // From here on it is taken away again if anything fails.
        let staging = Self { given, folder, mode, made, committed: false, target: target.clone() };
        fs::create_dir_all(parent).map_err(failed)?;
        fs::create_dir(&staging.folder).map_err(|e| Error::write(&staging.folder, e))?;
        if exists && mode != WriteMode::Append {
            take_after(&staging.target, &staging.folder);
            make_writable(&staging.folder);
        }
        if exists && mode != WriteMode::Append && is_other_device(&staging.target, &staging.folder)
        {
            let why =
                "it is a mount point, which cannot be replaced as a whole: name a folder in it";
            return Err(failed_at(&staging.target, io::Error::other(why)));
        }
        Ok(staging)
    }

    /// Where they are to be found in the end, as the caller spells it.
    pub fn given(&self) -> &Path {
        &self.given
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
        let errors = self.folder.join(ERRORS);
        let mark = || -> io::Result<()> {
            File::create(self.folder.join(SUCCESS))?.sync_all()?;
            if errors.exists() {
                sync_folder(&errors)?;
            }
            sync_folder(&self.folder)
        };
        mark().map_err(|e| Error::write(&self.folder, e))?;
        if self.mode != WriteMode::Append {
            take_after(&self.target, &self.folder);
        }
        match self.mode {
            WriteMode::Append => {
                self.move_files()?;
                self.committed = true;
            }
            WriteMode::Error => match fs::rename(&self.folder, &self.target) {
                Ok(()) => {
                    self.committed = true;
                    sync(parent_of(&self.target))?;
                }
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
        Ok(())
    }

    /// Puts the new folder in the place of the old one, and removes that.
    fn replace(&mut self) -> Result<()> {
        let target = self.target.clone();
        let failed = |e| failed_at(&target, e);
        match fs::rename(&self.folder, &self.target) {
            Ok(()) => {
                self.committed = true;
                return sync(parent_of(&target));
            }
            Err(e) if is_not_empty(&e) => {}
            Err(e) => return Err(failed(e)),
        }
        // What was not there at the start may have come since.
        check_content(&self.target, WriteMode::Overwrite)?;
        let old = if exchange(&self.folder, &self.target).map_err(failed)? {
            // What is in the hidden folder now is not ours to discard if anything fails.
            self.committed = true;
            // The last look, now that nobody writes there by name: better no new result than the
            // loss of something else.
            if let Err(error) = check_content(&self.folder, WriteMode::Overwrite) {
                exchange(&self.folder, &self.target).map_err(failed)?;
                self.committed = false;
                return Err(error);
            }
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
            self.committed = true;
            old
        };
        // Before the old result is gone.
        sync(parent_of(&target))?;
        // The result stands; what cannot be removed of the old one is litter, not a failure.
        make_writable(&old);
        let _ = fs::remove_dir_all(old);
        Ok(())
    }

    /// Moves each file into the target, the mark of success last; undoes it if one fails.
    ///
    /// An older mark is taken away first: a run that is killed half-way leaves none.
    fn move_files(&self) -> Result<()> {
        let names = self.names()?;
        let mark = self.target.join(SUCCESS);
        let was_complete = mark.exists();
        if was_complete {
            fs::remove_file(&mark).map_err(|e| Error::write(&mark, e))?;
        }
        let mut moved = Vec::new();
        for name in names.iter().map(PathBuf::as_path).chain([Path::new(SUCCESS)]) {
            let to = self.target.join(name);
            let step = || -> io::Result<()> {
                if name == Path::new(SUCCESS) {
                    // Not before the files that it speaks for.
                    sync_folder(&self.target)?;
                }
                fs::create_dir_all(parent_of(&to))?;
                fs::rename(self.folder.join(name), &to)?;
                if parent_of(&to) == self.target { Ok(()) } else { sync_folder(parent_of(&to)) }
            };
            moved.push(to.clone());
            if let Err(error) = step() {
                for path in moved {
                    let _ = fs::remove_file(path);
                }
                if was_complete {
                    let _ = fs::write(&mark, b"");
                }
                return Err(Error::write(&to, error));
            }
        }
        // Only what is empty: everything has been moved.
        let _ = fs::remove_dir(self.folder.join(ERRORS));
        let _ = fs::remove_dir(&self.folder);
        sync(&self.target)
    }

    /// The files to move, below the hidden folder, but for the mark of success.
    fn names(&self) -> Result<Vec<PathBuf>> {
        let mut names = Vec::new();
        for below in ["", ERRORS] {
            let folder = self.folder.join(below);
            let entries = match fs::read_dir(&folder) {
                Ok(entries) => entries,
                Err(e) if below == ERRORS && e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(Error::write(&folder, e)),
            };
            for entry in entries {
                let name = entry.map_err(|e| Error::write(&folder, e))?.file_name();
                if name != SUCCESS && name != ERRORS {
                    names.push(Path::new(below).join(name));
                }
            }
        }
        names.sort();
        Ok(names)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.committed {
            // It may have been given the permissions of an old result.
            make_writable(&self.folder);
            let _ = fs::remove_dir_all(&self.folder);
            for folder in self.made.iter().rev() {
                // Fails, as it should, if someone else has put something there.
                let _ = fs::remove_dir(folder);
            }
        }
    }
}

/// Has the names in a folder outlive a loss of power, where folders can be synced.
fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

/// The same for a folder that is not ours, which need not let us open it.
fn sync(folder: &Path) -> Result<()> {
    match sync_folder(folder) {
        Err(e) if e.kind() != io::ErrorKind::PermissionDenied => Err(failed_at(folder, e)),
        _ => Ok(()),
    }
}

/// Whether there is anything of that name; a path of no parts is the working folder.
fn is_there(path: &Path) -> bool {
    path.as_os_str().is_empty() || path.exists()
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
    let refused = |why: String| Err(failed_at(target, io::Error::other(why)));
    let failed = |e| Error::write(target, e);
    if mode == WriteMode::Error {
        return match fs::read_dir(target).map_err(failed)?.next() {
            None => Ok(()),
            Some(_) => Err(Error::OutputExists { path: target.display().to_string().into() }),
        };
    }
    if mode == WriteMode::Overwrite {
        return match foreign(target, Place::Result).map_err(failed)? {
            None => Ok(()),
            Some(name) => refused(format!(
                "it holds {name:?}, which is not part of a result: it is not overwritten"
            )),
        };
    }
    for entry in fs::read_dir(target).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let is_file = entry.file_type().map_err(failed)?.is_file();
        let is_ours = is_file && name.to_str().is_some_and(|name| Place::Result.has_file(name));
        if is_ours && !target.join(SUCCESS).exists() {
            return refused(format!(
                "it holds {name:?} but no {SUCCESS}: a run that was to add to it has died, or is at it \
                 now (remove what is not to stay, and make {SUCCESS}, to go on)"
            ));
        }
    }
    Ok(())
}

/// Something in a folder that no job leaves there, named below the folder.
fn foreign(folder: &Path, place: Place) -> io::Result<Option<PathBuf>> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let (name, kind) = (entry.file_name(), entry.file_type()?);
        let below = name.to_str().filter(|_| kind.is_dir()).and_then(|name| place.folder(name));
        let is_ours = kind.is_file() && name.to_str().is_some_and(|name| place.has_file(name));
        match below {
            Some(place) => {
                if let Some(found) = foreign(&entry.path(), place)? {
                    return Ok(Some(Path::new(&name).join(found)));
                }
            }
            None if is_ours => {}
            None => return Ok(Some(name.into())),
        }
    }
    Ok(None)
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

/// Gives a folder the owner and the permissions of the one whose place it is to take, if there is one, as far as
/// we may.
fn take_after(old: &Path, new: &Path) {
    #[cfg(unix)]
    if let Ok(metadata) = fs::metadata(old) {
        use std::os::unix::fs::{MetadataExt as _, chown};
        // One by one: the group may be ours to give when the owner is not.
        let _ = chown(new, None, Some(metadata.gid()));
        let _ = chown(new, Some(metadata.uid()), None);
        // After the owner, whose change takes some away.
        let _ = fs::set_permissions(new, metadata.permissions());
    }
    #[cfg(not(unix))]
    let _ = (old, new);
}

/// Lets the owner of a folder write to it, as filling and removing it take.
fn make_writable(folder: &Path) {
    #[cfg(unix)]
    if let Ok(metadata) = fs::metadata(folder) {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = metadata.permissions().mode() | 0o700;
        let _ = fs::set_permissions(folder, fs::Permissions::from_mode(mode));
    }
    #[cfg(not(unix))]
    let _ = folder;
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
