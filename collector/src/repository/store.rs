//! The objects under their keys: a thin blocking layer over `object_store`.
//!
//! Must stay true: when a write returns, the object and every folder above it are durable (`with_fsync(true)`
//! syncs the file, its folder and the folders it made; read in object_store 0.14.2 `local.rs`); an object under a
//! random name is written once; `put_new` never replaces. Over the network a request is tried again while its
//! failure may pass; an answer that was lost is made up for by reading what is there.

use super::location::Location;
use super::net::{self, Access, Patience, classify};
use crate::error::{Error, Kind, Result};
use crate::format::damaged;
use crate::sys::sync_folder;
use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutPayload, UpdateVersion};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::task::{Poll, Wake, Waker};

/// The folders a local repository has from its creation.
pub(super) const FOLDERS: [&str; 6] = ["seg", "idx", "bak", "lock", "map", "del"];

/// A store of objects.
pub(crate) struct Store {
    objects: Arc<dyn ObjectStore>,
    location: Location,
    local: Option<PathBuf>,
    /// The local folder itself, whatever its path means by now.
    root: Option<std::fs::File>,
    pub(super) access: Access,
    runtime: OnceLock<tokio::runtime::Runtime>,
}

impl Store {
    /// The objects at a location.
    pub fn open(location: &Location) -> Result<Self> {
        let access = Access::chosen();
        let objects = match location {
            Location::Folder(folder) => return Self::local(folder),
            Location::Bucket(bucket) => net::bucket(bucket, &access)?,
            Location::Web(url) => net::web(url, &access)?,
        };
        let location = location.clone();
        Ok(Self { objects, location, local: None, root: None, access, runtime: OnceLock::new() })
    }

    /// The objects in a local folder.
    fn local(folder: &Path) -> Result<Self> {
        let what = || format!("open repository folder {}", folder.display());
        let folder = std::fs::canonicalize(folder).map_err(|e| Error::os(what(), e))?;
        let objects =
            LocalFileSystem::new_with_prefix(&folder).map_err(|e| classify(e, what()))?.with_fsync(true);
        let root = std::fs::File::open(&folder).map_err(|e| Error::os(what(), e))?;
        Ok(Self {
            objects: Arc::new(objects),
            location: Location::Folder(folder.clone()),
            local: Some(folder),
            root: Some(root),
            access: Access::chosen().local(),
            runtime: OnceLock::new(),
        })
    }

    /// Where it is.
    pub fn location(&self) -> &Location {
        &self.location
    }

    /// The folder of a local store.
    pub fn folder(&self) -> Option<&Path> {
        self.local.as_deref()
    }

    /// Runs `work` and waits; callable from any thread, also from inside an async runtime.
    ///
    /// The local store does its work where it is polled, unless a runtime is current: no thread is woken for it.
    pub(super) fn wait<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T> {
        if self.local.is_some() && tokio::runtime::Handle::try_current().is_err() {
            return Ok(poll_here(work));
        }
        let (tell, told) = crossbeam_channel::bounded(1);
        self.runtime()?.spawn(async move {
            let _ = tell.send(work.await);
        });
        told.recv().map_err(|_| Error::new(Kind::Bug, "the store's runtime is gone"))
    }

    /// Runs `work`, over the network again and again while its failure may pass and patience lasts.
    pub(super) fn again<T, W>(
        &self,
        work: impl Fn(Arc<dyn ObjectStore>) -> W,
    ) -> Result<object_store::Result<T>>
    where
        T: Send + 'static,
        W: Future<Output = object_store::Result<T>> + Send + 'static,
    {
        let mut patience = self.local.is_none().then(|| Patience::new(self.access.patience));
        loop {
            let outcome = self.wait(work(Arc::clone(&self.objects)))?;
            let pause = outcome.as_ref().err().and_then(|e| patience.as_mut()?.next(e));
            let Some(pause) = pause else { return Ok(outcome) };
            log::info!("{}: tried again in {pause:?}", self.location);
            std::thread::sleep(pause);
        }
    }

    /// Refuses to write where only reading makes sense.
    pub fn writable(&self) -> Result<()> {
        if matches!(self.location, Location::Web(_)) {
            let text = format!("write to {}: a web server is only read from", self.location);
            return Err(Error::new(Kind::Unsupported, text).hint("give a folder or s3://bucket/prefix"));
        }
        Ok(())
    }

    /// The runtime, made when it is needed first.
    fn runtime(&self) -> Result<&tokio::runtime::Runtime> {
        if let Some(runtime) = self.runtime.get() {
            return Ok(runtime);
        }
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let made = builder.worker_threads(2).enable_all().thread_name("blkdelta-store").build();
        let made = made.map_err(|e| Error::os("start the store's runtime", e))?;
        if let Err(second) = self.runtime.set(made) {
            second.shutdown_background();
        }
        self.runtime.get().ok_or_else(|| Error::new(Kind::Bug, "no runtime"))
    }

