//! The resizer. Data stays where it is wherever it can; what changes is its numbers.
//!
//! A FAT that must be longer takes room from the data behind it: as many sectors as some whole
//! clusters have, so that every cluster that is left keeps its place and has a lower number. What
//! was in the clusters that are lost, at the start of a growing volume and at the end of a
//! shrinking one, is copied to free ones. A FAT is never made shorter.

use std::collections::{BTreeMap, BTreeSet};

use super::boot::Boot;
use super::volume::{ENTRY_BYTES, Volume, first_cluster, set_first_cluster};
use crate::disk::{Disk, read_vec};
use crate::extent::Extent;
use crate::fs::FsError;
use crate::fs::bytes::{put, u32_at};
use crate::report::{Report, checkpoint};

/// Away from the numbers of clusters at which the kind of FAT changes, for not every system counts
/// alike.
const MARGIN: u64 = 16;

/// The fewest and the most clusters of this kind of FAT.
pub fn limits(boot: &Boot) -> (u64, u64) {
    match boot.wide {
        true => (65_525 + MARGIN, (1 << 25) - MARGIN),
        false => (4085 + MARGIN, 65_525 - 1 - MARGIN),
    }
}

/// How long a FAT is when the volume has `total` sectors.
pub fn fat_sectors(boot: &Boot, total: u64) -> u64 {
    let clusters = total.saturating_sub(boot.data_sector()) / boot.per_cluster;
    let needed = ((clusters + 2) * boot.entry_bytes()).div_ceil(boot.sector);
    let step = (boot.per_cluster / boot.fats).max(1);
    let more = needed.saturating_sub(boot.fat_sectors).div_ceil(step) * step;
    boot.fat_sectors + more
}

/// Clusters that a FAT of this length takes from the data.
pub fn swallowed(boot: &Boot, fat_sectors: u64) -> u64 {
    boot.fats * (fat_sectors - boot.fat_sectors) / boot.per_cluster
}

/// Clusters of a volume of `total` sectors.
pub fn clusters(boot: &Boot, total: u64) -> u64 {
    let data = boot.data_sector() + swallowed(boot, fat_sectors(boot, total)) * boot.per_cluster;
    total.saturating_sub(data) / boot.per_cluster
}

/// Old numbers of clusters and new ones.
struct Numbers {
    shift: u32,
    last: u32,
    moved: BTreeMap<u32, u32>,
}

impl Numbers {
    /// The new number of a cluster that stays, where it has one.
    fn stays(&self, old: u32) -> Option<u32> {
        let new = old.checked_sub(self.shift)?;
        (2..=self.last).contains(&new).then_some(new)
    }

    fn of(&self, old: u32) -> u32 {
        let moved = self.moved.get(&old).copied();
        moved.or(self.stays(old)).unwrap_or(old)
    }

    /// Finds a place for what cannot stay, in the order in which it lies.
    fn find(volume: &Volume<'_>, shift: u32, clusters: u64) -> Result<Numbers, FsError> {
        let mut numbers = Numbers {
            shift,
            last: clusters as u32 + 1,
            moved: BTreeMap::new(),
        };
        let mut free = (2..=numbers.last).filter(|&new| volume.link(new + shift) == 0);
        let lost = volume.in_use().filter(|&old| numbers.stays(old).is_none());
        for old in lost.collect::<Vec<u32>>() {
            let to = free.next();
            let to = to.ok_or_else(|| FsError::Corrupt("no free cluster is left".into()))?;
            numbers.moved.insert(old, to);
        }
        Ok(numbers)
    }
}

