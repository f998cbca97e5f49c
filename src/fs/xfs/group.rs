//! An allocation group's headers: the AGF (free space), the AGI (inodes), the AGFL (blocks that are
//! kept for the trees).
//!
//! Format: `xfs_agf`, `xfs_agi`, `xfs_agfl` of `xfs_format.h`.

use crate::disk::{DiskRead, read_vec};
use crate::fs::FsError;

use super::fields::Fields;
use super::superblock::{Superblock, ro_compat};
use super::tree::{Kind, Tree};

const AGF_MAGIC: u32 = 0x5841_4746;
const AGI_MAGIC: u32 = 0x5841_4749;
const AGFL_MAGIC: u32 = 0x5841_464c;

/// Which header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// Free space.
    Agf,
    /// Inodes.
    Agi,
    /// Kept blocks.
    Agfl,
}

impl Header {
    /// The sector of the group that it lies in.
    pub fn sector(self) -> u64 {
        match self {
            Header::Agf => 1,
            Header::Agi => 2,
            Header::Agfl => 3,
        }
    }

    /// Where its checksum is.
    pub fn crc_at(self) -> usize {
        match self {
            Header::Agf => 216,
            Header::Agi => 312,
            Header::Agfl => 32,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Header::Agf => "AGF",
            Header::Agi => "AGI",
            Header::Agfl => "AGFL",
        }
    }
}

/// The headers of one group, checked.
#[derive(Clone, Debug)]
pub struct Group {
    /// Its number.
    pub number: u64,
    /// Its blocks.
    pub blocks: u64,
    /// The sector of the AGF.
    pub agf: Vec<u8>,
    /// The sector of the AGI.
    pub agi: Vec<u8>,
    /// The sector of the AGFL.
    pub agfl: Vec<u8>,
}

impl Group {
    /// Reads the headers of a group.
    ///
    /// # Errors
    /// [`FsError::Corrupt`] where one does not fit.
    pub fn read(part: &dyn DiskRead, sb: &Superblock, number: u64) -> Result<Group, FsError> {
        let start = sb.byte_of(number, 0);
        let sector = |header: Header| {
            let at = start + header.sector() * sb.sector_bytes;
            read_vec(part, at, sb.sector_bytes as usize)
        };
        let group = Group {
            number,
            blocks: sb.group_len(number),
            agf: sector(Header::Agf)?,
            agi: sector(Header::Agi)?,
            agfl: sector(Header::Agfl)?,
        };
        group.check(sb)?;
        Ok(group)
    }

    fn check(&self, sb: &Superblock) -> Result<(), FsError> {
        let (agf, agi, agfl) = (Fields(&self.agf), Fields(&self.agi), Fields(&self.agfl));
        // Magic, version, number, length; the AGFL has no version and no length.
        let heads = [
            (
                Header::Agf,
                agf,
                AGF_MAGIC,
                agf.u32(4),
                agf.u32(8),
                agf.u32(12),
                agf.uuid(64),
            ),
            (
                Header::Agi,
                agi,
                AGI_MAGIC,
                agi.u32(4),
                agi.u32(8),
                agi.u32(12),
                agi.uuid(296),
            ),
            (
                Header::Agfl,
                agfl,
                AGFL_MAGIC,
                1,
                agfl.u32(4),
                self.blocks as u32,
                agfl.uuid(8),
            ),
        ];
        for (header, fields, magic, version, number, blocks, uuid) in heads {
            let wrong = |what: String| {
                FsError::Corrupt(format!(
                    "the {} of group {}: {what}",
                    header.name(),
                    self.number
                ))
            };
            if fields.u32(0) != magic {
                return Err(wrong("no magic number".into()));
            }
            if !fields.checksum_fits(header.crc_at()) {
                return Err(wrong("the checksum does not fit".into()));
            }
            if uuid != sb.meta_uuid {
                return Err(wrong("the UUID of another file system".into()));
            }
            if version != 1 || u64::from(number) != self.number {
                return Err(wrong(format!("version {version}, number {number}")));
            }
            if u64::from(blocks) != self.blocks {
                return Err(wrong(format!("{blocks} blocks instead of {}", self.blocks)));
            }
        }
        let slots = self.slots();
        let (first, last, count) = (agf.u32(40), agf.u32(44), agf.u32(48));
        if first >= slots || last >= slots || count > slots {
            return Err(FsError::Corrupt(format!(
                "the AGF of group {}: kept blocks {first} to {last} of {slots}",
                self.number
            )));
        }
        Ok(())
    }

    /// Places for kept blocks.
    fn slots(&self) -> u32 {
        (self.agfl.len().saturating_sub(36) / 4) as u32
    }

    /// Blocks that are kept for the trees.
    ///
    /// # Errors
    /// [`FsError::Corrupt`] where one lies outside the group.
    pub fn kept(&self) -> Result<Vec<u64>, FsError> {
        let (agf, agfl) = (Fields(&self.agf), Fields(&self.agfl));
        let (first, count, slots) = (agf.u32(40), agf.u32(48), self.slots());
        let places =
            (0..count).map(|n| (u64::from(first) + u64::from(n)) % u64::from(slots.max(1)));
        let blocks: Vec<u64> = places
            .map(|place| u64::from(agfl.u32(36 + 4 * place as usize)))
            .collect();
        match blocks.iter().find(|&&block| block >= self.blocks) {
            Some(block) => Err(FsError::Corrupt(format!(
                "the AGFL of group {} has block {block} of {}",
                self.number, self.blocks
            ))),
            None => Ok(blocks),
        }
    }

    /// Free blocks in the trees of free space, as the AGF counts them.
    pub fn free_blocks(&self) -> u64 {
        Fields(&self.agf).u32(52).into()
    }

    /// The longest run of them.
    pub fn longest(&self) -> u64 {
        Fields(&self.agf).u32(56).into()
    }

    /// What the superblock's count of free blocks has of this group.
    pub fn countable(&self) -> u64 {
        let agf = Fields(&self.agf);
        [48, 52, 60].iter().map(|&at| u64::from(agf.u32(at))).sum()
    }

    /// Inodes, and free ones.
    pub fn inodes(&self) -> (u64, u64) {
        let agi = Fields(&self.agi);
        (agi.u32(16).into(), agi.u32(28).into())
    }

    /// Where a tree begins. `None` for one that this file system does not have.
    pub fn tree(&self, sb: &Superblock, kind: Kind) -> Option<Tree> {
        let (agf, agi) = (Fields(&self.agf), Fields(&self.agi));
        let (needs, root, level) = match kind {
            Kind::FreeByBlock => (0, agf.u32(16), agf.u32(28)),
            Kind::FreeByLength => (0, agf.u32(20), agf.u32(32)),
            Kind::Owners => (ro_compat::RMAPBT, agf.u32(24), agf.u32(36)),
            Kind::Shared => (ro_compat::REFLINK, agf.u32(88), agf.u32(92)),
            Kind::Inodes => (0, agi.u32(20), agi.u32(24)),
            Kind::FreeInodes => (ro_compat::FINOBT, agi.u32(328), agi.u32(332)),
        };
        (needs == 0 || sb.has(needs)).then_some(Tree {
            kind,
            group: self.number,
            blocks: self.blocks,
            root: root.into(),
            levels: level,
        })
    }
}
