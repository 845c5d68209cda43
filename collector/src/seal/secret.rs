//! 32 secret bytes, what is derived from them, and random ones.

use crate::error::{Error, Kind, Result};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// 32 secret bytes.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret([u8; 32]);

/// Random bytes of the operating system.
///
/// # Errors
/// If it has none.
pub fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    let filled = SystemRandom::new().fill(&mut bytes);
    filled.map_err(|_| Error::new(Kind::Io, "the operating system gave no random bytes"))?;
    Ok(bytes)
}

impl Secret {
    /// A new one.
    ///
    /// # Errors
    /// As [`random`].
    pub fn generate() -> Result<Self> {
        random().map(Self)
    }

    /// Of bytes that are secret.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Another secret for the purpose `word` and `parts`: HMAC-SHA256 over `blkdelta 1`, the word, and the parts,
    /// each with its length before it.
    #[must_use]
    pub fn derive(&self, word: &str, parts: &[&[u8]]) -> Self {
        Self(tag_bytes(&self.context(word, parts).sign()))
    }

    /// As [`derive`](Self::derive), to be shown to others: proves that its maker knew the secret.
    pub fn vouch(&self, word: &str, parts: &[&[u8]]) -> [u8; 32] {
        tag_bytes(&self.context(word, parts).sign())
    }

    /// `proof` is what [`vouch`](Self::vouch) gives; compared in constant time.
    pub fn vouched(&self, word: &str, parts: &[&[u8]], proof: &[u8]) -> bool {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.0);
        hmac::verify(&key, &message(word, parts), proof).is_ok()
    }

    fn context(&self, word: &str, parts: &[&[u8]]) -> hmac::Context {
        let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &self.0));
        context.update(&message(word, parts));
        context
    }
}

/// Wiped: a part may be secret.
fn message(word: &str, parts: &[&[u8]]) -> Zeroizing<Vec<u8>> {
    let all = [&[word.as_bytes()], parts].concat();
    // at once as long as it gets: growing would leave copies behind
    let mut bytes =
        Zeroizing::new(Vec::with_capacity(10 + all.iter().map(|part| 8 + part.len()).sum::<usize>()));
    bytes.extend_from_slice(b"blkdelta 1");
    for part in all {
        bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
        bytes.extend_from_slice(part);
    }
    bytes
}

fn tag_bytes(tag: &hmac::Tag) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(tag.as_ref());
    bytes
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}
impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let mut bytes = Bytes64::deserialize(d)?.0;
        let secret = <[u8; 32]>::try_from(&bytes[..]).map(Self);
        bytes.zeroize();
        secret.map_err(|_| D::Error::custom("not 32 bytes"))
    }
}

/// Bytes that stand in JSON as base64 (URL alphabet, no padding).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bytes64(pub Vec<u8>);

impl Bytes64 {
    /// Of text.
    ///
    /// # Errors
    /// [`Kind::Damaged`] if it is not base64.
    pub fn parse(text: &str) -> Result<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text);
        bytes.map(Self).map_err(|e| Error::caused(Kind::Damaged, "read base64", e.to_string()))
    }
}
impl std::fmt::Display for Bytes64 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(&self.0))
    }
}
impl Serialize for Bytes64 {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}
impl<'de> Deserialize<'de> for Bytes64 {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(d)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_derived_depends_on_every_part() {
        let secret = Secret::from_bytes([7; 32]);
        let base = *secret.derive("a", &[b"bc", b"d"]).bytes();
        for (word, parts) in [("b", [&b"bc"[..], b"d"]), ("a", [b"b", b"cd"]), ("ab", [b"c", b"d"])] {
            assert_ne!(*secret.derive(word, &parts).bytes(), base);
        }
        assert_ne!(*Secret::from_bytes([8; 32]).derive("a", &[b"bc", b"d"]).bytes(), base);
        let proof = secret.vouch("a", &[b"x"]);
        assert!(secret.vouched("a", &[b"x"], &proof) && !secret.vouched("a", &[b"y"], &proof));
        assert!(!secret.vouched("a", &[b"x"], &proof[..31]));
        assert_eq!(format!("{secret:?}"), "Secret");
    }
}
