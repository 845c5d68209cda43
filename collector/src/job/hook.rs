//! A command of the user's that runs while the file systems stand still: a snapshot of what lies below, a mark
//! in a log.
//!
//! What must stay true: it never outlives the freeze by more than a moment (killed with all it started when the
//! time is over), and a command that failed fails the backup: its user relies on both.

use crate::error::{Context, Error, Kind, Result};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Runs `command` by the shell, for at most `limit`; how long it took.
pub(super) fn run(command: &str, limit: Duration) -> Result<Duration> {
    let began = Instant::now();
    let what = || format!("run `{command}` while the file system is frozen");
    // standard output is the backup's own result
    let out = std::io::stderr().as_fd().try_clone_to_owned().os_context(what)?;
    let mut shell = Command::new("/bin/sh");
    shell.arg("-c").arg(command).stdin(Stdio::null()).stdout(Stdio::from(out)).process_group(0);
    let mut child = shell.spawn().os_context(what)?;
    loop {
        match child.try_wait().os_context(what)? {
            Some(status) if status.success() => return Ok(began.elapsed()),
            Some(status) => return Err(Error::new(Kind::Io, format!("{}: {status}", what()))),
            None if began.elapsed() >= limit => {
                end(&mut child);
                let text = format!("{}: not done after {} ms", what(), limit.as_millis());
                return Err(Error::new(Kind::Interrupted, text).hint(
                    "does it write to the frozen file system? or give it more time by --freeze-limit",
                ));
            }
            None => std::thread::sleep(Duration::from_millis(1)),
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
    }
}
