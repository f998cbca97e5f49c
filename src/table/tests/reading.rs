//! What is read from a healthy table, and what is not taken for one.

use super::super::testing::{Table, healthy};
use super::super::{Found, Guid, Opinion, read, second_opinion};
use crate::disk::MemoryDisk;
use crate::extent::Extent;

#[test]
fn every_field_of_a_healthy_table_is_read() {
    for table in [Table::new(), Table::of_4096()] {
        let gpt = healthy(&table.disk());
        let sector = table.sector as u64;
        assert_eq!(gpt.sector_bytes(), sector);
        assert_eq!(gpt.disk_guid(), Guid([0x77; 16]));
        assert_eq!(
            (gpt.first_usable_lba(), gpt.last_usable_lba()),
            (64, table.last_usable())
        );
        assert_eq!((gpt.alternate_lba(), gpt.is_disk_enlarged()), (4095, false));
        assert_eq!((gpt.entry_count(), gpt.entry_bytes()), (128, 128));
        assert_eq!(gpt.notes(), &[] as &[String]);

        let numbers: Vec<_> = gpt.partitions().iter().map(|p| p.number).collect();
        assert_eq!(numbers, [1, 3, 4]);
        let mail = gpt.partition(3).unwrap();
        assert_eq!(
            (mail.first_lba, mail.last_lba, mail.sectors()),
            (2048, 3071, 1024)
        );
        assert_eq!((mail.attributes, mail.name.as_str()), (4, "späte Post"));
        assert_eq!(
            (mail.type_guid, mail.unique_guid),
            (Guid([0xA3; 16]), Guid([0x13; 16]))
        );
        assert_eq!(
            gpt.extent(3),
            Some(Extent::new(2048 * sector, 1024 * sector))
        );
        assert_eq!((gpt.partition(2), gpt.extent(2)), (None, None));
    }
}

#[test]
fn unusual_tables_are_legal() {
    for (count, entry_bytes, header_bytes) in [
        (16, 128, 92),
        (56, 128, 92),
        (256, 128, 92),
        (5, 128, 96),
        (128, 256, 92),
        (128, 128, 512),
    ] {
        let table = Table {
            count,
            entry_bytes,
            header_bytes,
            first_usable: 80,
            ..Table::new()
        };
        let mut table = table;
        table.entries[0].first = 80;
        let disk = table.disk();
        let gpt = healthy(&disk);
        assert_eq!((gpt.entry_count(), gpt.entry_bytes()), (count, entry_bytes));
        assert_eq!(gpt.partitions().len(), 3);
        let opinion = second_opinion(&gpt, &disk).unwrap();
        match (entry_bytes, header_bytes) {
            (128, 92) => assert_eq!(opinion, Opinion::Agrees),
            _ => assert!(matches!(opinion, Opinion::NotAble(_)), "{opinion:?}"),
        }
    }
}

#[test]
fn a_second_reader_agrees_and_notices_a_difference() {
    let table = Table::of_4096();
    let gpt = healthy(&table.disk());
    assert_eq!(
        second_opinion(&gpt, &table.disk()).unwrap(),
        Opinion::Agrees
    );

    let mut other = table.clone();
    other.entries[1].last -= 1;
    let opinion = second_opinion(&gpt, &other.disk()).unwrap();
    let Opinion::Differs(lines) = opinion else {
        panic!("{opinion:?}");
    };
    assert_eq!(lines.len(), 2);
    assert!(lines[0].contains("LBA 2048 to 3071") && lines[1].contains("LBA 2048 to 3070"));

    // A table that changes under the reader must not make the crate panic.
    let other = Table {
        entry_bytes: 256,
        first_usable: 80,
        ..table
    };
    let opinion = second_opinion(&gpt, &other.disk()).unwrap();
    assert!(matches!(opinion, Opinion::Differs(_)), "{opinion:?}");
}

