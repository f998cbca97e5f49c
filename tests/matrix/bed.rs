//! Where a file system lies: an image or a loop device, with a table or without, between
//! neighbours.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::host::{Loop, run, text};
use super::rows::{Place, Row};
use super::shape::noise;

const MIB: u64 = 1 << 20;
/// Number of the partition.
pub const NUMBER: u32 = 2;
/// What a table takes at either end, rounded up.
const TABLE: u64 = 24 << 10;

/// What `holdfast` said.
#[derive(Debug)]
pub struct Said {
    /// Its exit code.
    pub code: i32,
    /// Its document.
    pub document: Value,
    /// Everything else.
    #[allow(dead_code, reason = "a failure shows it")]
    pub notices: String,
}

impl Said {
    /// The outcome.
    pub fn outcome(&self) -> &str {
        self.document["outcome"].as_str().unwrap_or_default()
    }

    /// The codes of the refusals.
    pub fn codes(&self) -> Vec<&str> {
        let refusals = self.document["refusals"].as_array();
        refusals
            .into_iter()
            .flatten()
            .filter_map(|refusal| refusal["code"].as_str())
            .collect()
    }

    /// The transaction.
    pub fn transaction(&self) -> &str {
        self.document["transaction"].as_str().unwrap_or_default()
    }

    /// Current and new value of something in the plan.
    pub fn change(&self, name: &str) -> (u64, u64) {
        let change = &self.document["result"]["plan"][name];
        let number = |which: &str| {
            change[which]
                .as_u64()
                .unwrap_or_else(|| panic!("no {which} of {name} in {}", self.document))
        };
        (number("current"), number("new"))
    }
}

/// A place with a file system in it.
pub struct Bed {
    row: Row,
    dir: PathBuf,
    /// The image, also of a loop device.
    pub file: PathBuf,
    /// Where the file system starts.
    pub start: u64,
    device: Option<Loop>,
    node: Option<PathBuf>,
}

impl Bed {
    /// Puts the file system in `base` into its place.
    pub fn make(dir: &Path, row: Row, base: &Path) -> Bed {
        let (now, most) = (row.shape.sizes.now * MIB, row.shape.sizes.most * MIB);
        let full = matches!(
            row.place,
            Place::BareExtended | Place::GptExtended | Place::DeviceEnlarged
        );
        let start = if row.place.has_table() { 3 * MIB } else { 0 };
        let room = if full { now } else { most };
        let behind = match (row.place.has_table(), full) {
            (true, true) => MIB,
            (true, false) => 3 * MIB,
            (false, _) => 0,
        };
        let path = dir.join("disk");
        let file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .read(true)
            .write(true)
            .open(&path)
            .unwrap();
        let len = start + room + behind;
        noise(&file, 0, start, 1);
        io::copy(
            &mut File::open(base).unwrap(),
            &mut At {
                file: &file,
                at: start,
            },
        )
        .unwrap();
        noise(&file, start + now, len - start - now, 2);
        let bed = Bed {
            row,
            dir: dir.into(),
            file: path,
            start,
            device: None,
            node: None,
        };
        if row.place.has_table() {
            // What is left of another table must not be taken for one.
            file.write_all_at(&vec![0; TABLE as usize], 0).unwrap();
            file.write_all_at(&vec![0; TABLE as usize], len - TABLE)
                .unwrap();
            bed.partition(now, room, full);
        }
        if row.place == Place::DeviceEnlarged {
            let longer = start + most + behind;
            noise(&file, len, longer - len, 3);
        }
        bed
    }

    fn partition(&self, now: u64, room: u64, full: bool) {
        let sector = u64::from(self.row.sector);
        let lba = |bytes: u64| bytes / sector;
        let part = |number: u32, start: u64, len: u64| {
            format!("-n{number}:{}:{}", lba(start), lba(start + len) - 1)
        };
        let disk = self.attach();
        let mut args = vec![
            "-a1".to_string(),
            part(1, MIB, 2 * MIB),
            part(NUMBER, self.start, now),
            "-A2:set:2".into(),
            "-c2:mail".into(),
        ];
        if !full {
            args.push(part(4, self.start + room, 2 * MIB));
        }
        args.push(text(&disk.node).into());
        run(
            "sgdisk",
            &args.iter().map(String::as_str).collect::<Vec<_>>(),
        );
    }

    fn attach(&self) -> Loop {
        let sector = self.row.sector.to_string();
        Loop::attach(&self.file, &["--sector-size", &sector])
    }

    /// Attaches the device, where it is one.
    pub fn open(&mut self) {
        if !self.row.place.is_device() {
            return;
        }
        let mut device = self.attach();
        if self.row.place.is_known() {
            let numbers: &[u32] = match self.row.place {
                Place::DeviceEnlarged => &[1, NUMBER],
                _ => &[1, NUMBER, 4],
            };
            self.node = Some(device.announce(numbers, NUMBER));
        }
        self.device = Some(device);
    }

    /// Detaches it again.
    pub fn close(&mut self) {
        self.node = None;
        self.device = None;
    }

