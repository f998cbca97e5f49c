//! The skeleton of a message, read strictly and without keeping it: header lines, MIME parts and
//! their boundaries (RFC 5322, RFC 2046).
//!
//! Parsers of mail are made to get something out of anything; what is asked here is the opposite,
//! of messages that may be larger than memory. So this reads no more than it must: header lines,
//! and in a body only the lines that start with a hyphen.

use memchr::{memchr, memmem};

use super::content::{Alphabet, count_controls};
use super::header::{MAX_VALUE_BYTES, field, is_well_known, parameter, word};

/// A header longer than this is not read to its end.
const MAX_HEADER_BYTES: u64 = 4 << 20;
/// Lines are kept up to this; a boundary has 70 characters.
const MAX_LINE_BYTES: usize = 4096;
/// Parts within parts beyond this are not followed.
const MAX_DEPTH: usize = 64;

/// What was found.
#[derive(Debug, Default)]
pub struct Structure {
    /// Fields of the message's own header.
    pub fields: u32,
    /// Those of them that are known from mail.
    pub well_known: u32,
    /// The empty line after the header was there.
    pub header_ended: bool,
    /// The first line of the header that is none.
    pub bad_line: Option<BadLine>,
    /// `From`, `Subject`, `Date`, `Message-ID`.
    pub kept: [Option<Vec<u8>>; 4],
    /// A part announces binary content, or content that was never encoded.
    pub binary: bool,
    /// What does not belong into base64 parts.
    pub alphabet: Alphabet,
    /// Whether the last body that was read is base64.
    pub in_base64: bool,
    /// Characters of the last line, without its end.
    pub last_line: u64,
    /// The last character.
    pub last: u8,
    stack: Vec<Boundary>,
    state: State,
    line: Vec<u8>,
    line_bytes: u64,
    line_start: bool,
    at: u64,
    start: u64,
    value: Vec<u8>,
    name: Name,
    part: Part,
}

/// A line of the header that is no field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadLine {
    /// Where it starts.
    pub at: u64,
    /// Its beginning.
    pub text: Vec<u8>,
    /// Whether it has control characters.
    pub binary: bool,
    /// Fields before it.
    pub fields: u32,
}

#[derive(Debug)]
struct Boundary {
    text: Vec<u8>,
    digest: bool,
    seen: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// The message's header.
    #[default]
    Header,
    /// The header of a part, or of a message within the message.
    PartHeader,
    Body,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Name {
    From,
    Subject,
    Date,
    MessageId,
    Type,
    Encoding,
    #[default]
    Other,
}

#[derive(Debug, Default)]
struct Part {
    kind: Option<Vec<u8>>,
    boundary: Option<Vec<u8>>,
    encoding: Vec<u8>,
}

impl Structure {
    /// Of a message that starts at `start` of its file.
    pub fn at(start: u64) -> Structure {
        Structure {
            at: start,
            start,
            line_start: true,
            ..Structure::default()
        }
    }

    /// The boundaries that are still open at the end, outermost first, and whether their first
    /// part was seen.
    pub fn open(&self) -> impl Iterator<Item = (&[u8], bool)> {
        self.stack.iter().map(|b| (b.text.as_slice(), b.seen))
    }

