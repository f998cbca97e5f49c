//! Writing the target: forward to what the rehearsal made, or backward to what was there.

use std::io;

use super::patient::Patient;
use super::seal::read_padded;
use super::standing::{Patched, Standing, Superblock, inside, spans, the};
use super::{Closed, Journal, JournalError, Media, Record, Side, Step, View};
use crate::disk::{Disk, DiskRead, Latch};
use crate::extent::{Extent, ExtentMap};
use crate::fs::Driver;
use crate::report::{Deaf, Report, Unit};
use crate::snapshot::{Manifest, phase};

/// What became of a commit.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The target is wholly new, read back and compared.
    Applied,
    /// Something failed; the target is wholly old, read back and compared.
    RolledBack {
        /// What failed.
        cause: String,
    },
    /// The target is wholly new, read back and compared, and its gate is open; but the journal
    /// could not be closed, and is hot.
    NotClosed {
        /// Why.
        cause: String,
    },
    /// Something failed, and then the rollback did. The journal stays hot.
    Stuck {
        /// What failed first.
        cause: String,
        /// What failed then.
        rollback: String,
        /// Where the target is known to differ from what was there before.
        differing: Vec<Extent>,
    },
}

/// Why a direction was not completed.
pub(super) struct Halt {
    pub what: String,
    pub differing: Vec<Extent>,
}

impl From<JournalError> for Halt {
    fn from(e: JournalError) -> Halt {
        Halt {
            what: e.to_string(),
            differing: Vec::new(),
        }
    }
}

fn halt(doing: &'static str) -> impl Fn(io::Error) -> Halt {
    move |e| Halt {
        what: format!("{doing}: {e}"),
        differing: Vec::new(),
    }
}

/// What a direction is proven by.
#[derive(Clone, Copy)]
pub struct Proof<'a> {
    /// The manifest of everything in use before. `None`: only the records are compared.
    pub before: Option<&'a Manifest>,
    /// The manifest of everything in use after. `None`: only the records are compared.
    pub after: Option<&'a Manifest>,
    /// The manifest of everything in use before, with which all but the records is compared where no
    /// gate stands. `None`: it is missing, and without a gate nothing is written.
    pub snapshot: Option<&'a Manifest>,
    /// What of the snapshot cannot be read is left out of that comparison, and named.
    pub pass_over: bool,
}

impl<'a> Work<'a> {
    /// The same, but nobody asks to stop any more: a direction that was begun is ended.
    fn unstoppable<'b>(&'b self, report: &'b Deaf<'b>) -> Work<'b>
    where
        'a: 'b,
    {
        Work {
            media: self.media,
            driver: self.driver,
            proof: self.proof,
            now: self.now,
            report,
        }
    }
}

/// All that a direction works with.
pub struct Work<'a> {
    /// The target.
    pub media: &'a dyn Media,
    /// The driver of its file system.
    pub driver: &'a dyn Driver,
    /// What it is compared with.
    pub proof: Proof<'a>,
    /// Seconds since 1970, for the closing record.
    pub now: u64,
    /// Where progress goes.
    pub report: &'a dyn Report,
}

impl Journal {
    /// Applies the transaction to the target, verifies it, and closes the journal. Whatever fails
    /// is rolled back, and that is verified and closed too.
    pub fn commit(&self, work: &Work<'_>) -> Outcome {
        let failed = match self.forward(work) {
            Ok(()) => match self.end(work, Closed::Applied) {
                Ok(()) => return Outcome::Applied,
                // Only the closing record is missing; recovery will find all records new and
                // write it.
                Err(e) => {
                    return Outcome::NotClosed {
                        cause: e.to_string(),
                    };
                }
            },
            Err(halt) => halt,
        };
        work.report
            .notice(&format!("rolling back: {}", failed.what));
        let back = self.backward(work);
        match back.and_then(|()| Ok(self.end(work, Closed::RolledBack)?)) {
            Ok(()) => Outcome::RolledBack { cause: failed.what },
            Err(again) => Outcome::Stuck {
                cause: failed.what,
                rollback: again.what,
                differing: again.differing,
            },
        }
    }

