//! A part of a disk as a disk: a file system's driver sees its partition from byte 0.

use std::io;

use super::{Disk, DiskRead, Geometry, check_range};
use crate::extent::Extent;

/// The bytes of `extent` of a disk, as a disk of their own, which can be written where the disk
/// under it can.
pub struct Window<D> {
    disk: D,
    extent: Extent,
}

impl<D: DiskRead> Window<D> {
    /// The part `extent` of `disk`.
    ///
    /// # Errors
    /// `UnexpectedEof` where the extent ends beyond the disk.
    pub fn new(disk: D, extent: Extent) -> io::Result<Window<D>> {
        let len_bytes = disk.len_bytes();
        if extent.end() > len_bytes {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("{extent} end beyond the disk's {len_bytes} bytes"),
            ));
        }
        Ok(Window { disk, extent })
    }
}

impl<D: DiskRead> DiskRead for Window<D> {
    fn geometry(&self) -> Geometry {
        Geometry {
            len_bytes: self.extent.len,
            ..self.disk.geometry()
        }
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_range(self.extent.len, offset, buf.len())?;
        self.disk.read_at(self.extent.start + offset, buf)
    }
}

impl<D: Disk> Disk for Window<D> {
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        check_range(self.extent.len, offset, data.len())?;
        self.disk.write_at(self.extent.start + offset, data)
    }

    fn flush(&self) -> io::Result<()> {
        self.disk.flush()
    }

    fn zero(&self, extent: Extent) -> io::Result<()> {
        if !Extent::new(0, self.extent.len).contains(extent) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{extent} end beyond the part's {} bytes", self.extent.len),
            ));
        }
        self.disk
            .zero(Extent::new(self.extent.start + extent.start, extent.len))
    }

    /// A part cannot change its length.
    fn set_len(&self, _: u64) -> io::Result<()> {
        Err(io::Error::from(io::ErrorKind::Unsupported))
    }
}
