//! Promise: an audit finds what the difference list kept quiet, and never raises a false alarm.
//!
//! What the tracker cannot see is made by writing to a loop device's backing file. What must stay without an alarm
//! is heavy writing of every kind, on a bare device and through file systems, while backups come and go.

use anyhow::{Context, Result, ensure};
use collector::block::{Extent, ExtentSet};
use serde_json::Value;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tests::device::{Loop, Mounted, O_DIRECT, open_with, size_of};
use tests::files::{self, KINDS};
use tests::image::{Aligned, Image, fill};
use tests::protected::Protected;
use tests::random::Random;
use tests::scratch::Scratch;
use tests::workload::{churn, discard, zero_out};
use tests::{host, skip_if};

/// Runs an audit; its exit code and what it printed.
fn audit(care: &Protected<'_>, more: &[&str]) -> Result<(i32, Value)> {
    let (device, repo) = (care.device.display().to_string(), care.repo.display().to_string());
    let words = [&["audit", &device, "--repo", &repo, "--json"], more].concat();
    let ended = care.home.run(&words)?;
    let code = ended.code.with_context(|| format!("audit: {ended}"))?;
    ensure!(matches!(code, 0 | 3), "audit {more:?}: {ended}");
    Ok((code, serde_json::from_str(&ended.out).with_context(|| format!("audit printed {:?}", ended.out))?))
}

fn mismatches(report: &Value) -> Result<ExtentSet> {
    Ok(serde_json::from_value::<Vec<Extent>>(report["mismatches"].clone())?.into_iter().collect())
}

/// An error unless an audit of everything finds nothing and compared something.
fn ensure_clean(care: &Protected<'_>, what: &str) -> Result<u64> {
    let (code, report) = audit(care, &["--all"])?;
    ensure!(code == 0 && mismatches(&report)?.is_empty(), "{what}: FALSE ALARM: {report}");
    report["compared_bytes"].as_u64().context("compared_bytes")
}

/// Changes a block without the block layer of the device.
fn tamper(device: &Loop, at: u64, bytes: &[u8]) -> Result<()> {
    let file = OpenOptions::new().write(true).open(device.backing())?;
    file.write_all_at(bytes, at)?;
    file.sync_all()?;
    // or a read of the device may still give what its page cache remembers
    Image::of(device.path()).map(|_| ())
}

#[test]
fn a_change_behind_the_tracker_is_found_and_healed() -> Result<()> {
    const NAME: &str = "audit::a_change_behind_the_tracker_is_found_and_healed";
    skip_if!(host::no_tracking(), NAME);
    let scratch = Scratch::new("audit")?;
    let mut random = Random::for_test(NAME);
    let device = Loop::new(&scratch, "disk", (16 << 20) + 5 * 512)?;
    fill(device.path(), &mut random)?;
    let care = Protected::new(&scratch, device.path())?;
    care.backup(&[])?;
    // increments, so that pieces of every kind stand above each other: whole frames, parts, zeros
    for _ in 0..3 {
        churn(device.path(), &mut random, 60)?;
        care.incremental()?;
    }
    let size = (16 << 20) + 5 * 512;
    ensure!(ensure_clean(&care, "before")? == size, "not all was compared");
    churn(device.path(), &mut random, 20)?;
    let (listed, _) = care.diff()?;
    let clean = listed.complement(size);
    let hidden: ExtentSet = clean.iter().step_by(3).map(|e| Extent::new(e.offset, 4096)).collect();
    let hidden: ExtentSet = hidden.iter().filter(|e| clean.contains(**e)).copied().collect();
    ensure!(hidden.len() > 3, "nothing to hide in: {clean:?}");
    for extent in &hidden {
        tamper(&device, extent.offset + 100, &random.bytes(200))?;
    }
    // the very last bytes too: a partial area
    tamper(&device, (16 << 20) + 4 * 512, &random.bytes(512))?;
    let end = Extent::new(16 << 20, 5 * 512);
    let hidden = if clean.contains(end) { hidden.union(&[end].into_iter().collect()) } else { hidden };

    let (code, report) = audit(&care, &["--all"])?;
    ensure!(code == 3, "exit code {code}: {report}");
    let found = mismatches(&report)?;
    ensure!(found == hidden, "found {found:?}, hidden {hidden:?}");
    let status = care.home.json(["status"])?;
    ensure!(status[0]["health"] == "suspect" && status[0].to_string().contains("audit"), "{status}");

    let point = care.backup(&[])?;
    ensure!(point.json.to_string().contains("compared with the parent"), "{}", point.json);
    care.ensure_restores_to(&point.id, &Image::of(device.path())?, "after the comparison")?;
    let status = care.home.json(["status"])?;
    ensure!(status[0]["health"] == "proven", "still suspect: {status}");
    ensure_clean(&care, "after the comparison")?;
    let point = care.incremental()?;
    care.ensure_restores_to(&point.id, &Image::of(device.path())?, "the next one")
}