    /// Tells the kernel, then closes.
    pub(super) fn end(&self, work: &Work<'_>, how: Closed) -> Result<(), JournalError> {
        let side = if how == Closed::Applied {
            Side::After
        } else {
            Side::Before
        };
        if let Err(problem) = work.media.announce(side) {
            work.report.notice(&problem);
        }
        self.close(how, work.now)
    }

    /// Takes the target to the new side. From any state in which the gate stands, or in which
    /// everything is old or everything is new.
    pub(super) fn forward(&self, work: &Work<'_>) -> Result<(), Halt> {
        let deaf = Deaf(work.report);
        let work = &work.unstoppable(&deaf);
        let all = self.records().iter().map(|r| r.extent).collect();
        work.media
            .reserve(&all)
            .map_err(halt("reserving space in the image"))?;
        let disk = self.gated_writer(work)?;
        let (_, new_bytes) = self.lengths();
        if self.changes_length() && disk.len_bytes() != new_bytes {
            // No barrier: the gate stands, and the steps that write behind the old end flush it.
            disk.set_len(new_bytes)
                .map_err(halt("extending the image"))?;
        }
        work.report
            .phase("applying", Some(self.delta_bytes()), Unit::Bytes);
        let mut done = 0;
        for step in Step::BETWEEN {
            self.write_step(&disk, step, Side::After, &mut done, work)?;
        }
        self.prove_and_open(&disk, work, Side::After)
    }

    /// Takes the target to the old side, from any such state.
    pub(super) fn backward(&self, work: &Work<'_>) -> Result<(), Halt> {
        let deaf = Deaf(work.report);
        let work = &work.unstoppable(&deaf);
        if self.is_untouched(work) {
            return Ok(());
        }
        let disk = self.gated_writer(work)?;
        work.report
            .phase("rolling back", Some(self.delta_bytes()), Unit::Bytes);
        let mut done = 0;
        for step in Step::BETWEEN.into_iter().rev() {
            self.write_step(&disk, step, Side::Before, &mut done, work)?;
        }
        let (old_bytes, _) = self.lengths();
        if self.changes_length() && disk.len_bytes() != old_bytes {
            disk.set_len(old_bytes)
                .map_err(halt("restoring the image's length"))?;
            // Barrier: the old length is part of what was there before, and nothing may be
            // opened to others until all of that is durable.
            disk.flush().map_err(halt("flushing the image's length"))?;
        }
        self.prove_and_open(&disk, work, Side::Before)
    }

    /// Whether the medium never took anything: then a device that refuses every write does not
    /// stand in the way of calling it rolled back.
    fn is_untouched(&self, work: &Work<'_>) -> bool {
        let Ok(views) = work.media.views() else {
            return false;
        };
        let Some(view) = views.first() else {
            return false;
        };
        // The superblock first: where the gate stands, there is no need to read all the rest.
        let superblock = Standing::superblock_of(self, &*view.reader, work.driver);
        superblock.is_ok_and(|s| s == Superblock::Old)
            && self.prove(&views, work, Side::Before).is_ok()
    }

    /// A fresh writer, with the gate standing.
    fn gated_writer(&self, work: &Work<'_>) -> Result<Latch<Box<dyn Disk>>, Halt> {
        let disk = Latch::new(
            work.media
                .writer()
                .map_err(halt("opening the target for writing"))?,
        );
        let gate = the(self, Step::Gate)?;
        let views = work.media.views().map_err(halt("reading the target"))?;
        let view = whole(&views)?;
        let standing = Standing::superblock_of(self, &*view.reader, work.driver)?;
        if let Superblock::OtherGate(id) = standing {
            return Err(Halt {
                what: format!("the gate of transaction {id} stands on the target"),
                differing: Vec::new(),
            });
        }
        // Invariant 3, where nobody can tell whether the gate stands: a mixture may be behind it.
        if standing == Superblock::Unreadable {
            let all = Standing::read(self, &*view.reader, work.driver)?;
            if !all.rest_is_old() && !all.rest_is_new() {
                return Err(Halt {
                    what: "the superblock cannot be read, and the gate may stand there".into(),
                    differing: vec![gate.extent],
                });
            }
        }
        // Invariant 3: a gate that stands is left alone.
        if standing != Superblock::Gated {
            let content = self.content(gate, Side::After)?;
            disk.write_at(gate.extent.start, &content)
                .map_err(halt("closing the gate"))?;
            // Barrier: nobody may find a mixture behind an open superblock.
            disk.flush().map_err(halt("flushing the gate"))?;
            read_back(work, gate.extent, &content, "reading back the gate")?;
        }
        Ok(disk)
    }

