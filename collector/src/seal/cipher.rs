//! AES-256-GCM with nonces that the caller never repeats.

use super::{Secret, forged};
use crate::error::{Error, Kind, Result};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

/// Bytes of a tag.
pub const TAG: usize = 16;

/// A key ready for use.
pub(crate) struct Cipher(LessSafeKey);

impl Cipher {
    pub fn new(key: &Secret) -> Result<Self> {
        let key = UnboundKey::new(&AES_256_GCM, key.bytes());
        Ok(Self(LessSafeKey::new(key.map_err(|_| Error::new(Kind::Bug, "set up AES-256-GCM"))?)))
    }

    /// Seals the bytes from `from` on where they lie, and appends the tag. A nonce must never be used twice.
    pub fn seal(&self, nonce: [u8; 12], aad: &[u8], bytes: &mut Vec<u8>, from: usize) -> Result<()> {
        let plain = bytes.get_mut(from..).unwrap_or_default();
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = self.0.seal_in_place_separate_tag(nonce, Aad::from(aad), plain);
        let tag = tag.map_err(|_| Error::new(Kind::Bug, "seal: too many bytes"))?;
        bytes.extend_from_slice(tag.as_ref());
        Ok(())
    }

    /// Opens bytes and their tag where they lie; what was sealed is the beginning of them.
    pub fn open<'a>(&self, nonce: [u8; 12], aad: &[u8], bytes: &'a mut [u8]) -> Result<&'a mut [u8]> {
        let opened = self.0.open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(aad), bytes);
        opened.map_err(|_| {
            forged("it was not sealed with this repository's keys for this place, or was changed")
        })
    }
}

/// The last 8 of a nonce's bytes, for a key that is used with its other bytes alone.
pub(super) fn short_nonce(last: [u8; 8]) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&last);
    nonce
}
