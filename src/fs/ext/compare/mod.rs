//! Every file accounted for: two states of one file system, before and after a resize.
//!
//! Before is what the check left, after what the resizer left. (`replayed` compares what a replay
//! of the journal left with what the check left, by the same rules and a few more.)
//!
//! 1. Each inode in use before has exactly one after, and none is new. The number is the identity,
//!    except that a shrink renumbers the inodes of the groups that it cuts off; which number
//!    became which is read from the directories (`renumber`).
//! 2. Of a pair every byte is equal, but for those that `inode` names with the reason: the place
//!    of blocks, checksums, the count of the map's own blocks (to the block), and the times that
//!    `resize2fs` sets on what it renumbers.
//! 3. The map of a file has the same logical blocks, holes and unwritten parts. Its content is
//!    the same: in the same place and not among the changed bytes, or read on both sides.
//! 4. A directory has the same bytes, but for renumbered inodes and the checksum of a block.
//! 5. The superblock differs only in the fields that `superblock` lists; the backups of it and of
//!    the group descriptors are those of the new primary ones.
//! 6. After a resize every mapped block belongs to one inode and is marked as in use (`allocation`).
//! 7. What cannot be read or parsed, on either side, is an error: it was not checked.
//!
//! Memory holds the differences, the renumbered inodes and a few buffers; not the inodes.
//!
//! Not looked at: blocks that are marked as in use and belong to nobody, and counts in the
//! superblock. That is `e2fsck`'s work, after this.

mod allocation;
mod content;
mod directory;
mod inode;
mod renumber;
mod replayed;
mod stamps;
mod superblock;

pub use replayed::only_replayed;
pub use stamps::only_stamped;

use std::collections::BTreeSet;

use crate::disk::DiskRead;
use crate::extent::ExtentMap;
use crate::fs::{Difference, FsError};
use crate::report::{Report, Unit, checkpoint};
use crate::units::escape_bytes;

use super::feature;
use super::inode::{Inode, Kind, RESIZE};
use super::map::{Map, Piece};
use super::walk::{Table, Volume};
use content::Buffers;
use renumber::Renumbering;
use replayed::Ending;

/// What a difference is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Object {
    /// A structure, by its name.
    Named(String),
    /// An inode by its number before.
    Before(u32),
    /// An inode that is only there after.
    After(u32),
}

/// What was done between the two states.
enum Work {
    /// A resize.
    Resize,
    /// The end of what was under way when the journal stopped: see `replayed`.
    Replay(Ending),
}

impl Work {
    fn ending(&self) -> Option<&Ending> {
        match self {
            Work::Resize => None,
            Work::Replay(ending) => Some(ending),
        }
    }
}

/// The differences so far.
struct Findings {
    list: Vec<(Object, &'static str, String)>,
    limit: usize,
    /// Differences that are as they should be.
    expected: BTreeSet<(u32, &'static str)>,
}

impl Findings {
    fn add(&mut self, object: Object, code: &'static str, detail: impl Into<String>) {
        let is_expected = match object {
            Object::Before(number) => self.expected.contains(&(number, code)),
            Object::After(_) | Object::Named(_) => false,
        };
        if !self.is_full() && !is_expected {
            self.list.push((object, code, detail.into()));
        }
    }

    fn is_full(&self) -> bool {
        self.list.len() >= self.limit
    }
}

/// The two states, and what all parts of the comparison need.
struct Comparison<'a> {
    before: &'a Volume<'a>,
    after: &'a Volume<'a>,
    changed: &'a ExtentMap,
    work: Work,
    renumbering: Renumbering,
    findings: Findings,
    buffers: Buffers,
    /// Blocks that the inodes after may still claim: bounds the work that damaged maps cause.
    budget: u64,
    /// The last pair of attribute blocks that was equal: files share them.
    equal_xattrs: Option<(u64, u64)>,
}

/// Compares `before` with `after`, two states of one file system. `changed` are the bytes in which
/// they differ (those beyond the shorter one need not be listed). At most `limit` differences.
///
/// # Errors
/// [`FsError`] where either cannot be read or understood: it could not be checked.
pub fn compare(
    before: &dyn DiskRead,
    after: &dyn DiskRead,
    changed: &ExtentMap,
    limit: usize,
    report: &dyn Report,
) -> Result<Vec<Difference>, FsError> {
    let (before, after) = (Volume::open(before)?, Volume::open(after)?);
    let findings = Findings {
        list: Vec::new(),
        limit: limit.max(1),
        expected: BTreeSet::new(),
    };
    let mut findings = states((&before, &after), changed, Work::Resize, findings, report)?;
    if !findings.is_full() {
        let named = !findings.list.is_empty();
        match allocation::check(&after, &mut findings, report) {
            // A map that cannot be read here is among the differences already.
            Err(FsError::Corrupt(_)) if named => {}
            checked => checked?,
        }
    }
    Ok(named(&before, &after, findings, report))
}

/// Compares two states of one file system.
fn states(
    (before, after): (&Volume<'_>, &Volume<'_>),
    changed: &ExtentMap,
    work: Work,
    mut findings: Findings,
    report: &dyn Report,
) -> Result<Findings, FsError> {
    if !superblock::compare(before, after, &work, &mut findings)? {
        return Ok(findings);
    }
    let renumbering = renumber::derive(before, after, &mut findings, report)?;
    let mut comparison = Comparison {
        before,
        after,
        changed,
        work,
        renumbering,
        findings,
        buffers: Buffers::default(),
        budget: after.sb.blocks,
        equal_xattrs: None,
    };
    comparison.inodes(report)?;
    Ok(comparison.findings)
}

impl Comparison<'_> {
    /// All inodes of both states, group by group.
    fn inodes(&mut self, report: &dyn Report) -> Result<(), FsError> {
        let groups = self
            .before
            .sb
            .group_count()
            .max(self.after.sb.group_count());
        report.phase("comparing files", Some(groups), Unit::Items);
        let (mut old_table, mut new_table) = (Table::new(self.before), Table::new(self.after));
        // Renumbered inodes lie somewhere else: reading them must not lose the chunk in order.
        let mut far_table = Table::new(self.after);
        for group in 0..groups {
            checkpoint(report).map_err(std::io::Error::from)?;
            report.progress(group);
            let (old, new) = (
                self.before.used_inodes(group)?,
                self.after.used_inodes(group)?,
            );
            for number in old.numbers() {
                if self.findings.is_full() {
                    return Ok(());
                }
                let Some(to) = self.renumbering.new_number(number) else {
                    continue;
                };
                if to == number && !new.contains(number) {
                    self.findings.add(
                        Object::Before(number),
                        "file-missing",
                        format!("inode {number} is not in use any more"),
                    );
                    continue;
                }
                let table = if to == number {
                    &mut new_table
                } else {
                    &mut far_table
                };
                self.pair((number, to), old_table.get(number)?, table.get(to)?)?;
            }
            for number in new.numbers() {
                if !old.contains(number) && !self.renumbering.is_image(number) {
                    self.findings.add(
                        Object::After(number),
                        "file-new",
                        format!("inode {number} was not in use before"),
                    );
                }
            }
        }
        report.progress(groups);
        Ok(())
    }

