//! Images, the program, and what is promised of every answer.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use serde_json::Value;

pub const MIB: u64 = 1 << 20;

/// Where the file system of the small images with a table begins and ends.
pub const PART: std::ops::Range<u64> = 3 * MIB..19 * MIB;

/// A directory with targets and a state directory; gone when the test passes.
pub struct Bench {
    pub dir: tempfile::TempDir,
}

/// What the program said.
pub struct Said {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Said {
    /// The one JSON document on standard output.
    pub fn document(&self) -> Value {
        let document: Value = serde_json::from_str(&self.stdout)
            .unwrap_or_else(|e| panic!("not one document: {e}\n{}\n{}", self.stdout, self.stderr));
        for name in [
            "schema",
            "command",
            "outcome",
            "exit_code",
            "transaction",
            "target",
            "refusals",
        ] {
            assert!(document.get(name).is_some(), "no {name}: {document:#}");
        }
        assert_eq!(document["schema"], "holdfast/1");
        assert_eq!(document["exit_code"], self.code, "{document:#}");
        for refusal in document["refusals"].as_array().expect("refusals is a list") {
            for name in ["code", "message", "hint"] {
                assert!(refusal[name].is_string(), "{refusal:#}");
            }
            assert_ne!(refusal["message"], "");
        }
        document
    }
}

/// A refusal, or the error where there was none.
#[derive(Debug)]
pub struct Why {
    pub codes: Vec<String>,
    /// Messages and hints.
    pub text: String,
    pub document: Value,
}

impl Why {
    /// Asserts that all of these words are said.
    #[track_caller]
    pub fn says(&self, words: &[&str]) -> &Why {
        for word in words {
            assert!(
                self.text.contains(word),
                "`{word}` is not in: {}",
                self.text
            );
        }
        self
    }
}

impl Bench {
    pub fn new() -> Bench {
        assert!(
            nix::unistd::geteuid().is_root(),
            "these tests mount and attach: run them as root"
        );
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        Bench { dir }
    }

    /// A bench, and one of the generated images on it.
    pub fn with(name: &str) -> (Bench, PathBuf) {
        let bench = Bench::new();
        let path = bench.image(name);
        (bench, path)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn state(&self) -> PathBuf {
        self.path("state")
    }

    /// A generated image.
    pub fn image(&self, name: &str) -> PathBuf {
        let path = self.path(&format!("{name}.img"));
        fs::write(&path, generated(name)).unwrap();
        path
    }

    /// A file of `len` bytes, all zero but for `content` at the places given.
    pub fn file(&self, name: &str, len: u64, content: &[(u64, &[u8])]) -> PathBuf {
        let path = self.path(name);
        let file = File::create(&path).unwrap();
        file.set_len(len).unwrap();
        for (at, bytes) in content {
            file.write_all_at(bytes, *at).unwrap();
        }
        path
    }

    /// The program with the state directory of this bench.
    pub fn command<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
        command.arg("--state-dir").arg(self.state()).args(args);
        command
    }

    pub fn run<S: AsRef<OsStr>>(&self, args: &[S]) -> Said {
        said(&mut self.command(args))
    }

    /// Runs it twice, for people and for programs: both are refused with `code` among the reasons,
    /// `target` has the same bytes after it, and no transaction is left behind.
    #[track_caller]
    pub fn refused<S: AsRef<OsStr>>(&self, target: &Path, args: &[S], code: &str) -> Why {
        let why = self.ends(target, args, 3, "refused");
        assert!(why.codes.iter().any(|c| c == code), "{why:#?}");
        why
    }

