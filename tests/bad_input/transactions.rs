//! Transactions: hot ones in the way, and those that are not there or not in that state.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use holdfast::fs::{TransactionId, driver};

use crate::bench::{Bench, PART, peek, poke, tool, transactions};

/// A small image that was grown, with its bytes before.
fn grown() -> (Bench, PathBuf, Vec<u8>, String) {
    let (bench, image) = Bench::with("small-gpt");
    let before = fs::read(&image).unwrap();
    let done = bench.run(&["grow", image.to_str().unwrap(), "--yes", "--json"]);
    let document = done.document();
    assert_eq!(done.code, 0, "{document:#}");
    let id = document["transaction"].as_str().unwrap().to_string();
    (bench, image, before, id)
}

/// The same, cut off by a power failure after the gate: the journal has no closing record, and the
/// first half of the delta has arrived.
fn interrupted() -> (Bench, PathBuf, Vec<u8>, String) {
    const SLOTS_BYTES: u64 = 8 * 4096;
    let (bench, image, before, id) = grown();
    let journal = bench.state().join(&id).join("journal");
    let file = File::options().write(true).open(journal).unwrap();
    let end = file.metadata().unwrap().len();
    file.write_all_at(&[0; SLOTS_BYTES as usize], end - SLOTS_BYTES)
        .unwrap();
    let transaction: TransactionId = id.parse().unwrap();
    let at = PART.start + 1024;
    let superblock = &before[at as usize..at as usize + 1024];
    let gate = driver("ext")
        .unwrap()
        .close_gate(superblock, transaction)
        .unwrap();
    poke(&image, at, &gate);
    (bench, image, before, id)
}

/// An image whose GUIDs are no other's: the generated ones all have the same.
fn another(bench: &Bench, name: &str) -> PathBuf {
    let image = bench.image(name);
    tool("sgdisk", &["-G".as_ref(), image.as_os_str()]);
    image
}

fn same_file(path: &Path, bytes: &[u8]) -> bool {
    fs::read(path).unwrap() == bytes
}

#[test]
fn a_hot_journal_stands_before_everything_else_in_any_state_directory() {
    let (bench, image, before, id) = interrupted();
    let target = image.to_str().unwrap();
    let elsewhere = Bench::new();
    for (at, hint) in [
        (&bench, bench.state()),
        (&elsewhere, "another state directory".into()),
    ] {
        for args in [
            &["check", target][..],
            &["check", target, "-p", "2"],
            &["plan", "grow", target, "-p", "2"],
            &["grow", target, "-p", "2", "--yes"],
            &["shrink", target, "-p", "2", "--to", "8MiB", "--yes"],
        ] {
            let why = at.ends(&image, args, 8, "recovery-needed");
            assert_eq!(why.codes, ["recovery-needed"], "{why:#?}");
            why.says(&[
                &id,
                target,
                "holdfast recover",
                "--state-dir",
                hint.to_str().unwrap(),
            ]);
            assert_eq!(why.document["transaction"], id.as_str());
        }
    }
    let why = elsewhere.ends(&image, &["recover", target], 8, "recovery-needed");
    why.says(&[&id, elsewhere.state().to_str().unwrap(), "--state-dir"]);
    let status = bench.run(&["status"]);
    assert!(status.stdout.contains("HOT"), "{}", status.stdout);
    for command in [&["prune", id.as_str()][..], &["rollback", &id, "--yes"]] {
        let why = bench.ends(&image, command, 3, "refused");
        assert!(
            why.text.contains(&id) || why.text.contains("recover"),
            "{why:#?}"
        );
    }
    bench
        .ends(&image, &["abandon", &id], 3, "refused")
        .says(&["--confirm", &id]);
    let recovered = bench.run(&["recover"]);
    assert_eq!(recovered.code, 0, "{}", recovered.stderr);
    assert!(same_file(&image, &before), "not as before");
    assert_eq!(bench.run(&["check", target]).code, 0);
}

#[test]
fn what_nobody_knows_is_refused_by_each_command_that_takes_a_transaction() {
    let (bench, image, _, id) = grown();
    for args in [
        &["rollback", "0123456789abcdef", "--yes"][..],
        &["prune", "0123456789abcdef"],
        &[
            "abandon",
            "0123456789abcdef",
            "--confirm",
            "0123456789abcdef",
        ],
        &["recover", "0123456789abcdef"],
        &["rollback", "", "--yes"],
        &["rollback", "../..", "--yes"],
    ] {
        bench
            .refused(&image, args, "no-such-transaction")
            .says(&[bench.state().to_str().unwrap(), "holdfast status"]);
    }
    bench
        .refused(&image, &["recover", "/no/such/target"], "no-such-target")
        .says(&["/no/such/target"]);
    // What is closed has nothing to recover, and nothing to give up.
    bench.ends(&image, &["recover"], 0, "no-change");
    bench.refused(&image, &["abandon", &id, "--confirm", &id], "wrong-state");
    bench
        .refused(&image, &["abandon", &id], "not-confirmed")
        .says(&["--confirm"]);
    bench
        .ends(&image, &["rollback", &id], 2, "usage")
        .says(&["--yes"]);
}

