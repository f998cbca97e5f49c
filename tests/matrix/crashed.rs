//! File systems whose machine stopped: a journal that waits for replay, files that were deleted
//! while they were open.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::bed::Bed;
use super::host::{self, Loop, Mounted, run, text};
use super::journey;
use super::rows::{PLAIN, Place, Row, SHAPES, Shape};
use super::shape;
use super::tree::Tree;
use super::workspace;

/// Uses the file system in `base`, and copies it in the middle of that: what a power cut leaves.
fn crash(base: &Path, dir: &Path) -> PathBuf {
    let crashed = dir.join("crashed");
    let device = Loop::attach(base, &[]);
    let mounted = Mounted::on(&dir.join("used"), &device.node, "rw");
    let root = &mounted.point;
    let mut open = Vec::new();
    for n in 0..12 {
        let name = root.join(format!("open-{n}"));
        let mut file = File::create(&name).unwrap();
        file.write_all(&vec![n; 40_000]).unwrap();
        file.sync_all().unwrap();
        open.push(file);
        fs::remove_file(name).unwrap();
    }
    for n in 0..40 {
        let dir = root.join(format!("last-{n}"));
        fs::create_dir(&dir).unwrap();
        let mut file = File::create(dir.join("message")).unwrap();
        file.write_all(&vec![n; 9000]).unwrap();
        file.sync_all().unwrap();
    }
    fs::remove_file(root.join("user-01/cur/message-001")).unwrap();
    fs::rename(root.join("user-02"), root.join("last-0/user-02")).unwrap();
    File::open(root).unwrap().sync_all().unwrap();
    fs::copy(base, &crashed).unwrap();
    drop(open);
    crashed
}

/// What the kernel makes of it.
fn replayed(crashed: &Path, dir: &Path) -> Tree {
    let copy = dir.join("replayed");
    fs::copy(crashed, &copy).unwrap();
    let device = Loop::attach(&copy, &[]);
    let mounted = Mounted::on(&dir.join("replay"), &device.node, "rw,noatime");
    Tree::walk(&mounted.point)
}

fn shape_named(name: &str) -> Shape {
    *SHAPES
        .iter()
        .find(|shape| shape.name == name)
        .unwrap_or_else(|| panic!("no shape {name}"))
}

fn travel(shape: Shape, place: Place) {
    let dir = workspace();
    let base = shape::make(dir.path(), &shape, 7);
    let crashed = crash(&base, dir.path());
    let header = run("dumpe2fs", &["-h", text(&crashed)]);
    assert!(header.contains("needs_recovery"), "{header}");
    let before = replayed(&crashed, dir.path());
    let row = Row {
        shape,
        place,
        sector: 512,
    };
    told(row, &crashed, dir.path());
    journey::travel_from(row, &crashed, dir.path(), before);
}

/// What a person is told before anything is done: that the journal is replayed first; and after the
/// rehearsal, which files that deletes.
fn told(row: Row, crashed: &Path, dir: &Path) {
    let bed = Bed::make(dir, row, crashed);
    let keep = dir.join("keep");
    bed.keep(&keep);
    let target = bed.target();
    let target: Vec<&str> = target.iter().map(String::as_str).collect();
    let said = bed.holdfast(&[&["plan", "grow"], &target[..]].concat());
    assert_eq!((said.outcome(), said.code), ("done", 0), "{said:#?}");
    let plan = &said.document["plan"];
    let steps: Vec<&str> = plan["steps"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|step| step["name"].as_str())
        .collect();
    let (replay, check) = (
        steps.iter().position(|&s| s == "replay"),
        steps.iter().position(|&s| s == "check"),
    );
    assert!(replay.is_some() && replay < check, "{steps:?}");
    let notices = plan["notices"].to_string();
    assert!(notices.contains("waits for replay"), "{notices}");
    let said = bed.holdfast(&[&["plan", "grow", "--rehearse"], &target[..]].concat());
    assert_eq!((said.outcome(), said.code), ("done", 0), "{said:#?}");
    let deleted = said.notices.matches("is deleted").count();
    assert_eq!(deleted, 12, "{}", said.notices);
    bed.assert_same(&keep);
}

#[test]
fn a_journal_is_replayed_first() {
    if !host::is_root() {
        return;
    }
    travel(PLAIN, Place::Gpt);
    travel(shape_named("ext3"), Place::Bare);
    travel(shape_named("ext4 orphan_file"), Place::Bare);
}

/// e2fsck 1.47.0 says `Invalid argument while recovering journal`, exits with 0 and drops the fast
/// commits of a newer kernel, and with them files that were synced. It must not come to that,
/// whatever is asked for.
#[test]
fn a_journal_that_the_checker_would_drop_is_refused() {
    if !host::is_root() {
        return;
    }
    let dir = workspace();
    let shape = shape_named("ext4 fast_commit");
    let base = shape::make(dir.path(), &shape, 7);
    let crashed = crash(&base, dir.path());
    let row = Row {
        shape,
        place: Place::Bare,
        sector: 512,
    };
    let bed = Bed::make(dir.path(), row, &crashed);
    let keep = dir.path().join("keep");
    bed.keep(&keep);
    for (which, size) in [("grow", "max"), ("shrink", "21MiB"), ("shrink", "min")] {
        let said = bed.change(which, &["--to", size]);
        assert_eq!((said.outcome(), said.code), ("refused", 3), "{said:#?}");
        assert_eq!(said.codes(), ["ext-fast-commit"], "{said:#?}");
        bed.assert_same(&keep);
    }
    let target = bed.target();
    let said = bed.holdfast(&["check", &target[0]]);
    assert_eq!(said.codes(), ["ext-fast-commit"], "{said:#?}");
    // The way out that is named: the kernel replays it.
    {
        let device = Loop::attach(&bed.file, &[]);
        drop(Mounted::on(&dir.path().join("point"), &device.node, "rw"));
    }
    let said = bed.change("grow", &["--to", "max"]);
    assert_eq!((said.outcome(), said.code), ("done", 0), "{said:#?}");
    let place = (0, shape.sizes.most << 20);
    let after = Tree::read(&bed.file, place, &dir.path().join("point"));
    let differences = replayed(&crashed, dir.path()).differences(&after, false);
    assert!(differences.is_empty(), "{differences:#?}");
}
