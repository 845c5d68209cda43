//! Rate and latency of 4 KiB writes with and without tracking: random and sequential, one and 32 in flight, in turns.

use super::Bed;
use crate::bench::document::Headline;
use crate::bench::fio::{Figures, Job, fio};
use crate::bench::interleaved::Spread;
use anyhow::Result;
use std::fmt::Write;

const SECONDS: f64 = 0.4;
/// Rounds of the line that a goal of 1 % stands for, for each round of the others: the median of so many pairs is
/// steadier than one pair.
const FINE: usize = 6;
const JOBS: [(&str, &str, u32); 4] = [
    ("random, 1 in flight", "randwrite", 1),
    ("random, 32 in flight", "randwrite", 32),
    ("sequential, 1 in flight", "write", 1),
    ("sequential, 32 in flight", "write", 32),
];

/// The kind that stands for a disk of some 20 µs.
const GOAL: &str = "loop";

/// The table, and the figures that count.
pub fn run(bed: &Bed, rounds: usize, in_programs: &[f64]) -> Result<(String, Vec<Headline>)> {
    let mut text = format!(
        "### Rate and latency\n\n4 KiB writes past the page cache, {rounds} rounds of {SECONDS} s each ({FINE} times as \
         many of {GOAL}, random, 1 in flight), without and with tracking in turns. The loss is taken round by round; latencies are without → with.\n\n| | writes/s \
         without | with | lost | spread | p50 µs | p99 µs | p99.9 µs |\n|---|--:|--:|--:|--:|--:|--:|--:|\n"
    );
    let mut headlines = Vec::new();
    let mut shares = String::new();
    for (kind, ns) in bed.kinds.iter().zip(in_programs) {
        for (what, word, depth) in JOBS {
            let job = Job { kind: word, ..Job::random(depth, SECONDS) };
            let (mut plain, mut tracked) = (Vec::new(), Vec::new());
            let goal = kind.name == GOAL && word == "randwrite" && depth == 1;
            for round in 0..=rounds * if goal { FINE } else { 1 } {
                let without = fio(&kind.device, job)?;
                let with = bed.tracking(&kind.device, || fio(&kind.device, job))?;
                if round > 0 {
                    plain.push(without);
                    tracked.push(with);
                }
            }
            let lost = loss(&plain, &tracked)?;
            row(&mut text, &format!("{}: {what}", kind.name), &plain, &tracked, lost)?;
            if word == "randwrite" && depth == 1 {
                let each = Spread::of(&plain.iter().map(Figures::each).collect::<Vec<_>>())?.median;
                write!(
                    shares,
                    "On {} such a write takes {each:.1} µs, and the programs {ns:.0} ns: {:.1} %. ",
                    kind.name,
                    ns / each / 10.0
                )?;
                headlines.push(headline(kind.name, each, lost));
            }
        }
    }
    writeln!(text, "\nRandom, 1 in flight: {}", shares.trim())?;
    text += "\nzram does next to nothing for a write, so there is no worse case; the loop device on a file in memory \
             stands for a disk of its latency. Where the spread of a line is wider than its figure, the figure is \
             noise. The goal of 1 % at 20 µs is 200 ns for a write; the share of the programs above is what it really is, \
             and why is said under the first table.\n";
    Ok((text, headlines))
}

fn headline(kind: &str, each: f64, lost: Spread) -> Headline {
    let what = format!("tracking, {kind}: writes per second lost, of one in {each:.1} µs");
    // zram is no disk of 20 µs: there is no aim for it
    let aim = if kind == GOAL { "≤ 1 %" } else { "" };
    let told = format!("{:.1} % ({:.1} to {:.1})", lost.median, lost.min, lost.max);
    Headline::new(what, told, aim, aim.is_empty() || lost.median <= 1.0)
}

/// Percent of the rate that is lost, round by round.
fn loss(plain: &[Figures], tracked: &[Figures]) -> Result<Spread> {
    let lost = plain.iter().zip(tracked).map(|(without, with)| (1.0 - with.iops / without.iops) * 100.0);
    Spread::of(&lost.collect::<Vec<_>>())
}

fn row(text: &mut String, what: &str, plain: &[Figures], tracked: &[Figures], lost: Spread) -> Result<()> {
    let median = |of: &[Figures], get: &dyn Fn(&Figures) -> f64| {
        Spread::of(&of.iter().map(get).collect::<Vec<_>>()).map(|spread| spread.median)
    };
    let rate = |of: &[Figures]| median(of, &|f| f.iops);
    write!(
        text,
        "| {what} | {:.0} | {:.0} | {:.1} % | {:.1}-{:.1} |",
        rate(plain)?,
        rate(tracked)?,
        lost.median,
        lost.min,
        lost.max
    )?;
    for nth in 0..3 {
        let latency = |of: &[Figures]| median(of, &|f| f.latency[nth]);
        write!(text, " {:.1} → {:.1} |", latency(plain)?, latency(tracked)?)?;
    }
    text.push('\n');
    Ok(())
}
