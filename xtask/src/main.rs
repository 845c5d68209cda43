//! Everything a developer or CI runs: `cargo xtask --help`. One file per verb.

mod bench;
mod build;
mod ci;
mod command;
mod demo;
mod dist;
mod docs;
mod ebpf;
mod fuzz;
mod linked;
mod lint;
mod rig;
mod run;
mod setup;
mod test;
mod tidy;
mod vm;
mod workspace;

use anyhow::Result;
use clap::{CommandFactory, Parser, Subcommand};
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
    /// The main job on real data, proved; with words: pass them to blkdelta (cargo xtask run -- status)
    Run {
        /// The disk's file system in the demonstration
        #[arg(long, default_value = "ext4", value_parser = ["ext4", "xfs", "btrfs"])]
        fs: String,
        /// Words for blkdelta
        #[arg(last = true)]
        words: Vec<String>,
    },
    /// Build the optimised program
    Build,
    /// Build the kernel side into ebpf/blkdelta.bpf.o
    Ebpf {
        /// Only compare the committed object with what the source gives
        #[arg(long)]
        check: bool,
    },
    /// Check formatting and clippy, warnings denied
    Lint,
    /// Check the rules no compiler checks: layers, sizes, heads, dependencies
    Tidy,
    /// Run everything that proves the product, and count it
    Test {
        /// Only the long run: randomised writes over kinds of devices and ways of writing
        #[arg(long, group = "seeded", conflicts_with = "filter")]
        long: bool,
        /// For how long
        #[arg(long, requires = "long", default_value_t = 25)]
        minutes: u64,
        /// Only the soak, as root: daemon, databases and writers on four disks, kills and stores cut off at random for so long
        /// (20m); then every listed point is proved
        #[arg(long, group = "seeded", conflicts_with_all = ["filter", "faults"], value_name = "TIME", num_args = 0..=1,
            default_missing_value = "20m", value_parser = test::time)]
        soak: Option<std::time::Duration>,
        /// Repeat the run of this seed
        #[arg(long, requires = "seeded")]
        seed: Option<u64>,
        /// Only the faults planted on purpose: each must be noticed; a table says by which check
        #[arg(long, conflicts_with = "long")]
        faults: bool,
        /// Only tests (with --faults: faults) whose title contains this
        filter: Option<String>,
    },
    /// Fuzz every decoder
    Fuzz {
        /// For how long each
        #[arg(long, default_value_t = 60)]
        seconds: u64,
        /// Only targets whose name contains this
        target: Option<String>,
    },
    /// Measure against other tools; without a name: list what can be measured
    Bench {
        /// Which benchmark
        name: Option<String>,
        /// How often each contender runs
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// One round, only to look: nothing is kept
        #[arg(long, conflicts_with_all = ["rounds", "write"])]
        quick: bool,
        /// Put the results into docs/BENCHMARKS.md and the README; without a name: of all
        #[arg(long)]
        write: bool,
        /// What a reader should know about the machine
        #[arg(long, default_value = "")]
        note: String,
    },
    /// Run the cases of every kind of device on Debian's kernels, in emulated guests
    Vm {
        /// Which kernels; without a name: all of xtask/src/vm/kernels.rs
        kernels: Vec<String>,
        /// Only cases whose name contains this; may be given again
        #[arg(long)]
        only: Vec<String>,
        /// Put the results into docs/KERNELS.md
        #[arg(long)]
        write: bool,
        /// Only write docs/KERNELS.md, from the results that were kept
        #[arg(long, conflicts_with_all = ["only", "write"])]
        page: bool,
        /// Cut the power of a guest that writes, so many times, and verify after each
        #[arg(long, value_name = "N", conflicts_with_all = ["only", "write"])]
        power_cuts: Option<usize>,
        /// The Debian package's units under systemd: clean reboot, power cut
        #[arg(long, conflicts_with_all = ["only", "power_cuts", "write"])]
        systemd: bool,
        /// The Debian package: install, upgrade under writes, remove, purge
        #[arg(long, conflicts_with_all = ["only", "power_cuts", "write", "systemd"])]
        package: bool,
        /// The daemon under systemd: jobs, reload, restart, kill, watchdog
        #[arg(long, conflicts_with_all = ["only", "power_cuts", "write", "systemd", "package"])]
        daemon: bool,
        /// Of the moments and the writes
        #[arg(long, requires = "power_cuts")]
        seed: Option<u64>,
    },
    /// Build the documentation, check its links and commands
    Docs,
    /// Make an archive and a Debian package to give away
    Dist {
        /// Build twice, in two places, and compare the bytes
        #[arg(long)]
        check: bool,
    },
    /// Everything .ci/run runs: fmt, tidy, clippy, ebpf --check, test, vm, docs
    Ci,
}

fn main() -> ExitCode {
    match act(Args::parse().verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn act(verb: Verb) -> Result<()> {
    let ws = &Workspace::find()?;
    match verb {
        Verb::Setup { bench } => setup::setup(ws, bench),
        Verb::Run { fs, words } if words.is_empty() => demo::demo(ws, &fs),
        Verb::Run { words, .. } => run::run(ws, &words),
        Verb::Build => build::build(ws).map(|_| ()),
        Verb::Ebpf { check } => ebpf::ebpf(ws, check),
        Verb::Lint => lint::lint(ws),
        Verb::Tidy => tidy::tidy(ws),
        Verb::Test { long: true, minutes, seed, .. } => test::long(ws, minutes, seed),
        Verb::Test { soak: Some(time), seed, .. } => test::soak(ws, time, seed),
        Verb::Test { faults: true, filter, .. } => test::faults(ws, filter.as_deref()),
        Verb::Test { filter, .. } => test::test(ws, filter.as_deref()),
        Verb::Fuzz { seconds, target } => fuzz::fuzz(ws, seconds, target.as_deref()),
        Verb::Bench { name, quick: true, note, .. } => {
            bench::bench(ws, name.as_deref(), 1, bench::Keep::Nothing, &note)
        }
        Verb::Bench { name, rounds, write, note, .. } => {
            let keep = if write { bench::Keep::Write } else { bench::Keep::Results };
            bench::bench(ws, name.as_deref(), rounds, keep, &note)
        }
        Verb::Vm { page: true, .. } => vm::page(ws),
        Verb::Vm { kernels, only, write, power_cuts, systemd, package, daemon, seed, page: _ } => {
            let asked = [systemd, package, daemon].into_iter().zip(vm::Play::ALL);
            let play = asked.filter(|(asked, _)| *asked).map(|(_, play)| play).next();
            vm::vm(ws, &vm::Wish { kernels: &kernels, only: &only, write, power_cuts, play, seed })
        }
        Verb::Docs => docs::docs(ws, &verbs()),
        Verb::Dist { check } => dist::dist(ws, check),
        Verb::Ci => ci::ci(ws, &verbs()),
    }
}

/// The words after `cargo xtask`.
fn verbs() -> Vec<String> {
    Args::command().get_subcommands().map(|verb| verb.get_name().to_owned()).collect()
}
