//! Cases that need more than a device and the ways of writing: daemons, zones, polling, memory, the programs.

use super::cases::SIZE;
use super::make::{self, disk, file, module, sh};
use super::trial::Trial;
use crate::device::{O_DIRECT, open_with, poke, wait_until};
use crate::image::Aligned;
use crate::product::Ended;
use crate::random::Random;
use crate::raw::{Completions, write_uring};
use crate::workload::{Outcome, churn};
use anyhow::{Context, Result, ensure};
use collector::tracker::Places;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Where the case with all programs keeps pins and state.
pub const COPIES_HOME: &str = "/run/blkdelta-guest-programs";

/// Loads every program the object has, with all copies, and looks at what is attached.
pub fn every_program(trial: &mut Trial) -> Result<()> {
    let home = crate::product::Home::at(Path::new(COPIES_HOME))?;
    let request_based = disk("a")?;
    let zram = zram_of(trial, 16 << 20)?;
    for device in [&request_based, &zram] {
        let mut command = home.command(["track".as_ref(), device.as_os_str()])?;
        let ended = Ended::of(command.env("BLKDELTA_COPIES", "3"))?;
        ended.expect(0, "track with three copies")?;
    }
    let loaded = fs::read(home.path().join("state/loaded.json")).context("read what is loaded")?;
    let loaded: Value = serde_json::from_slice(&loaded)?;
    let programs = loaded["programs"].as_array().map_or(0, Vec::len);
    ensure!(loaded["copies"] == 3 && programs >= 15 && programs.is_multiple_of(3), "loaded: {loaded}");
    trial.programs(programs);
    let status = home.json(["status"])?;
    for device in status.as_array().into_iter().flatten() {
        for program in device["programs"].as_array().into_iter().flatten() {
            ensure!(program["trouble"].is_null(), "{program}");
        }
    }
    for device in [&request_based, &zram] {
        home.ok(["untrack".as_ref(), device.as_os_str()])?;
    }
    Ok(())
}

fn zram_of(trial: &mut Trial, size: u64) -> Result<PathBuf> {
    let path = zram_device(size)?;
    let name = make::name(&path)?;
    let number = name.trim_start_matches("zram").to_owned();
    trial.undo(format!(
        "echo 1 > /sys/block/{name}/reset; echo {number} > /sys/class/zram-control/hot_remove"
    ));
    Ok(path)
}

/// A zram device that nobody removes.
pub fn zram_device(size: u64) -> Result<PathBuf> {
    ensure!(module("zram"), "no module zram");
    let number = fs::read_to_string("/sys/class/zram-control/hot_add").context("add a zram device")?;
    let name = format!("zram{}", number.trim());
    let path = Path::new("/dev").join(&name);
    poke(&format!("/sys/block/{name}/disksize"), &size.to_string())?;
    wait_until(|| path.exists(), "the zram node")?;
    // off by default; without it the kernel counts nothing that tracking could be checked against
    poke(&format!("/sys/block/{name}/queue/iostats"), "1")?;
    Ok(path)
}

/// Compressed memory: bare bios, no requests.
pub fn zram(trial: &mut Trial) -> Result<()> {
    let path = zram_of(trial, SIZE)?;
    trial.all_ways(&path, &path)
}

/// A server and a client in one machine.
pub fn nbd(trial: &mut Trial) -> Result<()> {
    ensure!(module("nbd"), "no module nbd");
    let backing = file(trial, "nbd.img", SIZE)?;
    let config = format!(
        "[generic]\nallowlist=true\nunixsock=/run/nbd.sock\n[one]\nexportname={}\ntrim=true\nflush=true\n",
        backing.display()
    );
    crate::device::put(Path::new("/run/nbd.conf"), config.as_bytes())?;
    sh("nbd-server -C /run/nbd.conf -p /run/nbd.pid")?;
    trial.undo("kill $(cat /run/nbd.pid)");
    wait_until(|| Path::new("/run/nbd.sock").exists(), "the nbd server")?;
    sh("nbd-client -unix /run/nbd.sock /dev/nbd0 -N one")?;
    trial.undo("nbd-client -d /dev/nbd0");
    let path = PathBuf::from("/dev/nbd0");
    wait_until(|| crate::device::size_of(&path).is_ok_and(|size| size == SIZE), "the nbd device")?;
    trial.all_ways(&path, &path)
}

/// null_blk with more attributes.
pub fn null_blk(trial: &mut Trial, attributes: &[(&str, &str)]) -> Result<()> {
    if !module("null_blk") {
        trial.absent("no module null_blk");
        return Ok(());
    }
    let path = make::null_blk(trial, attributes)?;
    trial.all_ways(&path, &path)
}

