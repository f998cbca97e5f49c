//! The group descriptors: where each group's bitmaps and inode table are, and what is free.
//!
//! Source of the format: `struct ext4_group_desc`. Of 64 bytes with `64bit`, else of 32.

use crate::disk::{DiskRead, read_vec};
use crate::fs::FsError;
use crate::report::Refusal;

use super::feature;
use super::superblock::Superblock;
use crate::fs::bytes::{split_at, u16_at};
use crate::fs::crc::{crc16, crc32c};

/// The block bitmap was never written: no block is used but for the metadata in the group.
pub const BLOCK_UNINIT: u16 = 2;
/// The inode bitmap and the inode table were never written: no inode is used.
pub const INODE_UNINIT: u16 = 1;
/// The inode table is known to hold zeros where it is unused.
pub const INODE_ZEROED: u16 = 4;

const CHECKSUM_AT: usize = 0x1e;
const BATCH_BYTES: u64 = 1 << 20;

/// One group, as its descriptor has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    /// Block with the block bitmap.
    pub block_bitmap: u64,
    /// Block with the inode bitmap.
    pub inode_bitmap: u64,
    /// First block of the inode table.
    pub inode_table: u64,
    /// Free clusters.
    pub free_clusters: u32,
    /// Free inodes.
    pub free_inodes: u32,
    /// Directories.
    pub directories: u32,
    /// Inodes at the end of the table that were never used; 0 without group checksums.
    pub unused_inodes: u32,
    /// [`BLOCK_UNINIT`] and the others; 0 without group checksums, where the bits mean nothing.
    pub flags: u16,
    /// Checksum of the block bitmap: 16 bits in a descriptor of 32 bytes.
    pub block_bitmap_checksum: u32,
    /// Checksum of the inode bitmap, likewise.
    pub inode_bitmap_checksum: u32,
    /// Checksum of the descriptor.
    pub checksum: u16,
}

impl Group {
    /// Whether `flag` is set.
    pub fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// Parses the descriptor of group `number`, primary or backup, and nothing else: neither its
    /// checksum nor its values are looked at.
    pub fn decode(sb: &Superblock, bytes: &[u8]) -> Group {
        let wide = bytes.len() >= 64 && sb.descriptor_bytes >= 64;
        let high = |at: usize| if wide { at } else { usize::MAX };
        let pair = |low: usize, at: usize| {
            u32::from(u16_at(bytes, low)) | u32::from(u16_at(bytes, high(at))) << 16
        };
        let checksums = sb.has_group_checksums();
        Group {
            block_bitmap: split_at(bytes, 0x00, high(0x20)),
            inode_bitmap: split_at(bytes, 0x04, high(0x24)),
            inode_table: split_at(bytes, 0x08, high(0x28)),
            free_clusters: pair(0x0c, 0x2c),
            free_inodes: pair(0x0e, 0x2e),
            directories: pair(0x10, 0x30),
            flags: if checksums { u16_at(bytes, 0x12) } else { 0 },
            block_bitmap_checksum: pair(0x18, 0x38),
            inode_bitmap_checksum: pair(0x1a, 0x3a),
            unused_inodes: if checksums { pair(0x1c, 0x32) } else { 0 },
            checksum: u16_at(bytes, CHECKSUM_AT),
        }
    }
}

/// All groups of a file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Groups {
    groups: Vec<Group>,
}

impl Groups {
    /// Reads the primary descriptors.
    ///
    /// # Errors
    /// [`FsError::Io`]; [`FsError::Unsupported`] `ext-larger-than-partition`, `ext-journal-dev`;
    /// [`FsError::Corrupt`] where a checksum does not fit, or a group's structures lie outside the
    /// file system (or outside the group, where there is no `flex_bg`).
    pub fn read(part: &dyn DiskRead, sb: &Superblock) -> Result<Groups, FsError> {
        // The superblock of a journal is not held to what is computed with below.
        if let Some(refusal) = journal_device(sb).or_else(|| larger_than(part, sb)) {
            return Err(FsError::Unsupported(refusal));
        }
        // The device holds every block, so the count of groups is bounded by its size as well.
        let count = sb.group_count();
        let mut groups = Vec::with_capacity(usize::try_from(count).unwrap_or(0));
        let (total, per_batch) = (sb.descriptor_blocks(), BATCH_BYTES / sb.block_bytes);
        let mut index = 0;
        while index < total {
            let block = sb.descriptor_block(index);
            let mut run = 1;
            while run < per_batch.min(total - index)
                && sb.descriptor_block(index + run) == block + run
            {
                run += 1;
            }
            check_inside(sb, "group descriptors", block, run)?;
            let bytes = read_blocks(part, sb, block, run)?;
            for raw in bytes.chunks_exact(sb.descriptor_bytes as usize) {
                let number = groups.len() as u64;
                if number == count {
                    break;
                }
                let group = Group::decode(sb, raw);
                check_checksum(sb, number, &group, raw)?;
                check_group(sb, number, &group)?;
                groups.push(group);
            }
            index += run;
        }
        Ok(Groups { groups })
    }

