//! What is done with each row, and what must hold after each step.

use std::fs;
use std::path::{Path, PathBuf};

use super::bed::{Bed, Said};
use super::host::{Mounted, run, text};
use super::rows::{Expect, Row};
use super::tree::Tree;

const MIB: u64 = 1 << 20;

/// One row on its way.
pub struct Journey<'a> {
    row: Row,
    dir: &'a Path,
    bed: Bed,
    keep: PathBuf,
    before: Tree,
}

/// Goes through a row: a grow and a shrink, each with everything that follows from it.
pub fn travel(row: Row, base: &Path, dir: &Path) {
    let place = (0, row.shape.sizes.now * MIB);
    let before = Tree::read(base, place, &dir.join("point"));
    travel_from(row, base, dir, before);
}

/// The same, where something else than what is in `base` is to come out: its files are `before`.
pub fn travel_from(row: Row, base: &Path, dir: &Path, before: Tree) {
    let mut bed = Bed::make(dir, row, base);
    let keep = dir.join("keep");
    bed.keep(&keep);
    assert!(before.len() > 900, "{} names", before.len());
    bed.open();
    let mut journey = Journey {
        row,
        dir,
        bed,
        keep,
        before,
    };
    journey.direction("grow", row.shape.grow);
    journey.bed.close();
    journey.bed.restore(&journey.keep);
    fs::remove_dir_all(dir.join("state")).unwrap();
    journey.bed.open();
    journey.direction("shrink", row.shape.shrink);
    journey.bed.close();
}

