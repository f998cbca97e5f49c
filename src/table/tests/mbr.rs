//! An MBR and its chain, built byte by byte by code that shares nothing with the codec: what is
//! read, what an edit changes, and that no damage passes.

use super::super::testing::Random;
use super::super::{
    Behind, EditError, Found, Mbr, MbrPartition, Role, Room, SectorWrite, Table, read,
};
use crate::disk::{DiskRead, MemoryDisk};
use crate::extent::Extent;

const SECTORS: u64 = 4096;

/// An entry: type, first sector as the entry counts it, number of sectors.
type Raw = (u8, u32, u32);

/// A disk to be built. Public fields: a test changes what it is about.
#[derive(Clone)]
struct Disk {
    sector: usize,
    sectors: u64,
    primary: [Raw; 4],
    /// Where an EBR stands, its entries.
    ebrs: Vec<(u64, [Raw; 4])>,
    /// Where a signature is left away.
    unsigned: Option<u64>,
}

const NONE: Raw = (0, 0, 0);

impl Disk {
    /// Partitions 1 and 2, an extended one in slot 4 with 5, 6 and 7, and 3 behind it. The chain
    /// leads 5, 7, 6 on the disk.
    fn new(sector: usize) -> Disk {
        Disk {
            sector,
            sectors: SECTORS,
            primary: [
                (0x83, 64, 64),
                (0x07, 200, 100),
                (0x83, 3500, 100),
                (0x05, 1000, 2000),
            ],
            ebrs: vec![
                (1000, [(0x83, 63, 137), (0x05, 1000, 300), NONE, NONE]),
                (2000, [(0x82, 10, 290), (0x05, 500, 400), NONE, NONE]),
                (1500, [(0x83, 1, 399), NONE, NONE, NONE]),
            ],
            unsigned: None,
        }
    }

    fn table(&self, filler: u8, entries: &[Raw; 4]) -> Vec<u8> {
        let mut sector = vec![filler; self.sector];
        for (slot, &(kind, first, sectors)) in entries.iter().enumerate() {
            let entry = &mut sector[446 + slot * 16..][..16];
            entry.fill(0);
            entry[4] = kind;
            // Addresses by cylinder that no geometry explains.
            entry[1..4].fill(if kind == 0 { 0 } else { 7 });
            entry[5..8].fill(if kind == 0 { 0 } else { 9 });
            entry[8..12].copy_from_slice(&first.to_le_bytes());
            entry[12..16].copy_from_slice(&sectors.to_le_bytes());
        }
        sector[510..512].copy_from_slice(&[0x55, 0xAA]);
        sector
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0xA5; self.sectors as usize * self.sector];
        let mut put = |lba: u64, mut sector: Vec<u8>| {
            if self.unsigned == Some(lba) {
                sector[511] = 0;
            }
            if lba < self.sectors {
                bytes[lba as usize * self.sector..][..self.sector].copy_from_slice(&sector);
            }
        };
        put(0, self.table(0x11, &self.primary));
        for (lba, entries) in &self.ebrs {
            put(*lba, self.table(0x22, entries));
        }
        bytes
    }

    fn disk_of(&self, bytes: Vec<u8>) -> MemoryDisk {
        MemoryDisk::fixed(bytes).with_sector_bytes(self.sector as u32)
    }

    fn disk(&self) -> MemoryDisk {
        self.disk_of(self.bytes())
    }

    fn healthy(&self) -> Mbr {
        healthy(&self.disk())
    }
}

fn healthy(disk: &dyn DiskRead) -> Mbr {
    match read(disk).unwrap() {
        Found::Mbr(mbr) => *mbr,
        other => panic!("not healthy: {other:#?}"),
    }
}

/// The codes of the problems, each once; panics where the table is not damaged.
fn codes(disk: &Disk) -> Vec<String> {
    match read(&disk.disk()).unwrap() {
        Found::DamagedMbr { problems, .. } => {
            assert!(problems.iter().all(|p| !p.hint.is_empty()));
            let mut codes: Vec<_> = problems.into_iter().map(|p| p.code).collect();
            codes.dedup();
            codes
        }
        other => panic!("not damaged: {other:#?}"),
    }
}

