//! ext2, ext3 and ext4.
//!
//! What the driver promises:
//!
//! 1. No byte of a partition makes it panic, loop or take memory beyond what the size of the
//!    device allows. What does not fit together is [`FsError::Corrupt`] with the field's name.
//! 2. [`Driver::used`] has every byte that the file system can reach. Where that is not certain it
//!    has more, never less.
//! 3. Checksums are verified wherever the format has them, before what they cover is believed.
//! 4. A gate that [`Driver::close_gate`] made is refused by the kernel, e2fsck and resize2fs, and
//!    [`Driver::gate`] reads its transaction back.
//!
//! What it does not do: it repairs nothing and chooses no sizes; the stock tools do, on an
//! overlay. It writes nothing but a replay of the journal onto an overlay, which is compared with
//! the tools' and then thrown away. It does not judge a file system sound: e2fsck does.
//!
//! Reading order: [`superblock`], [`layout`] and [`groups`] are the format's frame; [`bitmap`] and
//! [`used`] say what is in use; [`refuse`], [`bounds`] and [`gate`] decide; [`jbd2`], [`replay`] and
//! [`orphan`] are about file systems that were not unmounted.

pub mod bitmap;
pub mod bounds;
pub mod compare;
pub mod dir;
pub mod feature;
pub mod forecast;
pub mod gate;
pub mod groups;
pub mod inline;
pub mod inode;
pub mod jbd2;
pub mod layout;
pub mod map;
pub mod orphan;
pub mod owners;
pub mod reader;
pub mod refuse;
pub mod replay;
pub mod superblock;
pub mod tools;
pub mod used;
pub mod walk;
pub mod xattr;

use std::path::Path;

use crate::disk::{Disk, DiskRead};
use crate::extent::{Extent, ExtentMap};
use crate::report::{Refusal, Report};

use self::groups::Groups;
use self::superblock::{STATE_ERROR, SUPERBLOCK_BYTES, SUPERBLOCK_OFFSET, Superblock};
use super::tool::{ToolError, Tools};
use super::{
    Bounds, Difference, Direction, Driver, FsError, GateState, Observed, Orphan, Owner,
    TransactionId,
};

/// The driver for ext2, ext3 and ext4.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ext;

impl Driver for Ext {
    fn name(&self) -> &'static str {
        "ext"
    }

    fn probe(&self, part: &dyn DiskRead) -> Result<Option<Observed>, FsError> {
        Ok(Superblock::read(part)?.map(|sb| observe(&sb)))
    }

    fn refusals(&self, part: &dyn DiskRead, direction: Direction) -> Result<Vec<Refusal>, FsError> {
        refuse::refusals(part, &superblock_of(part)?, direction)
    }

    fn bounds(&self, part: &dyn DiskRead) -> Result<Bounds, FsError> {
        let sb = superblock_of(part)?;
        bounds::bounds(&sb, &Groups::read(part, &sb)?)
    }

    fn used(&self, part: &dyn DiskRead, report: &dyn Report) -> Result<ExtentMap, FsError> {
        let sb = superblock_of(part)?;
        used::used(part, &sb, &Groups::read(part, &sb)?, report)
    }

    fn superblock(&self) -> Extent {
        Extent::new(SUPERBLOCK_OFFSET, SUPERBLOCK_BYTES as u64)
    }

    fn close_gate(&self, superblock: &[u8], id: TransactionId) -> Result<Vec<u8>, FsError> {
        gate::close(superblock, id)
    }

    fn gate(&self, superblock: &[u8]) -> GateState {
        gate::state(superblock)
    }

    fn replay(&self, part: &dyn Disk) -> Result<(), FsError> {
        replay::replay(part)
    }

    fn orphans(&self, part: &dyn DiskRead) -> Result<Vec<Orphan>, FsError> {
        orphan::named(part)
    }

    fn only_replayed(
        &self,
        before: &dyn DiskRead,
        after: &dyn DiskRead,
        changed: &ExtentMap,
        limit: usize,
        report: &dyn Report,
    ) -> Result<Vec<Difference>, FsError> {
        compare::only_replayed(before, after, changed, limit, report)
    }

    fn prepare(
        &self,
        file: &Path,
        observed: &Observed,
        tools: &Tools<'_>,
    ) -> Result<(), ToolError> {
        if observed.needs_replay {
            let has_orphan_file = observed.features.iter().any(|name| name == "orphan_file");
            tools::replay(file, has_orphan_file, tools)?;
        }
        tools::prepare(file, tools)
    }

    fn only_prepared(
        &self,
        before: &dyn DiskRead,
        after: &dyn DiskRead,
        changed: &ExtentMap,
    ) -> Result<Vec<Difference>, FsError> {
        compare::only_stamped(before, after, changed)
    }

    fn resize(&self, file: &Path, new_bytes: u64, tools: &Tools<'_>) -> Result<(), ToolError> {
        tools::resize(file, new_bytes, tools)
    }

    fn verify(&self, file: &Path, tools: &Tools<'_>) -> Result<(), ToolError> {
        tools::verify(file, tools)
    }

    fn known_faults(
        &self,
        observed: &Observed,
        direction: Direction,
        new_bytes: u64,
        tools: &Tools<'_>,
    ) -> Result<(Vec<Refusal>, Vec<String>), ToolError> {
        let job = tools::Job {
            features: &observed.features,
            direction,
            block_bytes: observed.block_bytes,
            new_bytes,
        };
        let (mut refusals, mut notices) = (Vec::new(), Vec::new());
        for fault in tools::known_faults(tools::version(tools)?, &job) {
            match fault {
                tools::Fault::Refused(refusal) => refusals.push(refusal),
                tools::Fault::Notice(notice) => notices.push(notice),
            }
        }
        Ok((refusals, notices))
    }

    fn minimum(
        &self,
        file: &Path,
        observed: &Observed,
        tools: &Tools<'_>,
    ) -> Result<u64, ToolError> {
        tools::minimum(file, observed.block_bytes, tools)
    }

    fn fit(&self, part: &dyn DiskRead, bytes: u64) -> Result<u64, FsError> {
        Ok(forecast::fit(&superblock_of(part)?, bytes))
    }

    fn delta_estimate(
        &self,
        part: &dyn DiskRead,
        used: &ExtentMap,
        bytes: u64,
    ) -> Result<u64, FsError> {
        let sb = superblock_of(part)?;
        // A journal that cannot be read is refused elsewhere; here it counts as nothing.
        let copies = replay::waiting(part).map_or(0, |found| found.blocks.len() as u64);
        let replayed = copies.saturating_mul(sb.block_bytes);
        Ok(forecast::delta_bytes(&sb, used, bytes).saturating_add(replayed))
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

    fn owned(
        &self,
        part: &dyn DiskRead,
        extents: &ExtentMap,
        limit: usize,
    ) -> Result<Vec<Owner>, FsError> {
        owners::owned(part, extents, limit)
    }
}

