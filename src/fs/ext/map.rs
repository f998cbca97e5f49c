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

use super::inode::{FLAG_EXTENTS, Inode};
use super::walk::Volume;
use crate::fs::FsError;
use crate::fs::bytes::{array_at, u16_at, u32_at};
use crate::fs::crc::crc32c;

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Disk, MemoryDisk};

    const BLOCK: usize = 1024;

    fn put32(bytes: &mut [u8], at: usize, value: u32) {
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }

    /// A file system of one group with 400 blocks, and nothing in it.
    fn disk() -> MemoryDisk {
        let mut bytes = vec![0; 400 * BLOCK];
        let superblock = [
            (0x00, 16),
            (0x04, 400),
            (0x14, 1),
            (0x20, 8192),
            (0x24, 8192),
            (0x28, 16),
        ];
        for (at, value) in superblock {
            put32(&mut bytes, BLOCK + at, value);
        }
        bytes[BLOCK + 0x38..BLOCK + 0x3a].copy_from_slice(&0xef53u16.to_le_bytes());
        for (at, block) in [(0, 3), (4, 4), (8, 5)] {
            put32(&mut bytes, 2 * BLOCK + at, block);
        }
        MemoryDisk::fixed(bytes)
    }

    fn file(flags: u32, words: &[(usize, u32)]) -> Inode {
        let mut inode = Inode {
            mode: 0x81a4,
            flags,
            ..Inode::parse(&[])
        };
        words
            .iter()
            .for_each(|&(word, value)| put32(&mut inode.block, word * 4, value));
        inode
    }

    fn header(entries: u16, max: u16, depth: u16) -> [u32; 3] {
        let low = u32::from(EXTENT_MAGIC) | u32::from(entries) << 16;
        [low, u32::from(max) | u32::from(depth) << 16, 0]
    }

    fn write(disk: &MemoryDisk, block: u64, words: &[u32]) {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        disk.write_at(block * BLOCK as u64, &bytes)
            .expect("writing");
    }

    /// The runs of a map as (logical, physical, length), and its own blocks.
    /// Runs as (logical, physical, length), and the map's own blocks.
    type Walked = (Vec<(u64, u64, u64)>, Vec<u64>);

    fn walk(disk: &MemoryDisk, inode: &Inode) -> Result<Walked, FsError> {
        let volume = Volume::open(disk).expect("a file system");
        let mut map = Map::new(&volume, 12, inode)?;
        let (mut runs, mut blocks) = (Vec::new(), Vec::new());
        while let Some(piece) = map.next_piece()? {
            match piece {
                Piece::Run(run) => runs.push((run.logical, run.physical, run.len)),
                Piece::Metadata(block) => blocks.push(block),
            }
        }
        Ok((runs, blocks))
    }

    #[test]
    fn indirect_pointers_count_from_where_the_level_below_ends() {
        let disk = disk();
        write(&disk, 50, &[0, 60, 61, 0, 63]);
        write(&disk, 51, &[0, 52]);
        write(&disk, 52, &[70]);
        write(&disk, 53, &[54]);
        write(&disk, 54, &[0, 0, 55]);
        write(&disk, 55, &[0, 80]);
        let inode = file(
            0,
            &[
                (0, 40),
                (1, 41),
                (3, 43),
                (11, 44),
                (12, 50),
                (13, 51),
                (14, 53),
            ],
        );
        let (runs, blocks) = walk(&disk, &inode).expect("a map");
        let (double, triple) = (12 + 256, 12 + 256 + 256 * 256);
        assert_eq!(
            runs,
            [
                (0, 40, 2),
                (3, 43, 1),
                (11, 44, 1),
                (13, 60, 2),
                (16, 63, 1),
                (double + 256, 70, 1),
                (triple + 2 * 256 + 1, 80, 1),
            ]
        );
        assert_eq!(blocks, [50, 51, 52, 53, 54, 55]);
    }

    #[test]
    fn an_extent_tree_is_read_in_order_and_knows_unwritten_extents() {
        let disk = disk();
        let unwritten = 0x8000 + 3;
        let leaf = [header(2, 84, 0).as_slice(), &[5, 2, 100, 9, unwritten, 120]].concat();
        write(&disk, 50, &leaf);
        write(
            &disk,
            51,
            &[header(1, 84, 0).as_slice(), &[1000, 1, 200]].concat(),
        );
        let mut root = header(2, 4, 1).to_vec();
        root.extend([0, 50, 0, 1000, 51, 0]);
        let words: Vec<(usize, u32)> = (0..).zip(root).collect();
        let inode = file(FLAG_EXTENTS, &words);
        let (runs, blocks) = walk(&disk, &inode).expect("a map");
        assert_eq!(runs, [(5, 100, 2), (9, 120, 3), (1000, 200, 1)]);
        assert_eq!(blocks, [50, 51]);
        assert!(extent(&[0, 0, 0, 0, 3, 0x80, 0, 0, 0, 0, 0, 0]).unwritten);
        assert!(!extent(&[0, 0, 0, 0, 0, 0x80, 0, 0, 0, 0, 0, 0]).unwritten);
    }

    #[test]
    fn trees_that_break_the_rules_are_errors() {
        let disk = disk();
        write(
            &disk,
            50,
            &[header(2, 84, 0).as_slice(), &[5, 2, 100, 9, 1, 120]].concat(),
        );
        write(
            &disk,
            52,
            &[header(1, 84, 1).as_slice(), &[0, 52, 0]].concat(),
        );
        let with = |header: [u32; 3], rest: &[u32]| {
            let words: Vec<u32> = header.iter().chain(rest).copied().collect();
            let words: Vec<(usize, u32)> = (0..).zip(words).collect();
            walk(&disk, &file(FLAG_EXTENTS, &words))
        };
        assert!(with(header(1, 4, 0), &[0, 1, 100]).is_ok());
        for (what, header, rest) in [
            ("no magic", [0, 4, 0], [0, 1, 100].as_slice()),
            ("more entries than room", header(5, 4, 0), &[0, 1, 100]),
            (
                "more room than the inode has",
                header(1, 5, 0),
                &[0, 1, 100],
            ),
            ("too deep", header(1, 4, 6), &[0, 50, 0]),
            ("overlapping", header(2, 4, 0), &[0, 3, 100, 2, 1, 150]),
            ("not ascending", header(2, 4, 0), &[9, 1, 100, 2, 1, 150]),
            ("empty", header(1, 4, 0), &[0, 0, 100]),
            (
                "beyond the last logical block",
                header(1, 4, 0),
                &[u32::MAX, 2, 100],
            ),
            ("on the superblock", header(1, 4, 0), &[0, 1, 1]),
            ("beyond the end", header(1, 4, 0), &[0, 2, 399]),
            (
                "far beyond the end",
                header(1, 4, 0),
                &[0, 0xffff_0001, u32::MAX],
            ),
            (
                "a leaf that starts before its index",
                header(1, 4, 1),
                &[7, 50, 0],
            ),
            (
                "a leaf that runs into the next",
                header(2, 4, 1),
                &[0, 50, 0, 6, 51, 0],
            ),
            ("a node of the wrong depth", header(1, 4, 2), &[0, 50, 0]),
            ("a node that is its own child", header(1, 4, 2), &[0, 52, 0]),
        ] {
            let result = with(header, rest);
            assert!(
                matches!(result, Err(FsError::Corrupt(_))),
                "{what}: {result:?}"
            );
        }
    }

    #[test]
    fn a_map_cannot_claim_more_than_the_file_system_has() {
        let disk = disk();
        let circle: Vec<u32> = vec![50; 256];
        write(&disk, 50, &circle);
        for slot in [13, 14] {
            let result = walk(&disk, &file(0, &[(slot, 50)]));
            assert!(matches!(&result, Err(FsError::Corrupt(text)) if text.contains("more blocks")));
        }
    }
}
