//! Segments on their way to a local store: hashed and written part by part while they are filled, so that none is ever
//! whole in memory, and each part is still in the processor's caches.
//!
//! ```text
//!   caller ──parts──▶ hasher: BLAKE3 of the whole
//!              └────▶ writer ──complete──▶ closer: fsync, rename, fsync of the folder
//! ```
//! What must stay true: a segment appears under its name when it is whole and durable, and not before; it is told of only
//! after that; nothing is written after [`Near`] is dropped.

use super::keys;
use super::store::Store;
use super::stream::ObjectStream;
use crate::error::{Error, Kind, Result};
use crate::format::{Blake3, SegmentBuilder, SegmentId, SegmentRef};
use crate::sys::{failpoint, planted};
use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

/// Bytes of a part.
pub(super) const PART: usize = 1 << 20;

/// Parts that wait for each thread.
const WAITING: usize = 6;

/// Segments that wait until one before them is durable: with it and the one being written, three are in flight.
const CLOSING: usize = 1;

/// What happens to a segment.
enum Step {
    Begin(SegmentId),
    Part(Bytes),
    End,
}

/// The threads, and how to reach them.
pub(super) struct Near {
    /// Hasher and writer; empty when all was said.
    say: Vec<Sender<Step>>,
    open: Option<SegmentId>,
    hasher: Option<JoinHandle<Vec<SegmentRef>>>,
    /// Each says how many segments it has dealt with.
    threads: Vec<JoinHandle<Result<usize>>>,
}

impl Near {
    pub fn start(store: &Arc<Store>) -> Result<Self> {
        let (hash, to_hash) = bounded(WAITING);
        let (write, to_write) = bounded(WAITING);
        let (close, to_close) = bounded(CLOSING);
        let failed = |e| Error::os("start a thread that stores", e);
        let named = |name: &str| Builder::new().name(format!("blkdelta-{name}"));
        let store = Arc::clone(store);
        let hasher = named("hash").spawn(move || hasher(&to_hash)).map_err(failed)?;
        let threads = vec![
            named("write").spawn(move || writer(&store, &to_write, &close)).map_err(failed)?,
            named("close").spawn(move || closer(&to_close)).map_err(failed)?,
        ];
        Ok(Self { say: vec![hash, write], open: None, hasher: Some(hasher), threads })
    }

    /// Sends the part of a segment that is being filled, if there is `enough` of it; waits while the threads are slower.
    pub fn part(&mut self, segment: &mut SegmentBuilder, enough: usize) -> Result<()> {
        let id = segment.id();
        match segment.take(enough, Vec::new()) {
            Some(part) => self.send(id, part),
            None => Ok(()),
        }
    }

    /// Sends what is left of a segment, which ends with it.
    pub fn end(&mut self, segment: SegmentBuilder) -> Result<()> {
        let id = segment.id();
        let rest = segment.finish()?;
        self.send(id, rest)?;
        self.open = None;
        self.tell(|| Step::End)
    }

    fn send(&mut self, id: SegmentId, part: Vec<u8>) -> Result<()> {
        if self.open.replace(id) != Some(id) {
            self.tell(|| Step::Begin(id))?;
        }
        let part = Bytes::from(part);
        self.tell(|| Step::Part(part.clone()))
    }

    fn tell(&mut self, step: impl Fn() -> Step) -> Result<()> {
        // a thread that failed is gone: noticed now, not at the end of a long backup
        let failed = self.threads.iter().any(JoinHandle::is_finished);
        if !failed && !self.say.is_empty() && self.say.iter().all(|say| say.send(step()).is_ok()) {
            return Ok(());
        }
        self.join().and_then(|_| Err(Error::new(Kind::Bug, "a thread that stores ended early")))
    }

    /// Waits until all segments are durable; they come in the order in which they began.
    pub fn join(&mut self) -> Result<Vec<SegmentRef>> {
        self.say.clear();
        let gone = || Error::new(Kind::Bug, "a thread that stores is gone");
        let ended: Vec<Result<usize>> =
            self.threads.drain(..).map(|thread| thread.join().unwrap_or_else(|_| Err(gone()))).collect();
        let hashed =
            self.hasher.take().map_or_else(|| Ok(Vec::new()), |hasher| hasher.join().map_err(|_| gone()));
        // the closer first: its failure is why the writer could not go on
        let stored: Vec<usize> = ended.into_iter().rev().collect::<Result<_>>()?;
        let hashed = hashed?;
        if stored.iter().any(|count| *count != hashed.len()) {
            let text = format!("{stored:?} of {} segments were written", hashed.len());
            return Err(Error::new(Kind::Bug, text));
        }
        Ok(hashed)
    }
}

impl Drop for Near {
    fn drop(&mut self) {
        // nothing is written after the writer's lock is gone
        let _ = self.join();
    }
}

fn hasher(steps: &Receiver<Step>) -> Vec<SegmentRef> {
    let (mut done, mut open) = (Vec::new(), None);
    for step in steps {
        match step {
            Step::Begin(id) => open = Some((id, 0, blake3::Hasher::new())),
            Step::Part(part) => {
                if let Some((_, len, hasher)) = &mut open {
                    *len += part.len() as u64;
                    hasher.update(&part);
                }
            }
            Step::End => done.extend(open.take().map(|(id, len, hasher)| {
                let hash = Blake3(*hasher.finalize().as_bytes());
                SegmentRef { id, len, hash }
            })),
        }
    }
    done
}

/// One that ends in the middle of a segment leaves nothing of it.
fn writer(store: &Arc<Store>, steps: &Receiver<Step>, close: &Sender<ObjectStream>) -> Result<usize> {
    let (mut done, mut open) = (0, None);
    for step in steps {
        match step {
            Step::Begin(id) => open = Some(store.stream(&keys::segment(id))?),
            Step::Part(part) => open.as_mut().map_or(Ok(()), |stream| stream.part(faulty(part)))?,
            Step::End => {
                let Some(stream) = open.take() else { continue };
                failpoint("repo.segment.put")?;
                if close.send(stream).is_err() {
                    return Err(Error::new(Kind::Bug, "a segment could not be handed on"));
                }
                done += 1;
            }
        }
    }
    Ok(done)
}

/// The part, or with a fault planted another one.
fn faulty(part: Bytes) -> Bytes {
    if !planted("stored-bit-flipped") {
        return part;
    }
    let mut bytes = part.to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    bytes.into()
}

fn closer(ended: &Receiver<ObjectStream>) -> Result<usize> {
    let mut done = 0;
    for stream in ended {
        stream.complete()?;
        failpoint("repo.segment.stored")?;
        done += 1;
    }
    Ok(done)
}
