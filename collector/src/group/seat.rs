//! The tracked devices that files of a group may lie on.

use crate::block::ExtentSet;
use crate::epoch::Epochs;
use crate::error::{Error, Kind, Result};
use crate::format::{DeviceId, device_at};
use crate::job::{self, Ledger};
use crate::source::LiveDevice;
use crate::sys::device::BlockDevice;
use crate::tracker::{DeviceState, Places, not_tracked};
use crate::tree::{Picker, devices_below};
use std::path::PathBuf;

/// A device, and the tracking of it, held by this process alone.
pub struct Seated {
    /// The kernel's number of it.
    pub dev: u32,
    /// Bytes.
    pub size: u64,
    /// Its path.
    pub path: PathBuf,
    /// Its name in repositories.
    pub id: DeviceId,
    /// The tracking.
    pub ledger: Box<dyn Ledger>,
    /// Where to read it.
    pub source: LiveDevice,
}

impl Seated {
    fn open(places: &Places, path: PathBuf) -> Result<Self> {
        let device = BlockDevice::open(&path)?;
        let epochs = Epochs::open(places, &path)?;
        let id = job::identify(&device).id;
        let source = LiveDevice::open(&path)?;
        Ok(Self { dev: device.dev, size: device.size, path, id, ledger: Box::new(epochs), source })
    }
}

/// The devices to hold: those asked for, or all tracked ones that what is picked may lie on.
///
/// # Errors
/// If one that was asked for is not tracked; [`Kind::Busy`] if a backup of one runs.
pub fn seats(places: &Places, picker: &Picker, asked: &[PathBuf]) -> Result<Vec<Seated>> {
    let tracked = DeviceState::all(places)?;
    if !asked.is_empty() {
        return asked.iter().map(|path| Seated::open(places, path.clone())).collect();
    }
    let mut wanted = Vec::new();
    for base in picker.bases() {
        wanted.extend(devices_below(base)?);
    }
    let mut seats: Vec<Seated> = Vec::new();
    let mut untracked = Vec::new();
    for dev in wanted.into_iter().filter(|dev| dev >> 20 != 0) {
        let Ok(device) = BlockDevice::of_number(dev) else { continue };
        let is = |number: u32| move |state: &&DeviceState| state.identity.dev == number;
        match tracked.iter().find(is(dev)).or_else(|| tracked.iter().find(is(device.disk))) {
            Some(state) if seats.iter().any(|seat| seat.dev == state.identity.dev) => {}
            Some(state) => seats.push(Seated::open(places, state.path.clone())?),
            None => untracked.push(device.path),
        }
    }
    if let (true, Some(path)) = (seats.is_empty(), untracked.first()) {
        let hint = "or say --untracked: every byte of the group is then read and compared each time";
        return Err(Error::new(Kind::NotFound, not_tracked(path).to_string())
            .hint(format!("run `blkdelta track {}` first; {hint}", path.display())));
    }
    Ok(seats)
}

/// Extents of a device as addresses of the image.
pub(super) fn in_image(extents: &ExtentSet, number: u32) -> ExtentSet {
    let base = device_at(number);
    extents.iter().map(|e| crate::block::Extent::new(base + e.offset, e.length)).collect()
}
