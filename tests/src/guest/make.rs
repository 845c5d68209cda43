//! Devices of a guest: the host's disks by their serial numbers, and what is built on them.

use super::trial::Trial;
use crate::device::{put, size_of, wait_until};
use crate::host::run;
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::{Path, PathBuf};

/// The disks with this serial number: several are paths to one.
pub fn disks(serial: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/sys/block")?.flatten() {
        let read = |name: &str| fs::read(entry.path().join(name)).unwrap_or_default();
        // virtio-blk, NVMe, SCSI (vital product data page 0x80, four bytes before the number)
        let (plain, device, page) = (read("serial"), read("device/serial"), read("device/vpd_pg80"));
        let names = [&plain[..], &device[..], page.get(4..).unwrap_or_default()];
        if names.iter().any(|name| String::from_utf8_lossy(name).trim().trim_end_matches('\0') == serial) {
            found.push(Path::new("/dev").join(entry.file_name()));
        }
    }
    found.sort();
    Ok(found)
}

/// The disk with this serial number; drivers look for their disks in the background.
pub fn disk(serial: &str) -> Result<PathBuf> {
    let look = || disks(serial).unwrap_or_default().pop();
    wait_until(|| look().is_some(), &format!("the disk {serial}"))?;
    look().with_context(|| format!("no disk {serial}"))
}

/// Runs a shell command.
pub fn sh(command: &str) -> Result<String> {
    run("sh", ["-c", command])
}

/// Loads a module; false if this kernel has none of that name.
pub fn module(name: &str) -> bool {
    run("modprobe", ["-q", name]).is_ok()
}

/// A device-mapper device with this table.
pub fn dm(trial: &mut Trial, name: &str, table: &str) -> Result<PathBuf> {
    sh(&format!("dmsetup create {name} --table '{table}'"))?;
    trial.undo(format!("dmsetup remove {name}"));
    let path = PathBuf::from(format!("/dev/mapper/{name}"));
    ensure!(path.exists(), "dmsetup made no {}", path.display());
    by_number(&path)
}

/// The node with the kernel's name of the same device: sysfs goes by that.
pub fn by_number(path: &Path) -> Result<PathBuf> {
    let number = rustix::fs::stat(path).with_context(|| format!("look at {}", path.display()))?.st_rdev;
    let link = format!("/sys/dev/block/{}:{}", rustix::fs::major(number), rustix::fs::minor(number));
    let sysfs = fs::canonicalize(&link).with_context(|| format!("find {link}"))?;
    Ok(Path::new("/dev").join(sysfs.file_name().context("name of a device")?))
}

/// Sectors of a device.
pub fn sectors(device: &Path) -> Result<u64> {
    Ok(size_of(device)? / 512)
}

/// A part of `below`, all of it but its first MiB.
pub fn linear(trial: &mut Trial, name: &str, below: &Path) -> Result<PathBuf> {
    let length = sectors(below)? - 2048;
    dm(trial, name, &format!("0 {length} linear {} 2048", below.display()))
}

/// `below`, encrypted, discards let through.
pub fn crypt(trial: &mut Trial, name: &str, below: &Path) -> Result<PathBuf> {
    module("dm_crypt");
    let key = "0123456789abcdef".repeat(8);
    let (length, below) = (sectors(below)?, below.display());
    dm(trial, name, &format!("0 {length} crypt aes-xts-plain64 {key} 0 {below} 0 1 allow_discards"))
}

/// An array of md.
pub fn md(trial: &mut Trial, level: &str, options: &str, below: &[PathBuf]) -> Result<PathBuf> {
    let personality = if level == "5" { "raid456".to_owned() } else { format!("raid{level}") };
    ensure!(module(&personality), "no module {personality}");
    let list: Vec<String> = below.iter().map(|path| path.display().to_string()).collect();
    let (count, list) = (list.len(), list.join(" "));
    for disk in below {
        sh(&format!("dd if=/dev/zero of={} bs=1M count=2 conv=fsync 2>/dev/null", disk.display()))?;
    }
    sh(&format!(
        "yes | mdadm --create /dev/md0 --run --quiet --level={level} --raid-devices={count} {options} {list}"
    ))?;
    trial.undo(format!("mdadm --stop --quiet /dev/md0 && mdadm --zero-superblock --quiet {list}"));
    Ok("/dev/md0".into())
}

