//! docs/KERNELS.md: kernels × kinds, from the results that were kept.

use super::fetch::place;
use super::kernels::KERNELS;
use super::round::Round;
use super::scene::Play;
use crate::command::text;
use crate::workspace::{Workspace, write_file};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Keeps a kernel's results, with the date. Cases that an earlier run has, and this one not, stay, with the kernel side
/// that they were run with.
pub fn keep(ws: &Workspace, kernel: &str, round: &Round) -> Result<()> {
    let path = result(ws, kernel);
    let object = object(ws)?;
    let earlier = fs::read(&path).ok().and_then(|kept| serde_json::from_slice::<Value>(&kept).ok());
    let same = |kept: &Value| kept["version"] == round.version.as_str() && kept["object"] == object.as_str();
    let mut all: Vec<Value> =
        earlier.filter(same).and_then(|kept| kept["cases"].as_array().cloned()).unwrap_or_default();
    for case in &round.cases {
        let new = json!({
            "name": case.name, "place": case.place, "fate": case.fate(), "why": case.why(), "report": case.report,
            "object": object,
        });
        match all.iter_mut().find(|old| old["name"] == case.name.as_str()) {
            Some(old) => *old = new,
            None => all.push(new),
        }
    }
    all.sort_by_key(|case| case["place"].as_u64());
    let kept = json!({ "date": today()?, "version": round.version, "object": object, "cases": all });
    keep_as(&path, &kept)
}

/// Which kernel side it was.
fn object(ws: &Workspace) -> Result<String> {
    let sum = text(Command::new("sha256sum").arg(ws.ebpf_object())).context("name the kernel side")?;
    Ok(sum.chars().take(12).collect())
}

/// Keeps what was seen in a play under systemd, with the date.
pub fn keep_seen(ws: &Workspace, kernel: &str, play: Play, version: &str, seen: &[String]) -> Result<()> {
    let kept = json!({ "date": today()?, "version": version, "seen": seen });
    keep_as(&result(ws, &format!("{kernel}-{}", play.word())), &kept)
}

fn today() -> Result<String> {
    Ok(text(Command::new("date").args(["-u", "+%Y-%m-%d %H:%M"]))?.trim().to_owned())
}

fn keep_as(path: &Path, kept: &Value) -> Result<()> {
    fs::create_dir_all(path.parent().context("folder of the results")?)
        .context("make the results' folder")?;
    write_file(path, kept.to_string().as_bytes())
}

fn result(ws: &Workspace, kernel: &str) -> PathBuf {
    place(ws).join("results").join(format!("{kernel}.json"))
}

fn document(ws: &Workspace) -> PathBuf {
    ws.root.join("docs/KERNELS.md")
}

const HEAD: &str = "# Kernels

