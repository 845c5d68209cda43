//! Work on files: what a mounted file system makes of it is what the tracked device sees.
//!
//! [`churn`] is seeded and single-threaded; several may run at once in different folders.

use crate::device::{O_DIRECT, open_with, put};
use crate::image::Aligned;
use crate::random::Random;
use crate::raw::{Completions, write_mapped, write_uring};
use anyhow::{Context, Result};
use rustix::fs::FallocateFlags;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A file system to put on a device.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// As mkfs and mount call it.
    pub name: &'static str,
    /// Extra words for mkfs.
    pub mkfs: &'static [&'static str],
    /// Mount options.
    pub mount: &'static str,
}

/// The file systems and options of the oracle.
pub const KINDS: &[Kind] = &[
    Kind { name: "ext4", mkfs: &[], mount: "" },
    Kind { name: "ext4", mkfs: &[], mount: "discard,data=journal" },
    Kind { name: "ext4", mkfs: &["-b", "1024"], mount: "discard" },
    Kind { name: "xfs", mkfs: &[], mount: "" },
    Kind { name: "xfs", mkfs: &["-m", "rmapbt=1,reflink=1"], mount: "discard" },
    Kind { name: "btrfs", mkfs: &[], mount: "" },
    Kind { name: "btrfs", mkfs: &[], mount: "compress=zstd,discard=async" },
];

impl Kind {
    /// Makes the file system, overwriting whatever is there.
    pub fn make(&self, device: &Path) -> Result<()> {
        let force: &[&str] = if self.name == "ext4" { &["-q", "-F"] } else { &["-q", "-f"] };
        let device = device.to_str().context("path is not UTF-8")?;
        let words = force.iter().chain(self.mkfs).copied().chain([device]);
        crate::host::run(&format!("mkfs.{}", self.name), words).map(|_| ())
    }

    /// Name and options.
    pub fn label(&self) -> String {
        [self.name, &self.mkfs.join(" "), self.mount]
            .join(" ")
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// Checks the unmounted file system on `device` (an image file will do); an error if it is not clean.
    pub fn check(&self, device: &Path) -> Result<()> {
        let (program, words): (&str, &[&str]) = match self.name {
            "ext4" => ("e2fsck", &["-fn"]),
            "xfs" => ("xfs_repair", &["-n", "-f"]),
            _ => ("btrfs", &["check", "--readonly", "--force"]),
        };
        let device = device.to_str().context("path is not UTF-8")?;
        crate::host::run(program, words.iter().copied().chain([device]))
            .map(|_| ())
            .with_context(|| format!("{} is not clean", self.name))
    }
}

/// `steps` random operations on files in `folder`; ends with syncfs.
pub fn churn(folder: &Path, random: &mut Random, steps: u64) -> Result<()> {
    fs::create_dir_all(folder)?;
    let mut names: Vec<PathBuf> = Vec::new();
    for step in 0..steps {
        if names.is_empty() || random.below(4) == 0 {
            names.push(create(folder, random, step)?);
            continue;
        }
        let index = random.below(names.len() as u64) as usize;
        let path = names[index].clone();
        match random.below(10) {
            0 => {
                fs::remove_file(&path)?;
                names.swap_remove(index);
            }
            1 => names[index] = moved(folder, &path, step)?,
            2 => open_with(&path, 0)?.set_len(random.below(200_000))?,
            _ => change(&path, random)?,
        }
    }
    rustix::fs::syncfs(File::open(folder)?).context("syncfs")
}

fn create(folder: &Path, random: &mut Random, step: u64) -> Result<PathBuf> {
    let sub = folder.join(format!("d{}", random.below(5)));
    fs::create_dir_all(&sub)?;
    let path = sub.join(format!("f{step}"));
    let most = 1 << random.between(8, 18);
    let length = random.below(most) as usize;
    put(&path, &random.bytes(length))?;
    Ok(path)
}

fn moved(folder: &Path, path: &Path, step: u64) -> Result<PathBuf> {
    let to = folder.join(format!("moved{step}"));
    #[expect(clippy::disallowed_methods, reason = "the rename is the workload, nothing is published")]
    fs::rename(path, &to)?;
    Ok(to)
}

/// One change inside a file, in one of the ways files are written.
fn change(path: &Path, random: &mut Random) -> Result<()> {
    let file = open_with(path, 0)?;
    let at = random.below(256) * 4096;
    let length = (4096 * random.between(1, 16)) as usize;
    let data = Aligned::random(length, random);
    match random.below(8) {
        0 => file.write_all_at(&data, at + random.below(4096))?,
        1 => {
            file.write_all_at(&data, at)?;
            file.sync_all()?;
        }
        2 => open_with(path, libc::O_DSYNC)?.write_all_at(&data, at)?,
        // btrfs and tmpfs-like layers may refuse O_DIRECT on some files: then buffered
        3 => match open_with(path, O_DIRECT) {
            Ok(direct) => direct.write_all_at(&data, at)?,
            Err(_) => file.write_all_at(&data, at)?,
        },
        // a page that finds no room any more ends the process by SIGBUS
        4 if room(&file)? > 1 << 20 => {
            file.set_len(file.metadata()?.len().max(at + length as u64))?;
            write_mapped(&file, at, &data)?;
        }
        5 => fallocate(&file, FallocateFlags::empty(), at, 1 << 20)?,
        6 => fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, at, length as u64)?,
        _ => {
            if write_uring(&file, at, &data, 16 << 10, Completions::Interrupts).is_err() {
                file.write_all_at(&data, at)?;
            }
        }
    }
    Ok(())
}

/// Bytes that may still be written to the file system of `file`.
fn room(file: &File) -> Result<u64> {
    let told = rustix::fs::fstatvfs(file).context("statvfs")?;
    Ok(told.f_bavail * told.f_frsize)
}

fn fallocate(file: &File, flags: FallocateFlags, at: u64, length: u64) -> Result<()> {
    match rustix::fs::fallocate(file, flags, at, length) {
        Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
        other => other.context("fallocate"),
    }
}

/// Gives the device back what the file system no longer uses; `false` where it cannot.
pub fn trim(mountpoint: &Path) -> Result<bool> {
    Ok(crate::host::run("fstrim", [mountpoint]).is_ok())
}
