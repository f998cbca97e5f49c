//! ntfsresize: which calls are made, and which answers are good.
//!
//! Nothing here proves anything about data; the files are compared elsewhere. ntfsresize counts
//! which clusters the files claim before it does anything, also where it is only asked: that is
//! the check. (`ntfsresize --check` exits with 0 whatever it is given, and ntfsfix looks at the
//! start of the $MFT alone.)
//!
//! Sizes are plain bytes. A suffix would be a power of ten, and keep it from writing the backup of
//! the boot sector.

use std::ffi::OsStr;
use std::fmt;
use std::path::Path;

use crate::fs::tool::{Outcome, Tool, ToolError, Tools};
use crate::report::Refusal;

/// The resizer, and the checker.
pub const NTFSRESIZE: Tool = Tool {
    name: "ntfsresize",
    package: "ntfs-3g",
    env: &[],
};

/// A version of ntfs-3g: a date.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u16, pub u16, pub u16);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// Before this one there is nobody who has tried.
const OLDEST: Version = Version(2017, 3, 23);
/// Damaged volumes could make earlier ones write outside their memory.
const SAFE: Version = Version(2022, 10, 3);

/// Asks ntfsresize for its version.
///
/// # Errors
/// [`ToolError`], also where no version is in the answer.
pub fn version(tools: &Tools<'_>) -> Result<Version, ToolError> {
    let outcome = tools.run(NTFSRESIZE, &["--version".as_ref()])?;
    let outcome = outcome.accept(&[0, 1])?;
    parse_version(&outcome.output).ok_or_else(|| outcome.unexpected())
}

/// Reads `ntfsresize v2022.10.3 (libntfs-3g)`.
fn parse_version(text: &str) -> Option<Version> {
    let word = text.split_once("ntfsresize v")?.1;
    let numbers = word
        .split(|c: char| !(c.is_ascii_digit() || c == '.'))
        .next()?;
    let mut parts = numbers.split('.').map(str::parse::<u16>);
    Some(Version(
        parts.next()?.ok()?,
        parts.next()?.ok()?,
        parts.next().map_or(Some(0), Result::ok)?,
    ))
}

/// What is known against this version.
pub fn known_faults(version: Version) -> (Vec<Refusal>, Vec<String>) {
    if version < OLDEST {
        let refusal = Refusal::new(
            "tool-too-old",
            format!("ntfs-3g {version} is too old to be trusted with a resize"),
            format!("install a newer ntfs-3g: at least {OLDEST}"),
        );
        return (vec![refusal], Vec::new());
    }
    let mut notices = Vec::new();
    if version < SAFE {
        notices.push(format!(
            "ntfs-3g {version}: a volume that was made to do so can take its tools over; here they \
             see nothing but the overlay, and what they do to it is checked (fixed in {SAFE})"
        ));
    }
    (Vec::new(), notices)
}

/// Checks the volume on `file`, without writing: every cluster belongs to one file, and $Bitmap
/// says so. A volume that is dirty, hibernated, or has bad sectors fails.
///
/// # Errors
/// [`ToolError`]; the findings are in its output.
pub fn check(file: &Path, tools: &Tools<'_>) -> Result<(), ToolError> {
    info(&[], file, tools).map(|_| ())
}

/// The same for a volume that was resized, and so is dirty.
///
/// # Errors
/// [`ToolError`].
pub fn verify(file: &Path, tools: &Tools<'_>) -> Result<(), ToolError> {
    info(&["--force"], file, tools).map(|_| ())
}

fn info(options: &[&str], file: &Path, tools: &Tools<'_>) -> Result<Outcome, ToolError> {
    let mut args: Vec<&OsStr> = vec!["--info".as_ref(), "--no-progress-bar".as_ref()];
    args.extend(options.iter().map(AsRef::<OsStr>::as_ref));
    args.push(file.as_os_str());
    let outcome = tools.run(NTFSRESIZE, &args)?;
    // A volume that is full, or cannot become smaller, is sound; both are found after the check.
    if outcome.code == Some(1) && is_least(&outcome.output) {
        return Ok(outcome);
    }
    outcome.accept(&[0])
}

fn is_least(text: &str) -> bool {
    text.contains("Accounting clusters")
        && (text.contains("ERROR: Volume is full")
            || text.contains("ERROR: Very rare fragmentation type"))
}

