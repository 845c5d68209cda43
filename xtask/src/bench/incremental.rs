//! An incremental after 3 % of the device changed at random: against reading just that, against restic and borg, and on
//! a device 256 times as large.

use super::bed::{Bed, change, rival};
use super::document::{Findings, Headline};
use super::interleaved::{Contender, Row, Sample, measure, measure_warm, table};
use super::limits::{self, Stretch};
use super::rivals;
use crate::rig::random::Random;
use anyhow::{Context, Result, bail};
use std::cell::{Cell, RefCell};
use std::path::Path;

/// Bytes of the device, and what changes before each round.
const SIZE: u64 = 4 << 30;
const CHANGE: u64 = SIZE / 100 * 3;
/// The device, three repositories of it, and what the rounds add.
const ROOM: u64 = 11 << 30;
/// What every backup may take that has nothing to copy, and how fast the rest is to be, as a share of the limit.
const START: f64 = 0.3;
const SHARE: f64 = 0.7;
/// Content of the sparse devices, their sizes, and room for what is made of one.
const CONTENT: u64 = 1 << 29;
const SIZES: [u64; 3] = [SIZE, 1 << 40, 16 << 40];
const SPARSE_ROOM: u64 = 3 << 30;
/// What no device may need more of.
const MOST: u64 = 1 << 30;

/// Seconds of each.
pub fn run(program: &Path, rounds: usize) -> Result<Findings> {
    let (rows, bytes) = against_others(program, rounds)?;
    let sizes = sizes(program, rounds)?;
    let peak = largest(program)?;
    let text = format!(
        "A loop device of 4 GiB full of programs and libraries, in memory; before each round 3 % of it ({} MiB) is \
         overwritten in random runs of 4 to 64 KiB. *Random-read limit*: four threads read just these with O_DIRECT, \
         nothing else. Every tool made its first backup before. borg: chunks of 64 KiB at fixed places, zstd level 1.\
         \n\n{}\n\
         The same change on devices of 4 GiB and of 1 TiB that hold 512 MiB of data and otherwise nothing.\n\n{}\n\
         A full and an incremental of such a device of 16 TiB had {} MiB of memory at most.\n",
        bytes >> 20,
        table("seconds", &rows)?,
        table("seconds", &sizes)?,
        peak >> 20
    );
    let [limit, ours, restic, borg] = &rows[..] else { bail!("four rows") };
    let (restic, borg) = (restic.against(ours)?.median, borg.against(ours)?.median);
    let allowed = limit.mapped(|seconds| START + seconds / SHARE);
    let time = ours.against(&allowed)?.median;
    let larger = sizes[1].against(&sizes[0])?.median;
    let headlines = vec![
        Headline::at_most(
            "incremental, 3 % of 4 GiB: time against 0.3 s + random-read limit / 0.7",
            time,
            1.0,
            "≤ 1",
        ),
        Headline::new(
            "the same at 1 TiB sparse",
            format!("{larger:.2} ×"),
            "0.9 - 1.1",
            (0.9..=1.1).contains(&larger),
        ),
        Headline::at_least("the same: restic's time against it", restic, 20.0, "≥ 20"),
        Headline::at_least("the same: borg's time against it", borg, 8.0, "≥ 8"),
        Headline::memory("memory of an incremental", ours.peak, bytes / 4096),
        Headline::new("memory on a device of 16 TiB", format!("{} MiB", peak >> 20), "≤ 1 GiB", peak <= MOST),
    ];
    Ok(Findings { text, headlines })
}

/// The limit comes first: it makes the round's changes, and asks for the list before the incremental ends it. The
/// rows, and how much the last list named.
fn against_others(program: &Path, rounds: usize) -> Result<(Vec<Row>, u64)> {
    let bed = Bed::sized(program, SIZE, ROOM)?;
    bed.backup("repo", &["--full"])?;
    rivals::fresh(&bed)?;
    rival(&mut rivals::restic(&bed)?)?;
    rivals::fresh_borg(&bed)?;
    rival(&mut rivals::borg(&bed, "first"))?;
    let (random, bytes, archive) = (RefCell::new(Random::new(3)), Cell::new(0), Cell::new(0));
    let contenders = vec![
        Contender::new("random-read limit", || {
            change(bed.device(), &mut random.borrow_mut(), SIZE, CHANGE)?;
            let list = changed(&bed)?;
            bytes.set(list.iter().map(|(_, length)| length).sum());
            limits::read(bed.device(), &list)
        }),
        Contender::new("blkdelta incremental", || bed.backup("repo", &[])),
        Contender::new("restic backup --stdin", || rival(&mut rivals::restic(&bed)?)),
        Contender::new("borg create, fixed chunks", || {
            archive.set(archive.get() + 1);
            rival(&mut rivals::borg(&bed, &archive.get().to_string()))
        }),
    ];
    Ok((measure_warm(rounds, contenders)?, bytes.get()))
}

/// What the next incremental will copy.
fn changed(bed: &Bed) -> Result<Vec<Stretch>> {
    let (list, _) = bed.product.json(&["diff", bed.word()?])?;
    let number = |v: &serde_json::Value| v.as_u64().context("diff --json: an extent of an unknown shape");
    let list = list["extents"].as_array().context("diff --json names no extents")?;
    list.iter().map(|e| Ok((number(&e["offset"])?, number(&e["length"])?))).collect()
}

/// Nearly empty devices of two sizes, changed alike in their first 4 GiB.
fn sizes(program: &Path, rounds: usize) -> Result<Vec<Row>> {
    let beds = [SIZES[0], SIZES[1]].map(|size| Bed::sparse(program, CONTENT, size, SPARSE_ROOM));
    let [small, large] = beds;
    let (small, large) = (small?, large?);
    small.backup("repo", &["--full"])?;
    large.backup("repo", &["--full"])?;
    let randoms = [RefCell::new(Random::new(5)), RefCell::new(Random::new(5))];
    let incremental = |bed: &Bed, random: &RefCell<Random>| -> Result<Sample> {
        change(bed.device(), &mut random.borrow_mut(), SIZE, CHANGE)?;
        bed.backup("repo", &[])
    };
    measure(
        rounds,
        vec![
            Contender::new("blkdelta incremental, 4 GiB", || incremental(&small, &randoms[0])),
            Contender::new("blkdelta incremental, 1 TiB", || incremental(&large, &randoms[1])),
        ],
    )
}

/// Most memory of any backup of a device of 16 TiB.
fn largest(program: &Path) -> Result<u64> {
    let bed = Bed::sparse(program, CONTENT, SIZES[2], SPARSE_ROOM)?;
    let full = bed.backup("repo", &["--full"])?;
    change(bed.device(), &mut Random::new(6), SIZES[2], CHANGE)?;
    Ok(bed.backup("repo", &[])?.peak.max(full.peak))
}
