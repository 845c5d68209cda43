//! What a long chain and a large device cost: restoring points of a chain of 1 to 1,000, and resolving the indexes of
//! devices of up to 10 TiB.

use super::bed::{Bed, rival};
use super::document::{Findings, Headline};
use super::interleaved::{Contender, Sample, measure, table};
use crate::command::{cargo, run as start, say};
use crate::rig::process::watch;
use crate::rig::product::utf8;
use crate::rig::scratch::Scratch;
use crate::workspace::Workspace;
use anyhow::{Context, Result};
use serde_json::Value;
use std::fmt::Write;
use std::path::Path;
use std::process::Command;

/// The program that makes repositories of known shape.
const ARCHIVE: &str = "blkdelta-archive";
/// Points of the chain.
const LINKS: u64 = 1000;
/// What each increment changes.
const CHANGE: u64 = 1 << 20;
/// Devices whose every cell is used, and the room their repositories need.
const DEVICES: [(&str, u64); 3] = [("10 GiB", 10 << 30), ("1 TiB", 1 << 40), ("10 TiB", 10 << 40)];
const ROOM: u64 = 12 << 30;

/// Builds it.
pub fn build_archive(ws: &Workspace) -> Result<()> {
    let mut build = cargo();
    build.current_dir(&ws.root).env("CARGO_TARGET_DIR", &ws.target);
    start(build.args(["build", "--locked", "--release", "--package", "tests", "--bin", ARCHIVE]))
}

/// Both.
pub fn run(program: &Path, rounds: usize) -> Result<Findings> {
    let archive = program.with_file_name(ARCHIVE);
    let (chains, headlines) = chains(program, &archive, rounds)?;
    let sizes = sizes(program, &archive)?;
    Ok(Findings { text: chains + "\n" + &sizes, headlines })
}

/// What the archive program prints.
fn asked(archive: &Path, words: &[&str]) -> Result<(Value, u64)> {
    let ran = watch(Command::new(archive).args(words))?.success(ARCHIVE)?;
    let said = serde_json::from_str(&ran.out).with_context(|| format!("{ARCHIVE} printed {:?}", ran.out))?;
    Ok((said, ran.peak))
}

fn chains(program: &Path, archive: &Path, rounds: usize) -> Result<(String, Vec<Headline>)> {
    let bed = Bed::in_memory(program)?;
    let (repo, target) = (bed.scratch.join("chain"), bed.scratch.join("back.img"));
    say(format!("a chain of {LINKS} points"));
    let image = bed.scratch.join("source.img");
    let (links, change) = (LINKS.to_string(), CHANGE.to_string());
    let (made, _) = asked(archive, &["chain", utf8(&repo)?, utf8(&image)?, &links, &change])?;
    asked(archive, &["verify", utf8(&repo)?, utf8(&image)?, &links, &change])?;
    let point = |n: usize| made["points"][n - 1].as_str().map(str::to_owned).context("points of the chain");
    let restore = |id: &str| -> Result<Sample> {
        bed.forget("back.img")?;
        let mut command = Command::new(program);
        rival(command.args(["restore", "--repo", utf8(&repo)?, "--point", id, utf8(&target)?]))
    };
    let named = [(1, "the first point"), (10, "the 10th"), (100, "the 100th"), (1000, "the 1000th")];
    let mut contenders = Vec::new();
    for (n, name) in named {
        let id = point(n)?;
        contenders.push(Contender::new(name, move || restore(&id)));
    }
    let rows = measure(rounds, contenders)?;
    let last = rows.last().context("rows")?.against(&rows[0])?.median;
    let mut text = format!(
        "A full of the device of `full` and {} increments of {} MiB each, in random runs of 4 to 64 KiB that hold \
         content from elsewhere on it; each point restored to a new file in memory.\n\n{}",
        LINKS - 1,
        CHANGE >> 20,
        table("seconds", &rows)?
    );
    let (resolved, peak) = asked(archive, &["resolve", utf8(&repo)?, &point(LINKS as usize)?])?;
    writeln!(text, "\nResolving the 1000th alone: {}.", words(&resolved, peak)?)?;
    let limit = "≤ 1.1";
    Ok((
        text,
        vec![Headline::at_most(
            "restore of the 1000th point of a chain: time against the first",
            last,
            1.1,
            limit,
        )],
    ))
}

fn words(resolved: &Value, peak: u64) -> Result<String> {
    let (seconds, pieces) =
        resolved["seconds"].as_f64().zip(resolved["pieces"].as_u64()).context("resolve")?;
    Ok(format!("{seconds:.3} s, {pieces} pieces, {} MiB of memory", peak >> 20))
}

fn sizes(program: &Path, archive: &Path) -> Result<String> {
    let folder = program.parent().context("folder of the program")?;
    let mut text = String::from(
        "A full of a device whose every 64 KiB are used, of made-up frames: the index is what is looked at. \
         On the disk of the target folder.\n\n\
         | device | pieces | segments | index | bytes per piece | resolved in | memory |\n|---|--:|--:|--:|--:|--:|--:|\n",
    );
    for (name, bytes) in DEVICES {
        say(format!("the index of {name}"));
        let scratch = Scratch::in_folder(folder, ROOM)?;
        let repo = scratch.join("repo");
        let (made, _) = asked(archive, &["full", utf8(&repo)?, &bytes.to_string()])?;
        let (resolved, peak) = asked(archive, &["resolve", utf8(&repo)?, "latest"])?;
        let number = |key: &str| made[key].as_u64().with_context(|| format!("no {key} in {made}"));
        let (pieces, index) = (number("pieces")?, number("index_bytes")?);
        let seconds = resolved["seconds"].as_f64().context("resolve")?;
        writeln!(
            text,
            "| {name} | {pieces} | {} | {:.1} MiB | {:.1} | {seconds:.3} s | {} MiB |",
            number("segments")?,
            index as f64 / f64::from(1 << 20),
            index as f64 / pieces as f64,
            peak >> 20
        )?;
    }
    Ok(text)
}
