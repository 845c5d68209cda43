//! The product as its users have it: the optimised program, with pins and state in a home of its own.

use super::process::{Ran, watch};
use super::scratch::Scratch;
use crate::workspace::write_attribute;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The program and its home.
pub struct Product {
    program: PathBuf,
    home: PathBuf,
    environment: Vec<(String, String)>,
}

impl Product {
    /// A new home in the scratch folder, with which its pins go.
    pub fn new(program: PathBuf, scratch: &Scratch) -> Result<Self> {
        Ok(Self { program, home: scratch.folder("home")?, environment: Vec::new() })
    }

    /// With these in the environment of every run.
    pub fn set(&mut self, variables: &[(&str, &str)]) {
        self.environment.extend(variables.iter().map(|(name, value)| ((*name).into(), (*value).into())));
    }

    /// Its home.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// The program with these words.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(words).env("BLKDELTA_HOME", &self.home).stdin(Stdio::null());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs it; an error unless it exits with 0.
    pub fn run(&self, words: &[&str]) -> Result<Ran> {
        watch(&mut self.command(words))?.success(&format!("blkdelta {}", words.join(" ")))
    }

    /// Runs it with `--json`; what it printed. Exit code 3 (done, but suspect) is for the caller to see in it.
    pub fn json(&self, words: &[&str]) -> Result<(Value, Ran)> {
        let ran = watch(self.command(words).arg("--json"))?;
        if !matches!(ran.code, Some(0 | 3)) {
            bail!("blkdelta {} ended with {:?}\n{}{}", words.join(" "), ran.code, ran.out, ran.err);
        }
        let value = serde_json::from_str(&ran.out)
            .with_context(|| format!("blkdelta {} --json printed {:?}", words.join(" "), ran.out))?;
        Ok((value, ran))
    }

    /// What its programs in the kernel cost since they were loaded (while [`KernelStats`] was held).
    pub fn programs(&self, device: &Path) -> Result<Vec<Program>> {
        let (rows, _) = self.json(&["status", utf8(device)?])?;
        let list = rows[0]["programs"].as_array().context("status --json names no programs")?;
        let program = |p: &Value| {
            let name = p["name"].as_str()?.to_owned();
            Some(Program { name, runs: p["runs"].as_u64()?, nanoseconds: p["nanoseconds"].as_u64()? })
        };
        list.iter().map(program).collect::<Option<_>>().context("status --json: programs of an unknown shape")
    }
}

/// A path as a word of a command line.
pub fn utf8(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))
}

/// A program in the kernel: how often it ran, and for how long in all.
#[derive(Clone)]
pub struct Program {
    /// Its name.
    pub name: String,
    /// Runs counted.
    pub runs: u64,
    /// Their time.
    pub nanoseconds: u64,
}

/// Nanoseconds per I/O of submission and completion, between two looks: each program's mean, those of the
/// copies added up. Programs that did not run cost nothing.
pub fn cost(before: &[Program], after: &[Program]) -> (f64, f64) {
    let (mut submission, mut completion) = (0.0, 0.0);
    for program in after {
        let old = before.iter().find(|p| p.name == program.name);
        let runs = program.runs.saturating_sub(old.map_or(0, |p| p.runs));
        if runs > 0 {
            let time = program.nanoseconds.saturating_sub(old.map_or(0, |p| p.nanoseconds));
            let mean = time as f64 / runs as f64;
            *(if program.name.contains("complete") { &mut completion } else { &mut submission }) += mean;
        }
    }
    (submission, completion)
}

/// The kernel takes the time of BPF programs while this is held.
pub struct KernelStats {
    before: String,
}

const STATS: &str = "/proc/sys/kernel/bpf_stats_enabled";

impl KernelStats {
    /// Switches it on.
    pub fn on() -> Result<Self> {
        let before = fs::read_to_string(STATS).with_context(|| format!("read {STATS}"))?;
        write_attribute(Path::new(STATS), "1")?;
        Ok(Self { before: before.trim().to_owned() })
    }
}

impl Drop for KernelStats {
    fn drop(&mut self) {
        if let Err(error) = write_attribute(Path::new(STATS), &self.before) {
            crate::command::say(format!("{STATS} was {}: {error:#}", self.before));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cost_is_the_mean_of_each_program_added_up() {
        let program = |name: &str, runs, nanoseconds| Program { name: name.into(), runs, nanoseconds };
        let before = [program("rq_issue", 10, 1000)];
        let after =
            [program("rq_issue", 20, 2000), program("rq_issue_b", 10, 500), program("rq_complete", 4, 80)];
        assert_eq!(cost(&before, &after), (150.0, 20.0));
        assert_eq!(cost(&after, &after), (0.0, 0.0));
    }
}
