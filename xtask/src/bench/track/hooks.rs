//! Nanoseconds in the programs per event, by the kernel's own statistics (`kernel.bpf_stats_enabled`), which read the
//! clock before and after each run. What that alone costs is measured beside it, on the same events: by programs that
//! only return.

use super::{Bed, Kind, LOOP_HOOKS, meter};
use crate::bench::document::Headline;
use crate::bench::fio::{Job, fio};
use crate::bench::interleaved::Spread;
use crate::rig::device::Loop;
use crate::rig::product::{KernelStats, cost};
use anyhow::{Context, Result};
use serde_json::Value;
use std::fmt::Write;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

const SECONDS: f64 = 0.4;

/// Something that happens to a disk.
struct Event {
    what: &'static str,
    /// It is tracked; else its neighbour is.
    tracked: bool,
    job: &'static str,
}

const EVENTS: [Event; 3] = [
    Event { what: "a read of a tracked disk", tracked: true, job: "randread" },
    Event {
        what: "a write to a disk that is not tracked, while another is",
        tracked: false,
        job: "randwrite",
    },
    Event { what: "a write to a tracked disk", tracked: true, job: "randwrite" },
];

/// Nanoseconds per event at submission and at completion.
#[derive(Clone, Copy, Default)]
struct Cost {
    /// With what the statistics cost.
    gross: [f64; 2],
    /// Of programs that only return, on the same events.
    empty: [f64; 2],
}

/// What it comes to.
pub struct Hooks {
    /// The table.
    pub text: String,
    /// The figures that count.
    pub headlines: Vec<Headline>,
    /// Nanoseconds in the programs per write on each kind, without what the statistics cost.
    pub net: Vec<f64>,
    /// What they cost per write.
    pub empty: Vec<f64>,
}

const HEAD: &str = "### Time in the programs\n\nBy the kernel's statistics. *Gross* is what they say; *empty* what they \
    say of a program that only returns, on the same events at the same time: reading the clock twice; *net* is the \
    difference. A tracked disk has two hooks, submission and completion. The goals are held against gross.\n";

const WHY: &str = "\nWhere a goal is missed: the instructions are the same on every kind, what differs is where the \
    programs find their memory. At zram's rate all of it stays in one processor's caches. A loop device's writes come a \
    tenth as often, are issued by a worker thread and completed on another processor, so each run finds the slot of the \
    request, the word of the bitmap and its own code elsewhere; all over 1 TiB the word of the bitmap (32 MiB of them) \
    is in no cache, and in a virtual machine every miss of the TLB is a walk of two tables. The shares of a processor \
    below show the same on one device: a write costs more of its time at 10,000 a second than at 100,000. A hook that \
    marks has to touch these lines, whatever its code; to touch fewer would be to give up the slots that say what is in \
    flight.\n";

/// Measures.
pub fn run(bed: &Bed, rounds: usize) -> Result<Hooks> {
    let mut all = Hooks { text: HEAD.into(), headlines: Vec::new(), net: Vec::new(), empty: Vec::new() };
    writeln!(
        all.text,
        "\n| ns, {rounds} rounds | submission: gross | spread | empty | net | completion: gross | spread | empty | net \
         |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|"
    )?;
    for kind in &bed.kinds {
        let mut found = EVENTS.map(|event| (event, Vec::new()));
        for round in 0..=rounds {
            for (event, costs) in &mut found {
                let cost = in_programs(bed, kind, event)?;
                if round > 0 {
                    costs.push(cost);
                }
            }
        }
        let mut medians = [Cost::default(); EVENTS.len()];
        for ((event, costs), median) in found.iter().zip(&mut medians) {
            *median = row(&mut all.text, &format!("{}: {}", kind.name, event.what), costs)?;
        }
        headlines(&mut all, kind.name, medians);
    }
    wide(bed, rounds, &mut all.text)?;
    all.text += WHY;
    all.text += "\nA disk that is not tracked costs the way from the request to the disk's number (three loads, one \
                 after the other) and one look into the table of disks. The rest of what a hook costs, the kernel's way \
                 to the program, is in no statistics; it is in the rates below.\n";
    Ok(all)
}

