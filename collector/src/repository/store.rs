//! The objects under their keys: a thin blocking layer over `object_store`.
//!
//! Must stay true: when a write returns, the object and every folder above it are durable (`with_fsync(true)`
//! syncs the file, its folder and the folders it made; read in object_store 0.14.2 `local.rs`); an object under a
//! random name is written once; `put_new` never replaces.

use crate::error::{Error, Kind, Result};
use crate::format::damaged;
use crate::sys::sync_folder;
use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt, PutMode, PutPayload};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::task::{Poll, Wake, Waker};

/// The folders a local repository has from its creation.
pub(super) const FOLDERS: [&str; 6] = ["seg", "idx", "bak", "lock", "map", "del"];

/// A store of objects.
pub(crate) struct Store {
    objects: Arc<dyn ObjectStore>,
    local: Option<PathBuf>,
    /// The local folder itself, whatever its path means by now.
    root: Option<std::fs::File>,
    runtime: OnceLock<tokio::runtime::Runtime>,
}

impl Store {
    /// The objects in a local folder.
    pub fn local(folder: &Path) -> Result<Self> {
        let what = || format!("open repository folder {}", folder.display());
        let folder = std::fs::canonicalize(folder).map_err(|e| Error::os(what(), e))?;
        let objects =
            LocalFileSystem::new_with_prefix(&folder).map_err(|e| classify(e, what()))?.with_fsync(true);
        let root = std::fs::File::open(&folder).map_err(|e| Error::os(what(), e))?;
        Ok(Self {
            objects: Arc::new(objects),
            local: Some(folder),
            root: Some(root),
            runtime: OnceLock::new(),
        })
    }

    /// The folder of a local store.
    pub fn folder(&self) -> Option<&Path> {
        self.local.as_deref()
    }

    /// Runs `work` and waits; callable from any thread, also from inside an async runtime.
    ///
    /// The local store does its work where it is polled, unless a runtime is current: no thread is woken for it.
    fn wait<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Result<T> {
        if self.local.is_some() && tokio::runtime::Handle::try_current().is_err() {
            return Ok(poll_here(work));
        }
        let (tell, told) = crossbeam_channel::bounded(1);
        self.runtime()?.spawn(async move {
            let _ = tell.send(work.await);
        });
        told.recv().map_err(|_| Error::new(Kind::Bug, "the store's runtime is gone"))
    }

    /// The runtime, made when it is needed first.
    fn runtime(&self) -> Result<&tokio::runtime::Runtime> {
        if let Some(runtime) = self.runtime.get() {
            return Ok(runtime);
        }
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let made = builder.worker_threads(1).thread_name("blkdelta-store").build();
        let made = made.map_err(|e| Error::os("start the store's runtime", e))?;
        if let Err(second) = self.runtime.set(made) {
            second.shutdown_background();
        }
        self.runtime.get().ok_or_else(|| Error::new(Kind::Bug, "no runtime"))
    }

    /// A whole object of at most `limit` bytes.
    pub fn get(&self, key: &str, limit: u64) -> Result<Bytes> {
        let (objects, path) = (Arc::clone(&self.objects), Key::from(key));
        self.wait(async move {
            let found = objects.get(&path).await?;
            if found.meta.size > limit { Ok(Err(found.meta.size)) } else { found.bytes().await.map(Ok) }
        })?
        .map_err(|e| classify(e, format!("read {key}")))?
        .map_err(|size| damaged(format!("{key}: {size} bytes are more than such an object has")))
    }

