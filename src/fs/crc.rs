//! The checksums of metadata of ext4 and XFS, in the raw form that the formats use: the caller gives the
//! start value, and nothing is inverted at the end.

/// CRC-32C (Castagnoli, reflected polynomial 0x82f63b78), for `metadata_csum`.
///
/// Eight bytes at a time: the bitmaps and inode tables of a large file system are gigabytes.
pub fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
    let mut crc = seed;
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        let [a, b, c, d, e, f, g, h] = *word;
        let low = crc ^ u32::from_le_bytes([a, b, c, d]);
        let [a, b, c, d] = low.to_le_bytes();
        crc = entry(7, a)
            ^ entry(6, b)
            ^ entry(5, c)
            ^ entry(4, d)
            ^ entry(3, e)
            ^ entry(2, f)
            ^ entry(1, g)
            ^ entry(0, h);
    }
    for &byte in rest {
        crc = crc >> 8 ^ entry(0, crc.to_le_bytes()[0] ^ byte);
    }
    crc
}

/// The start value from which [`crc32c`] over `bytes` gives `crc`.
pub fn crc32c_back(crc: u32, bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(crc, |crc, &byte| {
        // No two entries have the same upper byte, so it tells which one went in last.
        let [.., top] = crc.to_le_bytes();
        let index = (0..=u8::MAX)
            .find(|&index| entry(0, index).to_le_bytes()[3] == top)
            .unwrap_or_default();
        (crc ^ entry(0, index)) << 8 | u32::from(index ^ byte)
    })
}

/// CRC-16 (ANSI, reflected polynomial 0xa001), for the descriptors of `uninit_bg`.
pub fn crc16(seed: u16, bytes: &[u8]) -> u16 {
    let mut crc = seed;
    for &byte in bytes {
        crc ^= u16::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 == 0 {
                crc >> 1
            } else {
                crc >> 1 ^ 0xa001
            };
        }
    }
    crc
}

/// CRC-32 with the most significant bit first (polynomial 0x04c11db7), for the transactions of a
/// journal with `journal_checksum` of version 1.
pub fn crc32_be(seed: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(seed, |crc, &byte| {
        let [top, ..] = crc.to_be_bytes();
        crc << 8 ^ BE_TABLE[usize::from(top ^ byte)]
    })
}

static BE_TABLE: [u32; 256] = be_table();

const fn be_table() -> [u32; 256] {
    let mut table = [0u32; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u32) << 24;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc >> 31 == 0 {
                crc << 1
            } else {
                crc << 1 ^ 0x04c1_1db7
            };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
}

fn entry(table: usize, byte: u8) -> u32 {
    TABLES[table][usize::from(byte)]
}

/// `TABLES[n][b]` is the checksum of byte `b` followed by `n` zero bytes.
static TABLES: [[u32; 256]; 8] = tables();

const fn tables() -> [[u32; 256]; 8] {
    let mut tables = [[0u32; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 0 {
                crc >> 1
            } else {
                crc >> 1 ^ 0x82f6_3b78
            };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut table = 1;
    while table < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[table - 1][byte];
            tables[table][byte] = before >> 8 ^ tables[0][(before & 0xff) as usize];
            byte += 1;
        }
        table += 1;
    }
    tables
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_values_of_the_catalogue() {
        assert_eq!(!crc32c(!0, b"123456789"), 0xe306_9283);
        assert_eq!(crc16(0, b"123456789"), 0xbb3d);
        assert_eq!(!crc32_be(!0, b"123456789"), 0xfc89_1918);
        assert_eq!(crc16(!0, b"123456789"), 0x4b37);
    }

    #[test]
    fn pieces_give_what_the_whole_gives() {
        let bytes: Vec<u8> = (0..1000u32).map(|n| (n * 7 + n / 13) as u8).collect();
        let whole = crc32c(5, &bytes);
        for cut in [0, 1, 7, 8, 9, 500, 999, 1000] {
            let (a, b) = bytes.split_at(cut);
            assert_eq!(crc32c(crc32c(5, a), b), whole, "cut at {cut}");
            assert_eq!(crc32c_back(whole, b), crc32c(5, a), "cut at {cut}");
        }
    }
}
