//! The header of one copy of a GPT: its bytes, its fields, its checksum.
//!
//! All numbers are little-endian; LBAs count logical sectors (UEFI 2.10 §5.3.2).
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | signature `EFI PART` |
//! | 8 | 4 | revision, `0x00010000` |
//! | 12 | 4 | header size, from 92 to one sector |
//! | 16 | 4 | CRC32 of the header, with this field as zero |
//! | 20 | 4 | reserved |
//! | 24 | 8 | LBA of this header |
//! | 32 | 8 | LBA of the other header |
//! | 40 | 8 | first usable LBA |
//! | 48 | 8 | last usable LBA |
//! | 56 | 16 | disk GUID |
//! | 72 | 8 | first LBA of the entries |
//! | 80 | 4 | number of entries |
//! | 84 | 4 | size of one entry, 128 × 2ⁿ |
//! | 88 | 4 | CRC32 of the entries |
//! | 92 | – | reserved, kept as found |
//!
//! Version rule: another revision is refused, never guessed at.

use super::guid::Guid;

pub(super) const SIGNATURE: &[u8; 8] = b"EFI PART";
pub(super) const REVISION: u32 = 0x0001_0000;
pub(super) const MIN_HEADER_BYTES: u32 = 92;

const CRC: usize = 16;
const MY_LBA: usize = 24;
const ALTERNATE_LBA: usize = 32;
const LAST_USABLE_LBA: usize = 48;
const ENTRIES_LBA: usize = 72;
const ENTRIES_CRC: usize = 88;

/// The fields of a header, as read. Nothing is validated here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub revision: u32,
    pub header_bytes: u32,
    pub crc: u32,
    pub my_lba: u64,
    pub alternate_lba: u64,
    pub first_usable_lba: u64,
    pub last_usable_lba: u64,
    pub disk_guid: Guid,
    pub entries_lba: u64,
    pub entry_count: u32,
    pub entry_bytes: u32,
    pub entries_crc: u32,
}

impl Header {
    /// The fields, or `None` where the signature is not there.
    pub fn parse(sector: &[u8]) -> Option<Header> {
        if !sector.starts_with(SIGNATURE) {
            return None;
        }
        Some(Header {
            revision: le32(sector, 8)?,
            header_bytes: le32(sector, 12)?,
            crc: le32(sector, CRC)?,
            my_lba: le64(sector, MY_LBA)?,
            alternate_lba: le64(sector, ALTERNATE_LBA)?,
            first_usable_lba: le64(sector, 40)?,
            last_usable_lba: le64(sector, LAST_USABLE_LBA)?,
            disk_guid: guid(sector, 56)?,
            entries_lba: le64(sector, ENTRIES_LBA)?,
            entry_count: le32(sector, 80)?,
            entry_bytes: le32(sector, 84)?,
            entries_crc: le32(sector, ENTRIES_CRC)?,
        })
    }

    /// Size of all entries together. 64 bits hold the product of any two 32-bit numbers.
    pub fn array_bytes(&self) -> u64 {
        u64::from(self.entry_count) * u64::from(self.entry_bytes)
    }
}

/// The values that an edit may give to a header. Everything else stays as it lies there.
pub(super) struct Patch {
    pub my_lba: u64,
    pub alternate_lba: u64,
    pub last_usable_lba: u64,
    pub entries_lba: u64,
    pub entries_crc: u32,
}

/// `sector` with the fields of `patch` and a fresh checksum; `None` where it is no header.
pub(super) fn patched(sector: &[u8], patch: &Patch) -> Option<Vec<u8>> {
    let header_bytes = Header::parse(sector)?.header_bytes;
    let mut out = sector.to_vec();
    put(&mut out, MY_LBA, &patch.my_lba.to_le_bytes())?;
    put(&mut out, ALTERNATE_LBA, &patch.alternate_lba.to_le_bytes())?;
    put(
        &mut out,
        LAST_USABLE_LBA,
        &patch.last_usable_lba.to_le_bytes(),
    )?;
    put(&mut out, ENTRIES_LBA, &patch.entries_lba.to_le_bytes())?;
    put(&mut out, ENTRIES_CRC, &patch.entries_crc.to_le_bytes())?;
    let crc = checksum(&out, header_bytes)?;
    put(&mut out, CRC, &crc.to_le_bytes())?;
    Some(out)
}

/// The checksum that a header of this size must have; `None` where the size does not fit.
pub(super) fn checksum(sector: &[u8], header_bytes: u32) -> Option<u32> {
    if header_bytes < MIN_HEADER_BYTES {
        return None;
    }
    let mut header = sector.get(..header_bytes as usize)?.to_vec();
    put(&mut header, CRC, &[0; 4])?;
    Some(crc32fast::hash(&header))
}

pub(super) fn le32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

pub(super) fn le64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

pub(super) fn guid(bytes: &[u8], at: usize) -> Option<Guid> {
    Some(Guid(*bytes.get(at..)?.first_chunk()?))
}

/// Writes `value` at `at`; `None`, and nothing written, where it does not fit.
pub(super) fn put(bytes: &mut [u8], at: usize, value: &[u8]) -> Option<()> {
    let end = at.checked_add(value.len())?;
    bytes.get_mut(at..end)?.copy_from_slice(value);
    Some(())
}
