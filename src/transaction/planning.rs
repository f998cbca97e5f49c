//! From a target and a wish to a plan, or to refusals. Nothing is opened for writing.

use std::time::{Duration, Instant};

use anyhow::Context;

use super::look::{Asked, Look, Volume};
use super::media::HostMedia;
use super::rehearse::Bench;
use super::stop::Stop;
use super::store::{Entry, Store, now};
use crate::disk::{DiskRead, StateDir, read_vec};
use crate::export::How;
use crate::extent::{Extent, ExtentMap};
use crate::fs::signature::{Area, tail_refusals_but};
use crate::fs::{Direction, FsError};
use crate::plan::{Facts, Forecast, Identity, Plan, Request, To, Verdict, plan};
use crate::report::{Quiet, Refusal, Report};

/// How a change is made, besides what is asked for.
pub struct Options<'a> {
    /// Where journals are kept.
    pub store: &'a Store,
    /// How overlays are exported to tools.
    pub how: How,
    /// How long a tool may make no progress.
    pub patience: Duration,
    /// Where progress goes.
    pub report: &'a dyn Report,
}

/// A plan, with what it was made from.
pub struct Planned {
    /// The target.
    pub look: Look,
    /// What came out.
    pub verdict: Verdict,
    /// Bytes in use, in the disk's coordinates.
    pub(super) used: ExtentMap,
}

/// Looks at the target and makes a plan. Nothing is written to it, nor opened for writing.
///
/// # Errors
/// [`Stop`].
pub fn make_plan(asked: &Asked, request: &Request, options: &Options<'_>) -> Result<Planned, Stop> {
    plan_at_rate(asked, request, options, probe_rate)
}

/// The same with another way to find out how fast the target reads.
pub(super) fn plan_at_rate(
    asked: &Asked,
    request: &Request,
    options: &Options<'_>,
    rate: impl Fn(&Look, &ExtentMap) -> Option<u64>,
) -> Result<Planned, Stop> {
    let look = Look::at(asked)?;
    refuse_hot(&look, options.store)?;
    let state = options.store.prepare(&look.host)?;
    let (Some(partition), Some(volume)) = (look.partition, &look.file_system) else {
        return Err(Stop::Refused(look.refusals));
    };
    let mut refusals = look.refusals.clone();
    let part = look.window(partition).context("opening the partition")?;
    let direction = request.direction;
    // What is in use may look damaged, for it changes while it is read.
    let unreadable = |e| match look.refusals.is_empty() {
        true => unreadable(e),
        false => Stop::Refused(look.refusals.clone()),
    };
    refusals.extend(
        volume
            .driver
            .refusals(&part, direction)
            .map_err(unreadable)?,
    );
    refusals.extend(odd_length(&look, request));
    refusals.extend(clock_behind(volume, now()));
    let bounds = volume.driver.bounds(&part).map_err(unreadable)?;
    let own_used = volume.driver.used(&part, &Quiet).map_err(unreadable)?;
    let mut notices = look.notices.clone();
    notices.extend(volume.driver.consequences());
    refusals.extend(state_dir_refusal(
        &look,
        options.store,
        &state,
        &mut notices,
    ));
    let used = on_disk(&look, &own_used, partition);
    let resizer_min_bytes = match request.to {
        To::Min if refusals.is_empty() => {
            Some(ask_minimum(&look, volume, &used, partition, options)?)
        }
        _ => None,
    };
    let facts = Facts {
        identity: look.identity(),
        disk_bytes: look.disk.len_bytes(),
        sector_bytes: u64::from(look.disk.geometry().logical_sector_bytes),
        table: look.chosen(),
        partition,
        file_system: &volume.observed,
        bounds: &bounds,
        resizer_min_bytes,
        used: &used,
        refusals,
        notices,
        state_free_bytes: state.free_bytes,
        state_dir: crate::units::escape(&options.store.path().to_string_lossy()),
        image_free_bytes: free_beside(&look),
        read_rate: rate(&look, &used),
        fingerprint: fingerprint(&look, partition)?,
        driver: &Asker {
            volume,
            part: &part,
            used: &own_used,
        },
    };
    let mut verdict = plan(request, &facts);
    if let Verdict::Plan(plan) = &verdict {
        let foreign = foreign_metadata(&look, plan, volume.driver.own_tail())?;
        if !foreign.is_empty() {
            verdict = Verdict::Refused(foreign);
        }
    }
    Ok(Planned {
        verdict,
        used,
        look,
    })
}

/// What a change of the end would hide or destroy: metadata of others at the end of the partition
/// as it is, as it will be, and of the disk.
fn foreign_metadata(look: &Look, plan: &Plan, own: Option<&str>) -> Result<Vec<Refusal>, Stop> {
    let disk = Extent::new(0, look.disk.len_bytes());
    let area = |extent: Extent, what: String, ends_with_table| Area {
        extent,
        what,
        ends_with_table,
    };
    let name = plan
        .partition_number
        .map_or("the file system".into(), |n| format!("partition {n}"));
    let mut areas = vec![area(
        plan.partition_before(),
        format!("{name} as it is now"),
        false,
    )];
    if disk.contains(plan.partition_after()) && plan.partition_after() != plan.partition_before() {
        areas.push(area(
            plan.partition_after(),
            format!("{name} as it will be"),
            false,
        ));
    }
    if let Some((table, _)) = look.chosen() {
        areas.push(area(disk, "the disk".into(), table.is_at_the_end()));
    }
    Ok(tail_refusals_but(&*look.disk, &areas, own)
        .context("looking for other metadata at the ends")?)
}

