//! One entry of the table.
//!
//! | offset | bytes | field (UEFI 2.10 §5.3.3) |
//! |---|---|---|
//! | 0 | 16 | type GUID; all zero: not in use |
//! | 16 | 16 | unique GUID |
//! | 32 | 8 | first LBA |
//! | 40 | 8 | last LBA, inclusive |
//! | 48 | 8 | attributes |
//! | 56 | 72 | name, UTF-16LE, ends at the first zero |
//! | 128 | – | reserved in larger entries, kept as found |

use serde::{Deserialize, Serialize};

use super::guid::{Guid, type_name};
use super::header::{guid, le64, put};

pub(super) const MIN_ENTRY_BYTES: u32 = 128;
const LAST_LBA: usize = 40;
const NAME: std::ops::Range<usize> = 56..128;

/// A partition as its entry says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    /// The slot in the table, from 1: the number in the partition's device name.
    pub number: u32,
    /// What it is for.
    pub type_guid: Guid,
    /// Its own name among all partitions of the world; never changed by an edit.
    pub unique_guid: Guid,
    /// First sector.
    pub first_lba: u64,
    /// Last sector, inclusive.
    pub last_lba: u64,
    /// Attribute bits: 0 required, 1 no block I/O, 2 legacy boot, 48–63 by type.
    pub attributes: u64,
    /// The name as the disk has it; escape before printing.
    pub name: String,
}

impl Partition {
    /// The entry in slot `number`, or `None` where it is not in use.
    pub(super) fn parse(number: u32, entry: &[u8]) -> Option<Partition> {
        let type_guid = guid(entry, 0)?;
        if type_guid == Guid::ZERO {
            return None;
        }
        let units: Vec<u16> = entry
            .get(NAME)?
            .chunks_exact(2)
            .filter_map(|pair| Some(u16::from_le_bytes(*pair.first_chunk()?)))
            .take_while(|&unit| unit != 0)
            .collect();
        Some(Partition {
            number,
            type_guid,
            unique_guid: guid(entry, 16)?,
            first_lba: le64(entry, 32)?,
            last_lba: le64(entry, LAST_LBA)?,
            attributes: le64(entry, 48)?,
            name: String::from_utf16_lossy(&units),
        })
    }

    /// A readable name of the type, where it is a known one.
    pub fn type_name(&self) -> Option<&'static str> {
        type_name(self.type_guid)
    }

    /// Number of sectors; 0 where the entry ends before it starts.
    pub fn sectors(&self) -> u64 {
        match self.last_lba.checked_sub(self.first_lba) {
            Some(distance) => distance.saturating_add(1),
            None => 0,
        }
    }
}

/// All partitions of an array of entries, in table order.
pub(super) fn parse_all(entries: &[u8], entry_bytes: u32, entry_count: u32) -> Vec<Partition> {
    entries
        .chunks_exact((entry_bytes as usize).max(1))
        .zip(1..=entry_count)
        .filter_map(|(entry, number)| Partition::parse(number, entry))
        .collect()
}

/// Gives the entry in slot `number` another end. `None` where the array has no such slot.
pub(super) fn set_last_lba(
    entries: &mut [u8],
    entry_bytes: u32,
    number: u32,
    last_lba: u64,
) -> Option<()> {
    let slot = usize::try_from(number.checked_sub(1)?).ok()?;
    let at = slot
        .checked_mul(entry_bytes as usize)?
        .checked_add(LAST_LBA)?;
    put(entries, at, &last_lba.to_le_bytes())
}
