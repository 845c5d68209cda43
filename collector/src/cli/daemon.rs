//! `daemon`: runs all jobs by their schedules, or talks to the one that does.

use super::configuring::{File, Which};
use super::output::{Ending, print, print_json};
use super::show::{Table, bytes, duration, time};
use crate::config::Config;
use crate::daemon::{self, JobShown, Request, Shown, Verb};
use anyhow::Result;
use clap::{Args, Subcommand};
use std::time::Duration;

/// `daemon`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Daemon {
    #[command(subcommand)]
    ask: Option<Ask>,
    #[command(flatten)]
    file: File,
}

#[derive(Debug, Subcommand)]
enum Ask {
    /// What runs, what comes next, how the last runs ended; exit code 3 if one failed or is suspect
    #[command(after_help = "Example:\n  blkdelta daemon status --json")]
    Status(Which),
    /// Start a job now, whatever its schedule says
    #[command(after_help = "Example:\n  blkdelta daemon run system")]
    Run(One),
    /// Start no more jobs by schedule, or not this one; kept over a restart
    #[command(after_help = "Example:\n  blkdelta daemon pause system")]
    Pause(Choice),
    /// Start them again; what was missed is caught up once
    #[command(after_help = "Example:\n  blkdelta daemon resume")]
    Resume(Choice),
    /// Read the configuration again; what runs goes on; one with a mistake changes nothing
    #[command(after_help = "Example:\n  blkdelta config check && blkdelta daemon reload")]
    Reload(Which),
}

#[derive(Debug, Args)]
struct One {
    /// A job
    #[arg(value_name = "JOB")]
    job: String,
    #[command(flatten)]
    which: Which,
}

#[derive(Debug, Args)]
struct Choice {
    /// This job; else all
    #[arg(value_name = "JOB")]
    job: Option<String>,
    #[command(flatten)]
    which: Which,
}

impl Daemon {
    /// This process is to be the daemon.
    pub const fn serves(&self) -> bool {
        self.ask.is_none()
    }
}

/// Runs the daemon, or asks it.
pub fn daemon(args: Daemon) -> Result<Ending> {
    let (verb, job, which) = match args.ask {
        None => {
            daemon::serve(&args.file.path())?;
            return Ok(Ending::Fine);
        }
        Some(Ask::Status(which)) => (Verb::Status, None, which),
        Some(Ask::Run(one)) => (Verb::Run, Some(one.job), one.which),
        Some(Ask::Pause(some)) => (Verb::Pause, some.job, some.which),
        Some(Ask::Resume(some)) => (Verb::Resume, some.job, some.which),
        Some(Ask::Reload(which)) => (Verb::Reload, None, which),
    };
    // a file with a mistake does not keep anybody from asking
    let config = Config::load(&which.file.path()).unwrap_or_default();
    let shown = daemon::ask(&daemon::socket(&config), &Request { verb, job })?;
    if which.json {
        print_json(&shown)?;
    } else {
        print(&words(&shown))?;
    }
    let bad = |job: &JobShown| job.memory.failures > 0 || job.runs.back().is_some_and(|r| r.result != "ok");
    Ok(if verb == Verb::Status && shown.jobs.iter().any(bad) { Ending::Suspect } else { Ending::Fine })
}

fn words(shown: &Shown) -> String {
    let mut table = Table::new(&["job", "of", "when", "state", "last run (UTC)", "", ">stored", ">took"]);
    let mut reasons = String::new();
    for job in &shown.jobs {
        let last = job.runs.back();
        let took = last.map(|r| duration(Duration::from_millis(r.ended.saturating_sub(r.began))));
        table.row([
            job.name.clone(),
            job.device.clone(),
            job.when.clone(),
            state(job, shown.now),
            last.map_or_else(|| "-".into(), |r| time(r.began)),
            last.map(|r| r.result.clone()).unwrap_or_default(),
            last.filter(|r| r.point.is_some()).map(|r| bytes(r.stored_bytes)).unwrap_or_default(),
            took.unwrap_or_default(),
        ]);
        let why = last.and_then(|r| r.error.clone().or_else(|| r.suspect.first().cloned()));
        reasons +=
            &why.map(|why| format!("{}: {}\n", job.name, why.replace('\n', "\n  "))).unwrap_or_default();
    }
    if let Some(why) = &shown.unwritten {
        reasons += &format!("the daemon's memory cannot be written: {why}\n");
    }
    if shown.stopping {
        reasons += "it is stopping\n";
    }
    format!("{table}{reasons}")
}

fn state(job: &JobShown, now: u64) -> String {
    let ms = |ms: u64| duration(Duration::from_millis(ms));
    match (job.memory.running, job.next) {
        (Some(since), _) => format!("runs for {}", ms(now.saturating_sub(since))),
        (None, Some(at)) if at <= now => "waits for its turn".into(),
        (None, Some(at)) if job.memory.failures > 0 => format!("again in {}", ms(at - now)),
        (None, Some(at)) => format!("in {}", ms(at - now)),
        (None, None) if job.memory.paused => "paused".into(),
        (None, None) => "when asked".into(),
    }
}
