//! Where recovery points are kept: store, publish, lock, check. Knows nothing of how changes are found.
//!
//! ```text
//!   repo.json                       that this is a repository, and which; put-if-absent
//!   seg/<2 hex>/<ulid>              data, about 32 MiB each
//!   idx/<device>/<point>            the point's pieces
//!   bak/<device>/<point>.json       manifest = commit, written last
//!   lock/<device>                   local repositories: flock, one writer per device
//!   map/ del/                       reserved
//! ```
//!
//! Must stay true: **a manifest names only a durable index, an index only durable segments**: data is published,
//! then the index, then the manifest, each durable before the next begins. A crash at any step leaves at worst
//! objects that no manifest names. Readers take no lock. Names are checked when made ([`crate::format`]'s ids),
//! keys are exact and never prefixes.

use crate::block::{Extent, Granularity};
use crate::error::Result;
use crate::format::*;
use std::path::Path;
use std::sync::Arc;

/// An open repository; clones share it.
#[derive(Clone)]
pub struct Repository {
    inner: Arc<()>,
}

/// A recovery point as the listing knows it.
#[derive(Clone, Debug)]
pub struct PointEntry {
    /// Its name.
    pub id: PointId,
    /// The device's name.
    pub device: DeviceId,
    /// Its manifest, or what is wrong with it.
    pub state: PointState,
}

/// A listed point's manifest, or what is wrong with it.
#[derive(Clone, Debug)]
pub enum PointState {
    /// Readable.
    Good {
        /// The manifest.
        manifest: Box<Manifest>,
        /// Hash of the manifest object.
        hash: Blake3,
    },
    /// Not readable: the reason, for people.
    Damaged(String),
}

impl Repository {
    /// Makes a repository in a folder that is empty or does not exist.
    pub fn create(location: &str) -> Result<Self> {
        todo!()
    }
    /// Opens one.
    pub fn open(location: &str) -> Result<Self> {
        todo!()
    }
    /// Opens one, or makes it if there is nothing.
    pub fn open_or_create(location: &str) -> Result<Self> {
        todo!()
    }
    /// Its identity.
    pub fn uuid(&self) -> RepositoryId {
        todo!()
    }
    /// Its folder, if it is local.
    pub fn local_path(&self) -> Option<&Path> {
        todo!()
    }
    /// All points of all devices, newest last; damaged ones are listed as such.
    pub fn points(&self) -> Result<Vec<PointEntry>> {
        todo!()
    }
    /// All points of one device, newest last.
    pub fn points_of(&self, device: &DeviceId) -> Result<Vec<PointEntry>> {
        todo!()
    }
    /// The point a person named: `latest`, or an exact id; of `device` only, if given.
    pub fn resolve(&self, name: &str, device: Option<&DeviceId>) -> Result<(DeviceId, PointId)> {
        todo!()
    }
    /// A point's manifest and the hash of the manifest object.
    pub fn manifest(&self, device: &DeviceId, point: PointId) -> Result<(Manifest, Blake3)> {
        todo!()
    }
    /// Takes the writer's lock of one device; [`crate::error::Kind::Busy`] if another has it.
    pub fn lock(&self, device: &DeviceId) -> Result<DeviceLock> {
        todo!()
    }
    /// Begins a point.
    pub fn begin(&self, lock: &DeviceLock, new: NewPoint) -> Result<PointWriter> {
        todo!()
    }
    /// Reads and verifies the content of `pieces` (any order; reads are coalesced) and hands out each piece's bytes
    /// once, in an order of the store's liking.
    pub fn read_pieces(
        &self,
        pieces: &[Piece],
        sink: &mut dyn FnMut(Extent, &[u8]) -> Result<()>,
    ) -> Result<()> {
        todo!()
    }
    /// Reads and verifies one piece.
    pub fn read_piece(&self, piece: &Piece) -> Result<Vec<u8>> {
        todo!()
    }
}

/// A run of bytes of the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where on the device.
    pub extent: Extent,
    /// What is there.
    pub content: Content,
}

