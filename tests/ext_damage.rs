//! What stands against a resize is refused by its code, and what is damaged is named; no bytes
//! make the reader panic or hang.

#![allow(clippy::unwrap_used, clippy::expect_used)]
// Helpers of tests may fail as tests do.

#[path = "ext_images/mod.rs"]
mod ext_images;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ext_images::{Image, make, output, run};
use holdfast::disk::{Disk, DiskRead, MemoryDisk, Window, read_vec};
use holdfast::extent::Extent;
use holdfast::fs::ext::Ext;
use holdfast::fs::ext::groups::Groups;
use holdfast::fs::ext::superblock::Superblock;
use holdfast::fs::ext::used::structures;
use holdfast::fs::{Direction, Driver, FsError};
use holdfast::report::{Collect, Quiet};
use tempfile::TempDir;

fn image(args: &str) -> (TempDir, Image) {
    let dir = tempfile::tempdir().expect("temporary directory");
    let image = make(dir.path(), args, 16 * 1024, &[]);
    (dir, image)
}

fn codes(disk: &dyn DiskRead) -> Vec<String> {
    let refusals = Ext.refusals(disk, Direction::Grow).expect("refusals");
    assert!(refusals.iter().all(|r| !r.message.is_empty()));
    refusals.into_iter().map(|r| r.code).collect()
}

/// The codes after debugfs has done `command`.
fn codes_after(args: &str, command: &str) -> Vec<String> {
    let (_dir, image) = image(args);
    let out = output("debugfs", &["-w", "-R", command, image.path()]);
    assert!(out.status.success(), "{command}");
    codes(&image.disk())
}

#[test]
fn states_and_features_are_refused_by_code() {
    for (args, command, want) in [
        ("-t ext4", "ssv state 3", &["ext-errors"][..]),
        ("-t ext4", "ssv state 2", &["ext-errors"]),
        ("-t ext2", "ssv state 0", &["ext-not-clean"]),
        ("-t ext4", "feature FEATURE_C7", &["ext-unknown-feature"]),
        ("-t ext4", "feature FEATURE_I29", &["ext-unknown-feature"]),
        ("-t ext4", "feature FEATURE_I30", &["ext-unknown-feature"]),
        ("-t ext4", "feature shared_blocks", &["ext-unknown-feature"]),
        ("-t ext2", "feature compression", &["ext-unknown-feature"]),
        (
            "-t ext4",
            "ssv journal_dev 0x801",
            &["ext-external-journal"],
        ),
        ("-t ext4", "ssv creator_os 1", &["ext-foreign"]),
        ("-t ext2", "ssv rev_level 2", &["ext-foreign"]),
        ("-t ext4", "sif <1> blocks 8", &["ext-bad-blocks"]),
        ("-t ext4", "feature needs_recovery", &[]),
        ("-t ext4", "ssv last_orphan 13", &[]),
    ] {
        assert_eq!(codes_after(args, command), want, "{args}: {command}");
    }
}

#[test]
fn a_file_system_that_another_host_may_have_mounted_is_refused() {
    let (_dir, image) = image("-t ext4 -O mmp");
    let disk = image.disk();
    assert!(codes(&disk).is_empty());
    let map = Map::of(&disk);
    let block = map.sb.mmp_block * map.sb.block_bytes;
    // The magic, and the sequence number that means "clean".
    for at in [block, block + 4] {
        flip(&disk, at, 1);
        assert_eq!(codes(&disk), ["ext-mmp-active"]);
        flip(&disk, at, 1);
    }
}

#[test]
fn a_needed_replay_is_noted_and_everything_counts_as_used() {
    let (_dir, image) = image("-t ext4");
    run(
        "debugfs",
        &["-w", "-R", "feature needs_recovery", image.path()],
    );
    let (disk, report) = (image.disk(), Collect::default());
    let seen = Ext.probe(&disk).expect("probe").expect("ext");
    assert!(seen.needs_replay);
    assert!(seen.notes.iter().any(|note| note.contains("journal")));
    let used = Ext.used(&disk, &report).expect("used");
    assert_eq!(used.total_bytes(), seen.size_bytes);
    assert!(used.contains(Extent::new(0, seen.size_bytes)));
    assert_eq!(report.notices().len(), 1);
}

#[test]
fn a_journal_device_is_no_file_system_to_resize() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("journal");
    let path = path.to_str().expect("UTF-8");
    run(
        "mke2fs",
        &["-q", "-F", "-O", "journal_dev", "-b", "4096", path, "8M"],
    );
    let disk = MemoryDisk::fixed(std::fs::read(path).expect("image"));
    let seen = Ext.probe(&disk).expect("probe").expect("ext");
    assert_eq!(seen.kind, "jbd");
    assert_eq!(codes(&disk), ["ext-journal-dev"]);
}

