//! Giving back what was lost, from parity.
//!
//! Must stay true: what is put back has the BLAKE3 it had when it was covered; what lies in its place was read and has
//! another, and is kept in the quarantine; of a group that lost more than it can give back nothing is touched.

use super::code::Decoder;
use super::group::Group;
use super::weave::{Shards, Strips, strips};
use crate::error::{Error, Kind, Result};
use crate::format::{Covered, DeviceId, MAX_ENVELOPE, RepositoryConfig};
use crate::repository::location::Location;
use crate::repository::store::Store;
use crate::repository::{DeviceLock, Repository, keys};
use crate::sys::failpoint;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// What a repair from parity did, or would do.
#[derive(Clone, Debug, Default)]
pub(crate) struct Mended {
    /// Objects put back.
    pub back: BTreeSet<String>,
    /// Objects that are lost, and why.
    pub lost: BTreeMap<String, String>,
}

impl Repository {
    /// Bytes that groups cover: what a repair reads.
    pub(crate) fn bytes_with_parity(&self, device: &DeviceId) -> Result<u64> {
        Ok(self.parity_groups(device)?.all.iter().flat_map(|g| &g.members).map(|m| m.len).sum())
    }

    /// Puts back what groups of a device cover and what is missing or rotten. Without a lock: only says what it would do.
    /// `tell` is told of bytes read.
    pub(crate) fn mend(
        &self,
        device: &DeviceId,
        lock: Option<&DeviceLock>,
        tell: &mut dyn FnMut(u64),
    ) -> Result<Mended> {
        let (mut done, sizes) = (Mended::default(), self.sizes()?);
        let mut harmed = Vec::new();
        for group in self.parity_groups(device)?.all {
            let lost = self.lost_members(&group, &sizes, tell)?;
            if !lost.is_empty() {
                harmed.push((group, lost));
            }
        }
        // an object may be in two groups: what one gives back helps the other
        loop {
            let before = done.back.len();
            for (group, lost) in &mut harmed {
                lost.retain(|member| !done.back.contains(&member.key));
                self.mend_group(group, lost, lock, &mut done)?;
            }
            if done.back.len() == before {
                break;
            }
        }
        done.lost.retain(|key, _| !done.back.contains(key));
        Ok(done)
    }

    fn mend_group(
        &self,
        group: &Group,
        lost: &[Covered],
        lock: Option<&DeviceLock>,
        done: &mut Mended,
    ) -> Result<()> {
        if lost.is_empty() {
            return Ok(());
        }
        let mut say = |why: &str| {
            for member in lost {
                done.lost.entry(member.key.clone()).or_insert_with(|| why.to_owned());
            }
        };
        let mut sound = self.sound_parity(group)?;
        if lost.len() > sound.len() {
            let (n, of, can) = (lost.len(), group.members.len(), sound.len());
            say(&format!(
                "{n} of the {of} objects of its parity group are lost, and the parity that is left gives back {can}"
            ));
            return Ok(());
        }
        sound.truncate(lost.len());
        let shards = self.decode_lost(group, lost, &sound)?;
        let right =
            |shards: &Shards| lost.iter().enumerate().all(|(n, member)| shards.hash(n) == member.hash);
        let Some(shards) = shards.filter(right) else {
            say("its parity does not give back what it was made of");
            return Ok(());
        };
        for (n, member) in lost.iter().enumerate() {
            if let Some(lock) = lock {
                self.put_back(lock, member, n, &shards)?;
            }
            done.back.insert(member.key.clone());
        }
        Ok(())
    }

    /// The lost members' bytes; `None` if something changed since it was looked at.
    fn decode_lost(&self, group: &Group, lost: &[Covered], sound: &[u16]) -> Result<Option<Shards>> {
        let mut others = Strips::of(self, group.members.iter().filter(|m| !lost.contains(m)));
        let mut parity = Strips::of_parity(self, group, sound);
        let mut shards = Shards::new(self, lost.len())?;
        let mut decoder = Decoder::new(group.parity, lost.iter().map(|m| m.position).collect())?;
        for (at, len) in strips(group.shard_len) {
            decoder.strip(len, &others.read(at, len)?, &parity.read(at, len)?, &mut |n, bytes| {
                let counted = lost.get(n).map_or(0, |m| m.len.saturating_sub(at)).min(len as u64);
                shards.append(n, at, bytes, counted as usize)
            })?;
        }
        let changed = !(others.spoiled().is_empty() && parity.spoiled().is_empty());
        Ok((!changed).then_some(shards))
    }

    fn put_back(&self, lock: &DeviceLock, member: &Covered, n: usize, shards: &Shards) -> Result<()> {
        let key = &member.key;
        lock.holds()?;
        failpoint("repo.mend.aside")?;
        self.set_aside(key)?;
        failpoint("repo.mend.put")?;
        self.put_shard(key, &[], &[], member.len, |at, len| shards.read(n, at, len))?;
        failpoint("repo.mend.stored")
    }
}

