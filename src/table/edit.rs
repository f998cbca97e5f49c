//! Gives one partition another end, and the table the end of a disk that has grown.

use std::io;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::copy::{Copy, Shape};
use super::gpt::{Gpt, Raw};
use super::header::{Header, Patch, patched};
use super::partition::{Partition, set_last_lba};
use super::{Found, read};
use crate::disk::DiskRead;
use crate::units::escape;

/// What a sector write belongs to. The order is the one in which UEFI wants them written, each
/// flushed before the next, so that one whole copy exists at every moment; and from the outside to
/// the inside of an MBR.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// The backup's entries.
    BackupEntries,
    /// The backup's header.
    BackupHeader,
    /// The primary's entries.
    PrimaryEntries,
    /// The primary's header.
    PrimaryHeader,
    /// Sector 0.
    ProtectiveMbr,
    /// Sector 0 of a disk without a GPT.
    Mbr,
    /// The sector that tells of a logical partition.
    Ebr,
}

/// A run of whole sectors with their new content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SectorWrite {
    /// What it belongs to.
    pub role: Role,
    /// First byte on the disk.
    pub offset: u64,
    /// New content.
    pub data: Vec<u8>,
}

/// Why an edit cannot be made. Nothing has been written.
#[derive(Debug, Error)]
pub enum EditError {
    /// The disk failed.
    #[error("reading the partition table: {0}")]
    Io(#[from] io::Error),
    /// The slot is not in use.
    #[error("there is no partition {0}")]
    NoSuchPartition(u32),
    /// The new end would reach something else, or lie before the start.
    #[error(
        "partition {number} cannot end at LBA {new_last_lba}: it can end anywhere from LBA {min_lba} to {max_lba}"
    )]
    OutOfRange {
        /// The partition.
        number: u32,
        /// What was asked for.
        new_last_lba: u64,
        /// The smallest possible end.
        min_lba: u64,
        /// The largest possible end.
        max_lba: u64,
    },
    /// The table does not fit on a disk of this length.
    #[error("the table needs a disk of at least {needed_bytes} bytes, not {disk_len_bytes}")]
    DiskTooSmall {
        /// What was asked for.
        disk_len_bytes: u64,
        /// What the table was made for.
        needed_bytes: u64,
    },
    /// The table on the disk is no longer the one that was read.
    #[error("the partition table has changed since it was read")]
    Stale,
}

impl Gpt {
    /// The sector writes that let partition `number` end at `new_last_lba` (inclusive) on a disk
    /// of `new_disk_len_bytes`. Where that is more than the table knows, the backup moves to the
    /// new end, and the last usable sector and the protective MBR follow; the old backup is left
    /// to lie. `disk` is the disk that the table was read from, as long as before or longer.
    ///
    /// Only sectors that differ from what the disk holds are in the list, which is in the order
    /// of [`Role`]. It is empty where nothing is to be done.
    ///
    /// # Errors
    /// [`EditError`]; [`EditError::Stale`] where the disk's table is not this one any more.
    pub fn edit(
        &self,
        disk: &dyn DiskRead,
        number: u32,
        new_last_lba: u64,
        new_disk_len_bytes: u64,
    ) -> Result<Vec<SectorWrite>, EditError> {
        match read(disk)? {
            Found::Gpt(now) if now.raw == self.raw => {}
            _ => return Err(EditError::Stale),
        }
        let planned = self.planned(number, new_last_lba, new_disk_len_bytes)?;
        let sector_bytes = self.shape.sector_bytes;
        let mut writes = Vec::new();
        for (role, lba, data) in planned.pieces() {
            changed_runs(
                disk,
                role,
                lba * sector_bytes,
                data,
                sector_bytes,
                &mut writes,
            )?;
        }
        Ok(writes)
    }

    /// All bytes of the table after the edit.
    fn planned(
        &self,
        number: u32,
        new_last_lba: u64,
        disk_len_bytes: u64,
    ) -> Result<Raw, EditError> {
        let too_small = || EditError::DiskTooSmall {
            disk_len_bytes,
            needed_bytes: self.table_len_bytes(),
        };
        let part = self
            .partition(number)
            .ok_or(EditError::NoSuchPartition(number))?;
        let tail = self.tail(disk_len_bytes).ok_or_else(too_small)?;
        let max_lba = self
            .last_free_lba_after(number, disk_len_bytes)
            .ok_or_else(too_small)?;
        if !(part.first_lba..=max_lba).contains(&new_last_lba) {
            return Err(EditError::OutOfRange {
                number,
                new_last_lba,
                min_lba: part.first_lba,
                max_lba,
            });
        }
        let raw = &self.raw;
        let patch = |copy: &Copy, my_lba, alternate_lba, entries_lba| {
            let mut copy = copy.clone();
            let entry_bytes = copy.header.entry_bytes;
            set_last_lba(&mut copy.entries, entry_bytes, number, new_last_lba)?;
            let patch = Patch {
                my_lba,
                alternate_lba,
                last_usable_lba: tail.last_usable_lba,
                entries_lba,
                entries_crc: crc32fast::hash(copy.used_entries()),
            };
            copy.sector = patched(&copy.sector, &patch)?;
            copy.header = Header::parse(&copy.sector)?;
            Some(copy)
        };
        let (p, b) = (&raw.primary, &raw.backup);
        let primary_lba = p.header.my_lba;
        let planned = || {
            let mbr = match tail.backup_lba > self.alternate_lba() {
                true => raw.protective.resized(&raw.mbr, tail.backup_lba)?,
                false => raw.mbr.clone(),
            };
            Some(Raw {
                mbr,
                protective: raw.protective,
                primary: patch(p, primary_lba, tail.backup_lba, p.header.entries_lba)?,
                backup: patch(b, tail.backup_lba, primary_lba, tail.entries_lba)?,
            })
        };
        // The slot and the fields were read from these very bytes, so every patch has room.
        planned().ok_or(EditError::NoSuchPartition(number))
    }
}