/// Makes the volume `new_bytes` large.
///
/// # Errors
/// Where it cannot be read or written, or has no room.
pub fn resize(part: &dyn Disk, new_bytes: u64, report: &dyn Report) -> Result<(), FsError> {
    let volume = Volume::read(&part)?;
    let old = volume.boot.clone();
    let total = new_bytes / old.sector;
    let length = fat_sectors(&old, total);
    let shift = swallowed(&old, length) as u32;
    let numbers = Numbers::find(&volume, shift, clusters(&old, total))?;
    let root = if old.wide {
        numbers.of(old.root_cluster)
    } else {
        0
    };
    let new = old.resized(total, length, root);
    let new = new.ok_or_else(|| FsError::Corrupt("no volume has such a size".into()))?;
    let nodes = volume.nodes()?;
    // Everything is read before what it may be under is written.
    let fixed_root = read_vec(
        part,
        old.root_sector() * old.sector,
        (old.root_sectors * old.sector) as usize,
    )?;
    for (&from, &to) in &numbers.moved {
        checkpoint(report).map_err(std::io::Error::from)?;
        let bytes = read_vec(part, old.place(from), old.cluster_bytes() as usize)?;
        part.write_at(new.place(to), &bytes)?;
    }
    for node in nodes.iter().filter(|node| node.is_directory) {
        let mut ended = false;
        for &cluster in &node.chain {
            let place = new.place(numbers.of(cluster));
            let mut bytes = read_vec(part, place, new.cluster_bytes() as usize)?;
            ended = renumber(&mut bytes, new.wide, &numbers, ended);
            part.write_at(place, &bytes)?;
        }
    }
    if !new.wide {
        let mut bytes = fixed_root;
        renumber(&mut bytes, false, &numbers, false);
        part.write_at(new.root_sector() * new.sector, &bytes)?;
    }
    write_fats(part, &volume, &new, &numbers)?;
    let taken: BTreeSet<u32> = numbers.moved.values().copied().collect();
    let free = |new: &u32| volume.link(new + shift) == 0 && !taken.contains(new);
    write_info(part, &new, (2..=numbers.last).filter(free))?;
    if let Some(at) = new.backup() {
        put_boot(part, at, &new)?;
    }
    put_boot(part, 0, &new)
}

/// Gives the entries of a piece of a directory their new first clusters. True where it ends here.
fn renumber(bytes: &mut [u8], wide: bool, numbers: &Numbers, mut ended: bool) -> bool {
    for entry in bytes.chunks_exact_mut(ENTRY_BYTES) {
        ended = ended || entry[0] == 0;
        if ended || entry[0] == 0xe5 || entry[11] & 0x08 != 0 {
            continue;
        }
        match first_cluster(entry, wide) {
            0 => {}
            first => set_first_cluster(entry, wide, numbers.of(first)),
        }
    }
    ended
}

fn write_fats(
    part: &dyn Disk,
    volume: &Volume<'_>,
    new: &Boot,
    numbers: &Numbers,
) -> Result<(), FsError> {
    let mut fat = vec![0u32; numbers.last as usize + 1];
    fat[0] = volume.fat[0];
    fat[1] = volume.fat[1];
    for cluster in volume.in_use() {
        let (raw, next) = (volume.fat[cluster as usize], volume.link(cluster));
        let kept = if new.wide { raw & 0xf000_0000 } else { 0 };
        let link = match next {
            next if next >= volume.end() => next,
            next => numbers.of(next),
        };
        if let Some(entry) = fat.get_mut(numbers.of(cluster) as usize) {
            *entry = kept | link;
        }
    }
    let length = new.fat_sectors * new.sector;
    let width = new.entry_bytes() as usize;
    for piece in Extent::new(0, length).split(1 << 20) {
        let first = piece.start as usize / width;
        let mut bytes = vec![0; piece.len as usize];
        for (to, value) in bytes.chunks_exact_mut(width).zip(fat.iter().skip(first)) {
            put(to, 0, &value.to_le_bytes());
        }
        for copy in 0..new.fats {
            let at = new.reserved * new.sector + copy * length + piece.start;
            part.write_at(at, &bytes)?;
        }
    }
    Ok(())
}

/// The number of free clusters and the first of them, where they were known.
fn write_info(part: &dyn Disk, new: &Boot, free: impl Iterator<Item = u32>) -> Result<(), FsError> {
    let Some(at) = new.info() else {
        return Ok(());
    };
    let mut sector = read_vec(part, at, 512)?;
    if !is_info(&sector) {
        return Ok(());
    }
    let (mut count, mut first) = (0u32, u32::MAX);
    for cluster in free {
        count += 1;
        first = first.min(cluster);
    }
    put(&mut sector, 488, &count.to_le_bytes());
    put(&mut sector, 492, &first.to_le_bytes());
    part.write_at(at, &sector)?;
    Ok(())
}

/// Whether it is an FSInfo.
pub fn is_info(sector: &[u8]) -> bool {
    u32_at(sector, 0) == 0x4161_5252 && u32_at(sector, 484) == 0x6141_7272
}

/// Of the rest of the sector nothing changes.
fn put_boot(part: &dyn Disk, at: u64, boot: &Boot) -> Result<(), FsError> {
    Ok(part.write_at(at, &boot.raw)?)
}
