//! Can the running epoch be proved complete? Sums of ours against the kernel's own accounting.
//!
//! `blk_account_io_completion` counts next to `block_rq_complete`, with the same byte count (6.1 to 7.3), so
//! from attach on our sums must reach the kernel's. The kernel is read first, ours afterwards: ours can be
//! ahead, never behind, unless an event was missed. An epoch is proved if
//! - the sectors completed in it reach the kernel's, or
//! - a submission program was never skipped in it and the sectors submitted so far reach the kernel's.
//!
//! Anything else, and whatever we saw but cannot place, makes it suspect. So does the reverse: what completed before
//! a moment stands in the kernel's sum a moment later, and sectors that do not show that its accounting was off for
//! a while (`queue/iostats` 1, 0, 1) and could not have vouched for us.

use super::commands;
use super::load::{Loaded, Maps, ProgramHealth, aya_error};
use super::places::Places;
use super::state::{Baseline, CounterSums, DeviceState};
use crate::error::{Kind, Result};
use crate::sys::device::{BlockDevice, Driver, Makeup, multipath_above};
use crate::sys::planted;
use blkdelta_ebpf::{ADMIN_ROW, COPIES, Counters, HOOKS, Hook, Role};

/// Everything counted at one moment.
#[derive(Clone, Debug)]
pub struct Reading {
    /// The kernel's written and discarded sectors of the disk.
    pub kernel: u64,
    /// Ours, by copy.
    pub counters: Vec<CounterSums>,
    /// The programs.
    pub programs: Vec<ProgramHealth>,
    /// The kernel counts I/O of the disk.
    pub accounting: bool,
    /// Stores may reach the disk without passing the block layer.
    pub dax: bool,
    /// The multipath device whose path the disk is: its writes may take another path.
    pub path_of: Option<String>,
    /// Commands to NVMe controllers, which may concern any namespace; `None` for another kind of disk.
    pub admin: Option<CounterSums>,
    /// What a dm or md device is put together from.
    /// `None`: we are not let to see it.
    pub makeup: Option<Makeup>,
}

/// What a reading says about the epoch since its baseline.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Why the epoch may be incomplete.
    pub suspect: Vec<String>,
    /// Submitted sectors that are short of the kernel's, all told.
    pub shortfall: u64,
    /// Not 0 if anything was submitted or completed in the epoch, by our count or the kernel's.
    pub activity: u64,
    /// Submissions that found no in-flight slot, in the epoch.
    pub overflowed: u64,
}

impl Reading {
    /// Reads the kernel's sums first, then ours.
    ///
    /// # Errors
    /// If the device is gone or a map cannot be read.
    pub fn take(places: &Places, maps: &Maps, disk: &BlockDevice, row: u32) -> Result<Self> {
        let stat = disk.stat()?;
        let counters = copies(maps, row)?;
        let admin = match disk.driver {
            Driver::Nvme => Some(commands::most(&copies(maps, ADMIN_ROW)?)),
            _ => None,
        };
        let programs = Loaded::read(places)?.map(|l| l.examine(places)).unwrap_or_default();
        let kernel = if planted("kernel-unread") { 0 } else { stat.write_sectors + stat.discard_sectors };
        let makeup = match Makeup::of(disk) {
            Err(e) if e.kind() == Kind::Denied => None,
            seen => Some(seen?),
        };
        let (accounting, dax) = (disk.iostats, disk.dax);
        let path_of = multipath_above(disk);
        Ok(Self { kernel, counters, programs, accounting, dax, path_of, admin, makeup })
    }

    /// The baseline of an epoch that begins now.
    pub fn baseline(&self, before: &Baseline, shortfall: u64) -> Baseline {
        Baseline {
            kernel_at_start: before.kernel_at_start,
            kernel: self.kernel,
            ahead: before.ahead,
            forgiven: before.forgiven.max(shortfall),
            skipped: self.programs.iter().map(|p| (p.program.clone(), p.skipped)).collect(),
            counters: self.counters.clone(),
            admin: self.admin.unwrap_or_default(),
            makeup: self.makeup.clone().unwrap_or_else(|| before.makeup.clone()),
        }
    }

