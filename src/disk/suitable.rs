//! Whether a directory can hold a journal: will it still be there, whole, after a power cut?

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::statfs::statfs;
use nix::sys::statvfs::statvfs;
use nix::unistd::geteuid;

use super::mounts::{DevNumber, mounts_of};
use super::survey::{Host, HostError};
use crate::report::Refusal;
use crate::units::escape_bytes;

/// Layers of overlays, loop devices and mappings that are followed.
const MAX_DEPTH: u32 = 8;

/// What holds a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateDir {
    /// Bytes that we may still write.
    pub free_bytes: u64,
    /// `ext4`-like name of the file system.
    pub fs_kind: String,
    /// The block device, where there is one and it can be told.
    pub device: Option<DevNumber>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lasting {
    /// A local file system on a medium.
    Durable,
    /// Empty after a reboot.
    Volatile,
    /// Somewhere else, or of unknown honesty about flushes.
    Remote,
    /// No private modes, or renames that a power cut tears.
    Weak,
    /// It depends on what lies below.
    Layered,
}

/// `linux/magic.h`, and the sources of file systems that are not in it.
const KINDS: &[(u32, &str, Lasting)] = &[
    (0xEF53, "ext4", Lasting::Durable),
    (0x5846_5342, "xfs", Lasting::Durable),
    (0x9123_683E, "btrfs", Lasting::Durable),
    (0xF2F5_2010, "f2fs", Lasting::Durable),
    (0xCA45_1A4E, "bcachefs", Lasting::Durable),
    (0x2FC1_2FC1, "zfs", Lasting::Durable),
    (0x3153_464A, "jfs", Lasting::Durable),
    (0x5265_6973, "reiserfs", Lasting::Durable),
    (0x3434, "nilfs2", Lasting::Durable),
    (0x0102_1994, "tmpfs", Lasting::Volatile),
    (0x8584_58F6, "ramfs", Lasting::Volatile),
    (0x9584_58F6, "hugetlbfs", Lasting::Volatile),
    (0x6969, "nfs", Lasting::Remote),
    (0x517B, "smb", Lasting::Remote),
    (0xFF53_4D42, "cifs", Lasting::Remote),
    (0xFE53_4D42, "smb2", Lasting::Remote),
    (0x00C3_6400, "ceph", Lasting::Remote),
    (0x5346_414F, "afs", Lasting::Remote),
    (0x0102_1997, "9p", Lasting::Remote),
    (0x7375_7245, "coda", Lasting::Remote),
    (0x564C, "ncp", Lasting::Remote),
    (0x6573_5546, "fuse", Lasting::Remote),
    (0x7461_636F, "ocfs2", Lasting::Remote),
    (0x0116_1970, "gfs2", Lasting::Remote),
    (0x0BD0_0BD0, "lustre", Lasting::Remote),
    (0x786F_4256, "vboxsf", Lasting::Remote),
    (0x4D44, "vfat", Lasting::Weak),
    (0x2011_BAB0, "exfat", Lasting::Weak),
    (0x7366_746E, "ntfs3", Lasting::Weak),
    (0x794C_7630, "overlay", Lasting::Layered),
];

/// Whether a journal may be kept in `dir`, and how much room there is.
///
/// `allow_volatile` is for tests alone, which keep journals in memory.
///
/// # Errors
/// [`HostError::Refused`] with `state-dir-volatile`, `state-dir-network`, `state-dir-weak`,
/// `state-dir-unknown` or `state-dir-owner`; [`HostError::Io`] where it could not be found out.
pub fn suitability(host: &Host, dir: &Path, allow_volatile: bool) -> Result<StateDir, HostError> {
    check_owner(dir)?;
    let fs_kind = match lasting(host, dir, MAX_DEPTH) {
        Err(HostError::Refused(r)) if allow_volatile && r.code == "state-dir-volatile" => {
            "volatile".into()
        }
        other => other?,
    };
    let room = statvfs(dir).map_err(|e| failed("asking for the free space of", dir, e.into()))?;
    Ok(StateDir {
        free_bytes: (room.blocks_available() as u64).saturating_mul(room.fragment_size() as u64),
        fs_kind,
        device: device_of(host, dir)?,
    })
}

/// The block device that holds `path`, where one does: through an overlay to the directory that
/// takes its writes, and by source where the file system has no device number (btrfs).
///
/// # Errors
/// Where `path` or the table of mounts cannot be read.
pub fn device_of(host: &Host, path: &Path) -> io::Result<Option<DevNumber>> {
    let mut path = path.to_path_buf();
    for _ in 0..MAX_DEPTH {
        let device = DevNumber::of(std::fs::metadata(&path)?.dev());
        if device.major != 0 {
            return Ok(Some(device));
        }
        let mounts = mounts_of(&host.proc.join("self"))?;
        let Some(mount) = mounts.into_iter().rev().find(|m| m.device == device) else {
            return Ok(None);
        };
        if let Some(upper) = mount.option("upperdir") {
            path = upper;
            continue;
        }
        return Ok(host.block_number(&mount.source));
    }
    Ok(None)
}

