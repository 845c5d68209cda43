//! Laying one sorted list of pieces over another: what is above hides what is below, byte for byte.

use crate::block::Extent;
use crate::error::Result;
use crate::format::{CELL, Codec, FrameHash, FrameRef, Piece, PieceContent};

/// Sorted, non-overlapping pieces.
pub(crate) type PieceStream = Box<dyn Iterator<Item = Result<Piece>> + Send>;

/// The segment that pieces name of which nothing is known: in no segment table, and never stored.
const LOST: u32 = u32::MAX;

/// Pieces for a stretch in which a layer's own cannot be read: they hide what is below, which is older.
pub(crate) fn lost_pieces(stretch: Extent) -> impl Iterator<Item = Piece> + Send {
    let mut at = stretch.offset;
    std::iter::from_fn(move || {
        let extent = Extent::between(at, stretch.end().min((at / CELL + 1) * CELL));
        at = extent.end();
        let hash = FrameHash::default();
        let (frame_len, codec) = (extent.length as u32, Codec::Raw);
        let frame = FrameRef { segment: LOST, offset: 0, stored_len: 1, codec, frame_len, skip: 0, hash };
        (!extent.is_empty()).then_some(Piece { extent, content: PieceContent::Stored(frame) })
    })
}

/// It is one of [`lost_pieces`], or a part of one.
pub(crate) fn is_lost(piece: &Piece) -> bool {
    matches!(piece.content, PieceContent::Stored(frame) if frame.segment == LOST)
}

/// All of `layers` seen from above; the first is on top. The tree is balanced: a piece passes log2(n) steps.
pub(crate) fn stack(mut layers: Vec<PieceStream>) -> PieceStream {
    while layers.len() > 1 {
        let mut pairs = Vec::with_capacity(layers.len().div_ceil(2));
        let mut rest = layers.into_iter();
        while let Some(upper) = rest.next() {
            pairs.push(match rest.next() {
                Some(lower) => Box::new(Overlay::new(upper, lower)),
                None => upper,
            });
        }
        layers = pairs;
    }
    layers.pop().unwrap_or_else(|| Box::new(std::iter::empty()))
}

/// Two layers seen from above.
struct Overlay {
    upper: Layer,
    lower: Layer,
    failed: bool,
}

/// A stream and its front piece.
struct Layer {
    stream: PieceStream,
    front: Option<Piece>,
}

impl Layer {
    fn fill(&mut self) -> Result<()> {
        if self.front.is_none() {
            self.front = self.stream.next().transpose()?;
        }
        Ok(())
    }
}

impl Overlay {
    fn new(upper: PieceStream, lower: PieceStream) -> Self {
        let layer = |stream| Layer { stream, front: None };
        Self { upper: layer(upper), lower: layer(lower), failed: false }
    }

    fn step(&mut self) -> Result<Option<Piece>> {
        loop {
            self.upper.fill()?;
            self.lower.fill()?;
            let (Some(u), Some(l)) = (self.upper.front, self.lower.front) else {
                return Ok(self.upper.front.take().or_else(|| self.lower.front.take()));
            };
            let (above, below) = (u.extent, l.extent);
            if below.end() <= above.offset {
                return Ok(self.lower.front.take());
            }
            if above.end() <= below.offset {
                return Ok(self.upper.front.take());
            }
            if below.offset < above.offset {
                self.lower.front = Some(l.cut(Extent::between(above.offset, below.end())));
                return Ok(Some(l.cut(Extent::between(below.offset, above.offset))));
            }
            let seen = Extent::between(above.end(), below.end());
            self.lower.front = (!seen.is_empty()).then(|| l.cut(seen));
        }
    }
}

impl Iterator for Overlay {
    type Item = Result<Piece>;

    fn next(&mut self) -> Option<Result<Piece>> {
        if self.failed {
            return None;
        }
        let step = self.step();
        self.failed = step.is_err();
        step.transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{CELL, Codec, FrameHash, FrameMeta, PieceContent};
    use proptest::prelude::*;

    const BLOCKS: usize = 96;

    /// Sorted runs of blocks as (first, blocks, zero), each inside one cell of 16.
    fn layer() -> impl Strategy<Value = Vec<(usize, usize, bool)>> {
        prop::collection::vec((0usize..6, 1usize..=16, any::<bool>()), 0..12).prop_map(|runs| {
            let mut at = 0;
            let mut out = Vec::new();
            for (gap, len, zero) in runs {
                let first = at + gap;
                let len = len.min(16 - first % 16).min(BLOCKS.saturating_sub(first));
                if len > 0 {
                    out.push((first, len, zero));
                }
                at = first + len;
            }
            out
        })
    }

    proptest! {
        #[test]
        fn agrees_with_writing_blocks_over_each_other(layers in prop::collection::vec(layer(), 0..7)) {
            let mut naive = [None; BLOCKS];
            let mut streams: Vec<PieceStream> = Vec::new();
            // the first layer is on top, so the naive model is written from the last
            for (n, layer) in layers.iter().enumerate().rev() {
                for &(first, len, zero) in layer {
                    for (i, block) in naive.iter_mut().enumerate().skip(first).take(len) {
                        *block = Some(if zero { (u32::MAX, 0, 0) } else { (n as u32, first as u32, i - first) });
                    }
                }
            }
            for (n, layer) in layers.iter().enumerate() {
                let pieces: Vec<_> = layer.iter().map(|&(first, len, zero)| {
                    let extent = Extent::new(first as u64 * 4096, len as u64 * 4096);
                    let codec = if zero { Codec::Zero } else { Codec::Raw };
                    let meta = FrameMeta { extent, codec, stored_len: 1, hash: FrameHash(0) };
                    Ok(Piece::whole(&meta, n as u32, first as u32))
                }).collect();
                streams.push(Box::new(pieces.into_iter()));
            }
            let mut got = [None; BLOCKS];
            let mut end = 0;
            for piece in stack(streams) {
                let piece = piece.unwrap();
                prop_assert!(piece.extent.offset >= end && !piece.extent.is_empty());
                prop_assert!(piece.content == PieceContent::Zero || piece.frame().extent.length <= CELL);
                end = piece.extent.end();
                for b in 0..(piece.extent.length / 4096) as usize {
                    got[(piece.extent.offset / 4096) as usize + b] = Some(match piece.content {
                        PieceContent::Zero => (u32::MAX, 0, 0),
                        PieceContent::Stored(f) => (f.segment, f.offset, (f.skip / 4096) as usize + b),
                    });
                }
            }
            prop_assert_eq!(got, naive);
        }
    }
}
