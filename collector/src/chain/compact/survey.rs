//! What of each segment is still shown: which segments are mostly dead, and which frames of them live.
//!
//! Two passes over the indexes that show points. The first counts live bytes per segment and index; a segment that one
//! index alone keeps mostly alive is out. The second notes the live frames of the rest, so memory grows with what may
//! be moved and not with the device.

use crate::chain::prune::Points;
use crate::chain::usable_map;
use crate::error::{Error, Kind, Result};
use crate::format::{CELL, FrameRef, PieceContent, PointId, SegmentId, SegmentRef};
use crate::repository::IndexReader;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// Bytes of a segment besides its frames: header and trailer; and of its table, per frame.
const FIXED: u64 = 160;
const PER_FRAME: u64 = 40;

/// A map of a point that has none is worth it if it frees so many times its own bytes.
const WORTH: u64 = 2;

/// A mostly dead segment.
pub(super) struct Victim {
    pub segment: SegmentRef,
    /// Where its live frames lie, ascending.
    pub live: Vec<u32>,
    pub live_bytes: u64,
}

/// What was found.
#[derive(Default)]
pub(super) struct Survey {
    /// Those with the least to move first.
    pub victims: Vec<Victim>,
    /// The segments that show each point.
    pub shown: Vec<(PointId, HashSet<SegmentId>)>,
    /// Bytes of the indexes.
    pub index_bytes: u64,
    /// Bytes of indexes read.
    pub read_bytes: u64,
}

/// An index that shows a point.
struct Shown {
    point: PointId,
    index: IndexReader,
    bytes: u64,
    /// Bytes that a map of the point would have, if it has none.
    map_bytes: Option<u64>,
}

impl Survey {
    /// Looks at all points of a device, dropped ones too.
    pub fn take(points: &Points<'_>, dead: f64, but: &BTreeMap<SegmentId, String>) -> Result<Self> {
        let shown = shown(points)?;
        let mut most: HashMap<SegmentId, (SegmentRef, Live)> = HashMap::new();
        for one in &shown {
            for (segment, live) in one.index.segments().iter().zip(live_of(&one.index)?) {
                let (_, seen) = most.entry(segment.id).or_insert((*segment, Live::default()));
                if live.bytes > seen.bytes {
                    *seen = live;
                }
            }
        }
        most.retain(|id, (segment, live)| !but.contains_key(id) && live.mostly_dead(segment, dead));
        drop_the_unworthy(&shown, &mut most);
        let victims = victims(&shown, &most, dead)?;
        let index_bytes = shown.iter().map(|one| one.bytes).sum();
        let shown = shown.into_iter().map(|one| {
            (one.point, one.index.segments().iter().map(|s| s.id).collect::<HashSet<SegmentId>>())
        });
        Ok(Self { victims, shown: shown.collect(), index_bytes, read_bytes: 2 * index_bytes })
    }
}

/// What of a segment one index shows.
#[derive(Clone, Copy, Default)]
struct Live {
    bytes: u64,
    frames: u64,
}

impl Live {
    fn mostly_dead(&self, segment: &SegmentRef, share: f64) -> bool {
        let dead = dead_bytes(segment, self.bytes, self.frames);
        dead > 0 && dead as f64 >= share * segment.len as f64
    }
}

fn dead_bytes(segment: &SegmentRef, live: u64, frames: u64) -> u64 {
    segment.len.saturating_sub(live + FIXED + PER_FRAME * frames)
}

