//! Partition tables that nothing should be resized in.

use std::path::Path;

use crate::bench::{Bench, MIB, peek, poke, tool};

const DISK: u64 = 32 * MIB;

/// Refused by everything that would change it, and by `check`, with one code.
#[track_caller]
fn refused(bench: &Bench, image: &Path, code: &str, words: &[&str]) {
    let target = image.to_str().unwrap();
    for args in [
        &["check", target, "-p", "2"][..],
        &["plan", "grow", target, "-p", "2"],
        &["grow", target, "-p", "2", "--yes"],
        &["shrink", target, "-p", "2", "--to", "-1MiB", "--yes"],
    ] {
        bench.refused(image, args, code).says(words);
    }
}

/// Recomputes the checksums of one copy of the table after its bytes were changed.
fn sign(image: &Path, header: u64, entries: u64) {
    let crc = crc32fast::hash(&peek(image, entries, 128 * 128));
    poke(image, header + 88, &crc.to_le_bytes());
    poke(image, header + 16, &[0; 4]);
    let crc = crc32fast::hash(&peek(image, header, 92));
    poke(image, header + 16, &crc.to_le_bytes());
}

/// Changes an entry in both copies, and signs both.
pub fn edit(image: &Path, entry: u64, at: u64, bytes: &[u8]) {
    for (header, entries) in [(512, 1024), (DISK - 512, DISK - 33 * 512)] {
        poke(image, entries + entry * 128 + at, bytes);
        sign(image, header, entries);
    }
}

#[test]
fn one_bad_copy_is_named_with_the_command_that_mends_it() {
    for (at, which, code) in [
        (512 + 30, "primary", "gpt-header-crc"),
        (DISK - 512 + 30, "backup", "gpt-header-crc"),
        (1024 + 3, "primary", "gpt-entries-crc"),
        (DISK - 33 * 512 + 3, "backup", "gpt-entries-crc"),
    ] {
        let (bench, image) = Bench::with("small-gpt");
        let byte = peek(&image, at, 1)[0];
        poke(&image, at, &[byte ^ 0x40]);
        let command = format!("sgdisk -e {}", image.display());
        refused(&bench, &image, code, &[which, &command]);
        // And what it says is true.
        tool("sgdisk", &["-e".as_ref(), image.as_os_str()]);
        let said = bench.run(&["plan", "grow", image.to_str().unwrap()]);
        assert_eq!(said.code, 0, "{which}: {}", said.stderr);
    }
}

#[test]
fn two_bad_copies_are_not_mended_by_a_command() {
    let (bench, image) = Bench::with("small-gpt");
    poke(&image, 512 + 30, b"X");
    poke(&image, DISK - 512 + 30, b"X");
    refused(
        &bench,
        &image,
        "gpt-header-crc",
        &["primary", "backup", "no copy is whole"],
    );
}

#[test]
fn partitions_that_overlap_or_lie_outside_are_refused() {
    let le = |n: u64| n.to_le_bytes();
    for (at, value, code, words) in [
        (
            32,
            le(6000),
            "gpt-overlap",
            "1 (LBA 2048 to 6143) and 2 (LBA 6000",
        ),
        (40, le(DISK / 512 + 5), "gpt-outside", "partition 2"),
        (32, le(20), "gpt-outside", "partition 2"),
        (40, le(6000), "gpt-inverted", "partition 2"),
    ] {
        let (bench, image) = Bench::with("small-gpt");
        edit(&image, 1, at, &value);
        refused(&bench, &image, code, &[words]);
    }
}

#[test]
fn copies_that_disagree_are_refused() {
    let (bench, image) = Bench::with("small-gpt");
    poke(&image, 1024 + 128 + 56, b"M\0");
    sign(&image, 512, 1024);
    refused(&bench, &image, "gpt-copies-differ", &["gdisk"]);
}

#[test]
fn a_hybrid_mbr_is_refused() {
    let (bench, image) = Bench::with("small-gpt");
    tool(
        "sgdisk",
        &["-h".as_ref(), "1:2".as_ref(), image.as_os_str()],
    );
    refused(&bench, &image, "hybrid-mbr", &["stale", "gdisk"]);
}

#[test]
fn a_disk_that_was_cut_short_is_refused() {
    let (bench, image) = Bench::with("small-gpt");
    let file = std::fs::File::options().write(true).open(&image).unwrap();
    file.set_len(24 * MIB).unwrap();
    let target = image.to_str().unwrap();
    let why = bench.ends(&image, &["grow", target, "-p", "2", "--yes"], 3, "refused");
    why.says(&["cut short"]);
}