/// A volume group on these disks.
pub fn group(trial: &mut Trial, below: &[PathBuf]) -> Result<()> {
    let list: Vec<String> = below.iter().map(|path| path.display().to_string()).collect();
    let list = list.join(" ");
    sh(&format!("lvm pvcreate -qq -ff -y {list} && lvm vgcreate -qq vg {list}"))?;
    trial.undo(format!("lvm vgremove -qq -f vg && lvm pvremove -qq {list}"));
    Ok(())
}

/// A logical volume, made with these words of lvcreate.
pub fn volume(words: &str, name: &str) -> Result<PathBuf> {
    sh(&format!("lvm lvcreate -qq -y -Wn -Zn {words} -n {name} vg"))?;
    named(name)
}

/// The node of a logical volume.
pub fn named(volume: &str) -> Result<PathBuf> {
    let path = PathBuf::from(format!("/dev/mapper/vg-{volume}"));
    ensure!(path.exists(), "lvm made no {}", path.display());
    by_number(&path)
}

/// A device's name without its folder.
pub fn name(device: &Path) -> Result<String> {
    Ok(device.file_name().context("name of a device")?.to_string_lossy().into_owned())
}

/// A loop device on a file or device; `number` chooses which one.
pub fn looped(trial: &mut Trial, backing: &Path, number: Option<u32>, options: &str) -> Result<PathBuf> {
    let node = match number {
        Some(number) => {
            let node = format!("/dev/loop{number}");
            sh(&format!("[ -b {node} ] || mknod {node} b 7 {number}"))?;
            node
        }
        None => sh("losetup -f")?,
    };
    sh(&format!("losetup {options} {node} {}", backing.display()))?;
    trial.undo(format!("losetup -d {node}"));
    Ok(node.into())
}

/// A file in memory.
pub fn file(trial: &mut Trial, name: &str, size: u64) -> Result<PathBuf> {
    let path = PathBuf::from("/dev/shm").join(name);
    fs::File::create(&path)?.set_len(size)?;
    trial.undo(format!("rm {}", path.display()));
    Ok(path)
}

/// Two partitions on a disk; the first begins off every 4 KiB boundary.
pub fn partitions(trial: &mut Trial, disk: &Path) -> Result<[PathBuf; 2]> {
    partitioned(trial, disk, "label: dos\nstart=2049, size=30003\nstart=34000\n")
}

/// Two partitions by a script of sfdisk(8).
pub fn partitioned(trial: &mut Trial, disk: &Path, script: &str) -> Result<[PathBuf; 2]> {
    put(Path::new("/run/table"), script.as_bytes())?;
    sh(&format!("sfdisk -q --no-reread {0} < /run/table && partx -u {0}", disk.display()))?;
    let disk = disk.display().to_string();
    trial.undo(format!("partx -d {disk}"));
    let between = if disk.ends_with(|c: char| c.is_ascii_digit()) { "p" } else { "" };
    let nodes = [1, 2].map(|number| PathBuf::from(format!("{disk}{between}{number}")));
    for node in &nodes {
        wait_until(|| node.exists(), &format!("{} to appear", node.display()))?;
    }
    Ok(nodes)
}

/// A null_blk device that keeps what is written, with these attributes.
pub fn null_blk(trial: &mut Trial, attributes: &[(&str, &str)]) -> Result<PathBuf> {
    sh("modprobe null_blk nr_devices=0")?;
    let before = blocks("nullb")?;
    let folder = "/sys/kernel/config/nullb/nullb9";
    fs::create_dir(folder).with_context(|| format!("make {folder}"))?;
    trial.undo(format!("rmdir {folder}"));
    for (name, value) in
        [("memory_backed", "1"), ("size", "128")].iter().chain(attributes).chain(&[("power", "1")])
    {
        sh(&format!("echo {value} > {folder}/{name}"))?;
    }
    let new = blocks("nullb")?.into_iter().find(|path| !before.contains(path));
    let Some(path) = new else { bail!("null_blk made no device") };
    wait_until(|| path.exists(), "the node of null_blk")?;
    Ok(path)
}

fn blocks(prefix: &str) -> Result<Vec<PathBuf>> {
    let names = fs::read_dir("/sys/block")?.flatten().map(|e| e.file_name().to_string_lossy().into_owned());
    Ok(names.filter(|name| name.starts_with(prefix)).map(|name| Path::new("/dev").join(name)).collect())
}
