//! The short way: under a freeze, which inodes lie in blocks that changed since the parent? Only these are looked at.
//!
//! A frozen ext4 or XFS has nothing left in memory or in its journal that is not in its place (`ext4_freeze` flushes the
//! journal, fs/ext4/super.c; `xfs_log_quiesce` pushes the log, fs/xfs/xfs_log.c; both as of 6.12). Every change of a
//! folder's entries, of a file's size, owner, times or attributes writes its inode. A change of where its content lies
//! writes it too as long as the whole map is in the inode; files of which that is not sure are looked at whenever any
//! block of the file system changed that is no content of the group's. What the parent listed after its own cut, and
//! changed since, was written to its place after that cut: so it does not matter how the parent was made.
//!
//! What must stay true: it is taken only if everything it stands on was proved: the difference of every device, the
//! same view (`tree::view`), a freeze that lasted, nothing written in the file systems during it; else all files are
//! walked, and why is said.

use super::passes::Passes;
use super::still::Rest;
use crate::block::{BLOCK, Extent, ExtentSet};
use crate::catalogue::content;
use crate::error::Result;
use crate::format::{CELL, Consistency, MAX_DEVICE, Node, NodeId};
use crate::job::{Hushed, Wishes};
use crate::sys::freeze::{Freeze, refuse_if_frozen};
use crate::sys::{failpoint, planted};
use crate::tree::{Known, Layout, Renewed, View, renew};
use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::time::Duration;

/// Bytes at most that are copied while the file systems stand still.
const MOST: u64 = 64 << 20;
/// About what a look at a file takes, and at an entry of a folder.
const A_LOOK: Duration = Duration::from_micros(40);
const AN_ENTRY: Duration = Duration::from_micros(4);

/// What the parent held, made ready before the freeze.
struct Before {
    known: Known,
    /// Folders above the group.
    above: HashSet<NodeId>,
    /// Content, and whose it is.
    parts: Vec<(Extent, NodeId)>,
    area: ExtentSet,
    volumes: Vec<Inodes>,
}

/// Files and folders of a volume by where their inodes lie.
struct Inodes {
    layout: Layout,
    /// First bytes, in order.
    placed: Vec<(u64, NodeId)>,
    /// Where that is not known, or with a map that may lie elsewhere.
    elsewhere: Vec<NodeId>,
    outside: Vec<NodeId>,
}

