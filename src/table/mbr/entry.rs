//! One entry of an MBR or of an EBR.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 1 | active flag: 00 or 80 |
//! | 1 | 3 | first sector as cylinder, head, sector |
//! | 4 | 1 | type |
//! | 5 | 3 | last sector as cylinder, head, sector |
//! | 8 | 4 | first sector, from the start of something: see the module |
//! | 12 | 4 | number of sectors |
//!
//! Nothing on Linux reads the addresses by cylinder, but old firmware and boot loaders do, so an
//! edit keeps them true: the last one is written anew in the geometry in which the entry was
//! written, which shows in its two addresses; 255 heads and 63 sectors where several fit, as
//! `sfdisk` and `parted` have it. What no geometry explains becomes `FE FF FF`, "not to be
//! represented", and zeros stay zeros.

use serde::{Deserialize, Serialize};

use super::super::header::{le32, put};

pub(super) const ENTRIES: usize = 446;
pub(super) const ENTRY_BYTES: usize = 16;
const LAST_CHS: usize = 5;
const SECTORS: usize = 12;
/// An address by cylinder that the three bytes cannot hold.
const BEYOND_CHS: [u8; 3] = [0xFE, 0xFF, 0xFF];
/// Heads and sectors of the geometries that were ever usual, the usual one first.
const GEOMETRIES: [(u64, u64); 8] = [
    (255, 63),
    (240, 63),
    (128, 63),
    (64, 63),
    (32, 63),
    (16, 63),
    (64, 32),
    (128, 32),
];

/// A partition of an MBR.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MbrPartition {
    /// As in the device's name: the slot, 1 to 4, or from 5 on the place in the chain of the
    /// logical ones.
    pub number: u32,
    /// The type byte: 0x83 Linux, 0x07 NTFS, 0x0f extended, …
    pub kind: u8,
    /// Whether it is marked for booting.
    pub active: bool,
    /// First sector.
    pub first_lba: u64,
    /// Number of sectors, never 0.
    pub sectors: u64,
}

impl MbrPartition {
    /// Last sector, inclusive.
    pub fn last_lba(&self) -> u64 {
        (self.first_lba + self.sectors).saturating_sub(1)
    }

    /// Whether it holds logical partitions, not data.
    pub fn is_extended(&self) -> bool {
        is_extended(self.kind)
    }

    /// A readable name of the type, where it is a known one.
    pub fn type_name(&self) -> Option<&'static str> {
        Some(match self.kind {
            0x01 | 0x04 | 0x06 | 0x0E => "FAT12 or FAT16",
            0x05 | 0x0F | 0x85 => "extended",
            0x07 => "NTFS or exFAT",
            0x0B | 0x0C => "FAT32",
            0x27 => "Windows recovery",
            0x42 => "Windows dynamic disk",
            0x82 => "Linux swap",
            0x83 => "Linux file system",
            0x8E => "Linux LVM",
            0xA5 | 0xA6 | 0xA9 => "BSD",
            0xAF => "HFS",
            0xBE | 0xBF => "Solaris",
            0xDA => "data without a file system",
            0xEF => "EFI system",
            0xFB | 0xFC => "VMware",
            0xFD => "Linux RAID",
            _ => return None,
        })
    }
}

pub(super) fn is_extended(kind: u8) -> bool {
    matches!(kind, 0x05 | 0x0F | 0x85)
}

/// The fields of an entry, as they stand there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub flag: u8,
    pub kind: u8,
    pub first: u32,
    pub sectors: u32,
    first_chs: [u8; 3],
    last_chs: [u8; 3],
}

fn offset(slot: usize) -> Option<usize> {
    slot.checked_mul(ENTRY_BYTES)?.checked_add(ENTRIES)
}

impl Entry {
    /// The entry in `slot`, 0 to 3, of a sector.
    pub fn at(sector: &[u8], slot: usize) -> Option<Entry> {
        let entry = sector.get(offset(slot)?..)?.get(..ENTRY_BYTES)?;
        Some(Entry {
            flag: *entry.first()?,
            kind: *entry.get(4)?,
            first: le32(entry, 8)?,
            sectors: le32(entry, SECTORS)?,
            first_chs: *entry.get(1..)?.first_chunk()?,
            last_chs: *entry.get(LAST_CHS..)?.first_chunk()?,
        })
    }

    /// Whether the slot is in use: the kernel asks for sectors alone, whatever the type.
    pub fn is_used(&self) -> bool {
        self.sectors != 0
    }
}

