//! Run lists: which clusters of the volume hold which clusters of a value.
//!
//! Each run is a byte with the lengths of two numbers (low nibble: of the count, high nibble: of
//! the place), the count of clusters, and the distance of the place from the last one, signed. No
//! place at all is a hole. A zero byte ends the list.

use crate::fs::bytes::{slice, u8_at};

/// Clusters in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// First cluster of the value.
    pub vcn: u64,
    /// Number of clusters.
    pub len: u64,
    /// First cluster of the volume; `None` for a hole.
    pub lcn: Option<u64>,
}

impl Run {
    /// The cluster of the value behind it.
    pub fn end(&self) -> u64 {
        self.vcn + self.len
    }
}

/// Decodes the runs of the clusters `first..=last` of a value on a volume of `clusters`, and adds
/// them to `runs`, joined where they touch.
///
/// # Errors
/// Says what does not fit.
pub fn decode(
    pairs: &[u8],
    (first, last): (u64, u64),
    clusters: u64,
    runs: &mut Vec<Run>,
) -> Result<(), &'static str> {
    // A value without clusters ends before it begins.
    let end = last.wrapping_add(1);
    if end < first || end > i64::MAX as u64 {
        return Err("a map that ends before it begins");
    }
    let (mut at, mut vcn, mut place) = (0usize, first, 0i64);
    while vcn < end {
        let head = u8_at(pairs, at);
        let (count, distance) = (usize::from(head & 15), usize::from(head >> 4));
        let (count_at, distance_at) = (at + 1, at + 1 + count);
        let len = number(pairs, count_at, count).ok_or("a map that is cut short")?;
        let len = u64::try_from(len).ok().filter(|&len| len > 0);
        let len = len.ok_or("a run of no length")?;
        if len > end - vcn {
            return Err("a map with more clusters than it says");
        }
        let lcn = if distance == 0 {
            None
        } else {
            let distance_value =
                number(pairs, distance_at, distance).ok_or("a map that is cut short")?;
            place = place
                .checked_add(distance_value)
                .ok_or("a run beyond all numbers")?;
            let lcn = u64::try_from(place).map_err(|_| "a run before the volume")?;
            if lcn.checked_add(len).is_none_or(|end| end > clusters) {
                return Err("a run beyond the end of the volume");
            }
            Some(lcn)
        };
        push(runs, Run { vcn, len, lcn });
        vcn += len;
        at = distance_at + distance;
    }
    match u8_at(pairs, at) {
        0 => Ok(()),
        _ => Err("a map with more clusters than it says"),
    }
}

fn push(runs: &mut Vec<Run>, run: Run) {
    if let Some(last) = runs.last_mut() {
        let joins = match (last.lcn, run.lcn) {
            (Some(before), Some(lcn)) => before + last.len == lcn,
            (None, None) => true,
            _ => false,
        };
        if joins && last.end() == run.vcn {
            last.len += run.len;
            return;
        }
    }
    runs.push(run);
}

/// A signed number of up to eight bytes. One of no bytes is none.
fn number(bytes: &[u8], at: usize, len: usize) -> Option<i64> {
    let field = slice(bytes, at, len).filter(|f| (1..=8).contains(&f.len()))?;
    let negative = field.last().is_some_and(|&top| top & 0x80 != 0);
    let mut whole = if negative { [0xff; 8] } else { [0; 8] };
    whole
        .iter_mut()
        .zip(field)
        .for_each(|(to, &from)| *to = from);
    Some(i64::from_le_bytes(whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(pairs: &[u8], last: u64) -> Result<Vec<Run>, &'static str> {
        let mut runs = Vec::new();
        decode(pairs, (0, last), 1000, &mut runs).map(|()| runs)
    }

    #[test]
    fn runs_holes_and_negative_distances() {
        let pairs = [0x21, 10, 100, 0, 0x01, 5, 0x11, 3, 0xf6, 0x11, 2, 3, 0];
        let runs = decoded(&pairs, 19).unwrap();
        let run = |vcn, len, lcn| Run { vcn, len, lcn };
        assert_eq!(
            runs,
            [
                run(0, 10, Some(100)),
                run(10, 5, None),
                run(15, 3, Some(90)),
                // The two last ones touch.
                run(18, 2, Some(93)),
            ][..3]
                .iter()
                .copied()
                .map(|r| if r.vcn == 15 { run(15, 5, Some(90)) } else { r })
                .collect::<Vec<_>>()
        );
        assert_eq!(decoded(&[0], u64::MAX), Ok(vec![]));
    }

    #[test]
    fn what_is_no_map_is_an_error() {
        for (pairs, last) in [
            (&[][..], 0),
            (&[0x11, 1], 0),
            (&[0x11, 0, 1, 0], 0),
            (&[0x11, 2, 1, 0], 0),
            (&[0x11, 1, 1, 0], 1),
            (&[0x11, 1, 0xff, 0], 0),
            (&[0x21, 1, 0xe8, 0x03, 0], 0),
            (&[0x11, 1, 1, 0x11, 1, 1, 0], 0),
            (&[0x91, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0], 0),
        ] {
            assert!(decoded(pairs, last).is_err(), "{pairs:x?}");
        }
    }
}
