//! What block devices have and files do not: sectors of their own, a page cache for each node,
//! and partitions that the kernel must be told about.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use super::survey::{Host, Target};
use super::sys;
use crate::extent::Extent;

/// Logical and physical sector of an open block device, in bytes.
///
/// # Errors
/// The kernel's, or `InvalidData` for sizes that no disk has.
pub(super) fn sector_bytes(device: &File) -> io::Result<(u32, u32)> {
    let logical = sys::logical_sector_bytes(device)?;
    let physical = sys::physical_sector_bytes(device)?.max(logical);
    if !logical.is_power_of_two() || logical < 512 || !physical.is_power_of_two() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("the kernel names sectors of {logical} and {physical} bytes"),
        ));
    }
    Ok((logical, physical))
}

/// Tells the kernel that partition `number` of the disk at `disk` now covers `extent` (in bytes,
/// from the start of the disk), and asks it what it believes after that: a tool that relies on
/// the size must not see the old one.
///
/// The kernel lets a partition shrink below a mounted file system: the caller makes sure that
/// nothing uses it. The start cannot change.
///
/// # Errors
/// The kernel's, with the numbers; also where it then names another extent.
pub fn resize_partition(host: &Host, disk: &Path, number: u32, extent: Extent) -> io::Result<()> {
    let named = |e: io::Error| {
        io::Error::new(
            e.kind(),
            format!(
                "telling the kernel that partition {number} of {} is {extent}: {e}",
                disk.display()
            ),
        )
    };
    let file = open_node(disk)?;
    sys::resize_partition(&file, number, extent).map_err(named)?;
    let Target::Disk(device) = host.resolve(disk)? else {
        return Err(named(io::ErrorKind::InvalidInput.into()));
    };
    match device.partition(number).map(|p| p.extent) {
        Some(now) if now == extent => Ok(()),
        Some(now) => Err(named(io::Error::other(format!("it still says {now}")))),
        None => Err(named(io::Error::other("it knows no such partition"))),
    }
}

/// Writes back and drops what the page cache holds of a file or of a block device's node.
///
/// A disk and each of its partitions have page caches of their own: a dirty page of the
/// partition's node can overwrite what was written through the disk's. Both are to be dropped.
///
/// # Errors
/// The kernel's, also where the write-back failed.
pub fn drop_caches(path: &Path) -> io::Result<()> {
    let name = |e: io::Error| {
        io::Error::new(
            e.kind(),
            format!("dropping the page cache of {}: {e}", path.display()),
        )
    };
    let file = open_node(path)?;
    drop_file_caches(&file).map_err(name)
}

/// As [`drop_caches`], for an open file.
pub(super) fn drop_file_caches(file: &File) -> io::Result<()> {
    // Barrier: a page that is dirty cannot be dropped, and would hide the medium's content.
    file.sync_all()?;
    if file.metadata()?.file_type().is_block_device() {
        sys::flush_buffers(file)
    } else {
        posix_fadvise(file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
        Ok(())
    }
}

/// Opens a node or file for asking, not for reading content.
fn open_node(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOCTTY)
        .open(path)
        .map_err(|e| io::Error::new(e.kind(), format!("opening {}: {e}", path.display())))
}
