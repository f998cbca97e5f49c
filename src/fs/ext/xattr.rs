//! Extended attributes: in the tail of an inode, and in a block of their own.
//!
//! Source: `struct ext4_xattr_entry` and `struct ext4_xattr_header` of the kernel. A value is in
//! the same place as its name, or (`ea_inode`) is the content of an inode.

use std::ops::Range;

use thiserror::Error;

use super::dir::Entries;
use super::inline;
use crate::fs::bytes::{u8_at, u16_at, u32_at};

/// `EXT4_XATTR_MAGIC`.
pub const MAGIC: u32 = 0xea02_0000;
/// Bytes of `h_checksum` in a block of attributes: it covers the block's number.
pub const BLOCK_CHECKSUM: Range<usize> = 16..20;
/// Bytes of `h_refcount` in a block of attributes: how many inodes have it.
const BLOCK_REFERENCES: Range<usize> = 4..8;
const BLOCK_HEADER_BYTES: usize = 32;
const ENTRY_BYTES: usize = 16;
/// Where the number of the value's inode is in an entry.
const VALUE_INODE_AT: usize = 4;

/// What is wrong with a set of attributes.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum XattrError {
    /// No magic number.
    #[error("the magic number of the extended attributes is {0:#010x}")]
    Magic(u32),
    /// A name or a value ends beyond the set.
    #[error("the extended attribute at byte {0} ends beyond its set")]
    Beyond(usize),
}

/// One attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attribute {
    /// Which prefix the name has.
    pub index: u8,
    /// The name without its prefix.
    pub name: Vec<u8>,
    /// The value, where it is here.
    pub value: Range<usize>,
    /// The inode that holds the value, or 0.
    pub value_inode: u32,
    /// Where that number is.
    pub value_inode_at: usize,
}

impl Attribute {
    /// The whole name, escaped.
    pub fn full_name(&self) -> String {
        let prefix = match self.index {
            0 => "",
            1 => "user.",
            2 => "system.posix_acl_access",
            3 => "system.posix_acl_default",
            4 => "trusted.",
            6 => "security.",
            7 => "system.",
            8 => "system.richacl",
            9 => "encryption.",
            _ => return format!("{}:{}", self.index, crate::units::escape_bytes(&self.name)),
        };
        format!("{prefix}{}", crate::units::escape_bytes(&self.name))
    }
}

/// Where a set of attributes is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// What follows the fields of an inode.
    Inode,
    /// A whole block.
    Block,
}

/// The attributes of `set`. The tail of an inode that does not begin with the magic number has
/// none.
///
/// # Errors
/// [`XattrError`].
pub fn parse(set: &[u8], place: Place) -> Result<Vec<Attribute>, XattrError> {
    let magic = u32_at(set, 0);
    let (first, base) = match place {
        _ if magic != MAGIC && place == Place::Inode => return Ok(Vec::new()),
        _ if magic != MAGIC => return Err(XattrError::Magic(magic)),
        // Offsets of values count from the first entry here, from the block's start there.
        Place::Inode => (4, 4),
        Place::Block => (BLOCK_HEADER_BYTES, 0),
    };
    let (mut attributes, mut at) = (Vec::new(), first);
    // Four zero bytes end the list; so does the end of the set, where a full inode has no room.
    while at + 4 <= set.len() && u32_at(set, at) != 0 {
        let name = at + ENTRY_BYTES..at + ENTRY_BYTES + usize::from(u8_at(set, at));
        let value_inode = u32_at(set, at + VALUE_INODE_AT);
        let value = match value_inode {
            0 => {
                let start = base + usize::from(u16_at(set, at + 2));
                let len = u32_at(set, at + 8) as usize;
                start..start.saturating_add(len)
            }
            _ => 0..0,
        };
        let (Some(text), true) = (set.get(name.clone()), value.end <= set.len()) else {
            return Err(XattrError::Beyond(at));
        };
        attributes.push(Attribute {
            index: u8_at(set, at + 1),
            name: text.to_vec(),
            value,
            value_inode,
            value_inode_at: at + VALUE_INODE_AT,
        });
        at = name.end.next_multiple_of(4);
    }
    Ok(attributes)
}

