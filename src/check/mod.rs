//! The judgement of a rehearsal: is the result what the plan says, and nothing else?
//!
//! 1. The partition table, read again from the overlay, is as planned to the byte; a GPT is read by
//!    a second reader too.
//! 2. Not one byte differs outside the planned extents.
//! 3. The file system is the planned one, of the planned size, with the same identity; every file
//!    is accounted for.
//! 4. What could not be checked is an error. It never counts as checked.
//!
//! It looks at the frozen overlay: the very object that will be committed.

use std::io;

use crate::disk::DiskRead;
use crate::extent::{Extent, ExtentMap};
use crate::fs::{Difference, Driver, FsError, Observed};
use crate::report::{Refusal, Report};
use crate::table::{self, Opinion, Table};
use crate::units::{Bytes, escape};

/// Differences that are named before the list is cut.
pub const NAMED: usize = 20;

const KEEP: &str = "nothing was written; keep the transaction directory for a bug report";

fn reject(code: &str, message: String) -> Refusal {
    Refusal::new(code, message, KEEP)
}

/// Whether the table on `after` is `before` with this one change.
///
/// # Errors
/// Where it cannot be read.
pub fn table(
    before: &dyn Table,
    after: &dyn DiskRead,
    number: u32,
    last_lba: u64,
) -> io::Result<Vec<Refusal>> {
    let found = table::read(after)?;
    let differences = before.differences(&found, number, last_lba);
    let (Some(now), Some(differences)) = (found.table(), differences) else {
        let mut problems = found.refusals();
        problems.insert(
            0,
            reject(
                "table-not-as-planned",
                format!("after the change there is no healthy {}", before.kind()),
            ),
        );
        return Ok(problems);
    };
    let mut rejections: Vec<Refusal> = differences
        .into_iter()
        .map(|what| reject("table-not-as-planned", what))
        .collect();
    if let Opinion::Differs(what) = now.second_opinion(after)? {
        rejections.extend(what.into_iter().map(|w| reject("table-readers-differ", w)));
    }
    Ok(rejections)
}

/// Whether `before` and `after` hold the same bytes wherever `delta` is outside `allowed`. Units
/// of the delta may reach beyond what is allowed; their bytes there must not differ.
///
/// # Errors
/// Where either cannot be read.
pub fn outside(
    before: &dyn DiskRead,
    after: &dyn DiskRead,
    delta: &ExtentMap,
    allowed: &ExtentMap,
) -> io::Result<Vec<Refusal>> {
    let mut wrong = ExtentMap::new();
    for piece in delta
        .difference(allowed)
        .iter()
        .flat_map(|e| e.split(1 << 20))
    {
        let (old, new) = (padded(before, piece)?, padded(after, piece)?);
        let differing = old
            .iter()
            .zip(&new)
            .enumerate()
            .filter(|(_, (a, b))| a != b);
        differing.for_each(|(at, _)| wrong.insert(Extent::new(piece.start + at as u64, 1)));
    }
    let Some(first) = wrong.iter().next() else {
        return Ok(Vec::new());
    };
    Ok(vec![reject(
        "write-outside",
        format!(
            "{} bytes were changed outside the planned extents, the first run at {first}",
            wrong.total_bytes()
        ),
    )])
}

fn padded(disk: &dyn DiskRead, extent: Extent) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; extent.len as usize];
    let inside = disk
        .len_bytes()
        .saturating_sub(extent.start)
        .min(extent.len) as usize;
    if inside > 0 {
        disk.read_at(extent.start, &mut bytes[..inside])?;
    }
    Ok(bytes)
}

/// Two states of one file system.
pub struct States<'a> {
    /// Before the resizer.
    pub before: &'a dyn DiskRead,
    /// After it.
    pub after: &'a dyn DiskRead,
    /// The bytes in which they differ, from the start of the partition.
    pub changed: &'a ExtentMap,
}

