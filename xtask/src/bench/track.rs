//! What tracking adds to a write: time in the programs by the kernel's own statistics, and the time of a write with
//! and without tracking, one 4 KiB O_DIRECT write after the other at random places.

use super::bed::{Aligned, direct};
use super::document::{Findings, Headline};
use super::interleaved::{Contender, Sample, measure, table};
use crate::command::say;
use crate::rig::device::{Loop, Zram};
use crate::rig::process::go_on;
use crate::rig::product::{KernelStats, Product, cost, utf8};
use crate::rig::random::Random;
use crate::rig::scratch::Scratch;
use anyhow::{Context, Result};
use std::cell::RefCell;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

const SIZE: u64 = 256 << 20;
/// Writes while the kernel takes the programs' time.
const WRITES: usize = 30_000;
/// Of one segment of a round, and segments of each kind in it.
const SEGMENT: Duration = Duration::from_millis(700);
const SEGMENTS: usize = 2;

/// Microseconds per write of each, on each kind of device.
pub fn run(program: &Path, rounds: usize) -> Result<Findings> {
    let scratch = Scratch::new(2 * SIZE)?;
    let product = Product::new(program.to_owned(), &scratch)?;
    let file = scratch.join("disk.img");
    let disk = {
        std::fs::File::create(&file)?.write_all_at(&vec![1; SIZE as usize], 0)?;
        Loop::on(&file)?
    };
    let (mut text, mut headlines) = one("loop", disk.path(), &product, rounds)?;
    drop(disk);
    match Zram::new(SIZE) {
        Ok(zram) => {
            let (more, lines) = one("zram", &zram.path(), &product, rounds)?;
            text = text + "\n" + &more;
            headlines.extend(lines);
        }
        Err(error) => say(format!("no zram here, measured on loop only: {error:#}")),
    }
    Ok(Findings { text, headlines })
}

fn one(kind: &str, device: &Path, product: &Product, rounds: usize) -> Result<(String, Vec<Headline>)> {
    let word = utf8(device)?;
    let random = RefCell::new(Random::new(11));
    segment(device, &mut random.borrow_mut())?;
    let (submission, completion) = in_programs(device, product, &mut random.borrow_mut())?;
    let plain = || segments(device, &mut random.borrow_mut());
    let tracked = || {
        product.run(&["track", word])?;
        let sample = segments(device, &mut random.borrow_mut());
        product.run(&["untrack", word])?;
        sample
    };
    let rows =
        measure(rounds * 2, vec![Contender::new("not tracked", plain), Contender::new("tracked", tracked)])?;
    let (sum, ratio) = (submission + completion, rows[1].against(&rows[0])?);
    let (base, own) = (rows[0].spread()?, rows[1].spread()?);
    let text = format!(
        "On {kind}: {sum:.0} ns per write in the programs, {submission:.0} at submission and {completion:.0} at \
         completion (the kernel's statistics, which are themselves part of it). {:.0} writes per second without \
         tracking, {:.0} with.\n\n{}",
        1e6 / base.median,
        1e6 / own.median,
        table("µs per write", &rows)?
    );
    let headlines = vec![
        Headline::new(
            format!("tracking, {kind}: time in the programs per write"),
            format!("{sum:.0} ns"),
            "≤ 300 ns",
            sum <= 300.0,
        ),
        Headline::new(
            format!("tracking, {kind}: writes take longer by"),
            format!("{:.1} %", (ratio.median - 1.0) * 100.0),
            "",
            true,
        ),
    ];
    Ok((text, headlines))
}

/// Nanoseconds per write in the programs.
fn in_programs(device: &Path, product: &Product, random: &mut Random) -> Result<(f64, f64)> {
    let word = utf8(device)?;
    let _stats = KernelStats::on()?;
    product.run(&["track", word])?;
    let before = product.programs(device)?;
    write(device, random, |n, _| n < WRITES)?;
    let after = product.programs(device)?;
    product.run(&["untrack", word])?;
    Ok(cost(&before, &after))
}

/// Microseconds per write, the best segment's: others only disturb.
fn segments(device: &Path, random: &mut Random) -> Result<Sample> {
    let mut best = f64::MAX;
    for _ in 0..SEGMENTS {
        best = best.min(segment(device, random)?);
    }
    Ok(Sample { figure: best, peak: 0 })
}

fn segment(device: &Path, random: &mut Random) -> Result<f64> {
    write(device, random, |_, took| took < SEGMENT)
}

/// Writes 4 KiB at a time, at random places, as long as wanted; microseconds per write.
fn write(device: &Path, random: &mut Random, more: impl Fn(usize, Duration) -> bool) -> Result<f64> {
    go_on()?;
    let file = direct(device)?;
    // one byte throughout, as zram likes it best: the less the device does, the more tracking is of the whole
    let data = Aligned::same(4096, 1);
    let began = Instant::now();
    let mut writes = 0;
    while more(writes, began.elapsed()) {
        for _ in 0..100 {
            file.write_all_at(data.get(), random.below(SIZE / 4096) * 4096).context("write the device")?;
        }
        writes += 100;
    }
    Ok(began.elapsed().as_secs_f64() * 1e6 / writes as f64)
}
