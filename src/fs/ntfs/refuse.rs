//! What stands against a resize.

use crate::fs::FsError;
use crate::report::Refusal;

use super::inode::{Name, entries, utf16};
use super::log::{self, LogState};
use super::record::{corrupt, fix_up, kind};
use super::used::bad_clusters;
use super::volume::{Volume, file};
use crate::fs::bytes::{u8_at, u16_at, u32_at};

/// A check is due.
pub const DIRTY: u16 = 1;
/// It was mounted by a system that does not keep everything up to date: ntfsresize sets it.
pub const MOUNTED_BY_OLD: u16 = 8;
/// The log must be resized, the volume upgraded, a journal deleted, object identities repaired, or
/// chkdsk was at work: what Windows has yet to do, and nobody else can.
const PENDING: u16 = 0xc036;

/// Version and flags of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Information {
    /// `3` of `3.1`.
    pub major: u8,
    /// `1` of `3.1`.
    pub minor: u8,
    /// [`DIRTY`], …
    pub flags: u16,
}

/// What the record of the volume says.
///
/// # Errors
/// [`FsError::Corrupt`] where it says nothing.
pub fn information(volume: &Volume<'_>) -> Result<Information, FsError> {
    let inode = volume.inode(file::VOLUME)?;
    let value = inode
        .attribute(kind::VOLUME_INFORMATION, "")
        .and_then(|a| a.value())
        .filter(|value| value.len() >= 12)
        .ok_or_else(|| corrupt(file::VOLUME, "version and flags are missing"))?;
    Ok(Information {
        major: u8_at(value, 8),
        minor: u8_at(value, 9),
        flags: u16_at(value, 10),
    })
}

/// Everything that stands against a resize, in either direction.
///
/// # Errors
/// [`FsError`] where the volume cannot be read.
pub fn refusals(volume: &Volume<'_>) -> Result<Vec<Refusal>, FsError> {
    let mut found = Vec::new();
    let information = information(volume)?;
    let (major, minor) = (information.major, information.minor);
    if !matches!((major, minor), (1, 2) | (3, 0) | (3, 1)) {
        found.push(Refusal::new(
            "ntfs-version",
            format!("NTFS of version {major}.{minor}; 1.2, 3.0 and 3.1 are handled"),
            "resize it in Windows",
        ));
    }
    if hibernated(volume)? {
        found.push(Refusal::new(
            "ntfs-hibernated",
            "Windows sleeps on this volume: its hiberfil.sys holds a session that will go on with \
             what it knew of the volume",
            "start Windows, and shut it down wholly: `shutdown /s /f /t 0`; to be safe from fast \
             startup also `powercfg /h off`",
        ));
    }
    if let LogState::Open(why) = log::state(volume)? {
        found.push(Refusal::new(
            "ntfs-log-open",
            format!("the journal of the volume, $LogFile, is not closed: {why}"),
            "start Windows, and shut it down wholly: `shutdown /s /f /t 0` (a fast startup leaves \
             it open: `powercfg /h off`); a volume that can be taken away is ejected there",
        ));
    }
    if information.flags & DIRTY != 0 {
        found.push(Refusal::new(
            "ntfs-dirty",
            "the volume is marked as dirty: a check is due, after an error, a crash, or a resize",
            "let Windows check it: `chkdsk /f` there, or a start of Windows, which does so by \
             itself",
        ));
    }
    if information.flags & PENDING != 0 {
        found.push(Refusal::new(
            "ntfs-work-pending",
            format!(
                "Windows has yet to finish work on the volume (flags {:#06x})",
                information.flags
            ),
            "start Windows with the volume, run `chkdsk /f` on it, and shut it down wholly",
        ));
    }
    let bad = bad_clusters(volume)?;
    if bad > 0 {
        found.push(Refusal::new(
            "ntfs-bad-sectors",
            format!("$BadClus lists {bad} clusters that cannot be read: the disk is failing"),
            "copy the volume to a good disk first; there, `chkdsk /b` in Windows forgets the list",
        ));
    }
    Ok(found)
}

/// Whether the hibernation file in the root directory holds a session.
fn hibernated(volume: &Volume<'_>) -> Result<bool, FsError> {
    let Some(number) = in_root(volume, "hiberfil.sys")? else {
        return Ok(false);
    };
    let inode = volume.inode(number)?;
    let Some(attribute) = inode.attribute(kind::DATA, "") else {
        return Ok(false);
    };
    let head = volume.content(attribute).head(4)?;
    // `wake` and zeros are what is left after a session was taken up again.
    Ok([b"hibr", b"HIBR", b"rstr", b"RSTR"]
        .iter()
        .any(|m| head == **m))
}

/// The record of a file in the root directory.
fn in_root(volume: &Volume<'_>, name: &str) -> Result<Option<u64>, FsError> {
    let wrong = |what: &str| corrupt(file::ROOT, what);
    let root = volume.inode(file::ROOT)?;
    let search = |node: &[u8]| -> Result<Option<u64>, FsError> {
        for (number, range) in entries(node).map_err(wrong)? {
            let key = node.get(range).and_then(|entry| entry.get(16..));
            let found = key.and_then(Name::parse);
            if found.is_some_and(|found| utf16(found.text).eq_ignore_ascii_case(name)) {
                return Ok(Some(number));
            }
        }
        Ok(None)
    };
    let index = root.attribute(kind::INDEX_ROOT, "$I30");
    let value = index.and_then(|a| a.value());
    let value = value.ok_or_else(|| wrong("it has no index"))?;
    if let Some(found) = search(value.get(16..).unwrap_or_default())? {
        return Ok(Some(found));
    }
    let Some(blocks) = root.attribute(kind::INDEX_ALLOCATION, "$I30") else {
        return Ok(None);
    };
    let content = volume.content(blocks);
    let size = u64::from(u32_at(value, 8));
    if !(512..=64 << 10).contains(&size) {
        return Err(wrong("its index has blocks of a wrong size"));
    }
    let mut block = vec![0; size as usize];
    for index in 0..volume.solid(file::ROOT, blocks)? / size {
        content.read_at(index * size, &mut block)?;
        // A block that is not in use need not be one.
        if !block.starts_with(b"INDX") || fix_up(&mut block).is_err() {
            continue;
        }
        if let Some(found) = search(block.get(24..).unwrap_or_default())? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}
