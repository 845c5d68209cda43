//! Promise: the daemon loses no job and doubles none, whatever happens to it: killed, reloaded, its store away for a while,
//! a device gone, no space for its memory. What it made restores to what the devices hold.

use anyhow::{Context, Result, ensure};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tests::daemon::Scene;
use tests::device::{Loop, Mounted, O_DIRECT, open_with, put};
use tests::files::KINDS;
use tests::host::{self, run, say};
use tests::image::{Aligned, fill};
use tests::product::Ended;
use tests::random::Random;
use tests::skip_if;

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

/// A run looks whether the repository is there, and opens it: in between it may be unmounted or moved.
#[test]
fn a_repository_that_vanishes_when_a_run_has_just_seen_it_is_not_made_anew() -> Result<()> {
    const NAME: &str = "daemon::a_repository_that_vanishes_when_a_run_has_just_seen_it_is_not_made_anew";
    skip_if!(host::no_tracking(), NAME);
    let scene = Scene::new("daemon-vanish")?;
    let disk = Loop::new(&scene.scratch, "disk", 8 << 20)?;
    let files = scene.scratch.fresh("files");
    std::fs::create_dir(&files)?;
    put(&files.join("file"), b"content")?;
    let group = format!("[group.g]\npaths = [{files:?}]\n[job.files]\ngroup = \"g\"\nrepository = \"r\"\n");
    scene.configure(&[disk.path()], &group, "")?;
    let away = scene.repo.with_extension("away");
    for job in ["job0", "files"] {
        scene.home.ok(["run", job])?;
        let child = scene.home.stopped_at("run.known", ["run", job])?;
        rename(&scene.repo, &away)?;
        let ended = Ended::after_stop(child)?.expect(1, job)?;
        ensure!(!scene.repo.exists(), "{job}: something was made where the repository was: {ended}");
        rename(&away, &scene.repo)?;
        let report = scene.home.json(["run", job])?;
        ensure!(report["kind"] == "incremental", "{job}: {report}");
    }
    Ok(())
}

/// A host with a write key, another repository with a passphrase: neither is in the environment.
#[test]
fn jobs_open_encrypted_repositories_with_the_keys_of_the_configuration() -> Result<()> {
    const NAME: &str = "daemon::jobs_open_encrypted_repositories_with_the_keys_of_the_configuration";
    skip_if!(host::no_tracking(), NAME);
    let mut scene = Scene::new("daemon-keys")?;
    let disk = Loop::new(&scene.scratch, "disk", 8 << 20)?;
    let [owner, write, words] = ["owner", "write", "words"].map(|name| scene.scratch.fresh(name));
    let [owner, write] = [owner, write].map(|path| path.display().to_string());
    put(&words, b"open sesame\n")?;
    run("chmod", ["600".as_ref(), words.as_os_str()])?;
    let public = scene.home.ok(["key", "generate", &owner])?;
    let [keyed, worded] = ["keyed", "worded"].map(|name| scene.scratch.fresh(name).display().to_string());
    scene.home.ok(["init", &keyed, "--recipient", public.trim(), "--write-key", &write])?;
    scene.home.ok(["init", &worded, "--encrypt", "--passphrase-file", &words.display().to_string()])?;
    let text = format!(
        "[repository.keyed]\nlocation = {keyed:?}\nkey_file = {write:?}\n\
         [repository.worded]\nlocation = {worded:?}\npassphrase_file = {words:?}\n\
         [device.d]\npath = {:?}\n\
         [job.keyed]\ndevice = \"d\"\nrepository = \"keyed\"\nevery = \"1s\"\n\
         [job.worded]\ndevice = \"d\"\nrepository = \"worded\"\nevery = \"1s\"\n",
        disk.path()
    );
    put(&scene.home.path().join("config.toml"), text.as_bytes())?;
    for job in ["keyed", "worded"] {
        let report = scene.home.json(["run", job])?;
        ensure!(report["result"] == "ok", "{job}: {report}");
    }
    scene.start()?;
    scene.successes(&["keyed", "worded"], 1)?;
    scene.stop()
}

/// A group lies on a device: their jobs are never at work at the same time, and neither fails for that.
#[test]
fn jobs_of_a_device_and_of_a_group_on_it_wait_for_each_other() -> Result<()> {
    const NAME: &str = "daemon::jobs_of_a_device_and_of_a_group_on_it_wait_for_each_other";
    skip_if!(host::no_tracking(), NAME);
    skip_if!(host::no_filesystem("ext4"), NAME);
    let scene = Scene::new("daemon-waits")?;
    let disk = Loop::new(&scene.scratch, "disk", 32 << 20)?;
    KINDS[0].make(disk.path())?;
    let mounted = Mounted::new(&scene.scratch, disk.path(), "")?;
    let folder = mounted.point().join("files");
    std::fs::create_dir(&folder)?;
    put(&folder.join("file"), b"content")?;
    let group = format!("[group.g]\npaths = [{folder:?}]\n[job.files]\ngroup = \"g\"\nrepository = \"r\"\n");
    scene.configure(&[disk.path()], &group, "")?;
    scene.home.ok(["run", "job0"])?;
    scene.home.ok(["run", "files"])?;
    for (first, second) in [("job0", "files"), ("files", "job0")] {
        // the first one holds the device
        let step = if first == "files" { "group.after-cut" } else { "job.after-cut" };
        let stopped = scene.home.stopped_at(step, ["run", first])?;
        let mut waiting = scene.home.start(["run", second])?;
        std::thread::sleep(Duration::from_millis(500));
        ensure!(waiting.try_wait()?.is_none(), "{second} did not wait");
        Ended::after_stop(stopped)?.expect(0, first)?;
        Ended::after_stop(waiting)?.expect(0, second)?;
    }
    Ok(())
}

/// What systemd wants to hear of a service of `Type=notify` with a watchdog.
#[test]
fn systemd_is_told_that_it_is_ready_alive_and_stopping() -> Result<()> {
    const NAME: &str = "daemon::systemd_is_told_that_it_is_ready_alive_and_stopping";
    skip_if!(host::no_devices(), NAME);
    let mut scene = Scene::new("daemon-notify")?;
    let path = scene.scratch.path().join("notify");
    let socket = UnixDatagram::bind(&path)?;
    socket.set_read_timeout(Some(Duration::from_secs(60)))?;
    scene.home.set("NOTIFY_SOCKET", &path.display().to_string());
    scene.home.set("WATCHDOG_USEC", "600000");
    scene.configure(&[], "", "")?;
    scene.start()?;
    hear(&socket, "READY=1")?;
    hear(&socket, "WATCHDOG=1")?;
    hear(&socket, "WATCHDOG=1")?;
    scene.stop()?;
    hear(&socket, "STOPPING=1")
}

fn hear(socket: &UnixDatagram, wanted: &str) -> Result<()> {
    let mut buffer = [0; 512];
    loop {
        let length = socket.recv(&mut buffer).with_context(|| format!("{wanted} was not said"))?;
        let said = String::from_utf8_lossy(&buffer[..length]);
        if said.lines().any(|line| line == wanted) {
            return Ok(());
        }
    }
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
    drop(file);
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
