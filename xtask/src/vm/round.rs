//! All cases on one kernel: disks in memory, one boot, a new one after a case that ended the guest; then a boot
//! under lockdown.

use super::fetch::KernelFiles;
use super::guest::Guest;
use super::machine::{Bus, Disk, Machine, Past};
use crate::command::say;
use crate::workspace::{Workspace, fresh_dir};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A case may take this long, emulated, on a busy machine.
const LIMIT: Duration = Duration::from_secs(1800);

const MIB: u64 = 1 << 20;

/// Serial number, bus, size in MiB. What lies on them is written by the cases.
const DISKS: [(&str, Bus, u64); 14] = [
    ("keep", Bus::Virtio, 1),
    ("a", Bus::Virtio, 132),
    ("b", Bus::Virtio, 132),
    ("c", Bus::Virtio, 132),
    ("d", Bus::Virtio, 132),
    ("e", Bus::Virtio, 68),
    ("f", Bus::Virtio, 68),
    ("scsi512", Bus::Scsi(512, 512), 132),
    ("scsi512e", Bus::Scsi(512, 4096), 132),
    ("scsi4k", Bus::Scsi(4096, 4096), 132),
    ("mpath", Bus::Scsi(512, 512), 132),
    ("mpath", Bus::SecondPath, 132),
    ("nvme", Bus::Nvme, 132),
    ("nvmexfs", Bus::Nvme, 304),
];

/// For the kernel: queues that are polled, memory set apart as if it were persistent.
const ARGUMENTS: &str = "nvme.poll_queues=1 memmap=128M!1024M";

/// The folders of a round; the disks go with it.
pub struct Bed {
    disks: PathBuf,
    logs: PathBuf,
}

impl Bed {
    /// Disks in memory where that can be, logs below the target folder.
    pub fn new(ws: &Workspace, kernel: &str) -> Result<Self> {
        let memory = Path::new("/dev/shm");
        let name = format!("blkdelta-vm-{}-{kernel}", std::process::id());
        sweep(memory);
        let base = if fs::create_dir(memory.join(&name)).is_ok() {
            memory.to_owned()
        } else {
            super::fetch::place(ws)
        };
        let bed = Self { disks: base.join(name), logs: super::fetch::place(ws).join(kernel) };
        fs::create_dir_all(&bed.disks).context("make the disks' folder")?;
        fresh_dir(&bed.logs)?;
        Ok(bed)
    }

    /// Where consoles and reports are kept.
    pub fn logs(&self) -> &Path {
        &self.logs
    }

    /// Where the disks' files are.
    pub fn disks(&self) -> &Path {
        &self.disks
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.disks) {
            say(format!("while removing {}: {error}", self.disks.display()));
        }
    }
}

