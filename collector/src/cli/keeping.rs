//! `merge` and `prune`: what stays in a repository.

use super::afterwards::cover_if_free;
use super::output::{Ending, print, print_json};
use super::show::{Table, bytes, duration};
use crate::chain::{self, Chain, Policy, Pruned};
use crate::error::{Error, Kind};
use crate::format::DeviceId;
use crate::repository::{Repository, Swept};
use anyhow::Result;
use clap::Args;
use serde::Serialize;
use std::time::Duration;

/// `merge`.
#[derive(Debug, Args)]
pub struct Merge {
    /// Repository: a folder or s3://BUCKET/PREFIX
    #[arg(long, value_name = "REPO")]
    repo: String,
    /// Of which device `latest` is meant, where the repository holds several
    #[arg(long, value_name = "ID")]
    device: Option<String>,
    /// The point that is to stand alone: an id as `list` prints it, or `latest`
    #[arg(long, value_name = "ID")]
    up_to: String,
    /// For programs
    #[arg(long)]
    json: bool,
}

/// `prune`.
#[derive(Debug, Args)]
pub struct Prune {
    /// Repository: a folder or s3://BUCKET/PREFIX
    #[arg(long, value_name = "REPO")]
    repo: String,
    /// Only this device's points, as `list` names it; else each device by the same rules
    #[arg(long, value_name = "ID")]
    device: Option<String>,
    /// Keep the newest N points
    #[arg(long, default_value_t = 0, value_name = "N")]
    keep_last: u32,
    /// Keep the newest point of each of N hours
    #[arg(long, default_value_t = 0, value_name = "N")]
    keep_hourly: u32,
    /// Of each of N days (UTC)
    #[arg(long, default_value_t = 0, value_name = "N")]
    keep_daily: u32,
    /// Of each of N weeks (ISO)
    #[arg(long, default_value_t = 0, value_name = "N")]
    keep_weekly: u32,
    /// Of each of N months
    #[arg(long, default_value_t = 0, value_name = "N")]
    keep_monthly: u32,
    /// Of each of N years
    #[arg(long, default_value_t = 0, value_name = "N")]
    keep_yearly: u32,
    /// Keep everything not older than this, counted back from the newest point
    #[arg(long, value_parser = super::args::duration, value_name = "TIME")]
    keep_within: Option<Duration>,
    /// A dropped point's data stay so long, for restores under way
    #[arg(long, default_value = "1d", value_parser = crate::config::values::grace, value_name = "TIME")]
    grace: Duration,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// For programs
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Merged {
    point: String,
    merged: Vec<String>,
    pieces: u64,
    index_bytes: u64,
    segments: u64,
}

/// Makes a point stand alone.
pub fn merge(args: &Merge) -> Result<Ending> {
    let repo = Repository::open(&args.repo)?;
    let device = args.device.as_deref().map(DeviceId::new).transpose()?;
    let (device, point) = repo.resolve(&args.up_to, device.as_ref())?;
    let lock = repo.lock(&device)?;
    let chain = Chain::resolve(&repo, &device, point)?;
    let map = chain.merge(&lock)?;
    drop(lock);
    cover_if_free(&repo, &device);
    if args.json {
        let made = map.map(|map| Merged {
            point: point.to_string(),
            merged: map.merged.iter().map(ToString::to_string).collect(),
            pieces: map.index.pieces,
            index_bytes: map.index.len,
            segments: map.index.segments,
        });
        print_json(&made)?;
        return Ok(Ending::Fine);
    }
    print(&map.map_or_else(
        || format!("point {point} stands alone already\n"),
        |map| {
            let (below, map_bytes) = (map.merged.len() - 1, bytes(map.index.len));
            format!("point {point} stands alone: it and {below} below it are one map of {map_bytes}\n")
        },
    ))?;
    Ok(Ending::Fine)
}

impl Prune {
    fn policy(&self) -> Policy {
        Policy {
            last: self.keep_last,
            hourly: self.keep_hourly,
            daily: self.keep_daily,
            weekly: self.keep_weekly,
            monthly: self.keep_monthly,
            yearly: self.keep_yearly,
            within: self.keep_within,
        }
    }
}

/// What `prune --json` prints.
#[derive(Serialize)]
struct Report {
    dry_run: bool,
    devices: Vec<Pruned>,
    /// Devices that were left alone, and why.
    skipped: Vec<(DeviceId, String)>,
    orphans: Option<Swept>,
}

/// Drops points.
pub fn prune(args: &Prune) -> Result<Ending> {
    let policy = args.policy();
    policy.check()?;
    let repo = Repository::open(&args.repo)?;
    let devices = match &args.device {
        Some(id) => vec![DeviceId::new(id)?],
        None => repo.devices()?,
    };
    let mut report =
        Report { dry_run: args.dry_run, devices: Vec::new(), skipped: Vec::new(), orphans: None };
    for device in devices {
        match chain::prune(&repo, &device, &policy, args.grace, args.dry_run) {
            Ok(pruned) => {
                if !args.dry_run {
                    cover_if_free(&repo, &device);
                }
                report.devices.push(pruned);
            }
            Err(e) if e.kind() == Kind::Busy => report.skipped.push((device, e.to_string())),
            Err(e) => return Err(e.into()),
        }
    }
    if !args.dry_run && report.skipped.is_empty() {
        report.orphans = orphans(&repo, args.grace)?;
    }
    if args.json {
        print_json(&report)?;
    } else {
        print(&words(&report, args.grace))?;
    }
    Ok(Ending::Fine)
}

/// What dead backups left; `None` while somebody writes.
fn orphans(repo: &Repository, grace: Duration) -> Result<Option<Swept>, Error> {
    match repo.sweep_orphans(grace.max(Duration::from_secs(3600))) {
        Ok(swept) => Ok(Some(swept)),
        Err(e) if e.kind() == Kind::Busy => Ok(None),
        Err(e) => Err(e),
    }
}

fn words(report: &Report, grace: Duration) -> String {
    let mut text = String::new();
    for pruned in &report.devices {
        let mut table = Table::new(&["point", "", "kept by"]);
        for (point, rules) in &pruned.plan.keep {
            let mapped = if pruned.plan.map.contains(point) { "keep, merge" } else { "keep" };
            table.row([point.to_string(), mapped.to_owned(), rules.join(", ")]);
        }
        for point in &pruned.plan.drop {
            table.row([point.to_string(), "drop".to_owned(), String::new()]);
        }
        text += &format!("{}:\n{table}", pruned.device);
        let (drop, sweep) = (pruned.plan.drop.len(), pruned.plan.sweep.len());
        text += &match (pruned.swept, report.dry_run) {
            (Some(s), _) => format!(
                "{drop} points dropped, their data stay for {}; {} dropped earlier removed: {} segments, {}\n",
                duration(grace),
                s.points,
                s.segments,
                bytes(s.bytes)
            ),
            (None, _) => format!("would drop {drop} points, and remove {sweep} dropped earlier\n"),
        };
    }
    for (device, why) in &report.skipped {
        text += &format!("{device}: left alone: {why}\n");
    }
    if let Some(orphans) = report.orphans.filter(|o| o.segments > 0) {
        let (n, size) = (orphans.segments, bytes(orphans.bytes));
        text += &format!("{n} segments of backups that failed removed, {size}\n");
    }
    text
}
