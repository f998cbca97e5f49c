//! What is to be done: facts in, a [`Plan`] or refusals out. Pure: no I/O, no clock.
//!
//! 1. A plan states the current and the new value of everything that it changes, and nothing else
//!    changes.
//! 2. A refusal says what is wrong, where, and what to do; all of them are collected, not the
//!    first one alone.
//! 3. A plan carries a fingerprint of all that it relied on. Where the target has another one, the
//!    plan is stale.
//! 4. The start of a partition never changes.
//!
//! It does not find out facts (the transaction does), and it trusts no estimate: what it
//! says about space is checked again against the real delta before the commit.

mod identity;
mod place;
mod request;

use serde::{Deserialize, Serialize};

pub use identity::{Identity, TargetKind};
pub use place::Placement;
pub use request::{Level, Request, To};

use crate::extent::{Extent, ExtentMap};
use crate::fs::{Bounds, Observed, Orphan};
use crate::report::Refusal;
use crate::table::Table;
use crate::units::Bytes;

/// The version of every document that this program prints or stores.
pub const SCHEMA: &str = "holdfast/1";

/// Everything that a plan is made from.
pub struct Facts<'a> {
    /// Who the target is.
    pub identity: Identity,
    /// Length of the disk or image.
    pub disk_bytes: u64,
    /// Logical sector size.
    pub sector_bytes: u64,
    /// The partition table, where there is one, and the number of the partition in it.
    pub table: Option<(&'a dyn Table, u32)>,
    /// The partition, or the whole disk where it holds a bare file system.
    pub partition: Extent,
    /// The file system.
    pub file_system: &'a Observed,
    /// The sizes that it can take.
    pub bounds: &'a Bounds,
    /// The smallest size that the resizer itself says it can make, where it was asked.
    pub resizer_min_bytes: Option<u64>,
    /// Bytes in use, in the disk's coordinates.
    pub used: &'a ExtentMap,
    /// What the driver, the table and the host have against it.
    pub refusals: Vec<Refusal>,
    /// What a person should know.
    pub notices: Vec<String>,
    /// Free bytes where the journal will lie.
    pub state_free_bytes: u64,
    /// Where that is, for messages.
    pub state_dir: String,
    /// Free bytes where an image lies that is to grow.
    pub image_free_bytes: Option<u64>,
    /// Bytes a second that a short probe read, past the caches.
    pub read_rate: Option<u64>,
    /// Hash of the table, the superblock and the identity.
    pub fingerprint: String,
    /// Answers to what only the driver knows.
    pub driver: &'a dyn Forecast,
}

/// What a plan must ask a driver about sizes that do not exist yet.
pub trait Forecast {
    /// The size that the resizer will make of a wish for `bytes`: whole blocks, no stub of a group.
    fn fit(&self, bytes: u64) -> u64;

    /// About how many bytes a resize to `bytes` will change.
    fn delta_bytes(&self, bytes: u64) -> u64;

    /// Whether the driver has this code against a change alone: see
    /// [`crate::fs::Driver::is_about_change`].
    fn is_about_change(&self, code: &str) -> bool {
        let _ = code;
        false
    }
}

/// The current and the new value of a size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// In bytes, now.
    pub current: u64,
    /// In bytes, then.
    pub new: u64,
}

/// A step of a plan, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanStep {
    /// One word.
    pub name: String,
    /// One sentence.
    pub what: String,
    /// Whether it writes to the target.
    pub writes: bool,
}

/// Space and time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Estimate {
    /// Bytes that will differ on the target.
    pub delta_bytes: u64,
    /// Bytes that the journal and the overlay need in the state directory.
    pub state_bytes: u64,
    /// Bytes that are free there.
    pub state_free_bytes: u64,
    /// Seconds for the whole run, where a read probe was made. The file system is away all the
    /// time.
    pub seconds: Option<u64>,
    /// Whether these are results of a rehearsal.
    pub measured: bool,
}

/// A plan: what will be done, and what it relied on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// [`SCHEMA`].
    pub schema: String,
    /// Version of the program that made it.
    pub producer: String,
    /// What was asked for.
    pub request: Request,
    /// Who the target is.
    pub identity: Identity,
    /// Logical sector size of the disk.
    pub sector_bytes: u64,
    /// Length of the disk or image.
    pub disk: Change,
    /// The partition's number, where there is a table.
    pub partition_number: Option<u32>,
    /// The partition, or the whole of a bare target.
    pub partition_start: u64,
    /// Length of the partition.
    pub partition: Change,
    /// `ext4`, …
    pub file_system: String,
    /// Its UUID.
    pub uuid: String,
    /// Its label, as the disk has it.
    pub label: String,
    /// Its size.
    pub file_system_size: Change,
    /// What will be done, in order.
    pub steps: Vec<PlanStep>,
    /// What was looked at, and what was found.
    pub checks: Vec<(String, String)>,
    /// What a person should know.
    pub notices: Vec<String>,
    /// The files that the replay of the journal ends. Known after a rehearsal.
    #[serde(default)]
    pub orphans: Vec<Orphan>,
    /// Space and time.
    pub estimate: Estimate,
    /// Hash of all that the plan relied on.
    pub fingerprint: String,
}

