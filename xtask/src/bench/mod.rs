//! `cargo xtask bench NAME`: figures for docs/BENCHMARKS.md, as ratios against other tools.
//!
//! One file per benchmark, one line in [`BENCHMARKS`]. What is compared runs interleaved, on data both
//! sides see alike. Each result is kept in the target folder; `--write` puts all there are into the document
//! and the README.

mod bed;
mod chains;
mod crash;
mod daemon;
mod document;
mod fio;
mod full;
mod groups;
mod growth;
mod incremental;
mod interleaved;
mod limits;
mod restore;
mod rivals;
mod track;

use crate::build::build;
use crate::command::say;
use crate::rig::{need_root, process};
use crate::setup::packages;
use crate::workspace::Workspace;
use anyhow::{Result, bail};
use document::Findings;
use std::path::Path;

/// A name, what it measures, and how.
struct Benchmark {
    name: &'static str,
    about: &'static str,
    run: fn(&Path, usize) -> Result<Findings>,
}

impl Benchmark {
    /// By its name, or that of its group.
    fn is_meant(&self, name: &str) -> bool {
        self.name == name || (name == REPO.0 && REPO.1.contains(&self.name))
    }
}

const BENCHMARKS: [Benchmark; 8] = [
    Benchmark {
        name: "track",
        about: "the price of tracking: time in the programs, rates and latencies, memory, cuts, other ways",
        run: track::run,
    },
    Benchmark {
        name: "full",
        about: "a full backup against the machine's limits, cp, dd, qemu-img convert and restic; encryption",
        run: full::run,
    },
    Benchmark {
        name: "incremental",
        about: "an incremental after 3 % random change against reading just that, restic and borg; large devices",
        run: incremental::run,
    },
    Benchmark {
        name: "restore",
        about: "a restore and a check against the machine's limits and qemu-img convert back to raw",
        run: restore::run,
    },
    Benchmark {
        name: "groups",
        about: "an increment of a million files in which nothing changed, against restic and tar",
        run: groups::run,
    },
    Benchmark { name: "chains", about: "restoring points of chains of 1 to 1,000", run: chains::run },
    Benchmark {
        name: "growth",
        about: "indexes of devices of 10 GiB to 10 TiB, and a merge of 30 increments",
        run: growth::run,
    },
    Benchmark {
        name: "daemon",
        about: "what a daemon with an increment every 10 s costs at 1,000 writes a second: processor, memory, writes",
        run: daemon::run,
    },
];

/// `bench repo`: all that the repository's side is measured by.
const REPO: (&str, [&str; 5]) = ("repo", ["full", "incremental", "restore", "chains", "growth"]);

/// Measured for docs/SAFETY.md: no part of the price page.
const CRASH: Benchmark = Benchmark {
    name: "crash",
    about: "a comparing backup after a crash, and what an activity log would cost instead",
    run: crash::run,
};

/// What becomes of the results.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// They are only shown.
    Nothing,
    /// They are kept for a document that is written later.
    Results,
    /// The document is written.
    Write,
}

/// Runs one, or all if they are to be written; else lists them.
pub fn bench(ws: &Workspace, name: Option<&str>, rounds: usize, keep: Keep, note: &str) -> Result<()> {
    let write = keep == Keep::Write;
    if name.is_none() && !write {
        for benchmark in BENCHMARKS.iter().chain([&CRASH]) {
            println!("{:12} {}", benchmark.name, benchmark.about);
        }
        println!("{:12} all of {}", REPO.0, REPO.1.join(", "));
        return Ok(());
    }
    let mut chosen: Vec<&Benchmark> =
        BENCHMARKS.iter().filter(|benchmark| name.is_none_or(|name| benchmark.is_meant(name))).collect();
    chosen.extend((name == Some(CRASH.name)).then_some(&CRASH));
    if chosen.is_empty() || rounds == 0 {
        bail!("`cargo xtask bench` lists what can be measured, in at least one round");
    }
    need_root("a benchmark")?;
    packages::ensure(packages::TEST);
    packages::ensure(packages::BENCH);
    let program = build(ws)?;
    if chosen.iter().any(|benchmark| benchmark.name == "track") {
        track::build_meter(ws)?;
    }
    if chosen.iter().any(|benchmark| ["chains", "growth"].contains(&benchmark.name)) {
        chains::build_archive(ws)?;
    }
    process::listen()?;
    for benchmark in chosen {
        say(format!("bench {}: {rounds} rounds after one that does not count", benchmark.name));
        let findings = (benchmark.run)(&program, rounds)?;
        println!("{}\n{}", findings.text, findings.lines());
        if keep != Keep::Nothing {
            document::keep(ws, benchmark.name, &findings, note)?;
        }
    }
    if write { document::write(ws, &BENCHMARKS.map(|b| (b.name, b.about))) } else { Ok(()) }
}
