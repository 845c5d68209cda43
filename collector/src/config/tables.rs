//! The tables of the configuration file: what each key is called, what it means, what it is if it is not there.
//!
//! What must stay true: every key stands in docs/CONFIG.md (a test reads it); an unknown key is an error.

use super::values::{Grace, Listen, Part, Rate, Said, Window};
use crate::block::Granularity;
use crate::chain::Policy;
use crate::format::Compression;
use crate::job::Since;
use croner::Cron;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// The whole file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `[daemon]`
    pub daemon: Daemon,
    /// `[repository.NAME]`
    pub repository: BTreeMap<String, RepositoryTable>,
    /// `[device.NAME]`
    pub device: BTreeMap<String, DeviceTable>,
    /// `[group.NAME]`
    pub group: BTreeMap<String, GroupTable>,
    /// `[job.NAME]`
    pub job: BTreeMap<String, JobTable>,
}

/// `[daemon]`: of `blkdelta daemon` only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Daemon {
    /// The control socket; `None`: `daemon.sock` in the folder of the state.
    pub socket: Option<PathBuf>,
    /// A group that may use it, besides root.
    pub socket_group: Option<String>,
    /// Where `/metrics` is served.
    pub metrics: Option<Said<Listen>>,
    /// Where the page is served.
    pub page: Option<Said<Listen>>,
    /// The token that the page asks for.
    pub page_token_file: Option<PathBuf>,
    /// Jobs at once.
    pub at_once: u32,
    /// Time from a first failure to the next try; doubled each time.
    pub retry_first: Said<Duration>,
    /// It never grows beyond this.
    pub retry_most: Said<Duration>,
}

impl Default for Daemon {
    fn default() -> Self {
        Self {
            socket: None,
            socket_group: None,
            metrics: None,
            page: None,
            page_token_file: None,
            at_once: 2,
            retry_first: Said::default_of("5s"),
            retry_most: Said::default_of("5m"),
        }
    }
}

/// `[repository.NAME]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RepositoryTable {
    /// A folder or `s3://BUCKET/PREFIX`.
    pub location: String,
    /// A private key or a write key.
    #[serde(default)]
    pub key_file: Option<PathBuf>,
    /// Its first line is the passphrase.
    #[serde(default)]
    pub passphrase_file: Option<PathBuf>,
    /// Server of S3 other than Amazon's.
    #[serde(default)]
    pub s3_endpoint: Option<String>,
    /// At most so much a second over the network.
    #[serde(default)]
    pub bandwidth: Option<Said<Rate>>,
    /// A request is tried again for so long.
    #[serde(default)]
    pub retry_for: Option<Said<Duration>>,
}

/// May file systems be frozen?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FreezePolicy {
    /// For the last pass, if it is short enough.
    #[default]
    Auto,
    /// Not at all.
    Never,
}

/// `[device.NAME]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeviceTable {
    /// Its path; better one that outlives a reboot.
    pub path: Option<PathBuf>,
    /// Or its stable id, as `blkdelta list` names it.
    pub id: Option<String>,
    /// What one bit stands for, where it is not tracked yet.
    pub granularity: Option<Said<Granularity>>,
    /// May its file systems be frozen?
    pub freeze: FreezePolicy,
    /// Not longer than this.
    pub freeze_limit: Said<Duration>,
    /// Run by the shell while they are.
    pub while_frozen: Option<String>,
    /// The repository may lie on it.
    pub allow_store_on_device: bool,
    /// Backups slow down while the system waits for I/O more of the time than this.
    pub io_pressure: Option<Said<Part>>,
    /// Backups slow down while the mean write to it takes longer than this.
    pub write_latency: Option<Said<Duration>>,
}

impl Default for DeviceTable {
    fn default() -> Self {
        Self {
            path: None,
            id: None,
            granularity: None,
            freeze: FreezePolicy::Auto,
            freeze_limit: Said::default_of("10s"),
            while_frozen: None,
            allow_store_on_device: false,
            io_pressure: None,
            write_latency: None,
        }
    }
}

/// `[group.NAME]`: a set of files.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GroupTable {
    /// Files, and folders with all below them.
    pub paths: Vec<PathBuf>,
    /// Patterns of paths.
    pub globs: Vec<String>,
    /// Patterns of paths that are left out.
    pub excludes: Vec<String>,
}

/// `[job.NAME]`: what is backed up where, when, and how long it is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JobTable {
    /// A device of this file.
    pub device: Option<String>,
    /// Or a group of it.
    pub group: Option<String>,
    /// A repository of this file.
    pub repository: String,
    /// When, as a cron expression, UTC.
    pub schedule: Option<Said<Cron>>,
    /// Or how often.
    pub every: Option<Said<Duration>>,
    /// Start up to so much later, the same for one moment every time.
    pub jitter: Option<Said<Duration>>,
    /// Start only in these parts of the day, UTC.
    pub window: Vec<Said<Window>>,
    /// Copy what changed since this point instead of the last one.
    pub since: Option<Said<Since>>,
    /// How frames are stored.
    pub compression: Said<Compression>,
    /// At most so much a second over the network; else the repository's.
    pub bandwidth: Option<Said<Rate>>,
    /// Merge a point that has more points than this below it.
    pub merge_every: Option<u32>,
    /// Keep the newest points.
    pub keep_last: u32,
    /// The newest of each hour.
    pub keep_hourly: u32,
    /// Of each day.
    pub keep_daily: u32,
    /// Of each week.
    pub keep_weekly: u32,
    /// Of each month.
    pub keep_monthly: u32,
    /// Of each year.
    pub keep_yearly: u32,
    /// Everything that is not older.
    pub keep_within: Option<Said<Duration>>,
    /// A dropped point's data stay so long.
    pub grace: Said<Grace>,
    /// Prune not more often than this.
    pub prune_every: Said<Duration>,
    /// Run by the shell before; if it fails there is no backup.
    pub pre: Option<String>,
    /// For at most so long.
    pub pre_limit: Said<Duration>,
    /// Run by the shell after, whatever happened.
    pub post: Option<String>,
    /// For at most so long.
    pub post_limit: Said<Duration>,
}

impl Default for JobTable {
    fn default() -> Self {
        Self {
            device: None,
            group: None,
            repository: String::new(),
            schedule: None,
            every: None,
            jitter: None,
            window: Vec::new(),
            since: None,
            compression: Said::default_of("1"),
            bandwidth: None,
            merge_every: None,
            keep_last: 0,
            keep_hourly: 0,
            keep_daily: 0,
            keep_weekly: 0,
            keep_monthly: 0,
            keep_yearly: 0,
            keep_within: None,
            grace: Said::default_of("1d"),
            prune_every: Said::default_of("1h"),
            pre: None,
            pre_limit: Said::default_of("1m"),
            post: None,
            post_limit: Said::default_of("1m"),
        }
    }
}

impl JobTable {
    /// What is kept; `None`: everything.
    pub fn policy(&self) -> Option<Policy> {
        let policy = Policy {
            last: self.keep_last,
            hourly: self.keep_hourly,
            daily: self.keep_daily,
            weekly: self.keep_weekly,
            monthly: self.keep_monthly,
            yearly: self.keep_yearly,
            within: self.keep_within.as_ref().map(|t| **t),
        };
        policy.check().is_ok().then_some(policy)
    }

    /// In words, when it runs.
    pub fn when(&self) -> String {
        match (&self.schedule, &self.every) {
            (Some(cron), _) => format!("cron {}", cron.text()),
            (_, Some(every)) => format!("every {}", every.text()),
            _ => "when asked".into(),
        }
    }
}
