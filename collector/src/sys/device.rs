//! Facts about a block device, from `/sys/dev/block/MAJOR:MINOR`, never from how its name looks.
//!
//! A device number is the kernel's own `dev_t`: `major << 20 | minor`, as the block layer's structures hold it.

mod driver;
mod makeup;
mod unit;

pub use driver::Driver;
pub(super) use makeup::TableLine;
pub use makeup::{Makeup, multipath_above};

use super::privilege::{Capability, explained};
use super::{ioctl, mounts};
use crate::block::SECTOR;
use crate::error::{Context, Error, Kind, Result};
use rustix::fs::{FileType, Mode, OFlags};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// The kernel's `dev_t` of a major and a minor number.
pub const fn kernel_dev(major: u32, minor: u32) -> u32 {
    major << 20 | minor & 0xf_ffff
}

/// What can be known about a block device without reading it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BlockDevice {
    /// The device node (as given to [`Self::open`], else `/dev/NAME`).
    pub path: PathBuf,
    /// Kernel `dev_t`.
    pub dev: u32,
    /// The kernel's name.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Logical block size in bytes.
    pub logical_block: u32,
    /// Physical block size in bytes.
    pub physical_block: u32,
    /// Which driver serves it (for a partition: its disk).
    pub driver: Driver,
    /// Set if this is a partition.
    pub partition: Option<Partition>,
    /// Kernel `dev_t` of the whole disk; its own for a whole disk.
    pub disk: u32,
    /// Requests (blk-mq) or bare bios.
    pub request_based: bool,
    /// Read-only.
    pub read_only: bool,
    /// Removable medium.
    pub removable: bool,
    /// Changes whenever the disk behind the number changes.
    pub diskseq: Option<u64>,
    /// The kernel counts its I/O (`queue/iostats`).
    pub iostats: bool,
    /// Memory-mapped access may bypass the block layer.
    pub dax: bool,
    /// Zoned model, if it is zoned.
    pub zoned: Option<String>,
    /// A loop device's backing file, as the kernel names it.
    pub backing_file: Option<PathBuf>,
    /// Where in the backing file a loop device begins, in bytes.
    pub backing_offset: Option<u64>,
    /// Serial number.
    pub serial: Option<String>,
    /// World-wide id.
    pub wwid: Option<String>,
    /// UUID of the device itself (dm, md, NVMe namespace), not of a file system on it.
    pub uuid: Option<String>,
    sysfs: PathBuf,
    disk_sysfs: PathBuf,
}

/// Where a partition lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its number.
    pub number: u32,
    /// First sector on the disk.
    pub start_sector: u64,
}

/// The kernel's own I/O counters of a device (`stat`), in units of 512-byte sectors where they count sectors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stat {
    /// Write requests completed.
    pub writes: u64,
    /// Sectors written.
    pub write_sectors: u64,
    /// Discard requests completed.
    pub discards: u64,
    /// Sectors discarded.
    pub discard_sectors: u64,
    /// Requests on their way, reads included.
    pub in_flight: u64,
}

