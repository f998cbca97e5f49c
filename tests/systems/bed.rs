//! Where a file system lies: an image or a loop device, in a table or bare, between neighbours.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use super::host::{Loop, run, text};
use super::mail::Random;
use super::rows::{Direction, Row, Table};

const MIB: u64 = 1 << 20;

/// What `holdfast` said.
#[derive(Debug)]
pub struct Said {
    /// Its exit code; none where it was killed.
    pub code: Option<i32>,
    /// Its document.
    pub document: Value,
    /// Everything else.
    #[allow(dead_code, reason = "a failure shows it")]
    pub notices: String,
}

impl Said {
    fn of(done: &Output) -> Said {
        let said = String::from_utf8_lossy(&done.stdout);
        Said {
            code: done.status.code(),
            document: serde_json::from_str(&said).unwrap_or_default(),
            notices: String::from_utf8_lossy(&done.stderr).into_owned(),
        }
    }

    /// The outcome.
    pub fn outcome(&self) -> &str {
        self.document["outcome"].as_str().unwrap_or_default()
    }

    /// The codes of the refusals.
    pub fn codes(&self) -> Vec<&str> {
        let refusals = self.document["refusals"].as_array();
        let codes = refusals.into_iter().flatten();
        codes.filter_map(|r| r["code"].as_str()).collect()
    }

    /// The transaction.
    pub fn transaction(&self) -> &str {
        self.document["transaction"].as_str().unwrap_or_default()
    }

    /// Bytes that were written to the target.
    pub fn delta_bytes(&self) -> u64 {
        let bytes = &self.document["result"]["delta_bytes"];
        bytes.as_u64().unwrap_or_else(|| panic!("{self:#?}"))
    }

