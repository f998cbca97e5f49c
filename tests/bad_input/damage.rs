//! File systems that are damaged, in a state that no resizer should see, or not alone.

use std::path::Path;

use crate::bench::{Bench, MIB, PART, debugfs, peek, poke, tool, transactions};

const MD_MAGIC: u32 = 0xa92b_4efc;

fn shrink(target: &str) -> [&str; 5] {
    ["shrink", target, "--to", "8MiB", "--yes"]
}

#[test]
fn what_e2fsck_finds_is_shown_and_nothing_is_repaired() {
    let (bench, image) = Bench::with("small-bare");
    debugfs(&image, &["set_inode_field /home links_count 9"]);
    let target = image.to_str().unwrap();
    for args in [
        &["check", target][..],
        &["plan", "shrink", target, "--to", "8MiB", "--rehearse"],
        &["plan", "shrink", target, "--to", "min"],
        &shrink(target),
    ] {
        bench.refused(&image, args, "damaged-file-system").says(&[
            "e2fsck exited with 4",
            "ref count is 9, should be",
            "e2fsck -f",
            "backup",
        ]);
    }
    assert!(
        transactions(&bench).is_empty(),
        "a refusal leaves no transaction"
    );
}

#[test]
fn lost_files_are_found_before_anything_is_done() {
    let (bench, image) = Bench::with("small-bare");
    debugfs(&image, &["clri /home/anna"]);
    let target = image.to_str().unwrap();
    bench
        .refused(&image, &shrink(target), "damaged-file-system")
        .says(&["anna", "unused inode"]);
}

#[test]
fn a_superblock_that_says_that_something_is_wrong_is_believed() {
    for (request, code, words) in [
        ("ssv state 3", "ext-errors", "e2fsck"),
        ("ssv state 0", "ext-not-clean", "e2fsck"),
        ("feature FEATURE_I20", "ext-unknown-feature", "20"),
        ("feature stable_inodes", "ext-stable-inodes", ""),
    ] {
        let (bench, image) = Bench::with("small-bare");
        debugfs(&image, &[request]);
        let target = image.to_str().unwrap();
        for args in [
            &["plan", "shrink", target, "--to", "8MiB"][..],
            &shrink(target),
        ] {
            bench.refused(&image, args, code).says(&[words]);
        }
    }
}

#[test]
fn a_superblock_with_a_bad_checksum_is_not_believed() {
    let (bench, image) = Bench::with("small-bare");
    poke(&image, 1024 + 0x78, b"other");
    let target = image.to_str().unwrap();
    bench
        .refused(&image, &["check", target], "damaged-file-system")
        .says(&["checksum", "e2fsck"]);
}

#[test]
fn a_file_system_larger_than_its_partition_is_refused() {
    let (bench, image) = Bench::with("small-bare");
    let file = std::fs::File::options().write(true).open(&image).unwrap();
    file.set_len(12 * MIB).unwrap();
    let target = image.to_str().unwrap();
    for args in [&["check", target][..], &["grow", target, "--yes"]] {
        bench
            .refused(&image, args, "ext-larger-than-partition")
            .says(&["16777216 bytes", "12582912", "former size"]);
    }
}

#[test]
fn a_journal_that_cannot_be_replayed_is_refused() {
    let (bench, image) = Bench::with("small-bare");
    let target = image.to_str().unwrap();
    let block = tool("debugfs", &["-R", "bmap <8> 0", target]);
    let block: u64 = block.trim().parse().unwrap();
    debugfs(&image, &["feature needs_recovery"]);
    // The journal's superblock: its magic is gone.
    assert_eq!(peek(&image, block * 1024, 4), b"\xc0\x3b\x39\x98");
    poke(&image, block * 1024, &[0; 1024]);
    for args in [
        &["check", target][..],
        &["plan", "shrink", target, "--to", "8MiB", "--rehearse"],
        &shrink(target),
    ] {
        let why = bench.refused(&image, args, "ext-journal-damaged");
        why.says(&["cannot be replayed", "e2fsck -f", "copy"]);
    }
    assert!(transactions(&bench).is_empty());
}

/// The superblock of a Linux RAID of version 1.0 that ends at `end` of a device at `start`.
fn md10(image: &Path, device: std::ops::Range<u64>) {
    let len = device.end - device.start;
    let at = (len - len % 4096) - 8192;
    poke(image, device.start + at, &MD_MAGIC.to_le_bytes());
    poke(image, device.start + at + 4, &1u32.to_le_bytes());
    poke(image, device.start + at + 144, &(at / 512).to_le_bytes());
}

#[test]
fn metadata_of_others_at_the_old_or_the_new_end_is_refused_by_name() {
    let end = |partition: std::ops::Range<u64>| move |image: &Path| md10(image, partition.clone());
    // The largest partition that fits ends before the table's backup.
    let largest = PART.start..32 * MIB - 33 * 512;
    let plant: [(&str, Box<dyn Fn(&Path)>, &str); 5] = [
        ("md 1.0", Box::new(end(PART)), "partition 2 as it is now"),
        (
            "md 1.0",
            Box::new(end(largest.clone())),
            "partition 2 as it will be",
        ),
        (
            "md 0.90",
            Box::new(|image: &Path| {
                let at = PART.end - (64 << 10);
                for (word, value) in [MD_MAGIC, 0, 90].into_iter().enumerate() {
                    poke(image, at + 4 * word as u64, &value.to_le_bytes());
                }
                poke(image, at + 32, &8192u32.to_le_bytes());
            }),
            "partition 2 as it is now",
        ),
        (
            "DDF",
            Box::new(|image: &Path| {
                poke(image, PART.end - 512, &0xde11_de11u32.to_be_bytes());
                poke(image, PART.end - 512 + 32, b"01.02.00");
            }),
            "partition 2 as it is now",
        ),
        (
            "ZFS",
            Box::new(|image: &Path| {
                for slot in 0..4 {
                    let at = PART.end - (256 << 10) + (128 << 10) + slot * 1024;
                    poke(image, at, &0x00ba_b10cu64.to_le_bytes());
                }
            }),
            "partition 2 as it is now",
        ),
    ];
    for (name, plant, place) in plant {
        let (bench, image) = Bench::with("small-gpt");
        plant(&image);
        let target = image.to_str().unwrap();
        for args in [&["plan", "grow", target][..], &["grow", target, "--yes"]] {
            bench
                .refused(&image, args, "foreign-metadata")
                .says(&[name, place, "wipefs"]);
        }
    }
}

#[test]
fn a_clock_that_is_behind_is_named_and_not_the_file_system_blamed() {
    let (bench, image) = Bench::with("small-bare");
    debugfs(&image, &["ssv mtime 20700101000000"]);
    let target = image.to_str().unwrap();
    for args in [
        &["check", target][..],
        &["plan", "shrink", target, "--to", "8MiB"],
        &["plan", "shrink", target, "--to", "min"],
        &shrink(target),
    ] {
        bench
            .refused(&image, args, "clock-behind")
            .says(&["clock", "after", "timedatectl"]);
    }
    // A clock that was set since is no reason.
    debugfs(&image, &["ssv mtime 20010101000000"]);
    bench.ends(&image, &["check", target], 0, "done");
}
