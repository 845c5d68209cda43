//! What one look found: facts, nothing derived from an earlier one.

use crate::block::ExtentSet;
use crate::diff::Health;
use std::collections::BTreeMap;

/// Pieces in which a device's changes are remembered over time, at most.
pub const GRAINS: u64 = 16_384;

/// Everything at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Unix milliseconds.
    pub now_ms: u64,
    /// By device number.
    pub devices: Vec<Glimpse>,
    /// The programs, which serve all devices.
    pub programs: Vec<Runs>,
    /// Why the kernel does not count their runs, if so.
    pub uncounted: Option<String>,
    /// Why writes are not seen one by one, if so.
    pub no_events: Option<String>,
    /// Events that were lost since the last look.
    pub lost: u64,
}

/// One tracked device.
#[derive(Clone, Debug, Default)]
pub struct Glimpse {
    /// Its path.
    pub path: String,
    /// Which stretch of tracking it is.
    pub session: String,
    /// Bytes.
    pub size: u64,
    /// Bytes of an area.
    pub area: u64,
    /// What is on the list.
    pub list: ExtentSet,
    /// Unix milliseconds: since when.
    pub since_ms: u64,
    /// How far it can be trusted.
    pub health: Health,
    /// Why not, if not.
    pub suspect: Vec<String>,
    /// Writes that its disk took since it is tracked.
    pub writes: u64,
    /// Their bytes.
    pub bytes: u64,
    /// It is a part of that disk only.
    pub part: bool,
    /// Epochs and locks.
    pub cuts: Cuts,
    /// The last ones, newest first.
    pub backups: Vec<Backup>,
    /// Its writes since the last look, if they are seen.
    pub seen: Option<Writes>,
}

/// Where a device's epochs are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cuts {
    /// The running epoch.
    pub epoch: u64,
    /// Unix milliseconds: it began.
    pub began_ms: Option<u64>,
    /// Ended, not yet in a durable point: each with the number of its doubts.
    pub sealed: Vec<(u64, usize)>,
    /// The next one's bitmap is made already.
    pub ahead: bool,
    /// The process that holds the device: it backs it up, or cuts.
    pub holder: Option<u32>,
}

/// A backup that is remembered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backup {
    /// Unix milliseconds.
    pub at_ms: u64,
    /// How long it took.
    pub took_ms: Option<u64>,
    /// `ok`, `suspect`, `failed`; nothing if only its point is known.
    pub result: String,
    /// `full` or `incremental`.
    pub kind: String,
    /// Bytes in the repository.
    pub stored: Option<u64>,
    /// The job, or the point where no daemon remembers one.
    pub what: String,
    /// Why it failed, or is suspect.
    pub why: Option<String>,
}

/// Writes that were seen one by one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Writes {
    /// How many.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes by piece of [`grain`] bytes.
    pub grains: BTreeMap<u64, u64>,
}

/// A program's runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Runs {
    /// Its name.
    pub name: String,
    /// How many, while they are counted.
    pub count: u64,
    /// Time in it.
    pub nanoseconds: u64,
    /// Events for which it was skipped.
    pub skipped: u64,
}

/// Bytes of the pieces in which the changes of a device of `size` bytes are remembered.
pub const fn grain(size: u64) -> u64 {
    let grain = size.div_ceil(GRAINS).next_multiple_of(4096);
    if grain == 0 { 4096 } else { grain }
}
