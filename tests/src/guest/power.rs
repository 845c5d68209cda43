//! A machine that loses its power: what is true after each start.
//!
//! ```text
//!   disk "raw"      SCSI, areas of 4 KiB     written past any file system
//!   disk "files"    virtio, areas of 64 KiB  ext4, mounted and written by `power_load`
//!   disk "system"   ext4: lib/ (what blkdelta keeps over reboots), repo/
//! ```
//! After every start, before anything else writes: tracking comes back and each disk gets a backup. The host then
//! restores it and compares it with what the disk holds, every byte of it: nobody's word counts.
//!
//! Most starts do not begin at the reset vector, which would take most of the time: the host goes on from the memory of a
//! machine that has booted and loaded the programs, but has no driver for any disk yet ([`warm`], [`awake`]). For the
//! product it is another boot: disks that it has never seen, all that is known of them in lib/.

use super::init::load_disk_drivers;
use super::make::{disk, module, sh};
use crate::device::put;
use crate::image;
use crate::product::Home;
use crate::random::Random;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::time::Instant;

const SYSTEM: &str = "/run/system";
const HOME: &str = "/run/power";

/// A tracked disk: its serial number, bytes of an area.
pub const DISKS: [(&str, u64); 2] = [("raw", 4096), (FILES, 64 << 10)];

/// The one with a file system.
pub const FILES: &str = "files";

/// The product and its repository, as they are in this machine.
pub struct Bench {
    /// The product.
    pub home: Home,
    /// The repository.
    pub repo: String,
}

/// The very first start: file systems, filled devices, tracking.
pub fn prepare(seed: u64) -> Result<()> {
    module("ext4");
    sh(&format!("mkfs.ext4 -q -F {}", disk("system")?.display()))?;
    let mut random = Random::new(seed);
    let bench = Bench::mount()?;
    for (serial, granularity) in DISKS {
        let device = disk(serial)?;
        image::fill(&device, &mut random)?;
        if serial == FILES {
            sh(&format!("mkfs.ext4 -q -F {}", device.display()))?;
        }
        bench.track(&device, granularity)?;
    }
    bench.unmount()
}

/// The machine whose memory the host keeps: booted, the programs loaded for a device of its own.
pub fn warm() -> Result<()> {
    module("ext4");
    let device = sh("truncate -s 1M /dev/shm/keep && losetup -f --show /dev/shm/keep")?;
    Bench::here()?.track(Path::new(&device), 4096)
}

/// The same, awake again: it gets the time, a boot of its own, and disks.
pub fn awake(seconds: &str, boot: &str) -> Result<()> {
    sh(&format!("date -u -s @{seconds}"))?;
    let home = Path::new(HOME);
    put(&home.join("boot"), boot.as_bytes())?;
    let kernel = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let boot = format!("{} {boot}", kernel.trim());
    for entry in fs::read_dir(home.join("state"))?.flatten() {
        let text = fs::read(entry.path())?;
        // locks are empty
        let Ok(mut state) = serde_json::from_slice::<Value>(&text) else { continue };
        state["boot"] = json!(boot);
        put(&entry.path(), state.to_string().as_bytes())?;
    }
    load_disk_drivers();
    Ok(())
}

/// One start: everything back, and backups; a line of JSON for each disk. `prune`: old points go, or the disk would be
/// full one day.
pub fn verify(prune: bool) -> Result<()> {
    let began = Instant::now();
    let bench = Bench::mount()?;
    let mounted = began.elapsed().as_millis() as u64;
    let resumed = bench.home.run(["resume", "--json"])?;
    ensure!(matches!(resumed.code, Some(0 | 3)), "resume: {resumed}");
    let rows: Value = serde_json::from_str(&resumed.out).context("read what resume printed")?;
    println!("{}", json!({ "mounted_ms": mounted, "resumed_ms": began.elapsed().as_millis() as u64 }));
    for (serial, granularity) in DISKS {
        bench.back_up(serial, granularity, &rows)?;
    }
    if prune {
        bench.home.ok(["prune", "--repo", &bench.repo, "--keep-last", "2", "--grace", "1s"])?;
    }
    bench.unmount()?;
    println!("{}", json!({ "all_ms": began.elapsed().as_millis() as u64 }));
    Ok(())
}

impl Bench {
    /// After a start: the system's disk, and the folder that outlives us in its place.
    pub fn mount() -> Result<Self> {
        module("ext4");
        fs::create_dir_all(SYSTEM)?;
        sh(&format!("mount -t ext4 {} {SYSTEM}", disk("system")?.display()))?;
        fs::create_dir_all(format!("{SYSTEM}/lib"))?;
        fs::create_dir_all(format!("{HOME}/lib"))?;
        sh(&format!("mount --bind {SYSTEM}/lib {HOME}/lib"))?;
        Self::here()
    }

    /// As [`mount`](Self::mount) left it.
    pub fn here() -> Result<Self> {
        Ok(Self { home: Home::at(Path::new(HOME))?, repo: format!("{SYSTEM}/repo") })
    }

    /// The end of a clean stop.
    pub fn unmount(&self) -> Result<()> {
        sh(&format!("umount {HOME}/lib && umount {SYSTEM}")).map(drop)
    }

    fn track(&self, device: &Path, granularity: u64) -> Result<()> {
        let granularity = format!("{}KiB", granularity >> 10);
        let words = ["track".as_ref(), "--granularity".as_ref(), granularity.as_ref(), device.as_os_str()];
        self.home.ok(words).map(drop)
    }

    /// A backup; what it printed.
    pub fn backup(&self, device: &Path) -> Result<Value> {
        let device = device.display().to_string();
        let ended = self.home.run(["backup", &device, "--repo", &self.repo, "--json"])?;
        ensure!(matches!(ended.code, Some(0 | 3)), "backup: {ended}");
        serde_json::from_str(&ended.out).context("read what backup printed")
    }

    fn back_up(&self, serial: &str, granularity: u64, rows: &Value) -> Result<()> {
        let began = Instant::now();
        let device = disk(serial)?;
        let name = device.display().to_string();
        let row = rows.as_array().into_iter().flatten().find(|row| row["device"] == name.as_str());
        if row.is_none_or(|row| row["outcome"] == "waiting") {
            self.track(&device, granularity)?;
        }
        let point = self.backup(&device)?;
        let passes = point["passes"].as_array().into_iter().flatten();
        println!(
            "{}",
            json!({
                "disk": serial,
                "point": point["point"],
                "outcome": row.map_or(&json!("none"), |row| &row["outcome"]),
                "reasons": row.map(|row| &row["reasons"]),
                "kind": point["kind"], "suspect": point["suspect"],
                "read": passes.filter_map(|pass| pass["bytes"].as_u64()).sum::<u64>(),
                "ms": began.elapsed().as_millis() as u64,
            })
        );
        Ok(())
    }
}
