//! The map of an inode: which logical blocks are where.
//!
//! Two formats: the extent tree of ext4 (`struct ext4_extent_header` of the kernel) and the
//! direct and indirect pointers of ext2. Both come out as the same [`Piece`]s, in the order of
//! the logical blocks, one tree level of memory at a time.
//!
//! 1. Pieces are strictly ascending and do not overlap; holes are what lies between them.
//! 2. Every block lies inside the file system.
//! 3. An inode that claims more blocks than the file system has ends with an error: a map that
//!    points to itself cannot keep us for ever.
//! 4. With `metadata_csum` every block of an extent tree fits its checksum.

use super::bytes::{array_at, u16_at, u32_at};
use super::crc::crc32c;
use super::inode::{FLAG_EXTENTS, Inode};
use super::walk::Volume;
use crate::fs::FsError;

const EXTENT_MAGIC: u16 = 0xf30a;
/// `EXT4_MAX_EXTENT_DEPTH`.
const MAX_DEPTH: u16 = 5;
const EXTENT_ENTRY_BYTES: usize = 12;
/// A longer length means an unwritten extent of the length beyond it.
const MAX_WRITTEN: u16 = 1 << 15;
/// Logical blocks have 32 bits.
const LOGICAL_END: u64 = 1 << 32;
const DIRECT_POINTERS: usize = 12;
const POINTERS: usize = 15;

/// Blocks that follow each other in the file and on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// First block of the file.
    pub logical: u64,
    /// Its block of the file system.
    pub physical: u64,
    /// Number of blocks, never 0.
    pub len: u64,
    /// Allocated, but reads as zero.
    pub unwritten: bool,
}

/// What a map consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// A block of the map itself.
    Metadata(u64),
    /// Content.
    Run(Run),
}

/// A map, read piece by piece.
pub struct Map<'a> {
    volume: &'a Volume<'a>,
    number: u32,
    seed: u32,
    tree: Tree,
    /// Blocks that the map may still claim.
    budget: u64,
}

enum Tree {
    Nothing,
    Extents {
        stack: Vec<ExtentNode>,
        next: u64,
    },
    Pointers {
        root: usize,
        block: [u8; 60],
        stack: Vec<PointerNode>,
    },
}

struct ExtentNode {
    bytes: Vec<u8>,
    entries: usize,
    at: usize,
    depth: u16,
    /// Logical blocks from here on belong to the next node of the level above.
    end: u64,
}

struct PointerNode {
    bytes: Vec<u8>,
    at: usize,
    /// 0 where the pointers are those of content.
    level: u32,
    logical: u64,
}

