//! The daemon as systemd would keep it: started again when it was killed; and what it says of its jobs.

use crate::rig::process::{children_of, go_on, sleep};
use crate::rig::product::Product;
use crate::rig::service::Service;
use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long something that must come is waited for.
const PATIENCE: Duration = Duration::from_secs(180);

/// The daemon.
pub struct Keeper<'a> {
    product: &'a Product,
    log: PathBuf,
    service: Option<Service>,
}

/// What the daemon knows of a job.
pub struct JobState {
    /// Its name.
    pub name: String,
    /// Runs that succeeded, and that failed.
    pub successes: u64,
    /// See `successes`.
    pub failed: u64,
    running: bool,
}

impl<'a> Keeper<'a> {
    /// Starts it.
    pub fn start(product: &'a Product, log: PathBuf) -> Result<Self> {
        let mut keeper = Self { product, log, service: None };
        keeper.restart()?;
        Ok(keeper)
    }

    /// Starts it again, and waits until it answers.
    pub fn restart(&mut self) -> Result<()> {
        let daemon = self.product.command(&["daemon"]);
        self.service = Some(Service::start("the daemon", &daemon, &self.log)?);
        let give_up = Instant::now() + PATIENCE;
        while self.jobs().is_err() {
            go_on()?;
            self.ensure_alive()?;
            if Instant::now() > give_up {
                bail!("the daemon does not answer:\n{}", self.said());
            }
            sleep(Duration::from_millis(50))?;
        }
        Ok(())
    }

    fn service(&mut self) -> Result<Service> {
        self.service.take().context("there is no daemon")
    }

    /// SIGKILL.
    pub fn kill(&mut self) -> Result<()> {
        self.service()?.kill()
    }

    /// SIGTERM: an orderly end.
    pub fn stop(&mut self) -> Result<()> {
        self.service()?.stop(Signal::TERM)
    }

    /// An error if it ended by itself.
    pub fn ensure_alive(&mut self) -> Result<()> {
        self.service.as_mut().map_or(Ok(()), Service::ensure_alive)
    }

    /// The end of its log.
    pub fn said(&self) -> String {
        self.service.as_ref().map(Service::said).unwrap_or_default()
    }

    /// SIGKILL for one of its runs, whichever `choice` says; false if there is none. Its guardian, which thaws, lives.
    pub fn kill_a_run(&self, choice: u64) -> bool {
        let runs = self.service.as_ref().map(|daemon| children_of(daemon.pid())).unwrap_or_default();
        let chosen = runs.get(choice.checked_rem(runs.len() as u64).unwrap_or(0) as usize);
        let pid = chosen.and_then(|pid| Pid::from_raw(i32::try_from(*pid).ok()?));
        pid.is_some_and(|pid| kill_process(pid, Signal::KILL).is_ok())
    }

    /// Asks it by the control socket.
    pub fn ask(&self, verb: &str) -> Result<()> {
        self.product.run(&["daemon", verb]).map(drop)
    }

    /// What it knows of its jobs.
    pub fn jobs(&self) -> Result<Vec<JobState>> {
        let (status, _) = self.product.json(&["daemon", "status"])?;
        let jobs = status["jobs"].as_array().context("daemon status --json names no jobs")?;
        let job = |job: &Value| {
            let memory = &job["memory"];
            let number = |key: &str| memory[key].as_u64().unwrap_or(0);
            let name = job["name"].as_str().context("a job without a name")?.to_owned();
            let (successes, failed) = (number("successes"), number("failed"));
            Ok(JobState { name, successes, failed, running: memory["running"].is_u64() })
        };
        jobs.iter().map(job).collect()
    }

    /// Waits until every job has succeeded `more` times from now on. An error if one fails more than `tries` times before.
    pub fn successes(&mut self, more: u64, tries: u64) -> Result<()> {
        let before = self.jobs()?;
        let give_up = Instant::now() + PATIENCE;
        loop {
            let now = self.jobs()?;
            let all = || before.iter().zip(&now);
            if let Some((_, job)) = all().find(|(old, new)| new.failed > old.failed + tries) {
                bail!(
                    "job {} failed {tries} times and more with nothing in its way:\n{}",
                    job.name,
                    self.said()
                );
            }
            let Some((_, late)) = all().find(|(old, new)| new.successes < old.successes + more) else {
                return Ok(());
            };
            if Instant::now() > give_up {
                bail!("job {} does not succeed any more:\n{}", late.name, self.said());
            }
            self.ensure_alive()?;
            sleep(Duration::from_millis(200))?;
        }
    }

    /// No more runs, none under way.
    pub fn rest(&mut self) -> Result<()> {
        self.ask("pause")?;
        let give_up = Instant::now() + PATIENCE;
        while self.jobs()?.iter().any(|job| job.running) {
            if Instant::now() > give_up {
                bail!("a run does not end:\n{}", self.said());
            }
            sleep(Duration::from_millis(100))?;
        }
        Ok(())
    }
}
