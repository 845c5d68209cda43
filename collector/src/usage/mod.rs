//! Which bytes of a device a file system uses: all that a full backup must copy.
//!
//! What must stay true: **unsure means used.** Space is left out only where the mounted file system's own
//! allocator says "free", or where a loop device's backing file has a hole (it reads as zero). Everything else
//! is used: partition tables, gaps, what is not mounted here, what the kernel cannot or does not say; the
//! reasons are in [`Usage::whole_reason`].
//!
//! The answer is about the moment of the call. What is written later the tracker knows; the copier unites both.
//! Facts and limits, with kernel versions: `docs/USED-AREAS.md`.

mod allocator;
mod btrfs;
mod holes;

use crate::block::{BLOCK, Extent, ExtentSet};
use crate::error::Result;
use crate::sys::device::BlockDevice;
use crate::sys::mounts::{self, Mount};
use crate::sys::planted;
use std::path::{Path, PathBuf};

/// What is used on a device.
#[derive(Clone, Debug, Default)]
pub struct Usage {
    /// Used bytes, widened to whole repository blocks.
    pub used: ExtentSet,
    /// Bytes left out because they are holes of a loop device's backing file: they read as zero. A comparison must
    /// look at them wherever the point below has something else: they may have become zero since.
    pub zero: ExtentSet,
    /// Why parts were counted as used without asking a file system; one sentence each.
    pub whole_reason: Vec<String>,
    /// The mounted file systems found on the device: the ones to freeze.
    pub filesystems: Vec<Mounted>,
}

/// A mounted file system on the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// Its type, for example `xfs`.
    pub fstype: String,
    /// Where it lies on the device: the whole device or a partition of it.
    pub extent: Extent,
}

/// The used areas of a disk, partition or other block device. Flushes the file systems on it first and afterwards.
///
/// # Errors
/// If it is no block device, or its facts cannot be read. What a file system does not tell is no error.
pub fn used_areas(device: &Path) -> Result<Usage> {
    let device = BlockDevice::open(device)?;
    let regions = regions_of(&device)?;
    let mut free = Vec::new();
    let mut known = Vec::new();
    let mut usage = Usage::default();
    for (i, region) in regions.iter().enumerate() {
        match region.free_space() {
            Ok((mount, space)) => {
                let (mountpoint, fstype) = (mount.mountpoint, mount.fstype);
                usage.filesystems.push(Mounted { mountpoint, fstype, extent: region.extent });
                let others = regions.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, r)| r.extent);
                let mine = shift(&space, region.extent).subtract(&others.collect());
                free.extend(mine.iter().copied());
                known.push(region.extent);
            }
            Err(why) => usage.whole_reason.push(format!("{}: {}", region.device.path.display(), why.text)),
        }
        // mounted, but it does not tell: it must be frozen all the same
        if let Some(mounted) = region.mounted_elsewise(&usage)? {
            usage.filesystems.push(mounted);
        }
    }
    let zero = holes::holes(&device)?.subtract(&known.into_iter().collect());
    let left_out = ExtentSet::from_unsorted(free).union(&zero);
    usage.used = left_out.complement(device.size).align_out(BLOCK, device.size);
    if planted("used-short") {
        let longest = usage.used.iter().copied().max_by_key(|e| e.length);
        usage.used = usage.used.subtract(&longest.into_iter().collect());
    }
    usage.zero = zero.subtract(&usage.used);
    Ok(usage)
}

/// A part of the device that can hold one file system.
struct Region {
    device: BlockDevice,
    extent: Extent,
}

/// Why a region counts as used.
struct Unknown {
    text: String,
}

impl Unknown {
    fn new(text: impl Into<String>) -> Self {
        Self { text: text.into() }
    }
}

impl From<crate::error::Error> for Unknown {
    fn from(error: crate::error::Error) -> Self {
        let cause = std::error::Error::source(&error).map(|c| format!(": {c}")).unwrap_or_default();
        let advice = error.advice().map(|advice| format!(" ({advice})")).unwrap_or_default();
        Self { text: format!("{error}{cause}{advice}") }
    }
}

/// The device itself, or its partitions if it has any and holds no file system of its own.
fn regions_of(device: &BlockDevice) -> Result<Vec<Region>> {
    let partitions = device.partitions()?;
    if partitions.is_empty() || !device.mounts()?.is_empty() {
        return Ok(vec![Region { device: device.clone(), extent: Extent::new(0, device.size) }]);
    }
    let extent = |p: &BlockDevice| Extent::new(p.offset_on_disk(), p.size);
    Ok(partitions.into_iter().map(|p| Region { extent: extent(&p), device: p }).collect())
}

