//! Everything a developer or CI runs: `cargo xtask --help`. One file per verb.

mod command;
mod ebpf;
mod setup;
mod workspace;

use anyhow::Result;
use clap::{Parser, Subcommand};
use workspace::Workspace;

/// Everything a developer or CI runs.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Install what run, test and ebpf need
    Setup {
        /// Also what the benchmarks compare with
        #[arg(long)]
        bench: bool,
    },
    /// Build the kernel side into ebpf/blkdelta.bpf.o
    Ebpf {
        /// Only compare the committed object with what the source gives
        #[arg(long)]
        check: bool,
    },
}

fn main() -> Result<()> {
    let args = Args::parse();
    let ws = Workspace::find()?;
    match args.verb {
        Verb::Setup { bench } => setup::setup(&ws, bench),
        Verb::Ebpf { check } => ebpf::ebpf(&ws, check),
    }
}
