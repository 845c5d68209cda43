//! Dropping points: first a tombstone, and after a time of grace everything that only the point needed.
//!
//! Must stay true: what goes, goes in the reverse of the order in which it came (manifest, segments, index, maps,
//! tombstone), each step durable before the next; a segment goes only if no point that stays names it, in its own
//! index or in a map; a sweep that died is taken up again by the next, because the tombstone goes last.

use super::index::{Asked, IndexReader};
use super::lock::DeviceLock;
use super::{Repository, keys, lost, tool, unix_millis};
use crate::error::{Error, Kind, Result};
use crate::format::{Blake3, DeviceId, MAX_ENVELOPE, Manifest, PointId, SegmentId, Tombstone};
use crate::sys::failpoint;
use std::collections::BTreeSet;

/// What a sweep removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Swept {
    /// Points.
    pub points: u64,
    /// Segments.
    pub segments: u64,
    /// Bytes of segments.
    pub bytes: u64,
}

impl std::ops::AddAssign for Swept {
    fn add_assign(&mut self, more: Self) {
        self.points += more.points;
        self.segments += more.segments;
        self.bytes += more.bytes;
    }
}

impl Repository {
    /// The points of a device (or of all) that have a tombstone.
    ///
    /// # Errors
    /// If the store cannot be listed.
    pub(crate) fn buried(&self, device: Option<&DeviceId>) -> Result<BTreeSet<(DeviceId, PointId)>> {
        let folder = device.map_or_else(|| "del".to_owned(), |device| format!("del/{device}"));
        let keys = self.store().list(&folder)?;
        Ok(keys.iter().filter_map(|(key, _)| keys::parse_tombstone(key)).collect())
    }

    /// A point's tombstone.
    ///
    /// # Errors
    /// [`Kind::NotFound`], [`Kind::Damaged`], [`Kind::Incompatible`].
    pub(crate) fn tombstone(&self, device: &DeviceId, point: PointId) -> Result<Tombstone> {
        let key = keys::tombstone(device, point);
        let read = || {
            let tombstone =
                Tombstone::decode_in(&self.store().get(&key, MAX_ENVELOPE as u64)?, self.cover(&key))?;
            tombstone.expect(self.uuid(), device, point)?;
            Ok(tombstone)
        };
        read().map_err(|e: Error| e.within(format!("read {key}")))
    }

    /// Objects may be removed here: asked by removing one that nobody has, before anything is hidden or moved that could
    /// then not be removed.
    ///
    /// # Errors
    /// [`Kind::Denied`] if the store's key only adds; what the store meets.
    pub(crate) fn may_remove(&self, lock: &DeviceLock) -> Result<()> {
        let nobody = keys::tombstone(lock.device(), PointId::from_bytes([0; 16]));
        self.store().delete(&nobody).map_err(|e| {
            let denied = e.kind() == Kind::Denied;
            let e = e.within("remove from the repository");
            if !denied {
                return e;
            }
            e.hint(
                "this key may add to the store and not remove from it; do it where the key is that may, as \
                 docs/STORES.md says under \"A key that only adds\". Nothing was changed",
            )
        })
    }

    /// Gives a point its tombstone: it is listed no more.
    ///
    /// # Errors
    /// If it cannot be stored.
    pub(crate) fn bury(&self, lock: &DeviceLock, manifest: &Manifest, hash: Blake3) -> Result<()> {
        own(lock, &manifest.device.id)?;
        let tombstone = Tombstone {
            repository: self.uuid(),
            device: manifest.device.id.clone(),
            point: manifest.point,
            manifest: hash,
            size: manifest.geometry.size,
            index: manifest.index,
            time: unix_millis(),
            tool: tool(),
        };
        let key = keys::tombstone(&manifest.device.id, manifest.point);
        self.store().settle()?;
        failpoint("repo.tombstone.put")?;
        self.store().put_new(&key, tombstone.encode_in(self.cover(&key))?.into())?;
        failpoint("repo.tombstone.stored")
    }

    /// The segments that a point's own index and all its maps name.
    ///
    /// # Errors
    /// If one cannot be read: then nothing that it may name can be removed.
    pub(crate) fn segments_of(&self, manifest: &Manifest, hash: Blake3) -> Result<BTreeSet<SegmentId>> {
        let own = self.index(manifest)?;
        self.with_maps(own, &manifest.device.id, manifest.point, hash, manifest.geometry.size)
    }

    /// Removes a point's maps that cannot be read. Only for a point that is known to be whole without them.
    ///
    /// # Errors
    /// What the store meets.
    pub(crate) fn drop_damaged_maps(
        &self,
        lock: &DeviceLock,
        manifest: &Manifest,
        hash: Blake3,
    ) -> Result<()> {
        let (device, point) = (&manifest.device.id, manifest.point);
        own(lock, device)?;
        for (.., number) in self.committed_maps(&format!("map/{device}/{point}"))? {
            let map = self.point_map(device, point, hash, number);
            match map.and_then(|map| self.map_index(&map, manifest.geometry.size)) {
                Err(e) if e.kind() == Kind::Damaged => {
                    log::warn!("map {number} of point {point} is damaged and not needed: removed");
                    self.leave_out(lock, &self.keys_of_map(device, point, number))?;
                    self.drop_map(device, point, number)?;
                }
                other => drop(other?),
            }
        }
        Ok(())
    }

    /// The keys of a map: commit and index.
    pub(super) fn keys_of_map(&self, device: &DeviceId, point: PointId, number: u32) -> BTreeSet<String> {
        [keys::map_commit(device, point, number), keys::map(device, point, number)].into()
    }

