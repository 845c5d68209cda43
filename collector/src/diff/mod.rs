//! The difference list: what changed since the base point, from the bitmaps of the epochs since.
//!
//! Sorted, non-overlapping extents in bytes, never shorter than the truth.

use crate::block::{Extent, ExtentSet, Granularity, extents_of_words};
use crate::epoch::{Base, Epochs};
use crate::error::{Error, Kind, Result};
use crate::sys::bpf::Words;
use crate::sys::device::BlockDevice;
use crate::sys::planted;
use crate::tracker::{
    DeviceState, Maps, Places, Reading, Verdict, doubt, find_tracked, map_id, open_bitmap, words_of,
};
use serde::Serialize;
use std::path::Path;

pub use crate::block::{MAX_EXTENTS, coarsened};

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

/// The difference to a start point: what was retired since then, and what is pending.
///
/// # Errors
/// [`Kind::NotFound`] if the device has no such start point; if a bitmap cannot be read. A list that cannot be read
/// makes the difference suspect.
pub fn since(epochs: &Epochs, start: &Base) -> Result<Difference> {
    let mut all = pending(epochs)?;
    if epochs.base() == Some(start) {
        return Ok(all);
    }
    let found = epochs.starts().iter().find(|s| s.base == *start);
    let found = found.ok_or_else(|| {
        Error::new(Kind::NotFound, format!("what changed since point {} is not kept", start.point))
    })?;
    let (retired, suspect) = epochs.retired_since(found);
    all.extents = coarsened(retired.union(&all.extents).iter().copied(), MAX_EXTENTS);
    all.suspect
        .extend(suspect.into_iter().filter(|reason| !all.suspect.contains(reason)).collect::<Vec<_>>());
    all.since_ms = found.since_ms;
    all.epochs.0 = all.epochs.0.min(found.first);
    Ok(all)
}

/// How far the tracking of a device can be trusted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// Our counters kept step with the kernel's.
    Proven,
    /// Nothing was written yet, so nothing could be compared.
    #[default]
    Unproven,
    /// See the reasons.
    Suspect,
}

impl Health {
    /// For people.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Proven => "proven",
            Self::Unproven => "unproven (no write seen yet)",
            Self::Suspect => "SUSPECT",
        }
    }
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

impl Look {
    /// What is to be thought of it.
    pub fn health(&self) -> Health {
        let seen = self.reading.kernel > self.state.baseline.kernel_at_start;
        match (self.difference.suspect.is_empty(), seen) {
            (false, _) => Health::Suspect,
            (true, true) => Health::Proven,
            (true, false) => Health::Unproven,
        }
    }
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
