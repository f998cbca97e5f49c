//! Grow and shrink: hold, snapshot, rehearse, seal, commit.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, anyhow};
use serde::Serialize;

use super::dossier::{Dossier, Hands};
use super::look::{Asked, Look};
use super::media::HostMedia;
use super::planning::{
    Options, Planned, fingerprint, plan_at_rate, probe_rate, scratch, unreadable,
};
use super::rehearse::{Bench, Rehearsed, Stage};
use super::stop::Stop;
use super::store::{Summary, new_id, now};
use crate::disk::survey::HostError;
use crate::disk::{Dir, DiskRead, Hold, HostDir, read_vec};
use crate::extent::{Extent, ExtentMap};
use crate::fs::TransactionId;
use crate::journal::{Draft, JournalError, Outcome};
use crate::plan::{Level, Plan, Verdict};
use crate::report::{Beside, Report, Unit, checkpoint};
use crate::snapshot::{CHUNK_BYTES, Manifest, phase};
use crate::units::{round_down, round_up};

/// What a change came to.
#[derive(Clone, Debug, Serialize)]
pub struct Done {
    /// The transaction.
    pub id: TransactionId,
    /// What was to be done.
    pub plan: Plan,
    /// How the commit ended.
    pub ending: Ending,
    /// Bytes that differed and were written.
    pub delta_bytes: u64,
    /// Bytes of the journal.
    pub journal_bytes: u64,
    /// Bytes that were read back and compared.
    pub verified_bytes: u64,
    /// Whether they had to be read through the page cache.
    pub cached: bool,
    /// Seconds from holding the target to releasing it.
    pub seconds: f64,
    /// Of these, the seconds in which the target was being written and read back.
    pub commit_seconds: f64,
}

/// How a commit ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "ending")]
pub enum Ending {
    /// Done and verified.
    Applied,
    /// As before, and verified.
    RolledBack {
        /// What failed.
        cause: String,
    },
    /// Done and verified, but the journal could not be closed.
    NotClosed {
        /// Why.
        cause: String,
    },
    /// Recovery is needed.
    Stuck {
        /// What failed first.
        cause: String,
        /// What failed then.
        rollback: String,
        /// Where the target is known to be wrong.
        differing: Vec<Extent>,
    },
}

/// Holds the target, looks again, and makes sure that `plan` still fits.
///
/// # Errors
/// [`Stop::Refused`] with `stale-plan` where it does not.
fn hold_and_confirm(
    asked: &Asked,
    plan: &Plan,
    options: &Options<'_>,
) -> Result<(Hold, Planned, Plan), Stop> {
    // How long it will take has been said; there is no need to measure that again.
    let again = plan_at_rate(asked, &plan.request, options, |_, _| None)?;
    let hold = match again.look.hold() {
        Ok(hold) => hold,
        Err(HostError::Refused(refusal)) => return Err(Stop::Refused(vec![refusal])),
        Err(HostError::Io(e)) => {
            return Err(Stop::Failed(anyhow!(e).context("holding the target")));
        }
    };
    let mut fresh = match &again.verdict {
        Verdict::Plan(fresh) => (**fresh).clone(),
        Verdict::Refused(refusals) => return Err(Stop::Refused(refusals.clone())),
        Verdict::NoChange(_) => return Err(stale("it has been carried out already")),
    };
    // Held now: what is read from here on stays as it is.
    let Some(partition) = again.look.partition else {
        return Err(stale("the partition is gone"));
    };
    if fingerprint(&again.look, partition)? != plan.fingerprint
        || fresh.fingerprint != plan.fingerprint
    {
        return Err(stale("the target has changed since the plan was made"));
    }
    let same = fresh.partition == plan.partition
        && fresh.disk == plan.disk
        && fresh.file_system_size == plan.file_system_size;
    if !same {
        return Err(stale("the plan would come out differently now"));
    }
    fresh.estimate.seconds = plan.estimate.seconds;
    Ok((hold, again, fresh))
}

fn stale(why: &str) -> Stop {
    Stop::refused(
        "stale-plan",
        format!("the plan does not fit any more: {why}"),
        "make a new plan",
    )
}

