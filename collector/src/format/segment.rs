//! Segments: an immutable object of frames, whose footer says what each frame is, so that an index can be
//! built again from segments alone.

use super::chunk::{Piece, PieceContent, decode_chunk, encode_chunk};
use super::header::{HEADER_LEN, Header, ObjectKind, TRAILER_LEN, Trailer};
use super::{EncodedFrame, FrameMeta, PIECES_PER_CHUNK, RepositoryId, SegmentId, damaged};
use crate::error::{Error, Kind, Result};

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
}

impl SegmentBuilder {
    /// An empty segment with a new name; `buffer` is used again.
    pub fn new(repository: RepositoryId, mut buffer: Vec<u8>) -> Self {
        let id = SegmentId::generate();
        let header = Header { kind: ObjectKind::Segment, compatible: 0, repository, id: id.to_bytes() };
        buffer.clear();
        buffer.extend_from_slice(&header.encode());
        Self { id, repository, bytes: buffer, frames: Vec::new() }
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
        self.bytes.len() >= SEGMENT_TARGET || self.frames.len() >= SEGMENT_FRAMES
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
        let footer = encode_chunk(&self.frames)?;
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
        Header::decode(ObjectKind::Segment, bytes)?.expect(repository, id.to_bytes())?;
        let total = bytes.len() as u64;
        let last = bytes.len().checked_sub(TRAILER_LEN).and_then(|at| bytes.get(at..)).unwrap_or_default();
        let trailer = Trailer::decode(ObjectKind::Segment, last, total)?;
        let footer = bytes.get(trailer.footer_at as usize..(total as usize).saturating_sub(TRAILER_LEN));
        Self::decode_footer(&trailer, footer.unwrap_or_default())
    }

    /// Reads the table from the footer alone.
    ///
    /// # Errors
    /// [`Kind::Damaged`].
    pub fn decode_footer(trailer: &Trailer, footer: &[u8]) -> Result<Self> {
        trailer.check(footer)?;
        let count = usize::try_from(trailer.count).unwrap_or(usize::MAX);
        let mut frames = Vec::new();
        let mut next = HEADER_LEN as u64;
        for piece in decode_chunk(footer, count)? {
            let PieceContent::Stored(f) = piece.content else { return Err(damaged("frame without bytes")) };
            if u64::from(f.offset) != next || f.skip != 0 || u64::from(f.frame_len) != piece.extent.length {
                return Err(damaged("frames of the segment do not lie end to end"));
            }
            next += u64::from(f.stored_len);
            frames.push(StoredFrame { offset: f.offset, meta: piece.frame() });
        }
        if next != trailer.footer_at {
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
}
