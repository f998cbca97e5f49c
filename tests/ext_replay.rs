//! A journal that waits for replay: our reading of it is that of debugfs and e2fsck, what it ends
//! is named, and a replay that does more is rejected.
//!
//! Needs root: only a mounted file system leaves such a journal.

#![allow(clippy::unwrap_used, clippy::expect_used)]
// Helpers of tests may fail as tests do.

#[path = "common/dirty.rs"]
mod dirty;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use dirty::{
    Shape, block_bytes, directory, files_of, fresh, leave_dirty, output, run, run_for, text,
};
use holdfast::disk::{DiskRead, MemoryDisk};
use holdfast::fs::ext::{Ext, replay};
use holdfast::fs::{Direction, Driver, FsError};
use serde_json::Value;

const SHAPES: &[Shape] = &[
    Shape {
        name: "ext3-1k",
        mkfs: "-t ext3 -b 1024",
        mount: "",
    },
    // Content in the journal, also such that looks like a part of it.
    Shape {
        name: "ext3-data",
        mkfs: "-t ext3 -b 4096",
        mount: ",data=journal",
    },
    Shape {
        name: "ext4",
        mkfs: "-t ext4 -b 4096",
        mount: "",
    },
    Shape {
        name: "ext4-data-2k",
        mkfs: "-t ext4 -b 2048 -O metadata_csum_seed",
        mount: ",data=journal",
    },
    Shape {
        name: "ext4-1k-32bit",
        mkfs: "-t ext4 -b 1024 -O ^64bit",
        mount: "",
    },
    Shape {
        name: "ext4-checksum",
        mkfs: "-t ext4 -b 4096 -O ^metadata_csum,^64bit",
        mount: ",journal_checksum",
    },
    Shape {
        name: "ext4-async",
        mkfs: "-t ext4 -b 1024 -O ^metadata_csum,64bit",
        mount: ",journal_async_commit,data=writeback",
    },
    Shape {
        name: "ext4-orphan-file",
        mkfs: "-t ext4 -b 4096 -O orphan_file",
        mount: "",
    },
];

/// Whether to leave the tests out that mount. Without root and without the word for it they fail.
fn without_root() -> bool {
    if nix::unistd::geteuid().is_root() {
        return false;
    }
    assert!(
        std::env::var("HOLDFAST_WITHOUT_ROOT").is_ok_and(|value| value == "1"),
        "this test mounts loop devices: run it as root, or set HOLDFAST_WITHOUT_ROOT=1"
    );
    true
}

fn disk(image: &Path) -> MemoryDisk {
    MemoryDisk::fixed(fs::read(image).unwrap())
}

fn all(disk: &dyn DiskRead) -> Vec<u8> {
    holdfast::disk::read_vec(disk, 0, disk.len_bytes() as usize).unwrap()
}

fn copy(image: &Path, name: &str) -> PathBuf {
    let to = image.with_extension(name);
    fs::copy(image, &to).unwrap();
    to
}

/// The blocks in which two images differ.
fn differing(a: &[u8], b: &[u8], block_bytes: usize) -> BTreeSet<u64> {
    assert_eq!(a.len(), b.len());
    let pairs = a.chunks(block_bytes).zip(b.chunks(block_bytes)).zip(0..);
    pairs.filter(|((a, b), _)| a != b).map(|(_, n)| n).collect()
}

/// Takes away what a tool stamps: the last write, the last check (debugfs makes it older than the
/// last mount), the kilobytes written and the checksum in the superblock, and the superblock of the
/// journal.
fn without_stamps(mut image: Vec<u8>, journal_superblock: u64, block_bytes: usize) -> Vec<u8> {
    for range in [
        0x30..0x34,
        0x40..0x44,
        0x178..0x180,
        0x274..0x275,
        0x3fc..0x400,
    ] {
        image[1024 + range.start..1024 + range.end].fill(0);
    }
    let at = journal_superblock as usize * block_bytes;
    image[at..at + block_bytes].fill(0);
    image
}

/// Where the journal's block `number` is, as debugfs says: with ext3 it is in pieces.
fn journal_block(image: &Path, number: u64) -> u64 {
    let request = format!("bmap <8> {number}");
    let said = run("debugfs", &["-R", &request, text(image)]);
    said.trim().parse().unwrap()
}

fn journal_superblock(image: &Path) -> u64 {
    journal_block(image, 0)
}

/// What our replay makes of `image`.
fn replayed(image: &Path) -> Vec<u8> {
    let disk = disk(image);
    Ext.replay(&disk).unwrap();
    all(&disk)
}

