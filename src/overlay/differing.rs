//! Which of the units that were written really differ.

use std::io;

use super::{
    BATCH_BYTES, DiskRead, Extent, ExtentMap, Report, UNIT_BYTES, Unit, checkpoint, round_down,
    round_up,
};

/// How far apart two candidates may lie and still be read from `before` in one go. Reading the
/// gap is cheaper than a second request.
const BRIDGE_BYTES: u64 = 64 << 10;

/// The units among `candidates` whose bytes differ between `before` and `after`: whole units of
/// [`UNIT_BYTES`], aligned on the disk, cut at the end of `after`. Where `before` is shorter, the
/// missing bytes count as zero. A unit counts where any byte of it is a candidate.
///
/// # Errors
/// Where either disk cannot be read, or the report's owner asked to stop.
pub fn differing(
    before: &dyn DiskRead,
    after: &dyn DiskRead,
    candidates: &ExtentMap,
    report: &dyn Report,
) -> io::Result<ExtentMap> {
    let len = after.len_bytes();
    let units: ExtentMap = candidates
        .iter()
        .filter(|e| !e.is_empty() && e.start < len)
        .map(|e| {
            let end = round_up(e.end(), UNIT_BYTES).unwrap_or(u64::MAX).min(len);
            Extent::from_range(round_down(e.start, UNIT_BYTES), end)
        })
        .collect();
    report.phase(
        "comparing what was written",
        Some(units.total_bytes()),
        Unit::Bytes,
    );
    let (mut found, mut done) = (ExtentMap::new(), 0);
    let mut old = vec![0; BATCH_BYTES as usize];
    let mut new = vec![0; BATCH_BYTES as usize];
    for batch in batches(&units) {
        checkpoint(report)?;
        let (Some(first), Some(last)) = (batch.first(), batch.last()) else {
            continue;
        };
        let span = Extent::from_range(first.start, last.end());
        let old = &mut old[..span.len as usize];
        // A bad sector in a gap that nobody asked for must not stop the comparison.
        if read_or_zero(before, span.start, old).is_err() {
            for e in &batch {
                read_or_zero(before, e.start, &mut old[slice(span, *e)])?;
            }
        }
        for e in &batch {
            let new = &mut new[slice(span, *e)];
            after.read_at(e.start, new)?;
            for unit in e.split(UNIT_BYTES) {
                let at = (unit.start - e.start) as usize;
                let new = &new[at..at + unit.len as usize];
                if old[slice(span, unit)] != *new {
                    found.insert(unit);
                }
            }
            done += e.len;
        }
        report.progress(done);
    }
    Ok(found)
}

fn slice(span: Extent, part: Extent) -> std::ops::Range<usize> {
    (part.start - span.start) as usize..(part.end() - span.start) as usize
}

/// `units` in groups that each span at most [`BATCH_BYTES`], with small gaps only.
fn batches(units: &ExtentMap) -> impl Iterator<Item = Vec<Extent>> {
    let mut pieces = units.iter().flat_map(|e| e.split(BATCH_BYTES)).peekable();
    std::iter::from_fn(move || {
        let first = pieces.next()?;
        let mut batch = vec![first];
        let mut end = first.end();
        while let Some(next) = pieces.next_if(|next| {
            next.start - end <= BRIDGE_BYTES && next.end() - first.start <= BATCH_BYTES
        }) {
            end = next.end();
            batch.push(next);
        }
        Some(batch)
    })
}

