//! What is judged, of made-up facts: each fault makes its finding, and nothing else does.

use super::facts::{Configured, Disk, Facts, Folder, Job, Plan, Tracked, Trouble};
use super::finding::{Finding, Level};
use super::judge;

const NOW: u64 = 1_795_380_307_000;
const HOUR: u64 = 3_600_000;

fn trouble(what: &str) -> Trouble {
    Trouble { what: what.into(), ..Trouble::default() }
}

fn job() -> Job {
    Job {
        name: "system".into(),
        scheduled: true,
        device: Some(Ok(("/dev/sda".into(), true))),
        last_success: Some(NOW - HOUR),
        known: true,
        ..Job::default()
    }
}

fn plan() -> Plan {
    Plan {
        jobs: vec![job()],
        repositories: vec![("main".into(), "/backup".into(), Ok(()), true)],
        daemon: Some(Ok(())),
    }
}

fn device() -> Tracked {
    Tracked { path: "/dev/sda".into(), has_base: true, memory: (1 << 20, 1 << 20), ..Tracked::default() }
}

/// A host with nothing to complain of.
fn well() -> Facts {
    let folder = |path: &str, lasting| Folder {
        path: path.into(),
        mountpoint: "/".into(),
        free: 1 << 30,
        lasting,
        ..Folder::default()
    };
    let unit = |name: &str| (format!("blkdelta{name}.service"), "enabled".to_owned());
    Facts {
        release: "6.12.0".into(),
        kernel: Some(Ok(1)),
        bpf: ("/sys/fs/bpf".into(), true),
        jit: Some(1),
        statistics: Some(0),
        memory: Some(1 << 30),
        folders: vec![folder("/run/blkdelta", false), folder("/var/lib/blkdelta", true)],
        clock: (NOW, NOW - HOUR),
        disks: vec![Disk { path: "/dev/sda".into(), tracked: true, refused: None }],
        tracked: Some(Ok(vec![device()])),
        config: Configured::Right("/etc/blkdelta/config.toml".into(), plan()),
        units: Some([unit(""), unit("-monitor"), unit("-daemon")].into()),
        ..Facts::default()
    }
}

/// What is not fine after this change of a host that is well.
fn changed(change: impl FnOnce(&mut Facts)) -> Vec<Finding> {
    let mut facts = well();
    change(&mut facts);
    judge(&facts).into_iter().filter(|finding| finding.level != Level::Fine).collect()
}

/// One change makes one finding, of this level, with these words, and with advice.
fn one(level: Level, words: &str, change: impl FnOnce(&mut Facts)) {
    let found = changed(change);
    assert_eq!(found.len(), 1, "{words}: {found:#?}");
    assert!(found[0].level == level && found[0].found.contains(words), "{words}: {found:#?}");
    let advised = found[0].advice.as_ref().is_some_and(|advice| !advice.is_empty());
    assert!(advised && !found[0].why.is_empty() && !found[0].looked_at.is_empty(), "{found:#?}");
}

fn of_device(level: Level, words: &str, change: impl FnOnce(&mut Tracked)) {
    one(level, words, |facts| {
        let mut device = device();
        change(&mut device);
        facts.tracked = Some(Ok(vec![device]));
    });
}

fn of_plan(level: Level, words: &str, change: impl FnOnce(&mut Plan)) {
    one(level, words, |facts| {
        let mut plan = plan();
        change(&mut plan);
        facts.config = Configured::Right("c".into(), plan);
    });
}

#[test]
fn a_host_that_is_well_is_called_well() {
    let findings = judge(&well());
    assert!(findings.iter().all(|f| f.level == Level::Fine && !f.found.is_empty()), "{findings:#?}");
    assert!(findings.len() > 12);
}

#[test]
fn what_is_not_known_is_never_called_well() {
    let findings = judge(&Facts::default());
    for about in ["kernel", "memory", "clock"] {
        assert!(findings.iter().any(|f| f.about == about && f.level.is_bad()), "{about}: {findings:#?}");
    }
    assert!(findings.iter().is_sorted_by_key(|f| f.level), "the worst first");
}

#[test]
fn the_host_s_faults_are_found() {
    use Level::{Note, Unknown, Wrong};
    one(Wrong, "no BTF here", |f| f.kernel = Some(Err(trouble("no BTF here"))));
    one(Unknown, "not let", |f| f.kernel = Some(Err(Trouble { denied: true, ..trouble("not let") })));
    one(Note, "no BPF file system", |f| f.bpf.1 = false);
    one(Unknown, "CAP_BPF", |f| f.lacking = vec!["CAP_BPF".into()]);
    one(Note, "passthrough", |f| f.lockdown = "none integrity [confidentiality]".into());
    assert_eq!(changed(|f| f.lockdown = "none [integrity] confidentiality".into()), []);
    one(Note, "interprets", |f| f.jit = Some(0));
    one(Note, "times every run", |f| f.statistics = Some(1));
    one(Wrong, "nothing can be written", |f| f.folders[0].read_only = true);
    one(Wrong, "only", |f| f.folders[1].free = 1 << 20);
    one(Wrong, "mounted too late", |f| f.folders[1].mountpoint = "/var".into());
    assert_eq!(
        changed(|f| f.folders[0].mountpoint = "/run".into()),
        [],
        "what is gone after a reboot anyway"
    );
    one(Wrong, "is free", |f| f.memory = Some(1 << 20));
    one(Wrong, "something was written at", |f| f.clock.0 = NOW - 2 * HOUR);
    one(Wrong, "1970", |f| f.clock = (0, 0));
    one(Note, "v1", |f| f.layouts = vec![1]);
}