/// Our replay against that of debugfs, which does nothing else, to the byte; and against the list
/// of blocks.
fn agrees_with_debugfs(image: &Path, block_bytes: usize, what: &str) {
    let theirs = copy(image, "debugfs");
    run("debugfs", &["-w", "-R", "jr", text(&theirs)]);
    let (original, theirs) = (fs::read(image).unwrap(), fs::read(theirs).unwrap());
    let journal = journal_superblock(image);
    let plain = |bytes| without_stamps(bytes, journal, block_bytes);
    let ours = differing(&plain(replayed(image)), &plain(theirs.clone()), block_bytes);
    let first = plain(replayed(image))
        .iter()
        .zip(&plain(theirs.clone()))
        .position(|(a, b)| a != b);
    assert!(
        ours.is_empty(),
        "{what}: debugfs differs in {ours:?}, from byte {first:?}"
    );
    let listed = replay::waiting(&disk(image)).unwrap();
    let superblock = 1024 / block_bytes as u64;
    let changed = differing(&original, &theirs, block_bytes);
    assert!(
        changed.len() > 4,
        "{what}: nothing was replayed: {changed:?}"
    );
    for block in changed {
        assert!(
            listed.blocks.contains_key(&block) || [superblock, journal].contains(&block),
            "{what}: block {block} was written and is not in the list"
        );
    }
}

/// Which inodes e2fsck ends as it replays.
fn ended_by_e2fsck(image: &Path) -> BTreeSet<String> {
    let other = copy(image, "e2fsck");
    let said = run_for(&[0, 1], "e2fsck", &["-f", "-p", text(&other)]);
    let inode = |line: &str| Some(line.split_once("orphaned inode ")?.1.to_string());
    let number = |rest: String| rest.split_whitespace().next().unwrap().to_string();
    said.lines().filter_map(inode).map(number).collect()
}

#[test]
fn our_replay_is_that_of_debugfs() {
    if without_root() {
        return;
    }
    let mut revoked = 0;
    for shape in SHAPES {
        let dir = directory();
        let image = fresh(dir.path(), shape, "16M");
        leave_dirty(&image, shape, true);
        agrees_with_debugfs(&image, block_bytes(&image), shape.name);
        let log = run("debugfs", &["-R", "logdump -a", text(&image)]);
        revoked += log.matches("Revoke FS block").count();
        let ours = MemoryDisk::fixed(replayed(&image));
        let ours: BTreeSet<String> = Ext
            .orphans(&ours)
            .unwrap()
            .iter()
            .map(|orphan| {
                assert_eq!(orphan.links, 0, "{}: {orphan}", shape.name);
                orphan.object.trim_start_matches("inode ").to_string()
            })
            .collect();
        assert_eq!(ours.len(), 3, "{}: {ours:?}", shape.name);
        assert_eq!(ours, ended_by_e2fsck(&image), "{}", shape.name);
    }
    assert!(revoked > 0, "no journal revoked a block");
}

/// Without orphans e2fsck's replay, too, is the journal's content and stamps.
#[test]
fn our_replay_is_that_of_e2fsck_where_nothing_was_under_way() {
    if without_root() {
        return;
    }
    for shape in SHAPES.iter().filter(|s| !s.name.contains("orphan")) {
        let dir = directory();
        let image = fresh(dir.path(), shape, "16M");
        leave_dirty(&image, shape, false);
        let size = block_bytes(&image);
        let journal = journal_superblock(&image);
        let theirs = copy(&image, "e2fsck");
        run_for(
            &[0, 1],
            "e2fsck",
            &["-E", "journal_only", "-p", text(&theirs)],
        );
        let theirs = without_stamps(fs::read(theirs).unwrap(), journal, size);
        let ours = without_stamps(replayed(&image), journal, size);
        let found = differing(&ours, &theirs, size);
        assert!(found.is_empty(), "{}: {found:?}", shape.name);
    }
}

/// A log that goes over the end of the ring and on at its start.
#[test]
fn a_log_that_wraps_is_read_whole() {
    if without_root() {
        return;
    }
    for mkfs in ["-t ext3 -b 1024 -J size=1", "-t ext4 -b 1024 -J size=1"] {
        let shape = Shape {
            name: "wrapped",
            mkfs,
            mount: "",
        };
        let dir = directory();
        let image = fresh(dir.path(), &shape, "16M");
        let wraps = |image: &Path| {
            let log = run("debugfs", &["-R", "logdump", text(image)]);
            let place = |line: &str| line.rsplit_once("at block ")?.1.parse::<u64>().ok();
            let found = |line: &&str| line.starts_with("Found expected");
            let places: Vec<u64> = log.lines().filter(found).filter_map(place).collect();
            places.is_sorted_by(|a, b| a <= b).then_some(()).is_none()
        };
        let earlier = fs::read(&image).unwrap();
        {
            let mounted = dirty::Mounted::new(&image, "loop");
            let mut rounds = 0;
            while !wraps(&image) {
                assert!(rounds < 400, "{mkfs}: the log did not wrap");
                for n in 0..5 {
                    let file = mounted.at.join(format!("file{}", rounds % 40 * 5 + n));
                    fs::write(&file, dirty::content(rounds, 2000 + n, false)).unwrap();
                    fs::File::open(&file).unwrap().sync_all().unwrap();
                }
                rounds += 1;
            }
            dirty::cut(mounted, &image, Vec::new());
            dirty::take_back(&image, &earlier, 1024);
        }
        assert!(wraps(&image), "{mkfs}: it wrapped no more at the end");
        agrees_with_debugfs(&image, 1024, mkfs);
    }
}