    /// Writes one side of all records of a step, and makes them durable.
    fn write_step(
        &self,
        disk: &dyn Disk,
        step: Step,
        side: Side,
        done: &mut u64,
        work: &Work<'_>,
    ) -> Result<(), Halt> {
        let mut records: Vec<&Record> = self.records().iter().filter(|r| r.step == step).collect();
        let is_table = matches!(step, Step::BackupTable | Step::PrimaryTable);
        if is_table && !records.is_empty() {
            // Invariant 8: a copy of the table that is right already is not put at risk. Writing it
            // again could tear it while the other copy is torn, after a change of direction.
            let views = work.media.views().map_err(halt("reading the target"))?;
            let wrong = self.differing(whole(&views)?, records.clone(), side)?;
            records.retain(|r| wrong.intersects(r.extent));
        }
        let mut any = false;
        for record in &records {
            let mut content = self.content(record, side)?;
            if self.changes_length() {
                // Undoing an image's extension: what lies beyond the old end goes with the length.
                let room = disk.len_bytes().saturating_sub(record.extent.start);
                content.truncate(room.min(record.extent.len) as usize);
            }
            if !content.is_empty() {
                disk.write_at(record.extent.start, &content)
                    .map_err(halt("writing to the target"))?;
            }
            any = true;
            *done += record.extent.len;
            work.report.progress(*done);
        }
        if any {
            // Barrier: one copy of the partition table is whole at every instant, and nothing is
            // read back, nor the gate opened, before all of it is durable.
            disk.flush().map_err(halt("flushing the target"))?;
        }
        if any && is_table {
            // Invariant 8: the other copy is put at risk only when this one is right, also where a
            // write was acknowledged and lost.
            let views = work.media.views().map_err(halt("reading back the table"))?;
            let view = whole(&views)?;
            records.retain(|r| r.extent.end() <= disk.len_bytes());
            let left = self.differing(view, records, side)?;
            if !left.is_empty() {
                return Err(mismatch(view, &left));
            }
        }
        Ok(())
    }

    /// Reads everything back, and only then writes the real superblock.
    fn prove_and_open(&self, disk: &dyn Disk, work: &Work<'_>, side: Side) -> Result<(), Halt> {
        let views = work
            .media
            .views()
            .map_err(halt("reading back the target"))?;
        self.prove(&views, work, side)?;
        drop(views);
        let last = the(self, Step::Superblock)?;
        let content = self.content(last, side)?;
        disk.write_at(last.extent.start, &content)
            .map_err(halt("writing the superblock"))?;
        // Barrier: the transaction is called done, and closed, only when this is durable.
        disk.flush().map_err(halt("flushing the superblock"))?;
        read_back(work, last.extent, &content, "reading back the superblock")
    }

