//! A backup's session: the key of one point's frames, which its writer forgets and only the owner can find again.
//!
//! ```text
//!   record, in every segment that holds frames of the point:   point 16 | generation 4 | sealed secret 80
//!   frame:                                                      point 16 | counter 8 | ciphertext | tag 16
//! ```
//! A frame says whose it is and not where it lies, so it can be moved to another segment as it is; its key binds it to
//! repository and point, the associated data to its place on the device and its codec.

use super::cipher::short_nonce;
use super::keys::Keys;
use super::pair::SEALED;
use super::{Cipher, PrivateKey, Secret, TAG, forged};
use crate::error::{Error, Kind, Result};
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes before a frame's ciphertext.
pub const NONCE: usize = 24;

/// Bytes that sealing adds to a frame.
pub const FRAME_OVERHEAD: usize = NONCE + TAG;

/// Bytes of a session's record.
pub const RECORD: usize = 16 + 4 + SEALED;

/// How the owner finds a session's key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Record(pub [u8; RECORD]);

impl std::fmt::Debug for Record {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Record({:02x?})", self.point())
    }
}

impl Record {
    fn new(point: [u8; 16], generation: u32, sealed: [u8; SEALED]) -> Self {
        let mut bytes = [0; RECORD];
        bytes[..16].copy_from_slice(&point);
        bytes[16..20].copy_from_slice(&generation.to_le_bytes());
        bytes[20..].copy_from_slice(&sealed);
        Self(bytes)
    }

    /// Whose frames.
    pub fn point(&self) -> [u8; 16] {
        let mut point = [0; 16];
        point.copy_from_slice(&self.0[..16]);
        point
    }

    fn generation(&self) -> u32 {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&self.0[16..20]);
        u32::from_le_bytes(bytes)
    }
}

/// A session of writing.
pub struct Session {
    point: [u8; 16],
    cipher: Cipher,
    next: AtomicU64,
    record: Record,
}

impl Session {
    pub(super) fn begin(keys: &Keys, point: [u8; 16]) -> Result<Self> {
        let secret = Secret::generate()?;
        let generation = keys.metadata().generation();
        let sealed = keys.public().seal(&info(keys, generation, point), &secret)?;
        let cipher = Cipher::new(&frame_secret(keys, generation, point, &secret)?)?;
        let record = Record::new(point, generation, sealed);
        Ok(Self { point, cipher, next: AtomicU64::new(0), record })
    }

    /// What every segment with frames of this session holds.
    pub const fn record(&self) -> Record {
        self.record
    }

    /// These bytes begin as those that this session sealed do.
    pub fn sealed(&self, stored: &[u8]) -> bool {
        stored.len() > FRAME_OVERHEAD && FrameKey::point(stored) == Some(self.point)
    }

    /// Seals a frame's stored bytes.
    ///
    /// # Errors
    /// [`Kind::Bug`] only.
    pub fn seal(&self, aad: &[u8], plain: &[u8]) -> Result<Vec<u8>> {
        let number = self.next.fetch_add(1, Ordering::Relaxed).to_le_bytes();
        let mut bytes = Vec::with_capacity(plain.len() + FRAME_OVERHEAD);
        bytes.extend_from_slice(&self.point);
        bytes.extend_from_slice(&number);
        bytes.extend_from_slice(plain);
        self.cipher.seal(short_nonce(number), aad, &mut bytes, NONCE)?;
        Ok(bytes)
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Session({:?})", self.record)
    }
}

/// The key of one point's frames, for reading.
pub struct FrameKey(Cipher);

impl FrameKey {
    pub(super) fn find(keys: &Keys, master: &PrivateKey, record: &Record) -> Result<Self> {
        let (point, generation) = (record.point(), record.generation());
        let secret = master.open(&info(keys, generation, point), &record.0[20..])?;
        Ok(Self(Cipher::new(&frame_secret(keys, generation, point, &secret)?)?))
    }

    /// The point whose frame these bytes are.
    pub fn point(stored: &[u8]) -> Option<[u8; 16]> {
        stored.first_chunk().copied()
    }

    /// The stored bytes as they were before sealing, in `buf`.
    ///
    /// # Errors
    /// [`Kind::Damaged`].
    pub fn open<'a>(&self, aad: &[u8], stored: &[u8], buf: &'a mut Vec<u8>) -> Result<&'a [u8]> {
        let (nonce, text) = stored.split_first_chunk::<NONCE>().ok_or_else(|| forged("frame cut short"))?;
        let number: [u8; 8] = nonce.last_chunk().copied().unwrap_or_default();
        buf.clear();
        buf.extend_from_slice(text);
        self.0.open(short_nonce(number), aad, buf).map(|plain| &*plain)
    }
}

pub(super) fn generation_of(record: &Record) -> u32 {
    record.generation()
}

fn info(keys: &Keys, generation: u32, point: [u8; 16]) -> Vec<u8> {
    [&b"blkdelta session 1"[..], &keys.repository(), &generation.to_le_bytes(), &point].concat()
}

/// Both halves are needed: without the metadata key nobody can make a session that is believed.
fn frame_secret(keys: &Keys, generation: u32, point: [u8; 16], secret: &Secret) -> Result<Secret> {
    let parts: [&[u8]; 3] = [&keys.repository(), &point, secret.bytes()];
    Ok(keys.metadata().key(generation)?.derive("frames", &parts))
}

/// Words for a host that can write and not read.
pub(super) fn cannot_read() -> Error {
    Error::new(Kind::Denied, "this key can write backups and not read them")
        .hint("use the owner's passphrase or private key")
}
