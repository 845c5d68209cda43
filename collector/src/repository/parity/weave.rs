//! Making a group: reading members strip by strip, and writing its parity objects.
//!
//! ```text
//!   anew:     parity = sum of all members                            reads them all
//!   changed:  parity = that of the old group + what comes + what goes   reads only these
//! ```
//! Must stay true: a group is published only after the hash of every byte that went into it was found right; what it
//! covers is durable before it; the old group goes after the new one is there.

use super::code::{Encoder, STRIP};
use super::group::Group;
use crate::error::{Context, Error, Kind, Result};
use crate::format::{
    Blake3, Covered, DeviceId, GroupId, HEADER_LEN, Header, ObjectKind, ParityShare, ParityTable, SHARD_STEP,
    Trailer,
};
use crate::repository::Repository;
use crate::seal::Part;
use crate::sys::failpoint;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// A parity object longer than this goes to the store in parts of this length.
const PART: u64 = 8 << 20;

/// Bytes that are read ahead, of all objects together and of one.
const AHEAD: u64 = 48 << 20;
const LONGEST: u64 = 8 << 20;

/// What to make.
pub(super) struct Wanted<'a> {
    pub device: &'a DeviceId,
    pub parity: u16,
    pub share: ParityShare,
    /// What it covers, by position.
    pub members: Vec<Covered>,
    /// The group to begin with, and what of it goes; `None`: from nothing.
    pub old: Option<(&'a Group, Vec<Covered>)>,
}

/// What came of it.
pub(super) enum Woven {
    Done(Group),
    /// These could not be used: missing, or not what their hash says. Nothing was written.
    Spoiled(Vec<String>),
}

/// An object on its way through the code.
struct Thread<'a> {
    key: String,
    /// Of its first byte, in the object.
    at: u64,
    len: u64,
    hash: Blake3,
    position: u16,
    hasher: blake3::Hasher,
    spoiled: bool,
    /// What was read ahead, and the first byte of it.
    ahead: (u64, Bytes),
    repo: &'a Repository,
}

impl<'a> Thread<'a> {
    fn member(repo: &'a Repository, member: &Covered) -> Self {
        let (key, hasher) = (member.key.clone(), blake3::Hasher::new());
        let (len, hash, position) = (member.len, member.hash, member.position);
        Self { key, at: 0, len, hash, position, hasher, spoiled: false, ahead: (0, Bytes::new()), repo }
    }

    fn parity(repo: &'a Repository, group: &Group, number: u16, hash: Blake3) -> Self {
        let (key, at, len) = (group.key(number), HEADER_LEN as u64, group.shard_len);
        let (hasher, ahead) = (blake3::Hasher::new(), (0, Bytes::new()));
        Self { key, at, len, hash, position: number, hasher, spoiled: false, ahead, repo }
    }

    /// The strip at `at`, filled up with zeros; of what follows as much is read along as `most` says.
    fn strip(&mut self, at: u64, len: usize, most: u64) -> Result<Vec<u8>> {
        let mut strip = vec![0; len];
        let here = self.len.saturating_sub(at).min(len as u64) as usize;
        if here == 0 || self.spoiled {
            return Ok(strip);
        }
        if at >= self.ahead.0 + self.ahead.1.len() as u64 {
            match self.repo.store().get_range(&self.key, self.at + at, (self.len - at).min(most)) {
                Ok(bytes) => self.ahead = (at, bytes),
                Err(e) if self.repo.is_rot(&e) => {
                    self.spoiled = true;
                    return Ok(strip);
                }
                Err(e) => return Err(e),
            }
            self.hasher.update(&self.ahead.1);
        }
        let from = (at - self.ahead.0) as usize;
        strip[..here].copy_from_slice(&self.ahead.1[from..from + here]);
        Ok(strip)
    }

    fn is_right(&self) -> bool {
        !self.spoiled && Blake3(*self.hasher.finalize().as_bytes()) == self.hash
    }
}

