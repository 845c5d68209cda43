//! `cargo xtask vm --power-cuts N`: a guest that loses its power at random moments, on the same disks each time.
//!
//! After every start the new backup must restore to exactly what the device holds (`tests/src/guest/power.rs`
//! compares in the guest). Qemu is killed; every write that the guest saw completed is in the file.

use super::fetch::KernelFiles;
use super::guest::Guest;
use super::machine::{Bus, Disk, Machine};
use super::round::Bed;
use crate::command::say;
use crate::rig::process::sleep;
use crate::rig::random::Random;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::path::Path;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(600);
const MIB: u64 = 1 << 20;
/// Small, so that many cuts fit into an hour: each is followed by two reads of all of it.
const DATA: u64 = 64 * MIB;
const SYSTEM: u64 = 1024 * MIB;

/// What was found after the cuts.
#[derive(Default)]
pub struct Tally {
    cuts: usize,
    missed: u64,
    read: Vec<u64>,
    resumed: usize,
    compared: usize,
}

/// `cuts` times: start, verify, write, cut.
pub fn run(bed: &Bed, files: &KernelFiles, initramfs: &Path, cuts: usize, seed: u64) -> Result<()> {
    say(format!("power cuts: {cuts}, seed {seed}"));
    let mut random = Random::new(seed);
    let machine = machine(bed, files, initramfs)?;
    let mut guest = Guest::boot(&machine)?;
    guest
        .run(&["/init", "power", "prepare", &random.next().to_string()], LIMIT, |_| {})?
        .success("prepare")?;
    let mut tally = Tally::default();
    let began = Instant::now();
    verify(&mut guest, &mut tally, true)?;
    for cut in 1..=cuts {
        write_until_cut(guest, &mut random)?;
        let start = Instant::now();
        guest = Guest::boot(&machine)?;
        verify(&mut guest, &mut tally, false).with_context(|| format!("after cut {cut}, seed {seed}"))?;
        tally.cuts = cut;
        say(format!("cut {cut}: back and verified in {:.1} s", start.elapsed().as_secs_f64()));
    }
    guest.kill()?;
    tally.print(began.elapsed(), seed);
    ensure!(tally.missed == 0, "{} bytes were missed", tally.missed);
    Ok(())
}

fn machine(bed: &Bed, files: &KernelFiles, initramfs: &Path) -> Result<Machine> {
    let data = Disk::new(bed.disks(), "data", Bus::Scsi(512, 512));
    let system = Disk::new(bed.disks(), "system", Bus::Virtio);
    data.make(DATA)?;
    system.make(SYSTEM)?;
    Ok(Machine {
        image: files.image.clone(),
        initramfs: initramfs.into(),
        memory: 1024,
        arguments: String::new(),
        disks: vec![data, system],
        folder: bed.logs().join("power"),
    })
}

fn verify(guest: &mut Guest, tally: &mut Tally, first: bool) -> Result<()> {
    let lines = guest.run(&["/init", "power", "verify"], LIMIT, |_| {})?.success("verify")?;
    let found = lines.iter().rev().find_map(|line| serde_json::from_str::<Value>(line).ok());
    let found = found.with_context(|| format!("verify said {}", lines.join("\n")))?;
    let missed = found["missed"].as_u64().context("no number of missed bytes")?;
    tally.missed += missed;
    if !first {
        tally.read.push(found["read"].as_u64().unwrap_or_default());
        tally.resumed += usize::from(found["tracking"] == "resumed");
        let suspect = found["suspect"].as_array().is_some_and(|reasons| !reasons.is_empty());
        tally.compared += usize::from(suspect || found["kind"] != "incremental");
    }
    say(format!("  {found}"));
    if missed > 0 {
        bail!("the point does not restore to what the device holds: {found}");
    }
    Ok(())
}

/// Writers and backups, and at some moment no power.
fn write_until_cut(mut guest: Guest, random: &mut Random) -> Result<()> {
    let seed = random.next().to_string();
    guest.start(&["/init", "power", "write", &seed], Duration::from_secs(600))?;
    sleep(Duration::from_millis(300 + random.below(3000)))?;
    guest.kill()
}

impl Tally {
    fn print(&self, took: Duration, seed: u64) {
        let (total, most) = (self.read.iter().sum::<u64>(), self.read.iter().max().copied().unwrap_or(0));
        let mean = total / self.read.len().max(1) as u64;
        println!("power cuts           {:>8}", self.cuts);
        println!("bytes missed         {:>8}", self.missed);
        println!("tracking resumed     {:>8}", self.resumed);
        println!("compared or full     {:>8}", self.compared);
        println!("re-read, mean        {mean:>8} bytes of {DATA}");
        println!("re-read, most        {most:>8}");
        println!("seconds per cut      {:>8.1}", took.as_secs_f64() / self.cuts.max(1) as f64);
        println!("seed                 {seed}");
    }
}
