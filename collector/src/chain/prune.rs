//! Pruning: which points go, what must be written first so that the others stay whole, and the going itself.
//!
//! ```text
//!   1  a point that stays and whose parent goes gets a map        nothing is gone yet
//!   2  what goes gets a tombstone                                 listed no more, still readable
//!   3  after the time of grace: what only buried points needed    gone
//! ```
//! Must stay true: every point that stays restores to the same bytes at every moment, whatever dies when; a point
//! whose chain cannot be read keeps everything below it; the steps of one device are made under its writer's lock,
//! so no backup builds on a point that goes.

use super::compact::drop_old;
use super::{Chain, Policy, usable_map};
use crate::error::{Error, Kind, Result};
use crate::format::{Blake3, DeviceId, Manifest, PointId, SegmentId};
use crate::repository::{DeviceLock, PointState, Repository, Swept};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What pruning one device would do, or did.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Plan {
    /// Points that stay, newest last, with the rules that keep them.
    pub keep: Vec<(PointId, Vec<&'static str>)>,
    /// Points that go, newest last.
    pub drop: Vec<PointId>,
    /// Points that stay and get a map, because their parent goes.
    pub map: Vec<PointId>,
    /// Points that were dropped before and are out of their time of grace.
    pub sweep: Vec<PointId>,
}

/// What was done with a device.
#[derive(Clone, Debug, Serialize)]
pub struct Pruned {
    /// The device.
    pub device: DeviceId,
    /// The plan.
    #[serde(flatten)]
    pub plan: Plan,
    /// What went; `None`: only planned.
    pub swept: Option<Swept>,
}

/// Prunes one device.
///
/// # Errors
/// [`Kind::Busy`] while a backup of it runs; [`Kind::Damaged`] if a point that stays cannot be made independent of
/// those that go: then nothing is dropped.
pub fn prune(
    repo: &Repository,
    device: &DeviceId,
    policy: &Policy,
    grace: Duration,
    dry: bool,
) -> Result<Pruned> {
    policy.check()?;
    let lock = if dry { None } else { Some(repo.lock(device)?) };
    let points = Points::read(repo, device)?;
    let plan = points.plan(policy, grace)?;
    let Some(lock) = lock else { return Ok(Pruned { device: device.clone(), plan, swept: None }) };
    // before anything is hidden
    repo.may_remove(&lock)?;
    // first what is out of its time of grace: a store that is full has no room for what is written next
    let mut swept = match plan.sweep.is_empty() {
        true => Swept::default(),
        false => match sweep(repo, &lock, grace) {
            // a map that was lost is written again below; what cannot be is said by the sweep after that
            Err(e) if e.kind() == Kind::Damaged => Swept::default(),
            swept => swept?,
        },
    };
    for point in &plan.map {
        Chain::resolve(repo, device, *point)?.merge(&lock)?;
    }
    for point in &plan.drop {
        let (manifest, hash) = points.manifest(*point)?;
        repo.bury(&lock, manifest, *hash)?;
    }
    swept += sweep(repo, &lock, grace)?;
    match drop_old(repo, &lock, grace) {
        Ok(freed) => {
            swept.segments += freed.segments;
            swept.bytes += freed.bytes;
        }
        Err(e) if e.kind() == Kind::Damaged => log::warn!("what compactions left of {device} stays: {e}"),
        Err(e) => return Err(e),
    }
    Ok(Pruned { device: device.clone(), plan, swept: Some(swept) })
}

/// Removes what only buried points needed, of those out of their time of grace.
fn sweep(repo: &Repository, lock: &DeviceLock, grace: Duration) -> Result<Swept> {
    let device = lock.device();
    let points = Points::read(repo, device)?;
    let going = points.out_of_grace(grace)?;
    let mut swept = Swept::default();
    if going.is_empty() {
        return Ok(swept);
    }
    points.stand_alone(&going)?;
    for (manifest, hash) in points.good.iter().filter(|(m, _)| points.mapped.contains_key(&m.point)) {
        // whole without its damaged maps, or an error
        let whole = Chain::resolve(repo, device, manifest.point)?.expect_whole();
        whole.map_err(|e| e.hint("run `blkdelta repair`; nothing was removed"))?;
        repo.drop_damaged_maps(lock, manifest, *hash)?;
    }
    let live = points.live_segments(&going)?;
    let mut goes = BTreeSet::new();
    for point in &going {
        goes.append(&mut repo.going_with(&repo.tombstone(device, *point)?, &live)?);
    }
    // parity is removed before what it covers
    repo.leave_out(lock, &goes)?;
    // children before their parents; all manifests first, so that no point that is still there misses a segment
    let rest = points.good.iter().rev().map(|(m, _)| &m.point).filter(|p| going.contains(p));
    for point in rest.clone() {
        repo.unlist(lock, device, *point)?;
    }
    // those whose sweep died before
    let begun = going.iter().filter(|p| !points.good.iter().any(|(m, _)| m.point == **p));
    for point in begun.chain(rest) {
        swept += repo.sweep(lock, &repo.tombstone(device, *point)?, &live)?;
    }
    Ok(swept)
}

/// All points of a device, those with a tombstone too.
pub(super) struct Points<'a> {
    pub repo: &'a Repository,
    pub device: &'a DeviceId,
    /// Newest last; damaged ones are not among them.
    pub good: Vec<(Manifest, Blake3)>,
    /// Points whose manifest cannot be read.
    damaged: BTreeSet<PointId>,
    buried: BTreeSet<PointId>,
    pub mapped: BTreeMap<PointId, u32>,
}

