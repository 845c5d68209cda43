//! The watcher: is everything that tracks a device still where it was put, and what was wrong meanwhile?
//!
//! A cut judges what it finds; what was taken away and put back between two cuts it need not find. So somebody
//! looks every few seconds, says at once what is wrong, and raises a [`doubt`]: the next cut takes it
//! over even if all is well again by then.
//!
//! What must stay true: looking takes no lock and changes nothing but doubts, so that it can be done beside a backup;
//! a cut, a retirement or a new `track` under way is never taken for trouble (the state file is read again before
//! anything is said); a look reads counters, never whole bitmaps.

use super::health::{Reading, UNSEEN};
use super::load::{Loaded, Maps};
use super::places::Places;
use super::state::DeviceState;
use super::{doubt, open_bitmap};
use crate::error::{Error, Result};
use crate::sys::device::BlockDevice;
use aya::maps::MapData;
use std::collections::{BTreeMap, BTreeSet};

/// What a look at one device found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Taken away, replaced or switched off: may be put right before the next cut, so it is remembered.
    pub broken: Vec<String>,
    /// Counted by the kernel or by us: the next cut finds it by itself.
    pub counted: Vec<String>,
}

impl Findings {
    /// Nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.broken.is_empty() && self.counted.is_empty()
    }

    /// Every reason by itself without its figures, which grow from look to look.
    fn all(&self) -> BTreeMap<String, String> {
        let bare = |reason: &String| reason.replace(|c: char| c.is_ascii_digit(), "");
        self.broken.iter().chain(&self.counted).map(|reason| (bare(reason), reason.clone())).collect()
    }
}

/// How often a look is repeated while the state moves under it.
const TRIES: u32 = 16;

/// Looks at everything that a device's tracking stands on. `None`: it is tracked no more, or tracked anew.
///
/// # Errors
/// If its state cannot be read.
pub fn inspect(places: &Places, state: &DeviceState) -> Result<Option<Findings>> {
    let mut state = state.clone();
    let mut findings = Findings::default();
    for _ in 0..TRIES {
        findings = look(places, &state);
        let now = DeviceState::read(places, &state.key())?;
        let Some(now) = now.filter(|now| now.session == state.session) else { return Ok(None) };
        // a cut or a retirement meanwhile explains whatever was out of place: look again
        let moved =
            (now.epoch, now.retired, now.sealed.len()) != (state.epoch, state.retired, state.sealed.len());
        if findings.broken.is_empty() || !moved {
            return Ok(Some(findings));
        }
        state = now;
    }
    Ok(Some(findings))
}

fn look(places: &Places, state: &DeviceState) -> Findings {
    let mut broken = pins(places);
    let device = match same_device(state) {
        Ok(device) => device,
        Err(e) => {
            broken.push(e.to_string());
            return Findings { broken, counted: Vec::new() };
        }
    };
    if device.size < state.identity.size {
        broken.push(format!("it shrank from {} to {} bytes", state.identity.size, device.size));
    }
    let reading = Maps::open(places).and_then(|maps| {
        broken.extend(bitmaps(places, &maps, state)?);
        Reading::take(places, &maps, &device.whole_disk()?, state.disk_row)
    });
    let counted = match reading {
        Ok(reading) => {
            broken.extend(reading.broken(state));
            let suspect = reading.judge(state).suspect;
            // a watcher without capabilities is no reason to compare everything: the cut sees the table
            suspect.into_iter().filter(|reason| reason != UNSEEN && !broken.contains(reason)).collect()
        }
        Err(e) => {
            // without maps or counters nothing can be said; if the pins are gone, that was said already
            if broken.is_empty() {
                broken.push(e.to_string());
            }
            Vec::new()
        }
    };
    Findings { broken, counted }
}

/// Programs and maps: pinned, and in the BPF file system they were pinned in.
fn pins(places: &Places) -> Vec<String> {
    let loaded = match Loaded::read(places) {
        Ok(loaded) => loaded,
        Err(e) => return vec![e.to_string()],
    };
    let mount = places.check_mount();
    match (mount, loaded) {
        (Err(e), _) => vec![e.to_string()],
        (Ok(_), None) => vec!["the programs' maps are pinned no more: nothing is tracked".into()],
        (Ok(now), Some(loaded)) if loaded.folder != 0 && loaded.folder != now => {
            vec!["another BPF file system is mounted over the pins".into()]
        }
        _ => Vec::new(),
    }
}

