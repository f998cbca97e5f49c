//! P3 with real processes: the program is killed at every write, flush and truncation that it makes
//! itself, on an image and on a loop device, and then recovers. Breadth comes from the simulator: a
//! killed process loses no cache. This tests what is around the journal: directories, locks, exit
//! codes, the way back from a cold start.
//!
//! strace delivers the signal. It follows the main thread alone, which makes all writes to the
//! target and to the journal. With HOLDFAST_LONG=1 every call is tried, else a sample.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_holdfast");
const CALLS: [&str; 3] = ["pwrite64", "fsync", "ftruncate"];
const SIGKILL: i32 = 9;

/// A private directory on a real disk.
struct Place {
    dir: tempfile::TempDir,
    original: Vec<u8>,
}

impl Place {
    fn new(image: &str) -> Place {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let path = dir.path().join("original.img");
        let make = Path::new(env!("CARGO_MANIFEST_DIR")).join("images/make");
        run(Command::new(make).arg(image).arg(&path)).expect_code(0);
        let original = std::fs::read(&path).unwrap();
        Place { dir, original }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The image as it was, and an empty state directory.
    fn reset(&self, image: &Path) {
        std::fs::write(image, &self.original).unwrap();
        let _ = std::fs::remove_dir_all(self.path("state"));
    }

    fn holdfast(&self, args: &[&str]) -> Ran {
        let state = self.path("state");
        run(Command::new(PROGRAM)
            .args(args)
            .args(["--json", "--state-dir"])
            .arg(state))
    }

    /// Runs a change under strace, which kills it at the `n`-th call of this kind.
    fn killed(&self, call: &str, n: usize, args: &[&str]) -> Ran {
        let inject = format!("inject={call}:signal=KILL:when={n}");
        let mut command = Command::new("strace");
        command.args([
            "-qq",
            "-o",
            "/dev/null",
            "-e",
            &format!("trace={call}"),
            "-e",
            &inject,
        ]);
        command
            .arg(PROGRAM)
            .args(args)
            .args(["--yes", "--json", "--state-dir"])
            .arg(self.path("state"));
        run(&mut command)
    }

    /// How often the main thread makes each call in an undisturbed run.
    fn calls(&self, args: &[&str]) -> Vec<(&'static str, usize)> {
        let log = self.path("strace.log");
        let mut command = Command::new("strace");
        command
            .arg("-qq")
            .arg("-o")
            .arg(&log)
            .args(["-e", &format!("trace={}", CALLS.join(","))]);
        command
            .arg(PROGRAM)
            .args(args)
            .args(["--yes", "--json", "--state-dir"])
            .arg(self.path("state"));
        run(&mut command).expect_code(0);
        let text = std::fs::read_to_string(&log).unwrap();
        let count = |call| {
            text.lines()
                .filter(|l| l.starts_with(&format!("{call}(")))
                .count()
        };
        CALLS.map(|call| (call, count(call))).to_vec()
    }
}

struct Ran {
    output: Output,
    what: String,
}

fn run(command: &mut Command) -> Ran {
    let what = format!("{command:?}");
    Ran {
        output: command.output().unwrap_or_else(|e| panic!("{what}: {e}")),
        what,
    }
}

impl Ran {
    fn text(&self) -> String {
        let out = String::from_utf8_lossy(&self.output.stdout);
        format!(
            "{}\n{out}\n{}",
            self.what,
            String::from_utf8_lossy(&self.output.stderr)
        )
    }

    fn expect_code(&self, code: i32) -> &Ran {
        assert_eq!(self.output.status.code(), Some(code), "{}", self.text());
        self
    }

    fn was_killed(&self) -> bool {
        self.output.status.signal() == Some(SIGKILL)
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.output.stdout)
            .unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }
}

/// The states of all transactions.
fn states(place: &Place) -> Vec<String> {
    let doc = place.holdfast(&["status"]).expect_code(0).json();
    let entries = doc["transactions"].as_array().unwrap();
    entries
        .iter()
        .map(|e| e["progress"].as_str().unwrap().to_string())
        .collect()
}

