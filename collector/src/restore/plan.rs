//! Cuts a point's pieces into work: the stored ones in batches, and the zeros between them.
//!
//! What must stay true: the work covers every byte of the point exactly once, in ascending order; the content of
//! one work fits in one buffer.

use crate::block::{Extent, ExtentSet};
use crate::chain::{Content, Piece};
use crate::error::{Error, Kind, Result};
use std::iter::Peekable;

/// Content of a work at most.
pub(super) const BATCH: u64 = 4 << 20;
/// Pieces of a work at most.
const PIECES: usize = 1024;

/// What a worker does in one go.
#[derive(Default)]
pub(super) struct Work {
    /// Stored pieces, ascending.
    pub(super) pieces: Vec<Piece>,
    /// Their lengths.
    pub(super) content: u64,
    /// What is zero.
    pub(super) zeros: ExtentSet,
    /// Of which nothing is known.
    pub(super) lost: ExtentSet,
}

/// The work still to be handed out.
pub(super) struct Plan<I: Iterator<Item = Result<Piece>>> {
    pieces: Peekable<I>,
    at: u64,
    end: u64,
}

impl<I: Iterator<Item = Result<Piece>>> Plan<I> {
    /// Of what a point holds in `range`, to which its pieces are cut.
    pub(super) fn new(pieces: I, range: Extent) -> Self {
        Self { pieces: pieces.peekable(), at: range.offset, end: range.end() }
    }

    /// The next work.
    pub(super) fn next(&mut self) -> Result<Option<Work>> {
        let mut work = Work::default();
        while work.pieces.len() + work.zeros.len() + work.lost.len() < PIECES {
            match self.pieces.next_if(|p| p.as_ref().map_or(true, |p| work.has_room_for(p))) {
                Some(piece) => self.take(piece?, &mut work)?,
                None if self.pieces.peek().is_some() => break,
                None => {
                    work.zeros.push(Extent::between(self.at, self.end));
                    self.at = self.end;
                    break;
                }
            }
        }
        let something = !work.pieces.is_empty() || !work.zeros.is_empty() || !work.lost.is_empty();
        Ok(something.then_some(work))
    }

    fn take(&mut self, piece: Piece, work: &mut Work) -> Result<()> {
        let Piece { extent, content } = piece;
        if extent.offset < self.at || extent.end() > self.end || content_len(&piece) > BATCH {
            let text = format!("piece {extent:?} after {} of what ends at {}", self.at, self.end);
            return Err(Error::new(Kind::Damaged, text));
        }
        work.zeros.push(Extent::between(self.at, extent.offset));
        self.at = extent.end();
        match content {
            Content::Zero => work.zeros.push(extent),
            Content::Lost => work.lost.push(extent),
            Content::Stored(_) => {
                work.content += extent.length;
                work.pieces.push(piece);
            }
        }
        Ok(())
    }
}

impl Work {
    fn has_room_for(&self, piece: &Piece) -> bool {
        self.pieces.is_empty() || self.content + content_len(piece) <= BATCH
    }
}

fn content_len(piece: &Piece) -> u64 {
    if matches!(piece.content, Content::Stored(_)) { piece.extent.length } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_piece_covers_is_zero_and_nothing_is_left_out() {
        let zero = |o, l| Ok(Piece { extent: Extent::new(o, l), content: Content::Zero });
        let mut plan = Plan::new([zero(4096, 4096), zero(16_384, 100)].into_iter(), Extent::new(0, 20_001));
        let work = plan.next().unwrap().unwrap();
        assert_eq!(work.zeros, ExtentSet::whole(20_001));
        assert!(work.pieces.is_empty() && plan.next().unwrap().is_none());
    }

    #[test]
    fn pieces_out_of_order_or_beyond_the_end_are_damage() {
        let zero = |o, l| Ok(Piece { extent: Extent::new(o, l), content: Content::Zero });
        for pieces in [vec![zero(8192, 4096), zero(4096, 4096)], vec![zero(16_384, 8192)]] {
            let error = Plan::new(pieces.into_iter(), Extent::new(0, 20_480)).next().err().unwrap();
            assert_eq!(error.kind(), Kind::Damaged);
        }
    }
}
