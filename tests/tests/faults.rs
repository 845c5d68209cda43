//! Promise: whatever fails or dies during a backup, nothing is lost: the old points stay, the next point is complete.

use anyhow::{Context, Result, ensure};
use collector::block::Granularity;
use collector::tracker::Places;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;
use tests::device::{Loop, Mounted, O_DIRECT, Zram, open_with, put};
use tests::fault::{failpoints, on_the_way_of_a_backup};
use tests::files::{self, KINDS};
use tests::image::{Aligned, Image, fill};
use tests::protected::{Protected, ensure_same};
use tests::random::Random;
use tests::scratch::Scratch;
use tests::workload::churn;
use tests::{host, skip_if};

/// M13: at every failpoint of the program the copier dies, or the step fails; then all is well again.
#[test]
fn m13_the_copier_dies_at_every_step() -> Result<()> {
    const NAME: &str = "faults::m13_the_copier_dies_at_every_step";
    skip_if!(host::no_tracking(), NAME);
    let scratch = Scratch::new("m13")?;
    let mut random = Random::for_test(NAME);
    let device = Loop::new(&scratch, "disk", 12 << 20)?;
    fill(device.path(), &mut random)?;
    let care = Protected::new(&scratch, device.path())?;
    dies_at_every_step(NAME, &care, &["repo.parity."], &mut random)
}

/// The same into an encrypted repository with parity, which is made after the point.
#[test]
fn the_copier_dies_at_every_step_of_an_encrypted_backup() -> Result<()> {
    const NAME: &str = "faults::the_copier_dies_at_every_step_of_an_encrypted_backup";
    skip_if!(host::no_tracking(), NAME);
    let scratch = Scratch::new("m13-sealed")?;
    let mut random = Random::for_test(NAME);
    let device = Loop::new(&scratch, "disk", 12 << 20)?;
    fill(device.path(), &mut random)?;
    let mut care = Protected::new(&scratch, device.path())?;
    let key = scratch.fresh("owner");
    let key = key.to_str().context("path")?;
    let public = care.home.ok(["key", "generate", key])?;
    let repo = care.repo.to_str().context("path")?;
    care.home.ok(["init", repo, "--recipient", public.trim(), "--parity", "34%"])?;
    care.home.set("BLKDELTA_KEY_FILE", key);
    dies_at_every_step(NAME, &care, &[], &mut random)
}

fn dies_at_every_step(name: &str, care: &Protected<'_>, but: &[&str], random: &mut Random) -> Result<()> {
    care.backup(&[])?;
    let names = on_the_way_of_a_backup(but)?;
    let mut never = names.clone();
    for name in &names {
        let kill = (format!("{name}=kill"), format!("{name}=error"), format!("{name}=kill@2"));
        for (arm, more) in [(&kill.0, &[][..]), (&kill.0, &["--full"]), (&kill.1, &[]), (&kill.2, &[])] {
            if one_death(care, arm, more, random)? {
                never.retain(|n| n != name);
            }
        }
    }
    care.ensure_sound()?;
    host::say(&format!("{name}: {} failpoints; not on the path of a backup: {never:?}", names.len()));
    ensure!(never.len() < names.len() / 2, "most failpoints were never reached: {never:?}");
    ensure!(!never.iter().any(|name| name.starts_with("repo.parity.")), "parity was never made: {never:?}");
    Ok(())
}

