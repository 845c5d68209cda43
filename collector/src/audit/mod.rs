//! The self-audit: what the difference list calls clean must be what the backup holds.
//!
//! ```text
//!   look ─▶ list, base point ─▶ read clean areas (O_DIRECT) ─▶ hash ─▶ compare with the base point's chain
//!    ▲                                                                        │ differs
//!    └──────────── base point still the same? ◀── look again: listed by now? ◀┘
//! ```
//! What must stay true: no false alarm, and no mismatch kept quiet. A write is marked when it is submitted, so
//! whatever a read saw of it is on the list that is taken **after** the read; if the base point changed
//! meanwhile, the slice is compared again with the new one. Only what some frame of the point holds is compared,
//! and only where it is used now: unused areas may change without a write (discarded ones, the two halves of an
//! unsynchronised mirror), and what was allocated without being written was never part of the point.
//!
//! One mismatch makes the device suspect until a backup has compared everything ([`doubt`]).

mod compare;
mod rotation;

use crate::block::{BLOCK, Extent, ExtentSet};
use crate::chain::Chain;
use crate::diff::{self, Look};
use crate::error::{Error, Kind, Result};
use crate::format::{DeviceId, DeviceIdent, Geometry, PointId};
use crate::job::{Show, identify_in, standing};
use crate::repository::Repository;
use crate::source::{LiveDevice, Source};
use crate::sys::device::BlockDevice;
use crate::sys::planted;
use crate::tracker::{Base, Places, doubt};
use crate::usage::used_areas;
use compare::Comparison;
use rotation::{Rotation, Stretch};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// How much of the device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Share {
    /// The next stretch of the rotation, this part of the whole.
    Sample(f64),
    /// Everything, beside the rotation.
    All,
}

/// What an audit found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The device.
    pub device: PathBuf,
    /// The point it was compared with (the last one, if a backup ended meanwhile).
    pub base_point: PointId,
    /// The part of the device that was looked at.
    pub stretch: Extent,
    /// Bytes of it that were compared.
    pub compared_bytes: u64,
    /// Bytes not compared because they are on the difference list.
    pub listed_bytes: u64,
    /// Bytes not compared because they are unused, or the point does not hold them.
    pub not_held_bytes: u64,
    /// Bytes read of the device.
    pub read_bytes: u64,
    /// Bytes read of the repository: frames whose hash alone could not answer.
    pub stored_bytes: u64,
    /// Clean by the list, and not what the point holds.
    pub mismatches: ExtentSet,
    /// Where the rotation stands afterwards; none for an audit of everything.
    pub rotation: Option<Rotation>,
    /// Why the device is suspect, this audit's finding included.
    pub suspect: Vec<String>,
}

/// Bytes of a slice: between two looks at the list.
const SLICE: u64 = 64 << 20;
/// Extents of a slice, at most.
const SLICE_EXTENTS: usize = 4096;
/// A backup that ends within a slice makes it be compared anew; so often at most.
const ATTEMPTS: usize = 16;

/// Compares a part of a tracked device with its base point in `repo`.
///
/// # Errors
/// `NotFound` if there is nothing to compare with, `Busy` if backups end faster than one can compare, `Damaged`
/// if the point cannot be read; a failed read of the device.
pub fn audit(
    places: &Places,
    path: &Path,
    repo: &Repository,
    share: Share,
    show: &dyn Show,
) -> Result<Report> {
    let mut audit = Audit::begin(places, path, repo)?;
    let device = audit.device.id.clone();
    let stretch = match share {
        Share::All => Stretch::whole(audit.source.size()),
        Share::Sample(part) => Stretch::next(places, device.as_str(), audit.source.size(), part)?,
    };
    let usage = used_areas(path)?;
    // a hole is as good as written zeros: a discard that was not seen shows there
    let used = usage.used.union(&usage.zero).align_out(BLOCK, audit.source.size());
    let targets = used.within(stretch.extent);
    show.begin("auditing", targets.total());
    let mut audited = 0;
    for slice in slices(&targets).filter(|_| !planted("audit-skips")) {
        audit.slice(&slice, show)?;
        show.advance(slice.total());
        audited += slice.total();
    }
    if audited != targets.total() {
        let text = format!("only {audited} of {} bytes were audited", targets.total());
        return Err(Error::new(Kind::Bug, text));
    }
    let rotation = stretch.done(audit.mismatches.total())?;
    audit.report(stretch.extent, rotation)
}

/// An audit under way.
struct Audit<'a> {
    places: &'a Places,
    path: &'a Path,
    repo: &'a Repository,
    device: DeviceIdent,
    source: LiveDevice,
    look: Look,
    comparison: Comparison,
    compared: u64,
    listed: u64,
    mismatches: ExtentSet,
}

impl<'a> Audit<'a> {
    fn begin(places: &'a Places, path: &'a Path, repo: &'a Repository) -> Result<Self> {
        let look = diff::look(places, path)?;
        let device = identify_in(repo, &BlockDevice::open(path)?);
        let source = LiveDevice::open(path)?;
        let comparison = Comparison::with(chain_of(&device.id, &source, &look, path, repo)?)?;
        let mismatches = ExtentSet::new();
        Ok(Self { places, path, repo, device, source, look, comparison, compared: 0, listed: 0, mismatches })
    }

