//! What a daemon costs that makes an increment every ten seconds of a disk with 1,000 writes a second: processor time of
//! itself, its runs and the programs in the kernel, memory, and writes given up. Against a disk of the same kind that nobody
//! looks at, in turns.

use super::document::{Findings, Headline};
use super::fio::{Figures, Job, fio};
use super::interleaved::Spread;
use crate::command::quiet;
use crate::rig::device::{Loop, Mount};
use crate::rig::process::{children_of, cpu_of, peak_of, sleep};
use crate::rig::product::{KernelStats, Product, utf8};
use crate::rig::random::Random;
use crate::rig::scratch::Scratch;
use crate::rig::service::Service;
use crate::workspace::write_file;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Bytes of each disk, and of the file that is written; room for both, the repository and what is pruned late.
const DISK: u64 = 1 << 30;
const FILE: u64 = 512 << 20;
const ROOM: u64 = 5 << 30;
/// Writes a second, and how long they go on without and with the daemon.
const RATE: u32 = 1000;
const WITHOUT: f64 = 20.0;
const WITH: f64 = 40.0;
/// Where is written.
const PLACES: [(&str, &str); 2] = [("everywhere alike", "random"), ("some places more often", "zipf:1.1")];
/// The goals: percent of one processor, bytes.
const CPU: f64 = 2.0;
const MEMORY: u64 = 128 << 20;
const PATIENCE: Duration = Duration::from_secs(120);

/// The two disks and the daemon. Fields are dropped in this order.
struct Bed {
    daemon: Service,
    tracked: Disk,
    plain: Disk,
    product: Product,
    _scratch: Scratch,
}

/// A disk with a file system and a file on it. Fields are dropped in this order.
struct Disk {
    mount: Mount,
    device: Loop,
}

/// One turn with the daemon.
struct Turn {
    figures: Figures,
    /// Processor time of daemon and runs, and of the programs in the kernel, as percent of one processor.
    cpu: f64,
    programs: f64,
    /// Milliseconds of processor time and bytes stored for each increment.
    each: f64,
    stored: f64,
}

/// All of it.
pub fn run(program: &Path, rounds: usize) -> Result<Findings> {
    let (bed, _stats) = (Bed::make(program)?, KernelStats::on()?);
    let (most, end) = (AtomicU64::new(0), AtomicBool::new(false));
    let measured = std::thread::scope(|scope| {
        scope.spawn(|| watch_memory(bed.daemon.pid(), &most, &end));
        let measured = PLACES.map(|(_, places)| bed.measure(places, rounds));
        end.store(true, Ordering::Relaxed);
        measured
    });
    let own = peak_of(bed.daemon.pid()).context("the daemon's memory")?;
    let run = most.load(Ordering::Relaxed);
    let mut text = format!(
        "ext4 on a loop device of {} MiB, in memory; fio writes {RATE} blocks of 4 KiB a second past the page cache, all over a \
         file of {} MiB, each block another content that shrinks to half. In turns: {WITHOUT} s on such a disk that is not \
         tracked, {WITH} s on one of which the daemon makes an increment every 10 s, frozen, with retention. *CPU* is the \
         time of the daemon and all its runs (user and system, not the loop device's threads), *programs* that of the eBPF \
         programs by the kernel's own statistics, which are part of it; both as a share of one processor.\n\n\
         | writes, {rounds} rounds | writes/s without | with | lost | spread | p99.9 µs | CPU | spread | programs | CPU of an \
         increment | stored by it |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n",
        DISK >> 20,
        FILE >> 20
    );
    let mut headlines = Vec::new();
    for ((name, _), turns) in PLACES.iter().zip(measured) {
        let (plain, turns) = turns?;
        headlines.extend(row(&mut text, name, &plain, &turns)?);
    }
    writeln!(text, "\nMemory: {} MiB the daemon, {} MiB the largest of its runs.", own >> 20, run >> 20)?;
    let met = own + run <= MEMORY;
    let what = "daemon: memory, with the largest of its runs";
    headlines.push(Headline::new(what, format!("{} MiB", (own + run) >> 20), "≤ 128 MiB", met));
    Ok(Findings { text, headlines })
}

