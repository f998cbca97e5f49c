//! Deliberate damage to what a real resize left. Each kind is found, under its code, and named.

use std::path::Path;

use holdfast::disk::{DiskRead, read_vec};
use holdfast::fs::FsError;
use holdfast::fs::ext::compare::compare;
use holdfast::report::Quiet;

use crate::image::{Image, changed, differences, make_image, make_tree, run};

/// How an image is damaged.
enum Do {
    /// Commands for `debugfs`, which sees to checksums.
    Debugfs(&'static [&'static str]),
    /// Options of `tune2fs`.
    Tune(&'static [&'static str]),
    /// Bytes, behind the back of everything.
    Raw(fn(&Image)),
}
use Do::{Debugfs, Raw, Tune};

/// What is done, the code of the difference, and the object or a part of it.
type Damage = (Do, &'static str, &'static str);

/// For any image with blocks of 1024 bytes.
const COMMON: &[Damage] = &[
    (
        Raw(|i| flip(i, "/many/file-0002", 0, 100)),
        "file-content",
        "/many/file-0002",
    ),
    (
        Raw(|i| flip(i, "/late/late-4", 1500, 1023)),
        "file-content",
        "/late/late-4",
    ),
    (
        Raw(|i| zero(i, "/late/late-3", 777)),
        "file-content",
        "/late/late-3",
    ),
    (
        Raw(|i| flip(i, "/late/sub/inner/note", 2, 0)),
        "file-content",
        "/late/sub/inner/note",
    ),
    (Raw(swap_contents), "file-content", "/late/late-2"),
    (Raw(swap_contents), "file-content", "/late/late-3"),
    (Raw(|i| flip(i, "<8>", 5, 9)), "journal", "inode 8"),
    (
        Raw(|i| flip(i, "/links/long", 0, 3)),
        "symlink",
        "/links/long",
    ),
    (Raw(|i| i.write(77, b"boot")), "boot-block", "boot block"),
    (
        Raw(|i| i.write(8193 * 1024 + 0x78, b"other")),
        "backup-superblock",
        "backup of group 1",
    ),
    (
        Raw(|i| i.write(8193 * 1024, &[0; 1024])),
        "backup-superblock",
        "backup of group 1",
    ),
    (
        Raw(|i| i.write(8194 * 1024 + 8, &[9])),
        "backup-descriptors",
        "backup of group 1",
    ),
    (Raw(|i| zero(i, "/many", 3)), "directory", "/many"),
    (
        Debugfs(&["rm /many/file-0004"]),
        "file-missing",
        "/many/file-0004",
    ),
    (Debugfs(&["rm /many/file-0004"]), "directory", "/many"),
    (Debugfs(&["rm /late/late-1"]), "directory", "/late"),
    (
        Debugfs(&["cd /many", "symlink new elsewhere"]),
        "file-new",
        "/many/new",
    ),
    (Debugfs(&["mkdir /new"]), "file-new", "/new"),
    (
        Debugfs(&[
            "unlink /many/file-0006",
            "ln /many/file-0008 /many/file-0006",
        ]),
        "directory",
        "/many",
    ),
    (
        Debugfs(&["clri /many/file-0008"]),
        "mode",
        "/many/file-0008",
    ),
    (
        Debugfs(&["sif /many/file-0008 mode 0100600"]),
        "mode",
        "/many/file-0008",
    ),
    (Debugfs(&["sif /deep mode 0100755"]), "mode", "/deep"),
    (
        Debugfs(&["sif /many/file-0008 uid 8"]),
        "owner",
        "/many/file-0008",
    ),
    (
        Debugfs(&["sif /many/file-0008 gid 70000"]),
        "owner",
        "/many/file-0008",
    ),
    (
        Debugfs(&["sif /many/file-0008 size 1"]),
        "size",
        "/many/file-0008",
    ),
    (
        Debugfs(&["sif /late/late-2 size 0x100000001"]),
        "size",
        "/late/late-2",
    ),
    (
        Debugfs(&["sif /many/file-0008 mtime 20010101"]),
        "times",
        "/many/file-0008",
    ),
    (
        Debugfs(&["sif /many/file-0008 atime 20010101"]),
        "times",
        "/many/file-0008",
    ),
    (
        Debugfs(&["sif /many/file-0008 ctime 20010101"]),
        "times",
        "/many/file-0008",
    ),
    (Debugfs(&["sif /many mtime 20010101"]), "times", "/many"),
    (
        Debugfs(&["sif /late/late-2 ctime 20010101"]),
        "times",
        "/late/late-2",
    ),
    (
        Debugfs(&["sif /many/file-0008 dtime 20010101"]),
        "times",
        "/many/file-0008",
    ),
    (
        Debugfs(&["sif /many/file-0008 links_count 2"]),
        "links",
        "/many/file-0008",
    ),
    (
        Debugfs(&["sif /many/file-0008 generation 5"]),
        "generation",
        "/many/file-0008",
    ),
    (
        Debugfs(&["sif /many/file-0008 blocks 4444"]),
        "map",
        "/many/file-0008",
    ),
    (
        Debugfs(&["sif /many/file-0002 file_acl 0"]),
        "xattrs",
        "/many/file-0002",
    ),
    (
        Debugfs(&["ea_set /many/file-0002 user.small other"]),
        "xattrs",
        "/many/file-0002",
    ),
    (
        Debugfs(&["ea_rm /many/file-0002 user.large"]),
        "xattrs",
        "/many/file-0002",
    ),
    (
        Debugfs(&["ea_set /late/late-2 user.new value"]),
        "xattrs",
        "/late/late-2",
    ),
    (
        Debugfs(&["sif /links/short block[0] 0x41"]),
        "symlink",
        "/links/short",
    ),
    (
        Debugfs(&["sif /links/null block[0] 0x0105"]),
        "device",
        "/links/null",
    ),
    (
        Debugfs(&["punch /late/late-2 10 20"]),
        "map",
        "/late/late-2",
    ),
    (
        Debugfs(&["ssv hash_seed 11111111-2222-3333-4444-555555555555"]),
        "superblock",
        "superblock",
    ),
    (
        Debugfs(&["ssv mkfs_time 20010101"]),
        "superblock",
        "superblock",
    ),
    (
        Debugfs(&["ssv overhead_clusters 5"]),
        "superblock",
        "superblock",
    ),
    (
        Debugfs(&["ssv jnl_blocks[16] 5"]),
        "superblock",
        "superblock",
    ),
    (Tune(&["-L", "other"]), "superblock", "superblock"),
    (
        Tune(&["-U", "11111111-2222-3333-4444-555555555555"]),
        "superblock",
        "superblock",
    ),
    (Tune(&["-o", "nobarrier"]), "superblock", "superblock"),
    (Tune(&["-e", "panic"]), "superblock", "superblock"),
    (Tune(&["-r", "17"]), "superblock", "superblock"),
    (Tune(&["-O", "^dir_index"]), "superblock", "superblock"),
];

