//! The face to people: parses, calls one library function, prints, and maps the end to an exit code.
//!
//! What must stay true: standard output gets the result and nothing else; exit codes are 0 done, 1 failed, 2 wrong
//! usage, 3 done but suspect or damaged.

mod args;
mod auditing;
mod checking;
mod compacting;
mod comparing;
mod copying;
mod exporting;
mod grouping;
mod keeping;
mod keys;
mod listing;
mod living;
mod making;
mod monitor;
mod output;
mod progress;
mod reach;
mod repairing;
mod restoring;
mod show;
mod starting;
mod tracking;
mod unlock;
mod unpacking;

use anyhow::Result;
use args::{Cli, Verb};
use clap::Parser;
use output::Ending;
use std::process::ExitCode;

/// The program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    match run(cli) {
        Ok(ending) => ending.into(),
        Err(error) => {
            output::say(&output::explain(&error));
            output::code(&error)
        }
    }
}

fn run(cli: Cli) -> Result<Ending> {
    let source = unlock::Source::new(cli.unlock);
    crate::repository::choose_keys(Box::new(source.clone()));
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
        Verb::Diff(args) => comparing::diff(&args),
        Verb::Backup(args) => making::backup(&args),
        Verb::Group(args) => grouping::group(&args),
        Verb::KeepSince(args) => starting::keep_since(&args),
        Verb::Watch(args) => making::watch(args),
        Verb::Monitor(args) => monitor::monitor(args),
        Verb::Audit(args) => auditing::audit(&args),
        Verb::List(args) => listing::list(&args),
        Verb::Check(args) => checking::check(&args),
        Verb::Copy(args) => copying::copy(&args),
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
