//! Numbers and checksums as XFS has them: big-endian, but for the checksum itself.

use crate::fs::crc::crc32c;

/// The bytes of a structure. What lies beyond their end reads as 0, so that no length of a buffer
/// needs an answer of its own.
#[derive(Clone, Copy)]
pub struct Fields<'a>(pub &'a [u8]);

impl Fields<'_> {
    fn array<const N: usize>(self, at: usize) -> [u8; N] {
        let found = self.0.get(at..).and_then(|rest| rest.first_chunk::<N>());
        found.copied().unwrap_or([0; N])
    }

    /// One byte.
    pub fn u8(self, at: usize) -> u8 {
        self.array::<1>(at)[0]
    }

    /// Two bytes.
    pub fn u16(self, at: usize) -> u16 {
        u16::from_be_bytes(self.array(at))
    }

    /// Four bytes.
    pub fn u32(self, at: usize) -> u32 {
        u32::from_be_bytes(self.array(at))
    }

    /// Eight bytes.
    pub fn u64(self, at: usize) -> u64 {
        u64::from_be_bytes(self.array(at))
    }

    /// Sixteen bytes.
    pub fn uuid(self, at: usize) -> [u8; 16] {
        self.array(at)
    }

    /// Whether the checksum at `at` fits all the bytes.
    pub fn checksum_fits(self, at: usize) -> bool {
        u32::from_le_bytes(self.array(at)) == checksum(self.0, at)
    }
}

/// The checksum of a structure that keeps it at `at`, where it counts as zeros.
pub fn checksum(bytes: &[u8], at: usize) -> u32 {
    let (head, rest) = bytes.split_at(at.min(bytes.len()));
    let tail = rest.get(4..).unwrap_or_default();
    !crc32c(crc32c(crc32c(!0, head), &[0; 4]), tail)
}
