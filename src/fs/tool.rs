//! The one place that starts processes.
//!
//! 1. A tool runs without a shell, by its absolute path, with an environment made here from
//!    nothing, standard input from `/dev/null`, and where the [`Launch`] puts it.
//! 2. What it says on standard output and error is kept, bounded, and written to a log of its own.
//!    Nothing is parsed but what a driver asks for: the exit code is the answer.
//! 3. No tool runs for ever: one that makes no progress, or whose user asked to stop, is killed
//!    with all that it started.
//! 4. Whoever waits here serves nobody: an export has threads of its own.
//!
//! What it does not do: judge. A driver says which exit codes are good.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use thiserror::Error;

use crate::report::Refusal;
use crate::units::escape_bytes;

/// The end of a tool's output that is kept in memory.
const TAIL_BYTES: usize = 64 << 10;

/// A log does not grow beyond this, whatever the tool says.
const LOG_BYTES: u64 = 16 << 20;

/// How long a tool may make no progress, where nobody says otherwise.
pub const PATIENCE: Duration = Duration::from_secs(600);

/// How often somebody looks.
const TICK: Duration = Duration::from_millis(50);

/// How long a killed process may take to end, before and after its disk is taken away.
const DYING: Duration = Duration::from_secs(5);

/// Where programs of the system are, besides `PATH`: an ordinary user's often lacks them.
const SYSTEM_DIRS: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];

/// A stock tool.
#[derive(Clone, Copy, Debug)]
pub struct Tool {
    /// The program's name.
    pub name: &'static str,
    /// The Debian package that has it.
    pub package: &'static str,
    /// What its environment needs besides the usual.
    pub env: &'static [(&'static str, &'static str)],
}

/// Where processes start, and what can be known about them there.
pub trait Launch {
    /// Starts a process. It must end when its [`Child`] is killed, and all that it started with it.
    ///
    /// # Errors
    /// Where it cannot be started.
    fn launch(&self, command: Command) -> io::Result<Child>;

    /// Starts our own program with the file that the tools see as its standard input, outside of
    /// where the tools are, and with the privilege to mount. See [`super::mount`].
    ///
    /// # Errors
    /// `Unsupported` where the file cannot be mounted.
    fn launch_mounter(&self, command: Command) -> io::Result<Child> {
        drop(command);
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "there is nothing here that could be mounted",
        ))
    }

    /// A number that changes when the tool does something.
    fn progress(&self) -> u64 {
        0
    }

    /// Takes away what a killed process may still be waiting for.
    fn abandon(&self) {}
}

/// Why a tool's result was not accepted.
#[derive(Debug, Error)]
pub enum ToolError {
    /// It is not installed.
    #[error("{tool} is not installed; it is in the package {package}")]
    Missing {
        /// The program.
        tool: String,
        /// Its Debian package.
        package: String,
    },
    /// It could not be started.
    #[error("starting {tool}: {source}")]
    Start {
        /// The program.
        tool: String,
        /// Why not.
        source: io::Error,
    },
    /// Its output could not be kept.
    #[error("keeping the output of {tool}: {source}")]
    Log {
        /// The program.
        tool: String,
        /// Why not.
        source: io::Error,
    },
    /// It cannot do this here.
    #[error("{0}")]
    Refused(Refusal),
    /// It ended in another way than a good one.
    #[error("{tool} {}\n{output_tail}", ending(*.code, *.signal))]
    Failed {
        /// The program.
        tool: String,
        /// Its exit code, where it exited.
        code: Option<i32>,
        /// The signal that killed it, where one did.
        signal: Option<i32>,
        /// The end of what it said, escaped.
        output_tail: String,
    },
    /// A resizer cannot make the file system that small.
    #[error("{tool} can make it {blocks} blocks small, and not smaller")]
    TooSmall {
        /// The program.
        tool: String,
        /// The smallest size, in blocks of the file system.
        blocks: u64,
    },
    /// It exited well, and what it said cannot be understood.
    #[error("{tool} said something that is not understood\n{output_tail}")]
    Unexpected {
        /// The program.
        tool: String,
        /// The end of what it said, escaped.
        output_tail: String,
    },
    /// It made no progress and was killed.
    #[error("{tool} made no progress for {seconds} seconds and was killed\n{output_tail}")]
    Hung {
        /// The program.
        tool: String,
        /// For how long.
        seconds: u64,
        /// The end of what it said, escaped.
        output_tail: String,
    },
    /// Somebody asked to stop, and it was killed.
    #[error("{tool} was stopped on request")]
    Interrupted {
        /// The program.
        tool: String,
    },
}

