//! Moving frames out of a segment into a new one, verbatim: the stored bytes are copied, not encoded again.
//!
//! What must stay true: a frame is verified before it is moved, so damage is never given a new, sound segment; of a
//! segment with a damaged frame nothing is moved; nothing is removed here.

use super::fill::Filler;
use super::lock::DeviceLock;
use super::{Repository, Stored};
use crate::block::Extent;
use crate::error::Result;
use crate::format::{EncodedFrame, SegmentId, SegmentRef, damaged};
use std::collections::HashMap;

/// Takes frames out of segments.
pub(crate) struct Mover {
    // before the lock: fields are dropped in this order
    filler: Filler,
    repository: Repository,
    places: HashMap<(SegmentId, u32), (u32, u32)>,
    read: u64,
    _lock: DeviceLock,
}

/// Where frames are now.
#[derive(Default)]
pub(crate) struct Moved {
    /// The new segments.
    pub segments: Vec<SegmentRef>,
    /// From segment and offset to the number of a new segment and the offset there.
    pub places: HashMap<(SegmentId, u32), (u32, u32)>,
}

impl Repository {
    /// Begins to move frames of the locked device.
    pub(crate) fn mover(&self, lock: &DeviceLock) -> Result<Mover> {
        let filler = Filler::start(self)?;
        Ok(Mover { filler, repository: self.clone(), places: HashMap::new(), read: 0, _lock: lock.clone() })
    }
}

impl Mover {
    /// Moves the frames at `offsets` (ascending) of a segment.
    ///
    /// # Errors
    /// [`crate::error::Kind::Damaged`] if one of them cannot be read: then none of this segment is moved. Whatever
    /// an upload met.
    pub fn take(&mut self, segment: &SegmentRef, offsets: &[u32]) -> Result<()> {
        let table = self.repository.segment_table(segment).map_err(super::lost)?;
        let mut wanted: Vec<(Extent, Stored)> = Vec::with_capacity(offsets.len());
        for &offset in offsets {
            let frame = table.at(offset).ok_or_else(|| damaged(format!("no frame at byte {offset}")))?.meta;
            wanted.push((frame.extent, Stored { segment: segment.id, offset, frame, skip: 0 }));
        }
        let mut frames = Vec::with_capacity(wanted.len());
        self.read += self.repository.read_frames(&wanted, &mut |s, data| {
            frames.push((s.offset, EncodedFrame { meta: s.frame, data }));
            Ok(())
        })?;
        for (offset, frame) in frames {
            let at = self.filler.place(&frame)?;
            self.places.insert((segment.id, offset), (self.filler.number(), at));
        }
        Ok(())
    }

    /// Bytes of segments read so far.
    pub const fn read(&self) -> u64 {
        self.read
    }

    /// Makes the new segments durable.
    ///
    /// # Errors
    /// What an upload met.
    pub fn finish(mut self) -> Result<Moved> {
        Ok(Moved { segments: self.filler.finish()?, places: self.places })
    }
}
