//! Sealed metadata: whole bodies, footers and chunks of indexes, each for its one place in the repository.
//!
//! ```text
//!   generation 4 | nonce 24 | ciphertext | tag 16        key: HMAC of the generation's M and the nonce's first 16
//! ```

use super::cipher::short_nonce;
use super::{Cipher, Secret, TAG, forged, random};
use crate::error::{Error, Kind, Result};

/// Bytes that sealing adds.
pub const METADATA_OVERHEAD: usize = 4 + 24 + TAG;

/// The metadata keys of a repository, of all generations so far.
#[derive(Clone, Debug)]
pub struct MetaKeys {
    repository: [u8; 16],
    keys: Vec<Secret>,
}

/// The object that sealed bytes belong to.
#[derive(Clone, Copy, Debug)]
pub struct Cover<'a> {
    keys: &'a MetaKeys,
    object: &'a str,
}

/// The part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The body of a JSON object.
    Body,
    /// The footer of a binary object.
    Footer,
    /// A chunk of an index.
    Chunk(u64),
}

impl MetaKeys {
    /// Of the keys of all generations, the first first; there must be one.
    ///
    /// # Errors
    /// [`Kind::Bug`] for none.
    pub fn new(repository: [u8; 16], keys: Vec<Secret>) -> Result<Self> {
        if keys.is_empty() {
            return Err(Error::new(Kind::Bug, "a repository without a metadata key"));
        }
        Ok(Self { repository, keys })
    }

    /// Their number; what is sealed now is sealed with the last.
    pub const fn generation(&self) -> u32 {
        self.keys.len() as u32
    }

    /// The key of a generation, counted from 1.
    pub(super) fn key(&self, generation: u32) -> Result<&Secret> {
        let place = (generation as usize).checked_sub(1);
        place.and_then(|n| self.keys.get(n)).ok_or_else(|| {
            forged(format!("sealed with keys of generation {generation}, known are {}", self.keys.len()))
        })
    }

    /// As they were when there were so many generations.
    ///
    /// # Errors
    /// [`Kind::Bug`] for none.
    pub fn as_of(&self, generation: u32) -> Result<Self> {
        Self::new(self.repository, self.keys.iter().take(generation as usize).cloned().collect())
    }

    /// All of them.
    pub fn all(&self) -> &[Secret] {
        &self.keys
    }

    /// For the object of this name.
    pub const fn cover<'a>(&'a self, object: &'a str) -> Cover<'a> {
        Cover { keys: self, object }
    }

    /// The same name always gives the same; without the keys it tells nothing.
    pub fn alias(&self, name: &str) -> [u8; 32] {
        // the first generation's, so that it stays the same for ever
        self.keys.first().map_or([0; 32], |key| key.vouch("alias", &[&self.repository, name.as_bytes()]))
    }

    fn aad(&self, generation: u32, object: &str, part: Part) -> Vec<u8> {
        let (word, number) = match part {
            Part::Body => (0u8, 0),
            Part::Footer => (1, 0),
            Part::Chunk(number) => (2, number),
        };
        let mut aad = self.repository.to_vec();
        aad.extend_from_slice(&generation.to_le_bytes());
        aad.push(word);
        aad.extend_from_slice(&number.to_le_bytes());
        aad.extend_from_slice(object.as_bytes());
        aad
    }

    fn cipher(&self, generation: u32, nonce: &[u8; 24]) -> Result<(Cipher, [u8; 12])> {
        let (first, last) = nonce.split_at(16);
        let cipher = Cipher::new(&self.key(generation)?.derive("metadata", &[first]))?;
        let mut short = [0; 8];
        short.copy_from_slice(last);
        Ok((cipher, short_nonce(short)))
    }
}