fn apply(bytes: &[u8], writes: &[SectorWrite]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    for w in writes {
        let at = w.offset as usize;
        out[at..at + w.data.len()].copy_from_slice(&w.data);
    }
    out
}

#[test]
fn primary_and_logical_partitions_are_read() {
    for sector in [512, 4096] {
        let mbr = Disk::new(sector).healthy();
        let all: Vec<_> = mbr
            .all_partitions()
            .iter()
            .map(|p| (p.number, p.kind, p.first_lba, p.last_lba()))
            .collect();
        assert_eq!(
            all,
            [
                (1, 0x83, 64, 127),
                (2, 0x07, 200, 299),
                (3, 0x83, 3500, 3599),
                (4, 0x05, 1000, 2999),
                (5, 0x83, 1063, 1199),
                (6, 0x82, 2010, 2299),
                (7, 0x83, 1501, 1899),
            ]
        );
        assert_eq!(mbr.ebr_lbas(), [1000, 2000, 1500]);
        let data: Vec<_> = mbr.partitions().iter().map(|p| p.number).collect();
        assert_eq!(data, [1, 2, 3, 5, 6, 7], "the extended one holds no data");
        assert!(mbr.container(4).is_some() && mbr.container(5).is_none());
        assert_eq!(mbr.extent(4), None);
        let sector = sector as u64;
        assert_eq!(
            mbr.extent(7),
            Some(Extent::new(1501 * sector, 399 * sector))
        );
        assert_eq!(mbr.disk_signature(), 0x1111_1111);
        assert_eq!(mbr.disk_id().as_deref(), Some("11111111"));
        assert_eq!(mbr.partition_id(5).as_deref(), Some("11111111-05"));
        let table: Vec<_> = mbr.table_extents(0).iter().collect();
        let places = [0, 1000, 1500, 2000].map(|lba| Extent::new(lba * sector, sector));
        assert_eq!(table, places);
    }
}

#[test]
fn a_deleted_logical_partition_has_no_number() {
    let mut disk = Disk::new(512);
    disk.ebrs[0].1[0] = NONE;
    let mbr = disk.healthy();
    let numbers: Vec<_> = mbr.partitions().iter().map(|p| p.number).collect();
    assert_eq!(numbers, [1, 2, 3, 5, 6], "as the kernel numbers them");
    assert_eq!(mbr.all_partitions()[4].first_lba, 2010);
    assert_eq!(
        mbr.ebr_lbas().len(),
        3,
        "its EBR still belongs to the table"
    );
}

#[test]
fn an_extended_partition_may_be_empty() {
    let mut disk = Disk::new(512);
    disk.ebrs = vec![(1000, [NONE; 4])];
    assert_eq!(disk.healthy().partitions().len(), 3);
    let mut bytes = disk.bytes();
    bytes[512_000..512_512].fill(0);
    let empty = disk.disk_of(bytes);
    assert_eq!(healthy(&empty).partitions().len(), 3);
}

#[test]
fn room_ends_where_something_begins() {
    let disk = Disk::new(512);
    let mbr = disk.healthy();
    let room = |number| mbr.room(number, SECTORS * 512);
    let behind = |last_lba, number| {
        Some(Room {
            last_lba,
            behind: Behind::Partition(number),
        })
    };
    assert_eq!(room(1), behind(199, 2));
    assert_eq!(room(2), behind(999, 4), "the extended partition");
    assert_eq!(room(5), behind(1499, 7), "the EBR of the next");
    assert_eq!(room(7), behind(1999, 6));
    assert_eq!(room(6), behind(3499, 3), "beyond the extended partition");
    let end = Some(Room {
        last_lba: SECTORS - 1,
        behind: Behind::DiskEnd,
    });
    assert_eq!(room(3), end);
    assert_eq!(room(4), None, "an extended partition is not resized");
    assert_eq!(room(8), None);
    assert_eq!(mbr.room(1, 3000 * 512), None, "such a disk is too short");
    // 32 bits count sectors.
    for sector in [512, 4096] {
        let mbr = Disk::new(sector as usize).healthy();
        let limit = Some(Room {
            last_lba: u32::MAX.into(),
            behind: Behind::Format,
        });
        assert_eq!(mbr.room(3, (1 << 33) * sector), limit);
        assert_eq!(
            mbr.room(3, (1 << 32) * sector).unwrap().behind,
            Behind::DiskEnd
        );
    }
}

