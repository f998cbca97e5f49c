//! State directories that cannot hold a journal.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use crate::bench::{Bench, Loop, MIB, Mounted, Why, judged, said, tool};

/// `grow` of an untouched image with this state directory.
#[track_caller]
fn refused(image: &Path, state: &Path, code: &str, words: &[&str]) {
    let target = image.to_str().unwrap();
    for args in [&["plan", "grow", target][..], &["grow", target, "--yes"]] {
        let args = [&["--state-dir", state.to_str().unwrap()], args].concat();
        let before = fs::read(image).unwrap();
        let why: Why = judged(
            || {
                let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
                command.args(&args);
                command
            },
            3,
            "refused",
        );
        assert_eq!(why.codes, [code], "{why:#?}");
        why.says(&[state.to_str().unwrap()]).says(words);
        assert!(
            !why.document["refusals"][0]["hint"]
                .as_str()
                .unwrap()
                .is_empty()
        );
        assert!(fs::read(image).unwrap() == before);
    }
}

#[test]
fn a_state_directory_that_cannot_be_made_or_written_is_refused() {
    let (bench, image) = Bench::with("small-gpt");
    let file = bench.file("file", 1, &[]);
    refused(
        &image,
        &file.join("below"),
        "state-dir-not-writable",
        &["--state-dir"],
    );
    refused(&image, &file, "state-dir-owner", &["not a directory"]);
    // A file system that is mounted read-only, with the directory and without.
    let medium = bench.file("medium", 32 * MIB, &[]);
    tool("mke2fs", &["-q".as_ref(), medium.as_os_str()]);
    let device = Loop::on(&medium);
    let place = bench.path("mnt");
    let mount = Mounted::at(
        &place,
        &["-o".as_ref(), "ro".as_ref(), device.0.as_os_str()],
    );
    refused(
        &image,
        &place.join("state"),
        "state-dir-not-writable",
        &["Read-only"],
    );
    refused(&image, &place, "state-dir-not-writable", &["ead-only"]);
    drop(mount);
}

