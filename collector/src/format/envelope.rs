//! The JSON objects' outside: a check over every byte, then magic, version, flags, then the body.
//!
//! `{"check":"<64 hex>","magic":"...","version":1,"incompatible":0,"compatible":0,"crypto":0,"body":{...}}` and a
//! newline. The check is the BLAKE3 of the whole file with those 64 digits replaced by `0`. In an encrypted repository
//! `crypto` is 1 and the body is base64 of the sealed JSON; only `repo.json` and the key ring stay readable.

use super::header::refuse_newer;
use super::{Blake3, VERSION, damaged};
use crate::error::{Error, Kind, Result};
use crate::seal::{Bytes64, Cover, Part};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Crypto mode: not encrypted.
pub const CRYPTO_NONE: u8 = 0;

/// Crypto mode: of an encrypted repository (AES-256-GCM).
pub const CRYPTO_SEALED: u8 = 1;

/// What a JSON object's body is.
#[derive(Clone, Copy)]
pub(super) enum Body<'a> {
    /// Readable, in a repository that is not encrypted.
    Plain,
    /// Readable, in one that is.
    Open,
    /// Sealed.
    Sealed(Cover<'a>),
}

impl<'a> Body<'a> {
    pub fn of(cover: Option<Cover<'a>>) -> Self {
        cover.map_or(Self::Plain, Self::Sealed)
    }

    const fn crypto(self) -> u8 {
        if matches!(self, Self::Plain) { CRYPTO_NONE } else { CRYPTO_SEALED }
    }
}

/// The longest JSON object that is read.
pub const MAX_ENVELOPE: usize = 4 << 20;

const OPEN: &[u8] = b"{\"check\":\"";
const DIGITS: usize = 64;

#[derive(Serialize)]
struct Outside<'a, T> {
    check: &'a str,
    magic: &'a str,
    version: u16,
    incompatible: u64,
    compatible: u64,
    crypto: u8,
    body: &'a T,
}

#[derive(Deserialize)]
struct Read<T> {
    magic: String,
    version: u64,
    incompatible: u64,
    #[serde(rename = "compatible")]
    _compatible: u64,
    crypto: u64,
    body: T,
}

/// Encodes `body` under `magic`.
pub(super) fn seal<T: Serialize>(magic: &str, body: &T, how: Body<'_>) -> Result<Vec<u8>> {
    let Body::Sealed(cover) = how else { return enclose(magic, body, how.crypto()) };
    let plain = serde_json::to_vec(body).map_err(|e| not_encoded(magic, e))?;
    enclose(magic, &Bytes64(cover.seal(Part::Body, &plain)?), how.crypto())
}

fn not_encoded(magic: &str, error: serde_json::Error) -> Error {
    Error::caused(Kind::Bug, format!("encode {magic}"), error)
}

fn enclose<T: Serialize>(magic: &str, body: &T, crypto: u8) -> Result<Vec<u8>> {
    let zeros = "0".repeat(DIGITS);
    let outside =
        Outside { check: &zeros, magic, version: VERSION, incompatible: 0, compatible: 0, crypto, body };
    let mut bytes = serde_json::to_vec(&outside).map_err(|e| not_encoded(magic, e))?;
    bytes.push(b'\n');
    if bytes.len() > MAX_ENVELOPE {
        return Err(Error::new(Kind::Unsupported, format!("{magic} of {} bytes is too long", bytes.len())));
    }
    let check = Blake3::of(&bytes).to_string();
    bytes[OPEN.len()..OPEN.len() + DIGITS].copy_from_slice(check.as_bytes());
    Ok(bytes)
}

/// Checks every byte and decodes the body, which must be such a one.
pub(super) fn open<T: DeserializeOwned>(magic: &str, bytes: &[u8], how: Body<'_>) -> Result<T> {
    let Body::Sealed(cover) = how else {
        let (body, crypto) = disclose(magic, bytes)?;
        return expect_crypto(magic, crypto, how.crypto()).and(body);
    };
    let (sealed, crypto) = disclose::<Bytes64>(magic, bytes)?;
    expect_crypto(magic, crypto, how.crypto())?;
    let plain = zeroize::Zeroizing::new(cover.open(Part::Body, &sealed?.0).map_err(|e| e.within(magic))?);
    serde_json::from_slice(&plain).map_err(|e| broken(magic, e))
}

/// As [`open`] of a readable body, and whether it is of an encrypted repository.
pub(super) fn open_either<T: DeserializeOwned>(magic: &str, bytes: &[u8]) -> Result<(T, bool)> {
    let (body, crypto) = disclose(magic, bytes)?;
    Ok((body?, crypto == CRYPTO_SEALED))
}

fn broken(magic: &str, error: serde_json::Error) -> Error {
    Error::caused(Kind::Damaged, format!("{magic}: not the JSON it must be"), error)
}

/// The magic of bytes that may be such an object.
pub(super) fn magic_of(bytes: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Magic {
        magic: String,
    }
    let bytes = bytes.get(..MAX_ENVELOPE.min(bytes.len()))?;
    serde_json::from_slice::<Magic>(bytes).ok().map(|read| read.magic)
}

