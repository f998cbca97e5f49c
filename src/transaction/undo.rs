//! Recovery after a crash, rollback on purpose, and what becomes of old transactions.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use serde::Serialize;

use super::dossier::{Dossier, Hands};
use super::look::{Asked, Look};
use super::media::HostMedia;
use super::stop::Stop;
use super::store::{Entry, Progress, Store, now};
use crate::disk::survey::{BlockDevice, Host, HostError, Target};
use crate::disk::{Dir, DiskRead, FileDisk, Hold, HostDir, read_vec};
use crate::extent::Extent;
use crate::fs::{self, Driver, GateState, TransactionId};
use crate::journal::{
    JOURNAL_NAME, Journal, JournalError, RecoverError, Recovered, Side, Standing, Superblock,
};
use crate::plan::{Identity, TargetKind};
use crate::report::{Refusal, Report};

/// How long udev may keep its lock.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a recovery came to.
#[derive(Clone, Debug, Serialize)]
pub struct Undone {
    /// The transaction.
    pub id: TransactionId,
    /// Where its target was found.
    pub target: PathBuf,
    /// Whether the target is as after the change, or as before it.
    pub applied: bool,
    /// Whether everything in use was compared, or only what the transaction changed.
    pub whole: bool,
}

/// How a recovery is to go.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    /// The side to go to where there is a choice.
    pub toward: Side,
    /// Compare everything in use. Where some of that cannot be read any more, this is what keeps
    /// the gate closed.
    pub whole: bool,
}

/// A target as recovery finds it: nothing that the change touches is relied on.
struct Found {
    path: PathBuf,
    device: Option<BlockDevice>,
}

impl Found {
    fn at(host: &Host, path: &Path) -> Result<Found> {
        Ok(match host.resolve(path)? {
            Target::Image { path, .. } => Found { path, device: None },
            Target::Disk(disk) | Target::Partition { disk, .. } => Found {
                path: disk.node.clone(),
                device: Some(disk),
            },
        })
    }

    fn read(&self, identity: &Identity) -> Result<FileDisk> {
        let disk = FileDisk::open_read(&self.path)?;
        match self.device {
            Some(_) => Ok(disk),
            None => Ok(disk.with_image_sector_bytes(identity.sector_bytes as u32)?),
        }
    }

    fn node(&self, number: Option<u32>) -> Option<crate::disk::survey::Partition> {
        self.device.as_ref()?.partition(number?).cloned()
    }

    fn hold(&self, host: &Host, number: Option<u32>) -> Result<Hold, Stop> {
        let held = match (&self.device, self.node(number)) {
            (None, _) => Hold::image(host, &self.path, PATIENCE),
            (Some(disk), Some(part)) => Hold::device(host, &part.node, &disk.node, PATIENCE),
            (Some(disk), None) => Hold::device(host, &disk.node, &disk.node, PATIENCE),
        };
        held.map_err(|e| match e {
            HostError::Refused(refusal) => Stop::Refused(vec![refusal]),
            HostError::Io(e) => Stop::Failed(anyhow!(e).context("holding the target")),
        })
    }
}

/// A transaction that was opened for recovery.
struct Case {
    entry: Entry,
    dossier: Dossier,
    identity: Identity,
    driver: &'static dyn Driver,
    /// Locked.
    _dir: HostDir,
}

/// A journal that cannot be used. What that means, the target tells: with the gate of the
/// transaction on it, it is in the middle, whatever the journal looks like.
fn unusable(e: JournalError, entry: &Entry) -> Stop {
    let id = entry.id;
    if let Some(path) = gated_target(entry) {
        let what = format!(
            "the gate of transaction {id} stands on {}, and its journal cannot be used: {e}. Keep \
             both as they are; a copy of the journal, from a backup of the state directory, will do",
            path.display()
        );
        return Stop::Stuck {
            id,
            what,
            extents: Vec::new(),
        };
    }
    match e {
        JournalError::NotSealed => Stop::refused(
            "not-committed",
            format!("transaction {id} never reached its commit point: the target is untouched"),
            format!("`holdfast prune {id}` removes what is left of it"),
        ),
        e => Stop::Failed(anyhow!(e).context(format!("opening the journal of {id}"))),
    }
}

