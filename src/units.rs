//! Sizes, sectors and checked arithmetic: the words that everything else is written in.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The unit in which the delta is found, journaled and written, unless the disk has a larger
/// physical sector: a 512e drive rewrites 4096 bytes for each 512 that it is given.
pub const UNIT_BYTES: u64 = 4096;

/// Partitions start and end on multiples of this unless the table forces something else.
pub const ALIGNMENT_BYTES: u64 = 1 << 20;

/// An amount of bytes that prints itself for people: `1.5 GiB`, and the exact figure with `{:#}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        let mut power = 0;
        while power + 1 < NAMES.len() && self.0 >> (10 * (power + 1)) != 0 {
            power += 1;
        }
        let one = 1u64 << (10 * power);
        let text = if self.0.is_multiple_of(one) {
            format!("{} {}", self.0 / one, NAMES[power])
        } else {
            format!("{:.2} {}", self.0 as f64 / one as f64, NAMES[power])
        };
        if f.alternate() && power > 0 {
            f.pad(&format!("{text} ({} bytes)", self.0))
        } else {
            f.pad(&text)
        }
    }
}

/// What was wrong with a size that somebody typed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SizeError {
    /// There is no number at the front.
    #[error("`{0}` is not a size: write a number and a unit, such as 500GiB, 10GB or +20GiB")]
    NotANumber(String),
    /// A bare number: every tool reads it in another unit, so it is never guessed.
    #[error("`{0}` has no unit: write {0}GiB, {0}MiB, {0}B …")]
    NoUnit(String),
    /// A unit that is not known.
    #[error(
        "`{0}` is not a unit: use B, KiB, MiB, GiB, TiB, PiB (powers of 1024) or kB, MB, GB, TB, PB (powers of 1000)"
    )]
    UnknownUnit(String),
    /// More than 2^64 bytes, or not a whole number of bytes.
    #[error("`{0}` is not a whole number of bytes below 16 EiB")]
    OutOfRange(String),
}

impl FromStr for Bytes {
    type Err = SizeError;

    /// Reads `500GiB`, `1.5TiB`, `10GB`, `4096B`. A unit is required.
    fn from_str(text: &str) -> Result<Bytes, SizeError> {
        let text = text.trim();
        let split = text
            .find(|c: char| !(c.is_ascii_digit() || c == '.'))
            .unwrap_or(text.len());
        let (number, unit) = (&text[..split], text[split..].trim());
        if number.is_empty() {
            return Err(SizeError::NotANumber(text.into()));
        }
        if unit.is_empty() {
            return Err(SizeError::NoUnit(text.into()));
        }
        let one: u128 = match unit {
            "B" => 1,
            "KiB" | "K" => 1 << 10,
            "MiB" | "M" => 1 << 20,
            "GiB" | "G" => 1 << 30,
            "TiB" | "T" => 1 << 40,
            "PiB" | "P" => 1 << 50,
            "kB" | "KB" => 1000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            "TB" => 1_000_000_000_000,
            "PB" => 1_000_000_000_000_000,
            _ => return Err(SizeError::UnknownUnit(unit.into())),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let out_of_range = || SizeError::OutOfRange(text.into());
        if whole.is_empty() || fraction.contains('.') || fraction.len() > 12 {
            return Err(SizeError::NotANumber(text.into()));
        }
        let whole: u128 = whole.parse().map_err(|_| out_of_range())?;
        let mut bytes = whole.checked_mul(one).ok_or_else(out_of_range)?;
        if !fraction.is_empty() {
            let parts: u128 = fraction.parse().map_err(|_| out_of_range())?;
            bytes += parts * one / 10u128.pow(fraction.len() as u32);
        }
        u64::try_from(bytes).map(Bytes).map_err(|_| out_of_range())
    }
}

/// `value` rounded down to a multiple of `unit` (which is not zero).
pub const fn round_down(value: u64, unit: u64) -> u64 {
    value - value % unit
}

/// `value` rounded up to a multiple of `unit`, or `None` where that does not fit in 64 bits.
pub const fn round_up(value: u64, unit: u64) -> Option<u64> {
    match value % unit {
        0 => Some(value),
        rest => value.checked_add(unit - rest),
    }
}

/// Text that came from a disk, made safe for a terminal: control characters, escapes and
/// bidirectional overrides are written as `\x1b` or `\u{202e}`.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        let harmless = !c.is_control()
            && c != '\\'
            && !matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
        match c {
            c if harmless => out.push(c),
            '\\' => out.push_str("\\\\"),
            // Above, `\x` would be taken for a byte that is no character.
            c if c.is_ascii() => out.push_str(&format!("\\x{:02x}", c as u32)),
            c => out.push_str(&format!("\\u{{{:x}}}", c as u32)),
        }
    }
    out
}