/// Zones: sequential writes, reset, finish.
pub fn zoned(trial: &mut Trial) -> Result<()> {
    if !module("null_blk") {
        trial.absent("no module null_blk");
        return Ok(());
    }
    let path = make::null_blk(trial, &[("zoned", "1"), ("zone_size", "8"), ("zone_nr_conv", "2")])?;
    let write = |at: u64, random: &mut Random| -> Result<Outcome> {
        open_with(&path, O_DIRECT)?.write_all_at(&Aligned::random(256 << 10, random), at << 20)?;
        Ok(Outcome::Done)
    };
    let zones = |command: &str, at: u64, count: u64| -> Result<Outcome> {
        let (at, length) = (at << 11, count * (8 << 11));
        sh(&format!("blkzone {command} -o {at} -l {length} {}", path.display())).map(|_| Outcome::Done)
    };
    let Some(mut sight) = trial.track(&path)? else { return Ok(()) };
    let before = trial.settle(&mut sight)?;
    let before = trial.judged(&mut sight, before, |trial| {
        trial.one("in a conventional zone", |random| write(3, random))?;
        [16, 24, 32, 40, 48].into_iter().try_for_each(|at| trial.one("in a zone", |random| write(at, random)))
    })?;
    let before =
        trial.judged(&mut sight, before, |trial| trial.one("reset a zone", |_| zones("reset", 16, 1)))?;
    let before = trial.judged(&mut sight, before, |trial| {
        trial.one("reset two zones", |_| zones("reset", 24, 2))?;
        trial.one("finish a zone", |_| zones("finish", 40, 1))
    })?;
    trial.judged(&mut sight, before, |trial| trial.one("reset all zones", |_| zones("reset", 16, 22)))?;
    Ok(())
}

/// Writes whose completion is fetched by polling, many at once: the batch path of the block layer.
pub fn polled(trial: &mut Trial) -> Result<()> {
    let path = disk("nvme")?;
    let polls = fs::read_to_string(format!("/sys/block/{}/queue/io_poll", make::name(&path)?))?;
    ensure!(polls.trim() == "1", "{} has no queue for polling", path.display());
    trial.one_work(&path, "io_uring with IOPOLL", |random| {
        let device = open_with(&path, O_DIRECT)?;
        for round in 0..8 {
            let data = Aligned::random(1 << 20, random);
            write_uring(&device, (round * 16) << 20, &data, 8 << 10, Completions::Polled)?;
        }
        Ok(Outcome::Done)
    })
}

/// A SCSI disk in memory whose host is busy at every fifth command, which is then issued again.
pub fn requeued(trial: &mut Trial) -> Result<()> {
    // fake_host_busy, drivers/scsi/scsi_debug.c
    if sh("modprobe -q scsi_debug dev_size_mb=136 delay=0 every_nth=5 opts=0x8000").is_err() {
        trial.absent("no module scsi_debug");
        return Ok(());
    }
    trial.undo("rmmod scsi_debug");
    let model =
        |entry: &fs::DirEntry| fs::read_to_string(entry.path().join("device/model")).unwrap_or_default();
    let find =
        || fs::read_dir("/sys/block").ok()?.flatten().find(|entry| model(entry).contains("scsi_debug"));
    wait_until(|| find().is_some(), "the disk of scsi_debug")?;
    let path = Path::new("/dev").join(find().context("no disk of scsi_debug")?.file_name());
    let Some(mut sight) = trial.track(&path)? else { return Ok(()) };
    let before = trial.settle(&mut sight)?;
    trial.judged(&mut sight, before, |trial| {
        trial.one("mixture", |random| churn(&path, random, 120).map(|_| Outcome::Done))?;
        trial.one("io_uring", |random| {
            let device = open_with(&path, O_DIRECT)?;
            write_uring(
                &device,
                40 << 20,
                &Aligned::random(4 << 20, random),
                8 << 10,
                Completions::Interrupts,
            )?;
            Ok(Outcome::Done)
        })
    })?;
    let places = Places::under(trial.home.path());
    let requeued = collector::diff::look(&places, &path)?.reading.counters[0].requeued;
    ensure!(requeued > 0, "nothing was issued twice: this was no test");
    trial.note(format!("{requeued} requests were issued again"));
    Ok(())
}

/// Memory that can be mapped past the block layer.
pub fn pmem(trial: &mut Trial) -> Result<()> {
    module("nd_e820");
    module("nd_pmem");
    let path = Path::new("/dev/pmem0");
    if wait_until(|| path.exists(), "pmem0").is_err() {
        trial.absent("the kernel made no /dev/pmem0 of the memory set apart");
        return Ok(());
    }
    let dax = fs::read_to_string("/sys/block/pmem0/queue/dax").unwrap_or_default();
    trial.note(format!("queue/dax is {}", dax.trim()));
    trial.all_ways(path, path)
}

/// A kernel that keeps root from changing it, as under Secure Boot: do the programs load, is everything seen?
pub fn under_lockdown(trial: &mut Trial, wanted: &str) -> Result<()> {
    let mode = fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default();
    if !mode.contains(&format!("[{wanted}]")) {
        trial.absent(format!("lockdown is {:?}", mode.trim()));
        return Ok(());
    }
    let path = disk("a")?;
    trial.all_ways(&path, &path)
}

/// docs/PRIVILEGES.md, row by row, on this kernel.
pub fn privileges(_: &mut Trial) -> Result<()> {
    module("ext4");
    crate::privileges::every_row("guest: privileges")
}