/// Changes the device, lets one backup die, and proves that the next one is complete, and the one that died too
/// if it left a point. Whether it did die.
fn one_death(care: &Protected<'_>, arm: &str, more: &[&str], random: &mut Random) -> Result<bool> {
    let points = care.points()?;
    churn(&care.device, random, 10)?;
    let then = Image::of(&care.device)?;
    let ended = care.home.run_failing(arm, care.backup_words(more))?;
    let hit = ended.signal == Some(9) || ended.err.contains("failpoint");
    ensure!(hit || ended.code == Some(0), "{arm}: neither hit nor done: {ended}");
    ensure!(ended.code != Some(101), "{arm}: panic: {ended}");
    for left in care.points()?.iter().filter(|id| !points.contains(id)) {
        care.ensure_restores_to(left, &then, &format!("the point left by {arm} {more:?}"))?;
    }
    churn(&care.device, random, 5)?;
    let now = Image::of(&care.device)?;
    let point = care.backup(&[]).with_context(|| format!("the backup after {arm}"))?;
    care.ensure_restores_to(&point.id, &now, &format!("after {arm} {more:?} ({ended})"))?;
    Ok(hit)
}

/// The copier is killed at random moments while writers go on.
#[test]
fn killed_at_any_moment_under_load() -> Result<()> {
    const NAME: &str = "faults::killed_at_any_moment_under_load";
    skip_if!(host::no_tracking(), NAME);
    let scratch = Scratch::new("kill")?;
    let mut random = Random::for_test(NAME);
    let device = Loop::new(&scratch, "disk", 48 << 20)?;
    fill(device.path(), &mut random)?;
    let care = Protected::new(&scratch, device.path())?;
    care.backup(&[])?;
    let mut killed = 0;
    for _ in 0..12 {
        let mut child = care.home.start(care.backup_words(&[]))?;
        let wait = Duration::from_micros(random.below(150_000));
        std::thread::scope(|scope| {
            let (mut random, device) = (random.fork(), &care.device);
            let writer = scope.spawn(move || churn(device, &mut random, 40));
            std::thread::sleep(wait);
            let _ = child.kill();
            writer.join().expect("the writer panicked")
        })?;
        killed += u32::from(!child.wait()?.success());
    }
    let now = Image::of(device.path())?;
    let point = care.backup(&[])?;
    host::say(&format!("{NAME}: {killed} of 12 killed"));
    care.ensure_restores_to(&point.id, &now, "after kills at random moments")
}

/// `track` and `untrack` are killed at random moments: the next `track` works, and what it tracks is complete.
#[test]
fn track_and_untrack_killed_midway() -> Result<()> {
    const NAME: &str = "faults::track_and_untrack_killed_midway";
    skip_if!(host::no_tracking(), NAME);
    let scratch = Scratch::new("half")?;
    let mut random = Random::for_test(NAME);
    let device = Loop::new(&scratch, "disk", 8 << 20)?;
    fill(device.path(), &mut random)?;
    let care = Protected::new(&scratch, device.path())?;
    let mut killed = 0;
    for n in 0..16 {
        for verb in ["untrack", "track"] {
            let mut child = care.home.start([verb.as_ref(), device.path().as_os_str()])?;
            std::thread::sleep(Duration::from_micros(random.below(1 << (10 + n % 10))));
            let _ = child.kill();
            killed += u32::from(child.wait()?.code().is_none());
        }
        let _ = care.home.run(["untrack".as_ref(), device.path().as_os_str()]);
        care.home
            .ok(["track".as_ref(), device.path().as_os_str()])
            .with_context(|| format!("after {killed} kills"))?;
        if n % 4 == 3 {
            care.backup(&[])?;
            churn(device.path(), &mut random, 10)?;
            let now = Image::of(device.path())?;
            let point = care.incremental()?;
            care.ensure_restores_to(&point.id, &now, "tracked after kills")?;
        }
    }
    host::say(&format!("{NAME}: {killed} of 32 killed"));
    Ok(())
}

