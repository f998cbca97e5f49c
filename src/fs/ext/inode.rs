//! Inodes: the fixed part that ext2 has, and the larger one of ext4.
//!
//! Source of the layout: `struct ext4_inode` of the kernel, `struct ext2_inode_large` of
//! e2fsprogs. [`FIELDS`] is that layout as a table; it is what a comparison of two inodes walks,
//! so that no byte of an inode belongs to nobody.

use crate::fs::bytes::{u16_at, u32_at};
use crate::fs::crc::crc32c;

/// Bytes of an inode of ext2, and the fixed part of every larger one.
pub const FIXED_BYTES: usize = 128;
/// Bytes of the map (`i_block`), or of a short symbolic link, or of a device number.
pub const BLOCK_FIELD: std::ops::Range<usize> = 40..100;

/// `EXT4_EXTENTS_FL`: the map is an extent tree.
pub const FLAG_EXTENTS: u32 = 0x0008_0000;
/// `EXT4_HUGE_FILE_FL`: `i_blocks` counts blocks of the file system.
pub const FLAG_HUGE_FILE: u32 = 0x0004_0000;
/// `EXT4_EA_INODE_FL`: holds the value of an extended attribute.
pub const FLAG_EA_INODE: u32 = 0x0020_0000;
/// `EXT4_INLINE_DATA_FL`: the content is in the inode.
pub const FLAG_INLINE_DATA: u32 = 0x1000_0000;

/// Root directory.
pub const ROOT: u32 = 2;
/// The list of bad blocks: its map is its content.
pub const BAD_BLOCKS: u32 = 1;
/// The blocks that are reserved for a longer table of group descriptors.
pub const RESIZE: u32 = 7;

/// What an inode is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A device, a pipe or a socket.
    Special,
    /// A type that nobody defines; the mode of an inode that was never used is 0.
    Other,
}

impl Kind {
    /// The type in the upper four bits of `mode`.
    pub fn of(mode: u16) -> Kind {
        match mode & 0xf000 {
            0x8000 => Kind::File,
            0x4000 => Kind::Directory,
            0xa000 => Kind::Symlink,
            0x2000 | 0x6000 | 0x1000 | 0xc000 => Kind::Special,
            _ => Kind::Other,
        }
    }

    /// For a message.
    pub fn name(self) -> &'static str {
        match self {
            Kind::File => "file",
            Kind::Directory => "directory",
            Kind::Symlink => "symbolic link",
            Kind::Special => "special file",
            Kind::Other => "inode",
        }
    }
}

/// Seconds since 1970 and nanoseconds, as the format keeps them: 34 bits, signed below.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    /// Seconds since 1970.
    pub seconds: i64,
    /// Nanoseconds; what is on the disk may be more than a second's.
    pub nanos: u32,
}

impl std::fmt::Display for Time {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:09}", self.seconds, self.nanos)
    }
}

/// An inode. Nothing in it is trusted: a number of a block may lie anywhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inode {
    /// Type and permissions.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Length in bytes.
    pub size: u64,
    /// Last access.
    pub atime: Time,
    /// Last change of the inode.
    pub ctime: Time,
    /// Last change of the content.
    pub mtime: Time,
    /// Creation; 1970 where the inode has no room for it.
    pub crtime: Time,
    /// Deletion, or the next orphan's number.
    pub dtime: u32,
    /// Hard links.
    pub links: u16,
    /// `i_blocks`, in sectors of 512 bytes or, with [`FLAG_HUGE_FILE`], in blocks.
    pub blocks: u64,
    /// Flags.
    pub flags: u32,
    /// Generation, for NFS and for checksums.
    pub generation: u32,
    /// The block of extended attributes, or 0.
    pub xattr_block: u64,
    /// Project.
    pub project: u32,
    /// Bytes of the fields after the fixed part. Extended attributes follow them.
    pub extra_bytes: u16,
    /// The map, the target of a short symbolic link, or a device number.
    pub block: [u8; 60],
}

