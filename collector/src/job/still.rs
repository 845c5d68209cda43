//! How a backup comes to an image of one instant: passes until little is left, then a freeze; or passes until
//! nothing was written during one.
//!
//! What must stay true: [`Still::Frozen`] only if the whole device stood still from before the cut until all of
//! it was copied, as another cut proves; [`Still::Quiet`] only if a cut proves that nothing was written while
//! the pass before it copied; everything else is [`Still::Moving`].

use super::passes::Passes;
use super::{Wishes, hook};
use crate::block::{BLOCK, ExtentSet};
use crate::epoch::Cut;
use crate::error::Result;
use crate::sys::failpoint;
use crate::sys::freeze::{Freeze, refuse_if_frozen};
use crate::usage::Mounted;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How the source stood when the last pass copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Still {
    /// The file systems were frozen, for so long.
    Frozen(Duration),
    /// Nobody wrote.
    Quiet,
    /// It changed while it was copied.
    Moving,
}

/// Passes at most after the first.
const PASSES: usize = 8;
/// One to copy what is left, one to prove that nothing was written meanwhile.
const CUTS_IN_A_FREEZE: usize = 2;
/// Times that what changed during a freeze is copied, too.
const AGAIN: u32 = 5;
/// So little left that a freeze is short whatever the device.
const FEW: u64 = 256 * BLOCK;
/// A freeze so short needs no more passes to shorten it.
const SHORT: Duration = Duration::from_millis(100);

