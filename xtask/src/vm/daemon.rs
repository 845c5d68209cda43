//! `cargo xtask vm --daemon`: `blkdelta-daemon.service` as it is shipped, under a real systemd: what the unit allows is
//! enough for jobs and their hooks, and the daemon keeps what it promises when it is reloaded, restarted, killed or hangs.

use super::guest::Guest;
use super::scene::{Scene, restores, sh, until, write};
use crate::rig::process::sleep;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::time::Duration;

const UNIT: &str = "blkdelta-daemon.service";
/// For what must happen.
const PATIENCE: Duration = Duration::from_secs(240);
/// WatchdogSec of the unit.
const WATCHDOG: Duration = Duration::from_secs(30);

/// `slow` takes a second for each MiB.
const CONFIGURATION: &str = r#"cat >/etc/blkdelta/config.toml <<'END'
[daemon]
retry_first = "1s"
[repository.main]
location = "/store/repo"
[repository.slow]
location = "/store/slow"
bandwidth = "1MiB/s"
[device.data]
path = "/dev/disk/by-id/virtio-data"
[group.tree]
paths = ["/data/tree"]
[job.data]
device = "data"
repository = "main"
[job.slow]
device = "data"
repository = "slow"
[job.tree]
group = "tree"
repository = "main"
pre = "grep -e CapEff -e NoNewPrivs /proc/self/status >/store/hooks"
post = "echo $BLKDELTA_JOB $BLKDELTA_RESULT >>/store/hooks"
END"#;

impl Scene {
    /// All of it.
    pub fn daemon(&mut self) -> Result<()> {
        let mut guest = self.installed()?;
        self.starts(&mut guest)?;
        self.device_job(&mut guest)?;
        self.group_job(&mut guest)?;
        self.reload(&mut guest)?;
        self.restart_in_the_midst(&mut guest)?;
        self.kill_in_the_midst(&mut guest)?;
        self.watchdog(&mut guest)?;
        guest.kill()
    }

    fn starts(&mut self, guest: &mut Guest) -> Result<()> {
        sh(guest, CONFIGURATION)?;
        sh(guest, &format!("blkdelta config check && systemctl enable --now {UNIT}"))?;
        let state = show(guest, "ActiveState,StatusText,WatchdogUSec,Type")?;
        ensure!(
            state.contains("active") && state.contains("3 jobs") && state.contains("notify"),
            "it is {state}"
        );
        ensure!(state.contains("30s"), "its watchdog: {state}");
        self.see("`systemctl enable --now blkdelta-daemon` returns when it is ready (`Type=notify`, status \"3 jobs\")");
        Ok(())
    }

    fn device_job(&mut self, guest: &mut Guest) -> Result<()> {
        write(guest, "a")?;
        asked(guest, "data", 1)?;
        write(guest, "b")?;
        sh(guest, "systemctl stop data.mount")?;
        let run = asked(guest, "data", 2)?;
        ensure!(run["result"] == "ok" && run["kind"] == "incremental", "the second run: {run}");
        restores(guest, run["point"].as_str().context("the point's id")?)?;
        sh(guest, "systemctl start data.mount")?;
        let fields = "journalctl -b BLKDELTA_JOB=data BLKDELTA_RESULT=ok -o json | tail -n 1";
        let record: Value = serde_json::from_str(&sh(guest, fields)?).context("read the journal")?;
        let whole = record["BLKDELTA_POINT"] == run["point"] && record["_SYSTEMD_UNIT"] == UNIT;
        ensure!(whole && record["BLKDELTA_STORED_BYTES"].is_string(), "its record: {record}");
        self.see(
            "a device job under the unit's hardening starts tracking, makes a full and an incremental, and what it made restores to \
             exactly what the disk holds; `journalctl BLKDELTA_JOB=data BLKDELTA_RESULT=ok` finds the run with its point",
        );
        Ok(())
    }

