//! An XFS in its place: an image or a loop device, with a table or without, between neighbours.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use serde_json::Value;

use super::attached::Loop;
use super::image::{Mounted, blank, bytes, populate, sh};
use super::rows::{Expect, Place, Row, Shape};

pub const MIB: u64 = 1 << 20;
/// Its size at first, and with all the room there is.
pub const NOW: u64 = 64 * MIB;
pub const MOST: u64 = 160 * MIB;
/// Another larger one, in the middle of a group.
pub const MORE: u64 = 111 * MIB;
const START: u64 = 3 * MIB;
/// The partition's number.
const NUMBER: u32 = 2;
/// A group of the usual image: where stale bytes would hurt.
const GROUP: u64 = 16 * MIB;

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A directory on a disk.
pub fn workspace() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// A filled file system of this shape, made once.
pub fn template(shape: &Shape) -> PathBuf {
    static MADE: Mutex<Vec<&str>> = Mutex::new(Vec::new());
    let mut made = MADE
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let place = made.iter().position(|options| *options == shape.options);
    let number = place.unwrap_or(made.len());
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("xfs-{number}.img"));
    if place.is_none() {
        make(&path, shape.options);
        if shape.grow == Expect::Done {
            let mounted = Mounted::at(&path, 0, "noatime");
            populate(mounted.path());
        }
        made.push(shape.options);
    }
    path
}

/// `mkfs.xfs`.
pub fn make(path: &Path, options: &str) {
    blank(path, NOW);
    let mut mkfs = Command::new("mkfs.xfs");
    // Without these it makes no small file system with many groups.
    for name in ["TEST_DIR", "TEST_DEV", "QA_CHECK_FS"] {
        mkfs.env(name, "1");
    }
    mkfs.args(["-q", "-f", "-L", "mail"]);
    sh(mkfs.args(options.split_whitespace()).arg(path));
}

pub fn copy(from: &Path, to: &Path) {
    sh(Command::new("cp").arg("--sparse=always").arg(from).arg(to));
}

/// What `holdfast` said.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    pub document: Value,
    pub notices: String,
}

impl Said {
    pub fn outcome(&self) -> &str {
        self.document["outcome"].as_str().unwrap_or_default()
    }

    pub fn codes(&self) -> Vec<&str> {
        let refusals = self.document["refusals"].as_array();
        let codes = refusals.into_iter().flatten();
        codes.filter_map(|r| r["code"].as_str()).collect()
    }

    pub fn transaction(&self) -> &str {
        self.document["transaction"].as_str().unwrap_or_default()
    }

    /// The new value of something in the plan.
    pub fn planned(&self, name: &str) -> u64 {
        let new = &self.document["result"]["plan"][name]["new"];
        new.as_u64()
            .unwrap_or_else(|| panic!("no {name} in {}", self.document))
    }

    pub fn assert(&self, outcome: &str, code: i32) {
        assert_eq!((self.outcome(), self.code), (outcome, code), "{self:#?}");
    }
}

/// See the module.
pub struct Bed {
    row: Row,
    dir: PathBuf,
    pub file: PathBuf,
    pub start: u64,
    device: Option<Loop>,
}

impl Bed {
    /// Puts the file system in `base` into its place.
    pub fn make(dir: &Path, row: Row, base: &Path) -> Bed {
        let file = dir.join("disk");
        let table = row.place.has_table();
        let start = if table { START } else { 0 };
        let room = if row.place.is_extended() { NOW } else { MOST };
        let len = start + room + if table { MIB } else { 0 };
        blank(&file, len);
        sh(Command::new("dd")
            .args([
                "bs=1M",
                "conv=sparse,notrunc",
                &format!("seek={}", start / MIB),
            ])
            .arg(format!("if={}", text(base)))
            .arg(format!("of={}", text(&file))));
        // Stale bytes where new groups will begin, and a neighbour before.
        let disk = OpenOptions::new().write(true).open(&file).unwrap();
        for at in (NOW..room).step_by(GROUP as usize) {
            disk.write_all_at(&bytes(MIB as usize, at), start + at)
                .unwrap();
        }
        let mut bed = Bed {
            row,
            dir: dir.into(),
            file,
            start,
            device: None,
        };
        if table {
            disk.write_all_at(&bytes(MIB as usize, 1), MIB).unwrap();
            bed.partition();
        }
        if row.place.is_device() {
            bed.open();
        }
        bed
    }

    fn partition(&self) {
        let disk = Loop::attach(&self.file, self.row.sector);
        let lba = |bytes: u64| bytes / u64::from(self.row.sector);
        sh(Command::new("sgdisk")
            .arg("-a1")
            .arg(format!("-n1:{}:{}", lba(MIB), lba(3 * MIB) - 1))
            .arg(format!("-n2:{}:{}", lba(START), lba(START + NOW) - 1))
            .arg(&disk.node));
    }

