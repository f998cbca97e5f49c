//! The file through FUSE: a root directory with one name in it.
//!
//! The kernel caches what it reads and gathers what it writes (writeback cache): the file changes
//! through this mount only, so what it has cached is true. Two threads answer it.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem,
    FopenFlags, Generation, INodeNo, InitFlags, KernelConfig, LockOwner, OpenFlags, ReplyAttr,
    ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request, Session,
    SessionACL, TimeOrNow, WriteFlags,
};
use nix::errno::Errno as Failure;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{getegid, geteuid};

use super::room::{DIRECTORY, FILE, Room};
use crate::disk::Disk;
use crate::extent::Extent;
use crate::harden::serve_disk;

/// Reads and writes come in at most so many bytes. Larger ones gain nothing.
const REQUEST_BYTES: u32 = 1 << 20;

/// More than two answer no faster.
const THREADS: usize = 2;

/// How long the kernel may believe what it was told. Nobody else changes the file.
const FOR_EVER: Duration = Duration::from_secs(1 << 30);

/// How long the last write may take to reach the disk.
const DRAIN: Duration = Duration::from_secs(3600);

/// How long a mount may be busy after its last user has ended.
const SETTLE: Duration = Duration::from_secs(10);

const NAME: &str = "disk";
const FILE_NUMBER: INodeNo = INodeNo(2);

/// Opens the kernel's door for a new mount.
pub(super) fn open_device() -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/fuse")
        .map_err(|e| io::Error::new(e.kind(), format!("opening /dev/fuse: {e}")))
}

/// A mounted file system with its threads.
pub(super) struct Served {
    session: BackgroundSession,
    notes: Arc<Notes>,
}

/// What the server tells the one who started it.
#[derive(Default)]
struct Notes {
    requests: AtomicU64,
    error: OnceLock<String>,
}

impl Served {
    pub(super) fn start(room: &Room, disk: Arc<dyn Disk>, device: File) -> io::Result<Served> {
        let options = format!(
            "fd={},rootmode=40700,user_id={},group_id={}",
            device.as_raw_fd(),
            geteuid(),
            getegid()
        );
        room.inside(SETTLE, move || {
            let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
            let source = Some("holdfast");
            mount(source, DIRECTORY, Some("fuse"), flags, Some(&*options))
                .map_err(|e| io::Error::other(format!("mounting FUSE: {e}")))
        })?;
        let notes = Arc::new(Notes::default());
        let files = OneFile {
            size: RwLock::new(disk.len_bytes()),
            disk,
            notes: notes.clone(),
            born: SystemTime::now(),
        };
        let mut config = Config::default();
        config.n_threads = Some(THREADS);
        let session = Session::from_fd(files, device.into(), SessionACL::Owner, config)?;
        // A file system may be mounted from this file: then the kernel writes to us to free memory,
        // and our threads must not wait for that.
        serve_disk(true);
        let session = session.spawn();
        serve_disk(false);
        let session = session?;
        Ok(Served { session, notes })
    }

    pub(super) fn requests(&self) -> u64 {
        self.notes.requests.load(Ordering::Relaxed)
    }

    /// With MNT_FORCE the kernel answers every request, waiting or new, with an error.
    pub(super) fn abandon(&self, room: &Room) {
        let _ = room.inside(SETTLE, || {
            let flags = MntFlags::MNT_FORCE | MntFlags::MNT_DETACH;
            Ok(umount2(DIRECTORY, flags)?)
        });
    }

    pub(super) fn finish(self, room: &Room) -> io::Result<()> {
        let unmounted = room
            .inside(DRAIN, drain)
            .and_then(|()| room.inside(SETTLE, unmount));
        if unmounted.is_err() {
            self.abandon(room);
        }
        unmounted?;
        join(self.session)?;
        match self.notes.error.get() {
            Some(first) => Err(io::Error::other(format!(
                "a tool met an I/O error on the exported disk: {first}"
            ))),
            None => Ok(()),
        }
    }
}

/// Waits for the threads, which end with the mount.
fn join(session: BackgroundSession) -> io::Result<()> {
    let until = Instant::now() + SETTLE;
    while !session.guard.is_finished() {
        if Instant::now() > until {
            return Err(io::Error::other("the export's threads do not end"));
        }
        sleep(Duration::from_millis(1));
    }
    session.join()
}

/// Makes the kernel hand over all that it has gathered.
fn drain() -> io::Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(FILE)?;
    // Barrier: the rehearsal is judged by what the overlay holds, so nothing may be on its way.
    file.sync_all()
}

/// Unmounts, and refuses to while anybody uses the file.
fn unmount() -> io::Result<()> {
    let until = Instant::now() + SETTLE / 2;
    loop {
        match umount2(DIRECTORY, MntFlags::empty()) {
            Ok(()) => return Ok(()),
            Err(Failure::EBUSY) if Instant::now() < until => sleep(Duration::from_millis(5)),
            Err(Failure::EBUSY) => return Err(io::Error::other("a tool still uses the export")),
            Err(e) => return Err(e.into()),
        }
    }
}

/// The file system.
struct OneFile {
    disk: Arc<dyn Disk>,
    notes: Arc<Notes>,
    /// What the tools see: resize2fs cuts a file behind a file system that it has shrunk. The disk
    /// keeps its length.
    size: RwLock<u64>,
    born: SystemTime,
}

