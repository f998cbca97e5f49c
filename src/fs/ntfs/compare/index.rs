//! The index of the root directory: it repeats the sizes of files, also those of the volume's own.
//!
//! There they are often old: a system that is at work on $MFT or $Bitmap does not write them. When
//! libntfs writes such a file's record, it puts the true ones there. That is allowed, and nothing
//! else: every other byte of the index is as it was, entry by entry.

use crate::fs::FsError;
use crate::units::escape;

use super::super::inode::{Attribute, Form, NAME_SIZES, Name, entries, utf16};
use super::super::record::{corrupt, fix_up, kind};
use super::super::volume::file;
use super::Comparison;
use crate::fs::bytes::{slice, u32_at, u64_at};

/// Where the name begins in an entry.
const KEY_AT: usize = 16;
/// Where the node begins in the value of an index root, and in a block.
const ROOT_NODE_AT: usize = 16;
const BLOCK_NODE_AT: usize = 24;

impl Comparison<'_> {
    /// Two values of the index's root.
    pub fn root_values(
        &mut self,
        of: &Attribute,
        (old, new): (&[u8], &[u8]),
    ) -> Result<(), FsError> {
        if old == new {
            return Ok(());
        }
        let found = self.node_differs(old, new, ROOT_NODE_AT)?;
        self.root_differs(of, found);
        Ok(())
    }

    /// Two contents of its blocks, whose maps are the same.
    pub fn root_blocks(&mut self, old: &Attribute, new: &Attribute) -> Result<(), FsError> {
        let size = self.before.boot.index_bytes;
        let a = self.before.content(old);
        let b = self.after.content(new);
        let (mut one, mut other) = (vec![0; size as usize], vec![0; size as usize]);
        let mut found = None;
        for index in 0..self.before.solid(file::ROOT, old)?.div_ceil(size) {
            a.read_at(index * size, &mut one)?;
            b.read_at(index * size, &mut other)?;
            if one == other {
                continue;
            }
            let is_block = |block: &[u8]| block.starts_with(b"INDX");
            if !is_block(&one) || !is_block(&other) {
                found = Some(format!("block {index} differs"));
                break;
            }
            fix_up(&mut one).map_err(|e| corrupt(file::ROOT, e))?;
            fix_up(&mut other).map_err(|e| corrupt(file::ROOT, e))?;
            // The number of the last write to the log, and the update sequence numbers.
            let same_head = slice(&one, 0, 8) == slice(&other, 0, 8)
                && slice(&one, 16, 8) == slice(&other, 16, 8);
            found = match same_head {
                true => self.node_differs(&one, &other, BLOCK_NODE_AT)?,
                false => Some(format!("the head of block {index} differs")),
            };
            if found.is_some() {
                break;
            }
        }
        self.root_differs(old, found);
        Ok(())
    }

    fn root_differs(&mut self, of: &Attribute, found: Option<String>) {
        if let Some(detail) = found {
            self.of_attribute("directory", file::ROOT, of, detail);
        }
    }

    /// What differs in two nodes besides sizes that have become true.
    fn node_differs(&self, old: &[u8], new: &[u8], at: usize) -> Result<Option<String>, FsError> {
        let wrong = |what: &str| corrupt(file::ROOT, what);
        let (a, b) = (old.get(at..), new.get(at..));
        let (Some(a), Some(b)) = (a, b) else {
            return Err(wrong("a node without room"));
        };
        if slice(a, 0, 16) != slice(b, 0, 16) || a.len() != b.len() {
            return Ok(Some("a node has other sizes".into()));
        }
        let (olds, news) = (entries(a).map_err(wrong)?, entries(b).map_err(wrong)?);
        if olds.len() != news.len() {
            let text = format!("{} entries before, {} after", olds.len(), news.len());
            return Ok(Some(text));
        }
        for ((number, range), (_, other)) in olds.iter().zip(&news) {
            let (Some(one), Some(two)) = (a.get(range.clone()), b.get(other.clone())) else {
                continue;
            };
            if one != two && !self.has_true_sizes(*number, (one, two), KEY_AT)? {
                let name = one.get(KEY_AT..).and_then(Name::parse);
                let name = name.map_or(String::new(), |name| escape(&utf16(name.text)));
                return Ok(Some(format!("the entry `{name}` differs")));
            }
        }
        // What ends the list, and leads to a node below.
        let last = |node: &[u8], found: &[(u64, std::ops::Range<usize>)]| {
            let from = found
                .last()
                .map_or(u32_at(node, 0) as usize, |(_, r)| r.end);
            node.get(from..u32_at(node, 4) as usize).map(<[u8]>::to_vec)
        };
        if last(a, &olds) != last(b, &news) {
            return Ok(Some("the end of a node differs".into()));
        }
        Ok(None)
    }

    /// Whether two entries, or two names, of one of the volume's own files differ in nothing but
    /// the sizes at `at` from their start. Each is as it was, or the one that the file has after.
    pub fn has_true_sizes(
        &self,
        number: u64,
        (old, new): (&[u8], &[u8]),
        at: usize,
    ) -> Result<bool, FsError> {
        if number > file::LAST_RESERVED || !without_sizes(old, new, at) {
            return Ok(false);
        }
        let inode = self.after.inode(number)?;
        let Some(Form::Outside { sizes, .. }) = inode.attribute(kind::DATA, "").map(|a| &a.form)
        else {
            return Ok(false);
        };
        let is_right = |at: usize, size| [size, u64_at(old, at)].contains(&u64_at(new, at));
        let at = at + NAME_SIZES.start;
        Ok(is_right(at, sizes.allocated) && is_right(at + 8, sizes.data))
    }
}

fn without_sizes(old: &[u8], new: &[u8], at: usize) -> bool {
    let blank = |bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        if let Some(sizes) = bytes.get_mut(at + NAME_SIZES.start..at + NAME_SIZES.end) {
            sizes.fill(0);
        }
        bytes
    };
    old.len() == new.len() && blank(old) == blank(new)
}
