//! `cargo xtask test [FILTER]`: everything that proves the product, counted; `--long`: the long run; `--soak`: the daemon
//! with everything against it; `--faults`: faults planted on purpose.
//!
//! Each test is a process of its own. Unit tests run side by side; suites, which use real devices, one
//! after the other. A test that could not run here is counted as skipped, with its reason, never as
//! passed.

mod build;
mod faults;
mod long;
mod one;
mod report;
mod soak;

pub use faults::faults;
pub use long::long;
pub use soak::{soak, time};

use crate::command::{cargo, say};
use crate::setup::{packages, servers};
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use build::Test;
use one::{Outcome, Setting, Verdict};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

/// After this a test counts as hung.
const LIMIT: Duration = Duration::from_secs(600);

/// Builds and runs the tests whose title contains `filter`.
pub fn test(ws: &Workspace, filter: Option<&str>) -> Result<()> {
    packages::ensure(packages::TEST);
    servers::ensure(ws);
    let start = Instant::now();
    let built = build::build(ws)?;
    say(format!("built the tests in {:.0} s", start.elapsed().as_secs_f64()));
    let chosen = |test: &Test| filter.is_none_or(|filter| test.title.contains(filter));
    let (alone, together): (Vec<Test>, Vec<Test>) =
        built.tests.into_iter().filter(chosen).partition(|t| t.alone);
    let setting = Setting { program: &built.program, limit: LIMIT };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let mut outcomes = run_all(&together, &setting, threads);
    outcomes.extend(run_all(&alone, &setting, 1));
    if filter.is_none() {
        outcomes.push(examples(ws)?);
    }
    if outcomes.is_empty() {
        bail!("no test's name contains {:?}", filter.unwrap_or_default());
    }
    report::show(&outcomes);
    let failed = outcomes.iter().filter(|outcome| matches!(outcome.verdict, Verdict::Failed(_))).count();
    if failed > 0 {
        bail!("{failed} tests failed");
    }
    Ok(())
}

fn run_all(tests: &[Test], setting: &Setting, threads: usize) -> Vec<Outcome> {
    let queue = Mutex::new(tests.iter());
    let next = || queue.lock().ok().and_then(|mut queue| queue.next());
    let outcomes = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(test) = next() {
                    let outcome = one::run(test, setting);
                    report::line(&outcome, test.alone);
                    if let Ok(mut outcomes) = outcomes.lock() {
                        outcomes.push(outcome);
                    }
                }
            });
        }
    });
    outcomes.into_inner().unwrap_or_default()
}

/// The examples in the documentation, as one test.
fn examples(ws: &Workspace) -> Result<Outcome> {
    let start = Instant::now();
    let mut doc = cargo();
    doc.current_dir(&ws.root).env("CARGO_TARGET_DIR", &ws.target);
    doc.args(["test", "--locked", "--doc", "--workspace", "--exclude", "xtask"]);
    let output = doc.output().context("start cargo test --doc")?;
    let said = [output.stdout, output.stderr].concat();
    let verdict = match output.status.success() {
        true => Verdict::Passed,
        false => Verdict::Failed(String::from_utf8_lossy(&said).into_owned()),
    };
    let outcome =
        Outcome { title: "examples::documentation".into(), verdict, took: start.elapsed(), parts: vec![] };
    report::line(&outcome, true);
    Ok(outcome)
}
