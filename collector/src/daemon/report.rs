//! What one run of a job says about itself: `blkdelta run --json` prints it, the daemon keeps it.

use crate::block::{Extent, ExtentSet, heat};
use serde::{Deserialize, Serialize};

/// Parts of a device in the picture of what changed.
pub const STRIPES: u64 = 96;

/// One run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// Of which job.
    pub job: String,
    /// `ok`, `suspect` or `failed`.
    pub result: String,
    /// Unix milliseconds.
    pub began: u64,
    /// Unix milliseconds.
    pub ended: u64,
    /// What was backed up, as its path was.
    pub device: String,
    /// The device's name in the repository.
    pub device_id: String,
    /// The new point.
    pub point: Option<String>,
    /// `full` or `incremental`.
    pub kind: String,
    /// Why it is a full one.
    pub why_full: Option<String>,
    /// Size of the device.
    pub size: u64,
    /// Bytes on the list.
    pub changed_bytes: u64,
    /// Bytes that were read and went into the point.
    pub copied_bytes: u64,
    /// Bytes in the repository.
    pub stored_bytes: u64,
    /// Milliseconds that file systems stood still.
    pub freeze_ms: Option<u64>,
    /// What the point is.
    pub consistency: String,
    /// Why it is suspect.
    pub suspect: Vec<String>,
    /// What a person should know.
    pub notes: Vec<String>,
    /// Milliseconds for which the backup held back, for the applications' sake.
    pub yielded_ms: u64,
    /// Points that were dropped.
    pub pruned: u64,
    /// Changed bytes in each of `STRIPES` parts of the device.
    pub stripes: Vec<u64>,
    /// Why it failed.
    pub error: Option<String>,
}

/// How much of each of `STRIPES` equal parts of `size` bytes is in `changed`.
pub fn stripes(changed: &ExtentSet, size: u64) -> Vec<u64> {
    heat::parts(changed.iter().map(|e| (*e, e.length)), Extent::new(0, size), STRIPES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stripes_hold_every_changed_byte_once() {
        let size = 96_000 + 5;
        let set = ExtentSet::from_unsorted(vec![
            Extent::new(0, 10),
            Extent::new(500, 3000),
            Extent::new(95_000, 1005),
        ]);
        let found = stripes(&set, size);
        assert_eq!(found.len(), STRIPES as usize);
        assert_eq!(found.iter().sum::<u64>(), 10 + 3000 + 1005);
        assert_eq!(found[0], 10 + 501);
        assert!(stripes(&set, 0).iter().all(|n| *n == 0));
    }
}
