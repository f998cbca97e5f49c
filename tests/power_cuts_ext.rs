//! P3 on real file systems: the journal that the program wrote for a real grow or shrink is sealed
//! and committed once more in the simulator, by the same code and the real driver, with power cuts
//! at random places, in the recovery too, and in the recovery of that. After each cut: a mixture
//! stands behind the gate, `e2fsck -p` refuses it, at least one copy of a GPT is whole, and an MBR
//! of which no sector is torn is a healthy one. In the end: byte for byte as before or as after.
//!
//! `HOLDFAST_SEEDS=N` tries so many, `HOLDFAST_MINUTES=N` goes on for so long, and
//! `HOLDFAST_SEED=N` begins with that one. A failure prints its seed. Needs root, for the rehearsal.

// A test stops at the first surprise.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use holdfast::disk::{Dir, Disk, DiskRead, HostDir, MemoryDisk};
use holdfast::extent::{Extent, ExtentMap};
use holdfast::fs::{Driver, GateState, TransactionId, driver};
use holdfast::journal::{
    Closed, Draft, Journal, JournalError, JournalState, Media, Recovered, Side, Step, View,
};
use holdfast::report::Quiet;
use holdfast::sim::{Fault, Length, Machine, Rng, Script, SimDir, SimDisk, Survival};
use holdfast::snapshot::Manifest;
use holdfast::table::{self, Found};
use holdfast::transaction::dossier::{Dossier, Hands};

/// Name, arguments of `images/make`, arguments of the change, logical sector.
const CASES: &[(&str, &str, &str, usize)] = &[
    (
        "ext4 grows",
        "small-gpt --fs 10M --disk 14M --messages 30",
        "grow --to max -p 2",
        512,
    ),
    (
        "ext4 shrinks",
        "small-gpt --fs 12M --disk 16M --messages 30",
        "shrink --to 9MiB -p 2",
        512,
    ),
    (
        "4096-byte sectors",
        "small-4k --fs 8M --disk 14M --messages 30",
        "grow --to max -p 2",
        4096,
    ),
    (
        "an image that grows",
        "small-gpt --fs 6M --disk 10M --messages 30",
        "grow --to max --disk-size 14MiB -p 2",
        512,
    ),
    (
        "without checksums, an image that grows",
        "small-old --fs 6M --disk 10M --messages 30",
        "grow --to max --disk-size 14MiB -p 2",
        512,
    ),
    (
        "ext2 shrinks",
        "small-ext2 --fs 12M --disk 16M --messages 30",
        "shrink --to 9MiB -p 2",
        512,
    ),
    (
        "the last logical partition of an MBR",
        "small-gpt --layout logical --fs 6M --disk 12M --messages 30",
        "grow --to max -p 6",
        512,
    ),
    (
        "an MBR image that grows",
        "small-old --layout mbr --fs 6M --disk 10M --messages 30",
        "grow --to max --disk-size 14MiB -p 2",
        512,
    ),
    (
        "ext3, bare",
        "small-ext3 --fs 8M --disk 12M --messages 30 --layout bare",
        "grow --to max",
        512,
    ),
];

/// Everything that a real run made.
struct Scene {
    name: &'static str,
    sector: usize,
    gpt: bool,
    /// Sectors of the MBR and its EBRs.
    mbr: Vec<usize>,
    before: Arc<Vec<u8>>,
    after: Vec<u8>,
    id: TransactionId,
    identity: String,
    superblock: Extent,
    unit: Extent,
    gate: Vec<u8>,
    /// Backup table, table, blocks.
    parts: [ExtentMap; 3],
    manifests: (Manifest, Manifest),
    ext: &'static dyn Driver,
    /// Operations without a cut: until the journal is sealed, and from there on.
    sealing: u64,
    committing: u64,
}

/// Where an MBR and its EBRs stand; empty where there is none.
fn mbr_sectors(bytes: &[u8]) -> Vec<usize> {
    match table::read(&MemoryDisk::fixed(bytes.to_vec())).unwrap() {
        Found::Mbr(mbr) => {
            let ebrs = mbr.ebr_lbas().into_iter().map(|lba| lba as usize);
            [0].into_iter().chain(ebrs).collect()
        }
        _ => Vec::new(),
    }
}

fn must(program: &str, args: &[&str]) {
    let out = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(out.status.success(), "{program} {args:?}: {out:?}");
}

