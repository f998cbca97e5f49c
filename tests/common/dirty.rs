//! File systems that were not unmounted: mounted through a loop device, written to, and shut down
//! by the kernel's own call for it, after which nothing reaches the disk any more.
#![allow(dead_code, reason = "not every test uses everything")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Runs a program to its end, whatever its exit code. It sees e2fsprogs whatever `PATH` is.
pub fn output(program: &str, arguments: &[&str]) -> Output {
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .env("LC_ALL", "C")
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .env_remove("MKE2FS_CONFIG")
        .output()
        .unwrap_or_else(|e| panic!("{program}: {e}"))
}

/// Runs a program that must end with one of `codes`, and returns what it said.
pub fn run_for(codes: &[i32], program: &str, arguments: &[&str]) -> String {
    let done = output(program, arguments);
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    let error = String::from_utf8_lossy(&done.stderr);
    assert!(
        done.status.code().is_some_and(|code| codes.contains(&code)),
        "{program} {arguments:?}: {}\n{said}{error}",
        done.status
    );
    said
}

pub fn run(program: &str, arguments: &[&str]) -> String {
    run_for(&[0], program, arguments)
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// An image that is mounted as long as this lives.
pub struct Mounted {
    pub at: PathBuf,
}

impl Mounted {
    pub fn new(image: &Path, options: &str) -> Mounted {
        let at = image.with_extension("mounted");
        fs::create_dir_all(&at).unwrap();
        run("mount", &["-o", options, text(image), text(&at)]);
        Mounted { at }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // A process that another test is just starting has our files open until it begins.
        let mut done = output("umount", &["-d", text(&self.at)]);
        for _ in 0..100 {
            if done.status.success() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
            done = output("umount", &["-d", text(&self.at)]);
        }
        let _ = fs::remove_dir(&self.at);
        assert!(
            done.status.success() || std::thread::panicking(),
            "umount {}: {}",
            self.at.display(),
            String::from_utf8_lossy(&done.stderr)
        );
    }
}

/// Ends a mount as a power cut does, and closes what was `open` on it. `image` is then what its
/// disk held at that moment.
pub fn cut(mounted: Mounted, image: &Path, open: Vec<File>) {
    shut_down(&mounted.at);
    // When it is unmounted the kernel still writes to their places what was committed before.
    let (there, kept) = (image.to_path_buf(), image.with_extension("cut"));
    fs::copy(&there, &kept).unwrap();
    drop(open);
    drop(mounted);
    fs::rename(kept, there).unwrap();
}

/// Takes back what of the log was written to its place already, as if the cut had come before:
/// when the kernel does that is not for a test to say. `earlier` is the image from before the log,
/// and debugfs names the blocks.
pub fn take_back(image: &Path, earlier: &[u8], block_bytes: usize) {
    let log = run("debugfs", &["-R", "logdump -a", text(image)]);
    let number = |line: &str, before: &str| -> Option<usize> {
        let (_, rest) = line.split_once(before)?;
        rest.split_whitespace().next()?.parse().ok()
    };
    let revoked: Vec<usize> = log
        .lines()
        .filter_map(|line| number(line, "Revoke FS block "))
        .collect();
    let mut bytes = fs::read(image).unwrap();
    let logged = log.lines().filter(|line| line.contains(" logged at "));
    for block in logged.filter_map(|line| number(line, "FS block ")) {
        let place = block * block_bytes..(block + 1) * block_bytes;
        // The superblock is written besides, and a block that was revoked holds something else now.
        if !place.contains(&1024) && !revoked.contains(&block) {
            bytes[place.clone()].copy_from_slice(&earlier[place]);
        }
    }
    fs::write(image, bytes).unwrap();
}

/// `EXT4_IOC_SHUTDOWN` without a flush of the journal: what was not committed is lost.
fn shut_down(inside: &Path) {
    const CALL: &str = r#"open(my $f, "<", $ARGV[0]) or die "$ARGV[0]: $!";
        my $flag = pack("L", 2); defined ioctl($f, 0x8004587d, $flag) or die "shutdown: $!";"#;
    run("perl", &["-e", CALL, text(inside)]);
}

/// A shape of file system, and how it is mounted.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub name: &'static str,
    pub mkfs: &'static str,
    pub mount: &'static str,
}

/// An image of this shape that was never mounted.
pub fn fresh(dir: &Path, shape: &Shape, size: &str) -> PathBuf {
    let image = dir.join(format!("{}.img", shape.name));
    let mut arguments = vec!["-q", "-F"];
    arguments.extend(shape.mkfs.split_whitespace());
    arguments.extend([text(&image), size]);
    run("mke2fs", &arguments);
    image
}

