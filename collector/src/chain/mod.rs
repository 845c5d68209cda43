//! From a point back to its full: where every byte of the image is.
//!
//! ```text
//!   increments, newest on top  ┐ folded first, they are small
//!   ...                        ┘
//!   full, or a point's map       then one pass over it, streamed
//! ```
//!
//! Must stay true: an increment shadows what is below it, byte for byte; each parent is the very manifest its
//! child was made on (hash); the memory needed does not grow with the device.

mod between;
mod compact;
mod merge;
mod prune;
mod repair;
mod retention;
mod transfer;

use crate::block::Extent;
use crate::error::{Error, Kind, Result};
use crate::format::{
    Blake3, CELL, DeviceId, Manifest, Piece as IndexPiece, PieceContent, PointId, PointKind, SegmentRef,
};
use crate::repository::{
    IndexReader, PieceStream, Repository, Run, ahead, is_harm, is_lost, lost_pieces, stack,
};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

pub use crate::repository::{Content, Piece, Stored};
pub use between::{Between, between};
pub use compact::{Compacted, Limits, compact};
pub use merge::merge_if_longer;
pub use prune::{Plan, Pruned, prune};
pub use repair::{Repaired, repair};
pub use retention::Policy;
pub use transfer::{Progress, Sending, Sent, Wanted};

/// Indexes read side by side; each holds one chunk in memory (about 1.5 MiB).
const SIDE_BY_SIDE: usize = 24;

/// A point and everything below it, down to its full or to a point with a map.
#[derive(Clone)]
pub struct Chain {
    repository: Repository,
    points: Vec<Manifest>,
    /// The last point's map, if the chain ends with one.
    map: Option<IndexReader>,
    /// A point has a map that cannot be used: what lies below may have moved.
    doubtful: bool,
    /// What cannot be read is lost, not an error.
    salvage: bool,
    /// Why the chain ends above its full.
    broken: Option<String>,
}

impl std::fmt::Debug for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Chain({} and {} below)", self.points[0].point, self.points.len() - 1)
    }
}

impl Chain {
    /// Follows the parents of `point` to its full, or to a point that has a map, and checks each.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if the point is not there, [`Kind::Damaged`] if the chain below it is not whole.
    pub fn resolve(repository: &Repository, device: &DeviceId, point: PointId) -> Result<Self> {
        Self::trace(repository, device, point, false, &BTreeSet::new())
    }

