//! The driver's own reading of XFS, held against `blkid`, `xfs_db` and random damage.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use holdfast::disk::{FileDisk, MemoryDisk, read_vec};
use holdfast::extent::{Extent, ExtentMap};
use holdfast::fs::xfs::fields::checksum;
use holdfast::fs::xfs::group::Group;
use holdfast::fs::xfs::superblock::superblock_of;
use holdfast::fs::{Direction, FsError, GateState, TransactionId, driver};
use holdfast::report::Quiet;

use super::bed::{MIB, NOW, make, template, workspace, xfs_db};
use super::hostile::{inode_of, place_of};
use super::image::{Mounted, bytes, sh};
use super::{is_root, rows};

/// Changes bytes of the superblock, and makes the checksum fit.
pub fn patch(image: &Path, at: usize, bytes: &[u8]) {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(image)
        .unwrap();
    let mut sector = vec![0; 512];
    file.read_exact_at(&mut sector, 0).unwrap();
    sector[at..at + bytes.len()].copy_from_slice(bytes);
    let sum = checksum(&sector, 224);
    sector[224..228].copy_from_slice(&sum.to_le_bytes());
    file.write_all_at(&sector, 0).unwrap();
}

#[test]
fn it_is_recognised_as_blkid_does() {
    if !is_root() {
        return;
    }
    for shape in [rows::PLAIN, rows::SHAPES[0], rows::SHAPES[3]] {
        let image = template(&shape);
        let said = sh(Command::new("blkid")
            .args(["-p", "-o", "export"])
            .arg(&image));
        let value = |key: &str| -> String {
            let line = said.lines().find(|l| l.starts_with(&format!("{key}=")));
            line.unwrap().split_once('=').unwrap().1.into()
        };
        let disk = FileDisk::open_read(&image).unwrap();
        let found = driver("xfs").unwrap().probe(&disk).unwrap().unwrap();
        assert_eq!(found.kind, value("TYPE"));
        assert_eq!(found.uuid, value("UUID"));
        assert_eq!(found.label, value("LABEL"));
        assert_eq!(found.size_bytes, NOW);
        assert!(!found.needs_replay, "{found:?}");
    }
}

/// What is free is what `xfs_db` says is free, in every shape that is supported.
#[test]
fn what_is_in_use_is_what_xfs_db_says() {
    if !is_root() {
        return;
    }
    let mut pieces = 0;
    let good = |shape: &&rows::Shape| shape.grow == rows::Expect::Done;
    for shape in rows::SHAPES.iter().filter(good).chain([&rows::PLAIN]) {
        let image = template(shape);
        let disk = FileDisk::open_read(&image).unwrap();
        let sb = superblock_of(&disk).unwrap();
        let used = driver("xfs").unwrap().used(&disk, &Quiet).unwrap();
        let mut free: ExtentMap = used
            .gaps(Extent::new(0, sb.size_bytes()))
            .into_iter()
            .collect();
        pieces += free.len();
        // The kept blocks are free to xfs_db, and in use to us.
        for number in 0..sb.groups {
            for block in Group::read(&disk, &sb, number).unwrap().kept().unwrap() {
                let at = sb.byte_of(number, block);
                assert!(used.contains(Extent::new(at, sb.block_bytes)));
                free.insert(Extent::new(at, sb.block_bytes));
            }
        }
        let said = xfs_db(&image, &["freesp -d"]);
        let row = |line: &str| -> Option<Extent> {
            let numbers: Result<Vec<u64>, _> = line.split_whitespace().map(str::parse).collect();
            let &[group, block, count] = numbers.ok()?.as_slice() else {
                return None;
            };
            Some(Extent::new(
                sb.byte_of(group, block),
                count * sb.block_bytes,
            ))
        };
        // The histogram behind it has more columns.
        let theirs: ExtentMap = said
            .lines()
            .take_while(|line| !line.contains("from"))
            .filter_map(row)
            .collect();
        assert_eq!(free, theirs, "{}", shape.name);
    }
    assert!(pieces > 40, "{pieces} pieces are too little to see");
}

/// What lies somewhere is called by its path, in every shape that is supported.
#[test]
fn bytes_have_owners() {
    if !is_root() {
        return;
    }
    let good = |shape: &&rows::Shape| shape.grow == rows::Expect::Done;
    for shape in rows::SHAPES.iter().filter(good).chain([&rows::PLAIN]) {
        let image = template(shape);
        let disk = FileDisk::open_read(&image).unwrap();
        let owners = |at: u64, len: u64| -> Vec<String> {
            let wanted = [Extent::new(at, len)].into_iter().collect();
            driver("xfs").unwrap().owners(&disk, &wanted, 50).unwrap()
        };
        for (seed, path) in [
            (5005, "/large"),
            (7003, "/dir5/below/pieces"),
            (7250, "/dir5/below/pieces"),
        ] {
            let at = place_of(&image, &bytes(64, seed));
            assert_eq!(owners(at + 7, 1), [path], "{}", shape.name);
        }
        let sb = superblock_of(&disk).unwrap();
        assert_eq!(owners(sb.byte_of(1, 0), 512), ["group 1"], "{}", shape.name);
        assert_eq!(
            owners(sb.log.start + 4096, 512),
            ["the log"],
            "{}",
            shape.name
        );
        let inode = |path: &str| inode_of(&image, path);
        // Where an inode lies is in its number.
        let place = |number: u64| {
            let per_block = u32::from(sb.fields().u8(123));
            let (group, block) = sb.split(number >> per_block);
            sb.byte_of(group, block) + (number & ((1 << per_block) - 1)) * sb.inode_bytes
        };
        let at = place(inode("dir3/file3"));
        assert_eq!(owners(at, 100), ["/dir3/file3"], "{}", shape.name);
        assert_eq!(
            owners(place(inode("many")), 100),
            ["/many"],
            "{}",
            shape.name
        );
    }
}

