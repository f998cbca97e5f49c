//! An ntfsresize that lies: it does its work, and then harm. The harm is bytes at places that the
//! test works out beforehand; a grow moves no file.

use std::path::Path;

use holdfast::disk::{DiskRead, FileDisk};
use holdfast::fs::ntfs::inode::utf16;
use holdfast::fs::ntfs::record::kind;
use holdfast::fs::ntfs::runs::Run;
use holdfast::fs::ntfs::volume::{Volume, file};

use super::refused::{place_of, record_at};
use super::scene::{Scene, Stamp, root, text};
use super::volume::{CROWDED, USUAL, image};

/// Bytes to write, and where.
type Patch = (u64, Vec<u8>);

impl Scene {
    /// Puts an ntfsresize first that does `after` to the file once it has resized it; `$file` is it.
    fn lie(&self, after: &str) {
        self.lie_also(after, "exec /usr/sbin/ntfsresize \"$@\"");
    }

    /// The same, with something else in place of the check afterwards.
    fn lie_also(&self, after: &str, check: &str) {
        let script = format!(
            "#!/bin/sh\nfor file in \"$@\"; do :; done\ncase \" $* \" in\n*' --force '*' --size '*) \
             ;;\n*' --info '*' --force '*) {check};;\n*) exec /usr/sbin/ntfsresize \"$@\";;\nesac\n\
             /usr/sbin/ntfsresize \"$@\" || exit\n{after}\nexit 0"
        );
        self.program("ntfsresize", &script);
    }

    fn patch_after(&self, patches: &[Patch]) {
        self.lie(&writes(patches));
    }
}

/// A script that writes these to `$file`.
fn writes(patches: &[Patch]) -> String {
    let writes = patches.iter().map(|(at, bytes)| {
        let bytes: String = bytes.iter().map(|b| format!("\\x{b:02x}")).collect();
        format!(
            "perl -e 'open F,\"+<\",$ARGV[0] or die; seek F,{at},0; print F \"{bytes}\"; \
                 close F or die' \"$file\" || exit 9"
        )
    });
    writes.collect::<Vec<_>>().join("\n")
}

/// The record of the file with this name.
fn record_of(volume: &Path, name: &str) -> u64 {
    let disk = FileDisk::open_read(volume).unwrap();
    let volume = Volume::open(&disk).unwrap();
    let mut numbers = 0..volume.records;
    let found = numbers.find(|&number| {
        let inode = volume.inode(number);
        inode.is_ok_and(|inode| inode.names().iter().any(|n| utf16(n.text) == name))
    });
    found.unwrap_or_else(|| panic!("no {name}"))
}

fn byte(volume: &Path, at: u64) -> u8 {
    let mut byte = [0];
    let disk = FileDisk::open_read(volume).unwrap();
    disk.read_at(at, &mut byte).unwrap();
    byte[0]
}

/// Turns a bit of the value of a file's attribute.
fn turn(volume: &Path, number: u64, kind: u32, name: &str, offset: u64) -> Patch {
    let at = place_of(volume, number, kind, name) + offset;
    (at, vec![byte(volume, at) ^ 1])
}

/// Turns bits of the head of a record.
fn head(volume: &Path, number: u64, offset: u64, bits: u8) -> Patch {
    let disk = FileDisk::open_read(volume).unwrap();
    let at = record_at(&Volume::open(&disk).unwrap(), number) + offset;
    (at, vec![byte(volume, at) ^ bits])
}

fn assert_rejected(scene: &Scene, before: &Stamp, codes: &[&str], named: &str, what: &str) {
    let target = scene.image();
    let grow = ["grow", text(&target), "--disk-size", "60MiB", "--yes"];
    let answer = scene.holdfast(&grow);
    answer.assert(4, "rejected", what);
    let found = answer.refusals();
    assert!(
        found
            .iter()
            .any(|(code, message)| codes.contains(code) && message.contains(named)),
        "{what}: no {codes:?} that names {named}: {found:#?}\n{}",
        scene.tool_log("ntfsresize")
    );
    assert_eq!(
        &Stamp::of(&target),
        before,
        "{what}: the target was touched"
    );
    scene.assert_nothing_left(what);
    scene.clear();
}

