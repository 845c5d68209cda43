//! Passphrases: argon2id, with parameters that a stored object says and we bound.

use super::{Bytes64, Secret, random};
use crate::error::{Error, Kind, Result};
use argon2::{Algorithm, Argon2, Params, Version};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// The most memory that a stored object can make us take, in KiB.
const MOST_MEMORY: u32 = 1 << 20;
/// The most passes.
const MOST_PASSES: u32 = 16;
/// The most lanes.
const MOST_LANES: u32 = 8;
/// The most of memory times passes, in KiB: some ten seconds of work.
const MOST_WORK: u64 = 4 << 20;

/// A passphrase.
pub struct Passphrase(Zeroizing<String>);

impl Passphrase {
    /// Of what somebody gave.
    ///
    /// # Errors
    /// [`Kind::Usage`] if it is empty.
    pub fn new(text: Zeroizing<String>) -> Result<Self> {
        if text.is_empty() {
            return Err(Error::new(Kind::Usage, "the passphrase is empty"));
        }
        Ok(Self(text))
    }

    /// The same words; in time that depends on them.
    pub fn same(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl std::fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Passphrase")
    }
}

/// How a passphrase becomes a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stretch {
    /// KiB of memory.
    pub memory_kib: u32,
    /// Passes over it.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
    /// 16 random bytes.
    pub salt: Bytes64,
}

impl Stretch {
    /// What this program uses: 64 MiB, 3 passes, 1 lane.
    ///
    /// # Errors
    /// If the operating system has no random bytes.
    pub fn fresh() -> Result<Self> {
        let salt = Bytes64(random::<16>()?.to_vec());
        Ok(Self { memory_kib: 64 << 10, passes: 3, lanes: 1, salt })
    }

    /// The numbers are such that working them out does not harm this machine.
    ///
    /// # Errors
    /// [`Kind::Damaged`].
    pub fn check(&self) -> Result<()> {
        let lanes = (1..=MOST_LANES).contains(&self.lanes);
        let passes = (1..=MOST_PASSES).contains(&self.passes);
        let memory = (8 * self.lanes.min(MOST_LANES)..=MOST_MEMORY).contains(&self.memory_kib);
        let work = u64::from(self.memory_kib) * u64::from(self.passes) <= MOST_WORK;
        if lanes && passes && memory && work && self.salt.0.len() == 16 {
            return Ok(());
        }
        let Self { memory_kib, passes, lanes, .. } = self;
        let what =
            format!("a key that asks for argon2 with {memory_kib} KiB, {passes} passes, {lanes} lanes");
        Err(Error::new(Kind::Damaged, format!("{what}: more than this program does")))
    }

    /// The key.
    ///
    /// # Errors
    /// [`Kind::Damaged`] for numbers out of bounds.
    pub fn key(&self, passphrase: &Passphrase) -> Result<Secret> {
        self.check()?;
        let failed = |e: argon2::Error| Error::new(Kind::Damaged, format!("argon2: {e}"));
        let params = Params::new(self.memory_kib, self.passes, self.lanes, Some(32)).map_err(failed)?;
        let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let mut key = Zeroizing::new([0; 32]);
        argon.hash_password_into(passphrase.0.as_bytes(), &self.salt.0, &mut key[..]).map_err(failed)?;
        Ok(Secret::from_bytes(*key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_would_harm_the_machine_are_refused_before_any_work() {
        let good = Stretch { memory_kib: 64, passes: 1, lanes: 1, salt: Bytes64(vec![1; 16]) };
        let words = Passphrase::new(Zeroizing::new("words".to_owned())).unwrap();
        let key = good.key(&words).unwrap();
        assert_eq!(key.bytes(), good.key(&words).unwrap().bytes());
        assert!(Stretch::fresh().unwrap().check().is_ok());
        let other = Stretch { salt: Bytes64(vec![2; 16]), ..good.clone() };
        assert_ne!(key.bytes(), other.key(&words).unwrap().bytes());
        for bad in [
            Stretch { memory_kib: u32::MAX, ..good.clone() },
            Stretch { memory_kib: 7, ..good.clone() },
            Stretch { memory_kib: 0, ..good.clone() },
            Stretch { passes: 0, ..good.clone() },
            Stretch { passes: u32::MAX, ..good.clone() },
            Stretch { memory_kib: MOST_MEMORY, passes: MOST_PASSES, ..good.clone() },
            Stretch { lanes: 0, ..good.clone() },
            Stretch { lanes: u32::MAX, ..good.clone() },
            Stretch { salt: Bytes64(vec![1; 15]), ..good.clone() },
        ] {
            assert_eq!(bad.key(&words).unwrap_err().kind(), Kind::Damaged, "{bad:?}");
        }
        assert!(Passphrase::new(Zeroizing::new(String::new())).is_err());
    }
}