    /// The baseline of the first epoch.
    pub fn first_baseline(&self) -> Baseline {
        let start = Baseline { kernel_at_start: self.kernel, ahead: self.submitted(), ..Baseline::default() };
        self.baseline(&start, 0)
    }

    /// The baseline of an epoch that begins now, at rest until `later`: whatever we are ahead of the kernel by now can
    /// never make up for what we miss from here on.
    pub fn baseline_at_rest(&self, before: &Baseline, shortfall: u64) -> Baseline {
        let expected = self.kernel.saturating_sub(before.kernel_at_start);
        let ahead = self.submitted().saturating_sub(expected).max(before.ahead);
        self.baseline(&Baseline { ahead, ..before.clone() }, shortfall)
    }

    /// Nothing was counted by anybody between this reading and a `later` one.
    pub fn rests_until(&self, later: &Self) -> bool {
        (self.kernel, &self.counters) == (later.kernel, &later.counters)
    }

    /// Sectors that completed in the epoch before this reading, and that the kernel has not counted even at a `later`
    /// one. Only for disks that take requests: zram counts no discards at all.
    pub fn uncounted(&self, later: &Self, state: &DeviceState) -> Option<String> {
        let counted = later.kernel.saturating_sub(state.baseline.kernel);
        let missing = self.grown(&state.baseline, |c| c.completed_sectors).saturating_sub(counted);
        (missing > 0 && !state.bio_based && later.kernel >= state.baseline.kernel).then(|| {
            format!("the kernel did not count {missing} sectors that were written: its accounting was off for a while (queue/iostats)")
        })
    }

    /// Writes that are on their way and have no slot: they would not be carried into the next epoch. To be told only if
    /// nothing began or ended between this reading and a `later` one, and every write found room. The kernel calls a
    /// request in flight after it told us (`blk_mq_start_request`, block/blk-mq.c, 6.1 to 7.3); of bios it does not.
    pub fn unknown_flights(
        &self,
        later: &Self,
        state: &DeviceState,
        in_flight: u64,
        carried: u64,
    ) -> Option<String> {
        let all_have_slots = state.carry_all == 0 && later.grown(&state.baseline, |c| c.overflowed) == 0;
        // before the first point there is nothing to lose, and some may have begun before tracking
        let told = state.base.is_some() && !state.bio_based && all_have_slots && self.rests_until(later);
        (told && in_flight > carried)
            .then(|| format!("{in_flight} writes are on their way, and the tracker knows of {carried}"))
    }

    /// Judges the epoch that began at `state.baseline`.
    pub fn judge(&self, state: &DeviceState) -> Verdict {
        let base = &state.baseline;
        let mut verdict = Verdict {
            suspect: self.blind_spots(state),
            shortfall: self.shortfall(base),
            activity: self.grown(base, |c| c.submitted + c.completed + c.requeued)
                + self.kernel.abs_diff(base.kernel),
            overflowed: self.grown(base, |c| c.overflowed),
        };
        verdict.suspect.extend(self.broken(state));
        if self.makeup.is_none() {
            // ctl_ioctl, drivers/md/dm-ioctl.c
            verdict.suspect.push(UNSEEN.into());
        }
        if self.kernel < base.kernel {
            verdict.suspect.push("the kernel counts the disk's writes anew: it was reset".into());
        }
        let (completed, expected) = self.completed(base, state.bio_based);
        let submit_proved = verdict.shortfall <= base.forgiven && self.never_skipped(base, state.bio_based);
        if completed < expected && !submit_proved {
            verdict.suspect.push(format!(
                "the kernel counted {expected} sectors written, the tracker saw {completed} completed and is \
                 {} short of what was submitted; programs were skipped {} times",
                verdict.shortfall.saturating_sub(base.forgiven),
                self.skipped(base)
            ));
        }
        verdict
    }

