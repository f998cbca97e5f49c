//! Everything in a mounted file system, in order of paths, as [`Entry`]s.
//!
//! Memory holds a bounded part of the names of each directory on the way, whatever their number:
//! of a large one the smallest names are told, then it is read again for those that follow.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{
    AtFlags, Mode, OFlags, RawDir, ResolveFlags, SeekFrom, Statx, StatxFlags, StatxTimestamp,
};
use rustix::io::Errno;

use super::entry::{Attribute, Entry, Time};
use crate::disk::mounted::file_flags;
use crate::units::escape_bytes;

/// Names that are kept of the topmost directory, in bytes; half of that one further down, and so on.
const NAMES_BYTES: usize = 16 << 20;

/// Deeper than this, descriptors run out.
const DEEPEST: usize = 900;

/// Files with several names whose content is remembered.
const REMEMBERED: usize = 1 << 18;

const READ_BYTES: usize = 1 << 20;

/// The largest list of names of attributes, and the largest value.
const XATTR_BYTES: usize = 64 << 10;

/// A directory on the way from the root.
struct Frame {
    dir: OwnedFd,
    /// Names that come next, the next one last.
    names: Vec<Vec<u8>>,
    /// The last of them, where the directory has more.
    more_after: Option<Vec<u8>>,
}

struct Walk<'a> {
    out: &'a mut dyn Write,
    stack: Vec<Frame>,
    path: Vec<Vec<u8>>,
    records: u64,
    /// Hashes of files with several names, by device and inode: a subvolume has a device of its own.
    linked: HashMap<(u32, u32, u64), [u8; 32]>,
    buf: Vec<u8>,
}

/// Tells everything below `root`, and returns the number of records.
///
/// # Errors
/// What cannot be read, by its path.
pub fn walk(root: BorrowedFd<'_>, out: &mut dyn Write) -> io::Result<u64> {
    let dir = open(root, b".", OFlags::DIRECTORY)?;
    let mut walk = Walk {
        out,
        stack: Vec::new(),
        path: Vec::new(),
        records: 0,
        linked: HashMap::new(),
        buf: vec![0; READ_BYTES],
    };
    let done = walk.all(dir);
    // The working directory would keep the mount busy.
    std::env::set_current_dir("/")?;
    done.map_err(|e| {
        let path: Vec<String> = walk.path.iter().map(|name| escape_bytes(name)).collect();
        io::Error::new(e.kind(), format!("/{}: {e}", path.join("/")))
    })?;
    Ok(walk.records)
}