#[test]
fn every_kind_of_damage_is_caught() {
    if !root() {
        return;
    }
    let volume = image(USUAL);
    let scene = Scene::of(&volume);
    let before = Stamp::of(&scene.image());
    let of = |name| record_of(&volume, name);
    let (small, message, big) = (of("5.eml"), of("99.eml"), of("big.bin"));
    let (data, standard) = (kind::DATA, kind::STANDARD_INFORMATION);
    let turned = |number, kind, name, at| turn(&volume, number, kind, name, at);
    let last = 48 * (1 << 20) / 4096 - 100;
    let cases: &[(&str, Vec<Patch>, &[&str], &str)] = &[
        (
            "a bit in a record",
            vec![turned(small, data, "", 7)],
            &["file-content"],
            "5.eml",
        ),
        (
            "a bit in a cluster",
            vec![turned(message, data, "", 77)],
            &["file-content"],
            "99.eml",
        ),
        (
            "a bit far inside",
            vec![turned(big, data, "", 3 << 20)],
            &["file-content"],
            "big.bin",
        ),
        (
            "a bit behind the end of a file",
            vec![turned(message, data, "", 4095)],
            &["file-content"],
            "99.eml",
        ),
        (
            "a bit of another stream",
            vec![turned(of("4.eml"), data, "long", 5)],
            &["file-content"],
            "4.eml:long",
        ),
        (
            "a time",
            vec![turned(small, standard, "", 9)],
            &["times"],
            "5.eml",
        ),
        (
            "a flag",
            vec![turned(small, standard, "", 32)],
            &["flags"],
            "5.eml",
        ),
        (
            "an owner",
            vec![turned(file::ROOT, kind::SECURITY_DESCRIPTOR, "", 30)],
            &["owner"],
            "",
        ),
        (
            "a name",
            vec![turned(small, kind::FILE_NAME, "", 0x42)],
            &["links"],
            "5.eml",
        ),
        (
            "a count of names",
            vec![head(&volume, big, 0x12, 4)],
            &["links"],
            "big.bin",
        ),
        (
            "a lost file",
            vec![head(&volume, small, 0x16, 1)],
            &["file-missing"],
            "5.eml",
        ),
        (
            "a use count",
            vec![head(&volume, small, 0x10, 8)],
            &["inode"],
            "5.eml",
        ),
        (
            "an entry of a directory",
            vec![turned(
                of("large directory"),
                kind::INDEX_ALLOCATION,
                "$I30",
                600,
            )],
            &["directory"],
            "large directory",
        ),
        (
            "an entry of the root",
            vec![turned(file::ROOT, kind::INDEX_ALLOCATION, "$I30", 0x98)],
            &["directory", "result-unreadable"],
            "",
        ),
        (
            "the table of capitals",
            vec![turned(10, data, "", 40_000)],
            &["file-content"],
            "$UpCase",
        ),
        (
            "the boot code",
            vec![(700, vec![0x5a])],
            &["boot-block"],
            "$Boot",
        ),
        (
            "the boot sector",
            vec![(0x1a0, vec![0x5a])],
            &["superblock"],
            "boot sector",
        ),
        (
            "the serial number",
            vec![(0x48, vec![0x5a])],
            &["identity-changed"],
            "",
        ),
        (
            "the backup of the boot sector",
            vec![(60 * (1 << 20) - 512 + 0x60, vec![0x5a])],
            &["backup-superblock"],
            "backup boot sector",
        ),
        (
            "the copy of the table",
            vec![turned(file::MIRROR, data, "", 0x40)],
            &["backup-superblock", "result-not-clean"],
            "",
        ),
        (
            "the journal",
            vec![turned(file::LOG, data, "", 100_000)],
            &["journal"],
            "$LogFile",
        ),
        (
            "a record in use that was not",
            vec![head(&volume, of("6.eml") + 1, 0x16, 1)],
            &["file-new", "file-missing", "result-not-clean"],
            "",
        ),
        // Nobody has said that the cluster is in use; the real tool makes $Bitmap in cluster 3.
        (
            "a bitmap that has too much",
            vec![(3 * 4096 + last / 8, vec![1])],
            &["bitmap", "result-not-clean"],
            "",
        ),
    ];
    for (what, patches, codes, named) in cases {
        scene.patch_after(patches);
        assert_rejected(&scene, &before, codes, named, what);
    }
}

