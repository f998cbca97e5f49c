//! Questions, answers, and signals before the commit point.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::bench::{Bench, Process, Stalling, Why, orderly, transactions, until};

/// The program on a terminal of its own, made by `script`.
struct OnTerminal {
    process: Process,
    output: PathBuf,
}

impl OnTerminal {
    fn start(bench: &Bench, args: &str, columns: u32) -> OnTerminal {
        OnTerminal::with(bench, args, columns, |_| {})
    }

    fn with(
        bench: &Bench,
        args: &str,
        columns: u32,
        more: impl FnOnce(&mut Command),
    ) -> OnTerminal {
        let line = format!(
            "stty cols {columns}; exec {} --state-dir {} {args}",
            env!("CARGO_BIN_EXE_holdfast"),
            bench.state().display()
        );
        let output = bench.path("typescript");
        let _ = fs::remove_file(&output);
        let mut script = Command::new("script");
        script.args(["-qefc", &line]).arg(&output);
        script.stdin(Stdio::piped()).stdout(Stdio::null());
        more(script.stderr(Stdio::null()));
        OnTerminal {
            process: Process::start(&mut script),
            output,
        }
    }

    fn shown(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.output).unwrap_or_default()).into_owned()
    }

    fn asked(&self, question: &str) {
        until("the question", || self.shown().contains(question));
    }

    fn types(&mut self, keys: &[u8]) {
        let stdin = self.process.0.stdin.as_mut().unwrap();
        stdin.write_all(keys).unwrap();
        stdin.flush().unwrap();
    }

    fn ends(&mut self) -> i32 {
        // Waiting closes standard input, and that is an answer too.
        let keyboard = self.process.0.stdin.take();
        let code = self.process.0.wait().unwrap().code().unwrap();
        drop(keyboard);
        code
    }
}

#[test]
fn without_a_terminal_nothing_is_written_unless_told() {
    let (bench, image) = Bench::with("small-gpt");
    let target = image.to_str().unwrap();
    let plan = bench.path("plan.json");
    bench.run(&["plan", "grow", target, "-o", plan.to_str().unwrap()]);
    for args in [
        &["grow", target][..],
        &["shrink", target, "--to", "8MiB"],
        &["apply", plan.to_str().unwrap()],
    ] {
        let why: Why = bench.ends(&image, args, 2, "usage");
        why.says(&["no terminal", "--yes"]);
        assert_eq!(why.document["target"], target, "{:#}", why.document);
    }
    assert!(transactions(&bench).is_empty());
}

#[test]
fn on_a_terminal_only_yes_is_yes() {
    let (bench, image) = Bench::with("small-gpt");
    let before = fs::read(&image).unwrap();
    // Ctrl-D, Ctrl-C, and a line that only begins well.
    for (keys, code) in [
        (&b"no\n"[..], 130),
        (b"\n", 130),
        (b"yes please\n", 130),
        (b"\x04", 130),
        (b"\x03", 130),
    ] {
        let mut run = OnTerminal::start(&bench, &format!("grow {}", image.display()), 100);
        run.asked("Type yes to carry it out");
        run.types(keys);
        assert_eq!(run.ends(), code, "{keys:?}: {}", run.shown());
        assert!(run.shown().contains("touched"), "{keys:?}: {}", run.shown());
        assert!(fs::read(&image).unwrap() == before, "{keys:?}");
    }
    assert!(transactions(&bench).is_empty());
    let mut run = OnTerminal::start(&bench, &format!("grow {}", image.display()), 100);
    run.asked("Type yes to carry it out");
    let question = run.shown();
    for word in ["before  ", "after  ", "WRITES", "journal  "] {
        assert!(question.contains(word), "no {word} in: {question}");
    }
    run.types(b"yes\n");
    assert_eq!(run.ends(), 0, "{}", run.shown());
    assert!(run.shown().contains("done: "));
    assert_eq!(transactions(&bench).len(), 1);
}

#[test]
fn nothing_is_wider_than_a_terminal_of_80_columns_while_it_works() {
    let (bench, image) = Bench::with("small-gpt");
    let mut run = OnTerminal::start(
        &bench,
        &format!("plan grow {} --rehearse", image.display()),
        80,
    );
    assert_eq!(run.ends(), 0, "{}", run.shown());
    let shown = run.shown();
    // Redrawn lines end with a carriage return or an escape; what stays is measured.
    let longest = shown
        .split(['\r', '\n', '\x1b'])
        .filter(|line| line.contains('['))
        .filter(|line| line.contains("left") || line.contains("...."))
        .map(|line| line.chars().count())
        .max()
        .unwrap();
    assert!(longest <= 84, "{longest} columns: {shown:?}");
}