    /// One inode of each state: the number before and after, parsed and raw.
    fn pair(
        &mut self,
        numbers: (u32, u32),
        old: (Inode, &[u8]),
        new: (Inode, &[u8]),
    ) -> Result<(), FsError> {
        // The reserved blocks after the descriptors become fewer or more, and their inode is made
        // anew; no file is in it, and e2fsck checks each of its pointers.
        if numbers.0 == RESIZE && self.before.sb.has(feature::RESIZE_INODE) {
            return Ok(());
        }
        if numbers.0 == numbers.1 && old.1 == new.1 && self.is_untouched(numbers.1, &new.0)? {
            return Ok(());
        }
        let pair = inode::Pair {
            numbers,
            old: &old.0,
            new: &new.0,
            raw: (old.1, new.1),
        };
        match self.work.ending() {
            Some(ending) if ending.cuts(numbers.0) => self.compare_cut(&pair),
            _ => self.compare_pair(&pair),
        }
    }

    /// Whether an inode that is the same byte for byte owns none of the changed bytes. Its map
    /// then is the same as well, and so is all that the map leads to.
    fn is_untouched(&mut self, number: u32, inode: &Inode) -> Result<bool, FsError> {
        let names_inodes = inode.kind() == Kind::Directory || self.before.sb.has(feature::EA_INODE);
        if names_inodes && !self.renumbering.is_empty() {
            return Ok(false);
        }
        if inode.xattr_block != 0 && self.is_changed(inode.xattr_block, 1) {
            return Ok(false);
        }
        let (mut map, mut total) = (Map::new(self.after, number, inode)?, 0);
        while let Some(piece) = map.next_piece()? {
            let (first, len) = match piece {
                Piece::Metadata(block) => (block, 1),
                Piece::Run(run) => (run.physical, run.len),
            };
            if self.is_changed(first, len) {
                return Ok(false);
            }
            total += len;
        }
        self.claim(number, total)?;
        Ok(true)
    }

    /// Whether any byte of these blocks differs between the two states.
    fn is_changed(&self, first: u64, len: u64) -> bool {
        let both = self.before.sb.blocks.min(self.after.sb.blocks);
        let inside = first.checked_add(len).is_some_and(|end| end <= both);
        !inside || self.changed.intersects(self.after.bytes_of(first, len))
    }

    fn claim(&mut self, number: u32, len: u64) -> Result<(), FsError> {
        // `shared_blocks` is the one feature that lets files share their blocks.
        if self.after.sb.has(feature::SHARED_BLOCKS) {
            return Ok(());
        }
        self.budget = self.budget.checked_sub(len).ok_or_else(|| {
            FsError::Corrupt(format!(
                "the files up to inode {number} have more blocks than the file system"
            ))
        })?;
        Ok(())
    }
}

/// The differences with the paths of their objects, where those are to be had: a damaged directory
/// must not hide what was found.
fn named(
    before: &Volume<'_>,
    after: &Volume<'_>,
    findings: Findings,
    report: &dyn Report,
) -> Vec<Difference> {
    let (mut old, mut new) = (BTreeSet::new(), BTreeSet::new());
    for (object, ..) in &findings.list {
        match object {
            Object::Before(number) => old.insert(*number),
            Object::After(number) => new.insert(*number),
            Object::Named(_) => false,
        };
    }
    let old = before.paths(&old, report).unwrap_or_default();
    let new = after.paths(&new, report).unwrap_or_default();
    findings
        .list
        .into_iter()
        .map(|(object, code, detail)| {
            let (paths, number) = match object {
                Object::Named(name) => {
                    return Difference {
                        code: code.into(),
                        object: name,
                        detail,
                    };
                }
                Object::Before(number) => (&old, number),
                Object::After(number) => (&new, number),
            };
            let object = match paths.get(&number) {
                Some(path) => escape_bytes(path),
                None => format!("inode {number}"),
            };
            Difference {
                code: code.into(),
                object,
                detail,
            }
        })
        .collect()
}
