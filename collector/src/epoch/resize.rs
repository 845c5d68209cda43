//! A device that grew or shrank goes on being tracked: no write is lost, new space counts as changed.
//!
//! 1. a bitmap for the larger of both sizes is made, all of the new space marked in it;
//! 2. it becomes the running one, as in a cut: from here on no program can set a bit that has no place;
//! 3. the programs are told the new size;
//! 4. the state file says that the old epoch is sealed, and the size.
//!
//! Writes beyond the old end before 3 were not marked one by one: they lie in the new space. Killed in between,
//! the next [`Epochs::open`] finds the size still different and does it again.

use super::Epochs;
use crate::block::{Extent, SECTOR};
use crate::error::{Error, Kind, Result};
use crate::sys::bpf::{self, Words};
use crate::sys::{failpoint, planted};
use crate::tracker::{Lock, make_bitmap};

impl Epochs {
    /// Takes over the size that the device has now.
    pub(super) fn adopt_size(&mut self) -> Result<()> {
        let (was, now) = (self.state.identity.size, self.device.size);
        if was == now || planted("resize-unnoticed") {
            return Ok(());
        }
        let key = self.state.key();
        let (old, new) = (self.state.epoch, self.state.epoch + 1);
        let map = make_bitmap(&self.places, &key, new, self.state.granularity.words(was.max(now)))?;
        let words = Words::map(bpf::fd(map.fd()), self.state.granularity.words(was.max(now)))?;
        self.state.identity.size = now;
        if !planted("new-space-clean") {
            words.mark(self.state.granularity.bytes(), Extent::between(was.min(now), now));
        }
        failpoint("epoch.resize.after-pin")?;
        self.state.baseline.excuse_beyond_end();
        let reading = self.read()?;
        let verdict = reading.judge(&self.state);
        self.maps.switch_bitmap(self.state.slot, &map)?;
        failpoint("epoch.resize.after-switch")?;
        self.tell_programs()?;
        failpoint("epoch.resize.after-programs")?;
        self.seal(old, [&self.words(old)?, &words], &reading, &verdict)?;
        // what went beyond the old end until a moment ago is in the new space
        let mut state = self.state.clone();
        state.baseline.accept_beyond_end(&self.read()?);
        // a chain has one size: the next point is a full one
        for start in std::mem::take(&mut state.starts) {
            let (path, point) = (self.device.path.display(), &start.base.point);
            log::warn!("{path} was resized: what changed since {point} is no longer kept");
        }
        state.write(&self.places)?;
        self.state = state;
        log::info!("{} had {was} bytes and has {now} now", self.device.path.display());
        self.fold_sealed(0)
    }

    fn tell_programs(&mut self) -> Result<()> {
        let _registry = Lock::take(&self.places.lock(), "resize", true)?;
        let disk = self.device.whole_disk()?.size / SECTOR;
        let (slot, sectors) = (self.state.slot, self.device.size / SECTOR);
        let words = self.state.granularity.words(self.device.size) as u32;
        self.maps.resize((self.state.identity.disk, disk), slot, sectors, words)
    }

    /// An error if the size changed since the epochs were opened: whoever copies has the old one in mind.
    pub(super) fn ensure_size(&self) -> Result<()> {
        let (was, now) = (self.state.identity.size, self.device.size_now()?);
        if was == now || planted("resize-unnoticed") {
            return Ok(());
        }
        let text = format!("{} was resized meanwhile, from {was} to {now} bytes", self.device.path.display());
        Err(Error::new(Kind::Busy, text).hint("start again; nothing is lost, new space counts as changed"))
    }
}
