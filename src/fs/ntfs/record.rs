//! Records of the $MFT, and the attributes in them, as they lie on the disk.
//!
//! A record is protected against torn writes: the last two bytes of each 512 are a number that is
//! the same in all of them, and what belongs there is kept in the record's head (the update
//! sequence array). The same holds for blocks of indexes and pages of the log.

use crate::fs::FsError;

use crate::fs::bytes::{slice, u8_at, u16_at, u32_at, u64_at};

/// What an update sequence number guards.
const STRIDE: usize = 512;
/// The record is in use.
pub const IN_USE: u16 = 1;
/// The record is a directory.
pub const DIRECTORY: u16 = 2;
/// The lower part of a reference is the record's number, the upper 16 bits its sequence number.
pub const NUMBER_MASK: u64 = (1 << 48) - 1;

/// The kinds of attributes that have a meaning here.
pub mod kind {
    /// Times, flags, owner and security.
    pub const STANDARD_INFORMATION: u32 = 0x10;
    /// Where the attributes are that have no room in the record.
    pub const ATTRIBUTE_LIST: u32 = 0x20;
    /// A name, with the directory that it is in.
    pub const FILE_NAME: u32 = 0x30;
    /// An identity.
    pub const OBJECT_ID: u32 = 0x40;
    /// An access list, where it is not shared.
    pub const SECURITY_DESCRIPTOR: u32 = 0x50;
    /// The label.
    pub const VOLUME_NAME: u32 = 0x60;
    /// Version and flags of the volume.
    pub const VOLUME_INFORMATION: u32 = 0x70;
    /// Content.
    pub const DATA: u32 = 0x80;
    /// The root of an index.
    pub const INDEX_ROOT: u32 = 0x90;
    /// The other nodes of an index.
    pub const INDEX_ALLOCATION: u32 = 0xa0;
    /// Which records or blocks are in use.
    pub const BITMAP: u32 = 0xb0;
    /// Extended attributes, and their description before them.
    pub const EA: u32 = 0xe0;
    /// What ends the list.
    pub const END: u32 = 0xffff_ffff;
}

/// Takes the update sequence numbers out of a record, a block or a page, and puts back what they
/// stand for.
///
/// # Errors
/// Says what does not fit.
pub fn fix_up(raw: &mut [u8]) -> Result<(), &'static str> {
    let (at, count) = (usize::from(u16_at(raw, 4)), usize::from(u16_at(raw, 6)));
    if !raw.len().is_multiple_of(STRIDE) || count != raw.len() / STRIDE + 1 {
        return Err("a wrong number of update sequence numbers");
    }
    let array = slice(raw, at, count * 2).ok_or("update sequence numbers beyond the end")?;
    // The array must not lie over what it guards.
    if !at.is_multiple_of(2) || at + count * 2 > STRIDE - 2 {
        return Err("update sequence numbers in a wrong place");
    }
    let array = array.to_vec();
    let (number, kept) = array.split_at(2);
    for (sector, kept) in raw.chunks_exact_mut(STRIDE).zip(kept.chunks_exact(2)) {
        let Some(end) = sector.get_mut(STRIDE - 2..) else {
            continue;
        };
        if end != number {
            return Err("it was torn while it was written");
        }
        end.copy_from_slice(kept);
    }
    Ok(())
}

/// A record, with its update sequence numbers taken out.
#[derive(Clone, Debug)]
pub struct Record {
    /// Its number.
    pub number: u64,
    /// How often it was used anew.
    pub sequence: u16,
    /// Names.
    pub links: u16,
    /// [`IN_USE`], [`DIRECTORY`], …
    pub flags: u16,
    /// The record that it extends, with that one's sequence number; 0 for one that stands alone.
    pub base: u64,
    bytes: Vec<u8>,
}

impl Record {
    /// `None` where there is no record at all: it was never used.
    ///
    /// # Errors
    /// [`FsError::Corrupt`].
    pub fn parse(number: u64, mut raw: Vec<u8>) -> Result<Option<Record>, FsError> {
        if !raw.starts_with(b"FILE") {
            return Ok(None);
        }
        fix_up(&mut raw).map_err(|what| corrupt(number, what))?;
        let used = u32_at(&raw, 0x18) as usize;
        if used > raw.len() {
            return Err(corrupt(number, "more bytes in use than there are"));
        }
        raw.truncate(used);
        Ok(Some(Record {
            number,
            sequence: u16_at(&raw, 0x10),
            links: u16_at(&raw, 0x12),
            flags: u16_at(&raw, 0x16),
            base: u64_at(&raw, 0x20),
            bytes: raw,
        }))
    }

