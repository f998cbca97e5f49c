//! What bytes alone tell, whatever they mean: runs of zeros, sectors that are not text, and what
//! does not belong into base64. Fed piece by piece; memory is bounded.

use memchr::{memchr, memmem};

use super::finding::MAX_RANGES;
use crate::extent::Extent;

/// The smallest thing that a disk loses, and the grid of everything here.
pub const SECTOR_BYTES: u64 = 512;

/// Runs of zero bytes.
#[derive(Debug, Default)]
pub struct Zeros {
    /// The runs of at least [`Zeros::NOTED`] bytes, in order, at most [`MAX_RANGES`].
    pub runs: Vec<Extent>,
    /// Whether there were more.
    pub more: bool,
    /// Zero bytes in all.
    pub total: u64,
    /// Where the first is.
    pub first: Option<u64>,
    open: Option<u64>,
}

impl Zeros {
    /// Shorter runs are only counted.
    pub const NOTED: u64 = 16;

    /// The next bytes; they start at `at`.
    pub fn feed(&mut self, at: u64, bytes: &[u8]) {
        let mut rest = bytes;
        let mut here = at;
        while !rest.is_empty() {
            let skipped = match self.open {
                Some(start) => {
                    let count = rest.iter().position(|&b| b != 0).unwrap_or(rest.len());
                    self.total += count as u64;
                    if count < rest.len() {
                        self.close(start, here + count as u64);
                    }
                    count
                }
                None => {
                    let count = memchr(0, rest).unwrap_or(rest.len());
                    if count < rest.len() {
                        let start = here + count as u64;
                        self.first.get_or_insert(start);
                        self.open = Some(start);
                    }
                    count
                }
            };
            rest = rest.get(skipped..).unwrap_or_default();
            here += skipped as u64;
        }
    }

    /// The end of the bytes.
    pub fn finish(&mut self, end: u64) {
        if let Some(start) = self.open {
            self.close(start, end);
        }
    }

    fn close(&mut self, start: u64, end: u64) {
        self.open = None;
        if end - start < Zeros::NOTED {
            return;
        }
        match self.runs.len() < MAX_RANGES {
            true => self.runs.push(Extent::from_range(start, end)),
            false => self.more = true,
        }
    }
}

/// Sectors in which a thirtieth or more are control characters: no text, in whatever language.
#[derive(Debug, Default)]
pub struct Sectors {
    /// Runs of such sectors, at most [`MAX_RANGES`].
    pub runs: Vec<Extent>,
    /// Whether binary content announced itself (yEnc).
    pub announced: bool,
    /// Control characters in the sector that is under way.
    controls: u32,
}

/// Control characters of a sector from which on it is not text. Of random bytes one in ten is one.
const BINARY_CONTROLS: u32 = 17;

impl Sectors {
    /// The next bytes; they start at `at`.
    pub fn feed(&mut self, at: u64, bytes: &[u8]) {
        if self.controls == 0 && count_controls(bytes) == 0 {
            return;
        }
        self.announced |= memmem::find(bytes, b"=ybegin ").is_some();
        let mut here = at;
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = SECTOR_BYTES - here % SECTOR_BYTES;
            let (piece, after) = rest.split_at(rest.len().min(room as usize));
            self.controls += count_controls(piece);
            here += piece.len() as u64;
            rest = after;
            if here.is_multiple_of(SECTOR_BYTES) {
                self.sector(here - SECTOR_BYTES, here);
            }
        }
    }

    /// The end of the bytes: what is left is judged by its share.
    pub fn finish(&mut self, end: u64) {
        let rest = end % SECTOR_BYTES;
        let share = u64::from(self.controls) * SECTOR_BYTES;
        if rest >= 32 && share / rest >= u64::from(BINARY_CONTROLS) {
            self.controls = BINARY_CONTROLS;
            self.sector(end - rest, end);
        }
    }

    fn sector(&mut self, start: u64, end: u64) {
        let controls = std::mem::take(&mut self.controls);
        if controls < BINARY_CONTROLS {
            return;
        }
        if let Some(last) = self.runs.last_mut().filter(|last| last.end() == start) {
            *last = Extent::from_range(last.start, end);
        } else if self.runs.len() < MAX_RANGES {
            self.runs.push(Extent::from_range(start, end));
        }
    }
}

