//! Whose bytes are these: what a disk, a kernel or a checker says about places, and the files and
//! structures that are there.

use serde::Serialize;

use anyhow::{Context, anyhow};

use super::look::Look;
use super::stop::Stop;
use crate::extent::{Extent, ExtentMap};
use crate::fs::Owner;

/// Owners that are named.
pub const NAMED: usize = 10_000;
/// Kernel logs and `smartctl` of disks with 512-byte sectors count in these.
const SECTOR_BYTES: u64 = 512;

/// A place, as it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spot {
    /// Bytes of the disk: what `verify` says.
    Bytes(Extent),
    /// Sectors of 512 bytes of the disk: what the kernel's log says.
    Sectors(Extent),
    /// Logical sectors of the disk, of whatever size: what `smartctl` says.
    Lba(u64),
    /// Blocks of the partition, of the size that `badblocks` was told.
    Blocks(u64),
    /// Blocks of the file system: "Buffer I/O error on dev …, logical block N".
    FsBlocks(u64),
}

/// Reads `START+LEN` or `START..END` in bytes, or the same in sectors with an `s`: `2048s+8`.
///
/// # Errors
/// What is wrong with it.
pub fn spot(text: &str) -> Result<Spot, String> {
    let wrong = || {
        format!(
            "`{text}` is no place: write START+LEN or START..END in bytes, or 2048s for a sector"
        )
    };
    let number = |text: &str| text.parse::<u64>().map_err(|_| wrong());
    let (first, len) = match (text.split_once('+'), text.split_once("..")) {
        (Some((first, len)), _) => (first, Some(number(len)?)),
        (None, Some((first, end))) => {
            let start = number(first.trim_end_matches('s'))?;
            (
                first,
                Some(number(end)?.checked_sub(start).ok_or_else(wrong)?),
            )
        }
        (None, None) => (text, None),
    };
    let (first, in_sectors) = match first.strip_suffix('s') {
        Some(first) => (first, true),
        None => (first, false),
    };
    let (start, len) = (number(first)?, len.unwrap_or(1));
    if len == 0
        || start
            .checked_add(len)
            .and_then(|end| end.checked_mul(SECTOR_BYTES))
            .is_none()
    {
        return Err(wrong());
    }
    let extent = Extent::new(start, len);
    Ok(if in_sectors {
        Spot::Sectors(extent)
    } else {
        Spot::Bytes(extent)
    })
}

/// Finds the places in what a tool printed: `verify --json`, `badblocks`, `smartctl`, a kernel log.
pub fn spots(text: &str) -> Vec<Spot> {
    // A single number, as badblocks may print it, is a document as well.
    let document = serde_json::from_str::<serde_json::Value>(text);
    if let Some(document) = document.ok().filter(serde_json::Value::is_object) {
        let extents = document
            .pointer("/comparison/extents")
            .and_then(|v| v.as_array());
        let extent = |value: &serde_json::Value| {
            let (start, len) = (value.get("start")?.as_u64()?, value.get("len")?.as_u64()?);
            (len > 0 && start.checked_add(len).is_some())
                .then(|| Spot::Bytes(Extent::new(start, len)))
        };
        return extents.map_or(Vec::new(), |list| list.iter().filter_map(extent).collect());
    }
    text.lines().filter_map(spot_of_line).collect()
}

fn spot_of_line(line: &str) -> Option<Spot> {
    let number_after = |word: &str| {
        let rest = line.get(line.find(word)? + word.len()..)?;
        let rest = rest.trim_start_matches([' ', '=', ':', '#']);
        let digits = rest
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest.len());
        rest.get(..digits)?.parse::<u64>().ok()
    };
    if let Some(block) = number_after("logical block ") {
        return Some(Spot::FsBlocks(block));
    }
    if let Some(sector) = number_after("sector ") {
        return sector
            .checked_mul(SECTOR_BYTES)
            .map(|_| Spot::Sectors(Extent::new(sector, 1)));
    }
    // `… LBA = 0x0012d687 = 1234567`, and a self-test that found a bad sector.
    if let Some((_, after)) = line.split_once("LBA = 0x") {
        return after.split_once("= ")?.1.trim().parse().ok().map(Spot::Lba);
    }
    if line.contains("read failure") {
        return line.split_whitespace().last()?.parse().ok().map(Spot::Lba);
    }
    let line = line.trim();
    match spot(line) {
        Ok(Spot::Bytes(extent)) if line.bytes().all(|b| b.is_ascii_digit()) => {
            Some(Spot::Blocks(extent.start))
        }
        Ok(spot) => Some(spot),
        Err(_) => None,
    }
}