/// Removes disks of runs that were killed.
fn sweep(memory: &Path) {
    for entry in fs::read_dir(memory).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name.strip_prefix("blkdelta-vm-").and_then(|rest| rest.split('-').next());
        let dead =
            pid.is_some_and(|pid| pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists());
        if dead {
            // what stays is tried again by the next run
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// A case and what came of it.
pub struct Found {
    /// Its name.
    pub name: String,
    /// Which one it is in the guest's table.
    pub place: usize,
    /// What the guest's table expects.
    pub expect: String,
    /// What the guest says came of it.
    pub report: Value,
    /// How long it took.
    pub took: Duration,
}

impl Found {
    /// `whole`, `suspect`, `refused`, `absent` or `failed`.
    pub fn fate(&self) -> &str {
        match self.report["failures"].as_array() {
            Some(failures) if failures.is_empty() => self.report["fate"].as_str().unwrap_or("failed"),
            _ => "failed",
        }
    }

    /// Why it is not whole, or how it failed.
    pub fn why(&self) -> String {
        let failures = self.report["failures"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let failures: Vec<&str> = failures.collect();
        match failures.is_empty() {
            true => self.report["why"].as_str().unwrap_or_default().to_owned(),
            false => failures.join("; "),
        }
    }

    fn as_expected(&self) -> bool {
        self.fate() == "absent" || self.fate() == self.expect
    }
}

/// All of a kernel.
pub struct Round {
    /// The kernel's full version.
    pub version: String,
    /// From power-on to the first word.
    pub booted_in: Duration,
    /// The cases, in their order.
    pub cases: Vec<Found>,
}

impl Round {
    /// One line each.
    pub fn print(&self, kernel: &str) {
        for case in &self.cases {
            let (fate, took) = (case.fate(), case.took.as_secs_f64());
            let why: String = case.why().chars().take(110).collect();
            println!("{kernel:5} {:38} {fate:8} {took:6.1} s  {why}", case.name);
        }
        let total: f64 = self.cases.iter().map(|case| case.took.as_secs_f64()).sum();
        println!(
            "{kernel:5} {:38} {:8} {total:6.1} s  booted in {:.1} s",
            "total",
            "",
            self.booted_in.as_secs_f64()
        );
    }

    /// What is not as it should be.
    pub fn failures(&self, kernel: &str) -> Vec<String> {
        let wrong = self.cases.iter().filter(|case| !case.as_expected());
        let line = |case: &Found| {
            let (name, fate, expect, why) = (&case.name, case.fate(), &case.expect, case.why());
            format!("{kernel}: {name}: {fate}, expected {expect}: {why}")
        };
        wrong.map(line).collect()
    }
}

/// Runs the cases whose name contains one of `only`, a boot for each set of kernel arguments that cases ask for; `keep`
/// gets what is known after every case, so that a run that is interrupted was not for nothing.
pub fn run(
    bed: &Bed,
    files: &KernelFiles,
    initramfs: &Path,
    only: &[String],
    keep: impl Fn(&Round) -> Result<()>,
) -> Result<Round> {
    let mut machine = machine(bed, files, initramfs)?;
    let mut guest = power_on(&machine)?;
    let mut round = Round { version: guest.kernel.clone(), booted_in: guest.booted_in, cases: Vec::new() };
    let list = guest.run(&["/init", "list"], LIMIT, |_| {})?.success("list the cases")?;
    let mut booted = String::new();
    for (place, line) in list.into_iter().enumerate() {
        let case: Value = serde_json::from_str(&line).with_context(|| format!("read {line:?}"))?;
        let word = |key: &str| case[key].as_str().unwrap_or_default().to_owned();
        let (name, expect, boot) = (word("name"), word("expect"), word("boot"));
        if !only.is_empty() && !only.iter().any(|only| name.contains(only.as_str())) {
            continue;
        }
        if boot != booted {
            guest.kill()?;
            machine.arguments = format!("{ARGUMENTS} {boot}");
            guest = power_on(&machine)?;
            booted = boot;
        }
        let began = Instant::now();
        let (report, sound) = one_case(&mut guest, &name, bed)?;
        let found = Found { name, place, expect, report, took: began.elapsed() };
        say(format!(
            "{:40} {:8} {:5.1} s {}",
            found.name,
            found.fate(),
            found.took.as_secs_f64(),
            short(&found)
        ));
        round.cases.push(found);
        keep(&round)?;
        if !sound {
            guest.kill()?;
            guest = power_on(&machine)?;
        }
    }
    guest.kill()?;
    Ok(round)
}

/// Boots, and loads the programs for all cases.
fn power_on(machine: &Machine) -> Result<Guest> {
    let mut guest = Guest::boot(machine)?;
    let began = Instant::now();
    let kept = guest.run(&["/init", "keep-programs"], LIMIT, |_| {})?;
    if kept.code != 0 {
        say(format!("programs: {}", kept.lines.join("; ")));
    }
    let (boot, load) = (guest.booted_in.as_secs_f64(), began.elapsed().as_secs_f64());
    say(format!("booted in {boot:.1} s, programs loaded in {load:.1} s"));
    Ok(guest)
}

fn short(found: &Found) -> String {
    found.why().chars().take(300).collect()
}

/// One case; false if the guest can no longer be used.
fn one_case(guest: &mut Guest, name: &str, bed: &Bed) -> Result<(Value, bool)> {
    let mut lines = Vec::new();
    let ended = guest.run(&["/init", "case", name], LIMIT, |line| lines.push(line.to_owned()));
    crate::rig::process::go_on()?;
    let (failure, sound) = match &ended {
        Ok(ended) if ended.code == 0 => (None, true),
        Ok(ended) => (Some(ended.lines.last().cloned().unwrap_or_default()), false),
        Err(error) => (Some(format!("{error:#}")), false),
    };
    let report = lines.iter().rev().find_map(|line| serde_json::from_str::<Value>(line).ok());
    let report = match (failure, report) {
        (None, Some(report)) => report,
        (failure, _) => json!({ "failures": [failure.unwrap_or_else(|| "it said nothing".into())] }),
    };
    // a device that stays would spoil the cases after it
    let failed = report["failures"].as_array().is_none_or(|failures| !failures.is_empty());
    keep_log(guest, name, &lines, bed)?;
    Ok((report, sound && !failed))
}

/// What a case said, and the end of the console.
fn keep_log(guest: &Guest, name: &str, lines: &[String], bed: &Bed) -> Result<()> {
    let file: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let path = bed.logs().join(format!("{file}.log"));
    let text = format!("{}\n\nconsole:\n{}\n", lines.join("\n"), guest.last_words());
    crate::workspace::write_file(&path, text.as_bytes())
}

fn machine(bed: &Bed, files: &KernelFiles, initramfs: &Path) -> Result<Machine> {
    let mut disks = Vec::new();
    for (serial, bus, size) in DISKS {
        let disk = Disk::new(bed.disks(), serial, bus);
        disk.make(size * MIB)?;
        disks.push(disk);
    }
    Ok(Machine {
        image: files.image.clone(),
        initramfs: initramfs.into(),
        memory: 1536,
        processors: 2,
        past: Past::None,
        arguments: ARGUMENTS.into(),
        disks,
        folder: bed.logs().join("console"),
    })
}
