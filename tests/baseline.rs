//! The stock tools under the same power cuts as ours, for comparison: what each writes is recorded
//! by strace, replayed in the simulator, and cut at each write and flush; then the tool's own
//! recovery runs on what is left, and the files are compared with what they were.
//!
//! | tool | recovery |
//! |---|---|
//! | `resize2fs -z UNDO` | `e2undo UNDO`, then `e2fsck -fy` |
//! | `sfdisk`, `resize2fs` | `e2fsck -fy` of the partition that the table then names |
//! | `holdfast` | `holdfast recover` |
//!
//! A state is *lost* where afterwards some file is missing or has other content, metadata or name
//! than before, or the file system cannot be read: nothing is held against a tool that completes
//! its change instead of undoing it. Ours must have none, and be byte for byte as before or after.
//! That the others have some is what their manuals say.
//!
//! Needs root, strace, util-linux and e2fsprogs. `HOLDFAST_LONG=1` tries every cut in every way; else
//! a sample.

// A test stops at the first surprise.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "common/scene.rs"]
mod scene;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use holdfast::disk::Disk;
use holdfast::sim::{Length, Machine, Rng, Script, SimDisk, Survival};
use scene::{root, run, text};

const MIB: u64 = 1 << 20;
/// Where the partition with the mail starts.
const START: u64 = 3 * MIB;

/// What becomes of the unflushed sectors. Not those that cannot be read: a file cannot show them.
const WAYS: [Survival; 7] = [
    Survival::LoseAll,
    Survival::KeepAll,
    Survival::Prefix,
    Survival::Subset,
    Survival::Torn4096,
    Survival::Garbled,
    Survival::Neighbours,
];

fn long() -> bool {
    std::env::var_os("HOLDFAST_LONG").is_some_and(|v| v == "1")
}

/// What was done to a file.
#[derive(Clone, Debug)]
enum Act {
    Write(u64, Vec<u8>),
    Flush,
    Length(u64),
}

/// A file that a tool wrote, and what it held before.
struct Written {
    path: PathBuf,
    before: Arc<Vec<u8>>,
    /// A file that stands for a part of it, and where that part begins.
    part: Option<(PathBuf, u64)>,
}

/// Hexadecimal escapes, as `strace -xx` writes all strings.
fn decode(text: &str) -> Vec<u8> {
    let digits = |part: &str| u8::from_str_radix(part, 16).unwrap();
    let inside = text.trim_matches('"');
    inside.split("\\x").skip(1).map(digits).collect()
}

const CALLS: &str = "trace=pwrite64,write,lseek,fsync,fdatasync,ftruncate,fallocate,close,openat,\
    pwritev,pwritev2,writev,sync,syncfs,mmap";

/// Runs `command` under strace, and says what its main thread did to `files`, by their index.
fn recorded(command: &mut Command, log: &Path, files: &[Written]) -> Vec<(usize, Act)> {
    let mut strace = Command::new("strace");
    strace.args(["-y", "-xx", "-qq", "-s", "67108864", "-e", CALLS, "-o"]);
    strace
        .arg(log)
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            strace.env(name, value);
        }
    }
    let out = strace.stdin(Stdio::null()).output().unwrap();
    assert!(out.status.success(), "{command:?}: {out:?}");
    parse(&fs::read_to_string(log).unwrap(), files)
}

/// What a log of strace says that was done to `files`.
fn parse(log: &str, files: &[Written]) -> Vec<(usize, Act)> {
    let (mut acts, mut positions) = (Vec::new(), BTreeMap::<String, u64>::new());
    for line in log.lines() {
        let Some((name, rest)) = line.split_once('(') else {
            continue;
        };
        let Some((arguments, result)) = rest.rsplit_once(") = ") else {
            continue;
        };
        let arguments: Vec<&str> = arguments.split(", ").collect();
        let (number, path) = match arguments[0].split_once('<') {
            Some((number, path)) => (number.to_string(), path),
            None => continue,
        };
        let path = path.split(['<', '>']).next().unwrap();
        let path = PathBuf::from(String::from_utf8(decode(path)).unwrap());
        let stands_for = |file: &Written| file.part.as_ref().is_some_and(|(part, _)| *part == path);
        let is = |file: &Written| file.path == path || stands_for(file);
        let Some(index) = files.iter().position(is) else {
            continue;
        };
        let from = match &files[index].part {
            Some((part, from)) if *part == path => *from,
            _ => 0,
        };
        let value = |at: usize| arguments[at].parse::<u64>().unwrap();
        let done = result
            .split(' ')
            .next()
            .unwrap()
            .parse::<i64>()
            .unwrap_or(-1);
        if done < 0 {
            continue;
        }
        let act = match name {
            "pwrite64" => Act::Write(from + value(3), decode(arguments[1])),
            "write" => {
                let at = positions.entry(number).or_default();
                let act = Act::Write(from + *at, decode(arguments[1]));
                *at += done as u64;
                act
            }
            "lseek" => {
                positions.insert(number, done as u64);
                continue;
            }
            "close" => {
                positions.remove(&number);
                continue;
            }
            "fsync" | "fdatasync" => Act::Flush,
            "ftruncate" => Act::Length(value(1)),
            // Of a file that is made anew; a reservation changes neither content nor length.
            "fallocate" if arguments[1] == "FALLOC_FL_KEEP_SIZE" => continue,
            "fallocate" => Act::Write(from + value(2), vec![0; value(3) as usize]),
            "openat" | "mmap" => continue,
            other => panic!("{other} on {path:?} is not understood"),
        };
        acts.push((index, act));
    }
    acts
}

