//! The rehearsal: the whole change on a copy-on-write overlay, and the judgement of its result.
//!
//! Two overlays lie on each other. On the lower one the file system is prepared ([`super::prepare`]:
//! journal replay, full check); it is then frozen, and is what every file is compared with. On the upper one the
//! table is edited and the file system resized; it is frozen before it is judged, and it is what
//! the commit reads. The target itself is open for reading only.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

use super::look::Look;
use super::stop::Stop;
use crate::check::{self, States};
use crate::disk::{Disk, DiskRead, Window};
use crate::export::{Export, How, Setup};
use crate::extent::{Extent, ExtentMap};
use crate::fs::mount::{self, Walk, WalkError};
use crate::fs::tool::{Launch, ToolError, Tools};
use crate::fs::{Driver, FsError, Observed, Orphan};
use crate::overlay::{Overlay, differing};
use crate::plan::Plan;
use crate::report::{Refusal, Report, Unit, checkpoint};
use crate::units::{Bytes, round_down, round_up};

/// Where overlays are made and tools run.
pub struct Bench<'a> {
    /// The target.
    pub look: &'a Look,
    /// Bytes in use before, in the disk's coordinates.
    pub used: &'a ExtentMap,
    /// A private directory for spill files and the tools' output.
    pub dir: &'a Path,
    /// How the overlay becomes a file.
    pub how: How,
    /// How long a tool may make no progress.
    pub patience: Duration,
    /// Where progress goes.
    pub report: &'a dyn Report,
}

/// What a rehearsal needs.
pub struct Stage<'a> {
    /// Where it takes place.
    pub bench: Bench<'a>,
    /// Its file system, as it was observed.
    pub observed: &'a Observed,
    /// The driver.
    pub driver: &'a dyn Driver,
    /// What is to be done.
    pub plan: &'a Plan,
}

/// A rehearsal that passed every check.
pub struct Rehearsed {
    /// The result, frozen.
    pub after: Arc<Overlay>,
    /// The bytes that differ from the target, in whole units, none of them in another partition.
    pub delta: ExtentMap,
    /// Bytes in use after, in the disk's coordinates.
    pub used: ExtentMap,
    /// Whether the tools worked through FUSE.
    pub through_fuse: bool,
    /// The files that the replay of the journal ended.
    pub orphans: Vec<Orphan>,
}

/// A room of an export as a place to start tools.
struct InRoom<'a>(&'a Export);

impl Launch for InRoom<'_> {
    fn launch(&self, command: Command) -> io::Result<Child> {
        self.0.spawn(command)
    }
    fn launch_mounter(&self, command: Command) -> io::Result<Child> {
        self.0.spawn_mounter(command)
    }
    fn progress(&self) -> u64 {
        self.0.requests()
    }
    fn abandon(&self) {
        self.0.abandon();
    }
}

/// Shifts every extent by the start of the partition.
fn moved(map: &ExtentMap, start: u64) -> ExtentMap {
    map.iter()
        .map(|e| Extent::new(start + e.start, e.len))
        .collect()
}

/// The part of `map` inside `part`, from the start of the part.
pub(super) fn inside(map: &ExtentMap, part: Extent) -> ExtentMap {
    map.within(part)
        .map(|e| Extent::new(e.start - part.start, e.len))
        .collect()
}