impl<'a> Points<'a> {
    pub fn read(repo: &'a Repository, device: &'a DeviceId) -> Result<Self> {
        let buried = repo.buried(Some(device))?.into_iter().map(|(_, point)| point).collect();
        let (mut good, mut damaged) = (Vec::new(), BTreeSet::new());
        for entry in repo.all_points_of(device)? {
            match entry.state {
                PointState::Good { manifest, hash } => good.push((*manifest, hash)),
                PointState::Damaged(_) => drop(damaged.insert(entry.id)),
            }
        }
        Ok(Self { repo, device, good, damaged, buried, mapped: repo.mapped(device)? })
    }

    fn manifest(&self, point: PointId) -> Result<&(Manifest, Blake3)> {
        let found = self.good.iter().find(|(m, _)| m.point == point);
        found.ok_or_else(|| Error::new(Kind::NotFound, format!("point {point} of {}", self.device)))
    }

    fn plan(&self, policy: &Policy, grace: Duration) -> Result<Plan> {
        let live = self.good.iter().map(|(m, _)| m).filter(|m| !self.buried.contains(&m.point));
        let times: Vec<(PointId, u64)> = live.map(|m| (m.point, m.time_cut)).collect();
        let rules = policy.keep(&times);
        let mut plan = Plan::default();
        for ((point, _), rules) in times.into_iter().zip(rules) {
            if rules.is_empty() {
                plan.drop.push(point);
            } else {
                plan.keep.push((point, rules));
            }
        }
        let gone: BTreeSet<PointId> = plan.drop.iter().chain(&self.buried).copied().collect();
        for (manifest, hash) in self.good.iter().filter(|(m, _)| !gone.contains(&m.point)) {
            if !self.stands(manifest, *hash, &gone)? {
                plan.map.push(manifest.point);
            }
        }
        plan.sweep = self.out_of_grace(grace)?.into_iter().collect();
        Ok(plan)
    }

    /// Does a point restore without those of `gone`? If each point does without them, or on one that does, all do.
    fn stands(&self, manifest: &Manifest, hash: Blake3, gone: &BTreeSet<PointId>) -> Result<bool> {
        let below = manifest.parent.filter(|parent| gone.contains(&parent.point));
        Ok(below.is_none() || usable_map(self.repo, &self.mapped, manifest, hash)?.is_some())
    }

    /// Buried points whose time of grace is over, but none that another in its time of grace stands on.
    fn out_of_grace(&self, grace: Duration) -> Result<BTreeSet<PointId>> {
        let now = crate::repository::unix_millis();
        let mut going = BTreeSet::new();
        for point in &self.buried {
            let tombstone = self.repo.tombstone(self.device, *point)?;
            // a clock that was set back makes a tombstone of the future: it waits
            if now.checked_sub(tombstone.time).is_some_and(|age| age >= grace.as_millis() as u64) {
                going.insert(*point);
            }
        }
        // parents come before their children: from the newest down
        for (manifest, hash) in self.good.iter().rev() {
            let waits = self.buried.contains(&manifest.point) && !going.contains(&manifest.point);
            if waits && !self.stands(manifest, *hash, &going)? {
                manifest.parent.map(|parent| going.remove(&parent.point));
            }
        }
        Ok(going)
    }

    /// No manifest is damaged: what each point needs can be told.
    pub fn all_readable(&self) -> Result<()> {
        self.readable_but(&BTreeSet::new())
    }

    /// No manifest is damaged but of those that go.
    fn readable_but(&self, going: &BTreeSet<PointId>) -> Result<()> {
        let Some(damaged) = self.damaged.iter().find(|p| !going.contains(p)) else { return Ok(()) };
        let text = format!("drop data of {}: the manifest of {damaged} cannot be read, so", self.device);
        Err(Error::new(Kind::Damaged, format!("{text} what it needs is unknown"))
            .hint("run `blkdelta check`; remove what cannot be saved first"))
    }

    /// Every point that stays restores without any of those that go.
    fn stand_alone(&self, going: &BTreeSet<PointId>) -> Result<()> {
        for (manifest, hash) in self.good.iter().filter(|(m, _)| !going.contains(&m.point)) {
            if !self.stands(manifest, *hash, going)? {
                let text = format!("drop points of {}: {} still stands on one", self.device, manifest.point);
                return Err(Error::new(Kind::Damaged, text)
                    .hint("its map was lost; run prune again, it writes a new one first"));
            }
            if manifest.parent.is_some_and(|parent| going.contains(&parent.point)) {
                self.expect_sound_map(manifest, *hash)?;
            }
        }
        self.readable_but(going)
    }

    /// From now on a point's map alone shows it: every byte of it is read before what it was made of goes.
    fn expect_sound_map(&self, manifest: &Manifest, hash: Blake3) -> Result<()> {
        let Some(number) = self.mapped.get(&manifest.point) else { return Ok(()) };
        let Some(why) = self.repo.fault_of_map(manifest, hash, *number)? else { return Ok(()) };
        let (device, point) = (self.device, manifest.point);
        let text = format!("drop points of {device}: the map of {point}, which stays, is damaged: {why}");
        Err(Error::new(Kind::Damaged, text).hint("run `blkdelta repair`; nothing was removed"))
    }

    /// The segments that points which stay need, also those still in their time of grace.
    fn live_segments(&self, going: &BTreeSet<PointId>) -> Result<BTreeSet<SegmentId>> {
        let mut live = BTreeSet::new();
        for (manifest, hash) in self.good.iter().filter(|(m, _)| !going.contains(&m.point)) {
            live.append(&mut self.repo.segments_of(manifest, *hash)?);
        }
        Ok(live)
    }
}
