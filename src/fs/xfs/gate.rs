//! The gate: a superblock that nobody enters, and that names the transaction.
//!
//! An unknown incompatible feature, with a checksum that fits, keeps the kernel out, also
//! `ro,norecovery`. `xfs_repair` looks at that feature late: first it holds the geometry of the
//! primary against the copies in the other groups, and where most of them agree on another, as in
//! the middle of a growth, it overwrites the primary with one of them. (Measured with xfsprogs 6.1:
//! it went through the gate.) So the gate says that there is one group. Then there is nothing to
//! hold it against, and `xfs_repair` gives up, with `-n` and `-L` too; with `-o force_geometry` it
//! goes on to the feature, and gives up there.
//!
//! | byte of the sector | |
//! |---|---|
//! | 8 | blocks: those of one group |
//! | 88 | groups: 1 |
//! | 216 | features, with [`BIT`] |
//! | 224 | checksum |
//! | 464 | [`MARK`] |
//! | 472 | the transaction |
//! | 488 | what was at byte 8 |
//! | 496 | what was at byte 88 |

use crate::fs::{FsError, GateState, TransactionId};

use super::fields::{Fields, checksum};
use super::superblock::{CRC_AT, INCOMPAT_AT, MAGIC, Superblock};

/// The feature.
pub const BIT: u32 = 1 << 31;
/// So that a feature of a future kernel is not taken for a gate.
const MARK: [u8; 8] = *b"HOLDFAST";
const MARK_AT: usize = 464;
const NAME_AT: usize = 472;
const BLOCKS_KEPT_AT: usize = 488;
const GROUPS_KEPT_AT: usize = 496;
const BLOCKS_AT: usize = 8;
const GROUP_BLOCKS_AT: usize = 84;
const GROUPS_AT: usize = 88;

/// `bytes` (which begin with the superblock's sector) with the gate closed.
///
/// # Errors
/// [`FsError::Corrupt`] where it is not an open superblock.
pub fn close(bytes: &[u8], id: TransactionId) -> Result<Vec<u8>, FsError> {
    if state(bytes) != GateState::Open {
        return Err(FsError::Corrupt(
            "this is not an open XFS superblock".into(),
        ));
    }
    let sector = sector_of(bytes).ok_or_else(|| FsError::Corrupt("it is too short".into()))?;
    let mut bytes = bytes.to_vec();
    let fields = Fields(&bytes);
    let features = fields.u32(INCOMPAT_AT) | BIT;
    let (blocks, groups) = (fields.u64(BLOCKS_AT), fields.u32(GROUPS_AT));
    let one = u64::from(fields.u32(GROUP_BLOCKS_AT)).min(blocks);
    let mut put = |at: usize, what: &[u8]| bytes[at..at + what.len()].copy_from_slice(what);
    put(BLOCKS_AT, &one.to_be_bytes());
    put(GROUPS_AT, &1u32.to_be_bytes());
    put(INCOMPAT_AT, &features.to_be_bytes());
    put(MARK_AT, &MARK);
    put(NAME_AT, &id.0);
    put(BLOCKS_KEPT_AT, &blocks.to_be_bytes());
    put(GROUPS_KEPT_AT, &groups.to_be_bytes());
    let sum = checksum(&bytes[..sector], CRC_AT);
    bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&sum.to_le_bytes());
    Ok(bytes)
}

/// What the bytes say. Those behind the superblock's sector do not matter.
pub fn state(bytes: &[u8]) -> GateState {
    let Some(sector) = sector_of(bytes).and_then(|sector| bytes.get(..sector)) else {
        return GateState::Invalid;
    };
    if let Some(id) = closed(sector) {
        return GateState::Closed(id);
    }
    match Superblock::parse(sector.to_vec()) {
        Ok(_) => GateState::Open,
        Err(_) => GateState::Invalid,
    }
}

/// The transaction of a gate, where this sector is one and whole.
fn closed(sector: &[u8]) -> Option<TransactionId> {
    let fields = Fields(sector);
    let is_gate = fields.u32(0) == MAGIC
        && fields.checksum_fits(CRC_AT)
        && fields.u32(INCOMPAT_AT) & BIT != 0
        && sector.get(MARK_AT..NAME_AT) == Some(MARK.as_slice());
    is_gate.then(|| TransactionId(fields.uuid(NAME_AT)))
}

/// The sizes that a gate hides: blocks, groups.
pub fn hidden(sector: &[u8]) -> Option<(u64, u32)> {
    let fields = Fields(sector);
    closed(sector).map(|_| (fields.u64(BLOCKS_KEPT_AT), fields.u32(GROUPS_KEPT_AT)))
}

fn sector_of(bytes: &[u8]) -> Option<usize> {
    let sector = usize::from(Fields(bytes).u16(102));
    (sector >= 512 && sector <= bytes.len()).then_some(sector)
}
