//! What a long chain costs: restoring and resolving points of chains of 1 to 1,000.

use super::bed::{Bed, rival};
use super::document::{Findings, Headline};
use super::interleaved::{Contender, Sample, measure, table};
use crate::command::{cargo, run as start, say};
use crate::rig::process::watch;
use crate::rig::product::utf8;
use crate::workspace::Workspace;
use anyhow::{Context, Result};
use serde_json::Value;
use std::fmt::Write;
use std::path::Path;
use std::process::Command;

/// The program that makes repositories of known shape.
const ARCHIVE: &str = "blkdelta-archive";
/// Points of a chain.
const LINKS: usize = 1000;
/// The points that are looked at.
const POINTS: [usize; 4] = [1, 10, 100, LINKS];
/// What each increment changes: little, and so much that hardly a cell of the full is still whole in the end.
const CHANGES: [(u64, &str); 2] = [(64 << 10, "64 KiB"), (1 << 20, "1 MiB")];

/// Builds it.
pub fn build_archive(ws: &Workspace) -> Result<()> {
    let mut build = cargo();
    build.current_dir(&ws.root).env("CARGO_TARGET_DIR", &ws.target);
    start(build.args(["build", "--locked", "--release", "--package", "tests", "--bin", ARCHIVE]))
}

/// The archive program, beside ours.
pub fn archive(program: &Path) -> std::path::PathBuf {
    program.with_file_name(ARCHIVE)
}

/// What the archive program prints, and the most memory it had.
pub fn asked(archive: &Path, words: &[&str]) -> Result<(Value, u64)> {
    let ran = watch(Command::new(archive).args(words))?.success(ARCHIVE)?;
    let said = serde_json::from_str(&ran.out).with_context(|| format!("{ARCHIVE} printed {:?}", ran.out))?;
    Ok((said, ran.peak))
}

/// A chain of each kind.
pub fn run(program: &Path, rounds: usize) -> Result<Findings> {
    let bed = Bed::in_memory(program)?;
    let mut text = format!(
        "A full of the device of `full` and {} increments in random runs of 4 to 64 KiB that hold content from \
         elsewhere on it; each point restored to a new file in memory. A frame of which one block shows is read, \
         decoded and verified whole, so a point whose blocks come from many points costs more than the chain itself.\n",
        LINKS - 1
    );
    let mut headlines = Vec::new();
    for (bytes, change) in CHANGES {
        let (more, lines) = chain(&bed, program, rounds, (bytes, change))?;
        text = text + "\n" + &more;
        headlines.extend(lines);
    }
    Ok(Findings { text, headlines })
}

fn chain(
    bed: &Bed,
    program: &Path,
    rounds: usize,
    (bytes, change): (u64, &str),
) -> Result<(String, Vec<Headline>)> {
    let archive = &archive(program);
    let (repo, target) = (bed.scratch.join("chain"), bed.scratch.join("back.img"));
    say(format!("a chain of {LINKS} points, {change} each"));
    bed.forget("chain")?;
    let image = bed.scratch.join("source.img");
    let (links, bytes) = (LINKS.to_string(), bytes.to_string());
    let (made, _) = asked(archive, &["chain", utf8(&repo)?, utf8(&image)?, &links, &bytes])?;
    asked(archive, &["verify", utf8(&repo)?, utf8(&image)?, &links, &bytes])?;
    let point = |n: usize| made["points"][n - 1].as_str().map(str::to_owned).context("points of the chain");
    let restore = |id: &str| -> Result<Sample> {
        bed.forget("back.img")?;
        let mut command = Command::new(program);
        rival(command.args(["restore", "--repo", utf8(&repo)?, "--point", id, utf8(&target)?]))
    };
    let names = ["restore of the first point", "of the 10th", "of the 100th", "of the 1000th"];
    let mut contenders = Vec::new();
    for (n, name) in POINTS.into_iter().zip(names) {
        let id = point(n)?;
        contenders.push(Contender::new(name, move || restore(&id)));
    }
    let rows = measure(rounds, contenders)?;
    let last = rows.last().context("rows")?;
    let text = format!(
        "### Increments of {change}\n\n{}\n{}",
        table("seconds", &rows)?,
        resolved(archive, utf8(&repo)?, &made)?
    );
    let what =
        |figure: &str| format!("1000th point of a chain, increments of {change}: {figure} of a restore");
    let (time, cpu) = (last.against(&rows[0])?.median, last.cpu_against(&rows[0])?.median);
    Ok((
        text,
        vec![
            Headline::at_most(&what("time against the first's"), time, 1.1, "≤ 1.1"),
            Headline::at_most(&what("processor time against the first's"), cpu, f64::INFINITY, ""),
        ],
    ))
}

/// How long it takes to know where every byte of a point is.
fn resolved(archive: &Path, repo: &str, made: &Value) -> Result<String> {
    let mut text =
        String::from("| point | traced in | and resolved in | pieces | memory |\n|---|--:|--:|--:|--:|\n");
    for n in POINTS {
        let point = made["points"][n - 1].as_str().context("points of the chain")?;
        let (said, peak) = asked(archive, &["resolve", repo, point])?;
        let seconds = |key: &str| said[key].as_f64().with_context(|| format!("no {key} in {said}"));
        let (traced, all, pieces) = (seconds("trace_seconds")?, seconds("seconds")?, &said["pieces"]);
        writeln!(text, "| {n} | {traced:.4} s | {all:.3} s | {pieces} | {} MiB |", peak >> 20)?;
    }
    Ok(text)
}
