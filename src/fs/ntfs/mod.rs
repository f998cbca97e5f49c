//! NTFS.
//!
//! What the driver promises:
//!
//! 1. No byte of a partition makes it panic, loop or take memory beyond what the size of the
//!    device allows. What does not fit together is [`FsError::Corrupt`] with the record's number.
//! 2. [`Driver::used`] has every cluster that $Bitmap has, and the backups of the boot sector.
//! 3. A gate that [`Driver::close_gate`] made is refused by the kernel, ntfs-3g, ntfsresize and
//!    ntfsfix, and none of them looks for the backup; [`Driver::gate`] reads its transaction back.
//!
//! What it does not do: it repairs nothing, and replays no journal: Windows does, and until it has
//! the volume is refused. After a resize the volume is marked as dirty, by ntfsresize, such that
//! Windows checks it when it sees it next. That is as it should be, and a plan says so.
//!
//! Reading order: [`boot`], [`record`], [`runs`] and [`inode`] are the format; [`volume`] finds
//! records and reads content; [`used`], [`refuse`] and [`gate`] decide; [`compare`] is the judge.

pub mod boot;
pub mod compare;
pub mod gate;
pub mod inode;
pub mod log;
pub mod names;
pub mod owners;
pub mod record;
pub mod refuse;
pub mod runs;
pub mod tools;
pub mod used;
pub mod volume;

use std::path::Path;

use crate::disk::{Disk, DiskRead, read_vec};
use crate::extent::{Extent, ExtentMap};
use crate::report::{Refusal, Report};

use self::boot::{BOOT_BYTES, Boot};
use self::inode::utf16;
use self::record::kind;
use self::volume::{Volume, file};
use super::tool::{ToolError, Tools};
use super::{
    Bounds, Difference, Direction, Driver, FsError, GateState, Observed, Orphan, TransactionId,
};

/// The driver for NTFS.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ntfs;

impl Driver for Ntfs {
    fn name(&self) -> &'static str {
        "ntfs"
    }

    fn probe(&self, part: &dyn DiskRead) -> Result<Option<Observed>, FsError> {
        match Boot::read(part)? {
            Some(boot) => observe(part, &boot).map(Some),
            None => Ok(None),
        }
    }

    fn refusals(&self, part: &dyn DiskRead, _: Direction) -> Result<Vec<Refusal>, FsError> {
        if let GateState::Closed(id) = gate::state(&read_vec(part, 0, BOOT_BYTES)?) {
            return Ok(vec![Refusal::new(
                "ntfs-gated",
                format!("transaction {id} did not end: the volume is half-way between two states"),
                "run `holdfast recover` first",
            )]);
        }
        refuse::refusals(&Volume::open(part)?)
    }

    fn bounds(&self, part: &dyn DiskRead) -> Result<Bounds, FsError> {
        used::bounds(&Volume::open(part)?)
    }

    fn used(&self, part: &dyn DiskRead, report: &dyn Report) -> Result<ExtentMap, FsError> {
        used::used(&Volume::open(part)?, report)
    }

    fn superblock(&self) -> Extent {
        Extent::new(0, BOOT_BYTES as u64)
    }

    fn close_gate(&self, superblock: &[u8], id: TransactionId) -> Result<Vec<u8>, FsError> {
        gate::close(superblock, id)
    }

    fn gate(&self, superblock: &[u8]) -> GateState {
        gate::state(superblock)
    }

    fn replay(&self, _: &dyn Disk) -> Result<(), FsError> {
        Err(FsError::Corrupt(
            "the journal of NTFS is not replayed here".into(),
        ))
    }

    fn orphans(&self, _: &dyn DiskRead) -> Result<Vec<Orphan>, FsError> {
        Ok(Vec::new())
    }

    fn only_replayed(
        &self,
        _: &dyn DiskRead,
        _: &dyn DiskRead,
        _: &ExtentMap,
        _: usize,
        _: &dyn Report,
    ) -> Result<Vec<Difference>, FsError> {
        Err(FsError::Corrupt(
            "the journal of NTFS is not replayed here".into(),
        ))
    }

    fn prepare(&self, file: &Path, _: &Observed, tools: &Tools<'_>) -> Result<(), ToolError> {
        tools::check(file, tools)
    }

    fn only_prepared(
        &self,
        _: &dyn DiskRead,
        _: &dyn DiskRead,
        changed: &ExtentMap,
    ) -> Result<Vec<Difference>, FsError> {
        let first = changed.iter().next();
        let found = first.map(|extent| Difference {
            code: "check-repaired".into(),
            object: "the volume".into(),
            detail: format!("the check wrote to it, first at {extent}"),
        });
        Ok(found.into_iter().collect())
    }

    fn resize(&self, file: &Path, new_bytes: u64, tools: &Tools<'_>) -> Result<(), ToolError> {
        tools::resize(file, new_bytes, tools)
    }

    fn verify(&self, file: &Path, tools: &Tools<'_>) -> Result<(), ToolError> {
        tools::verify(file, tools)
    }

    fn known_faults(
        &self,
        _: &Observed,
        _: Direction,
        _: u64,
        tools: &Tools<'_>,
    ) -> Result<(Vec<Refusal>, Vec<String>), ToolError> {
        Ok(tools::known_faults(tools::version(tools)?))
    }

    fn minimum(
        &self,
        file: &Path,
        observed: &Observed,
        tools: &Tools<'_>,
    ) -> Result<u64, ToolError> {
        tools::minimum(file, observed.size_bytes, tools)
    }

    fn fit(&self, part: &dyn DiskRead, bytes: u64) -> Result<u64, FsError> {
        Ok(Volume::open(part)?.boot.fit(bytes))
    }

    fn delta_estimate(
        &self,
        part: &dyn DiskRead,
        used: &ExtentMap,
        bytes: u64,
    ) -> Result<u64, FsError> {
        used::delta_estimate(&Volume::open(part)?, used, bytes)
    }

    fn compare(
        &self,
        before: &dyn DiskRead,
        after: &dyn DiskRead,
        changed: &ExtentMap,
        limit: usize,
        report: &dyn Report,
    ) -> Result<Vec<Difference>, FsError> {
        compare::compare(before, after, changed, limit, report)
    }

    fn owners(
        &self,
        part: &dyn DiskRead,
        extents: &ExtentMap,
        limit: usize,
    ) -> Result<Vec<String>, FsError> {
        owners::owners(&Volume::open(part)?, extents, limit)
    }

    fn consequences(&self) -> Vec<String> {
        vec![
            "afterwards the volume is marked as dirty and its journal is empty: Windows checks it \
             (chkdsk) when it sees it next, which takes a while and is as it should be; until then \
             a further resize is refused"
                .into(),
        ]
    }

    fn own_tail(&self) -> Option<&'static str> {
        Some("NTFS backup boot sector")
    }

    fn is_about_change(&self, code: &str) -> bool {
        [
            "ntfs-dirty",
            "ntfs-hibernated",
            "ntfs-log-open",
            "ntfs-work-pending",
            "ntfs-bad-sectors",
        ]
        .contains(&code)
    }
}

