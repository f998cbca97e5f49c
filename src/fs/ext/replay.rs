//! A replay of the journal by our own reading of it: what the tools' replay is measured by.
//!
//! `e2fsck` does the replay whose result is committed. It also ends the files that were deleted
//! while open, with `-E journal_only` too (seen with 1.47.0), so that its result cannot be held
//! against the journal byte by byte. This one, onto an overlay of its own, does the replay alone:
//! each block of [`super::jbd2`]'s list gets its copy, and the superblock loses its mark. What
//! then differs from the tools' result must be the end of orphans and named fields.

use crate::disk::{Disk, DiskRead};
use crate::fs::FsError;

use super::feature;
use super::jbd2::{Committed, Journal, damaged};
use super::superblock::{CHECKSUM_AT, SUPERBLOCK_BYTES, SUPERBLOCK_OFFSET};
use super::superblock_of;
use super::walk::Volume;
use crate::fs::bytes::u32_at;
use crate::fs::crc::crc32c;

const INCOMPAT_AT: usize = 0x60;

/// What the journal of the file system on `part` holds for a replay. Nothing where none waits.
///
/// # Errors
/// As [`Journal::open`] and [`Journal::committed`].
pub fn waiting(part: &dyn DiskRead) -> Result<Committed, FsError> {
    let volume = Volume::open(part)?;
    let waits = volume.sb.has(feature::NEEDS_RECOVERY);
    match Journal::open(&volume)? {
        Some(journal) if waits => journal.committed(),
        _ => Ok(Committed::default()),
    }
}

/// Replays the journal of the file system on `part`, which lies on an overlay.
///
/// # Errors
/// As [`waiting`]; `ext-journal-damaged` for a copy of a block that does not exist or is the
/// journal's own.
pub fn replay(part: &dyn Disk) -> Result<(), FsError> {
    let volume = Volume::open(part)?;
    let Some(journal) = Journal::open(&volume)? else {
        return Err(damaged("there is none".into()));
    };
    let block_bytes = volume.sb.block_bytes;
    for (&number, copy) in &journal.committed()?.blocks {
        let end = number
            .checked_add(1)
            .and_then(|next| next.checked_mul(block_bytes));
        if end.is_none_or(|end| end > part.len_bytes()) || journal.owns(number) {
            return Err(damaged(format!(
                "it has a copy of block {number}, which it cannot have"
            )));
        }
        part.write_at(number * block_bytes, &journal.content(number, copy)?)?;
    }
    let mut raw = *superblock_of(part)?.raw;
    let incompat = u32_at(&raw, INCOMPAT_AT) & !feature::NEEDS_RECOVERY.mask;
    put(&mut raw, INCOMPAT_AT, incompat);
    if volume.sb.has(feature::METADATA_CSUM) {
        let sum = crc32c(!0, raw.split_at(CHECKSUM_AT).0);
        put(&mut raw, CHECKSUM_AT, sum);
    }
    part.write_at(SUPERBLOCK_OFFSET, &raw)?;
    Ok(())
}

fn put(raw: &mut [u8; SUPERBLOCK_BYTES], at: usize, value: u32) {
    if let Some(field) = raw.get_mut(at..at + 4) {
        field.copy_from_slice(&value.to_le_bytes());
    }
}
