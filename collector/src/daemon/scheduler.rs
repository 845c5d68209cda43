//! What runs when: pure. It is told the time and what happened, and says what to start; it does no I/O.
//!
//! ```text
//!   moments ──▶ uncovered? ──▶ due (first uncovered moment + jitter, or the retry's time) ──▶ in the window, its
//!                                devices free, a place free? ──▶ start ──▶ success: all moments until its start are
//!                                                                          covered; failure: later, doubling
//! ```
//!
//! What must stay true: a moment is covered only by a run that began at or after it and succeeded, so none is lost;
//! many missed moments are covered by one run; two runs never hold one device; what is remembered is enough to go on
//! after the process died at any instant.

use super::when::{When, in_window, jitter};
use crate::config::values::Window;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// A job as the scheduler knows it.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Its moments.
    pub when: When,
    /// Milliseconds that it may be later.
    pub jitter: u64,
    /// Where it may start.
    pub windows: Vec<Window>,
    /// What it holds while it runs: two jobs with one of these in common never run together.
    pub claims: BTreeSet<String>,
}

/// Of all jobs.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Jobs at once.
    pub at_once: usize,
    /// Milliseconds until the first retry.
    pub retry_first: u64,
    /// And at most.
    pub retry_most: u64,
}

/// What is remembered of a job over a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// Every moment until here is covered.
    pub covered: u64,
    /// It runs since then.
    pub running: Option<u64>,
    /// Failures in a row.
    pub failures: u32,
    /// Not before this, after a failure.
    pub retry_at: Option<u64>,
    /// Somebody wants it now.
    pub asked: bool,
    /// The run under way is for them; who asks later gets another one.
    pub answering: bool,
    /// Not by itself.
    pub paused: bool,
    /// End of its last run.
    pub last_end: Option<u64>,
    /// Start of its last run that succeeded.
    pub last_success: Option<u64>,
    /// Runs that succeeded, since it is known.
    pub successes: u64,
    /// Runs that failed.
    pub failed: u64,
}

/// A clock that was set back by no more than this is waited for.
const SET_BACK: u64 = 3_600_000;

/// Jobs, what is known of them, and what runs.
#[derive(Debug)]
pub struct Scheduler {
    plans: BTreeMap<String, Plan>,
    limits: Limits,
    memory: BTreeMap<String, Memory>,
    /// The first moment of each job that is not covered; a cron expression takes time to work out.
    first: BTreeMap<String, Option<u64>>,
    /// Claims of what runs: they stay if the plan changes meanwhile.
    held: BTreeMap<String, BTreeSet<String>>,
}

impl Scheduler {
    /// Goes on with what was remembered. A run that was under way has failed.
    pub fn new(
        plans: BTreeMap<String, Plan>,
        limits: Limits,
        memory: BTreeMap<String, Memory>,
        now: u64,
    ) -> Self {
        let mut made =
            Self { plans: BTreeMap::new(), limits, memory, first: BTreeMap::new(), held: BTreeMap::new() };
        let cut_off: Vec<String> =
            made.memory.iter().filter(|(_, m)| m.running.is_some()).map(|(name, _)| name.clone()).collect();
        made.replan(plans, limits, now);
        cut_off.iter().for_each(|name| made.ended(name, false, now));
        made
    }

    /// Other plans. What runs goes on; a job that is new waits for its next moment.
    pub fn replan(&mut self, plans: BTreeMap<String, Plan>, limits: Limits, now: u64) {
        self.limits = limits;
        for name in plans.keys() {
            self.memory.entry(name.clone()).or_insert_with(|| Memory { covered: now, ..Memory::default() });
        }
        self.memory.retain(|name, memory| plans.contains_key(name) || memory.running.is_some());
        self.plans = plans;
        let names: Vec<String> = self.plans.keys().cloned().collect();
        self.first.clear();
        names.iter().for_each(|name| self.work_out(name));
    }

    /// The first moment of a job that is not covered.
    fn work_out(&mut self, name: &str) {
        if let (Some(plan), Some(memory)) = (self.plans.get(name), self.memory.get(name)) {
            self.first.insert(name.to_owned(), plan.when.after(memory.covered));
        }
    }

    /// What is covered until later than now tells that the clock was set back: that is waited for, unless it would be
    /// long.
    fn heed_the_clock(&mut self, now: u64) {
        if self.memory.values().all(|memory| memory.covered <= now) {
            return;
        }
        for name in self.plans.keys().cloned().collect::<Vec<_>>() {
            let Some(memory) = self.memory.get_mut(&name).filter(|memory| memory.covered > now) else {
                continue;
            };
            let next = self.first.get(&name).copied().flatten();
            let step = next.map_or(SET_BACK, |next| next - memory.covered);
            if memory.covered - now > step.min(SET_BACK) {
                memory.covered = now;
                self.work_out(&name);
            }
        }
    }

