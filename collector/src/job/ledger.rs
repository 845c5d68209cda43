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

    /// The points from which a difference can be made, oldest first.
    fn starts(&self) -> Vec<Base>;

    /// The difference to one of them: what was retired since, and what is pending.
    ///
    /// # Errors
    /// If there is no such start point, or a sealed epoch cannot be read back.
    fn since(&self, start: &Base) -> Result<Difference>;

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

    /// Forgets all epochs up to and with `upto`: everything they listed is durable in `base`, which holds the whole
    /// device by itself if it is `full`. Start points that stay remember them.
    ///
    /// # Errors
    /// If that cannot be recorded; the epochs then stay.
    fn retire(&mut self, upto: u64, base: Base, full: bool) -> Result<()>;
}

impl Ledger for Epochs {
    fn session(&self) -> &str {
        Self::session(self)
    }

    fn base(&self) -> Option<&Base> {
        Self::base(self)
    }

    fn starts(&self) -> Vec<Base> {
        Self::starts(self).iter().map(|s| s.base.clone()).collect()
    }

    fn since(&self, start: &Base) -> Result<Difference> {
        diff::since(self, start)
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

    fn retire(&mut self, upto: u64, base: Base, full: bool) -> Result<()> {
        self.retire_into(upto, base, full)
    }
}
