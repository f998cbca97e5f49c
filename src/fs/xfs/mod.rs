//! XFS.
//!
//! What the driver promises:
//!
//! 1. No byte of a partition makes it panic, loop or take memory beyond what the size of the
//!    device allows. What does not fit together is [`FsError::Corrupt`] with the structure's name.
//! 2. [`Driver::used`] has every byte that the file system can reach. Where the log is not clean,
//!    what is free is not certain: then that is all of it.
//! 3. Checksums are verified before what they cover is believed; version 4, which has none, is
//!    refused.
//! 4. A gate that [`Driver::close_gate`] made is refused by the kernel and xfs_repair, and
//!    [`Driver::gate`] reads its transaction back.
//! 5. A growth moves nothing. So [`Driver::compare`] needs no file: every byte that was in use is
//!    the same, but for those of the structures that a growth rewrites, and these are read.
//!
//! What it does not do: it writes nothing. The kernel replays the log and grows the file system,
//! mounted from an overlay ([`super::mount`]). It does not judge a file system sound: xfs_repair
//! does.
//!
//! Reading order: [`superblock`], [`group`] and [`tree`] are the format's frame; [`used`] says what
//! is in use; [`refuse`], [`size`] and [`gate`] decide; [`inode`] and [`owners`] give names; [`log`] and [`replayed`] are about file
//! systems that were not unmounted; [`compare`] judges.

pub mod compare;
pub mod fields;
pub mod gate;
pub mod group;
pub mod inode;
pub mod log;
pub mod owners;
pub mod refuse;
pub mod replayed;
pub mod size;
pub mod superblock;
pub mod tools;
pub mod tree;
pub mod used;

use std::path::Path;

use crate::disk::{Disk, DiskRead};
use crate::extent::{Extent, ExtentMap};
use crate::report::{Refusal, Report};

use self::superblock::{Superblock, superblock_of};
use super::tool::{ToolError, Tools};
use super::{
    Bounds, Difference, Direction, Driver, FsError, GateState, Observed, Orphan, TransactionId,
};

/// Superblock and headers of the first group: where sectors have 512 bytes it is four of them,
/// where they have 4096 it is the superblock's alone.
const SUPERBLOCK_BYTES: u64 = 4096;

/// The driver for XFS.
#[derive(Clone, Copy, Debug, Default)]
pub struct Xfs;