    /// All groups, in order.
    pub fn as_slice(&self) -> &[Group] {
        &self.groups
    }

    /// The groups with their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &Group)> {
        (0u64..).zip(&self.groups)
    }

    /// Group `number`.
    pub fn get(&self, number: u64) -> Option<&Group> {
        self.groups.get(usize::try_from(number).ok()?)
    }
}

/// The checksum that the descriptor of group `number` should have, or `None` where the file
/// system has none.
pub fn descriptor_checksum(sb: &Superblock, number: u64, raw: &[u8]) -> Option<u16> {
    let number = (number as u32).to_le_bytes();
    let (before, from) = raw.split_at_checked(CHECKSUM_AT)?;
    let after = from.get(2..).unwrap_or_default();
    if sb.has(feature::METADATA_CSUM) {
        let crc = crc32c(crc32c(sb.checksum_seed, &number), before);
        // The checksum's own two bytes count as zeros.
        Some(crc32c(crc32c(crc, &[0, 0]), after) as u16)
    } else if sb.has(feature::UNINIT_BG) {
        let crc = crc16(crc16(crc16(!0, &sb.uuid), &number), before);
        Some(crc16(crc, after))
    } else {
        None
    }
}

/// Reads `count` blocks from `block`.
///
/// # Errors
/// [`FsError::Corrupt`] for a place beyond 2^64, else [`FsError::Io`].
pub fn read_blocks(
    part: &dyn DiskRead,
    sb: &Superblock,
    block: u64,
    count: u64,
) -> Result<Vec<u8>, FsError> {
    let (Some(offset), Some(len)) = (
        block.checked_mul(sb.block_bytes),
        count
            .checked_mul(sb.block_bytes)
            .and_then(|len| usize::try_from(len).ok()),
    ) else {
        return Err(FsError::Corrupt(format!("{count} blocks at block {block}")));
    };
    Ok(read_vec(part, offset, len)?)
}

/// The refusal where this is no file system but the journal of one.
pub fn journal_device(sb: &Superblock) -> Option<Refusal> {
    sb.has(feature::JOURNAL_DEV).then(|| {
        Refusal::new(
            "ext-journal-dev",
            "this is the external journal of another file system",
            "it has no files and cannot be resized; name the partition with the file system",
        )
    })
}

/// The refusal where the file system says that it is larger than its partition.
pub fn larger_than(part: &dyn DiskRead, sb: &Superblock) -> Option<Refusal> {
    let (size, room) = (sb.size_bytes(), part.len_bytes());
    (size > room).then(|| {
        Refusal::new(
            "ext-larger-than-partition",
            format!(
                "the file system has {size} bytes ({} blocks of {}), its partition {room}",
                sb.blocks, sb.block_bytes
            ),
            "the partition was made too small, or this is not where the file system starts: \
             give the partition its former size back before anything else",
        )
    })
}

fn check_checksum(sb: &Superblock, number: u64, group: &Group, raw: &[u8]) -> Result<(), FsError> {
    match descriptor_checksum(sb, number, raw) {
        Some(computed) if computed != group.checksum => Err(FsError::Corrupt(format!(
            "group {number}: the descriptor's checksum is {:#06x}, its bytes give {computed:#06x}",
            group.checksum
        ))),
        _ => Ok(()),
    }
}

fn check_group(sb: &Superblock, number: u64, group: &Group) -> Result<(), FsError> {
    let own = sb.group_blocks(number);
    for (name, block, count) in [
        ("block bitmap", group.block_bitmap, 1),
        ("inode bitmap", group.inode_bitmap, 1),
        ("inode table", group.inode_table, sb.inode_table_blocks()),
    ] {
        let name = format!("group {number}: {name}");
        check_inside(sb, &name, block, count)?;
        let inside = own.contains(&block) && block + count <= own.end;
        if !inside && !sb.has(feature::FLEX_BG) {
            return Err(FsError::Corrupt(format!(
                "{name} at block {block} is outside its group, blocks {}..{}",
                own.start, own.end
            )));
        }
    }
    let clusters = sb.group_clusters(number);
    for (name, value, most) in [
        ("free blocks", group.free_clusters, clusters),
        ("free inodes", group.free_inodes, sb.inodes_per_group.into()),
        (
            "unused inodes",
            group.unused_inodes,
            sb.inodes_per_group.into(),
        ),
        ("directories", group.directories, sb.inodes_per_group.into()),
    ] {
        if u64::from(value) > most {
            return Err(FsError::Corrupt(format!(
                "group {number}: {value} {name}, more than {most}"
            )));
        }
    }
    Ok(())
}

fn check_inside(sb: &Superblock, name: &str, block: u64, count: u64) -> Result<(), FsError> {
    let first = u64::from(sb.first_data_block);
    // Block 0, or 1 with 1 KiB blocks, is the superblock's.
    if block > first && block.checked_add(count).is_some_and(|end| end <= sb.blocks) {
        return Ok(());
    }
    Err(FsError::Corrupt(format!(
        "{name} at blocks {block}+{count} is outside the file system, blocks {first}..{}",
        sb.blocks
    )))
}
