//! What a backup needs of the tracking: the difference, the cut, and the promise to forget only what is durable.
//!
//! [`Epochs`] is the real one; the tests of this room use one in memory over a file.

use crate::diff::{self, Difference};
use crate::epoch::{Cut, Epochs};
use crate::error::Result;
use crate::tracker::Base;

/// The epochs of one tracked device, held by this process alone.
pub trait Ledger {
    /// This tracking session; another one knows nothing of what happened before it.
    fn session(&self) -> &str;

    /// The point the pending difference is relative to.
    fn base(&self) -> Option<&Base>;

    /// Makes what so many cuts will need, so that they are short.
    ///
    /// # Errors
    /// If the kernel has no memory for it.
    fn prepare(&mut self, cuts: usize) -> Result<()>;

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

impl Ledger for Epochs {
    fn session(&self) -> &str {
        Self::session(self)
    }

    fn base(&self) -> Option<&Base> {
        Self::base(self)
    }

    fn prepare(&mut self, cuts: usize) -> Result<()> {
        Self::prepare(self, cuts)
    }

    fn cut(&mut self) -> Result<Cut> {
        Self::cut(self)
    }

    fn pending(&self) -> Result<Difference> {
        diff::pending(self)
    }

    fn retire(&mut self, upto: u64, base: Base) -> Result<()> {
        Self::retire(self, upto, base)
    }
}