impl Journey<'_> {
    fn direction(&mut self, which: &str, expect: Expect) {
        let sizes = self.row.shape.sizes;
        let mib = |n: u64| format!("{n}MiB");
        let [first, second]: [Vec<String>; 2] = match which {
            "grow" if self.row.place.is_extended() => {
                let len = |n: u64| (n + self.bed.start / MIB + 1).to_string() + "MiB";
                [len(sizes.most), len(sizes.more)].map(|n| vec!["--disk-size".into(), n])
            }
            "grow" => [
                vec!["--to".into(), "max".into()],
                vec!["--to".into(), mib(sizes.more)],
            ],
            _ => [mib(sizes.less), mib(sizes.little_less)].map(|n| vec!["--to".into(), n]),
        };
        let wished = match which {
            "grow" => [sizes.most, sizes.more],
            _ => [sizes.less, sizes.little_less],
        }
        .map(|n| match which {
            "grow" if self.row.place.is_extended() => n * MIB + MIB,
            _ => n * MIB,
        });
        let said = self.change(which, &first);
        if self.row.shape.made_up && said.codes() == ["below-minimum"] {
            assert_eq!(said.code, 3, "{said:?}");
            self.bed.assert_same(&self.keep);
            return;
        }
        let not_done = match expect {
            Expect::Done => None,
            Expect::Refused(code) => Some(("refused", 3, code)),
            Expect::Rejected(code) => Some(("rejected", 4, code)),
        };
        if let Some((outcome, exit_code, code)) = not_done {
            assert_eq!(
                (said.outcome(), said.code),
                (outcome, exit_code),
                "{said:#?}"
            );
            assert!(said.codes().contains(&code), "{said:#?}");
            self.bed.assert_same(&self.keep);
            return;
        }
        self.assert_done(which, &said, wished[0]);
        self.assert_settled(which, &first);
        self.roll_back(&said);
        let said = self.change(which, &second);
        self.assert_done(which, &said, wished[1]);
        self.use_and_refuse(&said);
    }

    fn change(&self, which: &str, size: &[String]) -> Said {
        let size: Vec<&str> = size.iter().map(String::as_str).collect();
        self.bed.change(which, &size)
    }

    /// Done as planned, and nothing else.
    fn assert_done(&self, which: &str, said: &Said, wished: u64) {
        assert_eq!((said.outcome(), said.code), ("done", 0), "{said:#?}");
        let (old, new) = said.change("file_system_size");
        assert_eq!(old, self.row.shape.sizes.now * MIB);
        assert!(if which == "grow" {
            new > old
        } else {
            new < old
        });
        let (old_partition, partition) = said.change("partition");
        if let Some(found) = self.bed.partition_bytes() {
            assert_eq!(found, partition);
        }
        if let Some(kernel) = self.bed.kernel_bytes() {
            assert_eq!(kernel, partition, "the kernel's partition");
        }
        let (_, disk) = said.change("disk");
        assert_eq!(fs::metadata(&self.bed.file).unwrap().len(), disk);
        self.bed.assert_table();
        self.bed.assert_outside(
            &self.keep,
            match self.row.place.has_table() {
                true => old_partition.max(partition),
                false => old.max(new),
            },
        );
        // As the partition has it: nothing behind its end.
        let part = super::host::Loop::part(&self.bed.file, self.bed.start, partition);
        run("e2fsck", &["-f", "-n", text(&part.node)]);
        let header = run("dumpe2fs", &["-h", text(&part.node)]);
        let number = |name: &str| -> u64 {
            let line = header.lines().find(|l| l.starts_with(name)).unwrap();
            line.split_whitespace().last().unwrap().parse().unwrap()
        };
        assert_eq!(number("Block count:") * number("Block size:"), new);
        // All of the room, but for an end that is no block, or no group worth the name.
        let wished = match self.row.place.has_table() {
            true => partition,
            false => wished,
        };
        let slack = if self.row.shape.made_up {
            64 * MIB
        } else {
            64 << 10
        };
        assert!(wished - new < slack, "{new} of {wished} bytes");
        drop(part);
        let after = Tree::read(
            &self.bed.file,
            (self.bed.start, partition),
            &self.dir.join("point"),
        );
        let differences = self.before.differences(&after, which == "shrink");
        assert!(differences.is_empty(), "{differences:#?}");
        if which == "shrink" {
            let moved = self.before.renumbered(&after);
            assert!(
                moved > 20 || self.row.shape.made_up,
                "{moved} files have a new inode: too little to see anything"
            );
        }
    }

    /// A second run finds nothing to do, and does nothing.
    fn assert_settled(&self, which: &str, size: &[String]) {
        let now = self.dir.join("now");
        self.bed.keep(&now);
        let said = self.change(which, size);
        assert_eq!((said.outcome(), said.code), ("no-change", 0), "{said:?}");
        self.bed.assert_same(&now);
    }

    /// Back to the first byte.
    fn roll_back(&self, done: &Said) {
        let said = self
            .bed
            .holdfast(&["rollback", "--yes", done.transaction()]);
        assert_eq!((said.outcome(), said.code), ("done", 0), "{said:?}");
        self.bed.assert_same(&self.keep);
        if let Some(kernel) = self.bed.kernel_bytes() {
            assert_eq!(kernel, done.change("partition").0, "the kernel's partition");
        }
    }

    /// The file system works; once it was written to, there is no way back.
    fn use_and_refuse(&mut self, done: &Said) {
        let (node, part) = self.bed.mountable();
        if !self.row.shape.added.is_empty() {
            run("debugfs", &["-w", "-R", "mkdir new", text(&node)]);
            // What the kernel would have counted.
            super::host::output("e2fsck", &["-f", "-y", text(&node)]);
        } else {
            let mounted = Mounted::on(&self.dir.join("point"), &node, "rw");
            for n in 0..20 {
                fs::create_dir(mounted.point.join(format!("new-{n}"))).unwrap();
                let file = mounted.point.join(format!("new-{n}/file"));
                fs::write(file, vec![n; 30_000]).unwrap();
            }
        }
        run("e2fsck", &["-f", "-n", text(&node)]);
        drop(part);
        let now = self.dir.join("now");
        self.bed.keep(&now);
        let said = self
            .bed
            .holdfast(&["rollback", "--yes", done.transaction()]);
        assert_eq!((said.outcome(), said.code), ("refused", 3), "{said:?}");
        assert_eq!(said.codes(), ["target-changed"], "{said:?}");
        self.bed.assert_same(&now);
    }
}
