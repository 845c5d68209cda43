//! Lists of extents that would take too much memory, made shorter: near ones are joined over the gap between them,
//! which reports more, never less.

use super::{Extent, ExtentSet};

/// Extents of a list, at most: 16 bytes each, so a list takes 32 MiB at most.
pub const MAX_EXTENTS: usize = 2 << 20;

/// Collects extents that come in order; joins over ever larger gaps while there are more than `limit`.
pub fn coarsened(extents: impl Iterator<Item = Extent>, limit: usize) -> ExtentSet {
    let mut kept: Vec<Extent> = Vec::new();
    let mut gap = 0;
    for extent in extents {
        push(&mut kept, extent, gap);
        while kept.len() > limit {
            gap = (gap * 2).max(64 << 10);
            let all = std::mem::take(&mut kept);
            for extent in all {
                push(&mut kept, extent, gap);
            }
        }
    }
    ExtentSet::from_unsorted(kept)
}

fn push(kept: &mut Vec<Extent>, extent: Extent, gap: u64) {
    match kept.last_mut() {
        Some(last) if extent.offset <= last.end().saturating_add(gap) => {
            *last = Extent::between(last.offset, last.end().max(extent.end()));
        }
        _ => kept.push(extent),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn coarsening_never_loses_a_byte(gaps in prop::collection::vec((1u64..200_000, 1u64..9000), 0..60), limit in 1usize..20) {
            let mut at = 0;
            let exact: Vec<Extent> = gaps.iter().map(|(gap, length)| {
                let extent = Extent::new(at + gap, *length);
                at = extent.end();
                extent
            }).collect();
            let coarse = coarsened(exact.iter().copied(), limit);
            prop_assert!(coarse.len() <= limit);
            prop_assert!(exact.iter().all(|e| coarse.contains(*e)));
        }
    }
}
