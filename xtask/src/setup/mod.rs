//! `cargo xtask setup`: what run, test and ebpf need, installed by itself, one line each.

pub mod apt;
pub mod bpf_linker;
pub mod packages;
pub mod rust_src;
pub mod servers;
pub mod toolchain;

use crate::command::say;
use crate::workspace::Workspace;
use anyhow::Result;

/// Installs all of it.
pub fn setup(ws: &Workspace, bench: bool) -> Result<()> {
    packages::ensure(packages::TEST);
    servers::ensure(ws);
    if bench {
        packages::ensure(packages::BENCH);
    }
    toolchain::Toolchain::ensure(ws)?;
    say("everything is there");
    Ok(())
}
