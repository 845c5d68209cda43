//! Which driver serves a disk: by the major number's owner in `/proc/devices`, or the bus of its parent.

use std::fmt;
use std::path::Path;

/// The driver family of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Driver {
    /// A file as a disk.
    Loop,
    /// Virtio block.
    Virtio,
    /// SCSI, SATA, USB disks.
    Scsi,
    /// NVMe namespace.
    Nvme,
    /// Device mapper.
    DeviceMapper,
    /// Software RAID.
    Md,
    /// Compressed memory.
    Zram,
    /// Network block device.
    Nbd,
    /// Anything else, by the kernel's name for it.
    Other(String),
}

impl Driver {
    pub(super) fn of(disk_sysfs: &Path, major: u32) -> Self {
        let devices = std::fs::read_to_string("/proc/devices").unwrap_or_default();
        let owner = owner_of(&devices, major).unwrap_or("unknown");
        match owner {
            // numbers handed out to any driver: ask the bus
            "blkext" => match bus(disk_sysfs).as_deref() {
                Some("nvme" | "nvme-subsystem") => Self::Nvme,
                Some("scsi") => Self::Scsi,
                Some("virtio") => Self::Virtio,
                Some(other) => Self::Other(other.into()),
                None => Self::Other(owner.into()),
            },
            _ => Self::of_owner(owner),
        }
    }

    fn of_owner(owner: &str) -> Self {
        match owner {
            "loop" => Self::Loop,
            "virtblk" => Self::Virtio,
            "sd" => Self::Scsi,
            "device-mapper" => Self::DeviceMapper,
            "md" | "mdp" => Self::Md,
            "zram" => Self::Zram,
            "nbd" => Self::Nbd,
            other => Self::Other(other.into()),
        }
    }
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Loop => "loop",
            Self::Virtio => "virtio",
            Self::Scsi => "scsi",
            Self::Nvme => "nvme",
            Self::DeviceMapper => "device-mapper",
            Self::Md => "md",
            Self::Zram => "zram",
            Self::Nbd => "nbd",
            Self::Other(name) => name,
        })
    }
}

/// The name behind a major number in the `Block devices:` part of `/proc/devices`.
fn owner_of(devices: &str, major: u32) -> Option<&str> {
    let block = devices.split_once("Block devices:")?.1;
    block.lines().find_map(|line| {
        let (number, name) = line.trim().split_once(' ')?;
        (number.parse() == Ok(major)).then_some(name)
    })
}

fn bus(disk_sysfs: &Path) -> Option<String> {
    let link = std::fs::canonicalize(disk_sysfs.join("device/subsystem")).ok()?;
    Some(link.file_name()?.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn majors_belong_to_drivers() {
        let devices = "Character devices:\n  7 vcs\n\nBlock devices:\n  7 loop\n  8 sd\n259 blkext\n";
        assert_eq!(owner_of(devices, 7), Some("loop"));
        assert_eq!(owner_of(devices, 9), None);
        assert_eq!(owner_of("", 7), None);
        assert_eq!(Driver::of_owner("sd"), Driver::Scsi);
        assert_eq!(Driver::of_owner("rbd").to_string(), "rbd");
    }
}
