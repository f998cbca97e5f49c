//! A transaction's directory on a real file system.

use std::fs::{File, TryLockError};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::{Dir, Disk, FileDisk, Latch};

/// Longer names are refused by common file systems.
const MAX_NAME_BYTES: usize = 255;

/// A directory of files that are disks, mode 0700, its files 0600. It is held by its descriptor:
/// where its path is renamed or replaced, it still writes where it began.
///
/// Each file is latched, and so is the directory: after a failed flush of it nothing is believed
/// or created any more.
pub struct HostDir {
    dir: File,
    path: PathBuf,
    failure: OnceLock<String>,
}

impl HostDir {
    /// Opens an existing directory. The last part of its path must not be a link.
    ///
    /// # Errors
    /// The kernel's, with the path.
    pub fn open(path: &Path) -> io::Result<HostDir> {
        let dir = File::options()
            .read(true)
            .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
            .open(path)
            .map_err(|e| named("opening", path, &e))?;
        Ok(HostDir {
            dir,
            path: path.into(),
            failure: OnceLock::new(),
        })
    }

    /// Its owner, and whether others can write to it.
    ///
    /// # Errors
    /// The kernel's, with the path.
    pub fn owner(&self) -> io::Result<(u32, bool)> {
        use std::os::unix::fs::MetadataExt;
        let meta = self.dir.metadata();
        let meta = meta.map_err(|e| named("looking at", &self.path, &e))?;
        Ok((meta.uid(), meta.mode() & 0o022 != 0))
    }

    /// Creates directory `name`, which must not exist, in the directory `parent`, for nobody but
    /// its owner. Durable on return.
    ///
    /// # Errors
    /// `AlreadyExists`, or the kernel's.
    pub fn create_private(parent: &Path, name: &str) -> io::Result<HostDir> {
        check_name(name)?;
        let path = parent.join(name);
        let above = HostDir::open(parent)?;
        mkdirat(&above.dir, name, Mode::S_IRWXU)
            .map_err(|e| named("creating", &path, &e.into()))?;
        // Barrier: the name of the directory must not be lost while files in it are relied on.
        above.flush()?;
        HostDir::open(&path)
    }

    /// The path that it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Keeps others who ask out of the directory until this is dropped. `false`: somebody is in.
    ///
    /// # Errors
    /// The kernel's.
    pub fn try_lock(&self) -> io::Result<bool> {
        match self.dir.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(e)) => Err(named("locking", &self.path, &e)),
        }
    }

    fn check(&self) -> io::Result<()> {
        match self.failure.get() {
            Some(first) => Err(io::Error::other(format!(
                "not attempted after an earlier failure: {first}"
            ))),
            None => Ok(()),
        }
    }

    fn file(&self, name: &str, doing: &str, flags: OFlag) -> io::Result<Arc<dyn Disk>> {
        self.check()?;
        check_name(name)?;
        let path = self.path.join(name);
        // O_NONBLOCK: a pipe that somebody put there must not make us wait.
        let flags =
            flags | OFlag::O_RDWR | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        let fd =
            openat(&self.dir, name, flags, mode).map_err(|e| named(doing, &path, &e.into()))?;
        Ok(Arc::new(Latch::new(FileDisk::growing(fd.into(), path)?)))
    }
}

