//! Sizes: nonsense, the wrong way, too much, too little, and between the boundaries.

use std::path::Path;

use crate::bench::{Bench, MIB, Why};

#[track_caller]
fn ends(bench: &Bench, image: &Path, to: &[&str], code: i32, outcome: &str) -> Why {
    let args = [&["plan", to[0], image.to_str().unwrap(), "--to"], &to[1..]].concat();
    bench.ends(image, &args, code, outcome)
}

#[track_caller]
fn refused(bench: &Bench, image: &Path, to: &[&str], code: &str, words: &[&str]) {
    let why = ends(bench, image, to, 3, "refused");
    assert_eq!(why.codes, [code], "{why:#?}");
    why.says(words);
}

#[test]
fn a_size_without_unit_or_sense_is_a_usage_error_that_says_how_to_write_it() {
    let (bench, image) = Bench::with("small-gpt");
    for (text, words) in [
        ("5", "5GiB"),
        ("+5", "no unit"),
        ("", "is not a size"),
        ("GiB", "is not a size"),
        ("much", "is not a size"),
        ("5lightyears", "GiB"),
        ("1.2.3GiB", "is not a size"),
        ("0x10MiB", "is not a unit"),
        ("\u{661}GiB", "is not a size"),
        ("17179869184GiB", "16 EiB"),
        ("+99999999999999999999PiB", "16 EiB"),
        ("--5MiB", "is not a size"),
        ("+-5MiB", "is not a size"),
        ("NaNGiB", "is not a size"),
        ("1e3MiB", "is not a unit"),
    ] {
        for command in ["grow", "shrink"] {
            ends(&bench, &image, &[command, text], 2, "usage").says(&["--to", words]);
        }
    }
    let target = image.to_str().unwrap();
    bench
        .ends(&image, &["shrink", target, "--yes"], 2, "usage")
        .says(&["--to"]);
    bench
        .ends(
            &image,
            &["grow", target, "--disk-size", "9", "--yes"],
            2,
            "usage",
        )
        .says(&["--disk-size", "9GiB"]);
}

#[test]
fn the_wrong_way_is_refused_with_the_right_command() {
    let (bench, image) = Bench::with("small-gpt");
    for to in [&["grow", "-1MiB"][..], &["grow", "min"]] {
        refused(&bench, &image, to, "wrong-direction", &["holdfast shrink"]);
    }
    for to in [&["shrink", "+1MiB"][..], &["shrink", "max"]] {
        refused(&bench, &image, to, "wrong-direction", &["holdfast grow"]);
    }
    refused(
        &bench,
        &image,
        &["grow", "15MiB"],
        "smaller-than-now",
        &["15 MiB", "16 MiB", "holdfast shrink"],
    );
    refused(
        &bench,
        &image,
        &["shrink", "17MiB"],
        "larger-than-now",
        &["17 MiB", "16 MiB", "holdfast grow"],
    );
}

#[test]
fn more_than_there_is_room_for_is_refused_with_what_there_is() {
    let (bench, image) = Bench::with("small-gpt");
    for to in ["100GiB", "+13MiB", "17179869183GiB", "+17179869183GiB"] {
        refused(
            &bench,
            &image,
            &["grow", to],
            "no-room",
            &[
                "disk ends there",
                "30391808 bytes",
                "--to max",
                "--disk-size",
            ],
        );
    }
    let (bench, image) = Bench::with("small-swap");
    refused(
        &bench,
        &image,
        &["grow", "+5MiB"],
        "no-room",
        &["partition 4 begins behind it", "20 MiB", "--to max"],
    );
}

#[test]
fn the_last_megabyte_leaves_nothing_to_grow() {
    let (bench, image) = Bench::with("small-swap");
    let target = image.to_str().unwrap();
    let grown = bench.run(&["grow", target, "--yes"]);
    assert_eq!(grown.code, 0, "{}", grown.stderr);
    // All there is: a second time there is nothing to do, and more is refused.
    let again = ends(&bench, &image, &["grow", "max"], 0, "no-change");
    assert!(
        again.document["reason"]
            .as_str()
            .unwrap()
            .contains("20 MiB already")
    );
    refused(
        &bench,
        &image,
        &["grow", "+1MiB"],
        "no-room",
        &["partition 4"],
    );
}

#[test]
fn less_than_the_minimum_is_refused_with_the_minimum_which_then_works() {
    for name in ["small-gpt", "small-bare"] {
        let (bench, image) = Bench::with(name);
        let why = ends(&bench, &image, &["shrink", "1MiB"], 3, "refused");
        assert_eq!(why.codes, ["below-minimum"]);
        let bytes: u64 = why
            .text
            .split(|c: char| !c.is_ascii_digit())
            .filter_map(|n| n.parse().ok())
            .find(|n| *n > MIB)
            .unwrap_or_else(|| panic!("no number of bytes in {}", why.text));
        why.says(&[&format!("({bytes} bytes)"), "--to min"]);
        for to in [format!("{bytes}B"), "min".into()] {
            ends(&bench, &image, &["shrink", &to], 0, "done");
        }
        refused(
            &bench,
            &image,
            &["shrink", "0B"],
            "below-minimum",
            &["smallest"],
        );
        refused(
            &bench,
            &image,
            &["shrink", "-1GiB"],
            "below-minimum",
            &["1 GiB", "16 MiB", "smallest"],
        );
    }
}

#[test]
fn a_size_between_boundaries_says_what_it_becomes() {
    let (bench, image) = Bench::with("small-gpt");
    for (to, size, words) in [
        (
            ["shrink", "5000000B"],
            5 * MIB,
            "5000000 bytes) becomes 5 MiB",
        ),
        (["grow", "20.5MiB"], 20 * MIB, "20.50 MiB"),
        (["grow", "+2500kB"], 18 * MIB, "becomes 18 MiB"),
    ] {
        let why = ends(&bench, &image, &to, 0, "done");
        let plan = &why.document["plan"];
        assert_eq!(plan["partition"]["new"], size, "{to:?}");
        let notices = plan["notices"].to_string();
        assert!(
            notices.contains(words) && notices.contains("multiple of 1 MiB"),
            "{notices}"
        );
    }
    // So little more that nothing comes of it must not look like success without a word.
    let why = ends(&bench, &image, &["grow", "17MB"], 0, "no-change");
    let reason = why.document["reason"].as_str().unwrap();
    assert!(
        reason.contains("17000000 bytes) becomes 16 MiB"),
        "{reason}"
    );
}

#[test]
fn a_disk_size_is_for_images_that_grow() {
    let (bench, image) = Bench::with("small-gpt");
    let target = image.to_str().unwrap();
    bench
        .refused(
            &image,
            &["plan", "grow", target, "--disk-size", "16MiB"],
            "disk-size-smaller",
        )
        .says(&["32 MiB", "16 MiB"]);
    bench.refused(
        &image,
        &[
            "plan",
            "shrink",
            target,
            "--to",
            "8MiB",
            "--disk-size",
            "64MiB",
        ],
        "disk-size-with-shrink",
    );
    let device = crate::bench::Loop::on(&image);
    let node = device.0.to_str().unwrap();
    bench
        .refused(
            &device.0,
            &["plan", "grow", node, "--disk-size", "64MiB"],
            "disk-size-of-a-device",
        )
        .says(&["device"]);
}
