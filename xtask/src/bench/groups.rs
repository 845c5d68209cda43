//! A group of a million files in which nothing changed: an increment without a walk, against one with it, and against
//! restic and tar, which always walk. On ext4; `BLKDELTA_BENCH_FILES` makes it smaller.

use super::bed::rival;
use super::document::{Findings, Headline};
use super::interleaved::{Contender, Sample, measure, table};
use crate::command::{quiet, say};
use crate::rig::device::{Loop, Mount};
use crate::rig::figures::thousands;
use crate::rig::product::{Product, utf8};
use crate::rig::scratch::Scratch;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;

/// Bytes of the device, sparse, and what of it and of the repositories is really taken.
const SIZE: u64 = 16 << 30;
const ROOM: u64 = 4 << 30;
/// Files of a folder.
const EACH: u64 = 1000;
/// Every so many-th file has content.
const FILLED: u64 = 4;

/// Fields are dropped in this order.
struct Bed {
    mount: Mount,
    device: Loop,
    product: Product,
    scratch: Scratch,
}

/// Of so many times fewer files is a group that restic and tar are measured with.
const FEWER: u64 = 4;

/// Seconds of each.
pub fn run(program: &Path, rounds: usize) -> Result<Findings> {
    let asked = std::env::var("BLKDELTA_BENCH_FILES").ok();
    let files: u64 = asked.map_or(Ok(1_000_000), |n| n.parse()).context("BLKDELTA_BENCH_FILES")?;
    let (alone, own) = ours(program, files, rounds)?;
    let (together, ratios) = theirs(program, files / FEWER, rounds)?;
    let text = format!(
        "Files in folders of {EACH} on ext4 in memory, every {FILLED}th with 300 bytes of content; nothing changes. With \
         `--no-freeze` all files are walked, once before and once after a look at what was written.\n\n{alone}\n\
         restic and tar always walk; what they make is a file in memory, too. Because their first run takes minutes, \
         they are compared with on fewer files.\n\n{together}"
    );
    let what = format!("group of {} files, nothing changed: an increment", thousands(files));
    let headlines = vec![
        Headline::new(what, format!("{own:.1} s"), "≤ 5 s", own <= 5.0),
        Headline::at_least("the same, fewer files: restic's time against it", ratios[0], 1.0, "≥ 1"),
        Headline::at_least("the same: time of tar --listed-incremental against it", ratios[1], 1.0, "≥ 1"),
    ];
    Ok(Findings { text, headlines })
}

/// What makes a backup walk.
const WALK: &[&str] = &["--no-freeze"];

/// With and without a walk: a table, and the median without.
fn ours(program: &Path, files: u64, rounds: usize) -> Result<(String, f64)> {
    let bed = Bed::make(program, files)?;
    let (mut short, mut walked) = (Value::Null, Value::Null);
    let full = bed.backup(&["--full"], &mut short)?;
    say(format!("the first point: {:.1} s, {} MiB", full.figure, full.peak >> 20));
    let rows = measure(
        rounds,
        vec![
            Contender::new("blkdelta group backup", || bed.backup(&[], &mut short)),
            Contender::new("the same with --no-freeze: a walk", || bed.backup(WALK, &mut walked)),
        ],
    )?;
    ensure!(short["walked"] == false && short["kind"] == "incremental", "not a glance: {short}");
    ensure!(walked["walked"] == true && walked["kind"] == "incremental", "not a walk: {walked}");
    let (frozen, looked_at) = (short["freeze_ms"].as_u64().unwrap_or(0), &short["looked_at"]);
    let text = format!(
        "{} files. The last increment without a walk looked at {looked_at} files and folders and held the file system \
         still for {frozen} ms; the first point took {:.1} s.\n\n{}",
        thousands(files),
        full.figure,
        table("seconds", &rows)?
    );
    Ok((text, rows[0].median()?))
}

/// Against others: a table, and how many times longer restic and tar took.
fn theirs(program: &Path, files: u64, rounds: usize) -> Result<(String, [f64; 2])> {
    let bed = Bed::make(program, files)?;
    let mut said = Value::Null;
    bed.backup(&["--full"], &mut said)?;
    quiet(&mut bed.restic(&["init"]))?;
    rival(&mut bed.restic(&["backup", utf8(bed.mount.point())?]))?;
    rival(&mut bed.tar()?)?;
    let rows = measure(
        rounds,
        vec![
            Contender::new("blkdelta group backup", || bed.backup(&[], &mut said)),
            Contender::new("restic backup", || rival(&mut bed.restic(&["backup", utf8(bed.mount.point())?]))),
            Contender::new("tar --listed-incremental", || rival(&mut bed.tar()?)),
        ],
    )?;
    ensure!(said["walked"] == false && said["kind"] == "incremental", "not a glance: {said}");
    let text = format!("{} files.\n\n{}", thousands(files), table("seconds", &rows)?);
    Ok((text, [rows[1].against(&rows[0])?.median, rows[2].against(&rows[0])?.median]))
}

impl Bed {
    fn make(program: &Path, files: u64) -> Result<Self> {
        let scratch = Scratch::new(ROOM)?;
        let device = Loop::on(&scratch.sparse("disk.img", SIZE)?)?;
        let mut mkfs = Command::new("mkfs.ext4");
        mkfs.args(["-q", "-E", "lazy_itable_init=0,lazy_journal_init=0"]);
        quiet(mkfs.args(["-N", &(files + files / EACH + 1000).to_string()]).arg(device.path()))?;
        let product = Product::new(program.to_owned(), &scratch)?;
        product.run(&["track", utf8(device.path())?])?;
        let mount = Mount::new(device.path(), &scratch.folder("mnt")?, "noatime")?;
        let bed = Self { mount, device, product, scratch };
        say(format!("{files} files"));
        for n in 0..files {
            let folder = bed.mount.point().join(format!("d{}", n / EACH));
            if n % EACH == 0 {
                fs::create_dir(&folder)?;
            }
            let mut file = File::create(folder.join(format!("f{n}")))?;
            if n % FILLED == 0 {
                file.write_all(&[n as u8; 300])?;
            }
        }
        quiet(&mut Command::new("sync"))?;
        Ok(bed)
    }

    fn backup(&self, more: &[&str], said: &mut Value) -> Result<Sample> {
        let (repo, path) = (self.scratch.join("repo"), self.mount.point());
        let words = ["group", "backup", "--name", "files", "--path", utf8(path)?, "--repo", utf8(&repo)?];
        let words = [&words[..], more].concat();
        let (json, ran) = self.product.json(&words)?;
        *said = json;
        Ok(Sample::from(&ran))
    }

    fn restic(&self, words: &[&str]) -> Command {
        let mut restic = Command::new("restic");
        restic.env("RESTIC_PASSWORD", "benchmark").env("RESTIC_CACHE_DIR", self.scratch.join("restic-cache"));
        restic.arg("--quiet").arg("--repo").arg(self.scratch.join("restic")).args(words);
        restic
    }

    fn tar(&self) -> Result<Command> {
        let mut tar = Command::new("tar");
        tar.arg("--create").arg("--file").arg(self.scratch.join("tree.tar"));
        tar.arg(format!("--listed-incremental={}", utf8(&self.scratch.join("tar.list"))?));
        tar.arg("--directory").arg(self.mount.point()).arg(".");
        Ok(tar)
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        // the pins go with the home in any case
        let _ =
            utf8(self.device.path()).and_then(|word| quiet(&mut self.product.command(&["untrack", word])));
    }
}
