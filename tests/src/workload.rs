//! Every way of changing a block device that the kernel facts list, each as a function on a device.
//!
//! A [`Way`] is one named way at fixed places of a device of at least [`WAYS_NEED`] bytes; [`churn`] mixes ways at
//! random places of a device of any size and logical block size, its very last sectors included.

use crate::device::{O_DIRECT, logical_block, open_with, size_of};
use crate::image::Aligned;
use crate::random::Random;
use crate::raw::{Completions, RangeIoctl, range_ioctl, write_mapped, write_uring};
use anyhow::{Context, Result};
use rustix::fs::FallocateFlags;
use rustix::io::ReadWriteFlags;
use std::fs::File;
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Whether a way of writing exists on this machine.
#[derive(Debug)]
pub enum Outcome {
    /// It was used.
    Done,
    /// The device or kernel does not offer it.
    Unsupported(String),
}

/// One way of writing.
pub struct Way {
    /// What it is, for people.
    pub name: &'static str,
    /// Uses it on a device.
    pub run: fn(&Path, &mut Random) -> Result<Outcome>,
}

/// Bytes a device must have for [`WAYS`].
pub const WAYS_NEED: u64 = 128 * M;

const K: u64 = 1 << 10;
const M: u64 = 1 << 20;
const PUNCH: FallocateFlags = FallocateFlags::PUNCH_HOLE.union(FallocateFlags::KEEP_SIZE);
const ZERO: FallocateFlags = FallocateFlags::ZERO_RANGE.union(FallocateFlags::KEEP_SIZE);

/// All ways of writing to a bare device.
pub const WAYS: &[Way] = &[
    Way { name: "buffered 1M + fsync", run: |d, r| buffered(d, r, M, M as usize, Flush::Fsync) },
    Way {
        name: "buffered 100 bytes at an odd offset",
        run: |d, r| buffered(d, r, 3_000_001, 100, Flush::Fsync),
    },
    Way {
        name: "buffered, written back by sync(2) only",
        run: |d, r| buffered(d, r, 5 * M, 300_000, Flush::Sync),
    },
    Way { name: "buffered + sync_file_range", run: |d, r| buffered(d, r, 6 * M, 70_000, Flush::Datasync) },
    Way { name: "O_DIRECT one logical block", run: one_block },
    Way { name: "O_DIRECT 4k", run: |d, r| direct(d, r, 8 * M, 4096, 0) },
    Way { name: "O_DIRECT 8M (is split)", run: |d, r| direct(d, r, 16 * M, 8 << 20, 0) },
    Way { name: "O_DIRECT pwritev of 1024 small pieces", run: |d, r| vectored(d, r, 32 * M) },
    Way { name: "O_DIRECT|O_DSYNC", run: |d, r| direct(d, r, 40 * M, 64 << 10, libc::O_DSYNC) },
    Way { name: "RWF_HIPRI", run: |d, r| flagged(d, r, 41 * M, ReadWriteFlags::HIPRI) },
    Way { name: "RWF_DSYNC", run: |d, r| flagged(d, r, 42 * M, ReadWriteFlags::DSYNC) },
    Way { name: "mmap + msync 2M", run: |d, r| mapped(d, r, 44 * M, 2 << 20) },
    Way { name: "io_uring O_DIRECT 4M", run: |d, r| uring(d, r, 48 * M, 4 << 20, O_DIRECT) },
    Way { name: "io_uring buffered 1M", run: |d, r| uring(d, r, 54 * M, 1 << 20, 0) },
    Way { name: "BLKDISCARD 3M", run: |d, _| ranged(d, RangeIoctl::Discard, 64 * M, 3 * M) },
    Way { name: "BLKDISCARD 32M", run: |d, _| ranged(d, RangeIoctl::Discard, 96 * M, 32 * M) },
    Way {
        name: "BLKDISCARD one block",
        run: |d, _| ranged(d, RangeIoctl::Discard, 68 * M, logical_block(d)?),
    },
    // before BLKZEROOUT: where that has to fall back (loop on tmpfs), the kernel turns write-zeroes off for good
    Way { name: "fallocate punch-hole on the device", run: |d, _| allocated(d, PUNCH, 80 * M, M) },
    Way { name: "BLKZEROOUT 3M", run: |d, _| ranged(d, RangeIoctl::ZeroOut, 70 * M, 3 * M) },
    Way {
        name: "BLKZEROOUT one block",
        run: |d, _| ranged(d, RangeIoctl::ZeroOut, 75 * M, logical_block(d)?),
    },
    Way { name: "BLKSECDISCARD 1M", run: |d, _| ranged(d, RangeIoctl::SecureDiscard, 76 * M, M) },
    Way { name: "fallocate zero-range on the device", run: |d, _| allocated(d, ZERO, 90 * M, M) },
    Way { name: "O_DIRECT last logical block", run: last_block },
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Flush {
    Fsync,
    Datasync,
    Sync,
}

fn buffered(device: &Path, random: &mut Random, at: u64, length: usize, flush: Flush) -> Result<Outcome> {
    let file = open_with(device, 0)?;
    file.write_all_at(&random.bytes(length), at).context("buffered write")?;
    match flush {
        Flush::Fsync => file.sync_all().context("fsync")?,
        Flush::Datasync => file.sync_data().context("fdatasync")?,
        Flush::Sync => rustix::fs::sync(),
    }
    Ok(Outcome::Done)
}

fn direct(device: &Path, random: &mut Random, at: u64, length: usize, flags: i32) -> Result<Outcome> {
    let file = open_with(device, O_DIRECT | flags)?;
    file.write_all_at(&Aligned::random(length, random), at).context("O_DIRECT write")?;
    Ok(Outcome::Done)
}

fn one_block(device: &Path, random: &mut Random) -> Result<Outcome> {
    let block = logical_block(device)?;
    direct(device, random, M + block, block as usize, 0)
}

fn last_block(device: &Path, random: &mut Random) -> Result<Outcome> {
    let block = logical_block(device)?;
    direct(device, random, size_of(device)? - block, block as usize, 0)
}

/// Many small memory segments in one call: the bio is split by segment limits.
fn vectored(device: &Path, random: &mut Random, at: u64) -> Result<Outcome> {
    let piece = logical_block(device)? as usize;
    let file = open_with(device, O_DIRECT)?;
    let data = Aligned::random(1024 * piece, random);
    let pieces: Vec<IoSlice<'_>> = data.chunks(piece).map(IoSlice::new).collect();
    let written = rustix::io::pwritev(&file, &pieces, at).context("pwritev")?;
    anyhow::ensure!(written > 0, "pwritev wrote nothing");
    Ok(Outcome::Done)
}

fn flagged(device: &Path, random: &mut Random, at: u64, flags: ReadWriteFlags) -> Result<Outcome> {
    let file = open_with(device, O_DIRECT)?;
    let data = Aligned::random(64 << 10, random);
    supported(
        rustix::io::pwritev2(&file, &[IoSlice::new(&data)], at, flags).map(|_| ()).map_err(io::Error::from),
    )
}

fn mapped(device: &Path, random: &mut Random, at: u64, length: usize) -> Result<Outcome> {
    let file = open_with(device, 0)?;
    supported(write_mapped(&file, at, &random.bytes(length)))
}

fn uring(device: &Path, random: &mut Random, at: u64, length: usize, flags: i32) -> Result<Outcome> {
    if std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").is_ok_and(|v| v.trim() == "2") {
        return Ok(Outcome::Unsupported("io_uring is disabled".into()));
    }
    let file = open_with(device, flags)?;
    write_uring(&file, at, &Aligned::random(length, random), 64 << 10, Completions::Interrupts)?;
    file.sync_data()?;
    Ok(Outcome::Done)
}

