//! The other backup programs: restic and borg, which read the whole device every time.

use super::bed::Bed;
use crate::command::quiet;
use anyhow::{Context, Result};
use std::fs::File;
use std::process::{Command, Stdio};

fn restic_with(bed: &Bed, words: &[&str]) -> Command {
    let mut restic = Command::new("restic");
    restic.env("RESTIC_PASSWORD", "benchmark").env("RESTIC_CACHE_DIR", bed.scratch.join("restic-cache"));
    restic.arg("--quiet").arg("--repo").arg(bed.scratch.join("restic")).args(words);
    restic
}

/// A new repository of restic's.
pub fn fresh(bed: &Bed) -> Result<()> {
    bed.forget("restic")?;
    quiet(&mut restic_with(bed, &["init"])).map(drop)
}

/// restic reads the device.
pub fn restic(bed: &Bed) -> Result<Command> {
    let mut restic = restic_with(bed, &["backup", "--stdin", "--stdin-filename", "disk.img"]);
    let device = File::open(bed.device()).context("open the device for restic")?;
    restic.stdin(Stdio::from(device));
    Ok(restic)
}

fn borg_with(bed: &Bed) -> Command {
    let mut borg = Command::new("borg");
    borg.env("BORG_BASE_DIR", bed.scratch.join("borg-base"))
        .env("BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK", "yes");
    borg
}

/// A new repository of borg's, not encrypted.
pub fn fresh_borg(bed: &Bed) -> Result<()> {
    bed.forget("borg")?;
    quiet(borg_with(bed).args(["init", "--encryption=none"]).arg(bed.scratch.join("borg"))).map(drop)
}

/// borg reads the device in chunks of 64 KiB at fixed places, and compresses with zstd at level 1.
pub fn borg(bed: &Bed, archive: &str) -> Command {
    let mut borg = borg_with(bed);
    let place = format!("{}::{archive}", bed.scratch.join("borg").display());
    borg.args(["create", "--read-special", "--chunker-params=fixed,65536", "--compression=zstd,1"]);
    borg.arg(place).arg(bed.device());
    borg
}
