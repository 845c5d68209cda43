//! Disks whose writes this kernel did not count all the time: its counters say nothing of the time before.
//!
//! `uncounted-<major>-<minor>-<diskseq>` among the state files, so of this boot. It is there before the count is
//! switched on: whoever looks afterwards, and whichever part of the disk he asks for, finds it.

use super::Places;
use crate::error::{Context, Result};
use crate::sys::device::BlockDevice;
use crate::sys::publish;
use std::path::PathBuf;

fn path(places: &Places, device: &BlockDevice) -> PathBuf {
    let (major, minor) = (device.disk >> 20, device.disk & 0xf_ffff);
    places.state().join(format!("uncounted-{major}-{minor}-{}", device.diskseq.unwrap_or(0)))
}

/// Notes that the kernel has not counted what was written to the disk until now.
///
/// # Errors
/// If it cannot be noted.
pub fn note(places: &Places, device: &BlockDevice) -> Result<()> {
    std::fs::create_dir_all(places.state())
        .os_context(|| format!("make folder {}", places.state().display()))?;
    publish(&path(places, device), b"the kernel did not count what was written before this\n")
}

/// The kernel does not count the disk's writes, or did not until we came.
pub fn ever(places: &Places, device: &BlockDevice) -> bool {
    !device.iostats || path(places, device).exists()
}
