//! The checks that need more than one copy: do the two agree, and can the partitions be?

use std::collections::BTreeMap;

use super::copy::{Copy, Shape, Side};
use super::mbr::Protective;
use super::partition::{Partition, parse_all};
use crate::report::Refusal;

pub(super) const CUT_SHORT: &str =
    "if this is a copy, it was cut short: make it again from the original";

pub(super) const NONE_IS_WHOLE: &str = "no copy is whole: save both ends of the disk with dd, then \
     look for lost partitions, for example with testdisk";

/// Mends one bad copy from the other: sgdisk reads the good one and writes both.
pub(super) const MEND: &str = "look with `gdisk -l DISK`; then `sgdisk -e DISK` writes both copies \
     from the good one";

/// sgdisk takes the one in the last sector where the primary is bad, which may be the leftover.
pub(super) const TWO_BACKUPS: &str = "look at both before anything is written: `gdisk -l` shows \
     the disk as it is, and on `losetup --sizelimit` with the earlier length as it was; mend the \
     right one, nothing should be resized before";

/// The same for an enlarged disk whose primary is bad. sgdisk looks for the backup in the last
/// sector only: run on the whole disk it would find none, make a new empty table and report
/// success. So it gets to see the disk at the length that it had.
pub(super) fn mend_before_growth(old_len_bytes: u64) -> String {
    format!(
        "do not run sgdisk on the whole disk, it would write an empty table; show it the disk as \
         it was: `losetup -f --show --sizelimit {old_len_bytes} DISK`, then `sgdisk -e` and \
         `losetup -d` on the loop device that it names"
    )
}

/// No command mends this without a person's judgement.
pub(super) const JUDGE: &str = "look with `sgdisk -v DISK` and mend it in `gdisk DISK`; nothing \
     should be resized before";

/// What two good copies say against each other.
pub(super) fn copies(primary: &Copy, backup: &Copy) -> Vec<Refusal> {
    let (p, b) = (&primary.header, &backup.header);
    let mut problems = Vec::new();
    let mut differ = |code: &str, what: &str, one: String, other: String| {
        if one != other {
            problems.push(Refusal::new(
                code,
                format!("{what}: the primary GPT says {one}, the backup {other}"),
                JUDGE,
            ));
        }
    };
    let text = |n: u64| n.to_string();
    differ(
        "gpt-disk-guid",
        "disk GUID",
        p.disk_guid.to_string(),
        b.disk_guid.to_string(),
    );
    for (what, one, other) in [
        ("first usable LBA", p.first_usable_lba, b.first_usable_lba),
        ("last usable LBA", p.last_usable_lba, b.last_usable_lba),
        (
            "number of entries",
            p.entry_count.into(),
            b.entry_count.into(),
        ),
        (
            "size of an entry",
            p.entry_bytes.into(),
            b.entry_bytes.into(),
        ),
    ] {
        differ("gpt-copies-differ", what, text(one), text(other));
    }
    differ(
        "gpt-alternate",
        "place of the backup",
        text(p.alternate_lba),
        text(b.my_lba),
    );
    differ(
        "gpt-alternate",
        "place of the primary",
        text(p.my_lba),
        text(b.alternate_lba),
    );
    if primary.used_entries() != backup.used_entries() {
        problems.push(Refusal::new(
            "gpt-copies-differ",
            "the entries of the primary GPT and of the backup differ, and both have a fitting \
             checksum",
            "compare them in gdisk (r, then the backup's commands b and c), keep the right one, \
             and write it",
        ));
    }
    problems
}

