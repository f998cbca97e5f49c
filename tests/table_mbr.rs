//! The MBR codec against other people's tools: sfdisk, blkid and the `mbrman` crate read what it
//! reads, and write what it writes.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{Cursor, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use holdfast::disk::{FileDisk, MemoryDisk};
use holdfast::table::{Behind, Found, Mbr, Table, read};

const DISK_BYTES: u64 = 64 << 20;

/// Runs a tool and gives what it printed. A tool that is missing fails the test: passing without
/// an oracle would prove nothing.
fn run(tool: &str, args: &[&str], input: &str) -> String {
    // Without these it waits for a kernel that has nothing to do with an image.
    let quick: &[&str] = match (tool, args.first()) {
        ("sfdisk", Some(&"-q")) => &["--no-reread", "--no-tell-kernel"],
        _ => &[],
    };
    let mut child = Command::new(tool)
        .args(quick)
        .args(args)
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("this test needs {tool}: {e}"));
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    let out = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout) + String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{tool} {args:?}: {text}");
    text.into_owned()
}

/// In memory where there is such a place: sfdisk flushes what it writes.
fn workspace() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .unwrap()
}

struct Image {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

impl Image {
    fn of(bytes: &[u8]) -> Image {
        let dir = workspace();
        let path = dir.path().join("disk.img");
        let file = std::fs::File::create(&path).unwrap();
        file.set_len(bytes.len() as u64).unwrap();
        // Sparse: sfdisk flushes all of it.
        for (at, block) in (0..).step_by(4096).zip(bytes.chunks(4096)) {
            if block.iter().any(|&b| b != 0) {
                file.write_all_at(block, at).unwrap();
            }
        }
        Image { _dir: dir, path }
    }

    /// A disk with the table of `script`, and boot code.
    fn sfdisk(script: &str) -> Image {
        let mut bytes = vec![0; DISK_BYTES as usize];
        bytes[..440].fill(0x90);
        let image = Image::of(&bytes);
        run("sfdisk", &["-q", "--wipe=never", image.str()], script);
        image
    }

    fn str(&self) -> &str {
        self.path.to_str().unwrap()
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(&self.path).unwrap()
    }

    fn mbr(&self) -> Mbr {
        mbr(self.bytes(), 512)
    }

    fn dump(&self) -> Vec<String> {
        let text = run("sfdisk", &["-d", self.str()], "");
        let lines = text.lines().filter(|l| !l.starts_with("device:"));
        let name = format!("{} ", self.str());
        lines.map(|l| l.replace(self.str(), &name)).collect()
    }

