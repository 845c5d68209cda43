//! Segments on their way to the store: one is filled by the caller while one is hashed and written here.

use super::keys;
use super::store::Store;
use crate::error::{Error, Kind, Result};
use crate::format::{Blake3, SegmentBuilder, SegmentRef};
use crate::sys::failpoint;
use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded};
use std::sync::Arc;
use std::thread::JoinHandle;

/// The thread that makes segments durable, in the order they are sent.
pub(super) struct Uploader {
    send: Option<Sender<SegmentBuilder>>,
    buffers: Receiver<Vec<u8>>,
    thread: Option<JoinHandle<Result<Vec<SegmentRef>>>>,
}

impl Uploader {
    pub fn start(store: Arc<Store>) -> Result<Self> {
        // no queue: at most one segment is being filled and one written, 64 MiB in all
        let (send, receive) = bounded::<SegmentBuilder>(0);
        let (give_back, buffers) = bounded(1);
        let work = move || {
            let mut done = Vec::new();
            for segment in receive {
                let (stored, buffer) = upload(&store, segment)?;
                done.push(stored);
                let _ = give_back.try_send(buffer);
            }
            Ok(done)
        };
        let thread = std::thread::Builder::new().name("blkdelta-upload".into()).spawn(work);
        let thread = thread.map_err(|e| Error::os("start the upload thread", e))?;
        Ok(Self { send: Some(send), buffers, thread: Some(thread) })
    }

    /// A buffer for the next segment, used again if there is one.
    pub fn buffer(&self) -> Vec<u8> {
        self.buffers.try_recv().unwrap_or_default()
    }

    /// Hands over a segment; waits while another is being written.
    pub fn send(&mut self, segment: SegmentBuilder) -> Result<()> {
        if self.send.as_ref().is_some_and(|send| send.send(segment).is_ok()) {
            return Ok(());
        }
        // the thread ended early: because of an error
        self.join().and_then(|_| Err(Error::new(Kind::Bug, "the upload thread ended early")))
    }

    /// Waits until all segments are durable.
    pub fn join(&mut self) -> Result<Vec<SegmentRef>> {
        self.send = None;
        let gone = || Error::new(Kind::Bug, "the upload thread is gone");
        self.thread.take().ok_or_else(gone)?.join().unwrap_or_else(|_| Err(gone()))
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
    let bytes = Bytes::from(segment.finish()?);
    let stored = SegmentRef { id, len: bytes.len() as u64, hash: Blake3::of(&bytes) };
    failpoint("repo.segment.put")?;
    store.put(&keys::segment(id), bytes.clone())?;
    failpoint("repo.segment.stored")?;
    Ok((stored, bytes.try_into_mut().map(Vec::from).unwrap_or_default()))
}
