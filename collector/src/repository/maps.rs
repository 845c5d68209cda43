//! Maps: an index of a point's whole image, written later, so that its chain ends there.
//!
//! ```text
//!   map/<device>/<point>/<n>         the index
//!   map/<device>/<point>/<n>.json    its commit, written last; the highest committed n is used
//! ```
//! Must stay true: a map shows exactly what the chain below its point showed; the point's own index and manifest
//! are never touched, so a child that names the manifest by hash stays whole.

use super::index::{Asked, IndexReader, IndexWriter};
use super::lock::DeviceLock;
use super::overlay::PieceStream;
use super::{Repository, keys, lost, tool, unix_millis};
use crate::error::{Error, Kind, Result};
use crate::format::{
    Blake3, DeviceId, MAX_ENVELOPE, Manifest, Piece, PieceContent, PointId, PointMap, SegmentId, SegmentRef,
    damaged,
};
use crate::sys::failpoint;
use std::collections::{BTreeMap, HashMap};

/// What a new map shows.
pub(crate) struct NewMap<'a> {
    /// The whole image.
    pub image: PieceStream,
    /// The segments its pieces name.
    pub segments: &'a [SegmentRef],
    /// The points laid over each other, newest first.
    pub merged: Vec<PointId>,
    /// From now on only this map shows the point.
    pub sole: bool,
}

impl Repository {
    /// The number of the map to use, of every point of a device that has one.
    ///
    /// # Errors
    /// If the store cannot be listed.
    pub(crate) fn mapped(&self, device: &DeviceId) -> Result<BTreeMap<PointId, u32>> {
        let mut highest = BTreeMap::new();
        for (_, point, number) in self.committed_maps(&format!("map/{device}"))? {
            let seen: &mut u32 = highest.entry(point).or_default();
            *seen = number.max(*seen);
        }
        Ok(highest)
    }

    /// The committed maps in a folder of `map/`.
    pub(super) fn committed_maps(&self, folder: &str) -> Result<Vec<(DeviceId, PointId, u32)>> {
        failpoint("repo.read.maps")?;
        let keys = self.store().list(folder)?;
        let found = keys.iter().filter_map(|(key, _)| keys::parse_map(key)).filter(|(.., commit)| *commit);
        Ok(found.map(|(device, point, number, _)| (device, point, number)).collect())
    }

    /// A committed map of a point; it must be of the very manifest that lies there.
    ///
    /// # Errors
    /// [`Kind::Damaged`], [`Kind::Incompatible`].
    pub(crate) fn point_map(
        &self,
        device: &DeviceId,
        point: PointId,
        manifest: Blake3,
        number: u32,
    ) -> Result<PointMap> {
        let key = keys::map_commit(device, point, number);
        let read = || {
            let map = PointMap::decode_in(&self.store().get(&key, MAX_ENVELOPE as u64)?, self.cover(&key))?;
            map.expect(self.uuid(), device, point)?;
            if map.manifest != manifest || map.number != number {
                return Err(damaged("it was written for another manifest, or under another number"));
            }
            Ok(map)
        };
        read().map_err(|e: Error| lost(e).within(format!("read {key}")))
    }

    /// Opens a map's index.
    pub(crate) fn map_index(&self, map: &PointMap, size: u64) -> Result<IndexReader> {
        let asked = Asked {
            key: keys::map(&map.device, map.point, map.number),
            repository: map.repository,
            point: map.point,
            size,
            told: &map.index,
        };
        IndexReader::open(self, &asked)
    }

    /// Writes a map of `manifest`'s point, and commits it.
    ///
    /// # Errors
    /// [`Kind::Usage`] if the lock is of another device; what reading the pieces or writing meets.
    pub(crate) fn write_map(
        &self,
        lock: &DeviceLock,
        manifest: &Manifest,
        new: NewMap<'_>,
    ) -> Result<PointMap> {
        let (device, point) = (&manifest.device.id, manifest.point);
        if lock.device() != device {
            return Err(Error::new(Kind::Usage, "write a map: the lock is of another device"));
        }
        let (_, hash) = self.manifest(device, point)?;
        let number = self.mapped(device)?.get(&point).map_or(1, |n| n + 1);
        self.store().settle()?;
        let key = keys::map(device, point, number);
        // of a merge that died before its commit, or whose commit was lost
        self.leave_out(lock, &self.keys_of_map(device, point, number))?;
        self.drop_spare(device, point, number)?;
        if self.store().len(&key).is_ok() {
            self.store().delete(&key)?;
        }
        let mut index = IndexWriter::new(self, key, point);
        let mut table = Table::new(new.segments);
        for piece in new.image {
            // what no piece covers is zero
            if let Some(piece) = table.renumber(piece?)? {
                index.push(piece)?;
            }
        }
        let (index, covered_bytes) = index.finish(table.used)?;
        let map = PointMap {
            repository: self.uuid(),
            device: device.clone(),
            point,
            manifest: hash,
            number,
            merged: new.merged,
            covered_bytes,
            index,
            // a second one is written because the first cannot be used, or moved frames
            sole: new.sole || number > 1,
            time: unix_millis(),
            tool: tool(),
        };
        lock.holds()?;
        self.commit_map(&map)?;
        self.keep_spare_of_map(&map)?;
        Ok(map)
    }

    /// Removes a map: its spare, its commit, its index, so that what is left is never used.
    pub(super) fn drop_map(&self, device: &DeviceId, point: PointId, number: u32) -> Result<()> {
        self.drop_spare(device, point, number)?;
        self.store().delete(&keys::map_commit(device, point, number))?;
        self.store().delete(&keys::map(device, point, number))
    }

    fn commit_map(&self, map: &PointMap) -> Result<()> {
        let key = keys::map_commit(&map.device, map.point, map.number);
        failpoint("repo.map.put")?;
        self.store().put_new(&key, map.encode_in(self.cover(&key))?.into())?;
        self.store().in_place()?;
        failpoint("repo.map.stored")
    }
}

/// Segments in the order in which pieces name them first; those that no piece names are left out.
struct Table<'a> {
    all: &'a [SegmentRef],
    /// The new number of each old one that was named. A segment may have several old ones.
    known: Vec<Option<u32>>,
    numbers: HashMap<SegmentId, u32>,
    used: Vec<SegmentRef>,
}

impl<'a> Table<'a> {
    fn new(all: &'a [SegmentRef]) -> Self {
        Self { all, known: vec![None; all.len()], numbers: HashMap::new(), used: Vec::new() }
    }

    /// The piece with its segment's new number; `None` for zeros.
    fn renumber(&mut self, mut piece: Piece) -> Result<Option<Piece>> {
        let PieceContent::Stored(frame) = &mut piece.content else { return Ok(None) };
        let beyond = || Error::new(Kind::Bug, "piece names a segment beyond the table");
        let old = frame.segment as usize;
        frame.segment = match *self.known.get(old).ok_or_else(beyond)? {
            Some(number) => number,
            None => {
                let number = self.number(self.all.get(old).ok_or_else(beyond)?)?;
                self.known[old] = Some(number);
                number
            }
        };
        Ok(Some(piece))
    }

    fn number(&mut self, segment: &SegmentRef) -> Result<u32> {
        if let Some(number) = self.numbers.get(&segment.id) {
            return Ok(*number);
        }
        let number = u32::try_from(self.used.len())
            .map_err(|_| Error::new(Kind::Unsupported, "map of more than 2^32 segments"))?;
        self.numbers.insert(segment.id, number);
        self.used.push(*segment);
        Ok(number)
    }
}
