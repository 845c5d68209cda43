//! Trials of backup, audit and restore.

use super::judged::{at_rest, audit, backed_up, stored};
use super::notice::{Check, Notices};
use super::planted;
use crate::device::{Loop, Mounted, O_DIRECT, open_with, put};
use crate::files::KINDS;
use crate::image::{Aligned, Image, fill};
use crate::protected::{Protected, ensure_same};
use crate::random::Random;
use crate::scratch::Scratch;
use anyhow::{Context, Result, ensure};
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

const MIB: u64 = 1 << 20;
/// With an end that no area fills.
const SIZE: u64 = 8 * MIB + 5 * 512;

/// A filled disk with a first backup.
fn start<'a>(scratch: &'a Scratch, random: &mut Random) -> Result<(Loop, Protected<'a>)> {
    let disk = Loop::new(scratch, "disk", SIZE)?;
    fill(disk.path(), random)?;
    let care = Protected::new(scratch, disk.path())?;
    Ok((disk, care))
}

fn write(disk: &Loop, at: u64, length: usize, random: &mut Random) -> Result<()> {
    let file = open_with(disk.path(), O_DIRECT)?;
    file.write_all_at(&Aligned::random(length, random), at).context("write")
}

/// One backup fails when all is copied; what it would have held is in the next one.
pub fn after_a_failed_one(notices: &mut Notices) -> Result<()> {
    let (scratch, mut random) = (Scratch::new("planted")?, Random::for_test("planted: backups"));
    let (disk, care) = start(&scratch, &mut random)?;
    backed_up(notices, &care)?;
    write(&disk, MIB, 64 << 10, &mut random)?;
    let died = care.home.run_failing("job.before-finish=error", care.backup_words(&[]))?;
    ensure!(died.code == Some(1), "it was to fail: {died}");
    for at in [0, 3 * MIB, 5 * MIB] {
        write(&disk, at, 4096, &mut random)?;
    }
    write(&disk, SIZE - 512, 512, &mut random)?;
    audit(notices, &care)?;
    backed_up(notices, &care)?;
    audit(notices, &care)?;
    at_rest(notices, &care);
    Ok(())
}

/// What was written behind the tracker's back is found by the audit, compared by the next backup, and then well again.
pub fn after_a_doubt(notices: &mut Notices) -> Result<()> {
    let (scratch, mut random) = (Scratch::new("planted")?, Random::for_test("planted: doubts"));
    let (disk, care) = start(&scratch, &mut random)?;
    care.backup(&[])?;
    if planted() {
        let file = OpenOptions::new().write(true).open(disk.backing())?;
        file.write_all_at(&random.bytes(4096), 2 * MIB)?;
        file.sync_all()?;
        let found =
            care.home.run(["audit", &name(&disk), "--repo", &care.repo.display().to_string(), "--all"])?;
        // the hazard itself is noticed as always; whether that has its consequences is the question
        let suspect = care.home.json(["status"])?[0]["health"] == "suspect";
        notices.oracle(match found.code == Some(3) && suspect {
            true => Ok(()),
            false => Err(anyhow::anyhow!("exit code {:?} of the audit, suspect: {suspect}", found.code)),
        });
        care.backup(&[])?;
    }
    audit(notices, &care)?;
    backed_up(notices, &care)
}

fn name(disk: &Loop) -> String {
    disk.path().display().to_string()
}

/// The disk has bytes that cannot be read.
pub fn of_what_cannot_be_read(notices: &mut Notices) -> Result<()> {
    let (scratch, mut random) = (Scratch::new("planted")?, Random::for_test("planted: unreadable"));
    let (disk, care) = start(&scratch, &mut random)?;
    if planted() {
        OpenOptions::new().write(true).open(disk.backing())?.set_len(6 * MIB)?;
    }
    if notices.took(care.backup(&[])).is_some() && planted() {
        notices.note(Check::Oracle, "a point was made of what cannot be read");
    }
    Ok(())
}

/// Another disk comes to stand behind the device's name.
pub fn of_another_disk(notices: &mut Notices) -> Result<()> {
    let (scratch, mut random) = (Scratch::new("planted")?, Random::for_test("planted: another disk"));
    let (disk, care) = start(&scratch, &mut random)?;
    care.backup(&[])?;
    let other = scratch.path().join("other.img");
    put(&other, &random.bytes(SIZE as usize))?;
    let node = disk.path().to_path_buf();
    let _disk = if planted() {
        disk.detach()?;
        Loop::at(&node, &other)?
    } else {
        disk
    };
    audit(notices, &care)?;
    backed_up(notices, &care)
}

/// A point is restored to a disk that held something else.
pub fn restored_to_a_used_disk(notices: &mut Notices) -> Result<()> {
    let (scratch, mut random) = (Scratch::new("planted")?, Random::for_test("planted: restored"));
    let disk = Loop::new(&scratch, "disk", SIZE)?;
    write(&disk, MIB, 64 << 10, &mut random)?;
    let care = Protected::new(&scratch, disk.path())?;
    let point = care.backup(&[])?;
    let target = Loop::new(&scratch, "target", SIZE)?;
    fill(target.path(), &mut random)?;
    let (repo, to) = (care.repo.display().to_string(), name(&target));
    let ended = care.home.run(["restore", "--repo", &repo, "--point", &point.id, &to, "--verify"])?;
    if ended.code != Some(0) {
        notices.note(Check::Stored, ended.to_string());
    }
    notices.oracle(ensure_same(&Image::of(target.path())?, &Image::of(disk.path())?, "restored to a disk"));
    Ok(())
}

/// Files that were there before tracking, and one that is overwritten in place while its disk is mounted.
pub fn of_files(notices: &mut Notices) -> Result<()> {
    let (scratch, mut random) = (Scratch::new("planted")?, Random::for_test("planted: files"));
    let disk = Loop::new(&scratch, "disk", 64 * MIB)?;
    KINDS[0].make(disk.path())?;
    let mounted = Mounted::new(&scratch, disk.path(), "")?;
    let mut held: Vec<Vec<u8>> = (0..6).map(|_| random.bytes(2 << 20)).collect();
    for (nth, bytes) in held.iter().enumerate() {
        put(&mounted.point().join(nth.to_string()), bytes)?;
    }
    rustix::fs::sync();
    let care = Protected::new(&scratch, disk.path())?;
    care.backup(&[])?;
    held[3] = random.bytes(2 << 20);
    let file = OpenOptions::new().write(true).open(mounted.point().join("3"))?;
    file.write_all_at(&held[3], 0)?;
    file.sync_all()?;
    drop(file);
    audit(notices, &care)?;
    let point = care.backup(&[])?;
    notices.listed(&point.json["suspect"]);
    stored(notices, &care);
    audit(notices, &care)?;
    let restored = care.restore_file(&point.id)?;
    mounted.unmount()?;
    let copy = Loop::on(&restored, &[])?;
    let mounted = notices.took(Mounted::new(&scratch, copy.path(), "ro"));
    let Some(mounted) = mounted else { return copy.detach() };
    for (nth, bytes) in held.iter().enumerate() {
        let same = std::fs::read(mounted.point().join(nth.to_string())).is_ok_and(|read| read == *bytes);
        if !same {
            notices.note(Check::Oracle, format!("file {nth} differs in the restored disk"));
        }
    }
    mounted.unmount()?;
    copy.detach()
}
