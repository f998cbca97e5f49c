//! A file whose medium has a bad place: a FUSE mount with one file, the content of another, of
//! which reads of one extent fail. Nothing is cached, so each read is a real one.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEntry, ReplyOpen,
    Request, Session, SessionACL,
};
use holdfast::extent::Extent;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

const NUMBER: INodeNo = INodeNo(2);
const NAME: &str = "image";

/// The mount, gone when dropped.
pub struct Faulty {
    place: PathBuf,
    session: Option<BackgroundSession>,
}

impl Faulty {
    /// Shows `content` as a file in `place`, which must not exist.
    pub fn mount(content: &Path, place: &Path, bad: Extent) -> Faulty {
        fs::create_dir(place).unwrap();
        let mut open = OpenOptions::new();
        let device = open.read(true).write(true).open("/dev/fuse").unwrap();
        let options = format!(
            "fd={},rootmode=40700,user_id=0,group_id=0",
            device.as_raw_fd()
        );
        let options = Some(options.as_str());
        mount(
            Some("faulty"),
            place,
            Some("fuse"),
            MsFlags::MS_NODEV,
            options,
        )
        .unwrap();
        let mut faulty = Faulty {
            place: place.into(),
            session: None,
        };
        let file = OneFile {
            file: File::open(content).unwrap(),
            bad,
        };
        let session = Session::from_fd(file, device.into(), SessionACL::Owner, Config::default());
        faulty.session = Some(session.unwrap().spawn().unwrap());
        faulty
    }

    pub fn image(&self) -> PathBuf {
        self.place.join(NAME)
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        let _ = umount2(&self.place, MntFlags::MNT_DETACH | MntFlags::MNT_FORCE);
        drop(self.session.take());
    }
}

struct OneFile {
    file: File,
    bad: Extent,
}

impl OneFile {
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

    fn read(&self, offset: u64, count: u64) -> io::Result<Vec<u8>> {
        let there = self.file.metadata()?.len().saturating_sub(offset);
        let asked = Extent::new(offset, count.min(there));
        if asked.intersection(self.bad).is_some() {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        let mut bytes = vec![0; asked.len as usize];
        self.file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }
}

const A_SECOND: Duration = Duration::from_secs(1);

impl Filesystem for OneFile {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if parent == INodeNo::ROOT && name == NAME {
            reply.entry(&A_SECOND, &self.attributes(NUMBER), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&A_SECOND, &self.attributes(number));
    }

    fn open(&self, _: &Request, _: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        // Whoever opens it for writing has not understood what a rehearsal is.
        if flags.0 & libc::O_ACCMODE == libc::O_RDONLY {
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
            Err(_) => reply.error(Errno::EIO),
        }
    }
}
