//! For `cargo xtask bench track`, what needs the library itself; run by hand it is of no use.
//!
//!   blkdelta-meter HOME live DEVICE        reads an event per write until its input ends; prints what it saw
//!   blkdelta-meter HOME cuts DEVICE N      cuts N times under a writer; prints how long cuts and writes took
//!   blkdelta-meter HOME empty TRACEPOINT…  programs that only return run there until its input ends; prints what they cost
//!
//! The device is tracked in HOME already.

use anyhow::{Context, Result, bail};
use collector::epoch::Epochs;
use collector::tracker::{Base, Places, Traffic, Watcher, find_tracked};
use serde_json::json;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tests::bpf::Empty;
use tests::device::{O_DIRECT, open_with};
use tests::image::Aligned;
use tests::random::Random;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        [home, "live", device] => live(&Places::under(home.as_ref()), device.as_ref()),
        [home, "cuts", device, times] => cuts(&Places::under(home.as_ref()), device.as_ref(), times.parse()?),
        [_, "empty", ref tracepoints @ ..] => empty(tracepoints),
        _ => bail!("this program belongs to `cargo xtask bench track`"),
    }
}

fn live(places: &Places, device: &Path) -> Result<()> {
    let watcher = Watcher::start(places, &[find_tracked(places, device)?], Traffic::note)?;
    say_and_wait("reading")?;
    // what is still in the ring buffer
    std::thread::sleep(Duration::from_millis(100));
    let Traffic { writes, lost, .. } = watcher.take();
    println!("{}", json!({ "writes": writes, "lost": lost }));
    Ok(())
}

fn empty(tracepoints: &[&str]) -> Result<()> {
    let mut programs = Vec::new();
    for tracepoint in tracepoints {
        programs.push((tracepoint, Empty::on(tracepoint)?));
    }
    say_and_wait("running")?;
    for (tracepoint, program) in &programs {
        let runs = program.runs()?;
        println!(
            "{}",
            json!({ "tracepoint": tracepoint, "runs": runs.count, "nanoseconds": runs.nanoseconds })
        );
    }
    Ok(())
}

fn say_and_wait(word: &str) -> Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "{word}")?;
    out.flush()?;
    std::io::stdin().read_to_end(&mut Vec::new()).context("wait for the end of input")?;
    Ok(())
}

/// Microseconds of each write, apart for times with and without cuts.
#[derive(Default)]
struct Waits {
    alone: Vec<f64>,
    during: Vec<f64>,
}

fn cuts(places: &Places, device: &Path, cuts: u32) -> Result<()> {
    let mut epochs = Epochs::open(places, device)?;
    let (stop, cutting) = (AtomicBool::new(false), AtomicBool::new(false));
    let (mut took, mut ready) = (Vec::new(), Vec::new());
    let waits = std::thread::scope(|scope| {
        let writer = scope.spawn(|| write(device, &stop, &cutting));
        let done = (|| {
            // two phases of each, in turns
            for part in [cuts / 2, cuts - cuts / 2] {
                let began = Instant::now();
                cutting.store(true, Ordering::SeqCst);
                for _ in 0..part {
                    let began = Instant::now();
                    epochs.prepare(1)?;
                    ready.push(began.elapsed().as_secs_f64() * 1e3);
                    took.push(cut(&mut epochs)?);
                }
                cutting.store(false, Ordering::SeqCst);
                std::thread::sleep(began.elapsed().max(Duration::from_millis(500)));
            }
            anyhow::Ok(())
        })();
        stop.store(true, Ordering::SeqCst);
        let waits = writer.join().expect("the writer panicked");
        done.and(waits)
    })?;
    let at = |of: &[f64], share: f64| of[((of.len() - 1) as f64 * share) as usize];
    let [alone, during, took, ready] = [waits.alone, waits.during, took, ready].map(|mut of| {
        of.sort_by(f64::total_cmp);
        of
    });
    if alone.is_empty() || during.is_empty() || took.is_empty() {
        bail!("nothing was measured");
    }
    let report = json!({
        "cut_median": at(&took, 0.5), "cut_slowest": at(&took, 1.0), "ready_median": at(&ready, 0.5),
        "alone_p50": at(&alone, 0.5), "alone_p999": at(&alone, 0.999), "alone_longest": at(&alone, 1.0),
        "during_p50": at(&during, 0.5), "during_p999": at(&during, 0.999), "during_longest": at(&during, 1.0),
    });
    println!("{report}");
    Ok(())
}

/// Milliseconds of a cut; the epoch is retired at once.
fn cut(epochs: &mut Epochs) -> Result<f64> {
    let began = Instant::now();
    let cut = epochs.cut()?;
    let took = began.elapsed().as_secs_f64() * 1e3;
    epochs.retire(cut.epoch, Base { repo: "meter".into(), point: "meter".into() })?;
    Ok(took)
}

fn write(device: &Path, stop: &AtomicBool, cutting: &AtomicBool) -> Result<Waits> {
    let (file, mut random, mut waits) = (open_with(device, O_DIRECT)?, Random::new(7), Waits::default());
    let data = Aligned::new(4096);
    while !stop.load(Ordering::Relaxed) {
        let place = random.below((64 << 20) / 4096) * 4096;
        let (before, began) = (cutting.load(Ordering::SeqCst), Instant::now());
        file.write_all_at(&data, place).context("write during cuts")?;
        let took = began.elapsed().as_secs_f64() * 1e6;
        let cut = before || cutting.load(Ordering::SeqCst);
        if cut { &mut waits.during } else { &mut waits.alone }.push(took);
    }
    Ok(waits)
}
