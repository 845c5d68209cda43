//! Devices that we cannot prove to see are refused, in plain words: which kinds those are, and why.
//!
//! A device with a request queue is seen whatever its driver: no driver touches hardware before
//! `blk_mq_start_request`, which traces. One without is accepted by name: its driver must account every bio that it
//! takes (`bio_start_io_acct`), and its content may change by its own bios only (drivers/md, 6.1 to 7.3).

use super::places::Places;
use super::uncounted;
use crate::error::{Error, Kind, Result};
use crate::sys::device::{BlockDevice, Driver, Makeup, multipath_above};
use crate::sys::failpoint;

/// Targets of device-mapper whose content changes by the device's own writes, and by a new table, only.
const TARGETS: [&str; 18] = [
    "cache",
    "crypt",
    "delay",
    "era",
    "error",
    "integrity",
    "linear",
    "log-writes",
    "mirror",
    "multipath",
    "raid",
    "snapshot",
    "snapshot-origin",
    "striped",
    "thin",
    "unstriped",
    "writecache",
    "zero",
];

/// Levels of md arrays that are known to account what they take and to hold what was written to them.
const LEVELS: [&str; 7] = ["linear", "raid0", "raid1", "raid10", "raid4", "raid5", "raid6"];

/// Why a device is refused, and what to do.
type Refusal = (String, &'static str);

/// Why this device cannot be tracked safely, if so.
///
/// # Errors
/// `Unsupported` with the reason and what to do.
pub fn check(device: &BlockDevice) -> Result<()> {
    let disk = device.whole_disk()?;
    let refusal = match of_disk(&disk, device.size) {
        None if matches!(disk.driver, Driver::DeviceMapper | Driver::Md) => {
            let makeup = Makeup::of(&disk)?;
            makeup.ensure_complete(&disk)?;
            of_makeup(&makeup)
        }
        refusal => refusal,
    };
    let Some((why, hint)) = refusal else { return Ok(()) };
    Err(Error::new(Kind::Unsupported, format!("cannot track {}: {why}", device.path.display())).hint(hint))
}

/// By the disk's own facts.
fn of_disk(disk: &BlockDevice, size: u64) -> Option<Refusal> {
    if size == 0 {
        return Some(("it has no medium (size 0)".into(), "attach a medium or a backing file first"));
    }
    if disk.dax {
        return Some((
            "it is memory (DAX): stores reach it without passing the block layer".into(),
            "use the namespace in sector mode (`ndctl create-namespace --mode=sector`), or a device whose \
             queue/dax is 0",
        ));
    }
    if let Some(above) = multipath_above(disk) {
        return Some((
            format!("it is a path of the multipath device {above}: writes that take another path pass it by"),
            "track the multipath device instead",
        ));
    }
    of_driver(disk)
}

/// Sees to it that the kernel counts the device's I/O: for zram, and for dm until 6.3, it is off by default. That it
/// did not until now is noted first: its count says nothing of what was written before.
///
/// # Errors
/// `Unsupported` if it cannot be switched on.
pub fn ensure_counted(places: &Places, device: &BlockDevice) -> Result<()> {
    if device.iostats {
        return Ok(());
    }
    uncounted::note(places, device)?;
    failpoint("track.before-count")?;
    if device.count_io().is_ok() && device.whole_disk()?.iostats {
        return Ok(());
    }
    let why = "the kernel does not count its I/O (queue/iostats is 0), so tracking could not be checked";
    Err(Error::new(Kind::Unsupported, format!("cannot track {}: {why}", device.path.display()))
        .hint("write 1 to its queue/iostats in /sys/block"))
}

/// By the driver, for devices without a request queue.
fn of_driver(disk: &BlockDevice) -> Option<Refusal> {
    let below = "track the devices it is built on, one by one";
    let (why, hint) = match &disk.driver {
        _ if disk.request_based => return None,
        Driver::Zram | Driver::DeviceMapper | Driver::Md => return None,
        Driver::Nvme => (
            "it is a multipath NVMe head: its writes are seen on its paths only",
            "boot with nvme_core.multipath=0, or wait for a version that registers the paths",
        ),
        Driver::Other(name) if name == "ramdisk" => (
            "its driver (brd) does not count its I/O, so tracking could not be checked",
            "use a loop device on a file in tmpfs instead",
        ),
        other => {
            let why =
                format!("devices of kind {other} without a request queue are not proved to be seen whole");
            return Some((why, below));
        }
    };
    Some((why.into(), hint))
}

/// By what a dm or md device is put together from.
fn of_makeup(makeup: &Makeup) -> Option<Refusal> {
    let below = "track the devices it is built on, one by one";
    if makeup.targets().iter().any(|t| t == "snapshot-merge") {
        let why = "a snapshot is being merged into it: its content changes without a write".into();
        return Some((why, "track it when the merge has ended"));
    }
    if let Some(target) = makeup.targets().iter().find(|t| !TARGETS.contains(&t.as_str())) {
        let why = format!("device-mapper target {target} is not proved to change by its own writes only");
        return Some((why, below));
    }
    let level = makeup.level().filter(|level| !LEVELS.contains(level))?;
    Some((format!("md level {level} is not proved to be seen whole"), below))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_device_of_this_machine_is_accepted_or_refused_with_a_reason() {
        for entry in std::fs::read_dir("/sys/dev/block").into_iter().flatten().flatten() {
            let name = entry.file_name().into_string().unwrap();
            let (major, minor) = name.split_once(':').unwrap();
            let dev = crate::sys::device::kernel_dev(major.parse().unwrap(), minor.parse().unwrap());
            let Ok(device) = BlockDevice::of_number(dev) else { continue };
            match check(&device) {
                Ok(()) => println!("{} accepted", device.name),
                Err(e) => {
                    println!("{} refused: {e}", device.name);
                    assert!(e.advice().is_some(), "{e}");
                }
            }
        }
    }
}
