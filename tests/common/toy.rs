//! A toy file system for the exhaustive crash tests: a superblock that can be gated, and nothing
//! else. Small enough that every power cut can be tried.

use std::path::Path;

use holdfast::disk::{Disk, DiskRead};
use holdfast::extent::{Extent, ExtentMap};
use holdfast::fs::{
    Bounds, Difference, Direction, Driver, FsError, GateState, Observed, Orphan, TransactionId,
    tool::{ToolError, Tools},
};
use holdfast::report::{Refusal, Report};

/// Superblock of 1024 bytes at byte 1024: `TOYFS`, a gate byte, a transaction, a size, filler, and
/// where `checksum` is set a CRC32 in the last 4 bytes.
pub struct Toy {
    pub checksum: bool,
}

impl Toy {
    pub fn superblock_of(&self, size: u64, filler: u8) -> Vec<u8> {
        let mut sb = vec![filler; 1024];
        sb[..5].copy_from_slice(b"TOYFS");
        sb[5] = 0;
        sb[6..22].fill(0);
        sb[24..32].copy_from_slice(&size.to_le_bytes());
        self.sign(&mut sb);
        sb
    }

    fn sign(&self, sb: &mut [u8]) {
        if self.checksum {
            let crc = crc32fast::hash(&sb[..1020]);
            sb[1020..].copy_from_slice(&crc.to_le_bytes());
        }
    }
}

fn unused<T>() -> Result<T, FsError> {
    Err(FsError::Corrupt("the toy cannot do this".into()))
}

impl Driver for Toy {
    fn name(&self) -> &'static str {
        "toy"
    }
    fn probe(&self, _: &dyn DiskRead) -> Result<Option<Observed>, FsError> {
        unused()
    }
    fn refusals(&self, _: &dyn DiskRead, _: Direction) -> Result<Vec<Refusal>, FsError> {
        unused()
    }
    fn bounds(&self, _: &dyn DiskRead) -> Result<Bounds, FsError> {
        unused()
    }
    fn used(&self, _: &dyn DiskRead, _: &dyn Report) -> Result<ExtentMap, FsError> {
        unused()
    }
    fn superblock(&self) -> Extent {
        Extent::new(1024, 1024)
    }
    fn close_gate(&self, superblock: &[u8], id: TransactionId) -> Result<Vec<u8>, FsError> {
        let mut sb = superblock.to_vec();
        sb[5] = 1;
        sb[6..22].copy_from_slice(&id.0);
        self.sign(&mut sb);
        Ok(sb)
    }
    fn gate(&self, sb: &[u8]) -> GateState {
        if sb[..5] != *b"TOYFS"
            || (self.checksum && crc32fast::hash(&sb[..1020]).to_le_bytes() != sb[1020..])
        {
            return GateState::Invalid;
        }
        match sb[5] {
            0 => GateState::Open,
            1 => GateState::Closed(TransactionId(sb[6..22].try_into().unwrap())),
            _ => GateState::Invalid,
        }
    }
    fn replay(&self, _: &dyn Disk) -> Result<(), FsError> {
        unused()
    }
    fn orphans(&self, _: &dyn DiskRead) -> Result<Vec<Orphan>, FsError> {
        unused()
    }
    fn only_replayed(
        &self,
        _: &dyn DiskRead,
        _: &dyn DiskRead,
        _: &ExtentMap,
        _: usize,
        _: &dyn Report,
    ) -> Result<Vec<Difference>, FsError> {
        unused()
    }
    fn prepare(&self, _: &Path, _: &Observed, _: &Tools) -> Result<(), ToolError> {
        unreachable!()
    }
    fn resize(&self, _: &Path, _: u64, _: &Tools) -> Result<(), ToolError> {
        unreachable!()
    }
    fn verify(&self, _: &Path, _: &Tools) -> Result<(), ToolError> {
        unreachable!()
    }
    fn only_prepared(
        &self,
        _: &dyn DiskRead,
        _: &dyn DiskRead,
        _: &ExtentMap,
    ) -> Result<Vec<Difference>, FsError> {
        unused()
    }
    fn known_faults(
        &self,
        _: &Observed,
        _: Direction,
        _: u64,
        _: &Tools<'_>,
    ) -> Result<(Vec<Refusal>, Vec<String>), ToolError> {
        unreachable!()
    }
    fn minimum(&self, _: &Path, _: &Observed, _: &Tools) -> Result<u64, ToolError> {
        unreachable!()
    }
    fn fit(&self, _: &dyn DiskRead, _: u64) -> Result<u64, FsError> {
        unused()
    }
    fn delta_estimate(&self, _: &dyn DiskRead, _: &ExtentMap, _: u64) -> Result<u64, FsError> {
        unused()
    }
    fn compare(
        &self,
        _: &dyn DiskRead,
        _: &dyn DiskRead,
        _: &ExtentMap,
        _: usize,
        _: &dyn Report,
    ) -> Result<Vec<Difference>, FsError> {
        unused()
    }
    fn owners(&self, _: &dyn DiskRead, _: &ExtentMap, _: usize) -> Result<Vec<String>, FsError> {
        unused()
    }
}