impl Scene {
    /// Runs the program on a real image, and takes its journal apart.
    fn make(&(name, make, change, sector): &(&'static str, &str, &str, usize)) -> Scene {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let (image, state) = (dir.path().join("image"), dir.path().join("state"));
        let (image_text, state_text) = (image.to_str().unwrap(), state.to_str().unwrap());
        let words: Vec<&str> = make.split(' ').collect();
        let mut args = vec![words[0], image_text];
        args.extend(&words[1..]);
        must(concat!(env!("CARGO_MANIFEST_DIR"), "/images/make"), &args);
        let before = fs::read(&image).unwrap();
        let words: Vec<&str> = change.split(' ').collect();
        let mut args = vec![words[0], image_text];
        args.extend(&words[1..]);
        args.extend(["--yes", "--quiet", "--state-dir", state_text]);
        must(env!("CARGO_BIN_EXE_holdfast"), &args);
        let after = fs::read(&image).unwrap();
        assert_ne!(before, after, "{name}");
        let place = fs::read_dir(&state)
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .path();
        let files = HostDir::open(&place).unwrap();
        let journal = Journal::open(files.open("journal").unwrap()).unwrap();
        let manifest = |name| Manifest::read(&*files.open(name).unwrap()).unwrap();
        let of = |step| -> ExtentMap {
            let records = journal.records().iter().filter(|r| r.step == step);
            records.map(|r| r.extent).collect()
        };
        let gate = journal
            .records()
            .iter()
            .find(|r| r.step == Step::Gate)
            .unwrap();
        let mut scene = Scene {
            name,
            sector,
            gpt: change.contains("-p") && !make.contains("--layout"),
            mbr: mbr_sectors(&before),
            before: Arc::new(before),
            after,
            id: journal.id(),
            identity: journal.identity().into(),
            superblock: journal.superblock(),
            unit: gate.extent,
            gate: journal.content(gate, Side::After).unwrap(),
            parts: [
                of(Step::BackupTable),
                of(Step::PrimaryTable),
                of(Step::Blocks),
            ],
            manifests: (manifest("before.manifest"), manifest("after.manifest")),
            ext: driver(journal.driver()).unwrap(),
            sealing: 0,
            committing: 0,
        };
        // The whole of a GPT, sector 0 of an MBR, and the EBRs where they change.
        let written = [0, 1].map(|n| !scene.parts[n].is_empty());
        let expected = match scene.mbr[..] {
            [] => [scene.gpt, scene.gpt],
            [_] => [true, false],
            [..] => [true, true],
        };
        assert_eq!(written, expected, "{name}");
        let (machine, disk, dir) = scene.machine();
        scene.commit(&disk, &dir);
        assert!(
            disk.content() == scene.after,
            "{name}: the simulator does the same"
        );
        // The gate is the first operation on the target: without it all is still as before.
        let all = machine.operations();
        scene.sealing = (0..all)
            .find(|&at| {
                let (machine, disk, dir) = scene.machine();
                machine.follow(cut(at));
                scene.commit(&disk, &dir);
                machine.restart(Survival::KeepAll, 1);
                disk.content() != scene.before[..]
            })
            .unwrap();
        scene.committing = all - scene.sealing;
        scene
    }

    fn machine(&self) -> (Machine, SimDisk, SimDir) {
        let machine = Machine::new();
        let length = match self.before.len() == self.after.len() {
            true => Length::Fixed,
            false => Length::Settable,
        };
        let disk = machine.add_disk(self.before.clone(), length, self.sector as u32);
        let dir = machine.add_dir();
        (machine, disk, dir)
    }

    fn hands<'a>(&'a self, media: &'a dyn Media) -> Hands<'a> {
        Hands {
            media,
            driver: self.ext,
            report: &Quiet,
            now: 1,
            whole: true,
        }
    }

    fn commit(&self, disk: &SimDisk, dir: &SimDir) {
        let draft = Draft {
            id: self.id,
            identity: &self.identity,
            driver: self.ext.name(),
            superblock: self.superblock,
            superblock_unit: self.unit,
            gate: &self.gate,
            backup_table: &self.parts[0],
            primary_table: &self.parts[1],
            blocks: &self.parts[2],
        };
        let rehearsed = MemoryDisk::fixed(self.after.clone());
        let manifests = self.manifests.clone();
        if let Ok(dossier) = Dossier::seal(dir, &draft, disk, &rehearsed, manifests, &Quiet) {
            dossier.commit(&self.hands(&SimMedia(disk.clone())));
        }
    }

    /// As a restarted machine would. `None`: the power went again.
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
            Err(JournalError::NotSealed) => return Some(Side::Before),
            // A place of it that cannot be read: that was being written when the power went.
            Err(JournalError::Io { .. }) => return Some(Side::Before),
            Err(e) => panic!("{e}"),
        };
        match dossier.journal.state() {
            Ok(JournalState::Hot) => {}
            Ok(JournalState::Closed(Closed::Applied, _)) => return Some(Side::After),
            Ok(_) => return Some(Side::Before),
            Err(_) if machine.is_off() => return None,
            Err(e) => panic!("{e}"),
        }
        match dossier.recover(&self.hands(&SimMedia(disk.clone())), toward) {
            Ok(Recovered::Applied) => Some(Side::After),
            Ok(Recovered::RolledBack) => Some(Side::Before),
            Err(_) if machine.is_off() => None,
            Err(e) => panic!("not recovered: {e:?}"),
        }
    }

    /// A recovery that meets an error. It may fail; what it leaves is judged.
    fn recover_badly(&self, disk: &SimDisk, dir: &SimDir, toward: Side) {
        if let Ok(dossier) = Dossier::open(dir)
            && let Ok(JournalState::Hot) = dossier.journal.state()
        {
            let _ = dossier.recover(&self.hands(&SimMedia(disk.clone())), toward);
        }
    }

    /// What must be true after every cut.
    fn judge(&self, content: &[u8], counts: &mut BTreeMap<&'static str, u64>, scratch: &Path) {
        *counts.entry("states").or_default() += 1;
        let rest = |bytes: &[u8]| {
            let unit = self.unit.start as usize..self.unit.end() as usize;
            blake3::Hasher::new()
                .update(&bytes[..unit.start])
                .update(&bytes[unit.end..])
                .finalize()
        };
        let place = self.superblock.start as usize..self.superblock.end() as usize;
        let gate = self.ext.gate(&content[place]);
        // An extended image whose new end holds nothing yet is as good as old.
        let mut short = content.to_vec();
        short.truncate(self.before.len());
        let only_longer =
            rest(&short) == rest(&self.before) && content[short.len()..].iter().all(|&b| b == 0);
        let mixed = !only_longer && rest(content) != rest(&self.after);
        if mixed {
            *counts.entry("mixed").or_default() += 1;
            assert_eq!(gate, GateState::Closed(self.id), "a mixture without a gate");
            if counts["mixed"].is_multiple_of(61) {
                self.e2fsck_refuses(content, scratch);
                *counts.entry("seen by e2fsck").or_default() += 1;
            }
        }
        self.judge_mbr(content, counts);
        if self.gpt {
            let last = [self.before.len(), self.after.len()].map(|len| len / self.sector - 1);
            let whole = [1, last[0], last[1]].map(|lba| self.table_is_whole(content, lba));
            assert!(whole.contains(&true), "no copy of the table is whole");
            *counts.entry("one table torn").or_default() += u64::from(whole.contains(&false));
        }
    }

    /// Whichever of its sectors are old and which new: unless one is torn, or the new length of an
    /// image was lost, they make a table, with every logical partition in the extended one.
    fn judge_mbr(&self, content: &[u8], counts: &mut BTreeMap<&'static str, u64>) {
        let sector = |bytes: &[u8], lba: usize| bytes[lba * self.sector..][..512].to_vec();
        let is = |lba: usize, side: &[u8]| sector(content, lba) == sector(side, lba);
        let is_torn = |&&lba: &&usize| !is(lba, &self.before) && !is(lba, &self.after);
        let is_short = content.len() < self.after.len();
        if self.mbr.is_empty() || is_short || self.mbr.iter().filter(is_torn).count() > 0 {
            return;
        }
        let disk = MemoryDisk::fixed(content.to_vec()).with_sector_bytes(self.sector as u32);
        let found = table::read(&disk).unwrap();
        assert!(matches!(found, Found::Mbr(_)), "{found:#?}");
        let differs = |lba: &&usize| !is(**lba, &self.before);
        let changed = self.mbr.iter().filter(differs).count();
        let all = self
            .mbr
            .iter()
            .filter(|&&lba| sector(&self.before, lba) != sector(&self.after, lba));
        let partly = changed > 0 && changed < all.count();
        *counts.entry("an MBR half new").or_default() += u64::from(partly);
    }

    /// The checks of the GPT's standard: both checksums, and the header's own place.
    fn table_is_whole(&self, content: &[u8], lba: usize) -> bool {
        let at = |offset: usize, len: usize| content.get(offset..offset.checked_add(len)?);
        let u32_at = |b: &[u8], i: usize| u32::from_le_bytes(b[i..i + 4].try_into().unwrap());
        let u64_at = |b: &[u8], i: usize| u64::from_le_bytes(b[i..i + 8].try_into().unwrap());
        let check = || {
            let header = at(lba * self.sector, 92)?;
            let mut zeroed = header.to_vec();
            zeroed[16..20].fill(0);
            let good = header[..8] == *b"EFI PART"
                && crc32fast::hash(&zeroed) == u32_at(header, 16)
                && u64_at(header, 24) == lba as u64;
            let bytes = u32_at(header, 80) as usize * u32_at(header, 84) as usize;
            let entries = at(
                (u64_at(header, 72) as usize).checked_mul(self.sector)?,
                bytes,
            )?;
            Some(good && crc32fast::hash(entries) == u32_at(header, 88))
        };
        check() == Some(true)
    }

    fn e2fsck_refuses(&self, content: &[u8], scratch: &Path) {
        let file = scratch.join("seen");
        let start = self.superblock.start as usize - 1024;
        fs::write(&file, &content[start..]).unwrap();
        let out = Command::new("e2fsck")
            .arg("-p")
            .arg(&file)
            .output()
            .unwrap();
        assert_eq!(out.status.code(), Some(8), "e2fsck -p: {out:?}");
        assert!(fs::read(&file).unwrap() == content[start..], "e2fsck wrote");
    }
}