/// A text of several lines of which the parts are escaped already: the last net before a terminal.
/// Line ends and backslashes stay as they are.
pub fn tame(text: &str) -> String {
    let tamed = |c: char| match c {
        '\n' | '\\' => c.to_string(),
        c => escape(c.encode_utf8(&mut [0; 4])),
    };
    text.chars().map(tamed).collect()
}

/// As [`escape`], for bytes that need not be UTF-8 (labels, file names).
pub fn escape_bytes(bytes: &[u8]) -> String {
    let mut out = String::new();
    for part in bytes.utf8_chunks() {
        out.push_str(&escape(part.valid()));
        for byte in part.invalid() {
            out.push_str(&format!("\\x{byte:02x}"));
        }
    }
    out
}

/// Seconds for people: in the largest unit that still says something.
pub fn duration(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds.div_ceil(60)),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// What [`escape_bytes`] made its text of; `None` where it did not make it.
pub fn unescape_bytes(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        let (plain, escaped) = rest.split_at(at);
        out.extend_from_slice(plain.as_bytes());
        let body = escaped.get(2..)?;
        rest = match escaped.as_bytes().get(1)? {
            b'\\' => {
                out.push(b'\\');
                body
            }
            b'x' => {
                let value = u8::from_str_radix(body.get(..2)?, 16).ok()?;
                out.push(value);
                body.get(2..)?
            }
            b'u' => {
                let (digits, after) = body.strip_prefix('{')?.split_once('}')?;
                let c = char::from_u32(u32::from_str_radix(digits, 16).ok()?)?;
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                after
            }
            _ => return None,
        };
    }
    out.extend_from_slice(rest.as_bytes());
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_unit_and_never_without() {
        assert_eq!("500GiB".parse(), Ok(Bytes(500 << 30)));
        assert_eq!("1.5TiB".parse(), Ok(Bytes(3 << 39)));
        assert_eq!("10GB".parse(), Ok(Bytes(10_000_000_000)));
        assert_eq!("4096 B".parse(), Ok(Bytes(4096)));
        assert_eq!("500".parse::<Bytes>(), Err(SizeError::NoUnit("500".into())));
        assert!(matches!(
            "GiB".parse::<Bytes>(),
            Err(SizeError::NotANumber(_))
        ));
        assert!(matches!("".parse::<Bytes>(), Err(SizeError::NotANumber(_))));
        assert!(matches!(
            "-1GiB".parse::<Bytes>(),
            Err(SizeError::NotANumber(_))
        ));
        assert!(matches!(
            "1.2.3GiB".parse::<Bytes>(),
            Err(SizeError::NotANumber(_))
        ));
        assert!(matches!(
            "5lightyears".parse::<Bytes>(),
            Err(SizeError::UnknownUnit(_))
        ));
        assert!(matches!(
            "99999999PiB".parse::<Bytes>(),
            Err(SizeError::OutOfRange(_))
        ));
    }

    #[test]
    fn sizes_print_exactly_where_they_are_whole() {
        assert_eq!(Bytes(0).to_string(), "0 B");
        assert_eq!(Bytes(4 << 30).to_string(), "4 GiB");
        assert_eq!(Bytes((4 << 30) + (1 << 29)).to_string(), "4.50 GiB");
        assert_eq!(format!("{:#}", Bytes(2048)), "2 KiB (2048 bytes)");
    }

    #[test]
    fn what_a_disk_says_cannot_steer_the_terminal() {
        assert_eq!(escape("a\x1b[2Jb"), "a\\x1b[2Jb");
        assert_eq!(escape("x\u{202e}y"), "x\\u{202e}y");
        assert_eq!(escape_bytes(b"mail\xff\n"), "mail\\xff\\x0a");
        assert_eq!(tame("a\\x1b\n\x1b[2J\u{9b}"), "a\\x1b\n\\x1b[2J\\u{9b}");
    }

    #[test]
    fn rounding() {
        assert_eq!(round_down(4097, 4096), 4096);
        assert_eq!(round_up(4097, 4096), Some(8192));
        assert_eq!(round_up(u64::MAX, 4096), None);
    }
}
