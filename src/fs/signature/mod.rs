//! What else lies on a device: file systems, containers and RAID metadata, by their signatures.
//!
//! A grow hides what lies at the end of a device, a shrink destroys it, and neither the partition
//! table nor a file system's own checker knows of it.
//!
//! 1. Reads are bounded: the first 512 KiB, the last 2 MiB, and a few headers between.
//! 2. Whatever the bytes are, there is no panic.
//! 3. A name is given only for a whole magic number, with a check of another field beside it where
//!    the magic is short: random bytes, zeros and text have no signature.
//!
//! ext2/3/4 is left to its driver. Signatures say what a tool would take the device for; they do
//! not say whether it is in use, nor whether it is whole. Offsets and magic numbers are those of
//! util-linux's libblkid, unless a line says otherwise; those of RAID controllers are counted in
//! 512-byte sectors from the end, whatever the sector of the disk.

mod head;
mod tail;

use std::io;

use crate::disk::{DiskRead, Window, read_vec};
use crate::extent::Extent;
use crate::report::Refusal;
use crate::units::escape;

/// All of the two front labels of a ZFS device; everything else at the front lies before.
const HEAD_BYTES: u64 = 512 << 10;
/// Promise's farthest place is 3087 sectors before the end.
const TAIL_BYTES: u64 = 2 << 20;

/// Something that was recognised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// For people: `XFS`, `Linux RAID superblock (md 1.0)`.
    pub name: &'static str,
    /// Where it begins, in bytes from the start of the device.
    pub offset: u64,
    /// Whether its place is counted from the end of the device.
    pub at_end: bool,
    /// The tools that own it.
    pub owner_tool: &'static str,
}

/// Everything that is recognised at the start of `part` and at its end, in the order of offsets.
///
/// # Errors
/// The medium's.
pub fn signatures(part: &dyn DiskRead) -> io::Result<Vec<Signature>> {
    let mut found = head::search(part)?;
    found.extend(tail_signatures(part)?);
    found.sort_by_key(|s| (s.offset, s.name));
    Ok(found)
}

/// What is recognised by its distance from the end of `part`.
///
/// # Errors
/// The medium's.
pub fn tail_signatures(part: &dyn DiskRead) -> io::Result<Vec<Signature>> {
    let len_bytes = part.len_bytes();
    let span = Span::read(part, len_bytes.saturating_sub(TAIL_BYTES), TAIL_BYTES)?;
    Ok(tail::search(&span))
}

/// A part of a disk that ends where metadata could be: a partition as it is, as it will be, or
/// the disk itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Area {
    /// Where it lies on the disk.
    pub extent: Extent,
    /// What it is, for people: `partition 3 as it is now`.
    pub what: String,
    /// Whether a backup GPT belongs at its end, as it does at the end of a disk that has one.
    pub ends_with_table: bool,
}

/// Refuses what lies at the end of each of `areas` of `disk`, one `foreign-metadata` for each
/// place.
///
/// # Errors
/// The medium's, or `UnexpectedEof` where an area ends beyond the disk.
pub fn tail_refusals(disk: &dyn DiskRead, areas: &[Area]) -> io::Result<Vec<Refusal>> {
    tail_refusals_but(disk, areas, None)
}

/// The same, but for the signature of this name: that of the file system itself.
///
/// # Errors
/// As [`tail_refusals`].
pub fn tail_refusals_but(
    disk: &dyn DiskRead,
    areas: &[Area],
    own: Option<&str>,
) -> io::Result<Vec<Refusal>> {
    let mut seen = Vec::new();
    let mut refusals = Vec::new();
    for area in areas {
        let window = Window::new(disk, area.extent)?;
        for signature in tail_signatures(&window)? {
            let place = area.extent.start + signature.offset;
            let expected = area.ends_with_table && signature.name == tail::BACKUP_GPT;
            if expected || own == Some(signature.name) || seen.contains(&(place, signature.name)) {
                continue;
            }
            seen.push((place, signature.name));
            refusals.push(refusal(area, &signature, place));
        }
    }
    Ok(refusals)
}

fn refusal(area: &Area, signature: &Signature, place: u64) -> Refusal {
    let Signature {
        name, owner_tool, ..
    } = signature;
    let from_end = area.extent.end().saturating_sub(place);
    Refusal::new(
        "foreign-metadata",
        format!(
            "At the end of {} lies the {name}, {from_end} bytes before the end (byte {place} of \
             the disk): a change of size would hide or destroy it.",
            escape(&area.what)
        ),
        format!(
            "If it is in use, change the size with its own tools ({owner_tool}). If it is a \
             leftover, remove it with them, or with wipefs, and try again."
        ),
    )
}

/// A run of bytes that was read from a device, addressed by the device's offsets.
struct Span {
    start: u64,
    bytes: Vec<u8>,
    /// Of the whole device.
    len_bytes: u64,
    sector_bytes: u64,
}

