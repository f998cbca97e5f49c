//! Who owns given bytes.

use crate::extent::{Extent, ExtentMap};
use crate::fs::FsError;

use super::inode::Inode;
use super::names;
use super::used;
use super::volume::Volume;

/// The owners of `extents`: the backups of the boot sector, then files in the order of their
/// records, then what nobody owns. Each once, at most `limit`.
///
/// # Errors
/// [`FsError`] where the volume cannot be read.
pub fn owners(
    volume: &Volume<'_>,
    extents: &ExtentMap,
    limit: usize,
) -> Result<Vec<String>, FsError> {
    let (mut rest, mut found) = (extents.clone(), Vec::new());
    for at in used::backups(volume.part, &volume.boot)? {
        let backup = Extent::new(at, volume.boot.sector_bytes);
        if extents.intersects(backup) {
            rest.remove(backup);
            found.push("backup boot sector".to_string());
        }
    }
    found.dedup();
    for number in 0..volume.records {
        if found.len() >= limit || rest.is_empty() {
            break;
        }
        // What is damaged owns nothing that can be named.
        let Ok(Some(record)) = volume.record(number) else {
            continue;
        };
        if !record.is_used() || record.base != 0 {
            continue;
        }
        let Ok(inode) = Inode::of(volume, &record) else {
            continue;
        };
        let lists = inode.list.iter().map(|run| (run, None));
        let values = inode
            .attributes
            .iter()
            .flat_map(|a| a.runs().iter().map(move |run| (run, Some(a))));
        for (run, attribute) in lists.chain(values) {
            let Some(lcn) = run.lcn else { continue };
            let extent = volume.bytes_of(lcn, run.len);
            if !extents.intersects(extent) {
                continue;
            }
            rest.remove(extent);
            let name = match attribute {
                Some(attribute) => names::attribute_path(volume, number, attribute),
                None => names::path(volume, number),
            };
            if !found.contains(&name) {
                found.push(name);
            }
        }
    }
    if !rest.is_empty() {
        found.push("nobody: free space".into());
    }
    found.truncate(limit);
    Ok(found)
}
