//! Two states of one inode, and of what it leads to.
//!
//! What `resize2fs` (read in its source, and seen with 1.47.0 over the tests' matrix) changes of
//! an inode, and so what may differ:
//!
//! - the place of its blocks: the map, the number of the attribute block, and checksums. A map
//!   whose extents were cut by a move may need more blocks of its own, and `i_blocks` counts
//!   them: by exactly that many it may differ;
//! - `ctime` of an inode that it gives another number, except where the inode holds the value of
//!   an attribute (its `ctime` is a reference count);
//! - `ctime` and `mtime` of a directory in which it writes another number.
//!
//! Both times are set to the time of the resize, so they must lie between the last write of the
//! superblock before and the one after. Up to 1.47.0 the nanoseconds stay as they were; later
//! versions set them to 0.

use crate::fs::FsError;
use crate::report::Refusal;

use super::super::feature;
use super::super::inode::{
    BAD_BLOCKS, BLOCK_FIELD, FIELDS, FIXED_BYTES, FLAG_EA_INODE, FLAG_INLINE_DATA, Field, Inode,
    Kind, Rule, Time,
};
use super::super::map::Map;
use super::super::walk::inline_directory;
use super::super::xattr::{self, Place};
use super::content::{Pairs, Step, each_block_pair};
use super::directory::{self, Verdict, damaged};
use super::replayed::Ending;
use super::{Comparison, Object};

/// One inode in both states.
pub struct Pair<'a> {
    /// Its number before and after.
    pub numbers: (u32, u32),
    /// Before.
    pub old: &'a Inode,
    /// After.
    pub new: &'a Inode,
    /// As they are on the disk.
    pub raw: (&'a [u8], &'a [u8]),
}

impl Pair<'_> {
    fn object(&self) -> Object {
        Object::Before(self.numbers.0)
    }

    fn is_inline_directory(&self) -> bool {
        let inside = |inode: &Inode| inode.kind() == Kind::Directory && inode.has(FLAG_INLINE_DATA);
        inside(self.old) && inside(self.new)
    }

    fn is_renumbered(&self) -> bool {
        self.numbers.0 != self.numbers.1
    }

    /// The same bytes of both.
    fn bytes(&self, range: std::ops::Range<usize>) -> (&[u8], &[u8]) {
        (
            self.raw.0.get(range.clone()).unwrap_or(&[]),
            self.raw.1.get(range).unwrap_or(&[]),
        )
    }
}

