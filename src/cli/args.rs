//! What can be typed. What was typed becomes what was meant in one step, in `run.rs`.

use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::blame::BlameArgs;
use super::mail::MailCommand;
use crate::fs::tool::PATIENCE;
use crate::plan::{Level, To};
use crate::units::Bytes;

const EXIT_CODES: &str = "\
Exit codes tell the state of the target:
  0    done, or nothing to do
  1    error before any write; untouched
  2    usage
  3    refused; untouched
  4    the rehearsal failed or its result was rejected; untouched
  5    the commit failed and was rolled back and verified: as before
  6    the rollback is incomplete: run `holdfast recover`
  7    verify found differences, mail scan found damage
  8    a transaction is under way on the target: run `holdfast recover` first
  130  interrupted before the commit point; untouched";

/// Resize partitions and the file systems in them without betting the data on it.
///
/// The whole change is rehearsed on a copy-on-write overlay and checked down to every file. Only
/// then is what differs written to the device, through a journal; it is read back and compared,
/// and rolled back by itself if anything is wrong.
#[derive(Debug, Parser)]
#[command(name = "holdfast", version, after_help = EXIT_CODES, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Options of every command.
    #[command(flatten)]
    pub common: Common,
}

/// Options of every command.
#[derive(Clone, Debug, Args)]
pub struct Common {
    /// Print exactly one JSON document on standard output
    #[arg(long, global = true)]
    pub json: bool,
    /// Where journals are kept [default: /var/lib/holdfast, or your own state directory]
    #[arg(long, global = true, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Say nothing but the result
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// How many seconds a tool of the rehearsal may make no progress before it is killed
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = PATIENCE.as_secs(),
          value_parser = clap::value_parser!(u64).range(1..), hide_short_help = true)]
    pub patience: u64,
}

/// A target.
#[derive(Clone, Debug, Args)]
pub struct TargetArgs {
    /// An image file, a disk, or a partition's device
    pub target: PathBuf,
    /// The partition's number, where the target is a whole disk or an image of one
    #[arg(long, short, value_name = "N")]
    pub partition: Option<u32>,
    /// Logical sector size of an image [default: found out]
    #[arg(long, value_name = "BYTES", value_parser = clap::builder::PossibleValuesParser::new(["512", "4096"]))]
    pub sector_size: Option<String>,
}

/// Whether files are listed and compared.
#[derive(Clone, Copy, Debug, Args)]
pub struct FilesArgs {
    /// TARGET is a mounted directory, of any file system: its files, not its blocks
    #[arg(long, conflicts_with_all = ["partition", "sector_size"])]
    pub tree: bool,
    /// Each file as well, in a list beside the manifest (MANIFEST.files), read offline
    #[arg(long, conflicts_with = "tree")]
    pub files: bool,
}

/// What a change is to be.
#[derive(Clone, Debug, Args)]
pub struct ChangeArgs {
    /// The target.
    #[command(flatten)]
    pub target: TargetArgs,
    /// New size of the partition: SIZE, +SIZE, -SIZE, max or min; with a unit, as in 500GiB or +20GB
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub to: Option<To>,
    /// Extend the image file itself to SIZE, in the same transaction (grow only)
    #[arg(long, value_name = "SIZE")]
    pub disk_size: Option<Bytes>,
    /// How much is read back and compared after the commit
    #[arg(long, value_enum, default_value = "used")]
    pub verify: LevelArg,
    /// How the overlay is shown to the tools
    #[arg(long, value_enum, default_value = "auto", hide_short_help = true)]
    pub export: ExportArg,
}

/// `--verify`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LevelArg {
    /// The blocks that were changed
    Changed,
    /// Everything that the file system uses
    Used,
    /// The rest of the disk as well
    All,
}

impl From<LevelArg> for Level {
    fn from(level: LevelArg) -> Level {
        match level {
            LevelArg::Changed => Level::Changed,
            LevelArg::Used => Level::Used,
            LevelArg::All => Level::All,
        }
    }
}

/// `recover --verify`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RecoverVerifyArg {
    /// The blocks that the transaction changes
    Changed,
    /// Everything that the file system uses
    Used,
}

/// `--export`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExportArg {
    /// FUSE where it is to be had, else a copy
    Auto,
    /// Through FUSE
    Fuse,
    /// As a sparse copy in the state directory
    Copy,
}

/// `plan grow`, `plan shrink`
#[derive(Debug, Subcommand)]
pub enum PlanCommand {
    /// Plan to make a partition and its file system larger
    Grow(PlanArgs),
    /// Plan to make a partition and its file system smaller
    Shrink(PlanArgs),
}

