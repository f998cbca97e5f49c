//! Grow and shrink on every file system, in every table, with both sizes of sectors, as an image and
//! as a device, through the program, from the command line to the last byte. A new file system gets
//! a file of its own here, with what it knows (`system::System`; `ext` is the example), and its
//! place in `rows::SYSTEMS`. README's table is printed from the same list that is tried.
//!
//! HOLDFAST_ROWS=TEXT tries only the rows that have TEXT in their names: `HOLDFAST_ROWS='ext4 in'`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod account;
mod bed;
mod ext;
mod fat;
#[path = "../matrix/host.rs"]
mod host;
mod journey;
mod mail;
mod ntfs;
#[path = "../common/ntfs3g.rs"]
mod ntfs3g;
mod rows;
#[path = "../common/side_by_side.rs"]
mod side_by_side;
mod swap;
mod system;
mod xfs;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rows::Row;
use system::System;

/// A directory on a disk: what is in memory cannot be read past the cache.
fn workspace() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// A file system that several rows can start from. A bare device has one of its own: nothing but
/// its UUID tells it from another, and a transaction must find its target again.
type Key = (&'static str, u32, bool);

fn key(row: &Row) -> Key {
    let is_alone = row.place.table == rows::Table::Bare && row.place.is_device;
    (row.system.name(), row.place.sector, is_alone)
}

/// The file systems as they are at first, each made once. `None`: it could not be made.
type Bases = BTreeMap<Key, OnceLock<Option<PathBuf>>>;

/// The file system of a row, with its mail.
fn base(row: &Row, bases: &Bases, dir: &Path) -> PathBuf {
    let key = key(row);
    let made = bases[&key].get_or_init(|| {
        let dir = dir.join(format!("{}-{}-{}", key.0, key.1, key.2).replace(' ', "-"));
        std::fs::create_dir(&dir).unwrap();
        catch_unwind(AssertUnwindSafe(|| {
            make(row.system, row.place.sector, &dir)
        }))
        .ok()
    });
    made.clone().expect("the file system was not made")
}

fn make(system: &dyn System, sector: u32, dir: &Path) -> PathBuf {
    let image = dir.join("base");
    let file = std::fs::File::create(&image).unwrap();
    file.set_len(system.sizes().now << 20).unwrap();
    drop(file);
    system.make(&image, sector, dir);
    image
}

fn travel_all(rows: &[Row]) {
    let dir = workspace();
    let bases: Bases = rows.iter().map(|row| (key(row), OnceLock::new())).collect();
    side_by_side::each(rows, "rows", Row::name, |row| {
        let base = base(row, &bases, dir.path());
        let own = workspace();
        journey::travel(*row, &base, own.path());
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
    travel_all(&rows);
}

/// README has it word for word: print it with
/// `cargo test --test systems the_table -- --nocapture`.
#[test]
fn the_table_is_the_one_in_readme() {
    let table = rows::table();
    println!("{table}");
    let readme = include_str!("../../README.md");
    assert!(readme.contains(&table), "README has another table");
}

/// The comparison of everything outside the plan sees a byte wherever it is, and nothing inside.
#[test]
fn a_stray_byte_is_seen_wherever_it_is() {
    if !host::is_root() {
        return;
    }
    use std::os::unix::fs::FileExt;
    let dir = workspace();
    let base = make(&ext::Ext4, 512, dir.path());
    let len = ext::Ext4.sizes().now << 20;
    let (mib, end) = (1 << 20, ext::Ext4.sizes().most << 20);
    for table in rows::Table::ALL {
        let place = rows::Place {
            table,
            sector: 512,
            is_device: false,
        };
        let system: &dyn System = &ext::Ext4;
        let bed = bed::Bed::make(dir.path(), Row { system, place }, &base);
        let keep = dir.path().join("keep");
        bed.keep(&keep);
        let outside = [
            bed.start.checked_sub(1),
            Some(bed.start + len),
            Some(bed.start + end - 1),
            (bed.start > 0).then_some(mib),
            (bed.start > 0).then_some(bed.start + end),
            // Between the parts of a table.
            (bed.start > 0).then_some(40 << 10),
        ];
        let inside = [Some(bed.start), Some(bed.start + len - 1)];
        let inside = inside.map(|at| (at, true)).into_iter();
        for (at, is_planned) in outside.map(|at| (at, false)).into_iter().chain(inside) {
            let Some(at) = at else { continue };
            bed.restore(&keep);
            let mut options = std::fs::File::options();
            let file = options.read(true).write(true).open(&bed.file).unwrap();
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[!byte[0]], at).unwrap();
            let judged = catch_unwind(AssertUnwindSafe(|| bed.assert_outside(&keep, len)));
            assert_eq!(judged.is_ok(), is_planned, "{table:?}: byte {at}");
        }
    }
}

/// The account of files that every row relies on sees each change that a resize could make.
#[test]
fn the_account_of_files_sees_each_change() {
    if !host::is_root() {
        return;
    }
    let dir = workspace();
    let base = make(&ext::Ext4, 512, dir.path());
    let point = dir.path().join("point");
    let read = |image: &Path| {
        let device = host::Loop::attach(image, &["-r"]);
        ext::Ext4.account(&device.node, &point)
    };
    let before = read(&base);
    let differences = |after: &account::Account| {
        before.differences(after, |old, new| {
            ext::Ext4.forgives(rows::Direction::Grow, old, new)
        })
    };
    assert_eq!(differences(&read(&base)), Vec::<String>::new());
    for (command, found) in [
        ("chmod 0600 user-03/cur/message-003", "message-003"),
        ("chown 5:6 user-03/cur/message-003", "message-003"),
        (
            "printf X | dd conv=notrunc of=user-04/cur/message-005",
            "message-005",
        ),
        ("rm odd/sparse", "odd/sparse is missing"),
        ("ln -sfn elsewhere odd/link", "odd/link"),
        ("cp -a odd/link odd/new", "odd/new is new"),
        ("touch -d 2001-01-01 odd/empty", "odd/empty"),
        (
            "setfattr -n user.more -v 1 odd/attributes",
            "odd/attributes",
        ),
        ("cp -a odd/second new && mv new odd/second", "odd/second"),
    ] {
        let copy = dir.path().join("copy");
        std::fs::copy(&base, &copy).unwrap();
        {
            let device = host::Loop::attach(&copy, &[]);
            let mounted = host::Mounted::on(&point, &device.node, "rw,noatime");
            let at = mounted.point.display();
            host::run("sh", &["-c", &format!("cd {at} && {command}")]);
        }
        let found_now = differences(&read(&copy));
        assert!(
            found_now.iter().any(|text| text.contains(found)),
            "{command}: {found_now:#?}"
        );
    }
}
