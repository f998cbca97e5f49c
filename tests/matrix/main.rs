//! Grow and shrink on a matrix of ext file systems and of places for them, through the program, from
//! the command line to the last byte. What is tried and what is expected is one list, in `rows`.
//! With HOLDFAST_LONG=1 also shapes and sizes made up at random.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod bed;
mod crashed;
mod host;
mod journey;
mod made_up;
mod rows;
mod shape;
#[path = "../common/side_by_side.rs"]
mod side_by_side;
mod tree;

use rows::Row;

/// Directories on a disk: what is in memory cannot be read past the cache.
fn workspace() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn travel_all(rows: &[Row], seed: u64) {
    side_by_side::each(rows, &format!("seed {seed}"), Row::name, |row| {
        let dir = workspace();
        let base = shape::make(dir.path(), &row.shape, seed);
        journey::travel(*row, &base, dir.path());
    });
}

#[test]
fn every_row_ends_as_the_table_says() {
    if !host::is_root() {
        return;
    }
    let filter = std::env::var("HOLDFAST_ROWS").unwrap_or_default();
    let rows: Vec<Row> = rows::rows()
        .into_iter()
        .filter(|row| row.name().contains(&filter))
        .collect();
    assert!(!rows.is_empty(), "no row has {filter} in its name");
    travel_all(&rows, 1);
}

/// Shapes, sizes and places that nobody chose. HOLDFAST_SEED is the first, HOLDFAST_VARIANTS how
/// many.
#[test]
fn made_up_rows_end_well() {
    if !host::is_root() {
        return;
    }
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    let is_long = std::env::var("HOLDFAST_LONG").is_ok_and(|v| v == "1");
    let count = number("HOLDFAST_VARIANTS").unwrap_or(if is_long { 200 } else { 4 });
    let first = number("HOLDFAST_SEED").unwrap_or(1);
    let rows: Vec<Row> = (first..first + count).map(made_up::row).collect();
    travel_all(&rows, first);
}

/// README has it word for word: print it with
/// `cargo test --test matrix the_table -- --nocapture`.
#[test]
fn the_table_has_every_shape_and_every_place() {
    let table = rows::table();
    println!("{table}");
    let readme = include_str!("../../README.md");
    assert!(readme.contains(&table), "README has another table");
    for shape in rows::SHAPES {
        assert!(table.contains(&format!("| {} |", shape.name)));
    }
    for place in rows::Place::ALL {
        assert!(table.contains(place.name()));
    }
}

/// The smallest size is the resizer's to say, and of a smaller file system it says a smaller one. A
/// script that asks again must come to an end, and lose nothing on the way.
#[test]
fn the_smallest_size_comes_to_an_end() {
    if !host::is_root() {
        return;
    }
    let dir = workspace();
    let base = shape::make(dir.path(), &rows::PLAIN, 3);
    let row = Row {
        shape: rows::PLAIN,
        place: rows::Place::Gpt,
        sector: 512,
    };
    let bed = bed::Bed::make(dir.path(), row, &base);
    let point = dir.path().join("point");
    let before = tree::Tree::read(&base, (0, rows::PLAIN.sizes.now << 20), &point);
    let mut len = 0;
    let runs = (0..6).take_while(|n| {
        let said = bed.change("shrink", &["--to", "min"]);
        assert_eq!(said.code, 0, "run {n}: {said:#?}");
        if said.outcome() == "done" {
            len = said.change("partition").1;
        }
        said.outcome() == "done"
    });
    let runs = runs.count();
    assert!((1..6).contains(&runs), "{runs} runs, and no end");
    let after = tree::Tree::read(&bed.file, (bed.start, len), &point);
    let differences = before.differences(&after, true);
    assert!(differences.is_empty(), "{differences:#?}");
    bed.assert_table();
}

/// The account of files that every row relies on sees each change that a resize could make.
#[test]
fn the_account_of_files_sees_each_change() {
    if !host::is_root() {
        return;
    }
    let dir = workspace();
    let base = shape::make(dir.path(), &rows::PLAIN, 5);
    let point = dir.path().join("point");
    let place = (0, rows::PLAIN.sizes.now << 20);
    let before = tree::Tree::read(&base, place, &point);
    assert_eq!(before.differences(&before, false), Vec::<String>::new());
    // The time of the last change is put back, as damage would not touch it.
    for (command, found) in [
        ("chmod 0600 user-03/cur/message-003", "message-003"),
        ("chown 5:6 user-03/cur/message-003", "message-003"),
        (
            "printf X | dd conv=notrunc of=user-04/cur/message-005",
            "message-005",
        ),
        ("rm odd/sparse", "odd/sparse is missing"),
        ("ln -sfn elsewhere odd/fast-link", "odd/fast-link"),
        ("cp -a odd/slow-link odd/new", "odd/new is new"),
        ("chattr -i odd/immutable", "immutable"),
        (
            "cp -a odd/owned odd/new && mv odd/new odd/owned",
            "odd/owned",
        ),
        ("touch -d 2001-01-01 odd/empty", "odd/empty"),
        (
            "N=many/a-name-that-takes-some-room-0003; cp -p $N new; mv new $N",
            "a-name-that-takes-some-room-0003",
        ),
    ] {
        let copy = dir.path().join("copy");
        std::fs::copy(&base, &copy).unwrap();
        {
            let device = host::Loop::attach(&copy, &[]);
            let mounted = host::Mounted::on(&point, &device.node, "rw,noatime");
            let at = mounted.point.display();
            host::run("sh", &["-c", &format!("cd {at} && {command}")]);
        }
        let after = tree::Tree::read(&copy, place, &point);
        for may_renumber in [false, true] {
            let differences = before.differences(&after, may_renumber);
            // A copy with all that it had, under another number, is what a renumbered file is.
            let is_seen = differences.iter().any(|text| text.contains(found));
            let is_copy = may_renumber && command.contains("mv odd/new");
            assert!(is_seen || is_copy, "{command}: {differences:#?}");
        }
    }
}
