//! Damaged messages are put aside, and back again: moved, never deleted.
//!
//! ```text
//! DIR/log              a line of JSON for each step
//! DIR/001/<path>       what the first run moved, below the path that it had
//! ```
//!
//! 1. Before a file is moved, a line that says from where, to where and what it was is durable.
//! 2. A move replaces nothing, in either direction.
//! 3. Across file systems the copy is durable, and was read back and compared, before the original
//!    is unlinked.
//! 4. What is moved is what was found: another inode, length or time is another file, and is left.
//! 5. No link is followed on the way to a file: the directories belong to the users of the mail.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, Timespec, Timestamps, fchmod, fchown,
    fgetxattr, flistxattr, fsetxattr, fstat, futimens, mkdirat, openat, renameat_with, statat,
    unlinkat,
};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::finding::{Confidence, Finding, Kind, Name, Stamp, Store};
use super::place::{last, parent};

/// Moves that one flush of the log covers.
const BATCH: usize = 64;
const LOG: &str = "log";

/// What is to be moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Of these kinds; all that are about one message, where there is none.
    pub kinds: Vec<Kind>,
    /// At least so sure.
    pub at_least: Confidence,
}

impl Choice {
    /// Whether a finding is chosen, and about a file that holds one message and nothing else.
    pub fn takes(&self, finding: &Finding) -> Taken {
        let kind = match self.kinds.is_empty() {
            true => !matches!(
                finding.kind,
                Kind::MetadataDamaged | Kind::IndexDisagrees | Kind::Missing
            ),
            false => self.kinds.contains(&finding.kind),
        };
        if !kind || finding.confidence < self.at_least {
            return Taken::No;
        }
        match finding.store {
            Store::Mbox | Store::Mdbox => Taken::Shared,
            _ if finding.kind == Kind::MetadataDamaged => Taken::Shared,
            _ => Taken::Yes,
        }
    }
}

/// See [`Choice::takes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It is moved.
    Yes,
    /// It was not chosen.
    No,
    /// Other messages are in the same file: it stays.
    Shared,
}

/// A line of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub enum Line {
    /// About to be moved.
    Move(Moved),
    /// It was.
    Done {
        /// Which.
        number: u64,
    },
    /// It could not be.
    Failed {
        /// Which.
        number: u64,
        /// Why.
        error: String,
    },
    /// About to be put back.
    Restore {
        /// Which.
        number: u64,
    },
    /// It is back.
    Restored {
        /// Which.
        number: u64,
    },
}

/// What is moved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// Counted through the whole log.
    pub number: u64,
    /// Where it was, absolute.
    pub from: Name,
    /// Where it is now, from the directory on.
    pub to: Name,
    /// What it was.
    pub stamp: Stamp,
    /// Why it was moved.
    pub kind: Kind,
    /// How sure that was.
    pub confidence: Confidence,
}

/// How a run ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Ran {
    /// Files that were moved.
    pub moved: u64,
    /// Those that were left, and why.
    pub left: Vec<(Name, String)>,
}

/// The directory that files are moved to.
#[derive(Debug)]
pub struct Quarantine {
    dir: OwnedFd,
    path: PathBuf,
    log: File,
    lines: Vec<Line>,
}

