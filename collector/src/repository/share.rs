//! Which segments a check reads: all, none, or the next share of them, so that many short checks read everything.
//!
//! ```text
//!   segments by name, oldest first   |--- read before ---| last |--- this share ---| … |   then from the first again
//! ```
//! What must stay true: whatever comes and goes between two checks, each segment is among those read within one
//! round: the next share begins with the first segment after the last one read.

use crate::format::{SegmentId, SegmentRef};
use serde::Serialize;
use std::collections::BTreeSet;

/// How much of what is stored is read.
#[derive(Clone, Copy, Debug)]
pub enum Read {
    /// The structure only: manifests, indexes, whether the segments are there.
    Structure,
    /// Every byte.
    All,
    /// Of the segments a part (0 to 1), the next ones after this one, and from the first again.
    Share {
        /// Where the last share ended.
        after: Option<SegmentId>,
        /// How much of all bytes.
        part: f64,
    },
}

/// Which segments were read.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Share {
    /// Segments read.
    pub segments: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes of all segments that points name.
    pub of: u64,
    /// The last one read: the next share begins after it.
    pub last: Option<SegmentId>,
    /// How far the rotation is through all bytes (0 to 1).
    pub position: f64,
}

/// The segments to read, of all that are named, sorted.
pub(super) fn choose(all: &[SegmentRef], read: Read) -> (BTreeSet<SegmentId>, Option<Share>) {
    let of: u64 = all.iter().map(|s| s.len).sum();
    let (start, wanted) = match read {
        Read::Structure => return (BTreeSet::new(), None),
        Read::All => (0, of),
        Read::Share { after, part } => {
            let next = after.map_or(0, |after| all.partition_point(|s| s.id <= after));
            (if next < all.len() { next } else { 0 }, (of as f64 * part).ceil() as u64)
        }
    };
    let (mut bytes, mut last, mut chosen) = (0, None, BTreeSet::new());
    for segment in all[start..].iter().chain(&all[..start]) {
        if bytes >= wanted {
            break;
        }
        bytes += segment.len;
        last = Some(segment.id);
        chosen.insert(segment.id);
    }
    let reached = all.iter().filter(|s| last.is_some_and(|last| s.id <= last)).map(|s| s.len).sum::<u64>();
    let position = if of == 0 { 1.0 } else { reached as f64 / of as f64 };
    let share = Share { segments: chosen.len() as u64, bytes, of, last, position };
    (chosen, Some(share))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Blake3;
    use proptest::prelude::*;

    fn segment(n: u64, len: u64) -> SegmentRef {
        let mut id = [0; 16];
        id[8..].copy_from_slice(&n.to_be_bytes());
        SegmentRef { id: SegmentId::from_bytes(id), len, hash: Blake3([0; 32]) }
    }

    proptest! {
        /// Segments come (newest) and go (any) between shares: one that stays is read in each round.
        #[test]
        fn what_stays_is_read_in_every_round(
            lens in prop::collection::vec(1u64..40, 1..30), part in 0.01f64..0.6,
            life in prop::collection::vec((any::<usize>(), any::<bool>()), 0..60),
        ) {
            let mut all: Vec<SegmentRef> = lens.iter().enumerate().map(|(n, len)| segment(n as u64, *len)).collect();
            let (mut after, mut next) = (None, lens.len() as u64);
            let mut unread: BTreeSet<SegmentId> = all.iter().map(|s| s.id).collect();
            let mut rounds = 0;
            for step in 0..2000 {
                let (chosen, share) = choose(&all, Read::Share { after, part });
                let share = share.unwrap();
                prop_assert_eq!(share.bytes, all.iter().filter(|s| chosen.contains(&s.id)).map(|s| s.len).sum::<u64>());
                let of: u64 = all.iter().map(|s| s.len).sum();
                prop_assert!(share.bytes as f64 >= of as f64 * part && share.of == of);
                rounds += u32::from(after.is_some_and(|after| share.last.is_some_and(|last| last <= after)));
                after = share.last;
                unread.retain(|id| !chosen.contains(id) && all.iter().any(|s| s.id == *id));
                if rounds >= 1 {
                    prop_assert!(unread.is_empty(), "{:?} were not read in a round", unread);
                    break;
                }
                prop_assert!(step < 1999, "no round ends");
                if let Some((which, comes)) = life.get(step) {
                    if *comes {
                        all.push(segment(next, 7));
                        next += 1;
                    } else if all.len() > 1 {
                        all.remove(which % all.len());
                    }
                }
            }
        }
    }

    #[test]
    fn nothing_stored_is_all_read() {
        let (chosen, share) = choose(&[], Read::Share { after: None, part: 0.1 });
        assert!(chosen.is_empty() && share.unwrap().position == 1.0);
        assert!(choose(&[segment(1, 5)], Read::Structure).1.is_none());
        assert_eq!(choose(&[segment(1, 5), segment(2, 5)], Read::All).1.unwrap().bytes, 10);
    }
}
