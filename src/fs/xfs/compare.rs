//! Every file accounted for: two states of one XFS, before and after a growth.
//!
//! A growth moves nothing. So no file is looked at: whatever was in use is the same, byte for byte,
//! and with it every inode, directory, attribute and file. What may differ:
//!
//! 1. the log;
//! 2. of each superblock the fields that `superblocks` names; the primary and its copies agree;
//! 3. of the group that was the last and is now longer: its AGF, AGI and AGFL in the fields that
//!    `last_group` names, and the blocks of the trees that the AGF has. Both trees of free space
//!    have the same records. What has become free was a block of a tree or kept for one, and what
//!    has become used is one, but for the space that is new. The tree of owners has the same
//!    records, but for those of the trees themselves;
//! 4. what is free both before and after;
//! 5. what lies behind the old end. New groups have no inodes.
//!
//! What cannot be read or parsed, on either side, is an error: it was not checked. Not looked at:
//! whether trees are balanced and counted. That is xfs_repair's work, before this.

use std::collections::BTreeSet;

use crate::disk::{DiskRead, read_vec};
use crate::extent::{Extent, ExtentMap};
use crate::fs::{Difference, FsError};
use crate::report::{Report, Unit, checkpoint};

use super::fields::Fields;
use super::group::{Group, Header};
use super::owners::name;
use super::superblock::{FIELDS_BYTES, Superblock, superblock_of};
use super::tree::Kind;
use super::used::{free, free_by_length};

/// Bytes that are compared at once.
const SECTOR: u64 = 512;

/// Pieces that are given a name. One file may have many.
const STRAYS: usize = 256;

/// One side.
struct Side<'a> {
    part: &'a dyn DiskRead,
    sb: Superblock,
}

struct Comparison<'a> {
    before: Side<'a>,
    after: Side<'a>,
    limit: usize,
    found: Vec<Difference>,
    /// What differs and must not, in pieces of at most a block.
    strays: Vec<Extent>,
    /// Bytes that may differ, in what was in use and in what is free.
    allowed: ExtentMap,
}

/// Compares `before` with `after`. `changed` are the bytes in which they may differ. At most
/// `limit` differences.
///
/// # Errors
/// [`FsError`] where either cannot be read or understood.
pub fn compare(
    before: &dyn DiskRead,
    after: &dyn DiskRead,
    changed: &ExtentMap,
    limit: usize,
    report: &dyn Report,
) -> Result<Vec<Difference>, FsError> {
    let side = |part| -> Result<Side<'_>, FsError> {
        Ok(Side {
            part,
            sb: superblock_of(part)?,
        })
    };
    let mut comparison = Comparison {
        before: side(before)?,
        after: side(after)?,
        limit: limit.max(1),
        found: Vec::new(),
        strays: Vec::new(),
        allowed: ExtentMap::new(),
    };
    if comparison.primary() {
        comparison.all(changed, report)?;
    }
    Ok(comparison.found)
}