#[test]
fn large_blocks_are_refused() {
    assert_eq!(
        codes(&image("-t ext4 -b 65536").1.disk()),
        ["ext-block-size"]
    );
}

#[test]
fn a_file_system_beyond_its_partition_is_refused_and_not_read() {
    let (_dir, image) = image("-t ext4");
    let part = Window::new(image.disk(), Extent::new(0, 12 << 20)).expect("window");
    assert_eq!(codes(&part), ["ext-larger-than-partition"]);
    for result in [
        Ext.used(&part, &Quiet).map(|_| ()),
        Ext.bounds(&part).map(|_| ()),
    ] {
        let Err(FsError::Unsupported(refusal)) = result else {
            panic!("{result:?}");
        };
        assert_eq!(refusal.code, "ext-larger-than-partition");
    }
}

#[test]
fn what_is_no_ext_file_system_is_not_probed() {
    for bytes in [vec![], vec![0; 1024], vec![0; 2047], vec![0; 1 << 20]] {
        let disk = MemoryDisk::fixed(bytes);
        assert_eq!(Ext.probe(&disk).expect("no error"), None);
        assert!(Ext.used(&disk, &Quiet).is_err());
    }
}

/// Where the structures of an image are.
struct Map {
    sb: Superblock,
    groups: Groups,
}

impl Map {
    fn of(disk: &dyn DiskRead) -> Map {
        let sb = Superblock::read(disk).expect("read").expect("ext");
        let groups = Groups::read(disk, &sb).expect("groups");
        Map { sb, groups }
    }

    fn descriptor(&self, group: u64) -> u64 {
        self.sb.descriptor_block(0) * self.sb.block_bytes
            + group * u64::from(self.sb.descriptor_bytes)
    }

    fn block_bitmap(&self, group: u64) -> u64 {
        self.groups.get(group).expect("group").block_bitmap * self.sb.block_bytes
    }
}

fn flip(disk: &MemoryDisk, at: u64, mask: u8) {
    let byte = read_vec(disk, at, 1).expect("read")[0];
    disk.write_at(at, &[byte ^ mask]).expect("write");
}

fn damage(disk: &MemoryDisk) -> String {
    match Ext.used(disk, &Quiet) {
        Err(FsError::Corrupt(text)) => text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn damage_is_named() {
    let plain = "-t ext4 -b 1024 -O ^metadata_csum";
    let summed = "-t ext4 -b 1024";
    let crc16 = "-t ext4 -b 1024 -O ^metadata_csum,uninit_bg";
    let with = |args: &str, break_it: &dyn Fn(&MemoryDisk, &Map)| {
        let (_dir, image) = image(args);
        let disk = image.disk();
        Ext.used(&disk, &Quiet).expect("sound before");
        break_it(&disk, &Map::of(&disk));
        damage(&disk)
    };
    let bitmap_bit = |disk: &MemoryDisk, map: &Map| flip(disk, map.block_bitmap(0) + 100, 1);
    assert!(with(summed, &bitmap_bit).contains("group 0: the checksum of the block bitmap"));
    assert!(with(plain, &bitmap_bit).contains("group 0: its descriptor counts"));
    // One block of the inode table given away for another that is free: the count still fits.
    let trade = |disk: &MemoryDisk, map: &Map| {
        let table = map.groups.get(0).expect("group").inode_table - 1;
        flip(disk, map.block_bitmap(0) + table / 8, 1 << (table % 8));
        let bits = read_vec(disk, map.block_bitmap(0), 1024).expect("bitmap");
        let free = bits
            .iter()
            .rposition(|&b| b == 0)
            .expect("eight free blocks");
        flip(disk, map.block_bitmap(0) + free as u64, 1);
    };
    assert!(with(plain, &trade).contains("belongs to the inode table of group 0"));
    let descriptor_bit = |disk: &MemoryDisk, map: &Map| flip(disk, map.descriptor(1) + 0x10, 1);
    for args in [summed, crc16] {
        assert!(with(args, &descriptor_bit).contains("group 1: the descriptor's checksum"));
    }
    let same_table = |disk: &MemoryDisk, map: &Map| {
        let of_0 = read_vec(disk, map.descriptor(0) + 8, 4).expect("read");
        disk.write_at(map.descriptor(1) + 8, &of_0).expect("write");
    };
    assert!(with(plain, &same_table).contains("inode table of group 1"));
    let far_table = |disk: &MemoryDisk, map: &Map| flip(disk, map.descriptor(1) + 11, 0x80);
    assert!(with(plain, &far_table).contains("group 1: inode table at blocks"));
    let superblock_bit = |disk: &MemoryDisk, _: &Map| flip(disk, 1024 + 0x300, 1);
    assert!(with(summed, &superblock_bit).contains("s_checksum"));
    let per_group = |disk: &MemoryDisk, _: &Map| flip(disk, 1024 + 0x29, 1);
    assert!(with(plain, &per_group).contains("s_inodes_count"));
}

/// A failing random test says from which seed it can be repeated.
struct Seed {
    first: u64,
    state: u64,
}

impl Seed {
    fn new() -> Seed {
        let given = std::env::var("HOLDFAST_SEED")
            .ok()
            .and_then(|s| s.parse().ok());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("clock");
        let first = given.unwrap_or(now.as_nanos() as u64) | 1;
        Seed {
            first,
            state: first,
        }
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (self.state >> 11) % limit
    }
}

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("repeat with HOLDFAST_SEED={}", self.first);
        }
    }
}

