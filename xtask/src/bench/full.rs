//! A full backup of a device full of real data: without compression against dd, with it against qemu-img.

use super::bed::{Bed, rival};
use super::document::{Findings, Headline};
use super::interleaved::{Contender, Row, Sample, measure, table};
use anyhow::Result;
use std::path::Path;
use std::process::Command;

/// Seconds of each, on the same device.
pub fn run(program: &Path, rounds: usize) -> Result<Findings> {
    let (plain, packed) = in_memory(program, rounds)?;
    let disk = on_disk(program, rounds)?;
    let text = format!(
        "A loop device of 1 GiB full of programs and libraries, in memory, to files in memory.\n\n{}\n{}\n\
         The same on a disk (the device's file and what is written lie on the disk of the target folder).\n\n{}",
        table("seconds", &plain)?,
        table("seconds", &packed)?,
        table("seconds", &disk)?
    );
    let rate = |rows: &[Row]| Ok::<_, anyhow::Error>(rows[0].against(&rows[1])?.median);
    let time = packed[1].against(&packed[0])?.median;
    let headlines = vec![
        Headline::at_least("full, uncompressed, on a disk: rate against dd", rate(&disk)?, 0.9, "≥ 0.9"),
        Headline::at_least("full, uncompressed, in memory: rate against dd", rate(&plain)?, 0.9, "≥ 0.9"),
        Headline::at_most("full, zstd: time against qemu-img with zstd", time, 1.0, "≤ 1"),
        Headline::memory("memory of a full", plain[1].peak.max(packed[1].peak)),
    ];
    Ok(Findings { text, headlines })
}

/// Without and with compression.
fn in_memory(program: &Path, rounds: usize) -> Result<(Vec<Row>, Vec<Row>)> {
    let bed = Bed::in_memory(program)?;
    let plain = vec![
        Contender::new("dd bs=1M iflag=direct conv=fsync", || dd(&bed)),
        Contender::new("blkdelta --compression none", || ours(&bed, "none")),
        Contender::new("qemu-img convert to qcow2", || qemu(&bed, false)),
    ];
    let packed = vec![
        Contender::new("qemu-img convert -c, zstd", || qemu(&bed, true)),
        Contender::new("blkdelta (zstd level 1)", || ours(&bed, "1")),
    ];
    Ok((measure(rounds, plain)?, measure(rounds, packed)?))
}

fn on_disk(program: &Path, rounds: usize) -> Result<Vec<Row>> {
    let bed = Bed::on_disk(program)?;
    let contenders = vec![
        Contender::new("dd bs=1M iflag=direct conv=fsync", || dd(&bed)),
        Contender::new("blkdelta --compression none", || ours(&bed, "none")),
        Contender::new("blkdelta (zstd level 1)", || ours(&bed, "1")),
    ];
    measure(rounds, contenders)
}

fn ours(bed: &Bed, compression: &str) -> Result<Sample> {
    bed.forget("repo")?;
    bed.backup("repo", &["--full", "--compression", compression])
}

fn dd(bed: &Bed) -> Result<Sample> {
    bed.forget("dd.img")?;
    let mut dd = Command::new("dd");
    dd.arg(format!("if={}", bed.device().display()))
        .arg(format!("of={}", bed.scratch.join("dd.img").display()));
    rival(dd.args(["bs=1M", "iflag=direct", "conv=fsync", "status=none"]))
}

fn qemu(bed: &Bed, packed: bool) -> Result<Sample> {
    bed.forget("copy.qcow2")?;
    rival(&mut convert(bed, packed))
}

/// The command that makes `copy.qcow2` from the device.
pub fn convert(bed: &Bed, packed: bool) -> Command {
    let mut qemu = Command::new("qemu-img");
    qemu.args(["convert", "-f", "raw", "-T", "none", "-O", "qcow2"]);
    if packed {
        qemu.args(["-c", "-o", "compression_type=zstd"]);
    }
    qemu.arg(bed.device()).arg(bed.scratch.join("copy.qcow2"));
    qemu
}
