//! Groups as they lie in the store: which there are, what they cover, what of them can be read.

use crate::error::{Error, Kind, Result};
use crate::format::{
    Blake3, Covered, DeviceId, GroupId, HEADER_LEN, Header, ObjectKind, ParityShare, ParityTable,
    TRAILER_LEN, Trailer, damaged,
};
use crate::repository::{Repository, keys, lost};
use crate::seal::Part;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Read from the end of a parity object at once: the longest table, sealed, and the trailer are in it.
const TAIL: u64 = 32 << 10;

/// Bytes of a parity object that are read at once.
const READ: u64 = 8 << 20;

/// A group.
#[derive(Clone, Debug)]
pub(super) struct Group {
    pub device: DeviceId,
    pub id: GroupId,
    /// Parity objects it was made with.
    pub parity: u16,
    pub share: ParityShare,
    pub shard_len: u64,
    pub members: Vec<Covered>,
    /// Those whose table can be read, with the hash of their shard.
    pub there: BTreeMap<u16, Blake3>,
}

/// The groups of a device.
#[derive(Default)]
pub(super) struct Groups {
    /// The oldest first.
    pub all: Vec<Group>,
    /// Parity objects that cannot be read, and why.
    pub broken: Vec<(String, Error)>,
    /// Groups of which nothing can be read.
    pub gone: Vec<GroupId>,
}

impl Group {
    /// The key of one of its objects.
    pub fn key(&self, number: u16) -> String {
        keys::parity(&self.device, self.id, number)
    }

    /// Parity objects that are not there, or cannot be read.
    pub fn short(&self) -> u16 {
        self.parity - (self.there.len() as u16).min(self.parity)
    }

    fn agrees(&self, table: &ParityTable) -> bool {
        (self.parity, self.share, self.shard_len) == (table.parity, table.share, table.shard_len)
            && self.members == table.members
    }
}

impl Groups {
    /// Keys that are covered.
    pub fn covered(&self) -> BTreeSet<&str> {
        self.all.iter().flat_map(|g| &g.members).map(|m| m.key.as_str()).collect()
    }

    /// Groups that others, which are complete, stand for: left by a change that died before its end.
    pub fn superseded(&self) -> BTreeSet<GroupId> {
        let mut gone = BTreeSet::new();
        for group in &self.all {
            let others =
                self.all.iter().filter(|o| o.id != group.id && o.short() == 0 && !gone.contains(&o.id));
            let covered: BTreeSet<(&str, [u8; 32])> =
                others.flat_map(|o| &o.members).map(|m| (m.key.as_str(), m.hash.0)).collect();
            if group.members.iter().all(|m| covered.contains(&(m.key.as_str(), m.hash.0))) {
                gone.insert(group.id);
            }
        }
        gone
    }
}

impl Repository {
    /// The devices that have parity.
    pub(crate) fn devices_with_parity(&self) -> Result<BTreeSet<DeviceId>> {
        let listed = self.store().list("par")?;
        Ok(listed.iter().filter_map(|(key, _)| Some(keys::parse_parity(key)?.0)).collect())
    }

    /// The groups of a device.
    pub(super) fn parity_groups(&self, device: &DeviceId) -> Result<Groups> {
        let (mut groups, mut found) = (Groups::default(), BTreeMap::<GroupId, Option<Group>>::new());
        for (key, len) in self.store().list(&format!("par/{device}"))? {
            let Some((device, id, number)) = keys::parse_parity(&key) else { continue };
            let slot = found.entry(id).or_default();
            let table = match self.parity_table(&device, id, number, len) {
                Ok(table) => table,
                Err(e) if e.kind() == Kind::Damaged || self.is_rot(&e) => {
                    groups.broken.push((key, e));
                    continue;
                }
                Err(e) => return Err(e),
            };
            let group = slot.get_or_insert_with(|| Group {
                device,
                id,
                parity: table.parity,
                share: table.share,
                shard_len: table.shard_len,
                members: table.members.clone(),
                there: BTreeMap::new(),
            });
            if group.agrees(&table) {
                group.there.insert(table.number, table.shard);
            } else {
                groups.broken.push((key, damaged("it says other than the others of its group")));
            }
        }
        for (id, group) in found {
            match group {
                Some(group) => groups.all.push(group),
                None => groups.gone.push(id),
            }
        }
        Ok(groups)
    }

    /// An object that a local file system cannot give: its medium rots. Of a store over the network nothing follows.
    pub(in crate::repository) fn is_rot(&self, error: &Error) -> bool {
        let rot = matches!(error.kind(), Kind::Damaged | Kind::NotFound);
        rot || error.kind() == Kind::Io && self.store().folder().is_some()
    }

