//! A copy of a tracked device that is kept by nothing but the lists of its cuts.
//!
//! While writers write, the epoch is cut again and again and the areas of each sealed epoch are copied. Once they have
//! stopped and one last cut is copied, device and replica must be the same, byte for byte.

use crate::device::{O_DIRECT, open_with};
use crate::image::{Aligned, Image};
use crate::tracked::Tracked;
use anyhow::{Context, Result, ensure};
use collector::block::{Extent, ExtentSet};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Read at once, at most.
const WINDOW: u64 = 256 << 10;
/// What lies between two listed extents is read with them, if it is no more than this: a call costs as much.
const GAP: u64 = 16 << 10;

/// The parts of an extent that lie in one window each.
fn pieces(extent: &Extent) -> impl Iterator<Item = Extent> + use<> {
    let whole = *extent;
    let windows = (whole.offset / WINDOW)..whole.end().div_ceil(WINDOW);
    windows.filter_map(move |n| whole.intersect(&Extent::new(n * WINDOW, WINDOW)))
}

/// The replica and what it cost to keep it.
pub struct Replica {
    device: File,
    image: Image,
    buffer: Aligned,
    /// Cuts made.
    pub cuts: u64,
    /// Time they took.
    pub cutting: Duration,
    /// The longest of them.
    pub slowest: Duration,
    /// Bytes copied.
    pub copied: u64,
    /// Why any of the epochs was called suspect.
    pub suspect: Vec<String>,
    /// Leaves out every so many extents, to prove that a loss is noticed.
    pub lossy: Option<usize>,
}

impl Replica {
    /// A copy of the device as it is; tracking must already run.
    pub fn new(device: &Path) -> Result<Self> {
        let image = Image::of(device)?;
        let device = open_with(device, O_DIRECT)?;
        Ok(Self {
            device,
            image,
            buffer: Aligned::new(WINDOW as usize),
            cuts: 0,
            cutting: Duration::ZERO,
            slowest: Duration::ZERO,
            copied: 0,
            suspect: Vec::new(),
            lossy: None,
        })
    }

    /// Cuts, copies what the sealed epoch lists, retires it.
    pub fn follow(&mut self, tracked: &mut Tracked) -> Result<()> {
        let start = Instant::now();
        let cut = tracked.cut()?;
        self.cutting += start.elapsed();
        self.slowest = self.slowest.max(start.elapsed());
        self.copy(&cut.extents)?;
        self.cuts += 1;
        self.suspect.extend(cut.suspect);
        tracked.retire(cut.epoch)?;
        // a collector that was killed or upgraded comes back and goes on
        if self.cuts.is_multiple_of(25) { tracked.reopen() } else { Ok(()) }
    }

    /// Copies what is listed and nothing else.
    fn copy(&mut self, extents: &ExtentSet) -> Result<()> {
        let mut listed: Vec<Extent> = extents.iter().copied().collect();
        if let Some(nth) = self.lossy {
            listed = listed.chunks(nth).flat_map(|few| &few[1..]).copied().collect();
        }
        let pieces: Vec<Extent> = listed.iter().flat_map(pieces).collect();
        let near =
            |a: &Extent, b: &Extent| a.offset / WINDOW == b.offset / WINDOW && b.offset - a.end() <= GAP;
        for near in pieces.chunk_by(near) {
            let (first, last) = (near[0].offset, near[near.len() - 1].end());
            let buffer = &mut self.buffer[..(last - first) as usize];
            self.device.read_exact_at(buffer, first).context("copy extents of a cut")?;
            for extent in near {
                let from = (extent.offset - first) as usize..(extent.end() - first) as usize;
                let to = extent.offset as usize..extent.end() as usize;
                self.image.bytes_mut()[to].copy_from_slice(&buffer[from]);
                self.copied += extent.length;
            }
        }
        Ok(())
    }

    /// An error unless the device holds what the replica does, and no epoch was called suspect.
    pub fn ensure_identical(&self, device: &Path, when: &str) -> Result<()> {
        let lost = self.image.difference_to(device)?;
        let first: Vec<_> = lost.iter().take(8).collect();
        ensure!(
            lost.is_empty(),
            "{when}: LOST {} bytes after {} cuts, first {first:?}",
            lost.total(),
            self.cuts
        );
        ensure!(self.suspect.is_empty(), "{when}: a cut was called suspect: {:?}", self.suspect);
        Ok(())
    }
}

/// Follows the device until `running` writers are none, then once more; `pause` ends with them.
pub fn follow_until_quiet(
    tracked: &mut Tracked,
    replica: &mut Replica,
    running: &AtomicUsize,
    pause: Duration,
) -> Result<()> {
    while running.load(Ordering::SeqCst) > 0 {
        replica.follow(tracked)?;
        let until = Instant::now() + pause;
        while running.load(Ordering::SeqCst) > 0 && Instant::now() < until {
            std::thread::sleep(STEP.min(until.saturating_duration_since(Instant::now())));
        }
    }
    replica.follow(tracked)
}

/// Waiting for writers goes by such steps.
const STEP: Duration = Duration::from_millis(2);

/// Counts a thread as running until dropped, also by panic.
pub struct Running<'a>(pub &'a AtomicUsize);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
