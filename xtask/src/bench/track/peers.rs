//! Other ways of knowing what was written, in turns with ours on the same disk: blktrace, and an event per request
//! through a ring buffer to a reader, which is our own live traffic and how trackers without a bitmap work. And what
//! share of a processor the programs take at a given rate.

use super::{Bed, Kind, meter};
use crate::bench::fio::{Job, fio};
use crate::bench::interleaved::{Contender, Sample, measure, table};
use crate::command::{quiet, say};
use crate::rig::device::unmount;
use crate::rig::product::{KernelStats, utf8};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::cell::RefCell;
use std::fmt::Write;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};

const JOB: Job = Job::random(1, 0.5);

/// The tables.
pub fn run(bed: &Bed, rounds: usize, empty: &[f64]) -> Result<String> {
    let _debug = DebugFs::mounted();
    let mut text = String::from(
        "### Against other ways\n\nµs per 4 KiB random write, one in flight. *Event per request*: each write also goes \
         through a ring buffer to a process that reads it, ours for live traffic; other trackers have nothing else.\n",
    );
    for kind in &bed.kinds {
        let lost = RefCell::new((0, 0));
        let each = |found: crate::bench::fio::Figures| Sample { figure: found.each(), peak: 0, cpu: 0.0 };
        let mut contenders = vec![
            Contender::new("not tracked", || fio(&kind.device, JOB).map(each)),
            Contender::new("tracked", || bed.tracking(&kind.device, || fio(&kind.device, JOB).map(each))),
            Contender::new("tracked, and an event per request", || {
                bed.tracking(&kind.device, || watched(bed, kind, &mut lost.borrow_mut()).map(each))
            }),
        ];
        let refused = blktrace(&kind.device).map(|mut child| stop(&mut child)).err();
        if refused.is_none() {
            contenders.push(Contender::new("blktrace, output thrown away", || {
                let mut trace = blktrace(&kind.device)?;
                let found = fio(&kind.device, JOB).map(each);
                stop(&mut trace);
                found
            }));
        }
        let rows = measure(rounds, contenders)?;
        write!(text, "\nOn {}:\n\n{}", kind.name, table("µs per write", &rows)?)?;
        let (seen, missed) = *lost.borrow();
        let share = missed as f64 * 100.0 / (seen + missed).max(1) as f64;
        writeln!(text, "\nOf {} events {share:.1} % found the ring buffer full.", seen + missed)?;
        if let Some(why) = refused {
            writeln!(text, "blktrace could not be measured here: {}.", first_line(&why))?;
        }
    }
    Ok(text + "\n" + &shares(bed, empty)?)
}

/// Writes while a process reads an event per write; adds up what it saw and what was lost.
fn watched(bed: &Bed, kind: &Kind, sum: &mut (u64, u64)) -> Result<crate::bench::fio::Figures> {
    let mut command = meter(bed, &["live", utf8(&kind.device)?])?;
    let mut reader =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("start the reader")?;
    let mut said = BufReader::new(reader.stdout.take().context("the reader's output")?);
    said.read_line(&mut String::new()).context("wait for the reader")?;
    let found = fio(&kind.device, JOB);
    drop(reader.stdin.take());
    let mut end = String::new();
    said.read_to_string(&mut end).context("hear what the reader saw")?;
    reader.wait().context("wait for the reader's end")?;
    let counts: Value = serde_json::from_str(&end).context("what the reader saw")?;
    let count = |key: &str| counts[key].as_u64().unwrap_or(0);
    *sum = (sum.0 + count("writes"), sum.1 + count("lost"));
    found
}

/// blktrace of writes, running; an error if it cannot.
fn blktrace(device: &Path) -> Result<Child> {
    let probe = Command::new("blktrace").arg("-d").arg(device).args(["-w", "1", "-o", "/dev/null"]).output();
    let probe = probe.context("blktrace is not installed")?;
    let said = String::from_utf8_lossy(&probe.stderr).into_owned();
    // its exit code is 0 even when it could not open what it reads
    if !probe.status.success() || said.contains("FAILED") {
        bail!("{}", said.trim());
    }
    // it ends by itself, in case nobody ends it
    let mut trace = Command::new("blktrace");
    trace.arg("-d").arg(device).args(["-a", "write", "-w", "60", "-o", "-"]);
    trace.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("start blktrace")
}

/// The file system that blktrace reads; mounted for as long as this lives, if it was not.
struct DebugFs(bool);

impl DebugFs {
    const PLACE: &str = "/sys/kernel/debug";

    fn mounted() -> Self {
        if Path::new(Self::PLACE).join("block").exists() {
            return Self(false);
        }
        // where that is forbidden, blktrace says what it misses
        Self(quiet(Command::new("mount").args(["-t", "debugfs", "debugfs", Self::PLACE])).is_ok())
    }
}

impl Drop for DebugFs {
    fn drop(&mut self) {
        if self.0
            && let Err(error) = unmount(Path::new(Self::PLACE))
        {
            say(format!("{} stays mounted: {error:#}", Self::PLACE));
        }
    }
}

fn stop(child: &mut Child) {
    // a process of ours, by its own id; it may have ended already
    let _ = quiet(Command::new("kill").args(["-INT", &child.id().to_string()]));
    let _ = child.wait();
}

fn first_line(error: &anyhow::Error) -> String {
    format!("{error:#}").lines().next().unwrap_or("it did not say why").trim().to_owned()
}

/// Share of a processor that the programs take at two rates; `empty`: nanoseconds that the statistics add to a write.
fn shares(bed: &Bed, empty: &[f64]) -> Result<String> {
    let mut text = String::from(
        "### Share of a processor\n\nTime in the programs at a rate, divided by the time that passed: as the kernel's \
         statistics say, and without what these cost themselves.\n\n| | writes/s asked for | writes/s | gross | share of \
         one processor |\n|---|--:|--:|--:|--:|\n",
    );
    for (kind, empty) in bed.kinds.iter().zip(empty) {
        for rate in [10_000, 100_000] {
            let _stats = KernelStats::on()?;
            let job = Job { rate: Some(rate), ..Job::random(4, 1.5) };
            let (found, spent) = bed.tracking(&kind.device, || {
                let before = bed.nanoseconds(&kind.device)?;
                let found = fio(&kind.device, job)?;
                Ok((found, bed.nanoseconds(&kind.device)? - before))
            })?;
            let share = |ns: f64| ns / (found.requests as f64 / found.iops * 1e9) * 100.0;
            let net = spent as f64 - found.requests as f64 * empty;
            let (gross, net) = (share(spent as f64), share(net));
            writeln!(text, "| {} | {rate} | {:.0} | {gross:.2} % | {net:.2} % |", kind.name, found.iops)?;
        }
    }
    Ok(text)
}
