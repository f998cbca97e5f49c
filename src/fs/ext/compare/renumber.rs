//! Which inode became which.
//!
//! A shrink that cuts groups off gives the inodes of those groups new numbers. Nothing on the disk
//! records them; but the names do: the entry that named the old number names the new one now, at
//! the same place of the same directory. From the directories that kept their number, which are
//! known, the rest is found downwards.
//!
//! The result is a bijection or a difference: each inode that was cut off has one new number, all
//! its names agree on it, nobody else has it, and it was free before.

use std::collections::HashMap;

use crate::fs::FsError;
use crate::report::{Report, Unit, checkpoint};

use super::super::dir::{DirError, Entries, TYPE_DIRECTORY};
use super::super::feature;
use super::super::inode::{FLAG_INLINE_DATA, Inode, Kind};
use super::super::map::Map;
use super::super::walk::{Table, Volume, inline_directory};
use super::super::xattr::{self, Place};
use super::content::{Buffers, each_block_pair};
use super::directory::damaged;
use super::{Findings, Object};

/// The new numbers of inodes.
pub struct Renumbering {
    /// Inodes up to here keep their number.
    limit: u32,
    /// Old and new number, ordered by the old one.
    pairs: Vec<(u32, u32)>,
    /// The new numbers, ordered.
    images: Vec<u32>,
}

impl Renumbering {
    /// Of `pairs`, old and new numbers above and up to `limit`.
    pub fn of(limit: u32, pairs: &[(u32, u32)]) -> Renumbering {
        let mut pairs = pairs.to_vec();
        pairs.sort_unstable();
        let mut images: Vec<u32> = pairs.iter().map(|&(_, new)| new).collect();
        images.sort_unstable();
        Renumbering {
            limit,
            pairs,
            images,
        }
    }

    /// The new number of an inode; `None` for one that was cut off and has none.
    pub fn new_number(&self, old: u32) -> Option<u32> {
        if old <= self.limit {
            return Some(old);
        }
        let at = self
            .pairs
            .binary_search_by_key(&old, |&(old, _)| old)
            .ok()?;
        self.pairs.get(at).map(|&(_, new)| new)
    }

    /// Whether `number` is the new number of an inode that was cut off.
    pub fn is_image(&self, number: u32) -> bool {
        self.images.binary_search(&number).is_ok()
    }

    /// Whether no inode was renumbered.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }
}

struct Search<'a> {
    before: &'a Volume<'a>,
    after: &'a Volume<'a>,
    limit: u32,
    found: HashMap<u32, u32>,
    /// Directories that were cut off and whose new number is known, still to be read.
    waiting: Vec<(u32, u32)>,
    buffers: Buffers,
}

/// Finds the new numbers of all inodes that were cut off.
///
/// # Errors
/// Where a directory cannot be read.
pub fn derive(
    before: &Volume<'_>,
    after: &Volume<'_>,
    findings: &mut Findings,
    report: &dyn Report,
) -> Result<Renumbering, FsError> {
    let limit = after.sb.inodes;
    let mut cut = 0u64;
    for group in after.sb.group_count()..before.sb.group_count() {
        cut += before.used_inodes(group)?.numbers().count() as u64;
    }
    let mut search = Search {
        before,
        after,
        limit,
        found: HashMap::new(),
        waiting: Vec::new(),
        buffers: Buffers::default(),
    };
    if cut > 0 {
        report.phase(
            "finding renumbered files",
            Some(before.sb.group_count()),
            Unit::Items,
        );
        search.superblock(findings);
        search.directories(findings, report)?;
        if before.sb.has(feature::EA_INODE) {
            search.values(findings, report)?;
        }
    }
    let pairs: Vec<(u32, u32)> = search.found.drain().collect();
    let renumbering = Renumbering::of(limit, &pairs);
    if cut > 0 {
        judge(before, after, &renumbering, findings)?;
    }
    Ok(renumbering)
}