/// An object is encrypted exactly if its repository is.
pub(super) fn expect_crypto(word: &str, found: u8, expected: u8) -> Result<()> {
    match (found, expected) {
        (CRYPTO_NONE, CRYPTO_SEALED) => {
            Err(damaged(format!("{word}: not encrypted, in a repository that is")))
        }
        (CRYPTO_SEALED, CRYPTO_NONE) => Err(Error::new(
            Kind::Incompatible,
            format!("{word}: encrypted, in a repository that is not, or without its keys"),
        )),
        _ => Ok(()),
    }
}

/// The body, or what is wrong with it, and the crypto mode of what is otherwise in order.
fn disclose<T: DeserializeOwned>(magic: &str, bytes: &[u8]) -> Result<(Result<T>, u8)> {
    verify(magic, bytes)?;
    // in one go if all is as it should be
    if let Ok(read) = serde_json::from_slice::<Read<T>>(bytes) {
        let crypto = read.crypto(magic)?;
        return Ok((Ok(read.body), crypto));
    }
    let read: Read<serde_json::Value> = serde_json::from_slice(bytes).map_err(|e| broken(magic, e))?;
    let crypto = read.crypto(magic)?;
    Ok((serde_json::from_value(read.body).map_err(|e| broken(magic, e)), crypto))
}

impl<T> Read<T> {
    /// The crypto mode of an object that is one of these, and not newer than this program.
    fn crypto(&self, magic: &str) -> Result<u8> {
        if self.magic != magic {
            let found = self.magic.get(..40).unwrap_or(&self.magic);
            return Err(damaged(format!("not a {magic}: magic is {found:?}")));
        }
        refuse_newer(magic, self.version, self.incompatible, self.crypto)
    }
}

fn verify(magic: &str, bytes: &[u8]) -> Result<()> {
    let digits = bytes.strip_prefix(OPEN).and_then(|rest| rest.get(..DIGITS));
    let Some(digits) = digits.filter(|_| bytes.ends_with(b"}\n")) else {
        return Err(damaged(format!("not a {magic}: wrong first or last bytes")));
    };
    if bytes.len() > MAX_ENVELOPE {
        return Err(damaged(format!("{magic}: {} bytes are too many", bytes.len())));
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update(OPEN).update(&[b'0'; DIGITS]).update(&bytes[OPEN.len() + DIGITS..]);
    if digits != hasher.finalize().to_hex().as_bytes() {
        return Err(damaged(format!("{magic}: its check does not fit its bytes")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_counts() {
        let bytes = seal("blkdelta test", &vec![1u64, u64::MAX], Body::Plain).unwrap();
        assert_eq!(open::<Vec<u64>>("blkdelta test", &bytes, Body::Plain).unwrap(), [1, u64::MAX]);
        assert!(open::<Vec<u64>>("blkdelta other", &bytes, Body::Plain).is_err());
        for i in 0..bytes.len() {
            for bit in 0..8 {
                let mut bad = bytes.clone();
                bad[i] ^= 1 << bit;
                assert_eq!(
                    open::<Vec<u64>>("blkdelta test", &bad, Body::Plain).unwrap_err().kind(),
                    Kind::Damaged
                );
            }
            assert!(open::<Vec<u64>>("blkdelta test", &bytes[..i], Body::Plain).is_err());
        }
    }

    #[test]
    fn a_newer_one_is_named_as_such() {
        let text = "{\"check\":\"0\",\"magic\":\"m\",\"version\":9,\"incompatible\":0,\"compatible\":0,\"crypto\":0,\"body\":7}\n";
        let mut bytes = text.replace(":\"0\"", &format!(":\"{}\"", "0".repeat(DIGITS))).into_bytes();
        let check = Blake3::of(&bytes).to_string();
        bytes[OPEN.len()..OPEN.len() + DIGITS].copy_from_slice(check.as_bytes());
        assert_eq!(open::<u64>("m", &bytes, Body::Plain).unwrap_err().kind(), Kind::Incompatible);
    }

    #[test]
    fn a_sealed_body_is_read_in_its_place_alone_and_never_passes_for_another_kind() {
        let keys =
            crate::seal::MetaKeys::new([1; 16], vec![crate::seal::Secret::from_bytes([2; 32])]).unwrap();
        let (here, there) = (Body::Sealed(keys.cover("here")), Body::Sealed(keys.cover("there")));
        let bytes = seal("m", &7u64, here).unwrap();
        assert_eq!(open::<u64>("m", &bytes, here).unwrap(), 7);
        assert_eq!(open::<u64>("m", &bytes, there).unwrap_err().kind(), Kind::Damaged);
        assert_eq!(open::<u64>("m", &bytes, Body::Plain).unwrap_err().kind(), Kind::Incompatible);
        let plain = seal("m", &7u64, Body::Plain).unwrap();
        assert_eq!(open::<u64>("m", &plain, here).unwrap_err().kind(), Kind::Damaged);
        let readable = seal("m", &7u64, Body::Open).unwrap();
        assert_eq!(open_either::<u64>("m", &readable).unwrap(), (7, true));
        assert_eq!(open_either::<u64>("m", &plain).unwrap(), (7, false));
        assert!(open::<u64>("m", &readable, here).is_err());
    }
}
