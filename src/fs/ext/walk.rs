//! A file system opened for reading: its blocks, its inode tables in order, its directories.
//!
//! 1. Memory is bounded by one chunk of an inode table and one of a directory, whatever the file
//!    system holds.
//! 2. Whether an inode is in use is what its group's bitmap says.
//! 3. With `metadata_csum` an inode in use, and a bitmap, fits its checksum or is an error.
//!
//! Blocks are not checked against the block bitmap: that is `e2fsck`'s work.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use crate::disk::{DiskRead, read_vec};
use crate::extent::Extent;
use crate::fs::FsError;
use crate::report::{Report, checkpoint};

use super::dir::Entries;
use super::feature;
use super::groups::{Groups, INODE_UNINIT, read_blocks};
use super::inline::InlineDirectory;
use super::inode::{FLAG_INLINE_DATA, Inode, Kind, ROOT};
use super::map::{Map, Piece};
use super::superblock::Superblock;
use crate::fs::crc::crc32c;

/// Bytes of an inode table, or of a directory, that are read at a time.
const CHUNK_BYTES: u64 = 1 << 20;
/// Directories within directories beyond this are not followed upwards.
const MAX_PATH_DEPTH: usize = 1 << 12;

/// A file system.
pub struct Volume<'a> {
    /// Its partition.
    pub part: &'a dyn DiskRead,
    /// Its primary superblock.
    pub sb: Superblock,
    /// Its primary group descriptors.
    pub groups: Groups,
}

