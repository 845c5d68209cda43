//! The return: tracking first, then the proof, then what was saved is believed or not.
//!
//! 1. the record's device is found by its identity, alone;
//! 2. its writes are marked;
//! 3. the gap is judged: everything that could be wrong is a reason;
//! 4. the record says "running": whatever was saved cannot be believed a second time;
//! 5. the saved areas are sealed, with the reasons; the state file makes it known.
//!
//! Killed before 5, it begins anew; after 4 it can no longer prove anything and says so.

use super::{gap, witness};
use crate::block::{ExtentSet, Granularity};
use crate::error::{Context, Error, Kind, Result};
use crate::format::{Blake3, Record, Saved, SavedMap};
use crate::sys::device::BlockDevice;
use crate::sys::{failpoint, planted};
use crate::tracker::{self, Before, DeviceState, Places, Stable, Start, record};
use std::path::{Path, PathBuf};

/// What came of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was tracked all the time.
    Tracked,
    /// It had been saved in this boot: it can be written again, and what was saved is void.
    Reopened,
    /// Nobody wrote to it meanwhile: the next backup copies what changed.
    Proved,
    /// The next backup compares by hash.
    Suspect(Vec<String>),
    /// No backup can go on from before: the next one is a full.
    Anew(String),
    /// It is not there, or not alone.
    Waiting(String),
}

/// A record and what came of it.
#[derive(Clone, Debug)]
pub struct Resumed {
    /// The device, or the path it had.
    pub device: PathBuf,
    /// What came of it.
    pub outcome: Outcome,
    /// Bytes of the areas that are known to have changed.
    pub changed: u64,
}

/// Resumes every device there is a record of.
///
/// # Errors
/// If the records cannot be listed; what concerns one of them is in its own result.
pub fn resume_all(places: &Places) -> Result<Vec<(PathBuf, Result<Resumed>)>> {
    let each = |(path, record): (PathBuf, Result<Record>)| match record {
        Ok(record) => (PathBuf::from(&record.path), resume_record(places, record)),
        Err(error) => (path, Err(unreadable(error))),
    };
    Ok(record::all(places)?.into_iter().map(each).collect())
}

/// Resumes one device.
///
/// # Errors
/// `NotFound` if there is no record of it; else what fails.
pub fn resume(places: &Places, path: &Path) -> Result<Resumed> {
    let stable = Stable::of(&BlockDevice::open(path)?);
    let found = stable.map(|s| record::of(places, &s.text)).transpose().map_err(unreadable)?;
    let record = found.flatten().ok_or_else(|| tracker::not_tracked(path))?;
    resume_record(places, Record { path: path.display().to_string(), ..record })
}

/// Starts tracking a device, or goes on where an earlier boot stopped. Where nobody says how large areas are, they are as
/// they were, and of a new device by its size.
///
/// # Errors
/// As [`tracker::track`].
pub fn track(
    places: &Places,
    path: &Path,
    wanted: Option<Granularity>,
) -> Result<(DeviceState, Option<Outcome>)> {
    let device = BlockDevice::open(path)?;
    let stable = Stable::of(&device);
    let found = stable.map(|s| record::of(places, &s.text)).transpose().map_err(unreadable)?.flatten();
    let before = tracker::find(places, path)?.map(|state| state.granularity);
    let before = before.or(found.as_ref().map(|record| record.granularity));
    let granularity = wanted.or(before).unwrap_or_else(|| Granularity::for_device(device.size));
    let record = match found.filter(|record| record.granularity == granularity) {
        Some(record) if !is_alive(places, &record.session)? => Some(record),
        _ => None,
    };
    let outcome = match record {
        Some(record) => {
            Some(resume_record(places, Record { path: path.display().to_string(), ..record })?.outcome)
        }
        None => None,
    };
    Ok((tracker::track(places, path, granularity)?, outcome))
}

