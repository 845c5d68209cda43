//! Start points: points besides the base from which a difference can still be made.
//!
//! ```text
//!   start point S   --- retired since: in S's list ---   base   --- sealed and running: pending ---   now
//! ```
//! The last point of every repository is one, so two repositories in turn need no full backups; so is what a person
//! names, and the last full point of a repository where that is wished. One that nobody wants any more goes when the
//! next point is durable.
//!
//! Must stay true: bits die last, for every start point: what an epoch listed is in the durable list of each of them
//! before the epoch is retired; what cannot be added makes the start point suspect. Killed in between, the state still
//! names the lists before; a list that nothing names is removed.

use super::Epochs;
use crate::block::{ExtentSet, MAX_EXTENTS, coarsened, extents_of_words};
use crate::error::{Error, Kind, Result};
use crate::format::ListRef;
use crate::sys::failpoint;
use crate::tracker::{Base, DeviceState, StartPoint, now_ms, record, since};
use std::collections::BTreeSet;

/// Start points of one device (repositories, groups): each costs a list that is written at every backup.
const MAX_STARTS: usize = 32;

/// Reasons that one of them keeps.
const MAX_REASONS: usize = 16;

impl Epochs {
    /// The points from which a difference can be made, oldest first; the base is the last of them.
    pub fn starts(&self) -> &[StartPoint] {
        &self.state.starts
    }

    /// What was retired since a start point, and why that may be incomplete.
    pub fn retired_since(&self, start: &StartPoint) -> (ExtentSet, Vec<String>) {
        let mut suspect = start.suspect.clone();
        let listed = start.list.map_or_else(|| Ok(ExtentSet::new()), |list| self.read_list(&list));
        let extents = listed.unwrap_or_else(|error| {
            suspect.push(format!("the list of what changed since {} is lost: {error}", start.base.point));
            ExtentSet::new()
        });
        (extents, suspect)
    }

    fn read_list(&self, list: &ListRef) -> Result<ExtentSet> {
        since::read(&self.places, self.whose(), list)
    }

    fn whose(&self) -> since::Of<'_> {
        let state = &self.state;
        since::Of { session: &state.session, granularity: state.granularity, size: state.identity.size }
    }

    /// Before the epochs up to `upto` are forgotten: adds them to the lists of all start points that stay, and `base`
    /// to these. Nothing of it counts before `state` is written.
    pub(super) fn carry_starts(
        &self,
        state: &mut DeviceState,
        upto: u64,
        base: &Base,
        full: bool,
    ) -> Result<()> {
        let mut starts = std::mem::take(&mut state.starts);
        if let Some(old) = self.base().filter(|old| !starts.iter().any(|s| s.base == **old)) {
            // of a version that kept none
            let first = self.state.retired + 1;
            starts.push(start_point(old, false, self.state.difference_since_ms, first));
        }
        starts.retain(|s| s.base != *base);
        starts.push(start_point(base, full, now_ms(), upto + 1));
        state.starts = wanted(starts, &state.keep_full);
        let Some((_, earlier)) = state.starts.split_last_mut() else { return Ok(()) };
        if earlier.is_empty() {
            return Ok(());
        }
        let (retired, doubts) = self.listed_up_to(upto)?;
        let mut number = self.last_number();
        for start in earlier {
            number += 1;
            if let Err(error) = self.add(start, number, &retired) {
                log::warn!("the next difference since {} will compare everything: {error}", start.base.point);
                note(start, &format!("its list could not be kept: {error}"));
            }
            doubts.iter().for_each(|doubt| note(start, doubt));
        }
        failpoint("epoch.after-lists")
    }

    /// Everything that sealed epochs up to `upto` list, and their doubts.
    fn listed_up_to(&self, upto: u64) -> Result<(ExtentSet, Vec<String>)> {
        let (granularity, size) = (self.state.granularity, self.state.identity.size);
        let (mut all, mut doubts) = (ExtentSet::new(), Vec::new());
        for sealed in self.state.sealed.iter().filter(|s| s.epoch <= upto) {
            let words = self.words(sealed.epoch)?;
            let extents = coarsened(extents_of_words(words.iter(), granularity, size), MAX_EXTENTS);
            all = all.union(&extents);
            doubts.extend(sealed.suspect.iter().cloned());
        }
        Ok((all, doubts))
    }

    /// Writes the next list of a start point.
    fn add(&self, start: &mut StartPoint, number: u64, retired: &ExtentSet) -> Result<()> {
        if retired.is_empty() {
            return Ok(());
        }
        let (listed, suspect) = self.retired_since(start);
        suspect.iter().for_each(|reason| note(start, reason));
        let all = coarsened(listed.union(retired).iter().copied(), MAX_EXTENTS);
        start.list = Some(since::write(&self.places, self.whose(), number, all)?);
        failpoint("epoch.after-list")
    }

    /// The highest number a list has.
    fn last_number(&self) -> u64 {
        self.state.starts.iter().filter_map(|s| s.list).map(|list| list.number).max().unwrap_or(0)
    }

    /// Removes lists that nothing names.
    pub(super) fn sweep_lists(&self) {
        let named: Vec<u64> =
            self.state.starts.iter().filter_map(|s| s.list).map(|list| list.number).collect();
        since::sweep(&self.places, &self.state.session, &named);
    }

    /// Keeps a start point until told otherwise, or no longer.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if what changed since that point is not known (any more).
    pub fn keep_point(&mut self, base: &Base, keep: bool) -> Result<()> {
        let mut state = self.state.clone();
        let known: Vec<String> = state.starts.iter().map(|s| s.base.point.clone()).collect();
        let Some(start) = state.starts.iter_mut().find(|s| s.base == *base) else {
            let text = format!("what changed since point {} is not known", base.point);
            let known = if known.is_empty() { "no point yet".into() } else { known.join(", ") };
            return Err(Error::new(Kind::NotFound, text).hint(format!("it is known since: {known}")));
        };
        start.pinned = keep;
        self.write_starts(state)
    }

    /// Keeps the last full point of a repository as a start point from now on, or no longer.
    ///
    /// # Errors
    /// If that cannot be recorded.
    pub fn keep_full(&mut self, repository: &str, keep: bool) -> Result<()> {
        let mut state = self.state.clone();
        state.keep_full.retain(|repo| repo != repository);
        if keep {
            state.keep_full.push(repository.to_owned());
        }
        self.write_starts(state)
    }

    fn write_starts(&mut self, mut state: DeviceState) -> Result<()> {
        state.starts = wanted(state.starts, &state.keep_full);
        record::note(&self.places, &self.device, &state)?;
        state.write(&self.places)?;
        self.state = state;
        self.sweep_lists();
        Ok(())
    }
}