/// Where the gate of `entry` stands: at the path that it had, or on any disk. Needs no journal.
fn gated_target(entry: &Entry) -> Option<PathBuf> {
    let identity = entry.identity.as_ref()?;
    let driver = fs::driver(&identity.driver)?;
    let host = Host::default();
    let mut candidates = vec![PathBuf::from(&identity.path)];
    if identity.kind == TargetKind::Device {
        let disks = host.list_disks().unwrap_or_default();
        candidates.extend(disks.into_iter().map(|d| d.node));
    }
    let place = driver.superblock();
    let at = identity.partition_start.checked_add(place.start)?;
    candidates.into_iter().find(|path| {
        let gate = Found::at(&host, path)
            .and_then(|found| found.read(identity))
            .and_then(|disk| Ok(read_vec(&disk, at, place.len as usize)?))
            .map(|bytes| driver.gate(&bytes));
        gate.is_ok_and(|gate| gate == GateState::Closed(entry.id))
    })
}

impl Case {
    fn open(store: &Store, entry: Entry) -> Result<Case, Stop> {
        let id = entry.id;
        let dir = store.open_locked(id)?;
        let dossier = Dossier::open(&dir).map_err(|e| unusable(e, &entry))?;
        let identity: Identity = serde_json::from_str(dossier.journal.identity())
            .with_context(|| format!("reading the identity in the journal of {id}"))?;
        let driver = fs::driver(dossier.journal.driver()).with_context(|| {
            format!(
                "the journal of {id} needs the driver `{}`",
                dossier.journal.driver()
            )
        })?;
        Ok(Case {
            entry,
            dossier,
            identity,
            driver,
            _dir: dir,
        })
    }

    /// Whether what is at `found` is this transaction's target. The gate names the transaction; a
    /// whole table or superblock names itself; and where a superblock was torn, everything else
    /// that the journal knows must be there.
    fn is_target(&self, found: &Found) -> Result<bool> {
        if (self.identity.kind == TargetKind::Device) != found.device.is_some() {
            return Ok(false);
        }
        let disk = found.read(&self.identity)?;
        let journal = &self.dossier.journal;
        let place = journal.superblock();
        if place.end() > disk.len_bytes() {
            return Ok(false);
        }
        // One that a power cut left unreadable counts as torn, below.
        let superblock = read_vec(&disk, place.start, place.len as usize);
        if let Ok(superblock) = superblock
            && let GateState::Closed(id) = self.driver.gate(&superblock)
        {
            return Ok(id == journal.id());
        }
        if found.device.is_some() && self.identity.device_bytes != Some(disk.len_bytes()) {
            return Ok(false);
        }
        let asked = Asked {
            target: found.path.clone(),
            partition: self.identity.partition_number,
            sector_bytes: found
                .device
                .is_none()
                .then_some(self.identity.sector_bytes as u32),
        };
        if Look::at(&asked).is_ok_and(|look| self.identity.matches(&look.identity())) {
            return Ok(true);
        }
        let standing = Standing::read(journal, &disk, self.driver)?;
        Ok(matches!(
            standing.superblock,
            Superblock::Torn | Superblock::Unreadable
        ) && (standing.rest_is_old() || standing.rest_is_new()))
    }

    /// Finds the target: where it was, or on any block device of this machine.
    fn find(&self, host: &Host) -> Result<Found, Stop> {
        let mut candidates: Vec<PathBuf> = vec![PathBuf::from(&self.identity.path)];
        if self.identity.kind == TargetKind::Device {
            let disks = host.list_disks().context("listing the block devices")?;
            candidates.extend(disks.into_iter().map(|d| d.node));
        }
        let mut found: Vec<Found> = Vec::new();
        for path in candidates {
            let Ok(one) = Found::at(host, &path) else {
                continue;
            };
            if found.iter().all(|f| f.path != one.path) && self.is_target(&one).unwrap_or(false) {
                found.push(one);
            }
        }
        match found.len() {
            1 => Ok(found.remove(0)),
            0 => Err(Stop::refused(
                "target-not-found",
                format!(
                    "no disk here is the target of transaction {}, last seen as {}",
                    self.entry.id, self.identity.path
                ),
                "attach it, or name an image that was moved: `holdfast recover TARGET`",
            )),
            _ => {
                let paths: Vec<String> =
                    found.iter().map(|f| f.path.display().to_string()).collect();
                Err(Stop::refused(
                    "several-targets",
                    format!(
                        "{} may each be the target of transaction {}",
                        paths.join(" and "),
                        self.entry.id
                    ),
                    "one is a copy of the other: detach the copy, or name the target",
                ))
            }
        }
    }

