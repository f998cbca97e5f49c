//! The superblock and the group descriptors: what a resize may change of the primary ones, and
//! that the backups say the same.
//!
//! [`MAY_CHANGE`] is what `resize2fs` changes (its source, and seen with 1.47.0 over the tests'
//! matrix); most of it has a check of its own. Everything else, named or reserved, is equal.
//!
//! When `resize2fs` is done it writes each backup from the primary. So a backup is equal to it
//! byte for byte, but for three fields: `s_block_group_nr` is its own group, `s_state` has not the
//! bit "unmounted properly", and the checksum. All copies of the descriptors are equal without
//! exception. Only where nothing was resized a backup may be older: the kernel writes none.

use std::ops::Range;

use crate::disk::read_vec;
use crate::fs::FsError;

use super::super::feature::{self, Feature};
use super::super::groups::read_blocks;
use super::super::inode::BLOCK_FIELD;
use super::super::superblock::{STATE_VALID, SUPERBLOCK_BYTES, SUPERBLOCK_OFFSET, Superblock};
use super::super::walk::{Table, Volume};
use super::{Findings, Object, Work};
use crate::fs::bytes::{u8_at, u16_at};

/// A field of the superblock that a resize may change.
struct May {
    bytes: Range<usize>,
    /// Only with this feature.
    needs: Option<Feature>,
}

const MAY_CHANGE: &[May] = &[
    // Inodes, blocks, reserved and free blocks, free inodes; with their upper halves. The reader
    // checks that they fit each other, `scales` the reserved ones, e2fsck the free ones.
    May {
        bytes: 0x00..0x14,
        needs: None,
    },
    May {
        bytes: 0x150..0x15c,
        needs: None,
    },
    // The last write.
    May {
        bytes: 0x30..0x34,
        needs: None,
    },
    May {
        bytes: 0x274..0x275,
        needs: None,
    },
    // s_reserved_gdt_blocks: `reserved_descriptors`.
    May {
        bytes: 0xce..0xd0,
        needs: Some(feature::RESIZE_INODE),
    },
    // s_jnl_backup_type and s_jnl_blocks: `journal_backup`.
    May {
        bytes: 0xfd..0xfe,
        needs: Some(feature::HAS_JOURNAL),
    },
    May {
        bytes: 0x10c..0x150,
        needs: Some(feature::HAS_JOURNAL),
    },
    // s_kbytes_written, a statistic.
    May {
        bytes: 0x178..0x180,
        needs: None,
    },
    // s_overhead_clusters: `overhead`.
    May {
        bytes: 0x248..0x24c,
        needs: None,
    },
    // s_backup_bgs: the last group is one of the two.
    May {
        bytes: 0x24c..0x254,
        needs: Some(feature::SPARSE_SUPER2),
    },
    May {
        bytes: 0x3fc..0x400,
        needs: Some(feature::METADATA_CSUM),
    },
];

/// The same for what ends a replay, and stamps it. No count changes but those of free blocks and
/// inodes.
const MAY_CHANGE_IN_REPLAY: &[May] = &[
    // Free blocks and inodes.
    May {
        bytes: 0x0c..0x14,
        needs: None,
    },
    May {
        bytes: 0x158..0x15c,
        needs: None,
    },
    // The last write.
    May {
        bytes: 0x30..0x34,
        needs: None,
    },
    May {
        bytes: 0x274..0x275,
        needs: None,
    },
    // The last check, and the mounts since then.
    May {
        bytes: 0x34..0x36,
        needs: None,
    },
    May {
        bytes: 0x40..0x44,
        needs: None,
    },
    May {
        bytes: 0x277..0x278,
        needs: None,
    },
    // s_last_orphan: `only_replayed` sees to it that there are none.
    May {
        bytes: 0xe8..0xec,
        needs: None,
    },
    // s_jnl_backup_type and s_jnl_blocks: `journal_backup`.
    May {
        bytes: 0xfd..0xfe,
        needs: None,
    },
    May {
        bytes: 0x10c..0x150,
        needs: None,
    },
    // s_kbytes_written.
    May {
        bytes: 0x178..0x180,
        needs: None,
    },
    May {
        bytes: 0x3fc..0x400,
        needs: Some(feature::METADATA_CSUM),
    },
];

/// The byte of `s_feature_ro_compat` with the bit `orphan_present`, which a replay takes away.
const ORPHAN_PRESENT: (usize, u8) = (0x66, 1);

