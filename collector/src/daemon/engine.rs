//! The daemon's loop: events in, runs out. One thread decides; everything that may wait is on others.
//!
//! ```text
//!   signals ──┐
//!   control ──┼─▶ events ─▶ [ scheduler ─▶ memory written ─▶ child started ] ─▶ shown to metrics and page
//!   children ─┘                  ▲ at least once a second: the clock may have jumped
//! ```
//!
//! What must stay true: a run is written down before it begins and after it ended; nothing that can hang (a store, a
//! device, a hook) is touched by this thread; a configuration with a mistake changes nothing.

use super::child::{Running, Starter};
use super::clock::Clock;
use super::control::{Answer, Request, Verb};
use super::memory::{Found, State};
use super::report::Report;
use super::scheduler::{Limits, Plan, Scheduler};
use super::shown::{JobShown, Showcase, Shown};
use super::when::When;
use crate::config::{self, Config};
use crate::error::{Error, Kind, Result};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

/// What the loop hears of.
pub enum Event {
    /// A run ended.
    Ended(Box<Report>),
    /// Somebody asks.
    Asked(Request, Sender<Answer>),
    /// SIGTERM or SIGINT.
    Stop,
    /// SIGHUP.
    Reload,
}

/// The longest time between two looks at the clock.
const TICK: Duration = Duration::from_secs(1);

/// How long runs that were asked to stop are waited for.
const PATIENCE: Duration = Duration::from_secs(75);

/// The daemon.
pub struct Engine<C> {
    file: PathBuf,
    memory_file: PathBuf,
    config: Config,
    starter: Starter,
    clock: C,
    scheduler: Scheduler,
    state: State,
    running: BTreeMap<String, Running>,
    events: Sender<Event>,
    showcase: Arc<Showcase>,
    /// Why the memory could not be written.
    unwritten: Option<String>,
    writes_failed: u64,
    reloads_failed: u64,
    stopping: Option<Instant>,
}

impl<C: Clock> Engine<C> {
    /// With this file's configuration, and what is remembered.
    ///
    /// # Errors
    /// If the configuration has mistakes, or the memory cannot be read.
    pub fn new(
        file: PathBuf,
        memory_file: PathBuf,
        program: PathBuf,
        clock: C,
        events: Sender<Event>,
    ) -> Result<Self> {
        let text = config::text_of(&file)?;
        let config = Config::accept(&file, &text)?;
        let (mut state, found) = State::read(&memory_file)?;
        let now = clock.now();
        if let Found::Lost(aside) = &found {
            log::error!(
                "the daemon's memory was damaged and is set aside as {}: every job runs now",
                aside.display()
            );
            state.jobs =
                config.job.keys().map(|name| (name.clone(), super::scheduler::Memory::default())).collect();
        }
        let scheduler = Scheduler::new(plans(&config), limits(&config), std::mem::take(&mut state.jobs), now);
        let starter = Starter { program, configuration: text.into() };
        let mut engine = Self {
            file,
            memory_file,
            config,
            starter,
            clock,
            scheduler,
            state,
            events,
            running: BTreeMap::new(),
            showcase: Arc::default(),
            unwritten: None,
            writes_failed: 0,
            reloads_failed: 0,
            stopping: None,
        };
        engine.remember();
        engine.show();
        Ok(engine)
    }

    /// The configuration in use.
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// What others may look at.
    pub fn showcase(&self) -> Arc<Showcase> {
        Arc::clone(&self.showcase)
    }