/// Reads the strips of objects side by side.
pub(super) struct Strips<'a> {
    threads: Vec<Thread<'a>>,
}

impl<'a> Strips<'a> {
    pub fn of<'b>(repo: &'a Repository, members: impl IntoIterator<Item = &'b Covered>) -> Self {
        let mut threads: Vec<_> = members.into_iter().map(|m| Thread::member(repo, m)).collect();
        threads.sort_by_key(|t| t.position);
        Self { threads }
    }

    pub fn of_parity(repo: &'a Repository, group: &Group, numbers: &[u16]) -> Self {
        let chosen = group.there.iter().filter(|(number, _)| numbers.contains(number));
        Self { threads: chosen.map(|(number, hash)| Thread::parity(repo, group, *number, *hash)).collect() }
    }

    /// Positions and bytes.
    pub fn read(&mut self, at: u64, len: usize) -> Result<Vec<(u16, Vec<u8>)>> {
        // whole strips, so that none lies in two reads
        let strips = AHEAD / self.threads.len().max(1) as u64 / STRIP as u64;
        let most = strips.clamp(1, LONGEST / STRIP as u64) * STRIP as u64;
        self.threads.iter_mut().map(|t| Ok((t.position, t.strip(at, len, most)?))).collect()
    }

    /// Those that were not what their hash says.
    pub fn spoiled(&self) -> Vec<String> {
        self.threads.iter().filter(|t| !t.is_right()).map(|t| t.key.clone()).collect()
    }
}

/// Files without a name that shards are collected in.
pub(super) struct Shards {
    files: Vec<(File, blake3::Hasher)>,
}

impl Shards {
    pub fn new(repo: &Repository, count: usize) -> Result<Self> {
        let file = |_| Ok((repo.store().scratch()?, blake3::Hasher::new()));
        Ok(Self { files: (0..count).map(file).collect::<Result<_>>()? })
    }

    /// Of the `len` bytes that follow, the first `counted` are hashed.
    pub fn append(&mut self, number: usize, at: u64, bytes: &[u8], counted: usize) -> Result<()> {
        let Some((file, hasher)) = self.files.get_mut(number) else {
            return Err(Error::new(Kind::Bug, "a shard too many"));
        };
        hasher.update(bytes.get(..counted).unwrap_or(bytes));
        file.write_all_at(bytes, at).os_context(|| "write parity to a temporary file".into())
    }

    pub fn hash(&self, number: usize) -> Blake3 {
        self.files.get(number).map_or(Blake3([0; 32]), |(_, hasher)| Blake3(*hasher.finalize().as_bytes()))
    }

    pub fn read(&self, number: usize, at: u64, len: u64) -> Result<Vec<u8>> {
        let mut bytes = vec![0; len as usize];
        let file = self
            .files
            .get(number)
            .map(|(file, _)| file)
            .ok_or_else(|| Error::new(Kind::Bug, "no such shard"))?;
        file.read_exact_at(&mut bytes, at).os_context(|| "read parity from a temporary file".into())?;
        Ok(bytes)
    }
}

/// The strips of a shard.
pub(super) fn strips(shard_len: u64) -> impl Iterator<Item = (u64, usize)> {
    (0..shard_len).step_by(STRIP).map(move |at| (at, (shard_len - at).min(STRIP as u64) as usize))
}

