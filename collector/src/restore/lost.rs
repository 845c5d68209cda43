//! What a restore that goes on over damage had to leave out, and why.

use crate::block::{Extent, ExtentSet};
use crate::error::Error;
use std::collections::BTreeSet;
use std::sync::Mutex;

/// Reasons that are kept: a medium that fails has one for every frame.
const CAUSES: usize = 20;

/// Ranges and reasons, from several threads.
#[derive(Debug, Default)]
pub(super) struct Losses(Mutex<(Vec<Extent>, BTreeSet<String>)>);

impl Losses {
    /// An extent of the point is lost; without a cause, because the index that would tell of it is.
    pub(super) fn note(&self, extent: Extent, cause: Option<&Error>) {
        let mut noted = self.0.lock().unwrap_or_else(|e| e.into_inner());
        match noted.0.last_mut() {
            Some(last) if last.end() == extent.offset => last.length += extent.length,
            _ => noted.0.push(extent),
        }
        if let Some(cause) = cause.filter(|_| noted.1.len() < CAUSES) {
            noted.1.insert(cause.in_full());
        }
    }

    /// All of it.
    pub(super) fn into_parts(self) -> (ExtentSet, Vec<String>) {
        let (extents, causes) = self.0.into_inner().unwrap_or_else(|e| e.into_inner());
        (ExtentSet::from_unsorted(extents), causes.into_iter().collect())
    }
}
