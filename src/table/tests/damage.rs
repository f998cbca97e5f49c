//! Whatever the bytes: no panic, and nothing damaged passes for healthy.

use super::super::testing::{Random, SECTORS, Table, codes, healthy, seal};
use super::super::{Found, Gpt, read};
use crate::disk::MemoryDisk;
use crate::extent::ExtentMap;

/// `bytes` with a number written at `offset` of the header at `lba`, and checksums that fit.
fn with_field(table: &Table, lba: u64, offset: usize, value: &[u8]) -> MemoryDisk {
    let mut bytes = table.bytes();
    let at = table.at(lba) + offset;
    bytes[at..at + value.len()].copy_from_slice(value);
    seal(&mut bytes, table.sector, lba);
    table.disk_of(bytes)
}

#[test]
fn every_flipped_byte_of_either_copy_is_seen() {
    for table in [Table::new(), Table::of_4096()] {
        let clean = table.bytes();
        let array = table.array_sectors();
        let regions = [
            (table.at(1), 92),
            (table.at(2), 128 * 128),
            (table.at(table.end - array), 128 * 128),
            (table.at(table.end), 92),
        ];
        for (start, len) in regions {
            // All of a header; of the entries enough to reach each field and each sector.
            let step = if len > 92 { 61 } else { 1 };
            for at in (start..start + len).step_by(step) {
                let mut bytes = clean.clone();
                bytes[at] ^= 0x41;
                let found = read(&table.disk_of(bytes)).unwrap();
                let Found::DamagedGpt {
                    problems,
                    partitions,
                } = found
                else {
                    panic!("byte {at} flipped, and the table passes: {found:?}");
                };
                assert!(problems.iter().all(|p| !p.hint.is_empty()), "byte {at}");
                assert_eq!(partitions.len(), 3, "the good copy's partitions are shown");
            }
        }
    }
}

#[test]
fn fields_that_cannot_be_are_refused_though_their_checksums_fit() {
    let table = Table::new();
    let last = SECTORS - 1;
    let cases: [(u64, usize, u64, usize, &str); 20] = [
        (1, 8, 0x0002_0000, 4, "gpt-revision"),
        (1, 12, 91, 4, "gpt-header-size"),
        (1, 12, 513, 4, "gpt-header-size"),
        (1, 24, 2, 8, "gpt-header-place"),
        (last, 24, 1, 8, "gpt-header-place"),
        (1, 32, last + 1, 8, "gpt-disk-too-small"),
        (1, 32, last - 1, 8, "gpt-alternate"),
        (last, 32, 2, 8, "gpt-alternate"),
        (1, 40, 33, 8, "gpt-usable-range"),
        (1, 48, last - 32, 8, "gpt-copies-differ"),
        (last, 48, last - 32, 8, "gpt-usable-range"),
        (last, 56, 1, 8, "gpt-disk-guid"),
        (1, 72, 1, 8, "gpt-entries-place"),
        (1, 72, u64::MAX, 8, "gpt-entries-place"),
        (last, 72, last, 8, "gpt-entries-place"),
        (1, 80, 0, 4, "gpt-entry-count"),
        (1, 80, u32::MAX.into(), 4, "gpt-entry-count"),
        (1, 80, 124, 4, "gpt-copies-differ"),
        (1, 84, 64, 4, "gpt-entry-size"),
        (1, 84, 192, 4, "gpt-entry-size"),
    ];
    for (lba, offset, value, count, code) in cases {
        let disk = with_field(&table, lba, offset, &value.to_le_bytes()[..count]);
        let found = codes(&disk);
        assert!(
            found.contains(&code.to_string()),
            "LBA {lba} + {offset}: {code}, got {found:?}"
        );
    }
}