impl Repository {
    /// Makes a group, durably. The old one, if any, is still there.
    pub(super) fn weave(&self, wanted: Wanted<'_>) -> Result<Woven> {
        let Wanted { device, parity, share, members, old } = wanted;
        let (base, goes) = old.map_or((None, Vec::new()), |(group, goes)| (Some(group), goes));
        let longest = members.iter().map(|m| m.len).max().unwrap_or(0).max(1);
        let shard_len = longest.next_multiple_of(SHARD_STEP).max(base.map_or(0, |group| group.shard_len));
        let comes = members.iter().filter(|m| base.is_none_or(|group| !group.members.contains(m)));
        let mut changed = Strips::of(self, comes.chain(&goes));
        let numbers: Vec<u16> = base.map_or_else(Vec::new, |group| group.there.keys().copied().collect());
        let mut before = base.map(|group| Strips::of_parity(self, group, &numbers));
        let (mut encoder, mut shards) = (Encoder::new(parity)?, Shards::new(self, usize::from(parity))?);
        for (at, len) in strips(shard_len) {
            let old: BTreeMap<u16, Vec<u8>> = match &mut before {
                Some(before) => before.read(at, len)?.into_iter().collect(),
                None => BTreeMap::new(),
            };
            encoder.strip(len, &changed.read(at, len)?, &mut |number, bytes| {
                let Some(old) = old.get(&(number as u16)) else {
                    return shards.append(number, at, bytes, len);
                };
                let sum: Vec<u8> = old.iter().zip(bytes).map(|(a, b)| a ^ b).collect();
                shards.append(number, at, &sum, len)
            })?;
        }
        let mut spoiled = changed.spoiled();
        spoiled.extend(before.iter().flat_map(Strips::spoiled));
        if !spoiled.is_empty() {
            return Ok(Woven::Spoiled(spoiled));
        }
        let made = Group {
            device: device.clone(),
            id: GroupId::generate(),
            parity,
            share,
            shard_len,
            members,
            there: BTreeMap::new(),
        };
        self.publish_group(made, &shards, base.map(|_| numbers)).map(Woven::Done)
    }

    /// Writes the parity objects: all, or those of which the sum is known.
    fn publish_group(&self, mut group: Group, shards: &Shards, known: Option<Vec<u16>>) -> Result<Group> {
        for number in (0..group.parity).filter(|n| known.as_ref().is_none_or(|known| known.contains(n))) {
            let (key, shard) = (group.key(number), shards.hash(usize::from(number)));
            let (members, parity, shard_len) = (group.members.clone(), group.parity, group.shard_len);
            let table = ParityTable { number, parity, share: group.share, shard_len, shard, members };
            let mut footer = table.encode()?;
            if let Some(cover) = self.cover(&key) {
                footer = cover.seal(Part::Footer, &footer)?;
            }
            let (kind, sealed) = (ObjectKind::Parity, self.keys().is_some());
            let header =
                Header { kind, sealed, compatible: 0, repository: self.uuid(), id: group.id.to_bytes() };
            let trailer = Trailer::of(HEADER_LEN as u64 + shard_len, &footer, group.members.len() as u64);
            let end = [footer, trailer.encode(kind).to_vec()].concat();
            failpoint("repo.parity.put")?;
            let read = |at, len| shards.read(usize::from(number), at, len);
            self.put_shard(&key, &header.encode(), &end, shard_len, read)?;
            failpoint("repo.parity.stored")?;
            group.there.insert(number, shard);
        }
        Ok(group)
    }

    /// Writes an object whose middle is a shard, or the beginning of one.
    pub(super) fn put_shard(
        &self,
        key: &str,
        header: &[u8],
        end: &[u8],
        len: u64,
        shard: impl Fn(u64, u64) -> Result<Vec<u8>>,
    ) -> Result<()> {
        if len <= PART {
            let bytes = [header, &shard(0, len)?, end].concat();
            return self.store().put_new(key, bytes.into());
        }
        let mut stream = self.store_handle().stream(key)?;
        let mut buffer = header.to_vec();
        for at in (0..len).step_by(PART as usize) {
            buffer.extend_from_slice(&shard(at, (len - at).min(PART))?);
            if buffer.len() >= PART as usize {
                let rest = buffer.split_off(PART as usize);
                stream.part(std::mem::replace(&mut buffer, rest))?;
            }
        }
        buffer.extend_from_slice(end);
        stream.part(buffer)?;
        stream.complete()
    }
}
