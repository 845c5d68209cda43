//! `cargo xtask lint`: formatting and clippy, warnings denied.

use crate::command::{cargo, run};
use crate::ebpf;
use crate::workspace::Workspace;
use anyhow::{Context, Result};

/// Both.
pub fn lint(ws: &Workspace) -> Result<()> {
    fmt(ws)?;
    clippy(ws)
}

/// Is everything formatted?
pub fn fmt(ws: &Workspace) -> Result<()> {
    run(cargo().current_dir(&ws.root).args(["fmt", "--all", "--check"])).context("run `cargo fmt --all`")
}

/// No warning in any target of any package, nor in the kernel side.
pub fn clippy(ws: &Workspace) -> Result<()> {
    let mut clippy = cargo();
    clippy.current_dir(&ws.root).args(["clippy", "--locked", "--workspace", "--all-targets"]);
    let users = run(clippy.args(["--", "-D", "warnings"]));
    users.and(ebpf::clippy(ws))
}
