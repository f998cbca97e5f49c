//! Can the partitions be, all of them together?

use super::super::copy::Shape;
use super::LAST_LBA;
use super::chain::Chain;
use super::entry::MbrPartition;
use crate::report::Refusal;
use crate::units::Bytes;

/// No command mends this without a person's judgement.
pub(super) const JUDGE: &str = "look with `sfdisk --verify DISK` and `fdisk -l DISK`; nothing \
     should be resized before it is mended";

/// The same, where the disk may have been read with the wrong sector size or be cut short.
const OUTSIDE: &str = "if this is an image of a disk with sectors of 4096 bytes, say so with \
     --sector-size; if it is a copy, it may have been cut short; otherwise look with `fdisk -l DISK`";

/// Only one extended partition can be, for logical ones are numbered through.
pub(super) fn two_extended(primary: &[MbrPartition]) -> Option<Refusal> {
    let mut extended = primary.iter().filter(|p| p.is_extended());
    let (first, second) = (extended.next()?, extended.next()?);
    Some(Refusal::new(
        "mbr-two-extended",
        format!(
            "partitions {} and {} are both extended ones",
            first.number, second.number
        ),
        JUDGE,
    ))
}

/// Something that takes sectors.
struct Taken {
    first: u64,
    last: u64,
    what: String,
}

fn named(p: &MbrPartition) -> String {
    format!(
        "partition {} (LBA {} to {})",
        p.number,
        p.first_lba,
        p.last_lba()
    )
}

/// What lies where it cannot, or on top of something else.
pub(super) fn places(partitions: &[MbrPartition], chain: &Chain, shape: Shape) -> Vec<Refusal> {
    let mut problems = Vec::new();
    let mut outside = |p: &MbrPartition, of: String| {
        let message = format!("{} lies outside {of}", named(p));
        problems.push(Refusal::new("mbr-outside", message, OUTSIDE));
    };
    let end = shape.last_lba().min(LAST_LBA);
    for p in partitions {
        if p.first_lba == 0 || p.last_lba() > end {
            outside(p, format!("the usable LBA 1 to {end}"));
        }
    }
    let extended = partitions.iter().find(|p| p.is_extended());
    let logical: Vec<MbrPartition> = chain.partitions().collect();
    if let Some(e) = extended {
        for p in &logical {
            if p.first_lba < e.first_lba || p.last_lba() > e.last_lba() {
                outside(p, format!("the extended {}", named(e)));
            }
        }
    }
    let taken = |p: &MbrPartition| Taken {
        first: p.first_lba,
        last: p.last_lba(),
        what: named(p),
    };
    let primary = partitions.len() - logical.len();
    let primary = partitions.iter().take(primary).map(taken).collect();
    let ebrs = chain.ebrs().iter().map(|e| Taken {
        first: e.lba,
        last: e.lba,
        what: format!("the EBR at LBA {}", e.lba),
    });
    let inside = logical.iter().map(taken).chain(ebrs).collect();
    problems.extend(overlaps(primary));
    problems.extend(overlaps(inside));
    problems
}

/// Against the one that reaches furthest, so that each that lies inside it is named.
fn overlaps(mut all: Vec<Taken>) -> Vec<Refusal> {
    all.sort_by_key(|t| (t.first, t.last));
    let mut problems = Vec::new();
    let mut furthest: Option<&Taken> = None;
    for one in &all {
        if let Some(before) = furthest
            && one.first <= before.last
        {
            let message = format!("{} and {} overlap", before.what, one.what);
            problems.push(Refusal::new("mbr-overlap", message, JUDGE));
        }
        if furthest.is_none_or(|before| one.last > before.last) {
            furthest = Some(one);
        }
    }
    problems
}

/// What a person should know about a healthy table.
pub(super) fn notes(shape: Shape) -> Vec<String> {
    let reach = (LAST_LBA + 1) * shape.sector_bytes;
    let len = shape.sectors * shape.sector_bytes;
    match len.checked_sub(reach) {
        None | Some(0) => Vec::new(),
        Some(lost) => vec![format!(
            "an MBR reaches no further than {}: the {} behind that need a GPT",
            Bytes(reach),
            Bytes(lost)
        )],
    }
}
