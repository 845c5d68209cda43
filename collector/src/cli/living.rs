//! `save` and `resume`.

use super::args::Life;
use super::output::{Ending, explain, print, print_json, say};
use super::show::bytes;
use crate::error::Result;
use crate::life::{self, Outcome, Resumed, Stopped};
use crate::tracker::Places;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// One device, for programs.
#[derive(Serialize)]
struct Row {
    device: PathBuf,
    /// `saved`, `running`; `tracked`, `reopened`, `proved`, `suspect`, `anew`, `waiting`; `failed`.
    outcome: &'static str,
    reasons: Vec<String>,
    changed_bytes: u64,
    witnesses: Vec<String>,
    #[serde(skip)]
    text: String,
    #[serde(skip)]
    good: bool,
}

/// Stops cleanly. Exit code 3 if a device was not: its next backup compares by hash.
pub fn save(args: &Life) -> anyhow::Result<Ending> {
    let places = Places::from_env();
    let one = |device: &PathBuf| (device.clone(), life::save(&places, device));
    let all = if args.devices.is_empty() {
        life::save_all(&places)?
    } else {
        args.devices.iter().map(one).collect()
    };
    finish(all, args, "nothing is tracked", stopped)
}

/// Goes on after a reboot. Exit code 3 if a device is suspect.
pub fn resume(args: &Life) -> anyhow::Result<Ending> {
    let places = Places::from_env();
    let one = |device: &PathBuf| (device.clone(), life::resume(&places, device));
    let all = if args.devices.is_empty() {
        life::resume_all(&places)?
    } else {
        args.devices.iter().map(one).collect()
    };
    finish(all, args, "nothing was tracked", resumed)
}

/// Prints all; the last failure is the result.
fn finish<T>(
    all: Vec<(PathBuf, Result<T>)>,
    args: &Life,
    none: &str,
    row: impl Fn(T) -> Row,
) -> anyhow::Result<Ending> {
    let (mut rows, mut failed) = (Vec::new(), None);
    for (device, result) in all {
        match result {
            Ok(done) => rows.push(row(done)),
            Err(error) => {
                rows.push(lost(&device, &error.to_string()));
                let error = anyhow::Error::new(error.within(device.display().to_string()));
                if let Some(earlier) = failed.replace(error) {
                    say(&explain(&earlier));
                }
            }
        }
    }
    if args.json {
        print_json(&rows)?;
    } else if rows.is_empty() {
        print(&format!("{none}\n"))?;
    }
    for row in rows.iter().filter(|row| !args.json && row.outcome != FAILED) {
        print(&format!("{}: {}\n", row.device.display(), row.text))?;
    }
    let good = rows.iter().all(|row| row.good);
    failed.map_or(Ok(if good { Ending::Fine } else { Ending::Suspect }), Err)
}

const FAILED: &str = "failed";

fn lost(device: &Path, why: &str) -> Row {
    Row {
        device: device.into(),
        outcome: FAILED,
        reasons: vec![why.into()],
        changed_bytes: 0,
        witnesses: Vec::new(),
        text: String::new(),
        good: false,
    }
}

fn stopped(stopped: Stopped) -> Row {
    let good = stopped.reasons.is_empty();
    let text = if good {
        let changed = bytes(stopped.changed);
        format!("saved, {changed} changed; read-only from now on ({})", stopped.witnesses.join(", "))
    } else {
        format!("NOT SAVED, the next boot compares by hash: {}", stopped.reasons.join("; "))
    };
    Row {
        device: stopped.device,
        outcome: if good { "saved" } else { "running" },
        reasons: stopped.reasons,
        changed_bytes: stopped.changed,
        witnesses: stopped.witnesses,
        text,
        good,
    }
}

fn resumed(resumed: Resumed) -> Row {
    let text = words(&resumed.outcome);
    let (outcome, reasons, good) = match resumed.outcome {
        Outcome::Tracked => ("tracked", Vec::new(), true),
        Outcome::Reopened => ("reopened", Vec::new(), true),
        Outcome::Proved => ("proved", Vec::new(), true),
        Outcome::Suspect(reasons) => ("suspect", reasons, false),
        Outcome::Anew(why) => ("anew", vec![why], true),
        Outcome::Waiting(why) => ("waiting", vec![why], false),
    };
    Row {
        device: resumed.device,
        outcome,
        reasons,
        changed_bytes: resumed.changed,
        witnesses: Vec::new(),
        text,
        good,
    }
}

/// What came of a record.
pub fn words(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Tracked => "tracked all the time".into(),
        Outcome::Reopened => "tracked all the time; writable again".into(),
        Outcome::Proved => {
            "tracked again, nothing was written meanwhile: the next backup is an incremental".into()
        }
        Outcome::Suspect(why) => {
            format!("SUSPECT, the next backup compares by hash: {}", why.join("; "))
        }
        Outcome::Anew(why) => format!("tracked, the next backup is a full one: {why}"),
        Outcome::Waiting(why) => format!("NOT TRACKED: {why}"),
    }
}
