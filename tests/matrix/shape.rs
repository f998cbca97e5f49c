//! File systems with real content: written by the kernel through a mount, full once and then half
//! empty again, so that names, inodes and blocks lie all over, and free space is in pieces.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, mknod, utimensat};
use nix::sys::time::TimeSpec;
use rustix::fs::{XattrFlags, lsetxattr};

use super::host::{Loop, Mounted, output, run, text};
use super::rows::Shape;

/// A xorshift generator: the same content in every run.
pub struct Random(u64);

impl Random {
    /// Of a seed.
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// So many bytes.
    pub fn bytes(&mut self, len: u64) -> Vec<u8> {
        let words = (0..len.div_ceil(8)).flat_map(|_| self.next().to_le_bytes());
        words.take(len as usize).collect()
    }
}

/// Writes noise: what was on a disk before anything was made on it.
pub fn noise(file: &File, start: u64, len: u64, seed: u64) {
    let mut random = Random::new(seed);
    let mut at = start;
    while at < start + len {
        let piece = (start + len - at).min(1 << 20);
        file.write_all_at(&random.bytes(piece), at).unwrap();
        at += piece;
    }
}

/// Makes a file system of this shape in `dir`: its image.
pub fn make(dir: &Path, shape: &Shape, seed: u64) -> PathBuf {
    let image = dir.join("base");
    let file = File::create(&image).unwrap();
    let len = shape.sizes.now << 20;
    noise(&file, 0, len, seed);
    format(&image, shape);
    {
        let device = Loop::attach(&image, &[]);
        let mounted = Mounted::on(&dir.join("fill"), &device.node, "rw");
        populate(&mounted.point, seed);
    }
    if !shape.added.is_empty() {
        run("tune2fs", &["-O", shape.added, text(&image)]);
    }
    // What the kernel leaves to the checker, the indexes of directories for one.
    let done = output("e2fsck", &["-f", "-y", text(&image)]);
    assert!(
        done.status.code().is_some_and(|code| code <= 1),
        "{}: {done:?}",
        shape.name
    );
    run("e2fsck", &["-f", "-n", text(&image)]);
    image
}

/// `mke2fs`, which must make the shape that it was told to.
pub fn format(image: &Path, shape: &Shape) {
    let block = shape.block.to_string();
    let count = format!(
        "{}",
        shape.sizes.now * 1024 / (u64::from(shape.block) / 1024)
    );
    let mut args = vec!["-q", "-F", "-E", "nodiscard", "-L", "mail", "-N", "3600"];
    args.extend(shape.options.split_whitespace());
    args.extend(["-b", &block, text(image), &count]);
    run("mke2fs", &args);
}

