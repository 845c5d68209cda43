//! The threads of a pass, and how they stop.
//!
//! What must stay true: a reader takes a buffer before it takes a task, so the lowest task in flight always has
//! one and the order can be restored without a bound of its own; a buffer goes back when the last frame that shows a
//! part of it is gone; the first failure stops everyone, and the thread that writes keeps letting frames go until all
//! others have ended, so nobody waits for ever.

use super::plan::{Plan, TASK, Task};
use super::{Copied, How, Watch, interrupted, judge};
use crate::error::{Error, Result};
use crate::format::{EncodedFrame, encode_shared};
use crate::seal::Session;
use crate::source::Source;
use crate::sys::direct::{ALIGN, AlignedBuf};
use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// Buffers, and so tasks, in flight at least and at most: with the frames made of them at most twice as many MiB.
const BUFFERS: [usize; 2] = [12, 36];

struct Read {
    task: Task,
    bytes: Bytes,
}

struct Done {
    task: Task,
    /// The buffer: held until the frames are written, so that nothing runs ahead of them for ever.
    _bytes: Bytes,
    frames: Vec<EncodedFrame>,
}

/// A buffer that goes back to the pool when nobody looks at it any more.
struct Lent {
    buf: Option<AlignedBuf>,
    give: Sender<AlignedBuf>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        self.buf.as_deref().unwrap_or_default()
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let _ = self.buf.take().map(|buf| self.give.send(buf));
    }
}

/// What all threads of a pass share.
struct Shared<'a> {
    source: &'a dyn Source,
    plan: Mutex<Plan<'a>>,
    how: How,
    /// Seals the frames, in an encrypted repository.
    session: Option<Arc<Session>>,
    watch: &'a dyn Watch,
    failed: AtomicBool,
    error: Mutex<Option<Error>>,
}

impl Shared<'_> {
    /// Remembers the first failure and stops everyone.
    fn fail(&self, error: Error) {
        let mut first = self.error.lock().unwrap_or_else(|e| e.into_inner());
        first.get_or_insert(error);
        self.failed.store(true, Ordering::Release);
    }

    fn over(&self) -> bool {
        if self.watch.stopped() && !self.failed.load(Ordering::Acquire) {
            self.fail(interrupted());
        }
        self.failed.load(Ordering::Acquire)
    }
}

/// Runs a plan; `keep` gets the frames in ascending order, on this thread.
pub(super) fn run<'a>(
    source: &'a dyn Source,
    plan: Plan<'a>,
    (how, session): (How, Option<Arc<Session>>),
    watch: &'a dyn Watch,
    keep: &mut dyn FnMut(EncodedFrame) -> Result<()>,
) -> Result<Copied> {
    let shared = Shared {
        source,
        plan: Mutex::new(plan),
        how,
        session,
        watch,
        failed: AtomicBool::new(false),
        error: Mutex::new(None),
    };
    let small = shared.plan.lock().unwrap_or_else(|e| e.into_inner()).is_one_task();
    let copied = if small { alone(&shared, keep) } else { threads(&shared, keep) };
    match shared.error.into_inner().unwrap_or_else(|e| e.into_inner()) {
        Some(error) => Err(error),
        None => Ok(copied),
    }
}

/// A plan of one task at most: starting threads would take longer than the work (the last pass of a frozen file
/// system is such a plan).
fn alone(shared: &Shared<'_>, keep: &mut dyn FnMut(EncodedFrame) -> Result<()>) -> Copied {
    let mut copied = Copied::default();
    let (mut buf, mut scratch) = (AlignedBuf::new(0), AlignedBuf::new(0));
    loop {
        match next(shared, &mut buf, &mut scratch) {
            Ok(Some(task)) => {
                let frames = encode(shared, &task, &buf, &Bytes::copy_from_slice);
                settle(shared, &task, frames, &mut copied, keep);
            }
            Ok(None) => return copied,
            Err(error) => shared.fail(error),
        }
    }
}

