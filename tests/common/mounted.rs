//! An image with a file system of the kernel's, filled through a mount.
#![allow(dead_code, reason = "not every test uses everything")]

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Runs a command that must succeed, and returns what it says.
pub fn sh(command: &mut Command) -> String {
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

/// A mount, ended when dropped.
pub struct Mounted(PathBuf);

impl Mounted {
    /// Mounts the image (from byte `start`) on a new directory beside it.
    pub fn at(image: &Path, start: u64, options: &str) -> Mounted {
        let dir = image.with_extension("mnt");
        fs::create_dir_all(&dir).unwrap();
        let options = format!("loop,offset={start},{options}");
        sh(Command::new("mount")
            .args(["-o", &options])
            .arg(image)
            .arg(&dir));
        Mounted(dir)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        for _ in 0..100 {
            let done = Command::new("umount").arg(&self.0).output().unwrap();
            if done.status.success() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        let _ = fs::remove_dir(&self.0);
    }
}

/// A sparse file.
pub fn blank(path: &Path, bytes: u64) {
    let _ = fs::remove_file(path);
    File::create(path).unwrap().set_len(bytes).unwrap();
}

/// Files of every kind: small, large, sparse, linked, with attributes, in directories of every
/// form. The same each time but for the times.
pub fn populate(root: &Path) {
    for number in 0..400u64 {
        let dir = root.join(format!("dir{}", number % 7));
        fs::create_dir_all(&dir).unwrap();
        let bytes = bytes((number * number * 11) as usize % 30_000, number);
        fs::write(dir.join(format!("file{number}")), bytes).unwrap();
    }
    // Free space in pieces.
    for number in (7..400).step_by(14) {
        fs::remove_file(root.join(format!("dir0/file{number}"))).unwrap();
    }
    let many = root.join("many");
    fs::create_dir(&many).unwrap();
    for number in 0..1500 {
        File::create(many.join(format!("message {number} with a name that is long"))).unwrap();
    }
    let sparse = File::create(root.join("sparse")).unwrap();
    for at in [0, 1 << 20, 3 << 20, 60 << 20] {
        sparse.write_all_at(&bytes(5000, at), at).unwrap();
    }
    let large = File::create(root.join("large")).unwrap();
    for at in 0..16u64 {
        large.write_all_at(&bytes(1 << 19, at), at << 19).unwrap();
    }
    symlink("dir1/file1", root.join("link")).unwrap();
    symlink("x".repeat(900), root.join("long link")).unwrap();
    fs::hard_link(root.join("dir2/file2"), root.join("second name")).unwrap();
    fs::set_permissions(root.join("dir3/file3"), fs::Permissions::from_mode(0o4640)).unwrap();
    let file = root.join("dir4/file4");
    for (name, value) in [
        ("user.small", "v".to_string()),
        ("trusted.large", "w".repeat(3000)),
    ] {
        sh(Command::new("setfattr")
            .args(["-n", name, "-v", &value])
            .arg(&file));
    }
    sh(Command::new("mkfifo").arg(root.join("fifo")));
    sh(Command::new("mknod")
        .arg(root.join("node"))
        .args(["b", "7", "99"]));
    sh(Command::new("chown")
        .arg("12:34")
        .arg(root.join("dir5/file5")));
}

/// Bytes that look random and are the same for the same seed.
pub fn bytes(len: usize, seed: u64) -> Vec<u8> {
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
