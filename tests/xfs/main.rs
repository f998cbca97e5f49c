//! XFS through the program, from the command line to the last byte: grown in every place, every
//! file as it was, undone, cut off in the middle. What is tried is one list, in `rows`.
//!
//! Needs root, /dev/fuse, loop devices, xfsprogs, strace.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]
#![allow(dead_code, reason = "shared modules have more than is used here")]

#[path = "../common/attached.rs"]
mod attached;
mod bed;
mod cuts;
mod hostile;
#[path = "../common/mounted.rs"]
mod image;
mod reader;
mod rows;
#[path = "../common/side_by_side.rs"]
mod side_by_side;

use std::fs;
use std::path::Path;
use std::process::Command;

use bed::{Bed, MIB, MORE, MOST, template, text, workspace};
use image::{Mounted, sh};
use rows::{Expect, Row};

/// Whether the tests can run. Without root they cannot, and that is a failure, unless somebody said
/// that there is none.
fn is_root() -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    assert!(
        std::env::var("HOLDFAST_WITHOUT_ROOT").is_ok_and(|v| v == "1"),
        "these tests use loop devices and mounts: run them as root, or set HOLDFAST_WITHOUT_ROOT=1"
    );
    eprintln!("skipped: not root");
    false
}

/// Everything in the file system, as `find`, `getfattr` and a hash of each file tell it.
fn account(image: &Path) -> String {
    let mounted = Mounted::at(image, 0, "ro,norecovery,nouuid");
    let root = mounted.path();
    let tell = r#"cd "$1" &&
        find . -printf '%p %i %m %y %n %U %G %s %b %T@ %C@ %B@ %l\n' | LC_ALL=C sort &&
        find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum &&
        find . -print0 | LC_ALL=C sort -z | xargs -0 getfattr -h -d -m - -e hex 2>/dev/null"#;
    sh(Command::new("/bin/sh").args(["-c", tell, "sh"]).arg(root))
}

fn hash(path: &Path) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(fs::File::open(path).unwrap()).unwrap();
    hasher.finalize()
}

/// Sound, of the planned size, and with the same files.
fn assert_grown(bed: &Bed, bytes: u64, files: &str) {
    let part = bed.extract(bytes);
    sh(Command::new("xfs_repair").args(["-n", "-f"]).arg(&part));
    let said = bed::xfs_db(&part, &["sb 0", "print dblocks blocksize"]);
    let numbers: Vec<u64> = said
        .lines()
        .map(|line| line.split(" = ").nth(1).unwrap().trim().parse().unwrap())
        .collect();
    assert_eq!(numbers[0] * numbers[1], bytes);
    let now = account(&part);
    assert!(now == files, "the files differ");
}

/// One row, from the first look to the last.
fn travel(row: Row) {
    let dir = workspace();
    let base = template(&row.shape);
    let mut bed = Bed::make(dir.path(), row, &base);
    let keep = bed.keep();
    if let Expect::Refused(code) = row.shape.grow {
        let said = bed.grow(MOST);
        said.assert("refused", 3);
        assert!(said.codes().contains(&code), "{said:#?}");
        bed.assert_same(&keep);
        return;
    }
    let files = account(&base);
    assert!(files.lines().count() > 3000, "{}", files.lines().count());
    bed.run(&["check"], &[]).assert("done", 0);
    bed.run(&["plan", "grow"], &bed.size(MOST))
        .assert("done", 0);
    bed.assert_same(&keep);
    let done = bed.grow(MOST);
    done.assert("done", 0);
    let size = done.planned("file_system_size");
    assert!(MOST.abs_diff(size) <= MIB, "{size} of {MOST}");
    assert_grown(&bed, size, &files);
    assert_outside(&bed, &keep, size);
    bed.grow(MOST).assert("no-change", 0);
    let back = bed.plain(&["rollback", "--yes", done.transaction()]);
    back.assert("done", 0);
    bed.assert_same(&keep);
    // Once more to another size; then it is used, and there is no way back.
    let done = bed.grow(MORE);
    done.assert("done", 0);
    bed.close();
    let size = done.planned("file_system_size");
    assert_grown(&bed, size, &files);
    {
        let mounted = Mounted::at(&bed.file, bed.start, "nouuid");
        fs::write(mounted.path().join("new"), vec![7; 300_000]).unwrap();
    }
    sh(Command::new("xfs_repair")
        .args(["-n", "-f"])
        .arg(bed.extract(size)));
    if !row.place.is_device() {
        let refused = bed.plain(&["rollback", "--yes", done.transaction()]);
        refused.assert("refused", 3);
        assert_eq!(refused.codes(), ["target-changed"]);
    }
}

