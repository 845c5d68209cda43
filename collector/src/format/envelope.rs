//! The JSON objects' outside: a check over every byte, then magic, version, flags, then the body.
//!
//! `{"check":"<64 hex>","magic":"...","version":1,"incompatible":0,"compatible":0,"crypto":0,"body":{...}}` and a
//! newline. The check is the BLAKE3 of the whole file with those 64 digits replaced by `0`.

use super::header::refuse_newer;
use super::{Blake3, VERSION, damaged};
use crate::error::{Error, Kind, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Crypto mode: not encrypted.
pub const CRYPTO_NONE: u8 = 0;

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
struct Read {
    magic: String,
    version: u64,
    incompatible: u64,
    #[serde(rename = "compatible")]
    _compatible: u64,
    crypto: u64,
    body: serde_json::Value,
}

/// Encodes `body` under `magic`.
pub(super) fn seal<T: Serialize>(magic: &str, body: &T) -> Result<Vec<u8>> {
    let zeros = "0".repeat(DIGITS);
    let outside = Outside {
        check: &zeros,
        magic,
        version: VERSION,
        incompatible: 0,
        compatible: 0,
        crypto: CRYPTO_NONE,
        body,
    };
    let mut bytes =
        serde_json::to_vec(&outside).map_err(|e| Error::caused(Kind::Bug, format!("encode {magic}"), e))?;
    bytes.push(b'\n');
    if bytes.len() > MAX_ENVELOPE {
        return Err(Error::new(Kind::Unsupported, format!("{magic} of {} bytes is too long", bytes.len())));
    }
    let check = Blake3::of(&bytes).to_string();
    bytes[OPEN.len()..OPEN.len() + DIGITS].copy_from_slice(check.as_bytes());
    Ok(bytes)
}

/// Checks every byte and decodes the body.
pub(super) fn open<T: DeserializeOwned>(magic: &str, bytes: &[u8]) -> Result<T> {
    verify(magic, bytes)?;
    let broken = |e| Error::caused(Kind::Damaged, format!("{magic}: not the JSON it must be"), e);
    let read: Read = serde_json::from_slice(bytes).map_err(broken)?;
    if read.magic != magic {
        return Err(damaged(format!(
            "not a {magic}: magic is {:?}",
            read.magic.get(..40).unwrap_or(&read.magic)
        )));
    }
    refuse_newer(magic, read.version, read.incompatible, read.crypto)?;
    serde_json::from_value(read.body).map_err(broken)
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
        let bytes = seal("blkdelta test", &vec![1u64, u64::MAX]).unwrap();
        assert_eq!(open::<Vec<u64>>("blkdelta test", &bytes).unwrap(), [1, u64::MAX]);
        assert!(open::<Vec<u64>>("blkdelta other", &bytes).is_err());
        for i in 0..bytes.len() {
            for bit in 0..8 {
                let mut bad = bytes.clone();
                bad[i] ^= 1 << bit;
                assert_eq!(open::<Vec<u64>>("blkdelta test", &bad).unwrap_err().kind(), Kind::Damaged);
            }
            assert!(open::<Vec<u64>>("blkdelta test", &bytes[..i]).is_err());
        }
    }

    #[test]
    fn a_newer_one_is_named_as_such() {
        let text = "{\"check\":\"0\",\"magic\":\"m\",\"version\":9,\"incompatible\":0,\"compatible\":0,\"crypto\":0,\"body\":7}\n";
        let mut bytes = text.replace(":\"0\"", &format!(":\"{}\"", "0".repeat(DIGITS))).into_bytes();
        let check = Blake3::of(&bytes).to_string();
        bytes[OPEN.len()..OPEN.len() + DIGITS].copy_from_slice(check.as_bytes());
        assert_eq!(open::<u64>("m", &bytes).unwrap_err().kind(), Kind::Incompatible);
    }
}
