//! A volume: the $MFT, its records, and the content of attributes.

use std::cell::RefCell;

use crate::disk::{DiskRead, read_vec};
use crate::extent::Extent;
use crate::fs::FsError;

use super::boot::{BOOT_BYTES, Boot};
use super::gate;
use super::inode::{Attribute, Form, Inode};
use super::record::{NUMBER_MASK, RawForm, Record, corrupt, kind};
use super::runs::{Run, decode};
use crate::fs::bytes::u64_at;

/// Records that have a meaning of their own.
pub mod file {
    /// The table of all records.
    pub const MFT: u64 = 0;
    /// A copy of its first records.
    pub const MIRROR: u64 = 1;
    /// The journal.
    pub const LOG: u64 = 2;
    /// Label, version and flags.
    pub const VOLUME: u64 = 3;
    /// The root directory.
    pub const ROOT: u64 = 5;
    /// Which clusters are in use.
    pub const BITMAP: u64 = 6;
    /// The boot sector and its code.
    pub const BOOT: u64 = 7;
    /// Clusters that cannot be read.
    pub const BAD: u64 = 8;
    /// The last one that the volume keeps for itself, in general.
    pub const LAST_RESERVED: u64 = 15;
}

/// How much of the $MFT is read at once.
const CHUNK_BYTES: u64 = 256 << 10;
/// The limit of the format for a list of attributes.
const MAX_LIST_BYTES: u64 = 256 << 10;

/// A volume that can be read.
pub struct Volume<'a> {
    /// The partition.
    pub part: &'a dyn DiskRead,
    /// Its shape.
    pub boot: Boot,
    /// The map of the $MFT.
    pub mft: Vec<Run>,
    /// Number of records that were ever used.
    pub records: u64,
    /// A piece of the $MFT, and its offset.
    chunk: RefCell<(u64, Vec<u8>)>,
}

