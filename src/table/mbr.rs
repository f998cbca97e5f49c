//! Sector 0: a protective MBR, a hybrid one, an MBR with partitions, or none of these.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 440 | boot code, kept as found |
//! | 440 | 6 | disk signature, reserved |
//! | 446 | 4 × 16 | entries: active flag, CHS, type, CHS, first LBA, sectors |
//! | 510 | 2 | `55 AA` |
//!
//! Boot sectors of FAT, NTFS and exFAT end in `55 AA` too, and boot loaders put that signature
//! on a bare file system. So an MBR is believed only where its entries are plausible.

use serde::{Deserialize, Serialize};

use super::header::{le32, put};

const ENTRIES: usize = 446;
const ENTRY_BYTES: usize = 16;
const PROTECTIVE: u8 = 0xEE;
/// What a 32-bit size says where the disk is larger than it can tell.
const UNTOLD: u32 = u32::MAX;

/// An entry of an MBR.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MbrPartition {
    /// The slot, 1 to 4.
    pub number: u32,
    /// The type byte: 0x83 Linux, 0x07 NTFS, 0x0f extended, …
    pub kind: u8,
    /// Whether it is marked for booting.
    pub active: bool,
    /// First sector.
    pub first_lba: u64,
    /// Number of sectors.
    pub sectors: u64,
}

/// The one entry of a protective MBR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Protective {
    slot: usize,
    pub first_lba: u32,
    pub sectors: u32,
}

/// What sector 0 is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum BootSector {
    /// No partition table.
    None,
    /// Partitions, none of them protective.
    Partitions(Vec<MbrPartition>),
    /// One entry that covers a GPT.
    Protective(Protective),
    /// A protective entry beside others.
    Hybrid(Vec<MbrPartition>),
}

impl BootSector {
    /// Judges sector 0 of a disk of so many sectors.
    pub fn of(sector: &[u8], disk_sectors: u64) -> BootSector {
        if sector.get(510..512) != Some(&[0x55, 0xAA]) {
            return BootSector::None;
        }
        let Some(entries) = entries(sector) else {
            return BootSector::None;
        };
        let mut protective = entries.iter().filter(|e| e.kind == PROTECTIVE);
        if let Some(first) = protective.next() {
            if entries.len() > 1 {
                return BootSector::Hybrid(entries);
            }
            return BootSector::Protective(Protective {
                slot: first.number as usize - 1,
                first_lba: first.first_lba as u32,
                sectors: first.sectors as u32,
            });
        }
        if entries.is_empty() || is_file_system(sector) || !plausible(&entries, disk_sectors) {
            return BootSector::None;
        }
        BootSector::Partitions(entries)
    }
}

/// The entries in use; `None` where one of them has an active flag that no MBR has.
fn entries(sector: &[u8]) -> Option<Vec<MbrPartition>> {
    let mut found = Vec::new();
    for (number, entry) in (1..=4).zip(sector.get(ENTRIES..510)?.chunks_exact(ENTRY_BYTES)) {
        let (flag, kind) = (*entry.first()?, *entry.get(4)?);
        if !matches!(flag, 0 | 0x80) {
            return None;
        }
        if kind != 0 {
            found.push(MbrPartition {
                number,
                kind,
                active: flag == 0x80,
                first_lba: le32(entry, 8)?.into(),
                sectors: le32(entry, 12)?.into(),
            });
        }
    }
    Some(found)
}

/// Whether sector 0 names a file system that keeps its own boot sector there.
fn is_file_system(sector: &[u8]) -> bool {
    let at =
        |offset: usize, magic: &[u8]| sector.get(offset..).is_some_and(|s| s.starts_with(magic));
    at(3, b"NTFS    ") || at(3, b"EXFAT   ") || at(54, b"FAT1") || at(82, b"FAT32   ")
}

/// Whether all entries lie on the disk, after sector 0, and none overlaps another.
fn plausible(entries: &[MbrPartition], disk_sectors: u64) -> bool {
    let mut sorted: Vec<_> = entries.iter().collect();
    sorted.sort_by_key(|e| e.first_lba);
    let inside = sorted
        .iter()
        .all(|e| e.first_lba > 0 && e.sectors > 0 && e.first_lba + e.sectors <= disk_sectors);
    let apart = sorted
        .iter()
        .zip(sorted.iter().skip(1))
        .all(|(a, b)| a.first_lba + a.sectors <= b.first_lba);
    inside && apart
}

/// What the protective entry of a disk that ends at `last_lba` says.
pub(super) fn protective_sectors(last_lba: u64) -> u32 {
    u32::try_from(last_lba).unwrap_or(UNTOLD)
}

