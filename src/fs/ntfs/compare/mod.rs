//! Every file accounted for: two states of one volume, before and after a resize.
//!
//! 1. Each file before has one after with the same number, and none is new. A record that only
//!    extends another may be new, where the list of that one names it.
//! 2. A file has the same attributes, byte for byte, wherever they lie: names, times, flags,
//!    security, extended attributes, streams, indexes. Which record holds an attribute does not
//!    matter, nor log numbers and update sequence numbers.
//! 3. The map of a value has the same clusters and holes. Its content is the same: in the same
//!    place and not among the changed bytes, or read on both sides, to the end of its clusters.
//! 4. The files that describe the volume differ as a resize must make them differ, and in no other
//!    way: see `metadata`.
//! 5. Every cluster after belongs to one file, and $Bitmap says so: see `clusters`.
//! 6. What cannot be read or parsed, on either side, is an error: it was not checked.

mod clusters;
mod content;
mod index;
mod metadata;

use std::collections::BTreeSet;

use crate::disk::DiskRead;
use crate::extent::ExtentMap;
use crate::fs::{Difference, FsError};
use crate::report::{Report, Unit, checkpoint};
use crate::units::escape;

use super::inode::{Attribute, Form, Inode};
use super::names;
use super::record::{DIRECTORY, Record, kind};
use super::volume::{Bits, Volume, file};
use crate::fs::bytes::slice;
use clusters::Clusters;

/// The two states, and what was found.
struct Comparison<'a> {
    before: &'a Volume<'a>,
    after: &'a Volume<'a>,
    changed: &'a ExtentMap,
    clusters: Clusters,
    /// Records that extend others, before and after.
    extensions: (BTreeSet<u64>, BTreeSet<u64>),
    list: Vec<Difference>,
    limit: usize,
}

/// One file in both states.
struct Pair<'a> {
    number: u64,
    old: &'a Inode,
    new: &'a Inode,
}

/// Compares `before` with `after`, two states of one volume. `changed` are the bytes in which they
/// differ (those beyond the shorter one need not be listed). At most `limit` differences.
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
    let mut comparison = Comparison {
        before: &before,
        after: &after,
        changed,
        clusters: Clusters::new(after.boot.clusters)?,
        extensions: (BTreeSet::new(), BTreeSet::new()),
        list: Vec::new(),
        limit: limit.max(1),
    };
    comparison.boot_sectors()?;
    if comparison.list.is_empty() {
        comparison.files(report)?;
    }
    if comparison.list.is_empty() {
        comparison.accounts(report)?;
    }
    Ok(comparison.list)
}

impl<'a> Comparison<'a> {
    fn is_full(&self) -> bool {
        self.list.len() >= self.limit
    }

    fn add(&mut self, code: &str, object: String, detail: impl Into<String>) {
        if !self.is_full() {
            self.list.push(Difference {
                code: code.into(),
                object,
                detail: detail.into(),
            });
        }
    }

    /// A difference of a file that was there before.
    fn of_file(&mut self, code: &str, number: u64, detail: impl Into<String>) {
        let path = names::path(self.before, number);
        self.add(code, path, detail);
    }

    fn of_attribute(&mut self, code: &str, number: u64, of: &Attribute, detail: String) {
        let path = names::attribute_path(self.before, number, of);
        let what = match of.kind {
            kind::DATA => String::new(),
            _ => format!("attribute {:#x} {}: ", of.kind, escape(&of.shown_name())),
        };
        self.add(code, path, what + &detail);
    }

    /// All records of both states.
    fn files(&mut self, report: &dyn Report) -> Result<(), FsError> {
        let (before, after) = (self.before, self.after);
        let records = before.records.max(after.records);
        report.phase("comparing files", Some(records), Unit::Items);
        let mut old_bits = before.bits(file::MFT, kind::BITMAP)?;
        let mut new_bits = after.bits(file::MFT, kind::BITMAP)?;
        for number in 0..records {
            if number % 256 == 0 {
                checkpoint(report).map_err(std::io::Error::from)?;
                report.progress(number);
            }
            if self.is_full() {
                return Ok(());
            }
            let old = base(before, number, &mut old_bits)?;
            let new = base(after, number, &mut new_bits)?;
            match (old, new) {
                (None, None) => {}
                (Some(_), None) => {
                    let detail = format!("record {number} is not in use any more");
                    self.of_file("file-missing", number, detail);
                }
                (None, Some(_)) => {
                    let path = names::path(after, number);
                    let detail = format!("record {number} was not in use before");
                    self.add("file-new", path, detail);
                }
                (Some(old), Some(new)) => {
                    let (old, new) = (Inode::of(before, &old)?, Inode::of(after, &new)?);
                    self.extensions.0.extend(&old.extensions);
                    self.extensions.1.extend(&new.extensions);
                    // What two files have is not compared: such maps can be long.
                    if !self.claim(&new) {
                        continue;
                    }
                    let pair = Pair {
                        number,
                        old: &old,
                        new: &new,
                    };
                    self.pair(&pair)?;
                }
            }
        }
        report.progress(records);
        Ok(())
    }

    /// Whether the clusters of a file after are its own.
    fn claim(&mut self, new: &Inode) -> bool {
        let values = new.attributes.iter().flat_map(Attribute::runs);
        for run in values.chain(&new.list) {
            let Some(lcn) = run.lcn else { continue };
            if let Some(twice) = self.clusters.claim(lcn, run.len) {
                let detail = format!("cluster {twice} belongs to it and to another file as well");
                self.of_file("map", new.number, detail);
                return false;
            }
        }
        true
    }

