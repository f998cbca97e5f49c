//! P1, P3, P4 with the real program on a medium that fails: an error at the n-th read, write and
//! flush of the target, once and from then on, a device that goes, a write that is lost, short, or
//! lands elsewhere; and an error, ENOSPC and EDQUOT at the n-th write, flush and read of the program
//! itself, which is mostly the state directory. Whatever happens, the exit code tells the state:
//! below 5 and at 5 the target is as before, byte for byte; at 0 it can be rolled back to that; and
//! at 6 `recover` takes it to one of the two when the device works again.
//!
//! Needs root, FUSE, strace and e2fsprogs. `HOLDFAST_LONG=1` tries every n; else a sample.

// A test stops at the first surprise.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "common/broken.rs"]
mod broken;
#[path = "common/scene.rs"]
mod scene;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use broken::{Broken, Harm, Op};
use holdfast::extent::Extent;
use holdfast::fs::{GateState, driver};
use scene::{Answer, Scene, answer, root, run, text};
use serde_json::Value;

const MIB: u64 = 1 << 20;
/// Where the partition with the mail starts.
const START: u64 = 3 * MIB;

/// A change to a small disk image.
struct Case {
    name: &'static str,
    make: &'static [&'static str],
    change: &'static [&'static str],
}

const CASES: [Case; 2] = [
    Case {
        name: "grow",
        make: &["--fs", "8M", "--disk", "12M", "--messages", "20"],
        change: &["grow", "--yes", "--to", "max", "-p2"],
    },
    Case {
        name: "shrink",
        make: &["--fs", "10M", "--disk", "14M", "--messages", "20"],
        change: &["shrink", "--yes", "--to", "8MiB", "-p2"],
    },
];

fn long() -> bool {
    std::env::var_os("HOLDFAST_LONG").is_some_and(|v| v == "1")
}

/// About `count` of 0..`end`, the first and the last among them.
fn sample(end: u64, count: u64) -> Vec<u64> {
    if long() || end <= count {
        return (0..end).collect();
    }
    (0..count).map(|i| i * (end - 1) / (count - 1)).collect()
}

/// An image on a medium that can fail, and what it held before.
struct Bench {
    scene: Scene,
    medium: Broken,
    before: Vec<u8>,
    what: String,
}

impl Bench {
    fn new(case: &Case) -> Bench {
        let scene = Scene::new("small-gpt", case.make);
        let medium = Broken::mount(&scene.image(), &scene.path("medium"));
        let before = fs::read(scene.image()).unwrap();
        Bench {
            scene,
            medium,
            before,
            what: case.name.into(),
        }
    }

    /// Puts everything back.
    fn renew(&self) {
        self.medium.medium().bad = None;
        self.medium.follow(None);
        fs::write(self.scene.image(), &self.before).unwrap();
        self.scene.clear();
    }

    fn content(&self) -> Vec<u8> {
        fs::read(self.scene.image()).unwrap()
    }

    fn assert_before(&self, answer: &Answer) {
        let same = self.content() == self.before;
        assert!(same, "{}: not as before: {answer:#?}", self.what);
    }

    fn change(&self, case: &Case) -> Answer {
        let image = self.medium.image();
        self.scene
            .holdfast(&[case.change, &[text(&image)]].concat())
    }

    /// The states of all transactions, as `status` has them.
    fn progress(&self) -> Vec<String> {
        let said = self.scene.holdfast(&["status"]);
        said.assert(0, "done", &self.what);
        let list = said.document["transactions"].as_array().unwrap().clone();
        let state = |t: &Value| match &t["progress"] {
            Value::String(state) => state.clone(),
            other => other.to_string(),
        };
        list.iter().map(state).collect()
    }

