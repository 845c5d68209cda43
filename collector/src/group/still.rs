//! How a group's backup comes to files of one instant: once more under a freeze, or again until nobody wrote.

use super::passes::Passes;
use crate::copy::Watch;
use crate::error::Result;
use crate::format::Consistency;
use crate::job::{Hushed, Wishes};
use crate::sys::failpoint;
use crate::sys::freeze::{Freeze, refuse_if_frozen};
use crate::tree::{self, Listing};
use std::path::PathBuf;
use std::time::Duration;

/// Looks at most without a freeze, after the first.
const LOOKS: usize = 3;

/// What the last look saw, and of which instant it is.
pub(super) struct Rest {
    pub listing: Listing,
    pub consistency: Consistency,
    pub frozen: Option<Duration>,
}

impl Passes<'_> {
    /// Looks on until what was copied is of one instant, or cannot be.
    pub fn come_to_rest(
        &mut self,
        first: Listing,
        wishes: &Wishes,
        own_folders: &[PathBuf],
        notes: &mut Vec<String>,
    ) -> Result<Rest> {
        let points = self.volumes.to_freeze();
        // a look takes as long as the one before, and reading through files at least as long as that took then
        let predicted = first.took * 3 / 2 + Duration::from_millis(50);
        let why = if !wishes.freeze || points.is_empty() {
            None
        } else if predicted > wishes.freeze_limit {
            let (ms, limit) = (predicted.as_millis(), wishes.freeze_limit.as_millis());
            Some(format!("not frozen: it would have taken about {ms} ms, the limit is {limit} ms"))
        } else {
            self.sync()?;
            let held = refuse_if_frozen(&points, own_folders)
                .and_then(|()| self.prepare())
                .and_then(|()| Freeze::hold(&points, wishes.freeze_limit));
            match held {
                Ok(hold) => return self.while_frozen(hold, notes),
                Err(error) => {
                    let advice = error.advice().map(|advice| format!(" ({advice})")).unwrap_or_default();
                    Some(format!("not frozen: {}{advice}", error.in_full()))
                }
            }
        };
        notes.extend(why);
        self.until_quiet(first)
    }

    pub(super) fn prepare(&mut self) -> Result<()> {
        self.seats.iter_mut().try_for_each(|seat| seat.ledger.prepare(2))
    }

    /// Cuts, looks, copies, and cuts again to prove that nothing changed meanwhile. Nothing is printed.
    fn while_frozen(&mut self, hold: Freeze, notes: &mut Vec<String>) -> Result<Rest> {
        failpoint("group.frozen")?;
        self.cut()?;
        let (upto, time_cut) = (self.copied_upto.clone(), self.time_cut);
        let hushed = Hushed(self.show);
        let watch: &dyn Watch = &hushed;
        let listing = self.pass(watch)?;
        let still = self.cut()?;
        // what the proof lists was not copied: it is the next difference's
        (self.copied_upto, self.time_cut) = (upto, time_cut);
        failpoint("group.before-thaw")?;
        let frozen = hold.thaw();
        let (consistency, why) = match &frozen {
            _ if self.moved > 0 => {
                (Consistency::Fuzzy, Some(format!("{} files changed meanwhile", self.moved)))
            }
            _ if !still => (Consistency::Fuzzy, Some("files changed although they were frozen".into())),
            Err(error) => (Consistency::Fuzzy, Some(format!("the freeze did not last: {}", error.in_full()))),
            Ok(_) => (Consistency::FileSystemFrozen, None),
        };
        notes.extend(why);
        Ok(Rest { listing, consistency, frozen: frozen.ok() })
    }

    /// Looks until nothing was written on any device of the group from before one until after it.
    fn until_quiet(&mut self, first: Listing) -> Result<Rest> {
        let mut last = first;
        for _ in 0..LOOKS {
            self.sync()?;
            self.cut()?;
            last = self.pass(self.show)?;
            self.sync()?;
            let upto = self.copied_upto.clone();
            let quiet = self.untouched()?;
            self.copied_upto = upto;
            if quiet && self.moved == 0 {
                let proved = !self.seats.is_empty() && self.through.is_empty();
                let consistency = if proved { Consistency::Crash } else { Consistency::Fuzzy };
                return Ok(Rest { listing: last, consistency, frozen: None });
            }
        }
        Ok(Rest { listing: last, consistency: Consistency::Fuzzy, frozen: None })
    }

    /// Nothing at all was written since the last cut.
    fn untouched(&mut self) -> Result<bool> {
        let area =
            std::mem::replace(&mut self.area, crate::block::ExtentSet::whole(crate::format::MAX_DEVICE));
        let still = self.cut();
        self.area = area;
        still
    }

    /// Has the group's file systems write out what they hold back.
    pub fn sync(&self) -> Result<()> {
        self.volumes.mountpoints().iter().try_for_each(|point| tree::sync(point))
    }
}
