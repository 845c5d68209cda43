//! Signals and systemd: what tells the daemon to stop or reload, and whom it tells that it lives.

use super::engine::Event;
use crate::error::{Context, Result};
use sd_notify::NotifyState;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};

/// SIGTERM and SIGINT stop, SIGHUP reloads; a second SIGTERM or SIGINT ends the process at once.
///
/// # Errors
/// If signals cannot be waited for.
pub fn listen(events: Sender<Event>) -> Result<()> {
    let what = || "listen for signals".to_owned();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().os_context(what)?;
    let inside = runtime.enter();
    let mut interrupt = signal(SignalKind::interrupt()).os_context(what)?;
    let mut terminate = signal(SignalKind::terminate()).os_context(what)?;
    let mut hangup = signal(SignalKind::hangup()).os_context(what)?;
    drop(inside);
    let run = move || {
        runtime.block_on(async {
            let mut stopping = false;
            loop {
                let event = tokio::select! {
                    _ = interrupt.recv() => Event::Stop,
                    _ = terminate.recv() => Event::Stop,
                    _ = hangup.recv() => Event::Reload,
                };
                let stop = matches!(event, Event::Stop);
                if stop && std::mem::replace(&mut stopping, stop) {
                    std::process::exit(130);
                }
                if events.send(event).is_err() {
                    return;
                }
            }
        });
    };
    std::thread::Builder::new().name("signals".into()).spawn(run).os_context(what)?;
    Ok(())
}

/// What systemd is told; nothing where it did not start us.
pub struct Lifesign {
    every: Option<Duration>,
    last: Instant,
    stopping: bool,
}

impl Lifesign {
    /// Everything listens.
    pub fn ready(jobs: usize) -> Self {
        let status = format!("{jobs} jobs");
        tell(&[NotifyState::Ready, NotifyState::Status(&status)]);
        Self {
            every: sd_notify::watchdog_enabled().map(|limit| limit / 3),
            last: Instant::now(),
            stopping: false,
        }
    }

    /// The loop turns, and the end has begun or not. Called at least once a second.
    pub fn alive(&mut self, stopping: bool) {
        if stopping && !std::mem::replace(&mut self.stopping, true) {
            tell(&[NotifyState::Stopping]);
        }
        if self.every.is_some_and(|every| self.last.elapsed() >= every) {
            self.last = Instant::now();
            tell(&[NotifyState::Watchdog]);
        }
    }
}

fn tell(what: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(what) {
        log::debug!("systemd was not told: {error}");
    }
}
