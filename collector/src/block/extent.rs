//! A run of bytes on a device.

use serde::{Deserialize, Serialize};

/// A run of bytes: `offset .. offset + length`. Never empty inside an [`super::ExtentSet`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Extent {
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub length: u64,
}

impl Extent {
    /// The extent of `length` bytes at `offset`; cut short where it would pass the end of the address space.
    pub const fn new(offset: u64, length: u64) -> Self {
        let room = u64::MAX - offset;
        let length = if length > room { room } else { length };
        Self { offset, length }
    }

    /// The extent from `start` up to and without `end`; empty if `end <= start`.
    pub const fn between(start: u64, end: u64) -> Self {
        Self { offset: start, length: end.saturating_sub(start) }
    }

    /// First byte after the extent.
    pub const fn end(&self) -> u64 {
        self.offset + self.length
    }

    /// No bytes at all.
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The bytes both have.
    pub fn intersect(&self, other: &Self) -> Option<Self> {
        let both = Self::between(self.offset.max(other.offset), self.end().min(other.end()));
        (!both.is_empty()).then_some(both)
    }

    /// The smallest extent that contains this one and whose ends lie on multiples of `unit` (or at `limit`).
    pub fn align_out(&self, unit: u64, limit: u64) -> Self {
        let start = self.offset / unit * unit;
        let end = self.end().div_ceil(unit).saturating_mul(unit).min(limit);
        Self::between(start, end)
    }
}
