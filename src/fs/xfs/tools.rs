//! xfsprogs, and the kernel: which calls are made, and which answers are good.
//!
//! The kernel is the stock resizer: `xfs_growfs` only asks it. Nothing here proves anything about
//! data; what has changed is compared elsewhere.

use std::fmt;
use std::path::Path;

use crate::fs::mount::{Job, Kind, Work, run};
use crate::fs::tool::{Tool, ToolError, Tools};
use crate::report::Refusal;

/// The checker.
pub const XFS_REPAIR: Tool = Tool {
    name: "xfs_repair",
    package: "xfsprogs",
    env: &[],
};

/// A version of xfsprogs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u16, pub u16);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// From which version on a checker knows a feature. Before, it refuses the file system, and that
/// is not its damage.
const SINCE: [(&str, Version); 9] = [
    ("crc", Version(3, 2)),
    ("finobt", Version(3, 2)),
    ("rmapbt", Version(4, 8)),
    ("reflink", Version(4, 9)),
    ("bigtime", Version(5, 10)),
    ("inobtcount", Version(5, 10)),
    ("nrext64", Version(5, 19)),
    ("exchange", Version(6, 10)),
    ("parent", Version(6, 10)),
];

/// Asks xfs_repair for its version.
///
/// # Errors
/// [`ToolError`], also where no version is in the answer.
pub fn version(tools: &Tools<'_>) -> Result<Version, ToolError> {
    let outcome = tools.run(XFS_REPAIR, &["-V".as_ref()])?.accept(&[0])?;
    parse_version(&outcome.output).ok_or_else(|| outcome.unexpected())
}

/// Reads `xfs_repair version 6.1.0`.
fn parse_version(text: &str) -> Option<Version> {
    let line = text.lines().find(|line| line.starts_with("xfs_repair "))?;
    let word = line.split_whitespace().next_back()?;
    let mut parts = word
        .split(|c: char| !c.is_ascii_digit())
        .map(str::parse::<u16>);
    Some(Version(parts.next()?.ok()?, parts.next()?.ok()?))
}

/// Whether this version knows all the features.
pub fn too_old(version: Version, features: &[String]) -> Option<Refusal> {
    let of = |feature: &String| SINCE.iter().find(|(name, _)| name == feature);
    let (name, since) = features
        .iter()
        .filter_map(of)
        .max_by_key(|(_, since)| *since)?;
    (version < *since).then(|| {
        Refusal::new(
            "tool-too-old",
            format!("xfsprogs {version} does not know `{name}`, which this file system has"),
            format!("install a newer xfsprogs: at least {since}"),
        )
    })
}

/// Lets the kernel replay the log: mounts it for writing, and unmounts it.
///
/// # Errors
/// [`ToolError`].
pub fn replay(tools: &Tools<'_>) -> Result<(), ToolError> {
    run(&Job::new(Kind::Xfs, Work::Replay), tools)
}

/// Lets the kernel grow it.
///
/// # Errors
/// [`ToolError`].
pub fn grow(bytes: u64, tools: &Tools<'_>) -> Result<(), ToolError> {
    run(&Job::new(Kind::Xfs, Work::XfsGrow { bytes }), tools)
}

/// Checks it, and changes nothing.
///
/// # Errors
/// [`ToolError::Failed`] with what it found.
pub fn check(file: &Path, tools: &Tools<'_>) -> Result<(), ToolError> {
    let args = ["-n".as_ref(), "-f".as_ref(), file.as_os_str()];
    tools.run(XFS_REPAIR, &args)?.accept(&[0])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_compared() {
        let of = |text| parse_version(text);
        assert_eq!(of("xfs_repair version 6.1.0\n"), Some(Version(6, 1)));
        assert_eq!(of("xfs_repair version 5.10.0-rc1"), Some(Version(5, 10)));
        assert_eq!(of("something else"), None);
        let names = ["crc", "bigtime", "reflink"].map(String::from);
        let refusal = too_old(Version(5, 9), &names).unwrap();
        assert_eq!(refusal.code, "tool-too-old");
        assert!(refusal.message.contains("bigtime"), "{refusal:?}");
        assert_eq!(too_old(Version(5, 10), &names), None);
    }
}