    /// The next bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let used = match self.state {
                State::Header | State::PartHeader => self.header_bytes(rest),
                State::Body => self.body_bytes(rest),
            };
            self.last = used
                .checked_sub(1)
                .and_then(|at| rest.get(at))
                .copied()
                .unwrap_or(self.last);
            self.at += used as u64;
            rest = rest.get(used..).unwrap_or_default();
        }
    }

    /// The end: a last line without an end is a line.
    pub fn finish(&mut self) {
        let in_header = self.state != State::Body;
        if !self.line.is_empty() {
            // As if its end were there.
            self.at += 1;
            self.whole_line();
            self.at -= 1;
        }
        if in_header {
            self.end_field();
        }
    }

    /// Takes a line, or what is there of it.
    fn take_line(&mut self, bytes: &[u8]) -> (usize, bool) {
        let end = memchr(b'\n', bytes);
        let used = end.map_or(bytes.len(), |at| at + 1);
        let text = bytes.get(..end.unwrap_or(used)).unwrap_or_default();
        let room = MAX_LINE_BYTES.saturating_sub(self.line.len());
        self.line
            .extend_from_slice(text.get(..room.min(text.len())).unwrap_or_default());
        self.line_bytes += text.len() as u64;
        (used, end.is_some())
    }

    fn header_bytes(&mut self, bytes: &[u8]) -> usize {
        let (used, ended) = self.take_line(bytes);
        if ended {
            let here = self.at;
            self.at += used as u64;
            self.whole_line();
            self.at = here;
        }
        used
    }

    /// A whole line: of a header, or in a body one that starts with a hyphen.
    fn whole_line(&mut self) {
        let mut line = std::mem::take(&mut self.line);
        let bytes = std::mem::take(&mut self.line_bytes);
        self.last_line = bytes;
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        let in_header = self.state != State::Body;
        if !self.boundary(&line) && in_header {
            self.header_line(&line, bytes);
        }
        // Its memory serves the next line.
        line.clear();
        self.line = line;
        self.line_start = true;
    }

    fn header_line(&mut self, line: &[u8], bytes: u64) {
        let at = self.at.saturating_sub(bytes + 1);
        let top = self.state == State::Header;
        if line.is_empty() {
            return self.end_header(true);
        }
        if matches!(line, [b' ' | b'\t', ..]) && (!top || self.fields > 0) {
            let room = MAX_VALUE_BYTES.saturating_sub(self.value.len());
            self.value
                .extend_from_slice(line.get(..room.min(line.len())).unwrap_or_default());
            return;
        }
        self.end_field();
        if let Some((name, value)) = field(line) {
            self.name = named(name);
            self.value.clear();
            self.value.extend_from_slice(value);
            if top {
                self.fields += 1;
                self.well_known += u32::from(is_well_known(name));
            }
        } else if top && at == self.start && is_envelope(line) {
            // The separator of an mbox, kept by whoever split it.
        } else if top {
            let binary = count_controls(line) > 0 || line.contains(&0);
            self.bad_line.get_or_insert_with(|| BadLine {
                at,
                text: line.get(..80).unwrap_or(line).to_vec(),
                binary,
                fields: self.fields,
            });
            if self.fields == 0 {
                self.end_header(false);
            }
        }
        if self.at - self.start > MAX_HEADER_BYTES && top {
            self.end_header(false);
        }
    }

    /// A field and its continuations are complete.
    fn end_field(&mut self) {
        let (name, value) = (
            std::mem::take(&mut self.name),
            std::mem::take(&mut self.value),
        );
        let slot = match name {
            Name::Other => return,
            Name::Type => {
                self.part.kind.get_or_insert_with(|| word(&value));
                if self.part.boundary.is_none() {
                    self.part.boundary = parameter(&value, "boundary");
                }
                return;
            }
            Name::Encoding => {
                self.part.encoding = word(&value);
                return;
            }
            Name::From => 0,
            Name::Subject => 1,
            Name::Date => 2,
            Name::MessageId => 3,
        };
        if self.state == State::Header
            && let Some(slot) = self.kept.get_mut(slot)
        {
            slot.get_or_insert(value);
        }
    }

    fn end_header(&mut self, ended: bool) {
        self.end_field();
        if self.state == State::Header {
            self.header_ended = ended;
        }
        let part = std::mem::take(&mut self.part);
        let digest = self.stack.last().is_some_and(|outer| outer.digest);
        let kind = part.kind.unwrap_or_else(|| match digest {
            true => b"message/rfc822".to_vec(),
            false => b"text/plain".to_vec(),
        });
        self.state = State::Body;
        self.in_base64 = false;
        match part.boundary {
            Some(text) if kind.starts_with(b"multipart/") && !text.is_empty() => {
                if self.stack.len() < MAX_DEPTH {
                    let digest = kind == b"multipart/digest";
                    // Trailing space of a boundary does not count (RFC 2046, section 5.1.1).
                    let text = text.trim_ascii_end().to_vec();
                    self.stack.push(Boundary {
                        text,
                        digest,
                        seen: false,
                    });
                }
            }
            _ if kind == b"message/rfc822" && is_identity(&part.encoding) => {
                self.state = State::PartHeader;
            }
            _ => {
                self.in_base64 = part.encoding == b"base64";
                let raw = is_identity(&part.encoding)
                    && !kind.starts_with(b"text/")
                    && !kind.starts_with(b"message/")
                    && !kind.starts_with(b"multipart/");
                self.binary |= part.encoding == b"binary" || raw;
            }
        }
    }

    /// Bytes of a body: only lines that start with a hyphen are looked at, and only where a
    /// boundary may come.
    fn body_bytes(&mut self, bytes: &[u8]) -> usize {
        if !self.line.is_empty() || (self.line_start && bytes.first() == Some(&b'-')) {
            let before = self.line_bytes;
            let (used, ended) = self.take_line(bytes);
            if ended {
                let at = self.at - before;
                let text = std::mem::take(&mut self.line);
                let is_boundary = self.line_is_boundary(&text);
                if !is_boundary && self.in_base64 {
                    self.alphabet.feed(at, &text);
                }
                self.line = text;
                let here = self.at;
                self.at += used as u64;
                self.whole_line();
                self.at = here;
            }
            return used;
        }
        let used = match self.stack.is_empty() {
            true => bytes.len(),
            false => memmem::find(bytes, b"\n-").map_or(bytes.len(), |at| at + 1),
        };
        let piece = bytes.get(..used).unwrap_or_default();
        if self.in_base64 {
            self.alphabet.feed(self.at, piece);
        }
        self.line_start = piece.last() == Some(&b'\n') && !self.stack.is_empty();
        self.tail(piece);
        used
    }

    /// How long the last line is, for a body of which lines are not looked at.
    fn tail(&mut self, piece: &[u8]) {
        let text = piece.strip_suffix(b"\n").unwrap_or(piece);
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        self.last_line = match memchr::memrchr(b'\n', text) {
            Some(at) => (text.len() - at - 1) as u64,
            None if self.last == b'\n' => text.len() as u64,
            None => self.last_line + text.len() as u64,
        };
    }

    fn line_is_boundary(&self, line: &[u8]) -> bool {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        self.find_boundary(line).is_some()
    }

    /// Which boundary a line is, and whether it closes.
    fn find_boundary(&self, line: &[u8]) -> Option<(usize, bool)> {
        let text = line.strip_prefix(b"--")?.trim_ascii_end();
        // The innermost first: one may be the beginning of another.
        let exact = self.stack.iter().rposition(|b| b.text == text);
        if let Some(depth) = exact {
            return Some((depth, false));
        }
        let closed = text.strip_suffix(b"--")?;
        let depth = self.stack.iter().rposition(|b| b.text == closed)?;
        Some((depth, true))
    }

    fn boundary(&mut self, line: &[u8]) -> bool {
        let Some((depth, closes)) = self.find_boundary(line) else {
            return false;
        };
        if self.state == State::Header {
            // A message that ends its header with its first boundary.
            self.end_field();
        } else if self.state == State::PartHeader {
            self.end_header(true);
        }
        self.part = Part::default();
        self.in_base64 = false;
        if closes {
            self.stack.truncate(depth);
            self.state = State::Body;
        } else {
            self.stack.truncate(depth + 1);
            if let Some(boundary) = self.stack.last_mut() {
                boundary.seen = true;
            }
            self.state = State::PartHeader;
        }
        true
    }
}

