//! What a parity object says of the group of objects that it covers; every object of a group says it all.
//!
//! ```text
//!   header 64 | shard | footer: number, parity objects, shard's length and BLAKE3, the members | trailer 56
//! ```

use super::varint::Reader;
use super::{Blake3, damaged};
use crate::error::{Error, Kind, Result};
use serde::{Deserialize, Serialize};
use std::str::FromStr;

/// The most members of a group.
pub const MAX_MEMBERS: usize = 100;

/// The most parity objects of a group.
pub const MAX_PARITY: u16 = 50;

/// The length of a shard is a multiple of this.
pub const SHARD_STEP: u64 = 64;

/// No shard is longer: an index of a device of the largest size that is of any use is shorter.
const MAX_SHARD: u64 = 1 << 40;

/// The longest key: two names and a number.
const MAX_KEY: usize = 255;

/// Bytes of the footer before the members, and of a member besides its key.
const FIXED: usize = 2 + 2 + 2 + 8 + 32;
const PER_MEMBER: usize = 2 + 2 + 8 + 32;

/// An object that a group covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Covered {
    /// Its place in the code.
    pub position: u16,
    /// Its key.
    pub key: String,
    /// Its length.
    pub len: u64,
    /// Hash of its bytes.
    pub hash: Blake3,
}

/// What a parity object says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParityTable {
    /// Which of the group's parity objects it is, from 0.
    pub number: u16,
    /// How many there are.
    pub parity: u16,
    /// The share of the members that this is for.
    pub share: ParityShare,
    /// Bytes of a shard: of the longest member, rounded up.
    pub shard_len: u64,
    /// Hash of this one's shard.
    pub shard: Blake3,
    /// The objects, by position.
    pub members: Vec<Covered>,
}

impl ParityTable {
    /// The bytes.
    ///
    /// # Errors
    /// [`Kind::Bug`] if it is not such a table.
    pub fn encode(&self) -> Result<Vec<u8>> {
        self.check().map_err(|e| Error::caused(Kind::Bug, "encode what parity covers", e))?;
        let mut out = Vec::with_capacity(FIXED + self.members.len() * (PER_MEMBER + 64));
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&self.parity.to_le_bytes());
        out.extend_from_slice(&self.share.0.to_le_bytes());
        out.extend_from_slice(&self.shard_len.to_le_bytes());
        out.extend_from_slice(&self.shard.0);
        for member in &self.members {
            out.extend_from_slice(&member.position.to_le_bytes());
            out.extend_from_slice(&(member.key.len() as u16).to_le_bytes());
            out.extend_from_slice(&member.len.to_le_bytes());
            out.extend_from_slice(&member.hash.0);
            out.extend_from_slice(member.key.as_bytes());
        }
        Ok(out)
    }

    /// Reads the table of so many members.
    ///
    /// # Errors
    /// [`Kind::Damaged`].
    pub fn decode(bytes: &[u8], count: u64) -> Result<Self> {
        let count = usize::try_from(count).ok().filter(|n| *n <= MAX_MEMBERS);
        let count = count.ok_or_else(|| damaged("parity of more members than a group has"))?;
        let mut r = Reader::new(bytes);
        let (number, parity, share) = (r.u16()?, r.u16()?, r.u16()?);
        let share = ParityShare::try_from(share).map_err(|_| damaged("parity of an impossible share"))?;
        let (shard_len, shard) = (r.u64()?, Blake3(r.array()?));
        let members = (0..count).map(|_| member(&mut r)).collect::<Result<_>>()?;
        r.end()?;
        let table = Self { number, parity, share, shard_len, shard, members };
        table.check()?;
        Ok(table)
    }

    fn check(&self) -> Result<()> {
        let parity = (1..=MAX_PARITY).contains(&self.parity) && self.number < self.parity;
        let shard =
            (SHARD_STEP..=MAX_SHARD).contains(&self.shard_len) && self.shard_len.is_multiple_of(SHARD_STEP);
        let members = (1..=MAX_MEMBERS).contains(&self.members.len())
            && self.members.windows(2).all(|w| w[0].position < w[1].position)
            && self.members.iter().all(|m| {
                usize::from(m.position) < MAX_MEMBERS
                    && m.len <= self.shard_len
                    && (1..=MAX_KEY).contains(&m.key.len())
            });
        if parity && shard && members {
            return Ok(());
        }
        Err(damaged("impossible numbers in what parity covers"))
    }
}

