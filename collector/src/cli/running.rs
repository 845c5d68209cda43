//! `run`: one job of the configuration, now. The daemon starts its jobs as this verb.
//!
//! ```text
//!   pre ▸ track (if it is not) ▸ backup ▸ merge ▸ prune (if it is time) ▸ post
//! ```
//!
//! What must stay true: a `pre` that fails means no backup; `post` runs whatever happened; a point that was made is
//! reported even if something after it failed.

use super::afterwards;
use super::args::Making;
use super::configuring::File;
use super::grouping;
use super::making;
use super::output::{Ending, print, print_json_line, say};
use super::progress::{Bar, stop_flag};
use super::show::{bytes, duration};
use super::unlock::{Source, Unlock};
use crate::chain;
use crate::config::{Config, DeviceTable, FreezePolicy, GroupTable, JobTable, RepositoryTable};
use crate::daemon::{Report, stripes};
use crate::error::{Context, Error, Kind};
use crate::format::{DeviceId, Manifest};
use crate::group;
use crate::job::{self, Hook, Show, Wishes, Yielding};
use crate::life;
use crate::repository::{Access, Repository};
use crate::sys::device::BlockDevice;
use crate::sys::{failpoint, publish};
use crate::tracker::{self, Places, now_ms};
use crate::tree::Pick;
use anyhow::Result;
use clap::Args;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long a job waits for another one's backup, and how often it looks.
const PATIENCE: Duration = Duration::from_secs(600);
const LOOK: Duration = Duration::from_millis(300);

/// `run`.
#[derive(Debug, Args)]
pub struct Run {
    /// A job of the configuration
    #[arg(value_name = "JOB")]
    job: String,
    #[command(flatten)]
    file: File,
    /// Copy all used areas, not only what changed
    #[arg(long)]
    full: bool,
    /// For programs, one line
    #[arg(long)]
    json: bool,
    /// End when this process, which started this one, is gone
    #[arg(long, hide = true, value_name = "PID")]
    child_of: Option<u32>,
}

/// One job and what it names.
struct Task<'a> {
    name: &'a str,
    job: &'a JobTable,
    subject: Subject<'a>,
    repository: &'a RepositoryTable,
    full: bool,
}

/// What it backs up.
#[derive(Clone, Copy)]
enum Subject<'a> {
    Device(&'a DeviceTable),
    Group(&'a str, &'a GroupTable),
}

impl<'a> Subject<'a> {
    fn of(config: &'a Config, job: &'a JobTable) -> Result<Self, Error> {
        let device = job.device.as_ref().and_then(|name| config.device.get(name));
        let group = job.group.as_ref().and_then(|name| Some((name, config.group.get(name)?)));
        let nothing =
            || Error::new(Kind::Usage, "the job names neither a device nor a group of the configuration");
        let group = || group.map(|(name, table)| Self::Group(name, table));
        device.map(Self::Device).or_else(group).ok_or_else(nothing)
    }

    /// What the hooks and the report call it.
    fn named(self) -> Result<PathBuf, Error> {
        match self {
            Self::Device(table) => table.resolve(),
            Self::Group(name, _) => Ok(format!("group {name}").into()),
        }
    }
}

/// Runs a job.
pub fn run(args: &Run, source: &Source) -> Result<Ending> {
    let began = now_ms();
    follow(args.child_of)?;
    let config = Config::load(&args.file.path())?;
    let job = config.job(&args.job)?;
    let subject = Subject::of(&config, job)?;
    let repository = &config.repository[&job.repository];
    let task = Task { name: &args.job, job, subject, repository, full: args.full };
    reach(&task, source);
    let path = subject.named()?;
    let mut report =
        Report { job: args.job.clone(), began, device: path.display().to_string(), ..Report::default() };
    let done = task.with_hooks(&path, &mut report);
    report.ended = now_ms();
    if args.json && report.point.is_some() {
        print_json_line(&report)?;
    } else if let (true, Some(point)) = (done.is_ok(), &report.point) {
        let time = duration(Duration::from_millis(report.ended - began));
        print(&format!(
            "{}: {} point {point}, {} stored, {time}\n",
            args.job,
            report.kind,
            bytes(report.stored_bytes)
        ))?;
    }
    done?;
    report.suspect.iter().for_each(|why| say(&format!("suspect: {why}")));
    Ok(if report.result == "suspect" { Ending::Suspect } else { Ending::Fine })
}

