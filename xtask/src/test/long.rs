//! `cargo xtask test --long`: the long run alone, for as long as wanted, with what it says shown as it goes.

use super::build;
use crate::command::{is_root, say};
use crate::setup::packages;
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

const SUITE: &str = "long_run";

/// Runs it, until the time is over or SIGINT comes; ends with a line for docs/SAFETY.md.
pub fn long(ws: &Workspace, minutes: u64, seed: Option<u64>) -> Result<()> {
    if !is_root() {
        bail!("the long run makes devices of its own: run it as root");
    }
    packages::ensure(packages::TEST);
    let binary = build::suite(ws, SUITE)?;
    say(format!("the long run: {minutes} min of writes"));
    let mut run = Command::new(&binary.file);
    run.args(["--test-threads=1", "--nocapture"]).current_dir(&binary.folder).stdin(Stdio::null());
    run.env("CARGO_MANIFEST_DIR", &binary.folder).env("BLKDELTA_TEST_LONG", (minutes * 60).to_string());
    if let Some(seed) = seed {
        run.env("BLKDELTA_TEST_SEED", seed.to_string());
    }
    // SIGINT ends the run with its tally: we wait for that
    signal_hook::flag::register(signal_hook::consts::SIGINT, Arc::new(AtomicBool::new(false)))?;
    let status = run.status().with_context(|| format!("start {}", binary.file.display()))?;
    if !status.success() {
        bail!("the long run ended with {status}");
    }
    Ok(())
}
