//! There and back.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use holdfast::disk::{DiskRead, FileDisk};
use holdfast::fs::ntfs::Ntfs;
use holdfast::fs::ntfs::volume::Volume;
use holdfast::fs::{Driver, GateState};

use super::loopdev::Loop;
use super::scene::{Answer, Scene, Stamp, hash, root, run, text};
use super::tree::{assert_same, tree};
use super::volume::{CROWDED, Kind, MIB, PACKED, USUAL, image, in_gpt};

/// The volume that is the partition of `disk` from `start` on, as a file of its own.
fn cut_out(scene: &Scene, disk: &Path, start: u64, len: u64) -> PathBuf {
    let part = scene.path("part");
    let (from, to) = (format!("if={}", text(disk)), format!("of={}", text(&part)));
    let (skip, count) = (
        format!("skip={}", start / MIB),
        format!("count={}", len / MIB),
    );
    run(
        "dd",
        &[
            &from,
            &to,
            "bs=1M",
            &skip,
            &count,
            "conv=sparse",
            "status=none",
        ],
    );
    part
}

/// What ntfs-3g's own tools find: every cluster accounted for, and the boot sector's backup where
/// it belongs.
fn assert_sound(volume: &Path, what: &str) {
    let said = run(
        "ntfsresize",
        &["--info", "--force", "--no-progress-bar", text(volume)],
    );
    assert!(said.contains("Accounting clusters"), "{what}: {said}");
    let said = run("ntfsfix", &["-n", text(volume)]);
    assert!(
        said.contains("alternate boot sector... OK"),
        "{what}: {said}"
    );
}

fn id_of(answer: &Answer) -> String {
    answer.document["transaction"].as_str().unwrap().to_string()
}

/// A bare volume: grown with its image, then shrunk again, and undone.
fn bare(kind: Kind, to_mib: u64, least_mib: u64) {
    let what = format!("{kind:?}");
    let volume = image(kind);
    let scene = Scene::of(&volume);
    let target = scene.image();
    let (before, files) = (hash(&target), tree(&target));
    let size = format!("{to_mib}MiB");
    let grow = ["grow", text(&target), "--disk-size", &size, "--yes"];
    let grown = scene.holdfast(&grow);
    grown.assert(0, "done", &what);
    assert!(
        grown.errors.is_empty() || !grown.errors.contains("panicked"),
        "{}",
        grown.errors
    );
    assert_sound(&target, &what);
    assert_same(&files, &tree(&target), &what);
    // Our own change left it dirty, and there is nothing to do.
    scene.holdfast(&grow).assert(0, "no-change", &what);
    scene
        .holdfast(&["rollback", &id_of(&grown), "--yes"])
        .assert(0, "done", &what);
    assert_eq!(hash(&target), before, "{what}");

    let size = format!("{least_mib}MiB");
    let shrink = ["shrink", text(&target), "--to", &size, "--yes"];
    let shrunk = scene.holdfast(&shrink);
    shrunk.assert(0, "done", &what);
    assert_same(&files, &tree(&target), &what);
    scene.holdfast(&shrink).assert(0, "no-change", &what);
    let part = cut_out(&scene, &target, 0, least_mib * MIB);
    assert_sound(&part, &what);
    assert_same(&files, &tree(&part), &what);
    scene
        .holdfast(&["rollback", &id_of(&shrunk), "--yes"])
        .assert(0, "done", &what);
    assert_eq!(hash(&target), before, "{what}");
    scene.assert_nothing_left_but_journals(&what);
}

impl Scene {
    fn assert_nothing_left_but_journals(&self, what: &str) {
        self.clear();
        self.assert_nothing_left(what);
    }
}

#[test]
fn a_bare_volume() {
    if root() {
        bare(USUAL, 80, 32);
    }
}

#[test]
fn files_in_many_pieces() {
    if root() {
        bare(CROWDED, 40, 20);
    }
}

/// ntfsresize takes new records for maps that have no room any more.
#[test]
fn a_shrink_that_needs_more_records() {
    if !root() {
        return;
    }
    let extensions = |path: &Path| {
        let disk = FileDisk::open_read(path).unwrap();
        let volume = Volume::open(&disk).unwrap();
        let inodes = (0..volume.records).filter_map(|n| volume.inode(n).ok());
        inodes.map(|inode| inode.extensions.len()).sum::<usize>()
    };
    let scene = Scene::of(&image(PACKED));
    let target = scene.image();
    let (before, files, parts) = (hash(&target), tree(&target), extensions(&target));
    let shrunk = scene.holdfast(&["shrink", text(&target), "--to", "25MiB", "--yes"]);
    shrunk.assert(0, "done", "packed");
    assert!(extensions(&target) > parts, "none was needed");
    assert_same(&files, &tree(&target), "packed");
    let back = scene.holdfast(&["rollback", &id_of(&shrunk), "--yes"]);
    back.assert(0, "done", "packed");
    assert_eq!(hash(&target), before);
}