/// The simulated disk as the journal's target.
struct SimMedia(SimDisk);

impl Media for SimMedia {
    fn writer(&self) -> io::Result<Box<dyn Disk>> {
        Ok(Box::new(self.0.clone()))
    }
    fn views(&self) -> io::Result<Vec<View>> {
        Ok(vec![View {
            name: "the disk".into(),
            extent: Extent::new(0, self.0.len_bytes()),
            reader: Box::new(self.0.clone()),
        }])
    }
    fn announce(&self, _: Side) -> Result<(), String> {
        Ok(())
    }
}

fn pick<T: Copy>(rng: &mut Rng, from: &[T]) -> T {
    from[rng.below(from.len() as u64) as usize]
}

fn cut(at: u64) -> Script {
    Script {
        cut_at: Some(at),
        ..Script::default()
    }
}

const FAULTS: [Fault; 7] = [
    Fault::Error,
    Fault::ErrorFromNowOn,
    Fault::NoSpace,
    Fault::Quota,
    Fault::LostWrite,
    Fault::Gone,
    Fault::Shrunk,
];

/// What led to a failure.
type Trail = Vec<String>;

/// The first thing that happens: a commit that is cut; one that meets an error, and then is cut in
/// its rollback; or one that succeeds, and is rolled back on purpose, and is cut in that.
fn begin(
    scene: &Scene,
    rng: &mut Rng,
    (machine, disk, dir): (&Machine, &SimDisk, &SimDir),
    counts: &mut BTreeMap<&'static str, u64>,
    trail: &mut Trail,
) {
    let during = scene.sealing + rng.below(scene.committing);
    match rng.below(8) {
        // Sealing is tried less often: it leaves the target alone.
        0 => {
            let at = rng.below(scene.sealing);
            trail.push(format!("sealing cut at {at}"));
            machine.follow(cut(at));
            scene.commit(disk, dir);
        }
        1 | 2 => {
            let (fault, at) = (pick(rng, &FAULTS), during + 1 + rng.below(scene.committing));
            trail.push(format!("{fault:?} at {during}, cut at {at}"));
            machine.follow(Script {
                cut_at: Some(at),
                faults: [(during, fault)].into(),
                ..Script::default()
            });
            scene.commit(disk, dir);
            *counts.entry("errors").or_default() += 1;
        }
        3 => {
            scene.commit(disk, dir);
            machine.restart(Survival::LoseAll, 1);
            assert!(disk.content() == scene.after, "what is done is durable");
            let at = rng.below(scene.committing);
            trail.push(format!("rollback on purpose cut at {at}"));
            machine.follow(cut(at));
            if let Ok(dossier) = Dossier::open(dir) {
                let _ = dossier.roll_back(&scene.hands(&SimMedia(disk.clone())));
            }
            *counts.entry("rollbacks on purpose").or_default() += 1;
        }
        _ => {
            trail.push(format!("commit cut at {during}"));
            machine.follow(cut(during));
            scene.commit(disk, dir);
        }
    }
}

