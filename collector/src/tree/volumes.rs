//! File systems and subvolumes that a walk meets, and how the bytes of their files are reached: from a tracked device at
//! the address that the file system names, or through the file.
//!
//! What must stay true: a volume keeps its number from point to point as far as it can be told from others; an address
//! is believed only where the file system's device is the tracked one or a partition of it.

use crate::error::{Context, Result};
use crate::format::{CataloguedDevice, NodeId, Volume, device_at};
use crate::sys::btrfs;
use crate::sys::device::{BlockDevice, kernel_dev};
use crate::sys::freeze::can_freeze;
use crate::sys::mounts::{self, Mount};
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

/// A tracked device that files of the group may lie on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seat {
    /// The kernel's number of it.
    pub dev: u32,
    /// Its place in the image.
    pub number: u32,
    /// Bytes.
    pub size: u64,
}

/// How the bytes of a volume's files are reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// At these addresses of the image: what the file system calls 0, and the end.
    Device {
        /// Image address of byte 0 of the file system's device.
        base: u64,
        /// Bytes of that device.
        size: u64,
    },
    /// Through the file.
    Through,
}

/// A volume that was met.
#[derive(Clone, Debug)]
pub struct Met {
    /// Its number.
    pub number: u32,
    /// How its files' bytes are reached.
    pub way: Way,
    /// Type of the file system.
    pub kind: String,
    /// Where it is mounted.
    pub mountpoint: PathBuf,
}

/// The volumes of a group.
#[derive(Debug)]
pub struct Volumes {
    known: Vec<Volume>,
    met: HashMap<u64, Met>,
    /// Of the volumes met, those with something that is picked.
    held: HashSet<u64>,
    seats: Vec<Seat>,
}

/// File systems that hold no files, only views of the kernel.
const PSEUDO: [&str; 12] = [
    "proc",
    "sysfs",
    "cgroup",
    "cgroup2",
    "devpts",
    "debugfs",
    "tracefs",
    "securityfs",
    "bpf",
    "pstore",
    "configfs",
    "autofs",
];

impl Volumes {
    /// Those of the last point, and the devices that are tracked.
    pub fn new(known: Vec<Volume>, seats: Vec<Seat>) -> Self {
        Self { known, met: HashMap::new(), held: HashSet::new(), seats }
    }

    /// All of them, for the catalogue.
    pub fn list(&self) -> &[Volume] {
        &self.known
    }

    /// Something on the volume with this number of `stat` is in the group.
    pub fn hold(&mut self, dev: u64) {
        self.held.insert(dev);
    }

    /// Where the file systems are mounted that hold something of the group and can be frozen. Not those that only lead
    /// there: nobody expects the root's to stand still for a group below `/srv`.
    pub fn to_freeze(&self) -> Vec<PathBuf> {
        self.freezable(|dev| self.held.is_empty() || self.held.contains(dev))
    }

    /// Where the file systems are mounted that were met and can be frozen.
    pub fn mountpoints(&self) -> Vec<PathBuf> {
        self.freezable(|_| true)
    }

    fn freezable(&self, wanted: impl Fn(&u64) -> bool) -> Vec<PathBuf> {
        let met = self.met.iter().filter(|(dev, met)| wanted(dev) && can_freeze(&met.kind));
        let mut points: Vec<PathBuf> = met.map(|(_, met)| met.mountpoint.clone()).collect();
        points.sort_unstable();
        points.dedup();
        points
    }

    /// The volume with this number of `stat`, on which `at` lies.
    ///
    /// # Errors
    /// If what is mounted there cannot be told.
    pub fn meet(&mut self, dev: u64, at: &Path) -> Result<Met> {
        if let Some(met) = self.met.get(&dev) {
            return Ok(met.clone());
        }
        let mount = mounts::of_path(at).map_err(|e| e.within(format!("find where {} lies", at.display())))?;
        let way = self.way(dev, &mount);
        let (way, through) = match way {
            Ok(way) => (way, None),
            Err(why) => (Way::Through, Some(why)),
        };
        let key = self.key(dev, &mount, at);
        let volume = Volume { key, kind: mount.fstype.clone(), through };
        let number = match self.known.iter().position(|v| v.key == volume.key) {
            Some(number) => {
                self.known[number] = volume;
                number
            }
            None => {
                self.known.push(volume);
                self.known.len() - 1
            }
        };
        let met = Met { number: number as u32, way, kind: mount.fstype, mountpoint: mount.mountpoint };
        self.met.insert(dev, met.clone());
        Ok(met)
    }

