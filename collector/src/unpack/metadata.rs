//! Owner, mode, attributes, times: last, so that nothing written after them changes them again.
//!
//! What must stay true: owner before mode before attributes (each may clear what comes after it), times last; what this
//! user or file system cannot take is named, never passed over.

use super::Unpacked;
use crate::error::{Error, Result};
use crate::format::{Moment, Node, NodeKind};
use rustix::fs::{AtFlags, CWD, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use std::path::Path;

/// Warnings that are kept.
const MOST: usize = 100;

/// Gives a node what it is.
pub(super) fn apply(node: &Node, path: &Path, done: &mut Unpacked) -> Result<()> {
    let owner = (Some(Uid::from_raw(node.uid)), Some(Gid::from_raw(node.gid)));
    let owned = rustix::fs::chownat(CWD, path, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW);
    tolerate(owned, done, || format!("give {} to {}:{}", path.display(), node.uid, node.gid))?;
    if node.kind != NodeKind::Symlink {
        let mode = Mode::from_raw_mode(node.mode);
        tolerate(rustix::fs::chmod(path, mode), done, || format!("set the mode of {}", path.display()))?;
    }
    for (name, value) in &node.attributes {
        let set = rustix::fs::lsetxattr(path, name.0.as_slice(), &value.0, XattrFlags::empty());
        tolerate(set, done, || {
            format!("set attribute {} of {}", String::from_utf8_lossy(&name.0), path.display())
        })?;
    }
    let time = |moment: Moment| Timespec { tv_sec: moment.seconds, tv_nsec: i64::from(moment.nanos) };
    let times = Timestamps { last_access: time(node.accessed), last_modification: time(node.modified) };
    let set = rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW);
    tolerate(set, done, || format!("set the times of {}", path.display()))
}

/// What the user may not do or the file system does not know is a warning.
fn tolerate(result: rustix::io::Result<()>, done: &mut Unpacked, what: impl Fn() -> String) -> Result<()> {
    match result {
        Ok(()) => Ok(()),
        Err(e @ (Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP | Errno::INVAL)) => {
            if done.warnings.len() < MOST {
                done.warnings.push(format!("{}: {e}", what()));
            }
            Ok(())
        }
        Err(e) => Err(Error::os(what(), e)),
    }
}
