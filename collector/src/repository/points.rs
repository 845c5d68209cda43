//! Which recovery points there are.

use super::{Repository, keys, lost};
use crate::error::{Error, Kind, Result};
use crate::format::{Blake3, DeviceId, MAX_ENVELOPE, Manifest, PointId};
use crate::sys::failpoint;
use std::collections::{BTreeSet, HashMap};

/// A recovery point as the listing knows it.
#[derive(Clone, Debug)]
pub struct PointEntry {
    /// Its name.
    pub id: PointId,
    /// The device's name.
    pub device: DeviceId,
    /// Its manifest, or what is wrong with it.
    pub state: PointState,
}

/// A listed point's manifest, or what is wrong with it.
#[derive(Clone, Debug)]
pub enum PointState {
    /// Readable.
    Good {
        /// The manifest.
        manifest: Box<Manifest>,
        /// Hash of the manifest object.
        hash: Blake3,
    },
    /// Not readable: the reason, for people.
    Damaged(String),
}

impl PointEntry {
    /// The manifest, if it is readable.
    pub fn manifest(&self) -> Option<&Manifest> {
        match &self.state {
            PointState::Good { manifest, .. } => Some(manifest),
            PointState::Damaged(_) => None,
        }
    }
}

impl Repository {
    /// The points of all devices, oldest first, a child always after its parent; damaged ones are listed as such,
    /// dropped ones not.
    ///
    /// # Errors
    /// If the store cannot be listed or read.
    pub fn points(&self) -> Result<Vec<PointEntry>> {
        let buried = self.buried(None)?;
        let mut points = self.all_points()?;
        points.retain(|p| !buried.contains(&(p.device.clone(), p.id)));
        Ok(points)
    }

    /// The points of one device, newest last.
    ///
    /// # Errors
    /// As [`points`](Self::points).
    pub fn points_of(&self, device: &DeviceId) -> Result<Vec<PointEntry>> {
        let buried = self.buried(Some(device))?;
        let mut points = self.all_points_of(device)?;
        points.retain(|p| !buried.contains(&(p.device.clone(), p.id)));
        Ok(points)
    }

    /// The points of all devices that have a map: their chains end there.
    ///
    /// # Errors
    /// If the store cannot be listed.
    pub fn standing_alone(&self) -> Result<BTreeSet<PointId>> {
        Ok(self.committed_maps("map")?.into_iter().map(|(_, point, _)| point).collect())
    }

    /// The devices that have points, dropped ones too.
    ///
    /// # Errors
    /// If the store cannot be listed.
    pub fn devices(&self) -> Result<Vec<DeviceId>> {
        let mut devices: BTreeSet<DeviceId> =
            self.buried(None)?.into_iter().map(|(device, _)| device).collect();
        devices.extend(
            self.store().list("bak")?.iter().filter_map(|(key, _)| Some(keys::parse_manifest(key)?.0)),
        );
        Ok(devices.into_iter().collect())
    }

    /// As [`points`](Self::points), those with a tombstone too.
    pub(crate) fn all_points(&self) -> Result<Vec<PointEntry>> {
        self.points_under("bak")
    }

    /// As [`points_of`](Self::points_of), those with a tombstone too.
    pub(crate) fn all_points_of(&self, device: &DeviceId) -> Result<Vec<PointEntry>> {
        self.points_under(&format!("bak/{device}"))
    }

    fn points_under(&self, folder: &str) -> Result<Vec<PointEntry>> {
        let mut points = Vec::new();
        for (key, _) in self.store().list(folder)? {
            let Some((device, id)) = keys::parse_manifest(&key) else { continue };
            let state = match self.manifest(&device, id) {
                Ok((manifest, hash)) => PointState::Good { manifest: Box::new(manifest), hash },
                Err(e) if matches!(e.kind(), Kind::Damaged | Kind::Incompatible) => {
                    PointState::Damaged(e.in_full())
                }
                // deleted between the listing and now
                Err(e) if e.kind() == Kind::NotFound => continue,
                Err(e) => return Err(e),
            };
            points.push(PointEntry { id, device, state });
        }
        sort_by_age(&mut points);
        Ok(points)
    }

    /// What no point of the device is sorted after, for a new one. Read is the newest by its name, all only if the clock was
    /// set back since that was made.
    pub(super) fn newest(&self, device: &DeviceId, new: PointId) -> Result<u64> {
        let listed = self.store().list(&format!("bak/{device}"))?;
        let last =
            listed.iter().filter_map(|(key, _)| keys::parse_manifest(key)).map(|(_, point)| point).max();
        let Some(last) = last else { return Ok(0) };
        if last < new {
            // a damaged one tells nothing
            return Ok(self.manifest(device, last).map_or(0, |(manifest, _)| manifest.sorted_at()));
        }
        let all = self.all_points_of(device)?;
        Ok(all.iter().filter_map(PointEntry::manifest).map(Manifest::sorted_at).max().unwrap_or(0))
    }

