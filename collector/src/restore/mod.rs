//! Gives a recovery point back: to a file, a device, a stream, or another program's format.
//!
//! ```text
//!   chain ─pieces─▶ plan ─work─▶ workers: read, verify, decode ─▶ target ─▶ fsync ─▶ (verify: read back)
//!                           └──▶ stream: the same in order, to a pipe
//! ```
//!
//! What must stay true: the chain is resolved and every refusal considered before the target is touched; every
//! byte written was verified against the hash it was stored with; success means durable; a failure after the
//! first write says that the target is incomplete; what is lost is never written, and always named.

mod crew;
mod export;
mod files;
mod lost;
mod plan;
mod same;
mod stream;
mod target;

pub use export::{Exported, Image, export};
pub use target::Leave;

use crate::block::{Extent, ExtentSet};
use crate::chain::Chain;
use crate::copy::Watch;
use crate::error::{Error, Kind, Result};
use crate::format::{DeviceId, Manifest, PointId};
use crate::repository::Repository;
use crew::{Crew, Deed, Done};
use lost::Losses;
use plan::Plan;
use serde::Serialize;
use std::path::Path;
use target::{Aim, Target};

/// How a point is written.
#[derive(Clone, Copy, Debug, Default)]
pub struct How {
    /// Only this part of it, at the same address.
    pub range: Option<Extent>,
    /// Compare with what the target holds, and write only what differs.
    pub differing: bool,
    /// Read everything back and compare.
    pub verify: bool,
}

/// What a restore did.
#[derive(Clone, Debug, Serialize)]
pub struct Restored {
    /// The point.
    pub point: String,
    /// Bytes of the image.
    pub size: u64,
    /// The part that was restored.
    pub range: Extent,
    /// Bytes written; of zeros only those that were written over something else.
    pub written: u64,
    /// Bytes of the target that were compared first, if only what differs was to be written.
    pub compared: Option<u64>,
    /// Points read, the full included.
    pub points: usize,
    /// Everything was read back and agreed.
    pub verified: bool,
    /// All of the point is there, and the point is not suspect.
    pub sound: bool,
    /// What could not be restored: zero in a new file, untouched on a device or in a file that was there.
    pub lost: ExtentSet,
    /// Why.
    pub lost_because: Vec<String>,
    /// Files with content in it, as far as they could be found out (ext4, with debugfs).
    pub lost_files: Vec<String>,
    /// What a person should know.
    pub warnings: Vec<String>,
}

/// A restore that may be run: everything it needs is there.
pub struct Restore<'a> {
    repo: &'a Repository,
    chain: Chain,
    /// Goes on over damage.
    partial: bool,
}

impl<'a> Restore<'a> {
    /// Traces the chain of a point.
    ///
    /// # Errors
    /// If a point of the chain is missing or damaged.
    pub fn prepare(repo: &'a Repository, device: &DeviceId, point: PointId) -> Result<Self> {
        Self::of_device(repo, Chain::resolve(repo, device, point)?, false)
    }

    /// Traces what there is of it: what cannot be read is lost, and the rest is restored.
    ///
    /// # Errors
    /// If the point's own manifest is missing or damaged.
    pub fn prepare_partial(repo: &'a Repository, device: &DeviceId, point: PointId) -> Result<Self> {
        Self::of_device(repo, Chain::salvage(repo, device, point)?, true)
    }

    fn of_device(repo: &'a Repository, chain: Chain, partial: bool) -> Result<Self> {
        if let Some(files) = &chain.top().files {
            let (point, group) = (chain.top().point, &files.group);
            let text = format!("point {point} is of the files of group {group}, not of a device");
            let hint = format!("blkdelta restore --group {group} --point {point} --into FOLDER");
            return Err(Error::new(Kind::Usage, text).hint(hint));
        }
        Ok(Self { repo, chain, partial })
    }

    /// The point.
    pub fn point(&self) -> &Manifest {
        self.chain.top()
    }

    /// Bytes of the image.
    pub fn size(&self) -> u64 {
        self.chain.top().geometry.size
    }

    /// All of it, or the part that was asked for.
    ///
    /// # Errors
    /// If that is not a part of the point.
    pub fn range(&self, asked: Option<Extent>) -> Result<Extent> {
        match asked {
            None => Ok(Extent::new(0, self.size())),
            Some(range) if !range.is_empty() && range.end() <= self.size() => Ok(range),
            Some(range) => {
                let (from, to, size) = (range.offset, range.end(), self.size());
                let text = format!("range {from}..{to}: nothing, or beyond the {size} bytes of the point");
                Err(Error::new(Kind::Usage, text))
            }
        }
    }

    /// Writes the point to `path`.
    ///
    /// # Errors
    /// A refusal (see [`Leave`]), damage in the repository unless it is partial, a failed write, or a byte that read
    /// back otherwise.
    pub fn run(&self, path: &Path, leave: Leave, how: How, watch: &dyn Watch) -> Result<Restored> {
        let range = self.range(how.range)?;
        let target = Target::open(path, Aim { size: self.size(), range, keep: how.differing }, leave)?;
        let losses = Losses::default();
        let done =
            self.fill(&target, range, how.differing, &losses, watch).map_err(|e| self.incomplete(path, e))?;
        if how.verify {
            self.walk(&target, range, Deed::Verify, &losses, watch)
                .map_err(|e| e.within(format!("verify what was restored to {}", path.display())))?;
        }
        let (lost, lost_because) = losses.into_parts();
        let lost_files = if how.range.is_none() { files::lost_files(path, &lost) } else { Vec::new() };
        Ok(Restored {
            point: self.chain.top().point.to_string(),
            size: self.size(),
            range,
            written: done.content + done.zeroed,
            compared: how.differing.then_some(done.compared),
            points: self.chain.points().len(),
            verified: how.verify,
            sound: target.room() >= range.end() && !self.chain.top().is_suspect() && lost.is_empty(),
            lost,
            lost_because,
            lost_files,
            warnings: self.warnings(path, &target, range),
        })
    }

    fn incomplete(&self, path: &Path, error: Error) -> Error {
        let damaged = error.kind() == Kind::Damaged;
        let error = error.within(format!("{} is incomplete: restoring it failed", path.display()));
        if damaged && !self.partial {
            error.hint("--partial restores what is there and names the rest")
        } else {
            error.hint("the same command with --resume writes what is still missing")
        }
    }

    fn fill(
        &self,
        target: &Target,
        range: Extent,
        differing: bool,
        losses: &Losses,
        watch: &dyn Watch,
    ) -> Result<Done> {
        let deed = if differing { Deed::Differing } else { Deed::Write };
        let done = self.walk(target, range, deed, losses, watch)?;
        target.sync()?;
        Ok(done)
    }

    fn warnings(&self, path: &Path, target: &Target, range: Extent) -> Vec<String> {
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
        if target.room() < range.end() {
            warnings.push(format!("{} bytes did not fit and are lost", range.end() - target.room()));
        }
        if top.is_suspect() {
            warnings.push(format!("the point is suspect: {}", top.suspect.join("; ")));
        }
        warnings
    }

    /// Deals with every byte of the range.
    fn walk(
        &self,
        target: &Target,
        range: Extent,
        deed: Deed,
        losses: &Losses,
        watch: &dyn Watch,
    ) -> Result<Done> {
        let plan = Plan::new(self.chain.pieces_in(range)?, range);
        let losses = self.partial.then_some(losses);
        Crew { repo: self.repo, target, deed, losses, watch }.work_off(plan)
    }
}