/// The device behind the number, if it is still the one that was tracked.
fn same_device(state: &DeviceState) -> Result<BlockDevice> {
    let gone = |e: Error| {
        e.within(format!("{} is gone: detached, or its driver was unloaded", state.path.display()))
    };
    let mut device = BlockDevice::of_number(state.identity.dev).map_err(gone)?;
    device.path.clone_from(&state.path);
    state.check_identity(&device)?;
    Ok(device)
}

/// The running bitmap is ours, the sealed ones are there, and the programs find the device.
fn bitmaps(places: &Places, maps: &Maps, state: &DeviceState) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    if !maps.serves(state.identity.disk, state.slot)? {
        wrong.push("the kernel's programs do not find the device any more".into());
    }
    let running = maps.running_bitmap(state.slot)?;
    let key = state.key();
    // during a cut the next epoch's is pinned already and may be the one in place
    let ours = |epoch: u64| open_bitmap(places, &key, epoch).ok().and_then(|map| map_id(&map));
    if running.is_none() || ![state.epoch, state.epoch + 1].map(ours).contains(&running) {
        wrong.push(format!("the running bitmap (epoch {}) is not where it was left", state.epoch));
    }
    let gone = state.sealed.iter().filter(|s| !places.epoch(&key, s.epoch).exists());
    wrong.extend(gone.map(|s| format!("the bitmap of epoch {} was removed", s.epoch)));
    Ok(wrong)
}

/// The kernel's id of a map, never given twice in a boot (`idr_alloc_cyclic`, kernel/bpf/syscall.c).
pub fn map_id(map: &MapData) -> Option<u32> {
    map.info().map(|info| info.id()).ok()
}

/// Something that changed for a device since the last round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The device's path.
    pub device: std::path::PathBuf,
    /// What.
    pub kind: ChangeKind,
}

/// What can change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// Tracked and looked at from now on.
    Watched,
    /// Found wrong just now.
    Wrong(String),
    /// Not found any more; the doubt stays until a backup has compared everything.
    Gone(String),
    /// Tracked no more.
    Untracked,
}

/// The watcher's memory between two rounds.
#[derive(Debug, Default)]
pub struct Guard {
    /// What was wrong at the last round, by session.
    known: BTreeMap<String, Known>,
}

#[derive(Debug)]
struct Known {
    device: std::path::PathBuf,
    wrong: BTreeMap<String, String>,
}

impl Guard {
    /// Looks at `states` once, remembers what is wrong, and tells what changed.
    ///
    /// # Errors
    /// If a state cannot be read or a doubt cannot be recorded.
    pub fn round(&mut self, places: &Places, states: &[DeviceState]) -> Result<Vec<Change>> {
        let mut changes = Vec::new();
        let mut seen = BTreeSet::new();
        for state in states {
            let Some(findings) = inspect(places, state)? else { continue };
            seen.insert(state.session.clone());
            for reason in &findings.broken {
                let doubt = format!("found between two cuts: {reason}");
                if !doubt::raised(places, state)?.contains(&doubt) {
                    doubt::raise(places, state, doubt)?;
                }
            }
            self.compare(state, findings.all(), &mut changes);
        }
        let lost: Vec<String> = self.known.keys().filter(|s| !seen.contains(*s)).cloned().collect();
        for session in lost {
            if let Some(known) = self.known.remove(&session) {
                changes.push(Change { device: known.device, kind: ChangeKind::Untracked });
            }
        }
        Ok(changes)
    }

    /// Something is wrong with a device.
    pub fn alarmed(&self) -> bool {
        self.known.values().any(|known| !known.wrong.is_empty())
    }

    fn compare(&mut self, state: &DeviceState, wrong: BTreeMap<String, String>, changes: &mut Vec<Change>) {
        let mut tell = |kind| changes.push(Change { device: state.path.clone(), kind });
        let known = self.known.entry(state.session.clone()).or_insert_with(|| {
            tell(ChangeKind::Watched);
            Known { device: state.path.clone(), wrong: BTreeMap::new() }
        });
        for (_, reason) in wrong.iter().filter(|(key, _)| !known.wrong.contains_key(*key)) {
            tell(ChangeKind::Wrong(reason.clone()));
        }
        for (_, reason) in known.wrong.iter().filter(|(key, _)| !wrong.contains_key(*key)) {
            tell(ChangeKind::Gone(reason.clone()));
        }
        known.wrong = wrong;
    }
}
