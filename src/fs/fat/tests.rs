use super::*;
use crate::disk::MemoryDisk;
use crate::fs::bytes::put;
use crate::report::Quiet;

const MIB: usize = 1 << 20;

/// A small volume made here: a root directory with a directory and files whose clusters are not in
/// order, the last ones at the end.
fn volume(wide: bool) -> MemoryDisk {
    let (per, fat, clusters) = if wide {
        (1, 516, 65_800u32)
    } else {
        (2, 20, 5000)
    };
    let (reserved, root) = if wide { (32, 0) } else { (4, 32) };
    let total = reserved + 2 * fat + root + clusters * per;
    let mut bytes = vec![0; total as usize * 512];
    put(&mut bytes, 0, &[0xeb, 0x3c, 0x90]);
    put(&mut bytes, 11, &[0, 2, per as u8, reserved as u8, 0, 2]);
    put(&mut bytes, 17, &(root as u16 * 16).to_le_bytes());
    bytes[21] = 0xf8;
    put(
        &mut bytes,
        22,
        &(if wide { 0 } else { fat as u16 }).to_le_bytes(),
    );
    put(&mut bytes, 32, &total.to_le_bytes());
    if wide {
        put(&mut bytes, 36, &fat.to_le_bytes());
        put(&mut bytes, 44, &[2, 0, 0, 0, 1, 0, 6, 0]);
        put(&mut bytes, 512, b"RRaA");
        put(&mut bytes, 512 + 484, b"rrAa");
    }
    put(
        &mut bytes,
        if wide { 66 } else { 38 },
        b"\x29\x78\x56\x34\x12MAIL       ",
    );
    put(&mut bytes, 510, &[0x55, 0xaa]);
    if wide {
        let boot = bytes[..512].to_vec();
        put(&mut bytes, 6 * 512, &boot);
    }
    let boot = Boot::parse(&bytes[..512]).unwrap();
    assert_eq!(boot.clusters(), u64::from(clusters));
    let mut entry = |cluster: u32, next: u32| {
        for copy in 0..2 {
            let at = (reserved + copy * fat) as usize * 512;
            match wide {
                true => put(&mut bytes, at + cluster as usize * 4, &next.to_le_bytes()),
                false => put(
                    &mut bytes,
                    at + cluster as usize * 2,
                    &(next as u16).to_le_bytes(),
                ),
            }
        }
    };
    let end = 0x0fff_ffff;
    entry(0, 0x0fff_fff8);
    entry(1, end);
    let last = clusters + 1;
    // The root, a directory, and two files, one of them in pieces.
    for (from, to) in [
        (2, end),
        (3, end),
        (4, last),
        (last, 100),
        (100, end),
        (last - 1, end),
    ] {
        entry(from, to);
    }
    let root_at = match wide {
        true => boot.place(2),
        false => boot.root_sector() * 512,
    } as usize;
    let mut dir = |at: usize, name: &[u8; 11], kind: u8, cluster: u32, size: u32| {
        put(&mut bytes, at, name);
        bytes[at + 11] = kind;
        put(&mut bytes, at + 14, &[1, 2, 3, 4, 5, 6]);
        put(&mut bytes, at + 22, &[7, 8, 9, 10]);
        volume::set_first_cluster(&mut bytes[at..at + 32], wide, cluster);
        put(&mut bytes, at + 28, &size.to_le_bytes());
    };
    let cluster = boot.cluster_bytes() as u32;
    dir(root_at, b"MAIL       ", 8, 0, 0);
    dir(root_at + 32, b"INBOX      ", 0x10, 3, 0);
    dir(root_at + 64, b"EMPTY   TXT", 0x20, 0, 0);
    let inside = boot.place(3) as usize;
    dir(inside, b".          ", 0x10, 3, 0);
    dir(inside + 32, b"..         ", 0x10, 0, 0);
    dir(inside + 64, b"PIECES  EML", 0x20, 4, 3 * cluster - 5);
    dir(inside + 96, b"LAST    EML", 0x20, last - 1, cluster);
    for (n, c) in [4, last, 100, last - 1].into_iter().enumerate() {
        let at = boot.place(c) as usize;
        bytes[at..at + cluster as usize].fill(n as u8 + 1);
    }
    if wide {
        // Six clusters are in use.
        put(&mut bytes, 512 + 488, &(clusters - 6).to_le_bytes());
    }
    MemoryDisk::fixed(bytes)
}

fn longer(disk: &MemoryDisk, more: usize) -> MemoryDisk {
    let mut bytes = disk.content();
    bytes.resize(bytes.len() + more, 0xee);
    MemoryDisk::fixed(bytes)
}

/// Every byte may have been changed.
fn all(disk: &MemoryDisk) -> ExtentMap {
    [Extent::new(0, disk.len_bytes())].into_iter().collect()
}

fn codes(before: &MemoryDisk, after: &MemoryDisk) -> Vec<String> {
    match Fat.compare(before, after, &all(after), 20, &Quiet) {
        Ok(found) => found.into_iter().map(|d| d.code).collect(),
        Err(FsError::Unsupported(refusal)) => vec![refusal.code],
        Err(e) => vec![e.to_string()],
    }
}

