//! What a person may choose for all stores at once.

use super::pace::Pace;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long a request to a store over the network is tried again before it has failed.
const PATIENCE: Duration = Duration::from_secs(180);

/// How stores are reached.
#[derive(Clone, Debug)]
pub struct Access {
    /// The server of `s3://` locations that name none; else the environment's, else Amazon's.
    pub endpoint: Option<String>,
    /// How long a request over the network is tried again.
    pub patience: Duration,
    /// A writer's lock over the network is taken from its holder, which is known to be dead.
    pub break_lock: bool,
    pub(super) pace: Option<Arc<Pace>>,
}

impl Default for Access {
    fn default() -> Self {
        Self { endpoint: None, patience: PATIENCE, break_lock: false, pace: None }
    }
}

static CHOSEN: Mutex<Option<Access>> = Mutex::new(None);

impl Access {
    /// At most so many bytes a second to and from stores, up and down and all stores together.
    #[must_use]
    pub fn bandwidth(mut self, bytes_per_second: u64) -> Self {
        self.pace = Some(Arc::new(Pace::new(bytes_per_second)));
        self
    }

    /// What of it counts for a folder of this machine.
    pub(in crate::repository) fn local(self) -> Self {
        Self { pace: self.pace, ..Self::default() }
    }

    /// After so many bytes went to or from a folder: waits as long as the bandwidth says.
    pub(in crate::repository) fn pause(&self, bytes: usize) {
        if let Some(pace) = &self.pace {
            std::thread::sleep(pace.spend(bytes));
        }
    }

    /// Makes this the way in which stores are reached that are opened from now on: the program's command line.
    pub fn choose(self) {
        *CHOSEN.lock().unwrap_or_else(PoisonError::into_inner) = Some(self);
    }

    /// What was chosen.
    pub(in crate::repository) fn chosen() -> Self {
        CHOSEN.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default().clone()
    }
}
