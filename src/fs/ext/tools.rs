//! e2fsprogs: which calls are made, and which answers are good.
//!
//! Nothing here proves anything about data. resize2fs has exited with 0 and e2fsck has found
//! nothing where files were damaged; the files are compared elsewhere.

use std::ffi::OsStr;
use std::fmt;
use std::path::Path;

use crate::fs::Direction;
use crate::fs::tool::{Outcome, Tool, ToolError, Tools};
use crate::report::Refusal;

/// The checker.
pub const E2FSCK: Tool = Tool {
    name: "e2fsck",
    package: "e2fsprogs",
    env: &[],
};

/// Sets the stamp of the check.
pub const TUNE2FS: Tool = Tool {
    name: "tune2fs",
    package: "e2fsprogs",
    env: &[],
};

/// The resizer. It leaves new inode tables to the kernel, as it does on any host whose kernel says
/// that it can, whether or not `/sys` can be seen: zeros need not be journaled.
pub const RESIZE2FS: Tool = Tool {
    name: "resize2fs",
    package: "e2fsprogs",
    env: &[("RESIZE2FS_FORCE_LAZY_ITABLE_INIT", "1")],
};

/// A version of e2fsprogs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u16, pub u16, pub u16);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// Asks e2fsck for its version.
///
/// # Errors
/// [`ToolError`], also where no version is in the answer.
pub fn version(tools: &Tools<'_>) -> Result<Version, ToolError> {
    let outcome = tools.run(E2FSCK, &["-V".as_ref()])?.accept(&[0])?;
    parse_version(&outcome.output).ok_or_else(|| outcome.unexpected())
}

/// Reads `e2fsck 1.47.0 (5-Feb-2023)`, also `1.46-WIP` and `1.47.1~rc1`.
fn parse_version(text: &str) -> Option<Version> {
    let line = text.lines().find(|line| line.starts_with("e2fsck "))?;
    let word = line.split_whitespace().nth(1)?;
    let numbers = word
        .split(|c: char| !(c.is_ascii_digit() || c == '.'))
        .next()?;
    let mut parts = numbers.split('.').map(str::parse::<u16>);
    let (major, minor) = (parts.next()?.ok()?, parts.next()?.ok()?);
    let patch = parts.next().map_or(Some(0), Result::ok)?;
    Some(Version(major, minor, patch))
}

/// What is known of the job when the tool is judged.
#[derive(Clone, Copy, Debug)]
pub struct Job<'a> {
    /// Features, as `dumpe2fs` names them.
    pub features: &'a [String],
    /// Which way.
    pub direction: Direction,
    /// The file system's block size.
    pub block_bytes: u64,
    /// The size that it is to have.
    pub new_bytes: u64,
}

impl Job<'_> {
    fn has(&self, feature: &str) -> bool {
        self.features.iter().any(|f| f == feature)
    }

    fn shrinks(&self) -> bool {
        self.direction == Direction::Shrink
    }

    fn has_extents(&self) -> bool {
        self.has("extent") || self.has("extents")
    }
}

/// What a version's known faults mean for a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The job would lose data or fail.
    Refused(Refusal),
    /// The job is checked in a way that finds the damage, should it happen.
    Notice(String),
}

/// Before this, resizing offline had so many corner cases that nobody should.
const OLDEST: Version = Version(1, 43, 7);

/// With 1 KiB blocks, group descriptors fill the first group at 1 TiB (64 bytes each) or 2 TiB.
const CROWDED_BYTES: u64 = 1 << 40;

