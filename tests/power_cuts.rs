//! P2 and P3: a power cut at every write and every flush, of the commit, of the recovery, and of a
//! rollback on purpose, leaves the target byte-identical to before or to after.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;
#[path = "power_cuts_more/errors.rs"]
mod errors;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use common::toy::Toy;
use holdfast::disk::{Dir, Disk, DiskRead, MemoryDisk, Window};
use holdfast::extent::{Extent, ExtentMap};
use holdfast::fs::{Driver, GateState, TransactionId};
use holdfast::journal::{
    Closed, Draft, JournalError, JournalState, Media, Outcome, RecoverError, Recovered, Side, View,
};
use holdfast::report::{Collect, Quiet, Report, Unit};
use holdfast::sim::{Fault, Length, Machine, Rng, Script, SimDir, SimDisk, Survival};
use holdfast::snapshot::Manifest;
use holdfast::transaction::dossier::{Dossier, Hands};

const ID: TransactionId = TransactionId([0x5a; 16]);
const UNIT: u64 = 4096;

/// The scene whose table and superblock share a unit.
const CLOSE: &str = "a partition right behind the table";

/// A write that lands one unit further on, perhaps on bytes that no undo record knows.
const MISDIRECTED: Fault = Fault::Misdirected(8);

/// A target before and after, and where its parts lie.
struct Scene {
    name: &'static str,
    toy: Toy,
    before: Arc<Vec<u8>>,
    after: Vec<u8>,
    partition: u64,
    /// The superblock's unit.
    unit: Extent,
    front: Option<Extent>,
    back: Option<Extent>,
    used_before: ExtentMap,
    used_after: ExtentMap,
    is_file: bool,
}

/// Fills with bytes that differ from sector to sector.
fn noise(rng: &mut Rng, bytes: &mut [u8]) {
    bytes.iter_mut().for_each(|b| *b = rng.next_u64() as u8);
}

impl Scene {
    fn new(name: &'static str, checksum: bool, table: bool, old: u64, new: u64) -> Scene {
        let toy = Toy { checksum };
        let mut rng = Rng::new(name.len() as u64 + 17);
        let mut before = vec![0; old as usize];
        noise(&mut rng, &mut before);
        let partition = match (table, name) {
            // As where a partition begins at LBA 34: the table's last unit is its first.
            (true, CLOSE) => UNIT - 512,
            (true, _) => 2 * UNIT,
            (false, _) => 0,
        };
        let unit = Extent::from_range(
            partition.max((partition + 1024) / UNIT * UNIT),
            (partition + 1024) / UNIT * UNIT + UNIT,
        );
        let place = (partition + 1024) as usize;
        before[place..place + 1024].copy_from_slice(&toy.superblock_of(10, 0x11));
        let mut after = before.clone();
        after.resize(new as usize, 0);
        after[place..place + 1024].copy_from_slice(&toy.superblock_of(20, 0x22));
        if name == CLOSE {
            // The table ends in the middle of the superblock's unit.
            noise(&mut rng, &mut after[UNIT as usize..UNIT as usize + 100]);
        }
        let mut change = |unit: u64| {
            let at = (unit * UNIT) as usize;
            noise(&mut rng, &mut after[at..at + UNIT as usize]);
        };
        let units = new / UNIT;
        let (front, back) = if table {
            change(0);
            change(units - 1);
            (
                Some(Extent::new(0, if name == CLOSE { 2 * UNIT } else { UNIT })),
                Some(Extent::new(new - UNIT, UNIT)),
            )
        } else {
            (None, None)
        };
        [4, 5, 7].into_iter().for_each(&mut change);
        if new > old {
            // A block of the file system behind the old end.
            change(old.div_ceil(UNIT) + 1);
        }
        let used = |units: &[u64]| {
            units
                .iter()
                .map(|u| Extent::new(u * UNIT, UNIT))
                .collect::<ExtentMap>()
        };
        Scene {
            name,
            toy,
            before: Arc::new(before),
            after,
            partition,
            unit,
            front,
            back,
            used_before: used(&[unit.start / UNIT, 4, 6, 7]),
            used_after: used(&[unit.start / UNIT, 4, 5, 6, 7]),
            is_file: old != new,
        }
    }

    fn all() -> Vec<Scene> {
        let units = |n| n * UNIT;
        vec![
            Scene::new("grow in a table", true, true, units(10), units(10)),
            Scene::new("grow without a checksum", false, true, units(10), units(10)),
            Scene::new(CLOSE, true, true, units(10), units(10)),
            Scene::new("bare", true, false, units(9), units(9)),
            Scene::new("bare without a checksum", false, false, units(9), units(9)),
            Scene::new("an image that grows", true, true, units(10), units(13)),
            Scene::new(
                "an image of odd length that grows",
                false,
                true,
                units(10) + 512,
                units(14),
            ),
        ]
    }

    fn machine(&self) -> (Machine, SimDisk, SimDir) {
        let machine = Machine::new();
        let length = if self.is_file {
            Length::Settable
        } else {
            Length::Fixed
        };
        let disk = machine.add_disk(self.before.clone(), length, 512);
        let dir = machine.add_dir();
        (machine, disk, dir)
    }

    /// Seals and commits, as a transaction does. `None`: it never became hot.
    fn commit(&self, disk: &SimDisk, dir: &SimDir) -> Option<Outcome> {
        self.commit_on(&SimMedia(disk.clone()), dir)
    }

