//! One run of fio: 4 KiB direct I/O, with its rate and its latencies.

use crate::command::quiet;
use crate::rig::process::go_on;
use crate::rig::product::utf8;
use anyhow::{Context, Result};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// What is to be done.
#[derive(Clone, Copy, Debug)]
pub struct Job {
    /// fio's word: `randwrite`, `write`, `randread`.
    pub kind: &'static str,
    /// Requests in flight.
    pub depth: u32,
    /// Seconds.
    pub seconds: f64,
    /// Not more per second.
    pub rate: Option<u32>,
    /// Only zeros, as zram likes them best: the less the device does, the more tracking is of the whole.
    pub zeros: bool,
    /// Where: fio's `--random_distribution`.
    pub places: &'static str,
}

impl Job {
    /// At random places.
    pub const fn random(depth: u32, seconds: f64) -> Self {
        Self { kind: "randwrite", depth, seconds, rate: None, zeros: true, places: "random" }
    }
}

/// What came of it.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    /// Requests per second.
    pub iops: f64,
    /// Microseconds from submission to completion: half, 99 of 100, 999 of 1000 are below.
    pub latency: [f64; 3],
    /// Requests.
    pub requests: u64,
}

impl Figures {
    /// Microseconds per request.
    pub fn each(&self) -> f64 {
        1e6 / self.iops
    }
}

/// Runs it on a device, or on a file that has its size already.
pub fn fio(device: &Path, job: Job) -> Result<Figures> {
    go_on()?;
    let mut fio = Command::new("fio");
    fio.arg("--name=bench").arg(format!("--filename={}", utf8(device)?));
    fio.args(["--direct=1", "--bs=4k", "--norandommap", "--randrepeat=0", "--time_based"]);
    fio.args(["--output-format=json", "--percentile_list=50:99:99.9"]);
    if job.zeros {
        fio.arg("--zero_buffers");
    } else {
        // each block another one, that shrinks to half
        fio.args(["--refill_buffers", "--buffer_compress_percentage=50"]);
    }
    fio.arg(format!("--random_distribution={}", job.places));
    // a plain number is whole seconds
    let runtime = format!("--runtime={}ms", (job.seconds * 1e3) as u64);
    fio.arg(format!("--rw={}", job.kind)).arg(runtime);
    let engine = if job.depth == 1 { "psync" } else { "io_uring" };
    fio.arg(format!("--ioengine={engine}")).arg(format!("--iodepth={}", job.depth));
    if let Some(rate) = job.rate {
        fio.arg(format!("--rate_iops={rate}"));
    }
    let out = quiet(&mut fio)?.stdout;
    let text = String::from_utf8_lossy(&out);
    // fio may say something before the JSON
    let json = text.find('{').map_or("", |from| &text[from..]);
    figures(&serde_json::from_str(json).context("fio printed no JSON")?, job)
}

fn figures(printed: &Value, job: Job) -> Result<Figures> {
    let side = if job.kind.ends_with("read") { "read" } else { "write" };
    let all = &printed["jobs"][0][side];
    let number = |value: &Value, what: &str| value.as_f64().with_context(|| format!("fio printed no {what}"));
    let mut latency = [0.0; 3];
    for (place, percentile) in latency.iter_mut().zip(["50.000000", "99.000000", "99.900000"]) {
        *place = number(&all["clat_ns"]["percentile"][percentile], "latency")? / 1000.0;
    }
    let requests = number(&all["total_ios"], "count")? as u64;
    Ok(Figures { iops: number(&all["iops"], "rate")?, latency, requests })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fio_prints_is_read() {
        let text = r#"{"jobs": [{"write": {"iops": 500.0, "total_ios": 250, "clat_ns": {"percentile":
            {"50.000000": 2000, "99.000000": 3000, "99.900000": 4500}}}}]}"#;
        let found = figures(&serde_json::from_str(text).unwrap(), Job::random(1, 0.5)).unwrap();
        assert_eq!((found.each(), found.latency, found.requests), (2000.0, [2.0, 3.0, 4.5], 250));
        assert!(figures(&Value::Null, Job::random(1, 0.5)).is_err());
    }
}
