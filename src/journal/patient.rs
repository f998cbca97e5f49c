//! Reading a medium of which some places cannot be read.
//!
//! A power cut may leave a sector that gives an error until it is written again, and media age. What
//! cannot be read is neither old nor new, and must not keep recovery from writing it.

use std::io;
use std::sync::{Mutex, PoisonError};

use crate::disk::{DiskRead, Geometry, os_code};
use crate::extent::{Extent, ExtentMap};
use crate::units::UNIT_BYTES;

/// So many units are passed over. A device that gives more errors is not one with a bad place:
/// each may take it many seconds.
const MOST_UNITS: u64 = 64;

/// Whether `e` says that this place cannot be read, and nothing about others.
pub(super) fn is_unreadable(e: &io::Error) -> bool {
    // `EIO` and what the kernel says of a medium's own errors.
    os_code(e).is_some_and(|code| {
        [
            libc::EIO,
            libc::ENODATA,
            libc::EILSEQ,
            libc::EREMOTEIO,
            libc::EBADMSG,
        ]
        .contains(&code)
    })
}

/// A disk whose unreadable units read as zero, and are remembered.
pub(super) struct Patient<'a> {
    disk: &'a dyn DiskRead,
    lost: Mutex<ExtentMap>,
}

impl<'a> Patient<'a> {
    pub fn new(disk: &'a dyn DiskRead) -> Patient<'a> {
        Patient {
            disk,
            lost: Mutex::new(ExtentMap::new()),
        }
    }

    /// What could not be read so far.
    pub fn lost(&self) -> ExtentMap {
        let lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        lost.clone()
    }
}

impl DiskRead for Patient<'_> {
    fn geometry(&self) -> Geometry {
        self.disk.geometry()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        match self.disk.read_at(offset, buf) {
            Err(e) if is_unreadable(&e) => {}
            other => return other,
        }
        for piece in Extent::new(offset, buf.len() as u64).split(UNIT_BYTES) {
            let from = (piece.start - offset) as usize;
            let part = &mut buf[from..from + piece.len as usize];
            let Err(e) = self.disk.read_at(piece.start, part) else {
                continue;
            };
            let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
            if !is_unreadable(&e) || lost.total_bytes() >= MOST_UNITS * UNIT_BYTES {
                return Err(e);
            }
            part.fill(0);
            lost.insert(piece);
        }
        Ok(())
    }
}