#[test]
fn growth_ends_at_the_next_partition_or_the_usable_end() {
    let table = Table::new();
    let gpt = healthy(&table.disk());
    let len = gpt.disk_len_bytes();
    assert_eq!(gpt.last_free_lba_after(1, len), Some(127));
    assert_eq!(gpt.last_free_lba_after(4, len), Some(2047));
    assert_eq!(gpt.last_free_lba_after(3, len), Some(4096 - 34));
    assert_eq!(
        gpt.last_free_lba_after(3, len + 1000 * 512 + 511),
        Some(5096 - 34)
    );
    assert_eq!(gpt.last_free_lba_after(3, len - 512), None);
    assert_eq!(gpt.last_free_lba_after(2, len), None);
}

#[test]
fn an_enlarged_disk_is_a_property_not_a_problem() {
    let gpt = healthy(&Table::new().on_larger_disk(8192).disk());
    assert!(gpt.is_disk_enlarged());
    assert_eq!(gpt.alternate_lba(), 4095);
    assert_eq!(
        (gpt.table_len_bytes(), gpt.disk_len_bytes()),
        (4096 * 512, 8192 * 512)
    );
    assert_eq!(
        gpt.last_free_lba_after(3, gpt.disk_len_bytes()),
        Some(8192 - 34)
    );
    assert_eq!(gpt.notes().len(), 1);
}

#[test]
fn the_table_owns_both_ends_and_the_new_end() {
    let gpt = healthy(&Table::new().disk());
    let now: Vec<_> = gpt.table_extents(4096 * 512).iter().collect();
    assert_eq!(
        now,
        [Extent::new(0, 34 * 512), Extent::new(4063 * 512, 33 * 512)]
    );
    let then: Vec<_> = gpt.table_extents(8192 * 512).iter().collect();
    assert_eq!(then[..2], now[..]);
    assert_eq!(then[2..], [Extent::new(8159 * 512, 33 * 512)]);
}

#[test]
fn the_fingerprint_sees_every_byte_of_the_table_and_no_other() {
    let table = Table::new();
    let clean = table.bytes();
    let print = healthy(&table.disk()).fingerprint();
    for (at, same) in [
        (3, false),
        (512 + 100, false),
        (4095 * 512 + 511, false),
        (70 * 512, true),
    ] {
        let mut bytes = clean.clone();
        bytes[at] ^= 1;
        assert_eq!(
            healthy(&table.disk_of(bytes)).fingerprint() == print,
            same,
            "byte {at}"
        );
    }
}

#[test]
fn bare_file_systems_and_empty_disks_have_no_table() {
    let none = Found::None { notes: Vec::new() };
    for len in [0, 1, 511, 512, 1024, 1 << 20] {
        assert_eq!(read(&MemoryDisk::fixed(vec![0; len])).unwrap(), none);
    }
    let mut ext = vec![0; 1 << 20];
    ext[1024 + 56..1024 + 58].copy_from_slice(&[0x53, 0xEF]);
    assert_eq!(read(&MemoryDisk::fixed(ext.clone())).unwrap(), none);
    ext[510..512].copy_from_slice(&[0x55, 0xAA]);
    assert_eq!(read(&MemoryDisk::fixed(ext)).unwrap(), none);
}

#[test]
fn a_leftover_backup_is_told_of() {
    let mut bytes = Table::new().bytes();
    bytes[..64 * 512].fill(0);
    let Found::None { notes } = read(&MemoryDisk::fixed(bytes)).unwrap() else {
        panic!("a table was found");
    };
    assert!(notes[0].contains("LBA 4095"), "{notes:?}");
}

#[test]
fn an_mbr_is_read_and_a_hybrid_one_refused() {
    let table = Table::new();
    let entry = [0x80, 0, 0, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 4, 0, 0];
    let mut bytes = table.bytes();
    bytes[462..478].copy_from_slice(&entry);
    let hybrid = read(&table.disk_of(bytes)).unwrap();
    assert!(matches!(&hybrid, Found::HybridMbr { partitions } if partitions.len() == 2));
    assert_eq!(hybrid.refusals()[0].code, "hybrid-mbr");

    let mut bytes = vec![0; 1 << 21];
    bytes[446..462].copy_from_slice(&entry);
    bytes[510..512].copy_from_slice(&[0x55, 0xAA]);
    let mbr = read(&MemoryDisk::fixed(bytes)).unwrap();
    assert_eq!(mbr.table().unwrap().partitions()[0].first_lba, 2048);
    assert!(mbr.refusals().is_empty());
}
