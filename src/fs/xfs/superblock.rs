//! The superblock: where everything is.
//!
//! Format: `xfs_dsb` of `xfs_format.h`. Only version 5 is read, the one with checksums.

use crate::disk::{DiskRead, read_vec};
use crate::extent::Extent;
use crate::fs::FsError;
use crate::report::Refusal;
use crate::units::Bytes;

use super::fields::Fields;
use super::gate;

/// `XFSB`.
pub const MAGIC: u32 = 0x5846_5342;
/// Where the checksum is.
pub const CRC_AT: usize = 224;
/// Where the incompatible features are.
pub const INCOMPAT_AT: usize = 216;
/// Behind the last field that any version has; the rest of the sector is zeros.
pub const FIELDS_BYTES: usize = 304;

/// Incompatible features.
pub mod incompat {
    /// Metadata carries another UUID than the superblock.
    pub const META_UUID: u32 = 1 << 2;
    /// A repair was begun and not ended.
    pub const NEEDS_REPAIR: u32 = 1 << 4;
    /// Those that change nothing that is read here.
    pub const KNOWN: u32 = 0xff;
}

/// Read-only compatible features.
pub mod ro_compat {
    /// A tree of free inodes.
    pub const FINOBT: u32 = 1;
    /// A tree of who owns which block.
    pub const RMAPBT: u32 = 2;
    /// Shared blocks, and a tree of them.
    pub const REFLINK: u32 = 4;
    /// Those that are known.
    pub const KNOWN: u32 = 0xf;
}

const INCOMPAT_NAMES: [&str; 8] = [
    "ftype",
    "spinodes",
    "meta_uuid",
    "bigtime",
    "needsrepair",
    "nrext64",
    "exchange",
    "parent",
];
const RO_COMPAT_NAMES: [&str; 4] = ["finobt", "rmapbt", "reflink", "inobtcount"];

/// What the superblock says. Every number has been checked to fit the others.
#[derive(Clone, Debug)]
pub struct Superblock {
    /// Its whole sector.
    pub raw: Vec<u8>,
    /// Block size.
    pub block_bytes: u64,
    /// Blocks of the data section.
    pub blocks: u64,
    /// Blocks of an allocation group; the last may have fewer.
    pub group_blocks: u64,
    /// Allocation groups.
    pub groups: u64,
    /// Sector size.
    pub sector_bytes: u64,
    /// Inode size.
    pub inode_bytes: u64,
    /// Blocks of a directory's block.
    pub directory_blocks: u64,
    /// The log, in bytes; empty where it is on another device.
    pub log: Extent,
    /// The UUID that people see.
    pub uuid: [u8; 16],
    /// The UUID that metadata carries.
    pub meta_uuid: [u8; 16],
    /// Incompatible features.
    pub incompat: u32,
    /// Read-only compatible features.
    pub ro_compat: u32,
}

impl Superblock {
    /// Reads the primary superblock. `None` where there is no XFS.
    ///
    /// # Errors
    /// [`FsError::Corrupt`] where the magic fits and the rest does not, [`FsError::Unsupported`]
    /// for another version.
    pub fn read(part: &dyn DiskRead) -> Result<Option<Superblock>, FsError> {
        if part.len_bytes() < 512 {
            return Ok(None);
        }
        let head = read_vec(part, 0, 512)?;
        let fields = Fields(&head);
        if fields.u32(0) != MAGIC {
            return Ok(None);
        }
        let sector = fields.u16(102);
        if !sector.is_power_of_two() || sector < 512 || u64::from(sector) > part.len_bytes() {
            return Err(corrupt(format!("sectors of {sector} bytes")));
        }
        let raw = read_vec(part, 0, usize::from(sector))?;
        Superblock::parse(raw).map(Some)
    }

