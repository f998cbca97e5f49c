//! The B+trees of an allocation group.
//!
//! Format: `xfs_btree_block` with short pointers. Each block says what it is, where it is, whose it
//! is, and has a checksum: all of it is checked before a record is believed.

use crate::disk::{DiskRead, read_vec};
use crate::fs::FsError;

use super::fields::Fields;
use super::superblock::Superblock;

/// The head of a block.
const HEAD: usize = 56;
/// More levels than any tree can have.
const DEEPEST: u32 = 10;

/// Which tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Free space, by block.
    FreeByBlock,
    /// Free space, by length.
    FreeByLength,
    /// Who owns which block (rmapbt).
    Owners,
    /// Shared blocks (refcountbt).
    Shared,
    /// Inodes.
    Inodes,
    /// Chunks with free inodes.
    FreeInodes,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 6] = [
        Kind::FreeByBlock,
        Kind::FreeByLength,
        Kind::Owners,
        Kind::Shared,
        Kind::Inodes,
        Kind::FreeInodes,
    ];

    /// The magic number of its blocks.
    pub fn magic(self) -> u32 {
        u32::from_be_bytes(*match self {
            Kind::FreeByBlock => b"AB3B",
            Kind::FreeByLength => b"AB3C",
            Kind::Owners => b"RMB3",
            Kind::Shared => b"R3FC",
            Kind::Inodes => b"IAB3",
            Kind::FreeInodes => b"FIB3",
        })
    }

    /// Lengths of a record and of a key (twice, where a node has the highest key too).
    fn lengths(self) -> (usize, usize) {
        match self {
            Kind::FreeByBlock | Kind::FreeByLength => (8, 8),
            Kind::Owners => (24, 40),
            Kind::Shared => (12, 4),
            Kind::Inodes | Kind::FreeInodes => (16, 4),
        }
    }

    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Kind::FreeByBlock => "the tree of free space by block",
            Kind::FreeByLength => "the tree of free space by length",
            Kind::Owners => "the tree of owners of blocks",
            Kind::Shared => "the tree of shared blocks",
            Kind::Inodes => "the tree of inodes",
            Kind::FreeInodes => "the tree of free inodes",
        }
    }
}

/// A tree of one group.
#[derive(Clone, Copy, Debug)]
pub struct Tree {
    /// Which.
    pub kind: Kind,
    /// Of which group.
    pub group: u64,
    /// Blocks of the group.
    pub blocks: u64,
    /// The block of the root.
    pub root: u64,
    /// Levels.
    pub levels: u32,
}

impl Tree {
    /// Goes through the tree: `block` is told of each block, `record` of each record in order.
    ///
    /// # Errors
    /// [`FsError::Corrupt`] where something does not fit.
    pub fn walk(
        &self,
        part: &dyn DiskRead,
        sb: &Superblock,
        mut block: impl FnMut(u64),
        mut record: impl FnMut(Fields<'_>) -> Result<(), FsError>,
    ) -> Result<(), FsError> {
        if self.levels == 0 || self.levels > DEEPEST {
            return Err(self.wrong(self.root, &format!("{} levels", self.levels)));
        }
        let mut waiting = vec![(self.root, self.levels - 1)];
        let mut seen = 0;
        while let Some((number, level)) = waiting.pop() {
            seen += 1;
            if seen > self.blocks {
                return Err(self.wrong(number, "it runs in a circle"));
            }
            let bytes = self.read(part, sb, number, level)?;
            block(number);
            let fields = Fields(&bytes);
            let count = usize::from(fields.u16(6));
            let (record_bytes, key_bytes) = self.kind.lengths();
            if level == 0 {
                for n in 0..count {
                    let at = HEAD + n * record_bytes;
                    record(Fields(bytes.get(at..at + record_bytes).unwrap_or_default()))?;
                }
            } else {
                let most = (bytes.len() - HEAD) / (key_bytes + 4);
                // The last first, so that the first comes out first.
                waiting.extend((0..count).rev().map(|n| {
                    let at = HEAD + most * key_bytes + n * 4;
                    (u64::from(fields.u32(at)), level - 1)
                }));
            }
        }
        Ok(())
    }

    fn read(
        &self,
        part: &dyn DiskRead,
        sb: &Superblock,
        number: u64,
        level: u32,
    ) -> Result<Vec<u8>, FsError> {
        if number < sb.header_blocks() || number >= self.blocks {
            return Err(self.wrong(number, "there is no such block"));
        }
        let at = sb.byte_of(self.group, number);
        let bytes = read_vec(part, at, sb.block_bytes as usize)?;
        let fields = Fields(&bytes);
        if fields.u32(0) != self.kind.magic() {
            return Err(self.wrong(number, "no magic number"));
        }
        if !fields.checksum_fits(52) {
            return Err(self.wrong(number, "the checksum does not fit"));
        }
        if u32::from(fields.u16(4)) != level {
            return Err(self.wrong(number, &format!("level {}", fields.u16(4))));
        }
        if fields.u64(16) != at / 512
            || u64::from(fields.u32(48)) != self.group
            || fields.uuid(32) != sb.meta_uuid
        {
            return Err(self.wrong(number, "it belongs elsewhere"));
        }
        let (record_bytes, key_bytes) = self.kind.lengths();
        let each = if level == 0 {
            record_bytes
        } else {
            key_bytes + 4
        };
        let count = usize::from(fields.u16(6));
        // Only the root of an empty tree has no records.
        if count > (bytes.len() - HEAD) / each || count == 0 && self.levels > 1 {
            return Err(self.wrong(number, &format!("{count} records")));
        }
        Ok(bytes)
    }

    fn wrong(&self, block: u64, what: &str) -> FsError {
        FsError::Corrupt(format!(
            "{} of group {}, block {block}: {what}",
            self.kind.name(),
            self.group
        ))
    }
}