impl Comparison<'_> {
    fn add(&mut self, code: &str, object: impl Into<String>, detail: impl Into<String>) {
        if self.found.len() < self.limit {
            self.found.push(Difference {
                code: code.into(),
                object: object.into(),
                detail: detail.into(),
            });
        }
    }

    /// Whether the superblock is that of the same file system, and larger.
    fn primary(&mut self) -> bool {
        let (was, now) = (&self.before.sb, &self.after.sb);
        let mut wrong = Vec::new();
        for (name, range) in superblock_fields() {
            // Sizes, counters, the place in the log, the checksum.
            let may = ["blocks", "groups", "free blocks", "log place", "checksum"];
            if !may.contains(&name) && was.raw.get(range.clone()) != now.raw.get(range.clone()) {
                wrong.push(format!("{name} (bytes {range:?}) has changed"));
            }
        }
        if was.raw.get(FIELDS_BYTES..) != now.raw.get(FIELDS_BYTES..) {
            wrong.push("bytes behind its fields have changed".into());
        }
        if now.blocks < was.blocks || now.groups < was.groups {
            wrong.push(format!(
                "it had {} blocks in {} groups, and has {} in {}",
                was.blocks, was.groups, now.blocks, now.groups
            ));
        }
        let good = wrong.is_empty();
        for what in wrong {
            self.add("superblock", "superblock", what);
        }
        good
    }

    fn all(&mut self, changed: &ExtentMap, report: &dyn Report) -> Result<(), FsError> {
        let (was, now) = (self.before.sb.clone(), self.after.sb.clone());
        self.allowed.insert(was.log);
        if now.size_bytes() > was.size_bytes() {
            let new = Extent::from_range(was.size_bytes(), now.size_bytes());
            self.allowed.insert(new);
        }
        let last = was.groups - 1;
        if now.group_len(last) > was.group_len(last) {
            self.last_group(last)?;
        }
        let groups = now.groups;
        report.phase("comparing every group", Some(groups), Unit::Items);
        let mut countable = 0;
        for number in 0..groups {
            checkpoint(report).map_err(std::io::Error::from)?;
            countable += self.group(number, changed)?;
            report.progress(number + 1);
        }
        self.tell()?;
        self.behind(changed)?;
        let counted = self.after.sb.free_blocks();
        if counted != countable {
            self.add(
                "superblock",
                "superblock",
                format!("it counts {counted} free blocks, and the groups have {countable}"),
            );
        }
        Ok(())
    }

    /// What lies behind the file system is not its own.
    fn behind(&mut self, changed: &ExtentMap) -> Result<(), FsError> {
        let end = self.after.sb.size_bytes();
        let both = self
            .before
            .part
            .len_bytes()
            .min(self.after.part.len_bytes());
        if end >= both {
            return Ok(());
        }
        let pieces: Vec<Extent> = changed.within(Extent::from_range(end, both)).collect();
        for piece in pieces {
            if let Some(first) = self.differing(piece)?.first() {
                let what = format!("{first} lies behind the file system, and was written");
                self.add("write-outside", "partition", what);
            }
        }
        Ok(())
    }

    /// Compares one group, and returns what the superblock must count of it.
    fn group(&mut self, number: u64, changed: &ExtentMap) -> Result<u64, FsError> {
        let now = Group::read(self.after.part, &self.after.sb, number)?;
        self.copy_of_superblock(number)?;
        if number >= self.before.sb.groups {
            let (inodes, _) = now.inodes();
            if inodes != 0 {
                let what = format!("it is new and has {inodes} inodes");
                self.add("file-new", format!("group {number}"), what);
            }
            // New space must be free as a whole, so that nothing claims what is there.
            free(self.after.part, &self.after.sb, &now)?;
            return Ok(now.countable());
        }
        let sb = &self.before.sb;
        let start = sb.byte_of(number, 0);
        let window = Extent::new(start, sb.group_len(number) * sb.block_bytes);
        let superblock = Extent::new(start, sb.sector_bytes);
        // Free space is read only where something was written that nothing else allows.
        let mut both_free: Option<ExtentMap> = None;
        for piece in changed.within(window) {
            for part in self.allowed.gaps(piece) {
                for bytes in self.differing(part)? {
                    if superblock.contains(bytes) {
                        continue;
                    }
                    let idle = match &both_free {
                        Some(map) => map,
                        None => both_free.insert(self.idle(number)?),
                    };
                    if !idle.contains(bytes) {
                        self.strays.push(bytes);
                    }
                    if self.strays.len() >= STRAYS {
                        return Ok(now.countable());
                    }
                }
            }
        }
        Ok(now.countable())
    }

    /// What a group has free both before and after.
    fn idle(&self, number: u64) -> Result<ExtentMap, FsError> {
        let of = |side: &Side<'_>| -> Result<ExtentMap, FsError> {
            let group = Group::read(side.part, &side.sb, number)?;
            Ok(byte_map(side, number, &free(side.part, &side.sb, &group)?))
        };
        let (was, now) = (of(&self.before)?, of(&self.after)?);
        Ok(was.difference(&was.difference(&now)))
    }

    /// The pieces of an extent that differ, by sectors.
    fn differing(&self, extent: Extent) -> Result<Vec<Extent>, FsError> {
        let mut found = ExtentMap::new();
        for piece in extent.split(1 << 20) {
            let was = read_vec(self.before.part, piece.start, piece.len as usize)?;
            let now = read_vec(self.after.part, piece.start, piece.len as usize)?;
            if was == now {
                continue;
            }
            for sector in piece.split(SECTOR) {
                let at = (sector.start - piece.start) as usize;
                let range = at..at + sector.len as usize;
                if was[range.clone()] != now[range] {
                    found.insert(sector);
                }
            }
        }
        // By blocks of the file system, so that each is named.
        let blocks = found
            .iter()
            .flat_map(|e| e.split(self.before.sb.block_bytes));
        Ok(blocks.collect())
    }

    /// Names what differs and must not.
    fn tell(&mut self) -> Result<(), FsError> {
        let strays = std::mem::take(&mut self.strays);
        let sb = self.before.sb.clone();
        for (owner, bytes) in name(self.before.part, &sb, &strays)?
            .into_iter()
            .zip(strays)
        {
            let known = |d: &Difference| d.code == owner.code && d.object == owner.object;
            if self.found.iter().any(known) {
                continue;
            }
            let detail = match owner.code {
                "group-header" => {
                    let within = bytes.start % (sb.group_blocks * sb.block_bytes);
                    let names = ["superblock", "AGF", "AGI", "AGFL"];
                    let which = names[(within / sb.sector_bytes) as usize % 4];
                    format!("its {which} has changed, which a growth leaves alone")
                }
                _ => format!("{} bytes at {} have changed", bytes.len, bytes.start),
            };
            self.add(owner.code, owner.object, detail);
        }
        Ok(())
    }

    /// A copy of the superblock says what the primary says, but for counters.
    fn copy_of_superblock(&mut self, number: u64) -> Result<(), FsError> {
        let sb = &self.after.sb;
        let at = sb.byte_of(number, 0);
        let raw = read_vec(self.after.part, at, sb.sector_bytes as usize)?;
        let copy = match Superblock::parse(raw) {
            Ok(copy) => copy,
            Err(e) => {
                self.add(
                    "backup-superblock",
                    format!("group {number}"),
                    e.to_string(),
                );
                return Ok(());
            }
        };
        let mut wrong = Vec::new();
        if copy.raw.get(FIELDS_BYTES..) != sb.raw.get(FIELDS_BYTES..) {
            wrong.push("bytes behind its fields");
        }
        for (name, range) in superblock_fields() {
            let counts = ["free blocks", "inodes", "free inodes", "free extents"];
            let own = ["log place", "checksum", "quota flags", "in progress"];
            let may_differ = counts.contains(&name) || own.contains(&name);
            if !may_differ && copy.raw.get(range.clone()) != sb.raw.get(range) {
                wrong.push(name);
            }
        }
        if !wrong.is_empty() {
            let what = format!("its copy of the superblock differs in {}", wrong.join(", "));
            self.add("backup-superblock", format!("group {number}"), what);
        }
        Ok(())
    }

    /// The group that was the last, and is now longer.
    fn last_group(&mut self, number: u64) -> Result<(), FsError> {
        let was = Group::read(self.before.part, &self.before.sb, number)?;
        let now = Group::read(self.after.part, &self.after.sb, number)?;
        self.headers(&was, &now);
        let object = format!("group {number}");
        let (trees_were, free_were) = self.space(&self.before, &was)?;
        let (trees_are, free_are) = self.space(&self.after, &now)?;
        let sb = self.before.sb.clone();
        let old = Extent::new(sb.byte_of(number, 0), was.blocks * sb.block_bytes);
        let free_here: ExtentMap = free_are.within(old).collect();
        let freed = free_here.difference(&free_were).difference(&trees_were);
        let taken = free_were.difference(&free_here).difference(&trees_are);
        // A tree that came to lie on what is a file's would pass for what may change.
        let seized = trees_are.difference(&trees_were).difference(&free_were);
        let seized = seized.within(old).collect();
        let lost = trees_were.difference(&trees_are).difference(&free_here);
        for (map, what) in [
            (seized, "was in use by others and belongs to a tree now"),
            (lost, "belonged to a tree and to nobody now"),
            (freed, "was in use and counts as free now"),
            (taken, "was free and counts as used now, by no tree"),
        ] {
            if let Some(first) = map.iter().next() {
                self.add("map", object.clone(), format!("{first} {what}"));
            }
        }
        if free_by_length(self.after.part, &self.after.sb, &now)?
            != free(self.after.part, &self.after.sb, &now)?
        {
            let what = "its two trees of free space do not agree";
            self.add("map", object.clone(), what);
        }
        if self.owners_of(&self.before, &was)? != self.owners_of(&self.after, &now)? {
            let what = "its tree of owners of blocks has other records";
            self.add("map", object, what);
        }
        let trees = trees_were.union(&trees_are);
        self.allowed = self.allowed.union(&trees);
        for header in [Header::Agf, Header::Agi, Header::Agfl] {
            let at = old.start + header.sector() * sb.sector_bytes;
            self.allowed.insert(Extent::new(at, sb.sector_bytes));
        }
        Ok(())
    }

    /// The fields of the headers that a growth changes, and the rest.
    fn headers(&mut self, was: &Group, now: &Group) {
        // Length; roots and levels of the trees, kept blocks, free blocks; counts of tree blocks;
        // place in the log, checksum. The root of shared blocks is not among them.
        let agf: &[std::ops::Range<usize>] = &[12..64, 80..84, 208..220];
        let agi: &[std::ops::Range<usize>] = &[12..16, 312..316, 320..328];
        for (name, old, new, may) in [
            ("AGF", &was.agf, &now.agf, agf),
            ("AGI", &was.agi, &now.agi, agi),
        ] {
            let differs = old.iter().zip(new).enumerate();
            let wrong = differs
                .filter(|(at, (a, b))| a != b && !may.iter().any(|range| range.contains(at)))
                .map(|(at, _)| at)
                .next();
            if let Some(at) = wrong {
                self.add(
                    "group-header",
                    format!("group {}", was.number),
                    format!("byte {at} of its {name} has changed, which a growth leaves alone"),
                );
            }
        }
    }

    /// Blocks of the trees that the AGF has and that are kept for them; and what is free.
    fn space(&self, side: &Side<'_>, group: &Group) -> Result<(ExtentMap, ExtentMap), FsError> {
        let mut blocks: BTreeSet<u64> = group.kept()?.into_iter().collect();
        for kind in [Kind::FreeByBlock, Kind::FreeByLength, Kind::Owners] {
            if let Some(tree) = group.tree(&side.sb, kind) {
                tree.walk(
                    side.part,
                    &side.sb,
                    |block| {
                        blocks.insert(block);
                    },
                    |_| Ok(()),
                )?;
            }
        }
        let runs: Vec<(u64, u64)> = blocks.into_iter().map(|block| (block, 1)).collect();
        let free = free(side.part, &side.sb, group)?;
        Ok((
            byte_map(side, group.number, &runs),
            byte_map(side, group.number, &free),
        ))
    }

    /// A hash of the records of the tree of owners, but for those of the trees themselves.
    fn owners_of(&self, side: &Side<'_>, group: &Group) -> Result<blake3::Hash, FsError> {
        /// `XFS_RMAP_OWN_AG`.
        const OWN_AG: u64 = -5i64 as u64;
        let mut hasher = blake3::Hasher::new();
        if let Some(tree) = group.tree(&side.sb, Kind::Owners) {
            tree.walk(
                side.part,
                &side.sb,
                |_| {},
                |record: Fields<'_>| {
                    if record.u64(8) != OWN_AG {
                        hasher.update(record.0);
                    }
                    Ok(())
                },
            )?;
        }
        Ok(hasher.finalize())
    }
}

