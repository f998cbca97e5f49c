//! Disks with an MBR, through the program: images that get longer, layouts of the time before
//! partitions were aligned, sectors of 4096 bytes that nobody named, and how a target is known
//! again. What every file system does in an MBR is in `tests/systems`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "common/attached.rs"]
mod attached;
#[path = "common/scene.rs"]
mod scene;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use attached::Loop;
use scene::{Answer, Scene, root, run, text};

const MIB: u64 = 1 << 20;

fn change(plan: &Answer, name: &str) -> (u64, u64) {
    let change = &plan.document["result"]["plan"][name];
    let number = |which: &str| {
        change[which]
            .as_u64()
            .unwrap_or_else(|| panic!("{plan:#?}"))
    };
    (number("current"), number("new"))
}

fn transaction(done: &Answer) -> &str {
    done.document["transaction"].as_str().unwrap()
}

/// Lines of `sfdisk -d`, without the name of the image.
fn dump(image: &Path) -> Vec<String> {
    let said = run("sfdisk", &["-d", text(image)]);
    let lines = said.lines().filter_map(|l| l.split_once(" : "));
    lines.map(|(_, rest)| rest.to_string()).collect()
}

fn size(line: &str) -> u64 {
    let (_, rest) = line.split_once("size=").unwrap();
    rest.split(',').next().unwrap().trim().parse().unwrap()
}

/// The file system at `start` is clean, and so large.
fn assert_clean(image: &Path, start: u64, bytes: u64) {
    let name = format!("{}?offset={start}", image.display());
    run("e2fsck", &["-fn", &name]);
    let header = run("dumpe2fs", &["-h", &name]);
    let number = |field: &str| -> u64 {
        let line = header.lines().find(|l| l.starts_with(field)).unwrap();
        line.split_whitespace().last().unwrap().parse().unwrap()
    };
    assert_eq!(number("Block count:") * number("Block size:"), bytes);
}

/// Done, and as it was after a rollback.
fn there_and_back(scene: &Scene, args: &[&str], check: impl Fn(&Answer)) {
    let image = scene.image();
    let before = fs::read(&image).unwrap();
    let done = scene.holdfast(args);
    done.assert(0, "done", "the change");
    check(&done);
    let again = scene.holdfast(args);
    again.assert(0, "no-change", "the second run");
    let back = scene.holdfast(&["rollback", "--yes", transaction(&done)]);
    back.assert(0, "done", "the rollback");
    assert!(fs::read(&image).unwrap() == before, "not as it was");
}

#[test]
fn an_image_gets_longer_with_its_last_partition() {
    for (layout, number) in [("mbr", "2"), ("logical", "6")] {
        let options = ["--layout", layout, "--fs", "8M", "--disk", "12M"];
        let scene = Scene::new("small-gpt", &[&options[..], &["--messages", "20"]].concat());
        let image = scene.image();
        let old = dump(&image);
        let args = ["grow", text(&image), "-p", number, "--to", "max"];
        let args = [&args[..], &["--disk-size", "20MiB", "--yes"]].concat();
        there_and_back(&scene, &args, |done| {
            assert_eq!(fs::metadata(&image).unwrap().len(), 20 * MIB);
            assert_eq!(change(done, "partition"), (8 * MIB, 17 * MIB));
            assert_clean(&image, 3 * MIB, change(done, "file_system_size").1);
            let new = dump(&image);
            let last = new.last().unwrap();
            assert_eq!(size(last), 17 * MIB / 512);
            if layout == "logical" {
                assert_eq!(size(&new[1]), (20 * MIB - 3 * MIB / 2) / 512);
            }
            assert_eq!(old.len(), new.len());
            run("sfdisk", &["--verify", text(&image)]);
        });
    }
}

/// What stands behind limits the growth, and the plan says what it is.
#[test]
fn a_neighbour_limits_the_growth() {
    for (layout, number) in [("mbr", "2"), ("logical", "6")] {
        let options = ["--layout", layout, "--fs", "8M", "--disk", "20M"];
        let scene = Scene::new(
            "small-swap",
            &[&options[..], &["--messages", "20"]].concat(),
        );
        let image = scene.image();
        let args = ["grow", text(&image), "-p", number, "--yes", "--to"];
        let refused = scene.holdfast(&[&args[..], &["14MiB"]].concat());
        refused.assert(3, "refused", layout);
        let (code, message) = refused.refusals()[0];
        assert_eq!(code, "no-room");
        assert!(
            message.contains("partition 4 begins behind it"),
            "{message}"
        );
        there_and_back(&scene, &[&args[..], &["max"]].concat(), |done| {
            assert_eq!(change(done, "partition").1, 12 * MIB);
        });
    }
}

