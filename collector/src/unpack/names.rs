//! Which nodes are wanted, under which paths, and making them: empty, in place, folders first.
//!
//! What must stay true: a path is put together from checked names only, below the folder that was named; every node is
//! made once, its further names are links to it.

use super::Unpacked;
use crate::catalogue::Catalogue;
use crate::error::{Context, Error, Kind, Result};
use crate::format::{Node, NodeId, NodeKind};
use rustix::fs::{CWD, FileType, Mode, OFlags};
use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The wanted nodes and their paths, without the leading slash; a folder before what is in it.
pub(super) struct Names {
    paths: Vec<(NodeId, PathBuf)>,
}

impl Names {
    /// Those at `paths` or below, and the folders above; all if there are none.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if nothing has such a path.
    pub fn of(catalogue: &Catalogue, paths: &[PathBuf]) -> Result<Self> {
        let mut children: HashMap<NodeId, Vec<(&[u8], NodeId)>> = HashMap::new();
        for node in catalogue.nodes.values() {
            for link in &node.names {
                children.entry(link.parent).or_default().push((&link.name.0, node.id));
            }
        }
        children.values_mut().for_each(|list| list.sort_unstable());
        let asked: Vec<PathBuf> =
            paths.iter().map(|p| p.components().skip_while(is_root).collect()).collect();
        let mut found = vec![false; asked.len()];
        let (mut all, mut above) = (Vec::new(), HashSet::new());
        let mut todo = vec![(catalogue.root.top, PathBuf::new(), Vec::new())];
        while let Some((id, path, mut way)) = todo.pop() {
            if way.contains(&id) || way.len() > 4096 {
                return Err(Error::new(Kind::Damaged, "a folder of the catalogue lies in itself"));
            }
            let wanted = asked.is_empty() || asked.iter().any(|a| path.starts_with(a));
            for (asked, found) in asked.iter().zip(&mut found) {
                *found |= path == *asked;
            }
            if wanted || asked.iter().any(|a| a.starts_with(&path)) {
                if !wanted {
                    above.insert(all.len());
                }
                way.push(id);
                for (name, child) in children.get(&id).into_iter().flatten().rev() {
                    todo.push((*child, path.join(OsStr::from_bytes(name)), way.clone()));
                }
                all.push((id, path));
            }
        }
        if let Some(place) = found.iter().position(|found| !found) {
            let text = format!("{} is not in the point", paths[place].display());
            return Err(Error::new(Kind::NotFound, text).hint("`blkdelta group files` lists what is"));
        }
        Ok(Self { paths: all })
    }

    /// The nodes, each once.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> {
        self.paths.iter().map(|(id, _)| *id).collect::<HashSet<_>>().into_iter()
    }

    /// All paths with their nodes.
    pub fn all<'a>(&self, catalogue: &'a Catalogue) -> Vec<(PathBuf, &'a Node)> {
        let absolute = |path: &PathBuf| Path::new("/").join(path);
        self.paths.iter().filter_map(|(id, path)| Some((absolute(path), catalogue.nodes.get(id)?))).collect()
    }

    /// Makes every node once, under its first path; in the order made.
    pub fn make(
        &self,
        catalogue: &Catalogue,
        folder: &Path,
        done: &mut Unpacked,
    ) -> Result<Vec<(NodeId, PathBuf)>> {
        let (mut made, mut seen) = (Vec::new(), HashSet::new());
        for (id, path) in self.paths.iter().skip_while(|(_, path)| path.as_os_str().is_empty()) {
            let Some(node) = catalogue.nodes.get(id) else { continue };
            // a folder with a second name (a bind mount) is made again: it cannot be linked
            if node.kind != NodeKind::Folder && !seen.insert(*id) {
                continue;
            }
            let target = folder.join(path);
            if let Some(why) = node.unread.as_ref().filter(|_| node.kind == NodeKind::File) {
                done.missing.push(format!("/{}: {why}", path.display()));
                continue;
            }
            if make(node, &target, done)? {
                made.push((*id, target));
            }
        }
        Ok(made)
    }

    /// Gives nodes their further names.
    pub fn link_again(&self, catalogue: &Catalogue, folder: &Path) -> Result<()> {
        let mut first: HashMap<NodeId, &PathBuf> = HashMap::new();
        for (id, path) in &self.paths {
            let kind = catalogue.nodes.get(id).map(|n| n.kind);
            if kind.is_none() || kind == Some(NodeKind::Folder) {
                continue;
            }
            let Some(original) = first.get(id) else {
                first.insert(*id, path);
                continue;
            };
            let (from, to) = (folder.join(original), folder.join(path));
            // what could not be made has no further names either
            if from.symlink_metadata().is_ok() {
                std::fs::hard_link(&from, &to).os_context(|| format!("link {}", to.display()))?;
            }
        }
        Ok(())
    }
}

fn is_root(component: &std::path::Component<'_>) -> bool {
    *component == std::path::Component::RootDir
}

/// Makes an empty node that nobody else can read yet; false if that was not possible here.
fn make(node: &Node, path: &Path, done: &mut Unpacked) -> Result<bool> {
    let what = || format!("make {}", path.display());
    let device = rustix::fs::makedev(node.device.0, node.device.1);
    let private = Mode::RUSR | Mode::WUSR;
    let special = |kind| rustix::fs::mknodat(CWD, path, kind, private, device);
    let made = match node.kind {
        NodeKind::Folder => rustix::fs::mkdir(path, private | Mode::XUSR),
        NodeKind::Symlink => rustix::fs::symlink(OsStr::from_bytes(&node.target.0), path),
        NodeKind::File => {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            rustix::fs::open(path, flags, private).and_then(|file| rustix::fs::ftruncate(file, node.size))
        }
        NodeKind::CharDevice => special(FileType::CharacterDevice),
        NodeKind::BlockDevice => special(FileType::BlockDevice),
        NodeKind::Fifo => special(FileType::Fifo),
        NodeKind::Socket => special(FileType::Socket),
    };
    match (made, node.kind) {
        (Ok(()), _) => Ok(true),
        (Err(e @ rustix::io::Errno::PERM), NodeKind::CharDevice | NodeKind::BlockDevice) => {
            done.warnings.push(format!("{}: {e}", what()));
            Ok(false)
        }
        (Err(e), _) => Err(Error::os(what(), e)),
    }
}