    fn commit_on(&self, media: &dyn Media, dir: &SimDir) -> Option<Outcome> {
        let target = MemoryDisk::fixed(self.before.to_vec());
        let rehearsed = MemoryDisk::fixed(self.after.clone());
        let unit = self.unit;
        let superblock = Extent::new(self.partition + 1024, 1024);
        let mut gate = self.before[unit.start as usize..unit.end() as usize].to_vec();
        let at = (superblock.start - unit.start) as usize;
        let closed = self.toy.close_gate(&gate[at..at + 1024], ID).unwrap();
        gate[at..at + 1024].copy_from_slice(&closed);
        let mut delta = self.delta();
        let mut take = |part: Option<Extent>| {
            let map: ExtentMap = part
                .into_iter()
                .flat_map(|e| delta.within(e).collect::<Vec<_>>())
                .collect();
            map.iter().for_each(|e| delta.remove(e));
            map
        };
        let (backup_table, primary_table) = (take(self.back), take(self.front));
        let draft = Draft {
            id: ID,
            identity: "toy",
            driver: "toy",
            superblock,
            superblock_unit: unit,
            gate: &gate,
            backup_table: &backup_table,
            primary_table: &primary_table,
            blocks: &delta,
        };
        let before = Manifest::take(&target, &self.used_before, 2 * UNIT, "", &Quiet).unwrap();
        let after = Manifest::take(&rehearsed, &self.used_after, 2 * UNIT, "", &Quiet).unwrap();
        let dossier =
            Dossier::seal(dir, &draft, &target, &rehearsed, (before, after), &Quiet).ok()?;
        Some(dossier.commit(&self.hands(media)))
    }

    fn delta(&self) -> ExtentMap {
        let mut before = self.before.to_vec();
        before.resize(self.after.len().max(before.len()), 0);
        Extent::new(0, self.after.len() as u64)
            .split(UNIT)
            .filter(|e| {
                let range = e.start as usize..e.end() as usize;
                before[range.clone()] != self.after[range]
            })
            .collect()
    }

    fn hands<'a>(&'a self, media: &'a dyn Media) -> Hands<'a> {
        self.hands_with(media, &Quiet)
    }

    fn hands_with<'a>(&'a self, media: &'a dyn Media, report: &'a dyn Report) -> Hands<'a> {
        Hands {
            media,
            driver: &self.toy,
            report,
            now: 1,
            whole: true,
        }
    }

    /// Recovers as a restarted machine would, and says what the target must be: `None` where the
    /// power went again.
    fn recover(
        &self,
        machine: &Machine,
        disk: &SimDisk,
        dir: &SimDir,
        toward: Side,
    ) -> Option<Side> {
        let dossier = match Dossier::open(dir) {
            Ok(dossier) => dossier,
            Err(_) if machine.is_off() => return None,
            // A power cut leaves no other: a damaged journal must never look like an unsealed one,
            // nor the other way round.
            Err(JournalError::NotSealed) => return Some(Side::Before),
            // A place of it that cannot be read: that was being written when the power went, so it
            // was not sealed yet.
            Err(JournalError::Io { .. }) => return Some(Side::Before),
            Err(e) => panic!("{}: {e}", self.name),
        };
        match dossier.journal.state() {
            Ok(JournalState::Hot) => {}
            Ok(JournalState::Closed(Closed::Applied, _)) => return Some(Side::After),
            Ok(JournalState::Closed(..)) => return Some(Side::Before),
            Err(_) if machine.is_off() => return None,
            Err(e) => panic!("{}: {e}", self.name),
        }
        match dossier.recover(&self.hands(&SimMedia(disk.clone())), toward) {
            Ok(Recovered::Applied) => Some(Side::After),
            Ok(Recovered::RolledBack) => Some(Side::Before),
            Err(_) if machine.is_off() => None,
            Err(e) => panic!("{}: not recovered: {e:?}", self.name),
        }
    }

    /// As [`Scene::check`]. A misdirected write may have hit bytes that nobody uses, which no
    /// snapshot covers: then all that is in use, and all of the delta, must be right.
    fn check_used(&self, disk: &SimDisk, side: Side, fault: Fault, place: &str) {
        if fault != MISDIRECTED {
            return self.check(disk, side, place);
        }
        let (used, want) = match side {
            Side::Before => (&self.used_before, &self.before[..]),
            Side::After => (&self.used_after, &self.after[..]),
        };
        let content = disk.content();
        for e in used
            .union(&self.delta())
            .iter()
            .filter(|e| e.end() <= want.len() as u64)
        {
            let range = e.start as usize..e.end() as usize;
            assert!(
                content[range.clone()] == want[range],
                "{}: {e}: {place}",
                self.name
            );
        }
    }

    /// Whoever finds an open superblock after a cut finds all as it was, or all as it is to be. Only
    /// the unit that is written with the superblock may have a garbled sector.
    fn check_open_is_whole(&self, disk: &SimDisk, where_: &str) {
        let content = disk.content();
        let place = (self.partition + 1024) as usize;
        if self.toy.gate(&content[place..place + 1024]) == GateState::Open {
            let rest = |bytes: &[u8]| {
                let unit = self.unit.start as usize..self.unit.end() as usize;
                [&bytes[..unit.start], &bytes[unit.end..]].concat()
            };
            assert!(
                [&self.before[..], &self.after]
                    .iter()
                    .any(|side| rest(side) == rest(&content)),
                "{}: open, and neither before nor after: {where_}",
                self.name
            );
        }
    }

    fn check(&self, disk: &SimDisk, side: Side, where_: &str) {
        let want = if side == Side::Before {
            &self.before[..]
        } else {
            &self.after[..]
        };
        assert!(
            disk.content() == want,
            "{}: not byte-identical to {side:?}: {where_}",
            self.name
        );
    }
}