/// Kinds of journals that this kernel does not make any more.
#[test]
fn all_kinds_of_tags_are_read() {
    for (features, block) in [
        ("^64bit,^metadata_csum", 1024),
        ("64bit,^metadata_csum", 1024),
        ("^64bit,metadata_csum", 4096),
        ("64bit,metadata_csum", 4096),
    ] {
        for open in ["jo", "jo -c -v 2", "jo -c -v 3"] {
            let dir = directory();
            let image = dir.path().join("image");
            let (block_text, features_text) = (block.to_string(), features.to_string());
            let arguments = [
                "-q",
                "-F",
                "-t",
                "ext4",
                "-b",
                &block_text,
                "-O",
                &features_text,
            ];
            run("mke2fs", &[&arguments[..], &[text(&image), "16M"]].concat());
            let blocks = dir.path().join("blocks");
            let first_free = (15 << 20) / block as u64;
            let content = dirty::content(1, block * 40, true);
            fs::write(&blocks, content).unwrap();
            // Free blocks; some are revoked in a later transaction, and one of those comes again.
            let free = |range: std::ops::Range<u64>| {
                let list: Vec<String> = range.map(|n| (n + first_free).to_string()).collect();
                list.join(",")
            };
            let write = |range| format!("jw -b {} {}", free(range), text(&blocks));
            let commands = dir.path().join("commands");
            let revoke = format!("jw -r {}", free(5..15));
            // Without metadata_csum debugfs knows version 1 alone. There it computes the checksum of
            // a transaction that only revokes wrongly, and does not believe it afterwards.
            let again = [&revoke, &write(10..12)];
            let more: &[&String] = if features.contains("^metadata_csum") && open != "jo" {
                &[]
            } else {
                &again
            };
            let mut lines = vec![open.to_string(), write(0..30)];
            lines.extend(more.iter().map(ToString::to_string));
            lines.push("jc".into());
            fs::write(&commands, lines.join("\n")).unwrap();
            run("debugfs", &["-w", "-f", text(&commands), text(&image)]);
            let what = format!("{features}, {open}");
            agrees_with_debugfs(&image, block, &what);
            let listed = replay::waiting(&disk(&image)).unwrap();
            let has = |n: u64| listed.blocks.contains_key(&(n + first_free));
            let wanted: Vec<bool> = (0..30)
                .map(|n| more.is_empty() || !(5..15).contains(&n) || (10..12).contains(&n))
                .collect();
            assert_eq!((0..30).map(has).collect::<Vec<_>>(), wanted, "{what}");
        }
    }
}

/// `holdfast`, with a `PATH` that begins with `tools`, and its one document.
fn holdfast(dir: &Path, tools: Option<&Path>, arguments: &[&str]) -> (i32, Value) {
    let usual = "/usr/sbin:/sbin:/usr/bin:/bin";
    let path = tools.map_or(usual.into(), |tools| format!("{}:{usual}", tools.display()));
    let done = Command::new(env!("CARGO_BIN_EXE_holdfast"))
        .args(["--json", "--state-dir", text(&dir.join("state"))])
        .args(arguments)
        .env("PATH", path)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let document = serde_json::from_slice(&done.stdout).unwrap_or_else(|e| {
        panic!("{e}: {}", String::from_utf8_lossy(&done.stderr));
    });
    (done.status.code().unwrap(), document)
}

