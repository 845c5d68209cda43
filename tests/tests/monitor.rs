//! Promise: whatever detaches the tracking is said at once, and the next backup compares everything, also when the
//! thing was put back in between.
//!
//! Each detachment is planted for real, on pins in a BPF file system of the test's own and on devices of its own.

#![expect(clippy::disallowed_methods, reason = "pins are moved on purpose; they are not files that last")]

use anyhow::{Context, Result, ensure};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use tests::device::{Loop, O_DIRECT, Zram, open_with, poke, wait_until};
use tests::image::{Aligned, Image, fill};
use tests::monitor::Monitor;
use tests::protected::Protected;
use tests::random::Random;
use tests::scratch::Scratch;
use tests::{bpf, host, skip_if};

/// A trick that is undone: what it does, what undoes it, and a part of what must be said of it.
type Trick = (&'static str, fn(&Stage) -> Result<()>, fn(&Stage) -> Result<()>, &'static str);

/// Where the tricks are played.
struct Stage {
    bpf: PathBuf,
    device: PathBuf,
}

impl Stage {
    fn of(care: &Protected<'_>) -> Self {
        Self { bpf: care.home.path().join("bpf"), device: care.device.clone() }
    }

    /// The folder of the pins.
    fn pins(&self) -> Result<PathBuf> {
        let versions = std::fs::read_dir(&self.bpf)?.flatten().map(|e| e.path());
        versions.filter(|p| p.is_dir()).max().context("no pins")
    }

    /// A pin by the beginning of its name.
    fn pin(&self, start: &str) -> Result<PathBuf> {
        let mut all: Vec<PathBuf> = std::fs::read_dir(self.pins()?)?.flatten().map(|e| e.path()).collect();
        all.sort();
        let name = |p: &PathBuf| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(start));
        all.into_iter().find(name).with_context(|| format!("no pin {start}"))
    }

    fn attribute(&self) -> String {
        let name = self.device.file_name().unwrap_or_default().to_string_lossy();
        format!("/sys/block/{name}/queue/iostats")
    }

    fn hide(&self, start: &str) -> Result<()> {
        let pin = self.pin(start)?;
        Ok(std::fs::rename(&pin, hidden(&pin))?)
    }

    fn show(&self, start: &str) -> Result<()> {
        let pin = self.pin(&format!("hidden-{start}"))?;
        let name = pin.file_name().unwrap_or_default().to_string_lossy().replace("hidden-", "");
        Ok(std::fs::rename(&pin, pin.with_file_name(name))?)
    }

    /// Exchanges two programs' pins.
    fn exchange(&self) -> Result<()> {
        let (one, other) = (self.pin("prog_rq_complete")?, self.pin("prog_rq_issue")?);
        let aside = hidden(&one);
        std::fs::rename(&one, &aside)?;
        std::fs::rename(&other, &one)?;
        Ok(std::fs::rename(&aside, &other)?)
    }

    /// The bitmap of the running epoch.
    fn bitmap(&self) -> Result<(PathBuf, PathBuf)> {
        let folder = self.pin("dev-")?;
        let number = |p: &PathBuf| p.to_string_lossy().rsplit('-').next().and_then(|n| n.parse::<u64>().ok());
        let pins = std::fs::read_dir(&folder)?.flatten().map(|e| e.path());
        let running = pins.max_by_key(number).context("no bitmap")?;
        let aside =
            folder.join(running.file_name().unwrap_or_default().to_string_lossy().replace("epoch", "aside"));
        Ok((running, aside))
    }
}

fn hidden(pin: &Path) -> PathBuf {
    pin.with_file_name(format!("hidden-{}", pin.file_name().unwrap_or_default().to_string_lossy()))
}

const TRICKS: [Trick; 6] = [
    ("accounting off and on", |s| poke(&s.attribute(), "0"), |s| poke(&s.attribute(), "1"), "queue/iostats"),
    ("a program's pin replaced", Stage::exchange, Stage::exchange, "another program is pinned"),
    ("a link's pin taken away", |s| s.hide("link_"), |s| s.show("link_"), "its link is gone"),
    ("a map's pin taken away", |s| s.hide("map_DISKS"), |s| s.show("map_DISKS"), "pinned no more"),
    (
        "the running bitmap's pin taken away",
        |s| s.bitmap().and_then(|(pin, aside)| Ok(std::fs::rename(pin, aside)?)),
        |s| s.bitmap().and_then(|(pin, _)| back(&pin)),
        "is not where it was left",
    ),
    (
        "another BPF file system mounted over the pins",
        |s| host::run("mount", ["-t", "bpf", "bpf", &s.bpf.display().to_string()]).map(drop),
        |s| host::run("umount", [&s.bpf]).map(drop),
        "",
    ),
];

