//! Filling segments with frames, one after the other, and handing them to the threads that store them.

use super::Repository;
use super::near::{Near, PART};
use super::upload::Uploader;
use crate::error::{Error, Kind, Result};
use crate::format::{EncodedFrame, SEGMENT_TARGET, SegmentBuilder, SegmentRef};
use crate::seal::Record;

/// Where new frames go.
pub(super) struct Filler {
    way: Way,
    repository: Repository,
    /// Sessions whose frames a segment may hold, in an encrypted repository.
    sessions: u32,
    segment: Option<SegmentBuilder>,
    sent: u32,
}

/// How segments get to the store.
enum Way {
    /// Part by part, into a local folder.
    Near(Near),
    /// Whole, over the network: what failed is sent again.
    Far(Uploader),
}

impl Filler {
    /// For frames of so many sessions.
    pub fn start(repository: &Repository, sessions: u32) -> Result<Self> {
        let store = repository.store_handle();
        let way = match store.folder() {
            Some(_) => Way::Near(Near::start(&store)?),
            None => Way::Far(Uploader::start(&store)?),
        };
        Ok(Self { way, repository: repository.clone(), sessions, segment: None, sent: 0 })
    }

    /// Number of the segment that the next frame may still go into.
    pub const fn number(&self) -> u32 {
        self.sent
    }

    /// Puts a frame's bytes into the current segment, a sealed one's with the record of its session; at which byte. Its
    /// number is then [`number`](Self::number).
    pub fn place(&mut self, frame: &EncodedFrame, session: Option<&Record>) -> Result<u32> {
        let no_room = |segment: &mut SegmentBuilder| session.is_some_and(|record| !segment.admit(record));
        if self.segment.as_mut().is_some_and(|segment| segment.is_full() || no_room(segment)) {
            self.send()?;
        }
        let segment = match &mut self.segment {
            Some(segment) => segment,
            empty => {
                let buffer = self.way.buffer(self.sent);
                empty.insert(match self.repository.keys() {
                    Some(keys) => SegmentBuilder::sealed(self.repository.uuid(), buffer, keys, self.sessions),
                    None => SegmentBuilder::new(self.repository.uuid(), buffer),
                })
            }
        };
        if no_room(segment) || session.is_some() != self.repository.keys().is_some() {
            return Err(Error::new(Kind::Bug, "place frame: sealed and not sealed do not go together"));
        }
        let at = segment.push(frame)?;
        if let Way::Near(near) = &mut self.way {
            near.part(segment, PART)?;
        }
        Ok(at)
    }

    fn send(&mut self) -> Result<()> {
        let Some(segment) = self.segment.take() else { return Ok(()) };
        self.sent += 1;
        match &mut self.way {
            Way::Near(near) => near.end(segment),
            Way::Far(uploader) => uploader.send(segment),
        }
    }

    /// All segments, durable, in the order of their numbers.
    pub fn finish(&mut self) -> Result<Vec<SegmentRef>> {
        self.send()?;
        match &mut self.way {
            Way::Near(near) => near.join(),
            Way::Far(uploader) => uploader.join(),
        }
    }
}

impl Way {
    /// For the next segment, after so many.
    fn buffer(&self, sent: u32) -> Vec<u8> {
        let Self::Far(uploader) = self else { return Vec::new() };
        let mut buffer = uploader.buffer();
        if sent > 0 {
            // the second segment says: this is not a small point
            buffer.reserve(SEGMENT_TARGET + (1 << 20));
        }
        buffer
    }
}
