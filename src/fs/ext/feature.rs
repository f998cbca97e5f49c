//! The feature bits of ext2, ext3 and ext4, with the names that `dumpe2fs` prints.
//!
//! Source: `ext2_fs.h` and `feature.c` of e2fsprogs, `ext4.h` of the kernel.

/// Which of the three words of the superblock a feature is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// Who does not know it may read and write.
    Compat,
    /// Who does not know it may not touch the file system.
    Incompat,
    /// Who does not know it may read.
    RoCompat,
}

/// One feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feature {
    /// The word it is in.
    pub word: Word,
    /// Its bit, as a mask.
    pub mask: u32,
    /// As `dumpe2fs` prints it.
    pub name: &'static str,
}

/// The three words of a superblock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// `s_feature_compat`.
    pub compat: u32,
    /// `s_feature_incompat`.
    pub incompat: u32,
    /// `s_feature_ro_compat`.
    pub ro_compat: u32,
}

macro_rules! features {
    ($($name:ident $word:ident $mask:literal $text:literal)*) => {
        $(
            #[doc = concat!("`", $text, "`.")]
            pub const $name: Feature = Feature { word: Word::$word, mask: $mask, name: $text };
        )*
        /// All features that have a name, in the order in which `dumpe2fs` prints them.
        pub const NAMED: &[Feature] = &[$($name),*];
    };
}

features! {
    DIR_PREALLOC Compat 0x1 "dir_prealloc"
    IMAGIC_INODES Compat 0x2 "imagic_inodes"
    HAS_JOURNAL Compat 0x4 "has_journal"
    EXT_ATTR Compat 0x8 "ext_attr"
    RESIZE_INODE Compat 0x10 "resize_inode"
    DIR_INDEX Compat 0x20 "dir_index"
    LAZY_BG Compat 0x40 "lazy_bg"
    SNAPSHOT_BITMAP Compat 0x100 "snapshot_bitmap"
    SPARSE_SUPER2 Compat 0x200 "sparse_super2"
    FAST_COMMIT Compat 0x400 "fast_commit"
    STABLE_INODES Compat 0x800 "stable_inodes"
    ORPHAN_FILE Compat 0x1000 "orphan_file"
    COMPRESSION Incompat 0x1 "compression"
    FILETYPE Incompat 0x2 "filetype"
    NEEDS_RECOVERY Incompat 0x4 "needs_recovery"
    JOURNAL_DEV Incompat 0x8 "journal_dev"
    META_BG Incompat 0x10 "meta_bg"
    EXTENT Incompat 0x40 "extent"
    BIT64 Incompat 0x80 "64bit"
    MMP Incompat 0x100 "mmp"
    FLEX_BG Incompat 0x200 "flex_bg"
    EA_INODE Incompat 0x400 "ea_inode"
    DIRDATA Incompat 0x1000 "dirdata"
    METADATA_CSUM_SEED Incompat 0x2000 "metadata_csum_seed"
    LARGE_DIR Incompat 0x4000 "large_dir"
    INLINE_DATA Incompat 0x8000 "inline_data"
    ENCRYPT Incompat 0x1_0000 "encrypt"
    CASEFOLD Incompat 0x2_0000 "casefold"
    SPARSE_SUPER RoCompat 0x1 "sparse_super"
    LARGE_FILE RoCompat 0x2 "large_file"
    HUGE_FILE RoCompat 0x8 "huge_file"
    UNINIT_BG RoCompat 0x10 "uninit_bg"
    DIR_NLINK RoCompat 0x20 "dir_nlink"
    EXTRA_ISIZE RoCompat 0x40 "extra_isize"
    QUOTA RoCompat 0x100 "quota"
    BIGALLOC RoCompat 0x200 "bigalloc"
    METADATA_CSUM RoCompat 0x400 "metadata_csum"
    REPLICA RoCompat 0x800 "replica"
    READ_ONLY RoCompat 0x1000 "read-only"
    PROJECT RoCompat 0x2000 "project"
    SHARED_BLOCKS RoCompat 0x4000 "shared_blocks"
    VERITY RoCompat 0x8000 "verity"
    ORPHAN_PRESENT RoCompat 0x1_0000 "orphan_present"
}

/// `btree_dir`, a name that only the kernel's headers have; `dumpe2fs` prints `FEATURE_R2`.
const BTREE_DIR_MASK: u32 = 0x4;

impl Features {
    fn word(self, word: Word) -> u32 {
        match word {
            Word::Compat => self.compat,
            Word::Incompat => self.incompat,
            Word::RoCompat => self.ro_compat,
        }
    }

    /// Whether `feature` is set.
    pub fn has(self, feature: Feature) -> bool {
        self.word(feature.word) & feature.mask != 0
    }

    /// The names of all that are set, as `dumpe2fs` prints them; `FEATURE_I30` for a bit without
    /// a name.
    pub fn names(self) -> Vec<String> {
        [
            (Word::Compat, 'C'),
            (Word::Incompat, 'I'),
            (Word::RoCompat, 'R'),
        ]
        .into_iter()
        .flat_map(|(word, letter)| {
            let set = self.word(word);
            (0..32)
                .filter(move |bit| set >> bit & 1 == 1)
                .map(move |bit| name_of(word, bit, letter))
        })
        .collect()
    }

    /// The kind that `blkid` derives from the features: `jbd`, `ext4`, `ext3` or `ext2`.
    pub fn kind(self) -> &'static str {
        let ext2_incompat = FILETYPE.mask | META_BG.mask;
        let ext3_incompat = ext2_incompat | NEEDS_RECOVERY.mask;
        let old_ro_compat = SPARSE_SUPER.mask | LARGE_FILE.mask | BTREE_DIR_MASK;
        let journal = self.has(HAS_JOURNAL);
        if self.has(JOURNAL_DEV) {
            "jbd"
        } else if self.ro_compat & !old_ro_compat != 0 || self.incompat & !ext3_incompat != 0 {
            "ext4"
        } else if journal {
            "ext3"
        } else {
            "ext2"
        }
    }
}

fn name_of(word: Word, bit: u32, letter: char) -> String {
    match NAMED.iter().find(|f| f.word == word && f.mask == 1 << bit) {
        Some(feature) => feature.name.into(),
        None => format!("FEATURE_{letter}{bit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_feature_is_one_bit_and_no_two_are_the_same() {
        for (n, a) in NAMED.iter().enumerate() {
            assert_eq!(a.mask.count_ones(), 1, "{}", a.name);
            for b in &NAMED[n + 1..] {
                assert!(
                    a.word != b.word || a.mask != b.mask,
                    "{} {}",
                    a.name,
                    b.name
                );
            }
        }
    }

    #[test]
    fn names_come_in_the_order_of_dumpe2fs() {
        let features = Features {
            compat: 0x14,
            incompat: 0x4000_0002,
            ro_compat: 0x5,
        };
        assert_eq!(
            features.names(),
            [
                "has_journal",
                "resize_inode",
                "filetype",
                "FEATURE_I30",
                "sparse_super",
                "FEATURE_R2"
            ]
        );
    }
}