#[test]
fn growing_replays_and_keeps_every_file() {
    if without_root() {
        return;
    }
    for shape in SHAPES {
        let name = shape.name;
        let dir = directory();
        let image = fresh(dir.path(), shape, "16M");
        leave_dirty(&image, shape, true);
        let before = fs::read(&image).unwrap();
        let oracle = copy(&image, "oracle");
        run_for(&[0, 1], "e2fsck", &["-f", "-p", text(&oracle)]);

        let grow = ["--disk-size", "24MiB", text(&image)];
        let plan = [&["plan", "grow", "--rehearse"], &grow[..]].concat();
        let (code, plan) = holdfast(dir.path(), None, &plan);
        assert_eq!(code, 0, "{name}: {plan:#}");
        assert!(fs::read(&image).unwrap() == before, "{name}: a plan wrote");
        let orphans = |of: &Value| of["orphans"].as_array().map_or(0, Vec::len);
        assert_eq!(orphans(&plan["plan"]), 3, "{name}: {plan:#}");
        let steps = plan["plan"]["steps"].as_array().unwrap();
        let step = steps.iter().find(|s| s["name"] == "replay").unwrap();
        let what = step["what"].as_str().unwrap();
        assert_eq!(what.matches("is deleted").count(), 3, "{name}: {what}");

        let (code, done) = holdfast(dir.path(), None, &[&["grow", "--yes"], &grow[..]].concat());
        assert_eq!(code, 0, "{name}: {done:#}");
        assert_eq!(orphans(&done["result"]["plan"]), 3, "{name}: {done:#}");
        run("e2fsck", &["-f", "-n", text(&image)]);
        assert_eq!(files_of(&image), files_of(&oracle), "{name}");
        let (code, again) = holdfast(dir.path(), None, &[&["grow", "--yes"], &grow[..]].concat());
        assert_eq!(
            (code, &again["outcome"]),
            (0, &"no-change".into()),
            "{name}"
        );

        let id = done["transaction"].as_str().unwrap();
        let (code, undone) = holdfast(dir.path(), None, &["rollback", id, "--yes"]);
        assert_eq!(code, 0, "{name}: {undone:#}");
        assert!(fs::read(&image).unwrap() == before, "{name}: not as before");
    }
}

/// A false `e2fsck`: the true one, and then `then` where it was the replay.
fn false_e2fsck(dir: &Path, then: &str) -> PathBuf {
    let tools = dir.join("tools");
    fs::create_dir_all(&tools).unwrap();
    let script = format!(
        "#!/bin/sh\nfor file; do :; done\n/usr/sbin/e2fsck \"$@\"\ncode=$?\n\
         case \"$*\" in *-p*) {then} ;; esac\nexit $code\n"
    );
    program(&tools.join("e2fsck"), &script);
    tools
}