    /// What our edit makes of it.
    fn edited(&self, number: u32, last: u64) -> Image {
        let (before, bytes) = (self.mbr(), self.bytes());
        let disk = MemoryDisk::fixed(bytes.clone());
        let writes = before.edit(&disk, number, last, DISK_BYTES).unwrap();
        let mut after = bytes;
        for w in writes {
            after[w.offset as usize..][..w.data.len()].copy_from_slice(&w.data);
        }
        let found = read(&MemoryDisk::fixed(after.clone())).unwrap();
        assert_eq!(before.differences(&found, number, last), Some(Vec::new()));
        Image::of(&after)
    }
}

fn mbr(bytes: Vec<u8>, sector: u32) -> Mbr {
    match read(&MemoryDisk::fixed(bytes).with_sector_bytes(sector)).unwrap() {
        Found::Mbr(mbr) => *mbr,
        other => panic!("not healthy: {other:#?}"),
    }
}

/// Partitions 1 and 3, and in 2 the logical 5, 6 and 7; room behind each.
const SCRIPT: &str = "label: dos\nlabel-id: 0xcafe1234\n\
    1 : start=2048, size=4096, type=83, bootable\n\
    2 : start=16384, size=61440, type=f\n\
    3 : start=90112, size=8192, type=7\n\
    5 : start=18432, size=4096, type=83\n\
    6 : start=26624, size=8192, type=82\n\
    7 : start=53248, size=16384, type=83\n";

#[test]
fn we_read_what_sfdisk_and_blkid_read() {
    let image = Image::sfdisk(SCRIPT);
    let mbr = image.mbr();
    let ours: Vec<String> = mbr
        .all_partitions()
        .iter()
        .map(|p| {
            let (first, sectors) = (p.first_lba, p.sectors);
            let bootable = if p.active { ", bootable" } else { "" };
            format!(
                "start={first:>12}, size={sectors:>12}, type={:x}{bootable}",
                p.kind
            )
        })
        .collect();
    let theirs: Vec<String> = image
        .dump()
        .iter()
        .filter_map(|l| Some(l.split_once(" : ")?.1.to_string()))
        .collect();
    assert_eq!(ours, theirs);
    let text = run("blkid", &["-p", "-o", "export", image.str()], "");
    let id = mbr.disk_id().unwrap();
    assert!(text.contains(&format!("PTUUID={id}\n")), "{text}");
    assert!(text.contains("PTTYPE=dos"), "{text}");
}

/// `sfdisk -N` resizes one partition: our sectors are its sectors, to the byte.
#[test]
fn an_edit_is_what_sfdisk_writes() {
    let cases = [
        (1, 12_000),
        (1, 2_100),
        (3, 40_000),
        (5, 4_100),
        (5, 100),
        (7, 20_000),
        (7, 1),
    ];
    for (number, sectors) in cases {
        let image = Image::sfdisk(SCRIPT);
        let mbr = image.mbr();
        let slot = mbr.partitions().into_iter().find(|p| p.number == number);
        let last = slot.unwrap().first_lba + sectors - 1;
        let ours = image.edited(number, last).bytes();
        let n = number.to_string();
        let args = ["-q", "--wipe=never", "--wipe-partitions=never", "-N", &n];
        run(
            "sfdisk",
            &[&args[..], &[image.str()]].concat(),
            &format!(",{sectors}\n"),
        );
        let mut theirs = image.bytes();
        // The links are not widened there, and nothing but other firmware minds.
        for lba in mbr.ebr_lbas() {
            let link = lba as usize * 512 + 446 + 16;
            let differs = ours[link..link + 16] != theirs[link..link + 16];
            assert!(!differs || (number, sectors) == (7, 20_000), "{number}");
            theirs[link..link + 16].copy_from_slice(&ours[link..link + 16]);
        }
        assert!(ours == theirs, "partition {number} to {sectors} sectors");
    }
}

#[test]
fn only_the_planned_lines_of_the_dump_change() {
    let image = Image::sfdisk(SCRIPT);
    let cases: [(u32, u64, &[usize]); 4] = [
        (1, 16_383, &[1]),
        (5, 24_575, &[5]),
        (6, 51_199, &[6]),
        (7, 90_111, &[2, 7]),
    ];
    for (number, last, changed) in cases {
        let after = image.edited(number, last);
        let lines = |image: &Image| -> Vec<(usize, String)> {
            let dump = image.dump();
            let parts = dump.iter().filter_map(|l| l.split_once(" : "));
            let numbers = [1, 2, 3, 5, 6, 7];
            numbers
                .into_iter()
                .zip(parts.map(|(_, l)| l.to_string()))
                .collect()
        };
        let (old, new) = (lines(&image), lines(&after));
        let differing: Vec<usize> = old
            .iter()
            .zip(&new)
            .filter(|(a, b)| a != b)
            .map(|(a, _)| a.0)
            .collect();
        assert_eq!(differing, changed, "{number}: {new:#?}");
        let head = |image: &Image| -> Vec<String> {
            let dump = image.dump();
            dump.into_iter().filter(|l| !l.contains(" : ")).collect()
        };
        assert_eq!(head(&image), head(&after));
        let text = run("sfdisk", &["--verify", after.str()], "");
        assert!(text.contains("No errors detected"), "{text}");
    }
}

/// Beyond what 32 bits of addresses by cylinder can tell, as on every disk of today.
#[test]
fn mbrman_reads_the_same_and_writes_the_same_bytes() {
    for sector in [512u32, 4096] {
        let mut cursor = Cursor::new(vec![0x5A; 40 << 20]);
        let mut theirs = mbrman::MBR::new_from(&mut cursor, sector, [1, 2, 3, 4]).unwrap();
        theirs.align = 1;
        let mut entry = |slot: usize, sys, starting_lba, sectors| {
            theirs[slot] = mbrman::MBRPartitionEntry {
                boot: mbrman::BOOT_INACTIVE,
                first_chs: mbrman::CHS::empty(),
                sys,
                last_chs: mbrman::CHS::empty(),
                starting_lba,
                sectors,
            };
        };
        entry(1, 0x83, 100, 200);
        entry(2, 0x0F, 1000, 5000);
        theirs.push(0x83, 1001, 500).unwrap();
        theirs.push(0x83, 2001, 1000).unwrap();
        theirs.write_into(&mut cursor).unwrap();
        let bytes = cursor.into_inner();
        let ours = mbr(bytes.clone(), sector);
        let seen = |theirs: &mbrman::MBR| -> Vec<(u64, u64)> {
            let used = theirs.iter().filter(|(_, p)| p.is_used());
            used.map(|(_, p)| (p.starting_lba.into(), p.sectors.into()))
                .collect()
        };
        let our_view = |ours: &Mbr| -> Vec<(u64, u64)> {
            let all = ours.all_partitions().iter();
            all.map(|p| (p.first_lba, p.sectors)).collect()
        };
        assert_eq!(our_view(&ours), seen(&theirs));
        // The last logical one outgrows the extended partition.
        let disk = MemoryDisk::fixed(bytes.clone()).with_sector_bytes(sector);
        let first = ours.partitions().last().unwrap().first_lba;
        let last = 7999;
        let writes = ours.edit(&disk, 6, last, bytes.len() as u64).unwrap();
        let mut after = bytes.clone();
        for w in writes {
            after[w.offset as usize..][..w.data.len()].copy_from_slice(&w.data);
        }
        theirs[2].sectors = 7000;
        theirs[6].sectors = (last - first + 1) as u32;
        let link = &mut theirs.logical_partitions[1];
        link.ebr_sectors = Some((last - u64::from(link.absolute_ebr_lba) + 1) as u32);
        let mut cursor = Cursor::new(bytes);
        theirs.write_into(&mut cursor).unwrap();
        assert!(after == cursor.into_inner(), "sectors of {sector}");
        let again = mbrman::MBR::read_from(&mut Cursor::new(&after), sector).unwrap();
        assert_eq!(seen(&again), seen(&theirs));
        assert_eq!(our_view(&mbr(after, sector)), seen(&theirs));
    }
}

/// A sparse file of 3 TiB: sectors of 512 bytes reach to 2 TiB, and a note says what is lost.
#[test]
fn an_mbr_reaches_no_further_than_32_bits() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("disk.img");
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(3 << 40).unwrap();
    drop(file);
    let name = path.to_str().unwrap();
    run(
        "sfdisk",
        &["-q", name],
        "label: dos\n1 : start=2048, size=4096, type=83\n",
    );
    let disk = FileDisk::open_read(&path).unwrap();
    let Found::Mbr(mbr) = read(&disk).unwrap() else {
        panic!("not healthy");
    };
    let room = mbr.room(1, 3 << 40).unwrap();
    assert_eq!(
        (room.last_lba, room.behind),
        (u64::from(u32::MAX), Behind::Format)
    );
    assert!(mbr.notes()[0].contains("1 TiB"), "{:?}", mbr.notes());
}

