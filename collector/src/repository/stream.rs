//! An object that is written in parts, because it may not fit into memory.

use super::net::{Patience, classify};
use super::store::Store;
use crate::error::{Error, Kind, Result};
use bytes::Bytes;
use object_store::path::Path as Key;
use object_store::{MultipartUpload, ObjectStore, PutMultipartOptions, PutPayload};
use std::sync::Arc;

impl Store {
    /// Begins an object that is written in parts.
    pub fn stream(self: &Arc<Self>, key: &str) -> Result<ObjectStream> {
        self.writable()?;
        self.in_place()?;
        let path = Key::from(key);
        let patience = self.access.patience;
        let upload = self.again(|objects| {
            let path = path.clone();
            let options = PutMultipartOptions::default().with_retry_policy(Arc::new(Patience::new(patience)));
            async move { objects.put_multipart_opts(&path, options).await }
        })?;
        let upload = upload.map_err(|e| classify(e, format!("write {key}")))?;
        Ok(ObjectStream { store: Arc::clone(self), key: key.to_owned(), written: 0, upload: Some(upload) })
    }
}

/// An object being written in parts; nothing is visible before [`complete`](Self::complete).
pub(crate) struct ObjectStream {
    store: Arc<Store>,
    key: String,
    written: u64,
    upload: Option<Box<dyn MultipartUpload>>,
}

impl ObjectStream {
    /// Appends bytes.
    pub fn part(&mut self, bytes: impl Into<Bytes>) -> Result<()> {
        let bytes: Bytes = bytes.into();
        let Some(mut upload) = self.upload.take() else {
            return Err(Error::new(Kind::Bug, format!("write {}: it failed before", self.key)));
        };
        let length = bytes.len();
        self.written += length as u64;
        let (upload, result) = self.store.wait(async move {
            let result = upload.put_part(PutPayload::from(bytes)).await;
            (upload, result)
        })?;
        self.upload = Some(upload);
        self.store.went(length);
        result.map_err(|e| classify(e, format!("write {}", self.key)))
    }

    /// Publishes the object, durably.
    pub fn complete(mut self) -> Result<()> {
        // as every object: never into a folder that took the repository's place
        self.store.in_place()?;
        let Some(mut upload) = self.upload.take() else {
            return Err(Error::new(Kind::Bug, format!("write {}: it failed before", self.key)));
        };
        let done = self.store.wait(async move { upload.complete().await })?;
        done.map(|_| ()).or_else(|failure| {
            // over the network the answer may have been lost; the parts themselves were acknowledged one by one
            let lost = self.store.folder().is_none();
            if lost && self.store.len(&self.key).is_ok_and(|len| len == self.written) {
                return Ok(());
            }
            self.store.in_place()?;
            Err(classify(failure, format!("write {}", self.key)))
        })
    }
}

impl Drop for ObjectStream {
    fn drop(&mut self) {
        if let Some(mut upload) = self.upload.take() {
            let _ = self.store.wait(async move { upload.abort().await });
        }
    }
}
