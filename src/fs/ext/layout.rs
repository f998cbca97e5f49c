//! Where the format puts things, computed from the superblock alone.
//!
//! A group that has a superblock starts with it; all group descriptors follow, then the blocks
//! that are kept for the descriptors of a larger file system. Under `meta_bg` the descriptors from
//! `s_first_meta_bg` on lie elsewhere: each block of them in the first, second and last of the
//! groups that it describes. Bitmaps and inode tables are where the descriptors say.

use std::ops::Range;

use super::feature;
use super::superblock::Superblock;

impl Superblock {
    /// Number of groups; the last one may be short.
    pub fn group_count(&self) -> u64 {
        self.blocks
            .saturating_sub(self.first_data_block.into())
            .div_ceil(u64::from(self.blocks_per_group).max(1))
    }

    /// First block of `group`.
    pub fn group_start(&self, group: u64) -> u64 {
        u64::from(self.first_data_block) + group * u64::from(self.blocks_per_group)
    }

    /// The blocks of `group`.
    pub fn group_blocks(&self, group: u64) -> Range<u64> {
        let start = self.group_start(group).min(self.blocks);
        start..(start + u64::from(self.blocks_per_group)).min(self.blocks)
    }

    /// Number of clusters of `group`: the bits of its block bitmap that stand for something.
    pub fn group_clusters(&self, group: u64) -> u64 {
        let blocks = self.group_blocks(group);
        (blocks.end - blocks.start).div_ceil(self.blocks_per_cluster())
    }

    /// Group descriptors in a block.
    pub fn descriptors_per_block(&self) -> u64 {
        self.block_bytes / u64::from(self.descriptor_bytes).max(1)
    }

    /// Blocks that all group descriptors take.
    pub fn descriptor_blocks(&self) -> u64 {
        self.group_count()
            .div_ceil(self.descriptors_per_block().max(1))
    }

    /// Blocks of each group's inode table.
    pub fn inode_table_blocks(&self) -> u64 {
        (u64::from(self.inodes_per_group) * u64::from(self.inode_bytes)).div_ceil(self.block_bytes)
    }

    /// Whether `group` has a superblock: the primary one or a backup.
    pub fn has_superblock(&self, group: u64) -> bool {
        if group == 0 {
            return true;
        }
        if self.has(feature::SPARSE_SUPER2) {
            return self.backup_groups.iter().any(|&g| u64::from(g) == group);
        }
        group == 1
            || !self.has(feature::SPARSE_SUPER)
            || [3, 5, 7].into_iter().any(|base| is_power_of(group, base))
    }

    /// The block with the superblock of `group`, where it has one.
    pub fn superblock_block(&self, group: u64) -> Option<u64> {
        self.has_superblock(group)
            .then(|| self.group_start(group) + self.boot_block(group))
    }

    /// The blocks after the superblock of `group`: all descriptors that are not stored the
    /// `meta_bg` way, then the reserved ones. Empty where it has none.
    pub fn descriptor_area(&self, group: u64) -> Range<u64> {
        let count = if self.has(feature::META_BG) {
            u64::from(self.first_meta_bg)
        } else {
            self.descriptor_blocks() + u64::from(self.reserved_gdt_blocks)
        };
        match self.superblock_block(group) {
            Some(block) if !self.in_meta_bg(self.descriptor_index(group)) => {
                (block + 1).min(self.blocks)..(block + 1 + count).min(self.blocks)
            }
            _ => 0..0,
        }
    }

    /// The block of descriptors that lies in `group` the `meta_bg` way, where one does.
    pub fn meta_descriptor_block(&self, group: u64) -> Option<u64> {
        let per_block = self.descriptors_per_block().max(1);
        let within = group % per_block;
        if !self.in_meta_bg(self.descriptor_index(group))
            || !(within <= 1 || within == per_block - 1)
        {
            return None;
        }
        let block = self.group_start(group)
            + self.boot_block(group)
            + u64::from(self.has_superblock(group));
        (block < self.blocks).then_some(block)
    }

    /// Where block `index` of the primary group descriptors lies.
    pub fn descriptor_block(&self, index: u64) -> u64 {
        if self.in_meta_bg(index) {
            let group = index * self.descriptors_per_block();
            self.group_start(group) + self.boot_block(group) + u64::from(self.has_superblock(group))
        } else {
            self.group_start(0) + self.boot_block(0) + 1 + index
        }
    }

    /// Which block of descriptors describes `group`.
    pub fn descriptor_index(&self, group: u64) -> u64 {
        group / self.descriptors_per_block().max(1)
    }

    fn in_meta_bg(&self, index: u64) -> bool {
        self.has(feature::META_BG) && index >= u64::from(self.first_meta_bg)
    }

    /// With clusters, group 0 starts at block 0 even where blocks have 1024 bytes; the superblock
    /// is at byte 1024 all the same.
    fn boot_block(&self, group: u64) -> u64 {
        u64::from(group == 0 && self.block_bytes == 1024 && self.first_data_block == 0)
    }
}

fn is_power_of(number: u64, base: u64) -> bool {
    std::iter::successors(Some(base), |power| power.checked_mul(base))
        .take_while(|&power| power <= number)
        .any(|power| power == number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers() {
        let powers: Vec<u64> = (2..400)
            .filter(|&n| [3, 5, 7].into_iter().any(|base| is_power_of(n, base)))
            .collect();
        assert_eq!(powers, [3, 5, 7, 9, 25, 27, 49, 81, 125, 243, 343]);
        assert!(!is_power_of(u64::MAX, 3));
    }
}
