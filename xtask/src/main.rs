//! Everything a developer or CI runs: `cargo xtask --help`. One file per verb.

mod command;
mod ebpf;
mod setup;
mod tidy;
mod workspace;

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::process::ExitCode;
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
    /// Check the rules no compiler checks: layers, sizes, heads, dependencies
    Tidy,
}

fn main() -> ExitCode {
    match act(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn act(args: Args) -> Result<()> {
    let ws = Workspace::find()?;
    match args.verb {
        Verb::Setup { bench } => setup::setup(&ws, bench),
        Verb::Ebpf { check } => ebpf::ebpf(&ws, check),
        Verb::Tidy => tidy::tidy(&ws),
    }
}
