//! The size of an area: what one bit of the bitmap stands for.

use super::{BLOCK, SECTOR};
use serde::{Deserialize, Serialize};

/// What a bitmap may have, in bytes, where nobody says how large areas are.
const BITMAP: u64 = 128 << 20;

/// Bytes per area: a power of two from 4 KiB to 1 MiB; [`for_device`](Self::for_device) where nobody says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct Granularity(u64);

impl Granularity {
    /// The largest area.
    pub const MAX: u64 = 1 << 20;

    /// The smallest area with which a bitmap of a device of `size` bytes has at most 128 MiB: 4 KiB up to 4 TiB, 16 KiB at
    /// 16 TiB, 128 KiB at 100 TiB. A backup needs three bitmaps at once for a moment, and making one takes time by its size.
    pub const fn for_device(size: u64) -> Self {
        let mut bytes = BLOCK;
        while bytes < Self::MAX && Self(bytes).words(size) * 8 > BITMAP {
            bytes *= 2;
        }
        Self(bytes)
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn areas_grow_with_the_device_and_the_bitmap_does_not() {
        const TIB: u64 = 1 << 40;
        let of = |size| Granularity::for_device(size).bytes();
        assert_eq!([of(0), of(1), of(4 * TIB)], [4 << 10; 3]);
        assert_eq!([of(4 * TIB + 1), of(8 * TIB)], [8 << 10; 2]);
        assert_eq!([of(16 * TIB), of(100 * TIB)], [16 << 10, 128 << 10]);
        assert_eq!(of(u64::MAX), Granularity::MAX);
        for size in (0..1000).map(|n| n * TIB) {
            assert!(Granularity::for_device(size).words(size) * 8 <= BITMAP, "{size}");
        }
    }
}