/// Whether `dir` is a directory to which nobody but its owner, who runs this, can write.
///
/// # Errors
/// `state-dir-owner`, or where it cannot be looked at.
pub fn check_owner(dir: &Path) -> Result<(), HostError> {
    let meta = std::fs::metadata(dir).map_err(|e| failed("looking at", dir, e))?;
    let shown = escape_bytes(dir.as_os_str().as_encoded_bytes());
    let us = geteuid().as_raw();
    let problem = if !meta.is_dir() {
        format!("{shown} is not a directory.")
    } else if meta.uid() != us {
        format!(
            "The directory {shown} belongs to user {}, not to user {us} who runs this: its owner \
             could exchange a journal.",
            meta.uid()
        )
    } else if meta.mode() & 0o022 != 0 {
        format!(
            "The directory {shown} can be written by others (mode {:04o}): they could exchange a \
             journal.",
            meta.mode() & 0o7777
        )
    } else {
        return Ok(());
    };
    Err(HostError::Refused(Refusal::new(
        "state-dir-owner",
        problem,
        "Name a directory of your own with mode 0700.",
    )))
}

/// The kind of file system that holds `dir`, if it lasts.
fn lasting(host: &Host, dir: &Path, depth: u32) -> Result<String, HostError> {
    let shown = escape_bytes(dir.as_os_str().as_encoded_bytes());
    let refuse = |code: &str, what: String| {
        let hint = "Name a directory on a local disk that is not changed here, such as one on \
                    another disk, or on a USB disk with ext4.";
        Err(HostError::Refused(Refusal::new(code, what, hint)))
    };
    let unknown = |why: &str| refuse("state-dir-unknown", format!("{shown} {why}"));
    if depth == 0 {
        return unknown("lies below too many layers to tell whether it lasts.");
    }
    let answer = statfs(dir).map_err(|e| failed("asking what holds", dir, e.into()))?;
    let magic = answer.filesystem_type().0 as u32;
    let Some(&(_, kind, class)) = KINDS.iter().find(|k| k.0 == magic) else {
        return unknown(&format!(
            "is on a file system of an unknown kind ({magic:#x}): nobody knows whether it \
             outlives a power cut."
        ));
    };
    match class {
        Lasting::Volatile => refuse(
            "state-dir-volatile",
            format!(
                "{shown} is on {kind}, which is memory: a reboot empties it, and the journal with it."
            ),
        ),
        Lasting::Remote => refuse(
            "state-dir-network",
            format!(
                "{shown} is on {kind}: what a flush is worth there, and whether it can be reached after a crash, is unknown."
            ),
        ),
        Lasting::Weak => refuse(
            "state-dir-weak",
            format!("{shown} is on {kind}, which has no private files and no safe renames."),
        ),
        Lasting::Layered => match upper_of(host, dir)? {
            Some(upper) if upper.is_dir() => lasting(host, &upper, depth - 1),
            _ => unknown(
                "is on an overlay whose upper directory cannot be seen from here: it may be memory.",
            ),
        },
        Lasting::Durable => {
            let device = device_of(host, dir).map_err(|e| failed("asking what holds", dir, e))?;
            match device.map_or(Ok(None), |d| memory_below(host, d, depth))? {
                Some(name) => refuse(
                    "state-dir-volatile",
                    format!(
                        "{shown} is on the device {name}, which is memory: a reboot empties it."
                    ),
                ),
                None => Ok(kind.into()),
            }
        }
    }
}

fn upper_of(host: &Host, dir: &Path) -> Result<Option<PathBuf>, HostError> {
    let device = DevNumber::of(std::fs::metadata(dir)?.dev());
    let mounts = mounts_of(&host.proc.join("self"))?;
    let mount = mounts.into_iter().rev().find(|m| m.device == device);
    Ok(mount.and_then(|m| m.option("upperdir")))
}

/// The name of a RAM disk at or below `device`, where there is one.
fn memory_below(host: &Host, device: DevNumber, depth: u32) -> Result<Option<String>, HostError> {
    if depth == 0 {
        return Ok(None);
    }
    let Ok(place) = host.sysfs_dir(device) else {
        return Ok(None);
    };
    let name = place.file_name().unwrap_or_default();
    let name = name.to_string_lossy().into_owned();
    let digits = |prefix: &str| {
        name.strip_prefix(prefix)
            .is_some_and(|n| n.starts_with(|c: char| c.is_ascii_digit()))
    };
    if digits("ram") || digits("zram") {
        return Ok(Some(crate::units::escape(&name)));
    }
    // A partition of a loop device has the file in its parent.
    for at in [Some(place.as_path()), place.parent()]
        .into_iter()
        .flatten()
    {
        if let Some(file) = host.loop_file(at)
            && let Some(holder) = file.parent()
            && let Err(HostError::Refused(r)) = lasting(host, holder, depth - 1)
            && r.code == "state-dir-volatile"
        {
            return Ok(Some(crate::units::escape(&name)));
        }
    }
    for slave in host.links(&place.join("slaves")) {
        if let Some(number) = host.number_of(&place.join("slaves").join(slave))
            && let Some(found) = memory_below(host, number, depth - 1)?
        {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn failed(doing: &str, path: &Path, e: io::Error) -> HostError {
    HostError::Io(io::Error::new(
        e.kind(),
        format!("{doing} {}: {e}", path.display()),
    ))
}
