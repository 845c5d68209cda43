//! What a compaction left behind: segments, indexes and maps that newer maps stand for.
//!
//! ```text
//!   point with a sole map older than the grace:  live = what that map names
//!   any other point:                             live = what its index and its maps name
//!   removed = what superseded indexes name - live
//! ```
//! Must stay true: nothing is removed before every byte of the map that stands for it was read and every segment of that
//! is seen to be there, nor within the time of grace, in which restores that began before may still read it; segments go first, then the
//! superseded map, so that a removal that died is found and ended by the next.

use super::index::IndexReader;
use super::lock::DeviceLock;
use super::{Repository, keys, lost, unix_millis};
use crate::error::{Error, Kind, Result};
use crate::format::{Blake3, Manifest, PointId, PointMap, SegmentId, SegmentRef, damaged};
use crate::sys::failpoint;
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

/// What was removed, and what waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Freed {
    /// Segments removed.
    pub segments: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes of segments that go when the time of grace is over.
    pub waiting_bytes: u64,
}

type Names = BTreeSet<SegmentId>;

/// What one point holds.
#[derive(Default)]
struct Holding {
    /// Segments it needs.
    live: Names,
    /// Segments that only its superseded indexes name.
    old: Names,
    /// The time of grace is over.
    over: bool,
    /// Superseded maps.
    maps: Vec<(PointId, u32)>,
    /// The map that stands for all that.
    shows: Option<IndexReader>,
}

impl Holding {
    /// Something that its map stands for is about to go: the last moment to see that the map is whole.
    fn expect_sound_map(&self, gone: &Names) -> Result<()> {
        let Some(map) = self.shows.as_ref().filter(|_| self.over) else { return Ok(()) };
        if self.maps.is_empty() && self.old.is_disjoint(gone) {
            return Ok(());
        }
        let read = map.pieces().try_for_each(|piece| piece.map(drop));
        read.map_err(|e| lost(e).hint("run `blkdelta repair`; nothing was removed"))
    }
}

impl Repository {
    /// Removes what the sole maps of `points` (all of the device, none left out) have superseded.
    ///
    /// # Errors
    /// [`Kind::Damaged`] if what a point needs cannot be told: then nothing is removed. What the store meets.
    pub(crate) fn drop_superseded(
        &self,
        lock: &DeviceLock,
        points: &[(Manifest, Blake3)],
        grace: Duration,
    ) -> Result<Freed> {
        if points.iter().any(|(m, _)| &m.device.id != lock.device()) {
            return Err(Error::new(Kind::Usage, "drop what is superseded: the lock is of another device"));
        }
        let mapped = self.mapped(lock.device())?;
        let mut sole = HashMap::new();
        for (manifest, hash) in points {
            if let Some(number) = mapped.get(&manifest.point)
                && let Some(found) = self.sole(manifest, *hash, *number)?
            {
                sole.insert(manifest.point, found);
            }
        }
        if sole.is_empty() {
            return Ok(Freed::default());
        }
        let there = self.segments_there()?;
        let mut holdings = Vec::with_capacity(points.len());
        for (manifest, hash) in points {
            if let Some((_, index)) = sole.get(&manifest.point) {
                expect(index.segments(), &there).map_err(|e| e.hint("run `blkdelta check`"))?;
            }
            holdings.push(match sole.get(&manifest.point) {
                Some((map, index)) => self.held_by_map(manifest, map, index, grace)?,
                None => Holding { live: self.segments_of(manifest, *hash)?, ..Holding::default() },
            });
        }
        lock.holds()?;
        self.drop_old(lock, &holdings, &there)
    }

    /// Identities and lengths of all segments.
    fn segments_there(&self) -> Result<HashMap<SegmentId, u64>> {
        let listed = self.store().list("seg")?;
        Ok(listed.iter().filter_map(|(key, len)| Some((keys::parse_segment(key)?, *len))).collect())
    }

    /// Every one of these segments is there, with its length.
    ///
    /// # Errors
    /// [`Kind::Damaged`] if not.
    pub(crate) fn expect_segments(&self, segments: &[SegmentRef]) -> Result<()> {
        expect(segments, &self.segments_there()?)
    }

    /// A point's map, if it alone shows the point.
    fn sole(
        &self,
        manifest: &Manifest,
        hash: Blake3,
        number: u32,
    ) -> Result<Option<(PointMap, IndexReader)>> {
        let map = self.point_map(&manifest.device.id, manifest.point, hash, number)?;
        if !map.sole {
            return Ok(None);
        }
        let index = self.map_index(&map, manifest.geometry.size)?;
        Ok(Some((map, index)))
    }

