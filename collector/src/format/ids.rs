//! Names of stored things. A name is checked when it is made, so none can leave the repository's folders.

use crate::error::{Error, Kind, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use ulid::Ulid;

macro_rules! ulid_name {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(u128);

        impl $name {
            /// A new, unique name that sorts by time.
            pub fn generate() -> Self {
                Self(u128::from_be_bytes(Ulid::generate().to_bytes()))
            }
            /// From its 16 stored bytes.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(u128::from_be_bytes(bytes))
            }
            /// When it was made, in Unix milliseconds, by the clock of its maker.
            pub const fn unix_millis(self) -> u64 {
                (self.0 >> 80) as u64
            }
            /// Its 16 stored bytes.
            pub const fn to_bytes(self) -> [u8; 16] {
                self.0.to_be_bytes()
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&Ulid::from_bytes(self.to_bytes()).to_string())
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }
        }
        impl FromStr for $name {
            type Err = Error;
            fn from_str(text: &str) -> Result<Self> {
                let name = Ulid::from_string(text).ok().map(|u| Self::from_bytes(u.to_bytes()));
                // one spelling only: names are exact keys
                name.filter(|n| n.to_string() == text).ok_or_else(|| {
                    let hint = "26 characters as `blkdelta list` prints them";
                    Error::new(Kind::Usage, format!("{text:?} is not the id of a {}", $what)).hint(hint)
                })
            }
        }
        impl TryFrom<String> for $name {
            type Error = Error;
            fn try_from(text: String) -> Result<Self> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.to_string()
            }
        }
    };
}

ulid_name!(
    /// Name of a recovery point: a ULID, upper case, 26 characters.
    PointId, "recovery point");
ulid_name!(
    /// Name of a segment: a ULID, random, never reused.
    SegmentId, "segment");
ulid_name!(
    /// Name of a key in a repository's key ring: a ULID.
    KeyId, "key"
);
ulid_name!(
    /// Name of a group of objects that parity covers: a ULID, new with every change.
    GroupId, "parity group"
);

impl SegmentId {
    /// The folder it lies in: its last byte as two hexadecimal digits, so that folders fill evenly.
    pub fn shard(self) -> String {
        format!("{:02x}", self.to_bytes()[15])
    }
}

/// Name of a device inside a repository: 1 to 64 characters of `a-z 0-9 . _ -`, the first a letter or digit.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DeviceId(String);

impl DeviceId {
    /// The longest name.
    pub const MAX: usize = 64;

    /// Checks a name.
    ///
    /// # Errors
    /// [`Kind::Usage`] if it is not a legal name.
    pub fn new(name: impl Into<String>) -> Result<Self> {
        let name = name.into();
        let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
        let first = name.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if first && name.len() <= Self::MAX && name.bytes().all(legal) {
            return Ok(Self(name));
        }
        let shown: String = name.chars().take(80).collect();
        Err(Error::new(Kind::Usage, format!("{shown:?} is not a legal device id"))
            .hint("1 to 64 characters of a-z 0-9 . _ -, the first a letter or digit"))
    }

    /// A readable and unique name: what is legal of `name`, then 16 digits of a hash of `identity` (whatever
    /// makes this device this device and no other: serial number, partition uuid, backing file).
    pub fn derive(name: &str, identity: &str) -> Self {
        let clean = name.to_ascii_lowercase();
        let clean: String = clean.chars().filter(|c| c.is_ascii_alphanumeric()).take(40).collect();
        let hash = blake3::hash(identity.as_bytes()).to_hex();
        Self(format!("{}-{}", if clean.is_empty() { "dev" } else { &clean }, &hash[..16]))
    }

    /// A name that tells nothing: the first 16 of `bytes` in hexadecimal.
    pub fn opaque(bytes: &[u8; 32]) -> Self {
        Self(blake3::Hash::from_bytes(*bytes).to_hex()[..32].to_owned())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl fmt::Debug for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl TryFrom<String> for DeviceId {
    type Error = Error;
    fn try_from(name: String) -> Result<Self> {
        Self::new(name)
    }
}
impl From<DeviceId> for String {
    fn from(id: DeviceId) -> Self {
        id.0
    }
}
impl FromStr for DeviceId {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        Self::new(text)
    }
}

/// Identity of a repository: a UUID (version 7), lower case with dashes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RepositoryId([u8; 16]);

impl RepositoryId {
    /// A new identity.
    pub fn generate() -> Self {
        // a ULID and a UUIDv7 differ only in the version and variant bits
        let mut bytes = Ulid::generate().to_bytes();
        bytes[6] = bytes[6] & 0x0f | 0x70;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Self(bytes)
    }
    /// From its 16 stored bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
    /// Its 16 stored bytes.
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0
    }
}

impl fmt::Display for RepositoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            write!(f, "{}{byte:02x}", if matches!(i, 4 | 6 | 8 | 10) { "-" } else { "" })?;
        }
        Ok(())
    }
}
impl fmt::Debug for RepositoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}
impl FromStr for RepositoryId {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let digits: String = text.chars().filter(|c| *c != '-').take(33).collect();
        let bytes = (digits.len() == 32).then(|| u128::from_str_radix(&digits, 16).ok()).flatten();
        let id = bytes.map(|n| Self(n.to_be_bytes()));
        id.filter(|id| id.to_string() == text)
            .ok_or_else(|| Error::new(Kind::Usage, "not a repository uuid (lower case, with dashes)"))
    }
}
impl TryFrom<String> for RepositoryId {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}
impl From<RepositoryId> for String {
    fn from(id: RepositoryId) -> Self {
        id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Museum M20, M29: names are exact, and none of them is a path.
    #[test]
    fn a_name_is_never_a_path() {
        for bad in
            ["", ".", "..", "../x", "a/b", "A", "web1/", "(", "-x", ".x", "a b", "é", "a\0", &"x".repeat(65)]
        {
            assert!(DeviceId::new(bad).is_err(), "{bad:?}");
        }
        for good in ["sda1", "web1", "a", "loop0-0123456789abcdef", "0..1"] {
            assert_eq!(DeviceId::new(good).unwrap().as_str(), good);
        }
        assert!(DeviceId::new(DeviceId::derive("../Ä (x)", "y").as_str()).is_ok());
        assert_ne!(DeviceId::derive("a", "x"), DeviceId::derive("a", "y"));
        for bad in ["", "../../etc/passwd", "01J", "01j0000000000000000000000z", "ZZZZZZZZZZZZZZZZZZZZZZZZZZ"]
        {
            assert!(bad.parse::<PointId>().is_err(), "{bad:?}");
        }
        let id = PointId::generate();
        assert_eq!(id.to_string().parse::<PointId>().unwrap(), id);
        let repo = RepositoryId::generate();
        assert_eq!(repo.to_string().parse::<RepositoryId>().unwrap(), repo);
        assert!("0".parse::<RepositoryId>().is_err());
    }
}
