//! After a crash, and back on purpose.

use thiserror::Error;

use super::apply::{Halt, Work};
use super::patient::Patient;
use super::standing::{Patched, Standing, Superblock};
use super::{Closed, Journal, JournalError, JournalState, Side};
use crate::extent::{Extent, ExtentMap};
use crate::fs::TransactionId;
use crate::snapshot::{Manifest, phase};

/// How a recovery ended. The journal is closed, the target read back and compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovered {
    /// The target is wholly old.
    RolledBack,
    /// The target is wholly new.
    Applied,
}

/// Why a target was not recovered, or not rolled back. Where this is not `Stuck`, nothing was
/// written.
#[derive(Debug, Error)]
pub enum RecoverError {
    /// The journal cannot be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The target could not be read.
    #[error("reading the target: {0}")]
    Io(#[from] std::io::Error),
    /// The gate of another transaction stands on the target.
    #[error("the gate of another transaction stands there: {}", hex(.0))]
    OtherTransaction(TransactionId),
    /// Without a gate, the target holds something that neither side explains.
    #[error("{what}")]
    Changed {
        /// In words.
        what: String,
        /// Where.
        extents: Vec<Extent>,
    },
    /// There is no snapshot to compare with, and no gate that would make it unnecessary.
    #[error(
        "the snapshot of this transaction is missing or damaged, and without it nothing can be said about the target"
    )]
    NoSnapshot,
    /// Without a gate, and some of what is to be compared with the snapshot cannot be read.
    #[error("{} bytes in use cannot be read, and so not be compared with the snapshot", extents.iter().map(|e| e.len).sum::<u64>())]
    Unreadable {
        /// Where.
        extents: Vec<Extent>,
    },
    /// The journal is not in the state for this.
    #[error("{0}")]
    WrongState(&'static str),
    /// Writing failed. The gate stands; the journal is hot.
    #[error("{what}")]
    Stuck {
        /// What failed.
        what: String,
        /// Where the target is known to be wrong.
        extents: Vec<Extent>,
    },
}

fn hex(id: &TransactionId) -> String {
    id.0.iter().map(|b| format!("{b:02x}")).collect()
}

impl From<Halt> for RecoverError {
    fn from(halt: Halt) -> RecoverError {
        RecoverError::Stuck {
            what: halt.what,
            extents: halt.differing,
        }
    }
}

impl Journal {
    /// Takes a hot transaction to one of its ends, `toward` where there is a choice.
    ///
    /// # Errors
    /// [`RecoverError`].
    pub fn recover(&self, work: &Work<'_>, toward: Side) -> Result<Recovered, RecoverError> {
        let hot = self.state()? == JournalState::Hot;
        let standing = self.stand(work)?;
        // A gate that stands needs recovery whatever the journal says: it may stand on a copy of
        // the target, or on a disk that lost what it had acknowledged.
        if !hot && standing.superblock != Superblock::Gated {
            return Err(RecoverError::WrongState(
                "this transaction is closed: there is nothing to recover",
            ));
        }
        if !standing.length_fits(self) {
            let (old, new) = self.lengths();
            let what = format!(
                "the target has {} bytes; it had {old} before and {new} after the change",
                standing.len_bytes
            );
            return Err(self.changed(&what, &standing));
        }
        let side = match standing.superblock {
            // Invariant 6 does not bind: nobody but us can have written behind the gate.
            Superblock::Gated => {
                let strange = standing.strange_tables();
                if !strange.is_empty() {
                    return Err(RecoverError::Changed {
                        what: "somebody has changed the partition table while the gate stood"
                            .into(),
                        extents: strange.iter().collect(),
                    });
                }
                toward
            }
            Superblock::OtherGate(id) => return Err(RecoverError::OtherTransaction(id)),
            _ => self.judge_without_gate(work, &standing, toward)?,
        };
        if !hot {
            self.reopen(work.now)?;
        }
        match side {
            Side::Before => self.backward(work)?,
            Side::After => self.forward(work)?,
        }
        let (closed, recovered) = match side {
            Side::Before => (Closed::RolledBack, Recovered::RolledBack),
            Side::After => (Closed::Applied, Recovered::Applied),
        };
        self.end_or_stuck(work, closed)?;
        Ok(recovered)
    }

