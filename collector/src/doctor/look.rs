//! Looking: everything that is judged, by the checks that tracking, status, configuration and daemon use themselves.

use super::Open;
use super::facts::{Configured, Disk, Facts, Folder, Job, Plan, Tracked, Trouble};
use crate::config::{self, Config, JobTable};
use crate::daemon::{self, Remembered, Request, Verb};
use crate::diff;
use crate::error::{Kind, Result};
use crate::job::{Wishes, place};
use crate::life;
use crate::sys::device::BlockDevice;
use crate::sys::freeze::can_freeze;
use crate::sys::mounts;
use crate::sys::privilege::{Capability, lacking};
use crate::tracker::{self, DeviceState, Maps, Places, holder, now_ms};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

/// Everything.
pub fn facts(places: &Places, file: &Path, open: Open<'_>) -> Facts {
    let every = [
        Capability::Bpf,
        Capability::Perfmon,
        Capability::SysAdmin,
        Capability::DacReadSearch,
        Capability::SysPtrace,
    ];
    let remembered = daemon::remembered(places);
    let states = DeviceState::all(places);
    let (bpf, mounted) = places.bpf_mount();
    Facts {
        lacking: lacking(&every).into_iter().map(ToOwned::to_owned).collect(),
        release: rustix::system::uname().release().to_string_lossy().into_owned(),
        kernel: Some(tracker::kernel_suits().map_err(|e| Trouble::from(&e))),
        bpf: (bpf.to_owned(), mounted),
        lockdown: text("/sys/kernel/security/lockdown"),
        jit: number("/proc/sys/net/core/bpf_jit_enable"),
        statistics: number("/proc/sys/kernel/bpf_stats_enabled"),
        memory: available(&text("/proc/meminfo")),
        layouts: places.other_layouts().unwrap_or_default(),
        folders: folders(places),
        clock: (now_ms(), newest(places, states.as_deref().unwrap_or_default(), &remembered)),
        disks: disks(states.as_deref().unwrap_or_default()),
        tracked: Some(
            states
                .map(|states| states.iter().map(|state| tracked(places, state)).collect())
                .map_err(|e| Trouble::from(&e)),
        ),
        unread_events: unread_events(places),
        config: configured(places, file, &remembered, open),
        units: units(),
        timers: timers(),
    }
}

fn text(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn number(path: &str) -> Option<u64> {
    text(path).trim().parse().ok()
}

/// Bytes that `/proc/meminfo` calls available.
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().trim_end_matches("kB").trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

fn folders(places: &Places) -> Vec<Folder> {
    // a private instance (BLKDELTA_HOME) does not outlive a reboot by itself
    let system = std::env::var_os("BLKDELTA_HOME").is_none_or(|home| home.is_empty());
    [(places.state(), false), (places.lib(), system)]
        .into_iter()
        .filter_map(|(path, lasting)| folder(path, lasting))
        .collect()
}

/// A folder, or the one that it would be made in.
fn folder(path: &Path, lasting: bool) -> Option<Folder> {
    let there = path.ancestors().find(|folder| folder.is_dir())?;
    let stat = rustix::fs::statvfs(there).ok()?;
    let mountpoint = mounts::of_path(there).map(|mount| mount.mountpoint).unwrap_or_default();
    Some(Folder {
        path: path.to_owned(),
        mountpoint,
        read_only: stat.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY),
        free: stat.f_bavail.saturating_mul(stat.f_frsize),
        lasting,
    })
}

/// The newest moment that is written anywhere.
fn newest(places: &Places, states: &[DeviceState], remembered: &Remembered) -> u64 {
    let files = [places.lib().to_owned(), places.state().to_owned(), places.lib().join("daemon/state.json")];
    let written = files.iter().filter_map(|file| std::fs::metadata(file).ok()?.modified().ok());
    let written = written.filter_map(|at| Some(at.duration_since(UNIX_EPOCH).ok()?.as_millis() as u64));
    let states = states.iter().map(|state| state.since_ms.max(state.difference_since_ms));
    let runs = remembered.runs.values().flatten().map(|run| run.ended);
    written.chain(states).chain(runs).max().unwrap_or(0)
}

