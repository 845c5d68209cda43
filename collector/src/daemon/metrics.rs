//! `/metrics`: jobs, devices and programs, with names and units as OpenMetrics wants them. docs/DAEMON.md lists them.

use super::devices::{Program, Scene, Seen};
use super::openmetrics::{Sample, Text};
use super::report::Report;
use super::shown::{JobShown, Shown};

/// Everything, as text.
pub fn text(shown: &Shown, scene: &Scene) -> String {
    let mut text = Text::default();
    text.info("blkdelta_build", "The running program.", vec![("version", env!("CARGO_PKG_VERSION"))]);
    let alone = |value: u64| [(Vec::new(), value as f64)];
    text.counter(
        "blkdelta_daemon_state_write_failures",
        "",
        "Times the daemon's memory could not be written.",
        alone(shown.writes_failed),
    );
    text.gauge(
        "blkdelta_daemon_state_writable",
        "",
        "0 if the daemon's memory could not be written the last time.",
        alone(u64::from(shown.unwritten.is_none())),
    );
    text.counter(
        "blkdelta_daemon_reload_failures",
        "",
        "Times a new configuration was refused.",
        alone(shown.reloads_failed),
    );
    schedules(&mut text, &shown.jobs);
    last_runs(&mut text, &shown.jobs);
    devices(&mut text, &scene.devices);
    programs(&mut text, &scene.programs);
    text.finish()
}

const fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}

/// One sample for each job that has a value.
fn of_jobs<'a>(
    jobs: &'a [JobShown],
    value: impl Fn(&JobShown) -> Option<f64> + 'a,
) -> impl Iterator<Item = Sample<'a>> {
    jobs.iter().filter_map(move |job| Some((vec![("job", job.name.as_str())], value(job)?)))
}

fn schedules(text: &mut Text, jobs: &[JobShown]) {
    let runs = jobs.iter().flat_map(|job| {
        let labels = |result| vec![("job", job.name.as_str()), ("result", result)];
        [(labels("ok"), job.memory.successes as f64), (labels("failed"), job.memory.failed as f64)]
    });
    text.counter("blkdelta_job_runs", "", "Runs that ended, by result.", runs);
    let mut gauge = |name, unit, help, value: fn(&JobShown) -> Option<f64>| {
        text.gauge(name, unit, help, of_jobs(jobs, value));
    };
    gauge("blkdelta_job_running", "", "1 while it runs.", |job| {
        Some(f64::from(u8::from(job.memory.running.is_some())))
    });
    gauge("blkdelta_job_paused", "", "1 if it does not start by itself.", |job| {
        Some(f64::from(u8::from(job.memory.paused)))
    });
    gauge("blkdelta_job_consecutive_failures", "", "Failures since the last success.", |job| {
        Some(f64::from(job.memory.failures))
    });
    gauge("blkdelta_job_next_run_timestamp_seconds", "seconds", "When it is due.", |job| {
        job.next.map(seconds)
    });
    gauge(
        "blkdelta_job_last_success_timestamp_seconds",
        "seconds",
        "Start of the last run that succeeded: what changed until then is in a point.",
        |job| job.memory.last_success.map(seconds),
    );
}

fn last_runs(text: &mut Text, jobs: &[JobShown]) {
    let mut gauge = |name, unit, help, value: fn(&Report) -> Option<f64>| {
        text.gauge(name, unit, help, of_jobs(jobs, move |job| value(job.runs.back()?)));
    };
    gauge("blkdelta_job_last_run_duration_seconds", "seconds", "How long the last run took.", |run| {
        Some(seconds(run.ended.saturating_sub(run.began)))
    });
    gauge("blkdelta_job_last_run_changed_bytes", "bytes", "Bytes on the list of the last run.", |run| {
        run.point.as_ref().map(|_| run.changed_bytes as f64)
    });
    gauge("blkdelta_job_last_run_stored_bytes", "bytes", "Bytes that the last run stored.", |run| {
        run.point.as_ref().map(|_| run.stored_bytes as f64)
    });
    gauge("blkdelta_job_last_run_freeze_seconds", "seconds", "How long file systems stood still.", |run| {
        run.freeze_ms.map(seconds)
    });
    gauge(
        "blkdelta_job_last_run_yielded_seconds",
        "seconds",
        "How long it held back for applications.",
        |run| run.point.as_ref().map(|_| seconds(run.yielded_ms)),
    );
    gauge("blkdelta_job_last_point_suspect", "", "1 if the last point is suspect.", |run| {
        run.point.as_ref().map(|_| f64::from(u8::from(!run.suspect.is_empty())))
    });
}

