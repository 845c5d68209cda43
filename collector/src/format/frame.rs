//! Frames: a run of blocks of one 64 KiB cell, stored alone, checked by the hash of its content.
//!
//! Must stay true: whatever bytes come from a store, [`decode_frame`] gives the content that was encoded or
//! an error, never other bytes, and never takes more memory than a cell.

use super::{CELL, FrameHash, MAX_DEVICE, damaged};
use crate::block::{BLOCK, Extent};
use crate::error::{Error, Kind, Result};
use crate::seal::{FRAME_OVERHEAD, FrameKey, Session};
use bytes::Bytes;
use std::cell::RefCell;

/// How a frame's content is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codec {
    /// All zero: no bytes at all.
    Zero,
    /// As it is.
    Raw,
    /// One zstd frame.
    Zstd,
}

/// What the caller wishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Store content as it is (zeros are still not stored).
    None,
    /// zstd with this level (1 is the default of the product).
    Zstd(i32),
}

impl Default for Compression {
    fn default() -> Self {
        Self::Zstd(1)
    }
}

/// What an index knows about a frame, without its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameMeta {
    /// Where on the device its content belongs. At most a cell, except for [`Codec::Zero`].
    pub extent: Extent,
    /// How it is stored.
    pub codec: Codec,
    /// Stored bytes; 0 for [`Codec::Zero`].
    pub stored_len: u32,
    /// Hash of the content; zero for [`Codec::Zero`].
    pub hash: FrameHash,
}

/// A frame ready to be stored.
#[derive(Clone, Debug)]
pub struct EncodedFrame {
    /// What the index will say.
    pub meta: FrameMeta,
    /// The stored bytes.
    pub data: Bytes,
}

impl EncodedFrame {
    /// A frame of zeros of any length (whole blocks): no bytes are stored.
    pub fn zero(extent: Extent) -> Self {
        let meta = FrameMeta { extent, codec: Codec::Zero, stored_len: 0, hash: FrameHash::default() };
        Self { meta, data: Bytes::new() }
    }
}

impl EncodedFrame {
    /// The same, sealed; zeros stay what they are.
    ///
    /// # Errors
    /// [`Kind::Bug`] only.
    pub fn sealed(self, session: &Session) -> Result<Self> {
        if self.meta.codec == Codec::Zero {
            return Ok(self);
        }
        let data = session.seal(&self.meta.place(), &self.data)?;
        let meta = FrameMeta { stored_len: data.len() as u32, ..self.meta };
        Ok(Self { meta, data: data.into() })
    }

    /// The same, no longer sealed; its content is not decoded.
    ///
    /// # Errors
    /// [`Kind::Damaged`] if it was not sealed with `key` for this place.
    pub fn unsealed(self, key: &FrameKey) -> Result<Self> {
        let mut plain = Vec::new();
        let opened = key.open(&self.meta.place(), &self.data, &mut plain);
        let len = opened.map_err(|e| e.within(format!("frame at {}", self.meta.extent.offset)))?.len();
        plain.truncate(len);
        let meta = FrameMeta { stored_len: len as u32, ..self.meta };
        Ok(Self { meta, data: plain.into() })
    }
}

impl FrameMeta {
    /// What a sealed frame is bound to: its place on the device, and its codec.
    fn place(&self) -> [u8; 17] {
        let mut place = [0; 17];
        place[..8].copy_from_slice(&self.extent.offset.to_le_bytes());
        place[8..16].copy_from_slice(&self.extent.length.to_le_bytes());
        place[16] = match self.codec {
            Codec::Zero => 0,
            Codec::Raw => 1,
            Codec::Zstd => 2,
        };
        place
    }
}