fn row(text: &mut String, name: &str, plain: &[Figures], turns: &[Turn]) -> Result<[Headline; 2]> {
    let of = |get: &dyn Fn(&Turn) -> f64| Spread::of(&turns.iter().map(get).collect::<Vec<_>>());
    let before = |get: &dyn Fn(&Figures) -> f64| Spread::of(&plain.iter().map(get).collect::<Vec<_>>());
    // in hundredths of a percent: less is noise, and a minus before a zero is nothing
    let lost =
        plain.iter().zip(turns).map(|(a, b)| ((1.0 - b.figures.iops / a.iops) * 1e4).round() / 1e2 + 0.0);
    let lost = Spread::of(&lost.collect::<Vec<_>>())?;
    let (cpu, programs) = (of(&|t| t.cpu + t.programs)?, of(&|t| t.programs)?);
    writeln!(
        text,
        "| {name} | {:.1} | {:.1} | {:.2} % | {:.2}-{:.2} | {:.0} → {:.0} | {:.2} % | {:.2}-{:.2} | {:.2} % | {:.0} ms | {:.1} MiB |",
        before(&|f| f.iops)?.median,
        of(&|t| t.figures.iops)?.median,
        lost.median,
        lost.min,
        lost.max,
        before(&|f| f.latency[2])?.median,
        of(&|t| t.figures.latency[2])?.median,
        cpu.median,
        cpu.min,
        cpu.max,
        programs.median,
        of(&|t| t.each)?.median,
        of(&|t| t.stored)?.median / f64::from(1 << 20)
    )?;
    let spread = |s: Spread, digits: usize| {
        format!("{:.digits$} % ({:.digits$} to {:.digits$})", s.median, s.min, s.max)
    };
    let what = format!("daemon, {RATE} writes/s {name}, every 10 s");
    Ok([
        Headline::new(format!("{what}: of one processor"), spread(cpu, 1), "≤ 2 %", cpu.median <= CPU),
        Headline::new(format!("{what}: writes given up"), spread(lost, 2), "", true),
    ])
}

/// The largest of the daemon's runs, looked at while they run.
fn watch_memory(daemon: u32, most: &AtomicU64, end: &AtomicBool) {
    while !end.load(Ordering::Relaxed) {
        let peaks = children_of(daemon).into_iter().filter_map(peak_of);
        most.fetch_max(peaks.max().unwrap_or(0), Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(10));
    }
}

impl Disk {
    fn make(scratch: &Scratch, name: &str, random: &mut Random) -> Result<Self> {
        let device = Loop::on(&scratch.sparse(&format!("{name}.img"), DISK)?)?;
        let mut mkfs = Command::new("mkfs.ext4");
        // nothing is left for the file system to do by itself
        mkfs.args(["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"]).arg(device.path());
        quiet(&mut mkfs)?;
        let mount = Mount::new(device.path(), &scratch.folder(name)?, "noatime")?;
        let disk = Self { mount, device };
        let mut file = File::create(disk.file()).context("make the file that is written")?;
        let mut piece = vec![0; 1 << 20];
        for _ in 0..FILE >> 20 {
            random.fill(&mut piece);
            file.write_all(&piece).context("fill the file that is written")?;
        }
        file.sync_all().context("sync the file that is written")?;
        Ok(disk)
    }

    fn file(&self) -> PathBuf {
        self.mount.point().join("data")
    }
}

