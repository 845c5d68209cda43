//! One writer per repository and device.
//!
//! A local repository is locked by flock on `lock/<device>`: the kernel gives it back when its holder dies,
//! however it dies. The file says who holds it, for people; it stays behind (removing it would race with the
//! next holder) and is emptied on a clean end, so that words in it under a free lock mean: the last writer died.
//! Over the network it is a [lease](super::lease).
//!
//! Whoever looks for objects that nothing names must know that no writer is at work, of a device that is new to the
//! repository neither: he takes a lock of his own first and looks at those of the devices then; a writer takes his device's
//! first and looks at that one then. So one of two always sees the other.

use super::Repository;
use super::lease::Lease;
use crate::error::{Context, Error, Kind, Result};
use crate::format::DeviceId;
use crate::sys::failpoint;
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;

/// Held while objects that nothing names are looked for and removed. No device has such a name.
const SWEEP: &str = ".sweep";

/// The right to write points of one device; clones share it, and it ends with the last.
#[derive(Clone, Debug)]
pub struct DeviceLock {
    held: Arc<Held>,
}

#[derive(Debug)]
struct Held {
    device: DeviceId,
    by: By,
    taken_over: Option<String>,
}

/// A lock held.
#[derive(Debug)]
pub(super) enum By {
    Flock(File),
    Lease(Lease),
}

impl By {
    /// Looks whether nobody took it over.
    fn holds(&self) -> Result<()> {
        match self {
            Self::Flock(_) => Ok(()),
            Self::Lease(lease) => lease.holds(),
        }
    }

    /// The same, if the last look is so old that somebody could have.
    pub fn still_holds(&self) -> Result<()> {
        match self {
            Self::Flock(_) => Ok(()),
            Self::Lease(lease) => lease.still_holds(),
        }
    }
}

impl DeviceLock {
    fn new(device: &DeviceId, by: By, taken_over: Option<String>) -> Self {
        Self { held: Arc::new(Held { device: device.clone(), by, taken_over }) }
    }

    /// The device.
    pub fn device(&self) -> &DeviceId {
        &self.held.device
    }

    /// Words about the dead writer this lock was taken over from, if there was one.
    pub fn taken_over(&self) -> Option<&str> {
        self.held.taken_over.as_deref()
    }

    /// Looks whether nobody took it over: asked before anything is committed or removed.
    ///
    /// # Errors
    /// [`Kind::Busy`] if somebody did; what the store meets.
    pub(crate) fn holds(&self) -> Result<()> {
        self.held.by.holds()
    }

    /// The same between many steps, and after a commit: a machine that slept in between may have lost it.
    ///
    /// # Errors
    /// As [`holds`](Self::holds).
    pub(super) fn still_holds(&self) -> Result<()> {
        self.held.by.still_holds()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // clean end: no words left; closing the file gives the lock back
        if let By::Flock(file) = &self.by {
            let _ = file.set_len(0);
        }
    }
}

impl Repository {
    /// Takes the writer's lock of one device.
    ///
    /// # Errors
    /// [`Kind::Busy`] if another process has it, or looks for what nothing names; [`Kind::Unsupported`] where flock is.
    pub fn lock(&self, device: &DeviceId) -> Result<DeviceLock> {
        let lock = self.lock_while_sweeping(device)?;
        self.expect_no_sweep().map_err(|e| e.within(format!("lock {device}")))?;
        Ok(lock)
    }

    /// The same for who looks for what nothing names.
    pub(super) fn lock_while_sweeping(&self, device: &DeviceId) -> Result<DeviceLock> {
        let (by, taken_over) = self.hold(device.as_str())?;
        Ok(DeviceLock::new(device, by, taken_over))
    }

    /// Takes the lock of who looks for what nothing names; before those of the devices.
    pub(super) fn lock_sweep(&self) -> Result<By> {
        self.hold(SWEEP).map(|(by, _)| by)
    }

