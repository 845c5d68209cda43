//! From a point back to its full: where every byte of the image is.
//!
//! ```text
//!   increments, newest on top  ┐ folded first, they are small
//!   ...                        ┘
//!   full                         then one pass over it, streamed
//! ```
//!
//! Must stay true: an increment shadows what is below it, byte for byte; each parent is the very manifest its
//! child was made on (hash); the memory needed does not grow with the device.

use crate::error::{Error, Kind, Result};
use crate::format::{DeviceId, Manifest, Piece as IndexPiece, PieceContent, PointId, PointKind, SegmentRef};
use crate::repository::{PieceStream, Repository, Run, stack};
use std::collections::HashSet;
use std::sync::Arc;

pub use crate::repository::{Content, Piece, Stored};

/// Indexes read side by side; each holds one chunk in memory (about 1.5 MiB).
const SIDE_BY_SIDE: usize = 24;

/// A point and everything below it, down to its full.
#[derive(Clone, Debug)]
pub struct Chain {
    repository: Repository,
    points: Vec<Manifest>,
}

impl Chain {
    /// Follows the parents of `point` to its full and checks each.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if the point is not there, [`Kind::Damaged`] if the chain below it is not whole.
    pub fn resolve(repository: &Repository, device: &DeviceId, point: PointId) -> Result<Self> {
        let (top, _) = repository.manifest(device, point)?;
        let mut seen = HashSet::from([top.point]);
        let mut points = vec![top];
        while let Some(parent) = points.last().map_or(Ok(None), |child| repository.parent_of(child))? {
            if !seen.insert(parent.point) {
                return Err(Error::new(Kind::Damaged, format!("chain of {point} runs in a circle")));
            }
            points.push(parent);
        }
        if points.last().is_none_or(|m| m.kind != PointKind::Full) {
            return Err(Error::new(Kind::Damaged, format!("chain of {point} does not end in a full point")));
        }
        Ok(Self { repository: repository.clone(), points })
    }

    /// The points: the asked one first, the full last.
    pub fn points(&self) -> &[Manifest] {
        &self.points
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
        let mut segments: Vec<SegmentRef> = Vec::new();
        let mut layers: Vec<PieceStream> = Vec::new();
        for manifest in &self.points {
            let index = self.repository.index(manifest)?;
            let base = u32::try_from(segments.len())
                .map_err(|_| Error::new(Kind::Unsupported, "chain with more than 2^32 segments"))?;
            segments.extend_from_slice(index.segments());
            layers.push(Box::new(index.pieces().map(move |piece| piece.map(|p| renumber(p, base)))));
        }
        let full = layers.pop();
        let mut increments = layers;
        while increments.len() > SIDE_BY_SIDE {
            increments = self.fold(increments)?;
        }
        let folded = stack(increments);
        let image = stack([Some(folded), full].into_iter().flatten().collect());
        let segments: Arc<[SegmentRef]> = segments.into();
        Ok(Pieces { image, segments })
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
}

impl Iterator for Pieces {
    type Item = Result<Piece>;

    fn next(&mut self) -> Option<Result<Piece>> {
        let piece = match self.image.next()? {
            Ok(piece) => piece,
            Err(e) => return Some(Err(e)),
        };
        let content = match piece.content {
            PieceContent::Zero => Content::Zero,
            PieceContent::Stored(f) => {
                let Some(segment) = self.segments.get(f.segment as usize) else {
                    return Some(Err(Error::new(Kind::Bug, "piece names a segment beyond the table")));
                };
                Content::Stored(Stored {
                    segment: segment.id,
                    offset: f.offset,
                    frame: piece.frame(),
                    skip: f.skip,
                })
            }
        };
        Some(Ok(Piece { extent: piece.extent, content }))
    }
}

#[cfg(test)]
mod tests;
