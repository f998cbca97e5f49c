//! Sector 0: a protective MBR, a hybrid one, an MBR with partitions, or none of these.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 440 | boot code, kept as found |
//! | 440 | 6 | disk signature, reserved |
//! | 446 | 4 × 16 | entries |
//! | 510 | 2 | `55 AA` |
//!
//! Boot sectors of FAT, NTFS and exFAT end in `55 AA` too, and boot loaders put that signature
//! on a bare file system. So it is a table only where no such file system names itself, where at
//! least one entry is in use, and where every entry has an active flag that an MBR can have: what
//! the kernel and `blkid` ask for.

use super::super::header::put;
use super::entry::{ENTRIES, ENTRY_BYTES, Entry, MbrPartition};

const SIGNATURE: [u8; 2] = [0x55, 0xAA];
const PROTECTIVE: u8 = 0xEE;
/// What a 32-bit size says where the disk is larger than it can tell.
const UNTOLD: u32 = u32::MAX;

/// Whether a sector carries the signature of a boot sector.
pub(super) fn is_signed(sector: &[u8]) -> bool {
    sector.get(510..512) == Some(&SIGNATURE)
}

/// The one entry of a protective MBR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Protective {
    slot: usize,
    pub first_lba: u32,
    pub sectors: u32,
}

/// What sector 0 is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum BootSector {
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
    /// Judges sector 0.
    pub fn of(sector: &[u8]) -> BootSector {
        if !is_signed(sector) || is_file_system(sector) {
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
        match entries.is_empty() {
            true => BootSector::None,
            false => BootSector::Partitions(entries),
        }
    }
}

/// Whether sector 0 would be a table with partitions on a disk of so many sectors, if only it had
/// the signature.
pub(in super::super) fn lost_signature(sector: &[u8], disk_sectors: u64) -> bool {
    let entries = entries(sector).unwrap_or_default();
    !is_signed(sector)
        && !is_file_system(sector)
        && !entries.is_empty()
        && entries.iter().all(|e| e.kind != 0)
        && plausible(&entries, disk_sectors)
}

/// The entries in use; `None` where one of them has an active flag that no MBR has. A slot with a
/// type and no sectors is not in use, as for the kernel.
fn entries(sector: &[u8]) -> Option<Vec<MbrPartition>> {
    let mut found = Vec::new();
    for (number, slot) in (1..=4).zip(0..) {
        let entry = Entry::at(sector, slot)?;
        if !matches!(entry.flag, 0 | 0x80) {
            return None;
        }
        if entry.is_used() || entry.kind == PROTECTIVE {
            found.push(MbrPartition {
                number,
                kind: entry.kind,
                active: entry.flag == 0x80,
                first_lba: entry.first.into(),
                sectors: entry.sectors.into(),
            });
        }
    }
    Some(found)
}

/// Whether sector 0 is that of a file system, or of a volume that looks like one.
fn is_file_system(sector: &[u8]) -> bool {
    let at =
        |offset: usize, magic: &[u8]| sector.get(offset..).is_some_and(|s| s.starts_with(magic));
    let named = at(3, b"NTFS    ")
        || at(3, b"EXFAT   ")
        || at(3, b"-FVE-FS-")
        || at(3, b"ReFS")
        || at(54, b"FAT1")
        || at(82, b"FAT32   ");
    named || is_nameless_fat(sector).unwrap_or(false)
}

