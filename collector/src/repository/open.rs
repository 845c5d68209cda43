//! Making and opening a repository.

use super::index::{Asked, IndexReader};
use super::location::Location;
use super::store::{FOLDERS, Store};
use super::unlock::{self, KeySource};
use super::unseal::Found;
use super::{keys, tool, unix_millis};
use crate::error::{Context, Error, Kind, Result};
use crate::format::{
    CELL, KeyRing, MAX_ENVELOPE, Manifest, NewKey, Opened, ParityShare, RepositoryConfig, RepositoryId,
};
use crate::seal::Keys;
use crate::sys::{failpoint, sync_folder};
use std::path::Path;
use std::sync::Arc;

/// An open repository; clones share it. Every call blocks; it may be made from any thread, also inside an
/// async runtime.
#[derive(Clone)]
pub struct Repository {
    store: Arc<Store>,
    config: Arc<RepositoryConfig>,
    pub(super) keys: Option<Arc<Keys>>,
    pub(super) ring: u32,
    pub(super) found: Arc<Found>,
}

impl std::fmt::Debug for Repository {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Repository({})", self.config.uuid)
    }
}

impl Repository {
    /// Makes a repository in a place that is empty or does not exist yet; a bucket must be there.
    ///
    /// # Errors
    /// [`Kind::Exists`] if there is one, or the place holds anything else; what the store meets.
    pub fn create(location: &str) -> Result<Self> {
        Self::create_with(location, Vec::new()).map(|(made, _)| made)
    }

    /// The same, encrypted so that each of `keys`, which have names for people, can open it.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub fn create_with(location: &str, keys: Vec<(NewKey, String)>) -> Result<(Self, Option<Opened>)> {
        Self::create_as(location, keys, None)
    }

    /// The same, with parity for everything that is stored in it.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub fn create_as(
        location: &str,
        keys: Vec<(NewKey, String)>,
        parity: Option<ParityShare>,
    ) -> Result<(Self, Option<Opened>)> {
        let place = Location::parse(location)?;
        let what = || format!("create repository {place}");
        if let Some(folder) = place.folder() {
            refuse_foreign(first_foreign(folder).os_context(what)?, what)?;
            make_folder(folder)?;
        }
        let store = Store::open(&place)?;
        store.writable().map_err(|e| e.within(what()))?;
        if place.folder().is_none() {
            let objects = store.list("").map_err(|e| e.within(what()))?;
            // key rings may be left of a creation that died
            let foreign = objects.into_iter().map(|(key, _)| key).find(|key| !keys::of_a_ring(key));
            refuse_foreign(foreign, what)?;
        }
        store.settle()?;
        let config = RepositoryConfig {
            uuid: RepositoryId::generate(),
            created: unix_millis(),
            cell: CELL,
            tool: tool(),
            parity,
            encrypted: !keys.is_empty(),
        };
        // the key ring comes before `repo.json`: with that, the repository exists, and can be opened
        let ring = config.encrypted.then(|| KeyRing::create(config.uuid, keys)).transpose()?;
        ring.as_ref().map_or(Ok(()), |ring| unlock::store_ring(&store, ring))?;
        let keys = match &ring {
            Some(ring) => Some((ring.ring().number, Arc::new(ring.keys()?))),
            None => None,
        };
        failpoint("repo.config.put")?;
        store.put_new(keys::CONFIG, config.encode()?.into()).map_err(|e| e.within(what()))?;
        failpoint("repo.config.stored")?;
        Ok((Self::of(store, config, keys), ring))
    }

    /// Opens a repository.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if there is none; [`Kind::Damaged`], [`Kind::Incompatible`].
    pub fn open(location: &str) -> Result<Self> {
        Self::open_with(location, unlock::chosen())
    }

    /// The same, if it is encrypted with the key that `source` gives.
    ///
    /// # Errors
    /// As [`open`](Self::open); [`Kind::Denied`] if there is no key, or it is none of this repository.
    pub fn open_with(location: &str, source: &dyn KeySource) -> Result<Self> {
        let place = Location::parse(location)?;
        let what = || format!("open repository {place}");
        let absent = |e: Error| match e.kind() {
            Kind::NotFound => Error::caused(Kind::NotFound, format!("{}: there is none", what()), e)
                .hint("`blkdelta backup` makes one in an empty or a new place"),
            _ => e.within(what()),
        };
        let store = Store::open(&place).map_err(absent)?;
        let bytes = store.get(keys::CONFIG, MAX_ENVELOPE as u64).map_err(absent)?;
        let config = RepositoryConfig::decode(&bytes).map_err(|e| e.within(what()))?;
        let keys = unlock::unlock(&store, &config, source).map_err(|e| e.within(what()))?;
        let opened = Self::of(store, config, keys);
        source.opened(&opened).map_err(|e| e.within(what()))?;
        Ok(opened)
    }

    fn of(store: Store, config: RepositoryConfig, keys: Option<(u32, Arc<Keys>)>) -> Self {
        let (ring, keys) = keys.map_or((0, None), |(ring, keys)| (ring, Some(keys)));
        Self { store: Arc::new(store), config: Arc::new(config), keys, ring, found: Arc::default() }
    }

    /// Opens a repository, or makes it where there is nothing.
    ///
    /// # Errors
    /// As [`open`](Self::open) and [`create`](Self::create).
    pub fn open_or_create(location: &str) -> Result<Self> {
        Self::open_or_create_with_parity(location, None)
    }

    /// The same; one that is made gets parity, if that is wanted.
    ///
    /// # Errors
    /// As [`open_or_create`](Self::open_or_create).
    pub fn open_or_create_with_parity(location: &str, parity: Option<ParityShare>) -> Result<Self> {
        Self::open_or_create_as(location, unlock::chosen(), parity)
    }

    /// The same, if it is encrypted with the key that `source` gives; one that is made gets parity, if that is wanted.
    ///
    /// # Errors
    /// As [`open_or_create`](Self::open_or_create).
    pub fn open_or_create_as(
        location: &str,
        source: &dyn KeySource,
        parity: Option<ParityShare>,
    ) -> Result<Self> {
        let opened = Self::open_with(location, source);
        if opened.as_ref().err().map(Error::kind) != Some(Kind::NotFound) {
            return opened;
        }
        if source.meant() {
            // never a readable one in place of an encrypted one that is not there
            return opened.map_err(|e| e.hint("`blkdelta init --encrypt` makes an encrypted one"));
        }
        match Self::create_as(location, Vec::new(), parity).map(|(made, _)| made) {
            // another process was faster
            Err(e) if e.kind() == Kind::Exists => Self::open_with(location, source).map_err(|_| e),
            created => created,
        }
    }

    /// Its identity.
    pub fn uuid(&self) -> RepositoryId {
        self.config.uuid
    }

    /// What `repo.json` says.
    pub fn config(&self) -> &RepositoryConfig {
        &self.config
    }

    /// Its folder, if it is local.
    pub fn local_path(&self) -> Option<&Path> {
        self.store.folder()
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    pub(super) fn store_handle(&self) -> Arc<Store> {
        Arc::clone(&self.store)
    }

    /// Opens a point's index.
    pub(crate) fn index(&self, manifest: &Manifest) -> Result<IndexReader> {
        IndexReader::open(self, &Asked::of(manifest))
    }
}

