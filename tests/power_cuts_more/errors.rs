//! Errors in recovery and rollback, places that cannot be read, and what is not written at all.

use std::sync::Mutex;

use super::*;

const FAULTS: [Fault; 8] = [
    Fault::Error,
    Fault::ErrorFromNowOn,
    Fault::NoSpace,
    Fault::Quota,
    Fault::LostWrite,
    Fault::Gone,
    Fault::Shrunk,
    MISDIRECTED,
];

fn script(at: u64, fault: Fault) -> Script {
    Script {
        faults: [(at, fault)].into(),
        ..Script::default()
    }
}

/// What is done to a target that is tried with an error in it.
type Act<'a> = &'a dyn Fn(&Dossier, &Hands<'_>) -> Result<Side, RecoverError>;

fn side_of(recovered: Recovered) -> Side {
    match recovered {
        Recovered::Applied => Side::After,
        Recovered::RolledBack => Side::Before,
    }
}

/// An error at every operation of `act`: it ends at a known side; or it fails before any write; or
/// it is stuck, and recovery ends it when the device works again.
fn every_error(
    scene: &Scene,
    start: (&Machine, &SimDisk, &SimDir),
    act: Act<'_>,
    counts: &mut BTreeMap<&'static str, u64>,
) {
    let (machine, disk, dir) = start;
    let probe = machine.fork();
    probe.follow(Script::default());
    let dossier = Dossier::open(&probe.dir(dir)).unwrap();
    act(&dossier, &scene.hands(&SimMedia(probe.disk(disk)))).unwrap();
    for at in 0..probe.operations() {
        for fault in FAULTS {
            let place = format!("{}: {fault:?} at {at}", scene.name);
            let again = machine.fork();
            let (disk, dir) = (again.disk(disk), again.dir(dir));
            let as_found = disk.content();
            let dossier = Dossier::open(&dir).unwrap();
            again.follow(script(at, fault));
            let result = act(&dossier, &scene.hands(&SimMedia(disk.clone())));
            again.restart(Survival::LoseAll, at);
            *counts.entry("errors").or_default() += 1;
            match &result {
                Ok(side) => scene.check_used(&disk, *side, fault, &place),
                Err(RecoverError::Stuck { extents, .. }) => {
                    *counts.entry("stuck").or_default() += 1;
                    if fault == MISDIRECTED {
                        // It may have hit what no record holds; then it says where.
                        assert!(!extents.is_empty(), "{place}");
                        continue;
                    }
                }
                // Any other error says that nothing was written.
                Err(e) => assert!(disk.content() == as_found, "{place}: {e}"),
            }
            let side = scene.recover(&again, &disk, &dir, Side::Before).unwrap();
            scene.check_used(&disk, side, fault, &place);
            if let Ok(first) = result {
                assert_eq!(first, side, "{place}");
            }
        }
    }
}

#[test]
fn an_error_at_every_operation_of_a_recovery_ends_in_a_known_state() {
    let mut counts = BTreeMap::new();
    for scene in Scene::all() {
        for left in [3, 6, 9] {
            for toward in [Side::Before, Side::After] {
                let (machine, disk, dir) = hot(&scene, left);
                let act = |dossier: &Dossier, hands: &Hands<'_>| {
                    dossier.recover(hands, toward).map(side_of)
                };
                every_error(&scene, (&machine, &disk, &dir), &act, &mut counts);
            }
        }
    }
    println!("recovery: {counts:?}");
    assert!(
        counts["errors"] > 1000 && counts["stuck"] > 100,
        "{counts:?}"
    );
}

#[test]
fn an_error_at_every_operation_of_a_rollback_ends_in_a_known_state() {
    let mut counts = BTreeMap::new();
    for scene in Scene::all() {
        let (machine, disk, dir) = scene.machine();
        scene.commit(&disk, &dir);
        machine.restart(Survival::LoseAll, 1);
        let act =
            |dossier: &Dossier, hands: &Hands<'_>| dossier.roll_back(hands).map(|()| Side::Before);
        every_error(&scene, (&machine, &disk, &dir), &act, &mut counts);
    }
    println!("rollback: {counts:?}");
    assert!(counts["errors"] > 400 && counts["stuck"] > 40, "{counts:?}");
}