    fn group_job(&mut self, guest: &mut Guest) -> Result<()> {
        sh(guest, "mkdir /data/tree && dd if=/dev/urandom of=/data/tree/file bs=64k count=20 2>/dev/null")?;
        let run = asked(guest, "tree", 1)?;
        ensure!(run["result"] == "ok", "the group's run: {run}");
        let hooks = sh(guest, "cat /store/hooks")?;
        let words: Vec<&str> = hooks.split_whitespace().collect();
        let ["CapEff:", set, "NoNewPrivs:", "1", "tree", "ok"] = words.as_slice() else {
            anyhow::bail!("the hooks wrote {hooks}")
        };
        sh(guest, "blkdelta restore --repo /store/repo --group tree --point latest --into /store/back")?;
        sh(guest, "cmp /store/back/data/tree/file /data/tree/file && rm -r /store/back")?;
        self.see(format!(
            "a group job with hooks: the file comes back as it was, `pre` and `post` ran, with capabilities {set} and no way to more"
        ));
        Ok(())
    }

    fn reload(&mut self, guest: &mut Guest) -> Result<()> {
        let pid = show(guest, "MainPID")?;
        let more = "[job.more]\ndevice = \"data\"\nrepository = \"main\"";
        sh(guest, &format!("echo '{more}' >>/etc/blkdelta/config.toml && systemctl reload {UNIT}"))?;
        ensure!(job(guest, "more")?.is_object(), "the job that was added is not there");
        let wrong = format!(
            "echo 'evrey = 1' >>/etc/blkdelta/config.toml; systemctl reload {UNIT} && echo taken; true"
        );
        let said = sh(guest, &wrong)?;
        ensure!(!said.contains("taken") && job(guest, "more")?.is_object(), "a mistake was taken: {said}");
        sh(guest, CONFIGURATION)?;
        sh(guest, &format!("systemctl reload {UNIT}"))?;
        ensure!(job(guest, "more")?.is_null() && show(guest, "MainPID")? == pid, "after the reloads");
        self.see("`systemctl reload` takes a changed configuration, and fails for one with a mistake, which changes nothing");
        Ok(())
    }

    fn restart_in_the_midst(&mut self, guest: &mut Guest) -> Result<()> {
        self.midst(guest, "slow", |guest| sh(guest, &format!("systemctl restart {UNIT}")).map(drop))?;
        self.see("`systemctl restart` in the midst of a run: it ends, and is made up after the start");
        Ok(())
    }

    fn kill_in_the_midst(&mut self, guest: &mut Guest) -> Result<()> {
        let before = restarts(guest)?;
        for name in ["c", "d", "e"] {
            write(guest, name)?;
        }
        self.midst(guest, "slow", |guest| {
            sh(guest, &format!("systemctl kill --kill-whom=main --signal=KILL {UNIT}")).map(drop)
        })?;
        ensure!(restarts(guest)? == before + 1, "restarts: {before} and {}", restarts(guest)?);
        let last = last_run(&job(guest, "slow")?);
        ensure!(last["kind"] == "incremental" && last["result"] == "ok", "made up: {last}");
        self.see("its main process killed in the midst of a run: systemd starts it anew (`Restart=always`), the run is made up");
        Ok(())
    }

    /// A run is asked for, disturbed, and made up.
    fn midst(
        &mut self,
        guest: &mut Guest,
        name: &str,
        disturb: impl Fn(&mut Guest) -> Result<()>,
    ) -> Result<()> {
        let successes = successes(&job(guest, name)?);
        let began = starts_of(guest, name)?;
        write(guest, "f")?;
        write(guest, "g")?;
        sh(guest, &format!("blkdelta daemon run {name}"))?;
        until_job(guest, name, |job| job["memory"]["running"].is_u64())?;
        sleep(Duration::from_secs(2))?;
        let now = job(guest, name)?;
        ensure!(now["memory"]["running"].is_u64(), "there is no midst, it was too fast: {now}");
        disturb(guest)?;
        let done = until_job(guest, name, |job| {
            self::successes(job) > successes && job["memory"]["running"].is_null()
        })?;
        let starts = starts_of(guest, name)?;
        ensure!(starts >= began + 2, "{name} started {} times: {done}", starts - began);
        let run = last_run(&done);
        ensure!(run["result"] == "ok", "made up: {run}");
        Ok(())
    }

