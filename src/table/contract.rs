//! What the rest of the program asks of a partition table, of whatever kind.

use std::fmt::Debug;
use std::io;

use super::{EditError, Found, Opinion, SectorWrite};
use crate::disk::DiskRead;
use crate::extent::{Extent, ExtentMap};

/// A partition that holds data, as every kind of table can tell of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// The number in the partition's device name.
    pub number: u32,
    /// First sector.
    pub first_lba: u64,
    /// Last sector, inclusive.
    pub last_lba: u64,
    /// What it is for, where that is known.
    pub kind: Option<&'static str>,
    /// The name as the disk has it; escape before printing. Empty where there are no names.
    pub name: String,
}

/// What a growing partition would run into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behind {
    /// This partition, or what belongs to it.
    Partition(u32),
    /// The end of the disk, or what the table keeps there.
    DiskEnd,
    /// The largest number that the table can hold.
    Format,
}

/// How far a partition could reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Its last sector, inclusive.
    pub last_lba: u64,
    /// Why not further.
    pub behind: Behind,
}

/// A healthy partition table: one that [`super::read`] has judged, and that can be edited.
pub trait Table: Debug {
    /// `GPT`, `MBR`.
    fn kind(&self) -> &'static str;

    /// The table and its state in some words.
    fn state(&self) -> String;

    /// Size of a logical sector: the unit of every LBA.
    fn sector_bytes(&self) -> u64;

    /// The name of the disk that the table carries, unique as far as such names are. An edit does
    /// not change it.
    fn disk_id(&self) -> Option<String>;

    /// The same of a partition.
    fn partition_id(&self, number: u32) -> Option<String>;

    /// What a person should know, though nothing is wrong.
    fn notes(&self) -> &[String];

    /// The partitions that hold data, in the order of the table: not a partition that only holds
    /// others.
    fn partitions(&self) -> Vec<Slot>;

    /// What partition `number` is, where it is one that only holds others.
    fn container(&self, number: u32) -> Option<&'static str>;

    /// How far partition `number` could reach on a disk of `disk_len_bytes`. `None` where there is
    /// no such partition, or where the table does not fit on such a disk.
    fn room(&self, number: u32, disk_len_bytes: u64) -> Option<Room>;

    /// The bytes that the table owns, now and on a disk of `disk_len_bytes`.
    fn table_extents(&self, disk_len_bytes: u64) -> ExtentMap;

    /// Whether a part of the table is written, and durable, before the other: of a GPT the backup,
    /// so that one copy is whole at every instant; of an MBR sector 0, so that the extended
    /// partition reaches around a logical one at every instant. Undoing goes the other way.
    fn is_written_first(&self, part: Extent) -> bool;

    /// Whether the table keeps something in the last sectors of the disk.
    fn is_at_the_end(&self) -> bool;

    /// BLAKE3 of every byte of the table: equal only where nothing about it has changed.
    fn fingerprint(&self) -> [u8; 32];

    /// The sector writes that let partition `number` end at `new_last_lba` (inclusive) on a disk of
    /// `new_disk_len_bytes`, in the order in which they should be written.
    ///
    /// # Errors
    /// [`EditError`].
    fn edit(
        &self,
        disk: &dyn DiskRead,
        number: u32,
        new_last_lba: u64,
        new_disk_len_bytes: u64,
    ) -> Result<Vec<SectorWrite>, EditError>;

    /// What `after` differs in from that edit. `None` where it is no healthy table of this kind.
    fn differences(&self, after: &Found, number: u32, new_last_lba: u64) -> Option<Vec<String>>;

    /// What somebody else's reader says of this table, which `disk` holds.
    ///
    /// # Errors
    /// The disk's own.
    fn second_opinion(&self, disk: &dyn DiskRead) -> io::Result<Opinion>;

    /// The bytes of partition `number`.
    fn extent(&self, number: u32) -> Option<Extent> {
        let slot = self.partitions().into_iter().find(|p| p.number == number)?;
        let sectors = slot.last_lba.checked_sub(slot.first_lba)?.checked_add(1)?;
        Some(Extent::new(
            slot.first_lba.checked_mul(self.sector_bytes())?,
            sectors.checked_mul(self.sector_bytes())?,
        ))
    }
}
