//! The gate: a superblock that nobody enters, and that names the transaction.
//!
//! An unknown incompatible feature with a checksum that fits. Measured with Linux 6.18 and xfsprogs
//! 6.1: mount refuses it, also `ro,norecovery`; so does `xfs_repair`, also with `-n` and `-L`. It
//! does not fetch a superblock from another group, for this one is whole.
//!
//! | byte of the sector | |
//! |---|---|
//! | 216 | features, with [`BIT`] |
//! | 224 | checksum |
//! | 480 | [`MARK`] |
//! | 488 | the transaction |

use crate::fs::{FsError, GateState, TransactionId};

use super::fields::{Fields, checksum};
use super::superblock::{CRC_AT, INCOMPAT_AT, Superblock};

/// The feature.
pub const BIT: u32 = 1 << 31;
/// So that a feature of a future kernel is not taken for a gate.
const MARK: [u8; 8] = *b"HOLDFAST";
const MARK_AT: usize = 480;
const NAME_AT: usize = 488;

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
    let features = Fields(&bytes).u32(INCOMPAT_AT) | BIT;
    bytes[INCOMPAT_AT..INCOMPAT_AT + 4].copy_from_slice(&features.to_be_bytes());
    bytes[MARK_AT..NAME_AT].copy_from_slice(&MARK);
    bytes[NAME_AT..NAME_AT + 16].copy_from_slice(&id.0);
    let sum = checksum(&bytes[..sector], CRC_AT);
    bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&sum.to_le_bytes());
    Ok(bytes)
}

/// What the bytes say. Those behind the superblock's sector do not matter.
pub fn state(bytes: &[u8]) -> GateState {
    let Some(sector) = sector_of(bytes) else {
        return GateState::Invalid;
    };
    let Ok(sb) = Superblock::parse(bytes[..sector].to_vec()) else {
        return GateState::Invalid;
    };
    if sb.incompat & BIT == 0 {
        return GateState::Open;
    }
    let marked = bytes.get(MARK_AT..NAME_AT) == Some(MARK.as_slice());
    match bytes
        .get(NAME_AT..)
        .and_then(|rest| rest.first_chunk::<16>())
    {
        Some(id) if marked => GateState::Closed(TransactionId(*id)),
        _ => GateState::Open,
    }
}

fn sector_of(bytes: &[u8]) -> Option<usize> {
    let sector = usize::from(Fields(bytes).u16(102));
    (sector >= 512 && sector <= bytes.len()).then_some(sector)
}
