//! `cargo xtask bench NAME`: figures for docs/BENCHMARKS.md, as ratios against other tools.
//!
//! One file per benchmark, one line in [`BENCHMARKS`]. What is compared runs interleaved, on data both
//! sides see alike; the command prints a table that can go into the document as it is.

mod copy;
mod interleaved;

use crate::command::say;
use crate::setup::packages;
use crate::workspace::Workspace;
use anyhow::{Result, bail};

/// A name, what it measures, and how.
struct Benchmark {
    name: &'static str,
    about: &'static str,
    run: fn(&Workspace, usize) -> Result<()>,
}

const BENCHMARKS: [Benchmark; 1] = [Benchmark {
    name: "copy",
    about: "the rivals of a full backup on a file of real data: dd and qemu-img convert",
    run: copy::run,
}];

/// Runs one, or lists them.
pub fn bench(ws: &Workspace, name: Option<&str>, rounds: usize) -> Result<()> {
    let Some(name) = name else {
        for benchmark in &BENCHMARKS {
            println!("{:12} {}", benchmark.name, benchmark.about);
        }
        return Ok(());
    };
    let Some(benchmark) = BENCHMARKS.iter().find(|benchmark| benchmark.name == name) else {
        bail!("no benchmark `{name}`; `cargo xtask bench` lists them");
    };
    packages::ensure(packages::TEST);
    packages::ensure(packages::BENCH);
    say(format!("bench {name}: {rounds} rounds after one that does not count"));
    (benchmark.run)(ws, rounds)
}