    /// The maps that a point had before this one.
    pub(super) fn earlier_maps(
        &self,
        manifest: &Manifest,
        map: &PointMap,
    ) -> Result<Vec<(u32, Result<IndexReader>)>> {
        let (device, point) = (&map.device, map.point);
        let mut numbers = self.committed_maps(&format!("map/{device}/{point}"))?;
        numbers.retain(|(.., number)| *number < map.number);
        let open = |number| {
            let earlier = self.point_map(device, point, map.manifest, number)?;
            self.map_index(&earlier, manifest.geometry.size)
        };
        Ok(numbers.into_iter().map(|(.., number)| (number, open(number))).collect())
    }

    fn held_by_map(
        &self,
        manifest: &Manifest,
        map: &PointMap,
        index: &IndexReader,
        grace: Duration,
    ) -> Result<Holding> {
        let point = manifest.point;
        // a clock that was set back makes a map of the future: it waits
        let age = unix_millis().checked_sub(map.time);
        let over = age.is_some_and(|age| age >= grace.as_millis() as u64);
        let live: Names = index.segments().iter().map(|s| s.id).collect();
        let mut old = Names::new();
        let mut note = |opened: Result<IndexReader>| match opened {
            Ok(index) => old.extend(index.segments().iter().map(|s| s.id)),
            Err(e) => log::warn!("what a superseded index of {point} names stays: {e}"),
        };
        note(self.index(manifest));
        let mut maps = Vec::new();
        for (number, earlier) in self.earlier_maps(manifest, map)? {
            note(earlier);
            maps.push((point, number));
        }
        old.retain(|id| !live.contains(id));
        Ok(Holding { live, old, over, maps, shows: Some(index.clone()) })
    }

    fn drop_old(
        &self,
        lock: &DeviceLock,
        holdings: &[Holding],
        there: &HashMap<SegmentId, u64>,
    ) -> Result<Freed> {
        let (mut live, mut waiting, mut dead) = (Names::new(), Names::new(), Names::new());
        for held in holdings {
            live.extend(&held.live);
            let names = if held.over { &mut dead } else { &mut waiting };
            names.extend(&held.old);
        }
        let gone: Names =
            dead.iter().filter(|id| !live.contains(*id) && !waiting.contains(*id)).copied().collect();
        let bytes = |id: &SegmentId| there.get(id).copied();
        let waits = waiting.iter().filter(|id| !live.contains(*id)).filter_map(bytes);
        let mut freed = Freed { waiting_bytes: waits.sum(), ..Freed::default() };
        let there_still: Names = gone.iter().filter(|id| bytes(id).is_some()).copied().collect();
        holdings.iter().try_for_each(|held| held.expect_sound_map(&there_still))?;
        failpoint("repo.superseded.begin")?;
        let maps = || holdings.iter().filter(|held| held.over).flat_map(|held| &held.maps);
        let mut goes: BTreeSet<String> = there_still.iter().map(|id| keys::segment(*id)).collect();
        maps().for_each(|(point, n)| goes.append(&mut self.keys_of_map(lock.device(), *point, *n)));
        if !goes.is_empty() {
            self.leave_out(lock, &goes)?;
        }
        // of the others an earlier run came that far
        for id in &there_still {
            let Some(length) = bytes(id) else { continue };
            lock.still_holds()?;
            self.store().delete(&keys::segment(*id))?;
            (freed.segments, freed.bytes) = (freed.segments + 1, freed.bytes + length);
            failpoint("repo.superseded.segment-gone")?;
        }
        for (point, number) in maps() {
            self.drop_spare(lock.device(), *point, *number)?;
            self.store().delete(&keys::map_commit(lock.device(), *point, *number))?;
            failpoint("repo.superseded.commit-gone")?;
            self.store().delete(&keys::map(lock.device(), *point, *number))?;
        }
        Ok(freed)
    }
}

/// Each of `segments` is among those that are there, with its length.
fn expect(segments: &[SegmentRef], there: &HashMap<SegmentId, u64>) -> Result<()> {
    match segments.iter().find(|s| there.get(&s.id) != Some(&s.len)) {
        None => Ok(()),
        Some(s) => Err(damaged(format!("segment {} is missing, or not {} bytes long", s.id, s.len))),
    }
}
