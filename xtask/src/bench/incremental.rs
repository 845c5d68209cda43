//! An incremental after 2 % of the device changed at random: against a bare copy of just the changed bytes (nothing
//! can be faster), restic, and a scan of the whole device for differences.

use super::bed::{Aligned, Bed, change, direct, rival};
use super::document::{Findings, Headline, MEMORY};
use super::interleaved::{Contender, Sample, measure, table};
use crate::command::quiet;
use crate::rig::random::Random;
use anyhow::{Context, Result};
use std::cell::RefCell;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

const SHARE: f64 = 0.02;

/// Seconds of each. The bare copy comes first: it makes the round's changes, and asks for the list before the
/// incremental ends it.
pub fn run(program: PathBuf, rounds: usize) -> Result<Findings> {
    let bed = Bed::make(program)?;
    bed.backup("repo", &["--full"])?;
    quiet(&mut restic(&bed, &["init"]))?;
    rival(&mut restic_backup(&bed)?)?;
    quiet(
        Command::new("cp")
            .arg("--sparse=never")
            .arg(bed.scratch.join("source.img"))
            .arg(bed.scratch.join("old.raw")),
    )?;
    let random = RefCell::new(Random::new(3));
    let rows = measure(
        rounds,
        vec![
            Contender::new("bare copy of the changed areas", || {
                change(bed.device(), &mut random.borrow_mut(), SHARE)?;
                bare_copy(&bed)
            }),
            Contender::new("blkdelta incremental", || bed.backup("repo", &[])),
            Contender::new("blkdelta incremental of no change", || bed.backup("repo", &[])),
            Contender::new("restic backup --stdin", || rival(&mut restic_backup(&bed)?)),
            Contender::new("qemu-img compare with the old image", || {
                let mut compare = Command::new("qemu-img");
                compare.args(["compare", "-f", "raw", "-F", "raw", "-T", "none"]).arg(bed.device());
                rival(compare.arg(bed.scratch.join("old.raw")))
            }),
        ],
    )?;
    let text = format!(
        "The device of `full`; before each round 2 % of it is overwritten in random runs of 4 to 64 KiB. The bare \
         copy reads and writes just these, one after the other, with no hash, compression, index or fsync.\n\n{}",
        table("seconds", &rows)?
    );
    let (bare, restic) = (rows[1].against(&rows[0])?, rows[3].against(&rows[1])?);
    let peak = rows[1].peak;
    let headlines = vec![
        Headline::new(
            "incremental after 2 % change: time against a bare copy of it",
            format!("{:.2} ×", bare.median),
            "≤ 1.5",
            bare.median <= 1.5,
        ),
        Headline::new(
            "the same: how many times faster than restic",
            format!("{:.0} ×", restic.median),
            "> 1",
            restic.median > 1.0,
        ),
        Headline::new("memory of an incremental", format!("{} MiB", peak >> 20), "≤ 256 MiB", peak <= MEMORY),
    ];
    Ok(Findings { text, headlines })
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