    /// A point's manifest and the hash of the manifest object.
    ///
    /// # Errors
    /// [`Kind::NotFound`], [`Kind::Damaged`], [`Kind::Incompatible`].
    pub fn manifest(&self, device: &DeviceId, point: PointId) -> Result<(Manifest, Blake3)> {
        let key = keys::manifest(device, point);
        failpoint("repo.read.manifest")?;
        let bytes = self.store().get(&key, MAX_ENVELOPE as u64)?;
        let read = || {
            let manifest = Manifest::decode_in(&bytes, self.cover(&key))?;
            manifest.expect(self.uuid(), device, point)?;
            Ok(manifest)
        };
        let manifest = read().map_err(|e: Error| e.within(format!("read manifest {key}")))?;
        Ok((manifest, Blake3::of(&bytes)))
    }

    /// The point a person named: `latest` or an exact id; only among those of `device`, if given.
    ///
    /// # Errors
    /// [`Kind::NotFound`]; [`Kind::Usage`] if `latest` could be of several devices, or it is no id.
    pub fn resolve(&self, name: &str, device: Option<&DeviceId>) -> Result<(DeviceId, PointId)> {
        let points = device.map_or_else(|| self.points(), |device| self.points_of(device))?;
        let absent = || {
            Error::new(Kind::NotFound, format!("no recovery point {name} in this repository"))
                .hint("`blkdelta list` shows what there is")
        };
        if name != "latest" {
            let id: PointId = name.parse()?;
            let entry = points.into_iter().find(|p| p.id == id).ok_or_else(absent)?;
            return Ok((entry.device, entry.id));
        }
        let last = points.last().ok_or_else(absent)?;
        if points.iter().any(|p| p.device != last.device) {
            return Err(Error::new(Kind::Usage, "latest: this repository holds points of several devices")
                .hint("name the point by its id; `blkdelta list` shows them"));
        }
        Ok((last.device.clone(), last.id))
    }

    /// The manifest of a parent, checked to be the very object the child was made on.
    ///
    /// # Errors
    /// [`Kind::Damaged`] if it is missing or another one.
    pub(crate) fn parent_of(&self, child: &Manifest) -> Result<Option<Manifest>> {
        let Some(link) = child.parent else { return Ok(None) };
        let what = || format!("parent {} of point {}", link.point, child.point);
        let (parent, hash) =
            self.manifest(&child.device.id, link.point).map_err(|e| lost(e).within(what()))?;
        if hash != link.manifest {
            let why = format!("{}: its manifest is not the one the point was made on", what());
            return Err(Error::new(Kind::Damaged, why));
        }
        if parent.geometry.size != child.geometry.size {
            let (a, b) = (parent.geometry.size, child.geometry.size);
            return Err(Error::new(Kind::Damaged, format!("{}: of {a} bytes, not {b}", what())));
        }
        Ok(Some(parent))
    }
}

/// By the moment of the cut; a clock that was set back puts neither a child before its parent nor a point that says so
/// before those that were there.
fn sort_by_age(points: &mut [PointEntry]) {
    let links: HashMap<PointId, (u64, Option<PointId>)> = points
        .iter()
        .filter_map(PointEntry::manifest)
        .map(|m| (m.point, (m.sorted_at(), m.parent.map(|p| p.point))))
        .collect();
    let mut ages: HashMap<PointId, (u64, u64)> = HashMap::new();
    for &id in links.keys() {
        let mut path = Vec::new();
        let mut at = Some(id);
        while let Some(point) = at.filter(|p| !ages.contains_key(p) && path.len() <= links.len()) {
            path.push(point);
            at = links.get(&point).and_then(|l| l.1);
        }
        let mut below = at.and_then(|p| ages.get(&p)).copied().unwrap_or_default();
        for point in path.into_iter().rev() {
            let cut = links.get(&point).map_or(0, |l| l.0);
            below = if cut > below.0 { (cut, 0) } else { (below.0, below.1 + 1) };
            ages.insert(point, below);
        }
    }
    // a damaged manifest still has the time in its name
    let age = |p: &PointEntry| ages.get(&p.id).copied().unwrap_or((p.id.unix_millis(), 0));
    points.sort_by_key(|p| (age(p), p.id));
}
