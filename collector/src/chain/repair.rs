//! Making good what can be made good, and saying what cannot.
//!
//! Must stay true: nothing readable is changed; an index is written only if it is the one its manifest was written for; a
//! map goes only if its point is whole without it; what goes is kept in the quarantine.

use super::Chain;
use crate::error::{Error, Kind, Result};
use crate::format::{Blake3, DeviceId, Manifest, SegmentId};
use crate::repository::{DeviceLock, Parity, PointState, Repository};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// What a repair did, or would do.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Repaired {
    /// Objects put back from parity.
    pub from_parity: Vec<String>,
    /// Indexes, maps and key rings written again: from segments, or from their spares and copies.
    pub rebuilt: Vec<String>,
    /// Objects moved to the quarantine: unreadable, and not needed.
    pub set_aside: Vec<String>,
    /// What is lost, and why.
    pub lost: Vec<(String, String)>,
    /// Points looked at.
    pub points: u64,
    /// Parity that was made for what had none.
    pub parity: Parity,
}

/// Repairs every device of a repository. `progress` is told what is done, how far, and of how much.
///
/// # Errors
/// [`Kind::Busy`] while a device is written; what the store meets.
pub fn repair(
    repo: &Repository,
    dry_run: bool,
    progress: &mut dyn FnMut(&str, u64, u64),
) -> Result<Repaired> {
    let mut devices: BTreeSet<DeviceId> = repo.devices()?.into_iter().collect();
    devices.append(&mut repo.devices_with_parity()?);
    let mut done = Repaired::default();
    // a dry run changes nothing, and a reader needs no lock
    let locks: Vec<DeviceLock> =
        if dry_run { Vec::new() } else { devices.iter().map(|d| repo.lock(d)).collect::<Result<_>>()? };
    done.rebuilt.extend(repo.mend_ring(dry_run)?);
    let beyond = from_parity(repo, &devices, &locks, &mut done, progress)?;
    tombstones(repo, &locks, dry_run, &mut done)?;
    let good = readable(repo, &mut done)?;
    indexes(repo, &good, &locks, dry_run, &mut done, progress)?;
    // after the indexes: a map is not needed where the chain below is whole
    for (manifest, hash) in &good {
        maps(repo, manifest, *hash, &locks, dry_run, &mut done)?;
    }
    // a dry run found these as they are
    let back = |key: &String| done.from_parity.iter().any(|b| b.strip_suffix(".json").unwrap_or(b) == key);
    done.rebuilt.retain(|key| !back(key));
    done.set_aside.retain(|key| !back(key) && !done.from_parity.contains(key));
    done.lost.retain(|(key, _)| !back(key) && !done.from_parity.contains(key));
    // what parity could not give back and nothing else did
    for (key, why) in beyond {
        let known = done.rebuilt.contains(&key) || done.set_aside.contains(&key);
        if !known && !done.lost.iter().any(|(lost, _)| *lost == key) {
            done.lost.push((key, why));
        }
    }
    for lock in &locks {
        parity_again(repo, lock, &mut done)?;
    }
    Ok(done)
}

/// What is missing or rotten and parity gives back; what it does not, and why.
fn from_parity(
    repo: &Repository,
    devices: &BTreeSet<DeviceId>,
    locks: &[DeviceLock],
    done: &mut Repaired,
    progress: &mut dyn FnMut(&str, u64, u64),
) -> Result<BTreeMap<String, String>> {
    let (mut read, mut total, mut beyond) = (0, 0, BTreeMap::new());
    for device in devices {
        total += repo.bytes_with_parity(device)?;
    }
    for device in devices {
        let lock = locks.iter().find(|lock| lock.device() == device);
        let mut mended = repo.mend(device, lock, &mut |bytes| {
            read += bytes;
            progress("reading what parity covers", read, total);
        })?;
        done.from_parity.extend(mended.back);
        beyond.append(&mut mended.lost);
    }
    Ok(beyond)
}

/// Parity for what was repaired, where there is any or it is wanted.
fn parity_again(repo: &Repository, lock: &DeviceLock, done: &mut Repaired) -> Result<()> {
    let made = repo.verify_parity(lock)?;
    done.parity.covered += made.covered;
    done.parity.groups += made.groups;
    done.parity.left.extend(made.left);
    Ok(())
}

