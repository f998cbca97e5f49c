//! Small ext file systems of all shapes, made by mke2fs and filled with files.

// Each test file uses a part of this.
#![allow(dead_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use holdfast::disk::MemoryDisk;

/// A file system in a file.
pub struct Image {
    /// What it is, for messages.
    pub name: String,
    /// The codes of the refusals that its features ask for.
    pub refused: &'static [&'static str],
    file: PathBuf,
}

impl Image {
    /// The path.
    pub fn path(&self) -> &str {
        self.file.to_str().expect("UTF-8")
    }

    /// A copy of the content.
    pub fn bytes(&self) -> Vec<u8> {
        fs::read(&self.file).expect("reading the image")
    }

    /// The content as a disk.
    pub fn disk(&self) -> MemoryDisk {
        MemoryDisk::fixed(self.bytes())
    }

    /// Replaces the content.
    pub fn write(&self, bytes: &[u8]) {
        fs::write(&self.file, bytes).expect("writing the image");
    }

    /// The length of the file.
    pub fn len_bytes(&self) -> u64 {
        fs::metadata(&self.file).expect("the image").len()
    }
}

/// Runs a tool and gives its output back, whatever its exit code.
pub fn output(tool: &str, args: &[&str]) -> Output {
    Command::new(tool)
        .args(args)
        .env("LC_ALL", "C")
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .env_remove("MKE2FS_CONFIG")
        .output()
        .unwrap_or_else(|e| panic!("{tool}: {e}"))
}

/// Runs a tool that must succeed, and gives its standard output.
pub fn run(tool: &str, args: &[&str]) -> String {
    let out = output(tool, args);
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(
        out.status.success(),
        "{tool} {args:?}: {}\n{text}\n{}",
        out.status,
        String::from_utf8_lossy(&out.stderr)
    );
    text
}

/// Mounts through a loop device, runs `inside` on the mount point, and unmounts again. `false` where
/// it could not be mounted.
pub fn mounted(image: &Image, options: &str, inside: impl FnOnce(&Path)) -> bool {
    struct Unmount(String, PathBuf);
    impl Drop for Unmount {
        fn drop(&mut self) {
            let done = output("umount", &["-d", &self.0]).status.success();
            // Where another program was just making mount namespaces, a copy of the mount lives on
            // for a moment, and the kernel writes to the image when that goes.
            let image = self.1.to_str().expect("UTF-8");
            let attached = || !output("losetup", &["-j", image]).stdout.is_empty();
            let gone = (0..400).any(|_| {
                std::thread::sleep(std::time::Duration::from_millis(50));
                !attached()
            });
            assert!(
                done && gone || std::thread::panicking(),
                "umount {}",
                self.0
            );
        }
    }
    let point = image.file.with_file_name("mount-point");
    fs::create_dir_all(&point).expect("mount point");
    let text = point.to_str().expect("UTF-8");
    if !output("mount", &["-o", options, image.path(), text])
        .status
        .success()
    {
        return false;
    }
    let _unmount = Unmount(text.into(), image.file.clone());
    inside(&point);
    true
}

/// Makes a file system of `size_kib` in `dir` and fills it with files, holes and deleted files.
pub fn make(dir: &Path, args: &str, size_kib: u64, refused: &'static [&'static str]) -> Image {
    let (tree, file, commands) = (dir.join("tree"), dir.join("image"), dir.join("commands"));
    fs::create_dir_all(tree.join("a/b/c")).expect("tree");
    let mut removals = String::new();
    for n in 0..60u64 {
        let place = ["", "a", "a/b", "a/b/c"][n as usize % 4];
        let content: Vec<u8> = (0..n * n * 23).map(|at| (at * 31 + n) as u8).collect();
        fs::write(tree.join(place).join(format!("file{n}")), content).expect("file");
        if n % 7 == 0 {
            removals.push_str(&format!("rm /{place}/file{n}\n"));
        }
    }
    std::os::unix::fs::symlink("a/b", tree.join("link")).expect("symlink");
    fs::write(&commands, removals).expect("commands");
    let text = |path: &Path| path.to_str().expect("UTF-8").to_string();
    let (image, tree_text, size) = (text(&file), text(&tree), format!("{size_kib}k"));
    let mut all = vec!["-q", "-F", "-L", "a label", "-d", &tree_text];
    all.extend(args.split_whitespace());
    all.extend([&image[..], &size]);
    run("mke2fs", &all);
    // Holes among the files, so that free space is not one run.
    run("debugfs", &["-w", "-f", &text(&commands), &image]);
    fs::remove_dir_all(tree).expect("removing the tree");
    Image {
        name: args.into(),
        refused,
        file,
    }
}

