//! The key ring: who can open an encrypted repository, and what it opens.
//!
//! ```text
//!   passphrase ─argon2id─▶ key's private half ┐
//!   private key in a file ────────────────────┴──▶ newest master ──▶ older masters, names of the keys
//! ```
//! Every ring is whole: a change writes a new one under the next number, and the highest number is used. So a change is
//! one put, and whatever dies when, some ring opens the repository.
//!
//! Must stay true: only a holder of a master can make a ring that is believed (its proof is made with the newest
//! master; each master vouches for the next; a passphrase's key remembers the generation it was made in); a ring's
//! numbers are bounded before any work is done for them.

use super::envelope::{Body, open, seal};
use super::{Credential, KeyId, RepositoryId, WriteKey, damaged};
use crate::error::{Error, Kind, Result};
use crate::seal::{Bytes64, Cipher, Keys, Passphrase, PrivateKey, PublicKey, Secret, Stretch, random};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

const MAGIC: &str = "blkdelta keys";

/// The most keys of a ring: each passphrase among them may cost seconds.
const MOST_KEYS: usize = 32;
/// The most generations.
const MOST_GENERATIONS: usize = 4096;

/// `key/<repository>/<n>.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRing {
    /// The repository.
    pub repository: RepositoryId,
    /// Its place among the rings.
    pub number: u32,
    /// The masters' public halves, the first first.
    generations: Vec<Generation>,
    keys: Vec<Slot>,
    /// Sealed with the newest master: [`Inside`].
    inside: Bytes64,
    /// Made with the newest master over all of the above.
    proof: Bytes64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Generation {
    public: PublicKey,
    /// The master before vouches for this one; empty for the first.
    link: Bytes64,
}

/// A key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Slot {
    id: KeyId,
    public: PublicKey,
    /// Of a passphrase: the private half.
    passphrase: Option<Wrapped>,
    /// The newest master, sealed to `public`.
    master: Bytes64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Wrapped {
    stretch: Stretch,
    /// Private half 32, generation 4, public half of that generation's master 32; sealed with the stretched passphrase.
    sealed: Bytes64,
}

/// What only holders of a master read.
#[derive(Default, Serialize, Deserialize)]
struct Inside {
    older: Vec<PrivateKey>,
    names: BTreeMap<KeyId, String>,
}

/// A key to be added.
#[derive(Debug)]
pub enum NewKey {
    /// A passphrase.
    Passphrase(Passphrase),
    /// Somebody's public key.
    Recipient(PublicKey),
}

/// An opened ring.
pub struct Opened {
    ring: KeyRing,
    masters: Vec<PrivateKey>,
    names: BTreeMap<KeyId, String>,
}

/// A key as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Shown {
    /// Its name in the ring.
    pub id: KeyId,
    /// What somebody called it.
    pub name: String,
    /// `passphrase` or `recipient`.
    pub kind: &'static str,
    /// A recipient's public key.
    pub public: Option<PublicKey>,
}

impl KeyRing {
    /// The object's bytes.
    ///
    /// # Errors
    /// If it is too long.
    pub fn encode(&self) -> Result<Vec<u8>> {
        seal(MAGIC, self, Body::Open)
    }

