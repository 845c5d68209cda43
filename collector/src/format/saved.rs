//! What is kept over a reboot for one tracked device: a record (JSON), and at a clean stop the saved map (binary).
//!
//! ```text
//!   record  {"check":…, magic, version, …, "body": identity, geometry, session, base, saved?}
//!   map     "blkdSAV\n" | version 2, 0 2, incompatible 4, compatible 4, bare length 4 | zstd(body) | BLAKE3 32
//!   body    save's ulid 16 | session 16 | granularity 8 | size 8 | n 4 | n × (gap, length) in areas, varints
//! ```
//! Must stay true: a map is believed only if its bytes are the very ones the record names by hash; whatever else
//! lies there is an error, never a shorter list.

use super::envelope::{Body, open, seal};
use super::header::refuse_newer;
use super::varint::{Reader, put_varint};
use super::{Blake3, MAX_DEVICE, VERSION, damaged};
use crate::block::{Extent, ExtentSet, Granularity};
use crate::error::{Error, Kind, Result};
use serde::{Deserialize, Serialize};

const RECORD_MAGIC: &str = "blkdelta device";
const MAP_MAGIC: &[u8; 8] = b"blkdSAV\n";
const HEAD: usize = 24;
const HASH: usize = 32;
/// The most extents in a map; the difference list that it holds has no more.
const MAX_EXTENTS: usize = 2 << 20;
/// The longest body: two numbers of at most ten bytes each.
const MAX_BODY: usize = 64 + MAX_EXTENTS * 20;

/// The recovery point that a difference is relative to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// The repository's uuid.
    pub repo: String,
    /// The point's id.
    pub point: String,
}

/// A point from which a difference can be made: everything that changed since it is in a list or still pending.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartPoint {
    /// The point.
    pub base: Base,
    /// It holds the whole device by itself.
    pub full: bool,
    /// Somebody asked for it to be kept.
    pub pinned: bool,
    /// Unix milliseconds: the difference began.
    pub since_ms: u64,
    /// The first epoch after it.
    pub first: u64,
    /// What changed since and is in a later point already. `None`: nothing yet.
    pub list: Option<ListRef>,
    /// Why all of that may be incomplete; empty: it is proved.
    pub suspect: Vec<String>,
}

/// A file that lists what changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListRef {
    /// Its number, in the stretch of tracking.
    pub number: u64,
    /// Hash of its bytes.
    pub hash: Blake3,
    /// Its length.
    pub bytes: u64,
}

/// Bytes of the device that cannot stay the same if somebody writes to a part of it, and their hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Witness {
    /// Of which part of the device it tells.
    pub part: Extent,
    /// What it is, for people and for comparing: `ext4 super block`, `every byte`…
    pub what: String,
    /// Hash of the bytes.
    pub digest: Blake3,
}

/// A clean stop: everything that was known is in the map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// Hash of the map's bytes.
    pub map: Blake3,
    /// Unix milliseconds of the save.
    pub time: u64,
    /// Why the map may be incomplete all the same; empty if it was proved.
    pub suspect: Vec<String>,
    /// What must be as it was if nobody wrote since.
    pub witnesses: Vec<Witness>,
}

/// What is known about a tracked device while nothing runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// What makes the device this one, whatever its name.
    pub identity: String,
    /// The identity is the device's own, not merely its name here.
    pub certain: bool,
    /// The path it had, for people.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Bytes of a logical block.
    pub logical_block: u32,
    /// Area size.
    pub granularity: Granularity,
    /// The stretch of tracking.
    pub session: String,
    /// What its difference is relative to.
    pub base: Option<Base>,
    /// Points from which a difference can be made; the base is the last of them.
    #[serde(default)]
    pub starts: Vec<StartPoint>,
    /// Repositories whose last full point stays a start point.
    #[serde(default)]
    pub keep_full: Vec<String>,
    /// Unix milliseconds: the difference began.
    pub difference_since: u64,
    /// The running epoch when this was written.
    pub epoch: u64,
    /// The boot it was tracked in.
    pub boot: String,
    /// We made the device read-only for a save: to be undone if tracking goes on.
    pub fenced: bool,
    /// Present: stopped cleanly. Absent: it was running, and what it marked since is lost.
    pub saved: Option<Saved>,
}

impl Record {
    /// The file's bytes.
    ///
    /// # Errors
    /// If it is too long.
    pub fn encode(&self) -> Result<Vec<u8>> {
        seal(RECORD_MAGIC, self, Body::Plain)
    }

    /// Checks and reads.
    ///
    /// # Errors
    /// Damaged, or incompatible.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let record: Self = open(RECORD_MAGIC, bytes, Body::Plain)?;
        if record.size > MAX_DEVICE {
            return Err(damaged("record of a device beyond the largest"));
        }
        Ok(record)
    }
}

/// The areas that had changed when tracking stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedMap {
    /// Of this one save: two saves are never the same bytes.
    pub id: [u8; 16],
    /// The stretch of tracking (its ulid).
    pub session: [u8; 16],
    /// Area size.
    pub granularity: Granularity,
    /// Bytes of the device.
    pub size: u64,
    /// The areas, widened to whole ones.
    pub extents: ExtentSet,
}

