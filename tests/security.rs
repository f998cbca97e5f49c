//! What runs as root on a disk that somebody else has filled: nothing that the disk names is
//! opened, nobody else can put a journal in our way, and what we write nobody else can read.
//! (What is printed: `bad_input/output.rs`. What the tools may do: `export.rs`, `hostile`.)
//!
//! Needs root, strace and e2fsprogs.

// A test stops at the first surprise.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "common/scene.rs"]
mod scene;

use std::fs;
use std::os::unix::fs::{MetadataExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use scene::{Scene, Stamp, answer, root, run, text};

const GROW: &[&str] = &["grow", "--yes", "--to", "max", "-p2"];

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

/// The one transaction's directory.
fn transaction(state: &Path) -> PathBuf {
    let mut found = fs::read_dir(state).unwrap();
    let only = found.next().unwrap().unwrap().path();
    assert!(found.next().is_none());
    only
}

/// A small image that was grown; its state directory and the transaction.
fn grown(scene: &Scene) -> (PathBuf, String) {
    let image = scene.image();
    let done = scene.holdfast(&[GROW, &[text(&image)]].concat());
    done.assert(0, "done", "grow");
    let place = transaction(&scene.path("state"));
    let id = place.file_name().unwrap().to_str().unwrap().to_string();
    (place, id)
}

#[test]
fn what_is_written_nobody_else_can_read_whatever_the_umask() {
    if !root() {
        return;
    }
    let scene = Scene::new("small-gpt", &["--messages", "20"]);
    let state = scene.path("fresh/deeper/state");
    let image = scene.image();
    let command = scene.command_in(&state, &[GROW, &[text(&image)]].concat());
    let plain = "umask 000; exec \"$0\" \"$@\"";
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", plain]).arg(command.get_program());
    shell.args(command.get_args()).stdin(Stdio::null());
    answer(&mut shell).assert(0, "done", "with no umask");
    assert_eq!(mode(&state), 0o700);
    let place = transaction(&state);
    assert_eq!(mode(&place), 0o700);
    let mut names = Vec::new();
    for file in fs::read_dir(&place).unwrap() {
        let file = file.unwrap().path();
        let name = file.file_name().unwrap().to_str().unwrap().to_string();
        let want = if name == "holdfast" { 0o700 } else { 0o600 };
        assert_eq!(mode(&file), want, "{name}");
        names.push(name);
    }
    for name in [
        "journal",
        "before.manifest",
        "after.manifest",
        "summary.json",
    ] {
        assert!(names.contains(&name.to_string()), "{names:?}");
    }
    for (command, name) in [("snapshot", "manifest"), ("plan", "plan.json")] {
        let output = scene.path(name);
        let image = scene.image();
        let words = match command {
            "plan" => vec!["plan", "shrink", text(&image), "-p2", "--to", "10MiB"],
            _ => vec!["snapshot", text(&image), "-p2"],
        };
        let said = scene.holdfast(&[&words[..], &["-o", text(&output)]].concat());
        said.assert(0, "done", command);
        assert_eq!(mode(&output) & 0o022, 0, "{name}: others can write it");
    }
}

/// Each command that acts on a journal, and what it says of a state directory that is not ours.
#[test]
fn a_journal_that_others_could_have_put_there_is_not_acted_upon() {
    if !root() {
        return;
    }
    let scene = Scene::new("small-gpt", &["--messages", "20"]);
    let (place, id) = grown(&scene);
    let (state, image) = (scene.path("state"), Stamp::of(&scene.image()));
    let commands: [&[&str]; 5] = [
        &["status"],
        &["recover"],
        &["rollback", "--yes", &id],
        &["prune", "--days", "0"],
        &["abandon", &id, "--confirm", &id],
    ];
    let nobody = Some(65534);
    for (path, owner, bits) in [
        (&state, nobody, 0o700),
        (&state, None, 0o777),
        (&place, nobody, 0o700),
        (&place, None, 0o770),
    ] {
        let before = mode(path);
        chown(path, owner, None).unwrap();
        let change = |bits: u32| {
            run("chmod", &[&format!("{bits:o}"), text(path)]);
        };
        change(bits);
        for command in commands {
            let said = scene.holdfast(command);
            if *path == state {
                said.assert(3, "refused", command[0]);
                assert_eq!(said.refusals()[0].0, "state-dir-owner", "{said:#?}");
            } else {
                said.assert(1, "failed", command[0]);
                let error = said.document["error"].as_str().unwrap();
                assert!(error.contains("not trusted"), "{error}");
            }
            assert_eq!(Stamp::of(&scene.image()), image, "{command:?}");
        }
        chown(path, Some(0), None).unwrap();
        change(before);
    }
    let done = scene.holdfast(&["rollback", "--yes", &id]);
    done.assert(0, "done", "ours again");
}

/// A link in the place of a transaction, or of a file in it, is not followed.
#[test]
fn links_in_the_state_directory_are_not_followed() {
    if !root() {
        return;
    }
    let scene = Scene::new("small-gpt", &["--messages", "20"]);
    let (place, id) = grown(&scene);
    let image = Stamp::of(&scene.image());
    for name in ["journal", "before.manifest", "summary.json"] {
        let (file, away) = (place.join(name), scene.path("away"));
        fs::rename(&file, &away).unwrap();
        symlink(&away, &file).unwrap();
        let linked = Stamp::of(&away);
        let said = scene.holdfast(&["rollback", "--yes", &id]);
        // The summary is for people: it is done without.
        if name == "summary.json" {
            assert!(scene.holdfast(&["status"]).document["transactions"][0]["summary"].is_null());
        } else {
            assert!([1, 3].contains(&said.code), "{name}: {said:#?}");
            assert_eq!(Stamp::of(&scene.image()), image, "{name}");
        }
        assert_eq!(Stamp::of(&away), linked, "{name}");
        fs::remove_file(&file).unwrap();
        fs::rename(&away, &file).unwrap();
    }
    let away = scene.path("transaction");
    fs::rename(&place, &away).unwrap();
    symlink(&away, &place).unwrap();
    let said = scene.holdfast(&["recover"]);
    assert_eq!(said.code, 1, "{said:#?}");
}

/// Names that a disk carries, in each place that has one: they are words, and no paths of ours.
#[test]
fn no_path_of_the_disk_is_opened_on_the_host() {
    if !root() {
        return;
    }
    const MARK: &str = "HOLDFASTMARK";
    let scene = Scene::new("small-gpt", &["--messages", "20"]);
    let offset = format!("{}?offset={}", text(&scene.image()), 3 << 20);
    let victim = scene.path(&format!("{MARK}-victim"));
    fs::write(&victim, "precious").unwrap();
    let note = scene.path("note");
    fs::write(&note, "content").unwrap();
    let commands = scene.path("commands");
    let lines = [
        format!("symlink {MARK}-link {}", text(&victim)),
        format!("write {} {MARK}-file", text(&note)),
        format!("mkdir {MARK}-directory"),
        format!("ssv volume_name {MARK}"),
        format!("ssv last_mounted /{MARK}/mounted"),
        format!("ssv mount_opts {MARK}"),
    ];
    fs::write(&commands, lines.join("\n")).unwrap();
    run("debugfs", &["-w", "-f", text(&commands), &offset]);
    run(
        "sgdisk",
        &["-c", &format!("2:/{MARK}/name"), text(&scene.image())],
    );
    // The victim's own name is in the image alone from here on.
    let hidden = scene.path("hidden");
    fs::rename(&victim, &hidden).unwrap();
    let image = scene.image();
    let changes: [&[&str]; 4] = [
        &["check", text(&image)],
        &["plan", "grow", text(&image), "-p2"],
        &[GROW, &[text(&image)]].concat(),
        &["shrink", "--yes", "--to", "12MiB", "-p2", text(&image)],
    ];
    for arguments in changes {
        let log = scene.path("log");
        let plain = scene.command(arguments);
        let mut strace = Command::new("strace");
        strace.args([
            "-f",
            "-qq",
            "-s",
            "4096",
            "-e",
            "trace=%file",
            "-o",
            text(&log),
        ]);
        strace.arg(plain.get_program()).args(plain.get_args());
        let said = answer(strace.stdin(Stdio::null()));
        assert_eq!(said.code, 0, "{said:#?}");
        let log = fs::read(&log).unwrap();
        let log = String::from_utf8_lossy(&log);
        assert!(log.contains("openat"), "strace saw nothing");
        let named: Vec<&str> = log.lines().filter(|l| l.contains(MARK)).collect();
        assert!(named.is_empty(), "{arguments:?}: {named:#?}");
    }
    assert_eq!(fs::read_to_string(&hidden).unwrap(), "precious");
}
