//! The generated images: the same bytes each time, healthy, and with the content that the tests
//! of everything else rely on.

// The helpers of a test fail it as the test itself would.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use holdfast::disk::MemoryDisk;
use holdfast::table::{Found, read};

const SMALL: [&str; 8] = [
    "tiny",
    "small-gpt",
    "small-swap",
    "small-4k",
    "small-bare",
    "small-ext2",
    "small-ext3",
    "small-old",
];

fn make(umask: &str, stage: &Path, args: &[&str]) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("images/make");
    Command::new("sh")
        .arg("-c")
        .arg(format!("umask {umask}; exec \"$@\""))
        .arg("sh")
        .arg(script)
        .args(args)
        .env("TMPDIR", stage)
        .output()
        .unwrap()
}

/// Makes an image and gives its bytes and its path, in `dir`.
fn image(dir: &Path, args: &[&str]) -> (Vec<u8>, PathBuf) {
    let path = dir.join(args[0]);
    let args = [&[args[0], path.to_str().unwrap()], &args[1..]].concat();
    let out = make("022", dir, &args);
    let text = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{args:?}: {text}");
    (fs::read(&path).unwrap(), path)
}

/// The file system of an image as a file of its own.
fn file_system(bytes: &[u8], image: &Path) -> PathBuf {
    let sector_bytes = if image.ends_with("small-4k") {
        4096
    } else {
        512
    };
    let disk = MemoryDisk::fixed(bytes.to_vec()).with_sector_bytes(sector_bytes);
    let extent = match read(&disk).unwrap() {
        Found::Gpt(gpt) => {
            assert_eq!(gpt.notes(), &[] as &[String]);
            gpt.extent(2).unwrap()
        }
        Found::None { .. } => return image.to_path_buf(),
        other => panic!("{}: {other:#?}", image.display()),
    };
    let path = image.with_extension("fs");
    fs::write(&path, &bytes[extent.start as usize..extent.end() as usize]).unwrap();
    path
}

fn tool(name: &str, args: &[&str]) -> String {
    let out = Command::new(name).args(args).output();
    let out = out.unwrap_or_else(|e| panic!("this test needs {name}: {e}"));
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{name} {args:?}: {text}");
    text
}

fn debugfs(fs: &Path, request: &str) -> String {
    tool("debugfs", &["-R", request, fs.to_str().unwrap()])
}

#[test]
fn two_runs_give_the_same_bytes_whatever_the_clock_and_the_umask() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let name = "small-swap";
    let paths = dirs.each_ref().map(|dir| dir.path().join(name));
    for ((dir, path), umask) in dirs.iter().zip(&paths).zip(["022", "077"]) {
        let out = make(umask, dir.path(), &[name, path.to_str().unwrap()]);
        assert!(
            out.status.success(),
            "{}",
            String::from_utf8_lossy(&out.stderr)
        );
        // File systems count in seconds: the second run must not fall into the same one.
        std::thread::sleep(std::time::Duration::from_millis(1100));
    }
    let [one, other] = paths.map(|path| fs::read(path).unwrap());
    let differs = one.iter().zip(&other).position(|(a, b)| a != b);
    assert_eq!((one.len(), differs), (other.len(), None));

    let (seeded, _) = image(dirs[0].path(), &[name, "--seed", "2"]);
    assert!(seeded != one, "another seed gives other messages");
}

#[test]
fn every_small_image_is_healthy() {
    let dir = tempfile::tempdir().unwrap();
    for name in SMALL {
        let (bytes, path) = image(dir.path(), &[name]);
        let fs = file_system(&bytes, &path);
        let text = tool("e2fsck", &["-fn", fs.to_str().unwrap()]);
        assert!(!text.contains("Fix"), "{name}: {text}");
        if bytes.len() == 32 << 20 && name != "small-4k" {
            let text = tool("sgdisk", &["-v", path.to_str().unwrap()]);
            assert!(text.contains("No problems found"), "{name}: {text}");
        }
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn the_content_is_what_tests_rely_on() {
    let dir = tempfile::tempdir().unwrap();
    let (bytes, path) = image(dir.path(), &["small-gpt"]);
    let fs = file_system(&bytes, &path);
    let mut sizes = 0;
    for user in ["anna", "bela"] {
        for sub in ["cur", "new", ".Sent/cur"] {
            let list = debugfs(&fs, &format!("ls -l /home/{user}/Maildir/{sub}"));
            for line in list.lines().filter(|line| line.contains(",S=")) {
                let fields: Vec<_> = line.split_whitespace().collect();
                let named = line.split(",S=").nth(1).unwrap();
                assert_eq!(named.split(',').next(), Some(fields[5]), "{line}");
                assert_eq!((fields[3], fields[4]), ("5000", "5000"), "{line}");
                sizes += 1;
            }
        }
    }
    assert_eq!(sizes, 100);
    let index = debugfs(&fs, "stat /home/anna/Maildir/cur");
    assert!(
        index.contains("Flags: 0x81000"),
        "an indexed directory: {index}"
    );
    let linked = debugfs(&fs, "ls -l /home/anna/Maildir/.Archive/cur");
    let line = linked.lines().find(|line| line.contains(",S=")).unwrap();
    let inode = line.split_whitespace().next().unwrap();
    assert!(debugfs(&fs, &format!("stat <{inode}>")).contains("Links: 2"));
    let sparse = debugfs(&fs, "stat /home/odd/sparse");
    assert!(
        sparse.contains("Size: 3145728") && sparse.contains("Blockcount: 6"),
        "{sparse}"
    );
    let attributes = debugfs(&fs, "stat /home/odd/many-attributes");
    assert!(!attributes.contains("File ACL: 0\n") && attributes.contains("user.attribute6"));
    let odd = debugfs(&fs, "ls /home/odd");
    for name in [
        "long",
        "dangling",
        "with space",
        "setuid",
        "nothing-inside",
        "pipe",
    ] {
        assert!(odd.contains(name), "{name}: {odd}");
    }
    assert!(odd.contains(&"x".repeat(255)));
}

#[test]
fn options_are_passed_through_and_nonsense_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let args = [
        "tiny",
        "--mkfs",
        "-t ext4 -b 2048 -O ^has_journal",
        "--messages",
        "30",
    ];
    let (bytes, path) = image(dir.path(), &args);
    let text = tool("dumpe2fs", &["-h", path.to_str().unwrap()]);
    assert!(text.contains("Block size:               2048"), "{text}");
    assert!(!text.contains("has_journal"));
    assert_eq!(bytes.len(), 8 << 20);

    let there = dir.path().join("there");
    fs::create_dir(&there).unwrap();
    for args in [
        &["nothing", "x"][..],
        &["tiny"],
        &["tiny", there.to_str().unwrap()],
        &["small-gpt", "x", "--disk", "16M"],
        &["small-gpt", "x", "--sector", "520"],
        &["small-gpt", "x", "--fs"],
    ] {
        let out = make("022", dir.path(), args);
        assert_eq!(out.status.code(), Some(2), "{args:?}");
    }
    // A file system that is too small for its content must not pass for one that is whole.
    let full = dir.path().join("full");
    let args = ["tiny", full.to_str().unwrap(), "--messages", "3000"];
    let out = make("022", dir.path(), &args);
    assert_eq!(out.status.code(), Some(2));
    let mut left: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    left.sort();
    assert_eq!(left, ["there", "tiny"], "nothing is left behind");
}
