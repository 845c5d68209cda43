//! `backup` and `watch`.

use super::afterwards;
use super::args::{Backup, Making, Watch};
use super::listing::{consistency, kind};
use super::monitor::Beside;
use super::output::{self, Ending, print, print_json, print_json_line, say};
use super::progress::{Bar, stop_flag};
use super::show::{bytes, duration, time};
use crate::epoch::Epochs;
use crate::error::Error;
use crate::format::{Manifest, ParityShare};
use crate::job::{self, DeviceSurvey, Outcome, Show, Subject, Wishes};
use crate::repository::{Location, Repository};
use crate::source::LiveDevice;
use crate::sys::device::BlockDevice;
use crate::tracker::{Diagnostics, Places, Traffic, Watcher};
use anyhow::Result;
use serde::Serialize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Makes a recovery point.
pub fn backup(args: &Backup) -> Result<Ending> {
    let bar = Bar::new(stop_flag()?);
    let outcome = make(&args.making, args.full, &bar)?;
    bar.clear();
    if args.json {
        print_json(&Json::of(&outcome))?;
    } else {
        print(&words(&outcome))?;
    }
    Ok(ending(&outcome))
}

/// Makes recovery points until Ctrl-C.
pub fn watch(args: Watch) -> Result<Ending> {
    // checked now: a slip in the command line is not a round that failed
    let state = Epochs::open(&Places::from_env(), &args.making.device)?.state().clone();
    let live = Watcher::start(&Places::from_env(), &[state], Traffic::note);
    if let Err(error) = &live {
        say(&format!("live traffic is not shown: {error}"));
    }
    let live = live.ok();
    let _monitor = Beside::start(args.making.device.clone())?;
    let failed = Arc::new(AtomicU64::new(0));
    let suspect = Arc::new(AtomicBool::new(false));
    let every = args.every;
    let (failures, doubts) = (Arc::clone(&failed), Arc::clone(&suspect));
    let rounds = job::watch(every, move || round(&args, live.as_ref(), &failures, &doubts))?;
    let failed = failed.load(Ordering::Relaxed);
    say(&format!("stopped after {rounds} rounds, {failed} failed"));
    match (failed, suspect.load(Ordering::Relaxed)) {
        (0, false) => Ok(Ending::Fine),
        (0, true) => Ok(Ending::Suspect),
        (n, _) => Err(anyhow::anyhow!("{n} of {rounds} rounds failed; their differences were kept")),
    }
}

/// One round of `watch`; false if nobody reads the output any more.
fn round(args: &Watch, live: Option<&Watcher>, failed: &AtomicU64, suspect: &AtomicBool) -> bool {
    match make(&args.making, false, &()) {
        Ok(outcome) => {
            let traffic = live.map(Watcher::take);
            suspect.fetch_or(ending(&outcome) == Ending::Suspect, Ordering::Relaxed);
            let printed = if args.json {
                print_json_line(&Json { traffic, ..Json::of(&outcome) })
            } else {
                print(&line(&outcome, traffic))
            };
            printed.unwrap_or(false)
        }
        Err(error) => {
            failed.fetch_add(1, Ordering::Relaxed);
            say(&output::explain(&error));
            true
        }
    }
}

/// Where the points go; made where there is none, unless it is known that there was one a moment ago.
pub(super) fn repository(
    location: &str,
    known: bool,
    parity: Option<ParityShare>,
) -> Result<Repository, Error> {
    if known { Repository::open(location) } else { Repository::open_or_create_with_parity(location, parity) }
}

