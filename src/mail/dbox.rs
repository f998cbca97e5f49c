//! Dovecot's sdbox and mdbox (`dbox-file.h` of Dovecot):
//!
//! ```text
//! file     = version SP "M" header_size_hex SP "C" created_hex LF, message …
//! message  = header, body, LF 0x01 0x03 LF, { key value LF } …, LF
//! header   = 0x01 0x02 "N" SP old_uid [8] SP body_size_hex [16] … LF     (header_size bytes)
//! keys     = G guid, R received, Z physical size, V virtual size, X external parts, P, O, B
//! ```
//!
//! sdbox has one message in a file. The body has no checksum; its size, and `Z` and `V`, are what
//! there is to hold it against.

use std::io::{self, BufRead, BufReader, Read};

use super::finding::{Confidence, Kind, Readable, Store};
use super::message::{Draft, Expected, Message, Verdict};
use super::scan::Outcome;
use super::unpack;
use crate::extent::Extent;
use crate::units::escape_bytes;

const MAGIC_PRE: &[u8; 2] = b"\x01\x02";
const MAGIC_POST: &[u8; 4] = b"\n\x01\x03\n";
/// Two magic bytes, type, space, 8 digits, space, 16 digits, line feed.
const LEAST_HEADER_BYTES: u64 = 30;
const MOST_HEADER_BYTES: u64 = 4096;
const MAX_LINE_BYTES: u64 = 4096;

/// Reads a file of the store and judges its messages.
///
/// # Errors
/// The file system's.
pub fn judge(content: &mut dyn Read, store: Store, file_bytes: u64) -> io::Result<Outcome> {
    let mut file = File {
        reader: BufReader::with_capacity(128 << 10, content),
        at: 0,
    };
    let mut verdicts = Vec::new();
    if file_bytes == 0 {
        let draft = Draft::new(Kind::ZeroLength, Confidence::Certain, "the file is empty");
        return Ok(Outcome::Judged(vec![only(draft)], 1));
    }
    let header_bytes = match file.header()? {
        Ok(bytes) => bytes,
        Err(line) => {
            // What the rest of it is tells more than that its first line is none.
            let verdict = file.without_header(&line)?;
            return Ok(Outcome::Judged(vec![verdict], 1));
        }
    };
    let mut messages = 0;
    loop {
        match file.message(header_bytes)? {
            Next::End => break,
            Next::Message(verdict) => {
                messages += 1;
                verdicts.extend((!verdict.drafts.is_empty()).then_some(verdict));
            }
            Next::Broken(verdict) => {
                messages += 1;
                verdicts.push(verdict);
                break;
            }
        }
        if store == Store::Sdbox && messages > 1 {
            let reason = "there is more than one message in the file";
            verdicts.push(only(Draft::new(
                Kind::MetadataDamaged,
                Confidence::Likely,
                reason,
            )));
            break;
        }
    }
    if messages == 0 && store == Store::Sdbox {
        let reason = "there is no message in the file";
        verdicts.push(only(Draft::new(
            Kind::Truncated,
            Confidence::Certain,
            reason,
        )));
    }
    Ok(Outcome::Judged(verdicts, messages))
}

fn only(draft: Draft) -> Verdict {
    Verdict {
        drafts: vec![draft],
        readable: Readable::default(),
    }
}

enum Next {
    End,
    Message(Verdict),
    /// What follows cannot be found any more.
    Broken(Verdict),
}

struct File<'a> {
    reader: BufReader<&'a mut dyn Read>,
    at: u64,
}

