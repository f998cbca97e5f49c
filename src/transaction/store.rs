//! The state directory: a directory for each transaction, named by its id.
//!
//! ```text
//! <state>/<id>/summary.json      what it was to do; for people and for `status`
//! <state>/<id>/*.manifest, journal   see the dossier
//! <state>/<id>/NN-tool.log       what the tools said
//! <state>/<id>/holdfast          the program that made it: it can always recover
//! ```

use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::stop::Stop;
use crate::disk::survey::{Host, HostError};
use crate::disk::{Dir, HostDir, StateDir, check_owner, read_vec, suitability};
use crate::fs::TransactionId;
use crate::journal::{Closed, JOURNAL_NAME, Journal, JournalError, JournalState};
use crate::plan::{Identity, Plan};

const SUMMARY_NAME: &str = "summary.json";
const PROGRAM_NAME: &str = "holdfast";
const MAX_SUMMARY_BYTES: u64 = 4 << 20;

/// What a transaction was to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Its name.
    pub id: TransactionId,
    /// When it began, in seconds since 1970.
    pub began: u64,
    /// What it is to do.
    pub plan: Plan,
}

/// How far a transaction came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Progress {
    /// It never reached the commit point; the target is untouched.
    NotCommitted,
    /// Recovery is needed.
    Hot,
    /// Done.
    Applied,
    /// Undone.
    RolledBack,
    /// Given up.
    Abandoned,
    /// Its journal cannot be read.
    Damaged(String),
}

/// A transaction in the state directory.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// Its name.
    pub id: TransactionId,
    /// What it was to do, where that can be read.
    pub summary: Option<Summary>,
    /// How far it came.
    pub progress: Progress,
    /// When it ended, in seconds since 1970.
    pub ended: Option<u64>,
    /// Who its target is.
    pub identity: Option<Identity>,
    /// Bytes of its journal.
    pub journal_bytes: u64,
}

/// The state directory.
pub struct Store {
    path: PathBuf,
}