/// What was found out.
#[derive(Clone, Debug, Serialize)]
pub struct Blame {
    /// Owners, structures first.
    pub owners: Vec<Owner>,
    /// Whether there are more.
    pub more: bool,
    /// Bytes that were asked about.
    pub bytes: u64,
    /// Those of them outside the partition.
    pub outside_bytes: u64,
}

/// Says whose the places are. `block_bytes` is the size of `badblocks`' blocks.
///
/// # Errors
/// [`Stop::Refused`] where there is no file system.
pub fn blame(look: &Look, spots: &[Spot], block_bytes: u64) -> Result<Blame, Stop> {
    let (Some(partition), Some(volume)) = (look.partition, &look.file_system) else {
        return Err(Stop::Refused(look.refusals.clone()));
    };
    let geometry = crate::disk::DiskRead::geometry(&look.disk);
    let lba_bytes = u64::from(geometry.logical_sector_bytes);
    let fs_block = volume.observed.block_bytes;
    let mut places = ExtentMap::new();
    for spot in spots {
        let scaled = |base: u64, start: u64, len: u64, unit: u64| {
            let start = start.checked_mul(unit)?.checked_add(base)?;
            let len = len.checked_mul(unit)?;
            start.checked_add(len).map(|_| Extent::new(start, len))
        };
        let extent = match *spot {
            Spot::Bytes(e) => Some(e),
            Spot::Sectors(e) => scaled(0, e.start, e.len, SECTOR_BYTES),
            Spot::Lba(at) => scaled(0, at, 1, lba_bytes),
            Spot::Blocks(at) => scaled(partition.start, at, 1, block_bytes),
            Spot::FsBlocks(at) => scaled(partition.start, at, 1, fs_block),
        };
        places.insert(extent.ok_or_else(|| anyhow!("a place is beyond every disk"))?);
    }
    let inside: ExtentMap = (places.within(partition))
        .map(|e| Extent::new(e.start - partition.start, e.len))
        .collect();
    let part = look.window(partition).context("opening the partition")?;
    let mut owners = match inside.is_empty() {
        true => Vec::new(),
        false => {
            (volume.driver.owned(&part, &inside, NAMED + 1)).context("looking for the owners")?
        }
    };
    let more = owners.len() > NAMED;
    owners.truncate(NAMED);
    Ok(Blame {
        owners,
        more,
        bytes: places.total_bytes(),
        outside_bytes: places.total_bytes() - inside.total_bytes(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_as_they_are_typed() {
        let bytes = |start, len| Ok(Spot::Bytes(Extent::new(start, len)));
        assert_eq!(spot("4096+512"), bytes(4096, 512));
        assert_eq!(spot("4096..8192"), bytes(4096, 4096));
        assert_eq!(spot("4096"), bytes(4096, 1));
        assert_eq!(spot("2048s+8"), Ok(Spot::Sectors(Extent::new(2048, 8))));
        assert_eq!(spot("2048s"), Ok(Spot::Sectors(Extent::new(2048, 1))));
        for bad in [
            "",
            "s",
            "x",
            "1+0",
            "5..4",
            "-1",
            "18446744073709551615+1",
            "1+2+3",
        ] {
            assert!(spot(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn places_are_found_in_what_tools_print() {
        let text = "\
[ 12.3] blk_update_request: I/O error, dev sdb, sector 123456 op 0x0:(READ) flags 0x0
[ 12.4] critical medium error, dev sdb, sector 123464
[ 12.5] Buffer I/O error on dev sdb2, logical block 77, async page read
# 1  Short offline       Completed: read failure       90%     12345         987654
  40 51 08 87 d6 12 00  Error: UNC 8 sectors at LBA = 0x0012d687 = 1234567
4711
nothing of the kind
";
        let sector = |at| Spot::Sectors(Extent::new(at, 1));
        assert_eq!(
            spots(text),
            [
                sector(123_456),
                sector(123_464),
                Spot::FsBlocks(77),
                Spot::Lba(987_654),
                Spot::Lba(1_234_567),
                Spot::Blocks(4711),
            ]
        );
        let json =
            r#"{"comparison": {"extents": [{"start": 4096, "len": 512}, {"start": 1, "len": 0}]}}"#;
        assert_eq!(spots(json), [Spot::Bytes(Extent::new(4096, 512))]);
    }
}
