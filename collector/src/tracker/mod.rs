//! Sight: programs in the kernel that mark every changed area of the devices we track.
//!
//! What must stay true: a device is tracked only if we can prove to see its writes; tracking needs no
//! process; what is found pinned is believed only with its state file, of this boot, and after a look at
//! every program. Nothing here writes to a device.
//!
//! `track` = programs (`load`) → bitmap and target (`registry`) → state (`state`); `health` judges.

mod btf;
pub mod doubt;
mod guard;
mod health;
mod kernel;
mod live;
mod load;
mod places;
mod refuse;
mod registry;
mod state;

pub use guard::{Change, ChangeKind, Findings, Guard, inspect, map_id};
pub use health::{Reading, Verdict};
pub use live::{Diagnostics, Live, Traffic, Watcher};
pub use load::{Loaded, Maps, ProgramHealth};
pub use places::Places;
pub use state::{Base, Baseline, CounterSums, DeviceState, Identity, Sealed, now_ms};

use crate::block::{Granularity, SECTOR};
use crate::error::{Context, Error, Kind, Result};
use crate::sys::bpf;
use crate::sys::device::BlockDevice;
use aya::maps::MapData;
use blkdelta_ebpf::Target;
use rustix::fs::FlockOperation;
use std::fs::File;
use std::path::Path;

/// An exclusive lock on a file, released when dropped.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock, waiting for it if `wait`.
    ///
    /// # Errors
    /// `Busy` if another process has it.
    pub fn take(path: &Path, what: &str, wait: bool) -> Result<Self> {
        let file = File::options().create(true).append(true).open(path);
        let file = file.os_context(|| format!("open lock {}", path.display()))?;
        let how = if wait { FlockOperation::LockExclusive } else { FlockOperation::NonBlockingLockExclusive };
        match rustix::fs::flock(&file, how) {
            Ok(()) => Ok(Self { _file: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                Err(Error::new(Kind::Busy, format!("{what}: another blkdelta is at work on it"))
                    .hint("wait until it ends, or stop it"))
            }
            Err(e) => Err(Error::os(format!("lock {}", path.display()), e)),
        }
    }
}

/// Opens a pinned bitmap.
///
/// # Errors
/// If it is not there.
pub fn open_bitmap(places: &Places, key: &str, epoch: u64) -> Result<MapData> {
    MapData::from_pin(places.epoch(key, epoch))
        .map_err(|e| load::aya_error(format!("open the bitmap of epoch {epoch} of {key}"), e))
}

/// Makes and pins a bitmap for an epoch, all clear.
///
/// # Errors
/// If the kernel has no memory for it.
pub fn make_bitmap(places: &Places, key: &str, epoch: u64, words: u64) -> Result<MapData> {
    let folder = places.device_pins(key);
    std::fs::create_dir_all(&folder).os_context(|| format!("make folder {}", folder.display()))?;
    let words = u32::try_from(words).map_err(|_| {
        Error::new(Kind::Unsupported, format!("track with {words} bitmap words"))
            .hint("use a larger --granularity")
    })?;
    let bitmap = bpf::create_bitmap(words)?;
    bpf::pin(bpf::fd(&bitmap), &places.epoch(key, epoch))?;
    MapData::from_fd(bitmap).map_err(|e| load::aya_error("open a new bitmap", e))
}

/// Starts tracking a device. Already tracked, and still the same device: nothing happens.
///
/// # Errors
/// `Unsupported` for a device or kernel that we cannot prove to see; `Denied` without root.
pub fn track(places: &Places, path: &Path, granularity: Granularity) -> Result<DeviceState> {
    let device = BlockDevice::open(path)?;
    refuse::check(&device)?;
    places.prepare()?;
    let _lock = Lock::take(&places.lock(), "track", true)?;
    let key = state::key_of(device.dev);
    if let Some(old) = intact(places, &device)? {
        return already(old, granularity);
    }
    let what = format!("track {}", path.display());
    let alone = Lock::take(&places.device_lock(&key), &what, false);
    // a backup that runs may just have ended the epoch we looked for
    if let Some(old) = intact(places, &device)? {
        return already(old, granularity);
    }
    let _device = alone?;
    if DeviceState::read(places, &key)?.is_some() {
        forget(places, &key)?;
    }
    if Loaded::read(places)?.is_none() {
        give_up_all(places)?;
    }
    registry::reconcile(places)?;
    let bio_based = !device.request_based;
    load::ensure(places, health::roles(bio_based))?;
    let state = begin(places, &device, granularity)?;
    state.write(places)?;
    Ok(state)
}