/// Makes a point.
pub(super) fn make(args: &Making, full: bool, show: &dyn Show) -> Result<Outcome> {
    let device = BlockDevice::open(&args.device)?;
    let wishes = Wishes {
        full,
        since: args.since,
        freeze: !args.no_freeze,
        freeze_limit: args.freeze_limit,
        while_frozen: args.while_frozen.clone(),
        compression: args.compression,
        store_on_device: args.allow_store_on_device,
        own_folders: vec![Places::from_env().state().to_owned()],
    };
    // before the repository is made: a refusal leaves nothing behind
    job::place::judge(Some(device.dev), Location::parse(&args.repo)?.folder(), &wishes)?;
    let places = Places::from_env();
    let mut epochs = Epochs::open(&places, &args.device)?;
    if let Ok(mut diagnostics) = Diagnostics::open(&places) {
        diagnostics.print();
    }
    let source = LiveDevice::open(&args.device)?;
    let repo = repository(&args.repo, args.known, args.parity)?;
    let subject = Subject {
        ident: job::identify_in(&repo, &device),
        number: Some(device.dev),
        physical_block: device.physical_block,
        granularity: epochs.state().granularity,
        source: &source,
        survey: &DeviceSurvey(args.device.clone()),
    };
    let outcome = job::backup(&subject, &mut epochs, &repo, &wishes, show)?;
    afterwards::follow(&repo, &outcome.manifest, args.merge_every, args.parity);
    Ok(outcome)
}

fn ending(outcome: &Outcome) -> Ending {
    if outcome.manifest.is_suspect() { Ending::Suspect } else { Ending::Fine }
}

/// What `--json` prints: the manifest, and what only this run knows.
#[derive(Serialize)]
struct Json<'a> {
    #[serde(flatten)]
    manifest: &'a Manifest,
    why_full: Option<&'a str>,
    seconds: f64,
    /// Writes seen live since the last line of `watch`; for eyes only.
    #[serde(skip_serializing_if = "Option::is_none")]
    traffic: Option<Traffic>,
}

impl<'a> Json<'a> {
    fn of(outcome: &'a Outcome) -> Self {
        Self {
            manifest: &outcome.manifest,
            why_full: outcome.why_full.as_deref(),
            seconds: outcome.time.as_secs_f64(),
            traffic: None,
        }
    }
}

fn words(outcome: &Outcome) -> String {
    let m = &outcome.manifest;
    let why = outcome.why_full.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
    let mut text = format!("{} point {}{why}\n", kind(m.kind), m.point);
    let mut fact = |name: &str, value: String| text += &format!("  {name:<12} {value}\n");
    if let Some(parent) = &m.parent {
        fact("parent", parent.point.to_string());
    }
    let changed = if outcome.why_full.is_some() { "used" } else { "changed" };
    fact(changed, bytes(m.totals.changed_bytes));
    let passes = m.passes.len();
    let rate = m.totals.copied_bytes as f64 / outcome.time.as_secs_f64().max(1e-3);
    fact(
        "copied",
        format!(
            "{} in {passes} {}, {} ({}/s)",
            bytes(m.totals.copied_bytes),
            if passes == 1 { "pass" } else { "passes" },
            duration(outcome.time),
            bytes(rate as u64)
        ),
    );
    fact("stored", bytes(m.totals.stored_bytes));
    let frozen = m.freeze_ms.map(|ms| format!(" for {ms} ms")).unwrap_or_default();
    fact("consistency", format!("{}{frozen}", consistency(m.consistency)));
    for reason in &m.suspect {
        fact("suspect", reason.clone());
    }
    match (&m.suspect_handled, m.suspect.is_empty()) {
        (Some(how), _) => fact("", how.clone()),
        (None, false) => fact("", "the next backup compares everything".into()),
        (None, true) => {}
    }
    for note in &m.notes {
        fact("note", note.clone());
    }
    text
}

/// One line of `watch`.
fn line(outcome: &Outcome, traffic: Option<Traffic>) -> String {
    let m = &outcome.manifest;
    let seen = traffic.map(|t| {
        let lost = if t.lost > 0 { format!(", {} not shown", t.lost) } else { String::new() };
        format!("  {} writes, {}{lost}", t.writes, bytes(t.bytes))
    });
    let seen = seen.unwrap_or_default();
    let frozen = m.freeze_ms.map(|ms| format!(" {ms} ms")).unwrap_or_default();
    format!(
        "{} {:<11} {}  {:>10} changed  {:>10} stored  {:>8}  {}{frozen}{seen}{}\n",
        time(m.time_cut),
        kind(m.kind),
        m.point,
        bytes(m.totals.changed_bytes),
        bytes(m.totals.stored_bytes),
        duration(outcome.time),
        consistency(m.consistency),
        if m.is_suspect() { "  SUSPECT" } else { "" }
    )
}

impl Show for Bar {
    fn begin(&self, what: &str, total: u64) {
        self.begin(what, total);
    }
}