impl<'a> Map<'a> {
    /// The map of inode `number`. Empty for one that has none.
    ///
    /// # Errors
    /// [`FsError::Corrupt`] where the root of an extent tree is none.
    pub fn new(volume: &'a Volume<'a>, number: u32, inode: &Inode) -> Result<Map<'a>, FsError> {
        let mut map = Map {
            volume,
            number,
            seed: inode.seed(volume.sb.checksum_seed, number),
            tree: Tree::Nothing,
            budget: volume.sb.blocks,
        };
        if !inode.has_map() {
            return Ok(map);
        }
        map.tree = if inode.has(FLAG_EXTENTS) {
            let root = map.extent_node(inode.block.to_vec(), None, LOGICAL_END)?;
            Tree::Extents {
                stack: vec![root],
                next: 0,
            }
        } else {
            Tree::Pointers {
                root: 0,
                block: inode.block,
                stack: Vec::new(),
            }
        };
        Ok(map)
    }

    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// [`FsError::Io`], or [`FsError::Corrupt`] where the map breaks the rules above.
    pub fn next_piece(&mut self) -> Result<Option<Piece>, FsError> {
        let mut tree = std::mem::replace(&mut self.tree, Tree::Nothing);
        let piece = match &mut tree {
            Tree::Nothing => return Ok(None),
            Tree::Extents { stack, next } => self.next_extent(stack, next)?,
            Tree::Pointers { root, block, stack } => self.next_pointers(root, block, stack)?,
        };
        // After an error the map stays empty: its state is not to be relied on.
        self.tree = tree;
        Ok(piece)
    }

    /// The next run, past the blocks of the map itself, which are added to `metadata`.
    ///
    /// # Errors
    /// As [`Map::next_piece`].
    pub fn next_run(&mut self, metadata: &mut u64) -> Result<Option<Run>, FsError> {
        loop {
            match self.next_piece()? {
                None => return Ok(None),
                Some(Piece::Run(run)) => return Ok(Some(run)),
                Some(Piece::Metadata(_)) => *metadata += 1,
            }
        }
    }

    fn next_extent(
        &mut self,
        stack: &mut Vec<ExtentNode>,
        next: &mut u64,
    ) -> Result<Option<Piece>, FsError> {
        while let Some(node) = stack.last_mut() {
            if node.at >= node.entries {
                stack.pop();
                continue;
            }
            let entry = node.entry(node.at);
            node.at += 1;
            let logical = u64::from(u32_at(&entry, 0));
            if node.depth == 0 {
                let run = extent(&entry);
                if logical < *next || logical + run.len > node.end || run.len == 0 {
                    return Err(self.corrupt(format!(
                        "extent of {} blocks at logical block {logical}, not within {next}..{}",
                        run.len, node.end
                    )));
                }
                *next = logical + run.len;
                self.claim(run.physical, run.len)?;
                return Ok(Some(Piece::Run(run)));
            }
            let block = u64::from(u32_at(&entry, 4)) | u64::from(u16_at(&entry, 8)) << 32;
            let end = match node.at < node.entries {
                true => u64::from(u32_at(&node.entry(node.at), 0)).min(node.end),
                false => node.end,
            };
            if logical < *next || logical >= end {
                return Err(self.corrupt(format!(
                    "extent index at logical block {logical}, not within {next}..{end}"
                )));
            }
            let depth = node.depth - 1;
            self.claim(block, 1)?;
            *next = logical;
            let bytes = self.volume.block(block)?;
            stack.push(self.extent_node(bytes, Some((block, depth)), end)?);
            return Ok(Some(Piece::Metadata(block)));
        }
        Ok(None)
    }

    /// Checks the header of a node. `place` is its block and the depth that it must have; the
    /// root has no block, and any depth.
    fn extent_node(
        &self,
        bytes: Vec<u8>,
        place: Option<(u64, u16)>,
        end: u64,
    ) -> Result<ExtentNode, FsError> {
        let (magic, entries, max, depth) = (
            u16_at(&bytes, 0),
            u16_at(&bytes, 2),
            u16_at(&bytes, 4),
            u16_at(&bytes, 6),
        );
        let fits = (bytes.len() / EXTENT_ENTRY_BYTES).saturating_sub(1);
        let wanted = place.map_or(depth, |(_, depth)| depth);
        let sound = magic == EXTENT_MAGIC
            && entries <= max
            && usize::from(max) <= fits
            && depth == wanted
            && depth <= MAX_DEPTH;
        let name = place.map_or("its inode".into(), |(block, _)| format!("block {block}"));
        if !sound {
            return Err(self.corrupt(format!(
                "extent header in {name}: magic {magic:#06x}, {entries} of {max} entries, depth {depth}"
            )));
        }
        if place.is_some() && self.volume.has_checksums() {
            let tail = EXTENT_ENTRY_BYTES * (usize::from(max) + 1);
            let found = crc32c(self.seed, bytes.get(..tail).unwrap_or(&[]));
            if found != u32_at(&bytes, tail) {
                return Err(self.corrupt(format!("the checksum of the extents in {name}")));
            }
        }
        let entries = usize::from(entries);
        Ok(ExtentNode {
            bytes,
            entries,
            at: 0,
            depth,
            end,
        })
    }

    fn next_pointers(
        &mut self,
        root: &mut usize,
        block: &[u8; 60],
        stack: &mut Vec<PointerNode>,
    ) -> Result<Option<Piece>, FsError> {
        let in_block = self.volume.sb.block_bytes / 4;
        loop {
            let Some(node) = stack.last_mut() else {
                // Direct pointers are one node; each of the last three is a tree of its own.
                let (from, level) = match *root {
                    at @ 0..DIRECT_POINTERS => (at, 0),
                    at if at < POINTERS => (at, at - DIRECT_POINTERS + 1),
                    _ => return Ok(None),
                };
                let (to, logical) = match level {
                    0 => (DIRECT_POINTERS, 0),
                    // 12 + n + n² …: where the trees of the levels below end.
                    _ => (
                        from + 1,
                        DIRECT_POINTERS as u64
                            + (1..level as u32).map(|l| in_block.pow(l)).sum::<u64>(),
                    ),
                };
                *root = to;
                let bytes = block.get(from * 4..to * 4).unwrap_or(&[]).to_vec();
                stack.push(PointerNode {
                    bytes,
                    at: 0,
                    level: level as u32,
                    logical,
                });
                continue;
            };
            if node.at * 4 >= node.bytes.len() {
                stack.pop();
                continue;
            }
            let pointer = u64::from(u32_at(&node.bytes, node.at * 4));
            let logical = node.logical + node.at as u64 * in_block.pow(node.level);
            node.at += 1;
            if pointer == 0 {
                continue;
            }
            if node.level == 0 {
                let mut len = 1;
                while node.at * 4 < node.bytes.len()
                    && u64::from(u32_at(&node.bytes, node.at * 4)) == pointer + len
                {
                    node.at += 1;
                    len += 1;
                }
                self.claim(pointer, len)?;
                return Ok(Some(Piece::Run(Run {
                    logical,
                    physical: pointer,
                    len,
                    unwritten: false,
                })));
            }
            let level = node.level - 1;
            self.claim(pointer, 1)?;
            let bytes = self.volume.block(pointer)?;
            stack.push(PointerNode {
                bytes,
                at: 0,
                level,
                logical,
            });
            return Ok(Some(Piece::Metadata(pointer)));
        }
    }

    /// Takes `len` blocks from the budget, where they lie in the file system.
    fn claim(&mut self, first: u64, len: u64) -> Result<(), FsError> {
        let sb = &self.volume.sb;
        let inside = first > u64::from(sb.first_data_block)
            && first.checked_add(len).is_some_and(|end| end <= sb.blocks);
        if !inside {
            return Err(self.corrupt(format!(
                "{len} blocks at block {first}, outside of the file system's {} blocks",
                sb.blocks
            )));
        }
        match self.budget.checked_sub(len) {
            Some(left) => self.budget = left,
            None => return Err(self.corrupt("more blocks than the file system has".into())),
        }
        Ok(())
    }

    fn corrupt(&self, what: String) -> FsError {
        FsError::Corrupt(format!("inode {}: {what}", self.number))
    }
}

impl ExtentNode {
    /// Entry `at`; the header is one entry long. Zero beyond the end.
    fn entry(&self, at: usize) -> [u8; EXTENT_ENTRY_BYTES] {
        array_at(&self.bytes, EXTENT_ENTRY_BYTES * (at + 1))
    }
}

fn extent(entry: &[u8]) -> Run {
    let len = u16_at(entry, 4);
    let unwritten = len > MAX_WRITTEN;
    Run {
        logical: u64::from(u32_at(entry, 0)),
        physical: u64::from(u32_at(entry, 8)) | u64::from(u16_at(entry, 6)) << 32,
        len: u64::from(if unwritten { len - MAX_WRITTEN } else { len }),
        unwritten,
    }
}