fn refuse_foreign(found: Option<String>, what: impl Fn() -> String) -> Result<()> {
    let Some(found) = found else { return Ok(()) };
    Err(Error::new(Kind::Exists, format!("{}: it holds {found:?} already", what()))
        .hint("give an empty or a new folder, or a prefix of its own in the bucket"))
}

/// A name in the folder that an unfinished creation of ours would not have left.
fn first_foreign(folder: &Path) -> std::io::Result<Option<String>> {
    let names = match std::fs::read_dir(folder) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        names => names?,
    };
    for entry in names {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let ours = FOLDERS.contains(&name.as_str())
            && entry.file_type()?.is_dir()
            && std::fs::read_dir(entry.path())?.next().is_none();
        // what a killed creation leaves beside it: the staged repo.json
        let staged = name.strip_prefix("repo.json#").is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()));
        // the key ring of such a creation: of a repository that never was
        let ring = name == "key" && entry.file_type()?.is_dir() && only_rings(&entry.path())?;
        // a file system's own folder on a fresh medium
        if !ours && !staged && !ring && name != "lost+found" {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// A folder of nothing but folders that have the names of repositories.
fn only_rings(folder: &Path) -> std::io::Result<bool> {
    for entry in std::fs::read_dir(folder)? {
        if entry?.file_name().to_string_lossy().parse::<RepositoryId>().is_err() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Makes the folder and what is missing above it, durably.
fn make_folder(folder: &Path) -> Result<()> {
    let absolute = std::path::absolute(folder).os_context(|| format!("find folder {}", folder.display()))?;
    let missing: Vec<&Path> = absolute.ancestors().take_while(|p| !p.exists()).collect();
    std::fs::create_dir_all(&absolute).os_context(|| format!("make folder {}", folder.display()))?;
    missing.iter().filter_map(|made| made.parent()).try_for_each(sync_folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_empty_folder_becomes_a_repository() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        assert_eq!(Repository::open(&at("a")).unwrap_err().kind(), Kind::NotFound);
        let made = Repository::create(&at("a/b")).unwrap();
        assert_eq!(Repository::open(&at("a/b")).unwrap().uuid(), made.uuid());
        assert_eq!(Repository::open_or_create(&at("a/b")).unwrap().uuid(), made.uuid());
        assert!(
            made.points().unwrap().is_empty() && made.points_of(&"x".parse().unwrap()).unwrap().is_empty()
        );
        assert_eq!(Repository::create(&at("a/b")).unwrap_err().kind(), Kind::Exists);
        // a folder that holds something else: refused and untouched
        assert_eq!(Repository::create(&at("a")).unwrap_err().kind(), Kind::Exists);
        assert_eq!(Repository::open_or_create(&at("a")).unwrap_err().kind(), Kind::Exists);
        assert_eq!(std::fs::read_dir(at("a")).unwrap().count(), 1);
        assert_eq!(Repository::open("").unwrap_err().kind(), Kind::Usage);
    }

    #[test]
    fn one_writer_per_device() {
        let dir = tempfile::tempdir().unwrap();
        let repo = Repository::create(dir.path().to_str().unwrap()).unwrap();
        let (a, b) = ("a".parse().unwrap(), "b".parse().unwrap());
        let lock = repo.lock(&a).unwrap();
        assert_eq!(lock.taken_over(), None);
        assert_eq!(repo.lock(&a).unwrap_err().kind(), Kind::Busy);
        let clone = lock.clone();
        drop(lock);
        assert_eq!(repo.lock(&a).unwrap_err().kind(), Kind::Busy);
        assert!(repo.lock(&b).is_ok());
        drop(clone);
        assert_eq!(repo.lock(&a).unwrap().taken_over(), None);
        // words under a free lock: its writer died
        std::fs::File::options()
            .append(true)
            .open(dir.path().join("lock/a"))
            .and_then(|mut f| std::io::Write::write_all(&mut f, b"process 7 on here"))
            .unwrap();
        assert!(repo.lock(&a).unwrap().taken_over().unwrap().contains("process 7"));
    }
}