/// The simulated disk as the journal's target.
struct SimMedia(SimDisk);

impl Media for SimMedia {
    fn writer(&self) -> io::Result<Box<dyn Disk>> {
        Ok(Box::new(self.0.clone()))
    }
    fn views(&self) -> io::Result<Vec<View>> {
        let extent = Extent::new(0, self.0.len_bytes());
        Ok(vec![View {
            name: "the disk".into(),
            extent,
            reader: Box::new(self.0.clone()),
        }])
    }
    fn announce(&self, _: Side) -> Result<(), String> {
        Ok(())
    }
}

/// The same on a host that has no room for the holes of an image.
struct FullHost(SimMedia);

impl Media for FullHost {
    fn writer(&self) -> io::Result<Box<dyn Disk>> {
        panic!("opened for writing without the room for it");
    }
    fn reserve(&self, extents: &ExtentMap) -> io::Result<()> {
        assert!(extents.total_bytes() > UNIT, "the gate and more");
        Err(io::ErrorKind::StorageFull.into())
    }
    fn views(&self) -> io::Result<Vec<View>> {
        self.0.views()
    }
    fn announce(&self, side: Side) -> Result<(), String> {
        self.0.announce(side)
    }
}

fn cut(at: u64) -> Script {
    Script {
        cut_at: Some(at),
        ..Script::default()
    }
}

#[test]
fn without_a_cut_everything_is_applied() {
    for scene in Scene::all() {
        let (_, disk, dir) = scene.machine();
        assert_eq!(
            scene.commit(&disk, &dir),
            Some(Outcome::Applied),
            "{}",
            scene.name
        );
        scene.check(&disk, Side::After, "no cut");
    }
}

#[test]
fn p1_a_full_host_is_found_before_the_first_write() {
    for scene in Scene::all() {
        let (_, disk, dir) = scene.machine();
        match scene.commit_on(&FullHost(SimMedia(disk.clone())), &dir) {
            Some(Outcome::RolledBack { cause }) => {
                assert!(cause.starts_with("reserving space in the image"), "{cause}");
            }
            other => panic!("{}: {other:?}", scene.name),
        }
        scene.check(&disk, Side::Before, "nothing was written");
        let state = Dossier::open(&dir).unwrap().journal.state().unwrap();
        assert_eq!(state, JournalState::Closed(Closed::RolledBack, 1));
    }
}

/// Every cut of the commit, every cut of its recovery, and then a recovery in peace.
#[test]
fn p3_every_cut_and_every_cut_of_the_recovery() {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for scene in Scene::all() {
        let (machine, disk, dir) = scene.machine();
        scene.commit(&disk, &dir);
        let operations = machine.operations();
        for at in 0..operations {
            for survival in Survival::ALL {
                for toward in [Side::Before, Side::After] {
                    cut_twice(&scene, at, survival, toward, &mut counts);
                }
            }
        }
        *counts.entry("cut points").or_default() += operations;
    }
    println!("{counts:?}");
    assert!(
        counts["old"] > 1000 && counts["new"] > 1000,
        "both ends are reached: {counts:?}"
    );
}

fn cut_twice(
    scene: &Scene,
    at: u64,
    survival: Survival,
    toward: Side,
    counts: &mut BTreeMap<&'static str, u64>,
) {
    let (machine, disk, dir) = scene.machine();
    machine.follow(cut(at));
    scene.commit(&disk, &dir);
    let seed = at * 31 + survival as u64;
    machine.restart(survival, seed);
    scene.check_open_is_whole(&disk, &format!("cut at {at}, {survival:?}, seed {seed}"));
    let mut second = 0;
    loop {
        let again = machine.fork();
        let (disk, dir) = (again.disk(&disk), again.dir(&dir));
        again.follow(cut(second));
        let mut side = scene.recover(&again, &disk, &dir, toward);
        let completed = side.is_some() && !again.is_off();
        let place =
            format!("cut at {at}, again at {second}, {survival:?}, toward {toward:?}, seed {seed}");
        if !completed {
            again.restart(survival, seed * 131 + second);
            scene.check_open_is_whole(&disk, &place);
            side = scene.recover(&again, &disk, &dir, toward);
        }
        let side = side.unwrap_or_else(|| panic!("{}: no end: {place}", scene.name));
        scene.check(&disk, side, &place);
        *counts.entry("states").or_default() += 1;
        *counts
            .entry(if side == Side::Before { "old" } else { "new" })
            .or_default() += 1;
        // Recovery is over once and for all: a second one finds nothing to do.
        let after = scene.recover(&again, &disk, &dir, toward);
        assert_eq!(after, Some(side), "{}: {place}", scene.name);
        if completed {
            break;
        }
        second += 1;
    }
}

