//! The guest's programs and their libraries, in a folder that looks like its root.

use super::fetch::{libraries, loader};
use super::initramfs::Extent;
use crate::command::text;
use crate::workspace::{fresh_dir, write_file};
use anyhow::{Context, Result};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// What the cases run. busybox has the rest.
const PROGRAMS: &[&str] = &[
    // busybox's own shell would take its own losetup before any other
    "dash",
    "kmod",
    "dmsetup",
    "lvm",
    "mdadm",
    "pdata_tools",
    "setpriv",
    "losetup",
    "mount",
    "umount",
    "partx",
    "sfdisk",
    "blkzone",
    "fsfreeze",
    "fstrim",
    "mkfs.ext4",
    "e2fsck",
    "mkfs.xfs",
    "xfs_repair",
    "mkfs.btrfs",
    "nbd-server",
    "nbd-client",
    "sg_dd",
    "sg_write_same",
    "sg_write_x",
];

/// Enough for disks with ext4.
const FEW: &[&str] = &["dash", "kmod", "losetup", "mount", "umount", "mkfs.ext4"];

/// Other names of a program, by which it knows what to do.
const NAMES: &[(&str, &[&str])] = &[
    ("dash", &["sh"]),
    ("kmod", &["modprobe", "depmod", "insmod", "rmmod", "lsmod"]),
    ("pdata_tools", &["thin_check", "thin_dump", "thin_repair"]),
];

/// There is no udev in the guest: nobody answers, and nobody else makes nodes.
const LVM_CONF: &str = "activation { udev_sync=0 udev_rules=0 monitoring=0 }
devices { obtain_device_list_from_udev=0 use_devicesfile=0 external_device_info_source=\"none\" scan_lvs=0 }
backup { backup=0 archive=0 }
global { use_lvmpolld=0 use_lvmlockd=0 }
";

/// Makes the folder.
pub fn stage(folder: &Path, tools: &Path, extent: Extent) -> Result<()> {
    let programs = match extent {
        Extent::Everything => PROGRAMS,
        Extent::Little => FEW,
    };
    fresh_dir(folder)?;
    for inside in
        ["bin", "sbin", "lib64", "lib/x86_64-linux-gnu", "etc/lvm", "dev", "proc", "sys", "run", "tmp"]
    {
        fs::create_dir_all(folder.join(inside)).with_context(|| format!("make {inside}"))?;
    }
    copy(&find(tools, "busybox")?, &folder.join("bin/busybox"))?;
    copy(&loader(tools)?, &folder.join("lib64/ld-linux-x86-64.so.2"))?;
    for program in programs {
        let file = find(tools, program)?;
        copy(&file, &folder.join("sbin").join(program))?;
        for library in shared(tools, &file)? {
            let name = library.file_name().context("name of a library")?;
            copy(&library, &folder.join("lib/x86_64-linux-gnu").join(name))?;
        }
    }
    for (program, names) in NAMES.iter().filter(|(program, _)| programs.contains(program)) {
        for name in *names {
            symlink(program, folder.join("sbin").join(name)).with_context(|| format!("link {name}"))?;
        }
    }
    write_file(&folder.join("etc/lvm/lvm.conf"), LVM_CONF.as_bytes())?;
    write_file(&folder.join("etc/passwd"), b"root:x:0:0:root:/:/bin/sh\n")?;
    write_file(&folder.join("etc/group"), b"root:x:0:\n")?;
    symlink("/proc/mounts", folder.join("etc/mtab")).context("link mtab")
}

/// Where the packages put a program.
fn find(tools: &Path, program: &str) -> Result<PathBuf> {
    let places = ["sbin", "bin", "usr/sbin", "usr/bin"].map(|place| tools.join(place).join(program));
    places.into_iter().find(|path| path.exists()).with_context(|| format!("the packages have no {program}"))
}

/// The libraries that the loader finds for a program.
fn shared(tools: &Path, program: &Path) -> Result<Vec<PathBuf>> {
    let mut list = std::process::Command::new(loader(tools)?);
    list.arg("--library-path").arg(libraries(tools)).arg("--list").arg(program);
    let list = text(&mut list).with_context(|| format!("libraries of {}", program.display()))?;
    let path = |line: &str| Some(PathBuf::from(line.split_once("=> ")?.1.split(" (").next()?));
    Ok(list.lines().filter_map(path).collect())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).map(drop).with_context(|| format!("copy {} to {}", from.display(), to.display()))
}
