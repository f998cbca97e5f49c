//! A job on a file system that the kernel has mounted from an overlay: it grows, every file is
//! walked through, and nothing stays behind, whoever is killed.
//!
//! Needs root, /dev/fuse, loop devices, xfsprogs.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "common/mounted.rs"]
mod image;
mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use holdfast::export::{Export, How};
use holdfast::fs::mount::{Job, Kind, Rules, Walk, Work, compare_with, record, run};
use holdfast::fs::tool::{ToolError, Tools};
use holdfast::overlay::Overlay;
use image::{Mounted, blank, populate, sh};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
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

fn on<T>(overlay: &Arc<Overlay>, bench: &Bench, work: impl FnOnce(&Tools<'_>) -> T) -> T {
    let export: Export = bench.export(overlay.clone(), How::Fuse);
    let wired = Wired(&export);
    let done = work(&Tools::new(&wired).with_logs(&bench.logs()));
    // Fails where the loop device still holds the file.
    export.finish().unwrap();
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

/// The process that mounts, of the program `parent`.
fn mounter_of(parent: u32) -> Option<u32> {
    let wanted = format!("PPid:\t{parent}\n");
    std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .find_map(|entry| {
            let number = entry.file_name().to_str()?.parse().ok()?;
            let status = std::fs::read_to_string(entry.path().join("status")).ok()?;
            let line = std::fs::read(entry.path().join("cmdline")).ok()?;
            let line = String::from_utf8_lossy(&line).into_owned();
            (status.contains(&wanted) && line.contains("--do-mounted-job")).then_some(number)
        })
}

/// Devices of overlays, also of other tests.
fn overlay_loops() -> Vec<String> {
    let said =
        sh(Command::new("losetup").args(["--list", "--noheadings", "--output", "NAME,BACK-FILE"]));
    let ours = said.lines().filter(|line| line.contains("/export/disk"));
    ours.map(|line| line.split_whitespace().next().unwrap().to_string())
        .collect()
}

/// Each of these devices is seen detached once: other tests may attach it again.
fn all_are_let_go(mut devices: Vec<String>, what: &str) {
    for _ in 0..1200 {
        let now = overlay_loops();
        devices.retain(|device| now.contains(device));
        if devices.is_empty() {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("{what}: left behind: {devices:?}");
}

/// Either process is killed at moments in the middle of mount, growth and unmount. Nothing stays:
/// no process, no loop device, no mount. When the one that mounts is killed, the program says that
/// the rehearsal failed.
#[test]
fn nothing_is_left_behind_by_a_kill() {
    let bench = Bench::new();
    let image = xfs(&bench);
    std::fs::File::options()
        .write(true)
        .open(&image)
        .unwrap()
        .set_len(700 * MIB)
        .unwrap();
    let before = support::hash(&image);
    let state = bench.path("state");
    let (mut mounted, mut failed) = (0, 0);
    for moment in 0..24u64 {
        let what = format!("moment {moment}");
        let mut program = Command::new(env!("CARGO_BIN_EXE_holdfast"))
            .args(["plan", "grow", "--rehearse", "--quiet", "--state-dir"])
            .args([&state, &image])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let parent = program.id();
        let child = loop {
            if let Some(child) = mounter_of(parent) {
                break Some(child);
            }
            if program.try_wait().unwrap().is_some() {
                break None;
            }
        };
        let Some(child) = child else { continue };
        std::thread::sleep(Duration::from_micros(moment / 2 * 4000));
        let devices = overlay_loops();
        mounted += usize::from(!devices.is_empty());
        let victim = if moment % 2 == 0 { child } else { parent };
        let _ = kill(Pid::from_raw(victim as i32), Signal::SIGKILL);
        let status = program.wait().unwrap();
        failed += usize::from(status.code() == Some(4));
        for process in [parent, child] {
            let gone = (0..600).any(|_| {
                let there = Path::new(&format!("/proc/{process}")).exists();
                if there {
                    std::thread::sleep(Duration::from_millis(50));
                }
                !there
            });
            assert!(gone, "{what}: process {process} stays");
        }
        all_are_let_go(devices, &what);
        assert_eq!(support::hash(&image), before, "{what}");
    }
    assert!(
        mounted > 8 && failed > 3,
        "{mounted} {failed}: too little was under way"
    );
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains("xfs") || !mounts.contains(bench.path("").to_str().unwrap()));
    // And undisturbed it goes through.
    let done = Command::new(env!("CARGO_BIN_EXE_holdfast"))
        .args(["plan", "grow", "--rehearse", "--quiet", "--state-dir"])
        .args([&state, &image])
        .output()
        .unwrap();
    assert!(done.status.success(), "{done:?}");
}
