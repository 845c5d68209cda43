//! Promise: the more and the more kinds of writes, the same: none is missed.
//!
//! Disks of several kinds are tracked and written at once, each by a thread of its own. In each round a disk is written
//! throughout, in ways chosen by the seed, while its epoch is cut every few milliseconds, now and then every second; then
//! the replica that was kept by the cuts' lists alone must be the same as the device. Writes are counted by the kernel,
//! as requests that the device completed. `cargo xtask test --long` lets it run for as long as wanted; SIGINT ends it
//! after the rounds that are under way, with the tally.

use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tests::device::{Loop, Mounted, Zram, kernel_requests, logical_block};
use tests::files::KINDS;
use tests::image::fill;
use tests::load::{How, Round, round};
use tests::product::Home;
use tests::random::Random;
use tests::replica::Replica;
use tests::scratch::Scratch;
use tests::tracked::Tracked;
use tests::{host, skip_if};

/// Who may write at the same time. Writers through the page cache and around it never share a device: where they meet
/// in a page the kernel fails the next sync with EIO (`dio_warn_stale_pagecache`, mm/filemap.c, 6.18).
const CREWS: [&[How]; 8] = [
    &[How::Uring],
    &[How::Uring],
    &[How::Uring, How::Uring],
    &[How::Uring, How::Uring],
    &[How::Uring, How::Direct],
    &[How::Direct, How::Direct, How::Direct, How::Direct],
    &[How::Cached, How::Mapped],
    &[How::Cached, How::Cached],
];

/// What the threads share.
struct Run {
    /// End after the round that is under way.
    stop: Arc<AtomicBool>,
    until: Instant,
    writes: AtomicU64,
    cuts: AtomicU64,
}

impl Run {
    fn over(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || Instant::now() >= self.until
    }
}

/// Stops everybody when the thread that holds it ends too early.
struct Guard<'a>(&'a Run);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

/// A tracked device with its replica, and what was done to it.
struct Kind {
    name: &'static str,
    tracked: Tracked,
    replica: Replica,
    block: u64,
    /// It makes one write of so many at most: slow kinds must not take the time of the fast ones.
    one_of: u64,
    writes: u64,
    rounds: u64,
}

impl Kind {
    fn new(name: &'static str, home: &Home, device: &Path, one_of: u64, random: &mut Random) -> Result<Self> {
        fill(device, random)?;
        let tracked = Tracked::start(home, device, 4096)?;
        let (replica, block) = (Replica::new(device)?, logical_block(device)?);
        Ok(Self { name, tracked, replica, block, one_of, writes: 0, rounds: 0 })
    }

