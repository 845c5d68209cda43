//! Reading content back: neighbours in one read, every frame verified, never a byte handed out unverified.

use super::{Repository, keys, lost};
use crate::block::Extent;
use crate::error::{Error, Kind, Result};
use crate::format::{
    CELL, FrameHash, FrameMeta, ObjectKind, SegmentId, SegmentRef, SegmentTable, TRAILER_LEN, Trailer,
    damaged,
};
use crate::sys::failpoint;
use bytes::Bytes;

/// Stored bytes between two wanted frames that are read along rather than skipped.
const GAP: u64 = 64 * 1024;

/// The longest single read.
const READ: u64 = 8 << 20;

static ZEROS: [u8; CELL as usize] = [0; CELL as usize];

/// A run of bytes of the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where on the device.
    pub extent: Extent,
    /// What is there.
    pub content: Content,
}

/// What a piece of an image is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Zeros.
    Zero,
    /// Part of a stored frame.
    Stored(Stored),
    /// Not known: the index that would say cannot be read. Only in a chain that is salvaged.
    Lost,
}

/// Part of a stored frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The segment the frame is in.
    pub segment: SegmentId,
    /// Its first stored byte there.
    pub offset: u32,
    /// The whole frame.
    pub frame: FrameMeta,
    /// Bytes of the frame's content before the piece.
    pub skip: u32,
}

impl Piece {
    /// The part of it in `extent`, which lies inside it.
    #[must_use]
    pub(crate) fn cut(&self, extent: Extent) -> Self {
        let mut content = self.content;
        if let Content::Stored(stored) = &mut content {
            stored.skip += (extent.offset - self.extent.offset) as u32;
        }
        Self { extent, content }
    }

    /// Hash of the piece's content, if it is a whole stored frame.
    pub fn whole_hash(&self) -> Option<FrameHash> {
        match self.content {
            Content::Stored(s) if s.frame.extent == self.extent => Some(s.frame.hash),
            _ => None,
        }
    }
}

