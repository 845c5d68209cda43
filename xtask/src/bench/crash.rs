//! What a crash costs: the comparing backup after one, against an incremental that needs none and a full. And what the
//! other way would cost every day, if BPF could do it: an activity log, which has to be on the disk before a write to a
//! cold area is let through.

use super::bed::{Aligned, direct};
use super::document::Findings;
use super::interleaved::{Contender, Sample, measure, table};
use crate::command::quiet;
use crate::rig::device::{Loop, Mount, unmount};
use crate::rig::product::{Product, utf8};
use crate::rig::random::Random;
use crate::rig::scratch::Scratch;
use crate::workspace::write_file;
use anyhow::{Context, Result};
use serde_json::Value;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Bytes of the device, most of them never used.
const SIZE: u64 = 64 << 30;
/// Bytes of files on it.
const USED: u64 = 3 << 30;
/// Rewritten in files before each backup.
const CHANGE: u64 = 32 << 20;
/// Device, repositories, the log's file.
const ROOM: u64 = 18 << 30;

/// Seconds of each.
pub fn run(program: &Path, rounds: usize) -> Result<Findings> {
    let folder = program.parent().context("folder of the program")?;
    let scratch = Scratch::in_folder(folder, ROOM)?;
    let text = format!("{}\n{}", after_a_crash(program, &scratch, rounds)?, activity_log(&scratch, rounds)?);
    Ok(Findings { text, headlines: Vec::new() })
}

/// A tracked device with a mounted ext4 full of files.
struct Bed<'a> {
    product: Product,
    scratch: &'a Scratch,
    file: File,
    _mounted: Mount,
    device: Loop,
    random: RefCell<Random>,
    boots: Cell<u32>,
    /// Bytes read of the device and stored, by the last backup.
    last: Cell<(u64, u64)>,
}

impl Bed<'_> {
    fn backup(&self, more: &[&str]) -> Result<Sample> {
        let repo = self.scratch.join("repo");
        let words = [&["backup", utf8(self.device.path())?, "--repo", utf8(&repo)?], more].concat();
        let (point, ran) = self.product.json(&words)?;
        let bytes = |key: &str| -> u64 {
            let passes = point["passes"].as_array().into_iter().flatten();
            passes.filter_map(|pass| pass[key].as_u64()).sum()
        };
        self.last.set((bytes("bytes"), point["stored_bytes"].as_u64().unwrap_or(0)));
        Ok(Sample::from(&ran))
    }

    /// Programs rewrite parts of files.
    fn change(&self) -> Result<()> {
        let mut random = self.random.borrow_mut();
        let data = Aligned::random(64 << 10, &mut random);
        for _ in 0..CHANGE / (64 << 10) {
            self.file.write_all_at(data.get(), random.below((1 << 30) / (64 << 10)) * (64 << 10))?;
        }
        self.file.sync_all().context("sync the file")
    }

    /// What a power cut leaves: the records and the repository.
    fn crash(&self) -> Result<()> {
        self.boots.set(self.boots.get() + 1);
        let home = self.product.home();
        unmount(&home.join("bpf"))?;
        std::fs::remove_dir_all(home.join("state")).context("remove the state of a boot")?;
        write_file(&home.join("boot"), self.boots.get().to_string().as_bytes())?;
        let (row, _): (Value, _) = self.product.json(&["resume"])?;
        anyhow::ensure!(row[0]["outcome"] == "suspect", "resume after a crash: {row}");
        Ok(())
    }
}

/// A loop device with a mounted ext4; its file `b` is the one that is rewritten.
fn file_system(scratch: &Scratch) -> Result<(Loop, Mount, File)> {
    let device = Loop::on(&scratch.sparse("disk.img", SIZE)?)?;
    quiet(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(device.path()))?;
    let mounted = Mount::new(device.path(), &scratch.folder("mnt")?, "rw")?;
    let mut shell = Command::new("sh");
    let fill = "tar -C / -cf - usr 2>/dev/null | head -c \"$2\" > \"$1/a\"; head -c 1G \"$1/a\" > \"$1/b\"; sync -f \"$1\"";
    quiet(shell.arg("-c").arg(fill).arg("fill").arg(mounted.point()).arg((USED - (1 << 30)).to_string()))?;
    let file =
        File::options().write(true).open(mounted.point().join("b")).context("open a file on the device")?;
    Ok((device, mounted, file))
}

