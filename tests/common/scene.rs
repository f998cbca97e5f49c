//! A copy of an image, a state directory and perhaps false tools, all in one directory; the binary
//! run on them; and a look at what it left behind.
#![allow(dead_code, reason = "not every test uses everything")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;

/// Where files may be large, and are not in memory.
const PLACE: &str = env!("CARGO_TARGET_TMPDIR");

/// Whether the tests can run. Without root they cannot, and that is a failure, unless somebody said
/// that there is none.
pub fn root() -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    assert!(
        std::env::var("HOLDFAST_WITHOUT_ROOT").is_ok_and(|v| v == "1"),
        "these tests use loop devices and mounts: run them as root, or set HOLDFAST_WITHOUT_ROOT=1"
    );
    eprintln!("skipped: not root");
    false
}

/// Runs a command of the test's own, which must succeed, and returns what it said.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let done = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("{program}: {e}"));
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    let error = String::from_utf8_lossy(&done.stderr);
    assert!(
        done.status.success(),
        "{program} {arguments:?}: {}\n{said}{error}",
        done.status
    );
    said
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub fn hash(path: &Path) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path).unwrap()).unwrap();
    hasher.finalize()
}

/// The image `name` of `images/make`, made once for each test program.
pub fn template(name: &str, options: &[&str]) -> PathBuf {
    static MADE: Mutex<BTreeMap<String, PathBuf>> = Mutex::new(BTreeMap::new());
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    let key = [&[name], options].concat().join(" ");
    if let Some(path) = made.get(&key) {
        return path.clone();
    }
    let program = std::env::current_exe().unwrap();
    let program = program.file_name().unwrap().to_str().unwrap();
    let path = Path::new(PLACE).join(format!("{program}-{}.img", made.len()));
    let make = concat!(env!("CARGO_MANIFEST_DIR"), "/images/make");
    run(make, &[&[name, text(&path)], options].concat());
    made.insert(key, path.clone());
    path
}

