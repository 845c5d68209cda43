//! `cargo xtask docs`: the documentation builds without a warning, its links lead somewhere, and the
//! commands it shows exist.

use crate::command::{cargo, quiet, run, say};
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// All three; `verbs` are the words after `cargo xtask`.
pub fn docs(ws: &Workspace, verbs: &[String]) -> Result<()> {
    let mut problems = Vec::new();
    let mut documents = documents(ws)?;
    documents.sort();
    let program = program(ws)?;
    for document in &documents {
        let text = fs::read_to_string(document).with_context(|| format!("read {}", document.display()))?;
        let name = ws.relative(document).to_string();
        for target in links(&text) {
            let folder = document.parent().unwrap_or(&ws.root);
            if !folder.join(target).exists() {
                problems.push(format!("{name}: link to {target}, which does not exist"));
            }
        }
        problems
            .extend(commands(&text, &program, verbs).into_iter().map(|problem| format!("{name}: {problem}")));
    }
    problems.extend(crate::vm::check(ws).err().map(|error| format!("{error:#}")));
    for problem in &problems {
        println!("{problem}");
    }
    if !problems.is_empty() {
        bail!("the documents have {} problems", problems.len());
    }
    say(format!("docs: links and commands of {} documents are good", documents.len()));
    let mut doc = cargo();
    doc.current_dir(&ws.root).env("RUSTDOCFLAGS", "-D warnings");
    run(doc.args(["doc", "--locked", "--workspace", "--no-deps", "--document-private-items"]))
}

fn documents(ws: &Workspace) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for folder in [ws.root.clone(), ws.root.join("docs")] {
        let entries = fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))?;
        found
            .extend(entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "md")));
    }
    Ok(found)
}

/// The program as `cargo xtask test` leaves it: built again only if something changed.
fn program(ws: &Workspace) -> Result<PathBuf> {
    let mut build = cargo();
    build.current_dir(&ws.root).env("CARGO_TARGET_DIR", &ws.target);
    quiet(build.args(["build", "--locked", "--workspace", "--exclude", "xtask", "--bins"]))?;
    Ok(ws.target.join("debug/blkdelta"))
}

/// Files that `[text](target)` links to; addresses and places in the same document are left out.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split([')', ' ', '\n']).next());
    let files = targets.map(|target| target.split('#').next().unwrap_or(target));
    files.filter(|target| !target.is_empty() && !target.contains("://") && !target.starts_with("mailto:"))
}

/// Commands in blocks of code that would not work: `cargo xtask VERB` and `blkdelta VERB`.
fn commands(text: &str, program: &Path, verbs: &[String]) -> Vec<String> {
    let mut problems = Vec::new();
    for line in code_lines(text) {
        let line = line.trim().trim_start_matches(['#', '$']).trim();
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["cargo", "xtask", verb, ..] if !verbs.iter().any(|known| known == verb) => {
                problems.push(format!("`cargo xtask {verb}` does not exist"));
            }
            ["blkdelta", verb, ..] if is_verb(verb) => {
                let help = quiet(Command::new(program).args([verb, "--help"]));
                problems.extend(help.err().map(|_| format!("`blkdelta {verb}` does not exist")));
            }
            _ => {}
        }
    }
    problems
}

fn is_verb(word: &str) -> bool {
    !word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase())
}

/// Lines that are commands: indented by four or fenced.
fn code_lines(text: &str) -> impl Iterator<Item = &str> {
    let mut fenced = false;
    text.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fence && (fenced || line.starts_with("    "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_to_files_are_found() {
        let text = "a [b](docs/A.md#x) [c](https://x/y) [d](#here) ![e](e.png \"t\")\n";
        assert_eq!(links(text).collect::<Vec<_>>(), ["docs/A.md", "e.png"]);
    }

    #[test]
    fn unknown_commands_are_found_in_both_kinds_of_block() {
        let text = "    cargo xtask test   # all\n```\n$ cargo xtask gone\n```\ncargo xtask prose\n    blkdelta DEV\n";
        let found = commands(text, Path::new("/nowhere"), &["test".into()]);
        assert_eq!(found, ["`cargo xtask gone` does not exist"]);
        assert_eq!(commands("    blkdelta fly\n", Path::new("/bin/false"), &[]).len(), 1);
    }
}