fn back(pin: &Path) -> Result<()> {
    let name = pin.file_name().unwrap_or_default().to_string_lossy().replace("aside", "epoch");
    Ok(std::fs::rename(pin, pin.with_file_name(name))?)
}

#[test]
fn what_is_taken_away_and_put_back_is_said_and_remembered() -> Result<()> {
    const NAME: &str = "monitor::what_is_taken_away_and_put_back_is_said_and_remembered";
    skip_if!(host::no_tracking(), NAME);
    let scratch = Scratch::new("tricks")?;
    let mut random = Random::for_test(NAME);
    let device = Loop::new(&scratch, "disk", 8 << 20)?;
    fill(device.path(), &mut random)?;
    let care = Protected::new(&scratch, device.path())?;
    care.backup(&[])?;
    let stage = Stage::of(&care);
    let mut monitor = Monitor::start(&care.home, "50ms")?;
    for (what, trick, undo, part) in TRICKS {
        trick(&stage).with_context(|| what.to_string())?;
        let said = monitor.wait_for("wrong", part).with_context(|| what.to_string())?;
        host::say(&format!("  {what}: {said}"));
        undo(&stage).with_context(|| format!("undo: {what}"))?;
        monitor.wait_for("gone", part).with_context(|| what.to_string())?;
        ensure_compared(&care, &mut random, what, "found between two cuts")?;
    }
    Ok(())
}

/// The next backup is suspect for `reason`, compares everything, is right; the one after it is trusted again.
fn ensure_compared(care: &Protected<'_>, random: &mut Random, what: &str, reason: &str) -> Result<()> {
    let status = care.home.run(["status".as_ref(), care.device.as_os_str()])?;
    write(&care.device, random)?;
    let now = Image::of(&care.device)?;
    let point = care.backup(&[])?;
    let suspect = point.json["suspect"].to_string();
    ensure!(suspect.contains(reason), "{what}: not remembered: {}", point.json);
    ensure!(point.json["suspect_handled"].is_string(), "{what}: not compared: {}", point.json);
    // accounting that was off shows only when an epoch is closed
    ensure!(status.code == Some(3) || reason.contains("count"), "{what}: status knows nothing: {status}");
    care.ensure_restores_to(&point.id, &now, what)?;
    write(&care.device, random)?;
    let healed = care.backup(&[])?;
    ensure!(healed.code == 0, "{what}: still suspect after everything was compared: {}", healed.json);
    Ok(())
}

fn write(device: &Path, random: &mut Random) -> Result<()> {
    Ok(open_with(device, O_DIRECT)?.write_all_at(&Aligned::random(64 << 10, random), 1 << 20)?)
}

#[test]
fn what_was_put_back_unseen_shows_at_the_cut() -> Result<()> {
    const NAME: &str = "monitor::what_was_put_back_unseen_shows_at_the_cut";
    skip_if!(host::no_tracking(), NAME);
    let scratch = Scratch::new("unseen")?;
    let mut random = Random::for_test(NAME);
    let device = Loop::new(&scratch, "disk", 8 << 20)?;
    fill(device.path(), &mut random)?;
    let care = Protected::new(&scratch, device.path())?;
    care.backup(&[])?;
    let stage = Stage::of(&care);
    // the kernel counts nothing while we write
    poke(&stage.attribute(), "0")?;
    write(&care.device, &mut random)?;
    poke(&stage.attribute(), "1")?;
    ensure_compared(
        &care,
        &mut random,
        "accounting off and on, nobody watching",
        "did not count 128 sectors",
    )?;
    // the program of a link that was destroyed is attached once more
    let (program, link) = (stage.pin("prog_rq_issue")?, stage.pin("link_rq_issue")?);
    std::fs::remove_file(&link)?;
    write(&care.device, &mut random)?;
    bpf::attach_again(&program, &link).context("attach the program again")?;
    let now = Image::of(&care.device)?;
    let point = care.backup(&[])?;
    let suspect = point.json["suspect"].to_string();
    ensure!(
        suspect.contains("detached and attached again"),
        "a new link is taken for the old: {}",
        point.json
    );
    care.ensure_restores_to(&point.id, &now, "detached and attached again")
}

