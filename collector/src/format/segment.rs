//! Segments: an immutable object of frames, whose footer says what each frame is, so that an index can be
//! built again from segments alone. In an encrypted repository the records of the sessions whose frames it holds lie
//! between header and frames, so that the owner needs nothing else to read it; those that are not used are zero:
//!
//! ```text
//!   header 64 | [ room for records u32 | records of 100 ] | frames ... | frame table | trailer 56
//! ```

use super::chunk::{MAX_CHUNK, Piece, PieceContent, decode_chunk, encode_chunk};
use super::header::{HEADER_LEN, Header, ObjectKind, TRAILER_LEN, Trailer};
use super::{EncodedFrame, FrameMeta, PIECES_PER_CHUNK, RepositoryId, SegmentId, damaged};
use crate::error::{Error, Kind, Result};
use crate::seal::{Keys, Part, RECORD, Record};
use std::sync::Arc;

/// First record of a session.
const RECORDS_AT: u64 = HEADER_LEN as u64 + 4;

/// First bytes of a segment that tell how long the rest of its beginning is.
pub const SESSIONS_HEAD: u64 = RECORDS_AT;

/// The sessions whose frames a segment holds, from its first bytes; fewer than [`SESSIONS_HEAD`] are damage, and so is a
/// number that no segment has. If the bytes end before the last record: how many are needed.
///
/// # Errors
/// [`Kind::Damaged`].
pub fn decode_sessions(first_bytes: &[u8]) -> Result<std::result::Result<Vec<Record>, u64>> {
    let count = first_bytes.get(HEADER_LEN..).and_then(<[u8]>::first_chunk);
    let count = u32::from_le_bytes(*count.ok_or_else(|| damaged("segment cut short"))?);
    if count == 0 || count as usize > SEGMENT_FRAMES {
        return Err(damaged(format!("segment of {count} sessions")));
    }
    let len = RECORDS_AT + u64::from(count) * RECORD as u64;
    let Some(records) = first_bytes.get(RECORDS_AT as usize..len as usize) else { return Ok(Err(len)) };
    let records = records.chunks_exact(RECORD).filter_map(|r| r.try_into().ok().map(Record));
    Ok(Ok(records.filter(|record| record.0 != [0; RECORD]).collect()))
}

/// A segment is closed at about this many bytes.
pub const SEGMENT_TARGET: usize = 32 << 20;

/// A segment is closed at this many frames.
pub const SEGMENT_FRAMES: usize = PIECES_PER_CHUNK;

/// No segment is longer.
pub const MAX_SEGMENT: u64 = 64 << 20;

/// A frame and its place in its segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredFrame {
    /// First stored byte, from the beginning of the segment.
    pub offset: u32,
    /// What it is.
    pub meta: FrameMeta,
}

/// Collects frames into a segment.
#[derive(Debug)]
pub struct SegmentBuilder {
    id: SegmentId,
    repository: RepositoryId,
    bytes: Vec<u8>,
    frames: Vec<Piece>,
    keys: Option<Arc<Keys>>,
    /// It is closed at so many bytes.
    target: usize,
}

impl SegmentBuilder {
    /// An empty segment with a new name; `buffer` is used again.
    pub fn new(repository: RepositoryId, buffer: Vec<u8>) -> Self {
        Self::begin(repository, buffer, None, SegmentId::generate())
    }

    /// The same for frames that are sealed, with room for the records of so many sessions.
    pub fn sealed(repository: RepositoryId, buffer: Vec<u8>, keys: &Arc<Keys>, room: u32) -> Self {
        let mut builder = Self::begin(repository, buffer, Some(Arc::clone(keys)), SegmentId::generate());
        builder.make_room(room);
        builder
    }

    /// One that is made anew, under its name, for a repository with other keys: with room for the record of one session if
    /// there are any, and for all the frames it had.
    pub fn again(repository: RepositoryId, id: SegmentId, buffer: Vec<u8>, keys: Option<&Arc<Keys>>) -> Self {
        let mut builder = Self::begin(repository, buffer, keys.cloned(), id);
        if keys.is_some() {
            builder.make_room(1);
        }
        builder.target = MAX_SEGMENT as usize - MAX_CHUNK;
        builder
    }

