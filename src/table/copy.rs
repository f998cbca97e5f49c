//! One of the two copies: a header and its array of entries, with the bytes that they came from.

use std::fmt;
use std::io;

use super::header::{self, Header, MIN_HEADER_BYTES, REVISION};
use super::partition::MIN_ENTRY_BYTES;
use crate::disk::{DiskRead, read_vec};
use crate::extent::Extent;
use crate::report::Refusal;

/// More than any table needs (128 entries take 16 KiB): a bound for the memory that a number
/// from a disk can ask for.
const MAX_ARRAY_BYTES: u64 = 4 << 20;
const MAX_ENTRY_BYTES: u32 = 4096;

/// For what carries a checksum that fits: it was written so, and no tool should "mend" it.
const MEANT: &str =
    "its checksum fits, so it was written that way: such a table is not handled here";

/// Sector size and number of sectors of the disk that is being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub sector_bytes: u64,
    pub sectors: u64,
}

impl Shape {
    /// The shape of `disk`. A rest that is no whole sector does not count.
    pub fn of(disk: &dyn DiskRead) -> io::Result<Shape> {
        let geometry = disk.geometry();
        let sector_bytes = u64::from(geometry.logical_sector_bytes);
        if !sector_bytes.is_power_of_two() || !(512..=65536).contains(&sector_bytes) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("a partition table cannot have sectors of {sector_bytes} bytes"),
            ));
        }
        let sectors = geometry.len_bytes / sector_bytes;
        Ok(Shape {
            sector_bytes,
            sectors,
        })
    }

    /// The last LBA; 0 for a disk without sectors.
    pub fn last_lba(&self) -> u64 {
        self.sectors.saturating_sub(1)
    }

    /// Reads `count` sectors.
    pub fn read(&self, disk: &dyn DiskRead, lba: u64, count: u64) -> io::Result<Vec<u8>> {
        let beyond = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let offset = lba.checked_mul(self.sector_bytes).ok_or_else(beyond)?;
        let bytes = count.checked_mul(self.sector_bytes).ok_or_else(beyond)?;
        read_vec(disk, offset, usize::try_from(bytes).map_err(|_| beyond())?)
    }
}

/// Which of the two copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Primary,
    Backup,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Side::Primary => "primary",
            Side::Backup => "backup",
        })
    }
}

/// A copy that is whole: checksums fit, and header and entries lie on the disk, apart.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Copy {
    pub side: Side,
    pub header: Header,
    /// The header's sector, as read.
    pub sector: Vec<u8>,
    /// The sectors of the entries, as read; the last may hold more than entries.
    pub entries: Vec<u8>,
}

impl fmt::Debug for Copy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.side, self.header)
    }
}

/// What stands where a copy should be.
#[derive(Debug)]
pub(super) enum Sighting {
    /// No signature.
    Absent,
    /// A signature, and what is wrong with the rest.
    Bad { header: Header, problem: Refusal },
    /// A copy that is whole.
    Good(Copy),
}

/// Reads the copy whose header should stand at `lba`.
///
/// # Errors
/// The disk's. Whatever the bytes are is an answer, not an error.
pub(super) fn sight(
    disk: &dyn DiskRead,
    shape: Shape,
    side: Side,
    lba: u64,
) -> io::Result<Sighting> {
    if lba >= shape.sectors {
        return Ok(Sighting::Absent);
    }
    let sector = shape.read(disk, lba, 1)?;
    let Some(header) = Header::parse(&sector) else {
        return Ok(Sighting::Absent);
    };
    if let Some(problem) = header_problem(&header, &sector, shape, side, lba) {
        return Ok(Sighting::Bad { header, problem });
    }
    let entries = shape.read(disk, header.entries_lba, array_sectors(&header, shape))?;
    let used = entries.get(..header.array_bytes() as usize);
    if used.map(crc32fast::hash) != Some(header.entries_crc) {
        let message = format!(
            "the checksum of the {side} GPT's entries (from LBA {}) does not fit",
            header.entries_lba
        );
        let problem = Refusal::new("gpt-entries-crc", message, "");
        return Ok(Sighting::Bad { header, problem });
    }
    Ok(Sighting::Good(Copy {
        side,
        header,
        sector,
        entries,
    }))
}

/// Number of sectors that the entries take.
fn array_sectors(header: &Header, shape: Shape) -> u64 {
    header.array_bytes().div_ceil(shape.sector_bytes)
}

/// The first thing that makes a header unfit to be believed. Once one field is wrong the others
/// prove nothing, so there is only one.
fn header_problem(
    header: &Header,
    sector: &[u8],
    shape: Shape,
    side: Side,
    lba: u64,
) -> Option<Refusal> {
    let with_hint = |code: &str, what: String, hint: &str| {
        let message = format!("the {side} GPT header at LBA {lba} {what}");
        Some(Refusal::new(code, message, hint))
    };
    let problem = |code: &str, what: String| with_hint(code, what, "");
    let size = header.header_bytes;
    if size < MIN_HEADER_BYTES || u64::from(size) > shape.sector_bytes {
        return problem("gpt-header-size", format!("gives its size as {size} bytes"));
    }
    if header::checksum(sector, size) != Some(header.crc) {
        return problem("gpt-header-crc", "has a checksum that does not fit".into());
    }
    if header.revision != REVISION {
        let what = format!(
            "is of revision {:#010x}, which is not known",
            header.revision
        );
        return with_hint("gpt-revision", what, MEANT);
    }
    if header.my_lba != lba {
        let what = format!("says that it stands at LBA {}", header.my_lba);
        return problem("gpt-header-place", what);
    }
    let size = header.entry_bytes;
    if !size.is_power_of_two() || !(MIN_ENTRY_BYTES..=MAX_ENTRY_BYTES).contains(&size) {
        let what = format!("gives the size of an entry as {size} bytes");
        return with_hint("gpt-entry-size", what, MEANT);
    }
    if header.entry_count == 0 || header.array_bytes() > MAX_ARRAY_BYTES {
        let what = format!("tells of {} entries of {size} bytes", header.entry_count);
        return with_hint("gpt-entry-count", what, MEANT);
    }
    let first = header.entries_lba;
    let end = first.checked_add(array_sectors(header, shape));
    let fits = match side {
        Side::Primary => first > lba && end.is_some_and(|end| end <= shape.sectors),
        Side::Backup => first > 1 && end.is_some_and(|end| end <= lba),
    };
    if !fits {
        let what = format!("has its entries at LBA {first}, where they cannot be");
        return problem("gpt-entries-place", what);
    }
    None
}

impl Copy {
    /// The LBA after the last one that the entries take.
    pub fn entries_end_lba(&self, sector_bytes: u64) -> u64 {
        self.header.entries_lba + self.entries.len() as u64 / sector_bytes
    }

    /// The bytes of the header and those of the entries.
    pub fn extents(&self, sector_bytes: u64) -> [Extent; 2] {
        [
            Extent::new(self.header.my_lba * sector_bytes, sector_bytes),
            Extent::new(
                self.header.entries_lba * sector_bytes,
                self.entries.len() as u64,
            ),
        ]
    }

    /// The entries without what follows them in their last sector.
    pub fn used_entries(&self) -> &[u8] {
        let used = self.header.array_bytes() as usize;
        self.entries.get(..used).unwrap_or(&self.entries)
    }
}