fn ranged(device: &Path, what: RangeIoctl, at: u64, length: u64) -> Result<Outcome> {
    supported(range_ioctl(&open_with(device, 0)?, what, at, length))
}

fn allocated(device: &Path, flags: FallocateFlags, at: u64, length: u64) -> Result<Outcome> {
    let file = open_with(device, 0)?;
    supported(rustix::fs::fallocate(&file, flags, at, length).map_err(io::Error::from))
}

/// "Not offered here" is an outcome; every other failure is an error.
fn supported(result: io::Result<()>) -> Result<Outcome> {
    match result {
        Ok(()) => Ok(Outcome::Done),
        Err(e) if matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::ENOTTY)) => {
            Ok(Outcome::Unsupported(e.to_string()))
        }
        Err(e) => Err(e.into()),
    }
}

/// Discards a range of an open device.
pub fn discard(device: &File, at: u64, length: u64) -> io::Result<()> {
    range_ioctl(device, RangeIoctl::Discard, at, length)
}

/// Zeroes a range of an open device.
pub fn zero_out(device: &File, at: u64, length: u64) -> io::Result<()> {
    range_ioctl(device, RangeIoctl::ZeroOut, at, length)
}

/// `steps` random operations at random places of `device`, its last blocks included; ends with fsync.
/// Returns the bytes addressed.
pub fn churn(device: &Path, random: &mut Random, steps: u64) -> Result<u64> {
    let size = size_of(device)?;
    let block = logical_block(device)?;
    let cached = open_with(device, 0)?;
    let direct = open_with(device, O_DIRECT)?;
    let mut bytes = 0;
    for _ in 0..steps {
        let length = (block << random.below(8)).min(size);
        let last = (size - length) / block;
        // one in eight at the very end, where rounding errors live
        let at = if random.below(8) == 0 { last } else { random.below(last + 1) } * block;
        one_step(&cached, &direct, random, at, length)?;
        bytes += length;
    }
    cached.sync_all().context("fsync after churn")?;
    Ok(bytes)
}

fn one_step(cached: &File, direct: &File, random: &mut Random, at: u64, length: u64) -> Result<()> {
    let data = Aligned::random(length as usize, random);
    let outcome = match random.below(8) {
        0 => supported(range_ioctl(cached, RangeIoctl::Discard, at, length))?,
        1 => supported(range_ioctl(cached, RangeIoctl::ZeroOut, at, length))?,
        2 => supported(rustix::fs::fallocate(cached, PUNCH, at, length).map_err(io::Error::from))?,
        3 => supported(cached.write_all_at(&data, at))?,
        4 => {
            let odd = random.below(length);
            supported(cached.write_all_at(&data[..(length - odd) as usize], at + odd))?
        }
        5 if at.is_multiple_of(4 * K) => supported(write_mapped(cached, at, &data))?,
        _ => supported(direct.write_all_at(&data, at))?,
    };
    // a device without discard is still churned by the other operations
    drop(outcome);
    Ok(())
}