fn ending(code: Option<i32>, signal: Option<i32>) -> String {
    match (code, signal) {
        (Some(code), _) => format!("exited with {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended in an unknown way".into(),
    }
}

/// How a tool ended, and what it said.
#[derive(Clone, Debug)]
pub struct Outcome {
    tool: &'static str,
    /// Its exit code, where it exited.
    pub code: Option<i32>,
    /// The signal that killed it, where one did.
    pub signal: Option<i32>,
    /// The end of what it said on either stream, escaped but for line ends.
    pub output: String,
}

impl Outcome {
    /// The outcome, where the tool exited with one of `codes`.
    ///
    /// # Errors
    /// [`ToolError::Failed`] otherwise.
    pub fn accept(self, codes: &[i32]) -> Result<Outcome, ToolError> {
        match self.code {
            Some(code) if codes.contains(&code) => Ok(self),
            _ => Err(self.failed()),
        }
    }

    /// The error that this outcome is.
    pub fn failed(self) -> ToolError {
        ToolError::Failed {
            tool: self.tool.into(),
            code: self.code,
            signal: self.signal,
            output_tail: self.output,
        }
    }

    /// The error that this output is.
    pub fn unexpected(self) -> ToolError {
        ToolError::Unexpected {
            tool: self.tool.into(),
            output_tail: self.output,
        }
    }
}

/// Runs stock tools.
pub struct Tools<'a> {
    launch: &'a dyn Launch,
    dirs: Vec<PathBuf>,
    logs: Option<PathBuf>,
    patience: Duration,
    interrupted: &'a dyn Fn() -> bool,
}

impl<'a> Tools<'a> {
    /// Tools that are looked for in `PATH` and the system's directories, and started by `launch`.
    pub fn new(launch: &'a dyn Launch) -> Tools<'a> {
        Tools {
            launch,
            dirs: search_dirs(std::env::var_os("PATH").as_deref()),
            logs: None,
            patience: PATIENCE,
            interrupted: &|| false,
        }
    }

    /// Looks for tools in these directories alone.
    pub fn with_dirs(self, dirs: Vec<PathBuf>) -> Tools<'a> {
        Tools { dirs, ..self }
    }

