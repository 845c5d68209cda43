//! `cargo xtask vm --power-cuts N`: a guest that loses its power at random moments, on the same disks each time.
//!
//! Qemu is killed: every write that the guest saw completed is in the files, everything else is gone. After every start
//! the guest makes backups (`tests/src/guest/power.rs`); then, while nothing is mounted there, they are restored here and
//! compared with the disks' files, every byte. Now and then it is stopped cleanly instead, or cut while it stops or
//! comes back. One start in twelve begins at the reset vector, the others with the memory of a machine that had booted
//! and had no driver for a disk yet. What ran counts, also when we are interrupted.

use super::fetch::KernelFiles;
use super::guest::Guest;
use super::machine::{Bus, Disk, Machine, Past};
use super::round::Bed;
use super::tally::{Ending, Found, Tally};
use crate::command::{quiet, say};
use crate::rig::process::{go_on, sleep};
use crate::rig::random::Random;
use crate::workspace::fresh_dir;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

const LIMIT: Duration = Duration::from_secs(900);
const MIB: u64 = 1 << 20;
/// Serial number, bus, MiB. Small, so that many cuts fit into an hour: after each of them all is read.
const DISKS: [(&str, Bus, u64); 3] =
    [("raw", Bus::Virtio, 4), ("files", Bus::Virtio, 12), ("system", Bus::Virtio, 512)];
/// Of so many starts one is a whole boot.
const COLD: u64 = 12;

/// A machine with its disks, and what happened to it.
pub struct Cuts<'a> {
    bed: &'a Bed,
    blkdelta: &'a Path,
    cold: Machine,
    warm: Machine,
    random: Random,
    /// What the guest took for its last verification: as fast as this machine is now.
    takes: Duration,
    tally: Tally,
}

/// What a run needs.
pub struct Means<'a> {
    /// Folders.
    pub bed: &'a Bed,
    /// The kernel's image, plain.
    pub image: PathBuf,
    /// The first file system.
    pub initramfs: PathBuf,
    /// The product, as it can be run here.
    pub blkdelta: &'a Path,
}

/// `cuts` times: start, verify, write, cut. The tally is printed however it ends.
pub fn run(means: Means<'_>, kernel: &KernelFiles, cuts: usize, seed: u64) -> Result<()> {
    say(format!("power cuts: {cuts}, seed {seed}"));
    let size = DISKS[..2].iter().map(|(_, _, size)| size * MIB).sum();
    let bed = means.bed;
    let disks = DISKS.map(|(serial, bus, size)| (Disk::new(bed.disks(), serial, bus), size));
    disks.iter().try_for_each(|(disk, size)| disk.make(size * MIB))?;
    let cold = Machine {
        image: means.image,
        initramfs: means.initramfs,
        memory: 384,
        processors: 1,
        arguments: String::new(),
        disks: disks.into_iter().map(|(disk, _)| disk).collect(),
        past: Past::None,
        folder: bed.logs().join("power"),
    };
    let warm = Machine { arguments: "blkdelta.late".into(), ..cold.clone() };
    let tally = Tally::new(&kernel.version, seed, size);
    let mut this = Cuts {
        bed,
        blkdelta: means.blkdelta,
        cold,
        warm,
        random: Random::new(seed),
        takes: Duration::ZERO,
        tally,
    };
    let ended = this.go(cuts);
    this.tally.print();
    if ended.is_err() && go_on().is_ok() {
        this.keep_disks()?;
    }
    ended
}

