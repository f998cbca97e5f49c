//! No false alarm: the tools as they are, on every image.

use super::scene::{Scene, Stamp, root, run, text};

/// Rehearses without touching, then grows, shrinks, shrinks as far as it goes, and grows back.
fn resize(name: &str, target: &[&str], largest: &[&str]) {
    let scene = Scene::new(name, &[]);
    let image = scene.image();
    let target = [target, &[text(&image)]].concat();
    let files = contents(&scene, name);
    let before = Stamp::of(&image);
    let grow = [&["--to", "max"], largest, &target].concat();
    for plan in [&["plan", "grow", "--rehearse"][..], &["plan", "grow"]] {
        let answer = scene.holdfast(&[plan, &grow].concat());
        answer.assert(0, "done", name);
        assert_eq!(Stamp::of(&image), before, "{name}: a plan touched it");
    }
    for (change, to) in [
        ("grow", "max"),
        ("shrink", "-1MiB"),
        ("shrink", "min"),
        ("grow", "max"),
    ] {
        let more: &[&str] = if change == "grow" { largest } else { &[] };
        let arguments = [&[change, "--yes", "--to", to], more, &target].concat();
        let answer = scene.holdfast(&arguments);
        answer.assert(0, "done", &format!("{name}: {arguments:?}"));
        assert_eq!(contents(&scene, name), files, "{name}: {arguments:?}");
    }
    let again = scene.holdfast(&[&["grow", "--yes", "--to", "max"], largest, &target].concat());
    again.assert(0, "no-change", name);
    scene.clear();
    scene.assert_nothing_left(name);
}

/// Every file of the mail file system with its hash and what `debugfs` says of it, read by
/// debugfs; and e2fsck finds nothing.
pub fn contents(scene: &Scene, name: &str) -> Vec<String> {
    let start: u64 = if name.ends_with("bare") || name == "tiny" {
        0
    } else {
        3 << 20
    };
    let image = format!("{}?offset={start}", text(&scene.image()));
    run("e2fsck", &["-f", "-n", &image]);
    let out = scene.path("out");
    std::fs::create_dir(&out).unwrap();
    run(
        "debugfs",
        &["-R", &format!("rdump / {}", text(&out)), &image],
    );
    let list = "cd \"$1\" && rm -rf lost+found \
        && find . -mindepth 1 -printf '%P %y %m %U:%G %l ' \
        \\( -type l -printf '\\n' -o -printf '%T@\\n' \\) | LC_ALL=C sort \
        && find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum";
    let said = run("/bin/sh", &["-c", list, "sh", text(&out)]);
    let lines: Vec<String> = said.lines().map(String::from).collect();
    assert!(lines.len() > 40, "{name}: {lines:?}");
    std::fs::remove_dir_all(&out).unwrap();
    lines
}

/// An image that is longer than it was is what a bare file system needs to grow.
const LONGER: &[&str] = &["--disk-size", "40MiB"];

#[test]
fn none_on_small_disks_with_a_table() {
    if !root() {
        return;
    }
    for name in [
        "small-gpt",
        "small-swap",
        "small-4k",
        "small-ext2",
        "small-ext3",
        "small-old",
    ] {
        resize(name, &["--partition", "2"], &[]);
    }
}

#[test]
fn none_on_bare_file_systems() {
    if !root() {
        return;
    }
    resize("small-bare", &[], LONGER);
    resize("tiny", &[], LONGER);
}

#[test]
fn none_on_a_mail_store() {
    if !root() {
        return;
    }
    resize("mail-gpt-swap", &["--partition", "2"], &[]);
}
