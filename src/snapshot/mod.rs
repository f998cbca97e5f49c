//! The block-level checksum snapshot: a *manifest* of BLAKE3 hashes, one for each chunk of used
//! space, with a root hash over all. It is not a backup: it proves, it does not restore.
//!
//! 1. A manifest covers exactly the extents that it lists. A chunk's hash is that of its covered
//!    bytes in order; where they lie is part of the root hash.
//! 2. Comparing reads every covered byte. A byte that cannot be read is an error, never a pass.
//! 3. A manifest file carries its own root hash and is refused when that does not fit.
//!
//! It does not know file systems: what is used is handed in.

mod format;

use std::collections::BTreeMap;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

pub use format::ManifestError;

use crate::disk::DiskRead;
use crate::extent::{Extent, ExtentMap};
use crate::report::{Report, Unit, checkpoint};
use crate::units::UNIT_BYTES;

/// Bytes in a chunk, unless asked for otherwise.
pub const CHUNK_BYTES: u64 = 1 << 20;

/// A gap up to this is read over: one larger request is cheaper than a seek and a second one.
const READ_OVER_BYTES: u64 = 64 << 10;

/// Threads that read and hash. More gain nothing on two cores, and the disk is the limit.
const THREADS: usize = 4;

/// The hash of a chunk.
pub type Hash = [u8; 32];

/// What the used space of a disk holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Bytes in a chunk; chunk `n` begins at `n * chunk_bytes` of the disk.
    pub chunk_bytes: u64,
    /// Length of the disk.
    pub disk_bytes: u64,
    /// What the disk calls itself, as text for people and for a caller to compare.
    pub identity: String,
    /// The bytes that are covered.
    pub extents: ExtentMap,
    /// Hash of each chunk that has a covered byte, by its number.
    pub chunks: BTreeMap<u64, Hash>,
}

impl Manifest {
    /// Reads and hashes `extents` of `disk`.
    ///
    /// # Errors
    /// The disk's, or `Interrupted` where the report's owner asked to stop.
    pub fn take(
        disk: &dyn DiskRead,
        extents: &ExtentMap,
        chunk_bytes: u64,
        identity: &str,
        report: &dyn Report,
    ) -> io::Result<Manifest> {
        let numbers = chunk_numbers(extents, chunk_bytes);
        let chunks = hash_chunks(disk, extents, &numbers, chunk_bytes, report)?;
        Ok(Manifest {
            chunk_bytes,
            disk_bytes: disk.len_bytes(),
            identity: identity.into(),
            extents: extents.clone(),
            chunks,
        })
    }

    /// The manifest of `after`, a disk that differs from this manifest's one only in `changed`.
    /// Reads only the chunks that `changed` touches or whose used space differs.
    ///
    /// # Errors
    /// As [`Manifest::take`].
    pub fn updated(
        &self,
        after: &dyn DiskRead,
        extents: &ExtentMap,
        changed: &ExtentMap,
        report: &dyn Report,
    ) -> io::Result<Manifest> {
        let mut stale = self
            .extents
            .difference(extents)
            .union(&extents.difference(&self.extents));
        changed.iter().for_each(|e| stale.insert(e));
        let stale: std::collections::HashSet<u64> = chunk_numbers(&stale, self.chunk_bytes)
            .into_iter()
            .collect();
        let (again, same): (Vec<u64>, Vec<u64>) = chunk_numbers(extents, self.chunk_bytes)
            .into_iter()
            .partition(|n| stale.contains(n));
        let mut chunks = hash_chunks(after, extents, &again, self.chunk_bytes, report)?;
        chunks.extend(
            same.into_iter()
                .filter_map(|n| self.chunks.get(&n).map(|&h| (n, h))),
        );
        Ok(Manifest {
            chunk_bytes: self.chunk_bytes,
            disk_bytes: after.len_bytes(),
            identity: self.identity.clone(),
            extents: extents.clone(),
            chunks,
        })
    }

