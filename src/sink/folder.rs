//! A folder held open by a handle. Names in it are resolved relative to the handle, even if its path changes, and
//! links are never followed: nobody can slip in another folder, or a link, between two steps.
//!
//! Systems other than unix have no such handles here; the path is used instead.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Kind of a folder's entry; a link is neither file nor folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    File,
    Folder,
    Other,
}

/// Outcome of an attempt to take a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lock {
    Held,
    /// Another open handle holds it.
    Taken,
    /// The file system cannot lock folders.
    Unsupported,
}

#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    #[cfg(unix)]
    handle: File,
}

/// Fsyncs a file or a folder.
pub fn fsync(file: &File) -> io::Result<()> {
    #[cfg(all(test, target_os = "linux"))]
    watch::synced(file)?;
    file.sync_all()
}

impl Folder {
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its current path, where the system can tell (Linux); otherwise the path that it was opened by.
    pub fn path_now(&self) -> PathBuf {
        #[cfg(target_os = "linux")]
        {
            use std::os::fd::AsRawFd as _;
            let link = format!("/proc/self/fd/{}", self.handle.as_raw_fd());
            if let Ok(path) = fs::read_link(link) {
                return path;
            }
        }
        self.path.clone()
    }

    /// Opens the folder `name` in this one; fails if `name` is a link.
    pub fn open_in(&self, name: impl AsRef<OsStr>) -> io::Result<Self> {
        let path = self.path.join(name.as_ref());
        #[cfg(unix)]
        return Ok(Self { handle: unix::open(&self.handle, name.as_ref())?, path });
        #[cfg(not(unix))]
        match fs::symlink_metadata(&path)?.is_dir() {
            true => Ok(Self { path }),
            false => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    /// Like [`open_in`](Self::open_in), but `None` if there is nothing of that name.
    pub fn find(&self, name: impl AsRef<OsStr>) -> io::Result<Option<Self>> {
        match self.open_in(name) {
            Ok(folder) => Ok(Some(folder)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Whether `name` in this folder still refers to `folder`.
    pub fn has(&self, name: impl AsRef<OsStr>, folder: &Self) -> bool {
        #[cfg(unix)]
        return unix::id_in(&self.handle, name.as_ref()).ok() == folder.id().ok();
        #[cfg(not(unix))]
        {
            // Nothing tells folders apart here.
            let _ = folder;
            matches!(self.kind_of(name), Ok(Some(Kind::Folder)))
        }
    }

    /// Updates the path after the folder was renamed to `name` in `parent`.
    pub fn moved(self, parent: &Self, name: impl AsRef<OsStr>) -> Self {
        Self { path: parent.path.join(name.as_ref()), ..self }
    }

    /// Kind of the entry of that name, if there is one.
    pub fn kind_of(&self, name: impl AsRef<OsStr>) -> io::Result<Option<Kind>> {
        #[cfg(unix)]
        let kind = unix::kind_in(&self.handle, name.as_ref());
        #[cfg(not(unix))]
        let kind = fs::symlink_metadata(self.path.join(name.as_ref())).map(|m| kind(m.file_type()));
        match kind {
            Ok(kind) => Ok(Some(kind)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Tries to take an advisory lock, held until the handle is dropped or the process ends.
    pub fn try_lock(&self) -> Lock {
        #[cfg(unix)]
        return match self.handle.try_lock() {
            Ok(()) => Lock::Held,
            Err(fs::TryLockError::WouldBlock) => Lock::Taken,
            Err(fs::TryLockError::Error(_)) => Lock::Unsupported,
        };
        #[cfg(not(unix))]
        Lock::Unsupported
    }

    /// Takes the lock, waiting up to `patience` for another holder. Also succeeds where folders cannot be locked.
    pub fn lock(&self, patience: Duration) -> io::Result<()> {
        let start = Instant::now();
        while self.try_lock() == Lock::Taken {
            if start.elapsed() > patience {
                let why = "another process holds a lock on it";
                return Err(io::Error::new(io::ErrorKind::WouldBlock, why));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    pub fn unlock(&self) {
        #[cfg(unix)]
        let _ = self.handle.unlock();
    }

    /// Fsyncs the folder, if the file system supports it.
    pub fn sync(&self) -> io::Result<()> {
        #[cfg(unix)]
        {
            // The handle itself need not be one for reading.
            match unix::open(&self.handle, OsStr::new(".")).and_then(|folder| fsync(&folder)) {
                Err(e) if unix::is_unsupported(&e) => Ok(()),
                outcome => outcome,
            }
        }
        #[cfg(not(unix))]
        Ok(())
    }
}

#[cfg(unix)]
mod unix {
    use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown};

    use rustix::fs::{
        AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags, mkdirat, openat, renameat,
        renameat_with, statat, unlinkat,
    };
    use rustix::io::Errno;

    #[cfg(all(test, target_os = "linux"))]
    use super::watch;
    use super::{File, Folder, Kind, OsStr, OsString, Path, fs, io};

    /// The set-user-id bit. On a folder it means nothing to the system, and only the owner can set it.
    const HIDDEN: u32 = 0o4000;

    const FOLDER: OFlags = OFlags::DIRECTORY.union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

    pub fn open(folder: &File, name: &OsStr) -> io::Result<File> {
        Ok(openat(folder, name, FOLDER.union(OFlags::RDONLY), Mode::empty())?.into())
    }

    pub fn id_in(folder: &File, name: &OsStr) -> io::Result<(u64, u64)> {
        let found = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
        #[allow(clippy::unnecessary_cast, clippy::useless_conversion)]
        // Their types differ by system.
        Ok((found.st_dev as u64, found.st_ino as u64))
    }

    pub fn kind_in(folder: &File, name: &OsStr) -> io::Result<Kind> {
        let found = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(kind(FileType::from_raw_mode(found.st_mode)))
    }

    fn kind(file_type: FileType) -> Kind {
        match file_type {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Folder,
            _ => Kind::Other,
        }
    }

    /// Whether an fsync failed because the file system does not support it for folders.
    pub fn is_unsupported(error: &io::Error) -> bool {
        let none = [Errno::INVAL, Errno::BADF, Errno::NOTSUP, Errno::OPNOTSUPP, Errno::NOSYS];
        Errno::from_io_error(error).is_some_and(|errno| none.contains(&errno))
    }

    impl Folder {
        /// Opens a folder by its path, in which links are followed. On Linux, no permission to read it is needed.
        pub fn open(path: &Path) -> io::Result<Self> {
            let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
            let flags = OFlags::DIRECTORY.union(OFlags::CLOEXEC);
            let read = openat(CWD, path, flags.union(OFlags::RDONLY), Mode::empty());
            #[cfg(any(target_os = "linux", target_os = "android"))]
            let read = match read {
                Err(Errno::ACCESS) => openat(CWD, path, flags.union(OFlags::PATH), Mode::empty()),
                read => read,
            };
            Ok(Self { path: path.to_owned(), handle: read?.into() })
        }

        /// Its device and inode number.
        pub fn id(&self) -> io::Result<(u64, u64)> {
            self.handle.metadata().map(|m| (m.dev(), m.ino()))
        }

        /// Whether this process's effective user owns it.
        pub fn is_own(&self) -> bool {
            let owner = self.handle.metadata().map(|m| m.uid());
            owner.is_ok_and(|owner| owner == rustix::process::geteuid().as_raw())
        }

        /// Whether its file system is local, so that no other machine can hold a lock on it.
        pub fn is_local(&self) -> bool {
            #[cfg(any(target_os = "linux", target_os = "android"))]
            {
                // ext, xfs, btrfs, tmpfs, overlayfs, f2fs, zfs, bcachefs, ramfs.
                const LOCAL: [u32; 9] = [
                    0xEF53,
                    0x5846_5342,
                    0x9123_683E,
                    0x0102_1994,
                    0x794C_7630,
                    0xF2F5_2010,
                    0x2FC1_2FC1,
                    0xCA45_1A4E,
                    0x8584_58F6,
                ];
                rustix::fs::fstatfs(&self.handle)
                    .is_ok_and(|fs| LOCAL.contains(&(fs.f_type as u32)))
            }
            #[cfg(not(any(target_os = "linux", target_os = "android")))]
            false
        }

        pub fn entries(&self) -> io::Result<Vec<(OsString, Kind)>> {
            let mut entries = Vec::new();
            // The handle itself need not be one for reading.
            for entry in Dir::new(open(&self.handle, OsStr::new("."))?)? {
                let entry = entry?;
                let name = OsString::from_vec(entry.file_name().to_bytes().to_vec());
                if name.as_bytes() == b"." || name.as_bytes() == b".." {
                    continue;
                }
                let kind = match entry.file_type() {
                    // Not all file systems report the kind.
                    FileType::Unknown => match self.kind_of(&name)? {
                        Some(kind) => kind,
                        None => continue,
                    },
                    file_type => kind(file_type),
                };
                entries.push((name, kind));
            }
            Ok(entries)
        }

        /// Makes a folder in it with these permissions, minus the umask.
        pub fn make(&self, name: impl AsRef<OsStr>, mode: u32) -> io::Result<()> {
            let mode = Mode::from_raw_mode(mode as _);
            Ok(mkdirat(&self.handle, name.as_ref(), mode)?)
        }

        /// Makes a file; fails if the name exists.
        pub fn new_file(&self, name: impl AsRef<OsStr>) -> io::Result<File> {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
            let mode = Mode::from_raw_mode(0o666);
            Ok(openat(&self.handle, name.as_ref(), flags | OFlags::CLOEXEC, mode)?.into())
        }

        /// Renames an entry of it, replacing a file or an empty folder of the new name.
        pub fn rename(&self, name: impl AsRef<OsStr>, new: impl AsRef<OsStr>) -> io::Result<()> {
            Ok(renameat(&self.handle, name.as_ref(), &self.handle, new.as_ref())?)
        }

        /// Moves an entry to another folder; fails if the new name exists there.
        pub fn move_to(
            &self,
            name: impl AsRef<OsStr>,
            to: &Self,
            new: impl AsRef<OsStr>,
        ) -> io::Result<()> {
            let (name, new) = (name.as_ref(), new.as_ref());
            #[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
            match renameat_with(&self.handle, name, &to.handle, new, RenameFlags::NOREPLACE) {
                Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
                outcome => return Ok(outcome?),
            }
            // Not atomic here: the system has no rename that never replaces.
            if to.kind_of(new)?.is_some() {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            Ok(renameat(&self.handle, name, &to.handle, new)?)
        }

        /// Exchanges two folders in it atomically; false where the system cannot.
        pub fn exchange(&self, a: impl AsRef<OsStr>, b: impl AsRef<OsStr>) -> io::Result<bool> {
            #[cfg(all(test, target_os = "linux"))]
            if watch::NO_EXCHANGE.get() {
                return Ok(false);
            }
            #[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
            {
                let (a, b) = (a.as_ref(), b.as_ref());
                match renameat_with(&self.handle, a, &self.handle, b, RenameFlags::EXCHANGE) {
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

        pub fn remove_file(&self, name: impl AsRef<OsStr>) -> io::Result<()> {
            Ok(unlinkat(&self.handle, name.as_ref(), AtFlags::empty())?)
        }

        /// Removes an empty folder in it.
        pub fn remove_folder(&self, name: impl AsRef<OsStr>) -> io::Result<()> {
            Ok(unlinkat(&self.handle, name.as_ref(), AtFlags::REMOVEDIR)?)
        }

        /// Its permissions.
        pub fn mode(&self) -> io::Result<u32> {
            self.handle.metadata().map(|m| m.mode() & 0o7777)
        }

        /// Sets its permissions, and returns whether that worked: a file system without permissions refuses.
        pub fn set_mode(&self, mode: u32) -> bool {
            self.handle.set_permissions(fs::Permissions::from_mode(mode)).is_ok()
        }

        /// Sets its permissions and the hidden bit, or only the permissions if the bit is refused.
        pub fn set_mode_hidden(&self, mode: u32) {
            if !self.set_mode(mode | HIDDEN) {
                self.set_mode(mode);
            }
        }

        /// Sets or clears the hidden bit, which says that the content is not, or no longer, a result.
        pub fn set_hidden(&self, is_hidden: bool) {
            if let Ok(mode) = self.mode()
                && (mode & HIDDEN != 0) != is_hidden
            {
                self.set_mode(mode ^ HIDDEN);
            }
        }

        pub fn is_hidden(&self) -> bool {
            self.mode().is_ok_and(|mode| mode & HIDDEN != 0)
        }

        /// Stays private, but takes the group and the set-group-id bit of `other`, so that new files get its group.
        pub fn hand_down(&self, other: &Self) -> io::Result<()> {
            let of = other.handle.metadata()?;
            let _ = fchown(&self.handle, None, Some(of.gid()));
            self.set_mode(0o700 | of.mode() & 0o2000);
            Ok(())
        }

        /// Takes the owner and the permissions of `old`, as far as we may set them.
        pub fn take_after(&self, old: &Self) -> io::Result<()> {
            let of = old.handle.metadata()?;
            // Separately: we may be allowed to set the group, but not the owner.
            let _ = fchown(&self.handle, None, Some(of.gid()));
            let _ = fchown(&self.handle, Some(of.uid()), None);
            // After the owner: changing the owner clears some mode bits.
            self.set_mode(of.mode() & 0o7777 & !HIDDEN);
            Ok(())
        }

        /// Gives its owner all permissions, which filling and removing it require.
        pub fn make_writable(&self) {
            if let Ok(mode) = self.mode()
                && mode & 0o700 != 0o700
            {
                self.set_mode(mode | 0o700);
            }
        }
    }
}

#[cfg(not(unix))]
fn kind(file_type: fs::FileType) -> Kind {
    if file_type.is_file() {
        Kind::File
    } else if file_type.is_dir() {
        Kind::Folder
    } else {
        Kind::Other
    }
}

#[cfg(not(unix))]
impl Folder {
    pub fn open(path: &Path) -> io::Result<Self> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        match fs::metadata(path)?.is_dir() {
            true => Ok(Self { path: path.to_owned() }),
            false => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    pub fn id(&self) -> io::Result<(u64, u64)> {
        Ok((0, 0))
    }

    pub fn is_own(&self) -> bool {
        // Nothing tells owners apart here.
        true
    }

    pub fn is_local(&self) -> bool {
        false
    }

    pub fn entries(&self) -> io::Result<Vec<(OsString, Kind)>> {
        let entry = |entry: io::Result<fs::DirEntry>| {
            entry.and_then(|entry| Ok((entry.file_name(), kind(entry.file_type()?))))
        };
        fs::read_dir(&self.path)?.map(entry).collect()
    }

    pub fn make(&self, name: impl AsRef<OsStr>, _mode: u32) -> io::Result<()> {
        fs::create_dir(self.path.join(name.as_ref()))
    }

    pub fn new_file(&self, name: impl AsRef<OsStr>) -> io::Result<File> {
        File::create_new(self.path.join(name.as_ref()))
    }

    pub fn rename(&self, name: impl AsRef<OsStr>, new: impl AsRef<OsStr>) -> io::Result<()> {
        fs::rename(self.path.join(name.as_ref()), self.path.join(new.as_ref()))
    }

    pub fn move_to(
        &self,
        name: impl AsRef<OsStr>,
        to: &Self,
        new: impl AsRef<OsStr>,
    ) -> io::Result<()> {
        let new = to.path.join(new.as_ref());
        match fs::symlink_metadata(&new) {
            Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
            Err(_) => fs::rename(self.path.join(name.as_ref()), new),
        }
    }

    pub fn exchange(&self, _a: impl AsRef<OsStr>, _b: impl AsRef<OsStr>) -> io::Result<bool> {
        Ok(false)
    }

    pub fn remove_file(&self, name: impl AsRef<OsStr>) -> io::Result<()> {
        fs::remove_file(self.path.join(name.as_ref()))
    }

    pub fn remove_folder(&self, name: impl AsRef<OsStr>) -> io::Result<()> {
        fs::remove_dir(self.path.join(name.as_ref()))
    }

    pub fn mode(&self) -> io::Result<u32> {
        Ok(0)
    }

    pub fn set_mode_hidden(&self, _mode: u32) {}

    pub fn set_hidden(&self, _is_hidden: bool) {}

    pub fn is_hidden(&self) -> bool {
        false
    }

    pub fn take_after(&self, _old: &Self) -> io::Result<()> {
        Ok(())
    }

    pub fn hand_down(&self, _other: &Self) -> io::Result<()> {
        Ok(())
    }

    pub fn make_writable(&self) {}
}

/// Test hooks into the file system.
#[cfg(all(test, target_os = "linux"))]
pub mod watch {
    use std::cell::{Cell, RefCell};
    use std::os::fd::AsRawFd as _;

    use super::{File, PathBuf, fs, io};

    thread_local! {
        /// Paths that this thread has fsynced.
        pub static SYNCED: RefCell<Vec<PathBuf>> = const { RefCell::new(Vec::new()) };
        /// Makes fsyncs fail with this error number: of folders, if the name is `/`, and of paths that end in the name.
        pub static FAILS: RefCell<Option<(String, i32)>> = const { RefCell::new(None) };
        /// Number of such fsyncs that succeed before the first failure.
        pub static SPARED: Cell<u32> = const { Cell::new(0) };
        /// Makes `Folder::exchange` unsupported.
        pub static NO_EXCHANGE: Cell<bool> = const { Cell::new(false) };
        /// Called between the two renames that replace an exchange.
        pub static BETWEEN: Cell<Option<fn()>> = const { Cell::new(None) };
        /// Called before two folders are exchanged.
        pub static BEFORE: RefCell<Option<Box<dyn Fn()>>> = const { RefCell::new(None) };
    }

    pub fn before_exchange() {
        BEFORE.with_borrow(|call| call.iter().for_each(|call| call()));
    }

    pub fn between_renames() {
        if let Some(call) = BETWEEN.get() {
            call();
        }
    }

    pub fn synced(file: &File) -> io::Result<()> {
        let path = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
        SYNCED.with_borrow_mut(|synced| synced.push(path.clone()));
        FAILS.with_borrow(|fails| match fails {
            Some((name, errno)) if name == "/" && path.is_dir() || path.ends_with(name) => {
                if let Some(spared) = SPARED.get().checked_sub(1) {
                    SPARED.set(spared);
                    return Ok(());
                }
                Err(io::Error::from_raw_os_error(*errno))
            }
            _ => Ok(()),
        })
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use rustix::fs::{CWD, Mode, OFlags, openat};

    use super::*;

    #[test]
    fn a_folder_that_was_not_opened_for_reading_is_listed_if_it_may_be() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("a"), b"").unwrap();
        let handle =
            openat(CWD, root.path(), OFlags::DIRECTORY | OFlags::PATH, Mode::empty()).unwrap();
        let folder = Folder { path: root.path().to_owned(), handle: handle.into() };
        assert_eq!(folder.entries().unwrap(), [("a".into(), Kind::File)]);
    }

    #[test]
    fn only_what_is_not_there_is_not_found() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::open(root.path()).unwrap();
        assert!(folder.find("a").unwrap().is_none() && folder.kind_of("a").unwrap().is_none());
        let too_long = "a".repeat(300);
        folder.find(&too_long).unwrap_err();
        folder.kind_of(&too_long).unwrap_err();
    }

    #[test]
    fn an_owner_gets_back_what_his_folder_lacks() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::open(root.path()).unwrap();
        for (mode, want) in [(0o550, 0o750), (0o000, 0o700), (0o755, 0o755), (0o1644, 0o1744)] {
            folder.set_mode(mode);
            folder.make_writable();
            assert_eq!(folder.mode().unwrap(), want);
        }
        // No other machine can lock `/proc`, but it is not in the list of local file systems.
        assert!(!Folder::open(Path::new("/proc")).unwrap().is_local());
    }
}