/// That the numbers are a bijection between what was cut off and what was free.
fn judge(
    before: &Volume<'_>,
    after: &Volume<'_>,
    renumbering: &Renumbering,
    findings: &mut Findings,
) -> Result<(), FsError> {
    for group in after.sb.group_count()..before.sb.group_count() {
        for number in before.used_inodes(group)?.numbers() {
            if renumbering.new_number(number).is_none() {
                findings.add(Object::Before(number), "file-missing", format!(
                    "inode {number} was in a group that was cut off, and no name leads to a new one"
                ));
            }
        }
    }
    for pair in renumbering.images.windows(2) {
        if let [a, b] = pair
            && a == b
        {
            findings.add(
                Object::After(*a),
                "inode",
                format!("two inodes became inode {a}"),
            );
        }
    }
    let per_group = after.sb.inodes_per_group;
    let mut at = 0;
    while let Some(&first) = renumbering.images.get(at) {
        let group = u64::from((first - 1) / per_group);
        let (old, new) = (before.used_inodes(group)?, after.used_inodes(group)?);
        while let Some(&number) = renumbering.images.get(at)
            && u64::from((number - 1) / per_group) == group
        {
            if old.contains(number) || !new.contains(number) {
                let why = match old.contains(number) {
                    true => "which another file had before",
                    false => "which is not marked as in use",
                };
                findings.add(
                    Object::After(number),
                    "inode",
                    format!("a renumbered inode became inode {number}, {why}"),
                );
            }
            at += 1;
        }
    }
    Ok(())
}

