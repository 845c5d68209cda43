//! Epochs of one tracked device: the cut, what is sealed, and forgetting it only when it is durable.
//!
//! An epoch is a pinned bitmap. The cut puts a fresh one in its place; nothing is copied or cleared:
//!
//! ```text
//!   dev-7-0/epoch-4   sealed      (its areas are being copied)
//!   dev-7-0/epoch-5   sealed
//!   dev-7-0/epoch-6   running  <- BITMAPS[slot]; the programs set bits here
//! ```
//! What must stay true: bits die last. A bitmap is unpinned only after `retire`, which the caller calls
//! when the point that holds its areas is durable. Whatever a killed process left behind is put right by
//! [`Epochs::open`]: an unfinished cut is finished, a bitmap never put in place is removed.

mod ahead;
mod carry;
mod cut;
mod recover;
mod resize;
mod starts;

pub use crate::tracker::Base;
pub use cut::Cut;

use crate::error::{Context, Error, Kind, Result};
use crate::sys::bpf::Words;
use crate::sys::device::BlockDevice;
use crate::sys::{failpoint, planted};
use crate::tracker::{
    DeviceState, Lock, Maps, Places, find_tracked, not_tracked, now_ms, open_bitmap, record, words_of,
};
use ahead::Ahead;
use std::path::Path;

/// The epochs of one device, held by this process alone.
pub struct Epochs {
    places: Places,
    maps: Maps,
    state: DeviceState,
    device: BlockDevice,
    disk: BlockDevice,
    ahead: Ahead,
    _lock: Lock,
}

impl Epochs {
    /// Opens a tracked device's epochs and puts right what a killed process left.
    ///
    /// # Errors
    /// `NotFound` if the device is not tracked (any more), `Busy` if another process has it.
    pub fn open(places: &Places, path: &Path) -> Result<Self> {
        let device = BlockDevice::open(path)?;
        let state = find_tracked(places, path)?;
        let lock = Lock::take(&places.device_lock(&state.key()), &path.display().to_string(), false)?;
        let state = DeviceState::read(places, &state.key())?.ok_or_else(|| not_tracked(path))?;
        state.check_identity(&device)?;
        let disk = device.whole_disk()?;
        let (places, maps, ahead) = (places.clone(), Maps::open(places)?, Ahead::default());
        let mut epochs = Self { places, maps, state, device, disk, ahead, _lock: lock };
        epochs.recover()?;
        epochs.adopt_size()?;
        Ok(epochs)
    }

    /// What is known about the device.
    pub fn state(&self) -> &DeviceState {
        &self.state
    }

    /// The device.
    pub fn device(&self) -> &BlockDevice {
        &self.device
    }

    /// Id of this stretch of tracking: nothing is known of what was written before it.
    pub fn session(&self) -> &str {
        &self.state.session
    }

    /// The point the pending difference is relative to; `None`: only a full backup will do.
    pub fn base(&self) -> Option<&Base> {
        self.state.base.as_ref()
    }

    /// Bitmaps of the sealed epochs.
    ///
    /// # Errors
    /// If one is gone or cannot be mapped.
    pub fn sealed(&self) -> Result<Vec<Words>> {
        self.state.sealed.iter().map(|s| self.words(s.epoch)).collect()
    }

    fn words(&self, epoch: u64) -> Result<Words> {
        words_of(&open_bitmap(&self.places, &self.state.key(), epoch)?)
    }

    fn word_count(&self) -> u64 {
        self.state.granularity.words(self.state.identity.size)
    }

    /// Forgets all epochs up to and with `upto`: everything they listed is durable in `base`. Sealed epochs
    /// after it stay, and become the difference relative to `base`.
    ///
    /// # Errors
    /// If that cannot be recorded; the epochs then stay.
    pub fn retire(&mut self, upto: u64, base: Base) -> Result<()> {
        self.retire_into(upto, base, false)
    }

    /// As [`retire`](Self::retire); `full`: the point holds the whole device by itself.
    ///
    /// # Errors
    /// As [`retire`](Self::retire).
    pub fn retire_into(&mut self, upto: u64, base: Base, full: bool) -> Result<()> {
        if upto >= self.state.epoch {
            let running = self.state.epoch;
            return Err(Error::new(
                Kind::Bug,
                format!("retire epoch {upto} while epoch {running} is running"),
            ));
        }
        let upto = if planted("retired-too-many") { self.state.epoch - 1 } else { upto };
        let mut state = self.state.clone();
        self.carry_starts(&mut state, upto, &base, full)?;
        state.retired = upto;
        state.sealed.retain(|s| s.epoch > upto);
        state.base = Some(base);
        state.difference_since_ms = now_ms();
        failpoint("epoch.before-retire")?;
        // the base is durable; a reboot between this and the next line compares everything with it
        record::note(&self.places, &self.device, &state)?;
        failpoint("epoch.before-state")?;
        state.write(&self.places)?;
        self.state = state;
        failpoint("epoch.after-retire")?;
        self.sweep_lists();
        self.let_go();
        self.unpin_retired()
    }

    fn unpin_retired(&self) -> Result<()> {
        let key = self.state.key();
        let last = self.state.retired + u64::from(planted("unpinned-too-many"));
        for epoch in self.places.epochs(&key)?.into_iter().filter(|e| *e <= last) {
            self.unpin(epoch)?;
        }
        Ok(())
    }

    fn unpin(&self, epoch: u64) -> Result<()> {
        let path = self.places.epoch(&self.state.key(), epoch);
        std::fs::remove_file(&path).os_context(|| format!("remove bitmap {}", path.display()))
    }
}
