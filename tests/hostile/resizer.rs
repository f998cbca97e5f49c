//! A hostile `resize2fs`.

use super::loopdev::Loop;
use super::scene::{Answer, Scene, Stamp, root, text};

/// The size of the mail file system in the small images.
pub const OLD_BYTES: u64 = 16 << 20;

/// A kind of harm, and the code under which it must be found.
type Kind = (&'static str, &'static str);

/// For any ext file system.
const COMMON: &[Kind] = &[
    ("bit", "file-content"),
    ("zeroed-block", "file-content"),
    ("swapped-content", "file-content"),
    ("duplicated-block", "file-content"),
    ("swapped-pointers", "file-content"),
    ("swapped-inodes", "file-content|size|map"),
    ("acl-new", "xattrs"),
    ("deleted", "file-missing"),
    ("truncated", "size"),
    ("grown", "size"),
    ("created", "file-new"),
    ("directory-created", "file-new"),
    ("renamed", "directory"),
    ("mode", "mode"),
    ("owner", "owner"),
    ("group", "owner"),
    ("mtime", "times"),
    ("atime", "times"),
    ("flags", "flags"),
    ("generation", "generation"),
    ("attribute-new", "xattrs"),
    ("attribute-changed", "xattrs"),
    ("attribute-lost", "xattrs"),
    ("link-lost", "directory"),
    ("link-gained", "directory"),
    ("symlink", "symlink"),
    ("entry-elsewhere", "directory"),
    ("uuid", "identity-changed"),
    ("label", "identity-changed"),
    ("options", "superblock"),
    ("reserved", "superblock"),
    ("feature", "superblock"),
    ("made-time", "superblock"),
    ("boot", "boot-block"),
    ("bitmap", "result-not-clean"),
    ("cross-linked", "result-not-clean"),
    ("inode-table", "result-not-clean"),
    // Where e2fsck looks at a backup only, it finds nothing.
    ("superblock", "result-not-clean|file-system-gone"),
    ("remade", "superblock"),
    ("cut", "result-not-clean"),
    ("nothing", "wrong-size"),
    ("wrong-size", "wrong-size"),
    ("exit", "resize-failed"),
    ("crash", "resize-failed"),
    ("unprintable", "resize-failed"),
];

/// With blocks of 1 KiB there is a second group, with backups.
const BACKUPS: &[Kind] = &[
    ("backup-superblock", "backup-superblock"),
    ("backup-descriptors", "backup-descriptors"),
];

const JOURNAL: &[Kind] = &[("journal", "journal"), ("journal-inode", "times")];
const EXTENTS: &[Kind] = &[("hole-filled", "map")];

/// Where chance decides what is hit, it decides more than once.
const SEEDED: [&str; 11] = [
    "bit",
    "duplicated-block",
    "zeroed-block",
    "swapped-content",
    "swapped-pointers",
    "deleted",
    "truncated",
    "renamed",
    "mode",
    "entry-elsewhere",
    "attribute-new",
];
const SEEDS: u64 = 3;

/// The arguments of the change that is tried.
pub const GROW: &[&str] = &["grow", "--yes", "--patience", "2"];
pub const SHRINK: &[&str] = &["shrink", "--yes", "--to", "12MiB"];

impl Scene {
    /// Lets `tool` do its work and then `kind`.
    pub fn harm(&self, tool: &str, kind: &str, seed: u64, stage: &str) {
        let library = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/hostile/harm.pl");
        std::fs::copy(library, self.path("bin").join("harm.pl")).unwrap();
        let harm = self.path("bin/harm.pl");
        let script = format!(
            "#!/bin/sh\nexec perl {} {kind} {seed} {stage} {OLD_BYTES} {tool} \"$@\"",
            text(&harm)
        );
        self.program(tool, &script);
    }
}

/// What the false tool says that it damaged.
pub fn harmed(log: &str) -> Vec<&str> {
    log.lines()
        .filter_map(|l| l.strip_prefix("HARM "))
        .collect()
}

fn is_one_of(codes: &str, code: &str) -> bool {
    codes.split('|').any(|one| one == code)
}

/// The answer is a rejection under `code`, and names what was damaged.
pub fn assert_caught(scene: &Scene, answer: &Answer, code: &str, log: &str, what: &str) {
    answer.assert(4, "rejected", what);
    let found = answer.refusals();
    assert!(
        found.iter().any(|(c, _)| is_one_of(code, c)),
        "{what}: no {code} in {found:#?}\n{log}"
    );
    for object in harmed(log) {
        assert!(
            found
                .iter()
                .any(|(c, m)| is_one_of(code, c) && m.contains(object)),
            "{what}: {object} is not named: {found:#?}"
        );
    }
    let plain = |text: &str| !text.chars().any(|c| c.is_control() && c != '\n');
    assert!(found.iter().all(|(_, m)| plain(m)), "{what}: {found:?}");
    scene.assert_nothing_left(what);
}

