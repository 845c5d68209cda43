//! What the daemon lets others see: control socket, metrics and page all read the same picture.

use super::report::Report;
use super::scheduler::Memory;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// One job.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct JobShown {
    /// Its name.
    pub name: String,
    /// What it backs up.
    pub device: String,
    /// Where to, as the configuration names it.
    pub repository: String,
    /// When it runs, in words.
    pub when: String,
    /// Unix milliseconds at which it is due, or has been since; `None`: it runs, is paused, or runs when asked only.
    pub next: Option<u64>,
    /// What the scheduler knows.
    pub memory: Memory,
    /// Its last runs, oldest first.
    pub runs: VecDeque<Report>,
}

/// All of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Shown {
    /// Unix milliseconds of the picture.
    pub now: u64,
    /// The jobs, by name.
    pub jobs: Vec<JobShown>,
    /// No new runs begin.
    pub stopping: bool,
    /// Why the memory could not be written the last time.
    pub unwritten: Option<String>,
    /// How often it could not be.
    pub writes_failed: u64,
    /// How often a new configuration was refused.
    pub reloads_failed: u64,
}

impl Shown {
    /// Without the pictures of changes, and with a few runs of each job only.
    pub fn in_brief(&self) -> Self {
        const RUNS: usize = 5;
        let mut brief = self.clone();
        for job in &mut brief.jobs {
            job.runs.drain(..job.runs.len().saturating_sub(RUNS));
            job.runs.iter_mut().for_each(|run| run.stripes.clear());
        }
        brief
    }
}

/// The newest picture.
#[derive(Debug, Default)]
pub struct Showcase(Mutex<Arc<Shown>>);

impl Showcase {
    /// Replaces it.
    pub fn put(&self, shown: Shown) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(shown);
    }

    /// What is there now.
    pub fn look(&self) -> Arc<Shown> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
