//! Extents `[start, start + len)` in bytes, and ordered sets of them.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// A run of bytes on a disk. `start + len` never overflows: [`Extent::new`] sees to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Extent {
    /// First byte.
    pub start: u64,
    /// Number of bytes.
    pub len: u64,
}

impl Extent {
    /// The extent of `len` bytes from `start`.
    ///
    /// # Panics
    /// Where `start + len` does not fit in 64 bits: values from a disk are to be checked first.
    pub fn new(start: u64, len: u64) -> Extent {
        assert!(
            start.checked_add(len).is_some(),
            "an extent ends beyond 2^64"
        );
        Extent { start, len }
    }

    /// The extent from `start` up to `end`.
    ///
    /// # Panics
    /// Where `end` lies before `start`.
    pub fn from_range(start: u64, end: u64) -> Extent {
        assert!(end >= start, "an extent ends before it starts");
        Extent {
            start,
            len: end - start,
        }
    }

    /// The byte after the last one.
    pub fn end(&self) -> u64 {
        self.start + self.len
    }

    /// Whether it holds no byte at all.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether `other` lies wholly inside.
    pub fn contains(&self, other: Extent) -> bool {
        self.start <= other.start && other.end() <= self.end()
    }

    /// What both have in common, where that is anything.
    pub fn intersection(&self, other: Extent) -> Option<Extent> {
        let (start, end) = (self.start.max(other.start), self.end().min(other.end()));
        (start < end).then(|| Extent::from_range(start, end))
    }

    /// The extent cut into pieces that end on multiples of `step`, in order.
    pub fn split(self, step: u64) -> impl Iterator<Item = Extent> {
        let mut at = self.start;
        std::iter::from_fn(move || {
            if at >= self.end() {
                return None;
            }
            let next = (at - at % step).saturating_add(step).min(self.end());
            let piece = Extent::from_range(at, next);
            at = next;
            Some(piece)
        })
    }
}

impl fmt::Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bytes {}..{}", self.start, self.end())
    }
}

/// An ordered set of bytes, kept as disjoint extents that do not touch each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExtentMap {
    ends: BTreeMap<u64, u64>,
}

impl ExtentMap {
    /// The empty set.
    pub fn new() -> ExtentMap {
        ExtentMap::default()
    }

    /// Adds every byte of `extent`.
    pub fn insert(&mut self, extent: Extent) {
        if extent.is_empty() {
            return;
        }
        let (mut start, mut end) = (extent.start, extent.end());
        if let Some((&s, &e)) = self.ends.range(..=start).next_back()
            && e >= start
        {
            if e >= end {
                return;
            }
            start = s;
        }
        while let Some((&s, &e)) = self.ends.range(start..=end).next() {
            self.ends.remove(&s);
            end = end.max(e);
        }
        self.ends.insert(start, end);
    }

    /// Takes every byte of `extent` out.
    pub fn remove(&mut self, extent: Extent) {
        if extent.is_empty() {
            return;
        }
        if let Some((&s, &e)) = self.ends.range(..extent.start).next_back()
            && e > extent.start
        {
            self.ends.insert(s, extent.start);
            if e > extent.end() {
                self.ends.insert(extent.end(), e);
            }
        }
        while let Some((&s, &e)) = self.ends.range(extent.start..extent.end()).next() {
            self.ends.remove(&s);
            if e > extent.end() {
                self.ends.insert(extent.end(), e);
            }
        }
    }

