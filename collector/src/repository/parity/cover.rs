//! Which objects parity covers, in which groups; and taking out of a group what is to go.
//!
//! ```text
//!   what a committed point, map or tombstone names   - what groups cover   = what comes
//!   of one kind (data, else) and like length (a factor of 4)  -> up to 100 in a group
//! ```
//! Must stay true: only what is committed is covered, data before what names it; an object leaves its group before it is
//! removed, so that no repair brings it back.

use super::group::{Group, Groups};
use super::weave::{Wanted, Woven};
use crate::error::{Error, Kind, Result};
use crate::format::{
    Blake3, Covered, DeviceId, IndexRef, MAX_ENVELOPE, MAX_MEMBERS, ParityShare, PointId, SegmentRef,
};
use crate::repository::{DeviceLock, IndexReader, Repository, is_harm, keys};
use crate::sys::failpoint;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// What making parity did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Parity {
    /// Objects that are covered now and were not.
    pub covered: u64,
    /// Groups written.
    pub groups: u64,
    /// What could not be covered, or not as it should, and why.
    pub left: Vec<(String, String)>,
}

/// An object to cover.
#[derive(Clone, Debug)]
pub(super) struct Bare {
    pub key: String,
    pub len: u64,
    pub hash: Blake3,
}

/// Objects that go into one group: data or not, and their length by powers of four.
type Shelf = (bool, u32);

fn shelf(key: &str, len: u64) -> Shelf {
    // data first
    (!key.starts_with("seg/"), len.max(1 << 14).ilog2() / 2)
}

impl Group {
    fn shelf(&self) -> Option<Shelf> {
        let longest = self.members.iter().max_by_key(|m| m.len)?;
        Some(shelf(&longest.key, longest.len))
    }

    /// It has room for an object of this shelf.
    fn takes(&self, wanted: Shelf) -> bool {
        self.shelf() == Some(wanted) && self.members.len() < MAX_MEMBERS && self.short() == 0
    }

    /// Its members and, where there is room, others.
    fn with(&self, others: &[Bare]) -> Vec<Covered> {
        let mut members = self.members.clone();
        let free = (0..MAX_MEMBERS as u16).filter(|at| !self.members.iter().any(|m| m.position == *at));
        members.extend(free.zip(others).map(|(position, bare)| bare.at(position)));
        members.sort_by_key(|m| m.position);
        members
    }
}

impl Bare {
    fn at(&self, position: u16) -> Covered {
        Covered { position, key: self.key.clone(), len: self.len, hash: self.hash }
    }
}

impl Repository {
    /// Parity for everything of a device that has none yet; groups that lack parity are made anew.
    ///
    /// # Errors
    /// What the store meets; what was made before stays.
    pub fn cover_with_parity(&self, lock: &DeviceLock, share: ParityShare) -> Result<Parity> {
        self.cover_all(lock, share, false)
    }

    /// The same where parity is wanted or there is any, and all that is there is read: what of it rotted is made anew.
    ///
    /// # Errors
    /// As [`cover_with_parity`](Self::cover_with_parity).
    pub(crate) fn verify_parity(&self, lock: &DeviceLock) -> Result<Parity> {
        if let Some(share) = self.parity_wanted(lock.device())? {
            return self.cover_all(lock, share, true);
        }
        self.drop_useless(lock.device(), &self.parity_groups(lock.device())?)?;
        Ok(Parity::default())
    }

    fn cover_all(&self, lock: &DeviceLock, share: ParityShare, read: bool) -> Result<Parity> {
        let (device, mut done) = (lock.device(), Parity::default());
        self.keep_config_copy()?;
        let mut groups = self.tidy_groups(lock, share, read, &mut done)?;
        let mut shelves: BTreeMap<Shelf, Vec<Bare>> = BTreeMap::new();
        for bare in self.bare(device, &groups.covered(), &mut done.left)? {
            shelves.entry(shelf(&bare.key, bare.len)).or_default().push(bare);
        }
        for (shelf, bare) in shelves {
            self.fill(lock, share, shelf, bare, &mut groups.all, &mut done)?;
        }
        Ok(done)
    }

