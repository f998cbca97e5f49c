//! Two states of one volume. Every entry of every directory is the same, byte for byte and in the
//! same order, but for the number of its first cluster; and that leads to the same content.

use super::resize::is_info;
use super::volume::{ENTRY_BYTES, Node, Volume, live, set_first_cluster};
use crate::disk::{DiskRead, read_vec};
use crate::extent::{Extent, ExtentMap};
use crate::fs::bytes::u32_at;
use crate::fs::{Difference, FsError};
use crate::report::{Report, checkpoint};
use crate::units::escape_bytes;

/// Bytes of the boot sector that a resize may change: sectors, sectors of a FAT, root directory.
const SIZES: [std::ops::Range<usize>; 3] = [19..21, 22..24, 32..40];
const WIDE_SIZES: std::ops::Range<usize> = 44..48;

/// Everything that differs and may not.
///
/// # Errors
/// Where either cannot be read.
pub fn compare(
    before: &dyn DiskRead,
    after: &dyn DiskRead,
    changed: &ExtentMap,
    limit: usize,
    report: &dyn Report,
) -> Result<Vec<Difference>, FsError> {
    let (old, new) = (Volume::read(before)?, Volume::read(after)?);
    let mut found = Vec::new();
    reserved(&old, &new, &mut found)?;
    let (a, b) = (old.nodes()?, new.nodes()?);
    if old.in_use().count() != new.in_use().count() {
        add(
            &mut found,
            "map",
            "the FAT",
            "another number of clusters is in use".into(),
        );
    }
    let mask = |fat: &[u32]| (fat[0], fat[1]);
    if mask(&old.fat) != mask(&new.fat) {
        add(
            &mut found,
            "superblock",
            "the FAT",
            "its first two entries have changed".into(),
        );
    }
    for n in 0..a.len().max(b.len()) {
        checkpoint(report).map_err(std::io::Error::from)?;
        if found.len() >= limit {
            break;
        }
        match (a.get(n), b.get(n)) {
            (Some(a), Some(b)) if a.path != b.path => {
                add(
                    &mut found,
                    "file-missing",
                    &a.path,
                    format!("in its place is {}", b.path),
                );
                break;
            }
            (Some(a), Some(b)) => node((&old, a), (&new, b), changed, &mut found)?,
            (Some(a), None) => add(&mut found, "file-missing", &a.path, "it is gone".into()),
            (None, Some(b)) => add(&mut found, "file-new", &b.path, "it was not there".into()),
            (None, None) => {}
        }
    }
    found.truncate(limit);
    Ok(found)
}

fn add(found: &mut Vec<Difference>, code: &str, object: &str, detail: String) {
    found.push(Difference {
        code: code.into(),
        object: object.into(),
        detail,
    });
}

/// All that lies before the FATs.
fn reserved(
    old: &Volume<'_>,
    new: &Volume<'_>,
    found: &mut Vec<Difference>,
) -> Result<(), FsError> {
    let (boot, now) = (&old.boot, &new.boot);
    let len = (boot.reserved * boot.sector) as usize;
    let mut a = read_vec(old.part, 0, len)?;
    let mut b = read_vec(new.part, 0, len)?;
    if let Some(at) = now.backup().map(|at| at as usize)
        && a.get(at..at + 512) == a.get(..512)
        && b.get(at..at + 512) != b.get(..512)
    {
        add(
            found,
            "backup-superblock",
            "the backup of the boot sector",
            "it does not agree".into(),
        );
    }
    if let Some(at) = now.info().map(|at| at as usize)
        && let Some(sector) = b.get(at..at + 512).filter(|sector| is_info(sector))
    {
        let free = now.clusters() - new.in_use().count() as u64;
        let says = u32_at(sector, 488);
        if u64::from(says) != free && says != u32::MAX {
            let detail = format!("it says that {says} clusters are free, and {free} are");
            add(found, "superblock", "the FSInfo", detail);
        }
        for bytes in [&mut a, &mut b] {
            bytes[at + 488..at + 496].fill(0);
        }
    }
    let copies = [Some(0), now.backup()].into_iter().flatten();
    for at in copies.map(|at| at as usize) {
        let wide = boot.wide.then_some(WIDE_SIZES);
        for range in SIZES.into_iter().chain(wide) {
            // In FAT16 the extended record begins behind byte 36.
            let end = if boot.wide {
                range.end
            } else {
                range.end.min(36)
            };
            for bytes in [&mut a, &mut b] {
                bytes[at + range.start..at + end].fill(0);
            }
        }
    }
    if let Some(at) = a.iter().zip(&b).position(|(a, b)| a != b) {
        let detail = format!("byte {at} was {:#04x}, and is {:#04x}", a[at], b[at]);
        add(found, "boot-block", "the reserved sectors", detail);
    }
    Ok(())
}

fn node(
    (old, a): (&Volume<'_>, &Node),
    (new, b): (&Volume<'_>, &Node),
    changed: &ExtentMap,
    found: &mut Vec<Difference>,
) -> Result<(), FsError> {
    if a.is_directory != b.is_directory || a.chain.len() != b.chain.len() {
        let detail = format!(
            "it had {} clusters, and has {}",
            a.chain.len(),
            b.chain.len()
        );
        add(found, "map", &a.path, detail);
        return Ok(());
    }
    if a.is_directory {
        return directory((old, a), (new, b), found);
    }
    let len = old.boot.cluster_bytes();
    for (n, (&from, &to)) in a.chain.iter().zip(&b.chain).enumerate() {
        let (from, to) = (old.boot.place(from), new.boot.place(to));
        if from == to && !changed.intersects(Extent::new(to, len)) {
            continue;
        }
        let was = read_vec(old.part, from, len as usize)?;
        let is = read_vec(new.part, to, len as usize)?;
        if let Some(at) = was.iter().zip(&is).position(|(a, b)| a != b) {
            let detail = format!("byte {} differs", n as u64 * len + at as u64);
            add(found, "file-content", &a.path, detail);
            break;
        }
    }
    Ok(())
}

fn directory(
    (old, a): (&Volume<'_>, &Node),
    (new, b): (&Volume<'_>, &Node),
    found: &mut Vec<Difference>,
) -> Result<(), FsError> {
    let wide = old.boot.wide;
    let without_numbers = |volume: &Volume<'_>, node: &Node| -> Result<Vec<u8>, FsError> {
        let mut bytes = volume.content(node)?;
        let places: Vec<(usize, bool)> = live(&bytes)
            .map(|(at, entry)| (at, super::volume::first_cluster(entry, wide) == 0))
            .collect();
        for (at, empty) in places {
            // That there is none must stay.
            let number = if empty { 0 } else { u32::MAX };
            set_first_cluster(&mut bytes[at..at + ENTRY_BYTES], wide, number);
        }
        Ok(bytes)
    };
    let (was, is) = (without_numbers(old, a)?, without_numbers(new, b)?);
    let pairs = was
        .chunks_exact(ENTRY_BYTES)
        .zip(is.chunks_exact(ENTRY_BYTES));
    for (was, is) in pairs.filter(|(was, is)| was != is) {
        let at = was.iter().zip(is).position(|(a, b)| a != b).unwrap_or(0);
        let code = match at {
            _ if was[11] == 0x0f || at < 11 => "directory",
            11 | 12 => "flags",
            13..20 | 22..26 => "times",
            28..32 => "size",
            _ => "map",
        };
        let detail = format!(
            "byte {at} of the entry {} was {:#04x}, and is {:#04x}",
            escape_bytes(&was[..11]),
            was[at],
            is[at]
        );
        add(found, code, &a.path, detail);
    }
    Ok(())
}