impl<'a> Volume<'a> {
    /// Opens the file system on `part`.
    ///
    /// # Errors
    /// [`FsError::Corrupt`] where there is none, else as [`Superblock::read`] and
    /// [`Groups::read`].
    pub fn open(part: &'a dyn DiskRead) -> Result<Volume<'a>, FsError> {
        let missing = || FsError::Corrupt("there is no ext2, ext3 or ext4 superblock".into());
        let sb = Superblock::read(part)?.ok_or_else(missing)?;
        if sb.has(feature::JOURNAL_DEV) {
            return Err(missing());
        }
        let groups = Groups::read(part, &sb)?;
        Ok(Volume { part, sb, groups })
    }

    /// Whether metadata have checksums.
    pub fn has_checksums(&self) -> bool {
        self.sb.has(feature::METADATA_CSUM)
    }

    /// Reads one block.
    ///
    /// # Errors
    /// [`FsError::Io`].
    pub fn block(&self, number: u64) -> Result<Vec<u8>, FsError> {
        read_blocks(self.part, &self.sb, number, 1)
    }

    /// The bytes of `len` blocks that lie inside the file system.
    pub fn bytes_of(&self, first: u64, len: u64) -> Extent {
        Extent::new(first * self.sb.block_bytes, len * self.sb.block_bytes)
    }

    /// The number of the first inode of `group`.
    pub fn first_inode(&self, group: u64) -> u32 {
        (group * u64::from(self.sb.inodes_per_group) + 1) as u32
    }

    /// Which inodes of `group` are in use.
    ///
    /// # Errors
    /// [`FsError::Io`]; [`FsError::Corrupt`] where the bitmap does not fit its checksum.
    pub fn used_inodes(&self, number: u64) -> Result<InodeSet, FsError> {
        let first = self.first_inode(number);
        let Some(group) = self.groups.get(number) else {
            return Ok(InodeSet {
                first,
                bits: Vec::new(),
            });
        };
        if group.has(INODE_UNINIT) {
            return Ok(InodeSet {
                first,
                bits: Vec::new(),
            });
        }
        let mut bits = self.block(group.inode_bitmap)?;
        bits.truncate(self.sb.inodes_per_group as usize / 8);
        if self.has_checksums() {
            let mut found = crc32c(self.sb.checksum_seed, &bits);
            if self.sb.descriptor_bytes < 64 {
                found &= 0xffff;
            }
            if found != group.inode_bitmap_checksum {
                return Err(FsError::Corrupt(format!(
                    "group {number}: the checksum of the inode bitmap"
                )));
            }
        }
        Ok(InodeSet { first, bits })
    }

    /// One inode, parsed and as it is on the disk, for whoever needs only that one.
    ///
    /// # Errors
    /// As [`Table::get`].
    pub fn inode(&self, number: u32) -> Result<(Inode, Vec<u8>), FsError> {
        let mut table = Table::new(self);
        table.chunk_bytes = self.sb.block_bytes;
        let (inode, raw) = table.get(number)?;
        Ok((inode, raw.to_vec()))
    }

    /// Calls `visit` with every inode in use, in the order of the tables.
    ///
    /// # Errors
    /// What `visit` returns; an interruption; as [`Volume::used_inodes`] and [`Table::get`].
    pub fn each_inode(
        &self,
        report: &dyn Report,
        mut visit: impl FnMut(u32, &Inode, &[u8]) -> Result<(), FsError>,
    ) -> Result<(), FsError> {
        let mut table = Table::new(self);
        for (group, _) in self.groups.iter() {
            checkpoint(report).map_err(std::io::Error::from)?;
            for number in self.used_inodes(group)?.numbers() {
                let (inode, raw) = table.get(number)?;
                visit(number, &inode, raw)?;
            }
        }
        Ok(())
    }

    /// Calls `visit` with each block of a directory: its logical number and its bytes.
    ///
    /// # Errors
    /// What `visit` returns; as [`Map::next_piece`].
    pub fn each_directory_block(
        &self,
        number: u32,
        inode: &Inode,
        mut visit: impl FnMut(u64, &[u8]) -> Result<ControlFlow<()>, FsError>,
    ) -> Result<(), FsError> {
        let block_bytes = self.sb.block_bytes;
        let mut map = Map::new(self, number, inode)?;
        while let Some(piece) = map.next_piece()? {
            let Piece::Run(run) = piece else { continue };
            let per_read = CHUNK_BYTES / block_bytes;
            let mut done = 0;
            while done < run.len {
                let count = per_read.min(run.len - done);
                let bytes = read_blocks(self.part, &self.sb, run.physical + done, count)?;
                for (block, at) in bytes.chunks_exact(block_bytes as usize).zip(0u64..) {
                    if visit(run.logical + done + at, block)?.is_break() {
                        return Ok(());
                    }
                }
                done += count;
            }
        }
        Ok(())
    }

    /// Calls `visit` with the inode number and the name of each used entry of a directory. One that
    /// is kept inside its inode has no entry for itself.
    ///
    /// # Errors
    /// [`FsError::Corrupt`] where a block is no list of entries; as
    /// [`Volume::each_directory_block`].
    pub fn each_entry(
        &self,
        number: u32,
        (inode, raw): (&Inode, &[u8]),
        mut visit: impl FnMut(u32, &[u8]) -> ControlFlow<()>,
    ) -> Result<(), FsError> {
        let mut visit_list = |place: &dyn std::fmt::Display, list: &[u8]| {
            for entry in Entries::new(list) {
                let entry = entry.map_err(|error| {
                    FsError::Corrupt(format!("directory inode {number}, {place}: {error}"))
                })?;
                if entry.inode != 0 && visit(entry.inode, entry.name).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            Ok(ControlFlow::Continue(()))
        };
        if !inode.has(FLAG_INLINE_DATA) {
            return self.each_directory_block(number, inode, |logical, block| {
                visit_list(&format_args!("block {logical}"), block)
            });
        }
        let inside = inline_directory(number, inode, raw)?;
        for (list, at) in inside.lists.into_iter().zip(1..) {
            if visit_list(&format_args!("list {at} in the inode"), list)?.is_break() {
                return Ok(());
            }
        }
        if inside.parent != 0 {
            let _ = visit(inside.parent, b"..");
        }
        Ok(())
    }

    /// A path for each of `wanted` that has one: of several names for one file, one is found.
    ///
    /// One pass over all directories where a file is among them; directories know their parent.
    ///
    /// # Errors
    /// As [`Volume::each_entry`], and an interruption.
    pub fn paths(
        &self,
        wanted: &BTreeSet<u32>,
        report: &dyn Report,
    ) -> Result<BTreeMap<u32, Vec<u8>>, FsError> {
        let mut names: BTreeMap<u32, (u32, Vec<u8>)> = BTreeMap::new();
        let mut table = Table::new(self);
        let mut files = BTreeSet::new();
        for &number in wanted {
            if table.get(number)?.0.kind() != Kind::Directory {
                files.insert(number);
            }
        }
        if !files.is_empty() {
            self.each_inode(report, |parent, inode, raw| {
                if inode.kind() != Kind::Directory || names.len() == files.len() {
                    return Ok(());
                }
                self.each_entry(parent, (inode, raw), |child, name| {
                    if files.contains(&child) {
                        names
                            .entry(child)
                            .or_insert_with(|| (parent, name.to_vec()));
                    }
                    ControlFlow::Continue(())
                })
            })?;
        }
        let mut paths = BTreeMap::new();
        for &number in wanted {
            let (start, tail) = match names.get(&number) {
                Some((parent, name)) => (*parent, Some(name.clone())),
                None if files.contains(&number) => continue,
                None => (number, None),
            };
            if let Some(mut path) = self.directory_path(&mut table, start)? {
                if let Some(name) = tail {
                    path.push(b'/');
                    path.extend(name);
                }
                if path.is_empty() {
                    path.push(b'/');
                }
                paths.insert(number, path);
            }
        }
        Ok(paths)
    }

    /// The path of a directory, empty for the root; `None` where it does not lead to the root.
    fn directory_path(
        &self,
        table: &mut Table<'_>,
        directory: u32,
    ) -> Result<Option<Vec<u8>>, FsError> {
        let (mut names, mut at) = (Vec::new(), directory);
        let mut seen = BTreeSet::new();
        while at != ROOT {
            if !seen.insert(at) {
                return Ok(None);
            }
            let Some(parent) = self.parent(table, at)? else {
                return Ok(None);
            };
            let (inode, raw) = table.get(parent)?;
            let mut found = None;
            if inode.kind() == Kind::Directory {
                self.each_entry(parent, (&inode, raw), |child, name| {
                    if child == at && !matches!(name, b"." | b"..") {
                        found = Some(name.to_vec());
                        return ControlFlow::Break(());
                    }
                    ControlFlow::Continue(())
                })?;
            }
            match found {
                Some(name) if names.len() < MAX_PATH_DEPTH => names.push(name),
                _ => return Ok(None),
            }
            at = parent;
        }
        Ok(Some(
            names
                .iter()
                .rev()
                .flat_map(|name| [b"/", name.as_slice()].concat())
                .collect(),
        ))
    }

    fn parent(&self, table: &mut Table<'_>, directory: u32) -> Result<Option<u32>, FsError> {
        let (inode, raw) = table.get(directory)?;
        let mut parent = None;
        if inode.kind() == Kind::Directory {
            self.each_entry(directory, (&inode, raw), |number, name| {
                if name == b".." {
                    parent = Some(number);
                    return ControlFlow::Break(());
                }
                ControlFlow::Continue(())
            })?;
        }
        Ok(parent.filter(|&number| number <= self.sb.inodes && number != directory))
    }
}

/// A directory that is kept inside its inode.
///
/// # Errors
/// [`FsError::Corrupt`] where the attributes of the inode cannot be read.
pub fn inline_directory<'r>(
    number: u32,
    inode: &Inode,
    raw: &'r [u8],
) -> Result<InlineDirectory<'r>, FsError> {
    InlineDirectory::parse(inode, raw)
        .map_err(|error| FsError::Corrupt(format!("directory inode {number}: {error}")))
}

