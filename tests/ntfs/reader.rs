//! The reader: what it says is what others say, and no bytes make it panic.

use std::process::Command;

use holdfast::disk::{DiskRead, FileDisk, MemoryDisk};
use holdfast::extent::{Extent, ExtentMap};
use holdfast::fs::ntfs::Ntfs;
use holdfast::fs::ntfs::record::kind;
use holdfast::fs::ntfs::volume::{Volume, file};
use holdfast::fs::{Direction, Driver};
use holdfast::report::Quiet;

use super::refused::record_at;
use super::scene::{root, run, text};
use super::volume::{CROWDED, Kind, USUAL, image};

const KINDS: [Kind; 3] = [
    USUAL,
    CROWDED,
    Kind {
        sector: 4096,
        ..USUAL
    },
];

#[test]
fn it_agrees_with_blkid() {
    if !root() {
        return;
    }
    for kind in KINDS {
        let path = image(kind);
        let disk = FileDisk::open_read(&path).unwrap();
        let observed = Ntfs.probe(&disk).unwrap().unwrap();
        let field = |tag| run("blkid", &["-p", "-o", "value", "-s", tag, text(&path)]);
        assert_eq!(observed.kind, field("TYPE").trim());
        assert_eq!(observed.uuid, field("UUID").trim());
        assert_eq!(observed.label, field("LABEL").trim());
        assert_eq!(observed.size_bytes, kind.mib << 20);
    }
}

/// ntfsinfo counts free clusters, ntfscluster says who has which, and what ntfsclone copies is what
/// is in use.
#[test]
fn what_is_in_use_is_what_others_say() {
    if !root() {
        return;
    }
    for kind in KINDS {
        let path = image(kind);
        let disk = FileDisk::open_read(&path).unwrap();
        let used = Ntfs.used(&disk, &Quiet).unwrap();
        let said = run("ntfsinfo", &["-m", text(&path)]);
        let free = said.split_once("Free Clusters: ").unwrap().1;
        let free: u64 = free.split_whitespace().next().unwrap().parse().unwrap();
        let clusters = (kind.mib << 20) / u64::from(kind.cluster) - 1;
        let backup = u64::from(kind.sector);
        let expected = (clusters - free) * u64::from(kind.cluster) + backup;
        assert_eq!(used.total_bytes(), expected, "{kind:?}");
        // A copy of nothing but these bytes is the same volume to ntfsresize's count.
        let mut bytes = vec![0; disk.len_bytes() as usize];
        for extent in used.iter() {
            let range = extent.start as usize..extent.end() as usize;
            disk.read_at(extent.start, &mut bytes[range]).unwrap();
        }
        let copy = path.with_extension("copy");
        std::fs::write(&copy, bytes).unwrap();
        run("ntfsresize", &["--info", "--no-progress-bar", text(&copy)]);
        assert_eq!(super::tree::tree(&path), super::tree::tree(&copy));
        std::fs::remove_file(copy).unwrap();
    }
}

#[test]
fn the_bounds_are_those_of_ntfsresize() {
    if !root() {
        return;
    }
    for kind in KINDS {
        let path = image(kind);
        let disk = FileDisk::open_read(&path).unwrap();
        let bounds = Ntfs.bounds(&disk).unwrap();
        let said = run("ntfsresize", &["--info", "--no-progress-bar", text(&path)]);
        let least = said.split_once("You might resize at ").unwrap().1;
        let least: u64 = least.split_whitespace().next().unwrap().parse().unwrap();
        assert_eq!(bounds.min_bytes, least, "{kind:?}: {}", bounds.min_reason);
    }
}

#[test]
fn bytes_have_owners() {
    if !root() {
        return;
    }
    let path = image(USUAL);
    let disk = FileDisk::open_read(&path).unwrap();
    let owners = |extent| {
        let extents: ExtentMap = [extent].into_iter().collect();
        Ntfs.owners(&disk, &extents, 9).unwrap()
    };
    assert_eq!(owners(Extent::new(0, 1)), ["/$Boot"]);
    assert_eq!(
        owners(Extent::new((48 << 20) - 9, 9)),
        ["backup boot sector"]
    );
    let volume = Volume::open(&disk).unwrap();
    let mft = record_at(&volume, 40);
    assert_eq!(owners(Extent::new(mft, 5)), ["/$MFT"]);
    // Every extent of a file is its own, ntfscluster agrees.
    let number = (0..volume.records)
        .find(|&n| {
            let inode = volume.inode(n);
            inode.is_ok_and(|i| i.attribute(kind::DATA, "long").is_some())
        })
        .unwrap();
    let inode = volume.inode(number).unwrap();
    let run = inode.attribute(kind::DATA, "long").unwrap().runs()[0];
    let lcn = run.lcn.unwrap();
    let found = owners(volume.bytes_of(lcn, run.len));
    assert_eq!(found, ["/mail/4.eml:long"]);
    let range = format!("{lcn}-{lcn}");
    let said = Command::new("ntfscluster")
        .args(["-c", &range])
        .arg(&path)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("/mail/4.eml/$DATA(long)"), "{said}");
    let free = Ntfs.used(&disk, &Quiet).unwrap();
    let gap = free.gaps(Extent::new(0, 40 << 20))[0];
    assert_eq!(owners(gap), ["nobody: free space"]);
}