    /// Writes what each tool says to a file `NN-name.log` in `dir`, which nobody else can read.
    pub fn with_logs(self, dir: &Path) -> Tools<'a> {
        let logs = Some(dir.to_path_buf());
        Tools { logs, ..self }
    }

    /// How long a tool may go without output and without I/O before it is killed.
    pub fn with_patience(self, patience: Duration) -> Tools<'a> {
        Tools { patience, ..self }
    }

    /// Asks this, again and again, whether to stop.
    pub fn with_interrupt(self, interrupted: &'a dyn Fn() -> bool) -> Tools<'a> {
        Tools {
            interrupted,
            ..self
        }
    }

    /// Where a tool is.
    ///
    /// # Errors
    /// [`ToolError::Missing`].
    pub fn find(&self, tool: Tool) -> Result<PathBuf, ToolError> {
        self.dirs
            .iter()
            .map(|dir| dir.join(tool.name))
            .find(|path| is_program(path))
            .ok_or_else(|| ToolError::Missing {
                tool: tool.name.into(),
                package: tool.package.into(),
            })
    }

    /// Runs a tool to its end, whatever that is.
    ///
    /// # Errors
    /// Where it could not be run, hung, or was to stop. How it exited is in the [`Outcome`].
    pub fn run(&self, tool: Tool, args: &[&OsStr]) -> Result<Outcome, ToolError> {
        let path = self.find(tool)?;
        self.supervise(tool, (&path, args), |launch, writer| {
            launch.launch(self.command(tool, &path, args, writer)?)
        })
    }

    /// Lets `start` start a process that says what it says to the pipe, and waits for its end.
    /// `shown` is what the log calls it.
    pub(super) fn supervise(
        &self,
        tool: Tool,
        shown: (&Path, &[&OsStr]),
        start: impl FnOnce(&dyn Launch, io::PipeWriter) -> io::Result<Child>,
    ) -> Result<Outcome, ToolError> {
        let keep = |source| ToolError::Log {
            tool: tool.name.into(),
            source,
        };
        let log = self.logs.as_ref().map(|dir| create_log(dir, tool.name));
        let mut output = Output::new(log.transpose().map_err(keep)?);
        output.header(shown.0, shown.1).map_err(keep)?;
        let failed = |source| ToolError::Start {
            tool: tool.name.into(),
            source,
        };
        let (mut pipe, writer) = io::pipe().map_err(failed)?;
        fcntl(pipe.as_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(|e| failed(e.into()))?;
        let mut child = start(self.launch, writer).map_err(failed)?;
        let ended = self.watch(tool, &mut child, &mut pipe, &mut output);
        if ended.is_err() {
            self.kill(&mut child);
            // The error that is on its way says more than one about the log.
            let _ = output.footer("killed by us");
        }
        let status = ended?;
        output.take(&mut pipe).map_err(keep)?;
        let outcome = Outcome {
            tool: tool.name,
            code: status.code(),
            signal: status.signal(),
            output: output.text(),
        };
        output
            .footer(&ending(outcome.code, outcome.signal))
            .map_err(keep)?;
        Ok(outcome)
    }

    fn command(
        &self,
        tool: Tool,
        path: &Path,
        args: &[&OsStr],
        writer: io::PipeWriter,
    ) -> io::Result<Command> {
        let mut command = Command::new(path);
        command
            .args(args)
            .env_clear()
            .env("PATH", std::env::join_paths(&self.dirs).unwrap_or_default())
            .env("LC_ALL", "C")
            .env("TZ", "UTC")
            .envs(tool.env.iter().copied())
            .stdin(Stdio::null())
            .stderr(writer.try_clone()?)
            .stdout(writer);
        Ok(command)
    }

    /// Waits for the end, and takes in what the tool says.
    fn watch(
        &self,
        tool: Tool,
        child: &mut Child,
        pipe: &mut io::PipeReader,
        output: &mut Output,
    ) -> Result<ExitStatus, ToolError> {
        let keep = |source| ToolError::Log {
            tool: tool.name.into(),
            source,
        };
        let mut last = (Instant::now(), Sign::default());
        loop {
            wait_for_output(pipe, output.closed);
            output.take(pipe).map_err(keep)?;
            if let Some(status) = child.try_wait().map_err(keep)? {
                return Ok(status);
            }
            if (self.interrupted)() {
                return Err(ToolError::Interrupted {
                    tool: tool.name.into(),
                });
            }
            let sign = Sign::of(child, self.launch, output.bytes);
            if sign != last.1 {
                last = (Instant::now(), sign);
            } else if last.0.elapsed() > self.patience {
                return Err(ToolError::Hung {
                    tool: tool.name.into(),
                    seconds: self.patience.as_secs(),
                    output_tail: output.text(),
                });
            }
        }
    }

    /// Ends the process, and what it started.
    fn kill(&self, child: &mut Child) {
        let group = Pid::from_raw(child.id().cast_signed());
        let _ = killpg(group, Signal::SIGKILL);
        let _ = child.kill();
        if !ends_within(child, DYING) {
            // It waits for its disk, where signals do not reach it.
            self.launch.abandon();
            ends_within(child, DYING);
        }
    }
}

fn ends_within(child: &mut Child, patience: Duration) -> bool {
    let until = Instant::now() + patience;
    while Instant::now() < until {
        if !matches!(child.try_wait(), Ok(None)) {
            return true;
        }
        sleep(Duration::from_millis(5));
    }
    false
}

fn wait_for_output(pipe: &io::PipeReader, closed: bool) {
    if closed {
        // There is nothing to wait for any more but the end.
        sleep(Duration::from_millis(5));
        return;
    }
    let timeout = PollTimeout::try_from(TICK).unwrap_or(PollTimeout::ZERO);
    let _ = poll(&mut [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)], timeout);
}

/// What changes while a tool works: its output, its disk's requests, its own count of I/O.
#[derive(Default, PartialEq, Eq)]
struct Sign {
    said: u64,
    requests: u64,
    io: Vec<u8>,
}

impl Sign {
    fn of(child: &Child, launch: &dyn Launch, said: u64) -> Sign {
        Sign {
            said,
            requests: launch.progress(),
            // Not every kernel has the file. Then the other two must do.
            io: std::fs::read(format!("/proc/{}/io", child.id())).unwrap_or_default(),
        }
    }
}

/// What a tool says: the end in memory, all of it in the log.
struct Output {
    log: Option<File>,
    tail: Vec<u8>,
    bytes: u64,
    closed: bool,
}

impl Output {
    fn new(log: Option<File>) -> Output {
        Output {
            log,
            tail: Vec::new(),
            bytes: 0,
            closed: false,
        }
    }

    fn header(&mut self, path: &Path, args: &[&OsStr]) -> io::Result<()> {
        let mut line = OsString::from("$ ");
        line.push(path);
        for arg in args {
            line.push(" ");
            line.push(arg);
        }
        line.push("\n");
        self.note(line.as_encoded_bytes())
    }