impl Inode {
    /// Reads an inode. Fields beyond the end of `raw`, or beyond the extra part that the inode
    /// says it has, are 0.
    pub fn parse(raw: &[u8]) -> Inode {
        let extra_bytes = u16_at(raw, 128);
        let end = FIXED_BYTES + usize::from(extra_bytes);
        let extra = |at: usize| if at + 4 <= end { u32_at(raw, at) } else { 0 };
        let time = |at: usize, extra_at: usize| Time::decode(u32_at(raw, at), extra(extra_at));
        let halves = |low: usize, high: usize| {
            u32::from(u16_at(raw, low)) | u32::from(u16_at(raw, high)) << 16
        };
        Inode {
            mode: u16_at(raw, 0),
            uid: halves(2, 120),
            gid: halves(24, 122),
            size: u64::from(u32_at(raw, 4)) | u64::from(u32_at(raw, 108)) << 32,
            atime: time(8, 140),
            ctime: time(12, 132),
            mtime: time(16, 136),
            crtime: if end >= 148 {
                Time::decode(u32_at(raw, 144), extra(148))
            } else {
                Time::default()
            },
            dtime: u32_at(raw, 20),
            links: u16_at(raw, 26),
            blocks: u64::from(u32_at(raw, 28)) | u64::from(u16_at(raw, 116)) << 32,
            flags: u32_at(raw, 32),
            generation: u32_at(raw, 100),
            xattr_block: u64::from(u32_at(raw, 104)) | u64::from(u16_at(raw, 118)) << 32,
            project: extra(156),
            extra_bytes,
            block: crate::fs::bytes::array_at(raw, BLOCK_FIELD.start),
        }
    }

    /// What it is.
    pub fn kind(&self) -> Kind {
        Kind::of(self.mode)
    }

    /// Whether `flag` is set.
    pub fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }

    /// `i_blocks` in sectors of 512 bytes, or `None` where that overflows.
    pub fn sectors(&self, block_bytes: u64) -> Option<u64> {
        if self.has(FLAG_HUGE_FILE) {
            self.blocks.checked_mul(block_bytes / 512)
        } else {
            Some(self.blocks)
        }
    }

    /// Whether `i_block` maps blocks. It does not for devices, content in the inode, and
    /// symbolic links that are shorter than the field.
    pub fn has_map(&self) -> bool {
        match self.kind() {
            _ if self.has(FLAG_INLINE_DATA) => false,
            Kind::File | Kind::Directory => true,
            // The kernel's rule since 4.x, and that of e2fsprogs: short ones are in the inode.
            Kind::Symlink => self.has(FLAG_EXTENTS) || self.size >= 60,
            Kind::Special | Kind::Other => false,
        }
    }

    /// The start value of the checksums of everything that belongs to this inode.
    pub fn seed(&self, seed: u32, number: u32) -> u32 {
        let of_number = crc32c(seed, &number.to_le_bytes());
        crc32c(of_number, &self.generation.to_le_bytes())
    }

    /// Whether the checksum of `raw`, inode `number` of a file system with `metadata_csum` and
    /// the start value `seed`, fits. Small inodes keep only its lower half.
    pub fn checksum_fits(&self, raw: &[u8], seed: u32, number: u32) -> bool {
        let part = |range: std::ops::Range<usize>| raw.get(range).unwrap_or(&[]);
        let mut stored = u32::from(u16_at(raw, 124));
        let mut found = crc32c(self.seed(seed, number), part(0..124));
        found = crc32c(crc32c(found, &[0; 2]), part(126..FIXED_BYTES));
        if raw.len() == FIXED_BYTES {
            return found & 0xffff == stored;
        }
        found = crc32c(found, part(128..130));
        if self.extra_bytes >= 4 {
            stored |= u32::from(u16_at(raw, 130)) << 16;
            found = crc32c(crc32c(found, &[0; 2]), part(132..raw.len()));
        } else {
            found = crc32c(found, part(130..raw.len())) & 0xffff;
        }
        found == stored
    }
}

impl Time {
    /// The lower two bits of `extra` are two more bits of the seconds, the rest nanoseconds.
    fn decode(seconds: u32, extra: u32) -> Time {
        Time {
            seconds: i64::from(seconds.cast_signed()) + (i64::from(extra & 3) << 32),
            nanos: extra >> 2,
        }
    }
}

/// How a resize may treat a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Equal, byte for byte.
    Same,
    /// Follows the place of blocks or of the inode; compared by meaning, not by bytes.
    Place,
    /// Set to the time of the resize where it renumbered something, else equal.
    Ctime,
    /// As [`Rule::Ctime`], for directories alone.
    Mtime,
}

/// One field: its bytes, the code of a difference, its name, how it may change.
pub struct Field {
    /// Where it is.
    pub bytes: std::ops::Range<usize>,
    /// The code of a difference in it.
    pub code: &'static str,
    /// Its name, for people.
    pub name: &'static str,
    /// How it may change.
    pub rule: Rule,
}

macro_rules! fields {
    ($($start:literal .. $end:literal $code:literal $name:literal $rule:ident)*) => {
        /// Every field of an inode up to `i_projid`, in order and without a gap.
        pub const FIELDS: &[Field] = &[$(Field {
            bytes: $start..$end, code: $code, name: $name, rule: Rule::$rule,
        }),*];
    };
}

