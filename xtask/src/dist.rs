//! `cargo xtask dist`: an archive with the program, its documents, the systemd units and the licence.
//!
//! Names, times and owners in the archive depend on the commit alone, so that two people get the same.

use crate::build::build;
use crate::command::{quiet, say, text};
use crate::setup::toolchain::Rustc;
use crate::workspace::{Workspace, fresh_dir};
use anyhow::{Context, Result};
use std::fs;
use std::path::Path;
use std::process::Command;

const DOCUMENTS: [&str; 3] = ["README.md", "CHANGELOG.md", "LICENSE"];

/// Builds the archive under `target/dist`.
pub fn dist(ws: &Workspace) -> Result<()> {
    let program = build(ws)?;
    let version = text(Command::new(&program).arg("--version")).context("ask the program for its version")?;
    let version = version.split_whitespace().last().unwrap_or(env!("CARGO_PKG_VERSION")).to_owned();
    let name = format!("blkdelta-{version}-{}", Rustc::ask()?.host);
    let dist = ws.target.join("dist");
    let folder = dist.join(&name);
    fresh_dir(&folder)?;
    copy(&program, &folder.join("blkdelta"))?;
    for document in DOCUMENTS {
        copy(&ws.root.join(document), &folder.join(document))?;
    }
    for tree in ["docs", "packaging/systemd"] {
        quiet(Command::new("cp").arg("-r").arg(ws.root.join(tree)).arg(&folder))?;
    }
    copy(&ws.root.join("packaging/config.toml"), &folder.join("config.toml"))?;
    let archive = format!("{name}.tar.gz");
    pack(ws, &dist, &name, &archive)?;
    let sum = text(Command::new("sha256sum").current_dir(&dist).arg(&archive))?;
    say(format!("{}\n{}", ws.relative(&dist.join(&archive)), sum.trim()));
    Ok(())
}

fn pack(ws: &Workspace, dist: &Path, name: &str, archive: &str) -> Result<()> {
    let time = text(Command::new("git").current_dir(&ws.root).args(["log", "-1", "--format=@%ct"]))?;
    let mut tar = Command::new("tar");
    tar.current_dir(dist).args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner"]);
    tar.arg(format!("--mtime={}", time.trim())).env("GZIP", "-n");
    quiet(tar.args(["-czf", archive, name]))?;
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("copy {} to {}", from.display(), to.display()))?;
    Ok(())
}
