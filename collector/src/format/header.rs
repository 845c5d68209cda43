//! The first 64 and the last 56 bytes of every binary object.

use super::envelope::expect_crypto;
use super::varint::Reader;
use super::{CRYPTO_NONE, CRYPTO_SEALED, RepositoryId, VERSION, damaged};
use crate::error::{Error, Kind, Result};

/// Bytes of a header; the same in every version to come.
pub const HEADER_LEN: usize = 64;

/// Bytes of a trailer.
pub const TRAILER_LEN: usize = 56;

/// What an object is: its magic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectKind {
    /// Frames.
    Segment,
    /// Pieces of one point.
    Index,
    /// Parity of other objects.
    Parity,
}

impl ObjectKind {
    const fn magic(self) -> [u8; 8] {
        match self {
            Self::Segment => *b"blkdSEG\n",
            Self::Index => *b"blkdIDX\n",
            Self::Parity => *b"blkdPAR\n",
        }
    }
    const fn end_magic(self) -> [u8; 8] {
        match self {
            Self::Segment => *b"blkdSEGe",
            Self::Index => *b"blkdIDXe",
            Self::Parity => *b"blkdPARe",
        }
    }
    const fn word(self) -> &'static str {
        match self {
            Self::Segment => "segment",
            Self::Index => "index",
            Self::Parity => "parity object",
        }
    }
}

/// The first 64 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the object is.
    pub kind: ObjectKind,
    /// It is of an encrypted repository.
    pub sealed: bool,
    /// Features a reader may ignore.
    pub compatible: u32,
    /// The repository it belongs to.
    pub repository: RepositoryId,
    /// Its own name: of the segment, of the index's point, of the parity's group. An object under another's name is found by this.
    pub id: [u8; 16],
}

impl Header {
    /// The bytes.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[..8].copy_from_slice(&self.kind.magic());
        bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
        bytes[10] = if self.sealed { CRYPTO_SEALED } else { CRYPTO_NONE };
        bytes[16..20].copy_from_slice(&self.compatible.to_le_bytes());
        bytes[24..40].copy_from_slice(&self.repository.to_bytes());
        bytes[40..56].copy_from_slice(&self.id);
        let check = xxhash_rust::xxh3::xxh3_64(&bytes[..56]);
        bytes[56..].copy_from_slice(&check.to_le_bytes());
        bytes
    }

    /// Checks and reads the first bytes of an object of `kind`.
    ///
    /// # Errors
    /// [`Kind::Damaged`], or [`Kind::Incompatible`] for what a newer program wrote.
    pub fn decode(kind: ObjectKind, bytes: &[u8]) -> Result<Self> {
        let word = kind.word();
        let mut r = Reader::new(bytes);
        if r.array()? != kind.magic() {
            return Err(damaged(format!("not a {word}: wrong first bytes")));
        }
        let version = r.u16()?;
        let [crypto, reserved] = r.array()?;
        let (incompatible, compatible, reserved2) = (r.u32()?, r.u32()?, r.u32()?);
        let repository = RepositoryId::from_bytes(r.array()?);
        let id = r.array()?;
        let checked = bytes.get(..HEADER_LEN - 8).unwrap_or_default();
        if r.u64()? != xxhash_rust::xxh3::xxh3_64(checked) {
            return Err(damaged(format!("header of the {word}: wrong checksum")));
        }
        let crypto = refuse_newer(word, u64::from(version), u64::from(incompatible), u64::from(crypto))?;
        if reserved != 0 || reserved2 != 0 {
            return Err(damaged(format!("header of the {word}: reserved bytes are used")));
        }
        Ok(Self { kind, sealed: crypto == CRYPTO_SEALED, compatible, repository, id })
    }

    /// It is sealed exactly if its repository is.
    ///
    /// # Errors
    /// [`Kind::Damaged`], [`Kind::Incompatible`].
    pub fn expect_sealed(&self, sealed: bool) -> Result<()> {
        let crypto = |sealed| if sealed { CRYPTO_SEALED } else { CRYPTO_NONE };
        expect_crypto(self.kind.word(), crypto(self.sealed), crypto(sealed))
    }

    /// This object is the one that was asked for.
    ///
    /// # Errors
    /// [`Kind::Damaged`] if it belongs to another repository or has another name.
    pub fn expect(&self, repository: RepositoryId, id: [u8; 16]) -> Result<()> {
        let word = self.kind.word();
        if self.repository != repository {
            return Err(damaged(format!("{word} of another repository ({})", self.repository)));
        }
        if self.id != id {
            return Err(damaged(format!("another {word} lies under this name")));
        }
        Ok(())
    }
}