/// Control characters that no text has: not tab, line ends, form feed, backspace and escape
/// (ISO-2022), and not zero, which is counted by itself.
pub fn count_controls(bytes: &[u8]) -> u32 {
    bytes
        .chunks(128)
        .map(|chunk| {
            let odd = |b: &u8| {
                (b.wrapping_sub(1) < 7)
                    | (*b == 11)
                    | ((b.wrapping_sub(14) < 18) & (*b != 27))
                    | (*b == 127)
            };
            // At most 128 in a chunk: a byte holds the count, and the loop becomes vector code.
            u32::from(chunk.iter().map(|b| u8::from(odd(b))).sum::<u8>())
        })
        .sum()
}

/// Line feeds without a carriage return before them.
#[derive(Debug, Default)]
pub struct LineEnds {
    /// How many.
    pub bare: u64,
    last: u8,
}

impl LineEnds {
    /// The next bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        let Some(&last) = bytes.last() else { return };
        let feeds = count(bytes, b'\n');
        let whole = match memchr(b'\r', bytes) {
            None => 0,
            Some(_) => bytes.array_windows_count(),
        };
        let across = u64::from(self.last == b'\r' && bytes.first() == Some(&b'\n'));
        self.bare += feeds - whole - across;
        self.last = last;
    }
}

trait Pairs {
    fn array_windows_count(&self) -> u64;
}

impl Pairs for [u8] {
    /// `\r\n` pairs.
    fn array_windows_count(&self) -> u64 {
        let next = self.get(1..).unwrap_or_default();
        self.chunks(128)
            .zip(next.chunks(128))
            .map(|(a, b)| {
                let pairs = a
                    .iter()
                    .zip(b)
                    .map(|(a, b)| u8::from((*a == b'\r') & (*b == b'\n')));
                u64::from(pairs.sum::<u8>())
            })
            .sum()
    }
}

fn count(bytes: &[u8], byte: u8) -> u64 {
    let of = |chunk: &[u8]| u64::from(chunk.iter().map(|b| u8::from(*b == byte)).sum::<u8>());
    bytes.chunks(128).map(of).sum()
}

/// What lies in a base64 part and is no base64: whole sectors of it.
#[derive(Debug, Default)]
pub struct Alphabet {
    /// The runs of foreign sectors, at most [`MAX_RANGES`].
    pub runs: Vec<Foreign>,
    sector: Tally,
    before: Option<Tally>,
    last: u8,
    next: u64,
}

/// A run of sectors that do not belong where they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// Where.
    pub extent: Extent,
    /// It starts in the middle of a line, right after a sector without fault.
    pub sharp: bool,
    /// A sector without fault follows.
    pub resumes: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    start: u64,
    seen: u64,
    bad: u64,
    first_bad: u64,
    in_line: bool,
}

impl Alphabet {
    /// Foreign characters of a sector from which on it counts as foreign.
    const MANY: u64 = 12;
    /// How soon after the edge the first of them must come.
    const SOON: u64 = 64;

    /// The next bytes of a part; they start at `at`.
    pub fn feed(&mut self, at: u64, bytes: &[u8]) {
        if at != self.next {
            self.sector = Tally::default();
            self.before = None;
            self.last = b'\n';
        }
        let (mut here, mut rest) = (at, bytes);
        while !rest.is_empty() {
            let start = here - here % SECTOR_BYTES;
            if self.sector.start != start || self.sector.seen == 0 {
                let in_line = self.last != b'\n';
                self.sector = Tally {
                    start,
                    in_line,
                    ..Tally::default()
                };
            }
            let room = (SECTOR_BYTES - here % SECTOR_BYTES) as usize;
            let (piece, after) = rest.split_at(rest.len().min(room));
            let bad: u64 = piece
                .chunks(128)
                .map(|chunk| u64::from(chunk.iter().map(|b| u8::from(!is_base64(*b))).sum::<u8>()))
                .sum();
            if bad > 0 && self.sector.bad == 0 {
                let first = piece.iter().position(|b| !is_base64(*b)).unwrap_or(0);
                self.sector.first_bad = here + first as u64;
            }
            self.sector.bad += bad;
            self.sector.seen += piece.len() as u64;
            self.last = piece.last().copied().unwrap_or(self.last);
            here += piece.len() as u64;
            rest = after;
            if self.sector.seen == SECTOR_BYTES {
                self.close();
            }
        }
        self.next = here;
    }

