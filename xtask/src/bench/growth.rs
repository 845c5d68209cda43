//! What grows with the device: size of an index, time and memory to resolve it, and a merge of 30 increments.

use super::chains::{archive, asked};
use super::document::{Findings, Headline, MEMORY, PER_FRAME};
use super::interleaved::{Contender, Sample, measure_warm, table};
use super::limits::content;
use crate::command::say;
use crate::rig::process::watch;
use crate::rig::product::utf8;
use crate::rig::scratch::Scratch;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::fmt::Write;
use std::path::Path;
use std::process::Command;

const TIB: u64 = 1 << 40;
/// Devices whose every cell is used, and the room the repository of the largest needs.
const DEVICES: [(&str, u64); 3] = [("10 GiB", 10 << 30), ("1 TiB", TIB), ("10 TiB", 10 * TIB)];
const ROOM: u64 = 12 << 30;
/// Increments that are merged, and pieces of each.
const LINKS: &str = "30";
const PIECES: &str = "50000";
/// What a merge may take per TiB used.
const MERGE: f64 = 5.0;

/// Both.
pub fn run(program: &Path, rounds: usize) -> Result<Findings> {
    let folder = program.parent().context("folder of the program")?;
    let (mut text, mut headlines) = (String::from(HEAD), Vec::new());
    let mut merged = None;
    for (name, bytes) in DEVICES {
        say(format!("the index of {name}"));
        let scratch = Scratch::in_folder(folder, ROOM)?;
        let (line, met) = size(&archive(program), &scratch, name, bytes)?;
        text += &line;
        if bytes == DEVICES[2].1 {
            headlines.push(met);
        }
        if bytes == TIB {
            merged = Some(merge(program, &scratch, rounds)?);
        }
    }
    let Some((more, lines)) = merged else { bail!("nothing was merged") };
    headlines.extend(lines);
    Ok(Findings { text: text + "\n" + &more, headlines })
}

const HEAD: &str =
    "A full of a device whose every 64 KiB are used, of made-up frames: the index is what is looked at. On \
the disk of the target folder. *Resolved*: all pieces of the point were listed, each checked.

| device | pieces | segments | index | bytes per piece | resolved in | memory |
|---|--:|--:|--:|--:|--:|--:|
";

/// A line of the table, and whether memory stayed in its bounds.
fn size(archive: &Path, scratch: &Scratch, name: &str, bytes: u64) -> Result<(String, Headline)> {
    let repo = scratch.join("repo");
    let (made, written) = asked(archive, &["full", utf8(&repo)?, &bytes.to_string()])?;
    let (resolved, peak) = asked(archive, &["resolve", utf8(&repo)?, "latest"])?;
    let number = |key: &str| made[key].as_u64().with_context(|| format!("no {key} in {made}"));
    let (pieces, index) = (number("pieces")?, number("index_bytes")?);
    let seconds = resolved["seconds"].as_f64().context("resolve")?;
    let mut line = String::new();
    writeln!(
        line,
        "| {name} | {pieces} | {} | {:.1} MiB | {:.1} | {seconds:.3} s | {} MiB |",
        number("segments")?,
        index as f64 / f64::from(1 << 20),
        index as f64 / pieces as f64,
        peak >> 20
    )?;
    let most = peak.max(written);
    let what = format!("memory to write and resolve the index of {name}");
    let met = most <= (MEMORY + PER_FRAME * pieces).min(1 << 30);
    let aim = "≤ 100 MiB + 24 B per frame, ≤ 1 GiB";
    Ok((line, Headline::new(what, format!("{} MiB", most >> 20), aim, met)))
}

/// Increments on the full of 1 TiB; the last one is merged, from the same state in each round.
fn merge(program: &Path, scratch: &Scratch, rounds: usize) -> Result<(String, Vec<Headline>)> {
    say(format!("a merge of {LINKS} increments"));
    let (repo, archive) = (scratch.join("repo"), archive(program));
    let (_, _) = asked(&archive, &["grow", utf8(&repo)?, LINKS, PIECES])?;
    let before = content(&repo.join("seg"))?;
    let mut index = 0;
    let name = "blkdelta merge of 30 increments and a full of 1 TiB";
    let rows = measure_warm(
        rounds,
        vec![Contender::new(name, || {
            let (sample, bytes) = merge_once(program, &repo)?;
            index = bytes;
            Ok(sample)
        })],
    )?;
    let after = content(&repo.join("seg"))?;
    let moved = before != after;
    let seconds = rows[0].median()?;
    let text = format!(
        "Thirty increments of 50,000 pieces each on the full of 1 TiB, made one map of {} MiB. Segments before and \
         after: {} and {}, {} and {} bytes.\n\n{}",
        index >> 20,
        before.1,
        after.1,
        before.0,
        after.0,
        table("seconds", &rows)?
    );
    let data = if moved { "segments changed" } else { "none" };
    Ok((
        text,
        vec![
            Headline::new(
                "merge of 30 increments: time per TiB used",
                format!("{seconds:.2} s"),
                "≤ 5 s",
                seconds <= MERGE,
            ),
            Headline::new("merge of 30 increments: data moved", data.into(), "none", !moved),
        ],
    ))
}

/// From the state before any merge; what it took, and how long the map is.
fn merge_once(program: &Path, repo: &Path) -> Result<(Sample, u64)> {
    match std::fs::remove_dir_all(repo.join("map")) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e.into()),
        _ => {}
    }
    let mut merge = Command::new(program);
    merge.args(["merge", "--repo", utf8(repo)?, "--up-to", "latest", "--json"]);
    let ran = watch(&mut merge)?.success("merge")?;
    let said: Value = serde_json::from_str(&ran.out).context("what merge printed")?;
    let bytes = said["index_bytes"].as_u64().context("index_bytes of merge")?;
    Ok((Sample::from(&ran), bytes))
}
