//! The gate: a header of a version that nobody knows, which names the transaction that is writing.
//!
//! ```text
//! byte  field       ordinary  gate
//! 1024  version     1         0x484f4c44
//! 1068  padding     zeros     "holdfast:" 32 hex digits, NULs
//! ```
//!
//! All of it is in one sector of 512 bytes, and so is the size that a resize changes: a power cut
//! leaves it old or new. The magic at the end of the page stays: without it `swapon` may take the
//! space for a system that was suspended, whose magic it writes anew. A version that is not 1 is
//! refused by the kernel, and not seen by `blkid`, `swaplabel` and whoever asks them.
//!
//! What it does not do: `mkswap` makes new swap space whatever was there before.

use super::header::{FIELDS_BYTES, Fields, PADDING_AT, VERSION, VERSION_AT};
use crate::fs::bytes::put;
use crate::fs::{FsError, GateState, TransactionId};

/// The version that nobody knows.
const GATE_VERSION: u32 = 0x484f_4c44;
const NAME_BYTES: usize = 64;
const NAME_PREFIX: &str = "holdfast:";

/// The fields with the gate closed.
///
/// # Errors
/// [`FsError::Corrupt`] where they are not open.
pub fn close(fields: &[u8], id: TransactionId) -> Result<Vec<u8>, FsError> {
    if state(fields) != GateState::Open {
        return Err(FsError::Corrupt(
            "not a header of swap space that a gate can be closed on".into(),
        ));
    }
    let mut name = [0; NAME_BYTES];
    let text = format!("{NAME_PREFIX}{id}");
    name.iter_mut()
        .zip(text.bytes())
        .for_each(|(to, from)| *to = from);
    let mut closed = fields.to_vec();
    put(&mut closed, VERSION_AT, &GATE_VERSION.to_ne_bytes());
    put(&mut closed, PADDING_AT, &name);
    Ok(closed)
}

/// What the fields say.
pub fn state(fields: &[u8]) -> GateState {
    if fields.len() != FIELDS_BYTES {
        return GateState::Invalid;
    }
    let found = Fields::parse(fields);
    match found.version {
        VERSION if found.last_page != 0 => GateState::Open,
        GATE_VERSION => name(fields).map_or(GateState::Invalid, GateState::Closed),
        _ => GateState::Invalid,
    }
}

fn name(fields: &[u8]) -> Option<TransactionId> {
    let field = fields.get(PADDING_AT..PADDING_AT + NAME_BYTES)?;
    let text = std::str::from_utf8(field).ok()?.trim_end_matches('\0');
    text.strip_prefix(NAME_PREFIX)?.parse().ok()
}