/// Clear words for what a newer program wrote; else the crypto mode.
pub(super) fn refuse_newer(word: &str, version: u64, incompatible: u64, crypto: u64) -> Result<u8> {
    let why = if version == 0 {
        return Err(damaged(format!("{word}: version 0 does not exist")));
    } else if version > u64::from(VERSION) {
        format!("{word}: format version {version}, this program knows up to {VERSION}")
    } else if incompatible != 0 {
        format!("{word}: uses features this program does not know (flags {incompatible:#x})")
    } else {
        match u8::try_from(crypto) {
            Ok(known @ (CRYPTO_NONE | CRYPTO_SEALED)) => return Ok(known),
            _ => format!("{word}: encrypted (mode {crypto}), this program cannot read that"),
        }
    };
    Err(Error::new(Kind::Incompatible, why).hint("use the version of blkdelta that wrote it, or a newer one"))
}

/// The last 56 bytes: where the footer is, its hash, how long the whole is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trailer {
    /// First byte of the footer.
    pub footer_at: u64,
    /// Bytes of the footer.
    pub footer_len: u64,
    /// Frames of a segment, chunks of an index, members of a parity group.
    pub count: u64,
    /// XXH3-128 of the footer.
    pub footer_hash: u128,
}

impl Trailer {
    /// Of a footer that begins at `footer_at`.
    pub fn of(footer_at: u64, footer: &[u8], count: u64) -> Self {
        let footer_hash = xxhash_rust::xxh3::xxh3_128(footer);
        Self { footer_at, footer_len: footer.len() as u64, count, footer_hash }
    }

    /// Length of the whole object.
    pub const fn total(&self) -> u64 {
        self.footer_at.saturating_add(self.footer_len).saturating_add(TRAILER_LEN as u64)
    }

    /// The bytes.
    pub fn encode(&self, kind: ObjectKind) -> [u8; TRAILER_LEN] {
        let mut bytes = [0; TRAILER_LEN];
        bytes[..8].copy_from_slice(&self.footer_at.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.footer_len.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.count.to_le_bytes());
        bytes[24..40].copy_from_slice(&self.footer_hash.to_be_bytes());
        bytes[40..48].copy_from_slice(&self.total().to_le_bytes());
        bytes[48..].copy_from_slice(&kind.end_magic());
        bytes
    }

    /// Checks and reads the last bytes of an object of `total` bytes.
    ///
    /// # Errors
    /// [`Kind::Damaged`].
    pub fn decode(kind: ObjectKind, bytes: &[u8], total: u64) -> Result<Self> {
        let mut r = Reader::new(bytes);
        let (footer_at, footer_len, count) = (r.u64()?, r.u64()?, r.u64()?);
        let footer_hash = u128::from_be_bytes(r.array()?);
        let said = r.u64()?;
        let magic: [u8; 8] = r.array()?;
        r.end()?;
        let trailer = Self { footer_at, footer_len, count, footer_hash };
        let whole = magic == kind.end_magic() && said == total && trailer.total() == total;
        if !whole || footer_at < HEADER_LEN as u64 {
            return Err(damaged(format!("{}: cut short or wrong last bytes", kind.word())));
        }
        Ok(trailer)
    }

    /// `footer` is the one this trailer speaks of.
    ///
    /// # Errors
    /// [`Kind::Damaged`] if not.
    pub fn check(&self, footer: &[u8]) -> Result<()> {
        if footer.len() as u64 != self.footer_len || xxhash_rust::xxh3::xxh3_128(footer) != self.footer_hash {
            return Err(damaged("footer: wrong checksum"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bit_of_header_and_trailer_counts() {
        let header = Header {
            kind: ObjectKind::Segment,
            sealed: true,
            compatible: 5,
            repository: RepositoryId::generate(),
            id: [7; 16],
        };
        let bytes = header.encode();
        assert_eq!(Header::decode(ObjectKind::Segment, &bytes).unwrap(), header);
        assert!(Header::decode(ObjectKind::Index, &bytes).is_err());
        let trailer = Trailer::of(64, b"footer", 1);
        let last = trailer.encode(ObjectKind::Index);
        assert_eq!(Trailer::decode(ObjectKind::Index, &last, 126).unwrap(), trailer);
        for bit in 0..HEADER_LEN * 8 {
            let mut bad = bytes;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::decode(ObjectKind::Segment, &bad).is_err(), "bit {bit}");
        }
        for bit in 0..TRAILER_LEN * 8 {
            let mut bad = last;
            bad[bit / 8] ^= 1 << (bit % 8);
            // the count is checked against the footer by its reader
            let ok =
                Trailer::decode(ObjectKind::Index, &bad, 126).and_then(|t| t.check(b"footer").map(|()| t));
            assert!(ok.is_err() || ok.unwrap().count != 1, "bit {bit}");
        }
    }

    #[test]
    fn what_is_newer_is_named() {
        for (version, flags, crypto) in [(2, 0, 0), (1, 4, 0), (1, 0, 2)] {
            assert_eq!(
                refuse_newer("segment", version, flags, crypto).unwrap_err().kind(),
                Kind::Incompatible
            );
        }
        assert_eq!(refuse_newer("segment", 1, 0, 1).unwrap(), CRYPTO_SEALED);
    }
}
