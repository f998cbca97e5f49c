//! The boot sector of FAT16 and FAT32, and the gate in it.
//!
//! ```text
//! byte   11  bytes in a sector        gate: 0
//!        13  sectors in a cluster
//!        14  reserved sectors
//!        16  number of FATs
//!        17  entries of the root directory (FAT16)
//!        19  sectors, where they fit in 16 bits
//!        22  sectors of a FAT (FAT16)
//!        32  sectors
//!        36  sectors of a FAT (FAT32)
//!        44  first cluster of the root directory (FAT32)
//!        48  sector of the FSInfo, 50 of the backup of the boot sector (FAT32)
//!   36 / 64  extended boot record: drive, flags, 0x29, serial, label
//!        96  code of the boot loader  gate: "holdfast:" 32 hex digits, NUL
//!       510  0x55 0xaa                gate: 0, so that it passes for no partition table
//! ```
//!
//! With a sector of no bytes the boot sector is refused by the kernel, mtools and `fsck.fat`, the
//! latter before it looks at the backup. The gate is in one sector of 512 bytes, and so is
//! everything that it replaces.

use crate::disk::{DiskRead, read_vec};
use crate::fs::bytes::{put, u16_at, u32_at};
use crate::fs::{FsError, GateState, TransactionId};
use crate::report::Refusal;

/// Bytes of the boot sector that are looked at, whatever a sector has.
pub const BOOT_BYTES: usize = 512;
const SECTOR_AT: usize = 11;
const SIGNATURE_AT: usize = 510;
const NAME_AT: usize = 96;
const NAME_BYTES: usize = 42;
const NAME_PREFIX: &str = "holdfast:";

/// More than this is not kept in memory.
const MOST_CLUSTERS: u64 = 1 << 25;

/// The numbers that say where everything is. Sectors are the volume's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boot {
    /// The sector as it is.
    pub raw: Vec<u8>,
    /// Bytes of a sector.
    pub sector: u64,
    /// Sectors of a cluster.
    pub per_cluster: u64,
    /// Sectors before the first FAT.
    pub reserved: u64,
    /// How many FATs.
    pub fats: u64,
    /// Sectors of a FAT.
    pub fat_sectors: u64,
    /// Sectors of the root directory of FAT16.
    pub root_sectors: u64,
    /// All sectors.
    pub total: u64,
    /// Whether it is FAT32.
    pub wide: bool,
    /// First cluster of the root directory of FAT32.
    pub root_cluster: u32,
}

impl Boot {
    /// Reads the numbers. `None` where it is not FAT16 or FAT32 beyond doubt.
    pub fn parse(raw: &[u8]) -> Option<Boot> {
        let byte = |at: usize| raw.get(at).copied().unwrap_or(0);
        let (sector, per_cluster) = (u64::from(u16_at(raw, SECTOR_AT)), u64::from(byte(13)));
        let jump = byte(0) == 0xe9 || (byte(0) == 0xeb && byte(2) == 0x90);
        let sound = raw.len() == BOOT_BYTES
            && raw.ends_with(&[0x55, 0xaa])
            && jump
            && [512, 1024, 2048, 4096].contains(&sector)
            && per_cluster.is_power_of_two()
            && (byte(21) == 0xf0 || byte(21) >= 0xf8);
        let (reserved, fats) = (u64::from(u16_at(raw, 14)), u64::from(byte(16)));
        if !sound || reserved == 0 || !(1..=2).contains(&fats) {
            return None;
        }
        let wide = u64::from(u16_at(raw, 22)) == 0;
        let fat_sectors = match wide {
            true => u32_at(raw, 36).into(),
            false => u64::from(u16_at(raw, 22)),
        };
        let root_bytes = u64::from(u16_at(raw, 17)) * 32;
        if wide != (root_bytes == 0) || !root_bytes.is_multiple_of(sector) {
            return None;
        }
        // Version 0 of FAT32 is the only one.
        if fat_sectors == 0 || (wide && u64::from(u16_at(raw, 42)) != 0) {
            return None;
        }
        let small = u64::from(u16_at(raw, 19));
        let total = if small == 0 {
            u32_at(raw, 32).into()
        } else {
            small
        };
        let boot = Boot {
            raw: raw.to_vec(),
            sector,
            per_cluster,
            reserved,
            fats,
            fat_sectors,
            root_sectors: root_bytes / sector,
            total,
            wide,
            root_cluster: if wide { u32_at(raw, 44) } else { 0 },
        };
        let data = boot.total.checked_sub(boot.data_sector())?;
        let entries = boot.fat_sectors.checked_mul(sector)? / boot.entry_bytes();
        (data >= boot.per_cluster && entries >= boot.clusters() + 2).then_some(boot)
    }