impl<'a> Volume<'a> {
    /// Opens what is known to be NTFS. A gate is looked through.
    ///
    /// # Errors
    /// [`FsError::Corrupt`] where it is none, or the $MFT is not to be found.
    pub fn open(part: &'a dyn DiskRead) -> Result<Volume<'a>, FsError> {
        let none = || FsError::Corrupt("there is no boot sector of NTFS".into());
        if part.len_bytes() < BOOT_BYTES as u64 {
            return Err(none());
        }
        let raw = read_vec(part, 0, BOOT_BYTES)?;
        Boot::parse(&raw)?.ok_or_else(none)?;
        let boot = gate::behind(&raw).ok_or_else(|| {
            FsError::Corrupt("boot sector: the $MFT cannot be where it says".into())
        })?;
        if boot.clusters * boot.cluster_bytes > part.len_bytes() {
            return Err(FsError::Corrupt(format!(
                "boot sector: {} clusters of {} bytes are more than the partition has",
                boot.clusters, boot.cluster_bytes
            )));
        }
        let len = boot.record_bytes.div_ceil(boot.cluster_bytes);
        let first = Run {
            vcn: 0,
            len,
            lcn: Some(boot.mft_lcn),
        };
        let mut volume = Volume {
            part,
            boot,
            mft: vec![first],
            records: 1,
            chunk: RefCell::new((u64::MAX, Vec::new())),
        };
        volume.map_table()?;
        Ok(volume)
    }

    /// Reads the map of the $MFT, of which later parts may be in records that only its earlier
    /// parts lead to.
    fn map_table(&mut self) -> Result<(), FsError> {
        let wrong = |what: &str| corrupt(file::MFT, what);
        let first = self
            .record(file::MFT)?
            .filter(|record| record.is_used() && record.base == 0)
            .ok_or_else(|| wrong("there is none"))?;
        let clusters = self.boot.clusters;
        let mut runs = Vec::new();
        let mut sizes = None;
        let add = |record: &Record, runs: &mut Vec<Run>, from: u64| {
            for raw in record.attributes()? {
                let RawForm::Outside {
                    vcns,
                    pairs,
                    sizes: found,
                } = raw.form
                else {
                    continue;
                };
                if (raw.kind, raw.name, vcns.0) == (kind::DATA, &[][..], from) {
                    decode(pairs, vcns, clusters, runs).map_err(|e| corrupt(record.number, e))?;
                    return Ok(Some(found));
                }
            }
            Ok::<_, FsError>(None)
        };
        sizes = sizes.or(add(&first, &mut runs, 0)?);
        let sizes = sizes.ok_or_else(|| wrong("no content"))?;
        let bytes = sizes.initialized.min(sizes.data);
        self.set_table(&runs, bytes)?;
        for entry in self.list_of(&first)? {
            if (entry.kind, entry.named, entry.number) == (kind::DATA, false, file::MFT)
                || (entry.kind, entry.named) != (kind::DATA, false)
            {
                continue;
            }
            let from = runs.last().map_or(0, Run::end);
            if entry.first != from {
                return Err(wrong("parts of its map are missing"));
            }
            let record = self.record(entry.number)?;
            let record = record.ok_or_else(|| wrong("a part of its map is not there"))?;
            add(&record, &mut runs, from)?.ok_or_else(|| wrong("a part of its map is missing"))?;
            self.set_table(&runs, bytes)?;
        }
        let mapped = runs.last().map_or(0, Run::end);
        let mapped = mapped.saturating_mul(self.boot.cluster_bytes);
        if bytes > mapped || runs.iter().any(|run| run.lcn.is_none()) {
            return Err(wrong("its map has holes"));
        }
        // Runs that lie over each other could make it endless.
        if bytes > self.part.len_bytes() {
            return Err(wrong("it is larger than the volume"));
        }
        if runs.first().and_then(|run| run.lcn) != Some(self.boot.mft_lcn) {
            return Err(wrong("it is not where the boot sector says"));
        }
        Ok(())
    }

    fn set_table(&mut self, runs: &[Run], bytes: u64) -> Result<(), FsError> {
        let mapped = runs.last().map_or(0, Run::end);
        let mapped = mapped.saturating_mul(self.boot.cluster_bytes);
        self.records = bytes.min(mapped) / self.boot.record_bytes;
        if self.records == 0 {
            return Err(corrupt(file::MFT, "no records"));
        }
        self.mft = runs.to_vec();
        *self.chunk.borrow_mut() = (u64::MAX, Vec::new());
        Ok(())
    }

    /// The bytes of clusters `lcn..lcn + len`, which lie inside the volume.
    pub fn bytes_of(&self, lcn: u64, len: u64) -> Extent {
        let size = self.boot.cluster_bytes;
        Extent::new(lcn * size, len * size)
    }

    /// Reads from a value in clusters. Holes, and what is beyond the map, read as zeros.
    ///
    /// # Errors
    /// The disk's.
    pub fn read_runs(&self, runs: &[Run], offset: u64, buf: &mut [u8]) -> Result<(), FsError> {
        let size = self.boot.cluster_bytes;
        let mut done = 0;
        while done < buf.len() {
            let at = offset.saturating_add(done as u64);
            let (vcn, inside) = (at / size, at % size);
            let index = runs.partition_point(|run| run.end() <= vcn);
            let left = (buf.len() - done) as u64;
            let (count, from) = match runs.get(index) {
                None => (left, None),
                Some(run) => {
                    let skipped = vcn.saturating_sub(run.vcn);
                    let rest = (run.len - skipped).saturating_mul(size) - inside;
                    let from = run.lcn.map(|lcn| (lcn + skipped) * size + inside);
                    (left.min(rest), from)
                }
            };
            let Some(piece) = buf.get_mut(done..done + count as usize) else {
                break;
            };
            match from {
                Some(from) => self.part.read_at(from, piece)?,
                None => piece.fill(0),
            }
            done += count as usize;
        }
        Ok(())
    }

    /// The bytes of a record as they lie on the disk.
    ///
    /// # Errors
    /// The disk's, or [`FsError::Corrupt`] where there is no such record.
    pub fn raw_record(&self, number: u64) -> Result<Vec<u8>, FsError> {
        if number >= self.records {
            return Err(corrupt(number, "beyond the end of the table"));
        }
        let size = self.boot.record_bytes;
        let (at, end) = (number * size, self.records * size);
        let mut chunk = self.chunk.borrow_mut();
        let start = at - at % CHUNK_BYTES;
        if chunk.0 != start {
            chunk.1.resize(CHUNK_BYTES.min(end - start) as usize, 0);
            chunk.0 = u64::MAX;
            let (_, bytes) = &mut *chunk;
            self.read_runs(&self.mft, start, bytes)?;
            chunk.0 = start;
        }
        let from = (at - start) as usize;
        let raw = chunk.1.get(from..from + size as usize);
        raw.map(<[u8]>::to_vec)
            .ok_or_else(|| corrupt(number, "beyond the end of the table"))
    }

    /// A record, where there is one.
    ///
    /// # Errors
    /// As [`Volume::raw_record`], and [`FsError::Corrupt`].
    pub fn record(&self, number: u64) -> Result<Option<Record>, FsError> {
        Record::parse(number, self.raw_record(number)?)
    }

    /// A file with all its attributes.
    ///
    /// # Errors
    /// [`FsError::Corrupt`] where the record is not in use, or a part of another one.
    pub fn inode(&self, number: u64) -> Result<Inode, FsError> {
        match self.record(number)? {
            Some(record) if record.is_used() && record.base == 0 => Inode::of(self, &record),
            _ => Err(corrupt(number, "it is not in use")),
        }
    }

    /// The entries of the list of attributes in a record, where it has one.
    ///
    /// # Errors
    /// [`FsError::Corrupt`].
    pub fn list_of(&self, record: &Record) -> Result<Vec<ListEntry>, FsError> {
        let wrong = |what: &str| corrupt(record.number, what);
        let mut list = None;
        for raw in record.attributes()? {
            if raw.kind == kind::ATTRIBUTE_LIST {
                list = Some(raw.form);
            }
        }
        let bytes = match list {
            None => return Ok(Vec::new()),
            Some(RawForm::Resident { value, .. }) => value.to_vec(),
            Some(RawForm::Outside { vcns, pairs, sizes }) => {
                let mut runs = Vec::new();
                decode(pairs, vcns, self.boot.clusters, &mut runs).map_err(wrong)?;
                if sizes.data > MAX_LIST_BYTES {
                    return Err(wrong("a list of attributes that is too long"));
                }
                let mut bytes = vec![0; sizes.data as usize];
                self.read_runs(&runs, 0, &mut bytes)?;
                bytes
            }
        };
        ListEntry::parse(&bytes).ok_or_else(|| wrong("a list of attributes that is cut short"))
    }

    /// The content of an attribute.
    pub fn content<'b>(&'b self, attribute: &'b Attribute) -> Content<'b> {
        Content {
            volume: self,
            attribute,
        }
    }

    /// The content of a file's attribute as bits, read as they are asked for.
    ///
    /// # Errors
    /// [`FsError::Corrupt`] where it has no such attribute.
    pub fn bits(&self, number: u64, of_kind: u32) -> Result<Bits<'_>, FsError> {
        let mut inode = self.inode(number)?;
        let at = inode
            .attributes
            .iter()
            .position(|a| a.kind == of_kind && a.name.is_empty())
            .ok_or_else(|| corrupt(number, "it has no bitmap"))?;
        let attribute = inode.attributes.swap_remove(at);
        self.solid(number, &attribute)?;
        Ok(Bits {
            volume: self,
            attribute,
            chunk: (u64::MAX, Vec::new()),
        })
    }

