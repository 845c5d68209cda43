//! Block devices of our own and mounts on them; every guard undoes what it made.

use crate::command::{quiet, say, text};
use crate::workspace::write_attribute;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// A loop device.
pub struct Loop {
    path: PathBuf,
}

impl Loop {
    /// On the file `backing`; past the page cache of the file system below if that can do it.
    pub fn on(backing: &Path) -> Result<Self> {
        Self::attach(backing, "--direct-io=on")
    }

    /// On a file that shares its blocks with another one. Past the page cache XFS takes such a file in whole blocks only
    /// (`xfs_report_dioalign`, fs/xfs/xfs_iops.c, 6.18), so the device would have larger sectors than the disk it is a copy of.
    pub fn on_copy(backing: &Path) -> Result<Self> {
        Self::attach(backing, "--direct-io=off")
    }

    fn attach(backing: &Path, how: &str) -> Result<Self> {
        let mut last = None;
        // two processes can be given the same free number; the loser tries again
        for _ in 0..20 {
            let mut losetup = Command::new("losetup");
            losetup.args(["--find", "--show", how]).arg(backing);
            match text(&mut losetup) {
                Ok(path) => return Ok(Self { path: path.trim().into() }),
                Err(error) => last = Some(error),
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Err(last.context("no attempt was made")?)
    }

    /// The device node.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Detaches now.
    pub fn detach(self) -> Result<()> {
        self.release()
    }

    fn release(&self) -> Result<()> {
        let give_up = Instant::now() + Duration::from_secs(10);
        while attached()?.iter().any(|(device, _)| *device == self.path) {
            // refused while something of the kernel's still looks at it
            let _ = quiet(Command::new("losetup").arg("-d").arg(&self.path));
            if Instant::now() > give_up {
                bail!("{} stays attached", self.path.display());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        if let Err(error) = self.release() {
            say(format!("while detaching {}: {error:#}", self.path.display()));
        }
    }
}

/// All attached loop devices and their files.
pub fn attached() -> Result<Vec<(PathBuf, PathBuf)>> {
    let mut all = Vec::new();
    for entry in fs::read_dir("/sys/block").context("list block devices")?.flatten() {
        // a device without the attribute is not attached
        if let Ok(file) = fs::read_to_string(entry.path().join("loop/backing_file")) {
            let file = file.trim().trim_end_matches(" (deleted)");
            all.push((Path::new("/dev").join(entry.file_name()), PathBuf::from(file)));
        }
    }
    Ok(all)
}

/// A mounted file system.
pub struct Mount {
    point: PathBuf,
    open: bool,
}

impl Mount {
    /// Mounts `device` at the existing folder `point`.
    pub fn new(device: &Path, point: &Path, options: &str) -> Result<Self> {
        quiet(Command::new("mount").args(["-o", options]).arg(device).arg(point))?;
        Ok(Self { point: point.into(), open: true })
    }

    /// The mount point.
    pub fn point(&self) -> &Path {
        &self.point
    }

    /// Unmounts now.
    pub fn unmount(mut self) -> Result<()> {
        self.open = false;
        unmount(&self.point)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.open
            && let Err(error) = unmount(&self.point)
        {
            say(format!("while unmounting {}: {error:#}", self.point.display()));
        }
    }
}

/// Unmounts; a moment's use by somebody else (a scan of new devices) is waited for.
pub fn unmount(point: &Path) -> Result<()> {
    let mut attempt = quiet(Command::new("umount").arg(point));
    for _ in 0..20 {
        if attempt.is_ok() {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
        attempt = quiet(Command::new("umount").arg(point));
    }
    attempt.map(drop)
}

/// A zram device: the fastest there is, so the hardest to add little to.
pub struct Zram {
    number: u32,
}

impl Zram {
    /// Adds one; an error where the kernel cannot.
    pub fn new(size: u64) -> Result<Self> {
        let number = fs::read_to_string("/sys/class/zram-control/hot_add").context("add a zram device")?;
        let zram = Self { number: number.trim().parse().context("number of the zram device")? };
        write_attribute(&zram.attribute("disksize"), &size.to_string())?;
        // off by default; without it the kernel counts nothing that tracking could be checked against
        write_attribute(&zram.attribute("queue/iostats"), "1")?;
        Ok(zram)
    }

    /// The device node.
    pub fn path(&self) -> PathBuf {
        format!("/dev/zram{}", self.number).into()
    }

    fn attribute(&self, name: &str) -> PathBuf {
        format!("/sys/block/zram{}/{name}", self.number).into()
    }
}

impl Drop for Zram {
    fn drop(&mut self) {
        let remove = Path::new("/sys/class/zram-control/hot_remove");
        let gone = write_attribute(&self.attribute("reset"), "1")
            .and_then(|()| write_attribute(remove, &self.number.to_string()));
        if let Err(error) = gone {
            say(format!("while removing zram{}: {error:#}", self.number));
        }
    }
}