    /// Reads a superblock out of its sector.
    ///
    /// # Errors
    /// As [`Superblock::read`].
    pub fn parse(raw: Vec<u8>) -> Result<Superblock, FsError> {
        let fields = Fields(&raw);
        if fields.u32(0) != MAGIC {
            return Err(corrupt("no magic number".into()));
        }
        let version = fields.u16(100) & 0xf;
        if version != 5 {
            return Err(FsError::Unsupported(Refusal::new(
                "xfs-version",
                format!(
                    "it is XFS of version {version}, whose metadata has no checksums; only version \
                     5 is supported"
                ),
                "copy the data to a file system that mkfs.xfs has made since 2015",
            )));
        }
        if !fields.checksum_fits(CRC_AT) {
            return Err(corrupt("the checksum does not fit".into()));
        }
        let incompat = fields.u32(INCOMPAT_AT);
        let plain = (fields.u64(8), fields.u32(88));
        let (blocks, groups) = gate::hidden(&raw).unwrap_or(plain);
        let uuid = fields.uuid(32);
        let mut sb = Superblock {
            block_bytes: fields.u32(4).into(),
            blocks,
            group_blocks: fields.u32(84).into(),
            groups: groups.into(),
            sector_bytes: fields.u16(102).into(),
            inode_bytes: fields.u16(104).into(),
            directory_blocks: 1u64.checked_shl(fields.u8(192).into()).unwrap_or(0),
            log: Extent::new(0, 0),
            uuid,
            meta_uuid: match incompat & incompat::META_UUID {
                0 => uuid,
                _ => fields.uuid(248),
            },
            incompat,
            ro_compat: fields.u32(212),
            raw,
        };
        sb.check()?;
        sb.log = sb.find_log()?;
        Ok(sb)
    }

    fn check(&self) -> Result<(), FsError> {
        let fields = self.fields();
        let power = |value: u64, low: u64, high: u64, log: u8| {
            value.is_power_of_two()
                && (low..=high).contains(&value)
                && u32::from(log) == value.trailing_zeros()
        };
        if !power(self.block_bytes, 512, 65536, fields.u8(120)) {
            return Err(corrupt(format!("blocks of {} bytes", self.block_bytes)));
        }
        if self.sector_bytes > 32768 || self.sector_bytes > self.block_bytes {
            return Err(corrupt(format!("sectors of {} bytes", self.sector_bytes)));
        }
        if !power(self.inode_bytes, 256, 2048, fields.u8(122)) {
            return Err(corrupt(format!("inodes of {} bytes", self.inode_bytes)));
        }
        // How many inodes a block has, as a logarithm: it is shifted by.
        if fields.u8(123) != fields.u8(120).wrapping_sub(fields.u8(122)) || fields.u8(123) > 8 {
            return Err(corrupt("impossible counts of inodes in a block".into()));
        }
        let bits = u64::BITS - self.group_blocks.saturating_sub(1).leading_zeros();
        if self.group_blocks < MIN_GROUP_BLOCKS
            || self.group_blocks * self.block_bytes > MAX_GROUP_BYTES
            || u32::from(fields.u8(124)) != bits
        {
            return Err(corrupt(format!("groups of {} blocks", self.group_blocks)));
        }
        let most = self.groups.checked_mul(self.group_blocks);
        let fits =
            most.is_some_and(|most| self.blocks <= most && self.blocks > most - self.group_blocks);
        let bytes = self.blocks.checked_mul(self.block_bytes);
        if self.groups == 0 || !fits || bytes.is_none_or(|bytes| bytes > i64::MAX as u64) {
            return Err(corrupt(format!(
                "{} blocks in {} groups",
                self.blocks, self.groups
            )));
        }
        let directory = self.directory_blocks.saturating_mul(self.block_bytes);
        if self.directory_blocks == 0 || directory > 65536 {
            return Err(corrupt("impossible directory blocks".into()));
        }
        Ok(())
    }

    fn find_log(&self) -> Result<Extent, FsError> {
        let fields = self.fields();
        let (start, blocks) = (fields.u64(48), u64::from(fields.u32(96)));
        if start == 0 {
            return Ok(Extent::new(0, 0));
        }
        let wrong = || corrupt(format!("a log of {blocks} blocks at {start:#x}"));
        let (group, block) = self.split(start);
        let inside = group < self.groups
            && blocks > 0
            && block
                .checked_add(blocks)
                .is_some_and(|end| end <= self.group_len(group));
        if !inside {
            return Err(wrong());
        }
        Ok(Extent::new(
            self.byte_of(group, block),
            blocks * self.block_bytes,
        ))
    }

