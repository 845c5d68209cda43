//! Cuts what is to be copied into tasks of at most one buffer, in ascending order.
//!
//! What must stay true: the tasks' runs are exactly the planned extents, each byte once, ascending; a run ends at
//! its extent's end or at a cell boundary, so no cell of an extent is split over two tasks; a comparing task carries every piece of the parent that touches its runs.

use crate::block::{BLOCK, Extent, ExtentSet};
use crate::chain::Piece;
use crate::error::Result;
use crate::format::CELL;
use crate::sys::planted;
use std::collections::VecDeque;
use std::iter::Peekable;

/// Bytes a task reads at most: one buffer.
pub(super) const TASK: u64 = 1 << 20;
/// Runs a task reads at most: scattered runs are latency, and the other readers should share it.
const RUNS: usize = 16;

/// One buffer's worth of work.
pub(super) struct Task {
    /// Position in the plan.
    pub(super) number: u64,
    /// What to read, ascending; lies in the buffer back to back.
    pub(super) runs: Vec<Extent>,
    /// What the parent holds there; `None` means: keep everything.
    pub(super) parent: Option<Vec<Piece>>,
}

impl Task {
    /// Bytes it reads.
    pub(super) fn bytes(&self) -> u64 {
        self.runs.iter().map(|r| r.length).sum()
    }
}

type Pieces<'a> = Peekable<Box<dyn Iterator<Item = Result<Piece>> + Send + 'a>>;

/// The tasks still to be handed out.
pub(super) struct Plan<'a> {
    extents: VecDeque<Extent>,
    parent: Option<Pieces<'a>>,
    /// Pieces taken from the parent that may reach into the next task.
    held: Vec<Piece>,
    number: u64,
}

impl<'a> Plan<'a> {
    /// Copies all of `extents`, widened to whole blocks.
    pub(super) fn all(extents: &ExtentSet, size: u64) -> Self {
        let extents = extents.intersect(&ExtentSet::whole(size)).align_out(BLOCK, size);
        let mut extents: VecDeque<Extent> = extents.iter().copied().collect();
        if planted("last-extent-skipped") {
            extents.pop_back();
        }
        Self { extents, parent: None, held: Vec::new(), number: 0 }
    }

    /// Compares all cells that `extents` touch with `parent`.
    pub(super) fn against(
        extents: &ExtentSet,
        size: u64,
        parent: impl Iterator<Item = Result<Piece>> + Send + 'a,
    ) -> Self {
        let mut plan = Self::all(&extents.align_out(CELL, size), size);
        let parent: Box<dyn Iterator<Item = _> + Send + 'a> = Box::new(parent);
        plan.parent = Some(parent.peekable());
        plan
    }

    /// What is left is one task at most.
    pub(super) fn is_one_task(&self) -> bool {
        self.extents.len() <= RUNS && self.extents.iter().map(|e| e.length).sum::<u64>() <= TASK - CELL
    }

    /// The next task.
    pub(super) fn next(&mut self) -> Option<Result<Task>> {
        let mut runs = Vec::new();
        let mut room = TASK;
        while runs.len() < RUNS && room >= CELL {
            let Some(extent) = self.extents.pop_front() else { break };
            // up to a cell boundary, so that no cell is split over two tasks by a long run
            let end = extent.end().min((extent.offset + room) / CELL * CELL);
            runs.push(Extent::between(extent.offset, end));
            room -= end - extent.offset;
            if end < extent.end() {
                self.extents.push_front(Extent::between(end, extent.end()));
                break;
            }
        }
        let end = runs.last()?.end();
        let number = self.number;
        self.number += 1;
        Some(self.pieces_until(runs[0].offset, end).map(|parent| Task { number, runs, parent }))
    }

    /// The parent's pieces that touch `start .. end`.
    fn pieces_until(&mut self, start: u64, end: u64) -> Result<Option<Vec<Piece>>> {
        let Some(parent) = &mut self.parent else { return Ok(None) };
        self.held.retain(|piece| piece.extent.end() > start);
        while let Some(next) = parent.next_if(|p| !matches!(p, Ok(p) if p.extent.offset >= end)) {
            let piece = next?;
            if piece.extent.end() > start {
                self.held.push(piece);
            }
        }
        Ok(Some(self.held.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn tasks_are_the_extents_cut_at_cells(
            raw in prop::collection::vec((0u64..2000, 1u64..700), 0..40), size in 1u64..2600 * 4096,
        ) {
            let extents: ExtentSet = raw.iter().map(|(o, l)| Extent::new(o * 4096, l * 4096)).collect();
            let mut plan = Plan::all(&extents, size);
            let (mut all, mut at) = (Vec::new(), 0);
            while let Some(task) = plan.next() {
                let task = task.unwrap();
                prop_assert!(task.bytes() <= TASK && task.runs.len() <= RUNS && task.bytes() > 0);
                for run in task.runs {
                    prop_assert!(run.offset >= at);
                    at = run.end();
                    prop_assert!(at % CELL == 0 || extents.iter().any(|e| e.end().min(size) == at));
                    all.push(run);
                }
            }
            let whole = extents.intersect(&ExtentSet::whole(size));
            prop_assert_eq!(ExtentSet::from_unsorted(all), whole);
        }
    }
}
