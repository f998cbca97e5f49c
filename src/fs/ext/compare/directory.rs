//! Two states of a directory.
//!
//! `resize2fs` writes the new numbers of renumbered inodes into the entries where they stand, and
//! neither sorts nor packs a block; the kernel's grow writes no directory at all. So more is
//! asked for than the same set of names: the same bytes, but for the inode numbers and, with
//! `metadata_csum`, the checksum, which is the last four bytes of a block of names and of a block
//! of the index alike. The order of names, the index, and what is left of removed names are thus
//! compared too.

use crate::fs::FsError;
use crate::units::escape_bytes;

use super::super::dir::{DirError, Entries, Entry};
use super::renumber::Renumbering;

const CHECKSUM_BYTES: usize = 4;

/// What came of comparing one block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The same; whether an entry was renumbered.
    Same {
        /// Whether the block names an inode that was renumbered.
        renumbered: bool,
    },
    /// Not the same: why.
    Differs(String),
}

/// Compares a block of a directory. `has_checksum` where its last four bytes are one.
///
/// # Errors
/// [`DirError`] where the block before is no list of entries. Damage in the block after is a
/// difference.
pub fn compare_block(
    old: &[u8],
    new: &[u8],
    renumbering: &Renumbering,
    has_checksum: bool,
) -> Result<Verdict, DirError> {
    let mut expected = old.to_vec();
    let mut renumbered = false;
    for entry in Entries::new(old) {
        let entry = entry?;
        if entry.inode == 0 {
            continue;
        }
        let Some(number) = renumbering.new_number(entry.inode) else {
            return Ok(Verdict::Differs(format!(
                "{} names inode {}, which has no new number",
                quoted(&entry),
                entry.inode
            )));
        };
        renumbered |= number != entry.inode;
        if let Some(field) = expected.get_mut(entry.at..entry.at + 4) {
            field.copy_from_slice(&number.to_le_bytes());
        }
    }
    if has_checksum
        && let (Some(to), Some(from)) = (
            expected.last_chunk_mut::<CHECKSUM_BYTES>(),
            new.last_chunk::<CHECKSUM_BYTES>(),
        )
    {
        *to = *from;
    }
    if expected == new {
        return Ok(Verdict::Same { renumbered });
    }
    Ok(Verdict::Differs(explain(&expected, new)))
}

/// The first name that two blocks, which differ, do not agree on.
fn explain(expected: &[u8], new: &[u8]) -> String {
    let names = |block| -> Result<Vec<Entry<'_>>, DirError> {
        Entries::new(block)
            .filter(|e| !matches!(e, Ok(e) if e.inode == 0))
            .collect()
    };
    let (Ok(old), new_names) = (names(expected), names(new)) else {
        return "the block is no list of names".into();
    };
    let new_names = match new_names {
        Ok(names) => names,
        Err(error) => return format!("the block is no list of names any more: {error}"),
    };
    for a in &old {
        match new_names.iter().find(|b| b.name == a.name) {
            None => return format!("{} (inode {}) is missing", quoted(a), a.inode),
            Some(b) if b.inode != a.inode => {
                return format!("{} names inode {}, not {}", quoted(a), b.inode, a.inode);
            }
            Some(b) if b.file_type != a.file_type => {
                return format!(
                    "{} has type {}, not {}",
                    quoted(a),
                    b.file_type,
                    a.file_type
                );
            }
            Some(_) => {}
        }
    }
    if let Some(b) = new_names
        .iter()
        .find(|b| !old.iter().any(|a| a.name == b.name))
    {
        return format!("{} (inode {}) is new", quoted(b), b.inode);
    }
    let at = expected
        .iter()
        .zip(new)
        .position(|(a, b)| a != b)
        .unwrap_or(0);
    format!("the names are the same, but not their order or the index (byte {at} of the block)")
}

fn quoted(entry: &Entry<'_>) -> String {
    format!("`{}`", escape_bytes(entry.name))
}

/// A [`DirError`] with the place, as damage.
pub fn damaged(number: u32, logical: u64, error: &DirError) -> FsError {
    FsError::Corrupt(format!(
        "directory inode {number}, block {logical}: {error}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(entries: &[(u32, &[u8], u8)], checksum: u32) -> Vec<u8> {
        let mut block = Vec::new();
        for (n, (inode, name, file_type)) in entries.iter().enumerate() {
            let length = match n + 1 == entries.len() {
                true => 116 - block.len(),
                false => 8 + name.len().next_multiple_of(4),
            };
            let start = block.len();
            block.extend(inode.to_le_bytes());
            block.extend((length as u16).to_le_bytes());
            block.extend([name.len() as u8, *file_type]);
            block.extend(*name);
            block.resize(start + length, 0);
        }
        block.extend([0, 0, 0, 0, 12, 0, 0, 0xde]);
        block.extend(checksum.to_le_bytes());
        block
    }

    #[test]
    fn only_renumbered_inodes_and_the_checksum_may_differ() {
        let moves = Renumbering::of(100, &[(150, 20)]);
        let old = block(&[(12, b"kept", 1), (150, b"moved", 2), (13, b"last", 1)], 1);
        let says = |new: &[u8]| compare_block(&old, new, &moves, true).expect("a list");
        let text = |new: &[u8]| match says(new) {
            Verdict::Differs(text) => text,
            same => format!("{same:?}"),
        };
        let good = block(&[(12, b"kept", 1), (20, b"moved", 2), (13, b"last", 1)], 2);
        assert_eq!(says(&good), Verdict::Same { renumbered: true });
        assert_eq!(
            compare_block(&old, &good, &moves, false).map(|v| matches!(v, Verdict::Differs(_))),
            Ok(true)
        );
        assert!(text(&old).contains("`moved` names inode 150, not 20"));
        let swapped = block(&[(20, b"kept", 1), (12, b"moved", 2), (13, b"last", 1)], 2);
        assert!(text(&swapped).contains("`kept` names inode 20, not 12"));
        let gone = block(&[(12, b"kept", 1), (20, b"moved", 2)], 2);
        assert!(text(&gone).contains("`last` (inode 13) is missing"));
        let typed = block(&[(12, b"kept", 1), (20, b"moved", 1), (13, b"last", 1)], 2);
        assert!(text(&typed).contains("`moved` has type 1, not 2"));
        let sorted = block(&[(20, b"moved", 2), (12, b"kept", 1), (13, b"last", 1)], 2);
        assert!(text(&sorted).contains("order"));
        let mut torn = good.clone();
        torn[4] = 3;
        assert!(text(&torn).contains("no list of names any more"));
    }

    #[test]
    fn an_inode_without_a_new_number_is_a_difference() {
        let old = block(&[(150, b"lost", 1)], 0);
        let moves = Renumbering::of(100, &[]);
        let verdict = compare_block(&old, &old, &moves, true).expect("a list");
        assert!(matches!(verdict, Verdict::Differs(text) if text.contains("no new number")));
    }
}
