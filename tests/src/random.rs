//! Random choices that follow from one seed, printed so that a failed run can be repeated.

use std::time::{SystemTime, UNIX_EPOCH};

/// Splitmix64: small, seedable, good enough to choose offsets and fill buffers.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The stream of `seed`.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A new stream for `test`: seeded by `BLKDELTA_TEST_SEED` or the clock, and printed.
    pub fn for_test(test: &str) -> Self {
        let given = std::env::var("BLKDELTA_TEST_SEED").ok().and_then(|s| s.parse().ok());
        let seed = given.unwrap_or_else(|| {
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |d| d.as_nanos() as u64)
        });
        crate::host::say(&format!("{test}: seed {seed} (repeat with BLKDELTA_TEST_SEED={seed})"));
        Self(seed)
    }

    /// The seed of what is still to come.
    pub const fn seed(&self) -> u64 {
        self.0
    }

    /// An independent stream, for a thread.
    pub fn fork(&mut self) -> Self {
        Self(self.any())
    }

    /// Any 64 bits.
    pub const fn any(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`; 0 if there is none.
    pub const fn below(&mut self, limit: u64) -> u64 {
        if limit == 0 { 0 } else { self.any() % limit }
    }

    /// A number in `low ..= high`.
    pub const fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// Overwrites `bytes` with the stream.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let word = self.any().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }

    /// `length` random bytes.
    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.fill(&mut bytes);
        bytes
    }
}
