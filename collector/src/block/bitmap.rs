//! From bitmap words to extents.

use super::{Extent, Granularity};

/// The extents of all set bits: sorted, non-overlapping, non-adjacent, clamped to the device of `size` bytes.
/// Bits beyond the device's last area are ignored (they stand for nothing).
pub fn extents_of_words(
    words: impl IntoIterator<Item = u64>,
    granularity: Granularity,
    size: u64,
) -> impl Iterator<Item = Extent> {
    let mut runs = Runs { words: words.into_iter(), word: 0, base: 0, open: None };
    let unit = granularity.bytes();
    std::iter::from_fn(move || {
        loop {
            let (first, end) = runs.next()?;
            let extent =
                Extent::between(first.saturating_mul(unit).min(size), end.saturating_mul(unit).min(size));
            if !extent.is_empty() {
                return Some(extent);
            }
        }
    })
}

/// Runs of set bits as `first .. end` bit numbers.
struct Runs<I> {
    words: I,
    /// What is left of the current word, shifted so that bit 0 is bit `base`.
    word: u64,
    /// Number of the next word's first bit.
    base: u64,
    /// First bit of a run that reached the end of a word.
    open: Option<u64>,
}

impl<I: Iterator<Item = u64>> Iterator for Runs<I> {
    type Item = (u64, u64);

    fn next(&mut self) -> Option<(u64, u64)> {
        loop {
            if self.word == 0 {
                let Some(next) = self.words.next() else {
                    return self.open.take().map(|first| (first, self.base));
                };
                let word_base = self.base;
                self.base += 64;
                if let Some(first) = self.open {
                    if next == u64::MAX {
                        continue;
                    }
                    let ones = next.trailing_ones();
                    self.open = None;
                    self.word = next & !low(ones);
                    return Some((first, word_base + u64::from(ones)));
                }
                self.word = next;
                continue;
            }
            let start = self.word.trailing_zeros();
            let ones = (self.word >> start).trailing_ones();
            let word_base = self.base - 64;
            let first = word_base + u64::from(start);
            if start + ones == 64 {
                self.word = 0;
                self.open = Some(first);
                continue;
            }
            self.word &= !low(start + ones);
            return Some((first, first + u64::from(ones)));
        }
    }
}

/// The lowest `n` bits, `n <= 64`.
const fn low(n: u32) -> u64 {
    if n >= 64 { u64::MAX } else { (1 << n) - 1 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::ExtentSet;
    use proptest::prelude::*;

    fn word() -> impl Strategy<Value = u64> {
        prop_oneof![Just(0), Just(u64::MAX), any::<u64>(), (0u32..64).prop_map(|b| 1 << b)]
    }

    proptest! {
        #[test]
        fn extents_are_the_set_bits(words in prop::collection::vec(word(), 0..20), cut in 0u64..5000) {
            let g = Granularity::default();
            let size = (words.len() as u64 * 64 * 4096).saturating_sub(cut * 512);
            let got: Vec<Extent> = extents_of_words(words.iter().copied(), g, size).collect();
            let naive = (0..words.len() as u64 * 64)
                .filter(|bit| words[(bit / 64) as usize] >> (bit % 64) & 1 == 1)
                .map(|bit| Extent::between((bit * 4096).min(size), ((bit + 1) * 4096).min(size)));
            let naive = ExtentSet::from_unsorted(naive.collect());
            prop_assert_eq!(got, naive.iter().copied().collect::<Vec<_>>());
        }
    }
}