#[test]
fn partitions_that_cannot_be_are_named() {
    let with = |change: &dyn Fn(&mut Table)| {
        let mut table = Table::new();
        change(&mut table);
        codes(&table.disk())
    };
    assert_eq!(with(&|t| t.entries[1].last = 2000), ["gpt-inverted"]);
    assert_eq!(with(&|t| t.entries[0].first = 63), ["gpt-outside"]);
    assert_eq!(with(&|t| t.entries[1].last = 4063), ["gpt-outside"]);
    assert_eq!(with(&|t| t.entries[1].last = u64::MAX), ["gpt-outside"]);
    assert_eq!(with(&|t| t.entries[2].last = 2048), ["gpt-overlap"]);
    let mut inside = Table::new();
    inside.entries[2].last = 4000;
    (inside.entries[0].first, inside.entries[0].last) = (130, 140);
    (inside.entries[1].first, inside.entries[1].last) = (1500, 1600);
    let problems = read(&inside.disk()).unwrap().refusals();
    let named: Vec<_> = problems.iter().map(|p| &p.message[..16]).collect();
    assert_eq!(named, ["partitions 4 (LB", "partitions 4 (LB"]);
    assert!(problems[0].message.contains("and 1 (LBA 130"));
    assert!(problems[1].message.contains("and 3 (LBA 1500"));
    let mut bytes = Table::new().bytes();
    for lba in [2, SECTORS - 33] {
        let at = lba as usize * 512;
        bytes[at + 3 * 128 + 16..at + 3 * 128 + 32].fill(0x11);
    }
    seal(&mut bytes, 512, 1);
    seal(&mut bytes, 512, SECTORS - 1);
    assert_eq!(codes(&MemoryDisk::fixed(bytes)), ["gpt-duplicate-guid"]);
}

#[test]
fn copies_that_are_whole_but_differ_are_refused() {
    let mut bytes = Table::new().bytes();
    bytes[2 * 512 + 48] ^= 1;
    seal(&mut bytes, 512, 1);
    assert_eq!(codes(&MemoryDisk::fixed(bytes)), ["gpt-copies-differ"]);
}

#[test]
fn sector_0_must_fit() {
    let table = Table::new();
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = table.bytes();
        change(&mut bytes);
        codes(&table.disk_of(bytes))
    };
    assert_eq!(with(&|b| b[511] = 0), ["gpt-protective-mbr"]);
    assert_eq!(with(&|b| b[454] = 2), ["gpt-protective-mbr"]);
    assert_eq!(with(&|b| b[450] = 0x83), ["gpt-and-mbr"]);
    // A wrong size harms nobody: told, not refused.
    let mut bytes = table.bytes();
    bytes[458] ^= 1;
    assert_eq!(healthy(&table.disk_of(bytes)).notes().len(), 1);
}

#[test]
fn missing_copies_are_named() {
    let table = Table::new();
    let with = |sectors: &[u64]| {
        let mut bytes = table.bytes();
        for &lba in sectors {
            bytes[table.at(lba)..table.at(lba + 1)].fill(0);
        }
        codes(&table.disk_of(bytes))
    };
    let last = SECTORS - 1;
    assert_eq!(with(&[1]), ["gpt-primary-missing"]);
    assert_eq!(with(&[last]), ["gpt-backup-missing"]);
    assert_eq!(
        with(&[1, last]),
        ["gpt-backup-missing", "gpt-primary-missing"]
    );
}

#[test]
fn a_disk_cut_short_and_a_leftover_backup_are_refused() {
    let table = Table::new();
    let mut short = table.bytes();
    short.truncate(4000 * 512);
    assert_eq!(
        codes(&MemoryDisk::fixed(short)),
        [
            "gpt-backup-missing",
            "gpt-disk-too-small",
            "gpt-usable-range"
        ]
    );

    let larger = table.clone().on_larger_disk(8192);
    let mut bytes = larger.bytes();
    let leftover = Table {
        end: 8191,
        ..larger.clone()
    };
    let at = larger.at(8191 - 32);
    bytes[at..].copy_from_slice(&leftover.bytes()[at..]);
    assert_eq!(codes(&larger.disk_of(bytes.clone())), ["gpt-two-backups"]);
    bytes[larger.at(1) + 60] ^= 1;
    let Found::DamagedGpt { problems, .. } = read(&larger.disk_of(bytes)).unwrap() else {
        panic!("passed");
    };
    assert!(
        problems.iter().all(|p| !p.hint.contains("sgdisk -e")),
        "sgdisk would restore the leftover: {problems:#?}"
    );

    let mut bytes = larger.bytes();
    bytes[larger.at(4095) + 60] ^= 1;
    assert_eq!(codes(&larger.disk_of(bytes)), ["gpt-header-crc"]);
    let mut bytes = larger.bytes();
    bytes[larger.at(1) + 60] ^= 1;
    let Found::DamagedGpt { partitions, .. } = read(&larger.disk_of(bytes)).unwrap() else {
        panic!("passed");
    };
    assert_eq!(
        partitions.len(),
        3,
        "the backup is found where even a bad primary says"
    );
    let mut bytes = larger.bytes();
    bytes[larger.at(1)..larger.at(2)].fill(0);
    let Found::DamagedGpt { partitions, .. } = read(&larger.disk_of(bytes)).unwrap() else {
        panic!("passed");
    };
    assert_eq!(partitions.len(), 3, "or where the protective MBR says");
}

