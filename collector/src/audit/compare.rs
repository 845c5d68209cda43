//! A slice of the device against the pieces of a chain: by hash where a whole frame was read, else by its bytes.
//!
//! What must stay true: an area is called equal only if its bytes are proved to be what the point restores there;
//! what no piece covers is not compared. Pieces come as a stream, so slices must ascend until [`Comparison::restart`].

use crate::block::{BLOCK, Extent, ExtentSet};
use crate::chain::{Chain, Content, Piece, Pieces};
use crate::error::Result;
use crate::format::{CELL, FrameHash, PointId, is_zero};
use crate::repository::Repository;
use crate::source::{LiveDevice, Source};
use crate::sys::direct::AlignedBuf;
use std::iter::Peekable;

/// Bytes read of the device at once.
pub(super) const RUN: u64 = 1 << 20;

/// A chain, and how far its pieces were used.
pub(super) struct Comparison {
    chain: Chain,
    pieces: Peekable<Pieces>,
    /// A piece that may reach into the next slice.
    held: Vec<Piece>,
    buf: AlignedBuf,
    /// Bytes read of the device.
    pub(super) read: u64,
    /// Bytes read of the repository.
    pub(super) stored: u64,
}

impl Comparison {
    /// Compares with the top of `chain`.
    pub(super) fn with(chain: Chain) -> Result<Self> {
        let pieces = chain.pieces()?.peekable();
        Ok(Self { chain, pieces, held: Vec::new(), buf: AlignedBuf::new(RUN as usize), read: 0, stored: 0 })
    }

    /// Goes on with another chain.
    pub(super) fn restart(&mut self, chain: Chain) -> Result<()> {
        (self.pieces, self.held) = (chain.pieces()?.peekable(), Vec::new());
        self.chain = chain;
        Ok(())
    }

    /// The point.
    pub(super) fn point(&self) -> PointId {
        self.chain.top().point
    }

    /// How many bytes of `clean` the point holds, and which blocks of them differ.
    pub(super) fn compare(
        &mut self,
        clean: &ExtentSet,
        source: &LiveDevice,
        repo: &Repository,
    ) -> Result<(u64, ExtentSet)> {
        let pieces = self.pieces_on(clean)?;
        let covered: ExtentSet = pieces.iter().map(|p| p.extent).collect();
        let covered = covered.intersect(clean);
        let mut differs = Vec::new();
        let mut rest = &pieces[..];
        for run in covered.iter().flat_map(|e| runs(*e)) {
            source.read_at(run.offset, &mut self.buf, run.length as usize)?;
            self.read += run.length;
            let passed = rest.iter().take_while(|p| p.extent.end() <= run.offset).count();
            rest = &rest[passed..];
            for piece in rest.iter().take_while(|p| p.extent.offset < run.end()) {
                let Some(both) = piece.extent.intersect(&run) else { continue };
                let raw = &self.buf[(both.offset - run.offset) as usize..][..both.length as usize];
                self.stored += judge(piece, both, raw, repo, &mut differs)?;
            }
        }
        Ok((covered.total(), ExtentSet::from_unsorted(differs)))
    }

    /// The pieces that touch one of `extents`, by address.
    fn pieces_on(&mut self, extents: &ExtentSet) -> Result<Vec<Piece>> {
        let mut found = Vec::new();
        for extent in extents {
            self.held.retain(|piece| piece.extent.end() > extent.offset);
            while let Some(next) =
                self.pieces.next_if(|p| !matches!(p, Ok(p) if p.extent.offset >= extent.end()))
            {
                let piece = next?;
                if piece.extent.end() > extent.offset {
                    self.held.push(piece);
                }
            }
            let known = found.last().map_or(0, |p: &Piece| p.extent.end());
            let new = self.held.iter().filter(|p| p.extent.end() > known && p.extent.offset < extent.end());
            found.extend(new.copied());
        }
        Ok(found)
    }
}

/// An extent in runs of at most [`RUN`] bytes that end at cell boundaries, so that frames are read whole.
fn runs(extent: Extent) -> impl Iterator<Item = Extent> {
    let mut at = extent.offset;
    std::iter::from_fn(move || {
        let end = extent.end().min((at + RUN) / CELL * CELL);
        let run = Extent::between(at, end);
        at = end;
        (!run.is_empty()).then_some(run)
    })
}

/// Adds the blocks of `both` that differ from what `piece` holds there; the bytes read of the repository.
fn judge(
    piece: &Piece,
    both: Extent,
    raw: &[u8],
    repo: &Repository,
    differs: &mut Vec<Extent>,
) -> Result<u64> {
    let Content::Stored(stored) = piece.content else {
        if !is_zero(raw) {
            differing(both, raw.chunks(BLOCK as usize).map(|block| !is_zero(block)), differs);
        }
        return Ok(0);
    };
    if both == piece.extent && piece.whole_hash().is_some_and(|hash| hash == FrameHash::of(raw)) {
        return Ok(0);
    }
    let content = repo.read_piece(piece)?;
    let mine = content[(both.offset - piece.extent.offset) as usize..][..both.length as usize]
        .chunks(BLOCK as usize);
    differing(both, raw.chunks(BLOCK as usize).zip(mine).map(|(a, b)| a != b), differs);
    Ok(u64::from(stored.frame.stored_len))
}

/// Adds the blocks of `extent` that are not equal.
fn differing(extent: Extent, unequal: impl Iterator<Item = bool>, differs: &mut Vec<Extent>) {
    for (i, _) in unequal.enumerate().filter(|(_, unequal)| *unequal) {
        let start = extent.offset + i as u64 * BLOCK;
        differs.push(Extent::between(start, (start + BLOCK).min(extent.end())));
    }
}
