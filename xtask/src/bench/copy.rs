//! What a full backup is compared with: dd and qemu-img convert reading the same file of real data.

use super::interleaved::{Contender, compare};
use crate::command::quiet;
use crate::workspace::{Workspace, fresh_dir};
use anyhow::{Context, Result};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

const SIZE: u64 = 512 << 20;

/// Seconds of each, on the same source.
pub fn run(ws: &Workspace, rounds: usize) -> Result<()> {
    let folder = ws.target.join("bench-copy");
    fresh_dir(&folder)?;
    let source = folder.join("source.img");
    real_data(&source)?;
    let timed = |mut command: Command| -> Result<f64> {
        let start = Instant::now();
        quiet(&mut command)?;
        Ok(start.elapsed().as_secs_f64())
    };
    let contenders = vec![
        Contender { name: "dd bs=1M, direct, fsync", measure: Box::new(|| timed(dd(&source, &folder))) },
        Contender {
            name: "qemu-img convert, qcow2",
            measure: Box::new(|| timed(qemu(&source, &folder, false))),
        },
        Contender { name: "the same, zstd", measure: Box::new(|| timed(qemu(&source, &folder, true))) },
    ];
    compare("copy of 512 MiB of real data", "s", rounds, contenders)?;
    fs::remove_dir_all(&folder).context("remove the benchmark's folder")
}

/// A disk's worth of programs and libraries: neither random nor zero.
fn real_data(to: &Path) -> Result<()> {
    let mut shell = Command::new("sh");
    shell.arg("-c").arg("tar -C / -cf - usr 2>/dev/null | head -c \"$2\" > \"$1\" && truncate -s \"$2\" \"$1\" && sync \"$1\"");
    quiet(shell.arg("real_data").arg(to).arg(SIZE.to_string()))?;
    Ok(())
}

fn dd(source: &Path, folder: &Path) -> Command {
    let mut dd = Command::new("dd");
    dd.arg(format!("if={}", source.display())).arg(format!("of={}", folder.join("dd.img").display()));
    dd.args(["bs=1M", "iflag=direct", "conv=fsync", "status=none"]);
    dd
}

fn qemu(source: &Path, folder: &Path, compressed: bool) -> Command {
    let mut qemu = Command::new("qemu-img");
    qemu.args(["convert", "-f", "raw", "-T", "none", "-t", "none", "-O", "qcow2"]);
    if compressed {
        qemu.args(["-c", "-o", "compression_type=zstd"]);
    }
    qemu.arg(source).arg(folder.join("copy.qcow2"));
    qemu
}
