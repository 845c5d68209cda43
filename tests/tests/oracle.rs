//! Promise: whatever way a device is written, every changed 4 KiB block is on the difference list.

use anyhow::Result;
use std::path::Path;
use tests::device::{Loop, LoopNumber, Mounted, Zram};
use tests::files::{self, KINDS, Kind};
use tests::image::fill;
use tests::product::Home;
use tests::random::Random;
use tests::scratch::Scratch;
use tests::tracked::Tracked;
use tests::workload::{Outcome, WAYS, WAYS_NEED, churn};
use tests::{host, skip_if};

#[test]
fn every_way_of_writing_in_areas_of_4_kib() -> Result<()> {
    const NAME: &str = "oracle::every_way_of_writing_in_areas_of_4_kib";
    skip_if!(host::no_tracking(), NAME);
    let scratch = Scratch::new("oracle-ways")?;
    let mut random = Random::for_test(NAME);
    let device = Loop::new(&scratch, "disk", WAYS_NEED)?;
    fill(device.path(), &mut random)?;
    let mut tracked = Tracked::start(&Home::new(&scratch)?, device.path(), 4096)?;
    tracked.case("nothing", || Ok(Outcome::Done))?;
    for way in WAYS {
        tracked.case(way.name, || (way.run)(device.path(), &mut random))?;
    }
    tracked.finish()
}

#[test]
fn random_mixture_in_larger_areas_up_to_an_odd_end() -> Result<()> {
    const NAME: &str = "oracle::random_mixture_in_larger_areas_up_to_an_odd_end";
    skip_if!(host::no_tracking(), NAME);
    let scratch = Scratch::new("oracle-large")?;
    let mut random = Random::for_test(NAME);
    let home = Home::new(&scratch)?;
    for granularity in [8 << 10, 64 << 10, 1 << 20] {
        let device = Loop::new(&scratch, &format!("disk{granularity}"), 512 * 65_537)?;
        fill(device.path(), &mut random)?;
        let mut tracked = Tracked::start(&home, device.path(), granularity)?;
        for round in 0..3 {
            tracked.case(&format!("areas of {granularity}: mixture {round}"), || {
                churn(device.path(), &mut random, 20).map(|_| Outcome::Done)
            })?;
        }
        tracked.finish()?;
    }
    Ok(())
}

/// mkfs, a mounted workload, trimming and unmounting of one kind of file system.
fn one_file_system(tracked: &mut Tracked, scratch: &Scratch, random: &mut Random, kind: &Kind) -> Result<()> {
    let device = tracked.device().to_path_buf();
    let label = kind.label();
    tracked.case(&format!("mkfs {label}"), || kind.make(&device).map(|()| Outcome::Done))?;
    let mounted = Mounted::new(scratch, &device, kind.mount)?;
    for round in 0..2 {
        tracked.case(&format!("files on {label} {round}"), || {
            files::churn(&mounted.point().join(format!("r{round}")), random, 300)?;
            Ok(Outcome::Done)
        })?;
    }
    tracked.case(&format!("delete + fstrim {label}"), || {
        std::fs::remove_dir_all(mounted.point().join("r0"))?;
        rustix::fs::sync();
        Ok(if files::trim(mounted.point())? {
            Outcome::Done
        } else {
            Outcome::Unsupported("no fstrim".into())
        })
    })?;
    tracked.case(&format!("umount {label}"), || mounted.unmount().map(|()| Outcome::Done))?;
    Ok(())
}

fn file_systems(test: &str, name: &str) -> Result<()> {
    skip_if!(host::no_tracking(), test);
    skip_if!(host::no_filesystem(name), test);
    let scratch = Scratch::new("oracle-fs")?;
    let mut random = Random::for_test(test);
    // the smallest that mkfs takes with room for the work
    let size = if name == "xfs" { 304 } else { 144 };
    let device = Loop::new(&scratch, "disk", size << 20)?;
    let mut tracked = Tracked::start(&Home::new(&scratch)?, device.path(), 4096)?;
    for kind in KINDS.iter().filter(|k| k.name == name) {
        one_file_system(&mut tracked, &scratch, &mut random, kind)?;
    }
    tracked.finish()
}

#[test]
fn ext4() -> Result<()> {
    file_systems("oracle::ext4", "ext4")
}

#[test]
fn xfs() -> Result<()> {
    file_systems("oracle::xfs", "xfs")
}

#[test]
fn btrfs() -> Result<()> {
    file_systems("oracle::btrfs", "btrfs")
}

#[test]
fn partition_table_and_writes_through_partitions() -> Result<()> {
    const NAME: &str = "oracle::partition_table_and_writes_through_partitions";
    skip_if!(host::no_tracking(), NAME);
    let scratch = Scratch::new("oracle-parts")?;
    let mut random = Random::for_test(NAME);
    let disk = Loop::new(&scratch, "disk", 512 * 400_009)?;
    fill(disk.path(), &mut random)?;
    let home = Home::new(&scratch)?;
    let mut whole = Tracked::start(&home, disk.path(), 4096)?;
    let mut parts = Vec::new();
    whole.case("partition table", || {
        // the second partition begins and ends off every 4 KiB boundary
        parts = disk.partition("label: dos\nstart=2048, size=100001\nstart=104857\n")?;
        Ok(Outcome::Done)
    })?;
    for part in &parts {
        whole.case(&format!("through {}", part.display()), || {
            churn(part, &mut random, 100).map(|_| Outcome::Done)
        })?;
    }
    stacked_on(&mut whole, &scratch, &parts, &mut random)?;
    whole.finish()
}

