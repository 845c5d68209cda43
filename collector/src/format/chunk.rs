//! Pieces, and runs of up to 16 Ki of them as columns: the body of an index, the frame table of a segment.
//!
//! ```text
//!   zstd( kinds[n] gaps[n] lengths[n] | of stored pieces only: skip[] tail[] segment[] offset[] stored[] hash[] )
//! ```
//! A gap is counted from the end of the piece before (from 0 for the first), a segment number from the piece
//! before, an offset from the end of the stored bytes of the piece before: neighbours cost a byte or none.

use super::frame::with_decompressor;
use super::varint::{Reader, put_signed, put_signed_unit, put_unit, put_varint};
use super::{Codec, FrameHash, FrameMeta, MAX_DEVICE, MAX_SEGMENT, MAX_STORED, damaged, fits_cell};
use crate::block::Extent;
use crate::error::{Error, Kind, Result};

/// The most pieces in a chunk.
pub const PIECES_PER_CHUNK: usize = 16 * 1024;

/// The most bytes a piece takes before compression (a kind, six numbers of at most ten bytes, a hash: 77).
const PIECE_MAX: usize = 80;

/// The most bytes a chunk has, packed or not.
pub const MAX_CHUNK: usize = PIECES_PER_CHUNK * PIECE_MAX;

/// Where the stored bytes of a frame lie, and which part of it a piece shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameRef {
    /// Number of the segment in the index's segment table.
    pub segment: u32,
    /// First stored byte inside the segment.
    pub offset: u32,
    /// Stored bytes.
    pub stored_len: u32,
    /// How it is stored; never [`Codec::Zero`].
    pub codec: Codec,
    /// Bytes of the whole frame's content.
    pub frame_len: u32,
    /// Bytes of the frame's content before the piece.
    pub skip: u32,
    /// Hash of the whole frame's content.
    pub hash: FrameHash,
}

/// What a piece shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PieceContent {
    /// Zeros.
    Zero,
    /// A part of a frame, or all of it.
    Stored(FrameRef),
}

/// A run of bytes of the device and where its content is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where on the device.
    pub extent: Extent,
    /// What is there.
    pub content: PieceContent,
}

impl Piece {
    /// The whole of a frame stored at `offset` of segment number `segment`.
    pub fn whole(meta: &FrameMeta, segment: u32, offset: u32) -> Self {
        let content = match meta.codec {
            Codec::Zero => PieceContent::Zero,
            codec => PieceContent::Stored(FrameRef {
                segment,
                offset,
                stored_len: meta.stored_len,
                codec,
                frame_len: meta.extent.length as u32,
                skip: 0,
                hash: meta.hash,
            }),
        };
        Self { extent: meta.extent, content }
    }

    /// The part of this piece inside `part`, which must lie inside it.
    #[must_use]
    pub fn cut(&self, part: Extent) -> Self {
        let mut piece = Self { extent: part, ..*self };
        if let PieceContent::Stored(frame) = &mut piece.content {
            frame.skip += (part.offset - self.extent.offset) as u32;
        }
        piece
    }

    /// The whole frame this piece is a part of.
    pub fn frame(&self) -> FrameMeta {
        match self.content {
            PieceContent::Zero => FrameMeta {
                extent: self.extent,
                codec: Codec::Zero,
                stored_len: 0,
                hash: FrameHash::default(),
            },
            PieceContent::Stored(f) => FrameMeta {
                extent: Extent::new(self.extent.offset - u64::from(f.skip), u64::from(f.frame_len)),
                codec: f.codec,
                stored_len: f.stored_len,
                hash: f.hash,
            },
        }
    }

    /// Everything about the piece is possible.
    fn check(&self) -> Result<()> {
        if self.extent.is_empty() || self.extent.end() > MAX_DEVICE {
            return Err(damaged("piece beyond the largest device"));
        }
        let PieceContent::Stored(f) = self.content else { return Ok(()) };
        let inside = u64::from(f.skip) + self.extent.length <= u64::from(f.frame_len);
        let stored = f.stored_len > 0 && u64::from(f.stored_len) <= MAX_STORED;
        let placed = u64::from(f.offset) + u64::from(f.stored_len) <= MAX_SEGMENT;
        if !inside
            || !stored
            || !placed
            || u64::from(f.skip) > self.extent.offset
            || !fits_cell(self.frame().extent)
        {
            return Err(damaged(format!("piece at {}: impossible frame", self.extent.offset)));
        }
        Ok(())
    }
}

