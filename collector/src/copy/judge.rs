//! Cuts a task's bytes into the runs that become frames: all of them, or only those the parent does not hold.
//!
//! What must stay true: a run lies in one cell; a block is left out only if its bytes were proved equal to what
//! the parent restores there: the hash of a whole frame agrees, or both are zero.

use super::plan::Task;
use crate::block::{BLOCK, Extent};
use crate::chain::{Content, Piece};
use crate::format::{CELL, Codec, FrameHash, is_zero};
use crate::sys::planted;

/// Calls `keep` with every run to be stored and its bytes; stops at its first error.
pub(super) fn runs<E>(
    task: &Task,
    bytes: &[u8],
    mut keep: impl FnMut(Extent, &[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let mut at = 0;
    for run in &task.runs {
        let mine = &bytes[at..at + run.length as usize];
        at += mine.len();
        for cell in cells(*run) {
            let raw = part(*run, mine, cell);
            let Some(parent) = &task.parent else {
                keep(cell, raw)?;
                continue;
            };
            for differs in differing(cell, raw, parent) {
                keep(differs, part(cell, raw, differs))?;
            }
        }
    }
    Ok(())
}

/// The pieces of `run` that lie in one cell each.
fn cells(run: Extent) -> impl Iterator<Item = Extent> {
    let mut at = run.offset;
    std::iter::from_fn(move || {
        let end = run.end().min((at / CELL + 1) * CELL);
        let cell = Extent::between(at, end);
        at = end;
        (!cell.is_empty()).then_some(cell)
    })
}

/// The bytes of `inner`, where `bytes` are those of `outer`.
fn part(outer: Extent, bytes: &[u8], inner: Extent) -> &[u8] {
    let start = (inner.offset - outer.offset) as usize;
    &bytes[start..start + inner.length as usize]
}

/// The runs of blocks of `cell` that are not proved equal to the parent.
fn differing(cell: Extent, raw: &[u8], parent: &[Piece]) -> Vec<Extent> {
    let blocks = raw.chunks(BLOCK as usize);
    // what no piece covers is zero
    let mut differs: Vec<bool> = blocks.map(|block| !is_zero(block)).collect();
    for piece in parent {
        let Some(both) = piece.extent.intersect(&cell) else { continue };
        if matches!(piece.content, Content::Zero) {
            continue;
        }
        let verdict = !equal(cell, raw, piece);
        let first = (both.offset - cell.offset) / BLOCK;
        let last = (both.end() - cell.offset).div_ceil(BLOCK);
        differs[first as usize..last as usize].fill(verdict);
    }
    let mut runs: Vec<Extent> = Vec::new();
    for (i, _) in differs.iter().enumerate().filter(|(_, d)| **d) {
        let start = cell.offset + i as u64 * BLOCK;
        let end = (start + BLOCK).min(cell.end());
        match runs.last_mut() {
            Some(run) if run.end() == start => *run = Extent::between(run.offset, end),
            _ => runs.push(Extent::between(start, end)),
        }
    }
    runs
}

/// The piece is a whole frame, lies in the cell, and its hash is that of our bytes.
fn equal(cell: Extent, raw: &[u8], piece: &Piece) -> bool {
    let Content::Stored(stored) = &piece.content else { return false };
    let whole = stored.frame.codec != Codec::Zero && stored.frame.extent == piece.extent;
    whole
        && cell.intersect(&piece.extent) == Some(piece.extent)
        && (FrameHash::of(part(cell, raw, piece.extent)) == stored.frame.hash || planted("compares-nothing"))
}
