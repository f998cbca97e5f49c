//! What only the kernel can do to a file system: a job on one that is mounted.
//!
//! The kernel is the stock resizer of XFS and btrfs, and the only reader of everything in them. A
//! driver describes a [`Job`]; a process of our own does it and ends.
//!
//! 1. It is a process of its own, never a thread of the one that serves the overlay. When a
//!    process dies, the kernel closes its descriptors one after another. An unmount that writes to
//!    a file whose server is in the same dying process would wait for ever.
//! 2. The mount is detached: it is held by a descriptor alone, shows up in no namespace, and is
//!    gone with the process, as is the loop device under it, however the process ends. When the
//!    one that serves the overlay is killed, this one is too, and its unmount gets errors.
//! 3. Nothing of the disk is opened on the host, and nothing but regular files and directories is
//!    opened at all: `nodev`, `nosuid`, `noexec`, no symlink followed, each name by itself.
//! 4. udev never sees the loop device: it is locked. Otherwise `/dev/disk/by-uuid` of the host
//!    would point to it for a moment.
//! 5. The mount gives up nothing on its own: no discard, no balance, no quota reset, and where it
//!    only reads, no replay of a log.
//!
//! What it does not do: judge. A driver says what a job may have changed.
//!
//! [`child`] is the process, [`walk`] reads the files in it, [`entry`] is what it says about each,
//! [`compare`] holds two walks against each other.

pub mod child;
pub mod compare;
pub mod entry;
mod walk;

use std::ffi::{OsStr, OsString};
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use super::tool::{Tool, ToolError, Tools};
use crate::report::Refusal;

pub use compare::{Rules, WalkError, compare_with, record};
pub use entry::Entry;

/// The hidden first argument of our own program that makes it do a job. See [`child::main`].
pub const ARGUMENT: &str = "--do-mounted-job";

static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// Says which program does jobs: ours, where the one that runs is not it, as in the tests of the
/// library. Only the first call counts.
pub fn set_program(path: &Path) {
    let _ = PROGRAM.set(path.to_path_buf());
}

fn program() -> &'static Path {
    let running = || PathBuf::from("/proc/self/exe");
    PROGRAM.get_or_init(running)
}

/// As which the process is named.
const SELF: Tool = Tool {
    name: "mounted",
    package: "holdfast",
    env: &[],
};

/// File systems that are mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// XFS.
    Xfs,
    /// btrfs, its top-level subvolume.
    Btrfs,
}

/// What is done while it is mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Nothing: mounted for writing and unmounted, so that its log is replayed.
    Replay,
    /// XFS: the data section grows to so many bytes.
    XfsGrow {
        /// Whole blocks.
        bytes: u64,
    },
    /// btrfs: device 1 is resized.
    BtrfsResize {
        /// Its size.
        bytes: u64,
    },
    /// Mounted for reading only, without replay: everything is read, and told as [`Entry`]s.
    Walk,
}

/// A job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Which file system.
    pub kind: Kind,
    /// What is to be done.
    pub work: Work,
    /// Options of the mount besides those that [`Kind`] and [`Work`] imply. Out of [`OPTIONS`].
    pub options: Vec<&'static str>,
    /// Logical sector size that the file system sees. 512 serves them all.
    pub sector_bytes: u32,
}

/// How every file is read by the kernel, where that is to be compared before and after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walk {
    /// Which file system.
    pub kind: Kind,
    /// Out of [`OPTIONS`].
    pub options: &'static [&'static str],
    /// What need not be equal.
    pub rules: Rules,
}

/// Options that a driver may add. XFS resets the flags of a quota that is not asked for; those that
/// its superblock has are added by themselves.
pub const OPTIONS: [&str; 6] = [
    "uquota",
    "uqnoenforce",
    "gquota",
    "gqnoenforce",
    "pquota",
    "pqnoenforce",
];

impl Job {
    /// A job with nothing special about it.
    pub fn new(kind: Kind, work: Work) -> Job {
        Job {
            kind,
            work,
            options: Vec::new(),
            sector_bytes: 512,
        }
    }

    fn reads_only(&self) -> bool {
        self.work == Work::Walk
    }

    fn to_args(&self) -> Vec<OsString> {
        let kind = match self.kind {
            Kind::Xfs => "xfs",
            Kind::Btrfs => "btrfs",
        };
        let (work, number) = match self.work {
            Work::Replay => ("replay", 0),
            Work::XfsGrow { bytes } => ("xfs-grow", bytes),
            Work::BtrfsResize { bytes } => ("btrfs-resize", bytes),
            Work::Walk => ("walk", 0),
        };
        let mut args: Vec<OsString> = [ARGUMENT, kind, work].map(OsString::from).into();
        args.push(number.to_string().into());
        args.push(self.sector_bytes.to_string().into());
        args.extend(self.options.iter().map(OsString::from));
        args
    }

