//! Taking over a point of another repository: its frames come verbatim, only what names the repository is new.
//!
//! What must stay true: the order of publishing is that of a backup; what is taken is verified first (BLAKE3 of a whole
//! segment, or the hash of each frame), so damage is never given a sound hash; the same point taken twice is taken
//! once, and one that was begun goes on with the segments that are here already.

use super::fill::Filler;
use super::index::IndexWriter;
use super::lock::DeviceLock;
use super::{Content, Piece, Repository, Stored, keys};
use crate::block::Extent;
use crate::error::{Error, Kind, Result};
use crate::format::{
    Blake3, CELL, EncodedFrame, HEADER_LEN, Header, IndexRef, MAX_SEGMENT, Manifest, ObjectKind, ParentRef,
    Piece as IndexPiece, PointKind, SegmentId, SegmentRef, damaged,
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

impl Repository {
    /// Whether a point is here already, and the hash of its manifest.
    ///
    /// # Errors
    /// What the store meets; a damaged manifest is one.
    pub(crate) fn has(&self, manifest: &Manifest) -> Result<Option<Blake3>> {
        match self.manifest(&manifest.device.id, manifest.point) {
            Ok((_, hash)) => Ok(Some(hash)),
            Err(e) if e.kind() == Kind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Takes a point over as it is: its own segments byte for byte, its own index; `parent` is the hash of its parent's
    /// manifest here.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if its own segments are not all there (a compaction moved them); [`Kind::Damaged`].
    pub(crate) fn take_over(
        &self,
        lock: &DeviceLock,
        from: &Self,
        manifest: &Manifest,
        parent: Option<Blake3>,
        tell: &Tell<'_>,
    ) -> Result<Manifest> {
        self.refuse_sealed(from)?;
        let index = from.index(manifest)?;
        let segments = self.take_segments(from, index.segments(), tell)?;
        let pieces = &mut index.pieces();
        let (index, _) = self.new_index(manifest, |writer| {
            pieces.try_for_each(|piece| writer.push(piece?))?;
            Ok(segments)
        })?;
        let mut taken = Manifest { index, repository: self.uuid(), ..manifest.clone() };
        taken.parent =
            manifest.parent.zip(parent).map(|(p, manifest)| ParentRef { point: p.point, manifest });
        self.commit(lock, taken)
    }

    /// Takes a point over as a full: its whole image, frame by frame, from whatever points hold it.
    ///
    /// # Errors
    /// [`Kind::Damaged`]; what both stores meet.
    pub(crate) fn take_over_whole(
        &self,
        lock: &DeviceLock,
        from: &Self,
        manifest: &Manifest,
        image: &mut dyn Iterator<Item = Result<Piece>>,
        tell: &Tell<'_>,
    ) -> Result<Manifest> {
        self.refuse_sealed(from)?;
        let mut filler = Filler::start(self, 0)?;
        let (index, covered) = self.new_index(manifest, |writer| {
            let mut batch = Vec::new();
            for piece in image {
                let piece = piece?;
                let new_cell =
                    batch.last().is_none_or(|p: &Piece| p.extent.offset / CELL != piece.extent.offset / CELL);
                // all pieces of a frame lie in one cell: a frame comes once
                if batch.len() >= BATCH && new_cell {
                    from.hand_over(&batch, &mut filler, writer, tell)?;
                    batch.clear();
                }
                batch.push(piece);
            }
            from.hand_over(&batch, &mut filler, writer, tell)?;
            filler.finish()
        })?;
        let (kind, parent) = (PointKind::Full, None);
        let mut taken = Manifest { index, repository: self.uuid(), kind, parent, ..manifest.clone() };
        taken.totals.covered_bytes = covered;
        // what tells how to build the index again speaks of other segments
        taken.rebuild = None;
        self.commit(lock, taken)
    }

    /// Sealed frames are bound to their repository: they cannot come verbatim.
    fn refuse_sealed(&self, from: &Self) -> Result<()> {
        if self.keys().is_none() && from.keys().is_none() {
            return Ok(());
        }
        let text =
            "copy points from or to an encrypted repository: what is sealed is bound to its repository";
        Err(Error::new(Kind::Unsupported, text)
            .hint("back up into the second one too, or copy all files of the first as they are"))
    }

    /// The frames of some pieces, each once.
    fn hand_over(
        &self,
        pieces: &[Piece],
        to: &mut Filler,
        index: &mut IndexWriter,
        tell: &Tell<'_>,
    ) -> Result<()> {
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
        let mut places: HashMap<(SegmentId, u32), (u32, u32)> = HashMap::new();
        let read = self.read_frames(&wanted, &mut |s, data| {
            let at = to.place(&EncodedFrame { meta: s.frame, data }, None)?;
            places.insert((s.segment, s.offset), (to.number(), at));
            Ok(())
        })?;
        for piece in pieces {
            let Content::Stored(s) = piece.content else { continue };
            let place = places.get(&(s.segment, s.offset));
            let (segment, at) = place.ok_or_else(|| Error::new(Kind::Bug, "a frame was not handed over"))?;
            index.push(IndexPiece::whole(&s.frame, *segment, *at).cut(piece.extent))?;
        }
        if tell(read) { Ok(()) } else { Err(stopped()) }
    }

    /// Segments byte for byte but for the repository's name in the header; those that are here are not sent again.
    fn take_segments(
        &self,
        from: &Self,
        segments: &[SegmentRef],
        tell: &Tell<'_>,
    ) -> Result<Vec<SegmentRef>> {
        let next = AtomicUsize::new(0);
        let work = || {
            let mut done = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let Some(segment) = segments.get(number) else { return Ok(done) };
                done.push((number, self.take_segment(from, segment)?));
                if !tell(segment.len) {
                    return Err(stopped());
                }
            }
        };
        let mut taken: Vec<(usize, SegmentRef)> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS.min(segments.len())).map(|_| scope.spawn(work)).collect();
            let gone = || Error::new(Kind::Bug, "a copying thread is gone");
            let ended = threads.into_iter().map(|t| t.join().unwrap_or_else(|_| Err(gone())));
            ended.collect::<Result<Vec<Vec<_>>>>()
        })?
        .concat();
        taken.sort_unstable_by_key(|(number, _)| *number);
        Ok(taken.into_iter().map(|(_, segment)| segment).collect())
    }

    fn take_segment(&self, from: &Self, segment: &SegmentRef) -> Result<SegmentRef> {
        let key = keys::segment(segment.id);
        let bytes = from.store().get(&key, MAX_SEGMENT)?;
        if Blake3::of(&bytes) != segment.hash {
            return Err(damaged(format!("{key}: its bytes are not those its index was written for (hash)")));
        }
        let header = Header::decode(ObjectKind::Segment, &bytes)?;
        header.expect(from.uuid(), segment.id.to_bytes())?;
        let mut ours = Vec::from(Header { repository: self.uuid(), ..header }.encode());
        ours.extend_from_slice(bytes.get(HEADER_LEN..).unwrap_or_default());
        let taken = SegmentRef { id: segment.id, len: ours.len() as u64, hash: Blake3::of(&ours) };
        // an object is there whole or not at all
        if self.store().len(&key).is_ok_and(|len| len == taken.len) {
            return Ok(taken);
        }
        failpoint("repo.copy.segment")?;
        self.store().put(&key, Bytes::from(ours))?;
        Ok(taken)
    }

    /// Writes the point's index here; one that a copy which died left is replaced.
    fn new_index(
        &self,
        manifest: &Manifest,
        fill: impl FnOnce(&mut IndexWriter) -> Result<Vec<SegmentRef>>,
    ) -> Result<(IndexRef, u64)> {
        let key = keys::index(&manifest.device.id, manifest.point);
        if self.store().len(&key).is_ok() {
            self.store().delete(&key)?;
        }
        let mut writer = IndexWriter::new(self, key, manifest.point);
        let segments = fill(&mut writer)?;
        writer.finish(segments)
    }

    fn commit(&self, lock: &DeviceLock, manifest: Manifest) -> Result<Manifest> {
        self.store().settle()?;
        lock.holds()?;
        failpoint("repo.copy.manifest")?;
        let key = keys::manifest(&manifest.device.id, manifest.point);
        self.store().put_new(&key, manifest.encode()?.into())?;
        self.store().in_place()?;
        Ok(manifest)
    }
}

fn stopped() -> Error {
    Error::new(Kind::Interrupted, "stopped; what was copied stays, and the next run goes on from there")
}
