//! What backups and merges that died left behind: objects that nothing names.
//!
//! Must stay true: nothing is removed while a writer of any device is at work (its objects are not named yet), nor
//! while anything that could name an object cannot be read.

use super::drop::Swept;
use super::lock::DeviceLock;
use super::{PointState, Repository, keys, unix_millis};
use crate::error::{Error, Kind, Result};
use crate::format::{DeviceId, PointId, SegmentId};
use crate::sys::failpoint;
use std::collections::BTreeSet;
use std::time::Duration;

impl Repository {
    /// Removes segments, indexes and maps that nothing names and that are older than `grace`.
    ///
    /// # Errors
    /// [`Kind::Busy`] while a device is written; [`Kind::Damaged`] if what is named cannot be told.
    pub fn sweep_orphans(&self, grace: Duration) -> Result<Swept> {
        // whoever begins after this makes only objects younger than `before`
        let before = unix_millis().saturating_sub(grace.as_millis() as u64);
        let _locks = self.lock_all()?;
        let segments = self.store().list("seg")?;
        let named = self.named()?;
        failpoint("repo.orphans.begin")?;
        let mut swept = Swept::default();
        for (key, _) in self.store().list("idx")? {
            let Some((device, point)) = keys::parse_index(&key) else { continue };
            if !named.points.contains(&(device, point)) && point.unix_millis() < before {
                self.store().delete(&key)?;
            }
        }
        for (key, _) in self.store().list("map")? {
            let Some((device, point, number, false)) = keys::parse_map(&key) else { continue };
            if !named.maps.contains(&(device, point, number)) {
                self.store().delete(&key)?;
            }
        }
        for (key, length) in segments {
            let Some(id) = keys::parse_segment(&key) else { continue };
            if !named.segments.contains(&id) && id.unix_millis() < before {
                failpoint("repo.orphans.segment")?;
                self.store().delete(&key)?;
                (swept.segments, swept.bytes) = (swept.segments + 1, swept.bytes + length);
            }
        }
        Ok(swept)
    }

    /// The writers' locks of all devices that ever had one.
    fn lock_all(&self) -> Result<Vec<DeviceLock>> {
        let mut devices = BTreeSet::new();
        for (key, _) in self.store().list("lock")? {
            devices.extend(key.strip_prefix("lock/").and_then(|name| DeviceId::new(name).ok()));
        }
        devices.iter().map(|device| self.lock(device)).collect()
    }

    /// Everything that points, tombstones and maps name.
    fn named(&self) -> Result<Named> {
        let mut named = Named::default();
        for entry in self.all_points()? {
            let PointState::Good { manifest, hash } = &entry.state else {
                let text =
                    format!("look for what nothing names: the manifest of {} cannot be read", entry.id);
                return Err(Error::new(Kind::Damaged, text).hint("run `blkdelta check`"));
            };
            named.segments.append(&mut self.segments_of(manifest, *hash)?);
            named.points.insert((entry.device, entry.id));
        }
        // a sweep that died needs the index to go on
        named.points.append(&mut self.buried(None)?);
        for (device, point) in self.buried(None)? {
            named.segments.append(&mut self.segments_of_buried(&self.tombstone(&device, point)?)?);
        }
        named.maps = self.committed_maps("map")?.into_iter().collect();
        Ok(named)
    }
}

#[derive(Default)]
struct Named {
    points: BTreeSet<(DeviceId, PointId)>,
    maps: BTreeSet<(DeviceId, PointId, u32)>,
    segments: BTreeSet<SegmentId>,
}