    fn named(&self, host: &Host, path: &Path) -> Result<Found, Stop> {
        let found = Found::at(host, path)?;
        if self.is_target(&found)? {
            return Ok(found);
        }
        Err(Stop::refused(
            "another-target",
            format!(
                "{} is not the target of transaction {}",
                path.display(),
                self.entry.id
            ),
            "",
        ))
    }

    /// To be called with the target held.
    fn media(&self, found: &Found) -> Result<HostMedia> {
        let plan = self.entry.summary.as_ref().map(|s| &s.plan);
        let nothing = Extent::new(0, 0);
        let image = found
            .device
            .is_none()
            .then_some(self.identity.sector_bytes as u32);
        Ok(HostMedia {
            path: found.path.clone(),
            inode: Some(FileDisk::open_read(&found.path)?.inode()?),
            image_sector_bytes: image,
            // Without the plan nobody knows what to tell the kernel; at the next boot it reads the
            // table by itself.
            node: plan.and_then(|_| found.node(self.identity.partition_number)),
            partition: plan.map_or((nothing, nothing), |p| {
                (p.partition_before(), p.partition_after())
            }),
            cached: Mutex::new(false),
            inhibitor: OnceLock::new(),
        })
    }
}

/// Recovers every hot transaction, or those of one target. One that cannot be recovered does not
/// keep the others from it.
///
/// # Errors
/// The worst of those that could not be recovered. The others are, and a notice says so.
pub fn recover(
    store: &Store,
    only: Option<&str>,
    way: Way,
    report: &dyn Report,
) -> Result<Vec<Undone>, Stop> {
    let host = Host::default();
    let (entries, path) = chosen(store, only)?;
    let gate = path.as_deref().map(|path| gate_on(&host, path));
    let gate = gate.transpose()?.flatten();
    let (mut done, mut failures) = (Vec::new(), Vec::new());
    for entry in entries {
        let id = entry.id;
        // Whatever the journal looks like: where its gate stands, there is something to do. Who gave
        // a transaction up is asked to name it again.
        let named = gate == Some(id) || (path.is_none() && only.is_some());
        let wanted = match entry.progress {
            Progress::Hot | Progress::Damaged(_) => true,
            Progress::Abandoned if !named => false,
            _ => gate == Some(id) || gated_target(&entry).is_some(),
        };
        if !wanted {
            continue;
        }
        match recover_one(store, entry, path.as_deref(), &host, way, report) {
            Ok(None) => {}
            Ok(Some(undone)) => {
                let end = if undone.applied {
                    "completed"
                } else {
                    "rolled back"
                };
                report.notice(&format!("{id} on {}: {end}", undone.target.display()));
                done.push(undone);
            }
            Err(Stop::Interrupted) => return Err(Stop::Interrupted),
            Err(stop) => failures.push(stop),
        }
    }
    if let (Some(id), Some(path), true) = (gate, &path, done.is_empty() && failures.is_empty()) {
        let message = format!(
            "transaction {id} is under way on {}, and {} does not have its journal",
            path.display(),
            store.path().display()
        );
        let hint = "name the state directory that was used, with --state-dir";
        let refusal = Refusal::new("journal-elsewhere", message, hint);
        return Err(Stop::RecoveryNeeded(Some(id), refusal));
    }
    // What was asked for was done; others were only asked whether it is theirs.
    if path.is_some() && !done.is_empty() {
        return Ok(done);
    }
    match Stop::worst(failures) {
        Some(stop) => Err(stop),
        None => Ok(done),
    }
}