/// An image does not say what its sectors are; the partitions do.
#[test]
fn sectors_of_4096_bytes_are_found_out() {
    for (layout, number) in [("mbr", "2"), ("logical", "6")] {
        for name in ["small-4k", "small-gpt"] {
            let options = ["--layout", layout, "--fs", "8M", "--disk", "20M"];
            let scene = Scene::new(name, &[&options[..], &["--messages", "20"]].concat());
            let image = scene.image();
            let args = ["grow", text(&image), "-p", number, "--to", "max", "--yes"];
            there_and_back(&scene, &args, |done| {
                let sector = done.document["result"]["plan"]["sector_bytes"].as_u64();
                let expected = if name == "small-4k" { 4096 } else { 512 };
                assert_eq!(sector, Some(expected), "{layout}, {name}");
                assert_eq!(change(done, "partition").1, 17 * MIB);
            });
            // The only one with a file system needs no number.
            let plan = scene.holdfast(&["plan", "grow", text(&image)]);
            plan.assert(0, "done", "without a number");
        }
    }
}

/// The layout of disks that were made before 2010: an extended partition that begins with track 1,
/// and logical ones one track behind their EBRs, or, as some tools did it, right behind them: then
/// EBR, superblock and the neighbour's last blocks are in one unit of 4 KiB.
struct Old {
    scene: Scene,
    start: u64,
}

impl Old {
    fn new(gap: u64) -> Old {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let path = dir.path().join("old");
        let file = File::create(&path).unwrap();
        file.set_len(24 * MIB).unwrap();
        // 5 ends where the EBR of 6 stands; behind 6 there is room, and then 3.
        let (first, ebr, last) = (63 + 63, 4095, 4095 + gap + 12_288 - 1);
        let noise: Vec<u8> = (0..24 * MIB).map(|n| (n * 7 / 5) as u8 | 1).collect();
        file.write_all_at(&noise, 0).unwrap();
        let entry = |kind: u8, first: u64, sectors: u64| {
            let mut entry = vec![0, 1, 1, 0, kind, 0xFE, 0xFF, 0xFF];
            entry.extend((first as u32).to_le_bytes());
            entry.extend((sectors as u32).to_le_bytes());
            entry
        };
        let put = |lba: u64, entries: &[Vec<u8>]| {
            let mut bytes = entries.concat();
            bytes.resize(64, 0);
            bytes.extend([0x55, 0xAA]);
            file.write_all_at(&bytes, lba * 512 + 446).unwrap();
        };
        put(
            0,
            &[
                entry(0x05, 63, last + 1 - 63),
                vec![0; 16],
                entry(0x83, 40_000, 5000),
            ],
        );
        put(
            63,
            &[
                entry(0x83, first - 63, ebr - first),
                entry(0x05, ebr - 63, last + 1 - ebr),
            ],
        );
        put(ebr, &[entry(0x83, gap, 12_288)]);
        let start = (ebr + gap) * 512;
        let mail = Scene::new(
            "small-bare",
            &["--fs", "6M", "--disk", "6M", "--messages", "30"],
        );
        let bytes = fs::read(mail.image()).unwrap();
        assert_eq!(bytes.len() as u64, 12_288 * 512);
        file.write_all_at(&bytes, start).unwrap();
        drop(file);
        Old {
            scene: Scene::of(&path),
            start,
        }
    }

    fn args<'a>(&self, target: &'a str, direction: &'a str, to: &'a str) -> Vec<&'a str> {
        vec![direction, target, "-p", "6", "--to", to, "--yes"]
    }
}

#[test]
fn layouts_that_nothing_is_aligned_in() {
    for gap in [63, 1, 2, 5] {
        let old = Old::new(gap);
        let image = old.scene.image();
        let name = text(&image).to_string();
        let before = fs::read(&image).unwrap();
        for (direction, to) in [("grow", "max"), ("shrink", "5MiB")] {
            there_and_back(&old.scene, &old.args(&name, direction, to), |done| {
                assert_clean(&image, old.start, change(done, "file_system_size").1);
                let (_, len) = change(done, "partition");
                let after = fs::read(&image).unwrap();
                let inside = |at: u64| {
                    let sectors = [0, 63, 4095].map(|lba| lba * 512);
                    let table = sectors.iter().any(|&s| (s + 446..s + 510).contains(&at));
                    table || (old.start..old.start + len.max(6 * MIB)).contains(&at)
                };
                let stray = (0..before.len()).find(|&n| before[n] != after[n] && !inside(n as u64));
                assert_eq!(stray, None, "{gap}: {direction}");
                run("sfdisk", &["--verify", &name]);
            });
        }
    }
}