#[test]
fn a_state_directory_of_somebody_else_is_refused() {
    let (bench, image) = Bench::with("small-gpt");
    let theirs = bench.path("theirs");
    fs::create_dir(&theirs).unwrap();
    chown(&theirs, Some(65534), None).unwrap();
    refused(&image, &theirs, "state-dir-owner", &["65534"]);
    let open = bench.path("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, PermissionsExt::from_mode(0o777)).unwrap();
    refused(&image, &open, "state-dir-owner", &["0777"]);
}

#[test]
fn a_state_directory_in_memory_is_refused() {
    let (bench, image) = Bench::with("small-gpt");
    let place = bench.path("memory");
    let _mount = Mounted::at(&place, &["-t", "tmpfs", "none"].map(OsStr::new));
    fs::set_permissions(&place, PermissionsExt::from_mode(0o700)).unwrap();
    refused(&image, &place, "state-dir-volatile", &["tmpfs", "reboot"]);
    refused(&image, &place.join("new"), "state-dir-volatile", &["tmpfs"]);
    // A disk whose image is in memory is no better.
    let medium = place.join("medium");
    fs::File::create(&medium)
        .unwrap()
        .set_len(32 * MIB)
        .unwrap();
    tool("mke2fs", &["-q".as_ref(), medium.as_os_str()]);
    let device = Loop::on(&medium);
    let place = bench.path("mnt");
    let _mount = Mounted::at(&place, &[device.0.as_os_str()]);
    refused(&image, &place, "state-dir-volatile", &["memory"]);
}

#[test]
fn a_state_directory_without_room_is_refused_with_what_is_needed() {
    let (bench, image) = Bench::with("small-gpt");
    let medium = bench.file("medium", 4 * MIB, &[]);
    tool("mke2fs", &["-q".as_ref(), medium.as_os_str()]);
    let device = Loop::on(&medium);
    let place = bench.path("mnt");
    let _mount = Mounted::at(&place, &[device.0.as_os_str()]);
    refused(
        &image,
        &place,
        "no-journal-space",
        &["MiB", "free", "--state-dir"],
    );
    // Not one inode is left, although there is room by the numbers.
    let medium = bench.file("few", 64 * MIB, &[]);
    tool(
        "mke2fs",
        &[
            "-q".as_ref(),
            "-N".as_ref(),
            "12".as_ref(),
            medium.as_os_str(),
        ],
    );
    let device = Loop::on(&medium);
    let place = bench.path("few inodes");
    let _mount = Mounted::at(&place, &[device.0.as_os_str()]);
    for n in 0.. {
        if fs::File::create(place.join(format!("file{n}"))).is_err() {
            break;
        }
    }
    let before = fs::read(&image).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    command.arg("--state-dir").arg(&place).arg("--json");
    let full = said(command.args(["grow", image.to_str().unwrap(), "--yes"]));
    let document = full.document();
    assert!([1, 3].contains(&full.code), "{document:#}");
    let text = document.to_string();
    assert!(text.contains("No space left"), "{text}");
    assert!(text.contains(place.to_str().unwrap()), "{text}");
    assert!(fs::read(&image).unwrap() == before);
}

#[test]
fn a_copy_of_the_program_never_takes_the_room_of_the_journal() {
    let (bench, image) = Bench::with("small-gpt");
    let program = fs::metadata(env!("CARGO_BIN_EXE_holdfast")).unwrap().len();
    // Room for the journal; with the program, for half of the journal.
    let medium = bench.file("medium", (program + (4 << 20)) & !4095, &[]);
    tool(
        "mke2fs",
        &["-q".as_ref(), "-m0".as_ref(), medium.as_os_str()],
    );
    let device = Loop::on(&medium);
    let place = bench.path("mnt");
    let _mount = Mounted::at(&place, &[device.0.as_os_str()]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    command.arg("--state-dir").arg(&place);
    let done = said(command.args(["grow", image.to_str().unwrap(), "--yes"]));
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert!(
        done.stderr.contains("  holdfast recover"),
        "{}",
        done.stderr
    );
}

#[test]
fn a_state_directory_on_the_target_is_refused_and_one_beside_it_is_noted() {
    let (bench, image) = Bench::with("small-gpt");
    let device = Loop::on(&image);
    let node = device.partition();
    let part = node.to_str().unwrap();
    {
        let place = bench.path("on");
        let _mount = Mounted::at(&place, &[node.as_os_str()]);
        let state = place.join("state");
        let why = judged(
            || {
                let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
                command.arg("--state-dir").arg(&state);
                command.args(["plan", "shrink", part, "--to", "8MiB"]);
                command
            },
            3,
            "refused",
        );
        assert!(
            why.codes.iter().any(|c| c == "state-dir-on-target"),
            "{why:#?}"
        );
        why.says(&[state.to_str().unwrap(), "--state-dir"]);
    }
    // Another partition of the same disk, which is mounted: the ordinary case.
    let disk = device.0.to_str().unwrap();
    let start = (19 * MIB / 512).to_string();
    let len = (12 * MIB / 512).to_string();
    tool("addpart", &[disk, "3", &start, &len]);
    let sibling = format!("{disk}p3");
    crate::bench::until("the sibling", || Path::new(&sibling).exists());
    tool("mke2fs", &["-q", "-m0", &sibling]);
    let place = bench.path("beside");
    {
        let _mount = Mounted::at(&place, &[sibling.as_ref()]);
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
        command.arg("--state-dir").arg(&place).arg("--json");
        let planned = said(command.args(["plan", "shrink", part, "--to", "-1MiB"]));
        let document = planned.document();
        assert_eq!(planned.code, 0, "{document:#}");
        let notices = document["plan"]["notices"].to_string();
        assert!(
            notices.contains("another partition of the same disk"),
            "{notices}"
        );
    }
    tool("delpart", &[disk, "3"]);
}
