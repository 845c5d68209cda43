//! What a recovery point is, and what a repository is: the two JSON objects.

use super::envelope::{Body, open, open_either, seal};
use super::{Blake3, CELL, DeviceId, MAX_DEVICE, ParityShare, PointId, RepositoryId, SegmentId, damaged};
use crate::block::Granularity;
use crate::error::Result;
use crate::seal::Cover;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

const POINT_MAGIC: &str = "blkdelta point";
const REPOSITORY_MAGIC: &str = "blkdelta repository";

/// `repo.json`: that this folder is a repository, and which.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepositoryConfig {
    /// Its identity.
    pub uuid: RepositoryId,
    /// Unix time in milliseconds of its creation.
    pub created: u64,
    /// Bytes of a cell.
    pub cell: u64,
    /// The program that made it.
    pub tool: String,
    /// Parity for everything in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parity: Option<ParityShare>,
    /// Everything in it is sealed, but this and the key ring.
    #[serde(skip)]
    pub encrypted: bool,
}

impl RepositoryConfig {
    /// The object's bytes.
    ///
    /// # Errors
    /// If it cannot be encoded (our mistake).
    pub fn encode(&self) -> Result<Vec<u8>> {
        seal(REPOSITORY_MAGIC, self, if self.encrypted { Body::Open } else { Body::Plain })
    }

    /// Checks and reads.
    ///
    /// # Errors
    /// Damaged, or incompatible.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let (config, encrypted) = open_either::<Self>(REPOSITORY_MAGIC, bytes)?;
        if config.cell != CELL {
            return Err(damaged(format!("repository with cells of {} bytes", config.cell)));
        }
        Ok(Self { encrypted, ..config })
    }
}

/// Which device a point is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceIdent {
    /// Its name in the repository.
    pub id: DeviceId,
    /// The path it was given by, for people.
    pub path: String,
    /// What else is known, for people and for finding it again: `serial`, `model`, `partuuid`, `fs_uuid`, `host`…
    #[serde(default)]
    pub facts: BTreeMap<String, String>,
}

/// Full or on top of another point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PointKind {
    /// Everything: what no piece covers is zero.
    Full,
    /// What changed: what no piece covers is as in the parent.
    Incremental,
}

/// The point below.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParentRef {
    /// Its id.
    pub point: PointId,
    /// Hash of its manifest object.
    pub manifest: Blake3,
}

/// The device's shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Geometry {
    /// Bytes.
    pub size: u64,
    /// Bytes of a logical block.
    pub logical_block: u32,
    /// Bytes of a physical block.
    pub physical_block: u32,
}

/// What the image is an image of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Consistency {
    /// The file systems were frozen at the cut.
    FileSystemFrozen,
    /// One instant, as after a power cut.
    Crash,
    /// No one instant: the device was written while it was copied.
    Fuzzy,
}

/// The epochs a point holds, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochRange {
    /// The first.
    pub first: u64,
    /// The last.
    pub last: u64,
}

/// One pass of a backup.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassStats {
    /// Extents copied.
    pub extents: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Duration in milliseconds.
    pub millis: u64,
}

/// Sums over a point.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Bytes that the difference lists said (full: used areas).
    pub changed_bytes: u64,
    /// Bytes given to the repository, over all passes.
    pub copied_bytes: u64,
    /// Bytes of the segments and the index as stored.
    pub stored_bytes: u64,
    /// Frames with bytes.
    pub frames: u64,
    /// Bytes of zeros among the copied, which took no room.
    pub zero_bytes: u64,
    /// Bytes the index covers: what this point alone says about the device.
    pub covered_bytes: u64,
}

/// The point's index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexRef {
    /// Its length in bytes.
    pub len: u64,
    /// Hash of all its bytes.
    pub hash: Blake3,
    /// Hash of its footer, for readers that do not read it all.
    pub footer: Blake3,
    /// Chunks in it.
    pub chunks: u64,
    /// Pieces in it.
    pub pieces: u64,
    /// Segments it names; the table is in the index's footer.
    pub segments: u64,
}

/// What the footers of a point's segments do not say, for writing its index again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rebuild {
    /// The segments, in the order of their numbers.
    pub segments: Vec<SegmentId>,
    /// Runs of zeros as the index has them: first byte and bytes.
    pub zeros: Vec<(u64, u64)>,
}

