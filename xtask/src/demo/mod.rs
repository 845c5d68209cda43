//! `cargo xtask run`: the main job on real data, proved.
//!
//! ```text
//!   /usr ─copy─▶ file system ── loop device ── disk.img ┐        full, +1, +2, +3 ─▶ repository ─▶ restored-n.img
//!                     ▲                                 │ while frozen: reflink                        ║ every byte
//!   writer ───────────┘                    XFS ── loop ─┴────────────▶ held-n.img ═══════════════════╝ + fsck
//! ```
//! What must stay true: the copy that is compared with is made by the file system below, not by blkdelta; one
//! byte of difference in a used area, or a file system that is not clean, and the exit code is not 0; whatever
//! was made is removed, also after Ctrl-C.

mod report;
mod stage;
mod tree;
mod writer;

use crate::build::build;
use crate::rig::process::{self, go_on};
use crate::rig::product::{KernelStats, Program, cost, utf8};
use crate::rig::{need_root, proof, scratch::Scratch};
use crate::setup::packages;
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use report::Report;
use serde_json::Value;
use stage::Stage;
use std::fs;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use writer::Writer;

/// Bytes of the disk.
const DISK: u64 = 2 << 30;
/// Of /usr on it, at most.
const TREE: u64 = 400 << 20;
/// Incrementals, and how long the writer works before each.
const INCREMENTALS: u64 = 3;
const WORK: Duration = Duration::from_secs(3);
/// The writer's.
const SEED: u64 = 20_261_122;

/// A recovery point, and what became of it.
pub struct Point {
    /// `full`, `+1`, …
    name: String,
    /// What `backup --json` said.
    said: Value,
    /// How long it took.
    took: Duration,
    /// Changes the writer made meanwhile.
    changes: u64,
    /// The disk's backing file at the cut.
    held: PathBuf,
    /// What the restored image was found to be.
    proof: Option<Proof>,
}

/// What a restored image was found to be.
pub struct Proof {
    restore: Duration,
    bytes: proof::Verdict,
    /// Why the file system's check did not like it.
    unclean: Option<String>,
}

/// Runs the demonstration with a file system of this type.
pub fn demo(ws: &Workspace, fstype: &str) -> Result<()> {
    need_root("the demonstration")?;
    packages::ensure(packages::TEST);
    let program = build(ws)?;
    process::listen()?;
    let began = Instant::now();
    let scratch = Scratch::new(3 << 30)?;
    let stats = KernelStats::on()?;
    let (stage, tree) = Stage::set(&scratch, program, fstype)?;
    let (mut points, changes, cost) = record(&stage, tree.files.clone())?;
    drop(stats);
    step("stopping, unmounting the disk");
    let ground = stage.close()?;
    for point in &mut points {
        step(&format!("restoring point {} and comparing every byte", point.name));
        point.proof = Some(prove(&ground, &scratch, point)?);
    }
    step("checking every stored byte");
    let repo = scratch.join("repo");
    ground.product.run(&["check", "--repo", utf8(&repo)?, "--read-data"])?;
    let stored = folder_size(&repo)?;
    drop(ground);
    drop(scratch);
    let report =
        Report { fstype, tree: &tree, points: &points, changes, cost, stored, took: began.elapsed() };
    println!("{report}");
    if !report.all_equal() {
        bail!("a restored image is not what the device held at its cut");
    }
    Ok(())
}

/// The points, the writer's changes in all, and the tracking's cost per I/O.
type Record = (Vec<Point>, u64, (f64, f64));

/// Tracks, takes the full, then incrementals while the writer works.
fn record(stage: &Stage, files: Vec<PathBuf>) -> Result<Record> {
    let device = stage.device();
    stage.product.run(&["track", utf8(device)?])?;
    let programs = || -> Result<Vec<Program>> { stage.product.programs(device) };
    let before = programs()?;
    step("full backup");
    let mut points = vec![take(stage, "full".into(), None)?];
    let writer = Writer::start(stage.folder().join("work"), files, SEED)?;
    for n in 1..=INCREMENTALS {
        step(&format!("the writer works, incremental {n} of {INCREMENTALS}"));
        process::sleep(WORK)?;
        points.push(take(stage, format!("+{n}"), Some(&writer))?);
    }
    let changes = writer.stop()?;
    let cost = cost(&before, &programs()?);
    stage.product.run(&["untrack", utf8(device)?])?;
    Ok((points, changes, cost))
}

/// Makes a point and, while the file system is frozen, the copy to compare with.
fn take(stage: &Stage, name: String, writer: Option<&Writer>) -> Result<Point> {
    go_on()?;
    let held = stage.pool().join(format!("held-{name}.img"));
    let copy = format!("cp --reflink=always '{}' '{}'", stage.disk().display(), held.display());
    let changes = || writer.map_or(0, Writer::changes);
    let before = changes();
    let words = ["backup", utf8(stage.device())?, "--repo", utf8(stage.repo())?, "--while-frozen", &copy];
    let (said, ran) = stage.product.json(&words)?;
    if !held.exists() {
        bail!("point {name}: the file system was not frozen: {}", said["notes"]);
    }
    Ok(Point { name, said, took: ran.took, changes: changes() - before, held, proof: None })
}

/// Restores a point and looks at every byte.
fn prove(ground: &stage::Ground, scratch: &Scratch, point: &Point) -> Result<Proof> {
    let id = point.said["point"].as_str().context("backup --json names no point")?;
    let restored = scratch.join("restored.img");
    let repo = scratch.join("repo");
    let words = ["restore", "--repo", utf8(&repo)?, "--point", id, utf8(&restored)?];
    let restore = ground.product.run(&words)?.took;
    let bytes = proof::compare(&restored, &point.held, &ground.fstype, ground.pool())?;
    let unclean = proof::fsck(&restored, &ground.fstype, ground.pool()).err().map(|e| format!("{e:#}"));
    fs::remove_file(&restored).context("remove the restored image")?;
    Ok(Proof { restore, bytes, unclean })
}

fn folder_size(folder: &std::path::Path) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let (path, meta) =
            entry.and_then(|e| Ok((e.path(), e.metadata()?))).context("look at the repository")?;
        sum += if meta.is_dir() { folder_size(&path)? } else { meta.len() };
    }
    Ok(sum)
}

/// One line of progress; none in a pipe.
fn step(line: &str) {
    if std::io::stderr().is_terminal() {
        crate::command::say(line);
    }
}
