//! Which blocks of a target are what the point holds already.
//!
//! What must stay true: a block counts as the same only if its bytes, or the hash of the frame it is in, were compared.

use crate::block::{BLOCK, Extent};
use crate::chain::Piece;
use crate::format::{FrameHash, is_zero};

/// The piece is a whole frame, and its hash is that of the target's bytes, which begin at `start`.
pub(super) fn by_hash(piece: &Piece, start: u64, back: &[u8]) -> bool {
    let from = (piece.extent.offset - start) as usize;
    let mine = back.get(from..from + piece.extent.length as usize);
    mine.is_some_and(|mine| piece.whole_hash() == Some(FrameHash::of(mine)))
}

/// The runs of blocks from `start` on in which the target's bytes are not the point's; what the target has no room
/// for is left out.
pub(super) fn differing(start: u64, point: &[u8], back: &[u8]) -> Vec<Extent> {
    runs(start, back, |at, block| point[at..at + block.len()] != *block)
}

/// The runs of blocks from `start` on that are not zero.
pub(super) fn not_zero(start: u64, back: &[u8]) -> Vec<Extent> {
    runs(start, back, |_, block| !is_zero(block))
}

fn runs(start: u64, back: &[u8], wanted: impl Fn(usize, &[u8]) -> bool) -> Vec<Extent> {
    let mut runs: Vec<Extent> = Vec::new();
    let end = start + back.len() as u64;
    let mut at = start;
    while at < end {
        let next = end.min((at / BLOCK + 1) * BLOCK);
        let from = (at - start) as usize;
        if wanted(from, &back[from..(next - start) as usize]) {
            match runs.last_mut() {
                Some(run) if run.end() == at => run.length = next - run.offset,
                _ => runs.push(Extent::between(at, next)),
            }
        }
        at = next;
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_lie_on_the_devices_grid() {
        let mut back = vec![0; 10_000];
        assert_eq!(not_zero(1000, &back), []);
        back[3095] = 1;
        back[3096] = 1;
        assert_eq!(not_zero(1000, &back), [Extent::between(1000, 8192)]);
        assert_eq!(differing(1000, &vec![0; 20_000], &back), [Extent::between(1000, 8192)]);
        back[9999] = 1;
        assert_eq!(differing(1000, &back.clone(), &back), []);
        assert_eq!(not_zero(1000, &back), [Extent::between(1000, 11_000)]);
    }
}