    /// One file in both states.
    fn pair(&mut self, pair: &Pair<'_>) -> Result<(), FsError> {
        let (old, new) = (pair.old, pair.new);
        if old.links != new.links {
            let detail = format!("{} names before, {} after", old.links, new.links);
            self.of_file("links", pair.number, detail);
        }
        if old.flags != new.flags {
            let code = if (old.flags ^ new.flags) & DIRECTORY != 0 {
                "mode"
            } else {
                "flags"
            };
            let detail = format!(
                "record flags {:#x} before, {:#x} after",
                old.flags, new.flags
            );
            self.of_file(code, pair.number, detail);
        }
        if old.sequence != new.sequence {
            let detail = format!("used {} times before, {} after", old.sequence, new.sequence);
            self.of_file("inode", pair.number, detail);
        }
        let (mut olds, mut news) = (old.attributes.iter(), new.attributes.iter());
        let (mut a, mut b) = (olds.next(), news.next());
        while !self.is_full() {
            let order = match (a, b) {
                (None, None) => break,
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some(a), Some(b)) => a.key().cmp(&b.key()),
            };
            match (order, a, b) {
                (std::cmp::Ordering::Equal, Some(old), Some(new)) => {
                    self.attribute(pair, old, new)?;
                    (a, b) = (olds.next(), news.next());
                }
                (std::cmp::Ordering::Less, Some(old), _) => {
                    let (code, detail) = (code_of(old), "it is gone".to_string());
                    self.of_attribute(code, pair.number, old, detail);
                    a = olds.next();
                }
                (_, _, Some(new)) => {
                    let (code, detail) = (code_of(new), "it was not there before".to_string());
                    self.of_attribute(code, pair.number, new, detail);
                    b = news.next();
                }
                _ => break,
            }
        }
        Ok(())
    }

    /// One attribute in both states.
    fn attribute(
        &mut self,
        pair: &Pair<'_>,
        old: &Attribute,
        new: &Attribute,
    ) -> Result<(), FsError> {
        if old.flags != new.flags {
            let detail = format!("flags {:#06x} before, {:#06x} after", old.flags, new.flags);
            self.of_attribute("flags", pair.number, old, detail);
        }
        if self.is_special(pair, old, new)? {
            return Ok(());
        }
        match (&old.form, &new.form) {
            (
                Form::Resident {
                    value: a,
                    indexed: a_indexed,
                },
                Form::Resident {
                    value: b,
                    indexed: b_indexed,
                },
            ) => {
                if (a, a_indexed) != (b, b_indexed) {
                    self.values(pair.number, old, (a, b));
                }
            }
            (
                Form::Outside {
                    runs: a,
                    sizes: a_sizes,
                },
                Form::Outside {
                    runs: b,
                    sizes: b_sizes,
                },
            ) => {
                if a_sizes != b_sizes {
                    let detail = format!("{a_sizes:?} before, {b_sizes:?} after");
                    self.of_attribute("size", pair.number, old, detail);
                }
                if let Some(detail) = self.content((a, b))? {
                    self.of_attribute(content_code(old), pair.number, old, detail);
                }
            }
            _ => {
                let detail = "it has moved between its record and clusters".to_string();
                self.of_attribute("map", pair.number, old, detail);
            }
        }
        Ok(())
    }

    /// Two values in records that differ.
    fn values(&mut self, number: u64, of: &Attribute, (old, new): (&[u8], &[u8])) {
        let at = old.iter().zip(new).position(|(a, b)| a != b);
        let at = at.unwrap_or(old.len().min(new.len()));
        let code = match (of.kind, at) {
            (kind::STANDARD_INFORMATION, 0..32) => "times",
            (kind::STANDARD_INFORMATION, 32..36) => "flags",
            (kind::STANDARD_INFORMATION, _) => "owner",
            _ => code_of(of),
        };
        let piece = |bytes| slice(bytes, at & !7, 8).map_or(0, |b| crate::fs::bytes::u64_at(b, 0));
        let detail = format!(
            "byte {at} differs ({:#x} before, {:#x} after)",
            piece(old),
            piece(new)
        );
        self.of_attribute(code, number, of, detail);
    }
}

/// The code for an attribute that is gone, new or different.
fn code_of(attribute: &Attribute) -> &'static str {
    match attribute.kind {
        kind::FILE_NAME => "links",
        kind::STANDARD_INFORMATION => "inode",
        _ => content_code(attribute),
    }
}

fn content_code(attribute: &Attribute) -> &'static str {
    match attribute.kind {
        kind::DATA => "file-content",
        kind::INDEX_ROOT | kind::INDEX_ALLOCATION | kind::BITMAP => "directory",
        kind::SECURITY_DESCRIPTOR => "owner",
        0xc0 => "symlink",
        _ => "xattrs",
    }
}

/// The record of a file, where it has one. A record that $MFT's bitmap has and that is none is
/// damaged.
fn base(volume: &Volume<'_>, number: u64, bits: &mut Bits<'_>) -> Result<Option<Record>, FsError> {
    if number >= volume.records {
        return Ok(None);
    }
    let is_marked = bits.get(number)?;
    let record = match volume.record(number) {
        Ok(record) => record,
        // A free record may hold anything.
        Err(FsError::Corrupt(_)) if !is_marked => None,
        Err(e) => return Err(e),
    };
    Ok(record.filter(|record| record.is_used() && record.base == 0))
}
