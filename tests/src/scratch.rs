//! A test's folder, and the removal of everything that hangs on it.
//!
//! The folder's name carries our process id. [`teardown`] undoes, in the order in which it can be undone, all
//! mounts and loop devices that lead into the folder, directly or through other loop devices; it needs nothing
//! but the folder's path, so the next run can do it for a run that was killed.

use crate::host::run;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

const PREFIX: &str = "blkdelta-test-";

/// A folder of our own; with it goes everything made inside.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    next: AtomicU32,
}

impl Scratch {
    /// A fresh folder in memory (`/dev/shm`) or, where that is not writable, in the temporary folder.
    pub fn new(name: &str) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        static SWEEP: Once = Once::new();
        SWEEP.call_once(sweep);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = format!("{PREFIX}{}-{n}-{name}", std::process::id());
        let mut last = None;
        for root in roots() {
            let path = root.join(&folder);
            match fs::create_dir(&path) {
                Ok(()) => return Ok(Self { path, next: AtomicU32::new(0) }),
                Err(e) => last = Some(e),
            }
        }
        bail!("no place for a scratch folder: {last:?}")
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path inside that nobody else gets.
    pub fn fresh(&self, stem: &str) -> PathBuf {
        self.path.join(format!("{stem}-{}", self.next.fetch_add(1, Ordering::Relaxed)))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(e) = teardown(&self.path) {
            crate::host::say(&format!("LEFT BEHIND: {}: {e:#}", self.path.display()));
        }
    }
}

fn roots() -> [PathBuf; 2] {
    ["/dev/shm".into(), std::env::temp_dir()]
}

/// Removes what runs that no longer live have left.
pub fn sweep() {
    for root in roots() {
        for entry in fs::read_dir(root).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
            let dead =
                pid.is_some_and(|pid| pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists());
            if dead && teardown(&entry.path()).is_ok() {
                crate::host::say(&format!("removed what a killed run left: {name}"));
            }
        }
    }
}

/// Unmounts, detaches and deletes everything below `folder`.
pub fn teardown(folder: &Path) -> Result<()> {
    let give_up = Instant::now() + Duration::from_secs(10);
    loop {
        let loops = loops_into(folder)?;
        for mount in mounts_of(folder, &loops)?.iter().rev() {
            let _ = run("umount", ["-q".as_ref(), mount.as_os_str()]);
        }
        for device in loops.iter().rev() {
            let _ = run("partx", ["-d".as_ref(), device.as_os_str()]);
            let _ = run("losetup", ["-d".as_ref(), device.as_os_str()]);
        }
        let left = (loops_into(folder)?, mounts_of(folder, &[])?);
        if left.0.is_empty() && left.1.is_empty() {
            break;
        }
        if Instant::now() > give_up {
            bail!("still in use: {left:?}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    match fs::remove_dir_all(folder) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

/// Loop devices whose backing file lies below `folder`, then those that stand on these (or their partitions).
fn loops_into(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for entry in fs::read_dir("/sys/block")?.flatten() {
        // a device without the attribute is not attached
        if let Ok(backing) = fs::read_to_string(entry.path().join("loop/backing_file")) {
            let backing = backing.trim().trim_end_matches(" (deleted)").to_string();
            all.push((Path::new("/dev").join(entry.file_name()), PathBuf::from(backing)));
        }
    }
    let mut found: Vec<PathBuf> = Vec::new();
    loop {
        let before = found.len();
        for (device, backing) in &all {
            let ours = backing.starts_with(folder) || found.iter().any(|on| is_on(backing, on));
            if ours && !found.contains(device) {
                found.push(device.clone());
            }
        }
        if found.len() == before {
            return Ok(found);
        }
    }
}

/// `path` is `device` or a partition of it.
fn is_on(path: &Path, device: &Path) -> bool {
    let (path, device) = (path.to_string_lossy(), device.to_string_lossy());
    path.strip_prefix(&*device).is_some_and(|rest| {
        rest.is_empty() || rest.strip_prefix('p').is_some_and(|n| n.parse::<u32>().is_ok())
    })
}

/// Mount points below `folder` or of one of `devices`, in the order they were mounted.
fn mounts_of(folder: &Path, devices: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let mut found = Vec::new();
    for line in table.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let point = left.split(' ').nth(4).map(PathBuf::from);
        let source = right.split(' ').nth(1).map(PathBuf::from);
        let (Some(point), Some(source)) = (point, source) else { continue };
        if point.starts_with(folder) || devices.iter().any(|device| is_on(&source, device)) {
            found.push(point);
        }
    }
    Ok(found)
}
