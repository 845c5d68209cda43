//! The table of cases: a kind of device, what is expected of it, how it is made and written.

use super::make::{self, crypt, disk, dm, file, group, linear, looped, md, module, sectors, volume};
use super::trial::{Fate, Trial};
use super::{gap, passthrough, special};
use crate::device::Mounted;
use crate::files::{self, Kind};
use crate::scratch::Scratch;
use crate::workload::{Outcome, churn};
use anyhow::{Context, Result};
use serde_json::json;
use std::fs;
use std::path::Path;

/// One kind of device.
pub struct Case {
    /// Its name, in docs/KERNELS.md too.
    pub name: &'static str,
    /// What must come of it.
    pub expect: Fate,
    /// What the kernel must be told at boot.
    pub boot: &'static str,
    run: fn(&mut Trial) -> Result<()>,
}

const fn case(name: &'static str, expect: Fate, run: fn(&mut Trial) -> Result<()>) -> Case {
    Case { name, expect, boot: "", run }
}

use Fate::{Refused, Whole};

/// In the order in which they run.
pub const CASES: &[Case] = &[
    case("all programs, three copies of each", Whole, special::every_program),
    case("virtio-blk", Whole, |t| on_disk(t, "a")),
    case("SCSI, 512-byte sectors", Whole, |t| on_disk(t, "scsi512")),
    case("SCSI, 512e", Whole, |t| on_disk(t, "scsi512e")),
    case("SCSI, 4Kn", Whole, |t| on_disk(t, "scsi4k")),
    case("SCSI, requests issued again", Whole, special::requeued),
    case("NVMe", Whole, |t| on_disk(t, "nvme")),
    case("NVMe, polled by io_uring", Whole, special::polled),
    case("partition of virtio-blk", Whole, |t| partition_of(t, "a")),
    case("partition of 4Kn SCSI", Whole, |t| partition_4k(t, "scsi4k")),
    case("nbd", Whole, special::nbd),
    case("loop", Whole, |t| {
        let backing = file(t, "loop.img", SIZE)?;
        let device = looped(t, &backing, None, "")?;
        t.all_ways(&device, &device)
    }),
    case("loop, minor above 255", Whole, |t| {
        let device = looped(t, &disk("b")?, Some(300), "")?;
        t.all_ways(&device, &device)
    }),
    case("loop with direct I/O", Whole, |t| {
        let device = looped(t, &disk("b")?, None, "--direct-io=on")?;
        t.all_ways(&device, &device)
    }),
    case("disk under a loop on a file on it", Whole, loop_on_file),
    case("partition on loop", Whole, partition_on_loop),
    case("zram", Whole, special::zram),
    case("null_blk", Whole, |t| special::null_blk(t, &[])),
    case("null_blk, 4 queues, IRQ by timer", Whole, |t| {
        special::null_blk(t, &[("submit_queues", "2"), ("irqmode", "2"), ("completion_nsec", "100000")])
    }),
    case("zoned null_blk", Whole, special::zoned),
    case("dm-linear", Whole, |t| {
        let device = linear(t, "line", &disk("b")?)?;
        t.all_ways(&device, &device)
    }),
    case("dm-crypt", Whole, |t| {
        let device = crypt(t, "secret", &disk("b")?)?;
        t.all_ways(&device, &device)
    }),
    case("dm-linear over reboots", Whole, gap::dm_over_reboots),
    case("virtio-blk, the clock set back and forth", Whole, gap::clock_set_back),
    case("disk under dm-crypt", Whole, |t| {
        let device = crypt(t, "secret", &disk("b")?)?;
        t.all_ways(&disk("b")?, &device)
    }),
    case("LVM, thick", Whole, |t| {
        group(t, &[disk("b")?, disk("c")?])?;
        let device = volume("-l 60", "thick")?;
        t.all_ways(&device, &device)
    }),
    case("LVM, thin", Whole, |t| thin(t).and_then(|device| t.all_ways(&device, &device))),
    case("disk under LVM, thin", Whole, |t| thin(t).and_then(|device| t.all_ways(&disk("b")?, &device))),
    case("dm-multipath", Whole, |t| multipath(t).and_then(|(device, _)| t.all_ways(&device, &device))),
    case("path of dm-multipath", Refused, |t| {
        multipath(t).and_then(|(device, path)| t.all_ways(&path, &device))
    }),
    case("md RAID 0", Whole, |t| raid(t, "0", "", &["e", "f"], None)),
    case("disk under md RAID 0", Whole, |t| raid(t, "0", "", &["e", "f"], Some("e"))),
    case("md RAID 1", Whole, |t| raid(t, "1", "--assume-clean", &["b", "c"], None)),
    case("disk under md RAID 1", Whole, |t| raid(t, "1", "--assume-clean", &["b", "c"], Some("c"))),
    case("md RAID 5", Whole, |t| raid(t, "5", "--assume-clean --size=66M", &["b", "c", "d"], None)),
    case("disk under md RAID 5", Whole, |t| {
        raid(t, "5", "--assume-clean --size=66M", &["b", "c", "d"], Some("d"))
    }),
    case("dm-linear on dm-crypt on md RAID 0", Whole, |t| {
        let below = md(t, "0", "", &[disk("e")?, disk("f")?])?;
        let middle = crypt(t, "middle", &below)?;
        let device = linear(t, "top", &middle)?;
        t.all_ways(&device, &device)
    }),
    case("loop on dm-linear", Whole, |t| {
        let below = linear(t, "below", &disk("b")?)?;
        let device = looped(t, &below, None, "")?;
        t.all_ways(&device, &device)
    }),
    case("ext4 on virtio-blk", Whole, |t| disk("a").and_then(|path| file_system(t, &path, &files::KINDS[1]))),
    case("XFS with discard on NVMe", Whole, xfs_on_nvme),
    case("btrfs on SCSI", Whole, |t| {
        disk("scsi512").and_then(|path| file_system(t, &path, &files::KINDS[6]))
    }),
    case("SCSI command written by SG_IO", Whole, passthrough::sg_write),
    case("SCSI WRITE SAME by SG_IO", Whole, passthrough::sg_write_same),
    case("NVMe write by io-passthru", Whole, passthrough::nvme_write),
    case("pmem (DAX)", Refused, special::pmem),
    // a boot of its own for each of these
    locked("lockdown=integrity", |t| special::under_lockdown(t, "integrity")),
    locked("lockdown=confidentiality", |t| special::under_lockdown(t, "confidentiality")),
    case("each verb with its capabilities, and one less", Whole, special::privileges),
];

