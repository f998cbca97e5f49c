//! Where the new end will be.

use super::{Facts, Request, To};
use crate::extent::Extent;
use crate::fs::Direction;
use crate::report::Refusal;
use crate::table::Behind;
use crate::units::{ALIGNMENT_BYTES, Bytes, round_down, round_up};

/// The new sizes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Length of the disk or image.
    pub disk_bytes: u64,
    /// The partition.
    pub partition: Extent,
    /// Size of the file system.
    pub file_system_bytes: u64,
    /// Whether the table must be edited.
    pub table_changes: bool,
    /// What became of the request on the way.
    pub notices: Vec<String>,
}

pub(super) enum Placed {
    At(Placement),
    NoChange(String),
}

type Refused = Vec<Refusal>;

fn refuse<T>(code: &str, message: String, hint: impl Into<String>) -> Result<T, Refused> {
    Err(vec![Refusal::new(code, message, hint)])
}

/// Finds the new sizes.
pub(super) fn place(request: &Request, facts: &Facts<'_>) -> Result<Placed, Refused> {
    let disk_bytes = disk_bytes(request, facts)?;
    let mut notices = Vec::new();
    let end = match request.direction {
        Direction::Grow => grown_end(request, facts, disk_bytes, &mut notices)?,
        Direction::Shrink => shrunk_end(request, facts, &mut notices)?,
    };
    let current = facts.partition;
    let wish = Extent::from_range(current.start, end);
    // A bare file system shrinks inside its device, which stays as long as it is.
    let partition = match (facts.table, request.direction) {
        (None, Direction::Shrink) => current,
        (None, Direction::Grow) => Extent::new(0, disk_bytes),
        (Some(_), _) => wish,
    };
    let file_system_bytes = facts.driver.fit(wish.len.min(facts.bounds.max_bytes));
    let now = facts.file_system.size_bytes;
    let settled = match request.direction {
        Direction::Grow => file_system_bytes <= now,
        Direction::Shrink => file_system_bytes >= now,
    };
    let table_changes =
        facts.table.is_some() && (partition != current || disk_bytes != facts.disk_bytes);
    if settled && partition == current && disk_bytes == facts.disk_bytes {
        let whole = match facts.table {
            Some((_, number)) => format!("partition {number}"),
            None => "the target".into(),
        };
        let mut why = format!(
            "the {} is {} already, and {whole} {}",
            facts.file_system.kind,
            Bytes(now),
            Bytes(current.len)
        );
        // Otherwise somebody asked for a little more and hears that he has it.
        for notice in &notices {
            why.push_str(&format!("; {notice}"));
        }
        return Ok(Placed::NoChange(why));
    }
    if settled {
        return settled_file_system(request, facts, file_system_bytes);
    }
    Ok(Placed::At(Placement {
        disk_bytes,
        partition,
        file_system_bytes,
        table_changes,
        notices,
    }))
}

/// The partition would change and the file system would not.
fn settled_file_system(
    request: &Request,
    facts: &Facts<'_>,
    wanted: u64,
) -> Result<Placed, Refused> {
    let fs = facts.file_system;
    match request.direction {
        Direction::Grow if fs.size_bytes >= facts.bounds.max_bytes => refuse(
            "file-system-limit",
            format!(
                "the {} cannot be larger than {}: {}",
                fs.kind,
                Bytes(facts.bounds.max_bytes),
                facts.bounds.max_reason
            ),
            "",
        ),
        Direction::Grow => refuse(
            "too-little-to-grow",
            format!(
                "with {} more there would be room for a {} of {} only, and it has {} now",
                Bytes(wanted.saturating_sub(facts.partition.len)),
                fs.kind,
                Bytes(wanted),
                Bytes(fs.size_bytes)
            ),
            "ask for more, 16 MiB at least",
        ),
        Direction::Shrink => refuse(
            "nothing-to-shrink",
            format!(
                "the {} is {} already, smaller than {}",
                fs.kind,
                Bytes(fs.size_bytes),
                Bytes(wanted)
            ),
            "ask for a smaller size",
        ),
    }
}

fn disk_bytes(request: &Request, facts: &Facts<'_>) -> Result<u64, Refused> {
    let Some(wanted) = request.disk_bytes else {
        return Ok(facts.disk_bytes);
    };
    if facts.identity.kind == super::TargetKind::Device {
        return refuse(
            "disk-size-of-a-device",
            "--disk-size is for image files; a device has the size that it has".into(),
            "enlarge the volume where it is made, then run this again without --disk-size",
        );
    }
    if request.direction == Direction::Shrink {
        return refuse(
            "disk-size-with-shrink",
            "--disk-size goes with grow only".into(),
            "",
        );
    }
    if wanted < facts.disk_bytes {
        return refuse(
            "disk-size-smaller",
            format!(
                "the image is {} long, and would be cut to {}",
                Bytes(facts.disk_bytes),
                Bytes(wanted)
            ),
            "name a larger size",
        );
    }
    Ok(round_down(wanted, facts.sector_bytes.max(4096)).max(facts.disk_bytes))
}

/// The byte after the last one that the partition could have.
fn limit(facts: &Facts<'_>, disk_bytes: u64) -> Result<u64, Refused> {
    let Some((table, number)) = facts.table else {
        return Ok(disk_bytes);
    };
    match table.room(number, disk_bytes) {
        Some(room) => Ok((room.last_lba + 1) * facts.sector_bytes),
        None => refuse(
            "no-room",
            format!("the table leaves no room for partition {number}"),
            "",
        ),
    }
}