    /// Compares one slice, until it was done while the base point stayed the same.
    fn slice(&mut self, slice: &ExtentSet, show: &dyn Show) -> Result<()> {
        for _ in 0..ATTEMPTS {
            if show.stopped() {
                return Err(Error::new(Kind::Interrupted, "stopped"));
            }
            let clean = slice.subtract(&listed_in(&self.look, slice));
            let (covered, differs) = self.comparison.compare(&clean, &self.source, self.repo)?;
            let after = diff::look(self.places, self.path)?;
            let same = base_of(&after) == base_of(&self.look);
            self.look = after;
            if same {
                let found = differs.subtract(&listed_in(&self.look, slice));
                self.shout(&found)?;
                self.listed += slice.total() - clean.total();
                self.compared += covered;
                self.mismatches = self.mismatches.union(&found);
                return Ok(());
            }
            let chain = chain_of(&self.device.id, &self.source, &self.look, self.path, self.repo)?;
            self.comparison.restart(chain)?;
        }
        Err(Error::new(Kind::Busy, format!("audit {}: its backups never rest", self.path.display()))
            .hint("try again when fewer backups are made"))
    }

    /// At the first mismatch, before anything else can fail: the device is suspect.
    fn shout(&self, found: &ExtentSet) -> Result<()> {
        let Some(first) = found.iter().next().filter(|_| self.mismatches.is_empty()) else { return Ok(()) };
        let (at, point) = (first.offset, self.comparison.point());
        let reason = format!(
            "an audit found the {} bytes at {at} changed since point {point}, and not on the list",
            first.length
        );
        log::error!("{}: {reason}", self.path.display());
        doubt::raise(self.places, &self.look.state, reason)
    }

    fn report(self, stretch: Extent, rotation: Option<Rotation>) -> Result<Report> {
        let suspect = diff::look(self.places, self.path)?.difference.suspect;
        Ok(Report {
            device: self.path.into(),
            base_point: self.comparison.point(),
            stretch,
            compared_bytes: self.compared,
            listed_bytes: self.listed,
            not_held_bytes: stretch.length.saturating_sub(self.compared + self.listed),
            read_bytes: self.comparison.read,
            stored_bytes: self.comparison.stored,
            mismatches: self.mismatches,
            rotation,
            suspect,
        })
    }
}

/// The part of the list that concerns a slice.
fn listed_in(look: &Look, slice: &ExtentSet) -> ExtentSet {
    let (first, last) = (slice.iter().next(), slice.iter().last());
    let reach = first.zip(last).map_or(Extent::new(0, 0), |(a, b)| Extent::between(a.offset, b.end()));
    look.difference.extents.within(reach)
}

/// What the list of a look is relative to.
fn base_of(look: &Look) -> (&str, Option<&Base>) {
    (&look.state.session, look.state.base.as_ref())
}

fn chain_of(
    device: &DeviceId,
    source: &LiveDevice,
    look: &Look,
    path: &Path,
    repo: &Repository,
) -> Result<Chain> {
    let physical_block = BlockDevice::open(path)?.physical_block;
    let geometry = Geometry { size: source.size(), logical_block: source.logical_block(), physical_block };
    standing(device, geometry, &look.state.session, look.state.base.as_ref(), repo)?.map_err(|why| {
        Error::new(Kind::NotFound, format!("audit {}: nothing to compare with: {why}", path.display()))
            .hint("make a backup into this repository first")
    })
}

/// The extents in pieces of at most [`SLICE`] bytes and [`SLICE_EXTENTS`] extents, cut at cell boundaries.
fn slices(extents: &ExtentSet) -> impl Iterator<Item = ExtentSet> + '_ {
    let mut rest = extents.iter().copied();
    let mut left: Option<Extent> = None;
    std::iter::from_fn(move || {
        let (mut slice, mut room) = (ExtentSet::new(), SLICE);
        while room > 0 && slice.len() < SLICE_EXTENTS {
            let Some(extent) = left.take().or_else(|| rest.next()) else { break };
            let end = extent.end().min((extent.offset + room).next_multiple_of(compare::RUN));
            slice.push(Extent::between(extent.offset, end));
            room = room.saturating_sub(end - extent.offset);
            left = Some(Extent::between(end, extent.end())).filter(|e| !e.is_empty());
        }
        (!slice.is_empty()).then_some(slice)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn slices_are_the_extents(raw in prop::collection::vec((0u64..40_000, 1u64..30_000), 0..30)) {
            let extents: ExtentSet = raw.iter().map(|(o, l)| Extent::new(o * 4096, l * 4096)).collect();
            let mut all = Vec::new();
            for slice in slices(&extents) {
                prop_assert!(slice.total() <= SLICE + compare::RUN && slice.len() <= SLICE_EXTENTS);
                all.extend(slice.iter().copied());
            }
            prop_assert!(all.windows(2).all(|w| w[0].end() <= w[1].offset));
            prop_assert_eq!(ExtentSet::from_unsorted(all), extents);
        }
    }
}
