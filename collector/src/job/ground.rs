//! What a new point stands on: the point its difference is relative to, or nothing.
//!
//! What must stay true: an increment is made only if its parent is the very point the pending difference is
//! relative to, lies in this repository, can be restored, and is of the same tracking session and geometry.

use super::{Ledger, Subject, Wishes};
use crate::chain::Chain;
use crate::error::Result;
use crate::format::{DeviceId, Geometry, PointId};
use crate::repository::Repository;
use crate::tracker::Base;

/// What a new point stands on.
pub(super) enum Ground {
    /// Nothing: everything is copied, for this reason.
    Full(String),
    /// This chain's top.
    On(Box<Chain>),
}

impl Ground {
    /// Decides.
    pub(super) fn choose(
        subject: &Subject<'_>,
        ledger: &dyn Ledger,
        repo: &Repository,
        wishes: &Wishes,
    ) -> Self {
        if wishes.full {
            return Self::Full("asked for".into());
        }
        match Self::parent(subject, ledger, repo) {
            Ok(Ok(chain)) => Self::On(Box::new(chain)),
            Ok(Err(why)) => Self::Full(why),
            Err(error) => Self::Full(format!("nothing can be built on the last point: {}", error.in_full())),
        }
    }

    fn parent(
        subject: &Subject<'_>,
        ledger: &dyn Ledger,
        repo: &Repository,
    ) -> Result<Result<Chain, String>> {
        standing(&subject.ident.id, subject.geometry(), ledger.session(), ledger.base(), repo)
    }

    /// The parent.
    pub(super) fn point(&self) -> Option<PointId> {
        match self {
            Self::Full(_) => None,
            Self::On(chain) => Some(chain.top().point),
        }
    }
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
