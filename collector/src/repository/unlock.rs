//! Opening an encrypted repository: who is asked for a key, and the key ring's place in the store.
//!
//! ```text
//!   key/<repository>/<n>.json         the ring; the highest n is used
//!   key/<repository>/<n>-copy.json    the same bytes, written after it: without a ring nothing can be read
//! ```
//! Must stay true: a ring is changed by one put of the next number, so whatever dies when, a ring is there that opens
//! the repository; older rings go only after the newer one is durable.

use super::store::Store;
use super::{Repository, keys, lost};
use crate::error::{Error, Kind, Result};
use crate::format::{Credential, KeyRing, MAX_ENVELOPE, Opened, RepositoryConfig, RepositoryId, WriteKey};
use crate::seal::{Keys, Rights};
use crate::sys::failpoint;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, OnceLock};

/// Who is asked for the key of a repository.
pub trait KeySource: Send + Sync {
    /// Somebody said which key: then a repository that is not encrypted is not the one that was meant.
    fn meant(&self) -> bool;

    /// The key.
    ///
    /// # Errors
    /// If there is none, or it cannot be read.
    fn credential(&self) -> Result<Credential>;

    /// A repository was opened: the moment to look whether it is as it was left.
    ///
    /// # Errors
    /// If it must not be used.
    fn opened(&self, _repository: &Repository) -> Result<()> {
        Ok(())
    }

    /// Where the keys that were opened last are kept, so that a passphrase is worked out once.
    fn kept(&self) -> Option<&Mutex<Option<Kept>>> {
        None
    }
}

/// Keys, and the ring that they are of.
pub type Kept = (KeyRing, Arc<Keys>);

/// Nobody has a key.
pub struct NoKey;

impl KeySource for NoKey {
    fn meant(&self) -> bool {
        false
    }

    fn credential(&self) -> Result<Credential> {
        Err(no_key())
    }
}

/// Words for an encrypted repository for which nobody gave a key.
pub fn no_key() -> Error {
    Error::new(Kind::Denied, "the repository is encrypted, and no key was given")
        .hint("--passphrase-file, --passphrase-command, --key-file, or BLKDELTA_PASSPHRASE_FILE or BLKDELTA_KEY_FILE")
}

static CHOSEN: OnceLock<Box<dyn KeySource>> = OnceLock::new();

/// Who is asked from now on, in this process; the first choice stays.
pub fn choose_keys(source: Box<dyn KeySource>) {
    let _ = CHOSEN.set(source);
}

pub(super) fn chosen() -> &'static dyn KeySource {
    CHOSEN.get().map_or(&NoKey, |source| &**source)
}

/// The number of the key ring, and the keys; `None`: the repository is not encrypted.
pub(super) fn unlock(
    store: &Store,
    config: &RepositoryConfig,
    source: &dyn KeySource,
) -> Result<Option<(u32, Arc<Keys>)>> {
    if !config.encrypted {
        if !source.meant() {
            return Ok(None);
        }
        let text = "a key was given, but the repository is not encrypted: is it the one you mean?";
        return Err(Error::new(Kind::Denied, text).hint(
            "if it never was encrypted, leave the key away; if it was, somebody put another in its place",
        ));
    }
    let ring = read_ring(store, config.uuid)?;
    let mut kept = source.kept().map(|kept| kept.lock().unwrap_or_else(|e| e.into_inner()));
    if let Some((of, keys)) = kept.as_deref().and_then(Option::as_ref)
        && *of == ring
    {
        return Ok(Some((ring.number, Arc::clone(keys))));
    }
    let keys = Arc::new(match source.credential()? {
        Credential::Write(key) => writer(&ring, &key)?,
        credential => ring.open(&credential)?.keys()?,
    });
    let number = ring.number;
    if let Some(kept) = kept.as_deref_mut() {
        *kept = Some((ring, Arc::clone(&keys)));
    }
    Ok(Some((number, keys)))
}

/// A host's key is of this repository and of its newest generation.
fn writer(ring: &KeyRing, key: &WriteKey) -> Result<Keys> {
    if key.repository != ring.repository {
        let text = format!("this write key is of repository {}, not of {}", key.repository, ring.repository);
        return Err(Error::new(Kind::Denied, text));
    }
    let (newest, public) = ring.newest();
    let mine = key.generation();
    if mine < newest {
        let text = format!(
            "this write key is of generation {mine}; the repository's keys were changed, now {newest}"
        );
        return Err(Error::new(Kind::Denied, text).hint("ask the owner for a new one: blkdelta key writer"));
    }
    if mine > newest || public != Some(key.public) {
        let text = format!("the key ring is of generation {newest} and this write key of {mine}");
        return Err(Error::new(
            Kind::Damaged,
            format!("{text}: the repository has gone back, or was replaced"),
        ));
    }
    key.keys()
}

/// The ring that is used: the highest number; its copy if it is damaged.
fn read_ring(store: &Store, repository: RepositoryId) -> Result<KeyRing> {
    let number = numbers(store, repository)?.last().copied().ok_or_else(|| {
        Error::new(Kind::Damaged, "the repository is encrypted, and its key ring is missing")
            .hint("without the files under key/ nothing in it can be read: bring them back from a copy")
    })?;
    let [first, copy] = [false, true].map(|copy| read_one(store, repository, number, copy));
    match (first, copy) {
        (Ok(ring), _) => Ok(ring),
        (Err(e), Ok(ring)) if matches!(e.kind(), Kind::Damaged | Kind::NotFound) => {
            log::warn!("the key ring is damaged, its copy is used: {}", e.in_full());
            Ok(ring)
        }
        (Err(e), _) => Err(lost(e).within("read the key ring")),
    }
}