    /// Whether it is in use.
    pub fn is_used(&self) -> bool {
        self.flags & IN_USE != 0
    }

    /// Whether another one is the same, but for the number of the last write to the journal and the
    /// update sequence numbers.
    pub fn is_same(&self, other: &Record) -> bool {
        let blank = |record: &Record| {
            let mut bytes = record.bytes.clone();
            let (at, count) = (u16_at(&bytes, 4), u16_at(&bytes, 6));
            let array = usize::from(at)..usize::from(at) + 2 * usize::from(count);
            for range in [8..16, array] {
                if let Some(field) = bytes.get_mut(range) {
                    field.fill(0);
                }
            }
            bytes
        };
        blank(self) == blank(other)
    }

    /// Its attributes, up to the end mark.
    ///
    /// # Errors
    /// [`FsError::Corrupt`].
    pub fn attributes(&self) -> Result<Vec<RawAttribute<'_>>, FsError> {
        let mut found = Vec::new();
        let mut at = usize::from(u16_at(&self.bytes, 0x14));
        loop {
            if slice(&self.bytes, at, 4).is_none() {
                return Err(corrupt(self.number, "attributes without an end"));
            }
            if u32_at(&self.bytes, at) == kind::END {
                return Ok(found);
            }
            let len = u32_at(&self.bytes, at.saturating_add(4)) as usize;
            let whole = slice(&self.bytes, at, len).filter(|whole| whole.len() >= 24);
            let whole = whole.ok_or_else(|| corrupt(self.number, "an attribute without room"))?;
            let attribute = RawAttribute::parse(whole);
            found.push(attribute.ok_or_else(|| corrupt(self.number, "an attribute cut short"))?);
            at = at.saturating_add(len);
        }
    }
}

/// An attribute, or a part of one, in a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawAttribute<'a> {
    /// One of [`kind`].
    pub kind: u32,
    /// Its name, in UTF-16.
    pub name: &'a [u8],
    /// Compressed (1), encrypted (0x4000), sparse (0x8000).
    pub flags: u16,
    /// Where its value is.
    pub form: RawForm<'a>,
}

/// Where a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RawForm<'a> {
    /// Here.
    Resident {
        /// The value.
        value: &'a [u8],
        /// Whether an index leads to it.
        indexed: u8,
    },
    /// In clusters.
    Outside {
        /// First cluster of the value that this part maps, and the last one.
        vcns: (u64, u64),
        /// The map.
        pairs: &'a [u8],
        /// Only in the first part.
        sizes: Sizes,
    },
}

/// The sizes of a value in clusters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Bytes that it may have without more clusters.
    pub allocated: u64,
    /// Bytes that it has.
    pub data: u64,
    /// Bytes that were written; behind them are zeros.
    pub initialized: u64,
    /// Bytes in clusters of its own, where it is compressed or sparse.
    pub compressed: u64,
    /// Power of two of the clusters that are compressed together.
    pub unit: u8,
}

impl<'a> RawAttribute<'a> {
    fn parse(whole: &'a [u8]) -> Option<RawAttribute<'a>> {
        let name_bytes = 2 * usize::from(u8_at(whole, 9));
        let name = match name_bytes {
            0 => &[],
            _ => slice(whole, usize::from(u16_at(whole, 0x0a)), name_bytes)?,
        };
        let flags = u16_at(whole, 0x0c);
        let form = if u8_at(whole, 8) == 0 {
            let (at, len) = (u16_at(whole, 0x14), u32_at(whole, 0x10));
            RawForm::Resident {
                value: slice(whole, usize::from(at), len as usize)?,
                indexed: u8_at(whole, 0x16),
            }
        } else {
            let pairs = whole.get(usize::from(u16_at(whole, 0x20))..)?;
            let vcns = (u64_at(whole, 0x10), u64_at(whole, 0x18));
            // Before this, the size in clusters of its own is not there.
            let has_compressed = u16_at(whole, 0x20) >= 0x48 && flags & 0x8001 != 0;
            let sizes = Sizes {
                allocated: u64_at(whole, 0x28),
                data: u64_at(whole, 0x30),
                initialized: u64_at(whole, 0x38),
                compressed: if has_compressed {
                    u64_at(whole, 0x40)
                } else {
                    0
                },
                unit: u8_at(whole, 0x22),
            };
            RawForm::Outside { vcns, pairs, sizes }
        };
        Some(RawAttribute {
            kind: u32_at(whole, 0),
            name,
            flags,
            form,
        })
    }
}

/// A record that is damaged.
pub fn corrupt(number: u64, what: &str) -> FsError {
    FsError::Corrupt(format!("record {number} of the $MFT: {what}"))
}