impl Driver for Xfs {
    fn name(&self) -> &'static str {
        "xfs"
    }

    fn probe(&self, part: &dyn DiskRead) -> Result<Option<Observed>, FsError> {
        match Superblock::read(part)? {
            Some(sb) => observe(part, &sb).map(Some),
            None => Ok(None),
        }
    }

    fn refusals(&self, part: &dyn DiskRead, direction: Direction) -> Result<Vec<Refusal>, FsError> {
        let sb = Superblock::read(part)?;
        Ok(sb.map_or(Vec::new(), |sb| refuse::refusals(part, &sb, direction)))
    }

    fn bounds(&self, part: &dyn DiskRead) -> Result<Bounds, FsError> {
        Ok(size::bounds(&superblock_of(part)?))
    }

    fn used(&self, part: &dyn DiskRead, report: &dyn Report) -> Result<ExtentMap, FsError> {
        let sb = superblock_of(part)?;
        match log::is_clean(part, &sb)? {
            true => used::used(part, &sb, report),
            false => Ok([Extent::new(0, sb.size_bytes())].into_iter().collect()),
        }
    }

    fn superblock(&self) -> Extent {
        Extent::new(0, SUPERBLOCK_BYTES)
    }

    fn close_gate(&self, superblock: &[u8], id: TransactionId) -> Result<Vec<u8>, FsError> {
        gate::close(superblock, id)
    }

    fn gate(&self, superblock: &[u8]) -> GateState {
        gate::state(superblock)
    }

    fn has_own_replay(&self) -> bool {
        false
    }

    fn replay(&self, _: &dyn Disk) -> Result<(), FsError> {
        Err(FsError::Unsupported(Refusal::new(
            "xfs-log-not-clean",
            "its log waits for replay, which only the kernel can do",
            "mount the file system once and unmount it",
        )))
    }

    fn orphans(&self, _: &dyn DiskRead) -> Result<Vec<Orphan>, FsError> {
        // The kernel ends them with the replay, and which there are is in the log.
        Ok(Vec::new())
    }

    fn only_replayed(
        &self,
        before: &dyn DiskRead,
        after: &dyn DiskRead,
        changed: &ExtentMap,
        limit: usize,
        report: &dyn Report,
    ) -> Result<Vec<Difference>, FsError> {
        replayed::only_replayed(before, after, changed, limit, report)
    }

    fn prepare(
        &self,
        file: &Path,
        observed: &Observed,
        tools: &Tools<'_>,
    ) -> Result<(), ToolError> {
        if observed.needs_replay {
            tools::replay(tools)?;
        }
        tools::check(file, tools)
    }

    fn only_prepared(
        &self,
        _: &dyn DiskRead,
        _: &dyn DiskRead,
        changed: &ExtentMap,
    ) -> Result<Vec<Difference>, FsError> {
        // xfs_repair -n writes nothing at all.
        Ok(changed.iter().next().map_or(Vec::new(), |first| {
            vec![Difference {
                code: "check-repaired".into(),
                object: "file system".into(),
                detail: format!("the check wrote to it, first at {first}"),
            }]
        }))
    }

    fn resize(&self, _: &Path, new_bytes: u64, tools: &Tools<'_>) -> Result<(), ToolError> {
        tools::grow(new_bytes, tools)
    }

    fn verify(&self, file: &Path, tools: &Tools<'_>) -> Result<(), ToolError> {
        tools::check(file, tools)
    }

    fn known_faults(
        &self,
        observed: &Observed,
        _: Direction,
        _: u64,
        tools: &Tools<'_>,
    ) -> Result<(Vec<Refusal>, Vec<String>), ToolError> {
        let refusal = tools::too_old(tools::version(tools)?, &observed.features);
        Ok((refusal.into_iter().collect(), Vec::new()))
    }

    fn minimum(&self, _: &Path, observed: &Observed, _: &Tools<'_>) -> Result<u64, ToolError> {
        Ok(observed.size_bytes)
    }

    fn fit(&self, part: &dyn DiskRead, bytes: u64) -> Result<u64, FsError> {
        let sb = superblock_of(part)?;
        Ok(size::fit(&sb, bytes).saturating_mul(sb.block_bytes))
    }

    fn delta_estimate(
        &self,
        part: &dyn DiskRead,
        _: &ExtentMap,
        bytes: u64,
    ) -> Result<u64, FsError> {
        let sb = superblock_of(part)?;
        let replayed = match log::is_clean(part, &sb)? {
            true => 0,
            // What waits is at most what fits into the log, and the log itself is cleared.
            false => sb.log.len.saturating_mul(2),
        };
        Ok(size::delta_bytes(&sb, bytes).saturating_add(replayed))
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
        owners::owners(part, extents, limit)
    }
}

fn observe(part: &dyn DiskRead, sb: &Superblock) -> Result<Observed, FsError> {
    let gate = match gate::state(&sb.raw) {
        GateState::Closed(id) => Some(id),
        GateState::Open | GateState::Invalid => None,
    };
    // Behind the gate the file system is what it was.
    let mut shown = sb.clone();
    if gate.is_some() {
        shown.incompat &= !gate::BIT;
    }
    let inside = sb.log.end() <= part.len_bytes();
    let needs_replay = inside && !sb.log.is_empty() && !log::is_clean(part, sb)?;
    let mut notes = Vec::new();
    if let Some(id) = gate {
        notes.push(format!("closed by the gate of transaction {id}"));
    }
    if needs_replay {
        notes.push("its log waits for replay".into());
    }
    let fields = sb.fields();
    Ok(Observed {
        kind: "xfs".into(),
        uuid: sb.uuid_text(),
        label: sb.label(),
        block_bytes: sb.block_bytes,
        size_bytes: sb.size_bytes(),
        used_bytes: sb
            .blocks
            .saturating_sub(sb.free_blocks())
            .saturating_mul(sb.block_bytes),
        files: fields.u64(128).saturating_sub(fields.u64(136)),
        features: shown.feature_names(),
        notes,
        needs_replay,
        last_used: None,
        gate,
    })
}