/// Runs of blocks of a group as bytes of the partition.
fn byte_map(side: &Side<'_>, group: u64, runs: &[(u64, u64)]) -> ExtentMap {
    let bytes = |&(start, count): &(u64, u64)| {
        Extent::new(side.sb.byte_of(group, start), count * side.sb.block_bytes)
    };
    runs.iter().map(bytes).collect()
}

/// The superblock, cut into pieces with names. Nothing is left out.
fn superblock_fields() -> impl Iterator<Item = (&'static str, std::ops::Range<usize>)> {
    const STARTS: [(&str, usize); 20] = [
        ("block size", 4),
        ("blocks", 8),
        ("realtime, UUID, log, inodes of the system", 16),
        ("blocks of a group", 84),
        ("groups", 88),
        ("bitmaps, log, version, sizes", 92),
        ("label", 108),
        ("logarithms", 120),
        ("in progress", 126),
        ("part for inodes", 127),
        ("inodes", 128),
        ("free inodes", 136),
        ("free blocks", 144),
        ("free extents", 152),
        ("quota inodes", 160),
        ("quota flags", 176),
        ("flags, stripes, features", 178),
        ("checksum", 224),
        ("alignment, project quota", 228),
        ("log place", 240),
    ];
    let ends = STARTS.iter().skip(1).map(|(_, at)| *at).chain([248]);
    let listed = STARTS
        .iter()
        .zip(ends)
        .map(|((name, at), end)| (*name, *at..end));
    [
        ("magic", 0..4),
        ("UUID of metadata and what follows", 248..FIELDS_BYTES),
    ]
    .into_iter()
    .chain(listed)
}
