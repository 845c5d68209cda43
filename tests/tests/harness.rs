//! The harness keeps its own promises: the oracle can fail, ways of writing do write, nothing is left behind.

use anyhow::{Result, ensure};
use collector::block::{BLOCK, Extent, ExtentSet};
use std::path::{Path, PathBuf};
use tests::device::{Loop, Mounted, Zram, size_of};
use tests::files::{self, KINDS};
use tests::image::{Image, fill};
use tests::oracle::judge;
use tests::random::Random;
use tests::scratch::{Scratch, sweep, teardown};
use tests::workload::{Outcome, WAYS, WAYS_NEED, churn};
use tests::{host, skip_if};

#[test]
fn the_oracle_fails_on_a_lossy_list() -> Result<()> {
    skip_if!(host::no_devices(), "harness::the_oracle_fails_on_a_lossy_list");
    let scratch = Scratch::new("lossy")?;
    let mut random = Random::for_test("harness::lossy");
    let device = Loop::new(&scratch, "a", 65_537 * 512)?;
    fill(device.path(), &mut random)?;
    let before = Image::of(device.path())?;
    churn(device.path(), &mut random, 200)?;
    let after = Image::of(device.path())?;
    let changed = before.difference(&after);
    ensure!(changed.len() > 50, "the churn changed too little: {}", changed.len());
    judge(&before, &after, &changed).ensure_complete("the true list")?;
    let whole = judge(&before, &after, &ExtentSet::whole(before.size()));
    whole.ensure_complete("everything listed")?;
    ensure!(whole.over_report() > 1.0, "an all-dirty list must show as over-report: {whole}");
    // each single block left out of the list must be noticed
    for lost in blocks(&changed).step_by(5).take(200) {
        let hole: ExtentSet = [lost].into_iter().collect();
        let verdict = judge(&before, &after, &changed.subtract(&hole));
        ensure!(verdict.missed == hole, "lost {lost:?}, the oracle found {:?}", verdict.missed);
        ensure!(verdict.ensure_complete("lossy").is_err());
    }
    let beyond: ExtentSet = [Extent::new(0, before.size() + BLOCK)].into_iter().collect();
    ensure!(judge(&before, &after, &beyond).ensure_complete("beyond").is_err());
    Ok(())
}

fn blocks(set: &ExtentSet) -> impl Iterator<Item = Extent> {
    set.iter().flat_map(|e| {
        (e.offset..e.end()).step_by(BLOCK as usize).map(|at| Extent::between(at, (at + BLOCK).min(e.end())))
    })
}

#[test]
fn every_way_of_writing_changes_the_device() -> Result<()> {
    skip_if!(host::no_devices(), "harness::every_way_of_writing_changes_the_device");
    let scratch = Scratch::new("ways")?;
    let mut random = Random::for_test("harness::ways");
    let device = Loop::new(&scratch, "a", WAYS_NEED)?;
    ensure!(size_of(device.path())? == WAYS_NEED);
    fill(device.path(), &mut random)?;
    let mut before = Image::of(device.path())?;
    for way in WAYS {
        if let Outcome::Unsupported(why) = (way.run)(device.path(), &mut random)? {
            host::skipped(&format!("way of writing: {}", way.name), &why);
            continue;
        }
        let after = Image::of(device.path())?;
        ensure!(!before.difference(&after).is_empty(), "{}: nothing changed", way.name);
        before = after;
    }
    Ok(())
}

#[test]
fn churn_reaches_the_end_of_odd_devices() -> Result<()> {
    skip_if!(host::no_devices(), "harness::churn_reaches_the_end_of_odd_devices");
    let scratch = Scratch::new("odd")?;
    let mut random = Random::for_test("harness::odd");
    for (name, size, sector) in [("prime", 512 * 65_537, 512), ("4kn", 4096 * 8191, 4096)] {
        let device = Loop::with_sector(&scratch, name, size, sector)?;
        fill(device.path(), &mut random)?;
        let before = Image::of(device.path())?;
        ensure!(before.size() == size, "{name}: {} bytes", before.size());
        churn(device.path(), &mut random, 300)?;
        let changed = before.difference(&Image::of(device.path())?);
        ensure!(changed.iter().last().is_some_and(|e| e.end() == size), "{name}: the end was not written");
    }
    Ok(())
}

#[test]
fn file_systems_partitions_and_zram_are_made_and_used() -> Result<()> {
    skip_if!(host::no_devices(), "harness::file_systems_partitions_and_zram_are_made_and_used");
    let scratch = Scratch::new("fs")?;
    let mut random = Random::for_test("harness::fs");
    let disk = Loop::new(&scratch, "disk", 400 << 20)?;
    let parts = disk.partition("label: gpt\nstart=2048, size=4096\nstart=8192\n")?;
    ensure!(size_of(&parts[0])? == 2 << 20);
    for kind in KINDS {
        skip_if!(host::no_filesystem(kind.name), "harness::file_systems (the rest)");
        kind.make(&parts[1])?;
        let mounted = Mounted::new(&scratch, &parts[1], kind.mount)?;
        files::churn(mounted.point(), &mut random, 200)?;
        files::trim(mounted.point())?;
        mounted.unmount()?;
        kind.check(&parts[1])?;
    }
    match Zram::new(16 << 20) {
        Ok(zram) => {
            churn(&zram.path(), &mut random, 50)?;
        }
        Err(e) => host::skipped("harness::zram", &format!("{e:#}")),
    }
    Ok(())
}

#[test]
fn what_a_killed_run_left_is_removed() -> Result<()> {
    skip_if!(host::no_devices(), "harness::what_a_killed_run_left_is_removed");
    let scratch = Scratch::new("killed")?;
    // the folder of a process that cannot exist: pid_max is at most 2^22
    let dead = scratch.path().with_file_name(format!("blkdelta-test-{}-0-dead", 0x7fff_ffff));
    std::fs::create_dir(&dead)?;
    let left = leave_behind(&scratch, &dead)?;
    sweep();
    ensure!(!dead.exists(), "the folder is still there");
    for device in left {
        let attached = Path::new("/sys/class/block").join(device.file_name().expect("node"));
        ensure!(!attached.join("loop/backing_file").exists(), "{} is still attached", device.display());
    }
    teardown(&dead)
}

/// A disk with a mounted partition, a loop device on its other partition, and a bpffs, without guards.
fn leave_behind(scratch: &Scratch, dead: &Path) -> Result<Vec<PathBuf>> {
    let image = dead.join("disk.img");
    std::fs::File::create(&image)?.set_len(96 << 20)?;
    let disk = Loop::on(&image, &[])?;
    let parts = disk.partition("label: dos\nstart=2048, size=40960\nstart=65536\n")?;
    let stacked = Loop::on(&parts[0], &[])?;
    KINDS[0].make(&parts[1])?;
    let mounted = Mounted::new(scratch, &parts[1], "")?;
    let bpf = dead.join("bpf");
    std::fs::create_dir(&bpf)?;
    host::run("mount", ["-t".as_ref(), "bpf".as_ref(), "bpf".as_ref(), bpf.as_os_str()])?;
    let left = vec![stacked.path().to_path_buf(), disk.path().to_path_buf()];
    std::mem::forget((disk, stacked, mounted));
    Ok(left)
}
