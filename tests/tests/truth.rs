//! Promise: what looks quiet, consistent or complete is so, also while others track, watch, reset and mount.

use anyhow::{Result, ensure};
use collector::block::Granularity;
use collector::tracker::{self, DISK_LIVE, Live, Lock, Maps, Places};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tests::device::{Loop, Mounted, Zram, put};
use tests::image::{Image, fill};
use tests::product::Home;
use tests::protected::Protected;
use tests::random::Random;
use tests::scratch::Scratch;
use tests::workload::churn;
use tests::{host, skip_if};

/// A zram disk that was reset holds nothing any more, though nothing was written to it and its number, size and
/// sequence number stayed.
#[test]
fn a_disk_that_was_reset() -> Result<()> {
    const NAME: &str = "truth::a_disk_that_was_reset";
    skip_if!(host::no_tracking(), NAME);
    let scratch = Scratch::new("reset")?;
    let mut random = Random::for_test(NAME);
    let zram = match Zram::new(16 << 20) {
        Ok(zram) => zram,
        Err(e) => {
            host::skipped(NAME, &format!("{e:#}"));
            return Ok(());
        }
    };
    let name = zram.path().file_name().unwrap().to_string_lossy().into_owned();
    let sys = Path::new("/sys/block").join(name);
    fill(&zram.path(), &mut random)?;
    let care = Protected::new(&scratch, &zram.path())?;
    churn(&zram.path(), &mut random, 20)?;
    care.backup(&[])?;
    put(&sys.join("reset"), b"1")?;
    put(&sys.join("disksize"), b"16777216")?;
    put(&sys.join("queue/iostats"), b"1")?;
    let now = Image::of(&zram.path())?;
    let point = care.backup(&[])?;
    care.ensure_restores_to(&point.id, &now, "after the reset")
}

/// A file system of the disk that we do not see (another mount namespace) is not held still: the image may not be
/// called one of frozen file systems.
#[test]
fn a_neighbour_that_is_not_frozen() -> Result<()> {
    const NAME: &str = "truth::a_neighbour_that_is_not_frozen";
    skip_if!(host::no_tracking().or_else(|| host::no_filesystem("ext4")), NAME);
    let scratch = Scratch::new("neighbour")?;
    let mut random = Random::for_test(NAME);
    let device = Loop::new(&scratch, "disk", 64 << 20)?;
    let parts = device.partition("label: gpt\nsize=24MiB\nsize=24MiB\n")?;
    host::run("mkfs.ext4", ["-q".as_ref(), parts[0].as_os_str()])?;
    let _mounted = Mounted::new(&scratch, &parts[0], "")?;
    let care = Protected::new(&scratch, device.path())?;
    let stop = AtomicBool::new(false);
    let points = std::thread::scope(|scope| {
        let writer = scope.spawn(|| -> Result<()> {
            while !stop.load(Ordering::Relaxed) {
                churn(&parts[1], &mut random, 20)?;
            }
            Ok(())
        });
        let points: Result<Vec<_>> = (0..3).map(|_| care.backup(&[])).collect();
        stop.store(true, Ordering::Relaxed);
        writer.join().expect("the writer")?;
        points
    })?;
    for point in points {
        let notes = point.json["notes"].to_string();
        let frozen = point.json["consistency"].to_string().contains("frozen");
        host::say(&format!("{NAME}: {} {notes}", point.json["consistency"]));
        ensure!(!(frozen && notes.contains("outside")), "called frozen: {}", point.json);
    }
    Ok(())
}

/// Whoever switches live events on replaces the disk's entry, which is also the head of its list of targets: a device
/// that is tracked at the same moment would fall out of it, and its writes would be counted but not marked.
#[test]
fn a_watcher_waits_for_the_registry() -> Result<()> {
    const NAME: &str = "truth::a_watcher_waits_for_the_registry";
    skip_if!(host::no_tracking(), NAME);
    let scratch = Scratch::new("watcher")?;
    let home = Home::new(&scratch)?;
    let places = Places::under(home.path());
    let device = Loop::new(&scratch, "disk", 8 << 20)?;
    let areas = Granularity::try_from(4096).map_err(anyhow::Error::msg)?;
    let state = tracker::track(&places, device.path(), areas)?;
    let registry = Lock::take(&places.lock(), NAME, true)?;
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| Live::start(&places, std::slice::from_ref(&state)).map(|_| ()));
        std::thread::sleep(Duration::from_millis(500));
        let waited = !watcher.is_finished();
        drop(registry);
        watcher.join().expect("the watcher")?;
        ensure!(waited, "the disk's entry was replaced while the registry was locked");
        Ok(())
    })
}

/// A watcher that is killed leaves its disk's events on, and every write pays for them: the next one, of whatever disk,
/// switches them off.
#[test]
fn events_that_a_killed_watcher_left_on_are_switched_off() -> Result<()> {
    const NAME: &str = "truth::events_that_a_killed_watcher_left_on_are_switched_off";
    skip_if!(host::no_tracking(), NAME);
    let scratch = Scratch::new("watcher-killed")?;
    let home = Home::new(&scratch)?;
    let places = Places::under(home.path());
    let areas = Granularity::try_from(4096).map_err(anyhow::Error::msg)?;
    let devices = [Loop::new(&scratch, "a", 8 << 20)?, Loop::new(&scratch, "b", 8 << 20)?];
    let [a, b] = [&devices[0], &devices[1]].map(|device| tracker::track(&places, device.path(), areas));
    let (a, b) = (a?, b?);
    let on = || Maps::open(&places)?.shown();
    Maps::open(&places)?.set_flags(a.identity.disk, DISK_LIVE, true)?;
    ensure!(on()? == [a.identity.disk].into(), "nothing is left on");
    let live = Live::start(&places, std::slice::from_ref(&b))?;
    ensure!(on()? == [b.identity.disk].into(), "events of {:?} are on", on()?);
    drop(live);
    ensure!(on()?.is_empty(), "events of {:?} are on", on()?);
    Ok(())
}

/// A loop device that is moved inside its backing file keeps number, size and sequence number; nothing is written.
#[test]
fn a_loop_device_that_begins_elsewhere() -> Result<()> {
    const NAME: &str = "truth::a_loop_device_that_begins_elsewhere";
    skip_if!(host::no_tracking(), NAME);
    let scratch = Scratch::new("moved")?;
    let mut random = Random::for_test(NAME);
    let backing = scratch.path().join("moved.img");
    std::fs::File::create(&backing)?.set_len(9 << 20)?;
    let device = Loop::on(&backing, &["--sizelimit", "8388608"])?;
    fill(device.path(), &mut random)?;
    let care = Protected::new(&scratch, device.path())?;
    care.backup(&[])?;
    device.begin_at(1 << 20)?;
    ensure!(care.backup(&[]).is_err(), "another content was taken for the tracked one");
    Ok(())
}
