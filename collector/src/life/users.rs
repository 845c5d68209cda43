//! Who uses a device: as long as anybody does, it has not come to rest.
//!
//! Seen: mounts (in whatever namespace), swap, members of dm and md (all by their exclusive claim), loop devices on
//! it, and processes that have it, its disk or a partition of it open for writing. Not seen: a driver of this kernel
//! that opened it without a claim (an NVMe target); its writes after the save are not noticed (docs/SAFETY.md).

use crate::error::Result;
use crate::sys::device::BlockDevice;
use crate::sys::privilege::{Capability, lacking};
use std::io::ErrorKind;
use std::path::Path;

/// Everybody who uses the device, in words.
///
/// # Errors
/// If the device cannot be opened.
pub fn of(device: &BlockDevice) -> Result<Vec<String>> {
    let mut users = Vec::new();
    for part in std::iter::once(device.clone()).chain(device.partitions()?) {
        let name = part.path.display();
        let mounts = part.mounts()?;
        users.extend(mounts.iter().map(|m| format!("{name} is mounted at {}", m.mountpoint.display())));
        users.extend(part.holders().iter().map(|holder| format!("{name} belongs to {holder}")));
    }
    if users.is_empty() && device.is_claimed()? {
        users.push(format!("{} is in use", device.path.display()));
    }
    users.extend(loops_on(device)?);
    users.extend(writers(device));
    Ok(users)
}

/// `other` is the device, a part of it, or its disk.
fn overlap(device: &BlockDevice, other: &BlockDevice) -> bool {
    let whole = device.partition.is_none() || other.partition.is_none();
    other.dev == device.dev || other.disk == device.disk && whole
}

fn loops_on(device: &BlockDevice) -> Result<Vec<String>> {
    let stands_on_it = |l: &BlockDevice| {
        let below = l.backing_file.as_ref().and_then(|file| BlockDevice::open(file).ok());
        below.is_some_and(|below| overlap(device, &below))
    };
    let all = BlockDevice::all()?.into_iter().filter(|l| l.partition.is_none() && stands_on_it(l));
    Ok(all.map(|l| format!("{} stands on it", l.path.display())).collect())
}

/// Processes that have it open for writing, or that may have: we are not let to see.
fn writers(device: &BlockDevice) -> Vec<String> {
    // only names below /dev are looked at: a stat of a file on a dead network server would hang
    let is_it = |link: &Path, to: &Path| {
        to.starts_with("/dev") && BlockDevice::open(link).is_ok_and(|other| overlap(device, &other))
    };
    let (pids, hidden) = openers(&is_it);
    let mut found: Vec<String> =
        pids.iter().map(|pid| format!("process {pid} has it open for writing")).collect();
    // with both, only a security module hides somebody; against his writes the fence stands alone (docs/SAFETY.md)
    let missing = lacking(&[Capability::SysPtrace, Capability::DacReadSearch]);
    if hidden > 0 && !missing.is_empty() {
        let missing = missing.join(" and ");
        found.push(format!("{hidden} processes do not show what they have open: {missing} missing"));
    }
    found
}

/// Processes that have this file open for writing, and how many do not let us see what they have open.
pub fn writers_of(file: &Path) -> (Vec<u32>, usize) {
    openers(&|_, to| to == file)
}

/// Processes that have something open for writing that is meant (its link in /proc, and where that leads), and how many
/// do not show what they have open.
fn openers(is_it: &dyn Fn(&Path, &Path) -> bool) -> (Vec<u32>, usize) {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pid = |name: &str| name.parse::<u32>().ok().filter(|pid| *pid != std::process::id());
    let pids = processes.filter_map(|entry| pid(entry.file_name().to_str()?));
    let (mut found, mut hidden) = (Vec::new(), 0);
    for pid in pids {
        match writes(pid, is_it) {
            Ok(true) => found.push(pid),
            // proc_pid_readlink, fs/proc/base.c; whoever ended meanwhile writes nothing
            Err(e) if e.kind() == ErrorKind::PermissionDenied => hidden += 1,
            Ok(false) | Err(_) => {}
        }
    }
    (found, hidden)
}

/// Has the process something open for writing that is meant?
fn writes(pid: u32, is_it: &dyn Fn(&Path, &Path) -> bool) -> std::io::Result<bool> {
    for fd in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
        if let Some(fd) = fd?.file_name().to_str()
            && may_write(pid, fd, is_it)?
        {
            return Ok(true);
        }
    }
    Ok(false)
}

fn may_write(pid: u32, fd: &str, is_it: &dyn Fn(&Path, &Path) -> bool) -> std::io::Result<bool> {
    let link = format!("/proc/{pid}/fd/{fd}");
    let meant = match std::fs::read_link(&link) {
        Err(e) if e.kind() == ErrorKind::NotFound => false,
        to => is_it(Path::new(&link), &to?),
    };
    if !meant {
        return Ok(false);
    }
    let info = std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).unwrap_or_default();
    let flags = info.lines().find_map(|l| u32::from_str_radix(l.strip_prefix("flags:")?.trim(), 8).ok());
    // O_ACCMODE; a descriptor that is gone by now writes nothing
    Ok(flags.is_some_and(|flags| flags & 3 != 0))
}