impl Walk<'_> {
    fn all(&mut self, root: OwnedFd) -> io::Result<()> {
        let about = stat(root.as_fd(), b"", AtFlags::EMPTY_PATH)?;
        rustix::process::fchdir(&root)?;
        let mut entry = described(&about);
        self.opened(&mut entry, root.as_fd(), &about)?;
        self.tell(&entry)?;
        self.enter(root)?;
        while let Some(frame) = self.stack.last_mut() {
            if let Some(name) = frame.names.pop() {
                self.name(&name)?;
            } else if let Some(after) = frame.more_after.take() {
                let budget = NAMES_BYTES >> self.stack.len().min(8);
                if let Some(frame) = self.stack.last_mut() {
                    frame.read(Some(&after), budget)?;
                }
            } else {
                self.stack.pop();
                self.path.pop();
                if let Some(frame) = self.stack.last() {
                    rustix::process::fchdir(&frame.dir)?;
                }
            }
        }
        Ok(())
    }

    fn enter(&mut self, dir: OwnedFd) -> io::Result<()> {
        if self.stack.len() >= DEEPEST {
            let what = format!("directories lie more than {DEEPEST} deep");
            return Err(io::Error::new(io::ErrorKind::Unsupported, what));
        }
        rustix::process::fchdir(&dir)?;
        let mut frame = Frame {
            dir,
            names: Vec::new(),
            more_after: None,
        };
        frame.read(None, NAMES_BYTES >> self.stack.len().min(8))?;
        self.stack.push(frame);
        Ok(())
    }

    /// Tells of one name of the directory in which we are.
    fn name(&mut self, name: &[u8]) -> io::Result<()> {
        self.path.push(name.to_vec());
        let here = rustix::fs::CWD;
        let about = stat(here, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let mut entry = described(&about);
        entry.depth = self.stack.len() as u32;
        entry.name = name.to_vec();
        match u32::from(about.stx_mode) & libc::S_IFMT {
            libc::S_IFDIR => {
                let dir = open(here, name, OFlags::DIRECTORY)?;
                self.opened(&mut entry, dir.as_fd(), &about)?;
                self.tell(&entry)?;
                // The path keeps this name until the directory is done.
                return self.enter(dir);
            }
            libc::S_IFREG => {
                let file = open(here, name, OFlags::empty())?;
                self.opened(&mut entry, file.as_fd(), &about)?;
                entry.content = self.content(file.into(), &about)?;
            }
            kind => {
                entry.xattrs = self.xattrs(Of::Name(name))?;
                if kind == libc::S_IFLNK {
                    entry.target = rustix::fs::readlinkat(here, name, Vec::new())?.into_bytes();
                }
            }
        }
        self.tell(&entry)?;
        self.path.pop();
        Ok(())
    }

    /// What only an open file or directory tells.
    fn opened(&mut self, entry: &mut Entry, file: BorrowedFd<'_>, about: &Statx) -> io::Result<()> {
        let now = stat(file, b"", AtFlags::EMPTY_PATH)?;
        if (now.stx_ino, now.stx_mode) != (about.stx_ino, about.stx_mode) {
            return Err(io::Error::other("it is another file than its name said"));
        }
        if let Some(found) = file_flags(file)? {
            entry.flags = found.flags;
            entry.project = found.project;
            entry.hints = (found.extent_size, found.cow_extent_size);
        }
        entry.xattrs = self.xattrs(Of::File(file))?;
        Ok(())
    }

    fn tell(&mut self, entry: &Entry) -> io::Result<()> {
        entry.write(self.out)?;
        self.records += 1;
        Ok(())
    }

    fn content(&mut self, file: File, about: &Statx) -> io::Result<[u8; 32]> {
        let key = (about.stx_dev_major, about.stx_dev_minor, about.stx_ino);
        if let Some(known) = self.linked.get(&key) {
            return Ok(*known);
        }
        let mut hasher = blake3::Hasher::new();
        let mut at = 0;
        while at < about.stx_size {
            let start = match rustix::fs::seek(&file, SeekFrom::Data(at)) {
                Ok(start) => start,
                Err(Errno::NXIO) => break,
                Err(e) => return Err(e.into()),
            };
            let end = rustix::fs::seek(&file, SeekFrom::Hole(start))?.min(about.stx_size);
            if end <= at {
                return Err(io::Error::other(
                    "the kernel contradicts itself about holes",
                ));
            }
            hasher.update(&start.to_le_bytes());
            hasher.update(&end.saturating_sub(start).to_le_bytes());
            at = start;
            while at < end {
                let count = (end - at).min(READ_BYTES as u64) as usize;
                let bytes = &mut self.buf[..count];
                file.read_exact_at(bytes, at)?;
                hasher.update(bytes);
                at += count as u64;
            }
        }
        let hash = hasher.finalize().into();
        if about.stx_nlink > 1 && self.linked.len() < REMEMBERED {
            self.linked.insert(key, hash);
        }
        Ok(hash)
    }

    /// All attributes, by name.
    fn xattrs(&mut self, of: Of<'_>) -> io::Result<Vec<Attribute>> {
        let buf = &mut self.buf[..XATTR_BYTES];
        let length = match of.list(buf) {
            Ok(length) => length,
            Err(Errno::OPNOTSUPP) => 0,
            Err(e) => return Err(e.into()),
        };
        let names = buf[..length].to_vec();
        let mut found = Vec::new();
        for name in names.split(|&b| b == 0).filter(|name| !name.is_empty()) {
            let length = match of.get(name, buf) {
                Ok(length) => length,
                // Some names are made up by the kernel and have no value.
                Err(Errno::NODATA | Errno::OPNOTSUPP) => 0,
                Err(e) => return Err(e.into()),
            };
            found.push((name.to_vec(), blake3::hash(&buf[..length]).into()));
        }
        found.sort_unstable();
        Ok(found)
    }
}

