//! Swap space.
//!
//! What the driver promises:
//!
//! 1. No byte of a partition makes it panic.
//! 2. A resize changes the one number that says how large the space is. UUID, label, page size and
//!    every other byte of the header stay, and no byte behind the header is touched.
//! 3. A gate that [`Driver::close_gate`] made is refused by the kernel and not seen by `blkid`.
//!
//! What it does not do: keep what was swapped out. That is worthless once nobody swaps to the space,
//! and whoever does is found by the survey. A system that sleeps in it is refused here.
//!
//! There is no stock tool that resizes swap space, and `mkswap` forgets what it is not told again;
//! so the driver writes the number itself. `swaplabel` reads the header before and after.

pub mod gate;
pub mod header;

#[cfg(test)]
mod tests;

use std::ffi::OsStr;
use std::path::Path;

use crate::disk::{Disk, DiskRead, read_vec};
use crate::extent::{Extent, ExtentMap};
use crate::report::{Refusal, Report};
use crate::units::Bytes;

#[cfg(test)]
use self::header::Fields;
use self::header::{FIELDS, Header, LAST_PAGE_AT, LEAST_PAGES};
use super::tool::{Tool, ToolError, Tools};
use super::{Bounds, Difference, Direction, Driver, FsError, GateState, Observed, TransactionId};

/// Reads the header.
const SWAPLABEL: Tool = Tool {
    name: "swaplabel",
    package: "util-linux",
    env: &[],
};

/// The driver for swap space.
#[derive(Clone, Copy, Debug, Default)]
pub struct Swap;

impl Driver for Swap {
    fn name(&self) -> &'static str {
        "swap"
    }

    fn probe(&self, part: &dyn DiskRead) -> Result<Option<Observed>, FsError> {
        let Some(header) = Header::read(part)? else {
            return Ok(None);
        };
        let gate = match self.gate(&read_fields(part)?) {
            GateState::Closed(id) => Some(id),
            GateState::Open => None,
            // The magic alone may be left from what was here before.
            GateState::Invalid => return Ok(None),
        };
        Ok(Some(observe(&header, gate)))
    }

    fn refusals(&self, part: &dyn DiskRead, _: Direction) -> Result<Vec<Refusal>, FsError> {
        let header = header_of(part)?;
        if let GateState::Closed(id) = self.gate(&read_fields(part)?) {
            return Ok(vec![Refusal::new(
                "swap-gated",
                format!(
                    "transaction {id} did not end: the swap space is half-way between two sizes"
                ),
                "run `holdfast recover` first",
            )]);
        }
        let mut found = Vec::new();
        if header.fields.bad_pages != 0 {
            found.push(Refusal::new(
                "swap-bad-pages",
                format!(
                    "the swap space lists {} bad pages: the medium is failing",
                    header.fields.bad_pages
                ),
                "replace the disk; `mkswap -c` makes swap space with a new list",
            ));
        }
        let (size, there) = (header.size_bytes(), part.len_bytes());
        if size > there {
            found.push(Refusal::new(
                "swap-larger-than-partition",
                format!(
                    "the swap space says that it is {:#}, and its partition has {:#}",
                    Bytes(size),
                    Bytes(there)
                ),
                "enlarge the partition, or make the swap space anew with `mkswap`",
            ));
        }
        Ok(found)
    }

    fn bounds(&self, part: &dyn DiskRead) -> Result<Bounds, FsError> {
        let page = header_of(part)?.page_bytes;
        Ok(Bounds {
            min_bytes: LEAST_PAGES * page,
            min_reason: format!(
                "swap space has {LEAST_PAGES} pages of {} at least",
                Bytes(page)
            ),
            max_bytes: u64::from(u32::MAX) * page,
            max_reason: "the number of a page has 32 bits".into(),
            unit_bytes: page,
        })
    }

    fn used(&self, part: &dyn DiskRead, _: &dyn Report) -> Result<ExtentMap, FsError> {
        Ok([header_of(part)?.page()].into_iter().collect())
    }

    fn superblock(&self) -> Extent {
        FIELDS
    }

    fn close_gate(&self, superblock: &[u8], id: TransactionId) -> Result<Vec<u8>, FsError> {
        gate::close(superblock, id)
    }

    fn gate(&self, superblock: &[u8]) -> GateState {
        gate::state(superblock)
    }

    fn resize_own(&self, part: &dyn Disk, new_bytes: u64, _: &dyn Report) -> Result<bool, FsError> {
        let page = header_of(part)?.page_bytes;
        let last = (new_bytes / page).checked_sub(1);
        let last = last
            .and_then(|last| u32::try_from(last).ok())
            .ok_or_else(|| FsError::Corrupt("no swap space has such a size".into()))?;
        part.write_at(FIELDS.start + LAST_PAGE_AT as u64, &last.to_ne_bytes())?;
        Ok(true)
    }

    fn verify(&self, file: &Path, tools: &Tools<'_>) -> Result<(), ToolError> {
        let args: [&OsStr; 1] = [file.as_os_str()];
        tools.run(SWAPLABEL, &args)?.accept(&[0])?;
        Ok(())
    }

    fn fit(&self, part: &dyn DiskRead, bytes: u64) -> Result<u64, FsError> {
        let page = header_of(part)?.page_bytes;
        Ok((bytes / page).min(u64::from(u32::MAX)) * page)
    }

    fn delta_estimate(&self, part: &dyn DiskRead, _: &ExtentMap, _: u64) -> Result<u64, FsError> {
        // The page with the header, and both copies of a partition table.
        Ok(header_of(part)?.page_bytes + (64 << 10))
    }

    fn compare(
        &self,
        before: &dyn DiskRead,
        after: &dyn DiskRead,
        changed: &ExtentMap,
        limit: usize,
        _: &dyn Report,
    ) -> Result<Vec<Difference>, FsError> {
        compare(before, after, changed, limit)
    }

    fn has_content(&self) -> bool {
        false
    }

    fn consequences(&self) -> Vec<String> {
        vec![
            "what was swapped out is not kept: nobody needs it once nobody swaps to it".into(),
            "the swap space is not moved: its start stays where it is".into(),
        ]
    }

    fn owners(
        &self,
        part: &dyn DiskRead,
        extents: &ExtentMap,
        limit: usize,
    ) -> Result<Vec<String>, FsError> {
        let page = header_of(part)?.page();
        let mut names = Vec::new();
        if extents.intersects(page) {
            names.push("the header of the swap space".into());
        }
        if extents.end() > page.end() {
            names.push("what was swapped out".into());
        }
        names.truncate(limit);
        Ok(names)
    }
}