/// Ends cleanly when the daemon does, also if it was killed.
fn follow(parent: Option<u32>) -> Result<(), Error> {
    let Some(parent) = parent else { return Ok(()) };
    let what = || "tie this run to its daemon".to_owned();
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM)).os_context(what)?;
    // it may have gone before
    match rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get() as u32) {
        Some(pid) if pid == parent => Ok(()),
        _ => Err(Error::new(Kind::Interrupted, "the daemon that started this run is gone")),
    }
}

/// How its store is reached, and with which key.
fn reach(task: &Task<'_>, source: &Source) {
    let table = task.repository;
    if let Some(unlock) = key_of(table) {
        crate::repository::choose_keys(Box::new(source.with(unlock)));
    } else {
        crate::repository::choose_keys(Box::new(source.clone()));
    }
    let rate = task.job.bandwidth.as_ref().or(table.bandwidth.as_ref());
    let access = access_to(table);
    rate.map_or(access.clone(), |rate| access.bandwidth(rate.0)).choose();
}

/// The key that a repository's table names, if it names one.
pub(super) fn key_of(table: &RepositoryTable) -> Option<Unlock> {
    (table.key_file.is_some() || table.passphrase_file.is_some()).then(|| Unlock {
        key_file: table.key_file.clone(),
        passphrase_file: table.passphrase_file.clone(),
        ..Unlock::default()
    })
}

/// How its store is reached.
pub(super) fn access_to(table: &RepositoryTable) -> Access {
    let mut access = Access::default();
    access.endpoint.clone_from(&table.s3_endpoint);
    if let Some(time) = &table.retry_for {
        access.patience = **time;
    }
    access
}