    /// What must be true, whatever happened; ends with the target as before.
    fn judge(&self, answer: &Answer, counts: &mut BTreeMap<String, u64>) {
        let what = &self.what;
        *counts.entry(format!("exit {}", answer.code)).or_default() += 1;
        let exit = answer.document["exit_code"].as_i64();
        assert_eq!(exit, Some(answer.code.into()), "{what}: {answer:#?}");
        let progress = self.progress();
        match answer.code {
            1 | 3 | 4 => {
                self.assert_before(answer);
                assert!(
                    !progress.contains(&"hot".into()),
                    "{what}: {progress:?}: {answer:#?}"
                );
            }
            5 => {
                self.assert_before(answer);
                assert_eq!(progress, ["rolled-back"], "{what}");
            }
            0 => {
                assert_eq!(progress, ["applied"], "{what}");
                self.undo();
            }
            6 => {
                // Closed or not: where only the flush of the closing record failed, nobody knows.
                if progress == ["hot"] {
                    let again = self.scene.holdfast(&["recover"]);
                    again.assert(0, "done", what);
                }
                if self.progress() == ["applied"] {
                    self.undo();
                } else {
                    assert_eq!(self.progress(), ["rolled-back"], "{what}");
                }
                self.assert_before(answer);
            }
            _ => panic!("{what}: {answer:#?}"),
        }
        let nothing = self.scene.holdfast(&["recover"]);
        nothing.assert(0, "no-change", what);
    }

    /// What is done is sound, and is undone to the byte.
    fn undo(&self) {
        let image = format!("{}?offset={START}", text(&self.scene.image()));
        run("e2fsck", &["-f", "-n", &image]);
        let list = self.scene.holdfast(&["status"]);
        let id = list.document["transactions"][0]["id"].as_str().unwrap();
        let undone = self.scene.holdfast(&["rollback", "--yes", id]);
        undone.assert(0, "done", &self.what);
        self.assert_before(&undone);
    }
}

/// Errors of the target.
fn on_the_target(case: &Case) {
    let mut bench = Bench::new(case);
    let mut counts = BTreeMap::new();
    let whole = bench.change(case);
    let (reads, writes, flushes) = {
        let medium = bench.medium.medium();
        (medium.reads, medium.writes, medium.flushes)
    };
    bench.judge(&whole, &mut counts);
    assert!(
        reads > 40 && writes > 5 && flushes > 5,
        "{reads} {writes} {flushes}"
    );
    let mut plans = Vec::new();
    for (op, end, few) in [
        (Op::Read, reads, 10),
        (Op::Write, writes, 5),
        (Op::Flush, flushes, 5),
    ] {
        for harm in [Harm::Once, Harm::FromNowOn, Harm::Gone] {
            // Once is tried most: the others differ from it only later.
            let few = if harm == Harm::Once { few } else { few / 2 };
            plans.extend(sample(end, few).into_iter().map(|nth| (op, nth, harm)));
        }
    }
    for harm in [Harm::Lost, Harm::Misdirected, Harm::Short] {
        plans.extend(
            sample(writes, 3)
                .into_iter()
                .map(|nth| (Op::Write, nth, harm)),
        );
    }
    for plan in plans {
        bench.what = format!("{}: {plan:?} of {reads}, {writes}, {flushes}", case.name);
        bench.renew();
        bench.medium.follow(Some(plan));
        let answer = bench.change(case);
        bench.medium.follow(None);
        if plan.2 == Harm::Misdirected && answer.code != 0 {
            bench.judge_misdirected(&answer, &mut counts);
        } else {
            bench.judge(&answer, &mut counts);
        }
    }
    bench.renew();
    println!("{} on the target: {counts:?}", case.name);
    assert!(counts["exit 5"] > 0 && counts["exit 6"] > 0, "{counts:?}");
    assert!(counts["exit 1"] > 0, "{counts:?}");
}

impl Bench {
    /// A misdirected write has hit a unit that may be in no record. Where it was in use it is found:
    /// rolled back where that mends it, else stuck, and the place is named.
    fn judge_misdirected(&self, answer: &Answer, counts: &mut BTreeMap<String, u64>) {
        *counts.entry("misdirected, found".into()).or_default() += 1;
        match answer.code {
            5 => assert_eq!(self.progress(), ["rolled-back"], "{}", self.what),
            6 => {
                assert_eq!(self.progress(), ["hot"], "{}", self.what);
                let text = answer.document.to_string();
                assert!(text.contains("differing"), "{}: {text}", self.what);
            }
            _ => panic!("{}: {answer:#?}", self.what),
        }
    }
}

#[test]
fn an_error_of_the_target_at_any_operation_of_a_grow() {
    if root() {
        on_the_target(&CASES[0]);
    }
}