impl Passes<'_> {
    /// Makes the last pass from the parent's files and what changed, and how many were looked at; or why that cannot be done.
    ///
    /// # Errors
    /// A failed cut, looking, copying.
    pub fn glance(
        &mut self,
        nodes: BTreeMap<NodeId, Node>,
        view: Result<View, String>,
        wishes: &Wishes,
        own_folders: &[PathBuf],
    ) -> Result<Result<(Rest, u64), String>> {
        let before = match self.before(nodes, view, wishes) {
            Ok(before) => before,
            Err(why) => return Ok(Err(why)),
        };
        for volume in &before.volumes {
            self.volumes.hold(volume.layout.dev);
        }
        self.sync()?;
        let points = self.volumes.to_freeze();
        let held = refuse_if_frozen(&points, own_folders)
            .and_then(|()| self.prepare())
            .and_then(|()| Freeze::hold(&points, wishes.freeze_limit));
        match held {
            Ok(hold) => self.glance_while_frozen(before, hold, wishes.freeze_limit),
            Err(why) => Ok(Err(format!("not frozen: {}", why.in_full()))),
        }
    }

    fn before(
        &self,
        nodes: BTreeMap<NodeId, Node>,
        view: Result<View, String>,
        wishes: &Wishes,
    ) -> Result<Before, String> {
        let no = |why: &str| Err(why.to_owned());
        let Some(parent) = self.parent else { return no("there is no point to go on from") };
        let view = view?;
        if !wishes.freeze {
            return no("nothing is to be frozen");
        }
        if !self.unknown.is_empty() || self.doubt.iter().any(Option::is_some) {
            return no("what changed on the devices is not known for sure");
        }
        if parent.root.rules != Some(view.rules) {
            return no("another pick, other mounts or another boot than at the last point");
        }
        if !parent.ranges.is_empty() {
            return no("some files are read through the file system");
        }
        if parent.chain.top().files.as_ref().is_none_or(|files| files.unread > 0) {
            return no("some files could not be read last time");
        }
        let known = Known::new(nodes, parent.root.top);
        let above = known.above(self.picker);
        let volumes: Vec<Inodes> =
            view.layouts.into_iter().map(|layout| Inodes::of(layout, &known)).collect();
        let placed = |id: &NodeId| volumes.iter().any(|inodes| inodes.layout.volume == id.volume);
        if known.nodes().keys().any(|id| !placed(id) && !above.contains(id)) {
            return no("some files lie on a file system that is not there any more");
        }
        let of = |node: &Node| content([node].into_iter()).map(|e| (e, node.id)).collect::<Vec<_>>();
        let parts: Vec<(Extent, NodeId)> = known.nodes().values().flat_map(of).collect();
        let area = ExtentSet::from_unsorted(parts.iter().map(|part| part.0).collect());
        Ok(Before { known, above, parts, area, volumes })
    }

    /// Cuts, looks, copies, cuts again to prove that nothing was written meanwhile. Nothing is printed.
    fn glance_while_frozen(
        &mut self,
        before: Before,
        hold: Freeze,
        limit: Duration,
    ) -> Result<Result<(Rest, u64), String>> {
        failpoint("group.frozen")?;
        self.cut()?;
        let upto = (self.copied_upto.clone(), self.time_cut);
        if self.doubt.iter().any(Option::is_some) {
            return Ok(Err("what changed on the devices is not known for sure".into()));
        }
        let changed = before.changed(&self.since);
        if before.predicted(&changed) > limit / 2 {
            return Ok(Err(format!("too much changed: {} inodes may have", changed.len())));
        }
        let Before { known, parts, area, volumes, .. } = before;
        let Renewed { mut listing, looked } = match renew(self.picker, &mut self.volumes, known, &changed)? {
            Ok(renewed) => renewed,
            Err(why) => return Ok(Err(why)),
        };
        if !listing.through.is_empty() {
            return Ok(Err("some files are read through the file system".into()));
        }
        self.area = near(&listing.nodes, &looked, &parts, &area.intersect(&self.since));
        if self.area.subtract(&self.have).total() > MOST {
            return Ok(Err(format!("more than {} MiB to copy while nothing moves", MOST >> 20)));
        }
        self.fill(&ExtentSet::new(), &Hushed(self.show))?;
        // all of the file systems, not only the group's files
        self.area = volumes.iter().map(|inodes| inodes.layout.device()).collect();
        let still = self.cut()?;
        // what the proof lists was not copied: it is the next difference's
        (self.copied_upto, self.time_cut) = upto;
        failpoint("group.before-thaw")?;
        let frozen = match hold.thaw() {
            Ok(frozen) if still => frozen,
            Ok(_) => return Ok(Err("something was written although it was frozen".into())),
            Err(why) => return Ok(Err(format!("the freeze did not last: {}", why.in_full()))),
        };
        listing.finish();
        listing.took = frozen;
        self.area = ExtentSet::from_unsorted(content(listing.nodes.values()).collect());
        let consistency = Consistency::FileSystemFrozen;
        Ok(Ok((Rest { listing, consistency, frozen: Some(frozen) }, looked.len() as u64)))
    }
}

/// What belongs to the group wherever something is to be copied: in frames that hold a byte that changed, or one of the
/// files that were looked at. Of other frames it says nothing: they stay as they are.
fn near(
    nodes: &BTreeMap<NodeId, Node>,
    looked: &HashSet<NodeId>,
    parts: &[(Extent, NodeId)],
    changed: &ExtentSet,
) -> ExtentSet {
    let fresh = content(looked.iter().filter_map(|id| nodes.get(id))).collect::<Vec<_>>();
    let window = changed.union(&fresh.iter().copied().collect()).align_out(CELL, MAX_DEVICE);
    if window.is_empty() {
        return window;
    }
    let stays = |part: &&(Extent, NodeId)| {
        window.touches(part.0) && !looked.contains(&part.1) && nodes.contains_key(&part.1)
    };
    ExtentSet::from_unsorted(parts.iter().filter(stays).map(|part| part.0).chain(fresh).collect())
}

