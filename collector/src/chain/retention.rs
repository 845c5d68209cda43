//! Which points a rule keeps.
//!
//! Each rule walks the points from the newest to the oldest and keeps the newest one of each hour, day, week (ISO),
//! month or year, in UTC, until it has kept its number of them. A point that any rule keeps stays; the newest point
//! always does.

use crate::error::{Error, Kind, Result};
use crate::format::PointId;
use chrono::{DateTime, Datelike, Timelike, Utc};
use std::time::Duration;

/// What is to be kept, for each device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// The newest points.
    pub last: u32,
    /// The newest of each hour, for so many hours that have one.
    pub hourly: u32,
    /// Of each day.
    pub daily: u32,
    /// Of each week.
    pub weekly: u32,
    /// Of each month.
    pub monthly: u32,
    /// Of each year.
    pub yearly: u32,
    /// Everything that is not older than this, counted back from the newest point.
    pub within: Option<Duration>,
}

/// A rule: its name, and in which bucket it puts a point.
type Rule = (&'static str, fn(&Policy) -> u32, fn(usize, DateTime<Utc>) -> (i64, u32));

const RULES: [Rule; 6] = [
    ("last", |p| p.last, |n, _| (n as i64, 0)),
    ("hourly", |p| p.hourly, |_, t| (i64::from(t.num_days_from_ce()), t.hour())),
    ("daily", |p| p.daily, |_, t| (i64::from(t.num_days_from_ce()), 0)),
    ("weekly", |p| p.weekly, |_, t| (i64::from(t.iso_week().year()), t.iso_week().week())),
    ("monthly", |p| p.monthly, |_, t| (i64::from(t.year()), t.month())),
    ("yearly", |p| p.yearly, |_, t| (i64::from(t.year()), 0)),
];

impl Policy {
    /// Says something about what to keep.
    ///
    /// # Errors
    /// [`Kind::Usage`] if it does not.
    pub fn check(&self) -> Result<()> {
        if RULES.iter().all(|(_, count, _)| count(self) == 0) && self.within.is_none() {
            return Err(Error::new(Kind::Usage, "prune: nothing says what to keep")
                .hint("give --keep-last, --keep-daily, --keep-within or another rule"));
        }
        Ok(())
    }

    /// For each point (newest last, with the moment of its cut in Unix milliseconds) the rules that keep it; none:
    /// it may go.
    pub fn keep(&self, points: &[(PointId, u64)]) -> Vec<Vec<&'static str>> {
        let mut kept = vec![Vec::new(); points.len()];
        for (name, count, bucket) in RULES {
            let (mut left, mut last) = (count(self), None);
            for (n, (_, time)) in points.iter().enumerate().rev() {
                let bucket = bucket(n, moment(*time));
                if left > 0 && last != Some(bucket) {
                    (left, last) = (left - 1, Some(bucket));
                    kept[n].push(name);
                }
            }
        }
        for (n, young) in self.young(points).into_iter().enumerate() {
            if young {
                kept[n].push("within");
            }
        }
        if let Some(last) = kept.last_mut().filter(|rules| rules.is_empty()) {
            last.push("newest");
        }
        kept
    }

    /// Which points are not older than `within`. A clock that was set back or ahead for a while says two things of them: a
    /// point is as young as any before it, and as old as any after it. What one of the two keeps, stays.
    fn young(&self, points: &[(PointId, u64)]) -> Vec<bool> {
        let Some(within) = self.within.map(|within| within.as_millis() as u64) else {
            return vec![false; points.len()];
        };
        let times = || points.iter().map(|(_, time)| *time);
        let running = |times: &mut dyn Iterator<Item = u64>, pick: fn(u64, u64) -> u64| -> Vec<u64> {
            let mut so_far = None;
            times.map(|time| *so_far.insert(so_far.map_or(time, |so_far| pick(so_far, time)))).collect()
        };
        let youngest = running(&mut times(), u64::max);
        let mut oldest = running(&mut times().rev(), u64::min);
        oldest.reverse();
        let from = [&youngest, &oldest].map(|seen| seen.last().map_or(0, |last| last.saturating_sub(within)));
        youngest.into_iter().zip(oldest).map(|(young, old)| young >= from[0] || old >= from[1]).collect()
    }
}

