//! Key pairs: whoever has the public half can seal a secret that only the private half opens.
//!
//! HPKE (RFC 9180), base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM. It hides a secret from all
//! others; it does not say who sealed it: callers prove that by other means.

use super::{Bytes64, Secret, forged};
use crate::error::{Error, Kind, Result};
use hpke::aead::AesGcm256;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256 as Kem;
use hpke::{Deserializable, Kem as _, OpModeR, OpModeS, Serializable, single_shot_open, single_shot_seal};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Bytes of a sealed secret: the encapsulated key, the secret, the tag.
pub const SEALED: usize = 32 + 32 + 16;

const PREFIX: &str = "blkdelta-public-";

/// The half that everybody may know.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey([u8; 32]);

/// The half that opens.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PrivateKey(Secret);

impl PublicKey {
    /// The bytes.
    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Of bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Seals `secret` for the purpose `info`.
    ///
    /// # Errors
    /// [`Kind::Damaged`] for a key to which nothing can be sealed.
    pub fn seal(&self, info: &[u8], secret: &Secret) -> Result<[u8; SEALED]> {
        let useless = |_| Error::new(Kind::Damaged, format!("seal to {self}: not a usable key"));
        let key = <Kem as hpke::Kem>::PublicKey::from_bytes(&self.0).map_err(useless)?;
        let mode = OpModeS::Base;
        let sealed = single_shot_seal::<AesGcm256, HkdfSha256, Kem>(&mode, &key, info, secret.bytes(), &[]);
        let (encapsulated, text) = sealed.map_err(useless)?;
        let mut bytes = [0; SEALED];
        let (first, last) = bytes.split_at_mut(32);
        first.copy_from_slice(&encapsulated.to_bytes());
        if text.len() != last.len() {
            return Err(Error::new(Kind::Bug, "a sealed secret has another length"));
        }
        last.copy_from_slice(&text);
        Ok(bytes)
    }

    /// Four bytes that tell a slip of the pen from a key.
    fn check(&self) -> [u8; 4] {
        let hash = blake3::hash(&self.0);
        [0, 1, 2, 3].map(|i| hash.as_bytes()[i])
    }
}

impl PrivateKey {
    /// A new one.
    ///
    /// # Errors
    /// If the operating system has no random bytes.
    pub fn generate() -> Result<Self> {
        Secret::generate().map(Self)
    }

    /// Of secret bytes.
    pub const fn from_secret(secret: Secret) -> Self {
        Self(secret)
    }

    /// The secret bytes.
    pub const fn secret(&self) -> &Secret {
        &self.0
    }

    fn key(&self) -> Result<<Kem as hpke::Kem>::PrivateKey> {
        let key = <Kem as hpke::Kem>::PrivateKey::from_bytes(self.0.bytes());
        key.map_err(|_| Error::new(Kind::Bug, "set up X25519"))
    }

    /// The other half.
    ///
    /// # Errors
    /// None that is known.
    pub fn public(&self) -> Result<PublicKey> {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(&Kem::sk_to_pk(&self.key()?).to_bytes());
        Ok(PublicKey(bytes))
    }

    /// Opens what was sealed to the other half for the purpose `info`.
    ///
    /// # Errors
    /// [`Kind::Damaged`].
    pub fn open(&self, info: &[u8], sealed: &[u8]) -> Result<Secret> {
        let changed = || forged("a sealed key was not sealed to this key, or was changed");
        let (first, last) = sealed.split_at_checked(32).ok_or_else(changed)?;
        let encapsulated = <Kem as hpke::Kem>::EncappedKey::from_bytes(first).map_err(|_| changed())?;
        let mode = OpModeR::Base;
        let opened = single_shot_open::<AesGcm256, HkdfSha256, Kem>(
            &mode,
            &self.key()?,
            &encapsulated,
            info,
            last,
            &[],
        );
        let opened = zeroize::Zeroizing::new(opened.map_err(|_| changed())?);
        <[u8; 32]>::try_from(&opened[..]).map(Secret::from_bytes).map_err(|_| changed())
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = [&self.0[..], &self.check()].concat();
        write!(f, "{PREFIX}{}", Bytes64(bytes))
    }
}
impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}
impl FromStr for PublicKey {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let bytes = text.trim().strip_prefix(PREFIX).and_then(|t| Bytes64::parse(t).ok());
        let key = bytes.and_then(|b| Some((Self(*b.0.first_chunk()?), b.0)));
        let key = key.filter(|(key, bytes)| bytes[32..] == key.check()).map(|(key, _)| key);
        key.ok_or_else(|| {
            let shown: String = text.chars().take(70).collect();
            Error::new(Kind::Usage, format!("{shown:?} is not a public key"))
                .hint(format!("{PREFIX}… as `blkdelta key generate` prints it"))
        })
    }
}
impl TryFrom<String> for PublicKey {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}
impl From<PublicKey> for String {
    fn from(key: PublicKey) -> Self {
        key.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_other_half_opens_and_only_for_the_purpose() {
        let (mine, other) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
        let secret = Secret::generate().unwrap();
        let sealed = mine.public().unwrap().seal(b"this", &secret).unwrap();
        assert_eq!(mine.open(b"this", &sealed).unwrap().bytes(), secret.bytes());
        assert_eq!(mine.open(b"that", &sealed).unwrap_err().kind(), Kind::Damaged);
        assert_eq!(other.open(b"this", &sealed).unwrap_err().kind(), Kind::Damaged);
        for bit in 0..SEALED * 8 {
            let mut bad = sealed;
            bad[bit / 8] ^= 1 << (bit % 8);
            // the top bit of a u-coordinate does not count (RFC 7748)
            assert!(bit == 255 || mine.open(b"this", &bad).is_err(), "bit {bit}");
        }
        assert!(mine.open(b"this", &sealed[..40]).is_err() && mine.open(b"this", &[]).is_err());
        assert!(PublicKey([0; 32]).seal(b"this", &secret).is_err());
    }

    #[test]
    fn a_slip_of_the_pen_is_no_key() {
        let key = PrivateKey::generate().unwrap().public().unwrap();
        let text = key.to_string();
        assert_eq!(text.parse::<PublicKey>().unwrap(), key);
        for i in PREFIX.len()..text.len() {
            let mut bad = text.clone().into_bytes();
            bad[i] = if bad[i] == b'A' { b'B' } else { b'A' };
            assert!(String::from_utf8(bad).unwrap().parse::<PublicKey>().is_err(), "{i}");
            assert!(text[..i].parse::<PublicKey>().is_err());
        }
    }
}
