//! `cargo xtask test --faults [FILTER]`: faults planted on purpose in a test build; each must be noticed.
//!
//! The programs with faults are built here, into target; the release program is built as well, to show that it has
//! none. What each fault is, and the trials, are in tests/src/planted.

use super::build;
use crate::command::{is_root, say};
use crate::setup::packages;
use crate::workspace::Workspace;
use crate::{build as release, ebpf};
use anyhow::{Context, Result, bail};
use std::process::{Command, Stdio};

const SUITE: &str = "planted";

/// Plants the faults whose name contains `filter` one after the other; ends with a table for docs/SAFETY.md.
pub fn faults(ws: &Workspace, filter: Option<&str>) -> Result<()> {
    if !is_root() {
        bail!("a fault can only be planted where something is tracked: run it as root");
    }
    packages::ensure(packages::TEST);
    let object = ebpf::planted(ws)?;
    let program = build::program(ws)?;
    let binary = build::suite(ws, SUITE)?;
    say("planting faults, one after the other");
    let mut run = Command::new(&binary.file);
    run.args(["--test-threads=1", "--nocapture"]).current_dir(&binary.folder).stdin(Stdio::null());
    run.env("CARGO_MANIFEST_DIR", &binary.folder).env("BLKDELTA_BIN", program);
    run.env("BLKDELTA_PLANT_OBJECT", object).env("BLKDELTA_TEST_FAULTS", filter.unwrap_or_default());
    if filter.is_none() {
        run.env("BLKDELTA_RELEASE", release::build(ws)?);
    }
    let status = run.status().with_context(|| format!("start {}", binary.file.display()))?;
    if !status.success() {
        bail!("planted faults: {status}");
    }
    Ok(())
}
