//! A full backup of a device full of real data: what the machine allows, other tools, and what encryption adds.

use super::bed::{Bed, SIZE, rival};
use super::document::{Findings, Headline};
use super::interleaved::{Contender, Row, Sample, measure, table};
use super::limits::{self, Zstd};
use super::rivals;
use crate::command::{quiet, text as output};
use crate::rig::product::utf8;
use anyhow::{Context, Result};
use std::path::Path;
use std::process::Command;

const GIB: f64 = SIZE as f64 / (1 << 30) as f64;

/// Seconds of each, on the same device.
pub fn run(program: &Path, rounds: usize) -> Result<Findings> {
    let bed = Bed::in_memory(program)?;
    let packed = packed(&bed, rounds)?;
    let plain = plain(&bed, rounds)?;
    drop(bed);
    let disk = on_disk(program, rounds)?;
    let text = format!(
        "A loop device of 1 GiB full of programs and libraries, in memory, to files in memory. *Read limit*: four \
         threads read it with O_DIRECT, 1 MiB at a time. *zstd limit*: `zstd -1` in blocks of 64 KiB on every \
         processor at once, in memory, nothing else.\n\n{}\n\
         Without compression. `cp` and `qemu-img` read through the page cache, which holds the device from the round \
         before; they hash nothing and wait for no disk. Ours hashes each byte twice, as a frame and as a part of its \
         segment, and syncs.\n\n{}\n\
         The same on a disk (the device's file and what is written lie on the disk of the target folder).\n\n{}",
        table("seconds", &packed)?,
        table("seconds", &plain)?,
        table("seconds", &disk)?
    );
    Ok(Findings { text, headlines: headlines(&packed, &plain, &disk)? })
}

fn headlines(packed: &[Row], plain: &[Row], disk: &[Row]) -> Result<Vec<Headline>> {
    let [read, zstd, ours, sealed, qemu, restic] = packed else { anyhow::bail!("six rows") };
    let limit = Row::slowest(&[read, zstd])?;
    let cpu = ours.cpu()? / GIB;
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let alone = zstd.median()? * processors as f64 / GIB;
    let rate = |what, other: &Row, own: &Row, least, aim| {
        Ok::<_, anyhow::Error>(Headline::at_least(what, other.against(own)?.median, least, aim))
    };
    let added = (sealed.cpu_against(ours)?.median - 1.0) * 100.0;
    Ok(vec![
        rate("full, zstd: rate against min(read limit, zstd limit)", &limit, ours, 0.8, "≥ 0.8")?,
        rate("full, zstd: rate against qemu-img with zstd", qemu, ours, 1.5, "≥ 1.5")?,
        rate("full, zstd: rate against restic", restic, ours, 3.0, "≥ 3")?,
        Headline::new(
            "full, zstd: processor time per GiB",
            format!("{cpu:.2} s (zstd alone, on all processors: {alone:.2} s)"),
            "≤ 2.2 s",
            cpu <= 2.2,
        ),
        rate("full, uncompressed: rate against cp --sparse", &plain[0], &plain[1], 0.8, "≥ 0.8")?,
        rate("full, uncompressed: rate against qemu-img to qcow2", &plain[2], &plain[1], 1.0, "≥ 1")?,
        rate("full, uncompressed: rate against dd with O_DIRECT", &plain[3], &plain[1], 0.0, "")?,
        rate("full, uncompressed, on a disk: rate against dd with O_DIRECT", &disk[0], &disk[1], 0.0, "")?,
        Headline::new(
            "encryption: processor time added to a full",
            format!("{added:.1} %"),
            "≤ 5 %",
            added <= 5.0,
        ),
        Headline::memory("memory of a full", ours.peak.max(plain[1].peak), SIZE / (64 << 10)),
    ])
}

fn packed(bed: &Bed, rounds: usize) -> Result<Vec<Row>> {
    let zstd = Zstd::of(&bed.scratch.join("source.img"), bed.scratch.join("sample.img"))?;
    let key = sealed_repository(bed)?;
    let rows = measure(
        rounds,
        vec![
            Contender::new("read limit", || limits::read(bed.device(), &[(0, SIZE)])),
            Contender::new("zstd limit", || zstd.run().map(|(packed, _)| packed)),
            Contender::new("blkdelta (zstd level 1)", || ours(bed, "1")),
            Contender::new("blkdelta, encrypted", || {
                bed.backup("sealed", &["--full", "--compression", "1", "--key-file", &key])
            }),
            Contender::new("qemu-img convert -c, zstd", || qemu(bed, true)),
            Contender::new("restic backup --stdin, new repository", || {
                rivals::fresh(bed)?;
                rival(&mut rivals::restic(bed)?)
            }),
        ],
    )?;
    ["sealed", "repo", "restic", "copy.qcow2"].iter().try_for_each(|name| bed.forget(name))?;
    Ok(rows)
}

/// An encrypted repository, and the key file of a host that may write there.
fn sealed_repository(bed: &Bed) -> Result<String> {
    let (owner, writer) = (bed.scratch.join("owner.key"), bed.scratch.join("write.key"));
    let said = output(&mut bed.product.command(&["key", "generate", utf8(&owner)?]))?;
    let public = said.split_whitespace().find(|word| word.starts_with("blkdelta-public-"));
    let public = public.with_context(|| format!("key generate printed {said:?}"))?;
    let repo = bed.scratch.join("sealed");
    let words = ["init", utf8(&repo)?, "--recipient", public, "--write-key", utf8(&writer)?];
    quiet(&mut bed.product.command(&words))?;
    Ok(utf8(&writer)?.to_owned())
}

fn plain(bed: &Bed, rounds: usize) -> Result<Vec<Row>> {
    measure(
        rounds,
        vec![
            Contender::new("cp --sparse=always", || {
                bed.forget("cp.img")?;
                let mut cp = Command::new("cp");
                rival(cp.arg("--sparse=always").arg(bed.device()).arg(bed.scratch.join("cp.img")))
            }),
            Contender::new("blkdelta --compression none", || ours(bed, "none")),
            Contender::new("qemu-img convert to qcow2", || qemu(bed, false)),
            Contender::new("dd bs=1M iflag=direct conv=fsync", || dd(bed)),
        ],
    )
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