impl Task<'_> {
    /// The hooks around the deed.
    fn with_hooks(&self, path: &Path, report: &mut Report) -> Result<()> {
        let name = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let mut env =
            vec![name("BLKDELTA_JOB", self.name), name("BLKDELTA_DEVICE", &path.display().to_string())];
        let pre = match &self.job.pre {
            Some(command) => {
                Hook { command, when: "before the backup", limit: *self.job.pre_limit, env: &env }.run()
            }
            None => Ok(Duration::ZERO),
        };
        let done = match pre {
            Ok(_) => self.deed(path, report),
            Err(error) => Err(error.hint("no backup was made: its `pre` command must succeed").into()),
        };
        if done.is_err() {
            report.result = "failed".into();
        }
        env.push(name("BLKDELTA_RESULT", &report.result));
        env.extend(report.point.as_ref().map(|point| name("BLKDELTA_POINT", point)));
        let post = match &self.job.post {
            Some(command) => {
                Hook { command, when: "after the backup", limit: *self.job.post_limit, env: &env }.run()
            }
            None => Ok(Duration::ZERO),
        };
        match (done, post) {
            (Ok(()), Err(error)) => {
                report.result = "failed".into();
                Err(error.into())
            }
            (Err(first), Err(error)) => {
                say(&super::output::explain(&error.into()));
                Err(first)
            }
            (done, Ok(_)) => done,
        }
    }

    fn deed(&self, path: &Path, report: &mut Report) -> Result<()> {
        let stop = stop_flag()?;
        let device = patiently(&stop, || match self.subject {
            Subject::Device(_) => self.device(path, &stop, report),
            Subject::Group(name, table) => self.group((name, table), &stop, report),
        })?;
        if let Some(dropped) = self.prune(&device)? {
            report.pruned = dropped;
        }
        Ok(())
    }

    /// The backup of a group.
    fn group(
        &self,
        (name, table): (&str, &GroupTable),
        stop: &Arc<AtomicBool>,
        report: &mut Report,
    ) -> Result<DeviceId> {
        let bar = Bar::new(Arc::clone(stop));
        let known = self.is_known()?;
        let pick =
            Pick { paths: table.paths.clone(), globs: table.globs.clone(), excludes: table.excludes.clone() };
        let subject = group::Group { name: name.to_owned(), pick };
        let how = grouping::How {
            repo: &self.repository.location,
            merge_every: self.job.merge_every,
            parity: None,
            devices: &[],
            untracked: true,
            known,
        };
        let compression = *self.job.compression;
        let wishes = Wishes { full: self.full, compression, ..Wishes::default() };
        let outcome = grouping::make(&subject, &how, &wishes, &bar)?;
        bar.clear();
        let m = &outcome.manifest;
        fill(report, m, outcome.why_full.as_ref());
        report.size = m.files.as_ref().map_or(0, |files| files.bytes);
        if !outcome.unread.is_empty() {
            report.result = "suspect".into();
            report.suspect.extend(outcome.unread.iter().take(16).map(|what| format!("not read: {what}")));
        }
        self.note(&m.repository.to_string());
        Ok(m.device.id.clone())
    }

    /// The backup of a device.
    fn device(&self, path: &Path, stop: &Arc<AtomicBool>, report: &mut Report) -> Result<DeviceId> {
        let Subject::Device(table) = self.subject else {
            return Err(Error::new(Kind::Bug, "the job is not of a device").into());
        };
        let places = Places::from_env();
        let device = BlockDevice::open(path)?;
        if tracker::intact(&places, &device)?.is_none() {
            // never tracked, or it broke: the device was away, its programs were removed
            let known = tracker::find(&places, path)?.map(|state| state.granularity);
            let (_, before) = life::track(&places, path, known.or(table.granularity.as_deref().copied()))?;
            let how = before.map(|outcome| super::living::words(&outcome));
            say(&format!("{}: {}", path.display(), how.unwrap_or_else(|| "tracked from now on".into())));
        }
        let bar = Bar::new(Arc::clone(stop));
        let disk = device.disk;
        let budget = job::Budget {
            pressure: table.io_pressure.as_ref().map(|part| part.0),
            latency: table.write_latency.as_ref().map(|time| **time),
        };
        let show = Yielding::new(&bar, disk, budget);
        let making = Making { known: self.is_known()?, ..self.making(table, path) };
        let outcome = making::make(&making, self.full, &show)?;
        bar.clear();
        let m = &outcome.manifest;
        fill(report, m, outcome.why_full.as_ref());
        report.yielded_ms = show.yielded().as_millis() as u64;
        report.stripes = stripes(&outcome.changed, m.geometry.size);
        self.note(&m.repository.to_string());
        Ok(m.device.id.clone())
    }

    /// A repository that was there once is never made anew: a file system may only not be mounted. True if it was, and is
    /// there now; by the time it is opened again it may be gone.
    fn is_known(&self) -> Result<bool, Error> {
        let (note, location) = (self.note_file(), &self.repository.location);
        let text = std::fs::read_to_string(&note).unwrap_or_default();
        let Some((known, uuid)) = text.trim_end().split_once('\n') else { return Ok(false) };
        if known != location {
            return Ok(false);
        }
        let hint = format!(
            "is its file system mounted? a new one is made only where there never was one; to begin anew remove {}",
            note.display()
        );
        let what = format!("find the repository of the runs before at {location}");
        match Repository::open(location) {
            Ok(repo) if repo.uuid().to_string() == uuid => failpoint("run.known").map(|()| true),
            Ok(_) => Err(Error::new(Kind::Unsupported, format!("{what}: another one is there")).hint(hint)),
            Err(error) if error.kind() == Kind::NotFound => Err(error.within(what).hint(hint)),
            Err(error) => Err(error.within(what)),
        }
    }

    /// Notes that the repository is there.
    fn note(&self, uuid: &str) {
        let (note, text) = (self.note_file(), format!("{}\n{uuid}\n", self.repository.location));
        if std::fs::read_to_string(&note).is_ok_and(|old| old == text) {
            return;
        }
        if let Err(error) = keep(&note, text.as_bytes()) {
            // the point is there, and counts
            say(&format!("that the repository is known could not be noted: {}", error.in_full()));
        }
    }

    fn note_file(&self) -> PathBuf {
        kept(&format!("repository-{}", self.job.repository))
    }

    /// The same as the words of `backup`.
    fn making(&self, table: &DeviceTable, path: &Path) -> Making {
        Making {
            device: path.to_owned(),
            repo: self.repository.location.clone(),
            no_freeze: table.freeze == FreezePolicy::Never,
            freeze_limit: *table.freeze_limit,
            while_frozen: table.while_frozen.clone(),
            allow_store_on_device: table.allow_store_on_device,
            compression: *self.job.compression,
            merge_every: self.job.merge_every,
            // as the repository says
            parity: None,
            since: self.job.since.as_ref().map(|since| **since),
            known: false,
        }
    }

    /// Drops what no rule keeps, if it is time to; the number of points dropped. Nothing if somebody else is at it.
    fn prune(&self, device: &DeviceId) -> Result<Option<u64>> {
        let Some(policy) = self.job.policy() else { return Ok(None) };
        let stamp = kept(&format!("pruned-{}", self.name));
        let age =
            std::fs::metadata(&stamp).and_then(|meta| meta.modified()).ok().and_then(|t| t.elapsed().ok());
        if age.is_some_and(|age| age < *self.job.prune_every) {
            return Ok(None);
        }
        let repo = Repository::open(&self.repository.location)?;
        let pruned = match chain::prune(&repo, device, &policy, self.job.grace.0, false) {
            Ok(pruned) => pruned,
            Err(error) if error.kind() == Kind::Busy => return Ok(None),
            Err(error) => return Err(error.within(format!("prune after job {}", self.name)).into()),
        };
        afterwards::cover_if_free(&repo, device);
        keep(&stamp, b"")?;
        Ok(Some(pruned.plan.drop.len() as u64))
    }
}