/// A file as it is now. Not the time of the last access: reading is allowed.
#[derive(Debug, PartialEq, Eq)]
pub struct Stamp {
    hash: blake3::Hash,
    inode: u64,
    sectors: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    pub fn of(path: &Path) -> Stamp {
        let meta = fs::metadata(path).unwrap();
        Stamp {
            hash: hash(path),
            inode: meta.ino(),
            sectors: meta.blocks(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }
}

/// What the binary answered.
#[derive(Debug)]
pub struct Answer {
    pub code: i32,
    pub document: Value,
    pub errors: String,
}

impl Answer {
    pub fn refusals(&self) -> Vec<(&str, &str)> {
        let list = self.document["refusals"].as_array().unwrap();
        list.iter()
            .map(|r| (r["code"].as_str().unwrap(), r["message"].as_str().unwrap()))
            .collect()
    }

    /// The exit code, the document's and its outcome are these.
    pub fn assert(&self, code: i32, outcome: &str, what: &str) {
        let found = (
            self.code,
            self.document["exit_code"].as_i64().unwrap_or(-1),
            self.document["outcome"].as_str().unwrap_or(""),
        );
        assert_eq!(found, (code, i64::from(code), outcome), "{what}: {self:#?}");
    }
}

/// See the module.
pub struct Scene {
    dir: tempfile::TempDir,
}

impl Scene {
    /// A directory with a copy of an image that [`template`] made.
    pub fn new(name: &str, options: &[&str]) -> Scene {
        Scene::of(&template(name, options))
    }

    pub fn of(image: &Path) -> Scene {
        let dir = tempfile::Builder::new()
            .prefix("scene-")
            .tempdir_in(PLACE)
            .unwrap();
        let scene = Scene { dir };
        for name in ["state", "bin"] {
            fs::create_dir(scene.path(name)).unwrap();
        }
        run(
            "cp",
            &["--sparse=always", text(image), text(&scene.image())],
        );
        // What is allocated late would count as a change.
        File::open(scene.image()).unwrap().sync_all().unwrap();
        scene
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn image(&self) -> PathBuf {
        self.path("image")
    }

    /// The image under a name outside of the scene, which then goes.
    pub fn image_to(&self, path: &Path) -> PathBuf {
        fs::rename(self.image(), path).unwrap();
        path.into()
    }

    /// Puts a program before the real ones.
    pub fn program(&self, name: &str, script: &str) {
        let path = self.path("bin").join(name);
        // Another process writes it: a descriptor that is open for writing here would go through
        // the fork of another test's tool, and a program that is open for writing does not start.
        let write = r#"printf '%s\n' "$1" >"$2" && chmod 755 "$2""#;
        run("/bin/sh", &["-c", write, "sh", script, text(&path)]);
    }

    /// The binary with its state directory in here and the false tools first in PATH.
    pub fn command(&self, arguments: &[&str]) -> Command {
        self.command_in(&self.path("state"), arguments)
    }

    /// The same with another state directory.
    pub fn command_in(&self, state: &Path, arguments: &[&str]) -> Command {
        let path = std::env::var("PATH").unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
        command
            .args(arguments)
            .arg("--json")
            .arg("--state-dir")
            .arg(state)
            .env("PATH", format!("{}:{path}", self.path("bin").display()))
            .stdin(Stdio::null());
        command
    }

    pub fn holdfast(&self, arguments: &[&str]) -> Answer {
        answer(&mut self.command(arguments))
    }

    fn transactions(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.path("state")).unwrap().flatten();
        entries.map(|e| e.path()).filter(|p| p.is_dir()).collect()
    }

    /// What the tool said in the only transaction.
    pub fn tool_log(&self, tool: &str) -> String {
        let mut logs = Vec::new();
        for transaction in self.transactions() {
            for file in fs::read_dir(&transaction).unwrap().flatten() {
                let name = file.file_name().into_string().unwrap();
                if name.ends_with(&format!("-{tool}.log")) {
                    logs.push(file.path());
                }
            }
        }
        logs.sort();
        let texts = logs.iter().map(|log| fs::read(log).unwrap());
        texts
            .map(|b| String::from_utf8_lossy(&b).into_owned())
            .collect()
    }

    /// No process, no mount, no loop device, and in the state directory nothing but what was said:
    /// the summary and the tools' output.
    pub fn assert_nothing_left(&self, what: &str) {
        let here = text(self.dir.path());
        // The kernel may take a moment to end what it has killed.
        for _ in 0..100 {
            if processes_of(here).is_empty() {
                break;
            }
            sleep(Duration::from_millis(20));
        }
        assert_eq!(processes_of(here), [""; 0], "{what}: processes stay");
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let mounted: Vec<&str> = mounts.lines().filter(|line| line.contains(here)).collect();
        assert_eq!(mounted, [""; 0], "{what}: mounts stay");
        for device in fs::read_dir("/sys/block").unwrap().flatten() {
            let file = fs::read_to_string(device.path().join("loop/backing_file"));
            let ours = file.is_ok_and(|file| file.contains(here));
            assert!(!ours, "{what}: {:?} stays", device.file_name());
        }
        for transaction in self.transactions() {
            let names: Vec<String> = fs::read_dir(&transaction)
                .unwrap_or_else(|e| panic!("{what}: {transaction:?}: {e}"))
                .map(|file| file.unwrap().file_name().into_string().unwrap())
                .filter(|name| name != "summary.json" && !name.ends_with(".log"))
                .collect();
            assert_eq!(names, [""; 0], "{what}: files stay");
        }
    }

    /// Takes the transactions away, so that the next run starts alone.
    pub fn clear(&self) {
        for transaction in self.transactions() {
            fs::remove_dir_all(transaction).unwrap();
        }
    }
}

pub fn answer(command: &mut Command) -> Answer {
    let done = command.output().unwrap();
    let errors = String::from_utf8_lossy(&done.stderr).into_owned();
    let document = serde_json::from_slice(&done.stdout).unwrap_or_else(|e| {
        let said = String::from_utf8_lossy(&done.stdout);
        panic!("{command:?}: {}: {e}\n{said}\n{errors}", done.status)
    });
    Answer {
        code: done.status.code().unwrap_or(-1),
        document,
        errors,
    }
}

/// The command lines of all processes that name `place`.
fn processes_of(place: &str) -> Vec<String> {
    let lines = fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| {
            let line = fs::read(entry.path().join("cmdline")).ok()?;
            Some(String::from_utf8_lossy(&line).replace('\0', " "))
        });
    lines.filter(|line| line.contains(place)).collect()
}
