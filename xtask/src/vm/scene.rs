//! A Debian with systemd in a guest, where the product is installed as its users do it: `dpkg -i`. What is seen there
//! to be true goes into docs/KERNELS.md, a sentence each; the first one that is not true ends the run.
//!
//! ```text
//!   disk "root"    Debian; /root/blkdelta-1.deb, and -2: the same of a higher version
//!   disk "data"    ext4, mounted by fstab
//!   disk "store"   ext4, mounted by fstab; the repository
//! ```

use super::fetch::{self, KernelFiles};
use super::guest::Guest;
use super::initramfs::{self, Extent};
use super::machine::{Bus, Disk, Machine, Past};
use super::round::Bed;
use super::{image, programs::Programs, system};
use crate::command::say;
use crate::rig::process::sleep;
use crate::workspace::Workspace;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A command may take this long, emulated, on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(900);
/// MiB of the root disk.
pub const ROOT_MIB: u64 = 384;
/// MiB of the data disk.
pub const DATA_MIB: u64 = 48;
const STORE_MIB: u64 = 1024;
/// The packages on the root disk.
pub const PACKAGES: [&str; 2] = ["/root/blkdelta-1.deb", "/root/blkdelta-2.deb"];

/// What is played.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Play {
    /// Tracking over a clean reboot and a power cut.
    Reboot,
    /// Installation, upgrade, removal, purge.
    Package,
    /// The daemon.
    Daemon,
}

impl Play {
    /// In the order of the document.
    pub const ALL: [Self; 3] = [Self::Reboot, Self::Package, Self::Daemon];

    /// The word on the command line, and in names of files.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Reboot => "systemd",
            Self::Package => "package",
            Self::Daemon => "daemon",
        }
    }

    /// What it shows.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Reboot => "a clean reboot and a power cut; the root disk is tracked too",
            Self::Package => "the Debian package: installed, upgraded, removed, purged",
            Self::Daemon => "the daemon",
        }
    }
}

/// A machine with systemd, and what was seen to be true.
pub struct Scene {
    machine: Machine,
    seen: Vec<String>,
}

/// What a scene is made of.
pub struct Parts<'a> {
    /// Folders.
    pub bed: &'a Bed,
    /// The kernel.
    pub kernel: &'a KernelFiles,
    /// What the first file system comes from.
    pub tools: &'a Path,
    /// The guest's init.
    pub programs: &'a Programs,
    /// Two versions of the package.
    pub packages: &'a [PathBuf; 2],
}

/// Plays it; what was seen.
pub fn run(ws: &Workspace, play: Play, parts: &Parts<'_>) -> Result<Vec<String>> {
    let mut scene = Scene::new(ws, parts)?;
    let ended = match play {
        Play::Reboot => scene.reboot(),
        Play::Package => scene.package(),
        Play::Daemon => scene.daemon(),
    };
    ended.map(|()| scene.seen)
}

impl Scene {
    fn new(ws: &Workspace, parts: &Parts<'_>) -> Result<Self> {
        let bed = parts.bed;
        let alone = fetch::alone(ws)?;
        let initramfs =
            initramfs::make(parts.kernel, parts.tools, parts.programs, Extent::Little, bed.logs())?;
        let disks = ["root", "data", "store"].map(|serial| Disk::new(bed.disks(), serial, Bus::Virtio));
        system::image(ws, &parts.programs.guest, parts.packages, &disks[0].file, ROOT_MIB)?;
        drop(alone);
        system::empty(&disks[1].file, "data", DATA_MIB)?;
        system::empty(&disks[2].file, "store", STORE_MIB)?;
        let machine = Machine {
            image: image::plain(parts.kernel),
            initramfs,
            memory: 768,
            processors: 2,
            past: Past::None,
            arguments: "blkdelta.root=root systemd.show_status=0 systemd.log_level=info".into(),
            disks: disks.to_vec(),
            folder: bed.logs().join("systemd"),
        };
        Ok(Self { machine, seen: Vec::new() })
    }

    /// Power on; waits until everything that is enabled was started.
    pub fn boot(&self) -> Result<Guest> {
        let mut guest = Guest::boot(&self.machine)?;
        sh(&mut guest, "systemctl is-system-running --wait || true")?;
        Ok(guest)
    }

