//! Which bytes the volume uses, and the sizes that it can take.

use crate::disk::{DiskRead, read_vec};
use crate::extent::{Extent, ExtentMap};
use crate::fs::{Bounds, FsError};
use crate::report::{Report, Unit, checkpoint};

use super::boot::{BOOT_BYTES, Boot};
use super::record::{corrupt, kind};
use super::volume::{Volume, file};

/// Clusters have 32-bit numbers in Windows.
const MAX_CLUSTERS: u64 = (1 << 32) - 1;

/// Every byte in use: what $Bitmap says, the boot sector, and its backup wherever one is.
///
/// # Errors
/// [`FsError::Corrupt`] where $Bitmap is too short.
pub fn used(volume: &Volume<'_>, report: &dyn Report) -> Result<ExtentMap, FsError> {
    let boot = &volume.boot;
    let mut map = ExtentMap::new();
    let mut bits = volume.bits(file::BITMAP, kind::DATA)?;
    if bits.len() < boot.clusters {
        let text = "the bitmap is too short for the volume";
        return Err(corrupt(file::BITMAP, text));
    }
    report.phase("reading what is in use", None, Unit::Items);
    bits.each_run(boot.clusters, |run| {
        map.insert(volume.bytes_of(run.start, run.end - run.start));
        checkpoint(report).map_err(std::io::Error::from)?;
        Ok(())
    })?;
    map.insert(Extent::new(0, BOOT_BYTES as u64));
    for backup in backups(volume.part, boot)? {
        map.insert(Extent::new(backup, boot.sector_bytes));
    }
    Ok(map)
}

/// Where backups of the boot sector are, in order: behind the clusters, and in the last sector of
/// the partition. A backup is a boot sector of a volume with this serial number and size; in the last
/// sector, of any size, for ntfsresize leaves an old one where it makes a bare volume smaller.
///
/// # Errors
/// The disk's.
pub fn backups(part: &dyn DiskRead, boot: &Boot) -> Result<Vec<u64>, FsError> {
    let sector = boot.sector_bytes;
    let end = part.len_bytes() - part.len_bytes() % sector;
    let area = boot.backup_area();
    let mut found = Vec::new();
    if let Some(area) = area.intersection(Extent::new(0, end)) {
        let bytes = read_vec(part, area.start, area.len as usize)?;
        let sectors = bytes.chunks_exact(sector as usize).enumerate();
        let ours = sectors.filter(|(_, raw)| {
            let copy = Boot::parse(raw.get(..BOOT_BYTES).unwrap_or(raw));
            matches!(copy, Ok(Some(copy)) if (copy.serial, copy.sectors) == (boot.serial, boot.sectors))
        });
        found.extend(ours.map(|(index, _)| area.start + index as u64 * sector));
    }
    let last = end.saturating_sub(sector);
    if last >= area.end() {
        let raw = read_vec(part, last, BOOT_BYTES)?;
        if matches!(Boot::parse(&raw), Ok(Some(copy)) if copy.serial == boot.serial) {
            found.push(last);
        }
    }
    Ok(found)
}

/// The size of the volume with its backup of the boot sector; where that is missing, with all of the
/// cluster in which it should be.
///
/// # Errors
/// The disk's.
pub fn size_bytes(part: &dyn DiskRead, boot: &Boot) -> Result<u64, FsError> {
    let area = boot.backup_area();
    let backup = backups(part, boot)?
        .into_iter()
        .rfind(|&at| at < area.end());
    Ok(match backup {
        Some(at) => at + boot.sector_bytes,
        None => (area.start + boot.cluster_bytes).min(part.len_bytes()),
    })
}

/// Clusters that $BadClus lists.
///
/// # Errors
/// [`FsError::Corrupt`] where it has no list.
pub fn bad_clusters(volume: &Volume<'_>) -> Result<u64, FsError> {
    let inode = volume.inode(file::BAD)?;
    let bad = inode
        .attribute(kind::DATA, "$Bad")
        .ok_or_else(|| corrupt(file::BAD, "it has no list"))?;
    let runs = bad.runs().iter().filter(|run| run.lcn.is_some());
    Ok(runs.map(|run| run.len).sum())
}

/// The sizes that the volume can take. The smallest is a lower bound: ntfsresize may need more.
///
/// # Errors
/// As [`used`].
pub fn bounds(volume: &Volume<'_>) -> Result<Bounds, FsError> {
    let boot = &volume.boot;
    let in_use = volume
        .bits(file::BITMAP, kind::DATA)?
        .count(boot.clusters)?;
    // ntfsresize does not move the first run of the $MFT.
    let first = volume.mft.first();
    let fixed = first.map_or(0, |run| run.lcn.unwrap_or(0) + run.len);
    let (clusters, min_reason) = if fixed > in_use {
        let text = format!("the first part of the $MFT ends in cluster {fixed}, and is not moved");
        (fixed, text)
    } else {
        (in_use, format!("{in_use} clusters are in use"))
    };
    let bytes = |clusters: u64| (clusters + 1).saturating_mul(boot.cluster_bytes);
    Ok(Bounds {
        min_bytes: bytes(clusters.min(boot.clusters)),
        min_reason,
        max_bytes: bytes(MAX_CLUSTERS.max(boot.clusters)),
        max_reason: "cluster numbers have 32 bits in Windows, and the size of clusters stays"
            .into(),
        unit_bytes: boot.cluster_bytes,
    })
}

/// About how many bytes a resize to `bytes` will change.
///
/// # Errors
/// As [`used`].
pub fn delta_estimate(volume: &Volume<'_>, used: &ExtentMap, bytes: u64) -> Result<u64, FsError> {
    const SMALL_CHANGES: u64 = 256 << 10;
    let boot = &volume.boot;
    let size_of = |number| -> Result<u64, FsError> {
        let inode = volume.inode(number)?;
        let data = inode.attribute(kind::DATA, "");
        Ok(data.map_or(0, |a| volume.content(a).len_bytes()))
    };
    // The journal is emptied, and $Bitmap made anew in another place.
    let mut delta = SMALL_CHANGES + size_of(file::LOG)? + bytes / boot.cluster_bytes / 8;
    if bytes < boot.backup_area().start {
        // What is beyond the end moves, and each file of it has a record.
        let beyond = Extent::from_range(bytes, boot.backup_area().start);
        let moved: u64 = used.within(beyond).map(|extent| extent.len).sum();
        let records = moved / boot.cluster_bytes * boot.record_bytes;
        delta += moved + records.min(size_of(file::MFT)?);
    }
    Ok(delta)
}