    /// Runs until told to stop; `alive` is called at every turn, with true once that has begun.
    pub fn run(&mut self, events: &Receiver<Event>, alive: &mut dyn FnMut(bool)) {
        loop {
            alive(self.stopping.is_some());
            match self.stopping {
                None => self.start_runs(),
                Some(since) if self.running.is_empty() || since.elapsed() > PATIENCE => break,
                Some(_) => {}
            }
            match events.recv_timeout(self.patience()) {
                Ok(event) => self.handle(event),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.remember();
    }

    fn patience(&self) -> Duration {
        let now = self.clock.now();
        let next = self.scheduler.wake(now).map_or(TICK, |at| Duration::from_millis(at - now));
        next.clamp(Duration::from_millis(1), TICK)
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Ended(report) => self.ended(*report),
            Event::Asked(request, reply) => {
                let answer = self.answer(&request);
                let _ = reply.send(answer);
            }
            Event::Reload => {
                if let Err(error) = self.reload() {
                    log::error!("{}", error.in_full());
                }
            }
            Event::Stop => self.stop(),
        }
        self.show();
    }

    /// No new runs; those under way stop at the next opportunity and lose nothing.
    fn stop(&mut self) {
        log::info!("stopping; {} runs under way", self.running.len());
        self.stopping.get_or_insert_with(Instant::now);
        self.running.values().for_each(Running::stop);
    }

    fn start_runs(&mut self) {
        let started = self.scheduler.start(self.clock.now());
        if started.is_empty() {
            return;
        }
        self.remember();
        for name in started {
            let events = self.events.clone();
            log::info!(BLKDELTA_JOB = name.as_str(); "{name}: starts");
            let run = self.starter.start(&name, move |report| {
                let _ = events.send(Event::Ended(Box::new(report)));
            });
            match run {
                Ok(running) => {
                    self.running.insert(name, running);
                }
                Err(error) => {
                    let now = self.clock.now();
                    let error = Some(error.in_full());
                    self.ended(Report {
                        job: name,
                        result: "failed".into(),
                        began: now,
                        ended: now,
                        error,
                        ..Report::default()
                    });
                }
            }
        }
        self.show();
    }

    fn ended(&mut self, report: Report) {
        self.running.remove(&report.job);
        let succeeded = report.error.is_none();
        self.scheduler.ended(&report.job, succeeded, self.clock.now());
        say(&report);
        if self.config.job.contains_key(&report.job) {
            self.state.add(report);
        }
        self.remember();
    }

    /// Writes the memory; what cannot be written now is written the next time.
    fn remember(&mut self) {
        self.state.jobs = self.scheduler.memory().clone();
        let folder = self.memory_file.parent().map_or(Ok(()), std::fs::create_dir_all);
        let written = folder.map_err(|e| Error::os("make the folder of the daemon's memory", e));
        match written.and_then(|()| self.state.write(&self.memory_file)) {
            Ok(()) => self.unwritten = None,
            Err(error) => {
                self.writes_failed += 1;
                let why = error.in_full();
                if self.unwritten.is_none() {
                    log::error!("backups go on, but after a restart some may be made once more: {why}");
                }
                self.unwritten = Some(why);
            }
        }
    }

    fn reload(&mut self) -> Result<()> {
        let read =
            config::text_of(&self.file).and_then(|text| Ok((Config::accept(&self.file, &text)?, text)));
        let (config, text) = read.inspect_err(|_| self.reloads_failed += 1)?;
        self.scheduler.replan(plans(&config), limits(&config), self.clock.now());
        self.state.runs.retain(|name, _| config.job.contains_key(name));
        (self.config, self.starter.configuration) = (config, text.into());
        self.remember();
        log::info!("{} is in use, {} jobs", self.file.display(), self.config.job.len());
        Ok(())
    }

    fn answer(&mut self, request: &Request) -> Answer {
        let done = match (request.verb, request.job.as_deref()) {
            (Verb::Status, _) => Ok(()),
            (Verb::Reload, _) => self.reload(),
            (Verb::Run, Some(job)) => self.known(job).map(|()| {
                self.scheduler.ask(job);
            }),
            (Verb::Run, None) => {
                Err(Error::new(Kind::Usage, "run which job?").hint("blkdelta daemon run JOB"))
            }
            (verb @ (Verb::Pause | Verb::Resume), job) => self.pause(job, verb == Verb::Pause),
        };
        if done.is_ok() && request.verb != Verb::Status {
            self.remember();
        }
        self.show();
        match done {
            Ok(()) => Answer::fine(&self.showcase.look()),
            Err(error) => Answer::refused(&error),
        }
    }

    fn known(&self, job: &str) -> Result<()> {
        self.config.job(job).map(|_| ())
    }

    fn pause(&mut self, job: Option<&str>, paused: bool) -> Result<()> {
        let names: Vec<String> = match job {
            Some(job) => {
                self.known(job)?;
                vec![job.to_owned()]
            }
            None => self.config.job.keys().cloned().collect(),
        };
        names.iter().for_each(|name| {
            self.scheduler.pause(name, paused);
        });
        Ok(())
    }

    /// What metrics and page see from now on.
    fn show(&self) {
        let now = self.clock.now();
        let job = |(name, table): (&String, &config::JobTable)| {
            let memory = self.scheduler.memory().get(name).cloned().unwrap_or_default();
            let device = table.device.as_ref().and_then(|d| self.config.device.get(d));
            let subject =
                device.map(|d| d.named()).or_else(|| table.group.as_ref().map(|g| format!("group {g}")));
            JobShown {
                name: name.clone(),
                device: subject.unwrap_or_default(),
                repository: table.repository.clone(),
                when: table.when(),
                next: self.scheduler.due(name, now),
                runs: self.state.runs.get(name).cloned().unwrap_or_default(),
                memory,
            }
        };
        self.showcase.put(Shown {
            now,
            jobs: self.config.job.iter().map(job).collect(),
            stopping: self.stopping.is_some(),
            unwritten: self.unwritten.clone(),
            writes_failed: self.writes_failed,
            reloads_failed: self.reloads_failed,
        });
    }
}

/// One line of the journal for a run.
fn say(report: &Report) {
    let (job, device) = (report.job.as_str(), report.device.as_str());
    let point = report.point.as_deref().unwrap_or("");
    let ms = report.ended.saturating_sub(report.began);
    match (&report.error, report.suspect.is_empty()) {
        (Some(why), _) => log::error!(
            BLKDELTA_JOB = job, BLKDELTA_DEVICE = device, BLKDELTA_RESULT = "failed", BLKDELTA_MILLISECONDS = ms;
            "{job}: failed; its difference is kept: {why}"
        ),
        (None, true) => log::info!(
            BLKDELTA_JOB = job, BLKDELTA_DEVICE = device, BLKDELTA_RESULT = "ok", BLKDELTA_POINT = point,
            BLKDELTA_STORED_BYTES = report.stored_bytes, BLKDELTA_MILLISECONDS = ms;
            "{job}: {} point {point}, {} bytes stored, {ms} ms", report.kind, report.stored_bytes
        ),
        (None, false) => log::warn!(
            BLKDELTA_JOB = job, BLKDELTA_DEVICE = device, BLKDELTA_RESULT = "suspect", BLKDELTA_POINT = point,
            BLKDELTA_STORED_BYTES = report.stored_bytes, BLKDELTA_MILLISECONDS = ms;
            "{job}: {} point {point} is suspect: {}", report.kind, report.suspect.join("; ")
        ),
    }
}

/// The jobs, as the scheduler wants them.
pub(super) fn plans(config: &Config) -> BTreeMap<String, Plan> {
    let plan = |(name, job): (&String, &config::JobTable)| {
        let claim = match (&job.device, &job.group) {
            (Some(device), _) => format!("device {device}"),
            (None, Some(group)) => format!("group {group}"),
            (None, None) => name.clone(),
        };
        let plan = Plan {
            when: When::of(job),
            jitter: job.jitter.as_ref().map_or(0, |time| time.as_millis() as u64),
            windows: job.window.iter().map(|window| **window).collect(),
            claims: [claim].into(),
        };
        (name.clone(), plan)
    };
    config.job.iter().map(plan).collect()
}

/// What holds for all of them.
pub(super) fn limits(config: &Config) -> Limits {
    Limits {
        at_once: config.daemon.at_once as usize,
        retry_first: config.daemon.retry_first.as_millis() as u64,
        retry_most: config.daemon.retry_most.as_millis() as u64,
    }
}
