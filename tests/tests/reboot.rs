//! Promise: over a reboot, a crash or a gap of any kind, nothing that changed is left out of the next backup; an
//! incremental is made only where it was proved that nobody wrote meanwhile.
//!
//! A reboot on this machine: pins, state and loop device go, the records stay, the boot is another one.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use tests::device::{Loop, Mounted, O_DIRECT, open_with};
use tests::files::{self, KINDS, Kind};
use tests::image::{Aligned, Image, fill};
use tests::product::Ended;
use tests::protected::Protected;
use tests::random::Random;
use tests::scratch::Scratch;
use tests::workload::churn;
use tests::{host, skip_if};

/// A machine with one tracked disk and a repository.
struct Machine<'a> {
    scratch: &'a Scratch,
    care: Protected<'a>,
    disk: Option<Loop>,
    random: Random,
}

impl<'a> Machine<'a> {
    fn new(scratch: &'a Scratch, test: &str, size: u64, kind: Option<&Kind>) -> Result<Self> {
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

    fn device(&self) -> &Path {
        &self.care.device
    }

    /// Work on the files of its file system, which is mounted meanwhile.
    fn work(&mut self) -> Result<()> {
        let mounted = Mounted::new(self.scratch, self.device(), "")?;
        let folder = mounted.point().join("work");
        files::churn(&folder, &mut self.random, 40)?;
        mounted.unmount()
    }

    fn write_at(&self, offset: u64) -> Result<()> {
        let mut random = Random::for_test("reboot: a raw write");
        let file = open_with(self.device(), O_DIRECT)?;
        file.write_all_at(&Aligned::random(8192, &mut random), offset).context("raw write")
    }

    fn save(&self) -> Result<Ended> {
        self.care.home.run(["save"])
    }

    /// The machine goes down; its backing file.
    fn off(&mut self) -> Result<PathBuf> {
        self.care.home = self.care.home.rebooted(self.scratch)?;
        self.disk.take().context("the machine is off")?.vanish()
    }

    /// It comes up again, with its disk.
    fn on(&mut self, backing: &Path) -> Result<()> {
        let disk = Loop::on(backing, &[])?;
        self.care.device = disk.path().into();
        self.disk = Some(disk);
        Ok(())
    }

    fn reboot(&mut self) -> Result<()> {
        let backing = self.off()?;
        self.on(&backing)
    }

    /// What came of the device at `resume`.
    fn resume(&self) -> Result<Value> {
        let rows = self.care.home.json(["resume"])?;
        rows.get(0).cloned().with_context(|| format!("resume: {rows}"))
    }

    /// Resumes, insists on `outcome`, and that the next backup is an incremental that misses nothing.
    fn ensure_comes_back(&mut self, outcome: &str, what: &str) -> Result<()> {
        let row = self.resume()?;
        host::say(&format!("  {what}: {} {}", row["outcome"], row["reasons"]));
        ensure!(row["outcome"] == outcome, "{what}: wanted {outcome}: {row}");
        self.ensure_next_is_whole(outcome == "suspect", what)
    }

    fn ensure_next_is_whole(&mut self, suspect: bool, what: &str) -> Result<()> {
        let now = Image::of(self.device())?;
        let point = self.care.backup(&[])?;
        ensure!(point.kind() == "incremental", "{what}: the base was given up: {}", point.json);
        let said = point.json["suspect"].as_array().is_some_and(|s| !s.is_empty());
        ensure!(said == suspect, "{what}: wanted suspect {suspect}: {}", point.json);
        self.care.ensure_restores_to(&point.id, &now, what)
    }
}

const SIZE: u64 = 16 << 20;

/// Saved and resumed: true incrementals over several boots, raw device and each file system.
#[test]
fn a_clean_reboot_keeps_the_increment() -> Result<()> {
    const NAME: &str = "reboot::a_clean_reboot_keeps_the_increment";
    skip_if!(host::no_tracking(), NAME);
    let kinds = [None, Some(&KINDS[0]), Some(&KINDS[3]), Some(&KINDS[5])];
    for kind in kinds {
        if let Some(why) = kind.and_then(|k| host::no_filesystem(k.name)) {
            host::skipped(NAME, &why);
            continue;
        }
        let scratch = Scratch::new("clean")?;
        let mut machine = Machine::new(&scratch, NAME, kind.map_or(SIZE, |_| 400 << 20), kind)?;
        for boot in 0..3 {
            match kind {
                Some(_) => machine.work()?,
                None => churn(&machine.care.device, &mut machine.random, 20).map(|_| ())?,
            }
            let ended = machine.save()?.expect(0, "save")?;
            host::say(&format!("  {}", ended.out.trim()));
            machine.reboot()?;
            machine.ensure_comes_back("proved", &format!("boot {boot}, {:?}", kind.map(|k| k.name)))?;
        }
    }
    Ok(())
}
