//! A folder as the target of a sink: files are written where no reader looks, then moved into place.
//!
//! ```text
//! .OUT.<run>.tmp        beside OUT: the files of a run, until they take OUT's place
//! .OUT.<run>.old        the old result, where the system cannot exchange two folders in one step
//! .OUT.<run>.complete   a finished result that could not take OUT's place; it is named in the error, and stays
//! OUT/_temporary-<run>  the files of a run that appends, until they are moved into OUT
//! OUT/_complete-<run>   such files that could not be moved
//! ```
//!
//! The hidden folder is private to its owner until it takes OUT's place. Its run holds a lock on it, which ends with
//! the process. While two folders are about to change places, both carry a mode bit that marks them as hidden
//! ([`Folder::set_hidden`]). The next run on the same OUT takes the lock of a dead run and
//! - puts an old result back if OUT itself is missing,
//! - undoes what an append has moved, and puts back the mark that it took away,
//! - removes the hidden folder, if it is its own user's and private, or has that bit, and holds nothing foreign.
//!
//! An append holds a lock on OUT from taking the mark to setting it; so does an overwrite while it replaces OUT.
//! Where folders cannot be locked, taking the mark, a rename, decides which of two appends goes on.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use super::folder::{Folder, Kind, Lock, fsync};
use super::layout::{self, ERRORS, MARK_BEFORE, Place, SIDES, SUCCESS, WriteMode};
use crate::error::{Error, Result};

/// How long to wait for another run's lock: moving files takes moments.
const PATIENCE: Duration = Duration::from_mins(1);

/// Attempts before giving up when other runs keep replacing the target, or removing the hidden folder.
const ROUNDS: u32 = 1000;

/// A folder of files that are not visible yet.
#[derive(Debug)]
pub(super) struct Staging {
    /// The target as the caller spells it.
    given: PathBuf,
    target: PathBuf,
    mode: WriteMode,
    run: String,
    /// The folder that holds the hidden one: the target's parent, or the target itself for an append.
    parent: Folder,
    /// The name of the hidden folder in `parent`.
    name: OsString,
    folder: Folder,
    /// The permissions that a newly made folder gets here.
    permissions: u32,
    /// The folders that were made on the way to the hidden one, outermost first.
    #[expect(dead_code, reason = "it works when it is dropped")]
    made: Made,
    /// Whether the hidden folder must not be removed on drop.
    settled: bool,
}

/// Folders that are removed on drop, if they are empty.
#[derive(Debug, Default)]
struct Made(Vec<PathBuf>);

impl Drop for Made {
    fn drop(&mut self) {
        for folder in self.0.iter().rev() {
            let _ = fs::remove_dir(folder);
        }
    }
}