    /// Reads what [`Job::to_args`] makes, without the first.
    fn from_args(args: &[OsString]) -> Option<Job> {
        let words: Option<Vec<&str>> = args.iter().map(|arg| arg.to_str()).collect();
        let words = words?;
        let (&[kind, work, number, sector], options) = words.split_first_chunk::<4>()?;
        let number: u64 = number.parse().ok()?;
        let known = |&word: &&str| OPTIONS.iter().find(|o| **o == word).copied();
        Some(Job {
            kind: match kind {
                "xfs" => Kind::Xfs,
                "btrfs" => Kind::Btrfs,
                _ => return None,
            },
            work: match work {
                "replay" => Work::Replay,
                "xfs-grow" => Work::XfsGrow { bytes: number },
                "btrfs-resize" => Work::BtrfsResize { bytes: number },
                "walk" => Work::Walk,
                _ => return None,
            },
            options: options.iter().map(known).collect::<Option<_>>()?,
            sector_bytes: sector.parse().ok()?,
        })
    }
}

/// Takes in what a walk tells.
pub type Sink<'a> = dyn FnMut(Entry) -> io::Result<()> + Send + 'a;

/// Does a job on the file that the tools see. It must be served through FUSE.
///
/// # Errors
/// [`ToolError::Refused`] where this host cannot mount, [`ToolError::Failed`] with the kernel's
/// reason, and all that a tool can suffer.
pub fn run(job: &Job, tools: &Tools<'_>) -> Result<(), ToolError> {
    walked(job, tools, &mut |_| Ok(()))
}

/// Walks through everything on the file that the tools see, and tells it in order of paths.
///
/// # Errors
/// As [`run`]; an error of `sink` is [`ToolError::Log`].
pub fn walk(how: Walk, tools: &Tools<'_>, sink: &mut Sink<'_>) -> Result<(), ToolError> {
    let job = Job {
        options: how.options.to_vec(),
        ..Job::new(how.kind, Work::Walk)
    };
    walked(&job, tools, sink)
}

fn walked(job: &Job, tools: &Tools<'_>, sink: &mut Sink<'_>) -> Result<(), ToolError> {
    let args = job.to_args();
    let shown: Vec<&OsStr> = args.iter().map(OsString::as_os_str).collect();
    let start = |source| ToolError::Start {
        tool: SELF.name.into(),
        source,
    };
    let (data, writer) = io::pipe().map_err(start)?;
    let has_entries = job.reads_only();
    let (outcome, taken) = std::thread::scope(|scope| {
        let reader = scope.spawn(move || match has_entries {
            true => entry::read_all(BufReader::with_capacity(1 << 16, data), sink),
            false => Ok(()),
        });
        let outcome = tools.supervise(SELF, (Path::new("holdfast"), &shown), |launch, errors| {
            let mut command = Command::new(program());
            command
                .args(&args)
                .env_clear()
                .stdout(writer)
                .stderr(Stdio::from(errors));
            launch.launch_mounter(command)
        });
        let taken = reader
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the reader of a walk panicked")));
        (outcome, taken)
    });
    let outcome = match outcome {
        Err(ToolError::Start { source, .. }) if source.kind() == io::ErrorKind::Unsupported => {
            return Err(ToolError::Refused(unavailable(&source.to_string())));
        }
        other => other?,
    };
    match outcome.code {
        Some(child::NO_PRIVILEGE) => Err(ToolError::Refused(Refusal::new(
            "needs-root",
            format!(
                "this file system can only be changed while it is mounted, and this user may not \
                 mount it: {}",
                outcome.output.trim_end()
            ),
            "run the same command as root",
        ))),
        Some(child::UNAVAILABLE) => Err(ToolError::Refused(unavailable(outcome.output.trim_end()))),
        // What was taken in goes first: where we stopped listening, the process failed for that.
        _ => match taken {
            Err(source)
                if outcome.code == Some(0) || source.kind() != io::ErrorKind::UnexpectedEof =>
            {
                Err(ToolError::Log {
                    tool: SELF.name.into(),
                    source,
                })
            }
            _ => outcome.accept(&[0]).map(drop),
        },
    }
}

fn unavailable(why: &str) -> Refusal {
    Refusal::new(
        "mount-unavailable",
        format!(
            "this file system can only be changed while it is mounted, which is not to be had \
             here: {why}"
        ),
        "it needs root, /dev/fuse, loop devices and a kernel with this file system; a container \
         often lacks them, the host has them",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_survives_the_command_line() {
        let mut job = Job::new(Kind::Xfs, Work::XfsGrow { bytes: u64::MAX });
        job.options = vec!["uquota", "pqnoenforce"];
        job.sector_bytes = 4096;
        assert_eq!(Job::from_args(&job.to_args()[1..]), Some(job));
        for work in [
            Work::Replay,
            Work::Walk,
            Work::BtrfsResize { bytes: 1 << 40 },
        ] {
            let job = Job::new(Kind::Btrfs, work);
            assert_eq!(Job::from_args(&job.to_args()[1..]), Some(job));
        }
        for wrong in [
            &["xfs", "walk", "0"][..],
            &["ext4", "walk", "0", "512"],
            &["xfs", "walk", "0", "512", "suid"],
            &["xfs", "eat", "0", "512"],
        ] {
            let args: Vec<OsString> = wrong.iter().map(OsString::from).collect();
            assert_eq!(Job::from_args(&args), None, "{wrong:?}");
        }
    }
}