/// While the gate stands nobody gets in: fsck, the kernel, another holdfast.
fn nobody_enters(place: &Place, image: &Path, offset: u64) {
    let as_found = std::fs::read(image).unwrap();
    let part = place.path("part.img");
    std::fs::write(&part, &as_found[offset as usize..]).unwrap();
    run(Command::new("e2fsck").arg("-p").arg(&part)).expect_code(8);
    let elsewhere = place.path("elsewhere");
    let mut other = Command::new(PROGRAM);
    other.args([
        "grow",
        image.to_str().unwrap(),
        "--partition",
        "2",
        "--yes",
        "--json",
        "--state-dir",
    ]);
    let answer = run(other.arg(&elsewhere));
    assert_eq!(answer.expect_code(8).json()["outcome"], "recovery-needed");
    let mountpoint = place.path("mountpoint");
    std::fs::create_dir_all(&mountpoint).unwrap();
    let mounted = run(Command::new("mount")
        .args(["-o", "loop,ro"])
        .arg(&part)
        .arg(&mountpoint));
    if mounted.output.status.success() {
        run(Command::new("umount").arg(&mountpoint));
        panic!("the kernel mounted a file system behind a gate");
    }
    assert!(
        std::fs::read(image).unwrap() == as_found,
        "nobody wrote anything"
    );
}

/// Whether the gate stands in the partition at `offset`: its bit among the incompatible features.
fn is_gated(image: &Path, offset: u64) -> bool {
    let bytes = std::fs::read(image).unwrap();
    let name = offset as usize + 1024 + 0x88;
    bytes[name..name + 9] == *b"holdfast:"
}

/// Kills at `n` of every call, recovers, and accepts only before or after.
fn kill_everywhere(place: &Place, image: &Path, args: &[&str], offset: u64) {
    place.reset(image);
    let calls = place.calls(args);
    let (mut kills, mut old, mut new, mut gated) = (0, 0, 0, 0);
    let long = std::env::var_os("HOLDFAST_LONG").is_some();
    for (call, count) in calls {
        let step = if long { 1 } else { count.div_ceil(14).max(1) };
        for n in (1..=count).step_by(step) {
            place.reset(image);
            let killed = place.killed(call, n, args);
            assert!(
                killed.was_killed(),
                "{call} {n} of {count}: {}",
                killed.text()
            );
            kills += 1;
            let context = format!("killed at {call} {n} of {count}");
            if is_gated(image, offset) {
                gated += 1;
                if gated % 4 == 1 {
                    nobody_enters(place, image, offset);
                }
            }
            let forward = kills % 3 == 0;
            let recover: &[&str] = if forward {
                &["recover", "--forward"]
            } else {
                &["recover"]
            };
            let answer = place.holdfast(recover);
            let doc = answer.expect_code(0).json();
            let applied = states(place).last().is_some_and(|s| s == "applied");
            match doc["outcome"].as_str() {
                Some("done") => assert_eq!(doc["recovered"][0]["applied"], applied, "{context}"),
                Some("no-change") => {}
                _ => panic!("{context}: {}", answer.text()),
            }
            if applied {
                new += 1;
                // Byte for byte what the rehearsal made: only then can it be undone.
                let id = doc_id(place);
                place.holdfast(&["rollback", &id, "--yes"]).expect_code(0);
            } else {
                old += 1;
            }
            assert!(
                std::fs::read(image).unwrap() == place.original,
                "{context}: not as before"
            );
            assert!(!is_gated(image, offset), "{context}");
        }
    }
    println!(
        "{kills} kills, {gated} with the gate closed; recovered to {old} before, {new} after; 0 lost"
    );
    assert!(
        kills > 20 && new > 2 && old > 10 && gated > 5,
        "{kills} {new} {old} {gated}"
    );
}

fn doc_id(place: &Place) -> String {
    let doc = place.holdfast(&["status"]).json();
    let entries = doc["transactions"].as_array().unwrap();
    entries.last().unwrap()["id"].as_str().unwrap().to_string()
}

const PARTITION_OFFSET: u64 = 3 << 20;

#[test]
fn p3_a_killed_grow_of_an_image() {
    let place = Place::new("small-gpt");
    let image = place.path("disk.img");
    let name = image.to_str().unwrap().to_string();
    kill_everywhere(
        &place,
        &image,
        &["grow", &name, "--partition", "2"],
        PARTITION_OFFSET,
    );
}

#[test]
fn p3_a_killed_grow_that_extends_an_image() {
    let place = Place::new("small-gpt");
    let image = place.path("disk.img");
    let name = image.to_str().unwrap().to_string();
    let args = ["grow", &name, "--partition", "2", "--disk-size", "48MiB"];
    kill_everywhere(&place, &image, &args, PARTITION_OFFSET);
}

#[test]
fn p3_a_killed_shrink_of_an_image() {
    let place = Place::new("small-4k");
    let image = place.path("disk.img");
    let name = image.to_str().unwrap().to_string();
    let args = [
        "shrink",
        &name,
        "--partition",
        "2",
        "--to",
        "12MiB",
        "--verify",
        "all",
    ];
    kill_everywhere(&place, &image, &args, PARTITION_OFFSET);
}

