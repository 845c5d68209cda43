//! The two static programs of a guest: blkdelta, with its kill points, and `blkdelta-guest`, which is its init.

use crate::command::{quiet, say};
use crate::linked;
use crate::workspace::Workspace;
use anyhow::{Context, Result};
use std::path::PathBuf;

/// Paths of the built programs.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The product.
    pub blkdelta: PathBuf,
    /// The guest's init and its cases.
    pub guest: PathBuf,
}

/// Builds both.
pub fn build(ws: &Workspace) -> Result<Programs> {
    say("building the guest's programs");
    let folder = super::fetch::place(ws).join("build");
    let mut build = linked::build(&ws.root, &folder, &[]);
    build.args(["--package", "collector", "--package", "tests", "--bins"]);
    quiet(&mut build).context("build the guest's programs")?;
    let program = |name: &str| linked::program(&folder, "debug", name);
    Ok(Programs { blkdelta: program("blkdelta")?, guest: program("blkdelta-guest")? })
}
