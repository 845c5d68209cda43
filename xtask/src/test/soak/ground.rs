//! What the soak plays on: four disks with file systems, below them one that copies their backing files in no time (XFS
//! reflink), and the folders of everything else.
//!
//! ```text
//!   ext4  xfs  btrfs  db(ext4)      mnt/NAME, each on a loop device on
//!   pool/ext4.img …                 files on XFS on a loop device: pool/held/NAME/POINT.img are copies of these that
//!                                   were made while the disk stood still, by the file system below and not by blkdelta
//! ```

use crate::command::quiet;
use crate::rig::device::{Loop, Mount};
use crate::rig::scratch::Scratch;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Bytes of each disk, and of what is below all of them; both are sparse.
const DISK: u64 = 1 << 30;
const POOL: u64 = 48 << 30;

/// Name and file system of each disk.
pub const DISKS: [(&str, &str); 4] = [("ext4", "ext4"), ("xfs", "xfs"), ("btrfs", "btrfs"), ("db", "ext4")];

/// A disk with its file system mounted. Fields are dropped in this order.
pub struct Disk {
    mount: Option<Mount>,
    device: Option<Loop>,
    /// As the configuration and the files call it.
    pub name: &'static str,
    /// Its file system.
    pub fstype: &'static str,
    /// The device's node; another's once it is closed.
    pub node: PathBuf,
    /// Where it is mounted.
    pub point: PathBuf,
}

/// All of it. Fields are dropped in this order.
pub struct Ground {
    /// The four.
    pub disks: Vec<Disk>,
    pool: Mount,
    _below: Loop,
}

impl Ground {
    /// Makes it.
    pub fn make(scratch: &Scratch) -> Result<Self> {
        let below = Loop::on(&scratch.sparse("pool.img", POOL)?)?;
        quiet(Command::new("mkfs.xfs").args(["-q", "-m", "reflink=1"]).arg(below.path()))?;
        let pool = Mount::new(below.path(), &scratch.folder("pool")?, "defaults")?;
        scratch.folder("mnt")?;
        for folder in ["pool/held", "pool/work"] {
            scratch.folder(folder)?;
        }
        let disks = DISKS.iter().map(|(name, fstype)| Disk::make(scratch, name, fstype));
        let disks = disks.collect::<Result<_>>()?;
        Ok(Self { disks, pool, _below: below })
    }

    /// Where restored images are put and looked at.
    pub fn work(&self) -> PathBuf {
        self.pool.point().join("work")
    }

    /// The disk of this name.
    pub fn disk(&self, name: &str) -> Result<&Disk> {
        self.disks.iter().find(|disk| disk.name == name).with_context(|| format!("no disk {name}"))
    }

    /// The copies that were made of a disk while it stood still.
    pub fn held(&self, disk: &str) -> PathBuf {
        self.pool.point().join("held").join(disk)
    }

    /// Its backing file.
    pub fn image(&self, disk: &str) -> PathBuf {
        self.pool.point().join(format!("{disk}.img"))
    }

    /// Unmounts and detaches the disks; what was copied of them stays.
    pub fn close_disks(&mut self) -> Result<()> {
        for disk in &mut self.disks {
            disk.mount.take().map_or(Ok(()), Mount::unmount)?;
            disk.device.take().map_or(Ok(()), Loop::detach)?;
        }
        Ok(())
    }
}

impl Disk {
    fn make(scratch: &Scratch, name: &'static str, fstype: &'static str) -> Result<Self> {
        let device = Loop::on(&scratch.sparse(&format!("pool/{name}.img"), DISK)?)?;
        let force = if fstype == "ext4" { "-F" } else { "-f" };
        quiet(Command::new(format!("mkfs.{fstype}")).args(["-q", force]).arg(device.path()))?;
        let point = scratch.folder(&format!("mnt/{name}"))?;
        scratch.folder(&format!("pool/held/{name}"))?;
        let mount = Mount::new(device.path(), &point, "noatime")?;
        let node = device.path().to_owned();
        Ok(Self { mount: Some(mount), device: Some(device), name, fstype, node, point })
    }
}

/// A restored image, mounted; gone when dropped. Fields are dropped in this order.
pub struct Opened {
    mount: Mount,
    _device: Loop,
}

impl Opened {
    /// Mounts the image of a file system of this type.
    pub fn new(image: &Path, fstype: &str, point: &Path) -> Result<Self> {
        fs::create_dir_all(point).with_context(|| format!("make {}", point.display()))?;
        let device = Loop::on_copy(image)?;
        let options = if fstype == "xfs" { "nouuid" } else { "defaults" };
        let mount = Mount::new(device.path(), point, options)?;
        Ok(Self { mount, _device: device })
    }

    /// Where.
    pub fn point(&self) -> &Path {
        self.mount.point()
    }
}