    fn parity_table(&self, device: &DeviceId, id: GroupId, number: u16, len: u64) -> Result<ParityTable> {
        let key = keys::parity(device, id, number);
        let read = || {
            let least = (HEADER_LEN + TRAILER_LEN) as u64;
            if len < least {
                return Err(damaged("cut short"));
            }
            let header =
                Header::decode(ObjectKind::Parity, &self.store().get_range(&key, 0, HEADER_LEN as u64)?)?;
            header.expect(self.uuid(), id.to_bytes())?;
            header.expect_sealed(self.keys().is_some())?;
            let tail = self.store().get_range(&key, len - len.min(TAIL), len.min(TAIL))?;
            let (rest, last) = tail.split_at(tail.len() - TRAILER_LEN);
            let trailer = Trailer::decode(ObjectKind::Parity, last, len)?;
            let inside = (rest.len() as u64).checked_sub(trailer.footer_len);
            let footer = inside.and_then(|at| rest.get(at as usize..));
            let footer = footer.ok_or_else(|| damaged("what it covers is longer than such a table is"))?;
            trailer.check(footer)?;
            let table = match self.cover(&key) {
                Some(cover) => ParityTable::decode(&cover.open(Part::Footer, footer)?, trailer.count)?,
                None => ParityTable::decode(footer, trailer.count)?,
            };
            self.expect_table(device, number, &trailer, &table)?;
            Ok(table)
        };
        read().map_err(|e: Error| lost(e).within(format!("read {key}")))
    }

    /// A table that may be used: of this object, and it leads to no key that parity does not cover.
    fn expect_table(
        &self,
        device: &DeviceId,
        number: u16,
        trailer: &Trailer,
        table: &ParityTable,
    ) -> Result<()> {
        let whole = table.number == number && trailer.footer_at == HEADER_LEN as u64 + table.shard_len;
        let mut seen = BTreeSet::new();
        let names = table.members.iter().all(|m| keys::has_parity(device, &m.key) && seen.insert(&m.key));
        if whole && names { Ok(()) } else { Err(damaged("it speaks of what it cannot be the parity of")) }
    }

    /// The bytes of an object have this length and hash. `Err` only if the store itself fails.
    pub(in crate::repository) fn is_sound(&self, key: &str, at: u64, len: u64, hash: Blake3) -> Result<bool> {
        let mut hasher = blake3::Hasher::new();
        let mut done = 0;
        while done < len {
            let part = (len - done).min(READ);
            match self.store().get_range(key, at + done, part) {
                Ok(bytes) => drop(hasher.update(&bytes)),
                Err(e) if self.is_rot(&e) => return Ok(false),
                Err(e) => return Err(e),
            }
            done += part;
        }
        Ok(Blake3(*hasher.finalize().as_bytes()) == hash)
    }

    /// The parity objects of a group whose shard is what was written.
    pub(super) fn sound_parity(&self, group: &Group) -> Result<Vec<u16>> {
        let mut sound = Vec::new();
        for (number, hash) in &group.there {
            if self.is_sound(&group.key(*number), HEADER_LEN as u64, group.shard_len, *hash)? {
                sound.push(*number);
            }
        }
        Ok(sound)
    }

    /// An object that groups of a device cover, and that is not there.
    pub(in crate::repository) fn missing_of_parity(&self, device: &DeviceId) -> Result<Option<String>> {
        let (groups, sizes) = (self.parity_groups(device)?, self.sizes()?);
        let mut members = groups.all.into_iter().flat_map(|group| group.members);
        Ok(members.find(|member| !sizes.contains_key(&member.key)).map(|member| member.key))
    }

    /// Lengths of all objects that parity may cover.
    pub(super) fn sizes(&self) -> Result<HashMap<String, u64>> {
        let mut sizes = HashMap::new();
        for folder in ["seg", "idx", "bak", "map", "del"] {
            sizes.extend(self.store().list(folder)?);
        }
        Ok(sizes)
    }

    /// The members of a group that are not there, or not what they were. Their bytes are read.
    pub(super) fn lost_members(
        &self,
        group: &Group,
        sizes: &HashMap<String, u64>,
        tell: &mut dyn FnMut(u64),
    ) -> Result<Vec<Covered>> {
        let mut gone = Vec::new();
        for member in &group.members {
            let there = sizes.get(&member.key) == Some(&member.len);
            if !(there && self.is_sound(&member.key, 0, member.len, member.hash)?) {
                gone.push(member.clone());
            }
            tell(member.len);
        }
        Ok(gone)
    }

    /// Removes a group; the table goes with its last object.
    pub(super) fn drop_group(&self, device: &DeviceId, id: GroupId) -> Result<()> {
        for (key, _) in self.store().list(&format!("par/{device}/{id}"))? {
            self.store().delete(&key)?;
        }
        Ok(())
    }
}