    pub fn open(&mut self) {
        let mut device = Loop::attach(&self.file, self.row.sector);
        if self.row.place.has_table() {
            device.add(1, MIB, 2 * MIB);
            device.add(NUMBER, START, NOW);
        }
        self.device = Some(device);
    }

    pub fn close(&mut self) {
        self.device = None;
    }

    fn target(&self) -> Vec<String> {
        let path = match &self.device {
            None => self.file.clone(),
            Some(device) if self.row.place == Place::Node => device.partition(NUMBER),
            Some(device) => device.node.clone(),
        };
        let mut args = vec![text(&path).to_string()];
        if self.row.place.has_table() && self.row.place != Place::Node {
            args.extend(["--partition".into(), NUMBER.to_string()]);
        }
        if !self.row.place.has_table() && self.device.is_none() {
            args.extend(["--sector-size".into(), self.row.sector.to_string()]);
        }
        args
    }

    /// Arguments that make it so large.
    pub fn size(&self, bytes: u64) -> Vec<String> {
        match self.row.place.is_extended() {
            true => {
                let more = if self.row.place.has_table() {
                    START + MIB
                } else {
                    0
                };
                vec!["--disk-size".into(), format!("{}MiB", (bytes + more) / MIB)]
            }
            false => vec!["--to".into(), format!("{}MiB", bytes / MIB)],
        }
    }

    /// The program with the target and these arguments behind `words`.
    pub fn command(&self, words: &[&str], more: &[String]) -> Command {
        let mut command = self.bare(words);
        command.args(self.target()).args(more);
        command
    }

    fn bare(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
        let path = std::env::var("PATH").unwrap();
        command
            .args(words)
            .args(["--json", "--state-dir", text(&self.dir.join("state"))])
            .env("PATH", format!("{}:{path}", self.dir.join("bin").display()))
            .stdin(Stdio::null());
        command
    }

    pub fn run(&self, words: &[&str], more: &[String]) -> Said {
        said(&mut self.command(words, more))
    }

    /// A command without a target.
    pub fn plain(&self, words: &[&str]) -> Said {
        said(&mut self.bare(words))
    }

    pub fn grow(&self, bytes: u64) -> Said {
        self.run(&["grow", "--yes"], &self.size(bytes))
    }

    /// A false tool that stands before the real one.
    pub fn program(&self, name: &str, script: &str) {
        let bin = self.dir.join("bin");
        fs::create_dir_all(&bin).unwrap();
        // Another process writes it, so that no descriptor of ours keeps it from starting.
        let write = r#"printf '%s\n' "$1" >"$2" && chmod 755 "$2""#;
        sh(Command::new("/bin/sh")
            .args(["-c", write, "sh", script])
            .arg(bin.join(name)));
    }

    pub fn keep(&self) -> PathBuf {
        let keep = self.dir.join("keep");
        copy(&self.file, &keep);
        keep
    }

    pub fn assert_same(&self, keep: &Path) {
        sh(Command::new("cmp").arg(keep).arg(&self.file));
    }

    /// The file system in a file of its own.
    pub fn extract(&self, len: u64) -> PathBuf {
        let part = self.dir.join("part");
        let _ = fs::remove_file(&part);
        sh(Command::new("dd")
            .args(["bs=1M", "conv=sparse", "iflag=fullblock"])
            .arg(format!("skip={}", self.start / MIB))
            .arg(format!("count={}", len.div_ceil(MIB)))
            .arg(format!("if={}", text(&self.file)))
            .arg(format!("of={}", text(&part))));
        File::options()
            .write(true)
            .open(&part)
            .unwrap()
            .set_len(len)
            .unwrap();
        part
    }

    pub fn start_of_disk(&self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let file = File::open(&self.file).unwrap();
        file.read_exact_at(&mut bytes, self.start).unwrap();
        bytes
    }
}

pub fn said(command: &mut Command) -> Said {
    let done = command.output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    let notices = String::from_utf8_lossy(&done.stderr).into_owned();
    let document = serde_json::from_str(&said)
        .unwrap_or_else(|e| panic!("{command:?}: {e}:\n{said}{notices}"));
    Said {
        code: done.status.code().unwrap_or(-1),
        document,
        notices,
    }
}

/// What a program of the test's own that reads XFS says.
pub fn xfs_db(image: &Path, commands: &[&str]) -> String {
    let mut command = Command::new("xfs_db");
    command.args(["-r", "-f"]);
    commands.iter().for_each(|c| {
        command.args(["-c", c]);
    });
    sh(command.arg(image))
}