/// Names of fields, for messages, by their first byte; each goes on to the next.
const NAMES: &[(usize, &str)] = &[
    (0x00, "counts"),
    (0x14, "first data block"),
    (0x18, "block size"),
    (0x1c, "cluster size"),
    (0x20, "blocks per group"),
    (0x24, "clusters per group"),
    (0x28, "inodes per group"),
    (0x2c, "mount time"),
    (0x30, "write time"),
    (0x34, "mount count"),
    (0x36, "maximum mount count"),
    (0x38, "magic"),
    (0x3a, "state"),
    (0x3c, "behaviour on errors"),
    (0x3e, "minor revision"),
    (0x40, "time of the last check"),
    (0x44, "check interval"),
    (0x48, "creator's system"),
    (0x4c, "revision"),
    (0x50, "default owner"),
    (0x54, "first inode"),
    (0x58, "inode size"),
    (0x5a, "block group"),
    (0x5c, "compatible features"),
    (0x60, "incompatible features"),
    (0x64, "read-only features"),
    (0x68, "UUID"),
    (0x78, "label"),
    (0x88, "last mount point"),
    (0xc8, "compression"),
    (0xcc, "preallocation"),
    (0xce, "reserved descriptor blocks"),
    (0xd0, "journal UUID"),
    (0xe0, "journal inode"),
    (0xe4, "journal device"),
    (0xe8, "orphan list"),
    (0xec, "hash seed"),
    (0xfc, "hash version"),
    (0xfd, "kind of journal backup"),
    (0xfe, "descriptor size"),
    (0x100, "default mount options"),
    (0x104, "first meta group"),
    (0x108, "creation time"),
    (0x10c, "journal backup"),
    (0x150, "upper counts"),
    (0x15c, "extra inode size"),
    (0x160, "flags"),
    (0x164, "stride"),
    (0x166, "multiple-mount protection"),
    (0x170, "stripe width"),
    (0x174, "groups per flex group"),
    (0x175, "checksum type"),
    (0x176, "encryption level"),
    (0x178, "kilobytes written"),
    (0x180, "snapshot"),
    (0x194, "errors"),
    (0x200, "mount options"),
    (0x240, "quota inodes"),
    (0x248, "overhead"),
    (0x24c, "backup groups"),
    (0x254, "encryption"),
    (0x268, "lost+found inode"),
    (0x26c, "project quota inode"),
    (0x270, "checksum seed"),
    (0x274, "upper times"),
    (0x27a, "errors"),
    (0x27c, "encoding"),
    (0x280, "orphan file inode"),
    (0x284, "reserved bytes"),
    (0x3fc, "checksum"),
];

const STATE: Range<usize> = 0x3a..0x3c;
const GROUP_NUMBER: Range<usize> = 0x5a..0x5c;
const CHECKSUM: Range<usize> = 0x3fc..0x400;
const BATCH_BYTES: u64 = 1 << 20;

/// Compares the superblocks, and the backups of `after` with its primary ones. Whether the two are
/// alike enough to compare files: of one shape, and with the same features.
///
/// # Errors
/// Where either cannot be read.
pub fn compare(
    before: &Volume<'_>,
    after: &Volume<'_>,
    work: &Work,
    findings: &mut Findings,
) -> Result<bool, FsError> {
    let (old, new) = (&before.sb, &after.sb);
    let replayed = work.ending().is_some();
    let may_change = match replayed {
        true => MAY_CHANGE_IN_REPLAY,
        false => MAY_CHANGE,
    };
    let mut differing = Vec::new();
    for (at, (a, b)) in old.raw.iter().zip(new.raw.iter()).enumerate() {
        let may = may_change
            .iter()
            .any(|may| may.bytes.contains(&at) && may.needs.is_none_or(|f| new.has(f)));
        let a = match at == ORPHAN_PRESENT.0 && replayed {
            true => &(a & !ORPHAN_PRESENT.1),
            false => a,
        };
        if a != b && !may && differing.last() != Some(&field_name(at)) {
            differing.push(field_name(at));
        }
    }
    for name in &differing {
        findings.add(primary(), "superblock", format!("the {name} differs"));
    }
    scales(old, new, findings);
    reserved_descriptors(old, new, findings);
    overhead(old, new, findings);
    journal_backup(before, after, findings)?;
    surroundings(before, after, findings)?;
    backups(before, after, findings)?;
    let shape = |sb: &Superblock| {
        let mut features = sb.features;
        features.ro_compat &= !feature::ORPHAN_PRESENT.mask;
        (
            sb.block_bytes,
            sb.cluster_bytes,
            sb.inode_bytes,
            sb.inodes_per_group,
            sb.blocks_per_group,
            features,
        )
    };
    Ok(shape(old) == shape(new))
}

