//! A workbench: images, overlays over them, exports, fake tools. Everything lies in one temporary
//! directory.
#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![allow(dead_code, reason = "not every test uses every tool")]

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use holdfast::disk::{DiskRead, Geometry, read_vec};
use holdfast::export::{Export, How, Setup};
use holdfast::extent::{Extent, ExtentMap};
use holdfast::fs::tool::{Launch, Tool, search_dirs};
use holdfast::overlay::Overlay;

/// A tool that a test writes itself.
pub const FAKE: Tool = Tool {
    name: "fake",
    package: "none",
    env: &[],
};

/// An export as the place where tools run. For e2fsprogs time stands still.
pub struct Wired<'a>(pub &'a Export);

impl Launch for Wired<'_> {
    fn launch(&self, mut command: Command) -> io::Result<Child> {
        static NOW: OnceLock<String> = OnceLock::new();
        let now = NOW.get_or_init(|| {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            since.as_secs().to_string()
        });
        command.env("E2FSPROGS_FAKE_TIME", now);
        self.0.spawn(command)
    }
    fn launch_mounter(&self, command: Command) -> io::Result<Child> {
        self.0.spawn_mounter(command)
    }
    fn progress(&self) -> u64 {
        self.0.requests()
    }
    fn abandon(&self) {
        self.0.abandon();
    }
}

/// An image file that can only be read.
pub struct Image(File);

impl DiskRead for Image {
    fn geometry(&self) -> Geometry {
        Geometry {
            len_bytes: self.0.metadata().unwrap().len(),
            logical_sector_bytes: 512,
            physical_sector_bytes: 512,
        }
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(buf, offset)
    }
}

