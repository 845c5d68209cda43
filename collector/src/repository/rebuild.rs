//! Writing an index again from its segments, and setting aside what cannot be used.
//!
//! ```text
//!   footers of the segments (frames, in the order they were copied)   ┐
//!   manifest: which segments, runs of zeros                           ├─▶ index ─▶ BLAKE3 as in the manifest? else no
//!   a frame below the end of the one before begins a pass             ┘
//! ```
//! Must stay true: an index counts as rebuilt only if it is, byte for byte, the one the manifest was written for; nothing
//! is removed that can be read; what is set aside lies in `quarantine/` under its own key, whole, before it goes.

use super::index::IndexWriter;
use super::lock::DeviceLock;
use super::overlay::{PieceStream, stack};
use super::run::Run;
use super::{Repository, is_harm, keys, lost};
use crate::block::Extent;
use crate::error::{Error, Kind, Result};
use crate::format::{
    Blake3, EncodedFrame, MAX_SEGMENT, Manifest, Piece, PieceContent, SegmentId, SegmentRef, damaged,
};
use crate::seal::Keys;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Where what cannot be used is kept, under its own key.
const QUARANTINE: &str = "quarantine";

/// An object that is no longer is set aside in one piece.
const SMALL: u64 = 8 << 20;

impl Repository {
    /// A point's own index is there and readable to its last byte.
    pub(crate) fn expect_index(&self, manifest: &Manifest) -> Result<BTreeSet<SegmentId>> {
        let index = self.index(manifest)?;
        index.pieces().try_for_each(|piece| piece.map(drop))?;
        Ok(index.segments().iter().map(|s| s.id).collect())
    }

    /// All segments that lie in the store, oldest first.
    pub(crate) fn segments_lying(&self) -> Result<Vec<SegmentId>> {
        let listed = self.store().list("seg")?;
        let mut ids: Vec<_> = listed.iter().filter_map(|(key, _)| keys::parse_segment(key)).collect();
        ids.sort_unstable();
        Ok(ids)
    }

    /// Writes a point's index again, from the segments its manifest names or, if it names none, from those of `unnamed`
    /// that were made while it was. `Err` with kind [`Kind::Damaged`] if that does not give the index back.
    pub(crate) fn rebuild_index(
        &self,
        manifest: &Manifest,
        unnamed: &[SegmentId],
        dry_run: bool,
    ) -> Result<()> {
        let key = keys::index(&manifest.device.id, manifest.point);
        let what = || format!("rebuild the index of {}", manifest.point);
        let ids = match &manifest.rebuild {
            Some(rebuild) => rebuild.segments.clone(),
            None => made_meanwhile(manifest, unnamed),
        };
        let mut segments = Vec::with_capacity(ids.len());
        for id in ids {
            segments.push(self.segment_lying(id).map_err(|e| lost(e).within(what()))?);
        }
        let Some(keys) = self.keys_that_give(manifest, &segments)? else {
            let why = "the segments give another index than the manifest was written for";
            return Err(Error::new(Kind::Damaged, format!("{}: {why}", what())));
        };
        if dry_run {
            return Ok(());
        }
        self.set_aside(&key)?;
        let writing = IndexWriter::new(self, key, manifest.point).with_keys(keys);
        self.write_rebuilt(manifest, &segments, writing)?;
        self.expect_index(manifest).map(drop)
    }

    /// With which keys the segments give the very index of the manifest; those of the generation that sealed it.
    fn keys_that_give(
        &self,
        manifest: &Manifest,
        segments: &[SegmentRef],
    ) -> Result<Option<Option<Arc<Keys>>>> {
        let key = keys::index(&manifest.device.id, manifest.point);
        let all = match self.keys() {
            None => vec![None],
            Some(keys) => {
                let generations = (1..=keys.metadata().generation()).rev();
                generations.map(|g| keys.as_of(g).map(Arc::new).map(Some)).collect::<Result<_>>()?
            }
        };
        for keys in all {
            let measuring = IndexWriter::measuring(self, key.clone(), manifest.point).with_keys(keys.clone());
            if self.write_rebuilt(manifest, segments, measuring)? == manifest.index {
                return Ok(Some(keys));
            }
        }
        Ok(None)
    }

    /// A segment that lies in the store. That it is what was written, the index proves that comes of it: the hash is in it.
    fn segment_lying(&self, id: SegmentId) -> Result<SegmentRef> {
        let bytes = self.store().get(&keys::segment(id), MAX_SEGMENT)?;
        Ok(SegmentRef { id, len: bytes.len() as u64, hash: Blake3::of(&bytes) })
    }

