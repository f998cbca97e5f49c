//! Who uses a device: mounts, swap, and devices that are built on it.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{DevNumber, Host, Mount, line};
use crate::disk::mounts::{mounts_of, swaps};
use crate::units::escape;

/// One use of a device or image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Use {
    /// A file system of it is mounted.
    Mounted {
        /// The mounts of it, and those below them, in the order in which to unmount.
        mounts: Vec<Mount>,
    },
    /// It is swapped to.
    Swap {
        /// As `/proc/swaps` names it.
        path: PathBuf,
    },
    /// Another device is built on it.
    Holder {
        /// The kernel's name: `dm-0`.
        name: String,
        /// What it is: `the device-mapper volume vg-root`.
        what: String,
    },
}

/// Who uses the device `number`, whose node is `node`. For a disk this says nothing about its
/// partitions: ask for each.
///
/// # Errors
/// Where the kernel's tables cannot be read or understood: it is then unknown, not unused.
pub fn uses(host: &Host, number: DevNumber, node: &Path) -> io::Result<Vec<Use>> {
    let mut uses = Vec::new();
    let all = mounts_of(&host.proc.join("self"))?;
    let ours = |m: &Mount| m.device == number || is_node(host, &m.source, number, node);
    let mounts = with_children(&all, ours);
    if !mounts.is_empty() {
        uses.push(Use::Mounted { mounts });
    }
    for path in swaps(&host.proc)? {
        if is_node(host, &path, number, node) {
            uses.push(Use::Swap { path });
        }
    }
    let place = host.sysfs_dir(number)?;
    for name in host.links(&place.join("holders")) {
        let what = describe(&place.join("holders").join(&name));
        let name = name.to_string_lossy().into_owned();
        uses.push(Use::Holder { name, what });
    }
    uses.extend(btrfs_with(host, &place));
    Ok(uses)
}

/// Who uses an image file: swap alone. Loop devices and emulators are found by
/// [`crate::disk::Hold`], which can look at the file itself.
///
/// # Errors
/// As [`uses`].
pub fn uses_of_image(host: &Host, path: &Path) -> io::Result<Vec<Use>> {
    let image = std::fs::metadata(path)?;
    let same = |p: &PathBuf| {
        std::fs::metadata(p).is_ok_and(|m| (m.dev(), m.ino()) == (image.dev(), image.ino()))
    };
    let found = swaps(&host.proc)?.into_iter().filter(same);
    Ok(found.map(|path| Use::Swap { path }).collect())
}

/// Whether `source` is the node of the device, by name or by number. A file system with several
/// devices names one of them.
fn is_node(host: &Host, source: &Path, number: DevNumber, node: &Path) -> bool {
    source == node || host.block_number(source) == Some(number)
}

/// The mounts that `ours` picks and all that are mounted below them, deepest first: the order in
/// which they can be unmounted.
fn with_children(all: &[Mount], ours: impl Fn(&Mount) -> bool) -> Vec<Mount> {
    let by_id: HashMap<u64, &Mount> = all.iter().map(|m| (m.id, m)).collect();
    // From a mount up to the root. The bound ends a table that loops.
    let chain = |mount| {
        std::iter::successors(Some(mount), |m: &&Mount| by_id.get(&m.parent).copied())
            .take(all.len())
    };
    let mut found: Vec<(usize, usize)> = (0..all.len())
        .filter(|&i| chain(&all[i]).any(&ours))
        .map(|i| (chain(&all[i]).count(), i))
        .collect();
    // Of two on one level the later mount goes first: it may cover the earlier.
    found.sort_by_key(|&(depth, i)| Reverse((depth, i)));
    found.into_iter().map(|(_, i)| all[i].clone()).collect()
}

/// What a holder is, from its sysfs directory.
fn describe(place: &Path) -> String {
    if let Some(name) = line(&place.join("dm/name")) {
        let kind = line(&place.join("dm/uuid")).unwrap_or_default();
        let what = match kind.split('-').next().unwrap_or_default() {
            "LVM" => "the LVM volume",
            "CRYPT" => "the encrypted volume",
            "mpath" => "the multipath device",
            _ => "the device-mapper volume",
        };
        return format!("{what} {}", escape(&name));
    }
    if let Some(level) = line(&place.join("md/level")) {
        return format!("a Linux software RAID array ({})", escape(&level));
    }
    if place.join("bcache").exists() {
        return "a bcache device".into();
    }
    "another device".into()
}

/// A btrfs of several devices shows one of them in the table of mounts; sysfs has them all.
fn btrfs_with(host: &Host, place: &Path) -> Vec<Use> {
    let mut found = Vec::new();
    let Some(name) = place.file_name() else {
        return found;
    };
    let root = host.sys.join("fs/btrfs");
    for id in host.links(&root) {
        if root.join(&id).join("devices").join(name).exists() {
            found.push(Use::Holder {
                name: id.to_string_lossy().into_owned(),
                what: "a mounted btrfs file system".into(),
            });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(id: u64, parent: u64, minor: u32, at: &str) -> Mount {
        Mount {
            id,
            parent,
            device: DevNumber { major: 8, minor },
            mountpoint: at.into(),
            fs_kind: "ext4".into(),
            source: "/dev/x".into(),
            options: "rw".into(),
        }
    }

    #[test]
    fn what_is_mounted_below_goes_first() {
        let all = [
            mount(1, 0, 1, "/"),
            mount(2, 1, 3, "/srv"),
            mount(3, 2, 9, "/srv/tmp"),
            mount(4, 3, 3, "/srv/tmp/again"),
            mount(5, 1, 2, "/home"),
            mount(6, 1, 3, "/also"),
        ];
        let order: Vec<u64> = with_children(&all, |m| m.device.minor == 3)
            .iter()
            .map(|m| m.id)
            .collect();
        assert_eq!(order, [4, 3, 6, 2]);
    }

    #[test]
    fn a_table_that_loops_ends() {
        let all = [
            mount(1, 2, 3, "/a"),
            mount(2, 1, 1, "/b"),
            mount(3, 3, 1, "/c"),
        ];
        let found = with_children(&all, |m| m.device.minor == 3);
        assert_eq!(found.len(), 2);
    }
}