impl Store {
    /// The state directory at `path`, which need not exist yet.
    pub fn at(path: &Path) -> Store {
        Store { path: path.into() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Creates it where it is missing, and asks whether it can hold a journal.
    ///
    /// # Errors
    /// [`Stop::Refused`] where it cannot.
    pub fn prepare(&self, host: &Host) -> Result<StateDir, Stop> {
        if let Err(e) = create_private(&self.path) {
            return Err(Stop::refused(
                "state-dir-not-writable",
                format!(
                    "the state directory {} cannot be made: {e}",
                    self.path.display()
                ),
                "run as root, or name a directory of yours with --state-dir",
            ));
        }
        match suitability(host, &self.path, false) {
            Ok(found) => self.writable().map(|()| found),
            Err(HostError::Refused(refusal)) => Err(Stop::Refused(vec![refusal])),
            Err(HostError::Io(e)) => Err(Stop::Failed(
                anyhow::Error::from(e).context("looking at the state directory"),
            )),
        }
    }

    /// A file system that is mounted read-only takes nothing from root either.
    fn writable(&self) -> Result<(), Stop> {
        use nix::unistd::{AccessFlags, access};
        access(&self.path, AccessFlags::W_OK | AccessFlags::X_OK).map_err(|e| {
            Stop::refused(
                "state-dir-not-writable",
                format!(
                    "the state directory {} cannot be written: {}",
                    self.path.display(),
                    io::Error::from(e)
                ),
                "mount what holds it for writing, or name another directory with --state-dir",
            )
        })
    }

    /// Makes the directory of a new transaction.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn create(&self, summary: &Summary) -> Result<HostDir> {
        let name = summary.id.to_string();
        let doing = || {
            format!(
                "creating the transaction directory {}",
                self.path.join(&name).display()
            )
        };
        let dir = HostDir::create_private(&self.path, &name).with_context(doing)?;
        // Ours until it is dropped: a `prune` or `abandon` must not come between.
        dir.try_lock().with_context(doing)?;
        let text = serde_json::to_vec_pretty(summary)?;
        let file = dir.create(SUMMARY_NAME).with_context(doing)?;
        file.write_at(0, &text).with_context(doing)?;
        // Barrier: `status` and `recover` name the target by this file after a crash.
        file.flush().with_context(doing)?;
        Ok(dir)
    }

    /// Copies the running program into a transaction's directory, so that recovery does not depend
    /// on what is installed then. Returns whether it worked: it is a convenience, which leaves
    /// `reserve_bytes` to the journal.
    pub fn keep_program(&self, id: TransactionId, reserve_bytes: u64) -> bool {
        let to = self.dir_of(id).join(PROGRAM_NAME);
        let copy = || -> io::Result<()> {
            let from = std::env::current_exe()?;
            let room = nix::sys::statvfs::statvfs(&self.path)?;
            let free = (room.blocks_available() as u64).saturating_mul(room.fragment_size() as u64);
            if free < reserve_bytes.saturating_add(from.metadata()?.len()) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            // A copy and not a link: a link would share its mode, and its fate, with the original.
            std::fs::copy(from, &to)?;
            std::fs::set_permissions(&to, std::os::unix::fs::PermissionsExt::from_mode(0o700))
        };
        let kept = copy().is_ok();
        if !kept {
            let _ = std::fs::remove_file(&to);
        }
        kept
    }

    /// Removes the journal of a transaction that is known not to have begun to write, as well as that
    /// goes: where it stays, recovery finds an untouched target and closes it. By a descriptor of
    /// its own, for the one that sealed it may have failed.
    pub fn forget_journal(&self, id: TransactionId) {
        let dir = HostDir::open(&self.dir_of(id));
        let _ = dir.and_then(|dir| {
            dir.remove(JOURNAL_NAME)?;
            // Barrier: what is reported as untouched must not be hot after a power cut.
            dir.flush()
        });
    }

    /// The directory of a transaction.
    pub fn dir_of(&self, id: TransactionId) -> PathBuf {
        self.path.join(id.to_string())
    }

    /// Whether nobody else can have put a journal there: it says what is written where.
    ///
    /// # Errors
    /// [`Stop::Refused`] where somebody can.
    pub fn trusted(&self) -> Result<(), Stop> {
        match check_owner(&self.path) {
            Err(HostError::Refused(refusal)) => Err(Stop::Refused(vec![refusal])),
            Err(HostError::Io(e)) if self.path.exists() => Err(Stop::Failed(
                anyhow::Error::from(e).context("looking at the state directory"),
            )),
            _ => Ok(()),
        }
    }

    /// All transactions, the oldest first.
    ///
    /// # Errors
    /// Where the directory cannot be read. One that does not exist is empty.
    pub fn list(&self) -> Result<Vec<Entry>> {
        let names = match std::fs::read_dir(&self.path) {
            Ok(names) => names,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(e).with_context(|| format!("reading {}", self.path.display())),
        };
        let mut entries = Vec::new();
        for name in names {
            let name = name
                .with_context(|| format!("reading {}", self.path.display()))?
                .file_name();
            if let Some(id) = name.to_str().and_then(|n| n.parse().ok()) {
                entries.push(self.entry(id)?);
            }
        }
        entries.sort_by_key(|e| (e.summary.as_ref().map(|s| s.began), e.id));
        Ok(entries)
    }

    fn entry(&self, id: TransactionId) -> Result<Entry> {
        let dir = self.open(id)?;
        let summary = read_summary(&dir);
        let mut entry = Entry {
            id,
            identity: summary.as_ref().map(|s| s.plan.identity.clone()),
            summary,
            progress: Progress::NotCommitted,
            ended: None,
            journal_bytes: 0,
        };
        let file = match dir.open(JOURNAL_NAME) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(entry),
            Err(e) => return Err(e).with_context(|| format!("opening the journal of {id}")),
        };
        entry.journal_bytes = file.len_bytes();
        match Journal::glance(file) {
            Ok((state, identity)) => {
                (entry.progress, entry.ended) = match state {
                    JournalState::Hot => (Progress::Hot, None),
                    JournalState::Closed(Closed::Applied, time) => (Progress::Applied, Some(time)),
                    JournalState::Closed(Closed::RolledBack, time) => {
                        (Progress::RolledBack, Some(time))
                    }
                    JournalState::Closed(Closed::Abandoned, time) => {
                        (Progress::Abandoned, Some(time))
                    }
                };
                // The journal is checked, the summary is not.
                entry.identity = serde_json::from_str(&identity).ok().or(entry.identity);
            }
            Err(JournalError::NotSealed) => {}
            Err(e) => entry.progress = Progress::Damaged(e.to_string()),
        }
        Ok(entry)
    }

    /// Opens the directory of a transaction.
    ///
    /// # Errors
    /// Where there is none, or it belongs to somebody else.
    pub fn open(&self, id: TransactionId) -> Result<HostDir> {
        let path = self.dir_of(id);
        let dir = HostDir::open(&path).with_context(|| format!("opening {}", path.display()))?;
        // Of what was opened, and not of what has the name a moment later.
        let (owner, open) = dir.owner()?;
        if owner != nix::unistd::geteuid().as_raw() || open {
            bail!(
                "{} belongs to another user (uid {owner}), or others can write to it; it is not \
                 trusted",
                path.display()
            );
        }
        Ok(dir)
    }