/// The device's state, if it is tracked, still the same, and found by the programs.
fn intact(places: &Places, device: &BlockDevice) -> Result<Option<DeviceState>> {
    let key = state::key_of(device.dev);
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

/// Number of the first epoch.
const FIRST_EPOCH: u64 = 1;

/// Bitmap, target, disk; then a moment's wait until every program sees them.
fn begin(places: &Places, device: &BlockDevice, granularity: Granularity) -> Result<DeviceState> {
    let key = state::key_of(device.dev);
    let disk = device.whole_disk()?;
    let bio_based = !device.request_based;
    let mut maps = Maps::open(places)?;
    let slot = maps.free_slot()?;
    registry::remove_folder(&places.device_pins(&key))?;
    let words = granularity.words(device.size);
    let bitmap = make_bitmap(places, &key, FIRST_EPOCH, words)?;
    maps.switch_bitmap(slot, &bitmap)?;
    let entry = maps.disk_or_new(device.disk, disk.size / SECTOR, bio_based)?;
    let identity = Identity::of(device);
    let target = Target {
        start: identity.start_sector,
        sectors: device.size / SECTOR,
        shift: granularity.sector_shift(),
        words: words as u32,
        next: 0,
        disk: entry.id,
    };
    maps.link(device.disk, entry, slot, target)?;
    maps.switch_bitmap(slot, &bitmap)?; // the kernel waits for running programs: from here on all see the target
    let reading = Reading::take(places, &maps, &disk, entry.id)?;
    let session = ulid::Ulid::generate().to_string();
    first_state(device, granularity, slot, entry.id, session, &reading)
}

fn first_state(
    device: &BlockDevice,
    granularity: Granularity,
    slot: u32,
    disk_row: u32,
    session: String,
    reading: &Reading,
) -> Result<DeviceState> {
    let now = now_ms();
    Ok(DeviceState {
        boot: bpf::boot_id()?,
        session,
        path: device.path.clone(),
        identity: Identity::of(device),
        granularity,
        slot,
        disk_row,
        bio_based: !device.request_based,
        since_ms: now,
        difference_since_ms: now,
        epoch: FIRST_EPOCH,
        retired: FIRST_EPOCH - 1,
        sealed: Vec::new(),
        base: None,
        baseline: reading.first_baseline(),
        carry_all: 0,
    })
}

/// Removes a device's state file: the next reconcile takes it out of the kernel.
fn forget(places: &Places, key: &str) -> Result<()> {
    let path = places.device_state(key);
    std::fs::remove_file(&path).os_context(|| format!("remove {}", path.display()))
}

/// Stops tracking a device. False: it was not tracked.
///
/// # Errors
/// `Busy` while a backup of it runs; `Denied` without root.
pub fn untrack(places: &Places, path: &Path) -> Result<bool> {
    let Some(state) = find(places, path)? else { return Ok(false) };
    let _lock = Lock::take(&places.lock(), "untrack", true)?;
    let what = format!("untrack {}", path.display());
    let _device = Lock::take(&places.device_lock(&state.key()), &what, false)?;
    forget(places, &state.key())?;
    registry::reconcile(places)?;
    Ok(true)
}

/// The state of a tracked device: by its number, or by the path it had when its device is gone.
///
/// # Errors
/// If the path is neither a block device nor tracked.
pub fn find(places: &Places, path: &Path) -> Result<Option<DeviceState>> {
    match BlockDevice::open(path) {
        Ok(device) => DeviceState::read(places, &state::key_of(device.dev)),
        Err(e) => {
            let known = DeviceState::all(places)?.into_iter().find(|s| s.path == path);
            known.map(Some).ok_or(e)
        }
    }
}

/// The state of a device that must be tracked.
///
/// # Errors
/// `NotFound`, with what to do, if it is not; else as [`find`].
pub fn find_tracked(places: &Places, path: &Path) -> Result<DeviceState> {
    find(places, path)?.ok_or_else(|| not_tracked(path))
}

/// What to say of a device that is not tracked.
pub fn not_tracked(path: &Path) -> Error {
    Error::new(Kind::NotFound, format!("{} is not tracked", path.display()))
        .hint(format!("run `blkdelta track {}` first", path.display()))
}
