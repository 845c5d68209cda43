//! Merging a chain: the image of a point, area by area, the newest wins; no data is moved.
//!
//! What must stay true: after it the point restores to the same bytes, and needs nothing below it; killed at any
//! step, the point is as it was.

use super::Chain;
use crate::error::{Error, Kind, Result};
use crate::format::{DeviceId, PointId, PointMap};
use crate::repository::{DeviceLock, NewMap, Repository};

/// Merges the chain of a point that has more than `most` points below it.
///
/// # Errors
/// As [`Chain::merge`]; busy while the device is written.
pub fn merge_if_longer(
    repo: &Repository,
    device: &DeviceId,
    point: PointId,
    most: u32,
) -> Result<Option<PointMap>> {
    if Chain::resolve(repo, device, point)?.points.len() <= most as usize + 1 {
        return Ok(None);
    }
    // looked at again: somebody may have moved or dropped what it shows until we had the lock
    let lock = repo.lock(device)?;
    Chain::resolve(repo, device, point)?.merge(&lock)
}

impl Chain {
    /// Writes the map of the asked point, unless its chain ends at it already. The chain must have been resolved under
    /// this lock.
    ///
    /// # Errors
    /// If a point below cannot be read, or the map cannot be stored.
    pub fn merge(&self, lock: &DeviceLock) -> Result<Option<PointMap>> {
        if self.points.len() == 1 {
            return Ok(None);
        }
        if self.salvage {
            return Err(Error::new(Kind::Bug, "merge what was salvaged: what is lost would become zero"));
        }
        self.expect_whole()?;
        let (image, segments) = self.image(self.all())?;
        let merged = self.points.iter().map(|m| m.point).collect();
        let new = NewMap { image, segments: &segments, merged, sole: false };
        self.repository.write_map(lock, self.top(), new).map(Some)
    }
}
