//! Promise: the daemon loses no job and doubles none, whatever happens to it: killed, reloaded, its store away for a while,
//! a device gone, no space for its memory. What it made restores to what the devices hold.

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tests::device::{Loop, O_DIRECT, open_with, put};
use tests::host::{self, run, say};
use tests::image::{Aligned, Image, fill};
use tests::product::{Ended, Home};
use tests::protected::ensure_same;
use tests::random::Random;
use tests::scratch::Scratch;
use tests::skip_if;

/// So long is waited for what must happen; the machine may be slow.
const PATIENCE: Duration = Duration::from_secs(180);

/// A machine with a daemon.
struct Scene {
    scratch: Scratch,
    home: Home,
    repo: PathBuf,
    daemon: Option<Child>,
}

impl Scene {
    fn new(name: &str) -> Result<Self> {
        let scratch = Scratch::new(name)?;
        let home = Home::new(&scratch)?;
        let repo = scratch.fresh("repo");
        Ok(Self { scratch, home, repo, daemon: None })
    }

    /// One job a device, `job0` and so on, with these keys each.
    fn configure(&self, devices: &[&Path], head: &str, keys: &str) -> Result<()> {
        let mut text = format!("{head}\n[repository.r]\nlocation = {:?}\n", self.repo);
        for (n, device) in devices.iter().enumerate() {
            text += &format!(
                "[device.d{n}]\npath = {device:?}\n[job.job{n}]\ndevice = \"d{n}\"\nrepository = \"r\"\n{keys}\n"
            );
        }
        put(&self.home.path().join("config.toml"), text.as_bytes())
    }

    fn start(&mut self) -> Result<()> {
        ensure!(self.daemon.is_none(), "there is a daemon");
        let log = std::fs::File::create(self.scratch.path().join("daemon.log"))?;
        self.daemon = Some(self.home.command(["daemon"])?.stderr(log).spawn()?);
        self.wait("the daemon to answer", |scene| Ok(scene.status().is_ok()))
    }

