//! Gives single files back from a point of a whole device.
//!
//! ```text
//!   point ─restore─▶ sparse file, without a name ─▶ mount, in a namespace of our own ─▶ walk ─▶ as a group's files
//! ```
//! A point of a frozen file system needs no replay and is mounted without one; any other one is a crash, and its file
//! system recovers on our copy.
//!
//! What must stay true: whatever ends this, mount, loop device and copy are gone afterwards; no path leads out of the
//! mounted file system, by a symbolic link neither.

use super::content::made_here;
use super::partitions::{self, Found};
use super::{Unpacked, concluded, empty, incomplete, names::Names, place};
use crate::catalogue::Catalogue;
use crate::copy::Watch;
use crate::error::{Context, Error, Kind, Result};
use crate::format::{Consistency, DeviceId, Manifest, NodeId, NodeKind, PointId, Root};
use crate::repository::Repository;
use crate::restore::{How, Leave, Restore};
use crate::sys::alone::{MountedImage, alone};
use crate::sys::failpoint;
use crate::sys::fiemap::extents;
use crate::tree::{Listing, Pick, Picker, Volumes, walk};
use rustix::fs::{FallocateFlags, fallocate};
use std::collections::HashMap;
use std::fs::OpenOptions;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};

/// Files of a device's point that may be given back.
pub struct DeviceFiles<'a> {
    restore: Restore<'a>,
    manifest: Manifest,
}

/// Where from and where to.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Paths in the file system; none: everything.
    pub paths: &'a [PathBuf],
    /// The folder that gets them.
    pub into: &'a Path,
    /// Which partition, where there are several.
    pub partition: Option<u32>,
    /// Folder for the copy of the device, with room for what the point holds.
    pub scratch: &'a Path,
}

impl<'a> DeviceFiles<'a> {
    /// Traces the chain of a point.
    ///
    /// # Errors
    /// If a point of the chain is missing or damaged, or it is no device's.
    pub fn prepare(repo: &'a Repository, device: &DeviceId, point: PointId) -> Result<Self> {
        let restore = Restore::prepare(repo, device, point)?;
        let manifest = restore.point().clone();
        Ok(Self { restore, manifest })
    }

    /// Bytes that are restored to look for the files.
    pub fn size(&self) -> u64 {
        self.restore.size()
    }

    /// Writes the files named, and what is below them, into a folder that must be new or empty.
    ///
    /// # Errors
    /// [`Kind::Denied`] without `CAP_SYS_ADMIN`; if there is no file system that can be mounted; if a path is not in
    /// it; damage; a failed write.
    pub fn run(&self, wanted: Wanted<'_>, watch: &dyn Watch) -> Result<Unpacked> {
        alone(|| self.run_alone(wanted, watch)).map_err(|error| match error.kind() {
            Kind::Denied => error.hint("files of a device's point come back through a mount: run it as root"),
            _ => error,
        })
    }

    fn run_alone(&self, wanted: Wanted<'_>, watch: &dyn Watch) -> Result<Unpacked> {
        empty(wanted.into)?;
        let what = || format!("make a folder in {}", wanted.scratch.display());
        let scratch = tempfile::Builder::new().prefix(".blkdelta-files-").tempdir_in(wanted.scratch);
        let scratch = scratch.os_context(what)?;
        let folder = scratch.path().canonicalize().os_context(what)?;
        let point = folder.join("mnt");
        std::fs::create_dir(&point).os_context(what)?;
        let image = folder.join("image");
        self.restore.run(&image, Leave::default(), How::default(), watch)?;
        let found = partitions::find(&image, self.size(), wanted.partition)?;
        // from here on it has no name, and is gone when nobody has it open any more
        let held = OpenOptions::new().read(true).write(true).open(&image).os_context(what)?;
        std::fs::remove_file(&image).os_context(what)?;
        let image = PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), held.as_raw_fd()));
        let mounted = self.mount(&image, &found, &point)?;
        failpoint("unpack.mounted")?;
        let done = self.copy(mounted.point(), wanted)?;
        mounted.unmount()?;
        Ok(done)
    }

    fn mount(&self, image: &Path, found: &Found, point: &Path) -> Result<MountedImage> {
        let frozen = self.manifest.consistency == Consistency::FileSystemFrozen;
        let extent = (found.extent.offset, found.extent.length);
        MountedImage::new(image, extent, &options(&found.kind, frozen), point).map_err(|error| {
            let (kind, id) = (&found.kind, self.manifest.point);
            let error = error.within(format!("the {kind} of point {id} cannot be mounted"));
            match found.kind.as_str() {
                "btrfs" => error.hint("Linux before 6.7 mounts no second copy of a btrfs that is mounted here: restore it elsewhere"),
                _ => error.hint("restore the point to a device or file, and repair it there"),
            }
        })
    }

    /// Copies from the mounted file system.
    fn copy(&self, top: &Path, wanted: Wanted<'_>) -> Result<Unpacked> {
        let paths = inside(top, wanted.paths)?;
        let bases = if paths.is_empty() {
            vec![top.to_owned()]
        } else {
            paths.iter().map(|path| top.join(path)).collect()
        };
        let picker = Picker::new(&Pick { paths: bases, ..Pick::default() })?;
        let listing = walk(&picker, &mut Volumes::new(Vec::new(), Vec::new()))?;
        let root = Root { top: node_at(&listing, top)?, ..Root::default() };
        let catalogue = Catalogue { root, nodes: listing.nodes.clone() };
        let names = Names::of(&catalogue, &paths)?;
        let mut done = Unpacked { point: self.manifest.point.to_string(), ..Unpacked::default() };
        let mut content = |made: &[(NodeId, PathBuf)], done: &mut Unpacked| fill(&listing, made, done);
        place(&catalogue, &names, wanted.into, &mut done, &mut content)
            .map_err(|error| incomplete(wanted.into, error))?;
        done.missing.extend(listing.unread.iter().map(|what| what.replace(&*top.to_string_lossy(), "")));
        if self.manifest.consistency == Consistency::Fuzzy {
            done.warnings.push(
                "the device was written while it was copied: what was written then may be anything".into(),
            );
        }
        Ok(concluded(&self.manifest, done))
    }
}