impl OneFile {
    fn attributes(&self, number: INodeNo) -> FileAttr {
        let (size, kind, perm) = if number == FILE_NUMBER {
            (self.size(), FileType::RegularFile, 0o600)
        } else {
            (0, FileType::Directory, 0o700)
        };
        FileAttr {
            ino: number,
            size,
            blocks: size.div_ceil(512),
            atime: UNIX_EPOCH,
            mtime: self.born,
            ctime: self.born,
            crtime: self.born,
            kind,
            perm,
            nlink: 1,
            uid: geteuid().as_raw(),
            gid: getegid().as_raw(),
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }

    /// Counts a request, and remembers its error for [`Served::finish`].
    fn watched<T>(&self, work: impl FnOnce() -> io::Result<T>) -> Result<T, Errno> {
        self.notes.requests.fetch_add(1, Ordering::Relaxed);
        work().map_err(|e| {
            let _ = self.notes.error.set(e.to_string());
            // The kernel takes some numbers for orders to itself; a tool needs to know only these.
            match e.raw_os_error() {
                Some(libc::ENOSPC) => Errno::ENOSPC,
                Some(libc::EROFS) => Errno::EROFS,
                _ => Errno::EIO,
            }
        })
    }

    fn size(&self) -> u64 {
        *self.size.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_bytes(&self, offset: u64, size: u32) -> io::Result<Vec<u8>> {
        let there = self.size().saturating_sub(offset);
        let mut bytes = vec![0; there.min(u64::from(size)) as usize];
        self.disk.read_at(offset, &mut bytes)?;
        Ok(bytes)
    }

    fn write_bytes(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let end = offset.saturating_add(data.len() as u64);
        if end > self.disk.len_bytes() {
            // With the writeback cache the tool has been told long ago that this went well.
            return Err(Failure::ENOSPC.into());
        }
        if end > self.size() {
            self.extend(end)?;
        }
        self.disk.write_at(offset, data)
    }

    /// Lengthens what the tools see. Bytes that come back read as zero, also where two writes
    /// arrive in the wrong order: whoever extends zeroes what nobody has extended over yet.
    fn extend(&self, size: u64) -> io::Result<()> {
        let mut now = self.size.write().unwrap_or_else(PoisonError::into_inner);
        if size > *now {
            self.disk.zero(Extent::from_range(*now, size))?;
            *now = size;
        }
        Ok(())
    }

    /// Sets what the tools see as the length.
    fn resize(&self, size: u64) -> io::Result<()> {
        self.extend(size)?;
        *self.size.write().unwrap_or_else(PoisonError::into_inner) = size;
        Ok(())
    }

    fn allocate(&self, offset: u64, length: u64, mode: i32) -> Result<(), Errno> {
        let zeroes = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE;
        if mode & !(zeroes | libc::FALLOC_FL_KEEP_SIZE) != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let end = offset.checked_add(length).ok_or(Errno::EFBIG)?;
        if end > self.size() && mode & libc::FALLOC_FL_KEEP_SIZE == 0 {
            if end > self.disk.len_bytes() {
                return Err(Errno::EFBIG);
            }
            self.watched(|| self.extend(end))?;
        }
        let end = end.min(self.size());
        if mode & zeroes != 0 && offset < end {
            self.watched(|| self.disk.zero(Extent::from_range(offset, end)))?;
        }
        Ok(())
    }
}

impl Filesystem for OneFile {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // A kernel without the writeback cache is slower and no less right.
        let _ = config.add_capabilities(InitFlags::FUSE_WRITEBACK_CACHE);
        let _ = config.set_max_write(REQUEST_BYTES);
        if let Err(most) = config.set_max_readahead(REQUEST_BYTES) {
            let _ = config.set_max_readahead(most);
        }
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if parent == INodeNo::ROOT && name == NAME {
            reply.entry(&FOR_EVER, &self.attributes(FILE_NUMBER), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&FOR_EVER, &self.attributes(number));
    }

    /// Length only. Times, mode and owner are accepted and forgotten.
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
        if let Some(size) = size.filter(|_| number == FILE_NUMBER) {
            if size > self.disk.len_bytes() {
                return reply.error(Errno::EFBIG);
            }
            if let Err(e) = self.watched(|| self.resize(size)) {
                return reply.error(e);
            }
        }
        reply.attr(&FOR_EVER, &self.attributes(number));
    }

    fn open(&self, _: &Request, number: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        if number == FILE_NUMBER {
            reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
        } else {
            reply.error(Errno::EISDIR);
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
        match self.watched(|| self.read_bytes(offset, size)) {
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
        match self.watched(|| self.write_bytes(offset, data)) {
            Ok(()) => reply.written(data.len() as u32),
            Err(e) => reply.error(e),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        // Barrier: none of ours. A tool asked, and what it asks of a disk it gets.
        match self.watched(|| self.disk.flush()) {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(e),
        }
    }

    fn fallocate(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        match self.allocate(offset, length, mode) {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(e),
        }
    }

    fn readdir(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let entries = [
            (INodeNo::ROOT, FileType::Directory, "."),
            (INodeNo::ROOT, FileType::Directory, ".."),
            (FILE_NUMBER, FileType::RegularFile, NAME),
        ];
        for (at, (number, kind, name)) in (1..).zip(entries) {
            if at > offset && reply.add(number, at, kind, name) {
                break;
            }
        }
        reply.ok();
    }
}

// The path is spelled once for the room and once in parts here.
const _: () = assert!(FILE.len() == DIRECTORY.len() + 1 + NAME.len());
