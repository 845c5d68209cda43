//! Promise: a restore leaves the target exactly as the point, whatever was there before.

use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::time::{Duration, Instant};
use tests::device::{Loop, O_DIRECT, open_with, put};
use tests::image::{Aligned, Image, fill};
use tests::product::Ended;
use tests::protected::{Protected, ensure_same};
use tests::random::Random;
use tests::scratch::Scratch;
use tests::workload::churn;
use tests::{host, skip_if};

use std::os::unix::fs::FileExt;

/// A device with large holes and two points; what each should restore to.
fn protected<'a>(
    scratch: &'a Scratch,
    device: &Loop,
    random: &mut Random,
) -> Result<(Protected<'a>, Vec<(String, Image)>)> {
    let file = open_with(device.path(), O_DIRECT)?;
    file.write_all_at(&Aligned::random(3 << 20, random), 5 << 20)?;
    let care = Protected::new(scratch, device.path())?;
    let mut points = vec![(care.backup(&[])?.id, Image::of(device.path())?)];
    // an increment that only takes away: zeros must come back as zeros
    file.write_all_at(&Aligned::new(1 << 20), 6 << 20)?;
    churn(device.path(), random, 10)?;
    points.push((care.incremental()?.id, Image::of(device.path())?));
    Ok((care, points))
}

/// The first bytes of `target`, as many as `wanted` has, are `wanted`.
fn ensure_holds(target: &Path, wanted: &Image, what: &str) -> Result<()> {
    let got = Image::of(target)?;
    let got = Image::from_bytes(&got.bytes()[..wanted.bytes().len()]);
    ensure_same(&got, wanted, what)
}

#[test]
fn onto_a_device_full_of_other_data() -> Result<()> {
    const NAME: &str = "restore::onto_a_device_full_of_other_data";
    skip_if!(host::no_tracking(), NAME);
    let scratch = Scratch::new("onto")?;
    let mut random = Random::for_test(NAME);
    let device = Loop::new(&scratch, "disk", 512 * 40_009)?;
    let (care, points) = protected(&scratch, &device, &mut random)?;
    for (name, size, sector) in
        [("same", 512 * 40_009, 512), ("larger", 24 << 20, 512), ("4kn", 24 << 20, 4096)]
    {
        let target = Loop::with_sector(&scratch, name, size, sector)?;
        for (id, wanted) in &points {
            fill(target.path(), &mut random)?;
            let ended = care.restore(id, target.path())?;
            if sector == 4096 && ended.code != Some(0) {
                // refusing is right too: the point's end is no multiple of the target's sector
                ensure!(!ended.err.is_empty() && matches!(ended.code, Some(1 | 2)), "{name}: {ended}");
                continue;
            }
            ended.expect(0, name)?;
            ensure_holds(target.path(), wanted, name)?;
        }
    }
    Ok(())
}

#[test]
fn over_a_file_full_of_other_data() -> Result<()> {
    const NAME: &str = "restore::over_a_file_full_of_other_data";
    skip_if!(host::no_tracking(), NAME);
    let scratch = Scratch::new("over")?;
    let mut random = Random::for_test(NAME);
    let device = Loop::new(&scratch, "disk", 512 * 40_009)?;
    let (care, points) = protected(&scratch, &device, &mut random)?;
    let repo = care.repo.display().to_string();
    for (id, wanted) in &points {
        for length in [0, 4096, 30 << 20] {
            for layout in ["--sparse=always", "--sparse=never"] {
                let target = scratch.fresh("target");
                put(&target, &random.bytes(length))?;
                let file = target.display().to_string();
                let words =
                    ["restore", "--repo", &repo, "--point", id, layout, "--overwrite", "--verify", &file];
                care.home.run(words)?.expect(0, layout)?;
                ensure_same(&Image::of_file(&target)?, wanted, &format!("{layout} over {length} bytes"))?;
                std::fs::remove_file(target)?;
            }
        }
    }
    Ok(())
}

/// The source itself, still tracked: only what differs is written, and the next increment holds just that.
#[test]
fn onto_the_same_device_only_what_differs() -> Result<()> {
    const NAME: &str = "restore::onto_the_same_device_only_what_differs";
    skip_if!(host::no_tracking(), NAME);
    let scratch = Scratch::new("same")?;
    let mut random = Random::for_test(NAME);
    let device = Loop::new(&scratch, "disk", 512 * 40_009)?;
    let (care, points) = protected(&scratch, &device, &mut random)?;
    let (repo, path) = (care.repo.display().to_string(), device.path().display().to_string());
    for (id, wanted) in points.iter().rev() {
        churn(device.path(), &mut random, 5)?;
        let differs = Image::of(device.path())?.difference(wanted).total();
        let words = ["restore", "--repo", &repo, "--point", id, &path, "--to-same-device", "--verify"];
        let done = care.home.json(words)?;
        ensure_holds(device.path(), wanted, "same device")?;
        ensure!(
            done["written"] == differs && done["compared"] == wanted.size(),
            "{differs} differed: {done}"
        );
        ensure!(care.diff()?.0.total() >= differs, "what a restore writes is a change like any other");
        let point = care.incremental()?;
        care.ensure_restores_to(&point.id, wanted, "the point after a restore")?;
    }
    Ok(())
}

