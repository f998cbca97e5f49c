//! The block and inode bitmaps, one block of each for every group.

use std::ops::Range;

use crate::disk::DiskRead;
use crate::fs::FsError;
use crate::report::{Report, Unit, checkpoint};

use super::feature;
use super::groups::{BLOCK_UNINIT, Group, Groups, INODE_UNINIT, read_blocks};
use super::superblock::Superblock;
use crate::fs::crc::crc32c;

/// Bitmaps are read in runs of at most this many bytes: `flex_bg` lays them side by side.
const BATCH_BYTES: u64 = 1 << 20;

/// Which of a group's two bitmaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// One bit for each cluster.
    Blocks,
    /// One bit for each inode.
    Inodes,
}

impl Which {
    fn name(self) -> &'static str {
        match self {
            Which::Blocks => "block bitmap",
            Which::Inodes => "inode bitmap",
        }
    }

    /// The block of the bitmap, or `None` where it was never written and nothing is used.
    fn block(self, group: &Group) -> Option<u64> {
        match self {
            Which::Blocks => (!group.has(BLOCK_UNINIT)).then_some(group.block_bitmap),
            Which::Inodes => (!group.has(INODE_UNINIT)).then_some(group.inode_bitmap),
        }
    }

    /// The checksum that `bitmap` should have and the one that it has. It covers the bits of a
    /// full group, also in a last one that is short.
    fn checksums(self, sb: &Superblock, group: &Group, bitmap: &[u8]) -> (u32, u32) {
        let (stored, bits) = match self {
            Which::Blocks => (group.block_bitmap_checksum, sb.clusters_per_group),
            Which::Inodes => (group.inode_bitmap_checksum, sb.inodes_per_group),
        };
        let covered = bitmap.get(..bits as usize / 8).unwrap_or(bitmap);
        let computed = crc32c(sb.checksum_seed, covered);
        if sb.descriptor_bytes >= 64 {
            (stored, computed)
        } else {
            (stored, computed & 0xffff)
        }
    }
}

/// Reads all bitmaps of one kind, in order of the groups, and hands each to `each` with its group's
/// number; `None` stands for a bitmap that was never written. Checksums are verified.
///
/// # Errors
/// [`FsError::Corrupt`] for a checksum that does not fit, [`FsError::Io`] for the disk's errors and
/// for a wish to stop, and what `each` returns.
pub fn for_each(
    part: &dyn DiskRead,
    sb: &Superblock,
    groups: &Groups,
    which: Which,
    report: &dyn Report,
    mut each: impl FnMut(u64, &Group, Option<&[u8]>) -> Result<(), FsError>,
) -> Result<(), FsError> {
    let all = groups.as_slice();
    let most = (BATCH_BYTES / sb.block_bytes).max(1) as usize;
    report.phase(
        &format!("reading {}s", which.name()),
        Some(all.len() as u64),
        Unit::Items,
    );
    let mut next = 0;
    while let Some(rest) = all.get(next..).filter(|rest| !rest.is_empty()) {
        checkpoint(report).map_err(std::io::Error::from)?;
        let run = run_length(rest, which, most);
        let blocks = match rest.first().and_then(|group| which.block(group)) {
            Some(block) => Some(read_blocks(part, sb, block, run as u64)?),
            None => None,
        };
        for (index, group) in rest.iter().take(run).enumerate() {
            let number = (next + index) as u64;
            let size = sb.block_bytes as usize;
            let bitmap = blocks
                .as_deref()
                .and_then(|bytes| bytes.chunks_exact(size).nth(index));
            if let Some(bitmap) = bitmap {
                check(sb, number, group, which, bitmap)?;
            }
            each(number, group, bitmap)?;
        }
        next += run;
        report.progress(next as u64);
    }
    Ok(())
}

/// How many groups from the first of `groups` on can be served by one read.
fn run_length(groups: &[Group], which: Which, most: usize) -> usize {
    let Some(first) = groups.first().and_then(|group| which.block(group)) else {
        return 1;
    };
    let follows = |(index, group): (u64, &Group)| which.block(group) == Some(first + index);
    (0u64..)
        .zip(groups)
        .take(most)
        .take_while(|&pair| follows(pair))
        .count()
}

fn check(
    sb: &Superblock,
    number: u64,
    group: &Group,
    which: Which,
    bitmap: &[u8],
) -> Result<(), FsError> {
    if !sb.has(feature::METADATA_CSUM) {
        return Ok(());
    }
    let (stored, computed) = which.checksums(sb, group, bitmap);
    if stored == computed {
        return Ok(());
    }
    Err(FsError::Corrupt(format!(
        "group {number}: the checksum of the {} is {stored:#x}, its bytes give {computed:#x}",
        which.name()
    )))
}

/// The runs of set bits among the first `bits` of `bitmap`, in order.
pub fn runs(bitmap: &[u8], bits: u64) -> impl Iterator<Item = Range<u64>> + '_ {
    let bits = bits.min(bitmap.len() as u64 * 8);
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = find(bitmap, at, bits, true);
        if start >= bits {
            return None;
        }
        at = find(bitmap, start, bits, false);
        Some(start..at)
    })
}

/// The first bit from `at` on that is `value`, or `bits`. Eight bytes at a time.
fn find(bitmap: &[u8], mut at: u64, bits: u64, value: bool) -> u64 {
    while at < bits {
        let word = word_at(bitmap, at / 64);
        let word = if value { word } else { !word } >> (at % 64);
        if word != 0 {
            return (at + u64::from(word.trailing_zeros())).min(bits);
        }
        at = (at / 64 + 1) * 64;
    }
    bits
}

/// Word `index`, with zeros for bytes beyond the end.
fn word_at(bitmap: &[u8], index: u64) -> u64 {
    let rest = bitmap.get(index as usize * 8..).unwrap_or_default();
    if let Some(whole) = rest.first_chunk::<8>() {
        return u64::from_le_bytes(*whole);
    }
    let mut word = [0; 8];
    word.iter_mut().zip(rest).for_each(|(to, &from)| *to = from);
    u64::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn naive(bitmap: &[u8], bits: u64) -> Vec<u64> {
        (0..bits)
            .filter(|&n| bitmap[n as usize / 8] >> (n % 8) & 1 == 1)
            .collect()
    }

    #[test]
    fn runs_are_the_set_bits() {
        let mut seed = 0x1234_5678_9abc_def1u64;
        let mut next = || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed
        };
        for round in 0..500 {
            let len = (next() % 40) as usize;
            let dense = next() % 3;
            let bitmap: Vec<u8> = (0..len)
                .map(|_| match dense {
                    0 => next() as u8,
                    1 => (next() & next() & next()) as u8,
                    _ => (next() | next() | next()) as u8,
                })
                .collect();
            let bits = next() % (len as u64 * 8 + 1);
            let found: Vec<Range<u64>> = runs(&bitmap, bits).collect();
            assert!(found.iter().all(|run| run.start < run.end));
            assert!(found.windows(2).all(|w| w[0].end < w[1].start), "{found:?}");
            let set: Vec<u64> = found.into_iter().flatten().collect();
            assert_eq!(set, naive(&bitmap, bits), "round {round}");
        }
    }

    #[test]
    fn a_count_beyond_the_bitmap_is_cut() {
        assert_eq!(runs(&[0xff], 100).next(), Some(0..8));
        assert_eq!(runs(&[], 100).count(), 0);
    }
}
