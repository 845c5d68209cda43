//! One writer per repository and device.
//!
//! A local repository is locked by flock on `lock/<device>`: the kernel gives it back when its holder dies,
//! however it dies. The file says who holds it, for people; it stays behind (removing it would race with the
//! next holder) and is emptied on a clean end, so that words in it under a free lock mean: the last writer died.

use super::Repository;
use crate::error::{Context, Error, Kind, Result};
use crate::format::DeviceId;
use crate::sys::failpoint;
use rustix::fs::FlockOperation;
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
    file: File,
    taken_over: Option<String>,
}

impl DeviceLock {
    /// The device.
    pub fn device(&self) -> &DeviceId {
        &self.held.device
    }

    /// Words about the dead writer this lock was taken over from, if there was one.
    pub fn taken_over(&self) -> Option<&str> {
        self.held.taken_over.as_deref()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // clean end: no words left; closing the file gives the lock back
        let _ = self.file.set_len(0);
    }
}

impl Repository {
    /// Takes the writer's lock of one device.
    ///
    /// # Errors
    /// [`Kind::Busy`] if another process has it; [`Kind::Unsupported`] where flock is.
    pub fn lock(&self, device: &DeviceId) -> Result<DeviceLock> {
        let Some(folder) = self.local_path() else {
            return Err(Error::new(Kind::Unsupported, "lock a repository that is not a local folder"));
        };
        failpoint("repo.lock.take")?;
        self.store().settle()?;
        let path = folder.join("lock").join(device.as_str());
        let what = || format!("lock {device} in repository {}", folder.display());
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = options.os_context(what)?;
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
        sign(&file).os_context(what)?;
        Ok(DeviceLock { held: Arc::new(Held { device: device.clone(), file, taken_over }) })
    }
}

/// Writes who holds the lock.
fn sign(mut file: &File) -> std::io::Result<()> {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    file.set_len(0)?;
    std::io::Seek::rewind(&mut file)?;
    writeln!(file, "process {} on {host}, boot {}", std::process::id(), boot.trim())
}