/// Whole disks that have a medium, and whether they could be tracked.
fn disks(states: &[DeviceState]) -> Vec<Disk> {
    let tracked: BTreeSet<u32> = states.iter().map(|state| state.identity.disk).collect();
    let whole = |device: &BlockDevice| device.partition.is_none() && device.size > 0;
    let all = BlockDevice::all().unwrap_or_default().into_iter().filter(whole);
    let mut disks: Vec<Disk> = all
        .map(|device| Disk {
            path: device.path.display().to_string(),
            tracked: tracked.contains(&device.dev),
            refused: tracker::check_trackable(&device).err().map(|e| Trouble::from(&e)),
        })
        .collect();
    disks.sort_by(|a, b| a.path.cmp(&b.path));
    disks
}

fn tracked(places: &Places, state: &DeviceState) -> Tracked {
    let mut suspect = match diff::look(places, &state.path) {
        Ok(look) => look.difference.suspect,
        Err(error) => vec![error.in_full()],
    };
    // what a monitor would say, besides
    if let Ok(Some(findings)) = tracker::inspect(places, state) {
        let known = |reason: &String| suspect.contains(reason);
        let more: Vec<String> = findings.broken.into_iter().filter(|reason| !known(reason)).collect();
        suspect.extend(more);
    }
    let key = state.key();
    let cut = std::fs::metadata(places.epoch(&key, state.epoch)).and_then(|pin| pin.modified()).ok();
    let since = cut.and_then(|at| SystemTime::now().duration_since(at).ok());
    let device = BlockDevice::open(&state.path).ok();
    let wishes = Wishes { own_folders: vec![places.state().to_owned()], ..Wishes::default() };
    Tracked {
        path: state.path.display().to_string(),
        suspect,
        sealed: state.sealed.len(),
        since_cut: since.map(|since| since.as_millis() as u64),
        held: holder(&places.device_lock(&key)).is_some(),
        has_base: state.base.is_some(),
        memory: (state.granularity.words(state.identity.size) * 8, state.memory()),
        beside: device.as_ref().map(beside).unwrap_or_default(),
        unfreezable: device.as_ref().map(unfreezable).unwrap_or_default(),
        never_frozen: place::judge(Some(state.identity.dev), None, &wishes)
            .map(|p| p.notes)
            .unwrap_or_default(),
    }
}

/// A watcher that was killed leaves its disks' events on.
fn unread_events(places: &Places) -> bool {
    let nobody = || holder(&places.state().join("live.lock")).is_none();
    let shown = Maps::open(places).and_then(|maps| maps.shown());
    shown.is_ok_and(|disks| !disks.is_empty()) && nobody()
}

/// Who may write to a loop device's backing file: others that stand on it, and processes that have it open.
fn beside(device: &BlockDevice) -> Vec<String> {
    let Some(file) = &device.backing_file else { return Vec::new() };
    let all = BlockDevice::all().unwrap_or_default().into_iter();
    let twins = all.filter(|other| {
        other.partition.is_none()
            && other.disk != device.disk
            && other.backing_file.as_ref() == Some(file)
            && !other.read_only
    });
    let mut who: Vec<String> =
        twins.map(|other| format!("{} stands on the same file", other.path.display())).collect();
    let (pids, _) = life::writers_of(file);
    who.extend(pids.iter().map(|pid| format!("process {pid} has {} open for writing", file.display())));
    who
}

/// Mounted file systems on a device, or on its partitions, that cannot be frozen; what is read-only needs no freeze.
fn unfreezable(device: &BlockDevice) -> Vec<(PathBuf, String)> {
    let parts = std::iter::once(device.clone()).chain(device.partitions().unwrap_or_default());
    let mounts = parts.filter(|part| !part.read_only).flat_map(|part| part.mounts().unwrap_or_default());
    mounts.filter(|mount| !can_freeze(&mount.fstype)).map(|mount| (mount.mountpoint, mount.fstype)).collect()
}