    /// The share of a device's objects that parity is for: as the repository says, else as the groups say that there are.
    ///
    /// # Errors
    /// What the store meets.
    pub fn parity_wanted(&self, device: &DeviceId) -> Result<Option<ParityShare>> {
        if self.config().parity.is_some() {
            return Ok(self.config().parity);
        }
        Ok(self.parity_groups(device)?.all.last().map(|group| group.share))
    }

    /// The groups as they should be: none twice, none without all of its parity.
    fn tidy_groups(
        &self,
        lock: &DeviceLock,
        share: ParityShare,
        read: bool,
        done: &mut Parity,
    ) -> Result<Groups> {
        let device = lock.device();
        let mut groups = self.parity_groups(device)?;
        lock.holds()?;
        for group in groups.all.iter_mut().filter(|_| read) {
            let sound = self.sound_parity(group)?;
            group.there.retain(|number, _| sound.contains(number));
        }
        self.drop_useless(device, &groups)?;
        let superseded = groups.superseded();
        for group in std::mem::take(&mut groups.all) {
            if superseded.contains(&group.id) {
                self.retire_group(lock, &group)?;
                continue;
            }
            if group.short() == 0 {
                groups.all.push(group);
                continue;
            }
            let parity = share.of(group.members.len());
            match self.weave(Wanted { device, parity, share, members: group.members.clone(), old: None })? {
                Woven::Done(made) => {
                    self.retire_group(lock, &group)?;
                    done.groups += 1;
                    groups.all.push(made);
                }
                Woven::Spoiled(keys) => {
                    let why = format!(
                        "lacks {} parity objects, and cannot be made anew: {}",
                        group.short(),
                        keys.join(", ")
                    );
                    done.left.push((group.key(0), why));
                    groups.all.push(group);
                }
            }
        }
        Ok(groups)
    }

    /// Groups of which no object can be read cover nothing; what a newer program wrote stays.
    fn drop_useless(&self, device: &DeviceId, groups: &Groups) -> Result<()> {
        for id in &groups.gone {
            let of = |key: &str| keys::parse_parity(key).is_some_and(|(_, group, _)| group == *id);
            let mut broken = groups.broken.iter().filter(|(key, _)| of(key));
            if broken.all(|(_, why)| why.kind() == Kind::Damaged) {
                stays_if_denied(self.drop_group(device, *id))?;
            }
        }
        Ok(())
    }

    /// The old group goes; the new one, if any, is durable.
    fn replace_group(&self, lock: &DeviceLock, old: &Group) -> Result<()> {
        lock.holds()?;
        self.drop_group(&old.device, old.id)?;
        failpoint("repo.parity.old-gone")
    }

    /// The same where the new group covers all that the old one did: with a key that may not remove, the old one stays.
    fn retire_group(&self, lock: &DeviceLock, old: &Group) -> Result<()> {
        stays_if_denied(self.replace_group(lock, old))
    }

    /// Puts objects of one shelf into groups.
    fn fill(
        &self,
        lock: &DeviceLock,
        share: ParityShare,
        shelf: Shelf,
        mut bare: Vec<Bare>,
        groups: &mut Vec<Group>,
        done: &mut Parity,
    ) -> Result<()> {
        // groups that could not be changed as they are, and those that could not be made anew either
        let (mut rotten, mut unusable) = (BTreeSet::new(), BTreeSet::new());
        while !bare.is_empty() {
            let open = groups.iter().filter(|g| g.takes(shelf) && !unusable.contains(&g.id));
            let open = open.max_by_key(|g| g.members.len()).cloned();
            let room = MAX_MEMBERS - open.as_ref().map_or(0, |g| g.members.len());
            let some = &bare[..room.min(bare.len())];
            let members = match &open {
                Some(open) => open.with(some),
                None => (0..).zip(some).map(|(position, bare)| bare.at(position)).collect(),
            };
            let parity = share.of(members.len());
            let old = open.as_ref().filter(|g| g.parity == parity && !rotten.contains(&g.id));
            let old = old.map(|g| (g, Vec::new()));
            match self.weave(Wanted { device: lock.device(), parity, share, members, old })? {
                Woven::Done(made) => {
                    done.groups += 1;
                    done.covered += some.len() as u64;
                    bare.drain(..room.min(bare.len()));
                    groups.push(made);
                    if let Some(old) = open {
                        self.retire_group(lock, &old)?;
                        groups.retain(|group| group.id != old.id);
                    }
                }
                Woven::Spoiled(keys) => {
                    let before = bare.len();
                    bare.retain(|b| !keys.contains(&b.key));
                    let why = "missing, or not what it was";
                    done.left.extend(keys.into_iter().map(|key| (key, why.to_owned())));
                    if before == bare.len() {
                        let open =
                            open.ok_or_else(|| Error::new(Kind::Bug, "parity of nothing is spoiled"))?;
                        let known = !rotten.insert(open.id);
                        unusable.extend(known.then_some(open.id));
                    }
                }
            }
        }
        Ok(())
    }

