//! The beginning of tracking: programs, bitmap, target, disk; then what a record knows of the time before.
//!
//! What must stay true: from the moment [`start`] returns, every write is marked; nothing is tracked for the rest
//! of the program until [`Started::publish`], which writes the record before the state, so that no older record
//! is ever believed beside a newer state.

use super::load::Maps;
use super::state::{key_of, now_ms};
use super::{Base, DeviceState, Identity, Loaded, Lock, Places, Reading, Sealed, StartPoint};
use super::{forget, health, load, make_bitmap, open_bitmap, record, refuse, registry, since};
use crate::block::{ExtentSet, Granularity, SECTOR};
use crate::error::{Error, Kind, Result};
use crate::sys::bpf::{self, Words};
use crate::sys::device::BlockDevice;
use crate::sys::{failpoint, planted};
use blkdelta_ebpf::Target;
use std::collections::BTreeSet;
use std::path::Path;

/// Number of the first epoch.
const FIRST_EPOCH: u64 = 1;

/// What [`start`] found.
#[expect(clippy::large_enum_variant, reason = "one of them, moved once")]
pub enum Start {
    /// The device is tracked, and still the same.
    Already(DeviceState),
    /// Its writes are marked from now on.
    New(Started),
}

/// A device whose writes are marked already, though nobody knows yet.
pub struct Started {
    places: Places,
    device: BlockDevice,
    state: DeviceState,
    _registry: Lock,
    _device: Lock,
}

/// Starts tracking a device. Already tracked, and still the same device: nothing happens.
///
/// # Errors
/// `Unsupported` for a device or kernel that we cannot prove to see; `Denied` without root.
pub fn track(places: &Places, path: &Path, granularity: Granularity) -> Result<DeviceState> {
    match start(places, path, granularity, FIRST_EPOCH)? {
        Start::Already(state) => already(state, granularity),
        Start::New(started) => started.publish(),
    }
}

/// Marks a device's writes from now on, in epoch `first`.
///
/// # Errors
/// As [`track`].
pub fn start(places: &Places, path: &Path, granularity: Granularity, first: u64) -> Result<Start> {
    let device = BlockDevice::open(path)?;
    refuse::check(&device)?;
    places.prepare()?;
    refuse::ensure_counted(places, &device)?;
    let registry = Lock::take(&places.lock(), "track", true)?;
    let key = key_of(device.dev);
    if let Some(old) = intact(places, &device)? {
        return Ok(Start::Already(old));
    }
    let what = format!("track {}", path.display());
    let alone = Lock::take(&places.device_lock(&key), &what, false);
    // a backup that runs may just have ended the epoch we looked for
    if let Some(old) = intact(places, &device)? {
        return Ok(Start::Already(old));
    }
    let alone = alone?;
    if DeviceState::read(places, &key)?.is_some() {
        forget(places, &key)?;
    }
    if Loaded::read(places)?.is_none() {
        give_up_all(places)?;
    }
    registry::reconcile(places)?;
    let bio_based = !device.request_based;
    load::ensure(places, health::roles(bio_based))?;
    let state = begin(places, &device, granularity, first)?;
    Ok(Start::New(Started { places: places.clone(), device, state, _registry: registry, _device: alone }))
}

/// The device's state, if it is tracked, still the same, and found by the programs.
///
/// # Errors
/// If a state file is damaged.
pub fn intact(places: &Places, device: &BlockDevice) -> Result<Option<DeviceState>> {
    let key = key_of(device.dev);
    let Some(old) = DeviceState::read(places, &key)? else { return Ok(None) };
    let pinned = Loaded::read(places)?.is_some() && places.epoch(&key, old.epoch).exists();
    let served = || Maps::open(places).and_then(|maps| maps.serves(old.identity.disk, old.slot));
    let found = pinned && old.check_identity(device).is_ok() && served().unwrap_or(false);
    Ok(found.then_some(old))
}

/// Programs or maps are gone, so nothing is tracked any more, whatever the state files say.
fn give_up_all(places: &Places) -> Result<()> {
    for state in DeviceState::all(places)? {
        log::warn!("tracking of {} had broken; track it again", state.path.display());
        forget(places, &state.key())?;
    }
    Ok(())
}

fn already(state: DeviceState, granularity: Granularity) -> Result<DeviceState> {
    if state.granularity == granularity {
        return Ok(state);
    }
    let (path, now) = (state.path.display(), state.granularity.bytes());
    Err(Error::new(Kind::Exists, format!("{path} is tracked already, with areas of {now} bytes"))
        .hint(format!("run `blkdelta untrack {path}` first; the next backup is then a full one")))
}