    /// What is not as it was set up: programs gone or replaced, the disk switched to what we cannot check.
    pub fn broken(&self, state: &DeviceState) -> Vec<String> {
        let mut broken: Vec<String> = self.programs.iter().filter_map(|p| p.trouble.clone()).collect();
        broken.extend(self.missing(state.bio_based));
        broken.extend(self.makeup.as_ref().and_then(|now| now.change_since(&state.baseline.makeup)));
        if !self.accounting {
            broken.push("the kernel's accounting was switched off (queue/iostats)".into());
        }
        if self.dax {
            broken.push("memory-mapped access past the block layer was switched on (queue/dax)".into());
        }
        broken.extend(self.path_of.as_ref().map(|above| {
            format!("it is a path of the multipath device {above}, whose writes may take another path")
        }));
        broken
    }

    /// How much the largest copy of a sum grew since the baseline.
    fn grown(&self, base: &Baseline, sum: impl Fn(&CounterSums) -> u64) -> u64 {
        let before = |i: usize| base.counters.get(i).map_or(0, &sum);
        self.counters.iter().enumerate().map(|(i, c)| sum(c).saturating_sub(before(i))).max().unwrap_or(0)
    }

    /// Sectors that we saw completed, and that the kernel counted: of requests in the epoch, of bios since
    /// tracking began. Bios are counted elsewhere than they complete (`bio_start_io_acct` until 6.3, per split part
    /// since: `dm_io_acct`), so that those of an earlier epoch could stand in for one that was missed in this one.
    /// A bio's completion is counted by whichever copy finds its slot, so there the copies add up.
    fn completed(&self, base: &Baseline, bio_based: bool) -> (u64, u64) {
        if bio_based {
            let all = self.counters.iter().map(|c| c.completed_sectors).sum();
            let counted = self.kernel.saturating_sub(base.kernel_at_start);
            // what completes of writes from before counts for nothing, as on the submitted side
            return (all, (counted + base.ahead).saturating_sub(base.forgiven));
        }
        (self.grown(base, |c| c.completed_sectors), self.kernel.saturating_sub(base.kernel))
    }

    /// How far the best copy's submitted sectors are behind the kernel's, since tracking began.
    fn shortfall(&self, base: &Baseline) -> u64 {
        let expected = self.kernel.saturating_sub(base.kernel_at_start) + base.ahead;
        expected.saturating_sub(self.submitted())
    }

    /// Sectors the best copy saw submitted. Those of requests that were on their way when it began complete as
    /// orphans; so do overflowed ones, which count once.
    fn submitted(&self) -> u64 {
        let most = |sum: Sum| self.counters.iter().map(sum).max().unwrap_or(0);
        let orphans = most(|c| c.orphan_sectors).saturating_sub(most(|c| c.overflowed_sectors));
        most(|c| c.submitted_sectors) + orphans
    }

    /// Skipped runs of all programs in the epoch.
    fn skipped(&self, base: &Baseline) -> u64 {
        self.programs.iter().map(|p| p.skipped.saturating_sub(before(base, &p.program))).sum()
    }

    /// Was one copy of each submission program never skipped?
    fn never_skipped(&self, base: &Baseline, bio_based: bool) -> bool {
        let submit: &[Role] =
            if bio_based { &[Role::BioSubmit, Role::BioRemap] } else { &[Role::RequestSubmit] };
        submit.iter().all(|role| {
            let copies = HOOKS.iter().filter(|h| h.role == *role);
            copies
                .filter_map(|h| self.program(h))
                .any(|p| p.skipped == before(base, &p.program) || planted("skips-ignored"))
        })
    }

    fn program(&self, hook: &Hook) -> Option<&ProgramHealth> {
        self.programs.iter().find(|p| p.program == hook.program)
    }

    /// Programs that must be there and are not.
    fn missing(&self, bio_based: bool) -> Vec<String> {
        let needed = roles(bio_based);
        let gone =
            HOOKS.iter().filter(|h| h.copy == 0 && needed.contains(&h.role) && self.program(h).is_none());
        gone.map(|h| format!("program {} is not loaded", h.program)).collect()
    }