impl Bench<'_> {
    /// An overlay with a nameless spill file: it is gone when the last descriptor is.
    pub(super) fn overlay(
        &self,
        base: Arc<dyn DiskRead>,
        len_bytes: u64,
        name: &str,
    ) -> anyhow::Result<Arc<Overlay>> {
        let path = self.dir.join(name);
        let doing = || format!("creating {}", path.display());
        let spill = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .with_context(doing)?;
        std::fs::remove_file(&path).with_context(doing)?;
        Ok(Arc::new(
            Overlay::new(base, len_bytes, spill).with_context(doing)?,
        ))
    }

    /// Lets `work` run tools on a frozen state, of which they can change nothing.
    pub(super) fn on_top(
        &self,
        state: &Arc<Overlay>,
        partition: Extent,
        work: impl FnOnce(&Tools<'_>) -> Result<(), Stop>,
    ) -> Result<(), Stop> {
        let overlay = self.overlay(state.clone(), state.len_bytes(), "walk.spill")?;
        self.with_export(&overlay, partition, |_, tools| work(tools))?;
        Ok(())
    }

    /// Exports a partition of an overlay, lets `work` run tools on it, drains and freezes it.
    pub(super) fn with_export(
        &self,
        overlay: &Arc<Overlay>,
        partition: Extent,
        work: impl FnOnce(&Path, &Tools<'_>) -> Result<(), Stop>,
    ) -> Result<bool, Stop> {
        let window: Arc<dyn Disk> =
            Arc::new(Window::new(overlay.clone(), partition).context("opening the overlay")?);
        let programs = programs();
        let used = inside(self.used, partition);
        let setup = Setup {
            scratch: self.dir,
            programs: &programs,
            used: &used,
            how: self.how,
        };
        let export = Export::new(window, setup).context("exporting the overlay to the tools")?;
        let through_fuse = export.is_fuse();
        let outcome = {
            let room = InRoom(&export);
            let interrupted = || self.report.interrupted();
            let tools = Tools::new(&room)
                .with_logs(self.dir)
                .with_patience(self.patience)
                .with_interrupt(&interrupted);
            work(export.path(), &tools)
        };
        let drained = export.finish();
        overlay.freeze();
        // P7: a tool may well exit with 0 after an error that it did not care about. One that
        // did care failed because of it, so this is named first.
        let lost = match (&outcome, &drained) {
            (Ok(()) | Err(Stop::Failed(_)), Err(e)) => {
                Some(format!("what the tools wrote was not kept whole: {e}"))
            }
            _ => None,
        };
        let failed = failure_of(overlay).or(lost);
        match (failed, outcome) {
            (Some(_), Err(Stop::Interrupted)) => Err(Stop::Interrupted),
            (Some(what), outcome) => {
                let mut found = vec![broken(what)];
                if let Err(Stop::Rejected { refusals: more, .. } | Stop::Refused(more)) = outcome {
                    found.extend(more);
                }
                Err(Stop::rejected_all(found))
            }
            (None, outcome) => outcome.map(|()| through_fuse),
        }
    }
}

impl Stage<'_> {
    /// Rehearses and judges.
    ///
    /// # Errors
    /// [`Stop`]. The target is untouched.
    pub fn rehearse(&self) -> Result<Rehearsed, Stop> {
        let base: Arc<dyn DiskRead> = self.bench.look.disk.clone();
        let (driver, partition) = (self.driver, self.plan.partition_before());
        let prepared = self
            .bench
            .prepare(driver, self.observed, partition, &|tools| {
                self.ask_version(tools)
            })?;
        let lower = prepared.overlay;
        checkpoint(self.bench.report)?;
        let upper = self
            .bench
            .overlay(lower.clone(), self.plan.disk.new, "result.spill")?;
        self.edit_table(&upper)?;
        let through_fuse = self.resize(&upper)?;
        let rehearsed = self.judge(&base, &lower, upper, through_fuse)?;
        Ok(Rehearsed {
            orphans: prepared.orphans,
            ..rehearsed
        })
    }

    /// Refuses tools that are known to fail at this job.
    fn ask_version(&self, tools: &Tools<'_>) -> Result<(), Stop> {
        let (direction, new_bytes) = (self.plan.request.direction, self.plan.file_system_size.new);
        let known = self
            .driver
            .known_faults(self.observed, direction, new_bytes, tools);
        let (refusals, notices) = known.map_err(|e| refused_by_tool(e, "tool-version-unknown"))?;
        notices
            .iter()
            .for_each(|notice| self.bench.report.notice(notice));
        if refusals.is_empty() {
            Ok(())
        } else {
            Err(Stop::Refused(refusals))
        }
    }

    fn edit_table(&self, upper: &Arc<Overlay>) -> Result<(), Stop> {
        let Some((table, number)) = self.bench.look.chosen() else {
            return Ok(());
        };
        let writes = table
            .edit(
                &*self.bench.look.disk,
                number,
                self.last_lba(),
                self.plan.disk.new,
            )
            .context("editing the partition table")?;
        for write in writes {
            upper
                .write_at(write.offset, &write.data)
                .context("editing the partition table on the overlay")?;
        }
        Ok(())
    }

    fn last_lba(&self) -> u64 {
        self.plan.partition_after().end() / self.plan.sector_bytes - 1
    }

    fn resize(&self, upper: &Arc<Overlay>) -> Result<bool, Stop> {
        self.bench
            .report
            .phase("resizing on the overlay", None, Unit::Items);
        // A file system that shrinks still needs all of its old partition while it does.
        let (before, after) = (self.plan.partition_before(), self.plan.partition_after());
        let larger = if after.len > before.len {
            after
        } else {
            before
        };
        self.bench.with_export(upper, larger, |file, tools| {
            let new_bytes = self.plan.file_system_size.new;
            self.driver
                .resize(file, new_bytes, tools)
                .map_err(|e| match e {
                    ToolError::TooSmall { blocks, .. } => self.below_minimum(blocks),
                    e => rejected_by_tool(e, "resize-failed"),
                })?;
            self.bench
                .report
                .phase("checking the result", None, Unit::Items);
            self.driver
                .verify(file, tools)
                .map_err(|e| rejected_by_tool(e, "result-not-clean"))
        })
    }

    /// Only the resizer knows how small it can make a file system, and it says so when it is asked
    /// for less.
    fn below_minimum(&self, blocks: u64) -> Stop {
        let least = Bytes(blocks.saturating_mul(self.observed.block_bytes));
        Stop::refused(
            "below-minimum",
            format!(
                "{} is less than the smallest size that the resizer can make, {least:#}",
                Bytes(self.plan.file_system_size.new)
            ),
            "use that size or a larger one, or --to min",
        )
    }

    fn judge(
        &self,
        base: &Arc<dyn DiskRead>,
        lower: &Arc<Overlay>,
        upper: Arc<Overlay>,
        through_fuse: bool,
    ) -> Result<Rehearsed, Stop> {
        let (before, after) = (self.plan.partition_before(), self.plan.partition_after());
        let mut allowed: ExtentMap = [before, after].into_iter().collect();
        let mut rejections = Vec::new();
        let mut tables = ExtentMap::new();
        let mut neighbours = ExtentMap::new();
        if let Some((table, number)) = self.bench.look.chosen() {
            rejections.extend(
                check::table(table, &*upper, number, self.last_lba())
                    .context("reading the table of the result")?,
            );
            tables = table.table_extents(self.plan.disk.new);
            let slots = table.partitions();
            let others = slots.iter().filter(|p| p.number != number);
            neighbours = others.filter_map(|p| table.extent(p.number)).collect();
        }
        allowed = allowed.union(&tables);
        let touched = lower.changed().union(&upper.changed());
        let delta = differing(&**base, &*upper, &touched, self.bench.report)
            .context("finding what differs from the target")?;
        rejections.extend(
            check::outside(&**base, &*upper, &delta, &allowed)
                .context("looking for stray writes")?,
        );
        let part = Window::new(upper.clone(), after).context("opening the result")?;
        rejections.extend(self.judge_files(lower, &upper, &part)?);
        if !rejections.is_empty() {
            return Err(Stop::rejected_all(rejections));
        }
        let used = self
            .driver
            .used(&part, self.bench.report)
            .map_err(|e| unjudged(e, "reading what the result uses"))?;
        Ok(Rehearsed {
            delta: whole_units(&delta, self.bench.look.unit_bytes(), upper.len_bytes())
                .difference(&neighbours),
            used: moved(&used, after.start).union(&tables),
            after: upper,
            through_fuse,
            orphans: Vec::new(),
        })
    }

    fn judge_files(
        &self,
        lower: &Arc<Overlay>,
        upper: &Arc<Overlay>,
        part: &dyn DiskRead,
    ) -> Result<Vec<Refusal>, Stop> {
        let (before, after) = (self.plan.partition_before(), self.plan.partition_after());
        let old = Window::new(lower.clone(), before).context("opening the prepared file system")?;
        self.bench
            .report
            .phase("comparing every file", None, Unit::Items);
        let changed = inside(&upper.changed(), after);
        let states = States {
            before: &old,
            after: part,
            changed: &changed,
        };
        let planned = (self.observed, self.plan.file_system_size.new);
        let found = check::file_system(self.driver, &states, planned, self.bench.report)
            .map_err(|e| unjudged(e, "comparing every file"))?;
        match self.driver.walk() {
            Some(walk) if found.is_empty() => self.walk_both(walk, lower, upper),
            _ => Ok(found),
        }
    }

    /// Lets the kernel read every file of both states, one after the other.
    fn walk_both(
        &self,
        walk: Walk,
        lower: &Arc<Overlay>,
        upper: &Arc<Overlay>,
    ) -> Result<Vec<Refusal>, Stop> {
        let unmade = |e| match e {
            WalkError::Tool(e) => rejected_by_tool(e, "files-not-compared"),
            WalkError::Spill(e) => Stop::Failed(e.into()),
        };
        let mut walked = tempfile::tempfile_in(self.bench.dir).context("keeping a walk")?;
        let (before, after) = (self.plan.partition_before(), self.plan.partition_after());
        self.bench.on_top(lower, before, |tools| {
            mount::record(walk, tools, &mut walked).map_err(unmade)
        })?;
        let mut found = Vec::new();
        self.bench.on_top(upper, after, |tools| {
            let compared = mount::compare_with(walk, tools, &mut walked, check::NAMED);
            found = compared.map_err(unmade)?;
            Ok(())
        })?;
        Ok(check::rejections(found))
    }
}

