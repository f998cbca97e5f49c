//! Inodes: which there are, where their blocks are, and what names a directory has. Only to give
//! what differs a name: the comparison of a growth needs no inode.
//!
//! Format: `xfs_dinode`, `xfs_bmbt_rec`, `xfs_bmdr_block`, `xfs_dir2_sf_hdr`, `xfs_dir3_data_hdr`.

use std::ops::ControlFlow;

use crate::disk::{DiskRead, read_vec};
use crate::fs::FsError;

use super::fields::Fields;
use super::group::Group;
use super::superblock::Superblock;
use super::tree::Kind;

/// `IN`.
pub const MAGIC: u16 = 0x494e;
const CORE_BYTES: usize = 176;
/// The head of a block of a tree of extents.
const LONG_HEAD: usize = 72;
/// Where the leaves of a directory begin, in bytes: behind are no names.
const LEAVES_AT: u64 = 32 << 30;
/// The head of a directory's block.
const DIRECTORY_HEAD: usize = 64;
/// Blocks of one tree of extents that are looked at.
const MOST_BLOCKS: u32 = 1 << 20;

/// An inode's bytes.
#[derive(Clone, Copy)]
pub struct Inode<'a> {
    /// Its number.
    pub number: u64,
    raw: Fields<'a>,
}

/// Which of its two sets of extents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fork {
    /// Content.
    Data,
    /// Extended attributes.
    Attributes,
}

/// A run of blocks: place in the file, number, count.
pub type Run = (u64, u64, u64);

impl<'a> Inode<'a> {
    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        u32::from(self.raw.u16(2)) & libc::S_IFMT == libc::S_IFDIR
    }

    /// Whether it is a symbolic link.
    pub fn is_symlink(&self) -> bool {
        u32::from(self.raw.u16(2)) & libc::S_IFMT == libc::S_IFLNK
    }

    /// Format and bytes of a fork.
    fn fork(&self, fork: Fork) -> (u8, &'a [u8]) {
        let split = usize::from(self.raw.u8(82)) * 8;
        let all = self.raw.0.get(CORE_BYTES..).unwrap_or_default();
        let middle = match split {
            0 => all.len(),
            split => split.min(all.len()),
        };
        match fork {
            Fork::Data => (self.raw.u8(5), &all[..middle]),
            Fork::Attributes => (self.raw.u8(83), &all[middle..]),
        }
    }

    fn count(&self, fork: Fork) -> u64 {
        const LARGE: u64 = 1 << 4;
        let is_large = self.raw.u64(120) & LARGE != 0;
        match (fork, is_large) {
            (Fork::Data, true) => self.raw.u64(24),
            (Fork::Data, false) => self.raw.u32(76).into(),
            (Fork::Attributes, true) => self.raw.u32(76).into(),
            (Fork::Attributes, false) => self.raw.u16(80).into(),
        }
    }

    /// The runs of a fork, in order of the file.
    ///
    /// # Errors
    /// Where its tree of extents cannot be read.
    pub fn runs(
        &self,
        part: &dyn DiskRead,
        sb: &Superblock,
        fork: Fork,
        visit: &mut dyn FnMut(Run),
    ) -> Result<(), FsError> {
        let (format, bytes) = self.fork(fork);
        match format {
            2 => {
                let count = self.count(fork).min(bytes.len() as u64 / 16) as usize;
                records(bytes, count).for_each(visit);
                Ok(())
            }
            3 => self.tree(part, sb, bytes, visit),
            _ => Ok(()),
        }
    }

    fn tree(
        &self,
        part: &dyn DiskRead,
        sb: &Superblock,
        root: &[u8],
        visit: &mut dyn FnMut(Run),
    ) -> Result<(), FsError> {
        let root_fields = Fields(root);
        let most = root.len().saturating_sub(4) / 16;
        let pointers =
            |fields: Fields<'_>, head: usize, most: usize, level: u16| -> Vec<(u64, u16)> {
                let count = usize::from(fields.u16(head - 2)).min(most);
                let at = |n: usize| head + most * 8 + n * 8;
                // The last first: they are taken from the end.
                (0..count)
                    .rev()
                    .map(|n| (fields.u64(at(n)), level))
                    .collect()
            };
        let level = root_fields.u16(0);
        let mut waiting = pointers(root_fields, 4, most, level.wrapping_sub(1));
        let mut seen = 0;
        while let Some((number, level)) = waiting.pop() {
            seen += 1;
            let (group, block) = sb.split(number);
            if seen > MOST_BLOCKS || group >= sb.groups || block >= sb.group_len(group) {
                return Err(self.wrong("its extents lead nowhere"));
            }
            let at = sb.byte_of(group, block);
            let bytes = read_vec(part, at, sb.block_bytes as usize)?;
            let fields = Fields(&bytes);
            if fields.u32(0) != u32::from_be_bytes(*b"BMA3")
                || fields.u16(4) != level
                || fields.u64(24) != at / 512
                || !fields.checksum_fits(64)
            {
                return Err(self.wrong("a block of its extents is damaged"));
            }
            let rest = bytes.get(LONG_HEAD..).unwrap_or_default();
            let count = usize::from(fields.u16(6));
            if level == 0 {
                records(rest, count.min(rest.len() / 16)).for_each(&mut *visit);
            } else {
                let most = rest.len() / 16;
                let next = (0..count.min(most)).rev().map(|n| {
                    let at = most * 8 + n * 8;
                    (Fields(rest).u64(at), level - 1)
                });
                waiting.extend(next);
            }
        }
        Ok(())
    }

    /// Tells the names of a directory, with the inodes behind them.
    ///
    /// # Errors
    /// Where it cannot be read. Blocks that are damaged are passed over.
    pub fn names(
        &self,
        part: &dyn DiskRead,
        sb: &Superblock,
        tell: &mut dyn FnMut(&[u8], u64),
    ) -> Result<(), FsError> {
        let (format, bytes) = self.fork(Fork::Data);
        if format == 1 {
            short_names(bytes, tell);
            return Ok(());
        }
        let mut blocks = Vec::new();
        let leaves = LEAVES_AT / sb.block_bytes;
        self.runs(part, sb, Fork::Data, &mut |(place, number, count)| {
            let room = MOST_BLOCKS as usize - blocks.len().min(MOST_BLOCKS as usize);
            let inside = count.min(leaves.saturating_sub(place)).min(room as u64);
            blocks.extend((0..inside).map(|n| (place + n, number + n)));
        })?;
        let whole = sb.directory_blocks as usize;
        let mut buf = Vec::new();
        for (place, number) in blocks {
            let (group, block) = sb.split(number);
            if group >= sb.groups || block >= sb.group_len(group) {
                return Err(self.wrong("its extents lead nowhere"));
            }
            if place.is_multiple_of(sb.directory_blocks) {
                buf.clear();
            }
            buf.extend(read_vec(
                part,
                sb.byte_of(group, block),
                sb.block_bytes as usize,
            )?);
            if buf.len() == whole * sb.block_bytes as usize {
                block_names(&buf, tell);
            }
        }
        Ok(())
    }

    fn wrong(&self, what: &str) -> FsError {
        FsError::Corrupt(format!("inode {}: {what}", self.number))
    }
}