    /// Checks and reads; what it says is believed only once it is [opened](Self::open).
    ///
    /// # Errors
    /// Damaged, or incompatible.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let ring: Self = open(MAGIC, bytes, Body::Open)?;
        let sane = ring.number > 0
            && (1..=MOST_KEYS).contains(&ring.keys.len())
            && (1..=MOST_GENERATIONS).contains(&ring.generations.len());
        if !sane {
            return Err(damaged("key ring without a number, a key or a master, or with too many"));
        }
        ring.keys.iter().filter_map(|slot| slot.passphrase.as_ref()).try_for_each(|w| w.stretch.check())?;
        Ok(ring)
    }

    /// The first ring of a new repository.
    ///
    /// # Errors
    /// [`Kind::Usage`] without a key.
    pub fn create(repository: RepositoryId, keys: Vec<(NewKey, String)>) -> Result<Opened> {
        let masters = vec![PrivateKey::generate()?];
        let mut slots = Vec::new();
        let mut names = BTreeMap::new();
        for (key, name) in keys {
            let slot = Slot::new(repository, key, &masters)?;
            names.insert(slot.id, name);
            slots.push(slot);
        }
        build(repository, 1, slots, masters, names)
    }

    /// The newest generation's number and public key.
    pub fn newest(&self) -> (u32, Option<PublicKey>) {
        (self.generations.len() as u32, self.generations.last().map(|g| g.public))
    }

    /// Opens it.
    ///
    /// # Errors
    /// [`Kind::Denied`] if the credential opens no key of it; [`Kind::Damaged`] if it was not made by a holder of
    /// the master.
    pub fn open(&self, credential: &Credential) -> Result<Opened> {
        let (slot, private, born) = match credential {
            Credential::Passphrase(passphrase) => self.by_passphrase(passphrase)?,
            Credential::Private(key) => self.by_private(key)?,
            Credential::Write(_) => {
                return Err(Error::new(Kind::Denied, "a host's write key opens no key ring")
                    .hint("use the owner's passphrase or private key"));
            }
        };
        let newest = private.open(&master_info(self.repository), &slot.master.0)?;
        let newest = PrivateKey::from_secret(newest);
        if !self.proved_by(&newest)? {
            return Err(damaged("key ring: it was not made by a holder of this repository's keys"));
        }
        let Inside { older: mut masters, names } = self.look_inside(&newest)?;
        masters.push(newest);
        self.check_line(&masters, born)?;
        Ok(Opened { ring: self.clone(), masters, names })
    }

    fn by_passphrase(&self, passphrase: &Passphrase) -> Result<(&Slot, PrivateKey, Option<Born>)> {
        let wrapped = self.keys.iter().filter_map(|slot| Some((slot, slot.passphrase.as_ref()?)));
        let mut tried = 0;
        for (slot, wrapped) in wrapped {
            tried += 1;
            let key = wrapped.stretch.key(passphrase)?;
            let mut bytes = zeroize::Zeroizing::new(wrapped.sealed.0.clone());
            let cipher = Cipher::new(&key)?;
            let Ok(plain) = cipher.open([0; 12], &slot_info(self.repository, slot.id), &mut bytes) else {
                continue;
            };
            let (Some(private), Some(generation), Some(public)) =
                (plain.first_chunk(), plain.get(32..).and_then(<[u8]>::first_chunk), plain.last_chunk())
            else {
                return Err(damaged("key ring: a passphrase's key is cut short"));
            };
            let born = Born(u32::from_le_bytes(*generation), PublicKey::from_bytes(*public));
            return Ok((slot, PrivateKey::from_secret(Secret::from_bytes(*private)), Some(born)));
        }
        Err(match tried {
            0 => Error::new(Kind::Denied, "no passphrase opens this repository")
                .hint("give a private key: --key-file"),
            _ => Error::new(Kind::Denied, "wrong passphrase").hint("no key of this repository opens with it"),
        })
    }

    fn by_private(&self, key: &PrivateKey) -> Result<(&Slot, PrivateKey, Option<Born>)> {
        let public = key.public()?;
        let slot = self.keys.iter().find(|slot| slot.public == public && slot.passphrase.is_none());
        let none = || {
            Error::new(Kind::Denied, format!("this repository has no key for {public}"))
                .hint("a holder of another key can add it: blkdelta key add --recipient")
        };
        Ok((slot.ok_or_else(none)?, key.clone(), None))
    }

    fn proved_by(&self, newest: &PrivateKey) -> Result<bool> {
        Ok(newest.secret().vouched("ring", &[&self.unproved()?], &self.proof.0))
    }

    fn look_inside(&self, newest: &PrivateKey) -> Result<Inside> {
        let cut = || damaged("key ring: cut short");
        let (salt, text) = self.inside.0.split_first_chunk().ok_or_else(cut)?;
        let mut text = zeroize::Zeroizing::new(text.to_vec());
        let plain = inner_cipher(newest, salt)?.open([0; 12], &[], &mut text)?;
        let broken = |e| Error::caused(Kind::Damaged, "key ring: not the JSON it must be", e);
        serde_json::from_slice(plain).map_err(broken)
    }

    /// What the proof is over.
    fn unproved(&self) -> Result<Vec<u8>> {
        let bare = Self { proof: Bytes64::default(), ..self.clone() };
        serde_json::to_vec(&bare).map_err(|e| Error::caused(Kind::Bug, "encode key ring", e))
    }

    /// The masters are those of the generations, each vouches for the next, and the key's own is among them.
    fn check_line(&self, masters: &[PrivateKey], born: Option<Born>) -> Result<()> {
        let broken = || damaged("key ring: its masters do not follow from each other");
        if masters.len() != self.generations.len() {
            return Err(broken());
        }
        for (n, (master, generation)) in masters.iter().zip(&self.generations).enumerate() {
            let known = n == 0 || link_is_good(self.repository, &masters[n - 1], generation);
            if master.public()? != generation.public || !known {
                return Err(broken());
            }
        }
        let Some(Born(generation, public)) = born else { return Ok(()) };
        let own = (generation as usize).checked_sub(1).and_then(|n| self.generations.get(n));
        if own.is_some_and(|g| g.public == public) { Ok(()) } else { Err(broken()) }
    }
}

