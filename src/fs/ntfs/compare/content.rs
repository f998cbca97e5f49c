//! Two maps in step, and what they lead to.

use crate::disk::read_vec;
use crate::fs::FsError;

use super::super::runs::Run;
use super::Comparison;

const CHUNK_BYTES: u64 = 1 << 20;

/// The rest of a map.
struct Side<'a> {
    runs: std::slice::Iter<'a, Run>,
    rest: Option<Run>,
}

impl<'a> Side<'a> {
    fn new(runs: &'a [Run]) -> Side<'a> {
        let mut runs = runs.iter();
        let rest = runs.next().copied();
        Side { runs, rest }
    }

    fn take(&mut self, run: Run, len: u64) {
        self.rest = if run.len == len {
            self.runs.next().copied()
        } else {
            Some(Run {
                vcn: run.vcn + len,
                len: run.len - len,
                lcn: run.lcn.map(|lcn| lcn + len),
            })
        };
    }
}

impl Comparison<'_> {
    /// Whether two values have the same clusters, holes and content; what differs.
    pub fn content(&self, (old, new): (&[Run], &[Run])) -> Result<Option<String>, FsError> {
        let (mut a, mut b) = (Side::new(old), Side::new(new));
        loop {
            let (old, new) = match (a.rest, b.rest) {
                (None, None) => return Ok(None),
                (Some(old), Some(new)) => (old, new),
                (Some(run), None) | (None, Some(run)) => {
                    let text = format!("one map ends at cluster {} of the value", run.vcn);
                    return Ok(Some(text));
                }
            };
            let len = old.len.min(new.len);
            let found = match (old.lcn, new.lcn) {
                (None, None) => None,
                (Some(from), Some(to)) => self.clusters_differ((from, to), len)?.map(|at| {
                    let byte = old.vcn * self.before.boot.cluster_bytes + at;
                    format!("byte {byte} of the value differs")
                }),
                _ => Some(format!(
                    "cluster {} of the value is a hole on one side",
                    old.vcn
                )),
            };
            if found.is_some() {
                return Ok(found);
            }
            a.take(old, len);
            b.take(new, len);
        }
    }

    /// The first byte in which these clusters differ.
    fn clusters_differ(&self, (old, new): (u64, u64), len: u64) -> Result<Option<u64>, FsError> {
        let from = self.before.bytes_of(old, len);
        let to = self.after.bytes_of(new, len);
        // Both lie inside their volumes, and what changed is known where both have bytes.
        if old == new && !self.changed.intersects(from) {
            return Ok(None);
        }
        let mut done = 0;
        while done < from.len {
            let count = (from.len - done).min(CHUNK_BYTES);
            let a = read_vec(self.before.part, from.start + done, count as usize)?;
            let b = read_vec(self.after.part, to.start + done, count as usize)?;
            if a != b {
                let at = a.iter().zip(&b).position(|(a, b)| a != b).unwrap_or(0);
                return Ok(Some(done + at as u64));
            }
            done += count;
        }
        Ok(None)
    }
}