/// Takes away how many inodes have this block of attributes.
pub fn forget_references(block: &mut [u8]) {
    if let Some(count) = block.get_mut(BLOCK_REFERENCES) {
        count.fill(0);
    }
}

/// How the attributes `after` differ from `before`, where they do. `renumber` gives the new number
/// of an inode, one that holds a value or, where the attributes are those of a directory inside
/// its inode, one that it names. All bytes count, also those between the attributes; only a block's
/// checksum does not.
///
/// # Errors
/// [`XattrError`].
pub fn difference(
    before: &[u8],
    after: &[u8],
    place: Place,
    renumber: &dyn Fn(u32) -> Option<u32>,
    names_inodes: bool,
) -> Result<Option<String>, XattrError> {
    if before == after && place == Place::Inode && u32_at(before, 0) != MAGIC {
        return Ok(None);
    }
    let (old, new) = (parse(before, place)?, parse(after, place)?);
    let mut expected = before.to_vec();
    for attribute in old.iter().filter(|a| a.value_inode != 0) {
        let number = renumber(attribute.value_inode).unwrap_or(0);
        let at = attribute.value_inode_at;
        if let Some(field) = expected.get_mut(at..at + 4) {
            field.copy_from_slice(&number.to_le_bytes());
        }
    }
    for attribute in old.iter().filter(|a| names_inodes && inline::is_data(a)) {
        let list = expected
            .get_mut(attribute.value.clone())
            .unwrap_or_default();
        renumber_entries(list, renumber);
    }
    if place == Place::Block
        && let (Some(to), Some(from)) =
            (expected.get_mut(BLOCK_CHECKSUM), after.get(BLOCK_CHECKSUM))
    {
        to.copy_from_slice(from);
    }
    if expected == after {
        return Ok(None);
    }
    let value = |set: &[u8], a: &Attribute| {
        set.get(a.value.clone())
            .map(<[u8]>::to_vec)
            .unwrap_or_default()
    };
    for a in &old {
        let Some(b) = new
            .iter()
            .find(|b| (b.index, &b.name) == (a.index, &a.name))
        else {
            return Ok(Some(format!("{} is missing", a.full_name())));
        };
        let wanted = match a.value_inode {
            0 => Some(0),
            number => renumber(number),
        };
        if value(&expected, a) != value(after, b) || wanted != Some(b.value_inode) {
            return Ok(Some(format!("the value of {} differs", a.full_name())));
        }
    }
    if let Some(b) = new
        .iter()
        .find(|b| !old.iter().any(|a| (a.index, &a.name) == (b.index, &b.name)))
    {
        return Ok(Some(format!("{} is new", b.full_name())));
    }
    let at = expected
        .iter()
        .zip(after)
        .position(|(a, b)| a != b)
        .unwrap_or(expected.len());
    Ok(Some(format!(
        "the attributes have the same names and values, but byte {at} of the set differs"
    )))
}