/// The generation in which a passphrase's key was made.
struct Born(u32, PublicKey);

impl Slot {
    fn new(repository: RepositoryId, key: NewKey, masters: &[PrivateKey]) -> Result<Self> {
        let newest = masters.last().ok_or_else(|| Error::new(Kind::Bug, "no master key"))?;
        let id = KeyId::generate();
        let (public, passphrase) = match key {
            NewKey::Recipient(public) => (public, None),
            NewKey::Passphrase(passphrase) => {
                let private = PrivateKey::generate()?;
                let stretch = Stretch::fresh()?;
                let mut bytes = private.secret().bytes().to_vec();
                bytes.extend_from_slice(&(masters.len() as u32).to_le_bytes());
                bytes.extend_from_slice(newest.public()?.bytes());
                // the stretched key is used once: for this
                let cipher = Cipher::new(&stretch.key(&passphrase)?)?;
                cipher.seal([0; 12], &slot_info(repository, id), &mut bytes, 0)?;
                (private.public()?, Some(Wrapped { stretch, sealed: Bytes64(bytes) }))
            }
        };
        Ok(Self { id, public, passphrase, master: sealed_master(repository, &public, newest)? })
    }
}

impl Opened {
    /// The ring, to be stored.
    pub const fn ring(&self) -> &KeyRing {
        &self.ring
    }

    /// What it opens.
    ///
    /// # Errors
    /// None that is known.
    pub fn keys(&self) -> Result<Keys> {
        Keys::owner(self.ring.repository.to_bytes(), self.masters.clone())
    }

    /// A host's key.
    ///
    /// # Errors
    /// None that is known.
    pub fn write_key(&self) -> Result<WriteKey> {
        let keys = self.keys()?;
        let (repository, public) = (self.ring.repository, *keys.public());
        Ok(WriteKey { repository, public, metadata: keys.metadata().all().to_vec() })
    }

    /// Its keys.
    pub fn list(&self) -> Vec<Shown> {
        let show = |slot: &Slot| Shown {
            id: slot.id,
            name: self.names.get(&slot.id).cloned().unwrap_or_default(),
            kind: if slot.passphrase.is_some() { "passphrase" } else { "recipient" },
            public: slot.passphrase.is_none().then_some(slot.public),
        };
        self.ring.keys.iter().map(show).collect()
    }

    /// The next ring, with one key more.
    ///
    /// # Errors
    /// [`Kind::Exists`] for a recipient that is there, [`Kind::Usage`] for too many.
    pub fn with(&self, key: NewKey, name: String) -> Result<Self> {
        if let NewKey::Recipient(public) = &key
            && self.ring.keys.iter().any(|slot| slot.public == *public)
        {
            return Err(Error::new(Kind::Exists, format!("{public} is a key of this repository already")));
        }
        let (mut keys, mut names) = (self.ring.keys.clone(), self.names.clone());
        let slot = Slot::new(self.ring.repository, key, &self.masters)?;
        names.insert(slot.id, name);
        keys.push(slot);
        self.next(keys, self.masters.clone(), names)
    }

    /// The next ring, without a key.
    ///
    /// # Errors
    /// [`Kind::NotFound`]; [`Kind::Usage`] if it is the last.
    pub fn without(&self, id: KeyId) -> Result<Self> {
        let (mut keys, mut names) = (self.ring.keys.clone(), self.names.clone());
        keys.retain(|slot| slot.id != id);
        names.remove(&id);
        if keys.len() == self.ring.keys.len() {
            return Err(Error::new(Kind::NotFound, format!("this repository has no key {id}")));
        }
        self.next(keys, self.masters.clone(), names)
    }