    /// Reads every covered byte of `disk` and returns the covered parts of the chunks that differ,
    /// in order. Empty: all is as it was.
    ///
    /// # Errors
    /// As [`Manifest::take`].
    pub fn compare(&self, disk: &dyn DiskRead, report: &dyn Report) -> io::Result<Vec<Extent>> {
        let numbers: Vec<u64> = self.chunks.keys().copied().collect();
        let now = hash_chunks(disk, &self.extents, &numbers, self.chunk_bytes, report)?;
        let differing = self
            .chunks
            .iter()
            .filter(|(n, hash)| now.get(n) != Some(hash));
        Ok(differing
            .flat_map(|(&n, _)| self.extents.within(chunk_extent(n, self.chunk_bytes)))
            .collect())
    }

    /// What of `extents` it covers.
    pub fn overlap(&self, extents: &ExtentMap) -> ExtentMap {
        let parts = extents.iter().flat_map(|e| self.extents.within(e));
        parts.collect()
    }

    /// `extent`, widened to the chunks that are hashed as one.
    pub fn chunks_of(&self, extent: Extent) -> Extent {
        let end = extent.end().div_ceil(self.chunk_bytes);
        Extent::from_range(
            extent.start / self.chunk_bytes * self.chunk_bytes,
            end.saturating_mul(self.chunk_bytes),
        )
    }

    /// The hash over everything that the manifest says.
    pub fn root(&self) -> Hash {
        *blake3::hash(&format::body(self)).as_bytes()
    }
}

fn chunk_extent(number: u64, chunk_bytes: u64) -> Extent {
    let start = number.saturating_mul(chunk_bytes);
    Extent::from_range(start, start.saturating_add(chunk_bytes))
}

/// Numbers of the chunks that have a covered byte, in order.
fn chunk_numbers(extents: &ExtentMap, chunk_bytes: u64) -> Vec<u64> {
    let mut numbers: Vec<u64> = Vec::new();
    for e in extents.iter() {
        let first = e.start / chunk_bytes;
        let from = numbers.last().map_or(first, |&last| first.max(last + 1));
        numbers.extend(from..e.end().div_ceil(chunk_bytes));
    }
    numbers
}

/// Hashes the covered bytes of each of `numbers`, with several threads. The first error stops all.
fn hash_chunks(
    disk: &dyn DiskRead,
    extents: &ExtentMap,
    numbers: &[u64],
    chunk_bytes: u64,
    report: &dyn Report,
) -> io::Result<BTreeMap<u64, Hash>> {
    let next = AtomicU64::new(0);
    let done_bytes = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let result = Mutex::new((BTreeMap::new(), None::<io::Error>));
    let worker = || {
        let mut buf = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let at = next.fetch_add(1, Ordering::Relaxed) as usize;
            let Some(&number) = numbers.get(at) else {
                break;
            };
            let outcome = checkpoint(report)
                .map_err(io::Error::from)
                .and_then(|()| hash_chunk(disk, extents, number, chunk_bytes, &mut buf));
            let Ok(mut shared) = result.lock() else { break };
            match outcome {
                Ok((hash, bytes)) => {
                    shared.0.insert(number, hash);
                    report.progress(done_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes);
                }
                Err(e) => {
                    stop.store(true, Ordering::Relaxed);
                    shared.1.get_or_insert(e);
                }
            }
        }
    };
    if numbers.len() < 4 {
        worker();
    } else {
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(worker);
            }
        });
    }
    let (chunks, error) = result
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    match error {
        Some(e) => Err(e),
        // A worker that died without a word has left a chunk out: that must not look complete.
        None if chunks.len() != numbers.len() => Err(io::Error::other("a chunk was not hashed")),
        None => Ok(chunks),
    }
}

