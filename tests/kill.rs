//! P3 with the real program: killed at every write and every flush of a grow and of a shrink, on an
//! image and on a loop device, and again inside the recovery. `strace` delivers the signal at the
//! call that is counted to. Then whoever might open the half-written file system must refuse it,
//! and `recover` takes it to one of its two ends, byte for byte.
//!
//! Needs root, strace, e2fsprogs and util-linux. `HOLDFAST_LONG=1` tries every point in every way.

// A test stops at the first surprise.
#![allow(clippy::type_complexity)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::attached::Loop;
use holdfast::disk::{Dir, DiskRead, HostDir};
use holdfast::fs::{GateState, driver};
use holdfast::journal::{Journal, JournalError, Side, Step};
use serde_json::Value;

const MIB: u64 = 1 << 20;
/// Everything that writes or makes durable. Each is counted by itself.
const CALLS: [&str; 3] = ["pwrite64", "fsync", "ftruncate"];

/// The `nth` call of a kind.
#[derive(Clone, Copy, Debug)]
struct Point {
    call: &'static str,
    nth: u64,
}

fn flush(nth: u64) -> Point {
    Point { call: "fsync", nth }
}

fn write(nth: u64) -> Point {
    Point {
        call: "pwrite64",
        nth,
    }
}
/// Where the partition with the mail starts, unless there is no table.
const START: u64 = 3 * MIB;

static KILLS: AtomicU64 = AtomicU64::new(0);

fn long() -> bool {
    std::env::var_os("HOLDFAST_LONG").is_some_and(|v| v == "1")
}

/// Whether to leave a test out, which must be asked for.
fn left_out() -> bool {
    if std::env::var_os("HOLDFAST_WITHOUT_ROOT").is_some_and(|v| v == "1") {
        println!("left out: it needs root");
        return true;
    }
    assert!(
        nix::unistd::geteuid().is_root(),
        "these tests attach loop devices: run them as root, or set HOLDFAST_WITHOUT_ROOT=1"
    );
    false
}

fn run(program: &str, args: &[&str]) -> Output {
    Command::new(program)
        .args(args)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("{program}: {e}"))
}

fn must(program: &str, args: &[&str]) -> String {
    let out = run(program, args);
    assert!(out.status.success(), "{program} {args:?}: {out:?}");
    String::from_utf8(out.stdout).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn code(out: &Output) -> Option<i32> {
    out.status.code()
}

/// What is to be done to which image.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    /// Arguments of `images/make`.
    make: &'static [&'static str],
    /// Whether the mail is partition 2.
    table: bool,
    /// Arguments after the target.
    change: &'static [&'static str],
}

const GROW: Case = Case {
    name: "grow",
    make: &[
        "small-gpt",
        "--fs",
        "10M",
        "--disk",
        "16M",
        "--messages",
        "40",
    ],
    table: true,
    change: &["grow", "--to", "max"],
};
const SHRINK: Case = Case {
    name: "shrink",
    make: &[
        "small-gpt",
        "--fs",
        "12M",
        "--disk",
        "16M",
        "--messages",
        "40",
    ],
    table: true,
    change: &["shrink", "--to", "9MiB"],
};
const EXTEND: Case = Case {
    name: "image that grows",
    make: &[
        "small-old",
        "--fs",
        "8M",
        "--disk",
        "12M",
        "--messages",
        "40",
    ],
    table: true,
    change: &["grow", "--to", "max", "--disk-size", "16MiB"],
};
const BARE: Case = Case {
    name: "bare",
    make: &[
        "small-bare",
        "--fs",
        "8M",
        "--disk",
        "12M",
        "--messages",
        "40",
    ],
    table: false,
    change: &["grow", "--to", "max"],
};

/// A directory with the image as it was, and a fresh copy and state directory for each try.
struct Desk {
    dir: tempfile::TempDir,
    case: Case,
    before: Vec<u8>,
}

impl Desk {
    fn new(case: Case) -> Desk {
        // Not in memory: that would be refused, and could not be read past the page cache.
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let pristine = dir.path().join("pristine");
        let make = concat!(env!("CARGO_MANIFEST_DIR"), "/images/make");
        let mut args = vec![case.make[0], text(&pristine)];
        args.extend(&case.make[1..]);
        must(make, &args);
        if case.table {
            // Other tests attach images of the same making, which must not look like this one.
            must("sgdisk", &["-G", text(&pristine)]);
        }
        let before = fs::read(&pristine).unwrap();
        Desk { dir, case, before }
    }

