//! From a point back to its full: where every byte of the image is.
//!
//! Must stay true: an increment shadows what is below it, byte for byte; each parent is the very manifest its
//! child was made on (hash); the memory needed does not grow with the device.

use crate::error::Result;
use crate::format::{DeviceId, Manifest, PointId};
use crate::repository::Repository;
pub use crate::repository::{Content, Piece, Stored};

/// A point and everything below it, down to its full.
pub struct Chain {
    repo: Repository,
    points: Vec<Manifest>,
}

impl Chain {
    /// Follows the parents of `point` to its full and checks each.
    pub fn resolve(repo: &Repository, device: &DeviceId, point: PointId) -> Result<Self> {
        todo!()
    }
    /// The points, the asked one first, the full last.
    pub fn points(&self) -> &[Manifest] {
        &self.points
    }
    /// The asked point.
    pub fn top(&self) -> &Manifest {
        todo!()
    }
    /// The image: sorted, non-overlapping; what no piece covers is zero.
    pub fn pieces(&self) -> Result<Pieces> {
        todo!()
    }
}

/// The pieces of an image, by address.
pub struct Pieces {
    inner: Box<dyn Iterator<Item = Result<Piece>> + Send>,
}

impl Iterator for Pieces {
    type Item = Result<Piece>;
    fn next(&mut self) -> Option<Result<Piece>> {
        self.inner.next()
    }
}
