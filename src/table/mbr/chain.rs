//! The chain of EBRs in an extended partition.

use std::collections::BTreeSet;
use std::fmt;
use std::io;

use super::super::copy::Shape;
use super::boot::is_signed;
use super::entry::{Entry, MbrPartition, is_extended};
use super::examine::JUDGE;
use crate::disk::DiskRead;
use crate::report::Refusal;

/// More than the kernel reads.
const MOST: usize = 128;
const FIRST_NUMBER: u32 = 5;

/// One EBR.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Ebr {
    /// Where it stands.
    pub lba: u64,
    /// The sector, as read.
    pub sector: Vec<u8>,
    /// Its logical partition, and the slot that has it. An EBR whose partition was deleted has
    /// none, and does not count.
    data: Option<(usize, MbrPartition)>,
    /// The slot of the link to the next EBR.
    link: Option<usize>,
}

impl Ebr {
    /// The logical partition.
    pub fn partition(&self) -> Option<&MbrPartition> {
        self.data.as_ref().map(|(_, partition)| partition)
    }
}

/// All of them, in the order of the links.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Chain(Vec<Ebr>);

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|e| e.lba))
            .finish()
    }
}

/// Where the entry of a logical partition stands, and the link that leads to it.
pub(super) struct Place {
    /// Index of the EBR.
    pub ebr: usize,
    /// Slot of the entry in it.
    pub slot: usize,
    /// Slot of the link in the EBR before; the first one has none.
    pub link: Option<usize>,
}

impl Chain {
    pub fn ebrs(&self) -> &[Ebr] {
        &self.0
    }

    /// The logical partitions.
    pub fn partitions(&self) -> impl Iterator<Item = MbrPartition> {
        self.0.iter().filter_map(|e| e.partition().cloned())
    }

    /// Where logical partition `number` is told of.
    pub fn place(&self, number: u32) -> Option<Place> {
        let is_it = |e: &Ebr| e.partition().is_some_and(|p| p.number == number);
        let ebr = self.0.iter().position(is_it)?;
        let before = ebr.checked_sub(1).and_then(|n| self.0.get(n));
        Some(Place {
            ebr,
            slot: self.0.get(ebr)?.data.as_ref()?.0,
            link: before.and_then(|e| e.link),
        })
    }

    /// Follows the links, and says what is wrong with them. Whatever the bytes are, it reads each
    /// sector once and not more than [`MOST`].
    ///
    /// # Errors
    /// The disk's.
    pub fn read(
        disk: &dyn DiskRead,
        shape: Shape,
        extended: &MbrPartition,
    ) -> io::Result<(Chain, Vec<Refusal>)> {
        let (mut chain, mut seen) = (Chain::default(), BTreeSet::new());
        let mut next = Some(extended.first_lba);
        let mut number = FIRST_NUMBER;
        while let Some(lba) = next {
            let problem = |code: &str, what: String| Refusal::new(code, what, JUDGE);
            if !(extended.first_lba..=extended.last_lba()).contains(&lba) || lba >= shape.sectors {
                let what = format!(
                    "an EBR should stand at LBA {lba}, which is outside the extended partition \
                     (LBA {} to {})",
                    extended.first_lba,
                    extended.last_lba()
                );
                return Ok((chain, vec![problem("mbr-ebr-outside", what)]));
            }
            if !seen.insert(lba) {
                let what = format!("the chain of EBRs leads back to LBA {lba}");
                return Ok((chain, vec![problem("mbr-ebr-loop", what)]));
            }
            if chain.0.len() == MOST {
                let what = format!("there are more than {MOST} logical partitions");
                return Ok((chain, vec![problem("mbr-too-many", what)]));
            }
            let sector = shape.read(disk, lba, 1)?;
            if !is_signed(&sector) {
                // An extended partition in which nobody has made anything yet.
                if chain.0.is_empty() && sector.get(440..512).is_some_and(is_empty) {
                    return Ok((chain, Vec::new()));
                }
                let what = format!("there is no EBR at LBA {lba}: the signature is missing");
                return Ok((chain, vec![problem("mbr-ebr-signature", what)]));
            }
            let Some((ebr, link)) = parse(lba, sector, number) else {
                let what =
                    format!("the EBR at LBA {lba} tells of more than one partition and one link");
                return Ok((chain, vec![problem("mbr-ebr-entries", what)]));
            };
            number += u32::from(ebr.data.is_some());
            next = link.map(|first| extended.first_lba.saturating_add(first));
            chain.0.push(ebr);
        }
        Ok((chain, Vec::new()))
    }
}

fn is_empty(bytes: &[u8]) -> bool {
    bytes.iter().all(|&b| b == 0)
}

/// An EBR, and what its link counts to the next one. `None` where it has more than it can have.
fn parse(lba: u64, sector: Vec<u8>, number: u32) -> Option<(Ebr, Option<u64>)> {
    let (mut data, mut link, mut next) = (None, None, None);
    for slot in 0..4 {
        let entry = Entry::at(&sector, slot)?;
        if !entry.is_used() {
            continue;
        }
        if is_extended(entry.kind) {
            if link.replace(slot).is_some() {
                return None;
            }
            next = Some(entry.first.into());
            continue;
        }
        let partition = MbrPartition {
            number,
            kind: entry.kind,
            active: entry.flag == 0x80,
            first_lba: lba.checked_add(entry.first.into())?,
            sectors: entry.sectors.into(),
        };
        if data.replace((slot, partition)).is_some() {
            return None;
        }
    }
    let ebr = Ebr {
        lba,
        sector,
        data,
        link,
    };
    Some((ebr, next))
}
