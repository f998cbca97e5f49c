//! What a target holds of a transaction: old, new, or something that neither explains.

use std::io;

use super::patient::{Patient, is_unreadable};
use super::seal::read_padded;
use super::{Journal, JournalError, Record, Side, Step};
use crate::disk::DiskRead;
use crate::extent::{Extent, ExtentMap};
use crate::fs::{Driver, GateState, TransactionId};
use crate::units::UNIT_BYTES;

/// The smallest piece of a medium that is whole after a power cut.
const SECTOR: usize = 512;

/// What the superblock's unit holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Superblock {
    /// The gate of this transaction stands.
    Gated,
    /// The gate of another transaction stands.
    OtherGate(TransactionId),
    /// Exactly the old one.
    Old,
    /// Exactly the new one.
    New,
    /// Pieces of old, gate and new, or no superblock at all: torn by a power cut.
    Torn,
    /// It cannot be read: torn by a power cut on a drive that then gives an error; or a drive that
    /// fails, and the gate may well stand.
    Unreadable,
    /// A valid superblock that is neither old nor new: somebody has been here.
    Foreign,
}

/// A target held against a journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The superblock's unit.
    pub superblock: Superblock,
    /// Bytes of all other records that are old.
    pub old_bytes: u64,
    /// Bytes of all other records that are new.
    pub new_bytes: u64,
    /// Those that are neither.
    pub foreign: ExtentMap,
    /// Length of the target.
    pub len_bytes: u64,
    /// The backup of the partition table, and the table itself.
    pub tables: (Table, Table),
}

/// What a copy of the partition table holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Something is old.
    pub any_old: bool,
    /// Something is new.
    pub any_new: bool,
    /// Whole sectors that are neither: written by somebody else, or garbled by a power cut.
    pub strange: ExtentMap,
}

impl Standing {
    /// Reads all records from `target`.
    ///
    /// # Errors
    /// Where the target or the journal cannot be read.
    pub fn read(
        journal: &Journal,
        target: &dyn DiskRead,
        driver: &dyn Driver,
    ) -> Result<Standing, JournalError> {
        let io = JournalError::io("reading the target against");
        let mut standing = Standing {
            superblock: superblock(journal, target, driver)?,
            old_bytes: 0,
            new_bytes: 0,
            foreign: ExtentMap::new(),
            len_bytes: target.len_bytes(),
            tables: Default::default(),
        };
        let between = |r: &&Record| Step::BETWEEN.contains(&r.step);
        for (span, group) in spans(journal.records().iter().filter(between).collect()) {
            let patient = Patient::new(target);
            let bytes = read_padded(&patient, span).map_err(&io)?;
            let lost = patient.lost();
            for record in group {
                let now = &bytes[inside(span, record.extent)];
                standing.judge(journal, record, now, &lost)?;
            }
        }
        Ok(standing)
    }

    /// Holds what a record's place holds `now` against both its sides, unit by unit. What is `lost`
    /// is neither.
    fn judge(
        &mut self,
        journal: &Journal,
        record: &Record,
        now: &[u8],
        lost: &ExtentMap,
    ) -> Result<(), JournalError> {
        let before = journal.content(record, Side::Before)?;
        let after = journal.content(record, Side::After)?;
        for piece in record.extent.split(UNIT_BYTES) {
            let range = inside(record.extent, piece);
            let (now, old, new) = (&now[range.clone()], &before[range.clone()], &after[range]);
            match (now == old, now == new) {
                _ if lost.intersects(piece) => self.foreign.insert(piece),
                // A unit that the transaction does not change speaks for neither side.
                (true, true) => {}
                (true, false) => self.old_bytes += piece.len,
                (false, true) => self.new_bytes += piece.len,
                (false, false) => self.foreign.insert(piece),
            }
        }
        let table = match record.step {
            Step::BackupTable => &mut self.tables.0,
            Step::PrimaryTable => &mut self.tables.1,
            _ => return Ok(()),
        };
        for sector in record.extent.split(SECTOR as u64) {
            let range = inside(record.extent, sector);
            let (now, old, new) = (&now[range.clone()], &before[range.clone()], &after[range]);
            match (now == old, now == new) {
                // Nobody has written what nobody can read.
                _ if lost.intersects(sector) => {}
                (true, true) => {}
                (true, false) => table.any_old = true,
                (false, true) => table.any_new = true,
                (false, false) => table.strange.insert(sector),
            }
        }
        Ok(())
    }

    /// What somebody else has written to the partition table while the gate stood: see invariant 8.
    pub fn strange_tables(&self) -> ExtentMap {
        let (backup, primary) = &self.tables;
        let mut strange = ExtentMap::new();
        if primary.any_new || !primary.strange.is_empty() {
            strange = strange.union(&backup.strange);
        }
        if backup.any_old || !backup.strange.is_empty() {
            strange = strange.union(&primary.strange);
        }
        strange
    }

    /// Whether the target has one of the two lengths that the transaction knows, or at least all
    /// that it writes to.
    pub fn length_fits(&self, journal: &Journal) -> bool {
        [Side::Before, Side::After]
            .into_iter()
            .any(|side| journal.length_is(self.len_bytes, side))
    }

    /// Reads only the superblock's unit.
    pub(super) fn superblock_of(
        journal: &Journal,
        target: &dyn DiskRead,
        driver: &dyn Driver,
    ) -> Result<Superblock, JournalError> {
        superblock(journal, target, driver)
    }

