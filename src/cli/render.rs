//! Results as text for people.

use std::fmt::Write;
use std::path::Path;

use crate::plan::{Plan, TargetKind};
use crate::table::{Found, Table};
use crate::transaction::manifest::{Compared, Taken};
use crate::transaction::undo::Undone;
use crate::transaction::{Done, Ending, Entry, Look, Progress};
use crate::units::{Bytes, duration, escape};

const BAR: u64 = 56;

/// Adds a line; writing to a string cannot fail.
macro_rules! line {
    ($out:expr) => { $out.push('\n') };
    ($out:expr, $($arg:tt)*) => {{ let _ = writeln!($out, $($arg)*); }};
}

/// The disk as a bar: `=` the partition, `.` the rest.
fn bar(disk_bytes: u64, start: u64, len: u64, scale: u64) -> String {
    let cell = |at: u64| (u128::from(at) * u128::from(BAR) / u128::from(scale.max(1))) as u64;
    let (from, to, end) = (cell(start), cell(start + len), cell(disk_bytes).max(1));
    (0..end)
        .map(|i| {
            if i >= from && i < to.max(from + 1) {
                '='
            } else {
                '.'
            }
        })
        .collect()
}

/// A plan.
pub fn plan(plan: &Plan) -> String {
    let mut out = String::new();
    let kind = match plan.identity.kind {
        TargetKind::Image => "image",
        TargetKind::Device => "device",
    };
    line!(
        out,
        "target       {} ({kind}, {}, {}-byte sectors)",
        escape(&plan.identity.path),
        Bytes(plan.disk.current),
        plan.sector_bytes
    );
    line!(
        out,
        "file system  {}{}, UUID {}",
        plan.file_system,
        label(&plan.label),
        plan.uuid
    );
    line!(out);
    let scale = plan.disk.current.max(plan.disk.new);
    let (before, after) = (plan.partition_before(), plan.partition_after());
    line!(
        out,
        "before       [{:<width$}]",
        bar(plan.disk.current, before.start, before.len, scale),
        width = BAR as usize
    );
    line!(
        out,
        "after        [{:<width$}]",
        bar(plan.disk.new, after.start, after.len, scale),
        width = BAR as usize
    );
    line!(out);
    let mut sizes = vec![];
    if plan.disk.current != plan.disk.new {
        sizes.push(("image".to_string(), plan.disk));
    }
    if let Some(number) = plan.partition_number {
        sizes.push((format!("partition {number}"), plan.partition));
    }
    sizes.push((plan.file_system.clone(), plan.file_system_size));
    for (name, change) in sizes {
        let arrow = if change.current == change.new {
            "stays"
        } else {
            "→"
        };
        if change.current == change.new {
            line!(out, "{name:<12} {arrow} {}", Bytes(change.current));
        } else {
            line!(
                out,
                "{name:<12} {} {arrow} {:#}",
                Bytes(change.current),
                Bytes(change.new)
            );
        }
    }
    line!(out);
    for (what, found) in &plan.checks {
        line!(out, "checked      {what}: {found}");
    }
    line!(out);
    for (number, step) in plan.steps.iter().enumerate() {
        let mark = if step.writes { "WRITES" } else { "" };
        line!(
            out,
            "{:>2} {:<10}{mark:<7} {}",
            number + 1,
            step.name,
            step.what
        );
    }
    line!(out);
    let estimate = &plan.estimate;
    let about = if estimate.measured { "" } else { "about " };
    line!(
        out,
        "changes      {about}{} on the target",
        Bytes(estimate.delta_bytes)
    );
    line!(
        out,
        "journal      {about}{} in the state directory, {} free",
        Bytes(estimate.state_bytes),
        Bytes(estimate.state_free_bytes)
    );
    if let Some(seconds) = estimate.seconds {
        line!(
            out,
            "time         about {}; the file system is away all that time",
            duration(seconds)
        );
    }
    for notice in &plan.notices {
        line!(out, "note         {}", escape(notice));
    }
    out
}

fn label(text: &str) -> String {
    match text {
        "" => String::new(),
        text => format!(" \"{}\"", escape(text)),
    }
}