    /// As [`resolve`](Self::resolve), as if the point did not have these maps.
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve).
    fn without_maps(
        repository: &Repository,
        device: &DeviceId,
        point: PointId,
        but: &BTreeSet<u32>,
    ) -> Result<Self> {
        Self::trace(repository, device, point, false, but)
    }

    /// As [`resolve`](Self::resolve), but what is missing or damaged below the asked point is not an error: what only
    /// it could tell is [`Content::Lost`].
    ///
    /// # Errors
    /// If the asked point's manifest cannot be read: nothing is known without it.
    pub fn salvage(repository: &Repository, device: &DeviceId, point: PointId) -> Result<Self> {
        Self::trace(repository, device, point, true, &BTreeSet::new())
    }

    fn trace(
        repository: &Repository,
        device: &DeviceId,
        point: PointId,
        salvage: bool,
        but: &BTreeSet<u32>,
    ) -> Result<Self> {
        let (mut at, mut hash) = repository.manifest(device, point)?;
        let mapped = maps_but(repository, &at, but)?;
        let mut doubtful = !but.is_empty();
        let (mut points, mut seen, mut broken) = (Vec::new(), HashSet::new(), None);
        loop {
            if !seen.insert(at.point) {
                return Err(Error::new(Kind::Damaged, format!("chain of {point} runs in a circle")));
            }
            let map = usable_map(repository, &mapped, &at, hash)?;
            doubtful |= map.is_none() && mapped.contains_key(&at.point);
            let ends = map.is_some() || at.kind == PointKind::Full;
            let next = if ends { None } else { Some(below(repository, &at, point)) };
            points.push(at);
            match next {
                Some(Ok(next)) => (at, hash) = next,
                Some(Err(e)) if !(salvage && is_harm(&e)) => return Err(e),
                end => {
                    broken = end.and_then(Result::err).map(|e| e.in_full()).or(broken);
                    return Ok(Self {
                        repository: repository.clone(),
                        points,
                        map,
                        doubtful,
                        salvage,
                        broken,
                    });
                }
            }
        }
    }

    /// The points: the asked one first, the full last.
    pub fn points(&self) -> &[Manifest] {
        &self.points
    }

    /// If a map could not be used: what lies below it is all there all the same, every index readable to its last byte.
    ///
    /// # Errors
    /// [`Kind::Damaged`] if not.
    fn expect_whole(&self) -> Result<()> {
        if !self.doubtful {
            return Ok(());
        }
        let (mut image, segments) = self.image(self.all())?;
        self.repository.expect_segments(&segments)?;
        image.try_for_each(|piece| piece.map(drop))
    }

    /// The asked point.
    pub fn top(&self) -> &Manifest {
        // never empty: `resolve` puts the asked point in first
        &self.points[0]
    }

    /// The image: sorted, non-overlapping; what no piece covers is zero.
    ///
    /// # Errors
    /// If an index cannot be opened or, folding a long chain, read.
    pub fn pieces(&self) -> Result<Pieces> {
        self.pieces_in(self.all())
    }

    /// The part of the image in `range`; of the indexes only what reaches into it is read.
    ///
    /// # Errors
    /// As [`pieces`](Self::pieces).
    pub fn pieces_in(&self, range: Extent) -> Result<Pieces> {
        let (image, segments) = self.image(range)?;
        Ok(Pieces { image, segments: segments.into(), range })
    }

    fn all(&self) -> Extent {
        Extent::new(0, self.top().geometry.size)
    }

    /// The image around `range` as pieces of indexes, and the segments they name.
    fn image(&self, range: Extent) -> Result<(PieceStream, Vec<SegmentRef>)> {
        let mut segments: Vec<SegmentRef> = Vec::new();
        let mut layers: Vec<PieceStream> = Vec::new();
        let mut broken = self.broken.clone();
        for (n, manifest) in self.points.iter().enumerate() {
            let map = self.map.as_ref().filter(|_| n + 1 == self.points.len());
            let index = match map.map_or_else(|| self.repository.index(manifest), |map| Ok(map.clone())) {
                Err(e) if self.salvage && is_harm(&e) => {
                    broken = Some(e.in_full());
                    break;
                }
                index => index?,
            };
            let base = u32::try_from(segments.len())
                .map_err(|_| Error::new(Kind::Unsupported, "chain with more than 2^32 segments"))?;
            segments.extend_from_slice(index.segments());
            let pieces = index.pieces_near(range, self.salvage);
            let pieces = Box::new(pieces.map(move |piece| piece.map(|p| renumber(p, base))));
            // one at most: what is above the last point is small, and there may be a thousand of it
            let alone = n + 1 == self.points.len() && index.is_large();
            layers.push(if alone { ahead(pieces)? } else { pieces });
        }
        if let Some(why) = broken {
            log::warn!("below {} of {} points nothing is known: {why}", layers.len(), self.points.len());
            layers.push(Box::new(lost_pieces(range.align_out(CELL, self.all().end())).map(Ok)));
        }
        let whole = layers.pop();
        let mut increments = layers;
        while increments.len() > SIDE_BY_SIDE {
            increments = self.fold(increments)?;
        }
        let folded = (!increments.is_empty()).then(|| stack(increments));
        Ok((stack([folded, whole].into_iter().flatten().collect()), segments))
    }

    /// Lays groups of neighbouring layers over each other into runs on the medium.
    fn fold(&self, layers: Vec<PieceStream>) -> Result<Vec<PieceStream>> {
        let mut folded: Vec<PieceStream> = Vec::new();
        let mut rest = layers.into_iter();
        loop {
            let group: Vec<PieceStream> = rest.by_ref().take(SIDE_BY_SIDE).collect();
            if group.is_empty() {
                return Ok(folded);
            }
            let mut run = Run::default();
            for piece in stack(group) {
                run.push(self.repository.store(), piece?)?;
            }
            folded.push(run.into_stream());
        }
    }
}

