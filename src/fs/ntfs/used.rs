//! Which bytes the volume uses, and the sizes that it can take.

use crate::disk::read_vec;
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
    for backup in backups(volume)? {
        map.insert(Extent::new(backup, boot.sector_bytes));
    }
    Ok(map)
}

/// Where backups of the boot sector are: in the last sector of the partition, where Windows looks,
/// behind the last sector of the volume, or where ntfsresize leaves one. Whatever has the shape of
/// one counts.
///
/// # Errors
/// The disk's.
pub fn backups(volume: &Volume<'_>) -> Result<Vec<u64>, FsError> {
    let boot = &volume.boot;
    let len_bytes = volume.part.len_bytes();
    let end = len_bytes - len_bytes % boot.sector_bytes;
    let mut found = Vec::new();
    for at in [
        Some(boot.sectors * boot.sector_bytes),
        boot.partition_bytes().checked_sub(boot.sector_bytes),
        end.checked_sub(boot.sector_bytes),
    ]
    .into_iter()
    .flatten()
    {
        // In the middle of the volume it is an ordinary cluster's, and in $Bitmap.
        let behind = at >= boot.clusters * boot.cluster_bytes;
        if !behind || at + boot.sector_bytes > len_bytes || found.contains(&at) {
            continue;
        }
        let raw = read_vec(volume.part, at, BOOT_BYTES)?;
        if Boot::parse(&raw).is_ok_and(|boot| boot.is_some()) {
            found.push(at);
        }
    }
    Ok(found)
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
    if bytes < boot.partition_bytes() {
        // What is beyond the end moves, and each file of it has a record.
        let beyond = Extent::from_range(bytes, boot.partition_bytes());
        let moved: u64 = used.within(beyond).map(|extent| extent.len).sum();
        let records = moved / boot.cluster_bytes * boot.record_bytes;
        delta += moved + records.min(size_of(file::MFT)?);
    }
    Ok(delta)
}