/// What a group's point holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Files {
    /// The group's name.
    pub group: String,
    /// Regular files in it.
    pub files: u64,
    /// Folders, links and the like.
    pub others: u64,
    /// Bytes of the regular files, holes too.
    pub bytes: u64,
    /// Files that could not be read: they are not in it.
    pub unread: u64,
}

/// The most segments or runs of zeros in a [`Rebuild`].
pub const MAX_REBUILD: usize = 2048;

/// One recovery point: written last, and with it the point exists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Its name.
    pub point: PointId,
    /// The repository it belongs to.
    pub repository: RepositoryId,
    /// The device.
    pub device: DeviceIdent,
    /// Full or incremental.
    pub kind: PointKind,
    /// The point below; present exactly for an incremental one.
    pub parent: Option<ParentRef>,
    /// Unix milliseconds: the backup began.
    pub time_start: u64,
    /// Unix milliseconds: the last cut, the moment the image shows.
    pub time_cut: u64,
    /// Unix milliseconds: everything was stored.
    pub time_end: u64,
    /// The device's shape.
    pub geometry: Geometry,
    /// The tracking granularity.
    pub granularity: Granularity,
    /// The tracking session the epochs belong to.
    pub session: Option<String>,
    /// The epochs in it.
    pub epochs: Option<EpochRange>,
    /// What the image is an image of.
    pub consistency: Consistency,
    /// Why the difference could not be proved complete; empty if it was.
    pub suspect: Vec<String>,
    /// What was done about it.
    pub suspect_handled: Option<String>,
    /// What else a person should know.
    #[serde(default)]
    pub notes: Vec<String>,
    /// The passes.
    pub passes: Vec<PassStats>,
    /// Milliseconds the file systems stood still.
    pub freeze_ms: Option<u64>,
    /// Sums.
    pub totals: Totals,
    /// The index.
    pub index: IndexRef,
    /// Of a group of files: the image is not a device's, and begins with a catalogue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<Files>,
    /// What it is sorted by in place of `time_cut`: the clock was behind that of the points before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<u64>,
    /// With the footers of its segments, enough to write the index again; absent where that would be long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rebuild: Option<Rebuild>,
    /// The program that wrote it.
    pub tool: String,
}

impl Manifest {
    /// The object's bytes.
    ///
    /// # Errors
    /// If it is too long.
    pub fn encode(&self) -> Result<Vec<u8>> {
        self.encode_in(None)
    }

    /// The same, sealed under `cover`, if there is one.
    ///
    /// # Errors
    /// If it is too long.
    pub fn encode_in(&self, cover: Option<Cover<'_>>) -> Result<Vec<u8>> {
        seal(POINT_MAGIC, self, Body::of(cover))
    }

    /// Checks and reads.
    ///
    /// # Errors
    /// Damaged, or incompatible.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        Self::decode_in(bytes, None)
    }

    /// The same, of one that was sealed under `cover`, if there is one.
    ///
    /// # Errors
    /// Damaged, or incompatible.
    pub fn decode_in(bytes: &[u8], cover: Option<Cover<'_>>) -> Result<Self> {
        let manifest: Self = open(POINT_MAGIC, bytes, Body::of(cover))?;
        if manifest.geometry.size > MAX_DEVICE {
            return Err(damaged("point of a device beyond the largest"));
        }
        if manifest.parent.is_some() != (manifest.kind == PointKind::Incremental) {
            return Err(damaged("a full point has no parent, an incremental one has"));
        }
        Ok(manifest)
    }

    /// This is the manifest that was asked for.
    ///
    /// # Errors
    /// Damaged, if it belongs to another repository, device or point.
    pub fn expect(&self, repository: RepositoryId, device: &DeviceId, point: PointId) -> Result<()> {
        if self.repository != repository {
            return Err(damaged(format!("manifest of another repository ({})", self.repository)));
        }
        if &self.device.id != device || self.point != point {
            let what = format!("the manifest of {}/{} lies under this name", self.device.id, self.point);
            return Err(damaged(what));
        }
        Ok(())
    }

    /// What it is sorted by: the moment of its cut, but after all points that were there when it was begun.
    pub fn sorted_at(&self) -> u64 {
        self.order.unwrap_or(self.time_cut)
    }

    /// It could not be proved that the difference list was complete, and nothing was done about it.
    pub fn is_suspect(&self) -> bool {
        !self.suspect.is_empty() && self.suspect_handled.is_none()
    }
}
