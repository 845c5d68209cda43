//! Sending points to another repository, parents first.
//!
//! A point whose parent is (or comes) there too goes as it is: its own segments, byte for byte. One that stands alone
//! here, because its parent is pruned or its segments were compacted, and one that is asked for by itself, goes as a
//! full. Either keeps its id, so that what is there already is not sent again.

use super::Chain;
use crate::error::{Error, Kind, Result};
use crate::format::{Blake3, DeviceId, Manifest, PointId};
use crate::repository::{DeviceLock, PointState, Repository};
use serde::Serialize;
use std::collections::BTreeSet;

/// What was sent.
#[derive(Clone, Debug, Serialize)]
pub struct Sent {
    /// The device.
    pub device: DeviceId,
    /// Points sent, parents first.
    pub points: Vec<PointId>,
    /// Those of them that were made fulls.
    pub whole: Vec<PointId>,
    /// Points that were there already.
    pub there: Vec<PointId>,
    /// Points that could not be sent, and why.
    pub failed: Vec<(PointId, String)>,
}

/// What to send of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Every point.
    All,
    /// A point and what is below it.
    Point(PointId),
    /// A point by itself, as a full.
    Whole(PointId),
}

/// Sends points of a device. `progress` is told of bytes done and says whether to go on.
///
/// # Errors
/// [`Kind::Busy`] if the device is written there; what the stores meet. Damage of one point does not keep others back.
pub fn send(
    from: &Repository,
    to: &Repository,
    device: &DeviceId,
    wanted: Wanted,
    progress: &(dyn Fn(u64) -> bool + Sync),
) -> Result<Sent> {
    if from.uuid() == to.uuid() {
        return Err(
            Error::new(Kind::Usage, "copy a repository into itself").hint("give another one with --to")
        );
    }
    let lock = to.lock(device)?;
    let mut sent = Sent {
        device: device.clone(),
        points: Vec::new(),
        whole: Vec::new(),
        there: Vec::new(),
        failed: Vec::new(),
    };
    for manifest in choose(from, device, wanted, &mut sent)? {
        if to.has(&manifest)?.is_some() {
            sent.there.push(manifest.point);
            continue;
        }
        match one(from, to, &lock, &manifest, wanted, progress) {
            Ok(whole) => {
                sent.points.push(manifest.point);
                sent.whole.extend(whole.then_some(manifest.point));
            }
            Err(e) if matches!(e.kind(), Kind::Damaged | Kind::Incompatible | Kind::NotFound) => {
                sent.failed.push((manifest.point, e.in_full()));
            }
            Err(e) => return Err(e.within(format!("copy point {}", manifest.point))),
        }
    }
    Ok(sent)
}

/// Sends a point that is not there; true: as a full.
fn one(
    from: &Repository,
    to: &Repository,
    lock: &DeviceLock,
    manifest: &Manifest,
    wanted: Wanted,
    progress: &(dyn Fn(u64) -> bool + Sync),
) -> Result<bool> {
    if let Some(parent) = parent_there(to, manifest, wanted)? {
        match to.take_over(lock, from, manifest, parent, progress) {
            // a compaction moved its frames: its map knows where
            Err(e) if matches!(e.kind(), Kind::NotFound | Kind::Damaged) => log::info!("{}", e.in_full()),
            taken => return taken.map(|_| false),
        }
    }
    let chain = Chain::resolve(from, &manifest.device.id, manifest.point)?;
    to.take_over_whole(lock, from, manifest, &mut chain.pieces()?, progress).map(|_| true)
}

/// Bytes that would be read for what is not there yet, at most.
///
/// # Errors
/// What the stores meet.
pub fn to_send(from: &Repository, to: &Repository, device: &DeviceId, wanted: Wanted) -> Result<u64> {
    let mut unsent =
        Sent { device: device.clone(), points: vec![], whole: vec![], there: vec![], failed: vec![] };
    let mut sum = 0;
    for manifest in choose(from, device, wanted, &mut unsent)? {
        if to.has(&manifest)?.is_none() {
            sum += manifest.totals.stored_bytes;
        }
    }
    Ok(sum)
}

/// Parents before their children.
fn choose(from: &Repository, device: &DeviceId, wanted: Wanted, sent: &mut Sent) -> Result<Vec<Manifest>> {
    let below: Option<BTreeSet<PointId>> = match wanted {
        Wanted::All => None,
        Wanted::Whole(point) => Some([point].into()),
        Wanted::Point(point) => {
            let chain = Chain::resolve(from, device, point)?;
            Some(chain.points().iter().map(|m| m.point).collect())
        }
    };
    let mut chosen = Vec::new();
    for entry in from.points_of(device)? {
        if below.as_ref().is_some_and(|below| !below.contains(&entry.id)) {
            continue;
        }
        match entry.state {
            PointState::Good { manifest, .. } => chosen.push(*manifest),
            PointState::Damaged(why) => sent.failed.push((entry.id, why)),
        }
    }
    Ok(chosen)
}

/// `None`: the point cannot go as it is. Else the hash of its parent's manifest there, if it has a parent.
fn parent_there(to: &Repository, manifest: &Manifest, wanted: Wanted) -> Result<Option<Option<Blake3>>> {
    let Some(parent) = manifest.parent else { return Ok(Some(None)) };
    if matches!(wanted, Wanted::Whole(_)) {
        return Ok(None);
    }
    match to.manifest(&manifest.device.id, parent.point) {
        Ok((there, hash)) if there.geometry.size == manifest.geometry.size => Ok(Some(Some(hash))),
        Ok(_) => Ok(None),
        Err(e) if matches!(e.kind(), Kind::NotFound | Kind::Damaged | Kind::Incompatible) => Ok(None),
        Err(e) => Err(e),
    }
}