/// On a kernel that keeps root from changing it, or from reading it as well; the name is its word at boot.
const fn locked(name: &'static str, run: fn(&mut Trial) -> Result<()>) -> Case {
    Case { name, expect: Whole, boot: name, run }
}

/// Bytes of devices made in memory: what all ways of writing need.
pub const SIZE: u64 = 128 << 20;

/// Prints the cases for the host.
pub fn list() -> Result<()> {
    for case in CASES {
        println!("{}", json!({ "name": case.name, "expect": case.expect.word(), "boot": case.boot }));
    }
    Ok(())
}

/// Runs one case; its last line says what came of it.
pub fn run(name: &str) -> Result<()> {
    let case = CASES.iter().find(|case| case.name == name).with_context(|| format!("no case {name}"))?;
    let mut trial = Trial::new(name)?;
    let ran = (case.run)(&mut trial);
    println!("{}", trial.end(ran));
    Ok(())
}

fn on_disk(trial: &mut Trial, serial: &str) -> Result<()> {
    let path = disk(serial)?;
    trial.all_ways(&path, &path)
}

fn partition_of(trial: &mut Trial, serial: &str) -> Result<()> {
    let [first, second] = make::partitions(trial, &disk(serial)?)?;
    trial.all_ways(&first, &first)?;
    trial.all_ways(&second, &disk(serial)?)
}

fn partition_4k(trial: &mut Trial, serial: &str) -> Result<()> {
    let path = disk(serial)?;
    // the table is in logical blocks: 4 KiB each
    let nodes = make::partitioned(trial, &path, "label: gpt\nstart=256, size=20001\nstart=20480\n")?;
    nodes.iter().try_for_each(|node| trial.all_ways(node, node))
}

