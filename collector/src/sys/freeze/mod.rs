//! Holding file systems still (`FIFREEZE`), with a guardian that always lets go.
//!
//! ```text
//!   hold ── open all ── fork guardian ── freeze A ── freeze B ┄┄┄ cut, copy ┄┄┄ thaw B ── thaw A ── dismiss
//!                            └─ waits: pipe closed (we died) or limit over ─→ thaws what is still frozen
//! ```
//!
//! What must stay true: from the first freeze on, a process other than ours knows how to undo it; every freeze
//! that succeeded is thawed exactly once; a freeze that did not last until [`Freeze::thaw`] is an error there,
//! because what was copied meanwhile is not of one moment. Limits: somebody who kills *both* processes at the
//! same time with SIGKILL leaves the file system frozen (then: `fsfreeze --unfreeze`).

mod guardian;

use super::btrfs;
use super::device::BlockDevice;
use super::mounts::{self, Mount};
use super::privilege::{Capability, explained};
use crate::error::{Error, Kind, Result};
use guardian::Guardian;
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// `FIFREEZE` (`include/uapi/linux/fs.h`); its argument is ignored.
const FIFREEZE: u64 = 0xc004_5877;
/// `FITHAW`.
const FITHAW: u64 = 0xc004_5878;

/// Can file systems of this type be held still?
pub fn can_freeze(fstype: &str) -> bool {
    const KNOWN: [&str; 6] = ["ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs"];
    KNOWN.contains(&fstype)
}

/// Frozen file systems; thawed when dropped.
pub struct Freeze {
    held: Vec<Held>,
    guardian: Guardian,
    begun: Instant,
    limit: Duration,
}

struct Held {
    mount: Mount,
    file: File,
    frozen: bool,
}

impl Freeze {
    /// Freezes the file systems mounted at `mountpoints`, each super block once, one inside another first. After
    /// `limit`, or when this process dies, a guardian process thaws them.
    ///
    /// Do not write to them meanwhile: see [`refuse_if_frozen`].
    ///
    /// # Errors
    /// `Busy` if one is frozen already, `Unsupported` if its type cannot be frozen, `Denied` without
    /// `CAP_SYS_ADMIN`. Those frozen until then are thawed again.
    pub fn hold(mountpoints: &[PathBuf], limit: Duration) -> Result<Self> {
        let mut held = Vec::new();
        for mount in distinct(mountpoints)? {
            let file = mount.open()?;
            held.push(Held { mount, file, frozen: false });
        }
        let files: Vec<_> = held.iter().map(|h| h.file.as_fd()).collect();
        let guardian = Guardian::start(&files, limit)?;
        let mut freeze = Self { held, guardian, begun: Instant::now(), limit };
        for i in 0..freeze.held.len() {
            freeze.freeze_one(i)?;
        }
        Ok(freeze)
    }

    fn freeze_one(&mut self, i: usize) -> Result<()> {
        let Held { mount, file, frozen } = &mut self.held[i];
        self.guardian.watch(i);
        match ioctl(&*file, FIFREEZE) {
            Ok(()) => *frozen = true,
            Err(error) => {
                self.guardian.forget(i);
                return Err(explain(error, mount));
            }
        }
        Ok(())
    }

    /// Lets the file systems go on; the time from the first freeze until now.
    ///
    /// # Errors
    /// `Interrupted` if one was thawed before (limit over, or by somebody else): what was copied meanwhile is not
    /// of one moment. All are thawed in any case.
    pub fn thaw(mut self) -> Result<Duration> {
        self.release()
    }

    /// Time since the first freeze.
    pub fn held_for(&self) -> Duration {
        self.begun.elapsed()
    }

    fn release(&mut self) -> Result<Duration> {
        let mut first_error = None;
        for (i, held) in self.held.iter_mut().enumerate().rev().filter(|(_, h)| h.frozen) {
            held.frozen = false;
            // thawed by the guardian: somebody else may have frozen it since, that one is not ours
            let ours = self.guardian.is_watched(i);
            let thawed = if ours { ioctl(&held.file, FITHAW) } else { Err(gone()) };
            match thawed {
                Ok(()) => self.guardian.forget(i),
                Err(error) => {
                    let error = lost(error, &held.mount, self.limit);
                    first_error.get_or_insert(error);
                }
            }
        }
        let frozen = self.begun.elapsed();
        self.guardian.dismiss();
        first_error.map_or(Ok(frozen), Err)
    }
}

impl Drop for Freeze {
    fn drop(&mut self) {
        let _ = self.release();
    }
}

