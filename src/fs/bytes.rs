//! Little-endian fields of on-disk structures.
//!
//! A field that ends beyond the slice reads as 0. That is what the format means by a short
//! structure (a 32-byte group descriptor has no upper halves), and it keeps parsers of untrusted
//! bytes from panicking.

/// The byte at `at`.
pub fn u8_at(bytes: &[u8], at: usize) -> u8 {
    bytes.get(at).copied().unwrap_or(0)
}

/// The 16-bit field at `at`.
pub fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array_at(bytes, at))
}

/// The 32-bit field at `at`.
pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

/// The 64-bit field at `at`.
pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}

/// `N` bytes from `at`.
pub fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    slice(bytes, at, N)
        .and_then(|field| field.try_into().ok())
        .unwrap_or([0; N])
}

/// `len` bytes from `at`, where there are so many.
pub fn slice(bytes: &[u8], at: usize, len: usize) -> Option<&[u8]> {
    bytes.get(at..at.checked_add(len)?)
}

/// Writes `field` at `at`; what would lie beyond the end is left out.
pub fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    bytes
        .iter_mut()
        .skip(at)
        .zip(field)
        .for_each(|(to, &from)| *to = from);
}

/// The 64-bit number of a lower half at `low` and an upper half at `high`.
pub fn split_at(bytes: &[u8], low: usize, high: usize) -> u64 {
    u64::from(u32_at(bytes, low)) | u64::from(u32_at(bytes, high)) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_beyond_the_end_are_zero() {
        let bytes = [1, 2, 3, 4, 5];
        assert_eq!(u8_at(&bytes, 4), 5);
        assert_eq!(u16_at(&bytes, 1), 0x0302);
        assert_eq!(u32_at(&bytes, 0), 0x0403_0201);
        assert_eq!(u32_at(&bytes, 2), 0);
        assert_eq!(u64_at(&bytes, usize::MAX), 0);
        assert_eq!(u64_at(&bytes, usize::MAX), 0);
        assert_eq!(u32_at(&bytes, 1), 0x0504_0302);
        assert_eq!(slice(&bytes, 3, usize::MAX), None);
        assert_eq!(split_at(&[1, 0, 0, 0, 2, 0, 0, 0], 0, 4), 0x2_0000_0001);
    }
}