    fn write_rebuilt(
        &self,
        manifest: &Manifest,
        segments: &[SegmentRef],
        mut index: IndexWriter,
    ) -> Result<crate::format::IndexRef> {
        let zeros = manifest.rebuild.as_ref().map(|r| r.zeros.clone()).unwrap_or_default();
        let mut end = 0;
        for (at, len) in &zeros {
            let next =
                at.checked_add(*len).filter(|next| *len > 0 && *at >= end && *next <= manifest.geometry.size);
            end = next.ok_or_else(|| damaged("zeros beyond the device, or out of order"))?;
        }
        let zeros = zeros.into_iter().map(|(at, len)| {
            let frame = EncodedFrame::zero(Extent::new(at, len));
            Ok(Piece::whole(&frame.meta, 0, 0))
        });
        let mut layers: Vec<PieceStream> = vec![Box::new(zeros)];
        layers.extend(self.passes_of(segments)?.into_iter().rev().map(Run::into_stream));
        for piece in stack(layers) {
            index.push(piece?)?;
        }
        Ok(index.finish(segments.to_vec())?.0)
    }

    /// The frames of the segments, cut where addresses begin anew: oldest pass first.
    fn passes_of(&self, segments: &[SegmentRef]) -> Result<Vec<Run>> {
        let (mut passes, mut end) = (vec![Run::default()], 0);
        for (number, segment) in segments.iter().enumerate() {
            for frame in self.segment_table(segment)?.frames {
                if frame.meta.extent.offset < end {
                    passes.push(Run::default());
                }
                end = frame.meta.extent.end();
                let piece = Piece::whole(&frame.meta, number as u32, frame.offset);
                debug_assert!(piece.content != PieceContent::Zero);
                passes.last_mut().map_or(Ok(()), |pass| pass.push(self.store(), piece))?;
            }
        }
        Ok(passes)
    }

    /// Moves an object to the quarantine; one that is not there is a success.
    pub(crate) fn set_aside(&self, key: &str) -> Result<bool> {
        match self.keep_aside(key) {
            Err(e) if e.kind() == Kind::NotFound => return Ok(false),
            Err(e) if e.kind() == Kind::Io && self.is_rot(&e) => {
                log::warn!("{key}: its medium does not give it back, so it is not kept: {}", e.in_full());
            }
            kept => kept?,
        }
        self.store().delete(key)?;
        Ok(true)
    }

    /// Copies an object to the quarantine, however long it is.
    fn keep_aside(&self, key: &str) -> Result<()> {
        let len = self.store().len(key)?;
        let small = (len <= SMALL).then(|| self.store().get(key, SMALL)).transpose()?;
        for n in 0..100 {
            // one that was set aside before stays
            let aside =
                if n == 0 { format!("{QUARANTINE}/{key}") } else { format!("{QUARANTINE}/{key}.{n}") };
            let put = match &small {
                Some(bytes) => self.store().put_new(&aside, bytes.clone()),
                None if self.store().len(&aside).is_ok() => continue,
                None => self.copy_object(key, &aside, len),
            };
            match put {
                Err(e) if e.kind() == Kind::Exists => {}
                put => return put,
            }
        }
        Err(Error::new(Kind::Exists, format!("{key} was set aside 100 times")))
    }

    /// Sets aside a point's map: its commit first, so that what is left is never used.
    pub(crate) fn set_map_aside(&self, lock: &DeviceLock, manifest: &Manifest, number: u32) -> Result<()> {
        let (device, point) = (&manifest.device.id, manifest.point);
        self.leave_out(lock, &self.keys_of_map(device, point, number))?;
        self.set_aside(&keys::map_commit(device, point, number))?;
        self.set_aside(&keys::map(device, point, number)).map(drop)
    }

    /// Why a point's map cannot be used, if so.
    pub(crate) fn fault_of_map(
        &self,
        manifest: &Manifest,
        hash: Blake3,
        number: u32,
    ) -> Result<Option<String>> {
        let map = self.point_map(&manifest.device.id, manifest.point, hash, number);
        let read = map.and_then(|map| {
            let index = self.map_index(&map, manifest.geometry.size)?;
            index.pieces().try_for_each(|piece| piece.map(drop))
        });
        match read {
            Ok(()) => Ok(None),
            Err(e) if is_harm(&e) && e.kind() != Kind::Incompatible => Ok(Some(e.in_full())),
            Err(e) => Err(e),
        }
    }

    /// The numbers of a point's committed maps.
    pub(crate) fn map_numbers(&self, manifest: &Manifest) -> Result<Vec<u32>> {
        let folder = format!("map/{}/{}", manifest.device.id, manifest.point);
        Ok(self.committed_maps(&folder)?.into_iter().map(|(.., number)| number).collect())
    }
}

/// Segments whose names were made between the beginning and the end of a backup.
fn made_meanwhile(manifest: &Manifest, unnamed: &[SegmentId]) -> Vec<SegmentId> {
    let during = manifest.point.unix_millis()..=manifest.time_end;
    unnamed.iter().copied().filter(|id| during.contains(&id.unix_millis())).collect()
}