    /// As [`Bench::refused`], with any other ending that touches nothing.
    #[track_caller]
    pub fn ends<S: AsRef<OsStr>>(
        &self,
        target: &Path,
        args: &[S],
        exit_code: i32,
        outcome: &str,
    ) -> Why {
        let before = Print::of(target);
        let why = judged(|| self.command(args), exit_code, outcome);
        assert_eq!(
            Print::of(target),
            before,
            "{} was changed",
            target.display()
        );
        why
    }
}

/// Runs what `command` makes twice, for people and for programs, and judges both answers.
#[track_caller]
pub fn judged(command: impl Fn() -> Command, exit_code: i32, outcome: &str) -> Why {
    let for_people = said(&mut command());
    let text = format!("{}{}", for_people.stdout, for_people.stderr);
    assert_eq!(for_people.code, exit_code, "{text}");
    let for_programs = said(command().arg("--json"));
    let document = for_programs.document();
    assert_eq!(for_programs.code, exit_code, "{document:#}");
    assert_eq!(document["outcome"], outcome, "{document:#}");
    let refusals = document["refusals"].as_array().unwrap().clone();
    let field = |r: &Value, name: &str| r[name].as_str().unwrap().to_string();
    let codes: Vec<String> = refusals.iter().map(|r| field(r, "code")).collect();
    for code in &codes {
        assert!(
            text.contains(&format!("[{code}]")),
            "{code} is not in: {text}"
        );
    }
    let mut words = String::new();
    for refusal in &refusals {
        words.push_str(&format!(
            "{}\n{}\n",
            field(refusal, "message"),
            field(refusal, "hint")
        ));
    }
    words.push_str(document["error"].as_str().unwrap_or_default());
    Why {
        codes,
        text: words,
        document,
    }
}

/// Runs a command to its end, which must be an orderly one.
#[track_caller]
pub fn said(command: &mut Command) -> Said {
    let output = command.stdin(Stdio::null()).output().unwrap();
    orderly(output)
}

#[track_caller]
pub fn orderly(output: Output) -> Said {
    let text = |bytes| String::from_utf8(bytes).expect("the answer is UTF-8");
    let said = Said {
        code: output.status.code().expect("it ends by itself"),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    };
    for out in [&said.stdout, &said.stderr] {
        assert!(!out.contains("panicked"), "{out}");
        let raw = out.chars().find(|c| c.is_control() && *c != '\n');
        assert_eq!(
            raw, None,
            "a control character reaches the terminal: {out:?}"
        );
    }
    said
}

/// What must not change of a target: kind, length and content.
#[derive(PartialEq, Eq)]
enum Print {
    Nothing,
    Special,
    Bytes(u64, blake3::Hash),
}

impl std::fmt::Debug for Print {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Print::Nothing => f.write_str("nothing there"),
            Print::Special => f.write_str("neither file nor block device"),
            Print::Bytes(len, hash) => write!(f, "{len} bytes, {hash}"),
        }
    }
}

impl Print {
    fn of(path: &Path) -> Print {
        use std::os::unix::fs::FileTypeExt;
        let Ok(meta) = fs::metadata(path) else {
            return Print::Nothing;
        };
        if !(meta.is_file() || meta.file_type().is_block_device()) {
            return Print::Special;
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(File::open(path).unwrap()).unwrap();
        Print::Bytes(hasher.count(), hasher.finalize())
    }
}

/// The bytes of a generated image, made once.
fn generated(name: &str) -> Vec<u8> {
    static MADE: OnceLock<Mutex<HashMap<String, Vec<u8>>>> = OnceLock::new();
    let mut made = MADE.get_or_init(Default::default).lock().unwrap();
    if let Some(bytes) = made.get(name) {
        return bytes.clone();
    }
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join(name);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("images/make");
    tool(script.to_str().unwrap(), &[name.as_ref(), path.as_os_str()]);
    let bytes = fs::read(&path).unwrap();
    made.insert(name.into(), bytes.clone());
    bytes
}

/// A tool of the test's own, which must succeed.
#[track_caller]
pub fn tool<S: AsRef<OsStr>>(name: &str, args: &[S]) -> String {
    let done = Command::new(name)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("this test needs {name}: {e}"));
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    let error = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{name}: {text}{error}");
    text
}

/// Overwrites bytes of an image.
pub fn poke(path: &Path, at: u64, bytes: &[u8]) {
    let file = File::options().write(true).open(path).unwrap();
    file.write_all_at(bytes, at).unwrap();
}

pub fn peek(path: &Path, at: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    File::open(path)
        .unwrap()
        .read_exact_at(&mut bytes, at)
        .unwrap();
    bytes
}

/// Runs debugfs requests on a bare file system.
pub fn debugfs(path: &Path, requests: &[&str]) {
    for request in requests {
        let args = ["-w", "-R", request, path.to_str().unwrap()];
        tool("debugfs", &args);
    }
}

