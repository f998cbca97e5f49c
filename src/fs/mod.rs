//! File systems: one driver for each, all of the same shape.
//!
//! A driver sees its partition as a disk that starts at byte 0. It never writes to a target: the
//! stock tools write, on an overlay, and the journal commits what passed. What a driver cannot do
//! is a [`Refusal`] with a code.
//!
//! [`tool`] is the one place that starts processes; [`mount`] is what only the kernel can do.

pub mod bytes;
pub mod crc;
pub mod ext;
pub mod fat;
pub mod mount;
pub mod ntfs;
pub mod signature;
pub mod swap;
pub mod tool;
pub mod xfs;

use std::fmt;
use std::io;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::disk::{Disk, DiskRead};
use crate::extent::{Extent, ExtentMap};
use crate::report::{Refusal, Report};
use crate::units::{Bytes, escape};

/// What a driver read from a superblock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// `ext2`, `ext3`, `ext4`, `xfs`, `ntfs`, `swap`, `fat16`, `fat32`.
    pub kind: String,
    /// As `blkid` prints it.
    pub uuid: String,
    /// The label as the disk has it; escape before printing.
    pub label: String,
    /// Block size.
    pub block_bytes: u64,
    /// Size of the file system as its superblock says.
    pub size_bytes: u64,
    /// Bytes in use, from the superblock's own counters (an estimate, for people).
    pub used_bytes: u64,
    /// Number of inodes in use, likewise.
    pub files: u64,
    /// Names of the features, as `dumpe2fs` prints them.
    pub features: Vec<String>,
    /// Things that a person should know, such as a journal that needs replay.
    pub notes: Vec<String>,
    /// Whether a journal must be replayed before anything else.
    pub needs_replay: bool,
    /// When it was last mounted or written, in seconds since 1970, where it says so. Tools that
    /// compare times go astray on a machine whose clock is behind it.
    pub last_used: Option<u64>,
    /// The transaction that a gate names, where a gate stands.
    pub gate: Option<TransactionId>,
}

/// A transaction's 128-bit name; also what a gate carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct TransactionId(pub [u8; 16]);

impl fmt::Display for TransactionId {
    /// 32 lower-case hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Not the name of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{0}` is not a transaction: 32 digits out of 0-9 and a-f are")]
pub struct TransactionIdError(pub String);

impl From<TransactionId> for String {
    fn from(id: TransactionId) -> String {
        id.to_string()
    }
}

impl TryFrom<String> for TransactionId {
    type Error = TransactionIdError;

    fn try_from(text: String) -> Result<TransactionId, TransactionIdError> {
        text.parse()
    }
}

impl FromStr for TransactionId {
    type Err = TransactionIdError;

    /// Reads what [`fmt::Display`] writes, and nothing else.
    fn from_str(text: &str) -> Result<TransactionId, TransactionIdError> {
        let wrong = || TransactionIdError(escape(text));
        let (digits, rest) = text.as_bytes().as_chunks::<2>();
        let mut id = [0; 16];
        if digits.len() != id.len() || !rest.is_empty() {
            return Err(wrong());
        }
        for (byte, &[high, low]) in id.iter_mut().zip(digits) {
            *byte = hex(high).ok_or_else(wrong)? << 4 | hex(low).ok_or_else(wrong)?;
        }
        Ok(TransactionId(id))
    }
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// The sizes that a file system can take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Smallest size in bytes.
    pub min_bytes: u64,
    /// Why not smaller.
    pub min_reason: String,
    /// Largest size in bytes.
    pub max_bytes: u64,
    /// Why not larger.
    pub max_reason: String,
    /// Sizes are multiples of this.
    pub unit_bytes: u64,
}

/// What a superblock says about who may enter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateState {
    /// An ordinary superblock.
    Open,
    /// A gate stands, and names its transaction.
    Closed(TransactionId),
    /// Not a superblock that this driver would accept: wrong magic, or a checksum that does not
    /// fit. A gate that was torn while it was written looks like this.
    Invalid,
}

/// Something that differs between the file system before and after.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Stable code: `file-content`, `file-missing`, `file-new`, `mode`, `owner`, `size`, `times`, …
    pub code: String,
    /// The object: a path, escaped, or `superblock`, `group 7`, `inode 12`.
    pub object: String,
    /// What differs, with both values.
    pub detail: String,
}

