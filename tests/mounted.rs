//! A job on a file system that the kernel has mounted from an overlay: it grows, every file is
//! walked through, and nothing stays behind, whoever is killed.
//!
//! Needs root, /dev/fuse, loop devices, xfsprogs.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "common/mounted.rs"]
mod image;
mod support;

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use holdfast::export::{Export, How};
use holdfast::fs::mount::{Job, Kind, Rules, Walk, Work, compare_with, record, run};
use holdfast::fs::tool::{ToolError, Tools};
use holdfast::overlay::Overlay;
use image::{Mounted, blank, populate, sh};
use support::{Bench, Wired};

const MIB: u64 = 1 << 20;

const WALK: Walk = Walk {
    kind: Kind::Xfs,
    options: &[],
    rules: Rules {
        any_blocks: false,
        any_atime: false,
    },
};

fn xfs(bench: &Bench) -> PathBuf {
    let image = bench.path("image");
    blank(&image, 320 * MIB);
    sh(Command::new("mkfs.xfs").args(["-q", "-f"]).arg(&image));
    let mounted = Mounted::at(&image, 0, "noatime");
    populate(mounted.path());
    drop(mounted);
    image
}

/// Loop devices whose file is, or was, one of ours.
fn loops() -> String {
    sh(Command::new("losetup").args(["--list", "--noheadings", "--output", "BACK-FILE"]))
}

fn nothing_is_left() {
    for _ in 0..100 {
        if !loops().contains("/export/disk") {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    panic!("a loop device is left: {}", loops());
}

fn on<T>(overlay: &Arc<Overlay>, bench: &Bench, work: impl FnOnce(&Tools<'_>) -> T) -> T {
    let export: Export = bench.export(overlay.clone(), How::Fuse);
    let wired = Wired(&export);
    let done = work(&Tools::new(&wired).with_logs(&bench.logs()));
    export.finish().unwrap();
    nothing_is_left();
    done
}

#[test]
fn xfs_grows_and_every_file_stays() {
    let bench = Bench::new();
    let image = xfs(&bench);
    let before = support::hash(&image);
    let overlay = bench.overlay(&image, 700 * MIB);
    let mut spill = tempfile::tempfile().unwrap();
    on(&overlay, &bench, |tools| {
        record(WALK, tools, &mut spill).unwrap();
    });
    assert!(overlay.changed().is_empty(), "a walk writes nothing");
    on(&overlay, &bench, |tools| {
        let bytes = 700 * MIB;
        run(&Job::new(Kind::Xfs, Work::XfsGrow { bytes }), tools).unwrap();
    });
    assert!(!overlay.changed().is_empty());
    let same = on(&overlay, &bench, |tools| {
        compare_with(WALK, tools, &mut spill, 20).unwrap()
    });
    assert_eq!(same, [], "every file as it was");
    let grown = bench.extract(&*overlay, 700 * MIB);
    sh(Command::new("xfs_repair").args(["-n", "-f"]).arg(&grown));
    let info = sh(Command::new("xfs_db")
        .args(["-r", "-f", "-c", "sb 0", "-c", "print dblocks"])
        .arg(&grown));
    assert_eq!(info.trim(), format!("dblocks = {}", 700 * MIB / 4096));
    assert_eq!(support::hash(&image), before, "the base is as it was");
}

#[test]
fn what_differs_is_named() {
    let bench = Bench::new();
    let image = xfs(&bench);
    let overlay = bench.overlay(&image, 320 * MIB);
    let mut spill = tempfile::tempfile().unwrap();
    on(&overlay, &bench, |tools| {
        record(WALK, tools, &mut spill).unwrap();
    });
    {
        let mounted = Mounted::at(&image, 0, "noatime");
        let path = |name: &str| mounted.path().join(name);
        std::fs::remove_file(path("many/message 7 with a name that is long")).unwrap();
        std::fs::write(path("dir0/new"), "new").unwrap();
        sh(Command::new("chmod").arg("600").arg(path("dir1/file1")));
        sh(Command::new("setfattr")
            .args(["-h", "-n", "trusted.new", "-v", "1"])
            .arg(path("link")));
        sh(Command::new("touch")
            .args(["-d", "@12.5"])
            .arg(path("dir2")));
    }
    let fresh = bench.overlay(&image, 320 * MIB);
    let found = on(&fresh, &bench, |tools| {
        compare_with(WALK, tools, &mut spill, 50).unwrap()
    });
    let has = |code: &str, object: &str| found.iter().any(|d| d.code == code && d.object == object);
    assert!(
        has("file-missing", "/many/message 7 with a name that is long"),
        "{found:?}"
    );
    assert!(has("file-new", "/dir0/new"), "{found:?}");
    assert!(has("mode", "/dir1/file1"), "{found:?}");
    assert!(has("xattrs", "/link"), "{found:?}");
    assert!(has("times", "/dir2"), "{found:?}");
}

#[test]
fn a_copy_and_a_file_system_that_is_none_cannot_be_mounted() {
    let bench = Bench::new();
    let image = bench.path("image");
    blank(&image, 16 * MIB);
    let overlay = bench.overlay(&image, 16 * MIB);
    let export = bench.export(overlay.clone(), How::Copy);
    let wired = Wired(&export);
    match run(&Job::new(Kind::Xfs, Work::Replay), &Tools::new(&wired)) {
        Err(ToolError::Refused(refusal)) => assert_eq!(refusal.code, "mount-unavailable"),
        other => panic!("{other:?}"),
    }
    drop(export);
    let failed = on(&overlay, &bench, |tools| {
        run(&Job::new(Kind::Xfs, Work::Replay), tools)
            .unwrap_err()
            .to_string()
    });
    assert!(failed.contains("mounting it"), "{failed}");
}
