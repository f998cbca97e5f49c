//! The boot sector: the shape of the volume, and where the $MFT is.
//!
//! ```text
//! byte  field
//! 0x00  jump to the boot code
//! 0x03  "NTFS    "
//! 0x0b  bytes in a sector
//! 0x0d  sectors in a cluster: a power of two, or from 244 on 2^(256 - n)
//! 0x0e  zeros (fields of FAT)
//! 0x28  sectors of the volume, without the backup of this sector behind it
//! 0x30  cluster of the $MFT
//! 0x38  cluster of the $MFTMirr
//! 0x40  clusters in a record of the $MFT, or 2^-n bytes where negative
//! 0x44  the same for a block of an index
//! 0x48  serial number
//! 0x54  boot code
//! 0x1fe 0x55 0xaa
//! ```

use crate::disk::{DiskRead, read_vec};
use crate::extent::Extent;
use crate::fs::FsError;

use crate::fs::bytes::{slice, u8_at, u16_at, u64_at};

/// Bytes that are looked at, whatever the sector.
pub const BOOT_BYTES: usize = 512;
/// Where the number of sectors is.
pub const SECTORS_AT: usize = 0x28;
/// Where the cluster of the $MFT is.
pub const MFT_AT: usize = 0x30;
/// Where the cluster of the $MFTMirr is.
pub const MIRROR_AT: usize = 0x38;
/// Where the size of records is.
pub const RECORD_AT: usize = 0x40;
/// Where the boot code is.
pub const CODE_AT: usize = 0x54;

const MAX_CLUSTER_BYTES: u64 = 2 << 20;
const MIN_RECORD_BYTES: u64 = 1024;
const MAX_RECORD_BYTES: u64 = 64 << 10;

/// What a boot sector says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boot {
    /// Bytes in a sector.
    pub sector_bytes: u64,
    /// Bytes in a cluster.
    pub cluster_bytes: u64,
    /// Sectors of the volume.
    pub sectors: u64,
    /// Whole clusters of the volume.
    pub clusters: u64,
    /// First cluster of the $MFT.
    pub mft_lcn: u64,
    /// First cluster of the $MFTMirr.
    pub mirror_lcn: u64,
    /// Bytes in a record of the $MFT.
    pub record_bytes: u64,
    /// Bytes in a block of an index.
    pub index_bytes: u64,
    /// The volume's serial number.
    pub serial: u64,
}

impl Boot {
    /// Reads it from the start of `part`.
    ///
    /// # Errors
    /// As [`Boot::parse`].
    pub fn read(part: &dyn DiskRead) -> Result<Option<Boot>, FsError> {
        if part.len_bytes() < BOOT_BYTES as u64 {
            return Ok(None);
        }
        Boot::parse(&read_vec(part, 0, BOOT_BYTES)?)
    }

    /// `None` where it is not NTFS at all.
    ///
    /// # Errors
    /// [`FsError::Corrupt`] where it is, and its numbers do not fit together.
    pub fn parse(raw: &[u8]) -> Result<Option<Boot>, FsError> {
        let sector_bytes = u64::from(u16_at(raw, 0x0b));
        let zero = |at, len| slice(raw, at, len).is_some_and(|f| f.iter().all(|&b| b == 0));
        let is_ntfs = slice(raw, 3, 8) == Some(b"NTFS    ")
            && slice(raw, 0x1fe, 2) == Some(&[0x55, 0xaa])
            && sector_bytes.is_power_of_two()
            && (256..=4096).contains(&sector_bytes)
            && u8_at(raw, 0x0d) != 0
            && zero(0x0e, 7)
            && zero(0x16, 2)
            && zero(0x20, 4);
        if !is_ntfs {
            return Ok(None);
        }
        let wrong = |what: String| FsError::Corrupt(format!("boot sector: {what}"));
        let code = u8_at(raw, 0x0d);
        let per_cluster = match code {
            1..=128 if code.is_power_of_two() => u64::from(code),
            244..=255 => 1 << (256 - u64::from(code)),
            _ => return Err(wrong(format!("{code} sectors in a cluster"))),
        };
        let cluster_bytes = sector_bytes * per_cluster;
        if cluster_bytes > MAX_CLUSTER_BYTES {
            return Err(wrong(format!("clusters of {cluster_bytes} bytes")));
        }
        let sectors = u64_at(raw, SECTORS_AT);
        // One more is behind them, and all must be a number of bytes.
        if sectors < per_cluster || sectors >= i64::MAX as u64 / sector_bytes {
            return Err(wrong(format!("{sectors} sectors")));
        }
        let unit = |at, what: &str| {
            unit_bytes(u8_at(raw, at), cluster_bytes)
                .ok_or_else(|| wrong(format!("{what} of a size that is none: {}", u8_at(raw, at))))
        };
        Ok(Some(Boot {
            sector_bytes,
            cluster_bytes,
            sectors,
            clusters: sectors / per_cluster,
            mft_lcn: u64_at(raw, MFT_AT),
            mirror_lcn: u64_at(raw, MIRROR_AT),
            record_bytes: unit(RECORD_AT, "records")?,
            index_bytes: unit(0x44, "index blocks")?,
            serial: u64_at(raw, 0x48),
        }))
    }