impl Span {
    /// Reads up to `count` bytes from `start`, as far as the device goes.
    fn read(part: &dyn DiskRead, start: u64, count: u64) -> io::Result<Span> {
        let geometry = part.geometry();
        // So that no offset below overflows, whatever a device claims.
        let len_bytes = geometry.len_bytes.min(i64::MAX as u64);
        let count = count.min(len_bytes.saturating_sub(start));
        let bytes = if count == 0 {
            Vec::new()
        } else {
            read_vec(part, start, count as usize)?
        };
        Ok(Span {
            start,
            bytes,
            len_bytes,
            sector_bytes: u64::from(geometry.logical_sector_bytes.max(1)),
        })
    }

    fn get(&self, at: u64, count: usize) -> Option<&[u8]> {
        let from = usize::try_from(at.checked_sub(self.start)?).ok()?;
        self.bytes.get(from..from.checked_add(count)?)
    }

    fn is(&self, at: u64, magic: &[u8]) -> bool {
        self.get(at, magic.len()) == Some(magic)
    }

    fn array<const N: usize>(&self, at: u64) -> Option<[u8; N]> {
        self.get(at, N)?.try_into().ok()
    }

    fn u8(&self, at: u64) -> Option<u8> {
        self.array(at).map(u8::from_le_bytes)
    }

    fn le16(&self, at: u64) -> Option<u16> {
        self.array(at).map(u16::from_le_bytes)
    }

    fn le32(&self, at: u64) -> Option<u32> {
        self.array(at).map(u32::from_le_bytes)
    }

    fn le64(&self, at: u64) -> Option<u64> {
        self.array(at).map(u64::from_le_bytes)
    }

    fn be16(&self, at: u64) -> Option<u16> {
        self.array(at).map(u16::from_be_bytes)
    }

    fn be32(&self, at: u64) -> Option<u32> {
        self.array(at).map(u32::from_be_bytes)
    }

    fn be64(&self, at: u64) -> Option<u64> {
        self.array(at).map(u64::from_be_bytes)
    }
}

// Formats that have a copy at both ends.

/// An NTFS boot sector at `at`: unused fields are zero, sizes are possible.
fn ntfs_boot(span: &Span, at: u64) -> bool {
    let sector = span.le16(at + 11).unwrap_or(0);
    span.is(at + 3, b"NTFS    ")
        && span.is(at + 510, &[0x55, 0xaa])
        && sector.is_power_of_two()
        && (256..=4096).contains(&sector)
        && span.u8(at + 13).unwrap_or(0) != 0
        && span.is(at + 14, &[0; 7])
        && span.is(at + 22, &[0; 2])
        && span.is(at + 32, &[0; 4])
}

/// A version-1 superblock of Linux RAID, which names its own place.
fn md1(span: &Span, at: u64) -> bool {
    span.le32(at) == Some(0xa92b_4efc)
        && span.le32(at + 4) == Some(1)
        && span.le64(at + 144) == Some(at / 512)
}

/// A volume header of HFS+ or HFSX.
fn hfs_plus(span: &Span, at: u64) -> bool {
    let block = span.be32(at + 40).unwrap_or(0);
    (span.is(at, b"H+\0\x04") || span.is(at, b"HX\0\x05"))
        && block.is_power_of_two()
        && block >= 512
}

/// A superblock of NILFS2, whose checksum fits.
fn nilfs2(span: &Span, at: u64) -> bool {
    const SUM_AT: usize = 16;
    let count = span.le16(at + 8).map_or(0, usize::from);
    if span.le16(at + 6) != Some(0x3434) || !(SUM_AT + 4..=1024).contains(&count) {
        return false;
    }
    let (Some(block), Some(seed), Some(sum)) =
        (span.get(at, count), span.le32(at + 12), span.le32(at + 16))
    else {
        return false;
    };
    // The kernel's CRC is not inverted at either end; the crate's is at both.
    let mut crc = crc32fast::Hasher::new_with_initial(!seed);
    crc.update(&block[..SUM_AT]);
    crc.update(&[0; 4]);
    crc.update(&block[SUM_AT + 4..]);
    !crc.finalize() == sum
}

/// Uberblocks in the label of a ZFS device that begins at `label`, in either byte order.
fn zfs_uberblocks(span: &Span, label: u64) -> usize {
    const MAGIC: u64 = 0x00ba_b10c;
    let slots = (0..128u64).map(|i| label + (128 << 10) + i * 1024);
    slots
        .filter(|&at| span.le64(at) == Some(MAGIC) || span.be64(at) == Some(MAGIC))
        .count()
}

const BCACHE_MAGIC: &[u8] = b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81";
const BCACHEFS_MAGIC: &[u8] = b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef";

#[cfg(test)]
mod tests;
