//! FAT16 and FAT32. FAT12 is refused, and so is a size at which the kind would change.
//!
//! What the driver promises:
//!
//! 1. No byte of a partition makes it panic, loop or take memory beyond what the FAT has entries.
//! 2. [`Driver::used`] has the boot sector, all copies of the FAT, the root directory, and every
//!    cluster that is not free.
//! 3. After a resize every entry of every directory is the same, byte for byte, but for the number
//!    of its first cluster.
//! 4. A gate that [`Driver::close_gate`] made is refused by the kernel, mtools and `fsck.fat`.
//!
//! The resizer is our own. `fatresize` 1.1.0 was tried: it wants a partition in a table, and dies
//! with an assertion of libparted on a volume in a file and on a device that is one volume, so that
//! it cannot work on the overlay; on what it can open it names a smallest size above the present
//! one. `fsck.fat` judges the volume before and after.
//!
//! What it does not do: it repairs nothing, and it does not touch what is behind the end of a
//! directory. The label is the boot sector's; that in the root directory is compared as an entry.

pub mod boot;
pub mod compare;
pub mod resize;
pub mod volume;

#[cfg(test)]
mod tests;

use std::path::Path;

use crate::disk::{Disk, DiskRead};
use crate::extent::{Extent, ExtentMap};
use crate::report::{Refusal, Report};

use self::boot::{BOOT_BYTES, Boot};
use self::volume::Volume;
use super::bytes::u32_at;
use super::tool::{Tool, ToolError, Tools};
use super::{Bounds, Difference, Direction, Driver, FsError, GateState, Observed, TransactionId};

const FSCK: Tool = Tool {
    name: "fsck.fat",
    package: "dosfstools",
    env: &[],
};

/// The driver for FAT16 and FAT32.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fat;

