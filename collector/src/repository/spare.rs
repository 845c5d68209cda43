//! Spares: the bytes of indexes that nothing else gives back, once more.
//!
//! ```text
//!   spare/<device>/<point>/<n>         of map <n>; 0: of the point's own index
//!   spare/<device>/<point>/<n>.json    of the map's commit
//! ```
//! A point whose parents were dropped, or whose frames were moved, stands on its map alone, and some points' own indexes do
//! not follow from their segments. Without one of these such a point is lost, though its data are there.
//!
//! Must stay true: a spare comes after what it is of and goes before it, so none brings back what was removed; nothing
//! but a repair reads it.

use super::index::{Asked, IndexReader};
use super::{Repository, keys, lost};
use crate::error::{Error, Kind, Result};
use crate::format::{Blake3, DeviceId, IndexRef, MAX_ENVELOPE, Manifest, PointId, PointMap};
use crate::sys::failpoint;

/// A copy longer than this is made in parts of this length.
const PART: u64 = 8 << 20;

impl Repository {
    /// Keeps a spare of a point's own index, which is durable.
    pub(super) fn keep_spare_of_index(
        &self,
        device: &DeviceId,
        point: PointId,
        told: &IndexRef,
    ) -> Result<()> {
        failpoint("repo.spare.put")?;
        self.copy_object(&keys::index(device, point), &keys::spare(device, point, 0), told.len)
    }

    /// Keeps a spare of a map, which is committed: first of its index.
    pub(super) fn keep_spare_of_map(&self, map: &PointMap) -> Result<()> {
        let (device, point, number) = (&map.device, map.point, map.number);
        failpoint("repo.spare.put")?;
        // of a merge that died before its commit
        self.drop_spare(device, point, number)?;
        self.copy_object(
            &keys::map(device, point, number),
            &keys::spare(device, point, number),
            map.index.len,
        )?;
        failpoint("repo.spare.stored")?;
        let commit = self.store().get(&keys::map_commit(device, point, number), MAX_ENVELOPE as u64)?;
        self.store().put_new(&keys::spare_commit(device, point, number), commit)?;
        if !map.sole {
            return Ok(());
        }
        // what the point's own index names may go from now on, and with it what gives it back; a sweep asks it what to remove
        let own = self.manifest(device, point)?.0.index;
        let none =
            self.store().len(&keys::spare(device, point, 0)).is_err_and(|e| e.kind() == Kind::NotFound);
        if none && self.is_whole(&keys::index(device, point), own)? {
            self.keep_spare_of_index(device, point, &own)?;
        }
        Ok(())
    }

    /// Removes a spare, before what it is of; a map's commit first, so that what is left is never used.
    pub(super) fn drop_spare(&self, device: &DeviceId, point: PointId, number: u32) -> Result<()> {
        for key in [keys::spare_commit(device, point, number), keys::spare(device, point, number)] {
            match self.store().len(&key) {
                // a merge may be made with a key that may not remove
                Err(e) if e.kind() == Kind::NotFound => {}
                _ => self.store().delete(&key)?,
            }
        }
        Ok(())
    }

    /// Copies an object under another key, part by part.
    pub(super) fn copy_object(&self, from: &str, to: &str, len: u64) -> Result<()> {
        let store = self.store();
        if len <= PART {
            return store.put_new(to, store.get_range(from, 0, len)?);
        }
        let mut stream = self.store_handle().stream(to)?;
        for at in (0..len).step_by(PART as usize) {
            stream.part(store.get_range(from, at, (len - at).min(PART))?)?;
        }
        stream.complete()
    }

    /// The numbers of maps of a point that a spare could give back.
    pub(crate) fn spared_maps(&self, manifest: &Manifest) -> Result<Vec<u32>> {
        let folder = format!("spare/{}/{}", manifest.device.id, manifest.point);
        let listed = self.store().list(&folder)?;
        let found = listed.iter().filter_map(|(key, _)| keys::parse_spare(key));
        Ok(found.filter(|(.., commit)| *commit).map(|(_, _, number, _)| number).collect())
    }

    /// Puts a map back from its spare, if that is whole.
    ///
    /// # Errors
    /// [`Kind::Damaged`] if not; [`Kind::NotFound`] if there is none.
    pub(crate) fn map_from_spare(
        &self,
        manifest: &Manifest,
        hash: Blake3,
        number: u32,
        dry_run: bool,
    ) -> Result<()> {
        let (device, point, size) = (&manifest.device.id, manifest.point, manifest.geometry.size);
        let commit = self.store().get(&keys::spare_commit(device, point, number), MAX_ENVELOPE as u64)?;
        let (map_key, commit_key) =
            (keys::map(device, point, number), keys::map_commit(device, point, number));
        let map = PointMap::decode_in(&commit, self.cover(&commit_key))?;
        map.expect(self.uuid(), device, point)?;
        let whole = self.is_whole(&keys::spare(device, point, number), map.index)?;
        if map.manifest != hash || map.number != number || !whole {
            return Err(Error::new(Kind::Damaged, format!("the spare of {map_key} cannot be used")));
        }
        if dry_run {
            return Ok(());
        }
        let at = |key: String| Asked { key, repository: self.uuid(), point, size, told: &map.index };
        self.set_aside(&commit_key)?;
        if !self.is_whole(&map_key, map.index)? {
            self.set_aside(&map_key)?;
            self.copy_object(&keys::spare(device, point, number), &map_key, map.index.len)?;
        }
        IndexReader::open(self, &at(map_key)).map_err(lost)?;
        failpoint("repo.spare.back")?;
        self.store().put_new(&commit_key, commit)
    }

    /// Puts a point's own index back from its spare.
    ///
    /// # Errors
    /// [`Kind::Damaged`] if that is not whole, or not there.
    pub(crate) fn index_from_spare(&self, manifest: &Manifest, dry_run: bool) -> Result<()> {
        let (device, point) = (&manifest.device.id, manifest.point);
        let (key, spare) = (keys::index(device, point), keys::spare(device, point, 0));
        if !self.is_whole(&spare, manifest.index)? {
            return Err(Error::new(Kind::Damaged, format!("there is no spare of {key} that can be used")));
        }
        if dry_run {
            return Ok(());
        }
        self.set_aside(&key)?;
        self.copy_object(&spare, &key, manifest.index.len)
    }

    /// Spares that are there and would give nothing back; for a check.
    pub(super) fn spare_damage(
        &self,
        points: &[(Manifest, Option<PointMap>)],
    ) -> Result<Vec<(String, String)>> {
        let mut found = Vec::new();
        for (manifest, map) in points {
            let point = manifest.point;
            let of_map = map.as_ref().map(|map| (map.number, map.index));
            for (number, told) in [Some((0, manifest.index)), of_map].into_iter().flatten() {
                let key = keys::spare(&manifest.device.id, point, number);
                match self.store().len(&key) {
                    Err(e) if e.kind() == Kind::NotFound => {}
                    Ok(len) if len == told.len && self.is_sound(&key, 0, len, told.hash)? => {}
                    Err(e) if !self.is_rot(&e) => return Err(e),
                    _ => found.push((key, "its bytes are not those of what it is the spare of".to_owned())),
                }
            }
        }
        Ok(found)
    }

    /// Every byte of an object is what `told` says.
    fn is_whole(&self, key: &str, told: IndexRef) -> Result<bool> {
        match self.store().len(key) {
            Ok(len) if len == told.len => self.is_sound(key, 0, told.len, told.hash),
            Ok(_) => Ok(false),
            Err(e) if self.is_rot(&e) => Ok(false),
            Err(e) => Err(e),
        }
    }
}
