//! Faults planted on purpose: does anybody notice them?
//!
//! A fault is one row of [`FAULTS`]: names that `planted("…")` in the product's code, or `planted!` in the programs',
//! answers to, and the trial in which it shows. Each is tried in a process of its own (`blkdelta-trial`), so that what
//! is planted is planted in that process and in every program it starts. A trial asks every check there is; where
//! nothing is planted none may notice anything.

mod backups;
mod epochs;
mod groups;
mod judged;
mod notice;
mod reboots;
mod table;
mod writes;

pub use notice::{Check, Notices};
pub use table::{FAULTS, Fault, Trial};

use crate::host::say;
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The variable that names the faults: see `collector::sys::planted`.
const PLANT: &str = "BLKDELTA_PLANT";
/// Before a line about something noticed.
const NOTICED: &str = "NOTICED\t";

/// Anything is planted in this process.
pub(crate) fn planted() -> bool {
    std::env::var_os(PLANT).is_some_and(|names| !names.is_empty())
}

/// Runs a trial in this process and prints what was noticed.
///
/// # Errors
/// If the trial itself fails.
pub fn run_here(trial: &str) -> Result<()> {
    let trial = Trial::ALL.iter().find(|known| known.name() == trial);
    let mut notices = Notices::default();
    trial.context("no such trial")?.run(&mut notices)?;
    notices.lines().iter().for_each(|line| say(&format!("{NOTICED}{line}")));
    Ok(())
}

/// How a trial in a process of its own ended.
#[derive(Debug)]
pub struct Tried {
    /// Name of the check, and what it said.
    pub noticed: Vec<(String, String)>,
    /// How long it took.
    pub took: Duration,
}

impl Tried {
    /// Names of the checks, each once.
    pub fn by(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.noticed.iter().map(|(check, _)| check.as_str()).collect();
        names.dedup();
        names
    }
}

/// Runs `trial` in a process of its own with `plants` planted, with another program under test if there is one.
///
/// # Errors
/// If the trial itself fails: that is no notice.
pub fn try_out(runner: &Path, tested: Option<&Path>, trial: Trial, plants: &str) -> Result<Tried> {
    let start = Instant::now();
    let mut child = Command::new(runner);
    child.arg(trial.name()).env(PLANT, plants).env("RUST_BACKTRACE", "0").stdin(Stdio::null());
    if let Some(tested) = tested {
        child.env("BLKDELTA_BIN", tested);
    }
    let output = crate::raw::die_with_us(&mut child).output().context("start the trial")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        bail!("the trial `{}` itself failed: {}\n{said}{error}", trial.name(), output.status);
    }
    let lines = said.lines().filter_map(|line| line.strip_prefix(NOTICED)?.split_once('\t'));
    let noticed = lines.map(|(check, what)| (check.to_owned(), what.to_owned())).collect();
    Ok(Tried { noticed, took: start.elapsed() })
}