/// Whether the range that one copy leaves to partitions keeps clear of its own entries.
pub(super) fn usable_range(copy: &Copy, shape: Shape) -> Vec<Refusal> {
    let h = &copy.header;
    let (first, last) = (h.first_usable_lba, h.last_usable_lba);
    let end = copy.entries_end_lba(shape.sector_bytes);
    let ok = match copy.side {
        Side::Primary => first >= end,
        Side::Backup => last < h.entries_lba,
    };
    if ok && first > 1 && first <= last && last < shape.last_lba() {
        return Vec::new();
    }
    let message = format!(
        "the {} GPT allows partitions from LBA {first} to {last}; its own entries take LBA {} to \
         {}, and the disk ends at LBA {}",
        copy.side,
        h.entries_lba,
        end.saturating_sub(1),
        shape.last_lba()
    );
    vec![Refusal::new("gpt-usable-range", message, JUDGE)]
}

/// The partitions of a copy, and what is wrong with them.
pub(super) fn partitions(copy: &Copy) -> (Vec<Partition>, Vec<Refusal>) {
    let h = &copy.header;
    let partitions = parse_all(copy.used_entries(), h.entry_bytes, h.entry_count);
    let mut problems = Vec::new();
    let mut problem = |code: &str, message: String| {
        problems.push(Refusal::new(code, message, JUDGE));
    };
    let mut owners = BTreeMap::new();
    for p in &partitions {
        let (number, first, last) = (p.number, p.first_lba, p.last_lba);
        if last < first {
            let message = format!("partition {number} starts at LBA {first} and ends at {last}");
            problem("gpt-inverted", message);
        } else if first < h.first_usable_lba || last > h.last_usable_lba {
            let message = format!(
                "partition {number} (LBA {first} to {last}) lies outside the usable LBA {} to {}",
                h.first_usable_lba, h.last_usable_lba
            );
            problem("gpt-outside", message);
        }
        if let Some(other) = owners.insert(p.unique_guid, number) {
            let message = format!(
                "partitions {other} and {number} have the same GUID {}",
                p.unique_guid
            );
            problem("gpt-duplicate-guid", message);
        }
    }
    let mut sorted: Vec<_> = partitions.iter().filter(|p| p.sectors() > 0).collect();
    sorted.sort_by_key(|p| (p.first_lba, p.last_lba));
    // Against the one that reaches furthest, so that each that lies inside it is named.
    let mut furthest: Option<&Partition> = None;
    for p in sorted {
        if let Some(before) = furthest
            && p.first_lba <= before.last_lba
        {
            let message = format!(
                "partitions {} (LBA {} to {}) and {} (LBA {} to {}) overlap",
                before.number, before.first_lba, before.last_lba, p.number, p.first_lba, p.last_lba
            );
            problem("gpt-overlap", message);
        }
        if furthest.is_none_or(|before| p.last_lba > before.last_lba) {
            furthest = Some(p);
        }
    }
    (partitions, problems)
}

/// What is wrong with the one entry of the protective MBR.
pub(super) fn protective(protective: Protective) -> Option<Refusal> {
    (protective.first_lba != 1).then(|| {
        let message = format!(
            "the protective MBR's entry starts at LBA {}, not 1: the kernel does not look for a \
             GPT behind it",
            protective.first_lba
        );
        Refusal::new("gpt-protective-mbr", message, NEW_PROTECTIVE)
    })
}

pub(super) const NEW_PROTECTIVE: &str =
    "if the GPT is right, write a new protective MBR: `gdisk DISK`, then x, n, w";

/// What a person should know about a healthy table.
pub(super) fn notes(primary: &Copy, protective: Protective, shape: Shape) -> Vec<String> {
    let mut notes = Vec::new();
    let known = primary.header.alternate_lba;
    if known < shape.last_lba() {
        notes.push(format!(
            "the disk has grown by {} sectors since the table was written",
            shape.last_lba() - known
        ));
    }
    if !protective.fits(known) && !protective.fits(shape.last_lba()) {
        notes.push(format!(
            "the protective MBR tells of {} sectors, the disk has {}; nothing relies on that \
             number",
            protective.sectors,
            shape.last_lba()
        ));
    }
    if primary.header.entry_bytes != 128 {
        notes.push(format!(
            "entries of {} bytes are allowed, but the Linux kernel reads only those of 128",
            primary.header.entry_bytes
        ));
    }
    notes
}