impl Quarantine {
    /// Opens it, and makes it where it is not there.
    ///
    /// # Errors
    /// The kernel's; `InvalidData` where the log is none.
    pub fn create(path: &Path) -> io::Result<Quarantine> {
        match std::fs::DirBuilder::new().create(path) {
            Ok(()) => {
                std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o700))?
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                let empty = std::fs::read_dir(path)?.next().is_none();
                if !empty && !path.join(LOG).exists() {
                    return Err(io::Error::other("it has other files, and no log"));
                }
            }
            Err(e) => return Err(e),
        }
        Quarantine::at(path, OFlags::CREATE)
    }

    /// Opens one that is there.
    ///
    /// # Errors
    /// As [`Quarantine::create`].
    pub fn open(path: &Path) -> io::Result<Quarantine> {
        Quarantine::at(path, OFlags::empty())
    }

    fn at(path: &Path, flags: OFlags) -> io::Result<Quarantine> {
        let dir = openat(CWD, path, DIRECTORY, Mode::empty())?;
        let flags = flags | OFlags::RDWR | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let log = File::from(openat(&dir, LOG, flags, Mode::RUSR | Mode::WUSR)?);
        match log.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                return Err(io::Error::other("another process works on it"));
            }
            Err(std::fs::TryLockError::Error(e)) => return Err(e),
        }
        let lines = read_log(&log)?;
        // Barrier: the names of the log and the directory must outlive a power cut.
        rustix::fs::fsync(&dir)?;
        let above = path.parent().filter(|p| !p.as_os_str().is_empty());
        File::open(above.unwrap_or(Path::new(".")))?.sync_all()?;
        Ok(Quarantine {
            dir,
            path: path.into(),
            log,
            lines,
        })
    }

    fn write(&mut self, lines: &[Line]) -> io::Result<()> {
        let mut text = Vec::new();
        for line in lines {
            serde_json::to_writer(&mut text, line)?;
            text.push(b'\n');
        }
        self.log.write_all(&text)?;
        // Barrier: what the log tells of happens after it is durable.
        self.log.sync_data()?;
        self.lines.extend_from_slice(lines);
        Ok(())
    }

    /// Moves the files of these findings, each once.
    ///
    /// # Errors
    /// Where the log cannot be written; files that cannot be moved are left, and named.
    pub fn take(&mut self, findings: &[Finding]) -> io::Result<Ran> {
        let runs = self.lines.iter().filter_map(|line| match line {
            Line::Move(moved) => moved.to.0.split(|b| *b == b'/').next().map(<[u8]>::to_vec),
            _ => None,
        });
        let run = runs.collect::<BTreeSet<_>>().len() + 1;
        let mut number = self
            .lines
            .iter()
            .filter(|l| matches!(l, Line::Move(_)))
            .count() as u64;
        let mut seen = BTreeSet::new();
        let mut result = Ran::default();
        let mut batch = Vec::new();
        for finding in findings {
            if !seen.insert(&finding.path) {
                continue;
            }
            if !finding.path.0.starts_with(b"/") {
                result
                    .left
                    .push((finding.path.clone(), "its path is not absolute".into()));
                continue;
            }
            if let Err(e) = look_at(&finding.path.0, &finding.stamp) {
                result.left.push((finding.path.clone(), e.to_string()));
                continue;
            }
            let to = [format!("{run:03}").as_bytes(), &finding.path.0].concat();
            batch.push(Moved {
                number,
                from: finding.path.clone(),
                to: Name(to),
                stamp: finding.stamp,
                kind: finding.kind,
                confidence: finding.confidence,
            });
            number += 1;
            if batch.len() >= BATCH {
                self.take_batch(&std::mem::take(&mut batch), &mut result)?;
            }
        }
        self.take_batch(&batch, &mut result)?;
        Ok(result)
    }

    fn take_batch(&mut self, batch: &[Moved], result: &mut Ran) -> io::Result<()> {
        let intents: Vec<Line> = batch.iter().cloned().map(Line::Move).collect();
        self.write(&intents)?;
        let mut after = Vec::new();
        for moved in batch {
            let number = moved.number;
            match self.move_away(moved) {
                Ok(()) => {
                    result.moved += 1;
                    after.push(Line::Done { number });
                }
                Err(e) => {
                    let error = e.to_string();
                    result.left.push((moved.from.clone(), error.clone()));
                    after.push(Line::Failed { number, error });
                }
            }
        }
        self.write(&after)
    }

    fn move_away(&self, moved: &Moved) -> io::Result<()> {
        let source = open_directory(parent(&moved.from.0))?;
        check(&source, last(&moved.from.0), &moved.stamp)?;
        let target = self.make_directories(parent(&moved.to.0))?;
        rename_or_copy(&source, &target, last(&moved.from.0), &moved.stamp)
    }

    /// The directories that a moved file lies in, below the path that it had.
    fn make_directories(&self, below: &[u8]) -> io::Result<OwnedFd> {
        let mut at = self.dir.try_clone()?;
        for part in below.split(|b| *b == b'/').filter(|part| !part.is_empty()) {
            match mkdirat(&at, part, Mode::RWXU) {
                // Barrier: the way to a file must be durable before the file is there alone.
                Ok(()) => rustix::fs::fsync(&at)?,
                Err(Errno::EXIST) => {}
                Err(e) => return Err(e.into()),
            }
            at = openat(&at, part, DIRECTORY, Mode::empty())?;
        }
        Ok(at)
    }

    /// Puts everything back that is still here, newest first.
    ///
    /// # Errors
    /// Where the log cannot be written; files that cannot be put back stay, and are named.
    pub fn restore(&mut self) -> io::Result<Ran> {
        let mut waiting = self.waiting();
        waiting.reverse();
        let mut result = Ran::default();
        for batch in waiting.chunks(BATCH) {
            let intents: Vec<Line> = batch
                .iter()
                .map(|m| Line::Restore { number: m.number })
                .collect();
            self.write(&intents)?;
            let mut after = Vec::new();
            for moved in batch {
                match self.move_back(moved) {
                    Ok(true) => {
                        result.moved += 1;
                        after.push(Line::Restored {
                            number: moved.number,
                        });
                    }
                    Ok(false) => after.push(Line::Restored {
                        number: moved.number,
                    }),
                    Err(e) => result.left.push((moved.from.clone(), e.to_string())),
                }
            }
            self.write(&after)?;
        }
        Ok(result)
    }

    /// What was moved, or may have been when a crash came, and is not back.
    pub fn waiting(&self) -> Vec<Moved> {
        let ended: BTreeSet<u64> = (self.lines.iter())
            .filter_map(|line| match line {
                Line::Restored { number } | Line::Failed { number, .. } => Some(*number),
                _ => None,
            })
            .collect();
        let moves = self.lines.iter().filter_map(|line| match line {
            Line::Move(moved) if !ended.contains(&moved.number) => Some(moved.clone()),
            _ => None,
        });
        moves.collect()
    }

    /// `false`: it is where it belongs already, as a crash came before it was moved.
    fn move_back(&self, moved: &Moved) -> io::Result<bool> {
        let name = last(&moved.from.0);
        let home = open_directory(parent(&moved.from.0))?;
        let here = match self.find(parent(&moved.to.0)) {
            Ok(here) => here,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return match check(&home, name, &moved.stamp) {
                    Ok(()) => Ok(false),
                    Err(_) => Err(e),
                };
            }
            Err(e) => return Err(e),
        };
        let stat = match statat(&here, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => {
                return match check(&home, name, &moved.stamp) {
                    Ok(()) => Ok(false),
                    Err(_) => Err(Errno::NOENT.into()),
                };
            }
            Err(e) => return Err(e.into()),
        };
        // A copy has another inode; all else must be as it was.
        let stamp = Stamp {
            inode: stat.st_ino,
            ..moved.stamp
        };
        check(&here, name, &stamp)?;
        if check(&home, name, &moved.stamp).is_ok() && stat.st_ino != moved.stamp.inode {
            // A crash came between the copy and the unlinking. Nothing is deleted.
            return Ok(false);
        }
        rename_or_copy(&here, &home, name, &stamp)?;
        Ok(true)
    }

    fn find(&self, below: &[u8]) -> io::Result<OwnedFd> {
        let mut at = self.dir.try_clone()?;
        for part in below.split(|b| *b == b'/').filter(|part| !part.is_empty()) {
            at = openat(&at, part, DIRECTORY, Mode::empty())?;
        }
        Ok(at)
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC)
    .union(OFlags::NOFOLLOW);

