//! Moves bytes from a source into a recovery point: read → hash and compress → write, in the source's order.
//!
//! ```text
//!   plan ──task──▶ readers (O_DIRECT) ──▶ compressors (one per core) ──▶ back in order ──▶ PointWriter
//!     ▲                 one buffer per task, taken before the task, given back after it is written │
//!     └────────────────────────────── pool of BUFFERS × 1 MiB ◀──────────────────────────────────┘
//! ```
//!
//! What must stay true: a range that cannot be read fails the whole pass and is named, never skipped; frames
//! reach the writer in ascending address order and inside one cell each; memory is bounded by the pool
//! whatever the device's size, because a task in flight holds a buffer until its frames are written.

mod judge;
mod pipeline;
mod plan;

use crate::block::ExtentSet;
use crate::chain::Piece;
use crate::error::{Error, Kind, Result};
use crate::format::Compression;
use crate::repository::PointWriter;
use crate::source::Source;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How to copy.
#[derive(Clone, Copy, Debug)]
pub struct How {
    /// What is done to each frame before it is stored.
    pub compression: Compression,
    /// Threads that read the source.
    pub readers: usize,
    /// Threads that hash and compress.
    pub compressors: usize,
}

impl How {
    /// Four readers, and one compressor per core.
    pub fn new(compression: Compression) -> Self {
        let compressors = std::thread::available_parallelism().map_or(1, usize::from);
        Self { compression, readers: 4, compressors }
    }
}

/// Someone who watches a long run, and may stop it.
pub trait Watch: Sync {
    /// So many bytes more have been dealt with.
    fn advance(&self, _bytes: u64) {}

    /// Stop at the next opportunity.
    fn stopped(&self) -> bool {
        false
    }

    /// How long it has held the run back so far.
    fn held_back(&self) -> Duration {
        Duration::ZERO
    }
}

/// Nobody watches.
impl Watch for () {}

/// Only a flag that stops the run.
impl Watch for AtomicBool {
    fn stopped(&self) -> bool {
        self.load(Ordering::Relaxed)
    }
}

/// What a pass did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Bytes read from the source.
    pub read: u64,
    /// Bytes of the source that went into frames.
    pub kept: u64,
    /// Frames.
    pub frames: u64,
}

/// Stores every byte of `extents` as the writer's current pass.
///
/// # Errors
/// The first failure of reading (names the range), encoding or storing; `Interrupted` if the watcher stopped it.
pub fn run(
    source: &dyn Source,
    extents: &ExtentSet,
    writer: &mut PointWriter,
    how: How,
    watch: &dyn Watch,
) -> Result<Copied> {
    let plan = plan::Plan::all(extents, source.size());
    let session = writer.session();
    pipeline::run(source, plan, (how, session), watch, &mut |frame| writer.add(frame))
}

/// Reads every byte of `extents` (widened to whole cells) and stores only what differs from `parent`: the
/// pieces of the parent point, sorted, over the whole device.
///
/// Must be the first pass of a point: it knows what the parent holds, not what this point stored already.
///
/// # Errors
/// As [`run`]; also if the parent's pieces cannot be listed.
pub fn compare(
    source: &dyn Source,
    extents: &ExtentSet,
    parent: impl Iterator<Item = Result<Piece>> + Send,
    writer: &mut PointWriter,
    how: How,
    watch: &dyn Watch,
) -> Result<Copied> {
    let plan = plan::Plan::against(extents, source.size(), parent);
    let session = writer.session();
    pipeline::run(source, plan, (how, session), watch, &mut |frame| writer.add(frame))
}

fn interrupted() -> Error {
    Error::new(Kind::Interrupted, "stopped")
}