/// What came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It can be done.
    Plan(Box<Plan>),
    /// It is so already.
    NoChange(String),
    /// It will not be done.
    Refused(Vec<Refusal>),
}

impl Plan {
    /// The partition before, in the disk's coordinates.
    pub fn partition_before(&self) -> Extent {
        Extent::new(self.partition_start, self.partition.current)
    }

    /// The partition after.
    pub fn partition_after(&self) -> Extent {
        Extent::new(self.partition_start, self.partition.new)
    }

    /// Adds what a rehearsal found that the replay of the journal ends.
    pub fn set_orphans(&mut self, orphans: Vec<Orphan>) {
        self.orphans = orphans;
        let Some(step) = self.steps.iter_mut().find(|step| step.name == REPLAY) else {
            return;
        };
        step.what = replay_step(&self.file_system);
        let named: Vec<String> = self
            .orphans
            .iter()
            .take(NAMED)
            .map(Orphan::to_string)
            .collect();
        if named.is_empty() {
            return;
        }
        step.what.push_str(&format!(
            "; this ends what was under way: {}",
            named.join(", ")
        ));
        let rest = self.orphans.len() - named.len();
        if rest > 0 {
            step.what.push_str(&format!(", and {rest} more"));
        }
    }
}

/// The step's name.
const REPLAY: &str = "replay";

/// Orphans that a step names; the others are counted.
const NAMED: usize = 8;

fn replay_step(file_system: &str) -> String {
    format!("replay the journal of the {file_system}, on the overlay")
}

/// Makes a plan.
pub fn plan(request: &Request, facts: &Facts<'_>) -> Verdict {
    let (placement, mut refusals) = match place::place(request, facts) {
        Ok(place::Placed::NoChange(why))
            if facts
                .refusals
                .iter()
                .all(|r| harmless_without_change(r) || facts.driver.is_about_change(&r.code)) =>
        {
            return Verdict::NoChange(why);
        }
        Ok(place::Placed::NoChange(_)) => return Verdict::Refused(facts.refusals.clone()),
        Ok(place::Placed::At(placement)) => (Some(placement), Vec::new()),
        Err(refusals) => (None, refusals),
    };
    refusals.splice(0..0, facts.refusals.iter().cloned());
    let Some(placement) = placement else {
        return Verdict::Refused(refusals);
    };
    let estimate = estimate(&placement, facts);
    say_downtime(&mut refusals, &estimate);
    refusals.extend(space(&placement, facts, &estimate));
    if !refusals.is_empty() {
        return Verdict::Refused(refusals);
    }
    let mut notices = facts.notices.clone();
    notices.extend(placement.notices.clone());
    Verdict::Plan(Box::new(Plan {
        schema: SCHEMA.into(),
        producer: env!("CARGO_PKG_VERSION").into(),
        request: request.clone(),
        identity: facts.identity.clone(),
        sector_bytes: facts.sector_bytes,
        disk: Change {
            current: facts.disk_bytes,
            new: placement.disk_bytes,
        },
        partition_number: facts.table.map(|(_, number)| number),
        partition_start: facts.partition.start,
        partition: Change {
            current: facts.partition.len,
            new: placement.partition.len,
        },
        file_system: facts.file_system.kind.clone(),
        uuid: facts.file_system.uuid.clone(),
        label: facts.file_system.label.clone(),
        file_system_size: Change {
            current: facts.file_system.size_bytes,
            new: placement.file_system_bytes,
        },
        steps: steps(&placement, facts),
        checks: checks(facts),
        notices,
        orphans: Vec::new(),
        estimate,
        fingerprint: facts.fingerprint.clone(),
    }))
}

/// A refusal that stands against a change, but not against finding that none is needed: a script
/// that runs a second time must hear `no-change` although the volume is mounted again. What a file system's state adds to these, its
/// driver knows.
fn harmless_without_change(refusal: &Refusal) -> bool {
    [
        "mounted",
        "swap",
        "held",
        "held-by-loop",
        "held-by-emulator",
    ]
    .iter()
    .any(|code| refusal.code == *code)
}

