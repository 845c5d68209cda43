//! `track`, `untrack`, `status` and `diff`.

use super::args::{Diff, Status, Track, Untrack};
use super::output::{Ending, print, print_json, say};
use super::show::{Table, bytes, duration, extents, time};
use crate::block::Extent;
use crate::diff::{self, Health, Look};
use crate::error::{Error, Kind};
use crate::life;
use crate::sys::device::BlockDevice;
use crate::tracker::{self, DeviceState, Places, now_ms};
use anyhow::Result;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Starts tracking; every device is tried, the first failure is the result.
pub fn track(args: &Track) -> Result<Ending> {
    let places = Places::from_env();
    each(&args.devices, |device| {
        let (state, before) = life::track(&places, device, args.granularity)?;
        let areas = bytes(state.granularity.bytes());
        print(&format!("tracking {}: {}, areas of {areas}\n", device.display(), bytes(state.identity.size)))?;
        if let Some(outcome) = before {
            print(&format!("{}: {}\n", device.display(), super::living::words(&outcome)))?;
        }
        Ok(())
    })
}

/// Stops tracking.
pub fn untrack(args: &Untrack) -> Result<Ending> {
    let places = Places::from_env();
    if args.all {
        return untrack_all(&places);
    }
    each(&args.devices, |device| {
        if !tracker::untrack(&places, device)? {
            let text = format!("{} is not tracked", device.display());
            return Err(Error::new(Kind::NotFound, text).hint("`blkdelta status` lists what is").into());
        }
        print(&format!("no longer tracking {}\n", device.display()))?;
        Ok(())
    })
}

/// Stops tracking everything.
fn untrack_all(places: &Places) -> Result<Ending> {
    let all = tracker::untrack_all(places)?.into_iter();
    every(all.map(|(device, untracked)| {
        untracked?;
        print(&format!("no longer tracking {}\n", device.display())).map(drop)
    }))
}

/// Does `deed` for every device.
fn each(devices: &[PathBuf], deed: impl Fn(&Path) -> Result<()>) -> Result<Ending> {
    every(devices.iter().map(|device| deed(device)))
}

/// Goes on after failures; reports them all, and returns the last one as the result.
fn every(deeds: impl Iterator<Item = Result<()>>) -> Result<Ending> {
    let mut failed = None;
    for error in deeds.filter_map(Result::err) {
        if let Some(earlier) = failed.replace(error) {
            say(&super::output::explain(&earlier));
        }
    }
    failed.map_or(Ok(Ending::Fine), Err)
}

/// One device of `status`.
#[derive(Serialize)]
struct Row {
    device: PathBuf,
    size: u64,
    granularity: u64,
    session: String,
    tracked_since_unix_ms: u64,
    difference_since_unix_ms: u64,
    changed_bytes: u64,
    changed_extents: usize,
    health: Health,
    suspect: Vec<String>,
    base_repository: Option<String>,
    base_point: Option<String>,
    /// Points from which a difference can be made, and what each costs.
    start_points: Vec<super::starting::Row>,
    sealed_epochs: usize,
    running_epoch: u64,
    memory_bytes: u64,
    programs: Vec<Program>,
}

/// A program in the kernel.
#[derive(Serialize)]
struct Program {
    name: String,
    skipped: u64,
    runs: u64,
    nanoseconds: u64,
    trouble: Option<String>,
}

impl Row {
    fn of(look: Look) -> Self {
        let health = look.health();
        let Look { difference, state, reading, .. } = look;
        let programs = reading.programs;
        Self {
            size: state.identity.size,
            granularity: state.granularity.bytes(),
            tracked_since_unix_ms: state.since_ms,
            difference_since_unix_ms: difference.since_ms,
            changed_bytes: difference.extents.total(),
            changed_extents: difference.extents.len(),
            health,
            suspect: difference.suspect,
            base_repository: state.base.as_ref().map(|b| b.repo.clone()),
            base_point: state.base.as_ref().map(|b| b.point.clone()),
            start_points: super::starting::Row::all(&state),
            sealed_epochs: state.sealed.len(),
            running_epoch: state.epoch,
            memory_bytes: state.memory(),
            programs: programs.into_iter().map(Program::of).collect(),
            device: state.path,
            session: state.session,
        }
    }

    /// A device of which nothing can be said any more but why.
    fn lost(state: DeviceState, why: String) -> Self {
        Self {
            size: state.identity.size,
            granularity: state.granularity.bytes(),
            tracked_since_unix_ms: state.since_ms,
            difference_since_unix_ms: state.difference_since_ms,
            changed_bytes: state.identity.size,
            changed_extents: 1,
            health: Health::Suspect,
            suspect: vec![why],
            base_repository: state.base.as_ref().map(|b| b.repo.clone()),
            base_point: state.base.as_ref().map(|b| b.point.clone()),
            start_points: super::starting::Row::all(&state),
            sealed_epochs: state.sealed.len(),
            running_epoch: state.epoch,
            memory_bytes: 0,
            programs: Vec::new(),
            device: state.path,
            session: state.session,
        }
    }
}