fn primary() -> Object {
    Object::Named("superblock".into())
}

fn field_name(at: usize) -> &'static str {
    let next = NAMES.partition_point(|&(start, _)| start <= at);
    next.checked_sub(1)
        .and_then(|n| NAMES.get(n))
        .map_or("superblock", |&(_, name)| name)
}

/// The blocks for root are the same share of the file system; a rounded one.
fn scales(old: &Superblock, new: &Superblock, findings: &mut Findings) {
    let expected =
        u128::from(old.reserved_blocks) * u128::from(new.blocks) / u128::from(old.blocks).max(1);
    if u128::from(new.reserved_blocks).abs_diff(expected) > 1 {
        findings.add(
            primary(),
            "superblock",
            format!(
                "{} of {} blocks were reserved, now it is {} of {}, not {expected}",
                old.reserved_blocks, old.blocks, new.reserved_blocks, new.blocks
            ),
        );
    }
}

/// The descriptors and the blocks reserved for more of them take the same room together.
fn reserved_descriptors(old: &Superblock, new: &Superblock, findings: &mut Findings) {
    if !new.has(feature::RESIZE_INODE) {
        return;
    }
    let room = u64::from(old.reserved_gdt_blocks) + old.descriptor_blocks();
    let rest = room.saturating_sub(new.descriptor_blocks());
    let expected = match old.descriptor_blocks() == new.descriptor_blocks() {
        true => rest,
        false => rest.min(new.block_bytes / 4),
    };
    if u64::from(new.reserved_gdt_blocks) != expected {
        findings.add(
            primary(),
            "superblock",
            format!(
                "{} reserved descriptor blocks became {}, not {expected}",
                old.reserved_gdt_blocks, new.reserved_gdt_blocks
            ),
        );
    }
}

/// The resizer forgets the overhead, and the kernel counts it again at the next mount.
fn overhead(old: &Superblock, new: &Superblock, findings: &mut Findings) {
    let (old, new) = (old.overhead_clusters, new.overhead_clusters);
    if new != 0 && new != old {
        findings.add(
            primary(),
            "superblock",
            format!("an overhead of {old} clusters became {new}"),
        );
    }
}

/// The superblock's copy of the journal's map is that of the journal as it is now.
fn journal_backup(
    before: &Volume<'_>,
    after: &Volume<'_>,
    findings: &mut Findings,
) -> Result<(), FsError> {
    let (old, new) = (before.sb.raw.as_slice(), after.sb.raw.as_slice());
    const KIND: usize = 0xfd;
    let copy = new.get(0x10c..0x150).unwrap_or(&[]);
    let is_unchanged = old.get(0x10c..0x150) == Some(copy) && u8_at(old, KIND) == u8_at(new, KIND);
    let has_journal = after.sb.has(feature::HAS_JOURNAL) && after.sb.journal_inode != 0;
    if !has_journal || (is_unchanged && u8_at(new, KIND) == 0) {
        return Ok(());
    }
    let mut table = Table::new(after);
    let (_, raw) = table.get(after.sb.journal_inode)?;
    let fields = [BLOCK_FIELD, 108..112, 4..8].map(|range| raw.get(range).unwrap_or(&[]));
    if u8_at(new, KIND) != 1 || fields.concat() != copy {
        findings.add(
            primary(),
            "superblock",
            "the backup of the journal's map is not the journal's map",
        );
    }
    Ok(())
}

/// What is around the superblock is not the file system's: a boot loader may be there.
fn surroundings(
    before: &Volume<'_>,
    after: &Volume<'_>,
    findings: &mut Findings,
) -> Result<(), FsError> {
    let end = SUPERBLOCK_OFFSET + SUPERBLOCK_BYTES as u64;
    let first_block_end = after.sb.block_bytes.max(end);
    for range in [0..SUPERBLOCK_OFFSET, end..first_block_end] {
        let len = (range.end - range.start) as usize;
        let read = |volume: &Volume<'_>| read_vec(volume.part, range.start, len);
        if read(before)? != read(after)? {
            findings.add(
                Object::Named("boot block".into()),
                "boot-block",
                format!(
                    "bytes {}..{}, beside the superblock, differ",
                    range.start, range.end
                ),
            );
        }
    }
    Ok(())
}

