//! A catalogue read back from the image of a point.

use crate::block::{Extent, ExtentSet};
use crate::chain::{Chain, Piece};
use crate::error::{Error, Kind, Result};
use crate::format::{CATALOGUE_HEADER, Node, NodeId, PageRef, Place, Root, decode_page};
use crate::repository::Repository;
use std::collections::BTreeMap;

/// Bytes of pages read at once, if there are that many in a row.
const BATCH: u64 = 8 << 20;

/// The files of a point.
#[derive(Debug, Default)]
pub struct Catalogue {
    /// Volumes, devices, pages.
    pub root: Root,
    /// Every file.
    pub nodes: BTreeMap<NodeId, Node>,
}

impl Catalogue {
    /// Reads the catalogue of a chain's top.
    ///
    /// # Errors
    /// [`Kind::Usage`] if it is no group's point; [`Kind::Damaged`] if something stored is not what was written.
    pub fn read(repo: &Repository, chain: &Chain) -> Result<Self> {
        let top = chain.top();
        if top.files.is_none() {
            let text = format!("point {} is of a device, not of a group of files", top.point);
            return Err(Error::new(Kind::Usage, text).hint("`blkdelta list` shows what each point is of"));
        }
        let what = || format!("read the catalogue of point {}", top.point);
        Self::read_all(repo, chain).map_err(|e| e.within(what()))
    }

    fn read_all(repo: &Repository, chain: &Chain) -> Result<Self> {
        let header = read_range(repo, chain, Extent::new(0, CATALOGUE_HEADER as u64))?;
        let length = Root::body_length(&header)?;
        let body = read_range(repo, chain, Extent::new(CATALOGUE_HEADER as u64, length))?;
        let root = Root::decode(&header, &body)?;
        let mut pages: Vec<&PageRef> = root.pages.iter().collect();
        pages.sort_unstable_by_key(|page| page.at);
        let (mut nodes, mut rest) = (BTreeMap::new(), &pages[..]);
        while let Some(first) = rest.first() {
            let near = rest.iter().take_while(|p| p.at + u64::from(p.length) <= first.at + BATCH).count();
            let (now, later) = rest.split_at(near.max(1));
            let end = now.iter().map(|p| p.at + u64::from(p.length)).max().unwrap_or(first.at);
            let bytes = read_range(repo, chain, Extent::between(first.at, end))?;
            for page in now {
                let at = (page.at - first.at) as usize;
                let page_nodes = decode_page(page, &bytes[at..at + page.length as usize])?;
                nodes.extend(page_nodes.into_iter().map(|node| (node.id, node)));
            }
            rest = later;
        }
        Ok(Self { root, nodes })
    }

    /// Everything of the image that the files and the catalogue take.
    pub fn area(&self) -> Result<ExtentSet> {
        let root = self.root.encode()?.len() as u64;
        let pages = self.root.pages.iter().map(|p| Extent::new(p.at, u64::from(p.length)));
        let mut all: Vec<Extent> = pages.chain([Extent::new(0, root)]).collect();
        all.extend(content(self.nodes.values()));
        Ok(ExtentSet::from_unsorted(all))
    }
}

/// What the content of `nodes` takes of the image.
pub(crate) fn content<'a>(nodes: impl Iterator<Item = &'a Node>) -> impl Iterator<Item = Extent> {
    nodes.flat_map(|node| &node.parts).filter_map(|part| match part.place {
        Place::Image(at) => Some(Extent::new(at, part.length)),
        Place::Reserved => None,
    })
}

/// The bytes of a range of a chain's image.
///
/// # Errors
/// [`Kind::Damaged`] if something stored is missing or is not what was written.
pub fn read_range(repo: &Repository, chain: &Chain, range: Extent) -> Result<Vec<u8>> {
    let pieces: Vec<Piece> = chain.pieces_in(range)?.collect::<Result<_>>()?;
    // what no piece covers is zero
    let mut bytes = vec![0; range.length as usize];
    repo.read_pieces(&pieces, &mut |extent, content| {
        let at = (extent.offset - range.offset) as usize;
        bytes[at..at + content.len()].copy_from_slice(content);
        Ok(())
    })?;
    Ok(bytes)
}