    /// A whole object of at most `limit` bytes.
    pub fn get(&self, key: &str, limit: u64) -> Result<Bytes> {
        self.get_dated(key, limit).map(|(bytes, _)| bytes)
    }

    /// A whole object of at most `limit` bytes, and what the store says of it.
    pub fn get_dated(&self, key: &str, limit: u64) -> Result<(Bytes, ObjectMeta)> {
        let path = Key::from(key);
        self.again(|objects| {
            let path = path.clone();
            async move {
                let found = objects.get(&path).await?;
                let meta = found.meta.clone();
                if meta.size > limit {
                    return Ok(Err(meta.size));
                }
                Ok(Ok((found.bytes().await?, meta)))
            }
        })?
        .map_err(|e| classify(e, format!("read {key}")))?
        .map_err(|size| damaged(format!("{key}: {size} bytes are more than such an object has")))
        .inspect(|(bytes, _)| self.went(bytes.len()))
    }

    /// So many bytes went: over the network they were paced on their way.
    pub(super) fn went(&self, bytes: usize) {
        if self.local.is_some() {
            self.access.pause(bytes);
        }
    }

    /// `len` bytes of an object from `at` on.
    pub fn get_range(&self, key: &str, at: u64, len: u64) -> Result<Bytes> {
        let path = Key::from(key);
        let got = self.again(|objects| {
            let path = path.clone();
            async move { objects.get_range(&path, at..at + len).await }
        })?;
        match got {
            Ok(bytes) if bytes.len() as u64 == len => {
                self.went(bytes.len());
                Ok(bytes)
            }
            Ok(_) => Err(damaged(format!("{key}: ends before byte {}", at + len))),
            Err(e) => match self.len(key) {
                Ok(size) if size < at + len => Err(damaged(format!("{key}: {size} bytes, cut short"))),
                Err(missing) if missing.kind() == Kind::NotFound => Err(missing),
                _ => Err(classify(e, format!("read {key}"))),
            },
        }
    }

    /// Length of an object.
    pub fn len(&self, key: &str) -> Result<u64> {
        let path = Key::from(key);
        let meta = self.again(|objects| {
            let path = path.clone();
            async move { objects.head(&path).await }
        })?;
        meta.map(|m| m.size).map_err(|e| classify(e, format!("look at {key}")))
    }

    /// Writes an object under a name that nobody else has.
    pub fn put(&self, key: &str, bytes: Bytes) -> Result<()> {
        let put = self.put_as(key, &bytes, &PutMode::Overwrite)?;
        put.map(|_| ()).or_else(|e| self.settle_doubt(key, &bytes, e))
    }

    /// Writes an object unless there is one; the same bytes already there are a success.
    pub fn put_new(&self, key: &str, bytes: Bytes) -> Result<()> {
        let put = self.put_as(key, &bytes, &PutMode::Create)?;
        put.map(|_| ()).or_else(|e| self.settle_doubt(key, &bytes, e))
    }

    /// Writes an object in place of the very version that was read; false if there is another by now.
    pub fn replace(&self, key: &str, bytes: Bytes, seen: &ObjectMeta) -> Result<bool> {
        let version = UpdateVersion { e_tag: seen.e_tag.clone(), version: None };
        match self.put_as(key, &bytes, &PutMode::Update(version))? {
            Ok(_) => Ok(true),
            Err(e) => match self.settle_doubt(key, &bytes, e) {
                Err(e) if e.kind() == Kind::Exists => Ok(false),
                settled => settled.map(|()| true),
            },
        }
    }

    fn put_as(&self, key: &str, bytes: &Bytes, mode: &PutMode) -> Result<object_store::Result<()>> {
        self.writable()?;
        // never into a folder that took its place, or below a mount point that lost its file system
        self.in_place()?;
        let path = Key::from(key);
        self.again(|objects| {
            let (path, payload, mode) = (path.clone(), PutPayload::from(bytes.clone()), mode.clone());
            async move { objects.put_opts(&path, payload, mode.into()).await.map(drop) }
        })
        .inspect(|_| self.went(bytes.len()))
    }