/// Carries out a plan.
///
/// # Errors
/// [`Stop`]: the target is untouched.
pub fn carry_out(asked: &Asked, plan: &Plan, options: &Options<'_>) -> Result<Done, Stop> {
    let began = Instant::now();
    let (hold, planned, plan) = hold_and_confirm(asked, plan, options)?;
    let summary = Summary {
        id: new_id()?,
        began: now(),
        plan: plan.clone(),
    };
    let dir = options.store.create(&summary)?;
    let attempt = Attempt {
        planned: &planned,
        plan: &plan,
        id: summary.id,
        dir: &dir,
        options,
    };
    let result = attempt.run(began);
    if result.is_err() {
        // The target is untouched. A commit record that was written, and whose flush failed, would
        // look hot.
        options.store.forget_journal(summary.id);
    }
    drop(hold);
    if matches!(result, Err(Stop::Refused(_) | Stop::Interrupted)) {
        // Nothing happened that anybody would want to look at later. Our own lock goes first.
        drop(dir);
        let _ = options.store.remove(summary.id);
    }
    result.map_err(|stop| match stop {
        // What the tools said lies there, and stays until it is pruned.
        Stop::Rejected { refusals, .. } => Stop::Rejected {
            id: Some(summary.id),
            refusals,
        },
        stop => stop,
    })
}

/// Rehearses a plan and throws the result away.
///
/// # Errors
/// [`Stop`].
pub fn rehearse(asked: &Asked, plan: &Plan, options: &Options<'_>) -> Result<Plan, Stop> {
    let began = Instant::now();
    let (_hold, planned, mut plan) = hold_and_confirm(asked, plan, options)?;
    let scratch = scratch(options.store)?;
    let rehearsed = stage(&planned, &plan, scratch.path(), options)?.rehearse()?;
    let delta_bytes = rehearsed.delta.total_bytes();
    plan.set_orphans(rehearsed.orphans);
    plan.estimate.delta_bytes = delta_bytes;
    plan.estimate.state_bytes = 3 * delta_bytes + (1 << 20);
    plan.estimate.measured = true;
    let read = plan.estimate.seconds.map(|_| planned.used.total_bytes());
    let rate = probe_rate(&planned.look, &planned.used);
    let rest = read.zip(rate).map_or(0, |(bytes, rate)| {
        (2 * bytes + 4 * delta_bytes) / rate.max(1)
    });
    plan.estimate.seconds = Some(began.elapsed().as_secs() + 1 + rest);
    Ok(plan)
}

fn stage<'a>(
    planned: &'a Planned,
    plan: &'a Plan,
    dir: &'a Path,
    options: &'a Options<'a>,
) -> Result<Stage<'a>, Stop> {
    let volume = planned
        .look
        .file_system
        .as_ref()
        .ok_or_else(|| stale("the file system is gone"))?;
    let bench = Bench {
        look: &planned.look,
        used: &planned.used,
        dir,
        how: options.how,
        patience: options.patience,
        report: options.report,
    };
    Ok(Stage {
        bench,
        observed: &volume.observed,
        driver: volume.driver,
        plan,
    })
}

struct Attempt<'a> {
    planned: &'a Planned,
    plan: &'a Plan,
    id: TransactionId,
    dir: &'a HostDir,
    options: &'a Options<'a>,
}