fn member(r: &mut Reader<'_>) -> Result<Covered> {
    let (position, key) = (r.u16()?, r.u16()?);
    let (len, hash) = (r.u64()?, Blake3(r.array()?));
    let key = std::str::from_utf8(r.take(usize::from(key))?);
    let key = key.map_err(|_| damaged("a key that is not text"))?.to_owned();
    Ok(Covered { position, key, len, hash })
}

/// Which share of a group's objects may be lost: hundredths of a percent, from 1 to 5000.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct ParityShare(u16);

impl ParityShare {
    /// Parity objects of a group of so many members: the share of them, rounded up.
    pub const fn of(self, members: usize) -> u16 {
        let all = (members * self.0 as usize).div_ceil(10_000);
        if all == 0 { 1 } else { all as u16 }
    }
}

impl TryFrom<u16> for ParityShare {
    type Error = Error;
    fn try_from(share: u16) -> Result<Self> {
        if (1..=5000).contains(&share) {
            return Ok(Self(share));
        }
        Err(Error::new(Kind::Usage, format!("parity of {share} hundredths of a percent"))
            .hint("from 0.01% to 50%"))
    }
}

impl From<ParityShare> for u16 {
    fn from(share: ParityShare) -> Self {
        share.0
    }
}

impl std::fmt::Display for ParityShare {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}%", f64::from(self.0) / 100.0)
    }
}

impl FromStr for ParityShare {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            Error::new(Kind::Usage, format!("{text:?} is not a share for parity"))
                .hint("a part in percent from 0.01% to 50%, for example 2%")
        };
        let number = text.strip_suffix('%').and_then(|n| n.trim().parse::<f64>().ok());
        let hundredths = number.map(|n| (n * 100.0).round()).filter(|n| (1.0..=5000.0).contains(n));
        hundredths.ok_or_else(wrong).and_then(|n| Self::try_from(n as u16).map_err(|_| wrong()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn table() -> impl Strategy<Value = ParityTable> {
        let members =
            prop::collection::btree_map(0u16..100, ("[a-z/]{1,40}", 0u64..5000, any::<[u8; 32]>()), 1..100);
        (members, 1u16..=50, any::<u16>(), any::<[u8; 32]>()).prop_map(|(members, parity, number, shard)| {
            let members = members.into_iter().map(|(position, (key, len, hash))| Covered {
                position,
                key,
                len,
                hash: Blake3(hash),
            });
            ParityTable {
                number: number % parity,
                parity,
                share: ParityShare(1 + number % 5000),
                shard_len: 5056,
                shard: Blake3(shard),
                members: members.collect(),
            }
        })
    }

    proptest! {
        #[test]
        fn tables_survive(table in table(), flip: usize, cut: usize) {
            let bytes = table.encode().unwrap();
            let count = table.members.len() as u64;
            prop_assert_eq!(&ParityTable::decode(&bytes, count).unwrap(), &table);
            prop_assert!(ParityTable::decode(&bytes[..cut % bytes.len()], count).is_err());
            prop_assert!(ParityTable::decode(&bytes, count + 1).is_err());
            let mut bad = bytes.clone();
            bad[flip / 8 % bytes.len()] ^= 1 << (flip % 8);
            // its trailer's hash finds this; whatever is read must not panic, and be written the same
            if let Ok(read) = ParityTable::decode(&bad, count) {
                prop_assert_eq!(read.encode().unwrap(), bad);
            }
        }
    }

    #[test]
    fn a_share_is_rounded_up() {
        let two: ParityShare = "2%".parse().unwrap();
        assert_eq!([1, 50, 51, 100].map(|n| two.of(n)), [1, 1, 2, 2]);
        let half: ParityShare = "50%".parse().unwrap();
        assert_eq!([1, 2, 3, 100].map(|n| half.of(n)), [1, 1, 2, MAX_PARITY]);
        assert_eq!("0.5%".parse::<ParityShare>().unwrap().to_string(), "0.5%");
        for bad in ["", "2", "0%", "50.01%", "-1%", "x%", "nan%", "inf%", "1e9%"] {
            assert_eq!(bad.parse::<ParityShare>().unwrap_err().kind(), Kind::Usage, "{bad}");
        }
    }
}
