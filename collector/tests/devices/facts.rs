//! Promise: what is said about a device is what the kernel says.

use crate::rig::{Image, Loop, Mount, ready, run};
use collector::block::Extent;
use collector::sys::device::{BlockDevice, Driver, Partition};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};

#[test]
fn a_loop_device_and_its_partition() {
    if !ready("a_loop_device_and_its_partition", &["sfdisk", "addpart", "mkfs.ext4"]) {
        return;
    }
    let image = Image::new(64 << 20, 0);
    let mut sfdisk = Command::new("sfdisk").arg("-q").arg(&image.path).stdin(Stdio::piped()).spawn().unwrap();
    let table = b"label: dos\nstart=2MiB, size=32MiB\nstart=40MiB, size=8MiB\n";
    std::io::Write::write_all(&mut sfdisk.stdin.take().unwrap(), table).unwrap();
    assert!(sfdisk.wait().unwrap().success());
    let device = Loop::new(image, &["-P"]);
    let first = device.partition(1, Extent::new(2 << 20, 32 << 20));
    device.partition(2, Extent::new(40 << 20, 8 << 20));

    let disk = BlockDevice::open(&device.path).unwrap();
    assert_eq!((disk.size, disk.logical_block, disk.offset_on_disk()), (64 << 20, 512, 0));
    assert_eq!((&disk.driver, disk.partition, disk.disk), (&Driver::Loop, None, disk.dev));
    assert!(disk.request_based && disk.diskseq.is_some() && !disk.read_only && !disk.dax);
    assert_eq!(disk.backing_file.as_deref(), Some(device.image.path.as_path()));
    assert_eq!(disk.partitions().unwrap().len(), 2);
    assert!(!disk.is_claimed().unwrap());
    disk.open_backing_file().unwrap();

    let part = BlockDevice::open(&first).unwrap();
    assert_eq!(part.partition, Some(Partition { number: 1, start_sector: 4096 }));
    assert_eq!((part.size, part.disk, &part.driver), (32 << 20, disk.dev, &Driver::Loop));
    assert_eq!(part.whole_disk().unwrap().dev, disk.dev);
    assert_eq!(BlockDevice::of_number(part.dev).unwrap().name, part.name);
    run(&["mkfs.ext4", "-q", first.to_str().unwrap()]);
    let mount = Mount::new(&first, "noatime");
    assert_eq!(part.mounts().unwrap()[0].mountpoint, mount.dir);
    assert!(part.is_claimed().unwrap() && disk.is_claimed().unwrap());
}

#[test]
fn counters_move_with_writes() {
    if !ready("counters_move_with_writes", &[]) {
        return;
    }
    let device = Loop::new(Image::new(8 << 20, 0), &["--sector-size", "4096"]);
    let facts = BlockDevice::open(&device.path).unwrap();
    assert_eq!((facts.logical_block, facts.iostats), (4096, true));
    let before = facts.stat().unwrap();
    let file = File::options().write(true).open(&device.path).unwrap();
    file.write_all_at(&[1; 65536], 0).unwrap();
    file.sync_all().unwrap();
    let after = facts.stat().unwrap();
    assert_eq!(after.write_sectors - before.write_sectors, 128);
    assert_eq!(facts.writes_in_flight().unwrap(), 0);
}