impl Region {
    /// The mount that answered and the free space, relative to the region.
    fn free_space(&self) -> std::result::Result<(Mount, ExtentSet), Unknown> {
        let own = self.device.mounts()?;
        if own.is_empty() {
            return match btrfs::mount_of(&self.device)? {
                Some(mount) => {
                    let free = btrfs::free_space(&self.device, &mount)?;
                    Ok((mount, free))
                }
                None => Err(self.not_mounted()),
            };
        }
        let mut why = Unknown::new("its mount points cannot be opened");
        for mount in own {
            match allocator::free_space(&self.device, &mount) {
                Ok(free) => return Ok((mount, free)),
                Err(unknown) => why = unknown,
            }
        }
        Err(why)
    }

    fn not_mounted(&self) -> Unknown {
        let holders = self.device.holders();
        if holders.is_empty() {
            return Unknown::new("no file system is mounted from it here, all of it counts as used");
        }
        Unknown::new(format!("it belongs to {}, all of it counts as used", holders.join(", ")))
    }

    /// A mount of this region that is not yet in the list.
    fn mounted_elsewise(&self, usage: &Usage) -> Result<Option<Mounted>> {
        if usage.filesystems.iter().any(|m| m.extent == self.extent) {
            return Ok(None);
        }
        let own = self.device.mounts()?;
        let mount = match own.iter().find(|m| m.open().is_ok()) {
            None => btrfs::mount_of(&self.device)?,
            mount => mount.cloned(),
        };
        if let (None, Some(Err(e))) = (&mount, own.first().map(Mount::open)) {
            log::warn!("it is neither flushed nor frozen: {}", Unknown::from(e).text);
        }
        Ok(mount.map(|m| Mounted { mountpoint: m.mountpoint, fstype: m.fstype, extent: self.extent }))
    }
}

/// The mounted file systems on a device, without asking them what is free.
///
/// # Errors
/// As [`used_areas`].
pub fn filesystems(device: &Path) -> Result<Vec<Mounted>> {
    let mut usage = Usage::default();
    for region in regions_of(&BlockDevice::open(device)?)? {
        if let Some(mounted) = region.mounted_elsewise(&usage)? {
            usage.filesystems.push(mounted);
        }
    }
    Ok(usage.filesystems)
}

/// Parts of a device that somebody uses and that freezing its [`filesystems`] does not hold still: swap, members
/// of a dm or md device, mounts in another namespace. As long as there is one, an image is not of one moment.
///
/// # Errors
/// As [`used_areas`].
pub fn not_held(device: &Path) -> Result<Vec<String>> {
    let mut parts = Vec::new();
    for region in regions_of(&BlockDevice::open(device)?)? {
        let held = region.mounted_elsewise(&Usage::default())?.is_some();
        if !held && region.device.is_claimed()? {
            let holders = region.device.holders();
            let by = if holders.is_empty() { "somebody we cannot see".into() } else { holders.join(", ") };
            parts.push(format!("{} is in use by {by}", region.device.path.display()));
        }
    }
    Ok(parts)
}

/// Free space of a region as free space of the device; never beyond the region.
fn shift(space: &ExtentSet, region: Extent) -> ExtentSet {
    let moved = |e: &Extent| Extent::new(region.offset.saturating_add(e.offset), e.length).intersect(&region);
    space.iter().filter_map(moved).collect()
}

/// All mounts whose device number is not a block device's (btrfs), for [`btrfs::mount_of`].
fn mounts_of_type(fstype: &str) -> Result<Vec<Mount>> {
    Ok(mounts::all()?.into_iter().filter(|m| m.fstype == fstype).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_space_moves_with_its_partition_and_stays_inside() {
        let free: ExtentSet = [Extent::new(0, 10), Extent::new(50, 100)].into_iter().collect();
        let moved = shift(&free, Extent::new(1000, 60));
        assert_eq!(moved, [Extent::new(1000, 10), Extent::new(1050, 10)].into_iter().collect());
    }

    #[test]
    fn no_block_device_is_an_error() {
        assert!(used_areas(Path::new("/proc")).is_err());
        assert!(filesystems(Path::new("/dev/null")).is_err());
    }
}
