//! Trials of life over a reboot: save, power off, power on, resume. What happens in the gap happens only where a fault
//! is planted, so that a control has nothing to notice.

use super::judged::{audit, backed_up};
use super::notice::{Check, Notices};
use super::planted;
use crate::host::run;
use crate::machine::Machine;
use crate::scratch::Scratch;
use anyhow::{Context, Result};
use std::path::PathBuf;

const MIB: u64 = 1 << 20;

/// A machine with one tracked disk, one backup, and areas that changed since.
fn machine(scratch: &Scratch) -> Result<Machine<'_>> {
    let machine = Machine::new(scratch, "planted: reboots", 16 * MIB, None)?;
    (1..4).try_for_each(|mib| machine.write_at(mib * MIB))?;
    Ok(machine)
}

/// The clean stop.
fn save(notices: &mut Notices, machine: &Machine<'_>) -> Result<()> {
    let ended = machine.save()?;
    if ended.code != Some(0) {
        notices.note(Check::Refused, ended.to_string());
    }
    Ok(())
}

/// Resumes; why that is suspect, if so.
fn resume(notices: &mut Notices, machine: &Machine<'_>) {
    if let Some(row) = notices.took(machine.resume()) {
        notices.listed(&row["reasons"]);
    }
}

/// Audit and backup tell what is left of it.
fn judged(notices: &mut Notices, machine: &Machine<'_>) -> Result<()> {
    audit(notices, &machine.care)?;
    backed_up(notices, &machine.care)
}

/// Nothing happens in between.
pub fn clean(notices: &mut Notices) -> Result<()> {
    let scratch = Scratch::new("planted")?;
    let mut machine = machine(&scratch)?;
    save(notices, &machine)?;
    machine.reboot()?;
    resume(notices, &machine);
    judged(notices, &machine)
}

/// Saved, taken back, written to, saved again.
pub fn saved_twice(notices: &mut Notices) -> Result<()> {
    let scratch = Scratch::new("planted")?;
    let mut machine = machine(&scratch)?;
    save(notices, &machine)?;
    resume(notices, &machine);
    machine.write_at(5 * MIB)?;
    save(notices, &machine)?;
    machine.reboot()?;
    resume(notices, &machine);
    judged(notices, &machine)
}

/// Another machine writes in between.
pub fn written_elsewhere(notices: &mut Notices) -> Result<()> {
    let scratch = Scratch::new("planted")?;
    let mut machine = machine(&scratch)?;
    save(notices, &machine)?;
    let backing = machine.off()?;
    machine.on(&backing)?;
    if planted() {
        machine.write_at(6 * MIB)?;
    }
    let backing = machine.disk.take().context("the other machine is off")?.vanish()?;
    machine.on(&backing)?;
    resume(notices, &machine);
    judged(notices, &machine)
}

/// This machine writes before it tracks again.
pub fn written_before_resume(notices: &mut Notices) -> Result<()> {
    let scratch = Scratch::new("planted")?;
    let mut machine = machine(&scratch)?;
    save(notices, &machine)?;
    machine.reboot()?;
    if planted() {
        machine.write_at(6 * MIB)?;
    }
    resume(notices, &machine);
    judged(notices, &machine)
}

/// Somebody writes between the save and the power off.
pub fn written_after_save(notices: &mut Notices) -> Result<()> {
    let scratch = Scratch::new("planted")?;
    let mut machine = machine(&scratch)?;
    save(notices, &machine)?;
    if planted() {
        notices.took(machine.write_at(6 * MIB));
    }
    machine.reboot()?;
    resume(notices, &machine);
    judged(notices, &machine)
}

/// What was saved was used once; then the machine writes and crashes.
pub fn crashed_after_resume(notices: &mut Notices) -> Result<()> {
    let scratch = Scratch::new("planted")?;
    let mut machine = machine(&scratch)?;
    save(notices, &machine)?;
    machine.reboot()?;
    resume(notices, &machine);
    if planted() {
        machine.write_at(6 * MIB)?;
        machine.reboot()?;
        resume(notices, &machine);
    }
    judged(notices, &machine)
}

/// The state files of the boot before are there again.
pub fn state_of_another_boot(notices: &mut Notices) -> Result<()> {
    let scratch = Scratch::new("planted")?;
    let mut machine = machine(&scratch)?;
    // once before, so that the disk gets the number that it will have after the next one, too
    save(notices, &machine)?;
    machine.reboot()?;
    resume(notices, &machine);
    let old: PathBuf = machine.care.home.path().join("state");
    save(notices, &machine)?;
    machine.reboot()?;
    // `resume` would put it right, believed or not: the programs are gone
    match planted() {
        true => {
            run("cp", ["-r".as_ref(), old.as_os_str(), machine.care.home.path().as_os_str()]).map(|_| ())?
        }
        false => resume(notices, &machine),
    }
    judged(notices, &machine)
}
