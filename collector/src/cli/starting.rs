//! `keep-since`: the points from which a difference can be made.

use super::output::{Ending, print, print_json};
use super::show::{Table, bytes, time};
use crate::epoch::Epochs;
use crate::error::{Error, Kind};
use crate::format::PointId;
use crate::job::{self, Since};
use crate::repository::Repository;
use crate::sys::device::BlockDevice;
use crate::tracker::{Base, DeviceState, Places, StartPoint, find};
use anyhow::Result;
use clap::Args;
use serde::Serialize;
use std::path::PathBuf;

/// `keep-since`.
#[derive(Debug, Args)]
pub struct KeepSince {
    /// A tracked device
    #[arg(value_name = "DEV")]
    device: PathBuf,
    /// Keep what changes since this point: an id, `latest`, or `latest-full` for the last full point of a repository
    /// from now on; without it: only show
    #[arg(value_name = "POINT", requires = "repo")]
    point: Option<Since>,
    /// The repository that the point is in
    #[arg(long, value_name = "REPO", requires = "point")]
    repo: Option<String>,
    /// Keep it no longer
    #[arg(long, requires = "point")]
    drop: bool,
    /// For programs
    #[arg(long)]
    json: bool,
}

/// A start point, for people and programs.
#[derive(Serialize)]
pub struct Row {
    /// The repository's uuid.
    repository: String,
    point: String,
    /// What the next backup goes on from.
    base: bool,
    full: bool,
    /// Somebody asked for it.
    pinned: bool,
    since_unix_ms: u64,
    /// Of the list that is kept for it.
    list_bytes: u64,
    /// Why a difference since then compares everything.
    suspect: Vec<String>,
}

impl Row {
    fn of(start: &StartPoint, base: Option<&Base>) -> Self {
        Self {
            repository: start.base.repo.clone(),
            point: start.base.point.clone(),
            base: base == Some(&start.base),
            full: start.full,
            pinned: start.pinned,
            since_unix_ms: start.since_ms,
            list_bytes: start.list.map_or(0, |list| list.bytes),
            suspect: start.suspect.clone(),
        }
    }

    /// All of a device.
    pub fn all(state: &DeviceState) -> Vec<Self> {
        state.starts.iter().map(|start| Self::of(start, state.base.as_ref())).collect()
    }

    /// One line about a start point that is not the base; `None` for the base.
    pub fn line(&self) -> Option<String> {
        let doubt = if self.suspect.is_empty() { "" } else { ", compares everything" };
        (!self.base).then(|| {
            let (since, size) = (time(self.since_unix_ms), bytes(self.list_bytes));
            format!("what changed since point {} ({since} UTC) is kept too: {size}{doubt}", self.point)
        })
    }
}

/// What `keep-since --json` prints.
#[derive(Serialize)]
struct Report {
    device: PathBuf,
    /// Repositories whose last full point is kept.
    keep_full: Vec<String>,
    start_points: Vec<Row>,
}

/// Shows the start points, or changes which are kept.
pub fn keep_since(args: &KeepSince) -> Result<Ending> {
    let places = Places::from_env();
    if let (Some(point), Some(repo)) = (args.point, &args.repo) {
        change(args, &places, point, &Repository::open(repo)?)?;
    }
    let state = find(&places, &args.device)?.ok_or_else(|| {
        let text = format!("{} is not tracked", args.device.display());
        Error::new(Kind::NotFound, text).hint("`blkdelta status` lists what is")
    })?;
    let report =
        Report { device: args.device.clone(), start_points: Row::all(&state), keep_full: state.keep_full };
    if args.json {
        print_json(&report)?;
    } else {
        print(&words(&report))?;
    }
    Ok(Ending::Fine)
}

fn change(args: &KeepSince, places: &Places, point: Since, repo: &Repository) -> Result<()> {
    let mut epochs = Epochs::open(places, &args.device)?;
    let uuid = repo.uuid().to_string();
    if point == Since::LatestFull {
        epochs.keep_full(&uuid, !args.drop)?;
        return Ok(());
    }
    let id = job::identify_in(repo, &BlockDevice::open(&args.device)?).id;
    let point: PointId = point.point(&id, repo)?;
    epochs.keep_point(&Base { repo: uuid, point: point.to_string() }, !args.drop)?;
    Ok(())
}

fn words(report: &Report) -> String {
    if report.start_points.is_empty() {
        return "no backup yet: the first one is a full one\n".into();
    }
    let mut table = Table::new(&["since (UTC)", "point", "repository", ">list", "kept because"]);
    for row in &report.start_points {
        let last_full = row.full && report.keep_full.contains(&row.repository);
        let why = match (row.base, row.pinned, last_full) {
            (true, ..) => "the next backup goes on from it",
            (_, true, _) => "asked for",
            (_, _, true) => "the repository's last full point",
            _ => "the repository's last point",
        };
        let why = if row.suspect.is_empty() {
            why.to_owned()
        } else {
            format!("{why}; SUSPECT: compares everything")
        };
        let since = time(row.since_unix_ms);
        table.row([since, row.point.clone(), row.repository.clone(), bytes(row.list_bytes), why]);
    }
    table.to_string()
}
