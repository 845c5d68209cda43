//! The content of a device at one moment, read past every cache.

use crate::device::{O_DIRECT, open_with, size_of};
use crate::random::Random;
use anyhow::{Context, Result};
use collector::block::{BLOCK, Extent, ExtentSet};
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// A buffer whose first byte lies on a 4 KiB boundary, as O_DIRECT wants it.
#[derive(Debug, Default)]
pub struct Aligned {
    bytes: Vec<u8>,
    range: Range<usize>,
}

impl Aligned {
    /// `length` zero bytes.
    pub fn new(length: usize) -> Self {
        let bytes = vec![0; length + BLOCK as usize];
        let start = bytes.as_ptr().align_offset(BLOCK as usize);
        Self { bytes, range: start..start + length }
    }

    /// `length` random bytes.
    pub fn random(length: usize, random: &mut Random) -> Self {
        let mut buffer = Self::new(length);
        random.fill(&mut buffer);
        buffer
    }
}

impl std::ops::Deref for Aligned {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes[self.range.clone()]
    }
}

impl std::ops::DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.range.clone()]
    }
}

/// All bytes of a device.
#[derive(Debug)]
pub struct Image(Aligned);

impl Image {
    /// What `device` holds now. Its page cache is written back first, then it is read with O_DIRECT.
    pub fn of(device: &Path) -> Result<Self> {
        let mut image = Self(Aligned::new(size_of(device)? as usize));
        let file = uncached(device)?;
        for (n, chunk) in image.0.chunks_mut(CHUNK).enumerate() {
            read(&file, chunk, n, device)?;
        }
        Ok(image)
    }

    /// The 4 KiB blocks in which `device` is not what the image is, read as by [`Self::of`], but a piece at a time.
    pub fn difference_to(&self, device: &Path) -> Result<ExtentSet> {
        anyhow::ensure!(size_of(device)? == self.size(), "{} has another size", device.display());
        let file = uncached(device)?;
        let (mut buffer, mut set) = (Aligned::new(CHUNK), ExtentSet::new());
        for (n, chunk) in self.0.chunks(CHUNK).enumerate() {
            let found = &mut buffer[..chunk.len()];
            read(&file, found, n, device)?;
            if found != chunk {
                differing(chunk, found, (n * CHUNK) as u64, &mut set);
            }
        }
        Ok(set)
    }

    /// What a regular file holds now (a restored image).
    pub fn of_file(path: &Path) -> Result<Self> {
        let mut file = File::open(path).with_context(|| format!("open {}", path.display()))?;
        let mut image = Self(Aligned::new(file.metadata()?.len() as usize));
        file.read_exact(&mut image.0)?;
        Ok(image)
    }

    /// An image in memory.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut image = Self(Aligned::new(bytes.len()));
        image.0.copy_from_slice(bytes);
        image
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The bytes, to bring a replica up to date.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.0.len() as u64
    }

    /// The 4 KiB blocks in which two images of the same size differ; the last one may be short.
    pub fn difference(&self, other: &Self) -> ExtentSet {
        assert_eq!(self.size(), other.size(), "images of different sizes");
        let mut set = ExtentSet::new();
        differing(&self.0, &other.0, 0, &mut set);
        set
    }
}

/// Bytes of a device that are read at once.
const CHUNK: usize = 4 << 20;

/// Opened with O_DIRECT, after what the page cache has was written back.
fn uncached(device: &Path) -> Result<File> {
    let plain = File::open(device).with_context(|| format!("open {}", device.display()))?;
    rustix::fs::fsync(&plain).context("write back the page cache")?;
    // drops clean buffers too, so that a later buffered read of ours is not stale
    let _ = crate::raw::flush_cache(&plain);
    open_with(device, O_DIRECT)
}

fn read(file: &File, into: &mut [u8], nth: usize, device: &Path) -> Result<()> {
    file.read_exact_at(into, (nth * CHUNK) as u64)
        .with_context(|| format!("read {} with O_DIRECT", device.display()))
}

/// Adds the blocks in which two pieces, `at` bytes from the beginning, differ; the last one may be short.
fn differing(one: &[u8], other: &[u8], at: u64, set: &mut ExtentSet) {
    for (n, (a, b)) in one.chunks(BLOCK as usize).zip(other.chunks(BLOCK as usize)).enumerate() {
        if a != b {
            set.push(Extent::new(at + n as u64 * BLOCK, a.len() as u64));
        }
    }
}

/// Fills a device with random bytes, so that no later write can hide behind zeros.
pub fn fill(device: &Path, random: &mut Random) -> Result<()> {
    let size = size_of(device)?;
    let file = open_with(device, O_DIRECT)?;
    let mut buffer = Aligned::new(4 << 20);
    let mut at = 0;
    while at < size {
        let length = (size - at).min(buffer.len() as u64) as usize;
        random.fill(&mut buffer[..length]);
        file.write_all_at(&buffer[..length], at).with_context(|| format!("fill {}", device.display()))?;
        at += length as u64;
    }
    Ok(())
}
