//! Image files and block devices as disks.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};

use super::{Disk, DiskRead, Geometry, block, check_range, sys};
use crate::extent::Extent;
use crate::units::round_down;

/// The sector that an image is taken to have where nobody says otherwise.
const IMAGE_SECTOR_BYTES: u32 = 512;

/// An open file or device node, known by its numbers and not by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inode {
    device: u64,
    number: u64,
    node_of: u64,
}

/// An open image file or block device: what [`FileDisk`] and [`super::DirectDisk`] share.
pub(super) struct Node {
    pub(super) file: File,
    pub(super) path: PathBuf,
    is_block: bool,
    logical: u32,
    physical: u32,
    /// The length of the disk is a multiple of this.
    length_unit: u64,
    /// What the kernel last said, for the case that it cannot be asked (a device that is gone).
    last_len: AtomicU64,
}

impl Node {
    /// Opens `path`, whatever it is called: links are followed, and `/dev/disk/by-id` works.
    pub(super) fn open(path: &Path, write: bool, flags: i32) -> io::Result<Node> {
        let named =
            |e: io::Error| io::Error::new(e.kind(), format!("opening {}: {e}", path.display()));
        // The type is looked at before the open as well: to open a pipe hangs, and to open some
        // character devices (a watchdog, a tape) already does something.
        let before = std::fs::metadata(path).map_err(named)?;
        check_kind(&before).map_err(named)?;
        let file = OpenOptions::new()
            .read(true)
            .write(write)
            .custom_flags(flags | libc::O_NOCTTY)
            .open(path)
            .map_err(named)?;
        let after = file.metadata().map_err(named)?;
        check_kind(&after).map_err(named)?;
        let same = |m: &Metadata| (m.dev(), m.ino(), m.rdev(), m.file_type());
        if same(&before) != same(&after) {
            return Err(named(io::Error::other("it was replaced meanwhile")));
        }
        Node::new(file, path.into(), &after).map_err(named)
    }

    fn new(file: File, path: PathBuf, meta: &Metadata) -> io::Result<Node> {
        let is_block = meta.file_type().is_block_device();
        let (logical, physical, len) = if is_block {
            let (logical, physical) = block::sector_bytes(&file)?;
            (logical, physical, sys::device_len_bytes(&file)?)
        } else {
            (IMAGE_SECTOR_BYTES, IMAGE_SECTOR_BYTES, meta.len())
        };
        Ok(Node {
            file,
            path,
            is_block,
            logical,
            physical,
            length_unit: u64::from(logical),
            last_len: AtomicU64::new(len),
        })
    }

    pub(super) fn inode(&self) -> io::Result<Inode> {
        let meta = self.file.metadata()?;
        // A node may be made anew by udev; the device that it stands for is what counts.
        let node_of = if self.is_block { meta.rdev() } else { 0 };
        Ok(Inode {
            device: if self.is_block { 0 } else { meta.dev() },
            number: if self.is_block { 0 } else { meta.ino() },
            node_of,
        })
    }

    /// The length in bytes as the kernel has it now, tail included.
    pub(super) fn exact_len(&self) -> u64 {
        let asked = if self.is_block {
            sys::device_len_bytes(&self.file)
        } else {
            self.file.metadata().map(|m| m.len())
        };
        match asked {
            Ok(len) => {
                self.last_len.store(len, Ordering::Relaxed);
                len
            }
            Err(_) => self.last_len.load(Ordering::Relaxed),
        }
    }

    pub(super) fn geometry(&self) -> Geometry {
        Geometry {
            len_bytes: round_down(self.exact_len(), self.length_unit),
            logical_sector_bytes: self.logical,
            physical_sector_bytes: self.physical,
        }
    }

    pub(super) fn set_image_sector(&mut self, bytes: u32) -> io::Result<()> {
        if self.is_block || !bytes.is_power_of_two() || !(512..=65536).contains(&bytes) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "{} cannot have sectors of {bytes} bytes",
                    self.path.display()
                ),
            ));
        }
        (self.logical, self.physical) = (bytes, bytes);
        self.length_unit = u64::from(bytes);
        Ok(())
    }

    /// An error with the object and the place in it.
    pub(super) fn failed(
        &self,
        doing: &str,
        offset: u64,
        count: usize,
        e: &io::Error,
    ) -> io::Error {
        let message = format!(
            "{doing} {count} bytes at {offset} of {}: {e}",
            self.path.display()
        );
        let code = os_code(e);
        io::Error::new(e.kind(), Placed { message, code })
    }
}

/// An error of the kernel, told with its place.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
struct Placed {
    message: String,
    code: Option<i32>,
}

/// The kernel's number of an error, also of one that was told with its place.
pub fn os_code(e: &io::Error) -> Option<i32> {
    let placed = || e.get_ref()?.downcast_ref::<Placed>()?.code;
    e.raw_os_error().or_else(placed)
}

fn check_kind(meta: &Metadata) -> io::Result<()> {
    let kind = meta.file_type();
    if kind.is_file() || kind.is_block_device() {
        return Ok(());
    }
    let what = match kind {
        k if k.is_dir() => "a directory",
        k if k.is_char_device() => "a character device",
        k if k.is_fifo() => "a pipe",
        _ => "a socket",
    };
    Err(io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("it is {what}, neither an image file nor a block device"),
    ))
}