impl Inodes {
    fn of(layout: Layout, known: &Known) -> Self {
        let at = |inode| NodeId { volume: layout.volume, inode };
        let (mut placed, mut elsewhere, mut outside) = (Vec::new(), Vec::new(), Vec::new());
        for (id, node) in known.nodes().range(at(0)..=at(u64::MAX)) {
            match layout.inodes.place(id.inode) {
                Some(place) => placed.push((place.offset, *id)),
                None => elsewhere.push(*id),
            }
            outside.extend(node.outside.then_some(*id));
        }
        placed.sort_unstable();
        Self { layout, placed, elsewhere, outside }
    }

    /// Those whose inodes may have changed with these bytes of the image.
    fn touched(&self, changed: &ExtentSet) -> impl Iterator<Item = NodeId> {
        let (base, length) = (self.layout.base, self.layout.inodes.length());
        let mut found = Vec::new();
        for extent in &changed.within(self.layout.device()) {
            let (start, end) = (extent.offset - base, extent.end() - base);
            let from = self.placed.partition_point(|(at, _)| at + length <= start);
            found.extend(self.placed[from..].iter().take_while(|(at, _)| *at < end));
        }
        let forgotten = planted("inode-block-forgotten").then(|| found.last().map(|(at, _)| at / BLOCK));
        let seen = move |(at, _): &(u64, NodeId)| forgotten.flatten() != Some(at / BLOCK);
        found.into_iter().filter(seen).map(|(_, id)| id)
    }
}

impl Before {
    /// What has to be looked at again.
    fn changed(&self, since: &ExtentSet) -> HashSet<NodeId> {
        let mut changed = self.above.clone();
        for volume in &self.volumes {
            changed.extend(volume.touched(since));
            changed.extend(&volume.elsewhere);
            // blocks of a map are nobody's content
            if !since.within(volume.layout.device()).subtract(&self.area).is_empty() {
                changed.extend(&volume.outside);
            }
        }
        changed
    }

    /// How long the look will take, about.
    fn predicted(&self, changed: &HashSet<NodeId>) -> Duration {
        let entries: usize = changed.iter().map(|id| self.known.entries(*id).len()).sum();
        let times = |what: Duration, n: usize| what.saturating_mul(u32::try_from(n).unwrap_or(u32::MAX));
        times(A_LOOK, changed.len()).saturating_add(times(AN_ENTRY, entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{NodeKind, Part, Place, device_at};

    /// A file of one part at `at` of device 0.
    fn file(inode: u64, at: u64, length: u64) -> Node {
        let place = Place::Image(device_at(0) + at);
        let id = NodeId { volume: 0, inode };
        Node { size: length, parts: vec![Part { at: 0, length, place }], ..Node::bare(id, NodeKind::File) }
    }

    /// Of a block that is copied for one file, what another has in it is copied too: else it would be zero from then on.
    #[test]
    fn neighbours_in_a_block_are_near() {
        let all = [file(1, 0, 1024), file(2, 1024, 1024), file(3, 1 << 20, 1024), file(4, 2048, 1024)];
        let parts: Vec<_> = content(all.iter()).zip(all.iter().map(|node| node.id)).collect();
        // the fourth is not there any more
        let nodes: BTreeMap<_, _> = all[..3].iter().map(|node| (node.id, node.clone())).collect();
        let looked = HashSet::from([all[0].id]);
        let found = near(&nodes, &looked, &parts, &ExtentSet::new());
        assert_eq!(found.iter().copied().collect::<Vec<_>>(), [Extent::new(device_at(0), 2048)]);
        assert!(near(&nodes, &HashSet::new(), &parts, &ExtentSet::new()).is_empty());
        let changed = [Extent::new(device_at(0) + (1 << 20), 512)].into_iter().collect();
        let found = near(&nodes, &HashSet::new(), &parts, &changed);
        assert_eq!(found.iter().copied().collect::<Vec<_>>(), [Extent::new(device_at(0) + (1 << 20), 1024)]);
    }
}