    /// Boots, and installs the package.
    pub fn installed(&self) -> Result<Guest> {
        let mut guest = self.boot()?;
        sh(&mut guest, &format!("dpkg -i {}", PACKAGES[0]))?;
        Ok(guest)
    }

    /// Says and keeps what is true.
    pub fn see(&mut self, what: impl Into<String>) {
        let what = what.into();
        say(format!("  seen: {what}"));
        self.seen.push(what);
    }

    /// A disk's file: what the guest saw written is in it.
    pub fn file(&self, serial: &str) -> Result<&Path> {
        let disk = self.machine.disks.iter().find(|disk| disk.serial == serial);
        disk.map(|disk| disk.file.as_path()).with_context(|| format!("no disk {serial}"))
    }

    /// The data disk at rest, its last point restored, compared byte by byte.
    pub fn same(&mut self, guest: &mut Guest, after: &str) -> Result<()> {
        sh(guest, "systemctl stop data.mount")?;
        let point = backup(guest, "data")?;
        let id = point["point"].as_str().context("the point's id")?;
        restores(guest, id)?;
        sh(guest, "systemctl start data.mount")?;
        self.see(format!("the last point after {after} restores to exactly what the disk holds"));
        Ok(())
    }
}

/// This point of the data disk, which is at rest, holds what the disk holds.
pub fn restores(guest: &mut Guest, point: &str) -> Result<()> {
    sh(guest, &format!("blkdelta restore --repo /store/repo --point {point} /store/out"))?;
    sh(guest, "cmp /store/out /dev/disk/by-id/virtio-data && rm /store/out").map(drop)
}

/// A shell command; what it printed.
pub fn sh(guest: &mut Guest, command: &str) -> Result<String> {
    let ended = guest.run(&["sh", "-c", command], LIMIT, |_| {})?;
    Ok(ended.success(command)?.join("\n"))
}

/// Asks again and again until a shell command prints this, with what it printed last in the error.
pub fn until(
    guest: &mut Guest,
    command: &str,
    limit: Duration,
    good: impl Fn(&str) -> bool,
) -> Result<String> {
    let end = Instant::now() + limit;
    loop {
        let said = sh(guest, command)?;
        if good(&said) {
            return Ok(said);
        }
        ensure!(Instant::now() < end, "waited in vain: {command}: {said}");
        sleep(Duration::from_millis(500))?;
    }
}

/// 3 MiB in a file on the data disk.
pub fn write(guest: &mut Guest, name: &str) -> Result<()> {
    sh(guest, &format!("dd if=/dev/urandom of=/data/{name} bs=64k count=48 conv=fsync 2>/dev/null")).map(drop)
}

/// A backup by the shipped unit; the point's manifest.
pub fn backup(guest: &mut Guest, name: &str) -> Result<Value> {
    // a suspect point fails the unit, as it must
    let unit = format!("blkdelta-backup@{name}.service");
    sh(guest, &format!("systemctl start {unit} || systemctl reset-failed {unit}"))?;
    let lines = sh(guest, "for f in /store/repo/bak/*/*.json; do cat $f; echo; done")?;
    let manifests = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let bodies = manifests.map(|manifest| manifest["body"].clone());
    let of = bodies.filter(|body| body["device"]["facts"].to_string().contains(&format!("\"{name}\"")));
    let newest = of.max_by_key(|body| body["point"].as_str().map(str::to_owned));
    let said = sh(guest, &format!("journalctl -b -u {unit} -o cat | tail -n 8"))?;
    newest.with_context(|| format!("no point of {name}: {said}"))
}

/// What the product says of a disk.
pub fn status(guest: &mut Guest, name: &str) -> Result<Value> {
    let text = sh(guest, &format!("blkdelta status /dev/disk/by-id/virtio-{name} --json || true"))?;
    let rows: Value = serde_json::from_str(&text).with_context(|| format!("read {text}"))?;
    Ok(rows[0].clone())
}

/// Why a device or a point is suspect.
pub fn suspects(value: &Value) -> Vec<&str> {
    value["suspect"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}
