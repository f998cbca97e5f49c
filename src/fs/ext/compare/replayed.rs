//! What the tools made of a journal that waited for replay, against the replay alone.
//!
//! Before is [`super::super::replay`]'s state: the journal's copies in their places. After is what
//! e2fsck left, which replayed the same journal on its own, and ended what was under way. They may
//! differ in this, and in nothing else:
//!
//! 1. Orphans without a name are gone; those with one are cut to their size: up to it the map and
//!    the content are the same, and all fields but the count of blocks and the link of the list.
//! 2. With them: the bitmaps, the descriptors, the references to blocks of attributes, the orphan
//!    file, and the content of quota files. Whether those are right is e2fsck's to say.
//! 3. The superblock, in the fields that `superblock` lists, and the journal's own, which says that
//!    it is empty.
//!
//! It compares files as for a resize, and then bytes: none may differ that belongs to none of
//! these, not even in a free block.

use std::collections::{BTreeMap, BTreeSet};

use crate::disk::DiskRead;
use crate::extent::{Extent, ExtentMap};
use crate::fs::{Difference, FsError};
use crate::report::Report;

use super::super::inode::Inode;
use super::super::jbd2::Journal;
use super::super::map::{Map, Piece};
use super::super::orphan;
use super::super::superblock::{SUPERBLOCK_BYTES, SUPERBLOCK_OFFSET};
use super::super::used::{StructureKind, structures};
use super::super::walk::{Table, Volume};
use super::content::{Pairs, Step};
use super::inode::Pair;
use super::stamps;
use super::{Comparison, Findings, Object, Work, named, states};
use crate::fs::bytes::u32_at;

/// The byte of an inode with the link of the list of orphans.
const DTIME: std::ops::Range<usize> = 20..24;

/// The orphans whose end is expected.
pub struct Ending {
    orphans: BTreeMap<u32, Inode>,
}

impl Ending {
    /// Whether inode `number` is to be cut to its size.
    pub fn cuts(&self, number: u32) -> bool {
        self.orphans.get(&number).is_some_and(|o| o.links > 0)
    }

    /// Whether any file is to be deleted.
    pub fn deletes(&self) -> bool {
        self.orphans.values().any(|orphan| orphan.links == 0)
    }

    /// The differences that follow from it.
    fn expected(&self, before: &Volume<'_>) -> BTreeSet<(u32, &'static str)> {
        let sb = &before.sb;
        let gone = self.orphans.iter().filter(|(_, orphan)| orphan.links == 0);
        let mut expected: BTreeSet<_> = gone.map(|(&number, _)| (number, "file-missing")).collect();
        expected.insert((sb.journal_inode, "journal"));
        if !self.orphans.is_empty() {
            expected.insert((sb.orphan_file_inode, "file-content"));
            for number in sb.quota_inodes {
                expected
                    .extend(["file-content", "map", "size", "times"].map(|code| (number, code)));
            }
        }
        expected
    }
}

/// What differs between `before`, the replay alone, and `after`, what the tools made, besides what
/// the head of this module lists. `changed` are the bytes in which they may differ.
///
/// # Errors
/// [`FsError`] where either cannot be read or understood.
pub fn only_replayed(
    before: &dyn DiskRead,
    after: &dyn DiskRead,
    changed: &ExtentMap,
    limit: usize,
    report: &dyn Report,
) -> Result<Vec<Difference>, FsError> {
    let (before, after) = (Volume::open(before)?, Volume::open(after)?);
    let ending = Ending {
        orphans: orphan::list(&before)?,
    };
    let may_differ = may_differ(&before, &after, &ending)?;
    let mut findings = Findings {
        list: Vec::new(),
        limit: limit.max(1),
        expected: ending.expected(&before),
    };
    left_over(&after, &mut findings)?;
    let work = Work::Replay(ending);
    let findings = states((&before, &after), changed, work, findings, report)?;
    let mut differences = named(&before, &after, findings, report);
    let wrong = stamps::beyond(before.part, after.part, changed, &may_differ)?;
    if let Some(first) = wrong.iter().next() {
        differences.push(Difference {
            code: "replay-differs".into(),
            object: "file system".into(),
            detail: format!(
                "{} bytes are not what the journal makes of them, the first run at {first} of the \
                 partition",
                wrong.total_bytes()
            ),
        });
    }
    Ok(differences)
}

/// That nothing is under way any more.
fn left_over(after: &Volume<'_>, findings: &mut Findings) -> Result<(), FsError> {
    for &number in orphan::list(after)?.keys() {
        findings.add(
            Object::After(number),
            "orphan-left",
            "it is still in the list of orphans",
        );
    }
    if let Some(journal) = Journal::open(after)?
        && !journal.is_empty()
    {
        let object = Object::Named("journal".into());
        findings.add(object, "journal", "it still has a log to replay");
    }
    Ok(())
}

