//! Promise: a cut at any moment under any load loses no write (museum M4).
//!
//! Writers change every block of the device once per round in a scattered order, so that no later write can hide a
//! lost one. Meanwhile the epoch is cut every few milliseconds and the areas of each sealed epoch are copied to a
//! replica. At the end of a round the writers have stopped and one last cut is copied: device and replica must be
//! the same, byte for byte.

use anyhow::{Result, ensure};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tests::device::{Loop, Mounted, kernel_counts};
use tests::files::{self, KINDS};
use tests::image::fill;
use tests::load::{How, Round, round};
use tests::product::Home;
use tests::random::Random;
use tests::replica::{Replica, Running, follow_until_quiet};
use tests::scratch::Scratch;
use tests::tracked::Tracked;
use tests::workload::churn;
use tests::{host, skip_if};

const WRITERS: [How; 8] = [How::Direct; 8];

/// Eight direct writers, a cut every few milliseconds.
fn direct_round(unit: u64, random: &mut Random) -> Round<'static> {
    Round { unit, writers: &WRITERS, pause: Duration::from_micros(random.below(4000)) }
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
        let plan = direct_round(unit, random);
        writes += round(tracked, &mut replica, plan, random)?;
        replica.ensure_identical(&device, &format!("round {rounds} of {unit} byte writes"))?;
        rounds += 1;
    }
    let written = (kernel_counts(&device)?.0 - before) * 512;
    host::say(&format!(
        "{test}: {writes} writes in {rounds} rounds, {} cuts of {} ms (slowest {} ms), copied {:.2} x what was written",
        replica.cuts,
        replica.cutting.as_millis() / u128::from(replica.cuts),
        replica.slowest.as_millis(),
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
    let device = Loop::new(&scratch, "disk", 32 << 20)?;
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
    let plan = direct_round(4096, &mut random);
    round(&mut tracked, &mut replica, plan, &mut random)?;
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
