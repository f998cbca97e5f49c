//! What is done with each row, and what must hold after each step.

use std::path::{Path, PathBuf};

use super::account::Account;
use super::bed::{Bed, Said, field, part};
use super::rows::{Direction, Expect, Row};

const MIB: u64 = 1 << 20;

/// One row on its way.
struct Journey<'a> {
    row: Row,
    dir: &'a Path,
    bed: Bed,
    keep: PathBuf,
    before: Account,
    dump: Vec<(u32, String)>,
}

/// Goes through a row: a grow and a shrink, each with everything that follows from it.
pub fn travel(row: Row, base: &Path, dir: &Path) {
    let len = row.system.sizes().now * MIB;
    let device = part(base, 0, len, row.place.sector);
    row.system.check(&device.node);
    let before = row.system.account(&device.node, &dir.join("point"));
    drop(device);
    assert!(before.len() > 0, "nothing to compare");
    let bed = Bed::make(dir, row, base);
    let keep = dir.join("keep");
    bed.keep(&keep);
    let dump = bed.dump();
    let mut journey = Journey {
        row,
        dir,
        bed,
        keep,
        before,
        dump,
    };
    for direction in [Direction::Grow, Direction::Shrink] {
        journey.bed.open();
        journey.go(direction);
        journey.bed.close();
        journey.bed.restore(&journey.keep);
    }
}

impl Journey<'_> {
    fn go(&self, direction: Direction) {
        let sizes = self.row.system.sizes();
        let (size, wished) = match direction {
            Direction::Grow => ("max".into(), sizes.most * MIB),
            Direction::Shrink => (format!("{}MiB", sizes.less), sizes.less * MIB),
        };
        if let Expect::Refused(code) = self.row.system.expect(direction, self.row.place) {
            let said = self.bed.change(direction, &size);
            let came = (said.outcome(), said.code);
            assert_eq!(came, ("refused", Some(3)), "{said:#?}");
            assert!(said.codes().contains(&code), "{said:#?}");
            self.bed.assert_same(&self.keep);
            return;
        }
        let (said, writes) = self.bed.change_traced(direction, &size, None);
        assert_eq!((said.outcome(), said.code), ("done", Some(0)), "{said:#?}");
        self.assert_changed(direction, &said, wished);
        self.assert_settled(direction, &size);
        self.roll_back(&said);
        self.cut(direction, &size, writes, &said);
    }

    /// As planned, and nothing else.
    fn assert_changed(&self, direction: Direction, said: &Said, wished: u64) {
        let (old, new) = said.change("file_system_size");
        let (old_partition, partition) = said.change("partition");
        match direction {
            Direction::Grow => assert!(new > old, "{new} after {old}"),
            Direction::Shrink => assert!(new < old, "{new} after {old}"),
        }
        if self.bed.number().is_some() {
            assert_eq!(partition, wished, "{said:#?}");
        }
        if let Some(kernel) = self.bed.kernel_bytes() {
            assert_eq!(kernel, partition, "the kernel's partition");
        }
        self.assert_table(partition);
        let most = old_partition.max(partition);
        self.bed.assert_outside(&self.keep, most);
        // As the partition has it: nothing behind its end.
        let device = self.bed.part(partition);
        let system = self.row.system;
        system.check(&device.node);
        assert_eq!(system.size_bytes(&device.node), new);
        assert!(
            new <= wished && wished - new <= system.slack_bytes(),
            "{new} of {wished}"
        );
        let after = system.account(&device.node, &self.dir.join("point"));
        let differences = self
            .before
            .differences(&after, |old, new| system.forgives(direction, old, new));
        assert!(differences.is_empty(), "{differences:#?}");
        if direction == Direction::Shrink {
            let (moved, least) = (said.delta_bytes(), system.moved_by_shrink());
            assert!(
                moved >= least,
                "{moved} bytes moved: too few to see anything"
            );
        }
    }

    /// Of the table only the length of the planned partitions changed: of the extended one too,
    /// which grows around a logical one, and keeps its room when that shrinks.
    fn assert_table(&self, partition: u64) {
        let sector = u64::from(self.row.place.sector);
        let (start, sectors) = (self.bed.start / sector, partition / sector);
        let after = self.bed.dump();
        assert_eq!(after.len(), self.dump.len(), "{after:#?}");
        for ((number, old), (same, new)) in self.dump.iter().zip(&after) {
            assert_eq!(number, same);
            let planned = if Some(*number) == self.bed.number() {
                sectors
            } else if Some(*number) == self.bed.extended() {
                let needed = start + sectors - field(old, "start=");
                field(old, "size=").max(needed)
            } else {
                field(old, "size=")
            };
            let size = format!("size={:>12}", field(old, "size="));
            assert!(old.contains(&size), "{old}");
            let planned = old.replace(&size, &format!("size={planned:>12}"));
            assert_eq!(*new, planned, "partition {number}");
        }
    }

    /// A second run finds nothing to do, and does nothing.
    fn assert_settled(&self, direction: Direction, size: &str) {
        let now = self.dir.join("now");
        self.bed.keep(&now);
        let said = self.bed.change(direction, size);
        let came = (said.outcome(), said.code);
        assert_eq!(came, ("no-change", Some(0)), "{said:#?}");
        self.bed.assert_same(&now);
    }

    /// Back to the first byte.
    fn roll_back(&self, done: &Said) {
        let said = self
            .bed
            .holdfast(&["rollback", "--yes", done.transaction()]);
        assert_eq!((said.outcome(), said.code), ("done", Some(0)), "{said:#?}");
        self.assert_as_before(done);
    }

    fn assert_as_before(&self, done: &Said) {
        self.bed.assert_same(&self.keep);
        if let Some(kernel) = self.bed.kernel_bytes() {
            assert_eq!(kernel, done.change("partition").0, "the kernel's partition");
        }
    }

    /// Killed in the middle of what it writes to the target, and recovered: a grow back, a shrink
    /// to the end. `done` is what the same change came to when nobody killed it.
    fn cut(&self, direction: Direction, size: &str, writes: usize, done: &Said) {
        assert!(writes >= 3, "{writes} writes have no middle");
        let (said, _) = self
            .bed
            .change_traced(direction, size, Some(writes / 2 + 1));
        assert_eq!(said.code, None, "it was not killed: {said:#?}");
        let status = self.bed.holdfast(&["status"]);
        let found = &status.document["transactions"];
        let is_hot = |t: &serde_json::Value| t["progress"] == "hot";
        let hot = found.as_array().unwrap().iter().filter(|t| is_hot(t));
        assert_eq!(hot.count(), 1, "{found:#}");
        let said = self.bed.change(direction, size);
        assert_eq!(
            (said.codes(), said.code),
            (vec!["recovery-needed"], Some(8))
        );
        match direction {
            Direction::Grow => {
                let said = self.bed.holdfast(&["recover"]);
                assert_eq!(said.code, Some(0), "{said:#?}");
                self.assert_as_before(done);
            }
            Direction::Shrink => {
                let said = self.bed.holdfast(&["recover", "--forward"]);
                assert_eq!(said.code, Some(0), "{said:#?}");
                let wished = self.row.system.sizes().less * MIB;
                self.assert_changed(direction, done, wished);
            }
        }
    }
}
