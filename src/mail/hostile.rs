//! Bytes that nobody wrote as mail: no reader panics, loops, or takes memory for them.

use std::io::Read;

use super::finding::Store;
use super::mbox::Mbox;
use super::message::{Expected, Message, Verdict};
use super::place::Index;
use super::{cyrus, dbox, metadata, unpack};

/// A generator of numbers: the same for the same seed.
struct Seed(u64);

impl Seed {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

fn samples() -> Vec<Vec<u8>> {
    let base64 = "QUJD".repeat(19) + "\n";
    let message = format!(
        "Received: x\nFrom: a@example.org\nContent-Type: multipart/mixed;\n boundary=\"b\"\n\n--b\n\
         Content-Type: message/rfc822\n\nSubject: x\nContent-Type: multipart/digest; boundary=c\n\n\
         --c\n\nFrom: b\n\n--c--\n--b\nContent-Transfer-Encoding: base64\n\n{}--b--\n",
        base64.repeat(90)
    );
    let mbox = format!("From a@example.org Thu Jan  2 03:04:05 2020\n{message}\n\n").repeat(3);
    let mut dbox = b"2 M1e C5f000000\n".to_vec();
    for _ in 0..3 {
        dbox.extend(
            format!(
                "\x01\x02N {:8} {:016x}\n{message}\n\x01\x03\nG01\nZ10\nV20\n\n",
                "",
                message.len()
            )
            .bytes(),
        );
    }
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gz, message.as_bytes()).unwrap();
    let mut lz4 = b"Dovecot-LZ4\x0d\x2a\x9b\xc5\0\x01\0\0".to_vec();
    lz4.extend(b"\0\0\0\x08\x70ABCDEFG");
    let mut cyrus = vec![0u8; 128 + 96 * 3];
    for (at, n) in [(8, 12u32), (12, 128), (16, 96), (20, 3)] {
        cyrus[at..at + 4].copy_from_slice(&n.to_be_bytes());
    }
    let mut zstd = vec![0x28, 0xb5, 0x2f, 0xfd, 0x20, 0x05, 0x29, 0, 0];
    zstd.extend(b"hello");
    vec![
        message.into_bytes(),
        mbox.into_bytes(),
        dbox,
        gz.finish().unwrap(),
        lz4,
        cyrus,
        zstd,
    ]
}

/// Nothing can be opened in it.
struct Nothing;

impl super::tree::Tree for Nothing {
    fn each_batch(
        &self,
        _: &dyn crate::report::Report,
        _: &mut dyn FnMut(super::tree::Batch) -> std::io::Result<()>,
        _: &dyn Fn(super::tree::Problem),
    ) -> std::io::Result<()> {
        Ok(())
    }
    fn open<'a>(
        &'a self,
        _: &super::tree::Directory,
        _: &super::tree::Entry,
    ) -> std::io::Result<Option<super::tree::Opened<'a>>> {
        Ok(None)
    }
    fn open_named<'a>(
        &'a self,
        _: &super::tree::Directory,
        _: &[u8],
        _: &[u8],
    ) -> std::io::Result<Option<super::tree::Opened<'a>>> {
        Ok(None)
    }
    fn names(
        &self,
        _: &super::tree::Directory,
        _: &[u8],
        _: &mut dyn FnMut(&[u8]),
    ) -> std::io::Result<()> {
        Ok(())
    }
}

fn read_all(bytes: &[u8], piece: usize) {
    let len = bytes.len() as u64;
    let mut message = Message::at(7, true);
    bytes.chunks(piece).for_each(|piece| message.feed(piece));
    let expected = Expected {
        size: Some(len),
        virtual_size: Some(len),
        ..Expected::default()
    };
    let verdict = message.finish(&expected);
    for range in verdict.drafts.iter().flat_map(|draft| &draft.ranges) {
        assert!(
            range.start >= 7 && range.end() <= 7 + len + 512,
            "{range:?} of {len}"
        );
    }
    let mut give = |_: Verdict| {};
    let mut mbox = Mbox::new(&mut give);
    bytes.chunks(piece).for_each(|piece| mbox.feed(piece));
    mbox.finish();
    let _ = dbox::judge(&mut &bytes[..], Store::Mdbox, len);
    for index in [Index::Main, Index::Log, Index::Cache] {
        let _ = metadata::dovecot(&mut &bytes[..], index, len);
    }
    let _ = metadata::json(&mut &bytes[..], len);
    let _ = metadata::container(&mut &bytes[..]);
    let directory = super::tree::Directory {
        path: Vec::new(),
        place: super::place::Place::Cyrus,
        handle: super::tree::Handle::Inode(0),
    };
    let _ = cyrus::index(&mut &bytes[..], &Nothing, &directory, len);
    let _ = super::maildir::uidlist(&mut &bytes[..], &Nothing, &directory);
    if let Some(packing) = unpack::packing(bytes) {
        let mut rest: Box<dyn Read> = Box::new(&bytes[bytes.len().min(16)..]);
        unpack::judge(
            packing,
            &bytes[..bytes.len().min(16)],
            &mut *rest,
            &expected,
        );
    }
    super::place::sniff(bytes);
}

#[test]
fn bytes_that_are_changed_cut_or_mixed_do_no_harm() {
    let samples = samples();
    let number = std::env::var("HOLDFAST_SEED").map_or(4711, |s| s.parse().unwrap());
    println!("seed {number}");
    let mut seed = Seed(number);
    for round in 0..1500 {
        let mut bytes = samples[round % samples.len()].clone();
        for _ in 0..=seed.below(6) {
            let at = seed.below(bytes.len());
            match seed.below(5) {
                0 => bytes[at] = seed.next() as u8,
                1 => bytes.truncate(at + 1),
                2 => bytes[at] = b"\n\r-:\0"[seed.below(5)],
                3 => {
                    let other = &samples[seed.below(samples.len())];
                    let from = seed.below(other.len());
                    bytes.splice(at..at, other[from..].iter().copied().take(600));
                }
                _ => {
                    let end = bytes.len().min(at + seed.below(5000));
                    bytes[at..end].fill(0);
                }
            }
        }
        let piece = 1 + seed.below(3000);
        read_all(&bytes, piece);
    }
    read_all(&[], 1);
}
