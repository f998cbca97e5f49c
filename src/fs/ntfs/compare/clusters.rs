//! The account of clusters after a resize: who claims them, and what $Bitmap says.

use crate::fs::FsError;
use crate::report::{Report, Unit, checkpoint};

use super::super::record::{Record, kind};
use super::super::volume::file;
use super::Comparison;

/// One bit for each cluster, like ntfsresize; more than this are not handled (64 TiB of 4 KiB).
const MAX_CLUSTERS: u64 = 1 << 34;

/// Which clusters are claimed.
pub struct Clusters {
    words: Vec<u64>,
    count: u64,
}

impl Clusters {
    /// None of `count`.
    ///
    /// # Errors
    /// [`FsError::Corrupt`] for more than are handled.
    pub fn new(count: u64) -> Result<Clusters, FsError> {
        if count > MAX_CLUSTERS {
            let text = format!("{count} clusters: more than are handled");
            return Err(FsError::Corrupt(text));
        }
        let words = vec![0; count.div_ceil(64) as usize];
        Ok(Clusters { words, count })
    }

    /// Claims clusters; the first that was claimed before, where one was. They lie in the volume.
    pub fn claim(&mut self, lcn: u64, len: u64) -> Option<u64> {
        let (mut at, end) = (lcn, lcn.saturating_add(len).min(self.count));
        let mut twice = None;
        while at < end {
            let bits = (64 - at % 64).min(end - at);
            let mask = (u64::MAX >> (64 - bits)) << (at % 64);
            let word = self.words.get_mut((at / 64) as usize)?;
            let both = *word & mask;
            if both != 0 && twice.is_none() {
                twice = Some(at - at % 64 + u64::from(both.trailing_zeros()));
            }
            *word |= mask;
            at += bits;
        }
        twice
    }

    fn has(&self, lcn: u64) -> bool {
        let word = self.words.get((lcn / 64) as usize);
        word.is_some_and(|word| word >> (lcn % 64) & 1 == 1)
    }

    fn byte(&self, index: u64) -> u8 {
        let word = self.words.get((index / 8) as usize).copied();
        (word.unwrap_or(0) >> (index % 8 * 8)) as u8
    }
}

impl Comparison<'_> {
    /// Whether the bitmaps say what the records do.
    pub fn accounts(&mut self, report: &dyn Report) -> Result<(), FsError> {
        report.phase("comparing the bitmaps", None, Unit::Items);
        self.cluster_bits(report)?;
        self.record_bits(report)
    }

    fn cluster_bits(&mut self, report: &dyn Report) -> Result<(), FsError> {
        let clusters = self.after.boot.clusters;
        let mut bits = self.after.bits(file::BITMAP, kind::DATA)?;
        for index in 0..bits.len() / 8 {
            if index % (1 << 20) == 0 {
                checkpoint(report).map_err(std::io::Error::from)?;
            }
            let marked = bits.byte(index)?;
            if index * 8 + 8 <= clusters && marked == self.clusters.byte(index) {
                continue;
            }
            for lcn in index * 8..index * 8 + 8 {
                let is_marked = marked >> (lcn % 8) & 1 == 1;
                // Behind the last cluster all are marked.
                let is_claimed = lcn >= clusters || self.clusters.has(lcn);
                // An old place of the backup boot sector, which no file owns.
                let is_middle = lcn == clusters / 2 && is_marked;
                if is_marked == is_claimed || is_middle {
                    continue;
                }
                let text = if is_claimed {
                    "it is in use, and marked as free"
                } else {
                    "it is marked as in use, and no file has it"
                };
                self.add("bitmap", format!("cluster {lcn}"), text);
                if self.is_full() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// The bits of records are as they were, but for records that extend others.
    fn record_bits(&mut self, report: &dyn Report) -> Result<(), FsError> {
        let mut old = self.before.bits(file::MFT, kind::BITMAP)?;
        let mut new = self.after.bits(file::MFT, kind::BITMAP)?;
        let (old_parts, new_parts) = std::mem::take(&mut self.extensions);
        for number in 0..old.len().max(new.len()) {
            if number % (1 << 20) == 0 {
                checkpoint(report).map_err(std::io::Error::from)?;
            }
            let (was, is) = (old.get(number)?, new.get(number)?);
            let is_part = new_parts.contains(&number);
            let is_right = match (is_part, old_parts.contains(&number)) {
                (true, _) => is,
                (false, true) => !is,
                (false, false) => is == was,
            };
            if !is_right {
                let text = format!("marked {was} before, {is} after");
                self.add("bitmap", format!("record {number}"), text);
            }
            // A record that extends another and that no list names would be lost.
            if !was && is && !is_part && number < self.after.records {
                let record = self.after.record(number)?;
                if record.as_ref().is_some_and(Record::is_used) {
                    let text = "it is in use, and belongs to no file";
                    self.add("file-new", format!("record {number}"), text);
                }
            }
            if self.is_full() {
                break;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_is_claimed_once() {
        let mut clusters = Clusters::new(200).unwrap();
        assert_eq!(clusters.claim(60, 70), None);
        assert_eq!(clusters.claim(130, 70), None);
        assert_eq!(clusters.claim(0, 60), None);
        assert_eq!(clusters.claim(199, 1), Some(199));
        assert_eq!(clusters.claim(63, 2), Some(63));
        assert_eq!(clusters.byte(0), 0xff);
        assert!(Clusters::new(u64::MAX).is_err());
    }
}