fields! {
    0..2 "mode" "mode" Same
    2..4 "owner" "uid" Same
    4..8 "size" "size" Same
    8..12 "times" "atime" Same
    12..16 "times" "ctime" Ctime
    16..20 "times" "mtime" Mtime
    20..24 "times" "dtime" Same
    24..26 "owner" "gid" Same
    26..28 "links" "links" Same
    28..32 "map" "blocks" Place
    32..36 "flags" "flags" Same
    36..40 "generation" "version" Same
    40..100 "map" "map" Place
    100..104 "generation" "generation" Same
    104..108 "xattrs" "attribute block" Place
    108..112 "size" "upper size" Same
    112..116 "inode" "fragment address" Same
    116..118 "map" "upper blocks" Place
    118..120 "xattrs" "upper attribute block" Place
    120..122 "owner" "upper uid" Same
    122..124 "owner" "upper gid" Same
    124..126 "inode" "checksum" Place
    126..128 "inode" "reserved" Same
    128..130 "inode" "extra size" Same
    130..132 "inode" "upper checksum" Place
    132..136 "times" "ctime, extra" Ctime
    136..140 "times" "mtime, extra" Mtime
    140..144 "times" "atime, extra" Same
    144..148 "times" "crtime" Same
    148..152 "times" "crtime, extra" Same
    152..156 "generation" "upper version" Same
    156..160 "project" "project" Same
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_fields_has_no_gap() {
        let mut at = 0;
        for field in FIELDS {
            assert_eq!(field.bytes.start, at, "{}", field.name);
            at = field.bytes.end;
        }
        assert_eq!(at, 160);
    }

    fn put(raw: &mut [u8], at: usize, bytes: &[u8]) {
        raw[at..at + bytes.len()].copy_from_slice(bytes);
    }

    #[test]
    fn split_fields_are_joined() {
        let mut raw = vec![0u8; 256];
        put(&mut raw, 0, &0x81a4u16.to_le_bytes());
        put(&mut raw, 2, &[1, 0]);
        put(&mut raw, 120, &[2, 0]);
        put(&mut raw, 4, &5u32.to_le_bytes());
        put(&mut raw, 108, &6u32.to_le_bytes());
        put(&mut raw, 28, &7u32.to_le_bytes());
        put(&mut raw, 116, &[8, 0]);
        put(&mut raw, 104, &9u32.to_le_bytes());
        put(&mut raw, 118, &[10, 0]);
        put(&mut raw, 128, &[32, 0]);
        put(&mut raw, 12, &(-1i32).to_le_bytes());
        put(&mut raw, 132, &(5u32 << 2 | 1).to_le_bytes());
        put(&mut raw, 156, &11u32.to_le_bytes());
        let inode = Inode::parse(&raw);
        assert_eq!(inode.kind(), Kind::File);
        assert_eq!(inode.uid, 0x2_0001);
        assert_eq!(inode.size, 0x6_0000_0005);
        assert_eq!(inode.blocks, 0x8_0000_0007);
        assert_eq!(inode.xattr_block, 0xa_0000_0009);
        assert_eq!((inode.ctime.seconds, inode.ctime.nanos), ((1 << 32) - 1, 5));
        assert_eq!(inode.project, 11);
        // The extra part ends before the project: what is there are extended attributes.
        put(&mut raw, 128, &[28, 0]);
        assert_eq!(Inode::parse(&raw).project, 0);
    }

    #[test]
    fn any_bytes_are_an_inode_and_none_panics() {
        let mut seed = 7u32;
        for length in [0, 1, 2, 100, 127, 128, 129, 160, 256, 4096] {
            let raw: Vec<u8> = (0..length)
                .map(|_| {
                    seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (seed >> 24) as u8
                })
                .collect();
            let inode = Inode::parse(&raw);
            let _ = (inode.has_map(), inode.sectors(4096), inode.kind());
            assert!(length == 0 || !inode.checksum_fits(&raw, 1, 2) || length < 128);
        }
    }

    #[test]
    fn short_links_and_devices_have_no_map() {
        let with = |mode: u16, flags: u32, size: u64| Inode {
            size,
            flags,
            mode,
            ..Inode::parse(&[])
        };
        assert!(!with(0xa1ff, 0, 59).has_map());
        assert!(with(0xa1ff, 0, 60).has_map());
        assert!(with(0xa1ff, FLAG_EXTENTS, 59).has_map());
        assert!(!with(0x81a4, FLAG_INLINE_DATA, 10).has_map());
        assert!(with(0x81a4, 0, 10).has_map());
        assert!(!with(0x2000, 0, 0).has_map());
    }
}