impl SavedMap {
    /// The file's bytes.
    ///
    /// # Errors
    /// `Bug` if there are more extents than a list may have.
    pub fn encode(&self) -> Result<Vec<u8>> {
        if self.extents.len() > MAX_EXTENTS {
            return Err(Error::new(Kind::Bug, format!("save a map of {} extents", self.extents.len())));
        }
        let mut body = Vec::with_capacity(64 + self.extents.len() * 4);
        body.extend_from_slice(&self.id);
        body.extend_from_slice(&self.session);
        body.extend_from_slice(&self.granularity.bytes().to_le_bytes());
        body.extend_from_slice(&self.size.to_le_bytes());
        let unit = self.granularity.bytes();
        // whole areas: extents that touch the same one become one
        let areas: Vec<Extent> = self.extents.align_out(unit, u64::MAX).iter().copied().collect();
        body.extend_from_slice(&(areas.len() as u32).to_le_bytes());
        let mut at = 0;
        for extent in &areas {
            put_varint(&mut body, extent.offset / unit - at);
            put_varint(&mut body, extent.length / unit);
            at = extent.end() / unit;
        }
        let packed = zstd::bulk::compress(&body, 1).map_err(|e| Error::os("pack a saved map", e))?;
        let mut bytes = Vec::with_capacity(HEAD + packed.len() + HASH);
        bytes.extend_from_slice(MAP_MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&[0; 10]);
        bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&packed);
        let hash = Blake3::of(&bytes);
        bytes.extend_from_slice(&hash.0);
        Ok(bytes)
    }

    /// Checks every byte and reads.
    ///
    /// # Errors
    /// Damaged, or incompatible.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let Some((front, hash)) = bytes.split_last_chunk::<HASH>().filter(|(front, _)| front.len() >= HEAD)
        else {
            return Err(damaged("saved map: cut short"));
        };
        if Blake3::of(front).0 != *hash {
            return Err(damaged("saved map: its check does not fit its bytes"));
        }
        let mut r = Reader::new(front);
        if r.array()? != *MAP_MAGIC {
            return Err(damaged("not a saved map: wrong first bytes"));
        }
        let (version, reserved) = (r.u16()?, r.u16()?);
        let (incompatible, _compatible) = (r.u32()?, r.u32()?);
        refuse_newer("saved map", u64::from(version), u64::from(incompatible), 0)?;
        let length = r.u32()? as usize;
        if reserved != 0 || length > MAX_BODY {
            return Err(damaged("saved map: impossible head"));
        }
        let body = zstd::bulk::decompress(&front[HEAD..], length)
            .map_err(|e| Error::caused(Kind::Damaged, "saved map: cannot be unpacked", e))?;
        if body.len() != length {
            return Err(damaged("saved map: shorter than it says"));
        }
        Self::decode_body(&body)
    }

    fn decode_body(body: &[u8]) -> Result<Self> {
        let mut r = Reader::new(body);
        let (id, session) = (r.array()?, r.array()?);
        let granularity = Granularity::try_from(r.u64()?).map_err(damaged)?;
        let (size, count) = (r.u64()?, r.u32()?);
        if size > MAX_DEVICE || count as usize > MAX_EXTENTS {
            return Err(damaged("saved map: of an impossible device"));
        }
        let (unit, areas) = (granularity.bytes(), granularity.areas(size));
        let (mut extents, mut at) = (ExtentSet::new(), 0u64);
        for _ in 0..count {
            let (gap, length) = (r.varint()?, r.varint()?);
            let first = at.checked_add(gap).filter(|first| *first <= areas);
            let end = first.and_then(|first| first.checked_add(length)).filter(|end| *end <= areas);
            let (Some(first), Some(end), 1..) = (first, end, length) else {
                return Err(damaged("saved map: areas beyond the device"));
            };
            extents.push(Extent::between(first * unit, (end * unit).min(size)));
            at = end;
        }
        r.end()?;
        Ok(Self { id, session, granularity, size, extents })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn map(extents: Vec<(u64, u64)>) -> SavedMap {
        let size = 100 << 20;
        let extents = extents.into_iter().map(|(at, length)| Extent::new(at, length));
        let extents = extents.filter_map(|e| e.intersect(&Extent::new(0, size))).collect();
        SavedMap { id: [1; 16], session: [2; 16], granularity: Granularity::default(), size, extents }
    }

    #[test]
    fn every_byte_counts() {
        let bytes = map(vec![(0, 4096), (1 << 20, 8192)]).encode().unwrap();
        for i in 0..bytes.len() {
            assert!(SavedMap::decode(&bytes[..i]).is_err());
            for bit in 0..8 {
                let mut bad = bytes.clone();
                bad[i] ^= 1 << bit;
                assert!(SavedMap::decode(&bad).is_err(), "byte {i} bit {bit}");
            }
        }
    }

    #[test]
    fn a_newer_one_is_named_as_such() {
        let mut bytes = map(vec![]).encode().unwrap();
        bytes[8] = 9;
        let end = bytes.len() - HASH;
        let hash = Blake3::of(&bytes[..end]);
        bytes[end..].copy_from_slice(&hash.0);
        assert_eq!(SavedMap::decode(&bytes).unwrap_err().kind(), Kind::Incompatible);
    }

    proptest! {
        #[test]
        fn nothing_is_lost(extents in prop::collection::vec((0u64..100 << 20, 1u64..9000), 0..60)) {
            let map = map(extents);
            let again = SavedMap::decode(&map.encode().unwrap()).unwrap();
            prop_assert!(map.extents.iter().all(|e| again.extents.contains(*e)));
            prop_assert_eq!(&again.extents, &map.extents.align_out(4096, map.size));
            prop_assert_eq!(SavedMap::decode(&again.encode().unwrap()).unwrap(), again);
        }
    }
}
