//! Who owns given bytes: the paths of files, and the names of structures.
//!
//! For people, after something was found to differ: "these bytes were part of these files".

use std::collections::BTreeMap;

use crate::disk::DiskRead;
use crate::extent::{Extent, ExtentMap};
use crate::fs::{FsError, Owner};
use crate::report::Quiet;
use crate::units::escape_bytes;

use super::inode::{BAD_BLOCKS, Inode, RESIZE};
use super::map::{Map, Piece};
use super::superblock::{SUPERBLOCK_BYTES, SUPERBLOCK_OFFSET};
use super::used::{Structure, StructureKind, structures, used};
use super::walk::Volume;

/// The names alone of what [`owned`] finds.
///
/// # Errors
/// As [`owned`].
pub fn owners(
    part: &dyn DiskRead,
    extents: &ExtentMap,
    limit: usize,
) -> Result<Vec<String>, FsError> {
    let owners = owned(part, extents, limit)?;
    Ok(owners.into_iter().map(|owner| owner.name).collect())
}

/// The owners of `extents` of the file system on `part`: structures first, in the order of the
/// groups, then files in the order of their inodes (one name for a file that has several), then
/// what nobody owns. Each once, at most `limit`.
///
/// # Errors
/// [`FsError`] where the file system cannot be read. Files whose path cannot be found are named
/// by their inode.
pub fn owned(
    part: &dyn DiskRead,
    extents: &ExtentMap,
    limit: usize,
) -> Result<Vec<Owner>, FsError> {
    let volume = Volume::open(part)?;
    let mut search = Search {
        volume: &volume,
        extents,
        rest: extents.clone(),
        names: Vec::new(),
    };
    search.structures();
    if search.names.len() < limit {
        search.files(limit)?;
    }
    if search.names.len() < limit {
        search.nobody()?;
    }
    search.names.truncate(limit);
    Ok(search.names)
}

struct Search<'a> {
    volume: &'a Volume<'a>,
    extents: &'a ExtentMap,
    /// What no owner was found for so far.
    rest: ExtentMap,
    names: Vec<Owner>,
}

impl Search<'_> {
    /// Whether any of the bytes belong to `extent`; they have an owner then.
    fn take(&mut self, extent: Extent) -> bool {
        let owns = self.extents.intersects(extent);
        if owns {
            self.rest.remove(extent);
        }
        owns
    }

    fn structures(&mut self) {
        let volume = self.volume;
        let block_end = volume
            .sb
            .block_bytes
            .max(SUPERBLOCK_OFFSET + SUPERBLOCK_BYTES as u64);
        let superblock = Extent::new(SUPERBLOCK_OFFSET, SUPERBLOCK_BYTES as u64);
        let around = [
            Extent::new(0, SUPERBLOCK_OFFSET),
            Extent::from_range(superblock.end(), block_end),
        ];
        if around.map(|extent| self.take(extent)).contains(&true) {
            self.names.push(Owner::structure("boot block"));
        }
        if self.take(superblock) {
            self.names.push(Owner::structure("superblock"));
        }
        for (number, group) in volume.groups.iter() {
            for structure in structures(&volume.sb, number, group) {
                // The primary superblock shares its block with the boot block: done above.
                let primary = number == 0 && structure.kind == StructureKind::Superblock;
                let blocks = &structure.blocks;
                let extent = volume.bytes_of(blocks.start, blocks.end.saturating_sub(blocks.start));
                if !primary && self.take(extent) {
                    self.names
                        .push(Owner::structure(structure_name(&structure)));
                }
            }
        }
    }

    /// One pass over all maps, then one over the directories for the names.
    fn files(&mut self, limit: usize) -> Result<(), FsError> {
        let volume = self.volume;
        let room = limit.saturating_sub(self.names.len());
        let mut owners: BTreeMap<u32, (Vec<Extent>, bool)> = BTreeMap::new();
        volume.each_inode(&Quiet, |number, inode, _| {
            if owners.len() < room
                && let Some(found) = self.owns(number, inode)?
            {
                owners.insert(number, found);
            }
            Ok(())
        })?;
        let numbers = owners.keys().copied().collect();
        let paths = volume.paths(&numbers, &Quiet).unwrap_or_default();
        for (number, (ranges, map)) in owners {
            let name = match (self.special(number), paths.get(&number)) {
                (Some(name), _) => name.to_string(),
                (None, Some(path)) => escape_bytes(path),
                (None, None) => format!("inode {number}"),
            };
            self.names.push(Owner { name, ranges, map });
        }
        Ok(())
    }

    /// What of an inode's content the bytes are, and whether they are of its map or attributes;
    /// `None` where none are. All of its blocks then have an owner.
    fn owns(&mut self, number: u32, inode: &Inode) -> Result<Option<(Vec<Extent>, bool)>, FsError> {
        let volume = self.volume;
        let (mut ranges, mut of_map) = (Vec::new(), false);
        let sb = &volume.sb;
        if (1..sb.blocks).contains(&inode.xattr_block) {
            of_map |= self.take(volume.bytes_of(inode.xattr_block, 1));
        }
        let mut map = Map::new(volume, number, inode)?;
        while let Some(piece) = map.next_piece()? {
            match piece {
                Piece::Metadata(block) => of_map |= self.take(volume.bytes_of(block, 1)),
                // Reserved descriptor blocks belong to the group that they are in.
                Piece::Run(_) if number == RESIZE => {}
                Piece::Run(run) => {
                    let place = volume.bytes_of(run.physical, run.len);
                    if self.take(place) {
                        let start = run.logical * sb.block_bytes;
                        let within = self.extents.within(place);
                        ranges.extend(
                            within.map(|e| Extent::new(start + (e.start - place.start), e.len)),
                        );
                    }
                }
            };
        }
        Ok((of_map || !ranges.is_empty()).then_some((ranges, of_map)))
    }

    fn special(&self, number: u32) -> Option<&'static str> {
        let sb = &self.volume.sb;
        match number {
            BAD_BLOCKS => Some("list of bad blocks"),
            RESIZE => Some("map of the reserved descriptor blocks"),
            n if n == sb.journal_inode => Some("journal"),
            n if n == sb.orphan_file_inode => Some("orphan file"),
            n if sb.quota_inodes.contains(&n) => Some("quota file"),
            _ => None,
        }
    }

    /// What is left: free, used by what is not in any inode, or beyond the file system.
    fn nobody(&mut self) -> Result<(), FsError> {
        let volume = self.volume;
        let inside = Extent::new(0, volume.sb.size_bytes());
        let within: ExtentMap = self.rest.within(inside).collect();
        let used = used(volume.part, &volume.sb, &volume.groups, &Quiet)?;
        let free = within.difference(&used);
        if within.total_bytes() > free.total_bytes() {
            self.names
                .push(Owner::structure("blocks in use that no file has"));
        }
        if !free.is_empty() {
            self.names.push(Owner::structure("free space"));
        }
        if self.rest.end() > inside.end() {
            self.names.push(Owner::structure("beyond the file system"));
        }
        Ok(())
    }
}

fn structure_name(structure: &Structure) -> String {
    let group = structure.group;
    match structure.kind {
        StructureKind::Superblock => format!("superblock backup of group {group}"),
        StructureKind::Descriptors if group == 0 => "group descriptors".into(),
        StructureKind::Descriptors => format!("descriptor backup of group {group}"),
        kind => format!("{kind} of group {group}"),
    }
}