impl Attempt<'_> {
    fn run(&self, began: Instant) -> Result<Done, Stop> {
        let report = self.options.report;
        let media = HostMedia::of(&self.planned.look, Some(self.plan));
        // A dirty page of the partition's own node would overwrite what we write through the disk.
        media
            .settle()
            .context("dropping the page cache of the target")?;
        let identity =
            serde_json::to_string(&self.plan.identity).context("describing the target")?;
        let busy = self.busy_neighbours()?;
        let (current, new) = (self.plan.partition_before(), self.plan.partition_after());
        let used = self.covered(&self.planned.used, self.plan.disk.current, current, &busy);
        let (rehearsed, before) = self.rehearse_beside_snapshot(&media, &used, &identity)?;
        let used = self.covered(&rehearsed.used, self.plan.disk.new, new, &busy);
        let after = before
            .updated(&*rehearsed.after, &used, &rehearsed.delta, report)
            .context("describing the result")?;
        let verified_bytes = after.extents.total_bytes();
        checkpoint(report)?;
        self.tell_the_way_back();
        let dossier = self.seal(&media, &rehearsed, &identity, (before, after))?;
        let committing = Instant::now();
        let outcome = dossier.commit(&Hands {
            media: &media,
            driver: self.driver()?,
            report,
            now: now(),
            whole: self.plan.request.level != Level::Changed,
        });
        let mut plan = self.plan.clone();
        plan.set_orphans(rehearsed.orphans);
        Ok(Done {
            id: self.id,
            plan,
            ending: ending(outcome),
            delta_bytes: dossier.journal.delta_bytes(),
            journal_bytes: self
                .dir
                .open(crate::journal::JOURNAL_NAME)
                .map_or(0, |f| f.len_bytes()),
            verified_bytes: match self.plan.request.level {
                Level::Changed => dossier.journal.delta_bytes(),
                Level::Used | Level::All => verified_bytes,
            },
            cached: media.was_cached(),
            seconds: began.elapsed().as_secs_f64(),
            commit_seconds: committing.elapsed().as_secs_f64(),
        })
    }

    /// Says what to do should the machine stop from here on, before it can.
    fn tell_the_way_back(&self) {
        let store = self.options.store;
        let program = match store.keep_program(self.id, self.plan.estimate.state_bytes) {
            true => store.dir_of(self.id).join("holdfast").display().to_string(),
            false => "holdfast".into(),
        };
        self.options.report.notice(&format!(
            "committing; should the machine stop from here on:\n  {program} recover --state-dir {}",
            store.path().display()
        ));
    }

    fn driver(&self) -> Result<&'static dyn crate::fs::Driver, Stop> {
        let volume = self.planned.look.file_system.as_ref();
        volume
            .map(|v| v.driver)
            .ok_or_else(|| stale("the file system is gone"))
    }

    /// The rehearsal, and the snapshot meanwhile: neither needs the other, and both only read. A
    /// disk that turns is better read by one after the other.
    fn rehearse_beside_snapshot(
        &self,
        media: &HostMedia,
        used: &ExtentMap,
        identity: &str,
    ) -> Result<(Rehearsed, Manifest), Stop> {
        let report = self.options.report;
        let reader = media
            .reader()
            .context("opening the target past the page cache")?;
        let stage = stage(self.planned, self.plan, self.dir.path(), self.options)?;
        let take = |report: &dyn Report| {
            Manifest::take(&reader, used, CHUNK_BYTES, identity, report)
                .context("taking the snapshot")
        };
        if self
            .planned
            .look
            .device
            .as_ref()
            .is_some_and(|d| d.rotational)
        {
            phase(report, "snapshot", used);
            let before = take(report)?;
            return Ok((stage.rehearse()?, before));
        }
        let beside = Beside::new(report);
        std::thread::scope(|scope| {
            let snapshot = scope.spawn(|| take(&beside));
            let rehearsed = stage.rehearse();
            if rehearsed.is_err() {
                beside.cancel();
            }
            report.phase("snapshot", None, Unit::Items);
            let before = snapshot.join();
            let rehearsed = rehearsed?;
            let before = before.map_err(|_| anyhow!("the snapshot's thread died"))??;
            Ok((rehearsed, before))
        })
    }

    /// The neighbours that others are writing to; asked for only where it matters.
    fn busy_neighbours(&self) -> Result<ExtentMap, Stop> {
        if self.plan.request.level != Level::All {
            return Ok(ExtentMap::new());
        }
        let look = &self.planned.look;
        let busy = look
            .busy_neighbours()
            .context("finding out who uses the disk")?;
        if !busy.is_empty() {
            let report = self.options.report;
            report.notice("neighbours that are in use are not read back");
        }
        Ok(busy)
    }

    /// What a manifest covers: what is in use, and where all is to be read back everything outside
    /// the partition as well, but for neighbours that are busy.
    fn covered(
        &self,
        used: &ExtentMap,
        disk_bytes: u64,
        partition: Extent,
        busy: &ExtentMap,
    ) -> ExtentMap {
        if self.plan.request.level != Level::All {
            return used.clone();
        }
        let mut rest: ExtentMap = [Extent::new(0, disk_bytes)].into_iter().collect();
        rest.remove(partition);
        rest.difference(busy).union(used)
    }

    fn seal(
        &self,
        media: &HostMedia,
        rehearsed: &Rehearsed,
        identity: &str,
        manifests: (Manifest, Manifest),
    ) -> Result<Dossier, Stop> {
        let look = &self.planned.look;
        let driver = self.driver()?;
        let start = self.plan.partition_start;
        let superblock = driver.superblock();
        let superblock = Extent::new(start + superblock.start, superblock.len);
        let unit = self.unit_of(superblock);
        // What is to be undone is what the medium holds: a page of the disk's own cache may be older
        // than what was written through the partition's node.
        media
            .settle()
            .context("dropping the page cache of the target")?;
        let target = media
            .reader()
            .context("opening the target past the page cache")?;
        let mut gate =
            read_vec(&target, unit.start, unit.len as usize).context("reading the superblock")?;
        let place =
            (superblock.start - unit.start) as usize..(superblock.end() - unit.start) as usize;
        let closed = driver
            .close_gate(&gate[place.clone()], self.id)
            .map_err(unreadable)?;
        gate[place].copy_from_slice(&closed);
        let parts = Parts::of(look, self.plan, &rehearsed.delta);
        let draft = Draft {
            id: self.id,
            identity,
            driver: driver.name(),
            superblock,
            superblock_unit: unit,
            gate: &gate,
            backup_table: &parts.backup_table,
            primary_table: &parts.primary_table,
            blocks: &parts.blocks,
        };
        self.check_room(draft.file_bytes())?;
        let sealed = Dossier::seal(
            self.dir,
            &draft,
            &target,
            &*rehearsed.after,
            manifests,
            self.options.report,
        );
        sealed.map_err(|e| match e {
            super::dossier::DossierError::Journal(JournalError::Io { source, .. })
            | super::dossier::DossierError::Io { source, .. }
                if source.kind() == std::io::ErrorKind::StorageFull =>
            {
                no_space(source)
            }
            e => Stop::from(anyhow::Error::from(e)),
        })
    }

    /// The whole units that hold the superblock, without what belongs to another partition.
    fn unit_of(&self, superblock: Extent) -> Extent {
        let unit = self.planned.look.unit_bytes();
        let start = round_down(superblock.start, unit);
        let end = round_up(superblock.end(), unit).unwrap_or(superblock.end());
        // Partitions need not start on a unit: then what lies before is not ours.
        Extent::from_range(
            start.max(self.plan.partition_start.min(superblock.start)),
            end,
        )
    }

    /// The journal's exact need, against what is free now.
    fn check_room(&self, needed: u64) -> Result<(), Stop> {
        let free = self
            .options
            .store
            .prepare(&self.planned.look.host)?
            .free_bytes;
        if needed <= free {
            return Ok(());
        }
        Err(Stop::refused(
            "no-journal-space",
            format!(
                "the journal needs {}, and {} are free in {}",
                crate::units::Bytes(needed),
                crate::units::Bytes(free),
                self.options.store.path().display()
            ),
            "free some space there, or name a directory on another file system with --state-dir",
        ))
    }
}

