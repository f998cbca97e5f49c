//! The judgement of one message: what its bytes say, what its store says of it, and how sure that
//! makes one.
//!
//! The levels follow from one question: how much honest mail looks the same? *Certain* is for what
//! contradicts itself or its store; *likely* for what hardly ever comes from a sender; everything
//! that mail programs have been seen to write is *suspicious* at most.

use super::content::{LineEnds, SECTOR_BYTES, Sectors, Zeros};
use super::finding::{Confidence, Kind, MAX_RANGES, Readable, Stamp, shown};
use super::header::{field, is_well_known};
use super::structure::Structure;
use crate::extent::Extent;
use crate::units::{Bytes, escape_bytes};

use Confidence::{Certain, Likely, Suspicious};

/// A file system's block, the unit in which files get mixed up.
pub const BLOCK_BYTES: u64 = 4096;

/// A finding without its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// What.
    pub kind: Kind,
    /// How sure.
    pub confidence: Confidence,
    /// Where.
    pub ranges: Vec<Extent>,
    /// Whether that counts in the unpacked body.
    pub unpacked: bool,
    /// Why.
    pub reason: String,
    /// The file beside that it is about, where an index tells of another one.
    pub of: Option<(Vec<u8>, Stamp)>,
}

impl Draft {
    /// Of no place in particular.
    pub fn new(kind: Kind, confidence: Confidence, reason: impl Into<String>) -> Draft {
        Draft {
            kind,
            confidence,
            ranges: Vec::new(),
            unpacked: false,
            reason: reason.into(),
            of: None,
        }
    }

    /// The same at these places.
    pub fn at(mut self, ranges: impl IntoIterator<Item = Extent>) -> Draft {
        self.ranges.extend(ranges.into_iter().take(MAX_RANGES));
        self
    }
}

/// What the store says about a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// Its length.
    pub size: Option<u64>,
    /// Its length with each line ended by CR LF.
    pub virtual_size: Option<u64>,
    /// Who says so: `the name's S=`.
    pub source: &'static str,
    /// How sure it is that an empty message is damage.
    pub empty: Option<Confidence>,
}

/// What was made of a message.
#[derive(Debug, Default)]
pub struct Verdict {
    /// What is wrong.
    pub drafts: Vec<Draft>,
    /// What can be read.
    pub readable: Readable,
}

/// Reads a message, piece by piece.
#[derive(Debug)]
pub struct Message {
    start: u64,
    at: u64,
    /// Whether offsets are those of the file: then blocks of it are blocks of a disk.
    aligned: bool,
    zeros: Zeros,
    sectors: Sectors,
    ends: LineEnds,
    count_ends: bool,
    structure: Structure,
    intruder: Option<(u64, String)>,
}

impl Message {
    /// A message that starts at `start` of its file. Not `aligned`: of an unpacked body.
    pub fn at(start: u64, aligned: bool) -> Message {
        Message {
            start,
            at: start,
            aligned,
            zeros: Zeros::default(),
            sectors: Sectors::default(),
            ends: LineEnds::default(),
            count_ends: true,
            structure: Structure::at(start),
            intruder: None,
        }
    }

    /// Without counting line ends: nobody will ask for the virtual size.
    pub fn uncounted(mut self) -> Message {
        self.count_ends = false;
        self
    }

    /// Bytes so far.
    pub fn len(&self) -> u64 {
        self.at - self.start
    }

    /// Whether there were none.
    pub fn is_empty(&self) -> bool {
        self.at == self.start
    }

