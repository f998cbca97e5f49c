//! Files in which stores keep their own data: Dovecot's indexes, JSON, and containers without a
//! public format.

use std::io::{self, BufReader, Read};

use super::content::Zeros;
use super::finding::{Confidence, Kind};
use super::message::{BLOCK_BYTES, Draft};
use super::place::Index;
use crate::extent::Extent;

use Confidence::{Certain, Likely, Suspicious};

fn damaged(sure: Confidence, reason: impl Into<String>) -> Draft {
    Draft::new(Kind::MetadataDamaged, sure, reason)
}

/// The header of one of Dovecot's index files (`mail-index.h`, `mail-transaction-log.h`,
/// `mail-cache-private.h`). Dovecot rebuilds them from the messages, and what it keeps there alone
/// (flags, in dbox also what belongs to which mailbox) is lost where it has to.
///
/// # Errors
/// The file system's.
pub fn dovecot(content: &mut dyn Read, index: Index, file_bytes: u64) -> io::Result<Vec<Draft>> {
    let mut head = Vec::new();
    content.take(BLOCK_BYTES).read_to_end(&mut head)?;
    if head.is_empty() {
        return Ok(vec![damaged(Certain, "the index is empty")]);
    }
    if head.iter().all(|b| *b == 0) {
        let reason = format!("its first {} bytes are zero", head.len());
        return Ok(vec![
            damaged(Certain, reason).at([Extent::new(0, head.len() as u64)]),
        ]);
    }
    let fault = match index {
        Index::Main => main_index(&head, file_bytes),
        // Major version 1, and the size of the header, which is at least 24.
        Index::Log => (head.first() != Some(&1) || u16_at(&head, 2) < 24)
            .then(|| "its header is not that of a transaction log".to_string()),
        // Major version 1.
        Index::Cache => {
            (head.first() != Some(&1)).then(|| "its header is not that of a cache".to_string())
        }
    };
    Ok(fault
        .map(|what| damaged(Certain, what).at([Extent::new(0, 120)]))
        .into_iter()
        .collect())
}

/// `struct mail_index_header`: version 7, size of the base header at 2, of the header at 4, of a
/// record at 8, messages at 36 (after indexid, flags, uid_validity, next_uid at 16 to 31).
fn main_index(head: &[u8], file_bytes: u64) -> Option<String> {
    if head.first() != Some(&7) {
        return Some("its header is not that of an index".into());
    }
    let header = u64::from(u32_at(head, 4));
    let record = u64::from(u32_at(head, 8));
    let messages = u64::from(u32_at(head, 32));
    if header < u64::from(u16_at(head, 2)) || header > file_bytes || record < 8 {
        return Some("the sizes in its header cannot be".into());
    }
    let needed = header.saturating_add(record.saturating_mul(messages));
    (needed > file_bytes).then(|| {
        format!("it has {messages} messages and would need {needed} bytes, and has {file_bytes}")
    })
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    let two = bytes.get(at..).and_then(|rest| rest.first_chunk());
    two.map_or(0, |b| u16::from_le_bytes(*b))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let four = bytes.get(at..).and_then(|rest| rest.first_chunk());
    four.map_or(0, |b| u32::from_le_bytes(*b))
}

/// A file that must be one JSON value.
///
/// # Errors
/// The file system's.
pub fn json(content: &mut dyn Read, file_bytes: u64) -> io::Result<Vec<Draft>> {
    if file_bytes == 0 {
        let reason = "the file is empty, and should be JSON";
        return Ok(vec![Draft::new(Kind::ZeroLength, Certain, reason)]);
    }
    let mut bom = [0; 3];
    let mut head = Vec::new();
    while head.len() < bom.len() {
        match content.read(&mut bom[..3 - head.len()])? {
            0 => break,
            count => head.extend_from_slice(&bom[..count]),
        }
    }
    let head = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&head);
    let reader = BufReader::new(head.chain(content));
    match serde_json::from_reader::<_, serde::de::IgnoredAny>(reader) {
        Ok(_) => Ok(Vec::new()),
        Err(e) if e.is_io() => Err(e.into()),
        Err(e) => {
            let reason = format!("it is not JSON: {e}, of {file_bytes} bytes");
            Ok(vec![damaged(Certain, reason)])
        }
    }
}

/// A file of a format that nobody has published: zeros can be found in it, and are not proof.
///
/// # Errors
/// The file system's.
pub fn container(content: &mut dyn Read) -> io::Result<Vec<Draft>> {
    let mut zeros = Zeros::default();
    let (mut at, mut buffer) = (0u64, vec![0; 64 << 10]);
    loop {
        let count = content.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        zeros.feed(at, buffer.get(..count).unwrap_or_default());
        at += count as u64;
    }
    zeros.finish(at);
    if at == 0 {
        return Ok(vec![Draft::new(
            Kind::ZeroLength,
            Suspicious,
            "the file is empty",
        )]);
    }
    if zeros.total == at {
        let reason = format!("all of its {at} bytes are zero");
        return Ok(vec![
            Draft::new(Kind::Blank, Likely, reason).at([Extent::new(0, at)]),
        ]);
    }
    let aligned = |run: &&Extent| run.start.is_multiple_of(512) && run.len >= 512;
    let runs: Vec<Extent> = zeros.runs.iter().filter(aligned).copied().collect();
    let Some(first) = runs.first() else {
        return Ok(Vec::new());
    };
    let reason = format!(
        "{} runs of zero bytes on the grid of a disk, the first from byte {}; the format is not public",
        runs.len(),
        first.start
    );
    Ok(vec![Draft::new(Kind::NulRun, Suspicious, reason).at(runs)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_whole_or_it_is_damaged() {
        let of = |text: &[u8]| json(&mut &text[..], text.len() as u64).unwrap().len();
        assert_eq!(of(b"{\"a\": [1, 2]}\r\n"), 0);
        assert_eq!(of(b"\xef\xbb\xbf[]"), 0);
        for bad in [&b""[..], b"{\"a\": [1, 2", b"\0\0\0\0", b"{} x", b"x"] {
            assert_eq!(of(bad), 1, "{bad:?}");
        }
    }

    #[test]
    fn indexes_are_known_by_their_headers() {
        let mut head = vec![7, 3, 120, 0, 136, 0, 0, 0, 12, 0, 0, 0];
        head.resize(136 + 12 * 3, 0);
        head[32] = 3;
        let of = |bytes: &[u8]| {
            dovecot(&mut &bytes[..], Index::Main, bytes.len() as u64)
                .unwrap()
                .len()
        };
        assert_eq!(of(&head), 0);
        assert_eq!(of(&head[..140]), 1, "cut");
        assert_eq!(of(&[0; 200]), 1);
        assert_eq!(of(b""), 1);
        head[0] = 0x1f;
        assert_eq!(of(&head), 1);
    }
}