    /// Where the backup of the boot sector can be: ntfsresize and Windows keep one sector free for
    /// it behind the clusters, in the last sector of the partition.
    pub fn backup_area(&self) -> Extent {
        let size = self.cluster_bytes;
        Extent::new(self.clusters * size, 2 * size)
    }

    /// What ntfsresize uses of a partition of `bytes`: all sectors.
    pub fn fit(&self, bytes: u64) -> u64 {
        bytes - bytes % self.sector_bytes
    }

    /// Sectors in a cluster.
    pub fn sectors_per_cluster(&self) -> u64 {
        self.cluster_bytes / self.sector_bytes
    }

    /// Whether a volume can be like this: a record has two sectors at least, and the $MFT and its
    /// copy are in the volume.
    pub fn is_usable(&self) -> bool {
        self.record_bytes >= MIN_RECORD_BYTES
            && self.is_inside(self.mft_lcn)
            && self.is_inside(self.mirror_lcn)
    }

    /// Whether this cluster is one of the volume where a table can begin: not the boot sector's.
    pub fn is_inside(&self, lcn: u64) -> bool {
        (1..self.clusters).contains(&lcn)
    }
}

fn unit_bytes(code: u8, cluster_bytes: u64) -> Option<u64> {
    let bytes = match code as i8 {
        0 => return None,
        count @ 1.. => cluster_bytes.checked_mul(count as u64)?,
        power => 1u64.checked_shl(u32::from(power.unsigned_abs()))?,
    };
    let fits = (256..=MAX_RECORD_BYTES).contains(&bytes) && bytes.is_power_of_two();
    fits.then_some(bytes)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A boot sector of 1000 clusters of 4 KiB.
    pub fn sample() -> Vec<u8> {
        let mut raw = vec![0; BOOT_BYTES];
        raw[..11].copy_from_slice(b"\xeb\x52\x90NTFS    ");
        raw[0x0b..0x0d].copy_from_slice(&512u16.to_le_bytes());
        raw[0x0d] = 8;
        raw[SECTORS_AT..SECTORS_AT + 8].copy_from_slice(&8007u64.to_le_bytes());
        raw[MFT_AT..MFT_AT + 8].copy_from_slice(&4u64.to_le_bytes());
        raw[MIRROR_AT..MIRROR_AT + 8].copy_from_slice(&500u64.to_le_bytes());
        raw[0x40] = 0xf6;
        raw[0x44] = 1;
        raw[0x48..0x50].copy_from_slice(&0x0123_4567_89ab_cdefu64.to_le_bytes());
        raw[0x1fe..].copy_from_slice(&[0x55, 0xaa]);
        raw
    }

    #[test]
    fn shapes_are_read() {
        let boot = Boot::parse(&sample()).unwrap().unwrap();
        assert_eq!((boot.clusters, boot.record_bytes), (1000, 1024));
        assert_eq!(boot.backup_area(), Extent::new(1000 * 4096, 8192));
        assert_eq!(boot.fit(1_000_000), 999_936);
    }

    #[test]
    fn what_is_no_boot_sector_is_none_or_an_error() {
        assert_eq!(Boot::parse(&[]).unwrap(), None);
        for (at, byte, none) in [
            (3, b'X', true),
            (0x1fe, 0, true),
            (0x0d, 0, true),
            (0x10, 1, true),
            (0x0d, 3, false),
            (0x0d, 243, false),
            (0x2f, 0xff, false),
            (0x40, 0, false),
            (0x40, 0x80, false),
            (0x44, 127, false),
        ] {
            let mut raw = sample();
            raw[at] = byte;
            match Boot::parse(&raw) {
                Ok(None) => assert!(none, "{at:#x}"),
                Err(_) => assert!(!none, "{at:#x}"),
                Ok(Some(boot)) => panic!("{at:#x}: {boot:?}"),
            }
        }
    }
}
