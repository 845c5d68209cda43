//! The price of tracking: time in the programs, rates and latencies with and without, memory, cuts, and other ways.
//!
//! zram is the fastest disk to be had and so the hardest to add little to; a loop device on a file in memory stands for
//! a disk of some 20 µs. Everything is measured in turns, in one run; a part that cannot be measured here is said.

mod hooks;
mod peers;
mod rates;
mod sizes;

use super::document::Findings;
use crate::command::{cargo, run as start, say};
use crate::rig::device::{Loop, Zram};
use crate::rig::product::{Product, utf8};
use crate::rig::scratch::Scratch;
use crate::workspace::Workspace;
use anyhow::{Context, Result};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const SIZE: u64 = 256 << 20;
const NEIGHBOUR: u64 = 32 << 20;
/// Room for the disks, and for what is written to the sparse ones.
const ROOM: u64 = 1 << 30;
const LOOP_HOOKS: [&str; 2] = ["block_rq_issue", "block_rq_complete"];
const METER: &str = "blkdelta-meter";

/// A disk to measure on, and another one like it.
pub struct Kind {
    name: &'static str,
    /// Tracepoints of submission and completion.
    hooks: [&'static str; 2],
    device: PathBuf,
    neighbour: PathBuf,
}

/// What everything is measured on. Fields are dropped in this order.
pub struct Bed {
    kinds: Vec<Kind>,
    product: Product,
    meter: PathBuf,
    _zrams: Vec<Zram>,
    _loops: Vec<Loop>,
    scratch: Scratch,
}

/// Builds the program that does what needs the library: cuts under a writer, reading live traffic.
pub fn build_meter(ws: &Workspace) -> Result<()> {
    let mut build = cargo();
    build.current_dir(&ws.root).env("CARGO_TARGET_DIR", &ws.target);
    start(build.args(["build", "--locked", "--release", "--package", "tests", "--bin", METER]))
}

/// All of it.
pub fn run(program: &Path, rounds: usize) -> Result<Findings> {
    let bed = Bed::make(program)?;
    say("time in the programs");
    let hooks::Hooks { mut text, mut headlines, net, empty } = hooks::run(&bed, rounds)?;
    say("rate and latency");
    let (rates, lines) = rates::run(&bed, rounds, &net)?;
    headlines.extend(lines);
    say("other ways");
    let peers = peers::run(&bed, rounds, &empty)?;
    say("memory and cuts");
    let (sizes, lines) = sizes::run(&bed)?;
    headlines.extend(lines);
    for part in [rates, peers, sizes] {
        text = text + "\n" + &part;
    }
    Ok(Findings { text, headlines })
}

/// The meter with these words, in the product's home.
fn meter(bed: &Bed, words: &[&str]) -> Result<Command> {
    let mut command = Command::new(&bed.meter);
    command.arg(bed.product.home()).args(words).stdin(Stdio::null());
    Ok(command)
}

impl Bed {
    fn make(program: &Path) -> Result<Self> {
        let scratch = Scratch::new(ROOM)?;
        let product = Product::new(program.to_owned(), &scratch)?;
        let mut kinds = Vec::new();
        let mut zrams = Vec::new();
        match (Zram::new(SIZE), Zram::new(NEIGHBOUR)) {
            (Ok(one), Ok(other)) => {
                let (hooks, device) = (["block_bio_queue", "block_bio_complete"], one.path());
                kinds.push(Kind { name: "zram", hooks, device, neighbour: other.path() });
                zrams.extend([one, other]);
            }
            (Err(error), _) | (_, Err(error)) => {
                say(format!("no zram here, measured on loop only: {error:#}"))
            }
        }
        let file = |name: &str, size: u64| {
            let path = scratch.join(name);
            std::fs::File::create(&path)?.write_all_at(&vec![1; size as usize], 0)?;
            Loop::on(&path)
        };
        let (one, other) = (file("disk.img", SIZE)?, file("neighbour.img", NEIGHBOUR)?);
        let (hooks, device) = (LOOP_HOOKS, one.path().into());
        kinds.push(Kind { name: "loop", hooks, device, neighbour: other.path().into() });
        let meter = program.with_file_name(METER);
        Ok(Self { kinds, product, meter, _zrams: zrams, _loops: vec![one, other], scratch })
    }

    /// Does something while a disk is tracked.
    fn tracking<T>(&self, device: &Path, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.product.run(&["track", utf8(device)?])?;
        let done = work();
        self.product.run(&["untrack", utf8(device)?])?;
        done
    }

    /// Nanoseconds in all programs so far.
    fn nanoseconds(&self, device: &Path) -> Result<u64> {
        Ok(self.product.programs(device)?.iter().map(|program| program.nanoseconds).sum())
    }

    fn forget(&self, name: &str) -> Result<()> {
        std::fs::remove_file(self.scratch.join(name)).with_context(|| format!("remove {name}"))
    }
}