/// Each shape of file system in each block size, made once for each test program.
pub fn matrix() -> &'static [Image] {
    static MATRIX: OnceLock<Vec<Image>> = OnceLock::new();
    MATRIX.get_or_init(|| {
        let program = std::env::current_exe().expect("own path");
        let name = program
            .file_stem()
            .and_then(|name| name.to_str())
            .expect("name");
        // Without the hash that cargo appends: old builds would leave their images for ever.
        let name = name.rsplit_once('-').map_or(name, |(name, _)| name);
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        // What an earlier run left behind.
        if dir.exists() {
            fs::remove_dir_all(&dir).expect("removing old images");
        }
        make_matrix(&dir)
    })
}

fn make_matrix(dir: &Path) -> Vec<Image> {
    const SHAPES: &[(&str, &[&str])] = &[
        ("-t ext2", &[]),
        ("-t ext2 -r 0 -O none", &[]),
        ("-t ext2 -O ^resize_inode -I 128", &[]),
        ("-t ext2 -O ^sparse_super,^resize_inode", &[]),
        ("-t ext3", &[]),
        ("-t ext3 -O ^resize_inode", &[]),
        ("-t ext4", &[]),
        ("-t ext4 -O ^64bit", &[]),
        ("-t ext4 -O ^metadata_csum", &[]),
        ("-t ext4 -O ^metadata_csum,^64bit", &[]),
        ("-t ext4 -O ^metadata_csum,uninit_bg", &[]),
        ("-t ext4 -O ^metadata_csum,uninit_bg,^64bit,^flex_bg", &[]),
        ("-t ext4 -O ^flex_bg", &[]),
        ("-t ext4 -O ^resize_inode", &[]),
        ("-t ext4 -O ^has_journal -G 4", &[]),
        ("-t ext4 -O ^sparse_super,^resize_inode", &[]),
        ("-t ext4 -O metadata_csum_seed,ea_inode,large_dir", &[]),
        ("-t ext4 -O encrypt,casefold,verity,quota,project", &[]),
        ("-t ext4 -O stable_inodes", &["ext-stable-inodes"]),
        ("-t ext4 -O mmp,orphan_file,fast_commit", &[]),
        ("-t ext4 -O inline_data", &[]),
        ("-t ext4 -O meta_bg,^resize_inode", &[]),
        ("-t ext2 -O meta_bg,^resize_inode", &[]),
        ("-t ext4 -O meta_bg,^resize_inode,^flex_bg,^64bit", &[]),
        ("-t ext4 -O sparse_super2", &["ext-sparse-super2"]),
        (
            "-t ext4 -O sparse_super2 -E num_backup_sb=1",
            &["ext-sparse-super2"],
        ),
        (
            "-t ext4 -O sparse_super2,^resize_inode -E num_backup_sb=0",
            &["ext-sparse-super2"],
        ),
    ];
    let mut images = Vec::new();
    let mut count = 0;
    let mut next = || {
        count += 1;
        dir.join(count.to_string())
    };
    for block in [1024u64, 2048, 4096] {
        for (args, refused) in SHAPES {
            let args = format!("{args} -b {block} -g 1024");
            // A last group that is short.
            let size_kib = 24 * 1024 + 140 * block / 1024;
            images.push(make(&next(), &args, size_kib, refused));
        }
        let args = format!("-t ext4 -O bigalloc -b {block} -C {}", block * 4);
        images.push(make(
            &next(),
            &args,
            100 * 1024 + 20 * block,
            &["ext-bigalloc"],
        ));
    }
    // More descriptors than a block holds; with small groups mke2fs turns meta_bg on by itself.
    for (args, refused) in [
        ("-t ext4 -b 1024 -g 256 -O ^resize_inode,meta_bg", &[][..]),
        ("-t ext2 -b 1024 -g 256", &[]),
        ("-t ext4 -b 1024 -g 512", &[]),
        ("-t ext3 -b 1024 -g 512 -O ^resize_inode", &[]),
    ] {
        images.push(make(&next(), args, 30 * 1024, refused));
    }
    images
}
