//! Making and opening a repository.

use super::index::{Asked, IndexReader};
use super::store::{FOLDERS, Store};
use super::unlock::{self, KeySource};
use super::unseal::Found;
use super::{keys, tool, unix_millis};
use crate::error::{Context, Error, Kind, Result};
use crate::format::{CELL, KeyRing, MAX_ENVELOPE, Manifest, NewKey, Opened, RepositoryConfig, RepositoryId};
use crate::seal::Keys;
use crate::sys::{failpoint, sync_folder};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An open repository; clones share it. Every call blocks; it may be made from any thread, also inside an
/// async runtime.
#[derive(Clone)]
pub struct Repository {
    store: Arc<Store>,
    config: Arc<RepositoryConfig>,
    pub(super) keys: Option<Arc<Keys>>,
    pub(super) found: Arc<Found>,
}

impl std::fmt::Debug for Repository {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Repository({})", self.config.uuid)
    }
}

impl Repository {
    /// Makes a repository in a folder that is empty or does not exist yet.
    ///
    /// # Errors
    /// [`Kind::Exists`] if there is one, or the folder holds anything else; what the store meets.
    pub fn create(location: &str) -> Result<Self> {
        Self::create_with(location, Vec::new()).map(|(made, _)| made)
    }

    /// The same, encrypted so that each of `keys`, which have names for people, can open it.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub fn create_with(location: &str, keys: Vec<(NewKey, String)>) -> Result<(Self, Option<Opened>)> {
        let folder = local_folder(location)?;
        let what = || format!("create repository {}", folder.display());
        if let Some(found) = first_foreign(&folder).os_context(what)? {
            return Err(Error::new(Kind::Exists, format!("{}: the folder holds {found:?} already", what()))
                .hint("give an empty or a new folder"));
        }
        make_folder(&folder)?;
        let store = Store::local(&folder)?;
        store.settle()?;
        let config = RepositoryConfig {
            uuid: RepositoryId::generate(),
            created: unix_millis(),
            cell: CELL,
            tool: tool(),
            encrypted: !keys.is_empty(),
        };
        // the key ring comes before `repo.json`: with that, the repository exists, and can be opened
        let ring = config.encrypted.then(|| KeyRing::create(config.uuid, keys)).transpose()?;
        ring.as_ref().map_or(Ok(()), |ring| unlock::store_ring(&store, ring))?;
        let keys = ring.as_ref().map(|ring| ring.keys().map(Arc::new)).transpose()?;
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
        let folder = local_folder(location)?;
        let what = || format!("open repository {}", folder.display());
        let absent = |e: Error| match e.kind() {
            Kind::NotFound => Error::caused(Kind::NotFound, format!("{}: there is none", what()), e)
                .hint("`blkdelta backup` makes one in an empty or a new folder"),
            _ => e.within(what()),
        };
        let store = Store::local(&folder).map_err(absent)?;
        let bytes = store.get(keys::CONFIG, MAX_ENVELOPE as u64).map_err(absent)?;
        let config = RepositoryConfig::decode(&bytes).map_err(|e| e.within(what()))?;
        let keys = unlock::unlock(&store, &config, source).map_err(|e| e.within(what()))?;
        Ok(Self::of(store, config, keys))
    }

    fn of(store: Store, config: RepositoryConfig, keys: Option<Arc<Keys>>) -> Self {
        Self { store: Arc::new(store), config: Arc::new(config), keys, found: Arc::default() }
    }

    /// Opens a repository, or makes it where there is nothing.
    ///
    /// # Errors
    /// As [`open`](Self::open) and [`create`](Self::create).
    pub fn open_or_create(location: &str) -> Result<Self> {
        let opened = Self::open(location);
        if opened.as_ref().err().map(Error::kind) != Some(Kind::NotFound) {
            return opened;
        }
        if unlock::chosen().meant() {
            // never a readable one in place of an encrypted one that is not there
            return opened.map_err(|e| e.hint("`blkdelta init --encrypt` makes an encrypted one"));
        }
        match Self::create(location) {
            // another process was faster
            Err(e) if e.kind() == Kind::Exists => Self::open(location).map_err(|_| e),
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

/// The folder a location names. Other stores come later and have a scheme.
fn local_folder(location: &str) -> Result<PathBuf> {
    let path = location.strip_prefix("file://").unwrap_or(location);
    if path.is_empty() {
        return Err(Error::new(Kind::Usage, "repository location is empty"));
    }
    if path.split_once("://").is_some_and(|(scheme, _)| scheme.chars().all(|c| c.is_ascii_alphanumeric())) {
        let what = format!("repository {location}: only local folders are known");
        return Err(Error::new(Kind::Unsupported, what).hint("give the path of a folder"));
    }
    if std::fs::metadata(path).is_ok_and(|found| !found.is_dir()) {
        let what = format!("repository {path}: there is something, but no folder");
        return Err(Error::new(Kind::Usage, what).hint("give the path of a folder, existing or new"));
    }
    Ok(PathBuf::from(path))
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
        assert_eq!(Repository::open("s3://bucket").unwrap_err().kind(), Kind::Unsupported);
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