/// Gives the entries in a list of a directory the new numbers of their inodes. What is no entry
/// stays as it is: then the comparison of the directory says so.
fn renumber_entries(list: &mut [u8], renumber: &dyn Fn(u32) -> Option<u32>) {
    let numbers: Vec<(usize, u32)> = Entries::new(list)
        .map_while(Result::ok)
        .filter(|entry| entry.inode != 0)
        .map(|entry| (entry.at, renumber(entry.inode).unwrap_or(0)))
        .collect();
    for (at, number) in numbers {
        if let Some(field) = list.get_mut(at..at + 4) {
            field.copy_from_slice(&number.to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(place: Place, attributes: &[(u8, &[u8], &[u8], u32)]) -> Vec<u8> {
        let (first, base, len) = match place {
            Place::Inode => (4, 4, 96),
            Place::Block => (32, 0, 1024),
        };
        let mut set = vec![0u8; len];
        set[..4].copy_from_slice(&MAGIC.to_le_bytes());
        let (mut at, mut end) = (first, len);
        for (index, name, value, inode) in attributes {
            if *inode == 0 {
                end -= value.len().next_multiple_of(4);
                set[end..end + value.len()].copy_from_slice(value);
            }
            set[at] = name.len() as u8;
            set[at + 1] = *index;
            set[at + 2..at + 4].copy_from_slice(&((end - base) as u16).to_le_bytes());
            set[at + 4..at + 8].copy_from_slice(&inode.to_le_bytes());
            set[at + 8..at + 12].copy_from_slice(&(value.len() as u32).to_le_bytes());
            set[at + 16..at + 16 + name.len()].copy_from_slice(name);
            at += (16 + name.len()).next_multiple_of(4);
        }
        set
    }

    const SAME: &dyn Fn(u32) -> Option<u32> = &|n| Some(n);

    #[test]
    fn names_and_values_are_found_in_both_places() {
        for place in [Place::Inode, Place::Block] {
            let set = set(place, &[(1, b"a", b"one", 0), (6, b"selinux", b"two\0", 0)]);
            let found = parse(&set, place).expect("parses");
            let names: Vec<_> = found.iter().map(Attribute::full_name).collect();
            assert_eq!(names, ["user.a", "security.selinux"]);
            assert_eq!(&set[found[0].value.clone()], b"one");
            assert_eq!(&set[found[1].value.clone()], b"two\0");
        }
    }

    #[test]
    fn each_difference_is_named() {
        let base: &[(u8, &[u8], &[u8], u32)] = &[(1, b"a", b"one", 0), (1, b"b", b"", 77)];
        for place in [Place::Inode, Place::Block] {
            let before = set(place, base);
            let says = |after: &[u8], renumber| {
                difference(&before, after, place, renumber, false).expect("parses")
            };
            assert_eq!(says(&before, SAME), None);
            let text = |after: &[(u8, &[u8], &[u8], u32)]| {
                says(&set(place, after), SAME).unwrap_or_default()
            };
            assert!(text(&[(1, b"a", b"onf", 0), base[1]]).contains("value of user.a"));
            assert!(text(&base[..1]).contains("user.b is missing"));
            assert!(text(&[base[0], base[1], (1, b"c", b"", 0)]).contains("user.c is new"));
            let moved = set(place, &[base[0], (1, b"b", b"", 12)]);
            assert!(says(&moved, SAME).is_some_and(|t| t.contains("user.b")));
            assert_eq!(says(&moved, &|n| (n == 77).then_some(12)), None);
            let mut slack = before.clone();
            let at = slack.len() - 5;
            slack[at] ^= 1;
            assert!(says(&slack, SAME).is_some());
        }
    }

    #[test]
    fn the_checksum_of_a_block_may_change_and_its_reference_count_may_not() {
        let before = set(Place::Block, &[(1, b"a", b"one", 0)]);
        let mut after = before.clone();
        after[16] = 9;
        assert_eq!(
            difference(&before, &after, Place::Block, SAME, false),
            Ok(None)
        );
        after[4] = 9;
        assert!(matches!(
            difference(&before, &after, Place::Block, SAME, false),
            Ok(Some(_))
        ));
    }

    #[test]
    fn sets_that_end_too_soon_are_errors() {
        let mut beyond = set(Place::Block, &[(1, b"a", b"one", 0)]);
        beyond[32 + 8..32 + 12].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(parse(&beyond, Place::Block), Err(XattrError::Beyond(32)));
        assert_eq!(parse(&[0; 64], Place::Block), Err(XattrError::Magic(0)));
        assert_eq!(parse(&[1, 2, 3], Place::Inode), Ok(Vec::new()));
        let mut full = set(Place::Inode, &[(1, b"a", b"one", 0)]);
        full.iter_mut().skip(4).for_each(|b| *b = 0xff);
        assert!(parse(&full, Place::Inode).is_err());
    }
}
