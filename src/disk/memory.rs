//! Disks and directories in memory, for tests and small work.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Dir, Disk, DiskRead, Geometry, check_range};

/// A disk in memory.
pub struct MemoryDisk {
    bytes: Mutex<Vec<u8>>,
    sector_bytes: u32,
    may_grow: bool,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MemoryDisk {
    /// A disk of 512-byte sectors that cannot change its length.
    pub fn fixed(bytes: Vec<u8>) -> MemoryDisk {
        MemoryDisk {
            bytes: Mutex::new(bytes),
            sector_bytes: 512,
            may_grow: false,
        }
    }

    /// A file: writes beyond the end extend it.
    pub fn file(bytes: Vec<u8>) -> MemoryDisk {
        MemoryDisk {
            bytes: Mutex::new(bytes),
            sector_bytes: 512,
            may_grow: true,
        }
    }

    /// The same disk with another logical and physical sector size.
    pub fn with_sector_bytes(self, sector_bytes: u32) -> MemoryDisk {
        MemoryDisk {
            sector_bytes,
            ..self
        }
    }

    /// A copy of the content.
    pub fn content(&self) -> Vec<u8> {
        locked(&self.bytes).clone()
    }
}

impl DiskRead for MemoryDisk {
    fn geometry(&self) -> Geometry {
        Geometry {
            len_bytes: locked(&self.bytes).len() as u64,
            logical_sector_bytes: self.sector_bytes,
            physical_sector_bytes: self.sector_bytes,
        }
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let bytes = locked(&self.bytes);
        check_range(bytes.len() as u64, offset, buf.len())?;
        let offset = offset as usize;
        buf.copy_from_slice(&bytes[offset..offset + buf.len()]);
        Ok(())
    }
}

impl Disk for MemoryDisk {
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut bytes = locked(&self.bytes);
        let end = offset as usize + data.len();
        if self.may_grow && end > bytes.len() {
            bytes.resize(end, 0);
        }
        check_range(bytes.len() as u64, offset, data.len())?;
        bytes[offset as usize..end].copy_from_slice(data);
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        if !self.may_grow {
            return Err(io::Error::from(io::ErrorKind::Unsupported));
        }
        locked(&self.bytes).resize(len_bytes as usize, 0);
        Ok(())
    }
}

/// A directory in memory.
#[derive(Default)]
pub struct MemoryDir {
    files: Mutex<BTreeMap<String, Arc<MemoryDisk>>>,
}

impl MemoryDir {
    fn get(&self, name: &str) -> io::Result<Arc<MemoryDisk>> {
        let found = locked(&self.files).get(name).cloned();
        found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, name.to_string()))
    }
}

impl Dir for MemoryDir {
    fn create(&self, name: &str) -> io::Result<Arc<dyn Disk>> {
        let mut files = locked(&self.files);
        if files.contains_key(name) {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                name.to_string(),
            ));
        }
        let disk = Arc::new(MemoryDisk::file(Vec::new()));
        files.insert(name.into(), disk.clone());
        Ok(disk)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn Disk>> {
        Ok(self.get(name)?)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let disk = self.get(from)?;
        let mut files = locked(&self.files);
        files.remove(from);
        files.insert(to.into(), disk);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.get(name)?;
        locked(&self.files).remove(name);
        Ok(())
    }

    fn names(&self) -> io::Result<Vec<String>> {
        Ok(locked(&self.files).keys().cloned().collect())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}
