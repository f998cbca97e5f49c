//! Reading past the page cache, so that a read-back reads the medium and not our own memory.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::sys::uio::pread;

use super::file::Node;
use super::sys::{DirectAlignment, direct_alignment};
use super::{DiskRead, Geometry, block, check_range};
use crate::units::{round_down, round_up};

/// Aligned to a page, reads are accepted by every kernel, whatever the sector.
const ALIGN_BYTES: u64 = 4096;
/// Above this, what the kernel asks for is not an alignment that memory is taken for.
const MAX_ALIGN_BYTES: u64 = 1 << 20;
/// One bounce buffer.
const CHUNK_BYTES: usize = 1 << 20;
/// Buffers that are kept for the next reader.
const POOL: usize = 8;

/// An image file or block device, read with `O_DIRECT` where that is to be had.
///
/// Any offset, length and memory will do: what is not aligned goes through a buffer. Where there
/// are no direct reads (some network and FUSE file systems) every read is preceded by a wish to
/// drop the cache, which the kernel need not fulfil: [`DirectDisk::is_direct`] is false, and the
/// result of a verification must say `cached`.
pub struct DirectDisk {
    node: Node,
    align: u64,
    direct: bool,
    pool: Mutex<Vec<Aligned>>,
}

impl DirectDisk {
    /// Opens `path` for reading past the page cache.
    ///
    /// # Errors
    /// As [`super::FileDisk::open_read`].
    pub fn open(path: &Path) -> io::Result<DirectDisk> {
        let disk = match Node::open(path, false, libc::O_DIRECT) {
            Ok(node) => DirectDisk::on(node),
            // EINVAL at the open: the file system knows no O_DIRECT.
            Err(e) if e.kind() == io::ErrorKind::InvalidInput => None,
            Err(e) => return Err(e),
        };
        if let Some(disk) = disk {
            return Ok(disk);
        }
        let node = Node::open(path, false, 0)?;
        block::drop_file_caches(&node.file)?;
        Ok(DirectDisk {
            node,
            align: 1,
            direct: false,
            pool: Mutex::default(),
        })
    }

    /// The direct reader on `node`, if its first block can be read so: some file systems accept
    /// the flag and then refuse every read.
    fn on(node: Node) -> Option<DirectDisk> {
        let align = match direct_alignment(&node.file) {
            DirectAlignment::Unsupported => return None,
            DirectAlignment::Unknown => 0,
            DirectAlignment::Bytes(bytes) => bytes,
        };
        let sector = u64::from(node.geometry().logical_sector_bytes);
        let align = align.max(sector).max(ALIGN_BYTES);
        if !align.is_power_of_two() || align > MAX_ALIGN_BYTES {
            return None;
        }
        let mut probe = Aligned::new(align as usize, align as usize)?;
        match read_some(&node.file, probe.bytes(), 0) {
            Err(Errno::EINVAL | Errno::EOPNOTSUPP) => None,
            _ => Some(DirectDisk {
                node,
                align,
                direct: true,
                pool: Mutex::default(),
            }),
        }
    }

    /// As [`super::FileDisk::inode`].
    ///
    /// # Errors
    /// The kernel's.
    pub fn inode(&self) -> io::Result<super::Inode> {
        self.node.inode()
    }

    /// The same image with another sector size.
    ///
    /// # Errors
    /// As [`super::FileDisk::with_image_sector_bytes`].
    pub fn with_image_sector_bytes(mut self, bytes: u32) -> io::Result<DirectDisk> {
        self.node.set_image_sector(bytes)?;
        Ok(self)
    }

    /// Whether reads pass by the page cache. (A file system may still buffer behind our back:
    /// btrfs does for compressed files.)
    pub fn is_direct(&self) -> bool {
        self.direct
    }