impl Passes<'_> {
    /// Copies on until the image is of one instant, or cannot be.
    pub(super) fn come_to_rest(
        &mut self,
        mounted: &[Mounted],
        wishes: &Wishes,
        may_freeze: bool,
    ) -> Result<Still> {
        if mounted.is_empty() || !may_freeze {
            return self.unfrozen(wishes);
        }
        self.until_little()?;
        let predicted = self.pace.predicted();
        if predicted > wishes.freeze_limit {
            self.notes.push(format!(
                "not frozen: it would have taken about {} ms, the limit is {} ms",
                predicted.as_millis(),
                wishes.freeze_limit.as_millis()
            ));
            return self.unfrozen(wishes);
        }
        self.freeze(mounted, wishes)
    }

    /// Freezes, cuts, copies, thaws; without a freeze, live passes.
    fn freeze(&mut self, mounted: &[Mounted], wishes: &Wishes) -> Result<Still> {
        self.ledger.prepare(CUTS_IN_A_FREEZE)?;
        self.subject.survey.flush()?;
        let points: Vec<PathBuf> = mounted.iter().map(|m| m.mountpoint.clone()).collect();
        let hold = refuse_if_frozen(&points, &self.own_folders)
            .and_then(|()| Freeze::hold(&points, wishes.freeze_limit));
        let hold = match hold {
            Ok(hold) => hold,
            Err(error) => {
                let advice = error.advice().map(|advice| format!(" ({advice})")).unwrap_or_default();
                self.notes.push(format!("not frozen: {}{advice}", error.in_full()));
                return self.unfrozen(wishes);
            }
        };
        // nothing but copying until the thaw; dropping `hold` on a failure thaws
        let held = hold.held_for();
        let (proof, times) = self.while_frozen(mounted, &hold, wishes)?;
        let frozen = hold.thaw();
        log::info!("frozen: {held:?} to freeze, {times}, {frozen:?} in all");
        failpoint("job.after-thaw")?;
        let why = match (proof, frozen) {
            (Ok(()), Ok(time)) => return Ok(Still::Frozen(time)),
            (Err(why), _) => why,
            (_, Err(error)) => format!("the freeze did not last: {}", error.in_full()),
        };
        self.notes.push(why);
        Ok(Still::Moving)
    }

    /// Cuts, copies, and cuts again to prove that nothing of the file systems changed meanwhile; the inner
    /// failure is a reason why that could not be proved.
    fn while_frozen(
        &mut self,
        mounted: &[Mounted],
        hold: &Freeze,
        wishes: &Wishes,
    ) -> Result<(Result<(), String>, String)> {
        failpoint("job.frozen")?;
        let began = Instant::now();
        let cut = self.cut()?;
        let after_cut = began.elapsed();
        self.copy_cut(&cut, true)?;
        let after_copy = began.elapsed();
        // before the proof: what it proves holds for what the command saw, too
        if let Some(command) = &wishes.while_frozen {
            let took = hook::run(command, wishes.freeze_limit.saturating_sub(hold.held_for()))?;
            self.notes.push(format!("`{command}` ran for {} ms of the freeze", took.as_millis()));
        }
        let after_hook = began.elapsed();
        let after = self.proof(mounted, hold, wishes)?;
        failpoint("job.before-thaw")?;
        let times = format!(
            "{after_cut:?} to cut, {:?} to copy, {:?} for the command, {:?} to prove",
            after_copy - after_cut,
            after_hook - after_copy,
            began.elapsed() - after_hook
        );
        Ok((self.judge(&after, mounted), times))
    }

    /// The cut that proves it. A freeze does not hold back everything: ext4 discards what was freed before it on a work queue
    /// of its own (`ext4_discard_work`, fs/ext4/mballoc.c, 6.12). What comes like that is copied too, and the proof made
    /// anew, while there is time. Not after a command: it saw what was there before.
    fn proof(&mut self, mounted: &[Mounted], hold: &Freeze, wishes: &Wishes) -> Result<Cut> {
        let theirs: ExtentSet = mounted.iter().map(|m| m.extent).collect();
        let mut left = AGAIN;
        loop {
            let time_cut = self.time_cut;
            let after = self.cut()?;
            let frozen_alone = after.extents.subtract(&theirs).is_empty();
            let again = left > 0 && frozen_alone && wishes.while_frozen.is_none();
            if unchanged(&after) || !again || hold.held_for() > wishes.freeze_limit / 2 {
                self.time_cut = time_cut;
                return Ok(after);
            }
            self.copy_cut(&after, true)?;
            left -= 1;
        }
    }

    /// Did the whole device stand still in the epoch that `after` ended?
    fn judge(&mut self, after: &Cut, mounted: &[Mounted]) -> Result<(), String> {
        if unchanged(after) {
            self.epochs.last = after.epoch;
            return Ok(());
        }
        // not copied, so not ours to forget: the next difference has it
        let theirs: ExtentSet = mounted.iter().map(|m| m.extent).collect();
        let (changed, inside) = (after.extents.total(), after.extents.intersect(&theirs).total());
        Err(match inside {
            // a mount in another namespace, a dm device above, swap: whatever wrote there was not held still
            0 => format!("{changed} bytes outside the frozen file systems changed while they were copied"),
            _ => format!("{inside} bytes changed although the file systems were frozen"),
        })
    }

    /// Without a freeze, [`Self::until_quiet`]; says so if something was to run during one.
    fn unfrozen(&mut self, wishes: &Wishes) -> Result<Still> {
        if let Some(command) = &wishes.while_frozen {
            self.notes.push(format!("`{command}` did not run: nothing was frozen"));
        }
        self.until_quiet()
    }

    /// Live passes until a freeze would be short, or passes no longer help.
    fn until_little(&mut self) -> Result<()> {
        let mut last = u64::MAX;
        for pass in 0..PASSES {
            // after a long first pass nobody knows yet how much was written meanwhile
            let known = pass > 0 || self.pace.last_cut.elapsed() <= SHORT * 2;
            if known && self.pace.predicted() <= SHORT {
                return Ok(());
            }
            self.subject.survey.flush()?;
            let cut = self.cut()?;
            let left = cut.extents.total();
            self.copy_cut(&cut, false)?;
            if left <= FEW || left > last / 4 * 3 {
                return Ok(());
            }
            last = left;
        }
        Ok(())
    }

    /// Live passes until nothing was written during one, or passes no longer help.
    fn until_quiet(&mut self) -> Result<Still> {
        let mut last = u64::MAX;
        for _ in 0..PASSES {
            self.subject.survey.flush()?;
            let cut = self.cut()?;
            let left = cut.extents.total();
            if unchanged(&cut) {
                // marks of leaked slots are not copied: what is written there by now is of a later moment
                self.epochs.last = cut.epoch;
                return Ok(Still::Quiet);
            }
            self.copy_cut(&cut, false)?;
            if left > FEW && left > last / 4 * 3 {
                break;
            }
            last = left;
        }
        Ok(Still::Moving)
    }
}

/// Nothing was written from before the epoch began until after it ended: no mark (what was in flight at its
/// beginning would be one), or marks of leaked slots only.
fn unchanged(cut: &Cut) -> bool {
    cut.quiet || cut.extents.is_empty()
}