/// One history: something that is cut, recoveries that are cut or meet an error, and one in peace.
fn history(
    scene: &Scene,
    seed: u64,
    counts: &mut BTreeMap<&'static str, u64>,
    scratch: &Path,
    trail: &mut Trail,
) {
    let mut rng = Rng::new(seed);
    let sides = [Side::Before, Side::After];
    let (machine, disk, dir) = scene.machine();
    let restart = |rng: &mut Rng, trail: &mut Trail| {
        let (survival, number) = (pick(rng, &Survival::ALL), rng.next_u64());
        trail.push(format!("{survival:?} {number}"));
        machine.restart(survival, number);
    };
    begin(scene, &mut rng, (&machine, &disk, &dir), counts, trail);
    restart(&mut rng, trail);
    scene.judge(&disk.content(), counts, scratch);
    for depth in 0..rng.below(5) {
        let (at, toward) = (rng.below(scene.committing), pick(&mut rng, &sides));
        if rng.below(4) == 0 {
            let fault = pick(&mut rng, &FAULTS);
            trail.push(format!("recovery toward {toward:?}, {fault:?} at {at}"));
            machine.follow(Script {
                faults: [(at, fault)].into(),
                ..Script::default()
            });
            scene.recover_badly(&disk, &dir, toward);
            *counts.entry("errors").or_default() += 1;
        } else {
            trail.push(format!("recovery toward {toward:?} cut at {at}"));
            machine.follow(cut(at));
            scene.recover(&machine, &disk, &dir, toward);
            if !machine.is_off() {
                break;
            }
            *counts.entry("nested cuts").or_default() += 1;
            let deep = depth >= 1;
            *counts.entry("three deep and more").or_default() += u64::from(deep);
        }
        restart(&mut rng, trail);
        scene.judge(&disk.content(), counts, scratch);
    }
    machine.follow(Script::default());
    let side = scene
        .recover(&machine, &disk, &dir, pick(&mut rng, &sides))
        .unwrap();
    let (want, end) = match side {
        Side::Before => (&scene.before[..], "ended as before"),
        Side::After => (&scene.after[..], "ended as after"),
    };
    assert!(disk.content() == want, "not byte-identical to {side:?}");
    *counts.entry(end).or_default() += 1;
    let again = scene.recover(&machine, &disk, &dir, pick(&mut rng, &sides));
    assert_eq!(again, Some(side), "once and for all");
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text} is no number")),
    )
}

