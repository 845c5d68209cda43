//! A point as bytes in order, for a pipe.
//!
//! What must stay true: a byte leaves only after it was verified; at most three works of content are in memory.

use super::Restore;
use super::plan::{Plan, Work};
use crate::block::Extent;
use crate::chain::Piece;
use crate::copy::Watch;
use crate::error::{Error, Kind, Result};
use crossbeam_channel::{Receiver, Sender, bounded};
use std::io::{ErrorKind, Write};

static ZEROS: [u8; 1 << 16] = [0; 1 << 16];

/// A work and the content of its pieces, back to back.
type Fetched = (Work, Vec<u8>);

impl Restore<'_> {
    /// Writes the bytes of a range of the point to `out`, one after the other, zeros too.
    ///
    /// # Errors
    /// Damage in the repository; a failed write; [`Kind::Interrupted`] if nobody reads any more.
    pub fn stream(&self, asked: Option<Extent>, out: &mut dyn Write, watch: &dyn Watch) -> Result<u64> {
        let range = self.range(asked)?;
        let plan = Plan::new(self.chain.pieces_in(range)?, range);
        let (give, take) = bounded(1);
        std::thread::scope(|scope| {
            let fetching = scope.spawn(move || self.fetch(plan, &give));
            let written = write_out(range.offset, take, out, watch);
            let fetched =
                fetching.join().map_err(|_| Error::new(Kind::Bug, "the fetching thread panicked"))?;
            // the cause is in whichever failed; a fetcher whose reader is gone ends without one
            written.and_then(|n| fetched.map(|()| n))
        })
    }

    fn fetch<I: Iterator<Item = Result<Piece>>>(
        &self,
        mut plan: Plan<I>,
        give: &Sender<Fetched>,
    ) -> Result<()> {
        while let Some(work) = plan.next()? {
            let mut content = vec![0; work.content as usize];
            self.repo.read_into(&work.pieces, &mut content)?;
            if give.send((work, content)).is_err() {
                break;
            }
        }
        Ok(())
    }
}

fn write_out(start: u64, take: Receiver<Fetched>, out: &mut dyn Write, watch: &dyn Watch) -> Result<u64> {
    let mut at = start;
    for (work, content) in take {
        let mut stored = &content[..];
        let mut parts: Vec<(Extent, bool)> = work.pieces.iter().map(|p| (p.extent, true)).collect();
        parts.extend(work.zeros.iter().map(|zeros| (*zeros, false)));
        parts.sort_unstable();
        for (extent, is_stored) in parts {
            if extent.offset != at {
                return Err(Error::new(Kind::Bug, format!("{extent:?} after {at} of a stream")));
            }
            if watch.stopped() {
                return Err(Error::new(Kind::Interrupted, "stopped"));
            }
            at = extent.end();
            if is_stored {
                let (bytes, rest) = stored.split_at(extent.length as usize);
                put(out, bytes)?;
                stored = rest;
            } else {
                zeros(out, extent.length, watch)?;
            }
            watch.advance(extent.length);
        }
    }
    out.flush().map_err(failed)?;
    Ok(at - start)
}

fn zeros(out: &mut dyn Write, mut left: u64, watch: &dyn Watch) -> Result<()> {
    while left > 0 && !watch.stopped() {
        let n = left.min(ZEROS.len() as u64);
        put(out, &ZEROS[..n as usize])?;
        left -= n;
    }
    if left > 0 { Err(Error::new(Kind::Interrupted, "stopped")) } else { Ok(()) }
}

fn put(out: &mut dyn Write, bytes: &[u8]) -> Result<()> {
    out.write_all(bytes).map_err(failed)
}

fn failed(error: std::io::Error) -> Error {
    if error.kind() == ErrorKind::BrokenPipe {
        return Error::new(Kind::Interrupted, "nobody reads any more");
    }
    Error::os("write the point's bytes", error)
}
