//! Trials of the epochs: cuts, what stays sealed, what is in flight, a device that grows.

use super::judged::{AREA, audit};
use super::notice::{Check, Notices};
use crate::device::{Loop, Mounted, O_DIRECT, open_with, wait_until};
use crate::files::KINDS;
use crate::host::run;
use crate::image::{Aligned, Image, fill};
use crate::product::Home;
use crate::protected::Protected;
use crate::random::Random;
use crate::scratch::Scratch;
use crate::tracked::Tracked;
use anyhow::{Context, Result, ensure};
use collector::block::{Extent, ExtentSet};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const SIZE: u64 = 16 << 20;

/// Writes one area, which lies by itself.
fn write_area(device: &Path, nth: u64, random: &mut Random) -> Result<Extent> {
    let extent = Extent::new(nth * 2 * AREA, AREA);
    let data = Aligned::random(AREA as usize, random);
    open_with(device, O_DIRECT)?.write_all_at(&data, extent.offset).context("write an area")?;
    Ok(extent)
}

/// All of `wanted` is on the list that a look shows.
fn ensure_pending(notices: &mut Notices, tracked: &Tracked, wanted: &[Extent], what: &str) {
    let Some(look) = notices.took(tracked.look()) else { return };
    notices.reasons(&look.suspect);
    let missed: ExtentSet = wanted.iter().copied().filter(|e| !look.extents.contains(*e)).collect();
    notices.oracle(match missed.is_empty() {
        true => Ok(()),
        false => Err(anyhow::anyhow!("{what}: not listed any more: {missed:?}")),
    });
}

/// Sealed epochs stay until they are retired, and no others go with them.
pub fn kept_until_retired(notices: &mut Notices) -> Result<()> {
    let (scratch, mut random) = (Scratch::new("planted")?, Random::for_test("planted: epochs"));
    let disk = Loop::new(&scratch, "disk", SIZE)?;
    fill(disk.path(), &mut random)?;
    let care = Protected::new(&scratch, disk.path())?;
    care.backup(&[])?;
    let mut tracked = Tracked::start(&care.home, disk.path(), AREA)?;
    let mut later = Vec::new();
    let Some(first) = notices.took(tracked.cut()) else { return Ok(()) };
    later.push(write_area(disk.path(), 1, &mut random)?);
    notices.took(tracked.cut());
    notices.took(tracked.retire(first.epoch));
    ensure_pending(notices, &tracked, &later, "after an earlier epoch was retired");
    if notices.took(tracked.reopen()).is_none() {
        return Ok(());
    }
    ensure_pending(notices, &tracked, &later, "after the collector came back");
    for nth in 2..9 {
        later.push(write_area(disk.path(), nth, &mut random)?);
        notices.took(tracked.cut());
    }
    ensure_pending(notices, &tracked, &later, "after many cuts");
    notices.took(tracked.reopen());
    ensure_pending(notices, &tracked, &later, "after many cuts, reopened");
    audit(notices, &care)
}

/// A cut while somebody writes, each area once: whatever it does not give, the next one does.
pub fn cut_while_written(notices: &mut Notices) -> Result<()> {
    let (scratch, mut random) = (Scratch::new("planted")?, Random::for_test("planted: a cut while written"));
    let disk = Loop::new(&scratch, "disk", SIZE)?;
    let before = Image::of(disk.path())?;
    let mut tracked = Tracked::start(&Home::new(&scratch)?, disk.path(), AREA)?;
    let stop = AtomicBool::new(false);
    let mut listed = ExtentSet::new();
    std::thread::scope(|scope| -> Result<()> {
        let writer = scope.spawn(|| -> Result<()> {
            for nth in 0..SIZE / AREA / 2 {
                write_area(disk.path(), nth, &mut random)?;
                std::thread::sleep(Duration::from_millis(2));
                if stop.load(Ordering::Relaxed) {
                    break;
                }
            }
            Ok(())
        });
        for _ in 0..3 {
            std::thread::sleep(Duration::from_millis(100));
            if let Some(cut) = notices.took(tracked.cut()) {
                listed = listed.union(&cut.extents);
                notices.reasons(&cut.suspect);
                notices.took(tracked.retire(cut.epoch));
            }
        }
        stop.store(true, Ordering::Relaxed);
        writer.join().ok().context("the writer panicked")?
    })?;
    if let Some(cut) = notices.took(tracked.cut()) {
        listed = listed.union(&cut.extents);
        notices.reasons(&cut.suspect);
    }
    let missed = before.difference(&Image::of(disk.path())?).subtract(&listed);
    notices.oracle(match missed.is_empty() {
        true => Ok(()),
        false => Err(anyhow::anyhow!("{} bytes were in no cut", missed.total())),
    });
    Ok(())
}

