//! Secrets, and bytes that only the holder of the right one can read or make.
//!
//! ```text
//!   master r ──┬── X25519 ──▶ public key R: whoever has it can seal a session's secret; only r opens it
//!              └── HMAC ────▶ metadata key M: manifests, indexes, maps, tombstones, frame tables
//!   a session's secret s ── HMAC with M ──▶ the key of one point's frames
//! ```
//!
//! The owner has r. A host that only writes has R and M: it makes s, seals it to R, and forgets it after the backup.
//!
//! Must stay true: no I/O; no nonce is used twice with one key; secrets are wiped when dropped and never printed;
//! whatever bytes come in, opening gives what was sealed under the same key for the same place, or an error.

mod cipher;
mod keys;
mod metadata;
mod pair;
mod passphrase;
mod secret;
mod session;

pub use cipher::TAG;
pub use keys::{Keys, Rights};
pub use metadata::{Cover, METADATA_OVERHEAD, MetaKeys, Part};
pub use pair::{PrivateKey, PublicKey, SEALED};
pub use passphrase::{Passphrase, Stretch};
pub use secret::{Bytes64, Secret, random};
pub use session::{FRAME_OVERHEAD, FrameKey, NONCE, RECORD, Record, Session};

pub(crate) use cipher::Cipher;

use crate::error::{Error, Kind};

/// What was opened was not sealed with this key, or not for this place, or it was changed.
pub(crate) fn forged(what: impl Into<String>) -> Error {
    Error::new(Kind::Damaged, what)
}
