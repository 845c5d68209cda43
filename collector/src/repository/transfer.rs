//! Taking over a point of another repository: its frames come verbatim, only what names the repository is new; where one
//! of the two is encrypted, frames are opened and sealed anew, and never decompressed.
//!
//! What must stay true: the order of publishing is that of a backup; what is taken is verified first (BLAKE3 of a whole
//! segment, or the hash of each frame), so damage is never given a sound hash; the same point taken twice is taken
//! once, and one that was begun goes on with the segments that are here already.

use super::fill::Filler;
use super::index::IndexWriter;
use super::lock::DeviceLock;
use super::resealing::{Passage, Places, reference};
use super::{Content, Piece, Repository, Stored, keys};
use crate::block::Extent;
use crate::error::{Error, Kind, Result};
use crate::format::{
    Blake3, CELL, DeviceIdent, IndexRef, MAX_SEGMENT, Manifest, ParentRef, Piece as IndexPiece, PieceContent,
    PointId, PointKind, SegmentId, SegmentRef, Totals, damaged,
};
use crate::sys::failpoint;
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Segments on their way at once, each up to 64 MiB.
const THREADS: usize = 3;

/// Pieces of an image looked at together.
const BATCH: usize = 4096;

/// Told how many bytes were done; false: stop.
pub(crate) type Tell<'a> = dyn Fn(u64) -> bool + Sync + 'a;

/// A point to be taken over.
pub(crate) struct Taking<'a> {
    /// Where it is.
    pub from: &'a Repository,
    /// Its manifest there.
    pub manifest: &'a Manifest,
    /// Its device as it is called here.
    pub device: DeviceIdent,
}

