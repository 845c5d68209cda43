//! The catalogue of files in the image of a group's point: laid out, and read back from a chain.
//!
//! ```text
//!   nodes ─cut by their ids─▶ pages ─same as the parent's? ─▶ stay where they are
//!                                  └─ new ─▶ first free place ─▶ root
//! ```
//! Where a page ends follows from its nodes' ids alone, so one more file changes one page, not all that follow.
//!
//! What must stay true: a page that stays has the very bytes that the parent's image has there; pages never overlap.

mod read;

pub(crate) use read::content;
pub use read::{Catalogue, read_range};

use crate::block::{BLOCK, Extent, ExtentSet};
use crate::error::Result;
use crate::format::{FrameHash, Node, NodeId, PAGES_AT, PageRef, Root, THROUGH_AT, encode_page};
use std::collections::{BTreeMap, HashMap};

/// Nodes of a page at most.
const MOST: usize = 2048;

/// A page ends before a node whose id's hash begins with so many zero bits: about 256 nodes.
const BITS: u32 = 8;

/// A catalogue as it is to be stored.
#[derive(Debug)]
pub struct Laid {
    /// The root.
    pub root: Root,
    /// What is not in the parent's image yet, by address.
    pub new: BTreeMap<u64, Vec<u8>>,
    /// Everything the catalogue takes in the image.
    pub area: ExtentSet,
}

/// Lays out `nodes` in pages, `root` being all but these; pages of `parent` are used again.
///
/// # Errors
/// If the catalogue is too long.
pub fn lay_out(nodes: &BTreeMap<NodeId, Node>, root: Root, parent: Option<&Root>) -> Result<Laid> {
    let old = parent.map(|root| root.pages.as_slice()).unwrap_or_default();
    let old: HashMap<u128, &PageRef> = old.iter().map(|page| (page.hash, page)).collect();
    let (mut pages, mut fresh, mut kept) = (Vec::new(), Vec::new(), Vec::new());
    for run in runs(nodes) {
        let bytes = encode_page(&run)?;
        let (first, hash) = (run[0].id, FrameHash::of(&bytes).0);
        let page = PageRef { first, at: 0, length: bytes.len() as u32, nodes: run.len() as u32, hash };
        match old.get(&hash).filter(|old| PageRef { at: 0, ..***old } == page) {
            Some(old) => {
                kept.push(Extent::new(old.at, u64::from(old.length)));
                pages.push(**old);
            }
            None => {
                fresh.push((pages.len(), bytes));
                pages.push(page);
            }
        }
    }
    let mut free = Free::besides(kept, Extent::between(PAGES_AT, THROUGH_AT));
    let mut new = BTreeMap::new();
    for (place, bytes) in fresh {
        let at = free.take(bytes.len() as u64);
        pages[place].at = at;
        new.insert(at, bytes);
    }
    let root = Root { pages, ..root };
    let bytes = root.encode()?;
    let mut area: Vec<Extent> = root.pages.iter().map(|p| Extent::new(p.at, u64::from(p.length))).collect();
    area.push(Extent::new(0, bytes.len() as u64));
    if parent != Some(&root) {
        new.insert(0, bytes);
    }
    Ok(Laid { root, new, area: ExtentSet::from_unsorted(area) })
}

/// The nodes of each page.
fn runs(nodes: &BTreeMap<NodeId, Node>) -> impl Iterator<Item = Vec<&Node>> {
    let mut left = nodes.values().peekable();
    std::iter::from_fn(move || {
        let mut run = vec![left.next()?];
        while run.len() < MOST {
            match left.next_if(|node| !begins_a_page(node.id)) {
                Some(node) => run.push(node),
                None => break,
            }
        }
        Some(run)
    })
}

fn begins_a_page(id: NodeId) -> bool {
    let mixed = (id.inode ^ u64::from(id.volume) << 48).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed >> (64 - BITS) == 0
}

/// Addresses nobody has yet, handed out from the lowest up in whole blocks.
#[derive(Debug)]
pub struct Free {
    gaps: std::vec::IntoIter<Extent>,
    now: Extent,
}

impl Free {
    /// What `taken` leaves of `room`.
    pub fn besides(taken: Vec<Extent>, room: Extent) -> Self {
        let taken = ExtentSet::from_unsorted(taken).align_out(BLOCK, room.end());
        let gaps: Vec<Extent> = taken.complement(room.end()).within(room).into();
        Self { gaps: gaps.into_iter(), now: Extent::new(room.end(), 0) }
    }

    /// The first place with so much room after those handed out before.
    pub fn take(&mut self, length: u64) -> u64 {
        let length = length.div_ceil(BLOCK) * BLOCK;
        while self.now.length < length {
            let Some(next) = self.gaps.next() else { break };
            self.now = next;
        }
        let at = self.now.offset;
        self.now = Extent::between(at + length, self.now.end());
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{NodeKind, Text, decode_page};

    fn nodes(inodes: impl Iterator<Item = u64>) -> BTreeMap<NodeId, Node> {
        let node = |inode| Node {
            target: Text(vec![7; inode as usize % 50]),
            ..Node::bare(NodeId { volume: 0, inode }, NodeKind::Fifo)
        };
        inodes.map(node).map(|n| (n.id, n)).collect()
    }

    #[test]
    fn one_file_more_or_less_changes_a_page_or_two() {
        let all = nodes((0..20_000).map(|n| n * 3));
        let first = lay_out(&all, Root::default(), None).unwrap();
        assert!(first.root.pages.len() > 40 && first.new.len() == first.root.pages.len() + 1);
        let again = lay_out(&all, Root::default(), Some(&first.root)).unwrap();
        assert!(again.new.is_empty(), "nothing changed, nothing is stored");
        let mut more = all;
        more.extend(nodes([10_000].into_iter()));
        more.remove(&NodeId { volume: 0, inode: 30_000 });
        let second = lay_out(&more, Root::default(), Some(&first.root)).unwrap();
        assert!((2..=5).contains(&second.new.len()), "{}", second.new.len());
        let places: u64 = second.root.pages.iter().map(|p| u64::from(p.length)).sum();
        let root = second.new.get(&0).unwrap().len() as u64;
        assert_eq!(second.area.total(), places + root, "no two overlap");
    }

    #[test]
    fn pages_hold_all_nodes_in_order() {
        let all = nodes(5..9000);
        let laid = lay_out(&all, Root::default(), None).unwrap();
        let read = laid.root.pages.iter().flat_map(|page| decode_page(page, &laid.new[&page.at]).unwrap());
        assert!(read.eq(all.values().cloned()));
    }

    #[test]
    fn what_is_taken_is_not_handed_out() {
        let room = Extent::new(8192, 1 << 30);
        let mut free = Free::besides(vec![Extent::new(12_288, 1), Extent::new(20_480, 4096)], room);
        assert_eq!([free.take(1), free.take(4096), free.take(4097)], [8192, 16_384, 24_576]);
    }
}
