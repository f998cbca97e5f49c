//! After one failed write or flush, every later call fails.

use std::io;
use std::sync::OnceLock;

use super::{Disk, DiskRead, Geometry};

/// A disk that remembers its first failed write, flush or change of length.
///
/// The fault it guards against: Linux reports a lost page once; the next `fsync` succeeds and
/// says nothing about the page that is gone. Reads stay possible: a rollback must be able to see
/// what is there.
pub struct Latch<D> {
    disk: D,
    failure: OnceLock<String>,
}

impl<D: Disk> Latch<D> {
    /// Latches `disk`.
    pub fn new(disk: D) -> Latch<D> {
        Latch {
            disk,
            failure: OnceLock::new(),
        }
    }

    fn guard(&self, work: impl FnOnce(&D) -> io::Result<()>) -> io::Result<()> {
        if let Some(first) = self.failure.get() {
            return Err(io::Error::other(format!(
                "not attempted after an earlier failure: {first}"
            )));
        }
        work(&self.disk).inspect_err(|e| {
            let _ = self.failure.set(e.to_string());
        })
    }
}

impl<D: Disk> DiskRead for Latch<D> {
    fn geometry(&self) -> Geometry {
        self.disk.geometry()
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.disk.read_at(offset, buf)
    }
}

impl<D: Disk> Disk for Latch<D> {
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.guard(|d| d.write_at(offset, data))
    }
    fn flush(&self) -> io::Result<()> {
        self.guard(|d| d.flush())
    }
    fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        self.guard(|d| d.set_len(len_bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MemoryDisk;

    #[test]
    fn nothing_is_believed_after_a_failure() {
        let disk = Latch::new(MemoryDisk::fixed(vec![0; 4096]));
        assert!(disk.write_at(4096, &[1]).is_err());
        let later = disk.flush().unwrap_err().to_string();
        assert!(later.contains("earlier failure"), "{later}");
        assert!(disk.write_at(0, &[1]).is_err());
        let mut byte = [9];
        disk.read_at(0, &mut byte).unwrap();
        assert_eq!(
            byte,
            [0],
            "the write after the failure never reached the disk"
        );
    }
}