/// A fault that the release notes of e2fsprogs name.
struct Known {
    fixed_in: Version,
    refuse: bool,
    applies: fn(&Job<'_>) -> bool,
    what: &'static str,
}

/// Faults that make the result wrong without a word are refused where they strike for certain, or
/// where they can strike what no comparison sees. That e2fsck before 1.47.2 may skip the check of
/// a file system with an orphan file is not among them: here every check is forced.
const KNOWN: [Known; 5] = [
    Known {
        fixed_in: Version(1, 44, 5),
        refuse: true,
        applies: |job| job.shrinks() && job.has("metadata_csum") && job.has_extents(),
        what: "its resize2fs leaves wrong checksums in extent trees that it moves",
    },
    Known {
        fixed_in: Version(1, 45, 7),
        refuse: true,
        applies: |job| !job.shrinks() && job.block_bytes == 1024 && job.new_bytes >= CROWDED_BYTES,
        what: "with blocks of 1 KiB its resize2fs lets the group descriptors of a file system \
               this large run over the first group",
    },
    Known {
        fixed_in: Version(1, 46, 3),
        refuse: true,
        applies: |job| !job.shrinks() && job.has("mmp"),
        what: "its resize2fs may overwrite the block of multi-mount protection when it grows",
    },
    Known {
        fixed_in: Version(1, 47, 1),
        refuse: false,
        applies: |job| job.has("bigalloc"),
        what: "its resize2fs may count the free clusters of the last group wrongly; the check \
               that follows finds it, and the change is then given up",
    },
    Known {
        fixed_in: Version(1, 47, 3),
        refuse: false,
        applies: |job| job.shrinks() && job.has_extents(),
        what: "its resize2fs may lose blocks of very fragmented files when it shrinks; every \
               file is compared afterwards, and the change is given up where one differs",
    },
];

/// What is known against this version for this job.
pub fn known_faults(version: Version, job: &Job<'_>) -> Vec<Fault> {
    let update = "install a newer e2fsprogs";
    if version < OLDEST {
        let text = format!("e2fsprogs {version} is too old to be trusted with a resize");
        let hint = format!("{update}: at least {OLDEST}");
        return vec![Fault::Refused(Refusal::new("tool-too-old", text, hint))];
    }
    let strikes = KNOWN
        .iter()
        .filter(|known| version < known.fixed_in && (known.applies)(job));
    strikes
        .map(|known| {
            let text = format!("e2fsprogs {version}: {}", known.what);
            let hint = format!("{update}: at least {}", known.fixed_in);
            if known.refuse {
                Fault::Refused(Refusal::new("tool-known-fault", text, hint))
            } else {
                Fault::Notice(format!("{text} (fixed in {})", known.fixed_in))
            }
        })
        .collect()
}

/// Brings the file system on `file` to a state that can be resized: checks everything, and stamps
/// the time of the check. Whatever would have to be repaired is an error.
///
/// The check is read-only where it can be: `e2fsck -f -p` also improves what it likes to (it indexes
/// large directories), and exits with 0. But resize2fs asks for a check that is younger than the
/// last mount, and a read-only one leaves no stamp; so tune2fs sets it.
///
/// # Errors
/// [`ToolError`]; the findings are in its output.
pub fn prepare(file: &Path, tools: &Tools<'_>) -> Result<(), ToolError> {
    verify(file, tools)?;
    let args = [OsStr::new("-T"), OsStr::new("now"), file.as_os_str()];
    tools.run(TUNE2FS, &args)?.accept(&[0])?;
    Ok(())
}

/// Replays the journal and ends what was under way: files that were deleted while open, counts in
/// the superblock that lagged behind. To put those right belongs to the replay, and e2fsck may exit
/// with 1 for it.
///
/// Without `-f`, so that it does this and no more. (`-E journal_only` would do less, but not the
/// replay alone either: it ends orphans and leaves the counts.) The orphan file is the exception:
/// e2fsck 1.47.0 empties it in a full check only, and a second call would end its orphans again.
///
/// # Errors
/// [`ToolError`], also where more was put right than belongs to it.
pub fn replay(file: &Path, has_orphan_file: bool, tools: &Tools<'_>) -> Result<(), ToolError> {
    let preen = [OsStr::new("-p"), file.as_os_str()];
    let force = [OsStr::new("-f"), preen[0], preen[1]];
    let args = if has_orphan_file { &force[..] } else { &preen };
    let outcome = tools.run(E2FSCK, args)?.accept(&[0, 1])?;
    if outcome.code == Some(1) && !only_replay(&outcome) {
        return Err(outcome.failed());
    }
    Ok(())
}

/// Whether e2fsck names nothing that is more than the rest of a replay.
fn only_replay(outcome: &Outcome) -> bool {
    const HARMLESS: [&str; 11] = [
        ": recovering journal",
        "Clearing orphaned inode",
        "Truncating orphaned inode",
        "Setting free inodes count to",
        "Setting free blocks count to",
        "Orphan file (inode",
        "CLEARED.",
        "was not cleanly unmounted, check forced",
        // `orphan_present` is in the primary one alone.
        "primary superblock features different from backup, check forced",
        ": clean, ",
        "% non-contiguous), ",
    ];
    outcome
        .output
        .lines()
        .filter(|line| !line.trim().is_empty())
        .all(|line| HARMLESS.iter().any(|text| line.contains(text)))
}

/// Resizes the file system on `file` to `new_bytes`.
///
/// # Errors
/// [`ToolError`].
///
/// # Panics
/// Where `new_bytes` is not a multiple of 1024: no file system has such a size.
pub fn resize(file: &Path, new_bytes: u64, tools: &Tools<'_>) -> Result<(), ToolError> {
    assert!(
        new_bytes.is_multiple_of(1024),
        "a size that is no number of blocks"
    );
    // With a unit, and never with -f: a bare number is blocks, and -f silences its own refusals.
    let size = format!("{}K", new_bytes / 1024);
    let outcome = tools.run(RESIZE2FS, &[file.as_os_str(), size.as_ref()])?;
    match parse_too_small(&outcome.output) {
        Some(blocks) if outcome.code != Some(0) => Err(ToolError::TooSmall {
            tool: RESIZE2FS.name.into(),
            blocks,
        }),
        _ => outcome.accept(&[0]).map(|_| ()),
    }
}

/// Reads `New size smaller than minimum (4961)`: it moves nothing then.
fn parse_too_small(text: &str) -> Option<u64> {
    let (_, rest) = text.split_once("New size smaller than minimum (")?;
    rest.split_once(')')?.0.parse().ok()
}

/// Checks the file system on `file` in every part, without writing to it.
///
/// # Errors
/// [`ToolError`]; the findings are in its output.
pub fn verify(file: &Path, tools: &Tools<'_>) -> Result<(), ToolError> {
    let args = [OsStr::new("-f"), OsStr::new("-n"), file.as_os_str()];
    tools.run(E2FSCK, &args)?.accept(&[0])?;
    Ok(())
}

/// The smallest size in bytes that resize2fs believes it can reach, for a file system that has
/// been [`prepare`]d. It is an estimate, and with blocks of 1 or 2 KiB not a good one.
///
/// # Errors
/// [`ToolError`], also where the answer has no number.
pub fn minimum(file: &Path, block_bytes: u64, tools: &Tools<'_>) -> Result<u64, ToolError> {
    let args = [OsStr::new("-P"), file.as_os_str()];
    let outcome = tools.run(RESIZE2FS, &args)?.accept(&[0])?;
    parse_minimum(&outcome.output)
        .and_then(|blocks| blocks.checked_mul(block_bytes))
        .ok_or_else(|| outcome.unexpected())
}

fn parse_minimum(text: &str) -> Option<u64> {
    let (_, number) = text.split_once("Estimated minimum size of the filesystem:")?;
    number.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        let said =
            "e2fsck 1.47.0 (5-Feb-2023)\n\tUsing EXT2FS Library version 1.47.0, 5-Feb-2023\n";
        assert_eq!(parse_version(said), Some(Version(1, 47, 0)));
        assert_eq!(
            parse_version("e2fsck 1.46-WIP (20-Mar-2020)"),
            Some(Version(1, 46, 0))
        );
        assert_eq!(
            parse_version("x\ne2fsck 1.47.1~rc2"),
            Some(Version(1, 47, 1))
        );
        for not in [
            "",
            "e2fsck",
            "e2fsck one.two",
            "e2fsck 1",
            "e2fsck 1.47.99999",
        ] {
            assert_eq!(parse_version(not), None, "{not}");
        }
    }

