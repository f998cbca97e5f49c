//! A file: the attributes of its record and of those that extend it, each in one piece.

use std::collections::BTreeSet;

use crate::fs::FsError;

use super::record::{NUMBER_MASK, RawForm, Record, Sizes, corrupt, kind};
use super::runs::{Run, decode};
use super::volume::Volume;
use crate::fs::bytes::{slice, u8_at, u32_at, u64_at};

/// A file with more runs than this is not handled: memory is bounded.
const MAX_RUNS: usize = 4 << 20;

/// A file.
#[derive(Clone, Debug)]
pub struct Inode {
    /// Number of its base record.
    pub number: u64,
    /// How often that was used anew.
    pub sequence: u16,
    /// Names.
    pub links: u16,
    /// In use, a directory, …
    pub flags: u16,
    /// Its attributes, in the order of kind, name and value; without the list of them.
    pub attributes: Vec<Attribute>,
    /// The records that extend it.
    pub extensions: BTreeSet<u64>,
    /// The clusters that hold the list of attributes.
    pub list: Vec<Run>,
}

/// An attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attribute {
    /// One of [`kind`].
    pub kind: u32,
    /// Its name, in UTF-16.
    pub name: Vec<u8>,
    /// Compressed (1), encrypted (0x4000), sparse (0x8000).
    pub flags: u16,
    /// Where its value is.
    pub form: Form,
}

/// Where a value is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Form {
    /// In the record.
    Resident {
        /// The value.
        value: Vec<u8>,
        /// Whether an index leads to it.
        indexed: u8,
    },
    /// In clusters.
    Outside {
        /// From the first cluster of the value on, without a gap.
        runs: Vec<Run>,
        /// Its sizes.
        sizes: Sizes,
    },
}

impl Attribute {
    /// Its runs, where it has any.
    pub fn runs(&self) -> &[Run] {
        match &self.form {
            Form::Resident { .. } => &[],
            Form::Outside { runs, .. } => runs,
        }
    }

    /// Its value, where that is in the record.
    pub fn value(&self) -> Option<&[u8]> {
        match &self.form {
            Form::Resident { value, .. } => Some(value),
            Form::Outside { .. } => None,
        }
    }

    /// Its name for people.
    pub fn shown_name(&self) -> String {
        utf16(&self.name)
    }

    /// What attributes are told apart by. A file may have several names, in several directories.
    pub fn key(&self) -> (u32, &[u8], &[u8], &[u8]) {
        let value = match self.kind {
            kind::FILE_NAME => self.value().unwrap_or_default(),
            _ => &[],
        };
        let name = value.get(LENGTH_AT..).unwrap_or_default();
        let parent = value.get(..8).unwrap_or_default();
        (self.kind, &self.name, name, parent)
    }
}

impl Inode {
    /// The file of a base record.
    ///
    /// # Errors
    /// [`FsError::Corrupt`].
    pub fn of(volume: &Volume<'_>, record: &Record) -> Result<Inode, FsError> {
        let number = record.number;
        let wrong = |what: &str| corrupt(number, what);
        let clusters = volume.boot.clusters;
        let list = volume.list_of(record)?;
        let mut extensions: BTreeSet<u64> = list.iter().map(|entry| entry.number).collect();
        extensions.remove(&number);
        let mut parts = Parts::default();
        parts.take(record, clusters)?;
        for &other in &extensions {
            let extension = volume.record(other)?.filter(Record::is_used);
            let extension = extension.ok_or_else(|| wrong("a record that extends it is gone"))?;
            let base = u64::from(record.sequence) << 48 | number;
            if extension.base != base {
                return Err(wrong("a record that extends it belongs to another one"));
            }
            parts.take(&extension, clusters)?;
        }
        let listed = list.len();
        if !list.is_empty() && parts.count != listed {
            return Err(wrong("its list of attributes does not name all of them"));
        }
        Ok(Inode {
            number,
            sequence: record.sequence,
            links: record.links,
            flags: record.flags,
            attributes: parts.whole().map_err(wrong)?,
            extensions,
            list: parts_of_list(record, clusters)?,
        })
    }

    /// The attribute of this kind and name.
    pub fn attribute(&self, kind: u32, name: &str) -> Option<&Attribute> {
        self.attributes
            .iter()
            .find(|a| a.kind == kind && is_name(&a.name, name))
    }

    /// Its names: the directory's record, and the name in UTF-16; long names first.
    pub fn names(&self) -> Vec<Name<'_>> {
        let mut names: Vec<Name<'_>> = self
            .attributes
            .iter()
            .filter(|a| a.kind == kind::FILE_NAME)
            .filter_map(|a| Name::parse(a.value()?))
            .collect();
        names.sort_by_key(|name| name.is_short);
        names
    }
}

