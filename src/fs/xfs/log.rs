//! Whether the log is clean. It is not read any further: the kernel replays it.
//!
//! The log is a ring of blocks of 512 bytes. Each begins with the number of the round in which it
//! was written; a record's header has the magic number there, and the round behind it. The head is
//! where the round changes. A clean log has the record of an unmount right before its head.
//!
//! What is not certain counts as dirty: then the kernel looks.

use crate::disk::{DiskRead, read_vec};
use crate::extent::Extent;
use crate::fs::FsError;

use super::fields::Fields;
use super::superblock::Superblock;

const HEADER_MAGIC: u32 = 0xfeed_babe;
const BLOCK: u64 = 512;
/// What one header describes at most.
const CYCLE_BYTES: u32 = 32 << 10;
/// The flag of an operation that says that this is an unmount.
const UNMOUNT: u8 = 0x20;
/// The largest record, in blocks: the unmount's is found within this.
const RECORD_BLOCKS: u64 = 1024;

struct Log<'a> {
    part: &'a dyn DiskRead,
    place: Extent,
}

impl Log<'_> {
    fn blocks(&self) -> u64 {
        self.place.len / BLOCK
    }

    fn block(&self, number: u64) -> Result<Vec<u8>, FsError> {
        let at = self.place.start + number % self.blocks() * BLOCK;
        Ok(read_vec(self.part, at, BLOCK as usize)?)
    }

    /// The round in which a block was written.
    fn round(&self, number: u64) -> Result<u32, FsError> {
        let block = self.block(number)?;
        let fields = Fields(&block);
        Ok(match fields.u32(0) {
            HEADER_MAGIC => fields.u32(4),
            round => round,
        })
    }

    /// The first block of those behind which the older round begins.
    fn head(&self) -> Result<u64, FsError> {
        let (first, last) = (self.round(0)?, self.round(self.blocks() - 1)?);
        if first == last {
            return Ok(0);
        }
        // Up to `low` blocks have the first round, from `high` on they have the last.
        let (mut low, mut high) = (0, self.blocks() - 1);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            match self.round(middle)? == last {
                true => high = middle,
                false => low = middle,
            }
        }
        Ok(high)
    }
}

/// Whether the log waits for nothing.
///
/// # Errors
/// The disk's.
pub fn is_clean(part: &dyn DiskRead, sb: &Superblock) -> Result<bool, FsError> {
    let log = Log {
        part,
        place: sb.log,
    };
    if log.blocks() < 2 {
        return Ok(false);
    }
    if log.round(0)? == 0 && log.round(log.blocks() - 1)? == 0 {
        // Never written.
        return Ok(true);
    }
    let head = log.head()?;
    for back in 1..=RECORD_BLOCKS.min(log.blocks()) {
        let number = (head + log.blocks() - back) % log.blocks();
        let header = log.block(number)?;
        if Fields(&header).u32(0) == HEADER_MAGIC {
            return is_unmount(&log, number, Fields(&header), back);
        }
    }
    Ok(false)
}

/// Whether the record at `number`, the last before the head, is an unmount's and ends there.
fn is_unmount(
    log: &Log<'_>,
    number: u64,
    header: Fields<'_>,
    blocks_to_head: u64,
) -> Result<bool, FsError> {
    let (version, size) = (header.u32(8), header.u32(320));
    let headers = match version & 2 != 0 && size > CYCLE_BYTES {
        true => size.div_ceil(CYCLE_BYTES),
        false => 1,
    };
    let data = u64::from(header.u32(12)).div_ceil(BLOCK);
    if header.u32(40) != 1 || u64::from(headers) + data != blocks_to_head {
        return Ok(false);
    }
    let operation = log.block(number + u64::from(headers))?;
    Ok(Fields(&operation).u8(9) & UNMOUNT != 0)
}
