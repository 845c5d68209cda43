//! When a job is due: moments of a cron expression or of an interval. No clock, no I/O.
//!
//! What must stay true: the moments of an interval are multiples of it since 1970, so that restarts and reloads do not
//! move them; the jitter of a moment is always the same.

use crate::config::JobTable;
use crate::config::values::Window;
use chrono::{DateTime, Utc};
use croner::Cron;

/// The moments of a job.
#[derive(Clone, Debug)]
pub enum When {
    /// Of a cron expression, UTC.
    Cron(Box<Cron>),
    /// Every so many milliseconds.
    Every(u64),
    /// None: it runs when asked.
    Asked,
}

impl When {
    /// Of a job's table.
    pub fn of(job: &JobTable) -> Self {
        match (&job.schedule, &job.every) {
            (Some(cron), _) => Self::Cron(Box::new((**cron).clone())),
            (_, Some(every)) => Self::Every(every.as_millis().max(1) as u64),
            _ => Self::Asked,
        }
    }

    /// The first moment after `unix_ms`.
    pub fn after(&self, unix_ms: u64) -> Option<u64> {
        match self {
            Self::Every(every) => Some((unix_ms / every + 1) * every),
            Self::Cron(cron) => {
                let from: DateTime<Utc> = DateTime::from_timestamp_millis(unix_ms as i64)?;
                let found = cron.find_next_occurrence(&from, false).ok()?;
                u64::try_from(found.timestamp_millis()).ok().map(|ms| ms / 1000 * 1000)
            }
            Self::Asked => None,
        }
    }
}

/// How much later than `moment` the job `name` is due, less than `most`.
pub fn jitter(name: &str, moment: u64, most: u64) -> u64 {
    if most == 0 {
        return 0;
    }
    let hash = xxhash_rust::xxh3::xxh3_64_with_seed(name.as_bytes(), moment);
    hash % most
}

/// The first moment at or after `unix_ms` that lies in one of the windows; none: any time.
pub fn in_window(windows: &[Window], unix_ms: u64) -> u64 {
    if windows.is_empty() || windows.iter().any(|w| w.holds(unix_ms)) {
        return unix_ms;
    }
    let minute = unix_ms / 60_000 + 1;
    let opens = (minute..=minute + 1440).find(|m| windows.iter().any(|w| w.holds(m * 60_000)));
    opens.map_or(unix_ms, |m| m * 60_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_do_not_depend_on_when_one_asks() {
        let every = When::Every(10_000);
        assert_eq!(every.after(0), Some(10_000));
        assert_eq!(every.after(9_999), Some(10_000));
        assert_eq!(every.after(10_000), Some(20_000));
        let cron = When::Cron(Box::new("15 * * * *".parse().unwrap()));
        let hour = 3_600_000;
        assert_eq!(cron.after(0), Some(900_000));
        assert_eq!(cron.after(900_000), Some(hour + 900_000));
        assert_eq!(cron.after(900_001), Some(hour + 900_000));
        assert_eq!(When::Asked.after(0), None);
    }

    #[test]
    fn jitter_is_the_same_every_time_and_differs_from_job_to_job() {
        assert_eq!(jitter("a", 7, 0), 0);
        assert_eq!(jitter("a", 7, 1000), jitter("a", 7, 1000));
        let spread: std::collections::BTreeSet<u64> =
            (0..50).map(|n| jitter(&n.to_string(), 7, 1000)).collect();
        assert!(spread.len() > 40 && spread.iter().all(|j| *j < 1000));
    }

    #[test]
    fn a_window_that_is_shut_is_waited_for() {
        let night = [Window { from: 22 * 60, to: 6 * 60 }];
        let hour = 3_600_000;
        assert_eq!(in_window(&night, 23 * hour), 23 * hour);
        assert_eq!(in_window(&night, 12 * hour + 5), 22 * hour);
        assert_eq!(in_window(&[], 5), 5);
    }
}