    /// The next ring, with a new master for everything that is written from now on.
    ///
    /// # Errors
    /// If the operating system has no random bytes.
    pub fn rotated(&self) -> Result<Self> {
        let mut masters = self.masters.clone();
        masters.push(PrivateKey::generate()?);
        self.next(self.ring.keys.clone(), masters, self.names.clone())
    }

    fn next(
        &self,
        mut keys: Vec<Slot>,
        masters: Vec<PrivateKey>,
        names: BTreeMap<KeyId, String>,
    ) -> Result<Self> {
        let newest = masters.last().ok_or_else(|| Error::new(Kind::Bug, "no master key"))?;
        for slot in &mut keys {
            slot.master = sealed_master(self.ring.repository, &slot.public, newest)?;
        }
        let number = self.ring.number.checked_add(1);
        let number = number.ok_or_else(|| Error::new(Kind::Unsupported, "too many key rings"))?;
        build(self.ring.repository, number, keys, masters, names)
    }
}

fn build(
    repository: RepositoryId,
    number: u32,
    keys: Vec<Slot>,
    mut masters: Vec<PrivateKey>,
    names: BTreeMap<KeyId, String>,
) -> Result<Opened> {
    if keys.is_empty() || keys.len() > MOST_KEYS || masters.len() > MOST_GENERATIONS {
        let text = format!("a key ring of {} keys and {} masters", keys.len(), masters.len());
        return Err(Error::new(Kind::Usage, text).hint("1 to 32 keys: a passphrase or a recipient each"));
    }
    let mut generations = Vec::new();
    for (n, master) in masters.iter().enumerate() {
        let public = master.public()?;
        let link = n.checked_sub(1).map(|before| link(repository, &masters[before], &public));
        generations.push(Generation { public, link: Bytes64(link.map(Vec::from).unwrap_or_default()) });
    }
    let newest = masters.pop().ok_or_else(|| Error::new(Kind::Bug, "no master key"))?;
    let inside = Inside { older: masters, names };
    let sealed = Bytes64(inside.sealed(&newest)?);
    let mut ring =
        KeyRing { repository, number, generations, keys, inside: sealed, proof: Bytes64::default() };
    ring.proof = Bytes64(newest.secret().vouch("ring", &[&ring.unproved()?]).to_vec());
    let Inside { older: mut masters, names } = inside;
    masters.push(newest);
    Ok(Opened { ring, masters, names })
}

impl Inside {
    /// A salt of 16, then what only the newest master opens.
    fn sealed(&self, newest: &PrivateKey) -> Result<Vec<u8>> {
        let plain = serde_json::to_vec(self);
        let plain = plain.map_err(|e| Error::caused(Kind::Bug, "encode key ring", e))?;
        let plain = zeroize::Zeroizing::new(plain);
        let salt = random::<16>()?;
        let mut bytes = [&salt[..], &plain].concat();
        inner_cipher(newest, &salt)?.seal([0; 12], &[], &mut bytes, 16)?;
        Ok(bytes)
    }
}

/// Its key is used once.
fn inner_cipher(newest: &PrivateKey, salt: &[u8; 16]) -> Result<Cipher> {
    Cipher::new(&newest.secret().derive("ring inside", &[salt]))
}

fn sealed_master(repository: RepositoryId, public: &PublicKey, master: &PrivateKey) -> Result<Bytes64> {
    Ok(Bytes64(public.seal(&master_info(repository), master.secret())?.to_vec()))
}

fn master_info(repository: RepositoryId) -> Vec<u8> {
    [&b"blkdelta master 1"[..], &repository.to_bytes()].concat()
}

fn slot_info(repository: RepositoryId, id: KeyId) -> Vec<u8> {
    [&b"blkdelta passphrase 1"[..], &repository.to_bytes(), &id.to_bytes()].concat()
}

fn link(repository: RepositoryId, before: &PrivateKey, public: &PublicKey) -> [u8; 32] {
    before.secret().vouch("next", &[&repository.to_bytes(), public.bytes()])
}

fn link_is_good(repository: RepositoryId, before: &PrivateKey, generation: &Generation) -> bool {
    let parts: [&[u8]; 2] = [&repository.to_bytes(), generation.public.bytes()];
    before.secret().vouched("next", &parts, &generation.link.0)
}

#[cfg(test)]
mod tests;