/// What a change came to.
pub fn done(done: &Done) -> String {
    let mut out = String::new();
    let plan = &done.plan;
    match &done.ending {
        Ending::Applied => {
            let path = escape(&plan.identity.path);
            let part = plan
                .partition_number
                .map_or(String::new(), |n| format!(" partition {n}"));
            line!(
                out,
                "done: the {} in {path}{part} has {}, and had {}",
                plan.file_system,
                Bytes(plan.file_system_size.new),
                Bytes(plan.file_system_size.current)
            );
            let past = if done.cached {
                "through the page cache (cached)"
            } else {
                "past the page cache"
            };
            line!(
                out,
                "  written      {}, as much as differed; journal {}",
                Bytes(done.delta_bytes),
                Bytes(done.journal_bytes)
            );
            line!(
                out,
                "  read back    {} {past}, all equal",
                Bytes(done.verified_bytes)
            );
            line!(
                out,
                "  time         {:.1} s, {:.1} s of it for commit and verification",
                done.seconds,
                done.commit_seconds
            );
            line!(out, "  transaction  {}", done.id);
            line!(
                out,
                "undo it, as long as the target has not been used:\n  holdfast rollback {}",
                done.id
            );
        }
        Ending::RolledBack { cause } => {
            line!(out, "rolled back: {cause}");
            line!(out, "  the target is as before, read back and compared");
            line!(out, "  transaction  {}", done.id);
        }
        Ending::NotClosed { cause } => {
            line!(out, "DONE, BUT NOT CLOSED: {cause}");
            line!(
                out,
                "  the target is as planned, read back and compared; its journal still calls for recovery"
            );
            line!(out, "  transaction  {}", done.id);
            line!(
                out,
                "before the target is used, and when the state directory works again: holdfast recover"
            );
        }
        Ending::Stuck {
            cause,
            rollback,
            differing,
        } => {
            line!(out, "NOT FINISHED: {cause}");
            line!(out, "  and the rollback failed: {rollback}");
            for extent in differing.iter().take(20) {
                line!(out, "  differs      {extent}");
            }
            line!(
                out,
                "  the gate is closed: nothing can mount the file system, and nothing is lost yet"
            );
            line!(out, "  transaction  {}", done.id);
            line!(
                out,
                "when the device works again: holdfast recover {}",
                done.id
            );
        }
    }
    out
}

/// The partitions of a table.
fn slots(out: &mut String, look: &Look, table: &dyn Table) {
    for slot in table.partitions() {
        let chosen = if look.number == Some(slot.number) {
            "*"
        } else {
            " "
        };
        let extent = table.extent(slot.number);
        line!(
            out,
            "  {chosen}{:>3}  {:>12}  {}  {}",
            slot.number,
            extent.map_or(String::new(), |e| Bytes(e.len).to_string()),
            slot.kind.unwrap_or("unknown type"),
            escape(&slot.name)
        );
    }
}

/// A survey.
pub fn look(look: &Look) -> String {
    let mut out = String::new();
    let len = crate::disk::DiskRead::len_bytes(&*look.disk);
    let kind = match &look.device {
        Some(_) => "device",
        None => "image",
    };
    line!(
        out,
        "target       {} ({kind}, {}, {}-byte sectors)",
        look.shown,
        Bytes(len),
        crate::disk::DiskRead::geometry(&*look.disk).logical_sector_bytes
    );
    if let Some(device) = &look.device {
        let model = device
            .model
            .as_deref()
            .map_or(String::new(), |m| format!(", {}", escape(m)));
        line!(out, "disk         {}{model}", device.node.display());
    }
    match &look.table {
        Found::None { .. } => line!(out, "table        none"),
        Found::Gpt(gpt) => {
            line!(
                out,
                "table        GPT {}, both copies good",
                gpt.disk_guid()
            );
            slots(&mut out, look, &**gpt);
        }
        Found::Mbr(mbr) => {
            line!(out, "table        MBR {:08x}", mbr.disk_signature());
            slots(&mut out, look, &**mbr);
        }
        Found::DamagedGpt { .. } => line!(out, "table        a damaged GPT"),
        Found::HybridMbr { .. } => line!(out, "table        a GPT with a hybrid MBR"),
        Found::DamagedMbr { .. } => line!(out, "table        a damaged MBR"),
    }
    if let Some(volume) = &look.file_system {
        let fs = &volume.observed;
        line!(
            out,
            "file system  {}{}, UUID {}",
            fs.kind,
            label(&fs.label),
            fs.uuid
        );
        line!(
            out,
            "  size         {}, {} in use, {} files",
            Bytes(fs.size_bytes),
            Bytes(fs.used_bytes),
            fs.files
        );
        line!(out, "  features     {}", fs.features.join(" "));
    }
    for notice in &look.notices {
        line!(out, "note         {}", escape(notice));
    }
    out
}

