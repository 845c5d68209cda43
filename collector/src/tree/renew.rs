//! A listing from the one before and the inodes that may have changed since: nothing else is looked at.
//!
//! ```text
//!   nodes before ─ what may have changed is taken out, with the names that its folders gave
//!                ─ the bases are gone down to, folders among the changed are listed again
//!                ─ changed files are looked at again under a name in an unchanged folder
//!                ─ what no name leads to any more is dropped, and what only that led to
//! ```
//! What must stay true: a folder whose entries changed has a changed inode, so every new name is met; whatever does not
//! fit makes an end of it, and everything is walked.

use super::Picker;
use super::volumes::Volumes;
use super::walk::{Listing, Walk};
use crate::error::Result;
use crate::format::{Link, Node, NodeId};
use rustix::fs::CWD;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// A listing of an earlier moment.
#[derive(Debug)]
pub(crate) struct Known {
    nodes: BTreeMap<NodeId, Node>,
    /// Folders and what their names lead to, sorted.
    entries: Vec<(NodeId, NodeId)>,
    top: NodeId,
}

/// A listing made from it.
#[derive(Debug)]
pub(crate) struct Renewed {
    pub listing: Listing,
    /// What was looked at.
    pub looked: HashSet<NodeId>,
}

impl Known {
    pub fn new(nodes: BTreeMap<NodeId, Node>, top: NodeId) -> Self {
        let names = nodes.values().flat_map(|node| node.names.iter().map(|link| (link.parent, node.id)));
        let mut entries: Vec<_> = names.collect();
        entries.sort_unstable();
        Self { nodes, entries, top }
    }

    pub const fn nodes(&self) -> &BTreeMap<NodeId, Node> {
        &self.nodes
    }

    /// What the names in a folder led to.
    pub fn entries(&self, folder: NodeId) -> &[(NodeId, NodeId)] {
        let from = self.entries.partition_point(|entry| entry.0 < folder);
        let to = self.entries.partition_point(|entry| entry.0 <= folder);
        &self.entries[from..to]
    }

    /// Folders above the bases: they may lie anywhere, and are looked at in any case.
    pub fn above(&self, picker: &Picker) -> HashSet<NodeId> {
        let mut above = HashSet::from([self.top]);
        for base in picker.bases() {
            let mut at = self.top;
            for part in base.parent().into_iter().flat_map(|folder| folder.components()).skip(1) {
                let name = part.as_os_str().as_bytes();
                let leads = |id: &&(NodeId, NodeId)| {
                    let names = self.nodes.get(&id.1).map(|node| node.names.as_slice()).unwrap_or_default();
                    names.iter().any(|link| link.parent == at && link.name.0 == name)
                };
                let Some((_, next)) = self.entries(at).iter().find(leads) else { break };
                at = *next;
                above.insert(at);
            }
        }
        above
    }
}

/// The listing now; or why it cannot be told without a walk.
///
/// # Errors
/// As [`super::walk()`].
pub(crate) fn renew(
    picker: &Picker,
    volumes: &mut Volumes,
    known: Known,
    changed: &HashSet<NodeId>,
) -> Result<Result<Renewed, String>> {
    let Known { mut nodes, entries, top } = known;
    let mut left: HashMap<NodeId, Vec<Link>> = HashMap::new();
    for id in changed {
        if let Some(node) = nodes.remove(id) {
            let names = node.names.into_iter().filter(|link| !changed.contains(&link.parent));
            left.insert(*id, names.collect());
        }
    }
    let known = Known { nodes: BTreeMap::new(), entries, top };
    let named: Vec<_> = changed.iter().flat_map(|id| known.entries(*id)).copied().collect();
    for (folder, id) in &named {
        if let Some(node) = nodes.get_mut(id) {
            node.names.retain(|link| link.parent != *folder);
        }
    }
    let mut walk = Walk::new(picker, volumes, Listing { nodes, top, ..Listing::default() });
    for base in picker.bases() {
        if !walk.base(base)? {
            return Ok(Err(format!("{} is not there any more", base.display())));
        }
        walk.drain()?;
    }
    if let Err(why) = under_old_names(&mut walk, &left)? {
        return Ok(Err(why));
    }
    let looked: HashSet<NodeId> = walk.looked.iter().copied().collect();
    let Walk { mut listing, .. } = walk;
    if let Some(first) = listing.unread.first() {
        return Ok(Err(first.clone()));
    }
    let mut gone: Vec<NodeId> = Vec::new();
    for (id, links) in left {
        match listing.nodes.get_mut(&id) {
            Some(node) => node.names.extend(links),
            None => gone.push(id),
        }
    }
    gone.extend(named.iter().map(|(_, id)| *id));
    drop_unreachable(&mut listing, gone, &known);
    Ok(Ok(Renewed { listing, looked }))
}

