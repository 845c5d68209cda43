//! The face to people: parses, calls one library function, prints, and maps the end to an exit code.
//!
//! What must stay true: standard output gets the result and nothing else; exit codes are 0 done, 1 failed, 2 wrong
//! usage, 3 done but suspect or damaged.

mod afterwards;
mod args;
mod auditing;
mod checking;
mod compacting;
mod comparing;
mod configuring;
mod copying;
mod daemon;
mod exporting;
mod grouping;
mod keeping;
mod keys;
mod listing;
mod living;
mod looking;
mod making;
mod monitor;
mod output;
mod progress;
mod reach;
mod repairing;
mod restoring;
mod running;
mod show;
mod starting;
mod tracking;
mod unlock;
mod unpacking;

use anyhow::Result;
use args::{Cli, Verb};
use clap::{CommandFactory, Parser};
use output::Ending;
use std::process::ExitCode;

/// The command line itself: man pages and completions are made from it (`packaging`).
pub fn command() -> clap::Command {
    Cli::command()
}

/// The program.
pub fn main() -> ExitCode {
    crate::sys::look_up_names_alone();
    let cli = Cli::parse();
    log_to(cli.verb.serves());
    match run(cli) {
        Ok(ending) => ending.into(),
        Err(error) => {
            output::say(&output::explain(&error));
            output::code(&error)
        }
    }
}

/// Log records go to standard error; those of the daemon with their fields to the journal, if systemd started it.
fn log_to(daemon: bool) {
    let filter = if daemon { "info" } else { "warn" };
    let logger = env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(filter)).build();
    let (level, in_service) = (logger.filter(), systemd_journal_logger::connected_to_journal());
    if daemon
        && in_service
        && let Ok(journal) = systemd_journal_logger::JournalLog::new()
        && journal.install().is_ok()
    {
        log::set_max_level(level);
    } else if log::set_boxed_logger(Box::new(logger)).is_ok() {
        log::set_max_level(level);
    }
}

fn run(cli: Cli) -> Result<Ending> {
    let source = unlock::Source::new(cli.unlock);
    if !matches!(cli.verb, Verb::Run(_)) {
        // the repository of a job may have keys of its own: `run` chooses when it knows them
        crate::repository::choose_keys(Box::new(source.clone()));
    }
    cli.reach.choose();
    if cli.verb.looks_at_the_kernel() {
        // what an older version left in the kernel is taken over before anybody looks at it
        crate::tracker::migrate(&crate::tracker::Places::from_env())?;
    }
    let ending = match cli.verb {
        Verb::Track(args) => tracking::track(&args),
        Verb::Untrack(args) => tracking::untrack(&args),
        Verb::Save(args) => living::save(&args),
        Verb::Resume(args) => living::resume(&args),
        Verb::Status(args) => tracking::status(&args),
        Verb::Top(args) => looking::top(&args),
        Verb::Doctor(args) => looking::doctor(&args, &source),
        Verb::Daemon(args) => daemon::daemon(args),
        Verb::Diff(args) => comparing::diff(&args),
        Verb::Backup(args) => making::backup(&args),
        Verb::Group(args) => grouping::group(&args),
        Verb::KeepSince(args) => starting::keep_since(&args),
        Verb::Watch(args) => making::watch(args),
        Verb::Monitor(args) => monitor::monitor(args),
        Verb::Run(args) => running::run(&args, &source),
        Verb::Audit(args) => auditing::audit(&args),
        Verb::List(args) => listing::list(&args),
        Verb::Check(args) => checking::check(&args),
        Verb::Config(args) => configuring::config(&args),
        Verb::Copy(args) => copying::copy(&args, &source),
        Verb::Repair(args) => repairing::repair(&args),
        Verb::Merge(args) => keeping::merge(&args),
        Verb::Prune(args) => keeping::prune(&args),
        Verb::Init(args) => keys::init(&args, &source),
        Verb::Key(args) => keys::key(&args, &source),
        Verb::Compact(args) => compacting::compact(&args, cli.reach.bandwidth()),
        Verb::Restore(args) => restoring::restore(&args),
        Verb::Cat(args) => exporting::cat(&args),
        Verb::Export(args) => exporting::export(&args),
    }?;
    // a repository that is not as this host had left it
    Ok(if source.went_back() { Ending::Suspect } else { ending })
}