impl Comparison<'_> {
    /// Compares everything of one inode.
    ///
    /// # Errors
    /// Where either state cannot be read.
    pub fn compare_pair(&mut self, pair: &Pair<'_>) -> Result<(), FsError> {
        if pair.numbers.0 == BAD_BLOCKS && pair.bytes(BLOCK_FIELD).0.iter().any(|&b| b != 0) {
            return Err(bad_blocks());
        }
        if pair.old.kind() != pair.new.kind() {
            self.findings.add(
                pair.object(),
                "mode",
                format!(
                    "was a {}, and is a {} (mode {:o} became {:o})",
                    pair.old.kind().name(),
                    pair.new.kind().name(),
                    pair.old.mode,
                    pair.new.mode
                ),
            );
            return Ok(());
        }
        let names_renumbered = self.compare_content(pair)?;
        self.compare_fields(pair, names_renumbered);
        self.compare_attributes(pair)
    }

    /// The map and what it leads to, or what is in its place. Whether a directory names an inode
    /// that was renumbered.
    fn compare_content(&mut self, pair: &Pair<'_>) -> Result<bool, FsError> {
        let code = self.content_code(pair);
        if !pair.old.has_map() || !pair.new.has_map() {
            if pair.is_inline_directory() {
                return self.compare_inline_directory(pair);
            }
            let (old, new) = pair.bytes(BLOCK_FIELD);
            if old != new {
                self.findings
                    .add(pair.object(), code, short_content(pair, old, new));
            }
            return Ok(false);
        }
        let old = Map::new(self.before, pair.numbers.0, pair.old)?;
        let new = Map::new(self.after, pair.numbers.1, pair.new)?;
        if pair.old.kind() == Kind::Directory {
            return self.compare_directory(pair, old, new);
        }
        let mut pairs = Pairs::new(old, new);
        let mut differs = false;
        loop {
            match pairs.step()? {
                Step::End => break,
                Step::Differ(detail) => {
                    self.findings.add(pair.object(), "map", detail);
                    return Ok(false);
                }
                Step::Both(both) => {
                    self.claim(pair.numbers.1, both.len)?;
                    if !differs && let Some(at) = self.first_difference(&both)? {
                        differs = true;
                        self.findings.add(pair.object(), code, format!(
                            "the content differs from byte {at} on, of {} bytes; that byte was in \
                             block {} and is in block {}",
                            pair.old.size,
                            both.physical.0 + at / self.before.sb.block_bytes - both.logical,
                            both.physical.1 + at / self.before.sb.block_bytes - both.logical,
                        ));
                    }
                }
            }
        }
        self.compare_block_count(pair, pairs.metadata());
        Ok(false)
    }

    fn compare_directory(
        &mut self,
        pair: &Pair<'_>,
        old: Map<'_>,
        new: Map<'_>,
    ) -> Result<bool, FsError> {
        let has_checksum = self.before.sb.has(feature::METADATA_CSUM);
        let (mut names_renumbered, mut difference) = (false, None);
        let mut buffers = std::mem::take(&mut self.buffers);
        let (before, after, renumbering) = (self.before, self.after, &self.renumbering);
        let mut blocks = 0;
        let walked = each_block_pair(
            (before, old),
            (after, new),
            &mut buffers,
            |logical, a, b| {
                blocks += 1;
                let verdict = directory::compare_block(a, b, renumbering, has_checksum)
                    .map_err(|error| damaged(pair.numbers.0, logical, &error))?;
                match verdict {
                    Verdict::Same { renumbered } => names_renumbered |= renumbered,
                    Verdict::Differs(detail) => {
                        difference = Some(format!("block {logical}: {detail}"));
                    }
                }
                Ok(difference.is_none())
            },
        );
        self.buffers = buffers;
        self.claim(pair.numbers.1, blocks)?;
        match (walked?, difference) {
            (_, Some(detail)) => self.findings.add(pair.object(), "directory", detail),
            (Err(detail), None) => self.findings.add(pair.object(), "map", detail),
            (Ok(metadata), None) => self.compare_block_count(pair, metadata),
        }
        Ok(names_renumbered)
    }

    /// A directory inside its inode: its parent and its two lists. The second one is the value of an
    /// attribute; with the attributes every byte of it is compared once more.
    fn compare_inline_directory(&mut self, pair: &Pair<'_>) -> Result<bool, FsError> {
        let old = inline_directory(pair.numbers.0, pair.old, pair.raw.0)?;
        let new = inline_directory(pair.numbers.1, pair.new, pair.raw.1)?;
        let parent = self.renumbering.new_number(old.parent);
        let mut names_renumbered = parent != Some(old.parent);
        if parent != Some(new.parent) {
            let detail = format!("its parent {} became {}", old.parent, new.parent);
            self.findings.add(pair.object(), "directory", detail);
        }
        for (a, b) in old.lists.into_iter().zip(new.lists) {
            let verdict = directory::compare_block(a, b, &self.renumbering, false)
                .map_err(|error| damaged(pair.numbers.0, 0, &error))?;
            match verdict {
                Verdict::Same { renumbered } => names_renumbered |= renumbered,
                Verdict::Differs(detail) => {
                    self.findings.add(pair.object(), "directory", detail);
                }
            }
        }
        Ok(names_renumbered)
    }

    /// `i_blocks`, against the blocks that the map itself takes in each state.
    fn compare_block_count(&mut self, pair: &Pair<'_>, metadata: (u64, u64)) {
        let block_bytes = self.before.sb.block_bytes;
        let per_block = block_bytes / 512;
        let content = |inode: &Inode, blocks: u64| {
            inode
                .sectors(block_bytes)?
                .checked_sub(blocks.checked_mul(per_block)?)
        };
        let (old, new) = (content(pair.old, metadata.0), content(pair.new, metadata.1));
        if old != new || old.is_none() {
            self.findings.add(
                pair.object(),
                "map",
                format!(
                    "{} sectors with {} blocks of map became {} sectors with {}",
                    pair.old.blocks, metadata.0, pair.new.blocks, metadata.1
                ),
            );
        }
    }

    fn content_code(&self, pair: &Pair<'_>) -> &'static str {
        match pair.old.kind() {
            Kind::File if pair.numbers.0 == self.before.sb.journal_inode => "journal",
            Kind::File => "file-content",
            Kind::Directory => "directory",
            Kind::Symlink => "symlink",
            Kind::Special => "device",
            Kind::Other => "inode",
        }
    }

    /// The fields, each after its rule; one difference for each code.
    pub fn compare_fields(&mut self, pair: &Pair<'_>, names_renumbered: bool) {
        let end = FIXED_BYTES + usize::from(pair.old.extra_bytes);
        let mut differing: Vec<&Field> = Vec::new();
        for field in FIELDS
            .iter()
            .filter(|field| field.bytes.end <= end.min(pair.raw.0.len()))
        {
            let (old, new) = pair.bytes(field.bytes.clone());
            let may = match field.rule {
                Rule::Same => false,
                Rule::Place => true,
                Rule::Ctime => {
                    let moved = pair.is_renumbered() && !pair.old.has(FLAG_EA_INODE);
                    (moved || names_renumbered)
                        && self.is_time_of_resize(pair.old.ctime, pair.new.ctime)
                }
                Rule::Mtime => {
                    names_renumbered && self.is_time_of_resize(pair.old.mtime, pair.new.mtime)
                }
            };
            if old != new && !may {
                differing.push(field);
            }
        }
        let mut at = 0;
        while let Some(first) = differing.get(at) {
            let code = first.code;
            if !differing.iter().take(at).any(|field| field.code == code) {
                let fields = differing.iter().filter(|field| field.code == code);
                let names: Vec<&str> = fields.map(|field| field.name).collect();
                self.findings
                    .add(pair.object(), code, describe(code, &names, pair));
            }
            at += 1;
        }
        // Fields that a later format may add after those of the table.
        let known = FIELDS.last().map_or(0, |field| field.bytes.end);
        let (old, new) = pair.bytes(known.min(end)..end.min(pair.raw.0.len()));
        if old != new {
            self.findings
                .add(pair.object(), "inode", "fields after the known ones differ");
        }
    }

    /// Whether a time that changed was set by the resize. Seconds alone decide: the superblock
    /// keeps no more.
    fn is_time_of_resize(&self, old: Time, new: Time) -> bool {
        let (first, last) = (self.before.sb.write_time, self.after.sb.write_time);
        let nanos = new.nanos == old.nanos || new.nanos == 0;
        nanos && u64::try_from(new.seconds).is_ok_and(|now| (first..=last).contains(&now))
    }

    /// Extended attributes, in the inode and in their block.
    pub fn compare_attributes(&mut self, pair: &Pair<'_>) -> Result<(), FsError> {
        let corrupt = |error| FsError::Corrupt(format!("inode {}: {error}", pair.numbers.0));
        let end = FIXED_BYTES + usize::from(pair.old.extra_bytes);
        let renumbering = &self.renumbering;
        let renumber = |number| renumbering.new_number(number);
        let (old, new) = pair.bytes(end..pair.raw.0.len());
        let found = xattr::difference(
            old,
            new,
            Place::Inode,
            &renumber,
            pair.is_inline_directory(),
        )
        .map_err(corrupt)?;
        if let Some(detail) = found {
            self.findings.add(pair.object(), "xattrs", detail);
        }
        let places = (pair.old.xattr_block, pair.new.xattr_block);
        let detail = match places {
            (0, 0) => return Ok(()),
            _ if self.equal_xattrs == Some(places) => return Ok(()),
            (_, 0) => Some("the block of attributes is gone".to_string()),
            (0, _) => Some("there is a block of attributes, and was none".to_string()),
            (old, new) => {
                self.check_place(pair.numbers.0, self.before, old)?;
                self.check_place(pair.numbers.1, self.after, new)?;
                let (mut a, mut b) = (self.before.block(old)?, self.after.block(new)?);
                if self.work.ending().is_some_and(Ending::deletes) {
                    // One that had the same attributes may have been deleted.
                    for set in [&mut a, &mut b] {
                        xattr::forget_references(set);
                    }
                }
                xattr::difference(&a, &b, Place::Block, &renumber, false).map_err(corrupt)?
            }
        };
        match detail {
            None => self.equal_xattrs = Some(places),
            Some(detail) => self.findings.add(pair.object(), "xattrs", detail),
        }
        Ok(())
    }

    fn check_place(
        &self,
        number: u32,
        volume: &super::Volume<'_>,
        block: u64,
    ) -> Result<(), FsError> {
        if block > u64::from(volume.sb.first_data_block) && block < volume.sb.blocks {
            return Ok(());
        }
        Err(FsError::Corrupt(format!(
            "inode {number}: attributes in block {block}, outside of the file system"
        )))
    }
}