/// What a piece of an image is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Zeros.
    Zero,
    /// Part of a stored frame.
    Stored(Stored),
}

/// Part of a stored frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The segment the frame is in.
    pub segment: SegmentId,
    /// Its first stored byte there.
    pub offset: u32,
    /// The whole frame.
    pub frame: FrameMeta,
    /// Bytes of the frame's content before the piece.
    pub skip: u32,
}

impl Piece {
    /// Hash of the piece's content, if it is a whole frame.
    pub fn whole_hash(&self) -> Option<FrameHash> {
        todo!()
    }
}

/// The right to write points of one device; clones share it, and it ends with the last.
#[derive(Clone)]
pub struct DeviceLock {
    inner: Arc<()>,
}

impl DeviceLock {
    /// The device.
    pub fn device(&self) -> &DeviceId {
        todo!()
    }
    /// Words about the dead writer this lock was taken over from, if there was one.
    pub fn taken_over(&self) -> Option<&str> {
        todo!()
    }
}

/// What is known when a backup begins.
#[derive(Clone, Debug)]
pub struct NewPoint {
    /// The device.
    pub device: DeviceIdent,
    /// Full (`None`), or incremental on this point.
    pub parent: Option<PointId>,
    /// The device's shape.
    pub geometry: Geometry,
    /// The tracking granularity.
    pub granularity: Granularity,
    /// The tracking session.
    pub session: Option<String>,
    /// Unix milliseconds.
    pub time_start: u64,
}

/// What is known when all is copied.
#[derive(Clone, Debug)]
pub struct FinishInfo {
    /// Unix milliseconds of the last cut.
    pub time_cut: u64,
    /// The epochs in it.
    pub epochs: Option<EpochRange>,
    /// What the image is an image of.
    pub consistency: Consistency,
    /// Why the difference could not be proved complete.
    pub suspect: Vec<String>,
    /// What was done about it.
    pub suspect_handled: Option<String>,
    /// What else a person should know.
    pub notes: Vec<String>,
    /// The passes.
    pub passes: Vec<PassStats>,
    /// Milliseconds the file systems stood still.
    pub freeze_ms: Option<u64>,
    /// Bytes that the difference lists said (full: used areas).
    pub changed_bytes: u64,
}

/// Writes one point. Dropped without [`finish`](Self::finish), it leaves at worst segments that nothing names.
pub struct PointWriter {
    inner: Arc<()>,
}

impl PointWriter {
    /// The point's name, already.
    pub fn point(&self) -> PointId {
        todo!()
    }
    /// Begins the next pass, whose frames shadow those of all passes before. The first pass is begun already.
    pub fn start_pass(&mut self) -> Result<()> {
        todo!()
    }
    /// Adds a frame; within a pass, addresses ascend.
    pub fn add(&mut self, frame: EncodedFrame) -> Result<()> {
        todo!()
    }
    /// Makes everything durable: segments, then the index, then the manifest.
    pub fn finish(self, info: FinishInfo) -> Result<Manifest> {
        todo!()
    }
}

/// What `check` found.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Report {
    /// Everything that is wrong.
    pub damages: Vec<Damage>,
    /// Points looked at.
    pub points: u64,
    /// Segments looked at.
    pub segments: u64,
    /// Frames decoded and compared with their hash.
    pub frames: u64,
    /// Bytes read.
    pub bytes_read: u64,
    /// Segments that no manifest names (left by failed backups): no damage.
    pub unreferenced: u64,
}

/// One thing that is wrong.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Damage {
    /// The object's key.
    pub object: String,
    /// What is wrong with it.
    pub what: String,
    /// The points that cannot be restored as they were because of it.
    pub points: Vec<PointId>,
}

/// Looks at everything a restore needs: structure, or with `read_data` every stored byte. `progress` gets bytes
/// done and bytes to do.
pub fn check(repo: &Repository, read_data: bool, progress: &mut dyn FnMut(u64, u64)) -> Result<Report> {
    todo!()
}