/// What the files hold after a cut at `at`.
fn cut(files: &[Written], acts: &[(usize, Act)], at: u64, way: Survival) -> Vec<Vec<u8>> {
    let machine = Machine::new();
    let disks: Vec<SimDisk> = files
        .iter()
        .map(|f| machine.add_disk(f.before.clone(), Length::Growing, 512))
        .collect();
    machine.follow(Script {
        cut_at: Some(at),
        ..Script::default()
    });
    for (index, act) in acts {
        let disk = &disks[*index];
        let done = match act {
            Act::Write(offset, bytes) => disk.write_at(*offset, bytes),
            Act::Flush => disk.flush(),
            Act::Length(bytes) => disk.set_len(*bytes),
        };
        if done.is_err() {
            break;
        }
    }
    machine.restart(way, at * 31 + way as u64);
    disks.iter().map(SimDisk::content).collect()
}

/// Every cut in every way, or a sample.
fn states(acts: usize) -> Vec<(u64, Survival)> {
    let all = (0..=acts as u64).flat_map(|at| WAYS.map(|way| (at, way)));
    let all: Vec<_> = all.collect();
    // Not in step with the ways.
    let few = 18;
    match long() {
        true => all,
        false => (0..few)
            .map(|i| all[(i * (all.len() / few) + i) % all.len()])
            .collect(),
    }
}

fn try_run(program: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    command.output().unwrap()
}

/// Every file with its hash and what is known of it; `None` where the file system cannot be read.
fn files_of(image: &Path, out: &Path) -> Option<String> {
    let checked = try_run("e2fsck", &["-f", "-n", text(image)]);
    if !checked.status.success() {
        return None;
    }
    let _ = fs::remove_dir_all(out);
    fs::create_dir(out).unwrap();
    let request = format!("rdump / {}", text(out));
    try_run("debugfs", &["-R", &request, text(image)]);
    let list = "cd \"$1\" && rm -rf lost+found \
        && find . -mindepth 1 -printf '%P %y %m %U:%G %l ' \
        \\( -type l -printf '\\n' -o -printf '%T@\\n' \\) | LC_ALL=C sort \
        && find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum";
    let said = try_run("/bin/sh", &["-c", list, "sh", text(out)]);
    Some(String::from_utf8_lossy(&said.stdout).into_owned())
}

/// `e2fsck -fy`, until it has nothing more to do.
fn repair(image: &Path) {
    for _ in 0..3 {
        let said = try_run("e2fsck", &["-f", "-y", text(image)]);
        if said.status.code() == Some(0) {
            return;
        }
    }
}

struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Bench {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        Bench { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Puts `count` files of 60 KiB behind block `behind`, as in a store that has aged: a shrink has
    /// to move them.
    fn spread(&self, part: &Path, behind: u64, count: u64) {
        let said = run("dumpe2fs", &[text(part)]);
        let ranges = said
            .lines()
            .filter_map(|l| l.strip_prefix("  Free blocks: "));
        let below: Vec<String> = ranges
            .flat_map(|line| line.split(", "))
            .filter(|range| !range.is_empty())
            .map(|range| range.split_once('-').unwrap_or((range, range)))
            .map(|(first, last)| (first.parse::<u64>().unwrap(), last.parse::<u64>().unwrap()))
            .filter(|(first, _)| *first < behind)
            .map(|(first, last)| format!("{first} {}", last.min(behind) - first + 1))
            .collect();
        let mut script: Vec<String> = below.iter().map(|r| format!("setb {r}")).collect();
        let mut rng = Rng::new(count);
        for number in 0..count {
            let file = self.path(&format!("file{number}"));
            let bytes: Vec<u8> = (0..60_000).map(|_| rng.next_u64() as u8).collect();
            fs::write(&file, bytes).unwrap();
            script.push(format!("write {} file{number}", text(&file)));
        }
        script.extend(below.iter().map(|r| format!("freeb {r}")));
        let commands = self.path("commands");
        fs::write(&commands, script.join("\n")).unwrap();
        run("debugfs", &["-w", "-f", text(&commands), text(part)]);
        run("e2fsck", &["-f", "-n", text(part)]);
        let blocks = run("debugfs", &["-R", "blocks file0", text(part)]);
        let first: u64 = blocks.split_whitespace().next().unwrap().parse().unwrap();
        assert!(first > behind, "{blocks}");
    }

    /// An image, and its mail file system by itself.
    fn image(&self, fs_mib: u64) -> (PathBuf, PathBuf) {
        let (disk, part) = (self.path("disk"), self.path("part"));
        let make = concat!(env!("CARGO_MANIFEST_DIR"), "/images/make");
        let (size, whole) = (format!("{fs_mib}M"), format!("{}M", fs_mib + 8));
        let options = ["--fs", &size, "--disk", &whole, "--messages", "20"];
        run(make, &[&["small-gpt", text(&disk)], &options[..]].concat());
        let mut bytes = fs::read(&disk).unwrap();
        let place = START as usize..(START + fs_mib * MIB) as usize;
        fs::write(&part, &bytes[place.clone()]).unwrap();
        if fs_mib > 8 {
            self.spread(&part, 9_300, 20);
            bytes[place].copy_from_slice(&fs::read(&part).unwrap());
            fs::write(&disk, &bytes).unwrap();
        }
        (disk, part)
    }
}

fn read(path: &Path) -> Arc<Vec<u8>> {
    Arc::new(fs::read(path).unwrap_or_default())
}

/// What a tool came to.
#[derive(Default)]
struct Count {
    states: u64,
    lost: u64,
}

impl Count {
    fn print(&self, tool: &str, change: &str) {
        println!(
            "BASELINE {tool}, {change}: {} states, {} lost",
            self.states, self.lost
        );
    }
}

/// `resize2fs -z`, with `e2undo`.
fn undo_file(change: &str, fs_mib: u64, to: &str) -> Count {
    let bench = Bench::new();
    let (_, part) = bench.image(fs_mib);
    let undo = bench.path("undo.e2undo");
    if change == "grow" {
        run("truncate", &["-s", to, text(&part)]);
    }
    let files = [
        Written {
            path: part.clone(),
            before: read(&part),
            part: None,
        },
        Written {
            path: undo.clone(),
            before: Arc::default(),
            part: None,
        },
    ];
    let want = files_of(&part, &bench.path("out")).unwrap();
    let mut command = Command::new("resize2fs");
    command.args(["-z", text(&undo), text(&part), to]);
    let acts = recorded(&mut command, &bench.path("log"), &files);
    assert!(acts.len() > 20, "{}", acts.len());
    let mut count = Count::default();
    for (at, way) in states(acts.len()) {
        let left = cut(&files, &acts, at, way);
        fs::write(&part, &left[0]).unwrap();
        fs::write(&undo, &left[1]).unwrap();
        // Where it was completed before the cut, that is as good as undone.
        if files_of(&part, &bench.path("out")).as_ref() != Some(&want) {
            try_run("e2undo", &[text(&undo), text(&part)]);
            repair(&part);
        }
        count.states += 1;
        let found = files_of(&part, &bench.path("out"));
        count.lost += u64::from(found.as_ref() != Some(&want));
    }
    count
}

/// `sfdisk` and `resize2fs`, in the order that is right for the direction.
fn bare_tools(change: &str, fs_mib: u64, to_mib: u64) -> Count {
    let bench = Bench::new();
    let (disk, part) = bench.image(fs_mib);
    let want = files_of(&part, &bench.path("out")).unwrap();
    let before = read(&disk);
    let mut acts = Vec::new();
    let table = |acts: &mut Vec<(usize, Act)>| {
        let files = [Written {
            path: disk.clone(),
            before: before.clone(),
            part: None,
        }];
        let script = format!(
            "echo , {to_mib}M | exec strace -y -xx -qq -s 67108864 -e {CALLS} -o {} \
             sfdisk -q --no-reread -N 2 {}",
            text(&bench.path("log")),
            text(&disk)
        );
        run("/bin/sh", &["-c", &script]);
        let log = fs::read_to_string(bench.path("log")).unwrap();
        acts.extend(parse(&log, &files));
    };
    let resize = |acts: &mut Vec<(usize, Act)>| {
        let end = (START + fs_mib.max(to_mib) * MIB) as usize;
        fs::write(&part, &before[START as usize..end]).unwrap();
        let files = [Written {
            path: disk.clone(),
            before: before.clone(),
            part: Some((part.clone(), START)),
        }];
        let mut command = Command::new("resize2fs");
        command.args([text(&part), &format!("{to_mib}M")]);
        acts.extend(recorded(&mut command, &bench.path("log"), &files));
    };
    match change {
        "grow" => {
            table(&mut acts);
            resize(&mut acts);
        }
        _ => {
            resize(&mut acts);
            table(&mut acts);
        }
    }
    assert!(acts.len() > 20, "{}", acts.len());
    let files = [Written {
        path: disk.clone(),
        before,
        part: None,
    }];
    let mut count = Count::default();
    for (at, way) in states(acts.len()) {
        let left = cut(&files, &acts, at, way).remove(0);
        fs::write(&disk, &left).unwrap();
        count.states += 1;
        let found = partition(&disk).and_then(|(start, end)| {
            let bytes = left.get(start as usize..end as usize)?;
            fs::write(&part, bytes).unwrap();
            if files_of(&part, &bench.path("out")).as_ref() != Some(&want) {
                repair(&part);
            }
            files_of(&part, &bench.path("out"))
        });
        count.lost += u64::from(found.as_ref() != Some(&want));
    }
    count
}

/// Where the table that is there says that partition 2 is.
fn partition(disk: &Path) -> Option<(u64, u64)> {
    let said = try_run("sfdisk", &["--dump", text(disk)]);
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let line = said
        .lines()
        .find(|l| l.starts_with(&format!("{}2 ", text(disk))))?;
    let field = |name: &str| -> Option<u64> {
        let rest = line.split_once(name)?.1;
        rest.split(',').next()?.trim().parse().ok()
    };
    let (start, size) = (field("start=")?, field("size=")?);
    Some((start * 512, (start + size) * 512))
}

/// Ours.
fn holdfast(change: &str, fs_mib: u64, to: &str) -> Count {
    let bench = Bench::new();
    let (disk, _) = bench.image(fs_mib);
    let (state, program) = (bench.path("state"), env!("CARGO_BIN_EXE_holdfast"));
    let before = read(&disk);
    let arguments = [
        change,
        text(&disk),
        "-p2",
        "--yes",
        "--to",
        to,
        "--quiet",
        "--state-dir",
    ];
    // The id is chosen by the program: the name of the journal is known only afterwards.
    let log = bench.path("log");
    let mut strace = Command::new("strace");
    strace.args([
        "-y",
        "-xx",
        "-qq",
        "-s",
        "67108864",
        "-e",
        CALLS,
        "-o",
        text(&log),
        program,
    ]);
    strace.args(arguments).arg(&state);
    let out = strace.stdin(Stdio::null()).output().unwrap();
    assert!(out.status.success(), "{out:?}");
    let after = read(&disk);
    let place = fs::read_dir(&state)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let files = [
        Written {
            path: disk.clone(),
            before: before.clone(),
            part: None,
        },
        Written {
            path: place.join("journal"),
            before: Arc::default(),
            part: None,
        },
    ];
    let acts = parse(&fs::read_to_string(&log).unwrap(), &files);
    assert!(acts.len() > 20, "{}", acts.len());
    let mut count = Count::default();
    for (at, way) in states(acts.len()) {
        let left = cut(&files, &acts, at, way);
        fs::write(&disk, &left[0]).unwrap();
        fs::write(&files[1].path, &left[1]).unwrap();
        let said = try_run(
            program,
            &["recover", "--quiet", "--state-dir", text(&state)],
        );
        let found = fs::read(&disk).unwrap();
        let right = said.status.success() && (found == *before || found == *after);
        assert!(right, "cut at {at}, {way:?}: {said:?}");
        count.states += 1;
        count.lost += u64::from(!right);
    }
    count
}

#[test]
fn power_cuts_of_the_stock_tools_and_of_ours() {
    if !root() {
        return;
    }
    let mut stock = 0;
    for (change, from, to) in [("grow", 8, 12), ("shrink", 12, 8)] {
        let size = format!("{to}M");
        let count = undo_file(change, from, &size);
        count.print("resize2fs -z, e2undo", change);
        stock += count.lost;
        let count = bare_tools(change, from, to.min(11));
        count.print("sfdisk, resize2fs, e2fsck -fy", change);
        stock += count.lost;
        let size = if change == "grow" {
            "max".into()
        } else {
            format!("{to}MiB")
        };
        let count = holdfast(change, from, &size);
        count.print("holdfast, recover", change);
        assert_eq!(count.lost, 0);
    }
    // A harness that finds nothing where the manuals warn would find nothing with us either.
    assert!(stock > 0, "the stock tools lost nothing");
}
