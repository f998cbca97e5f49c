//! The same table read by somebody else's code: the `gpt` crate.
//!
//! The crate believes sizes and asserts on some fields, so it gets to see a disk only after our
//! own codec has accepted the table, and only through an adapter that cannot write. It is never
//! asked to write: it renumbers partitions when it does.

use std::collections::BTreeSet;
use std::io::{self, Read, Seek, SeekFrom};

use gpt::disk::LogicalBlockSize;
use gpt::header::read_header_from_arbitrary_device;
use gpt::partition::file_read_partitions;

use super::gpt::Gpt;
use super::guid::Guid;
use super::header::MIN_HEADER_BYTES;
use super::partition::MIN_ENTRY_BYTES;
use crate::disk::DiskRead;
use crate::units::escape;

/// What the second reader says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opinion {
    /// It reads the same partitions.
    Agrees,
    /// It reads something else, and this is what.
    Differs(Vec<String>),
    /// The table is legal, but not one that the second reader can read. Not a failure.
    NotAble(String),
}

/// Reads the table of `disk` with the `gpt` crate and compares it with `ours`.
///
/// # Errors
/// The disk's own.
pub fn second_opinion(ours: &Gpt, disk: &dyn DiskRead) -> io::Result<Opinion> {
    let sector = match LogicalBlockSize::try_from(ours.sector_bytes()) {
        Ok(sector) => sector,
        Err(e) => return Ok(Opinion::NotAble(e.to_string())),
    };
    let header_bytes = ours.raw.primary.header.header_bytes;
    if header_bytes != MIN_HEADER_BYTES {
        let reason = format!("it does not read headers of {header_bytes} bytes");
        return Ok(Opinion::NotAble(reason));
    }
    if ours.entry_bytes() != MIN_ENTRY_BYTES {
        let reason = format!("it does not read entries of {} bytes", ours.entry_bytes());
        return Ok(Opinion::NotAble(reason));
    }
    let mut reader = Reader {
        disk,
        at: 0,
        failure: None,
    };
    let header = match read_header_from_arbitrary_device(&mut reader, sector) {
        Ok(header) => header,
        Err(e) => return reader.failed(e.to_string()),
    };
    // The crate asserts on the one and takes memory by the other, so they must be the very
    // numbers that were bounded, also where the disk has changed meanwhile.
    if (header.part_size, header.num_parts) != (ours.entry_bytes(), ours.entry_count()) {
        let what = format!("{} entries of {} bytes", header.num_parts, header.part_size);
        return Ok(Opinion::Differs(vec![what]));
    }
    let theirs = match file_read_partitions(&mut reader, &header, sector) {
        Ok(theirs) => theirs,
        Err(e) => return reader.failed(e.to_string()),
    };
    let line = |number: u32, first: u64, last: u64, kind: Guid, guid: Guid, name: &str| {
        let name = escape(name);
        format!("{number}: LBA {first} to {last}, type {kind}, GUID {guid}, name `{name}`")
    };
    let ours: BTreeSet<String> = ours
        .partitions()
        .iter()
        .map(|p| {
            let (first, last) = (p.first_lba, p.last_lba);
            line(p.number, first, last, p.type_guid, p.unique_guid, &p.name)
        })
        .collect();
    let theirs: BTreeSet<String> = theirs
        .iter()
        .filter(|(_, p)| p.is_used())
        .map(|(&number, p)| {
            let kind = Guid(p.part_type_guid.guid.to_bytes_le());
            let guid = Guid(p.part_guid.to_bytes_le());
            line(number, p.first_lba, p.last_lba, kind, guid, &p.name)
        })
        .collect();
    let only_ours = ours.difference(&theirs).map(|p| format!("only ours: {p}"));
    let only_theirs = theirs
        .difference(&ours)
        .map(|p| format!("only theirs: {p}"));
    let differs: Vec<String> = only_ours.chain(only_theirs).collect();
    Ok(match differs.is_empty() {
        true => Opinion::Agrees,
        false => Opinion::Differs(differs),
    })
}

/// A disk as something to read and seek in, and nothing else.
struct Reader<'a> {
    disk: &'a dyn DiskRead,
    at: u64,
    /// The disk's own error, which the crate would pass on as one of its kinds.
    failure: Option<io::Error>,
}

impl Reader<'_> {
    /// The disk's error where there was one, and otherwise the crate's as what differs.
    fn failed(&mut self, what: String) -> io::Result<Opinion> {
        match self.failure.take() {
            Some(failure) => Err(failure),
            None => Ok(Opinion::Differs(vec![what])),
        }
    }
}

impl Read for Reader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = self.disk.len_bytes().saturating_sub(self.at);
        let count = usize::try_from(left).map_or(buf.len(), |left| left.min(buf.len()));
        if let Some(buf) = buf.get_mut(..count)
            && let Err(failure) = self.disk.read_at(self.at, buf)
        {
            let kind = failure.kind();
            self.failure = Some(failure);
            return Err(kind.into());
        }
        self.at += count as u64;
        Ok(count)
    }
}

impl Seek for Reader<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(distance) => self.disk.len_bytes().checked_add_signed(distance),
            SeekFrom::Current(distance) => self.at.checked_add_signed(distance),
        };
        self.at = at.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.at)
    }
}
