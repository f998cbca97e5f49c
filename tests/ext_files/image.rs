//! Images of ext file systems with known content, and the tools that work on them.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use holdfast::disk::{DiskRead, Geometry};
use holdfast::extent::{Extent, ExtentMap};
use holdfast::fs::Difference;
use holdfast::fs::ext::compare::compare;
use holdfast::report::Quiet;
use holdfast::units::UNIT_BYTES;

/// A xorshift generator: the same content in every run.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub fn bytes(&mut self, len: u64) -> Vec<u8> {
        let words = (0..len.div_ceil(8)).flat_map(|_| self.next().to_le_bytes());
        words.take(len as usize).collect()
    }
}

/// Runs a tool and returns what it printed on stdout. Panics with all that it printed where its
/// exit code is not wanted. `debugfs` exits with 0 whatever happens: it must say nothing on stderr
/// but its version.
pub fn run(tool: &str, args: &[&str], wanted: &[i32]) -> String {
    let output = Command::new(tool)
        .args(args)
        .env("LC_ALL", "C")
        .output()
        .unwrap_or_else(|error| panic!("starting {tool}: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    let code = output.status.code();
    let complains = tool == "debugfs" && stderr.lines().any(|line| !line.starts_with("debugfs 1."));
    assert!(
        code.is_some_and(|code| wanted.contains(&code)) && !complains,
        "{tool} {args:?} ended with {code:?}:\n{stderr}{stdout}"
    );
    stdout
}

/// A file as a disk.
pub struct Image {
    pub path: PathBuf,
    file: File,
}

impl Image {
    pub fn open(path: &Path) -> Image {
        let file = OpenOptions::new().read(true).write(true).open(path);
        Image {
            path: path.into(),
            file: file.expect("opening an image"),
        }
    }

    pub fn name(&self) -> &str {
        self.path.to_str().expect("a path in UTF-8")
    }

    /// A copy beside it.
    pub fn copy(&self, name: &str) -> Image {
        let path = self.path.with_file_name(name);
        // Holes stay holes.
        run(
            "cp",
            &[
                "--sparse=always",
                self.name(),
                path.to_str().expect("UTF-8"),
            ],
            &[0],
        );
        Image::open(&path)
    }

    pub fn write(&self, offset: u64, bytes: &[u8]) {
        self.file
            .write_all_at(bytes, offset)
            .expect("writing an image");
    }

    pub fn bytes(&self) -> Vec<u8> {
        fs::read(&self.path).expect("reading an image")
    }

    /// Runs `debugfs` commands that change the image.
    pub fn debugfs(&self, commands: &[&str]) -> String {
        let script = self.path.with_extension("debugfs");
        fs::write(&script, commands.join("\n") + "\n").expect("writing a script");
        let script = script.to_str().expect("UTF-8");
        run("debugfs", &["-w", "-f", script, self.name()], &[0])
    }

    /// What `debugfs` prints for one command.
    pub fn ask(&self, command: &str) -> String {
        run("debugfs", &["-R", command, self.name()], &[0])
    }

    /// The block of the inode table that a file's inode is in.
    pub fn table_block_of(&self, path: &str) -> u64 {
        let text = self.ask(&format!("imap {path}"));
        let rest = text.split("at block ").nth(1).expect("a block");
        let digits = rest.split(',').next().expect("a number");
        digits.parse().expect("a number")
    }

    /// The blocks of a file, maps not among them.
    pub fn blocks_of(&self, path: &str) -> Vec<u64> {
        let text = self.ask(&format!("blocks {path}"));
        let first = text.lines().next().unwrap_or_default();
        let blocks = first
            .split_whitespace()
            .map(|n| n.parse().expect("a block number"));
        blocks.filter(|&block| block != 0).collect()
    }

    /// A full check that finds nothing to do, or makes the image so.
    pub fn fsck(&self) {
        run("e2fsck", &["-f", "-y", self.name()], &[0, 1]);
        run("e2fsck", &["-f", "-p", self.name()], &[0]);
    }

    /// `resize2fs` to `size`, of a copy with enough room.
    pub fn resized(&self, name: &str, size: &str) -> Image {
        let image = self.copy(name);
        if size != "-M" {
            let wanted = mebibytes(size) << 20;
            if wanted > image.len_bytes() {
                image.file.set_len(wanted).expect("extending an image");
            }
        }
        run("resize2fs", &[image.name(), size], &[0]);
        image
    }
}

impl DiskRead for Image {
    fn geometry(&self) -> Geometry {
        let len_bytes = self.file.metadata().map(|m| m.len()).unwrap_or(0);
        Geometry {
            len_bytes,
            logical_sector_bytes: 512,
            physical_sector_bytes: 4096,
        }
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }
}

fn mebibytes(size: &str) -> u64 {
    size.trim_end_matches('M').parse().expect("a size in MiB")
}

/// The units in which two disks differ, up to the end of the shorter one.
pub fn changed(a: &dyn DiskRead, b: &dyn DiskRead) -> ExtentMap {
    let len = a.len_bytes().min(b.len_bytes());
    let (mut x, mut y) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut map = ExtentMap::new();
    for piece in Extent::new(0, len).split(1 << 20) {
        let (x, y) = (&mut x[..piece.len as usize], &mut y[..piece.len as usize]);
        a.read_at(piece.start, x).expect("reading");
        b.read_at(piece.start, y).expect("reading");
        for unit in piece.split(UNIT_BYTES) {
            let at = (unit.start - piece.start) as usize..(unit.end() - piece.start) as usize;
            if x[at.clone()] != y[at] {
                map.insert(unit);
            }
        }
    }
    map
}

/// The differences between two images, at most 50.
pub fn differences(before: &Image, after: &Image) -> Vec<Difference> {
    let changed = changed(before, after);
    compare(before, after, &changed, 50, &Quiet)
        .unwrap_or_else(|error| panic!("{} and {}: {error}", before.name(), after.name()))
}

/// Files of every kind in `root`, the same in every run: `files` small ones, and some that are
/// large, sparse, linked, nested.
pub fn make_tree(root: &Path, files: u64) {
    let mut random = Random(0x5eed_f11e);
    let write = |path: &str, bytes: &[u8]| fs::write(root.join(path), bytes).expect("writing");
    for directory in ["many", "deep", "large", "links"] {
        fs::create_dir(root.join(directory)).expect("creating a directory");
    }
    for n in 0..files {
        let len = random.below(6000);
        write(&format!("many/file-{n:04}"), &random.bytes(len));
        if n % 8 == 0 {
            let directory = format!("deep/{n:04}/inner");
            fs::create_dir_all(root.join(&directory)).expect("creating directories");
            write(&format!("{directory}/note"), &random.bytes(100));
        }
    }
    for n in 0..6 {
        let len = 300_000 + 150_000 * n;
        write(&format!("large/file-{n}"), &random.bytes(len));
    }
    let sparse = File::create(root.join("large/sparse")).expect("creating");
    for at in [0, 70_000, 1_000_000, 20_000_000] {
        sparse
            .write_all_at(&random.bytes(5000), at)
            .expect("writing");
    }
    sparse.set_len(30_000_000).expect("extending");
    write("large/empty", b"");
    fs::hard_link(root.join("many/file-0001"), root.join("links/hard")).expect("linking");
    symlink("../many/file-0002", root.join("links/short")).expect("linking");
    symlink("x".repeat(200), root.join("links/long")).expect("linking");
    run(
        "mknod",
        &[
            root.join("links/null").to_str().expect("UTF-8"),
            "c",
            "1",
            "3",
        ],
        &[0],
    );
    run(
        "mkfifo",
        &[root.join("links/pipe").to_str().expect("UTF-8")],
        &[0],
    );
}

/// Size of each of the files that fill an image.
const FILLER_BYTES: u64 = 64 << 10;
/// What the fillers leave free, for the files that come after them.
const LATE_BYTES: u64 = 9 << 20;

/// An image of the tree `root`, made by `mke2fs` with `options`. Then it is filled up, large files
/// are written to its end, and half of what came first is removed: the inodes and blocks at the
/// end are in use, and the room for them before is in pieces.
pub fn make_image(path: &Path, root: &Path, options: &[&str], size: &str) -> Image {
    let file = File::create(path).expect("creating an image");
    file.set_len(mebibytes(size) << 20)
        .expect("extending an image");
    let text = path.to_str().expect("UTF-8");
    let mut args = vec![
        "-q",
        "-F",
        "-N",
        "1900",
        "-d",
        root.to_str().expect("UTF-8"),
    ];
    args.extend(options);
    args.extend([text, size]);
    run("mke2fs", &args, &[0]);
    let image = Image::open(path);
    let (mut commands, fillers) = fill(&image);
    if options.iter().any(|o| o.contains("ea_inode")) {
        let value = host_file(&image, "value", 20_000, 9);
        for file in ["/late/late-1", "/many/file-0002"] {
            commands.push(format!("ea_set -f {value} {file} user.huge"));
        }
    }
    // A directory with a low number in one with a high number; e2fsck sets its `..` right.
    commands.push("ln /deep/0000 /late/low".into());
    commands.push("unlink /deep/0000".into());
    let odd = |end: u64| (1..end).step_by(2);
    commands.extend(odd(fillers).map(|n| format!("rm /filler/filler-{n:03}")));
    let last = fs::read_dir(root.join("many")).expect("listing").count();
    let early = odd(last as u64 * 3 / 4).skip(1);
    commands.extend(early.map(|n| format!("rm /many/file-{n:04}")));
    for n in [last - 1, last - 2, 2, 4] {
        let attribute = host_file(&image, "attribute", 600, 3);
        commands.push(format!("ea_set /many/file-{n:04} user.small value-{n}"));
        commands.push(format!(
            "ea_set -f {attribute} /many/file-{n:04} user.large"
        ));
    }
    commands.push("ea_set /deep user.of.a.directory yes".into());
    if !options
        .iter()
        .any(|o| matches!(*o, "ext2" | "ext3") || o.contains("^extent"))
    {
        commands.push("fallocate /large/file-0 1000 1400".into());
        commands.push("fallocate /many/file-0012 20 24".into());
    }
    image.debugfs(&commands.iter().map(String::as_str).collect::<Vec<_>>());
    image.fsck();
    image
}

/// A file beside the image with random content.
fn host_file(image: &Image, name: &str, len: u64, seed: u64) -> String {
    let path = image.path.with_file_name(name);
    fs::write(&path, Random(seed).bytes(len)).expect("writing");
    path.to_str().expect("UTF-8").into()
}

/// Commands that fill an image but for [`LATE_BYTES`], and write large files into what is left; and
/// the number of fillers.
fn fill(image: &Image) -> (Vec<String>, u64) {
    let text = run("dumpe2fs", &["-h", image.name()], &[0]);
    let number = |label: &str| -> u64 {
        let line = text
            .lines()
            .find(|line| line.starts_with(label))
            .expect("a line");
        let word = line.split_whitespace().last().expect("a word");
        word.parse().expect("a number")
    };
    let free = number("Free blocks:") * number("Block size:");
    let count = free.saturating_sub(LATE_BYTES) / (FILLER_BYTES + 4096);
    let mut commands = ["mkdir filler", "cd filler"].map(String::from).to_vec();
    for n in 0..count {
        let content = host_file(image, &format!("filler-{n}"), FILLER_BYTES, n + 100);
        commands.push(format!("write {content} filler-{n:03}"));
    }
    commands.extend(
        [
            "cd /",
            "mkdir late",
            "cd late",
            "mkdir sub",
            "mkdir sub/inner",
        ]
        .map(String::from),
    );
    for n in 0..5 {
        let content = host_file(image, &format!("late-{n}"), 400_000 * (n + 1), n + 7);
        commands.push(format!("write {content} late-{n}"));
    }
    let note = host_file(image, "note", 3000, 5);
    commands.extend([
        "cd sub/inner".into(),
        format!("write {note} note"),
        "cd /".into(),
    ]);
    (commands, count)
}
