//! Blocks of directories: a list of entries that fills each block exactly.
//!
//! Source: `struct ext4_dir_entry_2` of the kernel. The blocks of a hashed directory's index, and
//! the checksum at the end of a block, are written so that they read as entries without an inode:
//! a linear reader sees every name.

use thiserror::Error;

use crate::fs::bytes::{u8_at, u16_at, u32_at};

const HEADER_BYTES: usize = 8;
/// `EXT4_FT_DIR`.
pub const TYPE_DIRECTORY: u8 = 2;

/// What is wrong with a block of a directory.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DirError {
    /// An entry is too short for its name, not a multiple of 4, or longer than the block.
    #[error(
        "the entry at byte {at} is {length} bytes long, with a name of {name} bytes and {left} bytes left"
    )]
    Length {
        /// Byte of the block.
        at: usize,
        /// `rec_len`.
        length: usize,
        /// Length of its name.
        name: usize,
        /// Bytes to the end of the block.
        left: usize,
    },
}

/// One entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Where it starts in its block; the number of the inode is its first four bytes.
    pub at: usize,
    /// The inode, 0 for an entry that is not in use.
    pub inode: u32,
    /// `EXT4_FT_*`; 0 in a file system without the feature `filetype`.
    pub file_type: u8,
    /// Any bytes but NUL and `/`, by rights.
    pub name: &'a [u8],
}

/// The entries of a block, used and unused, in order.
pub struct Entries<'a> {
    block: &'a [u8],
    at: usize,
}

impl<'a> Entries<'a> {
    /// The entries of `block`.
    pub fn new(block: &'a [u8]) -> Entries<'a> {
        Entries { block, at: 0 }
    }

    /// The entry that starts at byte `at`, where one does.
    pub fn at(block: &'a [u8], at: usize) -> Option<Entry<'a>> {
        let mut entries = Entries { block, at };
        entries.next().and_then(Result::ok)
    }

    fn parse(&self) -> Result<(Entry<'a>, usize), DirError> {
        let (block, at) = (self.block, self.at);
        let left = block.len().saturating_sub(at);
        let length = match u16_at(block, at + 4) {
            // 64 KiB do not fit into the field.
            0 | 0xffff if block.len() == 1 << 16 => left,
            // Larger blocks keep bits 16 and 17 of the length in its two lowest.
            length => usize::from(length & 0xfffc) | usize::from(length & 3) << 16,
        };
        let name = usize::from(u8_at(block, at + 6));
        let text = block.get(at + HEADER_BYTES..at + HEADER_BYTES + name);
        match text {
            Some(text) if length >= HEADER_BYTES + name && length <= left => {
                let (inode, file_type) = (u32_at(block, at), u8_at(block, at + 7));
                Ok((
                    Entry {
                        at,
                        inode,
                        file_type,
                        name: text,
                    },
                    length,
                ))
            }
            _ => Err(DirError::Length {
                at,
                length,
                name,
                left,
            }),
        }
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<Entry<'a>, DirError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.block.len() {
            return None;
        }
        match self.parse() {
            Ok((entry, length)) => {
                self.at += length;
                Some(Ok(entry))
            }
            Err(error) => {
                self.at = self.block.len();
                Some(Err(error))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(block: &mut Vec<u8>, inode: u32, length: u16, file_type: u8, name: &[u8]) {
        let start = block.len();
        block.extend(inode.to_le_bytes());
        block.extend(length.to_le_bytes());
        block.extend([name.len() as u8, file_type]);
        block.extend(name);
        block.resize(start + usize::from(length), 0xee);
    }

    #[test]
    fn names_come_in_order_and_unused_entries_have_no_inode() {
        let mut block = Vec::new();
        put(&mut block, 2, 12, 2, b".");
        put(&mut block, 2, 12, 2, b"..");
        put(&mut block, 17, 20, 1, b"mail\xff");
        put(&mut block, 0, 8, 0, b"");
        put(&mut block, 0, 12, 0xde, b"");
        let seen: Vec<_> = Entries::new(&block)
            .map(|e| e.map(|e| (e.at, e.inode, e.file_type, e.name)))
            .collect();
        assert_eq!(
            seen,
            [
                Ok((0, 2, 2, b".".as_slice())),
                Ok((12, 2, 2, b"..")),
                Ok((24, 17, 1, b"mail\xff")),
                Ok((44, 0, 0, b"")),
                Ok((52, 0, 0xde, b"")),
            ]
        );
    }

    #[test]
    fn an_entry_that_does_not_fit_ends_the_block() {
        for (length, name) in [(0u16, 0u8), (4, 0), (12, 5), (2000, 1), (12, 255), (14, 1)] {
            let mut block = vec![0u8; 64];
            block[4..6].copy_from_slice(&length.to_le_bytes());
            block[6] = name;
            let seen: Vec<_> = Entries::new(&block).collect();
            assert!(
                seen.last().is_some_and(Result::is_err),
                "{length} {name}: {seen:?}"
            );
        }
        assert!(Entries::new(&[1, 2, 3]).all(|e| e.is_err()));
    }
}
