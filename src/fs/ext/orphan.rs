//! Orphans: files that were deleted while somebody had them open, and files of which a part was
//! being cut off. The next replay ends what was begun.
//!
//! Two lists. The older one is a chain: `s_last_orphan` is its first inode, `i_dtime` of each is
//! the next. The newer one (`orphan_file`) is a file of inode numbers; each block of it ends with
//! a magic number and a checksum, and `orphan_present` says that there may be some.
//!
//! A chain ends with an error where it leads to a reserved inode, beyond the last one, or back.

use std::collections::{BTreeMap, BTreeSet};

use crate::disk::DiskRead;
use crate::fs::{FsError, Orphan};
use crate::report::Quiet;
use crate::units::escape_bytes;

use super::feature;
use super::inode::Inode;
use super::map::{Map, Piece};
use super::walk::{Table, Volume};
use crate::fs::bytes::u32_at;
use crate::fs::crc::crc32c;

const FILE_MAGIC: u32 = 0x0b10_ca04;
const FILE_TAIL_BYTES: usize = 8;

/// All orphans, in the order of their inodes.
///
/// # Errors
/// [`FsError::Corrupt`] where a list breaks the rules above; [`FsError::Io`].
pub fn list(volume: &Volume<'_>) -> Result<BTreeMap<u32, Inode>, FsError> {
    let mut found = BTreeMap::new();
    let mut table = Table::new(volume);
    let mut next = volume.sb.last_orphan;
    while next != 0 {
        let inode = orphan(volume, &mut table, next)?;
        let after = inode.dtime;
        if found.insert(next, inode).is_some() {
            return Err(FsError::Corrupt(format!(
                "the list of orphans leads back to inode {next}"
            )));
        }
        next = after;
    }
    if volume.sb.has(feature::ORPHAN_PRESENT) {
        for number in in_file(volume, &mut table)? {
            let inode = orphan(volume, &mut table, number)?;
            found.insert(number, inode);
        }
    }
    Ok(found)
}

fn orphan(volume: &Volume<'_>, table: &mut Table<'_>, number: u32) -> Result<Inode, FsError> {
    if number < volume.sb.first_inode || number > volume.sb.inodes {
        return Err(FsError::Corrupt(format!(
            "the list of orphans names inode {number}"
        )));
    }
    Ok(table.get(number)?.0)
}

/// The numbers in the orphan file.
fn in_file(volume: &Volume<'_>, table: &mut Table<'_>) -> Result<BTreeSet<u32>, FsError> {
    let number = volume.sb.orphan_file_inode;
    let mut found = BTreeSet::new();
    if number == 0 || !volume.sb.has(feature::ORPHAN_FILE) {
        return Ok(found);
    }
    let (inode, _) = table.get(number)?;
    let seed = inode.seed(volume.sb.checksum_seed, number);
    let mut map = Map::new(volume, number, &inode)?;
    while let Some(piece) = map.next_piece()? {
        let Piece::Run(run) = piece else { continue };
        for block in run.physical..run.physical + run.len {
            let bytes = volume.block(block)?;
            let (entries, tail) = bytes.split_at(bytes.len() - FILE_TAIL_BYTES);
            let sum = crc32c(crc32c(seed, &block.to_le_bytes()), entries);
            let fits = !volume.has_checksums() || sum == u32_at(tail, 4);
            if u32_at(tail, 0) != FILE_MAGIC || !fits {
                return Err(FsError::Corrupt(format!(
                    "block {block} of the orphan file"
                )));
            }
            let numbers = entries.as_chunks::<4>().0.iter();
            found.extend(numbers.map(|raw| u32::from_le_bytes(*raw)));
        }
    }
    found.remove(&0);
    Ok(found)
}

/// The orphans of the file system on `part`, for people. Those that still have a name are called
/// by it.
///
/// # Errors
/// As [`list`].
pub fn named(part: &dyn DiskRead) -> Result<Vec<Orphan>, FsError> {
    let volume = Volume::open(part)?;
    let found = list(&volume)?;
    let cut = found.iter().filter(|(_, inode)| inode.links > 0);
    let wanted: BTreeSet<u32> = cut.map(|(&number, _)| number).collect();
    let paths = volume.paths(&wanted, &Quiet)?;
    let named = found.iter().map(|(number, inode)| Orphan {
        object: paths
            .get(number)
            .map_or_else(|| format!("inode {number}"), |path| escape_bytes(path)),
        size_bytes: inode.size,
        links: inode.links.into(),
    });
    Ok(named.collect())
}
