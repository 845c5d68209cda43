//! Lists of what changed since a start point and is in a later point already: `since/<session>.<number>` beside the
//! records.
//!
//! A retired epoch's bitmap goes, but what it listed is added to the list of every start point first. A list is a
//! saved map: runs of areas, packed, hashed. It costs bytes on disk by what changed, and nothing while nobody asks
//! for start points; it outlives a reboot like the record that names it.
//!
//! Must stay true: a list is never changed, only followed by the next; it is believed only if it is the very one that
//! is named by hash; one that cannot be read makes the difference suspect, never shorter.

use super::Places;
use crate::block::{ExtentSet, Granularity};
use crate::error::{Context, Error, Kind, Result};
use crate::format::{Blake3, ListRef, SavedMap};
use crate::sys::{publish, sync_folder};
use std::collections::BTreeSet;
use std::path::PathBuf;

/// Whose list it is.
#[derive(Clone, Copy, Debug)]
pub struct Of<'a> {
    /// The stretch of tracking.
    pub session: &'a str,
    /// Area size.
    pub granularity: Granularity,
    /// Bytes of the device.
    pub size: u64,
}

fn folder(places: &Places) -> PathBuf {
    places.lib().join("since")
}

fn path(places: &Places, session: &str, number: u64) -> PathBuf {
    folder(places).join(format!("{session}.{number}"))
}

fn session_bytes(session: &str) -> Result<[u8; 16]> {
    let parsed: Result<ulid::Ulid, _> = session.parse();
    parsed.map(|s| s.to_bytes()).map_err(|e| Error::caused(Kind::Damaged, format!("session {session:?}"), e))
}

/// Writes list number `number`.
///
/// # Errors
/// If it cannot be made durable.
pub fn write(places: &Places, of: Of<'_>, number: u64, extents: ExtentSet) -> Result<ListRef> {
    let map = SavedMap {
        id: ulid::Ulid::generate().to_bytes(),
        session: session_bytes(of.session)?,
        granularity: of.granularity,
        size: of.size,
        extents,
    };
    let (bytes, folder) = (map.encode()?, folder(places));
    if !folder.exists() {
        std::fs::create_dir_all(&folder).os_context(|| format!("make folder {}", folder.display()))?;
        sync_folder(places.lib())?;
    }
    publish(&path(places, of.session, number), &bytes)?;
    Ok(ListRef { number, hash: Blake3::of(&bytes), bytes: bytes.len() as u64 })
}

/// Reads a list.
///
/// # Errors
/// If it is not there, or not the one that is named.
pub fn read(places: &Places, of: Of<'_>, list: &ListRef) -> Result<ExtentSet> {
    let path = path(places, of.session, list.number);
    let bytes = std::fs::read(&path).os_context(|| format!("read {}", path.display()))?;
    let damaged = |what: &str| Error::new(Kind::Damaged, format!("{}: {what}", path.display()));
    if Blake3::of(&bytes) != list.hash {
        return Err(damaged("not the list that was written last"));
    }
    let map = SavedMap::decode(&bytes)?;
    if (map.session, map.granularity, map.size) != (session_bytes(of.session)?, of.granularity, of.size) {
        return Err(damaged("the list of another device or time"));
    }
    Ok(map.extents)
}

/// Removes the lists of a stretch of tracking but those that are named. One that stays is only waste.
pub fn sweep(places: &Places, session: &str, named: &[u64]) {
    remove(places, |of, number| of == session && !named.contains(&number));
}

/// Removes the lists of all stretches of tracking but these.
pub fn sweep_others(places: &Places, sessions: &BTreeSet<String>) {
    remove(places, |of, _| !sessions.contains(of));
}

fn remove(places: &Places, goes: impl Fn(&str, u64) -> bool) {
    let Ok(entries) = std::fs::read_dir(folder(places)) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let parts = name.to_str().and_then(|name| name.split_once('.'));
        let Some((session, Ok(number))) = parts.map(|(s, n)| (s, n.parse::<u64>())) else { continue };
        if goes(session, number)
            && let Err(error) = std::fs::remove_file(entry.path())
        {
            log::warn!("remove {}: {error}", entry.path().display());
        }
    }
}