/// Every legal end of every partition, and what may differ: the number of sectors and the address
/// by cylinder, in these entries.
#[test]
fn an_edit_changes_these_entries_and_not_one_byte_else() {
    for sector in [512usize, 4096] {
        let disk = Disk::new(sector);
        let before = disk.bytes();
        let mbr = disk.healthy();
        // Number, new end, and the entries that change: LBA of the sector, slot, sectors then.
        type Case<'a> = (u32, u64, &'a [(u64, usize, u32)]);
        let cases: [Case<'_>; 9] = [
            (1, 199, &[(0, 0, 136)]),
            (1, 64, &[(0, 0, 1)]),
            (3, 4095, &[(0, 2, 596)]),
            (5, 1499, &[(1000, 0, 437)]),
            (5, 1100, &[(1000, 0, 38)]),
            (7, 1999, &[(2000, 1, 500), (1500, 0, 499)]),
            (7, 1600, &[(1500, 0, 100)]),
            (6, 2500, &[(1000, 1, 501), (2000, 0, 491)]),
            // The extended partition grows around it.
            (6, 3400, &[(0, 3, 2401), (1000, 1, 1401), (2000, 0, 1391)]),
        ];
        for (number, last, entries) in cases {
            let writes = mbr
                .edit(&disk.disk(), number, last, SECTORS * sector as u64)
                .unwrap();
            let places: Vec<_> = writes.iter().map(|w| w.offset / sector as u64).collect();
            let mut expected: Vec<_> = entries.iter().map(|e| e.0).collect();
            expected.dedup();
            assert_eq!(places, expected, "{number} to {last}");
            for w in &writes {
                assert_eq!(w.data.len(), sector);
                let role = if w.offset == 0 { Role::Mbr } else { Role::Ebr };
                assert_eq!(w.role, role);
            }
            let after = apply(&before, &writes);
            let mut wanted = before.clone();
            for &(lba, slot, sectors) in entries {
                let at = lba as usize * sector + 446 + slot * 16;
                wanted[at + 5..at + 8].copy_from_slice(&[0xFE, 0xFF, 0xFF]);
                wanted[at + 12..at + 16].copy_from_slice(&sectors.to_le_bytes());
            }
            assert!(after == wanted, "{number} to {last}");
            let now = read(&disk.disk_of(after)).unwrap();
            assert_eq!(
                mbr.differences(&now, number, last),
                Some(Vec::new()),
                "{number} to {last}"
            );
            // And back: to what was there, but for the addresses and the rooms.
            let Found::Mbr(now) = now else { panic!() };
            let slot = |mbr: &Mbr| mbr.extent(number).unwrap();
            assert_eq!(slot(&now).start, slot(&mbr).start);
            assert_eq!(slot(&now).end(), (last + 1) * sector as u64);
        }
    }
}

#[test]
fn an_edit_of_nothing_writes_nothing() {
    let disk = Disk::new(512);
    let mbr = disk.healthy();
    for p in mbr.partitions() {
        let writes = mbr.edit(&disk.disk(), p.number, p.last_lba, 1 << 30);
        assert_eq!(writes.unwrap(), []);
    }
}