impl BlockDevice {
    /// The device behind a path.
    ///
    /// # Errors
    /// `Usage` if it is no block device; otherwise if it or its facts cannot be read.
    pub fn open(path: &Path) -> Result<Self> {
        let what = || format!("examine {}", path.display());
        let stat = rustix::fs::stat(path).os_context(what)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::BlockDevice {
            return Err(Error::new(Kind::Usage, format!("{} is not a block device", path.display()))
                .hint("give a disk, partition or loop device such as /dev/sda, /dev/sda2, /dev/loop0"));
        }
        let dev = kernel_dev(rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
        let mut device = Self::of_number(dev)?;
        device.path = path.into();
        Ok(device)
    }

    /// Every block device of this machine that can be examined; others come and go.
    ///
    /// # Errors
    /// If sysfs cannot be listed.
    pub fn all() -> Result<Vec<Self>> {
        let folder = "/sys/dev/block";
        let list = std::fs::read_dir(folder).os_context(|| format!("list {folder}"))?;
        let found = list.flatten().filter_map(|entry| entry.path().canonicalize().ok());
        Ok(found.filter_map(|sysfs| Self::of_sysfs(sysfs).ok()).collect())
    }

    /// The device with a kernel `dev_t`.
    ///
    /// # Errors
    /// `NotFound` if there is none.
    pub fn of_number(dev: u32) -> Result<Self> {
        let link = PathBuf::from(format!("/sys/dev/block/{}:{}", dev >> 20, dev & 0xf_ffff));
        let sysfs = link.canonicalize().os_context(|| format!("find {}", link.display()))?;
        Self::of_sysfs(sysfs)
    }

    fn of_sysfs(sysfs: PathBuf) -> Result<Self> {
        let partition = sysfs.join("partition").exists();
        let disk_sysfs = match sysfs.parent() {
            Some(parent) if partition => parent.to_path_buf(),
            _ => sysfs.clone(),
        };
        let name = uevent(&sysfs, "DEVNAME").unwrap_or_else(|| file_name(&sysfs));
        let disk = dev_of(&disk_sysfs)?;
        let flag = |attribute: &str| number(&disk_sysfs, attribute).is_ok_and(|n| n != 0);
        let partition = if partition { Some(Partition::read(&sysfs)?) } else { None };
        Ok(Self {
            path: Path::new("/dev").join(&name),
            dev: dev_of(&sysfs)?,
            size: number(&sysfs, "size")? * SECTOR,
            logical_block: number(&disk_sysfs, "queue/logical_block_size")? as u32,
            physical_block: number(&disk_sysfs, "queue/physical_block_size")? as u32,
            driver: Driver::of(&disk_sysfs, disk >> 20),
            partition,
            disk,
            request_based: disk_sysfs.join("mq").is_dir(),
            read_only: number(&sysfs, "ro").is_ok_and(|n| n != 0),
            removable: flag("removable"),
            diskseq: number(&disk_sysfs, "diskseq").ok(),
            iostats: flag("queue/iostats"),
            dax: flag("queue/dax"),
            zoned: text(&disk_sysfs, "queue/zoned").filter(|z| z != "none"),
            backing_file: text(&disk_sysfs, "loop/backing_file").map(PathBuf::from),
            backing_offset: number(&disk_sysfs, "loop/offset").ok(),
            serial: first_text(&disk_sysfs, &["serial", "device/serial"])
                .or_else(|| unit::serial(&disk_sysfs)),
            wwid: first_text(&disk_sysfs, &["wwid", "device/wwid"]),
            uuid: first_text(&disk_sysfs, &["dm/uuid", "md/uuid", "uuid"]),
            name,
            sysfs,
            disk_sysfs,
        })
    }

    /// Its size at this moment, in bytes.
    ///
    /// # Errors
    /// If the device is gone.
    pub fn size_now(&self) -> Result<u64> {
        Ok(number(&self.sysfs, "size")? * SECTOR)
    }

    /// `path`, if that still leads to this device; else its name now.
    pub fn known_as(&self, path: &Path) -> PathBuf {
        let same = Self::open(path).is_ok_and(|known| known.dev == self.dev);
        if same { path.into() } else { self.path.clone() }
    }

    /// Has the kernel count the disk's I/O from now on (`queue/iostats`).
    ///
    /// # Errors
    /// If it cannot be switched on.
    pub fn count_io(&self) -> Result<()> {
        let path = self.disk_sysfs.join("queue/iostats");
        let written = File::options().write(true).open(&path).and_then(|mut file| file.write_all(b"1"));
        written.os_context(|| format!("write 1 to {}", path.display()))
    }

    /// Bytes from the disk's beginning to this device's; 0 for a whole disk.
    pub fn offset_on_disk(&self) -> u64 {
        self.partition.map_or(0, |p| p.start_sector * SECTOR)
    }

    /// Where sysfs describes it.
    pub fn sysfs(&self) -> &Path {
        &self.sysfs
    }

    /// The whole disk this device is or lies on.
    ///
    /// # Errors
    /// If its facts cannot be read.
    pub fn whole_disk(&self) -> Result<Self> {
        Self::of_sysfs(self.disk_sysfs.clone())
    }

    /// Partitions of a whole disk, by position; empty for a partition.
    ///
    /// # Errors
    /// If sysfs cannot be read.
    pub fn partitions(&self) -> Result<Vec<Self>> {
        let list = std::fs::read_dir(&self.sysfs).os_context(|| format!("list {}", self.sysfs.display()))?;
        let folders = list.filter_map(|e| Some(e.ok()?.path())).filter(|p| p.join("partition").exists());
        let mut all = folders.map(Self::of_sysfs).collect::<Result<Vec<_>>>()?;
        all.sort_by_key(Self::offset_on_disk);
        Ok(all)
    }

    /// The kernel's I/O counters now.
    ///
    /// # Errors
    /// If `stat` cannot be read.
    pub fn stat(&self) -> Result<Stat> {
        let text = read(&self.sysfs, "stat")?;
        let fields: Vec<u64> = text.split_ascii_whitespace().filter_map(|f| f.parse().ok()).collect();
        let at = |i: usize| fields.get(i).copied().unwrap_or(0);
        if fields.len() < 11 {
            return Err(Error::new(Kind::Unsupported, format!("{}/stat: {text:?}", self.sysfs.display())));
        }
        Ok(Stat {
            writes: at(4),
            write_sectors: at(6),
            in_flight: at(8),
            discards: at(11),
            discard_sectors: at(13),
        })
    }

    /// Writes on their way now (`inflight`, second field).
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn writes_in_flight(&self) -> Result<u64> {
        let text = read(&self.sysfs, "inflight")?;
        let writes = text.split_ascii_whitespace().nth(1).and_then(|f| f.parse().ok());
        writes.ok_or_else(|| {
            Error::new(Kind::Unsupported, format!("{}/inflight: {text:?}", self.sysfs.display()))
        })
    }

    /// Names of devices built on this one (dm, md, …).
    pub fn holders(&self) -> Vec<String> {
        names_in(&self.sysfs.join("holders"))
    }

    /// Kernel `dev_t` of the devices this one is built on.
    pub fn slaves(&self) -> Vec<u32> {
        let folder = self.sysfs.join("slaves");
        names_in(&folder).iter().filter_map(|name| dev_of(&folder.join(name)).ok()).collect()
    }

    /// Mounts of the file system directly on this device, in our namespace, by device number. btrfs uses numbers
    /// of its own and is not found this way.
    ///
    /// # Errors
    /// If the mounts cannot be read.
    pub fn mounts(&self) -> Result<Vec<mounts::Mount>> {
        Ok(mounts::all()?.into_iter().filter(|m| m.dev == self.dev).collect())
    }

    /// Somebody holds it exclusively: mounted (in whatever namespace), swap, part of a dm or md device.
    ///
    /// # Errors
    /// If it cannot be opened at all.
    pub fn is_claimed(&self) -> Result<bool> {
        let flags = OFlags::RDONLY | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NONBLOCK;
        match rustix::fs::open(&self.path, flags, Mode::empty()) {
            Ok(_) => Ok(false),
            Err(rustix::io::Errno::BUSY) => Ok(true),
            Err(e) => Err(Error::os(format!("open {}", self.path.display()), e)),
        }
    }

    /// Makes the kernel refuse writes to the device (`BLKROSET`), or take them again.
    ///
    /// # Errors
    /// If it cannot be opened or the kernel says no.
    pub fn set_read_only(&self, on: bool) -> Result<()> {
        let what = || format!("make {} {}", self.path.display(), if on { "read-only" } else { "writable" });
        // blkdev_roset, block/ioctl.c
        let set = File::open(&self.path).and_then(|file| ioctl::set_read_only(file, on)).os_context(what);
        set.map_err(|e| explained(e, &[Capability::SysAdmin]))
    }

    /// Writes back what the device's own page cache holds (a mounted file system has its own cache).
    ///
    /// # Errors
    /// If it cannot be opened or a write fails.
    pub fn flush_cache(&self) -> Result<()> {
        let file = File::open(&self.path);
        file.and_then(|f| f.sync_all())
            .os_context(|| format!("flush the page cache of {}", self.path.display()))
    }

    /// Backing file and offset of a loop device, if the file by that name is still the one the driver uses.
    ///
    /// # Errors
    /// If the device or its file cannot be opened, or the file is another one now.
    pub fn open_backing_file(&self) -> Result<(File, u64)> {
        let what = || format!("open the backing file of {}", self.path.display());
        let path = self.backing_file.as_ref().ok_or_else(|| Error::new(Kind::NotFound, what()))?;
        let disk = Path::new("/dev").join(file_name(&self.disk_sysfs));
        let status = File::open(disk).and_then(ioctl::loop_status).os_context(what)?;
        let file = File::open(path).os_context(what)?;
        let stat = rustix::fs::fstat(&file).os_context(what)?;
        if (stat.st_dev, stat.st_ino) != (status.device, status.inode) {
            return Err(Error::new(
                Kind::NotFound,
                format!("{}: {} is another file", what(), path.display()),
            ));
        }
        Ok((file, status.offset))
    }
}

impl Partition {
    fn read(sysfs: &Path) -> Result<Self> {
        Ok(Self { number: number(sysfs, "partition")? as u32, start_sector: number(sysfs, "start")? })
    }
}

fn read(folder: &Path, attribute: &str) -> Result<String> {
    let path = folder.join(attribute);
    std::fs::read_to_string(&path).os_context(|| format!("read {}", path.display()))
}

fn number(folder: &Path, attribute: &str) -> Result<u64> {
    let text = read(folder, attribute)?;
    text.trim().parse().map_err(|e| Error::caused(Kind::Unsupported, format!("{attribute} is {text:?}"), e))
}

fn text(folder: &Path, attribute: &str) -> Option<String> {
    let bytes = std::fs::read(folder.join(attribute)).ok()?;
    let text = String::from_utf8_lossy(&bytes).trim().to_owned();
    (!text.is_empty()).then_some(text)
}

fn first_text(folder: &Path, attributes: &[&str]) -> Option<String> {
    attributes.iter().find_map(|attribute| text(folder, attribute))
}

pub(super) fn dev_of(folder: &Path) -> Result<u32> {
    let text = read(folder, "dev")?;
    let numbers = text.trim().split_once(':').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    let bad = || Error::new(Kind::Unsupported, format!("{}/dev: {text:?}", folder.display()));
    numbers.map(|(major, minor)| kernel_dev(major, minor)).ok_or_else(bad)
}

fn uevent(folder: &Path, key: &str) -> Option<String> {
    let text = text(folder, "uevent")?;
    text.lines().find_map(|line| Some(line.strip_prefix(key)?.strip_prefix('=')?.to_owned()))
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

fn names_in(folder: &Path) -> Vec<String> {
    let list = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = list.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_kernels() {
        assert_eq!(kernel_dev(259, 300), 259 << 20 | 300);
    }

    #[test]
    fn every_device_of_this_machine_can_be_examined() {
        for entry in std::fs::read_dir("/sys/dev/block").into_iter().flatten().flatten() {
            let name = entry.file_name().into_string().unwrap();
            let (major, minor) = name.split_once(':').unwrap();
            let dev = kernel_dev(major.parse().unwrap(), minor.parse().unwrap());
            // other tests' devices come and go
            let Ok(device) = BlockDevice::of_number(dev) else { continue };
            assert_eq!(device.dev, dev);
            assert_eq!(device.partition.is_none(), device.disk == dev);
            assert!(device.logical_block.is_power_of_two() && device.logical_block <= device.physical_block);
            assert!(device.stat().is_ok() || !device.sysfs().exists(), "{name}");
            println!("{name} {} {} request-based {}", device.name, device.driver, device.request_based);
        }
    }

    #[test]
    fn what_is_no_block_device_is_said_so() {
        for path in ["/dev/null", "/proc", "/etc/hostname"] {
            let error = BlockDevice::open(Path::new(path)).unwrap_err();
            assert_eq!(error.kind(), Kind::Usage, "{path}");
        }
        assert_eq!(BlockDevice::open(Path::new("/dev/nonesuch")).unwrap_err().kind(), Kind::NotFound);
        assert_eq!(BlockDevice::of_number(u32::MAX).unwrap_err().kind(), Kind::NotFound);
    }
}