fn after_a_crash(program: &Path, scratch: &Scratch, rounds: usize) -> Result<String> {
    let (device, mounted, file) = file_system(scratch)?;
    let product = Product::new(program.to_owned(), scratch)?;
    product.run(&["track", utf8(device.path())?])?;
    let (random, boots, last) = (RefCell::new(Random::new(5)), Cell::new(0), Cell::new((0, 0)));
    let bed = Bed { product, scratch, file, _mounted: mounted, device, random, boots, last };
    bed.backup(&["--full"])?;
    let (crash, change) = (Cell::new((0, 0)), Cell::new((0, 0)));
    let rows = measure(
        rounds,
        vec![
            Contender::new("incremental, no crash", || {
                bed.change()?;
                let sample = bed.backup(&[]);
                change.set(bed.last.get());
                sample
            }),
            Contender::new("comparing, after a crash", || {
                bed.change()?;
                bed.crash()?;
                let sample = bed.backup(&[]);
                crash.set(bed.last.get());
                sample
            }),
            Contender::new("full", || bed.backup(&["--full"])),
        ],
    )?;
    let full = bed.last.get();
    quiet(&mut bed.product.command(&["untrack", utf8(bed.device.path())?]))?;
    let mib = |(read, _): (u64, u64)| read >> 20;
    Ok(format!(
        "ext4 of {} GiB with {} GiB of files on a disk, mounted; {} MiB of them rewritten before each. Read of the \
         device: incremental {} MiB, comparing {} MiB, full {} MiB.\n\n{}",
        SIZE >> 30,
        USED >> 30,
        CHANGE >> 20,
        mib(change.get()),
        mib(crash.get()),
        mib(full),
        table("seconds", &rows)?
    ))
}

/// As DRBD has it by default: so many areas of 4 MiB are hot.
const HOT: usize = 1237;
const AREA: u64 = 4 << 20;
/// Bytes that are written to at random.
const SPREAD: u64 = 8 << 30;

/// Microseconds per write, with and without a log.
fn activity_log(scratch: &Scratch, rounds: usize) -> Result<String> {
    let (data, log) = (scratch.join("data"), scratch.join("log"));
    quiet(Command::new("fallocate").args(["-l", &SPREAD.to_string()]).arg(&data))?;
    quiet(Command::new("fallocate").args(["-l", "4M"]).arg(&log))?;
    let data = direct(&data)?;
    let sync = rustix::fs::OFlags::DIRECT | rustix::fs::OFlags::DSYNC;
    let log =
        File::options().write(true).custom_flags(sync.bits() as i32).open(&log).context("open the log")?;
    let random = RefCell::new(Random::new(6));
    let go = |logged, hot| -> Result<Sample> {
        let mut random = random.borrow_mut();
        writes(&data, if logged { Some(&log) } else { None }, hot, &mut random)
    };
    let rows = |hot| {
        let contenders = vec![
            Contender::new("no log", move || go(false, hot)),
            Contender::new("activity log", move || go(true, hot)),
        ];
        measure(rounds, contenders)
    };
    Ok(format!(
        "4 KiB O_DIRECT writes, one at a time, over {} GiB of the same disk; before the first write to a cold area of \
         4 MiB, 4 KiB are written with O_DSYNC ({HOT} areas are hot). Anywhere:\n\n{}\nNine of ten to a twentieth:\n\n{}",
        SPREAD >> 30,
        table("µs a write", &rows(false)?)?,
        table("µs a write", &rows(true)?)?
    ))
}

fn writes(data: &File, log: Option<&File>, hot: bool, random: &mut Random) -> Result<Sample> {
    let block = Aligned::random(4096, random);
    // when an area was last written to, and the areas by that
    let (mut last, mut order) = (BTreeMap::new(), BTreeMap::new());
    let (began, mut count) = (Instant::now(), 0u64);
    while began.elapsed() < Duration::from_secs(4) {
        let spread = if hot && random.below(10) > 0 { SPREAD / 20 } else { SPREAD };
        let at = random.below(spread / 4096) * 4096;
        if let Some(before) = last.insert(at / AREA, count) {
            order.remove(&before);
        } else if let Some(log) = log {
            log.write_all_at(block.get(), count % 1024 * 4096).context("write the log")?;
        }
        order.insert(count, at / AREA);
        if order.len() > HOT
            && let Some((_, cold)) = order.pop_first()
        {
            last.remove(&cold);
        }
        data.write_all_at(block.get(), at).context("write the data")?;
        count += 1;
    }
    Ok(Sample { figure: began.elapsed().as_secs_f64() * 1e6 / count.max(1) as f64, peak: 0, cpu: 0.0 })
}