impl File<'_> {
    fn line(&mut self) -> io::Result<Vec<u8>> {
        let mut line = Vec::new();
        let mut limited = (&mut self.reader).take(MAX_LINE_BYTES);
        self.at += limited.read_until(b'\n', &mut line)? as u64;
        Ok(line)
    }

    /// The size of message headers, from the file's first line; else that line.
    fn header(&mut self) -> io::Result<Result<u64, Vec<u8>>> {
        let line = self.line()?;
        let text = line
            .strip_suffix(b"\n")
            .and_then(|line| std::str::from_utf8(line).ok());
        let parsed = text.and_then(|text| {
            let mut words = text.split(' ');
            let known = matches!(words.next(), Some("1" | "2"));
            let size = words.find_map(|word| word.strip_prefix('M'))?;
            let size = u64::from_str_radix(size, 16).ok()?;
            (known && (LEAST_HEADER_BYTES..=MOST_HEADER_BYTES).contains(&size)).then_some(size)
        });
        Ok(parsed.ok_or(line))
    }

    fn without_header(&mut self, line: &[u8]) -> io::Result<Verdict> {
        let mut rest = Message::at(0, true).uncounted();
        rest.feed(line);
        self.feed(&mut rest, u64::MAX)?;
        let mut verdict = rest.finish(&Expected::default());
        verdict
            .drafts
            .retain(|d| matches!(d.kind, Kind::Blank | Kind::NulRun));
        if verdict
            .drafts
            .iter()
            .all(|d| d.confidence != Confidence::Certain)
        {
            let text = escape_bytes(line.get(..40.min(line.len())).unwrap_or_default());
            let reason = format!("it does not begin as a dbox file: `{text}`");
            let range = Extent::new(0, line.len().max(1) as u64);
            verdict
                .drafts
                .push(Draft::new(Kind::MetadataDamaged, Confidence::Certain, reason).at([range]));
        }
        Ok(verdict)
    }

    /// Feeds up to `count` bytes; returns how many there were.
    fn feed(&mut self, message: &mut Message, count: u64) -> io::Result<u64> {
        let mut left = count;
        while left > 0 {
            let bytes = self.reader.fill_buf()?;
            let taken = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            if taken == 0 {
                break;
            }
            message.feed(bytes.get(..taken).unwrap_or_default());
            self.reader.consume(taken);
            left -= taken as u64;
        }
        self.at += count - left;
        Ok(count - left)
    }

    fn message(&mut self, header_bytes: u64) -> io::Result<Next> {
        let start = self.at;
        let mut header = vec![0; header_bytes as usize];
        let count = read_up_to(&mut self.reader, &mut header)?;
        self.at += count as u64;
        if count == 0 {
            return Ok(Next::End);
        }
        let broken = |what: String, end: u64| {
            let range = Extent::from_range(start, end.max(start + 1));
            let draft = Draft::new(Kind::MetadataDamaged, Confidence::Certain, what).at([range]);
            Ok(Next::Broken(only(draft)))
        };
        let header = header.get(..count).unwrap_or_default();
        let Some(size) = body_size(header).filter(|_| count as u64 == header_bytes) else {
            if header.iter().all(|b| *b == 0) {
                return self.zeros_from(start);
            }
            return broken(
                format!("at byte {start} there is no message's header"),
                self.at,
            );
        };
        let body_start = self.at;
        let head = self.reader.fill_buf()?;
        let packing = unpack::packing(head.get(..64.min(head.len())).unwrap_or_default());
        let mut message = Message::at(
            if packing.is_some() { 0 } else { body_start },
            packing.is_none(),
        );
        let mut failure = None;
        let taken = match packing {
            None => self.feed(&mut message, size)?,
            Some(packing) => {
                let mut body = (&mut self.reader).take(size);
                failure = unpack::feed(packing, &[], &mut body, &mut message).err();
                // A decoder stops where its format does; the rest is skipped.
                io::copy(&mut body, &mut io::sink())?;
                let taken = size - body.limit();
                self.at += taken;
                taken
            }
        };
        let mut expected = Expected {
            size: packing.is_none().then_some(size),
            source: "the dbox header",
            empty: Some(Confidence::Certain),
            ..Expected::default()
        };
        let mut after = Vec::new();
        let mut broken_at = None;
        if taken == size {
            match self.metadata(&mut expected, packing.is_some())? {
                Ok(()) => {}
                Err(what) => {
                    let range =
                        Extent::from_range(body_start + size, self.at.max(body_start + size + 1));
                    let draft = Draft::new(Kind::MetadataDamaged, Confidence::Certain, what);
                    after.push(draft.at([range]));
                    broken_at = Some(());
                }
            }
        }
        let mut verdict = match packing {
            Some(packing) => unpack::finish(packing, message, failure, &expected),
            None => message.finish(&expected),
        };
        if taken < size && packing.is_some() {
            let reason = format!("the dbox header says {size} bytes, and there are {taken}");
            verdict
                .drafts
                .insert(0, Draft::new(Kind::Truncated, Confidence::Certain, reason));
        }
        verdict.drafts.extend(after);
        match taken < size || broken_at.is_some() {
            true => Ok(Next::Broken(verdict)),
            false => Ok(Next::Message(verdict)),
        }
    }

    /// Zeros where a message should begin: to the end they are a write that was lost.
    fn zeros_from(&mut self, start: u64) -> io::Result<Next> {
        let mut rest = Message::at(self.at, true).uncounted();
        self.feed(&mut rest, u64::MAX)?;
        let end = self.at;
        let reason = format!("zero bytes from byte {start} on, where a message should begin");
        let draft = Draft::new(Kind::NulRun, Confidence::Certain, reason);
        Ok(Next::Broken(only(
            draft.at([Extent::from_range(start, end)]),
        )))
    }

    /// What follows a body.
    fn metadata(
        &mut self,
        expected: &mut Expected,
        packed: bool,
    ) -> io::Result<Result<(), String>> {
        let mut magic = [0; 4];
        let count = read_up_to(&mut self.reader, &mut magic)?;
        self.at += count as u64;
        if count == 0 {
            return Ok(Err(
                "the file ends where the message's metadata should be".into()
            ));
        }
        if &magic != MAGIC_POST {
            return Ok(Err(
                "the message's metadata is not where it should be".into()
            ));
        }
        loop {
            let line = self.line()?;
            match line.as_slice() {
                [b'\n'] => return Ok(Ok(())),
                [] => return Ok(Err("the file ends within the message's metadata".into())),
                [key, value @ .., b'\n'] if key.is_ascii_alphabetic() => {
                    let number = || {
                        std::str::from_utf8(value)
                            .ok()
                            .and_then(|text| u64::from_str_radix(text, 16).ok())
                    };
                    match key {
                        b'Z' if packed => {
                            expected.size = number();
                            expected.source = "the dbox metadata";
                        }
                        b'V' => expected.virtual_size = number(),
                        // Parts that lie elsewhere are missing in the body on purpose.
                        b'X' => {
                            expected.virtual_size = None;
                            if packed {
                                expected.size = None;
                            }
                        }
                        _ => {}
                    }
                }
                _ => {
                    let text = escape_bytes(line.get(..40.min(line.len())).unwrap_or_default());
                    return Ok(Err(format!("the message's metadata is damaged: `{text}`")));
                }
            }
        }
    }
}

