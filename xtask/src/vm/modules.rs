//! The kernel modules a guest needs, with those they need, unpacked into a folder of their own.

use super::fetch::{KernelFiles, kmod};
use super::initramfs::Extent;
use crate::command::{quiet, say, text};
use crate::workspace::{fresh_dir, write_file};
use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Drivers, personalities, ciphers and file systems of the cases. A kernel may have one built in or not at all:
/// a case that misses it says so.
const WANTED: &[&str] = &[
    // the machine: console, disks
    "virtio_pci",
    "virtio_blk",
    "virtio_scsi",
    "virtio_console",
    "sd_mod",
    "sg",
    "scsi_debug",
    "nvme",
    "ata_piix",
    // kinds of devices
    "nbd",
    "loop",
    "zram",
    "null_blk",
    "brd",
    "nd_pmem",
    "nd_e820",
    // device mapper and md
    "dm_mod",
    "dm_crypt",
    "dm_thin_pool",
    "dm_snapshot",
    "dm_multipath",
    "dm_round_robin",
    "dm_queue_length",
    "dm_delay",
    "dm_flakey",
    "md_mod",
    "linear",
    "raid0",
    "raid1",
    "raid456",
    // ciphers and compressors
    "xts",
    "cbc",
    "essiv",
    "aes_generic",
    "aesni_intel",
    "sha256_generic",
    "lzo_rle",
    "lzo",
    "lz4",
    "zstd",
    // file systems, and the checksums they ask for by name
    "ext4",
    "xfs",
    "btrfs",
    "crc32c_generic",
    "crc32c_intel",
    "crc32c_cryptoapi",
    "libcrc32c",
    "xxhash_generic",
    "blake2b_generic",
];

/// Enough for virtual disks with ext4.
const FEW: &[&str] = &[
    "virtio_pci",
    "virtio_blk",
    "virtio_scsi",
    "virtio_console",
    "sd_mod",
    "loop",
    "ext4",
    "crc32c_generic",
    "crc32c_cryptoapi",
    "libcrc32c",
];

/// A folder with `lib/modules/VERSION`; made once for a kernel and a list.
pub fn stage(kernel: &KernelFiles, tools: &Path, extent: Extent) -> Result<PathBuf> {
    let wanted = match extent {
        Extent::Everything => WANTED,
        Extent::Little => FEW,
    };
    let folder = kernel.root.join(format!("modules-{}", extent.word()));
    let mark = kernel.root.join(format!("modules-{}.ok", extent.word()));
    if fs::read_to_string(&mark).is_ok_and(|have| have == wanted.join(" ")) {
        return Ok(folder);
    }
    fresh_dir(&folder)?;
    let source =
        kernel.root.join("lib/modules").canonicalize().context("find the modules")?.join(&kernel.version);
    let target = folder.join("lib/modules").join(&kernel.version);
    let (files, absent) = needed(kernel, tools, wanted)?;
    for file in files {
        let file = file.canonicalize().with_context(|| format!("find {}", file.display()))?;
        let inside =
            file.strip_prefix(&source).with_context(|| format!("{} is elsewhere", file.display()))?;
        unpack(&file, &target.join(inside))?;
    }
    for list in ["modules.builtin", "modules.builtin.modinfo", "modules.order"] {
        if source.join(list).exists() {
            fs::copy(source.join(list), target.join(list)).with_context(|| format!("copy {list}"))?;
        }
    }
    quiet(kmod(tools, "depmod")?.arg("-b").arg(&folder).arg(&kernel.version))?;
    say(format!("kernel {} has no modules {}", kernel.version, absent.join(" ")));
    write_file(&mark, wanted.join(" ").as_bytes())?;
    Ok(folder)
}

/// Files of all wanted modules and what they depend on; names the kernel does not have.
fn needed(
    kernel: &KernelFiles,
    tools: &Path,
    wanted: &[&'static str],
) -> Result<(BTreeSet<PathBuf>, Vec<&'static str>)> {
    let (mut files, mut absent) = (BTreeSet::new(), Vec::new());
    for name in wanted {
        let mut ask = kmod(tools, "modprobe")?;
        ask.args(["-S", &kernel.version, "-d"]).arg(&kernel.root).args(["--show-depends", name]);
        let Ok(lines) = text(&mut ask) else {
            absent.push(*name);
            continue;
        };
        let insert =
            |line: &str| Some(PathBuf::from(line.strip_prefix("insmod ")?.split_whitespace().next()?));
        files.extend(lines.lines().filter_map(insert));
    }
    if files.is_empty() {
        bail!("modprobe found no module of {}", kernel.version);
    }
    Ok((files, absent))
}

/// Copies a module, uncompressed: the guest is slow.
fn unpack(file: &Path, target: &Path) -> Result<()> {
    let program = match file.extension().and_then(|e| e.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => "cat",
    };
    let target = if program == "cat" { target.to_owned() } else { target.with_extension("") };
    fs::create_dir_all(target.parent().context("folder of a module")?).context("make a module's folder")?;
    let out = File::create(&target).with_context(|| format!("create {}", target.display()))?;
    let mut command = Command::new(program);
    if program != "cat" {
        command.arg("-dc");
    }
    let status = command.arg(file).stdin(Stdio::null()).stdout(out).status();
    let status = status.with_context(|| format!("start {program}"))?;
    if !status.success() {
        bail!("{program} of {} ended with {status}", file.display());
    }
    Ok(())
}
