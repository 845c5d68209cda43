//! Writers that change every block of a device once per round, in a scattered order, so that no later write can hide a
//! lost one; each in its own way, all at once, while a [`Replica`] follows the cuts.

use crate::device::{O_DIRECT, open_with, size_of};
use crate::image::Aligned;
use crate::random::Random;
use crate::raw::{Completions, Uring, write_mapped};
use crate::replica::{Replica, Running, follow_until_quiet};
use crate::tracked::Tracked;
use crate::workload::{discard, zero_out};
use anyhow::{Context, Result};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// How a writer writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// pwrite with O_DIRECT; now and then BLKDISCARD or BLKZEROOUT.
    Direct,
    /// io_uring with O_DIRECT, many in flight.
    Uring,
    /// pwrite into the page cache, written back by fdatasync.
    Cached,
    /// A shared mapping, written back by msync.
    Mapped,
}

/// Writes in flight of one [`How::Uring`] writer.
const DEPTH: usize = 32;

/// One round's writers.
#[derive(Clone, Copy, Debug)]
pub struct Round<'a> {
    /// Bytes of each write.
    pub unit: u64,
    /// A writer for each: they share the device.
    pub writers: &'a [How],
    /// Between two cuts.
    pub pause: Duration,
}

/// Writes the whole device once while the replica follows. Returns the calls made.
pub fn round(
    tracked: &mut Tracked,
    replica: &mut Replica,
    round: Round<'_>,
    random: &mut Random,
) -> Result<u64> {
    let device = tracked.device().to_path_buf();
    let writes = AtomicU64::new(0);
    let running = AtomicUsize::new(round.writers.len());
    std::thread::scope(|scope| {
        let writers = (0..).zip(round.writers).map(|(nth, how)| {
            let (random, device, writes, running) = (random.fork(), &device, &writes, &running);
            let share = (nth, round.writers.len() as u64);
            scope.spawn(move || {
                let _running = Running(running);
                Writer::new(device, round.unit, share, random, writes)?.run(*how)
            })
        });
        let threads: Vec<_> = writers.collect();
        follow_until_quiet(tracked, replica, &running, round.pause)?;
        threads.into_iter().try_for_each(|t| t.join().expect("a writer panicked"))
    })?;
    Ok(writes.into_inner())
}

/// One writer and its share of a round: every `of`-th block from the `nth` on.
struct Writer<'a> {
    device: &'a Path,
    unit: u64,
    places: Vec<u64>,
    random: Random,
    writes: &'a AtomicU64,
}

impl<'a> Writer<'a> {
    fn new(
        device: &'a Path,
        unit: u64,
        (nth, of): (u64, u64),
        mut random: Random,
        writes: &'a AtomicU64,
    ) -> Result<Self> {
        // prime, and no device here has a multiple of it in blocks: i -> i * STRIDE is a permutation
        const STRIDE: u64 = 1_000_003;
        let mine = (size_of(device)? / unit).saturating_sub(nth).div_ceil(of);
        let shift = random.below(mine);
        let places = (0..mine).map(|i| ((i * STRIDE + shift) % mine * of + nth) * unit).collect();
        Ok(Self { device, unit, places, random, writes })
    }

    fn run(self, how: How) -> Result<()> {
        match how {
            How::Direct => self.direct(),
            How::Uring => self.uring(),
            How::Cached => self.cached(),
            How::Mapped => self.mapped(),
        }
    }

    fn direct(mut self) -> Result<()> {
        let file = open_with(self.device, O_DIRECT)?;
        let mut data = Aligned::new(self.unit as usize);
        for at in self.places {
            let done = match self.random.below(128) {
                0 | 1 => discard(&file, at, self.unit).is_ok(),
                2 => zero_out(&file, at, self.unit).is_ok(),
                _ => false,
            };
            if !done {
                stamp(&mut data, &mut self.random);
                file.write_all_at(&data, at).context("write under load")?;
            }
            self.writes.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    fn uring(mut self) -> Result<()> {
        let file = open_with(self.device, O_DIRECT)?;
        let mut ring = Uring::new(DEPTH, Completions::Interrupts)?;
        let unit = self.unit as usize;
        let mut data = Aligned::new(DEPTH * unit);
        for places in self.places.chunks(DEPTH) {
            data.chunks_mut(unit).for_each(|block| stamp(block, &mut self.random));
            let parts: Vec<(u64, &[u8])> = places.iter().copied().zip(data.chunks(unit)).collect();
            ring.write(&file, &parts)?;
            self.writes.fetch_add(places.len() as u64, Ordering::Relaxed);
        }
        Ok(())
    }

    fn cached(mut self) -> Result<()> {
        let file = open_with(self.device, 0)?;
        let mut data = Aligned::new(self.unit as usize);
        for places in self.places.chunks(256) {
            for at in places {
                stamp(&mut data, &mut self.random);
                file.write_all_at(&data, *at).context("write into the page cache under load")?;
            }
            file.sync_data().context("write back under load")?;
            self.writes.fetch_add(places.len() as u64, Ordering::Relaxed);
        }
        Ok(())
    }

    fn mapped(mut self) -> Result<()> {
        let file = open_with(self.device, 0)?;
        let mut data = Aligned::new(self.unit as usize);
        for at in self.places {
            stamp(&mut data, &mut self.random);
            write_mapped(&file, at, &data).context("write a mapping under load")?;
            self.writes.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Content that no block had before, for little: one random word throughout.
fn stamp(data: &mut [u8], random: &mut Random) {
    let word = random.any().to_le_bytes();
    data.chunks_exact_mut(8).for_each(|chunk| chunk.copy_from_slice(&word));
}