/// `None`: what is at `path` is not the target of this transaction.
fn recover_one(
    store: &Store,
    entry: Entry,
    path: Option<&Path>,
    host: &Host,
    way: Way,
    report: &dyn Report,
) -> Result<Option<Undone>, Stop> {
    let case = Case::open(store, entry)?;
    let found = match path {
        Some(path) => {
            let found = Found::at(host, path)?;
            if !case.is_target(&found)? {
                return Ok(None);
            }
            found
        }
        None => case.find(host)?,
    };
    let _hold = found.hold(host, case.identity.partition_number)?;
    let media = case.media(&found)?;
    let hands = Hands {
        media: &media,
        driver: case.driver,
        report,
        now: now(),
        whole: way.whole,
    };
    let ended = case
        .dossier
        .recover(&hands, way.toward)
        .map_err(|e| explain(e, case.entry.id, &give_up(case.entry.id)))?;
    Ok(Some(Undone {
        id: case.entry.id,
        target: found.path,
        applied: ended == Recovered::Applied,
        whole: way.whole,
    }))
}

/// What `recover` was told: nothing, a transaction, or a target.
fn chosen(store: &Store, only: Option<&str>) -> Result<(Vec<Entry>, Option<PathBuf>), Stop> {
    match only {
        None => Ok((store.list()?, None)),
        Some(text) if Path::new(text).exists() => Ok((store.list()?, Some(text.into()))),
        Some(text) if text.contains('/') || !text.bytes().all(|b| b.is_ascii_hexdigit()) => {
            Err(Stop::refused(
                "no-such-target",
                format!(
                    "there is no {}, and no transaction begins so",
                    crate::units::escape(text)
                ),
                "name an image, a device, or a transaction that `holdfast status` lists",
            ))
        }
        Some(text) => Ok((vec![store.find(text)?], None)),
    }
}

/// The transaction whose gate stands on what is at `path`.
fn gate_on(host: &Host, path: &Path) -> Result<Option<TransactionId>> {
    let asked = Asked {
        target: Found::at(host, path)?.path,
        partition: None,
        sector_bytes: None,
    };
    Ok(Look::at(&asked)?.gate())
}

fn give_up(id: TransactionId) -> String {
    format!("if the target is right as it is, `holdfast abandon {id}` gives the transaction up")
}

fn named(extents: &[Extent]) -> String {
    let mut named: Vec<String> = extents.iter().take(4).map(|e| e.to_string()).collect();
    if extents.len() > named.len() {
        named.push(format!("and {} more", extents.len() - named.len()));
    }
    named.join(", ")
}

fn explain(e: RecoverError, id: TransactionId, hint: &str) -> Stop {
    match e {
        RecoverError::Changed { what, extents } => Stop::refused(
            "target-changed",
            match extents.is_empty() {
                true => what,
                false => format!("{what} ({})", named(&extents)),
            },
            format!("nothing was written; {hint}"),
        ),
        RecoverError::OtherTransaction(other) => Stop::RecoveryNeeded(
            Some(other),
            Refusal::new(
                "recovery-needed",
                format!("the gate of transaction {other} stands on the target"),
                "recover that one first",
            ),
        ),
        RecoverError::WrongState(what) => {
            Stop::refused("wrong-state", format!("{what} ({id})"), "")
        }
        RecoverError::NoSnapshot => Stop::refused("no-snapshot", e.to_string(), hint),
        RecoverError::Unreadable { ref extents } => {
            let (what, named) = (e.to_string(), named(extents));
            Stop::Failed(anyhow!(
                "{what} ({named}): nothing was written; \
                 `holdfast recover {id} --verify changed` does without them"
            ))
        }
        RecoverError::Stuck { what, extents } => Stop::Stuck { id, what, extents },
        RecoverError::Journal(e) => Stop::Failed(anyhow!(e)),
        RecoverError::Io(e) => Stop::from(anyhow!(e)),
    }
}

