//! Pins of another layout: an older one is taken over without a gap, a newer one is left alone.
//!
//! 1. our own programs mark the device as well; both run;
//! 2. what the older ones marked since the base, and their verdict, become an epoch of ours. Writes may be on their
//!    way that only they saw beginning, so the same marks stand in our running epoch too;
//! 3. the state file says that it is ours;
//! 4. when no device is left, the older pins go.
//!
//! What must stay true: a layout is never read as another one. Of the older maps only two kinds are read: bitmaps,
//! which are plain 64-bit words in every layout, and the counters of layout 1. Where these tell nothing, the epoch is
//! suspect. Killed anywhere, it begins anew.

use super::load::{Loaded, ProgramHealth, aya_error, read_json, write_json};
use super::start::{Before, Start, Started, start};
use super::state::{CounterSums, DeviceState};
use super::{Lock, Places, Reading, forget, open_bitmap, registry, words_of};
use crate::block::{ExtentSet, extents_of_words};
use crate::error::{Error, Kind, Result};
use crate::sys::device::{BlockDevice, Makeup, multipath_above};
use crate::sys::failpoint;
use aya::maps::{Map, MapData, PerCpuArray};

/// Takes over what older versions left.
///
/// # Errors
/// `Incompatible` if a newer version is at work here: nothing is touched then. `Busy` while an older one is.
pub fn migrate(places: &Places) -> Result<()> {
    let others = places.other_layouts()?;
    if let Some(newer) = others.iter().find(|layout| **layout > places.layout()) {
        let (folder, ours) = (places.with_layout(*newer), places.layout());
        return Err(Error::new(
            Kind::Incompatible,
            format!("{} is of a newer blkdelta (layout {newer}, ours is {ours})", folder.pins().display()),
        )
        .hint("use that version; or untrack everything with it first"));
    }
    for layout in others {
        from_layout(places, &places.with_layout(layout))?;
    }
    Ok(())
}

fn from_layout(places: &Places, old: &Places) -> Result<()> {
    // the list of its programs would be replaced by ours
    let kept = places.state().join(format!("loaded-v{}.json", old.layout()));
    if let Some(loaded) = Loaded::read(old)? {
        write_json(&kept, &loaded)?;
    }
    let loaded: Option<Loaded> = read_json(&kept)?;
    for state in DeviceState::all(old)? {
        take_over(places, old, loaded.as_ref(), &state)?;
    }
    let _registry = Lock::take(&places.lock(), "migrate", true)?;
    failpoint("migrate.before-remove")?;
    registry::remove_folder(old.pins())?;
    match std::fs::remove_file(&kept) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::os(format!("remove {}", kept.display()), e))
        }
        _ => Ok(()),
    }
}

fn take_over(places: &Places, old: &Places, loaded: Option<&Loaded>, state: &DeviceState) -> Result<()> {
    let device = BlockDevice::of_number(state.identity.dev).ok();
    let Some(device) = device.filter(|device| state.check_identity(device).is_ok()) else {
        log::warn!("{} is tracked no more: another device is in its place", state.path.display());
        return forget(places, &state.key());
    };
    let pinned = old.epochs(&state.key()).unwrap_or_default();
    let first = pinned.iter().fold(state.epoch, |most, epoch| most.max(*epoch)) + 2;
    match start(places, &device.known_as(&state.path), state.granularity, first)? {
        Start::Already(_) => Ok(()),
        Start::New(started) => both_run(started, old, loaded, state, &pinned),
    }
}

/// Both programs mark the device now.
fn both_run(
    mut started: Started,
    old: &Places,
    loaded: Option<&Loaded>,
    state: &DeviceState,
    pinned: &[u64],
) -> Result<()> {
    failpoint("migrate.after-attach")?;
    let mut suspect: Vec<String> = state.sealed.iter().flat_map(|s| s.suspect.clone()).collect();
    suspect.extend(verdict(started.device(), old, loaded, state));
    let (changed, lost) = marks(old, state, pinned);
    suspect.extend(lost);
    started.go_on(Before {
        session: state.session.clone(),
        base: state.base.clone(),
        starts: state.starts.clone(),
        keep_full: state.keep_full.clone(),
        difference_since_ms: state.difference_since_ms,
        changed,
        suspect,
        moving: true,
    })?;
    started.publish().map(|_| ())
}

