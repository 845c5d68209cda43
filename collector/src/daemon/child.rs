//! One run of a job, as a process of its own: `blkdelta run JOB --json`, with the configuration on its standard input.
//!
//! A process, because a crash, a leak or a store that hangs in one must not end the others; because keys, bandwidth and
//! the store's patience are one choice per process; and because memory goes back when it ends.
//!
//! What must stay true: it gets the very configuration the daemon has accepted, whatever the file says by now; it ends,
//! cleanly, when the daemon is gone (`--child-of`); the daemon always learns that it ended.

use super::report::Report;
use crate::error::{Context, Result};
use crate::tracker::now_ms;
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;

/// The last of what a child says on standard error that is kept.
const SAID: usize = 4096;

/// How children are started.
#[derive(Clone, Debug)]
pub struct Starter {
    /// The program.
    pub program: PathBuf,
    /// The configuration's text.
    pub configuration: Arc<str>,
}

/// One that runs.
#[derive(Debug)]
pub struct Running {
    pid: Option<Pid>,
}

impl Running {
    /// Asks it to stop at the next opportunity; what it has not copied stays pending.
    pub fn stop(&self) {
        if let Some(pid) = self.pid {
            let _ = kill_process(pid, Signal::TERM);
        }
    }
}

impl Starter {
    /// Starts a run; `done` is called once, on another thread, when it has ended. Must be called by a thread that
    /// lives as long as the daemon: the kernel ties the child to it.
    ///
    /// # Errors
    /// If no process can be had.
    pub fn start(&self, job: &str, done: impl FnOnce(Report) + Send + 'static) -> Result<Running> {
        let us = std::process::id().to_string();
        let mut command = Command::new(&self.program);
        command.args(["run", job, "--file", "-", "--json", "--child-of", &us]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // it must not tell systemd about itself in our name
        command.env_remove("NOTIFY_SOCKET").env_remove("WATCHDOG_USEC").env_remove("WATCHDOG_PID");
        let what = || format!("start a run of job {job}");
        let began = now_ms();
        let mut child = command.spawn().os_context(what)?;
        let pid = Pid::from_raw(child.id() as i32);
        let (job, text) = (job.to_owned(), Arc::clone(&self.configuration));
        let thread = std::thread::Builder::new().name(format!("job {job}"));
        thread.spawn(move || done(wait(&job, &mut child, &text, began))).os_context(what)?;
        Ok(Running { pid })
    }
}

/// Feeds it, reads it to its end.
fn wait(job: &str, child: &mut Child, configuration: &str, began: u64) -> Report {
    if let Some(mut stdin) = child.stdin.take() {
        let _ = stdin.write_all(configuration.as_bytes());
    }
    let stdout = child.stdout.take();
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        if let Some(mut out) = stdout {
            let _ = out.read_to_string(&mut text);
        }
        text
    });
    let said = listen(job, child);
    let out = reader.join().unwrap_or_default();
    let ended = child.wait();
    let mut report: Report =
        out.lines().next_back().and_then(|l| serde_json::from_str(l).ok()).unwrap_or_default();
    (report.job, report.began, report.ended) = (job.to_owned(), began, now_ms());
    if let Some(why) = failure(ended, &report, &said) {
        (report.result, report.error) = ("failed".into(), Some(why));
    }
    report
}

/// Its standard error, passed on to the log line by line; the end of it.
fn listen(job: &str, child: &mut Child) -> String {
    let mut said = String::new();
    let Some(stderr) = child.stderr.take() else { return said };
    for line in BufReader::new(stderr).split(b'\n').map_while(std::io::Result::ok) {
        let line = String::from_utf8_lossy(&line);
        log::warn!(BLKDELTA_JOB = job; "{job}: {line}");
        said += &line;
        said.push('\n');
        if said.len() > 2 * SAID {
            let cut = (said.len() - SAID..said.len()).find(|at| said.is_char_boundary(*at));
            said.drain(..cut.unwrap_or(0));
        }
    }
    said
}

/// Why a run failed, if it did: 0 and 3 are good ends, if there is a report.
fn failure(ended: std::io::Result<ExitStatus>, report: &Report, said: &str) -> Option<String> {
    let status = match ended {
        Ok(status) => status,
        Err(error) => return Some(format!("its end could not be learned: {error}")),
    };
    match status.code() {
        Some(0 | 3) if report.result == "ok" || report.result == "suspect" => None,
        _ if said.trim().is_empty() => Some(format!("it ended with {status} and said nothing")),
        _ => Some(said.trim().to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::mpsc::channel;

    fn run(script: &str) -> Report {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("program");
        crate::sys::publish(&program, format!("#!/bin/sh\n{script}\n").as_bytes()).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let starter = Starter { program, configuration: "the configuration".into() };
        let (done, ended) = channel();
        // a child of another test may still hold the script open for writing
        let start = |_| {
            let done = done.clone();
            std::thread::sleep(std::time::Duration::from_millis(10));
            starter.start("j", move |report| done.send(report).unwrap()).ok()
        };
        let _running = (0..100).find_map(start).unwrap();
        ended.recv().unwrap()
    }

    #[test]
    fn every_end_of_a_run_is_learned() {
        let good = run(r#"cat >/dev/null; echo '{"result":"ok","point":"P"}'"#);
        assert_eq!((good.result.as_str(), good.point.as_deref(), good.error), ("ok", Some("P"), None));
        let suspect = run(r#"echo '{"result":"suspect"}'; exit 3"#);
        assert_eq!(suspect.result, "suspect");
        let failed = run("echo no space >&2; exit 1");
        assert_eq!((failed.result.as_str(), failed.error.as_deref()), ("failed", Some("no space")));
        assert!(run("kill -9 $$").error.unwrap().contains("signal"));
        assert!(run("exit 0").error.is_some(), "no report is no success");
        assert!(run("exit 3").error.is_some());
        let echoed = run("cat >&2; exit 1");
        assert_eq!(echoed.error.as_deref(), Some("the configuration"));
        let long = run("i=0; while [ $i -lt 900 ]; do echo 0123456789ü >&2; i=$((i+1)); done; exit 1");
        assert!(long.error.unwrap().len() <= 2 * SAID);
    }
}