/// A kind of device that needs more programs is added, and `track` dies when these are attached: the next `track` works,
/// and no program counts twice.
#[test]
fn killed_while_programs_are_added() -> Result<()> {
    const NAME: &str = "faults::killed_while_programs_are_added";
    skip_if!(host::no_tracking(), NAME);
    let scratch = Scratch::new("added")?;
    let mut random = Random::for_test(NAME);
    let device = Loop::new(&scratch, "disk", 4 << 20)?;
    let zram = Zram::new(8 << 20);
    skip_if!(zram.as_ref().err().map(|e| format!("{e:#}")), NAME);
    let zram = zram?;
    let first = Protected::new(&scratch, device.path())?;
    let ended =
        first.home.run_failing("track.after-load=kill", ["track".as_ref(), zram.path().as_os_str()])?;
    ensure!(ended.signal == Some(9), "not killed: {ended}");
    let places = Places::under(first.home.path());
    let granularity = Granularity::default();
    let state = collector::tracker::track(&places, &zram.path(), granularity).context("track after that")?;
    let file = open_with(&zram.path(), O_DIRECT)?;
    for n in 0..20 {
        file.write_all_at(&Aligned::random(4096, &mut random), n << 12)?;
    }
    let reading = collector::diff::look(&places, &zram.path())?.reading;
    let ours = reading.counters[0].submitted_sectors - state.baseline.counters[0].submitted_sectors;
    ensure!(ours == 20 * 8, "{ours} sectors counted, 160 written");
    collector::tracker::untrack(&places, &zram.path()).map(drop).context("untrack")
}

/// Two backups of a device at once: one waits or is refused, and nothing is damaged.
#[test]
fn two_backups_at_once() -> Result<()> {
    skip_if!(host::no_tracking(), "faults::two_backups_at_once");
    let scratch = Scratch::new("two")?;
    let mut random = Random::for_test("faults::two_backups_at_once");
    let device = Loop::new(&scratch, "disk", 24 << 20)?;
    fill(device.path(), &mut random)?;
    let care = Protected::new(&scratch, device.path())?;
    for round in 0..4 {
        churn(device.path(), &mut random, 30)?;
        let children: Vec<_> =
            (0..3).map(|_| care.home.start(care.backup_words(&[]))).collect::<Result<_>>()?;
        let mut done = 0;
        for child in children {
            let output = child.wait_with_output()?;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            ensure!(matches!(output.status.code(), Some(0 | 1)), "round {round}: {}: {said}", output.status);
            done += u32::from(output.status.success());
        }
        ensure!(done > 0, "round {round}: three backups at once, and none was made");
        let now = Image::of(device.path())?;
        care.ensure_restores_to("latest", &now, &format!("round {round}, {done} of 3 made"))?;
    }
    care.ensure_sound()
}

/// M25: the copier is killed while the file system is frozen. It must thaw all the same.
#[test]
fn m25_killed_while_frozen() -> Result<()> {
    const NAME: &str = "faults::m25_killed_while_frozen";
    skip_if!(host::no_tracking(), NAME);
    skip_if!(host::no_filesystem("ext4"), NAME);
    let scratch = Scratch::new("m25")?;
    let mut random = Random::for_test(NAME);
    let device = Loop::new(&scratch, "disk", 64 << 20)?;
    KINDS[0].make(device.path())?;
    let mounted = Mounted::new(&scratch, device.path(), "")?;
    let care = Protected::new(&scratch, device.path())?;
    care.backup(&[])?;
    let frozen: Vec<String> =
        failpoints()?.into_iter().filter(|n| n.contains("frozen") || n.contains("thaw")).collect();
    ensure!(frozen.len() > 1, "no failpoint in the frozen part of a backup");
    for name in frozen {
        files::churn(&mounted.point().join("a"), &mut random, 50)?;
        let words = match name.starts_with("group.") {
            true => group_words(&care, mounted.point()),
            false => care.backup_words(&[]),
        };
        let ended = care.home.run_failing(&name, words)?;
        ensure!(ended.signal == Some(9), "{name} was not reached: {ended}");
        let thawed = writes_within(mounted.point(), Duration::from_secs(20));
        if thawed.is_err() {
            let _ = host::run("fsfreeze", ["-u".as_ref(), mounted.point().as_os_str()]);
        }
        thawed.with_context(|| format!("{name}: still frozen after the copier was killed"))?;
    }
    care.incremental().map(|_| ())
}