fn records(bytes: &[u8], count: usize) -> impl Iterator<Item = Run> + '_ {
    let each = bytes.chunks_exact(16).take(count);
    each.map(|record| {
        let (high, low) = (Fields(record).u64(0), Fields(record).u64(8));
        let place = high >> 9 & ((1 << 54) - 1);
        let number = (high & 0x1ff) << 43 | low >> 21;
        (place, number, low & 0x1f_ffff)
    })
}

/// Names that lie in the inode.
fn short_names(bytes: &[u8], tell: &mut dyn FnMut(&[u8], u64)) {
    let fields = Fields(bytes);
    let (count, wide) = (fields.u8(0), fields.u8(1) != 0);
    let width = if wide { 8 } else { 4 };
    let mut at = 2 + width;
    for _ in 0..count {
        let len = usize::from(fields.u8(at));
        let Some(name) = bytes.get(at + 3..at + 3 + len) else {
            return;
        };
        // Behind the name, its kind.
        let behind = at + 3 + len + 1;
        let number = match wide {
            true => fields.u64(behind),
            false => fields.u32(behind).into(),
        };
        tell(name, number);
        at = behind + width;
    }
}

/// Names in a block.
fn block_names(bytes: &[u8], tell: &mut dyn FnMut(&[u8], u64)) {
    let fields = Fields(bytes);
    let end = match &fields.u32(0).to_be_bytes() {
        b"XDD3" => bytes.len(),
        // Hashes of the names are at its end.
        b"XDB3" => {
            let hashes = fields.u32(bytes.len() - 8) as usize;
            bytes.len().saturating_sub(hashes.saturating_mul(8) + 8)
        }
        _ => return,
    };
    let mut at = DIRECTORY_HEAD;
    while at + 8 <= end {
        if fields.u16(at) == 0xffff {
            at += usize::from(fields.u16(at + 2)).max(8);
            continue;
        }
        let len = usize::from(fields.u8(at + 8));
        let Some(name) = bytes.get(at + 9..at + 9 + len) else {
            return;
        };
        if name != b"." && name != b".." {
            tell(name, fields.u64(at));
        }
        // Number, length, name, kind, its own place.
        at += (8 + 1 + len + 1 + 2).next_multiple_of(8);
    }
}

/// Goes through all inodes in use, until `visit` breaks off.
///
/// # Errors
/// Where a group cannot be read, and those of `visit`. Inodes that are damaged are passed over.
pub fn all(
    part: &dyn DiskRead,
    sb: &Superblock,
    visit: &mut dyn FnMut(Inode<'_>) -> Result<ControlFlow<()>, FsError>,
) -> Result<(), FsError> {
    let (per_block, group_log) = (
        u32::from(sb.fields().u8(123)),
        u32::from(sb.fields().u8(124)),
    );
    let is_sparse = sb.incompat & 2 != 0;
    for number in 0..sb.groups {
        let group = Group::read(part, sb, number)?;
        let Some(tree) = group.tree(sb, Kind::Inodes) else {
            continue;
        };
        let mut chunks = Vec::new();
        tree.walk(
            part,
            sb,
            |_| {},
            |record| {
                let holes = if is_sparse { record.u16(4) } else { 0 };
                chunks.push((record.u32(0), holes, record.u64(8)));
                Ok(())
            },
        )?;
        for (first, holes, free) in chunks {
            for n in (0..64u32).filter(|n| free >> n & 1 == 0 && holes >> (n / 4) & 1 == 0) {
                let own = u64::from(first) + u64::from(n);
                let block = own >> per_block;
                if block >= group.blocks {
                    continue;
                }
                let within = (own & ((1 << per_block) - 1)) * sb.inode_bytes;
                let at = sb.byte_of(number, block) + within;
                let raw = read_vec(part, at, sb.inode_bytes as usize)?;
                let inode = Inode {
                    number: (number << (group_log + per_block)) + own,
                    raw: Fields(&raw),
                };
                let good = inode.raw.u16(0) == MAGIC
                    && inode.raw.u64(152) == inode.number
                    && inode.raw.checksum_fits(100);
                if good && visit(inode)?.is_break() {
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}