fn threads(shared: &Shared<'_>, keep: &mut dyn FnMut(EncodedFrame) -> Result<()>) -> Copied {
    let (give, pool) = unbounded();
    let buffers = (shared.how.readers + 3 * shared.how.compressors).clamp(BUFFERS[0], BUFFERS[1]);
    for _ in 0..buffers {
        let _ = give.send(AlignedBuf::new(TASK as usize + 2 * ALIGN));
    }
    let (read_to, to_encode) = bounded(buffers);
    let (encoded_to, to_write) = bounded(buffers);
    std::thread::scope(|scope| {
        for _ in 0..shared.how.readers.max(1) {
            let (pool, give, read_to) = (pool.clone(), give.clone(), read_to.clone());
            scope.spawn(move || readers(shared, &pool, &give, &read_to));
        }
        for _ in 0..shared.how.compressors.max(1) {
            let (to_encode, encoded_to) = (to_encode.clone(), encoded_to.clone());
            scope.spawn(move || compressors(shared, &to_encode, &encoded_to));
        }
        drop((read_to, encoded_to, to_encode, pool, give));
        write(shared, &to_write, keep)
    })
}

/// Takes tasks until the plan is empty or someone failed. Its last buffer goes back in any case: it is what
/// wakes the reader that waits for one.
fn readers(shared: &Shared<'_>, pool: &Receiver<AlignedBuf>, give: &Sender<AlignedBuf>, out: &Sender<Read>) {
    let mut scratch = AlignedBuf::new(0);
    while let Ok(mut buf) = pool.recv() {
        match next(shared, &mut buf, &mut scratch) {
            Ok(Some(task)) => {
                let bytes = Bytes::from_owner(Lent { buf: Some(buf), give: give.clone() });
                if out.send(Read { task, bytes }).is_err() {
                    return;
                }
                continue;
            }
            Ok(None) => {}
            Err(error) => shared.fail(error),
        }
        let _ = give.send(buf);
        return;
    }
}

/// Reads the next task into `buf`.
fn next(shared: &Shared<'_>, buf: &mut AlignedBuf, scratch: &mut AlignedBuf) -> Result<Option<Task>> {
    if shared.over() {
        return Ok(None);
    }
    let task = shared.plan.lock().unwrap_or_else(|e| e.into_inner()).next();
    let Some(task) = task.transpose()? else { return Ok(None) };
    if let [run] = task.runs[..] {
        shared.source.read_at(run.offset, buf, run.length as usize)?;
        return Ok(Some(task));
    }
    buf.resize(task.bytes() as usize);
    let mut at = 0;
    for run in &task.runs {
        shared.source.read_at(run.offset, scratch, run.length as usize)?;
        buf[at..at + scratch.len()].copy_from_slice(scratch);
        at += scratch.len();
    }
    Ok(Some(task))
}

fn compressors(shared: &Shared<'_>, input: &Receiver<Read>, out: &Sender<Done>) {
    for Read { task, bytes } in input {
        let frames = encode(shared, &task, &bytes, &|raw| bytes.slice_ref(raw));
        if out.send(Done { task, _bytes: bytes, frames }).is_err() {
            return;
        }
    }
}

/// The frames of a task; none after a failure, which it tells everyone. `share` gives a part of `bytes` to a frame.
fn encode(
    shared: &Shared<'_>,
    task: &Task,
    bytes: &[u8],
    share: &dyn Fn(&[u8]) -> Bytes,
) -> Vec<EncodedFrame> {
    let mut frames = Vec::new();
    let encoded = judge::runs(task, bytes, |extent, raw| {
        let frame = encode_shared(extent, raw, shared.how.compression, || share(raw))?;
        frames.push(match &shared.session {
            Some(session) => frame.sealed(session)?,
            None => frame,
        });
        Ok(())
    });
    if let Err(error) = encoded {
        shared.fail(error);
    }
    frames
}

/// Puts the tasks back in order and hands their frames on.
fn write(
    shared: &Shared<'_>,
    input: &Receiver<Done>,
    keep: &mut dyn FnMut(EncodedFrame) -> Result<()>,
) -> Copied {
    let mut copied = Copied::default();
    let mut early = BTreeMap::new();
    let mut next = 0;
    for done in input {
        early.insert(done.task.number, done);
        while let Some(done) = early.remove(&next) {
            next += 1;
            if !shared.over() {
                settle(shared, &done.task, done.frames, &mut copied, keep);
            }
        }
        if shared.over() {
            // order is of no use any more; the readers may be waiting for the buffers of these
            early.clear();
        }
    }
    copied
}

fn settle(
    shared: &Shared<'_>,
    task: &Task,
    frames: Vec<EncodedFrame>,
    copied: &mut Copied,
    keep: &mut dyn FnMut(EncodedFrame) -> Result<()>,
) {
    for frame in frames {
        copied.kept += frame.meta.extent.length;
        copied.frames += 1;
        if let Err(error) = keep(frame) {
            return shared.fail(error);
        }
    }
    copied.read += task.bytes();
    shared.watch.advance(task.bytes());
}
