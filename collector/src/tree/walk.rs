//! The walk: from the bases down, one folder open at a time.
//!
//! What must stay true: a name that is there from the walk's beginning to its end is met; a file of many names is one
//! node with all those that are picked; folders above what is picked are nodes too, so that it can be put in its place.

use super::node::{Found, describe, dev_of, kind_of};
use super::parts::content;
use super::volumes::{Met, Volumes};
use super::{Picker, Through, open_quietly};
use crate::error::{Context, Error, Kind, Result};
use crate::format::{Link, Node, NodeId, NodeKind, Text};
use crate::sys::privilege::{Capability, explained};
use rustix::fs::{CWD, Dir};
use rustix::path::Arg;
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// Everything a group holds at a moment.
#[derive(Debug, Default)]
pub struct Listing {
    /// All nodes, without parts for what is read through the files.
    pub nodes: BTreeMap<NodeId, Node>,
    /// What is read through the files, ascending.
    pub through: Vec<Through>,
    /// The folder `/`.
    pub top: NodeId,
    /// What could not be read, and why.
    pub unread: Vec<String>,
    /// What else a person should know.
    pub notes: Vec<String>,
    /// When it was begun.
    pub begun: Option<SystemTime>,
    /// How long it took.
    pub took: Duration,
}

impl Listing {
    /// Puts everything in order, at the end.
    pub fn finish(&mut self) {
        for node in self.nodes.values_mut() {
            node.names.sort_unstable();
            node.names.dedup();
        }
        self.through.sort_unstable_by_key(|t| (t.id, t.at));
    }

    /// A path of a node; `None` if it has none.
    pub fn path(&self, id: NodeId) -> Option<PathBuf> {
        let (mut names, mut at) = (Vec::new(), id);
        while at != self.top {
            let link = self.nodes.get(&at)?.names.first()?;
            names.push(&link.name.0);
            at = link.parent;
            if names.len() > 4096 {
                return None;
            }
        }
        Some(Path::new("/").join(names.iter().rev().map(|n| OsStr::from_bytes(n)).collect::<PathBuf>()))
    }
}

pub(super) struct Walk<'a> {
    picker: &'a Picker,
    volumes: &'a mut Volumes,
    pub(super) listing: Listing,
    /// Folders on the way to what may be picked, not yet wanted.
    above: HashMap<NodeId, Node>,
    /// Folders still to be looked into: path, node, whether it is picked.
    todo: Vec<(PathBuf, NodeId, bool)>,
    /// What is listed already is not looked into again.
    partial: bool,
    /// What was looked at.
    pub(super) looked: Vec<NodeId>,
}

/// Lists what a picker picks.
///
/// # Errors
/// [`Kind::NotFound`] if nothing of it is there; if a base cannot be reached or leads through a link.
pub fn walk(picker: &Picker, volumes: &mut Volumes) -> Result<Listing> {
    let began = Instant::now();
    let mut walk = Walk::new(picker, volumes, Listing::default());
    let mut missing = Vec::new();
    for base in picker.bases() {
        if !walk.base(base)? {
            missing.push(base.display().to_string());
        }
        walk.drain()?;
    }
    if missing.len() == picker.bases().len() {
        let text = format!("list the files of the group: {} is not there", missing.join(", "));
        return Err(Error::new(Kind::NotFound, text));
    }
    let Walk { mut listing, .. } = walk;
    listing.notes.extend(missing.into_iter().map(|path| format!("{path} is not there")));
    listing.finish();
    listing.took = began.elapsed();
    Ok(listing)
}

impl<'a> Walk<'a> {
    /// One that goes on from what is listed already.
    pub(super) fn new(picker: &'a Picker, volumes: &'a mut Volumes, known: Listing) -> Self {
        let (partial, begun) = (!known.nodes.is_empty(), Some(SystemTime::now()));
        let listing = Listing { begun, ..known };
        let (above, todo, looked) = (HashMap::new(), Vec::new(), Vec::new());
        Self { picker, volumes, listing, above, todo, partial, looked }
    }

    /// Looks into all folders that were met.
    pub(super) fn drain(&mut self) -> Result<()> {
        while let Some((path, id, inside)) = self.todo.pop() {
            self.folder(&path, id, inside)?;
        }
        Ok(())
    }

    /// Goes down to a base; false if it is not there.
    pub(super) fn base(&mut self, base: &Path) -> Result<bool> {
        let mut at: Option<NodeId> = None;
        let mut path = PathBuf::from("/");
        let mut parts = base.components().skip(1).peekable();
        loop {
            let last = parts.peek().is_none();
            let link = at.zip(path.file_name()).map(|(parent, name)| link(parent, name.as_bytes()));
            let picked = last && self.picker.picks(&path);
            let met = self.meet(CWD, &path, (&path, link), picked);
            let Some(id) = met.map_err(|e| explained(e, &[Capability::DacReadSearch]))? else {
                // no folder that leads on, or gone
                return if last || !path.exists() { Ok(false) } else { Err(no_folder(base, &path)) };
            };
            if at.is_none() {
                self.listing.top = id;
            }
            at = Some(id);
            if last {
                // reached by way of the base before it, or to be looked into
                return Ok(true);
            }
            // only the base itself is looked into
            self.todo.retain(|(_, todo, _)| *todo != id);
            path.extend(parts.next());
        }
    }