/// A part with odd ends onto a device full of other data, of 512 and of 4096 bytes per block: nothing beside it.
#[test]
fn a_range_of_a_device_and_nothing_beside_it() -> Result<()> {
    const NAME: &str = "restore::a_range_of_a_device_and_nothing_beside_it";
    skip_if!(host::no_tracking(), NAME);
    let scratch = Scratch::new("range")?;
    let mut random = Random::for_test(NAME);
    let device = Loop::new(&scratch, "disk", 20 << 20)?;
    let (care, points) = protected(&scratch, &device, &mut random)?;
    let repo = care.repo.display().to_string();
    for sector in [512, 4096] {
        let target = Loop::with_sector(&scratch, &format!("t{sector}"), 20 << 20, sector)?;
        let path = target.path().display().to_string();
        for (id, wanted) in &points {
            fill(target.path(), &mut random)?;
            let mut all = Image::of(target.path())?;
            let from = random.below(20 << 20) as usize;
            let to = (from + 1 + random.below(9 << 20) as usize).min(20 << 20);
            all.bytes_mut()[from..to].copy_from_slice(&wanted.bytes()[from..to]);
            let range = format!("{from}..{to}");
            let words = ["restore", "--repo", &repo, "--point", id, &path, "--range", &range, "--verify"];
            let ended = care.home.run(words)?.expect(0, &range)?;
            // museum M22: a partition table speaks of the blocks it was written for
            let said = ended.err.contains("logical blocks of 4096 bytes, the source had 512");
            ensure!(said == (sector == 4096), "another block size: {ended}");
            ensure_holds(target.path(), &all, &range)?;
        }
    }
    Ok(())
}

/// A segment is gone: what it held is named, and on a device it stays as it was.
#[test]
fn what_is_lost_is_untouched_on_a_device() -> Result<()> {
    const NAME: &str = "restore::what_is_lost_is_untouched_on_a_device";
    skip_if!(host::no_tracking(), NAME);
    let scratch = Scratch::new("lost")?;
    let mut random = Random::for_test(NAME);
    let device = Loop::new(&scratch, "disk", 20 << 20)?;
    let (care, points) = protected(&scratch, &device, &mut random)?;
    let segments = tests::fault::files_below(&care.repo.join("seg"))?;
    std::fs::remove_file(&segments[random.below(segments.len() as u64) as usize])?;
    let target = Loop::new(&scratch, "target", 20 << 20)?;
    fill(target.path(), &mut random)?;
    let before = Image::of(target.path())?;
    let (repo, path) = (care.repo.display().to_string(), target.path().display().to_string());
    let (id, wanted) = &points[1];
    ensure!(care.restore(id, target.path())?.code == Some(3), "a restore without a segment");
    let words = ["restore", "--repo", &repo, "--point", id, &path, "--partial", "--verify", "--json"];
    let ended = care.home.run(words)?.expect(3, "partial")?;
    let done: serde_json::Value = serde_json::from_str(&ended.out)?;
    let after = Image::of(target.path())?;
    let mut right = Image::from_bytes(wanted.bytes());
    let lost = done["lost"].as_array().filter(|lost| !lost.is_empty()).with_context(|| format!("{done}"))?;
    for extent in lost {
        let at = |key: &str| extent[key].as_u64().map(|n| n as usize).context("lost extent");
        let range = at("offset")?..at("offset")? + at("length")?;
        right.bytes_mut()[range.clone()].copy_from_slice(&before.bytes()[range]);
    }
    ensure_same(&after, &right, "what is not lost is the point's, what is lost is as it was")
}

#[test]
fn what_watch_made_until_it_was_interrupted() -> Result<()> {
    const NAME: &str = "restore::what_watch_made_until_it_was_interrupted";
    skip_if!(host::no_tracking(), NAME);
    let scratch = Scratch::new("watch")?;
    let mut random = Random::for_test(NAME);
    let device = Loop::new(&scratch, "disk", 16 << 20)?;
    fill(device.path(), &mut random)?;
    let care = Protected::new(&scratch, device.path())?;
    let repo = care.repo.display().to_string();
    let words = ["watch", &device.path().display().to_string(), "--repo", &repo, "--every", "300ms"];
    let mut command = care.home.command(words)?;
    let child = command.spawn()?;
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(3) {
        churn(device.path(), &mut random, 5)?;
        std::thread::sleep(Duration::from_millis(50));
    }
    host::run("kill", ["-INT".to_string(), child.id().to_string()])?;
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.code() == Some(0), "watch: {}: {said}", output.status);
    let lines = said.lines().count();
    ensure!(lines >= 3, "watch printed {lines} lines: {said}");
    Ended::of(&mut care.home.command(["check", "--repo", &repo, "--read-data"])?)?.expect(0, "check")?;
    let now = Image::of(device.path())?;
    let last = care.incremental()?;
    care.ensure_restores_to(&last.id, &now, "after watch")
}