impl Protective {
    /// Whether the size is one that a disk ending at `last_lba` may have. Some tools write the
    /// largest number always, which is allowed.
    pub fn fits(&self, last_lba: u64) -> bool {
        self.sectors == UNTOLD || self.sectors == protective_sectors(last_lba)
    }

    /// `sector` with the size of a disk that ends at `last_lba`. A size that says "untold" stays.
    pub fn resized(&self, sector: &[u8], last_lba: u64) -> Option<Vec<u8>> {
        let mut out = sector.to_vec();
        if self.fits(last_lba) {
            return Some(out);
        }
        let at = ENTRIES + self.slot * ENTRY_BYTES;
        // The last sector in CHS would be stale too: "not possible to represent" is true always.
        put(&mut out, at + 5, &[0xFF; 3])?;
        put(
            &mut out,
            at + 12,
            &protective_sectors(last_lba).to_le_bytes(),
        )?;
        Some(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sector(entries: &[(u8, u8, u32, u32)]) -> Vec<u8> {
        let mut sector = vec![0; 512];
        for (slot, &(flag, kind, first, sectors)) in entries.iter().enumerate() {
            let at = ENTRIES + slot * ENTRY_BYTES;
            sector[at] = flag;
            sector[at + 4] = kind;
            sector[at + 8..at + 12].copy_from_slice(&first.to_le_bytes());
            sector[at + 12..at + 16].copy_from_slice(&sectors.to_le_bytes());
        }
        sector[510..].copy_from_slice(&[0x55, 0xAA]);
        sector
    }

    #[test]
    fn partitions_are_recognised() {
        let found = BootSector::of(
            &sector(&[(0x80, 0x83, 2048, 100), (0, 0x82, 4096, 50)]),
            9999,
        );
        let BootSector::Partitions(found) = found else {
            panic!("{found:?}");
        };
        assert_eq!(found.len(), 2);
        assert_eq!(
            (found[0].first_lba, found[0].sectors, found[0].active),
            (2048, 100, true)
        );
        assert_eq!(
            (found[1].number, found[1].kind, found[1].active),
            (2, 0x82, false)
        );
    }

    #[test]
    fn implausible_entries_are_not_an_mbr() {
        for entries in [
            &[][..],
            &[(0x01, 0x83, 2048, 100)],
            &[(0, 0x83, 0, 100)],
            &[(0, 0x83, 2048, 0)],
            &[(0, 0x83, 2048, 8000)],
            &[(0, 0x83, u32::MAX, u32::MAX)],
            &[(0, 0x83, 2048, 100), (0, 0x83, 2100, 100)],
        ] {
            assert_eq!(
                BootSector::of(&sector(entries), 9999),
                BootSector::None,
                "{entries:?}"
            );
        }
        let mut unsigned = sector(&[(0, 0x83, 2048, 100)]);
        unsigned[511] = 0;
        assert_eq!(BootSector::of(&unsigned, 9999), BootSector::None);
    }

    #[test]
    fn boot_sectors_of_file_systems_are_not_an_mbr() {
        for (offset, magic) in [
            (3, &b"NTFS    "[..]),
            (3, b"EXFAT   "),
            (54, b"FAT16   "),
            (82, b"FAT32   "),
        ] {
            let mut sector = sector(&[(0, 0x0c, 2048, 100)]);
            sector[offset..offset + magic.len()].copy_from_slice(magic);
            assert_eq!(BootSector::of(&sector, 9999), BootSector::None);
        }
    }

    #[test]
    fn protective_and_hybrid() {
        let protective = BootSector::of(&sector(&[(0, 0xEE, 1, 9998)]), 9999);
        assert!(matches!(protective, BootSector::Protective(p) if p.fits(9998) && !p.fits(9999)));
        let hybrid = BootSector::of(&sector(&[(0, 0xEE, 1, 2047), (0, 0x83, 2048, 100)]), 9999);
        assert!(matches!(hybrid, BootSector::Hybrid(p) if p.len() == 2));
    }

    #[test]
    fn the_protective_size_follows_and_is_capped() {
        let old = sector(&[(0, 0xEE, 1, 9998)]);
        let BootSector::Protective(p) = BootSector::of(&old, 9999) else {
            panic!("not protective");
        };
        let new = p.resized(&old, 19_999).unwrap();
        assert_eq!(le32(&new, 458), Some(19_999));
        assert_eq!(le32(&p.resized(&old, 1 << 40).unwrap(), 458), Some(UNTOLD));
        assert_eq!(p.resized(&old, 9998).unwrap(), old);

        let untold = sector(&[(0, 0xEE, 1, UNTOLD)]);
        let BootSector::Protective(p) = BootSector::of(&untold, 9999) else {
            panic!("not protective");
        };
        assert_eq!(p.resized(&untold, 19_999).unwrap(), untold);
    }
}
