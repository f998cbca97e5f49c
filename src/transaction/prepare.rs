//! Before the rehearsal: the file system is brought to a state that can be resized, on an overlay,
//! and that state is judged.
//!
//! Where no journal waits, the check may have stamped the superblock and nothing else. Where one
//! does, the replay is made twice, on two overlays: by the driver's own reading of the journal, and
//! by the tools. They may differ in the end of the orphans and in stamps. The tools' is what the
//! rest is built on.

use std::sync::Arc;

use anyhow::Context;

use super::look::Volume;
use super::planning::unreadable;
use super::rehearse::{Bench, inside, refused_by_tool, rejected_by_tool, unjudged};
use super::stop::Stop;
use crate::check::{self, States};
use crate::disk::{DiskRead, Window};
use crate::extent::{Extent, ExtentMap};
use crate::fs::tool::Tools;
use crate::fs::{Direction, Driver, Observed, Orphan};
use crate::overlay::{Overlay, differing};
use crate::report::Unit;

/// A file system that can be resized.
pub struct Prepared {
    /// The disk with it, frozen.
    pub overlay: Arc<Overlay>,
    /// The files that the replay of its journal ended.
    pub orphans: Vec<Orphan>,
}

/// What a prepared file system is measured by.
struct Reference {
    part: Box<dyn DiskRead>,
    /// The bytes in which it may differ from the target, from the start of the partition.
    changed: ExtentMap,
    orphans: Vec<Orphan>,
}

impl Bench<'_> {
    /// Lets the file system's own checker look at it, on an overlay.
    ///
    /// # Errors
    /// [`Stop::Refused`] with what it found. The target is untouched.
    pub fn health(&self, volume: &Volume, partition: Extent) -> Result<(), Stop> {
        self.prepare(volume.driver, &volume.observed, partition, &|_| Ok(()))?;
        Ok(())
    }

    /// The smallest size that the resizer says it can make of the file system, found on an overlay.
    ///
    /// # Errors
    /// [`Stop`]. The target is untouched.
    pub fn minimum(&self, volume: &Volume, partition: Extent) -> Result<u64, Stop> {
        let prepared = self.prepare(volume.driver, &volume.observed, partition, &|_| Ok(()))?;
        self.report
            .phase("asking for the smallest size", None, Unit::Items);
        let len_bytes = prepared.overlay.len_bytes();
        let overlay = self.overlay(prepared.overlay, len_bytes, "minimum.spill")?;
        let mut bytes = 0;
        self.with_export(&overlay, partition, |file, tools| {
            let found = volume.driver.minimum(file, &volume.observed, tools);
            bytes = found.map_err(|e| rejected_by_tool(e, "minimum-unknown"))?;
            Ok(())
        })?;
        Ok(bytes)
    }

    /// Brings the file system to a state that can be resized. `first` is asked before the tools
    /// begin.
    ///
    /// # Errors
    /// [`Stop`]. The target is untouched.
    pub fn prepare(
        &self,
        driver: &dyn Driver,
        observed: &Observed,
        partition: Extent,
        first: &dyn Fn(&Tools<'_>) -> Result<(), Stop>,
    ) -> Result<Prepared, Stop> {
        let reference = self.reference(driver, observed, partition)?;
        self.report
            .phase("checking the file system", None, Unit::Items);
        let base: Arc<dyn DiskRead> = self.look.disk.clone();
        let overlay = self.overlay(base, self.look.disk.len_bytes(), "prepared.spill")?;
        self.with_export(&overlay, partition, |file, tools| {
            first(tools)?;
            let prepared = driver.prepare(file, observed, tools);
            prepared.map_err(|e| refused_by_tool(e, "damaged-file-system"))
        })?;
        let after = Window::new(overlay.clone(), partition).context("opening the overlay")?;
        if observed.needs_replay && !driver.has_own_replay() {
            same_file_system(driver, observed, &after)?;
            self.tell(&[]);
        }
        let touched = inside(&overlay.changed(), partition).union(&reference.changed);
        let changed = differing(&reference.part, &after, &touched, self.report)
            .context("comparing the checked file system")?;
        let states = States {
            before: &reference.part,
            after: &after,
            changed: &changed,
        };
        let found = match observed.needs_replay {
            true => check::only_replayed(driver, &states, self.report),
            false => check::only_prepared(driver, &states),
        };
        let found = found.map_err(|e| unjudged(e, "comparing the checked file system"))?;
        if !found.is_empty() {
            return Err(Stop::rejected_all(found));
        }
        Ok(Prepared {
            overlay,
            orphans: reference.orphans,
        })
    }

    /// The target itself, or its journal's replay.
    fn reference(
        &self,
        driver: &dyn Driver,
        observed: &Observed,
        partition: Extent,
    ) -> Result<Reference, Stop> {
        if !observed.needs_replay || !driver.has_own_replay() {
            let part = self.look.window(partition);
            return Ok(Reference {
                part: Box::new(part.context("opening the partition")?),
                changed: ExtentMap::new(),
                orphans: Vec::new(),
            });
        }
        self.report
            .phase("replaying the journal", None, Unit::Items);
        let base: Arc<dyn DiskRead> = self.look.disk.clone();
        let overlay = self.overlay(base, self.look.disk.len_bytes(), "replayed.spill")?;
        let part = Window::new(overlay.clone(), partition).context("opening the overlay")?;
        driver.replay(&part).map_err(unreadable)?;
        overlay.freeze();
        same_file_system(driver, observed, &part)?;
        let orphans = driver.orphans(&part).map_err(unreadable)?;
        self.tell(&orphans);
        Ok(Reference {
            part: Box::new(part),
            changed: inside(&overlay.changed(), partition),
            orphans,
        })
    }

    fn tell(&self, orphans: &[Orphan]) {
        /// Orphans that are named; the others are counted.
        const NAMED: usize = 20;
        self.report
            .notice("the journal was replayed on the overlay; the commit will contain that");
        let named = orphans.iter().take(NAMED);
        named.for_each(|orphan| {
            let text = format!("the replay ends what was under way: {orphan}");
            self.report.notice(&text);
        });
        let rest = orphans.len().saturating_sub(NAMED);
        if rest > 0 {
            self.report.notice(&format!("and {rest} more"));
        }
    }
}

/// The plan was made before the replay. What it relied on must still be so.
fn same_file_system(
    driver: &dyn Driver,
    observed: &Observed,
    part: &dyn DiskRead,
) -> Result<(), Stop> {
    let hint = "replay the journal first: mount the file system once and unmount it";
    let now = driver.probe(part).map_err(unreadable)?;
    // What only says that a journal or orphans wait may go.
    let names = |observed: &Observed| -> Vec<String> {
        let waiting =
            |name: &&String| !["needs_recovery", "orphan_present"].contains(&name.as_str());
        observed.features.iter().filter(waiting).cloned().collect()
    };
    let same = now.is_some_and(|now| {
        (now.size_bytes, now.block_bytes) == (observed.size_bytes, observed.block_bytes)
            && (&now.uuid, &now.label) == (&observed.uuid, &observed.label)
            && names(&now) == names(observed)
    });
    if !same {
        return Err(Stop::refused(
            "replay-changes-plan",
            "its journal holds another size, label or feature of the file system",
            hint,
        ));
    }
    // A resize in either direction is refused for these.
    let found = driver.refusals(part, Direction::Grow).map_err(unreadable)?;
    if found.is_empty() {
        Ok(())
    } else {
        Err(Stop::Refused(found))
    }
}
