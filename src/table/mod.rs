//! Partition tables: bytes ↔ model, judged before they are believed, edited in place.
//!
//! [`read`] says what a disk has: a healthy [`Gpt`] or [`Mbr`], a damaged one with everything that
//! is wrong with it, a hybrid, or no table at all. What is healthy is a [`Table`], and callers need
//! not know of which kind. [`Table::edit`] gives one partition another end, and gives the table the
//! end of a disk that has grown.
//!
//! 1. A [`Gpt`] exists only where both copies are whole, agree, and contradict neither
//!    themselves nor the disk. One good copy of two is damage. The head of `mbr/mod.rs` says the
//!    same for an MBR.
//! 2. An edit patches the sectors that were read. What was not asked for stays byte-identical:
//!    order and gaps of the entries, GUIDs, names, attributes, the number and size of entries,
//!    reserved bytes, boot code. The start of a partition never changes.
//! 3. No byte pattern panics, loops for long or asks for much memory; an array of entries is
//!    read only after its size was bounded and its header's checksum has fitted.
//! 4. Nothing here writes. An edit is a list of sectors for the journal to write.
//! 5. The backup is looked for where the primary says *and* in the last sector: either alone can
//!    be stale.
//!
//! It does not mend: a damaged table comes with the command that does.
//!
//! # Codes of the problems
//!
//! | code | what was found |
//! |---|---|
//! | `gpt-primary-missing`, `gpt-backup-missing` | no header where one should be |
//! | `gpt-header-size`, `gpt-header-crc`, `gpt-revision`, `gpt-header-place` | a header that cannot be believed |
//! | `gpt-entry-size`, `gpt-entry-count`, `gpt-entries-place`, `gpt-entries-crc` | entries that cannot be believed |
//! | `gpt-alternate`, `gpt-disk-guid`, `gpt-copies-differ`, `gpt-two-backups` | copies that contradict each other |
//! | `gpt-usable-range`, `gpt-inverted`, `gpt-outside`, `gpt-overlap`, `gpt-duplicate-guid` | partitions that cannot be |
//! | `gpt-disk-too-small` | the table was made for a larger disk |
//! | `gpt-sector-size` | the table was made for another sector size |
//! | `gpt-protective-mbr`, `gpt-and-mbr` | sector 0 does not fit a GPT |
//! | `hybrid-mbr` | a table that is recognised and not edited |
//! | `mbr-outside`, `mbr-overlap`, `mbr-two-extended` | partitions of an MBR that cannot be |
//! | `mbr-ebr-signature`, `mbr-ebr-outside`, `mbr-ebr-loop`, `mbr-ebr-entries`, `mbr-too-many` | a chain of logical partitions that cannot be followed |

mod contract;
mod copy;
mod edit;
mod examine;
mod gpt;
mod guid;
mod header;
mod mbr;
mod opinion;
mod partition;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::io;

pub use contract::{Behind, Room, Slot, Table};
pub use edit::{EditError, Role, SectorWrite, compare};
pub use gpt::Gpt;
pub use guid::{Guid, type_name};
pub use mbr::{Mbr, MbrPartition};
pub use opinion::{Opinion, second_opinion};
pub use partition::Partition;

use crate::disk::DiskRead;
use crate::report::Refusal;
use copy::{Copy, Shape, Side, Sighting, sight};
use examine::{CUT_SHORT, MEND, NEW_PROTECTIVE, NONE_IS_WHOLE, TWO_BACKUPS};
use gpt::Raw;
use mbr::{BootSector, Protective, lost_signature};