#[test]
fn what_is_gone_is_said_and_never_called_well() -> Result<()> {
    const NAME: &str = "monitor::what_is_gone_is_said_and_never_called_well";
    skip_if!(host::no_tracking(), NAME);
    let scratch = Scratch::new("gone")?;
    // the BPF file system of the pins
    let device = Loop::new(&scratch, "one", 8 << 20)?;
    let care = Protected::new(&scratch, device.path())?;
    let mut monitor = Monitor::start(&care.home, "50ms")?;
    host::run("umount", [care.home.path().join("bpf")])?;
    monitor.wait_for("wrong", "no BPF file system is mounted")?;
    ensure_once_is_3(&care)?;
    // the device itself: what a driver does that is unloaded and loaded again
    let other = Loop::new(&scratch, "two", 8 << 20)?;
    let care = Protected::new(&scratch, other.path())?;
    let mut monitor = Monitor::start(&care.home, "50ms")?;
    let (node, image) = (other.path().to_path_buf(), other.backing().to_path_buf());
    other.detach()?;
    let _again = Loop::at(&node, &image)?;
    monitor.wait_for("wrong", "another disk is behind this device")?;
    ensure_once_is_3(&care)?;
    let refused = care.backup(&[]);
    ensure!(refused.is_err(), "backed up as if it were the same: {refused:?}");
    Ok(())
}

fn ensure_once_is_3(care: &Protected<'_>) -> Result<()> {
    care.home.run(["monitor", "--once"])?.expect(3, "monitor --once").map(drop)
}

#[test]
fn a_zram_that_is_reset_or_removed_is_said() -> Result<()> {
    const NAME: &str = "monitor::a_zram_that_is_reset_or_removed_is_said";
    skip_if!(host::no_tracking(), NAME);
    let zram = Zram::new(8 << 20);
    skip_if!(zram.as_ref().err().map(|e| format!("no zram: {e:#}")), NAME);
    let (zram, scratch, mut random) = (zram?, Scratch::new("zram")?, Random::for_test(NAME));
    fill(&zram.path(), &mut random)?;
    let care = Protected::new(&scratch, &zram.path())?;
    care.backup(&[])?;
    let mut monitor = Monitor::start(&care.home, "50ms")?;
    let folder = format!("/sys/block/{}", zram.path().file_name().unwrap_or_default().to_string_lossy());
    poke(&format!("{folder}/reset"), "1")?;
    monitor.wait_for("wrong", "")?;
    ensure_once_is_3(&care)?;
    drop(zram);
    wait_until(|| !Path::new(&folder).exists(), "the zram device to go")?;
    monitor.wait_for("wrong", "is gone")?;
    ensure_once_is_3(&care)
}

#[test]
fn a_healthy_device_under_load_and_cuts_raises_no_alarm() -> Result<()> {
    const NAME: &str = "monitor::a_healthy_device_under_load_and_cuts_raises_no_alarm";
    skip_if!(host::no_tracking(), NAME);
    let scratch = Scratch::new("healthy")?;
    let mut random = Random::for_test(NAME);
    let device = Loop::new(&scratch, "disk", 8 << 20)?;
    fill(device.path(), &mut random)?;
    let care = Protected::new(&scratch, device.path())?;
    care.backup(&[])?;
    let mut monitor = Monitor::start(&care.home, "1ms")?;
    let give_up = std::time::Instant::now() + std::time::Duration::from_secs(host::seconds(6));
    let mut points = 0;
    while std::time::Instant::now() < give_up {
        write(&care.device, &mut random)?;
        care.incremental()?;
        points += 1;
    }
    ensure!(monitor.alarms().is_empty(), "false alarms: {:?}", monitor.alarms());
    host::say(&format!("  {points} backups beside a look every millisecond: no alarm"));
    care.home.run(["monitor", "--once"])?.expect(0, "monitor --once").map(drop)
}

#[test]
fn watch_looks_between_its_backups() -> Result<()> {
    const NAME: &str = "monitor::watch_looks_between_its_backups";
    skip_if!(host::no_tracking(), NAME);
    let scratch = Scratch::new("between")?;
    let device = Loop::new(&scratch, "disk", 8 << 20)?;
    let care = Protected::new(&scratch, device.path())?;
    let stage = Stage::of(&care);
    let (device, repo) = (care.device.display().to_string(), care.repo.display().to_string());
    let mut child = care.home.start(["watch", &device, "--repo", &repo, "--every", "1h"])?;
    let outcome = (|| {
        wait_until(|| care.points().is_ok_and(|points| points.len() == 1), "the first backup")?;
        poke(&stage.attribute(), "0")?;
        let raised = || {
            let state = std::fs::read_dir(care.home.path().join("state")).into_iter().flatten().flatten();
            let doubts = state.filter(|e| e.file_name().to_string_lossy().ends_with(".doubts"));
            doubts.filter_map(|e| std::fs::read_to_string(e.path()).ok()).any(|text| text.contains("iostats"))
        };
        let seen = wait_until(raised, "watch to see that accounting is off");
        poke(&stage.attribute(), "1")?;
        seen
    })();
    // ours, by its handle
    child.kill()?;
    child.wait()?;
    outcome?;
    let point = care.backup(&[])?;
    ensure!(
        point.json["suspect"].to_string().contains("iostats"),
        "watch's doubt is forgotten: {}",
        point.json
    );
    Ok(())
}