fn write(path: PathBuf, bytes: &[u8]) {
    fs::write(&path, bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

fn set(path: &Path, name: &str, value: &[u8]) {
    lsetxattr(path, name, value, XattrFlags::empty())
        .unwrap_or_else(|e| panic!("{name} of {}: {e}", path.display()));
}

/// Files of every kind.
fn populate(root: &Path, seed: u64) {
    let mut random = Random::new(seed ^ 0x5eed);
    ordinary(root, &mut random);
    odd(root, &mut random);
    let fillers = fill(root, &mut random);
    scatter(root, fillers, &mut random);
    late_names(root);
}

/// Small files in many directories, one directory with many names, several names for a file.
fn ordinary(root: &Path, random: &mut Random) {
    for n in 0..16 {
        let dir = root.join(format!("user-{n:02}/cur"));
        fs::create_dir_all(&dir).unwrap();
        for k in 0..16 {
            // Some fit into an inode.
            let len = match k % 4 {
                0 => random.below(140),
                _ => random.below(9000),
            };
            write(dir.join(format!("message-{k:03}")), &random.bytes(len));
        }
    }
    let many = root.join("many");
    fs::create_dir(&many).unwrap();
    write(many.join("first"), b"the first of many");
    for n in 0..600 {
        let name = many.join(format!("a-name-that-takes-some-room-{n:04}"));
        match n % 3 {
            0 => fs::hard_link(many.join("first"), name).unwrap(),
            1 => symlink(format!("../user-{:02}/cur/message-000", n % 16), name).unwrap(),
            _ => write(name, format!("{n}").as_bytes()),
        }
    }
}

/// What a copy program would get wrong.
fn odd(root: &Path, random: &mut Random) {
    let odd = root.join("odd");
    fs::create_dir(&odd).unwrap();
    symlink("x".repeat(59), odd.join("fast-link")).unwrap();
    symlink("y".repeat(300), odd.join("slow-link")).unwrap();
    write(odd.join("n".repeat(255)), b"a long name");
    write(odd.join("empty"), b"");
    let sparse = File::create(odd.join("sparse")).unwrap();
    for at in [0, 70_000, 1_000_000, 20_000_000] {
        sparse.write_all_at(&random.bytes(5000), at).unwrap();
    }
    sparse.set_len(30_000_000).unwrap();
    let reserved = File::create(odd.join("reserved")).unwrap();
    reserved.write_all_at(b"begun", 0).unwrap();
    // Not where there are no extents.
    let _ = fallocate(&reserved, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, 200_000);
    let _ = fallocate(&reserved, FallocateFlags::empty(), 300_000, 50_000);
    mknod(&odd.join("pipe"), SFlag::S_IFIFO, Mode::S_IRWXU, 0).unwrap();
    mknod(&odd.join("null"), SFlag::S_IFCHR, Mode::S_IRWXU, 0x103).unwrap();
    let owned = odd.join("owned");
    write(owned.clone(), b"somebody's");
    lchown(&owned, Some(70_001), Some(70_002)).unwrap();
    fs::set_permissions(&owned, fs::Permissions::from_mode(0o6755)).unwrap();
    let (then, later) = (
        TimeSpec::new(1, 5),
        TimeSpec::new(2_000_000_000, 123_456_789),
    );
    let flags = UtimensatFlags::NoFollowSymlink;
    utimensat(nix::fcntl::AT_FDCWD, &owned, &then, &later, flags).unwrap();
    attributes(&odd, random);
    for (name, flag) in [("immutable", "+i"), ("append", "+a"), ("undumped", "+d")] {
        write(odd.join(name), name.as_bytes());
        run("chattr", &[flag, text(&odd.join(name))]);
    }
}

fn attributes(odd: &Path, random: &mut Random) {
    let few = odd.join("attributes");
    write(few.clone(), b"with attributes");
    set(&few, "user.short", b"value");
    set(&few, "user.none", b"");
    set(&few, "trusted.long", &random.bytes(500));
    set(odd, "user.of.a.directory", b"yes");
    // Version 2; read and write for the owner and user 1000, nothing for others.
    let entry = |tag: u16, may: u16, id: u32| {
        [
            &tag.to_le_bytes()[..],
            &may.to_le_bytes(),
            &id.to_le_bytes(),
        ]
        .concat()
    };
    let none = u32::MAX;
    let list = [
        2u32.to_le_bytes().to_vec(),
        entry(0x01, 6, none),
        entry(0x02, 6, 1000),
        entry(0x04, 4, none),
        entry(0x10, 6, none),
        entry(0x20, 0, none),
    ]
    .concat();
    set(&few, "system.posix_acl_access", &list);
    let dir = odd.join("inherits");
    fs::create_dir(&dir).unwrap();
    set(&dir, "system.posix_acl_default", &list);
    write(dir.join("inherited"), b"has a list of its own");
}

/// Fills the file system up with files of 16 KiB.
fn fill(root: &Path, random: &mut Random) -> Vec<PathBuf> {
    let mut fillers = Vec::new();
    for n in 0.. {
        let dir = root.join(format!("filler-{:02}", n % 24));
        let name = dir.join(format!("{n:05}"));
        let content = random.bytes(16 << 10);
        let written = fs::create_dir_all(&dir)
            .and_then(|()| File::create(&name))
            .and_then(|mut file| file.write_all(&content));
        if written.is_err() {
            let _ = fs::remove_file(&name);
            break;
        }
        fillers.push(name);
    }
    assert!(fillers.len() > 300, "{} fillers", fillers.len());
    fillers
}

/// Fragmented files in the gaps of every second filler; then most fillers go, but not those that
/// came last.
fn scatter(root: &Path, fillers: Vec<PathBuf>, random: &mut Random) {
    let (odd, even): (Vec<_>, Vec<_>) = fillers
        .into_iter()
        .enumerate()
        .partition(|(n, _)| n % 2 == 1);
    for (_, name) in &odd {
        fs::remove_file(name).unwrap();
    }
    nix::unistd::sync();
    for n in 0..3 {
        let mut file = File::create(root.join(format!("fragmented-{n}"))).unwrap();
        for _ in 0..20 {
            file.write_all(&random.bytes(40_000)).unwrap();
            file.sync_all().unwrap();
        }
    }
    let kept = even.len().saturating_sub(60);
    for (n, (_, name)) in even.iter().enumerate() {
        if n < kept && n % 16 != 3 {
            fs::remove_file(name).unwrap();
        }
    }
}

/// Names beside names that are gone; and the last inodes of all in use, whichever groups the kernel
/// likes best: a shrink must give them other numbers.
fn late_names(root: &Path) {
    let many = root.join("many");
    for n in (0..600).step_by(7) {
        fs::remove_file(many.join(format!("a-name-that-takes-some-room-{n:04}"))).unwrap();
    }
    let late = root.join("late");
    fs::create_dir(&late).unwrap();
    let mut names = Vec::new();
    for n in 0..8000 {
        let name = late.join(format!("{n:04}"));
        match n % 40 {
            7 if fs::create_dir(&name).is_err() => break,
            7 => {}
            _ if File::create(&name).is_err() => break,
            _ => {}
        }
        names.push(name);
    }
    let kept = names.len().saturating_sub(160);
    for name in &names[..kept] {
        let _ = fs::remove_file(name).or_else(|_| fs::remove_dir(name));
    }
    let (dirs, files): (Vec<&PathBuf>, Vec<_>) = names[kept..].iter().partition(|n| n.is_dir());
    for (n, name) in files.iter().enumerate() {
        write(name.to_path_buf(), format!("late {n}").as_bytes());
    }
    for (n, dir) in dirs.iter().enumerate() {
        // More names than the map of an inode has room for, and fewer than would need a block.
        for k in 0..4 {
            let another = dir.join(format!("one-more-{k:03}"));
            fs::rename(files[n * 4 + k], another).unwrap();
        }
    }
}
