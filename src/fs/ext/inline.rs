//! Directories that are kept inside their inode (`inline_data`).
//!
//! Source: `inline.c` of the kernel's ext4. The map has the parent's number in its first four bytes
//! and a list of entries in the others; a second list is the value of the attribute `system.data`,
//! which is in the inode as well. Neither has an entry for the directory itself or for its parent,
//! nor a checksum of its own.

use super::inode::{BLOCK_FIELD, FIXED_BYTES, Inode};
use super::xattr::{self, Attribute, Place, XattrError};
use crate::fs::bytes::u32_at;

const PARENT_BYTES: usize = 4;

/// A directory inside its inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InlineDirectory<'a> {
    /// The inode of the directory that it is in.
    pub parent: u32,
    /// Its lists of entries; the second one may be empty.
    pub lists: [&'a [u8]; 2],
}

impl<'a> InlineDirectory<'a> {
    /// Of an inode, parsed and as it is on the disk.
    ///
    /// # Errors
    /// Where the attributes of the inode cannot be read.
    pub fn parse(inode: &Inode, raw: &'a [u8]) -> Result<InlineDirectory<'a>, XattrError> {
        let map = raw.get(BLOCK_FIELD).unwrap_or(&[]);
        let set = raw
            .get(FIXED_BYTES + usize::from(inode.extra_bytes)..)
            .unwrap_or(&[]);
        let attributes = xattr::parse(set, Place::Inode)?;
        let data = attributes.iter().find(|a| is_data(a));
        let second = data.and_then(|a| set.get(a.value.clone())).unwrap_or(&[]);
        Ok(InlineDirectory {
            parent: u32_at(map, 0),
            lists: [map.get(PARENT_BYTES..).unwrap_or(&[]), second],
        })
    }
}

/// Whether the attribute holds the rest of an inode's content.
pub fn is_data(attribute: &Attribute) -> bool {
    const SYSTEM: u8 = 7;
    attribute.index == SYSTEM && attribute.name == b"data"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_are_read_without_a_panic() {
        for len in [0, 40, 60, 100, 128, 132, 156, 256] {
            let raw: Vec<u8> = (0..len).map(|n| n as u8).collect();
            let inode = Inode::parse(&raw);
            if let Ok(found) = InlineDirectory::parse(&inode, &raw) {
                assert!(found.lists[0].len() <= 56);
            }
        }
    }

    #[test]
    fn both_lists_and_the_parent_are_found() {
        let mut raw = vec![0u8; 256];
        raw[40..44].copy_from_slice(&77u32.to_le_bytes());
        raw[44] = 5;
        raw[128] = 32;
        // One attribute: `data` of the kind `system`, twelve bytes at the end.
        raw[160..164].copy_from_slice(&xattr::MAGIC.to_le_bytes());
        raw[164..166].copy_from_slice(&[4, 7]);
        raw[166..168].copy_from_slice(&80u16.to_le_bytes());
        raw[172..176].copy_from_slice(&12u32.to_le_bytes());
        raw[180..184].copy_from_slice(b"data");
        raw[244] = 9;
        let inode = Inode::parse(&raw);
        let found = InlineDirectory::parse(&inode, &raw).expect("parses");
        assert_eq!(found.parent, 77);
        assert_eq!((found.lists[0].len(), found.lists[0][0]), (56, 5));
        assert_eq!((found.lists[1].len(), found.lists[1][0]), (12, 9));
        // Without the attribute there is one list.
        raw[160..].fill(0);
        let found = InlineDirectory::parse(&inode, &raw).expect("parses");
        assert_eq!(found.lists[1], b"");
    }
}