impl Staging {
    /// Makes the hidden folder, and checks that the mode allows the target and that the target can be replaced.
    pub fn create(given: &Path, mode: WriteMode, run: &str) -> Result<Self> {
        let failed = |e: io::Error| Error::write(given, e);
        let target = resolve(given).map_err(failed)?;
        let beside = beside(&target);
        if let Some((parent, name)) = &beside
            && let Ok(parent) = Folder::open(parent)
        {
            put_back(&parent, name);
            clear_the_dead(&parent, name);
        }
        let exists = match fs::metadata(&target) {
            Ok(metadata) if metadata.is_dir() => true,
            Ok(_) => return Err(failed(io::ErrorKind::NotADirectory.into())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => false,
            Err(e) => return Err(failed(e)),
        };
        let (parent, hidden) = if mode == WriteMode::Append {
            (target.clone(), layout::unfinished_name(run).into())
        } else {
            let Some((parent, name)) = &beside else {
                let why = "the path names no folder";
                return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, why)));
            };
            (parent.clone(), layout::hidden_name(name, run, layout::TMP))
        };
        let old = if exists { Some(Folder::open(&target).map_err(failed)?) } else { None };
        if let Some(old) = &old {
            if mode == WriteMode::Append {
                old.lock(PATIENCE).map_err(failed)?;
                undo_the_dead(old).map_err(failed)?;
            }
            check_content(old, mode)?;
            if mode != WriteMode::Append {
                check_working_folder(&target)?;
            }
        }
        let mut missing: Vec<_> = parent.ancestors().take_while(|p| !is_there(p)).collect();
        missing.reverse();
        // From here on, the new folders are removed again if anything fails.
        let made = Made(missing.into_iter().map(Path::to_owned).collect());
        fs::create_dir_all(&parent).map_err(failed)?;
        let path = parent.join(&hidden);
        let parent = Folder::open(&parent).map_err(|e| Error::write(&parent, e))?;
        let folder = make_private(&parent, &hidden).map_err(|e| Error::write(&path, e))?;
        let mut staging = Self {
            given: given.to_owned(),
            target,
            mode,
            run: run.to_owned(),
            parent,
            name: hidden,
            folder,
            permissions: 0,
            made,
            settled: false,
        };
        staging.permissions = staging.try_out(exists)?;
        if let Some(old) = &old {
            staging.folder.hand_down(old).map_err(failed)?;
        }
        Ok(staging)
    }

    /// Checks that the hidden folder can be moved into place, without touching what is there. Returns the permissions
    /// that a new folder gets.
    fn try_out(&self, exists: bool) -> Result<u32> {
        let failed = |e| Error::write(self.folder.path(), e);
        self.folder.make(ERRORS, 0o777).map_err(failed)?;
        let new = self.folder.open_in(ERRORS).map_err(failed)?;
        let permissions = new.mode().map_err(failed)?;
        if cfg!(unix) && self.mode != WriteMode::Append {
            let (hidden, target) = (&self.name, self.target_name());
            if exists {
                self.try_out_replacing(hidden, target)?;
            } else {
                let aside = layout::hidden_name(target, &self.run, layout::TRY);
                let there = self.parent.rename(hidden, &aside);
                there.and_then(|()| self.parent.rename(&aside, hidden)).map_err(failed)?;
            }
        }
        self.folder.remove_folder(ERRORS).map_err(failed)?;
        Ok(permissions)
    }

    /// Renames the target onto the hidden folder. That always fails, as the hidden folder is not empty, but every other
    /// obstacle is reported first.
    fn try_out_replacing(&self, hidden: &OsStr, target: &OsStr) -> Result<()> {
        let why = match self.parent.rename(target, hidden) {
            Err(e) if is_not_empty(&e) => return Ok(()),
            // Overlayfs cannot move an empty folder of its lower layer, but can replace it.
            Err(e) if e.kind() == io::ErrorKind::CrossesDevices && self.is_target_empty() => {
                return Ok(());
            }
            Err(e) => e,
            Ok(()) => {
                let back = self.parent.rename(hidden, target);
                back.err().unwrap_or_else(|| io::Error::other("folders replace full ones here"))
            }
        };
        let mount = match why.kind() {
            io::ErrorKind::ResourceBusy => "it is a mount point, which ",
            _ => "it ",
        };
        let why = format!("{mount}cannot be replaced as a whole ({why}): name a folder in it");
        Err(Error::write(&self.target, why))
    }

    fn is_target_empty(&self) -> bool {
        let target = self.parent.open_in(self.target_name());
        target.and_then(|target| target.entries()).is_ok_and(|entries| entries.is_empty())
    }

    fn target_name(&self) -> &OsStr {
        self.target.file_name().unwrap_or_default()
    }

    /// The target, as the caller spells it.
    pub fn given(&self) -> &Path {
        &self.given
    }

    /// The hidden folder, where files are written.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The resolved path of the target.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Makes a file; `name` may include one folder: `folder/file`.
    pub fn file(&self, name: &str) -> Result<File> {
        let failed = |e| Error::write(&self.folder.path().join(name), e);
        self.check_place().map_err(failed)?;
        let Some((below, file)) = name.split_once('/') else {
            return self.folder.new_file(name).map_err(failed);
        };
        match self.folder.make(below, 0o777) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(failed(e)),
            _ => {}
        }
        self.folder.open_in(below).and_then(|folder| folder.new_file(file)).map_err(failed)
    }

    /// Checks that the hidden folder is still where it was made. Otherwise files would be lost, or another folder would
    /// take the target's place.
    fn check_place(&self) -> io::Result<()> {
        if self.parent.has(&self.name, &self.folder) {
            return Ok(());
        }
        let why = "No such file or directory (the hidden folder has been moved or removed)";
        Err(io::Error::new(io::ErrorKind::NotFound, why))
    }

    /// Makes the files visible. An append calls `fits` first, to check again that they fit the result.
    pub fn commit(mut self, fits: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        self.complete()?;
        match self.mode {
            WriteMode::Append => self.add(fits),
            WriteMode::Error | WriteMode::Overwrite => self.replace(),
        }
    }

    /// Writes the mark, and fsyncs it and the folders of the files.
    fn complete(&self) -> Result<()> {
        let failed = |name| move |e| Error::write(&self.folder.path().join(name), e);
        fsync(&self.file(SUCCESS)?).map_err(failed(SUCCESS))?;
        for side in SIDES {
            let folder = self.folder.find(side).map_err(failed(side))?;
            folder.map_or(Ok(()), |folder| folder.sync()).map_err(failed(side))?;
        }
        self.folder.sync().map_err(failed(""))
    }

    /// Keeps the finished files that could not be made visible, and names their path in the error.
    fn keep(&mut self, error: Error) -> Error {
        self.settled = true;
        self.folder.set_hidden(false);
        if !self.parent.has(&self.name, &self.folder) {
            // Somebody has removed them.
            return error;
        }
        let kept = match self.mode {
            WriteMode::Append => format!("_complete-{}", self.run).into(),
            _ => layout::hidden_name(self.target_name(), &self.run, layout::COMPLETE),
        };
        let kept = match self.parent.move_to(&self.name, &self.parent, &kept) {
            Ok(()) => kept,
            Err(_) => self.name.clone(),
        };
        let kept = self.parent.path_now().join(kept).display().to_string();
        match error {
            Error::Write { path, source } => {
                let why = format!("{source}; the finished files of this run are kept in {kept}");
                Error::Write { path, source: why.into() }
            }
            Error::OutputExists { path, .. } => {
                Error::OutputExists { path, kept: Some(kept.into()) }
            }
            error => error,
        }
    }

    fn keep_for(&mut self, error: io::Error) -> Error {
        let error = Error::write(&self.target, error);
        self.keep(error)
    }

    /// Puts the new folder in the place of the old one, and removes the old one.
    fn replace(&mut self) -> Result<()> {
        let target = self.target_name().to_owned();
        for _ in 0..ROUNDS {
            let old = self.parent.find(&target).map_err(|e| self.keep_for(e))?;
            if !self.prepare(old.as_ref(), &target)? {
                continue;
            }
            if self.move_in(&target)? {
                return self.stand(&target);
            }
            if let Some(old) = old
                && let Some(aside) = self.put_aside(&old, &target)?
            {
                // The old result is removed only once the new one stands.
                self.stand(&target)?;
                // The new result stands: leftovers of the old one are litter, not a failure.
                let _ = clear(&old.moved(&self.parent, &aside), Place::Result);
                let _ = self.parent.remove_folder(aside);
                return Ok(());
            }
        }
        Err(self.keep_for(io::Error::other("other runs replace it all the time")))
    }

    /// Gives the hidden folder the owner and permissions of the target, or the usual permissions if there is none. An
    /// overwrite also locks the target and checks its content again. False if the target is no longer `old`.
    fn prepare(&mut self, old: Option<&Folder>, target: &OsStr) -> Result<bool> {
        let Some(old) = old else {
            self.folder.set_mode_hidden(self.permissions);
            return Ok(true);
        };
        if self.mode == WriteMode::Overwrite {
            old.lock(PATIENCE).map_err(|e| self.keep_for(e))?;
            if !self.parent.has(target, old) {
                return Ok(false);
            }
            check_content(old, self.mode).map_err(|e| self.keep(e))?;
        }
        self.take_after(old).map_err(|e| self.keep_for(e))?;
        Ok(true)
    }

    /// Gives the hidden folder, and those beside the rows in it, the owner and the permissions of `old`, so that whoever
    /// may replace a result may remove all of it.
    fn take_after(&self, old: &Folder) -> io::Result<()> {
        for side in SIDES {
            if let Some(side) = self.folder.find(side)? {
                side.take_after(old)?;
            }
        }
        self.folder.take_after(old)?;
        self.folder.set_hidden(true);
        Ok(())
    }

    /// Renames the hidden folder to a target that is missing or empty; false if the target holds something.
    fn move_in(&mut self, target: &OsStr) -> Result<bool> {
        match self.parent.rename(&self.name, target) {
            Ok(()) => {
                self.settled = true;
                self.folder.set_hidden(false);
                Ok(true)
            }
            Err(e) if !is_not_empty(&e) => Err(self.keep_for(e)),
            // Another run was faster.
            Err(_) if self.mode == WriteMode::Error => {
                let error = exists(&self.target);
                Err(self.keep(error))
            }
            Err(_) => Ok(false),
        }
    }

    /// Exchanges the hidden folder with a target that holds something. Returns the new name of the old folder, or
    /// `None` if the target was no longer `old`.
    fn put_aside(&mut self, old: &Folder, target: &OsStr) -> Result<Option<OsString>> {
        old.set_hidden(true);
        #[cfg(all(test, target_os = "linux"))]
        super::folder::watch::before_exchange();
        let aside = match self.parent.exchange(&self.name, target) {
            Ok(true) => self.check_exchanged(old, target),
            Ok(false) => self.rename_both(old, target),
            Err(e) => Err(self.keep_for(e)),
        };
        match aside {
            Ok(Some(_)) => self.folder.set_hidden(false),
            _ => old.set_hidden(false),
        }
        aside
    }

    /// Checks the old result a last time, now that nobody writes to it by name, and undoes the exchange if the old
    /// result must stay.
    fn check_exchanged(&mut self, old: &Folder, target: &OsStr) -> Result<Option<OsString>> {
        // The hidden name is that of the old result now, which must not be removed if anything fails.
        self.settled = true;
        let is_old = self.parent.has(&self.name, old);
        let checked = if is_old { check_content(old, self.mode) } else { Ok(()) };
        if is_old && checked.is_ok() {
            return Ok(Some(self.name.clone()));
        }
        self.parent.exchange(&self.name, target).map_err(|e| Error::write(&self.target, e))?;
        self.settled = false;
        checked.map(|()| None).map_err(|e| self.keep(e))
    }

    /// Replaces the exchange by two renames, where the system has none. If the run dies between them, the target is
    /// missing, and the next run puts the old result back.
    fn rename_both(&mut self, old: &Folder, target: &OsStr) -> Result<Option<OsString>> {
        old.set_hidden(false);
        let aside = layout::hidden_name(target, &self.run, layout::OLD);
        self.parent.move_to(target, &self.parent, &aside).map_err(|e| self.keep_for(e))?;
        #[cfg(all(test, target_os = "linux"))]
        super::folder::watch::between_renames();
        if let Err(e) = self.parent.rename(&self.name, target) {
            let back = self.parent.move_to(&aside, &self.parent, target);
            return Err(self.keep_for(back.err().unwrap_or(e)));
        }
        self.settled = true;
        old.set_hidden(true);
        Ok(Some(aside))
    }

    /// Fsyncs the parent, and checks that the new result is in place.
    fn stand(&self, target: &OsStr) -> Result<()> {
        let synced = self.parent.sync();
        if !self.parent.has(target, &self.folder) {
            return Err(Error::write(&self.target, "something else has taken its place"));
        }
        match synced {
            // We may lack the permission to open a folder that is not ours.
            Err(e) if e.kind() != io::ErrorKind::PermissionDenied => {
                let why = format!("the result is there, but may not outlive a loss of power: {e}");
                Err(Error::write(&self.target, why))
            }
            _ => Ok(()),
        }
    }

    /// Moves the files into the target, under its lock.
    fn add(&mut self, fits: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        if let Err(e) = self.parent.lock(PATIENCE) {
            return Err(self.keep_for(e));
        }
        let now = Folder::open(&self.target).and_then(|now| now.id());
        if now.is_err() || now.ok() != self.parent.id().ok() {
            let why =
                "another run has replaced it, or somebody renamed it, meanwhile: nothing is added";
            return Err(self.keep(Error::write(&self.target, why)));
        }
        let added = self.add_locked(fits);
        self.parent.unlock();
        added
    }

    fn add_locked(&mut self, fits: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let checked = undo_the_dead(&self.parent)
            .map_err(|e| Error::write(&self.target, e))
            .and_then(|()| check_content(&self.parent, self.mode))
            .and_then(|()| fits(&self.target));
        if let Err(error) = checked {
            return Err(self.keep(error));
        }
        let mut sides = Vec::new();
        for side in SIDES {
            match self.folder.find(side) {
                Ok(Some(from)) => {
                    let made = self.parent.make(side, 0o777).is_ok();
                    let to = self.parent.open_in(side);
                    if made && let Ok(to) = &to {
                        let _ = to.take_after(&self.parent);
                    }
                    let path = self.target.join(side);
                    let to = to.map_err(|e| self.keep(Error::write(&path, e)))?;
                    sides.push((side, from, to, made));
                }
                Ok(None) => {}
                Err(e) => return Err(self.keep_for(e)),
            }
        }
        // The run that takes the mark is the one that appends, even where folders cannot be locked.
        let had_mark = match self.parent.move_to(SUCCESS, &self.folder, MARK_BEFORE) {
            Ok(()) => true,
            Err(e) if e.kind() == io::ErrorKind::NotFound => false,
            Err(e) => return Err(self.keep_for(e)),
        };
        if !had_mark && let Err(error) = check_content(&self.parent, self.mode) {
            return Err(self.keep(error));
        }
        let (target, hidden) = (&self.parent, &self.folder);
        let mut moved: Vec<(&Folder, &Folder, OsString)> = Vec::new();
        let mut move_all = || -> io::Result<()> {
            let mut move_files = |from, to| -> io::Result<()> {
                for name in files(from)? {
                    Folder::move_to(from, &name, to, &name)?;
                    moved.push((from, to, name));
                }
                Ok(())
            };
            move_files(hidden, target)?;
            for (_, from, to, _) in &sides {
                move_files(from, to)?;
                to.sync()?;
            }
            // The mark must not come before the files that it vouches for.
            target.sync()?;
            hidden.move_to(SUCCESS, target, SUCCESS)
        };
        if let Err(e) = move_all() {
            let mut undone = Ok(());
            for (from, to, name) in moved.iter().rev() {
                undone = undone.and_then(|()| to.move_to(name, from, name));
            }
            for (side, ..) in sides.iter().filter(|(.., made)| *made) {
                let _ = target.remove_folder(side);
            }
            if had_mark {
                undone = undone.and_then(|()| hidden.move_to(MARK_BEFORE, target, SUCCESS));
            }
            if undone.is_err() {
                // The next run undoes the rest, by what is still in the hidden folder.
                self.settled = true;
                return Err(Error::write(&self.target, e));
            }
            return Err(self.keep_for(e));
        }
        self.settled = true;
        // Everything has been moved: only the old mark and empty folders are removed.
        let _ = hidden.remove_file(MARK_BEFORE);
        for side in SIDES {
            let _ = hidden.remove_folder(side);
        }
        let _ = target.remove_folder(&self.name);
        target.sync().map_err(|e| {
            let why = format!("the files are added, but may not outlive a loss of power: {e}");
            Error::write(&self.target, why)
        })
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.settled {
            let _ = clear(&self.folder, Place::Unfinished);
            if self.parent.has(&self.name, &self.folder) {
                let _ = self.parent.remove_folder(&self.name);
            }
        }
    }
}

