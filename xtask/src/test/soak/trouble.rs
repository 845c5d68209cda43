//! What happens to the daemon, its runs and its stores: from a seed, one thing after the other, and counted.

use super::keeper::Keeper;
use super::stores::{Cut, Stores};
use crate::rig::process::sleep;
use crate::rig::random::Random;
use anyhow::Result;
use std::collections::BTreeMap;
use std::time::Duration;

/// Between two of them, and how long a store is away, at most; in milliseconds.
const QUIET: (u64, u64) = (2_000, 9_000);
const AWAY: (u64, u64) = (1_000, 12_000);
/// How long systemd waits before it starts a service again: here less, so that more happens.
const RESTART: (u64, u64) = (0, 3_000);

/// Something that can happen.
#[derive(Clone, Copy, Debug)]
enum Event {
    DaemonKilled,
    RunKilled,
    BothKilled,
    Stopped,
    Reloaded,
    Cut(Cut),
    CutAndKilled(Cut),
}

/// It, and how often what happened.
pub struct Trouble {
    random: Random,
    /// By what it is called in the table.
    pub counts: BTreeMap<String, u64>,
}

impl Trouble {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Self { random: Random::new(seed), counts: BTreeMap::new() }
    }

    fn time(&mut self, (least, most): (u64, u64)) -> Duration {
        Duration::from_millis(least + self.random.below(most - least + 1))
    }

    fn choose(&mut self, stores: &Stores) -> Event {
        let cuts = stores.cuts();
        let cut = cuts[self.random.below(cuts.len() as u64) as usize];
        match self.random.below(20) {
            0..3 => Event::DaemonKilled,
            3..9 => Event::RunKilled,
            9..12 => Event::BothKilled,
            12 => Event::Stopped,
            13 => Event::Reloaded,
            14..18 => Event::Cut(cut),
            _ => Event::CutAndKilled(cut),
        }
    }

    /// A while of peace, then one thing.
    pub fn one(&mut self, keeper: &mut Keeper<'_>, stores: &Stores) -> Result<()> {
        let (quiet, event) = (self.time(QUIET), self.choose(stores));
        sleep(quiet)?;
        keeper.ensure_alive()?;
        let happened = self.happen(event, keeper, stores)?;
        *self.counts.entry(happened).or_default() += 1;
        Ok(())
    }

    /// What it is called.
    fn happen(&mut self, event: Event, keeper: &mut Keeper<'_>, stores: &Stores) -> Result<String> {
        match event {
            Event::DaemonKilled => {
                keeper.kill()?;
                self.restart(keeper)?;
            }
            Event::RunKilled => {
                if !self.kill_a_run(keeper)? {
                    return Ok("no run to kill".into());
                }
            }
            Event::BothKilled => {
                self.kill_a_run(keeper)?;
                keeper.kill()?;
                self.restart(keeper)?;
            }
            Event::Stopped => {
                keeper.stop()?;
                self.restart(keeper)?;
            }
            Event::Reloaded => keeper.ask("reload")?,
            Event::Cut(cut) => stores.cut(cut, self.time(AWAY))?,
            Event::CutAndKilled(cut) => {
                let (first, then) = (self.time(AWAY) / 2, self.time(AWAY) / 2);
                // killed while the store is away, started while it still is
                stores.cut_while(cut, || {
                    sleep(first)?;
                    keeper.kill()?;
                    keeper.restart()?;
                    sleep(then)
                })?;
            }
        }
        Ok(event.name().into())
    }

    fn restart(&mut self, keeper: &mut Keeper<'_>) -> Result<()> {
        sleep(self.time(RESTART))?;
        keeper.restart()
    }

    /// Waits a while for a run to come, and a moment until it is somewhere.
    fn kill_a_run(&mut self, keeper: &Keeper<'_>) -> Result<bool> {
        let (moment, choice) = (self.time((0, 700)), self.random.next());
        sleep(moment)?;
        for _ in 0..600 {
            if keeper.kill_a_run(choice) {
                return Ok(true);
            }
            sleep(Duration::from_millis(10))?;
        }
        Ok(false)
    }
}

impl Event {
    fn name(self) -> &'static str {
        match self {
            Self::DaemonKilled => "daemon killed",
            Self::RunKilled => "run killed",
            Self::BothKilled => "run and daemon killed",
            Self::Stopped => "daemon stopped and started",
            Self::Reloaded => "configuration reloaded",
            Self::Cut(Cut::Line) => "S3 cut off",
            Self::Cut(Cut::Unmounted) => "store unmounted",
            Self::Cut(Cut::ReadOnly) => "store read-only",
            Self::Cut(Cut::Moved) => "store moved away",
            Self::CutAndKilled(_) => "store away, daemon killed meanwhile",
        }
    }
}