thread_local! {
    static COMPRESSOR: RefCell<Option<(i32, zstd::bulk::Compressor<'static>)>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Encodes `raw`, the content of `extent`: Zero if all zero, Zstd if that saves at least a sixteenth, else Raw.
///
/// # Errors
/// [`Kind::Bug`] if `raw` is not the content of a run of blocks inside one cell.
pub fn encode_frame(extent: Extent, raw: &[u8], compression: Compression) -> Result<EncodedFrame> {
    if extent.length != raw.len() as u64 || !fits_cell(extent) {
        let what = format!("encode frame {extent:?} of {} bytes: not a run inside one cell", raw.len());
        return Err(Error::new(Kind::Bug, what));
    }
    if is_zero(raw) {
        return Ok(EncodedFrame::zero(extent));
    }
    let (codec, data) = match compression {
        Compression::Zstd(level) => match compress(level, raw)? {
            Some(small) => (Codec::Zstd, Bytes::from(small)),
            None => (Codec::Raw, Bytes::copy_from_slice(raw)),
        },
        Compression::None => (Codec::Raw, Bytes::copy_from_slice(raw)),
    };
    let meta = FrameMeta { extent, codec, stored_len: data.len() as u32, hash: FrameHash::of(raw) };
    Ok(EncodedFrame { meta, data })
}

/// Decodes a frame into `raw` (exactly `meta.extent.length` bytes) and verifies its content.
///
/// # Errors
/// [`Kind::Damaged`] if the stored bytes are not what was encoded.
pub fn decode_frame(meta: &FrameMeta, stored: &[u8], raw: &mut [u8]) -> Result<()> {
    if raw.len() as u64 != meta.extent.length {
        return Err(Error::new(Kind::Bug, "decode frame: buffer does not have the frame's length"));
    }
    if stored.len() != meta.stored_len as usize {
        return Err(damaged(format!("frame at {}: wrong stored length", meta.extent.offset)));
    }
    match meta.codec {
        Codec::Zero => {
            raw.fill(0);
            return Ok(());
        }
        _ if raw.len() as u64 > CELL => return Err(damaged("frame longer than a cell")),
        Codec::Raw if stored.len() != raw.len() => return Err(damaged("raw frame of another length")),
        Codec::Raw => raw.copy_from_slice(stored),
        Codec::Zstd => decompress(stored, raw)?,
    }
    if FrameHash::of(raw) != meta.hash {
        let what = format!("frame at {}: its content is not what was written (hash)", meta.extent.offset);
        return Err(damaged(what));
    }
    Ok(())
}

/// As [`decode_frame`], of a sealed frame; `buf` is used again.
///
/// # Errors
/// [`Kind::Damaged`] if the stored bytes were not sealed with `key` for this place, or are not what was encoded.
pub fn open_frame(
    meta: &FrameMeta,
    stored: &[u8],
    key: &FrameKey,
    buf: &mut Vec<u8>,
    raw: &mut [u8],
) -> Result<()> {
    if stored.len() != meta.stored_len as usize || stored.len() < FRAME_OVERHEAD {
        return Err(damaged(format!("frame at {}: wrong stored length", meta.extent.offset)));
    }
    let what = || format!("frame at {}", meta.extent.offset);
    let plain = key.open(&meta.place(), stored, buf).map_err(|e| e.within(what()))?;
    decode_frame(&FrameMeta { stored_len: plain.len() as u32, ..*meta }, plain, raw)
}

/// A run of whole blocks (the last may be cut at the device's end) inside one cell, not empty.
pub fn fits_cell(extent: Extent) -> bool {
    let last = extent.offset.checked_add(extent.length).and_then(|end| end.checked_sub(1));
    extent.length > 0
        && extent.end() <= MAX_DEVICE
        && extent.offset.is_multiple_of(BLOCK)
        && last.is_some_and(|last| last / CELL == extent.offset / CELL)
}

/// All bytes zero.
pub fn is_zero(raw: &[u8]) -> bool {
    // compared with itself shifted by one: one memcmp, the fastest safe way
    match raw {
        [] => true,
        [first, rest @ ..] => *first == 0 && *rest == raw[..rest.len()],
    }
}

/// The compressed bytes if they save at least a sixteenth.
fn compress(level: i32, raw: &[u8]) -> Result<Option<Vec<u8>>> {
    COMPRESSOR.with_borrow_mut(|slot| {
        let failed = |e| Error::os("set up zstd", e);
        if !matches!(slot, Some((l, _)) if *l == level) {
            *slot = Some((level, zstd::bulk::Compressor::new(level).map_err(failed)?));
        }
        let Some((_, compressor)) = slot else { return Err(Error::new(Kind::Bug, "no compressor")) };
        let mut small = vec![0; raw.len() - raw.len() / 16];
        // an error here means: did not fit, so it does not save enough
        Ok(compressor.compress_to_buffer(raw, &mut small[..]).ok().map(|len| {
            small.truncate(len);
            small.shrink_to_fit();
            small
        }))
    })
}

fn decompress(stored: &[u8], raw: &mut [u8]) -> Result<()> {
    DECOMPRESSOR.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = Some(zstd::bulk::Decompressor::new().map_err(|e| Error::os("set up zstd", e))?);
        }
        let Some(decompressor) = slot else { return Err(Error::new(Kind::Bug, "no decompressor")) };
        let len = raw.len();
        match decompressor.decompress_to_buffer(stored, raw) {
            Ok(got) if got == len => Ok(()),
            Ok(_) => Err(damaged("compressed frame has another length than the index says")),
            Err(e) => Err(Error::caused(Kind::Damaged, "decompress frame", e)),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn content_survives(blocks in 1usize..=16, kind in 0u8..3, seed: u64, flip: u32) {
            let raw: Vec<u8> = (0..blocks * 4096).map(|i| match kind {
                0 => 0,
                1 => (i / 700) as u8,
                _ => (FrameHash::of(&(seed + i as u64).to_le_bytes()).0) as u8,
            }).collect();
            let frame = encode_frame(Extent::new(CELL * 7, raw.len() as u64), &raw, Compression::default()).unwrap();
            prop_assert_eq!(frame.meta.codec == Codec::Zero, is_zero(&raw));
            let mut back = vec![1; raw.len()];
            decode_frame(&frame.meta, &frame.data, &mut back).unwrap();
            prop_assert_eq!(&back, &raw);
            if !frame.data.is_empty() {
                let mut bad = frame.data.to_vec();
                let bit = flip as usize % (bad.len() * 8);
                bad[bit / 8] ^= 1 << (bit % 8);
                match decode_frame(&frame.meta, &bad, &mut back) {
                    Ok(()) => prop_assert_eq!(&back, &raw),
                    Err(e) => prop_assert_eq!(e.kind(), Kind::Damaged),
                }
                prop_assert!(decode_frame(&frame.meta, &bad[1..], &mut back).is_err());
            }
        }
    }

    #[test]
    fn a_frame_stays_in_its_cell() {
        assert!(fits_cell(Extent::new(4096, CELL - 4096)) && fits_cell(Extent::new(CELL, 512)));
        for bad in [
            Extent::new(4096, CELL),
            Extent::new(512, 512),
            Extent::new(0, 0),
            Extent::new(u64::MAX - 4095, 4096),
        ] {
            assert!(!fits_cell(bad), "{bad:?}");
        }
        assert!(encode_frame(Extent::new(0, 8192), &[0; 4096], Compression::None).is_err());
        assert!(is_zero(&[]) && is_zero(&[0]) && !is_zero(&[1]) && !is_zero(&[0, 1]) && is_zero(&[0; 9]));
    }
}