#[test]
fn faults_of_devices_are_found() {
    use Level::{Note, Unknown, Wrong};
    one(Wrong, "nothing is tracked", |f| f.tracked = Some(Ok(Vec::new())));
    one(Unknown, "not let", |f| f.tracked = Some(Err(Trouble { denied: true, ..trouble("not let") })));
    one(Wrong, "damaged", |f| f.tracked = Some(Err(trouble("damaged"))));
    one(Note, "nobody reads them", |f| f.unread_events = true);
    let disk = |path: &str, refused| Disk { path: path.into(), tracked: false, refused };
    one(Note, "could be tracked and is not: /dev/sdb, /dev/sdc", |f| {
        f.disks.extend([disk("/dev/sdb", None), disk("/dev/sdc", None)]);
    });
    one(Note, "cannot be tracked: /dev/ram0, /dev/ram1: it does not count", |f| {
        let refused = |path: &str| Some(trouble(&format!("cannot track {path}: it does not count")));
        f.disks.extend(["/dev/ram0", "/dev/ram1"].map(|path| disk(path, refused(path))));
    });
    of_device(Wrong, "program rq_issue: it was detached", |d| {
        d.suspect = vec!["program rq_issue: it was detached".into()]
    });
    of_device(Wrong, "never backed up", |d| d.has_base = false);
    let sealed =
        |hours, held| move |d: &mut Tracked| (d.sealed, d.since_cut, d.held) = (2, Some(hours * HOUR), held);
    of_device(Wrong, "2 epochs", sealed(30, false));
    for unremarkable in [sealed(30, true), sealed(1, false)] {
        let mut device = device();
        unremarkable(&mut device);
        assert_eq!(changed(|f| f.tracked = Some(Ok(vec![device]))), []);
    }
    of_device(Wrong, "process 7 has", |d| d.beside = vec!["process 7 has /a open for writing".into()]);
    of_device(Note, "vfat at /boot", |d| d.unfreezable = vec![("/boot".into(), "vfat".into())]);
    of_device(Note, "do not freeze", |d| d.never_frozen = vec!["/run/blkdelta lies on the device".into()]);
}

#[test]
fn faults_of_jobs_are_found() {
    use Level::{Note, Unknown, Wrong};
    one(Wrong, "has mistakes: line 3", |f| {
        f.config = Configured::Wrong("c".into(), vec!["line 3: x".into()])
    });
    one(Unknown, "not let", |f| {
        f.config = Configured::Unread(Trouble { denied: true, ..trouble("not let") })
    });
    one(Note, "nothing here starts backups", |f| f.config = Configured::Not);
    assert_eq!(changed(|f| (f.config, f.timers) = (Configured::Not, 1)), []);
    of_plan(Note, "not tracked yet", |p| p.jobs[0].device = Some(Ok(("/dev/sda".into(), false))));
    of_plan(Wrong, "no device here has the id", |p| {
        p.jobs[0].device = Some(Err(trouble("no device here has the id x")))
    });
    of_plan(Wrong, "failed 3 times in a row", |p| p.jobs[0].failures = (3, Some("no space".into())));
    of_plan(Wrong, "is due for 2 h", |p| p.jobs[0].due_since = Some(NOW - 2 * HOUR));
    let mut young = plan();
    young.jobs[0].due_since = Some(NOW - 60_000);
    assert_eq!(changed(|f| f.config = Configured::Right("c".into(), young)), [], "a minute is not late");
    of_plan(Wrong, "is paused", |p| p.jobs[0].paused = true);
    of_plan(Note, "never run by a daemon", |p| p.jobs[0].known = false);
    let opened =
        |t: Trouble, known| move |p: &mut Plan| (p.repositories[0].2, p.repositories[0].3) = (Err(t), known);
    of_plan(Wrong, "is not mounted", opened(trouble("is not mounted"), true));
    let absent = || Trouble { absent: true, ..trouble("there is none") };
    of_plan(Note, "none at /backup yet", opened(absent(), false));
    of_plan(Wrong, "there is none", opened(absent(), true));
    of_plan(Unknown, "no key", opened(Trouble { denied: true, ..trouble("no key") }, true));
    of_plan(Wrong, "no daemon runs the jobs", |p| p.daemon = Some(Err(trouble("connection refused"))));
    let mut asked = plan();
    (asked.jobs[0].scheduled, asked.daemon) = (false, Some(Err(trouble("connection refused"))));
    assert_eq!(changed(|f| f.config = Configured::Right("c".into(), asked)), [], "nobody needs the daemon");
}

#[test]
fn units_that_are_not_enabled_are_found() {
    let set = |name: &'static str, state: &'static str| {
        move |f: &mut Facts| {
            f.units.as_mut().unwrap().insert(name.into(), state.into());
        }
    };
    one(Level::Wrong, "blkdelta.service is disabled", set("blkdelta.service", "disabled"));
    one(Level::Wrong, "blkdelta.service is not installed", set("blkdelta.service", "not-found"));
    one(Level::Note, "blkdelta-monitor.service is not installed", set("blkdelta-monitor.service", ""));
    one(Level::Wrong, "blkdelta-daemon.service is masked", set("blkdelta-daemon.service", "masked"));
    let unneeded = |f: &mut Facts| {
        set("blkdelta-daemon.service", "disabled")(f);
        (f.config, f.timers) = (Configured::Not, 1);
    };
    assert_eq!(changed(unneeded), [], "the timers do it");
    one(Level::Note, "systemd does not run here", |f| f.units = None);
}