impl Search<'_> {
    /// Notes that inode `old` became `new`, as `directory` or the superblock says.
    fn note(&mut self, old: u32, new: u32, findings: &mut Findings) -> bool {
        if old <= self.limit {
            return false;
        }
        if new == 0 || new > self.limit {
            findings.add(
                Object::Before(old),
                "inode",
                format!("inode {old} is named as inode {new} now, which there is not"),
            );
            return false;
        }
        match self.found.insert(old, new) {
            None => true,
            Some(other) => {
                if other != new {
                    findings.add(
                        Object::Before(old),
                        "inode",
                        format!(
                            "inode {old} is named both as inode {other} and as inode {new} now"
                        ),
                    );
                }
                false
            }
        }
    }

    /// Inodes that the superblock names.
    fn superblock(&mut self, findings: &mut Findings) {
        let (old, new) = (&self.before.sb, &self.after.sb);
        let pairs = [
            (old.journal_inode, new.journal_inode),
            (old.orphan_file_inode, new.orphan_file_inode),
            (old.quota_inodes[0], new.quota_inodes[0]),
            (old.quota_inodes[1], new.quota_inodes[1]),
            (old.quota_inodes[2], new.quota_inodes[2]),
        ];
        for (old, new) in pairs {
            self.note(old, new, findings);
        }
    }

    fn directories(&mut self, findings: &mut Findings, report: &dyn Report) -> Result<(), FsError> {
        let (before, after) = (self.before, self.after);
        let (mut table, mut same) = (Table::new(before), Table::new(after));
        let (mut far_old, mut far_new) = (Table::new(before), Table::new(after));
        for group in 0..before.sb.group_count().min(after.sb.group_count()) {
            checkpoint(report).map_err(std::io::Error::from)?;
            report.progress(group);
            for number in before.used_inodes(group)?.numbers() {
                let (old, raw) = table.get(number)?;
                if old.kind() == Kind::Directory {
                    let (new, new_raw) = same.get(number)?;
                    self.directory((number, &old, raw), (number, &new, new_raw), findings)?;
                }
                while let Some((old_number, new_number)) = self.waiting.pop() {
                    let (old, raw) = far_old.get(old_number)?;
                    if old.kind() == Kind::Directory {
                        let (new, new_raw) = far_new.get(new_number)?;
                        let after = (new_number, &new, new_raw);
                        self.directory((old_number, &old, raw), after, findings)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Learns from the entries of one directory that name inodes that were cut off.
    fn directory(
        &mut self,
        old: (u32, &Inode, &[u8]),
        new: (u32, &Inode, &[u8]),
        findings: &mut Findings,
    ) -> Result<(), FsError> {
        if new.1.kind() != Kind::Directory {
            // Not this search's to report: the pair of inodes differs in its mode.
            return Ok(());
        }
        match [old.1, new.1].map(|inode| inode.has(FLAG_INLINE_DATA)) {
            [true, true] => return self.inline_directory(old, new, findings),
            [false, false] => {}
            // Not this search's to report: the pair of inodes differs in its flags.
            _ => return Ok(()),
        }
        let mut buffers = std::mem::take(&mut self.buffers);
        let (before, after) = (self.before, self.after);
        let maps = (
            Map::new(before, old.0, old.1)?,
            Map::new(after, new.0, new.1)?,
        );
        let walked = each_block_pair(
            (before, maps.0),
            (after, maps.1),
            &mut buffers,
            |logical, a, b| {
                self.list((a, b), findings)
                    .map_err(|error| damaged(old.0, logical, &error))?;
                Ok(true)
            },
        );
        self.buffers = buffers;
        // Maps that differ are reported with the pair.
        walked.map(|_| ())
    }

    /// Learns from a directory inside its inode.
    fn inline_directory(
        &mut self,
        old: (u32, &Inode, &[u8]),
        new: (u32, &Inode, &[u8]),
        findings: &mut Findings,
    ) -> Result<(), FsError> {
        let (a, b) = (
            inline_directory(old.0, old.1, old.2)?,
            inline_directory(new.0, new.1, new.2)?,
        );
        if self.note(a.parent, b.parent, findings) {
            self.waiting.push((a.parent, b.parent));
        }
        for lists in a.lists.into_iter().zip(b.lists) {
            self.list(lists, findings)
                .map_err(|error| damaged(old.0, 0, &error))?;
        }
        Ok(())
    }

    /// Learns from the entries of one list, before and after, that name inodes that were cut off.
    fn list(&mut self, (a, b): (&[u8], &[u8]), findings: &mut Findings) -> Result<(), DirError> {
        for entry in Entries::new(a) {
            let entry = entry?;
            if entry.inode <= self.limit {
                continue;
            }
            // Same place, same name. Where that is not so the directory differs, and the comparison
            // of the directory says how.
            let there = Entries::at(b, entry.at).filter(|e| e.name == entry.name);
            let Some(there) = there else { continue };
            let is_directory = matches!(entry.file_type, 0 | TYPE_DIRECTORY);
            // `..` counts: it may be what is seen of a parent first.
            if self.note(entry.inode, there.inode, findings) && is_directory {
                self.waiting.push((entry.inode, there.inode));
            }
        }
        Ok(())
    }

    /// Inodes that hold the values of extended attributes: no directory names them.
    fn values(&mut self, findings: &mut Findings, report: &dyn Report) -> Result<(), FsError> {
        let (before, after) = (self.before, self.after);
        let mut new_table = Table::new(after);
        before.each_inode(report, |number, old, raw| {
            let to = match number <= self.limit {
                true => number,
                false => match self.found.get(&number) {
                    Some(&to) => to,
                    None => return Ok(()),
                },
            };
            let (new, new_raw) = new_table.get(to)?;
            let tail = |raw: &[u8], inode: &Inode| {
                raw.get(128 + usize::from(inode.extra_bytes)..)
                    .unwrap_or(&[])
                    .to_vec()
            };
            self.value_pairs(
                number,
                &tail(raw, old),
                &tail(new_raw, &new),
                Place::Inode,
                findings,
            )?;
            if old.xattr_block != 0 && new.xattr_block != 0 {
                let (a, b) = (
                    before.block(old.xattr_block)?,
                    after.block(new.xattr_block)?,
                );
                self.value_pairs(number, &a, &b, Place::Block, findings)?;
            }
            Ok(())
        })
    }

    fn value_pairs(
        &mut self,
        number: u32,
        old: &[u8],
        new: &[u8],
        place: Place,
        findings: &mut Findings,
    ) -> Result<(), FsError> {
        let parse = |set| {
            xattr::parse(set, place)
                .map_err(|error| FsError::Corrupt(format!("inode {number}: {error}")))
        };
        let (old, new) = (parse(old)?, parse(new)?);
        let limit = self.limit;
        for a in old.iter().filter(|a| a.value_inode > limit) {
            if let Some(b) = new
                .iter()
                .find(|b| (b.index, &b.name) == (a.index, &a.name))
            {
                self.note(a.value_inode, b.value_inode, findings);
            }
        }
        Ok(())
    }
}