    /// The length of a value that is no longer than its clusters, which are no more than the volume
    /// has: what is read from end to end must have one.
    ///
    /// # Errors
    /// [`FsError::Corrupt`] for a value with holes, or a length that is not there.
    pub fn solid(&self, number: u64, attribute: &Attribute) -> Result<u64, FsError> {
        let Form::Outside { runs, sizes } = &attribute.form else {
            return Ok(self.content(attribute).len_bytes());
        };
        let mapped = runs.last().map_or(0, Run::end);
        let mapped = mapped.saturating_mul(self.boot.cluster_bytes);
        let is_solid = runs.iter().all(|run| run.lcn.is_some())
            && sizes.data <= mapped.min(self.part.len_bytes());
        match is_solid {
            true => Ok(sizes.data),
            false => Err(corrupt(number, "a value that is longer than its clusters")),
        }
    }
}

/// An entry of a list of attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListEntry {
    /// The attribute's kind.
    pub kind: u32,
    /// Whether it has a name.
    pub named: bool,
    /// First cluster of the value that the part maps.
    pub first: u64,
    /// The record that it is in.
    pub number: u64,
}

impl ListEntry {
    fn parse(bytes: &[u8]) -> Option<Vec<ListEntry>> {
        use crate::fs::bytes::{u8_at, u16_at, u32_at};
        let (mut at, mut found) = (0, Vec::new());
        while at < bytes.len() {
            let len = usize::from(u16_at(bytes, at + 4));
            let entry = bytes.get(at..at + len).filter(|e| e.len() >= 26)?;
            found.push(ListEntry {
                kind: u32_at(entry, 0),
                named: u8_at(entry, 6) != 0,
                first: u64_at(entry, 8),
                number: u64_at(entry, 16) & NUMBER_MASK,
            });
            at += len;
        }
        Some(found)
    }
}