    /// For the records of so many sessions.
    fn make_room(&mut self, room: u32) {
        self.bytes.extend_from_slice(&room.to_le_bytes());
        let first = self.bytes.len() + room as usize * RECORD;
        self.bytes.resize(first, 0);
    }

    /// Puts in the record of a session, so that frames of it can follow; false if there is no room for it.
    pub fn admit(&mut self, record: &Record) -> bool {
        let room = self.bytes.get(HEADER_LEN..).and_then(<[u8]>::first_chunk).copied();
        let end = RECORDS_AT as usize + room.map_or(0, u32::from_le_bytes) as usize * RECORD;
        let records = self.keys.as_ref().and(self.bytes.get_mut(RECORDS_AT as usize..end));
        for place in records.into_iter().flat_map(|r| r.chunks_exact_mut(RECORD)) {
            if *place == record.0 {
                return true;
            }
            if place.iter().all(|byte| *byte == 0) {
                place.copy_from_slice(&record.0);
                return true;
            }
        }
        false
    }

    fn begin(repository: RepositoryId, mut buffer: Vec<u8>, keys: Option<Arc<Keys>>, id: SegmentId) -> Self {
        let (kind, sealed) = (ObjectKind::Segment, keys.is_some());
        let header = Header { kind, sealed, compatible: 0, repository, id: id.to_bytes() };
        buffer.clear();
        buffer.extend_from_slice(&header.encode());
        Self { id, repository, bytes: buffer, frames: Vec::new(), keys, target: SEGMENT_TARGET }
    }

    /// Its name.
    pub const fn id(&self) -> SegmentId {
        self.id
    }

    /// The repository it is for.
    pub const fn repository(&self) -> RepositoryId {
        self.repository
    }

    /// Appends a frame and says at which byte it lies.
    ///
    /// # Errors
    /// [`Kind::Bug`] for a frame without bytes, or if the segment [is full](Self::is_full).
    pub fn push(&mut self, frame: &EncodedFrame) -> Result<u32> {
        let len = frame.data.len();
        if len == 0 || len != frame.meta.stored_len as usize || self.is_full() {
            return Err(Error::new(
                Kind::Bug,
                "put frame in segment: no bytes, wrong length, or segment full",
            ));
        }
        let offset = self.bytes.len() as u32;
        self.frames.push(Piece::whole(&frame.meta, 0, offset));
        self.bytes.extend_from_slice(&frame.data);
        Ok(offset)
    }

    /// It must be closed before another frame.
    pub fn is_full(&self) -> bool {
        self.bytes.len() >= self.target || self.frames.len() >= SEGMENT_FRAMES
    }

    /// No frames yet.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Adds footer and trailer: the object's bytes.
    ///
    /// # Errors
    /// If a frame is impossible or the compressor fails.
    pub fn finish(mut self) -> Result<Vec<u8>> {
        let mut footer = encode_chunk(&self.frames)?;
        if let Some(keys) = &self.keys {
            footer = keys.metadata().cover(&self.id.to_string()).seal(Part::Footer, &footer)?;
        }
        let trailer = Trailer::of(self.bytes.len() as u64, &footer, self.frames.len() as u64);
        self.bytes.extend_from_slice(&footer);
        self.bytes.extend_from_slice(&trailer.encode(ObjectKind::Segment));
        Ok(self.bytes)
    }
}

/// What a segment's footer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentTable {
    /// The frames, as stored: ascending, end to end.
    pub frames: Vec<StoredFrame>,
}

impl SegmentTable {
    /// Checks header, footer, trailer of a whole segment and reads its table; frames are not decoded.
    ///
    /// # Errors
    /// [`Kind::Damaged`] or [`Kind::Incompatible`].
    pub fn decode(repository: RepositoryId, id: SegmentId, bytes: &[u8]) -> Result<Self> {
        Self::decode_with(None, repository, id, bytes)
    }

