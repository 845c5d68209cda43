//! `cargo xtask tidy`: the rules of the house that no compiler checks.
//!
//! Layers, sizes, module heads, where unsafe may be, what a finished program does not contain, and a
//! reason for every dependency. All problems are shown, not only the first.

mod layers;
mod manifests;
mod rules;
mod source;

use crate::command::{say, text};
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use source::Source;
use std::fs;
use std::process::Command;

/// One broken rule.
pub struct Problem {
    /// `path:line`
    pub place: String,
    /// What is wrong.
    pub what: String,
}

impl Problem {
    /// A problem at a line of a file.
    pub fn new(source: &Source, line: usize, what: impl Into<String>) -> Self {
        Self { place: format!("{}:{line}", source.path), what: what.into() }
    }
}

/// Checks every file git knows or would add.
pub fn tidy(ws: &Workspace) -> Result<()> {
    let mut problems = Vec::new();
    let mut count = 0;
    for path in files(ws)? {
        let Ok(bytes) = fs::read(ws.root.join(&path)) else { continue };
        rules::host_names(&path, &bytes, &mut problems);
        let Ok(text) = String::from_utf8(bytes) else { continue };
        if path.ends_with("Cargo.toml") {
            manifests::check(&path, &text, &mut problems);
        }
        if path.ends_with(".rs") {
            count += 1;
            let source = Source::new(path, text);
            layers::check(&source, &mut problems);
            rules::check(&source, &mut problems);
        }
    }
    for problem in &problems {
        println!("{}: {}", problem.place, problem.what);
    }
    if !problems.is_empty() {
        bail!("tidy found {} problems", problems.len());
    }
    say(format!("tidy: {count} Rust files keep the rules"));
    Ok(())
}

fn files(ws: &Workspace) -> Result<Vec<String>> {
    let mut list = Command::new("git");
    list.current_dir(&ws.root).args([
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
        "--deduplicate",
    ]);
    let list = text(&mut list).context("list the project's files")?;
    Ok(list.lines().map(str::to_owned).collect())
}
