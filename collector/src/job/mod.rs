//! The only room that knows the order of a backup.
//!
//! ```text
//!   lock ▸ cut ▸ pending ∪ used ▸ copy ▸ (sync ▸ cut ▸ copy)… ▸ sync ▸ freeze ▸ cut ▸ copy ▸ thaw ▸ publish ▸ retire
//!           │                                                                                          ▲
//!           └── any failure before here leaves every epoch pending: the next backup copies it again ──┘
//! ```
//!
//! What must stay true: epochs are retired only after the point that holds them is durable, and never one whose
//! list may be incomplete; the parent of a point is exactly the point the difference is relative to; the
//! manifest calls an image consistent only if that was proved; while a file system is frozen nothing is printed,
//! logged or written to it, and it is thawed whatever happens.

mod backup;
mod ground;
mod hook;
mod identity;
mod ledger;
mod passes;
pub mod place;
mod still;
mod watch;
mod yielding;

pub use backup::{DeviceSurvey, Outcome, Subject, Survey, Wishes, backup};
pub use ground::{Since, standing};
pub use hook::Hook;
pub use identity::{identify, identify_in};
pub use ledger::Ledger;
pub(crate) use passes::Hushed;
pub use watch::watch;
pub use yielding::{Budget, Yielding};

use crate::copy::Watch;

/// Someone who looks on while a job runs.
pub trait Show: Watch {
    /// A new stretch of work of so many bytes begins.
    fn begin(&self, _what: &str, _total: u64) {}
}

impl Show for () {}

#[cfg(test)]
mod tests;
