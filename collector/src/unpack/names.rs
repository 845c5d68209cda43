//! Which nodes are wanted, under which paths, and making them: empty, in place, folders first.
//!
//! What must stay true: a path is put together from checked names only, below the folder that was named, and leads through
//! folders that were made here, never through a link; every node is made once, its further names are links to it.

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
    /// What lies in something that is no folder: of a hostile catalogue, or of an inode that became another while it was
    /// listed. Nothing is made there: it may be a link out of the folder that was named.
    astray: Vec<PathBuf>,
}

/// Paths that a catalogue may have for each name in it: folders with a second name (bind mounts) are made again.
const PATHS_PER_NAME: usize = 64;

impl Names {
    /// Those at `paths` or below, and the folders above; all if there are none.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if nothing has such a path.
    pub fn of(catalogue: &Catalogue, paths: &[PathBuf]) -> Result<Self> {
        let children = children(catalogue);
        let most = PATHS_PER_NAME.saturating_mul(children.values().map(Vec::len).sum::<usize>() + 1);
        let asked: Vec<PathBuf> =
            paths.iter().map(|p| p.components().skip_while(is_root).collect()).collect();
        let mut found = vec![false; asked.len()];
        let mut names = Self { paths: Vec::new(), astray: Vec::new() };
        let mut todo = vec![(catalogue.root.top, PathBuf::new(), Vec::new())];
        while let Some((id, path, mut way)) = todo.pop() {
            if way.contains(&id) || way.len() > 4096 || todo.len() + names.paths.len() > most {
                return Err(Error::new(
                    Kind::Damaged,
                    "a folder of the catalogue lies in itself, or in too many",
                ));
            }
            for (asked, found) in asked.iter().zip(&mut found) {
                *found |= path == *asked;
            }
            if !asked.is_empty() && !asked.iter().any(|a| path.starts_with(a) || a.starts_with(&path)) {
                continue;
            }
            way.push(id);
            let leads_on =
                way.len() == 1 || catalogue.nodes.get(&id).is_some_and(|n| n.kind == NodeKind::Folder);
            for (name, child) in children.get(&id).into_iter().flatten().rev() {
                let below = path.join(OsStr::from_bytes(name));
                if leads_on {
                    todo.push((*child, below, way.clone()));
                } else {
                    names.astray.push(below);
                }
            }
            names.paths.push((id, path));
        }
        if let Some(place) = found.iter().position(|found| !found) {
            let text = format!("{} is not in the point", paths[place].display());
            return Err(Error::new(Kind::NotFound, text).hint("`blkdelta group files` lists what is"));
        }
        Ok(names)
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
        let no_folder = |path: &PathBuf| format!("/{}: it lies in what is no folder", path.display());
        done.missing.extend(self.astray.iter().map(no_folder));
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

/// Names and nodes in each node that has any, by name.
fn children(catalogue: &Catalogue) -> HashMap<NodeId, Vec<(&[u8], NodeId)>> {
    let mut children: HashMap<NodeId, Vec<(&[u8], NodeId)>> = HashMap::new();
    for node in catalogue.nodes.values() {
        for link in &node.names {
            children.entry(link.parent).or_default().push((&link.name.0, node.id));
        }
    }
    children.values_mut().for_each(|list| list.sort_unstable());
    children
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{Link, Root, Text};

    fn node(inode: u64, kind: NodeKind, names: &[(u64, &str)]) -> Node {
        let id = |inode| NodeId { volume: 0, inode };
        let link =
            |(parent, name): &(u64, &str)| Link { parent: id(*parent), name: Text(name.as_bytes().to_vec()) };
        Node { names: names.iter().map(link).collect(), ..Node::bare(id(inode), kind) }
    }

    fn catalogue(nodes: impl IntoIterator<Item = Node>) -> Catalogue {
        let top = NodeId { volume: 0, inode: 1 };
        let nodes = nodes.into_iter().map(|n| (n.id, n)).collect();
        Catalogue { root: Root { top, ..Root::default() }, nodes }
    }

    /// Museum M29: what a catalogue says never leads out of the folder that was named.
    #[test]
    fn nothing_is_made_through_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let (outside, into) = (dir.path().join("outside"), dir.path().join("into"));
        std::fs::create_dir(&outside).unwrap();
        std::fs::create_dir(&into).unwrap();
        let mut link = node(2, NodeKind::Symlink, &[(1, "link")]);
        link.target = Text(outside.as_os_str().as_bytes().to_vec());
        let hostile = catalogue([
            node(1, NodeKind::Folder, &[]),
            link,
            node(3, NodeKind::File, &[(2, "planted"), (1, "good")]),
            node(4, NodeKind::Folder, &[(2, "folder")]),
            node(5, NodeKind::File, &[(4, "deeper")]),
        ]);
        let names = Names::of(&hostile, &[]).unwrap();
        let mut done = Unpacked::default();
        names.make(&hostile, &into, &mut done).unwrap();
        names.link_again(&hostile, &into).unwrap();
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0, "something was made through the link");
        assert!(into.join("good").is_file() && into.join("link").is_symlink());
        assert_eq!(done.missing.len(), 2, "{:?}", done.missing);
        assert!(Names::of(&hostile, &["/link/planted".into()]).is_err());
    }

    /// Each folder has two names in the one above: twice as many paths with each.
    #[test]
    fn a_catalogue_of_few_names_and_endless_paths_is_refused() {
        let folder = |n: u64| node(n, NodeKind::Folder, &[(n - 1, "a"), (n - 1, "b")]);
        let refused = Names::of(
            &catalogue([node(1, NodeKind::Folder, &[])].into_iter().chain((2..60).map(folder))),
            &[],
        );
        assert_eq!(refused.err().unwrap().kind(), Kind::Damaged);
        let once_more = catalogue([node(1, NodeKind::Folder, &[])].into_iter().chain((2..5).map(folder)));
        assert_eq!(Names::of(&once_more, &[]).unwrap().paths.len(), 1 + 2 + 4 + 8);
    }
}
