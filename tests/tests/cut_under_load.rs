//! Promise: a cut at any moment under any load loses no write (museum M4).
//!
//! Writers change every block of the device once per round in a scattered order, so that no later write can hide a
//! lost one. Meanwhile the epoch is cut every few milliseconds and the areas of each sealed epoch are copied to a
//! replica. At the end of a round the writers have stopped and one last cut is copied: device and replica must be
//! the same, byte for byte.

use anyhow::{Context, Result, ensure};
use collector::block::ExtentSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tests::device::{Loop, Mounted, O_DIRECT, kernel_counts, open_with, size_of};
use tests::files::{self, KINDS};
use tests::image::{Aligned, Image, fill};
use tests::product::Home;
use tests::random::Random;
use tests::scratch::Scratch;
use tests::tracked::Tracked;
use tests::workload::{churn, discard};
use tests::{host, skip_if};

/// The replica and what it cost to keep it.
struct Replica {
    device: File,
    image: Image,
    cuts: u64,
    copied: u64,
    suspect: Vec<String>,
    /// Leaves out every so many extents, to prove that a loss is noticed.
    lossy: Option<usize>,
}

impl Replica {
    /// A copy of the device as it is; tracking must already run.
    fn new(device: &Path) -> Result<Self> {
        let image = Image::of(device)?;
        let device = open_with(device, O_DIRECT)?;
        Ok(Self { device, image, cuts: 0, copied: 0, suspect: Vec::new(), lossy: None })
    }

    /// Cuts, copies what the sealed epoch lists, retires it.
    fn follow(&mut self, tracked: &mut Tracked) -> Result<()> {
        let cut = tracked.cut()?;
        self.copy(&cut.extents)?;
        self.cuts += 1;
        self.suspect.extend(cut.suspect);
        tracked.retire(cut.epoch)?;
        // a collector that was killed or upgraded comes back and goes on
        if self.cuts.is_multiple_of(25) { tracked.reopen() } else { Ok(()) }
    }

    fn copy(&mut self, extents: &ExtentSet) -> Result<()> {
        for (n, extent) in extents.iter().enumerate() {
            if self.lossy.is_some_and(|nth| n % nth == nth - 1) {
                continue;
            }
            let range = extent.offset as usize..extent.end() as usize;
            let mut buffer = Aligned::new(range.len());
            self.device.read_exact_at(&mut buffer, extent.offset).context("copy an extent of a cut")?;
            self.image.bytes_mut()[range].copy_from_slice(&buffer);
            self.copied += extent.length;
        }
        Ok(())
    }

    fn ensure_identical(&self, device: &Path, when: &str) -> Result<()> {
        let lost = Image::of(device)?.difference(&self.image);
        let first: Vec<_> = lost.iter().take(8).collect();
        ensure!(
            lost.is_empty(),
            "{when}: LOST {} bytes after {} cuts, first {first:?}",
            lost.total(),
            self.cuts
        );
        ensure!(self.suspect.is_empty(), "{when}: a cut was called suspect: {:?}", self.suspect);
        Ok(())
    }
}

/// Follows the device until `running` writers are none, then once more.
fn follow_until_quiet(
    tracked: &mut Tracked,
    replica: &mut Replica,
    running: &AtomicUsize,
    pause: Duration,
) -> Result<()> {
    while running.load(Ordering::SeqCst) > 0 {
        replica.follow(tracked)?;
        std::thread::sleep(pause);
    }
    replica.follow(tracked)
}

/// Counts a thread as running until dropped, also by panic.
struct Running<'a>(&'a AtomicUsize);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// One writer's share of a round: every `of`-th block of `unit` bytes from the `nth` on, each once, scattered.
fn write_share(
    device: &Path,
    unit: u64,
    (nth, of): (u64, u64),
    mut random: Random,
    writes: &AtomicU64,
) -> Result<()> {
    // prime, and no device here has a multiple of it in blocks: i -> i * STRIDE is a permutation
    const STRIDE: u64 = 1_000_003;
    let mine = (size_of(device)? / unit - nth).div_ceil(of);
    let direct = open_with(device, O_DIRECT)?;
    let mut data = Aligned::new(unit as usize);
    let shift = random.below(mine);
    for i in 0..mine {
        let at = ((i * STRIDE + shift) % mine * of + nth) * unit;
        random.fill(&mut data);
        if random.below(64) > 0 || discard(&direct, at, unit).is_err() {
            direct.write_all_at(&data, at).context("write under load")?;
        }
        writes.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

fn round(
    tracked: &mut Tracked,
    replica: &mut Replica,
    writers: u64,
    unit: u64,
    random: &mut Random,
) -> Result<u64> {
    let device = tracked.device().to_path_buf();
    let writes = AtomicU64::new(0);
    let running = AtomicUsize::new(writers as usize);
    let pause = Duration::from_micros(random.below(4000));
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..writers)
            .map(|w| {
                let (random, device, writes, running) = (random.fork(), &device, &writes, &running);
                scope.spawn(move || {
                    let _running = Running(running);
                    write_share(device, unit, (w, writers), random, writes)
                })
            })
            .collect();
        follow_until_quiet(tracked, replica, &running, pause)?;
        for thread in threads {
            thread.join().expect("a writer panicked")?;
        }
        anyhow::Ok(())
    })?;
    Ok(writes.into_inner())
}

