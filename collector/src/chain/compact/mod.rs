//! Compaction: the frames that points still show are moved, verbatim, out of segments that are mostly dead.
//!
//! ```text
//!   1  live frames of mostly dead segments -> new segments          nothing names them yet
//!   2  every point that showed one gets a map with the new places   committed map by map
//!   3  after the time of grace: old segments, superseded maps       gone
//! ```
//! A round does 1 and 2 under the writer's lock and keeps nothing in mind for the next, so a run that was killed goes
//! on with the next one, and a backup gets in between two rounds.
//!
//! Must stay true: every point restores to the same bytes at every moment, whatever dies when; nothing at all is
//! moved while anything that a point needs cannot be told; a damaged frame stays where it is.

mod survey;

use super::Chain;
use super::prune::Points;
use crate::error::{Error, Kind, Result};
use crate::format::{DeviceId, PieceContent, PointId, SegmentId, SegmentRef};
use crate::repository::{DeviceLock, Freed, Moved, NewMap, PieceStream, Repository};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use survey::{Survey, Victim};

/// A round moves at least this much if it is there: each costs a look at all indexes of the device.
const ROUND: u64 = 256 << 20;

/// Or so many times the bytes of these indexes.
const INDEXES: u64 = 4;

/// How far a compaction goes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Segments of which at least this share is dead are emptied.
    pub dead: f64,
    /// Bytes of frames moved in all.
    pub max_bytes: u64,
    /// Bytes read and written per second.
    pub bandwidth: Option<u64>,
    /// What was superseded stays so long.
    pub grace: Duration,
}

/// What was done with a device, or would be.
#[derive(Clone, Debug, Serialize)]
pub struct Compacted {
    /// The device.
    pub device: DeviceId,
    /// Segments emptied (planned: to be emptied).
    pub segments: u64,
    /// Their bytes.
    pub segment_bytes: u64,
    /// Bytes of frames moved out of them.
    pub moved_bytes: u64,
    /// Maps written.
    pub maps: u64,
    /// Bytes read of segments and indexes.
    pub read_bytes: u64,
    /// Bytes written of segments and maps.
    pub written_bytes: u64,
    /// There is more, beyond `max_bytes`, or it was stopped.
    pub more: bool,
    /// Segments that were left alone because they are damaged, and how.
    pub damaged: BTreeMap<SegmentId, String>,
    /// What went, and what waits; `None`: only planned.
    pub freed: Option<Freed>,
}

/// Compacts one device. `progress` is told bytes moved and bytes to move; when it says false, the run ends soon and well.
///
/// # Errors
/// [`Kind::Busy`] while it is written; [`Kind::Damaged`] if what its points need cannot be told.
pub fn compact(
    repo: &Repository,
    device: &DeviceId,
    limits: &Limits,
    dry: bool,
    progress: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<Compacted> {
    let mut run = Run {
        repo,
        limits,
        began: Instant::now(),
        progress,
        done: Compacted {
            device: device.clone(),
            segments: 0,
            segment_bytes: 0,
            moved_bytes: 0,
            maps: 0,
            read_bytes: 0,
            written_bytes: 0,
            more: false,
            damaged: BTreeMap::new(),
            freed: None,
        },
    };
    if dry {
        run.plan(device)?;
        return Ok(run.done);
    }
    // first what the last run left: its space may be needed
    let lock = repo.lock(device)?;
    repo.may_remove(&lock)?;
    let mut freed = drop_old(repo, &lock, limits.grace)?;
    drop(lock);
    while run.round(&repo.lock(device)?)? {}
    let last = drop_old(repo, &repo.lock(device)?, limits.grace)?;
    freed.segments += last.segments;
    freed.bytes += last.bytes;
    freed.waiting_bytes = last.waiting_bytes;
    run.done.freed = Some(freed);
    Ok(run.done)
}

/// Removes what earlier compactions superseded and whose time of grace is over.
pub(super) fn drop_old(repo: &Repository, lock: &DeviceLock, grace: Duration) -> Result<Freed> {
    let points = Points::read(repo, lock.device())?;
    points.all_readable()?;
    repo.drop_superseded(lock, &points.good, grace)
}

/// A run, over all its rounds.
struct Run<'a> {
    repo: &'a Repository,
    limits: &'a Limits,
    began: Instant,
    progress: &'a mut dyn FnMut(u64, u64) -> bool,
    done: Compacted,
}