/// A last line without an end is one that a power cut kept: nothing happened because of it.
fn read_log(log: &File) -> io::Result<Vec<Line>> {
    let mut reader = BufReader::new(log.try_clone()?);
    let (mut lines, mut text) = (Vec::new(), Vec::new());
    let mut whole = 0u64;
    while reader.read_until(b'\n', &mut text)? > 0 {
        if text.last() != Some(&b'\n') {
            log.set_len(whole)?;
            break;
        }
        let line = serde_json::from_slice(&text)
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, format!("its log: {e}")))?;
        lines.push(line);
        whole += text.len() as u64;
        text.clear();
    }
    Ok(lines)
}

/// Opens an absolute path part by part, through no link.
fn open_directory(path: &[u8]) -> io::Result<OwnedFd> {
    let mut at = openat(CWD, "/", DIRECTORY, Mode::empty())?;
    for part in path.split(|b| *b == b'/').filter(|part| !part.is_empty()) {
        at = openat(&at, part, DIRECTORY, Mode::empty()).map_err(|e| match e {
            Errno::LOOP | Errno::NOTDIR => io::Error::other("there is a link on its path"),
            e => e.into(),
        })?;
    }
    Ok(at)
}

fn look_at(path: &[u8], stamp: &Stamp) -> io::Result<()> {
    check(&open_directory(parent(path))?, last(path), stamp)
}