#[test]
fn the_gate_is_closed_opened_and_told_apart() {
    if !is_root() {
        return;
    }
    let xfs = driver("xfs").unwrap();
    for shape in [rows::PLAIN, rows::SHAPES[1]] {
        let disk = FileDisk::open_read(&template(&shape)).unwrap();
        let place = xfs.superblock();
        let open = read_vec(&disk, place.start, place.len as usize).unwrap();
        assert_eq!(xfs.gate(&open), GateState::Open);
        let id = TransactionId(std::array::from_fn(|n| n as u8 + 1));
        let closed = xfs.close_gate(&open, id).unwrap();
        assert_eq!(xfs.gate(&closed), GateState::Closed(id));
        assert!(xfs.close_gate(&closed, id).is_err(), "not twice");
        // Any other byte of the superblock's sector makes it nothing.
        let sector = if shape.options.contains("4096") {
            4096
        } else {
            512
        };
        for at in (0..sector).step_by(7) {
            let mut torn = closed.clone();
            torn[at] ^= 0x10;
            assert_eq!(xfs.gate(&torn), GateState::Invalid, "byte {at}");
        }
        assert_eq!(xfs.gate(&[]), GateState::Invalid);
        assert_eq!(xfs.gate(&closed[..511]), GateState::Invalid);
    }
}

/// The sizes that it says it can take are those that the kernel makes: a last group of less than 64
/// blocks is not made.
#[test]
fn a_stub_of_a_group_is_not_planned() {
    if !is_root() {
        return;
    }
    let disk = FileDisk::open_read(&template(&rows::PLAIN)).unwrap();
    let xfs = driver("xfs").unwrap();
    let group = 16 * MIB;
    for (wish, made) in [
        (NOW, NOW),
        (NOW + 63 * 4096, NOW),
        (NOW + 64 * 4096 - 1, NOW),
        (NOW + 64 * 4096, NOW + 64 * 4096),
        (NOW + group + 4096, NOW + group),
        (NOW + 24 * MIB + 4095, NOW + 24 * MIB),
    ] {
        assert_eq!(xfs.fit(&disk, wish).unwrap(), made, "{wish}");
    }
    let bounds = xfs.bounds(&disk).unwrap();
    assert_eq!(bounds.min_bytes, NOW);
    assert!(bounds.max_bytes > 1 << 50, "{bounds:?}");
}

/// Whatever the bytes, an answer or an error: no panic, no endless loop.
#[test]
fn damage_is_an_error() {
    if !is_root() {
        return;
    }
    let xfs = driver("xfs").unwrap();
    let dir = workspace();
    let path = dir.path().join("small");
    make(&path, "-m rmapbt=1 -d size=32m");
    std::fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(32 * MIB)
        .unwrap();
    {
        let mounted = Mounted::at(&path, 0, "nouuid,noatime");
        for n in 0..200 {
            std::fs::write(mounted.path().join(format!("f{n}")), bytes(n * 50, 3)).unwrap();
        }
    }
    let whole = std::fs::read(&path).unwrap();
    let good = MemoryDisk::fixed(whole.clone());
    let sb = superblock_of(&good).unwrap();
    let used = xfs.used(&good, &Quiet).unwrap();
    let seed = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_nanos() as u64;
    println!("seed {seed}");
    let noise = bytes(16 * 250, seed);
    let mut refused = 0;
    for chunk in noise.chunks(16) {
        let number = |at: usize| u64::from_le_bytes(chunk[at..at + 8].try_into().unwrap());
        let mut bytes = whole.clone();
        // In the heads of the groups and the first blocks behind them, where the trees are; with a
        // checksum that fits in half the cases.
        let group = sb.byte_of(number(0) % sb.groups, 0);
        let at = number(0) / 7 % (12 * sb.block_bytes);
        bytes[(group + at) as usize] ^= (number(8) as u8).max(1);
        if chunk[15] & 1 == 0 {
            let (from, len, crc) = match (at / 512, at / 4096) {
                (0, _) => (0, 512, 224),
                (1, _) => (512, 512, 216),
                (2, _) => (1024, 512, 312),
                (3, _) => (1536, 512, 32),
                (_, block) => (block * 4096, 4096, 52),
            };
            let from = (group + from) as usize;
            let sum = checksum(&bytes[from..from + len], crc);
            bytes[from + crc..from + crc + 4].copy_from_slice(&sum.to_le_bytes());
        }
        let disk = MemoryDisk::fixed(bytes);
        let failed = |e: Option<FsError>| u32::from(e.is_some());
        refused += failed(xfs.probe(&disk).err());
        refused += failed(xfs.refusals(&disk, Direction::Grow).err());
        refused += failed(xfs.used(&disk, &Quiet).err());
        refused += failed(xfs.owners(&disk, &used, 50).err());
        let _ = xfs.bounds(&disk);
        let _ = xfs.fit(&disk, 1 << 40);
        let _ = xfs.delta_estimate(&disk, &used, 1 << 40);
        let changed = [Extent::new(group, 12 * 4096)].into_iter().collect();
        let _ = xfs.compare(&good, &disk, &changed, 20, &Quiet);
        let _ = xfs.only_replayed(&good, &disk, &changed, 20, &Quiet);
    }
    assert!(refused > 8, "seed {seed}: {refused}");
    // Cut off anywhere.
    for len in [0, 1, 511, 512, 4095, 4096, 8192, 1 << 20] {
        let disk = MemoryDisk::fixed(whole[..len].to_vec());
        let _ = xfs.probe(&disk);
        assert!(xfs.used(&disk, &Quiet).is_err());
    }
}
