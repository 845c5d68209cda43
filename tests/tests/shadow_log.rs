//! Promise: what is believed after a crash does not rest on a log kept beside the writes, because such a log misses
//! changed areas; this measures how many (docs/SAFETY.md, "Restart, reboot, crash").
//!
//! The log is the best that can be had without holding a write back: the running bitmap, read from the kernel every
//! so often; the pages of it that changed are written with O_DSYNC. Areas once in it cost nothing more (an activity
//! log's hot areas). A power cut at any moment T leaves the last log that was durable before T, and on the device
//! every write that was acknowledged before T.

use anyhow::{Context, Result, ensure};
use collector::block::Granularity;
use collector::sys::bpf::Words;
use collector::tracker::{self, Places};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tests::device::{Loop, O_DIRECT, open_with};
use tests::image::Aligned;
use tests::product::Home;
use tests::random::Random;
use tests::scratch::Scratch;
use tests::{host, skip_if};

const SIZE: u64 = 256 << 20;
const AREA: u64 = 4096;
const AREAS: u64 = SIZE / AREA;
/// Bytes of the bitmap that are written together.
const PAGE: usize = 4096;
const CUTS: u64 = 1000;

/// Writes of 4 KiB, nine of ten to a twentieth of the device; when each area was first acknowledged.
fn write_until(stop: &AtomicBool, device: &Path, random: &mut Random) -> Result<Vec<Option<Instant>>> {
    let file = open_with(device, O_DIRECT)?;
    let data = Aligned::random(AREA as usize, random);
    let mut first = vec![None; AREAS as usize];
    while !stop.load(Ordering::Relaxed) {
        let hot = random.below(10) > 0;
        let area = random.below(if hot { AREAS / 20 } else { AREAS });
        file.write_all_at(&data, area * AREA)?;
        first[area as usize].get_or_insert_with(Instant::now);
        // a busy disk, not a saturated one: the logger must get its turn
        std::thread::sleep(Duration::from_micros(100));
    }
    Ok(first)
}

/// What was durable from when on; and how many bytes that took.
struct Log {
    states: Vec<(Instant, Vec<u64>)>,
    bytes: u64,
}

fn log_until(stop: &AtomicBool, words: &Words, path: &Path, every: Duration) -> Result<Log> {
    std::fs::File::create(path)?.set_len(words.len() as u64 * 8)?;
    let file = open_with(path, libc::O_DSYNC)?;
    let mut log = Log { states: vec![(Instant::now(), vec![0; words.len()])], bytes: 0 };
    while !stop.load(Ordering::Relaxed) {
        let now: Vec<u64> = words.iter().collect();
        let last = &log.states[log.states.len() - 1].1;
        let step = PAGE / 8;
        for (n, (new, old)) in now.chunks(step).zip(last.chunks(step)).enumerate() {
            if new != old {
                let bytes: Vec<u8> = new.iter().flat_map(|word| word.to_le_bytes()).collect();
                file.write_all_at(&bytes, (n * PAGE) as u64)?;
                log.bytes += bytes.len() as u64;
            }
        }
        log.states.push((Instant::now(), now));
        std::thread::sleep(every);
    }
    Ok(log)
}

/// Areas acknowledged before a cut that the log does not know.
fn missed(at: Instant, first: &[Option<Instant>], log: &Log) -> u64 {
    let durable = log.states.partition_point(|(time, _)| *time <= at);
    let known = &log.states[durable.max(1) - 1].1;
    let acknowledged = first.iter().enumerate().filter(|(_, time)| time.is_some_and(|time| time <= at));
    acknowledged.filter(|(area, _)| known[area / 64] >> (area % 64) & 1 == 0).count() as u64
}

#[test]
fn a_log_beside_the_writes_misses_areas() -> Result<()> {
    const NAME: &str = "shadow_log::a_log_beside_the_writes_misses_areas";
    skip_if!(host::no_tracking(), NAME);
    let mut random = Random::for_test(NAME);
    for every in [0, 10, 100, 1000] {
        let scratch = Scratch::new("shadow")?;
        let home = Home::new(&scratch)?;
        let disk = Loop::new(&scratch, "disk", SIZE)?;
        let places = Places::under(home.path());
        let state = tracker::track(&places, disk.path(), Granularity::default()).context("track")?;
        let bitmap = tracker::open_bitmap(&places, &state.key(), state.epoch)?;
        let words = tracker::words_of(&bitmap)?;
        // on the machine's own disk: a log in memory would survive nothing
        let folder = std::env::temp_dir().join(format!("blkdelta-test-{}-shadow-log", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        let (stop, path) = (AtomicBool::new(false), folder.join("log"));
        let began = Instant::now();
        let (first, log) = std::thread::scope(|scope| {
            let (mut random, device, stop_here) = (random.fork(), disk.path(), &stop);
            let writer = scope.spawn(move || write_until(stop_here, device, &mut random));
            let logger = scope.spawn(|| log_until(&stop, &words, &path, Duration::from_millis(every)));
            std::thread::sleep(Duration::from_secs(host::seconds(4)));
            stop.store(true, Ordering::Relaxed);
            (writer.join().expect("the writer"), logger.join().expect("the logger"))
        });
        let (first, log, time) = (first?, log?, began.elapsed());
        let cuts = (0..CUTS).map(|_| began + Duration::from_nanos(random.below(time.as_nanos() as u64)));
        let counts: Vec<u64> = cuts.map(|at| missed(at, &first, &log)).collect();
        let (bad, sum) = (counts.iter().filter(|n| **n > 0).count(), counts.iter().sum::<u64>());
        let written = first.iter().flatten().count();
        host::say(&format!(
            "  a log every {every} ms: {} durable states, {} KiB written for {written} areas; of {CUTS} cuts {bad} miss \
             something, {:.1} areas on average, {} at most",
            log.states.len(),
            log.bytes / 1024,
            sum as f64 / CUTS as f64,
            counts.iter().max().copied().unwrap_or(0)
        ));
        ensure!(bad > 0, "a log every {every} ms missed nothing: then it could be believed");
        tracker::untrack(&places, disk.path())?;
        std::fs::remove_dir_all(&folder)?;
    }
    Ok(())
}
