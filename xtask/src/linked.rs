//! Static programs: what is given away, and what runs in guests, needs nothing of the machine it runs on.
//!
//! glibc, not musl: it is the C library that everything else here is built and tested with, its allocator keeps up with
//! the pipeline's threads, and no further toolchain is needed. What a static glibc cannot do, look up names by
//! modules of the machine's, is switched off in `collector::sys`.

use crate::command::{cargo, text};
use anyhow::{Result, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What they run on.
pub const TARGET: &str = "x86_64-unknown-linux-gnu";

/// `cargo build` of the packages in `source`, static, into a target folder of its own: these flags would make every
/// other build there start anew.
pub fn build(source: &Path, folder: &Path, flags: &[String]) -> Command {
    let mut build = cargo();
    build.current_dir(source).env("CARGO_TARGET_DIR", folder);
    let all = ["-C", "target-feature=+crt-static", "-C", "strip=symbols"];
    let all: Vec<&str> = all.into_iter().chain(flags.iter().map(String::as_str)).collect();
    build.env("CARGO_ENCODED_RUSTFLAGS", all.join("\u{1f}")).env_remove("RUSTFLAGS");
    // with the target named, the flags do not reach build scripts, which must not be static
    build.args(["build", "--locked", "--target", TARGET]);
    build
}

/// Where a program lies after that; an error if it is not there, or not static.
pub fn program(folder: &Path, profile: &str, name: &str) -> Result<PathBuf> {
    let path = folder.join(TARGET).join(profile).join(name);
    ensure!(path.is_file(), "cargo built no {}", path.display());
    let segments = text(Command::new("readelf").arg("--program-headers").arg("--wide").arg(&path))?;
    ensure!(!segments.contains("INTERP"), "{} asks for a loader: it is not static", path.display());
    Ok(path)
}
