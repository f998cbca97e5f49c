//! Whether a check has changed nothing but its own stamps.

use std::ops::Range;

use crate::disk::{DiskRead, read_vec};
use crate::extent::{Extent, ExtentMap};
use crate::fs::{Difference, FsError};

use super::super::superblock::{SUPERBLOCK_BYTES, SUPERBLOCK_OFFSET, Superblock};
use super::super::superblock_of;

/// The last write, the last check, their upper halves, and the checksum.
const STAMPS: [Range<usize>; 5] = [
    0x30..0x34,
    0x40..0x44,
    0x274..0x275,
    0x277..0x278,
    0x3fc..0x400,
];

/// What differs between `before` and `after`, in `changed`, besides the stamps in the superblock.
/// Its backups may catch up with it: the kernel leaves them as they are, the tools write them
/// anew. They are compared with it when the resize is judged.
///
/// # Errors
/// Where either cannot be read.
pub fn only_stamped(
    before: &dyn DiskRead,
    after: &dyn DiskRead,
    changed: &ExtentMap,
) -> Result<Vec<Difference>, FsError> {
    let sb = superblock_of(before)?;
    let mut wrong = ExtentMap::new();
    for piece in changed.iter().flat_map(|e| e.split(1 << 20)) {
        let mut old = read_vec(before, piece.start, piece.len as usize)?;
        let mut new = read_vec(after, piece.start, piece.len as usize)?;
        for stamp in stamps(&sb, piece) {
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
    Ok(wrong
        .iter()
        .take(1)
        .map(|first| Difference {
            code: "check-repaired".into(),
            object: "file system".into(),
            detail: format!(
                "its check changed {} bytes besides its stamps, the first run at {first} of the partition",
                wrong.total_bytes()
            ),
        })
        .collect())
}

/// The places of stamps, and of backups, inside `piece`.
fn stamps(sb: &Superblock, piece: Extent) -> Vec<Extent> {
    let primary = STAMPS.map(|s| Extent::new(SUPERBLOCK_OFFSET + s.start as u64, s.len() as u64));
    (1..sb.group_count())
        .filter(|&group| sb.has_superblock(group))
        .filter_map(|group| sb.superblock_block(group)?.checked_mul(sb.block_bytes))
        .map(|at| Extent::new(at, SUPERBLOCK_BYTES as u64))
        .chain(primary)
        .filter_map(|stamp| stamp.intersection(piece))
        .collect()
}
