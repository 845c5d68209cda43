//! The two static programs of a guest: blkdelta, with its kill points, and `blkdelta-guest`, which is its init.

use crate::command::{cargo, quiet, say};
use crate::workspace::Workspace;
use anyhow::{Context, Result, ensure};
use std::path::PathBuf;

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Paths of the built programs.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The product.
    pub blkdelta: PathBuf,
    /// The guest's init and its cases.
    pub guest: PathBuf,
}

/// Builds both, in a target folder of their own: their flags would make every other build start anew.
pub fn build(ws: &Workspace) -> Result<Programs> {
    say("building the guest's programs");
    let folder = super::fetch::place(ws).join("build");
    let mut build = cargo();
    build.current_dir(&ws.root).env("CARGO_TARGET_DIR", &folder);
    build
        .env("RUSTFLAGS", "-C target-feature=+crt-static -C strip=symbols")
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    // with the target named, the flags do not reach build scripts, which must not be static
    build.args([
        "build",
        "--locked",
        "--target",
        TARGET,
        "--package",
        "collector",
        "--package",
        "tests",
        "--bins",
    ]);
    quiet(&mut build).context("build the guest's programs")?;
    let program = |name: &str| folder.join(TARGET).join("debug").join(name);
    let programs = Programs { blkdelta: program("blkdelta"), guest: program("blkdelta-guest") };
    for path in [&programs.blkdelta, &programs.guest] {
        ensure!(path.is_file(), "cargo built no {}", path.display());
    }
    Ok(programs)
}