fn read_one(store: &Store, repository: RepositoryId, number: u32, copy: bool) -> Result<KeyRing> {
    let ring = KeyRing::decode(&store.get(&keys::ring(repository, number, copy), MAX_ENVELOPE as u64)?)?;
    if ring.repository == repository && ring.number == number {
        return Ok(ring);
    }
    let (other, n) = (ring.repository, ring.number);
    Err(Error::new(
        Kind::Damaged,
        format!("the key ring number {n} of repository {other} lies under this name"),
    ))
}

fn numbers(store: &Store, repository: RepositoryId) -> Result<BTreeSet<u32>> {
    let listed = store.list(&keys::rings(repository))?;
    Ok(listed.iter().filter_map(|(key, _)| keys::parse_ring(repository, key)).map(|(n, _)| n).collect())
}

/// Makes a ring durable; then the older ones go.
pub(super) fn store_ring(store: &Store, opened: &Opened) -> Result<()> {
    let ring = opened.ring();
    let (repository, number, bytes) = (ring.repository, ring.number, bytes::Bytes::from(ring.encode()?));
    failpoint("repo.keys.put")?;
    let put = store.put_new(&keys::ring(repository, number, false), bytes.clone());
    put.map_err(|e| match e.kind() {
        Kind::Exists => {
            Error::new(Kind::Busy, "somebody else changed the keys at this moment").hint("try again")
        }
        _ => e,
    })?;
    failpoint("repo.keys.stored")?;
    store.put_new(&keys::ring(repository, number, true), bytes)?;
    failpoint("repo.keys.copied")?;
    for old in numbers(store, repository)?.into_iter().filter(|n| *n < number) {
        for copy in [false, true] {
            let gone = store.delete(&keys::ring(repository, old, copy));
            gone.map_err(|e| {
                e.within(format!("the new keys are in use, but key ring {old} is still there"))
                    .hint("whoever has a key that was removed can still open the old one: remove it by hand")
            })?;
        }
        failpoint("repo.keys.old-gone")?;
    }
    Ok(())
}

impl Repository {
    /// Opens the key ring.
    ///
    /// # Errors
    /// [`Kind::Usage`] if the repository is not encrypted; [`Kind::Denied`] if the credential does not open it.
    pub fn open_ring(&self, credential: &Credential) -> Result<Opened> {
        if !self.config().encrypted {
            return Err(Error::new(Kind::Usage, "the repository is not encrypted: it has no keys")
                .hint("`blkdelta init --encrypt` makes one that is"));
        }
        read_ring(self.store(), self.uuid())?.open(credential)
    }

    /// Makes a changed ring the one that is used.
    ///
    /// # Errors
    /// [`Kind::Busy`] if somebody else changed it meanwhile; what the store meets.
    pub fn change_ring(&self, opened: &Opened) -> Result<()> {
        self.store().settle()?;
        store_ring(self.store(), opened)
    }

    /// The number of the key ring it was opened with; 0 if it is not encrypted.
    pub(super) const fn ring_number(&self) -> u32 {
        self.ring
    }

    /// What the key it was opened with allows; `None`: it is not encrypted.
    pub fn rights(&self) -> Option<Rights> {
        self.keys().map(|keys| keys.rights())
    }

    /// Writes the key ring again from its copy, or the copy from it; the key that was written.
    pub(crate) fn mend_ring(&self, dry_run: bool) -> Result<Option<String>> {
        let number = match numbers(self.store(), self.uuid())?.last() {
            Some(number) if self.config().encrypted => *number,
            _ => return Ok(None),
        };
        let [first, copy] = [false, true].map(|copy| read_one(self.store(), self.uuid(), number, copy));
        let bad = match (first, copy) {
            (Err(e), Ok(_)) if matches!(e.kind(), Kind::Damaged | Kind::NotFound) => false,
            (Ok(_), Err(e)) if matches!(e.kind(), Kind::Damaged | Kind::NotFound) => true,
            _ => return Ok(None),
        };
        let [from, to] = [!bad, bad].map(|copy| keys::ring(self.uuid(), number, copy));
        if !dry_run {
            let bytes = self.store().get(&from, MAX_ENVELOPE as u64)?;
            self.set_aside(&to)?;
            self.store().put_new(&to, bytes)?;
        }
        Ok(Some(to))
    }

    /// What is wrong with ring and copy; for a check.
    pub(super) fn ring_damage(&self) -> Result<Vec<(String, String)>> {
        let mut found = Vec::new();
        if !self.config().encrypted {
            return Ok(found);
        }
        let number = numbers(self.store(), self.uuid())?.last().copied().unwrap_or(1);
        for copy in [false, true] {
            match read_one(self.store(), self.uuid(), number, copy) {
                Err(e) if matches!(e.kind(), Kind::Damaged | Kind::NotFound | Kind::Incompatible) => {
                    found.push((keys::ring(self.uuid(), number, copy), e.in_full()));
                }
                read => drop(read?),
            }
        }
        Ok(found)
    }
}