    /// How files of this volume are reached, or why only through the file.
    fn way(&self, dev: u64, mount: &Mount) -> Result<Way, String> {
        let number = kernel_dev(rustix::fs::major(dev), rustix::fs::minor(dev));
        if number >> 20 == 0 {
            return Err(format!("{} has no device of its own", mount.fstype));
        }
        if !matches!(mount.fstype.as_str(), "ext2" | "ext3" | "ext4" | "xfs") {
            return Err(format!("where {} keeps its files' bytes is not known", mount.fstype));
        }
        let device = BlockDevice::of_number(number).map_err(|e| e.to_string())?;
        let seat = |dev: u32| self.seats.iter().find(|seat| seat.dev == dev);
        let (seat, offset) = match (seat(number), seat(device.disk)) {
            (Some(seat), _) => (seat, 0),
            (None, Some(seat)) => (seat, device.offset_on_disk()),
            (None, None) => return Err(format!("{} is not tracked", device.path.display())),
        };
        if offset + device.size > seat.size {
            return Err(format!("{} reaches beyond the tracked device", device.path.display()));
        }
        if mount.super_options().split(',').any(|o| o == "data=journal") {
            return Err("mounted with data=journal".into());
        }
        Ok(Way::Device { base: device_at(seat.number) + offset, size: device.size })
    }

    /// What tells a volume from others, from one backup to the next.
    fn key(&self, dev: u64, mount: &Mount, at: &Path) -> String {
        let number = kernel_dev(rustix::fs::major(dev), rustix::fs::minor(dev));
        let device = (number >> 20 != 0).then(|| BlockDevice::of_number(number).ok()).flatten();
        let key = match device {
            Some(device) => {
                let file = device.backing_file.map(|file| file.display().to_string());
                format!("device {}", file.unwrap_or(device.name))
            }
            None if mount.fstype == "btrfs" => {
                let tree = std::fs::File::open(at).ok().and_then(|file| btrfs::subvolume(file).ok());
                format!("btrfs at {}, subvolume {}", mount.mountpoint.display(), tree.unwrap_or(0))
            }
            None => format!("{} at {}", mount.fstype, mount.mountpoint.display()),
        };
        // inode numbers of two volumes must never be taken for one's
        let taken = |key: &str| self.met.values().any(|met| self.known[met.number as usize].key == key);
        let mut free = key.clone();
        for n in 2.. {
            if !taken(&free) {
                break;
            }
            free = format!("{key} ({n})");
        }
        free
    }
}

impl Met {
    /// A file of this inode number on it.
    pub const fn id(&self, inode: u64) -> NodeId {
        NodeId { volume: self.number, inode }
    }

    /// It holds no files, only views of the kernel.
    pub fn is_pseudo(&self) -> bool {
        PSEUDO.contains(&self.kind.as_str())
    }
}

/// Kernel numbers of the block devices of everything mounted at or below `base`, or that it lies on.
///
/// # Errors
/// If what is mounted cannot be told.
pub fn devices_below(base: &Path) -> Result<Vec<u32>> {
    let there = base.ancestors().find(|p| p.exists()).unwrap_or(Path::new("/"));
    let own = mounts::of_path(there)?;
    let below = mounts::all()?.into_iter().filter(|mount| mount.mountpoint.starts_with(base));
    let mut found = Vec::new();
    for mount in below.chain([own]) {
        found.push(mount.dev);
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// The devices of the catalogue, with one more if it is not among them; its place.
pub fn place_of(devices: &mut Vec<CataloguedDevice>, new: CataloguedDevice) -> u32 {
    match devices.iter().position(|d| d.id == new.id) {
        Some(place) => {
            devices[place] = new;
            place as u32
        }
        None => {
            devices.push(new);
            devices.len() as u32 - 1
        }
    }
}

/// Has everything written out that a file system holds back.
///
/// # Errors
/// If it cannot.
pub fn sync(path: &Path) -> Result<()> {
    let what = || format!("sync the file system of {}", path.display());
    let folder = std::fs::File::open(path).os_context(what)?;
    rustix::fs::syncfs(&folder).os_context(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_leads_to_the_group_is_not_frozen() {
        let met = |number, kind: &str, at: &str| Met {
            number,
            way: Way::Through,
            kind: kind.into(),
            mountpoint: at.into(),
        };
        let mut volumes = Volumes::new(Vec::new(), Vec::new());
        volumes.met.insert(1, met(0, "ext4", "/"));
        volumes.met.insert(2, met(1, "xfs", "/srv"));
        volumes.met.insert(3, met(2, "tmpfs", "/srv/run"));
        volumes.hold(2);
        volumes.hold(3);
        assert_eq!(volumes.to_freeze(), [PathBuf::from("/srv")]);
        assert_eq!(volumes.mountpoints(), [PathBuf::from("/"), PathBuf::from("/srv")]);
    }
}