impl Bed {
    fn make(program: &Path) -> Result<Self> {
        let scratch = Scratch::new(ROOM)?;
        let product = Product::new(program.to_owned(), &scratch)?;
        let mut random = Random::new(11);
        let plain = Disk::make(&scratch, "plain", &mut random)?;
        let tracked = Disk::make(&scratch, "tracked", &mut random)?;
        let text = format!(
            "[daemon]\nsocket = {:?}\n[repository.r]\nlocation = {:?}\n[device.d]\npath = {:?}\n\
             [job.j]\ndevice = \"d\"\nrepository = \"r\"\nevery = \"10s\"\n\
             keep_last = 12\nmerge_every = 12\nprune_every = \"1m\"\ngrace = \"30s\"\n",
            product.home().join("daemon.sock"),
            scratch.join("repo"),
            tracked.device.path()
        );
        write_file(&product.home().join("config.toml"), text.as_bytes())?;
        let daemon =
            Service::start("the daemon", &product.command(&["daemon"]), &scratch.join("daemon.log"))?;
        let bed = Self { daemon, tracked, plain, product, _scratch: scratch };
        bed.wait(|memory| memory["successes"].as_u64() >= Some(2)).context("the first two points")?;
        bed.pause()?;
        Ok(bed)
    }

    /// Waits until the daemon says this of its job; what it says then.
    fn wait(&self, done: impl Fn(&Value) -> bool) -> Result<Value> {
        let give_up = Instant::now() + PATIENCE;
        loop {
            let status = self.product.json(&["daemon", "status"]).map(|(status, _)| status);
            match status {
                Ok(status) if done(&status["jobs"][0]["memory"]) => return Ok(status["jobs"][0].clone()),
                _ if Instant::now() < give_up => sleep(Duration::from_millis(100))?,
                Ok(status) => bail!("waited in vain for the daemon: {status}"),
                Err(error) => return Err(error),
            }
        }
    }

    /// No more runs, and none under way; what the job came to.
    fn pause(&self) -> Result<Value> {
        self.product.run(&["daemon", "pause"])?;
        self.wait(|memory| memory["running"].is_null())
    }

    fn measure(&self, places: &'static str, rounds: usize) -> Result<(Vec<Figures>, Vec<Turn>)> {
        let job = |seconds| Job { rate: Some(RATE), zeros: false, places, ..Job::random(4, seconds) };
        let (mut plain, mut turns) = (Vec::new(), Vec::new());
        // both warm
        for disk in [&self.plain, &self.tracked] {
            fio(&disk.file(), job(2.0))?;
        }
        for _ in 0..rounds {
            plain.push(fio(&self.plain.file(), job(WITHOUT))?);
            turns.push(self.turn(job(WITH))?);
        }
        Ok((plain, turns))
    }

    /// Begins and ends at rest, so that every run is counted whole.
    fn turn(&self, job: Job) -> Result<Turn> {
        let before = (self.pause()?, cpu_of(self.daemon.pid())?, self.nanoseconds()?);
        let began = Instant::now();
        self.product.run(&["daemon", "resume"])?;
        let figures = fio(&self.tracked.file(), job)?;
        let took = began.elapsed().as_secs_f64();
        let after = (self.pause()?, cpu_of(self.daemon.pid())?, self.nanoseconds()?);
        let count = |job: &Value| job["memory"]["successes"].as_u64().unwrap_or(0);
        let made = count(&after.0).saturating_sub(count(&before.0));
        if made == 0 || after.0["memory"]["failed"] != before.0["memory"]["failed"] {
            bail!("the daemon made {made} increments: {}", after.0);
        }
        let (cpu, programs) = (after.1 - before.1, (after.2 - before.2) as f64 / 1e9);
        let last = after.0["runs"].as_array().and_then(|runs| runs.last()).map(|run| &run["stored_bytes"]);
        Ok(Turn {
            figures,
            cpu: cpu / took * 100.0,
            programs: programs / took * 100.0,
            each: cpu / made as f64 * 1000.0,
            stored: last.and_then(Value::as_f64).context("the daemon keeps no run")?,
        })
    }

    /// Nanoseconds in all programs so far.
    fn nanoseconds(&self) -> Result<u64> {
        Ok(self.product.programs(self.tracked.device.path())?.iter().map(|program| program.nanoseconds).sum())
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        // the pins go with the home in any case
        let _ = utf8(self.tracked.device.path())
            .and_then(|word| quiet(&mut self.product.command(&["untrack", word])));
    }
}