/// What differs in what the inode has in place of a map.
fn short_content(pair: &Pair<'_>, old: &[u8], new: &[u8]) -> String {
    let text = |bytes: &[u8], inode: &Inode| {
        let len = usize::try_from(inode.size)
            .unwrap_or(usize::MAX)
            .min(bytes.len());
        crate::units::escape_bytes(bytes.get(..len).unwrap_or(&[]))
    };
    let hex = |bytes: &[u8]| {
        bytes
            .iter()
            .take(8)
            .map(|b| format!("{b:02x}"))
            .collect::<String>()
    };
    match pair.old.kind() {
        Kind::Symlink => format!(
            "leads to `{}`, and led to `{}`",
            text(new, pair.new),
            text(old, pair.old)
        ),
        Kind::Special => format!("the device number {} became {}", hex(old), hex(new)),
        _ => format!(
            "the content inside the inode ({} …) became {} …",
            hex(old),
            hex(new)
        ),
    }
}

/// The fields `names`, all of one code, with the values before and after.
fn describe(code: &str, names: &[&str], pair: &Pair<'_>) -> String {
    let (old, new) = (pair.old, pair.new);
    match code {
        "mode" => format!("mode {:o} became {:o}", old.mode, new.mode),
        "owner" => format!("{}:{} became {}:{}", old.uid, old.gid, new.uid, new.gid),
        "size" => format!("{} bytes became {}", old.size, new.size),
        "links" => format!("{} links became {}", old.links, new.links),
        "flags" => format!("flags {:#x} became {:#x}", old.flags, new.flags),
        "project" => format!("project {} became {}", old.project, new.project),
        "times" => {
            let all = [
                ("atime", old.atime, new.atime),
                ("ctime", old.ctime, new.ctime),
                ("mtime", old.mtime, new.mtime),
                ("crtime", old.crtime, new.crtime),
            ];
            let mut parts: Vec<String> = all
                .iter()
                .filter(|(name, ..)| names.iter().any(|n| n.split(',').next() == Some(name)))
                .map(|(name, old, new)| format!("{name} {old} became {new}"))
                .collect();
            if old.dtime != new.dtime {
                parts.push(format!("dtime {} became {}", old.dtime, new.dtime));
            }
            parts.join(", ")
        }
        _ => {
            let values: Vec<String> = FIELDS
                .iter()
                .filter(|field| field.code == code && names.contains(&field.name))
                .map(|field| {
                    let (old, new) = pair.bytes(field.bytes.clone());
                    format!("{} {} became {}", field.name, number(old), number(new))
                })
                .collect();
            values.join(", ")
        }
    }
}

fn number(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |value, &byte| value << 8 | u64::from(byte))
}

fn bad_blocks() -> FsError {
    FsError::Unsupported(Refusal::new(
        "ext-bad-blocks",
        "the file system has a list of bad blocks, and a resize may move what it names",
        "copy the data to a sound disk",
    ))
}
