//! What stands against a resize, and that nothing was touched.

use std::fs;
use std::path::Path;
use std::process::Command;

use holdfast::disk::FileDisk;
use holdfast::fs::ntfs::record::kind;
use holdfast::fs::ntfs::volume::{Volume, file};

use super::scene::{Scene, Stamp, root, run, text};
use super::tree::Mount;
use super::volume::{USUAL, image, noise, patch};

/// Where the value of an attribute lies on the volume: in its record or in its first cluster.
pub fn place_of(volume: &Path, number: u64, kind: u32, name: &str) -> u64 {
    let disk = FileDisk::open_read(volume).unwrap();
    let volume = Volume::open(&disk).unwrap();
    let inode = volume.inode(number).unwrap();
    let attribute = inode.attribute(kind, name).unwrap();
    if let Some(run) = attribute.runs().first() {
        return run.lcn.unwrap() * volume.boot.cluster_bytes;
    }
    let value = attribute.value().unwrap();
    let raw = volume.raw_record(number).unwrap();
    // The ends of sectors hold update sequence numbers.
    let same = |at: usize| {
        let pairs = raw[at..].iter().zip(value).enumerate();
        pairs
            .into_iter()
            .all(|(n, (a, b))| a == b || (at + n) % 512 >= 510)
    };
    let inside = (0..=raw.len() - value.len()).find(|&at| same(at)).unwrap();
    record_at(&volume, number) + inside as u64
}

/// Where a record lies.
pub fn record_at(volume: &Volume<'_>, number: u64) -> u64 {
    let at = number * volume.boot.record_bytes;
    let (vcn, inside) = (
        at / volume.boot.cluster_bytes,
        at % volume.boot.cluster_bytes,
    );
    let run = volume.mft.iter().find(|run| vcn < run.end()).unwrap();
    (run.lcn.unwrap() + vcn - run.vcn) * volume.boot.cluster_bytes + inside
}

/// A grow is refused with this code and a hint, both from `plan` and from `grow`.
fn assert_refused(scene: &Scene, code: &str, hint: &str) {
    let target = scene.image();
    let before = Stamp::of(&target);
    for verb in [&["grow", "--yes"][..], &["plan", "grow"]] {
        let last = [text(&target), "--disk-size", "60MiB"];
        let answer = scene.holdfast(&[verb, &last].concat());
        answer.assert(3, "refused", code);
        let refusals = answer.document["refusals"].as_array().unwrap();
        let found = refusals.iter().find(|r| r["code"] == code);
        let found = found.unwrap_or_else(|| panic!("no {code}: {refusals:#?}"));
        assert!(found["hint"].as_str().unwrap().contains(hint), "{found}");
    }
    assert_eq!(Stamp::of(&target), before, "{code}: the target was touched");
    scene.assert_nothing_left(code);
}

/// The size that it has already is no change, whatever its state.
fn assert_no_change(scene: &Scene, what: &str) {
    let target = scene.image();
    let answer = scene.holdfast(&["grow", text(&target), "--to", "max", "--yes"]);
    answer.assert(0, "no-change", what);
}

#[test]
fn a_dirty_volume() {
    if !root() {
        return;
    }
    let scene = Scene::of(&image(USUAL));
    // Both the record and its copy are patched by the tool itself.
    run("ntfsfix", &[text(&scene.image())]);
    assert_refused(&scene, "ntfs-dirty", "chkdsk /f");
    assert_no_change(&scene, "dirty");
}

#[test]
fn a_volume_with_other_flags_or_version() {
    if !root() {
        return;
    }
    let scene = Scene::of(&image(USUAL));
    let target = scene.image();
    let at = place_of(&target, file::VOLUME, kind::VOLUME_INFORMATION, "");
    patch(&target, at + 10, &0x4000u16.to_le_bytes());
    assert_refused(&scene, "ntfs-work-pending", "chkdsk /f");
    assert_no_change(&scene, "pending");
    patch(&target, at + 8, &[4, 0, 0, 0]);
    assert_refused(&scene, "ntfs-version", "Windows");
}

#[test]
fn a_volume_on_which_windows_sleeps() {
    if !root() {
        return;
    }
    for (magic, asleep) in [("hibr", true), ("HIBR", true), ("wake", false)] {
        let scene = Scene::of(&image(USUAL));
        let target = scene.image();
        {
            let mount = Mount::of(&target, "");
            let mut session = noise(9, 8192);
            session[..4].copy_from_slice(magic.as_bytes());
            fs::write(mount.path().join("hiberfil.sys"), session).unwrap();
        }
        if asleep {
            assert_refused(&scene, "ntfs-hibernated", "powercfg /h off");
        } else {
            let answer = scene.holdfast(&["plan", "grow", text(&target), "--disk-size", "60MiB"]);
            answer.assert(0, "done", magic);
        }
        assert_no_change(&scene, magic);
    }
}

/// A page of the journal that Windows would leave.
fn restart_page(lsn: u64, clients: u16, flags: u16, major: u16) -> Vec<u8> {
    let mut page = vec![0; 4096];
    let mut put = |at: usize, bytes: &[u8]| page[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"RSTR");
    put(4, &0x1eu16.to_le_bytes());
    put(6, &9u16.to_le_bytes());
    put(0x10, &4096u32.to_le_bytes());
    put(0x14, &4096u32.to_le_bytes());
    put(0x18, &0x30u16.to_le_bytes());
    put(0x1a, &(u16::from(major == 1)).to_le_bytes());
    put(0x1c, &major.to_le_bytes());
    put(0x1e, &[1, 0]);
    put(0x30, &lsn.to_le_bytes());
    put(0x3c, &clients.to_le_bytes());
    put(0x3e, &flags.to_le_bytes());
    for end in (510..4096).step_by(512) {
        put(end, &[1, 0]);
    }
    page
}

