//! Mounts that only one thread sees, and that end with it.
//!
//! ```text
//!   thread ── a mount namespace of its own ── mount -o loop … ── work ── umount ── the thread ends: so does the namespace
//! ```
//! What must stay true: nobody else ever sees such a mount; whatever happens to this process, SIGKILL too, the kernel
//! takes the namespace down with its last thread, then the mount, then the loop device (which mount(8) makes so that it
//! goes with its last user).

use super::privilege::{Capability, explained};
use crate::error::{Context, Error, Kind, Result};
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::thread::UnshareFlags;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Runs `work` in a thread that has the mounts there are, and its own.
///
/// # Errors
/// [`Kind::Denied`] without `CAP_SYS_ADMIN`; those of `work`.
pub fn alone<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let run = || {
        let what = || "make a view of the mounts of its own".to_owned();
        // SAFETY: of what can be unshared this is the mount table alone (and with it the thread's own current folder);
        // no file descriptor of another thread is closed or changed.
        let unshared = unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) };
        unshared.os_context(what).map_err(|e| explained(e, &[Capability::SysAdmin]))?;
        // what is mounted here stays here
        let private = MountPropagationFlags::REC | MountPropagationFlags::PRIVATE;
        mount_change("/", private).os_context(what)?;
        work()
    };
    std::thread::scope(|scope| {
        let ended = scope.spawn(run).join();
        ended.unwrap_or_else(|_| Err(Error::new(Kind::Bug, "the thread that mounts panicked")))
    })
}

/// A mounted image file; unmounted when dropped.
pub struct MountedImage {
    point: PathBuf,
    open: bool,
}

impl MountedImage {
    /// Mounts what lies in `image` from byte `offset` on, `length` bytes of it, by mount(8) with `options`.
    ///
    /// # Errors
    /// What mount(8) says.
    pub fn new(image: &Path, (offset, length): (u64, u64), options: &str, point: &Path) -> Result<Self> {
        let options =
            format!("loop,offset={offset},sizelimit={length},nosuid,nodev,noexec,noatime,{options}");
        let mut mount = Command::new("mount");
        run(mount.args(["-o", &options]).args([image, point]), &format!("mount with {options}"))?;
        Ok(Self { point: point.to_owned(), open: true })
    }

    /// Where.
    pub fn point(&self) -> &Path {
        &self.point
    }

    /// Unmounts it.
    ///
    /// # Errors
    /// What umount(8) says; it then goes with the thread.
    pub fn unmount(mut self) -> Result<()> {
        self.open = false;
        run(Command::new("umount").arg(&self.point), "unmount what was mounted to read it")
    }
}

impl Drop for MountedImage {
    fn drop(&mut self) {
        if self.open {
            let _ = run(Command::new("umount").arg("-l").arg(&self.point), "unmount");
        }
    }
}

fn run(command: &mut Command, what: &str) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.env("LC_ALL", "C").output().os_context(|| format!("{what}: run {program}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Error::new(Kind::Unsupported, format!("{what}: {}", said.trim().replace('\n', "; "))))
}