/// The files of rows, images or failures in a folder, sorted by name.
fn files(folder: &Folder) -> io::Result<Vec<OsString>> {
    let is_moved = |name: &OsString, kind| kind == Kind::File && layout::is_part(name);
    let entries = folder.entries()?.into_iter();
    let mut files: Vec<_> =
        entries.filter(|(name, kind)| is_moved(name, *kind)).map(|(name, _)| name).collect();
    files.sort();
    Ok(files)
}

/// Resolves the path of a folder, whether it exists or not. Links are resolved, as the folder itself is replaced,
/// not a link to it.
fn resolve(given: &Path) -> io::Result<PathBuf> {
    let is_missing = |path: &Path| {
        fs::symlink_metadata(path).is_err_and(|e| e.kind() == io::ErrorKind::NotFound)
    };
    let mut path = PathBuf::new();
    for part in given.components() {
        // No folder is made only to be left again: `a/../z` is `z` if there is no `a`.
        if part == Component::ParentDir && !path.as_os_str().is_empty() && is_missing(&path) {
            path.pop();
        } else {
            path.push(part);
        }
    }
    if path.as_os_str().is_empty() && !given.as_os_str().is_empty() {
        path.push(Component::CurDir);
    }
    // Asks the kernel first: it may refuse a link that was planted here, while `canonicalize` reads links itself.
    match fs::metadata(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    match fs::canonicalize(&path) {
        // A dangling link is not replaced, either.
        Err(e) if e.kind() == io::ErrorKind::NotFound && !path.is_symlink() => Ok(path),
        resolved => resolved,
    }
}

/// The parent folder of a path, and the name in it.
fn beside(target: &Path) -> Option<(PathBuf, OsString)> {
    let parent = match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    target.file_name().map(|name| (parent.to_owned(), name.to_owned()))
}

/// Whether a path exists; the empty path is the working folder.
fn is_there(path: &Path) -> bool {
    path.as_os_str().is_empty() || path.exists()
}

fn exists(target: &Path) -> Error {
    Error::OutputExists { path: target.display().to_string().into(), kept: None }
}

fn is_not_empty(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists)
}

