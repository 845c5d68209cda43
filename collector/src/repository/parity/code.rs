//! The code itself: Reed-Solomon over the field of 65536 elements, a strip of all shards at a time.
//!
//! Must stay true: the parity of some shards is the sum of what each of them gives alone at its position, whatever lies at the
//! others. So a member that comes or goes changes parity without a look at the rest. (docs/FORMAT.md has the formula;
//! the test below computes it the slow way.)

use crate::error::{Error, Kind, Result};
use crate::format::MAX_MEMBERS;
use reed_solomon_simd::engine::DefaultEngine;
use reed_solomon_simd::rate::{HighRateDecoder, HighRateEncoder, RateDecoder, RateEncoder};

/// Bytes of each shard that are worked on at a time.
pub(super) const STRIP: usize = 128 << 10;

/// Gives parity.
pub(super) struct Encoder {
    inner: HighRateEncoder<DefaultEngine>,
    parity: usize,
    zeros: Vec<u8>,
}

fn failed(error: reed_solomon_simd::Error) -> Error {
    Error::caused(Kind::Bug, "parity", error)
}

impl Encoder {
    /// Of so many parity shards.
    pub fn new(parity: u16) -> Result<Self> {
        let parity = usize::from(parity);
        let inner = HighRateEncoder::new(MAX_MEMBERS, parity, 64, DefaultEngine::new(), None);
        Ok(Self { inner: inner.map_err(failed)?, parity, zeros: vec![0; STRIP] })
    }

    /// The parity of a strip of `len` bytes; `shards` are (position, bytes), by position. Each is handed to `give`.
    pub fn strip(
        &mut self,
        len: usize,
        shards: &[(u16, Vec<u8>)],
        give: &mut dyn FnMut(usize, &[u8]) -> Result<()>,
    ) -> Result<()> {
        // what lies after the last one is zero
        let positions = shards.last().map_or(1, |(position, _)| usize::from(*position) + 1);
        self.inner.reset(positions, self.parity, len).map_err(failed)?;
        let mut next = shards.iter().peekable();
        for position in 0..positions {
            let shard = next.next_if(|(at, _)| usize::from(*at) == position);
            let bytes = shard.map_or(&self.zeros, |(_, bytes)| bytes).get(..len);
            let bytes = bytes.ok_or_else(|| Error::new(Kind::Bug, "parity: a strip of another length"))?;
            self.inner.add_original_shard(bytes).map_err(failed)?;
        }
        let result = self.inner.encode().map_err(failed)?;
        result.recovery_iter().enumerate().try_for_each(|(number, bytes)| give(number, bytes))
    }
}

/// Gives lost shards back.
pub(super) struct Decoder {
    inner: HighRateDecoder<DefaultEngine>,
    parity: usize,
    lost: Vec<u16>,
    zeros: Vec<u8>,
}

impl Decoder {
    /// Of a group with so many parity shards, of which the members at `lost` are to be found.
    pub fn new(parity: u16, lost: Vec<u16>) -> Result<Self> {
        let parity = usize::from(parity);
        let inner = HighRateDecoder::new(MAX_MEMBERS, parity, 64, DefaultEngine::new(), None);
        Ok(Self { inner: inner.map_err(failed)?, parity, lost, zeros: vec![0; STRIP] })
    }

