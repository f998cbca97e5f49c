//! What stands against a resize: features that are not handled, and states in which nobody should
//! touch a file system.

use crate::disk::DiskRead;
use crate::fs::{Direction, FsError, GateState};
use crate::report::Refusal;

use super::feature::{self, Feature, Features};
use super::gate;
use super::groups::{self, Groups, read_blocks};
use super::replay;
use super::superblock::{STATE_ERROR, STATE_VALID, Superblock};
use crate::fs::bytes::u32_at;

/// The features with which a resize is known to work.
const HANDLED: &[Feature] = &[
    feature::HAS_JOURNAL,
    feature::EXT_ATTR,
    feature::RESIZE_INODE,
    feature::DIR_INDEX,
    feature::FAST_COMMIT,
    feature::STABLE_INODES,
    feature::ORPHAN_FILE,
    feature::FILETYPE,
    feature::NEEDS_RECOVERY,
    feature::EXTENT,
    feature::META_BG,
    feature::BIT64,
    feature::MMP,
    feature::FLEX_BG,
    feature::EA_INODE,
    feature::METADATA_CSUM_SEED,
    feature::LARGE_DIR,
    feature::INLINE_DATA,
    feature::ENCRYPT,
    feature::CASEFOLD,
    feature::SPARSE_SUPER,
    feature::LARGE_FILE,
    feature::HUGE_FILE,
    feature::UNINIT_BG,
    feature::DIR_NLINK,
    feature::EXTRA_ISIZE,
    feature::QUOTA,
    feature::METADATA_CSUM,
    feature::PROJECT,
    feature::VERITY,
    feature::ORPHAN_PRESENT,
];

/// Features that are refused by name, with the code and the reason. Both have been tried on many
/// images, with the refusal taken out:
///
/// - `bigalloc`: resize2fs itself refuses it unless it is given `-f`, and that option silences its
///   other refusals as well.
/// - `sparse_super2`: resize2fs 1.47.0 leaves the backup superblock in the last group, or the blocks
///   of one that was moved, marked wrongly in the bitmap. The check of the result finds that, so
///   nothing was ever lost by it; but five of nine tries ended so, after the whole rehearsal.
const REFUSED: &[(Feature, &str, &str)] = &[
    (
        feature::BIGALLOC,
        "ext-bigalloc",
        "resize2fs itself warns that resizing clusters is at one's own risk",
    ),
    (
        feature::SPARSE_SUPER2,
        "ext-sparse-super2",
        "resize2fs does not keep its backup superblocks and the bitmaps in step",
    ),
];

const MAX_BLOCK_BYTES: u64 = 4096;
const MAX_REVISION: u32 = 1;
const CREATOR_LINUX: u32 = 0;
const MMP_MAGIC: u32 = 0x004d_4d50;
const MMP_CLEAN: u32 = 0xff4d_4d50;
const BAD_BLOCKS_INODE: u64 = 1;

const CHECK_HINT: &str = "unmount it and run `e2fsck -f` on it";

/// Everything that stands against a resize, the gravest first.
///
/// # Errors
/// [`FsError::Corrupt`] where a structure that decides cannot be believed, [`FsError::Io`].
pub fn refusals(
    part: &dyn DiskRead,
    sb: &Superblock,
    direction: Direction,
) -> Result<Vec<Refusal>, FsError> {
    if let Some(refusal) = groups::journal_device(sb) {
        return Ok(vec![refusal]);
    }
    if let GateState::Closed(id) = gate::state(sb.raw.as_slice()) {
        return Ok(vec![Refusal::new(
            "ext-gated",
            format!("transaction {id} did not end: the file system is half-way between two states"),
            "run `holdfast recover` first",
        )]);
    }
    let mut found = Vec::new();
    found.extend(unknown(sb));
    found.extend(features(sb, direction));
    found.extend(state(sb));
    let larger = groups::larger_than(part, sb);
    // What lies in blocks can be looked at only where the format is known and the blocks exist.
    let readable = found.is_empty() && larger.is_none();
    found.extend(larger);
    if readable {
        found.extend(mmp(part, sb)?);
        found.extend(bad_blocks(part, sb)?);
        found.extend(journal(part)?);
    }
    Ok(found)
}

/// Bits that have no meaning here, or one that nothing was tried with.
fn unknown(sb: &Superblock) -> Option<Refusal> {
    let known = |f: &&Feature| REFUSED.iter().any(|(refused, _, _)| refused == *f);
    let mut left = sb.features;
    for feature in HANDLED.iter().chain(feature::NAMED.iter().filter(known)) {
        let word = match feature.word {
            feature::Word::Compat => &mut left.compat,
            feature::Word::Incompat => &mut left.incompat,
            feature::Word::RoCompat => &mut left.ro_compat,
        };
        *word &= !feature.mask;
    }
    (left != Features::default()).then(|| {
        Refusal::new(
            "ext-unknown-feature",
            format!("features that are not handled: {}", left.names().join(", ")),
            "a resize might destroy what they stand for; use the tools that made this file system",
        )
    })
}