    /// The extents, in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Extent> + '_ {
        self.ends.iter().map(|(&s, &e)| Extent::from_range(s, e))
    }

    /// The parts of the set inside `window`, in order.
    pub fn within(&self, window: Extent) -> impl Iterator<Item = Extent> + '_ {
        let first = self.ends.range(..window.start).next_back().map(|(&s, _)| s);
        self.ends
            .range(first.unwrap_or(window.start)..window.end().max(first.unwrap_or(window.start)))
            .filter_map(move |(&s, &e)| Extent::from_range(s, e).intersection(window))
    }

    /// The parts of `window` that are not in the set, in order.
    pub fn gaps(&self, window: Extent) -> Vec<Extent> {
        let mut gaps = Vec::new();
        let mut at = window.start;
        for e in self.within(window) {
            if e.start > at {
                gaps.push(Extent::from_range(at, e.start));
            }
            at = e.end();
        }
        if at < window.end() {
            gaps.push(Extent::from_range(at, window.end()));
        }
        gaps
    }

    /// Whether every byte of `extent` is in the set.
    pub fn contains(&self, extent: Extent) -> bool {
        extent.is_empty()
            || self
                .ends
                .range(..=extent.start)
                .next_back()
                .is_some_and(|(_, &e)| e >= extent.end())
    }

    /// Whether any byte of `extent` is in the set.
    pub fn intersects(&self, extent: Extent) -> bool {
        self.within(extent).next().is_some()
    }

    /// Every byte of either.
    pub fn union(&self, other: &ExtentMap) -> ExtentMap {
        let mut out = self.clone();
        other.iter().for_each(|e| out.insert(e));
        out
    }

    /// The bytes of this set that are not in `other`.
    pub fn difference(&self, other: &ExtentMap) -> ExtentMap {
        let mut out = ExtentMap::new();
        for e in self.iter() {
            other.gaps(e).into_iter().for_each(|gap| out.insert(gap));
        }
        out
    }

    /// The number of bytes in the set.
    pub fn total_bytes(&self) -> u64 {
        self.iter().map(|e| e.len).sum()
    }

    /// The number of separate extents.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The byte after the last one, or 0 for the empty set.
    pub fn end(&self) -> u64 {
        self.ends.values().next_back().copied().unwrap_or(0)
    }
}

impl FromIterator<Extent> for ExtentMap {
    fn from_iter<I: IntoIterator<Item = Extent>>(extents: I) -> ExtentMap {
        let mut map = ExtentMap::new();
        extents.into_iter().for_each(|e| map.insert(e));
        map
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A set of bytes below 64 as a bit mask: the model that the map is held against.
    fn mask(map: &ExtentMap) -> u64 {
        map.iter()
            .flat_map(|e| e.start..e.end())
            .fold(0, |m, b| m | 1 << b)
    }

    fn bits(start: u64, len: u64) -> u64 {
        (start..start + len).fold(0, |m, b| m | 1 << b)
    }

    #[test]
    fn agrees_with_a_bit_mask_over_random_edits() {
        let mut seed = 0x9e37_79b9_7f4a_7c15u64;
        let mut next = |below: u64| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed % below
        };
        for round in 0..2000 {
            let (mut map, mut model) = (ExtentMap::new(), 0u64);
            for _ in 0..12 {
                let start = next(60);
                let len = next(61 - start);
                if next(3) == 0 {
                    map.remove(Extent::new(start, len));
                    model &= !bits(start, len);
                } else {
                    map.insert(Extent::new(start, len));
                    model |= bits(start, len);
                }
                assert_eq!(mask(&map), model, "round {round}");
            }
            let window = Extent::new(next(30), next(30));
            let inside: ExtentMap = map.within(window).collect();
            let want = model & bits(window.start, window.len);
            assert_eq!(mask(&inside), want, "round {round}");
            let gaps: ExtentMap = map.gaps(window).into_iter().collect();
            assert_eq!(mask(&gaps), bits(window.start, window.len) & !want);
            assert_eq!(map.contains(window), want == bits(window.start, window.len));
            assert_eq!(map.intersects(window), want != 0);
            assert_eq!(map.total_bytes(), u64::from(model.count_ones()));
            let runs: Vec<Extent> = map.iter().collect();
            assert!(
                runs.windows(2).all(|w| w[0].end() < w[1].start),
                "touching extents are one"
            );
        }
    }

    #[test]
    fn union_and_difference() {
        let a: ExtentMap = [Extent::new(0, 10), Extent::new(20, 10)]
            .into_iter()
            .collect();
        let b: ExtentMap = [Extent::new(5, 20)].into_iter().collect();
        assert_eq!(mask(&a.union(&b)), bits(0, 30));
        assert_eq!(mask(&a.difference(&b)), bits(0, 5) | bits(25, 5));
    }

    #[test]
    fn split_ends_on_multiples() {
        let pieces: Vec<Extent> = Extent::from_range(3, 21).split(8).collect();
        assert_eq!(
            pieces,
            [
                Extent::from_range(3, 8),
                Extent::from_range(8, 16),
                Extent::from_range(16, 21)
            ]
        );
    }
}