/// `delta` in whole units of `unit_bytes`: a drive whose sectors are larger than ours rewrites all
/// of one, and a cut in the middle of that takes what nobody has asked to change.
fn whole_units(delta: &ExtentMap, unit_bytes: u64, end: u64) -> ExtentMap {
    let whole = |e: Extent| {
        let last = round_up(e.end(), unit_bytes).unwrap_or(end).min(end);
        Extent::from_range(round_down(e.start, unit_bytes), last)
    };
    delta.iter().map(whole).collect()
}

/// The first error of what lies under the tools.
fn failure_of(overlay: &Overlay) -> Option<String> {
    let base = overlay.base_error();
    let base = base.map(|e| format!("the target could not be read during the rehearsal: {e}"));
    let spill = || {
        Some(format!(
            "the overlay could not be written: {}",
            overlay.spill_error()?
        ))
    };
    base.or_else(spill)
}

fn broken(what: String) -> Refusal {
    Refusal::new(
        "io-error",
        what,
        "the disk or the state directory failed; look at the kernel log",
    )
}

/// Directories that `PATH` names beyond the usual ones: their programs must be seen in the room.
fn programs() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .filter(|p| p.is_absolute() && p.is_dir())
        .collect()
}

/// What a tool left cannot be read or understood. That is no check that was passed, and no error of
/// ours either: a tool may leave anything.
pub(super) fn unjudged(e: FsError, doing: &'static str) -> Stop {
    let code = match &e {
        FsError::Io(_) => "io-error",
        FsError::Corrupt(_) => "result-unreadable",
        FsError::Unsupported(_) => "result-unsupported",
    };
    match Stop::from(anyhow::Error::from(e).context(doing)) {
        Stop::Failed(e) => Stop::rejected(
            code,
            format!("{e:#}"),
            "nothing was written; keep the transaction directory for a bug report",
        ),
        interrupted => interrupted,
    }
}

