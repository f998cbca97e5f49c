//! The superblock: 1024 bytes at byte 1024 of the partition, and a copy in some groups.
//!
//! Source of the format: `struct ext2_super_block` of e2fsprogs and `struct ext4_super_block` of
//! the kernel. [`Superblock::parse`] checks each field that anything here computes with, so that
//! what follows needs no second look: counts agree with each other, sizes are powers of two within
//! the format's limits, and no product of them overflows. It does not look at the device, and
//! knows nothing of the features that are set; that is `refuse`'s work.

use crate::disk::{DiskRead, read_vec};
use crate::fs::FsError;

use super::feature::{self, Feature, Features};
use crate::fs::bytes::{array_at, split_at, u8_at, u16_at, u32_at, u64_at};
use crate::fs::crc::crc32c;

/// Where the primary superblock lies in the partition.
pub const SUPERBLOCK_OFFSET: u64 = 1024;
/// Its length.
pub const SUPERBLOCK_BYTES: usize = 1024;
/// `s_magic`.
pub const MAGIC: u16 = 0xef53;
/// `s_state`: it was unmounted properly.
pub const STATE_VALID: u16 = 1;
/// `s_state`: the kernel found errors.
pub const STATE_ERROR: u16 = 2;
/// `s_state`: the kernel was working through the list of orphans.
pub const STATE_ORPHANS: u16 = 4;
/// More groups than this are not handled: 256 TiB of 4 KiB blocks. It bounds the memory that a
/// damaged superblock can ask for.
pub const MAX_GROUPS: u64 = 1 << 21;

/// Where `s_checksum` is; it covers all bytes before.
pub const CHECKSUM_AT: usize = 0x3fc;
const CHECKSUM_TYPE_CRC32C: u8 = 1;
/// 64 KiB, as a power of two above 1 KiB.
const MAX_BLOCK_LOG: u64 = 6;
/// 512 MiB, likewise.
const MAX_CLUSTER_LOG: u64 = 19;
const REVISION_OLD: u32 = 0;
const OLD_INODE_BYTES: u32 = 128;
const OLD_FIRST_INODE: u32 = 11;

/// A superblock whose fields fit together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// The 1024 bytes as they were read.
    pub raw: Box<[u8; SUPERBLOCK_BYTES]>,
    /// The three feature words.
    pub features: Features,
    /// Number of inodes.
    pub inodes: u32,
    /// Number of blocks.
    pub blocks: u64,
    /// Blocks that only root may use.
    pub reserved_blocks: u64,
    /// Free blocks as last written; stale while mounted.
    pub free_blocks: u64,
    /// Free inodes, likewise.
    pub free_inodes: u32,
    /// The block in which group 0 starts: 1 where blocks have 1024 bytes (and are no clusters).
    pub first_data_block: u32,
    /// Size of a block.
    pub block_bytes: u64,
    /// Size of a cluster, the unit of allocation; equal to a block without `bigalloc`.
    pub cluster_bytes: u64,
    /// Blocks in each group but the last.
    pub blocks_per_group: u32,
    /// Clusters in each group but the last: bits of a block bitmap.
    pub clusters_per_group: u32,
    /// Inodes in each group.
    pub inodes_per_group: u32,
    /// Last mount, seconds since 1970, 40 bits.
    pub mount_time: u64,
    /// Last write, likewise.
    pub write_time: u64,
    /// Last full check, likewise.
    pub check_time: u64,
    /// `STATE_*` flags.
    pub state: u16,
    /// `s_rev_level`: 0 for the first revision of ext2, 1 for all others.
    pub revision: u32,
    /// First inode that is not reserved.
    pub first_inode: u32,
    /// Size of an inode in the table.
    pub inode_bytes: u32,
    /// The group that this copy is in.
    pub block_group: u16,
    /// `s_uuid`.
    pub uuid: [u8; 16],
    /// `s_volume_name`, up to its first NUL.
    pub label: Vec<u8>,
    /// Blocks that are kept for the descriptors of a larger file system (`resize_inode`).
    pub reserved_gdt_blocks: u16,
    /// Inode of the journal, 0 where there is none.
    pub journal_inode: u32,
    /// Device number of an external journal, 0 where there is none.
    pub journal_device: u32,
    /// UUID of an external journal.
    pub journal_uuid: [u8; 16],
    /// First inode of the list of orphans.
    pub last_orphan: u32,
    /// Size of a group descriptor: 32, or what the superblock says with `64bit`.
    pub descriptor_bytes: u32,
    /// First block of descriptors that is stored the `meta_bg` way.
    pub first_meta_bg: u32,
    /// Block of the multiple-mount protection.
    pub mmp_block: u64,
    /// Its interval in seconds.
    pub mmp_interval: u16,
    /// Groups whose bitmaps and inode tables lie together (`flex_bg`), a power of two.
    pub groups_per_flex: u64,
    /// Errors that the kernel counted since the last check.
    pub error_count: u32,
    /// Inodes of the user, group and project quota files; 0 for none.
    pub quota_inodes: [u32; 3],
    /// `s_overhead_clusters`: what the kernel computed, or 0.
    pub overhead_clusters: u32,
    /// The two groups with backups under `sparse_super2`; 0 for none.
    pub backup_groups: [u32; 2],
    /// Inode of the orphan file (`orphan_file`); 0 for none.
    pub orphan_file_inode: u32,
    /// Start value of all checksums but the superblock's own.
    pub checksum_seed: u32,
}