/// A loop device, detached when dropped.
pub struct Loop(pub PathBuf);

impl Loop {
    pub fn on(file: &Path) -> Loop {
        for _ in 0..100 {
            let out = Command::new("losetup")
                .args(["-f", "--show"])
                .arg(file)
                .output()
                .unwrap();
            if out.status.success() {
                let node = String::from_utf8(out.stdout).unwrap();
                return Loop(node.trim().into());
            }
            // Another test took the free one between the look and the set-up.
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("no loop device is to be had");
    }

    /// Tells the kernel of the partition that the small images have; its node.
    pub fn partition(&self) -> PathBuf {
        let sectors = |bytes: u64| (bytes / 512).to_string();
        let (start, len) = (sectors(PART.start), sectors(PART.end - PART.start));
        tool("addpart", &[self.0.to_str().unwrap(), "2", &start, &len]);
        let node = PathBuf::from(format!("{}p2", self.0.display()));
        until("the node of the partition", || node.exists());
        node
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        for (program, args) in [("delpart", &["2"][..]), ("losetup", &[])] {
            let mut command = Command::new(program);
            if program == "losetup" {
                command.arg("-d");
            }
            let _ = command
                .arg(&self.0)
                .args(args)
                .stderr(Stdio::null())
                .status();
        }
        let name = self.0.file_name().unwrap();
        let behind = Path::new("/sys/block").join(name).join("loop/backing_file");
        for _ in 0..250 {
            if !behind.exists() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        if !std::thread::panicking() {
            panic!("{} stays behind", self.0.display());
        }
    }
}

/// A mount, taken away when dropped.
pub struct Mounted(pub PathBuf);

impl Mounted {
    pub fn at(place: &Path, args: &[&OsStr]) -> Mounted {
        fs::create_dir_all(place).unwrap();
        let mut all = args.to_vec();
        all.push(place.as_os_str());
        tool("mount", &all);
        Mounted(place.into())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        for args in [&[][..], &["-l"]] {
            let mut umount = Command::new("umount");
            let umount = umount.args(args).arg(&self.0).stderr(Stdio::null());
            if umount.status().is_ok_and(|s| s.success()) {
                return;
            }
        }
    }
}

/// A process, killed when dropped.
pub struct Process(pub Child);

impl Process {
    pub fn start(command: &mut Command) -> Process {
        Process(command.spawn().unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits for something that must come about.
#[track_caller]
pub fn until(what: &str, is_so: impl Fn() -> bool) {
    for _ in 0..1500 {
        if is_so() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("{what}: it does not come about");
}

/// A directory for `PATH` with a tool in it that says that it runs, and then does nothing more.
pub struct Stalling {
    bin: PathBuf,
    ready: PathBuf,
}

impl Stalling {
    pub fn new(bench: &Bench, name: &str) -> Stalling {
        let bin = bench.path("bin");
        fs::create_dir_all(&bin).unwrap();
        let script = "#!/bin/sh\nexec sleep 300.$PPID\n";
        let path = bin.join(name);
        // A shell writes it: a descriptor that is open for writing here would go through the fork
        // of another test, and a program that is open for writing does not start.
        let write = "printf '%s' \"$1\" >\"$2\" && chmod 755 \"$2\"";
        tool("sh", &["-c", write, "sh", script, path.to_str().unwrap()]);
        let ready = bench.state();
        Stalling { bin, ready }
    }

    /// Lets a command find it first.
    pub fn first_for(&self, command: &mut Command) {
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", self.bin.display()));
    }

    /// Waits until the tool has a log, and so runs.
    pub fn wait(&self) {
        let runs = || {
            let dirs = fs::read_dir(&self.ready).into_iter().flatten().flatten();
            dirs.filter_map(|d| fs::read_dir(d.path()).ok())
                .flatten()
                .flatten()
                .any(|f| f.path().extension().is_some_and(|e| e == "log"))
        };
        until("the tool that stalls", runs);
    }
}

/// Transactions in the state directory.
pub fn transactions(bench: &Bench) -> Vec<Value> {
    let document = bench.run(&["status", "--json"]).document();
    document["transactions"].as_array().unwrap().clone()
}