fn body_size(header: &[u8]) -> Option<u64> {
    let rest = header.strip_prefix(MAGIC_PRE)?;
    let digits = rest.get(11..27)?;
    (rest.get(1) == Some(&b' ') && header.last() == Some(&b'\n')).then_some(())?;
    u64::from_str_radix(std::str::from_utf8(digits).ok()?.trim(), 16).ok()
}

fn read_up_to(reader: &mut impl Read, buf: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(room) = buf.get_mut(filled..).filter(|room| !room.is_empty()) {
        match reader.read(room) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(body: &str) -> Vec<u8> {
        let virtual_size = body.len() + body.matches('\n').count();
        [
            format!("\x01\x02N {:8} {:016x}\n", "", body.len()),
            body.into(),
            format!(
                "\n\x01\x03\nG0123456789abcdef0123456789abcdef\nR5f000000\nV{virtual_size:x}\n\n"
            ),
        ]
        .concat()
        .into_bytes()
    }

    fn file(count: usize) -> Vec<u8> {
        let body = "From: a@example.org\nSubject: s\n\n".to_string() + &"text\n".repeat(100);
        let mut bytes = b"2 M1e C5f000000\n".to_vec();
        (0..count).for_each(|_| bytes.extend(message(&body)));
        bytes
    }

    fn judged(bytes: &[u8], store: Store) -> (Vec<(Kind, Confidence)>, u64) {
        match judge(&mut &bytes[..], store, bytes.len() as u64).unwrap() {
            Outcome::Judged(verdicts, count) => {
                let drafts = verdicts.into_iter().flat_map(|v| v.drafts);
                (drafts.map(|d| (d.kind, d.confidence)).collect(), count)
            }
            Outcome::Other => panic!("it is mail"),
        }
    }

    #[test]
    fn whole_files_are_sound() {
        assert_eq!(judged(&file(1), Store::Sdbox), (vec![], 1));
        assert_eq!(judged(&file(5), Store::Mdbox), (vec![], 5));
    }

    #[test]
    fn each_cut_is_found_but_for_the_one_between_messages() {
        let whole = file(2);
        let first = 16 + (whole.len() - 16) / 2;
        for at in 1..whole.len() {
            let (found, _) = judged(&whole[..at], Store::Mdbox);
            assert_eq!(
                found.is_empty(),
                at == first || at == 16,
                "cut at {at}: {found:?}"
            );
        }
    }

    #[test]
    fn damaged_frames_and_lines_are_found() {
        let whole = file(3);
        for (at, value) in [(0, b'x'), (16, 0), (30, b'g'), (16 + 30 + 532, b'x')] {
            let mut bad = whole.clone();
            bad[at] = value;
            let (found, _) = judged(&bad, Store::Mdbox);
            assert!(
                found.contains(&(Kind::MetadataDamaged, Confidence::Certain)),
                "{at}: {found:?}"
            );
        }
        let mut blank = whole.clone();
        blank[16..].fill(0);
        assert_eq!(
            judged(&blank, Store::Mdbox).0,
            [(Kind::NulRun, Confidence::Certain)]
        );
        let mut lines = whole;
        lines[16 + 30 + 200] = b'\n';
        assert_eq!(
            judged(&lines, Store::Mdbox).0,
            [(Kind::SizeDiffers, Confidence::Certain)]
        );
        assert_eq!(
            judged(&[], Store::Sdbox).0,
            [(Kind::ZeroLength, Confidence::Certain)]
        );
        assert_eq!(
            judged(&[0; 700], Store::Sdbox).0,
            [(Kind::Blank, Confidence::Certain)]
        );
    }
}