/// Waits while another job's backup holds what this one needs: that is no failure. The daemon keeps two jobs of one device
/// apart, but on which devices a group lies is known only when its paths are looked at.
fn patiently<T>(stop: &AtomicBool, mut deed: impl FnMut() -> Result<T>) -> Result<T> {
    let (began, mut said) = (Instant::now(), false);
    loop {
        let busy = match deed() {
            Err(error) if error.downcast_ref::<Error>().is_some_and(|e| e.kind() == Kind::Busy) => error,
            other => return other,
        };
        if began.elapsed() > PATIENCE || stop.load(Ordering::Relaxed) {
            return Err(busy);
        }
        if !std::mem::replace(&mut said, true) {
            say(&format!("waits until that is free: {busy}"));
        }
        std::thread::sleep(LOOK);
    }
}

/// A file that runs of jobs keep for the next one.
fn kept(name: &str) -> PathBuf {
    Places::from_env().lib().join("daemon").join(name)
}

fn keep(file: &Path, bytes: &[u8]) -> Result<(), Error> {
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder).os_context(|| format!("make folder {}", folder.display()))?;
    }
    publish(file, bytes)
}

/// What came of it.
fn fill(report: &mut Report, m: &Manifest, why_full: Option<&String>) {
    report.result = if m.is_suspect() { "suspect".into() } else { "ok".into() };
    report.device_id = m.device.id.to_string();
    report.point = Some(m.point.to_string());
    report.kind = super::listing::kind(m.kind).to_owned();
    report.why_full = why_full.cloned();
    report.size = m.geometry.size;
    report.changed_bytes = m.totals.changed_bytes;
    report.copied_bytes = m.totals.copied_bytes;
    report.stored_bytes = m.totals.stored_bytes;
    report.freeze_ms = m.freeze_ms;
    report.consistency = super::listing::consistency(m.consistency).to_owned();
    report.suspect.clone_from(&m.suspect);
    report.notes.clone_from(&m.notes);
}

/// Somebody who looks on and holds the backup back.
impl Show for Yielding<'_, Bar> {
    fn begin(&self, what: &str, total: u64) {
        self.inner().begin(what, total);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_waits_for_another_and_for_nothing_else() {
        let stop = AtomicBool::new(false);
        let mut tries = 0;
        let third = patiently(&stop, || {
            tries += 1;
            if tries < 3 { Err(Error::new(Kind::Busy, "at work").into()) } else { Ok(tries) }
        });
        assert_eq!(third.unwrap(), 3);
        let mut tries = 0;
        let failed: Result<()> = patiently(&stop, || {
            tries += 1;
            Err(Error::new(Kind::NotFound, "gone").into())
        });
        assert!(failed.is_err() && tries == 1, "{tries}");
        stop.store(true, Ordering::Relaxed);
        let stopped: Result<()> = patiently(&stop, || Err(Error::new(Kind::Busy, "at work").into()));
        assert!(stopped.is_err());
    }
}
