//! Which sizes there are, and what a growth changes.

use crate::fs::Bounds;

use super::superblock::{MIN_GROUP_BLOCKS, Superblock, ro_compat};

/// What the format has for the number of an inode.
const INODE_BITS: u32 = 56;

/// XFS does not shrink, and what limits it is the numbers of its inodes.
pub fn bounds(sb: &Superblock) -> Bounds {
    let bits = u32::from(sb.fields().u8(124)) + u32::from(sb.fields().u8(123));
    let groups = 1u64 << INODE_BITS.saturating_sub(bits).min(31);
    let blocks = groups.saturating_mul(sb.group_blocks);
    let most = i64::MAX as u64 / sb.block_bytes;
    Bounds {
        min_bytes: sb.size_bytes(),
        min_reason: "XFS cannot become smaller".into(),
        max_bytes: blocks.min(most) * sb.block_bytes,
        max_reason: match blocks < most {
            true => format!(
                "XFS has at most {groups} groups, here of {} blocks",
                sb.group_blocks
            ),
            false => "XFS cannot become larger".into(),
        },
        unit_bytes: sb.block_bytes,
    }
}

/// The blocks that the kernel will make of a wish for so many: a last group of less than 64 blocks
/// is left out. Never less than there are.
pub fn fit(sb: &Superblock, bytes: u64) -> u64 {
    let mut blocks = bytes / sb.block_bytes;
    let rest = blocks % sb.group_blocks;
    if rest != 0 && rest < MIN_GROUP_BLOCKS {
        blocks -= rest;
    }
    // What does not fit by that rule was not made by it, and is no change.
    if blocks < sb.blocks && bytes >= sb.size_bytes() {
        blocks = sb.blocks;
    }
    blocks
}

/// About what a growth to `bytes` changes: an upper guess.
pub fn delta_bytes(sb: &Superblock, bytes: u64) -> u64 {
    /// The kernel clears the log ahead of its head, so many records of 256 KiB.
    const CLEARED: u64 = 2 << 20;
    /// Transactions of the mount, the growth and the unmount.
    const LOGGED: u64 = 1 << 20;
    let groups = fit(sb, bytes).div_ceil(sb.group_blocks);
    let new = groups.saturating_sub(sb.groups);
    // Two trees of free space, two of inodes, one of owners, one of shared blocks; and some that
    // are kept.
    let trees = 3 + 4 * u64::from(sb.has(ro_compat::RMAPBT)) + 2;
    let unit = sb.block_bytes.max(4096);
    let each = (4 * sb.sector_bytes).max(unit) + trees * unit;
    let heads = sb.groups.saturating_mul(unit);
    let log = sb.log.len.min(CLEARED + LOGGED);
    new.saturating_mul(each)
        .saturating_add(heads)
        .saturating_add(log)
        .saturating_add(64 * unit)
}