impl Repository {
    /// Whether a point is here already.
    ///
    /// # Errors
    /// What the store meets; a damaged manifest is one.
    pub(crate) fn has(&self, device: &DeviceIdent, point: PointId) -> Result<bool> {
        match self.manifest(&device.id, point) {
            Ok(_) => Ok(true),
            Err(e) if e.kind() == Kind::NotFound => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Takes a point over as it is: its own segments, its own index; `parent` is the hash of its parent's manifest here.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if its own segments are not all there (a compaction moved them); [`Kind::Damaged`];
    /// [`Kind::Denied`] if the key there cannot read frames that have to be sealed anew.
    pub(crate) fn take_over(
        &self,
        lock: &DeviceLock,
        taking: &Taking<'_>,
        parent: Option<Blake3>,
        tell: &Tell<'_>,
    ) -> Result<Manifest> {
        let index = taking.from.index(taking.manifest)?;
        let passage = Passage::new(taking.from, self)?;
        let (segments, places): (Vec<_>, Vec<_>) =
            self.take_segments(taking.from, &passage, index.segments(), tell)?.into_iter().unzip();
        let pieces = &mut index.pieces();
        let mut taken = self.new_index(lock, taking, |writer| {
            for piece in pieces {
                writer.push(moved(&places, piece?)?)?;
            }
            Ok(segments)
        })?;
        let parent_here = |p: ParentRef| parent.map(|manifest| ParentRef { point: p.point, manifest });
        taken.parent = taking.manifest.parent.and_then(parent_here);
        self.commit(lock, taken)
    }

    /// Takes a point over as a full: its whole image, frame by frame, from whatever points hold it.
    ///
    /// # Errors
    /// [`Kind::Damaged`]; [`Kind::Denied`]; what both stores meet.
    pub(crate) fn take_over_whole(
        &self,
        lock: &DeviceLock,
        taking: &Taking<'_>,
        image: &mut dyn Iterator<Item = Result<Piece>>,
        tell: &Tell<'_>,
    ) -> Result<Manifest> {
        let passage = Passage::new(taking.from, self)?;
        let mut filler = Filler::start(self, 1)?;
        let mut covered = 0;
        let taken = self.new_index(lock, taking, |writer| {
            let mut batch = Vec::new();
            for piece in image {
                let piece = piece?;
                let new_cell =
                    batch.last().is_none_or(|p: &Piece| p.extent.offset / CELL != piece.extent.offset / CELL);
                // all pieces of a frame lie in one cell: a frame comes once
                if batch.len() >= BATCH && new_cell {
                    covered += taking.from.hand_over(&batch, &passage, &mut filler, writer, tell)?;
                    batch.clear();
                }
                batch.push(piece);
            }
            covered += taking.from.hand_over(&batch, &passage, &mut filler, writer, tell)?;
            filler.finish()
        })?;
        let totals = Totals { covered_bytes: covered, ..taken.totals };
        // what tells how to build the index again speaks of other segments
        let whole = Manifest { kind: PointKind::Full, parent: None, rebuild: None, totals, ..taken };
        self.keep_spare_of_index(&whole.device.id, whole.point, &whole.index)?;
        self.commit(lock, whole)
    }

    /// The frames of some pieces, each once; how many bytes of the image they show.
    fn hand_over(
        &self,
        pieces: &[Piece],
        passage: &Passage<'_>,
        to: &mut Filler,
        index: &mut IndexWriter,
        tell: &Tell<'_>,
    ) -> Result<u64> {
        let mut wanted: Vec<(Extent, Stored)> = Vec::new();
        for piece in pieces {
            match piece.content {
                Content::Stored(s) => wanted.push((s.frame.extent, Stored { skip: 0, ..s })),
                Content::Lost => {
                    return Err(damaged(format!("bytes from {} on are lost", piece.extent.offset)));
                }
                Content::Zero => {}
            }
        }
        wanted.sort_unstable_by_key(|(_, s)| (s.segment, s.offset));
        wanted.dedup_by_key(|(_, s)| (s.segment, s.offset));
        let mut places: HashMap<(SegmentId, u32), IndexPiece> = HashMap::new();
        let record = passage.record();
        let read = self.read_frames(&wanted, &mut |s, data| {
            let frame = passage.frame(s.frame, s.segment, data)?;
            let at = to.place(&frame, record.as_ref())?;
            places.insert((s.segment, s.offset), IndexPiece::whole(&frame.meta, to.number(), at));
            Ok(())
        })?;
        let mut covered = 0;
        for piece in pieces {
            let Content::Stored(s) = piece.content else { continue };
            let place = places.get(&(s.segment, s.offset));
            let whole = place.ok_or_else(|| Error::new(Kind::Bug, "a frame was not handed over"))?;
            index.push(whole.cut(piece.extent))?;
            covered += piece.extent.length;
        }
        if tell(read) { Ok(covered) } else { Err(stopped()) }
    }

    /// Segments as they are to lie here; those that are here already are not sent again.
    fn take_segments(
        &self,
        from: &Self,
        passage: &Passage<'_>,
        segments: &[SegmentRef],
        tell: &Tell<'_>,
    ) -> Result<Vec<(SegmentRef, Places)>> {
        let next = AtomicUsize::new(0);
        let work = || {
            let mut done = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let Some(segment) = segments.get(number) else { return Ok(done) };
                done.push((number, self.take_segment(from, passage, segment)?));
                if !tell(segment.len) {
                    return Err(stopped());
                }
            }
        };
        let mut taken: Vec<(usize, _)> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS.min(segments.len())).map(|_| scope.spawn(work)).collect();
            let gone = || Error::new(Kind::Bug, "a copying thread is gone");
            let ended = threads.into_iter().map(|t| t.join().unwrap_or_else(|_| Err(gone())));
            ended.collect::<Result<Vec<Vec<_>>>>()
        })?
        .into_iter()
        .flatten()
        .collect();
        taken.sort_unstable_by_key(|(number, _)| *number);
        Ok(taken.into_iter().map(|(_, segment)| segment).collect())
    }

    fn take_segment(
        &self,
        from: &Self,
        passage: &Passage<'_>,
        segment: &SegmentRef,
    ) -> Result<(SegmentRef, Places)> {
        let key = keys::segment(segment.id);
        let bytes = from.store().get(&key, MAX_SEGMENT)?;
        let passed = passage.segment(segment, &bytes)?;
        drop(bytes);
        if let Some(there) = passage.there(segment.id, &passed.bytes)? {
            return Ok((there, passed.places));
        }
        let taken = reference(segment.id, &passed.bytes);
        failpoint("repo.copy.segment")?;
        self.store().put(&key, Bytes::from(passed.bytes))?;
        failpoint("repo.copy.stored")?;
        Ok((taken, passed.places))
    }

    /// Writes the point's index here; one that a copy which died left is replaced. What is to be its manifest.
    fn new_index(
        &self,
        lock: &DeviceLock,
        taking: &Taking<'_>,
        fill: impl FnOnce(&mut IndexWriter) -> Result<Vec<SegmentRef>>,
    ) -> Result<Manifest> {
        let (manifest, device) = (taking.manifest.clone(), taking.device.clone());
        let key = keys::index(&device.id, manifest.point);
        // of a point that was lost here, or of a copy that died
        self.leave_out(lock, &[keys::manifest(&device.id, manifest.point), key.clone()].into())?;
        self.drop_spare(&device.id, manifest.point, 0)?;
        if self.store().len(&key).is_ok() {
            self.store().delete(&key)?;
        }
        let mut writer = IndexWriter::new(self, key, manifest.point);
        let segments = fill(&mut writer)?;
        let sum: u64 = segments.iter().map(|segment| segment.len).sum();
        let (index, _): (IndexRef, u64) = writer.finish(segments)?;
        failpoint("repo.copy.index")?;
        let totals = Totals { stored_bytes: sum + index.len, ..manifest.totals };
        Ok(Manifest { index, device, totals, repository: self.uuid(), ..manifest })
    }

    fn commit(&self, lock: &DeviceLock, manifest: Manifest) -> Result<Manifest> {
        self.store().settle()?;
        lock.holds()?;
        failpoint("repo.copy.manifest")?;
        let key = keys::manifest(&manifest.device.id, manifest.point);
        self.store().put_new(&key, manifest.encode_in(self.cover(&key))?.into())?;
        self.store().in_place()?;
        lock.still_holds()?;
        failpoint("repo.copy.committed")?;
        Ok(manifest)
    }
}

/// A piece of an index with the place where its frame is now.
fn moved(places: &[Places], piece: IndexPiece) -> Result<IndexPiece> {
    let PieceContent::Stored(frame) = piece.content else { return Ok(piece) };
    let unknown = || damaged(format!("piece at {}: of no segment", piece.extent.offset));
    places.get(frame.segment as usize).ok_or_else(unknown)?.moved(piece)
}

fn stopped() -> Error {
    Error::new(Kind::Interrupted, "stopped; what was copied stays, and the next run goes on from there")
}