impl Dir for HostDir {
    fn create(&self, name: &str) -> io::Result<Arc<dyn Disk>> {
        self.file(name, "creating", OFlag::O_CREAT | OFlag::O_EXCL)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn Disk>> {
        self.file(name, "opening", OFlag::empty())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.check()?;
        check_name(from)?;
        check_name(to)?;
        renameat(&self.dir, from, &self.dir, to)
            .map_err(|e| named("renaming", &self.path.join(from), &e.into()))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.check()?;
        check_name(name)?;
        unlinkat(&self.dir, name, UnlinkatFlags::NoRemoveDir)
            .map_err(|e| named("removing", &self.path.join(name), &e.into()))
    }

    /// Regular files alone; names that are not UTF-8 are not ours, and are left out.
    fn names(&self) -> io::Result<Vec<String>> {
        // Through the descriptor: the path may have come to mean another directory.
        let here = format!("/proc/self/fd/{}", self.dir.as_raw_fd());
        let failed = |e: io::Error| named("listing", &self.path, &e);
        let mut names = Vec::new();
        for entry in std::fs::read_dir(here).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.file_type().map_err(failed)?.is_file()
                && let Ok(name) = entry.file_name().into_string()
            {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn flush(&self) -> io::Result<()> {
        self.check()?;
        // Barrier: the caller's; created, renamed and removed names are durable after it.
        self.dir.sync_all().map_err(|e| {
            let e = named("flushing", &self.path, &e);
            let _ = self.failure.set(e.to_string());
            e
        })
    }
}

fn named(doing: &str, path: &Path, e: &io::Error) -> io::Error {
    io::Error::new(e.kind(), format!("{doing} {}: {e}", path.display()))
}

/// A name must stay inside the directory, whatever wrote it into a journal.
fn check_name(name: &str) -> io::Result<()> {
    let bad = name.is_empty()
        || name == "."
        || name == ".."
        || name.len() > MAX_NAME_BYTES
        || name.bytes().any(|b| b == b'/' || b == 0);
    if bad {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("`{}` is not the name of a file", crate::units::escape(name)),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{DiskRead, read_vec};
    use std::os::unix::fs::{MetadataExt, symlink};

    fn temporary() -> (tempfile::TempDir, HostDir) {
        let parent = tempfile::tempdir().unwrap();
        let dir = HostDir::create_private(parent.path(), "tx").unwrap();
        (parent, dir)
    }

    #[test]
    fn files_grow_as_they_are_written_and_are_private() {
        let (parent, dir) = temporary();
        let disk = dir.create("journal").unwrap();
        disk.write_at(10, b"abc").unwrap();
        disk.flush().unwrap();
        dir.flush().unwrap();
        assert_eq!(disk.len_bytes(), 13, "exact to the byte");
        let again = dir.open("journal").unwrap();
        disk.write_at(13, b"def").unwrap();
        assert_eq!(read_vec(&again, 10, 6).unwrap(), b"abcdef");
        assert_eq!(
            dir.create("journal").err().unwrap().kind(),
            io::ErrorKind::AlreadyExists
        );
        let mode = |p: &Path| std::fs::metadata(p).unwrap().mode() & 0o777;
        assert_eq!(mode(&parent.path().join("tx")), 0o700);
        assert_eq!(mode(&parent.path().join("tx/journal")), 0o600);
        assert!(HostDir::create_private(parent.path(), "tx").is_err());
    }

    #[test]
    fn names_are_listed_renamed_and_removed() {
        let (parent, dir) = temporary();
        for name in ["b", "a"] {
            dir.create(name).unwrap();
        }
        std::fs::create_dir(parent.path().join("tx/sub")).unwrap();
        std::fs::write(parent.path().join("outside"), b"x").unwrap();
        symlink("../outside", parent.path().join("tx/link")).unwrap();
        assert_eq!(dir.names().unwrap(), ["a", "b"]);
        dir.rename("a", "b").unwrap();
        assert_eq!(dir.names().unwrap(), ["b"]);
        dir.remove("b").unwrap();
        assert_eq!(dir.remove("b").unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(dir.open("b").is_err());
        assert!(dir.open("link").is_err(), "a link is not followed");
        assert!(dir.open("sub").is_err());
    }

    #[test]
    fn a_name_cannot_leave_the_directory() {
        let (parent, dir) = temporary();
        std::fs::write(parent.path().join("outside"), b"x").unwrap();
        for name in ["", ".", "..", "../outside", "a/b", "a\0b", &"x".repeat(256)] {
            assert!(dir.create(name).is_err(), "{name:?}");
            assert!(dir.open(name).is_err(), "{name:?}");
            assert!(dir.remove(name).is_err(), "{name:?}");
            assert!(dir.rename(name, "x").is_err(), "{name:?}");
        }
        dir.create("a").unwrap();
        assert!(dir.rename("a", "../a").is_err());
    }

    #[test]
    fn a_directory_that_is_moved_away_is_still_the_same() {
        let (parent, dir) = temporary();
        std::fs::rename(parent.path().join("tx"), parent.path().join("moved")).unwrap();
        std::fs::create_dir(parent.path().join("tx")).unwrap();
        dir.create("journal").unwrap();
        assert_eq!(dir.names().unwrap(), ["journal"]);
        assert!(parent.path().join("moved/journal").exists());
        let link = parent.path().join("link");
        symlink(parent.path().join("moved"), &link).unwrap();
        assert!(HostDir::open(&link).is_err());
    }
}