#[test]
fn there_and_back() {
    for wide in [false, true] {
        let before = volume(wide);
        assert_eq!(codes(&before, &before), [""; 0]);
        let disk = longer(&before, 8 * MIB);
        let (small, large) = (before.len_bytes(), disk.len_bytes());
        let large = Fat.fit(&before, large).unwrap();
        let less = small - 40 * 512;
        let again = if wide { small + (1 << 19) } else { less };
        for bytes in [less, large, large - (1 << 20), again, large] {
            assert_eq!(Fat.fit(&disk, bytes).unwrap(), bytes);
            Fat.resize_own(&disk, bytes, &Quiet).unwrap();
            let seen = Fat.probe(&disk).unwrap().unwrap();
            assert_eq!(seen.size_bytes, bytes);
            assert_eq!((&*seen.label, &*seen.uuid), ("MAIL", "1234-5678"));
            assert_eq!(codes(&before, &disk), [""; 0], "wide {wide}, {bytes} bytes");
        }
    }
}

#[test]
fn each_damage_is_found() {
    for wide in [false, true] {
        let before = volume(wide);
        let after = longer(&before, 4 * MIB);
        Fat.resize_own(&after, after.len_bytes(), &Quiet).unwrap();
        let boot = Boot::read(&after).unwrap().unwrap();
        let nodes = Volume::read(&after).unwrap().nodes().unwrap();
        let chain = |name: &str| {
            let node = nodes.iter().find(|n| n.path.contains(name)).unwrap();
            boot.place(node.chain[0]) as usize
        };
        let inbox = chain("INBOX") + 64;
        let damage = |at: usize, code: &str| {
            let mut bytes = after.content();
            bytes[at] ^= 1;
            let found = codes(&before, &MemoryDisk::fixed(bytes));
            assert!(
                found.iter().any(|c| c.contains(code)),
                "wide {wide}, {code}: {found:?}"
            );
        };
        damage(chain("PIECES") + 7, "file-content");
        damage(chain("LAST") + 511, "file-content");
        damage(inbox, "file-missing");
        damage(inbox + 11, "flags");
        damage(inbox + 15, "times");
        damage(inbox + 24, "times");
        damage(inbox + 28, "size");
        // Another first cluster: no chain, another length, or another file.
        damage(inbox + 26, "");
        damage(boot.reserved as usize * 512 + 20, "fat-copies-differ");
        damage(3, "boot-block");
        if wide {
            damage(512 + 488, "superblock");
            damage(6 * 512 + 32, "backup-superblock");
        }
        // A file that is lost: its entry is marked as deleted.
        let mut bytes = after.content();
        bytes[inbox] = 0xe5;
        let found = codes(&before, &MemoryDisk::fixed(bytes));
        assert!(found.iter().any(|c| c == "file-missing"), "{found:?}");
    }
}

#[test]
fn a_gate_is_no_volume_and_names_its_transaction() {
    let id = TransactionId([0xcd; 16]);
    for wide in [false, true] {
        let raw = volume(wide).content()[..512].to_vec();
        assert_eq!(Fat.gate(&raw), GateState::Open);
        let closed = Fat.close_gate(&raw, id).unwrap();
        assert_eq!(Fat.gate(&closed), GateState::Closed(id));
        assert!(Fat.close_gate(&closed, id).is_err());
        let mut torn = closed.clone();
        torn[100] = b'x';
        assert_eq!(Fat.gate(&torn), GateState::Invalid);
    }
}

#[test]
fn what_is_not_ours_to_change_is_refused() {
    let refused = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = volume(false).content();
        change(&mut bytes);
        let found = Fat
            .refusals(&MemoryDisk::fixed(bytes), Direction::Grow)
            .unwrap();
        found.into_iter().map(|r| r.code).collect::<Vec<_>>()
    };
    let fats = [4 * 512, 24 * 512];
    assert_eq!(refused(&|_| ()), [""; 0]);
    assert_eq!(refused(&|b| b[37] = 1), ["fat-dirty"]);
    assert_eq!(
        refused(&|b| fats.iter().for_each(|at| b[at + 3] = 0x7f)),
        ["fat-dirty"]
    );
    assert_eq!(refused(&|b| b[fats[1] + 90] = 1), ["fat-copies-differ"]);
    let bad = |b: &mut Vec<u8>| fats.iter().for_each(|at| put(b, at + 90, &[0xf7, 0xff]));
    assert_eq!(refused(&bad), ["fat-bad-clusters"]);
    assert_eq!(
        refused(&|b| b.truncate(3 * MIB)),
        ["fat-larger-than-partition"]
    );
}

#[test]
fn no_bytes_make_it_panic() {
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed % below as u64) as usize
    };
    let start = volume(false).content();
    for round in 0..150 {
        let mut bytes = start.clone();
        for _ in 0..1 + next(6) {
            // Boot sector, both FATs, root directory, the directory below it.
            let at = [
                next(64),
                2048 + next(400),
                12_288 + next(400),
                22_528 + next(160),
                39_936 + next(160),
            ];
            bytes[at[next(5)]] = next(256) as u8;
        }
        let disk = MemoryDisk::fixed(bytes);
        let _ = Fat.probe(&disk);
        let _ = Fat.refusals(&disk, Direction::Grow);
        let _ = Fat.bounds(&disk);
        let _ = Fat.owners(&disk, &all(&disk), 9);
        let shorter = disk.len_bytes() - 100 * 512;
        let _ = Fat.resize_own(&disk, shorter, &Quiet);
        assert!(disk.len_bytes() > 0, "round {round}");
    }
}
