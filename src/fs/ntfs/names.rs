//! The paths of files, from their names and those of their directories.

use crate::units::escape;

use super::inode::{Attribute, utf16};
use super::record::kind;
use super::volume::{Volume, file};

/// Directories deeper than this are damaged, or a loop.
const MAX_DEPTH: usize = 256;

/// The path of a file, escaped, or `record 12` where it has none.
pub fn path(volume: &Volume<'_>, number: u64) -> String {
    try_path(volume, number).unwrap_or_else(|| format!("record {number}"))
}

fn try_path(volume: &Volume<'_>, number: u64) -> Option<String> {
    let mut names = Vec::new();
    let mut at = number;
    while at != file::ROOT {
        if names.len() > MAX_DEPTH {
            return None;
        }
        let inode = volume.inode(at).ok()?;
        let name = inode.names().first().copied()?;
        names.push(escape(&utf16(name.text)));
        at = name.parent;
    }
    names.reverse();
    Some(format!("/{}", names.join("/")))
}

/// The path of a file's attribute: `path:stream` where it has a name.
pub fn attribute_path(volume: &Volume<'_>, number: u64, attribute: &Attribute) -> String {
    let path = path(volume, number);
    match attribute.kind {
        kind::DATA if !attribute.name.is_empty() => {
            format!("{path}:{}", escape(&attribute.shown_name()))
        }
        _ => path,
    }
}