/// Lets the entry in `slot` end with `last_lba`, where `base` is what its first sector counts from.
/// `None`, and nothing written, where it cannot.
pub(super) fn set_last_lba(sector: &mut [u8], slot: usize, base: u64, last_lba: u64) -> Option<()> {
    let entry = Entry::at(sector, slot)?;
    let first = base.checked_add(entry.first.into())?;
    let sectors = u32::try_from(last_lba.checked_sub(first)?.checked_add(1)?).ok()?;
    let old_last = first.checked_add(entry.sectors.into())?.checked_sub(1)?;
    if last_lba == old_last {
        return Some(());
    }
    let at = offset(slot)?;
    let chs = last_chs(&entry, (first, old_last), last_lba);
    put(sector, at + LAST_CHS, &chs)?;
    put(sector, at + SECTORS, &sectors.to_le_bytes())
}

/// The address by cylinder of an entry's new last sector.
fn last_chs(entry: &Entry, (first, old_last): (u64, u64), last_lba: u64) -> [u8; 3] {
    if entry.last_chs == [0; 3] {
        return [0; 3];
    }
    let fits = |geometry: &&(u64, u64)| {
        chs(first, **geometry) == entry.first_chs && chs(old_last, **geometry) == entry.last_chs
    };
    match GEOMETRIES.iter().find(fits) {
        Some(&geometry) => chs(last_lba, geometry),
        None => BEYOND_CHS,
    }
}

/// Head, sector and the upper bits of the cylinder, its lower bits.
fn chs(lba: u64, (heads, sectors): (u64, u64)) -> [u8; 3] {
    let (track, sector) = (lba / sectors, lba % sectors + 1);
    let (cylinder, head) = (track / heads, track % heads);
    if cylinder > 1023 {
        return BEYOND_CHS;
    }
    [
        head as u8,
        sector as u8 | (cylinder >> 2) as u8 & 0xC0,
        cylinder as u8,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sector(first_chs: [u8; 3], last_chs: [u8; 3], first: u32, sectors: u32) -> Vec<u8> {
        let mut sector = vec![0x5A; 512];
        let entry = &mut sector[ENTRIES..][..ENTRY_BYTES];
        entry[0] = 0x80;
        entry[1..4].copy_from_slice(&first_chs);
        entry[4] = 0x83;
        entry[5..8].copy_from_slice(&last_chs);
        entry[8..12].copy_from_slice(&first.to_le_bytes());
        entry[12..16].copy_from_slice(&sectors.to_le_bytes());
        sector
    }

    /// What sfdisk wrote for a partition of 1 MiB at 1 MiB.
    const USUAL: ([u8; 3], [u8; 3]) = ([0x20, 0x21, 0], [0x41, 0x01, 0]);

    #[test]
    fn the_last_address_follows_in_the_same_geometry() {
        let cases = [
            (USUAL, 2048, 4096, 6143, [0x61, 0x21, 0]),
            // Beyond cylinder 1023.
            (USUAL, 2048, 4096, 20_000_000, BEYOND_CHS),
            // From there back to where it can be told.
            ((USUAL.0, BEYOND_CHS), 2048, 40_000_000, 4095, USUAL.1),
            // 16 heads: sector 63 is head 1, sector 1; the end of the tenth cylinder.
            (([1, 1, 0], [15, 63, 9]), 63, 10_080, 20_159, [15, 63, 19]),
            // What no geometry explains.
            (([7, 7, 7], [9, 9, 9]), 2048, 4096, 6143, BEYOND_CHS),
            (([0; 3], [0; 3]), 2048, 4096, 6143, [0; 3]),
        ];
        for ((first_chs, old), first, old_end, new_last, expected) in cases {
            let before = sector(first_chs, old, first, old_end - first);
            let mut after = before.clone();
            set_last_lba(&mut after, 0, 0, new_last).unwrap();
            assert_eq!(after[ENTRIES + 5..ENTRIES + 8], expected, "{new_last}");
            let sectors = (new_last as u32 - first + 1).to_le_bytes();
            assert_eq!(after[ENTRIES + 12..ENTRIES + 16], sectors);
            // And not one other byte.
            after[ENTRIES + 5..ENTRIES + 8].copy_from_slice(&old);
            after[ENTRIES + 12..ENTRIES + 16].copy_from_slice(&before[ENTRIES + 12..][..4]);
            assert_eq!(after, before);
        }
    }

    #[test]
    fn an_end_that_is_there_already_is_left_as_it_lies() {
        let before = sector([7, 7, 7], [9, 9, 9], 2048, 100);
        let mut after = before.clone();
        set_last_lba(&mut after, 0, 10, 2157).unwrap();
        assert_eq!(after, before);
    }

    #[test]
    fn what_32_bits_cannot_hold_is_not_written() {
        let before = sector(USUAL.0, USUAL.1, 2048, 100);
        for (base, last) in [(0, 1 << 33), (0, 2000), (u64::MAX, 5000)] {
            let mut after = before.clone();
            assert_eq!(set_last_lba(&mut after, 0, base, last), None);
            assert_eq!(after, before);
        }
    }
}