    /// What `holdfast` is told of the target.
    pub fn target(&self) -> Vec<String> {
        let path = match (&self.device, &self.node) {
            (None, _) => &self.file,
            (Some(_), Some(node)) if self.row.place == Place::Node => node,
            (Some(device), _) => &device.node,
        };
        let mut args = vec![text(path).to_string()];
        if self.row.place.has_table() && self.row.place != Place::Node {
            args.extend(["--partition".into(), NUMBER.to_string()]);
        }
        if self.row.place == Place::Bare || self.row.place == Place::BareExtended {
            args.extend(["--sector-size".into(), self.row.sector.to_string()]);
        }
        args
    }

    /// Runs a command.
    pub fn holdfast(&self, args: &[&str]) -> Said {
        let done = Command::new(env!("CARGO_BIN_EXE_holdfast"))
            .args(args)
            .arg("--json")
            .arg("--state-dir")
            .arg(self.dir.join("state"))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        let notices = String::from_utf8_lossy(&done.stderr).into_owned();
        let document = serde_json::from_str(&said)
            .unwrap_or_else(|e| panic!("{args:?}: {e}:\n{said}{notices}"));
        Said {
            code: done.status.code().unwrap_or(-1),
            document,
            notices,
        }
    }

    /// Runs `grow` or `shrink`.
    pub fn change(&self, which: &str, size: &[&str]) -> Said {
        let target = self.target();
        let mut args = vec![which, "--yes"];
        args.extend(target.iter().map(String::as_str));
        args.extend(size);
        self.holdfast(&args)
    }

    /// What the kernel says is the length of the partition, where it knows it.
    pub fn kernel_bytes(&self) -> Option<u64> {
        self.node.as_ref()?;
        self.device.as_ref().map(|d| d.kernel_bytes(NUMBER))
    }

    /// A device to mount the file system from, read and write.
    pub fn mountable(&self) -> (PathBuf, Option<Loop>) {
        match (&self.device, &self.node) {
            (Some(_), Some(node)) => (node.clone(), None),
            (Some(device), None) if self.start == 0 => (device.node.clone(), None),
            _ => {
                let start = self.start.to_string();
                let part = Loop::attach(&self.file, &["-o", &start]);
                (part.node.clone(), Some(part))
            }
        }
    }

    /// The table is without a fault.
    pub fn assert_table(&self) {
        if !self.row.place.has_table() {
            return;
        }
        let said = match &self.device {
            Some(device) => run("sgdisk", &["-v", text(&device.node)]),
            None => run("sgdisk", &["-v", text(&self.attach().node)]),
        };
        assert!(said.contains("No problems found"), "{said}");
    }

    /// Bytes of the partition, as `sgdisk` sees it.
    pub fn partition_bytes(&self) -> Option<u64> {
        if !self.row.place.has_table() {
            return None;
        }
        let disk = self.device.is_none().then(|| self.attach());
        let node = match (&disk, &self.device) {
            (Some(disk), _) | (None, Some(disk)) => &disk.node,
            (None, None) => unreachable!(),
        };
        let said = run("sgdisk", &["-i2", text(node)]);
        assert!(said.contains("Partition name: 'mail'"), "{said}");
        assert!(said.contains("Attribute flags: 0000000000000004"), "{said}");
        let line = said.lines().find(|l| l.starts_with("Partition size:"));
        let sectors = line.unwrap().split_whitespace().nth(2).unwrap();
        Some(sectors.parse::<u64>().unwrap() * u64::from(self.row.sector))
    }

    /// Whether byte `at` may change where the file system takes `len` bytes at most and the disk
    /// had and has these lengths.
    fn is_planned(&self, at: u64, len: u64, disks: [u64; 2]) -> bool {
        let table = self.row.place.has_table()
            && (at < TABLE
                || disks
                    .iter()
                    .any(|&disk| (disk.saturating_sub(TABLE)..disk).contains(&at)));
        table || (self.start..self.start + len).contains(&at)
    }

    /// Every byte outside the planned extents is what it was in `keep`.
    pub fn assert_outside(&self, keep: &Path, len: u64) {
        let (old, new) = (File::open(keep).unwrap(), File::open(&self.file).unwrap());
        let lens = [&old, &new].map(|f| f.metadata().unwrap().len());
        let both = lens[0].min(lens[1]);
        let mut at = 0;
        while at < both {
            let piece = (both - at).min(MIB) as usize;
            let (mut a, mut b) = (vec![0; piece], vec![0; piece]);
            old.read_exact_at(&mut a, at).unwrap();
            new.read_exact_at(&mut b, at).unwrap();
            if a != b {
                let stray = (0..piece)
                    .filter(|&n| a[n] != b[n])
                    .find(|&n| !self.is_planned(at + n as u64, len, lens));
                assert!(
                    stray.is_none(),
                    "byte {stray:?} after {at} is outside the plan"
                );
            }
            at += piece as u64;
        }
    }

    /// Copies the disk to `keep`.
    pub fn keep(&self, keep: &Path) {
        fs::copy(&self.file, keep).unwrap();
    }

    /// Brings the disk back to what is in `keep`.
    pub fn restore(&self, keep: &Path) {
        assert!(self.device.is_none());
        fs::copy(keep, &self.file).unwrap();
    }

    /// The disk is what is in `keep`, byte for byte.
    pub fn assert_same(&self, keep: &Path) {
        run("cmp", &[text(keep), text(&self.file)]);
    }
}

/// Writes at a place of a file.
struct At<'a> {
    file: &'a File,
    at: u64,
}

impl io::Write for At<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_all_at(bytes, self.at)?;
        self.at += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