/// Scenes in whose second half there was nothing, and nothing that a snapshot covers: a reader that
/// pads what is missing would find it as it was.
fn with_an_empty_half() -> impl Iterator<Item = (Scene, Extent)> {
    let devices = Scene::all().into_iter().filter(|scene| !scene.is_file);
    devices.map(|mut scene| {
        let half = scene.before.len() / 2 / UNIT as usize * UNIT as usize;
        Arc::make_mut(&mut scene.before)[half..].fill(0);
        let first = Extent::new(0, half as u64);
        scene.used_before = scene.used_before.within(first).collect();
        scene.used_after = scene.used_after.within(first).collect();
        (scene, first)
    })
}

/// The second half takes what is written, and cannot be looked at.
struct HalfSeen(SimDisk, Extent);

impl Media for HalfSeen {
    fn writer(&self) -> io::Result<Box<dyn Disk>> {
        SimMedia(self.0.clone()).writer()
    }
    fn views(&self) -> io::Result<Vec<View>> {
        Ok(vec![View {
            name: "half of the disk".into(),
            extent: self.1,
            reader: Box::new(Window::new(Arc::new(self.0.clone()), self.1)?),
        }])
    }
    fn announce(&self, _: Side) -> Result<(), String> {
        Ok(())
    }
}

/// P4: what lies behind the end of a device that has shrunk was not read back.
#[test]
fn p4_a_half_that_cannot_be_seen_is_not_proven() {
    for (scene, half) in with_an_empty_half() {
        let (_, disk, dir) = scene.machine();
        let outcome = scene.commit_on(&HalfSeen(disk.clone(), half), &dir);
        assert!(
            matches!(outcome, Some(Outcome::Stuck { .. })),
            "{}: {outcome:?}",
            scene.name
        );
    }
}

/// A device that gives no read any more may have the gate, and it is not put at risk.
#[test]
fn p3_a_gate_that_cannot_be_read_is_left_alone() {
    for scene in Scene::all() {
        let (machine, disk, dir) = scene.machine();
        scene.commit(&disk, &dir);
        for at in 0..machine.operations() {
            for later in 1..4 {
                let (machine, disk, dir) = scene.machine();
                machine.follow(Script {
                    cut_at: Some(at + later),
                    faults: [(at, Fault::Gone)].into(),
                    ..Script::default()
                });
                scene.commit(&disk, &dir);
                machine.restart(Survival::Unreadable, at);
                let place = format!("gone at {at}, cut {later} later");
                let side = scene.recover(&machine, &disk, &dir, Side::Before).unwrap();
                scene.check(&disk, side, &place);
            }
        }
    }
}

/// A device that loses its second half while it is written, and has it again after the next start.
#[test]
fn p3_a_device_that_shrinks_is_not_called_rolled_back() {
    let mut states = 0;
    for (scene, _) in with_an_empty_half() {
        let (machine, disk, dir) = scene.machine();
        scene.commit(&disk, &dir);
        let operations = machine.operations();
        for shrinks in 0..operations {
            for later in 1..=operations {
                let (machine, disk, dir) = scene.machine();
                machine.follow(Script {
                    cut_at: Some(shrinks + later),
                    faults: [(shrinks, Fault::Shrunk)].into(),
                    ..Script::default()
                });
                scene.commit(&disk, &dir);
                machine.restart(Survival::KeepAll, shrinks);
                let place = format!("shrinks at {shrinks}, cut {later} later");
                scene.check_open_is_whole(&disk, &place);
                let side = scene.recover(&machine, &disk, &dir, Side::Before).unwrap();
                scene.check(&disk, side, &place);
                states += 1;
            }
        }
    }
    assert!(states > 1000, "{states}");
}

/// A rollback on purpose, cut everywhere.
#[test]
fn p3_every_cut_of_a_rollback_on_purpose() {
    for scene in Scene::all() {
        let (machine, disk, dir) = scene.machine();
        scene.commit(&disk, &dir);
        machine.restart(Survival::LoseAll, 1);
        scene.check(&disk, Side::After, "what is reported as done is durable");
        let mut at = 0;
        loop {
            let mut done = false;
            for survival in Survival::ALL {
                let again = machine.fork();
                let (disk, dir) = (again.disk(&disk), again.dir(&dir));
                again.follow(cut(at));
                let dossier = Dossier::open(&dir).unwrap();
                let result = dossier.roll_back(&scene.hands(&SimMedia(disk.clone())));
                if !again.is_off() {
                    result.unwrap();
                    scene.check(&disk, Side::Before, "rolled back");
                    done = true;
                }
                again.restart(survival, at * 7 + 1);
                let place = format!("rollback cut at {at}, {survival:?}");
                scene.check_open_is_whole(&disk, &place);
                let side = scene.recover(&again, &disk, &dir, Side::Before).unwrap();
                scene.check(&disk, side, &place);
            }
            if done {
                break;
            }
            at += 1;
        }
        assert!(at > 8, "{}: the rollback was cut {at} times", scene.name);
    }
}

