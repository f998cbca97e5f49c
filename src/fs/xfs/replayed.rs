//! What the kernel's replay of the log may have changed.
//!
//! A replay writes metadata, never the content of a file. All metadata of version 5 says what it
//! is, where it is and whose it is, and has a checksum. So each block that differs must be such
//! metadata after the replay, or be free then, or belong to the log. A file's content that happens
//! to be all that does not exist.

use crate::disk::{DiskRead, read_vec};
use crate::extent::{Extent, ExtentMap};
use crate::fs::{Difference, FsError};
use crate::report::{Quiet, Report, checkpoint};

use super::fields::Fields;
use super::superblock::{Superblock, superblock_of};
use super::used::used;

/// At most `limit` differences that a replay does not explain.
///
/// # Errors
/// [`FsError`] where the state after the replay cannot be read.
pub fn only_replayed(
    before: &dyn DiskRead,
    after: &dyn DiskRead,
    changed: &ExtentMap,
    limit: usize,
    report: &dyn Report,
) -> Result<Vec<Difference>, FsError> {
    let (was, sb) = (superblock_of(before)?, superblock_of(after)?);
    let mut found = Vec::new();
    if !super::log::is_clean(after, &sb)? {
        found.push(difference(
            "journal",
            "log",
            "it is not clean after the replay",
        ));
    }
    if (was.blocks, was.uuid, was.log) != (sb.blocks, sb.uuid, sb.log) {
        found.push(difference(
            "superblock",
            "superblock",
            "it is another file system",
        ));
        return Ok(found);
    }
    if sb.directory_blocks != 1 {
        // Only the first block of such a directory says what it is.
        let what = "a replay cannot be followed where directories have blocks of their own size";
        found.push(difference("replay-differs", "file system", what));
        return Ok(found);
    }
    let in_use = used(after, &sb, &Quiet)?;
    let whole = Extent::new(0, sb.size_bytes());
    for piece in changed.iter() {
        let Some(inside) = piece.intersection(whole) else {
            let what = format!("{piece} lies behind the file system, and was written");
            found.push(difference("write-outside", "file system", &what));
            continue;
        };
        let start = inside.start - inside.start % sb.block_bytes;
        let end = inside
            .end()
            .next_multiple_of(sb.block_bytes)
            .min(whole.end());
        for block in Extent::from_range(start, end).split(sb.block_bytes) {
            checkpoint(report).map_err(std::io::Error::from)?;
            if found.len() >= limit.max(1) {
                return Ok(found);
            }
            if sb.log.contains(block) || !in_use.intersects(block) {
                continue;
            }
            let old = read_vec(before, block.start, block.len as usize)?;
            let new = read_vec(after, block.start, block.len as usize)?;
            if old != new && !explained(&sb, block.start, &old, &new) {
                let what = "it was changed by the replay, and is no metadata";
                found.push(difference(
                    "replay-differs",
                    &format!("the block at {}", block.start),
                    what,
                ));
            }
        }
    }
    Ok(found)
}

fn difference(code: &str, object: &str, detail: &str) -> Difference {
    Difference {
        code: code.into(),
        object: object.into(),
        detail: detail.into(),
    }
}

/// Whether all that differs in a block is metadata of this file system, in its place.
fn explained(sb: &Superblock, at: u64, old: &[u8], new: &[u8]) -> bool {
    let group_bytes = sb.group_blocks * sb.block_bytes;
    let in_group = at % group_bytes;
    if in_group < 4 * sb.sector_bytes {
        // The headers of a group, which are read as such elsewhere. Nothing lies behind them.
        let heads = (4 * sb.sector_bytes).saturating_sub(in_group) as usize;
        return old.get(heads..) == new.get(heads..);
    }
    if Fields(new).u16(0) == 0x494e {
        return inodes(sb, at, old, new);
    }
    if Fields(new).u16(0) == 0x4451 {
        return quotas(sb, old, new);
    }
    block(sb, at, new)
}

/// Inodes: each that differs is one, with its number.
fn inodes(sb: &Superblock, at: u64, old: &[u8], new: &[u8]) -> bool {
    let size = sb.inode_bytes as usize;
    let fields = sb.fields();
    let (per_block, group_log) = (u32::from(fields.u8(123)), u32::from(fields.u8(124)));
    let block = at / sb.block_bytes;
    let (group, in_group) = (block / sb.group_blocks, block % sb.group_blocks);
    let first = ((group << group_log) + in_group) << per_block;
    old.chunks(size)
        .zip(new.chunks(size))
        .zip(first..)
        .all(|((old, new), number)| {
            let fields = Fields(new);
            old == new
                || fields.u16(0) == 0x494e
                    && fields.u8(4) == 3
                    && fields.u64(152) == number
                    && fields.uuid(160) == sb.meta_uuid
                    && fields.checksum_fits(100)
        })
}

/// Records of a quota.
fn quotas(sb: &Superblock, old: &[u8], new: &[u8]) -> bool {
    const RECORD: usize = 136;
    old.chunks(RECORD)
        .zip(new.chunks(RECORD))
        .all(|(old, new)| {
            let fields = Fields(new);
            old == new
                || new.len() == RECORD
                    && fields.u16(0) == 0x4451
                    && fields.uuid(120) == sb.meta_uuid
                    && fields.checksum_fits(108)
        })
}

/// Any other block: by its magic number, where its checksum, its place and the UUID are.
fn block(sb: &Superblock, at: u64, new: &[u8]) -> bool {
    let fields = Fields(new);
    let (crc, place, uuid) = match &fields.u32(0).to_be_bytes() {
        b"AB3B" | b"AB3C" | b"RMB3" | b"R3FC" | b"IAB3" | b"FIB3" => (52, 16, 32),
        b"BMA3" => (64, 24, 40),
        b"XDD3" | b"XDB3" | b"XDF3" => (4, 8, 24),
        b"XSLM" | b"XARM" => (12, 40, 16),
        _ => match fields.u16(8) {
            // Nodes and leaves of directories and of attributes.
            0x3ebe | 0x3df1 | 0x3dff | 0x3bee => (12, 16, 32),
            _ => return false,
        },
    };
    fields.checksum_fits(crc) && fields.u64(place) == at / 512 && fields.uuid(uuid) == sb.meta_uuid
}