/// Tries every kind on a copy of an image, which must stay as it is.
fn try_all(image: (&str, &[&str]), change: &[&str], kinds: &[&[Kind]]) {
    let scene = Scene::new(image.0, image.1);
    let (target, before) = (scene.image(), Stamp::of(&scene.image()));
    let arguments: Vec<&str> = [change, &["--partition", "2", text(&target)]].concat();
    for (kind, code) in kinds.iter().copied().flatten() {
        let seeds = if SEEDED.contains(kind) { SEEDS } else { 1 };
        for seed in 1..=seeds {
            let what = format!("{image:?} {change:?}: {kind}, seed {seed}");
            scene.harm("resize2fs", kind, seed, "resize");
            let answer = scene.holdfast(&arguments);
            let log = scene.tool_log("resize2fs");
            assert_caught(&scene, &answer, code, &log, &what);
            assert_eq!(Stamp::of(&target), before, "{what}: the target was touched");
            scene.clear();
        }
    }
}

#[test]
fn every_kind_of_damage_to_ext4_is_caught() {
    if !root() {
        return;
    }
    let all = [COMMON, BACKUPS, JOURNAL, EXTENTS];
    try_all(("small-gpt", &[]), GROW, &all);
}

#[test]
fn every_kind_of_damage_to_a_shrinking_ext4_is_caught() {
    if !root() {
        return;
    }
    let all = [COMMON, BACKUPS, JOURNAL, EXTENTS];
    try_all(("small-gpt", &[]), SHRINK, &all);
}

#[test]
fn every_kind_of_damage_to_large_blocks_is_caught() {
    if !root() {
        return;
    }
    try_all(("small-4k", &[]), GROW, &[COMMON, JOURNAL, EXTENTS]);
}

#[test]
fn every_kind_of_damage_to_old_file_systems_is_caught() {
    if !root() {
        return;
    }
    try_all(("small-ext3", &[]), GROW, &[COMMON, BACKUPS, JOURNAL]);
    try_all(("small-ext2", &[]), SHRINK, &[COMMON, BACKUPS]);
}

#[test]
fn without_fuse_as_well() {
    if !root() {
        return;
    }
    let change = [GROW, &["--export", "copy"]].concat();
    try_all(
        ("small-old", &[]),
        &change,
        &[COMMON, BACKUPS, JOURNAL, EXTENTS],
    );
}

/// The disk as a loop device, whose partition the kernel knows.
#[test]
fn on_a_block_device_as_well() {
    if !root() {
        return;
    }
    let scene = Scene::new("small-swap", &[]);
    let before = Stamp::of(&scene.image());
    for (kind, code) in [
        ("bit", "file-content"),
        ("deleted", "file-missing"),
        ("boot", "boot-block"),
        ("nothing", "wrong-size"),
        ("beyond", "io-error"),
    ] {
        let device = Loop::on(&scene.image(), 512);
        let partition = device.add_partition(2, 3, 16);
        for target in [[text(device.path()), "-p2"], [text(&partition), "-q"]] {
            let what = format!("{target:?}: {kind}");
            scene.harm("resize2fs", kind, 7, "resize");
            let answer = scene.holdfast(&[GROW, &target].concat());
            let log = scene.tool_log("resize2fs");
            answer.assert(4, "rejected", &what);
            let found = answer.refusals();
            assert!(
                found.iter().any(|(c, _)| is_one_of(code, c)),
                "{what}: {found:#?}\n{log}"
            );
            scene.clear();
        }
        drop(device);
        scene.assert_nothing_left(kind);
        assert_eq!(
            Stamp::of(&scene.image()),
            before,
            "{kind}: the target was touched"
        );
    }
}

/// One after the other: two that hang, and one that never falls silent.
#[test]
fn one_that_hangs_is_stopped() {
    if !root() {
        return;
    }
    let scene = Scene::new("small-gpt", &[]);
    let (target, before) = (scene.image(), Stamp::of(&scene.image()));
    for export in ["fuse", "copy"] {
        for kind in ["hang", "hang-deaf", "spin", "endless"] {
            let what = format!("{kind} as {export}");
            scene.harm("resize2fs", kind, 1, "resize");
            let last = ["-p2", "--export", export, text(&target)];
            let answer = scene.holdfast(&[GROW, &last].concat());
            assert_caught(&scene, &answer, "tool-hung", "", &what);
            assert_eq!(Stamp::of(&target), before, "{what}: the target was touched");
            scene.clear();
        }
    }
}
