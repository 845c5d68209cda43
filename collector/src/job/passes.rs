//! The passes of one backup: what was copied, how fast, and what may be forgotten afterwards.
//!
//! What must stay true: an epoch counts as copied only after all its extents were copied, after its cut; the
//! first epoch that cannot be proved complete, and all after it, are not forgotten.

use super::{Ledger, Show, Subject};
use crate::block::ExtentSet;
use crate::chain::Chain;
use crate::copy::{self, How, Watch};
use crate::epoch::Cut;
use crate::error::{Error, Kind, Result};
use crate::format::{EpochRange, PassStats};
use crate::repository::PointWriter;
use crate::sys::failpoint;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

/// A backup while it copies.
pub(super) struct Passes<'a> {
    pub(super) subject: &'a Subject<'a>,
    pub(super) ledger: &'a mut dyn Ledger,
    pub(super) writer: PointWriter,
    pub(super) how: How,
    pub(super) show: &'a dyn Show,
    /// The passes so far.
    pub(super) stats: Vec<PassStats>,
    /// Everything the lists said so far.
    pub(super) changed: ExtentSet,
    /// Epochs of which everything was copied.
    pub(super) epochs: EpochRange,
    /// Unix milliseconds of the last cut.
    pub(super) time_cut: u64,
    /// The first epoch that cannot be proved complete, and why.
    pub(super) doubt: Option<(u64, Vec<String>)>,
    /// What a person should know.
    pub(super) notes: Vec<String>,
    /// Folders we write to meanwhile.
    pub(super) own_folders: Vec<PathBuf>,
    /// How fast things go.
    pub(super) pace: Pace,
}

/// How fast things go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// When the last cut was made.
    pub(super) last_cut: Instant,
    /// The slowest cut.
    cut: Duration,
    /// Bytes copied per second, over all passes.
    rate: f64,
    /// Bytes changed per second before the last cut.
    dirty: f64,
}

/// Freezing itself, and the file system's own last flush.
const OVERHEAD: Duration = Duration::from_millis(20);

impl Pace {
    pub(super) fn new(dirty: f64) -> Self {
        // a rate to begin with that the slowest disk has; measured from the first pass on
        Self { last_cut: Instant::now(), cut: Duration::ZERO, rate: 50e6, dirty }
    }

    /// How long the file systems would stand still if they were frozen now.
    pub(super) fn predicted(&self) -> Duration {
        let left = self.dirty * self.last_cut.elapsed().as_secs_f64();
        let copying = Duration::try_from_secs_f64(left / self.rate).unwrap_or(Duration::MAX);
        OVERHEAD.saturating_add(self.cut * 2).saturating_add(copying)
    }

    fn cut_made(&mut self, began: Instant, bytes: u64) {
        let now = Instant::now();
        self.cut = self.cut.max(now - began);
        self.dirty = bytes as f64 / (now - self.last_cut).as_secs_f64().max(1e-3);
        self.last_cut = now;
    }

    fn copied(&mut self, bytes: u64, time: Duration) {
        // small passes say more about latency than about rate
        if bytes >= 1 << 20 {
            self.rate = bytes as f64 / time.as_secs_f64().max(1e-6);
        }
    }
}

/// Only the stop flag of a watcher: nothing is shown.
pub(crate) struct Hushed<'a>(pub &'a dyn Watch);

impl Watch for Hushed<'_> {
    fn stopped(&self) -> bool {
        self.0.stopped()
    }
}

impl Passes<'_> {
    /// Ends the running epoch. Its extents must be copied next.
    pub(super) fn cut(&mut self) -> Result<Cut> {
        self.ledger.prepare(1)?; // before a freeze that was done already
        let began = Instant::now();
        let cut = self.ledger.cut()?;
        self.time_cut = unix_ms();
        self.pace.cut_made(began, cut.extents.total());
        if !cut.suspect.is_empty() {
            self.doubt.get_or_insert_with(|| (cut.epoch, cut.suspect.clone()));
        }
        failpoint("job.after-pass-cut")?;
        Ok(cut)
    }

    /// Copies a cut's extents as the next pass; shows nothing if `hushed`.
    pub(super) fn copy_cut(&mut self, cut: &Cut, hushed: bool) -> Result<()> {
        self.changed = self.changed.union(&cut.extents);
        if !cut.extents.is_empty() {
            self.writer.start_pass()?;
            let watch = Hushed(self.show);
            let watch: &dyn Watch = if hushed { &watch } else { self.show };
            if !hushed {
                self.show.begin("changed", cut.extents.total());
            }
            self.pass(&cut.extents, watch, None)?;
        }
        self.epochs.last = cut.epoch;
        Ok(())
    }

    /// The first pass: all of `extents`, or of them only what differs from the parent.
    pub(super) fn first(&mut self, what: &str, extents: &ExtentSet, parent: Option<&Chain>) -> Result<()> {
        self.show.begin(what, extents.total());
        self.pass(extents, self.show, parent)
    }

    fn pass(&mut self, extents: &ExtentSet, watch: &dyn Watch, parent: Option<&Chain>) -> Result<()> {
        let (began, held_back) = (Instant::now(), watch.held_back());
        let (source, writer) = (self.subject.source, &mut self.writer);
        let copied = match parent {
            None => copy::run(source, extents, writer, self.how, watch)?,
            Some(chain) => copy::compare(source, extents, chain.pieces()?, writer, self.how, watch)?,
        };
        let wanted = extents.intersect(&ExtentSet::whole(source.size())).total();
        if copied.read < wanted {
            let text = format!("only {} of {wanted} bytes were read", copied.read);
            return Err(Error::new(Kind::Bug, text));
        }
        let time = began.elapsed();
        // what was rest says nothing about how fast a freeze would go
        let rest = watch.held_back().saturating_sub(held_back);
        self.pace.copied(copied.read, time.saturating_sub(rest));
        self.stats.push(PassStats {
            extents: extents.len() as u64,
            bytes: copied.read,
            millis: time.as_millis() as u64,
        });
        failpoint("job.after-pass")
    }

    /// The last epoch that may be forgotten once the point is durable.
    pub(super) fn forgettable(&self) -> u64 {
        match self.doubt {
            Some((epoch, _)) => self.epochs.last.min(epoch.saturating_sub(1)),
            None => self.epochs.last,
        }
    }
}

/// Milliseconds since 1970.
pub(super) fn unix_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}
