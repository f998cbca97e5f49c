//! Gives one partition another end, and what it lies in too where it outgrows that.

use super::super::contract::Table;
use super::super::edit::changed_runs;
use super::super::{EditError, Found, Role, SectorWrite, read};
use super::Mbr;
use super::entry::{ENTRIES, ENTRY_BYTES, Entry, MbrPartition, set_last_lba};
use crate::disk::DiskRead;

/// See [`Table::edit`].
pub(super) fn edit(
    mbr: &Mbr,
    disk: &dyn DiskRead,
    number: u32,
    new_last_lba: u64,
    new_disk_len_bytes: u64,
) -> Result<Vec<SectorWrite>, EditError> {
    match read(disk)? {
        Found::Mbr(now) if now.sectors() == mbr.sectors() => {}
        _ => return Err(EditError::Stale),
    }
    let sector_bytes = mbr.shape.sector_bytes;
    let mut writes = Vec::new();
    for (lba, sector) in planned(mbr, number, new_last_lba, new_disk_len_bytes)? {
        let role = if lba == 0 { Role::Mbr } else { Role::Ebr };
        let offset = lba * sector_bytes;
        changed_runs(disk, role, offset, &sector, sector_bytes, &mut writes)?;
    }
    Ok(writes)
}

impl Mbr {
    /// All sectors of the table: sector 0, and the chain in its order.
    fn sectors(&self) -> Vec<(u64, Vec<u8>)> {
        let ebrs = self.chain.ebrs().iter();
        let ebrs = ebrs.map(|e| (e.lba, e.sector.clone()));
        [(0, self.sector.clone())].into_iter().chain(ebrs).collect()
    }
}

/// All sectors of the table after the edit.
fn planned(
    mbr: &Mbr,
    number: u32,
    new_last_lba: u64,
    disk_len_bytes: u64,
) -> Result<Vec<(u64, Vec<u8>)>, EditError> {
    let no_such = || EditError::NoSuchPartition(number);
    let part = mbr.partition(number).filter(|p| !p.is_extended());
    let part = part.ok_or_else(no_such)?;
    let room = mbr.room(number, disk_len_bytes);
    let furthest = mbr.partitions.iter().map(MbrPartition::last_lba).max();
    let room = room.ok_or(EditError::DiskTooSmall {
        disk_len_bytes,
        needed_bytes: (furthest.unwrap_or(0) + 1) * mbr.shape.sector_bytes,
    })?;
    if !(part.first_lba..=room.last_lba).contains(&new_last_lba) {
        return Err(EditError::OutOfRange {
            number,
            new_last_lba,
            min_lba: part.first_lba,
            max_lba: room.last_lba,
        });
    }
    let mut sectors = mbr.sectors();
    // The slots were read from these very bytes, so every change has room.
    change(mbr, &mut sectors, part, new_last_lba).ok_or_else(no_such)?;
    Ok(sectors)
}

fn change(
    mbr: &Mbr,
    sectors: &mut [(u64, Vec<u8>)],
    part: &MbrPartition,
    new_last_lba: u64,
) -> Option<()> {
    let primary_slot = |p: &MbrPartition| usize::try_from(p.number.checked_sub(1)?).ok();
    let Some(place) = mbr.chain.place(part.number) else {
        let (_, sector) = sectors.first_mut()?;
        return set_last_lba(sector, primary_slot(part)?, 0, new_last_lba);
    };
    let extended = mbr.extended()?;
    if extended.last_lba() < new_last_lba {
        let (_, sector) = sectors.first_mut()?;
        set_last_lba(sector, primary_slot(extended)?, 0, new_last_lba)?;
    }
    if let Some(slot) = place.link {
        let (_, sector) = sectors.get_mut(place.ebr)?;
        let link = Entry::at(sector, slot)?;
        let end = extended.first_lba + u64::from(link.first) + u64::from(link.sectors);
        if end <= new_last_lba {
            set_last_lba(sector, slot, extended.first_lba, new_last_lba)?;
        }
    }
    let (lba, sector) = sectors.get_mut(place.ebr + 1)?;
    set_last_lba(sector, place.slot, *lba, new_last_lba)
}

/// What `after` differs in from the edit that was planned on `before`; empty where all is as
/// planned.
pub(super) fn compare(before: &Mbr, after: &Mbr, number: u32, new_last_lba: u64) -> Vec<String> {
    if before.shape.sector_bytes != after.shape.sector_bytes {
        return vec![format!(
            "sectors of {} bytes, not {}",
            after.shape.sector_bytes, before.shape.sector_bytes
        )];
    }
    let disk_len_bytes = after.shape.sectors * after.shape.sector_bytes;
    let planned = match planned(before, number, new_last_lba, disk_len_bytes) {
        Ok(planned) => planned,
        Err(e) => return vec![e.to_string()],
    };
    let is = after.sectors();
    let places = |sectors: &[(u64, Vec<u8>)]| sectors.iter().map(|(lba, _)| *lba).collect();
    let (planned_places, places): (Vec<u64>, Vec<u64>) = (places(&planned), places(&is));
    if planned_places != places {
        return vec![format!(
            "the EBRs are at LBA {:?}, planned was {:?}",
            &places[1..],
            &planned_places[1..]
        )];
    }
    planned
        .iter()
        .zip(&is)
        .filter(|((_, planned), (_, is))| planned != is)
        .flat_map(|((lba, planned), (_, is))| sector_differences(*lba, planned, is))
        .collect()
}

fn sector_differences(lba: u64, planned: &[u8], is: &[u8]) -> Vec<String> {
    let what = match lba {
        0 => "sector 0".into(),
        lba => format!("the EBR at LBA {lba}"),
    };
    let mut found = Vec::new();
    for slot in 0..4 {
        let at = ENTRIES + slot * ENTRY_BYTES;
        let bytes = |sector: &[u8]| sector.get(at..at + ENTRY_BYTES).map(<[u8]>::to_vec);
        if bytes(planned) == bytes(is) {
            continue;
        }
        found.push(format!(
            "entry {} of {what} is {}, planned was {}",
            slot + 1,
            describe(is, slot),
            describe(planned, slot)
        ));
    }
    if found.is_empty() {
        found.push(format!("{what} has other bytes outside its entries"));
    }
    found
}

fn describe(sector: &[u8], slot: usize) -> String {
    match Entry::at(sector, slot) {
        Some(e) if e.is_used() => format!(
            "{} sectors from {} on, type {:#04x}, flag {:#04x}",
            e.sectors, e.first, e.kind, e.flag
        ),
        _ => "not in use".into(),
    }
}