/// Everything that the older programs marked since the base, and what is missing of it.
fn marks(old: &Places, state: &DeviceState, pinned: &[u64]) -> (ExtentSet, Vec<String>) {
    let (mut changed, mut lost) = (ExtentSet::new(), Vec::new());
    let named = state.sealed.iter().map(|s| s.epoch).chain([state.epoch]);
    let gone = named.filter(|epoch| !pinned.contains(epoch));
    lost.extend(gone.map(|epoch| format!("the bitmap of epoch {epoch} was removed")));
    for epoch in pinned.iter().filter(|epoch| **epoch > state.retired) {
        match open_bitmap(old, &state.key(), *epoch).and_then(|map| words_of(&map)) {
            Ok(words) => {
                let size = state.identity.size;
                let extents = extents_of_words(words.iter(), state.granularity, size).collect();
                changed = changed.union(&extents);
            }
            Err(error) => lost.push(format!("the marks of an older version cannot be read: {error}")),
        }
    }
    (changed, lost)
}

/// What the older programs' counters say about the running epoch.
fn verdict(device: &BlockDevice, old: &Places, loaded: Option<&Loaded>, state: &DeviceState) -> Vec<String> {
    let unknown = |why: &str| vec![format!("an older version tracked it, and {why}")];
    let Some(loaded) = loaded else { return unknown("its list of programs is gone") };
    if old.layout() != 1 {
        return unknown("its counters cannot be read");
    }
    match reading(device, old, loaded, state) {
        Ok(reading) => reading.judge(state).suspect,
        Err(error) => unknown(&format!("its counters cannot be read: {error}")),
    }
}

/// As [`Reading::take`], from maps of layout 1: the kernel first, the programs' counters afterwards.
fn reading(device: &BlockDevice, old: &Places, loaded: &Loaded, state: &DeviceState) -> Result<Reading> {
    /// Copies of a program, at most.
    const COPIES: u32 = 3;
    let disk = device.whole_disk()?;
    let stat = disk.stat()?;
    let counters = MapData::from_pin(old.map("COUNTERS")).map_err(|e| aya_error("open older counters", e))?;
    let counters: PerCpuArray<_, [u64; 16]> =
        PerCpuArray::try_from(Map::PerCpuArray(counters)).map_err(|e| aya_error("open older counters", e))?;
    let copy = |copy: u32| {
        let cpus = counters.get(&(state.disk_row * COPIES + copy), 0);
        cpus.map(|cpus| sums(cpus.iter())).map_err(|e| aya_error("read older counters", e))
    };
    let programs: Vec<ProgramHealth> = loaded.examine(old);
    Ok(Reading {
        kernel: stat.write_sectors + stat.discard_sectors,
        counters: (0..COPIES).map(copy).collect::<Result<_>>()?,
        programs,
        accounting: disk.iostats,
        admin: None,
        dax: disk.dax,
        path_of: multipath_above(&disk),
        // layout 1 tracked neither dm nor md
        makeup: Some(Makeup::of(&disk)?),
    })
}

/// The sums of layout 1, in its order.
fn sums<'a>(cpus: impl Iterator<Item = &'a [u64; 16]>) -> CounterSums {
    let all = cpus.fold([0u64; 16], |sum, cpu| std::array::from_fn(|i| sum[i] + cpu[i]));
    CounterSums {
        submitted: all[0],
        submitted_sectors: all[1],
        requeued: all[2],
        completed: all[3],
        completed_sectors: all[4],
        orphan_sectors: all[5],
        overflowed: all[6],
        overflowed_sectors: all[7],
        passthrough: all[8],
        unknown: all[9],
        unaddressed: all[10],
        out_of_range: all[11],
        truncated: all[12],
        unmapped: all[13],
        events_lost: all[14],
        errors: all[15],
        commands: [0; 4],
    }
}

#[cfg(test)]
mod tests;