/// What to do about a file system that cannot be read.
pub(super) const LOOK_AT_IT: &str = "look at it with its own checker first (`e2fsck -fn` for ext, \
     `xfs_repair -n` for XFS, `chkdsk` in Windows for NTFS, `fsck.fat -n` for FAT)";

pub(super) fn unreadable(e: FsError) -> Stop {
    match e {
        FsError::Io(e) => Stop::from(anyhow::Error::from(e).context("reading the file system")),
        FsError::Corrupt(what) => Stop::refused(
            "damaged-file-system",
            format!("the file system is damaged: {what}"),
            LOOK_AT_IT,
        ),
        FsError::Unsupported(refusal) => Stop::Refused(vec![refusal]),
    }
}

/// A clock that is behind the file system: tools that compare its times with now take it for
/// damaged, or refuse it, and say nothing that helps.
fn clock_behind(volume: &Volume, now: u64) -> Option<Refusal> {
    let ahead = volume.observed.last_used?.checked_sub(now)?;
    (ahead > 0).then(|| {
        Refusal::new(
            "clock-behind",
            format!(
                "the file system was last used {} after the time that this machine's clock shows",
                crate::units::duration(ahead)
            ),
            "set the clock (`timedatectl`, or `date --set`), then try again; where the time in the \
             file system is the wrong one, mount it once and unmount it",
        )
    })
}

/// Bytes behind the last whole sector of an image are no part of the disk, and an extension would
/// bury them.
fn odd_length(look: &Look, request: &Request) -> Option<Refusal> {
    let tail = look.disk.tail_bytes();
    (tail > 0 && request.disk_bytes.is_some()).then(|| {
        Refusal::new(
            "odd-length",
            format!(
                "{} ends with {tail} bytes that are no whole sector",
                look.shown
            ),
            "find out what they are; `truncate` makes the image a whole number of sectors",
        )
    })
}

/// A target with a gate, or with a hot journal here, is not planned for.
fn refuse_hot(look: &Look, store: &Store) -> Result<(), Stop> {
    let gate = look.gate();
    // The gate at the place that the journal knows: where a power cut tore the only sector of an
    // MBR, the disk itself does not say where partitions begin, nor who it is.
    let stands = |entry: &Entry| {
        let start = entry.identity.as_ref().map(|i| i.partition_start);
        start.and_then(|start| look.gate_at(start)) == Some(entry.id)
    };
    let hot = store.hot_on(&look.identity(), stands)?;
    let id = hot.first().map(|e| e.id).or(gate);
    let Some(id) = id else { return Ok(()) };
    let here = hot.iter().any(|e| e.id == id);
    let hint = if here {
        format!("holdfast recover --state-dir {}", store.path().display())
    } else {
        "its journal is in another state directory: run `holdfast recover --state-dir DIR` with that one".into()
    };
    let message = format!(
        "transaction {id} is under way on {}: recovery comes first",
        look.shown
    );
    Err(Stop::RecoveryNeeded(
        Some(id),
        Refusal::new("recovery-needed", message, hint),
    ))
}

/// A journal must not lie on what it journals.
fn state_dir_refusal(
    look: &Look,
    store: &Store,
    state: &StateDir,
    notices: &mut Vec<String>,
) -> Option<Refusal> {
    let (device, holds) = (look.device.as_ref()?, state.device?);
    let changing = look.node.as_ref().map_or(device.number, |node| node.device);
    let shown = store.path().display();
    if holds == changing
        || (look.node.is_none() && device.partitions.iter().any(|p| p.device == holds))
    {
        return Some(Refusal::new(
            "state-dir-on-target",
            format!("the state directory {shown} lies on what is to be changed"),
            "name a directory on another file system with --state-dir",
        ));
    }
    if device.number == holds || device.partitions.iter().any(|p| p.device == holds) {
        notices.push(format!(
            "the state directory {shown} is on another partition of the same disk"
        ));
    }
    None
}

/// Bytes in use of the whole disk: those of the file system, and the table's.
fn on_disk(look: &Look, used: &ExtentMap, partition: Extent) -> ExtentMap {
    let mut map: ExtentMap = used
        .iter()
        .map(|e| Extent::new(partition.start + e.start, e.len))
        .collect();
    if let Some((table, _)) = look.chosen() {
        table
            .table_extents(look.disk.len_bytes())
            .iter()
            .for_each(|e| map.insert(e));
    }
    map
}