/// The bytes that may differ.
fn may_differ(
    before: &Volume<'_>,
    after: &Volume<'_>,
    ending: &Ending,
) -> Result<ExtentMap, FsError> {
    let sb = &before.sb;
    // Its fields are compared one by one.
    let mut may = stamps::excused(after.part, &after.sb)?;
    may.insert(Extent::new(SUPERBLOCK_OFFSET, SUPERBLOCK_BYTES as u64));
    if let Some(journal) = Journal::open(before)? {
        may.insert(before.bytes_of(journal.superblock_block()?, 1));
    }
    if ending.orphans.is_empty() {
        return Ok(may);
    }
    for (number, group) in before.groups.iter() {
        let bitmaps = structures(sb, number, group).into_iter().filter(|s| {
            let primary = number == 0 && s.kind == StructureKind::Descriptors;
            primary
                || matches!(
                    s.kind,
                    StructureKind::BlockBitmap | StructureKind::InodeBitmap
                )
        });
        for structure in bitmaps {
            let blocks = structure.blocks;
            may.insert(before.bytes_of(blocks.start, blocks.end - blocks.start));
        }
    }
    for (&number, inode) in &ending.orphans {
        belongings(before, number, inode, &mut may)?;
    }
    let mut table = Table::new(before);
    let files = sb.quota_inodes.into_iter().chain([sb.orphan_file_inode]);
    for number in files.filter(|&number| number != 0) {
        let (inode, _) = table.get(number)?;
        belongings(before, number, &inode, &mut may)?;
    }
    Ok(may)
}

/// An inode's place in its table, its blocks, those of its map, and the one of its attributes.
fn belongings(
    volume: &Volume<'_>,
    number: u32,
    inode: &Inode,
    all: &mut ExtentMap,
) -> Result<(), FsError> {
    let sb = &volume.sb;
    let index = u64::from(number - 1);
    let (group, at) = (
        index / u64::from(sb.inodes_per_group),
        index % u64::from(sb.inodes_per_group),
    );
    if let Some(group) = volume.groups.get(group) {
        let table = volume.bytes_of(group.inode_table, sb.inode_table_blocks());
        let size = u64::from(sb.inode_bytes);
        all.insert(Extent::new(table.start + at * size, size));
    }
    let mut map = Map::new(volume, number, inode)?;
    while let Some(piece) = map.next_piece()? {
        all.insert(match piece {
            Piece::Metadata(block) => volume.bytes_of(block, 1),
            Piece::Run(run) => volume.bytes_of(run.physical, run.len),
        });
    }
    if inode.xattr_block != 0 && inode.xattr_block < sb.blocks {
        all.insert(volume.bytes_of(inode.xattr_block, 1));
    }
    Ok(())
}

impl Comparison<'_> {
    /// An orphan that keeps its name, before and after it was cut to its size.
    pub fn compare_cut(&mut self, pair: &Pair<'_>) -> Result<(), FsError> {
        let number = pair.numbers.0;
        let mut raw = pair.raw.0.to_vec();
        if let (Some(link), 0) = (raw.get_mut(DTIME), u32_at(pair.raw.1, DTIME.start)) {
            link.fill(0);
        }
        let unlinked = Inode::parse(&raw);
        let pair = Pair {
            numbers: pair.numbers,
            old: &unlinked,
            new: pair.new,
            raw: (&raw, pair.raw.1),
        };
        self.compare_fields(&pair, false);
        self.compare_attributes(&pair)?;
        if !pair.old.has_map() || !pair.new.has_map() {
            return Ok(());
        }
        let end = pair.old.size.div_ceil(self.before.sb.block_bytes);
        let maps = (
            Map::new(self.before, number, pair.old)?,
            Map::new(self.after, number, pair.new)?,
        );
        let mut pairs = Pairs::up_to(maps.0, maps.1, end);
        loop {
            let both = match pairs.step()? {
                Step::End => return Ok(()),
                Step::Differ(detail) => {
                    self.findings.add(Object::Before(number), "map", detail);
                    return Ok(());
                }
                Step::Both(both) => both,
            };
            self.claim(number, both.len)?;
            let differs = self.first_difference(&both)?;
            // What lies between the end of the file and that of its last block is zeroed.
            if let Some(at) = differs.filter(|&at| at < pair.old.size) {
                let detail = format!("the content differs from byte {at} on");
                self.findings
                    .add(Object::Before(number), "file-content", detail);
                return Ok(());
            }
        }
    }
}
