//! Where recovery points are kept: store, publish, lock, check. Knows nothing of how changes are found.
//!
//! ```text
//!   repo.json                       that this is a repository, and which; put-if-absent
//!   seg/<2 hex>/<ulid>              data, about 32 MiB each
//!   idx/<device>/<point>            the point's pieces
//!   bak/<device>/<point>.json       manifest = commit, written last
//!   lock/<device>                   one writer per device: flock, or over the network a lease
//!   map/<device>/<point>/<n>        an index of the point's whole image, by a merge or compaction
//!   del/<device>/<point>.json       tombstone: the point is not wanted any more
//!   spare/<device>/<point>/<n>      bytes of an index that nothing else gives back, once more
//!   par/<device>/<group>/<n>        parity, where it is wanted: written last of all, never needed
//!   key/<repository>/<n>.json       of an encrypted repository: who can open it
//! ```
//!
//! Must stay true: **a manifest names only a durable index, an index only durable segments**: data is published,
//! then the index, then the manifest, each durable before the next begins. A crash at any step leaves at worst
//! objects that no manifest names. Readers take no lock. Names are checked when made ([`crate::format`]'s ids),
//! keys are exact and never prefixes.

mod ahead;
mod check;
mod drop;
mod examine;
mod fill;
mod index;
mod keys;
mod lease;
mod location;
mod lock;
mod maps;
mod memory;
mod mover;
mod near;
mod net;
mod open;
mod orphans;
mod overlay;
mod parity;
mod points;
mod read;
mod rebuild;
mod resealing;
mod run;
mod share;
mod spare;
mod store;
mod stream;
mod superseded;
mod transfer;
mod unlock;
mod unseal;
mod upload;
mod writer;

pub use check::{Damage, Report, check, check_some};
pub use drop::Swept;
pub use location::{Location, endpoint};
pub use lock::DeviceLock;
pub use memory::Memory;
pub use net::Access;
pub use open::Repository;
pub use parity::{Parity, ParityState, mend_config};
pub use points::{PointEntry, PointState};
pub use read::{Content, Piece, Stored};
pub use share::{Read, Share};
pub use superseded::Freed;
pub use unlock::{Kept, KeySource, NoKey, choose_keys, no_key};
pub use writer::{FinishInfo, NewPoint, PointWriter};

pub(crate) use ahead::ahead;
pub(crate) use index::IndexReader;
pub(crate) use maps::NewMap;
pub(crate) use mover::Moved;
pub(crate) use overlay::{PieceStream, is_lost, lost_pieces, stack};
pub(crate) use run::Run;
pub(crate) use transfer::Taking;

use crate::error::{Error, Kind};

/// An object that a manifest or index names is missing: that is damage, not a wrong request.
fn lost(error: Error) -> Error {
    if error.kind() == Kind::NotFound {
        return Error::caused(Kind::Damaged, "an object that must be there is missing", error);
    }
    error
}

/// Something stored is not there or not readable, as opposed to a wrong request or our own mistake.
pub(crate) const fn is_harm(error: &Error) -> bool {
    matches!(error.kind(), Kind::Damaged | Kind::NotFound | Kind::Incompatible | Kind::Io)
}

/// Now, in Unix milliseconds.
pub(crate) fn unix_millis() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |d| d.as_millis() as u64)
}

fn tool() -> String {
    concat!("blkdelta ", env!("CARGO_PKG_VERSION")).to_owned()
}
