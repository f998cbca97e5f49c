//! Bodies that Dovecot keeps packed: gzip, bzip2, zstd, and its own framing of lz4 blocks.
//!
//! Unpacking streams; memory is bounded by the largest window of a format.

use std::io::{self, Read};

use super::finding::{Confidence, Kind};
use super::message::{Draft, Expected, Message, Verdict};

/// How a body is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// RFC 1952, with a CRC.
    Gzip,
    /// With a CRC for each block.
    Bzip2,
    /// RFC 8878.
    Zstd,
    /// `iostream-lz4.h` of Dovecot.
    Lz4,
}

/// `IOSTREAM_LZ4_MAGIC`; the largest unpacked chunk follows, then chunks with their length, both
/// big-endian.
const LZ4_MAGIC: &[u8; 15] = b"Dovecot-LZ4\x0d\x2a\x9b\xc5";
/// Dovecot writes 64 KiB.
const MAX_LZ4_CHUNK_BYTES: u32 = 4 << 20;

impl Packing {
    fn name(self) -> &'static str {
        match self {
            Packing::Gzip => "gzip",
            Packing::Bzip2 => "bzip2",
            Packing::Zstd => "zstd",
            Packing::Lz4 => "lz4",
        }
    }
}

/// Whether a body begins as a packed one.
pub fn packing(head: &[u8]) -> Option<Packing> {
    match head {
        [0x1f, 0x8b, 8, ..] => Some(Packing::Gzip),
        [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, ..] => Some(Packing::Bzip2),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Packing::Zstd),
        head if head.starts_with(LZ4_MAGIC) => Some(Packing::Lz4),
        _ => None,
    }
}

/// Unpacks and judges a body of which `head` was read already.
pub fn judge(packing: Packing, head: &[u8], rest: &mut dyn Read, expected: &Expected) -> Verdict {
    let mut message = Message::at(0, false);
    let failure = feed(packing, head, rest, &mut message).err();
    finish(packing, message, failure, expected)
}

/// Unpacks a body into `message`.
///
/// # Errors
/// What does not unpack.
pub fn feed(
    packing: Packing,
    head: &[u8],
    rest: &mut dyn Read,
    message: &mut Message,
) -> io::Result<()> {
    let packed = head.chain(rest);
    match packing {
        Packing::Gzip => pour(flate2::read::MultiGzDecoder::new(packed), message),
        Packing::Bzip2 => pour(bzip2::read::MultiBzDecoder::new(packed), message),
        Packing::Zstd => {
            let decoder = ruzstd::decoding::StreamingDecoder::new(packed)
                .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e.to_string()))?;
            pour(decoder, message)
        }
        Packing::Lz4 => lz4(packed, message),
    }
}

/// The verdict, with what went wrong in unpacking.
pub fn finish(
    packing: Packing,
    message: Message,
    failure: Option<io::Error>,
    expected: &Expected,
) -> Verdict {
    let len = message.len();
    let Some(failure) = failure else {
        let mut verdict = message.finish(expected);
        verdict
            .drafts
            .iter_mut()
            .for_each(|draft| draft.unpacked = !draft.ranges.is_empty());
        return verdict;
    };
    let kind = match failure.kind() {
        io::ErrorKind::UnexpectedEof => Kind::Truncated,
        _ => Kind::Garbage,
    };
    let name = packing.name();
    let reason = format!("its {name} body does not unpack: {failure}; the first {len} bytes did");
    Verdict {
        readable: message.readable(),
        drafts: vec![Draft::new(kind, Confidence::Certain, reason)],
    }
}

fn pour(mut unpacked: impl Read, message: &mut Message) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match unpacked.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => message.feed(buffer.get(..count).unwrap_or_default()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

fn lz4(mut packed: impl Read, message: &mut Message) -> io::Result<()> {
    let damaged = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_string());
    let mut header = [0; 19];
    packed.read_exact(&mut header)?;
    let [.., a, b, c, d] = header;
    let most = u32::from_be_bytes([a, b, c, d]);
    if !(1..=MAX_LZ4_CHUNK_BYTES).contains(&most) {
        return Err(damaged("the chunk size is out of range"));
    }
    let (mut chunk, mut plain) = (Vec::new(), vec![0; most as usize]);
    loop {
        let mut len = [0; 4];
        match packed.read(&mut len[..1])? {
            0 => return Ok(()),
            _ => packed.read_exact(&mut len[1..])?,
        }
        let len = u32::from_be_bytes(len);
        // What does not pack grows a little.
        if len == 0 || len > most.saturating_add(most / 128 + 64) {
            return Err(damaged("the length of a chunk is out of range"));
        }
        chunk.resize(len as usize, 0);
        packed.read_exact(&mut chunk)?;
        let count = lz4_flex::block::decompress_into(&chunk, &mut plain)
            .map_err(|e| damaged(&e.to_string()))?;
        message.feed(plain.get(..count).unwrap_or_default());
    }
}