/// A backup of all files below `folder` as a group.
fn group_words(care: &Protected<'_>, folder: &std::path::Path) -> Vec<String> {
    let (folder, repo) = (folder.display().to_string(), care.repo.display().to_string());
    let words = ["group", "backup", "--name", "m25", "--path", &folder, "--repo", &repo];
    words.map(ToOwned::to_owned).to_vec()
}

/// A file can be written and made durable within `limit`.
fn writes_within(folder: &Path, limit: Duration) -> Result<()> {
    let (done, wait) = mpsc::channel();
    let path = folder.join("alive");
    std::thread::spawn(move || {
        let result = put(&path, b"alive").and_then(|()| Ok(std::fs::File::open(&path)?.sync_all()?));
        // nobody waits any more if this took too long
        let _ = done.send(result);
    });
    wait.recv_timeout(limit).context("no write got through")?
}

/// A read error fails the backup and names the place; the difference is kept.
#[test]
fn a_read_error_is_never_a_skip() -> Result<()> {
    skip_if!(host::no_tracking(), "faults::a_read_error_is_never_a_skip");
    let scratch = Scratch::new("eio")?;
    let mut random = Random::for_test("faults::a_read_error_is_never_a_skip");
    let device = Loop::new(&scratch, "disk", 16 << 20)?;
    fill(device.path(), &mut random)?;
    let care = Protected::new(&scratch, device.path())?;
    care.backup(&[])?;
    let file = open_with(device.path(), O_DIRECT)?;
    file.write_all_at(&Aligned::random(1 << 20, &mut random), 12 << 20)?;
    let saved = Image::of(device.path())?;
    // a loop device whose backing file is shorter answers reads beyond it with EIO
    let backing = std::fs::OpenOptions::new().write(true).open(device.backing())?;
    backing.set_len(12 << 20)?;
    let ended = care.home.run(care.backup_words(&[]))?;
    ensure!(ended.code == Some(1), "wanted a failure: {ended}");
    ensure!(
        ended.err.contains("1258") || ended.err.contains("12 MiB") || ended.err.contains("0x"),
        "names no place: {ended}"
    );
    backing.set_len(16 << 20)?;
    backing.write_all_at(&saved.bytes()[12 << 20..], 12 << 20)?;
    let point = care.incremental()?;
    care.ensure_restores_to(&point.id, &saved, "after the read error went away")
}

/// A full store fails the backup, leaves no point, and the next one with room is complete.
#[test]
fn a_full_store_loses_nothing() -> Result<()> {
    skip_if!(host::no_tracking(), "faults::a_full_store_loses_nothing");
    let scratch = Scratch::new("full")?;
    let mut random = Random::for_test("faults::a_full_store_loses_nothing");
    let device = Loop::new(&scratch, "disk", 24 << 20)?;
    fill(device.path(), &mut random)?;
    let small = scratch.path().join("small");
    std::fs::create_dir(&small)?;
    host::run("mount", ["-t", "tmpfs", "-o", "size=30m", "tmpfs", &small.display().to_string()])?;
    let mut care = Protected::new(&scratch, device.path())?;
    care.repo = small.join("repo");
    let full = care.backup(&[])?;
    let old = Image::of(device.path())?;
    open_with(device.path(), O_DIRECT)?.write_all_at(&Aligned::random(20 << 20, &mut random), 0)?;
    let now = Image::of(device.path())?;
    let ended = care.home.run(care.backup_words(&[]))?;
    ensure!(ended.code == Some(1), "wanted a failure: {ended}");
    host::run("mount", ["-o", "remount,size=90m", &small.display().to_string()])?;
    let point = care.incremental()?;
    ensure_same(&care.restored(&point.id)?, &now, "after room was made")?;
    ensure_same(&care.restored(&full.id)?, &old, "the point from before")
}