/// Encodes pieces; their order is kept (an index has them sorted, a frame table as they were stored).
///
/// # Errors
/// [`Kind::Bug`] for more pieces than a chunk holds or an impossible piece.
pub fn encode_chunk(pieces: &[Piece]) -> Result<Vec<u8>> {
    if pieces.len() > PIECES_PER_CHUNK {
        return Err(Error::new(Kind::Bug, "encode chunk: too many pieces"));
    }
    for piece in pieces {
        piece.check().map_err(|e| Error::caused(Kind::Bug, "encode chunk", e))?;
    }
    let mut out = Vec::with_capacity(pieces.len() * 32);
    out.extend(pieces.iter().map(kind_byte));
    let mut at = 0i64;
    for piece in pieces {
        put_signed_unit(&mut out, piece.extent.offset as i64 - at);
        at = piece.extent.end() as i64;
    }
    pieces.iter().for_each(|p| put_unit(&mut out, p.extent.length));
    let stored = || pieces.iter().filter_map(|p| frame_of(p).map(|f| (p, f)));
    stored().for_each(|(_, f)| put_unit(&mut out, u64::from(f.skip)));
    stored().for_each(|(p, f)| put_unit(&mut out, u64::from(f.frame_len - f.skip) - p.extent.length));
    let (mut segment, mut next) = (0, 0);
    for (_, f) in stored() {
        put_signed(&mut out, i64::from(f.segment) - segment);
        segment = i64::from(f.segment);
    }
    for (_, f) in stored() {
        put_signed(&mut out, i64::from(f.offset) - next);
        next = i64::from(f.offset) + i64::from(f.stored_len);
    }
    stored().for_each(|(_, f)| put_varint(&mut out, u64::from(f.stored_len)));
    stored().for_each(|(_, f)| out.extend_from_slice(&f.hash.0.to_be_bytes()));
    zstd::bulk::compress(&out, 1).map_err(|e| Error::os("compress chunk of an index", e))
}

fn frame_of(piece: &Piece) -> Option<FrameRef> {
    match piece.content {
        PieceContent::Zero => None,
        PieceContent::Stored(frame) => Some(frame),
    }
}

fn kind_byte(piece: &Piece) -> u8 {
    match frame_of(piece).map(|f| f.codec) {
        None | Some(Codec::Zero) => 0,
        Some(Codec::Raw) => 1,
        Some(Codec::Zstd) => 2,
    }
}

/// Decodes a chunk of `count` pieces.
///
/// # Errors
/// [`Kind::Damaged`] for anything that [`encode_chunk`] does not write.
pub fn decode_chunk(bytes: &[u8], count: usize) -> Result<Vec<Piece>> {
    if count > PIECES_PER_CHUNK {
        return Err(damaged("chunk with too many pieces"));
    }
    let raw = with_decompressor(|decompressor| decompressor.decompress(bytes, count * PIECE_MAX))?
        .map_err(|e| Error::caused(Kind::Damaged, "decompress chunk of an index", e))?;
    let mut r = Reader::new(&raw);
    let kinds = r.take(count)?;
    let extents = decode_extents(&mut r, count)?;
    let stored = kinds.iter().filter(|&&k| k != 0).count();
    let mut frames = decode_frames(&mut r, stored)?.into_iter();
    r.end()?;
    let mut pieces = Vec::with_capacity(count);
    for (&kind, extent) in kinds.iter().zip(extents) {
        let content = match kind {
            0 => PieceContent::Zero,
            1 | 2 => {
                let mut frame = frames.next().ok_or_else(|| damaged("chunk with too few frames"))?;
                frame.codec = if kind == 1 { Codec::Raw } else { Codec::Zstd };
                let tail = u64::from(frame.frame_len);
                let len = u64::from(frame.skip).saturating_add(extent.length).saturating_add(tail);
                frame.frame_len = narrow(len)?;
                PieceContent::Stored(frame)
            }
            _ => return Err(damaged(format!("unknown codec {kind}"))),
        };
        let piece = Piece { extent, content };
        piece.check()?;
        pieces.push(piece);
    }
    Ok(pieces)
}

