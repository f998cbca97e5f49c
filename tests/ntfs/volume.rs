//! Volumes to work on.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::scene::{run, text};
use super::tree::Mount;

pub const MIB: u64 = 1 << 20;

/// A volume as mkntfs makes it, and what is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kind {
    pub mib: u64,
    pub sector: u32,
    pub cluster: u32,
    /// Whether it is filled until files are in pieces.
    pub crowded: bool,
}

pub const USUAL: Kind = Kind {
    mib: 48,
    sector: 512,
    cluster: 4096,
    crowded: false,
};
/// Small, full once, and so with files in many pieces.
pub const CROWDED: Kind = Kind {
    mib: 24,
    crowded: true,
    ..USUAL
};

/// The volume as an image, made once.
pub fn image(kind: Kind) -> PathBuf {
    static MADE: Mutex<BTreeMap<Kind, PathBuf>> = Mutex::new(BTreeMap::new());
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(path) = made.get(&kind) {
        return path.clone();
    }
    let name = format!("ntfs-{}-{}.img", std::process::id(), made.len());
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    make(kind, &path);
    made.insert(kind, path.clone());
    path
}

fn make(kind: Kind, path: &Path) {
    File::create(path).unwrap().set_len(kind.mib * MIB).unwrap();
    let (sector, cluster) = (kind.sector.to_string(), kind.cluster.to_string());
    let shape = ["-s", &sector, "-c", &cluster, "-L", "post ü"];
    run(
        "mkntfs",
        &[&["-F", "-Q", "-q"][..], &shape, &[text(path)]].concat(),
    );
    // The serial number is random, and the seed of nothing else.
    for at in [0x48, kind.mib * MIB - u64::from(kind.sector) + 0x48] {
        patch(path, at, &0x0123_4567_89ab_cdefu64.to_le_bytes());
    }
    let mount = Mount::of(path, "compression");
    fill(mount.path());
    if kind.crowded {
        crowd(mount.path());
    }
}

/// Writes to a file in place.
pub fn patch(path: &Path, at: u64, bytes: &[u8]) {
    let mut file = File::options().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(bytes).unwrap();
    file.sync_all().unwrap();
}

/// Bytes that do not compress, the same for the same seed.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut byte = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..len).map(|_| byte()).collect()
}

fn attribute(path: &Path, name: &str, value: &str) {
    run("setfattr", &["-h", "-n", name, "-v", value, text(path)]);
}

fn fill(root: &Path) {
    let mail = root.join("mail");
    fs::create_dir(&mail).unwrap();
    for n in 0..120usize {
        let message = noise(n as u64, n * 41);
        fs::write(mail.join(format!("{n}.eml")), message).unwrap();
    }
    let large = root.join("large directory");
    fs::create_dir(&large).unwrap();
    for n in 0..400 {
        fs::write(
            large.join(format!("entry {n} with a name that takes room")),
            "x",
        )
        .unwrap();
    }
    fs::write(root.join("big.bin"), noise(1, 5 << 20)).unwrap();
    fs::hard_link(root.join("big.bin"), root.join("mail/the same.bin")).unwrap();
    fs::write(root.join("größe 漢字 🦀.txt"), "names").unwrap();
    fs::write(root.join("n".repeat(200)), noise(2, 9000)).unwrap();
    symlink("mail/1.eml", root.join("link")).unwrap();
    // Holes.
    let mut sparse = File::create(root.join("sparse")).unwrap();
    sparse.set_len(3 << 20).unwrap();
    sparse.seek(SeekFrom::Start(1 << 20)).unwrap();
    sparse.write_all(&noise(3, 70_000)).unwrap();
    // Compressed, where clusters are small enough for it.
    let squeezed = root.join("squeezed");
    fs::create_dir(&squeezed).unwrap();
    let _ = std::process::Command::new("setfattr")
        .args(["-h", "-n", "system.ntfs_attrib", "-v", "0x00080000"])
        .arg(&squeezed)
        .status();
    let text: String = (0..20_000).map(|n| format!("line {n}\n")).collect();
    fs::write(squeezed.join("text"), text).unwrap();
    // Other streams: one in the record, one in clusters.
    attribute(&mail.join("3.eml"), "user.small", "a few words");
    let long: String = noise(4, 8000).iter().map(|b| format!("{b:02x}")).collect();
    attribute(&mail.join("4.eml"), "user.long", &format!("0x{long}"));
    // Something that was deleted.
    fs::remove_file(mail.join("7.eml")).unwrap();
}

/// Fills the volume with small files, takes every second away, and writes one into the gaps: a file
/// in so many pieces that its map needs records of its own.
fn crowd(root: &Path) {
    let dir = root.join("crowd");
    fs::create_dir(&dir).unwrap();
    let mut count = 0u64;
    loop {
        let path = dir.join(count.to_string());
        if fs::write(&path, noise(count, 4096)).is_err() {
            let _ = fs::remove_file(path);
            break;
        }
        count += 1;
    }
    assert!(count > 500, "only {count} files");
    for n in (0..count).step_by(2) {
        fs::remove_file(dir.join(n.to_string())).unwrap();
    }
    fs::write(root.join("pieces"), noise(5, (count as usize / 3) * 4096)).unwrap();
    // Room, without which nothing can move.
    fs::remove_file(root.join("big.bin")).unwrap();
    fs::remove_file(root.join("mail/the same.bin")).unwrap();
}

/// A disk with a GPT, of which the volume is partition 2, behind another one.
pub fn in_gpt(volume: &Path, disk: &Path, mib: u64, sector: u32) {
    let len = fs::metadata(volume).unwrap().len();
    File::create(disk).unwrap().set_len(mib * MIB).unwrap();
    let script = format!(
        "1 linux {} {} 0 first\n2 linux {} {len} 0 mail\n",
        MIB,
        MIB,
        2 * MIB
    );
    let gpt = concat!(env!("CARGO_MANIFEST_DIR"), "/images/gpt.pl");
    let command = r#"printf '%s' "$1" | perl "$2" "$3" "$4""#;
    let sector = sector.to_string();
    run(
        "/bin/sh",
        &["-c", command, "sh", &script, gpt, text(disk), &sector],
    );
    let (from, to) = (format!("if={}", text(volume)), format!("of={}", text(disk)));
    run(
        "dd",
        &[
            &from,
            &to,
            "bs=1M",
            "seek=2",
            "conv=notrunc,sparse",
            "status=none",
        ],
    );
}
