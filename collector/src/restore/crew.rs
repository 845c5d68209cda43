//! The threads that fetch content and write it, or compare it with what was written.
//!
//! What must stay true: each worker has one buffer of a batch, so memory does not grow with the device; the first
//! failure stops all; every piece of a work was delivered before its bytes are used.

use super::plan::{Plan, Work};
use super::target::Target;
use crate::block::Extent;
use crate::chain::Piece;
use crate::copy::Watch;
use crate::error::{Error, Kind, Result};
use crate::format::is_zero;
use crate::repository::Repository;
use crate::sys::direct::AlignedBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Threads: enough to overlap fetching with writing.
const WORKERS: usize = 4;
/// Zeros dealt with between two looks at the stop flag.
const ZEROS: u64 = 256 << 20;
/// Bytes read back at once.
const READ: u64 = 1 << 20;

/// What is done with the content.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Deed {
    /// Write it to the target.
    Write,
    /// Compare it with the target.
    Verify,
}

/// The workers of one walk over a point.
pub(super) struct Crew<'a> {
    repo: &'a Repository,
    target: &'a Target,
    deed: Deed,
    watch: &'a dyn Watch,
    content: AtomicU64,
    failed: Mutex<Option<Error>>,
}

struct Buffers {
    content: AlignedBuf,
    back: AlignedBuf,
}

impl<'a> Crew<'a> {
    pub(super) fn new(repo: &'a Repository, target: &'a Target, deed: Deed, watch: &'a dyn Watch) -> Self {
        Self { repo, target, deed, watch, content: AtomicU64::new(0), failed: Mutex::new(None) }
    }

    /// Does all the work; returns the bytes of stored content.
    pub(super) fn work_off<I>(self, plan: Plan<I>) -> Result<u64>
    where
        I: Iterator<Item = Result<Piece>> + Send,
    {
        let plan = Mutex::new(plan);
        std::thread::scope(|scope| {
            for _ in 0..WORKERS {
                scope.spawn(|| {
                    if let Err(error) = self.worker(&plan) {
                        self.failed.lock().unwrap_or_else(|e| e.into_inner()).get_or_insert(error);
                    }
                });
            }
        });
        match self.failed.into_inner().unwrap_or_else(|e| e.into_inner()) {
            Some(error) => Err(error),
            None => Ok(self.content.into_inner()),
        }
    }

    fn worker<I: Iterator<Item = Result<Piece>>>(&self, plan: &Mutex<Plan<I>>) -> Result<()> {
        let mut buffers = Buffers { content: AlignedBuf::new(0), back: AlignedBuf::new(0) };
        while self.go_on()? {
            let work = plan.lock().unwrap_or_else(|e| e.into_inner()).next()?;
            let Some(work) = work else { return Ok(()) };
            self.zeros(&work, &mut buffers.back)?;
            if !work.pieces.is_empty() {
                self.data(&work, &mut buffers)?;
            }
        }
        Ok(())
    }

    /// Nobody failed, and nobody asked for an end.
    fn go_on(&self) -> Result<bool> {
        if self.watch.stopped() {
            return Err(Error::new(Kind::Interrupted, "stopped"));
        }
        Ok(self.failed.lock().unwrap_or_else(|e| e.into_inner()).is_none())
    }

    fn zeros(&self, work: &Work, back: &mut AlignedBuf) -> Result<()> {
        for extent in &work.zeros {
            let mut at = extent.offset;
            while at < extent.end() && self.go_on()? {
                let part = Extent::between(at, extent.end().min(at + ZEROS));
                match self.deed {
                    Deed::Write => self.target.zero(part)?,
                    Deed::Verify => self.expect_zeros(part, back)?,
                }
                self.watch.advance(part.length);
                at = part.end();
            }
        }
        Ok(())
    }

    fn data(&self, work: &Work, buffers: &mut Buffers) -> Result<()> {
        buffers.content.resize(work.content as usize);
        self.repo.read_into(&work.pieces, &mut buffers.content)?;
        let mut at = 0;
        for run in work.pieces.iter().map(|p| p.extent).collect::<crate::block::ExtentSet>().iter() {
            let bytes = &buffers.content[at..at + run.length as usize];
            at += bytes.len();
            match self.deed {
                Deed::Write => self.target.write(run.offset, bytes)?,
                Deed::Verify => self.expect(*run, bytes, &mut buffers.back)?,
            }
        }
        self.content.fetch_add(work.content, Ordering::Relaxed);
        self.watch.advance(work.content);
        Ok(())
    }

    fn expect(&self, run: Extent, bytes: &[u8], back: &mut AlignedBuf) -> Result<()> {
        self.target.read(run, back)?;
        if bytes[..back.len()] == back[..] { Ok(()) } else { Err(differs(run)) }
    }

    fn expect_zeros(&self, extent: Extent, back: &mut AlignedBuf) -> Result<()> {
        let mut at = extent.offset;
        while at < extent.end() {
            let part = Extent::between(at, extent.end().min(at + READ));
            self.target.read(part, back)?;
            if !is_zero(back) {
                return Err(differs(part));
            }
            at = part.end();
        }
        Ok(())
    }
}

fn differs(extent: Extent) -> Error {
    let text = format!("{} bytes at {} read back otherwise than written", extent.length, extent.offset);
    Error::new(Kind::Damaged, text)
}