    /// Looks into a folder.
    fn folder(&mut self, path: &Path, id: NodeId, inside: bool) -> Result<()> {
        let opened = open_quietly(CWD, path).and_then(|file| Ok((Dir::read_from(&file)?, file)));
        let (entries, file) = match opened {
            Ok(opened) => opened,
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(()),
            Err(e) => {
                self.unread(path, &format!("open: {e}"));
                return Ok(());
            }
        };
        for entry in entries {
            let entry = entry.os_context(|| format!("list {}", path.display()))?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let child = path.join(OsStr::from_bytes(name.to_bytes()));
            if self.picker.excludes(&child) {
                continue;
            }
            let picked = inside || self.picker.picks(&child);
            let link = Some(link(id, name.to_bytes()));
            if let Err(error) = self.meet(&file, name, (&child, link), picked) {
                self.listing.unread.push(error.in_full());
            }
        }
        Ok(())
    }

    /// Takes up what a name leads to; `None` if it is gone, or neither wanted nor a way to it.
    pub(super) fn meet(
        &mut self,
        folder: impl AsFd,
        name: impl Arg + Copy,
        (path, link): (&Path, Option<Link>),
        picked: bool,
    ) -> Result<Option<NodeId>> {
        let what = || format!("look at {}", path.display());
        let Some(stat) = Found::stat(&folder, name).os_context(what)? else { return Ok(None) };
        let (is_folder, dev) = (kind_of(&stat) == NodeKind::Folder, dev_of(&stat));
        if !picked && !is_folder {
            return Ok(None);
        }
        let mut id = self.volumes.meet(dev, path)?.id(stat.stx_ino);
        let fresh = !self.listing.nodes.contains_key(&id) && !self.above.contains_key(&id);
        if fresh {
            let Some(found) = Found::open(&folder, name, stat).os_context(what)? else { return Ok(None) };
            let volume = self.volumes.meet(dev_of(&found.stat), path)?;
            if volume.is_pseudo() && path != Path::new("/") {
                self.listing.notes.push(format!("{} ({}) is left out", path.display(), volume.kind));
                return Ok(None);
            }
            id = volume.id(found.stat.stx_ino);
            self.take_up(id, &found, path, &volume)?;
        }
        let node = if self.above.contains_key(&id) {
            self.above.get_mut(&id)
        } else {
            self.listing.nodes.get_mut(&id)
        };
        if let (Some(node), Some(link)) = (node, link) {
            node.names.push(link);
        }
        if picked {
            self.volumes.hold(dev);
            self.want(id);
        }
        if is_folder && (fresh || !self.partial) {
            self.todo.push((path.to_owned(), id, picked));
        }
        Ok(Some(id))
    }

    /// A node of what was found; wanted at once unless it is a folder.
    fn take_up(&mut self, id: NodeId, found: &Found, path: &Path, volume: &Met) -> Result<()> {
        let mut node = describe(id, found, path)?;
        if let Some(file) = found.file.as_ref().filter(|_| node.kind == NodeKind::File) {
            let content = content(file, (node.size, found.stat.stx_blocks * 512), volume, path)?;
            (node.parts, node.outside) = (content.parts, content.outside);
            let (changed, through) = (node.changed, content.through.into_iter());
            self.listing.through.extend(through.map(|(at, length)| Through { id, at, length, changed }));
        }
        if let Some(why) = &node.unread {
            self.listing.unread.push(format!("{}: {why}", path.display()));
        }
        self.looked.push(id);
        self.above.insert(id, node);
        Ok(())
    }

    /// A node is in the group, and so are the folders above it.
    fn want(&mut self, id: NodeId) {
        let mut wanted = vec![id];
        while let Some(id) = wanted.pop() {
            if let Some(node) = self.above.remove(&id) {
                wanted.extend(node.names.iter().map(|link| link.parent));
                self.listing.nodes.insert(id, node);
            }
        }
        // further names of a node that is in the group already
        let parents =
            self.listing.nodes.get(&id).map(|n| n.names.iter().map(|l| l.parent).collect::<Vec<_>>());
        for parent in parents.into_iter().flatten() {
            if self.above.contains_key(&parent) {
                self.want(parent);
            }
        }
    }

    fn unread(&mut self, path: &Path, why: &str) {
        self.listing.unread.push(format!("{}: {why}", path.display()));
    }
}

fn no_folder(base: &Path, path: &Path) -> Error {
    let text =
        format!("{} of the group leads through {}, which is no folder", base.display(), path.display());
    Error::new(Kind::Usage, text).hint("name the path that a symbolic link leads to")
}

fn link(parent: NodeId, name: &[u8]) -> Link {
    Link { parent, name: Text(name.to_vec()) }
}