/// Old formatters leave the name of a FAT away. A jump, and a parameter block that only a FAT has;
/// where the boot code of an MBR begins with the same jump, zeros or code follow.
fn is_nameless_fat(sector: &[u8]) -> Option<bool> {
    let byte = |at: usize| sector.get(at).copied();
    let word = |at: usize| Some(u16::from_le_bytes([byte(at)?, byte(at + 1)?]));
    let jump = byte(0)? == 0xE9 || (byte(0)? == 0xEB && byte(2)? == 0x90);
    let sector_bytes = word(11)?;
    Some(
        jump && sector_bytes.is_power_of_two()
            && (512..=4096).contains(&sector_bytes)
            && byte(13)?.is_power_of_two()
            && word(14)? > 0
            && matches!(byte(16)?, 1 | 2)
            && (byte(21)? == 0xF0 || byte(21)? >= 0xF8),
    )
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
fn protective_sectors(last_lba: u64) -> u32 {
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
    use super::super::super::header::le32;
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
        let found = BootSector::of(&sector(&[(0x80, 0x83, 2048, 100), (0, 0x82, 4096, 50)]));
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
    fn what_no_table_can_be_is_none() {
        for entries in [&[][..], &[(0x01, 0x83, 2048, 100)], &[(0, 0x83, 2048, 0)]] {
            assert_eq!(
                BootSector::of(&sector(entries)),
                BootSector::None,
                "{entries:?}"
            );
        }
    }

    #[test]
    fn a_lost_signature_shows_where_the_entries_fit() {
        let mut unsigned = sector(&[(0, 0x83, 2048, 100)]);
        unsigned[511] = 0;
        assert_eq!(BootSector::of(&unsigned), BootSector::None);
        assert!(lost_signature(&unsigned, 9999));
        assert!(!lost_signature(&unsigned, 2100), "beyond the disk");
        assert!(!lost_signature(&sector(&[(0, 0x83, 2048, 100)]), 9999));
        for entries in [
            &[][..],
            &[(0, 0x83, 0, 100)],
            &[(0, 0, 2048, 100)],
            &[(0, 0x83, u32::MAX, u32::MAX)],
            &[(0, 0x83, 2048, 100), (0, 0x83, 2100, 100)],
        ] {
            let mut unsigned = sector(entries);
            unsigned[511] = 0;
            assert!(!lost_signature(&unsigned, 9999), "{entries:?}");
        }
    }

    #[test]
    fn a_fat_without_its_name_is_not_a_table() {
        let mut fat = sector(&[(0, 0x0c, 2048, 100)]);
        fat[..24].copy_from_slice(&[
            0xEB, 0x3C, 0x90, b'm', b'k', b'd', b'o', b's', b'f', b's', 0, 0, 2, 4, 4, 0, 2, 0, 2,
            0, 0, 0xF8, 16, 0,
        ]);
        assert_eq!(BootSector::of(&fat), BootSector::None);
        // The boot code of GRUB begins so.
        let mut grub = sector(&[(0, 0x0c, 2048, 100)]);
        grub[..3].copy_from_slice(&[0xEB, 0x63, 0x90]);
        assert!(matches!(BootSector::of(&grub), BootSector::Partitions(_)));
    }

    #[test]
    fn boot_sectors_of_file_systems_are_not_an_mbr() {
        for (offset, magic) in [
            (3, &b"NTFS    "[..]),
            (3, b"EXFAT   "),
            (3, b"-FVE-FS-"),
            (54, b"FAT16   "),
            (82, b"FAT32   "),
        ] {
            let mut sector = sector(&[(0, 0x0c, 2048, 100)]);
            sector[offset..offset + magic.len()].copy_from_slice(magic);
            assert_eq!(BootSector::of(&sector), BootSector::None);
        }
    }

    #[test]
    fn protective_and_hybrid() {
        let protective = BootSector::of(&sector(&[(0, 0xEE, 1, 9998)]));
        assert!(matches!(protective, BootSector::Protective(p) if p.fits(9998) && !p.fits(9999)));
        let hybrid = BootSector::of(&sector(&[(0, 0xEE, 1, 2047), (0, 0x83, 2048, 100)]));
        assert!(matches!(hybrid, BootSector::Hybrid(p) if p.len() == 2));
    }

    #[test]
    fn the_protective_size_follows_and_is_capped() {
        let old = sector(&[(0, 0xEE, 1, 9998)]);
        let BootSector::Protective(p) = BootSector::of(&old) else {
            panic!("not protective");
        };
        let new = p.resized(&old, 19_999).unwrap();
        assert_eq!(le32(&new, 458), Some(19_999));
        assert_eq!(le32(&p.resized(&old, 1 << 40).unwrap(), 458), Some(UNTOLD));
        assert_eq!(p.resized(&old, 9998).unwrap(), old);

        let untold = sector(&[(0, 0xEE, 1, UNTOLD)]);
        let BootSector::Protective(p) = BootSector::of(&untold) else {
            panic!("not protective");
        };
        assert_eq!(p.resized(&untold, 19_999).unwrap(), untold);
    }
}
