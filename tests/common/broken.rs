//! A file whose medium fails when it is told to: a FUSE mount with one file, the content of
//! another. Each read, write and flush is counted, nothing is cached, and any of them may fail, be
//! lost, or land elsewhere.
#![allow(dead_code, reason = "not every test uses everything")]

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem,
    FopenFlags, Generation, INodeNo, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyWrite, Request, Session, SessionACL, TimeOrNow, WriteFlags,
};
use holdfast::extent::Extent;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

const NUMBER: INodeNo = INodeNo(2);
const NAME: &str = "image";

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Read,
    Write,
    Flush,
}

/// What becomes of the `nth` operation of its kind, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    /// It fails, once. A flush that fails has lost what it was to save, and the next one succeeds.
    Once,
    /// It fails, and so do all later ones of its kind.
    FromNowOn,
    /// Everything fails from then on: the device is gone.
    Gone,
    /// A write is acknowledged and never happens.
    Lost,
    /// A write lands on the next unit of 4096 bytes.
    Misdirected,
    /// The first half of a write happens, and it says so.
    Short,
}

/// See the module.
#[derive(Default)]
pub struct Medium {
    pub reads: u64,
    pub writes: u64,
    pub flushes: u64,
    pub plan: Option<(Op, u64, Harm)>,
    /// Cannot be read until it is written.
    pub bad: Option<Extent>,
    /// Cannot be opened for writing.
    is_read_only: bool,
    gone: bool,
    /// Old content of what was written since the last flush.
    unflushed: Vec<(u64, Vec<u8>)>,
}

impl Medium {
    fn count(&mut self, op: Op) -> Result<Option<Harm>, Errno> {
        let counter = match op {
            Op::Read => &mut self.reads,
            Op::Write => &mut self.writes,
            Op::Flush => &mut self.flushes,
        };
        let number = *counter;
        *counter += 1;
        if self.gone {
            return Err(Errno::EIO);
        }
        match self.plan {
            Some((which, nth, harm)) if which == op => match harm {
                Harm::FromNowOn if number >= nth => Err(Errno::EIO),
                Harm::Once if number == nth => Err(Errno::EIO),
                Harm::Gone if number == nth => {
                    self.gone = true;
                    Err(Errno::EIO)
                }
                Harm::Lost | Harm::Misdirected | Harm::Short if number == nth => Ok(Some(harm)),
                _ => Ok(None),
            },
            _ => Ok(None),
        }
    }
}

/// The mount, gone when dropped.
pub struct Broken {
    place: PathBuf,
    medium: Arc<Mutex<Medium>>,
    session: Option<BackgroundSession>,
}

impl Broken {
    /// Shows `content` as a file in `place`, which must not exist. It works until it is told.
    pub fn mount(content: &Path, place: &Path) -> Broken {
        fs::create_dir(place).unwrap();
        let mut open = OpenOptions::new();
        let device = open.read(true).write(true).open("/dev/fuse").unwrap();
        let options = format!(
            "fd={},rootmode=40700,user_id=0,group_id=0",
            device.as_raw_fd()
        );
        let (kind, options) = (Some("fuse"), Some(options.as_str()));
        mount(Some("broken"), place, kind, MsFlags::MS_NODEV, options).unwrap();
        let medium: Arc<Mutex<Medium>> = Arc::default();
        let mut broken = Broken {
            place: place.into(),
            medium: medium.clone(),
            session: None,
        };
        let mut open = OpenOptions::new();
        let file = open.read(true).write(true).open(content).unwrap();
        let file = OneFile { file, medium };
        let session = Session::from_fd(file, device.into(), SessionACL::Owner, Config::default());
        broken.session = Some(session.unwrap().spawn().unwrap());
        broken
    }

    /// The same with a place that cannot be read; and nobody may open it for writing.
    pub fn mount_read_only(content: &Path, place: &Path, bad: Extent) -> Broken {
        let broken = Broken::mount(content, place);
        broken.medium().bad = Some(bad);
        broken.medium().is_read_only = true;
        broken
    }

    pub fn image(&self) -> PathBuf {
        self.place.join(NAME)
    }