    /// Changes that were seen but whose place is unknown. What goes beyond the disk's end concerns no partition.
    fn blind_spots(&self, state: &DeviceState) -> Vec<String> {
        let spots: [(Sum, &str); 5] = [
            (|c| c.unknown, "operations of unknown kind"),
            (|c| c.unaddressed, "zone operations without a range"),
            (|c| c.truncated, "discards with more ranges than can be walked"),
            (|c| c.unmapped, "writes found no bitmap"),
            (|c| c.out_of_range, "writes beyond the end of the disk (was it resized?)"),
        ];
        let base = &state.baseline;
        let whole = state.identity.dev == state.identity.disk;
        let count = if whole { spots.len() } else { spots.len() - 1 };
        let grown = |(sum, what): (Sum, &str)| {
            let n = self.grown(base, sum);
            (n > 0).then(|| format!("{what} ({n})"))
        };
        let commands = commands::to_disk(&commands::most(&self.counters), &commands::most(&base.counters));
        let admin = self.admin.and_then(|now| commands::to_controllers(&now, &base.admin));
        spots.into_iter().take(count).filter_map(grown).chain(commands).chain(admin).collect()
    }
}

/// What is said where a device-mapper table cannot be read.
pub(super) const UNSEEN: &str = "its device-mapper table cannot be read (CAP_SYS_ADMIN is missing)";

/// One of the counters.
type Sum = fn(&CounterSums) -> u64;

/// Which programs a disk of that kind needs.
pub fn roles(bio_based: bool) -> &'static [Role] {
    if bio_based {
        &[Role::BioSubmit, Role::BioRemap, Role::BioComplete]
    } else {
        &[Role::RequestSubmit, Role::RequestComplete]
    }
}

fn before(base: &Baseline, program: &str) -> u64 {
    base.skipped.iter().find(|(name, _)| name == program).map_or(0, |(_, n)| *n)
}

fn copies(maps: &Maps, row: u32) -> Result<Vec<CounterSums>> {
    (0..COPIES).map(|copy| sums(maps, row * COPIES + copy)).collect()
}

pub(super) fn sums(maps: &Maps, row: u32) -> Result<CounterSums> {
    let cpus = maps.counters.get(&row, 0).map_err(|e| aya_error("read the programs' counters", e))?;
    let sum = |field: fn(&Counters) -> u64| cpus.iter().map(field).sum();
    Ok(CounterSums {
        submitted: sum(|c| c.submitted),
        submitted_sectors: sum(|c| c.submitted_sectors),
        requeued: sum(|c| c.requeued),
        completed: sum(|c| c.completed),
        completed_sectors: sum(|c| c.completed_sectors),
        orphan_sectors: sum(|c| c.orphan_sectors),
        overflowed: sum(|c| c.overflowed),
        overflowed_sectors: sum(|c| c.overflowed_sectors),
        passthrough: sum(|c| c.passthrough),
        unknown: sum(|c| c.unknown),
        unaddressed: sum(|c| c.unaddressed),
        out_of_range: sum(|c| c.out_of_range),
        truncated: sum(|c| c.truncated),
        unmapped: sum(|c| c.unmapped),
        events_lost: sum(|c| c.events_lost),
        errors: sum(|c| c.errors),
        commands: std::array::from_fn(|i| cpus.iter().fold(0, |all, c| all | c.commands[i])),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel counted `kernel` sectors; we saw `submitted` and as many completed.
    fn reading(kernel: u64, submitted: u64) -> Reading {
        let counters = CounterSums {
            submitted_sectors: submitted,
            completed_sectors: submitted,
            ..CounterSums::default()
        };
        Reading {
            kernel,
            counters: vec![counters],
            programs: Vec::new(),
            accounting: true,
            dax: false,
            path_of: None,
            admin: None,
            makeup: Some(Makeup::default()),
        }
    }

    #[test]
    fn sectors_of_another_part_that_was_tracked_before_hide_nothing() {
        let base = reading(500, 100).first_baseline();
        assert_eq!(reading(508, 108).shortfall(&base), 0);
        assert_eq!(reading(508, 100).shortfall(&base), 8);
    }

    #[test]
    fn sectors_that_the_kernel_did_not_count_hide_nothing_later() {
        let base = reading(500, 0).first_baseline();
        let rest = reading(500, 64);
        assert!(rest.rests_until(&rest.clone()) && !rest.rests_until(&reading(501, 64)));
        let next = rest.baseline_at_rest(&base, 0);
        assert_eq!(reading(508, 72).shortfall(&next), 0);
        assert_eq!(reading(508, 64).shortfall(&next), 8);
    }
}