    /// Current and new value of something in the plan.
    pub fn change(&self, name: &str) -> (u64, u64) {
        let change = &self.document["result"]["plan"][name];
        let number = |which: &str| {
            change[which]
                .as_u64()
                .unwrap_or_else(|| panic!("no {which} of {name} in {self:#?}"))
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
    /// Bytes of the disk that a change of the table may change: first and length.
    table: Vec<(u64, u64)>,
    device: Option<Loop>,
    node: Option<PathBuf>,
}

impl Bed {
    /// Puts the file system in `base` into its place. Around it lies noise, which stands for what
    /// others have there.
    pub fn make(dir: &Path, row: Row, base: &Path) -> Bed {
        let sizes = row.system.sizes();
        let (now, most) = (sizes.now * MIB, sizes.most * MIB);
        let start = match row.place.table {
            Table::Bare => 0,
            _ => 3 * MIB,
        };
        let behind = if start == 0 { 0 } else { 3 * MIB };
        let path = dir.join("disk");
        run("cp", &["--sparse=always", text(base), text(&path)]);
        let len = start + most + behind;
        if start > 0 {
            // What was at the start comes behind it.
            fs::remove_file(&path).unwrap();
            let at = format!("seek={}", start / MIB);
            let (from, to) = (format!("if={}", text(base)), format!("of={}", text(&path)));
            run(
                "dd",
                &["status=none", "bs=1M", "conv=sparse", &at, &from, &to],
            );
        }
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(len).unwrap();
        // Not the whole of a gap, which may be large: its ends.
        noise(&file, 0, start, 1);
        noise(&file, start + now, MIB, 2);
        noise(&file, start + most - MIB, MIB + behind, 3);
        let mut bed = Bed {
            row,
            dir: dir.into(),
            file: path,
            start,
            table: Vec::new(),
            device: None,
            node: None,
        };
        if start > 0 {
            // What is left of another table must not be taken for one.
            file.write_all_at(&vec![0; 64 << 10], 0).unwrap();
            file.write_all_at(&vec![0; 64 << 10], len - (64 << 10))
                .unwrap();
            bed.partition(now, most);
            bed.table = bed.table_extents(len);
        }
        bed
    }

    /// Writes the table: a neighbour before, the mail, and behind a gap another neighbour.
    fn partition(&self, now: u64, most: u64) {
        let sector = u64::from(self.row.place.sector);
        let line = |number: u32, start: u64, len: u64, kind: &str| {
            let (start, size) = (start / sector, len / sector);
            format!("{number} : start={start}, size={size}, type={kind}")
        };
        let (gpt, mbr) = self.row.system.partition_types();
        let behind = self.start + most;
        let script = match self.row.place.table {
            Table::Bare => unreachable!(),
            Table::Gpt => [
                "label: gpt".into(),
                line(1, MIB, MIB, "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"),
                line(2, self.start, now, gpt) + ", name=mail, attrs=\"LegacyBIOSBootable\"",
                line(4, behind, 2 * MIB, gpt),
            ]
            .join("\n"),
            Table::MbrPrimary => [
                "label: dos".into(),
                line(1, MIB, MIB, "ef"),
                line(2, self.start, now, mbr) + ", bootable",
                line(4, behind, 2 * MIB, mbr),
            ]
            .join("\n"),
            // The extended partition ends with the mail, and must grow with it.
            Table::MbrLogical => [
                "label: dos".into(),
                line(1, MIB, MIB / 2, "ef"),
                line(2, MIB * 3 / 2, now + MIB * 3 / 2, "5"),
                line(4, behind, 2 * MIB, mbr),
                line(5, MIB * 7 / 4, MIB / 2, "82"),
                line(6, self.start, now, mbr),
            ]
            .join("\n"),
        };
        let disk = self.attach(&[]);
        let mut sfdisk = Command::new("sfdisk")
            .args(["--quiet", "--no-reread", "--no-tell-kernel", "--wipe=never"])
            .arg(&disk.node)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = sfdisk.stdin.take().unwrap();
        stdin.write_all(script.as_bytes()).unwrap();
        drop(stdin);
        let done = sfdisk.wait_with_output().unwrap();
        assert!(done.status.success(), "{script}: {done:?}");
    }

    /// Where the table lies on a disk of `len` bytes.
    fn table_extents(&self, len: u64) -> Vec<(u64, u64)> {
        let sector = u64::from(self.row.place.sector);
        // 128 entries of 128 bytes.
        let copy = sector + (16 << 10);
        match self.row.place.table {
            Table::Bare => Vec::new(),
            Table::Gpt => vec![(0, sector + copy), (len - copy, copy)],
            Table::MbrPrimary => vec![(0, sector)],
            Table::MbrLogical => {
                let ebrs = self.ebrs(MIB * 3 / 2);
                assert_eq!(ebrs.len(), 2, "{ebrs:?}");
                let all = [0].into_iter().chain(ebrs);
                all.map(|at| (at, sector)).collect()
            }
        }
    }

    /// Where the EBRs of the extended partition that starts at `extended` stand.
    fn ebrs(&self, extended: u64) -> Vec<u64> {
        let file = File::open(&self.file).unwrap();
        let mut found = vec![extended];
        loop {
            let mut sector = [0; 512];
            file.read_exact_at(&mut sector, found[found.len() - 1])
                .unwrap();
            let link = u32::from_le_bytes(sector[470..474].try_into().unwrap());
            if link == 0 {
                return found;
            }
            found.push(extended + u64::from(link) * u64::from(self.row.place.sector));
        }
    }

    /// Number of the extended partition.
    pub fn extended(&self) -> Option<u32> {
        (self.row.place.table == Table::MbrLogical).then_some(2)
    }

    /// Number of the partition.
    pub fn number(&self) -> Option<u32> {
        match self.row.place.table {
            Table::Bare => None,
            Table::Gpt | Table::MbrPrimary => Some(2),
            Table::MbrLogical => Some(6),
        }
    }

    fn attach(&self, options: &[&str]) -> Loop {
        let sector = self.row.place.sector.to_string();
        let mut all = vec!["--sector-size", &sector];
        all.extend(options);
        Loop::attach(&self.file, &all)
    }

    /// Attaches the device, where it is one.
    pub fn open(&mut self) {
        if !self.row.place.is_device {
            return;
        }
        let parts = self.dump();
        let mut device = self.attach(&[]);
        let sector = u64::from(self.row.place.sector);
        for (number, line) in parts {
            let (start, mut len) = (field(&line, "start="), field(&line, "size="));
            if Some(number) == self.extended() {
                // The kernel shows its first sectors only, so that nothing gets at the others.
                len = (1024 / sector).max(1);
            }
            let node = device.add(number, start * sector, len * sector);
            if Some(number) == self.number() {
                self.node = Some(node);
            }
        }
        self.device = Some(device);
    }

    /// Detaches it again.
    pub fn close(&mut self) {
        self.node = None;
        self.device = None;
    }

    /// What is written to: the image, or the whole disk.
    fn written(&self) -> &Path {
        self.device.as_ref().map_or(&self.file, |d| &d.node)
    }

    /// A command with the target.
    fn command(&self, direction: Direction, size: &str) -> Vec<String> {
        let target = self.node.as_deref().unwrap_or(self.written());
        let mut args = [direction.command(), text(target), "--to", size, "--yes"]
            .map(String::from)
            .to_vec();
        if self.node.is_none()
            && let Some(number) = self.number()
        {
            args.extend(["--partition".into(), number.to_string()]);
        }
        if self.device.is_none() {
            args.extend(["--sector-size".into(), self.row.place.sector.to_string()]);
        }
        args
    }

    /// Runs a command.
    pub fn holdfast<S: AsRef<str>>(&self, args: &[S]) -> Said {
        let done = self.common(Command::new(env!("CARGO_BIN_EXE_holdfast")), args);
        let said = Said::of(&done);
        assert!(said.document.is_object(), "{done:?}");
        said
    }

    fn common<S: AsRef<str>>(&self, mut command: Command, args: &[S]) -> Output {
        command
            .args(args.iter().map(AsRef::as_ref))
            .args(["--json", "--state-dir"])
            .arg(self.dir.join("state"))
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Runs `grow` or `shrink`.
    pub fn change(&self, direction: Direction, size: &str) -> Said {
        self.holdfast(&self.command(direction, size))
    }

    /// The same, and how often it wrote to the target. With `kill`, it is killed at that write.
    pub fn change_traced(
        &self,
        direction: Direction,
        size: &str,
        kill: Option<usize>,
    ) -> (Said, usize) {
        let log = self.dir.join("trace");
        let mut strace = Command::new("strace");
        // The main thread alone: it writes the target.
        strace.args(["-qq", "-e", "signal=none", "-e", "trace=pwrite64"]);
        if let Some(nth) = kill {
            let inject = format!("inject=pwrite64:signal=SIGKILL:when={nth}");
            strace.args(["-e", &inject]);
        }
        strace.arg("-P").arg(self.written()).arg("-o").arg(&log);
        strace.arg(env!("CARGO_BIN_EXE_holdfast"));
        let done = self.common(strace, &self.command(direction, size));
        let log = fs::read_to_string(log).unwrap();
        let writes = log.lines().filter(|l| l.starts_with("pwrite64")).count();
        (Said::of(&done), writes)
    }

    /// The lines of `sfdisk -d` that tell of partitions: number, and what it says of it.
    pub fn dump(&self) -> Vec<(u32, String)> {
        if self.number().is_none() {
            return Vec::new();
        }
        let disk = self.attach(&["-r"]);
        let node = text(&disk.node);
        let said = run("sfdisk", &["-d", node]);
        if self.row.place.table == Table::Gpt {
            let verdict = run("sgdisk", &["-v", node]);
            assert!(verdict.contains("No problems found"), "{verdict}");
        }
        let lines = said.lines().filter(|l| l.starts_with(node));
        lines
            .map(|line| {
                let (name, rest) = line.split_once(" : ").unwrap();
                let number = name.trim().rsplit('p').next().unwrap().parse().unwrap();
                (number, rest.to_string())
            })
            .collect()
    }

    /// What the kernel says is the length of the partition, where it knows it.
    pub fn kernel_bytes(&self) -> Option<u64> {
        let device = self.device.as_ref()?;
        Some(device.kernel_bytes(self.number()?))
    }

    /// So many bytes from where the file system starts, as a read-only device.
    pub fn part(&self, len: u64) -> Loop {
        part(&self.file, self.start, len, self.row.place.sector)
    }

    /// Every byte outside the planned extents is what it was in `keep`, where the partition takes
    /// `len` bytes at most.
    pub fn assert_outside(&self, keep: &Path, len: u64) {
        let (old, new) = (File::open(keep).unwrap(), File::open(&self.file).unwrap());
        let lens = [&old, &new].map(|f| f.metadata().unwrap().len());
        assert_eq!(lens[0], lens[1]);
        let mut planned = self.table.clone();
        planned.push((self.start, len));
        let is_planned = |at: u64| {
            planned
                .iter()
                .any(|&(start, len)| (start..start + len).contains(&at))
        };
        let (mut a, mut b) = (vec![0; MIB as usize], vec![0; MIB as usize]);
        let mut at = 0;
        while at < lens[0] {
            let piece = (lens[0] - at).min(MIB) as usize;
            old.read_exact_at(&mut a[..piece], at).unwrap();
            new.read_exact_at(&mut b[..piece], at).unwrap();
            if a[..piece] != b[..piece] {
                let stray = (at..at + piece as u64)
                    .find(|&n| a[(n - at) as usize] != b[(n - at) as usize] && !is_planned(n));
                assert_eq!(stray, None, "this byte is outside the plan");
            }
            at += piece as u64;
        }
    }

    /// Copies the disk to `keep`.
    pub fn keep(&self, keep: &Path) {
        run("cp", &["--sparse=always", text(&self.file), text(keep)]);
    }

    /// Brings the disk back to what is in `keep`.
    pub fn restore(&self, keep: &Path) {
        assert!(self.device.is_none());
        run("cp", &["--sparse=always", text(keep), text(&self.file)]);
        let _ = fs::remove_dir_all(self.dir.join("state"));
    }

    /// The disk is what is in `keep`, byte for byte.
    pub fn assert_same(&self, keep: &Path) {
        run("cmp", &[text(keep), text(&self.file)]);
    }
}

/// Part of `file` as a read-only device.
pub fn part(file: &Path, start: u64, len: u64, sector: u32) -> Loop {
    let (start, len, sector) = (start.to_string(), len.to_string(), sector.to_string());
    let options = [
        "-r",
        "-o",
        &start,
        "--sizelimit",
        &len,
        "--sector-size",
        &sector,
    ];
    Loop::attach(file, &options)
}

/// What was on a disk before anything was made on it.
fn noise(file: &File, start: u64, len: u64, seed: u64) {
    let mut random = Random::new(seed);
    let mut at = start;
    while at < start + len {
        let piece = (start + len - at).min(MIB);
        file.write_all_at(&random.bytes(piece), at).unwrap();
        at += piece;
    }
}

/// A number in a line of `sfdisk -d`.
pub fn field(line: &str, name: &str) -> u64 {
    let (_, rest) = line.split_once(name).unwrap();
    let digits = rest.split(',').next().unwrap();
    digits.trim().parse().unwrap()
}
