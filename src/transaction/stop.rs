//! Why a use case ended without doing what was asked. In each case but `Stuck`, the target is as
//! it was.

use std::io;

use crate::extent::Extent;
use crate::fs::{FsError, TransactionId, tool::ToolError};
use crate::report::{Interrupted, Refusal};

/// Why it ended.
#[derive(Debug)]
pub enum Stop {
    /// It was refused before anything was tried.
    Refused(Vec<Refusal>),
    /// The rehearsal failed, or its result was not accepted.
    Rejected {
        /// The transaction whose directory has what the tools said, where there is one.
        id: Option<TransactionId>,
        /// Why.
        refusals: Vec<Refusal>,
    },
    /// A transaction is under way on the target: recovery comes first.
    RecoveryNeeded(Option<TransactionId>, Refusal),
    /// Somebody asked to stop, before the commit point.
    Interrupted,
    /// The target is, or may be, in the middle; or it is at an end and the journal could not be
    /// closed. Recovery is needed.
    Stuck {
        /// The transaction.
        id: TransactionId,
        /// What failed.
        what: String,
        /// Where the target is known to be wrong.
        extents: Vec<Extent>,
    },
    /// It could not be done.
    Failed(anyhow::Error),
}

impl Stop {
    /// One refusal.
    pub fn refused(code: &str, message: impl Into<String>, hint: impl Into<String>) -> Stop {
        Stop::Refused(vec![Refusal::new(code, message, hint)])
    }

    /// The one that says most about the state of a target.
    pub fn worst(stops: Vec<Stop>) -> Option<Stop> {
        let badness = |stop: &Stop| match stop {
            Stop::Stuck { .. } => 5,
            Stop::RecoveryNeeded(..) => 4,
            Stop::Failed(_) => 3,
            Stop::Rejected { .. } => 2,
            Stop::Refused(_) => 1,
            Stop::Interrupted => 0,
        };
        let mut refusals = Vec::new();
        let mut worst: Option<Stop> = None;
        for stop in stops {
            match stop {
                // All refusals are told, of whatever transaction.
                Stop::Refused(more) => refusals.extend(more),
                stop if worst.as_ref().is_none_or(|w| badness(&stop) > badness(w)) => {
                    worst = Some(stop);
                }
                _ => {}
            }
        }
        worst.or_else(|| (!refusals.is_empty()).then_some(Stop::Refused(refusals)))
    }

    /// One rejection.
    pub fn rejected(code: &str, message: impl Into<String>, hint: impl Into<String>) -> Stop {
        Stop::rejected_all(vec![Refusal::new(code, message, hint)])
    }

    /// Several rejections.
    pub fn rejected_all(refusals: Vec<Refusal>) -> Stop {
        Stop::Rejected { id: None, refusals }
    }
}

impl From<Interrupted> for Stop {
    fn from(_: Interrupted) -> Stop {
        Stop::Interrupted
    }
}

impl From<anyhow::Error> for Stop {
    fn from(e: anyhow::Error) -> Stop {
        let wished = e.chain().any(|cause| {
            cause.is::<Interrupted>()
                || cause
                    .downcast_ref::<io::Error>()
                    .is_some_and(is_interrupted)
                || matches!(cause.downcast_ref(), Some(ToolError::Interrupted { .. }))
                || matches!(cause.downcast_ref(), Some(FsError::Io(e)) if is_interrupted(e))
        });
        if wished {
            Stop::Interrupted
        } else {
            Stop::Failed(e)
        }
    }
}

/// Whether the error is the wish to stop, and not a system call that a signal interrupted.
fn is_interrupted(e: &io::Error) -> bool {
    e.get_ref().is_some_and(|inner| inner.is::<Interrupted>())
}