/// The transactions.
pub fn status(entries: &[Entry], now: u64) -> String {
    let mut out = String::new();
    if entries.is_empty() {
        return "no transactions\n".into();
    }
    line!(
        out,
        "{:<34}{:<16}{:<9}TARGET",
        "TRANSACTION",
        "STATE",
        "AGE"
    );
    for entry in entries {
        let state = match &entry.progress {
            Progress::NotCommitted => "not committed",
            Progress::Hot => "HOT: recover",
            Progress::Applied => "applied",
            Progress::RolledBack => "rolled back",
            Progress::Abandoned => "abandoned",
            Progress::Damaged(_) => "DAMAGED",
        };
        let began = entry.summary.as_ref().map(|s| s.began);
        let age = began.map_or("?".into(), |b| age(now.saturating_sub(b)));
        let target = entry
            .identity
            .as_ref()
            .map_or("?".into(), |i| match i.partition_number {
                Some(number) => format!("{} partition {number}", escape(&i.path)),
                None => escape(&i.path),
            });
        line!(
            out,
            "{:<34}{state:<16}{age:<9}{target}",
            entry.id.to_string()
        );
        if let Progress::Damaged(what) = &entry.progress {
            line!(out, "  its journal cannot be read: {}", escape(what));
        }
    }
    if entries.iter().any(|e| e.progress == Progress::Hot) {
        line!(out, "finish what is HOT with: holdfast recover");
    }
    out
}

fn age(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// Recoveries and rollbacks.
pub fn undone(undone: &[Undone]) -> String {
    let mut out = String::new();
    for one in undone {
        let state = if one.applied {
            "as after the change"
        } else {
            "as before the change"
        };
        line!(
            out,
            "{}: {} is {state}, {}",
            one.id,
            escape(&one.target.to_string_lossy()),
            match one.whole {
                true => "read back and compared",
                false => "where it was written; of the rest, what was lost before is still lost",
            }
        );
    }
    if undone.is_empty() {
        line!(out, "nothing to recover");
    }
    out
}

/// A verification.
pub fn compared(found: &Compared) -> String {
    const SHOWN: usize = 20;
    let mut out = String::new();
    let how = if found.cached {
        " (through the page cache)"
    } else {
        ""
    };
    if found.extents.is_empty() {
        line!(out, "equal: {} compared{how}", Bytes(found.bytes));
        return out;
    }
    let bytes: u64 = found.extents.iter().map(|e| e.len).sum();
    line!(
        out,
        "DIFFERS: {} of the {} that were compared{how}",
        Bytes(bytes),
        Bytes(found.bytes)
    );
    if let Some(chunk) = found.first_chunk {
        line!(out, "  first chunk  {chunk}");
    }
    let more = |all: usize| match all.saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!("  and          {more} more, listed with --json\n"),
    };
    for extent in found.extents.iter().take(SHOWN) {
        line!(out, "  differs      {extent}");
    }
    out.push_str(&more(found.extents.len()));
    for owner in found.owners.iter().take(SHOWN) {
        line!(out, "  belongs to   {owner}");
    }
    out.push_str(&more(found.owners.len()));
    if found.more_owners {
        line!(out, "  and          others, which nobody counted");
    }
    out
}

/// A snapshot.
pub fn taken(target: &str, file: &Path, taken: &Taken) -> String {
    let how = if taken.cached {
        " (through the page cache)"
    } else {
        ""
    };
    format!(
        "snapshot of {target}: {} in use, {} chunks{how}\n  root hash    {}\n  manifest     {}\n",
        Bytes(taken.bytes),
        taken.chunks,
        taken.root,
        escape(&file.to_string_lossy())
    )
}