/// All backups in `after`.
fn backups(
    before: &Volume<'_>,
    after: &Volume<'_>,
    findings: &mut Findings,
) -> Result<(), FsError> {
    let sb = &after.sb;
    for group in 1..sb.group_count() {
        if let Some(block) = sb.superblock_block(group) {
            let raw = read_vec(after.part, block * sb.block_bytes, SUPERBLOCK_BYTES)?;
            if let Some(name) = backup_difference(sb, group, &raw)
                && !is_left_alone(before, after, block)?
            {
                findings.add(
                    Object::Named(format!("superblock backup of group {group}")),
                    "backup-superblock",
                    format!("the {name} is not that of the primary superblock"),
                );
            }
        }
    }
    let batch = BATCH_BYTES / sb.block_bytes;
    let mut index = 0;
    while index < sb.descriptor_blocks() {
        let mut count = 1;
        while count < batch
            && index + count < sb.descriptor_blocks()
            && sb.descriptor_block(index + count) == sb.descriptor_block(index) + count
        {
            count += 1;
        }
        descriptor_backups(before, after, index, count, findings)?;
        index += count;
    }
    Ok(())
}

/// The name of the first field in which a backup is not what the primary makes it.
pub fn backup_difference(sb: &Superblock, group: u64, raw: &[u8]) -> Option<&'static str> {
    let mut expected = sb.raw.to_vec();
    let mut put = |range: Range<usize>, value: Option<&[u8]>| {
        if let (Some(to), Some(from)) = (expected.get_mut(range), value) {
            to.copy_from_slice(from);
        }
    };
    let state = u16_at(raw, STATE.start);
    if state == u16_at(sb.raw.as_slice(), STATE.start) & !STATE_VALID {
        put(STATE, raw.get(STATE));
    }
    put(GROUP_NUMBER, Some(&(group as u16).to_le_bytes()));
    // The parser checks a checksum, where there is one: the same field may not hide damage.
    if matches!(Superblock::parse(raw), Ok(Some(_))) && sb.has(feature::METADATA_CSUM) {
        put(CHECKSUM, raw.get(CHECKSUM));
    }
    let at = expected.iter().zip(raw).position(|(a, b)| a != b)?;
    Some(field_name(at))
}

/// The backups of `count` blocks of descriptors from `index` on, which lie together.
fn descriptor_backups(
    before: &Volume<'_>,
    after: &Volume<'_>,
    index: u64,
    count: u64,
    findings: &mut Findings,
) -> Result<(), FsError> {
    let sb = &after.sb;
    let start = sb.descriptor_block(index);
    let per_block = sb.descriptors_per_block();
    let descriptor = sb.descriptor_bytes as usize;
    // What follows the last descriptor in its block is nobody's.
    let described = (sb.group_count() - index * per_block).min(count * per_block) as usize;
    let bytes = read_blocks(after.part, sb, start, count)?;
    let primary = bytes.get(..described * descriptor).unwrap_or(&bytes);
    for group in 1..sb.group_count() {
        let area = sb.descriptor_area(group);
        let block = match sb.meta_descriptor_block(group) {
            Some(block) if sb.descriptor_index(group) == index && block != start => block,
            _ if area.start + index + count <= area.end => area.start + index,
            _ => continue,
        };
        let backup = read_blocks(after.part, sb, block, count)?;
        let Some(at) = primary.iter().zip(&backup).position(|(a, b)| a != b) else {
            continue;
        };
        if is_left_alone(before, after, block)? {
            continue;
        }
        let of = index * per_block + (at / descriptor) as u64;
        findings.add(
            Object::Named(format!("descriptor backup of group {group}")),
            "backup-descriptors",
            format!(
                "byte {} of the descriptor of group {of} is not that of the primary one",
                at % descriptor
            ),
        );
    }
    Ok(())
}

/// Whether nothing was resized, and a block is what it was before.
fn is_left_alone(before: &Volume<'_>, after: &Volume<'_>, block: u64) -> Result<bool, FsError> {
    if before.sb.blocks != after.sb.blocks {
        return Ok(false);
    }
    Ok(before.block(block)? == after.block(block)?)
}