    fn codes(version: Version, features: &[&str], job: (Direction, u64, u64)) -> (usize, usize) {
        let features: Vec<String> = features.iter().map(|f| f.to_string()).collect();
        let job = Job {
            features: &features,
            direction: job.0,
            block_bytes: job.1,
            new_bytes: job.2,
        };
        let faults = known_faults(version, &job);
        let refused = |fault: &&Fault| matches!(fault, Fault::Refused(_));
        let refusals = faults.iter().filter(refused).count();
        (refusals, faults.len() - refusals)
    }

    #[test]
    fn a_version_is_refused_only_where_its_fault_strikes() {
        let usual = [
            "has_journal",
            "extent",
            "64bit",
            "metadata_csum",
            "orphan_file",
        ];
        let grow = (Direction::Grow, 4096, 1 << 40);
        let shrink = (Direction::Shrink, 4096, 1 << 30);
        assert_eq!(codes(Version(1, 47, 0), &usual, grow), (0, 0));
        assert_eq!(codes(Version(1, 47, 0), &usual, shrink), (0, 1));
        assert_eq!(codes(Version(1, 47, 3), &usual, shrink), (0, 0));
        assert_eq!(codes(Version(1, 44, 4), &usual, shrink), (1, 1));
        assert_eq!(codes(Version(1, 44, 4), &usual, grow), (0, 0));
        assert_eq!(codes(Version(1, 43, 6), &usual, grow), (1, 0));
        assert_eq!(codes(Version(1, 46, 2), &["mmp"], grow), (1, 0));
        assert_eq!(codes(Version(1, 46, 3), &["mmp"], grow), (0, 0));
        assert_eq!(codes(Version(1, 46, 2), &["mmp"], shrink), (0, 0));
        assert_eq!(codes(Version(1, 47, 0), &["bigalloc"], grow), (0, 1));
        let huge = (Direction::Grow, 1024, 1 << 40);
        assert_eq!(codes(Version(1, 45, 6), &[], huge), (1, 0));
        assert_eq!(codes(Version(1, 45, 7), &[], huge), (0, 0));
    }

    #[test]
    fn a_size_that_is_too_small_is_read() {
        let said = "resize2fs 1.47.0 (5-Feb-2023)\n/usr/sbin/resize2fs: New size smaller than \
                    minimum (4961)\n\n";
        assert_eq!(parse_too_small(said), Some(4961));
        for not in [
            "",
            "New size smaller than minimum",
            "New size smaller than minimum (x)",
        ] {
            assert_eq!(parse_too_small(not), None, "{not}");
        }
    }

    #[test]
    fn the_minimum_is_read() {
        let said =
            "resize2fs 1.47.0 (5-Feb-2023)\nEstimated minimum size of the filesystem: 13694\n";
        assert_eq!(parse_minimum(said), Some(13_694));
        assert_eq!(parse_minimum("Please run 'e2fsck -f x' first."), None);
        assert_eq!(
            parse_minimum("Estimated minimum size of the filesystem:"),
            None
        );
    }
}