/// An error at every operation of the commit: rolled back, or, where the target refuses the
/// rollback too, stuck with the gate closed until the device works again.
#[test]
fn an_error_at_every_operation_ends_in_a_known_state() {
    for scene in Scene::all() {
        let (machine, disk, dir) = scene.machine();
        scene.commit(&disk, &dir);
        let operations = machine.operations();
        let (mut stuck, mut not_closed) = (0, 0);
        for at in 0..operations {
            for fault in [
                Fault::Error,
                Fault::ErrorFromNowOn,
                Fault::NoSpace,
                Fault::LostWrite,
                MISDIRECTED,
            ] {
                let (machine, disk, dir) = scene.machine();
                let faults = [(at, fault)].into_iter().collect();
                machine.follow(Script {
                    faults,
                    ..Script::default()
                });
                let outcome = scene.commit(&disk, &dir);
                let place = format!("{fault:?} at {at}");
                machine.restart(Survival::LoseAll, at);
                match outcome {
                    None => scene.check(&disk, Side::Before, &place),
                    Some(Outcome::RolledBack { .. }) => {
                        scene.check_used(&disk, Side::Before, fault, &place)
                    }
                    Some(Outcome::Applied) => scene.check_used(&disk, Side::After, fault, &place),
                    Some(Outcome::Stuck { differing, .. }) if fault == MISDIRECTED => {
                        assert!(
                            !differing.is_empty(),
                            "{}: it says where: {place}",
                            scene.name
                        );
                        stuck += 1;
                    }
                    Some(Outcome::NotClosed { .. }) => {
                        scene.check_used(&disk, Side::After, fault, &place);
                        let side = scene.recover(&machine, &disk, &dir, Side::Before);
                        assert_eq!(side, Some(Side::After), "{place}");
                        not_closed += 1;
                    }
                    Some(Outcome::Stuck { .. }) => {
                        stuck += 1;
                        let side = scene.recover(&machine, &disk, &dir, Side::Before);
                        scene.check(&disk, side.unwrap(), &place);
                    }
                }
            }
        }
        assert!(not_closed > 0, "{}", scene.name);
        assert!(
            stuck > 0,
            "{}: a device that stays broken was tried",
            scene.name
        );
    }
}

/// P4: a write that was acknowledged and lost is found by reading back.
#[test]
fn p4_a_lost_write_is_found() {
    let scene = &Scene::all()[0];
    let (machine, disk, dir) = scene.machine();
    scene.commit(&disk, &dir);
    let operations = machine.operations();
    let mut found = 0;
    for at in 0..operations {
        let (machine, disk, dir) = scene.machine();
        let faults = [(at, Fault::LostWrite)].into_iter().collect();
        machine.follow(Script {
            faults,
            ..Script::default()
        });
        match scene.commit(&disk, &dir) {
            Some(Outcome::RolledBack { cause }) => {
                assert!(cause.contains("something else than was written"), "{cause}");
                scene.check(&disk, Side::Before, "a lost write");
                found += 1;
            }
            Some(Outcome::Applied) => scene.check(&disk, Side::After, "a lost write"),
            Some(Outcome::NotClosed { .. } | Outcome::Stuck { .. }) | None => {}
        }
    }
    // Gate, backup table, table, two runs of blocks, superblock.
    assert_eq!(found, 6);
}

/// Somebody opens the gate by force, or writes to the target before recovery.
#[test]
fn p3_an_intruder_is_named_and_nothing_is_made_worse() {
    for scene in Scene::all() {
        let (machine, disk, dir) = scene.machine();
        scene.commit(&disk, &dir);
        let operations = machine.operations();
        let (mut refused, mut tried) = (0, 0);
        for at in 0..operations {
            let (machine, disk, dir) = scene.machine();
            machine.follow(cut(at));
            scene.commit(&disk, &dir);
            machine.restart(Survival::KeepAll, at);
            let Ok(dossier) = Dossier::open(&dir) else {
                continue;
            };
            if dossier.journal.state().unwrap() != JournalState::Hot {
                continue;
            }
            // A mount through a forced gate: a new valid superblock, and a block in use changes.
            disk.tamper(scene.partition + 1024, &scene.toy.superblock_of(10, 0x33));
            disk.tamper(6 * UNIT + 100, b"mail that arrived meanwhile");
            let as_found = disk.content();
            tried += 1;
            let result = dossier.recover(&scene.hands(&SimMedia(disk.clone())), Side::Before);
            match result {
                Err(RecoverError::Changed { extents, .. }) => {
                    assert!(!extents.is_empty());
                    refused += 1;
                }
                other => panic!("{}: cut at {at}: {other:?}", scene.name),
            }
            assert!(disk.content() == as_found, "nothing was written");
        }
        assert!(
            tried > 5 && refused == tried,
            "{}: {refused} of {tried}",
            scene.name
        );
    }
}

/// Used since: a rollback on purpose is refused.
#[test]
fn a_target_in_use_is_not_rolled_back() {
    let scene = &Scene::all()[0];
    for (offset, inside) in [
        (6 * UNIT, true),
        (4 * UNIT, true),
        (0, true),
        (3 * UNIT, false),
    ] {
        let (_, disk, dir) = scene.machine();
        scene.commit(&disk, &dir);
        disk.tamper(offset, b"new mail");
        let as_found = disk.content();
        let dossier = Dossier::open(&dir).unwrap();
        let result = dossier.roll_back(&scene.hands(&SimMedia(disk.clone())));
        match result {
            Err(RecoverError::Changed { .. }) if inside => assert!(disk.content() == as_found),
            Ok(()) if !inside => {}
            other => panic!("byte {offset}: {other:?}"),
        }
    }
}

