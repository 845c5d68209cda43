//! The size of an area: what one bit of the bitmap stands for.

use super::{BLOCK, SECTOR};
use serde::{Deserialize, Serialize};

/// Bytes per area: a power of two from 4 KiB (default) to 1 MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct Granularity(u64);

impl Granularity {
    /// The largest area.
    pub const MAX: u64 = 1 << 20;

    /// Bytes per area.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// log2 of the sectors per area: what the kernel side shifts by.
    pub const fn sector_shift(self) -> u32 {
        (self.0 / SECTOR).trailing_zeros()
    }

    /// Areas of a device of `size` bytes; the last one may be partial.
    pub const fn areas(self, size: u64) -> u64 {
        size.div_ceil(self.0)
    }

    /// 64-bit bitmap words for a device of `size` bytes; at least one.
    pub const fn words(self, size: u64) -> u64 {
        let words = self.areas(size).div_ceil(64);
        if words == 0 { 1 } else { words }
    }
}

impl Default for Granularity {
    fn default() -> Self {
        Self(BLOCK)
    }
}

impl TryFrom<u64> for Granularity {
    type Error = String;
    fn try_from(bytes: u64) -> Result<Self, String> {
        if bytes.is_power_of_two() && (BLOCK..=Self::MAX).contains(&bytes) {
            Ok(Self(bytes))
        } else {
            Err(format!("granularity {bytes} is not a power of two from 4096 to 1048576 bytes"))
        }
    }
}

impl From<Granularity> for u64 {
    fn from(g: Granularity) -> u64 {
        g.0
    }
}
