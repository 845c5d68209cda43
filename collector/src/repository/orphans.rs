//! What backups and merges that died left behind: objects that nothing names.
//!
//! Must stay true: nothing is removed while a writer of any device is at work (its objects are not named yet; a copy's have
//! names as old as where they come from), nor while anything that could name an object cannot be read. What is removed
//! was listed before what is named: whatever is committed in between is seen.

use super::drop::Swept;
use super::lock::DeviceLock;
use super::{PointState, Repository, keys, unix_millis};
use crate::error::{Context, Error, Kind, Result};
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
        let before = unix_millis().saturating_sub(grace.as_millis() as u64);
        // this one first: who begins to write from now on is turned away, of a new device too
        let sweep = self.lock_sweep()?;
        let mut locks = self.lock_all()?;
        let listed = self.listed_objects()?;
        failpoint("repo.orphans.listed")?;
        let named = self.named()?;
        failpoint("repo.orphans.begin")?;
        let mut swept = Swept::default();
        let orphans = listed.orphans(&named, before);
        self.uncover(&mut locks, &orphans)?;
        for (key, length) in orphans {
            if let Some(length) = length {
                failpoint("repo.orphans.segment")?;
                (swept.segments, swept.bytes) = (swept.segments + 1, swept.bytes + length);
            }
            sweep.still_holds()?;
            self.store().delete(&key)?;
        }
        self.sweep_unfinished(before)?;
        Ok(swept)
    }

    fn listed_objects(&self) -> Result<Listed> {
        let list = |folder| self.store().list(folder);
        Ok(Listed { segments: list("seg")?, others: [list("idx")?, list("map")?, list("spare")?].concat() })
    }

    /// A map that is lost named segments that nothing else names: where one is missing that must have been there, nothing
    /// can be told.
    fn nothing_is_lost(&self, named: &Named, parents: &[Link]) -> Result<()> {
        let lost = |what: String| {
            let text = format!("look for what nothing names: {what}, and what it named is unknown");
            Err(Error::new(Kind::Damaged, text).hint("run `blkdelta repair`"))
        };
        for (device, point, parent) in parents {
            let alone = named.maps.iter().any(|(d, p, _)| (d, p) == (device, point));
            if !alone && !named.points.contains(&(device.clone(), *parent)) {
                return lost(format!("point {point} has neither its parent nor a map"));
            }
        }
        for (key, _) in self.store().list("spare")? {
            let Some((device, point, number, true)) = keys::parse_spare(&key) else { continue };
            let there = named.maps.contains(&(device.clone(), point, number));
            if !there && named.points.contains(&(device, point)) {
                return lost(format!("map {number} of point {point} is missing"));
            }
        }
        Ok(())
    }

    /// What nothing names may be named by what is lost: where parity knows of that, nothing goes.
    fn uncover(&self, locks: &mut Vec<DeviceLock>, orphans: &[Orphan]) -> Result<()> {
        if orphans.is_empty() {
            return Ok(());
        }
        let goes: BTreeSet<String> = orphans.iter().map(|(key, _)| key.clone()).collect();
        for device in self.devices_with_parity()? {
            if !locks.iter().any(|lock| *lock.device() == device) {
                locks.push(self.lock_while_sweeping(&device)?);
            }
            if let Some(key) = self.missing_of_parity(&device)? {
                let text = format!("look for what nothing names: {key} is missing, which parity covers");
                return Err(Error::new(Kind::Damaged, text).hint("run `blkdelta repair`"));
            }
            if let Some(lock) = locks.iter().find(|lock| *lock.device() == device) {
                self.leave_out(lock, &goes)?;
            }
        }
        Ok(())
    }

    /// Removes files of a local store that a writer which died was filling: `NAME#1`, hidden from every listing.
    fn sweep_unfinished(&self, before: u64) -> Result<()> {
        let Some(root) = self.store().folder() else { return Ok(()) };
        let what = || format!("look for unfinished files in {}", root.display());
        for folder in ["seg", "idx"].map(|name| root.join(name)) {
            // a copy may have lost a folder that was empty
            if !folder.exists() {
                continue;
            }
            for inner in std::fs::read_dir(folder).os_context(what)? {
                let inner = inner.os_context(what)?;
                if !inner.file_type().os_context(what)?.is_dir() {
                    continue;
                }
                for file in std::fs::read_dir(inner.path()).os_context(what)? {
                    let file = file.os_context(what)?;
                    let name = file.file_name();
                    let id = name.to_str().and_then(|name| name.split_once('#')?.0.parse::<SegmentId>().ok());
                    if id.is_some_and(|id| id.unix_millis() < before) {
                        std::fs::remove_file(file.path()).os_context(what)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The writers' locks of all devices that there is anything of.
    fn lock_all(&self) -> Result<Vec<DeviceLock>> {
        let mut devices: BTreeSet<DeviceId> = self.devices()?.into_iter().collect();
        for folder in ["lock", "idx", "map", "spare"] {
            for (key, _) in self.store().list(folder)? {
                let name = key.split('/').nth(1).and_then(|name| DeviceId::new(name).ok());
                devices.extend(name);
            }
        }
        devices.iter().map(|device| self.lock_while_sweeping(device)).collect()
    }

    /// Everything that points, tombstones and maps name.
    fn named(&self) -> Result<Named> {
        let (mut named, mut parents) = (Named::default(), Vec::new());
        for entry in self.all_points()? {
            let PointState::Good { manifest, hash } = &entry.state else {
                let text =
                    format!("look for what nothing names: the manifest of {} cannot be read", entry.id);
                return Err(Error::new(Kind::Damaged, text).hint("run `blkdelta check`"));
            };
            named.segments.append(&mut self.segments_of(manifest, *hash)?);
            parents.extend(manifest.parent.map(|parent| (entry.device.clone(), entry.id, parent.point)));
            named.points.insert((entry.device, entry.id));
        }
        // a sweep that died needs the index to go on
        named.points.append(&mut self.buried(None)?);
        for (device, point) in self.buried(None)? {
            named.segments.append(&mut self.segments_of_buried(&self.tombstone(&device, point)?)?);
        }
        named.maps = self.committed_maps("map")?.into_iter().collect();
        self.nothing_is_lost(&named, &parents)?;
        Ok(named)
    }
}

/// Objects as they lay before it was looked at what is named, with their lengths.
struct Listed {
    segments: Vec<(String, u64)>,
    /// Indexes, maps and spares.
    others: Vec<(String, u64)>,
}

impl Listed {
    /// What nothing names and is older than `before`; of segments with their lengths.
    fn orphans(self, named: &Named, before: u64) -> Vec<Orphan> {
        let others = self.others.into_iter().map(|(key, _)| key).filter(|key| is_orphan(key, named, before));
        let mut orphans: Vec<Orphan> = others.map(|key| (key, None)).collect();
        for (key, length) in self.segments {
            let Some(id) = keys::parse_segment(&key) else { continue };
            if !named.segments.contains(&id) && id.unix_millis() < before {
                orphans.push((key, Some(length)));
            }
        }
        orphans
    }
}

/// An index, a map or a spare that nothing needs.
fn is_orphan(key: &str, named: &Named, before: u64) -> bool {
    if let Some((device, point)) = keys::parse_index(key) {
        return !named.points.contains(&(device, point)) && point.unix_millis() < before;
    }
    if let Some((device, point, number, false)) = keys::parse_map(key) {
        return !named.maps.contains(&(device, point, number));
    }
    let Some((device, point, number, _)) = keys::parse_spare(key) else { return false };
    // of an index; of a map, a spare that lost its map is what gives it back
    !named.points.contains(&(device, point)) && (number > 0 || point.unix_millis() < before)
}

/// A device, a point of it, and that point's parent.
type Link = (DeviceId, PointId, PointId);

/// A key, and the length if it is a segment's.
type Orphan = (String, Option<u64>);

#[derive(Default)]
struct Named {
    points: BTreeSet<(DeviceId, PointId)>,
    maps: BTreeSet<(DeviceId, PointId, u32)>,
    segments: BTreeSet<SegmentId>,
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "leaves what a dead writer leaves")]

    use super::*;

    #[test]
    fn files_that_a_dead_writer_was_filling_are_removed_when_they_are_old() {
        let dir = tempfile::tempdir().unwrap();
        let repo = Repository::create(dir.path().to_str().unwrap()).unwrap();
        let old = SegmentId::from_bytes([0; 16]);
        let young = SegmentId::generate();
        let place = |name: String| dir.path().join("seg/00").join(name);
        std::fs::create_dir(dir.path().join("seg/00")).unwrap();
        for name in [format!("{old}#1"), format!("{young}#1"), "other#1".into()] {
            std::fs::write(place(name), "part of a segment").unwrap();
        }
        repo.sweep_orphans(Duration::from_secs(3600)).unwrap();
        assert!(!place(format!("{old}#1")).exists() && place(format!("{young}#1")).exists());
        assert!(place("other#1".into()).exists(), "not ours");
    }
}