fn program(path: &Path, script: &str) {
    fs::write(path, script).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_replay_that_does_more_is_rejected() {
    if without_root() {
        return;
    }
    let block = "printf 'x' | dd of=\"$file\" bs=1 conv=notrunc status=none seek=$((4096 *";
    let debugfs = |request: &str| format!("/usr/sbin/debugfs -w -R '{request}' \"$file\" >&2");
    // Blocks of a file that is in its place, a free block, an inode that the journal holds, a name,
    // a descriptor, a file that was not under way; and one that was, left alone.
    let cases: &[(&str, String, &[&str])] = &[
        (
            "a block of a file",
            format!("{block} $(/usr/sbin/debugfs -R 'bmap /file39 2' \"$file\") + 9))"),
            &["file-content", "replay-differs"],
        ),
        (
            "a free block",
            format!("{block} 3900))"),
            &["replay-differs"],
        ),
        (
            "a mode",
            debugfs("set_inode_field /new5 mode 0100600"),
            &["mode"],
        ),
        ("a size", debugfs("set_inode_field /new7 size 5"), &["size"]),
        (
            "a time",
            debugfs("set_inode_field /file2 mtime 12345"),
            &["times"],
        ),
        (
            "a label",
            debugfs("set_super_value volume_name other"),
            &["superblock"],
        ),
        (
            "a lost file",
            debugfs("rm /new9"),
            &["directory", "file-missing"],
        ),
        (
            "a new file",
            debugfs("mkdir new"),
            &["directory", "file-new"],
        ),
        (
            "a bitmap",
            debugfs("setb 3900"),
            &["result-not-clean", "damaged-file-system"],
        ),
        ("nothing", "true".into(), &[]),
    ];
    let shape = &SHAPES[2];
    let dir = directory();
    let image = fresh(dir.path(), shape, "16M");
    leave_dirty(&image, shape, true);
    let before = fs::read(&image).unwrap();
    for (what, then, codes) in cases {
        let tools = false_e2fsck(dir.path(), then);
        let plan = [
            "plan",
            "grow",
            "--rehearse",
            "--disk-size",
            "24MiB",
            text(&image),
        ];
        let (code, found) = holdfast(dir.path(), Some(&tools), &plan);
        assert!(
            fs::read(&image).unwrap() == before,
            "{what}: it was written to"
        );
        let refusals = found["refusals"].as_array().unwrap();
        let given: Vec<&str> = refusals.iter().filter_map(|r| r["code"].as_str()).collect();
        if codes.is_empty() {
            assert_eq!(code, 0, "{what}: {found:#}");
            continue;
        }
        assert!([3, 4].contains(&code), "{what}: {code}, {found:#}");
        assert!(codes.iter().any(|c| given.contains(c)), "{what}: {found:#}");
    }
}

/// With an `e2fsck` whose check is none: a replay that never took place, one that left its orphans
/// alone, and one that wrote a bitmap although there were no orphans.
#[test]
fn what_no_check_would_say_is_found_all_the_same() {
    if without_root() {
        return;
    }
    let shape = &SHAPES[2];
    let debugfs = |request: &str| format!("/usr/sbin/debugfs -w -R '{request}' \"$file\" >&2");
    for (what, orphans, work, wanted) in [
        ("no replay", true, "true".into(), "superblock"),
        ("the replay alone", true, debugfs("jr"), "orphan-left"),
        (
            "a bitmap",
            false,
            format!("{}; {}", debugfs("jr"), debugfs("setb 3900")),
            "replay-differs",
        ),
        ("nothing", false, debugfs("jr"), ""),
    ] {
        let dir = directory();
        let image = fresh(dir.path(), shape, "16M");
        leave_dirty(&image, shape, orphans);
        let tools = dir.path().join("tools");
        fs::create_dir_all(&tools).unwrap();
        let script = format!(
            "#!/bin/sh\nfor file; do :; done\ncase \"$*\" in *-V*) exec /usr/sbin/e2fsck -V ;; \
             *-p*) {work} ;; esac\nexit 0\n"
        );
        program(&tools.join("e2fsck"), &script);
        if what == "no replay" {
            // The true one replays as well.
            program(&tools.join("tune2fs"), "#!/bin/sh\nexit 0\n");
        }
        let plan = [
            "plan",
            "grow",
            "--rehearse",
            "--disk-size",
            "24MiB",
            text(&image),
        ];
        let (code, found) = holdfast(dir.path(), Some(&tools), &plan);
        let none = Vec::new();
        let refusals = found["refusals"].as_array().unwrap_or(&none);
        let given: Vec<&str> = refusals.iter().filter_map(|r| r["code"].as_str()).collect();
        if wanted.is_empty() {
            assert_eq!(code, 0, "{what}: {found:#}");
        } else {
            assert_eq!(code, 4, "{what}: {found:#}");
            assert!(given.contains(&wanted), "{what}: {found:#}");
        }
    }
}

/// A copy in the log: its transaction, its block, and where the block's number is in the image.
struct Logged {
    sequence: u32,
    block: u64,
    tag_at: u64,
}

/// The copies that debugfs names, of a log without checksums and 64-bit numbers.
fn logged(image: &Path, block_bytes: u64) -> Vec<Logged> {
    let (mut found, mut sequence, mut tag_at) = (Vec::new(), 0, 0);
    for line in run("debugfs", &["-R", "logdump -a", text(image)]).lines() {
        let numbers: Vec<u64> = line
            .split(|c: char| !c.is_ascii_alphanumeric())
            .filter_map(|word| word.parse().ok())
            .collect();
        if line.starts_with("Dumping descriptor") {
            sequence = numbers[0] as u32;
            tag_at = journal_block(image, numbers[1]) * block_bytes + 12;
        } else if line.contains(" logged at ") {
            found.push(Logged {
                sequence,
                block: numbers[0],
                tag_at,
            });
            // Only the first tag of a descriptor has a UUID behind it.
            tag_at += if (tag_at - 12) % block_bytes == 0 {
                24
            } else {
                8
            };
        }
    }
    found
}

/// An `e2fsck` that leaves out one block of a file, which nobody then wrote at all.
#[test]
fn a_replay_that_leaves_a_block_out_is_rejected() {
    if without_root() {
        return;
    }
    let shape = SHAPES.iter().find(|s| s.name == "ext3-data").unwrap();
    let dir = directory();
    let image = fresh(dir.path(), shape, "16M");
    leave_dirty(&image, shape, false);
    let done = copy(&image, "done");
    run("debugfs", &["-w", "-R", "jr", text(&done)]);
    let block = run("debugfs", &["-R", "bmap /new30 0", text(&done)]);
    let block: u64 = block.trim().parse().unwrap();
    let copies = logged(&image, 4096);
    let mut ours = copies.iter().filter(|copy| copy.block == block);
    let (victim, None) = (ours.next().unwrap(), ours.next()) else {
        panic!("block {block} is there twice");
    };
    // It goes to where something else will come later.
    let later = |copy: &&Logged| copy.sequence > victim.sequence && copy.block != 0;
    let other = copies.iter().find(later).unwrap().block;
    let write = |number: u64| {
        let bytes = (number as u32).to_be_bytes();
        let text: String = bytes.iter().map(|byte| format!("\\{byte:03o}")).collect();
        format!(
            "printf '{text}' | dd of=\"$file\" bs=1 conv=notrunc status=none seek={}",
            victim.tag_at
        )
    };
    let tools = dir.path().join("tools");
    fs::create_dir_all(&tools).unwrap();
    let script = format!(
        "#!/bin/sh\nfor file; do :; done\ncase \"$*\" in *-V*) exec /usr/sbin/e2fsck -V ;; *-p*) \
         {}; /usr/sbin/e2fsck \"$@\"; {} ;; esac\nexit 0\n",
        write(other),
        write(block)
    );
    program(&tools.join("e2fsck"), &script);
    let plan = ["plan", "grow", "--rehearse", "--disk-size", "24MiB"];
    let (code, found) = holdfast(
        dir.path(),
        Some(&tools),
        &[&plan[..], &[text(&image)]].concat(),
    );
    assert_eq!(code, 4, "{found:#}");
    let refusals = found["refusals"].as_array().unwrap();
    let named = |code: &str| refusals.iter().any(|r| r["code"] == code);
    assert!(
        named("file-content") && named("replay-differs"),
        "{found:#}"
    );
}

#[test]
fn an_orphan_with_a_name_is_cut_and_named() {
    let dir = directory();
    for mkfs in ["-t ext4 -b 1024", "-t ext3 -b 1024"] {
        let image = dir.path().join("image");
        let source = dir.path().join("source");
        fs::write(&source, dirty::content(3, 300_000, false)).unwrap();
        let mut arguments = vec!["-q", "-F"];
        arguments.extend(mkfs.split_whitespace());
        run("mke2fs", &[&arguments[..], &[text(&image), "16M"]].concat());
        let block = dir.path().join("block");
        fs::write(&block, [7; 1024]).unwrap();
        let commands = dir.path().join("commands");
        // The first inodes that are not reserved are 12 and 13. The journal is dirty with a block
        // that is free.
        let lines = [
            "write SOURCE long",
            "write SOURCE other",
            "sif <12> size 4321",
            "sif <12> dtime 13",
            "sif <13> size 300000",
            "ssv last_orphan 12",
            "jo",
            "jw -b 15000 BLOCK",
            "jc",
        ];
        let lines = lines
            .map(|line| {
                line.replace("SOURCE", text(&source))
                    .replace("BLOCK", text(&block))
            })
            .join("\n");
        fs::write(&commands, lines).unwrap();
        run("debugfs", &["-w", "-f", text(&commands), text(&image)]);
        let orphans = Ext.orphans(&MemoryDisk::fixed(replayed(&image))).unwrap();
        let named: Vec<String> = orphans.iter().map(ToString::to_string).collect();
        assert_eq!(
            named,
            ["/long is cut to 4.22 KiB", "/other is cut to 292.97 KiB"],
            "{mkfs}"
        );
        let grow = ["grow", "--yes", "--disk-size", "24MiB", text(&image)];
        // Of what is kept no byte may change, and no field.
        for (then, wanted) in [
            (
                "printf x | dd of=\"$file\" bs=1 conv=notrunc status=none seek=$((1024 * \
                 $(/usr/sbin/debugfs -R 'bmap /long 4' \"$file\") + 200))",
                "file-content",
            ),
            (
                "/usr/sbin/debugfs -w -R 'sif /long mode 0100600' \"$file\" >&2",
                "mode",
            ),
        ] {
            let tools = false_e2fsck(dir.path(), then);
            let (code, found) = holdfast(dir.path(), Some(&tools), &grow);
            assert_eq!(code, 4, "{mkfs}: {found:#}");
            assert_eq!(found["refusals"][0]["code"], wanted, "{mkfs}: {found:#}");
        }
        let (code, done) = holdfast(dir.path(), None, &grow);
        assert_eq!(code, 0, "{mkfs}: {done:#}");
        assert_eq!(
            done["result"]["plan"]["orphans"][0]["object"], "/long",
            "{mkfs}"
        );
        run("e2fsck", &["-f", "-n", text(&image)]);
        let out = dir.path().join("out");
        run(
            "debugfs",
            &["-R", &format!("dump /long {}", text(&out)), text(&image)],
        );
        let (is, was) = (fs::read(&out).unwrap(), fs::read(&source).unwrap());
        assert!(is == was[..4321], "{mkfs}: the content before the cut");
    }
}

fn refusal_codes(image: &[u8]) -> Vec<String> {
    match Ext.refusals(&MemoryDisk::fixed(image.to_vec()), Direction::Grow) {
        Ok(refusals) => refusals.into_iter().map(|r| r.code).collect(),
        Err(FsError::Unsupported(refusal)) => vec![refusal.code],
        Err(e) => vec![e.to_string()],
    }
}

#[test]
fn a_journal_that_cannot_be_followed_is_refused() {
    if without_root() {
        return;
    }
    let shape = &SHAPES[2];
    let dir = directory();
    let image = fresh(dir.path(), shape, "16M");
    leave_dirty(&image, shape, false);
    let bytes = fs::read(&image).unwrap();
    assert!(refusal_codes(&bytes).is_empty());
    let size = 4096;
    let journal = journal_superblock(&image) as usize * size;
    let start = u32::from_be_bytes(bytes[journal + 0x1c..journal + 0x20].try_into().unwrap());
    let log = journal + start as usize * size;
    let with = |at: usize, value: &[u8]| {
        let mut other = bytes.clone();
        other[at..at + value.len()].copy_from_slice(value);
        other
    };
    // Each with a valid checksum of the superblock.
    let signed = |mut image: Vec<u8>| {
        image[journal + 0xfc..journal + 0x100].fill(0);
        let sum = holdfast::fs::crc::crc32c(!0, &image[journal..journal + 1024]);
        image[journal + 0xfc..journal + 0x100].copy_from_slice(&sum.to_be_bytes());
        image
    };
    let incompat = journal + 0x28;
    for (what, image, code) in [
        ("magic", with(journal, &[0]), "ext-journal-damaged"),
        (
            "checksum",
            with(journal + 0x18, &[9]),
            "ext-journal-damaged",
        ),
        (
            "given up",
            signed(with(journal + 0x20, &[255; 4])),
            "ext-journal-damaged",
        ),
        (
            "block size",
            signed(with(journal + 0xc, &[0, 0, 4, 0])),
            "ext-journal-damaged",
        ),
        (
            "start",
            signed(with(journal + 0x1c, &[9; 4])),
            "ext-journal-damaged",
        ),
        (
            "length",
            signed(with(journal + 0x10, &[9; 4])),
            "ext-journal-damaged",
        ),
        (
            "feature",
            signed(with(incompat, &[1])),
            "ext-journal-unknown",
        ),
        (
            "descriptor",
            with(log + 40, &[0xaa, 0xbb]),
            "ext-journal-damaged",
        ),
        (
            "fast commit",
            signed(with(incompat + 3, &[bytes[incompat + 3] | 0x20])),
            "ext-fast-commit",
        ),
    ] {
        assert_eq!(refusal_codes(&image), [code], "{what}");
    }
    // Of a copy only the replay looks at the checksum.
    let mut copies = bytes.clone();
    let last = journal + (1024 * size).min(1 << 20);
    for block in (log..last).step_by(size) {
        if copies[block..block + 4] != [0xc0, 0x3b, 0x39, 0x98] {
            copies[block + 100] ^= 0x10;
        }
    }
    assert!(refusal_codes(&copies).is_empty());
    let damaged = MemoryDisk::fixed(copies);
    assert_eq!(replay_refused(&damaged), "ext-journal-damaged");
}

fn replay_refused(disk: &MemoryDisk) -> String {
    match Ext.replay(disk) {
        Err(FsError::Unsupported(refusal)) => refusal.code,
        other => panic!("{other:?}"),
    }
}

/// The checksum of version 1 is over all of a transaction.
#[test]
fn a_transaction_that_does_not_fit_its_checksum_is_refused() {
    if without_root() {
        return;
    }
    let shape = SHAPES.iter().find(|s| s.name == "ext4-checksum").unwrap();
    let dir = directory();
    let image = fresh(dir.path(), shape, "16M");
    leave_dirty(&image, shape, false);
    let mut bytes = fs::read(&image).unwrap();
    assert!(refusal_codes(&bytes).is_empty());
    let log = run("debugfs", &["-R", "logdump -a", text(&image)]);
    let copy = log
        .lines()
        .find_map(|l| l.split_once("logged at journal block "));
    let copy: usize = copy.unwrap().1.split(' ').next().unwrap().parse().unwrap();
    bytes[(journal_superblock(&image) as usize + copy) * 4096 + 300] ^= 1;
    assert_eq!(refusal_codes(&bytes), ["ext-journal-damaged"]);
}

#[test]
fn copies_of_blocks_that_the_log_cannot_hold_are_refused() {
    let dir = directory();
    let image = dir.path().join("image");
    run(
        "mke2fs",
        &["-q", "-F", "-t", "ext3", "-b", "1024", text(&image), "16M"],
    );
    let (block, commands) = (dir.path().join("block"), dir.path().join("commands"));
    fs::write(&block, [7; 1024]).unwrap();
    let lines = format!("jo\njw -b 15000 {}\njc\n", text(&block));
    fs::write(&commands, lines).unwrap();
    run("debugfs", &["-w", "-f", text(&commands), text(&image)]);
    Ext.replay(&disk(&image)).unwrap();
    let journal = journal_superblock(&image);
    let tag = (journal as usize + 1) * 1024 + 12;
    let bytes = fs::read(&image).unwrap();
    assert_eq!(bytes[tag..tag + 4], 15_000u32.to_be_bytes());
    for (what, number) in [
        ("its own superblock", journal as u32),
        ("its own block", journal as u32 + 700),
        ("the first beyond the end", 16 * 1024),
        ("far beyond", u32::MAX),
    ] {
        let mut other = bytes.clone();
        other[tag..tag + 4].copy_from_slice(&number.to_be_bytes());
        let code = replay_refused(&MemoryDisk::fixed(other));
        assert_eq!(code, "ext-journal-damaged", "{what}");
    }
}

#[test]
fn fast_commits_are_refused_and_nothing_is_written() {
    if without_root() {
        return;
    }
    let shape = Shape {
        name: "fast",
        mkfs: "-t ext4 -b 4096 -O fast_commit",
        mount: "",
    };
    let dir = directory();
    let image = fresh(dir.path(), &shape, "16M");
    leave_dirty(&image, &shape, false);
    let before = fs::read(&image).unwrap();
    let grow = ["grow", "--yes", "--disk-size", "24MiB", text(&image)];
    let (code, found) = holdfast(dir.path(), None, &grow);
    assert_eq!(code, 3, "{found:#}");
    assert_eq!(found["refusals"][0]["code"], "ext-fast-commit", "{found:#}");
    assert!(fs::read(&image).unwrap() == before);
}

/// A failing random test says from which seed it can be repeated.
struct Seed {
    first: u64,
    state: u64,
}

impl Seed {
    fn new() -> Seed {
        let given = std::env::var("HOLDFAST_SEED").ok();
        let now = || {
            let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            since.unwrap().as_nanos() as u64
        };
        let first = given.map_or_else(now, |seed| seed.parse().expect("HOLDFAST_SEED"));
        let state = first | 1;
        Seed { first, state }
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d) % limit
    }
}

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("repeat with HOLDFAST_SEED={}", self.first);
        }
    }
}

