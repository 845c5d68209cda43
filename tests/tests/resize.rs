//! Promise: a device that grows or shrinks while it is written to loses no change, and its new space counts as
//! changed (museum M5).
//!
//! The common part of two images is judged by the oracle; the part that is new must be listed whole.

use anyhow::{Context, Result, ensure};
use collector::block::{Extent, ExtentSet};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tests::device::{Loop, O_DIRECT, logical_block, open_with, size_of};
use tests::fault::failpoints;
use tests::image::{Aligned, Image, fill};
use tests::oracle::judge;
use tests::product::Home;
use tests::protected::Protected;
use tests::random::Random;
use tests::scratch::Scratch;
use tests::tracked::Tracked;
use tests::workload::churn;
use tests::{host, skip_if};

/// Sizes that cross powers of two in both directions, small steps and odd ends.
const SIZES: [u64; 7] = [40 << 20, 20 << 20, 512 * 65_537, 66 << 20, 31 << 20, (31 << 20) + 4096, 8 << 20];

/// Writes random blocks, new space included as soon as it can be had, until told to stop. Failures are expected
/// where the device shrinks under a write. Returns how many went through.
fn write_on(device: &Path, random: &mut Random, stop: &AtomicBool) -> Result<u64> {
    let block = logical_block(device)?;
    let file = open_with(device, O_DIRECT)?;
    let mut done = 0;
    while !stop.load(Ordering::Relaxed) {
        let blocks = size_of(device)? / block;
        let at = if random.below(4) == 0 { blocks.saturating_sub(1) } else { random.below(blocks) };
        let data = Aligned::random(block as usize, random);
        done += u64::from(file.write_all_at(&data, at * block).is_ok());
    }
    Ok(done)
}

/// Runs `deed` while somebody writes, before and after it too. How many writes went through.
fn under_load(device: &Path, random: &mut Random, deed: impl FnOnce() -> Result<()>) -> Result<u64> {
    const LEAD: Duration = Duration::from_millis(60);
    let stop = AtomicBool::new(false);
    let mut theirs = random.fork();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| write_on(device, &mut theirs, &stop));
        std::thread::sleep(LEAD);
        let deed = deed();
        std::thread::sleep(LEAD);
        stop.store(true, Ordering::Relaxed);
        let written = writer.join().ok().context("the writer panicked")?;
        deed.and(written)
    })
}

/// What changed in the common part is listed, and so is all that is new.
fn ensure_listed(before: &Image, after: &Image, listed: &ExtentSet, what: &str) -> Result<()> {
    let common = before.size().min(after.size());
    let part = |image: &Image| Image::from_bytes(&image.bytes()[..common as usize]);
    let inside: ExtentSet = [Extent::new(0, common)].into_iter().collect();
    let verdict = judge(&part(before), &part(after), &listed.intersect(&inside));
    host::say(&format!("  {what:<46} {verdict}"));
    verdict.ensure_complete(what)?;
    let new = Extent::between(common, after.size());
    ensure!(new.is_empty() || listed.contains(new), "{what}: the new space {new:?} is not listed whole");
    let end = listed.iter().last().map_or(0, |e| e.end());
    ensure!(end <= after.size(), "{what}: the list reaches to {end} of {}", after.size());
    Ok(())
}

#[test]
fn a_loop_device_grows_and_shrinks_while_it_is_written_to() -> Result<()> {
    const NAME: &str = "resize::a_loop_device_grows_and_shrinks_while_it_is_written_to";
    skip_if!(host::no_tracking(), NAME);
    let scratch = Scratch::new("resize-loop")?;
    let mut random = Random::for_test(NAME);
    let device = Loop::new(&scratch, "disk", 66 << 20)?;
    fill(device.path(), &mut random)?;
    device.resize(24 << 20)?;
    let mut tracked = Tracked::start(&Home::new(&scratch)?, device.path(), 4096)?;
    for (round, size) in SIZES.into_iter().enumerate() {
        let (was, what) = (size_of(device.path())?, format!("to {size} bytes"));
        let start = tracked.cut()?;
        tracked.retire(start.epoch)?;
        let before = Image::of(device.path())?;
        let written = under_load(device.path(), &mut random, || {
            device.resize(size)?;
            if round % 2 == 0 {
                // noticed while the writer goes on, or else only after it has ended
                tracked.reopen()?;
            }
            Ok(())
        })?;
        ensure!(written > 10, "only {written} writes went through: this was no load");
        let after = Image::of(device.path())?;
        let look = tracked.look()?;
        ensure_listed(&before, &after, &look.extents, &format!("{what}, looked at"))?;
        ensure!(look.suspect.is_empty(), "{what}: looked at: {:?}", look.suspect);
        if round % 2 == 1 {
            ensure!(tracked.cut().is_err(), "{what}: a cut went on with the size of {was} in mind");
            tracked.reopen()?;
        }
        let cut = tracked.cut()?;
        ensure!(cut.suspect.is_empty(), "{what}: {:?}", cut.suspect);
        let look = tracked.look()?;
        ensure_listed(&before, &after, &look.extents, &what)?;
        ensure!(look.suspect.is_empty(), "{what}: {:?}", look.suspect);
        tracked.case(&format!("{what}, afterwards"), || {
            churn(device.path(), &mut random, 60).map(|_| tests::workload::Outcome::Done)
        })?;
    }
    tracked.finish()
}