fn free_beside(look: &Look) -> Option<u64> {
    if look.device.is_some() {
        return None;
    }
    let stat = nix::sys::statvfs::statvfs(look.path.parent()?).ok()?;
    Some((stat.blocks_available() as u64).saturating_mul(stat.fragment_size() as u64))
}

/// Reads at most 64 MiB of what is in use past the caches, spread over the disk, against the clock.
pub(super) fn probe_rate(look: &Look, used: &ExtentMap) -> Option<u64> {
    const PIECES: usize = 64;
    let reader = HostMedia::of(look, None).reader().ok()?;
    let pieces: Vec<Extent> = used.iter().flat_map(|e| e.split(1 << 20)).collect();
    let step = pieces.len().div_ceil(PIECES).max(1);
    let mut buf = vec![0; 1 << 20];
    let (began, mut bytes) = (Instant::now(), 0);
    for piece in pieces.iter().step_by(step) {
        reader
            .read_at(piece.start, &mut buf[..piece.len as usize])
            .ok()?;
        bytes += piece.len;
    }
    let seconds = began.elapsed().as_secs_f64();
    (bytes > 0 && seconds > 0.0).then_some((bytes as f64 / seconds) as u64)
}

/// BLAKE3 of everything that a plan relies on.
pub(super) fn fingerprint(look: &Look, partition: Extent) -> Result<String, Stop> {
    let mut hasher = blake3::Hasher::new();
    // A device may have another name since.
    let identity = Identity {
        path: String::new(),
        ..look.identity()
    };
    let identity = serde_json::to_vec(&identity).context("describing the target")?;
    hasher.update(&identity);
    hasher.update(&look.disk.len_bytes().to_le_bytes());
    hasher.update(&partition.start.to_le_bytes());
    hasher.update(&partition.len.to_le_bytes());
    if let Some(table) = look.table.table() {
        hasher.update(&table.fingerprint());
    }
    if let Some(volume) = &look.file_system {
        let superblock = volume.driver.superblock();
        let bytes = read_vec(
            &*look.disk,
            partition.start + superblock.start,
            superblock.len as usize,
        );
        hasher.update(&bytes.context("reading the superblock")?);
    }
    Ok(hasher.finalize().to_hex().to_string())
}

fn ask_minimum(
    look: &Look,
    volume: &Volume,
    used: &ExtentMap,
    partition: Extent,
    options: &Options<'_>,
) -> Result<u64, Stop> {
    let scratch = scratch(options.store)?;
    let bench = Bench {
        look,
        used,
        dir: scratch.path(),
        how: options.how,
        patience: options.patience,
        report: options.report,
    };
    bench.minimum(volume, partition)
}

/// Looks at a target, and lets its own checker look at the file system, on an overlay. Returns
/// everything that is wrong with it, or in the way of a change.
///
/// # Errors
/// [`Stop`] where it could not be looked at.
pub fn check(asked: &Asked, options: &Options<'_>) -> Result<(Look, Vec<Refusal>), Stop> {
    let look = Look::at(asked)?;
    refuse_hot(&look, options.store)?;
    let mut found = look.refusals.clone();
    if let (Some(partition), Some(volume)) = (look.partition, &look.file_system) {
        let part = look.window(partition).context("opening the partition")?;
        found.extend(
            volume
                .driver
                .refusals(&part, Direction::Grow)
                .map_err(unreadable)?,
        );
        found.extend(clock_behind(volume, now()));
        // A file system that is mounted or damaged beyond reading cannot be checked.
        if found.is_empty() {
            let own_used = volume.driver.used(&part, &Quiet).map_err(unreadable)?;
            let used = on_disk(&look, &own_used, partition);
            options.store.prepare(&look.host)?;
            let scratch = scratch(options.store)?;
            let bench = Bench {
                look: &look,
                used: &used,
                dir: scratch.path(),
                how: options.how,
                patience: options.patience,
                report: options.report,
            };
            match bench.health(volume, partition) {
                Ok(()) => {}
                Err(Stop::Refused(refusals)) => found.extend(refusals),
                Err(stop) => return Err(stop),
            }
        }
    }
    Ok((look, found))
}

/// A private directory that is gone when it is dropped, beside the transactions.
pub(super) fn scratch(store: &Store) -> anyhow::Result<tempfile::TempDir> {
    tempfile::Builder::new()
        .prefix("rehearsal-")
        .tempdir_in(store.path())
        .with_context(|| format!("creating a directory in {}", store.path().display()))
}

struct Asker<'a> {
    volume: &'a Volume,
    part: &'a dyn DiskRead,
    used: &'a ExtentMap,
}

impl Forecast for Asker<'_> {
    fn fit(&self, bytes: u64) -> u64 {
        self.volume.driver.fit(self.part, bytes).unwrap_or(0)
    }
    fn delta_bytes(&self, bytes: u64) -> u64 {
        self.volume
            .driver
            .delta_estimate(self.part, self.used, bytes)
            .unwrap_or(u64::MAX >> 4)
    }
    fn is_about_change(&self, code: &str) -> bool {
        self.volume.driver.is_about_change(code)
    }
}
