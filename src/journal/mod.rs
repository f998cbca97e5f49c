//! The only module that writes a target.
//!
//! # Words
//!
//! *record*: an extent of the target with its old content (*undo*) and its new content (*redo*).
//! *gate*: the superblock with a mark that the kernel and fsck refuse, and that names the
//! transaction. *sealed*: the journal carries a commit record that fits its content. *hot*: sealed
//! and not closed. *view*: a way to read the target past every cache.
//!
//! # Invariants
//!
//! 1. Nothing of the target is written before the journal is sealed and durable, with its name.
//! 2. The gate is the first write to the target and the superblock is the last, in both
//!    directions: applying and undoing. Everything between is written while the gate stands,
//!    so whoever finds an open superblock finds a file system that is wholly old or wholly new.
//! 3. The gate is never rewritten while it stands: a power cut could tear it.
//! 4. The superblock is written only after every other byte has been read back, past the caches,
//!    and compared.
//! 5. A record is written only after its CRC has been checked; nothing is written at all before
//!    the whole journal has been checked.
//! 6. Without a gate, nothing is written unless every record is wholly undo, or every record is
//!    wholly redo, and everything else that was in use equals the snapshot.
//! 7. After a failed write or flush the writer is given up; undoing opens a new one.
//! 8. A copy of the partition table that is right already is not written again. So the backup is
//!    torn only while the primary is wholly old, and the primary only while the backup is wholly
//!    new: anything else there was written by somebody else, whom the gate does not keep from the
//!    table, and recovery refuses. An MBR has no second copy: *backup* stands for its sector 0 and
//!    *primary* for its EBRs, and a torn one is whole again only when recovery has run.
//!
//! # States of a transaction
//!
//! ```text
//!             seal                gate                 superblock (redo)        close
//!  (no file) ─────► hot, untouched ───► hot, gate stands ───────────────► hot, new ───► closed: applied
//!                     │                   │      ▲                                         │ reopen
//!                     │ close             │      └───────────── gate ◄─────────────────────┘ (rollback
//!                     ▼                   ▼ superblock (undo)                                 on purpose)
//!              closed: rolled back ◄── hot, old
//! ```
//!
//! [`seal`] makes the first transition, [`Journal::commit`] the upper row, [`Journal::recover`]
//! takes any hot state to a closed one, [`Journal::roll_back`] the way back from *applied*. In
//! each of them `forward` and `backward` (in `apply.rs`) do the writing.
//!
//! The order inside a direction: gate, length of an image, backup table, primary table, blocks,
//! [verify], superblock; undoing goes through the same list backwards between gate and
//! superblock. At every instant one of the two copies of a GPT is whole.
//!
//! What cannot be read is neither old nor new: a power cut may leave a sector that gives an error
//! until it is written again. Behind the gate recovery writes it; a superblock that cannot be read
//! counts as torn.
//!
//! It does not decide what is to be written, and it does not start processes.

mod apply;
mod file;
mod format;
mod patient;
mod recover;
mod seal;
mod standing;

use std::io;

use thiserror::Error;

pub use apply::{Outcome, Proof, Work};
pub use file::Journal;
pub use format::{Closed, JournalState, Record, Step};
pub use recover::{RecoverError, Recovered};
pub use seal::{Draft, seal};
pub use standing::{Standing, Superblock};

use crate::disk::{Disk, DiskRead};
use crate::extent::{Extent, ExtentMap};

/// The journal's name in its transaction directory.
pub const JOURNAL_NAME: &str = "journal";

/// Old or new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// What was there before: undo.
    Before,
    /// What the rehearsal made: redo.
    After,
}

/// A way to read a part of the target past every cache.
pub struct View {
    /// Which node this is, for messages.
    pub name: String,
    /// The part of the target that it shows, in the target's coordinates.
    pub extent: Extent,
    /// The reader; its byte 0 is the first of `extent`.
    pub reader: Box<dyn DiskRead>,
}

/// The target as the journal needs it: a factory, because nothing is retried on a descriptor that
/// has failed, and because what is read back must not come from a cache.
pub trait Media: Send + Sync {
    /// A fresh writer. The caller latches it.
    ///
    /// # Errors
    /// The medium's.
    fn writer(&self) -> io::Result<Box<dyn Disk>>;

    /// Sees to it that writes to `extents` will not fail for want of space, where the medium is a
    /// file that can. Content and length stay as they are, so it comes before the gate.
    ///
    /// # Errors
    /// `StorageFull`, or the medium's own.
    fn reserve(&self, extents: &ExtentMap) -> io::Result<()> {
        let _ = extents;
        Ok(())
    }

    /// Drops all caches and returns readers of what the medium really holds. The first shows the
    /// whole target; others show it as another node does.
    ///
    /// # Errors
    /// The medium's.
    fn views(&self) -> io::Result<Vec<View>>;

    /// The target is now wholly `side`, verified: tell the kernel the size of the partition.
    ///
    /// # Errors
    /// A sentence for people. The bytes on the target are right all the same.
    fn announce(&self, side: Side) -> Result<(), String>;
}

/// Why a journal cannot be used.
#[derive(Debug, Error)]
pub enum JournalError {
    /// The file could not be read or written.
    #[error("{doing} the journal: {source}")]
    Io {
        /// `reading`, `writing`, …
        doing: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// It has no commit record: its transaction never reached the commit point.
    #[error("the journal was never sealed")]
    NotSealed,
    /// It is something else.
    #[error("this is not a journal")]
    NotAJournal,
    /// A version or a feature that this program does not know.
    #[error("the journal needs a newer program: {0}")]
    Newer(String),
    /// A checksum or a field does not fit.
    #[error("the journal is damaged: {0}")]
    Damaged(String),
}

impl JournalError {
    fn io(doing: &'static str) -> impl Fn(io::Error) -> JournalError {
        move |source| JournalError::Io { doing, source }
    }
}