    /// Everything that [`sweep`](Self::sweep) removes of a buried point.
    ///
    /// # Errors
    /// If its index or a map cannot be read.
    pub(crate) fn going_with(
        &self,
        tombstone: &Tombstone,
        live: &BTreeSet<SegmentId>,
    ) -> Result<BTreeSet<String>> {
        let (device, point) = (&tombstone.device, tombstone.point);
        let segments = self.told_by_buried(tombstone)?;
        let mut going: BTreeSet<String> = segments.difference(live).map(|id| keys::segment(*id)).collect();
        for number in self.maps_of(device, point)? {
            going.append(&mut self.keys_of_map(device, point, number));
        }
        going.extend([
            keys::manifest(device, point),
            keys::index(device, point),
            keys::tombstone(device, point),
        ]);
        Ok(going)
    }

    fn with_maps(
        &self,
        own: IndexReader,
        device: &DeviceId,
        point: PointId,
        manifest: Blake3,
        size: u64,
    ) -> Result<BTreeSet<SegmentId>> {
        let mut named: BTreeSet<SegmentId> = own.segments().iter().map(|s| s.id).collect();
        for (.., number) in self.committed_maps(&format!("map/{device}/{point}"))? {
            let map = self.point_map(device, point, manifest, number)?;
            named.extend(self.map_index(&map, size)?.segments().iter().map(|s| s.id));
        }
        Ok(named)
    }

    /// Numbers of a point's maps, committed or not.
    fn maps_of(&self, device: &DeviceId, point: PointId) -> Result<BTreeSet<u32>> {
        let keys = self.store().list(&format!("map/{device}/{point}"))?;
        Ok(keys.iter().filter_map(|(key, _)| keys::parse_map(key)).map(|(_, _, number, _)| number).collect())
    }

    /// Begins the sweep of a buried point: its manifest goes. Before anything else of any point that is swept with it, because
    /// these may name each other's segments.
    ///
    /// # Errors
    /// What the store meets.
    pub(crate) fn unlist(&self, lock: &DeviceLock, device: &DeviceId, point: PointId) -> Result<()> {
        own(lock, device)?;
        failpoint("repo.sweep.begin")?;
        self.store().delete(&keys::manifest(device, point))?;
        failpoint("repo.sweep.manifest-gone")
    }

    /// Removes of a buried point whose manifest is gone every segment that is not in `live`, and the rest.
    ///
    /// # Errors
    /// What the store meets; the next sweep goes on where this one ended.
    pub(crate) fn sweep(
        &self,
        lock: &DeviceLock,
        tombstone: &Tombstone,
        live: &BTreeSet<SegmentId>,
    ) -> Result<Swept> {
        let (device, point) = (&tombstone.device, tombstone.point);
        own(lock, device)?;
        let mut swept = Swept { points: 1, ..Swept::default() };
        for segment in self.told_by_buried(tombstone)?.difference(live) {
            let key = keys::segment(*segment);
            match self.store().len(&key) {
                Ok(length) => (swept.segments, swept.bytes) = (swept.segments + 1, swept.bytes + length),
                Err(e) if e.kind() == Kind::NotFound => continue,
                Err(e) => return Err(e),
            }
            lock.still_holds()?;
            self.store().delete(&key)?;
            failpoint("repo.sweep.segment-gone")?;
        }
        lock.still_holds()?;
        self.drop_spare(device, point, 0)?;
        self.store().delete(&keys::index(device, point))?;
        failpoint("repo.sweep.index-gone")?;
        // highest first: what is left is always what is used
        for number in self.maps_of(device, point)?.into_iter().rev() {
            self.drop_map(device, point, number)?;
        }
        failpoint("repo.sweep.maps-gone")?;
        self.store().delete(&keys::tombstone(device, point))?;
        Ok(swept)
    }

    /// The segments of a buried point, as far as they can be told. What its damaged index does not tell stays behind for a
    /// sweep of what nothing names; else one rotten object of a dropped point would stop every prune to come.
    fn told_by_buried(&self, tombstone: &Tombstone) -> Result<BTreeSet<SegmentId>> {
        self.segments_of_buried(tombstone).or_else(|e| match e.kind() {
            Kind::Damaged => {
                log::warn!(
                    "segments of the dropped point {} cannot be told: {}",
                    tombstone.point,
                    e.in_full()
                );
                Ok(BTreeSet::new())
            }
            _ => Err(e),
        })
    }

    /// The segments of a buried point whose manifest may be gone. No index: an earlier sweep came that far.
    pub(super) fn segments_of_buried(&self, tombstone: &Tombstone) -> Result<BTreeSet<SegmentId>> {
        let (device, point) = (&tombstone.device, tombstone.point);
        let asked = Asked {
            key: keys::index(device, point),
            repository: tombstone.repository,
            point,
            size: tombstone.size,
            told: &tombstone.index,
        };
        if self.store().len(&asked.key).is_err_and(|e| e.kind() == Kind::NotFound) {
            return Ok(BTreeSet::new());
        }
        let own = IndexReader::open(self, &asked)?;
        self.with_maps(own, device, point, tombstone.manifest, tombstone.size).map_err(lost)
    }
}

fn own(lock: &DeviceLock, device: &DeviceId) -> Result<()> {
    if lock.device() == device {
        return lock.holds();
    }
    Err(Error::new(Kind::Usage, format!("drop a point of {device}: the lock is of another device")))
}
