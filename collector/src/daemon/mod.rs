//! All jobs of the configuration, by their schedules: `blkdelta daemon`.
//!
//! ```text
//!   config ─▶ engine ─▶ scheduler (pure) ─▶ child: blkdelta run JOB ─▶ report ─▶ memory, metrics, page
//!               ▲ signals, control socket
//! ```
//!
//! What must stay true: everything it does can be done without it (`blkdelta run`); it decides when, and never touches
//! a device or a store itself, so that none of them can hold it up; killed at any time it goes on where it was.

mod child;
mod clock;
mod control;
mod devices;
mod engine;
mod http;
mod memory;
mod metrics;
mod openmetrics;
mod page;
mod report;
mod scheduler;
mod shown;
mod signals;
mod when;

pub use control::{Request, Verb, ask};
pub use report::{Report, stripes};
pub use scheduler::Memory;
pub use shown::{JobShown, Shown};

use crate::config::Config;
use crate::error::{Context, Result};
use crate::tracker::Places;
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::channel;

/// Where the control socket is.
pub fn socket(config: &Config) -> PathBuf {
    config.daemon.socket.clone().unwrap_or_else(|| Places::from_env().state().join("daemon.sock"))
}

/// The file of what it remembers.
fn memory_file(places: &Places) -> PathBuf {
    places.lib().join("daemon/state.json")
}

/// What a daemon remembers of its jobs, running or not.
#[derive(Clone, Debug, Default)]
pub struct Remembered {
    /// What the scheduler knows of each job.
    pub jobs: BTreeMap<String, Memory>,
    /// The last runs of each, oldest first.
    pub runs: BTreeMap<String, VecDeque<Report>>,
}

/// What there is to be remembered; nothing where no daemon ever ran, or its file cannot be read.
pub fn remembered(places: &Places) -> Remembered {
    let state = memory::State::peek(&memory_file(places)).unwrap_or_default();
    Remembered { jobs: state.jobs, runs: state.runs }
}

/// Jobs that should have run by `now` and did not, each with the moment that it is due since; not those that run, are
/// paused, or were never seen by a daemon.
pub fn overdue(config: &Config, jobs: &BTreeMap<String, Memory>, now: u64) -> BTreeMap<String, u64> {
    let waiting = jobs.iter().filter(|(_, memory)| memory.running.is_none() && !memory.paused);
    // a retry comes later; what is not covered is the same
    let bare = |memory: &Memory| Memory { failures: 0, retry_at: None, ..memory.clone() };
    let known: BTreeMap<String, Memory> =
        waiting.map(|(name, memory)| (name.clone(), bare(memory))).collect();
    let names: Vec<String> = known.keys().cloned().collect();
    let scheduler = scheduler::Scheduler::new(engine::plans(config), engine::limits(config), known, now);
    let due = |name: String| Some((scheduler.due(&name, now).filter(|due| *due <= now)?, name));
    names.into_iter().filter_map(due).map(|(due, name)| (name, due)).collect()
}

/// Metrics and page, if they are switched on.
fn watched(config: &Config, engine: &engine::Engine<clock::System>) -> Result<()> {
    let (daemon, lookout) = (&config.daemon, Arc::<devices::Lookout>::default());
    let group = daemon.socket_group.as_deref();
    if let Some(listen) = &daemon.metrics {
        let (showcase, lookout) = (engine.showcase(), Arc::clone(&lookout));
        let answer = move |asked: &http::Asked| match asked.path.as_str() {
            "/metrics" => {
                http::Reply::fine(openmetrics::MEDIA_TYPE, metrics::text(&showcase.look(), &lookout.look()))
            }
            _ => http::Reply::refused(404, "there is only /metrics"),
        };
        http::serve(listen, group, Arc::new(answer))?;
    }
    if let (Some(listen), Some(token)) = (&daemon.page, &daemon.page_token_file) {
        http::serve(listen, group, page::answerer(token, engine.showcase(), lookout)?)?;
    }
    Ok(())
}

/// Runs the daemon until it is told to stop.
///
/// # Errors
/// If the configuration has mistakes, another daemon is there, or what it listens at cannot be had.
pub fn serve(file: &Path) -> Result<()> {
    let config = Config::load(file)?;
    let (events, heard) = channel();
    // first: whoever has it is the only one who writes the memory
    let _lock = control::listen(&socket(&config), config.daemon.socket_group.as_deref(), events.clone())?;
    signals::listen(events.clone())?;
    let memory = memory_file(&Places::from_env());
    let program = std::env::current_exe().os_context(|| "find this program's own file".into())?;
    let mut engine = engine::Engine::new(file.into(), memory, program, clock::System, events)?;
    watched(&config, &engine)?;
    let mut lifesign = signals::Lifesign::ready(engine.config().job.len());
    log::info!("{} jobs of {}", engine.config().job.len(), file.display());
    engine.run(&heard, &mut |stopping| lifesign.alive(stopping));
    log::info!("stopped");
    Ok(())
}
