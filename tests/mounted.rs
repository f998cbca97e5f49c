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
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use holdfast::disk::{Disk, DiskRead, Geometry};
use holdfast::export::{Export, How, Setup};
use holdfast::extent::{Extent, ExtentMap};
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
    let mounted = Mounted::at(&image, 0, "nouuid,noatime");
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
        let mounted = Mounted::at(&image, 0, "nouuid,noatime");
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
    // How long a mount takes differs from machine to machine: as often as it takes to hit some.
    for moment in 0..200u64 {
        if moment >= 24 && mounted > 8 && failed > 3 {
            break;
        }
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
        std::thread::sleep(Duration::from_micros(moment / 2 % 12 * 2000));
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

/// A memory cgroup of our own, of either version, removed when dropped.
struct Cgroup {
    dir: PathBuf,
    limit: &'static str,
}

impl Cgroup {
    fn new(bytes: u64) -> Cgroup {
        let name = format!("holdfast-test-{}", std::process::id());
        for (root, limit) in [
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            ("/sys/fs/cgroup", "memory.max"),
        ] {
            // In version 2 somebody must have said that there are such groups.
            let _ = std::fs::write(Path::new(root).join("cgroup.subtree_control"), "+memory");
            let dir = Path::new(root).join(&name);
            if std::fs::create_dir(&dir).is_err() {
                continue;
            }
            let group = Cgroup { dir, limit };
            if std::fs::write(group.dir.join(limit), bytes.to_string()).is_ok() {
                return group;
            }
        }
        panic!("no memory cgroup can be made: set HOLDFAST_WITHOUT_CGROUP=1 to leave this out");
    }

    /// How often the limit was met.
    fn pressed(&self) -> u64 {
        let read = |name: &str| std::fs::read_to_string(self.dir.join(name)).unwrap();
        match self.limit {
            "memory.max" => {
                let events = read("memory.events");
                let line = events.lines().find(|l| l.starts_with("max ")).unwrap();
                line[4..].parse().unwrap()
            }
            _ => read("memory.failcnt").trim().parse().unwrap(),
        }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for _ in 0..200 {
            if std::fs::remove_dir(&self.dir).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        assert!(std::thread::panicking(), "the cgroup stays");
    }
}

/// The kernel writes to a mounted file system in order to free memory, which the server of the
/// overlay must not wait for. With 96 MiB for everything, a replay of a full log and a growth come
/// to an end.
#[test]
fn little_memory_is_no_deadlock() {
    let bench = Bench::new();
    if std::env::var("HOLDFAST_WITHOUT_CGROUP").is_ok_and(|v| v == "1") {
        eprintln!("left out: HOLDFAST_WITHOUT_CGROUP=1");
        return;
    }
    let group = Cgroup::new(96 * MIB);
    let image = bench.path("image");
    blank(&image, 500 * MIB);
    sh(Command::new("mkfs.xfs").args(["-q", "-f"]).arg(&image));
    {
        let mounted = Mounted::at(&image, 0, "nouuid,noatime");
        let content = image::bytes(6000, 1);
        for n in 0..9000 {
            let dir = mounted.path().join(format!("dir{}", n / 200));
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::write(dir.join(format!("message-{n}")), &content).unwrap();
        }
        sh(Command::new("xfs_io")
            .args(["-x", "-c", "shutdown -f"])
            .arg(mounted.path()));
    }
    let line = r#"echo $$ >"$1/cgroup.procs" && shift && exec "$@""#;
    let mut program = Command::new("/bin/sh")
        .args(["-c", line, "sh"])
        .arg(&group.dir)
        .arg(env!("CARGO_BIN_EXE_holdfast"))
        .args([
            "plan",
            "grow",
            "--rehearse",
            "--quiet",
            "--disk-size",
            "4GiB",
        ])
        .arg("--state-dir")
        .args([&bench.path("state"), &image])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // A deadlock never ends. Far above what it takes on the slowest machine.
    let ended = (0..6000).any(|_| {
        std::thread::sleep(Duration::from_millis(50));
        program.try_wait().unwrap().is_some()
    });
    if !ended {
        let _ = program.kill();
    }
    let done = program.wait_with_output().unwrap();
    assert!(ended && done.status.success(), "{done:?}");
    let pressed = group.pressed();
    assert!(
        pressed > 1000,
        "the limit was met {pressed} times: no pressure"
    );
}

/// A disk whose writes wait, from some point on, until somebody lets them go.
struct Stuck {
    inner: Arc<Overlay>,
    writes: AtomicU64,
    released: (Mutex<bool>, Condvar),
}

impl Stuck {
    fn release(&self) {
        *self.released.0.lock().unwrap() = true;
        self.released.1.notify_all();
    }
}

impl DiskRead for Stuck {
    fn geometry(&self) -> Geometry {
        self.inner.geometry()
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        self.inner.read_at(offset, buf)
    }
}

impl Disk for Stuck {
    fn write_at(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        if self.writes.fetch_add(1, Ordering::SeqCst) > 5 {
            let mut released = self.released.0.lock().unwrap();
            while !*released {
                released = self.released.1.wait(released).unwrap();
            }
        }
        self.inner.write_at(offset, data)
    }
    fn flush(&self) -> std::io::Result<()> {
        self.inner.flush()
    }
    fn set_len(&self, len_bytes: u64) -> std::io::Result<()> {
        self.inner.set_len(len_bytes)
    }
    fn zero(&self, extent: Extent) -> std::io::Result<()> {
        self.inner.zero(extent)
    }
}

/// The kernel waits for a disk that does not answer, where no signal reaches it. It is given up on,
/// and everything ends.
#[test]
fn a_mount_that_hangs_is_given_up_on() {
    let bench = Bench::new();
    let image = xfs(&bench);
    let disk = Arc::new(Stuck {
        inner: bench.overlay(&image, 700 * MIB),
        writes: AtomicU64::new(0),
        released: Default::default(),
    });
    let setup = Setup {
        scratch: &bench.scratch(),
        programs: &[],
        used: &ExtentMap::new(),
        how: How::Fuse,
    };
    let export = Export::new(disk.clone(), setup).unwrap();
    let wired = Wired(&export);
    let tools = Tools::new(&wired).with_patience(Duration::from_secs(2));
    let failed = run(
        &Job::new(Kind::Xfs, Work::XfsGrow { bytes: 700 * MIB }),
        &tools,
    );
    let devices = overlay_loops();
    assert!(matches!(failed, Err(ToolError::Hung { .. })), "{failed:?}");
    disk.release();
    assert!(export.finish().is_err(), "what was written is not known");
    all_are_let_go(devices, "a mount that hangs");
}