fn no_space(e: std::io::Error) -> Stop {
    Stop::refused(
        "no-space",
        format!("there is no space left: {e}"),
        "free some space, or name another directory with --state-dir",
    )
}

fn ending(outcome: Outcome) -> Ending {
    match outcome {
        Outcome::Applied => Ending::Applied,
        Outcome::RolledBack { cause } => Ending::RolledBack { cause },
        Outcome::NotClosed { cause } => Ending::NotClosed { cause },
        Outcome::Stuck {
            cause,
            rollback,
            differing,
        } => Ending::Stuck {
            cause,
            rollback,
            differing,
        },
    }
}

/// The delta by the step in which it is written.
struct Parts {
    backup_table: ExtentMap,
    primary_table: ExtentMap,
    blocks: ExtentMap,
}

impl Parts {
    fn of(look: &Look, plan: &Plan, delta: &ExtentMap) -> Parts {
        let mut parts = Parts {
            backup_table: ExtentMap::new(),
            primary_table: ExtentMap::new(),
            blocks: ExtentMap::new(),
        };
        let Some((table, _)) = look.chosen() else {
            parts.blocks = delta.clone();
            return parts;
        };
        let tables = table.table_extents(plan.disk.new);
        for unit in delta.iter().flat_map(|e| e.split(look.unit_bytes())) {
            let map = match (tables.intersects(unit), table.is_written_first(unit)) {
                (true, true) => &mut parts.backup_table,
                (true, false) => &mut parts.primary_table,
                (false, _) => &mut parts.blocks,
            };
            map.insert(unit);
        }
        parts
    }
}
