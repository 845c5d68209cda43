//! The clean stop: everything that changed, and what proves later that nothing changed since, made durable.
//!
//! 1. nobody uses the device; its page cache is written back;
//! 2. the record says that we are about to fence it, then the kernel refuses writes to it;
//! 3. nobody uses it now either; two cuts with the witnesses read in between: the second saw nothing;
//! 4. the map, then the record that names it by hash.
//!
//! A save that fails or cannot be proved leaves the record saying "running": the next boot compares by hash. Tracking
//! goes on all the while. A device that is to be written again in this boot is opened by `resume`.

use super::{users, witness};
use crate::diff::{self, Difference};
use crate::epoch::Epochs;
use crate::error::{Error, Result};
use crate::format::{Blake3, Record, Saved, SavedMap, Witness};
use crate::sys::{failpoint, planted, publish};
use crate::tracker::{DeviceState, Places, Stable, now_ms, record};
use std::path::{Path, PathBuf};

/// How a device was stopped.
#[derive(Clone, Debug)]
pub struct Stopped {
    /// The device.
    pub device: PathBuf,
    /// Why the next boot will compare by hash; empty: a clean stop.
    pub reasons: Vec<String>,
    /// Bytes of the areas that had changed since the base.
    pub changed: u64,
    /// What will tell that nobody wrote meanwhile.
    pub witnesses: Vec<String>,
}

/// Saves every tracked device.
///
/// # Errors
/// If the state cannot be read; what concerns one device is in its own result.
pub fn save_all(places: &Places) -> Result<Vec<(PathBuf, Result<Stopped>)>> {
    let states = DeviceState::all(places)?;
    Ok(states.into_iter().map(|s| (s.path.clone(), save(places, &s.path))).collect())
}

/// Saves one device.
///
/// # Errors
/// `NotFound` if it is not tracked, `Busy` while a backup runs; what fails. The device is then not fenced.
pub fn save(places: &Places, path: &Path) -> Result<Stopped> {
    let mut stop = Stop::begin(places, path)?;
    let mut stopped =
        Stopped { device: path.into(), reasons: stop.hindrances()?, changed: 0, witnesses: Vec::new() };
    if !stopped.reasons.is_empty() {
        record::note(places, stop.epochs.device(), stop.epochs.state())?;
        return Ok(stopped);
    }
    stop.fence()?;
    match stop.keep() {
        Ok(Ok((changed, witnesses))) => {
            stopped.changed = changed;
            stopped.witnesses = witnesses.into_iter().map(|w| w.what).collect();
            Ok(stopped)
        }
        Ok(Err(reasons)) => {
            stop.open()?;
            Ok(Stopped { reasons, ..stopped })
        }
        Err(error) => {
            stop.open()?;
            Err(error)
        }
    }
}

struct Stop {
    places: Places,
    epochs: Epochs,
    stable: Option<Stable>,
    fenced: bool,
}

/// What was kept, or why nothing was.
type Kept = std::result::Result<(u64, Vec<Witness>), Vec<String>>;

impl Stop {
    fn begin(places: &Places, path: &Path) -> Result<Self> {
        let epochs = Epochs::open(places, path)?;
        let stable = Stable::of(epochs.device());
        Ok(Self { places: places.clone(), epochs, stable, fenced: false })
    }

    /// Why there is no use in trying.
    fn hindrances(&self) -> Result<Vec<String>> {
        let Some(stable) = &self.stable else {
            return Ok(vec!["what it holds does not outlive a reboot".into()]);
        };
        if !stable.certain {
            return Ok(vec![format!("only its name ({}) would tell it from another device", stable.text)]);
        }
        let same = stable.devices()?.len();
        if same > 1 {
            return Ok(vec![format!("{same} devices are {}", stable.text)]);
        }
        users::of(self.epochs.device())
    }

    fn record(&self) -> Result<Record> {
        let record = record::running(self.epochs.device(), self.epochs.state());
        record.ok_or_else(|| Error::new(crate::error::Kind::Bug, "save a device without an identity"))
    }

    /// From here on the kernel refuses writes.
    fn fence(&mut self) -> Result<()> {
        let device = self.epochs.device();
        device.flush_cache()?;
        if device.read_only {
            return Ok(());
        }
        record::write(&self.places, &Record { fenced: true, ..self.record()? })?;
        failpoint("save.before-fence")?;
        if !planted("fence-skipped") {
            device.set_read_only(true)?;
        }
        self.fenced = true;
        failpoint("save.after-fence")
    }

    /// It is to be written again.
    fn open(&self) -> Result<()> {
        record::open_fence(&self.places, self.epochs.device(), self.epochs.state())
    }

    fn keep(&mut self) -> Result<Kept> {
        let users = users::of(self.epochs.device())?;
        if !users.is_empty() {
            return Ok(Err(users));
        }
        self.epochs.device().flush_cache()?;
        self.epochs.cut()?;
        failpoint("save.after-cut")?;
        let pending = diff::pending(&self.epochs)?;
        let witnesses = match witness::take(self.epochs.device(), &pending.extents)? {
            Ok(witnesses) => witnesses,
            Err(why) => return Ok(Err(vec![why])),
        };
        let last = self.epochs.cut()?;
        if !last.quiet {
            return Ok(Err(vec!["it was written to while it was being saved".into()]));
        }
        self.write(diff::pending(&self.epochs)?, witnesses).map(Ok)
    }

    /// Map, then record.
    fn write(&self, pending: Difference, witnesses: Vec<Witness>) -> Result<(u64, Vec<Witness>)> {
        let state = self.epochs.state();
        let session: ulid::Ulid = state.session.parse().map_err(|e| {
            Error::caused(crate::error::Kind::Damaged, format!("session {:?}", state.session), e)
        })?;
        let map = SavedMap {
            id: ulid::Ulid::generate().to_bytes(),
            session: session.to_bytes(),
            granularity: state.granularity,
            size: state.identity.size,
            extents: match planted("saved-map-short") {
                true => pending.extents.iter().skip(1).copied().collect(),
                false => pending.extents,
            },
        };
        let record = self.record()?;
        let bytes = map.encode()?;
        failpoint("save.before-map")?;
        let path = record::map_of(&self.places, &record.identity);
        if !(planted("old-map-kept") && path.exists()) {
            publish(&path, &spoiled(&bytes))?;
        }
        failpoint("save.before-record")?;
        let saved = Saved {
            map: Blake3::of(&bytes),
            time: now_ms(),
            suspect: pending.suspect,
            witnesses: witnesses.clone(),
        };
        record::write(&self.places, &Record { fenced: self.fenced, saved: Some(saved), ..record })?;
        failpoint("save.after-record")?;
        Ok((map.extents.total(), witnesses))
    }
}

/// The bytes of a map as they reach the file: the same, but for faults.
fn spoiled(bytes: &[u8]) -> std::borrow::Cow<'_, [u8]> {
    if planted("saved-map-cut") {
        return bytes[..bytes.len() / 2].into();
    }
    if planted("saved-map-bit-flipped") {
        let mut bytes = bytes.to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        return bytes.into();
    }
    bytes.into()
}
