//! Loop devices, detached when dropped.
#![allow(dead_code, reason = "not every test uses everything")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

/// A loop device and the partitions that the kernel was told of.
pub struct Loop {
    node: PathBuf,
    partitions: std::cell::RefCell<Vec<u32>>,
}

impl Loop {
    pub fn on(file: &Path, sector_bytes: u32) -> Loop {
        let sector = sector_bytes.to_string();
        // Another test may take the free device between the look and the set-up.
        for _ in 0..50 {
            let out = Command::new("losetup")
                .args(["-f", "--show", "--sector-size", &sector])
                .arg(file)
                .output()
                .unwrap();
            if out.status.success() {
                let node = String::from_utf8(out.stdout).unwrap();
                return Loop {
                    node: node.trim().into(),
                    partitions: Default::default(),
                };
            }
            sleep(Duration::from_millis(20));
        }
        panic!("no loop device is to be had");
    }

    pub fn path(&self) -> &Path {
        &self.node
    }

    /// Tells the kernel of partition `number`; start and length in MiB.
    pub fn add_partition(&self, number: u32, start_mib: u64, len_mib: u64) -> PathBuf {
        let sectors = |mib: u64| (mib * 2048).to_string();
        let done = Command::new("addpart")
            .arg(&self.node)
            .args([number.to_string(), sectors(start_mib), sectors(len_mib)])
            .output()
            .unwrap();
        assert!(done.status.success(), "addpart: {done:?}");
        self.partitions.borrow_mut().push(number);
        let node = PathBuf::from(format!("{}p{number}", self.node.display()));
        for _ in 0..100 {
            if node.exists() {
                return node;
            }
            sleep(Duration::from_millis(20));
        }
        panic!("{} does not come", node.display());
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let quiet = |program: &str, arguments: &[String]| {
            let mut command = Command::new(program);
            let _ = command.args(arguments).stderr(Stdio::null()).status();
        };
        let node = self.node.display().to_string();
        for number in self.partitions.borrow().iter() {
            quiet("delpart", &[node.clone(), number.to_string()]);
        }
        quiet("losetup", &["-d".into(), node]);
        // Who looks at all loop devices, as other tests do, delays the detaching.
        let name = self.node.file_name().unwrap();
        let behind = Path::new("/sys/block").join(name).join("loop/backing_file");
        for _ in 0..200 {
            if !behind.exists() {
                return;
            }
            sleep(Duration::from_millis(20));
        }
        if !std::thread::panicking() {
            panic!("{} stays behind", self.node.display());
        }
    }
}