/// The partition table of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// No table: empty, or a file system on the bare disk. The notes tell of leftovers.
    None {
        /// What a person should know.
        notes: Vec<String>,
    },
    /// A healthy GPT.
    Gpt(Box<Gpt>),
    /// A GPT that must not be relied on.
    DamagedGpt {
        /// Everything that was found, never empty.
        problems: Vec<Refusal>,
        /// What the best copy says, for people to look at; nothing may be decided by it.
        partitions: Vec<Partition>,
    },
    /// A GPT whose MBR shows some of its partitions as well. Editing one leaves the other stale.
    HybridMbr {
        /// The entries of the MBR.
        partitions: Vec<MbrPartition>,
    },
    /// A healthy MBR.
    Mbr(Box<Mbr>),
    /// An MBR that must not be relied on.
    DamagedMbr {
        /// Everything that was found, never empty.
        problems: Vec<Refusal>,
        /// What the entries say, for people to look at; nothing may be decided by it.
        partitions: Vec<MbrPartition>,
    },
}

impl Found {
    /// The table, where it is one that can be edited.
    pub fn table(&self) -> Option<&dyn Table> {
        match self {
            Found::Gpt(gpt) => Some(&**gpt),
            Found::Mbr(mbr) => Some(&**mbr),
            _ => None,
        }
    }

    /// Where partitions may begin, in sectors: also what a damaged table says, which is enough to
    /// look there, and for nothing else.
    pub fn starts(&self) -> Vec<u64> {
        let mbr = |partitions: &[MbrPartition]| partitions.iter().map(|p| p.first_lba).collect();
        match self {
            Found::None { .. } => Vec::new(),
            Found::Gpt(gpt) => gpt.partitions().iter().map(|p| p.first_lba).collect(),
            Found::DamagedGpt { partitions, .. } => {
                partitions.iter().map(|p| p.first_lba).collect()
            }
            Found::Mbr(found) => mbr(found.all_partitions()),
            Found::DamagedMbr { partitions, .. } | Found::HybridMbr { partitions } => {
                mbr(partitions)
            }
        }
    }

    /// Why this table cannot be edited; empty for a healthy one, and where there is none.
    pub fn refusals(&self) -> Vec<Refusal> {
        match self {
            Found::None { .. } | Found::Gpt(_) | Found::Mbr(_) => Vec::new(),
            Found::DamagedGpt { problems, .. } | Found::DamagedMbr { problems, .. } => {
                problems.clone()
            }
            Found::HybridMbr { partitions } => vec![Refusal::new(
                "hybrid-mbr",
                format!(
                    "the disk has a hybrid MBR with {} entries beside its GPT; a change of the \
                     GPT would leave them stale",
                    partitions.len()
                ),
                "if nothing boots through the MBR any more, replace it by a protective one: \
                 `gdisk DISK`, then x, n, w",
            )],
        }
    }
}

/// Reads the partition table of a whole disk.
///
/// # Errors
/// Only the disk's own, or `InvalidInput` for a sector size that no table can have: "could not
/// look" is not "looked and found nothing".
pub fn read(disk: &dyn DiskRead) -> io::Result<Found> {
    let shape = Shape::of(disk)?;
    if shape.sectors == 0 {
        return Ok(Found::None { notes: Vec::new() });
    }
    let mbr = shape.read(disk, 0, 1)?;
    let boot = BootSector::of(&mbr);
    let primary = sight(disk, shape, Side::Primary, 1)?;
    let last = match shape.last_lba() {
        0 | 1 => Sighting::Absent,
        lba => sight(disk, shape, Side::Backup, lba)?,
    };
    let protective = match (boot, &primary) {
        (BootSector::Hybrid(partitions), _) => return Ok(Found::HybridMbr { partitions }),
        (BootSector::None, Sighting::Absent) => {
            let mut notes = leftover(&last, shape);
            if lost_signature(&mbr, shape.sectors) {
                notes.push(LOST_SIGNATURE.into());
            }
            return Ok(Found::None { notes });
        }
        (BootSector::Partitions(partitions), Sighting::Absent) => {
            return mbr::judge(disk, shape, mbr, partitions, leftover(&last, shape));
        }
        (BootSector::None, _) => Err(Refusal::new(
            "gpt-protective-mbr",
            "there is a GPT header at LBA 1, but no protective MBR in sector 0: the kernel takes \
             the disk for one without partitions",
            NEW_PROTECTIVE,
        )),
        (BootSector::Partitions(_), _) => Err(Refusal::new(
            "gpt-and-mbr",
            "sector 0 has an MBR with partitions, and LBA 1 a GPT header: one of them is a \
             leftover",
            "find out which is in use (`lsblk DISK` shows what the kernel believes) and remove the \
             other: `sgdisk -z` the GPT, or `gdisk DISK`, then x, n, w, the MBR",
        )),
        (BootSector::Protective(protective), _) => Ok(protective),
    };
    Look { disk, shape, mbr }.judge(protective, primary, last)
}