    /// Rounds until the run is over, one at least.
    fn work(&mut self, run: &Run, random: &mut Random) -> Result<()> {
        while self.rounds == 0 || !run.over() {
            if self.rounds > 0
                && self.one_of > 1
                && self.writes * self.one_of > run.writes.load(Ordering::Relaxed)
            {
                std::thread::sleep(Duration::from_millis(20));
                continue;
            }
            let before = (self.writes, self.replica.cuts);
            self.round(random)?;
            run.writes.fetch_add(self.writes - before.0, Ordering::Relaxed);
            run.cuts.fetch_add(self.replica.cuts - before.1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// One round, judged.
    fn round(&mut self, random: &mut Random) -> Result<()> {
        let device = self.tracked.device().to_path_buf();
        let writers = CREWS[random.below(CREWS.len() as u64) as usize];
        // mapped memory comes in pages
        let least = if writers.contains(&How::Mapped) { 4096 } else { self.block };
        let unit = match random.below(16) {
            0 => 256 << 10,
            1 => 64 << 10,
            2 => 16 << 10,
            3 | 4 => least,
            _ => 4096,
        };
        let pause = match random.below(32) {
            0 => Duration::from_millis(1000),
            1..4 => Duration::from_millis(50),
            _ => Duration::from_micros(random.below(4000)),
        };
        let before = kernel_requests(&device)?;
        round(&mut self.tracked, &mut self.replica, Round { unit, writers, pause }, random)?;
        self.writes += kernel_requests(&device)? - before;
        self.rounds += 1;
        let what = format!("{}, round {}: {writers:?} of {unit} bytes", self.name, self.rounds);
        self.replica.ensure_identical(&device, &what)
    }

    fn say(&self) {
        let (cuts, cutting) = (self.replica.cuts, self.replica.cutting.as_millis());
        host::say(&format!(
            "  {:<34} {:>11} writes  {:>6} rounds  {:>7} cuts ({:>3} ms mean, {:>4} slowest)  0 missed",
            self.name,
            self.writes,
            self.rounds,
            cuts,
            cutting / u128::from(cuts.max(1)),
            self.replica.slowest.as_millis(),
        ));
    }
}

/// What a loop device may make of all writes.
const SLOW: u64 = 50;

/// The devices, in the order in which they must go.
struct Beds {
    kinds: Vec<Kind>,
    _inner: Loop,
    _mounted: Mounted,
    _loops: Vec<Loop>,
    _zrams: Vec<Zram>,
}

impl Beds {
    fn make(scratch: &Scratch, home: &Home, random: &mut Random) -> Result<Self> {
        let mut kinds = Vec::new();
        let mut zrams = Vec::new();
        for name in ["zram", "a second zram"] {
            match Zram::new(192 << 20) {
                Ok(zram) => {
                    kinds.push(Kind::new(name, home, &zram.path(), 1, random)?);
                    zrams.push(zram);
                }
                Err(error) => host::skipped(name, &format!("{error:#}")),
            }
        }
        let plain = Loop::new(scratch, "plain", 48 << 20)?;
        kinds.push(Kind::new("loop on tmpfs", home, plain.path(), SLOW, random)?);
        let wide = Loop::with_sector(scratch, "wide", 32 << 20, 4096)?;
        kinds.push(Kind::new("loop with 4096-byte sectors", home, wide.path(), SLOW, random)?);
        let disk = Loop::new(scratch, "parts", 48 << 20)?;
        let parts: Vec<PathBuf> = disk.partition("label: dos\nstart=2048, size=32771\nstart=36864\n")?;
        kinds.push(Kind::new("partition of an odd size", home, &parts[0], SLOW, random)?);
        let below = Loop::new(scratch, "below", 160 << 20)?;
        KINDS[0].make(below.path())?;
        let mounted = Mounted::new(scratch, below.path(), "")?;
        let file = mounted.point().join("file.img");
        std::fs::File::create(&file)?.set_len(24 << 20)?;
        let inner = Loop::on(&file, &[])?;
        kinds.push(Kind::new("loop on a file in ext4", home, inner.path(), SLOW, random)?);
        let loops = vec![plain, wide, disk, below];
        Ok(Self { kinds, _inner: inner, _mounted: mounted, _loops: loops, _zrams: zrams })
    }

    fn writes(&self) -> u64 {
        self.kinds.iter().map(|kind| kind.writes).sum()
    }

    fn cuts(&self) -> u64 {
        self.kinds.iter().map(|kind| kind.replica.cuts).sum()
    }
}

/// A loss must be noticed, or all that follows means nothing.
fn prove_that_a_loss_is_noticed(kind: &mut Kind, random: &mut Random) -> Result<()> {
    let device = kind.tracked.device().to_path_buf();
    let plan = Round { unit: 4096, writers: CREWS[0], pause: Duration::ZERO };
    kind.replica.lossy = Some(20);
    round(&mut kind.tracked, &mut kind.replica, plan, random)?;
    ensure!(kind.replica.ensure_identical(&device, "lossy").is_err(), "a dropped area was not noticed");
    kind.replica = Replica::new(&device)?;
    Ok(())
}

#[test]
fn kinds_and_ways_of_writing() -> Result<()> {
    const NAME: &str = "long_run::kinds_and_ways_of_writing";
    skip_if!(host::no_tracking(), NAME);
    skip_if!(host::no_filesystem("ext4"), NAME);
    let scratch = Scratch::new("long-run")?;
    let mut random = Random::for_test(NAME);
    let seed = random.seed();
    let home = Home::new(&scratch)?;
    let mut beds = Beds::make(&scratch, &home, &mut random)?;
    prove_that_a_loss_is_noticed(beds.kinds.last_mut().context("no kind of device")?, &mut random)?;
    let stop = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGINT, Arc::clone(&stop))?;
    let start = Instant::now();
    let until = start + Duration::from_secs(host::seconds(8));
    let run = Run { stop, until, writes: AtomicU64::new(0), cuts: AtomicU64::new(0) };
    write_all(&mut beds.kinds, &run, start, &mut random).with_context(|| format!("seed {seed}"))?;
    beds.kinds.iter().for_each(Kind::say);
    host::say(&progress(&run, start.elapsed()));
    host::say(&row(&beds, seed, start.elapsed())?);
    Ok(())
}

/// Each kind in a thread of its own, until the run is over; the first failure stops all.
fn write_all(kinds: &mut [Kind], run: &Run, start: Instant, random: &mut Random) -> Result<()> {
    std::thread::scope(|scope| {
        let work = |kind| {
            let mut random = random.fork();
            scope.spawn(move || {
                let _guard = Guard(run);
                Kind::work(kind, run, &mut random)
            })
        };
        let threads: Vec<_> = kinds.iter_mut().map(work).collect();
        let mut told = Instant::now();
        while !threads.iter().all(|thread| thread.is_finished()) {
            std::thread::sleep(Duration::from_millis(100));
            if told.elapsed() > Duration::from_secs(30) {
                told = Instant::now();
                host::say(&progress(run, start.elapsed()));
            }
        }
        threads.into_iter().try_for_each(|thread| thread.join().expect("a thread panicked"))
    })
}

/// A line for docs/SAFETY.md.
fn row(beds: &Beds, seed: u64, took: Duration) -> Result<String> {
    let (date, kernel) = (host::run("date", ["-u", "+%Y-%m-%d"])?, host::run("uname", ["-rm"])?);
    let kinds = beds.kinds.iter().map(|kind| format!("{} {}", kind.writes, kind.name));
    let (kinds, cuts) = (kinds.collect::<Vec<_>>().join(", "), beds.cuts());
    let (writes, minutes) = (beds.writes(), took.as_secs() / 60);
    Ok(format!(
        "| {date} | {kernel} | `cargo xtask test --long`, {minutes} min, seed {seed}: {writes} writes and discards \
         ({kinds}), {cuts} cuts | 0 areas missed |"
    ))
}

fn progress(run: &Run, took: Duration) -> String {
    let (writes, seconds) = (run.writes.load(Ordering::Relaxed), took.as_secs_f64());
    let (cuts, rate) = (run.cuts.load(Ordering::Relaxed), writes as f64 / seconds);
    format!("long_run: {writes} writes, {cuts} cuts, 0 areas missed, {seconds:.0} s, {rate:.0}/s")
}