impl Cover<'_> {
    /// Random for a body. For parts of an index it follows from what is sealed and its place, so that an index that is
    /// built again is the same to the byte; two texts that differ never get the same one.
    fn nonce(&self, generation: u32, part: Part, plain: &[u8]) -> Result<[u8; 24]> {
        if part == Part::Body {
            return random();
        }
        let place = self.keys.aad(generation, self.object, part);
        let proof = self.keys.key(generation)?.vouch("nonce", &[&place, plain]);
        let mut nonce = [0; 24];
        nonce.copy_from_slice(&proof[..24]);
        Ok(nonce)
    }

    /// Seals `plain` as `part` of the object.
    ///
    /// # Errors
    /// If there are no random bytes.
    pub fn seal(&self, part: Part, plain: &[u8]) -> Result<Vec<u8>> {
        let generation = self.keys.generation();
        let nonce = self.nonce(generation, part, plain)?;
        let (cipher, short) = self.keys.cipher(generation, &nonce)?;
        let mut bytes = Vec::with_capacity(plain.len() + METADATA_OVERHEAD);
        bytes.extend_from_slice(&generation.to_le_bytes());
        bytes.extend_from_slice(&nonce);
        bytes.extend_from_slice(plain);
        cipher.seal(short, &self.keys.aad(generation, self.object, part), &mut bytes, 28)?;
        Ok(bytes)
    }

    /// What was sealed as `part` of the object.
    ///
    /// # Errors
    /// [`Kind::Damaged`].
    pub fn open(&self, part: Part, sealed: &[u8]) -> Result<Vec<u8>> {
        let short = || forged("sealed bytes are cut short");
        let (generation, rest) = sealed.split_first_chunk::<4>().ok_or_else(short)?;
        let (nonce, text) = rest.split_first_chunk::<24>().ok_or_else(short)?;
        let generation = u32::from_le_bytes(*generation);
        let (cipher, short) = self.keys.cipher(generation, nonce)?;
        let mut bytes = text.to_vec();
        let plain = cipher.open(short, &self.keys.aad(generation, self.object, part), &mut bytes)?.len();
        bytes.truncate(plain);
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(n: usize) -> MetaKeys {
        MetaKeys::new([3; 16], (0..n as u8).map(|i| Secret::from_bytes([i; 32])).collect()).unwrap()
    }

    #[test]
    fn sealed_bytes_open_in_their_place_alone() {
        let (one, two) = (keys(1), keys(2));
        let sealed = one.cover("bak/a/1").seal(Part::Body, b"body").unwrap();
        assert_eq!(sealed.len(), 4 + METADATA_OVERHEAD);
        assert_eq!(two.cover("bak/a/1").open(Part::Body, &sealed).unwrap(), b"body");
        assert!(two.cover("bak/a/2").open(Part::Body, &sealed).is_err());
        assert!(two.cover("bak/a/1").open(Part::Footer, &sealed).is_err());
        let other = MetaKeys::new([4; 16], one.keys.clone()).unwrap();
        assert!(other.cover("bak/a/1").open(Part::Body, &sealed).is_err());
        let newer = two.cover("idx/a/1").seal(Part::Chunk(7), &[]).unwrap();
        assert!(one.cover("idx/a/1").open(Part::Chunk(7), &newer).is_err());
        assert_eq!(two.cover("idx/a/1").open(Part::Chunk(7), &newer).unwrap(), b"");
        assert!(two.cover("idx/a/1").open(Part::Chunk(8), &newer).is_err());
        for bit in 0..sealed.len() * 8 {
            let mut bad = sealed.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(two.cover("bak/a/1").open(Part::Body, &bad).is_err(), "bit {bit}");
            assert!(two.cover("bak/a/1").open(Part::Body, &sealed[..bit / 8]).is_err());
        }
        assert_ne!(sealed, one.cover("bak/a/1").seal(Part::Body, b"body").unwrap());
        let chunk = |number, text: &[u8]| one.cover("idx/a/1").seal(Part::Chunk(number), text).unwrap();
        assert_eq!(chunk(1, b"pieces"), chunk(1, b"pieces"));
        for other in [chunk(2, b"pieces"), chunk(1, b"piecex")] {
            assert_ne!(other[4..28], chunk(1, b"pieces")[4..28], "no nonce twice");
        }
        assert_eq!(one.alias("sda"), two.alias("sda"));
        assert_ne!(one.alias("sda"), one.alias("sdb"));
    }
}
