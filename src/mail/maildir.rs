//! Maildir: what a name says of its message, and Dovecot's list of UIDs.
//!
//! `1735786800.M1P2.host,S=3335,W=3386:2,S`: `S=` is the length of the message, `W=` the same with
//! CR LF line ends (Courier and Dovecot; see doc/wiki of Dovecot, "Maildir"). Both are those of the
//! unpacked message where it is kept compressed.

use std::collections::HashSet;
use std::io::{self, BufRead, BufReader, Read};

use super::finding::{Confidence, Kind};
use super::message::{Draft, Expected};
use super::tree::{Directory, Tree};
use crate::extent::Extent;
use crate::units::escape_bytes;

/// What the name says.
pub fn expected(name: &[u8]) -> Expected {
    let base = base(name);
    Expected {
        size: number(base, b",S="),
        virtual_size: number(base, b",W="),
        source: "the name's S=",
        empty: Some(Confidence::Certain),
    }
}

/// The name without its flags.
pub fn base(name: &[u8]) -> &[u8] {
    // A colon is what the format has; some use `;` or `!` on file systems that know no colon.
    let flags = name
        .windows(3)
        .position(|w| matches!(w, [b':' | b';' | b'!', b'2', b',']));
    name.get(..flags.unwrap_or(name.len())).unwrap_or(name)
}

fn number(base: &[u8], key: &[u8]) -> Option<u64> {
    let at = memchr::memmem::find(base, key)?;
    let digits = base.get(at + key.len()..)?;
    let end = digits
        .iter()
        .position(|b| !b.is_ascii_digit())
        .unwrap_or(digits.len());
    std::str::from_utf8(digits.get(..end)?).ok()?.parse().ok()
}

/// A line of a list is never longer.
const MAX_LINE_BYTES: u64 = 8192;

/// Reads `dovecot-uidlist` (version 3: a header line, then `UID [fields] :name`, UIDs ascending;
/// version 1: `UID name`), and looks whether the files are there.
///
/// # Errors
/// The file system's.
pub fn uidlist(
    content: &mut dyn Read,
    tree: &dyn Tree,
    directory: &Directory,
) -> io::Result<Vec<Draft>> {
    let mut reader = BufReader::with_capacity(64 << 10, content);
    let (mut at, mut lines) = (0u64, 0u64);
    let mut last_uid = 0u64;
    let mut present: Option<HashSet<u64>> = None;
    let (mut gone, mut listed) = (0u64, 0u64);
    let mut bad: Option<(Extent, String)> = None;
    loop {
        let mut line = Vec::new();
        let count = (&mut reader)
            .take(MAX_LINE_BYTES)
            .read_until(b'\n', &mut line)?;
        if count == 0 {
            break;
        }
        let range = Extent::new(at, count as u64);
        at += count as u64;
        let ended = line.pop_if(|b| *b == b'\n').is_some();
        let fault = if lines == 0 {
            header_fault(&line)
        } else {
            match uid_and_name(&line) {
                // The last line may be under way.
                None if !ended && !line.contains(&0) => None,
                None => Some(format!("a line that is none: `{}`", cut(&line))),
                Some((uid, _)) if uid <= last_uid => {
                    Some(format!("UID {uid} comes after UID {last_uid}"))
                }
                Some((uid, name)) => {
                    last_uid = uid;
                    listed += 1;
                    let present = present.get_or_insert_with(|| names_of(tree, directory));
                    gone += u64::from(!present.contains(&hash(base(name))));
                    None
                }
            }
        };
        lines += 1;
        if let Some(fault) = fault {
            bad.get_or_insert((range, fault));
        }
    }
    let mut drafts = Vec::new();
    if lines == 0 {
        drafts.push(Draft::new(
            Kind::MetadataDamaged,
            Confidence::Certain,
            "the list is empty",
        ));
    }
    if let Some((range, fault)) = bad {
        let sure = Confidence::Certain;
        drafts.push(Draft::new(Kind::MetadataDamaged, sure, fault).at([range]));
    } else if gone > 0 {
        // Whoever expunged them need not have told the list yet.
        drafts.push(Draft::new(
            Kind::IndexDisagrees,
            Confidence::Suspicious,
            format!("{gone} of the {listed} files that it lists are not there"),
        ));
    }
    Ok(drafts)
}

