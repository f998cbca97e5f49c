//! Loop devices, mounts and tools, taken down again also where a test panics.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

/// Whether the tests of this file can run. Without root they cannot, and that is a failure, unless
/// somebody said that there is none.
pub fn is_root() -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    assert!(
        std::env::var("HOLDFAST_WITHOUT_ROOT").is_ok_and(|v| v == "1"),
        "these tests use loop devices and mounts: run them as root, or set HOLDFAST_WITHOUT_ROOT=1"
    );
    eprintln!("skipped: not root");
    false
}

/// A path as text.
pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Runs a tool, whatever its exit code.
pub fn output(tool: &str, args: &[&str]) -> Output {
    Command::new(tool)
        .args(args)
        .env("LC_ALL", "C")
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("{tool}: {e}"))
}

/// Runs a tool that must succeed. What it said on stdout.
pub fn run(tool: &str, args: &[&str]) -> String {
    let done = output(tool, args);
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(
        done.status.success(),
        "{tool} {args:?}: {}\n{said}{}",
        done.status,
        String::from_utf8_lossy(&done.stderr)
    );
    said
}

/// Looks until `found` gives something.
fn wait<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    for _ in 0..500 {
        if let Some(value) = found() {
            return value;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("{what}: waited in vain");
}

/// A loop device, detached when dropped.
pub struct Loop {
    /// Its node.
    pub node: PathBuf,
    partitions: Vec<String>,
}

impl Loop {
    /// Attaches `file` with these options of losetup.
    pub fn attach(file: &Path, options: &[&str]) -> Loop {
        let args = [&["-f", "--show"], options, &[text(file)]].concat();
        // Another test may take the free device between the look and the set-up.
        let node = wait("losetup", || {
            let done = output("losetup", &args);
            done.status
                .success()
                .then(|| String::from_utf8(done.stdout).unwrap())
        });
        Loop {
            node: node.trim().into(),
            partitions: Vec::new(),
        }
    }

    /// Part of `file`, read-only.
    #[allow(dead_code, reason = "not every test uses everything")]
    pub fn part(file: &Path, start: u64, len: u64) -> Loop {
        let (start, len) = (start.to_string(), len.to_string());
        Loop::attach(file, &["-r", "-o", &start, "--sizelimit", &len])
    }

    /// Tells the kernel of the partitions in the table. The node of number `number`.
    #[allow(dead_code, reason = "not every test uses everything")]
    pub fn announce(&mut self, numbers: &[u32], number: u32) -> PathBuf {
        // Named first: whatever happens, they are taken away again.
        self.partitions = numbers.iter().map(u32::to_string).collect();
        run("partx", &["-a", text(&self.node)]);
        let node = PathBuf::from(format!("{}p{number}", self.node.display()));
        wait("the partition's node", || node.exists().then_some(()));
        node
    }

    /// Tells the kernel of one partition; start and length in bytes. Its node.
    #[allow(dead_code, reason = "not every test uses everything")]
    pub fn add(&mut self, number: u32, start: u64, len: u64) -> PathBuf {
        let name = number.to_string();
        self.partitions.push(name.clone());
        let (start, len) = ((start / 512).to_string(), (len / 512).to_string());
        run("addpart", &[text(&self.node), &name, &start, &len]);
        let node = PathBuf::from(format!("{}p{number}", self.node.display()));
        wait("the partition's node", || node.exists().then_some(()));
        node
    }

    /// What the kernel says is the length of partition `number`.
    pub fn kernel_bytes(&self, number: u32) -> u64 {
        let name = text(&self.node).trim_start_matches("/dev/");
        let size = format!("/sys/block/{name}/{name}p{number}/size");
        let sectors = fs::read_to_string(&size).unwrap_or_else(|e| panic!("{size}: {e}"));
        sectors.trim().parse::<u64>().unwrap() * 512
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        for number in &self.partitions {
            output("delpart", &[text(&self.node), number]);
        }
        let detached = output("losetup", &["-d", text(&self.node)]);
        // It goes when the last one that looks at it has gone.
        let name = self.node.file_name().unwrap();
        let behind = Path::new("/sys/block").join(name).join("loop/backing_file");
        for _ in 0..500 {
            if !behind.exists() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        if !std::thread::panicking() {
            assert!(detached.status.success(), "{detached:?}");
        }
    }
}

/// A mount, unmounted when dropped.
pub struct Mounted {
    /// Where.
    pub point: PathBuf,
}

impl Mounted {
    /// Mounts `device` on `point`, which is made.
    pub fn on(point: &Path, device: &Path, options: &str) -> Mounted {
        fs::create_dir_all(point).unwrap();
        run("mount", &["-o", options, text(device), text(point)]);
        Mounted {
            point: point.into(),
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // A tool that another thread starts has our descriptors for a moment.
        for _ in 0..100 {
            if output("umount", &[text(&self.point)]).status.success() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let lazy = output("umount", &["-l", text(&self.point)]);
        assert!(std::thread::panicking(), "{lazy:?}");
    }
}