impl Raw {
    /// The parts of a table, each with its first LBA, in the order of [`Role`].
    fn pieces(&self) -> [(Role, u64, &[u8]); 5] {
        let (p, b) = (&self.primary, &self.backup);
        [
            (Role::BackupEntries, b.header.entries_lba, &b.entries),
            (Role::BackupHeader, b.header.my_lba, &b.sector),
            (Role::PrimaryEntries, p.header.entries_lba, &p.entries),
            (Role::PrimaryHeader, p.header.my_lba, &p.sector),
            (Role::ProtectiveMbr, 0, &self.mbr),
        ]
    }
}

/// Adds the runs of sectors of `data` that differ from what the disk holds. What lies beyond the
/// disk's present end differs always.
pub(super) fn changed_runs(
    disk: &dyn DiskRead,
    role: Role,
    offset: u64,
    data: &[u8],
    sector_bytes: u64,
    writes: &mut Vec<SectorWrite>,
) -> io::Result<()> {
    let shape = Shape::of(disk)?;
    let mut run_end = None;
    for (index, sector) in (0u64..).zip(data.chunks(sector_bytes as usize)) {
        let at = offset + index * sector_bytes;
        let lba = at / sector_bytes;
        if lba < shape.sectors && shape.read(disk, lba, 1)? == sector {
            continue;
        }
        match writes.last_mut() {
            Some(run) if run_end == Some(at) => run.data.extend_from_slice(sector),
            _ => writes.push(SectorWrite {
                role,
                offset: at,
                data: sector.to_vec(),
            }),
        }
        run_end = Some(at + sector_bytes);
    }
    Ok(())
}

/// What `after` differs in from the edit that was planned on `before`: partition `number` ends at
/// `new_last_lba`, the table fits `after`'s disk, and not one other byte of it has changed. Empty
/// where all is as planned. Every difference is escaped for a terminal.
pub fn compare(before: &Gpt, after: &Gpt, number: u32, new_last_lba: u64) -> Vec<String> {
    if before.sector_bytes() != after.sector_bytes() {
        return vec![format!(
            "sectors of {} bytes, not {}",
            after.sector_bytes(),
            before.sector_bytes()
        )];
    }
    let planned = match before.planned(number, new_last_lba, after.disk_len_bytes()) {
        Ok(planned) => planned,
        Err(e) => return vec![e.to_string()],
    };
    let mut found = Vec::new();
    if planned.mbr != after.raw.mbr {
        found.push("sector 0 (boot code and protective MBR) is not as planned".to_string());
    }
    for (planned, is) in [
        (&planned.primary, &after.raw.primary),
        (&planned.backup, &after.raw.backup),
    ] {
        headers(planned, is, &mut found);
        entries(planned, is, &mut found);
    }
    found
}

fn headers(planned: &Copy, is: &Copy, found: &mut Vec<String>) {
    if planned.sector == is.sector {
        return;
    }
    let (a, b) = (&planned.header, &is.header);
    let before = found.len();
    let mut field = |name: &str, planned_value: String, is: String| {
        if planned_value != is {
            let side = planned.side;
            found.push(format!(
                "{side} header: {name} is {is}, planned was {planned_value}"
            ));
        }
    };
    let text = |n: u64| n.to_string();
    field(
        "disk GUID",
        a.disk_guid.to_string(),
        b.disk_guid.to_string(),
    );
    for (name, planned, is) in [
        ("LBA", a.my_lba, b.my_lba),
        ("LBA of the other copy", a.alternate_lba, b.alternate_lba),
        ("first usable LBA", a.first_usable_lba, b.first_usable_lba),
        ("last usable LBA", a.last_usable_lba, b.last_usable_lba),
        ("LBA of the entries", a.entries_lba, b.entries_lba),
        (
            "number of entries",
            a.entry_count.into(),
            b.entry_count.into(),
        ),
        (
            "size of an entry",
            a.entry_bytes.into(),
            b.entry_bytes.into(),
        ),
        ("header size", a.header_bytes.into(), b.header_bytes.into()),
    ] {
        field(name, text(planned), text(is));
    }
    // Different entries change the header's checksums, and say so themselves.
    let by_entries = a.entries_crc != b.entries_crc;
    if found.len() == before && !by_entries {
        found.push(format!("{} header: reserved bytes differ", planned.side));
    }
}

fn entries(planned: &Copy, is: &Copy, found: &mut Vec<String>) {
    if planned.entries == is.entries {
        return;
    }
    let before = found.len();
    let entry_bytes = (planned.header.entry_bytes as usize).max(1);
    let pairs = planned
        .used_entries()
        .chunks(entry_bytes)
        .zip(is.used_entries().chunks(entry_bytes));
    for (number, (planned_entry, entry)) in (1..).zip(pairs) {
        if planned_entry != entry {
            let planned_text = describe(number, planned_entry);
            let text = describe(number, entry);
            found.push(format!(
                "{} entry {number} is {text}, planned was {planned_text}",
                planned.side
            ));
        }
    }
    if found.len() == before {
        found.push(format!(
            "{} entries: their number or the bytes after them differ",
            planned.side
        ));
    }
}

fn describe(number: u32, entry: &[u8]) -> String {
    match Partition::parse(number, entry) {
        None => "not in use".into(),
        Some(p) => format!(
            "LBA {} to {}, type {}, GUID {}, attributes {:#x}, name `{}`",
            p.first_lba,
            p.last_lba,
            p.type_guid,
            p.unique_guid,
            p.attributes,
            escape(&p.name)
        ),
    }
}