/// The journal is checked from the first byte to the last before anything is written.
#[test]
fn a_damaged_journal_writes_nothing() {
    let scene = &Scene::all()[2];
    let (machine, disk, dir) = scene.machine();
    scene.commit(&disk, &dir);
    let operations = machine.operations();
    // Cut in the middle of the apply: the gate stands.
    let (machine, disk, dir) = scene.machine();
    machine.follow(cut(operations - 6));
    scene.commit(&disk, &dir);
    machine.restart(Survival::KeepAll, 3);
    let as_found = disk.content();
    let file = dir.open("journal").unwrap();
    let len = file.len_bytes();
    let mut slots = 0;
    for offset in (0..len).step_by(61) {
        let mut byte = [0];
        file.read_at(offset, &mut byte).unwrap();
        file.write_at(offset, &[byte[0] ^ 0x40]).unwrap();
        match Dossier::open(&dir) {
            Err(_) => {}
            Ok(_) => slots += 1,
        }
        assert!(disk.content() == as_found);
        file.write_at(offset, &byte).unwrap();
    }
    // Only the eight state slots behind the commit record are outside its hash.
    assert!(
        slots <= 8 * 4096 / 61 + 1,
        "{slots} damaged bytes went unnoticed"
    );
    assert!(Dossier::open(&dir).is_ok());
}

/// A journal whose medium gives other bytes the second time: what is read is checked when it is
/// used, not only when the journal is opened.
struct Rotten {
    file: Arc<dyn Disk>,
    /// The byte that is wrong in every short read: the whole of it is read in long ones.
    at: u64,
    long: usize,
}

impl DiskRead for Rotten {
    fn geometry(&self) -> holdfast::disk::Geometry {
        self.file.geometry()
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.file.read_at(offset, buf)?;
        if let Some(at) = self
            .at
            .checked_sub(offset)
            .filter(|&at| at < buf.len() as u64)
            && buf.len() < self.long
        {
            buf[at as usize] ^= 4;
        }
        Ok(())
    }
}

impl Disk for Rotten {
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_at(offset, data)
    }
    fn flush(&self) -> io::Result<()> {
        self.file.flush()
    }
    fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        self.file.set_len(len_bytes)
    }
}

#[test]
fn a_journal_that_rots_between_two_reads_writes_nothing_wrong() {
    let scene = &Scene::all()[0];
    let (machine, disk, dir) = scene.machine();
    scene.commit(&disk, &dir);
    let operations = machine.operations();
    let (machine, disk, dir) = scene.machine();
    machine.follow(cut(operations - 8));
    scene.commit(&disk, &dir);
    machine.restart(Survival::KeepAll, 3);
    let file = dir.open("journal").unwrap();
    let long = file.len_bytes() as usize / 2;
    let (mut at_open, mut at_use) = (0, 0);
    // Every byte of the index, which is the last block before the commit record.
    let commit = file.len_bytes() - 9 * 4096;
    let index = commit - 4096..commit - 4096 + 7 * 36;
    for at in (4096..commit).step_by(97).chain(index) {
        let again = machine.fork();
        let disk = again.disk(&disk);
        let file = again.dir(&dir).open("journal").unwrap();
        let rotten = Arc::new(Rotten { file, at, long });
        let before = Dossier::open(&again.dir(&dir)).unwrap().before;
        match holdfast::journal::Journal::open(rotten) {
            Err(JournalError::Damaged(_)) => at_open += 1,
            Err(e) => panic!("byte {at}: {e}"),
            Ok(journal) => {
                let dossier = Dossier {
                    journal,
                    before,
                    after: None,
                };
                match dossier.recover(&scene.hands(&SimMedia(disk.clone())), Side::Before) {
                    // A byte between the records, or of a side that is not needed.
                    Ok(_) => scene.check(&disk, Side::Before, &format!("byte {at}")),
                    Err(_) => {
                        at_use += 1;
                        // Nothing was written in the wrong place: the sound journal mends it all.
                        let dir = again.dir(&dir);
                        let side = scene.recover(&again, &disk, &dir, Side::Before);
                        scene.check(&disk, side.unwrap(), &format!("byte {at}, then sound"));
                    }
                }
            }
        }
    }
    assert!(
        at_open > 0 && at_use > 50,
        "{at_open} when opened, {at_use} when used"
    );
}

/// Somebody who has asked to stop, and asks again and again.
struct Impatient;

impl Report for Impatient {
    fn phase(&self, _: &str, _: Option<u64>, _: Unit) {}
    fn progress(&self, _: u64) {}
    fn notice(&self, _: &str) {}
    fn interrupted(&self) -> bool {
        true
    }
}

/// A sealed and hot scene of which nothing has been applied, or all but the last `left` operations.
fn hot(scene: &Scene, left: u64) -> (Machine, SimDisk, SimDir) {
    let (machine, disk, dir) = scene.machine();
    scene.commit(&disk, &dir);
    let operations = machine.operations();
    let (machine, disk, dir) = scene.machine();
    machine.follow(cut(operations - left));
    scene.commit(&disk, &dir);
    machine.restart(Survival::KeepAll, 1);
    (machine, disk, dir)
}