fn is_identity(encoding: &[u8]) -> bool {
    matches!(encoding, b"" | b"7bit" | b"8bit")
}

fn is_envelope(line: &[u8]) -> bool {
    line.starts_with(b"From ") || line.starts_with(b">From ")
}

fn named(name: &[u8]) -> Name {
    const NAMES: [(&str, Name); 6] = [
        ("from", Name::From),
        ("subject", Name::Subject),
        ("date", Name::Date),
        ("message-id", Name::MessageId),
        ("content-type", Name::Type),
        ("content-transfer-encoding", Name::Encoding),
    ];
    let known = NAMES
        .iter()
        .find(|(known, _)| name.eq_ignore_ascii_case(known.as_bytes()));
    known.map_or(Name::Other, |(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Structure {
        let run = |pieces: usize| {
            let mut one = Structure::at(0);
            text.as_bytes()
                .chunks(pieces)
                .for_each(|piece| one.feed(piece));
            one.finish();
            one
        };
        let seen = |s: &Structure| {
            format!(
                "{:?} {:?} {:?} {:?}",
                s.stack,
                s.fields,
                s.bad_line,
                (s.header_ended, s.last_line)
            )
        };
        let whole = seen(&run(text.len().max(1)));
        for pieces in [1, 2, 3, 7, 64] {
            assert_eq!(seen(&run(pieces)), whole, "in pieces of {pieces}");
        }
        run(text.len().max(1))
    }

    fn open(text: &str) -> Vec<String> {
        read(text)
            .open()
            .map(|(b, _)| String::from_utf8_lossy(b).into_owned())
            .collect()
    }

    const NESTED: &str = "From: a@example.org\nContent-Type: multipart/mixed;\n boundary=\"o\"\n\n\
        pre\n--o\nContent-Type: multipart/alternative; boundary=in\n\n--in\n\ntext\n--in--\n\
        --o\nContent-Type: message/rfc822\n\nSubject: x\nContent-Type: multipart/mixed; boundary=q\n\n\
        --q\n\nx\n--q--\n\n--o--\n";

    #[test]
    fn parts_are_closed_by_their_boundaries() {
        assert_eq!(open(NESTED), [""; 0]);
        assert_eq!(open(&NESTED.replace('\n', "\r\n")), [""; 0]);
        assert_eq!(open(NESTED.trim_end()), [""; 0], "no line end at the end");
        assert_eq!(open(&NESTED.replace("--o--", "--o")), ["o"]);
        assert_eq!(open(&NESTED.replace("--q--\n\n--o--\n", "")), ["o", "q"]);
        let longer = NESTED.replace("--o--\n", "--o-\n");
        assert_eq!(open(&longer), ["o"], "another boundary that begins like it");
    }

    #[test]
    fn the_header_is_taken_strictly() {
        let one = read("Return-Path: <>\nFrom: a\n\tb\nSubject: s\n\nbody\nFrom: none\n");
        assert_eq!((one.fields, one.well_known, one.header_ended), (3, 3, true));
        assert_eq!(one.kept[0].as_deref(), Some(&b" a\tb"[..]));
        assert_eq!(one.bad_line, None);
        let text = read("just words\nFrom: a\n\n");
        assert_eq!(text.fields, 0);
        assert_eq!(text.bad_line.unwrap().at, 0);
        let inner = read("From: a\nno field here\nTo: b\n\nx");
        assert_eq!((inner.fields, inner.bad_line.unwrap().fields), (2, 1));
        assert_eq!(read("From a@example.org Thu\nFrom: a\n\n").bad_line, None);
        assert!(!read("From: a\nTo: b\n").header_ended);
    }

    #[test]
    fn base64_is_checked_in_its_parts_alone() {
        let line = "QUJD".repeat(19) + "\n";
        let words = "Words, and more; of them!\n".repeat(40);
        let body = line.repeat(60);
        let text = format!(
            "From: a\nContent-Type: multipart/mixed; boundary=b\n\n--b\n\n{words}\n--b\n\
             Content-Type: image/png\nContent-Transfer-Encoding: base64\n\n{body}\n--b--\n{words}"
        );
        assert_eq!(read(&text).alphabet.runs, []);
        let text = text.replace(&body, &format!("{}{words}{words}{body}", &body[..2000]));
        assert_eq!(read(&text).alphabet.runs.len(), 1);
        assert!(!read(&text).binary);
        assert!(read("Content-Type: application/x\n\n").binary);
    }
}