/// Everything that reads, in bounded time. Whether all of it succeeded.
fn read_all(disk: &MemoryDisk) -> bool {
    let start = Instant::now();
    let probed = Ext.probe(disk).is_ok();
    let refused = Ext.refusals(disk, Direction::Shrink).is_ok();
    let bounded = Ext.bounds(disk).is_ok();
    let used = Ext.used(disk, &Quiet).map(|used| {
        assert!(used.end() <= disk.len_bytes());
        assert!(used.contains(Extent::new(0, 2048)));
    });
    let bytes = read_vec(disk, 1024, 1024).expect("read");
    Ext.gate(&bytes);
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
    probed && refused && bounded && used.is_ok()
}

const FUZZED: &[&str] = &[
    "-t ext2 -b 1024 -g 1024",
    "-t ext4 -b 1024 -g 512 -O ^metadata_csum",
    "-t ext4 -b 1024 -g 1024",
    "-t ext4 -b 2048 -O ^metadata_csum,uninit_bg,meta_bg,^resize_inode -g 256",
    "-t ext4 -b 1024 -O ^metadata_csum,bigalloc -C 4096",
    "-t ext4 -b 4096 -O ^metadata_csum,sparse_super2,mmp -g 1024",
];

#[test]
fn random_damage_to_metadata_never_panics_or_hangs() {
    let mut seed = Seed::new();
    for args in FUZZED {
        let (_dir, image) = image(args);
        let disk = image.disk();
        assert!(read_all(&disk), "{args}: sound before");
        let map = Map::of(&disk);
        let places: Vec<Extent> = map
            .groups
            .iter()
            .flat_map(|(number, group)| structures(&map.sb, number, group))
            .map(|s| {
                let len = (s.blocks.end - s.blocks.start) * map.sb.block_bytes;
                Extent::new(s.blocks.start * map.sb.block_bytes, len)
            })
            .collect();
        let mut noticed = 0;
        for _ in 0..300 {
            let mut before = Vec::new();
            for _ in 0..=seed.below(4) {
                // A third of the hits go to the primary superblock, a third to its descriptors.
                let place = match seed.below(3) {
                    0 => Extent::new(1024, 1024),
                    1 => Extent::new(map.descriptor(0), 64),
                    _ => places[seed.below(places.len() as u64) as usize],
                };
                let at = place.start + seed.below(place.len);
                before.push((at, read_vec(&disk, at, 1).expect("read")));
                let byte = [0, 0xff, 0x7f, seed.below(256) as u8][seed.below(4) as usize];
                disk.write_at(at, &[byte]).expect("write");
            }
            noticed += u32::from(!read_all(&disk));
            for (at, byte) in before.into_iter().rev() {
                disk.write_at(at, &byte).expect("write");
            }
        }
        assert!(noticed > 50, "{args}: only {noticed} of 300 were noticed");
        assert!(read_all(&disk), "{args}: sound after");
    }
}

#[test]
fn each_byte_of_the_superblock_may_have_any_value() {
    for args in FUZZED {
        let (_dir, image) = image(args);
        let disk = image.disk();
        for at in 1024..2048 {
            let before = read_vec(&disk, at, 1).expect("read");
            for byte in [0, 0xff, 1, 0x80, before[0] ^ 1, before[0].wrapping_add(1)] {
                disk.write_at(at, &[byte]).expect("write");
                read_all(&disk);
            }
            disk.write_at(at, &before).expect("write");
        }
    }
}
