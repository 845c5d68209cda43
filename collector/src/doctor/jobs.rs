//! Judging the configuration, its jobs and repositories, the daemon and the units.

use super::facts::{Configured, Facts, Job, Plan, Trouble};
use super::finding::{Finding, Level};
use crate::config::words::{duration, time};
use std::path::Path;
use std::time::Duration;

/// So long after its moment a job is late.
const LATE: u64 = 15 * 60_000;

/// All of it.
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    match &facts.config {
        Configured::Not => findings.extend(no_plan(facts)),
        Configured::Unread(trouble) => findings.push(config_file().is(
            if trouble.denied { Level::Unknown } else { Level::Wrong },
            trouble.what.clone(),
            trouble.advice_or("run as root"),
        )),
        Configured::Wrong(file, problems) => findings.push(config_file().is(
            Level::Wrong,
            format!("{} has mistakes: {}", file.display(), problems.join("; ")),
            "blkdelta config check",
        )),
        Configured::Right(file, plan) => findings.extend(plan_of(facts, file, plan)),
    }
    findings.extend(units(facts));
    findings
}

fn config_file() -> Finding {
    Finding::new("config", "the configuration file", "a file with a mistake is not used at all")
}

fn no_plan(facts: &Facts) -> Option<Finding> {
    let finding = Finding::new(
        "config",
        "the configuration file, and enabled backup timers",
        "a backup that nobody starts is none",
    );
    Some(match facts.timers {
        0 => finding.is(
            Level::Note,
            "no configuration and no enabled timer: nothing here starts backups",
            "docs/CONFIG.md and docs/DAEMON.md; nothing is wrong if something else does (cron, another tool)",
        ),
        n => finding.fine(format!("{n} enabled timers of blkdelta-backup@")),
    })
}

fn plan_of(facts: &Facts, file: &Path, plan: &Plan) -> Vec<Finding> {
    let mut findings =
        vec![config_file().fine(format!("{}: no mistakes, {} jobs", file.display(), plan.jobs.len()))];
    findings.extend(plan.jobs.iter().flat_map(|job| of_job(job, facts.clock.0)));
    findings.extend(
        plan.repositories
            .iter()
            .map(|(name, location, opened, known)| repository(name, location, opened, *known)),
    );
    if plan.jobs.iter().any(|job| job.scheduled) {
        findings.extend(plan.daemon.as_ref().map(daemon));
    }
    findings
}

fn of_job(job: &Job, now: u64) -> Vec<Finding> {
    let mut findings = Vec::new();
    let device = || {
        Finding::new(
            "job",
            format!("the device of job {}", job.name),
            "a job whose device cannot be tracked fails",
        )
    };
    match &job.device {
        None | Some(Ok((_, true))) => {}
        Some(Ok((path, false))) => findings.push(device().is(
            Level::Note,
            format!("job {}: {path} is not tracked yet", job.name),
            format!("its next run tracks it, and is a full backup; or now: blkdelta track {path}"),
        )),
        Some(Err(trouble)) => findings.push(device().is(
            if trouble.denied { Level::Unknown } else { Level::Wrong },
            format!("job {}: {}", job.name, trouble.what),
            trouble.advice_or("correct the configuration, or attach the device"),
        )),
    }
    findings.extend(history(job, now));
    findings
}

