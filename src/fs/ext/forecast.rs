//! What resize2fs will make of a wish, before it is asked.

use super::feature;
use super::superblock::Superblock;
use crate::extent::{Extent, ExtentMap};

/// Blocks that resize2fs wants in a last group besides its structures, or it leaves the group out.
const LEAST_USE: u64 = 50;

/// The size in bytes that resize2fs makes of a wish for `bytes`: whole blocks, and no last group
/// that is too small to hold its own structures (`adjust_fs_info` in resize2fs).
pub fn fit(sb: &Superblock, bytes: u64) -> u64 {
    let first = u64::from(sb.first_data_block);
    let per_group = u64::from(sb.blocks_per_group).max(1);
    let mut blocks = bytes / sb.block_bytes;
    blocks -= blocks % sb.blocks_per_cluster().max(1);
    loop {
        let inner = blocks.saturating_sub(first);
        let groups = inner.div_ceil(per_group);
        let rest = inner % per_group;
        if groups <= 1 || rest == 0 {
            return blocks.saturating_mul(sb.block_bytes);
        }
        let mut overhead = 2 + sb.inode_table_blocks();
        if sb.has_superblock(groups - 1) {
            let descriptors = groups.div_ceil(sb.descriptors_per_block().max(1));
            overhead += 1 + descriptors + u64::from(sb.reserved_gdt_blocks);
        }
        if rest >= overhead + LEAST_USE {
            return blocks.saturating_mul(sb.block_bytes);
        }
        blocks -= rest;
    }
}

/// About how many bytes a resize to `bytes` changes, rather too many than too few.
pub fn delta_bytes(sb: &Superblock, used: &ExtentMap, bytes: u64) -> u64 {
    let now = sb.size_bytes();
    let groups =
        |bytes: u64| bytes.div_ceil(sb.block_bytes * u64::from(sb.blocks_per_group).max(1));
    let descriptors = groups(bytes.max(now)).div_ceil(sb.descriptors_per_block().max(1));
    // Every backup is written again; in a large file system few groups have one.
    let copies = if sb.has(feature::SPARSE_SUPER) {
        24
    } else {
        groups(bytes.max(now))
    };
    let added = groups(bytes).saturating_sub(groups(now));
    // With checksums of the descriptors, inode tables are left to be made when they are needed.
    let tables = if sb.has_group_checksums() {
        0
    } else {
        sb.inode_table_blocks()
    };
    let moved = match bytes.checked_sub(now) {
        Some(_) => 0,
        None => used
            .within(Extent::from_range(bytes, now.max(bytes)))
            .map(|e| e.len)
            .sum(),
    };
    let structures = (added * (2 + tables) + copies * (1 + descriptors)) * sb.block_bytes;
    // Extents and inodes that point to what was moved, and whatever was not thought of.
    structures + moved + moved / 16 + (2 << 20)
}
