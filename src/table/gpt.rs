//! A GPT whose two copies are whole and agree, and what can be asked of it.

use std::fmt;
use std::io;

use super::contract::{Behind, Room, Slot, Table};
use super::copy::{Copy, Shape};
use super::guid::Guid;
use super::mbr::Protective;
use super::partition::Partition;
use super::{EditError, Found, Opinion, SectorWrite, compare, second_opinion};
use crate::disk::DiskRead;
use crate::extent::{Extent, ExtentMap};

/// A healthy GPT. It can only come from [`super::read`], so that the numbers in it have been
/// checked against each other and against the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpt {
    pub(super) shape: Shape,
    pub(super) raw: Raw,
    pub(super) partitions: Vec<Partition>,
    pub(super) notes: Vec<String>,
}

/// The bytes that the table came from: an edit patches these and makes up nothing.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Raw {
    /// Sector 0.
    pub mbr: Vec<u8>,
    pub protective: Protective,
    pub primary: Copy,
    pub backup: Copy,
}

impl fmt::Debug for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?}, {:?}, {:?}",
            self.protective, self.primary, self.backup
        )
    }
}

/// Where the backup lies on a disk of some length, and what that leaves for partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tail {
    pub backup_lba: u64,
    pub entries_lba: u64,
    pub last_usable_lba: u64,
}

impl Gpt {
    /// The disk's GUID.
    pub fn disk_guid(&self) -> Guid {
        self.raw.primary.header.disk_guid
    }

    /// Size of a logical sector: the unit of every LBA here.
    pub fn sector_bytes(&self) -> u64 {
        self.shape.sector_bytes
    }

    /// Length of the disk when the table was read, in whole sectors, in bytes.
    pub fn disk_len_bytes(&self) -> u64 {
        self.shape.sectors * self.shape.sector_bytes
    }

    /// Length of the disk that the table was made for. Shorter than [`Gpt::disk_len_bytes`] where
    /// the disk was enlarged since.
    pub fn table_len_bytes(&self) -> u64 {
        (self.alternate_lba() + 1) * self.shape.sector_bytes
    }

    /// Whether the disk is larger than the table knows: the backup is not at its end.
    pub fn is_disk_enlarged(&self) -> bool {
        self.alternate_lba() < self.shape.last_lba()
    }

    /// The first sector that a partition may use.
    pub fn first_usable_lba(&self) -> u64 {
        self.raw.primary.header.first_usable_lba
    }

    /// The last sector that a partition may use, as the table stands.
    pub fn last_usable_lba(&self) -> u64 {
        self.raw.primary.header.last_usable_lba
    }

    /// Where the backup header stands.
    pub fn alternate_lba(&self) -> u64 {
        self.raw.primary.header.alternate_lba
    }

    /// Number of slots, used or not.
    pub fn entry_count(&self) -> u32 {
        self.raw.primary.header.entry_count
    }

    /// Size of a slot in bytes.
    pub fn entry_bytes(&self) -> u32 {
        self.raw.primary.header.entry_bytes
    }

    /// The partitions in table order, which need not be the order on the disk.
    pub fn partitions(&self) -> &[Partition] {
        &self.partitions
    }

    /// What a person should know, though nothing is wrong.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Partition `number`, as in the device's name.
    pub fn partition(&self, number: u32) -> Option<&Partition> {
        self.partitions.iter().find(|p| p.number == number)
    }

    /// The bytes of partition `number`.
    pub fn extent(&self, number: u32) -> Option<Extent> {
        let part = self.partition(number)?;
        Some(Extent::new(
            part.first_lba * self.shape.sector_bytes,
            part.sectors() * self.shape.sector_bytes,
        ))
    }

    /// The last LBA to which partition `number` could grow on a disk of `disk_len_bytes`: up to
    /// the next partition, or the new end. `None` where there is no such partition, or where the
    /// table does not fit on such a disk.
    pub fn last_free_lba_after(&self, number: u32, disk_len_bytes: u64) -> Option<u64> {
        let part = self.partition(number)?;
        let last_usable = self.tail(disk_len_bytes)?.last_usable_lba;
        let next = self
            .partitions
            .iter()
            .map(|p| p.first_lba)
            .filter(|&first| first > part.last_lba)
            .min();
        Some(next.map_or(last_usable, |first| last_usable.min(first - 1)))
    }

