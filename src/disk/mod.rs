//! The one seam between Holdfast and bytes that live somewhere.
//!
//! Everything above reads through [`DiskRead`] and writes through [`Disk`]; transaction
//! directories are a [`Dir`] of such disks. A file, a block device, memory, a part of another
//! disk and the power-cut simulator are all the same to the code that uses them.
//!
//! 1. A read or write is whole or an error: there are no short ones.
//! 2. Nothing is durable before [`Disk::flush`] has returned `Ok`; a created, renamed or removed
//!    name in a [`Dir`] is not durable before [`Dir::flush`] has.
//! 3. After one failed write or flush, nothing more can be known about what the disk holds. The
//!    [`Latch`] makes every later call fail, so that a second flush that "succeeds" is not
//!    believed.
//! 4. To look and to hold needs no writable handle: [`survey`], [`Hold`] and the readers open
//!    nothing for writing.

mod block;
mod direct;
mod file;
mod host_dir;
mod latch;
mod lock;
mod memory;
pub mod mounted;
mod mounts;
mod suitable;
pub mod survey;
mod sys;
mod window;

use std::io;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::extent::Extent;

pub use block::{drop_caches, resize_partition};
pub use direct::DirectDisk;
pub use file::{FileDisk, Inode, os_code};
pub use host_dir::HostDir;
pub use latch::Latch;
pub use lock::Hold;
pub use memory::{MemoryDir, MemoryDisk};
pub use suitable::{StateDir, device_of, suitability};
pub use window::Window;

/// The shape of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Geometry {
    /// Length in bytes.
    pub len_bytes: u64,
    /// Logical sector: the unit of LBAs, and the smallest that can be read or written.
    pub logical_sector_bytes: u32,
    /// Physical sector: the unit that the medium really rewrites, and so the unit of tearing.
    pub physical_sector_bytes: u32,
}

/// Something that can be read at any place.
pub trait DiskRead: Send + Sync {
    /// Length and sector sizes.
    fn geometry(&self) -> Geometry;

    /// Fills `buf` from `offset`.
    ///
    /// # Errors
    /// The medium's error, or `UnexpectedEof` where the range ends beyond the disk.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;

    /// Length in bytes.
    fn len_bytes(&self) -> u64 {
        self.geometry().len_bytes
    }
}

/// Something that can be written as well.
pub trait Disk: DiskRead {
    /// Writes all of `data` at `offset`. Not durable before [`Disk::flush`].
    ///
    /// # Errors
    /// The medium's error, or `InvalidInput` beyond the end of a disk that cannot grow.
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()>;

    /// Returns when everything written before is durable.
    ///
    /// # Errors
    /// The medium's error; it says nothing about which write was lost.
    fn flush(&self) -> io::Result<()>;

    /// Makes every byte of `extent` read as zero. What can do so without writing overrides this.
    ///
    /// # Errors
    /// As [`Disk::write_at`].
    fn zero(&self, extent: Extent) -> io::Result<()> {
        let zeros = vec![0; extent.len.min(1 << 20) as usize];
        for piece in extent.split(1 << 20) {
            self.write_at(piece.start, &zeros[..piece.len as usize])?;
        }
        Ok(())
    }

    /// Changes the length, where the disk is a file. New bytes read as zero.
    ///
    /// # Errors
    /// `Unsupported` for what is not a file, or the medium's error.
    fn set_len(&self, len_bytes: u64) -> io::Result<()>;
}

/// A flat directory of files that are disks: a transaction's directory.
pub trait Dir: Send + Sync {
    /// Creates an empty file, which must not exist.
    ///
    /// # Errors
    /// `AlreadyExists`, or the medium's error.
    fn create(&self, name: &str) -> io::Result<Arc<dyn Disk>>;

    /// Opens a file for reading and writing.
    ///
    /// # Errors
    /// `NotFound`, or the medium's error.
    fn open(&self, name: &str) -> io::Result<Arc<dyn Disk>>;

    /// Gives a file another name, replacing what had it.
    ///
    /// # Errors
    /// `NotFound`, or the medium's error.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// `NotFound`, or the medium's error.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// The names, sorted.
    ///
    /// # Errors
    /// The medium's error.
    fn names(&self) -> io::Result<Vec<String>>;

    /// Returns when all creations, renames and removals before are durable.
    ///
    /// # Errors
    /// The medium's error.
    fn flush(&self) -> io::Result<()>;
}

/// Refuses a range that ends beyond `len_bytes`, without overflow.
///
/// # Errors
/// `UnexpectedEof`, naming the range.
pub fn check_range(len_bytes: u64, offset: u64, count: usize) -> io::Result<()> {
    match offset.checked_add(count as u64) {
        Some(end) if end <= len_bytes => Ok(()),
        _ => Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            format!("{count} bytes at {offset} end beyond the disk's {len_bytes} bytes"),
        )),
    }
}

/// Reads `count` bytes from `offset` into a new buffer.
///
/// # Errors
/// As [`DiskRead::read_at`]; the range is checked before memory is taken for it.
pub fn read_vec(disk: &dyn DiskRead, offset: u64, count: usize) -> io::Result<Vec<u8>> {
    check_range(disk.len_bytes(), offset, count)?;
    let mut buf = vec![0; count];
    disk.read_at(offset, &mut buf)?;
    Ok(buf)
}

impl<T: DiskRead + ?Sized> DiskRead for Arc<T> {
    fn geometry(&self) -> Geometry {
        (**self).geometry()
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        (**self).read_at(offset, buf)
    }
}

impl<T: DiskRead + ?Sized> DiskRead for &T {
    fn geometry(&self) -> Geometry {
        (**self).geometry()
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        (**self).read_at(offset, buf)
    }
}

impl<T: Disk + ?Sized> Disk for Arc<T> {
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        (**self).write_at(offset, data)
    }
    fn flush(&self) -> io::Result<()> {
        (**self).flush()
    }
    fn zero(&self, extent: Extent) -> io::Result<()> {
        (**self).zero(extent)
    }
    fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        (**self).set_len(len_bytes)
    }
}

impl<T: DiskRead + ?Sized> DiskRead for Box<T> {
    fn geometry(&self) -> Geometry {
        (**self).geometry()
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        (**self).read_at(offset, buf)
    }
}

impl<T: Disk + ?Sized> Disk for Box<T> {
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        (**self).write_at(offset, data)
    }
    fn zero(&self, extent: Extent) -> io::Result<()> {
        (**self).zero(extent)
    }
    fn flush(&self) -> io::Result<()> {
        (**self).flush()
    }
    fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        (**self).set_len(len_bytes)
    }
}
