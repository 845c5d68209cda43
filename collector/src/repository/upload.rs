//! Segments on their way to a store over the network: one is filled by the caller while others are hashed and sent here.

use super::keys;
use super::store::Store;
use crate::error::{Error, Kind, Result};
use crate::format::{Blake3, SegmentBuilder, SegmentRef};
use crate::sys::failpoint;
use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded};
use std::sync::Arc;
use std::thread::JoinHandle;

/// Threads: one connection is slower than the line. Each has a segment, 32 MiB of memory.
const THREADS: usize = 4;

/// A segment and its place in the index's table.
type Numbered<T> = (usize, T);

/// The threads that make segments durable.
pub(super) struct Uploader {
    send: Option<Sender<Numbered<SegmentBuilder>>>,
    sent: usize,
    buffers: Receiver<Vec<u8>>,
    threads: Vec<JoinHandle<Result<Vec<Numbered<SegmentRef>>>>>,
}

impl Uploader {
    pub fn start(store: &Arc<Store>) -> Result<Self> {
        // no queue: one segment is being filled, and one sent per thread
        let (send, receive) = bounded::<Numbered<SegmentBuilder>>(0);
        let (give_back, buffers) = bounded(THREADS);
        let mut threads = Vec::new();
        for _ in 0..THREADS {
            let (store, receive, give_back) = (Arc::clone(store), receive.clone(), give_back.clone());
            let work = move || {
                let mut done = Vec::new();
                for (number, segment) in receive {
                    let (stored, buffer) = upload(&store, segment)?;
                    done.push((number, stored));
                    let _ = give_back.try_send(buffer);
                }
                Ok(done)
            };
            let thread = std::thread::Builder::new().name("blkdelta-upload".into()).spawn(work);
            threads.push(thread.map_err(|e| Error::os("start an upload thread", e))?);
        }
        Ok(Self { send: Some(send), sent: 0, buffers, threads })
    }

    /// A buffer for the next segment, used again if there is one.
    pub fn buffer(&self) -> Vec<u8> {
        self.buffers.try_recv().unwrap_or_default()
    }

    /// Hands over a segment; waits while all threads write others.
    pub fn send(&mut self, segment: SegmentBuilder) -> Result<()> {
        let number = self.sent;
        self.sent += 1;
        // a thread that failed is gone: noticed now, not at the end of a long backup
        let failed = self.threads.iter().any(JoinHandle::is_finished);
        if !failed && self.send.as_ref().is_some_and(|send| send.send((number, segment)).is_ok()) {
            return Ok(());
        }
        self.join().and_then(|_| Err(Error::new(Kind::Bug, "an upload thread ended early")))
    }

    /// Waits until all segments are durable; they come in the order they were sent.
    pub fn join(&mut self) -> Result<Vec<SegmentRef>> {
        self.send = None;
        let mut all = Vec::new();
        let mut failed = None;
        for thread in self.threads.drain(..) {
            match thread.join().unwrap_or_else(|_| Err(Error::new(Kind::Bug, "an upload thread is gone"))) {
                Ok(done) => all.extend(done),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        let lost = || Error::new(Kind::Bug, format!("{} of {} segments were written", all.len(), self.sent));
        match failed {
            Some(error) => Err(error),
            None if all.len() != self.sent => Err(lost()),
            None => {
                all.sort_unstable_by_key(|(number, _)| *number);
                Ok(all.into_iter().map(|(_, stored)| stored).collect())
            }
        }
    }
}

impl Drop for Uploader {
    fn drop(&mut self) {
        // nothing is written after the writer's lock is gone
        let _ = self.join();
    }
}

fn upload(store: &Store, segment: SegmentBuilder) -> Result<(SegmentRef, Vec<u8>)> {
    let id = segment.id();
    let bytes = segment.finish()?;
    let stored = SegmentRef { id, len: bytes.len() as u64, hash: Blake3::of(&bytes) };
    let bytes = Bytes::from(bytes);
    failpoint("repo.segment.put")?;
    store.put(&keys::segment(id), bytes.clone())?;
    failpoint("repo.segment.stored")?;
    Ok((stored, bytes.try_into_mut().map(Vec::from).unwrap_or_default()))
}
