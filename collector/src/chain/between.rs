//! What differs between two points: told by the hashes of their indexes; content is read only where these cannot tell.
//!
//! ```text
//!   A  |--- frame 1 ---|   zero   |- part of 2 -|        the same frame, or the same hash of the same place: equal
//!   B  |--- frame 7 ---|          |--- 9 ---|            another hash of the same place: differs
//!      '---- hash -----'          '- read --'            other cuts: both are read and compared block by block
//! ```
//!
//! Must stay true: every block that differs is listed. More may be, in runs of at most a cell, unless asked to be
//! exact: a hash speaks of a whole frame.

use super::{Chain, Pieces};
use crate::block::{BLOCK, Extent, ExtentSet};
use crate::error::Result;
use crate::repository::{Content, Piece};
use std::iter::Peekable;

/// Content compared in one go, of each of the two.
const BATCH: u64 = 4 << 20;

/// What differs between two points.
#[derive(Clone, Debug)]
pub struct Between {
    /// Where. What only the larger one has differs.
    pub extents: ExtentSet,
    /// Bytes whose content had to be compared.
    pub read: u64,
}

/// Where two points differ; `exact` to the block, even where hashes could tell. `reached` is told the address, and
/// may end it with an error.
///
/// # Errors
/// If an index, or content that must be read, cannot be.
pub fn between(
    a: &Chain,
    b: &Chain,
    exact: bool,
    reached: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<Between> {
    let sizes = [a.top().geometry.size, b.top().geometry.size];
    let (size, longer) = (sizes[0].min(sizes[1]), sizes[0].max(sizes[1]));
    let mut sides = [Side(a.pieces()?.peekable()), Side(b.pieces()?.peekable())];
    let mut work = Comparison { chains: [a, b], found: Vec::new(), open: Vec::new(), waiting: 0, read: 0 };
    let mut at = 0;
    while at < size {
        let end = sides[0].reach(at)?.min(sides[1].reach(at)?).min(size);
        let stretch = Extent::between(at, end);
        let contents = [sides[0].content(stretch), sides[1].content(stretch)];
        match verdict(stretch, &contents) {
            Verdict::Same => {}
            Verdict::Differs if !exact => work.differs(stretch),
            Verdict::Differs | Verdict::Open => work.defer(stretch, contents)?,
        }
        at = end;
        reached(at)?;
    }
    work.settle()?;
    work.differs(Extent::between(size, longer));
    Ok(Between { extents: ExtentSet::from_unsorted(work.found), read: work.read })
}

/// One point's pieces from the front.
struct Side(Peekable<Pieces>);

impl Side {
    /// Up to where nothing changes from `at` on: the end of the piece there, or the beginning of the next.
    fn reach(&mut self, at: u64) -> Result<u64> {
        while self.0.next_if(|p| p.as_ref().is_ok_and(|p| p.extent.end() <= at)).is_some() {}
        match self.0.next_if(Result::is_err) {
            Some(failed) => failed.map(|piece| piece.extent.end()),
            None => {
                Ok(self.0.peek().and_then(|p| p.as_ref().ok()).map_or(u64::MAX, |p| {
                    if p.extent.offset > at { p.extent.offset } else { p.extent.end() }
                }))
            }
        }
    }

    /// What is in a stretch that [`reach`](Self::reach) allowed.
    fn content(&mut self, stretch: Extent) -> Content {
        let front = self.0.peek().and_then(|p| p.as_ref().ok());
        let here = front.filter(|p| p.extent.offset <= stretch.offset);
        here.map_or(Content::Zero, |piece| piece.cut(stretch).content)
    }
}

/// What the indexes say of a stretch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Same,
    /// Somewhere in it.
    Differs,
    /// They cannot tell.
    Open,
}

fn verdict(stretch: Extent, contents: &[Content; 2]) -> Verdict {
    match contents {
        [Content::Zero, Content::Zero] => Verdict::Same,
        // a frame that is stored is not all zero; a part of it may be
        [Content::Stored(s), Content::Zero] | [Content::Zero, Content::Stored(s)] => {
            if s.frame.extent == stretch { Verdict::Differs } else { Verdict::Open }
        }
        [Content::Stored(a), Content::Stored(b)] => {
            let place = a.frame.extent == b.frame.extent;
            match place && a.frame.hash == b.frame.hash {
                true => Verdict::Same,
                false if place && a.frame.extent == stretch => Verdict::Differs,
                false => Verdict::Open,
            }
        }
        _ => Verdict::Open,
    }
}

/// What was found, and what still has to be read.
struct Comparison<'a> {
    chains: [&'a Chain; 2],
    found: Vec<Extent>,
    open: Vec<(Extent, [Content; 2])>,
    waiting: u64,
    read: u64,
}

impl Comparison<'_> {
    fn differs(&mut self, extent: Extent) {
        match self.found.last_mut() {
            Some(last) if last.end() == extent.offset => last.length += extent.length,
            _ => self.found.push(extent),
        }
    }

    fn defer(&mut self, stretch: Extent, contents: [Content; 2]) -> Result<()> {
        self.open.push((stretch, contents));
        self.waiting += stretch.length;
        if self.waiting >= BATCH { self.settle() } else { Ok(()) }
    }

    /// Reads both sides of what is open, and compares block by block.
    fn settle(&mut self) -> Result<()> {
        let open = std::mem::take(&mut self.open);
        let [ours, theirs] = [self.bytes(0, &open)?, self.bytes(1, &open)?];
        let mut at = 0;
        for (stretch, _) in &open {
            let blocks = (stretch.offset..stretch.end()).step_by(BLOCK as usize);
            for block in blocks.map(|from| Extent::between(from, (from + BLOCK).min(stretch.end()))) {
                let range = at..at + block.length as usize;
                at = range.end;
                if ours[range.clone()] != theirs[range] {
                    self.differs(block);
                }
            }
        }
        self.read += std::mem::take(&mut self.waiting);
        Ok(())
    }

    /// The content of one side of all open stretches, back to back.
    fn bytes(&self, side: usize, open: &[(Extent, [Content; 2])]) -> Result<Vec<u8>> {
        let pieces: Vec<Piece> =
            open.iter().map(|(extent, both)| Piece { extent: *extent, content: both[side] }).collect();
        let mut bytes = vec![0; self.waiting as usize];
        self.chains[side].repository.read_into(&pieces, &mut bytes)?;
        Ok(bytes)
    }
}