    /// Everything remembered.
    pub const fn memory(&self) -> &BTreeMap<String, Memory> {
        &self.memory
    }

    /// When a job is due, or has been since; `None`: not by itself.
    pub fn due(&self, name: &str, now: u64) -> Option<u64> {
        let (plan, memory) = (self.plans.get(name)?, self.memory.get(name)?);
        if memory.running.is_some() || memory.paused && !memory.asked {
            return None;
        }
        if memory.asked {
            return Some(memory.retry_at.map_or(now, |at| self.believable(at, now)));
        }
        let first = self.first.get(name).copied().flatten()?;
        let due = match memory.retry_at {
            Some(at) if memory.failures > 0 => self.believable(at, now).max(first),
            _ => first + jitter(name, first, plan.jitter),
        };
        let due = in_window(&plan.windows, due);
        let open = in_window(&plan.windows, now);
        Some(if due <= now && open > now { open } else { due })
    }

    /// A retry that is later than it can be: the clock was set back.
    fn believable(&self, at: u64, now: u64) -> u64 {
        if at > now + self.limits.retry_most * 2 { now } else { at }
    }

    /// The next time at which [`Self::start`] may have something; a job that waits for a device or place does not
    /// count, because the end of a run tells.
    pub fn wake(&self, now: u64) -> Option<u64> {
        self.plans.keys().filter_map(|name| self.due(name, now)).filter(|due| *due > now).min()
    }

    /// What is to be started now; it counts as running from now on. Who was asked for comes first, then what
    /// waits longest.
    pub fn start(&mut self, now: u64) -> Vec<String> {
        self.heed_the_clock(now);
        let mut due: Vec<(bool, u64, String)> = self
            .plans
            .keys()
            .filter_map(|name| Some((!self.memory.get(name)?.asked, self.due(name, now)?, name.clone())))
            .filter(|(_, at, _)| *at <= now)
            .collect();
        due.sort();
        let mut started = Vec::new();
        for (.., name) in due {
            if self.held.len() >= self.limits.at_once {
                break;
            }
            let claims = self.plans[&name].claims.clone();
            if self.held.values().any(|held| !held.is_disjoint(&claims)) {
                continue;
            }
            self.held.insert(name.clone(), claims);
            if let Some(memory) = self.memory.get_mut(&name) {
                memory.running = Some(now);
                memory.answering = std::mem::take(&mut memory.asked);
            }
            started.push(name);
        }
        started
    }

    /// A run has ended.
    pub fn ended(&mut self, name: &str, succeeded: bool, now: u64) {
        self.held.remove(name);
        let limits = self.limits;
        let Some(memory) = self.memory.get_mut(name) else { return };
        let Some(began) = memory.running.take() else { return };
        memory.last_end = Some(now);
        let answering = std::mem::take(&mut memory.answering);
        if succeeded {
            memory.covered = began;
            memory.last_success = Some(began);
            memory.successes += 1;
            (memory.failures, memory.retry_at) = (0, None);
        } else {
            memory.failures = memory.failures.saturating_add(1);
            memory.failed += 1;
            memory.asked |= answering;
            memory.retry_at = Some(now + limits.pause(name, memory.failures));
        }
        self.work_out(name);
        if !self.plans.contains_key(name) {
            self.memory.remove(name);
        }
    }

    /// It is wanted now, whatever its moments, its window, a pause or a retry say. False: no such job.
    pub fn ask(&mut self, name: &str) -> bool {
        let known = self.plans.contains_key(name);
        if let (true, Some(memory)) = (known, self.memory.get_mut(name)) {
            memory.asked = true;
            memory.retry_at = None;
        }
        known
    }

    /// It does not start by itself any more, or does again: what it missed is then covered by one run.
    pub fn pause(&mut self, name: &str, paused: bool) -> bool {
        let known = self.plans.contains_key(name);
        if let (true, Some(memory)) = (known, self.memory.get_mut(name)) {
            memory.paused = paused;
        }
        known
    }
}

impl Limits {
    /// Milliseconds from a failure to the next try: doubling, and a part of it later so that many do not come at once.
    fn pause(self, name: &str, failures: u32) -> u64 {
        let doubled = self.retry_first.saturating_mul(1 << failures.saturating_sub(1).min(20));
        let pause = doubled.min(self.retry_most);
        pause + jitter(name, u64::from(failures), pause / 8)
    }
}

#[cfg(test)]
mod tests;
