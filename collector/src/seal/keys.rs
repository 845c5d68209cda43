//! What an opened repository knows: how to write, and perhaps how to read.

use super::session::{self, FrameKey, Record, Session};
use super::{MetaKeys, PrivateKey, PublicKey, Secret};
use crate::error::{Error, Kind, Result};

/// The keys of an encrypted repository.
#[derive(Clone, Debug)]
pub struct Keys {
    repository: [u8; 16],
    public: PublicKey,
    metadata: MetaKeys,
    masters: Vec<PrivateKey>,
}

/// What a holder of keys can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    /// Everything.
    Owner,
    /// Write points, read indexes and manifests, not the content.
    Writer,
}

/// The metadata key of a generation.
pub(crate) fn metadata_key(repository: [u8; 16], master: &PrivateKey) -> Secret {
    master.secret().derive("metadata key", &[&repository])
}

impl Keys {
    /// The owner's: the masters of all generations, the first first.
    ///
    /// # Errors
    /// [`Kind::Bug`] for none.
    pub fn owner(repository: [u8; 16], masters: Vec<PrivateKey>) -> Result<Self> {
        let last = masters.last().ok_or_else(|| Error::new(Kind::Bug, "no master key"))?;
        let public = last.public()?;
        let keys = masters.iter().map(|master| metadata_key(repository, master)).collect();
        Ok(Self { repository, public, metadata: MetaKeys::new(repository, keys)?, masters })
    }

    /// A writer's.
    ///
    /// # Errors
    /// [`Kind::Bug`] without a metadata key.
    pub fn writer(repository: [u8; 16], public: PublicKey, metadata: Vec<Secret>) -> Result<Self> {
        let metadata = MetaKeys::new(repository, metadata)?;
        Ok(Self { repository, public, metadata, masters: Vec::new() })
    }

    /// What they allow.
    pub const fn rights(&self) -> Rights {
        if self.masters.is_empty() { Rights::Writer } else { Rights::Owner }
    }

    /// The repository's 16 bytes.
    pub const fn repository(&self) -> [u8; 16] {
        self.repository
    }

    /// The key sessions are sealed to.
    pub const fn public(&self) -> &PublicKey {
        &self.public
    }

    /// The keys of metadata.
    pub const fn metadata(&self) -> &MetaKeys {
        &self.metadata
    }

    /// For metadata as it was sealed when there were so many generations.
    ///
    /// # Errors
    /// [`Kind::Bug`] for none.
    pub fn as_of(&self, generation: u32) -> Result<Self> {
        Ok(Self { metadata: self.metadata.as_of(generation)?, ..self.clone() })
    }

    /// Begins to write a point.
    ///
    /// # Errors
    /// If there are no random bytes.
    pub fn session(&self, point: [u8; 16]) -> Result<Session> {
        Session::begin(self, point)
    }

    /// The key of a point's frames.
    ///
    /// # Errors
    /// [`Kind::Denied`] for a writer; [`Kind::Damaged`].
    pub fn frame_key(&self, record: &Record) -> Result<FrameKey> {
        if self.masters.is_empty() {
            return Err(session::cannot_read());
        }
        let place = (session::generation_of(record) as usize).checked_sub(1);
        let master = place.and_then(|n| self.masters.get(n));
        let unknown = || super::forged("a segment's keys are of a generation that does not exist");
        FrameKey::find(self, master.ok_or_else(unknown)?, record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writer_seals_what_only_the_owner_opens() {
        let masters = vec![PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap()];
        let owner = Keys::owner([1; 16], masters).unwrap();
        let writer = Keys::writer([1; 16], *owner.public(), owner.metadata().all().to_vec()).unwrap();
        assert_eq!((owner.rights(), writer.rights()), (Rights::Owner, Rights::Writer));
        let session = writer.session([9; 16]).unwrap();
        let (a, b) = (session.seal(b"at 0", b"content").unwrap(), session.seal(b"at 0", b"content").unwrap());
        assert_ne!(a, b, "no nonce twice");
        let key = owner.frame_key(&session.record()).unwrap();
        let mut buf = Vec::new();
        assert_eq!(key.open(b"at 0", &a, &mut buf).unwrap(), b"content");
        assert!(key.open(b"at 1", &a, &mut buf).is_err());
        for bit in 128..a.len() * 8 {
            let mut bad = a.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(key.open(b"at 0", &bad, &mut buf).is_err(), "bit {bit}");
        }
        assert!(key.open(b"at 0", &a[..20], &mut buf).is_err() && key.open(b"", &[], &mut buf).is_err());
        assert_eq!(writer.frame_key(&session.record()).err().unwrap().kind(), Kind::Denied);
        // somebody who knows the public key alone cannot make a session that is believed
        let stranger = Keys::writer([1; 16], *owner.public(), vec![Secret::from_bytes([0; 32]); 2]).unwrap();
        let forged = stranger.session([9; 16]).unwrap();
        let text = forged.seal(b"at 0", b"forged").unwrap();
        assert!(owner.frame_key(&forged.record()).unwrap().open(b"at 0", &text, &mut buf).is_err());
        // nor can a record be used for another point
        let mut other = session.record();
        other.0[0] ^= 1;
        assert!(owner.frame_key(&other).is_err());
        other.0[16] = 9;
        assert!(owner.frame_key(&other).is_err());
    }
}