/// It grows while it is written to.
pub fn grown(notices: &mut Notices) -> Result<()> {
    let (scratch, mut random) = (Scratch::new("planted")?, Random::for_test("planted: grown"));
    let disk = Loop::new(&scratch, "disk", 2 * SIZE)?;
    fill(disk.path(), &mut random)?;
    disk.resize(SIZE)?;
    let mut tracked = Tracked::start(&Home::new(&scratch)?, disk.path(), AREA)?;
    disk.resize(2 * SIZE)?;
    let inside = write_area(disk.path(), 3, &mut random)?;
    write_area(disk.path(), SIZE / AREA / 2 + 5, &mut random)?;
    notices.took(tracked.reopen());
    if let Some(cut) = notices.took(tracked.cut()) {
        notices.reasons(&cut.suspect);
    }
    ensure_pending(notices, &tracked, &[inside, Extent::between(SIZE, 2 * SIZE)], "what is new");
    Ok(())
}

/// A file system that holds its writers back until dropped.
struct Frozen(PathBuf);

impl Frozen {
    fn new(point: &Path) -> Result<Self> {
        run("fsfreeze", ["-f".as_ref(), point.as_os_str()])?;
        Ok(Self(point.into()))
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        if let Err(e) = run("fsfreeze", ["-u".as_ref(), self.0.as_os_str()]) {
            crate::host::say(&format!("while thawing {}: {e:#}", self.0.display()));
        }
    }
}

/// Writes at once, more than a bucket of slots has room for.
const FLIGHTS: u64 = 12;

/// Writes that stay in flight over cuts: listed as soon as they are submitted, in every epoch until they complete, and
/// not for ever.
pub fn in_flight(notices: &mut Notices) -> Result<()> {
    let (scratch, mut random) = (Scratch::new("planted")?, Random::for_test("planted: in flight"));
    let below = Loop::new(&scratch, "below", 64 << 20)?;
    KINDS[0].make(below.path())?;
    let mounted = Mounted::new(&scratch, below.path(), "")?;
    let file = mounted.point().join("inner.img");
    std::fs::File::create(&file)?.set_len(SIZE)?;
    let disk = Loop::on(&file, &[])?;
    fill(disk.path(), &mut random)?;
    let mut tracked = Tracked::start(&Home::new(&scratch)?, disk.path(), AREA)?;
    if let Some(cut) = notices.took(tracked.cut()) {
        notices.took(tracked.retire(cut.epoch));
    }
    let wanted: Vec<Extent> = (0..FLIGHTS).map(|nth| Extent::new((100 + nth) * 2 * AREA, AREA)).collect();
    std::thread::scope(|scope| -> Result<()> {
        let frozen = Frozen::new(mounted.point())?;
        let writers: Vec<_> = (0..FLIGHTS)
            .map(|nth| {
                let (mut random, device) = (random.fork(), disk.path());
                scope.spawn(move || write_area(device, 100 + nth, &mut random))
            })
            .collect();
        let waited = wait_until(|| flying(disk.path()) == Some(FLIGHTS), "the writes to be in flight");
        if waited.is_ok() {
            over_cuts(notices, &mut tracked, &wanted);
        }
        drop(frozen);
        for writer in writers {
            writer.join().ok().context("a writer panicked")??;
        }
        waited
    })?;
    landed(notices, &mut tracked, &wanted);
    drop(tracked);
    disk.detach()?;
    mounted.unmount()
}

/// Writes on their way to a disk, as the kernel counts them.
fn flying(device: &Path) -> Option<u64> {
    let name = device.file_name()?;
    let text = std::fs::read_to_string(Path::new("/sys/class/block").join(name).join("inflight")).ok()?;
    text.split_whitespace().nth(1)?.parse().ok()
}

fn over_cuts(notices: &mut Notices, tracked: &mut Tracked, wanted: &[Extent]) {
    ensure_pending(notices, tracked, wanted, "submitted");
    for nth in 0..2 {
        let Some(cut) = notices.took(tracked.cut()) else { return };
        notices.reasons(&cut.suspect);
        notices.took(tracked.retire(cut.epoch));
        ensure_pending(notices, tracked, wanted, &format!("in flight, after cut {nth}"));
    }
}

fn landed(notices: &mut Notices, tracked: &mut Tracked, wanted: &[Extent]) {
    ensure_pending(notices, tracked, wanted, "completed");
    let mut last = ExtentSet::new();
    for _ in 0..4 {
        let Some(cut) = notices.took(tracked.cut()) else { return };
        notices.reasons(&cut.suspect);
        notices.took(tracked.retire(cut.epoch));
        last = cut.extents;
    }
    let quiet = || -> Result<()> {
        ensure!(last.is_empty(), "listed at rest, after they had completed: {} bytes", last.total());
        Ok(())
    };
    if let Err(error) = quiet() {
        notices.note(Check::Oracle, error.to_string());
    }
}
