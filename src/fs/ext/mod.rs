//! ext2, ext3 and ext4. (being written)

pub mod bytes;
pub mod compare;
pub mod crc;
pub mod dir;
pub mod feature;
pub mod groups;
pub mod inode;
pub mod layout;
pub mod map;
pub mod superblock;
pub mod walk;
pub mod xattr;
