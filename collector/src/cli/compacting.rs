//! `compact`: segments that are mostly dead are emptied, within bounds.

use super::afterwards::cover_if_free;
use super::output::{Ending, print, print_json};
use super::progress::{Bar, stop_flag};
use super::show::{bytes, duration};
use crate::chain::{self, Compacted, Limits};
use crate::config::values::grace;
use crate::copy::Watch;
use crate::error::Kind;
use crate::format::DeviceId;
use crate::repository::Repository;
use anyhow::Result;
use clap::Args;
use serde::Serialize;
use std::time::Duration;

/// `compact`.
#[derive(Debug, Args)]
pub struct Compact {
    /// Repository: a folder or s3://BUCKET/PREFIX
    #[arg(long, value_name = "REPO")]
    repo: String,
    /// Only this device's points, as `list` names it; else all
    #[arg(long, value_name = "ID")]
    device: Option<String>,
    /// Empty segments of which at least this share is dead
    #[arg(long, default_value = "50%", value_parser = super::args::part, value_name = "SHARE")]
    dead: f64,
    /// Move at most so much; the next run goes on
    #[arg(long, value_parser = super::args::size, value_name = "SIZE")]
    max_bytes: Option<u64>,
    /// What was moved away stays so long in its old place too, for restores under way
    #[arg(long, default_value = "1d", value_parser = grace, value_name = "TIME")]
    grace: Duration,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// For programs
    #[arg(long)]
    json: bool,
}

/// What `compact --json` prints.
#[derive(Serialize)]
struct Report {
    dry_run: bool,
    devices: Vec<Compacted>,
    /// Devices that were left alone, and why.
    skipped: Vec<(DeviceId, String)>,
}

/// Moves live frames out of mostly dead segments; at most `bandwidth` bytes are read and written per second, in
/// folders too.
pub fn compact(args: &Compact, bandwidth: Option<u64>) -> Result<Ending> {
    let repo = Repository::open(&args.repo)?;
    let devices = match &args.device {
        Some(id) => vec![DeviceId::new(id)?],
        None => repo.devices()?,
    };
    let bar = Bar::new(stop_flag()?);
    let mut report = Report { dry_run: args.dry_run, devices: Vec::new(), skipped: Vec::new() };
    let mut left = args.max_bytes.unwrap_or(u64::MAX);
    for device in devices.into_iter().take_while(|_| !bar.stopped()) {
        let limits = Limits { dead: args.dead, max_bytes: left, bandwidth, grace: args.grace };
        let (mut at, mut whole) = (0, 0);
        let mut progress = |done: u64, total: u64| {
            if total != whole {
                bar.begin("compacting", total);
                (at, whole) = (0, total);
            }
            bar.advance(done.saturating_sub(at));
            at = done;
            !bar.stopped()
        };
        match chain::compact(&repo, &device, &limits, args.dry_run, &mut progress) {
            Ok(done) => {
                if !args.dry_run {
                    cover_if_free(&repo, &device);
                }
                left = left.saturating_sub(done.moved_bytes);
                report.devices.push(done);
            }
            Err(e) if e.kind() == Kind::Busy => report.skipped.push((device, e.to_string())),
            Err(e) => return Err(e.into()),
        }
    }
    bar.clear();
    if args.json {
        print_json(&report)?;
    } else {
        print(&words(&report, args.grace))?;
    }
    let damaged = report.devices.iter().any(|d| !d.damaged.is_empty());
    Ok(if damaged { Ending::Suspect } else { Ending::Fine })
}

fn words(report: &Report, grace: Duration) -> String {
    let mut text = String::new();
    for d in &report.devices {
        let (segments, size, moved) = (d.segments, bytes(d.segment_bytes), bytes(d.moved_bytes));
        let saved = bytes(d.segment_bytes.saturating_sub(d.moved_bytes));
        text += &match (d.freed, segments) {
            (None, _) => format!(
                "{}: would empty {segments} segments of {size} by moving {moved}, which saves {saved}\n",
                d.device
            ),
            (Some(_), 0) => format!("{}: nothing to move\n", d.device),
            (Some(_), _) => format!(
                "{}: {segments} segments of {size} emptied, {moved} moved, {} maps written; read {}, written {}\n",
                d.device,
                d.maps,
                bytes(d.read_bytes),
                bytes(d.written_bytes)
            ),
        };
        if let Some(freed) = d.freed {
            let (gone, waiting) = (bytes(freed.bytes), bytes(freed.waiting_bytes));
            text += &format!(
                "  {} segments removed, {gone} freed; {waiting} go after {}\n",
                freed.segments,
                duration(grace)
            );
        }
        if d.more {
            text += "  there is more to move: run it again\n";
        }
        for (segment, why) in &d.damaged {
            text += &format!("  segment {segment} was left alone: {why}\n");
        }
    }
    for (device, why) in &report.skipped {
        text += &format!("{device}: left alone: {why}\n");
    }
    text
}
