//! The kernel without its wrapping: qemu starts the plain ELF file at its PVH entry, and no emulated processor has to
//! unpack it at every boot.

use super::fetch::KernelFiles;
use crate::command::say;
use crate::workspace::write_file;
use anyhow::{Context, Result};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// First bytes of a packed kernel, and who unpacks it.
const PACKERS: [(&[u8], &str); 3] =
    [(b"\x28\xb5\x2f\xfd", "zstd"), (b"\xfd7zXZ\x00", "xz"), (b"\x1f\x8b\x08", "gzip")];

/// The kernel as an ELF file, unpacked once; the packed one where that cannot be.
pub fn plain(kernel: &KernelFiles) -> PathBuf {
    let target = kernel.root.join(format!("vmlinux-{}", kernel.version));
    let mark = kernel.root.join(format!("vmlinux-{}.ok", kernel.version));
    if mark.exists() {
        return target;
    }
    let unpacked = unpack(&kernel.image, &target).and_then(|done| match done {
        true => write_file(&mark, b"").map(|()| true),
        false => Ok(false),
    });
    match unpacked {
        Ok(true) => target,
        Ok(false) => kernel.image.clone(),
        Err(error) => {
            say(format!("{} stays packed: {error:#}", kernel.image.display()));
            kernel.image.clone()
        }
    }
}

/// Tries every place where something packed may begin; false if none gives a kernel.
fn unpack(image: &Path, target: &Path) -> Result<bool> {
    let bytes = fs::read(image).with_context(|| format!("read {}", image.display()))?;
    for (magic, program) in PACKERS {
        let places = bytes.windows(magic.len()).enumerate().filter(|(_, window)| *window == magic);
        for (at, _) in places.take(8) {
            let mut packed = File::open(image).context("open the kernel")?;
            packed.seek(SeekFrom::Start(at as u64)).context("seek in the kernel")?;
            let out = File::create(target).with_context(|| format!("create {}", target.display()))?;
            let mut command = Command::new(program);
            command.arg("-dc").stdin(packed).stdout(out).stderr(Stdio::null());
            // what follows the packed kernel is not packed: an error at the end is no error
            command.status().with_context(|| format!("start {program}"))?;
            if is_elf(target) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

fn is_elf(path: &Path) -> bool {
    let mut magic = [0; 4];
    File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && magic == *b"\x7fELF"
}