/// The doubt outlives a backup that had begun before it and did not compare.
#[test]
fn a_doubt_stays_until_everything_was_compared() -> Result<()> {
    const NAME: &str = "audit::a_doubt_stays_until_everything_was_compared";
    skip_if!(host::no_tracking(), NAME);
    let scratch = Scratch::new("audit-doubt")?;
    let mut random = Random::for_test(NAME);
    let device = Loop::new(&scratch, "disk", 8 << 20)?;
    fill(device.path(), &mut random)?;
    let care = Protected::new(&scratch, device.path())?;
    care.backup(&[])?;
    tamper(&device, 1 << 20, &random.bytes(4096))?;
    ensure!(audit(&care, &["--all"])?.0 == 3, "not found");
    // a backup that takes the doubt over and dies before its point is durable
    let words = care.backup_words(&[]);
    let died = care.home.run_failing("job.before-finish", &words)?;
    ensure!(died.signal.is_some(), "{died}");
    let status = care.home.json(["status"])?;
    ensure!(status[0]["health"] == "suspect", "the doubt is gone: {status}");
    let point = care.backup(&[])?;
    ensure!(point.json.to_string().contains("compared with the parent"), "{}", point.json);
    care.ensure_restores_to(&point.id, &Image::of(device.path())?, "compared")?;
    ensure!(care.home.json(["status"])?[0]["health"] != "suspect", "never ends");
    Ok(())
}

#[test]
fn the_rotation_covers_everything_once() -> Result<()> {
    const NAME: &str = "audit::the_rotation_covers_everything_once";
    skip_if!(host::no_tracking(), NAME);
    let scratch = Scratch::new("audit-rotation")?;
    let mut random = Random::for_test(NAME);
    let size = (24 << 20) + 4096 + 512;
    let device = Loop::new(&scratch, "disk", size)?;
    fill(device.path(), &mut random)?;
    let care = Protected::new(&scratch, device.path())?;
    care.backup(&[])?;
    for (rotation, sample) in ["3.4%", "10%"].into_iter().enumerate() {
        let (mut at, mut runs, mut compared) = (0, 0, 0);
        loop {
            let (code, report) = audit(&care, &["--sample", sample])?;
            ensure!(code == 0, "{report}");
            let stretch: Extent = serde_json::from_value(report["stretch"].clone())?;
            ensure!(stretch.offset == at && !stretch.is_empty(), "a gap or overlap at {at}: {report}");
            (at, runs) = (stretch.end(), runs + 1);
            compared += report["compared_bytes"].as_u64().context("compared_bytes")?;
            if report["rotation"]["completed"].as_u64() > Some(rotation as u64) {
                break;
            }
            // an audit of everything in between takes no part in it; a new base point changes nothing
            if runs == 4 {
                ensure_clean(&care, "in between")?;
                care.backup(&["--full"])?;
            }
        }
        ensure!(at == size && compared == size, "{at} of {size} covered, {compared} compared");
        ensure!(runs <= 30, "{runs} days at {sample}");
        host::say(&format!("{NAME}: {sample}: {runs} runs"));
    }
    tamper(&device, size - 512, &random.bytes(512))?;
    let mut found = 0;
    for _ in 0..2 {
        let (_, report) = audit(&care, &["--sample", "50%"])?;
        found += usize::from(!mismatches(&report)?.is_empty());
    }
    ensure!(found == 1, "the change was found {found} times in one rotation");
    Ok(())
}

/// Audits of everything, one after the other, until `stop`; how many.
fn audits(care: &Protected<'_>, stop: &AtomicBool) -> Result<u64> {
    let (mut times, mut compared) = (0, 0);
    while !stop.load(Ordering::SeqCst) || times < 3 {
        compared += ensure_clean(care, "under load")?;
        times += 1;
    }
    ensure!(compared > 0, "nothing was ever clean");
    Ok(times)
}

/// Writers, backups and audits at once.
fn under_load(
    name: &str,
    care: &Protected<'_>,
    random: &mut Random,
    write: impl Fn(u64, &mut Random) -> Result<()> + Sync,
) -> Result<()> {
    let (stop, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..2)
            .map(|n| {
                let (mut random, stop, rounds, write) = (random.fork(), &stop, &rounds, &write);
                scope.spawn(move || -> Result<()> {
                    while !stop.load(Ordering::SeqCst) {
                        write(n, &mut random)?;
                        rounds.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(())
                })
            })
            .collect();
        let backups = scope.spawn(|| -> Result<u64> {
            let mut times = 0;
            while !stop.load(Ordering::SeqCst) {
                care.backup(&[])?;
                times += 1;
            }
            Ok(times)
        });
        let auditor = scope.spawn(|| audits(care, &stop));
        let seconds = std::time::Duration::from_secs(host::seconds(6));
        let start = std::time::Instant::now();
        while start.elapsed() < seconds && !auditor.is_finished() {
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        stop.store(true, Ordering::SeqCst);
        writers.into_iter().try_for_each(|w| w.join().expect("a writer panicked"))?;
        let backups = backups.join().expect("the backups panicked")?;
        let audits = auditor.join().expect("the auditor panicked")?;
        let rounds = rounds.load(Ordering::Relaxed);
        host::say(&format!("{name}: {audits} audits beside {backups} backups and {rounds} rounds of writes"));
        Ok(())
    })
}

