//! The cut: the running epoch ends, the next begins, no write falls between.
//!
//! 1. a fresh bitmap is pinned (it was made before, see `ahead`);
//! 2. the ending epoch is judged;
//! 3. the kernel's table gets the new bitmap, and the kernel waits until every program that may still use
//!    the old one has ended;
//! 4. what is in flight is carried into the new one;
//! 5. the state file says that the old one is sealed.
//!
//! A process killed between 1 and 5 leaves a cut that [`Epochs::open`] finishes or undoes.

use super::Epochs;
use super::ahead::Mapped;
use crate::block::{ExtentSet, extents_of_words};
use crate::error::Result;
use crate::sys::bpf::Words;
use crate::sys::{failpoint, planted};
use crate::tracker::{Reading, Sealed, Verdict, doubt};

/// After a write found no slot: this many cuts in a row must see nothing in flight before its epoch counts
/// as ended everywhere.
const QUIET_CUTS: u8 = 2;

/// Sealed bitmaps kept apart; more are folded together (one is 32 MiB per TiB at 4 KiB).
const MAX_SEALED: usize = 4;

/// An epoch that was just sealed.
#[derive(Clone, Debug, Default)]
pub struct Cut {
    /// Its number.
    pub epoch: u64,
    /// What was written in it.
    pub extents: ExtentSet,
    /// Why that cannot be proved complete.
    pub suspect: Vec<String>,
    /// Nothing was submitted, completed or in flight from before its beginning until after its end: whatever
    /// was copied meanwhile is the device at one instant. (`extents` may still list leaked slots.)
    pub quiet: bool,
    /// Writes that were in flight at the cut and are in the new epoch too.
    pub carried: u64,
}

impl Epochs {
    /// Ends the running epoch, seals it, and tells what was written in it.
    ///
    /// # Errors
    /// If the kernel has no memory for a new bitmap (see [`Self::prepare`]) or the seal cannot be recorded; nothing is lost then.
    pub fn cut(&mut self) -> Result<Cut> {
        self.ensure_size()?;
        if self.places.epoch(&self.state.key(), self.state.epoch + 1).exists() {
            self.recover()?; // an earlier cut of this process failed half-way
        }
        let (old, new) = (self.state.epoch, self.state.epoch + 1);
        let Mapped { map, words } = self.bitmap_for(new)?;
        failpoint("epoch.after-pin")?;
        let reading = self.read()?;
        let verdict = reading.judge(&self.state);
        let early = self.without_grace(old)?;
        if !planted("switch-skipped") {
            self.maps.switch_bitmap(self.state.slot, &map)?;
        }
        failpoint("epoch.after-switch")?;
        let ended = self.ending(old)?;
        let cut = self.seal(old, [&ended, &words], &reading, &verdict)?;
        let cut = Cut { extents: early.unwrap_or(cut.extents), ..cut };
        self.began(new, words, ended);
        Ok(cut)
    }

    /// A fault: the ending epoch is read while programs may still mark it. Whoever plants it gets time to write.
    fn without_grace(&self, old: u64) -> Result<Option<ExtentSet>> {
        if !planted("grace-skipped") {
            return Ok(None);
        }
        let (words, size) = (self.words(old)?, self.state.identity.size);
        let extents = extents_of_words(words.iter(), self.state.granularity, size).collect();
        std::thread::sleep(std::time::Duration::from_millis(100));
        Ok(Some(extents))
    }

    pub(super) fn read(&self) -> Result<Reading> {
        // `iostats` may have been switched since: look anew
        let disk = self.device.whole_disk()?;
        Reading::take(&self.places, &self.maps, &disk, self.state.disk_row)
    }

    /// Steps 4 and 5: also what recovery does for a cut that stopped after step 3.
    pub(super) fn seal(
        &mut self,
        old: u64,
        [old_words, new_words]: [&Words; 2],
        before: &Reading,
        verdict: &Verdict,
    ) -> Result<Cut> {
        // first what is on its way, then what was counted: a write that ends in between is counted
        let in_flight = self.disk.writes_in_flight().unwrap_or(u64::MAX);
        let carried = self.carry_in_flight(new_words)?;
        let later = self.read()?;
        let after = later.judge(&self.state);
        let still = in_flight.min(self.disk.writes_in_flight().unwrap_or(0));
        let quiet_cuts_left = match after.overflowed {
            0 => self.state.carry_all.saturating_sub(u8::from(in_flight == 0)),
            _ => QUIET_CUTS,
        };
        if (after.overflowed > 0 || self.state.carry_all > 0) && !planted("carry-all-skipped") {
            self.carry_all(old_words, new_words);
        }
        let mut suspect = verdict.suspect.clone();
        suspect.extend(after.suspect.iter().filter(|s| !verdict.suspect.contains(s)).cloned());
        suspect.extend(before.uncounted(&later, &self.state));
        suspect.extend(before.unknown_flights(&later, &self.state, still, carried));
        if !self.maps.serves(self.state.identity.disk, self.state.slot)? {
            suspect.push("the kernel's programs do not find the device any more".into());
        }
        let doubts = doubt::raised(&self.places, &self.state)?;
        suspect.extend(doubts.iter().cloned());
        let mut state = self.state.clone();
        state.baseline = match in_flight == 0 && before.rests_until(&later) {
            true => before.baseline_at_rest(&state.baseline, verdict.shortfall),
            false => before.baseline(&state.baseline, verdict.shortfall),
        };
        state.carry_all = quiet_cuts_left;
        suspect.retain(|_| !planted("suspect-dropped"));
        state.sealed.push(Sealed { epoch: old, suspect: suspect.clone() });
        state.epoch = self.state.epoch.max(old + 1);
        state.write(&self.places)?;
        self.state = state;
        failpoint("epoch.after-seal")?;
        doubt::settle(&self.places, &self.state, &doubts)?;
        let (granularity, size) = (self.state.granularity, self.state.identity.size);
        let extents = extents_of_words(old_words.iter(), granularity, size).collect();
        let quiet = after.activity == 0 && in_flight == 0;
        Ok(Cut { epoch: old, extents, suspect, quiet, carried })
    }

    /// Folds the oldest sealed bitmaps together, so that after so many more there are not too many: first the bits,
    /// then the state, then the pin.
    pub(super) fn fold_sealed(&mut self, more: usize) -> Result<()> {
        while self.state.sealed.len() > 1 && self.state.sealed.len() + more > MAX_SEALED {
            let (oldest, next) = (self.state.sealed[0].clone(), self.state.sealed[1].epoch);
            if !planted("fold-drops") {
                self.carry_all(&self.words(oldest.epoch)?, &self.words(next)?);
            }
            let mut state = self.state.clone();
            state.sealed.remove(0);
            for reason in oldest.suspect {
                if !state.sealed[0].suspect.contains(&reason) {
                    state.sealed[0].suspect.push(reason);
                }
            }
            state.write(&self.places)?;
            self.state = state;
            self.unpin(oldest.epoch)?;
        }
        Ok(())
    }
}
