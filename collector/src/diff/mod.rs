//! The difference list: what changed since the base point, from the bitmaps of the epochs since.
//!
//! Sorted, non-overlapping extents in bytes, never shorter than the truth. A list that would take too much
//! memory is coarsened: near extents are joined over the gap between them, which reports more, never less.

use crate::block::{Extent, ExtentSet, Granularity, extents_of_words};
use crate::epoch::Epochs;
use crate::error::{Error, Kind, Result};
use crate::sys::bpf::Words;
use crate::sys::device::BlockDevice;
use crate::sys::planted;
use crate::tracker::{
    DeviceState, Maps, Places, Reading, Verdict, doubt, find_tracked, map_id, open_bitmap, words_of,
};
use std::path::Path;

/// Extents of a list, at most: 16 bytes each, so a list takes 32 MiB at most.
pub const MAX_EXTENTS: usize = 2 << 20;

/// What changed since the base point.
#[derive(Clone, Debug, Default)]
pub struct Difference {
    /// The extents.
    pub extents: ExtentSet,
    /// Why they cannot be proved complete; empty: proved.
    pub suspect: Vec<String>,
    /// When the difference began (ms since 1970).
    pub since_ms: u64,
    /// First and last epoch in it.
    pub epochs: (u64, u64),
}

/// The union of some bitmaps as extents.
pub fn union(bitmaps: &[Words], granularity: Granularity, size: u64) -> ExtentSet {
    let bitmaps =
        if planted("last-epoch-only") { &bitmaps[bitmaps.len().saturating_sub(1)..] } else { bitmaps };
    let size = if planted("end-lost") { size / granularity.bytes() * granularity.bytes() } else { size };
    let count = bitmaps.iter().map(Words::len).max().unwrap_or(0);
    let word = |i: usize| bitmaps.iter().filter(|b| i < b.len()).fold(0, |bits, b| bits | b.get(i));
    coarsened(extents_of_words((0..count).map(word), granularity, size), MAX_EXTENTS)
}

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

/// Everything sealed and not retired: what a backup has to copy.
///
/// # Errors
/// If a bitmap cannot be read.
pub fn pending(epochs: &Epochs) -> Result<Difference> {
    let state = epochs.state();
    let extents = union(&epochs.sealed()?, state.granularity, state.identity.size);
    let mut suspect: Vec<String> = Vec::new();
    for reason in state.sealed.iter().flat_map(|s| &s.suspect) {
        if !suspect.contains(reason) {
            suspect.push(reason.clone());
        }
    }
    let first = state.sealed.first().map_or(state.epoch, |s| s.epoch);
    let last = state.sealed.last().map_or(state.epoch, |s| s.epoch);
    Ok(Difference { extents, suspect, since_ms: state.difference_since_ms, epochs: (first, last) })
}

/// A tracked device as it stands, read without ending anything and beside whatever else runs.
#[derive(Clone, Debug)]
pub struct Look {
    /// The difference so far.
    pub difference: Difference,
    /// Its state.
    pub state: DeviceState,
    /// Counters and programs.
    pub reading: Reading,
    /// What they say about the running epoch.
    pub verdict: Verdict,
}

/// Looks at a tracked device.
///
/// # Errors
/// `NotFound` if it is not tracked; `Busy` if its backups end faster than one can look.
pub fn look(places: &Places, path: &Path) -> Result<Look> {
    for _ in 0..16 {
        let look = look_once(places, path)?;
        // a backup that ended meanwhile took bitmaps away: the list would be short of what its base point says
        let now = DeviceState::read(places, &look.state.key())?;
        if now
            .is_some_and(|now| (now.session, now.retired) == (look.state.session.clone(), look.state.retired))
        {
            return Ok(look);
        }
    }
    Err(Error::new(Kind::Busy, format!("look at {}: its backups never rest", path.display()))
        .hint("try again"))
}

fn look_once(places: &Places, path: &Path) -> Result<Look> {
    // doubts first: one that a cut takes over in between stands in the state by then
    let doubts = doubt::raised(places, &find_tracked(places, path)?)?;
    let mut state = find_tracked(places, path)?;
    let device = BlockDevice::open(path)?;
    state.check_identity(&device)?;
    let (was, now) = (state.identity.size, device.size);
    if was != now {
        state.baseline.excuse_beyond_end();
        state.identity.size = now;
    }
    let maps = Maps::open(places)?;
    let (bitmaps, lost) = all_bitmaps(places, &maps, &state)?;
    let reading = Reading::take(places, &maps, &device.whole_disk()?, state.disk_row)?;
    let verdict = reading.judge(&state);
    let mut suspect: Vec<String> = state.sealed.iter().flat_map(|s| s.suspect.clone()).collect();
    suspect.extend(verdict.suspect.iter().cloned());
    if !maps.serves(state.identity.disk, state.slot)? {
        suspect.push("the kernel's programs do not find the device any more".into());
    }
    suspect.extend(lost);
    suspect.extend(doubts);
    suspect.dedup();
    let mut extents = union(&bitmaps, state.granularity, now);
    if now > was {
        let unit = state.granularity.bytes();
        extents = extents.union(&[Extent::between(was / unit * unit, now)].into_iter().collect());
    }
    let epochs = (state.retired + 1, state.epoch);
    let difference = Difference { extents, suspect, since_ms: state.difference_since_ms, epochs };
    Ok(Look { difference, state, reading, verdict })
}

/// The running bitmap and every pinned one that is not retired; and what is missing.
fn all_bitmaps(places: &Places, maps: &Maps, state: &DeviceState) -> Result<(Vec<Words>, Vec<String>)> {
    let key = state.key();
    let running = maps.running_bitmap(state.slot)?;
    let (mut bitmaps, mut found) = (Vec::new(), false);
    let pinned: Vec<u64> = places.epochs(&key)?.into_iter().filter(|e| *e > state.retired).collect();
    for epoch in &pinned {
        match open_bitmap(places, &key, *epoch) {
            Ok(map) => {
                found |= running.is_some() && map_id(&map) == running;
                bitmaps.push(words_of(&map)?);
            }
            // a backup may retire it at this moment: then it is durable
            Err(_) if !places.epoch(&key, *epoch).exists() => {}
            Err(e) => return Err(e),
        }
    }
    // a cut or a retirement beside us changes the state file too: what it still claims must be there
    let now = DeviceState::read(places, &key)?.unwrap_or_else(|| state.clone());
    let gone = |epoch: &u64| !pinned.contains(epoch) && !places.epoch(&key, *epoch).exists();
    let sealed = now.sealed.iter().map(|s| s.epoch).filter(gone);
    let mut lost: Vec<String> = sealed.map(|e| format!("the bitmap of epoch {e} was removed")).collect();
    if !found && now.epoch == state.epoch {
        lost.push(format!("the running bitmap (epoch {}) is not where it was left", state.epoch));
    }
    Ok((bitmaps, lost))
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
