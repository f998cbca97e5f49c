//! Whether a check has changed nothing but its own stamps.
//!
//! Who stamps the primary superblock writes all of its backups as well. A backup that was older
//! (the kernel keeps none up to date) is then what the primary makes it, to the byte.

use std::ops::Range;

use crate::disk::{DiskRead, read_vec};
use crate::extent::{Extent, ExtentMap};
use crate::fs::{Difference, FsError};

use super::super::superblock::{SUPERBLOCK_BYTES, SUPERBLOCK_OFFSET, Superblock};
use super::super::superblock_of;
use super::superblock::backup_difference;

/// The last write, the last check, their upper halves, and the checksum.
const STAMPS: [Range<usize>; 5] = [
    0x30..0x34,
    0x40..0x44,
    0x274..0x275,
    0x277..0x278,
    0x3fc..0x400,
];

/// What differs between `before` and `after`, in `changed`, besides the stamps in the superblock
/// and backups that were brought up to date with it.
///
/// # Errors
/// Where either cannot be read.
pub fn only_stamped(
    before: &dyn DiskRead,
    after: &dyn DiskRead,
    changed: &ExtentMap,
) -> Result<Vec<Difference>, FsError> {
    let wrong = beyond(
        before,
        after,
        changed,
        &excused(after, &superblock_of(after)?)?,
    )?;
    let first = wrong.iter().next();
    Ok(first
        .map(|first| Difference {
            code: "check-repaired".into(),
            object: "file system".into(),
            detail: format!(
                "its check changed {} bytes besides its stamps, the first run at {first} of the partition",
                wrong.total_bytes()
            ),
        })
        .into_iter()
        .collect())
}

/// The bytes of `changed` that differ and are not among the `excused`.
pub fn beyond(
    before: &dyn DiskRead,
    after: &dyn DiskRead,
    changed: &ExtentMap,
    excused: &ExtentMap,
) -> Result<ExtentMap, FsError> {
    let mut wrong = ExtentMap::new();
    for piece in changed.iter().flat_map(|e| e.split(1 << 20)) {
        let mut old = read_vec(before, piece.start, piece.len as usize)?;
        let mut new = read_vec(after, piece.start, piece.len as usize)?;
        for stamp in excused.within(piece) {
            let at = (stamp.start - piece.start) as usize..(stamp.end() - piece.start) as usize;
            old[at.clone()].fill(0);
            new[at].fill(0);
        }
        let differing = old
            .iter()
            .zip(&new)
            .enumerate()
            .filter(|(_, (a, b))| a != b);
        differing.for_each(|(at, _)| wrong.insert(Extent::new(piece.start + at as u64, 1)));
    }
    Ok(wrong)
}

/// The stamps of the primary superblock, and the backups that say the same as it.
pub fn excused(after: &dyn DiskRead, sb: &Superblock) -> Result<ExtentMap, FsError> {
    let primary = STAMPS.map(|s| Extent::new(SUPERBLOCK_OFFSET + s.start as u64, s.len() as u64));
    let mut excused = ExtentMap::from_iter(primary);
    for group in 1..sb.group_count() {
        let Some(block) = sb.superblock_block(group) else {
            continue;
        };
        let at = block * sb.block_bytes;
        let raw = read_vec(after, at, SUPERBLOCK_BYTES)?;
        if backup_difference(sb, group, &raw).is_none() {
            excused.insert(Extent::new(at, SUPERBLOCK_BYTES as u64));
        }
    }
    Ok(excused)
}
