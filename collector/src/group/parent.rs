//! What a group's point stands on: the group's last point, and on which devices it is known what changed since.

use super::{Seated, tag};
use crate::block::ExtentSet;
use crate::catalogue::{Catalogue, content};
use crate::chain::Chain;
use crate::error::{Kind, Result};
use crate::format::{DeviceId, Node, NodeId, PointId, Root, THROUGH_AT, Volume};
use crate::repository::Repository;
use crate::seal::Rights;
use crate::tracker::Base;
use std::collections::{BTreeMap, HashMap};

/// The last point.
pub(super) struct Parent {
    pub chain: Chain,
    pub root: Root,
    /// Its files, until somebody takes them.
    pub nodes: BTreeMap<NodeId, Node>,
    /// What its image holds for files and catalogue.
    pub area: ExtentSet,
    /// Where ranges lie that were read through files.
    pub ranges: HashMap<(NodeId, u64, u64), u64>,
}

impl Parent {
    /// The group's newest point, or why there is none to build on.
    ///
    /// # Errors
    /// If the repository cannot be read.
    pub fn find(repo: &Repository, device: &DeviceId) -> Result<Result<Self, String>> {
        let points = repo.points_of(device)?;
        let Some(point) = points.iter().rev().find(|p| p.manifest().is_some_and(|m| m.files.is_some()))
        else {
            return Ok(Err("first of the group in this repository".into()));
        };
        if repo.rights() == Some(Rights::Writer) {
            // the list of files is content: what the group was is not known to who cannot read
            return Ok(Err(
                "the key of this host can write points and not read the last one's list of files".into(),
            ));
        }
        let read = || {
            let chain = Chain::resolve(repo, device, point.id)?;
            let catalogue = Catalogue::read(repo, &chain)?;
            Ok((chain, catalogue))
        };
        let (chain, catalogue) = match read() {
            Ok(read) => read,
            Err(e) => {
                let e: crate::error::Error = e;
                let harmed = matches!(e.kind(), Kind::Damaged | Kind::NotFound | Kind::Incompatible);
                let why = format!("the last point {} cannot be used: {}", point.id, e.in_full());
                return if harmed { Ok(Err(why)) } else { Err(e) };
            }
        };
        let mut ranges = HashMap::new();
        for node in catalogue.nodes.values() {
            for part in &node.parts {
                if let crate::format::Place::Image(at) = part.place
                    && at / THROUGH_AT == 1
                {
                    ranges.insert((node.id, part.at, part.length), at);
                }
            }
        }
        let area = catalogue.area()?;
        Ok(Ok(Self { chain, root: catalogue.root, nodes: catalogue.nodes, area, ranges }))
    }

    pub fn point(&self) -> PointId {
        self.chain.top().point
    }

    /// The volumes it knows.
    pub fn volumes(&self) -> Vec<Volume> {
        self.root.volumes.clone()
    }

    /// What changed on a device since this point; the inner failure is why that is not known.
    ///
    /// # Errors
    /// If a bitmap cannot be read.
    pub fn difference(
        &self,
        repo: &Repository,
        group: &str,
        seat: &Seated,
    ) -> Result<Result<ExtentSet, Vec<String>>> {
        let start = Base { repo: tag(repo, group), point: self.point().to_string() };
        let path = seat.path.display();
        let known = self.root.devices.iter().find(|d| d.id == seat.id);
        let Some(known) = known else { return Ok(Err(vec![format!("{path} is new to the group")])) };
        if known.session.as_deref() != Some(seat.ledger.session()) {
            return Ok(Err(vec![format!("{path}: the last point is of another tracking session")]));
        }
        if seat.ledger.base() != Some(&start) && !seat.ledger.starts().contains(&start) {
            let why = format!("{path}: what changed since the last point {} is not kept", start.point);
            return Ok(Err(vec![why]));
        }
        let since = seat.ledger.since(&start)?;
        let why = since.suspect.iter().map(|why| format!("{path}: {why}")).collect::<Vec<_>>();
        Ok(if why.is_empty() { Ok(since.extents) } else { Err(why) })
    }
}

/// Addresses of content that `nodes` name, for those who add to it.
pub(super) fn area_of<'a>(nodes: impl Iterator<Item = &'a Node>) -> ExtentSet {
    ExtentSet::from_unsorted(content(nodes).collect())
}