    fn footer(&mut self, ending: &str) -> io::Result<()> {
        let cut = if self.bytes > LOG_BYTES {
            " (log cut)"
        } else {
            ""
        };
        self.note(format!("[{ending}]{cut}\n").as_bytes())
    }

    fn note(&mut self, line: &[u8]) -> io::Result<()> {
        self.log.as_mut().map_or(Ok(()), |log| log.write_all(line))
    }

    /// Takes in what is in the pipe now.
    fn take(&mut self, pipe: &mut io::PipeReader) -> io::Result<()> {
        let mut buf = [0; 4096];
        // No pipe holds more than this; a tool that never falls silent must not keep us here.
        for _ in 0..512 {
            if self.closed {
                break;
            }
            match pipe.read(&mut buf) {
                Ok(0) => self.closed = true,
                Ok(count) => self.push(&buf[..count])?,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn push(&mut self, said: &[u8]) -> io::Result<()> {
        if self.bytes < LOG_BYTES {
            self.note(said)?;
        }
        self.bytes += said.len() as u64;
        self.tail.extend_from_slice(said);
        if self.tail.len() > 2 * TAIL_BYTES {
            self.tail.drain(..self.tail.len() - TAIL_BYTES);
        }
        Ok(())
    }

    fn text(&self) -> String {
        let tail = &self.tail[self.tail.len().saturating_sub(TAIL_BYTES)..];
        let lines: Vec<String> = tail.split(|&b| b == b'\n').map(escape_bytes).collect();
        lines.join("\n")
    }
}

/// The directories that are searched, in order, each once: those of `path` that are absolute, then
/// the system's.
pub fn search_dirs(path: Option<&OsStr>) -> Vec<PathBuf> {
    let mut dirs: Vec<PathBuf> = Vec::new();
    let own = path.into_iter().flat_map(std::env::split_paths);
    for dir in own.chain(SYSTEM_DIRS.iter().map(PathBuf::from)) {
        if dir.is_absolute() && !dirs.contains(&dir) {
            dirs.push(dir);
        }
    }
    dirs
}

fn is_program(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

/// Creates the next log in `dir`.
fn create_log(dir: &Path, name: &str) -> io::Result<File> {
    for number in 1..10_000 {
        let taken = std::fs::read_dir(dir)?.flatten().any(|entry| {
            let prefix = format!("{number:02}-");
            entry
                .file_name()
                .as_encoded_bytes()
                .starts_with(prefix.as_bytes())
        });
        if !taken {
            return OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(dir.join(format!("{number:02}-{name}.log")));
        }
    }
    Err(io::Error::other("too many logs in one directory"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::CommandExt;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    /// Starts processes right here, as leaders of a group.
    #[derive(Default)]
    struct Here {
        requests: AtomicU64,
        busy: bool,
    }

    impl Launch for Here {
        fn launch(&self, mut command: Command) -> io::Result<Child> {
            command.process_group(0).spawn()
        }
        fn progress(&self) -> u64 {
            self.requests
                .fetch_add(u64::from(self.busy), Ordering::Relaxed)
        }
    }

    const FAKE: Tool = Tool {
        name: "fake",
        package: "fake-utils",
        env: &[("OWN", "1")],
    };

    /// A directory with a program `fake` that does what `script` says.
    fn fake(script: &str) -> (tempfile::TempDir, Vec<PathBuf>) {
        let dir = tempfile::tempdir().unwrap();
        // Another process writes it: a descriptor that is open for writing here would go through
        // the fork of another test's tool, and a program that is open for writing does not start.
        let written = Command::new("/bin/sh")
            .args([
                "-c",
                r#"printf '#!/bin/sh\n%s\n' "$TEXT" >fake && chmod 755 fake"#,
            ])
            .env("TEXT", script)
            .current_dir(&dir)
            .status()
            .unwrap();
        assert!(written.success());
        let mut dirs = vec![dir.path().to_path_buf()];
        dirs.extend(search_dirs(None));
        (dir, dirs)
    }

    #[test]
    fn what_is_not_installed_is_named_with_its_package() {
        let here = Here::default();
        let tools = Tools::new(&here).with_dirs(vec!["/nonexistent".into()]);
        let said = tools.run(FAKE, &[]).unwrap_err().to_string();
        assert_eq!(
            said,
            "fake is not installed; it is in the package fake-utils"
        );
    }

    #[test]
    fn output_and_exit_code_are_kept_and_logged() {
        let (dir, dirs) = fake("echo out $1; echo 'err\x1b' >&2; exit 3");
        let here = Here::default();
        let logs = dir.path().join("logs");
        std::fs::create_dir(&logs).unwrap();
        let tools = Tools::new(&here).with_dirs(dirs).with_logs(&logs);
        for _ in 0..2 {
            let outcome = tools.run(FAKE, &["a b".as_ref()]).unwrap();
            assert_eq!(outcome.code, Some(3));
            assert_eq!(outcome.output, "out a b\nerr\\x1b\n");
            let failed = outcome.accept(&[0, 1]).unwrap_err().to_string();
            assert!(failed.starts_with("fake exited with 3\nout"), "{failed}");
        }
        for name in ["01-fake.log", "02-fake.log"] {
            let path = logs.join(name);
            let mode = path.metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            let text = std::fs::read_to_string(path).unwrap();
            assert!(text.starts_with("$ /") && text.contains("/fake a b\nout a b\n"));
            assert!(text.ends_with("[exited with 3]\n"), "{text}");
        }
    }

    #[test]
    fn the_environment_is_made_here() {
        let (_dir, dirs) = fake("env; read line || echo no input");
        let here = Here::default();
        let said = Tools::new(&here).with_dirs(dirs).run(FAKE, &[]).unwrap();
        let mut names: Vec<&str> = said
            .output
            .lines()
            .filter_map(|l| l.split('=').next())
            .collect();
        names.retain(|name| !["PWD", "_", "SHLVL", "OLDPWD"].contains(name));
        names.sort_unstable();
        assert_eq!(names, ["LC_ALL", "OWN", "PATH", "TZ", "no input"]);
    }

    #[test]
    fn a_signal_is_told_apart_from_a_code() {
        let (_dir, dirs) = fake("kill -9 $$");
        let here = Here::default();
        let outcome = Tools::new(&here).with_dirs(dirs).run(FAKE, &[]).unwrap();
        assert_eq!((outcome.code, outcome.signal), (None, Some(9)));
        assert!(outcome.accept(&[0]).is_err());
    }

    #[test]
    fn one_that_does_nothing_is_killed() {
        let (_dir, dirs) = fake("echo started; sleep 1000");
        let here = Here::default();
        let tools = Tools::new(&here)
            .with_dirs(dirs)
            .with_patience(Duration::from_millis(300));
        let began = Instant::now();
        match tools.run(FAKE, &[]) {
            Err(ToolError::Hung { output_tail, .. }) => assert_eq!(output_tail, "started\n"),
            other => panic!("{other:?}"),
        }
        assert!(began.elapsed() < DYING, "{:?}", began.elapsed());
    }

    #[test]
    fn one_that_works_is_left_alone() {
        let talks = fake("for i in 1 2 3 4 5 6 7 8; do echo $i; sleep 0.1; done");
        let quiet = fake("sleep 0.8");
        for (busy, (_dir, dirs)) in [(false, talks), (true, quiet)] {
            let here = Here {
                busy,
                ..Here::default()
            };
            let tools = Tools::new(&here)
                .with_dirs(dirs)
                .with_patience(Duration::from_millis(400));
            assert_eq!(tools.run(FAKE, &[]).unwrap().code, Some(0), "busy: {busy}");
        }
    }

    #[test]
    fn a_wish_to_stop_is_heard() {
        let (_dir, dirs) = fake("exec 1>&- 2>&-; sleep 1000");
        let here = Here::default();
        let stop = AtomicBool::new(false);
        let asked = || stop.swap(true, Ordering::SeqCst);
        let tools = Tools::new(&here).with_dirs(dirs).with_interrupt(&asked);
        assert!(matches!(
            tools.run(FAKE, &[]),
            Err(ToolError::Interrupted { .. })
        ));
    }

    #[test]
    fn memory_is_bounded_whatever_a_tool_says() {
        let (_dir, dirs) = fake("yes 0123456789 | head -c 3000000; echo last");
        let here = Here::default();
        let outcome = Tools::new(&here).with_dirs(dirs).run(FAKE, &[]).unwrap();
        assert!(outcome.output.len() <= TAIL_BYTES);
        assert!(outcome.output.ends_with("last\n"));
    }

    #[test]
    fn directories_are_searched_once_and_never_relative() {
        let dirs = search_dirs(Some(OsStr::new("/opt/x:.::/sbin:/opt/x")));
        let want = ["/opt/x", "/sbin", "/usr/sbin", "/usr/bin", "/bin"];
        assert_eq!(dirs, want.map(PathBuf::from));
    }
}