    /// Reads the boot sector of `part`.
    ///
    /// # Errors
    /// [`FsError::Io`]; [`FsError::Unsupported`] where it is FAT of a kind that is not handled, or
    /// a gate.
    pub fn read(part: &dyn DiskRead) -> Result<Option<Boot>, FsError> {
        if part.len_bytes() < BOOT_BYTES as u64 {
            return Ok(None);
        }
        let raw = read_vec(part, 0, BOOT_BYTES)?;
        let refuse = |code: &str, message: String, hint: &str| {
            Err(FsError::Unsupported(Refusal::new(code, message, hint)))
        };
        if let GateState::Closed(id) = state(&raw) {
            return refuse(
                "fat-gated",
                format!("transaction {id} did not end: the volume is half-way between two sizes"),
                "run `holdfast recover` first",
            );
        }
        let Some(boot) = Boot::parse(&raw) else {
            return Ok(None);
        };
        let clusters = boot.clusters();
        if clusters > MOST_CLUSTERS {
            return refuse(
                "fat-too-many-clusters",
                format!("the volume has {clusters} clusters, and {MOST_CLUSTERS} is the most"),
                "a volume of that size needs larger clusters: copy it to a new one",
            );
        }
        if boot.wide != (clusters >= 65_525) || clusters < 4085 {
            let name = if boot.wide { "FAT32" } else { "FAT12 or FAT16" };
            return refuse(
                "fat-type",
                format!(
                    "it is {name} with {clusters} clusters: FAT12, or what not every system takes \
                     for the same kind of FAT"
                ),
                "copy its files to a new file system",
            );
        }
        Ok(Some(boot))
    }

    /// Bytes of an entry of a FAT.
    pub fn entry_bytes(&self) -> u64 {
        if self.wide { 4 } else { 2 }
    }

    /// The first sector of the root directory of FAT16.
    pub fn root_sector(&self) -> u64 {
        self.reserved + self.fats * self.fat_sectors
    }

    /// The first sector of cluster 2.
    pub fn data_sector(&self) -> u64 {
        self.root_sector() + self.root_sectors
    }

    /// How many clusters.
    pub fn clusters(&self) -> u64 {
        self.total.saturating_sub(self.data_sector()) / self.per_cluster
    }

    /// Bytes of a cluster.
    pub fn cluster_bytes(&self) -> u64 {
        self.per_cluster * self.sector
    }

    /// The first byte of a cluster, which must be 2 at least.
    pub fn place(&self, cluster: u32) -> u64 {
        let before = u64::from(cluster).saturating_sub(2) * self.per_cluster;
        (self.data_sector() + before) * self.sector
    }

    /// Size of the volume.
    pub fn size_bytes(&self) -> u64 {
        self.total * self.sector
    }

    /// Where the FSInfo is.
    pub fn info(&self) -> Option<u64> {
        let at = u64::from(u16_at(&self.raw, 48));
        (self.wide && (1..self.reserved).contains(&at)).then(|| at * self.sector)
    }

    /// Where the backup of the boot sector is.
    pub fn backup(&self) -> Option<u64> {
        let at = u64::from(u16_at(&self.raw, 50));
        (self.wide && (1..self.reserved).contains(&at)).then(|| at * self.sector)
    }

    /// The extended boot record: flags, signature, serial, label.
    pub fn extended(&self) -> &[u8] {
        let at = if self.wide { 64 } else { 36 };
        self.raw.get(at..at + 18).unwrap_or_default()
    }

    /// The same sector with other sizes.
    pub fn resized(&self, total: u64, fat_sectors: u64, root_cluster: u32) -> Option<Boot> {
        let mut raw = self.raw.clone();
        let total32 = u32::try_from(total).ok()?;
        let small = u16::try_from(total)
            .ok()
            .filter(|_| u64::from(u16_at(&self.raw, 19)) != 0);
        put(&mut raw, 19, &small.unwrap_or(0).to_le_bytes());
        let large = if small.is_some() { 0 } else { total32 };
        put(&mut raw, 32, &large.to_le_bytes());
        if self.wide {
            put(
                &mut raw,
                36,
                &u32::try_from(fat_sectors).ok()?.to_le_bytes(),
            );
            put(&mut raw, 44, &root_cluster.to_le_bytes());
        } else {
            put(
                &mut raw,
                22,
                &u16::try_from(fat_sectors).ok()?.to_le_bytes(),
            );
        }
        Boot::parse(&raw)
    }
}

/// The boot sector with the gate closed.
///
/// # Errors
/// [`FsError::Corrupt`] where it is not open.
pub fn close(raw: &[u8], id: TransactionId) -> Result<Vec<u8>, FsError> {
    if state(raw) != GateState::Open {
        return Err(FsError::Corrupt(
            "not a boot sector that a gate can be closed on".into(),
        ));
    }
    let mut name = [0; NAME_BYTES];
    put(&mut name, 0, format!("{NAME_PREFIX}{id}").as_bytes());
    let mut closed = raw.to_vec();
    put(&mut closed, SECTOR_AT, &[0, 0]);
    put(&mut closed, NAME_AT, &name);
    // With these it could pass for the table of a disk.
    put(&mut closed, SIGNATURE_AT, &[0, 0]);
    Ok(closed)
}

/// What a boot sector says.
pub fn state(raw: &[u8]) -> GateState {
    if Boot::parse(raw).is_some() {
        return GateState::Open;
    }
    if raw.len() != BOOT_BYTES || u64::from(u16_at(raw, SECTOR_AT)) != 0 {
        return GateState::Invalid;
    }
    let name = raw.get(NAME_AT..NAME_AT + NAME_BYTES).unwrap_or_default();
    let text = std::str::from_utf8(name).unwrap_or_default();
    let id = text.trim_end_matches('\0').strip_prefix(NAME_PREFIX);
    match id.and_then(|id| id.parse().ok()) {
        Some(id) => GateState::Closed(id),
        None => GateState::Invalid,
    }
}
