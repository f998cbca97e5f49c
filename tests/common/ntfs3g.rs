//! A mount of ntfs-3g: in user space, and so one that ends a while after it was taken away.
#![allow(dead_code, reason = "not every test uses everything")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A mount, taken away when dropped.
pub struct Ntfs3g {
    point: PathBuf,
}

impl Ntfs3g {
    /// Mounts `target` on the directory `point`, which is made, with extended attributes for
    /// streams and with these options.
    pub fn on(point: &Path, target: &Path, options: &str) -> Ntfs3g {
        fs::create_dir_all(point).unwrap();
        let done = Command::new("ntfs-3g")
            .arg("-o")
            .arg(format!("streams_interface=xattr,{options}"))
            .args([target, point])
            .output()
            .unwrap();
        assert!(done.status.success(), "ntfs-3g: {done:?}");
        Ntfs3g {
            point: point.into(),
        }
    }

    /// Where it is.
    pub fn point(&self) -> &Path {
        &self.point
    }

    /// The program behind the mount writes until it ends.
    fn is_running(&self) -> bool {
        let point = self.point.to_str().unwrap();
        let lines = fs::read_dir("/proc").unwrap().flatten();
        lines
            .filter_map(|entry| fs::read(entry.path().join("cmdline")).ok())
            .any(|line| {
                let mut words = line.split(|&byte| byte == 0);
                line.starts_with(b"ntfs-3g\0") && words.any(|word| word == point.as_bytes())
            })
    }
}

impl Drop for Ntfs3g {
    fn drop(&mut self) {
        let pause = || std::thread::sleep(std::time::Duration::from_millis(10));
        let mut gone = false;
        for _ in 0..500 {
            let done = Command::new("umount").arg(&self.point).output();
            gone = done.is_ok_and(|done| done.status.success());
            if gone {
                break;
            }
            pause();
        }
        for _ in 0..3000 {
            if !gone || !self.is_running() {
                break;
            }
            pause();
        }
        if !std::thread::panicking() {
            assert!(gone, "{:?} stays mounted", self.point);
            assert!(!self.is_running(), "{:?}: ntfs-3g does not end", self.point);
        }
    }
}