    fn kill(&mut self) -> Result<()> {
        let mut child = self.daemon.take().context("no daemon")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// SIGTERM: an orderly end.
    fn stop(&mut self) -> Result<()> {
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

    fn status(&self) -> Result<Value> {
        self.home.json(["daemon", "status"])
    }

    fn wait(&self, what: &str, mut done: impl FnMut(&Self) -> Result<bool>) -> Result<()> {
        let give_up = Instant::now() + PATIENCE;
        while !done(self)? {
            if Instant::now() > give_up {
                bail!("waited in vain for {what}; status {:?}; log:\n{}", self.status().ok(), self.log());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    fn memory(&self, job: &str, key: &str) -> Result<u64> {
        let status = self.status()?;
        let jobs = status["jobs"].as_array().context("no jobs")?;
        let job = jobs.iter().find(|j| j["name"] == job).with_context(|| format!("no {job} in {status}"))?;
        Ok(job["memory"][key].as_u64().unwrap_or(0))
    }

    /// Waits until each of these jobs has succeeded `more` times from now on.
    fn successes(&self, jobs: &[&str], more: u64) -> Result<()> {
        for job in jobs {
            let wanted = self.memory(job, "successes")? + more;
            self.wait(&format!("{wanted} successes of {job}"), |scene| {
                Ok(scene.memory(job, "successes")? >= wanted)
            })?;
        }
        Ok(())
    }

    fn points(&self) -> Result<Vec<Value>> {
        let list = self.home.json(["list", "--repo", &self.repo.display().to_string()])?;
        Ok(list.as_array().context("no list")?.clone())
    }

    /// The last point of this device restores to what it holds now.
    fn ensure_restores(&self, device: &Path) -> Result<()> {
        let id = self.device_id(device)?;
        let target = self.scratch.fresh("restored");
        let (repo, out) = (self.repo.display().to_string(), target.display().to_string());
        self.home
            .run(["restore", "--repo", &repo, "--device", &id, "--point", "latest", &out])?
            .expect(0, "restore")?;
        ensure_same(&Image::of_file(&target)?, &Image::of(device)?, &device.display().to_string())
    }

    fn device_id(&self, device: &Path) -> Result<String> {
        let status = self.status()?;
        let runs =
            status["jobs"].as_array().into_iter().flatten().flat_map(|j| j["runs"].as_array()).flatten();
        let path = device.display().to_string();
        let id = runs.filter(|r| r["device"] == path.as_str()).find_map(|r| r["device_id"].as_str());
        id.filter(|id| !id.is_empty()).map(Into::into).context("no run of it")
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

/// Writes here and there until told to stop.
fn writer(device: &Path, mut random: Random, stop: &AtomicBool) -> Result<()> {
    let file = open_with(device, O_DIRECT)?;
    let blocks = tests::device::size_of(device)? / 4096;
    while !stop.load(Ordering::SeqCst) {
        let block = random.below(blocks);
        file.write_all_at(&Aligned::random(4096, &mut random), block * 4096)?;
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

#[test]
fn two_devices_every_second_through_kills_reloads_and_a_store_that_goes_away() -> Result<()> {
    const NAME: &str = "daemon::two_devices_every_second_through_kills_reloads_and_a_store_that_goes_away";
    skip_if!(host::no_tracking(), NAME);
    let mut random = Random::for_test(NAME);
    let mut scene = Scene::new("daemon")?;
    let disks = [Loop::new(&scene.scratch, "a", 24 << 20)?, Loop::new(&scene.scratch, "b", 24 << 20)?];
    disks.iter().try_for_each(|disk| fill(disk.path(), &mut random))?;
    let paths: Vec<PathBuf> = disks.iter().map(|d| d.path().to_owned()).collect();
    let paths: Vec<&Path> = paths.iter().map(PathBuf::as_path).collect();
    scene.configure(&paths, "[daemon]\nretry_first = \"1s\"\nretry_most = \"2s\"", "every = \"1s\"")?;
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| -> Result<()> {
        let writers: Vec<_> = paths
            .iter()
            .map(|path| {
                let (random, stop) = (random.fork(), &stop);
                scope.spawn(move || writer(path, random, stop))
            })
            .collect();
        let done = through_everything(&mut scene, &paths);
        stop.store(true, Ordering::SeqCst);
        writers.into_iter().try_for_each(|w| w.join().expect("a writer panicked"))?;
        done
    })?;
    // all is quiet: one more of each holds everything
    scene.successes(&["job0", "job1"], 2)?;
    scene.stop_jobs()?;
    paths.iter().try_for_each(|path| scene.ensure_restores(path))?;
    let repo = scene.repo.display().to_string();
    scene.home.run(["check", "--repo", &repo, "--read-data"])?.expect(0, "check")?;
    let points = scene.points()?;
    let fulls = points.iter().filter(|p| p["kind"] == "full").count();
    ensure!(fulls == 2, "{fulls} fulls of 2 devices: a disturbance cost a full");
    say(&format!("  {} points of two devices, 2 of them full", points.len()));
    scene.stop()
}

impl Scene {
    /// No more runs, none under way.
    fn stop_jobs(&self) -> Result<()> {
        self.home.run(["daemon", "pause"])?;
        self.wait("the last runs to end", |scene| {
            Ok(scene.memory("job0", "running")? == 0 && scene.memory("job1", "running")? == 0)
        })
    }
}

fn through_everything(scene: &mut Scene, paths: &[&Path]) -> Result<()> {
    let both = ["job0", "job1"];
    scene.start()?;
    scene.successes(&both, 3)?;
    let second = scene.home.run(["daemon"])?;
    ensure!(second.code == Some(1) && second.err.contains("at work"), "a second daemon: {second}");
    for _ in 0..3 {
        scene.kill()?;
        scene.start()?;
        scene.successes(&both, 1)?;
    }
    scene.stop()?;
    scene.start()?;
    scene.successes(&both, 1)?;
    reload(scene, paths)?;
    store_away(scene)?;
    scene.successes(&both, 2)
}

/// A file with a mistake changes nothing; a good one is taken over while jobs run.
fn reload(scene: &Scene, paths: &[&Path]) -> Result<()> {
    let file = scene.home.path().join("config.toml");
    let good = std::fs::read(&file)?;
    put(&file, b"[daemon]\nat_once = 0\n")?;
    let refused = scene.home.run(["daemon", "reload"])?;
    ensure!(refused.code == Some(2) && refused.err.contains("line 2"), "a mistake was accepted: {refused}");
    scene.successes(&["job0", "job1"], 1)?;
    put(&file, &good)?;
    let marks = scene.scratch.path().join("marks");
    let keys =
        format!("every = \"1s\"\npost = \"echo $BLKDELTA_JOB $BLKDELTA_RESULT >> {}\"", marks.display());
    scene.configure(paths, "[daemon]\nretry_first = \"1s\"\nretry_most = \"2s\"", &keys)?;
    scene.home.ok(["daemon", "reload"])?;
    scene.wait("the new hook", |_| {
        let text = std::fs::read_to_string(&marks).unwrap_or_default();
        Ok(text.contains("job0 ok") && text.contains("job1 ok"))
    })
}

/// Nothing is made in its place, and it goes on with an increment.
fn store_away(scene: &Scene) -> Result<()> {
    let away = scene.repo.with_extension("away");
    rename(&scene.repo, &away)?;
    scene.wait("both jobs to fail", |scene| {
        Ok(scene.memory("job0", "failures")? >= 2 && scene.memory("job1", "failures")? >= 2)
    })?;
    ensure!(!scene.repo.join("repo.json").exists(), "a new repository was made where the old one should be");
    let status = scene.home.run(["daemon", "status"])?;
    ensure!(status.code == Some(3) && status.out.contains("again in"), "status: {status}");
    // a run that had the old folder open may have left an empty one
    let _ = std::fs::remove_dir_all(&scene.repo);
    rename(&away, &scene.repo)?;
    scene.wait("both jobs to succeed", |scene| {
        Ok(scene.memory("job0", "failures")? == 0 && scene.memory("job1", "failures")? == 0)
    })
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    run("mv", [from, to]).map(drop)
}

#[test]
fn a_device_that_vanishes_holds_up_no_other_and_comes_back() -> Result<()> {
    const NAME: &str = "daemon::a_device_that_vanishes_holds_up_no_other_and_comes_back";
    skip_if!(host::no_tracking(), NAME);
    let mut random = Random::for_test(NAME);
    let mut scene = Scene::new("daemon-gone")?;
    let stays = Loop::new(&scene.scratch, "stays", 8 << 20)?;
    let goes = Loop::new(&scene.scratch, "goes", 8 << 20)?;
    fill(goes.path(), &mut random)?;
    let node = goes.path().to_owned();
    scene.configure(
        &[stays.path(), &node],
        "[daemon]\nretry_first = \"1s\"\nretry_most = \"1s\"",
        "every = \"1s\"",
    )?;
    scene.start()?;
    scene.successes(&["job0", "job1"], 1)?;
    let backing = goes.backing().to_owned();
    goes.detach()?;
    scene.wait("its job to fail", |scene| Ok(scene.memory("job1", "failures")? >= 2))?;
    scene.successes(&["job0"], 2)?;
    let back = Loop::at(&node, &backing).context("attach it again")?;
    scene.wait("its job to succeed", |scene| Ok(scene.memory("job1", "failures")? == 0))?;
    scene.stop_jobs()?;
    scene.ensure_restores(back.path())?;
    scene.stop()
}

#[test]
fn no_space_for_its_memory_stops_no_backup() -> Result<()> {
    const NAME: &str = "daemon::no_space_for_its_memory_stops_no_backup";
    skip_if!(host::no_tracking(), NAME);
    let mut scene = Scene::new("daemon-full")?;
    let disk = Loop::new(&scene.scratch, "disk", 8 << 20)?;
    let folder = scene.home.path().join("lib/daemon");
    std::fs::create_dir_all(&folder)?;
    run(
        "mount",
        [
            "-t".as_ref(),
            "tmpfs".as_ref(),
            "-o".as_ref(),
            "size=256k".as_ref(),
            "none".as_ref(),
            folder.as_os_str(),
        ],
    )?;
    scene.configure(&[disk.path()], "", "every = \"1s\"")?;
    scene.start()?;
    scene.successes(&["job0"], 1)?;
    let hog = folder.join("hog");
    let mut file = std::fs::File::create(&hog)?;
    while file.write_all(&[1; 4096]).is_ok() {}
    scene.wait("it to say so", |scene| Ok(scene.status()?["unwritten"].as_str().is_some()))?;
    scene.successes(&["job0"], 3)?;
    std::fs::remove_file(&hog)?;
    scene.wait("it to be well again", |scene| Ok(scene.status()?["unwritten"].is_null()))?;
    scene.stop()
}

#[test]
fn a_job_runs_without_a_daemon_with_its_hooks_and_its_retention() -> Result<()> {
    const NAME: &str = "daemon::a_job_runs_without_a_daemon_with_its_hooks_and_its_retention";
    skip_if!(host::no_tracking(), NAME);
    let scene = Scene::new("daemon-run")?;
    let disk = Loop::new(&scene.scratch, "disk", 8 << 20)?;
    let marks = scene.scratch.path().join("marks");
    let say = |what: &str| {
        format!(
            "echo {what} $BLKDELTA_JOB $BLKDELTA_RESULT ${{BLKDELTA_POINT:+point}} >> {}",
            marks.display()
        )
    };
    let keys = |pre: &str| {
        format!("pre = {:?}\npost = {:?}\nkeep_last = 2\nprune_every = \"1ms\"", pre, say("post"))
    };
    scene.configure(&[disk.path()], "", &keys(&say("pre")))?;
    for _ in 0..4 {
        let report = scene.home.json(["run", "job0"])?;
        ensure!(report["result"] == "ok" && report["point"].is_string(), "{report}");
    }
    let text = std::fs::read_to_string(&marks)?;
    ensure!(text == "pre job0\npost job0 ok point\n".repeat(4), "hooks: {text:?}");
    ensure!(scene.points()?.len() == 2, "keep_last 2: {:?}", scene.points()?);
    for (pre, why) in [("exit 7", "exit status: 7"), ("sleep 600", "not done after")] {
        std::fs::remove_file(&marks)?;
        scene.configure(&[disk.path()], "", &(keys(pre) + "\npre_limit = \"300ms\""))?;
        let failed = scene.home.run(["run", "job0"])?.expect(1, "a pre command that fails")?;
        ensure!(failed.err.contains(why) && failed.err.contains("no backup"), "{failed}");
        ensure!(std::fs::read_to_string(&marks)? == "post job0 failed\n", "post must run all the same");
    }
    ensure!(scene.points()?.len() == 2, "a backup was made although pre failed");
    scene.home.run(["run", "other"])?.expect(2, "an unknown job")?;
    Ok(())
}

/// What a client gets at a unix socket.
fn fetch(socket: &Path, head: &str) -> Result<String> {
    let mut stream =
        UnixStream::connect(socket).with_context(|| format!("connect to {}", socket.display()))?;
    stream.write_all(format!("{head}\r\nhost: localhost\r\n\r\n").as_bytes())?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    Ok(said)
}

#[test]
fn metrics_and_page_show_what_there_is_to_who_may_see_it() -> Result<()> {
    const NAME: &str = "daemon::metrics_and_page_show_what_there_is_to_who_may_see_it";
    skip_if!(host::no_tracking(), NAME);
    let mut scene = Scene::new("daemon-page")?;
    let disk = Loop::new(&scene.scratch, "disk", 8 << 20)?;
    fill(disk.path(), &mut Random::for_test(NAME))?;
    let at = |name: &str| scene.home.path().join(name);
    let (metrics, page, token) = (at("metrics.sock"), at("page.sock"), at("token"));
    put(&token, b"0123456789abcdef0123\n")?;
    let head = format!(
        "[daemon]\nmetrics = \"unix:{}\"\npage = \"unix:{}\"\npage_token_file = {token:?}",
        metrics.display(),
        page.display()
    );
    scene.configure(&[disk.path()], &head, "every = \"1s\"")?;
    scene.start()?;
    scene.successes(&["job0"], 3)?;
    for socket in [&metrics, &page] {
        ensure!(std::fs::metadata(socket)?.permissions().mode() & 0o77 == 0, "others may connect");
    }
    let text = fetch(&metrics, "GET /metrics HTTP/1.1")?;
    let device = disk.path().display();
    for wanted in [
        "HTTP/1.1 200",
        "application/openmetrics-text",
        "blkdelta_job_runs_total{job=\"job0\",result=\"ok\"}",
        &format!("blkdelta_device_suspect{{device=\"{device}\"}} 0"),
        "# EOF\n",
    ] {
        ensure!(text.contains(wanted), "{wanted:?} is not in {text}");
    }
    parsed_by_prometheus(&text, &scene.scratch)?;
    ensure!(fetch(&page, "GET / HTTP/1.1")?.starts_with("HTTP/1.1 401"), "shown without the token");
    let wrong = fetch(&page, "GET / HTTP/1.1\r\nauthorization: Bearer 0123456789abcdef0124")?;
    ensure!(wrong.starts_with("HTTP/1.1 401") && !wrong.contains(&device.to_string()), "{wrong}");
    let shown = fetch(&page, "GET / HTTP/1.1\r\nauthorization: Bearer 0123456789abcdef0123")?;
    for wanted in ["HTTP/1.1 200", &device.to_string(), "<svg", "every 1s", "Nothing needs attention"] {
        ensure!(shown.contains(wanted), "{wanted:?} is not in {shown}");
    }
    let html = shown.split_once("\r\n\r\n").context("no body")?.1;
    screenshots(NAME, html, &scene.scratch)?;
    scene.stop()
}

/// Prometheus' own parser accepts the text.
fn parsed_by_prometheus(text: &str, scratch: &Scratch) -> Result<()> {
    const NAME: &str = "daemon::metrics_and_page_show_what_there_is_to_who_may_see_it: prometheus_client";
    if run("python3", ["-c", "import prometheus_client"]).is_err() {
        host::skipped(NAME, "no Python package prometheus_client");
        return Ok(());
    }
    let file = scratch.path().join("metrics.txt");
    put(&file, text.split_once("\r\n\r\n").context("no body")?.1.as_bytes())?;
    let program = "import sys; from prometheus_client.openmetrics import parser; \
        f = list(parser.text_string_to_metric_families(open(sys.argv[1]).read())); print(len(f)); assert len(f) > 15";
    let families = run("python3", ["-c".as_ref(), program.as_ref(), file.as_os_str()])?;
    say(&format!("  {families} families, as Prometheus' own parser reads them"));
    Ok(())
}

/// The page in a browser: light, dark, narrow. Pictures are kept where `BLKDELTA_SHOTS` says.
fn screenshots(test: &str, html: &str, scratch: &Scratch) -> Result<()> {
    let name = format!("{test}: screenshots");
    let browsers = ["chromium", "chromium-browser", "google-chrome"];
    let Some(browser) = browsers.into_iter().find(|b| run(b, ["--version"]).is_ok()) else {
        host::skipped(&name, "no Chromium");
        return Ok(());
    };
    let file = scratch.path().join("page.html");
    put(&file, html.as_bytes())?;
    let folder = std::env::var_os("BLKDELTA_SHOTS").map_or_else(|| scratch.path().to_owned(), PathBuf::from);
    let dark = "--blink-settings=preferredColorScheme=0";
    for (name, size, more) in [
        ("light", "1200,1000", "--blink-settings=preferredColorScheme=1"),
        ("dark", "1200,1000", dark),
        ("narrow", "500,1400", dark),
    ] {
        let shot = folder.join(format!("page-{name}.png"));
        let profile = scratch.fresh("profile");
        let mut command = Command::new(browser);
        command.args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--disable-dev-shm-usage",
            more,
        ]);
        command.arg(format!("--window-size={size}")).arg(format!("--screenshot={}", shot.display()));
        command
            .arg(format!("--user-data-dir={}", profile.display()))
            .arg(format!("file://{}", file.display()));
        let ended = Ended::of(&mut command)?;
        let bytes = std::fs::metadata(&shot).map_or(0, |meta| meta.len());
        ensure!(bytes > 5000, "{name}: {bytes} bytes: {ended}");
    }
    Ok(())
}
