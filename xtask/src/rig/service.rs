//! A program that runs beside us, a server or a daemon: it ends when we do, however that comes.

use crate::command::{say, which};
use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long it may take to end when it is asked to: a daemon waits for its runs.
const PATIENCE: Duration = Duration::from_secs(90);

/// The program.
pub struct Service {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Service {
    /// Starts `command`, its output appended to `log`. Must be called by a thread that lives as long as it shall: the
    /// kernel ties it to that.
    pub fn start(name: &'static str, command: &Command, log: &Path) -> Result<Self> {
        let out = OpenOptions::new().create(true).append(true).open(log);
        let out = out.with_context(|| format!("open {}", log.display()))?;
        let mut tied = Command::new(which("setpriv").context("there is no setpriv (util-linux)")?);
        tied.arg("--pdeathsig=TERM").arg("--").arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => tied.env(key, value),
                None => tied.env_remove(key),
            };
        }
        command.get_current_dir().map(|folder| tied.current_dir(folder));
        tied.stdin(Stdio::null()).stderr(out.try_clone().context("its log")?).stdout(out);
        let child = tied.spawn().with_context(|| format!("start {command:?}"))?;
        Ok(Self { name, child, log: log.into() })
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The end of what it said.
    pub fn said(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text[text.len().saturating_sub(4000)..]).into_owned();
        text.lines().skip(1).map(|line| format!("  {line}\n")).collect()
    }

    /// An error if it ended by itself.
    pub fn ensure_alive(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait().with_context(|| format!("look at {}", self.name))? {
            bail!("{} ended by itself with {status}:\n{}", self.name, self.said());
        }
        Ok(())
    }

    /// SIGKILL.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill().with_context(|| format!("kill {}", self.name))?;
        self.child.wait().map(drop).with_context(|| format!("wait for {}", self.name))
    }

    /// Asks it to end by a signal; an error unless it does, with exit code 0.
    pub fn stop(mut self, signal: Signal) -> Result<()> {
        match self.end(signal)? {
            Some(status) if status.success() => Ok(()),
            status => bail!("{}, asked to end, did with {status:?}:\n{}", self.name, self.said()),
        }
    }

    /// `None`: it had to be killed.
    fn end(&mut self, signal: Signal) -> Result<Option<ExitStatus>> {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // it may be gone already
            let _ = kill_process(pid, signal);
        }
        let give_up = Instant::now() + PATIENCE;
        while Instant::now() < give_up {
            if let Some(status) = self.child.try_wait()? {
                return Ok(Some(status));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        say(format!("{} does not end: killed", self.name));
        let _ = self.child.kill();
        self.child.wait()?;
        Ok(None)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // SIGINT: to PostgreSQL SIGTERM means to wait for its clients
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            let _ = self.end(Signal::INT);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_that_ends_by_itself_is_noticed_and_one_that_runs_is_ended() {
        let log = std::env::temp_dir().join(format!("blkdelta-service-{}", std::process::id()));
        let mut shell = Command::new("sh");
        let mut service =
            Service::start("a shell", shell.args(["-c", "echo begin; echo why; exit 3"]), &log).unwrap();
        let give_up = Instant::now() + PATIENCE;
        while service.ensure_alive().is_ok() {
            assert!(Instant::now() < give_up);
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(format!("{:#}", service.ensure_alive().unwrap_err()).contains("why"));
        let mut service = Service::start("sleep", Command::new("sleep").arg("600"), &log).unwrap();
        assert!(service.ensure_alive().is_ok());
        let pid = service.pid();
        drop(service);
        assert!(!Path::new("/proc").join(pid.to_string()).exists());
        std::fs::remove_file(log).unwrap();
    }
}