fn parts_of_list(record: &Record, clusters: u64) -> Result<Vec<Run>, FsError> {
    let mut runs = Vec::new();
    for raw in record.attributes()? {
        if let (kind::ATTRIBUTE_LIST, RawForm::Outside { vcns, pairs, .. }) = (raw.kind, raw.form) {
            decode(pairs, vcns, clusters, &mut runs).map_err(|e| corrupt(record.number, e))?;
        }
    }
    Ok(runs)
}

/// The parts of attributes that were found so far.
#[derive(Default)]
struct Parts {
    found: Vec<(u64, Attribute)>,
    count: usize,
    runs: usize,
}

impl Parts {
    fn take(&mut self, record: &Record, clusters: u64) -> Result<(), FsError> {
        for raw in record.attributes()? {
            if raw.kind == kind::ATTRIBUTE_LIST {
                continue;
            }
            self.count += 1;
            let (first, form) = match raw.form {
                RawForm::Resident { value, indexed } => {
                    let value = value.to_vec();
                    (0, Form::Resident { value, indexed })
                }
                RawForm::Outside { vcns, pairs, sizes } => {
                    let mut runs = Vec::new();
                    decode(pairs, vcns, clusters, &mut runs)
                        .map_err(|e| corrupt(record.number, e))?;
                    self.runs += runs.len();
                    if self.runs > MAX_RUNS {
                        return Err(corrupt(record.number, "more runs than are handled"));
                    }
                    (vcns.0, Form::Outside { runs, sizes })
                }
            };
            self.found.push((
                first,
                Attribute {
                    kind: raw.kind,
                    name: raw.name.to_vec(),
                    flags: raw.flags,
                    form,
                },
            ));
        }
        Ok(())
    }

    /// The parts put together.
    fn whole(mut self) -> Result<Vec<Attribute>, &'static str> {
        self.found
            .sort_by(|(a_first, a), (b_first, b)| (a.key(), a_first).cmp(&(b.key(), b_first)));
        let mut whole: Vec<Attribute> = Vec::with_capacity(self.found.len());
        for (first, part) in self.found {
            if first == 0 {
                whole.push(part);
                continue;
            }
            let last = whole.last_mut().filter(|last| last.key() == part.key());
            match (last.map(|last| &mut last.form), part.form) {
                (Some(Form::Outside { runs, .. }), Form::Outside { runs: more, .. })
                    if runs.last().map_or(0, Run::end) == first =>
                {
                    runs.extend(more);
                }
                _ => return Err("a part of a map is missing"),
            }
        }
        Ok(whole)
    }
}

/// A name of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name<'a> {
    /// The record of the directory.
    pub parent: u64,
    /// In UTF-16.
    pub text: &'a [u8],
    /// Only there for DOS, beside a long one.
    pub is_short: bool,
}

/// Where the sizes of the file are repeated in a name attribute.
pub const NAME_SIZES: std::ops::Range<usize> = 0x28..0x38;
/// Where the length of the name is, and what follows it.
const LENGTH_AT: usize = 0x40;
/// Where the name begins in a name attribute.
const NAME_AT: usize = 0x42;

impl<'a> Name<'a> {
    /// Reads the value of a name attribute, or the key of a directory's entry.
    pub fn parse(value: &'a [u8]) -> Option<Name<'a>> {
        let count = usize::from(u8_at(value, LENGTH_AT));
        Some(Name {
            parent: u64_at(value, 0) & NUMBER_MASK,
            text: slice(value, NAME_AT, count * 2)?,
            is_short: u8_at(value, 0x41) == 2,
        })
    }
}

/// UTF-16 for people.
pub fn utf16(bytes: &[u8]) -> String {
    let (units, _) = bytes.as_chunks::<2>();
    let units: Vec<u16> = units.iter().map(|&unit| u16::from_le_bytes(unit)).collect();
    String::from_utf16_lossy(&units)
}

/// Whether a name in UTF-16 is this one.
pub fn is_name(bytes: &[u8], name: &str) -> bool {
    let wanted: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
    bytes == wanted
}

/// The entries of a node of an index: the file's record, and the whole entry. `header` begins at
/// the node's header.
///
/// # Errors
/// Says what does not fit.
pub fn entries(header: &[u8]) -> Result<Vec<(u64, std::ops::Range<usize>)>, &'static str> {
    const LAST: u16 = 2;
    let (mut at, end) = (u32_at(header, 0) as usize, u32_at(header, 4) as usize);
    let mut found = Vec::new();
    let Some(inside) = header.get(..end) else {
        return Err("an index with more entries than room");
    };
    loop {
        let len = usize::from(crate::fs::bytes::u16_at(inside, at.saturating_add(8)));
        let range = at..at.saturating_add(len);
        let Some(entry) = inside.get(range.clone()).filter(|e| e.len() >= 16) else {
            return Err("an index that is cut short");
        };
        if crate::fs::bytes::u16_at(entry, 12) & LAST != 0 {
            return Ok(found);
        }
        at = range.end;
        found.push((u64_at(entry, 0) & NUMBER_MASK, range));
    }
}