    /// The start of the file system.
    fn start(&self) -> u64 {
        if self.case.table { START } else { 0 }
    }

    fn fresh(&self, name: &str) -> Try<'_> {
        let image = self.dir.path().join(format!("{name}.img"));
        let state = self.dir.path().join(format!("{name}.state"));
        let _ = fs::remove_dir_all(&state);
        must(
            "cp",
            &[
                "--sparse=always",
                text(&self.dir.path().join("pristine")),
                text(&image),
            ],
        );
        Try {
            desk: self,
            target: image.clone(),
            image,
            state,
        }
    }
}

/// When something happens to a change that is under way.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Moment {
    /// Its transaction has begun, and is not sealed.
    Rehearsing,
    /// The gate stands.
    Applying,
}

/// One try.
struct Try<'a> {
    desk: &'a Desk,
    image: PathBuf,
    /// The image or a device.
    target: PathBuf,
    state: PathBuf,
}

impl Try<'_> {
    fn args(&self) -> Vec<&str> {
        let [what, rest @ ..] = self.desk.case.change else {
            unreachable!()
        };
        let mut args = vec![*what, text(&self.target)];
        args.extend(rest);
        if self.desk.case.table {
            args.extend(["-p", "2"]);
        }
        args.extend([
            "--yes",
            "--json",
            "--quiet",
            "--state-dir",
            text(&self.state),
        ]);
        args
    }

    fn holdfast(&self, args: &[&str]) -> (Option<i32>, Value) {
        let mut all = args.to_vec();
        all.extend(["--json", "--quiet", "--state-dir", text(&self.state)]);
        let out = run(env!("CARGO_BIN_EXE_holdfast"), &all);
        let document = serde_json::from_slice(&out.stdout)
            .unwrap_or_else(|e| panic!("{args:?}: {e}: {out:?}"));
        (code(&out), document)
    }

    /// Runs with `what` done at each of the calls.
    fn traced(&self, args: &[&str], calls: &str, what: &str) -> Output {
        let (trace, inject) = (format!("trace={calls}"), format!("inject={calls}:{what}"));
        // The main thread alone: it writes target and journal.
        let mut all = vec!["-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject];
        all.push(env!("CARGO_BIN_EXE_holdfast"));
        all.extend(args);
        run("strace", &all)
    }

    /// `false`: it ended before it came to that call.
    fn killed_at(&self, args: &[&str], at: Point) -> bool {
        use std::os::unix::process::ExitStatusExt;
        let out = self.traced(args, at.call, &format!("signal=SIGKILL:when={}", at.nth));
        let killed = out.status.signal() == Some(9);
        assert!(
            killed || code(&out) == Some(0),
            "{}: {at:?}: {out:?}",
            self.desk.case.name
        );
        KILLS.fetch_add(u64::from(killed), Ordering::Relaxed);
        killed
    }

    fn content(&self) -> Vec<u8> {
        fs::read(&self.target).unwrap()
    }

    fn gate_stands(&self, content: &[u8]) -> bool {
        let at = self.desk.start() as usize + 1024;
        let ext = driver("ext").unwrap();
        matches!(ext.gate(&content[at..at + 1024]), GateState::Closed(_))
    }

    /// The target as its journal would have it in the end. `None`: it was never sealed.
    fn after(&self) -> Option<Vec<u8>> {
        let dir = fs::read_dir(&self.state).ok()?.find_map(|e| {
            let path = e.unwrap().path();
            path.join("summary.json").exists().then_some(path)
        })?;
        let file = HostDir::open(&dir).unwrap().open("journal").ok()?;
        let journal = match Journal::open(file) {
            Ok(journal) => journal,
            Err(JournalError::NotSealed) => return None,
            Err(e) => panic!("{}: a kill left a journal that is {e}", self.desk.case.name),
        };
        let mut after = self.desk.before.clone();
        after.resize(journal.lengths().1 as usize, 0);
        for record in journal.records().iter().filter(|r| r.step != Step::Gate) {
            let range = record.extent.start as usize..record.extent.end() as usize;
            after[range].copy_from_slice(&journal.content(record, Side::After).unwrap());
        }
        Some(after)
    }

    fn progress(&self) -> Vec<String> {
        let (code, document) = self.holdfast(&["status"]);
        assert_eq!(code, Some(0), "{document}");
        let entries = document["transactions"].as_array().unwrap();
        let name = |e: &Value| e["progress"].as_str().unwrap_or("damaged").to_string();
        entries.iter().map(name).collect()
    }

    /// Loop devices that the test itself has attached to the image.
    fn loops(&self) -> usize {
        usize::from(self.target != self.image)
    }

    /// Everybody who might open a half-written file system refuses it, and leaves it alone.
    fn nobody_gets_in(&self, place: &str) {
        let as_found = self.content();
        let part = format!("{}?offset={}", self.target.display(), self.desk.start());
        let checked = run("e2fsck", &["-p", &part]);
        assert_eq!(code(&checked), Some(8), "e2fsck -p: {place}: {checked:?}");
        let point = self.desk.dir.path().join("mount-point");
        fs::create_dir_all(&point).unwrap();
        let offset = format!("loop,offset={}", self.desk.start());
        for options in [offset.clone(), format!("{offset},ro,noload")] {
            let mounted = run(
                "mount",
                &[
                    "-t",
                    "ext4",
                    "-o",
                    &options,
                    text(&self.target),
                    text(&point),
                ],
            );
            if mounted.status.success() {
                must("umount", &["-d", text(&point)]);
                panic!("it was mounted with {options}: {place}");
            }
        }
        // The loop device of a mount that failed goes a moment later.
        for _ in 0..500 {
            if must("losetup", &["-j", text(&self.image)]).lines().count() <= self.loops() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let other = Try {
            desk: self.desk,
            image: self.image.clone(),
            target: self.target.clone(),
            state: self.desk.dir.path().join("another.state"),
        };
        let mut plan = vec!["plan"];
        plan.extend(other.args().into_iter().filter(|a| *a != "--yes"));
        for (what, args) in [("change", other.args()), ("plan", plan)] {
            let out = run(env!("CARGO_BIN_EXE_holdfast"), &args);
            assert_eq!(code(&out), Some(8), "another {what}: {place}: {out:?}");
        }
        let (code, document) = other.holdfast(&["recover", text(&self.target)]);
        assert_eq!(code, Some(8), "another recover: {place}: {document}");
        assert!(self.content() == as_found, "{place}: it was written to");
    }

    /// After a kill: judged, recovered, compared.
    fn judge(&self, at: Point, forward: bool) {
        let nth = at.nth;
        let case = self.desk.case.name;
        let place = format!("{case}: killed at {at:?}, forward {forward}");
        let (found, before) = (self.content(), &self.desk.before);
        let after = self.after();
        let is_after = |bytes: &[u8]| after.as_deref() == Some(bytes);
        let mixed = found != *before && !is_after(&found);
        assert_eq!(mixed, self.gate_stands(&found), "{place}");
        assert!(after.is_some() || !mixed, "{place}: no journal");
        let progress = self.progress();
        if mixed {
            assert_eq!(progress, ["hot"], "{place}");
            if long() || nth.is_multiple_of(5) {
                self.nobody_gets_in(&place);
            }
        }
        if after.is_none() {
            assert!(progress.iter().all(|p| p == "not-committed"), "{place}");
        }
        let mut recover = vec!["recover", "--json", "--state-dir", text(&self.state)];
        recover.extend(forward.then_some("--forward"));
        if mixed && (long() || nth.is_multiple_of(3)) {
            // Again inside the recovery, in either direction.
            let nth = 1 + nth * 7 % 11;
            let again = if nth.is_multiple_of(2) {
                flush(nth)
            } else {
                write(nth)
            };
            self.killed_at(&recover, again);
            let found = self.content();
            let mixed = found != *before && !is_after(&found);
            assert_eq!(
                mixed,
                self.gate_stands(&found),
                "{place}, again at {again:?}"
            );
        }
        let args: &[&str] = if forward {
            &["recover", "--forward"]
        } else {
            &["recover"]
        };
        let hot = self.progress().contains(&"hot".to_string());
        let gated = self.gate_stands(&self.content());
        let (code, document) = self.holdfast(args);
        assert_eq!(code, Some(0), "{place}: {document}");
        let content = self.content();
        let applied = document["recovered"][0]["applied"].as_bool();
        assert_eq!(
            document["outcome"],
            if hot { "done" } else { "no-change" },
            "{place}"
        );
        assert_eq!(applied.is_some(), hot, "{place}: {document}");
        match applied {
            Some(true) => assert!(is_after(&content), "{place}: not as after"),
            Some(false) => assert!(content == *before, "{place}: not as before"),
            None => assert!(content == *before || is_after(&content), "{place}: mixed"),
        }
        if gated {
            assert_eq!(
                applied,
                Some(forward),
                "{place}: the way that was asked for"
            );
        }
        assert!(!self.progress().contains(&"hot".to_string()), "{place}");
        let (code, document) = self.holdfast(args);
        assert_eq!(
            (code, &document["outcome"]),
            (Some(0), &"no-change".into()),
            "{place}"
        );
        assert!(
            self.content() == content,
            "{place}: the second recovery wrote"
        );
    }

    /// The change, each of its calls slowed down, so that something can happen in the middle.
    fn slow_command(&self) -> (&'static str, Vec<&str>) {
        let mut all = vec!["-qq", "-o", "/dev/null", "-e", "trace=pwrite64,fsync", "-e"];
        all.push("inject=pwrite64,fsync:delay_enter=100000");
        all.push(env!("CARGO_BIN_EXE_holdfast"));
        all.extend(
            self.args()
                .into_iter()
                .filter(|a| !matches!(*a, "--quiet" | "--json")),
        );
        ("strace", all)
    }

    fn slowly(&self, moment: Moment) -> Child {
        let (program, args) = self.slow_command();
        let child = Command::new(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        self.wait_for(moment);
        child
    }

    fn wait_for(&self, moment: Moment) {
        for _ in 0..12_000 {
            let there = match moment {
                Moment::Rehearsing => fs::read_dir(&self.state).is_ok_and(|mut entries| {
                    entries.any(|e| e.is_ok_and(|e| e.path().join("summary.json").exists()))
                }),
                Moment::Applying => self.gate_stands(&self.content()),
            };
            if there {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("{moment:?} was never seen");
    }

    fn sound(&self) {
        let part = format!("{}?offset={}", self.target.display(), self.desk.start());
        must("e2fsck", &["-fn", &part]);
        if self.desk.case.table {
            let said = must("sgdisk", &["-v", text(&self.target)]);
            assert!(said.contains("No problems found"), "{said}");
        }
    }
}

/// Kills an image's change at each call, `step` calls apart, until it comes through.
fn kill_everywhere(case: Case, step: u64) {
    if left_out() {
        return;
    }
    let desk = Desk::new(case);
    let mut tried = 0;
    for call in CALLS {
        for nth in (1..).step_by(if long() { 1 } else { step as usize }) {
            let at = Point { call, nth };
            let this = desk.fresh("try");
            if !this.killed_at(&this.args(), at) {
                assert!(this.after().as_deref() == Some(&this.content()[..]));
                this.sound();
                break;
            }
            this.judge(at, nth.is_multiple_of(2));
            if nth.is_multiple_of(10) {
                this.sound();
            }
            if long() {
                let this = desk.fresh("try");
                this.killed_at(&this.args(), at);
                this.judge(at, !nth.is_multiple_of(2));
            }
            tried += 1;
        }
    }
    let all = KILLS.load(Ordering::Relaxed);
    println!(
        "{}: killed at {tried} points; {all} kills in all",
        case.name
    );
    assert!(tried * step > 30, "{}: only {tried} points", case.name);
}

#[test]
fn p3_a_grow_is_killed_everywhere() {
    kill_everywhere(GROW, 1);
}

#[test]
fn p3_a_shrink_is_killed_everywhere() {
    kill_everywhere(SHRINK, 2);
}

#[test]
fn p3_an_image_that_grows_is_killed_everywhere() {
    kill_everywhere(EXTEND, 1);
}

#[test]
fn p3_a_bare_image_is_killed_everywhere() {
    kill_everywhere(BARE, 3);
}

/// A target with the gate and some of its blocks written, and its state directory.
fn half_way(desk: &Desk, name: &str) -> (PathBuf, PathBuf) {
    let mut found = None;
    for nth in 1.. {
        let this = desk.fresh(name);
        if !this.killed_at(&this.args(), write(nth)) {
            break;
        }
        if this.gate_stands(&this.content()) {
            found = Some(nth);
        }
    }
    // The last is that of the superblock: by then all the rest is new.
    let nth = found.expect("a gate stood") - 1;
    let this = desk.fresh(name);
    assert!(this.killed_at(&this.args(), write(nth)));
    assert!(this.gate_stands(&this.content()), "write {nth}");
    (this.image.clone(), this.state.clone())
}

/// Who forces his way in, as a desperate administrator would: with the backup superblock, or by
/// clearing the feature. Recovery says that the target has changed, and leaves it as it is.
#[test]
fn p3_a_forced_entry_is_named_and_nothing_is_made_worse() {
    if left_out() {
        return;
    }
    for (case, by_backup) in [(GROW, true), (SHRINK, true), (EXTEND, false)] {
        let desk = Desk::new(case);
        let (image, state) = half_way(&desk, "forced");
        let this = Try {
            desk: &desk,
            target: image.clone(),
            image,
            state,
        };
        let part = format!("{}?offset={START}", this.target.display());
        let forced = if by_backup {
            run("e2fsck", &["-y", "-b", "8193", "-B", "1024", &part])
        } else {
            // No checksum: the bit can simply be cleared.
            let mut bytes = this.content();
            bytes[START as usize + 1024 + 0x63] &= !0x40;
            fs::write(&this.target, bytes).unwrap();
            run("e2fsck", &["-y", "-f", &part])
        };
        assert!(
            code(&forced).is_some_and(|c| c < 8),
            "{}: {forced:?}",
            case.name
        );
        let as_found = this.content();
        assert!(
            !this.gate_stands(&as_found),
            "{}: e2fsck opened it",
            case.name
        );
        for args in [&["recover"][..], &["recover", "--forward"]] {
            let (code, document) = this.holdfast(args);
            assert_eq!(code, Some(3), "{}: {document}", case.name);
            assert_eq!(
                document["refusals"][0]["code"], "target-changed",
                "{document}"
            );
            assert!(
                this.content() == as_found,
                "{}: it was written to",
                case.name
            );
        }
        assert_eq!(this.progress(), ["hot"]);
    }
}

/// A journal that is gone, or cut off, or damaged, while its gate stands: never "untouched".
#[test]
fn a_gate_whose_journal_cannot_be_used_is_told() {
    if left_out() {
        return;
    }
    let desk = Desk::new(GROW);
    let (image, state) = half_way(&desk, "rotten");
    let this = Try {
        desk: &desk,
        target: image.clone(),
        image,
        state,
    };
    let journal = fs::read_dir(&this.state)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path()
        .join("journal");
    let (good, as_found) = (fs::read(&journal).unwrap(), this.content());
    let damages: [(&str, &dyn Fn(&mut Vec<u8>)); 5] = [
        ("cut off", &|b| b.truncate(b.len() - 4096)),
        ("empty", &|b| b.clear()),
        ("a header bit", &|b| b[40] ^= 1),
        ("a content bit", &|b| b[20_000] ^= 1),
        ("another version", &|b| b[7] = b'9'),
    ];
    for (what, damage) in damages {
        let mut bytes = good.clone();
        damage(&mut bytes);
        fs::write(&journal, bytes).unwrap();
        for args in [&["recover"][..], &["recover", text(&this.target)]] {
            let (code, document) = this.holdfast(args);
            assert_eq!(code, Some(6), "{what}: {document}");
            assert!(this.content() == as_found, "{what}");
        }
        let out = run(env!("CARGO_BIN_EXE_holdfast"), &this.args());
        assert_eq!(code(&out), Some(8), "{what}: {out:?}");
    }
    fs::write(&journal, good).unwrap();
    let (code, document) = this.holdfast(&["recover"]);
    assert_eq!(code, Some(0), "{document}");
    assert!(this.content() == desk.before);
}

/// The device that an image is behind, with its partitions.
fn attach(image: &Path, desk: &Desk, mail_bytes: u64) -> Loop {
    let mut device = Loop::attach(image, 512);
    if desk.case.table {
        device.add(1, MIB, 2 * MIB);
        device.add(2, START, mail_bytes);
    }
    device
}

/// On a loop device with partitions that the kernel knows: killed, recovered, and the kernel told.
#[test]
fn p3_a_loop_device_is_killed_everywhere() {
    if left_out() {
        return;
    }
    for (case, mail_bytes, step) in [(GROW, 10 * MIB, 3), (SHRINK, 12 * MIB, 3)] {
        let desk = Desk::new(case);
        for call in ["pwrite64", "fsync"] {
            for nth in (1..).step_by(if long() { 1 } else { step }) {
                let at = Point { call, nth };
                let mut this = desk.fresh("loop");
                let device = attach(&this.image, &desk, mail_bytes);
                this.target = device.node.clone();
                let killed = this.killed_at(&this.args(), at);
                if !killed {
                    this.sound();
                    assert_ne!(device.kernel_bytes(2), mail_bytes, "the kernel was told");
                    break;
                }
                this.judge(at, nth.is_multiple_of(2));
                let is_old = this.content() == desk.before;
                assert_eq!(device.kernel_bytes(2) == mail_bytes, is_old, "{at:?}");
            }
        }
    }
    println!(
        "loop device: {} kills in all",
        KILLS.load(Ordering::Relaxed)
    );
}

/// Names change at reboot. A copy of a half-written disk is not taken for the disk.
#[test]
fn p3_the_target_is_found_under_another_name_and_clones_are_refused() {
    if left_out() {
        return;
    }
    let desk = Desk::new(GROW);
    let mut this = desk.fresh("moved");
    let first = attach(&this.image, &desk, 10 * MIB);
    this.target = first.node.clone();
    let mut nth = 1;
    loop {
        assert!(this.killed_at(&this.args(), write(nth)));
        if this.gate_stands(&this.content()) {
            break;
        }
        let (code, document) = this.holdfast(&["recover"]);
        assert_eq!(code, Some(0), "{document}");
        fs::remove_dir_all(&this.state).unwrap();
        nth += 1;
    }
    let old_name = first.node.clone();
    drop(first);
    let (code, document) = this.holdfast(&["recover"]);
    assert_eq!(code, Some(3), "{document}");
    assert_eq!(document["refusals"][0]["code"], "target-not-found");
    // Something else has the old name now.
    let filler = desk.dir.path().join("filler");
    fs::write(&filler, vec![0; MIB as usize]).unwrap();
    let mut fillers = Vec::new();
    while !fillers.iter().any(|f: &Loop| f.node == old_name) && fillers.len() < 8 {
        fillers.push(Loop::attach(&filler, 512));
    }
    let second = attach(&this.image, &desk, 10 * MIB);
    assert_ne!(second.node, old_name);
    let clone = desk.dir.path().join("clone.img");
    fs::copy(&this.image, &clone).unwrap();
    let third = attach(&clone, &desk, 10 * MIB);
    this.target = second.node.clone();
    let as_found = this.content();
    let (code, document) = this.holdfast(&["recover"]);
    assert_eq!(code, Some(3), "{document}");
    assert_eq!(document["refusals"][0]["code"], "several-targets");
    let message = document["refusals"][0]["message"].as_str().unwrap();
    for device in [&second, &third] {
        assert!(message.contains(text(&device.node)), "{message}");
    }
    assert!(this.content() == as_found && fs::read(&third.node).unwrap() == as_found);
    drop(third);
    let (code, document) = this.holdfast(&["recover"]);
    assert_eq!(code, Some(0), "{document}");
    assert_eq!(document["recovered"][0]["target"], text(&second.node));
    assert!(this.content() == desk.before);
    // The copy still has its gate, and the journal still knows both sides.
    let third = attach(&clone, &desk, 10 * MIB);
    let (code, document) = this.holdfast(&["recover", text(&third.node), "--forward"]);
    assert_eq!(code, Some(0), "{document}");
    assert!(Some(fs::read(&third.node).unwrap()) == this.after());
}

/// A signal at every call: before the commit point it stops everything and the target is
/// untouched; after it nothing is stopped.
#[test]
fn signals_stop_it_before_the_commit_point_and_never_after() {
    if left_out() {
        return;
    }
    let desk = Desk::new(GROW);
    let signals = ["SIGINT", "SIGTERM", "SIGHUP", "SIGTSTP", "SIGQUIT"];
    let (mut stopped, mut completed, mut nth) = (0, 0, 1);
    let step = if long() { 1 } else { 2 };
    let mut calls = 12;
    while {
        let this = desk.fresh("count");
        this.killed_at(&this.args(), flush(calls))
    } {
        calls += 2;
    }
    while nth < calls {
        let signal = signals[(nth / step) as usize % signals.len()];
        let this = desk.fresh("signal");
        // And once more at each later call: one who insists.
        let out = this.traced(
            &this.args(),
            "fsync",
            &format!("signal={signal}:when={nth}+"),
        );
        let document: Value = serde_json::from_slice(&out.stdout).unwrap();
        let place = format!("{signal} from call {nth} on: {document}");
        match code(&out) {
            Some(130) => {
                assert!(this.content() == desk.before, "{place}");
                assert_eq!(this.progress(), [""; 0], "{place}");
                assert_eq!(completed_after_first(completed, signal), 0, "{place}");
                stopped += 1;
            }
            Some(0) => {
                assert!(Some(this.content()) == this.after(), "{place}");
                assert_eq!(this.progress(), ["applied"], "{place}");
                completed += u64::from(signal != "SIGTSTP");
            }
            other => panic!("{other:?}: {place}"),
        }
        nth += step;
    }
    assert!(
        stopped >= 3 && completed >= 5,
        "{stopped} stopped, {completed} completed"
    );
}

/// Once a signal came too late, every later one does too.
fn completed_after_first(completed: u64, signal: &str) -> u64 {
    if signal == "SIGTSTP" { 0 } else { completed }
}

/// Nobody reads what it says any more, from the start or in the middle of the commit.
#[test]
fn closed_output_stops_nothing() {
    if left_out() {
        return;
    }
    let desk = Desk::new(GROW);
    // No descriptors at all.
    let this = desk.fresh("closed");
    let line = format!(
        "exec {} {} <&- >&- 2>&-",
        env!("CARGO_BIN_EXE_holdfast"),
        this.args().join(" ")
    );
    assert_eq!(code(&run("sh", &["-c", &line])), Some(0));
    assert_eq!(this.progress(), ["applied"]);
    assert!(Some(this.content()) == this.after());
    // A pipe whose reader goes when the commit begins. Each call is slowed down, so that there is
    // something left to do.
    let this = desk.fresh("pipe");
    let mut child = this.slowly(Moment::Applying);
    drop((child.stdout.take(), child.stderr.take()));
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(this.progress(), ["applied"]);
    assert!(Some(this.content()) == this.after());
    // A terminal that dies: its program is killed, and the kernel hangs the line up.
    let this = desk.fresh("terminal");
    let (program, args) = this.slow_command();
    let mut terminal = Command::new("script")
        .args([
            "-qfec",
            &format!("{program} {}", args.join(" ")),
            "/dev/null",
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    this.wait_for(Moment::Applying);
    terminal.kill().unwrap();
    terminal.wait().unwrap();
    while this.progress() == ["hot"] {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(this.progress(), ["applied"]);
    assert!(Some(this.content()) == this.after());
}

/// A journal that was cut short anywhere was never sealed: no length of it looks like damage.
#[test]
fn a_single_kill_in_the_middle_of_sealing_is_no_damage() {
    if left_out() {
        return;
    }
    // Bytes of a journal at each length that a kill could leave.
    let desk = Desk::new(BARE);
    let this = desk.fresh("seal");
    assert!(!this.killed_at(&this.args(), flush(10_000)));
    let dir = fs::read_dir(&this.state)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let whole = fs::read(dir.join("journal")).unwrap();
    for len in (0..whole.len()).step_by(4096 * 3) {
        fs::write(dir.join("journal"), &whole[..len]).unwrap();
        let file = HostDir::open(&dir).unwrap().open("journal").unwrap();
        assert_eq!(file.len_bytes(), len as u64);
        assert!(
            matches!(Journal::open(file), Err(JournalError::NotSealed)),
            "{len} bytes"
        );
    }
}

fn only_id(this: &Try<'_>) -> String {
    let (_, document) = this.holdfast(&["status"]);
    document["transactions"][0]["id"]
        .as_str()
        .unwrap()
        .to_string()
}

/// What another process is working on is neither removed nor given up, nor recovered.
#[test]
fn a_transaction_at_work_is_left_alone() {
    if left_out() {
        return;
    }
    let desk = Desk::new(GROW);
    for moment in [Moment::Rehearsing, Moment::Applying] {
        let this = desk.fresh("busy");
        let mut child = this.slowly(moment);
        let id = only_id(&this);
        let (code, document) = this.holdfast(&["prune", "--days", "0"]);
        assert_ne!(
            document["removed"],
            serde_json::json!([id]),
            "{moment:?}: {code:?}"
        );
        for args in [&["prune", &id][..], &["abandon", &id, "--confirm", &id]] {
            let (code, document) = this.holdfast(args);
            assert_eq!(code, Some(3), "{moment:?}: {args:?}: {document}");
        }
        let (code, document) = this.holdfast(&["recover"]);
        assert_eq!(
            code,
            Some(if moment == Moment::Applying { 3 } else { 0 }),
            "{moment:?}: {document}"
        );
        assert_eq!(child.wait().unwrap().code(), Some(0), "{moment:?}");
        assert_eq!(this.progress(), ["applied"], "{moment:?}");
        assert!(Some(this.content()) == this.after());
    }
}

/// A file that takes the image's name in the middle of it all is not written to.
#[test]
fn p2_what_has_taken_the_name_of_the_target_is_not_written_to() {
    if left_out() {
        return;
    }
    let desk = Desk::new(GROW);
    for moment in [Moment::Rehearsing, Moment::Applying] {
        let this = desk.fresh("replaced");
        let mut child = this.slowly(moment);
        let other = desk.dir.path().join("other");
        fs::copy(desk.dir.path().join("pristine"), &other).unwrap();
        fs::rename(&other, &this.image).unwrap();
        let code = child.wait().unwrap().code();
        assert!(matches!(code, Some(1 | 6)), "{moment:?}: {code:?}");
        assert!(
            this.content() == desk.before,
            "{moment:?}: the wrong file was written to"
        );
    }
}

/// A partition's gate keeps its siblings as they are: recovery writes the table back that they
/// share.
#[test]
fn p3_a_sibling_is_not_changed_while_the_gate_stands() {
    if left_out() {
        return;
    }
    let desk = Desk::new(Case {
        change: &["grow", "--to", "11MiB"],
        ..GROW
    });
    let pristine = desk.dir.path().join("pristine");
    let sibling = desk.dir.path().join("sibling");
    must("sgdisk", &["-n", "3:28672:30500", text(&pristine)]);
    must(
        "mke2fs",
        &["-q", "-F", "-b", "1024", text(&sibling), "900k"],
    );
    let copy = format!("of={}", text(&pristine));
    let from = format!("if={}", text(&sibling));
    must(
        "dd",
        &[
            &from,
            &copy,
            "bs=1M",
            "seek=14",
            "conv=notrunc",
            "status=none",
        ],
    );
    let desk = Desk {
        before: fs::read(&pristine).unwrap(),
        ..desk
    };
    let (image, state) = half_way(&desk, "sibling");
    let this = Try {
        desk: &desk,
        target: image.clone(),
        image,
        state,
    };
    let elsewhere = desk.dir.path().join("elsewhere");
    for state in [&this.state, &elsewhere] {
        let out = run(
            env!("CARGO_BIN_EXE_holdfast"),
            &[
                "plan",
                "grow",
                text(&this.target),
                "-p",
                "3",
                "--to",
                "max",
                "--state-dir",
                text(state),
            ],
        );
        assert_eq!(code(&out), Some(8), "{out:?}");
    }
    // With a tool that does not ask: then recovery does not write the old table over his work.
    must("sgdisk", &["-c", "3:mine", text(&this.target)]);
    let as_found = this.content();
    let (code, document) = this.holdfast(&["recover"]);
    assert_eq!(code, Some(3), "{document}");
    assert_eq!(
        document["refusals"][0]["code"], "target-changed",
        "{document}"
    );
    assert!(this.content() == as_found);
}

/// One transaction whose disk is gone does not keep the others from recovery.
#[test]
fn one_lost_target_does_not_hold_up_the_others() {
    if left_out() {
        return;
    }
    let desk = Desk::new(GROW);
    let (image, state) = half_way(&desk, "first");
    fs::remove_file(&image).unwrap();
    // Another disk: with other GUIDs.
    let desk = Desk::new(GROW);
    let mut this = desk.fresh("second");
    this.state = state;
    for nth in 1.. {
        assert!(this.killed_at(&this.args(), write(nth)));
        if this.gate_stands(&this.content()) {
            break;
        }
        let (code, document) = this.holdfast(&["recover", text(&this.target)]);
        assert_eq!(code, Some(0), "{document}");
    }
    let (code, document) = this.holdfast(&["recover"]);
    assert_eq!(code, Some(3), "{document}");
    assert_eq!(document["refusals"][0]["code"], "target-not-found");
    assert!(this.content() == desk.before, "the other one is recovered");
}
