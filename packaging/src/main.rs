//! Writes the man pages and the shells' completions of `blkdelta`, made from its own command line, into a folder.
//!
//! ```text
//!   man8/blkdelta.8, man8/blkdelta-track.8, …     one page a verb
//!   completions/blkdelta                          bash
//!   completions/_blkdelta                         zsh
//!   completions/blkdelta.fish                     fish
//! ```
//! A program of its own, so that the shipped one carries none of this. `cargo xtask dist` runs it.

use anyhow::{Context, Result};
use clap::Command;
use clap_complete::Shell;
use std::fs;
use std::path::{Path, PathBuf};

/// Of what an administrator runs.
const SECTION: &str = "8";

fn main() -> Result<()> {
    let folder = std::env::args_os().nth(1).map(PathBuf::from);
    let folder = folder.context("give the folder to write to: blkdelta-papers FOLDER")?;
    let command = collector::cli::command();
    pages(&command, &folder.join("man8"))?;
    completions(command, &folder.join("completions"))
}

/// A page for the program and for each verb, however deep.
fn pages(command: &Command, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    // full names, and what is of every verb handed down
    let mut command = command.clone().disable_help_subcommand(true);
    command.build();
    page(&command, folder)
}

fn page(command: &Command, folder: &Path) -> Result<()> {
    let source = format!("blkdelta {}", env!("CARGO_PKG_VERSION"));
    // no date: two builds give the same
    let man = clap_mangen::Man::new(command.clone()).section(SECTION).date("").source(source);
    man.generate_to(folder).with_context(|| format!("write {}", man.get_filename()))?;
    command.get_subcommands().filter(|verb| !verb.is_hide_set()).try_for_each(|verb| page(verb, folder))
}

fn completions(mut command: Command, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    for (shell, file) in
        [(Shell::Bash, "blkdelta"), (Shell::Zsh, "_blkdelta"), (Shell::Fish, "blkdelta.fish")]
    {
        let path = folder.join(file);
        let mut to = fs::File::create(&path).with_context(|| format!("create {}", path.display()))?;
        clap_complete::generate(shell, &mut command, "blkdelta", &mut to);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_has_a_page_with_its_example_and_a_completion() {
        let folder = std::env::temp_dir().join(format!("blkdelta-papers-{}", std::process::id()));
        let command = collector::cli::command();
        let made = pages(&command, &folder).and_then(|()| completions(command.clone(), &folder));
        let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap_or_default();
        let shells = [read("blkdelta"), read("_blkdelta"), read("blkdelta.fish")];
        let mut wrong = Vec::new();
        for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
            let name = verb.get_name();
            let page = read(&format!("blkdelta-{name}.8"));
            if !page.contains("Example") {
                wrong.push(format!("no page with an example of {name}"));
            }
            wrong.extend(
                shells.iter().any(|text| !text.contains(name)).then(|| format!("{name}: completion")),
            );
        }
        let deep = read("blkdelta-daemon-status.8").contains("daemon status");
        fs::remove_dir_all(&folder).unwrap();
        made.unwrap();
        assert!(wrong.is_empty() && deep, "{wrong:?}");
    }
}