/// A file whose deletion, or the cutting off of a part of it, was under way when the journal
/// stopped. The replay ends it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Orphan {
    /// Its path, escaped, or `inode 12` where it has no name any more.
    pub object: String,
    /// Its size.
    pub size_bytes: u64,
    /// Its names: 0 for one that is deleted, more for one that is cut to its size.
    pub links: u32,
}

impl fmt::Display for Orphan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = Bytes(self.size_bytes);
        match self.links {
            0 => write!(f, "{} ({size}) is deleted", self.object),
            _ => write!(f, "{} is cut to {size}", self.object),
        }
    }
}

/// Whose bytes given bytes of a file system are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Owner {
    /// A path, escaped, or the name of a structure.
    pub name: String,
    /// Which bytes of a file's content they are.
    pub ranges: Vec<Extent>,
    /// Whether they, or some of them, are of a file's map or attributes.
    pub map: bool,
}

impl Owner {
    /// A structure of the file system.
    pub fn structure(name: impl Into<String>) -> Owner {
        Owner {
            name: name.into(),
            ranges: Vec::new(),
            map: false,
        }
    }
}

/// Why a driver could not answer.
#[derive(Debug, Error)]
pub enum FsError {
    /// The disk failed.
    #[error("reading the file system: {0}")]
    Io(#[from] io::Error),
    /// What is on the disk is not a valid file system.
    #[error("the file system is damaged: {0}")]
    Corrupt(String),
    /// Valid, but not something that we handle.
    #[error("{0}")]
    Unsupported(Refusal),
}

/// Which way a file system is to change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// Larger.
    Grow,
    /// Smaller.
    Shrink,
}

/// A file system's driver.
pub trait Driver: Send + Sync {
    /// `ext`.
    fn name(&self) -> &'static str;

    /// Reads the superblock. `None` where it is not this driver's file system at all.
    ///
    /// # Errors
    /// [`FsError::Corrupt`] where the magic fits and the rest does not.
    fn probe(&self, part: &dyn DiskRead) -> Result<Option<Observed>, FsError>;

    /// Everything that stands against a resize in this direction: features, flags, states.
    ///
    /// # Errors
    /// As [`Driver::probe`].
    fn refusals(&self, part: &dyn DiskRead, direction: Direction) -> Result<Vec<Refusal>, FsError>;

    /// The sizes that it can take, from its own structures alone.
    ///
    /// # Errors
    /// As [`Driver::probe`].
    fn bounds(&self, part: &dyn DiskRead) -> Result<Bounds, FsError>;

    /// Every byte that the file system uses, metadata included.
    ///
    /// # Errors
    /// Where the disk fails or the maps contradict themselves.
    fn used(&self, part: &dyn DiskRead, report: &dyn Report) -> Result<ExtentMap, FsError>;

    /// Where the superblock lies, from the start of the partition. The gate is inside.
    fn superblock(&self) -> Extent;

    /// `superblock` (the bytes of [`Driver::superblock`]) with the gate closed.
    ///
    /// # Errors
    /// [`FsError::Corrupt`] where it is not an open superblock.
    fn close_gate(&self, superblock: &[u8], id: TransactionId) -> Result<Vec<u8>, FsError>;

    /// What the bytes of [`Driver::superblock`] say. Never fails: unreadable is
    /// [`GateState::Invalid`].
    fn gate(&self, superblock: &[u8]) -> GateState;

    /// Whether [`Driver::replay`] can be asked. Where not, [`Driver::prepare`] lets the kernel
    /// replay, and [`Driver::only_replayed`] compares with what was there before that.
    fn has_own_replay(&self) -> bool {
        true
    }

    /// Replays the journal of the file system on `part`, which lies on an overlay, by this driver's
    /// own reading of it, and nothing else: the state that the tools' replay is measured by.
    ///
    /// # Errors
    /// [`FsError::Unsupported`] where the journal cannot be replayed, or what it holds cannot be
    /// known.
    fn replay(&self, part: &dyn Disk) -> Result<(), FsError> {
        let _ = part;
        Err(without_journal())
    }