/// For extents and large inodes.
const MODERN: &[Damage] = &[
    (
        Debugfs(&["sif /many/file-0002 block[5] 20000"]),
        "file-content",
        "/many/file-0002",
    ),
    (
        Debugfs(&["sif /many/file-0008 flags 0x80020"]),
        "flags",
        "/many/file-0008",
    ),
    (
        Debugfs(&["sif /many/file-0008 crtime 20010101"]),
        "times",
        "/many/file-0008",
    ),
    (
        Debugfs(&["sif /many/file-0008 mtime_extra 400"]),
        "times",
        "/many/file-0008",
    ),
    (
        Debugfs(&["sif /many/file-0008 projid 9"]),
        "project",
        "/many/file-0008",
    ),
    (
        Debugfs(&["sif /many/file-0008 version 9"]),
        "generation",
        "/many/file-0008",
    ),
    (
        Debugfs(&["fallocate /large/sparse 100 110"]),
        "map",
        "/large/sparse",
    ),
    // The second extent, of 5 blocks, was allocated and not written: now it is.
    (
        Debugfs(&["sif /many/file-0012 block[7] 5"]),
        "map",
        "/many/file-0012",
    ),
    (
        Debugfs(&["punch /large/file-0 1100 1200"]),
        "map",
        "/large/file-0",
    ),
];

/// For files and directories inside their inodes.
const INLINE: &[Damage] = &[
    (
        Debugfs(&[
            "unlink /deep/0008/inner/note",
            "ln /deep/0016/inner/note /deep/0008/inner/note",
        ]),
        "directory",
        "/deep/0008/inner",
    ),
    (
        Debugfs(&["rm /deep/0008/inner/note"]),
        "file-missing",
        "/deep/0008/inner/note",
    ),
    (
        Debugfs(&["ln /deep/0016/inner/note /deep/0008/inner/new"]),
        "directory",
        "/deep/0008/inner",
    ),
    // The parent.
    (
        Debugfs(&["sif /deep/0008/inner block[0] 2"]),
        "directory",
        "/deep/0008/inner",
    ),
    (
        Debugfs(&["sif /deep/0008/inner/note block[3] 5"]),
        "file-content",
        "/deep/0008/inner/note",
    ),
    // What does not fit beside it.
    (
        Debugfs(&[
            "ea_set /deep/0008/inner/note system.data 0123456789012345678901234567890123456789",
        ]),
        "xattrs",
        "/deep/0008/inner/note",
    ),
    (
        Debugfs(&["unlink /late/sub", "ln /late/late-1 /late/sub"]),
        "directory",
        "/late",
    ),
];

/// Where no file was renumbered.
const KEPT: &[Damage] = &[(Debugfs(LINK_TO_ANOTHER), "directory", "/late")];
const LINK_TO_ANOTHER: &[&str] = &["unlink /late/late-0", "ln /late/late-1 /late/late-0"];