/// Refuses to replace the working folder of this process, and so of the shell that started it, or a folder above.
fn check_working_folder(target: &Path) -> Result<()> {
    let working = std::env::current_dir().and_then(fs::canonicalize);
    if !working.is_ok_and(|working| working.starts_with(target)) {
        return Ok(());
    }
    let why = "it is the working folder, or holds it, and would be replaced by another one: run this from \
               elsewhere, name a folder in it, or append";
    Err(Error::write(target, why))
}

/// Refuses a folder that the mode must not touch.
fn check_content(target: &Folder, mode: WriteMode) -> Result<()> {
    let failed = |e| Error::write(target.path(), e);
    let refused = |why: String| Err(Error::write(target.path(), why));
    if mode == WriteMode::Overwrite {
        return match foreign(target, Place::Result).map_err(failed)? {
            None => Ok(()),
            Some(name) => refused(format!(
                "it holds {name:?}, which is not part of a result: it is not overwritten"
            )),
        };
    }
    let entries = target.entries().map_err(failed)?;
    if mode == WriteMode::Error {
        return if entries.is_empty() { Ok(()) } else { Err(exists(target.path())) };
    }
    for side in SIDES {
        if !matches!(target.kind_of(side).map_err(failed)?, None | Some(Kind::Folder)) {
            return refused(format!("its {side} is not a folder: nothing is added to it"));
        }
    }
    match target.kind_of(SUCCESS).map_err(failed)? {
        Some(Kind::File) => return Ok(()),
        Some(_) => return refused(format!("its {SUCCESS} is not a file: nothing is added to it")),
        None => {}
    }
    let is_ours =
        |(name, kind): &(OsString, Kind)| *kind == Kind::File && has_file(Place::Result, name);
    match entries.into_iter().find(is_ours) {
        None => Ok(()),
        Some((name, _)) => refused(format!(
            "it holds {name:?} but no {SUCCESS}: a run that was to add to it has died, or is at it now (remove \
             what is not to stay, and make {SUCCESS}, to go on)"
        )),
    }
}