fn devices(text: &mut Text, devices: &[Seen]) {
    let mut gauge = |name, unit, help, value: fn(&Seen) -> f64| {
        text.gauge(name, unit, help, devices.iter().map(|d| (vec![("device", d.path.as_str())], value(d))));
    };
    gauge("blkdelta_device_size_bytes", "bytes", "Size of a tracked device.", |d| d.size as f64);
    gauge("blkdelta_device_changed_bytes", "bytes", "Bytes that the next backup copies.", |d| {
        d.changed as f64
    });
    gauge("blkdelta_device_suspect", "", "1 if its list cannot be proved: the next backup compares.", |d| {
        f64::from(u8::from(!d.suspect.is_empty()))
    });
    gauge("blkdelta_device_tracked_since_timestamp_seconds", "seconds", "When tracking began.", |d| {
        seconds(d.since)
    });
    gauge(
        "blkdelta_device_list_since_timestamp_seconds",
        "seconds",
        "The list holds what changed since.",
        |d| seconds(d.list_since),
    );
    gauge("blkdelta_device_sealed_epochs", "", "Bitmaps that wait for a point.", |d| d.sealed as f64);
    gauge("blkdelta_device_bitmap_bytes", "bytes", "Kernel memory of its bitmaps.", |d| d.memory as f64);
}

