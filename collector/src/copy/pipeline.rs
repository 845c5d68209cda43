//! The threads of a pass, and how they stop.
//!
//! What must stay true: a reader takes a buffer before it takes a task, so the lowest task in flight always has
//! one and the order can be restored without a bound of its own; the first failure stops everyone, and the
//! thread that writes keeps giving buffers back until all others have ended, so nobody waits for ever.

use super::plan::{Plan, TASK, Task};
use super::{Copied, How, Watch, interrupted, judge};
use crate::error::{Error, Result};
use crate::format::{EncodedFrame, encode_frame};
use crate::seal::Session;
use crate::source::Source;
use crate::sys::direct::{ALIGN, AlignedBuf};
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// Buffers, and so tasks, in flight: with the frames made of them at most twice as many MiB.
const BUFFERS: usize = 24;

struct Read {
    task: Task,
    buf: AlignedBuf,
}

struct Done {
    task: Task,
    buf: AlignedBuf,
    frames: Vec<EncodedFrame>,
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
                let frames = encode(shared, &task, &buf);
                settle(shared, &task, frames, &mut copied, keep);
            }
            Ok(None) => return copied,
            Err(error) => shared.fail(error),
        }
    }
}

fn threads(shared: &Shared<'_>, keep: &mut dyn FnMut(EncodedFrame) -> Result<()>) -> Copied {
    let (give, pool) = unbounded();
    for _ in 0..BUFFERS {
        let _ = give.send(AlignedBuf::new(TASK as usize + 2 * ALIGN));
    }
    let (read_to, to_encode) = bounded(BUFFERS);
    let (encoded_to, to_write) = bounded(BUFFERS);
    std::thread::scope(|scope| {
        for _ in 0..shared.how.readers.max(1) {
            let (pool, give, read_to) = (pool.clone(), give.clone(), read_to.clone());
            scope.spawn(move || readers(shared, &pool, &give, &read_to));
        }
        for _ in 0..shared.how.compressors.max(1) {
            let (to_encode, encoded_to) = (to_encode.clone(), encoded_to.clone());
            scope.spawn(move || compressors(shared, &to_encode, &encoded_to));
        }
        drop((read_to, encoded_to, to_encode, pool));
        write(shared, &to_write, &give, keep)
    })
}

/// Takes tasks until the plan is empty or someone failed. Its last buffer goes back in any case: it is what
/// wakes the reader that waits for one.
fn readers(shared: &Shared<'_>, pool: &Receiver<AlignedBuf>, give: &Sender<AlignedBuf>, out: &Sender<Read>) {
    let mut scratch = AlignedBuf::new(0);
    while let Ok(mut buf) = pool.recv() {
        match next(shared, &mut buf, &mut scratch) {
            Ok(Some(task)) => {
                if out.send(Read { task, buf }).is_err() {
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
    for Read { task, buf } in input {
        let frames = encode(shared, &task, &buf);
        if out.send(Done { task, buf, frames }).is_err() {
            return;
        }
    }
}

/// The frames of a task; none after a failure, which it tells everyone.
fn encode(shared: &Shared<'_>, task: &Task, bytes: &[u8]) -> Vec<EncodedFrame> {
    let mut frames = Vec::new();
    let encoded = judge::runs(task, bytes, |extent, raw| {
        let frame = encode_frame(extent, raw, shared.how.compression)?;
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
    give: &Sender<AlignedBuf>,
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
            let _ = give.send(done.buf);
        }
        if shared.over() {
            // order is of no use any more; the readers may be waiting for these buffers
            while let Some((_, done)) = early.pop_first() {
                let _ = give.send(done.buf);
            }
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