/// Looks at what changed and was not met yet, under names that unchanged folders give; or why that does not fit.
fn under_old_names(walk: &mut Walk<'_>, left: &HashMap<NodeId, Vec<Link>>) -> Result<Result<(), String>> {
    loop {
        let mut met = 0;
        for (id, links) in left {
            if walk.listing.nodes.contains_key(id) {
                continue;
            }
            for link in links {
                let Some(folder) = walk.listing.path(link.parent) else { continue };
                let path = folder.join(OsStr::from_bytes(&link.name.0));
                if walk.meet(CWD, &path, (&path, Some(link.clone())), true)? != Some(*id) {
                    return Ok(Err(format!("{} is another file, and its folder is not", path.display())));
                }
                walk.drain()?;
                met += 1;
                break;
            }
        }
        if met == 0 {
            return Ok(Ok(()));
        }
    }
}

/// Drops those of `maybe` that no name leads to, and what only they led to.
fn drop_unreachable(listing: &mut Listing, maybe: Vec<NodeId>, known: &Known) {
    let (mut todo, mut dropped) = (maybe, HashSet::new());
    while let Some(id) = todo.pop() {
        let named = listing.nodes.get(&id).is_some_and(|node| !node.names.is_empty());
        if named || id == listing.top || !dropped.insert(id) {
            continue;
        }
        listing.nodes.remove(&id);
        for (_, child) in known.entries(id) {
            if let Some(node) = listing.nodes.get_mut(child) {
                node.names.retain(|link| link.parent != id);
                todo.push(*child);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{Pick, walk};
    use std::fs;
    use std::path::Path;

    fn set() -> (tempfile::TempDir, Picker) {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path().canonicalize().unwrap();
        for made in ["a/b/c", "d", "out"] {
            fs::create_dir_all(top.join("g").join(made)).unwrap();
        }
        for file in ["one", "a/two", "a/b/three", "a/b/c/four", "d/five"] {
            fs::File::create_new(top.join("g").join(file)).unwrap();
        }
        let pick = Pick { paths: vec![top.join("g")], excludes: vec!["*.tmp".into()], ..Pick::default() };
        (folder, Picker::new(&pick).unwrap())
    }

    /// What a walk finds now, and what is found with nothing looked at but what `really` changed, by inode numbers.
    fn compare(before: Listing, picker: &Picker, really: &[&Path]) -> Result<Result<(), String>> {
        use std::os::unix::fs::MetadataExt;
        let mut volumes = Volumes::new(Vec::new(), Vec::new());
        let known = Known::new(before.nodes, before.top);
        let mut changed = known.above(picker);
        for path in really {
            let inode = fs::symlink_metadata(path).map_or_else(
                |_| path.file_name().unwrap().to_str().unwrap().parse().unwrap(),
                |found| found.ino(),
            );
            changed.extend(known.nodes().keys().filter(|id| id.inode == inode));
        }
        let mut renewed = match renew(picker, &mut volumes, known, &changed)? {
            Ok(renewed) => renewed.listing,
            Err(why) => return Ok(Err(why)),
        };
        renewed.finish();
        // folders above are everybody's
        let inside = |listing: &Listing| {
            let base = &picker.bases()[0];
            let nodes = listing.nodes.values().filter(|n| listing.path(n.id).unwrap().starts_with(base));
            nodes.cloned().collect::<Vec<_>>()
        };
        assert_eq!(inside(&renewed), inside(&walk(picker, &mut Volumes::new(Vec::new(), Vec::new()))?));
        Ok(Ok(()))
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the renames are the work, nothing is published")]
    fn what_changed_is_found_by_its_inode_alone() {
        let (folder, picker) = set();
        let g = folder.path().canonicalize().unwrap().join("g");
        let look = || walk(&picker, &mut Volumes::new(Vec::new(), Vec::new())).unwrap();
        compare(look(), &picker, &[]).unwrap().unwrap();
        let before = look();
        fs::File::create_new(g.join("a/b/new")).unwrap();
        compare(before, &picker, &[&g.join("a/b")]).unwrap().unwrap();
        let before = look();
        fs::rename(g.join("a/b"), g.join("d/b")).unwrap();
        compare(before, &picker, &[&g.join("a"), &g.join("d"), &g.join("d/b")]).unwrap().unwrap();
        let before = look();
        fs::rename(g.join("d"), g.join("a/d.tmp")).unwrap();
        compare(before, &picker, &[&g, &g.join("a"), &g.join("a/d.tmp")]).unwrap().unwrap();
        let before = look();
        fs::rename(g.join("a/d.tmp"), g.join("back")).unwrap();
        fs::hard_link(g.join("one"), g.join("back/one-too")).unwrap();
        compare(before, &picker, &[&g, &g.join("a"), &g.join("back"), &g.join("one")]).unwrap().unwrap();
        let before = look();
        fs::remove_dir_all(g.join("back")).unwrap();
        compare(before, &picker, &[&g, &g.join("one")]).unwrap().unwrap();
    }

    #[test]
    fn what_does_not_fit_is_said() {
        let (folder, picker) = set();
        let g = folder.path().canonicalize().unwrap().join("g");
        let before = walk(&picker, &mut Volumes::new(Vec::new(), Vec::new())).unwrap();
        use std::os::unix::fs::MetadataExt;
        let inode = fs::metadata(g.join("a/two")).unwrap().ino().to_string();
        fs::remove_file(g.join("a/two")).unwrap();
        // its inode is told to have changed, its folder's not
        let why = compare(before, &picker, &[Path::new(&inode)]).unwrap().unwrap_err();
        assert!(why.contains("a/two"), "{why}");
    }
}
