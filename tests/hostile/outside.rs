//! What a hostile tool tries beyond its file, and what it leaves to others to notice.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use holdfast::extent::Extent;

use super::alarms::contents;
use super::broken::Broken;
use super::loopdev::Loop;
use super::resizer::{GROW, SHRINK, assert_caught};
use super::scene::{Scene, Stamp, answer, root, run, text};

/// A scene with a hostile resizer, and the arguments to grow its image.
fn growing(kind: &str) -> (Scene, Vec<String>) {
    let scene = Scene::new("small-gpt", &[]);
    scene.harm("resize2fs", kind, 5, "resize");
    let image = scene.image();
    let arguments = [GROW, &["-p2", text(&image)]].concat();
    (scene, arguments.into_iter().map(String::from).collect())
}

fn words(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

/// Done, and every file is what it was.
fn assert_harmless(scene: &Scene, arguments: &[&str], what: &str) {
    let before = contents(scene, "small-gpt");
    scene.holdfast(arguments).assert(0, "done", what);
    assert_eq!(contents(scene, "small-gpt"), before, "{what}");
    scene.clear();
    scene.assert_nothing_left(what);
}

#[test]
fn what_is_harmless_is_accepted() {
    if !root() {
        return;
    }
    // Two that write late are killed; junk in free blocks is nobody's; and
    // the disk does not become shorter with the file.
    for kind in ["none", "late", "fill", "trimmed"] {
        let (scene, arguments) = growing(kind);
        assert_harmless(&scene, &words(&arguments), kind);
    }
    // What a copy has beyond its end is cut off.
    let (scene, mut arguments) = growing("beyond");
    arguments.extend(["--export".into(), "copy".into()]);
    assert_harmless(&scene, &words(&arguments), "beyond");
}

#[test]
fn what_lies_beyond_the_file_cannot_be_written() {
    if !root() {
        return;
    }
    let (scene, arguments) = growing("beyond");
    let before = Stamp::of(&scene.image());
    let answer = scene.holdfast(&words(&arguments));
    assert_caught(&scene, &answer, "io-error", "", "beyond");
    assert_eq!(Stamp::of(&scene.image()), before);
}

#[test]
fn nothing_else_can_be_written() {
    if !root() {
        return;
    }
    let (scene, arguments) = growing("outside");
    let precious = scene.path("precious");
    fs::write(&precious, vec![7; 1 << 20]).unwrap();
    let device = Loop::on(&precious, 512);
    let summary = scene.path("state/summary");
    fs::write(&summary, "summary").unwrap();
    let image = scene.image();
    let mut victims: Vec<PathBuf> = [&image, &precious, &summary].map(PathBuf::from).into();
    victims.push(device.path().into());
    victims.extend(["/dev/mem", "/dev/kmsg", "/dev/fuse", "/dev/loop-control"].map(Into::into));
    victims.extend(["/proc/sysrq-trigger", "/sys/power/state", "/etc/passwd"].map(Into::into));
    victims.extend(fs::read_dir("/dev").unwrap().flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let disk = ["sd", "vd", "nvme", "xvd", "loop"]
            .iter()
            .any(|d| name.starts_with(d));
        (disk && entry.path().exists() && !entry.path().is_dir()).then(|| entry.path())
    }));
    let list: Vec<&str> = victims.iter().map(|v| text(v)).collect();
    fs::write(scene.path("bin/victims"), list.join("\n")).unwrap();
    let stamps = || [&image, &precious, &summary].map(|path| Stamp::of(path));
    let before = stamps();
    for export in ["fuse", "copy"] {
        let answer = scene.holdfast(&[&words(&arguments), &["--export", export][..]].concat());
        let log = scene.tool_log("resize2fs");
        answer.assert(4, "rejected", &log);
        assert!(log.contains("\ntried\n"), "{log}");
        assert!(!log.contains("DONE"), "{log}");
        assert_eq!(stamps(), before, "{export}");
        scene.clear();
    }
    fs::remove_file(&summary).unwrap();
    drop(device);
    scene.assert_nothing_left("outside");
}

#[test]
fn its_parent_survives_it() {
    if !root() {
        return;
    }
    let (scene, arguments) = growing("parent");
    let before = Stamp::of(&scene.image());
    let answer = scene.holdfast(&words(&arguments));
    let log = scene.tool_log("resize2fs");
    assert_caught(&scene, &answer, "resize-failed", &log, "parent");
    assert!(log.contains("survived"), "{log}");
    assert_eq!(Stamp::of(&scene.image()), before);
}

/// A hundred MiB of output: the log is cut, the memory bounded, and the damage found.
#[test]
fn much_output_hides_nothing() {
    if !root() {
        return;
    }
    let (scene, arguments) = growing("chatter");
    let before = Stamp::of(&scene.image());
    let answer = scene.holdfast(&words(&arguments));
    let log = scene.tool_log("resize2fs");
    assert!(log.len() > 1 << 20 && log.len() < 20 << 20, "{}", log.len());
    assert_caught(&scene, &answer, "file-content", "", "chatter");
    assert_eq!(Stamp::of(&scene.image()), before);
}