    /// Takes objects out of the groups they are in, because they are about to be removed.
    ///
    /// # Errors
    /// [`Kind::Damaged`] if a group is needed for a repair first; what the store meets.
    pub(crate) fn leave_out(&self, lock: &DeviceLock, goes: &BTreeSet<String>) -> Result<()> {
        let groups = self.parity_groups(lock.device())?;
        let superseded = groups.superseded();
        for group in groups.all {
            let (away, stay): (Vec<Covered>, Vec<Covered>) =
                group.members.iter().cloned().partition(|m| goes.contains(&m.key));
            if away.is_empty() {
                continue;
            }
            // what a key that only adds had to leave: others stand for it
            if !stay.is_empty() && !superseded.contains(&group.id) {
                self.weave_without(&group, away, stay)?;
            }
            self.replace_group(lock, &group)?;
        }
        Ok(())
    }

    fn weave_without(&self, group: &Group, away: Vec<Covered>, stay: Vec<Covered>) -> Result<()> {
        let (device, parity, share) = (&group.device, group.parity, group.share);
        let wanted = |old| Wanted { device, parity, share, members: stay.clone(), old };
        if let Woven::Done(_) = self.weave(wanted(Some((group, away))))? {
            return Ok(());
        }
        let Woven::Spoiled(spoiled) = self.weave(wanted(None))? else { return Ok(()) };
        let lost = self.lost_members(group, &self.sizes()?, &mut |_| {})?.len();
        if lost <= self.sound_parity(group)?.len() {
            let text = format!("remove what parity covers: {} can be repaired from it", spoiled.join(", "));
            return Err(Error::new(Kind::Damaged, text).hint("run `blkdelta repair` first"));
        }
        log::warn!(
            "parity of {device}: of a group {lost} objects are lost, more than it can give back: it goes"
        );
        Ok(())
    }

    /// What is committed and not covered. What cannot be read is named in `left`.
    pub(super) fn bare(
        &self,
        device: &DeviceId,
        covered: &BTreeSet<&str>,
        left: &mut Vec<(String, String)>,
    ) -> Result<Vec<Bare>> {
        let mut found = BTreeMap::new();
        let maps = self.store().list(&format!("map/{device}"))?;
        let maps: Vec<_> = maps.iter().filter_map(|(key, _)| keys::parse_map(key)).collect();
        for (key, _) in self.store().list(&format!("bak/{device}"))? {
            let Some((_, point)) = keys::parse_manifest(&key) else { continue };
            let numbers = maps.iter().filter(|(_, p, _, commit)| *commit && *p == point);
            let numbers: BTreeSet<u32> = numbers.map(|(.., number, _)| *number).collect();
            let of_maps = numbers
                .iter()
                .flat_map(|n| [keys::map(device, point, *n), keys::map_commit(device, point, *n)]);
            let mut all = [key.clone(), keys::index(device, point)].into_iter().chain(of_maps);
            if all.all(|key| covered.contains(key.as_str())) {
                continue;
            }
            match self.objects_of(device, point, &numbers) {
                Ok(objects) => found.extend(objects.into_iter().map(|bare| (bare.key.clone(), bare))),
                Err(e) if is_harm(&e) => left.push((key, e.in_full())),
                Err(e) => return Err(e),
            }
        }
        for (key, _) in self.store().list(&format!("del/{device}"))? {
            let Some((_, point)) = keys::parse_tombstone(&key) else { continue };
            match self.tombstone(device, point).and_then(|_| self.small(&key)) {
                Ok(bare) => drop(found.insert(key, bare)),
                Err(e) if is_harm(&e) => left.push((key, e.in_full())),
                Err(e) => return Err(e),
            }
        }
        Ok(found.into_values().filter(|bare| !covered.contains(bare.key.as_str())).collect())
    }