#[test]
fn an_error_of_the_target_at_any_operation_of_a_shrink() {
    if root() {
        on_the_target(&CASES[1]);
    }
}

/// Runs the program with `inject` done to it by strace, in its main thread: the one that writes
/// journal and target.
fn injected(scene: &Scene, arguments: &[&str], call: &str, inject: &str) -> Answer {
    let plain = scene.command(arguments);
    let mut strace = Command::new("strace");
    strace.args([
        "-qq",
        "-o",
        "/dev/null",
        "-e",
        &format!("trace={call}"),
        "-e",
    ]);
    strace.arg(format!("inject={call}:{inject}"));
    strace.arg(plain.get_program()).args(plain.get_args());
    for (name, value) in plain.get_envs() {
        strace.env(name, value.unwrap());
    }
    answer(strace.stdin(Stdio::null()))
}

/// How many times the main thread makes each call.
fn calls(scene: &Scene, arguments: &[&str], names: &[&str]) -> BTreeMap<String, u64> {
    let log = scene.path("calls");
    let plain = scene.command(arguments);
    let mut strace = Command::new("strace");
    strace.args([
        "-qq",
        "-o",
        text(&log),
        "-e",
        &format!("trace={}", names.join(",")),
    ]);
    strace.arg(plain.get_program()).args(plain.get_args());
    answer(strace.stdin(Stdio::null())).assert(0, "done", "counting calls");
    let log = fs::read_to_string(log).unwrap();
    let of = |name: &&str| {
        log.lines()
            .filter(|l| l.starts_with(&format!("{name}(")))
            .count()
    };
    names
        .iter()
        .map(|n| (n.to_string(), of(n) as u64))
        .collect()
}

/// Errors at the program's own calls: the journal's, and the target's, in whatever file they are.
#[test]
fn an_error_of_any_call_of_a_change_and_of_its_recovery() {
    if !root() {
        return;
    }
    let case = &CASES[0];
    let mut bench = Bench::new(case);
    let image = bench.scene.image();
    let arguments = [case.change, &[text(&image)]].concat();
    let names = ["pwrite64", "fsync", "pread64", "ftruncate", "fallocate"];
    let counted = calls(&bench.scene, &arguments, &names);
    assert!(
        counted["pwrite64"] > 15 && counted["fsync"] > 10,
        "{counted:?}"
    );
    let mut counts = BTreeMap::new();
    for (call, error, few) in [
        ("pwrite64", "EIO", 8),
        ("pwrite64", "ENOSPC", 8),
        ("pwrite64", "EDQUOT", 6),
        ("fsync", "EIO", 10),
        ("fsync", "ENOSPC", 4),
        ("fsync", "EDQUOT", 4),
        ("pread64", "EIO", 6),
        ("ftruncate", "ENOSPC", 3),
        ("fallocate", "ENOSPC", 3),
    ] {
        // The loader reads the program's libraries; that is not ours.
        let skip = if call == "pread64" { 8 } else { 0 };
        for nth in sample(counted[call] - skip, few)
            .into_iter()
            .map(|n| n + skip)
        {
            for sticky in ["", "+"] {
                if !long() && sticky == "+" && nth % 2 == 1 {
                    continue;
                }
                bench.renew();
                bench.what = format!("{call} {nth}{sticky} of {}: {error}", counted[call]);
                let inject = format!("error={error}:when={}{sticky}", nth + 1);
                let answer = injected(&bench.scene, &arguments, call, &inject);
                bench.judge(&answer, &mut counts);
            }
        }
    }
    println!("calls of a grow: {counts:?}");
    assert!(counts["exit 5"] > 0 && counts["exit 6"] > 0, "{counts:?}");
    bench.renew();
}

fn gate(content: &[u8]) -> GateState {
    let at = START as usize + 1024;
    driver("ext").unwrap().gate(&content[at..at + 1024])
}

/// Leaves a grow in the middle: the device refuses every write after the gate.
fn half_way(bench: &Bench, case: &Case) -> String {
    bench.renew();
    bench.medium.follow(Some((Op::Write, 2, Harm::FromNowOn)));
    let answer = bench.change(case);
    bench.medium.follow(None);
    answer.assert(6, "rollback-incomplete", "a device that refuses all writes");
    assert!(matches!(gate(&bench.content()), GateState::Closed(_)));
    answer.document["transaction"].as_str().unwrap().into()
}

