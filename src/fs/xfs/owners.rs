//! Who owns which bytes: structures by name, files by path.
//!
//! Metadata says whose it is. For a file's content all inodes are gone through, and for its path
//! all directories, once for each level: that is slow, and happens only where something is wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use crate::disk::{DiskRead, read_vec};
use crate::extent::{Extent, ExtentMap};
use crate::fs::FsError;
use crate::units::escape_bytes;

use super::fields::Fields;
use super::inode::{self, Fork};
use super::superblock::{Superblock, superblock_of};
use super::tree::Kind;

/// Levels of directories that are gone up.
const DEEPEST: usize = 64;

/// Who owns some bytes, and the code of a difference in them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// As in [`crate::fs::Difference`].
    pub code: &'static str,
    /// A path, or the name of a structure.
    pub object: String,
}

/// What a block says of itself.
enum Claim {
    Structure(&'static str, String),
    Inode(&'static str, u64),
    /// Nothing: it is content.
    Content,
}

/// The owner of each of these pieces, none of which is larger than a block.
///
/// # Errors
/// Where the file system cannot be read.
pub fn name(
    part: &dyn DiskRead,
    sb: &Superblock,
    pieces: &[Extent],
) -> Result<Vec<Owner>, FsError> {
    let mut claims = Vec::new();
    for piece in pieces {
        claims.push(claim(part, sb, *piece)?);
    }
    let wanted: Vec<usize> = (0..claims.len())
        .filter(|&n| matches!(claims[n], Claim::Content))
        .collect();
    if !wanted.is_empty() {
        let map: ExtentMap = wanted.iter().map(|&n| pieces[n]).collect();
        for (extent, code, number) in holders(part, sb, &map)? {
            for &n in wanted
                .iter()
                .filter(|&&n| extent.intersection(pieces[n]).is_some())
            {
                claims[n] = Claim::Inode(code, number);
            }
        }
    }
    let numbers = claims.iter().filter_map(|claim| match claim {
        Claim::Inode(_, number) => Some(*number),
        _ => None,
    });
    let paths = paths(part, sb, numbers.collect())?;
    let named = claims
        .into_iter()
        .zip(pieces)
        .map(|(claim, piece)| match claim {
            Claim::Structure(code, object) => Owner { code, object },
            Claim::Inode(code, number) => Owner {
                code,
                object: match paths.get(&number) {
                    Some(path) => path.clone(),
                    None => format!("inode {number}"),
                },
            },
            Claim::Content => {
                let block = piece.start / sb.block_bytes;
                let (group, block) = (block / sb.group_blocks, block % sb.group_blocks);
                Owner {
                    code: "file-content",
                    object: format!("block {block} of group {group}"),
                }
            }
        });
    Ok(named.collect())
}

fn claim(part: &dyn DiskRead, sb: &Superblock, piece: Extent) -> Result<Claim, FsError> {
    let number = piece.start / sb.block_bytes;
    let group = number / sb.group_blocks;
    let group_name = format!("group {group}");
    if piece.start - sb.byte_of(group, 0) < 4 * sb.sector_bytes {
        return Ok(Claim::Structure("group-header", group_name));
    }
    if sb.log.contains(piece) {
        return Ok(Claim::Structure("journal", "the log".into()));
    }
    let at = number * sb.block_bytes;
    let bytes = read_vec(part, at, sb.block_bytes as usize)?;
    let fields = Fields(&bytes);
    let in_place = |place: usize| fields.u64(place) == at / 512;
    if fields.u16(0) == inode::MAGIC {
        let within = piece.start - at;
        let slice = Fields(
            bytes
                .get((within - within % sb.inode_bytes) as usize..)
                .unwrap_or_default(),
        );
        return Ok(Claim::Inode("inode", slice.u64(152)));
    }
    if let Some(kind) = Kind::ALL.iter().find(|kind| kind.magic() == fields.u32(0))
        && in_place(16)
    {
        return Ok(Claim::Structure(
            "group-tree",
            format!("{} of group {group}", kind.name()),
        ));
    }
    Ok(match &fields.u32(0).to_be_bytes() {
        b"XDD3" | b"XDB3" | b"XDF3" if in_place(8) => Claim::Inode("directory", fields.u64(40)),
        b"BMA3" if in_place(24) => Claim::Inode("map", fields.u64(56)),
        b"XSLM" if in_place(40) => Claim::Inode("symlink", fields.u64(32)),
        b"XARM" if in_place(40) => Claim::Inode("xattrs", fields.u64(32)),
        _ => match fields.u16(8) {
            0x3df1 | 0x3dff if in_place(16) => Claim::Inode("directory", fields.u64(48)),
            0x3bee | 0x3ebe if in_place(16) => Claim::Inode("xattrs", fields.u64(48)),
            _ => Claim::Content,
        },
    })
}

/// The inodes that hold any of `wanted`: the run in bytes, the code, the number.
fn holders(
    part: &dyn DiskRead,
    sb: &Superblock,
    wanted: &ExtentMap,
) -> Result<Vec<(Extent, &'static str, u64)>, FsError> {
    let mut found = Vec::new();
    inode::all(part, sb, &mut |inode| {
        for fork in [Fork::Data, Fork::Attributes] {
            let code = match fork {
                Fork::Attributes => "xattrs",
                Fork::Data if inode.is_directory() => "directory",
                Fork::Data if inode.is_symlink() => "symlink",
                Fork::Data => "file-content",
            };
            // One file whose map is damaged does not keep the others from a name.
            let _ = inode.runs(part, sb, fork, &mut |(_, number, count)| {
                let (group, block) = sb.split(number);
                let inside = group < sb.groups
                    && block
                        .checked_add(count)
                        .is_some_and(|end| end <= sb.group_len(group));
                if inside && count > 0 {
                    let run = Extent::new(sb.byte_of(group, block), count * sb.block_bytes);
                    if wanted.intersects(run) {
                        found.push((run, code, inode.number));
                    }
                }
            });
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(found)
}

/// A path of each inode, as far as it can be found.
fn paths(
    part: &dyn DiskRead,
    sb: &Superblock,
    numbers: BTreeSet<u64>,
) -> Result<BTreeMap<u64, String>, FsError> {
    let root = sb.fields().u64(56);
    let mut parents: BTreeMap<u64, (u64, Vec<u8>)> = BTreeMap::new();
    let mut wanted = numbers.clone();
    wanted.remove(&root);
    for _ in 0..DEEPEST {
        if wanted.is_empty() {
            break;
        }
        let mut missing = wanted.len();
        inode::all(part, sb, &mut |inode| {
            if inode.is_directory() {
                let _ = inode.names(part, sb, &mut |name, number| {
                    if wanted.contains(&number) && !parents.contains_key(&number) {
                        parents.insert(number, (inode.number, name.to_vec()));
                        missing -= 1;
                    }
                });
            }
            Ok(match missing {
                0 => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            })
        })?;
        let above = wanted
            .iter()
            .filter_map(|number| Some(parents.get(number)?.0));
        wanted = above
            .filter(|number| *number != root && !parents.contains_key(number))
            .collect();
    }
    let path = |number: u64| -> Option<String> {
        let (mut names, mut at) = (Vec::new(), number);
        while at != root {
            let (parent, name) = parents.get(&at)?;
            names.push(escape_bytes(name));
            at = *parent;
            if names.len() > DEEPEST {
                return None;
            }
        }
        names.reverse();
        Some(format!("/{}", names.join("/")))
    };
    Ok(numbers
        .into_iter()
        .filter_map(|number| Some((number, path(number)?)))
        .collect())
}

/// Names of the owners of `extents`, each once, at most `limit`.
///
/// # Errors
/// Where the file system cannot be read.
pub fn owners(
    part: &dyn DiskRead,
    extents: &ExtentMap,
    limit: usize,
) -> Result<Vec<String>, FsError> {
    /// Blocks that are asked about: a file has many.
    const PIECES: usize = 1 << 14;
    let sb = superblock_of(part)?;
    let whole = Extent::new(0, sb.size_bytes());
    let pieces: Vec<Extent> = extents
        .within(whole)
        .flat_map(|e| e.split(sb.block_bytes))
        .take(PIECES)
        .collect();
    let mut names: Vec<String> = Vec::new();
    for owner in name(part, &sb, &pieces)? {
        if !names.contains(&owner.object) && names.len() < limit {
            names.push(owner.object);
        }
    }
    Ok(names)
}
