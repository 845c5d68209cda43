//! Making good what can be made good, and saying what cannot.
//!
//! Must stay true: nothing readable is changed; an index is written only if it is the one its manifest was written for; a
//! map goes only if its point is whole without it; what goes is kept in the quarantine.

use super::Chain;
use crate::error::{Error, Kind, Result};
use crate::format::{Blake3, DeviceId, Manifest, SegmentId};
use crate::repository::{DeviceLock, PointState, Repository};
use serde::Serialize;
use std::collections::BTreeSet;

/// What a repair did, or would do.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Repaired {
    /// Indexes written again.
    pub rebuilt: Vec<String>,
    /// Objects moved to the quarantine: unreadable, and not needed.
    pub set_aside: Vec<String>,
    /// What is lost, and why.
    pub lost: Vec<(String, String)>,
    /// Points looked at.
    pub points: u64,
}

/// Repairs every device of a repository. `progress` is told of points done and points in all.
///
/// # Errors
/// [`Kind::Busy`] while a device is written; what the store meets.
pub fn repair(repo: &Repository, dry_run: bool, progress: &mut dyn FnMut(u64, u64)) -> Result<Repaired> {
    let devices = repo.devices()?;
    let mut done = Repaired::default();
    // a dry run changes nothing, and a reader needs no lock
    let locks: Vec<DeviceLock> =
        if dry_run { Vec::new() } else { devices.iter().map(|d| repo.lock(d)).collect::<Result<_>>()? };
    let good = readable(repo, &mut done)?;
    let (mut named, mut without) = (BTreeSet::new(), Vec::new());
    let total = good.len() as u64;
    for (manifest, _) in &good {
        match repo.expect_index(manifest) {
            Ok(mut segments) => named.append(&mut segments),
            Err(e) if is_gone(&e) => without.push((manifest, e)),
            Err(e) => return Err(e),
        }
        done.points += 1;
        progress(done.points, total + without.len() as u64);
    }
    let unnamed: Vec<SegmentId> = if without.is_empty() { Vec::new() } else { repo.segments_lying()? };
    let unnamed: Vec<SegmentId> = unnamed.into_iter().filter(|id| !named.contains(id)).collect();
    let all = total + without.len() as u64;
    for (n, (manifest, why)) in without.into_iter().enumerate() {
        let key = format!("idx/{}/{}", manifest.device.id, manifest.point);
        expect_held(&locks, &manifest.device.id)?;
        match repo.rebuild_index(manifest, &unnamed, dry_run) {
            Ok(()) => done.rebuilt.push(key),
            Err(e) if is_gone(&e) => done.lost.push((key, format!("{}; {}", why.in_full(), e.in_full()))),
            Err(e) => return Err(e),
        }
        progress(total + n as u64 + 1, all);
    }
    // after the indexes: a map is not needed where the chain below is whole
    for (manifest, hash) in &good {
        maps(repo, manifest, *hash, dry_run, &mut done)?;
    }
    Ok(done)
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

/// Maps that cannot be read go, where the chain below shows the same.
fn maps(
    repo: &Repository,
    manifest: &Manifest,
    hash: Blake3,
    dry_run: bool,
    done: &mut Repaired,
) -> Result<()> {
    for number in repo.map_numbers(manifest)? {
        let Some(why) = repo.fault_of_map(manifest, hash, number)? else { continue };
        let key = format!("map/{}/{}/{number}", manifest.device.id, manifest.point);
        let whole = Chain::resolve(repo, &manifest.device.id, manifest.point).and_then(|c| c.expect_whole());
        match whole {
            Ok(()) => {
                if !dry_run {
                    repo.set_map_aside(manifest, number)?;
                }
                done.set_aside.push(key);
            }
            Err(e) if is_gone(&e) => done.lost.push((key, format!("{why}; and without it: {}", e.in_full()))),
            Err(e) => return Err(e),
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