/// An image file or a block device, through the page cache.
///
/// The length follows the kernel's: a file that another descriptor has extended is as long here.
/// An image whose length is not a multiple of its sector has a *tail* that is no part of the
/// disk: [`FileDisk::tail_bytes`].
///
/// Not latched: the writer of a target wraps it in a [`super::Latch`].
pub struct FileDisk {
    node: Node,
    writable: bool,
    /// Whether a write beyond the end extends the file, as in a transaction's directory.
    may_grow: bool,
}

impl FileDisk {
    /// Opens an image file or a block device for reading alone.
    ///
    /// # Errors
    /// The kernel's, or `InvalidInput` for anything else than a regular file or block device.
    pub fn open_read(path: &Path) -> io::Result<FileDisk> {
        Ok(FileDisk {
            node: Node::open(path, false, 0)?,
            writable: false,
            may_grow: false,
        })
    }

    /// Opens an image file or a block device for reading and writing. Nothing is excluded by it:
    /// that is the holder's work ([`super::Hold`]).
    ///
    /// # Errors
    /// As [`FileDisk::open_read`].
    pub fn open_write(path: &Path) -> io::Result<FileDisk> {
        Ok(FileDisk {
            node: Node::open(path, true, 0)?,
            writable: true,
            may_grow: false,
        })
    }

    /// A file of a directory, which grows as it is written.
    pub(super) fn growing(file: File, path: PathBuf) -> io::Result<FileDisk> {
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{} is not a regular file", path.display()),
            ));
        }
        let mut node = Node::new(file, path, &meta)?;
        // Its length is exact to the byte, so that what is appended is found again.
        node.length_unit = 1;
        Ok(FileDisk {
            node,
            writable: true,
            may_grow: true,
        })
    }

    /// The same image with another sector size (a power of two from 512).
    ///
    /// # Errors
    /// `InvalidInput` for a block device, which has a sector size of its own, and for sizes that
    /// no disk has.
    pub fn with_image_sector_bytes(mut self, bytes: u32) -> io::Result<FileDisk> {
        self.node.set_image_sector(bytes)?;
        Ok(self)
    }

    /// The path that it was opened by.
    pub fn path(&self) -> &Path {
        &self.node.path
    }

    /// What it is, whatever it is called now.
    ///
    /// # Errors
    /// The kernel's.
    pub fn inode(&self) -> io::Result<Inode> {
        self.node.inode()
    }

    /// Whether it is a block device, which cannot change its length.
    pub fn is_block_device(&self) -> bool {
        self.node.is_block
    }

    /// Bytes after the last whole sector. They are never read or written.
    pub fn tail_bytes(&self) -> u64 {
        self.node.exact_len() % self.node.length_unit
    }

    /// Sees to it that `extent` of a file has space on its file system, so that a full one is
    /// known before the first byte is overwritten. Content and length stay as they are; holes
    /// become allocated zeros.
    ///
    /// On a copy-on-write file system this does not cover the overwriting of shared blocks.
    ///
    /// # Errors
    /// `StorageFull`; `Unsupported` where the file system cannot reserve, or for a block device,
    /// which needs none.
    pub fn reserve(&self, extent: Extent) -> io::Result<()> {
        if self.node.is_block {
            return Err(io::Error::from(io::ErrorKind::Unsupported));
        }
        if extent.is_empty() {
            return Ok(());
        }
        let named = |e: io::Error| {
            self.node
                .failed("reserving", extent.start, extent.len as usize, &e)
        };
        let offset = i64::try_from(extent.start).map_err(|e| named(io::Error::other(e)))?;
        let len = i64::try_from(extent.len).map_err(|e| named(io::Error::other(e)))?;
        loop {
            match fallocate(
                &self.node.file,
                FallocateFlags::FALLOC_FL_KEEP_SIZE,
                offset,
                len,
            ) {
                Err(Errno::EINTR) => {}
                Err(e) => return Err(named(e.into())),
                Ok(()) => return Ok(()),
            }
        }
    }

    fn check_writable(&self) -> io::Result<()> {
        if self.writable {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("{} is open for reading alone", self.node.path.display()),
        ))
    }
}

impl DiskRead for FileDisk {
    fn geometry(&self) -> Geometry {
        self.node.geometry()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_range(self.len_bytes(), offset, buf.len())?;
        let count = buf.len();
        self.node
            .file
            .read_exact_at(buf, offset)
            .map_err(|e| self.node.failed("reading", offset, count, &e))
    }
}

impl Disk for FileDisk {
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check_writable()?;
        if !self.may_grow {
            check_range(self.len_bytes(), offset, data.len())?;
        }
        self.node
            .file
            .write_all_at(data, offset)
            .map_err(|e| self.node.failed("writing", offset, data.len(), &e))
    }

    /// For a block device this also makes the device empty its own cache.
    fn flush(&self) -> io::Result<()> {
        // Barrier: the caller's; what was written and a length that was set are durable after it.
        self.node.file.sync_all().map_err(|e| {
            io::Error::new(
                e.kind(),
                format!("flushing {}: {e}", self.node.path.display()),
            )
        })
    }

    fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        self.check_writable()?;
        if self.node.is_block {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!(
                    "{} is a block device: its length is fixed",
                    self.node.path.display()
                ),
            ));
        }
        self.node.file.set_len(len_bytes).map_err(|e| {
            io::Error::new(
                e.kind(),
                format!(
                    "setting the length of {} to {len_bytes} bytes: {e}",
                    self.node.path.display()
                ),
            )
        })
    }
}
