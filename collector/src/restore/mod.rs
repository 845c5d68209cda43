//! Writes a recovery point to a file or a device.
//!
//! ```text
//!   chain ─pieces─▶ plan ─work─▶ workers: read, verify, decode ─▶ target ─▶ fsync ─▶ (verify: read back)
//! ```
//!
//! What must stay true: the chain is resolved and every refusal considered before the target is touched; every
//! byte written was verified against the hash it was stored with; success means durable; a failure after the
//! first write says that the target is incomplete.

mod crew;
mod plan;
mod target;

pub use target::Leave;

use crate::chain::Chain;
use crate::copy::Watch;
use crate::error::Result;
use crate::format::{DeviceId, PointId};
use crate::repository::Repository;
use crew::{Crew, Deed};
use plan::Plan;
use serde::Serialize;
use std::path::Path;
use target::Target;

/// What a restore did.
#[derive(Clone, Debug, Serialize)]
pub struct Restored {
    /// The point.
    pub point: String,
    /// Bytes of the image.
    pub size: u64,
    /// Bytes of stored content.
    pub written: u64,
    /// Points read, the full included.
    pub points: usize,
    /// Everything was read back and agreed.
    pub verified: bool,
    /// All of the point is there, and the point is not suspect.
    pub sound: bool,
    /// What a person should know.
    pub warnings: Vec<String>,
}

/// A restore that may be run: everything it needs is there.
pub struct Restore<'a> {
    repo: &'a Repository,
    chain: Chain,
}

impl<'a> Restore<'a> {
    /// Traces the chain of a point.
    ///
    /// # Errors
    /// If a point of the chain is missing or damaged.
    pub fn prepare(repo: &'a Repository, device: &DeviceId, point: PointId) -> Result<Self> {
        Ok(Self { repo, chain: Chain::resolve(repo, device, point)? })
    }

    /// Bytes of the image.
    pub fn size(&self) -> u64 {
        self.chain.top().geometry.size
    }

    /// Writes the point to `path`; with `verify` also reads it back.
    ///
    /// # Errors
    /// A refusal (see [`Leave`]), damage in the repository, a failed write, or a byte that read back otherwise.
    pub fn run(&self, path: &Path, leave: Leave, verify: bool, watch: &dyn Watch) -> Result<Restored> {
        let target = Target::open(path, self.size(), leave)?;
        let written = self
            .fill(&target, watch)
            .map_err(|e| e.within(format!("{} is incomplete: restoring it failed", path.display())))?;
        if verify {
            self.walk(&target, Deed::Verify, watch)
                .map_err(|e| e.within(format!("verify what was restored to {}", path.display())))?;
        }
        Ok(Restored {
            point: self.chain.top().point.to_string(),
            size: self.size(),
            written,
            points: self.chain.points().len(),
            verified: verify,
            sound: target.room() == self.size() && !self.chain.top().is_suspect(),
            warnings: self.warnings(path, &target),
        })
    }

    fn fill(&self, target: &Target, watch: &dyn Watch) -> Result<u64> {
        let written = self.walk(target, Deed::Write, watch)?;
        target.sync()?;
        Ok(written)
    }

    fn warnings(&self, path: &Path, target: &Target) -> Vec<String> {
        let mut warnings = Vec::new();
        let top = self.chain.top();
        let block = top.geometry.logical_block;
        if let Some(other) = target.logical_block().filter(|&b| b != block) {
            warnings.push(format!(
                "{} has logical blocks of {other} bytes, the source had {block}: partition tables and some file \
                 systems will not be recognised",
                path.display()
            ));
        }
        if target.room() < self.size() {
            warnings.push(format!("{} bytes did not fit and are lost", self.size() - target.room()));
        }
        if top.is_suspect() {
            warnings.push(format!("the point is suspect: {}", top.suspect.join("; ")));
        }
        warnings
    }

    /// Deals with every byte of the point; returns the bytes of stored content.
    fn walk(&self, target: &Target, deed: Deed, watch: &dyn Watch) -> Result<u64> {
        let plan = Plan::new(self.chain.pieces()?, self.size());
        Crew::new(self.repo, target, deed, watch).work_off(plan)
    }
}
