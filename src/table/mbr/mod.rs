//! An MBR, with the chain of EBRs that its extended partition may hold.
//!
//! Sector 0 has four entries. One of them may be an *extended* partition: at its start stands an
//! EBR, a sector with the entries of the MBR at the same place, of which one is a *logical*
//! partition, and another a *link* to the next EBR. A logical partition counts its first sector
//! from its EBR, a link from the start of the extended partition.
//!
//! 1. An [`Mbr`] exists only where every partition lies on the disk, every logical one and every
//!    EBR in the extended one, nothing overlaps, and the chain comes to an end.
//! 2. An edit changes the number of sectors, and the address by cylinder of the last one, in the
//!    entry of one partition; and in the extended partition and in the link that lead to it, where
//!    it outgrows them. Those are never narrowed: nobody asked, and what lies in them keeps its room.
//!    Everything else stays byte-identical: boot code, disk signature, types, flags, order, and all
//!    that an EBR holds besides.
//! 3. A partition ends within the first 2³² sectors, whatever the disk has: readers add first and
//!    number in 32 bits.

mod boot;
mod chain;
mod edit;
mod entry;
mod examine;

use std::fmt;
use std::io;

pub(super) use boot::{BootSector, Protective, lost_signature};
pub use entry::MbrPartition;

use super::contract::{Behind, Room, Slot, Table};
use super::copy::Shape;
use super::header::le32;
use super::{EditError, Found, Opinion, SectorWrite};
use crate::disk::DiskRead;
use crate::extent::{Extent, ExtentMap};
use crate::report::Refusal;
use chain::Chain;

/// The last sector that an MBR can tell of.
const LAST_LBA: u64 = u32::MAX as u64;
const DISK_SIGNATURE: usize = 440;

/// A healthy MBR. It can only come from [`super::read`], so that the numbers in it have been
/// checked against each other and against the disk.
#[derive(Clone, PartialEq, Eq)]
pub struct Mbr {
    shape: Shape,
    /// Sector 0.
    sector: Vec<u8>,
    /// Primary ones, the extended one among them, and then the logical ones.
    partitions: Vec<MbrPartition>,
    chain: Chain,
    notes: Vec<String>,
}

impl fmt::Debug for Mbr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}, {:?}", self.partitions, self.chain)
    }
}

/// Judges a disk whose sector 0 has these partitions and no GPT.
pub(super) fn judge(
    disk: &dyn DiskRead,
    shape: Shape,
    sector: Vec<u8>,
    primary: Vec<MbrPartition>,
    mut notes: Vec<String>,
) -> io::Result<Found> {
    let mut problems: Vec<Refusal> = examine::two_extended(&primary).into_iter().collect();
    let extended = primary.iter().find(|p| p.is_extended()).cloned();
    let mut partitions = primary;
    let mut chain = Chain::default();
    if let Some(extended) = extended {
        let (found, wrong) = Chain::read(disk, shape, &extended)?;
        partitions.extend(found.partitions());
        problems.extend(wrong);
        chain = found;
    }
    problems.extend(examine::places(&partitions, &chain, shape));
    if !problems.is_empty() {
        return Ok(Found::DamagedMbr {
            problems,
            partitions,
        });
    }
    notes.extend(examine::notes(shape));
    Ok(Found::Mbr(Box::new(Mbr {
        shape,
        sector,
        partitions,
        chain,
        notes,
    })))
}

impl Mbr {
    /// The disk's signature; 0 where it has none.
    pub fn disk_signature(&self) -> u32 {
        le32(&self.sector, DISK_SIGNATURE).unwrap_or(0)
    }

    /// All partitions, also the extended one: the primary ones by slot, then the logical ones.
    pub fn all_partitions(&self) -> &[MbrPartition] {
        &self.partitions
    }

    /// Where the EBRs stand, in the order of the chain.
    pub fn ebr_lbas(&self) -> Vec<u64> {
        self.chain.ebrs().iter().map(|e| e.lba).collect()
    }

    fn partition(&self, number: u32) -> Option<&MbrPartition> {
        self.partitions.iter().find(|p| p.number == number)
    }

    fn extended(&self) -> Option<&MbrPartition> {
        self.partitions.iter().find(|p| p.is_extended())
    }