    /// Nobody looks for what nothing names. Asked with the device's lock in hand.
    fn expect_no_sweep(&self) -> Result<()> {
        let Some(folder) = self.local_path() else {
            return match self.store().len(&format!("lock/{SWEEP}")) {
                Err(e) if e.kind() == Kind::NotFound => Ok(()),
                // one that died is taken over, and given back at once
                seen => seen.and_then(|_| self.hold(SWEEP)).map(drop),
            };
        };
        let path = folder.join("lock").join(SWEEP);
        if path.symlink_metadata().is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound) {
            return Ok(());
        }
        let what = || format!("look at {}", path.display());
        // another user may have made it: it is not written
        let file = lock_file(&path, false).os_context(what)?;
        // shared: other writers may look at the same moment
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
            Err(rustix::io::Errno::WOULDBLOCK) => {
                Err(Error::new(Kind::Busy, "what nothing names is being looked for and removed")
                    .hint("a prune does that last: try again when it has ended"))
            }
            seen => seen.os_context(what),
        }
    }

    /// Takes a lock; and words about who died with it.
    fn hold(&self, name: &str) -> Result<(By, Option<String>)> {
        let Some(folder) = self.local_path() else {
            let what = || format!("lock {name} in repository {}", self.store().location());
            let us = Owner::us(self.keys().is_none());
            let lease = Lease::take(&self.store_handle(), &format!("lock/{name}"), us);
            let (lease, taken_over) = lease.map_err(|e| e.within(what()))?;
            return Ok((By::Lease(lease), taken_over));
        };
        failpoint("repo.lock.take")?;
        self.store().settle()?;
        let path = folder.join("lock").join(name);
        let what = || format!("lock {name} in repository {}", folder.display());
        let mut file = lock_file(&path, true).map_err(|e| only_read(Error::os(what(), e)))?;
        let taken = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
        let mut words = String::new();
        let _ = Read::by_ref(&mut file).take(200).read_to_string(&mut words);
        let words = words.trim().replace(|c: char| c.is_control(), " ");
        if taken == Err(rustix::io::Errno::WOULDBLOCK) {
            let who = if words.is_empty() { "another process".to_owned() } else { words };
            return Err(Error::new(Kind::Busy, format!("{}: {who} is writing to it", what()))
                .hint("wait for it to end; one writer per repository and device"));
        }
        taken.os_context(what)?;
        let taken_over = (!words.is_empty()).then(|| format!("{words} died while it was writing"));
        if let Err(e) = sign(&file, self.keys().is_none()) {
            // only words for people: a full disk is no reason not to make room on it
            log::info!("{}: not signed: {e}", what());
        }
        Ok((By::Flock(file), taken_over))
    }
}

/// Opens a lock's file, or to write it makes it. A link in its place is not followed, and nothing but a file is written: whoever may write the
/// folder must not choose what we write to.
fn lock_file(path: &std::path::Path, write: bool) -> std::io::Result<File> {
    let flags = (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK).bits().cast_signed();
    let mut options = OpenOptions::new();
    let file =
        options.read(true).write(write).create(write).truncate(false).custom_flags(flags).open(path)?;
    if file.metadata()?.is_file() {
        return Ok(file);
    }
    Err(std::io::Error::other("it is no file: somebody put something else in its place"))
}

/// Where nothing can be written, much can be done all the same.
fn only_read(error: Error) -> Error {
    use std::io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
    let cause = std::error::Error::source(&error).and_then(|e| e.downcast_ref::<std::io::Error>());
    match cause.map(std::io::Error::kind) {
        Some(ReadOnlyFilesystem | PermissionDenied) => error.hint(
            "the repository can only be read: list, check, restore and copy --from work; whatever writes needs it writable. \
             Nothing is lost: what was not stored is part of the next backup",
        ),
        _ => error,
    }
}

/// Writes who holds the lock.
fn sign(mut file: &File, named: bool) -> std::io::Result<()> {
    file.set_len(0)?;
    std::io::Seek::rewind(&mut file)?;
    writeln!(file, "{}", Owner::us(named))
}

fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// A process that holds a lock, in words that another one can judge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Owner {
    process: u32,
    /// Empty in an encrypted repository, which does not tell whose it is.
    host: String,
    /// Of the machine's start: process numbers mean nothing in another.
    boot: String,
    /// The space its process number is of: a container has its own.
    space: String,
}

impl Owner {
    /// This process; without the host's name where it is not to be known.
    pub fn us(named: bool) -> Self {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let space = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
        Self {
            process: std::process::id(),
            host: if named { host() } else { String::new() },
            boot: boot.trim().to_owned(),
            space: space.to_string_lossy().into_owned(),
        }
    }

    /// It was on this machine, in this start of it, and is there no more. Of others nothing is known.
    pub fn is_dead(&self) -> bool {
        let us = Self::us(false);
        let near = self.boot == us.boot && self.space == us.space;
        let known = !us.boot.is_empty() && !us.space.is_empty();
        near && known && is_gone(self.process)
    }
}

/// There is no such process. The kernel is asked and not `/proc`, which may hide those of others.
fn is_gone(process: u32) -> bool {
    let process = i32::try_from(process).ok().filter(|n| *n > 0).and_then(rustix::process::Pid::from_raw);
    process.is_some_and(|pid| rustix::process::test_kill_process(pid) == Err(rustix::io::Errno::SRCH))
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let plain = |text: &str| text.replace(|c: char| c.is_control(), " ");
        let host = if self.host.is_empty() { "some host".to_owned() } else { plain(&self.host) };
        write!(f, "process {} on {host}, boot {}", self.process, plain(&self.boot))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "plants what is no lock")]

    use super::*;

    fn made() -> (tempfile::TempDir, Repository, DeviceId) {
        let dir = tempfile::tempdir().unwrap();
        let repo = Repository::create(dir.path().join("r").to_str().unwrap()).unwrap();
        (dir, repo, "disk".parse().unwrap())
    }

    /// Museum M29: who may write the repository's folder must not choose which file we write to.
    #[test]
    fn what_a_link_leads_to_is_not_written() {
        let (dir, repo, device) = made();
        let victim = dir.path().join("victim");
        std::fs::write(&victim, "of somebody else").unwrap();
        for name in [device.as_str(), SWEEP] {
            std::os::unix::fs::symlink(&victim, dir.path().join("r/lock").join(name)).unwrap();
            assert!(repo.lock(&device).is_err());
            assert_eq!(std::fs::read_to_string(&victim).unwrap(), "of somebody else");
            std::fs::remove_file(dir.path().join("r/lock").join(name)).unwrap();
        }
        rustix::fs::mknodat(
            rustix::fs::CWD,
            dir.path().join("r/lock/pipe"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RWXU,
            0,
        )
        .unwrap();
        assert!(repo.lock(&"pipe".parse().unwrap()).is_err(), "a pipe is no lock");
    }

    #[test]
    fn a_writer_and_who_looks_for_orphans_turn_each_other_away() {
        let (_dir, repo, device) = made();
        let sweep = repo.lock_sweep().unwrap();
        assert_eq!(repo.lock(&device).unwrap_err().kind(), Kind::Busy);
        assert_eq!(repo.lock_sweep().unwrap_err().kind(), Kind::Busy);
        drop(sweep);
        let lock = repo.lock(&device).unwrap();
        assert_eq!(repo.sweep_orphans(std::time::Duration::ZERO).unwrap_err().kind(), Kind::Busy);
        drop(lock);
        repo.sweep_orphans(std::time::Duration::ZERO).unwrap();
        repo.lock(&device).unwrap();
    }

    #[test]
    fn only_a_process_that_is_gone_is_dead() {
        let gone = std::process::Command::new("true").spawn().and_then(|mut child| {
            let id = child.id();
            child.wait().map(|_| id)
        });
        let us = Owner::us(true);
        assert!(!us.is_dead());
        for (process, dead) in [(1, false), (gone.unwrap(), true), (0, false), (u32::MAX, false)] {
            assert_eq!(Owner { process, ..us.clone() }.is_dead(), dead, "{process}");
            assert!(!Owner { process, boot: "another".into(), ..us.clone() }.is_dead());
        }
    }
}
