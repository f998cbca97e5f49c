//! Signatures against what real tools write, and against `blkid`. Needs e2fsprogs, xfsprogs,
//! btrfs-progs and util-linux; other tools are used where they are, and named where they are not.

// A test stops at the first surprise.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

use holdfast::disk::FileDisk;
use holdfast::fs::signature::signatures;

const MIB: u64 = 1 << 20;

fn run(program: &str, arguments: &[&str], image: &Path) {
    let out = Command::new(program)
        .args(arguments)
        .arg(image)
        .stdin(Stdio::null())
        .output();
    let out = out.unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(out.status.success(), "{program} {arguments:?}: {out:?}");
}

/// What `blkid` takes it for: empty where it does not know.
fn blkid(image: &Path) -> String {
    let out = Command::new("blkid")
        .args(["-p", "-s", "TYPE", "-o", "value"])
        .arg(image)
        .output()
        .unwrap();
    String::from_utf8(out.stdout).unwrap().trim().into()
}

struct Case {
    program: &'static str,
    arguments: &'static [&'static str],
    len: u64,
    blkid: &'static str,
    ours: &'static [&'static str],
}

const fn case(
    program: &'static str,
    arguments: &'static [&'static str],
    blkid: &'static str,
    ours: &'static [&'static str],
) -> Case {
    Case {
        program,
        arguments,
        len: 320 * MIB,
        blkid,
        ours,
    }
}

/// Any file will do as a key here.
const LUKS1: &[&str] = &[
    "luksFormat",
    "-q",
    "--pbkdf-force-iterations=1000",
    "--key-file=/etc/hostname",
    "--type=luks1",
];
const LUKS2: &[&str] = &[
    "luksFormat",
    "-q",
    "--pbkdf=pbkdf2",
    "--pbkdf-force-iterations=1000",
    "--key-file=/etc/hostname",
    "--type=luks2",
];

const CASES: &[Case] = &[
    case("mke2fs", &["-q", "-F", "-t", "ext4"], "ext4", &[]),
    case(
        "mke2fs",
        &["-q", "-F", "-t", "ext2", "-b", "1024"],
        "ext2",
        &[],
    ),
    case("mkfs.xfs", &["-q"], "xfs", &["XFS"]),
    case("mkfs.xfs", &["-q", "-b", "size=1024"], "xfs", &["XFS"]),
    case("mkfs.btrfs", &["-q"], "btrfs", &["btrfs"]),
    case("mkswap", &["-q"], "swap", &["swap space"]),
    case("mkswap", &["-q", "-p", "65536"], "swap", &["swap space"]),
    case(
        "mkfs.fat",
        &["-F", "12", "-S", "4096", "-s", "32"],
        "vfat",
        &["FAT"],
    ),
    case("mkfs.fat", &["-F", "16"], "vfat", &["FAT"]),
    case("mkfs.fat", &["-F", "32"], "vfat", &["FAT"]),
    case("mkfs.exfat", &[], "exfat", &["exFAT"]),
    case(
        "mkntfs",
        &["-q", "-F", "-f"],
        "ntfs",
        &["NTFS", "NTFS backup boot sector"],
    ),
    case("mkfs.f2fs", &["-q"], "f2fs", &["F2FS"]),
    case("mkfs.jfs", &["-q"], "jfs", &["JFS"]),
    case("mkreiserfs", &["-q", "-f", "-f"], "reiserfs", &["ReiserFS"]),
    case(
        "mkfs.nilfs2",
        &["-q"],
        "nilfs2",
        &["NILFS2", "NILFS2 backup superblock"],
    ),
    case("mkudffs", &["-b", "2048"], "udf", &["UDF"]),
    case("make-bcache", &["-B"], "bcache", &["bcache"]),
    case("cryptsetup", LUKS1, "crypto_LUKS", &["LUKS"]),
    case("cryptsetup", LUKS2, "crypto_LUKS", &["LUKS"]),
    case(
        "sfdisk",
        &["-q", "--label", "gpt"],
        "",
        &["backup GPT header"],
    ),
];

#[test]
fn what_the_tools_make_is_what_blkid_and_we_see() {
    for case in CASES {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        File::create(&image).unwrap().set_len(case.len).unwrap();
        if case.program == "sfdisk" {
            gpt(&image);
        } else {
            run(case.program, case.arguments, &image);
        }
        let what = format!("{} {:?}", case.program, case.arguments);
        assert_eq!(blkid(&image), case.blkid, "{what}");
        let disk = FileDisk::open_read(&image).unwrap();
        let found = signatures(&disk).unwrap();
        let names: Vec<&str> = found.iter().map(|s| s.name).collect();
        assert_eq!(names, case.ours, "{what}");
    }
}

fn gpt(image: &Path) {
    let mut child = Command::new("sfdisk")
        .arg("-q")
        .arg(image)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut input, b"label: gpt\n").unwrap();
    drop(input);
    assert!(child.wait().unwrap().success(), "sfdisk");
}

/// A file system that was made over another has nothing left of it.
#[test]
fn mke2fs_leaves_nothing_of_what_was_there() {
    for (program, arguments) in [
        ("mkfs.xfs", &["-q"][..]),
        ("mkfs.btrfs", &["-q"]),
        ("mkswap", &["-q"]),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        File::create(&image).unwrap().set_len(320 * MIB).unwrap();
        run(program, arguments, &image);
        run("mke2fs", &["-q", "-F", "-t", "ext4"], &image);
        let disk = FileDisk::open_read(&image).unwrap();
        let left = signatures(&disk).unwrap();
        assert!(left.is_empty(), "of {program}: {left:?}");
    }
}
