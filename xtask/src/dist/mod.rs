//! `cargo xtask dist`: an archive and a Debian package of the static program with its units, documents, man pages and
//! completions.
//!
//! Bytes, names, times and owners depend on the commit and the tools alone (docs/PACKAGING.md), so that two people get
//! the same; `--check` builds twice, from two places, and compares.

mod archive;
mod deb;
mod licences;
mod product;
mod twice;

use crate::command::{say, text};
use crate::workspace::{Workspace, fresh_dir};
use anyhow::{Context, Result};
use product::{Product, Source};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Builds archive and package under `target/dist`; with `check` a second time elsewhere.
pub fn dist(ws: &Workspace, check: bool) -> Result<()> {
    let source = Source::here(ws)?;
    let place = place(ws);
    let made = make(&source, &place)?;
    for file in &made {
        let folder = file.parent().context("folder of the result")?;
        let name = file.file_name().context("name of the result")?;
        let sum = text(Command::new("sha256sum").current_dir(folder).arg(name))?;
        say(format!("{}\n{}", ws.relative(file), sum.trim()));
    }
    if check { twice::check(&source, &place, &made) } else { Ok(()) }
}

/// Packages to be installed one over the other: of this version, and of a higher one from the same source.
pub fn pair(ws: &Workspace) -> Result<[PathBuf; 2]> {
    let place = place(ws);
    let mut product = Product::build(&Source::here(ws)?, &place)?;
    let first = deb::build(&product, &place)?;
    product.version += "+next";
    Ok([first, deb::build(&product, &place)?])
}

fn place(ws: &Workspace) -> PathBuf {
    ws.target.join("dist")
}

/// Everything, into this folder.
fn make(source: &Source, into: &Path) -> Result<Vec<PathBuf>> {
    let product = Product::build(source, into)?;
    Ok(vec![archive::build(&product, into)?, deb::build(&product, into)?])
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let folder = to.parent().context("folder of a copy")?;
    fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    fs::copy(from, to).with_context(|| format!("copy {} to {}", from.display(), to.display()))?;
    Ok(())
}

/// All files of a folder, none below another.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|e| e.path()).filter(|path| path.is_file()).collect();
    files.sort();
    Ok(files)
}

/// Sets the modes of all below a folder: 755 of folders and what is executable, else 644. The files, by name.
fn settle(folder: &Path, executable: &dyn Fn(&Path) -> bool) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        mode(&folder, 0o755)?;
        let entries = fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))?;
        for path in entries.flatten().map(|entry| entry.path()) {
            if path.is_dir() {
                folders.push(path);
            } else {
                mode(&path, if executable(&path) { 0o755 } else { 0o644 })?;
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

fn mode(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .with_context(|| format!("set the mode of {}", path.display()))
}

/// Starts a folder anew.
fn stage(into: &Path, name: &str) -> Result<PathBuf> {
    let folder = into.join(name);
    fresh_dir(&folder)?;
    Ok(folder)
}
