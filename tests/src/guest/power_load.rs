//! What runs on a machine until its power goes: writers of several habits, and backups; and the clean stop.

use super::make::{disk, sh};
use super::power::{Bench, DISKS, FILES};
use crate::device::{O_DIRECT, open_with, size_of};
use crate::files;
use crate::image::Aligned;
use crate::random::Random;
use crate::workload::churn;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const MOUNTED: &str = "/run/files";

static STOP: AtomicBool = AtomicBool::new(false);

/// Until the power goes, in the midst of everything.
pub fn write(seed: u64) -> Result<()> {
    run(seed, Duration::MAX)
}

/// For a while; then a clean stop: nobody writes any more, no file system is mounted, `save`.
pub fn stop(seed: u64, while_ms: u64) -> Result<()> {
    run(seed, Duration::from_millis(while_ms))?;
    sh(&format!("umount {MOUNTED}"))?;
    let bench = Bench::here()?;
    println!("{}", json!({ "saving": true }));
    let ended = bench.home.run(["save", "--json"])?;
    ensure!(matches!(ended.code, Some(0 | 3)), "save: {ended}");
    let rows: Value = serde_json::from_str(&ended.out).context("read what save printed")?;
    bench.unmount()?;
    println!("{}", json!({ "saved": rows }));
    Ok(())
}

/// Writers, and backups meanwhile.
fn run(seed: u64, time: Duration) -> Result<()> {
    let mut random = Random::new(seed);
    let bench = Bench::mount()?;
    let end = Instant::now().checked_add(time);
    fs::create_dir_all(MOUNTED)?;
    sh(&format!("mount -t ext4 {} {MOUNTED}", disk(FILES)?.display()))?;
    let mut writers = Vec::new();
    for (serial, _) in DISKS {
        let (device, random) = (disk(serial)?, random.fork());
        writers.push(writer(
            move |random| match serial == FILES {
                true => in_files(random),
                false => past_file_systems(&device, random),
            },
            random,
        ));
    }
    println!("{}", json!({ "writing": true }));
    while end.is_none_or(|end| Instant::now() < end) {
        std::thread::sleep(Duration::from_millis(random.below(300)));
        let (serial, _) = DISKS[random.below(DISKS.len() as u64) as usize];
        let point = bench.backup(&disk(serial)?)?;
        println!("{}", json!({ "backup": point["kind"] }));
    }
    STOP.store(true, Ordering::SeqCst);
    writers.into_iter().try_for_each(|writer| writer.join().expect("a writer panicked"))
}

/// A thread that does `work` again and again.
fn writer(
    work: impl Fn(&mut Random) -> Result<()> + Send + 'static,
    mut random: Random,
) -> JoinHandle<Result<()>> {
    std::thread::spawn(move || {
        while !STOP.load(Ordering::SeqCst) {
            work(&mut random)?;
        }
        Ok(())
    })
}

fn past_file_systems(device: &Path, random: &mut Random) -> Result<()> {
    match random.below(3) {
        0 => churn(device, random, 20).map(drop),
        1 => hot(device, random),
        _ => sequential(device, random),
    }
}

/// A few places, again and again, as a database's log.
fn hot(device: &Path, random: &mut Random) -> Result<()> {
    let file = open_with(device, O_DIRECT)?;
    for _ in 0..50 {
        file.write_all_at(&Aligned::random(4096, random), random.below(16) << 12)?;
    }
    Ok(())
}

/// A long run from anywhere.
fn sequential(device: &Path, random: &mut Random) -> Result<()> {
    let file = open_with(device, O_DIRECT)?;
    let from = random.below(size_of(device)? / (2 << 20)) * (1 << 20);
    for step in 0..8 {
        file.write_all_at(&Aligned::random(64 << 10, random), from + (step << 16))?;
    }
    Ok(())
}

/// Files made, changed and removed; a full file system begins anew.
fn in_files(random: &mut Random) -> Result<()> {
    let folder = Path::new(MOUNTED).join(random.below(4).to_string());
    let done = files::churn(&folder, random, 15);
    let full = |error: &anyhow::Error| {
        error.chain().any(|cause| cause.to_string().contains("No space left on device"))
    };
    match done {
        Err(error) if full(&error) => {}
        other => other?,
    }
    // in a full file system the folder may not have been made
    if random.below(3) == 0 && folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("remove {}", folder.display()))?;
    }
    Ok(())
}
