//! Mbox: messages in one file, each behind a `From ` line (RFC 4155 and its older kin).

use memchr::{memchr, memmem, memrchr};

use super::finding::{Confidence, Kind};
use super::message::{Draft, Expected, Message, Verdict};

/// Whether a line separates messages: `From `, a sender, and a date with a time and a year. Text
/// that begins a line with "From " has none; mbox quotes it anyway.
pub fn is_postmark(line: &[u8]) -> bool {
    let Some(rest) = line.strip_prefix(b"From ") else {
        return false;
    };
    let rest = rest.get(..rest.len().min(400)).unwrap_or(rest);
    let words = || {
        rest.split(|b| b.is_ascii_whitespace())
            .filter(|word| !word.is_empty())
    };
    let time = |word: &[u8]| {
        matches!(word, [h, .., b':', a, b] | [h, .., b':', a, b, _]
        if h.is_ascii_digit() && a.is_ascii_digit() && b.is_ascii_digit())
    };
    let year = |word: &[u8]| {
        word.len() == 4
            && word.iter().all(u8::is_ascii_digit)
            && matches!(word.first(), Some(b'1' | b'2'))
    };
    words().count() >= 5 && words().any(time) && words().any(year)
}

/// Splits a file into messages and judges each.
pub struct Mbox<'a> {
    give: &'a mut dyn FnMut(Verdict),
    message: Option<Message>,
    at: u64,
    /// A line that is not complete.
    line: Vec<u8>,
    line_start: bool,
    /// The last three bytes: whether the line before was empty.
    tail: [u8; 3],
    /// The first message has no postmark before it.
    headless: bool,
    /// Messages so far.
    pub messages: u64,
}

/// A postmark is never longer.
const MAX_POSTMARK_BYTES: usize = 1024;

