//! What the benchmarks of backups stand on: a loop device full of real data; in memory, so that the tools and not
//! the disks are compared, or in the target folder, on a real disk.

use super::interleaved::Sample;
use crate::command::quiet;
use crate::rig::device::Loop;
use crate::rig::process::watch;
use crate::rig::product::{Product, utf8};
use crate::rig::random::Random;
use crate::rig::scratch::Scratch;
use anyhow::{Context, Result};
use rustix::fs::OFlags;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::process::Command;

/// Bytes of the device of most benchmarks.
pub const SIZE: u64 = 1 << 30;
/// Room for that device, the copies of all contenders, and what they keep.
pub const ROOM: u64 = 6 << 30;

/// The bed. Fields are dropped in this order.
pub struct Bed {
    device: Loop,
    /// The program.
    pub product: Product,
    /// Where everything is.
    pub scratch: Scratch,
}

impl Bed {
    /// In memory, if there is enough.
    pub fn in_memory(program: &Path) -> Result<Self> {
        Self::sized(program, SIZE, ROOM)
    }

    /// In memory, with a device of `size` bytes, and room for what is made of it.
    pub fn sized(program: &Path, size: u64, room: u64) -> Result<Self> {
        Self::make(program, Scratch::new(room)?, size, size)
    }

    /// In memory, with a device of `size` bytes that holds `content` bytes, and otherwise nothing.
    pub fn sparse(program: &Path, content: u64, size: u64, room: u64) -> Result<Self> {
        Self::make(program, Scratch::new(room)?, content, size)
    }

    /// Beside the program: on the disk it was built on.
    pub fn on_disk(program: &Path) -> Result<Self> {
        let folder = program.parent().context("folder of the program")?;
        Self::make(program, Scratch::in_folder(folder, ROOM)?, SIZE, SIZE)
    }

    /// Makes the device and tracks it.
    fn make(program: &Path, scratch: Scratch, content: u64, size: u64) -> Result<Self> {
        let source = scratch.join("source.img");
        real_data(&source, content)?;
        fs::OpenOptions::new()
            .write(true)
            .open(&source)?
            .set_len(size)
            .context("make the device's file as large")?;
        let device = Loop::on(&source)?;
        let product = Product::new(program.to_owned(), &scratch)?;
        product.run(&["track", utf8(device.path())?])?;
        Ok(Self { device, product, scratch })
    }

    /// The device.
    pub fn device(&self) -> &Path {
        self.device.path()
    }

    /// Its path as a word.
    pub fn word(&self) -> Result<&str> {
        utf8(self.device())
    }

    /// A backup into the repository `repo` of the scratch folder.
    pub fn backup(&self, repo: &str, more: &[&str]) -> Result<Sample> {
        let repo = self.scratch.join(repo);
        let words = [&["backup", self.word()?, "--repo", utf8(&repo)?], more].concat();
        Ok(Sample::from(&self.product.run(&words)?))
    }

    /// A whole walk of the program over one of its repositories.
    pub fn with_repository(&self, verb: &str, repo: &str, more: &[&str]) -> Result<Sample> {
        let repo = self.scratch.join(repo);
        let words = [&[verb, "--repo", utf8(&repo)?], more].concat();
        Ok(Sample::from(&self.product.run(&words)?))
    }

    /// Removes a file or folder of the scratch folder that may not be there.
    pub fn forget(&self, name: &str) -> Result<()> {
        let path = self.scratch.join(name);
        let gone = match fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_dir() => fs::remove_dir_all(&path),
            Ok(_) => fs::remove_file(&path),
            Err(_) => Ok(()),
        };
        gone.with_context(|| format!("remove {}", path.display()))
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        // the pins go with the home in any case
        let _ = self.word().and_then(|word| quiet(&mut self.product.command(&["untrack", word])));
    }
}

/// Runs another tool; an error unless it succeeds.
pub fn rival(command: &mut Command) -> Result<Sample> {
    let what = format!("{command:?}");
    Ok(Sample::from(&watch(command)?.success(&what)?))
}

/// A disk's worth of programs and libraries: neither random nor zero.
fn real_data(to: &Path, size: u64) -> Result<()> {
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(
        "while [ \"$(stat -c %s \"$1\" 2>/dev/null || echo 0)\" -lt \"$2\" ]; do \
         tar -C / -cf - usr 2>/dev/null | head -c \"$2\" >> \"$1\"; done; truncate -s \"$2\" \"$1\"; sync \"$1\"",
    );
    quiet(shell.arg("real_data").arg(to).arg(size.to_string()))?;
    Ok(())
}

/// Opens past the page cache.
pub fn direct(path: &Path) -> Result<File> {
    let file =
        OpenOptions::new().read(true).write(true).custom_flags(OFlags::DIRECT.bits() as i32).open(path);
    file.with_context(|| format!("open {} with O_DIRECT", path.display()))
}

/// A buffer for O_DIRECT: its first byte lies on a 4 KiB boundary.
pub struct Aligned {
    bytes: Vec<u8>,
    start: usize,
    length: usize,
}

impl Aligned {
    /// Random bytes.
    pub fn random(length: usize, random: &mut Random) -> Self {
        let mut bytes = vec![0; length + 4096];
        let start = bytes.as_ptr().align_offset(4096);
        random.fill(&mut bytes);
        Self { bytes, start, length }
    }

    /// The bytes.
    pub fn get(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.length]
    }

    /// To read into.
    pub fn get_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.length]
    }
}

/// Writes random runs of 4 to 64 KiB, `bytes` in all, somewhere in the first `reach` bytes: what programs do to a disk
/// in a while.
pub fn change(device: &Path, random: &mut Random, reach: u64, bytes: u64) -> Result<()> {
    let file = direct(device)?;
    let data = Aligned::random(64 << 10, random);
    let mut left = bytes as i64;
    while left > 0 {
        let length = 4096 << random.below(5);
        let at = random.below((reach - length) / 4096) * 4096;
        let skip = random.below(((64 << 10) - length) / 4096 + 1) as usize * 4096;
        file.write_all_at(&data.get()[skip..skip + length as usize], at).context("change the device")?;
        left -= length as i64;
    }
    Ok(())
}