/// Times beyond the calendar count as its end.
fn moment(unix_millis: u64) -> DateTime<Utc> {
    i64::try_from(unix_millis)
        .ok()
        .and_then(DateTime::from_timestamp_millis)
        .unwrap_or(DateTime::<Utc>::MAX_UTC)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOUR: u64 = 3_600_000;
    /// 2026-11-22 00:30 UTC, a Sunday.
    const SUNDAY: u64 = 1_795_307_400_000;

    fn every(step: u64, count: u64) -> Vec<(PointId, u64)> {
        (0..count).map(|n| (PointId::generate(), SUNDAY + n * step)).collect()
    }

    fn kept(policy: &Policy, points: &[(PointId, u64)]) -> Vec<usize> {
        let rules = policy.keep(points);
        (0..points.len()).filter(|n| !rules[*n].is_empty()).collect()
    }

    #[test]
    fn each_rule_keeps_the_newest_of_its_time() {
        let hours = every(HOUR, 60);
        assert_eq!(kept(&Policy { last: 3, ..Policy::default() }, &hours), [57, 58, 59]);
        assert_eq!(kept(&Policy { hourly: 2, ..Policy::default() }, &hours), [58, 59]);
        // points at 23:30 are the last of their days
        assert_eq!(kept(&Policy { daily: 3, ..Policy::default() }, &hours), [23, 47, 59]);
        // the week ends with Sunday
        assert_eq!(kept(&Policy { weekly: 9, ..Policy::default() }, &hours), [23, 59]);
        let within = Policy { within: Some(Duration::from_secs(7200)), ..Policy::default() };
        assert_eq!(kept(&within, &hours), [57, 58, 59]);
        let days = every(24 * HOUR, 60);
        assert_eq!(kept(&Policy { monthly: 2, ..Policy::default() }, &days), [39, 59]);
        assert_eq!(kept(&Policy { yearly: 5, ..Policy::default() }, &days), [39, 59]);
        assert_eq!(kept(&Policy { last: 1, monthly: 1, ..Policy::default() }, &days), [59]);
    }

    #[test]
    fn points_made_after_the_clock_was_set_back_are_no_older_than_those_before() {
        let mut points = every(HOUR, 5);
        points.extend((0..3).map(|n| (PointId::generate(), n * HOUR)));
        let within = Policy { within: Some(Duration::from_secs(3600)), ..Policy::default() };
        assert_eq!(kept(&within, &points), [3, 4, 5, 6, 7]);
        points.push((PointId::generate(), SUNDAY + 6 * HOUR));
        assert_eq!(kept(&within, &points), [8]);
    }

    /// One point was made while the clock was years ahead: those of the last days are not old because of it.
    #[test]
    fn a_clock_that_was_ahead_for_a_while_makes_nothing_old() {
        let mut points = every(HOUR, 5);
        points.push((PointId::generate(), SUNDAY + 90_000 * HOUR));
        points.extend((5..7).map(|n| (PointId::generate(), SUNDAY + n * HOUR)));
        let within = Policy { within: Some(Duration::from_secs(3 * 3600)), ..Policy::default() };
        assert_eq!(kept(&within, &points), [3, 4, 5, 6, 7]);
    }

    #[test]
    fn a_policy_that_says_nothing_is_refused() {
        assert_eq!(Policy::default().check().unwrap_err().kind(), Kind::Usage);
        assert!(Policy { within: Some(Duration::ZERO), ..Policy::default() }.check().is_ok());
    }

    proptest! {
        #[test]
        fn the_newest_stays_and_more_keeps_more(
            gaps in prop::collection::vec(0u64..400 * HOUR, 1..60), last in 0u32..5, daily in 0u32..9, far in any::<bool>(),
        ) {
            let mut at = if far { u64::MAX - 1 } else { SUNDAY };
            let points: Vec<_> = gaps.iter().map(|gap| {
                at = at.saturating_add(*gap);
                (PointId::generate(), at)
            }).collect();
            let few = kept(&Policy { last, daily, ..Policy::default() }, &points);
            let more = kept(&Policy { last: last + 1, daily: daily + 1, ..Policy::default() }, &points);
            prop_assert!(few.contains(&(points.len() - 1)));
            prop_assert!(few.iter().all(|n| more.contains(n)));
            prop_assert!(few.len() <= (last + daily).max(1) as usize);
        }
    }
}