#[test]
fn a_longer_disk_needs_no_edit_but_gives_room() {
    let disk = Disk::new(512);
    let mbr = disk.healthy();
    let writes = mbr.edit(&disk.disk(), 3, 9999, 10_000 * 512).unwrap();
    let mut longer = apply(&disk.bytes(), &writes);
    longer.resize(10_000 * 512, 0);
    let now = read(&MemoryDisk::fixed(longer)).unwrap();
    assert_eq!(mbr.differences(&now, 3, 9999), Some(Vec::new()));
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_written() {
    let disk = Disk::new(512);
    let mbr = disk.healthy();
    let edit = |number, last, len: u64| mbr.edit(&disk.disk(), number, last, len * 512);
    for (number, last) in [(1, 200), (1, 63), (5, 1500), (6, 3500), (3, 4096)] {
        let refused = edit(number, last, SECTORS);
        assert!(
            matches!(refused, Err(EditError::OutOfRange { .. })),
            "{number} {last}"
        );
    }
    for number in [0, 4, 8] {
        let refused = edit(number, 4000, SECTORS);
        assert!(matches!(refused, Err(EditError::NoSuchPartition(n)) if n == number));
    }
    assert!(matches!(
        edit(1, 100, 3000),
        Err(EditError::DiskTooSmall { .. })
    ));
    let mut bytes = disk.bytes();
    bytes[1500 * 512] ^= 1;
    let changed = mbr.edit(&disk.disk_of(bytes), 1, 100, SECTORS * 512);
    assert!(
        matches!(changed, Err(EditError::Stale)),
        "one byte of an EBR"
    );
}

#[test]
fn every_unplanned_byte_is_seen_in_the_comparison() {
    let disk = Disk::new(512);
    let mbr = disk.healthy();
    let writes = mbr.edit(&disk.disk(), 6, 3400, SECTORS * 512).unwrap();
    let planned = apply(&disk.bytes(), &writes);
    for lba in [0, 1000, 1500, 2000] {
        for at in 0..512 {
            let mut bytes = planned.clone();
            bytes[lba * 512 + at] ^= 1;
            let now = read(&disk.disk_of(bytes)).unwrap();
            let found = mbr.differences(&now, 6, 3400);
            assert!(found.is_none_or(|f| !f.is_empty()), "LBA {lba}, byte {at}");
        }
    }
}

#[test]
fn every_kind_of_damage_is_named() {
    let with = |change: &dyn Fn(&mut Disk)| {
        let mut disk = Disk::new(512);
        change(&mut disk);
        codes(&disk)
    };
    assert_eq!(with(&|d| d.primary[1].1 = 100), ["mbr-overlap"]);
    assert_eq!(with(&|d| d.primary[2].1 = 2500), ["mbr-overlap"]);
    assert_eq!(with(&|d| d.primary[2].2 = 600), ["mbr-outside"]);
    assert_eq!(with(&|d| d.primary[2].2 = u32::MAX), ["mbr-outside"]);
    assert_eq!(with(&|d| d.primary[0].1 = 0), ["mbr-outside"]);
    assert_eq!(with(&|d| d.ebrs[1].1[0].2 = 1000), ["mbr-outside"]);
    assert_eq!(
        with(&|d| d.ebrs[0].1[0].1 = 0),
        ["mbr-overlap"],
        "on its EBR"
    );
    assert_eq!(with(&|d| d.ebrs[0].1[0].2 = 500), ["mbr-overlap"]);
    assert_eq!(with(&|d| d.unsigned = Some(2000)), ["mbr-ebr-signature"]);
    assert_eq!(with(&|d| d.unsigned = Some(1000)), ["mbr-ebr-signature"]);
    assert_eq!(
        with(&|d| d.ebrs[2].1[1] = (0x05, 1000, 9)),
        ["mbr-ebr-loop"]
    );
    assert_eq!(with(&|d| d.ebrs[0].1[1].1 = 0), ["mbr-ebr-loop"]);
    assert_eq!(with(&|d| d.ebrs[1].1[1].1 = 2000), ["mbr-ebr-outside"]);
    assert_eq!(with(&|d| d.ebrs[1].1[1].1 = u32::MAX), ["mbr-ebr-outside"]);
    assert_eq!(
        with(&|d| d.ebrs[0].1[2] = (0x83, 1, 1)),
        ["mbr-ebr-entries"]
    );
    assert_eq!(
        with(&|d| d.ebrs[0].1[3] = (0x0f, 1, 1)),
        ["mbr-ebr-entries"]
    );
    let two = with(&|d| d.primary[1].0 = 0x0F);
    assert!(two.contains(&"mbr-two-extended".to_string()), "{two:?}");
    let far = with(&|d| d.primary[3].1 = 1 << 31);
    assert!(far.contains(&"mbr-ebr-outside".to_string()), "{far:?}");
    let many = with(&|d| {
        d.ebrs = (0..200u64)
            .map(|n| {
                (
                    1000 + 2 * n,
                    [(0x83, 1, 1), (0x05, 2 * n as u32 + 2, 2), NONE, NONE],
                )
            })
            .collect();
    });
    assert_eq!(many, ["mbr-too-many"]);
}

#[test]
fn without_the_signature_there_is_no_table_and_a_note() {
    let mut disk = Disk::new(512);
    disk.unsigned = Some(0);
    let found = read(&disk.disk()).unwrap();
    let Found::None { notes } = &found else {
        panic!("{found:?}");
    };
    assert!(notes[0].contains("signature"), "{notes:?}");
}

/// What every accepted table must satisfy, whoever made it.
fn sane(mbr: &Mbr, seed: u64) {
    let len = mbr.shape_len();
    let mut used = mbr.table_extents(len);
    for p in mbr.partitions() {
        let extent = mbr.extent(p.number).unwrap();
        assert!(
            !used.intersects(extent),
            "seed {seed:#x}: {extent} is taken"
        );
        assert!(extent.end() <= len, "seed {seed:#x}: {extent} is outside");
        assert!(mbr.room(p.number, len).unwrap().last_lba >= p.last_lba);
        used.insert(extent);
    }
}

impl Mbr {
    fn shape_len(&self) -> u64 {
        SECTORS * self.sector_bytes()
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
    let (clean, disk) = (Disk::new(512).bytes(), Disk::new(512));
    let (mut accepted, mut damaged) = (0, 0);
    for _ in 0..4000 {
        let mut bytes = clean.clone();
        for _ in 0..=random.below(4) {
            let lba = [0, 1000, 1500, 2000][random.below(4) as usize];
            let width = [1, 1, 2, 4][random.below(4) as usize];
            let at = lba * 512 + 446 + random.below(61) as usize;
            let value = match random.below(3) {
                0 => random.next(),
                1 => random.below(SECTORS),
                _ => u64::MAX - random.below(3),
            };
            bytes[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
        }
        match read(&disk.disk_of(bytes.clone())).unwrap() {
            Found::Mbr(mbr) => {
                sane(&mbr, seed);
                // An edit of whatever was accepted is as it says.
                let slots = mbr.partitions();
                let p = &slots[random.below(slots.len() as u64) as usize];
                let room = mbr.room(p.number, SECTORS * 512).unwrap();
                let last = p.first_lba + random.below(room.last_lba + 1 - p.first_lba);
                let writes = mbr.edit(&disk.disk_of(bytes.clone()), p.number, last, SECTORS * 512);
                let after = apply(&bytes, &writes.unwrap());
                let now = read(&disk.disk_of(after)).unwrap();
                let found = mbr.differences(&now, p.number, last);
                assert_eq!(found, Some(Vec::new()), "seed {seed:#x}");
                accepted += 1;
            }
            Found::DamagedMbr { problems, .. } => {
                assert!(!problems.is_empty());
                damaged += 1;
            }
            _ => {}
        }
    }
    assert!(
        accepted > 100 && damaged > 1000,
        "seed {seed:#x}: the fuzz must reach both: {accepted}, {damaged}"
    );
}

#[test]
fn the_last_sector_of_an_entry_never_overflows() {
    let part = MbrPartition {
        number: 1,
        kind: 0x83,
        active: false,
        first_lba: u32::MAX.into(),
        sectors: u32::MAX.into(),
    };
    assert_eq!(part.last_lba(), 2 * u64::from(u32::MAX) - 1);
}
