//! One inode: what it is, without its content.

use super::open_quietly;
use crate::error::{Context, Result};
use crate::format::{Moment, Node, NodeId, NodeKind, Text};
use rustix::fs::{AtFlags, FileType, Statx, StatxFlags, StatxTimestamp};
use rustix::io::Errno;
use rustix::path::Arg;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

/// What a name leads to.
pub(super) struct Found {
    /// What the kernel says of it.
    pub stat: Statx,
    /// Opened, if it is a file or a folder.
    pub file: Option<File>,
    /// Why it is not, though it is one of these.
    pub closed: Option<Errno>,
}

const ASKED: StatxFlags = StatxFlags::BASIC_STATS;

impl Found {
    /// What the kernel says of `name` in `folder`; `None` if it is gone.
    pub fn stat(folder: impl AsFd, name: impl Arg + Copy) -> rustix::io::Result<Option<Statx>> {
        match rustix::fs::statx(&folder, name, AtFlags::SYMLINK_NOFOLLOW, ASKED) {
            Err(Errno::NOENT) => Ok(None),
            other => other.map(Some),
        }
    }

    /// Opens what was found, if it is a file or a folder; `None` if it is gone.
    pub fn open(folder: impl AsFd, name: impl Arg + Copy, stat: Statx) -> rustix::io::Result<Option<Self>> {
        if !matches!(kind_of(&stat), NodeKind::File | NodeKind::Folder) {
            return Ok(Some(Self { stat, file: None, closed: None }));
        }
        match open_quietly(&folder, name) {
            Ok(file) => {
                // of what was opened, whatever the name leads to by now
                let stat = rustix::fs::statx(&file, "", AtFlags::EMPTY_PATH, ASKED)?;
                Ok(Some(Self { stat, file: Some(file), closed: None }))
            }
            // a link in its place by now: as good as gone, the next walk sees it
            Err(Errno::NOENT | Errno::LOOP) => Ok(None),
            Err(e) => Ok(Some(Self { stat, file: None, closed: Some(e) })),
        }
    }

    pub fn kind(&self) -> NodeKind {
        kind_of(&self.stat)
    }
}

/// The number of the file system or subvolume, as `stat` shows it.
pub(super) fn dev_of(stat: &Statx) -> u64 {
    rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor)
}

pub(super) fn kind_of(stat: &Statx) -> NodeKind {
    match FileType::from_raw_mode(stat.stx_mode.into()) {
        FileType::Directory => NodeKind::Folder,
        FileType::Symlink => NodeKind::Symlink,
        FileType::CharacterDevice => NodeKind::CharDevice,
        FileType::BlockDevice => NodeKind::BlockDevice,
        FileType::Fifo => NodeKind::Fifo,
        FileType::Socket => NodeKind::Socket,
        _ => NodeKind::File,
    }
}

const fn moment(time: &StatxTimestamp) -> Moment {
    Moment { seconds: time.tv_sec, nanos: time.tv_nsec }
}

/// The node of what was found at `path`, without names and parts.
///
/// # Errors
/// If its attributes or its target cannot be read.
pub(super) fn describe(id: NodeId, found: &Found, path: &Path) -> Result<Node> {
    let (stat, kind) = (&found.stat, found.kind());
    let mut node = Node {
        id,
        kind,
        mode: u32::from(stat.stx_mode) & 0o7777,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        device: (stat.stx_rdev_major, stat.stx_rdev_minor),
        links: stat.stx_nlink,
        size: if kind == NodeKind::File { stat.stx_size } else { 0 },
        modified: moment(&stat.stx_mtime),
        changed: moment(&stat.stx_ctime),
        accessed: moment(&stat.stx_atime),
        names: Vec::new(),
        attributes: Vec::new(),
        target: Text::default(),
        parts: Vec::new(),
        unread: found.closed.map(|e| format!("open: {e}")),
        outside: false,
    };
    if kind == NodeKind::Symlink {
        let target = rustix::fs::readlink(path, Vec::new());
        node.target = Text(target.os_context(|| format!("read link {}", path.display()))?.into_bytes());
    }
    if found.closed.is_none() {
        let what = || format!("read the attributes of {}", path.display());
        node.attributes = attributes(found.file.as_ref(), path).os_context(what)?;
    }
    Ok(node)
}

/// All extended attributes, sorted.
fn attributes(file: Option<&File>, path: &Path) -> rustix::io::Result<Vec<(Text, Text)>> {
    let listed = grown(|buf: &mut [u8]| match file {
        Some(file) => rustix::fs::flistxattr(file, buf),
        None => rustix::fs::llistxattr(path, buf),
    });
    let names = match listed {
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        names => names?,
    };
    let mut all = Vec::new();
    for name in names.split(|b| *b == 0).filter(|name| !name.is_empty()) {
        let value = grown(|buf: &mut [u8]| match file {
            Some(file) => rustix::fs::fgetxattr(file, name, buf),
            None => rustix::fs::lgetxattr(path, name, buf),
        });
        match value {
            // taken away meanwhile, or only a view (system.* of network file systems)
            Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            value => all.push((Text(name.to_vec()), Text(value?))),
        }
    }
    all.sort_unstable();
    Ok(all)
}

/// Calls `read` with a buffer that is large enough.
fn grown(read: impl Fn(&mut [u8]) -> rustix::io::Result<usize>) -> rustix::io::Result<Vec<u8>> {
    let mut small = [0; 256];
    match read(&mut small) {
        Ok(n) => return Ok(small[..n].to_vec()),
        Err(Errno::RANGE) => {}
        Err(e) => return Err(e),
    }
    // the most that the kernel gives (XATTR_SIZE_MAX, XATTR_LIST_MAX: include/uapi/linux/limits.h)
    let mut large = vec![0; 64 << 10];
    let n = read(&mut large)?;
    large.truncate(n);
    Ok(large)
}