/// A signal after the commit point stops nothing: neither the commit nor its verification, and
/// not the rollback or the recovery either.
#[test]
fn after_the_commit_point_nobody_can_stop_it() {
    let scene = &Scene::all()[0];
    // The power goes before the gate: sealed, hot, untouched.
    let (_, disk, dir) = (0..)
        .map(|left| hot(scene, left))
        .find(|(_, disk, _)| disk.content() == scene.before[..])
        .unwrap();
    let dossier = Dossier::open(&dir).unwrap();
    let media = SimMedia(disk.clone());
    let outcome = dossier.commit(&scene.hands_with(&media, &Impatient));
    assert_eq!(outcome, Outcome::Applied);
    scene.check(&disk, Side::After, "asked to stop");
    let (_, disk, dir) = hot(scene, 6);
    let dossier = Dossier::open(&dir).unwrap();
    let media = SimMedia(disk.clone());
    let ended = dossier.recover(&scene.hands_with(&media, &Impatient), Side::Before);
    assert_eq!(ended.unwrap(), Recovered::RolledBack);
    scene.check(&disk, Side::Before, "asked to stop");
}

/// The gate keeps nobody from the partition table. Who has changed it meanwhile is named, and his
/// work is not undone.
#[test]
fn p3_a_table_that_somebody_changed_behind_the_gate_is_left_alone() {
    for scene in Scene::all().iter().filter(|s| s.front.is_some()) {
        let mut tried = 0;
        for left in 0..30 {
            let (_, disk, dir) = hot(scene, left);
            let Ok(dossier) = Dossier::open(&dir) else {
                break;
            };
            if dossier.journal.state().unwrap() != JournalState::Hot {
                continue;
            }
            tried += 1;
            // A tool writes both copies.
            disk.tamper(100, b"another entry");
            disk.tamper(disk.len_bytes() - UNIT + 100, b"another entry");
            let as_found = disk.content();
            let media = SimMedia(disk.clone());
            match dossier.recover(&scene.hands(&media), Side::Before) {
                Err(RecoverError::Changed { extents, .. }) => assert!(!extents.is_empty()),
                other => panic!("{}: {left} left: {other:?}", scene.name),
            }
            assert!(disk.content() == as_found, "nothing was written");
        }
        assert!(tried > 8, "{}: {tried}", scene.name);
    }
}

/// An image that somebody has lengthened meanwhile is not cut off, with or without a gate, nor by
/// a rollback on purpose.
#[test]
fn p3_bytes_behind_the_end_are_not_cut_off() {
    for scene in Scene::all().iter().filter(|s| s.is_file) {
        let longer = scene.after.len() as u64 + 3 * UNIT;
        for left in 0..30 {
            let (_, disk, dir) = hot(scene, left);
            let Ok(dossier) = Dossier::open(&dir) else {
                break;
            };
            disk.set_len(longer).unwrap();
            disk.tamper(longer - 100, b"somebody's");
            let as_found = disk.content();
            let media = SimMedia(disk.clone());
            let hands = scene.hands(&media);
            let result = match dossier.journal.state().unwrap() {
                JournalState::Hot => dossier.recover(&hands, Side::Before).map(|_| ()),
                JournalState::Closed(..) => dossier.roll_back(&hands),
            };
            assert!(
                matches!(result, Err(RecoverError::Changed { .. })),
                "{}: {left} left: {result:?}",
                scene.name
            );
            assert!(disk.content() == as_found, "{}: {left} left", scene.name);
        }
    }
    // Where the length is no part of the transaction, a longer target does not stand in its way.
    let scene = &Scene::all()[0];
    let machine = Machine::new();
    let (disk, dir) = (
        machine.add_disk(scene.before.clone(), Length::Settable, 512),
        machine.add_dir(),
    );
    scene.commit(&disk, &dir);
    let operations = machine.operations();
    let machine = Machine::new();
    let (disk, dir) = (
        machine.add_disk(scene.before.clone(), Length::Settable, 512),
        machine.add_dir(),
    );
    machine.follow(cut(operations - 6));
    scene.commit(&disk, &dir);
    machine.restart(Survival::KeepAll, 1);
    disk.set_len(scene.before.len() as u64 + UNIT).unwrap();
    let dossier = Dossier::open(&dir).unwrap();
    let media = SimMedia(disk.clone());
    let ended = dossier.recover(&scene.hands(&media), Side::Before);
    assert_eq!(ended.unwrap(), Recovered::RolledBack);
    assert!(disk.content()[..scene.before.len()] == scene.before[..]);
}

/// A disk that lost what it had acknowledged, or a copy that was made in the middle: the gate
/// stands although the journal is closed. That is recovered all the same.
#[test]
fn p3_a_gate_is_opened_though_the_journal_is_closed() {
    for scene in Scene::all() {
        for toward in [Side::Before, Side::After] {
            let (_, half, _) = hot(&scene, 6);
            let (_, disk, dir) = scene.machine();
            scene.commit(&disk, &dir);
            let content = half.content();
            disk.set_len(content.len() as u64).unwrap_or_default();
            disk.tamper(0, &content);
            let dossier = Dossier::open(&dir).unwrap();
            let media = SimMedia(disk.clone());
            dossier.recover(&scene.hands(&media), toward).unwrap();
            scene.check(&disk, toward, "a gate behind a closed journal");
            let closed = match toward {
                Side::Before => Closed::RolledBack,
                Side::After => Closed::Applied,
            };
            let state = dossier.journal.state().unwrap();
            assert_eq!(state, JournalState::Closed(closed, 1));
        }
    }
}

