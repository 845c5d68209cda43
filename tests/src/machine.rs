//! A machine with one tracked disk that is switched off and on again.
//!
//! A reboot on this machine: pins, state and loop device go, the records stay, the boot is another one.

use crate::device::{Loop, Mounted, O_DIRECT, open_with, put};
use crate::fault::files_below;
use crate::files::{self, Kind};
use crate::host;
use crate::image::{Aligned, Image, fill};
use crate::product::Ended;
use crate::protected::Protected;
use crate::random::Random;
use crate::scratch::Scratch;
use crate::workload::churn;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A machine with one tracked disk and a repository.
pub struct Machine<'a> {
    scratch: &'a Scratch,
    /// The disk under the product's care.
    pub care: Protected<'a>,
    /// The disk; none while the machine is off.
    pub disk: Option<Loop>,
    /// Its choices.
    pub random: Random,
}

impl<'a> Machine<'a> {
    /// A disk of `size` bytes, filled or with a file system, tracked, with a first backup.
    pub fn new(scratch: &'a Scratch, test: &str, size: u64, kind: Option<&Kind>) -> Result<Self> {
        let mut random = Random::for_test(test);
        let disk = Loop::new(scratch, "disk", size)?;
        match kind {
            Some(kind) => kind.make(disk.path())?,
            None => fill(disk.path(), &mut random)?,
        }
        let care = Protected::new(scratch, disk.path())?;
        let machine = Self { scratch, care, disk: Some(disk), random };
        machine.care.backup(&[])?;
        Ok(machine)
    }

    /// The device node.
    pub fn device(&self) -> &Path {
        &self.care.device
    }

    /// Work on the files of its file system, which is mounted meanwhile.
    pub fn work(&mut self) -> Result<()> {
        let mounted = Mounted::new(self.scratch, self.device(), "")?;
        let folder = mounted.point().join("work");
        files::churn(&folder, &mut self.random, 40)?;
        mounted.unmount()
    }

    /// Writes 8 KiB past everything.
    pub fn write_at(&self, offset: u64) -> Result<()> {
        let mut random = Random::for_test("reboot: a raw write");
        let file = open_with(self.device(), O_DIRECT)?;
        file.write_all_at(&Aligned::random(8192, &mut random), offset).context("raw write")
    }

    /// The clean stop, whatever comes of it.
    pub fn save(&self) -> Result<Ended> {
        self.care.home.run(["save"])
    }

    /// Saves, and insists that it was a clean stop.
    pub fn saved(&self) -> Result<()> {
        self.save()?.expect(0, "save").map(|_| ())
    }

    /// The record (`json`) or the map of the one device that has any.
    pub fn lib_file(&self, extension: &str) -> Result<PathBuf> {
        let files = files_below(&self.care.home.path().join("lib"))?;
        let mut found = files.into_iter().filter(|path| path.extension().is_some_and(|e| e == extension));
        found.next().with_context(|| format!("no .{extension} in lib"))
    }

    /// The machine goes down; its backing file.
    pub fn off(&mut self) -> Result<PathBuf> {
        self.care.home = self.care.home.rebooted(self.scratch)?;
        self.disk.take().context("the machine is off")?.vanish()
    }

    /// It comes up again, with its disk.
    pub fn on(&mut self, backing: &Path) -> Result<()> {
        let disk = Loop::newborn(backing)?;
        self.care.device = disk.path().into();
        self.disk = Some(disk);
        Ok(())
    }

    /// Down and up.
    pub fn reboot(&mut self) -> Result<()> {
        let backing = self.off()?;
        self.on(&backing)
    }

    /// What came of the device at `resume`.
    pub fn resume(&self) -> Result<Value> {
        let rows = self.care.home.json(["resume"])?;
        rows.get(0).cloned().with_context(|| format!("resume: {rows}"))
    }

    /// Resumes, insists on `outcome`, and that the next backup is an incremental that misses nothing.
    pub fn ensure_comes_back(&mut self, outcome: &str, what: &str) -> Result<Value> {
        let row = self.resume()?;
        host::say(&format!("  {what}: {} {}", row["outcome"], row["reasons"]));
        ensure!(row["outcome"] == outcome, "{what}: wanted {outcome}: {row}");
        self.ensure_next_is_whole(outcome == "suspect", what)?;
        Ok(row)
    }

    /// A step of `save` (0) or `resume` (1) died. In half of the cases the machine goes down right then.
    pub fn after_death(&mut self, verb: usize, what: &str) -> Result<()> {
        if verb == 0 && self.random.below(2) == 0 {
            self.reboot()?;
        }
        let row = self.resume()?;
        let outcome = row["outcome"].as_str().unwrap_or_default().to_owned();
        host::say(&format!("  {what}: {outcome} {}", row["reasons"]));
        ensure!(
            ["tracked", "reopened", "proved", "suspect"].contains(&outcome.as_str()),
            "{what}: resume afterwards: {row}"
        );
        self.write_at(0).with_context(|| format!("{what}: it stays read-only"))?;
        churn(&self.care.device, &mut self.random, 4)?;
        self.ensure_next_is_whole(outcome == "suspect", what)
    }

    /// The point holds the file system of `wanted`, whatever lies in its free space.
    pub fn ensure_files_of(&self, point: &str, wanted: &Image) -> Result<()> {
        let (restored, original) = (self.care.restore_file(point)?, self.scratch.fresh("original"));
        put(&original, wanted.bytes())?;
        let mut listings = Vec::new();
        for image in [&restored, &original] {
            let disk = Loop::on(image, &[])?;
            let mounted = Mounted::new(self.scratch, disk.path(), "ro")?;
            let words =
                format!("cd {} && find . -type f -exec sha256sum {{}} + | sort", mounted.point().display());
            listings.push(host::run("sh", ["-c", &words])?);
            mounted.unmount()?;
            disk.detach()?;
        }
        ensure!(listings[0] == listings[1] && !listings[0].is_empty(), "the files of {point} differ");
        Ok(())
    }

    /// The next backup is an incremental, suspect or not, that restores to what the device holds now.
    pub fn ensure_next_is_whole(&mut self, suspect: bool, what: &str) -> Result<()> {
        let now = Image::of(self.device())?;
        let point = self.care.backup(&[])?;
        ensure!(point.kind() == "incremental", "{what}: the base was given up: {}", point.json);
        let said = point.json["suspect"].as_array().is_some_and(|s| !s.is_empty());
        ensure!(said == suspect, "{what}: wanted suspect {suspect}: {}", point.json);
        self.care.ensure_restores_to(&point.id, &now, what)
    }
}

impl Drop for Machine<'_> {
    fn drop(&mut self) {
        if let Some(Err(e)) = self.disk.take().map(Loop::vanish) {
            host::say(&format!("while removing a loop device: {e:#}"));
        }
    }
}
