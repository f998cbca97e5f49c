//! The file as a sparse copy, where FUSE is not to be had.
//!
//! Only what the file system uses is copied; the rest reads as zeros. Afterwards the copy's data
//! is compared with the disk and what differs is written to it. Outside what was copied, a hole
//! says that no tool has written there: it stands for whatever the disk holds. A tool that makes
//! holes on purpose, where it wants zeros, is therefore told not to ([`super::Export::spawn`]), and
//! what it writes in part of a page is zero in the rest of it. What is copied is rounded out to
//! blocks of the host, so that reading alone never makes such a difference.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::statvfs::fstatvfs;
use nix::unistd::{Whence, lseek};
use tempfile::NamedTempFile;

use crate::disk::Disk;
use crate::extent::{Extent, ExtentMap};
use crate::units::{Bytes, round_down, round_up};

const BATCH_BYTES: u64 = 1 << 20;

/// With less than this left on the host's file system, a tool may have been told that it is full.
const HEADROOM_BYTES: u64 = 16 << 20;

/// A copy that still has a name.
pub(super) struct Named {
    copy: Copy,
    file: NamedTempFile,
}

/// A copy that vanishes with its last user.
pub(super) struct Copy {
    disk: Arc<dyn Disk>,
    file: File,
    copied: ExtentMap,
}

impl Named {
    pub(super) fn path(&self) -> &Path {
        self.file.path()
    }

    /// Takes the name away. The room has the file by then.
    pub(super) fn unlinked(self) -> io::Result<Copy> {
        self.file.close()?;
        Ok(self.copy)
    }
}

impl Copy {
    pub(super) fn make(disk: Arc<dyn Disk>, used: &ExtentMap, scratch: &Path) -> io::Result<Named> {
        let file = tempfile::Builder::new()
            .prefix(".copy-")
            .tempfile_in(scratch)?;
        let whole = Extent::new(0, disk.len_bytes());
        // Where written zeros may turn into holes, a hole says nothing, so all must be copied.
        let copied = if keeps_zeros(file.as_file())? {
            let grain = (fstatvfs(file.as_file())?.block_size() as u64).max(4096);
            let rounded = |e: Extent| {
                let end = round_up(e.end(), grain).unwrap_or(whole.end());
                Extent::from_range(round_down(e.start, grain), end.min(whole.end()))
            };
            used.within(whole).map(rounded).collect()
        } else {
            ExtentMap::from_iter([whole])
        };
        let copy = Copy {
            disk,
            file: file.as_file().try_clone()?,
            copied,
        };
        copy.fill()
            .map_err(|e| io::Error::new(e.kind(), format!("copying the disk: {e}")))?;
        Ok(Named { copy, file })
    }

    fn fill(&self) -> io::Result<()> {
        self.file.set_len(self.disk.len_bytes())?;
        let mut buf = vec![0; BATCH_BYTES as usize];
        for piece in self.copied.iter().flat_map(|e| e.split(BATCH_BYTES)) {
            let buf = &mut buf[..piece.len as usize];
            self.disk.read_at(piece.start, buf)?;
            if buf.iter().any(|&byte| byte != 0) {
                self.file.write_all_at(buf, piece.start)?;
            }
        }
        Ok(())
    }

    /// Fails where a tool may have met an error on the copy. Nobody tells us, and a tool may exit
    /// with 0 all the same.
    fn trust(&self) -> io::Result<()> {
        // Barrier: a page of the copy that could not be written is reported here, once.
        self.file.sync_data()?;
        let host = fstatvfs(&self.file)?;
        let free = host.blocks_available() as u64 * host.fragment_size() as u64;
        if free < HEADROOM_BYTES {
            return Err(io::Error::new(
                io::ErrorKind::StorageFull,
                format!("only {} are free beside the copy of the disk", Bytes(free)),
            ));
        }
        Ok(())
    }

    /// Writes to the disk what the tools changed.
    pub(super) fn write_back(self) -> io::Result<()> {
        self.trust()?;
        // resize2fs cuts the file behind a file system that it has shrunk. The disk keeps its
        // length, and what lay behind the cut is as it was.
        let end = self.file.metadata()?.len().min(self.disk.len_bytes());
        let mut look_at = data_extents(&self.file, end)?;
        for e in self.copied.within(Extent::new(0, end)) {
            look_at.insert(e);
        }
        let mut ours = vec![0; BATCH_BYTES as usize];
        let mut theirs = vec![0; BATCH_BYTES as usize];
        for piece in look_at.iter().flat_map(|e| e.split(BATCH_BYTES)) {
            let ours = &mut ours[..piece.len as usize];
            let theirs = &mut theirs[..piece.len as usize];
            self.disk.read_at(piece.start, ours)?;
            self.file.read_exact_at(theirs, piece.start)?;
            for part in piece.split(4096) {
                let at = (part.start - piece.start) as usize..(part.end() - piece.start) as usize;
                if ours[at.clone()] != theirs[at.clone()] {
                    self.disk.write_at(part.start, &theirs[at])?;
                }
            }
        }
        Ok(())
    }
}

/// Whether the file system keeps written zeros as data. Compression may make holes of them.
fn keeps_zeros(file: &File) -> io::Result<bool> {
    const PROBE_BYTES: u64 = 1 << 20;
    file.write_all_at(&vec![0; PROBE_BYTES as usize], 0)?;
    file.sync_data()?;
    let kept = data_extents(file, PROBE_BYTES)?.total_bytes() == PROBE_BYTES;
    file.set_len(0)?;
    Ok(kept)
}

/// The parts of a file below `end` that are not holes.
fn data_extents(file: &File, end: u64) -> io::Result<ExtentMap> {
    let mut found = ExtentMap::new();
    let mut at = 0;
    while at < end {
        let start = match lseek(file.as_fd(), at.cast_signed(), Whence::SeekData) {
            Ok(start) => start.cast_unsigned().min(end),
            // No data from here to the end.
            Err(Errno::ENXIO) => break,
            Err(e) => return Err(e.into()),
        };
        let hole = lseek(file.as_fd(), start.cast_signed(), Whence::SeekHole);
        let stop = match hole {
            Ok(stop) => stop.cast_unsigned().min(end),
            Err(Errno::ENXIO) => break,
            Err(e) => return Err(e.into()),
        };
        if stop > start {
            found.insert(Extent::from_range(start, stop));
        }
        at = stop.max(at + 1);
    }
    Ok(found)
}