#[test]
fn the_wrong_sector_size_is_recognised() {
    let large = MemoryDisk::fixed(Table::of_4096().bytes());
    assert_eq!(codes(&large), ["gpt-sector-size"]);
    let small = MemoryDisk::fixed(Table::new().bytes()).with_sector_bytes(4096);
    assert_eq!(codes(&small), ["gpt-sector-size"]);
    for sector_bytes in [0, 1, 500, 1 << 20] {
        let disk = MemoryDisk::fixed(vec![0; 1 << 20]).with_sector_bytes(sector_bytes);
        assert!(read(&disk).is_err());
    }
}

/// What every accepted table must satisfy, whoever made it.
fn sane(gpt: &Gpt, seed: u64) {
    let disk_bytes = gpt.disk_len_bytes();
    let mut used: ExtentMap = gpt.table_extents(disk_bytes);
    for p in gpt.partitions() {
        let extent = gpt.extent(p.number).unwrap();
        assert!(
            !used.intersects(extent),
            "seed {seed:#x}: {extent} is taken"
        );
        assert!(
            extent.end() <= disk_bytes,
            "seed {seed:#x}: {extent} is outside"
        );
        assert!(gpt.last_free_lba_after(p.number, disk_bytes).unwrap() >= p.last_lba);
        used.insert(extent);
    }
}

#[test]
fn random_damage_never_panics_and_never_makes_a_senseless_table() {
    let seed = std::env::var("HOLDFAST_SEED")
        .ok()
        .and_then(|s| u64::from_str_radix(s.trim_start_matches("0x"), 16).ok())
        .unwrap_or(0x9E37_79B9_7F4A_7C15);
    println!("HOLDFAST_SEED={seed:#x}");
    let mut random = Random(seed);
    let mut accepted = 0;
    for round in 0..4000 {
        let mut table = Table {
            sectors: 256 + random.below(64),
            end: 255,
            ..Table::new()
        };
        table.entries.retain(|e| e.slot != 3);
        table.entries[1].last = 200;
        let mut bytes = table.bytes();
        for _ in 0..=random.below(4) {
            let lba = [0, 1, 1, 2, table.end, table.end, table.end - 32][random.below(7) as usize];
            // Small numbers in the fields of a header are where the interesting tables are.
            let width = 1 + random.below(8) as usize;
            let at = table.at(lba) + random.below(504) as usize % [504, 96, 48][round % 3];
            let value = match random.below(3) {
                0 => random.next(),
                1 => random.below(300),
                _ => u64::MAX - random.below(3),
            };
            bytes[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
        }
        if round % 4 != 0 {
            seal(&mut bytes, 512, 1);
            seal(&mut bytes, 512, table.end);
        }
        if let Found::Gpt(gpt) = read(&table.disk_of(bytes)).unwrap() {
            sane(&gpt, seed);
            accepted += 1;
        }
    }
    assert!(
        accepted > 10,
        "seed {seed:#x}: the fuzz must reach healthy tables too: {accepted}"
    );
}

#[test]
fn garbage_is_not_a_table() {
    let seed = 0xD1B5_4A32_D192_ED03;
    let mut random = Random(seed);
    for _ in 0..300 {
        let mut bytes: Vec<u8> = (0..8192)
            .flat_map(|_| random.next().to_le_bytes())
            .collect();
        if random.below(2) == 0 {
            bytes[510..520].copy_from_slice(b"\x55\xAAEFI PART");
        }
        let found = read(&MemoryDisk::fixed(bytes)).unwrap();
        assert!(!matches!(found, Found::Gpt(_)), "seed {seed:#x}");
    }
}
