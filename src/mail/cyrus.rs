//! Cyrus IMAP (`imap/mailbox.h` of cyrus-imapd): `cyrus.header` begins with a magic text;
//! `cyrus.index` has, in versions 12 and 13, for each message its length and the SHA-1 of its file.
//! All numbers are big-endian.

use std::io::{self, BufReader, Read};

use sha1::{Digest, Sha1};

use super::finding::{Confidence, Kind};
use super::message::Draft;
use super::tree::{Directory, Entry, Tree};
use crate::extent::Extent;

const MAGIC: &[u8] = b"\xa1\x02\x8b\x0dCyrus mailbox header\n";
/// `OFFSET_HEADER_CRC + 4` of version 12.
const HEADER_BYTES: usize = 128;
const EXPUNGED: u32 = 1 << 31;
const UNLINKED: u32 = 1 << 30;
/// Messages that are told of one by one.
const TOLD: usize = 10_000;

/// Judges `cyrus.header`.
///
/// # Errors
/// The file system's.
pub fn header(content: &mut dyn Read) -> io::Result<Vec<Draft>> {
    let mut head = Vec::new();
    content.take(MAGIC.len() as u64).read_to_end(&mut head)?;
    if head == MAGIC {
        return Ok(Vec::new());
    }
    let reason = "it does not begin as a mailbox header of Cyrus";
    let range = Extent::new(0, MAGIC.len() as u64);
    Ok(vec![
        Draft::new(Kind::MetadataDamaged, Confidence::Certain, reason).at([range]),
    ])
}

/// Judges `cyrus.index`, and every message by what it says of it.
///
/// # Errors
/// The file system's.
pub fn index(
    content: &mut dyn Read,
    tree: &dyn Tree,
    directory: &Directory,
    file_bytes: u64,
) -> io::Result<Vec<Draft>> {
    let damaged = |reason: String| {
        let range = Extent::new(0, HEADER_BYTES as u64);
        Ok(vec![
            Draft::new(Kind::MetadataDamaged, Confidence::Certain, reason).at([range]),
        ])
    };
    let mut reader = BufReader::with_capacity(64 << 10, content);
    let mut head = Vec::new();
    (&mut reader)
        .take(HEADER_BYTES as u64)
        .read_to_end(&mut head)?;
    if head.len() < 24 || head.iter().all(|b| *b == 0) {
        return damaged("the index is empty".into());
    }
    let [version, start, record, count] = [8, 12, 16, 20].map(|at| u64::from(u32_at(&head, at)));
    if !(1..=100).contains(&version) || start < 24 || !(16..=4096).contains(&record) {
        return damaged("its header is not that of an index of Cyrus".into());
    }
    let needed = start.saturating_add(record.saturating_mul(count));
    if needed > file_bytes {
        return damaged(format!(
            "it has {count} messages and would need {needed} bytes, and has {file_bytes}"
        ));
    }
    let known = matches!((version, record), (12, 96) | (13, 104)) && start == HEADER_BYTES as u64;
    if !known {
        return Ok(Vec::new());
    }
    let mut drafts = Vec::new();
    let (mut bytes, mut last_uid) = (vec![0; record as usize], 0);
    for number in 0..count {
        reader.read_exact(&mut bytes)?;
        let uid = u32_at(&bytes, 0);
        let at = Extent::new(start + number * record, record);
        if uid <= last_uid {
            let reason = format!("record {number}: UID {uid} comes after UID {last_uid}");
            let draft = Draft::new(Kind::MetadataDamaged, Confidence::Certain, reason);
            drafts.push(draft.at([at]));
            break;
        }
        last_uid = uid;
        let flags = u32_at(&bytes, 32);
        if flags & (EXPUNGED | UNLINKED) == 0 && drafts.len() < TOLD {
            drafts.extend(message(uid, &bytes, tree, directory)?);
        }
    }
    Ok(drafts)
}

fn message(
    uid: u32,
    record: &[u8],
    tree: &dyn Tree,
    directory: &Directory,
) -> io::Result<Option<Draft>> {
    let size = u64::from(u32_at(record, 12));
    let guid = record.get(60..80).unwrap_or_default();
    let name = format!("{uid}.").into_bytes();
    let entry = Entry {
        name: name.clone(),
        inode: 0,
    };
    let Some(mut opened) = tree.open(directory, &entry)? else {
        let reason = format!("it has message {uid}, and there is no file `{uid}.`");
        return Ok(Some(Draft::new(
            Kind::IndexDisagrees,
            Confidence::Likely,
            reason,
        )));
    };
    let of = Some((name, opened.stamp));
    let found = opened.stamp.size;
    if found != size {
        let kind = if found < size {
            Kind::Truncated
        } else {
            Kind::SizeDiffers
        };
        let reason = format!("the index of Cyrus says {size} bytes, and there are {found}");
        return Ok(Some(Draft {
            of,
            ..Draft::new(kind, Confidence::Certain, reason)
        }));
    }
    if guid.iter().all(|b| *b == 0) {
        return Ok(None);
    }
    let mut hash = Sha1::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        match opened.content.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => hash.update(buffer.get(..count).unwrap_or_default()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            // The message's own scan tells of it.
            Err(_) => return Ok(None),
        }
    }
    if hash.finalize().as_slice() == guid {
        return Ok(None);
    }
    let reason = "the index of Cyrus has another SHA-1 for this content";
    Ok(Some(Draft {
        of,
        ..Draft::new(Kind::IndexDisagrees, Confidence::Certain, reason)
    }))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let four = bytes.get(at..).and_then(|rest| rest.first_chunk());
    four.map_or(0, |b| u32::from_be_bytes(*b))
}