/// How a file system is mounted that nobody is to change; or, if it was not at rest, one that may recover.
fn options(kind: &str, at_rest: bool) -> String {
    let own = match (kind, at_rest) {
        ("ext3" | "ext4", true) => ",noload",
        ("xfs", true) => ",norecovery,nouuid",
        ("xfs", false) => ",nouuid",
        ("btrfs", true) => ",rescue=nologreplay,subvolid=5",
        ("btrfs", false) => ",subvolid=5",
        _ => "",
    };
    // recovery writes, and a loop device of a read-only mount could not be written
    format!("{}{own}", if at_rest { "ro" } else { "rw" })
}

/// Paths without what leads away; each is there, and no folder on the way is a symbolic link.
fn inside(top: &Path, paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for path in paths {
        let relative: PathBuf = path.components().filter(|c| matches!(c, Component::Normal(_))).collect();
        let wrong = |why: &str| Error::new(Kind::NotFound, format!("{}: {why}", path.display()));
        if path.components().any(|c| c == Component::ParentDir) {
            return Err(wrong("`..` is not followed"));
        }
        let mut at = top.to_owned();
        for (n, part) in relative.components().enumerate() {
            at.push(part);
            let kind = std::fs::symlink_metadata(&at).map(|found| found.file_type());
            let last = n + 1 == relative.components().count();
            match kind {
                Ok(kind) if last || kind.is_dir() => {}
                Ok(kind) if kind.is_symlink() => {
                    return Err(wrong("it leads through a symbolic link")
                        .hint("name the path that the link leads to"));
                }
                Ok(_) | Err(_) => {
                    let why = "it is not in the file system of the point";
                    return Err(wrong(why)
                        .hint("paths begin at the top of that file system, not where it was mounted"));
                }
            }
        }
        found.push(relative);
    }
    // the top itself is everything
    Ok(if found.iter().any(|path| path.as_os_str().is_empty()) { Vec::new() } else { found })
}

fn node_at(listing: &Listing, path: &Path) -> Result<NodeId> {
    let mut at = listing.top;
    for part in path.components().skip(1) {
        let name = part.as_os_str().as_encoded_bytes();
        let leads =
            |node: &&crate::format::Node| node.names.iter().any(|l| l.parent == at && l.name.0 == name);
        let next = listing.nodes.values().find(leads);
        at = next.ok_or_else(|| Error::new(Kind::Bug, format!("{} is not listed", path.display())))?.id;
    }
    Ok(at)
}

/// Content of what was made, as the file system has it: holes stay holes, reserved room is reserved.
fn fill(listing: &Listing, made: &[(NodeId, PathBuf)], done: &mut Unpacked) -> Result<()> {
    let mut ranges: HashMap<NodeId, Vec<(u64, u64)>> = HashMap::new();
    for range in &listing.through {
        ranges.entry(range.id).or_default().push((range.at, range.length));
    }
    let mut buf = Vec::new();
    for (id, to) in made {
        let is_file = listing.nodes.get(id).is_some_and(|node| node.kind == NodeKind::File && node.size > 0);
        let Some(from) = listing.path(*id).filter(|_| is_file) else { continue };
        let source = made_here(OpenOptions::new().read(true), &from);
        let source = source.os_context(|| format!("read {}", from.display()))?;
        let target = made_here(OpenOptions::new().write(true), to);
        let target = target.os_context(|| format!("write {}", to.display()))?;
        for extent in extents(&source).unwrap_or_default().iter().filter(|extent| extent.is_unwritten()) {
            // a promise of room, no content: where it cannot be given, nothing is lost
            let _ = fallocate(&target, FallocateFlags::KEEP_SIZE, extent.logical, extent.length);
        }
        for (at, length) in ranges.remove(id).unwrap_or_default() {
            buf.resize(length as usize, 0);
            source.read_exact_at(&mut buf, at).os_context(|| format!("read {}", from.display()))?;
            target.write_all_at(&buf, at).os_context(|| format!("write {}", to.display()))?;
            done.bytes += length;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_path_leads_out() {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path();
        std::fs::create_dir_all(top.join("a/b")).unwrap();
        std::os::unix::fs::symlink("/etc", top.join("away")).unwrap();
        let find = |path: &str| inside(top, &[path.into()]);
        assert_eq!(find("/a/b").unwrap(), [Path::new("a/b")]);
        assert_eq!(find("away").unwrap(), [Path::new("away")], "the link itself");
        assert!(find("/").unwrap().is_empty(), "everything");
        for wrong in ["/away/passwd", "/a/../../etc", "/not/there"] {
            assert_eq!(find(wrong).unwrap_err().kind(), Kind::NotFound, "{wrong}");
        }
    }

    #[test]
    fn only_what_was_at_rest_is_mounted_without_recovery() {
        assert_eq!(options("ext4", true), "ro,noload");
        assert_eq!(options("xfs", true), "ro,norecovery,nouuid");
        assert_eq!(options("xfs", false), "rw,nouuid");
        assert_eq!(options("vfat", true), "ro");
    }
}
