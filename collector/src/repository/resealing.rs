//! Frames on their way to a repository with other keys: opened, if they are sealed, and sealed anew, if they are to be.
//!
//! What must stay true: nothing is decompressed for it, a tag or the hash of the segment has shown that the bytes are
//! those that were written; every run seals with a session of its own, whose name is no point's, so what an earlier run
//! of the same point left keeps its own key and no nonce is used twice.

use super::{Repository, keys};
use crate::block::Extent;
use crate::error::{Error, Kind, Result};
use crate::format::{
    Blake3, EncodedFrame, FrameMeta, HEADER_LEN, Header, MAX_SEGMENT, ObjectKind, Piece, PieceContent,
    PointId, SegmentBuilder, SegmentId, SegmentRef, SegmentTable, damaged,
};
use crate::seal::{Record, Session};
use bytes::Bytes;

/// From one repository to another, for one point.
pub(super) struct Passage<'a> {
    from: &'a Repository,
    to: &'a Repository,
    session: Option<Session>,
}

/// Where a frame of a segment lies in the segment that was made of it.
#[derive(Clone, Copy, Debug)]
struct Place {
    was: u32,
    is: u32,
    stored_len: u32,
}

/// A segment as the other repository is to store it.
pub(super) struct Passed {
    /// All of it.
    pub bytes: Vec<u8>,
    /// Where its frames are.
    pub places: Places,
}

/// Where the frames of a segment are now, by their offsets of before; `None`: where they were.
#[derive(Clone, Debug, Default)]
pub(super) struct Places(Option<Vec<Place>>);

impl<'a> Passage<'a> {
    pub fn new(from: &'a Repository, to: &'a Repository) -> Result<Self> {
        let begin = |keys: &std::sync::Arc<crate::seal::Keys>| keys.session(PointId::generate().to_bytes());
        Ok(Self { from, to, session: to.keys().map(begin).transpose()? })
    }

    /// What every segment with frames sealed on the way holds.
    pub fn record(&self) -> Option<Record> {
        self.session.as_ref().map(Session::record)
    }

    /// A frame of a segment as the other repository is to store it.
    pub fn frame(&self, meta: FrameMeta, segment: SegmentId, data: Bytes) -> Result<EncodedFrame> {
        let open = self.from.unsealed(EncodedFrame { meta, data }, segment)?;
        self.session.as_ref().map_or(Ok(open.clone()), |session| open.sealed(session))
    }

    /// A segment as the other repository is to store it: without keys on either side, another name in its header.
    pub fn segment(&self, segment: &SegmentRef, bytes: &Bytes) -> Result<Passed> {
        if Blake3::of(bytes) != segment.hash {
            let key = keys::segment(segment.id);
            return Err(damaged(format!("{key}: its bytes are not those its index was written for (hash)")));
        }
        if self.from.keys().is_some() || self.to.keys().is_some() {
            return self.anew(segment.id, bytes);
        }
        let header = Header::decode(ObjectKind::Segment, bytes)?;
        header.expect(self.from.uuid(), segment.id.to_bytes())?;
        header.expect_sealed(false)?;
        let mut ours = Vec::from(Header { repository: self.to.uuid(), ..header }.encode());
        ours.extend_from_slice(bytes.get(HEADER_LEN..).unwrap_or_default());
        Ok(Passed { bytes: ours, places: Places(None) })
    }

    fn anew(&self, id: SegmentId, bytes: &Bytes) -> Result<Passed> {
        let keys = self.from.keys().map(AsRef::as_ref);
        let table = SegmentTable::decode_with(keys, self.from.uuid(), id, bytes)?;
        let room = Vec::with_capacity(bytes.len() + bytes.len() / 64);
        let mut builder = SegmentBuilder::again(self.to.uuid(), id, room, self.to.keys());
        if self.record().is_some_and(|record| !builder.admit(&record)) {
            return Err(Error::new(Kind::Bug, "a new segment has no room for its session"));
        }
        let mut places = Vec::with_capacity(table.frames.len());
        for frame in &table.frames {
            let end = frame.offset as usize + frame.meta.stored_len as usize;
            let passed = self.frame(frame.meta, id, bytes.slice(frame.offset as usize..end));
            let passed = passed
                .map_err(|e| e.within(format!("take over {} at byte {}", keys::segment(id), frame.offset)))?;
            let is = builder.push(&passed)?;
            places.push(Place { was: frame.offset, is, stored_len: passed.meta.stored_len });
        }
        Ok(Passed { bytes: builder.finish()?, places: Places(Some(places)) })
    }

    /// What an earlier run stored of a segment and that would be stored again as `ours`.
    pub fn there(&self, id: SegmentId, ours: &[u8]) -> Result<Option<SegmentRef>> {
        let (key, store) = (keys::segment(id), self.to.store());
        // an object is there whole or not at all
        if !store.len(&key).is_ok_and(|len| len == ours.len() as u64) {
            return Ok(None);
        }
        let Some(keys) = self.to.keys() else {
            // far away it would have to come back whole; on a medium that may rot it is looked at
            let near = store.folder().is_some();
            let same = !near || store.get(&key, MAX_SEGMENT).is_ok_and(|there| there == ours);
            return Ok(same.then(|| reference(id, ours)));
        };
        // sealed in another session, so its bytes are others; its table says whether it holds the same
        let there = store.get(&key, MAX_SEGMENT)?;
        let table = |bytes: &[u8]| SegmentTable::decode_with(Some(keys), self.to.uuid(), id, bytes);
        let (found, wanted) = (table(&there), table(ours)?);
        Ok(found.is_ok_and(|found| found == wanted).then(|| reference(id, &there)))
    }
}

/// What an index says of a segment of these bytes.
pub(super) fn reference(id: SegmentId, bytes: &[u8]) -> SegmentRef {
    SegmentRef { id, len: bytes.len() as u64, hash: Blake3::of(bytes) }
}

impl Places {
    /// A piece with the place where its frame is now.
    pub fn moved(&self, piece: Piece) -> Result<Piece> {
        let (Some(places), PieceContent::Stored(mut frame)) = (&self.0, piece.content) else {
            return Ok(piece);
        };
        let place = places.binary_search_by_key(&frame.offset, |place| place.was);
        let place = place.ok().and_then(|n| places.get(n));
        let Extent { offset, .. } = piece.extent;
        let unknown = || damaged(format!("piece at {offset}: its frame is not in its segment's own table"));
        let place = place.ok_or_else(unknown)?;
        (frame.offset, frame.stored_len) = (place.is, place.stored_len);
        Ok(Piece { content: PieceContent::Stored(frame), ..piece })
    }
}