/// A layout that nobody chose, as a script: primary partitions, and logical ones in an extended one.
fn made_up(random: &mut Random) -> String {
    let mut script = String::from("label: dos\nunit: sectors\n");
    let mut at = 2048 + random.below(3000);
    let (extended, logical) = (1 + random.below(4), 1 + random.below(5));
    for number in 1..=4 {
        let len = 1 + random.below(9000);
        if number == extended {
            let start = at;
            let mut lines = String::new();
            at += 64 + random.below(100);
            for n in 5..5 + logical {
                let len = 1 + random.below(5000);
                lines += &format!("{n} : start={at}, size={len}, type=83\n");
                // Room for the next EBR, which sfdisk puts somewhere in it.
                at += len + 2048 + random.below(4000);
            }
            at -= random.below(2000);
            let len = at - start;
            script += &format!("{number} : start={start}, size={len}, type=5\n{lines}");
        } else if random.below(3) > 0 {
            script += &format!("{number} : start={at}, size={len}, type=83\n");
            at += len;
        }
        at += 1 + random.below(3000);
    }
    script
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) % bound
    }
}

/// We read what sfdisk reads of each, and what we make of it is right for sfdisk: the planned lines
/// differ, and no others. `HOLDFAST_SEED` is the first one.
#[test]
fn layouts_that_nobody_chose() {
    let first = std::env::var("HOLDFAST_SEED")
        .ok()
        .and_then(|s| s.parse().ok());
    let first: u64 = first.unwrap_or(1);
    let dir = workspace();
    let path = dir.path().join("disk.img");
    let name = path.to_str().unwrap();
    let lines = || -> Vec<(u32, u64, u64)> {
        let text = run("sfdisk", &["-d", name], "");
        let line = |l: &str| {
            let (number, rest) = l.strip_prefix(name)?.split_once(" : start=")?;
            let (start, rest) = rest.split_once(", size=")?;
            let size = rest.split(',').next()?.trim();
            Some((
                number.trim().parse().ok()?,
                start.trim().parse().ok()?,
                size.parse().ok()?,
            ))
        };
        text.lines().filter_map(line).collect()
    };
    let mut edits = 0;
    for seed in first..first + 30 {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let file = std::fs::File::create(&path).unwrap();
        file.set_len(DISK_BYTES).unwrap();
        let script = made_up(&mut random);
        run("sfdisk", &["-q", "--wipe=never", name], &script);
        let disk = FileDisk::open_read(&path).unwrap();
        let Found::Mbr(mbr) = read(&disk).unwrap() else {
            panic!("seed {seed}: {script}");
        };
        let before = lines();
        let ours: Vec<(u32, u64, u64)> = mbr
            .all_partitions()
            .iter()
            .map(|p| (p.number, p.first_lba, p.sectors))
            .collect();
        assert_eq!(ours, before, "seed {seed}: {script}");
        let slots = mbr.partitions();
        let slot = &slots[random.below(slots.len() as u64) as usize];
        let room = mbr.room(slot.number, DISK_BYTES).unwrap().last_lba;
        let last = match random.below(2) {
            0 => room,
            _ => slot.first_lba + random.below(room + 1 - slot.first_lba),
        };
        for w in mbr.edit(&disk, slot.number, last, DISK_BYTES).unwrap() {
            file.write_all_at(&w.data, w.offset).unwrap();
        }
        let text = run("sfdisk", &["--verify", name], "");
        assert!(text.contains("No errors detected"), "seed {seed}: {text}");
        let widened = mbr.widened(slot.number, last);
        let planned: Vec<(u32, u64, u64)> = before
            .iter()
            .map(|&(number, start, size)| match widened {
                _ if number == slot.number => (number, start, last + 1 - start),
                Some((around, _, then)) if number == around => (number, start, then.len / 512),
                _ => (number, start, size),
            })
            .collect();
        assert_eq!(lines(), planned, "seed {seed}");
        edits += u64::from(planned != before);
    }
    assert!(edits > 15, "{edits} edits changed something");
}