/// Points' own indexes: those that cannot be read are written again.
fn indexes(
    repo: &Repository,
    good: &[(Manifest, Blake3)],
    locks: &[DeviceLock],
    dry_run: bool,
    done: &mut Repaired,
    progress: &mut dyn FnMut(&str, u64, u64),
) -> Result<()> {
    let (mut named, mut without) = (BTreeSet::new(), Vec::new());
    let total = good.len() as u64;
    for (manifest, _) in good {
        match repo.expect_index(manifest) {
            Ok(mut segments) => named.append(&mut segments),
            Err(e) if is_gone(&e) => without.push((manifest, e)),
            Err(e) => return Err(e),
        }
        done.points += 1;
        progress("repairing points", done.points, total + without.len() as u64);
    }
    let unnamed: Vec<SegmentId> = if without.is_empty() { Vec::new() } else { repo.segments_lying()? };
    let unnamed: Vec<SegmentId> = unnamed.into_iter().filter(|id| !named.contains(id)).collect();
    let all = total + without.len() as u64;
    for (n, (manifest, why)) in without.into_iter().enumerate() {
        let key = format!("idx/{}/{}", manifest.device.id, manifest.point);
        expect_held(locks, &manifest.device.id)?;
        let again = match repo.rebuild_index(manifest, &unnamed, dry_run) {
            Err(e) if is_gone(&e) => repo.index_from_spare(manifest, dry_run).map_err(|_| e),
            again => again,
        };
        match again {
            Ok(()) => done.rebuilt.push(key),
            Err(e) if is_gone(&e) => done.lost.push((key, format!("{}; {}", why.in_full(), e.in_full()))),
            Err(e) => return Err(e),
        }
        progress("repairing points", total + n as u64 + 1, all);
    }
    Ok(())
}

/// Tombstones that cannot be read hide their points and stop every prune: they go, and the points are listed again. A point whose
/// manifest is there is whole: of what is swept, manifests go first.
fn tombstones(repo: &Repository, locks: &[DeviceLock], dry_run: bool, done: &mut Repaired) -> Result<()> {
    for (device, point) in repo.buried(None)? {
        match repo.tombstone(&device, point) {
            Err(e) if e.kind() == Kind::Damaged => log::warn!("{}", e.in_full()),
            Err(e) if e.kind() != Kind::NotFound && e.kind() != Kind::Incompatible => return Err(e),
            _ => continue,
        }
        let key = format!("del/{device}/{point}.json");
        if let Some(lock) = locks.iter().find(|lock| !dry_run && *lock.device() == device) {
            lock.holds()?;
            repo.leave_out(lock, &[key.clone()].into())?;
            repo.set_aside(&key)?;
        }
        done.set_aside.push(key);
    }
    Ok(())
}

/// The manifests that can be read; the others are lost.
fn readable(repo: &Repository, done: &mut Repaired) -> Result<Vec<(Manifest, Blake3)>> {
    let mut good = Vec::new();
    for entry in repo.all_points()? {
        match entry.state {
            PointState::Good { manifest, hash } => good.push((*manifest, hash)),
            PointState::Damaged(why) => {
                done.lost.push((format!("bak/{}/{}.json", entry.device, entry.id), why));
            }
        }
    }
    Ok(good)
}

/// Maps that cannot be read come back from their spares; those that do not go, where the chain below shows the same.
fn maps(
    repo: &Repository,
    manifest: &Manifest,
    hash: Blake3,
    locks: &[DeviceLock],
    dry_run: bool,
    done: &mut Repaired,
) -> Result<()> {
    let mut back = BTreeSet::new();
    for number in repo.spared_maps(manifest)? {
        let there = repo.map_numbers(manifest)?.contains(&number);
        if there && repo.fault_of_map(manifest, hash, number)?.is_none() {
            continue;
        }
        expect_held(locks, &manifest.device.id)?;
        match repo.map_from_spare(manifest, hash, number, dry_run) {
            Ok(()) => {
                done.rebuilt.push(format!("map/{}/{}/{number}", manifest.device.id, manifest.point));
                back.insert(number);
            }
            Err(e) if is_gone(&e) => log::warn!("{}", e.in_full()),
            Err(e) => return Err(e),
        }
    }
    let mut faults = BTreeMap::new();
    for number in repo.map_numbers(manifest)?.into_iter().filter(|number| !back.contains(number)) {
        faults.extend(repo.fault_of_map(manifest, hash, number)?.map(|why| (number, why)));
    }
    set_aside(repo, manifest, faults, locks, dry_run, done)
}

/// Sets damaged maps of a point aside, if it is whole without them.
fn set_aside(
    repo: &Repository,
    manifest: &Manifest,
    faults: BTreeMap<u32, String>,
    locks: &[DeviceLock],
    dry_run: bool,
    done: &mut Repaired,
) -> Result<()> {
    if faults.is_empty() {
        return Ok(());
    }
    let (device, point, numbers) = (&manifest.device.id, manifest.point, faults.keys().copied().collect());
    let whole = Chain::without_maps(repo, device, point, &numbers).and_then(|chain| chain.expect_whole());
    for (number, why) in faults {
        let key = format!("map/{device}/{point}/{number}");
        match &whole {
            Ok(()) => {
                if let Some(lock) = locks.iter().find(|l| !dry_run && l.device() == device) {
                    repo.set_map_aside(lock, manifest, number)?;
                }
                done.set_aside.push(key);
            }
            Err(e) if is_gone(e) => done.lost.push((key, format!("{why}; and without it: {}", e.in_full()))),
            Err(_) => return whole,
        }
    }
    Ok(())
}

fn is_gone(error: &Error) -> bool {
    matches!(error.kind(), Kind::Damaged | Kind::NotFound | Kind::Io)
}

fn expect_held(locks: &[DeviceLock], device: &DeviceId) -> Result<()> {
    locks.iter().filter(|lock| lock.device() == device).try_for_each(DeviceLock::holds)
}
