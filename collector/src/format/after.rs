//! What happened to a point after it was made: its whole map was written, or it was dropped.
//!
//! Manifests are never changed, because a child names its parent's manifest by hash. What comes later is said by
//! objects of its own: a *map* shows the whole image of a point, so that nothing below it is needed any more; a
//! *tombstone* says that a point is no longer wanted, and keeps what is needed to remove the rest of it.

use super::envelope::{open, seal};
use super::{Blake3, DeviceId, IndexRef, MAX_DEVICE, PointId, RepositoryId, damaged};
use crate::error::Result;
use serde::{Deserialize, Serialize};

const MAP_MAGIC: &str = "blkdelta map";
const TOMBSTONE_MAGIC: &str = "blkdelta tombstone";

/// `map/<device>/<point>/<n>.json`: the commit of a map. The map itself is an index, of the whole image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointMap {
    /// The repository it belongs to.
    pub repository: RepositoryId,
    /// The device.
    pub device: DeviceId,
    /// The point it shows.
    pub point: PointId,
    /// Hash of that point's manifest object.
    pub manifest: Blake3,
    /// Its place among the point's maps: the highest is used.
    pub number: u32,
    /// The points that were laid over each other, newest first.
    pub merged: Vec<PointId>,
    /// Bytes that its pieces cover; the rest is zero.
    pub covered_bytes: u64,
    /// The index.
    pub index: IndexRef,
    /// The point's own index and the maps before this one need not be whole any more: what they name may have moved.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sole: bool,
    /// Unix milliseconds: it was written.
    pub time: u64,
    /// The program that wrote it.
    pub tool: String,
}

/// `del/<device>/<point>.json`: the point is not wanted any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// The repository it belongs to.
    pub repository: RepositoryId,
    /// The device.
    pub device: DeviceId,
    /// The point.
    pub point: PointId,
    /// Hash of its manifest object.
    pub manifest: Blake3,
    /// Bytes of the device.
    pub size: u64,
    /// Its index: its segments are found through it when the manifest is gone.
    pub index: IndexRef,
    /// Unix milliseconds: it was dropped.
    pub time: u64,
    /// The program that dropped it.
    pub tool: String,
}

macro_rules! object {
    ($name:ident, $magic:ident, $word:literal) => {
        impl $name {
            /// The object's bytes.
            ///
            /// # Errors
            /// If it is too long.
            pub fn encode(&self) -> Result<Vec<u8>> {
                seal($magic, self)
            }

            /// This is the one that was asked for.
            ///
            /// # Errors
            /// Damaged, if it belongs to another repository, device or point.
            pub fn expect(&self, repository: RepositoryId, device: &DeviceId, point: PointId) -> Result<()> {
                if (self.repository, &self.device, self.point) == (repository, device, point) {
                    return Ok(());
                }
                let what = format!("the {} of {}/{} lies under this name", $word, self.device, self.point);
                Err(damaged(what))
            }
        }
    };
}

object!(PointMap, MAP_MAGIC, "map");
object!(Tombstone, TOMBSTONE_MAGIC, "tombstone");

impl PointMap {
    /// Checks and reads.
    ///
    /// # Errors
    /// Damaged, or incompatible.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let map: Self = open(MAP_MAGIC, bytes)?;
        if map.number == 0 || map.covered_bytes > MAX_DEVICE {
            return Err(damaged("map without a number, or of more than the largest device"));
        }
        Ok(map)
    }
}

impl Tombstone {
    /// Checks and reads.
    ///
    /// # Errors
    /// Damaged, or incompatible.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let tombstone: Self = open(TOMBSTONE_MAGIC, bytes)?;
        if tombstone.size > MAX_DEVICE {
            return Err(damaged("tombstone of a device beyond the largest"));
        }
        Ok(tombstone)
    }
}
