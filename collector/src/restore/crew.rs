//! The threads that fetch content and write it, or compare it with what was written.
//!
//! What must stay true: each worker has two buffers of a batch, so memory does not grow with the device; the first
//! failure stops all, unless what cannot be read may be lost: then it is noted, and nothing is written there; every
//! piece of a work was delivered before its bytes are used.

use super::lost::Losses;
use super::plan::{Plan, Work};
use super::same;
use super::target::Target;
use crate::block::{Extent, ExtentSet};
use crate::chain::Piece;
use crate::copy::Watch;
use crate::error::{Error, Kind, Result};
use crate::format::is_zero;
use crate::repository::{Repository, is_harm};
use crate::sys::direct::AlignedBuf;
use crate::sys::failpoint;
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
    /// Write what the target does not hold already.
    Differing,
    /// Compare it with the target.
    Verify,
}

/// Bytes dealt with.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Done {
    /// Stored content written (or verified).
    pub(super) content: u64,
    /// Zeros written over something else, where the target was looked at.
    pub(super) zeroed: u64,
    /// Of the target, read and compared.
    pub(super) compared: u64,
}

/// The workers of one walk over a point.
pub(super) struct Crew<'a> {
    pub(super) repo: &'a Repository,
    pub(super) target: &'a Target,
    pub(super) deed: Deed,
    /// Where what cannot be read is noted; if nowhere, it is a failure.
    pub(super) losses: Option<&'a Losses>,
    pub(super) watch: &'a dyn Watch,
}

/// What the workers of a walk share.
#[derive(Default)]
struct Shared {
    content: AtomicU64,
    zeroed: AtomicU64,
    compared: AtomicU64,
    failed: Mutex<Option<Error>>,
}

/// One of the workers.
struct Worker<'a> {
    crew: &'a Crew<'a>,
    shared: &'a Shared,
    content: AlignedBuf,
    back: AlignedBuf,
}

impl Crew<'_> {
    /// Does all the work.
    pub(super) fn work_off<I>(&self, plan: Plan<I>) -> Result<Done>
    where
        I: Iterator<Item = Result<Piece>> + Send,
    {
        let (plan, shared) = (Mutex::new(plan), Shared::default());
        std::thread::scope(|scope| {
            for _ in 0..WORKERS {
                scope.spawn(|| {
                    let (content, back) = (AlignedBuf::new(0), AlignedBuf::new(0));
                    let mut worker = Worker { crew: self, shared: &shared, content, back };
                    if let Err(error) = worker.run(&plan) {
                        shared.failed.lock().unwrap_or_else(|e| e.into_inner()).get_or_insert(error);
                    }
                });
            }
        });
        match shared.failed.into_inner().unwrap_or_else(|e| e.into_inner()) {
            Some(error) => Err(error),
            None => Ok(Done {
                content: shared.content.into_inner(),
                zeroed: shared.zeroed.into_inner(),
                compared: shared.compared.into_inner(),
            }),
        }
    }
}