const LOST_SIGNATURE: &str = "sector 0 has entries of an MBR that would fit this disk, but not its \
     signature: nothing takes it for a table (`fdisk -l` and `sfdisk --verify` show nothing either)";

/// A note about a backup GPT in the last sector of a disk that has no primary.
fn leftover(last: &Sighting, shape: Shape) -> Vec<String> {
    if matches!(last, Sighting::Absent) {
        return Vec::new();
    }
    vec![format!(
        "a backup GPT header stands in the last sector (LBA {}) of a disk that has no GPT: a \
         leftover, from which some firmware and tools would restore the old table",
        shape.last_lba()
    )]
}

struct Look<'a> {
    disk: &'a dyn DiskRead,
    shape: Shape,
    mbr: Vec<u8>,
}

impl Look<'_> {
    /// Puts together what both copies and sector 0 say. `last` is what the last sector holds.
    fn judge(
        self,
        protective: Result<Protective, Refusal>,
        primary: Sighting,
        last: Sighting,
    ) -> io::Result<Found> {
        let (protective, mut problems) = match protective {
            Ok(protective) => (Some(protective), Vec::new()),
            Err(problem) => (None, vec![problem]),
        };
        problems.extend(protective.and_then(examine::protective));
        let backup = self.backup(&primary, protective, last, &mut problems)?;
        let (primary, backup) = match (primary, backup) {
            (Sighting::Good(primary), Sighting::Good(backup)) => (primary, backup),
            (primary, backup) => return self.damaged(primary, backup, problems),
        };
        problems.extend(examine::copies(&primary, &backup));
        problems.extend(examine::usable_range(&primary, self.shape));
        problems.extend(examine::usable_range(&backup, self.shape));
        let (partitions, wrong) = examine::partitions(&primary);
        problems.extend(wrong);
        match protective {
            Some(protective) if problems.is_empty() => Ok(Found::Gpt(Box::new(Gpt {
                shape: self.shape,
                notes: examine::notes(&primary, protective, self.shape),
                raw: Raw {
                    mbr: self.mbr,
                    protective,
                    primary,
                    backup,
                },
                partitions,
            }))),
            _ => Ok(Found::DamagedGpt {
                problems,
                partitions,
            }),
        }
    }

    /// The backup: in the last sector, or on an enlarged disk where it was before. `last` is what
    /// the last sector holds.
    fn backup(
        &self,
        primary: &Sighting,
        protective: Option<Protective>,
        last: Sighting,
        problems: &mut Vec<Refusal>,
    ) -> io::Result<Sighting> {
        let end = self.shape.last_lba();
        if let Sighting::Good(Copy { header, .. }) = primary
            && header.alternate_lba > end
        {
            let message = format!(
                "the table was made for a disk that ends at LBA {}, this one ends at LBA {end}",
                header.alternate_lba
            );
            problems.push(Refusal::new("gpt-disk-too-small", message, CUT_SHORT));
        }
        let there = self.earlier_backup(primary, protective)?;
        let (there, last) = match (there, last) {
            (Sighting::Absent, last) => return Ok(last),
            (there, Sighting::Absent) => return Ok(there),
            both => both,
        };
        problems.push(Refusal::new(
            "gpt-two-backups",
            format!(
                "a backup GPT header stands where the disk once ended, and another in the last \
                 sector, LBA {end}: one of them is a leftover"
            ),
            TWO_BACKUPS,
        ));
        Ok(match there {
            Sighting::Good(_) => there,
            _ => last,
        })
    }

    /// What stands where the disk ended when the table was written. A good primary says where
    /// that was; of a bad one it is a guess, as is the protective MBR's size, and a guess counts
    /// only where it hits.
    fn earlier_backup(
        &self,
        primary: &Sighting,
        protective: Option<Protective>,
    ) -> io::Result<Sighting> {
        let named = match primary {
            Sighting::Good(Copy { header, .. }) | Sighting::Bad { header, .. } => {
                Some(header.alternate_lba)
            }
            Sighting::Absent => None,
        };
        let guess = protective.map(|p| u64::from(p.sectors));
        for lba in named.into_iter().chain(guess) {
            if lba <= 1 || lba >= self.shape.last_lba() {
                continue;
            }
            let there = sight(self.disk, self.shape, Side::Backup, lba)?;
            match (primary, &there) {
                (Sighting::Good(_), _) | (_, Sighting::Good(_)) => return Ok(there),
                _ => {}
            }
        }
        Ok(Sighting::Absent)
    }

    /// The report on a table of which at least one copy is not whole.
    fn damaged(
        &self,
        primary: Sighting,
        backup: Sighting,
        mut problems: Vec<Refusal>,
    ) -> io::Result<Found> {
        let last_lba = self.shape.last_lba();
        let has = |code| problems.iter().any(|p: &Refusal| p.code == code);
        let hint = match (&primary, &backup) {
            _ if has("gpt-disk-too-small") => CUT_SHORT.into(),
            _ if has("gpt-two-backups") => TWO_BACKUPS.into(),
            (Sighting::Good(_), _) => MEND.into(),
            (_, Sighting::Good(copy)) if copy.header.my_lba == last_lba => MEND.into(),
            (_, Sighting::Good(copy)) => {
                examine::mend_before_growth((copy.header.my_lba + 1) * self.shape.sector_bytes)
            }
            _ => NONE_IS_WHOLE.to_string(),
        };
        let mut partitions = Vec::new();
        let mut any_header = false;
        for (side, sighting) in [(Side::Primary, primary), (Side::Backup, backup)] {
            match sighting {
                Sighting::Good(copy) => {
                    any_header = true;
                    let (found, wrong) = examine::partitions(&copy);
                    problems.extend(examine::usable_range(&copy, self.shape));
                    problems.extend(wrong);
                    partitions = found;
                }
                Sighting::Bad { problem, .. } => {
                    any_header = true;
                    let own = Some(problem.hint).filter(|hint| !hint.is_empty());
                    problems.push(Refusal {
                        hint: own.unwrap_or_else(|| hint.clone()),
                        ..problem
                    });
                }
                Sighting::Absent => {
                    let place = match side {
                        Side::Primary => "at LBA 1",
                        Side::Backup => "where the disk ends, nor where the primary has it",
                    };
                    let message = format!("there is no {side} GPT header {place}");
                    problems.push(Refusal::new(
                        &format!("gpt-{side}-missing"),
                        message,
                        hint.clone(),
                    ));
                }
            }
        }
        if !any_header && let Some(problem) = self.other_sector_size()? {
            problems = vec![problem];
        }
        Ok(Found::DamagedGpt {
            problems,
            partitions,
        })
    }

    /// A GPT that shows itself when the disk is read with the other common sector size: an image
    /// of a 4096-byte disk that is attached as a 512-byte one, or the reverse.
    fn other_sector_size(&self) -> io::Result<Option<Refusal>> {
        let other = if self.shape.sector_bytes == 512 {
            4096
        } else {
            512
        };
        let shape = Shape {
            sector_bytes: other,
            sectors: self.disk.len_bytes() / other,
        };
        if matches!(sight(self.disk, shape, Side::Primary, 1)?, Sighting::Absent) {
            return Ok(None);
        }
        Ok(Some(Refusal::new(
            "gpt-sector-size",
            format!(
                "the table was made for sectors of {other} bytes, the disk is read with {}",
                self.shape.sector_bytes
            ),
            format!("attach the image with `losetup --sector-size {other}` and use that device"),
        )))
    }
}
