//! Sending points to another repository, parents first.
//!
//! A point whose parent is (or comes) there too goes as it is: its own segments, byte for byte, or where one of the two is
//! encrypted frame by frame, opened and sealed anew (a frame is bound to its repository). One that stands alone
//! here, because its parent is pruned or its segments were compacted, and one that is asked for by itself, goes as a
//! full. Either keeps its id, so that what is there already is not sent again.

use super::Chain;
use crate::error::{Error, Kind, Result};
use crate::format::{Blake3, DeviceId, DeviceIdent, Manifest, PointId};
use crate::repository::{DeviceLock, PointState, Repository, Taking};
use crate::seal::Rights;
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
    /// Points that a prune dropped there: hidden, and not sent again before it has removed them.
    pub dropped: Vec<PointId>,
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

/// Told of bytes done; says whether to go on.
pub type Progress<'a> = dyn Fn(u64) -> bool + Sync + 'a;

/// From one repository to another.
pub struct Sending<'a> {
    from: &'a Repository,
    to: &'a Repository,
}

/// A device on its way.
struct Device<'a> {
    sending: &'a Sending<'a>,
    /// Its name where nothing is hidden.
    name: DeviceId,
    lock: DeviceLock,
    wanted: Wanted,
    progress: &'a Progress<'a>,
}

impl<'a> Sending<'a> {
    /// `decrypt`: what is encrypted there may be readable here.
    ///
    /// # Errors
    /// [`Kind::Usage`] if they are the same; [`Kind::Denied`] if the copy would be readable and that was not said, or the
    /// key cannot read what has to be sealed anew.
    pub fn new(from: &'a Repository, to: &'a Repository, decrypt: bool) -> Result<Self> {
        if from.uuid() == to.uuid() {
            return Err(Error::new(Kind::Usage, "copy a repository into itself")
                .hint("give another one with --to; a copy of its folder is the same one too"));
        }
        if from.rights().is_some() && to.rights().is_none() && !decrypt {
            let text = "copy: the repository that is read is encrypted, the one that is written is not";
            return Err(Error::new(Kind::Denied, text).hint(
                "make an encrypted one with `blkdelta init --encrypt`; or --decrypt, if everybody who can read the target \
                 may read all of the content",
            ));
        }
        if from.rights() == Some(Rights::Writer) {
            let text = "copy: frames must be sealed anew, and this key can write backups and not read them";
            return Err(Error::new(Kind::Denied, text)
                .hint("give the owner's passphrase or private key for the repository that is read"));
        }
        Ok(Self { from, to })
    }