#[test]
fn a_journal_that_is_not_closed() {
    if !root() {
        return;
    }
    const NONE: u16 = 0xffff;
    for (first, second, open) in [
        (
            restart_page(10, NONE, 0, 1),
            restart_page(9, 0, 0, 1),
            false,
        ),
        (restart_page(10, 0, 2, 1), restart_page(9, 0, 0, 1), false),
        (
            restart_page(10, NONE, 0, 1),
            restart_page(11, 0, 0, 1),
            true,
        ),
        (
            restart_page(10, NONE, 2, 2),
            restart_page(9, NONE, 2, 2),
            true,
        ),
        (vec![0; 4096], vec![0; 4096], true),
    ] {
        let scene = Scene::of(&image(USUAL));
        let target = scene.image();
        let at = place_of(&target, file::LOG, kind::DATA, "");
        patch(&target, at, &[first, second].concat());
        if open {
            assert_refused(&scene, "ntfs-log-open", "shutdown /s /f /t 0");
            assert_no_change(&scene, "open journal");
            continue;
        }
        // A journal that was closed is emptied by the resize, and the change goes through.
        let grow = ["grow", text(&target), "--disk-size", "60MiB", "--yes"];
        scene.holdfast(&grow).assert(0, "done", "closed journal");
        let head = &fs::read(&target).unwrap()[at as usize..at as usize + 8192];
        assert!(head.iter().all(|&byte| byte == 0xff));
    }
}

#[test]
fn bad_sectors() {
    if !root() {
        return;
    }
    let scene = Scene::of(&image(USUAL));
    let target = scene.image();
    // A run of one cluster in the middle of the hole: 1 at 6000, and the holes around it.
    let clusters = 48 * (1u32 << 20) / 4096 - 1;
    let rest = (clusters - 6001).to_le_bytes();
    let mut pairs = vec![
        0x02, 0x70, 0x17, 0x21, 1, 0x70, 0x17, 0x02, rest[0], rest[1],
    ];
    pairs.extend([0; 2]);
    let disk = FileDisk::open_read(&target).unwrap();
    let volume = Volume::open(&disk).unwrap();
    let raw = volume.raw_record(file::BAD).unwrap();
    let hole = [[0x02].as_slice(), &clusters.to_le_bytes()[..2], &[0]].concat();
    let at = raw.windows(4).rposition(|w| w == hole).unwrap();
    let at = record_at(&volume, file::BAD) + at as u64;
    // The attribute gets longer by eight, as does the record; what follows it is the end mark.
    let length = raw
        .windows(4)
        .rposition(|w| w == 0x80u32.to_le_bytes())
        .unwrap();
    let start = record_at(&volume, file::BAD);
    let old = u32::from_le_bytes(raw[length + 4..length + 8].try_into().unwrap());
    let used = u32::from_le_bytes(raw[0x18..0x1c].try_into().unwrap());
    patch(&target, start + length as u64 + 4, &(old + 8).to_le_bytes());
    patch(&target, start + 0x18, &(used + 8).to_le_bytes());
    patch(&target, at, &pairs);
    let end = start + length as u64 + u64::from(old) + 8;
    patch(&target, end, &[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
    assert_refused(&scene, "ntfs-bad-sectors", "good disk");
}

/// Damage that only a count of all clusters finds is found by ntfsresize, on the overlay.
#[test]
fn a_bitmap_that_lies() {
    if !root() {
        return;
    }
    let scene = Scene::of(&image(USUAL));
    let target = scene.image();
    let at = place_of(&target, file::BITMAP, kind::DATA, "");
    let mut byte = fs::read(&target).unwrap()[at as usize + 400];
    byte ^= 0x10;
    patch(&target, at + 400, &[byte]);
    let before = Stamp::of(&target);
    let grow = ["grow", text(&target), "--disk-size", "60MiB", "--yes"];
    let answer = scene.holdfast(&grow);
    answer.assert(3, "refused", "bitmap");
    assert_eq!(answer.refusals()[0].0, "damaged-file-system");
    assert_eq!(Stamp::of(&target), before);
    scene.assert_nothing_left("bitmap");
}

#[test]
fn too_small_and_not_installed() {
    if !root() {
        return;
    }
    let scene = Scene::of(&image(USUAL));
    let target = scene.image();
    let answer = scene.holdfast(&["shrink", text(&target), "--to", "4MiB", "--yes"]);
    answer.assert(3, "refused", "small");
    assert_eq!(answer.refusals()[0].0, "below-minimum");
    // A version that nobody should use.
    let script = "#!/bin/sh\ncase $1 in --version) echo 'ntfsresize v2015.3.14 (libntfs-3g)';; \
                  *) exec /usr/sbin/ntfsresize \"$@\";; esac";
    scene.program("ntfsresize", script);
    let grow = ["grow", text(&target), "--disk-size", "60MiB", "--yes"];
    let answer = scene.holdfast(&grow);
    answer.assert(3, "refused", "old tool");
    assert_eq!(answer.refusals()[0].0, "tool-too-old");
}

/// A mounted volume is in use.
#[test]
fn a_mounted_volume() {
    if !root() {
        return;
    }
    let scene = Scene::of(&image(USUAL));
    let device = super::loopdev::Loop::on(&scene.image(), 512);
    let mount = Mount::of(device.path(), "ro");
    let answer = scene.holdfast(&["shrink", text(device.path()), "--to", "36MiB", "--yes"]);
    answer.assert(3, "refused", "mounted");
    drop(mount);
    let busy = Command::new("findmnt").arg(device.path()).output().unwrap();
    assert!(!busy.status.success());
}