fn sync(file: &File) {
    file.sync_all().unwrap();
}

/// Text that is different for each `seed`, with the journal's magic number at its start where
/// `magic` says so.
pub fn content(seed: usize, len: usize, magic: bool) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..len)
        .map(|at| (at * 7 + seed * 131 + at / 251) as u8)
        .collect();
    if let (true, Some(first)) = (magic, bytes.first_chunk_mut::<4>()) {
        *first = [0xc0, 0x3b, 0x39, 0x98];
    }
    bytes
}

/// Leaves a journal behind that waits for replay: new, changed, renamed and removed files and
/// directories, blocks that changed their use (and so were revoked), and files that were deleted
/// while open, where `orphans` says so.
pub fn leave_dirty(image: &Path, shape: &Shape, orphans: bool) {
    let mounted = Mounted::new(image, &format!("loop{}", shape.mount));
    let at = &mounted.at;
    for n in 0..40 {
        fs::write(at.join(format!("file{n}")), content(n, n * 613, n % 5 == 0)).unwrap();
    }
    fs::create_dir_all(at.join("old/deep")).unwrap();
    for n in 0..200 {
        fs::write(at.join(format!("old/{n:0>60}")), []).unwrap();
    }
    // All in its place; what follows is in the journal.
    run("sync", &["-f", text(at)]);
    let earlier = fs::read(image).unwrap();
    fs::remove_dir_all(at.join("old")).unwrap();
    sync(&File::open(at.join("file1")).unwrap());
    for n in 0..60 {
        let file = at.join(format!("new{n}"));
        fs::write(&file, content(n + 1000, 3000 + n * 97, n % 3 == 0)).unwrap();
        if n % 7 == 0 {
            sync(&File::open(&file).unwrap());
        }
    }
    fs::rename(at.join("file3"), at.join("renamed")).unwrap();
    fs::remove_file(at.join("file5")).unwrap();
    File::options()
        .append(true)
        .open(at.join("file7"))
        .and_then(|mut file| file.write_all(&content(7, 5000, false)))
        .unwrap();
    let mut open = Vec::new();
    if orphans {
        for n in 0..3 {
            let path = at.join(format!("open{n}"));
            let mut file = File::create(&path).unwrap();
            file.write_all(&content(n, 20_000 * (n + 1), false))
                .unwrap();
            sync(&file);
            fs::remove_file(&path).unwrap();
            open.push(file);
        }
    }
    sync(&File::open(at.join("new0")).unwrap());
    let last = File::options().append(true).open(at.join("new1"));
    last.and_then(|mut file| {
        file.write_all(b"the end")?;
        file.sync_all()
    })
    .unwrap();
    cut(mounted, image, open);
    take_back(image, &earlier, block_bytes(image));
}

/// The block size that dumpe2fs names.
pub fn block_bytes(image: &Path) -> usize {
    let said = run("dumpe2fs", &["-h", text(image)]);
    let line = said
        .lines()
        .find_map(|line| line.strip_prefix("Block size:"));
    line.unwrap().trim().parse().unwrap()
}

/// Every file below `root`: kind, permissions, owner, links, size, times, and a hash of the content.
pub fn files(root: &Path) -> BTreeMap<Vec<u8>, String> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![root.to_path_buf()];
    while let Some(path) = waiting.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let kind = meta.file_type();
        let content = if kind.is_file() {
            let mut hasher = blake3::Hasher::new();
            hasher.update_reader(File::open(&path).unwrap()).unwrap();
            hasher.finalize().to_string()
        } else if kind.is_symlink() {
            fs::read_link(&path).unwrap().display().to_string()
        } else {
            assert!(kind.is_dir() || kind.is_fifo(), "{}", path.display());
            String::new()
        };
        if kind.is_dir() {
            let entries = fs::read_dir(&path).unwrap();
            waiting.extend(entries.map(|entry| entry.unwrap().path()));
        }
        let name = path.strip_prefix(root).unwrap().as_os_str().as_bytes();
        let facts = format!(
            "{} {:o} {}:{} {} {} {}.{} {content}",
            meta.ino(),
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.nlink(),
            if kind.is_dir() { 0 } else { meta.len() },
            meta.mtime(),
            meta.mtime_nsec()
        );
        found.insert(name.to_vec(), facts);
    }
    found
}

/// The files of an image that needs no replay.
pub fn files_of(image: &Path) -> BTreeMap<Vec<u8>, String> {
    let mounted = Mounted::new(image, "loop,ro,noload");
    files(&mounted.at)
}

/// A directory for images, which is not in memory.
pub fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}