/// A file in many pieces has records that extend it, and they are all found.
#[test]
fn maps_that_need_more_records() {
    if !root() {
        return;
    }
    let disk = FileDisk::open_read(&image(CROWDED)).unwrap();
    let volume = Volume::open(&disk).unwrap();
    let mut extended = 0;
    let mut runs = 0;
    for number in 0..volume.records {
        if let Ok(inode) = volume.inode(number) {
            extended += usize::from(!inode.extensions.is_empty());
            runs = runs.max(
                inode
                    .attributes
                    .iter()
                    .map(|a| a.runs().len())
                    .max()
                    .unwrap_or(0),
            );
        }
    }
    assert!(extended > 0 && runs > 100, "{extended} files, {runs} runs");
}

/// A disk whose bytes are changed in some places.
struct Damaged<'a> {
    base: &'a MemoryDisk,
    damage: Vec<(u64, u8)>,
}

impl DiskRead for Damaged<'_> {
    fn geometry(&self) -> holdfast::disk::Geometry {
        self.base.geometry()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        self.base.read_at(offset, buf)?;
        for &(at, byte) in &self.damage {
            let inside = at.checked_sub(offset).and_then(|i| usize::try_from(i).ok());
            if let Some(slot) = inside.and_then(|i| buf.get_mut(i)) {
                *slot = byte;
            }
        }
        Ok(())
    }
}

/// Random bytes in the metadata: an answer or an error, but an answer at all.
#[test]
fn no_damage_makes_it_panic() {
    if !root() {
        return;
    }
    let path = image(CROWDED);
    let whole = std::fs::read(&path).unwrap();
    let base = MemoryDisk::fixed(whole);
    let volume = Volume::open(&base).unwrap();
    // Records that everything depends on, and one with a list.
    let mut records: Vec<u64> = (0..=file::LAST_RESERVED).collect();
    records.extend((0..volume.records).filter(|&n| {
        let inode = volume.inode(n);
        inode.is_ok_and(|i| !i.extensions.is_empty())
    }));
    let places: Vec<u64> = records.iter().map(|&n| record_at(&volume, n)).collect();
    let seed = std::env::var("HOLDFAST_SEED")
        .ok()
        .and_then(|s| s.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| u64::from(std::process::id()) << 20);
    println!("HOLDFAST_SEED={seed}");
    let mut random = super::volume::noise(seed, 1 << 20).into_iter().cycle();
    let mut next = move |below: u64| {
        let value = (0..4).fold(0u64, |sum, _| sum << 8 | u64::from(random.next().unwrap()));
        value % below
    };
    let (mut errors, mut answers) = (0, 0);
    for round in 0..400 {
        let count = 1 + next(6);
        let damage = (0..count)
            .map(|_| {
                let at = if next(5) == 0 {
                    next(512)
                } else {
                    places[next(places.len() as u64) as usize] + next(1024)
                };
                (at, [0, 0xff, 0x80, next(256) as u8][next(4) as usize])
            })
            .collect();
        let damaged = Damaged {
            base: &base,
            damage,
        };
        let mut tell = |is_ok: bool| match is_ok {
            true => answers += 1,
            false => errors += 1,
        };
        tell(Ntfs.probe(&damaged).is_ok());
        tell(Ntfs.refusals(&damaged, Direction::Grow).is_ok());
        tell(Ntfs.bounds(&damaged).is_ok());
        if round % 4 == 0 {
            let changed = ExtentMap::new();
            tell(Ntfs.used(&damaged, &Quiet).is_ok());
            tell(Ntfs.compare(&base, &damaged, &changed, 3, &Quiet).is_ok());
            let all: ExtentMap = [Extent::new(0, 1 << 20)].into_iter().collect();
            tell(Ntfs.owners(&damaged, &all, 5).is_ok());
        }
    }
    assert!(
        errors > 50 && answers > 50,
        "{errors} errors, {answers} answers"
    );
}