    /// A put failed: is the object there all the same? A lost answer leaves it there. On a local file system a
    /// failed fsync does too, and then what can be read back is no proof: only "exists already" is looked into.
    fn settle_doubt(&self, key: &str, bytes: &Bytes, failure: object_store::Error) -> Result<()> {
        let exists = matches!(
            failure,
            object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }
        );
        if exists || self.local.is_none() {
            let there = self.get(key, bytes.len() as u64);
            if there.is_ok_and(|there| there == bytes) {
                return self.sync_object(key);
            }
        }
        Err(classify(failure, format!("write {key}")))
    }

    fn sync_object(&self, key: &str) -> Result<()> {
        let Some(root) = &self.local else { return Ok(()) };
        let path = root.join(key);
        let synced = std::fs::File::open(&path).and_then(|f| f.sync_all());
        synced.map_err(|e| Error::os(format!("sync {key}"), e))?;
        path.parent().map_or(Ok(()), sync_folder)
    }

    /// Removes an object, durably; one that is not there is a success.
    pub fn delete(&self, key: &str) -> Result<()> {
        self.writable()?;
        let path = Key::from(key);
        let deleted = self.again(|objects| {
            let path = path.clone();
            async move { objects.delete(&path).await }
        })?;
        match deleted {
            Ok(()) => self.sync_folder_of(key),
            Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(classify(e, format!("remove {key}"))),
        }
    }

    fn sync_folder_of(&self, key: &str) -> Result<()> {
        let Some(root) = &self.local else { return Ok(()) };
        root.join(key).parent().filter(|folder| folder.exists()).map_or(Ok(()), sync_folder)
    }

    /// Keys and lengths of all objects in the folder `prefix`.
    pub fn list(&self, prefix: &str) -> Result<Vec<(String, u64)>> {
        let path = Key::from(prefix);
        let web = matches!(self.location, Location::Web(_));
        let found = self.again(|objects| {
            let path = path.clone();
            async move {
                if web {
                    list_by_folder(&objects, path).await
                } else {
                    objects.list(Some(&path)).try_collect().await
                }
            }
        })?;
        let found = found.map_err(|e| classify(e, format!("list {prefix}/")))?;
        let mut found: Vec<_> = found.into_iter().map(|m| (m.location.to_string(), m.size)).collect();
        found.sort_unstable();
        Ok(found)
    }

    /// The path still leads to the folder that was opened: not moved, removed or unmounted meanwhile. Objects are
    /// written by path, so otherwise one point's objects would lie in two places.
    pub fn in_place(&self) -> Result<()> {
        let (Some(path), Some(root)) = (&self.local, &self.root) else { return Ok(()) };
        let opened = root.metadata().map_err(|e| Error::os(format!("look at {}", path.display()), e))?;
        let same = std::fs::metadata(path).is_ok_and(|m| (m.dev(), m.ino()) == (opened.dev(), opened.ino()));
        if same {
            return Ok(());
        }
        let text = format!("the repository {} was moved, removed or unmounted meanwhile", path.display());
        Err(Error::new(Kind::NotFound, text).hint("put it back in its place and try again"))
    }

    /// Makes the names of the upper folders durable: another process may have made one and died before its sync.
    /// A folder that a copy of the repository lost because it was empty is made again.
    pub fn settle(&self) -> Result<()> {
        let Some(root) = &self.local else { return Ok(()) };
        self.in_place()?;
        for folder in FOLDERS.map(|name| root.join(name)) {
            let what = || format!("make folder {}", folder.display());
            std::fs::create_dir_all(&folder).map_err(|e| Error::os(what(), e))?;
            sync_folder(&folder)?;
        }
        sync_folder(root)
    }

    /// A file without a name, for what does not fit into memory; on the repository's own medium if it is local.
    pub fn scratch(&self) -> Result<std::fs::File> {
        let folder = self.local.clone().unwrap_or_else(std::env::temp_dir);
        let what = || format!("make a temporary file in {}", folder.display());
        tempfile::tempfile_in(&folder).map_err(|e| Error::os(what(), e))
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // a plain drop would panic inside another runtime
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Polls `work` on this thread until it is done.
fn poll_here<T>(work: impl Future<Output = T>) -> T {
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut work = std::pin::pin!(work);
    loop {
        if let Poll::Ready(done) = work.as_mut().poll(&mut std::task::Context::from_waker(&waker)) {
            return done;
        }
        std::thread::park();
    }
}

/// Folder by folder: many web servers refuse to list everything below one at once.
async fn list_by_folder(objects: &Arc<dyn ObjectStore>, from: Key) -> object_store::Result<Vec<ObjectMeta>> {
    let (mut found, mut folders) = (Vec::new(), vec![from.clone()]);
    while let Some(folder) = folders.pop() {
        match objects.list_with_delimiter(Some(&folder)).await {
            // a folder that was never needed
            Err(object_store::Error::NotFound { .. }) if folder == from => {}
            listed => {
                let listed = listed?;
                found.extend(listed.objects);
                folders
                    .extend(listed.common_prefixes.into_iter().filter(|inner| inner.prefix_matches(&folder)));
            }
        }
    }
    Ok(found)
}
