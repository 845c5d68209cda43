//! A folder of our own, and the removal of everything that hangs on it.
//!
//! Its name carries our process id: what a killed run left behind is found and removed by the next one, which
//! needs nothing but the folder's path.

use crate::command::{quiet, say};
use crate::rig::device::{attached, unmount};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

const PREFIX: &str = "blkdelta-xtask-";

/// The folder; with it goes everything made inside.
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Where `need` bytes are free: in memory if that leaves as much again, or 6 GiB; else in the temporary folder.
    pub fn new(need: u64) -> Result<Self> {
        let roots = [PathBuf::from("/dev/shm"), std::env::temp_dir()];
        let enough = need + need.min(6 << 30);
        let in_memory = free(&roots[0]).unwrap_or(0) >= need && memory().unwrap_or(0) >= enough;
        // the other place may hold what an earlier run left
        roots.iter().for_each(|root| sweep(root));
        Self::in_folder(if in_memory { &roots[0] } else { &roots[1] }, need)
    }

    /// In the folder `root`, where `need` bytes must be free.
    pub fn in_folder(root: &Path, need: u64) -> Result<Self> {
        sweep(root);
        let there = free(root)?;
        if there < need {
            bail!("{} has {} MiB free, {} MiB are needed", root.display(), there >> 20, need >> 20);
        }
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let path = root.join(format!("{PREFIX}{}-{serial}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(Self { path })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path inside.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// A new folder inside.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.join(name);
        fs::create_dir(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(path)
    }

    /// A new sparse file inside.
    pub fn sparse(&self, name: &str, size: u64) -> Result<PathBuf> {
        let path = self.join(name);
        let file = fs::File::create_new(&path).with_context(|| format!("create {}", path.display()))?;
        file.set_len(size).with_context(|| format!("make {} as large as the disk", path.display()))?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = teardown(&self.path) {
            say(format!("could not remove all of {}: {error:#}", self.path.display()));
        }
    }
}

/// Removes what runs that no longer live have left in `root`.
fn sweep(root: &Path) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let ours = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        let pid = ours.and_then(|pid| pid.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            match teardown(&entry.path()) {
                Ok(()) => say(format!("removed what a killed run left: {name}")),
                Err(error) => say(format!("a killed run left {name}: {error:#}")),
            }
        }
    }
}

/// Unmounts, detaches and deletes everything below `folder`; what stands on something goes before it.
fn teardown(folder: &Path) -> Result<()> {
    let give_up = Instant::now() + Duration::from_secs(15);
    loop {
        let (loops, mounts) = (loops_into(folder)?, mounts_below(folder)?);
        if loops.is_empty() && mounts.is_empty() {
            break;
        }
        if Instant::now() > give_up {
            bail!("still in use: {loops:?} {mounts:?}");
        }
        // later mounts stand on earlier ones; a loop device that is still mounted only goes in a later round
        mounts.iter().rev().for_each(|mount| drop(unmount(mount)));
        for device in loops {
            let _ = quiet(Command::new("losetup").arg("-d").arg(device));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    fs::remove_dir_all(folder).with_context(|| format!("remove {}", folder.display()))
}

/// Loop devices on files below `folder`.
fn loops_into(folder: &Path) -> Result<Vec<PathBuf>> {
    let all = attached()?.into_iter().filter(|(_, file)| file.starts_with(folder));
    Ok(all.map(|(device, _)| device).collect())
}

/// Mount points below `folder`, as they were mounted.
fn mounts_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("read the mounts")?;
    let points = table.lines().filter_map(|line| line.split(' ').nth(4).map(PathBuf::from));
    Ok(points.filter(|point| point.starts_with(folder)).collect())
}

/// Bytes free in the file system of `folder`.
fn free(folder: &Path) -> Result<u64> {
    let stat = rustix::fs::statvfs(folder).with_context(|| format!("look at {}", folder.display()))?;
    Ok(stat.f_bavail * stat.f_frsize)
}

/// Bytes of memory that could be had.
pub fn memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? << 10)
}