fn history(job: &Job, now: u64) -> Vec<Finding> {
    let name = &job.name;
    let about = || {
        Finding::new(
            "job",
            format!("what the daemon remembers of job {name}"),
            "an old point is little protection",
        )
    };
    let mut findings = Vec::new();
    let last = job.last_success.map_or_else(|| "never".into(), |at| format!("{} UTC", time(at)));
    if let (failures @ 1.., why) = (&job.failures.0, &job.failures.1) {
        let why = why.as_deref().unwrap_or("for a reason that is not known here");
        findings.push(about().is(
            Level::Wrong,
            format!("job {name} failed {failures} times in a row, its last success: {last}; {why}"),
            format!("its difference is kept; after the reason is gone: blkdelta run {name}"),
        ));
    } else if let Some(due) = job.due_since.filter(|due| due + LATE < now) {
        let late = duration(Duration::from_millis(now - due));
        findings.push(about().is(
            Level::Wrong,
            format!("job {name} is due for {late}, its last success: {last}"),
            "is the daemon running? systemctl status blkdelta-daemon",
        ));
    } else if job.paused {
        findings.push(about().is(
            Level::Wrong,
            format!("job {name} is paused, its last success: {last}"),
            format!("blkdelta daemon resume {name}"),
        ));
    } else if job.scheduled && !job.known {
        findings.push(about().is(
            Level::Note,
            format!("job {name} was never run by a daemon"),
            "start the daemon",
        ));
    } else if job.last_success.is_some() {
        findings.push(about().fine(format!("job {name}: last success {last}")));
    }
    findings
}

fn repository(name: &str, location: &str, opened: &Result<(), Trouble>, known: bool) -> Finding {
    let finding = Finding::new(
        "repository",
        format!("opening {location}"),
        "what cannot be reached holds no new points",
    );
    match opened {
        Ok(()) => finding.fine(format!("repository {name} at {location} can be opened")),
        Err(trouble) if trouble.absent && !known => finding.is(
            Level::Note,
            format!("repository {name}: there is none at {location} yet"),
            "the first backup makes it; for an encrypted one: blkdelta init",
        ),
        Err(trouble) if trouble.denied => finding.is(
            Level::Unknown,
            format!("repository {name}: {}", trouble.what),
            trouble.advice_or("run as root"),
        ),
        Err(trouble) => finding.is(
            Level::Wrong,
            format!("repository {name}: {}", trouble.what),
            trouble.advice_or("is its file system mounted, its server up?"),
        ),
    }
}

fn daemon(answers: &Result<(), Trouble>) -> Finding {
    let finding =
        Finding::new("daemon", "the daemon's control socket", "without it no job starts by its schedule");
    match answers {
        Ok(()) => finding.fine("the daemon answers"),
        Err(trouble) if trouble.denied => {
            finding.is(Level::Unknown, trouble.what.clone(), trouble.advice_or("run as root"))
        }
        Err(trouble) => finding.is(
            Level::Wrong,
            format!("no daemon runs the jobs: {}", trouble.what),
            "systemctl enable --now blkdelta-daemon",
        ),
    }
}

/// The units, where there is systemd.
fn units(facts: &Facts) -> Vec<Finding> {
    let life =
        "after a boot nothing is tracked until somebody says so, and what was written meanwhile is not known";
    let Some(states) = &facts.units else {
        return vec![Finding::new("units", "/run/systemd/system", life).is(
            Level::Note,
            "systemd does not run here",
            "see to it by other means that `blkdelta save` runs at shutdown and `blkdelta resume` at boot",
        )];
    };
    let scheduled =
        matches!(&facts.config, Configured::Right(_, plan) if plan.jobs.iter().any(|job| job.scheduled));
    let wanted = [
        ("blkdelta.service", Level::Wrong, life),
        (
            "blkdelta-monitor.service",
            Level::Note,
            "what detaches the tracking is then noticed at the next backup only",
        ),
        ("blkdelta-daemon.service", Level::Wrong, "after a boot no job starts by its schedule"),
    ];
    let wanted = wanted.into_iter().filter(|(name, ..)| scheduled || *name != "blkdelta-daemon.service");
    let judged = wanted.map(|(name, level, why)| {
        let finding = Finding::new("units", format!("systemctl is-enabled {name}"), why);
        match states.get(name).map_or("unknown", String::as_str) {
            state @ ("enabled" | "enabled-runtime" | "static" | "alias") => {
                finding.fine(format!("{name} is {state}"))
            }
            "not-found" | "" => finding.is(
                level,
                format!("{name} is not installed"),
                "cp packaging/systemd/*.service /etc/systemd/system/, then enable it",
            ),
            state => {
                finding.is(level, format!("{name} is {state}"), format!("systemctl enable --now {name}"))
            }
        }
    });
    judged.collect()
}