/// Rounds of direct writers for `seconds`, at least three.
fn rounds(test: &str, seconds: u64, tracked: &mut Tracked, random: &mut Random) -> Result<()> {
    let device = tracked.device().to_path_buf();
    let mut replica = Replica::new(&device)?;
    let (start, limit) = (Instant::now(), Duration::from_secs(seconds));
    let (mut writes, mut rounds) = (0, 0);
    let (before, _) = kernel_counts(&device)?;
    while start.elapsed() < limit || rounds < 3 {
        let unit = [4096, 4096, 16384, 512][rounds % 4];
        writes += round(tracked, &mut replica, 8, unit, random)?;
        replica.ensure_identical(&device, &format!("round {rounds} of {unit} byte writes"))?;
        rounds += 1;
    }
    let written = (kernel_counts(&device)?.0 - before) * 512;
    host::say(&format!(
        "{test}: {writes} writes in {rounds} rounds, {} cuts, copied {:.2} x what was written",
        replica.cuts,
        replica.copied as f64 / written.max(1) as f64
    ));
    ensure!(replica.cuts as usize > 2 * rounds, "only {} cuts in {rounds} rounds", replica.cuts);
    Ok(())
}

#[test]
fn direct_writers() -> Result<()> {
    const NAME: &str = "cut_under_load::direct_writers";
    skip_if!(host::no_tracking(), NAME);
    let scratch = Scratch::new("load")?;
    let mut random = Random::for_test(NAME);
    let device = Loop::new(&scratch, "disk", 48 << 20)?;
    fill(device.path(), &mut random)?;
    let mut tracked = Tracked::start(&Home::new(&scratch)?, device.path(), 4096)?;
    rounds(NAME, host::seconds(10), &mut tracked, &mut random)
}

#[test]
fn while_other_devices_come_and_go() -> Result<()> {
    const NAME: &str = "cut_under_load::while_other_devices_come_and_go";
    skip_if!(host::no_tracking(), NAME);
    let scratch = Scratch::new("load-two")?;
    let mut random = Random::for_test(NAME);
    let device = Loop::new(&scratch, "disk", 24 << 20)?;
    let other = Loop::new(&scratch, "other", 8 << 20)?;
    fill(device.path(), &mut random)?;
    let home = Home::new(&scratch)?;
    let mut tracked = Tracked::start(&home, device.path(), 4096)?;
    let stop = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let (mut theirs, stop, home, other) = (random.fork(), &stop, &home, &other);
        let guest = scope.spawn(move || -> Result<u64> {
            let mut times = 0;
            while stop.load(Ordering::SeqCst) == 0 {
                let mut second = Tracked::start(home, other.path(), 4096)?;
                churn(other.path(), &mut theirs, 20)?;
                ensure!(!second.cut()?.extents.is_empty(), "the other device's changes are not listed");
                second.stop()?;
                times += 1;
            }
            Ok(times)
        });
        let result = rounds(NAME, host::seconds(6) / 2, &mut tracked, &mut random);
        stop.store(1, Ordering::SeqCst);
        let times = guest.join().expect("the guest panicked")?;
        host::say(&format!("{NAME}: another device came and went {times} times"));
        result
    })
}

#[test]
fn a_lost_area_is_noticed() -> Result<()> {
    const NAME: &str = "cut_under_load::a_lost_area_is_noticed";
    skip_if!(host::no_tracking(), NAME);
    let scratch = Scratch::new("load-lossy")?;
    let mut random = Random::for_test(NAME);
    let device = Loop::new(&scratch, "disk", 16 << 20)?;
    fill(device.path(), &mut random)?;
    let mut tracked = Tracked::start(&Home::new(&scratch)?, device.path(), 4096)?;
    let mut replica = Replica::new(device.path())?;
    replica.lossy = Some(20);
    round(&mut tracked, &mut replica, 8, 4096, &mut random)?;
    ensure!(replica.ensure_identical(device.path(), "lossy").is_err(), "the replica cannot be identical");
    Ok(())
}

#[test]
fn buffered_writers_through_ext4() -> Result<()> {
    const NAME: &str = "cut_under_load::buffered_writers_through_ext4";
    skip_if!(host::no_tracking(), NAME);
    skip_if!(host::no_filesystem("ext4"), NAME);
    let scratch = Scratch::new("load-ext4")?;
    let mut random = Random::for_test(NAME);
    let device = Loop::new(&scratch, "disk", 200 << 20)?;
    KINDS[0].make(device.path())?;
    let mut tracked = Tracked::start(&Home::new(&scratch)?, device.path(), 4096)?;
    let mut replica = Replica::new(device.path())?;
    let (start, limit) = (Instant::now(), Duration::from_secs(host::seconds(10)));
    let mut rounds = 0;
    while start.elapsed() < limit || rounds < 2 {
        let mounted = Mounted::new(&scratch, device.path(), "discard")?;
        let running = AtomicUsize::new(4);
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|w| {
                    let (mut random, running) = (random.fork(), &running);
                    let folder = mounted.point().join(format!("w{w}"));
                    scope.spawn(move || {
                        let _running = Running(running);
                        let _ = std::fs::remove_dir_all(&folder);
                        files::churn(&folder, &mut random, 300)
                    })
                })
                .collect();
            follow_until_quiet(&mut tracked, &mut replica, &running, Duration::from_millis(3))?;
            threads.into_iter().try_for_each(|t| t.join().expect("a writer panicked"))
        })?;
        mounted.unmount()?;
        replica.follow(&mut tracked)?;
        replica.ensure_identical(device.path(), &format!("round {rounds}"))?;
        rounds += 1;
    }
    host::say(&format!(
        "{NAME}: {rounds} rounds, {} cuts, copied {} MiB",
        replica.cuts,
        replica.copied >> 20
    ));
    Ok(())
}
