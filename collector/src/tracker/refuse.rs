//! Devices that we cannot prove to see are refused, in plain words.

use crate::error::{Error, Kind, Result};
use crate::sys::device::{BlockDevice, Driver};

/// Why this device cannot be tracked safely, if so.
///
/// # Errors
/// `Unsupported` with the reason and what to do.
pub fn check(device: &BlockDevice) -> Result<()> {
    let refuse = |why: &str, hint: &str| {
        Err(Error::new(Kind::Unsupported, format!("cannot track {}: {why}", device.path.display()))
            .hint(hint))
    };
    if device.size == 0 {
        return refuse("it has no medium (size 0)", "attach a medium or a backing file first");
    }
    if device.dax {
        return refuse(
            "it is memory (DAX): stores reach it without passing the block layer",
            "mount it without -o dax on a device whose queue/dax is 0",
        );
    }
    if !device.iostats {
        return refuse(
            "the kernel does not count its I/O (queue/iostats is 0), so tracking could not be checked",
            "write 1 to its queue/iostats in /sys/block",
        );
    }
    if device.driver == Driver::Nvme && !device.request_based {
        return refuse(
            "it is a multipath NVMe head: its writes are seen on its paths only",
            "boot with nvme_core.multipath=0, or wait for a version that registers the paths",
        );
    }
    match &device.driver {
        _ if device.request_based => Ok(()),
        Driver::Zram => Ok(()),
        other => refuse(
            &format!("devices of kind {other} without a request queue are not proved to be seen whole"),
            "track the devices it is built on, one by one",
        ),
    }
}