    /// The next bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.zeros.feed(self.at, bytes);
        self.sectors.feed(self.at, bytes);
        if self.count_ends {
            self.ends.feed(bytes);
        }
        if self.aligned && self.intruder.is_none() {
            self.look_for_intruder(bytes);
        }
        self.structure.feed(bytes);
        self.at += bytes.len() as u64;
    }

    /// The header of another message at the start of a block, in the middle of a line.
    fn look_for_intruder(&mut self, bytes: &[u8]) {
        let mut block = self.at.next_multiple_of(BLOCK_BYTES);
        while let Some(text) = bytes
            .get((block - self.at) as usize..)
            .filter(|t| !t.is_empty())
        {
            let before = match block.checked_sub(self.at + 1) {
                Some(at) => bytes.get(at as usize).copied().unwrap_or(b'\n'),
                None => self.structure.last,
            };
            // `Delivered-To` may have the edge of the block in its middle.
            let apart = !matches!(before, b'\n' | b'-');
            let inside = block > self.start && apart;
            if inside && text.first().is_some_and(u8::is_ascii_uppercase) {
                let head = text.get(..1024.min(text.len())).unwrap_or(text);
                if let Some(name) = header_of_a_message(head) {
                    self.intruder = Some((block, name));
                    return;
                }
            }
            block += BLOCK_BYTES;
        }
    }

    /// The verdict at its end.
    pub fn finish(mut self, expected: &Expected) -> Verdict {
        self.zeros.finish(self.at);
        self.sectors.finish(self.at);
        self.structure.finish();
        let readable = self.readable();
        let drafts = self.judge(expected);
        Verdict { drafts, readable }
    }

    /// What can be read so far, where a message is broken off by an error.
    pub fn readable(&self) -> Readable {
        let [from, subject, date, message_id] = self
            .structure
            .kept
            .each_ref()
            .map(|v| v.as_ref().map(|v| shown(v)));
        Readable {
            header: self.structure.header_ended && self.structure.fields > 0,
            from,
            subject,
            date,
            message_id,
        }
    }

    fn judge(&self, expected: &Expected) -> Vec<Draft> {
        let len = self.len();
        if len == 0 {
            return match (expected.size, expected.empty) {
                (Some(size), _) if size > 0 => vec![Draft::new(
                    Kind::ZeroLength,
                    Certain,
                    format!("the file is empty; {} says {size} bytes", expected.source),
                )],
                (_, Some(confidence)) => {
                    vec![Draft::new(
                        Kind::ZeroLength,
                        confidence,
                        "the file is empty",
                    )]
                }
                _ => Vec::new(),
            };
        }
        if self.zeros.total == len {
            let reason = format!("all of its {} are zero", Bytes(len));
            let whole = Extent::from_range(self.start, self.at);
            let mut drafts = vec![Draft::new(Kind::Blank, Certain, reason).at([whole])];
            drafts.extend(self.size(expected));
            return drafts;
        }
        let mut drafts = Vec::new();
        drafts.extend(self.size(expected));
        let cut = drafts.iter().any(|d| d.kind == Kind::Truncated);
        drafts.extend(self.zero_runs());
        drafts.extend(self.binary_sectors());
        drafts.extend(self.header(expected.size.is_some()));
        drafts.extend(self.foreign());
        drafts.extend(self.virtual_size(expected, &drafts));
        let agreed = expected.size == Some(len) && drafts.is_empty();
        if !cut && !self.ends_in_zeros() {
            drafts.extend(self.end(agreed));
        }
        drafts
    }

    /// Against the length that the store knows.
    fn size(&self, expected: &Expected) -> Option<Draft> {
        let (len, size) = (self.len(), expected.size?);
        let source = expected.source;
        match len.cmp(&size) {
            std::cmp::Ordering::Equal => None,
            std::cmp::Ordering::Less => Some(
                Draft::new(
                    Kind::Truncated,
                    Certain,
                    format!("{source} says {size} bytes, and there are {len}"),
                )
                .at([Extent::from_range(
                    self.start + len,
                    self.start.saturating_add(size),
                )]),
            ),
            std::cmp::Ordering::Greater => Some(Draft::new(
                Kind::SizeDiffers,
                Certain,
                format!("{source} says {size} bytes, and there are {len}"),
            )),
        }
    }

    /// Another number of lines: some of the content is not what was delivered.
    fn virtual_size(&self, expected: &Expected, so_far: &[Draft]) -> Option<Draft> {
        let wanted = expected.virtual_size?;
        let found = self.len() + self.ends.bare;
        if wanted == found || !self.count_ends || !so_far.is_empty() {
            return None;
        }
        let sure = if expected.size == Some(self.len()) {
            Certain
        } else {
            Likely
        };
        Some(Draft::new(
            Kind::SizeDiffers,
            sure,
            format!(
                "the name's W= says {wanted} bytes with CR LF line ends, and there would be {found}: \
                 the length is right and the lines are not"
            ),
        ))
    }

    fn on_grid(&self, at: u64) -> bool {
        self.aligned && at.is_multiple_of(SECTOR_BYTES)
    }

    fn ends_in_zeros(&self) -> bool {
        self.zeros
            .runs
            .last()
            .is_some_and(|run| run.end() == self.at)
    }

    fn zero_runs(&self) -> Vec<Draft> {
        let mut drafts = Vec::new();
        for sure in Confidence::ALL {
            let runs: Vec<Extent> = (self.zeros.runs.iter().copied())
                .filter(|&run| self.zero_run(run) == Some(sure))
                .collect();
            let Some(&first) = runs.first() else { continue };
            let bytes: u64 = runs.iter().map(|run| run.len).sum();
            let share = bytes * 100 / self.len().max(1);
            let place = match first.start {
                at if at == self.start => "from its start".to_string(),
                at => format!("from byte {at}"),
            };
            let more = match runs.len() {
                1 if first.end() == self.at => " to its end".to_string(),
                1 => String::new(),
                n => format!(", in {n} runs"),
            };
            let binary = if self.declares_binary() {
                "; it declares binary content"
            } else {
                ""
            };
            drafts.push(
                Draft::new(
                    Kind::NulRun,
                    sure,
                    format!("{bytes} zero bytes {place}{more}: {share} % of it{binary}"),
                )
                .at(runs),
            );
        }
        if drafts.is_empty()
            && !self.declares_binary()
            && let Some(first) = self.zeros.first
        {
            let reason = format!("{} zero bytes, the first at byte {first}", self.zeros.total);
            drafts.push(Draft::new(Kind::NulRun, Suspicious, reason).at([Extent::new(first, 1)]));
        }
        drafts
    }

    /// Zero is not allowed in a message (RFC 5322, section 2.2) but where binary content is
    /// declared; runs that keep to the grid of a disk are made by disks.
    fn zero_run(&self, run: Extent) -> Option<Confidence> {
        let to_end = run.end() == self.at;
        let from_start = run.start == self.start;
        let front = self.on_grid(run.start) || from_start;
        let back = self.on_grid(run.end()) || to_end;
        let header = from_start || run.start < self.start + 64;
        if self.declares_binary() && !header {
            let block = |at: u64| at.is_multiple_of(BLOCK_BYTES);
            let whole_blocks = self.aligned && block(run.start) && (to_end || block(run.end()));
            // Zeros of its own may lie anywhere; those of a disk keep to the grid.
            return match run.len {
                BLOCK_BYTES.. if whole_blocks => Some(Likely),
                SECTOR_BYTES.. if front || back => Some(Suspicious),
                _ => None,
            };
        }
        Some(match run.len {
            SECTOR_BYTES.. if front && back => Certain,
            BLOCK_BYTES.. if front || back => Certain,
            SECTOR_BYTES.. => Likely,
            64.. if front || back => Likely,
            _ => Suspicious,
        })
    }

    fn declares_binary(&self) -> bool {
        self.structure.binary || self.sectors.announced
    }

    /// Binary sectors, as far as they are of this message: its first one may be another's end.
    fn binary(&self) -> Vec<Extent> {
        let whole = Extent::from_range(self.start, self.at);
        let runs = self.sectors.runs.iter();
        runs.filter_map(|run| run.intersection(whole)).collect()
    }

    fn binary_sectors(&self) -> Option<Draft> {
        // What lies in the header is said there.
        let runs: Vec<Extent> = (self.binary().into_iter())
            .filter(|run| run.start != self.start || self.structure.fields > 0)
            // Where binary content is declared, this is what it looks like.
            .filter(|_| !self.declares_binary())
            .collect();
        let first = runs.first()?;
        let keeps_to_grid = runs.iter().all(|run| {
            self.on_grid(run.start) && (self.on_grid(run.end()) || run.end() == self.at)
        });
        let sure = match keeps_to_grid && runs.iter().any(|run| self.fills_blocks(*run)) {
            // A sector of random bytes is always seen; that it ends with the sector says nothing,
            // as whole sectors are what is looked at: it takes a block's edge to be sure.
            true => Likely,
            false => Suspicious,
        };
        let reason = format!("binary content from byte {}, in a text", first.start);
        Some(Draft::new(Kind::Garbage, sure, reason).at(runs))
    }

    fn fills_blocks(&self, run: Extent) -> bool {
        self.aligned
            && run.start.is_multiple_of(BLOCK_BYTES)
            && (run.end().is_multiple_of(BLOCK_BYTES) || run.end() == self.at)
    }

    fn header(&self, delivered: bool) -> Vec<Draft> {
        let structure = &self.structure;
        let zeros_first = self
            .zeros
            .runs
            .first()
            .is_some_and(|run| run.start < self.start + 64);
        if zeros_first {
            return Vec::new();
        }
        let Some(bad) = &structure.bad_line else {
            let nothing_known = structure.well_known == 0 && structure.fields > 0;
            let empty = structure.fields == 0;
            return match (empty, nothing_known) {
                (true, _) => vec![Draft::new(
                    Kind::GarbageHeader,
                    Suspicious,
                    "it has no header field at all",
                )],
                (_, true) => vec![Draft::new(
                    Kind::GarbageHeader,
                    Suspicious,
                    "its header has no field that mail has",
                )],
                _ => Vec::new(),
            };
        };
        let text = escape_bytes(bad.text.get(..40.min(bad.text.len())).unwrap_or_default());
        let block = Extent::from_range(bad.at, (bad.at + 1).max(self.at.min(bad.at + 512)));
        let binary_sector = self.binary().iter().any(|run| run.start == self.start);
        let magic = magic(&bad.text).filter(|_| bad.fields == 0);
        let (sure, what) = match (bad.fields, magic) {
            (_, Some(name)) => (Certain, format!("it begins as {name}, not as a message")),
            (0, _) if bad.binary && binary_sector => (
                Certain,
                "there is binary content where the header should be".to_string(),
            ),
            // Programs have been seen to store a short text as a message.
            (0, _) if self.len() < BLOCK_BYTES && !delivered => {
                (Suspicious, "it does not begin with a header".to_string())
            }
            (0, _) => (Likely, "it does not begin with a header".to_string()),
            (_, _) if bad.binary => (
                Suspicious,
                "there are control characters in the header".to_string(),
            ),
            (_, _) => (Suspicious, "a line of the header is no field".to_string()),
        };
        vec![Draft::new(Kind::GarbageHeader, sure, format!("{what}: `{text}`")).at([block])]
    }

    fn foreign(&self) -> Vec<Draft> {
        let mut drafts = Vec::new();
        if let Some((at, name)) = &self.intruder {
            let reason = format!(
                "at byte {at}, in the middle of a line, the header of another message begins: `{name}: …`"
            );
            let end = self.at.min(at + BLOCK_BYTES);
            let range = Extent::from_range(*at, end);
            drafts.push(Draft::new(Kind::CrossLinked, Likely, reason).at([range]));
        }
        let is_zero = |e: Extent| self.zeros.runs.iter().any(|z| z.intersection(e).is_some());
        let is_binary = |e: Extent| {
            self.sectors
                .runs
                .iter()
                .any(|s| s.intersection(e).is_some())
        };
        let runs: Vec<_> = (self.structure.alphabet.runs.iter())
            .filter(|run| !is_zero(run.extent) && !is_binary(run.extent))
            // What follows a part's last line is the footer of a list.
            .filter(|run| run.sharp || run.resumes)
            .collect();
        if let Some(first) = runs.first() {
            let sharp = self.aligned
                && runs.iter().any(|run| {
                    let to_end = self.at - run.extent.end() < SECTOR_BYTES;
                    run.sharp && (run.resumes || to_end)
                });
            let sure = if sharp { Likely } else { Suspicious };
            let reason = format!(
                "other text in a base64 part, from byte {}",
                first.extent.start
            );
            let ranges = runs.iter().map(|run| run.extent);
            drafts.push(Draft::new(Kind::CrossLinked, sure, reason).at(ranges));
        }
        drafts
    }

    /// Whether it ends where it should. `agreed`: its store knows the length, which fits, and
    /// nothing else is wrong; then it was delivered like this.
    fn end(&self, agreed: bool) -> Option<Draft> {
        let structure = &self.structure;
        let mid_line = structure.last != b'\n';
        let block_end = self.aligned && self.at.is_multiple_of(SECTOR_BYTES);
        let Some((boundary, seen)) = structure.open().next() else {
            let cut_base64 =
                structure.in_base64 && mid_line && !structure.last_line.is_multiple_of(4);
            let (sure, why) = match () {
                () if agreed => return None,
                () if cut_base64 => (Likely, "its base64 ends within a group of four"),
                () if mid_line && self.aligned && self.at.is_multiple_of(BLOCK_BYTES) => (
                    Suspicious,
                    "it ends in the middle of a line and at the end of a block",
                ),
                () => return None,
            };
            return Some(Draft::new(Kind::Truncated, sure, why));
        };
        let boundary = escape_bytes(boundary.get(..70.min(boundary.len())).unwrap_or_default());
        if !structure.header_ended && !seen {
            // It was cut in its header, or has no body: the boundary was only announced.
            let sure = if mid_line && !agreed {
                Likely
            } else {
                Suspicious
            };
            return Some(Draft::new(Kind::Truncated, sure, "it ends in its header"));
        }
        let cut_base64 = structure.in_base64 && mid_line && !structure.last_line.is_multiple_of(4);
        let reason = format!("the MIME boundary `{boundary}` is not closed");
        let (kind, sure, reason) = match () {
            () if agreed => (
                Kind::UnclosedMime,
                Suspicious,
                reason + "; its length is as named",
            ),
            () if cut_base64 => (
                Kind::Truncated,
                Likely,
                reason + ", and base64 ends within a group of four",
            ),
            () if mid_line && block_end => (
                Kind::Truncated,
                Likely,
                reason + ", and it ends in a line, at the end of a block",
            ),
            () => (Kind::UnclosedMime, Suspicious, reason),
        };
        Some(Draft::new(kind, sure, reason))
    }
}