/// Which inodes of a group are in use.
pub struct InodeSet {
    first: u32,
    bits: Vec<u8>,
}

impl InodeSet {
    /// Whether inode `number` is in use. Those of other groups are not.
    pub fn contains(&self, number: u32) -> bool {
        let Some(at) = number.checked_sub(self.first) else {
            return false;
        };
        self.bits
            .get(at as usize / 8)
            .is_some_and(|byte| byte >> (at % 8) & 1 == 1)
    }

    /// The inodes in use, ascending.
    pub fn numbers(&self) -> impl Iterator<Item = u32> + '_ {
        self.bits
            .iter()
            .zip(0u32..)
            .filter(|(byte, _)| **byte != 0)
            .flat_map(move |(byte, at)| {
                (0..8)
                    .filter(move |bit| byte >> bit & 1 == 1)
                    .map(move |bit| self.first + at * 8 + bit)
            })
    }
}

/// Reads inodes, a chunk of a table at a time: cheap where they are asked for in order.
pub struct Table<'a> {
    volume: &'a Volume<'a>,
    start: u64,
    bytes: Vec<u8>,
    chunk_bytes: u64,
}

impl<'a> Table<'a> {
    /// Over the inode tables of `volume`.
    pub fn new(volume: &'a Volume<'a>) -> Table<'a> {
        Table {
            volume,
            start: 0,
            bytes: Vec::new(),
            chunk_bytes: CHUNK_BYTES,
        }
    }

    /// Inode `number`, parsed and as it is on the disk.
    ///
    /// # Errors
    /// [`FsError::Io`]; [`FsError::Corrupt`] for a number that no inode has, or a checksum that
    /// does not fit.
    pub fn get(&mut self, number: u32) -> Result<(Inode, &[u8]), FsError> {
        let volume = self.volume;
        let sb = &volume.sb;
        let inode_bytes = u64::from(sb.inode_bytes);
        let index = u64::from(number).wrapping_sub(1);
        let group = index / u64::from(sb.inodes_per_group);
        let (Some(table), true) = (volume.groups.get(group), number <= sb.inodes) else {
            return Err(FsError::Corrupt(format!("inode {number} of {}", sb.inodes)));
        };
        // The table lies inside the file system: reading the descriptors saw to it.
        let table = volume.bytes_of(table.inode_table, sb.inode_table_blocks());
        let within = index % u64::from(sb.inodes_per_group) * inode_bytes;
        let at = table.start + within;
        if at < self.start || at + inode_bytes > self.start + self.bytes.len() as u64 {
            let start = table.start + (within - within % self.chunk_bytes);
            let len = self.chunk_bytes.min(table.end() - start);
            self.bytes = read_vec(volume.part, start, len as usize)?;
            self.start = start;
        }
        let from = (at - self.start) as usize;
        let raw = self
            .bytes
            .get(from..from + inode_bytes as usize)
            .unwrap_or(&[]);
        let inode = Inode::parse(raw);
        // Reserved inodes that were never used are all zero, and so is their checksum.
        let in_use = inode.mode != 0 || inode.links != 0;
        if volume.has_checksums() && in_use && !inode.checksum_fits(raw, sb.checksum_seed, number) {
            return Err(FsError::Corrupt(format!("the checksum of inode {number}")));
        }
        Ok((inode, raw))
    }
}