fn observe(part: &dyn DiskRead, boot: &Boot) -> Result<Observed, FsError> {
    let gate = match gate::state(&read_vec(part, 0, BOOT_BYTES)?) {
        GateState::Closed(id) => Some(id),
        GateState::Open | GateState::Invalid => None,
    };
    let mut observed = Observed {
        kind: "ntfs".into(),
        uuid: format!("{:016X}", boot.serial),
        label: String::new(),
        block_bytes: boot.cluster_bytes,
        size_bytes: used::size_bytes(part, boot)?,
        used_bytes: 0,
        files: 0,
        features: Vec::new(),
        notes: Vec::new(),
        needs_replay: false,
        // ntfsresize does not compare times with the clock.
        last_used: None,
        gate,
    };
    match (look_inside(part, &mut observed), gate) {
        (Ok(()), _) => {}
        // Behind a gate things need not fit together.
        (Err(FsError::Corrupt(_)), Some(_)) => {}
        (Err(e), _) => return Err(e),
    }
    if let Some(id) = gate {
        let text = format!("closed by the gate of transaction {id}");
        observed.notes.insert(0, text);
    }
    Ok(observed)
}

fn look_inside(part: &dyn DiskRead, observed: &mut Observed) -> Result<(), FsError> {
    let volume = Volume::open(part)?;
    let inode = volume.inode(file::VOLUME)?;
    let label = inode.attribute(kind::VOLUME_NAME, "");
    observed.label = utf16(label.and_then(|a| a.value()).unwrap_or_default());
    let information = refuse::information(&volume)?;
    observed.features = vec![format!("{}.{}", information.major, information.minor)];
    if information.flags & refuse::DIRTY != 0 {
        let text = "marked as dirty: Windows checks it when it sees it next";
        observed.notes.push(text.into());
    }
    observed.files = volume
        .bits(file::MFT, kind::BITMAP)?
        .count(volume.records)?;
    let clusters = volume.boot.clusters;
    let in_use = volume.bits(file::BITMAP, kind::DATA)?.count(clusters)?;
    observed.used_bytes = in_use.saturating_mul(volume.boot.cluster_bytes);
    Ok(())
}
