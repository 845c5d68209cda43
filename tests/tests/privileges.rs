//! Promise: every verb works with exactly the capabilities that docs/PRIVILEGES.md and the systemd units give it, and says
//! which one is missing when it has one less.
//!
//! The rows themselves are run by `tests::privileges`.

use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use tests::host::{self, run};
use tests::privileges::{Set, every_row, table};
use tests::product::binary;
use tests::scratch::Scratch;
use tests::skip_if;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

#[test]
fn every_verb_works_with_its_row_and_names_what_is_missing() -> Result<()> {
    const NAME: &str = "privileges::every_verb_works_with_its_row_and_names_what_is_missing";
    skip_if!(host::no_tracking(), NAME);
    skip_if!(host::no_filesystem("ext4"), NAME);
    every_row(NAME)
}

#[test]
fn every_verb_has_its_row() -> Result<()> {
    let help = run(&binary()?.display().to_string(), ["--help"])?;
    let verbs =
        help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    // the lines between are the rest of a description
    let verbs =
        verbs.filter(|line| !line.starts_with("   ")).filter_map(|line| line.split_whitespace().next());
    let table = table()?;
    let without: Vec<&str> = verbs.filter(|verb| *verb != "help" && !table.contains_key(*verb)).collect();
    ensure!(without.is_empty(), "docs/PRIVILEGES.md has no row for {without:?}");
    Ok(())
}

/// Settings of a unit file by name; a name that is there twice has its last value.
fn settings(unit: &Path) -> Result<BTreeMap<String, String>> {
    let text = std::fs::read_to_string(unit).with_context(|| unit.display().to_string())?;
    let lines = text.lines().filter(|l| !l.starts_with('#')).filter_map(|l| l.split_once('='));
    Ok(lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}

fn units(ending: &str) -> Result<Vec<PathBuf>> {
    let list = std::fs::read_dir(root().join("packaging/systemd"))?.flatten().map(|e| e.path());
    let mut units: Vec<PathBuf> = list.filter(|p| p.to_string_lossy().ends_with(ending)).collect();
    units.sort();
    ensure!(!units.is_empty(), "no unit files");
    Ok(units)
}

#[test]
fn units_have_what_their_verbs_need_and_no_more() -> Result<()> {
    let table = table()?;
    for unit in units(".service")? {
        let settings = settings(&unit)?;
        let runs = ["ExecStart", "ExecStop", "ExecReload"].iter().filter_map(|name| settings.get(*name));
        let verbs: Vec<&str> = runs.filter_map(|line| line.split_whitespace().nth(1)).collect();
        let mut needed = Set::new();
        for verb in &verbs {
            let row = table.get(*verb).with_context(|| format!("{verb} is not in the table"))?;
            needed.extend(row.always.union(&row.mapper).cloned());
        }
        for name in ["CapabilityBoundingSet", "AmbientCapabilities"] {
            let given = settings.get(name).with_context(|| format!("{}: no {name}", unit.display()))?;
            let given: Set = given.split_whitespace().map(ToOwned::to_owned).collect();
            ensure!(given == needed, "{}: {name} is {given:?}, {verbs:?} need {needed:?}", unit.display());
        }
        ensure!(settings.get("NoNewPrivileges").is_some_and(|v| v == "yes"), "{}", unit.display());
    }
    Ok(())
}

#[test]
fn systemd_understands_the_units() -> Result<()> {
    const NAME: &str = "privileges::systemd_understands_the_units";
    let found = run("systemd-analyze", ["--version"]);
    skip_if!(found.err().map(|e| format!("no systemd-analyze: {e:#}")), NAME);
    let scratch = Scratch::new("units")?;
    let program = binary()?.display().to_string();
    let mut copies = Vec::new();
    for unit in [units(".service")?, units(".timer")?].concat() {
        let text = std::fs::read_to_string(&unit)?.replace("/usr/bin/blkdelta", &program);
        let copy = scratch.path().join(unit.file_name().context("name")?);
        tests::device::put(&copy, text.as_bytes())?;
        copies.push(copy);
    }
    for copy in &copies {
        let arguments = ["verify", "--man=no", "--recursive-errors=no"].map(ToOwned::to_owned);
        let output = Command::new("systemd-analyze").args(arguments).arg(copy).output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let ours: Vec<&str> = said.lines().filter(|l| l.contains("blkdelta")).collect();
        ensure!(output.status.success() && ours.is_empty(), "{}: {said}", copy.display());
    }
    Ok(())
}
