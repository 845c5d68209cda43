//! An incremental after 2 % of the device changed at random: against a bare copy of just the changed bytes (nothing
//! can be faster), restic, and a scan of the whole device for differences.

use super::bed::{Aligned, Bed, change, direct, rival};
use super::document::{Findings, Headline};
use super::interleaved::{Contender, Row, Sample, measure, table};
use crate::command::quiet;
use crate::rig::random::Random;
use anyhow::{Context, Result};
use std::cell::RefCell;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

const SHARE: f64 = 0.02;

/// Seconds of each.
pub fn run(program: &Path, rounds: usize) -> Result<Findings> {
    let rows = in_memory(program, rounds)?;
    let disk = on_disk(program, rounds)?;
    let text = format!(
        "The device of `full`; before each round 2 % of it is overwritten in random runs of 4 to 64 KiB. The bare \
         copy reads and writes just these, one after the other, with no hash, compression or index.\n\n{}\n\
         The same on a disk (the device's file and what is written lie on the disk of the target folder).\n\n{}",
        table("seconds", &rows)?,
        table("seconds", &disk)?
    );
    let bare = |rows: &[Row]| Ok::<_, anyhow::Error>(rows[1].against(&rows[0])?.median);
    let restic = rows[3].against(&rows[1])?.median;
    let what = "incremental after 2 % change, on a disk: time against a bare copy of it";
    let headlines = vec![
        Headline::at_most(what, bare(&disk)?, 1.5, "≤ 1.5"),
        Headline::at_most("the same in memory", bare(&rows)?, 1.5, "≤ 1.5"),
        Headline::at_least("the same: restic's time against it", restic, 1.0, "≥ 1"),
        Headline::memory("memory of an incremental", rows[1].peak),
    ];
    Ok(Findings { text, headlines })
}

/// The bare copy comes first: it makes the round's changes, and asks for the list before the incremental ends it.
fn in_memory(program: &Path, rounds: usize) -> Result<Vec<Row>> {
    let bed = Bed::in_memory(program)?;
    prepare(&bed)?;
    quiet(&mut restic(&bed, &["init"]))?;
    rival(&mut restic_backup(&bed)?)?;
    let random = RefCell::new(Random::new(3));
    let contenders = vec![
        Contender::new("bare copy of the changed areas", || changed_and_copied(&bed, &random)),
        Contender::new("blkdelta incremental", || bed.backup("repo", &[])),
        Contender::new("blkdelta incremental of no change", || bed.backup("repo", &[])),
        Contender::new("restic backup --stdin", || rival(&mut restic_backup(&bed)?)),
        Contender::new("qemu-img compare with the old image", || {
            let mut compare = Command::new("qemu-img");
            compare.args(["compare", "-f", "raw", "-F", "raw", "-T", "none"]).arg(bed.device());
            rival(compare.arg(bed.scratch.join("old.raw")))
        }),
    ];
    measure(rounds, contenders)
}

/// The two that only differ in what blkdelta adds, on a disk.
fn on_disk(program: &Path, rounds: usize) -> Result<Vec<Row>> {
    let bed = Bed::on_disk(program)?;
    prepare(&bed)?;
    let random = RefCell::new(Random::new(4));
    let contenders = vec![
        Contender::new("bare copy of the changed areas", || changed_and_copied(&bed, &random)),
        Contender::new("blkdelta incremental", || bed.backup("repo", &[])),
    ];
    measure(rounds, contenders)
}

/// The full, and the image that a scan compares with.
fn prepare(bed: &Bed) -> Result<()> {
    bed.backup("repo", &["--full"])?;
    let mut cp = Command::new("cp");
    quiet(cp.arg("--sparse=never").arg(bed.scratch.join("source.img")).arg(bed.scratch.join("old.raw")))
        .map(drop)
}

fn changed_and_copied(bed: &Bed, random: &RefCell<Random>) -> Result<Sample> {
    change(bed.device(), &mut random.borrow_mut(), SHARE)?;
    bare_copy(bed)
}

/// Copies the changed areas into a file, and into the old image that the scan compares with.
fn bare_copy(bed: &Bed) -> Result<Sample> {
    let (list, _) = bed.product.json(&["diff", bed.word()?])?;
    let number = |v: &serde_json::Value| v.as_u64().context("diff --json: an extent of an unknown shape");
    let list = list["extents"].as_array().context("diff --json names no extents")?;
    let extents: Vec<(u64, u64)> =
        list.iter().map(|e| Ok((number(&e["offset"])?, number(&e["length"])?))).collect::<Result<_>>()?;
    bed.forget("bare.img")?;
    let mut buffer = Aligned::random(1 << 20, &mut Random::new(1));
    let began = Instant::now();
    let (device, copy) = (direct(bed.device())?, File::create(bed.scratch.join("bare.img"))?);
    let mut to = 0;
    for (at, length) in pieces(&extents) {
        let bytes = &mut buffer.get_mut()[..length];
        device.read_exact_at(bytes, at).context("read a changed area")?;
        copy.write_all_at(bytes, to).context("write a changed area")?;
        to += length as u64;
    }
    copy.sync_all().context("sync the copy")?;
    let took = began.elapsed();
    let old = File::options().write(true).open(bed.scratch.join("old.raw")).context("open the old image")?;
    for (at, length) in pieces(&extents) {
        let bytes = &mut buffer.get_mut()[..length];
        device.read_exact_at(bytes, at).context("read a changed area")?;
        old.write_all_at(bytes, at).context("bring the old image up to date")?;
    }
    Ok(Sample::seconds(took, 0))
}

/// The extents in pieces of at most 1 MiB.
fn pieces(extents: &[(u64, u64)]) -> impl Iterator<Item = (u64, usize)> {
    extents.iter().flat_map(|&(offset, length)| {
        let end = offset + length;
        (offset..end).step_by(1 << 20).map(move |at| (at, (end - at).min(1 << 20) as usize))
    })
}

fn restic(bed: &Bed, words: &[&str]) -> Command {
    let mut restic = Command::new("restic");
    restic.env("RESTIC_PASSWORD", "benchmark").env("RESTIC_CACHE_DIR", bed.scratch.join("restic-cache"));
    restic.arg("--quiet").arg("--repo").arg(bed.scratch.join("restic")).args(words);
    restic
}

fn restic_backup(bed: &Bed) -> Result<Command> {
    let mut restic = restic(bed, &["backup", "--stdin", "--stdin-filename", "disk.img"]);
    let device = File::open(bed.device()).context("open the device for restic")?;
    restic.stdin(Stdio::from(device));
    Ok(restic)
}
