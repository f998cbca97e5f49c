//! Swap space: what stands against a change, and the gate. The changes are in `tests/systems`.
//! Needs util-linux.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "common/scene.rs"]
mod scene;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use holdfast::fs::{Driver, TransactionId, swap::Swap};
use scene::{Scene, hash, root, run, text};

fn space(dir: &Path) -> PathBuf {
    let image = dir.join("space");
    fs::write(&image, vec![0; 8 << 20]).unwrap();
    run("mkswap", &["-q", "-p", "4096", "-L", "space", text(&image)]);
    image
}

#[test]
fn a_system_that_sleeps_is_left_alone() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let image = space(dir.path());
    let mut bytes = fs::read(&image).unwrap();
    bytes[4086..4095].copy_from_slice(b"S1SUSPEND");
    fs::write(&image, &bytes).unwrap();
    let scene = Scene::of(&image);
    let (target, before) = (scene.image(), hash(&image));
    let said = scene.holdfast(&["shrink", "--to", "4MiB", text(&target), "--yes"]);
    assert_eq!(said.code, 3, "{said:#?}");
    assert_eq!(said.refusals()[0].0, "swap-hibernated");
    assert_eq!(hash(&target), before);
}

#[test]
fn a_plan_says_that_nothing_is_kept_or_moved() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let scene = Scene::of(&space(dir.path()));
    let target = scene.image();
    let said = scene.holdfast(&["plan", "shrink", "--to", "4MiB", text(&target)]);
    assert_eq!(said.code, 0, "{said:#?}");
    let text = said.document.to_string();
    assert!(
        text.contains("not kept") && text.contains("not moved"),
        "{text}"
    );
}

#[test]
fn nobody_takes_a_gate_for_swap_space() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let image = space(dir.path());
    let succeeds = |program: &str, arguments: &[&str]| {
        let done = Command::new(program).args(arguments).arg(&image).output();
        done.unwrap().status.success()
    };
    let both = || [succeeds("blkid", &["-p"]), succeeds("swaplabel", &[])];
    assert_eq!(both(), [true, true]);
    let mut bytes = fs::read(&image).unwrap();
    let closed = Swap
        .close_gate(&bytes[1024..1536], TransactionId([7; 16]))
        .unwrap();
    bytes[1024..1536].copy_from_slice(&closed);
    fs::write(&image, &bytes).unwrap();
    assert_eq!(both(), [false, false]);
}
