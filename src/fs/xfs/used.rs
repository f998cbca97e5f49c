//! What is in use: everything but what the trees of free space say is free.

use crate::disk::DiskRead;
use crate::extent::{Extent, ExtentMap};
use crate::fs::FsError;
use crate::report::{Report, Unit, checkpoint};

use super::fields::Fields;
use super::group::Group;
use super::superblock::Superblock;
use super::tree::Kind;

/// Every byte in use. Blocks that are kept for the trees count as used.
///
/// # Errors
/// Where a group's free space cannot be read.
pub fn used(
    part: &dyn DiskRead,
    sb: &Superblock,
    report: &dyn Report,
) -> Result<ExtentMap, FsError> {
    let mut used = ExtentMap::new();
    report.phase("reading what is in use", Some(sb.groups), Unit::Items);
    for number in 0..sb.groups {
        checkpoint(report).map_err(std::io::Error::from)?;
        let group = Group::read(part, sb, number)?;
        let start = sb.byte_of(number, 0);
        let whole = Extent::new(start, group.blocks * sb.block_bytes);
        let mut at = whole.start;
        for (block, count) in free(part, sb, &group)? {
            let gap = Extent::new(sb.byte_of(number, block), count * sb.block_bytes);
            if gap.start > at {
                used.insert(Extent::from_range(at, gap.start));
            }
            at = gap.end();
        }
        if whole.end() > at {
            used.insert(Extent::from_range(at, whole.end()));
        }
        report.progress(number + 1);
    }
    Ok(used)
}

/// The free runs of a group, by block: start and length.
///
/// # Errors
/// [`FsError::Corrupt`] where they overlap, leave the group, or are not as many as the AGF says.
pub fn free(
    part: &dyn DiskRead,
    sb: &Superblock,
    group: &Group,
) -> Result<Vec<(u64, u64)>, FsError> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    let (mut end, mut total, mut longest) = (sb.header_blocks(), 0, 0);
    if let Some(tree) = group.tree(sb, Kind::FreeByBlock) {
        tree.walk(
            part,
            sb,
            |_| {},
            |record| {
                let (start, count) = run(record);
                if start < end || count == 0 || start + count > group.blocks {
                    return Err(wrong(group, format!("{count} free blocks at {start}")));
                }
                end = start + count;
                total += count;
                longest = longest.max(count);
                runs.push((start, count));
                Ok(())
            },
        )?;
    }
    if total != group.free_blocks() || longest != group.longest() {
        return Err(wrong(
            group,
            format!(
                "{total} blocks are free, and the AGF says {}",
                group.free_blocks()
            ),
        ));
    }
    Ok(runs)
}

/// The same from the other tree, in order of blocks.
///
/// # Errors
/// As [`free`], but for the counts.
pub fn free_by_length(
    part: &dyn DiskRead,
    sb: &Superblock,
    group: &Group,
) -> Result<Vec<(u64, u64)>, FsError> {
    let mut runs = Vec::new();
    if let Some(tree) = group.tree(sb, Kind::FreeByLength) {
        tree.walk(
            part,
            sb,
            |_| {},
            |record| {
                runs.push(run(record));
                Ok(())
            },
        )?;
    }
    runs.sort_unstable();
    Ok(runs)
}

fn run(record: Fields<'_>) -> (u64, u64) {
    (record.u32(0).into(), record.u32(4).into())
}

fn wrong(group: &Group, what: String) -> FsError {
    FsError::Corrupt(format!("the free space of group {}: {what}", group.number))
}