    /// The same, with the keys of the repository, if it has any.
    ///
    /// # Errors
    /// [`Kind::Damaged`] or [`Kind::Incompatible`].
    pub fn decode_with(
        keys: Option<&Keys>,
        repository: RepositoryId,
        id: SegmentId,
        bytes: &[u8],
    ) -> Result<Self> {
        let header = Header::decode(ObjectKind::Segment, bytes)?;
        header.expect(repository, id.to_bytes())?;
        header.expect_sealed(keys.is_some())?;
        let total = bytes.len() as u64;
        let last = bytes.len().checked_sub(TRAILER_LEN).and_then(|at| bytes.get(at..)).unwrap_or_default();
        let trailer = Trailer::decode(ObjectKind::Segment, last, total)?;
        let footer = bytes.get(trailer.footer_at as usize..(total as usize).saturating_sub(TRAILER_LEN));
        Self::decode_footer(keys, id, &trailer, footer.unwrap_or_default())
    }

    /// Reads the table from the footer alone.
    ///
    /// # Errors
    /// [`Kind::Damaged`].
    pub fn decode_footer(
        keys: Option<&Keys>,
        id: SegmentId,
        trailer: &Trailer,
        footer: &[u8],
    ) -> Result<Self> {
        trailer.check(footer)?;
        let Some(keys) = keys else {
            return Self::decode_table(trailer, footer, &|at| at == HEADER_LEN as u64);
        };
        let plain = keys.metadata().cover(&id.to_string()).open(Part::Footer, footer)?;
        Self::decode_table(trailer, &plain, &|at| {
            let records = at.checked_sub(RECORDS_AT);
            records.is_some_and(|len| len.is_multiple_of(RECORD as u64))
        })
    }

    /// `begins` says whether the first frame may lie at an offset.
    fn decode_table(trailer: &Trailer, footer: &[u8], begins: &dyn Fn(u64) -> bool) -> Result<Self> {
        let count = usize::try_from(trailer.count).unwrap_or(usize::MAX);
        let mut frames = Vec::new();
        let mut next = None;
        for piece in decode_chunk(footer, count)? {
            let PieceContent::Stored(f) = piece.content else { return Err(damaged("frame without bytes")) };
            let offset = u64::from(f.offset);
            let follows = next.map_or_else(|| begins(offset), |next| offset == next);
            if !follows || f.skip != 0 || u64::from(f.frame_len) != piece.extent.length {
                return Err(damaged("frames of the segment do not lie end to end"));
            }
            next = Some(offset + u64::from(f.stored_len));
            frames.push(StoredFrame { offset: f.offset, meta: piece.frame() });
        }
        if next.unwrap_or(HEADER_LEN as u64) != trailer.footer_at {
            return Err(damaged("bytes between the last frame and the footer of the segment"));
        }
        Ok(Self { frames })
    }

