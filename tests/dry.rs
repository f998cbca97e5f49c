//! P1: dry until proven. Whatever is asked, planned, rehearsed or refused, the target has the same
//! bytes afterwards, the same allocation and the same times; and nobody can write to it before the
//! journal is sealed, because nobody holds a descriptor that could.
//!
//! Needs root, e2fsprogs, util-linux and strace.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "common/loopdev.rs"]
mod loopdev;
#[path = "common/scene.rs"]
mod scene;
#[path = "common/trace.rs"]
mod trace;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use loopdev::Loop;
use scene::{Scene, Stamp, hash, root, run, text};
use trace::{Call, traced};

const MIB: u64 = 1 << 20;

/// Commands that look, each with its exit code. `TARGET` stands for the target and its options,
/// `DIR` for a directory.
const LOOKS: &[(&str, i32)] = &[
    ("check TARGET", 0),
    ("plan grow TARGET", 0),
    ("plan grow --to +2MiB TARGET", 0),
    ("plan grow --to +2MiB -o DIR/plan TARGET", 0),
    ("plan grow --rehearse TARGET", 0),
    ("plan grow --rehearse --export copy TARGET", 0),
    ("plan shrink --to 12MiB TARGET", 0),
    ("plan shrink --to min --rehearse TARGET", 0),
    ("plan shrink --to -2MiB --rehearse --verify all TARGET", 0),
    ("snapshot -o DIR/manifest TARGET", 0),
    ("verify TARGET DIR/manifest", 0),
    ("status", 0),
    ("recover", 0),
    ("prune", 0),
];

/// Likewise, refused or typed wrongly.
const REFUSALS: &[(&str, i32)] = &[
    ("grow TARGET", 2),
    ("shrink TARGET", 2),
    ("shrink --to 12 TARGET", 2),
    ("apply DIR/plan", 2),
    ("shrink --yes --to 1MiB TARGET", 3),
    ("grow --yes --to 100GiB TARGET", 3),
    ("grow --yes --to 12MiB TARGET", 3),
    ("shrink --yes --to 20MiB TARGET", 3),
];

/// The words of a command.
fn words(command: &str, target: &[&str], dir: &Path) -> Vec<String> {
    let dir = text(dir);
    command
        .split(' ')
        .flat_map(|word| match word {
            "TARGET" => target.iter().map(|w| w.to_string()).collect(),
            _ => vec![word.replace("DIR", dir)],
        })
        .collect()
}

fn assert_all_dry(
    scene: &Scene,
    target: &[&str],
    all: &[&(&str, i32)],
    stamp: impl Fn() -> Vec<Stamp>,
) {
    let before = stamp();
    for (command, code) in all {
        let words = words(command, target, &scene.path("out"));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let answer = scene.holdfast(&words);
        assert_eq!(answer.code, *code, "{words:?}: {answer:#?}");
        assert_eq!(stamp(), before, "{words:?}");
        scene.assert_nothing_left(command);
    }
}

#[test]
fn p1_looking_leaves_an_image_as_it_is() {
    if !root() {
        return;
    }
    for name in ["small-gpt", "small-4k", "small-ext2"] {
        let scene = Scene::new(name, &[]);
        fs::create_dir(scene.path("out")).unwrap();
        let image = scene.image();
        let all: Vec<_> = LOOKS.iter().chain(REFUSALS).collect();
        assert_all_dry(&scene, &["-p2", text(&image)], &all, || {
            vec![Stamp::of(&image)]
        });
    }
}

#[test]
fn p1_looking_leaves_a_block_device_as_it_is() {
    if !root() {
        return;
    }
    let scene = Scene::new("small-swap", &[]);
    fs::create_dir(scene.path("out")).unwrap();
    let image = scene.image();
    let before = Stamp::of(&image);
    let device = Loop::on(&image, 512);
    let partition = device.add_partition(2, 3, 16);
    // Also as the device shows it: a page that waits there would be seen.
    let stamp = || {
        let shown = [device.path(), &partition].map(|node| (node.to_path_buf(), hash(node)));
        (Stamp::of(&image), shown)
    };
    let first = stamp();
    let all = || LOOKS.iter().chain(REFUSALS);
    for target in [&["-p2", text(device.path())][..], &[text(&partition)]] {
        for (command, code) in all() {
            let words = words(command, target, &scene.path("out"));
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let answer = scene.holdfast(&words);
            assert_eq!(answer.code, *code, "{words:?}: {answer:#?}");
            assert_eq!(stamp(), first, "{words:?}");
        }
    }
    drop(device);
    assert_eq!(Stamp::of(&image), before, "after the device is gone");
}

