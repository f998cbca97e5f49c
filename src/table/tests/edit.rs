//! An edit changes what was asked for and not one byte else.

use super::super::testing::{Table, healthy};
use super::super::{EditError, Found, Role, SectorWrite, compare, read};
use crate::disk::{Disk, MemoryDisk};

fn apply(bytes: &[u8], writes: &[SectorWrite]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    for w in writes {
        let at = w.offset as usize;
        out[at..at + w.data.len()].copy_from_slice(&w.data);
    }
    out
}

fn roles(writes: &[SectorWrite]) -> Vec<Role> {
    let mut roles: Vec<_> = writes.iter().map(|w| w.role).collect();
    roles.dedup();
    roles
}

/// Every shape of table that is legal, with filler that must survive.
fn tables() -> Vec<Table> {
    let base = Table {
        filler: 0x5A,
        first_usable: 80,
        ..Table::new()
    };
    let mut tables = Vec::new();
    for sector in [512, 4096] {
        for (count, entry_bytes, header_bytes) in [
            (128, 128, 92),
            (16, 128, 92),
            (56, 128, 92),
            (5, 256, 96),
            (256, 128, 200),
        ] {
            let mut table = Table {
                sector,
                count,
                entry_bytes,
                header_bytes,
                ..base.clone()
            };
            table.entries[0].first = 80;
            tables.push(table);
        }
    }
    tables
}

#[test]
fn a_new_end_is_the_only_change() {
    for table in tables() {
        for (slot, index, last) in [(3, 1, 4000), (3, 1, 2050), (3, 1, 2048), (4, 2, 2047)] {
            let before = table.bytes();
            let disk = table.disk();
            let gpt = healthy(&disk);
            let writes = gpt.edit(&disk, slot, last, gpt.disk_len_bytes()).unwrap();
            use Role::*;
            assert_eq!(
                roles(&writes),
                [BackupEntries, BackupHeader, PrimaryEntries, PrimaryHeader]
            );
            // The same table, built from nothing with the new end.
            let mut expected = table.clone();
            expected.entries[index].last = last;
            let after = apply(&before, &writes);
            assert!(after == expected.bytes(), "slot {slot} to {last}");
            let after = healthy(&table.disk_of(after));
            assert_eq!(compare(&gpt, &after, slot, last), [] as [String; 0]);
        }
    }
}

#[test]
fn the_backup_moves_to_the_end_of_a_larger_disk() {
    for table in tables() {
        let table = table.on_larger_disk(9000);
        let before = table.bytes();
        let disk = table.disk();
        let gpt = healthy(&disk);
        let last = gpt.last_free_lba_after(3, gpt.disk_len_bytes()).unwrap();
        let writes = gpt.edit(&disk, 3, last, gpt.disk_len_bytes()).unwrap();
        assert_eq!(roles(&writes).last(), Some(&Role::ProtectiveMbr));
        let after = apply(&before, &writes);

        let mut expected = Table {
            end: 8999,
            ..table.clone()
        };
        expected.entries[1].last = last;
        assert_eq!(last, expected.last_usable());
        // The old backup is left to lie, and so is what follows the entries in their last sector.
        let mut bytes = expected.bytes();
        let old = table.at(table.end - table.array_sectors())..table.at(table.end + 1);
        bytes[old.clone()].copy_from_slice(&before[old]);
        assert!(after == bytes);
        let after = healthy(&table.disk_of(after));
        assert!(!after.is_disk_enlarged());
        assert_eq!(compare(&gpt, &after, 3, last), [] as [String; 0]);
    }
}

#[test]
fn an_image_that_will_grow_gets_writes_beyond_its_end() {
    let table = Table::new();
    let disk = MemoryDisk::file(table.bytes());
    let gpt = healthy(&disk);
    let writes = gpt.edit(&disk, 3, 5000, 6000 * 512).unwrap();
    for w in &writes {
        disk.write_at(w.offset, &w.data).unwrap();
    }
    let after = healthy(&disk);
    assert_eq!(
        (after.disk_len_bytes(), after.alternate_lba()),
        (6000 * 512, 5999)
    );
    assert_eq!(after.partition(3).unwrap().last_lba, 5000);
    assert_eq!(compare(&gpt, &after, 3, 5000), [] as [String; 0]);
}

#[test]
fn nothing_to_do_is_no_write() {
    let disk = Table::new().disk();
    let gpt = healthy(&disk);
    assert_eq!(gpt.edit(&disk, 3, 3071, gpt.disk_len_bytes()).unwrap(), []);
}

#[test]
fn only_changed_sectors_are_written() {
    let disk = Table::new().disk();
    let gpt = healthy(&disk);
    let writes = gpt.edit(&disk, 3, 3000, gpt.disk_len_bytes()).unwrap();
    let places: Vec<_> = writes
        .iter()
        .map(|w| (w.offset / 512, w.data.len()))
        .collect();
    assert_eq!(places, [(4063, 512), (4095, 512), (2, 512), (1, 512)]);
}