impl Program {
    fn of(p: tracker::ProgramHealth) -> Self {
        Self {
            name: p.program,
            skipped: p.skipped,
            runs: p.runs,
            nanoseconds: p.nanoseconds,
            trouble: p.trouble,
        }
    }
}

/// What is tracked. Exit code 3 if a device is suspect, or tracked no more.
pub fn status(args: &Status) -> Result<Ending> {
    let places = Places::from_env();
    let devices = match args.devices.is_empty() {
        true => DeviceState::all(&places)?.into_iter().map(|s| s.path).collect(),
        false => args.devices.clone(),
    };
    let rows: Vec<Row> = devices.iter().map(|device| row(&places, device)).collect::<Result<_>>()?;
    if args.json {
        print_json(&rows)?;
    } else if rows.is_empty() {
        print("nothing is tracked\n")?;
    } else {
        print(&words(&rows))?;
    }
    let suspect = rows.iter().any(|r| r.health == Health::Suspect);
    Ok(if suspect { Ending::Suspect } else { Ending::Fine })
}

/// A device's row. One that was tracked, and whose marks can no longer be read, is suspect and says why.
fn row(places: &Places, device: &Path) -> Result<Row> {
    let error = match diff::look(places, device) {
        Ok(look) => return Ok(Row::of(look)),
        Err(error) => error,
    };
    match tracker::find(places, device) {
        Ok(Some(state)) => Ok(Row::lost(state, error.to_string())),
        _ => Err(error.into()),
    }
}

fn words(rows: &[Row]) -> String {
    let headings = [
        "device",
        ">size",
        ">area",
        "tracked since (UTC)",
        ">changed",
        "for",
        "health",
        ">memory",
        "base point",
    ];
    let mut table = Table::new(&headings);
    let mut reasons = String::new();
    for row in rows {
        let age = now_ms().saturating_sub(row.difference_since_unix_ms);
        table.row([
            row.device.display().to_string(),
            bytes(row.size),
            bytes(row.granularity),
            time(row.tracked_since_unix_ms),
            bytes(row.changed_bytes),
            duration(Duration::from_millis(age)),
            row.health.words().to_owned(),
            bytes(row.memory_bytes),
            row.base_point.clone().unwrap_or_else(|| "-".into()),
        ]);
        for line in row.start_points.iter().filter_map(super::starting::Row::line) {
            reasons += &format!("{}: {line}\n", row.device.display());
        }
        for reason in &row.suspect {
            reasons += &format!("{}: {reason}\n", row.device.display());
        }
    }
    format!("{table}{reasons}")
}

/// A difference list for programs.
#[derive(Serialize)]
struct List<'a> {
    device: PathBuf,
    size: u64,
    granularity: u64,
    since_unix_ms: u64,
    base_point: Option<&'a str>,
    suspect: &'a [String],
    total_bytes: u64,
    total_extents: usize,
    extents: Vec<Extent>,
}

/// The current difference list.
pub fn diff(args: &Diff, device: &Path) -> Result<Ending> {
    let Look { difference, state, .. } = diff::look(&Places::from_env(), device)?;
    if args.json {
        print_json(&List {
            device: device.to_owned(),
            size: state.identity.size,
            granularity: state.granularity.bytes(),
            since_unix_ms: difference.since_ms,
            base_point: state.base.as_ref().map(|b| b.point.as_str()),
            suspect: &difference.suspect,
            total_bytes: difference.extents.total(),
            total_extents: difference.extents.len(),
            extents: difference.extents.iter().copied().collect(),
        })?;
    } else {
        let list = extents(&difference.extents);
        print(&format!("{list} since {} UTC\n", time(difference.since_ms)))?;
        for reason in &difference.suspect {
            say(&format!("suspect: {reason}"));
        }
    }
    Ok(if difference.suspect.is_empty() { Ending::Fine } else { Ending::Suspect })
}

/// `target` is a tracked device, holds one, or lies on one.
pub fn is_tracked(target: &Path) -> Result<bool> {
    let Ok(device) = BlockDevice::open(target) else { return Ok(false) };
    let whole = device.partition.is_none();
    let same = |s: &DeviceState| {
        let its_disk = s.identity.dev == s.identity.disk;
        s.identity.dev == device.dev || s.identity.disk == device.disk && (whole || its_disk)
    };
    Ok(DeviceState::all(&Places::from_env())?.iter().any(same))
}