/// Nothing differs outside the partition, but for the table.
fn assert_outside(bed: &Bed, keep: &Path, len: u64) {
    let compared = Command::new("cmp")
        .arg("-l")
        .args([keep, &bed.file])
        .output()
        .unwrap();
    let table = 34 * 4096;
    let ends = [keep, &bed.file].map(|path| fs::metadata(path).unwrap().len());
    for line in String::from_utf8(compared.stdout).unwrap().lines() {
        let at: u64 = line.split_whitespace().next().unwrap().parse().unwrap();
        let at = at - 1;
        let in_table = bed.start > 0
            && (at < table || ends.iter().any(|end| (end - table..*end).contains(&at)));
        assert!(
            in_table || (bed.start..bed.start + len).contains(&at),
            "byte {at}"
        );
    }
}

#[test]
fn every_row_ends_as_the_table_says() {
    if !is_root() {
        return;
    }
    let filter = std::env::var("HOLDFAST_ROWS").unwrap_or_default();
    let mut rows = rows::rows();
    rows.retain(|row| format!("{row:?}").contains(&filter));
    side_by_side::each(&rows, "rows", |row| format!("{row:?}"), |row| travel(*row));
}

/// README has it word for word: print it with `cargo test --test xfs the_table -- --nocapture`.
#[test]
fn the_table_has_every_shape_and_every_place() {
    let table = rows::table();
    println!("{table}");
    assert!(
        include_str!("../../README.md").contains(&table),
        "README has another table"
    );
}

/// Uses the file system in `base`, and stops its machine in the middle of that.
fn crash(base: &Path) {
    let mounted = Mounted::at(base, 0, "nouuid,noatime");
    let root = mounted.path();
    for n in 0..300 {
        fs::create_dir(root.join(format!("last-{n}"))).unwrap();
        fs::write(root.join(format!("last-{n}/message")), vec![n as u8; 9000]).unwrap();
    }
    fs::remove_dir_all(root.join("dir6")).unwrap();
    let open = fs::File::create(root.join("open")).unwrap();
    open.set_len(1 << 20).unwrap();
    fs::remove_file(root.join("open")).unwrap();
    // The log is written, and nothing after it.
    sh(Command::new("xfs_io")
        .args(["-x", "-c", "shutdown -f"])
        .arg(root));
    drop(open);
}

/// A machine that stopped: the log waits, files were deleted while they were open.
#[test]
fn a_log_is_replayed_first() {
    if !is_root() {
        return;
    }
    let dir = workspace();
    let base = dir.path().join("base");
    bed::copy(&template(&rows::PLAIN), &base);
    crash(&base);
    let replayed = dir.path().join("replayed");
    bed::copy(&base, &replayed);
    drop(Mounted::at(&replayed, 0, "nouuid,noatime"));
    let files = account(&replayed);
    assert!(files.contains("last-299/message") && !files.contains("./dir6"));
    let row = Row {
        shape: rows::PLAIN,
        place: rows::Place::Gpt,
        sector: 512,
    };
    let bed = Bed::make(dir.path(), row, &base);
    let keep = bed.keep();
    let plan = bed.run(&["plan", "grow"], &bed.size(MOST));
    plan.assert("done", 0);
    let steps = plan.document["plan"]["steps"].to_string();
    assert!(steps.contains("\"replay\""), "{steps}");
    let done = bed.grow(MOST);
    done.assert("done", 0);
    assert!(done.notices.contains("replayed"), "{}", done.notices);
    assert_grown(&bed, done.planned("file_system_size"), &files);
    bed.plain(&["rollback", "--yes", done.transaction()])
        .assert("done", 0);
    bed.assert_same(&keep);
}

#[test]
fn what_cannot_be_done_is_refused_by_name() {
    if !is_root() {
        return;
    }
    let dir = workspace();
    let row = Row {
        shape: rows::PLAIN,
        place: rows::Place::Bare,
        sector: 512,
    };
    let base = template(&rows::PLAIN);
    let bed = Bed::make(dir.path(), row, &base);
    let keep = bed.keep();
    for size in ["300MiB", "min"] {
        let said = bed.run(&["shrink", "--yes"], &["--to".into(), size.into()]);
        said.assert("refused", 3);
        assert_eq!(said.codes()[0], "xfs-no-shrink", "{said:#?}");
    }
    // A copy in place of FUSE cannot be mounted.
    let copied = bed.run(&["grow", "--yes", "--export", "copy"], &bed.size(MOST));
    copied.assert("refused", 3);
    assert_eq!(copied.codes(), ["mount-unavailable"]);
    bed.assert_same(&keep);
    let other = dir.path().join("other");
    for (options, code) in [
        ("-l logdev=LOG,size=64m", "xfs-external-log"),
        ("-r rtdev=LOG,size=64m", "xfs-realtime"),
    ] {
        image::blank(&other, 64 * MIB);
        bed::make(&bed.file, &options.replace("LOG", text(&other)));
        let keep = bed.keep();
        let file = fs::OpenOptions::new().write(true).open(&bed.file).unwrap();
        file.set_len(MOST).unwrap();
        fs::OpenOptions::new()
            .write(true)
            .open(&keep)
            .unwrap()
            .set_len(MOST)
            .unwrap();
        let said = bed.grow(MOST);
        said.assert("refused", 3);
        assert!(said.codes().contains(&code), "{said:#?}");
        bed.assert_same(&keep);
    }
    // Flags that a repair or a copy sets.
    for (at, bytes, code) in [
        (219, &[0x1b][..], "xfs-needs-repair"),
        (216, &[0x04], "xfs-unknown-feature"),
        (212, &[0x40], "xfs-unknown-feature"),
        (126, &[1], "xfs-in-progress"),
        (8, &[1], "damaged-file-system"),
    ] {
        bed::copy(&base, &bed.file);
        reader::patch(&bed.file, at, bytes);
        let keep = bed.keep();
        let said = bed.grow(MOST);
        said.assert("refused", 3);
        assert!(said.codes().contains(&code), "byte {at}: {said:#?}");
        bed.assert_same(&keep);
    }
}