#[test]
fn p3_real_file_systems_end_as_before_or_as_after() {
    if std::env::var_os("HOLDFAST_WITHOUT_ROOT").is_some_and(|v| v == "1") {
        println!("left out: it needs root");
        return;
    }
    let scenes: Vec<Scene> = CASES.iter().map(Scene::make).collect();
    let first = number("HOLDFAST_SEED").unwrap_or(1);
    println!("from seed {first}");
    let seeds = number("HOLDFAST_SEEDS").unwrap_or(400);
    let end = number("HOLDFAST_MINUTES").map(|m| Instant::now() + Duration::from_secs(m * 60));
    let next = AtomicU64::new(first);
    let scratch = tempfile::tempdir_in("/var/tmp").unwrap();
    let worker = |name: u64| {
        let mut counts = BTreeMap::new();
        let place = scratch.path().join(name.to_string());
        fs::create_dir(&place).unwrap();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            let enough = match end {
                Some(end) => Instant::now() > end,
                None => seed >= first + seeds,
            };
            if enough {
                return counts;
            }
            let scene = &scenes[(seed % scenes.len() as u64) as usize];
            let mut trail = Trail::new();
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                history(scene, seed, &mut counts, &place, &mut trail);
            }));
            assert!(
                result.is_ok(),
                "{}: HOLDFAST_SEED={seed} HOLDFAST_SEEDS=1: {}",
                scene.name,
                trail.join("; ")
            );
            *counts.entry("histories").or_default() += 1;
        }
    };
    let counts = std::thread::scope(|scope| {
        let worker = &worker;
        let threads: Vec<_> = (0..2).map(|n| scope.spawn(move || worker(n))).collect();
        let mut all: BTreeMap<&str, u64> = BTreeMap::new();
        for thread in threads {
            for (name, count) in thread.join().expect("see the seed above") {
                *all.entry(name).or_default() += count;
            }
        }
        all
    });
    println!("{counts:?}");
    // In so many minutes a busy machine may do little.
    if number("HOLDFAST_SEEDS").is_none() && number("HOLDFAST_MINUTES").is_none() {
        for (name, least) in [
            ("states", 600),
            ("mixed", 200),
            ("nested cuts", 200),
            ("three deep and more", 50),
            ("errors", 60),
            ("rollbacks on purpose", 20),
            ("one table torn", 80),
            ("an MBR half new", 3),
            ("seen by e2fsck", 2),
            ("ended as before", 100),
            ("ended as after", 100),
        ] {
            let count = counts.get(name).copied().unwrap_or(0);
            assert!(count >= least, "{name}: {count}");
        }
    }
}