/// Options of `plan`.
#[derive(Clone, Debug, Args)]
pub struct PlanArgs {
    /// The change.
    #[command(flatten)]
    pub change: ChangeArgs,
    /// Write the plan to a file, for `holdfast apply`
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Run the whole rehearsal, and replace estimates by results
    #[arg(long)]
    pub rehearse: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Say what a target is, and whether anything is wrong with it
    Check(TargetArgs),
    /// Say what a change would do; writes nothing
    #[command(subcommand)]
    Plan(PlanCommand),
    /// Make a partition and its file system larger
    Grow {
        /// The change.
        #[command(flatten)]
        change: ChangeArgs,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
    /// Make a partition and its file system smaller
    Shrink {
        /// The change.
        #[command(flatten)]
        change: ChangeArgs,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
    /// Carry out a plan that `holdfast plan -o FILE` made
    Apply {
        /// The plan's file
        plan: PathBuf,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
        /// How the overlay is shown to the tools
        #[arg(long, value_enum, default_value = "auto", hide_short_help = true)]
        export: ExportArg,
    },
    /// Hash everything that the file system uses, into a manifest
    Snapshot {
        /// The target.
        #[command(flatten)]
        target: TargetArgs,
        /// Where the manifest is written
        #[arg(long, short, value_name = "FILE")]
        output: PathBuf,
        /// What is listed.
        #[command(flatten)]
        files: FilesArgs,
    },
    /// Compare a target with a manifest, and name the files that differ
    Verify {
        /// The target.
        #[command(flatten)]
        target: TargetArgs,
        /// What `holdfast snapshot` wrote
        manifest: PathBuf,
        /// What is compared.
        #[command(flatten)]
        files: FilesArgs,
    },
    /// List the transactions
    Status,
    /// Finish what a crash interrupted
    Recover {
        /// A target or a transaction [default: whatever needs it]
        what: Option<String>,
        /// Complete the change instead of undoing it
        #[arg(long)]
        forward: bool,
        /// What is read back before the gate is opened. `changed` is for a target of which some
        /// place in use cannot be read any more
        #[arg(long, value_enum, default_value = "used")]
        verify: RecoverVerifyArg,
    },
    /// Undo a transaction that was applied, if the target has not been used since
    Rollback {
        /// The transaction, or the beginning of its id
        id: String,
        /// Where its target is now [default: found by what it carries]
        #[arg(long, value_name = "TARGET")]
        target: Option<PathBuf>,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
    /// Remove the journals of transactions that ended
    Prune {
        /// These transactions [default: all that ended long enough ago]
        ids: Vec<String>,
        /// How long they are kept
        #[arg(long, value_name = "N", default_value_t = 30)]
        days: u64,
    },
    /// Give up a transaction that cannot be recovered, and with it the way back
    Abandon {
        /// The transaction, or the beginning of its id
        id: String,
        /// The whole id once more, instead of typing it when asked
        #[arg(long, value_name = "ID")]
        confirm: Option<String>,
    },
    /// Say whose bytes these are: files, directories, structures
    Blame(BlameArgs),
    /// Find damaged messages in a mail store
    #[command(subcommand)]
    Mail(MailCommand),
}

impl Command {
    /// The target that was typed, where the command has one.
    pub fn target(&self) -> Option<&Path> {
        match self {
            Command::Check(args)
            | Command::Snapshot { target: args, .. }
            | Command::Verify { target: args, .. } => Some(&args.target),
            Command::Blame(args) => Some(&args.target.target),
            Command::Plan(PlanCommand::Grow(args) | PlanCommand::Shrink(args)) => {
                Some(&args.change.target.target)
            }
            Command::Grow { change, .. } | Command::Shrink { change, .. } => {
                Some(&change.target.target)
            }
            Command::Rollback { target, .. } => target.as_deref(),
            Command::Recover { what, .. } => what.as_deref().map(Path::new).filter(|p| p.exists()),
            Command::Apply { .. }
            | Command::Status
            | Command::Prune { .. }
            | Command::Mail(_)
            | Command::Abandon { .. } => None,
        }
    }

    /// Its name, as it is typed.
    pub fn name(&self) -> &'static str {
        match self {
            Command::Check(_) => "check",
            Command::Plan(PlanCommand::Grow(_)) => "plan grow",
            Command::Plan(PlanCommand::Shrink(_)) => "plan shrink",
            Command::Grow { .. } => "grow",
            Command::Shrink { .. } => "shrink",
            Command::Apply { .. } => "apply",
            Command::Snapshot { .. } => "snapshot",
            Command::Verify { .. } => "verify",
            Command::Status => "status",
            Command::Recover { .. } => "recover",
            Command::Rollback { .. } => "rollback",
            Command::Prune { .. } => "prune",
            Command::Abandon { .. } => "abandon",
            Command::Blame(_) => "blame",
            Command::Mail(command) => command.name(),
        }
    }
}