/// A place in use, outside of the change, that can be read no more: exit 6 with the very place, and
/// the gate closed; `recover` the same; `recover --verify changed` takes the rest to its end.
#[test]
fn a_place_that_cannot_be_read_any_more_does_not_keep_the_gate_closed() {
    if !root() {
        return;
    }
    let case = &CASES[0];
    let bench = Bench::new(case);
    let offset = format!("{}?offset={START}", text(&bench.scene.image()));
    let message = run("debugfs", &["-R", "blocks /home/anna/Maildir/cur", &offset]);
    let block: u64 = message.split_whitespace().next().unwrap().parse().unwrap();
    let unit = Extent::new((START + block * 1024) / 4096 * 4096, 4096);
    half_way(&bench, case);
    bench.medium.medium().bad = Some(unit);
    let stuck = bench.scene.holdfast(&["recover"]);
    stuck.assert(6, "rollback-incomplete", "a bad place");
    let places = stuck.document["differing"].to_string();
    assert!(places.contains(&unit.start.to_string()), "{places}");
    assert!(
        stuck.errors.contains("--verify changed")
            || stuck.document.to_string().contains("--verify changed")
    );
    assert!(matches!(gate(&bench.content()), GateState::Closed(_)));
    let done = bench.scene.holdfast(&["recover", "--verify", "changed"]);
    done.assert(0, "done", "without the bad place");
    assert_eq!(done.document["recovered"][0]["whole"], false);
    bench.assert_before(&done);
}

/// The superblock's unit, which the power cut left unreadable while the gate was written: that is
/// a torn one, and it is written again.
#[test]
fn a_superblock_that_cannot_be_read_any_more_is_written_again() {
    if !root() {
        return;
    }
    let case = &CASES[0];
    let bench = Bench::new(case);
    // The device goes after its first write, which is the gate.
    bench.medium.follow(Some((Op::Write, 1, Harm::Gone)));
    let answer = bench.change(case);
    bench.medium.follow(None);
    answer.assert(6, "rollback-incomplete", "a device that goes");
    assert!(matches!(gate(&bench.content()), GateState::Closed(_)));
    bench.medium.medium().bad = Some(Extent::new(START, 4096));
    let done = bench.scene.holdfast(&["recover"]);
    done.assert(0, "done", "an unreadable superblock");
    bench.assert_before(&done);
}

/// Whoever gives a transaction up while its gate stands still needs its journal: nothing else can
/// open the gate.
#[test]
fn a_journal_is_not_pruned_while_its_gate_stands() {
    if !root() {
        return;
    }
    let case = &CASES[0];
    let bench = Bench::new(case);
    let id = half_way(&bench, case);
    let given_up = bench.scene.holdfast(&["abandon", &id, "--confirm", &id]);
    given_up.assert(0, "done", "abandon");
    let all = bench.scene.holdfast(&["prune", "--days", "0"]);
    all.assert(0, "no-change", "prune of all that is old");
    let one = bench.scene.holdfast(&["prune", &id]);
    one.assert(3, "refused", "prune of one whose gate stands");
    assert_eq!(one.refusals()[0].0, "hot-journal");
    assert!(
        one.refusals()[0].1.contains(text(&bench.medium.image())),
        "{one:#?}"
    );
    bench
        .scene
        .holdfast(&["recover", &id])
        .assert(0, "done", "still recoverable");
    assert!(bench.content() == bench.before);
    bench
        .scene
        .holdfast(&["prune", &id])
        .assert(0, "done", "now");
    // The target is gone for good: its journal may go when it is named.
    let id = half_way(&bench, case);
    bench
        .scene
        .holdfast(&["abandon", &id, "--confirm", &id])
        .assert(0, "done", "abandon");
    let away: PathBuf = bench.scene.path("away");
    fs::rename(bench.scene.image(), &away).unwrap();
    drop(bench.medium);
    bench
        .scene
        .holdfast(&["prune", "--days", "0"])
        .assert(0, "no-change", "not unasked");
    bench
        .scene
        .holdfast(&["prune", &id])
        .assert(0, "done", "named");
}