/// Undoes a transaction that was applied.
///
/// # Errors
/// [`Stop::Refused`] where the target has been used since, or another transaction came later.
pub fn roll_back(
    store: &Store,
    id: &str,
    target: Option<&Path>,
    report: &dyn Report,
) -> Result<Undone, Stop> {
    let host = Host::default();
    let entry = store.find(id)?;
    if let Some(later) = later_than(store, &entry)? {
        return Err(Stop::refused(
            "not-the-newest",
            format!("transaction {} came later on the same target", later.id),
            format!("roll that one back first: `holdfast rollback {}`", later.id),
        ));
    }
    let case = Case::open(store, entry)?;
    let found = match target {
        Some(path) => case.named(&host, path)?,
        None => case.find(&host)?,
    };
    let _hold = found.hold(&host, case.identity.partition_number)?;
    let media = case.media(&found)?;
    let hands = Hands {
        media: &media,
        driver: case.driver,
        report,
        now: now(),
        whole: true,
    };
    case.dossier
        .roll_back(&hands)
        .map_err(|e| explain(e, case.entry.id, "what came after it would be lost"))?;
    Ok(Undone {
        id: case.entry.id,
        target: found.path,
        applied: false,
        whole: true,
    })
}

fn later_than(store: &Store, entry: &Entry) -> Result<Option<Entry>> {
    let Some(identity) = &entry.identity else {
        return Ok(None);
    };
    let mut after = store
        .list()?
        .into_iter()
        .skip_while(|e| e.id != entry.id)
        .skip(1);
    Ok(after.find(|e| {
        matches!(e.progress, Progress::Applied | Progress::Hot)
            && e.identity.as_ref().is_some_and(|i| i.matches(identity))
    }))
}

/// Removes closed transactions: those that are named, or those that ended more than `days` ago.
///
/// Where a gate stands its journal is all that can open it. So one that was given up stays until
/// it is named, and is refused as long as its target is here with the gate on it.
///
/// # Errors
/// [`Stop::Refused`] where a named one is hot, or its gate stands.
pub fn prune(store: &Store, ids: &[String], days: u64) -> Result<Vec<TransactionId>, Stop> {
    let chosen: Vec<Entry> = if ids.is_empty() {
        let old = |e: &Entry| {
            let ended = e
                .ended
                .or(e.summary.as_ref().map(|s| s.began))
                .unwrap_or(u64::MAX);
            ended.saturating_add(days.saturating_mul(86_400)) <= now()
        };
        let closed = |e: &Entry| {
            use Progress::{Abandoned, Damaged, Hot};
            !matches!(e.progress, Hot | Abandoned | Damaged(_)) && gated_target(e).is_none()
        };
        store
            .list()?
            .into_iter()
            .filter(|e| old(e) && closed(e))
            .collect()
    } else {
        ids.iter()
            .map(|id| store.find(id))
            .collect::<Result<_, _>>()?
    };
    for entry in &chosen {
        if matches!(entry.progress, Progress::Hot | Progress::Damaged(_)) {
            return Err(Stop::refused(
                "hot-journal",
                format!(
                    "transaction {} is not finished: its journal is the only way back",
                    entry.id
                ),
                "recover it first, or give it up with `holdfast abandon`",
            ));
        }
        if let Some(path) = gated_target(entry) {
            return Err(Stop::refused(
                "hot-journal",
                format!(
                    "the gate of transaction {} stands on {}, and its journal is all that can open it",
                    entry.id,
                    path.display()
                ),
                format!("`holdfast recover {}` opens the gate", entry.id),
            ));
        }
    }
    for entry in &chosen {
        store.remove(entry.id)?;
    }
    Ok(chosen.into_iter().map(|e| e.id).collect())
}

/// Gives up a hot transaction, and with it the way back. Nothing is written to the target.
///
/// # Errors
/// [`Stop::Refused`] where it is not hot.
pub fn abandon(store: &Store, id: TransactionId) -> Result<(), Stop> {
    let entry = store.find(&id.to_string())?;
    match &entry.progress {
        Progress::Hot => {}
        Progress::Damaged(what) => {
            return Err(Stop::refused(
                "damaged-journal",
                format!("the journal of {id} cannot be read: {what}"),
                format!("remove {} by hand", store.dir_of(id).display()),
            ));
        }
        _ => {
            return Err(Stop::refused(
                "wrong-state",
                format!("transaction {id} is not hot"),
                "",
            ));
        }
    }
    // A journal that is damaged in the middle can be given up too.
    let dir = store.open_locked(id)?;
    let file = dir.open(JOURNAL_NAME).context("opening the journal")?;
    Ok(Journal::abandon(file, now()).context("closing the journal")?)
}
