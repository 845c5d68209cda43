//! One writer per repository and device.
//!
//! A local repository is locked by flock on `lock/<device>`: the kernel gives it back when its holder dies,
//! however it dies. The file says who holds it, for people; it stays behind (removing it would race with the
//! next holder) and is emptied on a clean end, so that words in it under a free lock mean: the last writer died.
//! Over the network it is a [lease](super::lease).

use super::Repository;
use super::lease::Lease;
use crate::error::{Context, Error, Kind, Result};
use crate::format::DeviceId;
use crate::sys::failpoint;
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::sync::Arc;

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

#[derive(Debug)]
enum By {
    Flock(File),
    Lease(Lease),
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
        match &self.held.by {
            By::Flock(_) => Ok(()),
            By::Lease(lease) => lease.holds(),
        }
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
    /// [`Kind::Busy`] if another process has it; [`Kind::Unsupported`] where flock is.
    pub fn lock(&self, device: &DeviceId) -> Result<DeviceLock> {
        let Some(folder) = self.local_path() else {
            let what = || format!("lock {device} in repository {}", self.store().location());
            let us = Owner::us(self.keys().is_none());
            let lease = Lease::take(&self.store_handle(), &format!("lock/{device}"), us);
            let (lease, taken_over) = lease.map_err(|e| e.within(what()))?;
            return Ok(DeviceLock::new(device, By::Lease(lease), taken_over));
        };
        failpoint("repo.lock.take")?;
        self.store().settle()?;
        let path = folder.join("lock").join(device.as_str());
        let what = || format!("lock {device} in repository {}", folder.display());
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = options.map_err(|e| only_read(Error::os(what(), e)))?;
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
        sign(&file, self.keys().is_none()).os_context(what)?;
        Ok(DeviceLock::new(device, By::Flock(file), taken_over))
    }
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
        near && known && !std::path::Path::new(&format!("/proc/{}", self.process)).exists()
    }
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let plain = |text: &str| text.replace(|c: char| c.is_control(), " ");
        let host = if self.host.is_empty() { "some host".to_owned() } else { plain(&self.host) };
        write!(f, "process {} on {host}, boot {}", self.process, plain(&self.boot))
    }
}