impl Superblock {
    /// Reads the primary superblock. `None` where there is none: no magic, or too small a device.
    ///
    /// # Errors
    /// [`FsError::Io`], or as [`Superblock::parse`].
    pub fn read(part: &dyn DiskRead) -> Result<Option<Superblock>, FsError> {
        if part.len_bytes() < SUPERBLOCK_OFFSET + SUPERBLOCK_BYTES as u64 {
            return Ok(None);
        }
        Superblock::parse(&read_vec(part, SUPERBLOCK_OFFSET, SUPERBLOCK_BYTES)?)
    }

    /// Parses a superblock, primary or backup. `None` where the magic is not there. Of the
    /// superblock of an external journal (`journal_dev`) the block sizes alone are checked.
    ///
    /// # Errors
    /// [`FsError::Corrupt`] with the field and its value, where a checksum does not fit or fields
    /// contradict each other or the format.
    pub fn parse(bytes: &[u8]) -> Result<Option<Superblock>, FsError> {
        let Ok(raw) = <[u8; SUPERBLOCK_BYTES]>::try_from(bytes) else {
            return Ok(None);
        };
        if u16_at(&raw, 0x38) != MAGIC {
            return Ok(None);
        }
        let sb = Superblock::decode(Box::new(raw))?;
        sb.validate_checksum()?;
        if !sb.has(feature::JOURNAL_DEV) {
            sb.validate_sizes()?;
            sb.validate_counts()?;
            sb.validate_inodes()?;
        }
        Ok(Some(sb))
    }

    /// Whether `feature` is set.
    pub fn has(&self, feature: Feature) -> bool {
        self.features.has(feature)
    }

    /// Whether the group descriptors have a checksum, and so flags that mean something.
    pub fn has_group_checksums(&self) -> bool {
        self.has(feature::UNINIT_BG) || self.has(feature::METADATA_CSUM)
    }