#[test]
fn other_clusters_and_sectors() {
    if !root() {
        return;
    }
    for (sector, cluster) in [(512, 512), (4096, 4096), (512, 65536)] {
        let kind = Kind {
            sector,
            cluster,
            ..USUAL
        };
        bare(kind, 64, 36);
    }
}

/// A partition that ends with the room in a GPT, which is no number of clusters: the backup of the
/// boot sector is in its last sector all the same. (Tables and sectors are tried in `systems`.)
#[test]
fn on_a_loop_device() {
    if !root() {
        return;
    }
    let volume = image(USUAL);
    let scene = Scene::of(&volume);
    let files = tree(&volume);
    let disk = scene.path("disk");
    in_gpt(&volume, &disk, 70, 512);
    let before = hash(&disk);
    let device = Loop::on(&disk, 512);
    let node = device.add_partition(2, 2, 48);
    let grown = scene.holdfast(&["grow", text(&node), "--to", "max", "--yes"]);
    grown.assert(0, "done", "loop");
    assert_same(&files, &tree(&node), "loop");
    assert_sound(&node, "loop");
    let again = scene.holdfast(&["grow", text(&node), "--to", "max", "--yes"]);
    again.assert(0, "no-change", "loop");
    let back = scene.holdfast(&["rollback", &id_of(&grown), "--yes"]);
    back.assert(0, "done", "loop");
    drop(device);
    assert_eq!(hash(&disk), before);
}

/// The plan says what the change leaves behind.
#[test]
fn a_plan_says_what_windows_will_do() {
    if !root() {
        return;
    }
    let scene = Scene::of(&image(USUAL));
    let before = Stamp::of(&scene.image());
    let target = scene.image();
    let plan = scene.holdfast(&["plan", "shrink", text(&target), "--to", "40MiB"]);
    plan.assert(0, "done", "plan");
    let notices = plan.document["plan"]["notices"].to_string();
    assert!(notices.contains("chkdsk"), "{plan:#?}");
    assert_eq!(Stamp::of(&target), before);
}

/// Killed at every flush of the commit, the volume is either refused by everybody or whole, and
/// `recover` brings it to one of its two ends.
#[test]
fn killed_in_the_middle() {
    if !root() {
        return;
    }
    for (verb, size) in [("grow", "--disk-size=64MiB"), ("shrink", "--to=36MiB")] {
        let (mut gates, mut forward) = (0, 0);
        let volume = image(USUAL);
        let (before, files) = (hash(&volume), tree(&volume));
        for nth in 1.. {
            let what = format!("{verb}, flush {nth}");
            let scene = Scene::of(&volume);
            let target = scene.image();
            let command = scene.command(&[verb, text(&target), size, "--yes"]);
            // The main thread alone: it writes target and journal.
            let inject = format!("inject=fsync:signal=SIGKILL:when={nth}");
            let mut traced = Command::new("strace");
            traced.args(["-qq", "-o", "/dev/null", "-e", "trace=fsync", "-e", &inject]);
            traced.arg(command.get_program()).args(command.get_args());
            if traced
                .stdin(Stdio::null())
                .output()
                .unwrap()
                .status
                .success()
            {
                break;
            }
            assert!(nth < 60, "{what}: it never ends");
            let closed = gate_stands(&target);
            if closed {
                gates += 1;
                let as_found = hash(&target);
                let said = Command::new("ntfsfix").arg(&target).output().unwrap();
                assert!(!said.status.success(), "{what}: {said:?}");
                assert_eq!(hash(&target), as_found, "{what}: ntfsfix wrote");
            }
            let recovered = scene.holdfast(&["recover"]);
            assert_eq!(recovered.code, 0, "{what}: {recovered:#?}");
            assert!(!gate_stands(&target), "{what}");
            if hash(&target) != before {
                forward += 1;
                assert_same(&files, &tree(&target), &what);
            }
            let info = ["--info", "--force", "--no-progress-bar", text(&target)];
            run("ntfsresize", &info);
        }
        assert!(
            gates >= 2 && forward >= 2,
            "{verb}: {gates} gates, {forward} went on"
        );
    }
}

fn gate_stands(target: &Path) -> bool {
    let mut boot = [0; 512];
    let disk = FileDisk::open_read(target).unwrap();
    disk.read_at(0, &mut boot).unwrap();
    matches!(Ntfs.gate(&boot), GateState::Closed(_))
}