    pub fn medium(&self) -> MutexGuard<'_, Medium> {
        self.medium.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts from 0 again, and fails as `plan` says, or works.
    pub fn follow(&self, plan: Option<(Op, u64, Harm)>) {
        let bad = self.medium().bad;
        *self.medium() = Medium {
            plan,
            bad,
            ..Medium::default()
        };
    }
}

impl Drop for Broken {
    fn drop(&mut self) {
        let _ = umount2(&self.place, MntFlags::MNT_DETACH | MntFlags::MNT_FORCE);
        drop(self.session.take());
    }
}

struct OneFile {
    file: File,
    medium: Arc<Mutex<Medium>>,
}

impl OneFile {
    fn medium(&self) -> MutexGuard<'_, Medium> {
        self.medium.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn attributes(&self, number: INodeNo) -> FileAttr {
        let meta = self.file.metadata().unwrap();
        let (kind, perm, size) = if number == NUMBER {
            (FileType::RegularFile, 0o600, meta.len())
        } else {
            (FileType::Directory, 0o700, 0)
        };
        let never = SystemTime::UNIX_EPOCH;
        FileAttr {
            ino: number,
            size,
            blocks: size / 512,
            atime: never,
            mtime: never,
            ctime: never,
            crtime: never,
            kind,
            perm,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }

    fn read(&self, offset: u64, count: u64) -> Result<Vec<u8>, Errno> {
        self.medium().count(Op::Read)?;
        let there = self.file.metadata().unwrap().len().saturating_sub(offset);
        let asked = Extent::new(offset, count.min(there));
        let bad = self.medium().bad;
        if bad.is_some_and(|bad| asked.intersection(bad).is_some()) {
            return Err(Errno::EIO);
        }
        let mut bytes = vec![0; asked.len as usize];
        self.file.read_exact_at(&mut bytes, offset).unwrap();
        Ok(bytes)
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<u32, Errno> {
        let mut medium = self.medium();
        let (at, part) = match medium.count(Op::Write)? {
            Some(Harm::Lost) => return Ok(data.len() as u32),
            Some(Harm::Misdirected) => (offset + 4096, data),
            Some(Harm::Short) => (offset, &data[..data.len() / 2]),
            _ => (offset, data),
        };
        let there = self.file.metadata().unwrap().len();
        let mut old = vec![0; there.saturating_sub(at).min(part.len() as u64) as usize];
        self.file.read_exact_at(&mut old, at).unwrap();
        medium.unflushed.push((at, old));
        let written = Extent::new(at, part.len() as u64);
        medium.bad = medium.bad.filter(|bad| !written.contains(*bad));
        self.file.write_all_at(part, at).unwrap();
        let short = part.len() < data.len();
        Ok(if short { part.len() } else { data.len() } as u32)
    }

    fn flush(&self) -> Result<(), Errno> {
        let mut medium = self.medium();
        let unflushed = std::mem::take(&mut medium.unflushed);
        medium.count(Op::Flush).inspect_err(|_| {
            for (at, old) in unflushed.iter().rev() {
                self.file.write_all_at(old, *at).unwrap();
            }
        })?;
        Ok(())
    }
}

const AT_ONCE: Duration = Duration::ZERO;

impl Filesystem for OneFile {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if parent == INodeNo::ROOT && name == NAME {
            reply.entry(&AT_ONCE, &self.attributes(NUMBER), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&AT_ONCE, &self.attributes(number));
    }

    fn setattr(
        &self,
        _: &Request,
        number: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        if let Some(size) = size {
            if let Err(e) = self.medium().count(Op::Write) {
                return reply.error(e);
            }
            self.file.set_len(size).unwrap();
        }
        reply.attr(&AT_ONCE, &self.attributes(number));
    }

    fn open(&self, _: &Request, _: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let reads_only = flags.0 & libc::O_ACCMODE == libc::O_RDONLY;
        if reads_only || !self.medium().is_read_only {
            reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
        } else {
            reply.error(Errno::EROFS);
        }
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match OneFile::read(self, offset, size.into()) {
            Ok(bytes) => reply.data(&bytes),
            Err(e) => reply.error(e),
        }
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match OneFile::write(self, offset, data) {
            Ok(count) => reply.written(count),
            Err(e) => reply.error(e),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        match OneFile::flush(self) {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(e),
        }
    }
}