impl Repository {
    /// Reads and verifies the content of `pieces` (in any order) and hands out each piece's bytes, by place in
    /// the store; neighbours are read together. Zeros are handed out in runs of at most 64 KiB.
    ///
    /// # Errors
    /// [`Kind::Damaged`] if anything stored is missing or is not what was written; or what `sink` returns.
    pub fn read_pieces(
        &self,
        pieces: &[Piece],
        sink: &mut dyn FnMut(Extent, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut stored = Vec::with_capacity(pieces.len());
        for piece in pieces {
            match piece.content {
                Content::Zero => hand_out_zeros(piece.extent, sink)?,
                Content::Stored(s) => stored.push((piece.extent, s)),
                Content::Lost => return Err(damaged("its index cannot be read")),
            }
        }
        stored.sort_unstable_by_key(|(extent, s)| (s.segment, s.offset, extent.offset));
        let mut rest = &stored[..];
        while let Some(together) = neighbours(rest.iter().map(|(_, s)| s)) {
            let (now, later) = rest.split_at(together);
            self.read_together(now, sink)?;
            rest = later;
        }
        Ok(())
    }

    /// Reads and verifies the content of sorted `pieces` into `buf`, which has exactly their length, back to back.
    ///
    /// # Errors
    /// As [`read_pieces`](Self::read_pieces).
    pub(crate) fn read_into(&self, pieces: &[Piece], buf: &mut [u8]) -> Result<()> {
        let (mut stored, mut rest) = (Vec::with_capacity(pieces.len()), buf);
        for piece in pieces {
            let cut = std::mem::take(&mut rest).split_at_mut_checked(piece.extent.length as usize);
            let (part, after) = cut.ok_or_else(|| Error::new(Kind::Bug, "read into too small a buffer"))?;
            rest = after;
            match piece.content {
                Content::Zero => part.fill(0),
                Content::Stored(s) => stored.push((piece.extent, s, part)),
                Content::Lost => return Err(damaged("its index cannot be read")),
            }
        }
        stored.sort_unstable_by_key(|(extent, s, _)| (s.segment, s.offset, extent.offset));
        let mut rest = &mut stored[..];
        while let Some(together) = neighbours(rest.iter().map(|(_, s, _)| s)) {
            let (now, later) = rest.split_at_mut(together);
            self.read_group_into(now)?;
            rest = later;
        }
        Ok(())
    }

    /// One read for pieces of one segment; what is shown whole is decoded where it belongs.
    fn read_group_into(&self, pieces: &mut [(Extent, Stored, &mut [u8])]) -> Result<()> {
        let fetched = self.fetch(pieces.iter().map(|(_, s, _)| s))?;
        let mut bufs = Bufs::default();
        let mut decoded = None;
        for (extent, s, part) in pieces {
            let stored = fetched.stored(s);
            if s.frame.extent == *extent {
                self.verify_into(&fetched, s, &stored, &mut bufs.plain, part)?;
                continue;
            }
            if decoded != Some((s.offset, s.frame)) {
                self.verify(&fetched, s, &stored, &mut bufs)?;
                decoded = Some((s.offset, s.frame));
            }
            part.copy_from_slice(bufs.part(s, extent)?);
        }
        Ok(())
    }

    /// Reads and verifies one piece.
    ///
    /// # Errors
    /// As [`read_pieces`](Self::read_pieces); and a piece of zeros longer than a cell is refused.
    pub fn read_piece(&self, piece: &Piece) -> Result<Vec<u8>> {
        if piece.extent.length > CELL {
            return Err(Error::new(Kind::Usage, "read one piece: zeros longer than a cell"));
        }
        let mut content = Vec::new();
        self.read_pieces(std::slice::from_ref(piece), &mut |_, bytes| {
            content.extend_from_slice(bytes);
            Ok(())
        })?;
        Ok(content)
    }

    /// Reads and verifies whole frames of one segment, by offset, and hands out their stored bytes. How many bytes
    /// were read.
    ///
    /// # Errors
    /// As [`read_pieces`](Self::read_pieces).
    pub(super) fn read_frames(
        &self,
        frames: &[(Extent, Stored)],
        sink: &mut dyn FnMut(&Stored, Bytes) -> Result<()>,
    ) -> Result<u64> {
        let (mut rest, mut read, mut bufs) = (frames, 0, Bufs::default());
        while let Some(together) = neighbours(rest.iter().map(|(_, s)| s)) {
            let (now, later) = rest.split_at(together);
            let fetched = self.fetch(now.iter().map(|(_, s)| s))?;
            read += fetched.bytes.len() as u64;
            for (_, s) in now {
                let stored = fetched.stored(s);
                self.verify(&fetched, s, &stored, &mut bufs)?;
                sink(s, stored)?;
            }
            rest = later;
        }
        Ok(read)
    }

    /// One read for pieces of one segment.
    fn read_together(
        &self,
        pieces: &[(Extent, Stored)],
        sink: &mut dyn FnMut(Extent, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let fetched = self.fetch(pieces.iter().map(|(_, s)| s))?;
        let mut bufs = Bufs::default();
        let mut decoded = None;
        for (extent, s) in pieces {
            if decoded != Some((s.offset, s.frame)) {
                self.verify(&fetched, s, &fetched.stored(s), &mut bufs)?;
                decoded = Some((s.offset, s.frame));
            }
            sink(*extent, bufs.part(s, extent)?)?;
        }
        Ok(())
    }

    /// The stored bytes from the first to the last of the pieces, all of one segment.
    fn fetch<'a>(&self, mut pieces: impl Iterator<Item = &'a Stored>) -> Result<Fetched> {
        let first = pieces.next().ok_or_else(|| Error::new(Kind::Bug, "read no pieces"))?;
        let (key, start) = (keys::segment(first.segment), u64::from(first.offset));
        let end = pieces.map(end_of).fold(end_of(first), u64::max);
        failpoint("repo.read.data")?;
        let bytes = self.store().get_range(&key, start, end - start).map_err(lost)?;
        Ok(Fetched { key, start, bytes })
    }

    /// Decodes and verifies a frame.
    fn verify(&self, fetched: &Fetched, s: &Stored, stored: &[u8], bufs: &mut Bufs) -> Result<()> {
        bufs.raw.resize(s.frame.extent.length.min(CELL) as usize, 0);
        self.verify_into(fetched, s, stored, &mut bufs.plain, &mut bufs.raw)
    }

    /// The same, to where it belongs; after an error nothing there is of use.
    fn verify_into(
        &self,
        fetched: &Fetched,
        s: &Stored,
        stored: &[u8],
        plain: &mut Vec<u8>,
        raw: &mut [u8],
    ) -> Result<()> {
        let verified = self.decode(&s.frame, s.segment, stored, plain, raw);
        verified.map_err(|e| e.within(format!("read {} at byte {}", fetched.key, s.offset)))
    }

    /// A segment's own table of its frames.
    ///
    /// # Errors
    /// [`Kind::Damaged`], [`Kind::NotFound`].
    pub(super) fn segment_table(&self, segment: &SegmentRef) -> Result<SegmentTable> {
        let (key, store) = (keys::segment(segment.id), self.store());
        let last = segment.len.checked_sub(TRAILER_LEN as u64).ok_or_else(|| damaged("segment too short"))?;
        let trailer = store.get_range(&key, last, TRAILER_LEN as u64)?;
        let trailer = Trailer::decode(ObjectKind::Segment, &trailer, segment.len)?;
        let footer = store.get_range(&key, trailer.footer_at, trailer.footer_len)?;
        SegmentTable::decode_footer(self.keys().map(AsRef::as_ref), segment.id, &trailer, &footer)
    }
}

/// Stored bytes of a segment.
struct Fetched {
    key: String,
    start: u64,
    bytes: Bytes,
}

impl Fetched {
    /// Those of one frame.
    fn stored(&self, s: &Stored) -> Bytes {
        let at = (u64::from(s.offset) - self.start) as usize;
        let end = at + s.frame.stored_len as usize;
        if end <= self.bytes.len() { self.bytes.slice(at..end) } else { Bytes::new() }
    }
}

/// Used again from frame to frame.
#[derive(Default)]
struct Bufs {
    /// Content.
    raw: Vec<u8>,
    /// Stored bytes, no longer sealed.
    plain: Vec<u8>,
}

impl Bufs {
    /// The content of a piece of the frame that was decoded.
    fn part(&self, s: &Stored, extent: &Extent) -> Result<&[u8]> {
        let part = self.raw.get(s.skip as usize..).and_then(|raw| raw.get(..extent.length as usize));
        part.ok_or_else(|| Error::new(Kind::Bug, "piece reaches beyond its frame"))
    }
}

fn end_of(s: &Stored) -> u64 {
    u64::from(s.offset) + u64::from(s.frame.stored_len)
}

/// How many of the sorted pieces one read should fetch; `None` if there are none.
fn neighbours<'a>(mut pieces: impl Iterator<Item = &'a Stored>) -> Option<usize> {
    let first = pieces.next()?;
    let mut end = end_of(first);
    let near = pieces.take_while(|s| {
        let near = s.segment == first.segment
            && u64::from(s.offset) <= end + GAP
            && end_of(s) - u64::from(first.offset) <= READ;
        end = end.max(end_of(s));
        near
    });
    Some(1 + near.count())
}

fn hand_out_zeros(extent: Extent, sink: &mut dyn FnMut(Extent, &[u8]) -> Result<()>) -> Result<()> {
    let mut at = extent.offset;
    while at < extent.end() {
        let len = (extent.end() - at).min(CELL);
        sink(Extent::new(at, len), &ZEROS[..len as usize])?;
        at += len;
    }
    Ok(())
}