    fn buffer(&self) -> io::Result<Aligned> {
        let kept = self
            .pool
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        match kept {
            Some(buffer) => Ok(buffer),
            None => Aligned::new(CHUNK_BYTES, self.align as usize)
                .ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory)),
        }
    }

    fn read_direct(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let align = self.align as usize;
        if offset.is_multiple_of(self.align)
            && buf.len().is_multiple_of(align)
            && (buf.as_ptr() as usize).is_multiple_of(align)
        {
            let need = buf.len();
            return fill(&self.node.file, buf, offset, need, align);
        }
        let mut bounce = self.buffer()?;
        let mut at = offset;
        let mut rest = buf;
        while !rest.is_empty() {
            let start = round_down(at, self.align);
            let skip = (at - start) as usize;
            let count = rest.len().min(CHUNK_BYTES - skip);
            let whole = round_up((skip + count) as u64, self.align)
                .map_or(CHUNK_BYTES, |n| (n as usize).min(CHUNK_BYTES));
            let bytes = &mut bounce.bytes()[..whole];
            fill(&self.node.file, bytes, start, skip + count, align)?;
            let (now, later) = rest.split_at_mut(count);
            now.copy_from_slice(&bytes[skip..skip + count]);
            rest = later;
            at += count as u64;
        }
        let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        if pool.len() < POOL {
            pool.push(bounce);
        }
        Ok(())
    }

    fn read_cached(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let range = (i64::try_from(offset), i64::try_from(buf.len()));
        if let (Ok(start), Ok(len)) = range {
            posix_fadvise(
                &self.node.file,
                start,
                len,
                PosixFadviseAdvice::POSIX_FADV_DONTNEED,
            )?;
        }
        let need = buf.len();
        fill(&self.node.file, buf, offset, need, 1)
    }
}

impl DiskRead for DirectDisk {
    fn geometry(&self) -> Geometry {
        self.node.geometry()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_range(self.len_bytes(), offset, buf.len())?;
        let count = buf.len();
        let read = if self.direct {
            self.read_direct(offset, buf)
        } else {
            self.read_cached(offset, buf)
        };
        read.map_err(|e| self.node.failed("reading", offset, count, &e))
    }
}

/// Reads until the first `need` bytes of `buf` are there. The last read of a file may be short,
/// where the file ends within the alignment; a direct read cannot go on from there.
fn fill(file: &File, buf: &mut [u8], offset: u64, need: usize, align: usize) -> io::Result<()> {
    let mut done = 0;
    while done < need {
        let got = read_some(file, &mut buf[done..], offset + done as u64)?;
        done += got;
        if got == 0 || (done < need && !done.is_multiple_of(align)) {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("it ends after {done} of {need} bytes"),
            ));
        }
    }
    Ok(())
}

fn read_some(file: &File, buf: &mut [u8], offset: u64) -> Result<usize, Errno> {
    let offset = i64::try_from(offset).map_err(|_| Errno::EINVAL)?;
    loop {
        match pread(file, buf, offset) {
            Err(Errno::EINTR) => {}
            other => return other,
        }
    }
}

/// Memory whose first byte lies on a multiple of an alignment.
struct Aligned {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl Aligned {
    fn new(len: usize, align: usize) -> Option<Aligned> {
        let memory = vec![0u8; len.checked_add(align)?];
        let start = memory.as_ptr().align_offset(align);
        (start <= align).then_some(Aligned { memory, start, len })
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn any_range_of_a_file_reads_as_it_was_written() {
        // Not /tmp, which is often memory: there the reads would not be direct.
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = dir.path().join("image");
        let content: Vec<u8> = (0..3 * CHUNK_BYTES + 1536).map(|i| (i / 7) as u8).collect();
        let mut file = File::create(&path).unwrap();
        file.write_all(&content).unwrap();
        file.write_all(b"tail").unwrap();
        let direct = DirectDisk::open(&path).unwrap();
        let cached = DirectDisk {
            node: Node::open(&path, false, 0).unwrap(),
            align: 1,
            direct: false,
            pool: Mutex::default(),
        };
        reads_as(&direct, &content);
        reads_as(&cached, &content);
    }

    fn reads_as(disk: &DirectDisk, content: &[u8]) {
        assert_eq!(disk.len_bytes(), content.len() as u64, "whole sectors");
        let len = content.len();
        for (offset, count) in [
            (0, len),
            (1, len - 1),
            (0, 4096),
            (4095, 2),
            (511, 513),
            (CHUNK_BYTES - 1, CHUNK_BYTES + 2),
            (len - 1, 1),
            (len - 1536, 1536),
            (len, 0),
        ] {
            let mut buf = vec![0xaa; count + 3];
            disk.read_at(offset as u64, &mut buf[3..]).unwrap();
            assert_eq!(
                buf[3..],
                content[offset..offset + count],
                "{offset}+{count}"
            );
        }
        let mut byte = [0];
        let end = disk.read_at(len as u64, &mut byte).unwrap_err();
        assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn memory_is_aligned() {
        for align in [512, 4096, 65536] {
            let mut buffer = Aligned::new(8192, align).unwrap();
            assert_eq!(buffer.bytes().as_ptr() as usize % align, 0);
            assert_eq!(buffer.bytes().len(), 8192);
        }
    }
}