    /// The lost shards' bytes of a strip of `len`, from those of all others and of as many parity shards.
    pub fn strip(
        &mut self,
        len: usize,
        shards: &[(u16, Vec<u8>)],
        parity: &[(u16, Vec<u8>)],
        give: &mut dyn FnMut(usize, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let last = shards.iter().map(|s| s.0).chain(self.lost.iter().copied()).max().unwrap_or(0);
        let positions = usize::from(last) + 1;
        self.inner.reset(positions, self.parity, len).map_err(failed)?;
        let short = || Error::new(Kind::Bug, "parity: a strip of another length");
        let mut next = shards.iter().peekable();
        for position in 0..positions {
            let shard = next.next_if(|(at, _)| usize::from(*at) == position);
            if shard.is_none() && self.lost.iter().any(|lost| usize::from(*lost) == position) {
                continue;
            }
            let bytes = shard.map_or(&self.zeros, |(_, bytes)| bytes).get(..len).ok_or_else(short)?;
            self.inner.add_original_shard(position, bytes).map_err(failed)?;
        }
        for (number, bytes) in parity {
            let bytes = bytes.get(..len).ok_or_else(short)?;
            self.inner.add_recovery_shard(usize::from(*number), bytes).map_err(failed)?;
        }
        let result = self.inner.decode().map_err(failed)?;
        for (n, position) in self.lost.iter().enumerate() {
            let bytes = result.restored_original(usize::from(*position));
            give(n, bytes.ok_or_else(|| Error::new(Kind::Bug, "parity: a lost shard was not found"))?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// docs/FORMAT.md, to the letter: numbers stand for elements through this basis.
    const BASIS: [u16; 16] = [
        0x0001, 0xACCA, 0x3C0E, 0x163E, 0xC582, 0xED2E, 0x914C, 0x4012, 0x6C98, 0x10D8, 0x6A72, 0xB900,
        0xFDB8, 0xFB34, 0xFF38, 0x991E,
    ];

    fn element(number: u16) -> u16 {
        (0..16).filter(|bit| number >> bit & 1 == 1).fold(0, |sum, bit| sum ^ BASIS[bit])
    }

    fn number(wanted: u16) -> u16 {
        (0..=u16::MAX).find(|n| element(*n) == wanted).unwrap()
    }

    /// Polynomials modulo x^16 + x^5 + x^3 + x^2 + 1.
    fn times(a: u16, b: u16) -> u16 {
        let mut product = 0u32;
        for bit in (0..16).rev() {
            product <<= 1;
            if product & 0x10000 != 0 {
                product ^= 0x1002D;
            }
            if b >> bit & 1 == 1 {
                product ^= u32::from(a);
            }
        }
        product as u16
    }

    fn inverse(a: u16) -> u16 {
        // a^(2^16 - 2)
        (0..15).fold((1, times(a, a)), |(all, power), _| (times(all, power), times(power, power))).0
    }

    /// The factor of the shard at `position` in parity shard `i` of `parity`.
    fn factor(position: u16, i: u16, parity: u16) -> u16 {
        let m = parity.next_power_of_two();
        let (at, here) = (element(m + position), element(i));
        let chunk = position / m * m;
        let others = (chunk..chunk + m).filter(|q| *q != position).map(|q| element(m + q));
        others.fold(1, |all, other| times(all, times(here ^ other, inverse(at ^ other))))
    }

    fn symbol(shard: &[u8], n: usize) -> u16 {
        let (block, inner) = (n / 32 * 64, n % 32);
        u16::from(shard[block + inner]) | u16::from(shard[block + 32 + inner]) << 8
    }

    fn encode(parity: u16, len: usize, shards: &[(u16, Vec<u8>)]) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        let mut encoder = Encoder::new(parity).unwrap();
        let mut give = |_: usize, bytes: &[u8]| {
            found.push(bytes.to_vec());
            Ok(())
        };
        encoder.strip(len, shards, &mut give).unwrap();
        found
    }

    #[test]
    fn parity_is_what_the_format_page_says() {
        for (parity, positions) in
            [(1, &[0u16, 1, 7, 99][..]), (2, &[0, 3, 4]), (3, &[1, 2, 5, 6, 98]), (7, &[9, 50])]
        {
            let shard =
                |p: u16| (0..64u32).map(|i| (i * 37 + u32::from(p) * 11 + 1) as u8).collect::<Vec<u8>>();
            let shards: Vec<(u16, Vec<u8>)> = positions.iter().map(|p| (*p, shard(*p))).collect();
            for (i, found) in encode(parity, 64, &shards).iter().enumerate() {
                let sum = shards.iter().fold(0, |sum, (p, bytes)| {
                    sum ^ times(factor(*p, i as u16, parity), element(symbol(bytes, 5)))
                });
                assert_eq!(symbol(found, 5), number(sum), "{parity} {positions:?} {i}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn what_is_lost_is_found_and_each_shard_counts_alone(
            parity in 1u16..20, count in 1usize..60, holes: u64, lost in prop::collection::btree_set(0usize..60, 0..20),
            away: u64, seed: u8,
        ) {
            let shards: Vec<(u16, Vec<u8>)> = (0..count as u16)
                .filter(|p| holes >> (p % 64) & 1 == 0 || *p == 0)
                .map(|p| (p, (0..128u32).map(|i| (i * i * 7 + u32::from(p) * 31 + u32::from(seed)) as u8).collect()))
                .collect();
            let whole = encode(parity, 128, &shards);
            let mut sum = vec![vec![0u8; 128]; usize::from(parity)];
            for shard in &shards {
                for (sum, one) in sum.iter_mut().zip(encode(parity, 128, std::slice::from_ref(shard))) {
                    sum.iter_mut().zip(one).for_each(|(a, b)| *a ^= b);
                }
            }
            prop_assert_eq!(&sum, &whole);
            // any parity shards but those that are away
            let there: Vec<(u16, Vec<u8>)> = (0..parity).filter(|n| away >> (n % 64) & 1 == 0)
                .map(|n| (n, whole[usize::from(n)].clone())).collect();
            let lost: Vec<u16> = lost.into_iter().filter_map(|n| shards.get(n)).map(|s| s.0).take(there.len()).collect();
            if lost.is_empty() {
                return Ok(());
            }
            let left: Vec<_> = shards.iter().filter(|s| !lost.contains(&s.0)).cloned().collect();
            let mut found = Vec::new();
            let mut give = |n: usize, bytes: &[u8]| { found.push((lost[n], bytes.to_vec())); Ok(()) };
            Decoder::new(parity, lost.clone()).unwrap().strip(128, &left, &there, &mut give).unwrap();
            let wanted: Vec<_> = shards.iter().filter(|s| lost.contains(&s.0)).cloned().collect();
            prop_assert_eq!(found, wanted);
        }
    }
}