    /// The bytes that the table owns, now and on a disk of `new_disk_len_bytes`: sector 0, both
    /// headers, both arrays, and the backup's new place. The gap before the first partition, where
    /// boot loaders live, is not among them.
    pub fn table_extents(&self, new_disk_len_bytes: u64) -> ExtentMap {
        let sector_bytes = self.shape.sector_bytes;
        let mut map = ExtentMap::new();
        map.insert(Extent::new(0, sector_bytes));
        for copy in [&self.raw.primary, &self.raw.backup] {
            for extent in copy.extents(sector_bytes) {
                map.insert(extent);
            }
        }
        if let Some(tail) = self.tail(new_disk_len_bytes) {
            map.insert(Extent::new(tail.backup_lba * sector_bytes, sector_bytes));
            let entries_bytes = self.raw.backup.entries.len() as u64;
            map.insert(Extent::new(tail.entries_lba * sector_bytes, entries_bytes));
        }
        map
    }

    /// BLAKE3 of every byte of the table: equal only where nothing about it has changed.
    pub fn fingerprint(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.shape.sectors.to_le_bytes());
        for copy in [&self.raw.primary, &self.raw.backup] {
            hasher.update(&copy.header.my_lba.to_le_bytes());
            hasher.update(&copy.sector).update(&copy.entries);
        }
        hasher.update(&self.raw.mbr);
        hasher.finalize().into()
    }

    /// Where the backup goes on a disk of so many bytes. All of the tail moves by one distance, so
    /// that whatever somebody keeps between the last usable sector and the backup keeps its room.
    /// `None` where the disk would be shorter than the table knows.
    pub(super) fn tail(&self, disk_len_bytes: u64) -> Option<Tail> {
        let new_last = (disk_len_bytes / self.shape.sector_bytes).checked_sub(1)?;
        let distance = new_last.checked_sub(self.alternate_lba())?;
        Some(Tail {
            backup_lba: new_last,
            entries_lba: self.raw.backup.header.entries_lba.checked_add(distance)?,
            last_usable_lba: self.last_usable_lba().checked_add(distance)?,
        })
    }
}

impl Table for Gpt {
    fn kind(&self) -> &'static str {
        "GPT"
    }

    fn state(&self) -> String {
        let state = match self.is_disk_enlarged() {
            true => ", made for a smaller disk",
            false => "",
        };
        format!(
            "GPT, both copies good, {} partitions{state}",
            self.partitions.len()
        )
    }

    fn sector_bytes(&self) -> u64 {
        self.shape.sector_bytes
    }

    fn disk_id(&self) -> Option<String> {
        Some(self.disk_guid().to_string())
    }

    fn partition_id(&self, number: u32) -> Option<String> {
        Some(self.partition(number)?.unique_guid.to_string())
    }

    fn notes(&self) -> &[String] {
        &self.notes
    }

    fn partitions(&self) -> Vec<Slot> {
        let slot = |p: &Partition| Slot {
            number: p.number,
            first_lba: p.first_lba,
            last_lba: p.last_lba,
            kind: p.type_name(),
            name: p.name.clone(),
        };
        self.partitions.iter().map(slot).collect()
    }

    fn container(&self, _number: u32) -> Option<&'static str> {
        None
    }

    fn room(&self, number: u32, disk_len_bytes: u64) -> Option<Room> {
        let last_lba = self.last_free_lba_after(number, disk_len_bytes)?;
        let next = self.partitions.iter().find(|p| p.first_lba == last_lba + 1);
        Some(Room {
            last_lba,
            behind: next.map_or(Behind::DiskEnd, |p| Behind::Partition(p.number)),
        })
    }

    fn table_extents(&self, disk_len_bytes: u64) -> ExtentMap {
        Gpt::table_extents(self, disk_len_bytes)
    }

    fn is_written_first(&self, part: Extent) -> bool {
        part.start >= self.first_usable_lba() * self.shape.sector_bytes
    }

    fn is_at_the_end(&self) -> bool {
        true
    }

    fn fingerprint(&self) -> [u8; 32] {
        Gpt::fingerprint(self)
    }

    fn edit(
        &self,
        disk: &dyn DiskRead,
        number: u32,
        new_last_lba: u64,
        new_disk_len_bytes: u64,
    ) -> Result<Vec<SectorWrite>, EditError> {
        Gpt::edit(self, disk, number, new_last_lba, new_disk_len_bytes)
    }

    fn differences(&self, after: &Found, number: u32, new_last_lba: u64) -> Option<Vec<String>> {
        match after {
            Found::Gpt(now) => Some(compare(self, now, number, new_last_lba)),
            _ => None,
        }
    }

    fn second_opinion(&self, disk: &dyn DiskRead) -> io::Result<Opinion> {
        second_opinion(self, disk)
    }
}