fn has_file(place: Place, name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| place.has_file(name))
}

/// An entry that no job leaves in a folder, relative to the folder; `None` if there is none.
fn foreign(folder: &Folder, place: Place) -> io::Result<Option<PathBuf>> {
    for (name, kind) in folder.entries()? {
        let below = name.to_str().filter(|_| kind == Kind::Folder).and_then(|n| place.folder(n));
        let found = match below {
            Some(place) => foreign(&folder.open_in(&name)?, place)?,
            None if kind == Kind::File && has_file(place, &name) => None,
            None => Some(PathBuf::new()),
        };
        if let Some(found) = found {
            return Ok(Some(if found.as_os_str().is_empty() {
                name.into()
            } else {
                Path::new(&name).join(found)
            }));
        }
    }
    Ok(None)
}

/// Removes the files and folders that jobs leave in a folder, and nothing else.
fn clear(folder: &Folder, place: Place) -> io::Result<()> {
    folder.make_writable();
    for (name, kind) in folder.entries()? {
        let below = name.to_str().filter(|_| kind == Kind::Folder).and_then(|n| place.folder(n));
        if let Some(place) = below {
            clear(&folder.open_in(&name)?, place)?;
            folder.remove_folder(&name)?;
        } else if kind == Kind::File && has_file(place, &name) {
            folder.remove_file(&name)?;
        }
    }
    Ok(())
}

/// Makes a folder that only its owner may enter, and locks it.
fn make_private(parent: &Folder, name: &OsStr) -> io::Result<Folder> {
    for _ in 0..ROUNDS {
        parent.make(name, 0o700)?;
        let Some(folder) = parent.find(name)? else { continue };
        folder.make_writable();
        folder.lock(PATIENCE)?;
        // Before the lock was held, another run may have removed it as a dead run's.
        if parent.has(name, &folder) {
            return Ok(folder);
        }
    }
    Err(io::Error::other("others remove it all the time"))
}

/// The hidden folder of a run that is known to be dead, locked. A folder that others may enter does not count, unless
/// it has the hidden bit: somebody may have given it such a name.
fn dead(parent: &Folder, name: &OsStr) -> Option<Folder> {
    let folder = parent.open_in(name).ok()?;
    let is_private = |mode: u32| mode & 0o777 == mode & 0o700;
    let is_ours = folder.is_own() && folder.mode().is_ok_and(is_private);
    let is_dead =
        (is_ours || folder.is_hidden()) && folder.is_local() && folder.try_lock() == Lock::Held;
    (is_dead && parent.has(name, &folder)).then_some(folder)
}

/// Removes the hidden folders that dead runs have left beside an output.
fn clear_the_dead(parent: &Folder, target: &OsStr) {
    // Best effort: leftovers are only litter, and we may not be allowed to list the parent.
    for (name, kind) in parent.entries().unwrap_or_default() {
        let is = |ending| layout::run_of_hidden(&name, target, ending).is_some();
        // An old result is not litter while it is the only complete one.
        let is_old = is(layout::OLD) && is_complete(parent, target);
        if kind == Kind::Folder
            && (is(layout::TMP) || is(layout::TRY) || is_old)
            && let Some(folder) = dead(parent, &name)
        {
            remove(parent, &name, &folder, Place::Result);
        }
    }
}

fn is_complete(parent: &Folder, target: &OsStr) -> bool {
    let mark = parent.open_in(target).and_then(|target| target.kind_of(SUCCESS));
    matches!(mark, Ok(Some(Kind::File)))
}

fn remove(parent: &Folder, name: &OsStr, folder: &Folder, place: Place) {
    if matches!(foreign(folder, place), Ok(None)) && clear(folder, place).is_ok() {
        let _ = parent.remove_folder(name);
    }
}

/// Puts back an old result of ours that a run moved away before it died, if the new one is not in place. Replaces an
/// empty folder that somebody has made there since. Best effort: failures are ignored.
fn put_back(parent: &Folder, target: &OsStr) {
    let is_missing = match parent.find(target) {
        Ok(None) => true,
        Ok(Some(folder)) => folder.entries().is_ok_and(|entries| entries.is_empty()),
        Err(_) => false,
    };
    if !is_missing {
        return;
    }
    for (name, kind) in parent.entries().unwrap_or_default() {
        if kind != Kind::Folder || layout::run_of_hidden(&name, target, layout::OLD).is_none() {
            continue;
        }
        let Ok(old) = parent.open_in(&name) else { continue };
        // If the lock is taken, a live run is between its two renames.
        let is_ours = old.is_own() && old.try_lock() != Lock::Taken && parent.has(&name, &old);
        if is_ours
            && matches!(foreign(&old, Place::Result), Ok(None))
            && parent.rename(&name, target).is_ok()
        {
            old.set_hidden(false);
            let _ = parent.sync();
            return;
        }
    }
}

