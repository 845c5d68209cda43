//! A client of a database that commits one number after the other, and remembers which were acknowledged when: what was
//! committed before a point began must be in it, and nothing may be missing below.

use super::ledger::now;
use super::worker::Step;
use crate::command::which;
use anyhow::{Context, Result, bail, ensure};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Between two commits.
const PAUSE: Duration = Duration::from_millis(60);

/// Numbers and when they were acknowledged, in Unix milliseconds.
#[derive(Default)]
pub struct Acknowledged(Mutex<Vec<u64>>);

impl Acknowledged {
    fn add(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(now());
    }

    /// The last number that was acknowledged before this moment; 0 if none was.
    pub fn before(&self, moment: u64) -> u64 {
        let times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        times.partition_point(|time| *time < moment) as u64
    }

    /// All of them.
    pub fn count(&self) -> u64 {
        self.before(u64::MAX)
    }

    /// An error unless `count` numbers up to `last` are all there are, and none that was acknowledged before `begun` is missing.
    pub fn ensure_all(&self, (count, last): (u64, u64), begun: u64) -> Result<()> {
        ensure!(count == last, "{count} rows up to {last}: one in between is missing");
        let wanted = self.before(begun);
        ensure!(last >= wanted, "{last} rows, {wanted} were committed before the point began");
        Ok(())
    }
}

/// Two numbers of a line, `5|5`.
pub fn two(line: &str) -> Result<(u64, u64)> {
    let numbers = line.trim().split_once('|').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    numbers.with_context(|| format!("not two numbers: {line:?}"))
}

/// The client program, spoken to line by line.
pub struct Client {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// Makes the statement for a number; its answer is that number.
    statement: fn(u64) -> String,
    acknowledged: Arc<Acknowledged>,
}

impl Client {
    /// Starts a program that answers to each line at once.
    pub fn start(
        command: &Command,
        statement: fn(u64) -> String,
        acknowledged: Arc<Acknowledged>,
    ) -> Result<Self> {
        // its output goes into a pipe: without this it would keep answers to itself
        let mut buffered = Command::new(which("stdbuf").context("there is no stdbuf (coreutils)")?);
        buffered.arg("-oL").arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            buffered.env(key, value.unwrap_or_default());
        }
        buffered.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = buffered.spawn().with_context(|| format!("start {command:?}"))?;
        let (input, output) = (child.stdin.take().context("stdin")?, child.stdout.take().context("stdout")?);
        Ok(Self { child, input, output: BufReader::new(output), statement, acknowledged })
    }

    /// One statement and its answer.
    fn ask(&mut self, statement: &str) -> Result<String> {
        let mut answer = String::new();
        let said = writeln!(self.input, "{statement}").and_then(|()| self.output.read_line(&mut answer));
        if answer.is_empty() {
            let mut why = String::new();
            let _ = self.child.kill();
            let _ = self.child.stderr.take().map(|mut stderr| stderr.read_to_string(&mut why));
            bail!("no answer to {statement:?} ({said:?}): {why}");
        }
        Ok(answer.trim().to_owned())
    }
}

impl Step for Client {
    fn step(&mut self) -> Result<Duration> {
        let next = self.acknowledged.count() + 1;
        let answer = self.ask(&(self.statement)(next))?;
        ensure!(answer == next.to_string(), "{next} was answered with {answer:?}");
        self.acknowledged.add();
        Ok(PAUSE)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_counts_when_it_was_answered() {
        let all = Arc::<Acknowledged>::default();
        let mut client = Client::start(&Command::new("cat"), |n| n.to_string(), Arc::clone(&all)).unwrap();
        for _ in 0..3 {
            client.step().unwrap();
        }
        let later = now() + 10;
        assert_eq!((all.count(), all.before(0), all.before(later)), (3, 0, 3));
        assert!(all.ensure_all((3, 3), later).is_ok() && all.ensure_all((5, 5), later).is_ok());
        assert!(all.ensure_all((2, 3), later).is_err() && all.ensure_all((2, 2), later).is_err());
        assert!(all.ensure_all((0, 0), 0).is_ok());
        assert_eq!(two("7|8\n").unwrap(), (7, 8));
        assert!(two("7").is_err());
    }
}
