//! Carry-over: what is in flight at a cut belongs to both epochs.
//!
//! A write submitted before the cut is marked in the sealed epoch; if it reaches the medium only after that
//! epoch's areas were copied, the new epoch must have it too. Its completion marks it there, but completions
//! can be missed, so every slot still taken after the switch is marked in the new epoch by hand. A slot that
//! leaked marks too much, never too little.

use super::Epochs;
use crate::block::{Extent, SECTOR};
use crate::error::Result;
use crate::sys::bpf::{self, InFlight, Words};
use crate::sys::planted;

impl Epochs {
    /// Marks all writes in flight to this device in `to`. Returns how many slots were taken.
    pub(super) fn carry_in_flight(&self, to: &Words) -> Result<u64> {
        if planted("carry-skipped") {
            return Ok(0);
        }
        let row = u64::from(self.state.disk_row);
        let table = InFlight::map(bpf::fd(self.maps.slots.fd()))?;
        let mut carried = 0;
        for flight in table.taken().filter(|flight| flight.key >> 1 & 63 == row) {
            let start = flight.sector.max(self.state.identity.start_sector);
            let end = flight.sector.saturating_add(flight.count);
            let first = (start - self.state.identity.start_sector).saturating_mul(SECTOR);
            let extent = Extent::new(first, end.saturating_sub(start).saturating_mul(SECTOR));
            let device = Extent::new(0, self.state.identity.size);
            if let Some(extent) = extent.intersect(&device) {
                to.mark(self.state.granularity.bytes(), extent);
            }
            carried += 1;
        }
        Ok(carried)
    }

    /// Marks everything of one epoch in another: for writes that found no slot.
    pub(super) fn carry_all(&self, from: &Words, to: &Words) {
        // of a device that shrank meanwhile the rest is gone
        for (i, bits) in from.iter().enumerate().take(to.len()) {
            to.or(i, bits);
        }
    }
}