/// Where a replay cannot be followed, it is not made.
#[test]
fn a_replay_that_cannot_be_followed_is_refused() {
    if !is_root() {
        return;
    }
    let dir = workspace();
    let shape = *rows::SHAPES
        .iter()
        .find(|s| s.options == "-n size=65536")
        .unwrap();
    let base = dir.path().join("base");
    bed::copy(&template(&shape), &base);
    crash(&base);
    let row = Row {
        shape,
        place: rows::Place::Bare,
        sector: 512,
    };
    let bed = Bed::make(dir.path(), row, &base);
    let keep = bed.keep();
    let said = bed.grow(MOST);
    said.assert("refused", 3);
    assert_eq!(said.codes(), ["xfs-log-not-clean"]);
    bed.assert_same(&keep);
}

/// Quotas stay on, with all that was counted. A mount that does not ask for them turns them off;
/// a kernel that knows no quotas must not be asked to grow such a file system at all.
#[test]
fn a_quota_stays_on() {
    if !is_root() {
        return;
    }
    let dir = workspace();
    let base = dir.path().join("base");
    bed::copy(&template(&rows::PLAIN), &base);
    let point = dir.path().join("point");
    fs::create_dir(&point).unwrap();
    let mounted = Command::new("mount")
        .args(["-o", "loop,nouuid,uquota,gqnoenforce,pquota"])
        .args([&base, &point])
        .output()
        .unwrap();
    let kernel_can = mounted.status.success();
    match kernel_can {
        true => drop(sh(Command::new("umount").arg(&point))),
        // On, enforced, and counted.
        false => reader::patch(&base, 176, &[0, 7]),
    }
    let flags = |image: &Path| bed::xfs_db(image, &["sb 0", "print qflags"]);
    let before = flags(&base);
    assert_ne!(before.trim(), "qflags = 0");
    let row = Row {
        shape: rows::PLAIN,
        place: rows::Place::Bare,
        sector: 512,
    };
    let bed = Bed::make(dir.path(), row, &base);
    let keep = bed.keep();
    if kernel_can {
        let files = account(&base);
        let done = bed.grow(MOST);
        done.assert("done", 0);
        assert_grown(&bed, done.planned("file_system_size"), &files);
        assert_eq!(flags(&bed.file), before);
    } else {
        // The real one would find that there is no file with the counts.
        bed.program(
            "xfs_repair",
            "#!/bin/sh\n[ \"$1\" = -V ] && echo xfs_repair version 6.1\nexit 0",
        );
        let said = bed.grow(MOST);
        said.assert("rejected", 4);
        assert_eq!(said.codes(), ["resize-failed"], "{said:#?}");
        bed.assert_same(&keep);
    }
}

/// Whoever may not mount is told so, also for an image of their own.
#[test]
fn an_ordinary_user_is_told_to_be_root() {
    if !is_root() {
        return;
    }
    // Where somebody else may go.
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let (image, program) = (dir.path().join("image"), dir.path().join("holdfast"));
    bed::copy(&template(&rows::PLAIN), &image);
    fs::OpenOptions::new()
        .write(true)
        .open(&image)
        .unwrap()
        .set_len(MOST)
        .unwrap();
    fs::copy(env!("CARGO_BIN_EXE_holdfast"), &program).unwrap();
    sh(Command::new("chown")
        .args(["-R", "65534:65534"])
        .arg(dir.path()));
    let before = hash(&image);
    let run = |words: &[&str]| {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
            .arg(&program)
            .args(words)
            .arg(&image)
            .args(["--json", "--state-dir", text(&dir.path().join("state"))])
            .stdin(std::process::Stdio::null());
        bed::said(&mut command)
    };
    // To look needs no mount.
    run(&["plan", "grow"]).assert("done", 0);
    let said = run(&["grow", "--yes"]);
    said.assert("refused", 3);
    assert!(
        ["needs-root", "mount-unavailable"].contains(&said.codes()[0]),
        "{said:#?}"
    );
    assert_eq!(hash(&image), before);
}