/// The maps to use of a point's device, as if the point did not have these.
fn maps_but(repository: &Repository, top: &Manifest, but: &BTreeSet<u32>) -> Result<BTreeMap<PointId, u32>> {
    let mut mapped = repository.mapped(&top.device.id)?;
    if !but.is_empty() {
        let left = repository.map_numbers(top)?.into_iter().filter(|number| !but.contains(number)).max();
        mapped.remove(&top.point);
        mapped.extend(left.map(|number| (top.point, number)));
    }
    Ok(mapped)
}

/// The manifest of a point's parent, and its hash.
fn below(repository: &Repository, child: &Manifest, top: PointId) -> Result<(Manifest, Blake3)> {
    let parent = repository.parent_of(child)?.zip(child.parent.map(|p| p.manifest));
    parent.ok_or_else(|| Error::new(Kind::Damaged, format!("chain of {top} does not end in a full point")))
}

/// A point's map, if it has one that can be read; if not, what is below may still be there.
fn usable_map(
    repository: &Repository,
    mapped: &BTreeMap<PointId, u32>,
    manifest: &Manifest,
    hash: Blake3,
) -> Result<Option<IndexReader>> {
    let Some(number) = mapped.get(&manifest.point) else { return Ok(None) };
    let map = repository.point_map(&manifest.device.id, manifest.point, hash, *number);
    match map.and_then(|map| repository.map_index(&map, manifest.geometry.size)) {
        Ok(index) => Ok(Some(index)),
        Err(e) if matches!(e.kind(), Kind::Damaged | Kind::NotFound) => {
            log::warn!("map {number} of point {} is not used: {e}", manifest.point);
            Ok(None)
        }
        Err(e) => Err(e),
    }
}

fn renumber(mut piece: IndexPiece, base: u32) -> IndexPiece {
    if let PieceContent::Stored(frame) = &mut piece.content {
        frame.segment = frame.segment.saturating_add(base);
    }
    piece
}

/// The pieces of an image, by address.
pub struct Pieces {
    image: PieceStream,
    segments: Arc<[SegmentRef]>,
    range: Extent,
}

impl Iterator for Pieces {
    type Item = Result<Piece>;

    fn next(&mut self) -> Option<Result<Piece>> {
        loop {
            let piece = match self.image.next()?.and_then(|piece| self.named(piece)) {
                Ok(piece) => piece,
                Err(e) => return Some(Err(e)),
            };
            if let Some(part) = piece.extent.intersect(&self.range) {
                return Some(Ok(piece.cut(part)));
            }
        }
    }
}

impl Pieces {
    /// With the name of its segment.
    fn named(&self, piece: IndexPiece) -> Result<Piece> {
        let content = match piece.content {
            PieceContent::Zero => Content::Zero,
            PieceContent::Stored(_) if is_lost(&piece) => Content::Lost,
            PieceContent::Stored(f) => {
                let segment = self.segments.get(f.segment as usize);
                let segment =
                    segment.ok_or_else(|| Error::new(Kind::Bug, "piece names a segment beyond the table"))?;
                Content::Stored(Stored {
                    segment: segment.id,
                    offset: f.offset,
                    frame: piece.frame(),
                    skip: f.skip,
                })
            }
        };
        Ok(Piece { extent: piece.extent, content })
    }
}

#[cfg(test)]
mod tests;