    /// The fields, for those that have no name here.
    pub fn fields(&self) -> Fields<'_> {
        Fields(&self.raw)
    }

    /// Group, and block in it, of a block's number in the form that inodes and the superblock use.
    pub fn split(&self, number: u64) -> (u64, u64) {
        let log = u32::from(self.fields().u8(124));
        (
            number.checked_shr(log).unwrap_or(0),
            number & ((1u64 << log.min(63)) - 1),
        )
    }

    /// Where a block of a group begins. Both must be inside.
    pub fn byte_of(&self, group: u64, block: u64) -> u64 {
        (group * self.group_blocks + block) * self.block_bytes
    }

    /// Blocks of this group.
    pub fn group_len(&self, group: u64) -> u64 {
        let rest = self.blocks.saturating_sub(group * self.group_blocks);
        rest.min(self.group_blocks)
    }

    /// Size in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.blocks * self.block_bytes
    }

    /// Whether it has this read-only compatible feature.
    pub fn has(&self, feature: u32) -> bool {
        self.ro_compat & feature != 0
    }

    /// Blocks at the head of each group that hold superblock, AGF, AGI and AGFL.
    pub fn header_blocks(&self) -> u64 {
        (4 * self.sector_bytes).div_ceil(self.block_bytes)
    }

    /// Free blocks, as the superblock counts them.
    pub fn free_blocks(&self) -> u64 {
        self.fields().u64(144)
    }

    /// As `blkid` prints it.
    pub fn uuid_text(&self) -> String {
        let hex: Vec<String> = self.uuid.iter().map(|b| format!("{b:02x}")).collect();
        let part = |range: std::ops::Range<usize>| hex[range].concat();
        [
            part(0..4),
            part(4..6),
            part(6..8),
            part(8..10),
            part(10..16),
        ]
        .join("-")
    }

    /// Up to its first zero.
    pub fn label(&self) -> String {
        let name = self.raw.get(108..120).unwrap_or_default();
        let end = name.iter().position(|&b| b == 0).unwrap_or(name.len());
        String::from_utf8_lossy(&name[..end]).into_owned()
    }

    /// Names of the features, as mkfs.xfs has them.
    pub fn feature_names(&self) -> Vec<String> {
        let named = |bits: u32, names: &[&str], kind: &str| -> Vec<String> {
            let set = (0..32).filter(|bit| bits & 1 << bit != 0);
            set.map(|bit: u32| match names.get(bit as usize) {
                Some(name) => (*name).into(),
                None => format!("{kind}_{bit}"),
            })
            .collect()
        };
        let mut all = vec!["crc".to_string()];
        all.extend(named(self.incompat, &INCOMPAT_NAMES, "incompat"));
        all.extend(named(self.ro_compat, &RO_COMPAT_NAMES, "ro_compat"));
        all
    }
}

/// The smallest group that the kernel makes.
pub const MIN_GROUP_BLOCKS: u64 = 64;
/// The largest.
const MAX_GROUP_BYTES: u64 = 1 << 40;

fn corrupt(what: String) -> FsError {
    FsError::Corrupt(format!("the XFS superblock: {what}"))
}

/// The superblock of what is known to be XFS.
///
/// # Errors
/// [`FsError::Corrupt`] where there is none, else as [`Superblock::read`].
pub fn superblock_of(part: &dyn DiskRead) -> Result<Superblock, FsError> {
    let found = Superblock::read(part)?;
    let found = found.ok_or_else(|| FsError::Corrupt("there is no XFS superblock".into()))?;
    if part.len_bytes() < found.size_bytes() {
        return Err(FsError::Corrupt(format!(
            "the XFS is {:#} and the partition {:#}",
            Bytes(found.size_bytes()),
            Bytes(part.len_bytes())
        )));
    }
    Ok(found)
}
