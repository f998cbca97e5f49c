//! The gate: a superblock that the kernel and every tool refuse, and that names the transaction
//! which is writing.
//!
//! ```text
//! byte  field              ordinary           gate
//! 0x060 s_feature_incompat as made            | 0x4000_0000
//! 0x088 s_last_mounted     last mount point   "holdfast:" 32 hex digits, NULs to byte 0x0c4
//! 0x0c4 (its last 4 bytes)                    metadata_csum: what keeps s_checksum as it was
//! 0x3fc s_checksum         crc32c             unchanged
//! ```
//!
//! An incompatible feature that a reader does not know forbids it to touch the file system: that
//! is the format's own rule, and it holds for the kernel, e2fsck, resize2fs and tune2fs alike.
//! Bit 30 is far from the ones in use: e2fsprogs and the kernel have given out bits 0 to 17, from
//! below. What was in these fields is in the journal's undo record.
//!
//! 1. A gate differs from the superblock that it was closed on in the first 512 bytes alone. Where
//!    a sector is written whole or not at all, closing it cannot be torn, nor taking it away for
//!    the same superblock. To that end the checksum, which lies in the second sector, is not
//!    changed: four bytes are chosen such that it still fits.
//! 2. A gate is believed only with bit, name and (where there is one) checksum. Anything between
//!    is [`GateState::Invalid`], which opens nothing.
//!
//! What it does not do: who names a backup superblock by hand (`e2fsck -b`, `mount -o sb=`) gets
//! past it.

use crate::fs::{FsError, GateState, TransactionId};

use super::feature;
use super::superblock::{CHECKSUM_AT, SUPERBLOCK_BYTES, Superblock, checksums};
use crate::fs::bytes::u32_at;
use crate::fs::crc::{crc32c, crc32c_back};

/// The incompatible feature that nobody knows: what makes everybody stop.
pub const GATE_MASK: u32 = 0x4000_0000;

const INCOMPAT_AT: usize = 0x60;
const NAME_AT: usize = 0x88;
const NAME_BYTES: usize = 60;
const BALANCE_AT: usize = NAME_AT + NAME_BYTES;
const BALANCE_BYTES: usize = 4;
const NAME_PREFIX: &str = "holdfast:";

/// `superblock` with the gate closed.
///
/// # Errors
/// [`FsError::Corrupt`] where it is not an ordinary superblock.
pub fn close(superblock: &[u8], id: TransactionId) -> Result<Vec<u8>, FsError> {
    let found = state(superblock);
    let Ok(mut raw) = <[u8; SUPERBLOCK_BYTES]>::try_from(superblock) else {
        return Err(not_open(found));
    };
    if found != GateState::Open {
        return Err(not_open(found));
    }
    let incompat = u32_at(&raw, INCOMPAT_AT) | GATE_MASK;
    put(&mut raw, INCOMPAT_AT, &incompat.to_le_bytes());
    put(&mut raw, NAME_AT, &name(id));
    put(&mut raw, BALANCE_AT, &[0; BALANCE_BYTES]);
    if Superblock::parse(superblock)?.is_some_and(|sb| sb.has(feature::METADATA_CSUM)) {
        balance(&mut raw);
    }
    Ok(raw.to_vec())
}

/// What the bytes of a superblock say.
pub fn state(superblock: &[u8]) -> GateState {
    let Ok(Some(sb)) = Superblock::parse(superblock) else {
        return GateState::Invalid;
    };
    if sb.has(feature::JOURNAL_DEV) {
        return GateState::Invalid;
    }
    if sb.features.incompat & GATE_MASK == 0 {
        return GateState::Open;
    }
    // The bit alone is nothing that Holdfast writes.
    match transaction(superblock) {
        Some(id) => GateState::Closed(id),
        None => GateState::Invalid,
    }
}

/// Chooses the four bytes at [`BALANCE_AT`], which are zero, such that the stored checksum fits.
fn balance(raw: &mut [u8; SUPERBLOCK_BYTES]) {
    let (stored, _) = checksums(raw);
    let (before, rest) = raw.split_at(BALANCE_AT);
    let (rest, _) = rest.split_at(CHECKSUM_AT - BALANCE_AT);
    // Four bytes enter the sum by being added to its state, and are then pushed through like zeros.
    let wanted = crc32c_back(stored, rest) ^ crc32c(!0, before);
    put(raw, BALANCE_AT, &wanted.to_le_bytes());
}

fn name(id: TransactionId) -> [u8; NAME_BYTES] {
    let mut field = [0; NAME_BYTES];
    let text = format!("{NAME_PREFIX}{id}");
    field
        .iter_mut()
        .zip(text.bytes())
        .for_each(|(to, from)| *to = from);
    field
}

fn transaction(superblock: &[u8]) -> Option<TransactionId> {
    let field = superblock.get(NAME_AT..NAME_AT + NAME_BYTES)?;
    let text = std::str::from_utf8(field).ok()?.trim_end_matches('\0');
    text.strip_prefix(NAME_PREFIX)?.parse().ok()
}

fn put(raw: &mut [u8; SUPERBLOCK_BYTES], at: usize, field: &[u8]) {
    raw.iter_mut()
        .skip(at)
        .zip(field)
        .for_each(|(to, &from)| *to = from);
}

fn not_open(found: GateState) -> FsError {
    FsError::Corrupt(match found {
        GateState::Closed(id) => format!("the gate of transaction {id} stands already"),
        _ => "not a superblock that a gate can be closed on".into(),
    })
}