/// What a rehearsal could leave behind.
fn leftovers(bench: &Bench) -> Vec<String> {
    let mut found = Vec::new();
    let state = bench.state();
    for entry in fs::read_dir(&state).unwrap().flatten() {
        found.push(entry.path().display().to_string());
    }
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let environ = fs::read(process.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&environ).replace('\0', " ");
        if line.contains(bench.dir.path().to_str().unwrap()) && line.contains("holdfast") {
            found.push(line);
        }
    }
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let here = bench.dir.path().to_str().unwrap();
    found.extend(
        mounts
            .lines()
            .filter(|m| m.contains(here))
            .map(str::to_string),
    );
    found
}

fn stalled(bench: &Bench, image: &Path, tool: &str, args: &[&str]) -> Child {
    let stalling = Stalling::new(bench, tool);
    let mut command = bench.command(args);
    stalling.first_for(&mut command);
    command.stdin(Stdio::null());
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    stalling.wait();
    assert!(image.exists());
    child
}

#[test]
fn a_signal_before_the_commit_point_ends_it_and_leaves_nothing() {
    for (signal, tool) in [
        (Signal::SIGINT, "e2fsck"),
        (Signal::SIGTERM, "resize2fs"),
        (Signal::SIGHUP, "resize2fs"),
        (Signal::SIGQUIT, "e2fsck"),
    ] {
        let (bench, image) = Bench::with("small-gpt");
        let before = fs::read(&image).unwrap();
        let target = image.to_str().unwrap();
        let args = ["grow", target, "--yes", "--json"];
        let child = stalled(&bench, &image, tool, &args);
        kill(Pid::from_raw(child.id() as i32), signal).unwrap();
        let ended = orderly(child.wait_with_output().unwrap());
        let document = ended.document();
        assert_eq!(ended.code, 130, "{signal}: {document:#}");
        assert_eq!(document["outcome"], "interrupted");
        assert_eq!(document["target"], target);
        assert!(fs::read(&image).unwrap() == before, "{signal}");
        assert_eq!(leftovers(&bench), [] as [String; 0], "{signal}");
        // And the next one finds nothing in its way.
        let done = bench.run(&["grow", target, "--yes"]);
        assert_eq!(done.code, 0, "{signal}: {}", done.stderr);
    }
}

#[test]
fn ctrl_c_on_a_terminal_stops_the_rehearsal_and_takes_its_tools_along() {
    let (bench, image) = Bench::with("small-gpt");
    let before = fs::read(&image).unwrap();
    let stalling = Stalling::new(&bench, "resize2fs");
    let line = format!("grow {} --yes", image.display());
    // `script` passes the environment on.
    let mut run = OnTerminal::with(&bench, &line, 100, |script| stalling.first_for(script));
    stalling.wait();
    run.types(b"\x03");
    assert_eq!(run.ends(), 130, "{}", run.shown());
    assert!(run.shown().contains("interrupted before the commit point"));
    assert!(fs::read(&image).unwrap() == before);
    assert_eq!(leftovers(&bench), [] as [String; 0]);
}

#[test]
fn a_terminal_that_dies_before_the_commit_point_leaves_nothing() {
    let (bench, image) = Bench::with("small-gpt");
    let before = fs::read(&image).unwrap();
    let stalling = Stalling::new(&bench, "resize2fs");
    let line = format!("grow {} --yes", image.display());
    let run = OnTerminal::with(&bench, &line, 100, |script| stalling.first_for(script));
    stalling.wait();
    // The dropped connection: whoever holds the other end of the terminal is killed.
    drop(run);
    until("it has ended and cleared up", || {
        leftovers(&bench).is_empty()
    });
    assert!(fs::read(&image).unwrap() == before);
    assert!(transactions(&bench).is_empty());
}

#[test]
fn a_reader_that_goes_away_changes_nothing_about_the_work() {
    let (bench, image) = Bench::with("small-gpt");
    let mut command = bench.command(&["grow", image.to_str().unwrap(), "--yes"]);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    drop(child.stderr.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let left = transactions(&bench);
    assert_eq!(left[0]["progress"], "applied", "{left:#?}");
}