    /// The files whose end the tools will bring about, once the journal was replayed.
    ///
    /// # Errors
    /// As [`Driver::probe`].
    fn orphans(&self, part: &dyn DiskRead) -> Result<Vec<Orphan>, FsError> {
        let _ = part;
        Ok(Vec::new())
    }

    /// What [`Driver::prepare`] made of a journal that was to be replayed, against what
    /// [`Driver::replay`] made of it. It must be nothing but the end of the orphans and the
    /// stamps of a check. At most `limit` differences.
    ///
    /// # Errors
    /// Where either cannot be read.
    fn only_replayed(
        &self,
        before: &dyn DiskRead,
        after: &dyn DiskRead,
        changed: &ExtentMap,
        limit: usize,
        report: &dyn Report,
    ) -> Result<Vec<Difference>, FsError> {
        let _ = (before, after, changed, limit, report);
        Err(without_journal())
    }

    /// Runs the tools that bring the file system on `file` to a state that can be resized: journal
    /// replay, full check. Nothing may be repaired beyond that. Without a journal, the check.
    ///
    /// # Errors
    /// [`tool::ToolError`]: missing, failed, hung.
    fn prepare(
        &self,
        file: &Path,
        observed: &Observed,
        tools: &tool::Tools,
    ) -> Result<(), tool::ToolError> {
        let _ = observed;
        self.verify(file, tools)
    }

    /// What [`Driver::prepare`] changed besides the stamps of a check, where no journal was to be
    /// replayed. It must be nothing: whoever asks for a resize has not asked for a repair. Where a
    /// check leaves no stamp, no byte may differ.
    ///
    /// # Errors
    /// Where either cannot be read.
    fn only_prepared(
        &self,
        before: &dyn DiskRead,
        after: &dyn DiskRead,
        changed: &ExtentMap,
    ) -> Result<Vec<Difference>, FsError> {
        let _ = (before, after);
        Ok(changed.iter().next().map(repaired).into_iter().collect())
    }

    /// Resizes the file system on `part`, which lies on an overlay, with the driver's own hands.
    /// `false` where it leaves that to [`Driver::resize`]. `part` is as long as the longer of what
    /// the partition was and will be.
    ///
    /// # Errors
    /// Where it cannot be done. What was written until then is thrown away.
    fn resize_own(
        &self,
        part: &dyn Disk,
        new_bytes: u64,
        report: &dyn Report,
    ) -> Result<bool, FsError> {
        let _ = (part, new_bytes, report);
        Ok(false)
    }

    /// Runs the stock resizer on `file`, where [`Driver::resize_own`] has not done the work.
    ///
    /// # Errors
    /// [`tool::ToolError`].
    fn resize(
        &self,
        file: &Path,
        new_bytes: u64,
        tools: &tool::Tools,
    ) -> Result<(), tool::ToolError> {
        let _ = (file, new_bytes, tools);
        Ok(())
    }

    /// Runs the stock checker on `file`, read-only.
    ///
    /// # Errors
    /// [`tool::ToolError`].
    fn verify(&self, file: &Path, tools: &tool::Tools) -> Result<(), tool::ToolError>;

    /// What is known against the installed tools for this job: faults that would lose data or
    /// fail are refusals, those that the checks would find are notices.
    ///
    /// # Errors
    /// [`tool::ToolError`].
    fn known_faults(
        &self,
        observed: &Observed,
        direction: Direction,
        new_bytes: u64,
        tools: &tool::Tools<'_>,
    ) -> Result<(Vec<Refusal>, Vec<String>), tool::ToolError> {
        let _ = (observed, direction, new_bytes, tools);
        Ok((Vec::new(), Vec::new()))
    }

    /// The smallest size that the stock resizer says it can make of the file system on `file`, or 0
    /// where [`Driver::bounds`] knows it.
    ///
    /// # Errors
    /// [`tool::ToolError`].
    fn minimum(
        &self,
        file: &Path,
        observed: &Observed,
        tools: &tool::Tools<'_>,
    ) -> Result<u64, tool::ToolError> {
        let _ = (file, observed, tools);
        Ok(0)
    }