/// Damage in the log: no panic, no loop, and what we replay is what debugfs replays.
#[test]
fn random_damage_is_refused_or_replayed_alike() {
    if without_root() {
        return;
    }
    let mut seed = Seed::new();
    let mut alike = 0;
    for (shape, block_bytes) in [(&SHAPES[0], 1024), (&SHAPES[2], 4096)] {
        let dir = directory();
        let image = fresh(dir.path(), shape, "10M");
        leave_dirty(&image, shape, true);
        let bytes = fs::read(&image).unwrap();
        let journal = journal_superblock(&image);
        let at = journal as usize * block_bytes;
        let log = run("debugfs", &["-R", "logdump", text(&image)]);
        let headers: Vec<u64> = log
            .lines()
            .filter(|line| line.starts_with("Found expected"))
            .filter_map(|line| line.rsplit_once("at block ")?.1.parse().ok())
            .map(|number| journal_block(&image, number))
            .collect();
        assert!(headers.len() > 5);
        let victim = dir.path().join("victim");
        for round in 0..240 {
            let mut damaged = bytes.clone();
            for _ in 0..=seed.below(3) {
                // The journal's superblock, a header's block, or any of its first blocks.
                let header = headers[seed.below(headers.len() as u64) as usize] as usize;
                let place = match seed.below(4) {
                    0 => at + seed.below(0x60) as usize,
                    1 | 2 => header * block_bytes + seed.below(200) as usize,
                    _ => at + seed.below(900 * 1024) as usize,
                };
                let value = [0, 0xff, 1, seed.below(256) as u8][seed.below(4) as usize];
                damaged[place] = value;
            }
            let disk = MemoryDisk::fixed(damaged.clone());
            if Ext.replay(&disk).is_err() {
                continue;
            }
            let ours = all(&disk);
            // Whatever came of it is looked for without a panic too.
            let _ = Ext.orphans(&disk);
            if round % 4 != 0 {
                continue;
            }
            fs::write(&victim, &damaged).unwrap();
            let said = output("debugfs", &["-w", "-R", "jr", text(&victim)]);
            if !said.stderr.is_empty() && String::from_utf8_lossy(&said.stderr).lines().count() > 1
            {
                continue;
            }
            let theirs = fs::read(&victim).unwrap();
            let plain = |bytes| without_stamps(bytes, journal, block_bytes);
            let found = differing(&plain(ours), &plain(theirs), block_bytes);
            assert!(found.is_empty(), "{}: round {round}: {found:?}", shape.name);
            alike += 1;
        }
    }
    assert!(alike > 5, "only {alike} damaged journals were replayed");
}

#[test]
fn a_file_system_without_a_journal_has_nothing_to_replay() {
    let dir = directory();
    let image = dir.path().join("image");
    run("mke2fs", &["-q", "-F", "-t", "ext2", text(&image), "8M"]);
    let disk = disk(&image);
    assert!(replay::waiting(&disk).unwrap().blocks.is_empty());
    assert!(Ext.orphans(&disk).unwrap().is_empty());
    assert!(Ext.replay(&disk).is_err());
    let file = fs::File::options().write(true).open(&image).unwrap();
    file.write_all_at(&[4], 1024 + 0x60).unwrap();
    assert!(
        replay::waiting(&self::disk(&image))
            .unwrap()
            .blocks
            .is_empty()
    );
}