impl<'a> Mbox<'a> {
    /// Verdicts go to `give`, in order.
    pub fn new(give: &'a mut dyn FnMut(Verdict)) -> Mbox<'a> {
        Mbox {
            give,
            message: None,
            at: 0,
            line: Vec::new(),
            line_start: true,
            tail: *b"\n\n\n",
            headless: false,
            messages: 0,
        }
    }

    /// The next bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let used = self.step(rest);
            rest = rest.get(used..).unwrap_or_default();
        }
    }

    fn step(&mut self, bytes: &[u8]) -> usize {
        let begins = |text: &[u8]| {
            let n = text.len().min(5);
            text.get(..n) == b"From ".get(..n)
        };
        if !self.line.is_empty() || (self.line_start && begins(bytes)) {
            let end = memchr(b'\n', bytes);
            let room = MAX_POSTMARK_BYTES.saturating_sub(self.line.len());
            let used = end.map_or(bytes.len(), |at| at + 1).min(room.max(1));
            self.line
                .extend_from_slice(bytes.get(..used).unwrap_or_default());
            let whole = self.line.last() == Some(&b'\n');
            if whole || self.line.len() >= MAX_POSTMARK_BYTES || !begins(&self.line) {
                let line = std::mem::take(&mut self.line);
                let after_empty = matches!(self.tail, [_, b'\n', b'\n'] | [b'\n', b'\r', b'\n']);
                if after_empty && whole && is_postmark(&line) {
                    self.end_message();
                    self.message = Some(Message::at(self.at + line.len() as u64, true).uncounted());
                    self.at += line.len() as u64;
                    self.line_start = true;
                    self.tail = *b"..\n";
                } else {
                    self.text(&line);
                }
            }
            return used;
        }
        let used = match memmem::find(bytes, b"\nFrom ") {
            Some(at) => at + 1,
            // The piece may end within a postmark's first word: that is for the next step.
            None => match memrchr(b'\n', bytes) {
                Some(at)
                    if bytes.len() - at <= 5 && begins(bytes.get(at + 1..).unwrap_or_default()) =>
                {
                    at + 1
                }
                _ => bytes.len(),
            },
        };
        let piece = bytes.get(..used).unwrap_or_default();
        self.text(piece);
        used
    }

    fn text(&mut self, piece: &[u8]) {
        if self.message.is_none() {
            self.headless = true;
            self.message = Some(Message::at(self.at, true).uncounted());
        }
        if let Some(message) = &mut self.message {
            message.feed(piece);
        }
        self.line_start = piece.last() == Some(&b'\n');
        for byte in piece
            .get(piece.len().saturating_sub(3)..)
            .unwrap_or_default()
        {
            self.tail.rotate_left(1);
            self.tail[2] = *byte;
        }
        self.at += piece.len() as u64;
    }

    fn end_message(&mut self) {
        let Some(message) = self.message.take() else {
            return;
        };
        self.messages += 1;
        let mut verdict = message.finish(&Expected::default());
        if std::mem::take(&mut self.headless)
            && verdict
                .drafts
                .iter()
                .all(|draft| draft.kind != Kind::NulRun)
        {
            verdict.drafts.push(Draft::new(
                Kind::GarbageHeader,
                Confidence::Likely,
                "the mailbox does not begin with a `From ` line",
            ));
        }
        (self.give)(verdict);
    }

    /// The end of the file.
    pub fn finish(mut self) -> u64 {
        let line = std::mem::take(&mut self.line);
        if !line.is_empty() {
            self.text(&line);
        }
        self.end_message();
        self.messages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POSTMARK: &str = "From a@example.org Thu Jan  2 03:04:05 2020\n";

    fn split(text: &[u8]) -> Vec<Vec<Draft>> {
        let run = |pieces: usize| {
            let mut found = Vec::new();
            let mut give = |verdict: Verdict| found.push(verdict.drafts);
            let mut mbox = Mbox::new(&mut give);
            text.chunks(pieces).for_each(|piece| mbox.feed(piece));
            mbox.finish();
            found
        };
        let whole = run(text.len().max(1));
        for pieces in [1, 3, 5, 64] {
            assert_eq!(run(pieces), whole, "in pieces of {pieces}");
        }
        whole
    }

    #[test]
    fn postmarks() {
        for good in [
            POSTMARK.trim(),
            "From MAILER-DAEMON Fri Jul  8 12:08:34 2011",
            "From - Sat Jan  3 01:05:34 1996",
            "From x@example.org Sat, 03 Jan 96 01:05:34 +0100 1996",
        ] {
            assert!(is_postmark(good.as_bytes()), "{good}");
        }
        for bad in [
            "From here on, it is text",
            "From",
            ">From a Thu Jan 2 03:04:05 2020",
        ] {
            assert!(!is_postmark(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn messages_are_split_at_postmarks_after_an_empty_line() {
        let one = format!("{POSTMARK}From: a\nSubject: s\n\nbody\n>From x\nFrom here on\n\n");
        assert_eq!(split(one.repeat(3).as_bytes()), vec![vec![]; 3]);
        let quoted = one.replace("body\n", &format!("body\n{POSTMARK}"));
        assert_eq!(split(quoted.as_bytes()).len(), 1, "no empty line before it");
        assert_eq!(
            split(one.replace('\n', "\r\n").repeat(2).as_bytes()).len(),
            2
        );
        assert_eq!(split(b""), Vec::<Vec<Draft>>::new());
    }

    #[test]
    fn a_blank_start_is_found_and_the_rest_still_split() {
        let one = format!("{POSTMARK}From: a\nSubject: s\n\nbody of some length\n\n");
        let mut text = one.repeat(300).into_bytes();
        let whole = split(&text).len();
        text[..4096].fill(0);
        let hit = split(&text);
        assert!(hit.len() < whole && hit.len() > 200);
        assert!(
            hit[0].iter().any(|d| d.kind == Kind::NulRun),
            "{:?}",
            hit[0]
        );
        assert!(hit[1..].iter().all(Vec::is_empty));
    }
}