/// A line for writes all over a large disk, whose bitmap does not fit the processor's caches.
fn wide(bed: &Bed, rounds: usize, text: &mut String) -> Result<()> {
    let disk = Loop::on(&bed.scratch.sparse("wide.img", 1 << 40)?)?;
    let device: PathBuf = disk.path().into();
    let kind = Kind { name: "loop of 1 TiB", hooks: LOOP_HOOKS, neighbour: device.clone(), device };
    let [.., write] = EVENTS;
    let costs: Vec<Cost> = (0..=rounds).map(|_| in_programs(bed, &kind, &write)).collect::<Result<_>>()?;
    row(text, "loop of 1 TiB: a write anywhere on a tracked disk", &costs[1..])?;
    drop(disk);
    bed.forget("wide.img")
}

/// Nanoseconds per event on `kind`'s disk, with it or its neighbour tracked.
fn in_programs(bed: &Bed, kind: &Kind, event: &Event) -> Result<Cost> {
    let target: &Path = if event.tracked { &kind.device } else { &kind.neighbour };
    let _stats = KernelStats::on()?;
    bed.tracking(target, || {
        let empty = Empty::start(bed, kind)?;
        let before = bed.product.programs(target)?;
        fio(&kind.device, Job { kind: event.job, ..Job::random(1, SECONDS) })?;
        let (submission, completion) = cost(&before, &bed.product.programs(target)?);
        Ok(Cost { gross: [submission, completion], empty: empty.end()? })
    })
}

/// Programs that only return, on the tracepoints of submission and completion.
struct Empty {
    holder: Child,
    said: BufReader<std::process::ChildStdout>,
}

impl Empty {
    fn start(bed: &Bed, kind: &Kind) -> Result<Self> {
        let mut command = meter(bed, &["empty", kind.hooks[0], kind.hooks[1]])?;
        let mut holder =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("start empty programs")?;
        let mut said = BufReader::new(holder.stdout.take().context("the meter's output")?);
        said.read_line(&mut String::new()).context("wait for the empty programs")?;
        Ok(Self { holder, said })
    }

    fn end(mut self) -> Result<[f64; 2]> {
        drop(self.holder.stdin.take());
        let mut text = String::new();
        self.said.read_to_string(&mut text).context("hear what the empty programs cost")?;
        self.holder.wait().context("wait for the meter's end")?;
        let mean = |line: Option<&str>| {
            let found: Value = serde_json::from_str(line.context("the meter said too little")?)?;
            let number = |key: &str| found[key].as_f64().with_context(|| format!("the meter told no {key}"));
            Ok::<_, anyhow::Error>(number("nanoseconds")? / number("runs")?.max(1.0))
        };
        let mut lines = text.lines();
        Ok([mean(lines.next())?, mean(lines.next())?])
    }
}

/// A line of the table; the medians.
fn row(text: &mut String, what: &str, costs: &[Cost]) -> Result<Cost> {
    write!(text, "| {what} |")?;
    let mut median = Cost::default();
    for side in 0..2 {
        let of = |get: fn(&Cost) -> [f64; 2]| {
            Spread::of(&costs.iter().map(|cost| get(cost)[side]).collect::<Vec<_>>())
        };
        let (gross, empty) = (of(|cost| cost.gross)?, of(|cost| cost.empty)?);
        (median.gross[side], median.empty[side]) = (gross.median, empty.median);
        let net = gross.median - empty.median;
        write!(
            text,
            " {:.0} | {:.0}-{:.0} | {:.0} | {net:.0} |",
            gross.median, gross.min, gross.max, empty.median
        )?;
    }
    text.push('\n');
    Ok(median)
}

fn headlines(all: &mut Hooks, kind: &str, [_, untracked, tracked]: [Cost; EVENTS.len()]) {
    let dearer = |cost: &Cost| if cost.gross[0] > cost.gross[1] { 0 } else { 1 };
    let mut line = |what: &str, [gross, empty]: [f64; 2], aim, limit| {
        let what = format!("tracking, {kind}: {what}");
        let told = format!("{gross:.0} ns ({:.0} without the statistics' own)", gross - empty);
        all.headlines.push(Headline::new(what, told, aim, gross <= limit));
    };
    let (one, other) = (dearer(&tracked), dearer(&untracked));
    let empty: f64 = tracked.empty.iter().sum();
    let both: f64 = tracked.gross.iter().sum();
    let of = |cost: &Cost, side: usize| [cost.gross[side], cost.empty[side]];
    line("the dearer hook", of(&tracked, one), "≤ 150 ns", 150.0);
    line("submission and completion", [both, empty], "≤ 300 ns", 300.0);
    line("a hook for a disk that is not tracked", of(&untracked, other), "≤ 50 ns", 50.0);
    all.net.push(both - empty);
    all.empty.push(empty);
}