fn check(dir: &OwnedFd, name: &[u8], stamp: &Stamp) -> io::Result<()> {
    let stat = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let now = Stamp {
        size: stat.st_size as u64,
        inode: stat.st_ino,
        mtime: stat.st_mtime,
        mtime_nanos: stat.st_mtime_nsec as u32,
    };
    let same = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && now == *stamp;
    match same {
        true => Ok(()),
        false => Err(io::Error::other(
            "it is not the file any more that was found",
        )),
    }
}

fn rename_or_copy(
    source: &OwnedFd,
    target: &OwnedFd,
    name: &[u8],
    stamp: &Stamp,
) -> io::Result<()> {
    match renameat_with(source, name, target, name, RenameFlags::NOREPLACE) {
        Ok(()) => {
            // Barrier: the new name before the loss of the old one, as far as one can ask for it.
            rustix::fs::fsync(target)?;
            rustix::fs::fsync(source)?;
            Ok(())
        }
        Err(Errno::XDEV) => copy(source, target, name, stamp),
        // A file system without RENAME_NOREPLACE.
        Err(Errno::INVAL) => copy(source, target, name, stamp),
        Err(Errno::EXIST) => Err(io::Error::other("another file has its name")),
        Err(e) => Err(e.into()),
    }
}

fn copy(source: &OwnedFd, target: &OwnedFd, name: &[u8], stamp: &Stamp) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut from = File::from(openat(source, name, flags, Mode::empty())?);
    let stat = fstat(&from)?;
    // Under a name of its own, so that half a copy is never taken for the message.
    let unfinished = format!(".holdfast.{}.{}", std::process::id(), stat.st_ino);
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut to = File::from(openat(
        target,
        unfinished.as_str(),
        flags,
        Mode::RUSR | Mode::WUSR,
    )?);
    let copied = copy_all(&mut from, &mut to, &stat).and_then(|()| {
        check(source, name, stamp)?;
        renameat_with(
            target,
            unfinished.as_str(),
            target,
            name,
            RenameFlags::NOREPLACE,
        )
        .or_else(|e| match e {
            Errno::INVAL => {
                rustix::fs::linkat(target, unfinished.as_str(), target, name, AtFlags::empty())
                    .and_then(|()| unlinkat(target, unfinished.as_str(), AtFlags::empty()))
            }
            e => Err(e),
        })?;
        // Barrier: the copy has its name before the original loses its own.
        rustix::fs::fsync(target)?;
        Ok(())
    });
    if let Err(e) = copied {
        let _ = unlinkat(target, unfinished.as_str(), AtFlags::empty());
        return Err(e);
    }
    check(source, name, stamp)?;
    unlinkat(source, name, AtFlags::empty())?;
    // Barrier: the log says that it is moved after this.
    rustix::fs::fsync(source)?;
    Ok(())
}

fn copy_all(from: &mut File, to: &mut File, stat: &rustix::fs::Stat) -> io::Result<()> {
    let mut hash = blake3::Hasher::new();
    let mut buffer = vec![0; 128 << 10];
    loop {
        let count = from.read(&mut buffer)?;
        let bytes = buffer.get(..count).unwrap_or_default();
        if bytes.is_empty() {
            break;
        }
        hash.update(bytes);
        to.write_all(bytes)?;
    }
    copy_xattrs(from, to)?;
    let owner = rustix::fs::Uid::from_raw(stat.st_uid);
    let group = rustix::fs::Gid::from_raw(stat.st_gid);
    fchown(to.as_fd(), Some(owner), Some(group))?;
    fchmod(to.as_fd(), Mode::from_raw_mode(stat.st_mode))?;
    let time = |tv_sec, tv_nsec| Timespec {
        tv_sec,
        tv_nsec: tv_nsec as _,
    };
    let times = Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    };
    futimens(to.as_fd(), &times)?;
    // Barrier: the copy is durable before it is believed.
    to.sync_all()?;
    let mut again = blake3::Hasher::new();
    io::Seek::rewind(to)?;
    again.update_reader(&mut *to)?;
    if again.finalize() != hash.finalize() {
        return Err(io::Error::other("the copy differs from what was read"));
    }
    // Reading it back may have changed its access time.
    futimens(to.as_fd(), &times)?;
    Ok(())
}

