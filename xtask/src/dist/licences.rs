//! The licences of everything that is linked into the program: names, and the texts that the packages bring.

use super::product::Source;
use crate::command::{cargo, text};
use crate::linked::TARGET;
use crate::workspace::write_file;
use anyhow::{Context, Result};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

/// Beginnings of the names of files that hold them.
const NAMES: [&str; 4] = ["LICENSE", "LICENCE", "COPYING", "NOTICE"];

/// Writes them all into one file; a text that several packages bring stands there once.
pub fn write(source: &Source, to: &Path) -> Result<()> {
    let folders = folders(source)?;
    let mut page = String::from("Linked into blkdelta, and under which licence:\n\n");
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, licence) in linked(source)? {
        writeln!(page, "{name}: {licence}")?;
        let Some(folder) = folders.get(&name) else { continue };
        for file in super::files(folder)? {
            let file_name = file.file_name().unwrap_or_default().to_string_lossy().to_uppercase();
            if NAMES.iter().any(|begin| file_name.starts_with(begin)) {
                let bytes = fs::read(&file).with_context(|| format!("read {}", file.display()))?;
                texts
                    .entry(String::from_utf8_lossy(&bytes).trim().to_owned())
                    .or_default()
                    .push(name.clone());
            }
        }
    }
    for (text, names) in texts {
        write!(page, "\n{}\n{}\n\n{text}\n", "-".repeat(72), names.join(", "))?;
    }
    write_file(to, page.as_bytes())
}

/// `name version` and licence of every package that is in the program, ours left out.
fn linked(source: &Source) -> Result<BTreeSet<(String, String)>> {
    let mut tree = cargo();
    tree.current_dir(&source.root).args(["tree", "--locked", "--package", "collector", "--target", TARGET]);
    tree.args(["--edges", "normal", "--prefix", "none", "--format", "{p}\t{l}"]);
    let list = text(&mut tree).context("list what is linked")?;
    let of_others = list.lines().filter(|line| !line.contains(" (/"));
    let parts = of_others.filter_map(|line| line.trim_end_matches(" (*)").split_once('\t'));
    let known = |(package, licence): (&str, &str)| {
        let mut words = package.split_whitespace();
        let (name, version) = (words.next()?, words.next()?.trim_start_matches('v'));
        Some((format!("{name} {version}"), licence.to_owned()))
    };
    Ok(parts.filter_map(known).collect())
}

/// Where each package's source lies.
fn folders(source: &Source) -> Result<BTreeMap<String, PathBuf>> {
    let mut ask = cargo();
    ask.current_dir(&source.root).args(["metadata", "--locked", "--format-version", "1"]);
    let all: Value = serde_json::from_str(&text(&mut ask)?).context("read cargo's metadata")?;
    let folder = |package: &Value| {
        let name = format!("{} {}", package["name"].as_str()?, package["version"].as_str()?);
        Some((name, Path::new(package["manifest_path"].as_str()?).parent()?.to_owned()))
    };
    Ok(all["packages"].as_array().into_iter().flatten().filter_map(folder).collect())
}
