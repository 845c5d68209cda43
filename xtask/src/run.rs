//! `cargo xtask run -- WORDS`: builds the program and becomes it.

use crate::build::build;
use crate::workspace::Workspace;
use anyhow::{Context, Result};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Passes `words` to `blkdelta`: its terminal, signals and exit code are the caller's.
pub fn run(ws: &Workspace, words: &[String]) -> Result<()> {
    let program = build(ws)?;
    let error = Command::new(&program).args(words).exec();
    Err(error).with_context(|| format!("start {}", program.display()))
}
