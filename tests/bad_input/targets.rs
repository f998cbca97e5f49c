//! What is no target at all, and partitions that are not there.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;

use crate::bench::{Bench, MIB, PART, judged, poke, said, tool};

#[test]
fn what_is_neither_file_nor_block_device_is_an_error_that_says_what_it_is() {
    let bench = Bench::new();
    let dir = bench.path("dir");
    fs::create_dir(&dir).unwrap();
    let pipe = bench.path("pipe");
    tool("mkfifo", &[&pipe]);
    let socket = bench.path("socket");
    let _listener = UnixListener::bind(&socket).unwrap();
    for (path, what) in [
        (dir.as_path(), "a directory"),
        (&pipe, "a pipe"),
        (&socket, "a socket"),
        (Path::new("/dev/null"), "a character device"),
        (&bench.path("missing"), "No such file"),
    ] {
        let target = path.to_str().unwrap();
        for args in [
            &["check", target][..],
            &["plan", "grow", target],
            &["grow", target, "--yes"],
            &["snapshot", target, "-o", "/nowhere/manifest"],
            &["verify", target, "/nowhere/manifest"],
        ] {
            let why = bench.ends(path, args, 1, "failed");
            why.says(&[target, what]);
            assert_eq!(why.document["target"], target, "{:#}", why.document);
        }
    }
    assert!(!bench.state().exists(), "an error makes no state directory");
}

#[test]
fn an_image_that_its_user_may_not_read_is_an_error() {
    let (_bench, image) = Bench::with("small-gpt");
    // All that leads to it may be passed; the file itself may not be read.
    fs::set_permissions(&image, PermissionsExt::from_mode(0o600)).unwrap();
    let place = tempfile::tempdir_in("/var/tmp").unwrap();
    fs::set_permissions(place.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let program = place.path().join("holdfast");
    fs::copy(env!("CARGO_BIN_EXE_holdfast"), &program).unwrap();
    let theirs = place.path().join("image");
    fs::copy(&image, &theirs).unwrap();
    let why = judged(
        || {
            let mut command = std::process::Command::new("setpriv");
            command
                .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
                .arg(&program)
                .arg("check")
                .arg(&theirs);
            command
        },
        1,
        "failed",
    );
    why.says(&[theirs.to_str().unwrap(), "Permission denied"]);
}

#[test]
fn emptiness_and_noise_are_refused() {
    let bench = Bench::new();
    let noise: Vec<u8> = (0..MIB as u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    for (path, code, words) in [
        (bench.file("empty", 0, &[]), "empty-target", "no bytes"),
        (bench.file("few", 100, &[]), "empty-target", "100 bytes"),
        (bench.file("zero", 8 * MIB, &[]), "no-file-system", "known"),
        (
            bench.file("noise", 8 * MIB, &[(0, &noise), (7 * MIB, &noise)]),
            "no-file-system",
            "known",
        ),
    ] {
        let target = path.to_str().unwrap();
        for args in [
            &["check", target][..],
            &["plan", "grow", target],
            &["shrink", target, "--to", "min", "--yes"],
        ] {
            bench.refused(&path, args, code).says(&[target, words]);
        }
    }
}

#[test]
fn a_file_system_of_another_kind_is_named_with_the_tools_that_own_it() {
    let bench = Bench::new();
    let cases: [(&str, &[(u64, &[u8])], &str, &str); 1] =
        [("luks", &[(0, b"LUKS\xba\xbe\0\x02")], "LUKS", "cryptsetup")];
    for (name, content, kind, tool) in cases {
        let path = bench.file(name, 16 * MIB, content);
        let target = path.to_str().unwrap();
        bench
            .refused(&path, &["grow", target, "--yes"], "unsupported-file-system")
            .says(&[target, kind, tool]);
    }
}

#[test]
fn real_file_systems_of_other_kinds_are_known_too() {
    let bench = Bench::new();
    for (program, kind, owner) in [
        ("mkfs.f2fs", "F2FS", "resize.f2fs"),
        ("mkfs.exfat", "exFAT", "exfatprogs"),
    ] {
        let path = bench.file(program, 320 * MIB, &[]);
        tool(program, &[path.as_os_str()]);
        bench
            .refused(
                &path,
                &["check", path.to_str().unwrap()],
                "unsupported-file-system",
            )
            .says(&[kind, owner]);
    }
}

#[test]
fn a_partition_that_does_not_exist_is_refused_with_those_that_do() {
    let (bench, image) = Bench::with("small-swap");
    let target = image.to_str().unwrap();
    for number in ["0", "3", "5", "4294967295"] {
        bench
            .refused(
                &image,
                &["plan", "grow", target, "-p", number],
                "no-such-partition",
            )
            .says(&[target, &format!("no partition {number};"), "1, 2, 4"]);
    }
    for number in ["-1", "two", "4294967296", ""] {
        let arg = format!("--partition={number}");
        bench.ends(&image, &["plan", "grow", target, &arg], 2, "usage");
    }
    // A partition with something else in it is no target either.
    let why = bench.refused(&image, &["check", target, "-p", "1"], "no-file-system");
    why.says(&[target]);
}

#[test]
fn of_several_candidates_one_must_be_chosen() {
    let (bench, image) = Bench::with("small-gpt");
    let other = bench.file("other", 2 * MIB, &[]);
    tool(
        "mke2fs",
        &[
            "-q".as_ref(),
            "-t".as_ref(),
            "ext2".as_ref(),
            "-L".as_ref(),
            "boot".as_ref(),
            other.as_os_str(),
        ],
    );
    poke(&image, MIB, &fs::read(&other).unwrap());
    let target = image.to_str().unwrap();
    // As the firmware's own partition it is not the one that is meant.
    bench.ends(&image, &["plan", "grow", target], 0, "done");
    tool("sfdisk", &["-q", "--part-type", target, "1", "linux"]);
    bench
        .refused(&image, &["plan", "grow", target], "which-partition")
        .says(&[
            target,
            "1: 2 MiB, ext2 boot",
            "2: 16 MiB, ext4 mail",
            "--partition",
        ]);
    let said = bench.run(&["plan", "grow", target, "--partition", "2"]);
    assert_eq!(said.code, 0, "{}", said.stderr);
}

#[test]
fn without_any_candidate_all_partitions_are_listed() {
    let (bench, image) = Bench::with("small-swap");
    poke(&image, PART.start, &[0; 4096]);
    let target = image.to_str().unwrap();
    bench
        .refused(&image, &["plan", "grow", target], "no-file-system")
        .says(&["1: 2 MiB", "2: 16 MiB", "4: 1 MiB"]);
}

#[test]
fn a_partition_of_a_bare_file_system_is_refused() {
    let (bench, image) = Bench::with("small-bare");
    let target = image.to_str().unwrap();
    bench
        .refused(&image, &["grow", target, "-p", "1", "--yes"], "no-table")
        .says(&[target, "partition 1", "leave --partition out"]);
}

#[test]
fn a_file_name_that_is_not_text_is_answered_as_any_other() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let bench = Bench::new();
    let name = bench.dir.path().join(OsStr::from_bytes(b"mail\xff\x1b[2J"));
    fs::write(&name, b"").unwrap();
    let why = bench.refused(&name, &["check".as_ref(), name.as_os_str()], "empty-target");
    why.says(&["\\x1b[2J"]);
    // Where the line cannot even be parsed.
    let bad = OsStr::from_bytes(b"\xff");
    let said = said(&mut bench.command(&[bad, "--json".as_ref()]));
    assert_eq!(said.document()["outcome"], "usage");
    assert_eq!(said.code, 2);
}
