//! Little-endian fields of untrusted bytes. What lies beyond the end reads as zero.

/// The byte at `at`.
pub fn u8_at(bytes: &[u8], at: usize) -> u8 {
    bytes.get(at).copied().unwrap_or(0)
}

/// The 16-bit number at `at`.
pub fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(field(bytes, at))
}

/// The 32-bit number at `at`.
pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(field(bytes, at))
}

/// The 64-bit number at `at`.
pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(field(bytes, at))
}

/// `len` bytes from `at`, where there are so many.
pub fn slice(bytes: &[u8], at: usize, len: usize) -> Option<&[u8]> {
    bytes.get(at..at.checked_add(len)?)
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    slice(bytes, at, N)
        .and_then(|field| field.try_into().ok())
        .unwrap_or([0; N])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_beyond_the_end_are_zero() {
        let bytes = [1, 2, 3, 4, 5];
        assert_eq!(u8_at(&bytes, 4), 5);
        assert_eq!(u16_at(&bytes, 1), 0x0302);
        assert_eq!(u32_at(&bytes, 1), 0x0504_0302);
        assert_eq!(u32_at(&bytes, 2), 0);
        assert_eq!(u64_at(&bytes, usize::MAX), 0);
        assert_eq!(slice(&bytes, 3, usize::MAX), None);
    }
}