/// Damage to an image, by which it is refused.
type Spoil = (&'static str, fn(&Path));

const SPOILT: &[Spoil] = &[
    ("primary table", |image| poke(image, 512 + 40, b"spoilt")),
    ("backup table", |image| {
        poke(image, 32 * MIB - 512 + 40, b"spoilt")
    }),
    ("both tables", |image| {
        poke(image, 512, &[0; 512]);
        poke(image, 32 * MIB - 512, &[0; 512]);
    }),
    ("superblock", |image| {
        poke(image, 3 * MIB + 1024 + 0x38, b"xx")
    }),
    ("checksum", |image| {
        poke(image, 3 * MIB + 1024 + 0x3fc, b"spoil")
    }),
    ("a file's inode", |image| {
        let offset = format!("{}?offset={}", text(image), 3 * MIB);
        run("debugfs", &["-w", "-R", "sif <13> links_count 9", &offset]);
    }),
    ("unfinished business", |image| {
        let offset = format!("{}?offset={}", text(image), 3 * MIB);
        run("debugfs", &["-w", "-R", "ssv state 2", &offset]);
    }),
    ("empty", |image| {
        OpenOptions::new()
            .write(true)
            .open(image)
            .unwrap()
            .set_len(0)
            .unwrap()
    }),
    ("zeros", |image| {
        let file = OpenOptions::new().write(true).open(image).unwrap();
        file.set_len(0).unwrap();
        file.set_len(32 * MIB).unwrap();
    }),
];

fn poke(image: &Path, at: u64, bytes: &[u8]) {
    let file = OpenOptions::new().write(true).open(image).unwrap();
    file.write_all_at(bytes, at).unwrap();
}

#[test]
fn p1_what_is_damaged_is_refused_and_left_as_it_is() {
    if !root() {
        return;
    }
    for (name, spoil) in SPOILT {
        let scene = Scene::new("small-gpt", &[]);
        let image = scene.image();
        spoil(&image);
        File::open(&image).unwrap().sync_all().unwrap();
        let before = Stamp::of(&image);
        let last = ["-p2", text(&image)];
        for command in [
            &["check"][..],
            &["plan", "grow"],
            &["plan", "grow", "--rehearse"],
            &["grow", "--yes"],
            &["shrink", "--yes", "--to", "12MiB"],
        ] {
            let answer = scene.holdfast(&[command, &last].concat());
            // A plan alone asks no checker.
            let may_pass = *command == ["plan", "grow"];
            assert!(
                answer.code == 3 || may_pass,
                "{name}: {command:?}: {answer:#?}"
            );
            assert_eq!(Stamp::of(&image), before, "{name}: {command:?}");
        }
    }
}

/// Held by somebody: mounted, behind a loop device, locked.
#[test]
fn p1_what_is_in_use_is_refused_and_left_as_it_is() {
    if !root() {
        return;
    }
    let scene = Scene::new("small-bare", &[]);
    let image = scene.image();
    let before = Stamp::of(&image);
    let grow = ["grow", "--yes", "--disk-size", "40MiB", text(&image)];
    let lock = File::open(&image).unwrap();
    lock.lock().unwrap();
    scene.holdfast(&grow).assert(3, "refused", "locked");
    assert_eq!(Stamp::of(&image), before, "locked");
    drop(lock);
    let device = Loop::on(&image, 512);
    scene
        .holdfast(&grow)
        .assert(3, "refused", "behind a loop device");
    assert_eq!(Stamp::of(&image), before, "behind a loop device");
    let place = scene.path("mnt");
    fs::create_dir(&place).unwrap();
    let _mounted = Mounted::at(&["-o", "ro", text(device.path())], &place);
    let before = hash(device.path());
    for command in [
        &["check"][..],
        &["plan", "shrink", "--to", "12MiB"],
        &["shrink", "--yes", "--to", "12MiB"],
    ] {
        let answer = scene.holdfast(&[command, &[text(device.path())]].concat());
        answer.assert(3, "refused", "mounted");
        assert_eq!(hash(device.path()), before, "mounted: {command:?}");
    }
}

struct Mounted(PathBuf);

impl Mounted {
    fn at(arguments: &[&str], place: &Path) -> Mounted {
        run("mount", &[arguments, &[text(place)]].concat());
        Mounted(place.into())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// Calls that change what they are made on.
fn changes(call: &Call) -> bool {
    let name = call.name.as_str();
    let harmless = [
        "BLKFLSBUF",
        "BLKGETSIZE64",
        "BLKSSZGET",
        "BLKPBSZGET",
        "BLKROGET",
        "BLKBSZGET",
    ];
    match name {
        "ioctl" => !harmless.iter().any(|h| call.arguments.contains(h)),
        // To make durable what others wrote is no change.
        "fsync" | "fdatasync" => false,
        "mmap" => call.arguments.contains("PROT_WRITE") && call.arguments.contains("MAP_SHARED"),
        _ => !name.starts_with("open"),
    }
}

/// Nothing in `calls` can have changed one of the nodes, and nothing could have.
fn assert_read_only(calls: &[Call], nodes: &[&Path], what: &str) {
    let on = |call: &&Call| nodes.iter().any(|node| call.is_on(node));
    let mine: Vec<&Call> = calls.iter().filter(on).collect();
    let opened = mine.iter().filter(|c| c.name.starts_with("open")).count();
    assert!(
        opened > 2,
        "{what}: strace saw {opened} opens of the target"
    );
    for call in mine {
        assert!(!call.opens_for_writing(), "{what}: {call:?}");
        assert!(!changes(call), "{what}: {call:?}");
    }
}

/// The moment in which the journal of the only transaction is sealed: its commit record, and then
/// its name, are durable.
fn sealed(calls: &[Call], state: &Path) -> usize {
    let names: Vec<PathBuf> = fs::read_dir(state)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    let [transaction] = &names[..] else {
        panic!("{names:?}");
    };
    let journal = transaction.join("journal");
    let flushed = calls
        .iter()
        .find(|c| c.is_flush() && c.is_on(&journal))
        .unwrap();
    let named = calls
        .iter()
        .find(|c| c.is_flush() && c.is_on(transaction) && c.begun > flushed.ended);
    named.unwrap().ended
}

fn traced_command(scene: &Scene, arguments: &[&str]) -> (scene::Answer, Vec<Call>) {
    traced(&scene.command(arguments), &scene.path("trace"))
}

#[test]
fn p1_whoever_only_looks_opens_the_target_for_reading_alone() {
    if !root() {
        return;
    }
    let scene = Scene::new("small-gpt", &[]);
    fs::create_dir(scene.path("out")).unwrap();
    let image = scene.image();
    let device = Loop::on(
        &Scene::new("small-swap", &[]).image_to(&scene.path("disk")),
        512,
    );
    let partition = device.add_partition(2, 3, 16);
    let targets: [&[&str]; 2] = [&["-p2", text(&image)], &[text(&partition)]];
    for target in targets {
        for (command, code) in LOOKS.iter().filter(|(c, _)| c.contains("TARGET")) {
            let words = words(command, target, &scene.path("out"));
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let (answer, calls) = traced_command(&scene, &words);
            assert_eq!(answer.code, *code, "{words:?}: {answer:#?}");
            let nodes: &[&Path] = match target.len() {
                2 => &[&image],
                _ => &[device.path(), &partition],
            };
            assert_read_only(&calls, nodes, command);
        }
    }
}

/// Before the seal nobody can write; after it somebody does, and the gate comes first.
fn assert_sealed_before_written(scene: &Scene, arguments: &[&str], nodes: &[&Path], gate_at: u64) {
    let (answer, calls) = traced_command(scene, arguments);
    answer.assert(0, "done", &format!("{arguments:?}"));
    let sealed = sealed(&calls, &scene.path("state"));
    let (before, after): (Vec<Call>, Vec<Call>) = calls.into_iter().partition(|c| c.begun < sealed);
    assert_read_only(&before, nodes, &format!("{arguments:?}"));
    let on = |call: &&Call| nodes.iter().any(|node| call.is_on(node));
    assert!(
        after.iter().filter(on).any(Call::opens_for_writing),
        "{arguments:?}: no writer"
    );
    let writes: Vec<&Call> = after
        .iter()
        .filter(on)
        .filter(|c| c.name == "pwrite64")
        .collect();
    assert!(writes.len() >= 3, "{arguments:?}: {writes:?}");
    let place = |call: &Call| {
        call.arguments
            .rsplit(", ")
            .next()
            .unwrap()
            .parse::<u64>()
            .unwrap()
    };
    assert_eq!(
        place(writes[0]),
        gate_at,
        "the first write is the gate: {:?}",
        writes[0]
    );
    assert_eq!(
        place(writes[writes.len() - 1]),
        gate_at,
        "the last is the superblock"
    );
}

#[test]
fn p1_the_target_is_read_only_until_the_journal_is_sealed() {
    if !root() {
        return;
    }
    for change in [
        &["grow", "--yes"][..],
        &["shrink", "--yes", "--to", "12MiB"],
    ] {
        for export in ["fuse", "copy"] {
            let scene = Scene::new("small-gpt", &[]);
            let image = scene.image();
            let arguments = [change, &["--export", export, "-p2", text(&image)]].concat();
            assert_sealed_before_written(&scene, &arguments, &[&image], 3 * MIB);
        }
        let scene = Scene::new("small-swap", &[]);
        let device = Loop::on(&scene.image(), 512);
        let partition = device.add_partition(2, 3, 16);
        let arguments = [change, &[text(&partition)]].concat();
        assert_sealed_before_written(&scene, &arguments, &[device.path(), &partition], 3 * MIB);
    }
    // An image that grows itself.
    let scene = Scene::new("small-bare", &[]);
    let image = scene.image();
    let arguments = ["grow", "--yes", "--disk-size", "40MiB", text(&image)];
    assert_sealed_before_written(&scene, &arguments, &[&image], 0);
}

/// A rehearsal that is rejected held no writer either.
#[test]
fn p1_a_rejected_change_never_had_a_writer() {
    if !root() {
        return;
    }
    let scene = Scene::new("small-gpt", &[]);
    scene.program("resize2fs", "#!/bin/sh\nexit 0");
    let image = scene.image();
    let before = Stamp::of(&image);
    let (answer, calls) = traced_command(&scene, &["grow", "--yes", "-p2", text(&image)]);
    answer.assert(4, "rejected", "a resizer that does nothing");
    assert_read_only(&calls, &[&image], "rejected");
    assert_eq!(Stamp::of(&image), before);
}