/// The state slots of a journal are few. Before they run out, nothing is begun that could not be
/// closed.
#[test]
fn what_could_not_be_closed_is_not_begun() {
    let scene = &Scene::all()[0];
    let (_, disk, dir) = scene.machine();
    scene.commit(&disk, &dir);
    let media = SimMedia(disk.clone());
    let hands = scene.hands(&media);
    let half = hot(scene, 6).1.content();
    let mut rounds = 0;
    loop {
        let dossier = Dossier::open(&dir).unwrap();
        disk.tamper(0, &half);
        match dossier.recover(&hands, Side::After) {
            Ok(_) => rounds += 1,
            Err(RecoverError::Journal(_)) => break,
            Err(e) => panic!("{e}"),
        }
        let state = dossier.journal.state().unwrap();
        assert_eq!(state, JournalState::Closed(Closed::Applied, 1));
    }
    assert!(rounds >= 3);
    assert!(disk.content() == half, "the last one wrote nothing");
}

/// The target is at its end, and the journal cannot be closed: that must not look like an error
/// before any write.
#[test]
fn a_recovery_that_cannot_be_closed_says_so() {
    let scene = &Scene::all()[0];
    let (machine, disk, dir) = hot(scene, 6);
    let probe = machine.fork();
    scene.recover(&probe, &probe.disk(&disk), &probe.dir(&dir), Side::Before);
    // The last two operations write and flush the closing record.
    for back in [1, 2] {
        let again = machine.fork();
        let (disk, dir) = (again.disk(&disk), again.dir(&dir));
        again.follow(Script {
            faults: [(probe.operations() - back, Fault::Error)].into(),
            ..Script::default()
        });
        let dossier = Dossier::open(&dir).unwrap();
        let media = SimMedia(disk.clone());
        match dossier.recover(&scene.hands(&media), Side::Before) {
            Err(RecoverError::Stuck { what, .. }) => assert!(what.contains("compared, but")),
            other => panic!("{other:?}"),
        }
        scene.check(&disk, Side::Before, "not closed");
    }
}

fn failing(read: u64) -> Script {
    Script {
        failing_read: Some(read),
        ..Script::default()
    }
}

/// An error at every read of the commit, and at every read of a recovery.
#[test]
fn an_error_at_every_read_ends_in_a_known_state() {
    for scene in Scene::all() {
        let (machine, disk, dir) = scene.machine();
        scene.commit(&disk, &dir);
        let reads = machine.reads();
        let mut rolled_back = 0;
        for at in 0..reads {
            let (machine, disk, dir) = scene.machine();
            machine.follow(failing(at));
            let outcome = scene.commit(&disk, &dir);
            machine.restart(Survival::LoseAll, at);
            let side = match outcome {
                None | Some(Outcome::RolledBack { .. }) => Side::Before,
                Some(Outcome::Applied | Outcome::NotClosed { .. }) => Side::After,
                Some(Outcome::Stuck { .. }) => {
                    scene.recover(&machine, &disk, &dir, Side::Before).unwrap()
                }
            };
            scene.check(&disk, side, &format!("read {at} of the commit fails"));
            rolled_back += u64::from(matches!(outcome, Some(Outcome::RolledBack { .. })));
        }
        assert!(rolled_back > 3, "{}: {rolled_back} of {reads}", scene.name);
        for (left, toward) in [(6, Side::Before), (6, Side::After), (3, Side::Before)] {
            let (machine, disk, dir) = hot(&scene, left);
            let probe = machine.fork();
            probe.follow(Script::default());
            scene.recover(&probe, &probe.disk(&disk), &probe.dir(&dir), toward);
            for at in 0..probe.reads() {
                let again = machine.fork();
                let (disk, dir) = (again.disk(&disk), again.dir(&dir));
                again.follow(failing(at));
                if let Ok(dossier) = Dossier::open(&dir) {
                    let media = SimMedia(disk.clone());
                    let _ = dossier.recover(&scene.hands(&media), toward);
                }
                again.restart(Survival::LoseAll, at);
                let side = scene.recover(&again, &disk, &dir, toward).unwrap();
                scene.check(&disk, side, &format!("read {at} of the recovery fails"));
            }
        }
    }
}

/// The snapshot is lost. Behind the gate the records suffice, and a notice says so; without a gate
/// nothing is written.
#[test]
fn without_its_snapshot_only_a_gate_lets_recovery_write() {
    let scene = &Scene::all()[0];
    let (_, disk, dir) = hot(scene, 6);
    dir.remove("before.manifest").unwrap();
    let notices = Collect::default();
    let media = SimMedia(disk.clone());
    let dossier = Dossier::open(&dir).unwrap();
    let ended = dossier.recover(&scene.hands_with(&media, &notices), Side::Before);
    assert_eq!(ended.unwrap(), Recovered::RolledBack);
    scene.check(&disk, Side::Before, "without a snapshot");
    assert!(notices.notices().iter().any(|n| n.contains("snapshot")));
    // The superblock is new, the closing record is missing: there is no gate.
    let (_, disk, dir) = (0..)
        .map(|left| hot(scene, left))
        .find(|(_, disk, dir)| {
            let dossier = Dossier::open(dir).unwrap();
            disk.content() == scene.after && dossier.journal.state().unwrap() == JournalState::Hot
        })
        .unwrap();
    dir.remove("before.manifest").unwrap();
    let dossier = Dossier::open(&dir).unwrap();
    let media = SimMedia(disk.clone());
    let ended = dossier.recover(&scene.hands(&media), Side::Before);
    assert!(matches!(ended, Err(RecoverError::NoSnapshot)), "{ended:?}");
    scene.check(&disk, Side::After, "nothing was written");
}
