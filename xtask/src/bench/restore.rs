//! A restore to a new file, against qemu-img convert from its compressed image back to raw.

use super::bed::{Bed, change, rival};
use super::document::{Findings, Headline};
use super::full::convert;
use super::interleaved::{Contender, Sample, measure, table};
use crate::command::quiet;
use crate::rig::product::utf8;
use crate::rig::random::Random;
use anyhow::Result;
use std::path::Path;
use std::process::Command;

/// Seconds of each.
pub fn run(program: &Path, rounds: usize) -> Result<Findings> {
    let bed = Bed::in_memory(program)?;
    bed.backup("one", &[])?;
    quiet(&mut convert(&bed, true))?;
    bed.backup("chain", &["--full"])?;
    let mut random = Random::new(9);
    for _ in 0..3 {
        change(bed.device(), &mut random, 0.02)?;
        bed.backup("chain", &[])?;
    }
    let rows = measure(
        rounds,
        vec![
            Contender::new("qemu-img convert, zstd qcow2 to raw", || {
                bed.forget("back.raw")?;
                let mut qemu = Command::new("qemu-img");
                qemu.args(["convert", "-f", "qcow2", "-O", "raw"]);
                rival(qemu.arg(bed.scratch.join("copy.qcow2")).arg(bed.scratch.join("back.raw")))
            }),
            Contender::new("blkdelta restore of a full", || ours(&bed, "one")),
            Contender::new("blkdelta restore of a full and 3 incrementals", || ours(&bed, "chain")),
        ],
    )?;
    let text = format!("The device of `full`, to a new file in memory.\n\n{}", table("seconds", &rows)?);
    let time = rows[1].against(&rows[0])?.median;
    let headlines = vec![
        Headline::at_most("restore: time against qemu-img convert back", time, 1.0, "≤ 1"),
        Headline::memory("memory of a restore", rows[1].peak.max(rows[2].peak)),
    ];
    Ok(Findings { text, headlines })
}

fn ours(bed: &Bed, repo: &str) -> Result<Sample> {
    bed.forget("restored.img")?;
    let (repo, target) = (bed.scratch.join(repo), bed.scratch.join("restored.img"));
    let ran = bed.product.run(&["restore", "--repo", utf8(&repo)?, "--point", "latest", utf8(&target)?])?;
    Ok(Sample::seconds(ran.took, ran.peak))
}
