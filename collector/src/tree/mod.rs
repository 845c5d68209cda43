//! Which files a group holds, what they are, and where their bytes lie.
//!
//! ```text
//!   paths, globs, excludes ─▶ walk ─▶ node: stat, attributes, names
//!                                      └─ parts: FIEMAP ─▶ image addresses   what it vouches for
//!                                                  └────▶ through the file   inline, encoded, delayed, elsewhere
//! ```
//!
//! What must stay true: a file that is picked is in the listing, or in the list of what could not be read; an address
//! in the listing is one that the file system itself named for exactly these bytes; the walk changes nothing, access
//! times neither.

mod inodes;
mod node;
mod parts;
mod pick;
mod renew;
mod view;
mod volumes;
mod walk;

pub use pick::{Pick, Picker};
pub(crate) use renew::{Known, Renewed, renew};
pub(crate) use view::{Layout, View};
pub use volumes::{Seat, Volumes, devices_below, place_of, sync};
pub use walk::{Listing, walk};

use crate::format::{Moment, NodeId};
use rustix::fs::OFlags;
use std::fs::File;

/// Opens a file to read it, without a trace: no access time, no waiting for the other end of a pipe, no following of a
/// link in its place.
pub(crate) fn open_quietly(
    folder: impl std::os::fd::AsFd,
    name: impl rustix::path::Arg + Copy,
) -> rustix::io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mode = rustix::fs::Mode::empty();
    // only its owner may leave the access time alone
    match rustix::fs::openat(&folder, name, flags | OFlags::NOATIME, mode) {
        Err(rustix::io::Errno::PERM) => Ok(rustix::fs::openat(&folder, name, flags, mode)?.into()),
        opened => Ok(opened?.into()),
    }
}

/// A range of a file that is read through the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Through {
    /// The file.
    pub id: NodeId,
    /// First byte of it.
    pub at: u64,
    /// Bytes.
    pub length: u64,
    /// When the file last changed.
    pub changed: Moment,
}

/// Bytes of a range that is read through the file at most: what is stored anew if one of them changes.
pub const THROUGH_CHUNK: u64 = 1 << 20;
