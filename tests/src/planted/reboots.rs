//! Trials of life over a reboot: save, power off, power on, resume. What happens in the gap happens only where a fault
//! is planted, so that a control has nothing to notice.

use super::judged::{audit, backed_up};
use super::notice::{Check, Notices};
use super::planted;
use crate::device::{Loop, O_DIRECT, open_with};
use crate::host::{run, say};
use crate::image::{Aligned, fill};
use crate::protected::Protected;
use crate::random::Random;
use crate::scratch::Scratch;
use anyhow::{Context, Result};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const SIZE: u64 = 16 << 20;

/// A machine with one tracked disk, one backup, and areas that changed since.
struct Machine<'a> {
    scratch: &'a Scratch,
    care: Protected<'a>,
    disk: Option<Loop>,
    random: Random,
}

impl<'a> Machine<'a> {
    fn new(scratch: &'a Scratch) -> Result<Self> {
        let mut random = Random::for_test("planted: reboots");
        let backing = scratch.path().join("disk.img");
        std::fs::File::create(&backing)?.set_len(SIZE)?;
        // the number that it will have after a reboot, too
        let disk = Loop::newborn(&backing)?;
        fill(disk.path(), &mut random)?;
        let care = Protected::new(scratch, disk.path())?;
        care.backup(&[])?;
        let mut machine = Self { scratch, care, disk: Some(disk), random };
        for mib in [1, 2, 3] {
            machine.write(mib)?;
        }
        Ok(machine)
    }

    fn write(&mut self, mib: u64) -> Result<()> {
        let data = Aligned::random(8192, &mut self.random);
        open_with(&self.care.device, O_DIRECT)?.write_all_at(&data, mib << 20).context("write")
    }

    fn save(&self, notices: &mut Notices) -> Result<()> {
        let ended = self.care.home.run(["save"])?;
        if ended.code != Some(0) {
            notices.note(Check::Refused, ended.to_string());
        }
        Ok(())
    }

    /// Power off and on; who has the disk in between.
    fn reboot(&mut self, meanwhile: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        self.care.home = self.care.home.rebooted(self.scratch)?;
        let backing = self.disk.take().context("the machine is off")?.vanish()?;
        if planted() {
            self.on(&backing)?;
            meanwhile(self)?;
            self.disk.take().context("the other machine is off")?.vanish()?;
        }
        self.on(&backing)
    }

    fn on(&mut self, backing: &Path) -> Result<()> {
        let disk = Loop::newborn(backing)?;
        self.care.device = disk.path().into();
        self.disk = Some(disk);
        Ok(())
    }

    /// Resumes; why that is suspect, if so.
    fn resume(&self, notices: &mut Notices) {
        let Some(rows) = notices.took(self.care.home.json(["resume"])) else { return };
        say(&format!("  resumed: {rows}"));
        notices.listed(&rows[0]["reasons"]);
    }

    /// Audit and backup tell what is left of it.
    fn judged(&self, notices: &mut Notices) -> Result<()> {
        audit(notices, &self.care)?;
        backed_up(notices, &self.care)
    }
}

impl Drop for Machine<'_> {
    fn drop(&mut self) {
        if let Some(Err(e)) = self.disk.take().map(Loop::vanish) {
            say(&format!("while removing a loop device: {e:#}"));
        }
    }
}

/// Nothing happens in between.
pub fn clean(notices: &mut Notices) -> Result<()> {
    let scratch = Scratch::new("planted")?;
    let mut machine = Machine::new(&scratch)?;
    machine.save(notices)?;
    machine.reboot(|_| Ok(()))?;
    machine.resume(notices);
    machine.judged(notices)
}

/// Saved, taken back, written to, saved again.
pub fn saved_twice(notices: &mut Notices) -> Result<()> {
    let scratch = Scratch::new("planted")?;
    let mut machine = Machine::new(&scratch)?;
    machine.save(notices)?;
    machine.resume(notices);
    machine.write(5)?;
    machine.save(notices)?;
    machine.reboot(|_| Ok(()))?;
    machine.resume(notices);
    machine.judged(notices)
}

/// Another machine writes in between.
pub fn written_elsewhere(notices: &mut Notices) -> Result<()> {
    let scratch = Scratch::new("planted")?;
    let mut machine = Machine::new(&scratch)?;
    machine.save(notices)?;
    machine.reboot(|machine| machine.write(6))?;
    machine.resume(notices);
    machine.judged(notices)
}

/// This machine writes before it tracks again.
pub fn written_before_resume(notices: &mut Notices) -> Result<()> {
    let scratch = Scratch::new("planted")?;
    let mut machine = Machine::new(&scratch)?;
    machine.save(notices)?;
    machine.reboot(|_| Ok(()))?;
    if planted() {
        machine.write(6)?;
    }
    machine.resume(notices);
    machine.judged(notices)
}

/// Somebody writes between the save and the power off.
pub fn written_after_save(notices: &mut Notices) -> Result<()> {
    let scratch = Scratch::new("planted")?;
    let mut machine = Machine::new(&scratch)?;
    machine.save(notices)?;
    if planted() {
        notices.took(machine.write(6));
    }
    machine.reboot(|_| Ok(()))?;
    machine.resume(notices);
    machine.judged(notices)
}

/// What was saved was used once; then the machine writes and crashes.
pub fn crashed_after_resume(notices: &mut Notices) -> Result<()> {
    let scratch = Scratch::new("planted")?;
    let mut machine = Machine::new(&scratch)?;
    machine.save(notices)?;
    machine.reboot(|_| Ok(()))?;
    machine.resume(notices);
    if planted() {
        machine.write(6)?;
        machine.reboot(|_| Ok(()))?;
        machine.resume(notices);
    }
    machine.judged(notices)
}

/// The state files of the boot before are there again.
pub fn state_of_another_boot(notices: &mut Notices) -> Result<()> {
    let scratch = Scratch::new("planted")?;
    let mut machine = Machine::new(&scratch)?;
    let old: PathBuf = machine.care.home.path().join("state");
    machine.save(notices)?;
    machine.reboot(|_| Ok(()))?;
    if planted() {
        run("cp", ["-r".as_ref(), old.as_os_str(), machine.care.home.path().as_os_str()])?;
    }
    machine.resume(notices);
    machine.judged(notices)
}