    /// Sends points of a device.
    ///
    /// # Errors
    /// [`Kind::Busy`] if the device is written there; what the stores meet. Damage of one point does not keep others back.
    pub fn send(&self, device: &DeviceId, wanted: Wanted, progress: &Progress<'_>) -> Result<Sent> {
        let (chosen, failed) = choose(self.from, device, wanted)?;
        let name = self.name(device, &chosen);
        let lock = self.to.lock(&self.to.device_name(&name))?;
        let sending = Device { sending: self, name, lock, wanted, progress };
        let (points, whole, there, dropped) = Default::default();
        let mut sent = Sent { device: device.clone(), points, whole, there, dropped, failed };
        let buried = self.to.buried(Some(sending.lock.device()))?;
        for manifest in chosen {
            if buried.iter().any(|(_, point)| *point == manifest.point) {
                sent.drop_one(&manifest, wanted);
                continue;
            }
            if self.to.has(&sending.here(&manifest), manifest.point)? {
                sent.there.push(manifest.point);
                continue;
            }
            match sending.one(&manifest) {
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

    /// Bytes that would be read for what is not there yet, at most.
    ///
    /// # Errors
    /// What the stores meet.
    pub fn to_send(&self, device: &DeviceId, wanted: Wanted) -> Result<u64> {
        let (chosen, _) = choose(self.from, device, wanted)?;
        let name = self.name(device, &chosen);
        let mut sum = 0;
        for manifest in chosen {
            if !self.to.has(&self.to.called_here(&manifest.device, &name), manifest.point)? {
                sum += manifest.totals.stored_bytes;
            }
        }
        Ok(sum)
    }

    /// Where names are hidden, a point may tell the one of its device; else the one it has is kept.
    fn name(&self, device: &DeviceId, points: &[Manifest]) -> DeviceId {
        let told = points.iter().rev().find_map(|manifest| self.from.open_name(&manifest.device));
        told.unwrap_or_else(|| device.clone())
    }
}

impl Sent {
    /// A point that was dropped there. Who asks for it by name is told that he does not get it.
    fn drop_one(&mut self, manifest: &Manifest, wanted: Wanted) {
        match wanted {
            Wanted::Point(point) | Wanted::Whole(point) if point == manifest.point => {
                let why = "a prune dropped it there; it can be copied again when that has removed it";
                self.failed.push((point, why.to_owned()));
            }
            _ => self.dropped.push(manifest.point),
        }
    }
}

impl Device<'_> {
    /// The device as the points there have it.
    fn here(&self, manifest: &Manifest) -> DeviceIdent {
        self.sending.to.called_here(&manifest.device, &self.name)
    }

    /// Sends a point that is not there; true: as a full.
    fn one(&self, manifest: &Manifest) -> Result<bool> {
        let Sending { from, to } = *self.sending;
        let taking = Taking { from, manifest, device: self.here(manifest) };
        if let Some(parent) = self.parent_there(manifest, &taking.device.id)? {
            match to.take_over(&self.lock, &taking, parent, self.progress) {
                // a compaction moved its frames: its map knows where
                Err(e) if matches!(e.kind(), Kind::NotFound | Kind::Damaged) => log::info!("{}", e.in_full()),
                taken => return taken.map(|_| false),
            }
        }
        let chain = Chain::resolve(from, &manifest.device.id, manifest.point)?;
        to.take_over_whole(&self.lock, &taking, &mut chain.pieces()?, self.progress).map(|_| true)
    }

    /// `None`: the point cannot go as it is. Else the hash of its parent's manifest there, if it has a parent.
    fn parent_there(&self, manifest: &Manifest, here: &DeviceId) -> Result<Option<Option<Blake3>>> {
        let Some(parent) = manifest.parent else { return Ok(Some(None)) };
        if matches!(self.wanted, Wanted::Whole(_)) {
            return Ok(None);
        }
        match self.sending.to.manifest(here, parent.point) {
            Ok((there, hash)) if there.geometry.size == manifest.geometry.size => Ok(Some(Some(hash))),
            Ok(_) => Ok(None),
            Err(e) if matches!(e.kind(), Kind::NotFound | Kind::Damaged | Kind::Incompatible) => Ok(None),
            Err(e) => Err(e),
        }
    }
}

/// Points whose manifests cannot be read, and why.
type Unreadable = Vec<(PointId, String)>;

/// Parents before their children; and what cannot be read.
fn choose(from: &Repository, device: &DeviceId, wanted: Wanted) -> Result<(Vec<Manifest>, Unreadable)> {
    let below: Option<BTreeSet<PointId>> = match wanted {
        Wanted::All => None,
        Wanted::Whole(point) => Some([point].into()),
        Wanted::Point(point) => {
            let chain = Chain::resolve(from, device, point)?;
            Some(chain.points().iter().map(|m| m.point).collect())
        }
    };
    let (mut chosen, mut unreadable) = (Vec::new(), Vec::new());
    for entry in from.points_of(device)? {
        if below.as_ref().is_some_and(|below| !below.contains(&entry.id)) {
            continue;
        }
        match entry.state {
            PointState::Good { manifest, .. } => chosen.push(*manifest),
            PointState::Damaged(why) => unreadable.push((entry.id, why)),
        }
    }
    Ok((chosen, unreadable))
}
