//! Promise: a restore leaves the target exactly as the point, whatever was there before.

use anyhow::{Result, ensure};
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