/// Refuses if writing to one of `places` would wait for a file system at `mountpoints` that is about to be
/// frozen: it lies on it, or on a device whose backing file or lower device does (museum M25).
///
/// A place that does not exist yet counts as where its nearest existing folder is.
///
/// # Errors
/// `Usage`, naming the place; or if mounts cannot be read.
pub fn refuse_if_frozen(mountpoints: &[PathBuf], places: &[PathBuf]) -> Result<()> {
    let frozen: BTreeSet<u32> = distinct(mountpoints)?.iter().map(|m| m.dev).collect();
    for place in places {
        let there = place.ancestors().find(|p| p.exists()).unwrap_or(Path::new("."));
        let mount = mounts::of_path(there)?;
        if lies_on(&mount, &frozen) {
            let text = format!("{} lies on the file system that is to be frozen", place.display());
            return Err(Error::new(Kind::Usage, format!("{text}: the backup would wait for itself"))
                .hint("put it on another file system, or back up with --no-freeze"));
        }
    }
    Ok(())
}

/// Writing to `mount` ends on one of the `frozen` super blocks.
fn lies_on(mount: &Mount, frozen: &BTreeSet<u32>) -> bool {
    let mut seen = BTreeSet::new();
    lowest(mount).into_iter().any(|dev| reaches(dev, frozen, &mut seen))
}

/// The super block's device number and, for a btrfs, those of its devices.
fn lowest(mount: &Mount) -> Vec<u32> {
    let members = if mount.fstype == "btrfs" { btrfs::members(mount) } else { Vec::new() };
    members.into_iter().chain([mount.dev]).collect()
}

/// Writing to device `dev` ends on one of the `frozen` super blocks.
fn reaches(dev: u32, frozen: &BTreeSet<u32>, seen: &mut BTreeSet<u32>) -> bool {
    if frozen.contains(&dev) {
        return true;
    }
    let Some(device) = BlockDevice::of_number(dev).ok().filter(|_| seen.insert(dev)) else { return false };
    let backing = device.backing_file.as_deref().and_then(|file| mounts::of_path(file).ok());
    let backing = backing.map(|mount| lowest(&mount)).unwrap_or_default();
    let mut below = device.slaves().into_iter().chain(backing).chain([device.disk]);
    below.any(|dev| reaches(dev, frozen, seen))
}

/// The mounts at these paths, each super block once, in the order to freeze them.
fn distinct(mountpoints: &[PathBuf]) -> Result<Vec<Mount>> {
    let mut found: Vec<Mount> = Vec::new();
    for path in mountpoints {
        let mount = mounts::of_path(path)?;
        if !found.iter().any(|m| m.dev == mount.dev) {
            found.push(mount);
        }
    }
    Ok(upper_first(found))
}

/// A file system that lives in a file (or on a device) of another one comes before that one: to be frozen it must
/// still be able to write. Mount ids do not tell: the kernel gives the lowest free one.
fn upper_first(mut mounts: Vec<Mount>) -> Vec<Mount> {
    let mut order = Vec::with_capacity(mounts.len());
    while !mounts.is_empty() {
        let stands_on = |lower: &Mount, upper: &Mount| {
            let target = BTreeSet::from([lower.dev]);
            lower.dev != upper.dev && lies_on(upper, &target)
        };
        let top = mounts.iter().position(|m| !mounts.iter().any(|other| stands_on(m, other)));
        order.push(mounts.remove(top.unwrap_or(0)));
    }
    order
}

fn explain(error: io::Error, mount: &Mount) -> Error {
    let what = format!("freeze {} ({})", mount.mountpoint.display(), mount.fstype);
    match error.raw_os_error() {
        Some(libc::EBUSY) => Error::caused(Kind::Busy, format!("{what}: it is frozen already"), error)
            .hint("another backup or fsfreeze holds it; if none does: fsfreeze --unfreeze MOUNTPOINT"),
        Some(libc::EOPNOTSUPP | libc::ENOTTY) => {
            Error::caused(Kind::Unsupported, format!("{what}: this file system cannot be frozen"), error)
        }
        _ => explained(Error::os(what, error), &[Capability::SysAdmin]), // ioctl_fsfreeze, fs/ioctl.c
    }
}

/// What the kernel says to a thaw of what is not frozen.
fn gone() -> io::Error {
    io::Error::from_raw_os_error(libc::EINVAL)
}

fn lost(error: io::Error, mount: &Mount, limit: Duration) -> Error {
    let what = format!("thaw {}", mount.mountpoint.display());
    if error.raw_os_error() == Some(libc::EINVAL) {
        let text =
            format!("{what}: it was thawed meanwhile (limit {} ms, or by somebody)", limit.as_millis());
        return Error::new(Kind::Interrupted, text);
    }
    Error::os(what, error)
}

fn ioctl(file: impl AsFd, request: u64) -> io::Result<()> {
    // SAFETY: FIFREEZE and FITHAW do not use their argument; the descriptor is open as long as `file`.
    match unsafe { libc::ioctl(file.as_fd().as_raw_fd(), request as libc::Ioctl, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