#[test]
fn no_false_alarm_on_a_bare_device() -> Result<()> {
    const NAME: &str = "audit::no_false_alarm_on_a_bare_device";
    skip_if!(host::no_tracking(), NAME);
    let scratch = Scratch::new("audit-load")?;
    let mut random = Random::for_test(NAME);
    let device = Loop::new(&scratch, "disk", 48 << 20)?;
    fill(device.path(), &mut random)?;
    let care = Protected::new(&scratch, device.path())?;
    care.backup(&[])?;
    under_load(NAME, &care, &mut random, |_, random| write_blocks(device.path(), random))
}

/// Random blocks, past the page cache: two who use it on a bare device disturb each other.
fn write_blocks(device: &Path, random: &mut Random) -> Result<()> {
    let file = open_with(device, O_DIRECT)?;
    for _ in 0..40 {
        let data = Aligned::random(4096 << random.below(5), random);
        let at = random.below((size_of(device)? - data.len() as u64) / 512) * 512;
        match random.below(6) {
            0 => discard(&file, at / 4096 * 4096, data.len() as u64)?,
            1 => zero_out(&file, at / 4096 * 4096, data.len() as u64)?,
            _ => file.write_all_at(&data, at)?,
        }
    }
    Ok(())
}

fn on_a_file_system(name: &str, kind: &files::Kind) -> Result<()> {
    skip_if!(host::no_tracking(), name);
    skip_if!(host::no_filesystem(kind.name), name);
    let scratch = Scratch::new("audit-fs")?;
    let mut random = Random::for_test(name);
    let device = Loop::new(&scratch, "disk", 320 << 20)?;
    kind.make(device.path())?;
    let mounted = Mounted::new(&scratch, device.path(), kind.mount)?;
    files::churn(&mounted.point().join("before"), &mut random, 300)?;
    let care = Protected::new(&scratch, device.path())?;
    care.backup(&[])?;
    let folder = |n: u64| mounted.point().join(format!("w{n}"));
    under_load(name, &care, &mut random, |n, random| write_files(&folder(n), random))?;
    // and what a file system allocates without writing it is no alarm either
    host::run("fallocate", ["-l", "20M", &folder(9).display().to_string()])?;
    host::run("sync", ["-f".as_ref(), mounted.point().as_os_str()])?;
    ensure_clean(&care, "after fallocate")?;
    mounted.unmount()
}

fn write_files(folder: &Path, random: &mut Random) -> Result<()> {
    files::churn(folder, random, 60)?;
    std::fs::remove_dir_all(folder).map_err(Into::into)
}

#[test]
fn no_false_alarm_on_ext4() -> Result<()> {
    on_a_file_system("audit::no_false_alarm_on_ext4", &KINDS[2])
}

#[test]
fn no_false_alarm_on_xfs() -> Result<()> {
    on_a_file_system("audit::no_false_alarm_on_xfs", &KINDS[4])
}

#[test]
fn no_false_alarm_on_btrfs() -> Result<()> {
    on_a_file_system("audit::no_false_alarm_on_btrfs", &KINDS[6])
}

#[test]
fn without_a_point_to_compare_with_it_says_so() -> Result<()> {
    const NAME: &str = "audit::without_a_point_to_compare_with_it_says_so";
    skip_if!(host::no_tracking(), NAME);
    let scratch = Scratch::new("audit-none")?;
    let device = Loop::new(&scratch, "disk", 4 << 20)?;
    let mut care = Protected::new(&scratch, device.path())?;
    let words = |care: &Protected<'_>| {
        ["audit".into(), care.device.display().to_string(), "--repo".into(), care.repo.display().to_string()]
    };
    care.home.run(words(&care))?.expect(1, "no repository")?;
    care.backup(&[])?;
    care.home.run(words(&care))?.expect(0, "with a point")?;
    let other = Loop::new(&scratch, "other", 4 << 20)?;
    care.repo = scratch.fresh("elsewhere");
    let elsewhere = Protected::new(&scratch, other.path())?;
    elsewhere.backup(&[])?;
    care.repo.clone_from(&elsewhere.repo);
    let ended = care.home.run(words(&care))?.expect(1, "a repository without the point")?;
    ensure!(ended.err.contains("another repository"), "{ended}");
    Ok(())
}