fn copy_xattrs(from: &File, to: &File) -> io::Result<()> {
    let mut names = vec![0; 64 << 10];
    let count = match flistxattr(from, &mut names) {
        Ok(count) => count,
        Err(Errno::NOTSUP) => return Ok(()),
        Err(e) => return Err(e.into()),
    };
    let names = names.get(..count).unwrap_or_default();
    for name in names.split(|b| *b == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; 64 << 10];
        let count = fgetxattr(from, OsStr::from_bytes(name), &mut value)?;
        value.truncate(count);
        fsetxattr(
            to,
            OsStr::from_bytes(name),
            &value,
            rustix::fs::XattrFlags::empty(),
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    fn finding(path: &Path) -> Finding {
        let meta = std::fs::metadata(path).unwrap();
        Finding {
            path: Name(path.as_os_str().as_bytes().to_vec()),
            store: Store::Maildir,
            mailbox: Name::default(),
            kind: Kind::Blank,
            confidence: Confidence::Certain,
            ranges: Vec::new(),
            unpacked: false,
            reason: String::new(),
            readable: super::super::finding::Readable::default(),
            stamp: Stamp {
                size: meta.len(),
                inode: meta.ino(),
                mtime: meta.mtime(),
                mtime_nanos: meta.mtime_nsec() as u32,
            },
        }
    }

    fn scene() -> (tempfile::TempDir, PathBuf, Vec<Finding>) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        std::fs::create_dir_all(root.join("md/cur")).unwrap();
        let findings = (0..100)
            .map(|n| {
                let path = root.join(format!("md/cur/{n}\n:2,S"));
                std::fs::write(&path, format!("message {n}")).unwrap();
                finding(&path)
            })
            .collect();
        (dir, root, findings)
    }

    fn listing(root: &Path) -> Vec<(PathBuf, u64, i64, Vec<u8>)> {
        let mut all: Vec<_> = std::fs::read_dir(root.join("md/cur"))
            .unwrap()
            .map(|entry| {
                let path = entry.unwrap().path();
                let meta = std::fs::metadata(&path).unwrap();
                let content = std::fs::read(&path).unwrap();
                (path, meta.ino(), meta.mtime_nsec(), content)
            })
            .collect();
        all.sort();
        all
    }

    #[test]
    fn what_is_moved_comes_back_exactly() {
        let (_dir, root, findings) = scene();
        let before = listing(&root);
        let place = root.join("aside");
        let mut quarantine = Quarantine::create(&place).unwrap();
        assert_eq!(
            quarantine.take(&findings).unwrap(),
            Ran {
                moved: 100,
                left: vec![]
            }
        );
        assert_eq!(listing(&root), []);
        drop(quarantine);
        let mut quarantine = Quarantine::open(&place).unwrap();
        assert_eq!(quarantine.waiting().len(), 100);
        assert_eq!(quarantine.restore().unwrap().moved, 100);
        assert_eq!(listing(&root), before);
        assert_eq!(quarantine.restore().unwrap(), Ran::default());
    }

    #[test]
    fn what_changed_or_lies_behind_a_link_is_left() {
        let (_dir, root, findings) = scene();
        std::fs::write(root.join("md/cur/5\n:2,S"), "another message").unwrap();
        std::fs::rename(root.join("md/cur/6\n:2,S"), root.join("md/cur/6")).unwrap();
        let mut quarantine = Quarantine::create(&root.join("aside")).unwrap();
        let result = quarantine.take(&findings).unwrap();
        assert_eq!((result.moved, result.left.len()), (98, 2));
        quarantine.restore().unwrap();
        std::fs::rename(root.join("md"), root.join("real")).unwrap();
        std::os::unix::fs::symlink("real", root.join("md")).unwrap();
        let result = quarantine.take(&findings).unwrap();
        assert_eq!(result.moved, 0);
        assert!(result.left[0].1.contains("link"), "{:?}", result.left[0]);
    }

    #[test]
    fn a_name_that_is_taken_again_is_not_replaced() {
        let (_dir, root, findings) = scene();
        let mut quarantine = Quarantine::create(&root.join("aside")).unwrap();
        quarantine.take(&findings[..2]).unwrap();
        std::fs::write(root.join("md/cur/0\n:2,S"), "new").unwrap();
        let result = quarantine.restore().unwrap();
        assert_eq!((result.moved, result.left.len()), (1, 1));
        assert_eq!(std::fs::read(root.join("md/cur/0\n:2,S")).unwrap(), b"new");
        std::fs::remove_file(root.join("md/cur/0\n:2,S")).unwrap();
        assert_eq!(
            quarantine.restore().unwrap().moved,
            1,
            "it can be tried again"
        );
    }

    #[test]
    fn across_file_systems_owner_times_and_attributes_are_kept() {
        let (_dir, root, findings) = scene();
        let other = tempfile::tempdir_in("/dev/shm").unwrap();
        let device = |path: &Path| std::fs::metadata(path).unwrap().dev();
        assert_ne!(
            device(&root),
            device(other.path()),
            "/dev/shm must be another file system"
        );
        let path = root.join("md/cur/1\n:2,S");
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o640))
            .unwrap();
        let attribute = "user.holdfast.test";
        let set = rustix::fs::setxattr(&path, attribute, b"kept", rustix::fs::XattrFlags::empty());
        let seen = |path: &Path| {
            let meta = std::fs::metadata(path).unwrap();
            let mut value = [0; 16];
            let count = rustix::fs::getxattr(path, attribute, &mut value[..]).unwrap_or(0);
            (
                meta.mode(),
                meta.uid(),
                meta.gid(),
                meta.mtime_nsec(),
                value[..count].to_vec(),
            )
        };
        let before = seen(&path);
        assert_eq!(set.is_ok(), before.4 == b"kept");
        let content = std::fs::read(&path).unwrap();
        let mut quarantine = Quarantine::create(&other.path().join("aside")).unwrap();
        assert_eq!(quarantine.take(&findings[1..2]).unwrap().moved, 1);
        assert!(!path.exists());
        assert_eq!(quarantine.restore().unwrap().moved, 1);
        assert_eq!(std::fs::read(&path).unwrap(), content);
        assert_eq!(seen(&path), before);
    }

    /// A crash after the line, before and after the move.
    #[test]
    fn a_crash_between_the_line_and_the_move_is_understood() {
        let (_dir, root, findings) = scene();
        let before = listing(&root);
        let place = root.join("aside");
        let mut quarantine = Quarantine::create(&place).unwrap();
        quarantine.take(&findings[..4]).unwrap();
        // As if the crash came after the renames, and after the lines of a second batch.
        let text = std::fs::read_to_string(place.join(LOG)).unwrap();
        let mut kept: Vec<&str> = text.lines().filter(|l| !l.contains("\"done\"")).collect();
        let fifth = kept[3]
            .replace("\"number\":3", "\"number\":4")
            .replace("/3\\\\x0a", "/4\\\\x0a");
        let fifth = fifth.replace(
            &format!("\"inode\":{}", findings[3].stamp.inode),
            &format!("\"inode\":{}", findings[4].stamp.inode),
        );
        let fifth = fifth.replace(
            &format!("\"mtime_nanos\":{}", findings[3].stamp.mtime_nanos),
            &format!("\"mtime_nanos\":{}", findings[4].stamp.mtime_nanos),
        );
        kept.push(&fifth);
        drop(quarantine);
        std::fs::write(place.join(LOG), kept.join("\n") + "\n{\"step\":\"mo").unwrap();
        let mut quarantine = Quarantine::open(&place).unwrap();
        let result = quarantine.restore().unwrap();
        assert_eq!((result.moved, result.left), (4, vec![]));
        assert_eq!(listing(&root), before);
    }
}
