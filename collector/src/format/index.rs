//! An index's footer: the segments its pieces name, and where its chunks lie.
//!
//! ```text
//!   header 64 | chunk 0 | chunk 1 | ... | n u64, m u64, n segments of 56, m chunks of 56 | trailer 56
//! ```

use super::varint::Reader;
use super::{Blake3, HEADER_LEN, MAX_DEVICE, MAX_SEGMENT, PIECES_PER_CHUNK, SegmentId, Trailer, damaged};
use crate::block::Extent;
use crate::error::{Error, Kind, Result};

/// Bytes of a segment's record in the footer.
pub const SEGMENT_ENTRY_LEN: usize = 56;

/// Bytes of a chunk's record in the footer.
pub const INDEX_ENTRY_LEN: usize = 56;

/// The longest footer that is read: 38 million entries, a pebibyte of segments. A file that is all holes may be of any length.
pub const MAX_INDEX_FOOTER: u64 = 1 << 31;

/// A segment that pieces of an index name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentRef {
    /// Its name.
    pub id: SegmentId,
    /// Its length in bytes.
    pub len: u64,
    /// Hash of all its bytes.
    pub hash: Blake3,
}

/// Where a chunk lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkEntry {
    /// From the first piece's beginning to the last piece's end.
    pub extent: Extent,
    /// First byte in the index.
    pub at: u64,
    /// Stored bytes.
    pub len: u32,
    /// Pieces in it.
    pub pieces: u32,
    /// XXH3-128 of the stored bytes.
    pub hash: u128,
}

impl ChunkEntry {
    /// `bytes` are the chunk's.
    ///
    /// # Errors
    /// [`Kind::Damaged`] if not.
    pub fn check(&self, bytes: &[u8]) -> Result<()> {
        if bytes.len() != self.len as usize || xxhash_rust::xxh3::xxh3_128(bytes) != self.hash {
            return Err(damaged(format!("chunk of the index at {}: wrong checksum", self.at)));
        }
        Ok(())
    }
}

/// An index's footer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IndexFooter {
    /// The segment with number 0, 1, …
    pub segments: Vec<SegmentRef>,
    /// The chunks, by address.
    pub chunks: Vec<ChunkEntry>,
}

impl IndexFooter {
    /// The bytes.
    ///
    /// # Errors
    /// [`Kind::Unsupported`] beyond [`MAX_INDEX_FOOTER`].
    pub fn encode(&self) -> Result<Vec<u8>> {
        let len = 16 + 56 * (self.segments.len() + self.chunks.len());
        // sealed it is a little longer
        if len as u64 > MAX_INDEX_FOOTER - 64 {
            return Err(Error::new(Kind::Unsupported, format!("index with a footer of {len} bytes")));
        }
        let mut out = Vec::with_capacity(len);
        out.extend_from_slice(&(self.segments.len() as u64).to_le_bytes());
        out.extend_from_slice(&(self.chunks.len() as u64).to_le_bytes());
        for s in &self.segments {
            out.extend_from_slice(&s.id.to_bytes());
            out.extend_from_slice(&s.len.to_le_bytes());
            out.extend_from_slice(&s.hash.0);
        }
        for c in &self.chunks {
            out.extend_from_slice(&c.extent.offset.to_le_bytes());
            out.extend_from_slice(&c.extent.length.to_le_bytes());
            out.extend_from_slice(&c.at.to_le_bytes());
            out.extend_from_slice(&c.len.to_le_bytes());
            out.extend_from_slice(&c.pieces.to_le_bytes());
            out.extend_from_slice(&[0; 8]);
            out.extend_from_slice(&c.hash.to_be_bytes());
        }
        Ok(out)
    }

    /// Checks and reads the footer.
    ///
    /// # Errors
    /// [`Kind::Damaged`].
    pub fn decode(trailer: &Trailer, bytes: &[u8]) -> Result<Self> {
        trailer.check(bytes)?;
        Self::decode_plain(trailer, bytes)
    }

