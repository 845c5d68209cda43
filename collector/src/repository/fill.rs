//! Filling segments with frames, one after the other, and handing them to the upload threads.

use super::Repository;
use super::upload::Uploader;
use crate::error::Result;
use crate::format::{EncodedFrame, RepositoryId, SEGMENT_TARGET, SegmentBuilder, SegmentRef};

/// Where new frames go.
pub(super) struct Filler {
    uploader: Uploader,
    repository: RepositoryId,
    segment: Option<SegmentBuilder>,
    sent: u32,
}

impl Filler {
    pub fn start(repository: &Repository) -> Result<Self> {
        let uploader = Uploader::start(&repository.store_handle())?;
        Ok(Self { uploader, repository: repository.uuid(), segment: None, sent: 0 })
    }

    /// Number of the segment that the next frame may still go into.
    pub const fn number(&self) -> u32 {
        self.sent
    }

    /// Puts a frame's bytes into the current segment; at which byte. Its number is then [`number`](Self::number).
    pub fn place(&mut self, frame: &EncodedFrame) -> Result<u32> {
        if self.segment.as_ref().is_some_and(SegmentBuilder::is_full) {
            self.send()?;
        }
        let segment = match &mut self.segment {
            Some(segment) => segment,
            empty => {
                let mut buffer = self.uploader.buffer();
                if self.sent > 0 {
                    // the second segment says: this is not a small point
                    buffer.reserve(SEGMENT_TARGET + (1 << 20));
                }
                empty.insert(SegmentBuilder::new(self.repository, buffer))
            }
        };
        segment.push(frame)
    }

    fn send(&mut self) -> Result<()> {
        let Some(segment) = self.segment.take() else { return Ok(()) };
        self.sent += 1;
        self.uploader.send(segment)
    }

    /// All segments, durable, in the order of their numbers.
    pub fn finish(&mut self) -> Result<Vec<SegmentRef>> {
        self.send()?;
        self.uploader.join()
    }
}
