//! The records in `/var/lib/blkdelta`: what is known of a tracked device when everything in memory is gone.
//!
//! What must stay true: the base in a record is durable before the record is; a record that says "saved" is
//! replaced before anything that was saved is used or changed; one device's record never stands for another's.
//!
//! A record that is older than the truth is safe as long as it says "running": the next backup then compares
//! everything with its base, whichever base that is.

use super::places::Places;
use super::stable::Stable;
use super::state::DeviceState;
use crate::error::{Context, Error, Kind, Result};
use crate::format::{Blake3, Record};
use crate::sys::device::BlockDevice;
use crate::sys::{failpoint, planted, publish, sync_folder};
use std::path::{Path, PathBuf};

/// Stem of the files of a device.
fn stem(identity: &str) -> String {
    Blake3::of(identity.as_bytes()).to_string()[..16].to_owned()
}

/// A record's file.
pub fn path_of(places: &Places, identity: &str) -> PathBuf {
    places.lib().join(stem(identity) + ".json")
}

/// The file of its saved map.
pub fn map_of(places: &Places, identity: &str) -> PathBuf {
    places.lib().join(stem(identity) + ".map")
}

/// What a running device's record says. `None`: nothing about this device outlives a reboot.
pub fn running(device: &BlockDevice, state: &DeviceState) -> Option<Record> {
    let stable = Stable::of(device)?;
    Some(Record {
        identity: stable.text,
        certain: stable.certain,
        path: state.path.display().to_string(),
        size: state.identity.size,
        logical_block: device.logical_block,
        granularity: state.granularity,
        session: state.session.clone(),
        base: state.base.clone(),
        starts: state.starts.clone(),
        keep_full: state.keep_full.clone(),
        difference_since: state.difference_since_ms,
        epoch: state.epoch,
        boot: state.boot.clone(),
        fenced: false,
        saved: None,
    })
}

/// Publishes a record.
///
/// # Errors
/// If it cannot be written; the one before is then still in place.
pub fn write(places: &Places, record: &Record) -> Result<()> {
    publish(&path_of(places, &record.identity), &record.encode()?)
}

/// Publishes that the device is being tracked, so that nothing saved earlier is believed any more. A device whose
/// record cannot be written has none.
///
/// # Errors
/// If an old record would stay in place.
pub fn note(places: &Places, device: &BlockDevice, state: &DeviceState) -> Result<()> {
    let Some(mut record) = running(device, state) else { return Ok(()) };
    let path = path_of(places, &record.identity);
    // a fence stands until it is taken down, whatever else is noted meanwhile
    let old = read(&path).ok().flatten();
    if planted("record-not-voided") && old.as_ref().is_some_and(|old| old.saved.is_some()) {
        return Ok(());
    }
    record.fenced = old.is_some_and(|old| old.fenced && old.boot == record.boot);
    if let Err(error) = write(places, &record) {
        remove(&path)?;
        log::warn!("{}: a reboot will be followed by a full backup: {error}", state.path.display());
    }
    failpoint("record.after-note")?;
    if planted("old-map-kept") {
        return Ok(());
    }
    remove(&map_of(places, &record.identity))
}

/// Takes down the fence that a save put up: the kernel takes writes again, and nothing saved is believed.
///
/// # Errors
/// If the record cannot be written or the kernel says no.
pub fn open_fence(places: &Places, device: &BlockDevice, state: &DeviceState) -> Result<()> {
    note(places, device, state)?;
    let Some(record) = running(device, state) else { return Ok(()) };
    if of(places, &record.identity)?.is_some_and(|record| record.fenced) {
        failpoint("record.before-open")?;
        device.set_read_only(false)?;
        write(places, &record)?;
    }
    Ok(())
}

/// Reads a device's record. `None`: there is none.
///
/// # Errors
/// If it cannot be read, is damaged, or is another device's.
pub fn of(places: &Places, identity: &str) -> Result<Option<Record>> {
    let path = path_of(places, identity);
    let Some(record) = read(&path)? else { return Ok(None) };
    if record.identity != identity {
        let what = format!("{} is the record of {}", path.display(), record.identity);
        return Err(Error::new(Kind::Damaged, what));
    }
    Ok(Some(record))
}

fn read(path: &Path) -> Result<Option<Record>> {
    let bytes = match std::fs::read(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.os_context(|| format!("read {}", path.display()))?,
    };
    Record::decode(&bytes).map(Some).map_err(|e| e.within(format!("read {}", path.display())))
}

/// All records, readable or not, by file.
///
/// # Errors
/// If the folder cannot be listed.
pub fn all(places: &Places) -> Result<Vec<(PathBuf, Result<Record>)>> {
    let folder = places.lib();
    let entries = match std::fs::read_dir(folder) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.os_context(|| format!("list {}", folder.display()))?,
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|e| e == "json"));
    paths.sort();
    Ok(paths.into_iter().filter_map(|path| Some((path.clone(), read(&path).transpose()?))).collect())
}

/// Removes the record of a stretch of tracking, and its map. The record, if it was there.
///
/// # Errors
/// If a file cannot be removed.
pub fn forget(places: &Places, session: &str) -> Result<Option<Record>> {
    let of_it = |(path, record): (PathBuf, Result<Record>)| record.ok().map(|record| (path, record));
    let found = all(places)?.into_iter().filter_map(of_it).find(|(_, record)| record.session == session);
    let Some((path, record)) = found else { return Ok(None) };
    remove(&path)?;
    remove(&map_of(places, &record.identity))?;
    Ok(Some(record))
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Error::os(format!("remove {}", path.display()), e)),
        Ok(()) => path.parent().map_or(Ok(()), sync_folder),
    }
}