    fn close(&mut self) {
        let tally = self.sector;
        let end = tally.start + SECTOR_BYTES;
        let continues = self
            .runs
            .last()
            .is_some_and(|run| run.extent.end() == tally.start);
        if tally.bad >= Alphabet::MANY {
            if continues && let Some(run) = self.runs.last_mut() {
                run.extent = Extent::from_range(run.extent.start, end);
            } else if self.runs.len() < MAX_RANGES {
                let clean = self.before.is_some_and(|before| before.bad == 0);
                let soon = tally.first_bad - tally.start < Alphabet::SOON;
                self.runs.push(Foreign {
                    extent: Extent::from_range(tally.start, end),
                    sharp: clean && soon && tally.in_line,
                    resumes: false,
                });
            }
        } else if continues
            && tally.bad == 0
            && let Some(run) = self.runs.last_mut()
        {
            run.resumes = true;
        }
        self.before = Some(tally);
        self.sector = Tally::default();
    }
}

/// Zero is counted elsewhere.
fn is_base64(b: u8) -> bool {
    (b.wrapping_sub(b'A') < 26)
        | (b.wrapping_sub(b'a') < 26)
        | (b.wrapping_sub(b'/') < 11)
        | (b == b'+')
        | (b == b'=')
        | (b == b'\n')
        | (b == b'\r')
        | (b == b' ')
        | (b == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every way to cut the bytes into two pieces gives the same answer.
    fn in_pieces<T: Default + std::fmt::Debug>(
        bytes: &[u8],
        feed: impl Fn(&mut T, u64, &[u8]),
    ) -> T {
        let run = |cut: usize| {
            let mut one = T::default();
            feed(&mut one, 0, &bytes[..cut]);
            feed(&mut one, cut as u64, &bytes[cut..]);
            one
        };
        let whole = format!("{:?}", run(bytes.len()));
        for cut in (0..bytes.len()).step_by(37) {
            assert_eq!(format!("{:?}", run(cut)), whole, "cut at {cut}");
        }
        run(bytes.len())
    }

    #[test]
    fn zeros_are_found_wherever_the_pieces_end() {
        let mut bytes = vec![b'x'; 3000];
        bytes[100] = 0;
        bytes[512..1024].fill(0);
        bytes[2990..].fill(0);
        let mut zeros: Zeros = in_pieces(&bytes, |z: &mut Zeros, at, b| z.feed(at, b));
        zeros.finish(3000);
        assert_eq!(zeros.runs, [Extent::from_range(512, 1024)]);
        assert_eq!((zeros.total, zeros.first), (1 + 512 + 10, Some(100)));
    }

    #[test]
    fn binary_sectors_are_told_from_text_in_any_language() {
        let text = "Gr\u{fc}\u{df}e \u{65e5}\u{672c} \x1b$B\x1b(B\t\x0c\r\n".repeat(100);
        assert_eq!(count_controls(text.as_bytes()), 0);
        let mut bytes = text.into_bytes();
        for (at, byte) in bytes[1024..1536].iter_mut().enumerate() {
            *byte = (at * 7 % 251) as u8;
        }
        let sectors: Sectors = in_pieces(&bytes, |s: &mut Sectors, at, b| s.feed(at, b));
        assert_eq!(sectors.runs, [Extent::from_range(1024, 1536)]);
    }

    #[test]
    fn line_ends_are_counted() {
        let ends: LineEnds = in_pieces(
            b"a\nb\r\nc\r\r\n\n\r".repeat(50).as_slice(),
            |e: &mut LineEnds, _, b| e.feed(b),
        );
        assert_eq!(ends.bare, 100);
    }

    #[test]
    fn a_foreign_block_in_base64_has_sharp_edges_and_a_footer_has_not() {
        let line = [b'Q'; 76];
        let mut bytes: Vec<u8> = (0..200).flat_map(|_| [&line[..], b"\n"].concat()).collect();
        let clean: Alphabet = in_pieces(&bytes, |a: &mut Alphabet, at, b| a.feed(at, b));
        assert_eq!(clean.runs, []);
        let text = b"Some words, and more of them.\n".repeat(200);
        bytes[4096..8192].copy_from_slice(&text[..4096]);
        let hit: Alphabet = in_pieces(&bytes, |a: &mut Alphabet, at, b| a.feed(at, b));
        let extent = Extent::from_range(4096, 8192);
        assert_eq!(
            hit.runs,
            [Foreign {
                extent,
                sharp: true,
                resumes: true
            }]
        );
        let footer = [&line[..], b"\n", &text[..1800]].concat();
        let footer: Alphabet = in_pieces(&footer, |a: &mut Alphabet, at, b| a.feed(at, b));
        assert!(footer.runs.iter().all(|run| !run.sharp), "{footer:?}");
    }
}
