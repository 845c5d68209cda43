//! A machine with a daemon: its configuration, its life, and what it says of itself.

use crate::device::put;
use crate::host::run;
use crate::image::Image;
use crate::product::Home;
use crate::protected::ensure_same;
use crate::scratch::Scratch;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

/// So long is waited for what must happen; the machine may be slow.
const PATIENCE: Duration = Duration::from_secs(180);

/// A machine with a daemon.
#[derive(Debug)]
pub struct Scene {
    /// Its folder.
    pub scratch: Scratch,
    /// Where its pins and state are.
    pub home: Home,
    /// The repository of all jobs.
    pub repo: PathBuf,
    daemon: Option<Child>,
}

impl Scene {
    /// One without jobs.
    pub fn new(name: &str) -> Result<Self> {
        let scratch = Scratch::new(name)?;
        let home = Home::new(&scratch)?;
        let repo = scratch.fresh("repo");
        Ok(Self { scratch, home, repo, daemon: None })
    }

    /// One job a device, `job0` and so on, with these keys each.
    pub fn configure(&self, devices: &[&Path], head: &str, keys: &str) -> Result<()> {
        let mut text = format!("{head}\n[repository.r]\nlocation = {:?}\n", self.repo);
        for (n, device) in devices.iter().enumerate() {
            text += &format!(
                "[device.d{n}]\npath = {device:?}\n[job.job{n}]\ndevice = \"d{n}\"\nrepository = \"r\"\n{keys}\n"
            );
        }
        put(&self.home.path().join("config.toml"), text.as_bytes())
    }

    /// Starts it, and waits until it answers.
    pub fn start(&mut self) -> Result<()> {
        ensure!(self.daemon.is_none(), "there is a daemon");
        let log = std::fs::File::create(self.scratch.path().join("daemon.log"))?;
        self.daemon = Some(self.home.command(["daemon"])?.stderr(log).spawn()?);
        self.wait("the daemon to answer", |scene| Ok(scene.status().is_ok()))
    }

    /// SIGKILL.
    pub fn kill(&mut self) -> Result<()> {
        let mut child = self.daemon.take().context("no daemon")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// SIGTERM: an orderly end.
    pub fn stop(&mut self) -> Result<()> {
        let mut child = self.daemon.take().context("no daemon")?;
        run("kill", ["-TERM", &child.id().to_string()])?;
        let status = child.wait()?;
        ensure!(status.success(), "the daemon ended with {status}: {}", self.log());
        Ok(())
    }

    fn log(&self) -> String {
        let text = std::fs::read_to_string(self.scratch.path().join("daemon.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// What it says.
    pub fn status(&self) -> Result<Value> {
        self.home.json(["daemon", "status"])
    }

    /// Waits for `done`; an error with what is known if it does not come.
    pub fn wait(&self, what: &str, mut done: impl FnMut(&Self) -> Result<bool>) -> Result<()> {
        let give_up = Instant::now() + PATIENCE;
        while !done(self)? {
            if Instant::now() > give_up {
                bail!("waited in vain for {what}; status {:?}; log:\n{}", self.status().ok(), self.log());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// A number that the scheduler keeps of a job.
    pub fn memory(&self, job: &str, key: &str) -> Result<u64> {
        let status = self.status()?;
        let jobs = status["jobs"].as_array().context("no jobs")?;
        let job = jobs.iter().find(|j| j["name"] == job).with_context(|| format!("no {job} in {status}"))?;
        Ok(job["memory"][key].as_u64().unwrap_or(0))
    }

    /// Waits until each of these jobs has succeeded `more` times from now on.
    pub fn successes(&self, jobs: &[&str], more: u64) -> Result<()> {
        for job in jobs {
            let wanted = self.memory(job, "successes")? + more;
            self.wait(&format!("{wanted} successes of {job}"), |scene| {
                Ok(scene.memory(job, "successes")? >= wanted)
            })?;
        }
        Ok(())
    }

    /// All points of the repository.
    pub fn points(&self) -> Result<Vec<Value>> {
        let list = self.home.json(["list", "--repo", &self.repo.display().to_string()])?;
        Ok(list.as_array().context("no list")?.clone())
    }

    /// No more runs, none under way.
    pub fn stop_jobs(&self) -> Result<()> {
        self.home.run(["daemon", "pause"])?;
        self.wait("the last runs to end", |scene| {
            let status = scene.status()?;
            Ok(status["jobs"].as_array().into_iter().flatten().all(|job| job["memory"]["running"].is_null()))
        })
    }

    /// The last point of this device restores to what it holds now.
    pub fn ensure_restores(&self, device: &Path) -> Result<()> {
        let id = self.device_id(device)?;
        let target = self.scratch.fresh("restored");
        let (repo, out) = (self.repo.display().to_string(), target.display().to_string());
        let words = ["restore", "--repo", &repo, "--device", &id, "--point", "latest", &out];
        let ended = self.home.run(words)?;
        // 3: the point is suspect; whether it is right all the same is what is looked at here
        ensure!(matches!(ended.code, Some(0 | 3)), "restore: {ended}");
        ensure_same(&Image::of_file(&target)?, &Image::of(device)?, &device.display().to_string())
    }

    fn device_id(&self, device: &Path) -> Result<String> {
        let status = self.status()?;
        let runs =
            status["jobs"].as_array().into_iter().flatten().flat_map(|j| j["runs"].as_array()).flatten();
        let path = device.display().to_string();
        let mut ids = runs.filter(|r| r["device"] == path.as_str()).filter_map(|r| r["device_id"].as_str());
        ids.find(|id| !id.is_empty()).map(Into::into).context("no run of it")
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if let Some(mut child) = self.daemon.take() {
            let _ = child.kill();
            let _ = child.wait();
            // its runs get SIGTERM when it is gone
            std::thread::sleep(Duration::from_millis(500));
        }
    }
}