fn start_point(base: &Base, full: bool, since_ms: u64, first: u64) -> StartPoint {
    StartPoint { base: base.clone(), full, pinned: false, since_ms, first, list: None, suspect: Vec::new() }
}

fn note(start: &mut StartPoint, reason: &str) {
    if start.suspect.len() < MAX_REASONS && !start.suspect.iter().any(|known| known == reason) {
        start.suspect.push(reason.to_owned());
    }
}

/// Those that somebody wants: named, the last of their repository, its last full where that is wished.
fn wanted(starts: Vec<StartPoint>, keep_full: &[String]) -> Vec<StartPoint> {
    let mut left: Vec<StartPoint> = Vec::new();
    // from the newest down: what is kept so far tells whether one is the last of its kind
    let (mut seen, mut full) = (BTreeSet::new(), BTreeSet::new());
    for start in starts.into_iter().rev() {
        let repo = start.base.repo.clone();
        let last_full = start.full && full.insert(repo.clone()) && keep_full.contains(&repo);
        if seen.insert(repo) || start.pinned || last_full {
            left.push(start);
        }
    }
    left.reverse();
    while left.len() > MAX_STARTS {
        let at = left.iter().position(|s| !s.pinned).filter(|at| at + 1 < left.len()).unwrap_or(0);
        let gone = left.remove(at);
        log::warn!(
            "more than {MAX_STARTS} start points: what changed since {} is no longer kept",
            gone.base.point
        );
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(repo: &str, name: &str, full: bool, pinned: bool) -> StartPoint {
        let base = Base { repo: repo.into(), point: name.into() };
        StartPoint { pinned, ..start_point(&base, full, 0, 1) }
    }

    fn names(starts: Vec<StartPoint>, keep_full: &[&str]) -> Vec<String> {
        let keep: Vec<String> = keep_full.iter().map(ToString::to_string).collect();
        wanted(starts, &keep).into_iter().map(|s| s.base.point).collect()
    }

    #[test]
    fn each_repository_keeps_its_last_point_and_what_is_asked_for() {
        let all = || {
            vec![
                point("a", "a1", true, false),
                point("a", "a2", false, true),
                point("b", "b1", true, false),
                point("a", "a3", true, false),
                point("a", "a4", false, false),
            ]
        };
        assert_eq!(names(all(), &[]), ["a2", "b1", "a4"]);
        assert_eq!(names(all(), &["a"]), ["a2", "b1", "a3", "a4"]);
        assert_eq!(names(all(), &["b"]), ["a2", "b1", "a4"]);
    }

    #[test]
    fn there_is_an_end_to_what_is_kept_and_the_base_is_never_dropped() {
        let mut all: Vec<_> =
            (0..40).map(|n| point(&n.to_string(), &format!("p{n}"), false, n < 3)).collect();
        let left = names(all.clone(), &[]);
        assert_eq!((left.len(), left.last().map(String::as_str)), (MAX_STARTS, Some("p39")));
        assert!(["p0", "p1", "p2"].iter().all(|pinned| left.iter().any(|name| name == pinned)));
        all.iter_mut().for_each(|s| s.pinned = true);
        assert_eq!(names(all, &[]).last().map(String::as_str), Some("p39"));
    }
}