    /// The size that the stock resizer will make of a wish for `bytes`: whole blocks, and no
    /// stub of a group.
    ///
    /// # Errors
    /// As [`Driver::probe`].
    fn fit(&self, part: &dyn DiskRead, bytes: u64) -> Result<u64, FsError>;

    /// About how many bytes a resize to `bytes` will change: an upper guess, for space and time.
    /// `used` is from the start of the partition.
    ///
    /// # Errors
    /// As [`Driver::probe`].
    fn delta_estimate(
        &self,
        part: &dyn DiskRead,
        used: &ExtentMap,
        bytes: u64,
    ) -> Result<u64, FsError>;

    /// Compares two states of one file system: every file, directory, attribute and the fields of
    /// the superblock, against what a resize to `after`'s size may change. `changed` are the bytes
    /// in which the two differ. Stops after `limit` differences.
    ///
    /// # Errors
    /// Where either cannot be read: it could not be checked, which is not a pass.
    fn compare(
        &self,
        before: &dyn DiskRead,
        after: &dyn DiskRead,
        changed: &ExtentMap,
        limit: usize,
        report: &dyn Report,
    ) -> Result<Vec<Difference>, FsError>;

    /// How the kernel reads every file, where the driver has no reader of its own. Both states are
    /// then walked through on top of [`Driver::compare`], and the walks compared.
    fn walk(&self) -> Option<mount::Walk> {
        None
    }

    /// Who owns these bytes: paths of files, or names of structures, each once, at most `limit`.
    ///
    /// # Errors
    /// Where the file system cannot be read.
    fn owners(
        &self,
        part: &dyn DiskRead,
        extents: &ExtentMap,
        limit: usize,
    ) -> Result<Vec<String>, FsError>;

    /// Whether somebody could miss what is in it. Where no partition is named, one with content is
    /// meant.
    fn has_content(&self) -> bool {
        true
    }

    /// What a resize leaves behind that a person should know before it, one sentence each.
    fn consequences(&self) -> Vec<String> {
        Vec::new()
    }

    /// The name of the signature that this file system has at the end of its own partition: no
    /// metadata of somebody else.
    fn own_tail(&self) -> Option<&'static str> {
        None
    }

    /// Whether a refusal with this code stands against a change alone, and not against finding that
    /// none is needed: it is about how the file system was left, and its sizes are certain.
    fn is_about_change(&self, code: &str) -> bool {
        let _ = code;
        false
    }

    /// As [`Driver::owners`], with the bytes of each file. A driver that does not know them gives
    /// the names alone.
    ///
    /// # Errors
    /// As [`Driver::owners`].
    fn owned(
        &self,
        part: &dyn DiskRead,
        extents: &ExtentMap,
        limit: usize,
    ) -> Result<Vec<Owner>, FsError> {
        let names = self.owners(part, extents, limit)?;
        Ok(names.into_iter().map(Owner::structure).collect())
    }
}

/// Nobody asks this of a file system whose [`Observed`] says nothing of a replay.
fn without_journal() -> FsError {
    FsError::Corrupt("a file system without a journal waits for its replay".into())
}

fn repaired(extent: Extent) -> Difference {
    Difference {
        code: "check-repaired".into(),
        object: "file system".into(),
        detail: format!("its own checker changed it, first at {extent}"),
    }
}

/// All drivers, in the order in which they are asked.
pub fn drivers() -> &'static [&'static dyn Driver] {
    &[&ext::Ext, &xfs::Xfs, &ntfs::Ntfs, &swap::Swap, &fat::Fat]
}

/// The driver of this name.
pub fn driver(name: &str) -> Option<&'static dyn Driver> {
    drivers().iter().find(|d| d.name() == name).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_is_named_in_one_way_only() {
        let id = TransactionId(std::array::from_fn(|n| n as u8 * 17));
        assert_eq!(id.to_string(), "00112233445566778899aabbccddeeff");
        assert_eq!(id.to_string().parse(), Ok(id));
        for wrong in [
            "",
            "00112233445566778899aabbccddeef",
            "00112233445566778899aabbccddeeff0",
            "00112233445566778899AABBCCDDEEFF",
            "+0112233445566778899aabbccddeeff",
        ] {
            assert!(wrong.parse::<TransactionId>().is_err(), "{wrong}");
        }
    }
}