impl Frame {
    /// Reads names greater than `after`: the smallest of them, at most `budget` bytes.
    fn read(&mut self, after: Option<&[u8]>, budget: usize) -> io::Result<()> {
        rustix::fs::seek(&self.dir, SeekFrom::Start(0))?;
        let mut kept: BTreeSet<Vec<u8>> = BTreeSet::new();
        let (mut bytes, mut cut) = (0, false);
        let mut buf = vec![MaybeUninit::uninit(); 1 << 15];
        let mut dir = RawDir::new(&self.dir, &mut buf);
        while let Some(found) = dir.next() {
            let found = found?;
            let name = found.file_name().to_bytes();
            if name == b"." || name == b".." || after.is_some_and(|after| name <= after) {
                continue;
            }
            if name.is_empty() || name.contains(&b'/') {
                return Err(io::Error::other("a name in it is no name"));
            }
            if cut && kept.last().is_some_and(|last| name > last.as_slice()) {
                continue;
            }
            // What a small vector costs besides its bytes.
            let cost = |name: &[u8]| name.len() + 64;
            if kept.insert(name.to_vec()) {
                bytes += cost(name);
            }
            while bytes > budget && kept.len() > 1 {
                if let Some(last) = kept.pop_last() {
                    bytes -= cost(&last);
                }
                cut = true;
            }
        }
        self.more_after = cut.then(|| kept.last().cloned()).flatten();
        self.names = kept.into_iter().rev().collect();
        Ok(())
    }
}

/// What an attribute is asked of. There is no call that asks a symlink or a device by descriptor.
#[derive(Clone, Copy)]
enum Of<'a> {
    File(BorrowedFd<'a>),
    /// A name in the working directory.
    Name(&'a [u8]),
}

impl Of<'_> {
    fn list(self, buf: &mut [u8]) -> Result<usize, Errno> {
        match self {
            Of::File(file) => rustix::fs::flistxattr(file, buf),
            Of::Name(name) => rustix::fs::llistxattr(name, buf),
        }
    }

    fn get(self, key: &[u8], buf: &mut [u8]) -> Result<usize, Errno> {
        match self {
            Of::File(file) => rustix::fs::fgetxattr(file, key, buf),
            Of::Name(name) => rustix::fs::lgetxattr(name, key, buf),
        }
    }
}

/// Opens a name in `dir` for reading. No symlink, no other mount, nothing outside.
fn open(dir: BorrowedFd<'_>, name: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let stay = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let flags = flags | OFlags::NOCTTY;
    Ok(rustix::fs::openat2(dir, name, flags, Mode::empty(), stay)?)
}

fn stat(dir: BorrowedFd<'_>, name: &[u8], flags: AtFlags) -> io::Result<Statx> {
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    let about = rustix::fs::statx(dir, name, flags, wanted)?;
    match about.stx_mask & StatxFlags::BASIC_STATS.bits() == StatxFlags::BASIC_STATS.bits() {
        true => Ok(about),
        false => Err(io::Error::other("the kernel does not say all about it")),
    }
}

fn described(about: &Statx) -> Entry {
    let time = |time: StatxTimestamp| -> Time { (time.tv_sec, time.tv_nsec) };
    let known = about.stx_attributes_mask.bits();
    Entry {
        inode: about.stx_ino,
        mode: about.stx_mode.into(),
        user: about.stx_uid,
        group: about.stx_gid,
        device: (about.stx_rdev_major, about.stx_rdev_minor),
        links: about.stx_nlink,
        size: about.stx_size,
        blocks: about.stx_blocks,
        atime: time(about.stx_atime),
        mtime: time(about.stx_mtime),
        ctime: time(about.stx_ctime),
        btime: time(about.stx_btime),
        attributes: about.stx_attributes.bits() & known,
        ..Entry::default()
    }
}
