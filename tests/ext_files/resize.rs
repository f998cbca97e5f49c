//! Real resizes, in which no difference may be found: each one found is a false alarm.

use std::path::Path;

use crate::image::{Image, differences, make_image, make_tree};

/// What `mke2fs` is told, and whether the image gets hashed directories.
const MATRIX: &[(&str, bool)] = &[
    ("-t ext2 -b 1024", false),
    ("-t ext2 -b 4096 -g 1024", true),
    ("-t ext2 -b 1024 -O ^sparse_super,^resize_inode", false),
    ("-t ext3 -b 1024", true),
    ("-t ext3 -b 4096 -g 1024", false),
    ("-t ext4 -b 1024", true),
    ("-t ext4 -b 2048 -g 4096", false),
    ("-t ext4 -b 4096 -g 1024 -E resize=76800", true),
    ("-t ext4 -b 1024 -O ^metadata_csum,^64bit", true),
    (
        "-t ext4 -b 4096 -g 1024 -E resize=76800 -O ^metadata_csum,uninit_bg",
        false,
    ),
    ("-t ext4 -b 1024 -O ^flex_bg", false),
    ("-t ext4 -b 1024 -O ^resize_inode", false),
    ("-t ext4 -b 1024 -O ^extent,^64bit", false),
    ("-t ext4 -b 1024 -I 128", false),
    ("-t ext4 -b 4096 -g 1024 -E resize=76800 -I 1024", false),
    ("-t ext4 -b 1024 -O ^has_journal,metadata_csum_seed", true),
    ("-t ext4 -b 1024 -O ^64bit,ea_inode,large_dir", false),
    ("-t ext4 -b 1024 -O meta_bg,^resize_inode", false),
    ("-t ext4 -b 1024 -O inline_data", true),
    (
        "-t ext4 -b 4096 -g 1024 -E resize=76800 -O orphan_file,^filetype",
        false,
    ),
    ("-t ext4 -b 1024 -G 4 -E packed_meta_blocks=1", false),
];

fn check(options: &str, before: &Image, after: &Image) {
    let found = differences(before, after);
    assert!(found.is_empty(), "{options}, {}: {found:#?}", after.name());
}

/// Whether any file has another inode.
fn renumbered(before: &Image, after: &Image) -> bool {
    ["ls -p /many", "ls -p /filler", "ls -p /late"]
        .iter()
        .any(|command| before.ask(command) != after.ask(command))
}

fn resize_all(directory: &Path, tree: &Path, options: &str, hashed: bool) {
    let words: Vec<&str> = options.split(' ').collect();
    let base = make_image(&directory.join("base"), tree, &words, "48M");
    if hashed {
        crate::image::run("e2fsck", &["-f", "-y", "-D", base.name()], &[0, 1]);
        base.fsck();
    }
    let same = base.copy("same");
    check(options, &base, &same);
    let little = base.resized("little", "50M");
    check(options, &base, &little);
    let grown = base.resized("grown", "200M");
    check(options, &base, &grown);
    // The end of a group: groups are cut off, and the last one left is whole.
    let size = if options.contains("-b 4096") {
        "44M"
    } else {
        "40M"
    };
    let shrunk = base.resized("shrunk", size);
    check(options, &base, &shrunk);
    let smallest = base.resized("smallest", "-M");
    check(options, &base, &smallest);
    assert!(
        renumbered(&base, &smallest),
        "{options}: the shrink renumbered nothing"
    );
    grown.fsck();
    let back = grown.resized("back", "48M");
    check(options, &grown, &back);
    smallest.fsck();
    let again = smallest.resized("again", "70M");
    check(options, &smallest, &again);
}

#[test]
fn real_resizes_raise_no_false_alarm() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let tree = directory.path().join("tree");
    std::fs::create_dir(&tree).expect("creating a directory");
    make_tree(&tree, 900);
    for (options, hashed) in MATRIX {
        resize_all(directory.path(), &tree, options, *hashed);
    }
}
