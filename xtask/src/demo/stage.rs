//! The devices of the demonstration: the disk, and below it a file system that can copy the disk's backing file in
//! no time (XFS reflink).

use super::{DISK, TREE, step, tree};
use crate::command::quiet;
use crate::rig::device::{Loop, Mount};
use crate::rig::product::Product;
use crate::rig::scratch::Scratch;
use anyhow::{Context, Result};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The ground everything stands on. Fields are dropped in this order.
pub struct Ground {
    pool: Mount,
    _below: Loop,
    /// The program.
    pub product: Product,
    /// The disk's file system.
    pub fstype: String,
}

/// The disk, mounted. Fields are dropped in this order.
pub struct Stage {
    mount: Mount,
    disk: Loop,
    file: PathBuf,
    repo: PathBuf,
    ground: Ground,
}

impl Stage {
    /// Makes the devices and fills the disk.
    pub fn set(scratch: &Scratch, program: PathBuf, fstype: &str) -> Result<(Self, tree::Tree)> {
        step(&format!("making a disk with {fstype} in {}", scratch.path().display()));
        let below = Loop::on(&scratch.sparse("pool.img", 2 * DISK)?)?;
        quiet(Command::new("mkfs.xfs").args(["-q", "-m", "reflink=1"]).arg(below.path()))?;
        let pool = Mount::new(below.path(), &scratch.folder("pool")?, "defaults")?;
        let ground = Ground {
            product: Product::new(program, scratch)?,
            pool,
            _below: below,
            fstype: fstype.to_owned(),
        };
        let file = scratch.sparse("pool/disk.img", DISK)?;
        let disk = Loop::on(&file)?;
        let force = if fstype == "ext4" { "-F" } else { "-f" };
        quiet(Command::new(format!("mkfs.{fstype}")).args(["-q", force]).arg(disk.path()))?;
        let mount = Mount::new(disk.path(), &scratch.folder("disk")?, "defaults")?;
        step("copying parts of /usr onto it");
        let tree = tree::copy(mount.point(), TREE)?;
        let root = File::open(mount.point()).context("open the disk's root")?;
        rustix::fs::syncfs(&root).context("sync the disk")?;
        Ok((Self { mount, disk, file, repo: scratch.join("repo"), ground }, tree))
    }

    /// The disk.
    pub fn device(&self) -> &Path {
        self.disk.path()
    }

    /// Where it is mounted.
    pub fn folder(&self) -> &Path {
        self.mount.point()
    }

    /// Its backing file.
    pub fn disk(&self) -> &Path {
        &self.file
    }

    /// The repository.
    pub fn repo(&self) -> &Path {
        &self.repo
    }

    /// The folder in which copies are free.
    pub fn pool(&self) -> &Path {
        self.ground.pool()
    }

    /// Takes the disk away; its copies stay.
    pub fn close(self) -> Result<Ground> {
        self.mount.unmount()?;
        self.disk.detach()?;
        Ok(self.ground)
    }
}

impl std::ops::Deref for Stage {
    type Target = Ground;
    fn deref(&self) -> &Ground {
        &self.ground
    }
}

impl Ground {
    /// The folder in which copies are free.
    pub fn pool(&self) -> &Path {
        self.pool.point()
    }
}