    /// What begins behind `part`: where, and whose it is.
    fn next_behind(&self, part: &MbrPartition) -> Option<(u64, u32)> {
        let is_logical = self.chain.place(part.number).is_some();
        let partitions = self
            .partitions
            .iter()
            .filter(|p| !(is_logical && p.is_extended()))
            .map(|p| (p.first_lba, p.number));
        let extended = self.extended().map_or(0, |e| e.number);
        let ebrs = self.chain.ebrs().iter();
        let ebrs = ebrs.map(|e| (e.lba, e.partition().map_or(extended, |p| p.number)));
        partitions
            .chain(ebrs)
            .filter(|&(first, _)| first > part.last_lba())
            .min()
    }
}

impl Table for Mbr {
    fn kind(&self) -> &'static str {
        "MBR"
    }

    fn state(&self) -> String {
        let logical = self.chain.partitions().count();
        let primary = self.partitions.len() - logical;
        format!("MBR, {primary} primary and {logical} logical partitions")
    }

    fn sector_bytes(&self) -> u64 {
        self.shape.sector_bytes
    }

    fn disk_id(&self) -> Option<String> {
        match self.disk_signature() {
            0 => None,
            signature => Some(format!("{signature:08x}")),
        }
    }

    /// As Linux makes a name of it. Deleting a partition before it would change the number of a
    /// logical one, and so would not pass for the same.
    fn partition_id(&self, number: u32) -> Option<String> {
        Some(format!("{}-{number:02x}", self.disk_id()?))
    }

    fn notes(&self) -> &[String] {
        &self.notes
    }

    fn partitions(&self) -> Vec<Slot> {
        let data = self.partitions.iter().filter(|p| !p.is_extended());
        data.map(|p| Slot {
            number: p.number,
            first_lba: p.first_lba,
            last_lba: p.last_lba(),
            kind: p.type_name(),
            name: String::new(),
        })
        .collect()
    }

    fn container(&self, number: u32) -> Option<&'static str> {
        let part = self.partition(number)?;
        part.is_extended().then_some("an extended partition")
    }

    fn room(&self, number: u32, disk_len_bytes: u64) -> Option<Room> {
        let part = self.partition(number).filter(|p| !p.is_extended())?;
        let disk_end = (disk_len_bytes / self.shape.sector_bytes).checked_sub(1)?;
        let furthest = self.partitions.iter().map(|p| p.last_lba()).max()?;
        if furthest > disk_end {
            return None;
        }
        let mut room = Room {
            last_lba: disk_end,
            behind: Behind::DiskEnd,
        };
        let next = self.next_behind(part);
        let next = next.map(|(first, number)| (first - 1, Behind::Partition(number)));
        for (last_lba, behind) in next.into_iter().chain([(LAST_LBA, Behind::Format)]) {
            if last_lba < room.last_lba {
                room = Room { last_lba, behind };
            }
        }
        Some(room)
    }

    fn table_extents(&self, _disk_len_bytes: u64) -> ExtentMap {
        let sector_bytes = self.shape.sector_bytes;
        let ebrs = self.chain.ebrs().iter().map(|e| e.lba * sector_bytes);
        [0].into_iter()
            .chain(ebrs)
            .map(|at| Extent::new(at, sector_bytes))
            .collect()
    }

    fn is_written_first(&self, part: Extent) -> bool {
        part.start == 0
    }

    fn is_at_the_end(&self) -> bool {
        false
    }

    fn fingerprint(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher
            .update(b"MBR")
            .update(&self.shape.sectors.to_le_bytes());
        hasher.update(&self.sector);
        for ebr in self.chain.ebrs() {
            hasher.update(&ebr.lba.to_le_bytes()).update(&ebr.sector);
        }
        hasher.finalize().into()
    }

    fn edit(
        &self,
        disk: &dyn DiskRead,
        number: u32,
        new_last_lba: u64,
        new_disk_len_bytes: u64,
    ) -> Result<Vec<SectorWrite>, EditError> {
        edit::edit(self, disk, number, new_last_lba, new_disk_len_bytes)
    }

    fn differences(&self, after: &Found, number: u32, new_last_lba: u64) -> Option<Vec<String>> {
        match after {
            Found::Mbr(now) => Some(edit::compare(self, now, number, new_last_lba)),
            _ => None,
        }
    }

    fn second_opinion(&self, _disk: &dyn DiskRead) -> io::Result<Opinion> {
        Ok(Opinion::NotAble(
            "there is no other reader of an MBR".into(),
        ))
    }
}