#[test]
fn a_rollback_of_what_was_used_since_says_what_has_changed() {
    let (bench, image, _, id) = grown();
    // A file that was in use before.
    let part = image.with_extension("part");
    let bytes = fs::read(&image).unwrap();
    fs::write(&part, &bytes[PART.start as usize..]).unwrap();
    let map = tool(
        "debugfs",
        &[
            "-R".as_ref(),
            "bmap /home/anna/Maildir/subscriptions 0".as_ref(),
            part.as_os_str(),
        ],
    );
    let block: u64 = map.trim().parse().unwrap();
    let at = PART.start + block * 1024;
    let byte = peek(&image, at, 1)[0];
    poke(&image, at, &[!byte]);
    bench
        .refused(&image, &["rollback", &id, "--yes"], "target-changed")
        .says(&["bytes"]);
    poke(&image, at, &[byte]);
    let back = bench.run(&["rollback", &id, "--yes"]);
    assert_eq!(back.code, 0, "{}", back.stderr);
    // And once more: it is undone already.
    bench.refused(&image, &["rollback", &id, "--yes"], "wrong-state");
}

#[test]
fn a_rollback_of_another_target_is_refused() {
    let (bench, image, _, id) = grown();
    let other = another(&bench, "small-ext3");
    let args = [
        "rollback",
        &id,
        "--yes",
        "--target",
        other.to_str().unwrap(),
    ];
    bench
        .refused(&other, &args, "another-target")
        .says(&[other.to_str().unwrap(), &id]);
    let moved = bench.path("moved");
    fs::rename(&image, &moved).unwrap();
    bench
        .refused(&moved, &["rollback", &id, "--yes"], "target-not-found")
        .says(&[image.to_str().unwrap(), "TARGET"]);
    let args = [
        "rollback",
        &id,
        "--yes",
        "--target",
        moved.to_str().unwrap(),
    ];
    let back = bench.run(&args);
    assert_eq!(back.code, 0, "{}", back.stderr);
}

#[test]
fn a_journal_that_cannot_be_read_is_shown_and_never_acted_upon() {
    let (bench, image, _, id) = interrupted();
    let journal = bench.state().join(&id).join("journal");
    let len = fs::metadata(&journal).unwrap().len();
    poke(&journal, len / 2, &[0x55; 64]);
    let target = image.to_str().unwrap();
    let before = fs::read(&image).unwrap();
    for args in [&["recover"][..], &["recover", target], &["recover", &id]] {
        let said = bench.run(&[args, &["--json"]].concat());
        let document = said.document();
        assert_eq!(said.code, 6, "{document:#}");
        assert_eq!(document["transaction"], id.as_str());
        let error = document["error"].as_str().unwrap();
        for word in [
            target,
            &id,
            "journal cannot be used",
            "backup of the state directory",
        ] {
            assert!(error.contains(word), "no {word} in: {error}");
        }
        assert!(same_file(&image, &before), "{args:?}");
    }
    assert_eq!(
        bench
            .ends(&image, &["check", target], 8, "recovery-needed")
            .codes
            .len(),
        1
    );
    assert_eq!(transactions(&bench).len(), 1, "it is kept");
}

#[test]
fn a_snapshot_is_compared_with_its_own_target_only() {
    let (bench, image) = Bench::with("small-gpt");
    let target = image.to_str().unwrap();
    let manifest = bench.path("manifest");
    let file = manifest.to_str().unwrap();
    let taken = bench.run(&["snapshot", target, "-o", file]);
    assert_eq!(taken.code, 0, "{}", taken.stderr);
    bench.ends(&image, &["verify", target, file], 0, "done");
    let other = another(&bench, "small-swap");
    bench
        .refused(
            &other,
            &["verify", other.to_str().unwrap(), file, "-p", "2"],
            "another-target",
        )
        .says(&[file, other.to_str().unwrap()]);
    let good = fs::read(&manifest).unwrap();
    for at in [0, 8, good.len() / 2, good.len() - 1] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(&manifest, bad).unwrap();
        bench
            .refused(&image, &["verify", target, file], "bad-manifest")
            .says(&[file]);
    }
    for bytes in [&[][..], &good[..good.len() / 2], b"hello"] {
        fs::write(&manifest, bytes).unwrap();
        bench.refused(&image, &["verify", target, file], "bad-manifest");
    }
}
