//! Sight: programs in the kernel that mark every changed area of the devices we track.
//!
//! What must stay true: a device is tracked only if we can prove to see its writes; tracking needs no
//! process; what is found pinned is believed only with its state file, of this boot, and after a look at
//! every program. Nothing here writes to a device.
//!
//! `track` = programs (`load`) → bitmap and target (`registry`) → state (`state`); `health` judges.

mod btf;
mod commands;
mod disks;
pub mod doubt;
mod guard;
mod health;
mod holder;
mod kernel;
mod live;
mod load;
mod migrate;
mod places;
pub mod record;
mod refuse;
mod registry;
pub mod since;
mod stable;
mod start;
mod state;
pub mod uncounted;

pub use guard::{Change, ChangeKind, Findings, Guard, inspect, map_id};
pub use health::{Reading, Verdict};
pub use holder::holder;
pub use kernel::suits as kernel_suits;
pub use live::{Diagnostics, Live, Seen, Traffic, Watcher};
pub use load::{Loaded, Maps, ProgramHealth};
pub use migrate::migrate;
pub use places::Places;
pub use refuse::check as check_trackable;
pub use stable::Stable;
pub use start::{Before, Start, Started, intact, start, track};
pub use state::{Base, Baseline, CounterSums, DeviceState, Identity, Sealed, StartPoint, now_ms};

use crate::error::{Context, Error, Kind, Result};
use crate::sys::bpf::{self, Words};
use crate::sys::device::BlockDevice;
use aya::maps::MapData;
pub use blkdelta_ebpf::DISK_LIVE;
use rustix::fs::FlockOperation;
use std::fs::File;
use std::path::{Path, PathBuf};

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

/// A bitmap's words, all of them: epochs from before a resize have bitmaps of another length.
///
/// # Errors
/// If it cannot be mapped.
pub fn words_of(bitmap: &MapData) -> Result<Words> {
    let info = bitmap.info().map_err(|e| load::aya_error("examine a bitmap", e))?;
    Words::map(bpf::fd(bitmap.fd()), u64::from(info.max_entries()))
}

/// Makes and pins a bitmap for an epoch, all clear.
///
/// # Errors
/// If the kernel has no memory for it.
pub fn make_bitmap(places: &Places, key: &str, epoch: u64, words: u64) -> Result<MapData> {
    let bitmap = new_bitmap(words)?;
    pin_bitmap(places, key, epoch, &bitmap)?;
    Ok(bitmap)
}

/// Makes a bitmap, all clear, that goes with this process unless it is pinned.
///
/// # Errors
/// If the kernel has no memory for it.
pub fn new_bitmap(words: u64) -> Result<MapData> {
    let words = u32::try_from(words).map_err(|_| {
        Error::new(Kind::Unsupported, format!("track with {words} bitmap words"))
            .hint("use a larger --granularity")
    })?;
    let bitmap = bpf::create_bitmap(words)?;
    MapData::from_fd(bitmap).map_err(|e| load::aya_error("open a new bitmap", e))
}

/// Pins a new bitmap as an epoch's.
///
/// # Errors
/// If that cannot be done.
pub fn pin_bitmap(places: &Places, key: &str, epoch: u64, bitmap: &MapData) -> Result<()> {
    let folder = places.device_pins(key);
    std::fs::create_dir_all(&folder).os_context(|| format!("make folder {}", folder.display()))?;
    bpf::pin(bpf::fd(bitmap.fd()), &places.epoch(key, epoch))
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
    stop(places, &state, path).map(|()| true)
}

/// Stops tracking everything, and takes everything out of the kernel. Each device has its own result.
///
/// # Errors
/// If the state cannot be read, or a pin of no device cannot be removed.
pub fn untrack_all(places: &Places) -> Result<Vec<(PathBuf, Result<()>)>> {
    let states = DeviceState::all(places)?;
    let all: Vec<_> = states.into_iter().map(|s| (s.path.clone(), stop(places, &s, &s.path))).collect();
    if all.iter().all(|(_, result)| result.is_ok()) && places.pins().exists() {
        // also what a killed process left
        std::fs::create_dir_all(places.state()).os_context(|| "untrack everything".into())?;
        let _lock = Lock::take(&places.lock(), "untrack", true)?;
        registry::reconcile(places)?;
        registry::remove_empty(places);
    }
    Ok(all)
}

fn stop(places: &Places, state: &DeviceState, path: &Path) -> Result<()> {
    let _lock = Lock::take(&places.lock(), "untrack", true)?;
    let what = format!("untrack {}", path.display());
    let _device = Lock::take(&places.device_lock(&state.key()), &what, false)?;
    // first what a later boot would believe
    let record = record::forget(places, &state.session)?;
    if record.is_some_and(|record| record.fenced)
        && let Ok(device) = BlockDevice::open(path)
        && device.dev == state.identity.dev
    {
        device.set_read_only(false)?;
    }
    forget(places, &state.key())?;
    since::sweep(places, &state.session, &[]);
    registry::reconcile(places)
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