    /// Opens the directory of a transaction for one process alone, until it is dropped.
    ///
    /// # Errors
    /// [`Stop::Refused`] where another process works on it.
    pub fn open_locked(&self, id: TransactionId) -> Result<HostDir, Stop> {
        let dir = self.open(id)?;
        match dir
            .try_lock()
            .with_context(|| format!("locking transaction {id}"))?
        {
            true => Ok(dir),
            false => Err(Stop::refused(
                "held-by-holdfast",
                format!("another holdfast is working on transaction {id}"),
                "wait until it has ended",
            )),
        }
    }

    /// The transaction that `text` names: its id, or the beginning of it.
    ///
    /// # Errors
    /// [`Stop::Refused`] where none or several begin so.
    pub fn find(&self, text: &str) -> Result<Entry, Stop> {
        let mut found: Vec<Entry> = self.list()?;
        found.retain(|e| !text.is_empty() && e.id.to_string().starts_with(&text.to_lowercase()));
        match found.len() {
            1 => Ok(found.remove(0)),
            0 => Err(Stop::refused(
                "no-such-transaction",
                format!("{} has no transaction {text}", self.path.display()),
                "`holdfast status` lists them; another state directory is named with --state-dir",
            )),
            n => Err(Stop::refused(
                "which-transaction",
                format!("{n} transactions begin with {text}"),
                "write more of its id",
            )),
        }
    }

    /// The hot transactions whose target may be the one that says so of itself, or of which the
    /// caller knows that it is.
    ///
    /// # Errors
    /// Where the directory cannot be read.
    pub fn hot_on(
        &self,
        identity: &Identity,
        is_known: impl Fn(&Entry) -> bool,
    ) -> Result<Vec<Entry>> {
        if !self.path.is_dir() {
            // What stands there instead is refused where a journal is to be kept.
            return Ok(Vec::new());
        }
        let hot = |e: &Entry| matches!(e.progress, Progress::Hot | Progress::Damaged(_));
        // A sibling partition too: the journal holds the table that they share.
        let same = |e: &Entry| {
            let theirs = e.identity.as_ref();
            theirs.is_some_and(|i| i.matches(identity) || i.shares_table(identity)) || is_known(e)
        };
        Ok(self
            .list()?
            .into_iter()
            .filter(|e| hot(e) && same(e))
            .collect())
    }

    /// Removes the directory of a transaction that is not hot: the journal first, so that what is
    /// left of a removal that a crash cut short is never taken for one that could be recovered.
    ///
    /// # Errors
    /// [`Stop::Refused`] where it is hot or another process works on it; where it cannot be removed.
    pub fn remove(&self, id: TransactionId) -> Result<(), Stop> {
        let dir = self.open_locked(id)?;
        let doing = || format!("removing transaction {id}");
        // Looked at with the lock: it may have become hot since it was listed.
        if matches!(
            self.entry(id)?.progress,
            Progress::Hot | Progress::Damaged(_)
        ) {
            return Err(Stop::refused(
                "hot-journal",
                format!("transaction {id} is not finished: its journal is the only way back"),
                "recover it first, or give it up with `holdfast abandon`",
            ));
        }
        if dir
            .names()
            .with_context(doing)?
            .iter()
            .any(|n| n == JOURNAL_NAME)
        {
            dir.remove(JOURNAL_NAME).with_context(doing)?;
            // Barrier: see above.
            dir.flush().with_context(doing)?;
        }
        Ok(std::fs::remove_dir_all(self.dir_of(id)).with_context(doing)?)
    }
}

/// Creates a directory for its owner alone, with those above it, durably: a journal whose directory
/// is lost with the power cannot be found.
fn create_private(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("/"));
    create_private(parent)?;
    match std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700)
        .create(path)
    {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        other => other?,
    }
    // Barrier: see above.
    std::fs::File::open(parent)?.sync_all()
}

fn read_summary(dir: &HostDir) -> Option<Summary> {
    let file = dir.open(SUMMARY_NAME).ok()?;
    let len = file.len_bytes();
    if len > MAX_SUMMARY_BYTES {
        return None;
    }
    serde_json::from_slice(&read_vec(&*file, 0, len as usize).ok()?).ok()
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs())
}

/// A fresh transaction's name.
///
/// # Errors
/// Where the kernel gives no random bytes.
pub fn new_id() -> Result<TransactionId> {
    let mut bytes = [0; 16];
    let mut source =
        std::fs::File::open("/dev/urandom").context("opening the source of random bytes")?;
    io::Read::read_exact(&mut source, &mut bytes).context("reading random bytes")?;
    Ok(TransactionId(bytes))
}