/// A stretch of tracking goes on. If not, it ended with its boot, or broke in this one: programs gone, or the device away.
fn is_alive(places: &Places, session: &str) -> Result<bool> {
    for state in DeviceState::all(places)?.iter().filter(|state| state.session == session) {
        let device = BlockDevice::of_number(state.identity.dev).ok();
        if device.map_or(Ok(None), |device| tracker::intact(places, &device))?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn unreadable(error: Error) -> Error {
    error.hint(
        "the device it was for is not tracked: run `blkdelta track` on it; the next backup is a full one",
    )
}

fn resume_record(places: &Places, record: Record) -> Result<Resumed> {
    let stable = Stable { text: record.identity.clone(), certain: record.certain };
    let devices = stable.devices()?;
    let done = |device: PathBuf, outcome| Ok(Resumed { device, outcome, changed: 0 });
    let [device] = devices.as_slice() else {
        let path = PathBuf::from(&record.path);
        let n = devices.len();
        if n == 0 {
            return done(path, Outcome::Waiting(format!("no device is {}", record.identity)));
        }
        // one of them may have been written through the other: what was saved is not to be believed later either
        record::write(places, &Record { saved: None, ..record.clone() })?;
        return done(path, Outcome::Waiting(format!("{n} devices are {}", record.identity)));
    };
    let path = device.known_as(Path::new(&record.path));
    if let Some(state) = tracker::intact(places, device)?.filter(|s| s.session == record.session) {
        if !record.fenced && record.saved.is_none() {
            return done(path, Outcome::Tracked);
        }
        record::open_fence(places, device, &state)?;
        return done(path, Outcome::Reopened);
    }
    if (device.size, device.logical_block) != (record.size, record.logical_block) {
        tracker::track(places, &path, record.granularity)?;
        return done(path, Outcome::Anew(format!("it had {} bytes, now {}", record.size, device.size)));
    }
    go_on(places, &path, record)
}

fn go_on(places: &Places, path: &Path, record: Record) -> Result<Resumed> {
    let first = record.epoch.saturating_add(2);
    let mut started = match tracker::start(places, path, record.granularity, first)? {
        Start::New(started) => started,
        Start::Already(_) => {
            return Ok(Resumed { device: path.into(), outcome: Outcome::Tracked, changed: 0 });
        }
    };
    failpoint("resume.after-attach")?;
    let (changed, suspect) = match judge(places, &record, started.device())? {
        Ok(changed) => {
            let known = record.saved.as_ref().map(|saved| saved.suspect.clone()).unwrap_or_default();
            (changed, known)
        }
        Err(reasons) => (ExtentSet::new(), reasons),
    };
    failpoint("resume.after-proof")?;
    let total = changed.total();
    let based = record.base.is_some();
    started.go_on(Before {
        session: record.session,
        base: record.base,
        starts: record.starts,
        keep_full: record.keep_full,
        difference_since_ms: record.difference_since,
        changed,
        suspect: suspect.clone(),
        moving: false,
    })?;
    let fenced = record.fenced && record.boot == places.boot_id()?;
    let device = started.device().clone();
    let state = started.publish()?;
    if fenced {
        record::open_fence(places, &device, &state)?;
    }
    let outcome = match (based, suspect.is_empty()) {
        (false, _) => Outcome::Anew("there was no backup yet".into()),
        (true, true) => Outcome::Proved,
        (true, false) => Outcome::Suspect(suspect),
    };
    Ok(Resumed { device: path.into(), outcome, changed: total })
}

/// What was saved, if it is proved that nothing else changed; else every reason why it is not.
fn judge(
    places: &Places,
    record: &Record,
    device: &BlockDevice,
) -> Result<std::result::Result<ExtentSet, Vec<String>>> {
    let this_boot = record.boot == places.boot_id()?;
    let Some(saved) = &record.saved else {
        let why = match this_boot {
            true => "its tracking broke in this boot (programs or pins gone, or the device away for a while)",
            false => "it was not stopped cleanly (crash, power cut, or still in use then)",
        };
        return Ok(Err(vec![why.into()]));
    };
    let mut reasons = gap::written_here(places, device)?;
    if this_boot {
        reasons.push("it was saved in this very boot, and tracking broke since".into());
    }
    if !record.certain {
        reasons.push(format!("only its name ({}) tells it from another device", record.identity));
    }
    let map = read_map(places, record, saved);
    let changed = match map {
        Ok(map) => map.extents,
        Err(error) => {
            reasons.push(format!("what was saved cannot be used: {}", error.in_full()));
            ExtentSet::new()
        }
    };
    reasons.extend(contradictions(device, saved, &changed)?);
    Ok(if reasons.is_empty() { Ok(changed) } else { Err(reasons) })
}

/// The saved map, if it is the one the record names.
fn read_map(places: &Places, record: &Record, saved: &Saved) -> Result<SavedMap> {
    let path = record::map_of(places, &record.identity);
    let bytes = std::fs::read(&path).os_context(|| format!("read {}", path.display()))?;
    let damaged = |what: &str| Error::new(Kind::Damaged, format!("{}: {what}", path.display()));
    if Blake3::of(&bytes) != saved.map && !planted("map-hash-ignored") {
        return Err(damaged("not the map that was saved last"));
    }
    let map = SavedMap::decode(&bytes)?;
    let session = ulid::Ulid::from_bytes(map.session).to_string();
    if (map.size, map.granularity, session) != (record.size, record.granularity, record.session.clone()) {
        return Err(damaged("the map of another device or time"));
    }
    Ok(map)
}

/// What differs from what was seen at the save.
fn contradictions(device: &BlockDevice, saved: &Saved, changed: &ExtentSet) -> Result<Vec<String>> {
    if saved.witnesses.is_empty() {
        return Ok(vec!["nothing was kept that could prove it".into()]);
    }
    let now = match witness::take(device, changed)? {
        Ok(now) => now,
        Err(why) => return Ok(vec![why]),
    };
    if now.len() != saved.witnesses.len() {
        return Ok(vec!["its partitions changed while it was not tracked".into()]);
    }
    let differ =
        now.iter().zip(&saved.witnesses).filter(|(now, then)| now != then && !planted("witness-ignored"));
    Ok(differ.map(|(_, then)| witness::contradiction(then)).collect())
}
