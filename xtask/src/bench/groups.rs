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
    files: u64,
}

/// Seconds of each.
pub fn run(program: &Path, rounds: usize) -> Result<Findings> {
    let bed = Bed::make(program)?;
    let mut first = Value::Null;
    let full = bed.backup(&["--full"], &mut first)?;
    say(format!("the first point: {:.1} s, {} MiB", full.figure, full.peak >> 20));
    bed.backup(WALK, &mut first)?;
    quiet(&mut bed.restic(&["init"]))?;
    rival(&mut bed.restic(&["backup", utf8(bed.mount.point())?]))?;
    rival(&mut bed.tar()?)?;
    let (mut short, mut walked) = (Value::Null, Value::Null);
    let contenders = vec![
        Contender::new("blkdelta group backup", || bed.backup(&[], &mut short)),
        Contender::new("the same by a walk (excludes with /)", || bed.backup(WALK, &mut walked)),
        Contender::new("restic backup", || rival(&mut bed.restic(&["backup", utf8(bed.mount.point())?]))),
        Contender::new("tar --listed-incremental", || rival(&mut bed.tar()?)),
    ];
    let rows = measure(rounds, contenders)?;
    ensure!(short["walked"] == false && short["kind"] == "incremental", "not the short way: {short}");
    ensure!(walked["walked"] == true && walked["kind"] == "incremental", "not by a walk: {walked}");
    let (frozen, looked_at) = (short["freeze_ms"].as_u64().unwrap_or(0), &short["looked_at"]);
    let text = format!(
        "A group of {} files in folders of {EACH} on ext4 in memory, every {FILLED}th with 300 bytes of content; nothing \
         changes. The walk is a second group with an exclude that names a path. The last increment without one looked at \
         {looked_at} files and folders and held the file system still for {frozen} ms. restic's and tar's results go to \
         files in memory, too.\n\n{}",
        thousands(bed.files),
        table("seconds", &rows)?
    );
    let restic = rows[2].against(&rows[0])?.median;
    let tar = rows[3].against(&rows[0])?.median;
    let own = rows[0].median()?;
    let what = format!("group of {} files, nothing changed: an increment", thousands(bed.files));
    let headlines = vec![
        Headline::new(what, format!("{own:.1} s"), "≤ 5 s", own <= 5.0),
        Headline::at_least("the same: restic's time against it", restic, 1.0, "≥ 1"),
        Headline::at_least("the same: tar's time against it", tar, 1.0, "≥ 1"),
    ];
    Ok(Findings { text, headlines })
}

/// What makes a backup walk: the group is another one.
const WALK: &[&str] = &["--name", "walked", "--exclude", "/no/such/path"];

impl Bed {
    fn make(program: &Path) -> Result<Self> {
        let asked = std::env::var("BLKDELTA_BENCH_FILES").ok();
        let files: u64 = asked.map_or(Ok(1_000_000), |n| n.parse()).context("BLKDELTA_BENCH_FILES")?;
        let scratch = Scratch::new(ROOM)?;
        let device = Loop::on(&scratch.sparse("disk.img", SIZE)?)?;
        let mut mkfs = Command::new("mkfs.ext4");
        mkfs.args(["-q", "-E", "lazy_itable_init=0,lazy_journal_init=0"]);
        quiet(mkfs.args(["-N", &(files + files / EACH + 1000).to_string()]).arg(device.path()))?;
        let product = Product::new(program.to_owned(), &scratch)?;
        product.run(&["track", utf8(device.path())?])?;
        let mount = Mount::new(device.path(), &scratch.folder("mnt")?, "noatime")?;
        let bed = Self { mount, device, product, scratch, files };
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
        let name: &[&str] = if more.contains(&"--name") { &[] } else { &["--name", "short"] };
        let words =
            [&["group", "backup", "--path", utf8(path)?, "--repo", utf8(&repo)?], name, more].concat();
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