impl Worker<'_> {
    fn run<I: Iterator<Item = Result<Piece>>>(&mut self, plan: &Mutex<Plan<I>>) -> Result<()> {
        while self.go_on()? {
            let work = plan.lock().unwrap_or_else(|e| e.into_inner()).next()?;
            let Some(mut work) = work else { return Ok(()) };
            if !work.lost.is_empty() {
                let Some(losses) = self.crew.losses else {
                    return Err(Error::new(Kind::Bug, "pieces of which nothing is known"));
                };
                work.lost.iter().for_each(|extent| losses.note(*extent, None));
                self.crew.watch.advance(work.lost.total());
            }
            self.zeros(&work)?;
            if !work.pieces.is_empty() {
                self.data(&mut work)?;
            }
        }
        Ok(())
    }

    /// Nobody failed, and nobody asked for an end.
    fn go_on(&self) -> Result<bool> {
        if self.crew.watch.stopped() {
            return Err(Error::new(Kind::Interrupted, "stopped"));
        }
        Ok(self.shared.failed.lock().unwrap_or_else(|e| e.into_inner()).is_none())
    }

    fn zeros(&mut self, work: &Work) -> Result<()> {
        let crew = self.crew;
        for extent in &work.zeros {
            let mut at = extent.offset;
            while at < extent.end() && self.go_on()? {
                let step = if crew.deed == Deed::Write { ZEROS } else { READ };
                let part = Extent::between(at, extent.end().min(at + step));
                match crew.deed {
                    Deed::Write => crew.target.zero(part)?,
                    Deed::Differing => self.zero_differing(part)?,
                    Deed::Verify => self.expect_zeros(part)?,
                }
                crew.watch.advance(part.length);
                at = part.end();
            }
        }
        Ok(())
    }

    fn data(&mut self, work: &mut Work) -> Result<()> {
        let crew = self.crew;
        if crew.deed == Deed::Differing {
            self.drop_equal(&mut work.pieces)?;
        }
        self.fetch(&mut work.pieces)?;
        let (mut at, mut written) = (0, 0);
        for run in work.pieces.iter().map(|p| p.extent).collect::<ExtentSet>().iter() {
            let bytes = &self.content[at..at + run.length as usize];
            at += bytes.len();
            written += bytes.len() as u64;
            if crew.deed != Deed::Write {
                crew.target.read(*run, &mut self.back)?;
            }
            match crew.deed {
                Deed::Write => crew.target.write(run.offset, bytes)?,
                Deed::Verify if bytes[..self.back.len()] != self.back[..] => return Err(differs(*run)),
                Deed::Verify => {}
                Deed::Differing => {
                    written -= bytes.len() as u64;
                    for part in same::differing(run.offset, bytes, &self.back) {
                        let from = (part.offset - run.offset) as usize;
                        crew.target.write(part.offset, &bytes[from..from + part.length as usize])?;
                        written += part.length;
                    }
                }
            }
        }
        if crew.deed != Deed::Verify {
            failpoint("restore.written")?;
        }
        self.shared.content.fetch_add(written, Ordering::Relaxed);
        crew.watch.advance(work.content);
        Ok(())
    }

    /// Brings the content of the pieces into the buffer, back to back; takes out those that are lost.
    fn fetch(&mut self, pieces: &mut Vec<Piece>) -> Result<()> {
        self.content.resize(pieces.iter().map(|p| p.extent.length as usize).sum());
        let Err(e) = self.crew.repo.read_into(pieces, &mut self.content) else { return Ok(()) };
        let Some(losses) = self.crew.losses.filter(|_| is_harm(&e)) else { return Err(e) };
        let mut at = 0;
        let (mut kept, repo) = (Vec::new(), self.crew.repo);
        for piece in pieces.iter() {
            let end = at + piece.extent.length as usize;
            match repo.read_into(std::slice::from_ref(piece), &mut self.content[at..end]) {
                Ok(()) => {
                    kept.push(*piece);
                    at = end;
                }
                Err(e) if is_harm(&e) => losses.note(piece.extent, Some(&e)),
                Err(e) => return Err(e),
            }
        }
        *pieces = kept;
        Ok(())
    }

    /// Leaves only the pieces that the target does not hold.
    fn drop_equal(&mut self, pieces: &mut Vec<Piece>) -> Result<()> {
        let mut open = Vec::new();
        for run in pieces.chunk_by(|a, b| a.extent.end() == b.extent.offset) {
            let start = run.first().map_or(0, |p| p.extent.offset);
            let all = Extent::between(start, run.last().map_or(start, |p| p.extent.end()));
            self.crew.target.read(all, &mut self.back)?;
            self.shared.compared.fetch_add(self.back.len() as u64, Ordering::Relaxed);
            open.extend(run.iter().filter(|piece| !same::by_hash(piece, start, &self.back)));
        }
        *pieces = open;
        Ok(())
    }

    fn zero_differing(&mut self, part: Extent) -> Result<()> {
        self.crew.target.read(part, &mut self.back)?;
        self.shared.compared.fetch_add(self.back.len() as u64, Ordering::Relaxed);
        for run in same::not_zero(part.offset, &self.back) {
            self.crew.target.zero(run)?;
            self.shared.zeroed.fetch_add(run.length, Ordering::Relaxed);
        }
        Ok(())
    }

    fn expect_zeros(&mut self, part: Extent) -> Result<()> {
        self.crew.target.read(part, &mut self.back)?;
        if is_zero(&self.back) { Ok(()) } else { Err(differs(part)) }
    }
}

fn differs(extent: Extent) -> Error {
    let text = format!("{} bytes at {} read back otherwise than written", extent.length, extent.offset);
    Error::new(Kind::Damaged, text)
}