fn decode_extents(r: &mut Reader<'_>, count: usize) -> Result<Vec<Extent>> {
    let gaps: Vec<i64> = (0..count).map(|_| r.signed_unit()).collect::<Result<_>>()?;
    let mut at = 0u64;
    let place = |gap: i64| {
        let length = r.unit()?;
        let offset = at.checked_add_signed(gap).filter(|o| *o <= MAX_DEVICE);
        let extent = offset.filter(|_| length <= MAX_DEVICE).map(|offset| Extent::new(offset, length));
        at = extent.map_or(0, |e| e.end());
        extent.ok_or_else(|| damaged("piece beyond the largest device"))
    };
    gaps.into_iter().map(place).collect()
}

/// The stored pieces' columns; codec is still open, and `frame_len` holds only what follows the piece.
fn decode_frames(r: &mut Reader<'_>, stored: usize) -> Result<Vec<FrameRef>> {
    let blank = FrameRef {
        segment: 0,
        offset: 0,
        stored_len: 0,
        codec: Codec::Raw,
        frame_len: 0,
        skip: 0,
        hash: FrameHash::default(),
    };
    let mut frames = vec![blank; stored];
    for f in &mut frames {
        f.skip = narrow(r.unit()?)?;
    }
    for f in &mut frames {
        f.frame_len = narrow(r.unit()?)?;
    }
    let mut segment = 0u32;
    for f in &mut frames {
        segment = step(u64::from(segment), r.signed()?)?;
        f.segment = segment;
    }
    let distances: Vec<i64> = (0..stored).map(|_| r.signed()).collect::<Result<_>>()?;
    let mut next = 0u64;
    for (f, distance) in frames.iter_mut().zip(distances) {
        f.stored_len = narrow(r.varint()?)?;
        f.offset = step(next, distance)?;
        next = u64::from(f.offset) + u64::from(f.stored_len);
    }
    for f in &mut frames {
        f.hash = FrameHash(u128::from_be_bytes(r.array()?));
    }
    Ok(frames)
}

fn narrow(value: u64) -> Result<u32> {
    u32::try_from(value).map_err(|_| damaged("number beyond 32 bits"))
}

fn step(from: u64, by: i64) -> Result<u32> {
    from.checked_add_signed(by).ok_or_else(|| damaged("number below zero")).and_then(narrow)
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::CELL;
    use super::*;
    use proptest::prelude::*;

    /// Any list of possible pieces, sorted and apart.
    pub fn pieces(max: usize) -> impl Strategy<Value = Vec<Piece>> {
        let one = (0u64..40, 0u64..16, 1u64..=16, any::<(u128, u32, bool, bool)>(), 0u64..16, 1u32..65536);
        prop::collection::vec(one, 0..max).prop_map(|list| {
            let mut cell = 0;
            list.into_iter()
                .map(|(gap, first, len, (hash, at, zero, raw), shown, stored_len)| {
                    cell += gap + 1;
                    let len = len.min(16 - first);
                    let skip = shown.min(len - 1);
                    let extent = Extent::new(cell * CELL + (first + skip) * 4096, (len - skip) * 4096);
                    let frame = FrameRef {
                        segment: at % 5,
                        offset: at % (MAX_SEGMENT as u32 - 65536),
                        stored_len,
                        codec: if raw { Codec::Raw } else { Codec::Zstd },
                        frame_len: (len * 4096) as u32,
                        skip: (skip * 4096) as u32,
                        hash: FrameHash(hash),
                    };
                    Piece {
                        extent,
                        content: if zero { PieceContent::Zero } else { PieceContent::Stored(frame) },
                    }
                })
                .collect()
        })
    }

    proptest! {
        #[test]
        fn pieces_survive(pieces in pieces(200)) {
            let bytes = encode_chunk(&pieces).unwrap();
            prop_assert_eq!(&decode_chunk(&bytes, pieces.len()).unwrap(), &pieces);
            prop_assert!(decode_chunk(&bytes, pieces.len() + 1).is_err());
        }

        #[test]
        fn any_columns_are_read_or_refused(raw in prop::collection::vec(any::<u8>(), 0..300), count in 0usize..20) {
            let _ = decode_chunk(&zstd::bulk::compress(&raw, 1).unwrap(), count);
            let _ = decode_chunk(&raw, count);
        }
    }

    #[test]
    fn a_bomb_is_not_unpacked() {
        let bomb = zstd::bulk::compress(&vec![0; MAX_CHUNK * 20], 1).unwrap();
        assert!(decode_chunk(&bomb, PIECES_PER_CHUNK).is_err());
        assert!(decode_chunk(&[], usize::MAX).is_err());
    }
}
