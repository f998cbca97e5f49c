//! ext2, ext3 and ext4. (being written)

pub mod bytes;
pub mod crc;
pub mod feature;
pub mod groups;
pub mod layout;
pub mod superblock;
