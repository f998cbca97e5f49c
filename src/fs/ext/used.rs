//! Which bytes the file system uses.

use std::fmt;
use std::ops::Range;

use crate::disk::DiskRead;
use crate::extent::{Extent, ExtentMap};
use crate::fs::FsError;
use crate::report::Report;
use crate::units::{round_down, round_up};

use super::bitmap::{self, Which};
use super::feature;
use super::groups::{Group, Groups};
use super::superblock::{SUPERBLOCK_BYTES, SUPERBLOCK_OFFSET, Superblock};

/// A named run of blocks that holds metadata with a fixed place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Structure {
    /// What it is.
    pub kind: StructureKind,
    /// The group that it belongs to, which need not be the one that it lies in.
    pub group: u64,
    /// Its blocks.
    pub blocks: Range<u64>,
}

/// The kinds of [`Structure`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StructureKind {
    /// The superblock or a backup of it.
    Superblock,
    /// Group descriptors or a backup, with the blocks reserved for more of them.
    Descriptors,
    /// A block bitmap.
    BlockBitmap,
    /// An inode bitmap.
    InodeBitmap,
    /// An inode table.
    InodeTable,
}

impl fmt::Display for StructureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            StructureKind::Superblock => "superblock",
            StructureKind::Descriptors => "group descriptors",
            StructureKind::BlockBitmap => "block bitmap",
            StructureKind::InodeBitmap => "inode bitmap",
            StructureKind::InodeTable => "inode table",
        })
    }
}

/// The structures of group `number`.
pub fn structures(sb: &Superblock, number: u64, group: &Group) -> Vec<Structure> {
    let mut found = Vec::with_capacity(6);
    let mut add = |kind, blocks: Range<u64>| {
        if !blocks.is_empty() {
            found.push(Structure {
                kind,
                group: number,
                blocks,
            });
        }
    };
    if let Some(block) = sb.superblock_block(number) {
        add(StructureKind::Superblock, block..block + 1);
    }
    add(StructureKind::Descriptors, sb.descriptor_area(number));
    if let Some(block) = sb.meta_descriptor_block(number) {
        add(StructureKind::Descriptors, block..block + 1);
    }
    let table = group.inode_table;
    for (kind, start, count) in [
        (StructureKind::BlockBitmap, group.block_bitmap, 1),
        (StructureKind::InodeBitmap, group.inode_bitmap, 1),
        (StructureKind::InodeTable, table, sb.inode_table_blocks()),
    ] {
        add(kind, start..start + count);
    }
    found
}

/// Every byte in use: what the block bitmaps say, all structures with a fixed place (also in groups
/// whose bitmap was never written), and the boot block. In whole clusters.
///
/// Where a journal waits for replay the bitmaps on the disk are not the truth: blocks that a file
/// got last may still look free. Everything then counts as used, which is never wrong. Ask again
/// after the replay for the answer that saves time.
///
/// # Errors
/// [`FsError::Io`]; [`FsError::Corrupt`] where a bitmap contradicts its checksum, its group's count
/// of free blocks or a structure, or where two structures claim one block.
pub fn used(
    part: &dyn DiskRead,
    sb: &Superblock,
    groups: &Groups,
    report: &dyn Report,
) -> Result<ExtentMap, FsError> {
    if sb.has(feature::NEEDS_RECOVERY) {
        report.notice(
            "the journal waits for replay: until then every block of the file system counts as used",
        );
        return Ok([Extent::new(0, sb.size_bytes())].into_iter().collect());
    }
    let (mut used, unwritten) = marked(part, sb, groups, report)?;
    let structures = all_structures(sb, groups)?;
    for extent in structures.iter() {
        for gap in used.gaps(extent) {
            if !unwritten.contains(gap) {
                return Err(contradiction(sb, groups, gap));
            }
        }
    }
    // The boot block is in no bitmap where blocks have 1024 bytes.
    used.insert(Extent::new(0, SUPERBLOCK_OFFSET + SUPERBLOCK_BYTES as u64));
    for extent in structures.iter() {
        used.insert(in_clusters(sb, extent));
    }
    Ok(used)
}

/// What the bitmaps mark, and the groups that have none.
fn marked(
    part: &dyn DiskRead,
    sb: &Superblock,
    groups: &Groups,
    report: &dyn Report,
) -> Result<(ExtentMap, ExtentMap), FsError> {
    let (mut marked, mut unwritten) = (ExtentMap::new(), ExtentMap::new());
    let ratio = sb.blocks_per_cluster();
    bitmap::for_each(
        part,
        sb,
        groups,
        Which::Blocks,
        report,
        |number, group, bits| {
            let own = sb.group_blocks(number);
            let Some(bits) = bits else {
                unwritten.insert(bytes_of(sb, own));
                return Ok(());
            };
            let clusters = sb.group_clusters(number);
            let mut free = clusters;
            for run in bitmap::runs(bits, clusters) {
                free -= run.end - run.start;
                let start = own.start + run.start * ratio;
                let end = (own.start + run.end * ratio).min(own.end);
                marked.insert(bytes_of(sb, start..end));
            }
            if free != u64::from(group.free_clusters) {
                return Err(FsError::Corrupt(format!(
                    "group {number}: its descriptor counts {} free, its block bitmap has {free}",
                    group.free_clusters
                )));
            }
            Ok(())
        },
    )?;
    Ok((marked, unwritten))
}

/// The bytes of all structures. No two may share a block.
pub fn all_structures(sb: &Superblock, groups: &Groups) -> Result<ExtentMap, FsError> {
    let mut all = ExtentMap::new();
    for (number, group) in groups.iter() {
        for structure in structures(sb, number, group) {
            let extent = bytes_of(sb, structure.blocks.clone());
            if all.intersects(extent) {
                return Err(FsError::Corrupt(format!(
                    "the {} of group {number}, blocks {}..{}, lies over another structure",
                    structure.kind, structure.blocks.start, structure.blocks.end
                )));
            }
            all.insert(extent);
        }
    }
    Ok(all)
}

fn contradiction(sb: &Superblock, groups: &Groups, gap: Extent) -> FsError {
    let block = gap.start / sb.block_bytes;
    let owner = groups
        .iter()
        .flat_map(|(number, group)| structures(sb, number, group))
        .find(|structure| structure.blocks.contains(&block));
    FsError::Corrupt(match owner {
        Some(s) => format!(
            "the block bitmap says that block {block} is free, but it belongs to the {} of group {}",
            s.kind, s.group
        ),
        None => format!("the block bitmap says that block {block} is free, but it is metadata"),
    })
}

/// The bytes of `blocks`, which lie inside the file system.
fn bytes_of(sb: &Superblock, blocks: Range<u64>) -> Extent {
    let end = blocks.end.min(sb.blocks);
    let start = blocks.start.min(end);
    Extent::from_range(start * sb.block_bytes, end * sb.block_bytes)
}

/// `extent` widened to whole clusters; with clusters the first one starts at byte 0.
fn in_clusters(sb: &Superblock, extent: Extent) -> Extent {
    if sb.blocks_per_cluster() == 1 {
        return extent;
    }
    let start = round_down(extent.start, sb.cluster_bytes);
    let end = round_up(extent.end(), sb.cluster_bytes).unwrap_or(sb.size_bytes());
    Extent::from_range(start, end.min(sb.size_bytes()))
}
