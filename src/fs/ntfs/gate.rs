//! The gate: a boot sector that nobody gets past, and that names the transaction which is writing.
//!
//! ```text
//! byte  field                ordinary     gate
//! 0x40  size of records      as made      0xf7: 512 bytes
//! 0x54  boot code            as made      f4 eb fd (halt, again), 90
//! 0x58  boot code            as made      "holdfast:" 32 hex digits
//! 0x88  boot code            as made      the size of records that was at 0x40
//! ```
//!
//! It stays a good boot sector in every other field, on purpose. One that is none, or that points
//! to an $MFT outside the volume, sends ntfsfix to the backup in the last sector, which it then
//! writes over the gate (measured, and the kernel's ntfs3 looks there as well). But no record has
//! 512 bytes: each says in its own head how many sectors it has, and so the first one of the $MFT
//! does not fit. There everybody stops: ntfs-3g, ntfsresize and ntfsfix with every option.
//!
//! 1. A gate differs from the boot sector that it was closed on within one sector of 512 bytes:
//!    closing it cannot be torn.
//! 2. A gate is believed only with the size, the name and a size that was. Anything between is
//!    [`GateState::Invalid`], which opens nothing.
//!
//! What it does not do: who writes the backup over it by hand (testdisk, dd) gets past it, and what
//! chkdsk makes of it in Windows is not known: an $MFT that it cannot read it calls corrupt.

use crate::fs::{FsError, GateState, TransactionId};

use super::boot::{BOOT_BYTES, Boot, CODE_AT, RECORD_AT};
use crate::fs::bytes::{slice, u8_at};

const NAME_AT: usize = CODE_AT + 4;
const NAME_PREFIX: &str = "holdfast:";
const NAME_BYTES: usize = NAME_PREFIX.len() + 32;
const KEPT_AT: usize = 0x88;
/// 2^9 bytes, the least that is a number of sectors.
const GATE_RECORD: u8 = 0xf7;
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
    put(&mut gate, KEPT_AT, &[u8_at(raw, RECORD_AT)]);
    put(&mut gate, RECORD_AT, &[GATE_RECORD]);
    put(&mut gate, CODE_AT, &HALT);
    put(&mut gate, NAME_AT, format!("{NAME_PREFIX}{id}").as_bytes());
    Ok(gate)
}

/// What a boot sector says about who may enter.
pub fn state(raw: &[u8]) -> GateState {
    match Boot::parse(raw) {
        Ok(Some(boot)) if boot.is_usable() => GateState::Open,
        Ok(Some(_)) => match (transaction(raw), behind(raw)) {
            (Some(id), Some(_)) => GateState::Closed(id),
            _ => GateState::Invalid,
        },
        _ => GateState::Invalid,
    }
}

/// The boot sector behind a gate, for looking at what it guards; or that of an open volume.
pub fn behind(raw: &[u8]) -> Option<Boot> {
    let mut open = raw.to_vec();
    if u8_at(raw, RECORD_AT) == GATE_RECORD && transaction(raw).is_some() {
        put(&mut open, RECORD_AT, &[u8_at(raw, KEPT_AT)]);
    }
    Boot::parse(&open).ok()?.filter(Boot::is_usable)
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
        // No mix of the two is an open gate, unless all that counts is still as it was.
        for at in 0..BOOT_BYTES {
            let mut torn = open.clone();
            torn[..at].copy_from_slice(&gate[..at]);
            match state(&torn) {
                GateState::Open => assert!(at <= RECORD_AT, "{at:#x}"),
                GateState::Closed(found) => assert!(found == id && at > KEPT_AT, "{at:#x}"),
                GateState::Invalid => assert!(at > RECORD_AT && at <= KEPT_AT, "{at:#x}"),
            }
        }
        assert_eq!(state(&gate[..511]), GateState::Invalid);
    }
}