    /// `len` bytes of an object from `at` on.
    pub fn get_range(&self, key: &str, at: u64, len: u64) -> Result<Bytes> {
        let (objects, path) = (Arc::clone(&self.objects), Key::from(key));
        let got = self.wait(async move { objects.get_range(&path, at..at + len).await })?;
        match got {
            Ok(bytes) if bytes.len() as u64 == len => Ok(bytes),
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
        let (objects, path) = (Arc::clone(&self.objects), Key::from(key));
        let meta = self.wait(async move { objects.head(&path).await })?;
        meta.map(|m| m.size).map_err(|e| classify(e, format!("look at {key}")))
    }

    /// Writes an object under a name that nobody else has.
    pub fn put(&self, key: &str, bytes: Bytes) -> Result<()> {
        let (objects, path, payload) =
            (Arc::clone(&self.objects), Key::from(key), PutPayload::from(bytes.clone()));
        let put = self.wait(async move { objects.put(&path, payload).await })?;
        put.map(|_| ()).or_else(|e| self.settle_doubt(key, &bytes, e))
    }

    /// Writes an object unless there is one; the same bytes already there are a success.
    pub fn put_new(&self, key: &str, bytes: Bytes) -> Result<()> {
        let (objects, path, payload) =
            (Arc::clone(&self.objects), Key::from(key), PutPayload::from(bytes.clone()));
        let put = self.wait(async move { objects.put_opts(&path, payload, PutMode::Create.into()).await })?;
        put.map(|_| ()).or_else(|e| self.settle_doubt(key, &bytes, e))
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
        let (objects, path) = (Arc::clone(&self.objects), Key::from(key));
        match self.wait(async move { objects.delete(&path).await })? {
            Ok(()) => self.sync_folder_of(key),
            Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(classify(e, format!("remove {key}"))),
        }
    }

    fn sync_folder_of(&self, key: &str) -> Result<()> {
        let Some(root) = &self.local else { return Ok(()) };
        root.join(key).parent().filter(|folder| folder.exists()).map_or(Ok(()), sync_folder)
    }

    /// Begins an object that is written in parts.
    pub fn stream(self: &Arc<Self>, key: &str) -> Result<ObjectStream> {
        let (objects, path) = (Arc::clone(&self.objects), Key::from(key));
        let upload = self.wait(async move { objects.put_multipart(&path).await })?;
        let upload = upload.map_err(|e| classify(e, format!("write {key}")))?;
        Ok(ObjectStream { store: Arc::clone(self), key: key.to_owned(), upload: Some(upload) })
    }

    /// Keys and lengths of all objects in the folder `prefix`.
    pub fn list(&self, prefix: &str) -> Result<Vec<(String, u64)>> {
        let (objects, path) = (Arc::clone(&self.objects), Key::from(prefix));
        let found: Result<Vec<_>, _> =
            self.wait(async move { objects.list(Some(&path)).try_collect().await })?;
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

/// An object being written in parts; nothing is visible before [`complete`](Self::complete).
pub(crate) struct ObjectStream {
    store: Arc<Store>,
    key: String,
    upload: Option<Box<dyn MultipartUpload>>,
}

impl ObjectStream {
    /// Appends bytes.
    pub fn part(&mut self, bytes: Vec<u8>) -> Result<()> {
        let Some(mut upload) = self.upload.take() else {
            return Err(Error::new(Kind::Bug, format!("write {}: it failed before", self.key)));
        };
        let (upload, result) = self.store.wait(async move {
            let result = upload.put_part(PutPayload::from(bytes)).await;
            (upload, result)
        })?;
        self.upload = Some(upload);
        result.map_err(|e| classify(e, format!("write {}", self.key)))
    }

    /// Publishes the object, durably.
    pub fn complete(mut self) -> Result<()> {
        let Some(mut upload) = self.upload.take() else {
            return Err(Error::new(Kind::Bug, format!("write {}: it failed before", self.key)));
        };
        let done = self.store.wait(async move { upload.complete().await })?;
        done.map(|_| ()).map_err(|e| classify(e, format!("write {}", self.key)))
    }
}

impl Drop for ObjectStream {
    fn drop(&mut self) {
        if let Some(mut upload) = self.upload.take() {
            let _ = self.store.wait(async move { upload.abort().await });
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

/// The error's kind from the store's, or from the operating system error deep inside it.
fn classify(error: object_store::Error, context: String) -> Error {
    use object_store::Error as E;
    let kind = match &error {
        E::NotFound { .. } => Kind::NotFound,
        E::AlreadyExists { .. } | E::Precondition { .. } => Kind::Exists,
        E::NotSupported { .. } | E::NotImplemented { .. } => Kind::Unsupported,
        E::PermissionDenied { .. } | E::Unauthenticated { .. } => Kind::Denied,
        _ => Kind::Io,
    };
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    let mut os = None;
    while let Some(e) = cause {
        os = e.downcast_ref::<std::io::Error>().map(std::io::Error::kind).or(os);
        cause = e.source();
    }
    let kind = match (kind, os) {
        (Kind::Io, Some(os)) => Error::os("", std::io::Error::from(os)).kind(),
        (kind, _) => kind,
    };
    Error::caused(kind, context, error)
}