fn configured(places: &Places, file: &Path, remembered: &Remembered, open: Open<'_>) -> Configured {
    let text = match config::text_of(file) {
        Ok(text) => text,
        Err(error) if error.kind() == Kind::NotFound => return Configured::Not,
        Err(error) => return Configured::Unread(Trouble::from(&error)),
    };
    match Config::parse(&text) {
        Err(problems) => Configured::Wrong(file.into(), problems.iter().map(ToString::to_string).collect()),
        Ok(config) => Configured::Right(file.into(), plan(places, &config, remembered, open)),
    }
}

fn plan(places: &Places, config: &Config, remembered: &Remembered, open: Open<'_>) -> Plan {
    let late = daemon::overdue(config, &remembered.jobs, now_ms());
    let jobs: Vec<Job> = config
        .job
        .iter()
        .map(|(name, table)| job(places, config, (name, table), remembered, &late))
        .collect();
    let succeeded = |repository: &str| {
        let mut of_it = config.job.iter().filter(|(_, job)| job.repository == repository);
        of_it.any(|(name, _)| remembered.jobs.get(name).is_some_and(|memory| memory.last_success.is_some()))
    };
    let repositories = config.repository.iter().map(|(name, table)| {
        let opened = open(table).map_err(|e| Trouble::from(&e));
        (name.clone(), table.location.clone(), opened, succeeded(name))
    });
    let answers = daemon::ask(&daemon::socket(config), &Request { verb: Verb::Status, job: None });
    Plan {
        repositories: repositories.collect(),
        daemon: Some(answers.map(drop).map_err(|e| Trouble::from(&e))),
        jobs,
    }
}

fn job(
    places: &Places,
    config: &Config,
    (name, table): (&String, &JobTable),
    remembered: &Remembered,
    late: &BTreeMap<String, u64>,
) -> Job {
    let device = table.device.as_ref().and_then(|device| config.device.get(device));
    let memory = remembered.jobs.get(name);
    let last = remembered.runs.get(name).and_then(|runs| runs.back());
    Job {
        name: name.clone(),
        scheduled: table.schedule.is_some() || table.every.is_some(),
        device: device.map(|device| of_device(places, device.resolve()).map_err(|e| Trouble::from(&e))),
        due_since: late.get(name).copied(),
        last_success: memory.and_then(|memory| memory.last_success),
        failures: (memory.map_or(0, |memory| memory.failures), last.and_then(|run| run.error.clone())),
        paused: memory.is_some_and(|memory| memory.paused),
        known: memory.is_some(),
    }
}

/// Is it tracked? If not: can it be?
fn of_device(places: &Places, path: Result<PathBuf>) -> Result<(String, bool)> {
    let path = path?;
    let device = BlockDevice::open(&path)?;
    let tracked = tracker::intact(places, &device)?.is_some();
    if !tracked {
        tracker::check_trackable(&device)?;
    }
    Ok((path.display().to_string(), tracked))
}

/// States of our units, as systemd says them; `None`: it does not run.
fn units() -> Option<BTreeMap<String, String>> {
    if !Path::new("/run/systemd/system").is_dir() {
        return None;
    }
    const UNITS: [&str; 3] = ["blkdelta.service", "blkdelta-monitor.service", "blkdelta-daemon.service"];
    let state = |name: &str| {
        let said = Command::new("systemctl").args(["is-enabled", name]).output().ok()?;
        Some((name.to_owned(), String::from_utf8_lossy(&said.stdout).trim().to_owned()))
    };
    Some(UNITS.iter().filter_map(|name| state(name)).collect())
}

/// Enabled timers of `blkdelta-backup@`: links in the folders of what systemd starts.
fn timers() -> usize {
    let folders = std::fs::read_dir("/etc/systemd/system").into_iter().flatten().flatten();
    let wants = folders.filter(|entry| entry.file_name().to_string_lossy().ends_with(".wants"));
    let links = wants.flat_map(|folder| std::fs::read_dir(folder.path()).into_iter().flatten().flatten());
    let ours = |name: &str| name.starts_with("blkdelta-backup@") && name.ends_with(".timer");
    links.filter(|link| ours(&link.file_name().to_string_lossy())).count()
}