    fn watchdog(&mut self, guest: &mut Guest) -> Result<()> {
        let before = restarts(guest)?;
        sleep(WATCHDOG + Duration::from_secs(15))?;
        ensure!(restarts(guest)? == before, "it was restarted while it did nothing");
        sh(guest, &format!("systemctl kill --kill-whom=main --signal=STOP {UNIT}"))?;
        let count = format!("systemctl show -P NRestarts {UNIT}");
        until(guest, &count, PATIENCE, |said| said.trim().parse::<u64>().is_ok_and(|count| count > before))?;
        let said = sh(guest, &format!("journalctl -b -u {UNIT} -o cat | grep -c 'Watchdog timeout'; true"))?;
        ensure!(said == "1", "watchdog timeouts in the journal: {said}");
        until_job(guest, "data", Value::is_object)?;
        let wanted = successes(&job(guest, "data")?) + 1;
        asked(guest, "data", wanted)?;
        self.see("idle for longer than `WatchdogSec=30s` it is left alone; one that hangs (SIGSTOP) is ended and started anew, and runs its jobs");
        Ok(())
    }
}

fn show(guest: &mut Guest, what: &str) -> Result<String> {
    sh(guest, &format!("systemctl show -p {what} {UNIT}"))
}

fn restarts(guest: &mut Guest) -> Result<u64> {
    let said = sh(guest, &format!("systemctl show -P NRestarts {UNIT}"))?;
    said.trim().parse().with_context(|| format!("NRestarts: {said}"))
}

/// How often runs of a job began in this boot.
fn starts_of(guest: &mut Guest, name: &str) -> Result<u64> {
    let said =
        sh(guest, &format!("journalctl -b BLKDELTA_JOB={name} -o cat | grep -c '{name}: starts'; true"))?;
    said.trim().parse().with_context(|| format!("starts of {name}: {said}"))
}

/// What the daemon says of a job; null if it knows none, or does not answer.
fn job(guest: &mut Guest, name: &str) -> Result<Value> {
    let said = sh(guest, "blkdelta daemon status --json 2>/dev/null; true")?;
    Ok(of_status(&said, name))
}

fn of_status(said: &str, name: &str) -> Value {
    let shown: Value = serde_json::from_str(said).unwrap_or_default();
    let mut jobs = shown["jobs"].as_array().into_iter().flatten();
    jobs.find(|job| job["name"] == name).cloned().unwrap_or_default()
}

fn until_job(guest: &mut Guest, name: &str, good: impl Fn(&Value) -> bool) -> Result<Value> {
    let ask = "blkdelta daemon status --json 2>/dev/null; true";
    let said = until(guest, ask, PATIENCE, |said| good(&of_status(said, name)))?;
    Ok(of_status(&said, name))
}

fn successes(job: &Value) -> u64 {
    job["memory"]["successes"].as_u64().unwrap_or(0)
}

fn last_run(job: &Value) -> Value {
    job["runs"].as_array().and_then(|runs| runs.last()).cloned().unwrap_or_default()
}

/// Asks for a run, and waits until so many have succeeded; the last one.
fn asked(guest: &mut Guest, name: &str, successes: u64) -> Result<Value> {
    sh(guest, &format!("blkdelta daemon run {name}"))?;
    let done = until_job(guest, name, |job| {
        self::successes(job) >= successes && job["memory"]["running"].is_null()
    })?;
    Ok(last_run(&done))
}
