//! A full backup of a device full of real data: without compression against dd, with it against qemu-img.

use super::bed::{Bed, rival};
use super::document::{Findings, Headline, MEMORY};
use super::interleaved::{Contender, measure, table};
use anyhow::Result;
use std::path::PathBuf;
use std::process::Command;

/// Seconds of each, on the same device.
pub fn run(program: PathBuf, rounds: usize) -> Result<Findings> {
    let bed = Bed::make(program)?;
    let ours = |compression: &'static str| {
        let bed = &bed;
        move || {
            bed.forget("repo")?;
            bed.backup("repo", &["--full", "--compression", compression])
        }
    };
    let plain = measure(
        rounds,
        vec![
            Contender::new("dd bs=1M iflag=direct conv=fsync", || dd(&bed)),
            Contender::new("blkdelta --compression none", ours("none")),
            Contender::new("qemu-img convert to qcow2", || qemu(&bed, false)),
        ],
    )?;
    let packed = measure(
        rounds,
        vec![
            Contender::new("qemu-img convert -c, zstd", || qemu(&bed, true)),
            Contender::new("blkdelta (zstd level 1)", ours("1")),
        ],
    )?;
    let text = format!(
        "A loop device of 1 GiB full of programs and libraries, in memory, to files in memory.\n\n{}\n{}",
        table("seconds", &plain)?,
        table("seconds", &packed)?
    );
    let rate = plain[0].against(&plain[1])?;
    let (time, peak) = (packed[1].against(&packed[0])?, plain[1].peak.max(packed[1].peak));
    let headlines = vec![
        Headline::new(
            "full, uncompressed: rate against dd",
            format!("{:.2} ×", rate.median),
            "≥ 0.9",
            rate.median >= 0.9,
        ),
        Headline::new(
            "full, zstd: time against qemu-img with zstd",
            format!("{:.2} ×", time.median),
            "< 1",
            time.median < 1.0,
        ),
        Headline::new("memory of a full", format!("{} MiB", peak >> 20), "≤ 256 MiB", peak <= MEMORY),
    ];
    Ok(Findings { text, headlines })
}

fn dd(bed: &Bed) -> Result<super::interleaved::Sample> {
    bed.forget("dd.img")?;
    let mut dd = Command::new("dd");
    dd.arg(format!("if={}", bed.device().display()))
        .arg(format!("of={}", bed.scratch.join("dd.img").display()));
    rival(dd.args(["bs=1M", "iflag=direct", "conv=fsync", "status=none"]))
}

fn qemu(bed: &Bed, packed: bool) -> Result<super::interleaved::Sample> {
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
