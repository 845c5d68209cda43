//! The oracle: every block that changed must be listed.
//!
//! It knows nothing of the tracker: it compares two images of the device byte by byte. Order that makes the
//! verdict sound while something still writes: cut, read *before*, workload, read *after*, take the list.

use crate::image::Image;
use anyhow::{Result, bail};
use collector::block::{BLOCK, ExtentSet};
use std::fmt;

/// What changed against what was listed.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Changed blocks, as extents.
    pub changed: ExtentSet,
    /// Changed but not listed: must be empty.
    pub missed: ExtentSet,
    /// Bytes listed.
    pub listed: u64,
    /// The list reaches beyond the device's end: an error too.
    pub beyond_end: bool,
}

/// Compares two images with the difference list between them.
pub fn judge(before: &Image, after: &Image, listed: &ExtentSet) -> Verdict {
    let changed = before.difference(after);
    let missed = changed.subtract(listed);
    let beyond_end = listed.iter().last().is_some_and(|e| e.end() > after.size());
    Verdict { changed, missed, listed: listed.total(), beyond_end }
}

impl Verdict {
    /// Part of the listed bytes that did not change, in percent.
    pub fn over_report(&self) -> f64 {
        let found = self.changed.total() - self.missed.total();
        if self.listed == 0 {
            0.0
        } else {
            (self.listed.saturating_sub(found)) as f64 * 100.0 / self.listed as f64
        }
    }

    /// An error that names the first missed blocks, if any.
    pub fn ensure_complete(&self, what: &str) -> Result<()> {
        if self.beyond_end {
            bail!("{what}: the list reaches beyond the device's end");
        }
        if !self.missed.is_empty() {
            let first: Vec<_> = self.missed.iter().take(8).map(|e| (e.offset, e.length)).collect();
            bail!("{what}: MISSED {} bytes, first (offset, length): {first:?}; {self}", self.missed.total());
        }
        Ok(())
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "changed {:>6} blocks, listed {:>6}, over-report {:>5.1} %, missed {}",
            self.changed.total().div_ceil(BLOCK),
            self.listed.div_ceil(BLOCK),
            self.over_report(),
            self.missed.total().div_ceil(BLOCK)
        )
    }
}
