//! ext4 and XFS: the complement of what `FS_IOC_GETFSMAP` calls free.
//!
//! Not the sum of what it calls used: on 6.18 that left out 700 of 2,768 MiB of an ext4. Records that are
//! missing, overlap or belong to another device can so only make more of the device used.

use super::Unknown;
use crate::block::{Extent, ExtentSet};
use crate::error::Error;
use crate::sys::device::BlockDevice;
use crate::sys::direct::{AlignedBuf, DirectFile};
use crate::sys::fsmap;
use crate::sys::mounts::Mount;
use std::fs::File;

/// Byte of the ext4 super block's `s_feature_ro_compat` on the device.
const EXT4_FEATURES: u64 = 1024 + 0x64;
/// `EXT4_FEATURE_RO_COMPAT_BIGALLOC`.
const BIGALLOC: u32 = 0x200;

/// What the file system mounted directly on `device` has not allocated.
pub(super) fn free_space(device: &BlockDevice, mount: &Mount) -> Result<ExtentSet, Unknown> {
    match mount.fstype.as_str() {
        "xfs" => {}
        "ext2" | "ext3" | "ext4" => refuse_clusters(device)?,
        other => return Err(Unknown::new(format!("{other} does not tell which space is free"))),
    }
    let file = mount.open()?;
    sync(&file, mount)?;
    let mut free = Vec::new();
    let mine = encoded(device.dev);
    fsmap::records(&file, |record| {
        if record.is_free() && record.device == mine {
            free.push(Extent::new(record.physical, record.length));
        }
    })
    .map_err(|e| Error::os(format!("ask {} for its free space", mount.mountpoint.display()), e))?;
    // what was freed a moment ago may still be referenced on disk until the journal is written
    sync(&file, mount)?;
    Ok(ExtentSet::from_unsorted(free))
}

fn sync(file: &File, mount: &Mount) -> Result<(), Unknown> {
    let synced = rustix::fs::syncfs(file);
    synced.map_err(|e| Error::os(format!("sync {}", mount.mountpoint.display()), e).into())
}

/// Kernels without "fsmap: use blocksize units instead of cluster units" (posted in September 2025) confuse
/// clusters and blocks in their answer for an ext4 with `bigalloc`.
fn refuse_clusters(device: &BlockDevice) -> Result<(), Unknown> {
    let mut buf = AlignedBuf::new(4096);
    DirectFile::open(&device.path)?.read_at(EXT4_FEATURES, &mut buf, 4)?;
    let features = u32::from_le_bytes([buf[0], buf[1], buf[2], buf[3]]);
    if features & BIGALLOC != 0 {
        return Err(Unknown::new("ext4 with bigalloc does not tell exactly which space is free"));
    }
    Ok(())
}

/// A device number as the records hold it (`new_encode_dev`).
const fn encoded(dev: u32) -> u32 {
    let (major, minor) = (dev >> 20, dev & 0xf_ffff);
    minor & 0xff | major << 8 | (minor & !0xff) << 12
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_are_encoded_as_the_kernel_does() {
        let (major, minor) = (259u32, 0x345);
        let std = rustix::fs::makedev(major, minor) as u32;
        assert_eq!(encoded(crate::sys::device::kernel_dev(major, minor)), std);
    }
}