impl Driver for Fat {
    fn name(&self) -> &'static str {
        "fat"
    }

    fn probe(&self, part: &dyn DiskRead) -> Result<Option<Observed>, FsError> {
        Ok(Boot::read(part)?.map(|boot| observe(&boot)))
    }

    fn refusals(&self, part: &dyn DiskRead, _: Direction) -> Result<Vec<Refusal>, FsError> {
        let volume = match Volume::read(part) {
            Err(FsError::Unsupported(refusal)) => return Ok(vec![refusal]),
            volume => volume?,
        };
        if volume.is_dirty() {
            return Ok(vec![Refusal::new(
                "fat-dirty",
                "the volume was not unmounted, or errors were found on it",
                "run `fsck.fat -a` on it, or `chkdsk` in Windows",
            )]);
        }
        Ok(Vec::new())
    }

    fn bounds(&self, part: &dyn DiskRead) -> Result<Bounds, FsError> {
        let volume = Volume::read(part)?;
        let boot = &volume.boot;
        let (least, most) = resize::limits(boot);
        let in_use = volume.in_use().count() as u64;
        let of = |clusters: u64| boot.data_sector() + clusters * boot.per_cluster;
        let longest = resize::fat_sectors(boot, of(most));
        let largest = of(most) + boot.fats * (longest - boot.fat_sectors);
        let name = if boot.wide { "FAT32" } else { "FAT16" };
        Ok(Bounds {
            min_bytes: of(least.max(in_use)) * boot.sector,
            min_reason: match in_use > least {
                true => format!("{in_use} clusters are in use"),
                false => format!("with fewer than {least} clusters it would not be {name}"),
            },
            max_bytes: largest.min(u32::MAX.into()) * boot.sector,
            max_reason: format!("with more than {most} clusters it would not be {name}"),
            unit_bytes: boot.sector,
        })
    }

    fn used(&self, part: &dyn DiskRead, _: &dyn Report) -> Result<ExtentMap, FsError> {
        Ok(Volume::read(part)?.used())
    }

    fn superblock(&self) -> Extent {
        Extent::new(0, BOOT_BYTES as u64)
    }

    fn close_gate(&self, superblock: &[u8], id: TransactionId) -> Result<Vec<u8>, FsError> {
        boot::close(superblock, id)
    }

    fn gate(&self, superblock: &[u8]) -> GateState {
        boot::state(superblock)
    }

    fn resize_own(
        &self,
        part: &dyn Disk,
        new_bytes: u64,
        report: &dyn Report,
    ) -> Result<bool, FsError> {
        resize::resize(part, new_bytes, report)?;
        Ok(true)
    }

    fn verify(&self, file: &Path, tools: &Tools<'_>) -> Result<(), ToolError> {
        let args = ["-n".as_ref(), file.as_os_str()];
        tools.run(FSCK, &args)?.accept(&[0])?;
        Ok(())
    }

    fn fit(&self, part: &dyn DiskRead, bytes: u64) -> Result<u64, FsError> {
        let boot = Volume::read(part)?.boot;
        let mut total = (bytes / boot.sector).min(u32::MAX.into());
        let (_, most) = resize::limits(&boot);
        let more = resize::clusters(&boot, total).saturating_sub(most);
        total -= (more * boot.per_cluster).min(total);
        Ok(total * boot.sector)
    }

    fn delta_estimate(
        &self,
        part: &dyn DiskRead,
        used: &ExtentMap,
        bytes: u64,
    ) -> Result<u64, FsError> {
        let boot = Volume::read(part)?.boot;
        let length = resize::fat_sectors(&boot, bytes / boot.sector);
        let fats = boot.fats * length * boot.sector;
        let end = boot.size_bytes().max(bytes);
        let lost = used.within(Extent::from_range(bytes.min(end), end));
        let moved: u64 = lost.map(|e| e.len).sum();
        // The FATs, what they take the place of, what is moved, and directories.
        Ok(2 * fats + moved + used.total_bytes() / 16 + (1 << 20))
    }

    fn compare(
        &self,
        before: &dyn DiskRead,
        after: &dyn DiskRead,
        changed: &ExtentMap,
        limit: usize,
        report: &dyn Report,
    ) -> Result<Vec<Difference>, FsError> {
        compare::compare(before, after, changed, limit, report)
    }

    fn owners(
        &self,
        part: &dyn DiskRead,
        extents: &ExtentMap,
        limit: usize,
    ) -> Result<Vec<String>, FsError> {
        let volume = Volume::read(part)?;
        let boot = &volume.boot;
        let mut names = Vec::new();
        if extents.intersects(Extent::new(0, boot.data_sector() * boot.sector)) {
            names.push("boot sector, FATs or root directory".into());
        }
        for node in volume.nodes()? {
            let hit =
                |&c: &u32| extents.intersects(Extent::new(boot.place(c), boot.cluster_bytes()));
            if names.len() < limit && node.chain.iter().any(hit) {
                names.push(node.path);
            }
        }
        names.truncate(limit);
        Ok(names)
    }
}

fn observe(boot: &Boot) -> Observed {
    let extended = boot.extended();
    let is_there = extended.get(2) == Some(&0x29);
    let serial = u32_at(extended, 3);
    let label = extended.get(7..18).unwrap_or_default();
    let label = String::from_utf8_lossy(label).trim_end().to_string();
    let is_named = is_there && label != "NO NAME";
    Observed {
        kind: if boot.wide { "fat32" } else { "fat16" }.into(),
        uuid: match is_there {
            true => format!("{:04X}-{:04X}", serial >> 16, serial & 0xffff),
            false => String::new(),
        },
        label: if is_named { label } else { String::new() },
        block_bytes: boot.cluster_bytes(),
        size_bytes: boot.size_bytes(),
        used_bytes: boot.data_sector() * boot.sector,
        files: 0,
        features: Vec::new(),
        notes: Vec::new(),
        needs_replay: false,
        last_used: None,
        gate: None,
    }
}
