//! The durable part of a transaction's directory: the journal and the two manifests that judge it.
//!
//! ```text
//! before.manifest   what was in use before, and its hashes
//! after.manifest    what is in use after, as the rehearsal made it
//! journal           the last file that is written: with it the transaction is hot
//! ```
//!
//! Everything goes through [`Dir`] and [`Media`], so that the crash simulator runs this very code.

use std::io;

use thiserror::Error;

use crate::disk::{Dir, DiskRead};
use crate::fs::Driver;
use crate::journal::{
    Draft, JOURNAL_NAME, Journal, JournalError, Media, Outcome, Proof, RecoverError, Recovered,
    Side, Work, seal,
};
use crate::report::Report;
use crate::snapshot::{Manifest, ManifestError};

const BEFORE_NAME: &str = "before.manifest";
const AFTER_NAME: &str = "after.manifest";

/// Why a dossier could not be made.
#[derive(Debug, Error)]
pub enum DossierError {
    /// The directory could not be written.
    #[error("writing {name}: {source}")]
    Io {
        /// The file.
        name: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// The journal could not be written.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// A sealed journal with its manifests.
pub struct Dossier {
    /// The journal.
    pub journal: Journal,
    /// What was in use before. Written at every level of verification, for without the gate
    /// recovery needs it. `None`: the file is missing or damaged.
    pub before: Option<Manifest>,
    /// What is in use after, likewise.
    pub after: Option<Manifest>,
}

/// What a dossier's operations need from outside.
pub struct Hands<'a> {
    /// The target.
    pub media: &'a dyn Media,
    /// The driver of its file system.
    pub driver: &'a dyn Driver,
    /// Where progress goes.
    pub report: &'a dyn Report,
    /// Seconds since 1970.
    pub now: u64,
    /// Compare everything in use, and not the changed blocks alone. Where no gate stands, what is in
    /// use is compared in any case, but for what cannot be read.
    pub whole: bool,
}

impl Dossier {
    /// Writes manifests and journal; when this returns the transaction is hot, and the target is
    /// untouched.
    ///
    /// # Errors
    /// [`DossierError`]: not hot, target untouched.
    pub fn seal(
        dir: &dyn Dir,
        draft: &Draft<'_>,
        target: &dyn DiskRead,
        rehearsed: &dyn DiskRead,
        manifests: (Manifest, Manifest),
        report: &dyn Report,
    ) -> Result<Dossier, DossierError> {
        let (before, after) = manifests;
        for (name, manifest) in [(BEFORE_NAME, &before), (AFTER_NAME, &after)] {
            let written = dir.create(name).and_then(|file| manifest.write(&*file));
            written.map_err(|source| DossierError::Io { name, source })?;
        }
        // The flush of the directory that makes the journal's name durable serves these two too.
        let journal = seal(dir, draft, target, rehearsed, report)?;
        Ok(Dossier {
            journal,
            before: Some(before),
            after: Some(after),
        })
    }

    /// Reads what [`Dossier::seal`] wrote.
    ///
    /// # Errors
    /// [`JournalError`]; `NotSealed` too where there is no journal at all.
    pub fn open(dir: &dyn Dir) -> Result<Dossier, JournalError> {
        let file = match dir.open(JOURNAL_NAME) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(JournalError::NotSealed),
            Err(source) => {
                return Err(JournalError::Io {
                    doing: "opening",
                    source,
                });
            }
        };
        let manifest = |name| {
            let file = dir.open(name).map_err(ManifestError::Io)?;
            Manifest::read(&*file)
        };
        Ok(Dossier {
            journal: Journal::open(file)?,
            before: manifest(BEFORE_NAME).ok(),
            after: manifest(AFTER_NAME).ok(),
        })
    }

    fn work<'a>(&'a self, hands: &Hands<'a>) -> Work<'a> {
        if hands.whole && (self.before.is_none() || self.after.is_none()) {
            hands.report.notice(
                "a snapshot of this transaction is missing or damaged: where it is needed, only \
                 what the transaction changes is read back",
            );
        }
        let choose = |manifest: &'a Option<Manifest>| manifest.as_ref().filter(|_| hands.whole);
        Work {
            media: hands.media,
            driver: hands.driver,
            proof: Proof {
                before: choose(&self.before),
                after: choose(&self.after),
                snapshot: self.before.as_ref(),
                pass_over: !hands.whole,
            },
            now: hands.now,
            report: hands.report,
        }
    }

    /// [`Journal::commit`].
    pub fn commit(&self, hands: &Hands<'_>) -> Outcome {
        self.journal.commit(&self.work(hands))
    }

    /// [`Journal::recover`].
    ///
    /// # Errors
    /// [`RecoverError`].
    pub fn recover(&self, hands: &Hands<'_>, toward: Side) -> Result<Recovered, RecoverError> {
        self.journal.recover(&self.work(hands), toward)
    }

    /// [`Journal::roll_back`].
    ///
    /// # Errors
    /// [`RecoverError`].
    pub fn roll_back(&self, hands: &Hands<'_>) -> Result<(), RecoverError> {
        self.journal.roll_back(&self.work(hands))
    }
}