/// All reads from one on fail, in a commit and in its rollback: stuck, or rolled back, or done; and
/// recovered when they work again.
#[test]
fn an_error_at_every_read_from_one_on_ends_in_a_known_state() {
    for scene in Scene::all() {
        let (machine, disk, dir) = scene.machine();
        scene.commit(&disk, &dir);
        let mut stuck = 0;
        for at in 0..machine.reads() {
            let (machine, disk, dir) = scene.machine();
            machine.follow(Script {
                failing_reads_from: Some(at),
                ..Script::default()
            });
            let outcome = scene.commit(&disk, &dir);
            machine.restart(Survival::LoseAll, at);
            let place = format!("reads from {at} on fail: {outcome:?}");
            let said = match outcome {
                None | Some(Outcome::RolledBack { .. }) => Some(Side::Before),
                Some(Outcome::Applied | Outcome::NotClosed { .. }) => Some(Side::After),
                Some(Outcome::Stuck { .. }) => None,
            };
            stuck += u64::from(said.is_none());
            if let Some(side) = said {
                scene.check(&disk, side, &place);
            }
            let side = scene.recover(&machine, &disk, &dir, Side::Before).unwrap();
            scene.check(&disk, side, &place);
        }
        assert!(stuck > 3, "{}: {stuck}", scene.name);
    }
}

/// A unit in use that the transaction does not change.
const OTHER: u64 = 6 * UNIT;

/// As `want`, but for the unit that nobody can read.
fn assert_but_for_the_lost(scene: &Scene, disk: &SimDisk, want: &[u8]) {
    let content = disk.content();
    let lost = OTHER as usize..(OTHER + UNIT) as usize;
    assert_eq!(content.len(), want.len(), "{}", scene.name);
    assert!(
        content[..lost.start] == want[..lost.start],
        "{}",
        scene.name
    );
    assert!(content[lost.end..] == want[lost.end..], "{}", scene.name);
}

/// A place in use goes bad after the snapshot: the commit cannot be proven, nor its rollback, and
/// says where. The gate stays closed, unless somebody says that he does without that place.
#[test]
fn p4_a_place_that_cannot_be_read_is_named_and_can_be_done_without() {
    for scene in Scene::all() {
        let lost = vec![Extent::new(OTHER, UNIT)];
        let (machine, disk, dir) = scene.machine();
        machine.lose(&disk, OTHER);
        match scene.commit(&disk, &dir) {
            Some(Outcome::Stuck { differing, .. }) => assert_eq!(differing, lost, "{}", scene.name),
            other => panic!("{}: {other:?}", scene.name),
        }
        for toward in [Side::Before, Side::After] {
            let again = machine.fork();
            let (disk, dir) = (again.disk(&disk), again.dir(&dir));
            let media = SimMedia(disk.clone());
            let dossier = Dossier::open(&dir).unwrap();
            match dossier.recover(&scene.hands(&media), toward) {
                Err(RecoverError::Stuck { extents, .. }) => assert_eq!(extents, lost),
                other => panic!("{}: {other:?}", scene.name),
            }
            let hands = Hands {
                whole: false,
                ..scene.hands(&media)
            };
            assert_eq!(
                dossier.recover(&hands, toward).map(side_of).unwrap(),
                toward
            );
            let want = match toward {
                Side::Before => &scene.before[..],
                Side::After => &scene.after,
            };
            assert_but_for_the_lost(&scene, &disk, want);
        }
    }
}

/// The same without a gate: the superblock is torn, and what cannot be read cannot be compared.
/// What can be read is compared all the same.
#[test]
fn p3_without_a_gate_what_cannot_be_read_is_left_out_only_when_asked() {
    for scene in Scene::all() {
        let (machine, disk, dir) = (0..)
            .map(|left| hot(&scene, left))
            .find(|(_, disk, _)| disk.content() == scene.before[..])
            .unwrap();
        disk.tamper(scene.partition + 1024, &[0x77; 1024]);
        machine.lose(&disk, OTHER);
        let media = SimMedia(disk.clone());
        let dossier = Dossier::open(&dir).unwrap();
        let as_found = disk.content();
        match dossier.recover(&scene.hands(&media), Side::Before) {
            Err(RecoverError::Unreadable { extents }) => {
                assert_eq!(extents, [Extent::new(OTHER, UNIT)]);
            }
            other => panic!("{}: {other:?}", scene.name),
        }
        assert!(disk.content() == as_found, "nothing was written");
        let notices = Collect::default();
        let hands = |report| Hands {
            whole: false,
            ..scene.hands_with(&media, report)
        };
        // Unit 4 is in use, a record, and in another chunk: somebody's work there still counts.
        let again = machine.fork();
        let changed = again.disk(&disk);
        changed.tamper(4 * UNIT + 9, b"mail");
        let media_of_changed = SimMedia(changed.clone());
        let refused = Dossier::open(&again.dir(&dir)).unwrap().recover(
            &Hands {
                media: &media_of_changed,
                ..hands(&Quiet)
            },
            Side::Before,
        );
        assert!(
            matches!(refused, Err(RecoverError::Changed { .. })),
            "{refused:?}"
        );
        let ended = dossier.recover(&hands(&notices), Side::Before);
        assert_eq!(ended.map(side_of).unwrap(), Side::Before);
        assert_but_for_the_lost(&scene, &disk, &scene.before);
        assert!(
            notices
                .notices()
                .iter()
                .any(|n| n.contains("cannot be read"))
        );
    }
}

