//! The gate: a boot sector that nobody gets past, and that names the transaction which is writing.
//!
//! ```text
//! byte  field              ordinary     gate
//! 0x30  cluster of $MFT    as made      0
//! 0x38  cluster of $MFTMirr as made     0
//! 0x54  boot code          as made      f4 eb fd (halt, again), 0x90 (nothing)
//! 0x58  boot code          as made      "holdfast:" 32 hex digits
//! 0x88  boot code          as made      the two cluster numbers that were at 0x30 and 0x38
//! ```
//!
//! It stays a boot sector of NTFS in every other field, on purpose. One that is none at all sends
//! ntfsfix, and perhaps Windows, to the backup in the last sector, which ntfsfix then writes over
//! it: the gate would be gone. But where the boot sector is one and the $MFT is not where it says,
//! nobody looks any further. Cluster 0 holds the boot sector itself and so never a record.
//!
//! 1. A gate differs from the boot sector that it was closed on within one sector of 512 bytes:
//!    closing it cannot be torn.
//! 2. A gate is believed only with both numbers zero and the name. Anything between is
//!    [`GateState::Invalid`], which opens nothing.
//!
//! What it does not do: who writes the backup over it by hand (testdisk, dd) gets past it.

use crate::fs::{FsError, GateState, TransactionId};

use super::boot::{BOOT_BYTES, Boot, CODE_AT, MFT_AT};
use super::bytes::{slice, u64_at};

const NAME_AT: usize = CODE_AT + 4;
const NAME_PREFIX: &str = "holdfast:";
const NAME_BYTES: usize = NAME_PREFIX.len() + 32;
const KEPT_AT: usize = 0x88;
/// Boot code that stops the machine which was told to start from here.
const HALT: [u8; 4] = [0xf4, 0xeb, 0xfd, 0x90];

/// `raw`, an open boot sector, with the gate closed.
///
/// # Errors
/// [`FsError::Corrupt`] where it is not one.
pub fn close(raw: &[u8], id: TransactionId) -> Result<Vec<u8>, FsError> {
    match state(raw) {
        GateState::Open if raw.len() == BOOT_BYTES => {}
        GateState::Closed(other) => {
            let text = format!("the gate of transaction {other} stands already");
            return Err(FsError::Corrupt(text));
        }
        _ => {
            let text = "not a boot sector that a gate can be closed on";
            return Err(FsError::Corrupt(text.into()));
        }
    }
    let mut gate = raw.to_vec();
    let kept = slice(raw, MFT_AT, 16).unwrap_or_default();
    put(&mut gate, KEPT_AT, kept);
    put(&mut gate, MFT_AT, &[0; 16]);
    put(&mut gate, CODE_AT, &HALT);
    put(&mut gate, NAME_AT, format!("{NAME_PREFIX}{id}").as_bytes());
    Ok(gate)
}

/// What a boot sector says about who may enter.
pub fn state(raw: &[u8]) -> GateState {
    let Ok(Some(boot)) = Boot::parse(raw) else {
        return GateState::Invalid;
    };
    match (boot.mft_lcn, boot.mirror_lcn) {
        (0, 0) => transaction(raw).map_or(GateState::Invalid, GateState::Closed),
        (mft, mirror) if boot.is_inside(mft) && boot.is_inside(mirror) => GateState::Open,
        _ => GateState::Invalid,
    }
}

/// The boot sector behind a gate, for looking at what it guards.
pub fn behind(raw: &[u8]) -> Option<Boot> {
    let mut boot = Boot::parse(raw).ok()??;
    if matches!(state(raw), GateState::Closed(_)) {
        boot.mft_lcn = u64_at(raw, KEPT_AT);
        boot.mirror_lcn = u64_at(raw, KEPT_AT + 8);
    }
    Some(boot)
}

fn transaction(raw: &[u8]) -> Option<TransactionId> {
    let name = std::str::from_utf8(slice(raw, NAME_AT, NAME_BYTES)?).ok()?;
    name.strip_prefix(NAME_PREFIX)?.parse().ok()
}

fn put(raw: &mut [u8], at: usize, field: &[u8]) {
    raw.iter_mut()
        .skip(at)
        .zip(field)
        .for_each(|(to, &from)| *to = from);
}

#[cfg(test)]
mod tests {
    use super::super::boot::tests::sample;
    use super::*;

    #[test]
    fn a_gate_names_its_transaction_and_nothing_less_does() {
        let id = TransactionId(std::array::from_fn(|n| n as u8));
        let open = sample();
        assert_eq!(state(&open), GateState::Open);
        let gate = close(&open, id).unwrap();
        assert_eq!(state(&gate), GateState::Closed(id));
        assert!(close(&gate, id).is_err());
        assert_eq!(behind(&gate), Boot::parse(&open).unwrap());
        assert_eq!(behind(&open), Boot::parse(&open).unwrap());
        // Any mix of the two opens nothing, unless it is one of them but for boot code.
        for at in 0..BOOT_BYTES {
            let mut torn = open.clone();
            torn[..at].copy_from_slice(&gate[..at]);
            match state(&torn) {
                GateState::Open => assert!(at <= MFT_AT, "{at:#x}"),
                GateState::Closed(found) => assert!(found == id && at >= NAME_AT + NAME_BYTES),
                GateState::Invalid => {}
            }
        }
        assert_eq!(state(&gate[..511]), GateState::Invalid);
    }
}