/// See the module.
pub struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    pub fn new() -> Bench {
        assert!(
            nix::unistd::geteuid().is_root(),
            "these tests make mounts of their own: run them as root"
        );
        // Not below /tmp, of which the tools have their own.
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        for name in ["scratch", "logs", "files"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        holdfast::fs::mount::set_program(Path::new(env!("CARGO_BIN_EXE_holdfast")));
        Bench { dir }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn scratch(&self) -> PathBuf {
        self.path("scratch")
    }

    pub fn logs(&self) -> PathBuf {
        self.path("logs")
    }

    pub fn disk(&self, image: &Path) -> Image {
        Image(File::open(image).unwrap())
    }

    pub fn overlay(&self, image: &Path, len: u64) -> Arc<Overlay> {
        self.overlay_of(Arc::new(self.disk(image)), len)
    }

    pub fn overlay_of(&self, base: Arc<dyn DiskRead>, len: u64) -> Arc<Overlay> {
        let spill = tempfile::tempfile_in(self.dir.path()).unwrap();
        Arc::new(Overlay::new(base, len, spill).unwrap())
    }

    /// An overlay over another.
    pub fn stack(&self, lower: &Arc<Overlay>) -> Overlay {
        let spill = tempfile::tempfile_in(self.dir.path()).unwrap();
        Overlay::new(lower.clone(), lower.len_bytes(), spill).unwrap()
    }

    pub fn export(&self, overlay: Arc<Overlay>, how: How) -> Export {
        let all = overlay.len_bytes();
        self.export_used(overlay, how, all)
    }

    /// An export of which the first `used` bytes are in use.
    pub fn export_used(&self, overlay: Arc<Overlay>, how: How, used: u64) -> Export {
        let setup = Setup {
            scratch: &self.scratch(),
            programs: &[self.path("bin")],
            used: &ExtentMap::from_iter([Extent::new(0, used)]),
            how,
        };
        Export::new(overlay, setup).unwrap()
    }

    /// As [`write_program`].
    pub fn program(&self, name: &str, script: &str) -> Vec<PathBuf> {
        let bin = self.path("bin");
        fs::create_dir_all(&bin).unwrap();
        write_program(&bin, name, script)
    }

    pub fn fake(&self, script: &str) -> Vec<PathBuf> {
        self.program("fake", script)
    }

    /// An image with a file system and some files, which are also in `files`.
    pub fn ext(&self, kind: &str, options: &[&str], bytes: u64) -> PathBuf {
        self.make_files();
        self.mke2fs(kind, options, &self.path("files"), bytes)
    }

    /// An ext4 image whose files lie behind its first 100 MiB.
    pub fn ext_spread(&self, bytes: u64) -> PathBuf {
        self.make_files();
        let filler = self.path("filler");
        fs::create_dir_all(&filler).unwrap();
        fs::write(filler.join("filler"), fill(100 << 20, 1)).unwrap();
        let image = self.mke2fs("ext4", &["-b", "4096"], &filler, bytes);
        let mut requests: Vec<String> = (0..7).map(|n| format!("mkdir /dir{n}")).collect();
        for number in 0..120 {
            let name = format!("dir{}/file{number}", number % 7);
            let from = self.path("files").join(&name);
            requests.push(format!("write {} /{name}", from.display()));
        }
        requests.push("rm /filler".into());
        let requests: Vec<&str> = requests.iter().map(String::as_str).collect();
        self.debugfs(&image, &requests);
        run(Command::new("e2fsck").args(["-f", "-p"]).arg(&image));
        image
    }

    fn make_files(&self) {
        for number in 0..120u64 {
            let dir = self.path("files").join(format!("dir{}", number % 7));
            fs::create_dir_all(&dir).unwrap();
            let len = (number * number * 37) as usize % 400_000;
            fs::write(dir.join(format!("file{number}")), fill(len, number)).unwrap();
        }
    }

    fn mke2fs(&self, kind: &str, options: &[&str], files: &Path, bytes: u64) -> PathBuf {
        let image = self.path("image");
        let _ = fs::remove_file(&image);
        File::create(&image).unwrap().set_len(bytes).unwrap();
        let mut mke2fs = Command::new("mke2fs");
        mke2fs.args(["-q", "-F", "-t", kind, "-d"]).arg(files);
        run(mke2fs.args(options).arg(&image));
        image
    }

    pub fn debugfs(&self, image: &Path, requests: &[&str]) {
        let script = self.path("requests");
        fs::write(&script, requests.join("\n")).unwrap();
        run(Command::new("debugfs")
            .args(["-w", "-f"])
            .arg(&script)
            .arg(image));
    }

    /// Puts a transaction into the journal that has not reached its place.
    pub fn leave_journal_dirty(&self, image: &Path) {
        let block = self.path("block");
        fs::write(&block, [0; 4096]).unwrap();
        let free = "15000";
        let write = format!("jw -b {free} {}", block.display());
        self.debugfs(image, &["jo", &write, "jc"]);
    }

    /// The first `len` bytes of a disk as a file.
    pub fn extract(&self, disk: &dyn DiskRead, len: u64) -> PathBuf {
        let path = self.path("extracted");
        let file = File::create(&path).unwrap();
        file.set_len(len).unwrap();
        for piece in Extent::new(0, len).split(1 << 20) {
            let bytes = read_vec(disk, piece.start, piece.len as usize).unwrap();
            if bytes.iter().any(|&b| b != 0) {
                file.write_all_at(&bytes, piece.start).unwrap();
            }
        }
        path
    }

    /// e2fsck finds nothing, and the file system has the size it should.
    pub fn assert_sound(&self, image: &Path, bytes: u64) {
        run(Command::new("e2fsck").args(["-f", "-n"]).arg(image));
        let said = run(Command::new("dumpe2fs").arg("-h").arg(image));
        let number = |name: &str| -> u64 {
            let line = said.lines().find(|l| l.starts_with(name)).unwrap();
            line.split_whitespace().last().unwrap().parse().unwrap()
        };
        assert_eq!(number("Block count:") * number("Block size:"), bytes);
    }

    /// Each file has its content.
    pub fn assert_same_files(&self, image: &Path) {
        let out = self.path("out");
        let _ = fs::remove_dir_all(&out);
        fs::create_dir(&out).unwrap();
        let request = format!("rdump / {}", out.display());
        run(Command::new("debugfs").args(["-R", &request]).arg(image));
        let _ = fs::remove_dir(out.join("lost+found"));
        run(Command::new("diff")
            .arg("-r")
            .arg(self.path("files"))
            .arg(&out));
    }
}

/// Writes a shell script `name` into `dir`. Returns where tools are to be looked for with it.
pub fn write_program(dir: &Path, name: &str, script: &str) -> Vec<PathBuf> {
    // Another process writes it: a descriptor that is open for writing here would go through the
    // fork of another test's tool, and a program that is open for writing does not start.
    let write = r#"printf '#!/bin/sh\n%s\n' "$TEXT" >"$NAME" && chmod 755 "$NAME""#;
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", write]).current_dir(dir);
    run(shell.env("TEXT", script).env("NAME", name));
    let mut dirs = vec![dir.to_path_buf()];
    dirs.extend(search_dirs(None));
    dirs
}

/// Runs a command of the test's own, which must succeed.
pub fn run(command: &mut Command) -> String {
    let done = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    let error = String::from_utf8_lossy(&done.stderr);
    assert!(
        done.status.success(),
        "{command:?}: {}\n{said}{error}",
        done.status
    );
    said
}

/// Bytes that look random and are the same for the same seed.
pub fn fill(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

pub fn hash(path: &Path) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path).unwrap()).unwrap();
    hasher.finalize()
}

/// How many processes of the host have exactly this command line.
pub fn host_processes(line: &str) -> usize {
    let wanted: Vec<u8> = line
        .bytes()
        .map(|b| if b == b' ' { 0 } else { b })
        .collect();
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| fs::read(entry.path().join("cmdline")).ok())
        .filter(|found| found.strip_suffix(&[0]) == Some(&wanted))
        .count()
}