    /// Undoes a transaction that was applied.
    ///
    /// # Errors
    /// [`RecoverError::Changed`] where the target has been used since.
    pub fn roll_back(&self, work: &Work<'_>) -> Result<(), RecoverError> {
        if !matches!(self.state()?, JournalState::Closed(Closed::Applied, _)) {
            return Err(RecoverError::WrongState(
                "only a transaction that was applied can be rolled back",
            ));
        }
        let standing = self.stand(work)?;
        if let Superblock::OtherGate(id) = standing.superblock {
            return Err(RecoverError::OtherTransaction(id));
        }
        let same_length = self.length_is(standing.len_bytes, Side::After);
        if standing.superblock != Superblock::New || !standing.rest_is_new() || !same_length {
            return Err(self.changed("the target has been used since", &standing));
        }
        self.others_unchanged(work)?;
        self.reopen(work.now)?;
        self.backward(work)?;
        self.end_or_stuck(work, Closed::RolledBack)
    }

    /// The target has been written, so an error here must not look like one before.
    fn end_or_stuck(&self, work: &Work<'_>, how: Closed) -> Result<(), RecoverError> {
        self.end(work, how).map_err(|e| RecoverError::Stuck {
            what: format!("the target is at its end, read back and compared, but {e}"),
            extents: Vec::new(),
        })
    }

    /// How the target stands, read past every cache.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn stand(&self, work: &Work<'_>) -> Result<Standing, RecoverError> {
        let views = work.media.views()?;
        let view = views
            .first()
            .ok_or_else(|| std::io::Error::other("the target cannot be read"))?;
        Ok(Standing::read(self, &*view.reader, work.driver)?)
    }

    /// Invariant 6.
    fn judge_without_gate(
        &self,
        work: &Work<'_>,
        standing: &Standing,
        toward: Side,
    ) -> Result<Side, RecoverError> {
        let explained = standing.superblock != Superblock::Foreign;
        let side = match (
            &standing.superblock,
            standing.rest_is_old(),
            standing.rest_is_new(),
        ) {
            // The gate had not been closed, or it had been opened again.
            (Superblock::Old, true, _) => Side::Before,
            (Superblock::New, _, true) => Side::After,
            // Torn while it was closed, or while it was opened.
            (Superblock::Torn | Superblock::Unreadable, true, _) => Side::Before,
            (Superblock::Torn | Superblock::Unreadable, _, true) => toward,
            // New blocks and an old superblock, or the other way round, arise from no cut.
            _ if explained => {
                return Err(self.changed("the target is a mixture without a gate", standing));
            }
            _ => return Err(self.changed("somebody has written to the target", standing)),
        };
        self.others_unchanged(work)?;
        Ok(side)
    }

    /// Everything in use before, other than the records, is as it was.
    fn others_unchanged(&self, work: &Work<'_>) -> Result<(), RecoverError> {
        let manifest: &Manifest = work.proof.snapshot.ok_or(RecoverError::NoSnapshot)?;
        let views = work.media.views()?;
        let view = views
            .first()
            .ok_or_else(|| std::io::Error::other("the target cannot be read"))?;
        let patched = Patched::new(&*view.reader, self, Side::Before, |_| true);
        phase(
            work.report,
            "comparing with the snapshot",
            &manifest.extents,
        );
        let patient = Patient::new(&patched);
        let mut wrong: ExtentMap = manifest
            .compare(&patient, work.report)?
            .into_iter()
            .collect();
        let lost = manifest.overlap(&patient.lost());
        if !lost.is_empty() {
            if !work.proof.pass_over {
                return Err(RecoverError::Unreadable {
                    extents: lost.iter().collect(),
                });
            }
            for extent in lost.iter() {
                work.report
                    .notice(&format!("{extent} cannot be read, and was not compared"));
                wrong.remove(manifest.chunks_of(extent));
            }
        }
        if wrong.is_empty() {
            return Ok(());
        }
        let bytes = wrong.total_bytes();
        let what = format!(
            "the target has been used since: chunks with {bytes} bytes outside the transaction differ from the snapshot"
        );
        Err(RecoverError::Changed {
            what,
            extents: wrong.iter().collect(),
        })
    }

    fn changed(&self, what: &str, standing: &Standing) -> RecoverError {
        let superblock = match standing.superblock {
            Superblock::Old => "the superblock is the old one",
            Superblock::New => "the superblock is the new one",
            Superblock::Torn => "the superblock is torn",
            Superblock::Unreadable => "the superblock cannot be read",
            _ => "the superblock is neither the old nor the new one",
        };
        let what = format!(
            "{what}: {superblock}; of the other blocks {} bytes are old, {} bytes are new, {} bytes are neither",
            standing.old_bytes,
            standing.new_bytes,
            standing.foreign.total_bytes()
        );
        let mut extents: Vec<Extent> = standing.foreign.iter().collect();
        if standing.superblock == Superblock::Foreign {
            extents.insert(0, self.superblock());
        }
        RecoverError::Changed { what, extents }
    }
}
