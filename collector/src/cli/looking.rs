//! `top`: what is tracked, on a terminal or as one frame of text; `doctor`: what would keep this host from being protected.

use super::configuring::Which;
use super::output::{Ending, print, print_json, say};
use super::running;
use super::unlock::Source;
use crate::config::RepositoryTable;
use crate::config::values::duration;
use crate::doctor::{self, Finding, Level};
use crate::repository::{KeySource, NoKey, Repository};
use crate::top::{self, Wishes};
use crate::tracker::Places;
use anyhow::Result;
use clap::Args;
use std::path::PathBuf;
use std::time::Duration;

/// `top`.
#[derive(Debug, Args)]
pub struct Top {
    /// Only these; by default all that are tracked, also later
    #[arg(value_name = "DEV")]
    devices: Vec<PathBuf>,
    /// Time between two looks, from 100 ms to 10 min; s and f change it
    #[arg(long, default_value = "2s", value_parser = duration, value_name = "TIME")]
    interval: Duration,
    /// Look twice, an interval apart, print one frame as plain text and end: exit code 3 if a device is suspect
    #[arg(long)]
    once: bool,
    /// Columns of that frame
    #[arg(long, requires = "once", default_value_t = 80, value_name = "N", value_parser = clap::value_parser!(u16).range(40..=500))]
    columns: u16,
    /// Do not have the kernel report every write and time the programs meanwhile: looking then costs writers nothing,
    /// places come from what the list gained, and the cost is known only where kernel.bpf_stats_enabled is 1
    #[arg(long)]
    light: bool,
}

/// Shows what is tracked.
pub fn top(args: &Top) -> Result<Ending> {
    let places = Places::from_env();
    let wishes = Wishes { devices: args.devices.clone(), interval: args.interval, light: args.light };
    if !args.once {
        top::watch(&places, &wishes)?;
        return Ok(Ending::Fine);
    }
    let frame = top::once(&places, &wishes, args.columns)?;
    print(&frame.text)?;
    frame.notes.iter().for_each(|note| say(note));
    Ok(if frame.suspect { Ending::Suspect } else { Ending::Fine })
}

/// `doctor`.
#[derive(Debug, Args)]
pub struct Doctor {
    #[command(flatten)]
    which: Which,
}

/// A store that does not answer for so long is not reached.
const PATIENCE: Duration = Duration::from_secs(10);

/// Looks for what would keep this host from being protected.
pub fn doctor(args: &Doctor, source: &Source) -> Result<Ending> {
    let open = |table: &RepositoryTable| {
        let mut access = running::access_to(table);
        access.patience = access.patience.min(PATIENCE);
        access.choose();
        let opened = match running::key_of(table) {
            Some(unlock) => Repository::open_with(&table.location, &source.with(unlock)),
            None if source.meant() => Repository::open_with(&table.location, source),
            // nobody is asked: a job has nobody to ask either
            None => Repository::open_with(&table.location, &NoKey),
        };
        opened.map(drop)
    };
    let findings = doctor::examine(&Places::from_env(), &args.which.file.path(), &open);
    if args.which.json {
        print_json(&findings)?;
    } else {
        print(&words(&findings))?;
    }
    let bad = findings.iter().any(|finding| finding.level.is_bad());
    Ok(if bad { Ending::Suspect } else { Ending::Fine })
}

fn words(findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings {
        text += &format!("{:<8} {}\n", finding.level.word(), finding.found);
        if finding.level == Level::Fine {
            continue;
        }
        text += &format!("         looked at: {}\n         matters: {}\n", finding.looked_at, finding.why);
        text +=
            &finding.advice.as_ref().map(|advice| format!("         try: {advice}\n")).unwrap_or_default();
    }
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    text + &format!(
        "{} wrong, {} unknown, {} to note, {} fine: {}\n",
        count(Level::Wrong),
        count(Level::Unknown),
        count(Level::Note),
        count(Level::Fine),
        match (count(Level::Wrong), count(Level::Unknown)) {
            (0, 0) => "nothing keeps this host from being protected",
            (0, _) => "not everything could be looked at",
            _ => "this host is not protected as it could be",
        }
    )
}