fn hash_chunk(
    disk: &dyn DiskRead,
    extents: &ExtentMap,
    number: u64,
    chunk_bytes: u64,
    buf: &mut Vec<u8>,
) -> io::Result<(Hash, u64)> {
    let mut hasher = blake3::Hasher::new();
    let mut bytes = 0;
    let runs: Vec<Extent> = extents.within(chunk_extent(number, chunk_bytes)).collect();
    let mut rest = &runs[..];
    while let Some(first) = rest.first() {
        let joined = rest
            .windows(2)
            .take_while(|w| w[1].start - w[0].end() <= READ_OVER_BYTES)
            .count();
        let (together, later) = rest.split_at(joined + 1);
        let span = Extent::from_range(first.start, together.last().unwrap_or(first).end());
        let buf = aligned(buf, span.len as usize);
        disk.read_at(span.start, buf)?;
        for run in together {
            let start = (run.start - span.start) as usize;
            hasher.update(&buf[start..start + run.len as usize]);
            bytes += run.len;
        }
        rest = later;
    }
    Ok((*hasher.finalize().as_bytes(), bytes))
}

/// `len` bytes of `memory` that begin on a page: a direct read need not be copied then.
fn aligned(memory: &mut Vec<u8>, len: usize) -> &mut [u8] {
    let needed = len + UNIT_BYTES as usize;
    if memory.len() < needed {
        memory.resize(needed, 0);
    }
    let start = memory.as_ptr().align_offset(UNIT_BYTES as usize);
    &mut memory[start..start + len]
}

/// Starts the phase that one of the readers above will report its progress in.
pub fn phase(report: &dyn Report, name: &str, extents: &ExtentMap) {
    report.phase(name, Some(extents.total_bytes()), Unit::Bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Disk, MemoryDisk};
    use crate::report::Quiet;

    fn sample() -> (MemoryDisk, ExtentMap) {
        let bytes: Vec<u8> = (0..200_000u32).map(|i| (i * 7 / 3) as u8).collect();
        let extents = [(0, 5000), (5100, 900), (90_000, 50_001)]
            .map(|(s, l)| Extent::new(s, l))
            .into_iter()
            .collect();
        (MemoryDisk::fixed(bytes), extents)
    }

    #[test]
    fn a_flipped_bit_is_found_and_one_outside_is_not() {
        let (disk, extents) = sample();
        let manifest = Manifest::take(&disk, &extents, 4096, "x", &Quiet).unwrap();
        assert_eq!(manifest.compare(&disk, &Quiet).unwrap(), []);
        for (offset, inside) in [
            (0, true),
            (4999, true),
            (5000, false),
            (5100, true),
            (140_000, true),
            (140_001, false),
        ] {
            let mut byte = [0];
            disk.read_at(offset, &mut byte).unwrap();
            disk.write_at(offset, &[byte[0] ^ 1]).unwrap();
            let found = manifest.compare(&disk, &Quiet).unwrap();
            assert_eq!(
                found.iter().any(|e| e.contains(Extent::new(offset, 1))),
                inside,
                "byte {offset}"
            );
            assert_eq!(!found.is_empty(), inside, "byte {offset}");
            disk.write_at(offset, &byte).unwrap();
        }
    }

    #[test]
    fn an_update_equals_a_fresh_manifest() {
        let (disk, extents) = sample();
        let before = Manifest::take(&disk, &extents, 4096, "x", &Quiet).unwrap();
        disk.write_at(100_000, &[0xee; 9000]).unwrap();
        let changed: ExtentMap = [Extent::new(98_304, 12_288)].into_iter().collect();
        let mut after = extents.clone();
        after.remove(Extent::new(0, 4500));
        after.insert(Extent::new(150_000, 10_000));
        let fresh = Manifest::take(&disk, &after, 4096, "x", &Quiet).unwrap();
        assert_eq!(
            before.updated(&disk, &after, &changed, &Quiet).unwrap(),
            fresh
        );
        assert_ne!(
            before
                .updated(&disk, &after, &ExtentMap::new(), &Quiet)
                .unwrap(),
            fresh
        );
    }

    #[test]
    fn an_unreadable_byte_is_an_error() {
        let (disk, _) = sample();
        let beyond = [Extent::new(199_000, 2000)].into_iter().collect();
        assert!(Manifest::take(&disk, &beyond, 4096, "x", &Quiet).is_err());
    }
}