fn grown_end(
    request: &Request,
    facts: &Facts<'_>,
    disk_bytes: u64,
    notices: &mut Vec<String>,
) -> Result<u64, Refused> {
    let current = facts.partition;
    let limit = limit(facts, disk_bytes)?;
    let wanted = match request.to {
        To::Max => Some(limit),
        To::Size(bytes) => current.start.checked_add(bytes),
        To::More(bytes) => base(facts).checked_add(bytes),
        To::Less(_) | To::Min => return wrong_way("grow", "shrink"),
    };
    let wanted = wanted.unwrap_or(u64::MAX);
    if wanted < base(facts) {
        return refuse(
            "smaller-than-now",
            format!(
                "{} is smaller than the {} that it has now",
                Bytes(wanted.saturating_sub(current.start)),
                Bytes(base(facts) - current.start)
            ),
            "to make it smaller, use `holdfast shrink`",
        );
    }
    if wanted > limit {
        return no_room(request, facts, wanted, limit, disk_bytes);
    }
    Ok(aligned(
        request,
        facts,
        wanted,
        current.end().min(wanted),
        notices,
    ))
}

/// What a relative size is relative to: a bare file system's own size, or the partition's.
fn base(facts: &Facts<'_>) -> u64 {
    match facts.table {
        Some(_) => facts.partition.end(),
        None => facts.file_system.size_bytes,
    }
}

fn no_room<T>(
    request: &Request,
    facts: &Facts<'_>,
    wanted: u64,
    limit: u64,
    disk_bytes: u64,
) -> Result<T, Refused> {
    let start = facts.partition.start;
    let room = facts
        .table
        .and_then(|(table, number)| table.room(number, disk_bytes));
    let behind = room.map_or(Behind::DiskEnd, |room| room.behind);
    let what = match behind {
        Behind::Partition(number) => format!("partition {number} begins behind it"),
        Behind::DiskEnd => "the disk ends there".into(),
        Behind::Format => "the table counts sectors with 32 bits".into(),
    };
    let hint = match (facts.identity.kind, behind, request.disk_bytes) {
        (super::TargetKind::Image, Behind::DiskEnd, None) => {
            "use --to max, or extend the image with --disk-size"
        }
        (_, Behind::DiskEnd, _) => "use --to max, or enlarge the volume first",
        (_, Behind::Format, _) => "use --to max; only a GPT reaches further",
        (_, Behind::Partition(_), _) => "use --to max, or move what is behind it away first",
    };
    refuse(
        "no-room",
        format!(
            "{} does not fit: there is room up to {:#}, for {what}",
            Bytes(wanted - start),
            Bytes(limit - start)
        ),
        hint,
    )
}

fn wrong_way<T>(this: &str, other: &str) -> Result<T, Refused> {
    refuse(
        "wrong-direction",
        format!("that size does not go with {this}"),
        format!("use `holdfast {other}`"),
    )
}

fn shrunk_end(
    request: &Request,
    facts: &Facts<'_>,
    notices: &mut Vec<String>,
) -> Result<u64, Refused> {
    let current = facts.partition;
    let min_bytes = facts
        .bounds
        .min_bytes
        .max(facts.resizer_min_bytes.unwrap_or(0));
    let wanted_end = match request.to {
        To::Min => current.start.checked_add(min_bytes),
        To::Size(bytes) => current.start.checked_add(bytes),
        To::Less(bytes) => base(facts).checked_sub(bytes),
        To::More(_) | To::Max => return wrong_way("shrink", "grow"),
    };
    let below = |wanted: u64| {
        refuse(
            "below-minimum",
            format!(
                "{} is less than the smallest size, {:#}: {}",
                Bytes(wanted),
                Bytes(min_bytes),
                facts.bounds.min_reason
            ),
            "use that size or a larger one, or --to min",
        )
    };
    let Some(wanted_end) = wanted_end.filter(|&end| end > current.start) else {
        let To::Less(bytes) = request.to else {
            return below(0);
        };
        return refuse(
            "below-minimum",
            format!(
                "{} cannot be taken from the {} that it has; the smallest size is {:#}: {}",
                Bytes(bytes),
                Bytes(base(facts) - current.start),
                Bytes(min_bytes),
                facts.bounds.min_reason
            ),
            "take less, or use --to min",
        );
    };
    if wanted_end > base(facts) {
        return refuse(
            "larger-than-now",
            format!(
                "{} is larger than the {} that it has now",
                Bytes(wanted_end - current.start),
                Bytes(base(facts) - current.start)
            ),
            "to make it larger, use `holdfast grow`",
        );
    }
    if wanted_end - current.start < min_bytes {
        return below(wanted_end - current.start);
    }
    Ok(aligned(request, facts, wanted_end, current.end(), notices))
}

/// The end on a boundary. What was asked for is never exceeded by a grow, nor undercut by a
/// shrink, and an end that is asked for again stays where it is.
fn aligned(
    request: &Request,
    facts: &Facts<'_>,
    wanted: u64,
    current_end: u64,
    notices: &mut Vec<String>,
) -> u64 {
    let start = facts.partition.start;
    let step = match facts.table {
        Some(_) if request.to != To::Max => ALIGNMENT_BYTES,
        _ => facts.sector_bytes,
    };
    let end = match request.direction {
        Direction::Grow => round_down(wanted, step).max(current_end),
        Direction::Shrink => round_up(wanted, step).unwrap_or(wanted).min(current_end),
    };
    if end != wanted && matches!(request.to, To::Size(_) | To::More(_) | To::Less(_)) {
        notices.push(format!(
            "{:#} becomes {:#}, so that the end is a multiple of {}",
            Bytes(wanted - start),
            Bytes(end - start),
            Bytes(step)
        ));
    }
    end
}