fn observe(header: &Header, gate: Option<TransactionId>) -> Observed {
    let gated = |id| format!("closed by the gate of transaction {id}");
    let notes = gate.map(gated).into_iter().collect();
    Observed {
        kind: "swap".into(),
        uuid: header.fields.uuid_text(),
        label: String::from_utf8_lossy(&header.fields.label).into_owned(),
        block_bytes: header.page_bytes,
        size_bytes: header.size_bytes(),
        used_bytes: header.page_bytes,
        files: 0,
        features: Vec::new(),
        notes,
        needs_replay: false,
        last_used: None,
        gate,
    }
}

fn header_of(part: &dyn DiskRead) -> Result<Header, FsError> {
    Header::read(part)?.ok_or_else(|| FsError::Corrupt("there is no swap space".into()))
}

fn read_fields(part: &dyn DiskRead) -> Result<Vec<u8>, FsError> {
    Ok(read_vec(part, FIELDS.start, FIELDS.len as usize)?)
}

/// The header is the same but for the size, and nothing behind it was touched.
fn compare(
    before: &dyn DiskRead,
    after: &dyn DiskRead,
    changed: &ExtentMap,
    limit: usize,
) -> Result<Vec<Difference>, FsError> {
    let page = header_of(before)?.page();
    let mut found = Vec::new();
    let mut differs = |object: &str, detail: String| {
        found.push(Difference {
            code: "superblock".into(),
            object: object.into(),
            detail,
        });
    };
    let old = read_vec(before, 0, page.len as usize)?;
    let new = read_vec(after, 0, page.len as usize)?;
    let size = FIELDS.start as usize + LAST_PAGE_AT;
    let size = size..size + 4;
    let wrong = old.iter().zip(&new).enumerate();
    let mut wrong = wrong.filter(|(at, (old, new))| old != new && !size.contains(at));
    if let Some((at, (old, new))) = wrong.next() {
        differs(
            "swap header",
            format!("byte {at} was {old:#04x}, and is {new:#04x}"),
        );
    }
    let rest = changed.iter().find(|e| e.end() > page.end());
    if let Some(extent) = rest {
        differs(
            "swap space",
            format!("something was written behind the header, at {extent}"),
        );
    }
    found.truncate(limit);
    Ok(found)
}

/// The fields of `part`, for messages of tests.
#[cfg(test)]
fn fields_of(part: &dyn DiskRead) -> Fields {
    Fields::parse(&read_fields(part).unwrap_or_default())
}