#[test]
fn ends_that_cannot_be_are_refused() {
    let disk = Table::new().disk();
    let gpt = healthy(&disk);
    let len = gpt.disk_len_bytes();
    for (number, last) in [
        (1, 128),
        (1, 63),
        (4, 2048),
        (3, 4063),
        (3, 2047),
        (3, u64::MAX),
    ] {
        let e = gpt.edit(&disk, number, last, len).unwrap_err();
        assert!(
            matches!(e, EditError::OutOfRange { .. }),
            "{number} {last}: {e}"
        );
    }
    let e = gpt.edit(&disk, 2, 3000, len).unwrap_err();
    assert!(matches!(e, EditError::NoSuchPartition(2)));
    for short in [0, 511, 512, len - 1] {
        let e = gpt.edit(&disk, 3, 3000, short).unwrap_err();
        assert!(matches!(e, EditError::DiskTooSmall { .. }), "{short}: {e}");
    }
}

#[test]
fn a_table_that_changed_since_is_not_edited() {
    let table = Table::new();
    let gpt = healthy(&table.disk());
    let mut other = table.clone();
    other.entries[0].attributes ^= 1;
    let len = gpt.disk_len_bytes();
    let e = gpt.edit(&other.disk(), 3, 3000, len).unwrap_err();
    assert!(matches!(e, EditError::Stale), "{e}");
    let mut bytes = table.bytes();
    bytes[5] ^= 1;
    let e = gpt.edit(&table.disk_of(bytes), 3, 3000, len).unwrap_err();
    assert!(matches!(e, EditError::Stale), "{e}");
}

#[test]
fn cut_short_after_any_write_a_table_is_old_new_or_known_to_be_damaged() {
    for table in [Table::new(), Table::new().on_larger_disk(9000)] {
        let before = table.bytes();
        let disk = table.disk();
        let old = healthy(&disk);
        let writes = old.edit(&disk, 3, 3500, old.disk_len_bytes()).unwrap();
        let new = healthy(&table.disk_of(apply(&before, &writes)));
        let mut damaged = 0;
        for done in 0..writes.len() {
            match read(&table.disk_of(apply(&before, &writes[..done]))).unwrap() {
                Found::Gpt(gpt) => {
                    let last = gpt.partition(3).unwrap().last_lba;
                    assert!(last == old.partition(3).unwrap().last_lba || last == 3500);
                    assert!(last == 3071 || gpt.alternate_lba() == new.alternate_lba());
                }
                Found::DamagedGpt { problems, .. } => {
                    assert!(!problems.is_empty());
                    damaged += 1;
                }
                other => panic!("after {done} writes: {other:?}"),
            }
        }
        assert!(
            damaged >= 2,
            "only {damaged} states were seen to be damaged"
        );
    }
}

/// What a careless or hostile tool might do beside the planned change. The tables stay healthy,
/// so only the comparison can catch it.
#[test]
fn whatever_else_changed_is_named() {
    let table = Table::new();
    let gpt = healthy(&table.disk());
    let planned = |change: &dyn Fn(&mut Table)| {
        let mut table = table.clone();
        table.entries[1].last = 3500;
        change(&mut table);
        let after = healthy(&table.disk());
        compare(&gpt, &after, 3, 3500).join("\n")
    };
    assert_eq!(planned(&|_| ()), "");
    assert!(planned(&|t| t.entries[1].last = 3501).contains("LBA 2048 to 3501"));
    assert!(planned(&|t| t.entries[1].first = 2047).contains("LBA 2047 to 3500"));
    assert!(planned(&|t| t.entries[0].attributes = 0).contains("attributes 0x0"));
    assert!(planned(&|t| t.entries[2].name = "\u{1b}[2J").contains("name `\\x1b[2J`"));
    assert!(planned(&|t| t.entries[2].last = 1000).contains("LBA 128 to 1000"));
    assert!(planned(&|t| t.entries.truncate(2)).contains("is not in use"));
    assert!(planned(&|t| t.entries[2].slot = 2).contains("entry 2"));
    assert!(planned(&|t| t.first_usable = 63).contains("first usable LBA is 63"));
    assert!(planned(&|t| t.header_bytes = 96).contains("header size is 96"));
    assert!(planned(&|t| t.count = 124).contains("number of entries is 124"));
    assert!(planned(&|t| t.filler = 1).contains("sector 0"));

    let mut bytes = {
        let mut table = table.clone();
        table.entries[1].last = 3500;
        table.bytes()
    };
    bytes[512 + 300] = 1;
    let after = healthy(&table.disk_of(bytes));
    assert_eq!(
        compare(&gpt, &after, 3, 3500),
        ["primary header: reserved bytes differ"]
    );
}
