//! Snapshots on their own: taken, and compared with what a target holds now.

use std::path::Path;

use anyhow::{Context, anyhow};
use serde::Serialize;

use super::look::Look;
use super::media::HostMedia;
use super::stop::Stop;
use crate::disk::{Dir, HostDir};
use crate::extent::{Extent, ExtentMap};
use crate::plan::Identity;
use crate::report::{Refusal, Report};
use crate::snapshot::{CHUNK_BYTES, Manifest, ManifestError, phase};

/// Files that are named before the list is cut.
const NAMED: usize = 100;

/// A snapshot that was taken.
#[derive(Clone, Debug, Serialize)]
pub struct Taken {
    /// Bytes that it covers.
    pub bytes: u64,
    /// Chunks that it covers.
    pub chunks: usize,
    /// Its root hash.
    pub root: String,
    /// Whether it was read through the page cache.
    pub cached: bool,
}

/// What a verification found.
#[derive(Clone, Debug, Serialize)]
pub struct Compared {
    /// Bytes that were compared.
    pub bytes: u64,
    /// Number of the first chunk that differs.
    pub first_chunk: Option<u64>,
    /// What differs.
    pub extents: Vec<Extent>,
    /// The files and structures there.
    pub owners: Vec<String>,
    /// Whether there are more of them.
    pub more_owners: bool,
    /// Whether it was read through the page cache.
    pub cached: bool,
}

/// Takes a snapshot of what the file system on the target uses, and writes it to `file`.
///
/// # Errors
/// [`Stop`].
pub fn take(look: &Look, file: &Path, report: &dyn Report) -> Result<Taken, Stop> {
    let used = used(look, report)?;
    let media = HostMedia::of(look, None);
    media
        .settle()
        .context("dropping the page cache of the target")?;
    let reader = media.reader().context("opening the target")?;
    let identity = serde_json::to_string(&look.identity()).context("describing the target")?;
    phase(report, "snapshot", &used);
    let manifest = Manifest::take(&reader, &used, CHUNK_BYTES, &identity, report)
        .context("reading the target")?;
    write(&manifest, file).with_context(|| format!("writing {}", file.display()))?;
    Ok(Taken {
        bytes: used.total_bytes(),
        chunks: manifest.chunks.len(),
        root: manifest.root().iter().map(|b| format!("{b:02x}")).collect(),
        cached: media.was_cached(),
    })
}

fn used(look: &Look, report: &dyn Report) -> Result<ExtentMap, Stop> {
    let (Some(partition), Some(volume)) = (look.partition, &look.file_system) else {
        return Err(Stop::Refused(look.refusals.clone()));
    };
    let part = look.window(partition).context("opening the partition")?;
    let used = volume
        .driver
        .used(&part, report)
        .context("finding out what is in use")?;
    Ok(used
        .iter()
        .map(|e| Extent::new(partition.start + e.start, e.len))
        .collect())
}

/// Writes beside the file and renames: a file that was there stays whole until the new one is.
fn write(manifest: &Manifest, file: &Path) -> anyhow::Result<()> {
    let name = file
        .file_name()
        .and_then(|n| n.to_str())
        .ok_or_else(|| anyhow!("not a file's name"))?;
    let parent = file
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let dir = HostDir::open(parent)?;
    let unfinished = format!(".{name}.{}", std::process::id());
    manifest.write(&*dir.create(&unfinished)?)?;
    dir.rename(&unfinished, name)?;
    // Barrier: a snapshot that is reported as taken must be found after a power cut.
    dir.flush()?;
    Ok(())
}

/// Compares the target with a snapshot.
///
/// # Errors
/// [`Stop::Refused`] where the file is no snapshot, or one of another target.
pub fn verify(look: &Look, file: &Path, report: &dyn Report) -> Result<Compared, Stop> {
    let stored = std::fs::read(file).with_context(|| format!("reading {}", file.display()))?;
    let manifest = Manifest::decode(&stored).map_err(|e| match e {
        ManifestError::Io(e) => {
            Stop::from(anyhow!(e).context(format!("reading {}", file.display())))
        }
        e => Stop::refused(
            "bad-manifest",
            format!("{}: {e}", file.display()),
            "take a new snapshot",
        ),
    })?;
    let identity: Option<Identity> = serde_json::from_str(&manifest.identity).ok();
    if !identity.is_some_and(|i| i.matches(&look.identity())) {
        return Err(Stop::Refused(vec![Refusal::new(
            "another-target",
            format!(
                "{} is a snapshot of something else than {}",
                file.display(),
                look.shown
            ),
            "name the target that it was taken of",
        )]));
    }
    let media = HostMedia::of(look, None);
    media
        .settle()
        .context("dropping the page cache of the target")?;
    let reader = media.reader().context("opening the target")?;
    phase(report, "comparing", &manifest.extents);
    let extents = manifest
        .compare(&reader, report)
        .context("reading the target")?;
    let mut owners = owners(look, &extents);
    let more_owners = owners.len() > NAMED;
    owners.truncate(NAMED);
    Ok(Compared {
        bytes: manifest.extents.total_bytes(),
        first_chunk: extents.first().map(|e| e.start / manifest.chunk_bytes),
        extents,
        owners,
        more_owners,
        cached: media.was_cached(),
    })
}

/// Whose bytes these are. A file system that is too damaged to say so says that instead.
fn owners(look: &Look, extents: &[Extent]) -> Vec<String> {
    let (Some(partition), Some(volume)) = (look.partition, &look.file_system) else {
        return Vec::new();
    };
    let inside: ExtentMap = extents
        .iter()
        .filter_map(|e| e.intersection(partition))
        .map(|e| Extent::new(e.start - partition.start, e.len))
        .collect();
    if inside.is_empty() {
        return Vec::new();
    }
    let found = look
        .window(partition)
        .map_err(crate::fs::FsError::Io)
        .and_then(|part| volume.driver.owners(&part, &inside, NAMED + 1));
    found.unwrap_or_else(|e| vec![format!("(the owners cannot be found: {e})")])
}