/// The superblock of what is known to be an ext file system.
///
/// # Errors
/// [`FsError::Corrupt`] where there is none, else as [`Superblock::read`].
pub fn superblock_of(part: &dyn DiskRead) -> Result<Superblock, FsError> {
    Superblock::read(part)?
        .ok_or_else(|| FsError::Corrupt("there is no ext superblock at byte 1024".into()))
}

fn observe(sb: &Superblock) -> Observed {
    let gate = match gate::state(sb.raw.as_slice()) {
        GateState::Closed(id) => Some(id),
        GateState::Open | GateState::Invalid => None,
    };
    // Behind the gate the file system is what it was.
    let mut features = sb.features;
    if gate.is_some() {
        features.incompat &= !gate::GATE_MASK;
    }
    Observed {
        kind: features.kind().into(),
        uuid: sb.uuid_text(),
        label: String::from_utf8_lossy(&sb.label).into_owned(),
        block_bytes: sb.block_bytes,
        size_bytes: sb.size_bytes(),
        used_bytes: sb
            .blocks
            .saturating_sub(sb.free_blocks)
            .saturating_mul(sb.block_bytes),
        files: u64::from(sb.inodes).saturating_sub(sb.free_inodes.into()),
        features: features.names(),
        notes: notes(sb, gate),
        needs_replay: sb.has(feature::NEEDS_RECOVERY),
        last_used: Some(sb.mount_time.max(sb.write_time)),
        gate,
    }
}

fn notes(sb: &Superblock, gate: Option<TransactionId>) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some(id) = gate {
        notes.push(format!("closed by the gate of transaction {id}"));
    }
    if sb.has(feature::NEEDS_RECOVERY) {
        notes.push("its journal waits for replay".into());
    }
    if sb.last_orphan != 0 || sb.has(feature::ORPHAN_PRESENT) {
        notes.push("files that were deleted while open wait to be freed".into());
    }
    if sb.state & STATE_ERROR != 0 {
        notes.push("the kernel found errors in it".into());
    } else if sb.error_count != 0 {
        notes.push(format!("{} errors since its last check", sb.error_count));
    }
    if sb.has(feature::MMP) {
        notes.push(format!(
            "protected against multiple mounts, every {} s",
            sb.mmp_interval
        ));
    }
    notes
}