/// Killed at each write to the target, where the EBR shares a unit with the superblock, and where
/// it does not; and recovered in either direction.
#[test]
fn a_kill_at_each_write_of_an_unaligned_one() {
    if !root() {
        return;
    }
    for gap in [63, 1] {
        let old = Old::new(gap);
        let image = old.scene.image();
        let name = text(&image).to_string();
        let before = fs::read(&image).unwrap();
        let args = old.args(&name, "grow", "max");
        let killed = |nth: usize| {
            let inject = format!("inject=pwrite64:signal=SIGKILL:when={nth}");
            let strace = [
                "-qq",
                "-o",
                "/dev/null",
                "-P",
                &name,
                "-e",
                "trace=pwrite64",
            ];
            let status = Command::new("strace")
                .args(strace)
                .args(["-e", &inject, env!("CARGO_BIN_EXE_holdfast")])
                .args(&args)
                .args(["--quiet", "--state-dir", text(&old.scene.path("state"))])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .status()
                .unwrap();
            assert!(status.success() || status.code().is_none(), "{status}");
            !status.success()
        };
        let mut nth = 1;
        while killed(nth) {
            let recover: &[&str] = match nth % 2 {
                0 => &["recover"],
                _ => &["recover", "--forward"],
            };
            let recovered = old.scene.holdfast(recover);
            assert_eq!(
                recovered.code, 0,
                "{gap}, killed at write {nth}: {recovered:#?}"
            );
            let now = fs::read(&image).unwrap();
            if nth.is_multiple_of(2) {
                assert!(now == before, "{gap}: not as it was, killed at {nth}");
            } else if now != before {
                // The first write may not have happened.
                let again = old.scene.holdfast(&args);
                again.assert(0, "no-change", "all of it is there");
                let newest = transaction_of(&old.scene);
                let back = old.scene.holdfast(&["rollback", "--yes", &newest]);
                back.assert(0, "done", "and it can be undone");
                assert!(fs::read(&image).unwrap() == before);
            }
            old.scene.clear();
            nth += 1;
        }
        assert!(nth > 5, "{gap}: {nth} writes");
    }
}

fn transaction_of(scene: &Scene) -> String {
    let status = scene.holdfast(&["status"]);
    let list = status.document["transactions"].as_array().unwrap();
    list[0]["id"]
        .as_str()
        .unwrap_or_else(|| panic!("{status:#?}"))
        .to_string()
}

/// A device is known by the signature of its disk, and by all else; never by its name.
#[test]
fn a_device_is_known_by_the_signature_of_its_disk() {
    if !root() {
        return;
    }
    let options = ["--layout", "logical", "--fs", "8M", "--disk", "20M"];
    let scene = Scene::new("small-gpt", &[&options[..], &["--messages", "20"]].concat());
    // No other test may have a disk like this one.
    run(
        "sfdisk",
        &["-q", "--disk-id", text(&scene.image()), "0x7e57d15c"],
    );
    let before = fs::read(scene.image()).unwrap();
    let mut device = Loop::attach(&scene.image(), 512);
    let node = device.add(6, 3 * MIB, 8 * MIB);
    let done = scene.holdfast(&["grow", text(&node), "--to", "max", "--yes"]);
    done.assert(0, "done", "through the partition's node");
    assert_eq!(device.kernel_bytes(6), 17 * MIB);
    let id = transaction(&done).to_string();
    let said = done.document.to_string();
    assert!(
        said.contains("\"7e57d15c\"") && said.contains("\"7e57d15c-06\""),
        "{said}"
    );
    drop(device);
    // Another disk with everything but the signature is not it.
    let other: PathBuf = scene.path("other");
    fs::copy(scene.image(), &other).unwrap();
    run("sfdisk", &["-q", "--disk-id", text(&other), "0x01020304"]);
    let first = Loop::attach(&other, 512);
    let refused = scene.holdfast(&["rollback", "--yes", &id]);
    assert_eq!(refused.refusals()[0].0, "target-not-found", "{refused:#?}");
    // Under another name it is.
    let second = Loop::attach(&scene.image(), 512);
    let back = scene.holdfast(&["rollback", "--yes", &id]);
    back.assert(0, "done", "under another name");
    drop((first, second));
    assert!(fs::read(scene.image()).unwrap() == before);
    scene.clear();
    scene.assert_nothing_left("a device");
}

/// Sector 0 was under the head when the power went: the gate still names the transaction.
#[test]
fn recovery_finds_its_target_without_the_table() {
    if !root() {
        return;
    }
    let options = ["--layout", "logical", "--fs", "8M", "--disk", "20M"];
    let scene = Scene::new("small-gpt", &[&options[..], &["--messages", "20"]].concat());
    let image = scene.image();
    let before = fs::read(&image).unwrap();
    let name = text(&image);
    // The gate is the first write, sector 0 the second.
    let strace = ["-qq", "-o", "/dev/null", "-P", name, "-e", "trace=pwrite64"];
    let killed = Command::new("strace")
        .args(strace)
        .args(["-e", "inject=pwrite64:signal=SIGKILL:when=3"])
        .arg(env!("CARGO_BIN_EXE_holdfast"))
        .args(["grow", name, "-p", "6", "--to", "max", "--yes", "--quiet"])
        .args(["--state-dir", text(&scene.path("state"))])
        .stdin(Stdio::null())
        .status()
        .unwrap();
    assert_eq!(killed.code(), None, "killed");
    let now = fs::read(&image).unwrap();
    assert!(now[..512] != before[..512], "sector 0 was written");
    let file = File::options().write(true).open(&image).unwrap();
    file.write_all_at(&[0xA5; 512], 0).unwrap();
    let recovered = scene.holdfast(&["recover"]);
    assert_eq!(recovered.code, 0, "{recovered:#?}");
    assert!(fs::read(&image).unwrap() == before, "not as it was");
}
