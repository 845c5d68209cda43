//! What makes a device this one over a reboot, when its number and name may be another's.
//!
//! What must stay true: two devices never have the same identity unless nothing but their content tells them
//! apart; where the device itself says nothing, its name here is all there is, and that is not certain.

use crate::error::Result;
use crate::sys::device::{BlockDevice, Driver};
use std::os::unix::fs::MetadataExt;

/// The identity of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stable {
    /// Words that name it.
    pub text: String,
    /// They come from the device itself, not from the order in which devices were found.
    pub certain: bool,
}

impl Stable {
    /// Of a device as it is now; `None` for one whose content does not outlive a reboot.
    pub fn of(device: &BlockDevice) -> Option<Self> {
        if device.driver == Driver::Zram {
            return None;
        }
        let (mut text, certain) = whole(device);
        if let Some(partition) = device.partition {
            text += &format!(", {} sectors from {}", device.size / 512, partition.start_sector);
        }
        Some(Self { text, certain })
    }

    /// Every device here with this identity.
    ///
    /// # Errors
    /// If sysfs cannot be listed.
    pub fn devices(&self) -> Result<Vec<BlockDevice>> {
        let all = BlockDevice::all()?;
        Ok(all.into_iter().filter(|device| Self::of(device).as_ref() == Some(self)).collect())
    }
}

/// The whole disk's part of the identity.
fn whole(device: &BlockDevice) -> (String, bool) {
    if let Some(file) = &device.backing_file {
        let offset = device.backing_offset.unwrap_or(0);
        let inode = std::fs::metadata(file).map(|meta| meta.ino());
        let text = |inode| format!("file {} (inode {inode}) from byte {offset}", file.display());
        return inode.map_or_else(|_| (text(0), false), |inode| (text(inode), true));
    }
    for (what, fact) in [("wwid", &device.wwid), ("uuid", &device.uuid), ("serial", &device.serial)] {
        if let Some(fact) = fact {
            return (format!("{what} {fact}"), true);
        }
    }
    let disk = device.whole_disk().map_or_else(|_| device.name.clone(), |disk| disk.name);
    (format!("name {disk}"), false)
}
