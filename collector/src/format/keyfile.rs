//! Key files: an owner's private key, perhaps under a passphrase; a host's write key. They lie outside of repositories.

use super::envelope::{Body, magic_of, open, seal};
use super::{RepositoryId, damaged};
use crate::error::{Error, Kind, Result};
use crate::seal::{Bytes64, Cipher, Keys, Passphrase, PrivateKey, PublicKey, Secret, Stretch};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

const PRIVATE_MAGIC: &str = "blkdelta private key";
const WRITE_MAGIC: &str = "blkdelta write key";

/// What somebody opens a repository with.
#[derive(Debug)]
pub enum Credential {
    /// A passphrase.
    Passphrase(Passphrase),
    /// A private key.
    Private(PrivateKey),
    /// A host's key: it opens no key ring, but can write.
    Write(WriteKey),
}

/// A host's key: it can write points and read indexes and manifests; it cannot read content.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WriteKey {
    /// The repository.
    pub repository: RepositoryId,
    /// What sessions are sealed to.
    pub public: PublicKey,
    /// The metadata keys of all generations, the first first.
    pub metadata: Vec<Secret>,
}

#[derive(Serialize, Deserialize)]
struct PrivateFile {
    public: PublicKey,
    private: Option<PrivateKey>,
    passphrase: Option<Wrapped>,
}

#[derive(Serialize, Deserialize)]
struct Wrapped {
    stretch: Stretch,
    sealed: Bytes64,
}

impl WriteKey {
    /// Its generation.
    pub const fn generation(&self) -> u32 {
        self.metadata.len() as u32
    }

    /// What it allows.
    ///
    /// # Errors
    /// None that is known: a key without metadata keys is not read.
    pub fn keys(&self) -> Result<Keys> {
        Keys::writer(self.repository.to_bytes(), self.public, self.metadata.clone())
    }

    /// The file's bytes.
    ///
    /// # Errors
    /// If it is too long.
    pub fn encode(&self) -> Result<Zeroizing<Vec<u8>>> {
        seal(WRITE_MAGIC, self, Body::Plain).map(Zeroizing::new)
    }
}

/// The bytes of a private key's file, under a passphrase if one is given.
///
/// # Errors
/// If the operating system has no random bytes.
pub fn encode_private_key(key: &PrivateKey, passphrase: Option<&Passphrase>) -> Result<Zeroizing<Vec<u8>>> {
    let public = key.public()?;
    let file = match passphrase {
        None => PrivateFile { public, private: Some(key.clone()), passphrase: None },
        Some(words) => {
            let stretch = Stretch::fresh()?;
            let mut bytes = key.secret().bytes().to_vec();
            // the stretched key is used once: for this
            Cipher::new(&stretch.key(words)?)?.seal([0; 12], public.bytes(), &mut bytes, 0)?;
            let wrapped = Wrapped { stretch, sealed: Bytes64(bytes) };
            PrivateFile { public, private: None, passphrase: Some(wrapped) }
        }
    };
    seal(PRIVATE_MAGIC, &file, Body::Plain).map(Zeroizing::new)
}

/// The public half of a private key's file; needs no passphrase.
///
/// # Errors
/// [`Kind::Damaged`], [`Kind::Incompatible`].
pub fn public_half(bytes: &[u8]) -> Result<PublicKey> {
    open::<PrivateFile>(PRIVATE_MAGIC, bytes, Body::Plain).map(|file| file.public)
}

/// Reads a key file of either kind; `ask` gives the passphrase, if one is needed.
///
/// # Errors
/// [`Kind::Damaged`], [`Kind::Incompatible`]; [`Kind::Denied`] for a wrong passphrase.
pub fn decode_key_file(bytes: &[u8], ask: &mut dyn FnMut() -> Result<Passphrase>) -> Result<Credential> {
    if magic_of(bytes).as_deref() == Some(WRITE_MAGIC) {
        let key: WriteKey = open(WRITE_MAGIC, bytes, Body::Plain)?;
        if key.metadata.is_empty() {
            return Err(damaged("a write key without metadata keys"));
        }
        return Ok(Credential::Write(key));
    }
    let file: PrivateFile = open(PRIVATE_MAGIC, bytes, Body::Plain)?;
    let key = match (file.private, file.passphrase) {
        (Some(key), None) => key,
        (None, Some(wrapped)) => unwrap(&wrapped, &file.public, &ask()?)?,
        _ => return Err(damaged("a private key's file without a key, or with two")),
    };
    if key.public()? != file.public {
        return Err(damaged("a private key's file with another public key"));
    }
    Ok(Credential::Private(key))
}

fn unwrap(wrapped: &Wrapped, public: &PublicKey, words: &Passphrase) -> Result<PrivateKey> {
    let cipher = Cipher::new(&wrapped.stretch.key(words)?)?;
    let mut bytes = Zeroizing::new(wrapped.sealed.0.clone());
    let plain = cipher.open([0; 12], public.bytes(), &mut bytes);
    let wrong = |_| Error::new(Kind::Denied, "wrong passphrase for the private key's file");
    let plain = plain.map_err(wrong)?;
    let secret = <[u8; 32]>::try_from(&*plain).map_err(|_| damaged("a private key of another length"))?;
    Ok(PrivateKey::from_secret(Secret::from_bytes(secret)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Passphrase {
        Passphrase::new(Zeroizing::new(text.to_owned())).unwrap()
    }

    #[test]
    fn key_files_give_back_their_keys() {
        let key = PrivateKey::generate().unwrap();
        let public = key.public().unwrap();
        let open = encode_private_key(&key, None).unwrap();
        let locked = encode_private_key(&key, Some(&words("a b"))).unwrap();
        for (bytes, given) in [(&open, "never asked"), (&locked, "a b")] {
            assert_eq!(public_half(bytes).unwrap(), public);
            let mut ask = || if bytes == &open { panic!("asked") } else { Ok(words(given)) };
            let Credential::Private(back) = decode_key_file(bytes, &mut ask).unwrap() else {
                panic!("a private key")
            };
            assert_eq!(back.secret().bytes(), key.secret().bytes());
        }
        let wrong = decode_key_file(&locked, &mut || Ok(words("b a"))).unwrap_err();
        assert_eq!(wrong.kind(), Kind::Denied);
        assert!(
            !String::from_utf8(locked.to_vec())
                .unwrap()
                .contains(&Bytes64(key.secret().bytes().to_vec()).to_string())
        );
        let metadata = vec![Secret::generate().unwrap(), Secret::generate().unwrap()];
        let write = WriteKey { repository: RepositoryId::generate(), public, metadata };
        let Credential::Write(back) =
            decode_key_file(&write.encode().unwrap(), &mut || panic!("asked")).unwrap()
        else {
            panic!("a write key")
        };
        assert_eq!((back.repository, back.public, back.generation()), (write.repository, public, 2));
        for bad in [&open[1..], b"", b"words", &open[..open.len() - 2]] {
            assert_eq!(decode_key_file(bad, &mut || panic!("asked")).unwrap_err().kind(), Kind::Damaged);
        }
    }
}