    /// Size of the file system: all blocks, in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.blocks.saturating_mul(self.block_bytes)
    }

    /// Blocks in a cluster.
    pub fn blocks_per_cluster(&self) -> u64 {
        self.cluster_bytes / self.block_bytes
    }

    /// The UUID as `blkid` prints it.
    pub fn uuid_text(&self) -> String {
        uuid_text(&self.uuid)
    }

    /// Fields that are checked later, but for those by which others are computed.
    fn decode(raw: Box<[u8; SUPERBLOCK_BYTES]>) -> Result<Superblock, FsError> {
        let b = raw.as_slice();
        let revision = u32_at(b, 0x4c);
        let old = revision == REVISION_OLD;
        let features = Features {
            compat: u32_at(b, 0x5c),
            incompat: u32_at(b, 0x60),
            ro_compat: u32_at(b, 0x64),
        };
        let wide = features.has(feature::BIT64);
        let high = |at: usize| if wide { at } else { usize::MAX };
        let block_bytes = power_of_two("s_log_block_size", u32_at(b, 0x18), MAX_BLOCK_LOG)?;
        let cluster_bytes = power_of_two("s_log_cluster_size", u32_at(b, 0x1c), MAX_CLUSTER_LOG)?;
        let uuid = array_at(b, 0x68);
        let time =
            |low: usize, high: usize| u64::from(u32_at(b, low)) | u64::from(u8_at(b, high)) << 32;
        Ok(Superblock {
            features,
            inodes: u32_at(b, 0x00),
            blocks: split_at(b, 0x04, high(0x150)),
            reserved_blocks: split_at(b, 0x08, high(0x154)),
            free_blocks: split_at(b, 0x0c, high(0x158)),
            free_inodes: u32_at(b, 0x10),
            first_data_block: u32_at(b, 0x14),
            block_bytes,
            cluster_bytes,
            blocks_per_group: u32_at(b, 0x20),
            clusters_per_group: u32_at(b, 0x24),
            inodes_per_group: u32_at(b, 0x28),
            mount_time: time(0x2c, 0x275),
            write_time: time(0x30, 0x274),
            check_time: time(0x40, 0x277),
            state: u16_at(b, 0x3a),
            revision,
            first_inode: if old {
                OLD_FIRST_INODE
            } else {
                u32_at(b, 0x54)
            },
            inode_bytes: if old {
                OLD_INODE_BYTES
            } else {
                u16_at(b, 0x58).into()
            },
            block_group: u16_at(b, 0x5a),
            uuid,
            label: until_nul(&array_at::<16>(b, 0x78)),
            reserved_gdt_blocks: u16_at(b, 0xce),
            journal_uuid: array_at(b, 0xd0),
            journal_inode: u32_at(b, 0xe0),
            journal_device: u32_at(b, 0xe4),
            last_orphan: u32_at(b, 0xe8),
            descriptor_bytes: if wide { u16_at(b, 0xfe).into() } else { 32 },
            first_meta_bg: u32_at(b, 0x104),
            mmp_interval: u16_at(b, 0x166),
            mmp_block: u64_at(b, 0x168),
            groups_per_flex: 1 << u8_at(b, 0x174).min(63),
            error_count: u32_at(b, 0x194),
            quota_inodes: [u32_at(b, 0x240), u32_at(b, 0x244), u32_at(b, 0x26c)],
            overhead_clusters: u32_at(b, 0x248),
            backup_groups: [u32_at(b, 0x24c), u32_at(b, 0x250)],
            orphan_file_inode: u32_at(b, 0x280),
            checksum_seed: if features.has(feature::METADATA_CSUM_SEED) {
                u32_at(b, 0x270)
            } else {
                crc32c(!0, &uuid)
            },
            raw,
        })
    }

    fn validate_checksum(&self) -> Result<(), FsError> {
        if !self.has(feature::METADATA_CSUM) {
            return Ok(());
        }
        let kind = u8_at(self.raw.as_slice(), 0x175);
        check(kind == CHECKSUM_TYPE_CRC32C, || {
            format!("s_checksum_type is {kind}, not 1 (crc32c)")
        })?;
        let (stored, computed) = checksums(&self.raw);
        check(stored == computed, || {
            format!("s_checksum is {stored:#010x}, the bytes give {computed:#010x}")
        })
    }

    fn validate_sizes(&self) -> Result<(), FsError> {
        let (block, cluster) = (self.block_bytes, self.cluster_bytes);
        let clusters = self.has(feature::BIGALLOC);
        check(cluster >= block && (clusters || cluster == block), || {
            format!("clusters of {cluster} bytes do not go with blocks of {block} bytes")
        })?;
        let first = u32::from(block == 1024 && cluster == block);
        check(self.first_data_block == first, || {
            format!(
                "s_first_data_block is {}, not {first}",
                self.first_data_block
            )
        })?;
        let bits = block * 8;
        check_range("s_clusters_per_group", self.clusters_per_group, 8, bits)?;
        check_multiple("s_clusters_per_group", self.clusters_per_group, 8)?;
        let want = u64::from(self.clusters_per_group) * self.blocks_per_cluster();
        check(u64::from(self.blocks_per_group) == want, || {
            format!(
                "s_blocks_per_group is {}, not {want}",
                self.blocks_per_group
            )
        })?;
        let (desc, inode) = (self.descriptor_bytes, self.inode_bytes);
        if self.has(feature::BIT64) {
            check_range("s_desc_size", desc, 64, 1024)?;
        }
        check(desc.is_power_of_two(), || format!("s_desc_size is {desc}"))?;
        check_range("s_inode_size", inode, 128, block)?;
        check(inode.is_power_of_two(), || {
            format!("s_inode_size is {inode}")
        })?;
        check_range(
            "s_reserved_gdt_blocks",
            self.reserved_gdt_blocks.into(),
            0,
            block / 4,
        )?;
        let flex = u8_at(self.raw.as_slice(), 0x174);
        check_range("s_log_groups_per_flex", flex.into(), 0, 31)
    }

    fn validate_counts(&self) -> Result<(), FsError> {
        let (blocks, first) = (self.blocks, u64::from(self.first_data_block));
        check(blocks > first, || format!("s_blocks_count is {blocks}"))?;
        check(blocks.checked_mul(self.block_bytes).is_some(), || {
            format!("s_blocks_count is {blocks}: more than 2^64 bytes")
        })?;
        let groups = self.group_count();
        check(groups <= MAX_GROUPS, || {
            format!("{blocks} blocks make {groups} groups, more than {MAX_GROUPS}")
        })?;
        for (name, count) in [
            ("s_r_blocks_count", self.reserved_blocks),
            ("s_free_blocks_count", self.free_blocks),
        ] {
            check(count <= blocks, || {
                format!("{name} is {count}, with {blocks} blocks in all")
            })?;
        }
        let descriptors = self.descriptor_blocks();
        check(descriptors < blocks, || {
            format!("{descriptors} blocks of descriptors do not fit into {blocks} blocks")
        })?;
        let meta = self.first_meta_bg;
        check(
            !self.has(feature::META_BG) || u64::from(meta) <= descriptors,
            || format!("s_first_meta_bg is {meta}, with {descriptors} blocks of descriptors"),
        )?;
        let mmp = self.mmp_block;
        check(
            !self.has(feature::MMP) || (mmp > first && mmp < blocks),
            || format!("s_mmp_block is {mmp}, with {blocks} blocks"),
        )
    }

    fn validate_inodes(&self) -> Result<(), FsError> {
        let per_block = self.block_bytes / u64::from(self.inode_bytes);
        let per_group = self.inodes_per_group;
        check(u64::from(per_group) >= per_block, || {
            format!("s_inodes_per_group is {per_group}, less than a block holds")
        })?;
        check_range("s_inodes_per_group", per_group, 8, self.block_bytes * 8)?;
        check_multiple("s_inodes_per_group", per_group, 8)?;
        let want = self.group_count() * u64::from(per_group);
        check(u64::from(self.inodes) == want, || {
            format!(
                "s_inodes_count is {}, but the groups have {want}",
                self.inodes
            )
        })?;
        let inodes = self.inodes;
        let needs_journal = self.has(feature::HAS_JOURNAL) && self.journal_device == 0;
        check(!needs_journal || self.journal_inode != 0, || {
            "has_journal is set, but s_journal_inum is 0".into()
        })?;
        for (name, number) in [
            ("s_free_inodes_count", self.free_inodes),
            ("s_journal_inum", self.journal_inode),
            ("s_usr_quota_inum", self.quota_inodes[0]),
            ("s_grp_quota_inum", self.quota_inodes[1]),
            ("s_prj_quota_inum", self.quota_inodes[2]),
            ("s_orphan_file_inum", self.orphan_file_inode),
        ] {
            check(number <= inodes, || {
                format!("{name} is {number}, with {inodes} inodes in all")
            })?;
        }
        check(
            self.first_inode >= OLD_FIRST_INODE && self.first_inode <= inodes,
            || format!("s_first_ino is {}", self.first_inode),
        )
    }
}

