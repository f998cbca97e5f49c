//! The sizes that a file system can take, from its own counters.
//!
//! The smallest size is a lower bound: what is in use needs that much whatever the resizer does,
//! and below it there is no point in a rehearsal. The resizer may well need more, for it leaves
//! room for longer extent trees. What it really needs is asked of it, on the overlay.

use crate::fs::{Bounds, FsError};
use crate::units::round_up;

use super::feature;
use super::groups::Groups;
use super::superblock::{MAX_GROUPS, Superblock};
use super::used::structures;

/// The format's block numbers have 48 bits.
const MAX_BLOCKS_64BIT: u64 = 1 << 48;
/// Without `64bit`, the count of blocks itself must fit into 32 bits.
const MAX_BLOCKS_32BIT: u64 = (1 << 32) - 1;

/// The sizes that the file system can take.
///
/// Counts are as the superblock has them; where a journal waits for replay or deleted files wait
/// to be freed, the smallest size may come out smaller afterwards.
///
/// # Errors
/// [`FsError::Corrupt`] where more is in use than there is.
pub fn bounds(sb: &Superblock, groups: &Groups) -> Result<Bounds, FsError> {
    let (min_blocks, min_reason) = smallest(sb, groups)?;
    let (max_blocks, max_reason) = largest(sb);
    let ratio = sb.blocks_per_cluster();
    let min_blocks = round_up(min_blocks, ratio).unwrap_or(min_blocks);
    Ok(Bounds {
        min_bytes: min_blocks.saturating_mul(sb.block_bytes),
        min_reason,
        max_bytes: (max_blocks - max_blocks % ratio).saturating_mul(sb.block_bytes),
        max_reason: max_reason.into(),
        unit_bytes: sb.cluster_bytes,
    })
}

fn smallest(sb: &Superblock, groups: &Groups) -> Result<(u64, String), FsError> {
    let ratio = sb.blocks_per_cluster();
    let free: u64 = groups
        .iter()
        .map(|(_, group)| u64::from(group.free_clusters) * ratio)
        .sum();
    let free_inodes: u64 = groups
        .iter()
        .map(|(_, group)| u64::from(group.free_inodes))
        .sum();
    let all = sb.blocks - u64::from(sb.first_data_block);
    let overhead: u64 = match ratio {
        1 => groups
            .iter()
            .flat_map(|(number, group)| structures(sb, number, group))
            .map(|structure| structure.blocks.end - structure.blocks.start)
            .sum(),
        // Structures share clusters with data: they stay in, and the bound stays a lower one.
        _ => 0,
    };
    let (Some(data), Some(inodes)) = (
        all.checked_sub(free)
            .map(|used| used.saturating_sub(overhead)),
        u64::from(sb.inodes).checked_sub(free_inodes),
    ) else {
        return Err(FsError::Corrupt(format!(
            "{free} blocks of {all} and {free_inodes} inodes of {} are free",
            sb.inodes
        )));
    };
    let by_inodes = inodes.div_ceil(sb.inodes_per_group.into()).max(1);
    let per_group = u64::from(sb.blocks_per_group);
    let (count, blocks) = (by_inodes..=sb.group_count())
        .find_map(|count| {
            let needed = data + least_overhead(sb, count);
            (needed <= count * per_group).then_some((count, needed))
        })
        .unwrap_or((sb.group_count(), all));
    // So many groups there must be; the last one at least with what it needs for itself.
    let blocks = blocks.max((count - 1) * per_group + 1) + u64::from(sb.first_data_block);
    let reason = if count == by_inodes && count > 1 {
        format!(
            "{inodes} inodes are in use, and a group has {}",
            sb.inodes_per_group
        )
    } else {
        format!("{data} blocks of files and {inodes} inodes are in use")
    };
    Ok((blocks.min(sb.blocks), reason))
}

/// What the structures of a file system of so many groups take, at least.
fn least_overhead(sb: &Superblock, groups: u64) -> u64 {
    if sb.blocks_per_cluster() != 1 {
        return 0;
    }
    let descriptors = groups.div_ceil(sb.descriptors_per_block().max(1));
    // The resizer keeps descriptors and reserved blocks together at one length, as far as the field
    // allows.
    let reserved = if sb.has(feature::RESIZE_INODE) {
        let kept = sb.descriptor_blocks() + u64::from(sb.reserved_gdt_blocks);
        kept.saturating_sub(descriptors).min(sb.block_bytes / 4)
    } else {
        0
    };
    // Backups under sparse_super2 move to the new last group, meta_bg spreads descriptors: for both
    // the primary alone is counted.
    let copies = if sb.has(feature::SPARSE_SUPER2) || sb.has(feature::META_BG) {
        1
    } else {
        copies_below(sb, groups)
    };
    groups * (2 + sb.inode_table_blocks()) + copies * (1 + descriptors + reserved)
}

/// Superblocks in the first `groups` groups.
fn copies_below(sb: &Superblock, groups: u64) -> u64 {
    if !sb.has(feature::SPARSE_SUPER) {
        return groups;
    }
    // Groups 0 and 1, and the powers of 3, 5 and 7, of which no two are the same.
    let powers: u64 = [3u64, 5, 7]
        .into_iter()
        .map(|base| {
            std::iter::successors(Some(base), |power| power.checked_mul(base))
                .take_while(|&power| power < groups)
                .count() as u64
        })
        .sum();
    groups.min(2) + powers
}

fn largest(sb: &Superblock) -> (u64, &'static str) {
    let per_group = u64::from(sb.blocks_per_group);
    let first = u64::from(sb.first_data_block);
    let groups = |count: u64| (count.saturating_mul(per_group)).saturating_add(first);
    let by_blocks = if sb.has(feature::BIT64) {
        (MAX_BLOCKS_64BIT, "block numbers have 48 bits")
    } else {
        (
            MAX_BLOCKS_32BIT,
            "block numbers have 32 bits without the feature 64bit",
        )
    };
    let inodes = u64::from(u32::MAX) / u64::from(sb.inodes_per_group).max(1);
    let by_inodes = (groups(inodes), "inode numbers have 32 bits");
    let by_groups = (groups(MAX_GROUPS), "more block groups are not handled");
    let by_descriptors = (
        groups(groups_by_descriptors(sb)),
        "the group descriptors must fit into one group",
    );
    [by_blocks, by_inodes, by_descriptors, by_groups]
        .into_iter()
        .min_by_key(|&(blocks, _)| blocks)
        .unwrap_or(by_blocks)
}

/// Each group with a backup holds all descriptors (but for `meta_bg`), and without `flex_bg` its
/// own bitmaps and inode table as well.
fn groups_by_descriptors(sb: &Superblock) -> u64 {
    if sb.has(feature::META_BG) {
        return MAX_GROUPS;
    }
    let own = if sb.has(feature::FLEX_BG) {
        0
    } else {
        2 + sb.inode_table_blocks()
    };
    let room = u64::from(sb.blocks_per_group).saturating_sub(1 + own);
    room.saturating_mul(sb.descriptors_per_block())
        .max(sb.group_count())
}