/// Where files were renumbered: names of two that were exchanged, or the time of one.
const RENUMBERED: &[Damage] = &[
    (Debugfs(LINK_TO_ANOTHER), "inode", "/late/late-"),
    (Debugfs(EXCHANGE), "file-content", "/late/late-0"),
    (Debugfs(EXCHANGE), "size", "/late/late-1"),
    (Debugfs(&["sif /late mtime 20010101"]), "times", "/late"),
    (
        Debugfs(&["sif /late/late-0 mtime 20300101"]),
        "times",
        "/late/late-0",
    ),
    (Debugfs(&["sif /late ctime 20500101"]), "times", "/late"),
];
const EXCHANGE: &[&str] = &[
    "ln /late/late-0 /spare",
    "unlink /late/late-0",
    "ln /late/late-1 /late/late-0",
    "unlink /late/late-1",
    "ln /spare /late/late-1",
    "unlink /spare",
];

fn flip(image: &Image, path: &str, block: usize, byte: u64) {
    let at = image.blocks_of(path)[block] * 1024 + byte;
    let mut value = [0];
    image.read_at(at, &mut value).expect("reading");
    image.write(at, &[value[0] ^ 0x10]);
}

fn zero(image: &Image, path: &str, block: usize) {
    image.write(image.blocks_of(path)[block] * 1024, &[0; 1024]);
}

fn swap_contents(image: &Image) {
    let (a, b) = (
        image.blocks_of("/late/late-2")[9],
        image.blocks_of("/late/late-3")[11],
    );
    let read = |block| read_vec(image, block * 1024, 1024).expect("reading");
    let (x, y) = (read(a), read(b));
    image.write(a * 1024, &y);
    image.write(b * 1024, &x);
}

/// Damages a copy of `after` and checks that the comparison with `before` finds it.
fn check(before: &Image, after: &Image, damage: &Damage, what: &str) {
    let (action, code, object) = damage;
    let image = after.copy("damaged");
    match action {
        Debugfs(commands) => drop(image.debugfs(commands)),
        Tune(options) => {
            let args: Vec<&str> = options.iter().copied().chain([image.name()]).collect();
            run("tune2fs", &args, &[0]);
        }
        Raw(write) => write(&image),
    }
    let what = match action {
        Debugfs(text) | Tune(text) => format!("{what}: {text:?}"),
        Raw(_) => format!("{what}: bytes for {code} of {object}"),
    };
    assert!(
        !changed(after, &image).is_empty(),
        "{what}: nothing was damaged"
    );
    let found = differences(before, &image);
    assert!(
        found
            .iter()
            .any(|d| d.code == *code && d.object.contains(object)),
        "{what}: {code} of {object} is not among {found:#?}"
    );
}

fn check_all(directory: &Path, tree: &Path, options: &str, lists: &[&[Damage]]) {
    let words: Vec<&str> = options.split(' ').collect();
    let before = make_image(&directory.join("before"), tree, &words, "48M");
    for size in ["70M", "-M"] {
        let after = before.resized("after", size);
        assert_eq!(differences(&before, &after), [], "{options} {size}");
        let what = format!("{options} {size}");
        let own = if size == "-M" { RENUMBERED } else { KEPT };
        for damage in lists.iter().copied().chain([own]).flatten() {
            check(&before, &after, damage, &what);
        }
    }
}

#[test]
fn every_kind_of_damage_is_found_and_named() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let tree = directory.path().join("tree");
    std::fs::create_dir(&tree).expect("creating a directory");
    make_tree(&tree, 900);
    check_all(directory.path(), &tree, "-t ext3 -b 1024", &[COMMON]);
    check_all(
        directory.path(),
        &tree,
        "-t ext4 -b 1024",
        &[COMMON, MODERN],
    );
    check_all(
        directory.path(),
        &tree,
        "-t ext4 -b 1024 -O inline_data",
        &[INLINE],
    );
}

#[test]
fn what_cannot_be_read_is_no_pass() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let tree = directory.path().join("tree");
    std::fs::create_dir(&tree).expect("creating a directory");
    make_tree(&tree, 50);
    let words = ["-t", "ext4", "-b", "1024"];
    let before = make_image(&directory.path().join("before"), &tree, &words, "24M");
    let after = before.resized("after", "40M");
    // Behind the back of checksums. The error is in one of the two states; either will do.
    for (name, offset) in [
        (
            "inode table",
            before.table_block_of("/late/late-2") * 1024 + 6,
        ),
        ("descriptors", 2 * 1024 + 4),
        ("superblock", 1024 + 0x20),
    ] {
        for (x, y) in [(true, false), (false, true)] {
            let damaged = |image: &Image, damage: bool, copy: &str| {
                let image = image.copy(copy);
                if damage {
                    image.write(offset, &[0x5a; 64]);
                }
                image
            };
            let (a, b) = (damaged(&before, x, "a"), damaged(&after, y, "b"));
            let result = compare(&a, &b, &changed(&a, &b), 50, &Quiet);
            assert!(
                matches!(result, Err(FsError::Corrupt(_))),
                "{name}: {result:?}"
            );
        }
    }
}