    /// Every record but the superblock's is old.
    pub fn rest_is_old(&self) -> bool {
        self.new_bytes == 0 && self.foreign.is_empty()
    }

    /// Every record but the superblock's is new.
    pub fn rest_is_new(&self) -> bool {
        self.old_bytes == 0 && self.foreign.is_empty()
    }
}

/// The one record of this step; [`Journal::open`] has made sure that there is one.
pub(super) fn the(journal: &Journal, step: Step) -> Result<&Record, JournalError> {
    let found = journal.records().iter().find(|r| r.step == step);
    found.ok_or_else(|| JournalError::Damaged("a record is missing".into()))
}

fn superblock(
    journal: &Journal,
    target: &dyn DiskRead,
    driver: &dyn Driver,
) -> Result<Superblock, JournalError> {
    let (gate, last) = (the(journal, Step::Gate)?, the(journal, Step::Superblock)?);
    let patient = Patient::new(target);
    let now = read_padded(&patient, gate.extent)
        .map_err(JournalError::io("reading the target against"))?;
    let all_read = patient.lost().is_empty();
    let old = journal.content(last, Side::Before)?;
    let new = journal.content(last, Side::After)?;
    let gated = journal.content(gate, Side::After)?;
    let place = inside(gate.extent, journal.superblock());
    match driver.gate(&now[place.clone()]) {
        GateState::Closed(id) if id == journal.id() => return Ok(Superblock::Gated),
        GateState::Closed(id) => return Ok(Superblock::OtherGate(id)),
        _ if all_read && now == old => return Ok(Superblock::Old),
        _ if all_read && now == new => return Ok(Superblock::New),
        GateState::Invalid if !all_read => return Ok(Superblock::Unreadable),
        GateState::Invalid => return Ok(Superblock::Torn),
        GateState::Open => {}
    }
    // Without a checksum a torn superblock can look valid. Whoever changes a superblock writes its
    // first sector (the time of the write is there), so a known first sector says that the rest
    // was torn by us.
    let first = place.start..place.start + SECTOR;
    let known = [&old, &new, &gated]
        .into_iter()
        .any(|bytes| now[first.clone()] == bytes[first.clone()]);
    Ok(if known {
        Superblock::Torn
    } else {
        Superblock::Foreign
    })
}

/// Records in order of place, in groups that are read together: a request for each record of
/// 4096 bytes would take 15 seconds a gigabyte past the page cache.
pub(super) fn spans(mut records: Vec<&Record>) -> Vec<(Extent, Vec<&Record>)> {
    const TOGETHER: u64 = 1 << 20;
    const GAP: u64 = 64 << 10;
    records.sort_by_key(|r| r.extent.start);
    let mut groups: Vec<(Extent, Vec<&Record>)> = Vec::new();
    for record in records {
        match groups.last_mut() {
            Some((span, group))
                if record.extent.start.saturating_sub(span.end()) <= GAP
                    && record.extent.end() - span.start <= TOGETHER =>
            {
                *span = Extent::from_range(span.start, record.extent.end());
                group.push(record);
            }
            _ => groups.push((record.extent, vec![record])),
        }
    }
    groups
}

/// Where `inner` lies in the bytes of `outer`.
pub(super) fn inside(outer: Extent, inner: Extent) -> std::ops::Range<usize> {
    let start = (inner.start - outer.start) as usize;
    start..start + inner.len as usize
}

/// A disk on which the records of a journal read as one of their sides, whatever is there.
pub(super) struct Patched<'a> {
    disk: &'a dyn DiskRead,
    journal: &'a Journal,
    side: Side,
    /// Records in order of place.
    records: Vec<&'a Record>,
}

impl<'a> Patched<'a> {
    /// `disk` with the records that `which` chooses showing `side`.
    pub fn new(
        disk: &'a dyn DiskRead,
        journal: &'a Journal,
        side: Side,
        which: impl Fn(&Record) -> bool,
    ) -> Patched<'a> {
        let mut records: Vec<&Record> = journal
            .records()
            .iter()
            .filter(|r| r.step != Step::Gate && which(r))
            .collect();
        records.sort_by_key(|r| r.extent.start);
        Patched {
            disk,
            journal,
            side,
            records,
        }
    }
}

impl DiskRead for Patched<'_> {
    fn geometry(&self) -> crate::disk::Geometry {
        self.disk.geometry()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let wanted = Extent::new(offset, buf.len() as u64);
        let read = self.disk.read_at(offset, buf);
        let first = self.records.partition_point(|r| r.extent.end() <= offset);
        let touched = || {
            let rest = self.records[first..].iter();
            rest.take_while(|r| r.extent.start < wanted.end())
        };
        match read {
            // What the records cover is not read at all where it cannot be.
            Err(e) if is_unreadable(&e) => {
                let covered: ExtentMap = touched().map(|r| r.extent).collect();
                for gap in covered.gaps(wanted) {
                    let part = &mut buf[inside(wanted, gap)];
                    self.disk.read_at(gap.start, part)?;
                }
            }
            other => other?,
        }
        for record in touched() {
            if let Some(part) = record.extent.intersection(wanted) {
                let content = self
                    .journal
                    .content(record, self.side)
                    .map_err(io::Error::other)?;
                buf[inside(wanted, part)].copy_from_slice(&content[inside(record.extent, part)]);
            }
        }
        Ok(())
    }
}