fn cut(line: &[u8]) -> String {
    escape_bytes(line.get(..60.min(line.len())).unwrap_or(line))
}

fn header_fault(line: &[u8]) -> Option<String> {
    let mut words = line.split(|b| *b == b' ');
    let version = words.next().unwrap_or_default();
    let rest = words.all(|word| match word {
        [b'V' | b'N', digits @ ..] => !digits.is_empty() && digits.iter().all(u8::is_ascii_digit),
        [b'G', digits @ ..] => digits.iter().all(u8::is_ascii_hexdigit),
        [first, ..] => first.is_ascii_graphic(),
        [] => true,
    });
    let known = matches!(version, b"1" | b"2" | b"3") && rest;
    (!known).then(|| format!("its first line is no header: `{}`", cut(line)))
}

fn uid_and_name(line: &[u8]) -> Option<(u64, &[u8])> {
    let space = memchr::memchr(b' ', line)?;
    let uid = std::str::from_utf8(line.get(..space)?).ok()?.parse().ok()?;
    let rest = line.get(space + 1..)?;
    let name = match rest.first() {
        Some(b':') => rest.get(1..)?,
        _ => match memchr::memmem::find(rest, b" :") {
            Some(at) => rest.get(at + 2..)?,
            None => rest,
        },
    };
    (!name.is_empty() && !name.contains(&0)).then_some((uid, name))
}

/// Hashes of the names that are there: 8 bytes for each, whatever their length.
fn names_of(tree: &dyn Tree, directory: &Directory) -> HashSet<u64> {
    let mut names = HashSet::new();
    for below in [&b"cur"[..], b"new"] {
        let _ = tree.names(directory, below, &mut |name| {
            names.insert(hash(base(name)));
        });
    }
    names
}

fn hash(bytes: &[u8]) -> u64 {
    let hash = blake3::hash(bytes);
    hash.as_bytes()
        .first_chunk()
        .map_or(0, |b| u64::from_le_bytes(*b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_their_sizes() {
        let of = |name: &str| {
            let expected = expected(name.as_bytes());
            (expected.size, expected.virtual_size)
        };
        assert_eq!(
            of("1735786800.M1P2.h,S=3335,W=3386:2,S"),
            (Some(3335), Some(3386))
        );
        assert_eq!(
            of("1735786800.M1P2.h,W=3386,S=3335;2,"),
            (Some(3335), Some(3386))
        );
        assert_eq!(
            of("1735786800.M1P2.h:2,S=5"),
            (None, None),
            "these are flags"
        );
        assert_eq!(of("1735786800.h,S=99999999999999999999"), (None, None));
        assert_eq!(base(b"a:2,"), b"a");
    }

    #[test]
    fn lines_of_the_list() {
        assert_eq!(
            header_fault(b"3 V1275660208 N25 G3085f01b7f11094c501100008c4a11c1"),
            None
        );
        assert_eq!(header_fault(b"1 1275660208 25"), None);
        assert!(header_fault(b"\0\0\0").is_some());
        assert!(header_fault(b"From: a").is_some());
        assert_eq!(uid_and_name(b"25 W100 :1.M2.h"), Some((25, &b"1.M2.h"[..])));
        assert_eq!(uid_and_name(b"25 :1.M2.h"), Some((25, &b"1.M2.h"[..])));
        assert_eq!(uid_and_name(b"25 1.M2.h"), Some((25, &b"1.M2.h"[..])));
        assert_eq!(uid_and_name(b"\0\0 x"), None);
    }
}
