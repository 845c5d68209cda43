//! What a device's pins mean: the file beside them, published at every step that matters.
//!
//! It is gone after a reboot, like the pins. Pins without it, or it without pins, are nothing.

use super::health::Reading;
use super::load::{read_json, write_json};
use super::places::Places;
use crate::block::Granularity;
use crate::error::{Context, Error, Kind, Result};
pub use crate::format::{Base, StartPoint};
use crate::sys::device::{BlockDevice, Makeup};
use crate::sys::planted;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970, UTC.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

/// Name of a device's files: `dev-<major>-<minor>`.
pub fn key_of(dev: u32) -> String {
    format!("dev-{}-{}", dev >> 20, dev & 0xf_ffff)
}

/// What must stay the same for a device to be the one that was tracked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Kernel `dev_t` of the device.
    pub dev: u32,
    /// Kernel `dev_t` of its whole disk.
    pub disk: u32,
    /// First sector on the disk.
    pub start_sector: u64,
    /// Bytes.
    pub size: u64,
    /// The kernel's serial number of the disk behind the number.
    pub diskseq: Option<u64>,
    /// Where a loop device begins in its backing file: it can be moved without a write, and keeps its number.
    pub backing_offset: Option<u64>,
}

impl Identity {
    /// Of a device as it is now.
    pub fn of(device: &BlockDevice) -> Self {
        Self {
            dev: device.dev,
            disk: device.disk,
            start_sector: device.partition.map_or(0, |p| p.start_sector),
            size: device.size,
            diskseq: device.diskseq,
            backing_offset: device.backing_offset,
        }
    }
}

/// An epoch that has ended and whose bits are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// Its number.
    pub epoch: u64,
    /// Why it may be incomplete; empty if it is proved.
    pub suspect: Vec<String>,
}

/// Sums from which an epoch is judged: what had been counted when it began.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Baseline {
    /// The kernel's written and discarded sectors when tracking began.
    pub kernel_at_start: u64,
    /// The same, when the epoch began.
    pub kernel: u64,
    /// Submitted sectors by which we were ahead of the kernel's when tracking began (another part of the disk was
    /// tracked before) or at a moment of rest later (its accounting was off): they vouch for nothing after that.
    #[serde(default)]
    pub ahead: u64,
    /// Shortfall of submitted sectors that was reported already.
    pub forgiven: u64,
    /// Skipped runs of each program.
    pub skipped: Vec<(String, u64)>,
    /// Our counters, by copy.
    pub counters: Vec<CounterSums>,
    /// Commands to NVMe controllers.
    #[serde(default)]
    pub admin: CounterSums,
    /// What a dm or md device was put together from.
    #[serde(default)]
    pub makeup: Makeup,
}

impl Baseline {
    /// The device grew: writes beyond its old end lie in the new space, which counts as changed.
    pub fn excuse_beyond_end(&mut self) {
        for copy in &mut self.counters {
            copy.out_of_range = u64::MAX;
        }
    }

    /// Writes beyond the end that were counted up to `reading` are no surprise.
    pub fn accept_beyond_end(&mut self, reading: &Reading) {
        for (copy, now) in self.counters.iter_mut().zip(&reading.counters) {
            copy.out_of_range = now.out_of_range;
        }
    }
}

/// Sums over all CPUs of one copy's counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the same words as blkdelta_ebpf::Counters")]
pub struct CounterSums {
    pub submitted: u64,
    pub submitted_sectors: u64,
    pub requeued: u64,
    pub completed: u64,
    pub completed_sectors: u64,
    pub orphan_sectors: u64,
    pub overflowed: u64,
    pub overflowed_sectors: u64,
    pub passthrough: u64,
    pub unknown: u64,
    pub unaddressed: u64,
    pub out_of_range: u64,
    pub truncated: u64,
    pub unmapped: u64,
    pub events_lost: u64,
    pub errors: u64,
    #[serde(default)]
    pub commands: [u64; 4],
}

/// The layout of files that do not name one.
pub(super) const fn first_layout() -> u32 {
    1
}

