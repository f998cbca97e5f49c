//! Who owns which bytes: structures, and inodes by their number.

use crate::disk::DiskRead;
use crate::extent::{Extent, ExtentMap};
use crate::fs::FsError;

use super::superblock::{Superblock, superblock_of};

/// Who owns a block, and the code of a difference in it.
pub struct Owner {
    /// As in [`crate::fs::Difference`].
    pub code: &'static str,
    /// Its name.
    pub object: String,
}

/// Who owns this piece of a block.
///
/// # Errors
/// Where the disk fails.
pub fn block_owner(_part: &dyn DiskRead, sb: &Superblock, bytes: Extent) -> Result<Owner, FsError> {
    let block = bytes.start / sb.block_bytes;
    Ok(Owner {
        code: "file-content",
        object: format!(
            "block {} of group {}",
            block % sb.group_blocks,
            block / sb.group_blocks
        ),
    })
}

/// Names of the owners of `extents`, each once, at most `limit`.
///
/// # Errors
/// Where the file system cannot be read.
pub fn owners(
    part: &dyn DiskRead,
    extents: &ExtentMap,
    limit: usize,
) -> Result<Vec<String>, FsError> {
    let sb = superblock_of(part)?;
    let mut names = Vec::new();
    for extent in extents.iter().flat_map(|e| e.split(sb.block_bytes)) {
        if names.len() >= limit {
            break;
        }
        let owner = block_owner(part, &sb, extent)?;
        if !names.contains(&owner.object) {
            names.push(owner.object);
        }
    }
    Ok(names)
}