/// A loop device, detached when dropped.
struct Loop(String);

impl Loop {
    fn attach(file: &Path) -> Loop {
        let ran = run(Command::new("losetup").args(["--find", "--show"]).arg(file));
        ran.expect_code(0);
        Loop(
            String::from_utf8_lossy(&ran.output.stdout)
                .trim()
                .to_string(),
        )
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("partx").args(["-d", &self.0]).output();
        let _ = Command::new("losetup").args(["-d", &self.0]).output();
    }
}

/// Killed on one block device, recovered on another: the disk is known by what it carries. Two
/// disks that carry the same are both named, and neither is touched.
#[test]
fn p3_a_disk_is_known_again_under_another_name() {
    let place = Place::new("small-gpt");
    let image = place.path("disk.img");
    place.reset(&image);
    let first = Loop::attach(&image);
    let args = ["grow", &first.0, "--partition", "2"];
    // The flush that makes the gate durable comes after those of the directory, the manifests and
    // the journal.
    let mut n = 1;
    loop {
        let killed = place.killed("pwrite64", n, &args);
        if is_gated(&image, PARTITION_OFFSET) {
            assert!(killed.was_killed());
            break;
        }
        assert!(
            killed.was_killed(),
            "the gate was never seen: {}",
            killed.text()
        );
        let _ = std::fs::remove_dir_all(place.path("state"));
        n += 1;
    }
    let wait = Command::new("sync").status().unwrap();
    assert!(wait.success());
    drop(first);
    let copy = place.path("copy.img");
    std::fs::copy(&image, &copy).unwrap();
    // Another loop device takes the old name.
    let empty = place.path("empty.img");
    std::fs::write(&empty, vec![0; 1 << 20]).unwrap();
    let _taker = Loop::attach(&empty);
    let second = Loop::attach(&image);
    let clone = Loop::attach(&copy);
    let refused = place.holdfast(&["recover"]);
    let doc = refused.expect_code(3).json();
    assert_eq!(doc["refusals"][0]["code"], "several-targets");
    let message = doc["refusals"][0]["message"].as_str().unwrap();
    assert!(
        message.contains(&second.0) && message.contains(&clone.0),
        "{message}"
    );
    drop(clone);
    let doc = place.holdfast(&["recover"]).expect_code(0).json();
    assert_eq!(doc["recovered"][0]["target"], second.0.as_str());
    drop(second);
    assert!(std::fs::read(&image).unwrap() == place.original);
    assert!(
        std::fs::read(&copy).unwrap() != place.original,
        "the copy was left alone"
    );
}

/// Somebody opens the gate by force between the crash and the recovery.
#[test]
fn p3_a_forced_entry_is_named() {
    let place = Place::new("small-gpt");
    let image = place.path("disk.img");
    let name = image.to_str().unwrap().to_string();
    let args = ["grow", &name, "--partition", "2"];
    place.reset(&image);
    let writes = place.calls(&args)[0].1;
    // The last write closes the journal, the one before opens the gate.
    place.reset(&image);
    assert!(place.killed("pwrite64", writes - 3, &args).was_killed());
    assert!(is_gated(&image, PARTITION_OFFSET));
    let mut bytes = std::fs::read(&image).unwrap();
    let superblock = PARTITION_OFFSET as usize + 1024;
    let old = superblock..superblock + 1024;
    bytes[old.clone()].copy_from_slice(&place.original[old]);
    let inside = place.path("inside.img");
    std::fs::write(&inside, &bytes[PARTITION_OFFSET as usize..]).unwrap();
    let _ = run(Command::new("e2fsck").arg("-fy").arg(&inside));
    let forced = std::fs::read(&inside).unwrap();
    bytes[PARTITION_OFFSET as usize..].copy_from_slice(&forced);
    std::fs::write(&image, &bytes).unwrap();
    let doc = place.holdfast(&["recover"]).expect_code(3).json();
    assert_eq!(doc["refusals"][0]["code"], "target-changed");
    assert!(
        std::fs::read(&image).unwrap() == bytes,
        "nothing was written"
    );
    assert_eq!(states(&place), ["hot"]);
    let id = doc_id(&place);
    place.holdfast(&["abandon", &id]).expect_code(3);
    place
        .holdfast(&["abandon", &id, "--confirm", &id])
        .expect_code(0);
    assert_eq!(states(&place), ["abandoned"]);
}
