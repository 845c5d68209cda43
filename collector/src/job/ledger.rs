//! What a backup needs of the tracking: the difference, the cut, and the promise to forget only what is durable.
//!
//! [`crate::epoch::Epochs`] is the real one; the tests of this room use one in memory over a file.

use crate::block::ExtentSet;
use crate::error::Result;

/// The point a pending difference is relative to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// The repository's identity.
    pub repo: String,
    /// The point's name.
    pub point: String,
}

/// One epoch, just sealed.
#[derive(Clone, Debug, Default)]
pub struct Cut {
    /// Its number.
    pub epoch: u64,
    /// What was written in it.
    pub extents: ExtentSet,
    /// Why that cannot be proved complete.
    pub suspect: Vec<String>,
}

/// Several epochs together.
#[derive(Clone, Debug, Default)]
pub struct Difference {
    /// What was written in any of them.
    pub extents: ExtentSet,
    /// Why that cannot be proved complete.
    pub suspect: Vec<String>,
    /// Unix milliseconds: the first one began.
    pub since_ms: u64,
    /// The first and the last.
    pub epochs: (u64, u64),
}

/// The epochs of one tracked device, held by this process alone.
pub trait Ledger {
    /// This tracking session; another one knows nothing of what happened before it.
    fn session(&self) -> &str;

    /// The point the pending difference is relative to.
    fn base(&self) -> Option<&Base>;

    /// Ends the running epoch and seals it.
    ///
    /// # Errors
    /// If the kernel's bitmap cannot be taken or the sealed epoch cannot be kept.
    fn cut(&mut self) -> Result<Cut>;

    /// The union of all sealed epochs that were not retired.
    ///
    /// # Errors
    /// If a sealed epoch cannot be read back.
    fn pending(&self) -> Result<Difference>;

    /// Forgets all epochs up to and with `upto`: everything they listed is durable in `base`.
    ///
    /// # Errors
    /// If that cannot be recorded; the epochs then stay.
    fn retire(&mut self, upto: u64, base: Base) -> Result<()>;
}
