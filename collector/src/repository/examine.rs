//! Every stored byte of segments: the hash of the whole, the footer, each frame; on all processors, each part by part,
//! so that no segment is whole in memory.
//!
//! What must stay true: each byte of a segment is hashed once, in order; each frame that its table knows is decoded and
//! compared with its hash; what is wrong with one never ends the examination of the others.

use super::{Repository, is_harm, keys};
use crate::block::Extent;
use crate::error::Result;
use crate::format::{
    Blake3, CELL, HEADER_LEN, Header, ObjectKind, SegmentRef, SegmentTable, StoredFrame, damaged,
};
use crate::seal::Rights;
use bytes::Bytes;
use crossbeam_channel::bounded;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes read at once: they stay in a processor's cache until they are decoded.
const PART: u64 = 1 << 20;

/// Threads at most: more than any store is fast.
const THREADS: usize = 8;

/// What was found in a segment.
#[derive(Default)]
pub(super) struct Examined {
    /// What is wrong with it.
    pub harm: Vec<String>,
    /// Bytes read whole.
    pub bytes: u64,
    /// Frames decoded and compared with their hash.
    pub frames: u64,
    /// Frames not decoded, because the key that was given cannot read content.
    pub sealed: u64,
}

/// Examines segments, several at once; `tell` gets each, in any order, on this thread.
///
/// # Errors
/// Only if the store itself fails, or what `tell` says.
pub(super) fn examine(
    repo: &Repository,
    segments: &[SegmentRef],
    tell: &mut dyn FnMut(&SegmentRef, Examined) -> Result<()>,
) -> Result<()> {
    let threads =
        std::thread::available_parallelism().map_or(1, usize::from).min(THREADS).min(segments.len());
    let next = AtomicUsize::new(0);
    let (say, said) = bounded(threads);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let (say, next) = (say.clone(), &next);
            scope.spawn(move || {
                while let Some(segment) = segments.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if say.send((segment, one(repo, segment))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(say);
        // dropped at the first failure: then the threads end
        said.into_iter().try_for_each(|(segment, examined)| tell(segment, examined?))
    })
}

/// One segment. What is wrong with it is no error.
fn one(repo: &Repository, segment: &SegmentRef) -> Result<Examined> {
    let mut found = Examined::default();
    let table = found.judge(repo.segment_table(segment))?;
    let frames = table.as_ref().map_or(&[][..], |table: &SegmentTable| &table.frames);
    let mut hasher = blake3::Hasher::new();
    let (mut raw, mut buf) = (vec![0; CELL as usize], Vec::new());
    for part in parts(frames, segment.len) {
        let key = keys::segment(segment.id);
        let bytes = repo.store().get_range(&key, part.extent.offset, part.extent.length);
        let Some(bytes) = found.judge(bytes)? else { return Ok(found) };
        found.bytes += part.extent.length;
        hasher.update(&bytes);
        if part.extent.offset == 0 {
            let header = head(repo, segment, &bytes);
            found.judge(header)?;
        }
        if repo.rights() == Some(Rights::Writer) {
            found.sealed += part.frames.len() as u64;
            continue;
        }
        for frame in part.frames {
            let decoded = decode(repo, segment, &part, frame, &bytes, &mut buf, &mut raw);
            found.frames += 1;
            found.judge(decoded)?;
        }
    }
    if Blake3(*hasher.finalize().as_bytes()) != segment.hash {
        found.harm.push("its bytes are not those its index was written for (hash)".into());
    }
    Ok(found)
}

impl Examined {
    /// `None` if it is harm; an error if the store itself failed.
    fn judge<T>(&mut self, outcome: Result<T>) -> Result<Option<T>> {
        match outcome {
            Ok(value) => Ok(Some(value)),
            Err(e) if is_harm(&e) => {
                self.harm.push(e.in_full());
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }
}

fn head(repo: &Repository, segment: &SegmentRef, bytes: &[u8]) -> Result<()> {
    let header = Header::decode(ObjectKind::Segment, bytes.get(..HEADER_LEN).unwrap_or_default())?;
    header.expect(repo.uuid(), segment.id.to_bytes())?;
    header.expect_sealed(repo.rights().is_some())
}

fn decode(
    repo: &Repository,
    segment: &SegmentRef,
    part: &Part<'_>,
    frame: &StoredFrame,
    bytes: &Bytes,
    buf: &mut Vec<u8>,
    raw: &mut [u8],
) -> Result<()> {
    let at = (u64::from(frame.offset) - part.extent.offset) as usize;
    let stored = bytes.get(at..at + frame.meta.stored_len as usize).unwrap_or_default();
    let content = raw.get_mut(..frame.meta.extent.length as usize);
    let content = content.ok_or_else(|| damaged("frame longer than a cell"))?;
    repo.decode(&frame.meta, segment.id, stored, buf, content)
}

/// A stretch of a segment, and the frames that lie in it.
struct Part<'a> {
    extent: Extent,
    frames: &'a [StoredFrame],
}

/// The segment in parts of about [`PART`] bytes that end where a frame ends; each byte in one of them.
fn parts(frames: &[StoredFrame], len: u64) -> Vec<Part<'_>> {
    let (mut parts, mut at, mut first) = (Vec::new(), 0, 0);
    for (n, frame) in frames.iter().enumerate() {
        let end = (u64::from(frame.offset) + u64::from(frame.meta.stored_len)).min(len);
        if end >= at + PART {
            parts.push(Part { extent: Extent::between(at, end), frames: &frames[first..=n] });
            (at, first) = (end, n + 1);
        }
    }
    let mut frames = &frames[first..];
    while at < len {
        // what follows the frames may be long, if nothing is known of them
        let end = if frames.is_empty() { len.min(at + PART) } else { len };
        parts.push(Part { extent: Extent::between(at, end), frames });
        (at, frames) = (end, &[]);
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{Codec, FrameHash, FrameMeta};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn each_byte_and_each_frame_is_in_one_part(
            lens in prop::collection::vec(1u32..400_000, 0..40), tail in 0u64..3 << 20,
        ) {
            let (mut frames, mut at) = (Vec::new(), HEADER_LEN as u32);
            for len in lens {
                let extent = Extent::new(u64::from(at) * CELL, 4096);
                let meta = FrameMeta { extent, codec: Codec::Zstd, stored_len: len, hash: FrameHash(0) };
                frames.push(StoredFrame { offset: at, meta });
                at += len;
            }
            let len = u64::from(at) + tail;
            let (mut end, mut seen) = (0, Vec::new());
            for part in parts(&frames, len) {
                prop_assert!(part.extent.offset == end && !part.extent.is_empty());
                end = part.extent.end();
                for frame in part.frames {
                    prop_assert!(u64::from(frame.offset) >= part.extent.offset);
                    prop_assert!(u64::from(frame.offset + frame.meta.stored_len) <= end);
                    seen.push(*frame);
                }
            }
            prop_assert_eq!(end, len);
            prop_assert_eq!(seen, frames);
        }
    }
}
