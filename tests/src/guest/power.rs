//! A machine that loses its power: what is true after each start, and the writers that run until the next cut.
//!
//! ```text
//!   disk "data"     tracked, written by writers; no file system, so that every byte of it can be compared
//!   disk "system"   ext4: lib/ (what blkdelta keeps over reboots), repo/
//! ```
//! After every start, before anything else writes: tracking comes back, a backup is made, and its point must
//! restore to exactly what the device holds. The verdict is the comparison of the two images, nobody's word.

use super::make::{disk, module, sh};
use crate::device::{O_DIRECT, open_with};
use crate::image::{self, Aligned, Image};
use crate::product::{Ended, Home};
use crate::random::Random;
use crate::workload::churn;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

const SYSTEM: &str = "/run/system";
const HOME: &str = "/run/power";

struct Bench {
    home: Home,
    data: PathBuf,
    repo: String,
}

/// The very first start: a file system, a filled device, tracking.
pub fn prepare(seed: u64) -> Result<()> {
    module("ext4");
    sh(&format!("mkfs.ext4 -q -F {}", disk("system")?.display()))?;
    let bench = Bench::mount()?;
    image::fill(&bench.data, &mut Random::new(seed))?;
    bench.home.ok(["track".as_ref(), bench.data.as_os_str()])?;
    Ok(())
}

/// One start: everything back, a backup, the comparison; prints what was found, as one line of JSON.
pub fn verify() -> Result<()> {
    let began = Instant::now();
    let bench = Bench::mount()?;
    let (how, words) = bench.back()?;
    let tracked = began.elapsed();
    let device = bench.data.display().to_string();
    let ended = bench.home.run(["backup", &device, "--repo", &bench.repo, "--json"])?;
    ensure!(matches!(ended.code, Some(0 | 3)), "backup: {ended}");
    let point: Value = serde_json::from_str(&ended.out).context("read what backup printed")?;
    let read: u64 =
        point["passes"].as_array().into_iter().flatten().filter_map(|pass| pass["bytes"].as_u64()).sum();
    let restored = Path::new("/dev/shm/restored");
    let ended =
        bench.home.run(["restore", "--repo", &bench.repo, "--point", "latest", "/dev/shm/restored"])?;
    ensure!(matches!(ended.code, Some(0 | 3)), "restore: {ended}");
    let missed = Image::of_file(restored)?.difference(&Image::of(&bench.data)?);
    fs::remove_file(restored)?;
    println!(
        "{}",
        json!({
            "missed": missed.total(),
            "first": missed.iter().take(4).map(|e| e.offset).collect::<Vec<_>>(),
            "kind": point["kind"], "suspect": point["suspect"], "read": read, "tracking": how, "said": words,
            "tracked_ms": tracked.as_millis() as u64, "all_ms": began.elapsed().as_millis() as u64,
        })
    );
    Ok(())
}

/// Writers of several habits, and backups meanwhile, until the power goes.
pub fn write(seed: u64) -> Result<()> {
    let bench = Bench::here()?;
    let mut random = Random::new(seed);
    println!("{}", json!({ "writing": true }));
    for habit in 0..3 {
        let (device, mut random) = (bench.data.clone(), random.fork());
        std::thread::spawn(move || -> Result<()> {
            loop {
                match habit {
                    0 => drop(churn(&device, &mut random, 20)?),
                    1 => hot(&device, &mut random)?,
                    _ => sequential(&device, &mut random)?,
                }
            }
        });
    }
    loop {
        std::thread::sleep(std::time::Duration::from_millis(random.below(300)));
        let device = bench.data.display().to_string();
        let ended = bench.home.run(["backup", &device, "--repo", &bench.repo, "--json"])?;
        ensure!(matches!(ended.code, Some(0 | 3)), "backup under writers: {ended}");
        println!("{}", json!({ "backup": ended.code }));
    }
}

/// A few places, again and again, as a database's log.
fn hot(device: &Path, random: &mut Random) -> Result<()> {
    let file = open_with(device, O_DIRECT)?;
    for _ in 0..50 {
        file.write_all_at(&Aligned::random(4096, random), random.below(16) << 12)?;
    }
    Ok(())
}

/// A long run from anywhere.
fn sequential(device: &Path, random: &mut Random) -> Result<()> {
    let file = open_with(device, O_DIRECT)?;
    let from = random.below(crate::device::size_of(device)? / (2 << 20)) * (1 << 20);
    for step in 0..8 {
        file.write_all_at(&Aligned::random(64 << 10, random), from + (step << 16))?;
    }
    Ok(())
}

impl Bench {
    /// After a start: the system's disk, and the folder that outlives us in its place.
    fn mount() -> Result<Self> {
        module("ext4");
        fs::create_dir_all(SYSTEM)?;
        sh(&format!("mount -t ext4 {} {SYSTEM}", disk("system")?.display()))?;
        fs::create_dir_all(format!("{SYSTEM}/lib"))?;
        fs::create_dir_all(format!("{HOME}/lib"))?;
        sh(&format!("mount --bind {SYSTEM}/lib {HOME}/lib"))?;
        Self::here()
    }

    fn here() -> Result<Self> {
        Ok(Self { home: Home::at(Path::new(HOME))?, data: disk("data")?, repo: format!("{SYSTEM}/repo") })
    }

    /// Tracking back as the product brings it back, else anew; how, and what it said.
    fn back(&self) -> Result<(&'static str, String)> {
        let resumed = self.home.run(["resume", "--json"])?;
        let said = format!("{} {}", resumed.out.trim(), resumed.err.trim());
        if matches!(resumed.code, Some(0 | 3)) && self.is_tracked()? {
            return Ok(("resumed", said));
        }
        let tracked: Ended = self.home.run(["track".as_ref(), self.data.as_os_str()])?;
        tracked.expect(0, "track")?;
        Ok(("anew", said))
    }

    fn is_tracked(&self) -> Result<bool> {
        let status = self.home.json(["status"])?;
        let device = self.data.display().to_string();
        Ok(status.as_array().into_iter().flatten().any(|row| row["device"] == device.as_str()))
    }
}