/// Who must take a volume away from its users wants to know for how long.
fn say_downtime(refusals: &mut [Refusal], estimate: &Estimate) {
    let Some(seconds) = estimate.seconds else {
        return;
    };
    for refusal in refusals.iter_mut().filter(|r| r.code == "mounted") {
        let about = match seconds {
            0..=119 => format!("{seconds} seconds"),
            _ => format!("{} minutes", seconds.div_ceil(60)),
        };
        refusal.message.push_str(&format!(
            " The change would keep it away for about {about}."
        ));
    }
}

fn estimate(placement: &Placement, facts: &Facts<'_>) -> Estimate {
    let delta_bytes = facts.driver.delta_bytes(placement.file_system_bytes);
    // Twice in the journal, once in the overlay, and the manifests: 56 bytes a MiB in use.
    let manifests = 2 * (facts.used.total_bytes() / (1 << 20) * 56 + facts.used.len() as u64 * 16);
    let state_bytes = 3 * delta_bytes + manifests + (1 << 20);
    // The used bytes are read for the snapshot, for the comparison of files in part, and back
    // again; the delta is written twice and read once.
    let seconds = facts
        .read_rate
        .filter(|&rate| rate > 0)
        .map(|rate| 1 + (2 * facts.used.total_bytes() + 6 * delta_bytes) / rate);
    Estimate {
        delta_bytes,
        state_bytes,
        state_free_bytes: facts.state_free_bytes,
        seconds,
        measured: false,
    }
}

fn space(placement: &Placement, facts: &Facts<'_>, estimate: &Estimate) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    if estimate.state_bytes > facts.state_free_bytes {
        refusals.push(Refusal::new(
            "no-journal-space",
            format!(
                "the journal and the overlay need about {}, and the state directory {} has {} free",
                Bytes(estimate.state_bytes),
                facts.state_dir,
                Bytes(facts.state_free_bytes)
            ),
            "free some space there, or name a directory on another file system with --state-dir",
        ));
    }
    let growth = placement.disk_bytes.saturating_sub(facts.disk_bytes);
    // Only what is written needs space: the rest of an extended image stays a hole.
    let needed = estimate.delta_bytes.min(growth);
    if let Some(free) = facts.image_free_bytes
        && growth > 0
        && needed > free
    {
        refusals.push(Refusal::new(
            "no-image-space",
            format!(
                "the image needs about {} more, and its file system has {} free",
                Bytes(needed),
                Bytes(free)
            ),
            "free some space on the file system that holds the image",
        ));
    }
    refusals
}

fn steps(placement: &Placement, facts: &Facts<'_>) -> Vec<PlanStep> {
    let step = |name: &str, what: String, writes| PlanStep {
        name: name.into(),
        what,
        writes,
    };
    let fs = &facts.file_system.kind;
    let mut steps = vec![step(
        "snapshot",
        format!(
            "read and hash the {} in use",
            Bytes(facts.used.total_bytes())
        ),
        false,
    )];
    if facts.file_system.needs_replay {
        steps.push(step(REPLAY, replay_step(fs), false));
    }
    steps.push(step(
        "check",
        format!("check the {fs} with its own tool, on the overlay"),
        false,
    ));
    if let Some((_, number)) = facts.table
        && placement.table_changes
    {
        steps.push(step(
            "table",
            format!("give partition {number} its new end, on the overlay"),
            false,
        ));
    }
    let size = Bytes(placement.file_system_bytes);
    steps.push(step(
        "resize",
        format!("resize the {fs} to {size}, on the overlay"),
        false,
    ));
    steps.push(step(
        "compare",
        "check the result, and compare every file with what it was".into(),
        false,
    ));
    steps.push(step(
        "journal",
        "write old and new content of what differs to the journal".into(),
        false,
    ));
    if placement.disk_bytes > facts.disk_bytes {
        steps.push(step(
            "extend",
            format!("extend the image to {}", Bytes(placement.disk_bytes)),
            true,
        ));
    }
    steps.push(step(
        "apply",
        "close the gate, write what differs, flush".into(),
        true,
    ));
    steps.push(step(
        "verify",
        "read everything back past the caches and compare".into(),
        false,
    ));
    steps.push(step(
        "open",
        "write the new superblock, which opens the gate".into(),
        true,
    ));
    steps
}

fn checks(facts: &Facts<'_>) -> Vec<(String, String)> {
    let fs = facts.file_system;
    let table = match facts.table {
        Some((table, _)) => table.state(),
        None => "none: the file system fills the target".into(),
    };
    let state = if fs.needs_replay {
        "journal needs replay"
    } else {
        "clean"
    };
    vec![
        ("partition table".into(), table),
        (
            "file system".into(),
            format!("{}, {} blocks, {state}", fs.kind, Bytes(fs.block_bytes)),
        ),
        ("in use".into(), "by nobody".into()),
        ("other metadata at the ends".into(), "none".into()),
    ]
}

#[cfg(test)]
mod tests;