/// Fills `buf`, with zeros where the disk has ended.
fn read_or_zero(disk: &dyn DiskRead, offset: u64, buf: &mut [u8]) -> io::Result<()> {
    let there = disk.len_bytes().saturating_sub(offset);
    let split = usize::try_from(there).map_or(buf.len(), |there| there.min(buf.len()));
    let (inside, beyond) = buf.split_at_mut(split);
    beyond.fill(0);
    if inside.is_empty() {
        return Ok(());
    }
    disk.read_at(offset, inside)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Disk, Geometry, MemoryDisk};
    use crate::report::{Quiet, Report};
    use nix::errno::Errno;

    fn set(extents: &[(u64, u64)]) -> ExtentMap {
        extents.iter().map(|&(s, l)| Extent::new(s, l)).collect()
    }

    #[test]
    fn only_candidates_that_differ_count_in_whole_units() {
        let before = MemoryDisk::fixed(vec![1; 3 << 20]);
        let after = MemoryDisk::fixed(vec![1; 3 << 20]);
        for at in [0, 4095, 5 * 4096 + 17, (2 << 20) - 1, (3 << 20) - 1] {
            after.write_at(at, &[2]).unwrap();
        }
        let all = differing(&before, &after, &set(&[(0, 3 << 20)]), &Quiet).unwrap();
        let want = set(&[
            (0, 4096),
            (5 * 4096, 4096),
            ((2 << 20) - 4096, 4096),
            ((3 << 20) - 4096, 4096),
        ]);
        assert_eq!(all, want);
        let some = differing(&before, &after, &set(&[(20_000, 1), (20_481, 9)]), &Quiet).unwrap();
        assert_eq!(some, set(&[(5 * 4096, 4096)]));
    }

    #[test]
    fn what_the_shorter_disk_lacks_counts_as_zero() {
        let before = MemoryDisk::fixed(vec![1; 5000]);
        let mut grown = vec![1; 5000];
        grown.resize(21_000, 0);
        let after = MemoryDisk::fixed(grown);
        let everything = set(&[(0, 1 << 30)]);
        assert!(
            differing(&before, &after, &everything, &Quiet)
                .unwrap()
                .is_empty()
        );
        after.write_at(20_999, &[1]).unwrap();
        after.write_at(5_000, &[1]).unwrap();
        let found = differing(&before, &after, &everything, &Quiet).unwrap();
        assert_eq!(found, set(&[(4096, 4096), (20_480, 520)]));
        let shrunk = differing(&after, &before, &everything, &Quiet).unwrap();
        assert!(
            shrunk.is_empty(),
            "what lies beyond the new end is not part of it"
        );
    }

    #[test]
    fn batches_are_bounded_and_cover_everything() {
        let units: ExtentMap = (0..2000u64)
            .map(|i| Extent::new(i * i % 5000 * 8192, 4096))
            .chain([Extent::new(100 << 20, 5 << 20)])
            .collect();
        let mut covered = ExtentMap::new();
        for batch in batches(&units) {
            let span = batch[batch.len() - 1].end() - batch[0].start;
            assert!(span <= BATCH_BYTES, "{span}");
            batch.into_iter().for_each(|e| covered.insert(e));
        }
        assert_eq!(covered, units);
    }

    struct BadGap(MemoryDisk);
    impl DiskRead for BadGap {
        fn geometry(&self) -> Geometry {
            self.0.geometry()
        }
        fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
            if offset <= 8192 && offset + buf.len() as u64 > 8192 {
                return Err(Errno::EIO.into());
            }
            self.0.read_at(offset, buf)
        }
    }

    #[test]
    fn a_bad_sector_between_two_candidates_does_not_matter() {
        let before = BadGap(MemoryDisk::fixed(vec![1; 64 << 10]));
        let after = MemoryDisk::fixed(vec![2; 64 << 10]);
        let around = set(&[(0, 8192), (12_288, 4096)]);
        assert_eq!(differing(&before, &after, &around, &Quiet).unwrap(), around);
        assert!(differing(&before, &after, &set(&[(8192, 1)]), &Quiet).is_err());
    }

    struct Stop;
    impl Report for Stop {
        fn phase(&self, _: &str, _: Option<u64>, _: Unit) {}
        fn progress(&self, _: u64) {}
        fn notice(&self, _: &str) {}
        fn interrupted(&self) -> bool {
            true
        }
    }

    #[test]
    fn stops_when_asked() {
        let disk = MemoryDisk::fixed(vec![1; 4096]);
        let stopped = differing(&disk, &disk, &set(&[(0, 1)]), &Stop).unwrap_err();
        assert_eq!(stopped.kind(), io::ErrorKind::Interrupted);
    }
}
