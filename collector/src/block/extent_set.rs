//! A set of bytes as sorted extents.

use super::Extent;
use serde::{Deserialize, Serialize};

/// Sorted, non-overlapping, non-adjacent, non-empty extents.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<Extent>", into = "Vec<Extent>")]
pub struct ExtentSet(Vec<Extent>);

impl ExtentSet {
    /// The empty set.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Every byte of a device of `size` bytes.
    pub fn whole(size: u64) -> Self {
        Self::from_unsorted(vec![Extent::new(0, size)])
    }

    /// The union of `extents`, whatever their order and overlap.
    pub fn from_unsorted(mut extents: Vec<Extent>) -> Self {
        extents.sort_unstable();
        let mut set = Self::new();
        for extent in extents {
            set.push(extent);
        }
        set
    }

    /// Adds an extent that does not begin before the last one's beginning; joins it where they touch.
    ///
    /// # Panics
    /// If it begins before the last one: the caller's order is wrong.
    pub fn push(&mut self, extent: Extent) {
        if extent.is_empty() {
            return;
        }
        match self.0.last_mut() {
            Some(last) if extent.offset <= last.end() => {
                assert!(extent.offset >= last.offset, "extents pushed out of order");
                *last = Extent::between(last.offset, last.end().max(extent.end()));
            }
            _ => self.0.push(extent),
        }
    }

    /// The extents, in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Extent> {
        self.0.iter()
    }

    /// Number of extents.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// No bytes.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Sum of all lengths in bytes.
    pub fn total(&self) -> u64 {
        self.0.iter().map(|e| e.length).sum()
    }

    /// All bytes in either.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let mut all = Self::new();
        let (mut a, mut b) = (self.0.iter().peekable(), other.0.iter().peekable());
        loop {
            let next = match (a.peek(), b.peek()) {
                (Some(x), Some(y)) if x <= y => a.next(),
                (_, Some(_)) => b.next(),
                (_, None) => a.next(),
            };
            let Some(extent) = next else { return all };
            all.push(*extent);
        }
    }

    /// All bytes in both.
    #[must_use]
    pub fn intersect(&self, other: &Self) -> Self {
        let mut both = Self::new();
        let (mut i, mut j) = (0, 0);
        while let (Some(a), Some(b)) = (self.0.get(i), other.0.get(j)) {
            if let Some(extent) = a.intersect(b) {
                both.push(extent);
            }
            if a.end() <= b.end() { i += 1 } else { j += 1 }
        }
        both
    }

    /// The bytes of `0 .. size` that are not in the set.
    #[must_use]
    pub fn complement(&self, size: u64) -> Self {
        let mut gaps = Self::new();
        let mut at = 0;
        for extent in &self.0 {
            gaps.push(Extent::between(at, extent.offset.min(size)));
            at = extent.end();
        }
        gaps.push(Extent::between(at, size));
        gaps
    }

    /// The bytes of this set that are not in `other`.
    #[must_use]
    pub fn subtract(&self, other: &Self) -> Self {
        let end = self.0.last().map_or(0, Extent::end);
        self.intersect(&other.complement(end))
    }

    /// The bytes of the set that lie in `extent`.
    #[must_use]
    pub fn within(&self, extent: Extent) -> Self {
        let first = self.0.partition_point(|e| e.end() <= extent.offset);
        let rest = self.0[first..].iter().take_while(|e| e.offset < extent.end());
        Self(rest.filter_map(|e| e.intersect(&extent)).collect())
    }

    /// A byte of `extent` is in the set.
    pub fn touches(&self, extent: Extent) -> bool {
        let first = self.0.partition_point(|e| e.end() <= extent.offset);
        self.0.get(first).is_some_and(|e| e.intersect(&extent).is_some())
    }

    /// Every extent widened to multiples of `unit`, at most to `size`.
    #[must_use]
    pub fn align_out(&self, unit: u64, size: u64) -> Self {
        let mut wide = Self::new();
        for extent in &self.0 {
            wide.push(extent.align_out(unit, size));
        }
        wide
    }

    /// Every byte of `extent` is in the set.
    pub fn contains(&self, extent: Extent) -> bool {
        let i = self.0.partition_point(|e| e.end() <= extent.offset);
        extent.is_empty()
            || self.0.get(i).is_some_and(|e| e.offset <= extent.offset && extent.end() <= e.end())
    }
}

impl<'a> IntoIterator for &'a ExtentSet {
    type Item = &'a Extent;
    type IntoIter = std::slice::Iter<'a, Extent>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl From<Vec<Extent>> for ExtentSet {
    fn from(extents: Vec<Extent>) -> Self {
        Self::from_unsorted(extents)
    }
}

impl From<ExtentSet> for Vec<Extent> {
    fn from(set: ExtentSet) -> Self {
        set.0
    }
}

impl FromIterator<Extent> for ExtentSet {
    fn from_iter<I: IntoIterator<Item = Extent>>(extents: I) -> Self {
        Self::from_unsorted(extents.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const SPACE: u64 = 300;

    fn extents() -> impl Strategy<Value = Vec<Extent>> {
        prop::collection::vec(
            (0..SPACE, 0u64..40).prop_map(|(o, l)| Extent::between(o, (o + l).min(SPACE))),
            0..12,
        )
    }
    fn naive(extents: &[Extent]) -> BTreeSet<u64> {
        extents.iter().flat_map(|e| e.offset..e.end()).collect()
    }
    fn bytes(set: &ExtentSet) -> BTreeSet<u64> {
        for pair in set.0.windows(2) {
            assert!(pair[0].end() < pair[1].offset, "sorted and apart: {set:?}");
        }
        naive(&set.0)
    }

    proptest! {
        #[test]
        fn agrees_with_a_set_of_bytes(a in extents(), b in extents(), probe in (0..SPACE, 1u64..30), unit in 1u64..20) {
            let (x, y) = (naive(&a), naive(&b));
            let (a, b) = (ExtentSet::from_unsorted(a), ExtentSet::from_unsorted(b));
            prop_assert_eq!(bytes(&a), x.clone());
            prop_assert_eq!(a.total(), x.len() as u64);
            prop_assert_eq!(bytes(&a.union(&b)), x.union(&y).copied().collect());
            prop_assert_eq!(bytes(&a.intersect(&b)), x.intersection(&y).copied().collect());
            prop_assert_eq!(bytes(&a.subtract(&b)), x.difference(&y).copied().collect());
            prop_assert_eq!(bytes(&a.complement(SPACE)), (0..SPACE).filter(|i| !x.contains(i)).collect());
            let wide: BTreeSet<u64> = (0..SPACE).filter(|i| x.iter().any(|j| j / unit == i / unit)).collect();
            prop_assert_eq!(bytes(&a.align_out(unit, SPACE)), wide);
            let e = Extent::new(probe.0, probe.1);
            prop_assert_eq!(bytes(&a.within(e)), x.iter().filter(|i| e.offset <= **i && **i < e.end()).copied().collect());
            prop_assert_eq!(a.touches(e), (e.offset..e.end()).any(|i| x.contains(&i)));
            prop_assert_eq!(a.contains(e), (e.offset..e.end()).all(|i| x.contains(&i)));
        }
    }
}
