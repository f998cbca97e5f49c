//! Two maps in step, and what they lead to.

use crate::disk::DiskRead;
use crate::fs::FsError;

use super::super::map::{Map, Run};
use super::super::walk::Volume;
use super::Comparison;

const CHUNK_BYTES: u64 = 1 << 20;

/// Two buffers of the same length, for reading both states.
#[derive(Default)]
pub struct Buffers {
    old: Vec<u8>,
    new: Vec<u8>,
}

impl Buffers {
    /// Reads `len` bytes of each, at its own offset.
    fn read(
        &mut self,
        (old, old_at): (&dyn DiskRead, u64),
        (new, new_at): (&dyn DiskRead, u64),
        len: usize,
    ) -> Result<(&[u8], &[u8]), FsError> {
        self.old.resize(len, 0);
        self.new.resize(len, 0);
        old.read_at(old_at, &mut self.old)?;
        new.read_at(new_at, &mut self.new)?;
        Ok((&self.old, &self.new))
    }
}

/// The same logical blocks of a file in both states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Both {
    /// First block of the file.
    pub logical: u64,
    /// Its block before, and after.
    pub physical: (u64, u64),
    /// Number of blocks.
    pub len: u64,
    /// Allocated, but reads as zero.
    pub unwritten: bool,
}

/// What comes next in two maps.
pub enum Step {
    /// Both have these blocks.
    Both(Both),
    /// They differ: why.
    Differ(String),
    /// Both are at their end.
    End,
}

/// Walks the maps of one file in both states side by side. How each is cut into extents does not
/// matter: the longer run is cut to the shorter one.
pub struct Pairs<'a> {
    old: Side<'a>,
    new: Side<'a>,
}

struct Side<'a> {
    map: Map<'a>,
    rest: Option<Run>,
    metadata: u64,
    /// The logical block at which the walk ends.
    end: u64,
}

impl Side<'_> {
    fn fill(&mut self) -> Result<Option<Run>, FsError> {
        if self.rest.is_none() {
            self.rest = self.map.next_run(&mut self.metadata)?;
        }
        self.rest = self.rest.filter(|run| run.logical < self.end).map(|run| {
            let len = run.len.min(self.end - run.logical);
            Run { len, ..run }
        });
        Ok(self.rest)
    }

    fn take(&mut self, len: u64) {
        self.rest = self.rest.and_then(|run| {
            let left = run.len.checked_sub(len).filter(|&left| left > 0)?;
            Some(Run {
                logical: run.logical + len,
                physical: run.physical + len,
                len: left,
                ..run
            })
        });
    }
}

impl<'a> Pairs<'a> {
    /// Of two maps.
    pub fn new(old: Map<'a>, new: Map<'a>) -> Pairs<'a> {
        Pairs::up_to(old, new, u64::MAX)
    }

    /// Of two maps, up to the logical block `end`.
    pub fn up_to(old: Map<'a>, new: Map<'a>, end: u64) -> Pairs<'a> {
        let side = |map| Side {
            map,
            rest: None,
            metadata: 0,
            end,
        };
        Pairs {
            old: side(old),
            new: side(new),
        }
    }

    /// The next blocks that both have, or that they differ.
    pub fn step(&mut self) -> Result<Step, FsError> {
        let (old, new) = match (self.old.fill()?, self.new.fill()?) {
            (None, None) => return Ok(Step::End),
            (Some(old), None) => {
                return Ok(Step::Differ(format!(
                    "no block is mapped from logical block {} on",
                    old.logical
                )));
            }
            (None, Some(new)) => {
                return Ok(Step::Differ(format!(
                    "logical block {} is mapped, and was not",
                    new.logical
                )));
            }
            (Some(old), Some(new)) => (old, new),
        };
        if old.logical != new.logical {
            let detail = match old.logical < new.logical {
                true => format!("logical block {} was mapped, and is a hole", old.logical),
                false => format!("logical block {} was a hole, and is mapped", new.logical),
            };
            return Ok(Step::Differ(detail));
        }
        if old.unwritten != new.unwritten {
            let state = |unwritten| if unwritten { "unwritten" } else { "written" };
            return Ok(Step::Differ(format!(
                "logical block {} was {}, and is {}",
                old.logical,
                state(old.unwritten),
                state(new.unwritten)
            )));
        }
        let len = old.len.min(new.len);
        self.old.take(len);
        self.new.take(len);
        Ok(Step::Both(Both {
            logical: old.logical,
            physical: (old.physical, new.physical),
            len,
            unwritten: old.unwritten,
        }))
    }

    /// Blocks of the maps themselves, before and after, as far as they were walked.
    pub fn metadata(&self) -> (u64, u64) {
        (self.old.metadata, self.new.metadata)
    }
}

impl Comparison<'_> {
    /// The byte of the file at which the content of `both` first differs.
    pub fn first_difference(&mut self, both: &Both) -> Result<Option<u64>, FsError> {
        if both.unwritten {
            return Ok(None);
        }
        let (old, new) = (self.before, self.after);
        let start = both.logical.saturating_mul(old.sb.block_bytes);
        let (from, to) = (
            old.bytes_of(both.physical.0, both.len),
            new.bytes_of(both.physical.1, both.len),
        );
        let parts = match from == to {
            true => self.changed.within(from).collect(),
            false => vec![from],
        };
        for piece in parts.into_iter().flat_map(|part| part.split(CHUNK_BYTES)) {
            let offset = piece.start - from.start;
            let (a, b) = self.buffers.read(
                (old.part, piece.start),
                (new.part, to.start + offset),
                piece.len as usize,
            )?;
            if a != b {
                let at = a.iter().zip(b).position(|(a, b)| a != b).unwrap_or(0);
                return Ok(Some(start.saturating_add(offset + at as u64)));
            }
        }
        Ok(None)
    }
}

/// Calls `visit` with each block that two directories have in common, in order: its logical
/// number, its bytes before, its bytes after. `false` ends it. Whether the maps were the same and
/// the end was reached.
pub fn each_block_pair(
    (before, old): (&Volume<'_>, Map<'_>),
    (after, new): (&Volume<'_>, Map<'_>),
    buffers: &mut Buffers,
    mut visit: impl FnMut(u64, &[u8], &[u8]) -> Result<bool, FsError>,
) -> Result<Result<(u64, u64), String>, FsError> {
    let block_bytes = before.sb.block_bytes;
    let mut pairs = Pairs::new(old, new);
    loop {
        let both = match pairs.step()? {
            Step::End => return Ok(Ok(pairs.metadata())),
            Step::Differ(detail) => return Ok(Err(detail)),
            Step::Both(both) => both,
        };
        let per_read = CHUNK_BYTES / block_bytes;
        let mut done = 0;
        while done < both.len {
            let count = per_read.min(both.len - done);
            let (a, b) = buffers.read(
                (
                    before.part,
                    before.bytes_of(both.physical.0 + done, count).start,
                ),
                (
                    after.part,
                    after.bytes_of(both.physical.1 + done, count).start,
                ),
                (count * block_bytes) as usize,
            )?;
            let size = block_bytes as usize;
            for ((a, b), at) in a.chunks_exact(size).zip(b.chunks_exact(size)).zip(0u64..) {
                if !visit(both.logical + done + at, a, b)? {
                    return Ok(Ok(pairs.metadata()));
                }
            }
            done += count;
        }
    }
}