/// Undoes the unfinished appends of dead runs in an output, whose lock is held, and removes their folders.
fn undo_the_dead(target: &Folder) -> io::Result<()> {
    for (name, kind) in target.entries()? {
        let Some(run) = name.to_str().and_then(layout::run_of_unfinished) else { continue };
        let Some(folder) = dead(target, &name).filter(|_| kind == Kind::Folder) else { continue };
        // A run moves its mark last, so a mark in its folder means that the append is unfinished. If the target has a
        // mark, somebody has settled it.
        let has_begun = folder.kind_of(SUCCESS)? == Some(Kind::File);
        if has_begun && target.kind_of(SUCCESS)?.is_none() {
            remove_files_of(target, run)?;
            for side in SIDES {
                if let Some(Kind::Folder) = target.kind_of(side)? {
                    remove_files_of(&target.open_in(side)?, run)?;
                }
            }
            target.sync()?;
            match folder.move_to(MARK_BEFORE, target, SUCCESS) {
                // There was no result before.
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        remove(target, &name, &folder, Place::Unfinished);
    }
    Ok(())
}

fn remove_files_of(folder: &Folder, run: &str) -> io::Result<()> {
    for name in files(folder)? {
        if name.to_str().and_then(layout::run_of) == Some(run) {
            folder.remove_file(&name)?;
        }
    }
    Ok(())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::io::Write as _;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::super::folder::watch;
    use super::*;

    /// Writes a part and a file of failures, and makes them visible.
    fn write(target: &Path, mode: WriteMode) -> Result<String> {
        let run = layout::new_run_id();
        let staging = Staging::create(target, mode, &run)?;
        for name in [layout::part_name(0, &run, ".parquet"), layout::side_name(ERRORS, 0, &run)] {
            let mut file = staging.file(&name)?;
            file.write_all(run.as_bytes()).and_then(|()| fsync(&file)).unwrap();
        }
        staging.commit(|_| Ok(())).map(|()| run)
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> =
            entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn has(target: &Path, run: &str) -> bool {
        target.join(layout::part_name(0, run, ".parquet")).exists()
    }

    /// Paths that are fsynced while a result is written, relative to `root`, with the run's id as `RUN`.
    fn synced(root: &Path, target: &Path, mode: WriteMode) -> Vec<String> {
        watch::SYNCED.take();
        let run = write(target, mode).unwrap();
        let below = |path: PathBuf| path.strip_prefix(root).unwrap().display().to_string();
        watch::SYNCED.take().into_iter().map(|p| below(p).replace(&run, "RUN")).collect()
    }

    #[test]
    fn files_and_mark_and_their_names_are_on_the_disk_before_they_are_seen() {
        let root = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(root.path()).unwrap();
        let target = root.join("out");
        let hidden = |at: &str| {
            ["part-00000-RUN.parquet", "_errors/part-00000-RUN.parquet", "_SUCCESS", "_errors", ""]
                .map(|name| {
                    Path::new(at).join(name).display().to_string().trim_end_matches('/').to_owned()
                })
                .to_vec()
        };
        for mode in [WriteMode::Error, WriteMode::Overwrite] {
            let want = [hidden(".out.RUN.tmp"), vec![String::new()]].concat();
            assert_eq!(synced(&root, &target, mode), want);
        }
        // The target's folders are fsynced before the mark is moved, and the target again after it.
        let target_last = ["out/_errors", "out", "out"].map(str::to_owned).to_vec();
        let want = [hidden("out/_temporary-RUN"), target_last].concat();
        assert_eq!(synced(&root, &target, WriteMode::Append), want);
    }

    #[test]
    fn a_file_that_does_not_reach_the_disk_is_not_committed() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("out");
        for name in [SUCCESS, "/"] {
            watch::FAILS.set(Some((name.to_owned(), rustix::io::Errno::IO.raw_os_error())));
            let error = write(&target, WriteMode::Error).unwrap_err().to_line();
            watch::FAILS.take();
            assert!(error.contains("Input/output error"), "{name}: {error}");
            assert!(names(root.path()).is_empty());
        }
    }

    #[test]
    fn folders_that_cannot_be_fsynced_can_be_written() {
        use rustix::io::Errno;
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("out");
        for errno in [Errno::INVAL, Errno::BADF, Errno::NOTSUP, Errno::OPNOTSUPP, Errno::NOSYS] {
            watch::FAILS.set(Some(("/".to_owned(), errno.raw_os_error())));
            write(&target, WriteMode::Overwrite).unwrap();
            write(&target, WriteMode::Append).unwrap();
            watch::FAILS.take();
        }
        // The kernel's own answer.
        let proc = Folder::open(Path::new("/proc")).unwrap();
        assert!(File::open("/proc").unwrap().sync_all().is_err());
        proc.sync().unwrap();
    }

    #[test]
    fn without_an_exchange_the_old_result_comes_back() {
        watch::NO_EXCHANGE.set(true);
        for mode in [WriteMode::Error, WriteMode::Overwrite, WriteMode::Append] {
            let root = tempfile::tempdir().unwrap();
            let target = root.path().join("out");
            let first = write(&target, WriteMode::Error).unwrap();
            let old = write(&target, WriteMode::Overwrite).unwrap();
            assert!(has(&target, &old) && !has(&target, &first));
            assert_eq!(names(root.path()), ["out"]);
            watch::BETWEEN.set(Some(|| panic!("on purpose")));
            let died = catch_unwind(AssertUnwindSafe(|| write(&target, WriteMode::Overwrite)));
            watch::BETWEEN.set(None);
            assert!(died.is_err() && !target.exists());
            let next = write(&target, mode);
            match mode {
                WriteMode::Error => assert!(matches!(next, Err(Error::OutputExists { .. }))),
                WriteMode::Overwrite => assert!(has(&target, &next.unwrap())),
                WriteMode::Append => assert!(has(&target, &next.unwrap()) && has(&target, &old)),
            }
            assert_eq!(has(&target, &old), mode != WriteMode::Overwrite);
            assert_eq!(names(root.path()), ["out"]);
        }
    }

    #[test]
    fn an_old_result_of_a_run_that_lives_is_left_to_it() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("out");
        let old = write(&target, WriteMode::Error).unwrap();
        let aside = root.path().join(layout::hidden_name(OsStr::new("out"), &old, layout::OLD));
        fs::rename(&target, &aside).unwrap();
        let held = Folder::open(&aside).unwrap();
        assert_eq!(held.try_lock(), Lock::Held);
        let new = write(&target, WriteMode::Error).unwrap();
        assert!(has(&target, &new) && has(&aside, &old));
        drop(held);
        // Not removed as litter, either: others may enter it, so somebody may have given it that name.
        write(&target, WriteMode::Overwrite).unwrap();
        assert!(has(&aside, &old));
        // Not removed while there is no complete result.
        Folder::open(&aside).unwrap().set_mode(0o700);
        fs::remove_file(target.join(SUCCESS)).unwrap();
        write(&target, WriteMode::Overwrite).unwrap();
        assert!(has(&aside, &old));
        write(&target, WriteMode::Overwrite).unwrap();
        assert_eq!(names(root.path()), ["out"]);
    }

    #[test]
    fn an_old_result_comes_back_in_place_of_an_empty_folder_if_it_is_ours() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("out");
        let old = write(&target, WriteMode::Error).unwrap();
        let aside = root.path().join(layout::hidden_name(OsStr::new("out"), &old, layout::OLD));
        fs::rename(&target, &aside).unwrap();
        fs::create_dir(&target).unwrap();
        let next = write(&target, WriteMode::Error);
        assert!(matches!(next, Err(Error::OutputExists { kept: None, .. })), "{next:?}");
        assert!(has(&target, &old) && !aside.exists());
        // A stranger's folder is left alone; only root can make one.
        if rustix::process::geteuid().is_root() {
            fs::rename(&target, &aside).unwrap();
            std::os::unix::fs::chown(&aside, Some(4001), None).unwrap();
            write(&target, WriteMode::Error).unwrap();
            assert!(has(&aside, &old) && !has(&target, &old));
        }
    }

    #[test]
    fn a_folder_that_others_may_enter_is_no_dead_runs() {
        let root = tempfile::tempdir().unwrap();
        let (target, other) = (root.path().join("out"), root.path().join("other"));
        let run = write(&other, WriteMode::Error).unwrap();
        write(&target, WriteMode::Error).unwrap();
        let names = [layout::TMP, layout::TRY, layout::OLD]
            .map(|ending| root.path().join(layout::hidden_name(OsStr::new("out"), &run, ending)));
        let mut from = other;
        for name in names.into_iter().chain([target.join(layout::unfinished_name(&run))]) {
            fs::rename(&from, &name).unwrap();
            write(&target, WriteMode::Append).unwrap();
            assert!(has(&name, &run), "{name:?}");
            from = name;
        }
    }

    /// A run can be killed at any step: what it leaves must be recognisable as hidden, and a result must not be.
    #[test]
    fn folders_that_change_places_are_known_as_hidden_until_they_have() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("out");
        let modes = |root: &Path| -> Vec<(bool, bool)> {
            let root = Folder::open(root).unwrap();
            let mut names = names(root.path());
            names.sort();
            let folder = |name| root.open_in(name).unwrap();
            let modes = names.iter().map(folder);
            modes.map(|f| (f.is_hidden(), f.mode().unwrap() & 0o077 != 0)).collect()
        };
        let path = root.path().to_owned();
        write(&target, WriteMode::Overwrite).unwrap();
        assert_eq!(modes(&path), [(false, true)]);
        // A run that is killed just before or after the exchange leaves this state.
        watch::BEFORE.set(Some(Box::new(move || assert_eq!(modes(&path), [(true, true); 2]))));
        let run = write(&target, WriteMode::Overwrite).unwrap();
        watch::BEFORE.take();
        assert_eq!(modes(root.path()), [(false, true)]);
        let aside = root.path().join(layout::hidden_name(OsStr::new("out"), &run, layout::TMP));
        fs::rename(&target, &aside).unwrap();
        let folder = Folder::open(&aside).unwrap();
        folder.set_mode_hidden(0o755);
        // It is left alone while its run is alive.
        assert_eq!(folder.try_lock(), Lock::Held);
        write(&target, WriteMode::Error).unwrap();
        assert!(has(&aside, &run));
        folder.unlock();
        write(&target, WriteMode::Append).unwrap();
        assert_eq!(names(root.path()), ["out"]);
    }

    #[test]
    fn an_fsync_that_fails_after_the_last_move_says_that_the_result_is_there() {
        let root = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(root.path()).unwrap();
        let target = root.join("out");
        // Fsync order: the hidden folder and its subfolder, the target's, then the folder that holds the last name.
        for (mode, at, spared) in [
            (WriteMode::Error, &root, 0),
            (WriteMode::Overwrite, &root, 0),
            (WriteMode::Append, &target, 1),
        ] {
            let name = at.file_name().unwrap().to_str().unwrap().to_owned();
            watch::SPARED.set(spared);
            watch::FAILS.set(Some((name, rustix::io::Errno::IO.raw_os_error())));
            let error = write(&target, mode).unwrap_err().to_line();
            watch::FAILS.take();
            assert!(error.contains("but may not outlive a loss of power"), "{error}");
            assert!(!error.contains("kept in"), "{error}");
            assert_eq!(files(&Folder::open(&target).unwrap()).unwrap().len(), 1 + spared as usize);
            assert!(target.join(SUCCESS).exists());
        }
    }

    #[test]
    fn a_folder_of_a_run_is_its_owners_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let root = tempfile::tempdir().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        let target = root.path().join("out");
        fs::create_dir(&target).unwrap();
        let usual = mode(&target);
        for permissions in [0o777, 0o2775] {
            fs::set_permissions(&target, fs::Permissions::from_mode(permissions)).unwrap();
            for mode_ in [WriteMode::Overwrite, WriteMode::Append] {
                let staging = Staging::create(&target, mode_, &layout::new_run_id()).unwrap();
                assert_eq!(mode(staging.folder()) & 0o777, 0o700);
                staging.commit(|_| Ok(())).unwrap();
                assert_eq!(mode(&target), permissions);
            }
        }
        // A new output has the permissions that any new folder gets.
        write(&root.path().join("new"), WriteMode::Error).unwrap();
        assert_eq!(mode(&root.path().join("new")), usual);
    }

    #[test]
    fn an_append_that_fails_half_way_undoes_itself_and_is_kept() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("out");
        let old = write(&target, WriteMode::Error).unwrap();
        let before = names(&target);
        watch::FAILS.set(Some(("out".to_owned(), rustix::io::Errno::IO.raw_os_error())));
        let error = write(&target, WriteMode::Append).unwrap_err().to_line();
        watch::FAILS.take();
        let kept = names(&target).into_iter().find(|n| n.starts_with("_complete-")).unwrap();
        assert!(error.contains(&kept) && error.contains("Input/output error"), "{error}");
        let run = kept.strip_prefix("_complete-").unwrap();
        assert!(has(&target.join(&kept), run) && has(&target, &old) && !has(&target, run));
        assert_eq!(names(&target.join(ERRORS)).len(), 1);
        let names = names(&target);
        assert!(names.iter().filter(|name| **name != kept).eq(&before), "{names:?}");
        // No run removes kept files.
        write(&target, WriteMode::Append).unwrap();
        assert!(write(&target, WriteMode::Overwrite).unwrap_err().to_line().contains(&kept));
    }

    #[test]
    fn a_folder_has_as_many_files_as_it_is_asked_for() {
        let root = tempfile::tempdir().unwrap();
        let staging =
            Staging::create(&root.path().join("out"), WriteMode::Error, &layout::new_run_id());
        let staging = staging.unwrap();
        for name in ["_errors/a", "_errors/b", "c"] {
            staging.file(name).unwrap();
        }
        // An existing file is never overwritten.
        for name in ["_errors/a", "c"] {
            staging.file(name).unwrap_err();
        }
        fs::write(staging.folder().join("no folder"), b"").unwrap();
        staging.file("no folder/a").unwrap_err();
    }

    #[test]
    fn only_what_a_job_leaves_is_cleared() {
        let root = tempfile::tempdir().unwrap();
        let run = layout::new_run_id();
        let part = root.path().join(layout::part_name(0, &run, ".parquet"));
        for name in [SUCCESS, "thesis.doc"] {
            fs::write(root.path().join(name), b"").unwrap();
        }
        // A folder with the name of a part is not a part.
        fs::create_dir(&part).unwrap();
        clear(&Folder::open(root.path()).unwrap(), Place::Result).unwrap();
        assert_eq!(
            names(root.path()),
            [layout::part_name(0, &run, ".parquet"), "thesis.doc".to_owned()]
        );
    }

    /// The state after a run died while it appended to an output without a result.
    #[test]
    fn a_first_append_that_died_is_undone() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("out");
        let dead = layout::new_run_id();
        let hidden = target.join(layout::unfinished_name(&dead));
        fs::create_dir_all(&hidden).unwrap();
        Folder::open(&hidden).unwrap().set_mode(0o700);
        fs::write(hidden.join(SUCCESS), b"").unwrap();
        fs::write(target.join(layout::part_name(0, &dead, ".parquet")), b"").unwrap();
        let run = write(&target, WriteMode::Append).unwrap();
        assert!(has(&target, &run) && !has(&target, &dead) && !hidden.exists());
    }

    #[test]
    fn a_path_is_resolved_without_folders_that_are_not_there() {
        let root = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(root.path()).unwrap();
        fs::create_dir_all(root.join("there/deep")).unwrap();
        std::os::unix::fs::symlink("there/deep", root.join("link")).unwrap();
        for (given, want) in [
            ("a/../z", "z"),
            ("a/b/../../z", "z"),
            ("a/../there/../z", "z"),
            ("a/../link/../z", "there/z"),
            ("link/../z", "there/z"),
            ("there/./z", "there/z"),
            ("a/../there", "there"),
        ] {
            let got = resolve(&root.join(given)).unwrap();
            // `..` after existing folders is left to the system.
            let parent = fs::canonicalize(got.parent().unwrap()).unwrap();
            assert_eq!(parent.join(got.file_name().unwrap()), root.join(want), "{given}");
        }
        let here = std::env::current_dir().unwrap();
        for given in ["no such folder/..", "."] {
            assert_eq!(resolve(Path::new(given)).unwrap(), fs::canonicalize(&here).unwrap());
        }
        std::os::unix::fs::symlink("nothing", root.join("dangling")).unwrap();
        fs::write(root.join("file"), b"").unwrap();
        for given in ["dangling", "file/below"] {
            resolve(&root.join(given)).expect_err(given);
        }
        for name in ["dangling", "file"] {
            fs::remove_file(root.join(name)).unwrap();
        }
        write(&root.join("a/../z"), WriteMode::Error).unwrap();
        assert_eq!(names(&root), ["link", "there", "z"]);
    }
}