fn partition_on_loop(trial: &mut Trial) -> Result<()> {
    let device = looped(trial, &disk("b")?, None, "-P")?;
    let [first, _] = make::partitions(trial, &device)?;
    trial.all_ways(&first, &first)
}

/// The file system's device is tracked, the loop device on a file in it is written.
fn loop_on_file(trial: &mut Trial) -> Result<()> {
    let below = disk("a")?;
    let scratch = Scratch::new("loop")?;
    module("ext4");
    files::KINDS[0].make(&below)?;
    let mounted = Mounted::new(&scratch, &below, "")?;
    let inner = mounted.point().join("inner.img");
    fs::File::create(&inner)?.set_len(48 << 20)?;
    let node = looped(trial, &inner, None, "")?;
    let worked = trial.one_work(&below, "mixture on the loop device", |random| {
        churn(&node, random, 100)?;
        rustix::fs::sync();
        Ok(Outcome::Done)
    });
    make::sh(&format!("losetup -d {}", node.display()))?;
    trial.forget_undo();
    mounted.unmount()?;
    worked
}

fn thin(trial: &mut Trial) -> Result<std::path::PathBuf> {
    module("dm_thin_pool");
    group(trial, &[disk("b")?, disk("c")?])?;
    make::sh("lvm lvcreate -qq -y --type thin-pool -L 180M --poolmetadatasize 4M -n pool vg")?;
    make::sh("lvm lvcreate -qq -y -V 128M --thinpool vg/pool -n thin")?;
    make::named("thin")
}

/// A map over both paths to one SCSI disk, and its first path.
fn multipath(trial: &mut Trial) -> Result<(std::path::PathBuf, std::path::PathBuf)> {
    disk("mpath")?;
    module("dm_multipath");
    module("dm_round_robin");
    let paths = make::disks("mpath")?;
    let list: Vec<String> = paths.iter().map(|path| format!("{} 4", path.display())).collect();
    let (length, count) = (sectors(&paths[0])?, paths.len());
    let table = format!("0 {length} multipath 0 0 1 1 round-robin 0 {count} 1 {}", list.join(" "));
    trial.note(format!("{count} paths"));
    Ok((dm(trial, "mpath", &table)?, paths[0].clone()))
}

/// Writes to an array; tracks it, or one of its disks.
fn raid(trial: &mut Trial, level: &str, options: &str, serials: &[&str], member: Option<&str>) -> Result<()> {
    let below = serials.iter().map(|serial| disk(serial)).collect::<Result<Vec<_>>>()?;
    let device = md(trial, level, options, &below)?;
    let tracked = member.map_or_else(|| Ok(device.clone()), disk)?;
    trial.all_ways(&tracked, &device)
}

/// mkfs, a mounted workload, trimming, unmounting.
fn file_system(trial: &mut Trial, path: &Path, kind: &Kind) -> Result<()> {
    module(kind.name);
    let scratch = Scratch::new("fs")?;
    let Some(mut sight) = trial.track(path)? else { return Ok(()) };
    let before = trial.settle(&mut sight)?;
    let before = trial.judged(&mut sight, before, |trial| {
        trial.one(&format!("mkfs {}", kind.label()), |_| kind.make(path).map(|()| Outcome::Done))
    })?;
    let mounted = Mounted::new(&scratch, path, kind.mount)?;
    let before = trial.judged(&mut sight, before, |trial| {
        trial.one("files", |random| {
            files::churn(&mounted.point().join("one"), random, 150)?;
            files::churn(&mounted.point().join("two"), random, 150).map(|()| Outcome::Done)
        })
    })?;
    trial.judged(&mut sight, before, |trial| {
        trial.one("delete, trim, unmount", |_| {
            fs::remove_dir_all(mounted.point().join("one"))?;
            rustix::fs::sync();
            files::trim(mounted.point())?;
            mounted.unmount().map(|()| Outcome::Done)
        })
    })?;
    Ok(())
}

fn xfs_on_nvme(trial: &mut Trial) -> Result<()> {
    // mkfs.xfs wants 300 MiB
    file_system(trial, &disk("nvmexfs")?, &files::KINDS[4])
}
