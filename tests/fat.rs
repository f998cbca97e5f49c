//! FAT32 through the program: grow, shrink and undo, with mtools as the reader; and what is refused.
//! FAT16 is in the matrix (`tests/systems`). Needs root, dosfstools and mtools.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "common/scene.rs"]
mod scene;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use holdfast::fs::{Driver, TransactionId, fat::Fat};
use scene::{Scene, hash, root, run, text};

const MIB: u64 = 1 << 20;

/// A volume with clusters of 512 bytes and files in pieces, the last of them at its end.
fn volume(dir: &Path) -> std::path::PathBuf {
    let image = dir.join("volume");
    let file = File::create(&image).unwrap();
    file.set_len(40 * MIB).unwrap();
    run(
        "mkfs.fat",
        &["-F", "32", "-s", "1", "-n", "MAIL", text(&image)],
    );
    let (i, image_text) = ("-i", text(&image));
    run("mmd", &[i, image_text, "::/A directory with a long name"]);
    let copy = |name: &str, len: usize| {
        let path = dir.join(name);
        let seed = name.len();
        let bytes: Vec<u8> = (0..len)
            .map(|at| (at * 7 + at / 251 + seed) as u8)
            .collect();
        fs::write(&path, bytes).unwrap();
        let place = "::/A directory with a long name/";
        run("mcopy", &["-m", i, image_text, text(&path), place]);
    };
    for n in 0..40 {
        copy(&format!("message {n}.eml"), 3000 + n * 911);
    }
    copy("filler", 36 << 20);
    for n in (0..40).step_by(3) {
        let name = format!("::/A directory with a long name/message {n}.eml");
        run("mdel", &[i, image_text, &name]);
    }
    // In the gaps and at the end.
    copy("in pieces", 700_000);
    run(
        "mdel",
        &[i, image_text, "::/A directory with a long name/filler"],
    );
    image
}

/// Names, sizes, times, attributes and content, as mtools shows them.
fn files(image: &Path, dir: &Path) -> Vec<String> {
    let listed = run("mdir", &["-a", "-/", "-i", text(image), "::/"]);
    let lines = listed.lines().filter(|l| !l.contains("bytes free"));
    let mut all: Vec<String> = lines.map(String::from).collect();
    let out = dir.join("out");
    let _ = fs::remove_dir_all(&out);
    fs::create_dir(&out).unwrap();
    run("mcopy", &["-s", "-n", "-i", text(image), "::/", text(&out)]);
    let inside = out.join("A directory with a long name");
    let mut contents: Vec<String> = fs::read_dir(inside)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| format!("{} {}", path.display(), hash(&path)))
        .collect();
    assert!(contents.len() > 25, "{contents:?}");
    contents.sort();
    all.extend(contents);
    all
}

#[test]
fn fat32_there_and_back() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let scene = Scene::of(&volume(dir.path()));
    let image = scene.image();
    let (first, before) = (hash(&image), files(&image, dir.path()));
    for (arguments, what) in [
        (&["shrink", "--to", "36MiB"][..], "shrink"),
        (&["grow", "--disk-size", "72MiB"], "grow"),
    ] {
        let mut arguments = arguments.to_vec();
        arguments.extend([text(&image), "--yes"]);
        let done = scene.holdfast(&arguments);
        done.assert(0, "done", what);
        run("fsck.fat", &["-n", text(&image)]);
        assert_eq!(files(&image, dir.path()), before, "{what}");
        scene.holdfast(&arguments).assert(0, "no-change", what);
        let id = done.document["transaction"].as_str().unwrap();
        scene
            .holdfast(&["rollback", id, "--yes"])
            .assert(0, "done", what);
        assert_eq!(hash(&image), first, "{what}");
        scene.clear();
    }
    scene.assert_nothing_left("there and back");
}

#[test]
fn what_is_refused() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let scene = Scene::of(&volume(dir.path()));
    let image = scene.image();
    let refused = |size: &str, code: &str| {
        let before = hash(&image);
        let said = scene.holdfast(&["shrink", "--to", size, text(&image), "--yes"]);
        assert_eq!(said.code, 3, "{said:#?}");
        assert!(said.refusals().iter().any(|(c, _)| *c == code), "{said:#?}");
        assert_eq!(hash(&image), before);
    };
    // With fewer clusters it would be FAT16.
    refused("20MiB", "below-minimum");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&image)
        .unwrap();
    let poke = |at: u64| {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    };
    for (at, code) in [(65, "fat-dirty"), (32 * 512 + 4000, "fat-copies-differ")] {
        poke(at);
        refused("38MiB", code);
        poke(at);
    }
}

/// Nobody takes a volume with a gate for one, nor repairs it from the backup of its boot sector.
#[test]
fn a_gate_keeps_everybody_out() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let image = volume(dir.path());
    let mut bytes = fs::read(&image).unwrap();
    let closed = Fat
        .close_gate(&bytes[..512], TransactionId([7; 16]))
        .unwrap();
    bytes[..512].copy_from_slice(&closed);
    fs::write(&image, &bytes).unwrap();
    for (program, arguments) in [
        ("fsck.fat", &["-n"][..]),
        ("fsck.fat", &["-a"]),
        ("fsck.fat", &["-y"]),
        ("fatlabel", &[]),
        ("mdir", &["-i"]),
        ("blkid", &["-p"]),
    ] {
        let mut command = Command::new(program);
        command.args(arguments).arg(&image);
        if program == "mdir" {
            command.arg("::/");
        }
        let said = command.output().unwrap();
        assert!(!said.status.success(), "{program} {arguments:?}: {said:?}");
        assert_eq!(fs::read(&image).unwrap(), bytes, "{program} {arguments:?}");
    }
}