impl Cuts<'_> {
    fn go(&mut self, cuts: usize) -> Result<()> {
        self.keep_warm()?;
        let mut guest = Guest::boot(&self.cold)?;
        let seed = self.random.next().to_string();
        guest.run(&["/init", "power", "prepare", &seed], LIMIT, |_| {})?.success("prepare")?;
        self.verify(&mut guest, None)?;
        while self.tally.cuts() < cuts {
            let ending = self.end(guest)?;
            let began = Instant::now();
            guest = self.power_on()?;
            let back = began.elapsed();
            self.verify(&mut guest, Some(ending))
                .with_context(|| format!("after cut {}, {}", self.tally.cuts(), ending.word()))?;
            say(format!(
                "cut {}, {}: back in {:.1} s, verified after {:.1} s",
                self.tally.cuts(),
                ending.word(),
                back.as_secs_f64(),
                began.elapsed().as_secs_f64()
            ));
        }
        guest.kill()
    }

    /// Boots a machine up to its disks, and keeps its memory.
    fn keep_warm(&mut self) -> Result<()> {
        let (monitor, memory) = (self.bed.disks().join("monitor"), self.bed.disks().join("memory"));
        self.warm.past = Past::Kept(monitor.clone());
        let mut guest = Guest::boot(&self.warm)?;
        guest.run(&["/init", "power", "warm"], LIMIT, |_| {})?.success("load the programs")?;
        guest.keep_memory(&monitor, &memory)?;
        self.warm.past = Past::From(memory);
        Ok(())
    }

    /// A start.
    fn power_on(&mut self) -> Result<Guest> {
        if self.random.below(COLD) == 0 {
            self.tally.booted();
            return Guest::boot(&self.cold);
        }
        let mut guest = Guest::wake(&self.warm)?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).context("read the clock")?;
        let boot = format!("boot-{}", self.random.next());
        let words = ["/init", "power", "awake", &now.as_secs().to_string(), &boot];
        guest.run(&words, LIMIT, |_| {})?.success("wake up")?;
        Ok(guest)
    }

    /// Work, and then no power; or a clean stop.
    fn end(&mut self, mut guest: Guest) -> Result<Ending> {
        let ending = Ending::choose(self.random.below(100));
        let seed = self.random.next().to_string();
        let time = (300 + self.random.below(1500)).to_string();
        match ending {
            Ending::Clean => {
                let words = ["/init", "power", "stop", &seed, &time];
                let said = guest.run(&words, LIMIT, |_| {})?.success("a clean stop")?;
                self.log(&said.join("\n"))?;
            }
            Ending::Saving => {
                guest.start(&["/init", "power", "stop", &seed, &time], LIMIT)?;
                guest.until("saving", LIMIT)?;
                self.pause(self.takes.as_millis() as u64 / 3)?;
            }
            Ending::Writing | Ending::Returning => {
                guest.start(&["/init", "power", "write", &seed], LIMIT)?;
                guest.until("writing", LIMIT)?;
                self.pause(self.takes.as_millis() as u64 / 3)?;
            }
        }
        guest.kill()?;
        self.tally.ended(ending);
        if ending == Ending::Returning {
            for _ in 0..=self.random.below(4) {
                self.cut_while_coming_back()?;
            }
        }
        Ok(ending)
    }

    /// Anywhere from the start to the last backup: what is found at the next start must do for all cuts since the last.
    fn cut_while_coming_back(&mut self) -> Result<()> {
        let mut guest = self.power_on()?;
        guest.start(&["/init", "power", "verify"], LIMIT)?;
        self.pause(self.takes.as_millis() as u64)?;
        guest.kill()?;
        self.tally.ended(Ending::Returning);
        Ok(())
    }

    fn pause(&mut self, most: u64) -> Result<()> {
        sleep(Duration::from_millis(self.random.below(most.max(1))))
    }

    fn verify(&mut self, guest: &mut Guest, after: Option<Ending>) -> Result<()> {
        let mut words = vec!["/init", "power", "verify"];
        words.extend((self.random.below(4) == 0).then_some("prune"));
        let began = Instant::now();
        let lines = guest.run(&words, LIMIT, |_| {})?.success("verify")?;
        self.takes = began.elapsed();
        self.log(&lines.join("\n"))?;
        let said = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let disks: Vec<Value> = said.filter(|value| value["disk"].is_string()).collect();
        ensure!(disks.len() == 2, "verify said {}", lines.join("\n"));
        let missed = self.compare(&disks)?;
        self.tally.verified(after, &disks.iter().map(Found::of).collect::<Result<Vec<_>>>()?, missed);
        ensure!(missed == 0, "{missed} bytes were missed: {}", lines.join("\n"));
        Ok(())
    }

    /// Restores what the guest backed up, reads every stored byte; bytes in which a disk differs.
    fn compare(&self, disks: &[Value]) -> Result<u64> {
        let folder = self.bed.disks().join("out");
        fresh_dir(&folder)?;
        let (repo, out) = (folder.join("repo"), folder.join("restored"));
        let file = |serial: &str| self.bed.disks().join(format!("{serial}.img"));
        let mut copy = Command::new("debugfs");
        copy.arg("-R").arg(format!("rdump /repo {}", folder.display())).arg(file("system"));
        quiet(&mut copy).context("take the repository out of the guest's disk")?;
        let blkdelta = |words: &[&str]| {
            quiet(Command::new(self.blkdelta).args(words).arg("--repo").arg(&repo)).map(drop)
        };
        blkdelta(&["check", "--read-data"])?;
        let mut missed = 0;
        for disk in disks {
            let word = |key: &str| disk[key].as_str().with_context(|| format!("no {key} in {disk}"));
            let restored = out.display().to_string();
            blkdelta(&["restore", "--point", word("point")?, &restored])?;
            missed += differing(&out, &file(word("disk")?))?;
            fs::remove_file(&out).context("remove what was restored")?;
        }
        Ok(missed)
    }

    fn log(&self, text: &str) -> Result<()> {
        use std::io::Write;
        let path = self.bed.logs().join("power.log");
        let file = fs::OpenOptions::new().create(true).append(true).open(&path);
        let mut file = file.with_context(|| format!("open {}", path.display()))?;
        writeln!(file, "cut {}\n{text}", self.tally.cuts()).context("keep what the guest said")
    }

    /// For whoever looks for the reason.
    fn keep_disks(&self) -> Result<()> {
        let folder = self.bed.logs().join("failed-disks");
        fs::create_dir_all(&folder).context("make a folder for the disks")?;
        for disk in &self.cold.disks {
            let name = disk.file.file_name().context("name of a disk's file")?;
            fs::copy(&disk.file, folder.join(name)).context("keep a disk")?;
        }
        say(format!("the disks are kept in {}", folder.display()));
        Ok(())
    }
}

/// Bytes of the 4 KiB blocks in which two files of one size differ.
fn differing(one: &Path, other: &Path) -> Result<u64> {
    let read = |path: &Path| fs::read(path).with_context(|| format!("read {}", path.display()));
    let (one, other) = (read(one)?, read(other)?);
    ensure!(one.len() == other.len(), "sizes differ: {} and {}", one.len(), other.len());
    Ok(one.chunks(4096).zip(other.chunks(4096)).filter(|(a, b)| a != b).map(|(a, _)| a.len() as u64).sum())
}
