//! How a backup comes to an image of one instant: passes until little is left, then a freeze; or passes until
//! nothing was written during one.
//!
//! What must stay true: [`Still::Frozen`] only if the file systems stood still from before the cut until all of
//! it was copied, as another cut proves; [`Still::Quiet`] only if a cut proves that nothing was written while
//! the pass before it copied; everything else is [`Still::Moving`].

use super::passes::Passes;
use super::{Wishes, ground::chain_of};
use crate::block::{BLOCK, ExtentSet};
use crate::epoch::Cut;
use crate::error::{Context, Result};
use crate::sys::failpoint;
use crate::sys::freeze::{Freeze, refuse_if_frozen};
use crate::usage::Mounted;
use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

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
            return self.until_quiet(mounted);
        }
        self.until_little(mounted)?;
        let predicted = self.pace.predicted();
        if predicted > wishes.freeze_limit {
            self.notes.push(format!(
                "not frozen: it would have taken about {} ms, the limit is {} ms",
                predicted.as_millis(),
                wishes.freeze_limit.as_millis()
            ));
            return self.until_quiet(mounted);
        }
        sync(mounted)?;
        let points: Vec<PathBuf> = mounted.iter().map(|m| m.mountpoint.clone()).collect();
        let hold = refuse_if_frozen(&points, &self.own_folders)
            .and_then(|()| Freeze::hold(&points, wishes.freeze_limit));
        let hold = match hold {
            Ok(hold) => hold,
            Err(error) => {
                self.notes.push(format!("not frozen: {}", chain_of(&error)));
                return self.until_quiet(mounted);
            }
        };
        // nothing but copying until the thaw; dropping `hold` on a failure thaws
        let proof = self.while_frozen(mounted)?;
        let frozen = hold.thaw();
        failpoint("job.after-thaw")?;
        match (proof, frozen) {
            (Ok(()), Ok(time)) => Ok(Still::Frozen(time)),
            (Err(why), _) => {
                self.notes.push(why);
                Ok(Still::Moving)
            }
            (_, Err(error)) => {
                self.notes.push(format!("the freeze did not last: {}", chain_of(&error)));
                Ok(Still::Moving)
            }
        }
    }

    /// Cuts, copies, and cuts again to prove that nothing of the file systems changed meanwhile; the inner
    /// failure is a reason why that could not be proved.
    fn while_frozen(&mut self, mounted: &[Mounted]) -> Result<Result<(), String>> {
        failpoint("job.frozen")?;
        let cut = self.cut()?;
        self.copy_cut(&cut, true)?;
        let time_cut = self.time_cut;
        let after = self.cut()?;
        self.time_cut = time_cut;
        failpoint("job.before-thaw")?;
        if unchanged(&after) {
            self.epochs.last = after.epoch;
            return Ok(Ok(()));
        }
        // not copied, so not ours to forget: the next difference has it
        let theirs: ExtentSet = mounted.iter().map(|m| m.extent).collect();
        if after.extents.intersect(&theirs).is_empty() {
            self.notes.push(format!(
                "{} bytes outside the frozen file systems changed meanwhile",
                after.extents.total()
            ));
            return Ok(Ok(()));
        }
        Ok(Err(format!("{} bytes changed although the file systems were frozen", after.extents.total())))
    }

    /// Live passes until a freeze would be short, or passes no longer help.
    fn until_little(&mut self, mounted: &[Mounted]) -> Result<()> {
        let mut last = u64::MAX;
        for _ in 0..PASSES {
            if self.pace.predicted() <= SHORT {
                return Ok(());
            }
            sync(mounted)?;
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
    fn until_quiet(&mut self, mounted: &[Mounted]) -> Result<Still> {
        let mut last = u64::MAX;
        for _ in 0..PASSES {
            sync(mounted)?;
            let cut = self.cut()?;
            let left = cut.extents.total();
            self.copy_cut(&cut, false)?;
            if unchanged(&cut) {
                return Ok(Still::Quiet);
            }
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

/// Has the file systems write out what they hold back, so that it is copied while they live.
pub(super) fn sync(mounted: &[Mounted]) -> Result<()> {
    for fs in mounted {
        let what = || format!("sync {}", fs.mountpoint.display());
        let folder = File::open(&fs.mountpoint).os_context(what)?;
        rustix::fs::syncfs(&folder).os_context(what)?;
    }
    Ok(())
}
