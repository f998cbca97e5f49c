//! An MBR that nothing should be resized in, and what only looks like one.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::bench::{Bench, MIB, poke, tool};

const DISK: u64 = 32 * MIB;
/// Where the EBRs of the partitions 5 and 6 stand.
const EBRS: [u64; 2] = [8 * MIB, 18 * MIB];

/// A disk with an empty ext4 in partition 1, an extended partition 2 and in it 5 and 6.
fn disk(bench: &Bench) -> PathBuf {
    let image = bench.file("disk", DISK, &[]);
    let script = "label: dos\nlabel-id: 0x12345678\n\
                  1 : start=2048, size=12288, type=83\n\
                  2 : start=16384, size=40960, type=5\n\
                  5 : start=18432, size=16384, type=83\n\
                  6 : start=38912, size=8192, type=83\n";
    let mut sfdisk = Command::new("sfdisk")
        .arg("--quiet")
        .arg(&image)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = sfdisk.stdin.take().unwrap();
    stdin.write_all(script.as_bytes()).unwrap();
    drop(stdin);
    assert!(sfdisk.wait().unwrap().success());
    let offset = "-Eoffset=1048576";
    let args = ["-q", "-F", "-t", "ext4", offset].map(AsRef::as_ref);
    let size = ["6M".as_ref()];
    tool(
        "mke2fs",
        &[&args[..], &[image.as_os_str()], &size[..]].concat(),
    );
    image
}

/// The entry in `slot` of the MBR or of an EBR: the offset of a field.
fn field(sector: u64, slot: u64, field: u64) -> u64 {
    sector + 446 + slot * 16 + field
}

#[track_caller]
fn refused(bench: &Bench, image: &Path, number: &str, code: &str, words: &[&str]) {
    let target = image.to_str().unwrap();
    for args in [
        &["check", target, "-p", number][..],
        &["plan", "grow", target, "-p", number],
        &["grow", target, "-p", number, "--yes"],
        &["shrink", target, "-p", number, "--to", "-1MiB", "--yes"],
    ] {
        bench.refused(image, args, code).says(words);
    }
}

#[test]
fn the_disk_is_good_before_it_is_damaged() {
    let bench = Bench::new();
    let image = disk(&bench);
    let said = bench.run(&["plan", "grow", image.to_str().unwrap(), "--to", "7MiB"]);
    assert_eq!(said.code, 0, "{}{}", said.stdout, said.stderr);
    assert!(
        said.stdout.contains("MBR, 2 primary and 2 logical"),
        "{}",
        said.stdout
    );
}

#[test]
fn every_damage_is_a_refusal() {
    let le = |n: u32| n.to_le_bytes();
    type Case<'a> = (u64, &'a [u8], &'a str, &'a [&'a str]);
    let cases: [Case<'_>; 9] = [
        (
            field(0, 0, 12),
            &le(20_000),
            "mbr-overlap",
            &["1 (LBA 2048", "2 (LBA 16384"],
        ),
        (
            field(0, 1, 12),
            &le(60_000),
            "mbr-outside",
            &["partition 2", "--sector-size"],
        ),
        (
            field(0, 0, 8),
            &le(0),
            "mbr-outside",
            &["partition 1 (LBA 0"],
        ),
        (field(0, 0, 4), &[0x0F], "mbr-two-extended", &["1 and 2"]),
        (
            field(EBRS[0], 0, 12),
            &le(30_000),
            "mbr-overlap",
            &["EBR at LBA 36864"],
        ),
        (
            field(EBRS[0], 1, 8),
            &le(1 << 30),
            "mbr-ebr-outside",
            &["fdisk -l"],
        ),
        (
            field(EBRS[0], 1, 8),
            &le(0),
            "mbr-ebr-loop",
            &["back to LBA 16384"],
        ),
        (
            EBRS[1] + 510,
            &[0],
            "mbr-ebr-signature",
            &["LBA 36864", "sfdisk --verify"],
        ),
        (
            field(EBRS[0], 2, 12),
            &le(1),
            "mbr-ebr-entries",
            &["LBA 16384"],
        ),
    ];
    for (at, bytes, code, words) in cases {
        let bench = Bench::new();
        let image = disk(&bench);
        poke(&image, at, bytes);
        refused(&bench, &image, "1", code, words);
    }
}

#[test]
fn an_extended_partition_is_not_resized() {
    let bench = Bench::new();
    let image = disk(&bench);
    refused(
        &bench,
        &image,
        "2",
        "extended-partition",
        &["it has 1, 5, 6"],
    );
    refused(
        &bench,
        &image,
        "3",
        "no-such-partition",
        &["it has 1, 5, 6"],
    );
}

#[test]
fn a_lost_signature_is_said() {
    let bench = Bench::new();
    let image = disk(&bench);
    poke(&image, 511, &[0]);
    refused(&bench, &image, "1", "no-table", &["no partition table"]);
    let said = bench.run(&["check", image.to_str().unwrap()]);
    let text = format!("{}{}", said.stdout, said.stderr);
    assert!(text.contains("but not its signature"), "{text}");
}

/// Sector 0 of a FAT ends like an MBR; whatever stands where an MBR has its entries, it is none.
#[test]
fn a_fat_is_not_taken_for_a_table() {
    for (kind, option) in [("vfat", "-F32"), ("vfat", "-F16")] {
        let bench = Bench::new();
        let image = bench.file("fat", 64 * MIB, &[]);
        tool(
            &format!("mkfs.{kind}"),
            &[option.as_ref(), image.as_os_str()],
        );
        let entry = [
            &[0, 0, 0, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 4, 0, 0][..],
            &[0; 48],
        ]
        .concat();
        poke(&image, 446, &entry);
        let args = ["grow", image.to_str().unwrap(), "-p", "1", "--yes"];
        bench.refused(&image, &args, "no-table");
    }
}