#[test]
fn success_without_work_and_work_elsewhere() {
    if !root() {
        return;
    }
    let scene = Scene::of(&image(USUAL));
    let before = Stamp::of(&scene.image());
    let work = "echo 'Successfully resized NTFS on device'; exit 0";
    let lies: [(&str, &str, &[&str]); 4] = [
        ("nothing", work, &["wrong-size"]),
        ("failure", "exit 1", &["resize-failed"]),
        (
            "another size",
            "/usr/sbin/ntfsresize --force --size 40000000 \"$file\"; exit 0",
            &["wrong-size"],
        ),
        ("silence", "exit 0", &["resize-failed"]),
    ];
    for (what, lie, codes) in lies {
        let script = format!(
            "#!/bin/sh\nfor file in \"$@\"; do :; done\ncase \" $* \" in\n*' --force '*' --size '*) \
             {lie};;\nesac\nexec /usr/sbin/ntfsresize \"$@\""
        );
        scene.program("ntfsresize", &script);
        assert_rejected(&scene, &before, codes, "", what);
    }
    // Dirty it must be, or Windows will not look.
    let volume = image(USUAL);
    let disk = FileDisk::open_read(&volume).unwrap();
    let record = record_at(&Volume::open(&disk).unwrap(), file::VOLUME);
    let flags = place_of(&volume, file::VOLUME, kind::VOLUME_INFORMATION, "") + 10;
    let copy = place_of(&volume, file::MIRROR, kind::DATA, "") + 3 * 1024 + flags - record;
    scene.patch_after(&[(flags, vec![0]), (copy, vec![0])]);
    assert_rejected(
        &scene,
        &before,
        &["superblock"],
        "$Volume",
        "a clean volume",
    );
    // Where the check lies as well, our own account finds what is marked wrongly.
    let free = 48 * (1 << 20) / 4096 - 100;
    for (what, patch) in [
        ("too much", (3 * 4096 + free / 8, vec![1])),
        ("too little", (3 * 4096, vec![0xfe])),
    ] {
        scene.lie_also(&writes(&[patch]), "exit 0");
        assert_rejected(&scene, &before, &["bitmap"], "cluster", what);
    }
    scene.lie("echo x >>\"$file\"");
    assert_rejected(
        &scene,
        &before,
        &["io-error", "resize-failed"],
        "",
        "beyond the end",
    );
}

/// A resizer that moves things is caught as well: a shrink, with files in many pieces.
#[test]
fn what_is_lost_while_it_moves_is_found() {
    if !root() {
        return;
    }
    let scene = Scene::of(&image(CROWDED));
    let target = scene.image();
    let before = Stamp::of(&target);
    // A cluster of a file that lies beyond the new end, known by its first bytes.
    let disk = FileDisk::open_read(&target).unwrap();
    let volume = Volume::open(&disk).unwrap();
    let inode = volume.inode(record_of(&target, "pieces")).unwrap();
    let runs = inode.attribute(kind::DATA, "").unwrap().runs();
    let beyond = |run: &&Run| run.lcn.is_some_and(|lcn| lcn >= 20 << 8);
    let moved = runs.iter().find(beyond).unwrap();
    let mut known = [0; 16];
    let at = volume.bytes_of(moved.lcn.unwrap(), 1).start;
    disk.read_at(at, &mut known).unwrap();
    let known: String = known.iter().map(|b| format!("{b:02x}")).collect();
    scene.lie(&format!(
        "perl -e 'open F,\"+<\",$ARGV[0] or die; for ($n=0;$n<5119;$n++) {{ seek F,$n*4096,0; \
         read F,$b,101; if (unpack(\"H32\",$b) eq \"{known}\") {{ seek F,$n*4096+100,0; \
         print F chr(1^ord substr $b,100,1); }} }} close F' \"$file\""
    ));
    let answer = scene.holdfast(&["shrink", text(&target), "--to", "20MiB", "--yes"]);
    answer.assert(4, "rejected", "moved");
    let found = answer.refusals();
    let is_it =
        |(code, message): &(&str, &str)| *code == "file-content" && message.contains("/pieces");
    assert!(found.iter().any(is_it), "{found:#?}");
    assert_eq!(Stamp::of(&target), before);
}