#[test]
fn a_partition_grows_and_shrinks_beside_its_tracked_disk() -> Result<()> {
    const NAME: &str = "resize::a_partition_grows_and_shrinks_beside_its_tracked_disk";
    skip_if!(host::no_tracking(), NAME);
    let scratch = Scratch::new("resize-part")?;
    let mut random = Random::for_test(NAME);
    let disk = Loop::new(&scratch, "disk", 64 << 20)?;
    fill(disk.path(), &mut random)?;
    let parts = disk.partition("label: dos\nstart=2048, size=30001\n")?;
    let home = Home::new(&scratch)?;
    let mut whole = Tracked::start(&home, disk.path(), 4096)?;
    let mut part = Tracked::start(&home, &parts[0], 4096)?;
    for sectors in [70_000u64, 16_385, 100_001] {
        let what = format!("partition of {sectors} sectors");
        for tracked in [&mut whole, &mut part] {
            let start = tracked.cut()?;
            tracked.retire(start.epoch)?;
        }
        let before = (Image::of(disk.path())?, Image::of(&parts[0])?);
        let mut there = random.fork();
        under_load(disk.path(), &mut random, || {
            under_load(&parts[0], &mut there, || {
                let (device, count) = (disk.path().as_os_str(), sectors.to_string());
                host::run("resizepart", [device, "1".as_ref(), count.as_ref()]).map(|_| ())
            })
            .map(|_| ())
        })?;
        let after = (Image::of(disk.path())?, Image::of(&parts[0])?);
        ensure!(after.1.size() == sectors * 512, "{what}: it has {} bytes", after.1.size());
        for (tracked, before, after, whose) in
            [(&mut whole, &before.0, &after.0, "its disk"), (&mut part, &before.1, &after.1, "itself")]
        {
            tracked.reopen()?;
            let cut = tracked.cut()?;
            ensure!(cut.suspect.is_empty(), "{what}: {whose}: {:?}", cut.suspect);
            ensure_listed(before, after, &tracked.look()?.extents, &format!("{what}: {whose}"))?;
        }
    }
    part.finish()?;
    whole.finish()
}

/// A partition shrinks and grows back and nobody looks in between: what was written in its place meanwhile, through the
/// disk, was seen.
#[test]
fn a_partition_that_shrank_and_grew_back_lost_nothing() -> Result<()> {
    const NAME: &str = "resize::a_partition_that_shrank_and_grew_back_lost_nothing";
    skip_if!(host::no_tracking(), NAME);
    let scratch = Scratch::new("resize-back")?;
    let mut random = Random::for_test(NAME);
    let disk = Loop::new(&scratch, "disk", 64 << 20)?;
    fill(disk.path(), &mut random)?;
    let parts = disk.partition("label: dos\nstart=2048, size=60000\n")?;
    let mut part = Tracked::start(&Home::new(&scratch)?, &parts[0], 4096)?;
    let start = part.cut()?;
    part.retire(start.epoch)?;
    let before = Image::of(&parts[0])?;
    for sectors in ["20000", "60000"] {
        host::run("resizepart", [disk.path().as_os_str(), "1".as_ref(), sectors.as_ref()])?;
        churn(disk.path(), &mut random, 200)?;
    }
    let after = Image::of(&parts[0])?;
    let cut = part.cut()?;
    ensure!(cut.suspect.is_empty(), "{:?}", cut.suspect);
    ensure_listed(&before, &after, &cut.extents, "shrunk and grown back")?;
    ensure!(
        before.difference(&after).iter().any(|e| e.offset > 20_000 * 512),
        "nothing was written behind it"
    );
    part.finish()
}

/// Killed at every step of taking the new size over; what was pending before is still listed.
#[test]
fn killed_while_a_new_size_is_taken_over() -> Result<()> {
    const NAME: &str = "resize::killed_while_a_new_size_is_taken_over";
    skip_if!(host::no_tracking(), NAME);
    let scratch = Scratch::new("resize-kill")?;
    let mut random = Random::for_test(NAME);
    let device = Loop::new(&scratch, "disk", 18 << 20)?;
    fill(device.path(), &mut random)?;
    device.resize(10 << 20)?;
    let care = Protected::new(&scratch, device.path())?;
    care.backup(&[])?;
    let names =
        failpoints()?.into_iter().filter(|n| n.starts_with("epoch.resize.") || n.ends_with("after-seal"));
    for (name, size) in names.flat_map(|n| [(n.clone(), 18u64 << 20), (n, 9 << 20)]) {
        let before = Image::of(device.path())?;
        churn(device.path(), &mut random, 10)?;
        device.resize(size)?;
        churn(device.path(), &mut random, 10)?;
        let ended = care.home.run_failing(&name, care.backup_words(&[]))?;
        ensure!(ended.signal == Some(9), "{name} was not reached: {ended}");
        churn(device.path(), &mut random, 10)?;
        let (listed, suspect) = care.diff()?;
        let after = Image::of(device.path())?;
        ensure_listed(&before, &after, &listed, &format!("{name}, {size} bytes"))?;
        ensure!(suspect.is_empty(), "{name}: {suspect:?}");
        let point = care.backup(&[])?;
        ensure!(point.code == 0 && point.kind() == "full", "{name}: {}", point.json);
        care.ensure_restores_to(&point.id, &after, &name)?;
        churn(device.path(), &mut random, 10)?;
        let now = Image::of(device.path())?;
        let point = care.incremental()?;
        care.ensure_restores_to(&point.id, &now, &format!("{name}, the incremental after it"))?;
    }
    Ok(())
}