/// A mount, unmounted when dropped.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount")
            .arg(&self.0)
            .stderr(Stdio::null())
            .status();
    }
}

/// A file system of 24 MiB for the state directory.
fn small_disk(scene: &Scene) -> Mounted {
    let (file, place) = (scene.path("small"), scene.path("mnt"));
    run("truncate", &["-s", "24M", text(&file)]);
    run(
        "mke2fs",
        &["-q", "-F", "-t", "ext4", "-O", "^has_journal", text(&file)],
    );
    fs::create_dir(&place).unwrap();
    run("mount", &["-o", "loop", text(&file), text(&place)]);
    Mounted(place)
}

#[test]
fn one_that_fills_the_state_directory_is_rejected() {
    if !root() {
        return;
    }
    let (scene, arguments) = growing("fill");
    let before = Stamp::of(&scene.image());
    let disk = small_disk(&scene);
    for export in ["fuse", "copy"] {
        let arguments = [&words(&arguments), &["--export", export][..]].concat();
        let answer = answer(&mut scene.command_in(&disk.0.join("state"), &arguments));
        answer.assert(4, "rejected", export);
        let codes: Vec<&str> = answer.refusals().iter().map(|r| r.0).collect();
        assert!(codes.contains(&"io-error"), "{export}: {answer:#?}");
        assert_eq!(Stamp::of(&scene.image()), before, "{export}");
        fs::remove_dir_all(disk.0.join("state")).unwrap();
    }
    drop(disk);
    scene.assert_nothing_left("fill");
}

/// Reads and writes of the tools that fail: they may exit with 0 all the same.
#[test]
fn an_error_that_the_tool_did_not_care_about_is_not_forgotten() {
    if !root() {
        return;
    }
    // Nothing but the tool itself reads the free blocks.
    let (scene, _) = growing("careless");
    let bad = Extent::new((3 << 20) + 12_000 * 1024, 4096);
    let faulty = Broken::mount_read_only(&scene.image(), &scene.path("faulty"), bad);
    let image = faulty.image();
    let answer = scene.holdfast(&[GROW, &["-p2", text(&image)]].concat());
    let log = scene.tool_log("resize2fs");
    assert!(log.contains("errors\n[exited with 0]"), "{log}");
    answer.assert(4, "rejected", &log);
    assert_eq!(answer.refusals()[0].0, "io-error", "{answer:#?}");
    drop(faulty);
    scene.assert_nothing_left("careless");
}

/// The real resizer has to move a block that cannot be read. Whatever it says of that: rejected.
#[test]
fn a_block_that_cannot_be_moved_is_not_lost_without_a_word() {
    if !root() {
        return;
    }
    let scene = Scene::new("small-gpt", &[]);
    let block = file_behind(&scene.image(), 13_000);
    let bad = Extent::new((3 << 20) + block * 1024, 1024);
    let faulty = Broken::mount_read_only(&scene.image(), &scene.path("faulty"), bad);
    let image = faulty.image();
    let answer = scene.holdfast(&[SHRINK, &["-p2", text(&image)]].concat());
    let log = scene.tool_log("resize2fs");
    answer.assert(4, "rejected", &log);
    println!("the real resize2fs: {log}");
    assert_eq!(answer.refusals()[0].0, "io-error", "{answer:#?}");
    drop(faulty);
    scene.assert_nothing_left("a bad block");
}

/// Puts a file behind block `behind` of the mail, and returns its third block.
fn file_behind(image: &Path, behind: u64) -> u64 {
    let offset = format!("{}?offset={}", text(image), 3 << 20);
    let said = run("dumpe2fs", &[&offset]);
    let ranges = said
        .lines()
        .filter_map(|l| l.strip_prefix("  Free blocks: "));
    let below: Vec<(u64, u64)> = ranges
        .flat_map(|line| line.split(", "))
        .filter(|range| !range.is_empty())
        .map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            (first.parse().unwrap(), last.parse().unwrap())
        })
        .filter(|(first, _): &(u64, u64)| *first < behind)
        .map(|(first, last)| (first, last.min(behind) - first + 1))
        .collect();
    let file = image.with_file_name("far");
    fs::write(&file, vec![0x5a; 40_000]).unwrap();
    let change = |verb: &str, (first, count): &(u64, u64)| format!("{verb} {first} {count}");
    let mut script: Vec<String> = below.iter().map(|range| change("setb", range)).collect();
    script.push(format!("write {} far", text(&file)));
    script.extend(below.iter().map(|range| change("freeb", range)));
    let commands = image.with_file_name("commands");
    fs::write(&commands, script.join("\n")).unwrap();
    run("debugfs", &["-w", "-f", text(&commands), &offset]);
    run("e2fsck", &["-f", "-n", &offset]);
    let blocks = run("debugfs", &["-R", "blocks /far", &offset]);
    let third: u64 = blocks.split_whitespace().nth(2).unwrap().parse().unwrap();
    assert!(third > behind, "{blocks}");
    third
}