/// Whether the file system is as planned, and every file accounted for.
///
/// # Errors
/// [`FsError`] where it could not be checked.
pub fn file_system(
    driver: &dyn Driver,
    states: &States<'_>,
    planned: (&Observed, u64),
    report: &dyn Report,
) -> Result<Vec<Refusal>, FsError> {
    let (observed, size_bytes) = planned;
    let mut rejections = identity(driver, states, observed, size_bytes)?;
    if rejections.is_empty() {
        rejections.extend(files(driver, states, report)?);
    }
    Ok(rejections)
}

fn identity(
    driver: &dyn Driver,
    states: &States<'_>,
    observed: &Observed,
    size_bytes: u64,
) -> Result<Vec<Refusal>, FsError> {
    let Some(now) = driver.probe(states.after)? else {
        return Ok(vec![reject(
            "file-system-gone",
            "after the resize there is no file system".into(),
        )]);
    };
    let mut rejections = Vec::new();
    if now.size_bytes != size_bytes {
        rejections.push(reject(
            "wrong-size",
            format!(
                "the file system is {:#} after the resize, and {:#} was planned",
                Bytes(now.size_bytes),
                Bytes(size_bytes)
            ),
        ));
    }
    for (name, old, new) in [
        ("UUID", &observed.uuid, &now.uuid),
        ("label", &observed.label, &now.label),
        ("kind", &observed.kind, &now.kind),
    ] {
        if old != new {
            let message = format!(
                "the {name} of the file system was {}, and is {}",
                escape(old),
                escape(new)
            );
            rejections.push(reject("identity-changed", message));
        }
    }
    Ok(rejections)
}

/// Every file accounted for: `before` and `after` hold the same files.
///
/// # Errors
/// [`FsError`] where it could not be checked.
pub fn files(
    driver: &dyn Driver,
    states: &States<'_>,
    report: &dyn Report,
) -> Result<Vec<Refusal>, FsError> {
    let found = driver.compare(states.before, states.after, states.changed, NAMED, report)?;
    Ok(rejections(found))
}

/// Differences that were found, as rejections.
pub fn rejections(found: Vec<Difference>) -> Vec<Refusal> {
    found.into_iter().map(rejection).collect()
}

/// The preparation has changed nothing but the stamps of a check.
///
/// # Errors
/// [`FsError`] where it could not be checked.
pub fn only_prepared(driver: &dyn Driver, states: &States<'_>) -> Result<Vec<Refusal>, FsError> {
    let found = driver.only_prepared(states.before, states.after, states.changed)?;
    Ok(rejections(found))
}

/// The preparation of a file system whose journal waited for replay has changed nothing but what
/// the replay ends.
///
/// # Errors
/// [`FsError`] where it could not be checked.
pub fn only_replayed(
    driver: &dyn Driver,
    states: &States<'_>,
    report: &dyn Report,
) -> Result<Vec<Refusal>, FsError> {
    let found = driver.only_replayed(states.before, states.after, states.changed, NAMED, report)?;
    Ok(rejections(found))
}

fn rejection(difference: Difference) -> Refusal {
    reject(
        &difference.code,
        format!("{}: {}", difference.object, difference.detail),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MemoryDisk;

    #[test]
    fn a_byte_outside_is_found_and_one_inside_is_not() {
        let before = MemoryDisk::fixed(vec![1; 16384]);
        let allowed: ExtentMap = [Extent::new(4096, 5000)].into_iter().collect();
        let delta: ExtentMap = [Extent::new(4096, 8192)].into_iter().collect();
        for (at, outside_it) in [(4096, false), (9095, false), (9096, true), (12287, true)] {
            let mut bytes = vec![1; 16384];
            bytes[at] = 2;
            let found = outside(&before, &MemoryDisk::fixed(bytes), &delta, &allowed).unwrap();
            assert_eq!(!found.is_empty(), outside_it, "byte {at}");
        }
    }
}