/// A tool said that the file system cannot be resized as it is.
pub(super) fn refused_by_tool(e: ToolError, code: &str) -> Stop {
    match not_its_fault(e) {
        Ok(stop) => stop,
        Err(e) => Stop::refused(
            code,
            format!(
                "the file system did not pass its own check: {}",
                e.to_string().trim_end()
            ),
            "unmount it and repair it with its own tool first (`e2fsck -f` for ext, `xfs_repair` for XFS, \
             `chkdsk /f` in Windows for NTFS, `fsck.fat` for FAT), after a backup",
        ),
    }
}

/// A tool failed at the work.
pub(super) fn rejected_by_tool(e: ToolError, code: &str) -> Stop {
    match not_its_fault(e) {
        Ok(stop) => stop,
        Err(e) => Stop::rejected(
            code,
            e.to_string().trim_end(),
            "all that the tool said is in the transaction directory, where there is one",
        ),
    }
}

fn not_its_fault(e: ToolError) -> Result<Stop, ToolError> {
    match e {
        ToolError::Missing { .. } => {
            let ToolError::Missing { tool, package } = &e else {
                return Err(e);
            };
            Ok(Stop::refused(
                "missing-tool",
                format!("{tool} is not installed"),
                format!("apt install {package}"),
            ))
        }
        ToolError::Refused(refusal) => Ok(Stop::Refused(vec![refusal])),
        ToolError::Interrupted { .. } => Ok(Stop::Interrupted),
        // That says nothing about the file system, whatever the tool was to do.
        e @ ToolError::Hung { .. } => Ok(Stop::rejected(
            "tool-hung",
            e.to_string(),
            "try again; if it hangs again, report it",
        )),
        e @ (ToolError::Start { .. } | ToolError::Log { .. }) => Ok(Stop::Failed(e.into())),
        e => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delta_is_widened_to_whole_physical_sectors_and_not_beyond_the_end() {
        let delta: ExtentMap = [(4096, 4096), (40_960, 4096), (98_304, 4096)]
            .map(|(start, len)| Extent::new(start, len))
            .into_iter()
            .collect();
        let of = |unit| -> Vec<(u64, u64)> {
            let whole = whole_units(&delta, unit, 102_400);
            whole.iter().map(|e| (e.start, e.len)).collect()
        };
        assert_eq!(of(4096), [(4096, 4096), (40_960, 4096), (98_304, 4096)]);
        assert_eq!(of(16_384), [(0, 16_384), (32_768, 16_384), (98_304, 4096)]);
    }
}
