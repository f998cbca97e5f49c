//! Tables built byte by byte from the specification, by code that shares nothing with the codec.

use super::{Found, Gpt, read};
use crate::disk::{DiskRead, MemoryDisk};

pub const SECTORS: u64 = 4096;

/// A GPT to be built. Public fields: a test changes what it is about.
#[derive(Clone)]
pub struct Table {
    pub sector: usize,
    pub sectors: u64,
    /// Where the backup stands; the last sector unless a test enlarges the disk.
    pub end: u64,
    pub count: u32,
    pub entry_bytes: u32,
    pub header_bytes: u32,
    pub first_usable: u64,
    pub entries: Vec<Entry>,
    /// Written over everything that is not the table, to see that it stays.
    pub filler: u8,
}

#[derive(Clone)]
pub struct Entry {
    pub slot: usize,
    pub first: u64,
    pub last: u64,
    pub attributes: u64,
    pub name: &'static str,
}

impl Table {
    pub fn new() -> Table {
        let entry = |slot, first, last, attributes, name| Entry {
            slot,
            first,
            last,
            attributes,
            name,
        };
        Table {
            sector: 512,
            sectors: SECTORS,
            end: SECTORS - 1,
            count: 128,
            entry_bytes: 128,
            header_bytes: 92,
            first_usable: 64,
            // Slots 1, 3 and 4, of which 4 lies before 3 on the disk.
            entries: vec![
                entry(1, 64, 127, 0x8000_0000_0000_0001, "EFI system"),
                entry(3, 2048, 3071, 4, "späte Post"),
                entry(4, 128, 1023, 0, "swap"),
            ],
            filler: 0,
        }
    }

    pub fn of_4096() -> Table {
        Table {
            sector: 4096,
            ..Table::new()
        }
    }

    /// The same table on a disk of `sectors`, with the backup where it was.
    pub fn on_larger_disk(self, sectors: u64) -> Table {
        Table { sectors, ..self }
    }

    pub fn array_sectors(&self) -> u64 {
        (u64::from(self.count) * u64::from(self.entry_bytes)).div_ceil(self.sector as u64)
    }

    pub fn last_usable(&self) -> u64 {
        self.end - self.array_sectors() - 1
    }

    pub fn at(&self, lba: u64) -> usize {
        lba as usize * self.sector
    }

    fn array(&self) -> Vec<u8> {
        let mut array = vec![0; self.count as usize * self.entry_bytes as usize];
        for e in &self.entries {
            let at = (e.slot - 1) * self.entry_bytes as usize;
            let entry = &mut array[at..at + self.entry_bytes as usize];
            // What reserved bytes hold must stay, too.
            entry[128..].fill(0xC5);
            entry[..16].fill(0xA0 + e.slot as u8);
            entry[16..32].fill(0x10 + e.slot as u8);
            entry[32..40].copy_from_slice(&e.first.to_le_bytes());
            entry[40..48].copy_from_slice(&e.last.to_le_bytes());
            entry[48..56].copy_from_slice(&e.attributes.to_le_bytes());
            for (i, unit) in e.name.encode_utf16().enumerate() {
                entry[56 + 2 * i..58 + 2 * i].copy_from_slice(&unit.to_le_bytes());
            }
        }
        array
    }

    fn header(&self, my_lba: u64, other: u64, entries_lba: u64) -> Vec<u8> {
        let mut h = Vec::new();
        h.extend(b"EFI PART");
        h.extend([0, 0, 1, 0]);
        h.extend(self.header_bytes.to_le_bytes());
        h.extend([0; 8]);
        for lba in [my_lba, other, self.first_usable, self.last_usable()] {
            h.extend(lba.to_le_bytes());
        }
        h.extend([0x77; 16]);
        h.extend(entries_lba.to_le_bytes());
        h.extend(self.count.to_le_bytes());
        h.extend(self.entry_bytes.to_le_bytes());
        h.extend(crc32fast::hash(&self.array()).to_le_bytes());
        h.resize(self.header_bytes as usize, 0x3D);
        let crc = crc32fast::hash(&h);
        h[16..20].copy_from_slice(&crc.to_le_bytes());
        h
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut disk = vec![self.filler; self.sectors as usize * self.sector];
        let array = self.array();
        let backup_entries = self.end - self.array_sectors();
        let mut mbr = vec![self.filler; self.sector];
        mbr[446..510].fill(0);
        mbr[446..462].copy_from_slice(&[0, 0, 2, 0, 0xEE, 255, 255, 255, 1, 0, 0, 0, 0, 0, 0, 0]);
        mbr[458..462].copy_from_slice(&(self.end as u32).to_le_bytes());
        mbr[510..512].copy_from_slice(&[0x55, 0xAA]);
        for (lba, bytes) in [
            (0, mbr),
            (1, self.header(1, self.end, 2)),
            (2, array.clone()),
            (backup_entries, array),
            (self.end, self.header(self.end, 1, backup_entries)),
        ] {
            let at = self.at(lba);
            disk[at..at + bytes.len()].copy_from_slice(&bytes);
        }
        disk
    }

    pub fn disk(&self) -> MemoryDisk {
        self.disk_of(self.bytes())
    }

    pub fn disk_of(&self, bytes: Vec<u8>) -> MemoryDisk {
        MemoryDisk::fixed(bytes).with_sector_bytes(self.sector as u32)
    }
}

/// Both checksums of the header at `lba` made to fit again, so that what lies behind them is
/// reached. Does nothing where the sizes are wild.
pub fn seal(disk: &mut [u8], sector: usize, lba: u64) {
    let at = lba as usize * sector;
    let field = |disk: &[u8], offset: usize, count: usize| {
        let mut value = [0; 8];
        value[..count].copy_from_slice(&disk[at + offset..at + offset + count]);
        u64::from_le_bytes(value)
    };
    let size = field(disk, 12, 4) as usize;
    let entries = (field(disk, 72, 8) as usize).saturating_mul(sector);
    let array = field(disk, 80, 4).saturating_mul(field(disk, 84, 4)) as usize;
    if let Some(array) = disk.get(entries..entries.saturating_add(array)) {
        let crc = crc32fast::hash(array);
        disk[at + 88..at + 92].copy_from_slice(&crc.to_le_bytes());
    }
    disk[at + 16..at + 20].fill(0);
    if let Some(header) = disk.get(at..at.saturating_add(size)) {
        let crc = crc32fast::hash(header);
        disk[at + 16..at + 20].copy_from_slice(&crc.to_le_bytes());
    }
}

pub fn healthy(disk: &dyn DiskRead) -> Gpt {
    match read(disk).unwrap() {
        Found::Gpt(gpt) => *gpt,
        other => panic!("not healthy: {other:#?}"),
    }
}

/// The codes of the problems, sorted and each once; panics where the table is not damaged.
pub fn codes(disk: &dyn DiskRead) -> Vec<String> {
    match read(disk).unwrap() {
        Found::DamagedGpt { problems, .. } => {
            let mut codes: Vec<_> = problems.into_iter().map(|p| p.code).collect();
            codes.sort();
            codes.dedup();
            codes
        }
        other => panic!("not damaged: {other:#?}"),
    }
}

/// Numbers that look random and come from a seed (xorshift64*).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}
