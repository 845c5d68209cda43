//! Gaps: a device-mapper device over reboots, what `resume` believes and what not; and a clock that is set back.
//!
//! A reboot here: pins, state and the mapped device go, the records stay, the boot is another one.

use super::make::{self, disk, sectors, sh};
use super::trial::Trial;
use crate::device::{O_DIRECT, open_with, poke};
use crate::image::{Aligned, Image};
use crate::product::Home;
use crate::scratch::Scratch;
use crate::workload::churn;
use anyhow::{Context, Result, ensure};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The disk as one mapped device.
struct Mapped<'a> {
    below: &'a Path,
    device: PathBuf,
}

impl<'a> Mapped<'a> {
    /// Of the sectors from `first` on. `counted`: the kernel counts its I/O from the beginning, as it does by itself
    /// since 6.3.
    fn new(trial: &mut Trial, below: &'a Path, first: u64, counted: bool) -> Result<Self> {
        let length = sectors(below)? - 8192;
        sh(&format!(
            "dmsetup create gap --uuid BLKDELTA-gap --table '0 {length} linear {} {first}'",
            below.display()
        ))?;
        trial.undo("dmsetup remove gap");
        let device = make::by_number(Path::new("/dev/mapper/gap"))?;
        let attribute = format!("/sys/block/{}/queue/iostats", make::name(&device)?);
        poke(&attribute, if counted { "1" } else { "0" })?;
        Ok(Self { below, device })
    }

    /// The machine goes down and comes up with it.
    fn reboot(self, trial: &mut Trial, first: u64, counted: bool) -> Result<Self> {
        sh("dmsetup remove gap")?;
        trial.forget_undo();
        Self::new(trial, self.below, first, counted)
    }

    /// 4 KiB past the file system, which does not notice.
    fn write(&self, trial: &mut Trial) -> Result<()> {
        let data = Aligned::random(4096, &mut trial.random);
        open_with(&self.device, O_DIRECT)?.write_all_at(&data, 60 << 20).context("raw write")
    }
}

/// `save`, a gap, `resume`: proved where nothing happened, suspect for the reason that there is.
pub fn dm_over_reboots(trial: &mut Trial) -> Result<()> {
    let scratch = Scratch::new("gap")?;
    let below = disk("c")?;
    let mut home = Home::new(&scratch)?;
    let mut mapped = Mapped::new(trial, &below, 2048, true)?;
    let device = mapped.device.display().to_string();
    sh(&format!("mkfs.ext4 -q -F {device}"))?;
    home.ok(["track", &device])?;
    let repo = scratch.fresh("repo").display().to_string();
    home.ok(["backup", &device, "--repo", &repo])?;
    let gaps: [(&str, &str, u64, bool, bool); 4] = [
        ("nothing happened", "proved", 2048, true, false),
        ("written while not counted", "did not count", 2048, false, true),
        ("written while counted", "this kernel wrote", 2048, true, true),
        ("another table", "device-mapper table was changed", 4096, true, false),
    ];
    for (what, wanted, first, counted, written) in gaps {
        home.ok(["save"]).with_context(|| format!("{what}: save"))?;
        home = home.rebooted(&scratch)?;
        mapped = mapped.reboot(trial, first, counted)?;
        if written {
            mapped.write(trial)?;
        }
        let row = home.json(["resume"])?;
        trial.note(format!("{what}: {}", row[0]["outcome"]));
        let said = format!("{} {}", row[0]["outcome"], row[0]["reasons"]);
        ensure!(said.contains(wanted), "{what}: wanted {wanted}: {said}");
        if wanted != "proved" {
            ensure!(row[0]["outcome"] == "suspect", "{what}: {said}");
            // compares, and is a clean start again
            home.run(["backup", &device, "--repo", &repo])?;
        }
    }
    home.ok(["untrack", &device]).map(|_| ())
}

/// The clock is set back and forth between points: each is relative to the one before, and the last is the latest.
pub fn clock_set_back(trial: &mut Trial) -> Result<()> {
    const DAY: i64 = 86_400;
    let scratch = Scratch::new("clock")?;
    let (home, device) = (Home::new(&scratch)?, disk("c")?);
    let (path, repo) = (device.display().to_string(), scratch.fresh("repo").display().to_string());
    home.ok(["track", &path])?;
    home.ok(["backup", &path, "--repo", &repo])?;
    let now: i64 = sh("date +%s")?.parse()?;
    trial.undo(format!("date -s @{now}"));
    for shift in [-400 * DAY, 10 * DAY, -DAY, 0] {
        sh(&format!("date -s @{}", now + shift))?;
        churn(&device, &mut trial.random, 30)?;
        let wanted = Image::of(&device)?;
        let point = home.json(["backup", &path, "--repo", &repo])?;
        ensure!(
            point["kind"] == "incremental" && point["suspect"].as_array().is_none_or(Vec::is_empty),
            "{point}"
        );
        let target = scratch.fresh("restored");
        home.ok(["restore", "--repo", &repo, "--point", "latest", &target.display().to_string()])?;
        let missed = wanted.difference(&Image::of_file(&target)?);
        ensure!(missed.is_empty(), "{} s: the latest point lacks {} bytes", shift, missed.total());
        std::fs::remove_file(&target)?;
    }
    home.ok(["untrack", &path]).map(|_| ())
}