/// The index that shows each point: its map, else its own. A map that cannot be used stops everything.
fn shown(points: &Points<'_>) -> Result<Vec<Shown>> {
    let mut all: Vec<Shown> = Vec::new();
    let mut sizes: HashMap<PointId, u64> = HashMap::new();
    for (manifest, hash) in &points.good {
        let map = usable_map(points.repo, &points.mapped, manifest, *hash)?;
        if map.is_none() && points.mapped.contains_key(&manifest.point) {
            let what =
                format!("compact {}: the map of point {} cannot be used", points.device, manifest.point);
            return Err(Error::new(Kind::Damaged, what).hint("run `blkdelta check`"));
        }
        let mapped = map.is_some();
        let index = map.map_or_else(|| points.repo.index(manifest), Ok)?;
        let bytes = index.bytes();
        // parents come before their children: what a chain's indexes have together bounds its map
        let below = manifest.parent.filter(|_| !mapped).and_then(|p| sizes.get(&p.point)).copied();
        let whole = bytes + below.unwrap_or(0);
        sizes.insert(manifest.point, whole);
        let map_bytes = (!mapped).then_some(whole);
        all.push(Shown { point: manifest.point, index, bytes, map_bytes });
    }
    Ok(all)
}

/// Takes out segments of points for which a map of their own would cost more than it frees.
fn drop_the_unworthy(shown: &[Shown], most: &mut HashMap<SegmentId, (SegmentRef, Live)>) {
    for one in shown {
        let Some(map_bytes) = one.map_bytes else { continue };
        let named: BTreeSet<SegmentId> = one.index.segments().iter().map(|s| s.id).collect();
        let found = named.iter().filter_map(|id| most.get(id));
        let freed: u64 = found.map(|(s, live)| dead_bytes(s, live.bytes, live.frames)).sum();
        if freed < map_bytes.saturating_mul(WORTH) {
            most.retain(|id, _| !named.contains(id));
        }
    }
}

/// The live frames of candidates, of all indexes together.
fn victims(
    shown: &[Shown],
    candidates: &HashMap<SegmentId, (SegmentRef, Live)>,
    dead: f64,
) -> Result<Vec<Victim>> {
    let mut live: HashMap<SegmentId, Vec<(u32, u32)>> =
        candidates.keys().map(|id| (*id, Vec::new())).collect();
    for one in shown {
        let segments = one.index.segments();
        if !segments.iter().any(|s| live.contains_key(&s.id)) {
            continue;
        }
        each_frame(&one.index, &mut |frame| {
            let segment = segments.get(frame.segment as usize);
            if let Some(frames) = segment.and_then(|s| live.get_mut(&s.id)) {
                frames.push((frame.offset, frame.stored_len));
            }
        })?;
        for segment in segments {
            if let Some(frames) = live.get_mut(&segment.id) {
                frames.sort_unstable();
                frames.dedup();
            }
        }
    }
    let mut victims = Vec::new();
    for (id, frames) in live {
        let Some((segment, _)) = candidates.get(&id) else { continue };
        let live_bytes = frames.iter().map(|f| u64::from(f.1)).sum();
        let counted = Live { bytes: live_bytes, frames: frames.len() as u64 };
        if counted.mostly_dead(segment, dead) {
            let live = frames.into_iter().map(|f| f.0).collect();
            victims.push(Victim { segment: *segment, live, live_bytes });
        }
    }
    victims.sort_unstable_by_key(|v| (v.live_bytes, v.segment.id));
    Ok(victims)
}

/// Live bytes and frames per segment of an index's table.
fn live_of(index: &IndexReader) -> Result<Vec<Live>> {
    let mut live = vec![Live::default(); index.segments().len()];
    each_frame(index, &mut |frame| {
        if let Some(live) = live.get_mut(frame.segment as usize) {
            live.bytes += u64::from(frame.stored_len);
            live.frames += 1;
        }
    })?;
    Ok(live)
}

/// Every frame that an index shows, once.
fn each_frame(index: &IndexReader, each: &mut dyn FnMut(&FrameRef)) -> Result<()> {
    // all pieces of a frame lie in its cell, so they come close together
    let (mut cell, mut seen) = (u64::MAX, Vec::new());
    for piece in index.pieces() {
        let piece = piece?;
        let PieceContent::Stored(frame) = piece.content else { continue };
        if piece.extent.offset / CELL != cell {
            cell = piece.extent.offset / CELL;
            seen.clear();
        }
        if !seen.contains(&(frame.segment, frame.offset)) {
            seen.push((frame.segment, frame.offset));
            each(&frame);
        }
    }
    Ok(())
}
