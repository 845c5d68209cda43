//! A thread that does one step after the other until it is told to stop.

use anyhow::{Context, Result, anyhow};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// What a worker does.
pub trait Step: Send + 'static {
    /// Once; how long to wait before the next time.
    ///
    /// # Errors
    /// What a writer must not meet: the soak fails.
    fn step(&mut self) -> Result<Duration>;
}

/// The thread; it stops when this is dropped.
pub struct Worker {
    name: String,
    stop: Arc<AtomicBool>,
    steps: Arc<AtomicU64>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Worker {
    /// Starts it.
    pub fn start(name: &str, mut work: impl Step) -> Result<Self> {
        let (stop, steps) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&steps));
        let thread = std::thread::Builder::new().name(name.into()).spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let pause = work.step()?;
                count.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(pause);
            }
            Ok(())
        });
        let thread = Some(thread.with_context(|| format!("start {name}"))?);
        Ok(Self { name: name.into(), stop, steps, thread })
    }

    /// Steps made until now.
    pub fn steps(&self) -> u64 {
        self.steps.load(Ordering::Relaxed)
    }

    /// It still works: an error with what it met if it does not.
    pub fn ensure_alive(&mut self) -> Result<()> {
        match &self.thread {
            Some(thread) if thread.is_finished() => self.end(),
            _ => Ok(()),
        }
    }

    /// Stops it; an error if it had to before.
    pub fn stop(mut self) -> Result<u64> {
        self.end()?;
        Ok(self.steps())
    }

    fn end(&mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map_or(Ok(Ok(())), JoinHandle::join);
        ended.map_err(|_| anyhow!("{} panicked", self.name))?.with_context(|| self.name.clone())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // an error of its own is only news if nothing else went wrong, and then `stop` has it
        let _ = self.end();
    }
}