/// Behind the gate any record may be unreadable, and all of the superblock's unit at any time: they
/// are written again.
#[test]
fn p3_a_record_that_cannot_be_read_is_written_again() {
    for scene in Scene::all() {
        for record in scene.delta().iter() {
            for toward in [Side::Before, Side::After] {
                let (machine, disk, dir) = hot(&scene, 6);
                if record.start >= disk.len_bytes() {
                    continue;
                }
                machine.lose(&disk, record.start);
                let side = scene.recover(&machine, &disk, &dir, toward).unwrap();
                scene.check(&disk, side, &format!("{record} could not be read"));
            }
        }
    }
}

/// A writer that notes where it writes.
struct Noted {
    disk: SimDisk,
    writes: Arc<Mutex<ExtentMap>>,
}

impl DiskRead for Noted {
    fn geometry(&self) -> holdfast::disk::Geometry {
        self.disk.geometry()
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.disk.read_at(offset, buf)
    }
}

impl Disk for Noted {
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let written = Extent::new(offset, data.len() as u64);
        self.writes.lock().unwrap().insert(written);
        self.disk.write_at(offset, data)
    }
    fn flush(&self) -> io::Result<()> {
        self.disk.flush()
    }
    fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        self.disk.set_len(len_bytes)
    }
}

struct NotedMedia(SimMedia, Arc<Mutex<ExtentMap>>);

impl Media for NotedMedia {
    fn writer(&self) -> io::Result<Box<dyn Disk>> {
        Ok(Box::new(Noted {
            disk: self.0.0.clone(),
            writes: self.1.clone(),
        }))
    }
    fn views(&self) -> io::Result<Vec<View>> {
        self.0.views()
    }
    fn announce(&self, side: Side) -> Result<(), String> {
        self.0.announce(side)
    }
}

/// Invariant 8: a copy of the table that is right already is not written, in either direction.
#[test]
fn a_table_that_is_right_is_not_written_again() {
    for scene in Scene::all().iter().filter(|s| s.front.is_some()) {
        let (front, back) = (scene.front.unwrap(), scene.back.unwrap());
        // The superblock's unit is written in any case.
        let tables: ExtentMap = [front, back].into_iter().collect();
        let tables = tables.difference(&[scene.unit].into_iter().collect());
        let (mut right, mut wrong) = (0, 0);
        for left in 1..24 {
            for toward in [Side::Before, Side::After] {
                let (_, disk, dir) = hot(scene, left);
                let Ok(dossier) = Dossier::open(&dir) else {
                    break;
                };
                let want = match toward {
                    Side::Before => &scene.before[..],
                    Side::After => &scene.after,
                };
                let found = disk.content();
                let is_right = |e: &Extent| {
                    let range = e.start as usize..e.end() as usize;
                    found
                        .get(range.clone())
                        .is_some_and(|now| Some(now) == want.get(range))
                };
                let (good, bad): (Vec<Extent>, Vec<Extent>) = tables.iter().partition(is_right);
                let writes = Arc::new(Mutex::new(ExtentMap::new()));
                let media = NotedMedia(SimMedia(disk.clone()), writes.clone());
                if dossier.journal.state().unwrap() != JournalState::Hot
                    || dossier
                        .recover(&scene.hands(&media), toward)
                        .map(side_of)
                        .unwrap()
                        != toward
                {
                    continue;
                }
                scene.check(&disk, toward, &format!("{left} left, toward {toward:?}"));
                let writes = writes.lock().unwrap();
                for table in good {
                    assert!(
                        !writes.intersects(table),
                        "{}: {table} was right, {left} left, toward {toward:?}",
                        scene.name
                    );
                    right += 1;
                }
                wrong += bad.len();
            }
        }
        assert!(right > 4 && wrong > 4, "{}: {right} {wrong}", scene.name);
    }
}