/// Resizes the volume on `file` to `new_bytes`, a number of sectors, the last of which becomes the
/// backup of the boot sector.
///
/// # Errors
/// [`ToolError`].
pub fn resize(file: &Path, new_bytes: u64, tools: &Tools<'_>) -> Result<(), ToolError> {
    let size = new_bytes.to_string();
    // Once: it answers the question whether to go on. A second one would silence its refusal of a
    // volume that is dirty.
    let args: [&OsStr; 5] = [
        "--force".as_ref(),
        "--no-progress-bar".as_ref(),
        "--size".as_ref(),
        size.as_ref(),
        file.as_os_str(),
    ];
    let outcome = tools.run(NTFSRESIZE, &args)?;
    if outcome.code == Some(1) && is_too_small(&outcome.output) {
        let least = minimum(file, new_bytes, tools)?;
        return Err(ToolError::TooSmall {
            tool: NTFSRESIZE.name.into(),
            blocks: least / cluster_bytes(&outcome.output).unwrap_or(1),
        });
    }
    let outcome = outcome.accept(&[0])?;
    // `Nothing to do` exits with 0 as well.
    match outcome.output.contains("Successfully resized NTFS") {
        true => Ok(()),
        false => Err(outcome.unexpected()),
    }
}

fn cluster_bytes(text: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with("Cluster size"))?;
    let (_, value) = line.split_once(':')?;
    let bytes = value.split_whitespace().next()?.parse().ok();
    bytes.filter(|&bytes| bytes > 0)
}

fn is_too_small(text: &str) -> bool {
    [
        "ERROR: New size can't be less than",
        "ERROR: The fragmentation type, you have, isn't supported yet",
        "ERROR: Volume is full",
    ]
    .iter()
    .any(|what| text.contains(what))
}

/// The smallest size in bytes that ntfsresize believes it can reach, where the volume has
/// `now_bytes`.
///
/// # Errors
/// [`ToolError`], also where the answer has no number.
pub fn minimum(file: &Path, now_bytes: u64, tools: &Tools<'_>) -> Result<u64, ToolError> {
    let outcome = info(&[], file, tools)?;
    if outcome.code == Some(1) {
        return Ok(now_bytes);
    }
    parse_minimum(&outcome.output).ok_or_else(|| outcome.unexpected())
}

fn parse_minimum(text: &str) -> Option<u64> {
    let (_, number) = text.split_once("You might resize at ")?;
    let (number, _) = number.split_once(" bytes")?;
    number.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_judged() {
        let said = "ntfsresize v2022.10.3 (libntfs-3g)\n\nResize an NTFS Volume";
        assert_eq!(parse_version(said), Some(Version(2022, 10, 3)));
        let odd = parse_version("ntfsresize v2017.3.23AR.3 (libntfs-3g)");
        assert_eq!(odd, Some(Version(2017, 3, 23)));
        for not in ["", "ntfsresize", "ntfsresize v", "ntfsresize v2.x"] {
            assert_eq!(parse_version(not), None, "{not}");
        }
        let counts = |version| {
            let (refusals, notices) = known_faults(version);
            (refusals.len(), notices.len())
        };
        assert_eq!(counts(Version(2015, 3, 14)), (1, 0));
        assert_eq!(counts(Version(2021, 8, 22)), (0, 1));
        assert_eq!(counts(Version(2022, 10, 3)), (0, 0));
    }

    #[test]
    fn the_size_of_clusters_is_read() {
        let said = "NTFS volume version: 3.1\nCluster size       : 4096 bytes\nCurrent volume";
        assert_eq!(cluster_bytes(said), Some(4096));
        assert_eq!(cluster_bytes("Cluster size       : 0 bytes"), None);
    }

    #[test]
    fn the_minimum_is_read() {
        let said = "You might resize at 24985600 bytes or 25 MB (freeing 43 MB).\n";
        assert_eq!(parse_minimum(said), Some(24_985_600));
        assert_eq!(parse_minimum("You might resize at x bytes"), None);
        assert!(is_least(
            "Accounting clusters ...\nERROR: Volume is full. To"
        ));
        assert!(!is_least("ERROR: Volume is full. To"));
    }
}