/// The content of an attribute, wherever it is.
pub struct Content<'a> {
    volume: &'a Volume<'a>,
    attribute: &'a Attribute,
}

impl Content<'_> {
    /// Its length.
    pub fn len_bytes(&self) -> u64 {
        match &self.attribute.form {
            Form::Resident { value, .. } => value.len() as u64,
            Form::Outside { sizes, .. } => sizes.data,
        }
    }

    /// Reads from it. Beyond the end, and beyond what was written, are zeros.
    ///
    /// # Errors
    /// The disk's.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), FsError> {
        match &self.attribute.form {
            Form::Resident { value, .. } => {
                let from = usize::try_from(offset).unwrap_or(usize::MAX);
                let rest = value.get(from..).unwrap_or_default();
                let count = rest.len().min(buf.len());
                let (head, tail) = buf.split_at_mut(count);
                head.iter_mut().zip(rest).for_each(|(to, &from)| *to = from);
                tail.fill(0);
            }
            Form::Outside { runs, sizes } => {
                self.volume.read_runs(runs, offset, buf)?;
                let written = sizes.initialized.saturating_sub(offset);
                let written = (buf.len() as u64).min(written) as usize;
                if let Some(tail) = buf.get_mut(written..) {
                    tail.fill(0);
                }
            }
        }
        Ok(())
    }

    /// Up to `limit` bytes from its start.
    ///
    /// # Errors
    /// The disk's.
    pub fn head(&self, limit: u64) -> Result<Vec<u8>, FsError> {
        let mut bytes = vec![0; self.len_bytes().min(limit) as usize];
        self.read_at(0, &mut bytes)?;
        Ok(bytes)
    }
}

/// A bitmap that is an attribute.
pub struct Bits<'a> {
    volume: &'a Volume<'a>,
    attribute: Attribute,
    chunk: (u64, Vec<u8>),
}

impl Bits<'_> {
    /// Bytes that are read at once.
    const CHUNK_BYTES: u64 = 64 << 10;

    /// Number of bits.
    pub fn len(&self) -> u64 {
        self.volume
            .content(&self.attribute)
            .len_bytes()
            .saturating_mul(8)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A bit. Beyond the end they are clear.
    ///
    /// # Errors
    /// The disk's.
    pub fn get(&mut self, number: u64) -> Result<bool, FsError> {
        let byte = self.byte(number / 8)?;
        Ok(byte >> (number % 8) & 1 == 1)
    }

    /// Eight bits, from `8 * index`.
    ///
    /// # Errors
    /// The disk's.
    pub fn byte(&mut self, index: u64) -> Result<u8, FsError> {
        let start = index - index % Self::CHUNK_BYTES;
        if self.chunk.0 != start {
            let content = self.volume.content(&self.attribute);
            let count = content.len_bytes().saturating_sub(start);
            self.chunk
                .1
                .resize(count.min(Self::CHUNK_BYTES) as usize, 0);
            self.chunk.0 = u64::MAX;
            content.read_at(start, &mut self.chunk.1)?;
            self.chunk.0 = start;
        }
        let byte = self.chunk.1.get((index - start) as usize);
        Ok(byte.copied().unwrap_or(0))
    }

    /// Runs of set bits below `end`, in order, as ranges.
    ///
    /// # Errors
    /// The disk's, or that of `each`.
    pub fn each_run(
        &mut self,
        end: u64,
        mut each: impl FnMut(std::ops::Range<u64>) -> Result<(), FsError>,
    ) -> Result<(), FsError> {
        let mut from = None;
        for index in 0..end.div_ceil(8) {
            let byte = self.byte(index)?;
            match (byte, from) {
                (0, None) | (0xff, Some(_)) => continue,
                (0xff, None) => {
                    from = Some(index * 8);
                    continue;
                }
                _ => {}
            }
            for bit in 0..8 {
                let number = index * 8 + bit;
                match (byte >> bit & 1 == 1, from) {
                    (true, None) => from = Some(number),
                    (false, Some(start)) => {
                        if start < end {
                            each(start..number.min(end))?;
                        }
                        from = None;
                    }
                    _ => {}
                }
            }
        }
        match from {
            Some(start) if start < end => each(start..end),
            _ => Ok(()),
        }
    }

    /// Number of set bits below `end`.
    ///
    /// # Errors
    /// The disk's.
    pub fn count(&mut self, end: u64) -> Result<u64, FsError> {
        let mut count = 0;
        self.each_run(end, |run| {
            count += run.end - run.start;
            Ok(())
        })?;
        Ok(count)
    }
}