    /// The same for bytes that were unsealed: the trailer's hash is of the sealed ones.
    ///
    /// # Errors
    /// [`Kind::Damaged`].
    pub fn decode_plain(trailer: &Trailer, bytes: &[u8]) -> Result<Self> {
        let mut r = Reader::new(bytes);
        let (segments, chunks) = (r.u64()?, r.u64()?);
        // both counts must fit the bytes that are there: nothing is allocated on their word alone
        let records = segments.checked_add(chunks).and_then(|n| n.checked_mul(56));
        if records.and_then(|n| n.checked_add(16)) != Some(bytes.len() as u64) || chunks != trailer.count {
            return Err(damaged("footer of the index: its counts do not fit its length"));
        }
        let segments = (0..segments).map(|_| segment(&mut r)).collect::<Result<_>>()?;
        let chunks: Vec<ChunkEntry> = (0..chunks).map(|_| chunk(&mut r)).collect::<Result<_>>()?;
        r.end()?;
        let (mut at, mut end) = (HEADER_LEN as u64, 0);
        for c in &chunks {
            if c.at != at || c.extent.offset < end {
                return Err(damaged("footer of the index: chunks overlap or are out of order"));
            }
            at += u64::from(c.len);
            end = c.extent.end();
        }
        if at != trailer.footer_at {
            return Err(damaged("footer of the index: bytes that no chunk owns"));
        }
        Ok(Self { segments, chunks })
    }
}

fn segment(r: &mut Reader<'_>) -> Result<SegmentRef> {
    let segment =
        SegmentRef { id: SegmentId::from_bytes(r.array()?), len: r.u64()?, hash: Blake3(r.array()?) };
    if segment.len > MAX_SEGMENT {
        return Err(damaged("footer of the index: segment too long"));
    }
    Ok(segment)
}

fn chunk(r: &mut Reader<'_>) -> Result<ChunkEntry> {
    let (offset, length, at, len, pieces) = (r.u64()?, r.u64()?, r.u64()?, r.u32()?, r.u32()?);
    let reserved = r.u64()?;
    let hash = u128::from_be_bytes(r.array()?);
    let sane = offset <= MAX_DEVICE && (1..=MAX_DEVICE).contains(&length) && reserved == 0;
    let few = (1..=PIECES_PER_CHUNK).contains(&(pieces as usize)) && len as usize <= super::MAX_CHUNK;
    if !sane || !few {
        return Err(damaged("footer of the index: impossible chunk"));
    }
    Ok(ChunkEntry { extent: Extent::new(offset, length), at, len, pieces, hash })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn footers_survive(lens in prop::collection::vec((1u32..9999, 1u32..=16384, 0u64..99, any::<u128>()), 0..20), n in 0u64..9, flip: usize) {
            let mut footer = IndexFooter::default();
            for i in 0..n {
                let id = SegmentId::generate();
                footer.segments.push(SegmentRef { id, len: i * 1000, hash: Blake3::of(&id.to_bytes()) });
            }
            let (mut at, mut end) = (HEADER_LEN as u64, 0);
            for (len, pieces, gap, hash) in lens {
                let extent = Extent::new(end + gap * 4096, 8192);
                footer.chunks.push(ChunkEntry { extent, at, len, pieces, hash });
                (at, end) = (at + u64::from(len), extent.end());
            }
            let bytes = footer.encode().unwrap();
            let trailer = Trailer::of(at, &bytes, footer.chunks.len() as u64);
            prop_assert_eq!(&IndexFooter::decode(&trailer, &bytes).unwrap(), &footer);
            let mut bad = bytes.clone();
            bad[flip / 8 % bytes.len()] ^= 1 << (flip % 8);
            prop_assert!(IndexFooter::decode(&trailer, &bad).is_err());
            // also with a hash that fits: whatever is read must not panic
            let _ = IndexFooter::decode(&Trailer::of(at, &bad, trailer.count), &bad);
        }
    }
}
