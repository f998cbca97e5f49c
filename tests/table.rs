//! The table codec against other people's tools: what it reads, what it edits, and whether the
//! commands that it recommends do mend.

// The helpers of a test fail it as the test itself would.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use holdfast::disk::MemoryDisk;
use holdfast::table::{Found, Gpt, Opinion, compare, read, second_opinion};

const DISK_BYTES: u64 = 32 << 20;
const LARGER_BYTES: u64 = 40 << 20;

/// Runs a tool and gives what it printed. A tool that is missing fails the test: passing without
/// an oracle would prove nothing.
fn run(tool: &str, args: &[&str], input: &str) -> String {
    let mut child = Command::new(tool)
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

/// An image in a directory of its own.
struct Image {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

impl Image {
    fn empty(len_bytes: u64) -> Image {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.img");
        let file = fs::File::create(&path).unwrap();
        file.set_len(len_bytes).unwrap();
        Image { _dir: dir, path }
    }

    fn sfdisk(script: &str) -> Image {
        let image = Image::empty(DISK_BYTES);
        run("sfdisk", &["-q", image.str()], script);
        image
    }

    fn str(&self) -> &str {
        self.path.to_str().unwrap()
    }

    fn set_len(&self, len_bytes: u64) {
        let file = fs::OpenOptions::new().write(true).open(&self.path);
        file.unwrap().set_len(len_bytes).unwrap();
    }

    /// Flips a byte, counted from the end where negative.
    fn flip(&self, at: i64) {
        let mut bytes = fs::read(&self.path).unwrap();
        let from = if at < 0 { bytes.len() as i64 } else { 0 };
        bytes[(from + at) as usize] ^= 0x55;
        fs::write(&self.path, bytes).unwrap();
    }

    fn disk(&self, sector_bytes: u32) -> MemoryDisk {
        MemoryDisk::fixed(fs::read(&self.path).unwrap()).with_sector_bytes(sector_bytes)
    }

    fn gpt(&self, sector_bytes: u32) -> Gpt {
        match read(&self.disk(sector_bytes)).unwrap() {
            Found::Gpt(gpt) => *gpt,
            other => panic!("not healthy: {other:#?}"),
        }
    }

    /// Edits the image, and lets our codec and the second reader judge the result.
    fn edit(&self, sector_bytes: u32, number: u32, last: u64) {
        let before = self.gpt(sector_bytes);
        let len_bytes = before.disk_len_bytes();
        let writes = before.edit(&self.disk(sector_bytes), number, last, len_bytes);
        let mut bytes = fs::read(&self.path).unwrap();
        for w in writes.unwrap() {
            let at = w.offset as usize;
            bytes[at..at + w.data.len()].copy_from_slice(&w.data);
        }
        fs::write(&self.path, bytes).unwrap();
        let after = self.gpt(sector_bytes);
        assert_eq!(after.partition(number).unwrap().last_lba, last);
        assert_eq!(compare(&before, &after, number, last), [] as [String; 0]);
        let opinion = second_opinion(&after, &self.disk(sector_bytes)).unwrap();
        assert_eq!(opinion, Opinion::Agrees);
    }

    fn dump(&self) -> Vec<String> {
        let text = run("sfdisk", &["-d", self.str()], "");
        text.lines().map(str::to_string).collect()
    }

    /// The hints of a table that must be damaged.
    fn hints(&self) -> String {
        let found = read(&self.disk(512)).unwrap();
        let Found::DamagedGpt { problems, .. } = found else {
            panic!("not seen as damaged: {found:?}");
        };
        let hints: Vec<_> = problems.into_iter().map(|p| p.hint).collect();
        hints.join("\n")
    }
}

/// Fails unless sgdisk and sfdisk find nothing wrong.
fn assert_clean(path: &str) {
    let text = run("sgdisk", &["-v", path], "");
    assert!(text.contains("No problems found"), "{text}");
    let text = run("sfdisk", &["--verify", path], "");
    assert!(text.contains("No errors detected"), "{text}");
    assert!(!text.contains("PMBR"), "{text}");
}

/// Partitions 1, 3 and 4, of which 4 lies before 3 on the disk.
fn script(head: &str) -> String {
    let guid = "6F1D1C2A-0000-4000-8000-00000000000";
    let attributes = "RequiredPartition LegacyBIOSBootable GUID:60,63";
    format!(
        "label: gpt\nlabel-id: 0FD0C5B7-5A2E-4F4D-9E0B-6C1A8F3E2D10\n{head}\n\
         disk1 : start=2048, size=4096, type=U, uuid={guid}1\n\
         disk3 : start=16384, size=8192, type=L, uuid={guid}3, name=\"mail store\", \
         attrs=\"{attributes}\"\n\
         disk4 : start=8192, size=4096, type=S, uuid={guid}4\n"
    )
}

#[test]
fn an_edit_changes_one_line_of_the_dump() {
    for head in [
        "",
        "table-length: 16",
        "table-length: 56",
        "table-length: 256",
    ] {
        let image = Image::sfdisk(&script(head));
        let before = image.dump();
        image.edit(512, 3, 40_959);
        assert_clean(image.str());
        let after = image.dump();
        assert_eq!(before.len(), after.len());
        let changed: Vec<_> = before.iter().zip(&after).filter(|(a, b)| a != b).collect();
        assert_eq!(changed.len(), 1, "{head}: {changed:#?}");
        let expected = changed[0]
            .0
            .replace("size=        8192", "size=       24576");
        assert_eq!(*changed[0].1, expected, "{head}");
    }
}

#[test]
fn an_enlarged_disk_is_grown_into_in_one_run() {
    let image = Image::sfdisk(&script(""));
    let before = image.dump();
    image.set_len(LARGER_BYTES);
    let gpt = image.gpt(512);
    let last = gpt.last_free_lba_after(3, LARGER_BYTES).unwrap();
    image.edit(512, 3, last);
    assert_clean(image.str());
    let after = image.dump();
    let changed: Vec<_> = before.iter().zip(&after).filter(|(a, b)| a != b).collect();
    assert_eq!(changed.len(), 2, "{changed:#?}");
    assert_eq!(*changed[0].1, format!("last-lba: {last}"));
    let size = format!("size= {:>11}", last - 16_384 + 1);
    assert!(changed[1].1.contains(&size), "{changed:#?}");
}

#[test]
fn we_read_what_sgdisk_and_sfdisk_write() {
    let image = Image::sfdisk(&script(""));
    let gpt = image.gpt(512);
    let guid = gpt.disk_guid().to_string();
    assert_eq!(guid, "0fd0c5b7-5a2e-4f4d-9e0b-6c1a8f3e2d10");
    let mail = gpt.partition(3).unwrap();
    let guid = mail.unique_guid.to_string();
    assert_eq!(guid, "6f1d1c2a-0000-4000-8000-000000000003");
    assert_eq!((mail.first_lba, mail.last_lba), (16_384, 24_575));
    assert_eq!(mail.attributes, 0b101 | 1 << 60 | 1 << 63);
    assert_eq!(mail.name, "mail store");
    assert_eq!(mail.type_name(), Some("Linux file system"));

    let image = Image::empty(DISK_BYTES);
    let args = ["-n2:2048:+1M", "-c2:späte Post", "-n1:0:0", image.str()];
    run("sgdisk", &args, "");
    let gpt = image.gpt(512);
    assert_eq!(gpt.notes(), &[] as &[String]);
    assert_eq!(gpt.partition(2).unwrap().name, "späte Post");
    assert_eq!(gpt.partition(1).unwrap().last_lba, gpt.last_usable_lba());
}

#[test]
fn a_third_reader_sees_the_edit_on_4096_byte_sectors() {
    let mut cursor = Cursor::new(vec![0; DISK_BYTES as usize]);
    let mut table = gptman::GPT::new_from(&mut cursor, 4096, [7; 16]).unwrap();
    for (slot, first, last) in [(1, 256, 511), (3, 2048, 3071), (4, 512, 1023)] {
        table[slot] = gptman::GPTPartitionEntry {
            partition_type_guid: [slot as u8; 16],
            unique_partition_guid: [0x10 + slot as u8; 16],
            starting_lba: first,
            ending_lba: last,
            attribute_bits: 1 << 63 | 4,
            partition_name: "Partition".into(),
        };
    }
    table.write_into(&mut cursor).unwrap();
    gptman::GPT::write_protective_mbr_into(&mut cursor, 4096).unwrap();
    let image = Image::empty(0);
    fs::write(&image.path, cursor.into_inner()).unwrap();

    image.edit(4096, 3, 5000);
    let mut file = fs::File::open(&image.path).unwrap();
    let after = gptman::GPT::read_from(&mut file, 4096).unwrap();
    table[3].ending_lba = 5000;
    for slot in 1..=128 {
        assert_eq!(after[slot], table[slot], "slot {slot}");
    }
    assert_eq!(after.header.disk_guid, table.header.disk_guid);
    assert_eq!(after.header.last_usable_lba, table.header.last_usable_lba);
}

#[test]
fn a_hybrid_mbr_is_refused() {
    let image = Image::sfdisk(&script(""));
    run("sgdisk", &["--hybrid=3", image.str()], "");
    let found = read(&image.disk(512)).unwrap();
    assert!(matches!(found, Found::HybridMbr { .. }), "{found:?}");
}

#[test]
fn a_bare_file_system_is_not_taken_for_a_table() {
    let image = Image::empty(DISK_BYTES);
    run("mke2fs", &["-q", "-F", "-t", "ext4", image.str()], "");
    let none = Found::None { notes: Vec::new() };
    assert_eq!(read(&image.disk(512)).unwrap(), none);
}

const DAMAGES: [(&str, i64); 6] = [
    ("primary header", 512 + 60),
    ("primary signature", 512),
    ("primary entries", 1024 + 40),
    ("backup header", -512 + 60),
    ("backup signature", -512),
    ("backup entries", -33 * 512 + 40),
];

/// Every single damage, and the command that the report recommends, run as it stands.
#[test]
fn the_recommended_command_mends_without_losing_a_partition() {
    let clean = Image::sfdisk(&script("")).gpt(512);
    for (what, at) in DAMAGES {
        for len_bytes in [DISK_BYTES, LARGER_BYTES] {
            if at > 0 && len_bytes == LARGER_BYTES {
                continue; // Another command: the next test.
            }
            let image = Image::sfdisk(&script(""));
            image.flip(at);
            image.set_len(len_bytes);
            assert!(image.hints().contains("`sgdisk -e DISK`"), "{what}");
            run("sgdisk", &["-e", image.str()], "");
            let mended = image.gpt(512);
            assert_eq!(mended.partitions(), clean.partitions(), "{what}");
        }
    }
}

/// sgdisk on the whole of such a disk writes an empty table and reports success.
#[test]
fn an_enlarged_disk_with_a_bad_primary_is_mended_at_its_old_length() {
    if without_root() {
        return;
    }
    let clean = Image::sfdisk(&script("")).gpt(512);
    for (what, at) in [DAMAGES[0], DAMAGES[2]] {
        let image = Image::sfdisk(&script(""));
        image.flip(at);
        image.set_len(LARGER_BYTES);
        let hints = image.hints();
        let limit = DISK_BYTES.to_string();
        assert!(
            hints.contains(&format!("--sizelimit {limit} DISK")),
            "{hints}"
        );
        assert!(!hints.contains("`sgdisk -e DISK`"), "{hints}");
        let device = Loop::new(&["--sizelimit", &limit, image.str()]);
        run("sgdisk", &["-e", &device.0], "");
        drop(device);
        assert_eq!(image.gpt(512).partitions(), clean.partitions(), "{what}");
    }
}

#[test]
fn sgdisk_is_content_with_an_edit_on_4096_byte_sectors() {
    if without_root() {
        return;
    }
    let image = Image::empty(DISK_BYTES);
    let device = Loop::new(&["--sector-size", "4096", image.str()]);
    run("sgdisk", &["-n1:256:511", "-n3:2048:3071", &device.0], "");
    drop(device);
    image.edit(4096, 3, 5000);
    let device = Loop::new(&["--sector-size", "4096", image.str()]);
    assert_clean(&device.0);
    let text = run("sfdisk", &["-d", &device.0], "");
    assert!(
        text.contains("start=        2048, size=        2953"),
        "{text}"
    );
}

/// Loop devices need root. To pass a test over has to be asked for.
fn without_root() -> bool {
    let uid = run("id", &["-u"], "");
    if uid.trim() == "0" && Path::new("/dev/loop-control").exists() {
        return false;
    }
    assert!(
        std::env::var_os("HOLDFAST_WITHOUT_ROOT").is_some(),
        "this test needs root and loop devices; set HOLDFAST_WITHOUT_ROOT=1 to pass it over"
    );
    eprintln!("passed over: needs root and loop devices");
    true
}

/// A loop device that goes with the test, also where it panics.
struct Loop(String);

impl Loop {
    fn new(args: &[&str]) -> Loop {
        let args = [&["-f", "--show"], args].concat();
        Loop(run("losetup", &args, "").trim().to_string())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.0]).status();
    }
}