impl Run<'_> {
    fn survey(&mut self, device: &DeviceId) -> Result<Survey> {
        let points = Points::read(self.repo, device)?;
        points.all_readable()?;
        let survey = Survey::take(&points, self.limits.dead, &self.done.damaged)?;
        self.done.read_bytes += survey.read_bytes;
        Ok(survey)
    }

    fn plan(&mut self, device: &DeviceId) -> Result<()> {
        let survey = self.survey(device)?;
        for victim in &survey.victims {
            if self.done.moved_bytes + victim.live_bytes > self.limits.max_bytes {
                self.done.more = true;
                break;
            }
            self.count(victim);
        }
        Ok(())
    }

    fn count(&mut self, victim: &Victim) {
        self.done.segments += 1;
        self.done.segment_bytes += victim.segment.len;
        self.done.moved_bytes += victim.live_bytes;
    }

    /// One round; false: it was the last.
    fn round(&mut self, lock: &DeviceLock) -> Result<bool> {
        let survey = self.survey(lock.device())?;
        let most = self.limits.bandwidth.map_or(ROUND, |rate| rate.saturating_mul(10).min(ROUND));
        let most = most.max(survey.index_bytes.saturating_mul(INDEXES));
        let total = self.done.moved_bytes + survey.victims.iter().map(|v| v.live_bytes).sum::<u64>();
        let (mut mover, mut emptied, mut go_on) = (self.repo.mover(lock)?, BTreeSet::new(), false);
        let begun = self.done.moved_bytes;
        for victim in &survey.victims {
            if self.done.moved_bytes + victim.live_bytes > self.limits.max_bytes {
                self.done.more = true;
                break;
            }
            if self.done.moved_bytes - begun > most {
                go_on = true;
                break;
            }
            let read = mover.read();
            match mover.take(&victim.segment, &victim.live) {
                Ok(()) => drop(emptied.insert(victim.segment.id)),
                Err(e) if e.kind() == Kind::Damaged => {
                    self.done.damaged.insert(victim.segment.id, e.in_full());
                    continue;
                }
                Err(e) => return Err(e),
            }
            self.count(victim);
            self.done.read_bytes += mover.read() - read;
            self.pace(victim.live_bytes);
            if !(self.progress)(self.done.moved_bytes, total.min(self.limits.max_bytes)) {
                (self.done.more, go_on) = (true, false);
                break;
            }
        }
        let moved = mover.finish()?;
        self.done.written_bytes += moved.segments.iter().map(|s| s.len).sum::<u64>();
        self.rewrite(lock, &survey, moved, emptied)?;
        Ok(go_on)
    }

    /// Gives every point that shows a moved frame a map with its new place.
    fn rewrite(
        &mut self,
        lock: &DeviceLock,
        survey: &Survey,
        moved: Moved,
        emptied: BTreeSet<SegmentId>,
    ) -> Result<()> {
        let (moved, emptied) = (Arc::new(moved), Arc::new(emptied));
        for (point, segments) in &survey.shown {
            if segments.iter().any(|id| emptied.contains(id)) {
                let len = write_map(self.repo, lock, *point, &moved, &emptied)?;
                self.done.maps += 1;
                self.done.written_bytes += len;
                self.pace(0);
            }
        }
        Ok(())
    }

    /// Waits until what was read and written is not more than the bandwidth allows.
    fn pace(&self, not_yet_counted: u64) {
        let Some(rate) = self.limits.bandwidth else { return };
        let bytes = self.done.read_bytes + self.done.written_bytes + not_yet_counted;
        let due = Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
        std::thread::sleep(due.saturating_sub(self.began.elapsed()));
    }
}

/// Writes the map of a point as it is shown now, with moved frames in their new places. Its bytes.
fn write_map(
    repo: &Repository,
    lock: &DeviceLock,
    point: PointId,
    moved: &Arc<Moved>,
    emptied: &Arc<BTreeSet<SegmentId>>,
) -> Result<u64> {
    let chain = Chain::resolve(repo, lock.device(), point)?;
    let (image, mut segments) = chain.image(chain.all())?;
    let base = u32::try_from(segments.len() + moved.segments.len()).map(|_| segments.len() as u32);
    let base = base.map_err(|_| Error::new(Kind::Unsupported, "image of more than 2^32 segments"))?;
    let old: Arc<[SegmentRef]> = segments.as_slice().into();
    segments.extend_from_slice(&moved.segments);
    let image = in_new_places(image, old, base, Arc::clone(moved), Arc::clone(emptied));
    let merged = chain.points().iter().map(|m| m.point).collect();
    let new = NewMap { image, segments: &segments, merged, sole: true };
    Ok(repo.write_map(lock, chain.top(), new)?.index.len)
}

fn in_new_places(
    image: PieceStream,
    old: Arc<[SegmentRef]>,
    base: u32,
    moved: Arc<Moved>,
    emptied: Arc<BTreeSet<SegmentId>>,
) -> PieceStream {
    Box::new(image.map(move |piece| {
        let mut piece = piece?;
        if let PieceContent::Stored(frame) = &mut piece.content
            && let Some(segment) = old.get(frame.segment as usize)
            && emptied.contains(&segment.id)
        {
            let place = moved.places.get(&(segment.id, frame.offset));
            let (number, offset) =
                place.ok_or_else(|| Error::new(Kind::Bug, "a frame that is shown was not moved"))?;
            (frame.segment, frame.offset) = (base + number, *offset);
        }
        Ok(piece)
    }))
}