Written by `cargo xtask vm --write`. Each kernel is Debian's own, booted in an emulated machine (qemu, TCG, two
processors) by `cargo xtask vm`; the cases are in `tests/src/guest/cases.rs`, the kernels in
`xtask/src/vm/kernels.rs`. A case makes a device of its kind, tracks it, writes to it in every way of
`tests/src/workload.rs` (a file system's own writes where it says so), and compares two images of the whole device
byte by byte with the list.

*whole*: every changed 4 KiB block was listed and the list was not called suspect. *suspect*: the product said
itself that the list may lack something; the next backup then compares everything. *refused*: it is not tracked.
*absent*: this kernel or guest has no such thing. *before*: so it was with an earlier kernel side
(`ebpf/blkdelta.bpf.o`), and it was not run again with this one. What is expected stands in the table of cases; anything
else fails `cargo xtask vm`.
";

/// Writes the document from all kept results.
pub fn write(ws: &Workspace) -> Result<()> {
    let mut rounds = Vec::new();
    for kernel in KERNELS {
        let path = result(ws, kernel.name);
        let kept =
            fs::read(&path).with_context(|| format!("no result of `cargo xtask vm {}` yet", kernel.name))?;
        let kept: Value =
            serde_json::from_slice(&kept).with_context(|| format!("read {}", path.display()))?;
        rounds.push((kernel.name, kept));
    }
    let mut page = String::from(HEAD);
    about(&mut page, &rounds)?;
    table(&mut page, &rounds)?;
    reasons(&mut page, &rounds)?;
    under_systemd(ws, &mut page)?;
    write_file(&document(ws), page.as_bytes())
}

fn about(page: &mut String, rounds: &[(&str, Value)]) -> Result<()> {
    page.push_str("\n| kernel | version | Debian suite | run (UTC) | kernel side, SHA-256 | programs loaded, verified and attached | lockdown=integrity | lockdown=confidentiality |\n");
    page.push_str("|---|---|---|---|---|---|---|---|\n");
    for (name, kept) in rounds {
        let suite = KERNELS.iter().find(|kernel| kernel.name == *name).map_or("", |kernel| kernel.suite);
        let word = |key: &str| kept[key].as_str().unwrap_or("-").to_owned();
        let programs = cases(kept).find_map(|case| case["report"]["programs"].as_u64());
        let programs = programs.map_or("none".to_owned(), |count| format!("{count} of {count}"));
        let locked = |mode: &str| {
            let name = format!("lockdown={mode}");
            let case = cases(kept).find(|case| case["name"] == name.as_str());
            case.map_or("-".to_owned(), |case| cell(kept, case))
        };
        let (integrity, confidentiality) = (locked("integrity"), locked("confidentiality"));
        writeln!(
            page,
            "| {name} | {} | {suite} | {} | {} | {programs} | {integrity} | {confidentiality} |",
            word("version"),
            word("date"),
            word("object")
        )?;
    }
    Ok(())
}

fn cases(kept: &Value) -> impl Iterator<Item = &Value> {
    kept["cases"].as_array().into_iter().flatten()
}

fn said(case: &Value) -> String {
    case["fate"].as_str().unwrap_or("-").to_owned()
}

fn table(page: &mut String, rounds: &[(&str, Value)]) -> Result<()> {
    let mut names: Vec<&str> = Vec::new();
    for (_, kept) in rounds {
        for name in cases(kept).filter_map(|case| case["name"].as_str()) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    page.push_str("\n## Kinds of devices\n\n| kind |");
    rounds.iter().for_each(|(name, _)| page.push_str(&format!(" {name} |")));
    page.push_str(&format!("\n|---|{}\n", "---|".repeat(rounds.len())));
    for name in names {
        write!(page, "| {name} |")?;
        for (_, kept) in rounds {
            let case = cases(kept).find(|case| case["name"] == name);
            write!(page, " {} |", case.map_or("-".to_owned(), |case| cell(kept, case)))?;
        }
        page.push('\n');
    }
    Ok(())
}

fn cell(kept: &Value, case: &Value) -> String {
    let fate = if case["fate"] == "failed" { "**failed**".to_owned() } else { said(case) };
    if case["object"] == kept["object"] { fate } else { format!("{fate} (before)") }
}

/// Every reason once, with where it was given.
fn reasons(page: &mut String, rounds: &[(&str, Value)]) -> Result<()> {
    let mut all: Vec<(String, Vec<String>)> = Vec::new();
    for (kernel, kept) in rounds {
        for case in cases(kept).filter(|case| case["fate"] != "whole") {
            let why = case["why"].as_str().unwrap_or_default().replace('\n', " ");
            let line = format!("{}, {}: {}", case["name"].as_str().unwrap_or_default(), said(case), why);
            match all.iter_mut().find(|(known, _)| *known == line) {
                Some((_, kernels)) => kernels.push((*kernel).to_owned()),
                None => all.push((line, vec![(*kernel).to_owned()])),
            }
        }
    }
    page.push_str("\n## Why not whole\n\n");
    for (line, kernels) in all {
        writeln!(page, "- {line} ({})", kernels.join(", "))?;
    }
    Ok(())
}

/// What the plays under systemd saw, where they were run.
fn under_systemd(ws: &Workspace, page: &mut String) -> Result<()> {
    page.push_str(
        "\n## Under systemd\n\nWritten from `cargo xtask vm --systemd`, `--package` and `--daemon`: a small Debian 12 in which the package \
         of `cargo xtask dist` is installed by dpkg, a data disk and a repository in fstab. Each sentence is a check that ended the \
         run had it not been true.\n",
    );
    for kernel in KERNELS {
        for play in Play::ALL {
            let Ok(kept) = fs::read(result(ws, &format!("{}-{}", kernel.name, play.word()))) else {
                continue;
            };
            let kept: Value = serde_json::from_slice(&kept).context("read what was seen under systemd")?;
            let word = |key: &str| kept[key].as_str().unwrap_or("-").to_owned();
            writeln!(
                page,
                "\nKernel {}, {}, `--{}`: {}:\n",
                word("version"),
                word("date"),
                play.word(),
                play.title()
            )?;
            for line in kept["seen"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                writeln!(page, "- {line}")?;
            }
        }
    }
    Ok(())
}

/// For `cargo xtask docs`: an error unless the document has a line for every kernel of the table.
pub fn check(ws: &Workspace) -> Result<()> {
    let path = document(ws);
    let page = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    for kernel in KERNELS {
        if !page.contains(&format!("\n| {} | {}.", kernel.name, kernel.name)) {
            bail!("docs/KERNELS.md has no line of kernel {}: cargo xtask vm --write", kernel.name);
        }
    }
    Ok(())
}
