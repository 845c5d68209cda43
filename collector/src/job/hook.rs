//! Commands of the user's: before and after a backup (a database is told to flush), and while the file systems stand
//! still (a snapshot of what lies below, a mark in a log).
//!
//! What must stay true: none outlives its limit by more than a moment (killed with all it started when the time is
//! over), and one that failed is an error: its user relies on both.

use crate::error::{Context, Error, Kind, Result};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A command of the shell.
#[derive(Clone, Copy, Debug)]
pub struct Hook<'a> {
    /// The command.
    pub command: &'a str,
    /// When it runs, in words.
    pub when: &'a str,
    /// For at most so long.
    pub limit: Duration,
    /// What it finds in its environment besides ours.
    pub env: &'a [(String, String)],
}

/// Runs `command` by the shell in a freeze, for at most `limit`; how long it took.
pub(super) fn run(command: &str, limit: Duration) -> Result<Duration> {
    let hook = Hook { command, when: "while the file system is frozen", limit, env: &[] };
    hook.run().map_err(|error| match error.kind() {
        Kind::Interrupted => {
            error.hint("does it write to the frozen file system? or give it more time by --freeze-limit")
        }
        _ => error,
    })
}

impl Hook<'_> {
    /// Runs it to its end; how long that took.
    ///
    /// # Errors
    /// If it fails; [`Kind::Interrupted`] if it was not done in time.
    pub fn run(&self) -> Result<Duration> {
        let began = Instant::now();
        let what = || format!("run `{}` {}", self.command, self.when);
        // standard output is the backup's own result
        let out = std::io::stderr().as_fd().try_clone_to_owned().os_context(what)?;
        let mut shell = Command::new("/bin/sh");
        shell.arg("-c").arg(self.command).stdin(Stdio::null()).stdout(Stdio::from(out)).process_group(0);
        shell.envs(self.env.iter().map(|(name, value)| (name, value)));
        let mut child = shell.spawn().os_context(what)?;
        loop {
            match child.try_wait().os_context(what)? {
                Some(status) if status.success() => return Ok(began.elapsed()),
                Some(status) => return Err(Error::new(Kind::Io, format!("{}: {status}", what()))),
                None if began.elapsed() >= self.limit => {
                    end(&mut child);
                    let text = format!("{}: not done after {} ms", what(), self.limit.as_millis());
                    return Err(
                        Error::new(Kind::Interrupted, text).hint("give it more time, or have it do less")
                    );
                }
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    }
}

/// Kills the command's process group. It is not waited for: what hangs on the frozen file system ends at the thaw.
fn end(child: &mut Child) {
    if let Some(group) = rustix::process::Pid::from_raw(child.id() as i32) {
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn success_failure_and_no_end() {
        let second = Duration::from_secs(1);
        assert!(run("true", second).unwrap() < second);
        assert!(run("exit 7", second).unwrap_err().to_string().contains("exit 7"));
        let began = Instant::now();
        let error = run("sleep 60 & sleep 60", Duration::from_millis(50)).unwrap_err();
        assert_eq!(error.kind(), Kind::Interrupted);
        assert!(began.elapsed() < Duration::from_secs(30));
        let env = [("BLKDELTA_JOB".to_owned(), "db".to_owned())];
        let hook = Hook { command: "test $BLKDELTA_JOB = db", when: "before", limit: second, env: &env };
        assert!(hook.run().is_ok());
    }
}
