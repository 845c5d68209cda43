//! `cargo xtask build`: the program as users get it.

use crate::command::{cargo, run};
use crate::workspace::Workspace;
use anyhow::Result;
use std::path::PathBuf;

/// Builds the optimised program; where it is.
pub fn build(ws: &Workspace) -> Result<PathBuf> {
    let mut build = cargo();
    build.current_dir(&ws.root).env("CARGO_TARGET_DIR", &ws.target);
    run(build.args(["build", "--locked", "--release", "--package", "collector", "--bin", "blkdelta"]))?;
    Ok(ws.target.join("release/blkdelta"))
}