/// The stored and the computed checksum of a superblock.
pub fn checksums(raw: &[u8; SUPERBLOCK_BYTES]) -> (u32, u32) {
    let (covered, _) = raw.split_at(CHECKSUM_AT);
    (u32_at(raw, CHECKSUM_AT), crc32c(!0, covered))
}

/// A UUID in its usual form.
pub fn uuid_text(uuid: &[u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (n, byte) in uuid.iter().enumerate() {
        if matches!(n, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

fn until_nul(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().copied().take_while(|&b| b != 0).collect()
}

fn power_of_two(name: &str, log: u32, most: u64) -> Result<u64, FsError> {
    check_range(name, log, 0, most)?;
    Ok(1024 << log)
}

fn check(fits: bool, what: impl FnOnce() -> String) -> Result<(), FsError> {
    if fits {
        Ok(())
    } else {
        Err(FsError::Corrupt(format!("superblock: {}", what())))
    }
}

fn check_range(name: &str, value: u32, least: u64, most: u64) -> Result<(), FsError> {
    check((least..=most).contains(&value.into()), || {
        format!("{name} is {value}, not within {least}..={most}")
    })
}

fn check_multiple(name: &str, value: u32, unit: u32) -> Result<(), FsError> {
    check(value.is_multiple_of(unit), || {
        format!("{name} is {value}, not a multiple of {unit}")
    })
}
