//! A hostile `e2fsck` or `tune2fs`: before the resize, where only stamps may change, and after it.

use super::resizer::{GROW, SHRINK, assert_caught};
use super::scene::{Scene, Stamp, root, run, text};

/// The tool, when it strikes, its harm, and the code under which that is found.
const CASES: &[(&str, &str, &str, &str)] = &[
    ("tune2fs", "before", "bit", "check-repaired"),
    ("tune2fs", "before", "deleted", "check-repaired"),
    ("tune2fs", "before", "mode", "check-repaired"),
    ("tune2fs", "before", "label", "check-repaired"),
    ("tune2fs", "before", "journal", "check-repaired"),
    ("tune2fs", "before", "backup-superblock", "check-repaired"),
    ("tune2fs", "before", "backup-descriptors", "check-repaired"),
    ("tune2fs", "before", "superblock", "result-unreadable"),
    ("tune2fs", "before", "inode-table", "check-repaired"),
    ("tune2fs", "before", "exit", "damaged-file-system"),
    ("tune2fs", "before", "hang", "tool-hung"),
    ("e2fsck", "before", "bit", "check-repaired"),
    ("e2fsck", "before", "entry-elsewhere", "check-repaired"),
    ("e2fsck", "before", "mtime", "check-repaired"),
    ("e2fsck", "before", "options", "check-repaired"),
    ("e2fsck", "before", "exit", "damaged-file-system"),
    ("e2fsck", "after", "bit", "file-content"),
    ("e2fsck", "after", "deleted", "file-missing"),
    ("e2fsck", "after", "mode", "mode"),
    ("e2fsck", "after", "attribute-changed", "xattrs"),
    ("e2fsck", "after", "label", "identity-changed"),
    ("e2fsck", "after", "journal", "journal"),
    (
        "e2fsck",
        "after",
        "backup-descriptors",
        "backup-descriptors",
    ),
    ("e2fsck", "after", "superblock", "file-system-gone"),
    ("e2fsck", "after", "exit", "result-not-clean"),
    ("e2fsck", "after", "hang", "tool-hung"),
];

fn try_cases(image: &str, change: &[&str]) {
    let scene = Scene::new(image, &[]);
    let (target, before) = (scene.image(), Stamp::of(&scene.image()));
    for (tool, stage, kind, code) in CASES {
        let what = format!("{image}: {tool} {stage}: {kind}");
        scene.harm(tool, kind, 11, stage);
        let answer = scene.holdfast(&[change, &["--partition", "2", text(&target)]].concat());
        let log = scene.tool_log(tool);
        if *code == "damaged-file-system" {
            // Without a hostile tool this is what a damaged file system looks like.
            answer.assert(3, "refused", &what);
            assert_eq!(answer.refusals()[0].0, *code, "{what}: {answer:#?}");
            scene.assert_nothing_left(&what);
        } else {
            // Before the resize, bytes are found and not yet files.
            let log = if *stage == "after" { &log } else { "" };
            assert_caught(&scene, &answer, code, log, &what);
        }
        assert_eq!(Stamp::of(&target), before, "{what}: the target was touched");
        scene.clear();
        std::fs::remove_file(scene.path("bin").join(tool)).unwrap();
    }
}

#[test]
fn a_checker_that_changes_something_is_caught() {
    if !root() {
        return;
    }
    try_cases("small-gpt", GROW);
}

#[test]
fn a_checker_that_changes_something_is_caught_when_shrinking() {
    if !root() {
        return;
    }
    try_cases("small-old", &[SHRINK, &["--patience", "2"]].concat());
}

/// The one tool that would have noticed says that all is well.
#[test]
fn a_resizer_and_a_checker_that_covers_for_it_are_caught() {
    if !root() {
        return;
    }
    let scene = Scene::new("small-gpt", &[]);
    let target = scene.image();
    let twin = scene.path("twin");
    std::fs::write(&twin, [0x33; 700]).unwrap();
    for name in ["twin1", "twin2"] {
        let request = format!("write {} {name}", text(&twin));
        let offset = format!("{}?offset={}", text(&target), 3 << 20);
        run("debugfs", &["-w", "-R", &request, &offset]);
    }
    std::fs::File::open(&target).unwrap().sync_all().unwrap();
    let before = Stamp::of(&target);
    scene.harm("e2fsck", "liar", 1, "after");
    for (kind, code) in [
        ("bit", "file-content"),
        ("deleted", "file-missing"),
        ("superblock", "file-system-gone"),
        ("inode-table", "mode"),
        ("cross-linked", "file-content"),
        ("nothing", "wrong-size"),
        ("forged-bitmap", "allocation"),
        ("forged-share", "allocation"),
    ] {
        scene.harm("resize2fs", kind, 3, "resize");
        let answer = scene.holdfast(&[GROW, &["-p2", text(&target)]].concat());
        let log = scene.tool_log("resize2fs");
        assert_caught(&scene, &answer, code, &log, kind);
        assert_eq!(Stamp::of(&target), before, "{kind}: the target was touched");
        scene.clear();
    }
}

/// A replay may change much, and the replay of our own says what. The harm is done at each call, so it
/// is of a kind that can be done twice.
#[test]
fn a_checker_that_changes_something_in_a_replay_is_caught() {
    if !root() {
        return;
    }
    let scene = Scene::new("small-gpt", &[]);
    let target = scene.image();
    let offset = format!("{}?offset={}", text(&target), 3 << 20);
    let block = scene.path("block");
    std::fs::write(&block, [0; 1024]).unwrap();
    let commands = scene.path("commands");
    std::fs::write(&commands, format!("jo\njw -b 15000 {}\njc\n", text(&block))).unwrap();
    run("debugfs", &["-w", "-f", text(&commands), &offset]);
    std::fs::File::open(&target).unwrap().sync_all().unwrap();
    let before = Stamp::of(&target);
    let change = [GROW, &["-p2", text(&target)]].concat();
    for (kind, code) in [
        ("zeroed-block", "file-content"),
        ("mode", "mode"),
        ("deleted", "file-missing"),
        ("owner", "owner"),
        ("attribute-new", "xattrs"),
        ("label", "superblock"),
    ] {
        scene.harm("e2fsck", kind, 4, "before");
        let answer = scene.holdfast(&change);
        let log = scene.tool_log("e2fsck");
        assert!(log.contains("recovering journal"), "{kind}: {log}");
        assert_caught(&scene, &answer, code, &log, kind);
        assert_eq!(Stamp::of(&target), before, "{kind}: the target was touched");
        scene.clear();
    }
    std::fs::remove_file(scene.path("bin/e2fsck")).unwrap();
    scene.holdfast(&change).assert(0, "done", "the honest one");
}