/// Bitmap, target, disk; then a moment's wait until every program sees them.
fn begin(places: &Places, device: &BlockDevice, granularity: Granularity, first: u64) -> Result<DeviceState> {
    let key = key_of(device.dev);
    let disk = device.whole_disk()?;
    let bio_based = !device.request_based;
    let mut maps = Maps::open(places)?;
    let slot = maps.free_slot()?;
    registry::remove_folder(&places.device_pins(&key))?;
    let words = granularity.words(device.size);
    let bitmap = make_bitmap(places, &key, first, words)?;
    maps.switch_bitmap(slot, &bitmap)?;
    let entry = maps.disk_or_new(&disk)?;
    let identity = Identity::of(device);
    let start = if planted("partition-start-lost") { 0 } else { identity.start_sector };
    let sectors = device.size / SECTOR;
    let (shift, words) = (granularity.sector_shift(), words as u32);
    maps.link(device.disk, entry, slot, Target { start, sectors, shift, words, next: 0, disk: entry.id })?;
    maps.switch_bitmap(slot, &bitmap)?; // the kernel waits for running programs: from here on all see the target
    let reading = Reading::take(places, &maps, &disk, entry.id)?;
    let now = now_ms();
    Ok(DeviceState {
        layout: places.layout(),
        boot: places.boot_id()?,
        session: ulid::Ulid::generate().to_string(),
        path: device.path.clone(),
        identity,
        granularity,
        slot,
        disk_row: entry.id,
        bio_based,
        since_ms: now,
        difference_since_ms: now,
        epoch: first,
        retired: first - 1,
        sealed: Vec::new(),
        base: None,
        starts: Vec::new(),
        keep_full: Vec::new(),
        baseline: reading.first_baseline(),
        carry_all: 0,
    })
}

/// What is known of the time before this start.
#[derive(Clone, Debug, Default)]
pub struct Before {
    /// The stretch of tracking that goes on.
    pub session: String,
    /// What its difference is relative to.
    pub base: Option<Base>,
    /// Points from which a difference can be made.
    pub starts: Vec<StartPoint>,
    /// Repositories whose last full point stays one.
    pub keep_full: Vec<String>,
    /// When the difference to the base began.
    pub difference_since_ms: u64,
    /// What had changed.
    pub changed: ExtentSet,
    /// Why that may be incomplete.
    pub suspect: Vec<String>,
    /// Some of it may be on its way to the medium still, seen by nobody but those who marked it.
    pub moving: bool,
}

/// Cuts that carry whole epochs over, as long as something is in flight at them.
const QUIET_CUTS: u8 = 2;

impl Started {
    /// The device.
    pub fn device(&self) -> &BlockDevice {
        &self.device
    }

    /// Goes on with an earlier stretch of tracking: what it knew becomes a sealed epoch before the running one.
    ///
    /// # Errors
    /// If the kernel has no memory for its bitmap.
    pub fn go_on(&mut self, before: Before) -> Result<()> {
        let (key, granularity) = (self.state.key(), self.state.granularity);
        // under an earlier number, which is another device's or nobody's now
        for stale in DeviceState::all(&self.places)? {
            if stale.session == before.session && stale.key() != key {
                forget(&self.places, &stale.key())?;
            }
        }
        let epoch = self.state.epoch - 1;
        let count = granularity.words(self.state.identity.size);
        make_bitmap(&self.places, &key, epoch, count)?;
        let device = ExtentSet::whole(self.state.identity.size);
        let changed = before.changed.intersect(&device);
        let running = before.moving.then_some(self.state.epoch);
        for epoch in std::iter::once(epoch).chain(running) {
            let words = Words::map(bpf::fd(open_bitmap(&self.places, &key, epoch)?.fd()), count)?;
            for extent in changed.iter().filter(|_| !planted("resume-drops-map")) {
                words.mark(granularity.bytes(), *extent);
            }
        }
        self.state.carry_all = if before.moving { QUIET_CUTS } else { 0 };
        self.state.sealed.push(Sealed { epoch, suspect: before.suspect });
        self.state.retired = epoch - 1;
        self.state.session = before.session;
        self.state.base = before.base;
        self.state.starts = before.starts;
        self.state.keep_full = before.keep_full;
        self.state.difference_since_ms = before.difference_since_ms;
        Ok(())
    }

    /// Makes it known: the record, then the state.
    ///
    /// # Errors
    /// If they cannot be written; the device is then not tracked.
    pub fn publish(self) -> Result<DeviceState> {
        failpoint("start.before-record")?;
        record::note(&self.places, &self.device, &self.state)?;
        failpoint("start.before-state")?;
        self.state.write(&self.places)?;
        failpoint("start.after-state")?;
        self.sweep_lists();
        Ok(self.state)
    }

    /// Lists of stretches of tracking that nobody knows any more go.
    fn sweep_lists(&self) {
        let sessions = || -> Result<BTreeSet<String>> {
            let tracked = DeviceState::all(&self.places)?.into_iter().map(|state| state.session);
            let mut sessions: BTreeSet<String> = tracked.collect();
            for (_, record) in record::all(&self.places)? {
                sessions.insert(record?.session);
            }
            Ok(sessions)
        };
        // a file that cannot be read may know some
        if let Ok(sessions) = sessions() {
            since::sweep_others(&self.places, &sessions);
        }
    }
}
