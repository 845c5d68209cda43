//! Backups one after the other, every so often, until told to stop.
//!
//! What must stay true: never two at once; a stop lets the running one finish; a failure is reported and the
//! next round comes all the same.

use crate::error::{Context, Error, Kind, Result};
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::MissedTickBehavior;

/// Calls `round` now and every `period`, on a thread of its own, until Ctrl-C or SIGTERM, or until `round`
/// returns false. Returns the number of rounds.
///
/// # Errors
/// If signals cannot be waited for, or the round's thread panicked.
pub fn watch(period: Duration, round: impl Fn() -> bool + Send + Sync + 'static) -> Result<u64> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .os_context(|| "set up the clock of watch".into())?;
    runtime.block_on(rounds(period, Arc::new(round)))
}

async fn rounds(period: Duration, round: Arc<dyn Fn() -> bool + Send + Sync>) -> Result<u64> {
    let mut stop = Stop::new()?;
    // at least a millisecond: an interval of zero is a panic
    let mut clock = tokio::time::interval(period.max(Duration::from_millis(1)));
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut done = 0;
    loop {
        tokio::select! {
            biased;
            () = stop.wait() => return Ok(done),
            _ = clock.tick() => {}
        }
        let round = Arc::clone(&round);
        let mut running = tokio::task::spawn_blocking(move || round());
        let (go_on, asked) = tokio::select! {
            end = &mut running => (end, false),
            () = stop.wait() => (running.await, true),
        };
        done += 1;
        let go_on = go_on.map_err(|e| Error::caused(Kind::Bug, "a round of watch", e))?;
        if asked || !go_on {
            return Ok(done);
        }
    }
}

/// The two signals that ask for an end.
struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    fn new() -> Result<Self> {
        let listen = |kind| signal(kind).os_context(|| "listen for signals".into());
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use std::time::Instant;

    #[test]
    fn rounds_never_overlap_and_end_when_told() {
        let spans = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&spans);
        let rounds = watch(Duration::from_millis(5), move || {
            let start = Instant::now();
            std::thread::sleep(Duration::from_millis(12));
            let mut seen = seen.lock().unwrap();
            seen.push((start, Instant::now()));
            seen.len() < 4
        });
        assert_eq!(rounds.unwrap(), 4);
        for pair in spans.lock().unwrap().windows(2) {
            assert!(pair[0].1 <= pair[1].0);
        }
    }
}