    /// An object that is read whole.
    fn small(&self, key: &str) -> Result<Bare> {
        let bytes = self.store().get(key, MAX_ENVELOPE as u64)?;
        Ok(Bare { key: key.to_owned(), len: bytes.len() as u64, hash: Blake3::of(&bytes) })
    }

    /// All that a point needs, as far as it can be told.
    fn objects_of(&self, device: &DeviceId, point: PointId, maps: &BTreeSet<u32>) -> Result<Vec<Bare>> {
        let key = keys::manifest(device, point);
        let (manifest, hash) = self.manifest(device, point)?;
        let mut found = vec![self.small(&key)?];
        let (mut opened, mut sole) = (Vec::new(), false);
        for number in maps {
            let map = self.point_map(device, point, hash, *number)?;
            found.push(self.small(&keys::map_commit(device, point, *number))?);
            opened.push((
                keys::map(device, point, *number),
                map.index,
                self.map_index(&map, manifest.geometry.size)?,
            ));
            // the highest is used: what those before it name may be gone
            sole = map.sole;
        }
        let own = (keys::index(device, point), manifest.index, self.index(&manifest));
        let last = if sole { opened.pop() } else { None };
        if let Some(last) = last {
            found.extend(opened.into_iter().map(|(key, told, _)| whole(key, told)));
            found.extend(own.2.is_ok().then(|| whole(own.0, own.1)));
            opened = vec![last];
        } else {
            opened.push((own.0, own.1, own.2?));
        }
        for (key, told, index) in opened {
            found.push(whole(key, told));
            found.extend(data(&index));
        }
        Ok(found)
    }

    /// `repo.json` is nothing that a group covers: without it no repository can be opened. It is copied.
    fn keep_config_copy(&self) -> Result<()> {
        let bytes = self.store().get(keys::CONFIG, MAX_ENVELOPE as u64)?;
        match self.store().get(keys::CONFIG_COPY, MAX_ENVELOPE as u64) {
            Ok(copy) if copy == bytes => return Ok(()),
            Err(e) if e.kind() == Kind::NotFound => {}
            Err(e) if !self.is_rot(&e) => return Err(e),
            _ => match self.store().delete(keys::CONFIG_COPY) {
                Err(e) if e.kind() == Kind::Denied => return stays_if_denied(Err(e)),
                gone => gone?,
            },
        }
        self.store().put_new(keys::CONFIG_COPY, bytes)
    }

    /// The copy of `repo.json` is not what it is a copy of.
    pub(super) fn config_copy_rots(&self) -> Result<bool> {
        let bytes = self.store().get(keys::CONFIG, MAX_ENVELOPE as u64)?;
        match self.store().get(keys::CONFIG_COPY, MAX_ENVELOPE as u64) {
            Ok(copy) => Ok(copy != bytes),
            Err(e) if e.kind() == Kind::NotFound => Ok(false),
            Err(e) if self.is_rot(&e) => Ok(true),
            Err(e) => Err(e),
        }
    }
}

/// Somebody whose key only adds cannot remove what is of no use any more: it lies there until another comes.
fn stays_if_denied(gone: Result<()>) -> Result<()> {
    match gone {
        Err(e) if e.kind() == Kind::Denied => {
            log::info!("parity that is of no use stays until somebody with the right comes: {}", e.in_full());
            Ok(())
        }
        gone => gone,
    }
}

fn whole(key: String, told: IndexRef) -> Bare {
    Bare { key, len: told.len, hash: told.hash }
}

fn data(index: &IndexReader) -> Vec<Bare> {
    let bare = |s: &SegmentRef| Bare { key: keys::segment(s.id), len: s.len, hash: s.hash };
    index.segments().iter().map(bare).collect()
}