fn features(sb: &Superblock, direction: Direction) -> Vec<Refusal> {
    let mut found: Vec<Refusal> = REFUSED
        .iter()
        .filter(|(feature, _, _)| sb.has(*feature))
        .map(|(feature, code, why)| {
            let message = format!("the file system has the feature {}: {why}", feature.name);
            Refusal::new(code, message, "")
        })
        .collect();
    if sb.has(feature::STABLE_INODES) && direction == Direction::Shrink {
        found.push(Refusal::new(
            "ext-stable-inodes",
            "the file system has the feature stable_inodes: inode numbers are part of its \
             encryption, and a shrink renumbers inodes",
            "it can only grow",
        ));
    }
    if sb.has(feature::HAS_JOURNAL) && (sb.journal_device != 0 || sb.journal_inode == 0) {
        let uuid = super::superblock::uuid_text(&sb.journal_uuid);
        found.push(Refusal::new(
            "ext-external-journal",
            format!("its journal is on another device, UUID {uuid}"),
            "a rehearsal cannot include that device; take the journal into the file system with \
             `tune2fs -O ^has_journal` and `tune2fs -j` on the unmounted file system",
        ));
    }
    if sb.block_bytes > MAX_BLOCK_BYTES {
        found.push(Refusal::new(
            "ext-block-size",
            format!(
                "blocks of {} bytes; up to {MAX_BLOCK_BYTES} are handled",
                sb.block_bytes
            ),
            "",
        ));
    }
    let creator = u32_at(sb.raw.as_slice(), 0x48);
    if sb.revision > MAX_REVISION || creator != CREATOR_LINUX {
        found.push(Refusal::new(
            "ext-foreign",
            format!(
                "revision {} made by operating system {creator}; revisions 0 and 1 made by Linux (0) are handled",
                sb.revision
            ),
            "",
        ));
    }
    found
}

fn state(sb: &Superblock) -> Option<Refusal> {
    if sb.state & STATE_ERROR != 0 {
        return Some(Refusal::new(
            "ext-errors",
            format!(
                "the kernel found errors in this file system ({} counted)",
                sb.error_count
            ),
            CHECK_HINT,
        ));
    }
    (sb.state & STATE_VALID == 0 && !sb.has(feature::NEEDS_RECOVERY)).then(|| {
        Refusal::new(
            "ext-not-clean",
            "the file system was not unmounted cleanly and has no journal to replay, or it is \
             mounted now",
            CHECK_HINT,
        )
    })
}

/// A journal that waits for replay must be one that can be followed.
fn journal(part: &dyn DiskRead) -> Result<Option<Refusal>, FsError> {
    match replay::waiting(part) {
        Ok(_) => Ok(None),
        Err(FsError::Unsupported(refusal)) => Ok(Some(refusal)),
        Err(e) => Err(e),
    }
}

fn mmp(part: &dyn DiskRead, sb: &Superblock) -> Result<Option<Refusal>, FsError> {
    if !sb.has(feature::MMP) {
        return Ok(None);
    }
    let block = read_blocks(part, sb, sb.mmp_block, 1)?;
    let (magic, sequence) = (u32_at(&block, 0), u32_at(&block, 4));
    if magic == MMP_MAGIC && sequence == MMP_CLEAN {
        return Ok(None);
    }
    let node: Vec<u8> = block
        .iter()
        .skip(16)
        .take(64)
        .copied()
        .take_while(|&b| b != 0)
        .collect();
    let node = crate::units::escape_bytes(&node);
    Ok(Some(Refusal::new(
        "ext-mmp-active",
        format!(
            "its multiple-mount protection (block {}, magic {magic:#x}, sequence {sequence:#x}) \
             says that a host has it in use; the last one was `{node}`",
            sb.mmp_block
        ),
        "make sure that no host has it mounted, then `tune2fs -f -E clear_mmp`",
    )))
}

/// Blocks that were found bad are listed in inode 1. They cannot be moved, and a medium that has
/// them is about to fail.
fn bad_blocks(part: &dyn DiskRead, sb: &Superblock) -> Result<Option<Refusal>, FsError> {
    let groups = Groups::read(part, sb)?;
    let Some(group) = groups.get(0) else {
        return Ok(None);
    };
    let at = (BAD_BLOCKS_INODE - 1) * u64::from(sb.inode_bytes);
    let table = read_blocks(part, sb, group.inode_table, 1)?;
    let inode = table.get(at as usize..).unwrap_or_default();
    let sectors = u32_at(inode, 0x1c);
    Ok((sectors != 0).then(|| {
        Refusal::new(
            "ext-bad-blocks",
            format!("the file system lists bad blocks ({sectors} sectors in inode 1)"),
            "the medium is failing, or once was: copy the data to another one",
        )
    }))
}
