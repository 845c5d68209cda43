//! Trials of the programs: every way of writing at places where a fault would show, on every kind of device.

use super::judged::{AREA, judged};
use super::notice::Notices;
use crate::device::{Loop, LoopNumber, O_DIRECT, Zram, open_with, size_of};
use crate::image::{Aligned, fill};
use crate::product::Home;
use crate::protected::Protected;
use crate::random::Random;
use crate::scratch::Scratch;
use crate::workload::discard;
use anyhow::{Context, Result};
use rustix::fs::FallocateFlags;
use std::os::unix::fs::FileExt;
use std::path::Path;

const MIB: u64 = 1 << 20;
/// With an end that no area fills.
const SIZE: u64 = 16 * MIB + 5 * 512;

/// Writes so that each fault in marking has a place where it shows; no place is written twice.
fn write_all_over(device: &Path, random: &mut Random) -> Result<()> {
    let file = open_with(device, O_DIRECT)?;
    let mut write = |at: u64, length: u64| -> Result<()> {
        let data = Aligned::random(length as usize, random);
        file.write_all_at(&data, at).with_context(|| format!("write {length} bytes at {at}"))
    };
    for area in 2..34 {
        write(area * AREA, AREA)?; // every place in a word
    }
    for area in 200..210 {
        write(area * AREA, 512)?; // the first sector of an area, and no more
        write((area + 20) * AREA + 7 * 512, 512)?; // the last
    }
    write(MIB + 63 * AREA, 2 * AREA)?; // over the end of a word
    write(2 * MIB + 3 * 512, MIB)?; // whole words, and parts of areas at both ends
    write(size_of(device)? / 512 * 512 - 512, 512)?; // the device's last sector
    Ok(())
}

/// What changes content and is no write.
fn empty_all_over(device: &Path) -> Result<()> {
    let file = open_with(device, O_DIRECT)?;
    discard(&file, 4 * MIB, MIB).context("discard")?;
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&file, punch, 6 * MIB, MIB).context("write zeroes")
}

/// Fresh device, first backup, writes, judgement.
fn trial(notices: &mut Notices, scratch: &Scratch, device: &Path, random: &mut Random) -> Result<()> {
    let care = Protected::new(scratch, device)?;
    if notices.took(care.backup(&[])).is_none() {
        return Ok(());
    }
    judged(notices, &care, || write_all_over(device, random))
}

/// A loop device: requests.
pub fn of_requests(notices: &mut Notices) -> Result<()> {
    let (scratch, mut random) = (Scratch::new("planted")?, Random::for_test("planted: requests"));
    let disk = Loop::new(&scratch, "disk", SIZE)?;
    fill(disk.path(), &mut random)?;
    trial(notices, &scratch, disk.path(), &mut random)
}

/// Discards and zeroes.
pub fn that_empty(notices: &mut Notices) -> Result<()> {
    let (scratch, mut random) = (Scratch::new("planted")?, Random::for_test("planted: emptied"));
    let disk = Loop::new(&scratch, "disk", SIZE)?;
    fill(disk.path(), &mut random)?;
    let care = Protected::new(&scratch, disk.path())?;
    care.backup(&[])?;
    judged(notices, &care, || empty_all_over(disk.path()))
}

/// A zram device: bios.
pub fn of_bios(notices: &mut Notices) -> Result<()> {
    let (scratch, mut random) = (Scratch::new("planted")?, Random::for_test("planted: bios"));
    let zram = Zram::new(16 * MIB)?;
    fill(&zram.path(), &mut random)?;
    let care = Protected::new(&scratch, &zram.path())?;
    care.backup(&[])?;
    judged(notices, &care, || {
        let file = open_with(&zram.path(), O_DIRECT)?;
        for area in 100..132 {
            file.write_all_at(&Aligned::random(AREA as usize, &mut random), area * AREA)?;
        }
        Ok(())
    })
}

/// A device whose minor number does not fit into 8 bits.
pub fn of_a_large_minor(notices: &mut Notices) -> Result<()> {
    let (scratch, mut random) = (Scratch::new("planted")?, Random::for_test("planted: minor"));
    let number = LoopNumber::add(256 * (1 + std::process::id() % 1000) + 77)?;
    let image = scratch.path().join("far.img");
    std::fs::File::create(&image)?.set_len(SIZE)?;
    let far = Loop::at(&number.path(), &image)?;
    fill(far.path(), &mut random)?;
    trial(notices, &scratch, far.path(), &mut random)
}

/// Two partitions of one disk, both tracked, each judged for itself; the second begins in the middle of an area.
pub fn of_partitions(notices: &mut Notices) -> Result<()> {
    let (scratch, mut random) = (Scratch::new("planted")?, Random::for_test("planted: partitions"));
    let disk = Loop::new(&scratch, "disk", 40 * MIB)?;
    fill(disk.path(), &mut random)?;
    let parts = disk.partition("label: dos\nstart=2048, size=32773\nstart=36865, size=32773\n")?;
    let first = Protected::new(&scratch, &parts[0])?;
    let home = Home::at(first.home.path())?;
    first.home.ok(["track".as_ref(), parts[1].as_os_str()])?;
    let second = Protected::adopt(&scratch, home, &parts[1]);
    let both = [&first, &second];
    for care in both {
        care.backup(&[])?;
    }
    for care in both {
        judged(notices, care, || write_all_over(&care.device, &mut random))?;
    }
    Ok(())
}
