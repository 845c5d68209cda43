//! What a new point stands on: a point from which the difference is known, or nothing.
//!
//! What must stay true: an increment is made only if its parent is the very point the difference is relative to,
//! lies in this repository, can be restored, and is of the same tracking session and geometry. A start point that was
//! asked for is never replaced by another, nor by a full.

use super::{Ledger, Subject, Wishes};
use crate::chain::Chain;
use crate::diff::Difference;
use crate::error::{Error, Kind, Result};
use crate::format::{DeviceId, Geometry, PointId, PointKind};
use crate::repository::Repository;
use crate::tracker::Base;

/// The point whose difference is wished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// The newest of the device in the repository.
    Latest,
    /// The newest full one.
    LatestFull,
    /// This one.
    Point(PointId),
}

impl std::str::FromStr for Since {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "latest" => Ok(Self::Latest),
            "latest-full" => Ok(Self::LatestFull),
            id => id.parse().map(Self::Point),
        }
    }
}

impl Since {
    /// The point it means now.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if there is none; if the repository cannot be read.
    pub fn point(self, device: &DeviceId, repo: &Repository) -> Result<PointId> {
        if let Self::Point(point) = self {
            return Ok(point);
        }
        let points = repo.points_of(device)?;
        let fits = |kind| self == Self::Latest || kind == PointKind::Full;
        let found = points.iter().rev().find(|p| p.manifest().is_some_and(|m| fits(m.kind)));
        let what = if self == Self::Latest { "point" } else { "full point" };
        let absent = || Error::new(Kind::NotFound, format!("no {what} of {device} in this repository"));
        found.map(|p| p.id).ok_or_else(|| absent().hint("make a backup without --since first"))
    }
}

/// What a new point stands on.
pub(super) enum Ground {
    /// Nothing: everything is copied, for this reason.
    Full(String),
    /// This chain's top, which is this start point.
    On(Box<Chain>, Base),
}

impl Ground {
    /// Decides.
    ///
    /// # Errors
    /// If a start point was asked for and nothing can be built on it.
    pub(super) fn choose(
        subject: &Subject<'_>,
        ledger: &dyn Ledger,
        repo: &Repository,
        wishes: &Wishes,
    ) -> Result<Self> {
        if wishes.full {
            return Ok(Self::Full("asked for".into()));
        }
        if let Some(since) = wishes.since {
            return Self::asked(subject, ledger, repo, since);
        }
        let start = usual(ledger, repo);
        let stands = standing(&subject.ident.id, subject.geometry(), ledger.session(), start.as_ref(), repo);
        Ok(match (stands, start) {
            (Ok(Ok(chain)), Some(start)) => Self::On(Box::new(chain), start),
            (Ok(Ok(_)), None) => Self::Full("first since tracking began".into()),
            (Ok(Err(why)), _) => Self::Full(why),
            (Err(error), _) => {
                Self::Full(format!("nothing can be built on the last point: {}", error.in_full()))
            }
        })
    }

    fn asked(subject: &Subject<'_>, ledger: &dyn Ledger, repo: &Repository, since: Since) -> Result<Self> {
        let device = &subject.ident.id;
        let start = Base { repo: repo.uuid().to_string(), point: since.point(device, repo)?.to_string() };
        let what = || format!("back up what changed since {}", start.point);
        let known: Vec<Base> = ledger.starts().into_iter().chain(ledger.base().cloned()).collect();
        if !known.contains(&start) {
            let here = known.iter().filter(|s| s.repo == start.repo).map(|s| s.point.as_str());
            let here =
                here.collect::<std::collections::BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(", ");
            let here = if here.is_empty() { "no point of this repository".to_owned() } else { here };
            let hint = format!(
                "it is kept since: {here}. `blkdelta keep-since` keeps more from the next backup on; \
                 without --since the backup goes on from the last point"
            );
            let text = format!("{}: the tracker does not keep what changed since then", what());
            return Err(Error::new(Kind::NotFound, text).hint(hint));
        }
        let stands = standing(device, subject.geometry(), ledger.session(), Some(&start), repo);
        match stands.map_err(|e| e.within(what()))? {
            Ok(chain) => Ok(Self::On(Box::new(chain), start)),
            Err(why) => Err(Error::new(Kind::Unsupported, format!("{}: {why}", what()))
                .hint("leave --since out: the backup then makes what is possible")),
        }
    }

    /// The parent.
    pub(super) fn point(&self) -> Option<PointId> {
        match self {
            Self::Full(_) => None,
            Self::On(chain, _) => Some(chain.top().point),
        }
    }

    /// Why everything is copied, if it is.
    pub(super) fn why_full(self) -> Option<String> {
        if let Self::Full(why) = self { Some(why) } else { None }
    }

    /// What has to be copied.
    pub(super) fn difference(&self, ledger: &dyn Ledger) -> Result<Difference> {
        match self {
            Self::Full(_) => ledger.pending(),
            Self::On(_, start) => ledger.since(start),
        }
    }
}

/// The base; if that lies in another repository, the last start point in this one.
fn usual(ledger: &dyn Ledger, repo: &Repository) -> Option<Base> {
    let here = repo.uuid().to_string();
    let base = ledger.base().cloned();
    if base.as_ref().is_none_or(|base| base.repo == here) {
        return base;
    }
    ledger.starts().into_iter().rev().find(|s| s.repo == here).or(base)
}

/// The chain of the point that the pending difference is relative to; the inner failure is why there is none.
///
/// # Errors
/// If the repository cannot be read, or the chain is not whole.
pub fn standing(
    device: &DeviceId,
    geometry: Geometry,
    session: &str,
    base: Option<&Base>,
    repo: &Repository,
) -> Result<Result<Chain, String>> {
    let Some(base) = base else { return Ok(Err("first since tracking began".into())) };
    if base.repo != repo.uuid().to_string() {
        return Ok(Err(format!("the last point is in another repository ({})", base.repo)));
    }
    let point: PointId = base.point.parse()?;
    let chain = Chain::resolve(repo, device, point)?;
    let top = chain.top();
    if top.session.as_deref() != Some(session) {
        return Ok(Err("the last point is of another tracking session".into()));
    }
    if top.geometry != geometry {
        let Geometry { size, logical_block, .. } = top.geometry;
        return Ok(Err(format!(
            "the device had {size} bytes in blocks of {logical_block} at the last point"
        )));
    }
    Ok(Ok(chain))
}