/// A loop device on a partition, and one on a file in a file system on the other partition.
fn stacked_on(
    whole: &mut Tracked,
    scratch: &Scratch,
    parts: &[std::path::PathBuf],
    random: &mut Random,
) -> Result<()> {
    let on_part = Loop::on(&parts[0], &[])?;
    whole.case("loop device on a partition", || churn(on_part.path(), random, 100).map(|_| Outcome::Done))?;
    on_part.detach()?;
    KINDS[0].make(&parts[1])?;
    let mounted = Mounted::new(scratch, &parts[1], "")?;
    whole.case("loop device on a file in ext4 on a partition", || {
        let file = mounted.point().join("inner.img");
        std::fs::File::create(&file)?.set_len(24 << 20)?;
        let inner = Loop::on(&file, &[])?;
        churn(inner.path(), random, 100)?;
        inner.detach()?;
        rustix::fs::sync();
        Ok(Outcome::Done)
    })?;
    mounted.unmount()
}

#[test]
fn a_partition_is_tracked_with_its_own_sector_numbers() -> Result<()> {
    const NAME: &str = "oracle::a_partition_is_tracked_with_its_own_sector_numbers";
    skip_if!(host::no_tracking(), NAME);
    let scratch = Scratch::new("oracle-part")?;
    let mut random = Random::for_test(NAME);
    let disk = Loop::new(&scratch, "disk", 100 << 20)?;
    fill(disk.path(), &mut random)?;
    let parts = disk.partition("label: dos\nstart=2049, size=80003\nstart=90001, size=60000\n")?;
    let mut part = Tracked::start(&Home::new(&scratch)?, &parts[0], 4096)?;
    part.case("writes to the partition", || churn(&parts[0], &mut random, 200).map(|_| Outcome::Done))?;
    let around = |random: &mut Random| -> Result<Outcome> {
        churn(&parts[1], random, 50)?;
        Ok(Outcome::Done)
    };
    let verdict = part.case("writes to its neighbour", || around(&mut random))?;
    if let Some(verdict) = verdict {
        anyhow::ensure!(verdict.listed == 0, "the neighbour's writes were listed: {verdict}");
    }
    part.case("writes to the whole disk under it", || {
        churn(disk.path(), &mut random, 300).map(|_| Outcome::Done)
    })?;
    part.finish()
}

#[test]
fn four_kib_sectors_and_odd_sizes() -> Result<()> {
    const NAME: &str = "oracle::four_kib_sectors_and_odd_sizes";
    skip_if!(host::no_tracking(), NAME);
    let scratch = Scratch::new("oracle-odd")?;
    let mut random = Random::for_test(NAME);
    let home = Home::new(&scratch)?;
    for (name, size, sector) in
        [("prime", 512 * 65_537, 512), ("seven", 512 * 7, 512), ("4kn", 4096 * 8191, 4096)]
    {
        let device = Loop::with_sector(&scratch, name, size, sector)?;
        fill(device.path(), &mut random)?;
        let mut tracked = Tracked::start(&home, device.path(), 4096)?;
        for round in 0..5 {
            tracked.case(&format!("{name} {round}"), || {
                churn(device.path(), &mut random, 40).map(|_| Outcome::Done)
            })?;
        }
        tracked.finish()?;
    }
    Ok(())
}

/// Device numbers have 20 bits for the minor: one that does not fit into 8 is kept apart from its neighbour that does.
#[test]
fn a_minor_above_255_is_not_taken_for_another() -> Result<()> {
    const NAME: &str = "oracle::a_minor_above_255_is_not_taken_for_another";
    skip_if!(host::no_tracking(), NAME);
    let scratch = Scratch::new("oracle-minor")?;
    let mut random = Random::for_test(NAME);
    let near = Loop::new(&scratch, "near", 16 << 20)?;
    let minor: u32 = near.path().display().to_string().trim_start_matches("/dev/loop").parse()?;
    let number = LoopNumber::add(minor % 256 + 256 * (1 + std::process::id() % 1000))?;
    let image = scratch.path().join("far.img");
    std::fs::File::create(&image)?.set_len(16 << 20)?;
    let far = Loop::at(&number.path(), &image)?;
    for device in [&near, &far] {
        fill(device.path(), &mut random)?;
    }
    let mut tracked = Tracked::start(&Home::new(&scratch)?, far.path(), 4096)?;
    tracked.case(&format!("writes to {}", far.path().display()), || one_churn(far.path(), &mut random))?;
    let verdict = tracked.case("writes to its neighbour", || one_churn(near.path(), &mut random))?;
    anyhow::ensure!(verdict.is_some_and(|v| v.listed == 0), "the neighbour's writes were listed");
    tracked.finish()
}

#[test]
fn a_bio_based_device_is_complete_or_refused() -> Result<()> {
    const NAME: &str = "oracle::a_bio_based_device_is_complete_or_refused";
    skip_if!(host::no_tracking(), NAME);
    let zram = Zram::new(64 << 20);
    skip_if!(zram.as_ref().err().map(|e| format!("{e:#}")), NAME);
    let zram = zram?;
    let scratch = Scratch::new("oracle-zram")?;
    let mut random = Random::for_test(NAME);
    fill(&zram.path(), &mut random)?;
    let mut tracked = match Tracked::start(&Home::new(&scratch)?, &zram.path(), 4096) {
        Ok(tracked) => tracked,
        Err(e) => {
            host::say(&format!("{NAME}: zram is refused: {e:#}"));
            return Ok(());
        }
    };
    for round in 0..5 {
        tracked.case(&format!("zram {round}"), || one_churn(&zram.path(), &mut random))?;
    }
    tracked.finish()
}

fn one_churn(device: &Path, random: &mut Random) -> Result<Outcome> {
    churn(device, random, 100).map(|_| Outcome::Done)
}
