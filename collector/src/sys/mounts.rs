//! What is mounted where, as this thread sees it (`/proc/thread-self/mountinfo`).
//!
//! A mount in another mount namespace is not in the list; nobody may conclude from its absence that a device
//! is unused. The device number is the super block's (`sb->s_dev`), also where `stat` shows another one (btrfs
//! gives every subvolume its own).

use super::device::kernel_dev;
use super::privilege::{Capability, explained};
use crate::error::{Context, Error, Kind, Result};
use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};
use std::ffi::OsString;
use std::fs::File;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The kernel's number of this mount; given again when free, so it says nothing about age.
    pub id: u64,
    /// Device number of the super block, `major << 20 | minor`; major 0 is no block device.
    pub dev: u32,
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// The folder of the file system that is mounted there; `/` unless it is a bind mount or a subvolume.
    pub root: PathBuf,
    /// File system type, for example `ext4`.
    pub fstype: String,
    /// All that the kernel says of it.
    pub line: String,
}

impl Mount {
    /// Options of the file system, as the kernel shows them.
    pub fn super_options(&self) -> &str {
        self.line.rsplit(' ').next().unwrap_or_default()
    }

    /// It shows other owners than the file system has.
    pub fn is_idmapped(&self) -> bool {
        self.line.split(' ').nth(5).is_some_and(|options| options.split(',').any(|o| o == "idmapped"))
    }

    /// Opens the mount point and makes sure that it is this mount, not one mounted over it.
    ///
    /// # Errors
    /// If it cannot be opened, or something else is mounted on top.
    pub fn open(&self) -> Result<File> {
        let what = || format!("open mount point {}", self.mountpoint.display());
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file: File = rustix::fs::open(&self.mountpoint, flags, Mode::empty())
            .os_context(what)
            .map_err(|e| explained(e, &[Capability::DacReadSearch]))?
            .into();
        if mount_id(&file, "").os_context(what)? != self.id {
            return Err(Error::new(Kind::NotFound, format!("{}: another mount lies over it", what())));
        }
        Ok(file)
    }
}

/// All mounts of this process's namespace.
///
/// # Errors
/// If `/proc` is not readable.
pub fn all() -> Result<Vec<Mount>> {
    let path = "/proc/thread-self/mountinfo";
    let text = std::fs::read(path).os_context(|| format!("read {path}"))?;
    Ok(text.split(|&b| b == b'\n').filter_map(parse).collect())
}

/// The mount that `path` lies on.
///
/// # Errors
/// If the path does not exist, or its mount is not in the list.
pub fn of_path(path: &Path) -> Result<Mount> {
    let what = || format!("find the mount of {}", path.display());
    let id = mount_id(rustix::fs::CWD, path).os_context(what)?;
    let found = all()?.into_iter().find(|m| m.id == id);
    found.ok_or_else(|| Error::new(Kind::NotFound, format!("{}: not in mountinfo", what())))
}

fn mount_id(dir: impl std::os::fd::AsFd, path: impl rustix::path::Arg) -> rustix::io::Result<u64> {
    let statx = rustix::fs::statx(dir, path, AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?;
    if statx.stx_mask & StatxFlags::MNT_ID.bits() == 0 {
        return Err(rustix::io::Errno::NOSYS);
    }
    Ok(statx.stx_mnt_id)
}

/// `36 35 98:0 /root /mnt opts [optional fields] - fstype source options`; anything else is no mount.
fn parse(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&b| b == b' ');
    let mut text = || std::str::from_utf8(fields.next()?).ok();
    let id = text()?.parse().ok()?;
    text()?;
    let (major, minor) = text()?.split_once(':')?;
    let dev = kernel_dev(major.parse().ok()?, minor.parse().ok()?);
    let root = unescape(fields.next()?);
    let mountpoint = unescape(fields.next()?);
    let fstype = fields.skip_while(|f| *f != b"-").nth(1)?;
    let fstype = String::from_utf8_lossy(fstype).into_owned();
    let [root, mountpoint] = [root, mountpoint].map(|path| OsString::from_vec(path).into());
    let line = String::from_utf8_lossy(line).into_owned();
    Some(Mount { id, dev, mountpoint, root, fstype, line })
}

/// `\040` and the like to bytes.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        let octal = |d: &u8| d.checked_sub(b'0').filter(|d| *d < 8).map(u32::from);
        if let (b'\\', [a, b, c, after @ ..]) = (first, tail)
            && let (Some(a), Some(b), Some(c)) = (octal(a), octal(b), octal(c))
        {
            out.push((a * 64 + b * 8 + c) as u8);
            rest = after;
        } else {
            out.push(*first);
            rest = tail;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_spaces_optional_fields_and_large_minors() {
        let line = br"36 35 8:300 /sub /mnt/a\040b\134c rw,noatime master:1 shared:2 - ext4 /dev/x rw";
        let mount = parse(line).unwrap();
        assert_eq!((mount.id, mount.dev, mount.fstype.as_str()), (36, 8 << 20 | 300, "ext4"));
        assert_eq!(mount.mountpoint, Path::new(r"/mnt/a b\c"));
        assert_eq!((mount.root.as_path(), mount.super_options()), (Path::new("/sub"), "rw"));
        assert!(!mount.is_idmapped());
    }

    #[test]
    fn nonsense_is_no_mount() {
        for line in ["", "36", "36 35 8:x / / rw - ext4 a b", "36 35 8:1 / /mnt rw", "1 2 3:4 / /x rw -"] {
            assert_eq!(parse(line.as_bytes()), None, "{line}");
        }
        assert_eq!(unescape(br"\04\9\377"), b"\\04\\9\xff");
    }

    #[test]
    fn finds_the_mount_of_a_path() {
        let mount = of_path(Path::new("/proc/self/status")).unwrap();
        assert_eq!((mount.fstype.as_str(), mount.mountpoint.as_path()), ("proc", Path::new("/proc")));
        mount.open().unwrap();
    }
}