/// Brings `repo.json` back from the copy that lies beside parity; whether that was needed.
///
/// # Errors
/// [`Kind::Damaged`] if neither can be read; what the store meets.
pub fn mend_config(location: &str, dry_run: bool) -> Result<bool> {
    let store = Store::open(&Location::parse(location)?)?;
    let read = |key| {
        let bytes = store.get(key, MAX_ENVELOPE as u64)?;
        RepositoryConfig::decode(&bytes).map(|_| bytes)
    };
    let broken = match read(keys::CONFIG) {
        Ok(_) => return Ok(false),
        Err(e) if matches!(e.kind(), Kind::Damaged | Kind::NotFound) => e,
        Err(e) => return Err(e),
    };
    // without a copy it is for whoever opens it to say what is wrong
    let Ok(copy) = read(keys::CONFIG_COPY) else { return Ok(false) };
    if dry_run {
        let text = "repo.json cannot be read; its copy beside the parity can";
        return Err(
            Error::caused(broken.kind(), text, broken).hint("run `blkdelta repair` without --dry-run")
        );
    }
    if broken.kind() == Kind::Damaged {
        let bytes = store.get(keys::CONFIG, MAX_ENVELOPE as u64)?;
        store.put(&format!("quarantine/{}.{}", keys::CONFIG, ulid::Ulid::generate()), bytes)?;
        store.delete(keys::CONFIG)?;
    }
    store.put_new(keys::CONFIG, copy)?;
    Ok(true)
}

/// Parity objects that are damaged, and how.
type Broken = Vec<(String, String)>;

/// What a check says of parity.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct ParityState {
    /// Groups of objects.
    pub groups: u64,
    /// Objects they cover.
    pub covered: u64,
    /// Objects that a restore needs, and none covers.
    pub uncovered: u64,
    /// Groups that lack parity objects.
    pub short: u64,
    /// Lost or damaged objects that a repair gives back.
    pub mendable: Vec<String>,
    /// Those that it cannot: more are lost of their group than its parity gives back.
    pub beyond: Vec<String>,
}

impl Repository {
    /// How things stand with parity, and the parity objects that are damaged; `None`: there is none, and none is wanted.
    /// `damaged`: keys that a check found damage in; `read`: shards are read too.
    pub(in crate::repository) fn parity_state(
        &self,
        damaged: &BTreeSet<String>,
        read: bool,
    ) -> Result<(Option<ParityState>, Broken)> {
        let mut devices = self.devices_with_parity()?;
        if self.config().parity.is_some() {
            devices.extend(self.devices()?);
        } else if devices.is_empty() {
            return Ok((None, Vec::new()));
        }
        let (sizes, mut state, mut broken) = (self.sizes()?, ParityState::default(), Vec::new());
        for device in devices {
            let groups = self.parity_groups(&device)?;
            state.uncovered += self.bare(&device, &groups.covered(), &mut Vec::new())?.len() as u64;
            state.groups += groups.all.len() as u64;
            state.covered += groups.covered().len() as u64;
            for group in &groups.all {
                self.judge_group(group, damaged, &sizes, read, &mut state, &mut broken)?;
            }
            broken.extend(groups.broken.into_iter().map(|(key, why)| (key, why.in_full())));
        }
        if self.config_copy_rots()? {
            broken.push((keys::CONFIG_COPY.to_owned(), "it is not what repo.json is".to_owned()));
        }
        let mended: BTreeSet<String> = state.mendable.iter().cloned().collect();
        state.beyond.retain(|key| !mended.contains(key));
        Ok((Some(state), broken))
    }

    fn judge_group(
        &self,
        group: &Group,
        damaged: &BTreeSet<String>,
        sizes: &HashMap<String, u64>,
        read: bool,
        state: &mut ParityState,
        broken: &mut Broken,
    ) -> Result<()> {
        state.short += u64::from(group.short() > 0);
        let sound = if read { self.sound_parity(group)? } else { group.there.keys().copied().collect() };
        for number in group.there.keys().filter(|n| !sound.contains(n)) {
            broken.push((group.key(*number), "its shard is not what was written (hash)".to_owned()));
        }
        let mut lost = Vec::new();
        for m in &group.members {
            let there = sizes.get(&m.key) == Some(&m.len);
            // what is wrong with an object may be what it names
            if !there || damaged.contains(&m.key) && !self.is_sound(&m.key, 0, m.len, m.hash)? {
                lost.push(m.key.clone());
            }
        }
        if lost.len() <= sound.len() {
            state.mendable.extend(lost)
        } else {
            state.beyond.extend(lost)
        }
        Ok(())
    }
}
