//! Loop devices that are taken down when they are dropped, also in a panic.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

/// An attached image.
pub struct Loop {
    pub node: PathBuf,
    /// Numbers of the partitions that were added.
    partitions: Vec<u32>,
}

impl Loop {
    /// Attaches `file`. The kernel may not know how to read a table: [`Loop::add`] tells it.
    pub fn attach(file: &Path, sector_bytes: u32) -> Loop {
        // Another test may take the free device between the look and the set-up.
        for _ in 0..50 {
            let out = Command::new("losetup")
                .args(["-f", "--show", "--sector-size", &sector_bytes.to_string()])
                .arg(file)
                .output()
                .unwrap();
            if out.status.success() {
                let node = String::from_utf8(out.stdout).unwrap();
                return Loop {
                    node: node.trim().into(),
                    partitions: Vec::new(),
                };
            }
            sleep(Duration::from_millis(20));
        }
        panic!("no loop device is to be had for {}", file.display());
    }

    /// Tells the kernel of a partition; start and length in bytes.
    pub fn add(&mut self, number: u32, start: u64, len: u64) -> PathBuf {
        let args = [number.to_string(), sectors(start), sectors(len)];
        let done = Command::new("addpart").arg(&self.node).args(args).status();
        assert!(done.unwrap().success(), "addpart {}", self.node.display());
        self.partitions.push(number);
        let node = self.partition(number);
        for _ in 0..250 {
            if node.exists() {
                return node;
            }
            sleep(Duration::from_millis(20));
        }
        panic!("{} does not come", node.display());
    }

    /// The node of a partition.
    pub fn partition(&self, number: u32) -> PathBuf {
        PathBuf::from(format!("{}p{number}", self.node.display()))
    }

    /// The length that the kernel believes a partition to have.
    pub fn kernel_bytes(&self, number: u32) -> u64 {
        let name = self.node.file_name().unwrap().to_str().unwrap().to_string();
        let path = format!("/sys/block/{name}/{name}p{number}/size");
        let text = std::fs::read_to_string(path).unwrap();
        text.trim().parse::<u64>().unwrap() * 512
    }
}

fn sectors(bytes: u64) -> String {
    (bytes / 512).to_string()
}

impl Drop for Loop {
    fn drop(&mut self) {
        for number in &self.partitions {
            let mut delpart = Command::new("delpart");
            let _ = delpart
                .arg(&self.node)
                .arg(number.to_string())
                .stderr(Stdio::null())
                .status();
        }
        let status = Command::new("losetup").arg("-d").arg(&self.node).status();
        // Whoever looks at all loop devices delays the detaching.
        let name = self.node.file_name().unwrap();
        let behind = Path::new("/sys/block").join(name).join("loop/backing_file");
        for _ in 0..500 {
            if !behind.exists() {
                break;
            }
            sleep(Duration::from_millis(20));
        }
        if !std::thread::panicking() {
            assert!(
                status.unwrap().success() && !behind.exists(),
                "{} stays behind",
                self.node.display()
            );
        }
    }
}