    /// The frame at `offset`.
    pub fn at(&self, offset: u32) -> Option<&StoredFrame> {
        self.frames.binary_search_by_key(&offset, |f| f.offset).ok().map(|i| &self.frames[i])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Extent;
    use crate::format::{Blake3, CELL, Compression, encode_frame};

    #[test]
    fn a_segment_tells_its_frames() {
        let repository = RepositoryId::generate();
        let mut builder = SegmentBuilder::new(repository, Vec::new());
        let id = builder.id();
        let mut metas = Vec::new();
        for i in [5u64, 6, 1, 9] {
            let raw = vec![i as u8; 8192];
            let frame =
                encode_frame(Extent::new(i * CELL + 4096, 8192), &raw, Compression::default()).unwrap();
            let offset = builder.push(&frame).unwrap();
            metas.push(StoredFrame { offset, meta: frame.meta });
        }
        assert!(builder.push(&EncodedFrame::zero(Extent::new(0, 4096))).is_err());
        let bytes = builder.finish().unwrap();
        let table = SegmentTable::decode(repository, id, &bytes).unwrap();
        assert_eq!(table.frames, metas);
        assert_eq!(table.at(metas[2].offset).unwrap(), &metas[2]);
        assert!(SegmentTable::decode(RepositoryId::generate(), id, &bytes).is_err());
        assert!(SegmentTable::decode(repository, SegmentId::generate(), &bytes).is_err());
        let frames_end = metas.last().map(|m| (m.offset + m.meta.stored_len) as usize).unwrap();
        let whole = Blake3::of(&bytes);
        for bit in (0..bytes.len() * 8).step_by(3) {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let read = SegmentTable::decode(repository, id, &bad);
            // frames themselves are guarded by their own hash and by the hash of the whole
            assert!(
                read.is_err()
                    || (read.unwrap() == table && Blake3::of(&bad) != whole && bit / 8 < frames_end)
            );
            assert!(SegmentTable::decode(repository, id, &bytes[..bit / 8]).is_err());
        }
    }

    #[test]
    fn a_sealed_segment_tells_its_frames_to_those_who_may_know() {
        use crate::format::{FrameHash, open_frame};
        use crate::seal::PrivateKey;
        let repository = RepositoryId::generate();
        let master = vec![PrivateKey::generate().unwrap()];
        let owner = Arc::new(Keys::owner(repository.to_bytes(), master).unwrap());
        let session = owner.session([5; 16]).unwrap();
        let mut builder = SegmentBuilder::sealed(repository, Vec::new(), &owner, 2);
        assert!(builder.admit(&session.record()) && builder.admit(&session.record()));
        let other = owner.session([6; 16]).unwrap().record();
        assert!(builder.admit(&other) && !builder.admit(&owner.session([7; 16]).unwrap().record()));
        let id = builder.id();
        let raw: Vec<u8> = (0..8192u32).map(|i| FrameHash::of(&i.to_le_bytes()).0 as u8).collect();
        let frame = encode_frame(Extent::new(4096, 8192), &raw, Compression::None).unwrap();
        let offset = builder.push(&frame.sealed(&session).unwrap()).unwrap() as usize;
        let bytes = builder.finish().unwrap();
        assert!(!bytes.windows(16).any(|w| raw.windows(16).step_by(16).any(|r| r == w)), "content shows");
        let table = SegmentTable::decode_with(Some(&owner), repository, id, &bytes).unwrap();
        let records = decode_sessions(&bytes).unwrap().unwrap();
        assert_eq!(records, [session.record(), other]);
        let record = records[0];
        assert_eq!(decode_sessions(&bytes[..SESSIONS_HEAD as usize]).unwrap(), Err(offset as u64));
        let (mut back, mut buf) = (vec![0; 8192], Vec::new());
        let (key, meta) = (owner.frame_key(&record).unwrap(), table.frames[0].meta);
        let stored = &bytes[offset..offset + meta.stored_len as usize];
        open_frame(&meta, stored, &key, &mut buf, &mut back).unwrap();
        assert_eq!(back, raw);
        // at another place of the device, or as another codec, it is no frame
        let elsewhere = FrameMeta { extent: Extent::new(CELL + 4096, 8192), ..meta };
        assert!(open_frame(&elsewhere, stored, &key, &mut buf, &mut back).is_err());
        let zstd = FrameMeta { codec: crate::format::Codec::Zstd, ..meta };
        assert!(open_frame(&zstd, stored, &key, &mut buf, &mut back).is_err());
        // without keys, with others, or under another name: no table
        assert_eq!(SegmentTable::decode(repository, id, &bytes).unwrap_err().kind(), Kind::Incompatible);
        let other = Keys::owner(repository.to_bytes(), vec![PrivateKey::generate().unwrap()]).unwrap();
        assert!(SegmentTable::decode_with(Some(&other), repository, id, &bytes).is_err());
        assert!(decode_sessions(&bytes[..60]).is_err());
    }
}
