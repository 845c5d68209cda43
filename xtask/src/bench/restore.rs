//! A restore to a new file, against what the machine allows and qemu-img convert from its compressed image back to raw;
//! and a check of everything stored.

use super::bed::{Bed, SIZE, change, rival};
use super::document::{Findings, Headline};
use super::full::convert;
use super::interleaved::{Contender, Row, Sample, measure, table};
use super::limits::{self, Zstd};
use crate::command::quiet;
use crate::rig::product::utf8;
use crate::rig::random::Random;
use anyhow::{Result, bail};
use std::path::Path;
use std::process::Command;

/// Seconds of each.
pub fn run(program: &Path, rounds: usize) -> Result<Findings> {
    let bed = Bed::in_memory(program)?;
    let zstd = Zstd::of(&bed.scratch.join("source.img"), bed.scratch.join("sample.img"))?;
    bed.backup("one", &[])?;
    quiet(&mut convert(&bed, true))?;
    bed.backup("chain", &["--full"])?;
    let mut random = Random::new(9);
    for _ in 0..3 {
        change(bed.device(), &mut random, SIZE, SIZE / 50)?;
        bed.backup("chain", &[])?;
    }
    let rows = measure(rounds, contenders(&bed, &zstd))?;
    let text = format!(
        "The device of `full`, to a new file in memory. *Write limit*: four threads write such a file with O_DIRECT, \
         1 MiB at a time, and sync it. *unzstd limit*: the decompression of the zstd limit of `full`. *Read limit of \
         the repository*: four threads read its files.\n\n{}",
        table("seconds", &rows)?
    );
    let [write, unzstd, qemu, one, chain, read, check] = &rows[..] else { bail!("seven rows") };
    let rate = |what, other: &Row, own: &Row, least, aim| {
        Ok::<_, anyhow::Error>(Headline::at_least(what, other.against(own)?.median, least, aim))
    };
    let limit = Row::slowest(&[write, unzstd])?;
    let read_limit = Row::slowest(&[read, unzstd])?;
    let headlines = vec![
        rate("restore: rate against min(write limit, unzstd limit)", &limit, one, 0.6, "≥ 0.6")?,
        rate("restore: rate against qemu-img convert back", qemu, one, 1.2, "≥ 1.2")?,
        Headline::memory("memory of a restore", one.peak.max(chain.peak), SIZE / (64 << 10)),
        rate(
            "check --read-data: rate against min(read limit, unzstd limit)",
            &read_limit,
            check,
            0.8,
            "≥ 0.8",
        )?,
        Headline::memory("memory of a check", check.peak, SIZE / (64 << 10)),
    ];
    Ok(Findings { text, headlines })
}

fn contenders<'a>(bed: &'a Bed, zstd: &'a Zstd) -> Vec<Contender<'a>> {
    vec![
        Contender::new("write limit", || {
            bed.forget("limit.img")?;
            let took = limits::write(&bed.scratch.join("limit.img"), SIZE);
            bed.forget("limit.img")?;
            took
        }),
        Contender::new("unzstd limit", || zstd.run().map(|(_, unpacked)| unpacked)),
        Contender::new("qemu-img convert, zstd qcow2 to raw", || {
            bed.forget("back.raw")?;
            let mut qemu = Command::new("qemu-img");
            qemu.args(["convert", "-f", "qcow2", "-O", "raw"]);
            rival(qemu.arg(bed.scratch.join("copy.qcow2")).arg(bed.scratch.join("back.raw")))
        }),
        Contender::new("blkdelta restore of a full", || ours(bed, "one")),
        Contender::new("blkdelta restore of a full and 3 incrementals", || ours(bed, "chain")),
        Contender::new("read limit of the repository", || limits::read_folder(&bed.scratch.join("one"))),
        Contender::new("blkdelta check --read-data", || {
            bed.with_repository("check", "one", &["--read-data"])
        }),
    ]
}

fn ours(bed: &Bed, repo: &str) -> Result<Sample> {
    bed.forget("restored.img")?;
    let target = bed.scratch.join("restored.img");
    bed.with_repository("restore", repo, &["--point", "latest", utf8(&target)?])
}