    /// Compares every record but the superblock's in each view, and everything in use in the
    /// first. What the manifest covers needs no second comparison there.
    fn prove(&self, views: &[View], work: &Work<'_>, side: Side) -> Result<(), Halt> {
        let manifest = match side {
            Side::Before => work.proof.before,
            Side::After => work.proof.after,
        };
        // What lies behind the end of a device that has shrunk is read by nobody, and so proven by
        // nobody.
        let len_bytes = whole(views)?.reader.len_bytes();
        if !self.length_is(len_bytes, side) {
            let what = format!("the target has {len_bytes} bytes, and these are not all of it");
            return Err(Halt {
                what,
                differing: Vec::new(),
            });
        }
        for (index, view) in views.iter().enumerate() {
            let covered = manifest.filter(|_| index == 0).map(|m| &m.extents);
            let left = |r: &&Record| {
                Step::BETWEEN.contains(&r.step) && !covered.is_some_and(|c| c.contains(r.extent))
            };
            let records: Vec<&Record> = self.records().iter().filter(left).collect();
            let wrong = self.differing(view, records, side)?;
            if !wrong.is_empty() {
                return Err(mismatch(view, &wrong));
            }
        }
        if let Some(manifest) = manifest {
            let view = whole(views)?;
            let patched = Patched::new(&*view.reader, self, side, |r| r.step == Step::Superblock);
            phase(work.report, "reading back", &manifest.extents);
            let patient = Patient::new(&patched);
            let wrong = manifest
                .compare(&patient, work.report)
                .map_err(halt("reading back the target"))?;
            let lost = manifest.overlap(&patient.lost());
            if !lost.is_empty() {
                return Err(unreadable(view, &lost));
            }
            if !wrong.is_empty() {
                return Err(mismatch(view, &wrong.into_iter().collect()));
            }
        }
        Ok(())
    }

    /// Which of `records` a view does not show as `side`.
    fn differing(&self, view: &View, records: Vec<&Record>, side: Side) -> Result<ExtentMap, Halt> {
        let mut wrong = ExtentMap::new();
        for (span, group) in spans(records) {
            let Some(part) = view.extent.intersection(span) else {
                continue;
            };
            let shown = Extent::new(part.start - view.extent.start, part.len);
            let patient = Patient::new(&*view.reader);
            let bytes = read_padded(&patient, shown).map_err(halt("reading back the target"))?;
            let lost = patient.lost();
            for record in group {
                let Some(seen) = part.intersection(record.extent) else {
                    continue;
                };
                let content = self.content(record, side)?;
                let place = Extent::new(seen.start - view.extent.start, seen.len);
                if lost.intersects(place)
                    || bytes[inside(part, seen)] != content[inside(record.extent, seen)]
                {
                    wrong.insert(record.extent);
                }
            }
        }
        Ok(wrong)
    }
}

fn whole(views: &[View]) -> Result<&View, Halt> {
    views.first().ok_or_else(|| Halt {
        what: "the target cannot be read".into(),
        differing: Vec::new(),
    })
}

/// Whether every view shows `content` at `extent`, past every cache.
fn read_back(
    work: &Work<'_>,
    extent: Extent,
    content: &[u8],
    doing: &'static str,
) -> Result<(), Halt> {
    for view in work.media.views().map_err(halt(doing))? {
        if differs(&view, extent, content).map_err(halt(doing))? {
            return Err(mismatch(&view, &[extent].into_iter().collect()));
        }
    }
    Ok(())
}

/// Whether the part of `extent` that `view` shows holds something else than `content`.
fn differs(view: &View, extent: Extent, content: &[u8]) -> io::Result<bool> {
    let Some(part) = view.extent.intersection(extent) else {
        return Ok(false);
    };
    let shown = Extent::new(part.start - view.extent.start, part.len);
    let from = (part.start - extent.start) as usize;
    Ok(read_padded(&view.reader, shown)? != content[from..from + part.len as usize])
}

fn unreadable(view: &View, lost: &ExtentMap) -> Halt {
    let first = lost.iter().next().map(|e| e.to_string());
    Halt {
        what: format!(
            "{} bytes in use on {} cannot be read, the first at {}; where the rest is right, \
             `holdfast recover --verify changed` does without them",
            lost.total_bytes(),
            view.name,
            first.unwrap_or_default()
        ),
        differing: lost.iter().collect(),
    }
}

fn mismatch(view: &View, wrong: &ExtentMap) -> Halt {
    let first = wrong
        .iter()
        .next()
        .map(|e| e.to_string())
        .unwrap_or_default();
    Halt {
        what: format!(
            "{} holds something else than was written: {} bytes differ, the first at {first}",
            view.name,
            wrong.total_bytes()
        ),
        differing: wrong.iter().collect(),
    }
}
