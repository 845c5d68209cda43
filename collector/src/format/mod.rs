//! What is stored, as bytes: encoders and decoders of every object of a repository (docs/FORMAT.md).
//!
//! ```text
//!   repo.json, manifest, …{"check":"<blake3>", magic, version, flags, crypto, "body": {...}}
//!   segment               header | frames ...            | frame table        | trailer
//!   index                 header | chunks of pieces ...  | segments, directory | trailer
//!   parity                header | one shard             | what it covers | trailer
//!   catalogue             root, pages of nodes: the files of a group's point, in its image
//!   record, saved map     what is kept of a tracked device over a reboot (not in a repository)
//! ```
//!
//! Must stay true: no I/O, no clock; a decoder returns the value that was encoded or an error whatever bytes
//! it is given, never panics, and bounds what it allocates by the limits below; every object begins with
//! magic, version and feature flags, and both its ends are checked.

mod after;
mod catalogue;
mod chunk;
mod envelope;
mod frame;
mod hash;
mod header;
mod ids;
mod index;
mod keyfile;
mod keyring;
mod manifest;
mod parity;
mod saved;
mod segment;
mod varint;

pub use after::{PointMap, Tombstone};
pub use catalogue::{
    CATALOGUE_HEADER, CataloguedDevice, Link, MAX_DEVICES, Moment, Node, NodeId, NodeKind, PAGES_AT, PageRef,
    Part, Place, Root, SLOT, THROUGH_AT, Text, Volume, decode_page, device_at, encode_page,
};
pub use chunk::{FrameRef, MAX_CHUNK, PIECES_PER_CHUNK, Piece, PieceContent, decode_chunk, encode_chunk};
pub use envelope::{CRYPTO_NONE, CRYPTO_SEALED, MAX_ENVELOPE};
pub use frame::{
    Codec, Compression, EncodedFrame, FrameMeta, decode_frame, encode_frame, encode_shared, fits_cell,
    is_zero, open_frame,
};
pub use hash::{Blake3, FrameHash};
pub use header::{HEADER_LEN, Header, ObjectKind, TRAILER_LEN, Trailer};
pub use ids::{DeviceId, GroupId, KeyId, PointId, RepositoryId, SegmentId};
pub use index::{ChunkEntry, INDEX_ENTRY_LEN, IndexFooter, MAX_INDEX_FOOTER, SEGMENT_ENTRY_LEN, SegmentRef};
pub use keyfile::{Credential, WriteKey, decode_key_file, encode_private_key, public_half};
pub use keyring::{KeyRing, NewKey, Opened, Shown};
pub use manifest::{
    Consistency, DeviceIdent, EpochRange, Files, Geometry, IndexRef, MAX_REBUILD, Manifest, ParentRef,
    PassStats, PointKind, Rebuild, RepositoryConfig, Totals,
};
pub use parity::{Covered, MAX_MEMBERS, MAX_PARITY, ParityShare, ParityTable, SHARD_STEP};
pub use saved::{Base, ListRef, Record, Saved, SavedMap, StartPoint, Witness};
pub use segment::{
    MAX_SEGMENT, SEGMENT_FRAMES, SEGMENT_TARGET, SESSIONS_HEAD, SegmentBuilder, SegmentTable, StoredFrame,
    decode_sessions,
};

use crate::error::{Error, Kind};

/// The version of everything this program writes.
pub const VERSION: u16 = 1;

/// Bytes of a cell: no frame crosses a multiple of this on the device.
pub const CELL: u64 = 64 * 1024;

/// The most stored bytes of a frame: a cell, and what sealing adds.
pub const MAX_STORED: u64 = CELL + crate::seal::FRAME_OVERHEAD as u64;

/// The largest device: offsets stay far from the ends of 64 bits.
pub const MAX_DEVICE: u64 = 1 << 62;

/// Stored bytes are not what was written.
pub(crate) fn damaged(what: impl Into<String>) -> Error {
    Error::new(Kind::Damaged, what)
}
