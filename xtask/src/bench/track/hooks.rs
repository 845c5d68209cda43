//! Nanoseconds in the programs per event, by the kernel's own statistics (`kernel.bpf_stats_enabled`), which take the
//! time twice around each run and are part of the figure. Nothing is subtracted: what they cost alone is the row of
//! reads, which the programs leave after two loads.

use super::fio::{Job, fio};
use super::{Bed, Kind};
use crate::bench::document::Headline;
use crate::bench::interleaved::Spread;
use crate::rig::product::{KernelStats, cost};
use anyhow::Result;
use std::fmt::Write;
use std::path::Path;

const SECONDS: f64 = 0.4;
/// What happens, to a disk of which it is told whether it is tracked.
const EVENTS: [(&str, bool, &str); 3] = [
    ("a read of a tracked disk (left after two loads: nearly all is the statistics' own)", true, "randread"),
    ("a write to a disk that is not tracked, while another is", false, "randwrite"),
    ("a write to a tracked disk", true, "randwrite"),
];

/// What it comes to.
pub struct Hooks {
    /// The table.
    pub text: String,
    /// The figures that count.
    pub headlines: Vec<Headline>,
    /// Nanoseconds in the programs per write, on each kind.
    pub each: Vec<f64>,
}

/// Measures.
pub fn run(bed: &Bed, rounds: usize) -> Result<Hooks> {
    let mut text = format!(
        "### Time in the programs\n\nBy the kernel's statistics, which are part of each figure; nothing is \
         subtracted.\n\n| ns, {rounds} rounds | submission | spread | completion | spread |\n|---|--:|--:|--:|--:|\n"
    );
    let (mut headlines, mut each) = (Vec::new(), Vec::new());
    for kind in &bed.kinds {
        let mut found = [const { (Vec::new(), Vec::new()) }; EVENTS.len()];
        for round in 0..=rounds {
            for ((_, tracked, job), (submission, completion)) in EVENTS.iter().zip(&mut found) {
                let (one, other) = in_programs(bed, kind, *tracked, job)?;
                if round > 0 {
                    submission.push(one);
                    completion.push(other);
                }
            }
        }
        for ((what, ..), (submission, completion)) in EVENTS.iter().zip(&found) {
            let (one, other) = (Spread::of(submission)?, Spread::of(completion)?);
            writeln!(
                text,
                "| {}: {what} | {:.0} | {:.0}-{:.0} | {:.0} | {:.0}-{:.0} |",
                kind.name, one.median, one.min, one.max, other.median, other.min, other.max
            )?;
        }
        let [_, untracked, tracked] =
            found.map(|(a, b)| Spread::of(&a).and_then(|a| Ok((a, Spread::of(&b)?))));
        let (untracked, tracked) = (untracked?, tracked?);
        let dearer = tracked.0.median.max(tracked.1.median);
        let both = tracked.0.median + tracked.1.median;
        let other = untracked.0.median.max(untracked.1.median);
        let mut line = |what: &str, ns: f64, aim, limit| {
            let what = format!("tracking, {}: {what}", kind.name);
            headlines.push(Headline::new(what, format!("{ns:.0} ns"), aim, ns <= limit));
        };
        line("the dearer hook", dearer, "≤ 150 ns", 150.0);
        line("submission and completion", both, "≤ 300 ns", 300.0);
        line("a hook for a disk that is not tracked", other, "≤ 50 ns", 50.0);
        each.push(both);
    }
    text += "\nA disk that is not tracked costs the way from the request to the disk's number (four loads, one after \
             the other), and one look into the table of disks; the rest of that row is what the statistics cost.\n";
    Ok(Hooks { text, headlines, each })
}

/// Nanoseconds per event at submission and completion, on `kind`'s disk, with it or its neighbour tracked.
fn in_programs(bed: &Bed, kind: &Kind, tracked: bool, job: &'static str) -> Result<(f64, f64)> {
    let target: &Path = if tracked { &kind.device } else { &kind.neighbour };
    let _stats = KernelStats::on()?;
    bed.tracking(target, || {
        let before = bed.product.programs(target)?;
        fio(&kind.device, Job { kind: job, ..Job::random(1, SECONDS) })?;
        Ok(cost(&before, &bed.product.programs(target)?))
    })
}