fn programs(text: &mut Text, programs: &[Program]) {
    let mut counter = |name, unit, help, value: fn(&Program) -> f64| {
        text.counter(
            name,
            unit,
            help,
            programs.iter().map(|p| (vec![("program", p.name.as_str())], value(p))),
        );
    };
    counter("blkdelta_program_runs", "", "Runs in the kernel, while kernel.bpf_stats_enabled is 1.", |p| {
        p.runs as f64
    });
    counter("blkdelta_program_seconds", "seconds", "Time in it, while kernel.bpf_stats_enabled is 1.", |p| {
        p.nanoseconds as f64 / 1e9
    });
    counter("blkdelta_program_skipped", "", "Events that the kernel did not give it.", |p| p.skipped as f64);
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::daemon::scheduler::Memory;

    /// Two jobs and a device, for this room's tests and the page's.
    pub fn example() -> (Shown, Scene) {
        let now = 1_795_000_000_000;
        let run = |n: u64| Report {
            job: "db".into(),
            result: "ok".into(),
            device: "/dev/sd\"a".into(),
            began: now - (64 - n) * 10_000,
            ended: now - (64 - n) * 10_000 + 1500,
            point: Some(format!("01JD3XQ8Z5W2M4T6Y8A0C2E{:03}", n)),
            kind: if n.is_multiple_of(20) { "full" } else { "incremental" }.into(),
            size: 1 << 30,
            changed_bytes: (n % 7) << 20,
            stored_bytes: if n.is_multiple_of(20) { 400 << 20 } else { (n % 7) << 19 },
            freeze_ms: Some(12),
            suspect: if n == 60 { vec!["counters <fell> short".into()] } else { Vec::new() },
            stripes: (0..crate::daemon::report::STRIPES).map(|s| ((s * n) % 11) << 16).collect(),
            ..Report::default()
        };
        let memory =
            Memory { successes: 64, failed: 2, last_success: Some(now - 10_000), ..Memory::default() };
        let failed =
            Report { error: Some("no <b>space</b>".into()), result: "failed".into(), ..Report::default() };
        let jobs = vec![
            JobShown {
                name: "db".into(),
                device: "/dev/sd\"a".into(),
                repository: "main".into(),
                when: "every 10s".into(),
                next: Some(now + 10_000),
                memory,
                runs: (0..64).map(run).collect(),
            },
            JobShown {
                name: "web".into(),
                memory: Memory { failures: 3, paused: true, ..Memory::default() },
                runs: [failed].into(),
                ..JobShown::default()
            },
        ];
        let device = Seen {
            path: "/dev/sd\"a".into(),
            size: 1 << 30,
            changed: 5 << 20,
            since: now - 86_400_000,
            list_since: now - 10_000,
            suspect: vec!["a <program> was detached".into()],
            sealed: 1,
            memory: 65536,
            base: Some("01JD".into()),
        };
        let program = Program { name: "rq_issue".into(), runs: 10, nanoseconds: 2_500_000_000, skipped: 0 };
        (Shown { now, jobs, ..Shown::default() }, Scene { devices: vec![device], programs: vec![program] })
    }

    #[test]
    fn every_sample_belongs_to_the_family_above_it_and_ends_with_its_unit() {
        let (shown, scene) = example();
        let text = text(&shown, &scene);
        assert!(text.ends_with("# EOF\n"));
        let (mut family, mut kind, mut seen) = ("", "", std::collections::BTreeSet::new());
        for line in text.lines().filter(|l| *l != "# EOF") {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                (family, kind) = rest.split_once(' ').unwrap();
                assert!(seen.insert(family), "{family} comes twice");
            } else if !line.starts_with('#') {
                let name = line.split(['{', ' ']).next().unwrap();
                let ending = match kind {
                    "counter" => "_total",
                    "info" => "_info",
                    _ => "",
                };
                assert_eq!(name, format!("{family}{ending}"), "{line}");
                assert!(line.rsplit(' ').next().unwrap().parse::<f64>().is_ok(), "{line}");
            }
        }
        for wanted in [
            "blkdelta_job_runs_total{job=\"db\",result=\"ok\"} 64",
            "blkdelta_job_last_success_timestamp_seconds{job=\"db\"} 1794999990",
            "blkdelta_device_changed_bytes{device=\"/dev/sd\\\"a\"} 5242880",
            "blkdelta_program_seconds_total{program=\"rq_issue\"} 2.5",
            "blkdelta_job_consecutive_failures{job=\"web\"} 3",
        ] {
            assert!(text.lines().any(|l| l == wanted), "{wanted} is not in {text}");
        }
    }

    /// The page, the alert rules and the dashboard name no metric that there is not.
    #[test]
    fn what_documents_name_exists() {
        let (shown, scene) = example();
        let text = text(&shown, &scene);
        let documents = [
            include_str!("../../../docs/DAEMON.md"),
            include_str!("../../../docs/alerts.yml"),
            include_str!("../../../docs/grafana.json"),
        ];
        for document in documents {
            let word = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
            let prefixes = ["blkdelta_job_", "blkdelta_device_", "blkdelta_program_", "blkdelta_daemon_"];
            let names = document
                .split(word)
                .filter(|w| prefixes.iter().any(|p| w.starts_with(p) && w.len() > p.len()));
            let names: Vec<&str> = names.collect();
            assert!(names.len() >= 5, "{names:?}");
            for name in names {
                let there = text.lines().any(|l| l.split(['{', ' ']).next() == Some(name));
                assert!(there, "{name} is no metric");
            }
        }
        for line in text.lines().filter(|l| l.starts_with("# TYPE ")) {
            let name = line.split(' ').nth(2).unwrap();
            assert!(documents[0].contains(&format!("`{name}")), "docs/DAEMON.md does not name {name}");
        }
    }
}
