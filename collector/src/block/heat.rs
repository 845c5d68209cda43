//! Heat: how much of something lies in each of some equal parts of a device, and how strongly that is shown.
//!
//! What must stay true: every byte is counted once, in the part that it lies in; what is not nothing is never shown as
//! nothing.

use super::Extent;

/// How much lies in each of `parts` equal parts of `window`. Each piece says where it is and how much it stands for: its
/// length, or more if it was written again and again; that is spread evenly over it.
pub fn parts(pieces: impl IntoIterator<Item = (Extent, u64)>, window: Extent, parts: u64) -> Vec<u64> {
    let mut sums = vec![0; parts as usize];
    let part = part_of(window, parts);
    for (piece, weight) in pieces {
        let Some(inside) = piece.intersect(&window) else { continue };
        let mut at = inside.offset;
        while at < inside.end() {
            let n = (at - window.offset) / part;
            let next = (window.offset + (n + 1) * part).min(inside.end());
            // rounded up: a part that has something is never empty
            let share = u128::from(next - at) * u128::from(weight);
            sums[n as usize] += share.div_ceil(u128::from(piece.length)) as u64;
            at = next;
        }
    }
    sums
}

/// Bytes of one of `parts` equal parts of `window`; the last may have less.
pub fn part_of(window: Extent, parts: u64) -> u64 {
    window.length.div_ceil(parts.max(1)).max(1)
}

/// The part in which most is, and how much that is; `None` if there is nothing.
pub fn hottest(sums: &[u64], window: Extent) -> Option<(Extent, u64)> {
    let (at, most) =
        sums.iter().copied().enumerate().max_by_key(|(at, sum)| (*sum, std::cmp::Reverse(*at)))?;
    let part = part_of(window, sums.len() as u64);
    let start = window.offset + at as u64 * part;
    (most > 0).then(|| (Extent::between(start, (start + part).min(window.end())), most))
}

/// How strongly a value is shown: 0 for nothing, 1 for `most` and more, by its logarithm.
pub fn strength(value: u64, most: u64) -> f64 {
    // below a page everything looks the same
    let scale = |v: u64| (1.0 + v as f64 / 4096.0).ln();
    if most == 0 { 0.0 } else { (scale(value) / scale(most)).min(1.0) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_byte_in_the_window_is_counted_once_where_it_lies(
            pieces in prop::collection::vec((0u64..9000, 1u64..900), 0..20), from in 0u64..4000, length in 1u64..6000, count in 1u64..120,
        ) {
            let window = Extent::new(from, length);
            let pieces: Vec<(Extent, u64)> = pieces.into_iter().map(|(at, n)| (Extent::new(at, n), n)).collect();
            let found = parts(pieces.iter().copied(), window, count);
            let part = part_of(window, count);
            let mut naive = vec![0; count as usize];
            for byte in pieces.iter().flat_map(|(e, _)| e.offset..e.end()).filter(|b| (from..from + length).contains(b)) {
                naive[((byte - from) / part) as usize] += 1;
            }
            prop_assert_eq!(found, naive);
        }
    }

    #[test]
    fn what_is_written_again_weighs_more_and_nothing_vanishes() {
        let window = Extent::new(0, 4096 * 4);
        assert_eq!(parts([(Extent::new(4096, 4096), 40_960)], window, 4), [0, 40_960, 0, 0]);
        assert_eq!(parts([(Extent::new(0, 4096 * 4), 2)], window, 4), [1; 4]);
        assert_eq!(parts([(Extent::new(0, 10), 10)], Extent::new(0, 0), 3), [0; 3]);
        assert_eq!(hottest(&[0, 3, 9, 9], window), Some((Extent::new(8192, 4096), 9)));
        assert_eq!((hottest(&[0, 0], window), hottest(&[], window)), (None, None));
        assert_eq!(strength(0, 4096), 0.0);
        assert_eq!((strength(4096, 4096), strength(9999, 4096), strength(5, 0)), (1.0, 1.0, 0.0));
        assert!(strength(1, 1 << 40) > 0.0);
    }
}