/// The first field's name, where a text begins like the header of a message does.
fn header_of_a_message(head: &[u8]) -> Option<String> {
    let mut first = None;
    let mut known = 0;
    for line in head.split(|&b| b == b'\n').take(8) {
        match field(line) {
            Some((name, _)) if is_well_known(name) => {
                first.get_or_insert_with(|| escape_bytes(name));
                known += 1;
            }
            _ if first.is_none() => return None,
            Some(_) => {}
            None if matches!(line, [b' ' | b'\t', ..]) => {}
            None => break,
        }
    }
    first.filter(|_| known >= 3)
}

/// Files that are known by their first bytes.
fn magic(head: &[u8]) -> Option<&'static str> {
    const KNOWN: [(&[u8], &str); 9] = [
        (b"\x7fELF", "a program"),
        (b"\x1f\x8b", "a gzip file"),
        (b"PK\x03\x04", "a zip file"),
        (b"%PDF-", "a PDF"),
        (b"\x89PNG", "a PNG image"),
        (b"\xff\xd8\xff", "a JPEG image"),
        (b"SQLite format 3", "a database"),
        (b"\x28\xb5\x2f\xfd", "a zstd file"),
        (b"\xc0\x3b\x39\x98", "the journal of a file system"),
    ];
    KNOWN
        .iter()
        .find(|(start, _)| head.starts_with(start))
        .map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mail(body_bytes: usize) -> Vec<u8> {
        let mut text =
            b"Return-Path: <a@example.org>\nReceived: from a by b; x\nFrom: a@example.org\n\
            To: b@example.org\nSubject: s\nDate: Thu, 2 Jan 2020 03:04:05 +0000\n\n"
                .to_vec();
        while text.len() < body_bytes {
            let line = format!("Line {} of the text, as people write it.\n", text.len());
            text.extend_from_slice(line.as_bytes());
        }
        text
    }

    fn judge(bytes: &[u8], expected: Expected) -> Vec<(Kind, Confidence)> {
        let run = |piece: usize| {
            let mut message = Message::at(0, true);
            bytes.chunks(piece).for_each(|bytes| message.feed(bytes));
            message.finish(&expected).drafts
        };
        let whole = run(bytes.len().max(1));
        assert_eq!(run(4096), whole, "in blocks");
        whole.iter().map(|d| (d.kind, d.confidence)).collect()
    }

    fn alone(bytes: &[u8]) -> Vec<(Kind, Confidence)> {
        judge(
            bytes,
            Expected {
                empty: Some(Certain),
                ..Expected::default()
            },
        )
    }

    #[test]
    fn a_message_is_sound_and_an_empty_or_blank_one_is_not() {
        assert_eq!(alone(&mail(20_000)), []);
        assert_eq!(alone(b""), [(Kind::ZeroLength, Certain)]);
        assert_eq!(alone(&[0; 3000]), [(Kind::Blank, Certain)]);
        assert_eq!(alone(&[0; 1]), [(Kind::Blank, Certain)]);
    }

    #[test]
    fn zeros_are_certain_on_the_grid_and_suspicious_in_binary_parts() {
        let mut hit = mail(20_000);
        hit[8192..12288].fill(0);
        assert_eq!(alone(&hit), [(Kind::NulRun, Certain)]);
        let mut header = mail(20_000);
        header[..4096].fill(0);
        assert_eq!(alone(&header), [(Kind::NulRun, Certain)]);
        let mut tail = mail(20_000);
        let len = tail.len();
        tail[len - 700..].fill(0);
        assert_eq!(alone(&tail), [(Kind::NulRun, Likely)]);
        let mut stray = mail(20_000);
        stray[5000] = 0;
        assert_eq!(alone(&stray), [(Kind::NulRun, Suspicious)]);
        let binary = b"From: a\nContent-Type: application/x\nContent-Transfer-Encoding: binary\n\n";
        let binary = [&binary[..], &[1; 500], &[0; 3000], b"x"].concat();
        assert!(alone(&binary).iter().all(|(_, sure)| *sure == Suspicious));
    }

    #[test]
    fn the_length_that_the_store_knows_is_believed() {
        let text = mail(9000);
        let bare = text.iter().filter(|b| **b == b'\n').count() as u64;
        let of = |size: u64, virtual_size: u64| {
            judge(
                &text,
                Expected {
                    size: Some(size),
                    virtual_size: Some(virtual_size),
                    source: "S=",
                    empty: None,
                },
            )
        };
        let len = text.len() as u64;
        assert_eq!(of(len, len + bare), []);
        assert_eq!(of(len + 1, len + 1 + bare), [(Kind::Truncated, Certain)]);
        assert_eq!(of(len - 1, len - 1 + bare), [(Kind::SizeDiffers, Certain)]);
        assert_eq!(of(len, len + bare + 1), [(Kind::SizeDiffers, Certain)]);
    }

    #[test]
    fn garbage_is_told_by_where_it_is() {
        let mut seed = 1u32;
        let noise: Vec<u8> = (0..4096)
            .map(|_| {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (seed >> 24) as u8 | 1
            })
            .collect();
        let mut head = mail(20_000);
        head[..4096].copy_from_slice(&noise);
        assert_eq!(
            alone(&head)[0],
            (Kind::GarbageHeader, Certain),
            "{:?}",
            alone(&head)
        );
        let mut body = mail(20_000);
        body[8192..12288].copy_from_slice(&noise);
        assert_eq!(alone(&body), [(Kind::Garbage, Likely)]);
        let words = b"Some text from somewhere else.\n".repeat(200);
        let mut text = mail(20_000);
        text[..4096].copy_from_slice(&words[..4096]);
        assert_eq!(alone(&text), [(Kind::GarbageHeader, Likely)]);
    }

    #[test]
    fn the_header_of_another_message_in_the_middle_of_a_line() {
        let mut hit = mail(20_000);
        assert_ne!(hit[8191], b'\n');
        let other = mail(5000);
        hit[8192..12288].copy_from_slice(&other[..4096]);
        assert_eq!(alone(&hit), [(Kind::CrossLinked, Likely)]);
        // A field whose name has the edge in its middle is the message's own.
        let own = b"From: a@example.org\nX-Filler: ".to_vec();
        let mut own = [own, vec![b'x'; 4000]].concat();
        own.resize(4096 - b"\nDelivered-".len(), b'x');
        own.extend(b"\nDelivered-To: b@example.org\nFrom: a\nSubject: s\nDate: d\n\nbody\n");
        assert_eq!(&own[4096..4099], b"To:");
        assert_eq!(alone(&own), []);
        // A message within a message starts after a line's end.
        let mut within = mail(8192);
        within.truncate(8191);
        within.push(b'\n');
        within.extend(mail(3000));
        assert_eq!(alone(&within), []);
    }

    #[test]
    fn an_end_that_is_missing_is_found_by_what_is_open() {
        let base64 = ("QUJD".repeat(19) + "\n").repeat(100);
        let text = format!(
            "From: a\nDate: x\nContent-Type: multipart/mixed; boundary=b\n\n--b\n\
             Content-Transfer-Encoding: base64\nContent-Type: image/png\n\n{base64}\n--b--\n"
        );
        assert_eq!(alone(text.as_bytes()), []);
        let cut = |at: usize| alone(&text.as_bytes()[..at]);
        assert_eq!(cut(5003), [(Kind::Truncated, Likely)]);
        assert_eq!(cut(4096), [(Kind::Truncated, Likely)]);
        assert_eq!(cut(text.len() - 6), [(Kind::UnclosedMime, Suspicious)]);
    }
}
