//! The product as its users meet it: the `blkdelta` binary, with a private place for pins and state.
//!
//! The binary is `BLKDELTA_BIN`, else `target/<profile>/blkdelta` beside the running test's own folder. It must be
//! built with the `failpoints` feature (`cargo build -p collector --features failpoints`); `cargo xtask test` does
//! that before it runs the suites.

use crate::device::put;
use crate::host::run;
use crate::raw::die_with_us;
use crate::scratch::Scratch;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::ffi::OsStr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The binary under test.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("BLKDELTA_BIN") {
        return Ok(path.into());
    }
    let us = std::env::current_exe()?;
    let profile = us.parent().and_then(Path::parent).context("folder of the test binary")?;
    let path = profile.join("blkdelta");
    if !path.exists() {
        bail!("{} is missing: cargo build -p collector --features failpoints", path.display());
    }
    Ok(path)
}

/// A private `BLKDELTA_HOME`; with its scratch folder go its pins.
#[derive(Debug)]
pub struct Home {
    path: PathBuf,
    environment: Vec<(String, String)>,
}

/// How a run of the binary ended.
#[derive(Debug)]
pub struct Ended {
    /// Exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Signal that ended it.
    pub signal: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Home {
    /// A new one in the scratch folder.
    pub fn new(scratch: &Scratch) -> Result<Self> {
        let path = scratch.fresh("home");
        std::fs::create_dir(&path)?;
        Ok(Self { path, environment: Vec::new() })
    }

    /// With this in the environment of every run.
    pub fn set(&mut self, name: &str, value: &str) {
        self.environment.retain(|(set, _)| set != name);
        self.environment.push((name.into(), value.into()));
    }

    /// What every run has in its environment by this name; empty: nothing.
    pub fn get(&self, name: &str) -> String {
        let set = self.environment.iter().find(|(set, _)| set == name);
        set.map(|(_, value)| value.clone()).unwrap_or_default()
    }

    /// One that several processes share, one after the other.
    pub fn at(path: &Path) -> Result<Self> {
        std::fs::create_dir_all(path)?;
        Ok(Self { path: path.into(), environment: Vec::new() })
    }

    /// The same instance after a reboot of its machine: what was in memory is gone, what lay in `lib` is there, and
    /// it is another boot.
    pub fn rebooted(&self, scratch: &Scratch) -> Result<Self> {
        let after = Self::new(scratch)?;
        let bpf = self.path.join("bpf");
        if bpf.exists() {
            run("umount", ["-l".as_ref(), bpf.as_os_str()])?;
        }
        run("mv", [self.path.join("lib"), after.path.join("lib")])?;
        let name = after.path.file_name().context("name of the home")?.to_owned();
        put(&after.path.join("boot"), name.as_encoded_bytes())?;
        Ok(after)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The binary with these words, not yet started.
    pub fn command<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Result<Command> {
        let mut command = Command::new(binary()?);
        command.args(words).env("BLKDELTA_HOME", &self.path).env_remove("BLKDELTA_FAILPOINT");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        die_with_us(&mut command);
        Ok(command)
    }

    /// Runs it to its end, whatever that is.
    pub fn run<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Result<Ended> {
        Ended::of(&mut self.command(words)?)
    }

    /// Runs it with a failpoint armed (`name`, `name=error`, `name@3`…).
    pub fn run_failing<S: AsRef<OsStr>>(
        &self,
        failpoint: &str,
        words: impl IntoIterator<Item = S>,
    ) -> Result<Ended> {
        Ended::of(self.command(words)?.env("BLKDELTA_FAILPOINT", failpoint))
    }

    /// Runs it; an error unless it exits with 0. Its standard output.
    pub fn ok<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Result<String> {
        let mut command = self.command(words)?;
        let ended = Ended::of(&mut command)?;
        if ended.code != Some(0) {
            bail!("{command:?}: {ended}");
        }
        Ok(ended.out)
    }

    /// Runs it with `--json` added; what it printed.
    pub fn json<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Result<Value> {
        let mut command = self.command(words)?;
        let ended = Ended::of(command.arg("--json"))?;
        if !matches!(ended.code, Some(0 | 3)) {
            bail!("{command:?}: {ended}");
        }
        serde_json::from_str(&ended.out).with_context(|| format!("{command:?} printed {:?}", ended.out))
    }

    /// Starts it, and comes back when it has stopped at a failpoint; [`Ended::after_stop`] lets it go on.
    pub fn stopped_at<S: AsRef<OsStr>>(
        &self,
        failpoint: &str,
        words: impl IntoIterator<Item = S>,
    ) -> Result<Child> {
        let mut command = self.command(words)?;
        let child = command.env("BLKDELTA_FAILPOINT", format!("{failpoint}=stop")).spawn()?;
        let stat = format!("/proc/{}/stat", child.id());
        let began = Instant::now();
        let stopped = || {
            std::fs::read_to_string(&stat)
                .is_ok_and(|s| s.rsplit(')').next().is_some_and(|s| s.starts_with(" T")))
        };
        while !stopped() {
            ensure!(began.elapsed() < Duration::from_secs(60), "it never came to {failpoint}");
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(child)
    }

    /// Starts it and leaves it running.
    pub fn start<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Result<Child> {
        self.command(words)?.spawn().context("start blkdelta")
    }
}

impl Ended {
    /// Runs `command` to its end.
    pub fn of(command: &mut Command) -> Result<Self> {
        Self::with(command.output().with_context(|| format!("run {command:?}"))?)
    }

    /// Lets a run that was stopped at a failpoint go on to its end.
    pub fn after_stop(child: Child) -> Result<Self> {
        run("kill", ["-CONT", &child.id().to_string()])?;
        Self::with(child.wait_with_output()?)
    }

    fn with(output: Output) -> Result<Self> {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(Self {
            code: output.status.code(),
            signal: output.status.signal(),
            out: text(output.stdout),
            err: text(output.stderr),
        })
    }

    /// An error unless it exited with `code`.
    pub fn expect(self, code: i32, what: &str) -> Result<Self> {
        if self.code == Some(code) { Ok(self) } else { bail!("{what}: wanted exit code {code}: {self}") }
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.code, self.signal) {
            (Some(code), _) => write!(f, "exit code {code}")?,
            (None, signal) => write!(f, "killed by signal {signal:?}")?,
        }
        write!(f, "; said: {} {}", self.out.trim(), self.err.trim())
    }
}