/// `dev-<major>-<minor>.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceState {
    /// Layout of the maps that it is tracked with; files of the first one do not say it.
    #[serde(default = "first_layout")]
    pub layout: u32,
    /// Boot in which tracking began.
    pub boot: String,
    /// Id of this stretch of tracking: a new one at each `track`.
    pub session: String,
    /// Path as the user gave it.
    pub path: PathBuf,
    /// Which device.
    pub identity: Identity,
    /// Area size.
    pub granularity: Granularity,
    /// Row in TARGETS and BITMAPS.
    pub slot: u32,
    /// Row of its disk in COUNTERS.
    pub disk_row: u32,
    /// The disk takes bios, not requests.
    pub bio_based: bool,
    /// When tracking began (ms).
    pub since_ms: u64,
    /// When the difference began: the cut of `base`, or `since_ms`.
    pub difference_since_ms: u64,
    /// The running epoch.
    pub epoch: u64,
    /// Epochs up to this one are in a durable point: their bitmaps may go.
    pub retired: u64,
    /// Ended, not retired.
    pub sealed: Vec<Sealed>,
    /// What the difference is relative to.
    pub base: Option<Base>,
    /// Points from which a difference can be made; the base is the last of them.
    #[serde(default)]
    pub starts: Vec<StartPoint>,
    /// Repositories whose last full point stays a start point.
    #[serde(default)]
    pub keep_full: Vec<String>,
    /// Where the counters stood when the running epoch began.
    pub baseline: Baseline,
    /// A write found no in-flight slot and may still be on its way: cuts yet to carry whole epochs over.
    pub carry_all: u8,
}

impl DeviceState {
    /// Reads a device's state; `None` if it is not tracked (a file of an earlier boot is nothing, one of another
    /// layout is `migrate`'s).
    ///
    /// # Errors
    /// If the file is damaged.
    pub fn read(places: &Places, key: &str) -> Result<Option<Self>> {
        let state: Option<Self> = read_json(&places.device_state(key))?;
        let boot = places.boot_id()?;
        let ours = |s: &Self| s.boot == boot || planted("other-boot-believed");
        Ok(state.filter(|s| ours(s) && s.layout == places.layout()))
    }

    /// Publishes it.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, places: &Places) -> Result<()> {
        write_json(&places.device_state(&self.key()), self)
    }

    /// Name of its files.
    pub fn key(&self) -> String {
        key_of(self.identity.dev)
    }

    /// Bytes of its bitmaps in the kernel: the running epoch's and the sealed ones'.
    pub fn memory(&self) -> u64 {
        (self.sealed.len() as u64 + 1) * self.granularity.words(self.identity.size) * 8
    }

    /// All devices that are tracked. A damaged file is an error: it may stand for a tracked device.
    ///
    /// # Errors
    /// If the folder or a file cannot be read.
    pub fn all(places: &Places) -> Result<Vec<Self>> {
        let folder = places.state();
        let entries = match std::fs::read_dir(folder) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.os_context(|| format!("list {}", folder.display()))?,
        };
        let mut all = Vec::new();
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some(key) = name.to_str().and_then(|n| n.strip_suffix(".json")) else { continue };
            if key.starts_with("dev-") {
                all.extend(Self::read(places, key)?);
            }
        }
        all.sort_by_key(|s| s.identity.dev);
        Ok(all)
    }

    /// Is the device still the one that was tracked? It may have another size: see `epoch::resize`.
    ///
    /// # Errors
    /// `NotFound`, saying what changed.
    pub fn check_identity(&self, device: &BlockDevice) -> Result<()> {
        let now = Identity::of(device);
        let same = (Identity { size: self.identity.size, ..now.clone() }) == self.identity;
        if (same || planted("identity-ignored")) && now.size > 0 {
            return Ok(());
        }
        let what = if now.diskseq != self.identity.diskseq {
            "another disk is behind this device now"
        } else if now.size == 0 {
            "it has no medium any more"
        } else if now.backing_offset != self.identity.backing_offset {
            "it begins elsewhere in its backing file"
        } else {
            "its place on the disk changed"
        };
        let path = device.path.display();
        Err(Error::new(Kind::NotFound, format!("{path} is tracked no more: {what}"))
            .hint(format!("run `blkdelta track {path}` again; the next backup reads everything")))
    }
}
